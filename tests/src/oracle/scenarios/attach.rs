//! Attach and unattach (semantics A12–A40).

use super::prelude::*;
use super::scenarios;
use socket2::{Domain, Socket};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

scenarios! {
    only_tcp_is_attached ["A15"];
    a_listening_or_unconnected_socket_is_refused ["A16"];
    a_reset_connection_is_refused ["A16"];
    a_connection_is_attached_once ["A18"];
    a_refused_attach_leaves_everything_as_it_was ["A16" "A18"];
    a_connection_whose_peer_has_finished_is_attached ["A19" "A21"];
    a_connection_that_has_finished_itself_is_attached ["A19"];
    attach_while_connecting ["A20"];
    each_connection_has_its_own_parser ["A23"];
    the_descriptors_may_be_closed_after_attach ["A24"];
    bytes_that_came_before_attach_are_parsed ["A25"];
    a_stream_that_was_read_before_attach ["A26" "B8"];
    attach_sends_what_waits_socket_by_socket ["A27" "D11"];
    unattach_of_what_is_not_attached ["A34"];
    a_half_message_at_unattach ["A35"];
    a_parked_message_at_unattach ["A36"];
    received_messages_outlive_their_connection ["A36"];
    a_message_interrupted_by_unattach_starts_again_elsewhere ["A37" "D19"];
    a_stream_left_in_the_middle_of_a_message_is_attached_again ["A38"];
    attach_and_unattach_two_hundred_times ["A40"];
}

fn stream_of(fd: impl Into<OwnedFd>) -> TcpStream {
    TcpStream::from(fd.into())
}

fn try_attach(t: &T, what: &str, tcp: TcpStream) {
    let k = t.dgram();
    let r = t.back().attach(k, tcp, &Parser::Len4);
    say!(t, "{what}: {}", okay(&r.map_err(|r| r.errno)));
}

fn only_tcp_is_attached(t: &T) {
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("udp");
    udp.connect(udp.local_addr().expect("address")).expect("connect");
    try_attach(t, "UDP", stream_of(udp));
    let (unix, _other) = UnixStream::pair().expect("unix");
    try_attach(t, "UNIX stream in the place of a TCP one", stream_of(unix));
}

fn a_listening_or_unconnected_socket_is_refused(t: &T) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    try_attach(t, "listening", stream_of(listener));
    let s = Socket::new(Domain::IPV4, socket2::Type::STREAM, None).expect("socket");
    try_attach(t, "unconnected", stream_of(s));
}

fn a_reset_connection_is_refused(t: &T) {
    let (a, peer) = t.pair();
    reset(peer);
    t.quiet();
    try_attach(t, "reset", a);
}

fn a_connection_is_attached_once(t: &T) {
    let (k, other) = (t.dgram(), t.dgram());
    let (a, peer) = t.pair();
    let dups: Vec<TcpStream> = (0..3).map(|_| a.try_clone().expect("dup")).collect();
    let conn = t.attach(k, a, &Parser::Len4);
    let mut dups = dups.into_iter();
    let mut again = |what: &str, s| {
        let r = t.back().attach(s, dups.next().expect("a dup"), &Parser::Len4);
        say!(t, "{what}: {}", okay(&r.map_err(|r| r.errno)));
    };
    again("again to the same multiplexor", k);
    again("to another", other);
    t.put(&peer, &msg(b'A', 20));
    t.say_recv(k);
    let _d = t.unattach(k, conn);
    again("to another after unattach", other);
    t.put(&peer, &msg(b'B', 20));
    t.say_recv(other);
}

fn a_refused_attach_leaves_everything_as_it_was(t: &T) {
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    let s = Socket::new(Domain::IPV4, socket2::Type::STREAM, None).expect("socket");
    let r = t.back().attach(k, stream_of(s), &Parser::Len4);
    say!(t, "attach: {}", r.as_ref().map_or_else(|r| r.errno.to_string(), |_| "ok".into()));
    let back = matches!(&r, Err(r) if r.stream.is_some());
    say!(t, "the stream is the caller's again: {back}");
    t.say_table(k, &["mux"]);
    t.put(&peer, &msg(b'A', 20));
    t.say_recv(k);
}

fn a_connection_whose_peer_has_finished_is_attached(t: &T) {
    let k = t.dgram();
    let (a, peer) = t.pair();
    t.put(&peer, &msg(b'A', 20));
    peer.shutdown(std::net::Shutdown::Write).expect("shutdown");
    t.quiet();
    let r = t.back().attach(k, a, &Parser::Len4);
    say!(t, "attach: {}", r.as_ref().map_or_else(|r| r.errno.to_string(), |_| "ok".into()));
    t.say_recv(k);
    if let Ok(c) = r {
        t.quiet();
        say!(t, "error: {}", t.error_now(c));
    }
}

