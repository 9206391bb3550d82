//! Receiving over real connections: semantics A25, B, C, E.

use std::time::Duration;

use kcm_core::{KcmSocket, PsockError, RecvError, SocketType};
use kcm_tests::codec::{Be32, Lines, frame, number, numbered, payload};
use kcm_tests::engine::{attach_options, has_taken, runs};
use kcm_tests::harness::{eventually, poll_once, soon};
use kcm_tests::peer::{PairOptions, Peer, pair, pair_with};

fn dgram() -> KcmSocket {
    KcmSocket::new(SocketType::Dgram)
}

async fn recv(socket: &KcmSocket) -> Vec<u8> {
    soon("a message", socket.recv()).await.unwrap().to_vec()
}

#[tokio::test]
async fn a_message_split_at_any_byte_is_delivered_once() {
    if !runs("receive::a_message_split_at_any_byte_is_delivered_once") {
        return;
    }
    let bytes = [frame("hello"), frame("world!")].concat();
    for cut in 1..bytes.len() {
        let socket = dgram();
        let (mut peer, stream) = pair().await;
        let psock = socket.attach_with(stream, &Be32, attach_options()).unwrap();
        peer.send_split(&bytes, &[cut], async |sent| {
            let read = || has_taken(&psock, sent as u64);
            eventually("the piece to be read", read).await;
        })
        .await
        .unwrap();
        assert_eq!(recv(&socket).await, frame("hello"), "cut at {cut}");
        assert_eq!(recv(&socket).await, frame("world!"), "cut at {cut}");
        assert_eq!(socket.try_recv().unwrap_err(), RecvError::WouldBlock);
    }
}

