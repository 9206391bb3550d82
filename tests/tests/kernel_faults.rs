//! Faults of kernel KCM that no other test is about, by their rows in docs/kernel-faults.md.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use kcm_core::delineate::{Delineate, Verdict};
use kcm_core::{AttachErrorReason, AttachOptions, KcmSocket, SendError, SendFlags, SocketType};
use kcm_tests::codec::{Be32, frame, payload};
use kcm_tests::harness::{alive_tasks, eventually, soon};
use kcm_tests::peer::pair;

fn dgram() -> KcmSocket {
    KcmSocket::new(SocketType::Dgram)
}

#[tokio::test]
async fn row_1_clones_that_come_and_go_leave_nothing_behind() {
    let socket = dgram();
    let before = socket.proc_net_kcm();
    for _ in 0..1000 {
        let one = socket.try_clone().unwrap();
        let two = one.try_clone().unwrap();
        assert_eq!(two.index(), 2, "indices are used again");
        drop(one);
        two.close().await;
    }
    assert_eq!(socket.proc_net_kcm(), before);
    assert_eq!(alive_tasks(), 0);
}

/// Counts those of it that exist.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Counted(count.clone())
    }
}

impl Clone for Counted {
    fn clone(&self) -> Self {
        Counted::new(&self.0)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Delineate for Counted {
    fn parse(&self, message: &[u8]) -> Verdict {
        Be32.parse(message)
    }
}

#[tokio::test]
async fn rows_8_51_a_refused_attach_drops_its_parser_and_leaves_no_task() {
    let socket = dgram();
    let count = Arc::new(AtomicUsize::new(0));
    let parser = Counted::new(&count);
    let (_peer, stream) = kcm_tests::peer::std_pair().await;
    let copy = stream.try_clone().unwrap();
    let psock = socket.attach(stream, &parser).unwrap();
    let attached = count.load(Ordering::Relaxed);
    let tasks = alive_tasks();
    // For each step at which attach can end early: options, state, owner.
    let bad = AttachOptions::new().max_header(0);
    let refused = socket.attach_with(copy, &parser, bad).unwrap_err();
    let copy = refused.into_stream::<std::net::TcpStream>().unwrap();
    let refused = socket.attach(copy, &parser).unwrap_err();
    assert!(matches!(refused.reason(), AttachErrorReason::AlreadyAttached));
    let lone = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let refused = socket.attach(std::net::TcpStream::from(lone), &parser).unwrap_err();
    assert!(matches!(refused.reason(), AttachErrorReason::NotConnected));
    assert_eq!((count.load(Ordering::Relaxed), alive_tasks()), (attached, tasks));
    // A connection whose parser never ran goes as easily.
    socket.unattach_as::<std::net::TcpStream, _>(psock.id()).unwrap();
    drop(psock);
    eventually("no task", || alive_tasks() == 0).await;
    assert_eq!(count.load(Ordering::Relaxed), 1, "ours");
}

/// Bytes whose owner is counted.
fn counted(count: &Arc<AtomicUsize>, len: usize) -> Bytes {
    struct Owner(Vec<u8>, #[allow(dead_code)] Counted);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    Bytes::from_owner(Owner(vec![7; len], Counted::new(count)))
}

#[tokio::test]
async fn rows_13_22_28_an_open_message_of_many_parts_gives_all_of_them_back() {
    let count = Arc::new(AtomicUsize::new(0));
    for end in 0..3 {
        let root = dgram();
        let socket = root.try_clone().unwrap();
        socket.set_send_buffer(1);
        for _ in 0..200 {
            // Large, so that they are kept and not copied.
            socket.send_with(counted(&count, 20_000), SendFlags::MORE).await.unwrap();
        }
        match end {
            0 => drop(socket),
            1 => soon("an open message is not waited for", socket.close()).await,
            _ => {
                // Ended, so queued; a further one is refused and leaves nothing; then close.
                socket.send(counted(&count, 20_000)).await.unwrap();
                let refused = socket.try_send(counted(&count, 20_000));
                assert_eq!(refused, Err(SendError::WouldBlock));
                drop(socket);
            }
        }
        assert_eq!(count.load(Ordering::Relaxed), 0);
        assert_eq!(root.mux_stats().send_queued_bytes, 0);
    }
}

#[tokio::test]
async fn row_28_a_message_of_more_parts_than_one_write_carries_ends_with_no_bytes() {
    let socket = KcmSocket::new(SocketType::Seqpacket);
    let (mut peer, stream) = pair().await;
    socket.attach(stream, &Be32).unwrap();
    let message = frame(vec![9; 300]);
    for part in message.chunks(1) {
        socket.send_with(part, SendFlags::NONE).await.unwrap();
    }
    assert_eq!(socket.send_with(&[][..], SendFlags::EOR).await.unwrap(), 0);
    // Neither an empty message nor one that is joined to it.
    assert_eq!(socket.send_with(&[][..], SendFlags::EOR).await.unwrap(), 0);
    socket.send(frame("next")).await.unwrap();
    assert_eq!(peer.read_frame().await.unwrap(), [9; 300]);
    assert_eq!(peer.read_frame().await.unwrap(), b"next");
    assert_eq!(socket.stats().tx_msgs, 2);
}

#[tokio::test]
async fn row_42_a_copy_that_is_changed_changes_no_other_message() {
    let socket = dgram();
    let (mut peer, stream) = pair().await;
    socket.attach(stream, &Be32).unwrap();
    peer.send(&[frame("first"), frame("second")].concat()).await.unwrap();
    let peeked = soon("the message", socket.peek()).await.unwrap();
    let change = |bytes: Bytes| BytesMut::from(bytes).fill(0xff);
    change(peeked.into_bytes());
    let first = soon("the message", socket.recv()).await.unwrap();
    let copy = first.clone();
    change(copy.into_bytes());
    assert_eq!(payload(&first), b"first");
    // The last holder may change the bytes in place: they are its alone.
    change(first.into_bytes());
    assert_eq!(payload(&soon("the message", socket.recv()).await.unwrap()), b"second");
}
