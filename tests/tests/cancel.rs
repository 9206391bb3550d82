//! Futures that are dropped at any moment lose nothing, repeat nothing, and hold nobody up.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use kcm_core::{KcmSocket, Message, RecvError, SocketType};
use kcm_tests::codec::{Be32, frame, number, numbered};
use kcm_tests::harness::{Rng, poll_once, soon};
use kcm_tests::peer::pair;

type Recv<'a> = Pin<Box<dyn Future<Output = Result<Message, RecvError>> + Send + 'a>>;

#[tokio::test]
async fn receivers_dropped_at_random_lose_no_message_and_no_wake_up() {
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let k = KcmSocket::new(SocketType::Dgram);
        let k2 = k.try_clone().unwrap();
        let (mut peer, stream) = pair().await;
        k.attach(stream, &Be32).unwrap();
        let mut waiting: Vec<Recv<'_>> = Vec::new();
        let mut got = Vec::new();
        let mut sent = 0;
        for _ in 0..400 {
            match rng.below(6) {
                0 => {
                    peer.send(&numbered(0, sent, 10)).await.unwrap();
                    sent += 1;
                }
                1 if !waiting.is_empty() => drop(waiting.remove(rng.below(waiting.len()))),
                2 => waiting.push(Box::pin([&k, &k2][rng.below(2)].recv())),
                3 => tokio::task::yield_now().await,
                4 => [&k, &k2][rng.below(2)].set_recv_disabled(rng.below(3) == 0),
                _ if !waiting.is_empty() => {
                    let at = rng.below(waiting.len());
                    if let Poll::Ready(message) = poll_once(waiting[at].as_mut()) {
                        got.push(number(&message.unwrap()).unwrap());
                        drop(waiting.remove(at));
                    }
                }
                _ => {}
            }
        }
        // Whoever still waits now, and gets nothing, is dropped one by one; the others must
        // be woken for what is there. Only real wake-ups count from here on.
        k.set_recv_disabled(false);
        k2.set_recv_disabled(false);
        waiting.truncate(5);
        waiting.push(Box::pin(k.recv()));
        waiting.push(Box::pin(k2.recv()));
        while got.len() < sent as usize {
            let (message, at, _) =
                soon("the rest", futures_util::future::select_all(waiting.iter_mut())).await;
            got.push(number(&message.unwrap()).unwrap());
            drop(waiting.remove(at));
            waiting.push(Box::pin(k.recv()));
            waiting.push(Box::pin(k2.recv()));
        }
        drop(waiting);
        let unique: HashSet<_> = got.iter().collect();
        assert_eq!((unique.len(), got.len()), (sent as usize, sent as usize), "seed {seed}");
        assert!(k.try_recv().is_err() && k2.try_recv().is_err());
    }
}

