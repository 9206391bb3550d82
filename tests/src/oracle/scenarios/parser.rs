//! The stream parser: calls of the program, its answers, assembly (semantics B1–B17).

use super::prelude::*;
use super::scenarios;
use std::io::Write;

scenarios! {
    a_parser_is_asked_at_each_arrival_until_it_knows ["B1"];
    a_parser_is_asked_once_per_message_of_an_arrival ["B2" "B8"];
    a_load_past_the_end_means_need_more ["B3"];
    a_length_beyond_the_receive_buffer ["B5"];
    a_length_equal_to_the_receive_buffer ["B5" "B15"];
    the_largest_length_moves_with_autotuning ["B6"];
    a_length_that_ends_before_the_newest_bytes ["B7"];
    a_length_that_ends_inside_the_newest_bytes ["B7"];
    messages_of_equal_length_in_one_write ["B8" "B2"];
    messages_of_unequal_length_in_one_write ["B8"]
        "Messages of 10, 20 and 10 bytes in one write";
    messages_of_unequal_length_in_separate_writes ["B8"];
    messages_that_came_one_by_one_before_attach ["B8" "A25"];
    the_end_of_one_message_with_the_start_of_the_next ["B8"];
    two_thousand_messages_as_one_stream ["B8"] "2000 messages of mixed lengths as one stream";
    two_thousand_equal_messages_as_one_stream ["B2" "B8"];
    a_stream_byte_by_byte ["B1" "B14"];
    a_negative_answer_is_the_error_of_the_connection ["B9"];
    strpipe_at_the_start_of_a_message ["B10"];
    strpipe_in_the_middle_of_a_message ["B10"];
    bytes_that_a_parser_refused ["B11"];
    nothing_is_parsed_after_an_error ["B12"];
    attaching_again_after_an_error ["B12"];
    sending_after_a_parser_error_that_was_read ["B13" "F4"];
    sending_after_a_parser_error_that_was_not_read ["B13" "F3"];
    a_failed_connection_harms_no_other ["B12"];
    a_message_in_two_halves ["B14"];
    a_message_of_half_the_receive_buffer ["B15"];
    a_message_of_three_quarters_of_the_receive_buffer ["B15"]
        "A message of 3/4 of the connection's SO_RCVBUF, head first";
    a_message_of_the_whole_receive_buffer_in_small_pieces ["B15"];
    a_parser_that_always_needs_more ["B16"] "A parser that never knows the length";
}

fn calls(t: &T, c: super::super::backend::Conn) -> String {
    t.back().calls(c).iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}

fn a_parser_is_asked_at_each_arrival_until_it_knows(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.attached(k, &Parser::Len4.traced());
    for b in msg(b'A', 10) {
        t.put(&peer, &[b]);
    }
    t.say_recv(k);
    say!(t, "asked with {} bytes", calls(t, c));
}

fn a_parser_is_asked_once_per_message_of_an_arrival(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.attached(k, &Parser::Len4.traced());
    t.put(&peer, &msgs(&[(b'A', 10), (b'B', 10), (b'C', 10)]));
    say!(t, "gets {}", t.tags(k));
    say!(t, "asked with {} bytes", calls(t, c));
}

fn a_load_past_the_end_means_need_more(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.connected(k);
    t.put(&peer, &msg(b'A', 20)[..3]);
    t.say_recv_now(k);
    say!(t, "error: {}", t.error_now(c));
    t.put(&peer, &msg(b'A', 20)[3..]);
    t.say_recv(k);
}

/// A connection with a fixed SO_RCVBUF; its value as getsockopt reports it.
fn fixed(t: &T) -> (TcpStream, TcpStream, usize) {
    let (a, peer) = t.pair_with(Buffers { recv: 8192, send: 0 });
    let size = socket2::SockRef::from(&a).recv_buffer_size().expect("SO_RCVBUF");
    (a, peer, size)
}

fn a_length_beyond_the_receive_buffer(t: &T) {
    let k = t.dgram();
    let (a, peer, size) = fixed(t);
    say!(t, "SO_RCVBUF {size}");
    let c = t.attach(k, a, &Parser::Len4);
    t.say_counters(k, &["Psock RX-TooBig"], || {
        t.put(&peer, &msg(b'A', size + 1)[..100]);
        t.say_error(c);
    });
    t.say_recv_now(k);
    let d = t.unattach(k, c);
    let mut rest = d.unread;
    rest.extend(t.peer_all(&d.stream).0);
    say!(t, "left over: {}", show(&rest));
}

