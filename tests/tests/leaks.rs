//! Nothing is left: no task, no descriptor, no thread. These tests count what the whole
//! process holds, so they run one at a time, and alone in their binary.

use std::io::Read;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kcm_core::{AttachOptions, KcmSocket, PsockError, SocketType, blocking};
use kcm_tests::codec::{Be32, frame, numbered, poison};
use kcm_tests::harness::{
    DEADLINE, alive_tasks, eventually, eventually_blocking, open_fds, soon, threads,
};
use kcm_tests::peer::{PairOptions, pair, pair_with, std_pair};

/// One at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn dropping_everything_leaves_no_task_and_no_descriptor() {
    let _alone = alone();
    runtime().block_on(async {
        let fds = open_fds();
        let socket = KcmSocket::builder(SocketType::Dgram).recv_buffer(100).build();
        let clone = socket.try_clone().unwrap();
        let mut peers = Vec::new();
        for conn in 0..30 {
            let (mut peer, stream) = pair().await;
            let options = AttachOptions::new().half_close(conn % 2 == 0);
            let psock = socket.attach_with(stream, &Be32, options).unwrap();
            match conn % 6 {
                // Idle; parked; inside a message; refused; ended; with something to send.
                0 => {}
                1 => peer.send(&vec![0; 4000]).await.unwrap(),
                2 => peer.send(&[0; 2]).await.unwrap(),
                3 => peer.send(&poison(1)).await.unwrap(),
                4 => peer.finish().await.unwrap(),
                _ => {
                    let _ = clone.try_send_to(psock.id(), frame("there"));
                }
            }
            peers.push(peer);
        }
        eventually("messages to be parked", || socket.mux_stats().parked_msgs > 0).await;
        assert!(alive_tasks() >= 15 && open_fds() >= fds + 60);
        drop(socket);
        drop(clone);
        eventually("all tasks to end", || alive_tasks() == 0).await;
        drop(peers);
        eventually("all descriptors to be closed", || open_fds() == fds).await;
    });
}

#[test]
fn unattached_and_failed_connections_leave_no_task() {
    let _alone = alone();
    runtime().block_on(async {
        let socket = KcmSocket::new(SocketType::Dgram);
        let fds = open_fds();
        for round in 0..50 {
            let (mut peer, stream) = pair().await;
            let psock = socket.attach(stream, &Be32).unwrap();
            if round % 2 == 0 {
                peer.send(&poison(1)).await.unwrap();
                let cause = soon("the failure", psock.closed()).await;
                assert_eq!(cause, PsockError::Parser(1));
                // Its task ends with it; the stream is kept until it is unattached.
                eventually("its task to end", || alive_tasks() == 0).await;
            }
            socket.unattach(psock.id()).unwrap();
        }
        eventually("all tasks to end", || alive_tasks() == 0).await;
        eventually("all descriptors to be closed", || open_fds() == fds).await;
    });
}

#[test]
fn a_refused_attach_leaves_nothing() {
    let _alone = alone();
    runtime().block_on(async {
        let socket = KcmSocket::new(SocketType::Dgram);
        let fds = open_fds();
        for _ in 0..20 {
            let (_peer, stream) = pair().await;
            let options = AttachOptions::new().max_header(0);
            drop(socket.attach_with(stream, &Be32, options).unwrap_err());
        }
        eventually("all descriptors to be closed", || open_fds() == fds).await;
        assert_eq!((alive_tasks(), socket.mux_stats().attach), (0, 0));
    });
}

#[test]
fn the_private_runtime_ends_with_the_last_blocking_socket() {
    // kernel-faults row 34
    let _alone = alone();
    // tokio opens its signal pipe once per process, with the first runtime, for good.
    drop(tokio::runtime::Runtime::new().unwrap());
    let (before, fds) = (threads(), open_fds());
    for _ in 0..50 {
        let socket = blocking::KcmSocket::new(SocketType::Dgram).unwrap();
        let clone = socket.try_clone().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        clone.attach(stream, &Be32).unwrap();
        clone.send(frame("something")).unwrap();
        assert!(threads() > before);
        drop(socket);
        drop(clone);
    }
    eventually_blocking("all threads to end", || threads() == before);
    eventually_blocking("all descriptors to be closed", || open_fds() == fds);
}

