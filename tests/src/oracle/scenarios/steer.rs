//! Which KCM socket a message goes to (semantics C1–C17).

use super::prelude::*;
use super::scenarios;
use crate::oracle::backend::Sock;
use std::io::Write;

scenarios! {
    single_messages_go_round_the_sockets ["C1" "C2"];
    messages_of_one_arrival_stay_together ["C1" "C2"];
    rotation_does_not_care_how_much_is_unread ["C2"];
    one_large_message_fits_into_a_small_buffer ["C4"];
    an_arrival_that_overfills_a_socket_goes_on_with_the_next ["C5" "C4"];
    a_full_socket_takes_messages_again ["C6"];
    low_water_lets_a_full_socket_take_messages_again ["C6"];
    a_larger_buffer_for_a_full_socket ["C6"];
    a_socket_that_was_never_full_needs_no_draining ["C7"];
    nobody_reads_and_nothing_is_lost ["C8" "C9"];
    parked_connections_are_relieved_in_turn ["C9" "C10" "C11"];
    a_disabled_socket_gives_its_messages_to_another ["C12"];
    a_disabled_socket_gets_nothing_new ["C12"];
    a_disabled_socket_still_sends ["C12"];
    disabling_is_a_switch ["C12" "G1"];
    held_messages_come_before_new_ones ["C13"];
    messages_moved_to_a_socket_that_has_some ["C14"];
    all_sockets_disabled ["C15" "C8"];
    a_partly_read_message_and_a_move ["C16" "E4"];
    a_peeked_message_moves ["C12" "E5"];
    two_readers_of_one_socket_get_one_message_each ["C17"];
    order_within_one_socket_is_order_of_arrival ["C14"];
}

fn say_sockets(t: &T, list: &[Sock]) {
    for (i, k) in list.iter().enumerate() {
        say!(t, "socket {i} gets {}", t.tags(*k));
    }
}

fn three(t: &T) -> [Sock; 3] {
    let k = t.dgram();
    [k, t.clone_of(k), t.clone_of(k)]
}

fn single_messages_go_round_the_sockets(t: &T) {
    let ks = three(t);
    let (_c, peer) = t.connected(ks[0]);
    for tag in *b"012345678" {
        t.put(&peer, &msg(tag, 20));
    }
    say_sockets(t, &ks);
}

fn messages_of_one_arrival_stay_together(t: &T) {
    let ks = three(t);
    let (_c, peer) = t.connected(ks[0]);
    for tag in [b'a', b'd', b'g', b'j'] {
        t.put(&peer, &msgs(&[(tag, 20), (tag + 1, 20), (tag + 2, 20)]));
    }
    say_sockets(t, &ks);
}

fn rotation_does_not_care_how_much_is_unread(t: &T) {
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    for tag in b'0'..b'4' {
        t.put(&peer, &msg(tag, 20));
    }
    let k2 = t.clone_of(k);
    for tag in b'4'..b'8' {
        t.put(&peer, &msg(tag, 20));
    }
    say_sockets(t, &[k, k2]);
}

fn one_large_message_fits_into_a_small_buffer(t: &T) {
    let k = t.dgram();
    t.back().hold_two(k).expect("buffer");
    let (_c, mut peer) = t.connected(k);
    peer.write_all(&msg(b'A', 60_000)).expect("write");
    t.say_recv(k);
}

fn an_arrival_that_overfills_a_socket_goes_on_with_the_next(t: &T) {
    let k = t.dgram();
    let k2 = t.clone_of(k);
    for s in [k, k2] {
        t.back().hold_two(s).expect("buffer");
    }
    let (_c, peer) = t.connected(k);
    // Each message in a write of its own, so that the kernel counts memory alike.
    for tag in b'0'..b'5' {
        t.put(&peer, &msg(tag, 20));
    }
    t.say_table(k, &["kcm-0", "kcm-1", "psock-0"]);
    say!(t, "first socket: {}", peeked(t, k));
    say!(t, "second socket: {}", peeked(t, k2));
}

fn peeked(t: &T, k: Sock) -> String {
    let g = t.back().recv(k, 64, PEEK);
    g.map_or_else(|e| e.to_string(), |g| tags(&[g]))
}

/// A socket that two messages fill, and six messages on their way to it.
fn full(t: &T) -> (Sock, TcpStream) {
    let k = t.dgram();
    t.back().hold_two(k).expect("buffer");
    let (_c, peer) = t.connected(k);
    for tag in b'0'..b'6' {
        t.put(&peer, &msg(tag, 20));
    }
    (k, peer)
}

fn queue_length(t: &T, k: Sock) {
    t.quiet();
    t.say_table(k, &["kcm-0"]);
}