fn a_length_equal_to_the_receive_buffer(t: &T) {
    let k = t.dgram();
    let (a, peer, size) = fixed(t);
    let c = t.attach(k, a, &Parser::Len4);
    t.put(&peer, &msg(b'A', size)[..100]);
    say!(t, "error: {}", t.error_now(c));
    t.say_table(k, &["psock-0"]);
}

fn the_largest_length_moves_with_autotuning(t: &T) {
    let k = t.dgram();
    let (a, mut peer) = t.pair();
    let dup = a.try_clone().expect("dup");
    let size = || socket2::SockRef::from(&dup).recv_buffer_size().expect("SO_RCVBUF");
    let at_attach = size();
    let c = t.attach(k, a, &Parser::Len4);
    let m = msg(b'A', 60_000);
    let mut sent = 0;
    // Until the system has made the buffer larger, or 24 MB have not brought it to that.
    while size() == at_attach && sent < 400 {
        peer.write_all(&m).expect("the peer's write");
        sent += 1;
        let _ = t.recv_soon(k);
    }
    t.put(&peer, &msg(b'B', at_attach + 1)[..100]);
    say!(t, "one byte more than at attach: {}", t.error_now(c));
}

fn a_length_that_ends_before_the_newest_bytes(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.attached(k, &Parser::When { least: 8, then: 4 });
    t.put(&peer, b"abcd");
    t.say_counters(k, &["Psock RX-BadLen"], || {
        t.put(&peer, b"efgh");
        t.quiet();
    });
    t.say_recv_now(k);
    say!(t, "error: {}", t.error_now(c));
}

fn a_length_that_ends_inside_the_newest_bytes(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.attached(k, &Parser::When { least: 8, then: 6 });
    t.put(&peer, b"abcd");
    t.put(&peer, b"efgh");
    t.say_recv(k);
    t.put(&peer, b"ijklmn");
    t.say_recv(k);
    say!(t, "error: {}", t.error_now(c));
}

fn lengths(list: &[super::super::backend::Got]) -> String {
    list.iter().map(|g| g.bytes.len().to_string()).collect::<Vec<_>>().join(", ")
}

fn say_all(t: &T, k: super::super::backend::Sock) -> String {
    t.within_a_second(|| t.back().ready(k).readable);
    let got = t.drain(k);
    let l = lengths(&got);
    for g in got {
        say!(t, "recv: {}", outcome(&Ok(g)));
    }
    l
}

fn messages_of_equal_length_in_one_write(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.connected(k);
    t.put(&peer, &msgs(&[(b'A', 10), (b'B', 10), (b'C', 10)]));
    say_all(t, k);
    say!(t, "error: {}", t.error_now(c));
}

fn messages_of_unequal_length_in_one_write(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.connected(k);
    t.put(&peer, &msgs(&[(b'A', 10), (b'B', 20), (b'C', 10)]));
    let l = say_all(t, k);
    say!(t, "error: {}", t.error_now(c));
    t.summary(format!("delivered as messages of {l} bytes"));
}

fn messages_of_unequal_length_in_separate_writes(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.connected(k);
    for m in [(b'A', 10), (b'B', 20), (b'C', 10)] {
        t.put(&peer, &msgs(&[m]));
    }
    say_all(t, k);
    say!(t, "error: {}", t.error_now(c));
}

fn messages_that_came_one_by_one_before_attach(t: &T) {
    let k = t.dgram();
    let (a, peer) = t.pair();
    for m in [(b'A', 10), (b'B', 20), (b'C', 10)] {
        t.put(&peer, &msgs(&[m]));
    }
    let c = t.attach(k, a, &Parser::Len4);
    say_all(t, k);
    say!(t, "error: {}", t.error_now(c));
}

fn the_end_of_one_message_with_the_start_of_the_next(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.connected(k);
    let stream = msgs(&[(b'A', 30), (b'B', 12)]);
    t.put(&peer, &stream[..15]);
    t.put(&peer, &stream[15..]);
    say_all(t, k);
    say!(t, "error: {}", t.error_now(c));
}

