//! Closing KCM sockets (semantics A41–A45).

use super::prelude::*;
use super::scenarios;

scenarios! {
    closing_a_socket_moves_its_messages_to_another ["A41" "C13"];
    a_message_of_a_closed_socket_that_is_the_last_but_one ["A41"];
    closing_a_socket_drops_what_it_batched ["A42" "D13"];
    closing_a_socket_with_unsent_data ["A43" "A42"]
        "Closing one of two KCM sockets while it has unsent data";
    closing_a_socket_that_sent_everything ["A43"];
    closing_a_socket_with_an_open_message ["A44"];
    closing_the_last_socket_ends_the_connections ["A45"];
    closing_the_last_socket_with_unread_messages ["A45"];
}

fn closing_a_socket_moves_its_messages_to_another(t: &T) {
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    for tag in b'0'..b'5' {
        t.put(&peer, &msg(tag, 20));
    }
    let k2 = t.clone_of(k);
    t.back().close(k);
    t.quiet();
    say!(t, "the other gets {}", t.tags(k2));
    t.put(&peer, &msg(b'5', 20));
    say!(t, "and then {}", t.tags(k2));
}

fn a_message_of_a_closed_socket_that_is_the_last_but_one(t: &T) {
    // Nobody listens when the reader closes: the messages are held until somebody does.
    let k = t.dgram();
    let k2 = t.clone_of(k);
    t.set(k2, Opt::RecvDisabled, 1);
    let (_c, peer) = t.connected(k);
    t.put(&peer, &msg(b'0', 20));
    t.put(&peer, &msg(b'1', 20));
    t.back().close(k);
    t.quiet();
    say!(t, "disabled: {}", t.tags(k2));
    t.set(k2, Opt::RecvDisabled, 0);
    t.quiet();
    say!(t, "enabled: {}", t.tags(k2));
}

fn closing_a_socket_drops_what_it_batched(t: &T) {
    let k = t.dgram();
    let _k2 = t.clone_of(k);
    let (c, peer) = t.connected(k);
    say!(t, "send: {}", count(&t.send_with(k, b"abc", BATCH)));
    t.back().close(k);
    t.quiet();
    t.say_peer("peer", &peer);
    say!(t, "error: {}", t.error_now(c));
}

fn closing_a_socket_with_unsent_data(t: &T) {
    let k = t.dgram();
    let k2 = t.clone_of(k);
    let (a, peer) = t.pair_with(TIGHT);
    let c = t.attach(k, a, &Parser::Len4);
    let sent = t.send(k, &vec![b'k'; 400_000]);
    say!(t, "send of 400000 bytes: {}", count(&sent));
    t.quiet();
    t.back().close(k);
    t.quiet();
    let error = t.error_now(c);
    say!(t, "error: {error}");
    say!(t, "the other socket sends: {}", count(&t.send(k2, b"hello")));
    let mut got = Vec::new();
    t.within_a_second(|| {
        got.extend(t.peer_all(&peer).0);
        got.ends_with(b"hello")
    });
    let whole = got.iter().filter(|b| **b == b'k').count() == 400_000;
    say!(t, "the peer gets the message {}", if whole { "whole" } else { "in part" });
    let alive = got.ends_with(b"hello");
    say!(t, "the other socket's message arrives: {alive}");
    t.summary(if alive {
        "the started message is finished; the other socket's arrives"
    } else {
        "the shared connection gets EPIPE and sends nothing any more, for anybody"
    });
}

fn closing_a_socket_that_sent_everything(t: &T) {
    let k = t.dgram();
    let k2 = t.clone_of(k);
    let (c, peer) = t.connected(k);
    say!(t, "send: {}", count(&t.send(k, b"hello")));
    t.quiet();
    t.back().close(k);
    t.quiet();
    say!(t, "error: {}", t.error_now(c));
    say!(t, "the other sends: {}", count(&t.send(k2, b"world")));
    let (bytes, _) = t.peer_all(&peer);
    say!(t, "peer gets {}", String::from_utf8_lossy(&bytes));
}

fn closing_a_socket_with_an_open_message(t: &T) {
    for ty in TYPES {
        let k = t.socket(ty);
        let k2 = t.clone_of(k);
        let (_c, peer) = t.connected(k);
        say!(t, "{}: send: {}", ty.name(), count(&t.send_with(k, b"abc", MORE)));
        t.back().close(k);
        t.quiet();
        say!(t, "the other sends: {}", count(&t.send_with(k2, b"xyz", EOR)));
        let (bytes, end) = t.peer_all(&peer);
        say!(t, "peer gets {:?}, end: {end}", String::from_utf8_lossy(&bytes));
    }
}

fn closing_the_last_socket_ends_the_connections(t: &T) {
    let k = t.dgram();
    let k2 = t.clone_of(k);
    let (c, peer) = t.connected(k);
    t.back().forget_handle(c);
    t.back().close(k);
    t.quiet();
    t.say_peer("one closed: peer", &peer);
    t.back().close(k2);
    t.quiet();
    t.say_peer("both closed: peer", &peer);
}

fn closing_the_last_socket_with_unread_messages(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.connected(k);
    t.put(&peer, &msg(b'A', 20));
    t.put(&peer, &msg(b'B', 20)[..5]);
    let own = t.back().own_handle(c);
    t.back().close(k);
    t.quiet();
    match own {
        None => say!(t, "no counterpart: an attached stream belongs to the multiplexor"),
        Some(own) => {
            t.put(&peer, &msg(b'B', 20)[5..]);
            say!(t, "the application reads {}", t.own_read(&own));
        }
    }
}
