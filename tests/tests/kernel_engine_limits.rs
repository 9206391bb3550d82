//! What bounds the kernel engine: its ring, its table of connections, its wake-ups, objects of
//! other versions. Skipped, and counted, where this machine or this process cannot.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Wake, Waker};

use kcm_common::errno;
use kcm_common::kernel::VERDICT;
use kcm_core::{AttachOptions, Engine, KcmSocket, Object, Parser, PsockError, SocketType, parsers};
use kcm_tests::harness::{self, eventually};
use kcm_tests::kernel_engine::{available, kernel, message, unacknowledged, with_ring};
use kcm_tests::peer::pair;
use kcm_tests::skip::skip;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpStream;

const PARSER: &str = "lenprefix_be16";

/// What should come at once.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    harness::soon("what was sent", what).await
}

#[tokio::test]
async fn whole_messages_do_not_wait_for_the_unfinished_one_behind_them() {
    if !available() {
        return;
    }
    // What is behind them in their segment: a header that is not whole, a body that is not, and
    // nothing; and once they are more than one wake-up is for.
    let behind: [&[u8]; 3] = [b"\0", b"\x01\0half", b""];
    for (behind, count) in
        behind.into_iter().flat_map(|b| [1, 2, 3, 127, 128, 129, 1000].map(|n| (b, n)))
    {
        let (mut peer, stream) = pair().await;
        let socket = KcmSocket::new(SocketType::Dgram);
        socket.attach_with(stream, &parsers::lenprefix_be16(), kernel()).unwrap();
        let mut bytes: Vec<u8> = (0..count).flat_map(|n: u32| message(&n.to_be_bytes())).collect();
        bytes.extend_from_slice(behind);
        peer.send(&bytes).await.unwrap();
        for n in 0..count {
            assert_eq!(soon(socket.recv()).await.unwrap()[2..], n.to_be_bytes(), "of {count}");
        }
    }
}

#[tokio::test]
async fn whole_messages_come_before_the_refusal_of_what_is_behind_them() {
    if !available() {
        return;
    }
    let (mut peer, stream) = pair().await;
    let socket = KcmSocket::new(SocketType::Dgram);
    let psock = socket.attach_with(stream, &parsers::mqtt(), kernel()).unwrap();
    let ping = [0xc0, 0];
    let mut bytes = ping.repeat(50);
    // No packet begins with a zero.
    bytes.extend_from_slice(&[0, 0]);
    peer.send(&bytes).await.unwrap();
    assert_eq!(soon(psock.closed()).await, PsockError::Parser(errno::EPROTO));
    for _ in 0..50 {
        assert_eq!(socket.try_recv().unwrap()[..], ping);
    }
    assert!(socket.try_recv().is_err());
}

#[tokio::test]
async fn a_connection_that_leaves_amid_its_messages_takes_nobody_elses_along() {
    if !available() {
        return;
    }
    let socket = KcmSocket::new(SocketType::Dgram);
    let parser = parsers::lenprefix_be16();
    let (mut steady, stream) = pair().await;
    let stays = socket.attach_with(stream, &parser, kernel()).unwrap().id();
    for round in 0..100u32 {
        let (mut peer, stream) = pair().await;
        let psock = socket.attach_with(stream, &parser, kernel()).unwrap();
        let flood = tokio::spawn(async move {
            let bytes = message(b"small").repeat(2000);
            // It is shut down in the middle.
            let _ = peer.send(&bytes).await;
        });
        steady.send(&message(&round.to_be_bytes())).await.unwrap();
        socket.unattach(psock.id()).unwrap();
        loop {
            let got = soon(socket.recv()).await.unwrap();
            if got.psock() == stays {
                assert_eq!(got[2..], round.to_be_bytes());
                break;
            }
            assert_eq!(&got[2..], b"small");
        }
        flood.await.unwrap();
    }
}

/// A waker that holds up whoever wakes: the thread that reads the ring.
#[derive(Default)]
struct Holdup {
    held: AtomicBool,
    open: Mutex<bool>,
    opened: Condvar,
}