#[tokio::test]
async fn senders_dropped_at_random_send_whole_messages_or_nothing() {
    for seed in 0..10 {
        let mut rng = Rng::new(seed);
        let socket = KcmSocket::builder(SocketType::Dgram).send_buffer(2000).build();
        let (mut peer, stream) = pair().await;
        let mut expected = HashSet::new();
        let mut waiting: Vec<(u32, Pin<Box<dyn Future<Output = _> + Send + '_>>)> = Vec::new();
        let mut stream = Some(stream);
        for seq in 0..500 {
            if seq == 100 {
                let psock = socket.attach(stream.take().unwrap(), &Be32).unwrap();
                assert_eq!(psock.id().index(), 0);
            }
            let socket = &socket;
            let len = 8 + rng.below(900);
            waiting.push((
                seq,
                Box::pin(async move { socket.send(numbered(0, seq, len)).await.map(drop) }),
            ));
            for _ in 0..rng.below(3) {
                let at = rng.below(waiting.len());
                if poll_once(waiting[at].1.as_mut()).is_ready() {
                    expected.insert(waiting[at].0);
                    drop(waiting.remove(at));
                    if waiting.is_empty() {
                        break;
                    }
                }
            }
            if !waiting.is_empty() && rng.below(3) == 0 {
                drop(waiting.remove(rng.below(waiting.len())));
            }
            if rng.below(4) == 0 {
                tokio::task::yield_now().await;
            }
        }
        drop(waiting);
        drop(soon("the rest to be out", socket.flush()).await);
        drop(socket);
        let mut got = HashSet::new();
        while let Ok(payload) = peer.read_frame().await {
            let (_, seq) = number(&frame(payload)).expect("whole");
            assert!(got.insert(seq), "{seq} twice");
        }
        assert_eq!(got, expected, "seed {seed}");
    }
}

#[tokio::test]
async fn send_many_dropped_in_the_middle_sends_what_it_took() {
    let socket = KcmSocket::builder(SocketType::Dgram).send_buffer(100).build();
    let mut sending = Box::pin(socket.send_many((0..100).map(|seq| numbered(0, seq, 20))));
    assert!(poll_once(sending.as_mut()).is_pending());
    drop(sending);
    let taken = socket.stats().tx_msgs;
    assert!(taken > 0 && taken < 100);
    let (mut peer, stream) = pair().await;
    socket.attach(stream, &Be32).unwrap();
    soon("the flush", socket.flush()).await.unwrap();
    drop(socket);
    for seq in 0..taken as u32 {
        assert_eq!(number(&frame(peer.read_frame().await.unwrap())), Some((0, seq)));
    }
    assert!(peer.read_frame().await.is_err());
}

#[tokio::test]
async fn a_close_that_is_dropped_drops_what_was_not_begun() {
    let socket = KcmSocket::new(SocketType::Dgram);
    let other = socket.try_clone().unwrap();
    socket.send(frame("never")).await.unwrap();
    let mut closing = Box::pin(socket.close());
    assert!(poll_once(closing.as_mut()).is_pending());
    drop(closing);
    assert_eq!(other.mux_stats().tx_dropped_msgs, 1);
    let (mut peer, stream) = pair().await;
    other.attach(stream, &Be32).unwrap();
    other.send(frame("first")).await.unwrap();
    assert_eq!(peer.read_frame().await.unwrap(), b"first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receivers_with_timeouts_on_many_threads_lose_nothing() {
    let socket = std::sync::Arc::new(KcmSocket::new(SocketType::Dgram));
    let (mut peer, stream) = pair().await;
    socket.attach(stream, &Be32).unwrap();
    let (tx, mut rx) = tokio::sync::mpsc::unbounded_channel();
    for worker in 0..4 {
        let (socket, tx) = (socket.clone(), tx.clone());
        tokio::spawn(async move {
            let mut rng = Rng::new(worker);
            loop {
                let patience = Duration::from_micros(rng.below(300) as u64);
                if let Ok(message) = tokio::time::timeout(patience, socket.recv()).await {
                    let Ok(message) = message else { break };
                    if tx.send(number(&message).unwrap()).is_err() {
                        break;
                    }
                }
            }
        });
    }
    for seq in 0..2000 {
        peer.send(&numbered(0, seq, 20)).await.unwrap();
        if seq % 50 == 0 {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }
    let mut got = HashSet::new();
    while got.len() < 2000 {
        let (_, seq) = soon("all messages", rx.recv()).await.unwrap();
        assert!(got.insert(seq), "{seq} twice");
    }
}

#[tokio::test]
async fn waiting_for_readiness_and_closing_can_be_given_up() {
    let socket = KcmSocket::new(SocketType::Dgram);
    let (mut peer, stream) = pair().await;
    let psock = socket.attach(stream, &Be32).unwrap();
    for _ in 0..3 {
        let mut readable = Box::pin(socket.readable());
        let mut peek = Box::pin(socket.peek());
        let mut closed = Box::pin(psock.closed());
        assert!(poll_once(readable.as_mut()).is_pending());
        assert!(poll_once(peek.as_mut()).is_pending());
        assert!(poll_once(closed.as_mut()).is_pending());
    }
    peer.send(&frame("x")).await.unwrap();
    soon("readiness", socket.readable()).await;
    peer.finish().await.unwrap();
    soon("the end", psock.closed()).await;
}