fn a_full_socket_takes_messages_again(t: &T) {
    let (k, _peer) = full(t);
    queue_length(t, k);
    say!(t, "one is read: {}", outcome(&t.recv(k)));
    queue_length(t, k);
    say!(t, "all are read: {}", t.tags(k));
}

fn low_water_lets_a_full_socket_take_messages_again(t: &T) {
    let k = t.dgram();
    t.back().hold_two(k).expect("buffer");
    // Above what one message counts and below what two count, in both ways of counting.
    let limit = t.back().get(k, Opt::RecvBuffer).unwrap_or(0);
    t.set(k, Opt::RecvLowWater, limit * 9 / 10);
    let (_c, peer) = t.connected(k);
    for tag in b'0'..b'6' {
        t.put(&peer, &msg(tag, 20));
    }
    queue_length(t, k);
    say!(t, "one is read: {}", outcome(&t.recv(k)));
    queue_length(t, k);
    say!(t, "all are read: {}", t.tags(k));
}

fn a_larger_buffer_for_a_full_socket(t: &T) {
    let (k, _peer) = full(t);
    queue_length(t, k);
    t.set(k, Opt::RecvBuffer, 100_000);
    queue_length(t, k);
    say!(t, "all are read: {}", t.tags(k));
}

fn a_socket_that_was_never_full_needs_no_draining(t: &T) {
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    for tag in b'0'..b'5' {
        t.put(&peer, &msg(tag, 20));
    }
    queue_length(t, k);
}

fn nobody_reads_and_nothing_is_lost(t: &T) {
    let k = t.dgram();
    t.back().hold_two(k).expect("buffer");
    let (a, mut peer) = t.pair_with(Buffers { recv: 8192, send: 0 });
    let c = t.attach(k, a, &Parser::Const(1000));
    peer.set_write_timeout(Some(std::time::Duration::from_millis(100))).expect("SO_SNDTIMEO");
    // Each message carries its number; the last one may be written in part.
    let (mut written, mut count) = (0usize, 0u32);
    while count < 8000 {
        let mut m = vec![b'm'; 1000];
        m[..4].copy_from_slice(&count.to_be_bytes());
        let mut at = 0;
        while at < m.len() {
            match peer.write(&m[at..]) {
                Ok(n) => at += n,
                Err(_) => break,
            }
        }
        written += at;
        if at < m.len() {
            break;
        }
        count += 1;
    }
    say!(t, "the peer's writes stop: {}", count < 8000);
    let (mut next, mut in_order) = (0u32, true);
    while t.within_a_second(|| t.back().ready(k).readable || next == count) && next < count {
        if let Ok(g) = t.recv(k) {
            in_order &= g.bytes.first_chunk::<4>() == Some(&next.to_be_bytes());
            next += 1;
        }
    }
    say!(t, "all that was written whole arrives: {}, in order: {in_order}", next == count);
    say!(t, "nothing else: {}", outcome(&t.recv(k)));
    say!(t, "error: {}", t.error_now(c));
    let _ = written;
}

fn parked_connections_are_relieved_in_turn(t: &T) {
    let k = t.dgram();
    t.back().hold_two(k).expect("buffer");
    let conns: Vec<_> = (0..3).map(|_| t.connected(k)).collect();
    for round in b'0'..b'4' {
        for (i, (_, peer)) in conns.iter().enumerate() {
            let mut m = msg(b'a' + i as u8, 20);
            m[5] = round;
            t.put(peer, &m);
        }
    }
    let got = t.drain(k);
    let names: Vec<String> =
        got.iter().map(|g| String::from_utf8_lossy(&g.bytes[4..6]).into_owned()).collect();
    // Later rounds may show two in a row from one connection: the first two are in turn.
    say!(t, "first six: {}", names.iter().take(6).cloned().collect::<Vec<_>>().join(" "));
    let mut sorted = names.clone();
    sorted.sort();
    say!(t, "all: {}", sorted.join(" "));
    let in_order = (0..3).all(|i| {
        let of: Vec<&String> =
            names.iter().filter(|n| n.starts_with(char::from(b'a' + i))).collect();
        of.windows(2).all(|w| w[0] < w[1])
    });
    say!(t, "order per connection: {in_order}");
}

fn a_disabled_socket_gives_its_messages_to_another(t: &T) {
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    for tag in b'0'..b'5' {
        t.put(&peer, &msg(tag, 20));
    }
    let (k2, k3) = (t.clone_of(k), t.clone_of(k));
    t.set(k, Opt::RecvDisabled, 1);
    t.quiet();
    say_sockets(t, &[k, k2, k3]);
}