impl Wake for Holdup {
    fn wake(self: Arc<Self>) {
        // A connection's task may read the ring too: it runs on the test's own thread.
        if std::thread::current().name() != Some("kcm-kernel") {
            return;
        }
        self.held.store(true, Ordering::Release);
        let open = self.open.lock().unwrap();
        drop(self.opened.wait_while(open, |open| !*open).unwrap());
    }
}

impl Holdup {
    fn let_go(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

#[tokio::test]
async fn a_ring_that_is_full_cuts_off_whom_it_has_no_room_for_and_says_so() {
    if !available() {
        return;
    }
    const RING: u32 = 1 << 16;
    let parser = with_ring(RING);
    let socket = KcmSocket::new(SocketType::Dgram);
    // Two connections within their credit, half the ring each, and a third one that fills it to
    // the last byte: for its fourth message there is no room, nor for the record that says so.
    let bodies = [&[900; 30][..], &[900; 30], &[900, 500, 500, 900]];
    let mut all = Vec::new();
    for _ in 0..=bodies.len() {
        let (mut peer, stream) = pair().await;
        let stream = stream.into_std().unwrap();
        let copy = OwnedFd::from(stream.try_clone().unwrap());
        let stream = TcpStream::from_std(stream).unwrap();
        let psock = socket.attach_with(stream, &parser, kernel().max_message(4096)).unwrap();
        peer.send(&message(b"first")).await.unwrap();
        let got = soon(socket.recv()).await.unwrap();
        soon(socket.reply(&got, got.to_vec())).await.unwrap();
        assert_eq!(peer.read(got.len()).await.unwrap(), got[..]);
        all.push((psock, peer, copy, 0u32));
    }

    // The ring's reader is held up, by the wake-up for a message.
    let (_first, mut first, ..) = all.pop().unwrap();
    // The connections' tasks, which read the ring when they begin, have begun.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let holdup = Arc::new(Holdup::default());
    let waker = Waker::from(holdup.clone());
    let mut receive = Box::pin(socket.recv());
    assert!(receive.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    first.send(&message(b"first")).await.unwrap();
    eventually("nobody is woken", || holdup.held.load(Ordering::Acquire)).await;

    for ((_, peer, copy, _), bodies) in all.iter_mut().zip(bodies) {
        for (n, body) in (0u32..).zip(bodies) {
            let mut body = vec![0; *body];
            body[..4].copy_from_slice(&n.to_be_bytes());
            peer.send(&message(&body)).await.unwrap();
        }
        // The kernel has parsed all of it when it is out of both sockets.
        eventually("the kernel does not take it", || {
            rustix::io::ioctl_fionread(copy.as_fd()).unwrap() == 0
                && unacknowledged(peer.as_fd()).unwrap() == 0
        })
        .await;
    }
    holdup.let_go();
    drop(receive);

    let last = all.last().unwrap().0.clone();
    let mut count = |got: kcm_core::Message| {
        if got[2..] != *b"first" {
            let of = all.iter_mut().find(|(psock, ..)| psock.id() == got.psock()).unwrap();
            assert_eq!(got[2..6], of.3.to_be_bytes(), "a gap");
            of.3 += 1;
        }
    };
    let cause = loop {
        tokio::select! {
            got = socket.recv() => count(got.unwrap()),
            cause = soon(last.closed()) => break cause,
        }
    };
    while let Ok(got) = socket.try_recv() {
        count(got);
    }
    assert_eq!(cause, PsockError::Overrun { credit: u64::from(RING / 2), ring_full: true });
    assert!(cause.to_string().contains("full"), "{cause}");
    assert_eq!(all.iter().map(|(.., n)| *n).collect::<Vec<_>>(), [30, 30, 3]);
    // The engine lives, and so do those that it did not cut off.
    let (psock, peer, ..) = &mut all[0];
    peer.send(&message(b"later")).await.unwrap();
    loop {
        let got = soon(socket.recv()).await.unwrap();
        if got.psock() == psock.id() {
            assert_eq!(&got[2..], b"later");
            break;
        }
    }
}

#[tokio::test]
async fn a_parser_that_serves_all_the_connections_it_can_refuses_one_more_until_one_closes() {
    if !available() {
        return;
    }
    const MOST: usize = 4096;
    const FILES: u64 = 3 * MOST as u64 + 100;
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.map_or(FILES, |m| m.max(FILES));
    if limit.current.is_some_and(|now| now < FILES)
        && let Err(e) =
            setrlimit(Resource::Nofile, Rlimit { current: Some(FILES), maximum: Some(most) })
    {
        skip(format!("{FILES} open files are not allowed here: {e}"));
        return;
    }
    let parser = with_ring(1 << 16);
    let socket = KcmSocket::new(SocketType::Dgram);
    let options = kernel().max_message(4096);
    let mut peers = Vec::new();
    let mut psocks = Vec::new();
    for n in 0..MOST {
        let (peer, stream) = pair().await;
        let psock = socket.attach_with(stream, &parser, options.clone());
        psocks.push(psock.unwrap_or_else(|e| panic!("connection {n}: {e}")));
        peers.push(peer);
    }
    let (mut peer, stream) = pair().await;
    let refused = socket.attach_with(stream, &parser, options.clone()).unwrap_err();
    assert_eq!(refused.errno(), errno::ENOBUFS, "{refused}");
    assert!(refused.to_string().contains("4096 connections"), "{refused}");
    // Those that are served are not concerned.
    peers[MOST / 2].send(&message(b"served")).await.unwrap();
    let got = soon(socket.recv()).await.unwrap();
    assert_eq!((&got[2..], got.psock()), (&b"served"[..], psocks[MOST / 2].id()));
    // One closes, and its place is the refused one's.
    drop(socket.unattach(psocks.remove(7).id()).unwrap());
    let mut stream = Some(refused.into_stream::<TcpStream>().unwrap());
    let mut psock = None;
    // A socket leaves the kernel's table when it is closed, which may take a moment.
    eventually("its place is not free", || {
        match socket.attach_with(stream.take().unwrap(), &parser, options.clone()) {
            Ok(attached) => psock = Some(attached),
            Err(e) => {
                assert_eq!(e.errno(), errno::ENOBUFS, "{e}");
                stream = Some(e.into_stream::<TcpStream>().unwrap());
            }
        }
        psock.is_some()
    })
    .await;
    let psock = psock.unwrap();
    peer.send(&message(b"in its place")).await.unwrap();
    let got = soon(socket.recv()).await.unwrap();
    assert_eq!((&got[2..], got.psock()), (&b"in its place"[..], psock.id()));
}

#[tokio::test]
async fn an_object_of_another_version_is_refused_with_what_to_rebuild() {
    if !available() {
        return;
    }
    let (from, to) = (VERDICT.as_bytes(), b"kcm_verdict_0");
    assert_eq!(from.len(), to.len());
    let mut bytes = parsers::object(PARSER).unwrap().to_vec();
    let names: Vec<usize> =
        (0..bytes.len() - from.len()).filter(|i| bytes[*i..].starts_with(from)).collect();
    assert!(!names.is_empty());
    for at in names {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
    // In process it serves as ever.
    let parser = Parser::load(&Object::parse(&bytes).unwrap(), PARSER).unwrap();
    let (_peer, stream) = pair().await;
    let socket = KcmSocket::new(SocketType::Dgram);
    let refused = socket.attach_with(stream, &parser, kernel()).unwrap_err();
    let text = refused.to_string();
    for part in [PARSER, "kcm_verdict_0", VERDICT, "cargo xtask build-ebpf"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(refused.errno(), errno::EOPNOTSUPP);
    let stream: TcpStream = refused.into_stream().unwrap();
    let options = AttachOptions::new().engine(Engine::Process);
    socket.attach_with(stream, &parser, options).unwrap();
}
