//! The blocking face: the same rules, for plain threads.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kcm_common::errno;
use kcm_core::blocking::KcmSocket;
use kcm_core::{
    AttachOptions, PsockError, PsockEvent, RecvError, SendError, SendFlags, SocketType,
};
use kcm_tests::codec::{Be32, Lines, frame, number, numbered, payload, poison};
use kcm_tests::harness::eventually_blocking;

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    peer.set_nodelay(true).unwrap();
    peer.set_read_timeout(Some(kcm_tests::harness::DEADLINE)).unwrap();
    (peer, stream)
}

fn dgram() -> KcmSocket {
    let socket = KcmSocket::new(SocketType::Dgram).unwrap();
    // No test hangs.
    socket.set_recv_timeout(Some(kcm_tests::harness::DEADLINE));
    socket.set_send_timeout(Some(kcm_tests::harness::DEADLINE));
    socket
}

fn read_frame(peer: &mut TcpStream) -> Vec<u8> {
    let mut head = [0; 4];
    peer.read_exact(&mut head).unwrap();
    let mut payload = vec![0; u32::from_be_bytes(head) as usize];
    peer.read_exact(&mut payload).unwrap();
    payload
}

#[test]
fn messages_go_both_ways() {
    let socket = dgram();
    let (mut peer, stream) = pair();
    let psock = socket.attach(stream, &Be32).unwrap();
    peer.write_all(&[frame("one"), frame("two")].concat()).unwrap();
    let one = socket.recv().unwrap();
    assert_eq!((payload(&one), one.psock()), (&b"one"[..], psock.id()));
    assert_eq!(payload(&socket.recv().unwrap()), b"two");
    socket.reply(&one, frame("three")).unwrap();
    socket.send_many([frame("four"), frame("five")]).unwrap();
    socket.flush().unwrap();
    for text in ["three", "four", "five"] {
        assert_eq!(read_frame(&mut peer), text.as_bytes());
    }
}

#[test]
fn every_form_of_receive_takes_from_the_same_queue() {
    let socket = KcmSocket::new(SocketType::Seqpacket).unwrap();
    let (mut peer, stream) = pair();
    let psock = socket.attach(stream, &Lines).unwrap();
    peer.write_all(b"1\n2\n3\n4\n5\n6\n").unwrap();
    let read = || psock.stats().unwrap().rx_msgs == 6;
    eventually_blocking("all messages", read);
    assert!(socket.wait_readable());
    assert_eq!(&*socket.peek().unwrap(), b"1\n");
    assert_eq!(&*socket.try_recv().unwrap(), b"1\n");
    let mut many = Vec::new();
    assert_eq!(socket.recv_many(&mut many, 2).unwrap(), 2);
    let mut buf = [0; 1];
    assert!(!socket.recv_into(&mut buf).unwrap().end_of_record);
    assert_eq!((socket.peek_into(&mut buf).unwrap().copied, buf), (1, *b"\n"));
    assert!(socket.recv_into(&mut buf).unwrap().end_of_record);
    assert_eq!(socket.recv_batch_max(1).unwrap().len(), 1);
    assert_eq!(socket.recv_batch().unwrap().iter().collect::<Vec<_>>(), [b"6\n"]);
    assert_eq!(socket.try_recv_batch().unwrap_err(), RecvError::WouldBlock);
    peer.write_all(b"7\n8\n").unwrap();
    socket.set_recv_timeout(Some(kcm_tests::harness::DEADLINE));
    let texts: Vec<_> = socket.iter().take(2).map(|m| m.to_vec()).collect();
    assert_eq!(texts, [b"7\n", b"8\n"]);
}

#[test]
fn waiting_ends_with_eagain_at_the_timeout() {
    // semantics D10, E8
    let socket = KcmSocket::builder(SocketType::Dgram).send_buffer(1).build().unwrap();
    let short = Duration::from_millis(30);
    socket.set_recv_timeout(Some(short));
    socket.set_send_timeout(Some(short));
    assert_eq!((socket.recv_timeout(), socket.send_timeout()), (Some(short), Some(short)));
    let start = Instant::now();
    let late = socket.recv().unwrap_err();
    assert_eq!((&late, late.errno()), (&RecvError::TimedOut, errno::EAGAIN));
    assert!(start.elapsed() >= short);
    assert!(!socket.wait_readable());
    socket.send(frame("no connection yet")).unwrap();
    let late = socket.send(frame("full")).unwrap_err();
    assert_eq!((&late, late.errno()), (&SendError::TimedOut, errno::EAGAIN));
    assert!(!socket.wait_writable());
    assert_eq!(socket.flush().unwrap_err(), SendError::TimedOut);
    assert_eq!(socket.recv_within(short).unwrap_err(), RecvError::TimedOut);
    // Of what timed out nothing was sent.
    let (mut peer, stream) = pair();
    socket.attach(stream, &Be32).unwrap();
    socket.set_send_timeout(None);
    socket.send(frame("next")).unwrap();
    assert_eq!(read_frame(&mut peer), b"no connection yet");
    assert_eq!(read_frame(&mut peer), b"next");
}

