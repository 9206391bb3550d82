//! The end of a stream (semantics B22–B27).

use super::prelude::*;
use super::scenarios;
use std::net::Shutdown;

scenarios! {
    a_stream_that_ends_on_a_boundary ["B22" "B23"];
    a_stream_that_ends_in_the_middle_of_a_message ["B22" "B24"];
    a_stream_that_ends_with_its_last_message ["B22" "B23"];
    a_stream_that_is_reset_in_the_middle_of_a_message ["B25"];
    the_causes_of_three_ends ["B22" "B25"] "How did the connection end: clean, cut short, or reset?";
    a_half_message_at_the_end_of_the_stream ["B24"];
    sending_after_the_peer_has_finished ["B26" "F4"];
    messages_in_flight_survive_a_reset ["B23" "B25"];
    one_urgent_byte ["B27"] "One byte of TCP urgent data";
}

fn a_stream_that_ends_on_a_boundary(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.connected(k);
    t.put(&peer, &msg(b'A', 20));
    peer.shutdown(Shutdown::Write).expect("shutdown");
    t.say_recv(k);
    t.say_error(c);
    say!(t, "poll of the KCM socket says {}", ready(t.back().ready(k)));
}

fn a_stream_that_ends_in_the_middle_of_a_message(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.connected(k);
    t.put(&peer, &msg(b'A', 20)[..10]);
    peer.shutdown(Shutdown::Write).expect("shutdown");
    t.say_error(c);
    t.say_recv_now(k);
}

fn a_stream_that_ends_with_its_last_message(t: &T) {
    use std::io::Write;
    let k = t.dgram();
    let (c, mut peer) = t.connected(k);
    peer.write_all(&msg(b'A', 20)).expect("write");
    peer.shutdown(Shutdown::Write).expect("shutdown");
    t.say_error(c);
    t.say_recv(k);
}

fn a_stream_that_is_reset_in_the_middle_of_a_message(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.connected(k);
    t.put(&peer, &msg(b'A', 20)[..10]);
    reset(peer);
    t.say_error(c);
    t.say_recv_now(k);
}

fn the_causes_of_three_ends(t: &T) {
    let mut causes = Vec::new();
    for what in ["clean end", "end in a message", "reset"] {
        let k = t.dgram();
        let (c, peer) = t.connected(k);
        let half = msg(b'A', 20);
        t.put(&peer, if what == "clean end" { b"" } else { &half[..10] });
        let peer = if what == "reset" {
            reset(peer);
            None
        } else {
            peer.shutdown(Shutdown::Write).expect("shutdown");
            Some(peer)
        };
        let mut cause = String::new();
        t.within_a_second(|| {
            cause = t.back().cause(c);
            cause != "none"
        });
        say!(t, "{what}: {cause}");
        causes.push(cause);
        drop(peer);
    }
    let same = causes.windows(2).all(|w| w[0] == w[1]);
    t.summary(if same { format!("always {}", causes[0]) } else { causes.join(" / ") });
}

fn a_half_message_at_the_end_of_the_stream(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.connected(k);
    t.put(&peer, &msg(b'A', 20)[..10]);
    peer.shutdown(Shutdown::Write).expect("shutdown");
    t.say_error(c);
    let d = t.unattach(k, c);
    say!(t, "left over: {}", show(&d.unread));
    say!(t, "read from the stream: {}", t.own_read(&d.stream));
}

fn sending_after_the_peer_has_finished(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.connected(k);
    peer.shutdown(Shutdown::Write).expect("shutdown");
    t.say_error(c);
    say!(t, "send: {}", count(&t.send(k, b"hello")));
    t.quiet();
    t.say_peer("peer", &peer);
}

fn messages_in_flight_survive_a_reset(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.connected(k);
    for tag in b'0'..b'3' {
        t.put(&peer, &msg(tag, 20));
    }
    reset(peer);
    t.say_error(c);
    say!(t, "gets {}", t.tags(k));
}

fn one_urgent_byte(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.attached(k, &Parser::Const(10));
    t.put(&peer, b"AAAAAAAAAA");
    socket2::SockRef::from(&peer).send_out_of_band(b"!").expect("MSG_OOB");
    t.quiet();
    t.put(&peer, b"BBBBBBBBB");
    t.put(&peer, b"CCCCCCCCCC");
    let got = t.drain(k);
    for g in &got {
        say!(t, "recv: {}", runs(&g.bytes));
    }
    let error = t.error_now(c);
    say!(t, "error: {error}");
    t.summary(if got.len() == 3 {
        "it is a byte like any other: every message arrives"
    } else {
        "the connection is frozen: no message, no error"
    });
}