fn a_connection_that_has_finished_itself_is_attached(t: &T) {
    let k = t.dgram();
    let (a, peer) = t.pair();
    a.shutdown(std::net::Shutdown::Write).expect("shutdown");
    t.quiet();
    let r = t.back().attach(k, a, &Parser::Len4);
    say!(t, "attach: {}", r.as_ref().map_or_else(|r| r.errno.to_string(), |_| "ok".into()));
    t.put(&peer, &msg(b'A', 20));
    t.say_recv(k);
}

fn attach_while_connecting(t: &T) {
    let k = t.dgram();
    // A listener whose queue is full answers no further SYN: that connect stays under way.
    let listener = Socket::new(Domain::IPV4, socket2::Type::STREAM, None).expect("socket");
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("bind");
    listener.listen(0).expect("listen");
    let addr = listener.local_addr().expect("address");
    let connect = || {
        let s = Socket::new(Domain::IPV4, socket2::Type::STREAM, None).expect("socket");
        s.set_nonblocking(true).expect("O_NONBLOCK");
        let _ = s.connect(&addr); // EINPROGRESS
        s
    };
    let _first = connect();
    t.quiet();
    let waiting = connect();
    t.quiet();
    let r = t.back().attach(k, TcpStream::from(waiting), &Parser::Len4);
    say!(t, "attach: {}", r.as_ref().map_or_else(|r| r.errno.to_string(), |_| "ok".into()));
    say!(t, "send: {}", count(&t.send(k, b"hello")));
    let Ok(c) = r else { return };
    // Room in the queue: the next try of the handshake succeeds, a second later.
    let _accepted = listener.accept().expect("accept");
    listener.set_nonblocking(true).expect("O_NONBLOCK");
    let mut peer = None;
    for _ in 0..4 {
        t.within_a_second(|| {
            peer = peer.take().or_else(|| listener.accept().ok());
            peer.is_some()
        });
    }
    let Some((peer, _)) = peer else { return say!(t, "the connect never ended") };
    let peer = TcpStream::from(peer);
    t.say_error(c);
    t.say_peer("peer", &peer);
    say!(t, "one more send: {}", count(&t.send(k, b"again")));
    t.say_peer("peer", &peer);
}

fn each_connection_has_its_own_parser(t: &T) {
    let k = t.dgram();
    let (_c1, p1) = t.attached(k, &Parser::Len4);
    let (_c2, p2) = t.attached(k, &Parser::Const(7));
    let (_c3, p3) = t.attached(k, &Parser::Len2);
    t.put(&p1, &msg(b'A', 20));
    t.say_recv(k);
    t.put(&p2, b"1234567");
    t.say_recv(k);
    t.put(&p3, b"\0\x03abc");
    t.say_recv(k);
}

fn the_descriptors_may_be_closed_after_attach(t: &T) {
    // The program's descriptor was closed by the attach helper already.
    let k = t.dgram();
    let (c, peer) = t.connected(k);
    t.back().forget_handle(c);
    t.put(&peer, &msg(b'A', 20));
    t.say_recv(k);
    say!(t, "send: {}", count(&t.send(k, b"hello")));
    t.say_peer("peer", &peer);
    t.back().close(k);
    t.quiet();
    t.say_peer("after the multiplexor's end, peer", &peer);
}

fn bytes_that_came_before_attach_are_parsed(t: &T) {
    let k = t.dgram();
    let (a, peer) = t.pair();
    t.put(&peer, &msg(b'A', 20));
    t.put(&peer, &msg(b'B', 20)[..10]);
    let _c = t.attach(k, a, &Parser::Len4);
    t.say_recv(k);
    t.say_recv_now(k);
    t.put(&peer, &msg(b'B', 20)[10..]);
    t.say_recv(k);
}

fn a_stream_that_was_read_before_attach(t: &T) {
    use std::io::Read;
    let k = t.dgram();
    let (mut a, peer) = t.pair();
    let mut stream = b"\0\0\0\x03G".to_vec();
    stream.extend(msg(b'A', 10));
    t.put(&peer, &stream);
    let mut head = [0; 5];
    a.read_exact(&mut head).expect("read");
    let _c = t.attach(k, a, &Parser::Len4);
    t.say_recv(k);
    t.say_recv_now(k);
}