#[test]
fn a_nonblocking_socket_never_waits() {
    let socket = KcmSocket::builder(SocketType::Dgram).send_buffer(1).build().unwrap();
    socket.set_nonblocking(true);
    assert_eq!(socket.recv().unwrap_err(), RecvError::WouldBlock);
    assert_eq!(socket.recv_batch().unwrap_err(), RecvError::WouldBlock);
    assert_eq!(socket.peek().unwrap_err(), RecvError::WouldBlock);
    socket.send(frame("taken")).unwrap();
    assert_eq!(socket.send(frame("full")).unwrap_err(), SendError::WouldBlock);
    assert_eq!(socket.try_send_with(b"", SendFlags::NONE).unwrap_err(), SendError::WouldBlock);
}

#[test]
fn it_works_inside_an_asynchronous_runtime() {
    for runtime in [
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap(),
    ] {
        runtime.block_on(async {
            let socket = dgram();
            let (mut peer, stream) = pair();
            socket.attach(stream, &Be32).unwrap();
            peer.write_all(&frame("from a thread")).unwrap();
            assert_eq!(payload(&socket.recv().unwrap()), b"from a thread");
            for seq in 0..300 {
                // More than a task may do before it should yield.
                socket.send(numbered(0, seq, 10)).unwrap();
            }
            for seq in 0..300 {
                assert_eq!(number(&frame(read_frame(&mut peer))), Some((0, seq)));
            }
            drop(socket);
            assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);
        });
    }
}

#[test]
fn a_stream_comes_back_with_what_was_not_delivered() {
    let socket = dgram();
    let (mut peer, stream) = pair();
    let psock = socket.attach(stream, &Be32).unwrap();
    peer.write_all(&frame("half")[..6]).unwrap();
    let read = || psock.stats().unwrap().strp.bytes == 6;
    eventually_blocking("the bytes to be read", read);
    let mut back = socket.unattach(psock.id()).unwrap();
    assert_eq!(&back.unread[..], &frame("half")[..6]);
    peer.write_all(&frame("half")[6..]).unwrap();
    let mut rest = [0; 2];
    // A blocking stream again.
    back.stream.read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"lf");
    let options = AttachOptions::new().initial(frame("again"));
    socket.attach_with(back.stream, &Be32, options).unwrap();
    assert_eq!(payload(&socket.recv().unwrap()), b"again");
}

#[test]
fn failures_are_told_and_confined() {
    let socket = dgram();
    let mut events = socket.events();
    let (mut bad, stream) = pair();
    let psock = socket.attach(stream, &Be32).unwrap();
    let (mut good, stream) = pair();
    socket.attach(stream, &Be32).unwrap();
    bad.write_all(&poison(9)).unwrap();
    let deadline = Some(kcm_tests::harness::DEADLINE);
    assert_eq!(psock.wait_closed(deadline), Some(PsockError::Parser(9)));
    let failed = events.by_ref().find(|event| matches!(event, PsockEvent::Failed { .. }));
    let cause = PsockError::Parser(9);
    assert_eq!(failed, Some(PsockEvent::Failed { psock: psock.id(), cause, unsent: 0 }));
    good.write_all(&frame("fine")).unwrap();
    assert_eq!(payload(&socket.recv().unwrap()), b"fine");
    drop(socket);
    assert!(events.last().is_some(), "the events end with the multiplexor");
}

#[test]
fn close_sends_everything_and_gives_up_at_the_timeout() {
    let socket = dgram();
    let (mut peer, stream) = pair();
    socket.attach(stream, &Be32).unwrap();
    let reader = std::thread::spawn(move || {
        (0..200).all(|seq| number(&frame(read_frame(&mut peer))) == Some((0, seq)))
    });
    for seq in 0..200 {
        socket.send(numbered(0, seq, 20_000)).unwrap();
    }
    socket.close().unwrap();
    assert!(reader.join().unwrap());
    let socket = dgram();
    socket.set_send_timeout(Some(Duration::from_millis(20)));
    socket.send(frame("to nobody")).unwrap();
    assert_eq!(socket.close().unwrap_err(), SendError::TimedOut);
}

#[test]
fn threads_that_share_a_socket_get_each_message_once() {
    let socket = Arc::new(dgram());
    let other = Arc::new(socket.try_clone().unwrap());
    other.set_recv_timeout(Some(kcm_tests::harness::DEADLINE));
    let peers: Vec<_> = (0..3)
        .map(|conn| {
            let (mut peer, stream) = pair();
            socket.attach(stream, &Be32).unwrap();
            std::thread::spawn(move || {
                for seq in 0..1000 {
                    peer.write_all(&numbered(conn, seq, seq as usize % 500)).unwrap();
                }
                peer
            })
        })
        .collect();
    let (tx, rx) = std::sync::mpsc::channel();
    for socket in [&socket, &socket, &other, &other] {
        let (socket, tx) = (socket.clone(), tx.clone());
        std::thread::spawn(move || {
            while let Ok(message) = socket.recv_within(Duration::from_secs(2)) {
                tx.send(number(&message).expect("whole, as sent")).unwrap();
            }
        });
    }
    drop(tx);
    let mut got = HashSet::new();
    for message in rx {
        assert!(got.insert(message), "{message:?} twice");
    }
    assert_eq!(got.len(), 3000);
    for peer in peers {
        peer.join().unwrap();
    }
}

#[test]
fn a_blocking_socket_can_go_over_to_asynchronous_code() {
    let socket = dgram();
    let (mut peer, stream) = pair();
    socket.attach(stream, &Be32).unwrap();
    let socket = socket.into_async();
    peer.write_all(&frame("over")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let message = runtime.block_on(socket.recv()).unwrap();
    assert_eq!(payload(&message), b"over");
}
