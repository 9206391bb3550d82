//! Things that happen at the same moment, on several threads: the races that kernel KCM had.
//!
//! The number of rounds is small for the ordinary run; `KCM_TEST_ROUNDS` multiplies it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use kcm_core::{KcmSocket, PsockError, SocketType};
use kcm_tests::codec::{Be32, frame, number, numbered};
use kcm_tests::engine::{attach_options, runs};
use kcm_tests::harness::{Rng, eventually, soon};
use kcm_tests::peer::{PairOptions, Peer, pair, pair_with};

fn rounds(n: usize) -> usize {
    let times = std::env::var("KCM_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    n * times
}

const NARROW: PairOptions =
    PairOptions { recv_buffer: None, peer_recv_buffer: Some(4096), send_buffer: Some(4096) };

/// Feeds `n` numbered messages into a new connection of `socket`.
async fn feed(socket: &KcmSocket, conn: u32, n: u32) -> tokio::task::JoinHandle<Peer> {
    let (mut peer, stream) = pair().await;
    socket.attach_with(stream, &Be32, attach_options()).unwrap();
    tokio::spawn(async move {
        let mut rng = Rng::new(conn.into());
        for seq in 0..n {
            peer.send(&numbered(conn, seq, rng.below(200))).await.unwrap();
        }
        peer
    })
}

/// Counts that each message comes once.
#[derive(Default)]
struct Tally {
    total: AtomicU64,
    seen: std::sync::Mutex<HashMap<(u32, u32), ()>>,
}

impl Tally {
    fn note(&self, message: &[u8]) {
        let id = number(message).expect("whole, as sent");
        assert!(self.seen.lock().unwrap().insert(id, ()).is_none(), "{id:?} twice");
        self.total.fetch_add(1, Ordering::Relaxed);
    }

    fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn row_16_and_18_disabling_while_others_receive_delivers_each_message_once() {
    if !runs("races::row_16_and_18_disabling_while_others_receive_delivers_each_message_once") {
        return;
    }
    let each = rounds(1500) as u32;
    let k = Arc::new(KcmSocket::builder(SocketType::Dgram).recv_buffer(3000).build());
    let k2 = Arc::new(k.try_clone().unwrap());
    let tally = Arc::new(Tally::default());
    let mut peers = Vec::new();
    for conn in 0..2 {
        peers.push(feed(&k, conn, each).await);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for socket in [&k, &k, &k2, &k2] {
        let (socket, tally) = (socket.clone(), tally.clone());
        tasks.push(tokio::spawn(async move {
            loop {
                tally.note(&socket.recv().await.unwrap());
            }
        }));
    }
    let toggler = {
        let (k, k2, stop) = (k.clone(), k2.clone(), stop.clone());
        tokio::spawn(async move {
            let mut rng = Rng::new(9);
            while !stop.load(Ordering::Relaxed) {
                let socket = if rng.below(2) == 0 { &k } else { &k2 };
                socket.set_recv_disabled(rng.below(2) == 0);
                tokio::task::yield_now().await;
            }
            k.set_recv_disabled(false);
            k2.set_recv_disabled(false);
        })
    };
    for peer in &mut peers {
        soon("the peers", peer).await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    soon("the toggler", toggler).await.unwrap();
    eventually("every message", || tally.total() == 2 * u64::from(each)).await;
    tasks.iter().for_each(|task| task.abort());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn row_15_closing_a_socket_while_its_queue_drains_sends_whole_messages() {
    if !runs("races::row_15_closing_a_socket_while_its_queue_drains_sends_whole_messages") {
        return;
    }
    let k = KcmSocket::new(SocketType::Dgram);
    let (mut peer, stream) = pair_with(NARROW).await.unwrap();
    let psock = k.attach_with(stream, &Be32, attach_options()).unwrap();
    let n = rounds(200) as u32;
    let reader = tokio::spawn(async move {
        let mut last = HashMap::new();
        while let Ok(payload) = peer.read_frame().await {
            let (conn, seq) = number(&frame(payload)).expect("whole, as sent");
            if conn == u32::MAX {
                return last.len();
            }
            let before = last.insert(conn, seq);
            assert!(before.is_none_or(|before| before < seq), "{conn}: {before:?}, {seq}");
        }
        panic!("the connection broke");
    });
    let mut rng = Rng::new(1);
    for conn in 0..n {
        let socket = k.try_clone().unwrap();
        for seq in 0..1 + rng.below(4) as u32 {
            socket.send(numbered(conn, seq, rng.below(4000))).await.unwrap();
        }
        match rng.below(3) {
            0 => drop(socket),
            1 => drop(tokio::spawn(socket.close())),
            _ => {
                tokio::spawn(async move {
                    let patience = Duration::from_micros(conn.into());
                    let _ = tokio::time::timeout(patience, socket.close()).await;
                });
            }
        }
    }
    assert_eq!(psock.error(), None);
    k.send(numbered(u32::MAX, 0, 10)).await.unwrap();
    let heard = soon("the reader", reader).await.unwrap();
    assert!(heard > 0);
    let sums = || {
        let s = k.mux_stats();
        s.accepted_msgs == s.tx_msgs + s.send_queued_msgs + s.tx_dropped_msgs
    };
    eventually("the sums to agree", sums).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn row_26_unattaching_a_busy_connection_while_its_socket_closes() {
    if !runs("races::row_26_unattaching_a_busy_connection_while_its_socket_closes") {
        return;
    }
    for round in 0..rounds(60) as u32 {
        let k = KcmSocket::builder(SocketType::Dgram).send_buffer(1 << 22).build();
        let (mut peer, stream) = pair_with(NARROW).await.unwrap();
        let psock = k.attach_with(stream, &Be32, attach_options()).unwrap();
        let sender = k.try_clone().unwrap();
        for seq in 0..4 {
            sender.send(numbered(round, seq, 30_000)).await.unwrap();
        }
        let reader = tokio::spawn(async move { peer.read_to_end().await.unwrap_or_default() });
        let closer = tokio::spawn(async move {
            if round % 2 == 0 { drop(sender) } else { sender.close().await }
        });
        if round % 3 == 0 {
            tokio::task::yield_now().await;
        }
        let back = k.unattach(psock.id()).unwrap();
        let desynchronised = back.desynchronised;
        drop(back);
        let got = soon("the reader", reader).await.unwrap();
        // What the peer has is a prefix of what was sent, cut only if it was said so.
        let all: Vec<u8> = (0..4).flat_map(|seq| numbered(round, seq, 30_000)).collect();
        assert!(all.starts_with(&got));
        assert_eq!(got.len() % 30_004 != 0, desynchronised, "{} bytes", got.len());
        // The rest goes elsewhere, if the socket was to drain.
        let (mut peer, stream) = pair().await;
        k.attach_with(stream, &Be32, attach_options()).unwrap();
        soon("the close", closer).await.unwrap();
        k.send(numbered(round, 9, 10)).await.unwrap();
        loop {
            let (_, seq) = number(&frame(peer.read_frame().await.unwrap())).expect("whole");
            if seq == 9 {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn row_36_a_message_that_completes_as_its_time_runs_out_is_delivered_or_timed_out() {
    if !runs(
        "races::row_36_a_message_that_completes_as_its_time_runs_out_is_delivered_or_timed_out",
    ) {
        return;
    }
    let timeout = Duration::from_millis(5);
    let (mut delivered, mut late) = (0, 0);
    for round in 0..rounds(60) as u64 {
        let socket = KcmSocket::new(SocketType::Dgram);
        let (mut peer, stream) = pair().await;
        let options = attach_options().assembly_timeout(timeout);
        let psock = socket.attach_with(stream, &Be32, options).unwrap();
        let message = frame("in time?");
        peer.send(&message[..6]).await.unwrap();
        // Around the very moment.
        tokio::time::sleep(
            timeout - Duration::from_micros(1500) + Duration::from_micros(round % 20 * 100),
        )
        .await;
        peer.send(&message[6..]).await.unwrap();
        peer.finish().await.unwrap();
        match soon("an end", psock.closed()).await {
            PsockError::Eof => {
                delivered += 1;
                assert_eq!(socket.recv().await.unwrap().to_vec(), message);
                assert!(socket.unattach(psock.id()).unwrap().unread.is_empty());
            }
            PsockError::TimedOut { have, need } => {
                late += 1;
                assert!(have < 12 && need == Some(12), "{have}, {need:?}");
                assert!(socket.try_recv().is_err());
                let back = socket.unattach(psock.id()).unwrap();
                assert!(message.starts_with(&back.unread));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(delivered + late, rounds(60));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn row_47_detaching_as_a_partial_message_arms_the_clock() {
    if !runs("races::row_47_detaching_as_a_partial_message_arms_the_clock") {
        return;
    }
    let socket = KcmSocket::new(SocketType::Dgram);
    for round in 0..rounds(300) {
        let (mut peer, stream) = pair().await;
        let options = attach_options().assembly_timeout(Duration::from_millis(1));
        let psock = socket.attach_with(stream, &Be32, options).unwrap();
        peer.send(&frame("half")[..5]).await.unwrap();
        if round % 3 == 0 {
            tokio::task::yield_now().await;
        }
        let back = socket.unattach(psock.id()).unwrap();
        // Read here or still to be read: the bytes are there, once.
        let mut bytes = back.unread.to_vec();
        let mut stream = back.stream;
        while bytes.len() < 5 {
            tokio::io::AsyncReadExt::read_buf(&mut stream, &mut bytes).await.unwrap();
        }
        assert_eq!(bytes, &frame("half")[..5]);
    }
    assert!(socket.psocks().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn row_62_connections_die_while_everybody_sends() {
    if !runs("races::row_62_connections_die_while_everybody_sends") {
        return;
    }
    // Resets, at any moment, under senders of both kinds: whole messages arrive, each at most
    // once at each peer, and nobody hangs.
    let k = Arc::new(KcmSocket::builder(SocketType::Dgram).send_buffer(20_000).build());
    let stop = Arc::new(AtomicBool::new(false));
    let mut senders = Vec::new();
    for conn in 0..4 {
        let socket = k.try_clone().unwrap();
        let stop = stop.clone();
        senders.push(tokio::spawn(async move {
            let mut seq = 0;
            while !stop.load(Ordering::Relaxed) {
                let message = numbered(conn, seq, (seq as usize * 31) % 6000);
                let psock = socket.psocks().last().map(|psock| psock.id());
                match psock.filter(|_| seq % 4 == 0) {
                    Some(psock) => drop(socket.send_to(psock, message).await),
                    None => drop(socket.send(message).await.unwrap()),
                }
                seq += 1;
            }
        }));
    }
    // One that stays, so that nothing is stuck for want of a connection.
    let (mut last, stream) = pair().await;
    k.attach_with(stream, &Be32, attach_options()).unwrap();
    let reader = tokio::spawn(async move {
        let mut n = 0;
        while let Ok(payload) = last.read_frame().await {
            number(&frame(payload)).expect("whole, as sent");
            n += 1;
        }
        n
    });
    for round in 0..rounds(60) {
        let (mut peer, stream) = pair_with(NARROW).await.unwrap();
        let psock = k.attach_with(stream, &Be32, attach_options()).unwrap();
        for _ in 0..round % 5 {
            let payload = soon("a message", peer.read_frame()).await.unwrap();
            number(&frame(payload)).expect("whole, as sent");
        }
        peer.reset();
        soon("the failure", psock.closed()).await;
        k.unattach(psock.id()).unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for sender in senders {
        soon("the senders", sender).await.unwrap();
    }
    let k = Arc::into_inner(k).unwrap();
    let stats = k.mux_stats();
    assert_eq!(stats.unattach, rounds(60) as u64);
    soon("everything to be out", k.close()).await;
    assert!(soon("the reader", reader).await.unwrap() > 0);
}
