//! Races, provoked: the concurrency rows of kernel-faults, a few hundred times each, or a
//! hundred thousand with `cargo xtask test --long`.
//!
//! What a storm does is the same each time; who is faster is not. Each therefore ends with
//! sums that hold whoever was.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kcm_core::{
    AttachErrorReason, AttachOptions, Detached, KcmSocket, PsockError, SendError, SendFlags,
    SocketType,
};
use kcm_core::{Exec, Message};
use kcm_tests::codec::{Be32, frame, number, numbered};
use kcm_tests::harness::{eventually, soon};
use kcm_tests::load::built_in;
use kcm_tests::peer::{pair, std_pair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::yield_now;

/// How often: a few hundred times, or 10⁵ in the long set.
fn times(short: usize) -> usize {
    match std::env::var_os("KCM_LONG") {
        Some(v) if !v.is_empty() => 100_000,
        _ => short,
    }
}

fn dgram() -> KcmSocket {
    KcmSocket::new(SocketType::Dgram)
}

/// Who was seen, and how often.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<HashMap<(u32, u32), u32>>>);

impl Seen {
    fn take(&self, message: &[u8]) {
        let id = number(message).expect("a message as it was sent");
        *self.0.lock().unwrap().entry(id).or_default() += 1;
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// Each message of each of `conns` connections once.
    fn each_once(&self, conns: u32, messages: u32) {
        let seen = self.0.lock().unwrap();
        for id in (0..conns).flat_map(|c| (0..messages).map(move |m| (c, m))) {
            assert_eq!(seen.get(&id), Some(&1), "message {id:?}");
        }
        assert_eq!(seen.len(), (conns * messages) as usize);
    }
}

/// What a connection had received and not delivered: read by us, or not read at all.
fn rest(back: &Detached<UnixStream>) -> Vec<u8> {
    let mut rest = back.unread.to_vec();
    let mut buf = [0; 4096];
    // The system is asked: the runtime may not have heard yet that there is something.
    let stream = socket2::SockRef::from(&back.stream);
    while let Ok(n @ 1..) = std::io::Read::read(&mut &*stream, &mut buf) {
        rest.extend_from_slice(&buf[..n]);
    }
    rest
}

/// The whole messages in these bytes.
fn frames(mut bytes: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let mut all = Vec::new();
    while let Some(head) = bytes.first_chunk::<4>() {
        let len = 4 + u32::from_be_bytes(*head) as usize;
        let Some((one, after)) = bytes.split_at_checked(len) else { break };
        all.push(one);
        bytes = after;
    }
    (all, bytes)
}

/// Counts the messages that a peer gets; ends with the stream.
async fn count_frames(mut stream: impl tokio::io::AsyncRead + Unpin, whole: Arc<AtomicUsize>) {
    let mut bytes = Vec::new();
    while let Ok(1..) = stream.read_buf(&mut bytes).await {
        let (all, tail) = frames(&bytes);
        whole.fetch_add(all.len(), Ordering::Relaxed);
        bytes = tail.to_vec();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rows_2_29_47_eight_attach_send_receive_unattach_and_clone_at_once() {
    let socket = dgram();
    let seen = Seen::default();
    let rounds = times(400) as u32 / 8;
    let mut tasks = Vec::new();
    for conn in 0..8 {
        let (socket, seen) = (socket.try_clone().unwrap(), seen.clone());
        tasks.push(tokio::spawn(async move {
            let (mut peer, mut stream) = UnixStream::pair().unwrap();
            let mut initial = Vec::new();
            for round in 0..rounds {
                // The half message arms the deadline in whatever state unattach finds it.
                let options = AttachOptions::new()
                    .initial(std::mem::take(&mut initial))
                    .assembly_timeout(Duration::from_secs(3600));
                let psock = socket.attach_with(stream, &Be32, options).unwrap();
                let message = numbered(conn, round, 40);
                let (a, b) = message.split_at(1 + round as usize % 40);
                peer.write_all(a).await.unwrap();
                if round % 2 == 0 {
                    yield_now().await;
                }
                peer.write_all(b).await.unwrap();
                let other = socket.try_clone().unwrap();
                // To whichever connection: its peer reads it or does not.
                let _ = other.try_send(frame("any"));
                while let Ok(message) = socket.try_recv() {
                    seen.take(&message);
                }
                drop(other);
                let back = socket.unattach_as::<UnixStream, _>(psock.id()).unwrap();
                assert_eq!(back.cause, None);
                initial = rest(&back);
                if back.desynchronised {
                    // A message that was begun for this peer goes elsewhere: start afresh.
                    let (all, tail) = frames(&initial);
                    all.iter().for_each(|m| seen.take(m));
                    assert!(tail.is_empty());
                    initial.clear();
                    (peer, stream) = UnixStream::pair().unwrap();
                    continue;
                }
                stream = back.stream;
                let _ = peer.try_read(&mut [0; 65536]);
            }
            let (all, tail) = frames(&initial);
            all.iter().for_each(|m| seen.take(m));
            assert!(tail.is_empty());
            socket
        }));
    }
    let mut sockets = vec![socket];
    for task in tasks {
        sockets.push(soon_long("the storm", task).await.unwrap());
    }
    for socket in &sockets {
        while let Ok(message) = socket.try_recv() {
            seen.take(&message);
        }
    }
    seen.each_once(8, rounds);
    let s = sockets[0].mux_stats();
    assert_eq!(s.rx_msgs, s.delivered_msgs + s.returned_msgs);
    assert_eq!(s.accepted_msgs, s.tx_msgs + s.send_queued_msgs + s.tx_dropped_msgs);
    assert_eq!((s.attach, sockets[0].psocks().len()), (s.unattach, 0));
}

/// As `soon`, for what takes long in the long set.
async fn soon_long<T>(what: &str, future: impl Future<Output = T>) -> T {
    match times(0) {
        0 => soon(what, future).await,
        _ => tokio::time::timeout(Duration::from_secs(1200), future)
            .await
            .unwrap_or_else(|_| panic!("not in time: {what}")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_9_a_connection_fought_over_is_attached_by_one_or_none() {
    let (mut peer, stream) = std_pair().await;
    let socket = Arc::new(dgram());
    let holders = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for _ in 0..2 {
        let mine = stream.try_clone().unwrap();
        let (socket, holders) = (socket.clone(), holders.clone());
        tasks.push(tokio::spawn(async move {
            let (mut mine, mut won) = (mine, 0_usize);
            for _ in 0..times(300) {
                match socket.attach(mine, &Be32) {
                    Ok(psock) => {
                        assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "two at once");
                        won += 1;
                        assert_eq!(holders.fetch_sub(1, Ordering::SeqCst), 1);
                        let back =
                            socket.unattach_as::<std::net::TcpStream, _>(psock.id()).unwrap();
                        mine = back.stream;
                    }
                    Err(refused) => {
                        assert!(matches!(refused.reason(), AttachErrorReason::AlreadyAttached));
                        mine = refused.into_stream().unwrap();
                    }
                }
                yield_now().await;
            }
            won
        }));
    }
    let mut won = 0;
    for task in tasks {
        won += soon_long("both", task).await.unwrap();
    }
    assert_eq!(socket.mux_stats().attach, won as u64);
    socket.attach(stream, &Be32).unwrap();
    peer.send(&numbered(1, 1, 20)).await.unwrap();
    assert_eq!(number(&soon("the message", socket.recv()).await.unwrap()), Some((1, 1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_14_an_owned_connection_is_refused_at_once_while_its_task_is_busy() {
    let (mut peer, stream) = std_pair().await;
    let mut copy = stream.try_clone().unwrap();
    let socket = dgram();
    socket.attach(stream, &Be32).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let flood = tokio::spawn(async move {
        let mut sent = 0;
        while !stopped.load(Ordering::Relaxed) {
            peer.send(&numbered(0, sent, 100)).await.unwrap();
            sent += 1;
        }
        (peer, sent)
    });
    let reader = async {
        let (mut flood, mut next) = (flood, 0);
        let total = loop {
            tokio::select! {
                done = &mut flood => break done.unwrap(),
                message = socket.recv() => {
                    assert_eq!(number(&message.unwrap()), Some((0, next)));
                    next += 1;
                }
            }
        };
        while next < total.1 {
            assert_eq!(number(&socket.recv().await.unwrap()), Some((0, next)));
            next += 1;
        }
    };
    let attacher = async {
        for _ in 0..times(500) {
            let refused = socket.attach(copy, &Be32).unwrap_err();
            assert!(matches!(refused.reason(), AttachErrorReason::AlreadyAttached));
            copy = refused.into_stream().unwrap();
            yield_now().await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    soon_long("all of it", async { tokio::join!(reader, attacher) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_15_62_a_socket_closes_while_its_queue_drains() {
    let socket = dgram();
    let whole = Arc::new(AtomicUsize::new(0));
    let mut psocks = Vec::new();
    for _ in 0..2 {
        let (peer, stream) = UnixStream::pair().unwrap();
        psocks.push(socket.attach(stream, &Be32).unwrap());
        tokio::spawn(count_frames(peer, whole.clone()));
    }
    let message = bytes::Bytes::from(frame(vec![7; 20_000]));
    for round in 0..times(300) {
        let one = socket.try_clone().unwrap();
        for _ in 0..12 {
            // More than the connection takes: it is left to the connection's task.
            let _ = one.try_send(message.clone());
        }
        let closed = tokio::spawn(async move { drop(one) });
        if round % 3 == 0 {
            closed.await.unwrap();
        }
    }
    let sums = || {
        let s = socket.mux_stats();
        assert_eq!(s.accepted_msgs, s.tx_msgs + s.send_queued_msgs + s.tx_dropped_msgs);
        (s.tx_msgs as usize, s.send_queued_msgs)
    };
    eventually("everything is out or dropped", || sums().1 == 0).await;
    eventually("all that is out arrives whole", || whole.load(Ordering::Relaxed) == sums().0).await;
    assert!(psocks.iter().all(|p| p.error().is_none()), "no connection is harmed");
    socket.send(frame("on we go")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_16_no_wake_up_is_lost_between_receivers_and_connections() {
    let first = Arc::new(dgram());
    let second = Arc::new(first.try_clone().unwrap());
    let (got, mut taken) = tokio::sync::mpsc::unbounded_channel();
    for socket in [&first, &first, &second, &second] {
        let (socket, got) = (socket.clone(), got.clone());
        tokio::spawn(async move {
            while let Ok(message) = socket.recv().await {
                if got.send(number(&message)).is_err() {
                    break;
                }
            }
        });
    }
    let mut peers = Vec::new();
    for _ in 0..4 {
        let (peer, stream) = UnixStream::pair().unwrap();
        first.attach(stream, &Be32).unwrap();
        peers.push(peer);
    }
    for round in 0..times(500) as u32 {
        // One to three at once, and then nothing more: each must arrive by itself.
        let n = 1 + round as usize % 3;
        for (conn, peer) in peers.iter_mut().enumerate().take(n) {
            peer.write_all(&numbered(conn as u32, round, 12)).await.unwrap();
        }
        for _ in 0..n {
            let (_, seq) = soon("the message", taken.recv()).await.unwrap().unwrap();
            assert_eq!(seq, round);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_18_each_message_is_received_once_while_receiving_is_disabled_and_enabled() {
    let first = Arc::new(KcmSocket::builder(SocketType::Dgram).recv_buffer(400).build());
    let second = Arc::new(first.try_clone().unwrap());
    let (seen, done) = (Seen::default(), Arc::new(AtomicBool::new(false)));
    let mut readers = Vec::new();
    for socket in [first.clone(), second] {
        let seen = seen.clone();
        readers.push(tokio::spawn(async move {
            while let Ok(message) = socket.recv().await {
                seen.take(&message);
            }
        }));
    }
    let mut peers = Vec::new();
    for conn in 0..2 {
        let (mut peer, stream) = UnixStream::pair().unwrap();
        first.attach(stream, &Be32).unwrap();
        let done = done.clone();
        peers.push(tokio::spawn(async move {
            let mut sent = 0;
            while !done.load(Ordering::Relaxed) {
                for _ in 0..4 {
                    peer.write_all(&numbered(conn, sent, 60)).await.unwrap();
                    sent += 1;
                }
                yield_now().await;
            }
            (peer, sent)
        }));
    }
    for _ in 0..times(500) {
        first.set_recv_disabled(true);
        yield_now().await;
        first.set_recv_disabled(false);
        yield_now().await;
    }
    done.store(true, Ordering::Relaxed);
    let mut sent = Vec::new();
    let mut open = Vec::new();
    for peer in peers {
        let (peer, n) = soon_long("the peers", peer).await.unwrap();
        open.push(peer);
        sent.push(n);
    }
    let total: u32 = sent.iter().sum();
    eventually("all messages", || seen.len() == total as usize).await;
    assert!(seen.0.lock().unwrap().values().all(|&n| n == 1));
    assert_eq!(first.mux_stats().delivered_msgs, u64::from(total));
    readers.iter().for_each(|r| r.abort());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_25_two_build_on_one_open_message_while_one_gives_up() {
    let socket = Arc::new(KcmSocket::builder(SocketType::Dgram).send_buffer(200).build());
    let (peer, stream) = UnixStream::pair().unwrap();
    socket.attach(stream, &Be32).unwrap();
    let arrived = Arc::new(AtomicUsize::new(0));
    let count = arrived.clone();
    tokio::spawn(async move {
        let (mut peer, mut buf) = (peer, [0; 4096]);
        while let Ok(n @ 1..) = peer.read(&mut buf).await {
            count.fetch_add(n, Ordering::Relaxed);
        }
    });
    let taken = Arc::new(AtomicUsize::new(0));
    let builder = |flags: [SendFlags; 2]| {
        let (socket, taken) = (socket.clone(), taken.clone());
        async move {
            for round in 0..times(500) {
                let part = vec![1; 1 + round % 90];
                let sent = match round % 3 {
                    0 => socket.send_with(part, flags[round % 2]).await,
                    // Gives up at once if it would have to wait.
                    1 => {
                        let send = socket.send_with(part, flags[round % 2]);
                        tokio::select! { biased; sent = send => sent, () = yield_now() => Ok(0) }
                    }
                    _ => socket.try_send_with(part, flags[round % 2]),
                };
                match sent {
                    Ok(n) => _ = taken.fetch_add(n, Ordering::Relaxed),
                    Err(e) => assert_eq!(e, SendError::WouldBlock),
                }
            }
        }
    };
    let more = tokio::spawn(builder([SendFlags::MORE, SendFlags::NONE]));
    let ends = tokio::spawn(builder([SendFlags::NONE, SendFlags::MORE]));
    soon_long("the one", more).await.unwrap();
    soon_long("the other", ends).await.unwrap();
    // Whatever is open ends here.
    taken.fetch_add(soon("the end", socket.send(vec![1])).await.unwrap(), Ordering::Relaxed);
    soon("all out", socket.flush()).await.unwrap();
    let taken = taken.load(Ordering::Relaxed);
    eventually("each byte taken arrives", || arrived.load(Ordering::Relaxed) == taken).await;
    let s = socket.mux_stats();
    assert_eq!((s.tx_msgs, s.send_queued_bytes), (s.accepted_msgs, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_26_a_reserved_connection_is_unattached_while_its_socket_closes() {
    let socket = Arc::new(dgram());
    let message = bytes::Bytes::from(frame(vec![3; 600_000]));
    let mut spoilt = 0;
    for round in 0..times(200) {
        // Its peer never reads: the message is begun and stays so.
        let (_peer, stream) = UnixStream::pair().unwrap();
        let psock = socket.attach(stream, &Be32).unwrap().id();
        let one = socket.try_clone().unwrap();
        one.try_send(message.clone()).unwrap();
        let waits = round % 4;
        let closes = tokio::spawn(async move {
            for _ in 0..waits {
                yield_now().await;
            }
            drop(one);
        });
        let back = socket.unattach_as::<UnixStream, _>(psock).unwrap();
        spoilt += usize::from(back.desynchronised);
        closes.await.unwrap();
        let s = socket.mux_stats();
        assert_eq!(s.accepted_msgs, s.tx_msgs + s.send_queued_msgs + s.tx_dropped_msgs);
    }
    assert_eq!(spoilt, times(200), "each was in the middle of a message");
    // Closed with the connection gone, or before: either way nothing is left behind.
    let (peer, stream) = UnixStream::pair().unwrap();
    let whole = Arc::new(AtomicUsize::new(0));
    tokio::spawn(count_frames(peer, whole.clone()));
    socket.attach(stream, &Be32).unwrap();
    soon("the queue drains", socket.send(frame("last"))).await.unwrap();
    eventually("all that was kept is out", || {
        let s = socket.mux_stats();
        s.send_queued_msgs == 0 && whole.load(Ordering::Relaxed) == s.tx_msgs as usize
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_30_parsers_are_replaced_and_dropped_while_they_run() {
    let object = kcm_core::parsers::object("lenprefix_be32").unwrap();
    let object = kcm_core::Object::parse(object).unwrap();
    let load = || kcm_core::Parser::load(&object, "lenprefix_be32").unwrap();
    let kept = built_in("lenprefix_be32", Exec::Auto).unwrap();
    let socket = dgram();
    let (peer, mut stream) = UnixStream::pair().unwrap();
    let rounds = times(300);
    // As long as it takes: the peer sends without a pause, and the parser runs.
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let flood = tokio::spawn(async move {
        let (mut peer, mut sent) = (peer, 0);
        while !stopped.load(Ordering::Relaxed) {
            peer.write_all(&numbered(0, sent, 30)).await.unwrap();
            sent += 1;
        }
        (peer, sent)
    });
    let (mut initial, mut next) = (bytes::Bytes::new(), 0);
    let take = |message: &Message, next: &mut u32| {
        assert_eq!(number(message), Some((0, *next)), "once, in order");
        *next += 1;
    };
    for round in 0..rounds {
        // Its own program and machine code now and then, else one that many share.
        let parser = if round % 50 == 0 { load() } else { kept.clone() };
        let options = AttachOptions::new().initial(initial);
        let psock = socket.attach_with(stream, &parser, options).unwrap();
        let on_another_thread = std::thread::spawn(move || drop(parser));
        yield_now().await;
        while let Ok(message) = socket.try_recv() {
            take(&message, &mut next);
        }
        let back = socket.unattach_as::<UnixStream, _>(psock.id()).unwrap();
        on_another_thread.join().unwrap();
        assert_eq!(back.cause, None);
        (stream, initial) = (back.stream, back.unread);
    }
    let parser = load();
    socket.attach_with(stream, &parser, AttachOptions::new().initial(initial)).unwrap();
    drop((parser, kept));
    stop.store(true, Ordering::Relaxed);
    let mut flood = flood;
    let (_peer, sent) = loop {
        tokio::select! {
            done = &mut flood => break done.unwrap(),
            message = socket.recv() => take(&message.unwrap(), &mut next),
        }
    };
    while next < sent {
        take(&soon("the rest", socket.recv()).await.unwrap(), &mut next);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_36_46_a_message_completes_or_times_out_and_never_both() {
    let socket = dgram();
    let (mut peer, mut stream) = UnixStream::pair().unwrap();
    let (mut delivered, mut expired) = (0_u32, 0_u32);
    let rounds = times(300) as u32;
    for round in 0..rounds {
        let timeout = Duration::from_micros(500);
        let options = AttachOptions::new().assembly_timeout(timeout);
        let psock = socket.attach_with(stream, &Be32, options).unwrap();
        let message = numbered(0, round, 30);
        let (head, tail) = message.split_at(1 + round as usize % 33);
        peer.write_all(head).await.unwrap();
        // The second half about when the deadline passes, sometimes clearly before or after.
        let wait = Duration::from_micros(u64::from(round % 7) * 300);
        tokio::time::sleep(wait).await;
        peer.write_all(tail).await.unwrap();
        let late = tokio::select! {
            message = socket.recv() => {
                assert_eq!(number(&message.unwrap()), Some((0, round)));
                false
            }
            cause = psock.closed() => {
                assert!(matches!(cause, PsockError::TimedOut { .. }), "{cause:?}");
                true
            }
        };
        let back = socket.unattach_as::<UnixStream, _>(psock.id()).unwrap();
        let left = rest(&back);
        match late {
            true => {
                expired += 1;
                assert!(matches!(back.cause, Some(PsockError::TimedOut { .. })));
                assert_eq!(left, message, "all of it comes back");
                assert!(socket.try_recv().is_err(), "timed out and delivered");
            }
            false => {
                delivered += 1;
                assert!(left.is_empty(), "delivered and given back");
                assert_eq!(back.cause, None);
            }
        }
        stream = back.stream;
    }
    assert_eq!(delivered + expired, rounds);
    let s = socket.mux_stats();
    assert_eq!(s.rx_msgs, u64::from(delivered));
    assert_eq!(s.psocks.strp.msg_timeouts, u64::from(expired));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_47_unattach_meets_the_piece_that_arms_the_deadline() {
    let socket = Arc::new(dgram());
    let (mut peer, mut stream) = UnixStream::pair().unwrap();
    for round in 0..times(500) {
        let options = AttachOptions::new().assembly_timeout(Duration::from_micros(200));
        let psock = socket.attach_with(stream, &Be32, options).unwrap();
        let piece = tokio::spawn(async move {
            peer.write_all(&[0, 0]).await.unwrap();
            peer
        });
        for _ in 0..round % 5 {
            yield_now().await;
        }
        let back = socket.unattach_as::<UnixStream, _>(psock.id()).unwrap();
        peer = piece.await.unwrap();
        assert_eq!(rest(&back), [0, 0]);
        stream = back.stream;
    }
    let s = socket.mux_stats();
    assert_eq!((s.attach, s.unattach, s.rx_msgs), (s.attach, s.attach, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_50_what_is_sent_to_a_connection_that_leaves_arrives_or_is_counted() {
    let socket = Arc::new(dgram());
    let whole = Arc::new(AtomicUsize::new(0));
    let connect = || {
        let (peer, stream) = UnixStream::pair().unwrap();
        tokio::spawn(count_frames(peer, whole.clone()));
        stream
    };
    let target = Arc::new(Mutex::new(None));
    let stop = Arc::new(AtomicBool::new(false));
    let sender = {
        let (socket, target, stop) = (socket.clone(), target.clone(), stop.clone());
        tokio::spawn(async move {
            let (mut accepted, message) = (0, bytes::Bytes::from(frame(vec![1; 3000])));
            while !stop.load(Ordering::Relaxed) {
                let to = *target.lock().unwrap();
                let Some(to) = to else {
                    yield_now().await;
                    continue;
                };
                match socket.send_to(to, message.clone()).await {
                    Ok(_) => accepted += 1,
                    // Left before the message was taken.
                    Err(e) => assert_eq!(e.errno(), kcm_common::errno::ENOENT, "{e}"),
                }
                yield_now().await;
            }
            accepted
        })
    };
    let (mut stream, mut unsent) = (connect(), 0);
    for round in 0..times(500) {
        let psock = socket.attach(stream, &Be32).unwrap();
        *target.lock().unwrap() = Some(psock.id());
        for _ in 0..1 + round % 4 {
            yield_now().await;
        }
        let back = socket.unattach_as::<UnixStream, _>(psock.id()).unwrap();
        unsent += back.unsent;
        stream = if back.desynchronised { connect() } else { back.stream };
    }
    stop.store(true, Ordering::Relaxed);
    let accepted: usize = soon_long("the sender", sender).await.unwrap();
    eventually("each message arrives or is counted", || {
        whole.load(Ordering::Relaxed) + unsent == accepted
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_63_whoever_receives_a_message_takes_its_connection_away_and_puts_it_back() {
    let socket = dgram();
    let mut peers = Vec::new();
    for _ in 0..2 {
        let (peer, stream) = UnixStream::pair().unwrap();
        socket.attach(stream, &Be32).unwrap();
        peers.push(peer);
    }
    let (got, mut taken) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..2 {
        let (socket, got) = (socket.try_clone().unwrap(), got.clone());
        tokio::spawn(async move {
            while let Ok(message) = socket.recv().await {
                let other = socket.try_clone().unwrap();
                let back = other.unattach_as::<UnixStream, _>(message.psock()).unwrap();
                let options = AttachOptions::new().initial(back.unread);
                other.attach_with(back.stream, &Be32, options).unwrap();
                drop(other);
                if got.send(number(&message)).is_err() {
                    break;
                }
            }
        });
    }
    // The one that lives in this test takes none.
    socket.set_recv_disabled(true);
    for round in 0..times(300) as u32 {
        for (conn, peer) in peers.iter_mut().enumerate() {
            peer.write_all(&numbered(conn as u32, round, 25)).await.unwrap();
        }
        for _ in &peers {
            let (_, seq) = soon("the message", taken.recv()).await.unwrap().unwrap();
            assert_eq!(seq, round);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_1_10_18_sockets_are_cloned_and_closed_while_messages_come() {
    let socket = Arc::new(KcmSocket::builder(SocketType::Dgram).recv_buffer(300).build());
    let (seen, stop) = (Seen::default(), Arc::new(AtomicBool::new(false)));
    let mut peers = Vec::new();
    for conn in 0..3 {
        let (mut peer, stream) = UnixStream::pair().unwrap();
        socket.attach(stream, &Be32).unwrap();
        let stop = stop.clone();
        peers.push(tokio::spawn(async move {
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                peer.write_all(&numbered(conn, sent, 50)).await.unwrap();
                sent += 1;
                yield_now().await;
            }
            (peer, sent)
        }));
    }
    let reader = {
        let (socket, seen) = (socket.clone(), seen.clone());
        tokio::spawn(async move {
            while let Ok(message) = socket.recv().await {
                seen.take(&message);
            }
        })
    };
    for round in 0..times(500) {
        let clone = socket.try_clone().unwrap();
        if round % 2 == 0 {
            yield_now().await;
        }
        if round % 3 == 0
            && let Ok(message) = clone.try_recv()
        {
            seen.take(&message);
        }
        // The rest moves to the others.
        match round % 5 {
            0 => clone.close().await,
            _ => drop(clone),
        }
    }
    stop.store(true, Ordering::Relaxed);
    let (mut open, mut total) = (Vec::new(), 0);
    for peer in peers {
        let (peer, sent) = soon_long("the peers", peer).await.unwrap();
        open.push(peer);
        total += sent as usize;
    }
    eventually("all messages", || seen.len() == total).await;
    assert!(seen.0.lock().unwrap().values().all(|&n| n == 1));
    assert!(socket.proc_net_kcm().contains("KCMs: 1, Psocks 3"), "{}", socket.proc_net_kcm());
    reader.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_55_a_wake_up_means_a_message_whatever_else_happens() {
    let socket = dgram();
    let (peer, stream) = pair().await;
    socket.attach(stream, &Be32).unwrap();
    let other = Arc::new(socket.try_clone().unwrap());
    let rounds = times(400) as u32;
    let toggles = {
        let other = other.clone();
        tokio::spawn(async move {
            loop {
                other.set_recv_disabled(true);
                yield_now().await;
                other.set_recv_disabled(false);
                yield_now().await;
            }
        })
    };
    let sends = tokio::spawn(async move {
        let mut peer = peer;
        for seq in 0..rounds {
            peer.send(&numbered(0, seq, 10)).await.unwrap();
        }
        peer
    });
    let mut got = 0;
    while got < rounds {
        // Nobody else takes from this socket: readable stays true.
        tokio::select! {
            () = socket.readable() => {
                socket.try_recv().expect("woken, so there is one");
                got += 1;
            }
            message = other.recv() => {
                message.unwrap();
                got += 1;
            }
        }
    }
    toggles.abort();
    soon("the peer", sends).await.unwrap();
    assert_eq!(socket.mux_stats().delivered_msgs, u64::from(rounds));
}
