//! Sending over real connections: semantics D, J5 to J9.

use std::collections::HashSet;

use kcm_core::{KcmSocket, PsockError, SendError, SendFlags, SocketType};
use kcm_tests::codec::{Be32, frame, number, numbered, payload};
use kcm_tests::harness::{eventually, poll_once, soon};
use kcm_tests::peer::{PairOptions, pair, pair_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn dgram() -> KcmSocket {
    KcmSocket::new(SocketType::Dgram)
}

/// A connection whose peer takes little before it must read.
const NARROW: PairOptions =
    PairOptions { recv_buffer: None, peer_recv_buffer: Some(4096), send_buffer: Some(4096) };

#[tokio::test]
async fn a_lone_message_leaves_in_the_caller() {
    let socket = dgram();
    let (mut peer, stream) = pair().await;
    let psock = socket.attach(stream, &Be32).unwrap();
    // No await between: nobody else has run.
    assert_eq!(socket.try_send(frame("now")).unwrap(), 7);
    assert_eq!(psock.stats().unwrap().tx_msgs, 1);
    assert_eq!(peer.read_frame().await.unwrap(), b"now");
}

#[tokio::test]
async fn a_burst_leaves_in_few_writes_and_its_first_message_at_once() {
    // Behaviour of the send path: the connection's task writes what came until its turn.
    let socket = dgram();
    let (mut peer, stream) = pair().await;
    let psock = socket.attach(stream, &Be32).unwrap();
    // The task has its first turn.
    tokio::task::yield_now().await;
    let sent = |psock: &kcm_core::Psock| psock.stats().unwrap().tx_msgs;
    for seq in 0..1000 {
        assert_eq!(socket.try_send(numbered(0, seq, 20)).unwrap(), 24);
        if seq == 0 {
            assert_eq!(sent(&psock), 1);
        }
    }
    // No await so far: nobody else has run.
    assert!(sent(&psock) < 1000, "a system call for each");
    let stats = socket.stats();
    assert_eq!((stats.tx_msgs, stats.tx_bytes), (1000, 24_000));
    for seq in 0..1000 {
        let got = frame(soon("all", peer.read_frame()).await.unwrap());
        assert_eq!(number(&got), Some((0, seq)));
    }
    // A lull: the next is a message alone again.
    eventually("everything to be out", || socket.stats().send_queued_msgs == 0).await;
    for _ in 0..3 {
        tokio::task::yield_now().await;
    }
    socket.try_send(frame("alone")).unwrap();
    assert_eq!(sent(&psock), 1001);
}

#[tokio::test]
async fn a_flush_leaves_nothing_to_the_connections_task() {
    let socket = dgram();
    let (mut peer, stream) = pair().await;
    let psock = socket.attach(stream, &Be32).unwrap();
    tokio::task::yield_now().await;
    for seq in 0..200 {
        socket.try_send(numbered(0, seq, 20)).unwrap();
    }
    socket.try_flush().unwrap();
    assert_eq!(psock.stats().unwrap().tx_msgs, 200);
    for seq in 0..200 {
        assert_eq!(number(&frame(peer.read_frame().await.unwrap())), Some((0, seq)));
    }
}

#[tokio::test]
async fn what_was_left_to_a_connections_task_leaves_before_the_socket_is_dropped() {
    // semantics J9 is about connections that take no more; these do.
    for last in [false, true] {
        let socket = dgram();
        let other = socket.try_clone().unwrap();
        let (mut peer, stream) = pair().await;
        let psock = socket.attach(stream, &Be32).unwrap();
        tokio::task::yield_now().await;
        for seq in 0..100 {
            socket.try_send(numbered(0, seq, 20)).unwrap();
            socket.try_send_to(psock.id(), numbered(1, seq, 20)).unwrap();
        }
        let other = (!last).then_some(other);
        drop(socket);
        let mut next = [0, 0];
        for _ in 0..200 {
            let got = frame(soon("all", peer.read_frame()).await.unwrap());
            let (from, seq) = number(&got).unwrap();
            assert_eq!(seq, std::mem::replace(&mut next[from as usize], seq + 1));
        }
        drop(other);
    }
}

#[tokio::test]
async fn a_send_buffer_is_as_large_as_it_says_in_a_burst_too() {
    // semantics D9: admitted while fewer bytes than the buffer's size are queued.
    for size in [20, 1000] {
        let socket = KcmSocket::builder(SocketType::Dgram).send_buffer(10_000).build();
        let (_peer, stream) = pair_with(NARROW).await.unwrap();
        socket.attach(stream, &Be32).unwrap();
        tokio::task::yield_now().await;
        let message = numbered(0, 0, size);
        loop {
            while socket.try_send(&message).is_ok() {}
            assert_eq!(socket.try_send(&message), Err(SendError::WouldBlock));
            let queued = socket.stats().send_queued_bytes as usize;
            assert!((10_000..10_000 + message.len()).contains(&queued), "{queued}");
            assert!(!socket.is_writable());
            // What was left to the task may leave, until the peer would have to read.
            socket.try_flush().unwrap();
            if !socket.is_writable() {
                break;
            }
        }
    }
}

#[tokio::test]
async fn what_bytes_are_given_as_makes_no_difference() {
    let socket = dgram();
    let (mut peer, stream) = pair().await;
    socket.attach(stream, &Be32).unwrap();
    let bytes = frame("x");
    socket.send(&bytes).await.unwrap();
    socket.send(&bytes[..]).await.unwrap();
    socket.send(bytes.clone()).await.unwrap();
    socket.send(bytes::Bytes::from(bytes.clone())).await.unwrap();
    socket.send(bytes::BytesMut::from(&bytes[..])).await.unwrap();
    socket.send(b"\0\0\0\x01x").await.unwrap();
    socket.send("\0\0\0\x01x").await.unwrap();
    socket.send(String::from("\0\0\0\x01x")).await.unwrap();
    for _ in 0..8 {
        assert_eq!(peer.read_frame().await.unwrap(), b"x");
    }
}

#[tokio::test]
async fn idle_connections_take_turns() {
    // semantics D14: one message per call over three idle psocks.
    let socket = dgram();
    let mut peers = Vec::new();
    for _ in 0..3 {
        let (peer, stream) = pair().await;
        socket.attach(stream, &Be32).unwrap();
        peers.push(peer);
    }
    for seq in 0..8 {
        socket.send(numbered(0, seq, 8)).await.unwrap();
    }
    for (p, peer) in peers.iter_mut().enumerate() {
        for seq in (p..8).step_by(3) {
            let got = frame(peer.read_frame().await.unwrap());
            assert_eq!(number(&got), Some((0, seq as u32)));
        }
    }
}

#[tokio::test]
async fn messages_sent_with_no_connection_leave_on_one_attached_later() {
    // semantics D11, A27: then all of one socket's, then all of the next, in the order in
    // which they first queued.
    let k = KcmSocket::builder(SocketType::Dgram).send_buffer(100).build();
    let k2 = k.try_clone().unwrap();
    for seq in 0..2 {
        k2.send(numbered(2, seq, 40)).await.unwrap();
        k.send(numbered(1, seq, 40)).await.unwrap();
    }
    k.send(numbered(1, 2, 40)).await.unwrap();
    // Full: blocked senders are woken when it drains.
    assert!(!k.is_writable());
    assert_eq!(k.try_send(frame("no")).unwrap_err(), SendError::WouldBlock);
    let mut blocked = Box::pin(k.send(numbered(1, 3, 40)));
    assert!(poll_once(blocked.as_mut()).is_pending());
    let (mut peer, stream) = pair().await;
    k.attach(stream, &Be32).unwrap();
    soon("the blocked sender", blocked).await.unwrap();
    let expected = [(2, 0), (2, 1), (1, 0), (1, 1), (1, 2), (1, 3)];
    for want in expected {
        assert_eq!(number(&frame(peer.read_frame().await.unwrap())), Some(want));
    }
}

#[tokio::test]
async fn a_message_in_parts_ends_where_the_type_says() {
    // semantics D1, D2, D3; kernel-faults row 4
    for kind in [SocketType::Dgram, SocketType::Seqpacket] {
        let socket = KcmSocket::new(kind);
        let (mut peer, stream) = pair().await;
        let psock = socket.attach(stream, &Be32).unwrap();
        let whole = frame("in parts");
        let (open, end) = match kind {
            SocketType::Dgram => (SendFlags::MORE | SendFlags::EOR, SendFlags::NONE),
            SocketType::Seqpacket => (SendFlags::NONE, SendFlags::EOR | SendFlags::MORE),
        };
        assert_eq!(socket.send_with(b"", open).await.unwrap(), 0);
        socket.send_with(&whole[..3], open).await.unwrap();
        socket.send_with(&whole[3..9], open).await.unwrap();
        assert_eq!(psock.stats().unwrap().tx_bytes, 0, "open messages do not leave");
        socket.send_with(&whole[9..], end).await.unwrap();
        // An empty end of an open message, and of none.
        socket.send_with(frame("2"), open).await.unwrap();
        assert_eq!(socket.send_with(b"", end).await.unwrap(), 0);
        assert_eq!(socket.send_with(b"", end).await.unwrap(), 0);
        assert_eq!(peer.read_frame().await.unwrap(), b"in parts");
        assert_eq!(peer.read_frame().await.unwrap(), b"2");
        assert_eq!(psock.stats().unwrap().tx_msgs, 2);
    }
}

#[tokio::test]
async fn batched_messages_wait_for_a_push() {
    // semantics D13
    let socket = dgram();
    let (mut peer, stream) = pair().await;
    let psock = socket.attach(stream, &Be32).unwrap();
    for text in ["a", "b"] {
        socket.send_with(frame(text), SendFlags::BATCH).await.unwrap();
    }
    tokio::task::yield_now().await;
    assert_eq!(psock.stats().unwrap().tx_msgs, 0);
    socket.flush().await.unwrap();
    assert_eq!(psock.stats().unwrap().tx_msgs, 2);
    for text in ["a", "b"] {
        assert_eq!(peer.read_frame().await.unwrap(), text.as_bytes());
    }
}

#[tokio::test]
async fn many_messages_leave_together_on_one_connection() {
    let socket = dgram();
    let mut peers = Vec::new();
    for _ in 0..2 {
        let (peer, stream) = pair().await;
        socket.attach(stream, &Be32).unwrap();
        peers.push(peer);
    }
    let sent = socket.send_many((0..4).map(|seq| numbered(0, seq, 8))).await.unwrap();
    assert_eq!(sent, 4);
    for seq in 0..4 {
        let got = frame(peers[0].read_frame().await.unwrap());
        assert_eq!(number(&got), Some((0, seq)), "all on the first");
    }
    // Far more than the buffer holds: it waits, and goes on.
    let (tx, mut got) = tokio::sync::mpsc::unbounded_channel();
    for mut peer in peers {
        let tx = tx.clone();
        tokio::spawn(async move {
            while let Ok(payload) = peer.read_frame().await {
                let _ = tx.send(number(&frame(payload)).unwrap());
            }
        });
    }
    let large = (0..500).map(|seq| numbered(1, seq, 4000));
    assert_eq!(soon("all", socket.send_many(large)).await.unwrap(), 500);
    let mut seen = HashSet::new();
    while seen.len() < 500 {
        assert!(seen.insert(soon("the readers", got.recv()).await.unwrap()));
    }
}

#[tokio::test]
async fn many_messages_of_all_sizes_arrive_whole_and_in_order_through_a_small_buffer() {
    // No room for two of most of them: every call is taken in parts.
    let socket = KcmSocket::builder(SocketType::Dgram).send_buffer(3000).build();
    let (mut peer, stream) = pair().await;
    socket.attach(stream, &Be32).unwrap();
    let sizes = [8, 8, 900, 8, 2100, 20, 1100, 8, 70_000, 8, 300, 8];
    let count = sizes.len() * 40;
    let messages = (0..count).map(|seq| numbered(7, seq as u32, sizes[seq % sizes.len()]));
    let messages: Vec<_> = messages.collect();
    let all = messages.clone();
    let reading = tokio::spawn(async move {
        for want in all {
            let got = frame(peer.read_frame().await.unwrap());
            assert_eq!(got[..], want[..]);
        }
        peer
    });
    // Borrowed ones and shared ones are told apart by their sizes.
    let (borrowed, shared) = messages.split_at(count / 2);
    let borrowed = borrowed.iter().map(|m| &m[..]);
    assert_eq!(soon("the first half", socket.send_many(borrowed)).await.unwrap(), count / 2);
    let shared = shared.iter().cloned();
    assert_eq!(soon("the rest", socket.send_many(shared)).await.unwrap(), count - count / 2);
    soon("the reader", reading).await.unwrap();
    assert_eq!(socket.stats().tx_msgs, count as u64);
}

#[tokio::test]
async fn the_first_of_many_messages_ends_one_that_was_left_open_and_nothing_is_nothing() {
    let socket = dgram();
    let (mut peer, stream) = pair().await;
    socket.attach(stream, &Be32).unwrap();
    let (whole, other) = (numbered(0, 1, 20), numbered(0, 2, 20));
    let (begin, end) = whole.split_at(10);
    socket.send_with(begin, SendFlags::MORE).await.unwrap();
    let empty: &[u8] = &[];
    let sent = socket.send_many([end, empty, &other[..], empty]).await.unwrap();
    assert_eq!(sent, 4, "also those that are nothing");
    for want in [&whole, &other] {
        assert_eq!(frame(peer.read_frame().await.unwrap())[..], want[..]);
    }
    assert_eq!(socket.stats().tx_msgs, 2, "there are no empty messages");
    assert_eq!(socket.send_many(Vec::<&[u8]>::new()).await.unwrap(), 0);
}

#[tokio::test]
async fn a_reply_goes_where_the_message_came_from() {
    let socket = dgram();
    let mut peers = Vec::new();
    for _ in 0..5 {
        let (peer, stream) = pair().await;
        socket.attach(stream, &Be32).unwrap();
        peers.push(peer);
    }
    for round in 0..3 {
        for (p, peer) in peers.iter_mut().enumerate().rev() {
            peer.send(&numbered(p as u32, round, 8)).await.unwrap();
        }
        for _ in 0..peers.len() {
            let message = soon("a request", socket.recv()).await.unwrap();
            socket.reply(&message, &message).await.unwrap();
        }
        for (p, peer) in peers.iter_mut().enumerate() {
            let got = frame(peer.read_frame().await.unwrap());
            assert_eq!(number(&got), Some((p as u32, round)));
        }
    }
}

#[tokio::test]
async fn a_peer_that_stops_reading_holds_up_only_its_own_connection() {
    // semantics D15b, J8
    let socket = KcmSocket::builder(SocketType::Dgram).send_buffer(1 << 20).build();
    let (stuck, stream) = pair_with(NARROW).await.unwrap();
    let stuck_psock = socket.attach(stream, &Be32).unwrap();
    // Fill it by messages for it alone.
    while socket.try_send_to(stuck_psock.id(), frame(vec![0; 4000])).is_ok() {}
    let (mut peer, stream) = pair().await;
    socket.attach(stream, &Be32).unwrap();
    let other = socket.try_clone().unwrap();
    for seq in 0..10 {
        soon("a free connection", other.send(numbered(0, seq, 100))).await.unwrap();
        assert_eq!(number(&frame(peer.read_frame().await.unwrap())), Some((0, seq)));
    }
    drop(stuck);
}

#[tokio::test]
async fn the_writer_goes_on_when_the_peer_reads_again() {
    let socket = KcmSocket::builder(SocketType::Dgram).send_buffer(1 << 24).build();
    let (mut peer, stream) = pair_with(NARROW).await.unwrap();
    let psock = socket.attach(stream, &Be32).unwrap();
    for seq in 0..500 {
        socket.send(numbered(7, seq, 5000)).await.unwrap();
    }
    assert!(psock.stats().unwrap().tx_msgs < 500, "the peer has not read");
    let mut flush = Box::pin(socket.flush());
    assert!(poll_once(flush.as_mut()).is_pending());
    for seq in 0..500 {
        let got = frame(peer.read_frame().await.unwrap());
        assert_eq!(number(&got), Some((7, seq)));
    }
    soon("the flush", flush).await.unwrap();
    assert_eq!(psock.stats().unwrap().tx_msgs, 500);
}

#[tokio::test]
async fn an_interrupted_message_starts_again_on_another_connection() {
    // semantics D18
    let socket = KcmSocket::builder(SocketType::Dgram).send_buffer(1 << 24).build();
    let (mut dying, stream) = pair_with(NARROW).await.unwrap();
    let psock = socket.attach(stream, &Be32).unwrap();
    let message = numbered(3, 4, 1 << 20);
    socket.send(&message).await.unwrap();
    let begun = psock.stats().unwrap();
    assert!(begun.tx_bytes > 0 && begun.tx_msgs == 0, "{begun:?}");
    dying.read(100).await.unwrap();
    dying.reset();
    let cause = soon("the failure", psock.closed()).await;
    assert_eq!(cause, PsockError::Reset);
    let (mut peer, stream) = pair().await;
    socket.attach(stream, &Be32).unwrap();
    assert_eq!(frame(peer.read_frame().await.unwrap()), message);
    assert_eq!(socket.mux_stats().tx_retries, 1);
}

#[tokio::test]
async fn messages_for_a_connection_that_fails_are_dropped_and_told() {
    let socket = dgram();
    let mut events = socket.events();
    let (peer, stream) = pair_with(NARROW).await.unwrap();
    let psock = socket.attach(stream, &Be32).unwrap();
    while socket.try_send_to(psock.id(), frame(vec![0; 4000])).is_ok() {}
    peer.reset();
    soon("the failure", psock.closed()).await;
    let unsent = soon("its event", async {
        loop {
            if let kcm_core::PsockEvent::Failed { unsent, .. } = events.next().await.unwrap() {
                break unsent;
            }
        }
    })
    .await;
    assert!(unsent > 0);
    assert_eq!(socket.stats().tx_dropped_msgs, unsent as u64);
    let refused = socket.send_to(psock.id(), frame("late")).await.unwrap_err();
    assert_eq!(refused, SendError::Psock(PsockError::Reset));
    socket.unattach(psock.id()).unwrap();
    let refused = socket.send_to(psock.id(), frame("later")).await.unwrap_err();
    assert_eq!(refused, SendError::NoSuchPsock(psock.id()));
}

#[tokio::test]
async fn writability_is_true() {
    // semantics J5 (exceeding D12), kernel-faults row 69
    let socket = KcmSocket::builder(SocketType::Dgram).send_buffer(10).build();
    assert!(socket.is_writable());
    socket.send(frame("fills the buffer")).await.unwrap();
    assert!(!socket.is_writable());
    let mut writable = Box::pin(socket.writable());
    assert!(poll_once(writable.as_mut()).is_pending());
    let (_peer, stream) = pair().await;
    socket.attach(stream, &Be32).unwrap();
    soon("writability", writable).await;
    socket.try_send(frame("again")).unwrap();
}

#[tokio::test]
async fn a_non_blocking_send_does_not_wait_behind_a_blocked_one() {
    // semantics J7 (exceeding D5), kernel-faults rows 25, 70
    let socket = KcmSocket::builder(SocketType::Dgram).send_buffer(10).build();
    socket.send(frame("fills the buffer")).await.unwrap();
    let mut blocked = Box::pin(socket.send_with(frame("blocked"), SendFlags::MORE));
    assert!(poll_once(blocked.as_mut()).is_pending());
    assert_eq!(socket.try_send(frame("now")).unwrap_err(), SendError::WouldBlock);
    drop(blocked);
    drop(socket);
}

#[tokio::test]
async fn blocked_senders_go_in_the_order_they_came() {
    let socket = KcmSocket::builder(SocketType::Dgram).send_buffer(10).build();
    socket.send(numbered(0, 0, 20)).await.unwrap();
    let mut blocked: Vec<_> =
        (1..5).map(|seq| Box::pin(socket.send(numbered(0, seq, 20)))).collect();
    for send in &mut blocked {
        assert!(poll_once(send.as_mut()).is_pending());
    }
    // The second loses patience: nothing of it is sent, the others move up.
    drop(blocked.remove(1));
    let (mut peer, stream) = pair().await;
    socket.attach(stream, &Be32).unwrap();
    let sends = futures_util::future::join_all(blocked);
    for sent in soon("the senders", sends).await {
        sent.unwrap();
    }
    for seq in [0, 1, 3, 4] {
        assert_eq!(number(&frame(peer.read_frame().await.unwrap())), Some((0, seq)));
    }
}

#[tokio::test]
async fn close_sends_everything_first() {
    let socket = KcmSocket::builder(SocketType::Dgram).send_buffer(1 << 24).build();
    let other = socket.try_clone().unwrap();
    let (mut peer, stream) = pair_with(NARROW).await.unwrap();
    socket.attach(stream, &Be32).unwrap();
    for seq in 0..200 {
        socket.send(numbered(7, seq, 5000)).await.unwrap();
    }
    let closing = tokio::spawn(socket.close());
    for seq in 0..200 {
        assert_eq!(number(&frame(peer.read_frame().await.unwrap())), Some((7, seq)));
    }
    soon("the close", closing).await.unwrap();
    drop(other);
}

#[tokio::test]
async fn drop_finishes_the_message_begun_and_drops_the_others_counted() {
    // semantics J9 (exceeding A42, A43), kernel-faults row 71: the connection stays whole
    // for the other sockets.
    let socket = KcmSocket::builder(SocketType::Dgram).send_buffer(1 << 24).build();
    let other = socket.try_clone().unwrap();
    let (mut peer, stream) = pair_with(NARROW).await.unwrap();
    let psock = socket.attach(stream, &Be32).unwrap();
    for seq in 0..5 {
        socket.send(numbered(7, seq, 1 << 19)).await.unwrap();
    }
    assert!(psock.stats().unwrap().tx_bytes > 0);
    drop(socket);
    other.send(numbered(8, 0, 10)).await.unwrap();
    assert_eq!(number(&frame(peer.read_frame().await.unwrap())), Some((7, 0)));
    assert_eq!(number(&frame(peer.read_frame().await.unwrap())), Some((8, 0)));
    assert_eq!(psock.error(), None);
    assert_eq!(other.mux_stats().tx_dropped_msgs, 4);
}

#[tokio::test]
async fn a_message_for_one_connection_does_not_cut_into_another_message() {
    // semantics D16: large messages from many sockets and replies, on one narrow connection.
    let (mut peer, stream) = pair_with(NARROW).await.unwrap();
    let k = dgram();
    let psock = k.attach(stream, &Be32).unwrap();
    let mut senders = Vec::new();
    for conn in 0..4 {
        let socket = k.try_clone().unwrap();
        let id = psock.id();
        senders.push(tokio::spawn(async move {
            for seq in 0..50 {
                let message = numbered(conn, seq, 9000);
                match seq % 2 {
                    0 => socket.send(message).await.unwrap(),
                    _ => socket.send_to(id, message).await.unwrap(),
                };
            }
            socket.close().await;
        }));
    }
    let mut got = HashSet::new();
    for _ in 0..200 {
        let frame = frame(peer.read_frame().await.unwrap());
        assert!(got.insert(number(&frame).expect("whole, as sent")));
    }
    for sender in senders {
        soon("the senders", sender).await.unwrap();
    }
    assert_eq!(payload(&frame("done")), b"done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_messages_of_many_sockets_leave_on_many_connections_once() {
    const SOCKETS: u32 = 4;
    const EACH: u32 = 2500;
    let first = dgram();
    let mut readers = Vec::new();
    for _ in 0..3 {
        let (mut peer, stream) = pair().await;
        first.attach(stream, &Be32).unwrap();
        readers.push(tokio::spawn(async move {
            let mut got = Vec::new();
            while let Ok(payload) = peer.read_frame().await {
                got.push(number(&frame(payload)).expect("content as sent"));
            }
            got
        }));
    }
    let senders: Vec<_> = (0..SOCKETS)
        .map(|conn| {
            let socket = first.try_clone().unwrap();
            tokio::spawn(async move {
                let mut rng = kcm_tests::harness::Rng::new(conn.into());
                for seq in 0..EACH {
                    socket.send(numbered(conn, seq, rng.below(3000))).await.unwrap();
                }
                socket.close().await;
            })
        })
        .collect();
    for sender in senders {
        soon("the senders", sender).await.unwrap();
    }
    drop(first);
    let mut all = HashSet::new();
    for reader in readers {
        let got = soon("the readers", reader).await.unwrap();
        let mut last = vec![None; SOCKETS as usize];
        for (conn, seq) in got {
            assert!(all.insert((conn, seq)), "{conn} {seq} twice");
            // One socket's messages keep their order on each connection.
            let last = &mut last[conn as usize];
            assert!(last.is_none_or(|last| last < seq));
            *last = Some(seq);
        }
    }
    assert_eq!(all.len() as u32, SOCKETS * EACH);
}

#[tokio::test]
async fn sockets_that_always_have_something_to_send_take_turns() {
    // exceeding semantics D15a
    let k =
        KcmSocket::builder(SocketType::Dgram).send_buffer(1 << 20).tx_turn(Some(64 * 1024)).build();
    let k2 = k.try_clone().unwrap();
    let (mut peer, stream) = pair_with(NARROW).await.unwrap();
    k.attach(stream, &Be32).unwrap();
    for seq in 0..100 {
        k.send(numbered(1, seq, 10_000)).await.unwrap();
    }
    k2.send(numbered(2, 0, 4)).await.unwrap();
    let mut before = 0;
    while number(&frame(peer.read_frame().await.unwrap())) != Some((2, 0)) {
        before += 1;
    }
    assert!(before < 50, "{before} messages of the other came first");
    eventually("the rest to be queued", || k.stats().send_queued_msgs < 100).await;
}

#[tokio::test]
async fn a_message_for_one_connection_is_finished_when_the_last_socket_is_dropped() {
    // semantics J9
    let socket = dgram();
    let (mut peer, stream) = pair_with(NARROW).await.unwrap();
    let psock = socket.attach(stream, &Be32).unwrap();
    let (big, next) = (numbered(1, 1, 1 << 20), frame("never begun"));
    socket.send_to(psock.id(), &big).await.unwrap();
    // The buffer is full, so this one is let in by a larger one.
    socket.set_send_buffer(1 << 24);
    socket.send_to(psock.id(), &next).await.unwrap();
    let begun = || psock.stats().unwrap().tx_bytes > 0;
    eventually("the message to be begun", begun).await;
    drop(socket);
    assert_eq!(psock.error(), None, "it has something to finish");
    assert_eq!(frame(peer.read_frame().await.unwrap()), big);
    assert_eq!(peer.read_to_end().await.unwrap(), b"");
    assert_eq!(soon("the end", psock.closed()).await, kcm_core::PsockError::Unattached);
}

#[tokio::test]
async fn close_of_the_last_socket_sends_what_is_addressed_to_connections_too() {
    let socket = dgram();
    let (mut peer, stream) = pair_with(NARROW).await.unwrap();
    let psock = socket.attach(stream, &Be32).unwrap();
    socket.set_send_buffer(1 << 24);
    let all: Vec<Vec<u8>> = (0..5).map(|seq| numbered(1, seq, 300_000)).collect();
    for message in &all {
        socket.send_to(psock.id(), message).await.unwrap();
    }
    let close = tokio::spawn(socket.close());
    for message in &all {
        assert_eq!(&frame(peer.read_frame().await.unwrap()), message);
    }
    soon("the close", close).await.unwrap();
    assert_eq!(peer.read_to_end().await.unwrap(), b"");
}

#[tokio::test]
async fn shutting_down_the_sending_side_ends_it_after_what_was_sent_and_goes_on_receiving() {
    // semantics A31
    let socket = dgram();
    let mut events = socket.events();
    let (mut peer, stream) = pair_with(NARROW).await.unwrap();
    let psock = socket.attach(stream, &Be32).unwrap();
    let message = numbered(1, 1, 500_000);
    socket.send_to(psock.id(), &message).await.unwrap();
    psock.shutdown_write().unwrap();
    psock.shutdown_write().unwrap();
    let late = socket.send_to(psock.id(), frame("late")).await.unwrap_err();
    assert_eq!(late.errno(), kcm_common::errno::EPIPE, "{late}");
    assert_eq!(frame(peer.read_frame().await.unwrap()), message);
    assert_eq!(peer.read_to_end().await.unwrap(), b"", "the end, and nothing else");
    for text in ["still", "receiving"] {
        peer.send(&frame(text)).await.unwrap();
        assert_eq!(payload(&soon("a message", socket.recv()).await.unwrap()), text.as_bytes());
    }
    assert_eq!(psock.error(), None);
    peer.finish().await.unwrap();
    assert_eq!(soon("the end", psock.closed()).await, kcm_core::PsockError::Eof);
    let id = psock.id();
    let mut told = Vec::new();
    while let Some(event) = events.try_next() {
        told.push(event);
    }
    assert!(told.contains(&kcm_core::PsockEvent::TxEnded { psock: id }), "{told:?}");
    assert_eq!(psock.shutdown_write().unwrap_err().errno(), kcm_common::errno::EPIPE);
    socket.unattach(id).unwrap();
    assert_eq!(psock.shutdown_write().unwrap_err().errno(), kcm_common::errno::ENOENT);
}

#[tokio::test]
async fn any_stream_can_be_shut_down_for_sending() {
    let socket = dgram();
    let (mut peer, ours) = tokio::io::duplex(64);
    let psock = socket.attach(ours, &Be32).unwrap();
    let message = numbered(1, 1, 1000);
    socket.send_to(psock.id(), &message).await.unwrap();
    psock.shutdown_write().unwrap();
    let mut got = Vec::new();
    soon("the end", peer.read_to_end(&mut got)).await.unwrap();
    assert_eq!(got, message);
    peer.write_all(&frame("back")).await.unwrap();
    assert_eq!(payload(&soon("a message", socket.recv()).await.unwrap()), b"back");
}
