//! kernel-faults row 34; alone, because it counts what the whole process holds.

use kcm_core::{KcmSocket, PsockError, SocketType};
use kcm_tests::codec::{Be32, frame};
use kcm_tests::harness::{eventually_blocking, open_fds, threads};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

#[test]
fn row_34_a_runtime_that_ends_leaves_no_thread_and_no_descriptor() {
    // The first runtime of a process opens what all later ones share.
    drop(tokio::runtime::Runtime::new().unwrap());
    let (fds, before) = (open_fds(), threads());
    let long = std::env::var_os("KCM_LONG").is_some_and(|v| !v.is_empty());
    for round in 0..if long { 1000 } else { 50 } {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (socket, psock, peer) = runtime.block_on(async {
            let socket = KcmSocket::new(SocketType::Dgram);
            let (mut peer, stream) = UnixStream::pair().unwrap();
            let psock = socket.attach(stream, &Be32).unwrap();
            peer.write_all(&frame("here")).await.unwrap();
            socket.recv().await.unwrap();
            (socket, psock, peer)
        });
        // The socket goes first, or the runtime does, with its connection still attached.
        if round % 2 == 0 {
            drop((socket, psock, peer));
            drop(runtime);
        } else {
            drop(runtime);
            assert!(matches!(psock.error(), Some(PsockError::Io(_))), "{:?}", psock.error());
            drop((peer, psock, socket));
        }
    }
    eventually_blocking("all threads are gone", || threads() == before);
    assert_eq!(open_fds(), fds);
}
