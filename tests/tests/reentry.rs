//! What is called from inside a connection: parsers, wakers and streams that call back
//! (kernel-faults row 63). No such call waits for ever, and none is lost.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use kcm_common::errno;
use kcm_core::delineate::{Delineate, Verdict};
use kcm_core::{KcmSocket, Psock, PsockError, SocketType};
use kcm_tests::codec::{Be32, frame, payload};
use kcm_tests::harness::{alive_tasks, eventually, soon};
use kcm_tests::peer::{Peer, pair};

/// A parser that does something else before it answers.
#[derive(Clone)]
struct Then(Arc<dyn Fn() + Send + Sync>);

impl Delineate for Then {
    fn parse(&self, message: &[u8]) -> Verdict {
        (self.0)();
        Be32.parse(message)
    }
}

/// What a parser reaches from inside.
#[derive(Default)]
struct World {
    socket: OnceLock<KcmSocket>,
    psocks: Mutex<Vec<Psock>>,
}

#[tokio::test]
async fn row_63_a_parser_cannot_wait_for_connections_and_is_told_so() {
    let world = Arc::new(World::default());
    let calls = Arc::new(AtomicUsize::new(0));
    let parser = {
        let (world, calls) = (world.clone(), calls.clone());
        Then(Arc::new(move || {
            let socket = world.socket.get().unwrap();
            for psock in world.psocks.lock().unwrap().iter() {
                // Its own and the other.
                let refused = socket.unattach(psock.id()).unwrap_err();
                assert_eq!(refused.errno(), errno::EDEADLK, "{refused}");
                assert!(psock.tcp_info().is_err());
                let refused = psock.set_max_message(100).unwrap_err();
                assert_eq!(refused.errno(), errno::EDEADLK);
                let refused = psock.set_assembly_timeout(None).unwrap_err();
                assert_eq!(refused.errno(), errno::EDEADLK);
                // What needs no connection's lock may be asked and done.
                assert!(psock.stats().is_some() && psock.error().is_none());
                socket.try_send_to(psock.id(), frame("from inside")).unwrap();
            }
            assert!(socket.proc_net_kcm().contains("psock-0"));
            calls.fetch_add(1, Ordering::Relaxed);
        }))
    };
    let socket = world.socket.get_or_init(|| KcmSocket::new(SocketType::Dgram));
    let mut peers = Vec::new();
    for _ in 0..2 {
        let (peer, stream) = pair().await;
        world.psocks.lock().unwrap().push(socket.attach(stream, &parser).unwrap());
        peers.push(peer);
    }
    peers[0].send(&frame("hello")).await.unwrap();
    assert_eq!(payload(&soon("the message", socket.recv()).await.unwrap()), b"hello");
    let calls = calls.load(Ordering::Relaxed);
    assert!(calls > 0);
    for peer in &mut peers {
        for _ in 0..calls {
            assert_eq!(peer.read_frame().await.unwrap(), b"from inside");
        }
    }
    // From outside it goes.
    let id = world.psocks.lock().unwrap()[0].id();
    assert!(socket.unattach(id).unwrap().cause.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_63_two_parsers_that_want_each_others_connection_both_go_on() {
    let world = Arc::new(World::default());
    let refused = Arc::new(AtomicUsize::new(0));
    let socket = world.socket.get_or_init(|| KcmSocket::new(SocketType::Dgram));
    let mut peers = Vec::new();
    for own in 0..2 {
        let (peer, stream) = pair().await;
        let (inner, refused) = (world.clone(), refused.clone());
        let parser = Then(Arc::new(move || {
            let other = inner.psocks.lock().unwrap().get(1 - own).map(Psock::id);
            if let Some(other) = other {
                let error = inner.socket.get().unwrap().unattach(other).unwrap_err();
                assert_eq!(error.errno(), errno::EDEADLK);
                refused.fetch_add(1, Ordering::Relaxed);
            }
        }));
        world.psocks.lock().unwrap().push(socket.attach(stream, &parser).unwrap());
        peers.push(peer);
    }
    for _ in 0..200 {
        for peer in &mut peers {
            peer.send(&frame("x")).await.unwrap();
        }
        for _ in &peers {
            soon("the message", socket.recv()).await.unwrap();
        }
    }
    assert!(refused.load(Ordering::Relaxed) >= 400);
}

#[tokio::test]
async fn row_63_a_parser_that_drops_the_last_socket_ends_its_connections() {
    let last = Arc::new(Mutex::new(None::<KcmSocket>));
    let parser = {
        let last = last.clone();
        Then(Arc::new(move || drop(last.lock().unwrap().take())))
    };
    let socket = KcmSocket::new(SocketType::Dgram);
    let (mut peers, mut psocks): (Vec<Peer>, Vec<Psock>) = Default::default();
    for _ in 0..3 {
        let (peer, stream) = pair().await;
        psocks.push(socket.attach(stream, &parser).unwrap());
        peers.push(peer);
    }
    *last.lock().unwrap() = Some(socket);
    peers[1].send(&frame("the end")).await.unwrap();
    for (peer, psock) in peers.iter_mut().zip(&psocks) {
        assert_eq!(soon("the end", psock.closed()).await, PsockError::Unattached);
        // A reset where something had been received and not read.
        let _ = soon("the end of the stream", peer.read_to_end()).await;
    }
    eventually("no task", || alive_tasks() == 0).await;
}

/// A task that runs wherever it is woken, at once, as some executors do.
struct Inline(Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>);

impl Inline {
    fn run(self: &Arc<Self>) {
        // Woken while it runs: it is looked at again by whoever runs it.
        let Some(mut task) = self.0.lock().unwrap().take() else { return };
        let waker = Waker::from(self.clone());
        if task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            *self.0.lock().unwrap() = Some(task);
        }
    }
}

impl Wake for Inline {
    fn wake(self: Arc<Self>) {
        self.run();
    }
}

#[tokio::test]
async fn row_63_a_receiver_that_runs_where_it_is_woken_can_take_the_connection_away() {
    let socket = Arc::new(KcmSocket::new(SocketType::Dgram));
    let (mut peer, stream) = pair().await;
    let psock = socket.attach(stream, &Be32).unwrap();
    let (done, mut result) = tokio::sync::oneshot::channel();
    let receiver = socket.clone();
    let task = async move {
        let message = receiver.recv().await.unwrap();
        let back = receiver.unattach(message.psock());
        let _ = done.send(back.map(|back| (message.to_vec(), back.cause)));
    };
    Arc::new(Inline(Mutex::new(Some(Box::pin(task))))).run();
    peer.send(&frame("mine")).await.unwrap();
    let end = tokio::time::Instant::now() + Duration::from_secs(20);
    let (message, cause) = loop {
        match result.try_recv() {
            Ok(back) => break back.unwrap(),
            Err(_) => assert!(tokio::time::Instant::now() < end, "it never came"),
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((payload(&message), cause), (&b"mine"[..], None));
    assert_eq!(psock.error(), Some(PsockError::Unattached));
}