/// Sends a stream of 2000 messages of given lengths as fast as it is taken; how many arrive
/// intact, counted from the start.
fn stream(t: &T, length: impl Fn(u32) -> usize) -> usize {
    let k = t.dgram();
    let (a, mut peer) = t.pair_with(Buffers { recv: 65536, send: 0 });
    let _c = t.attach(k, a, &Parser::Len4);
    let want: Vec<Vec<u8>> = (0..2000).map(|i| msg(b'a' + (i % 26) as u8, length(i))).collect();
    let bytes = want.concat();
    let writer = std::thread::spawn(move || {
        peer.set_write_timeout(Some(std::time::Duration::from_millis(500))).expect("SO_SNDTIMEO");
        let _ = peer.write_all(&bytes); // stops where the receiver does
        peer
    });
    let mut intact = 0;
    while intact < want.len() && t.within_a_second(|| t.back().ready(k).readable) {
        match t.recv(k) {
            Ok(g) if g.bytes == want[intact] => intact += 1,
            _ => break,
        }
    }
    drop(writer); // it ends by itself, by its timeout at the latest
    intact
}

/// Where framing is lost depends on how TCP cut the stream: the number is not the answer.
fn say_intact(t: &T, intact: usize) {
    say!(t, "all 2000 arrive as sent: {}", intact == 2000);
    t.summary(match intact {
        2000 => "all 2000 arrive as sent",
        0..10 => "framing is lost before the tenth message",
        10..1000 => "framing is lost before the thousandth message",
        _ => "framing is lost before the end",
    });
}

fn two_thousand_messages_as_one_stream(t: &T) {
    // Reproducible lengths of 10 to 1009 bytes.
    let n = stream(t, |i| 10 + (i.wrapping_mul(2_654_435_761) >> 8) as usize % 1000);
    say_intact(t, n);
}

fn two_thousand_equal_messages_as_one_stream(t: &T) {
    let n = stream(t, |_| 50);
    say_intact(t, n);
}

fn a_stream_byte_by_byte(t: &T) {
    let k = t.dgram();
    let (c, mut peer) = t.connected(k);
    for b in msgs(&[(b'A', 10), (b'B', 20), (b'C', 10)]) {
        peer.write_all(&[b]).expect("the peer's write");
        t.pause(1);
    }
    t.quiet();
    say_all(t, k);
    say!(t, "error: {}", t.error_now(c));
}

fn a_negative_answer_is_the_error_of_the_connection(t: &T) {
    for code in [-1, -5, -71, -61, -4095] {
        let k = t.dgram();
        let (c, peer) = t.attached(k, &Parser::Const(code));
        t.say_counters(k, &["Psock RX-Intr"], || {
            t.put(&peer, b"hello");
            say!(t, "answer {code}: {}", t.error(c));
        });
        t.say_recv_now(k);
    }
}

fn strpipe_at_the_start_of_a_message(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.attached(k, &Parser::Const(-86));
    t.say_counters(k, &["Psock RX-Intr", "Psock RX-Unrecov"], || {
        t.put(&peer, b"hello");
        t.say_error(c);
    });
    let d = t.unattach(k, c);
    let mut rest = d.unread;
    rest.extend(t.peer_all(&d.stream).0);
    say!(t, "left over: {}", show(&rest));
}

fn strpipe_in_the_middle_of_a_message(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.attached(k, &Parser::When { least: 8, then: -86 });
    t.put(&peer, b"abcd");
    t.say_counters(k, &["Psock RX-Intr", "Psock RX-Unrecov"], || {
        t.put(&peer, b"efgh");
        t.say_error(c);
    });
    let d = t.unattach(k, c);
    let mut rest = d.unread;
    rest.extend(t.peer_all(&d.stream).0);
    say!(t, "left over: {}", show(&rest));
}

fn bytes_that_a_parser_refused(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.attached(k, &Parser::When { least: 8, then: -5 });
    t.put(&peer, b"abcd");
    t.put(&peer, b"efgh");
    t.say_error(c);
    t.put(&peer, b"ijkl");
    let d = t.unattach(k, c);
    let mut rest = d.unread;
    rest.extend(t.peer_all(&d.stream).0);
    say!(t, "left over: {}", String::from_utf8_lossy(&rest));
}

fn nothing_is_parsed_after_an_error(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.attached(k, &Parser::Len4.traced());
    t.put(&peer, &msg(b'A', 20));
    t.put(&peer, b"\x7f\xff\xff\0"); // far too long
    t.say_error(c);
    t.put(&peer, &msg(b'B', 20));
    say!(t, "gets {}", t.tags(k));
    say!(t, "asked {} times", t.back().calls(c).len());
}

