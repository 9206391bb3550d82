//! The deadline of a message (semantics B18–B21).

use super::prelude::*;
use super::scenarios;
use std::time::Duration;

scenarios! {
    a_message_that_does_not_end_times_out ["B18" "B20"];
    without_a_timeout_a_message_may_take_for_ever ["B18"];
    two_bytes_of_a_head_start_the_deadline ["B19"];
    more_bytes_do_not_move_the_deadline ["B19"];
    a_whole_message_stops_the_deadline ["B19"];
    an_idle_connection_has_no_deadline ["B19"];
    a_timeout_set_after_attach_holds_for_the_next_message ["B18" "A30"];
    a_timeout_cleared_in_the_middle_of_a_message ["B18"];
    bytes_after_a_timeout ["B20"];
    sending_after_a_timeout_that_was_read ["B20" "F4"];
    unattach_stops_the_deadline ["B20" "A35"];
    the_next_message_has_a_deadline_of_its_own ["B19"];
}

fn timed(t: &T, ms: u64) -> (TcpStream, TcpStream) {
    let (a, peer) = t.pair();
    a.set_read_timeout(Some(Duration::from_millis(ms))).expect("SO_RCVTIMEO");
    (a, peer)
}

fn a_message_that_does_not_end_times_out(t: &T) {
    let k = t.dgram();
    let (a, peer) = timed(t, 150);
    let c = t.attach(k, a, &Parser::Len4);
    t.say_counters(k, &["Psock RX-Timeout"], || {
        t.put(&peer, &msg(b'A', 20)[..10]);
        t.say_error(c);
    });
    t.say_recv_now(k);
    say!(t, "read again: {}", t.error_now(c));
}

fn without_a_timeout_a_message_may_take_for_ever(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.connected(k);
    t.put(&peer, &msg(b'A', 20)[..10]);
    t.pause(300);
    say!(t, "error: {}", t.error_now(c));
    t.put(&peer, &msg(b'A', 20)[10..]);
    t.say_recv(k);
}

fn two_bytes_of_a_head_start_the_deadline(t: &T) {
    let k = t.dgram();
    let (a, peer) = timed(t, 150);
    let c = t.attach(k, a, &Parser::Len4);
    t.put(&peer, &msg(b'A', 20)[..2]);
    t.say_error(c);
}

fn more_bytes_do_not_move_the_deadline(t: &T) {
    let k = t.dgram();
    let (a, peer) = timed(t, 300);
    let c = t.attach(k, a, &Parser::Len4);
    let start = std::time::Instant::now();
    let m = msg(b'A', 200);
    // A byte each 30 ms: the message would take six seconds.
    let mut failed = None;
    for b in &m {
        t.put(&peer, &[*b]);
        if let Some(e) = t.back().error(c) {
            failed = Some(e);
            break;
        }
    }
    let soon = start.elapsed() < Duration::from_secs(3);
    say!(
        t,
        "error: {}, before the message ends: {soon}",
        failed.map_or("none".into(), |e| e.to_string())
    );
}

fn a_whole_message_stops_the_deadline(t: &T) {
    let k = t.dgram();
    let (a, peer) = timed(t, 250);
    let c = t.attach(k, a, &Parser::Len4);
    t.put(&peer, &msg(b'A', 20)[..10]);
    t.put(&peer, &msg(b'A', 20)[10..]);
    t.say_recv(k);
    t.pause(400);
    say!(t, "error: {}", t.error_now(c));
}

fn an_idle_connection_has_no_deadline(t: &T) {
    let k = t.dgram();
    let (a, peer) = timed(t, 100);
    let c = t.attach(k, a, &Parser::Len4);
    t.pause(250);
    say!(t, "error: {}", t.error_now(c));
    t.put(&peer, &msg(b'A', 20));
    t.say_recv(k);
}

fn a_timeout_set_after_attach_holds_for_the_next_message(t: &T) {
    let k = t.dgram();
    let (a, peer) = t.pair();
    let dup = a.try_clone().expect("dup");
    let c = t.attach(k, a, &Parser::Len4);
    dup.set_read_timeout(Some(Duration::from_millis(150))).expect("SO_RCVTIMEO");
    t.put(&peer, &msg(b'A', 20)[..10]);
    t.pause(300);
    say!(t, "error: {}", t.error_now(c));
}

fn a_timeout_cleared_in_the_middle_of_a_message(t: &T) {
    let k = t.dgram();
    let (a, peer) = timed(t, 200);
    let dup = a.try_clone().expect("dup");
    let c = t.attach(k, a, &Parser::Len4);
    t.put(&peer, &msg(b'A', 20)[..10]);
    dup.set_read_timeout(None).expect("SO_RCVTIMEO");
    t.say_error(c);
}

fn bytes_after_a_timeout(t: &T) {
    let k = t.dgram();
    let (a, peer) = timed(t, 150);
    let c = t.attach(k, a, &Parser::Len4);
    t.put(&peer, &msg(b'A', 20)[..10]);
    t.say_error(c);
    t.put(&peer, &msg(b'A', 20)[10..]);
    t.say_recv_now(k);
    let d = t.unattach(k, c);
    let mut rest = d.unread;
    rest.extend(t.peer_all(&d.stream).0);
    say!(t, "left over: {}", show(&rest));
}

fn sending_after_a_timeout_that_was_read(t: &T) {
    let k = t.dgram();
    let (a, peer) = timed(t, 150);
    let c = t.attach(k, a, &Parser::Len4);
    t.put(&peer, &msg(b'A', 20)[..10]);
    t.say_error(c);
    say!(t, "send: {}", count(&t.send(k, b"zzz")));
    t.quiet();
    t.say_peer("peer", &peer);
}

fn unattach_stops_the_deadline(t: &T) {
    let k = t.dgram();
    let (a, peer) = timed(t, 150);
    let c = t.attach(k, a, &Parser::Len4);
    t.put(&peer, &msg(b'A', 20)[..10]);
    let d = t.unattach(k, c);
    t.pause(300);
    say!(t, "the stream's error: {:?}", d.stream.take_error().ok().flatten().map(|e| e.kind()));
}

fn the_next_message_has_a_deadline_of_its_own(t: &T) {
    let k = t.dgram();
    let (a, peer) = timed(t, 250);
    let c = t.attach(k, a, &Parser::Len4);
    // Four messages, each in two parts: together longer than the timeout, each alone shorter.
    for tag in b'0'..b'4' {
        let m = msg(tag, 20);
        t.put(&peer, &m[..10]);
        t.pause(60);
        t.put(&peer, &m[10..]);
    }
    say!(t, "gets {}", t.tags(k));
    say!(t, "error: {}", t.error_now(c));
}
