//! Building messages and the send buffer (semantics D1–D13).

use super::prelude::*;
use super::scenarios;
use std::time::{Duration, Instant};

scenarios! {
    a_datagram_ends_with_the_call ["D1"];
    a_datagram_stays_open_with_more ["D1"];
    a_seqpacket_message_ends_with_eor ["D2"];
    writing_ends_a_message_of_either_type ["D2"];
    a_zero_length_send_with_nothing_open ["D3"];
    a_zero_length_send_ends_an_open_message ["D3"];
    a_zero_length_send_when_the_buffer_is_full ["D3" "D10"];
    an_open_message_belongs_to_the_socket ["D4"];
    a_non_blocking_send_behind_a_blocked_one ["D5"]
        "A non-blocking send while another thread's send waits";
    the_send_buffer_counts_payload ["D9"];
    one_message_is_taken_whole_whatever_its_size ["D9"];
    a_full_send_buffer_without_waiting ["D10"];
    a_send_timeout ["D10"];
    sending_without_a_connection ["D11"];
    a_blocked_sender_is_woken_by_attach ["D11"];
    writable_while_the_send_buffer_is_full ["D12"]
        "Is a socket writable whose next send says EAGAIN?";
    a_batched_message_waits_for_the_next ["D13"];
    a_zero_length_send_pushes_a_batch ["D13" "D3"];
    many_messages_by_one_call ["D13" "D14"];
    a_batch_that_is_never_followed_up ["D13"];
}

/// A datagram socket with one connection, and the peer.
fn line(t: &T, ty: Type) -> (super::super::backend::Sock, TcpStream) {
    let k = t.socket(ty);
    let (_c, peer) = t.connected(k);
    (k, peer)
}

fn a_datagram_ends_with_the_call(t: &T) {
    let (k, peer) = line(t, Type::Dgram);
    say!(t, "send: {}", count(&t.send(k, b"abc")));
    t.say_peer("peer", &peer);
    say!(t, "send with EOR: {}", count(&t.send_with(k, b"abc", EOR)));
    t.say_peer("peer", &peer);
}

fn a_datagram_stays_open_with_more(t: &T) {
    let (k, peer) = line(t, Type::Dgram);
    say!(t, "send with MORE: {}", count(&t.send_with(k, b"abc", MORE)));
    t.say_peer("peer", &peer);
    say!(t, "send with EOR and MORE: {}", count(&t.send_with(k, b"def", EOR_MORE)));
    t.say_peer("peer", &peer);
    say!(t, "send: {}", count(&t.send(k, b"ghi")));
    t.say_peer("peer", &peer);
    t.say_table(k, &["kcm-0"]);
}

fn a_seqpacket_message_ends_with_eor(t: &T) {
    let (k, peer) = line(t, Type::Seqpacket);
    say!(t, "send: {}", count(&t.send(k, b"abc")));
    t.say_peer("peer", &peer);
    say!(t, "send with EOR: {}", count(&t.send_with(k, b"def", EOR)));
    t.say_peer("peer", &peer);
    say!(t, "send with EOR and MORE: {}", count(&t.send_with(k, b"hi", EOR_MORE)));
    t.say_peer("peer", &peer);
    t.say_table(k, &["kcm-0"]);
}

fn writing_ends_a_message_of_either_type(t: &T) {
    for ty in TYPES {
        let (k, peer) = line(t, ty);
        say!(t, "{}: write: {}", ty.name(), count(&t.back().write(k, b"defg")));
        t.say_peer("peer", &peer);
    }
}

fn a_zero_length_send_with_nothing_open(t: &T) {
    for ty in TYPES {
        let (k, peer) = line(t, ty);
        say!(t, "{}: send: {}", ty.name(), count(&t.send(k, b"")));
        say!(t, "with EOR: {}", count(&t.send_with(k, b"", EOR)));
        say!(t, "with MORE: {}", count(&t.send_with(k, b"", MORE)));
        t.say_peer("peer", &peer);
        t.say_table(k, &["kcm-0", "psock-0"]);
    }
}