fn attaching_again_after_an_error(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.attached(k, &Parser::Const(-5));
    t.put(&peer, &msg(b'A', 20));
    t.say_error(c);
    let d = t.unattach(k, c);
    // The refused bytes are read by hand, and the stream is in order again.
    let mut rest = d.unread;
    rest.extend(t.peer_all(&d.stream).0);
    say!(t, "left over: {}", show(&rest));
    d.stream.set_read_timeout(None).expect("SO_RCVTIMEO");
    let r = t.back().attach(k, d.stream, &Parser::Len4);
    say!(t, "attach: {}", okay(&r.map_err(|r| r.errno)));
    t.put(&peer, &msg(b'B', 20));
    t.say_recv(k);
}

fn sending_after_a_parser_error_that_was_read(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.attached(k, &Parser::Const(-5));
    t.put(&peer, b"hello");
    t.say_error(c);
    say!(t, "send: {}", count(&t.send(k, b"zzz")));
    t.quiet();
    t.say_peer("peer", &peer);
    say!(t, "error read again: {}", t.error_now(c));
}

fn sending_after_a_parser_error_that_was_not_read(t: &T) {
    super::super::signal::count_sigpipe();
    let k = t.dgram();
    let (c, peer) = t.attached(k, &Parser::Const(-5));
    t.put(&peer, b"hello");
    t.quiet();
    say!(t, "send: {}", count(&t.send(k, b"zzz")));
    t.quiet();
    t.say_peer("peer", &peer);
    say!(t, "error: {}", t.error_now(c));
}

fn a_failed_connection_harms_no_other(t: &T) {
    let k = t.dgram();
    let (bad, p1) = t.attached(k, &Parser::Const(-5));
    let (good, p2) = t.connected(k);
    t.put(&p1, b"hello");
    t.say_error(bad);
    t.put(&p2, &msg(b'A', 20));
    t.say_recv(k);
    say!(t, "the other's error: {}", t.error_now(good));
}

fn a_message_in_two_halves(t: &T) {
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    t.put(&peer, &msg(b'A', 20)[..10]);
    t.say_recv_now(k);
    t.put(&peer, &msg(b'A', 20)[10..15]);
    t.say_recv_now(k);
    t.put(&peer, &msg(b'A', 20)[15..]);
    t.say_recv(k);
}

/// Ten bytes, then the rest in pieces of at most `piece`; true if the message arrives.
fn head_first(t: &T, parts_of_four: usize, piece: usize) -> bool {
    let k = t.dgram();
    let (a, mut peer, size) = fixed(t);
    let c = t.attach(k, a, &Parser::Len4);
    let m = msg(b'A', size * parts_of_four / 4);
    peer.set_nonblocking(true).expect("O_NONBLOCK");
    t.put(&peer, &m[..10]);
    let mut at = 10;
    let arrived = t.within_a_second(|| {
        if let Ok(n) = peer.write(&m[at..m.len().min(at + piece)]) {
            at += n;
        }
        t.back().ready(k).readable
    });
    say!(
        t,
        "{} bytes of SO_RCVBUF {size}: {}",
        m.len(),
        if arrived { "delivered" } else { "stalls" }
    );
    say!(t, "error: {}", t.error_now(c));
    arrived
}

fn a_message_of_half_the_receive_buffer(t: &T) {
    head_first(t, 2, usize::MAX / 2);
}

fn a_message_of_three_quarters_of_the_receive_buffer(t: &T) {
    let ok = head_first(t, 3, usize::MAX / 2);
    t.summary(if ok { "delivered" } else { "stalls for ever: no message, no error" });
}

fn a_message_of_the_whole_receive_buffer_in_small_pieces(t: &T) {
    head_first(t, 4, 100);
}

fn a_parser_that_always_needs_more(t: &T) {
    let k = t.dgram();
    let (c, mut peer) = t.attached(k, &Parser::Const(0));
    peer.set_write_timeout(Some(std::time::Duration::from_millis(200))).expect("SO_SNDTIMEO");
    let mut pushed = 0usize;
    while pushed < 24 << 20 {
        match peer.write(&[0; 1 << 16]) {
            Ok(n) => pushed += n,
            Err(_) => break,
        }
    }
    let all = pushed >= 24 << 20;
    let error = t.error_now(c);
    let how = if all { "all 24 MB" } else { "less than 24 MB" };
    say!(t, "the peer could push {how}; error: {error}");
    say!(t, "cause: {}", t.back().cause(c));
    t.summary(if all {
        format!("{} MB swallowed and held, error: {error}", pushed >> 20)
    } else {
        format!("stopped, with a cause: {}", t.back().cause(c))
    });
}