fn a_disabled_socket_gets_nothing_new(t: &T) {
    let ks = three(t);
    let (_c, peer) = t.connected(ks[0]);
    t.set(ks[1], Opt::RecvDisabled, 1);
    for tag in b'0'..b'4' {
        t.put(&peer, &msg(tag, 20));
    }
    say_sockets(t, &ks);
    t.set(ks[1], Opt::RecvDisabled, 0);
    for tag in b'4'..b'8' {
        t.put(&peer, &msg(tag, 20));
    }
    say_sockets(t, &ks);
}

fn a_disabled_socket_still_sends(t: &T) {
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    t.set(k, Opt::RecvDisabled, 1);
    say!(t, "send: {}", count(&t.send(k, b"hello")));
    t.say_peer("peer", &peer);
}

fn disabling_is_a_switch(t: &T) {
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    for v in [5, 1, 0, 0, -1] {
        let r = okay(&t.back().set(k, Opt::RecvDisabled, v));
        say!(t, "set {v}: {r}, get {:?}", t.back().get(k, Opt::RecvDisabled));
    }
    t.put(&peer, &msg(b'A', 20));
    t.say_recv_now(k);
    t.set(k, Opt::RecvDisabled, 0);
    t.say_recv(k);
}

fn held_messages_come_before_new_ones(t: &T) {
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    for tag in b'0'..b'3' {
        t.put(&peer, &msg(tag, 20));
    }
    t.set(k, Opt::RecvDisabled, 1); // these three are held
    for tag in b'3'..b'6' {
        t.put(&peer, &msg(tag, 20)); // and these wait on the connection
    }
    t.set(k, Opt::RecvDisabled, 0);
    t.put(&peer, &msg(b'6', 20));
    say!(t, "gets {}", t.tags(k));
}

fn messages_moved_to_a_socket_that_has_some(t: &T) {
    let k = t.dgram();
    let k2 = t.clone_of(k);
    let (_c, peer) = t.connected(k);
    for tag in b'0'..b'4' {
        t.put(&peer, &msg(tag, 20));
    }
    t.set(k, Opt::RecvDisabled, 1);
    t.quiet();
    say!(t, "the other gets {}", t.tags(k2));
}

fn all_sockets_disabled(t: &T) {
    let k = t.dgram();
    let k2 = t.clone_of(k);
    let (_c, peer) = t.connected(k);
    t.set(k, Opt::RecvDisabled, 1);
    t.set(k2, Opt::RecvDisabled, 1);
    for tag in b'0'..b'4' {
        t.put(&peer, &msg(tag, 20));
    }
    say_sockets(t, &[k, k2]);
    t.set(k2, Opt::RecvDisabled, 0);
    t.quiet();
    say_sockets(t, &[k, k2]);
}

fn a_partly_read_message_and_a_move(t: &T) {
    let k = t.socket(Type::Seqpacket);
    let (_c, peer) = t.connected(k);
    t.put(&peer, &msg(b'A', 20));
    say!(t, "8 bytes: {}", outcome(&t.back().recv(k, 8, RecvFlags::default())));
    let k2 = t.clone_of(k);
    t.set(k, Opt::RecvDisabled, 1);
    t.quiet();
    say!(t, "the other: {}", outcome(&t.recv(k2)));
    say!(t, "the reader: {}", outcome(&t.recv(k)));
}

fn a_peeked_message_moves(t: &T) {
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    t.put(&peer, &msg(b'A', 20));
    say!(t, "peek: {}", outcome(&t.back().recv(k, 64, PEEK)));
    let k2 = t.clone_of(k);
    t.set(k, Opt::RecvDisabled, 1);
    t.quiet();
    say!(t, "the other: {}", outcome(&t.recv(k2)));
}

fn two_readers_of_one_socket_get_one_message_each(t: &T) {
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    let mut got: Vec<String> = std::thread::scope(|s| {
        let read = || t.back().recv(k, 64, BLOCK).map_or_else(|e| e.to_string(), |g| tags(&[g]));
        let readers = [s.spawn(read), s.spawn(read)];
        t.quiet();
        t.put(&peer, &msg(b'0', 20));
        t.put(&peer, &msg(b'1', 20));
        readers.into_iter().map(|r| r.join().expect("reader")).collect()
    });
    got.sort();
    say!(t, "together: {}", got.join(" "));
    t.say_recv_now(k);
}

fn order_within_one_socket_is_order_of_arrival(t: &T) {
    let k = t.dgram();
    let (_c1, p1) = t.connected(k);
    let (_c2, p2) = t.connected(k);
    for (p, tag) in [(&p1, b'a'), (&p2, b'A'), (&p2, b'B'), (&p1, b'b'), (&p1, b'c'), (&p2, b'C')] {
        t.put(p, &msg(tag, 20));
    }
    say!(t, "gets {}", t.tags(k));
}