fn a_zero_length_send_ends_an_open_message(t: &T) {
    for ty in TYPES {
        let (k, peer) = line(t, ty);
        say!(t, "{}: send with MORE: {}", ty.name(), count(&t.send_with(k, b"abc", MORE)));
        t.say_peer("peer", &peer);
        say!(t, "send of nothing with EOR: {}", count(&t.send_with(k, b"", EOR)));
        t.say_peer("peer", &peer);
    }
}

fn a_zero_length_send_when_the_buffer_is_full(t: &T) {
    let k = t.dgram();
    say!(t, "send of 300000 bytes: {}", count(&t.send(k, &[0; 300_000])));
    say!(t, "send of nothing: {}", count(&t.send(k, b"")));
}

fn an_open_message_belongs_to_the_socket(t: &T) {
    let (k, peer) = line(t, Type::Dgram);
    std::thread::scope(|s| {
        let first = s.spawn(|| t.send_with(k, b"abc", MORE));
        say!(t, "one thread with MORE: {}", count(&first.join().expect("sender")));
        let second = s.spawn(|| t.send(k, b"XYZ"));
        say!(t, "another without: {}", count(&second.join().expect("sender")));
    });
    let (bytes, _) = t.peer_all(&peer);
    say!(t, "peer gets {}", String::from_utf8_lossy(&bytes));
}

fn a_non_blocking_send_behind_a_blocked_one(t: &T) {
    let k = t.dgram();
    say!(t, "send of 300000 bytes: {}", count(&t.send(k, &[0; 300_000])));
    // The two senders end with the process, if nothing else ends them.
    let outcome = std::sync::Arc::new(std::sync::Mutex::new(None));
    std::thread::scope(|s| {
        s.spawn(|| t.send_with(k, b"waits", WAIT));
        t.pause(100);
        let start = Instant::now();
        let seen = outcome.clone();
        s.spawn(move || {
            let r = t.send(k, b"does not");
            *seen.lock().expect("outcome") = Some(count(&r));
        });
        let soon = Duration::from_millis(500);
        while start.elapsed() < soon && outcome.lock().expect("outcome").is_none() {
            t.pause(2);
        }
        let seen = outcome.lock().expect("outcome").clone();
        match &seen {
            Some(r) => say!(t, "the non-blocking send returns: {r}"),
            None => say!(t, "the non-blocking send blocks"),
        }
        t.summary(match &seen {
            Some(r) => format!("returns at once: {r}"),
            None => "blocks, as long as the other one waits".into(),
        });
        // A connection makes room: both end.
        let (_c, peer) = t.connected(k);
        t.peer_all(&peer);
    });
}

fn the_send_buffer_counts_payload(t: &T) {
    let k = t.dgram();
    t.set(k, Opt::SendBuffer, 5000);
    let limit = t.back().get(k, Opt::SendBuffer).unwrap_or(0) as usize;
    let (mut n, mut bytes) = (0, 0);
    let last = loop {
        match t.send(k, &[b'x'; 20]) {
            Ok(b) => {
                n += 1;
                bytes += b;
            }
            Err(e) => break e,
        }
        if n > 100_000 {
            return say!(t, "no end");
        }
    };
    // Taken while the bytes in the queue are fewer than the limit.
    say!(
        t,
        "messages of 20 bytes: as many as reach the limit: {}",
        bytes >= limit && bytes < limit + 20
    );
    say!(t, "then {last}");
}

fn one_message_is_taken_whole_whatever_its_size(t: &T) {
    let k = t.dgram();
    say!(t, "send of 8 MiB: {}", count(&t.send(k, &vec![b'x'; 8 << 20])));
    say!(t, "then: {}", count(&t.send(k, b"more")));
    let (_c, peer) = t.connected(k);
    let mut n = 0;
    t.within_a_second(|| {
        n += t.peer_all(&peer).0.len();
        n >= 8 << 20
    });
    say!(t, "peer gets {n} bytes");
}

fn a_full_send_buffer_without_waiting(t: &T) {
    let k = t.dgram();
    say!(t, "send of 300000 bytes: {}", count(&t.send(k, &[0; 300_000])));
    say!(t, "then: {}", count(&t.send(k, b"more")));
    let k2 = t.clone_of(k);
    say!(t, "another socket: {}", count(&t.send(k2, b"more")));
}