#[test]
fn a_message_begun_before_the_last_blocking_socket_closes_is_finished() {
    let _alone = alone();
    let runtime = runtime();
    let narrow =
        PairOptions { peer_recv_buffer: Some(4096), send_buffer: Some(4096), ..Default::default() };
    let (mut peer, stream) = runtime.block_on(pair_with(narrow)).unwrap();
    let socket = blocking::KcmSocket::new(SocketType::Dgram).unwrap();
    socket.attach(stream.into_std().unwrap(), &Be32).unwrap();
    let message = numbered(1, 1, 1 << 20);
    socket.send(&message).unwrap();
    drop(socket);
    assert_eq!(frame(runtime.block_on(peer.read_frame()).unwrap()), message);
    assert_eq!(runtime.block_on(peer.read_to_end()).unwrap(), b"");
}

#[test]
fn a_peer_that_never_reads_holds_nothing_beyond_the_stall_deadline() {
    let _alone = alone();
    runtime().block_on(async {
        let fds = open_fds();
        let socket = KcmSocket::builder(SocketType::Dgram)
            .stall_deadline(Some(std::time::Duration::from_millis(100)))
            .build();
        let narrow = PairOptions {
            peer_recv_buffer: Some(4096),
            send_buffer: Some(4096),
            ..Default::default()
        };
        let (peer, stream) = pair_with(narrow).await.unwrap();
        socket.attach(stream, &Be32).unwrap();
        socket.send(numbered(1, 1, 1 << 20)).await.unwrap();
        drop(socket);
        eventually("its task to end", || alive_tasks() == 0).await;
        drop(peer);
        eventually("all descriptors to be closed", || open_fds() == fds).await;
    });
}

#[test]
fn idle_connections_hold_no_buffer_after_a_burst() {
    // 10 000 idle psocks must cost less than 1 KiB each beyond the sockets themselves; here
    // fewer, after each had a large message in its buffer.
    let _alone = alone();
    runtime().block_on(async {
        let socket = KcmSocket::builder(SocketType::Dgram).recv_buffer(1 << 30).build();
        let options = AttachOptions::new().max_message(1 << 20);
        let mut peers = Vec::new();
        for _ in 0..200 {
            let (peer, stream) = pair().await;
            socket.attach_with(stream, &Be32, options.clone()).unwrap();
            peers.push(peer);
        }
        let message = frame(vec![1; 300_000]);
        let before = resident();
        for peer in &mut peers {
            peer.send(&message).await.unwrap();
            let got = soon("the message", socket.recv()).await.unwrap();
            assert_eq!(got.len(), message.len());
        }
        let grown = resident().saturating_sub(before);
        // 200 kept buffers would be 60 MB.
        assert!(grown < 20 << 20, "{grown} bytes more");
    });
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size()
}

#[test]
fn a_closed_connection_ends_for_its_peer_though_another_descriptor_is_open() {
    let _alone = alone();
    runtime().block_on(async {
        let socket = KcmSocket::new(SocketType::Dgram);
        let (mut peer, stream) = std_pair().await;
        let _copy = stream.try_clone().unwrap();
        socket.attach(stream, &Be32).unwrap();
        socket.send(b"last").await.unwrap();
        drop(socket);
        assert_eq!(soon("the end", peer.read_to_end()).await.unwrap(), b"last");
    });
}

#[test]
fn a_connection_whose_runtime_ended_ends_for_its_peer_though_another_descriptor_is_open() {
    let _alone = alone();
    let runtime = runtime();
    let (socket, peer, _copy) = runtime.block_on(async {
        let (peer, stream) = std_pair().await;
        let copy = stream.try_clone().unwrap();
        let socket = KcmSocket::new(SocketType::Dgram);
        socket.attach(stream, &Be32).unwrap();
        (socket, peer.into_inner().into_std().unwrap(), copy)
    });
    drop(runtime);
    drop(socket);
    peer.set_nonblocking(false).unwrap();
    peer.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!((&peer).read(&mut [0]).unwrap(), 0);
}
