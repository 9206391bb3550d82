//! No write of ours raises SIGPIPE, also in a process that did not ask to have it ignored
//! (semantics D20, J6). Alone in its file: the signal's disposition is the whole process's.

use std::net::Shutdown;

use kcm_core::{KcmSocket, PsockError, SocketType};
use kcm_tests::codec::{Be32, frame};
use kcm_tests::harness::soon;
use kcm_tests::peer::pair;

#[tokio::test]
async fn a_write_to_a_closed_connection_raises_no_signal() {
    // SAFETY: SIG_DFL is no handler; nothing else in this process sets or relies on SIGPIPE.
    // The Rust runtime ignores it at start, which programs in other languages do not.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let socket = KcmSocket::new(SocketType::Dgram);
    let (_peer, stream) = pair().await;
    let stream = stream.into_std().unwrap();
    let other = stream.try_clone().unwrap();
    let psock = socket.attach(tokio::net::TcpStream::from_std(stream).unwrap(), &Be32).unwrap();
    other.shutdown(Shutdown::Write).unwrap();
    // The default disposition would end the process here.
    socket.try_send(frame("into a closed pipe")).unwrap();
    let cause = soon("the failure", psock.closed()).await;
    assert_eq!(cause, PsockError::Reset);
    socket.try_send(frame("waits for another connection")).unwrap();
    assert_eq!(socket.stats().send_queued_msgs, 2);
}
