//! What the application can still do with an attached connection (semantics A28–A33). The
//! product owns an attached stream (J19), so that most of these questions exist only for the
//! kernel.

use super::prelude::*;
use super::scenarios;
use std::io::Write;

scenarios! {
    the_application_writes_beside_the_multiplexor ["A28"];
    the_application_writes_into_a_message_under_way ["A28" "D16"];
    the_application_reads_bytes_of_a_message_under_way ["A29"];
    the_application_shuts_down_an_attached_connection ["A31" "F2"];
    the_application_disconnects_an_attached_connection ["A32"];
    an_attached_connection_polls_for_errors_only ["A33"];
    options_of_an_attached_connection_stay_effective ["A30"];
}

const OWNED: &str = "an attached stream belongs to the multiplexor";

fn the_application_writes_beside_the_multiplexor(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.connected(k);
    let Some(mut own) = t.back().own_handle(c) else { return say!(t, "no counterpart: {OWNED}") };
    say!(t, "send: {}", count(&t.send(k, b"one")));
    own.write_all(b"raw").expect("write");
    say!(t, "send: {}", count(&t.send(k, b"two")));
    t.say_peer("peer", &peer);
}

fn the_application_writes_into_a_message_under_way(t: &T) {
    let k = t.dgram();
    let (a, peer) = t.pair_with(TIGHT);
    let c = t.attach(k, a, &Parser::Len4);
    let Some(mut own) = t.back().own_handle(c) else { return say!(t, "no counterpart: {OWNED}") };
    own.set_nonblocking(true).expect("O_NONBLOCK");
    say!(t, "send: {}", count(&t.send(k, &vec![b'k'; 60_000])));
    say!(
        t,
        "the application's write: {}",
        match own.write(b"RAW") {
            Ok(n) => n.to_string(),
            Err(e) => super::super::errno::Errno::of(&e).to_string(),
        }
    );
    let mut got = Vec::new();
    t.within_a_second(|| {
        got.extend(t.peer_all(&peer).0);
        got.len() >= 60_000
    });
    say!(t, "peer gets {}", runs(&got));
}

fn the_application_reads_bytes_of_a_message_under_way(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.connected(k);
    let Some(own) = t.back().own_handle(c) else { return say!(t, "no counterpart: {OWNED}") };
    t.put(&peer, &msg(b'A', 20)[..10]);
    t.put(&peer, b"1234");
    say!(t, "the application reads {}", t.own_read(&own));
    t.put(&peer, b"567890");
    t.say_recv_now(k);
    t.put(&peer, b"!!!!");
    t.say_recv(k);
}

fn the_application_shuts_down_an_attached_connection(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.connected(k);
    let Some(own) = t.back().own_handle(c) else { return say!(t, "no counterpart: {OWNED}") };
    own.shutdown(std::net::Shutdown::Write).expect("shutdown");
    t.say_error(c);
    t.put(&peer, &msg(b'A', 20));
    t.say_recv(k);
}

fn the_application_disconnects_an_attached_connection(t: &T) {
    use super::super::kernel::sys;
    let k = t.dgram();
    let (c, _peer) = t.connected(k);
    let Some(kernel) = t.back().kernel() else { return say!(t, "no counterpart: {OWNED}") };
    say!(t, "disconnect: {}", okay(&sys::disconnect(kernel.tcp_fd(c))));
    t.quiet();
    say!(t, "poll says {}", ready(sys::poll(kernel.tcp_fd(c))));
    t.say_table(k, &["psock-0"]);
}

fn an_attached_connection_polls_for_errors_only(t: &T) {
    use super::super::kernel::sys;
    let k = t.dgram();
    let (c, peer) = t.attached(k, &Parser::Const(0));
    let Some(kernel) = t.back().kernel() else { return say!(t, "no counterpart: {OWNED}") };
    t.put(&peer, b"abc");
    say!(t, "data came: poll says {}", ready(sys::poll(kernel.tcp_fd(c))));
    peer.shutdown(std::net::Shutdown::Write).expect("shutdown");
    t.quiet();
    say!(t, "peer finished: poll says {}", ready(sys::poll(kernel.tcp_fd(c))));
    t.say_error(c);
    say!(t, "error read: poll says {}", ready(sys::poll(kernel.tcp_fd(c))));
}

fn options_of_an_attached_connection_stay_effective(t: &T) {
    let k = t.dgram();
    let (a, peer) = t.pair();
    let dup = a.try_clone().expect("dup");
    let _c = t.attach(k, a, &Parser::Len4);
    dup.set_nodelay(false).expect("TCP_NODELAY");
    dup.set_nodelay(true).expect("TCP_NODELAY");
    say!(t, "TCP_NODELAY: {:?}", dup.nodelay().ok());
    say!(t, "send: {}", count(&t.send(k, b"hello")));
    t.say_peer("peer", &peer);
}
