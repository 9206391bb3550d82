//! Receiving (semantics E1–E9, E13).

use super::prelude::*;
use super::scenarios;
use std::time::{Duration, Instant};

scenarios! {
    one_message_per_call ["E1" "E2"];
    several_messages_by_one_call ["E1"];
    a_whole_message_ends_with_eor ["E2"];
    a_datagram_longer_than_the_buffer ["E3"];
    a_seqpacket_message_longer_than_the_buffer ["E4"]
        "Reading a 20-byte SEQPACKET message with an 8-byte buffer";
    a_message_read_byte_by_byte ["E4"];
    peeking ["E5"];
    peeking_with_a_short_buffer ["E5"];
    peeking_is_not_counted ["E5" "G4"];
    a_zero_length_buffer ["E6"];
    receiving_with_a_timeout ["E8"];
    a_reader_waits_for_a_message ["E8"];
    a_reader_when_every_connection_is_gone ["E9"];
    a_buffer_that_fits_exactly ["E2" "E3"];
    reading_makes_room ["E13" "C6"];
}

fn line(t: &T, ty: Type) -> (super::super::backend::Sock, TcpStream) {
    let k = t.socket(ty);
    let (_c, peer) = t.connected(k);
    (k, peer)
}

fn short(t: &T, k: super::super::backend::Sock, room: usize) {
    let r = t.back().recv(k, room, RecvFlags::default());
    say!(t, "recv({room}): {}", outcome(&r));
}

fn one_message_per_call(t: &T) {
    for ty in TYPES {
        let (k, peer) = line(t, ty);
        t.put(&peer, &msgs(&[(b'A', 20), (b'B', 20)]));
        say!(t, "{}", ty.name());
        t.say_recv(k);
        t.say_recv(k);
        t.say_recv_now(k);
    }
}

fn several_messages_by_one_call(t: &T) {
    let (k, peer) = line(t, Type::Dgram);
    for tag in [b'A', b'B', b'C'] {
        t.put(&peer, &msg(tag, 20));
    }
    match t.back().recv_many(k, 5) {
        Ok(list) => {
            say!(t, "{} messages", list.len());
            for g in list {
                say!(t, "recv: {}", outcome(&Ok(g)));
            }
        }
        Err(e) => say!(t, "{e}"),
    }
    say!(t, "once more: {}", okay(&t.back().recv_many(k, 5)));
}

fn a_whole_message_ends_with_eor(t: &T) {
    for ty in TYPES {
        let (k, peer) = line(t, ty);
        t.put(&peer, &msg(b'A', 20));
        say!(t, "{}", ty.name());
        t.say_recv(k);
    }
}

fn a_datagram_longer_than_the_buffer(t: &T) {
    let (k, peer) = line(t, Type::Dgram);
    t.put(&peer, &msg(b'A', 20));
    t.put(&peer, &msg(b'B', 20));
    short(t, k, 8);
    t.say_recv(k);
    t.say_recv_now(k);
}

fn a_seqpacket_message_longer_than_the_buffer(t: &T) {
    let (k, peer) = line(t, Type::Seqpacket);
    t.put(&peer, &msg(b'A', 20));
    t.put(&peer, &msg(b'B', 20));
    short(t, k, 8);
    let second = t.recv(k);
    say!(t, "recv: {}", outcome(&second));
    t.say_recv_now(k);
    let rest = second.is_ok_and(|g| g.bytes == [b'A'; 12]);
    t.summary(if rest {
        "the next call returns the other 12"
    } else {
        "the other 12 bytes are lost; the next call returns the next message"
    });
}

fn a_message_read_byte_by_byte(t: &T) {
    let (k, peer) = line(t, Type::Seqpacket);
    t.put(&peer, b"\0\0\0\x04wxyz");
    for _ in 0..9 {
        let r = t.back().recv(k, 1, RecvFlags::default());
        match r {
            Ok(g) => say!(t, "{}{}", g.bytes.escape_ascii(), if g.eor { " EOR" } else { "" }),
            Err(e) => say!(t, "{e}"),
        }
    }
}

fn peeking(t: &T) {
    for ty in TYPES {
        let (k, peer) = line(t, ty);
        t.put(&peer, &msg(b'A', 20));
        say!(t, "{}", ty.name());
        for _ in 0..2 {
            say!(t, "peek: {}", outcome(&t.back().recv(k, 64, PEEK)));
        }
        t.say_recv(k);
        say!(t, "peek: {}", outcome(&t.back().recv(k, 64, PEEK)));
    }
}

fn peeking_with_a_short_buffer(t: &T) {
    for ty in TYPES {
        let (k, peer) = line(t, ty);
        t.put(&peer, &msg(b'A', 20));
        say!(t, "{}", ty.name());
        say!(t, "peek(8): {}", outcome(&t.back().recv(k, 8, PEEK)));
        t.say_recv(k);
    }
}

fn peeking_is_not_counted(t: &T) {
    let (k, peer) = line(t, Type::Dgram);
    t.put(&peer, &msg(b'A', 20));
    say!(t, "peek: {}", outcome(&t.back().recv(k, 64, PEEK)));
    t.say_table(k, &["kcm-0"]);
    t.say_recv(k);
    t.say_table(k, &["kcm-0"]);
}

fn a_zero_length_buffer(t: &T) {
    for ty in TYPES {
        let (k, peer) = line(t, ty);
        t.put(&peer, &msg(b'A', 20));
        say!(t, "{}", ty.name());
        short(t, k, 0);
        t.say_recv_now(k);
    }
}

fn receiving_with_a_timeout(t: &T) {
    let (k, _peer) = line(t, Type::Dgram);
    t.set(k, Opt::RecvTimeout, 150);
    let start = Instant::now();
    let r = t.back().recv(k, 64, BLOCK);
    let waited = start.elapsed() > Duration::from_millis(140);
    say!(t, "recv: {}, after the timeout: {waited}", outcome(&r));
}

fn a_reader_waits_for_a_message(t: &T) {
    let (k, peer) = line(t, Type::Dgram);
    std::thread::scope(|s| {
        let reader = s.spawn(|| t.back().recv(k, 64, BLOCK));
        t.pause(60);
        say!(t, "waits: {}", !reader.is_finished());
        t.put(&peer, &msg(b'A', 20));
        say!(t, "recv: {}", outcome(&reader.join().expect("reader")));
    });
}

fn a_reader_when_every_connection_is_gone(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.connected(k);
    std::thread::scope(|s| {
        let reader = s.spawn(|| t.back().recv(k, 64, BLOCK));
        t.quiet();
        drop(peer);
        t.quiet();
        let _d = t.back().unattach(k, c);
        t.pause(100);
        say!(t, "the reader waits on: {}", !reader.is_finished());
        // A new connection brings it a message, so that it ends.
        let (_c2, peer2) = t.connected(k);
        t.put(&peer2, &msg(b'A', 20));
        say!(t, "recv: {}", outcome(&reader.join().expect("reader")));
    });
}

fn a_buffer_that_fits_exactly(t: &T) {
    for ty in TYPES {
        let (k, peer) = line(t, ty);
        t.put(&peer, &msg(b'A', 20));
        say!(t, "{}", ty.name());
        short(t, k, 20);
        t.say_recv_now(k);
    }
}

fn reading_makes_room(t: &T) {
    let k = t.dgram();
    t.back().hold_two(k).expect("buffer");
    let (_c, peer) = t.connected(k);
    for tag in b'0'..b'6' {
        t.put(&peer, &msg(tag, 20));
    }
    say!(t, "gets {}", t.tags(k));
    t.say_table(k, &["kcm-0"]);
}