#[tokio::test]
async fn one_byte_segments_make_whole_messages() {
    if !runs("receive::one_byte_segments_make_whole_messages") {
        return;
    }
    let socket = dgram();
    let (mut peer, stream) = pair().await;
    socket.attach_with(stream, &Be32, attach_options()).unwrap();
    for seq in 0..20 {
        for byte in numbered(0, seq, 30) {
            peer.send(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
    }
    for seq in 0..20 {
        assert_eq!(number(&recv(&socket).await), Some((0, seq)));
    }
}

#[tokio::test]
async fn messages_of_different_lengths_in_one_write_are_told_apart() {
    if !runs("receive::messages_of_different_lengths_in_one_write_are_told_apart") {
        return;
    }
    // semantics B8: the kernel shows the program the first header each time.
    let socket = dgram();
    let (mut peer, stream) = pair().await;
    socket.attach_with(stream, &Be32, attach_options()).unwrap();
    let sizes = [6, 16, 6, 0, 300, 1];
    let all: Vec<u8> = sizes.iter().flat_map(|&n| frame(vec![7; n])).collect();
    peer.send(&all).await.unwrap();
    for n in sizes {
        assert_eq!(payload(&recv(&socket).await), vec![7; n]);
    }
}

#[tokio::test]
async fn what_came_before_attach_is_delivered() {
    if !runs("receive::what_came_before_attach_is_delivered") {
        return;
    }
    // semantics A25, kernel-faults row 54: 0, half, 1, 1½ messages queued, nothing new.
    for queued in [0, 4, 9, 13] {
        let bytes = [frame("first"), frame("secnd")].concat();
        let socket = dgram();
        let (mut peer, stream) = pair().await;
        peer.send(&bytes[..queued]).await.unwrap();
        let arrived = || kcm_tests::peer::queued(&stream).unwrap() == queued;
        eventually("the bytes to arrive", arrived).await;
        let psock = socket.attach_with(stream, &Be32, attach_options()).unwrap();
        let read = || has_taken(&psock, queued as u64);
        eventually("the bytes to be read", read).await;
        for text in ["first", "secnd"].iter().take(queued / 9) {
            assert_eq!(payload(&recv(&socket).await), text.as_bytes());
        }
        assert_eq!(socket.try_recv().unwrap_err(), RecvError::WouldBlock);
        peer.send(&bytes[queued..]).await.unwrap();
        for text in ["first", "secnd"].iter().skip(queued / 9) {
            assert_eq!(payload(&recv(&socket).await), text.as_bytes());
        }
    }
}

#[tokio::test]
async fn bytes_the_application_read_before_attach_come_first() {
    if !runs("receive::bytes_the_application_read_before_attach_come_first") {
        return;
    }
    let socket = dgram();
    let (mut peer, stream) = pair().await;
    let bytes = frame("shared between two reads");
    peer.send(&bytes[10..]).await.unwrap();
    let options = attach_options().initial(bytes[..10].to_vec());
    socket.attach_with(stream, &Be32, options).unwrap();
    assert_eq!(recv(&socket).await, bytes);
}

#[tokio::test]
async fn a_message_as_large_as_the_limit_passes_through_a_tiny_window() {
    if !runs("receive::a_message_as_large_as_the_limit_passes_through_a_tiny_window") {
        return;
    }
    // semantics B15, kernel-faults rows 40, 41: the header first, then more than the window
    // holds.
    let options = PairOptions { recv_buffer: Some(4096), ..PairOptions::default() };
    for share in [0.5, 0.75, 1.0, 4.0] {
        let socket = dgram();
        let (mut peer, stream) = pair_with(options).await.unwrap();
        let limit = socket2::SockRef::from(&stream).recv_buffer_size().unwrap();
        let message = numbered(1, 2, (limit as f64 * share) as usize - 4);
        let max = (share * limit as f64).max(limit as f64) as u32;
        let options = attach_options().max_message(max);
        let psock = socket.attach_with(stream, &Be32, options).unwrap();
        peer.send(&message[..4]).await.unwrap();
        let read = || has_taken(&psock, 4);
        eventually("the header to be read", read).await;
        peer.send(&message[4..]).await.unwrap();
        assert_eq!(recv(&socket).await, message);
        assert_eq!(psock.error(), None);
    }
}

#[tokio::test]
async fn messages_rotate_over_the_sockets_one_arrival_each() {
    if !runs("receive::messages_rotate_over_the_sockets_one_arrival_each") {
        return;
    }
    // semantics C2
    let first = dgram();
    let sockets = [first.try_clone().unwrap(), first.try_clone().unwrap()];
    let sockets = [&first, &sockets[0], &sockets[1]];
    let (mut peer, stream) = pair().await;
    let psock = first.attach_with(stream, &Be32, attach_options()).unwrap();
    for seq in 0..9 {
        peer.send(&numbered(0, seq, 8)).await.unwrap();
        let read = || psock.stats().unwrap().rx_msgs == u64::from(seq) + 1;
        eventually("the message to be read", read).await;
    }
    for (k, socket) in sockets.iter().enumerate() {
        for round in 0..3 {
            let message = socket.try_recv().unwrap();
            assert_eq!(number(&message), Some((0, round * 3 + k as u32)));
        }
        assert!(socket.try_recv().is_err());
    }
}

#[tokio::test]
async fn a_burst_goes_to_one_socket() {
    if !runs("receive::a_burst_goes_to_one_socket") {
        return;
    }
    // semantics C1, C2: three messages in one arrival.
    let k = dgram();
    let k2 = k.try_clone().unwrap();
    let (mut peer, stream) = pair().await;
    let psock = k.attach_with(stream, &Be32, attach_options()).unwrap();
    for burst in 0..2 {
        let bytes: Vec<u8> = (0..3).flat_map(|n| numbered(0, burst * 3 + n, 8)).collect();
        peer.send(&bytes).await.unwrap();
        let read = || psock.stats().unwrap().rx_msgs == u64::from(burst + 1) * 3;
        eventually("the burst to be read", read).await;
    }
    for (socket, from) in [(&k, 0), (&k2, 3)] {
        for n in 0..3 {
            assert_eq!(number(&socket.try_recv().unwrap()), Some((0, from + n)));
        }
        assert!(socket.try_recv().is_err());
    }
}

#[tokio::test]
async fn two_receivers_on_one_socket_get_one_message_each_in_the_order_they_came() {
    if !runs("receive::two_receivers_on_one_socket_get_one_message_each_in_the_order_they_came") {
        return;
    }
    // semantics C17
    let socket = dgram();
    let (mut peer, stream) = pair().await;
    socket.attach_with(stream, &Be32, attach_options()).unwrap();
    let mut a = Box::pin(socket.recv());
    let mut b = Box::pin(socket.recv());
    assert!(poll_once(a.as_mut()).is_pending());
    assert!(poll_once(b.as_mut()).is_pending());
    peer.send(&[frame("1"), frame("2")].concat()).await.unwrap();
    let (a, b) = soon("both", async { tokio::join!(a, b) }).await;
    assert_eq!((payload(&a.unwrap()), payload(&b.unwrap())), (&b"1"[..], &b"2"[..]));
}

#[tokio::test]
async fn a_dropped_recv_takes_nothing_and_passes_its_turn_on() {
    if !runs("receive::a_dropped_recv_takes_nothing_and_passes_its_turn_on") {
        return;
    }
    let socket = dgram();
    let (mut peer, stream) = pair().await;
    socket.attach_with(stream, &Be32, attach_options()).unwrap();
    let mut a = Box::pin(socket.recv());
    let mut b = Box::pin(socket.recv());
    assert!(poll_once(a.as_mut()).is_pending());
    assert!(poll_once(b.as_mut()).is_pending());
    peer.send(&frame("only")).await.unwrap();
    eventually("the message to come", || socket.is_readable()).await;
    // The first was woken; it goes away without looking.
    drop(a);
    assert_eq!(payload(&soon("the second", b).await.unwrap()), b"only");
}

#[tokio::test]
async fn a_full_socket_parks_the_connection_and_tcp_holds_the_rest() {
    if !runs("receive::a_full_socket_parks_the_connection_and_tcp_holds_the_rest") {
        return;
    }
    // semantics C4, C8: back-pressure, no loss.
    let socket = KcmSocket::builder(SocketType::Dgram).recv_buffer(1000).build();
    let (mut peer, stream) = pair().await;
    let psock = socket.attach_with(stream, &Be32, attach_options()).unwrap();
    let writer = tokio::spawn(async move {
        for seq in 0..3000 {
            peer.send(&numbered(0, seq, 4000)).await.unwrap();
        }
        peer
    });
    eventually("the connection to be parked", || psock.stats().unwrap().parked_msgs > 0).await;
    let held = socket.mux_stats();
    assert!(held.queued_bytes < 1000 + 4012, "{held:?}");
    for seq in 0..3000 {
        assert_eq!(number(&recv(&socket).await), Some((0, seq)));
    }
    soon("the peer", writer).await.unwrap();
    assert_eq!(socket.stats().rx_msgs, 3000);
}

#[tokio::test]
async fn a_disabled_socket_hands_its_messages_to_the_others_in_order() {
    if !runs("receive::a_disabled_socket_hands_its_messages_to_the_others_in_order") {
        return;
    }
    // semantics C12, J14
    let k = dgram();
    let k2 = k.try_clone().unwrap();
    let (mut peer, stream) = pair().await;
    let psock = k.attach_with(stream, &Be32, attach_options()).unwrap();
    for seq in 0..4 {
        peer.send(&numbered(0, seq, 8)).await.unwrap();
        let read = || psock.stats().unwrap().rx_msgs == u64::from(seq) + 1;
        eventually("the message to be read", read).await;
    }
    k.set_recv_disabled(true);
    assert!(k.try_recv().is_err());
    for seq in 0..4 {
        assert_eq!(number(&k2.try_recv().unwrap()), Some((0, seq)), "per connection in order");
    }
    // With all disabled, messages wait on the connection (C15), until one is enabled.
    k2.set_recv_disabled(true);
    peer.send(&numbered(0, 4, 8)).await.unwrap();
    eventually("the message to be parked", || psock.stats().unwrap().parked_msgs == 1).await;
    k.set_recv_disabled(false);
    assert_eq!(number(&k.try_recv().unwrap()), Some((0, 4)));
}

#[tokio::test]
async fn a_closed_socket_hands_its_messages_to_the_others() {
    if !runs("receive::a_closed_socket_hands_its_messages_to_the_others") {
        return;
    }
    // semantics A41
    let k = dgram();
    let k2 = k.try_clone().unwrap();
    let (mut peer, stream) = pair().await;
    let psock = k.attach_with(stream, &Be32, attach_options()).unwrap();
    for seq in 0..2 {
        peer.send(&numbered(0, seq, 8)).await.unwrap();
        let read = || psock.stats().unwrap().rx_msgs == u64::from(seq) + 1;
        eventually("the message to be read", read).await;
    }
    drop(k);
    assert_eq!(number(&k2.try_recv().unwrap()), Some((0, 0)));
    assert_eq!(number(&k2.try_recv().unwrap()), Some((0, 1)));
    // The connection lives as long as one socket does (kernel-faults row 10).
    peer.send(&numbered(0, 2, 8)).await.unwrap();
    assert_eq!(number(&recv(&k2).await), Some((0, 2)));
}

#[tokio::test]
async fn a_receiver_that_waits_on_a_clone_gets_what_moves_to_it() {
    if !runs("receive::a_receiver_that_waits_on_a_clone_gets_what_moves_to_it") {
        return;
    }
    let k = dgram();
    let k2 = k.try_clone().unwrap();
    let (mut peer, stream) = pair().await;
    k.attach_with(stream, &Be32, attach_options()).unwrap();
    peer.send(&frame("moved")).await.unwrap();
    eventually("the message", || k.is_readable()).await;
    let mut waiting = Box::pin(k2.recv());
    assert!(poll_once(waiting.as_mut()).is_pending());
    k.set_recv_disabled(true);
    assert_eq!(payload(&soon("the moved message", waiting).await.unwrap()), b"moved");
}

#[tokio::test]
async fn every_form_of_receive_takes_from_the_same_queue_in_order() {
    if !runs("receive::every_form_of_receive_takes_from_the_same_queue_in_order") {
        return;
    }
    let socket = dgram();
    let (mut peer, stream) = pair().await;
    let psock = socket.attach(stream, &Lines).unwrap();
    peer.send(b"1\n2\n3\n4\n5\n6\n7\n8\n").await.unwrap();
    eventually("all messages", || psock.stats().unwrap().rx_msgs == 8).await;
    assert_eq!(&*socket.peek().await.unwrap(), b"1\n");
    assert_eq!(&*socket.recv().await.unwrap(), b"1\n");
    let mut many = Vec::new();
    assert_eq!(socket.recv_many(&mut many, 0).await.unwrap(), 0);
    assert_eq!(socket.recv_many(&mut many, 2).await.unwrap(), 2);
    assert_eq!(many.iter().map(|m| m.to_vec()).collect::<Vec<_>>(), [b"2\n", b"3\n"]);
    let mut buf = [0; 16];
    let peeked = socket.peek_into(&mut buf).await.unwrap();
    assert_eq!((peeked.copied, &buf[..2]), (2, &b"4\n"[..]));
    let got = socket.recv_into(&mut buf).await.unwrap();
    assert_eq!((got.copied, got.end_of_record, got.psock), (2, true, psock.id()));
    let two = socket.recv_batch_max(2).await.unwrap();
    assert_eq!(two.iter().collect::<Vec<_>>(), [b"5\n", b"6\n"]);
    let rest = socket.recv_batch().await.unwrap();
    assert_eq!(rest.iter().collect::<Vec<_>>(), [b"7\n", b"8\n"]);
    assert_eq!(rest.psock(), psock.id());
    assert_eq!(socket.try_recv_batch().unwrap_err(), RecvError::WouldBlock);
    assert_eq!(socket.stats().rx_msgs, 8);
}

#[tokio::test]
async fn a_short_read_keeps_the_rest_on_seqpacket_and_cuts_on_dgram() {
    if !runs("receive::a_short_read_keeps_the_rest_on_seqpacket_and_cuts_on_dgram") {
        return;
    }
    // semantics E3, J4 (exceeding E4), E6; kernel-faults rows 19, 65
    for kind in [SocketType::Seqpacket, SocketType::Dgram] {
        let socket = KcmSocket::new(kind);
        let (mut peer, stream) = pair().await;
        socket.attach(stream, &Lines).unwrap();
        peer.send(b"abcde\nnext\n").await.unwrap();
        let mut none = [0; 0];
        let got = soon("a message", socket.recv_into(&mut none)).await.unwrap();
        assert_eq!((got.copied, got.len), (0, 6), "an empty read destroys nothing");
        let mut buf = [0; 4];
        let got = socket.try_recv_into(&mut buf).unwrap();
        assert_eq!((got.copied, got.len, &buf), (4, 6, b"abcd"));
        let got = match kind {
            SocketType::Seqpacket => {
                assert!(!got.end_of_record && !got.truncated);
                let rest = socket.try_recv_into(&mut buf).unwrap();
                assert_eq!((&buf[..rest.copied], rest.end_of_record), (&b"e\n"[..], true));
                socket.recv().await.unwrap()
            }
            SocketType::Dgram => {
                assert!(got.end_of_record && got.truncated);
                socket.recv().await.unwrap()
            }
        };
        assert_eq!(&*got, b"next\n");
    }
}

#[tokio::test]
async fn readiness_is_true() {
    if !runs("receive::readiness_is_true") {
        return;
    }
    // semantics J5, kernel-faults row 55: a wake-up means that the next receive succeeds.
    let socket = dgram();
    let (mut peer, stream) = pair().await;
    socket.attach_with(stream, &Be32, attach_options()).unwrap();
    assert!(!socket.is_readable());
    let mut readable = Box::pin(socket.readable());
    assert!(poll_once(readable.as_mut()).is_pending());
    peer.send(&frame("now")).await.unwrap();
    soon("readiness", readable).await;
    assert_eq!(payload(&socket.try_recv().unwrap()), b"now");
    assert!(!socket.is_readable());
}

#[tokio::test]
async fn a23_connections_of_one_multiplexor_have_parsers_and_limits_of_their_own() {
    if !runs("receive::a23_connections_of_one_multiplexor_have_parsers_and_limits_of_their_own") {
        return;
    }
    let socket = dgram();
    let (mut binary, stream) = pair().await;
    let short = attach_options().max_message(20);
    let psock = socket.attach_with(stream, &Be32, short).unwrap();
    let (mut text, stream) = pair().await;
    let lines = socket.attach(stream, &Lines).unwrap();
    binary.send(&frame("a\nb")).await.unwrap();
    let message = soon("a message", socket.recv()).await.unwrap();
    assert_eq!((payload(&message), message.psock()), (&b"a\nb"[..], psock.id()));
    let long = [&[b'x'; 100][..], b"\n"].concat();
    text.send(&long).await.unwrap();
    let message = soon("a message", socket.recv()).await.unwrap();
    assert_eq!((&*message, message.psock()), (&long[..], lines.id()));
    binary.send(&frame([0; 100])).await.unwrap();
    let cause = soon("the limit", psock.closed()).await;
    assert_eq!(cause, PsockError::TooLong { len: 104, limit: 20 });
    assert_eq!(lines.error(), None);
}

#[tokio::test]
async fn urgent_data_is_ordinary_data() {
    if !runs("receive::urgent_data_is_ordinary_data") {
        return;
    }
    // semantics J18 (exceeding B27), kernel-faults row 73
    let socket = dgram();
    let (mut peer, stream) = pair().await;
    socket.attach(stream, &Lines).unwrap();
    peer.send(b"a").await.unwrap();
    peer.send_urgent(b'!').unwrap();
    peer.send(b"z\nlater\n").await.unwrap();
    assert_eq!(recv(&socket).await, b"a!z\n");
    assert_eq!(recv(&socket).await, b"later\n");
}

#[tokio::test]
async fn a_receive_ends_with_the_last_connection_if_asked_to() {
    if !runs("receive::a_receive_ends_with_the_last_connection_if_asked_to") {
        return;
    }
    // semantics J13 (exceeding D22, E9)
    let socket = KcmSocket::builder(SocketType::Dgram).end_with_psocks(true).build();
    let clone = socket.try_clone().unwrap();
    clone.set_recv_disabled(true);
    let (mut peer, stream) = pair().await;
    socket.attach_with(stream, &Be32, attach_options()).unwrap();
    let mut first = Box::pin(clone.recv());
    let mut second = Box::pin(clone.recv());
    assert!(poll_once(first.as_mut()).is_pending());
    assert!(poll_once(second.as_mut()).is_pending());
    peer.send(&frame("last")).await.unwrap();
    peer.finish().await.unwrap();
    assert_eq!(payload(&recv(&socket).await), b"last");
    let end = soon("the end", socket.recv()).await.unwrap_err();
    assert_eq!(end, RecvError::NoPsockLeft);
    let (first, second) = soon("both waiters", async { tokio::join!(first, second) }).await;
    assert_eq!(first.unwrap_err(), RecvError::NoPsockLeft);
    assert_eq!(second.unwrap_err(), RecvError::NoPsockLeft);
}

#[tokio::test(start_paused = true)]
async fn an_unfinished_message_times_out_and_an_idle_connection_does_not() {
    if !runs("receive::an_unfinished_message_times_out_and_an_idle_connection_does_not") {
        return;
    }
    // semantics B18 to B20. The clock is tokio's, and runs only when nothing else does.
    let socket = dgram();
    let (mut peer, stream) = tokio::io::duplex(1024);
    let options = attach_options().assembly_timeout(Duration::from_secs(5));
    let psock = socket.attach_with(stream, &Be32, options).unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(psock.error(), None, "idle is not late");
    use tokio::io::AsyncWriteExt;
    peer.write_all(&frame("in time")).await.unwrap();
    assert_eq!(payload(&socket.recv().await.unwrap()), b"in time");
    let start = tokio::time::Instant::now();
    peer.write_all(&frame("late")[..2]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    peer.write_all(&frame("late")[2..6]).await.unwrap();
    let cause = psock.closed().await;
    assert_eq!(cause, PsockError::TimedOut { have: 6, need: Some(8) });
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(5) && took < Duration::from_secs(6), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_messages_of_many_connections_reach_many_sockets_once_and_in_order() {
    if !runs(
        "receive::ten_thousand_messages_of_many_connections_reach_many_sockets_once_and_in_order",
    ) {
        return;
    }
    const CONNS: u32 = 8;
    const EACH: u32 = 1250;
    let first = dgram();
    let mut sockets = vec![first.try_clone().unwrap(), first.try_clone().unwrap()];
    sockets.push(first);
    let mut peers = Vec::new();
    for conn in 0..CONNS {
        let (mut peer, stream) = pair().await;
        sockets[0].attach_with(stream, &Be32, attach_options()).unwrap();
        peers.push(tokio::spawn(async move {
            let mut rng = kcm_tests::harness::Rng::new(conn.into());
            let mut bytes = Vec::new();
            for seq in 0..EACH {
                bytes.extend(numbered(conn, seq, rng.below(2000)));
                if rng.below(4) == 0 {
                    // In pieces that end anywhere.
                    let cut = rng.below(bytes.len());
                    peer.send(&bytes[..cut]).await.unwrap();
                    bytes.drain(..cut);
                }
            }
            peer.send(&bytes).await.unwrap();
            peer
        }));
    }
    let (tx, mut rx) = tokio::sync::mpsc::unbounded_channel();
    let workers: Vec<_> = sockets
        .into_iter()
        .map(|socket| {
            let tx = tx.clone();
            tokio::spawn(async move {
                let mut seen = std::collections::HashMap::new();
                loop {
                    let message = socket.recv().await.unwrap();
                    let (conn, seq) = number(&message).expect("content as sent");
                    // Within one socket the order of each connection holds.
                    let last = seen.insert(conn, seq);
                    assert!(last.is_none_or(|last| last < seq), "{conn}: {last:?}, {seq}");
                    tx.send((conn, seq)).unwrap();
                }
            })
        })
        .collect();
    let mut got = std::collections::HashSet::new();
    soon("all messages", async {
        while got.len() < (CONNS * EACH) as usize {
            let message = rx.recv().await.unwrap();
            assert!(got.insert(message), "{message:?} twice");
        }
    })
    .await;
    for peer in peers {
        peer.await.unwrap();
    }
    assert!(rx.try_recv().is_err(), "nothing more");
    workers.iter().for_each(|w| w.abort());
}

/// A socket and its clone, with `n` messages of one batch at the first.
async fn one_batch(n: usize, builder: kcm_core::Builder) -> (KcmSocket, KcmSocket, Peer) {
    let socket = builder.build();
    let clone = socket.try_clone().unwrap();
    let (mut peer, stream) = pair().await;
    let burst: Vec<u8> = (0..n as u32).flat_map(|seq| frame(seq.to_be_bytes())).collect();
    peer.send(&burst).await.unwrap();
    socket.attach(stream, &Be32).unwrap();
    eventually("the messages", || socket.mux_stats().rx_msgs == n as u64).await;
    (socket, clone, peer)
}

fn sequence(message: &[u8]) -> u32 {
    u32::from_be_bytes(*payload(message).first_chunk().unwrap())
}

#[tokio::test]
async fn messages_taken_one_by_one_are_measured_and_peeked_at_as_if_each_had_its_own_batch() {
    if !runs(
        "receive::messages_taken_one_by_one_are_measured_and_peeked_at_as_if_each_had_its_own_batch",
    ) {
        return;
    }
    let (socket, _clone, _peer) = one_batch(10, KcmSocket::builder(SocketType::Dgram)).await;
    for taken in 0..9 {
        assert_eq!(sequence(&recv(&socket).await), taken);
        let stats = socket.stats();
        assert_eq!((stats.rx_msgs, stats.recv_queued_msgs), (taken as u64 + 1, 9 - taken as u64));
        assert_eq!(stats.recv_queued_bytes, 8 * (9 - taken as u64));
        assert_eq!(socket.mux_stats().delivered_msgs, taken as u64 + 1);
        assert!(socket.is_readable());
        if taken % 2 == 1 {
            assert_eq!(sequence(&socket.try_peek().unwrap()), taken + 1);
        }
    }
    assert_eq!(sequence(&socket.try_recv().unwrap()), 9);
    assert!(!socket.is_readable());
    assert_eq!(socket.try_recv(), Err(RecvError::WouldBlock));
}

#[tokio::test]
async fn after_one_message_of_a_batch_every_other_way_to_receive_takes_the_next() {
    if !runs("receive::after_one_message_of_a_batch_every_other_way_to_receive_takes_the_next") {
        return;
    }
    let (socket, _clone, _peer) = one_batch(40, KcmSocket::builder(SocketType::Seqpacket)).await;
    let mut next = 0;
    let mut expect = |message: &[u8]| {
        assert_eq!(sequence(message), next);
        next += 1;
    };
    for _ in 0..4 {
        expect(&recv(&socket).await);
        expect(&socket.recv_batch_max(1).await.unwrap().pop().unwrap());
        expect(&socket.try_recv().unwrap());
        let mut many = Vec::new();
        assert_eq!(socket.recv_many(&mut many, 2).await, Ok(2));
        many.iter().for_each(|m| expect(m));
        expect(&recv(&socket).await);
        // In two pieces: the rest is the next thing that comes.
        let mut message = [0; 8];
        assert_eq!(socket.recv_into(&mut message[..5]).await.unwrap().copied, 5);
        assert_eq!(socket.try_recv_into(&mut message[5..]).unwrap().copied, 3);
        expect(&message);
        expect(&recv(&socket).await);
    }
    let rest = socket.try_recv_batch().unwrap();
    rest.iter().for_each(expect);
    assert_eq!(next, 40);
}

#[tokio::test]
async fn what_is_left_of_a_batch_moves_when_its_socket_is_disabled_or_dropped() {
    if !runs("receive::what_is_left_of_a_batch_moves_when_its_socket_is_disabled_or_dropped") {
        return;
    }
    for drop_it in [false, true] {
        let (socket, clone, _peer) = one_batch(10, KcmSocket::builder(SocketType::Dgram)).await;
        for taken in 0..3 {
            assert_eq!(sequence(&recv(&socket).await), taken);
        }
        if drop_it {
            drop(socket);
        } else {
            socket.set_recv_disabled(true);
            assert_eq!(socket.try_recv(), Err(RecvError::WouldBlock));
        }
        for left in 3..10 {
            assert_eq!(sequence(&recv(&clone).await), left);
        }
        assert_eq!(clone.mux_stats().delivered_msgs, 10);
    }
}

#[tokio::test]
async fn a_full_socket_takes_messages_again_at_its_low_water_also_inside_a_batch() {
    if !runs("receive::a_full_socket_takes_messages_again_at_its_low_water_also_inside_a_batch") {
        return;
    }
    // semantics J15; 8 bytes a message
    let builder = KcmSocket::builder(SocketType::Dgram).recv_buffer(80).recv_low_water(40);
    let (socket, clone, _peer) = one_batch(30, builder).await;
    // Ten messages at each of the two, ten parked.
    assert_eq!(socket.mux_stats().parked_msgs, 10);
    for taken in 1..=6 {
        recv(&socket).await;
        let left = socket.mux_stats().parked_msgs;
        assert_eq!(left, if taken < 6 { 10 } else { 4 }, "after {taken}");
    }
    assert_eq!(clone.stats().recv_queued_msgs, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_who_waits_at_a_socket_gets_a_message_of_one_batch() {
    if !runs("receive::everybody_who_waits_at_a_socket_gets_a_message_of_one_batch") {
        return;
    }
    let socket = std::sync::Arc::new(KcmSocket::new(SocketType::Dgram));
    let (mut peer, stream) = pair().await;
    socket.attach(stream, &Be32).unwrap();
    for _ in 0..50 {
        let waiters: Vec<_> = (0..4)
            .map(|_| {
                let socket = socket.clone();
                tokio::spawn(async move { socket.recv().await.unwrap() })
            })
            .collect();
        peer.send(&frame("m").repeat(4)).await.unwrap();
        for waiter in waiters {
            assert_eq!(payload(&soon("a message", waiter).await.unwrap()), b"m");
        }
    }
}
