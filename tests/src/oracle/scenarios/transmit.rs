//! From the send queue to a connection (semantics D14–D23).

use super::prelude::*;
use super::scenarios;
use crate::oracle::signal;
use std::io::Read;

scenarios! {
    single_messages_go_round_the_connections ["D14"];
    a_socket_keeps_its_connection_while_it_has_messages ["D14" "D15"];
    a_peer_that_stopped_reading_and_the_other_sockets ["D15"];
    a_peer_that_stopped_reading_and_the_same_socket ["D15"];
    messages_of_which_nothing_is_out_and_a_free_connection ["D15"]
        "A peer stopped reading; a second connection is free";
    a_socket_with_megabytes_and_one_that_waits ["D15"];
    a_peer_that_reads_again ["D15" "D17"];
    messages_of_two_sockets_do_not_mix ["D16"];
    a_message_larger_than_tcp_takes ["D17"];
    a_dead_connection_is_skipped ["D18"];
    a_message_without_a_connection_left_waits ["D18"];
    messages_that_a_closing_peer_never_read ["D19"];
    a_signal_for_the_sender ["D20"] "Sending (MSG_NOSIGNAL) on a connection whose peer is gone";
    a_sender_with_default_signals ["D20"];
    a_connection_that_may_not_send_still_receives ["D21" "A43"];
    the_death_of_a_connection_is_silent_on_its_sockets ["D22"];
    a_parser_that_answers_eagain ["D23"];
}

/// What each peer gets, by number.
fn say_peers(t: &T, peers: &[&TcpStream]) {
    for (i, peer) in peers.iter().enumerate() {
        let (bytes, _) = t.peer_all(peer);
        say!(t, "peer {i} gets {:?}", String::from_utf8_lossy(&bytes));
    }
}

fn single_messages_go_round_the_connections(t: &T) {
    let k = t.dgram();
    let conns: Vec<_> = (0..3).map(|_| t.connected(k)).collect();
    for tag in b'0'..b'7' {
        if let Err(e) = t.send(k, &[tag]) {
            say!(t, "send: {e}");
        }
    }
    say_peers(t, &conns.iter().map(|c| &c.1).collect::<Vec<_>>());
}

fn a_socket_keeps_its_connection_while_it_has_messages(t: &T) {
    let k = t.dgram();
    let k2 = t.clone_of(k);
    let (a, peer) = t.pair_with(TIGHT);
    let _c = t.attach(k, a, &Parser::Len4);
    for _ in 0..3 {
        say!(t, "first socket: {}", count(&t.send(k, &vec![b'k'; 20_000])));
    }
    say!(t, "second socket: {}", count(&t.send(k2, b"2222")));
    say!(t, "first socket: {}", count(&t.send(k, &[b'k'; 100])));
    let mut got = Vec::new();
    t.within_a_second(|| {
        got.extend(t.peer_all(&peer).0);
        got.len() >= 60_104
    });
    say!(t, "peer gets {}", runs(&got));
}

/// Two connections, the first of which has a peer that does not read.
fn stuck(t: &T) -> (super::super::backend::Sock, TcpStream, TcpStream) {
    let k = t.dgram();
    let (a, stuck) = t.pair_with(TIGHT);
    let _c = t.attach(k, a, &Parser::Len4);
    let (_c2, peer) = t.connected(k);
    say!(t, "send of 400000 bytes: {}", count(&t.send(k, &vec![b'k'; 400_000])));
    t.quiet();
    (k, stuck, peer)
}

fn a_peer_that_stopped_reading_and_the_other_sockets(t: &T) {
    let (k, _stuck, peer) = stuck(t);
    let k2 = t.clone_of(k);
    for _ in 0..3 {
        say!(t, "another socket sends: {}", count(&t.send(k2, b"hello")));
    }
    t.say_peer("the good peer", &peer);
}

fn a_peer_that_stopped_reading_and_the_same_socket(t: &T) {
    let k = t.dgram();
    t.set(k, Opt::SendBuffer, 1_000_000);
    let (a, _stuck) = t.pair_with(TIGHT);
    let _c = t.attach(k, a, &Parser::Len4);
    let (_c2, peer) = t.connected(k);
    say!(t, "send of 400000 bytes: {}", count(&t.send(k, &vec![b'k'; 400_000])));
    t.quiet();
    for m in ["one", "two"] {
        say!(t, "the same socket sends: {}", count(&t.send(k, m.as_bytes())));
    }
    t.say_peer("the good peer", &peer);
}