fn attach_sends_what_waits_socket_by_socket(t: &T) {
    let k = t.dgram();
    let (k2, k3) = (t.clone_of(k), t.clone_of(k));
    for (s, bytes) in [(k2, "b1"), (k, "a1"), (k3, "c1"), (k2, "b2"), (k, "a2")] {
        say!(t, "send {bytes}: {}", count(&t.send(s, bytes.as_bytes())));
    }
    let (_c, peer) = t.connected(k);
    let (bytes, _) = t.peer_all(&peer);
    say!(t, "peer gets {}", String::from_utf8_lossy(&bytes));
}

fn unattach_of_what_is_not_attached(t: &T) {
    let (k, other) = (t.dgram(), t.dgram());
    let (c, _peer) = t.connected(k);
    say!(t, "through another multiplexor: {}", okay(&t.back().unattach(other, c)));
    say!(t, "through its own: {}", okay(&t.back().unattach(k, c)));
    say!(t, "once more: {}", okay(&t.back().unattach(k, c)));
}

fn a_half_message_at_unattach(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.connected(k);
    t.put(&peer, &msg(b'A', 20)[..10]);
    let d = t.unattach(k, c);
    say!(t, "left over: {}", show(&d.unread));
    t.put(&peer, &msg(b'A', 20)[10..]);
    say!(t, "the rest, read from the stream: {}", t.own_read(&d.stream));
    let whole = if d.unread.is_empty() { "10 of 20 bytes are lost" } else { "no byte is lost" };
    t.summary(whole);
}

fn a_parked_message_at_unattach(t: &T) {
    let k = t.dgram();
    t.back().hold_two(k).expect("buffer");
    let (c, peer) = t.connected(k);
    for tag in b'0'..b'6' {
        t.put(&peer, &msg(tag, 20));
    }
    let mut unattached = None;
    t.say_counters(k, &["MUX RX-RdyDrops"], || unattached = Some(t.unattach(k, c)));
    let Some(d) = unattached else { return };
    let mut rest = d.unread;
    rest.extend(t.peer_all(&d.stream).0);
    let left: Vec<String> = rest.chunks(20).map(|m| char::from(m[m.len() - 1]).into()).collect();
    say!(t, "in the queue: {}", t.tags(k));
    say!(t, "left over, or still in the stream: {}", left.join(" "));
}

fn received_messages_outlive_their_connection(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.connected(k);
    t.put(&peer, &msg(b'A', 20));
    t.put(&peer, &msg(b'B', 20));
    let _d = t.unattach(k, c);
    drop(peer);
    say!(t, "gets {}", t.tags(k));
}

fn a_message_interrupted_by_unattach_starts_again_elsewhere(t: &T) {
    let k = t.dgram();
    let (a1, peer1) = t.pair_with(TIGHT);
    let c1 = t.attach(k, a1, &Parser::Len4);
    say!(t, "send of 400000 bytes: {}", count(&t.send(k, &vec![b'k'; 400_000])));
    t.quiet();
    say!(t, "send behind it: {}", count(&t.send(k, b"world")));
    let (_c2, peer2) = t.connected(k);
    t.quiet();
    let d = t.back().unattach(k, c1);
    say!(t, "unattach: {}", okay(&d));
    let mut got = Vec::new();
    t.within_a_second(|| {
        got.extend(t.peer_all(&peer2).0);
        got.len() >= 400_000
    });
    say!(t, "the other peer gets {}", runs(&got));
    let (first, end) = t.peer_all(&peer1);
    let part = if first.is_empty() { "nothing" } else { "a part" };
    say!(t, "the first peer got {part}, end of stream: {end}");
}

fn a_stream_left_in_the_middle_of_a_message_is_attached_again(t: &T) {
    let k = t.dgram();
    let (a1, _peer1) = t.pair_with(TIGHT);
    let c1 = t.attach(k, a1, &Parser::Len4);
    say!(t, "send of 400000 bytes: {}", count(&t.send(k, &vec![b'k'; 400_000])));
    t.quiet();
    let d = t.unattach(k, c1);
    let r = t.back().attach(k, d.stream, &Parser::Len4);
    say!(t, "attach again: {}", okay(&r.map_err(|r| r.errno)));
}

fn attach_and_unattach_two_hundred_times(t: &T) {
    let k = t.dgram();
    let (mut a, peer) = t.pair();
    for _ in 0..200 {
        let c = t.attach(k, a, &Parser::Len4);
        a = t.unattach(k, c).stream;
    }
    let _c = t.attach(k, a, &Parser::Len4);
    t.put(&peer, &msg(b'A', 20));
    t.say_recv(k);
}