fn a_send_timeout(t: &T) {
    let k = t.dgram();
    t.set(k, Opt::SendTimeout, 150);
    say!(t, "send of 300000 bytes: {}", count(&t.send_with(k, &[0; 300_000], WAIT)));
    let start = Instant::now();
    let r = t.send_with(k, b"more", WAIT);
    say!(
        t,
        "then: {}, after the timeout: {}",
        count(&r),
        start.elapsed() > Duration::from_millis(140)
    );
}

fn sending_without_a_connection(t: &T) {
    let k = t.dgram();
    for m in ["one ", "two ", "three"] {
        say!(t, "send: {}", count(&t.send(k, m.as_bytes())));
    }
    t.say_table(k, &["kcm-0"]);
    let (_c, peer) = t.connected(k);
    let (bytes, _) = t.peer_all(&peer);
    say!(t, "peer gets {}", String::from_utf8_lossy(&bytes));
    t.say_table(k, &["kcm-0"]);
}

fn a_blocked_sender_is_woken_by_attach(t: &T) {
    let k = t.dgram();
    say!(t, "send of 300000 bytes: {}", count(&t.send(k, &[b'x'; 300_000])));
    std::thread::scope(|s| {
        let blocked = s.spawn(|| t.send_with(k, b"tail", WAIT));
        t.pause(60);
        say!(t, "waits: {}", !blocked.is_finished());
        let (_c, peer) = t.connected(k);
        let mut got = Vec::new();
        t.within_a_second(|| {
            got.extend(t.peer_all(&peer).0);
            got.len() >= 300_004
        });
        say!(t, "peer gets {}", runs(&got));
        say!(t, "the sender: {}", count(&blocked.join().expect("sender")));
    });
}

fn writable_while_the_send_buffer_is_full(t: &T) {
    let k = t.dgram();
    say!(t, "send of 300000 bytes: {}", count(&t.send(k, &[0; 300_000])));
    let says = ready(t.back().ready(k));
    say!(t, "poll says {says}");
    let r = count(&t.send(k, b"more"));
    say!(t, "send: {r}");
    t.summary(format!("poll says {says}, send says {r}"));
    let (_c, peer) = t.connected(k);
    t.peer_all(&peer);
    t.within_a_second(|| t.back().ready(k).writable);
    say!(t, "sent: poll says {}", ready(t.back().ready(k)));
}

fn a_batched_message_waits_for_the_next(t: &T) {
    let (k, peer) = line(t, Type::Dgram);
    for m in [b"one", b"two"] {
        say!(t, "send with BATCH: {}", count(&t.send_with(k, m, BATCH)));
    }
    t.say_peer("peer", &peer);
    t.say_table(k, &["kcm-0"]);
    say!(t, "send: {}", count(&t.send(k, b"end")));
    let (bytes, _) = t.peer_all(&peer);
    say!(t, "peer gets {}", String::from_utf8_lossy(&bytes));
}

fn a_zero_length_send_pushes_a_batch(t: &T) {
    let (k, peer) = line(t, Type::Dgram);
    say!(t, "send with BATCH: {}", count(&t.send_with(k, b"one", BATCH)));
    t.say_peer("peer", &peer);
    say!(t, "send of nothing: {}", count(&t.send(k, b"")));
    t.say_peer("peer", &peer);
}

fn many_messages_by_one_call(t: &T) {
    let k = t.dgram();
    let conns: Vec<_> = (0..3).map(|_| t.connected(k)).collect();
    let list: [&[u8]; 4] = [b"a", b"b", b"c", b"d"];
    say!(t, "messages taken: {}", count(&t.back().send_many(k, &list)));
    for (i, (_, peer)) in conns.iter().enumerate() {
        let (bytes, _) = t.peer_all(peer);
        say!(t, "peer {i} gets {:?}", String::from_utf8_lossy(&bytes));
    }
    t.say_table(k, &["kcm-0"]);
}

fn a_batch_that_is_never_followed_up(t: &T) {
    let (k, peer) = line(t, Type::Dgram);
    say!(t, "send with BATCH: {}", count(&t.send_with(k, b"one", BATCH)));
    t.pause(200);
    t.say_peer("peer", &peer);
}