/// Unsent messages of the first KCM socket, as the table has them.
fn unsent(t: &T, k: super::super::backend::Sock) -> usize {
    let lines = super::super::text::kcm_lines(&t.back().kcm_text(k));
    let line = lines.iter().find(|l| l.0 == "kcm-0").map_or("", |l| &l.1);
    let n = line.split_once("send-q ").and_then(|(_, n)| n.split_whitespace().next());
    n.and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn messages_of_which_nothing_is_out_and_a_free_connection(t: &T) {
    let k = t.dgram();
    let (a, stuck) = t.pair_with(TIGHT);
    let _c = t.attach(k, a, &Parser::Len4);
    // Messages of one byte are out or not, never in part.
    let mut sent = 0;
    while unsent(t, k) == 0 && sent < 1 << 17 {
        for _ in 0..2048 {
            sent += t.send(k, b"x").unwrap_or(0);
        }
        t.quiet();
    }
    let waiting = unsent(t, k);
    say!(t, "messages wait: {}", waiting > 0);
    let (_c2, free) = t.connected(k);
    let mut bytes = Vec::new();
    t.within_a_second(|| {
        bytes.extend(t.peer_all(&free).0);
        bytes.len() >= waiting
    });
    say!(t, "the free connection takes them: {}", bytes.len() == waiting);
    let (rest, _) = t.peer_all(&stuck);
    say!(t, "both peers together get all, once: {}", bytes.len() + rest.len() == sent);
    t.summary(if bytes.is_empty() {
        "the waiting messages stay behind the one that does not read"
    } else {
        "the waiting messages leave on the free one"
    });
}

fn a_socket_with_megabytes_and_one_that_waits(t: &T) {
    let k = t.dgram();
    let k2 = t.clone_of(k);
    t.set(k, Opt::SendBuffer, 4_000_000);
    for _ in 0..30 {
        if let Err(e) = t.send(k, &vec![b'k'; 100_000]) {
            say!(t, "send: {e}");
        }
    }
    say!(t, "the second socket sends: {}", count(&t.send(k2, b"2222")));
    let (_c, peer) = t.connected(k);
    let mut got = Vec::new();
    t.within_a_second(|| {
        got.extend(t.peer_all(&peer).0);
        got.len() >= 3_000_004
    });
    let at = got.iter().position(|b| *b == b'2').unwrap_or(got.len());
    say!(t, "the peer gets it behind everything: {}", at == 3_000_000);
    // Turns end with a message; how much was written by then is not to the byte.
    say!(t, "behind one to two megabytes: {}", (1_000_000..2_000_000).contains(&at));
    say!(t, "all {} bytes, messages whole: {}", got.len(), at % 100_000 == 0);
}

fn a_peer_that_reads_again(t: &T) {
    let (_k, stuck, peer) = stuck(t);
    let mut got = Vec::new();
    t.within_a_second(|| {
        got.extend(t.peer_all(&stuck).0);
        got.len() >= 400_000
    });
    say!(t, "it gets {}", runs(&got));
    t.say_peer("the other", &peer);
}

fn messages_of_two_sockets_do_not_mix(t: &T) {
    let k = t.dgram();
    let k2 = t.clone_of(k);
    let (a, peer) = t.pair_with(TIGHT);
    let _c = t.attach(k, a, &Parser::Len4);
    let mut got = Vec::new();
    std::thread::scope(|s| {
        for (sock, fill) in [(k, b'a'), (k2, b'b')] {
            s.spawn(move || {
                for _ in 0..10 {
                    let _ = t.send_with(sock, &vec![fill; 10_000], WAIT);
                }
            });
        }
        t.within_a_second(|| {
            got.extend(t.peer_all(&peer).0);
            got.len() >= 200_000
        });
    });
    let whole = got.chunks(10_000).all(|m| m.len() == 10_000 && m.iter().all(|b| *b == m[0]));
    say!(t, "{} bytes, every message whole: {whole}", got.len());
}

fn a_message_larger_than_tcp_takes(t: &T) {
    let k = t.dgram();
    let (a, peer) = t.pair_with(TIGHT);
    let _c = t.attach(k, a, &Parser::Len4);
    say!(t, "send: {}", count(&t.send(k, &vec![b'x'; 150_000])));
    let mut got = Vec::new();
    t.within_a_second(|| {
        got.extend(t.peer_all(&peer).0);
        got.len() >= 150_000
    });
    say!(t, "peer gets {}", runs(&got));
}

fn a_dead_connection_is_skipped(t: &T) {
    signal::count_sigpipe();
    let k = t.dgram();
    let (c1, dead) = t.connected(k);
    let (_c2, peer) = t.connected(k);
    reset(dead);
    t.quiet();
    for tag in b'0'..b'4' {
        say!(t, "send: {}", count(&t.send(k, &[tag])));
    }
    let (bytes, _) = t.peer_all(&peer);
    say!(t, "the other peer gets {}", String::from_utf8_lossy(&bytes));
    say!(t, "dead one's error: {}", t.error(c1));
    say!(t, "the socket's error: {:?}", t.back().socket_error(k));
}

fn a_message_without_a_connection_left_waits(t: &T) {
    signal::count_sigpipe();
    let k = t.dgram();
    let (_c1, dead) = t.connected(k);
    reset(dead);
    t.quiet();
    for tag in b'0'..b'3' {
        say!(t, "send: {}", count(&t.send(k, &[tag])));
    }
    t.say_table(k, &["kcm-0"]);
    let (_c2, peer) = t.connected(k);
    let (bytes, _) = t.peer_all(&peer);
    say!(t, "a new connection's peer gets {}", String::from_utf8_lossy(&bytes));
}

fn messages_that_a_closing_peer_never_read(t: &T) {
    signal::count_sigpipe();
    let k = t.dgram();
    let (c, mut peer) = t.connected(k);
    // A peer that closes with unread bytes answers with a reset.
    say!(t, "send: {}", count(&t.send(k, b"lost")));
    t.quiet();
    let mut one = [0; 1];
    peer.read_exact(&mut one).expect("read");
    drop(peer);
    say!(t, "error: {}", t.error(c));
    let (_c2, peer2) = t.connected(k);
    say!(t, "send: {}", count(&t.send(k, b"next")));
    let (bytes, _) = t.peer_all(&peer2);
    say!(t, "the next peer gets {:?}", String::from_utf8_lossy(&bytes));
}

fn a_signal_for_the_sender(t: &T) {
    signal::count_sigpipe();
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    reset(peer);
    t.quiet();
    let r = count(&t.send(k, b"hello"));
    t.quiet();
    say!(t, "send: {r}; SIGPIPE: {}", signal::sigpipes());
    t.summary(if signal::sigpipes() > 0 {
        format!("send returns {r}, and SIGPIPE arrives, which ends a program by default")
    } else {
        format!("send returns {r}, no signal")
    });
}

fn a_sender_with_default_signals(t: &T) {
    signal::die_of_sigpipe();
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    reset(peer);
    t.quiet();
    say!(t, "send: {}", count(&t.send(k, b"hello")));
    t.quiet();
    say!(t, "still alive");
}

fn a_connection_that_may_not_send_still_receives(t: &T) {
    let k = t.dgram();
    let k2 = t.clone_of(k);
    let (a, peer) = t.pair_with(TIGHT);
    let _c = t.attach(k, a, &Parser::Len4);
    say!(t, "send of 400000 bytes: {}", count(&t.send(k, &vec![b'k'; 400_000])));
    t.quiet();
    t.back().close(k);
    t.put(&peer, &msg(b'A', 20));
    t.say_recv(k2);
}

fn the_death_of_a_connection_is_silent_on_its_sockets(t: &T) {
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    reset(peer);
    t.quiet();
    say!(t, "poll says {}", ready(t.back().ready(k)));
    say!(t, "the socket's error: {:?}", t.back().socket_error(k));
    t.say_recv_now(k);
}

fn a_parser_that_answers_eagain(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.attached(k, &Parser::Const(-11));
    t.put(&peer, b"hello");
    say!(t, "send: {}", count(&t.send(k, b"one")));
    t.quiet();
    say!(t, "send: {}", count(&t.send(k, b"two")));
    t.quiet();
    t.say_peer("peer", &peer);
    t.say_table(k, &["kcm-0", "psock-0"]);
    let (_c2, peer2) = t.connected(k);
    say!(t, "send after a good connection came: {}", count(&t.send(k, b"three")));
    let (bytes, _) = t.peer_all(&peer2);
    say!(t, "its peer gets {:?}", String::from_utf8_lossy(&bytes));
    let _ = c;
}
