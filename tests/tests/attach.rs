//! Attaching and unattaching: semantics A11 to A45, J10, J11, J17, J19.

use std::os::fd::AsRawFd;
use std::time::Duration;

use kcm_common::errno;
use kcm_core::{AttachErrorReason, Detached, Engine, KcmSocket, PsockError, SocketType};
use kcm_tests::codec::{Be32, Lines, frame, number, numbered, payload};
use kcm_tests::engine::{attach_options, has_taken, runs};
use kcm_tests::fault::Faulty;
use kcm_tests::harness::{eventually, soon};
use kcm_tests::peer::{PairOptions, Peer, listener, pair, pair_with, queued, std_pair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

fn dgram() -> KcmSocket {
    KcmSocket::new(SocketType::Dgram)
}

#[tokio::test]
async fn what_is_not_connected_is_refused_and_comes_back() {
    if !runs("attach::what_is_not_connected_is_refused_and_comes_back") {
        return;
    }
    // semantics A16, J10 (exceeding A20); kernel-faults rows 5, 7, 72
    let socket = dgram();
    let new = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let unconnected = new();
    let listening = new();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    listening.bind(&any.into()).unwrap();
    listening.listen(1).unwrap();
    // Nobody answers there: the handshake does not end.
    let connecting = new();
    connecting.set_nonblocking(true).unwrap();
    let blackhole: std::net::SocketAddr = "192.0.2.1:9".parse().unwrap();
    let _ = connecting.connect(&blackhole.into());
    for (what, fd) in
        [("unconnected", unconnected), ("listening", listening), ("connecting", connecting)]
    {
        let number = fd.as_raw_fd();
        let refused =
            socket.attach_with(std::net::TcpStream::from(fd), &Be32, attach_options()).unwrap_err();
        assert_eq!(refused.errno(), errno::EOPNOTSUPP, "{what}");
        assert!(matches!(refused.reason(), AttachErrorReason::NotConnected), "{what}");
        let back: std::net::TcpStream = refused.into_stream().unwrap();
        assert_eq!(back.as_raw_fd(), number, "{what}");
    }
    assert!(socket.psocks().is_empty());
}

#[tokio::test]
async fn a_reset_connection_is_refused() {
    if !runs("attach::a_reset_connection_is_refused") {
        return;
    }
    let socket = dgram();
    let (peer, stream) = pair().await;
    peer.reset();
    soon("the reset", stream.readable()).await.unwrap();
    let refused = socket.attach_with(stream, &Be32, attach_options()).unwrap_err();
    assert_eq!(refused.errno(), errno::EOPNOTSUPP);
}

#[tokio::test]
async fn a_connection_is_attached_once_through_any_descriptor_to_any_multiplexor() {
    if !runs("attach::a_connection_is_attached_once_through_any_descriptor_to_any_multiplexor") {
        return;
    }
    // semantics A18; kernel-faults rows 6, 61
    let (socket, elsewhere) = (dgram(), dgram());
    let (mut peer, stream) = std_pair().await;
    let dup = stream.try_clone().unwrap();
    let psock = socket.attach_with(stream, &Be32, attach_options()).unwrap();
    let refused = socket.attach_with(dup, &Be32, attach_options()).unwrap_err();
    assert_eq!(refused.errno(), errno::EALREADY);
    let dup: std::net::TcpStream = refused.into_stream().unwrap();
    let refused = elsewhere.attach_with(dup, &Be32, attach_options()).unwrap_err();
    assert_eq!(refused.errno(), errno::EALREADY);
    peer.send(&frame("the first keeps working")).await.unwrap();
    assert_eq!(payload(&socket.recv().await.unwrap()), b"the first keeps working");
    // Once it is unattached, it may go elsewhere.
    drop(socket.unattach(psock.id()).unwrap());
    let dup: std::net::TcpStream = refused.into_stream().unwrap();
    elsewhere.attach_with(dup, &Be32, attach_options()).unwrap();
    peer.send(&frame("moved")).await.unwrap();
    assert_eq!(payload(&elsewhere.recv().await.unwrap()), b"moved");
}

#[tokio::test]
async fn options_out_of_range_are_refused() {
    if !runs("attach::options_out_of_range_are_refused") {
        return;
    }
    let socket = dgram();
    let (_peer, mut stream) = pair().await;
    let options = [
        (attach_options().max_message(0), errno::EINVAL),
        (attach_options().max_message(u32::MAX), errno::EINVAL),
        (attach_options().max_header(0), errno::EINVAL),
    ];
    for (options, code) in options {
        let refused = socket.attach_with(stream, &Be32, options).unwrap_err();
        assert_eq!(refused.errno(), code);
        stream = refused.into_stream().unwrap();
    }
    // A native function is nothing that a kernel runs.
    let options = attach_options().engine(Engine::Kernel);
    let refused = socket.attach_with(stream, &Lines, options).unwrap_err();
    assert_eq!(refused.errno(), errno::EOPNOTSUPP);
    stream = refused.into_stream().unwrap();
    for engine in [Engine::Process, Engine::Auto] {
        let options = attach_options().engine(engine);
        let psock = socket.attach_with(stream, &Be32, options).unwrap();
        stream = socket.unattach(psock.id()).unwrap().stream;
    }
}

#[test]
fn outside_a_runtime_attach_is_refused_and_with_a_handle_it_works() {
    if !runs("attach::outside_a_runtime_attach_is_refused_and_with_a_handle_it_works") {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (mut peer, stream) = runtime.block_on(std_pair());
    let refused = dgram().attach_with(stream, &Be32, attach_options()).unwrap_err();
    assert!(refused.to_string().contains("runtime"), "{refused}");
    let stream: std::net::TcpStream = refused.into_stream().unwrap();
    let socket = KcmSocket::builder(SocketType::Dgram).runtime(runtime.handle().clone()).build();
    let psock = socket.attach_with(stream, &Be32, attach_options()).unwrap();
    runtime.block_on(peer.send(&frame("served there"))).unwrap();
    let message = runtime.block_on(socket.recv()).unwrap();
    assert_eq!(payload(&message), b"served there");
    // The runtime's end is the connection's. The peer stays, or its FIN could come first.
    drop(runtime);
    assert!(matches!(psock.error(), Some(PsockError::Io(_))), "{:?}", psock.error());
    drop(peer);
}

#[tokio::test]
async fn indices_are_the_lowest_free_and_ids_name_nothing_twice() {
    if !runs("attach::indices_are_the_lowest_free_and_ids_name_nothing_twice") {
        return;
    }
    // semantics A11
    let socket = dgram();
    let clone = socket.try_clone().unwrap();
    let mut peers = Vec::new();
    let mut psocks = Vec::new();
    for index in 0..3 {
        let (peer, stream) = pair().await;
        let psock = if index == 1 { &clone } else { &socket }
            .attach_with(stream, &Be32, attach_options())
            .unwrap();
        assert_eq!(psock.id().index(), index);
        peers.push(peer);
        psocks.push(psock);
    }
    let old = psocks[1].id();
    let back = socket.unattach(old).unwrap();
    let again = clone.unattach(old).unwrap_err();
    assert_eq!(again.errno(), errno::ENOENT);
    let psock = socket.attach_with(back.stream, &Be32, attach_options()).unwrap();
    assert_eq!(psock.id().index(), 1);
    assert_ne!(psock.id(), old);
    assert_eq!(socket.unattach(old).unwrap_err().errno(), errno::ENOENT);
    // Nothing known by another multiplexor.
    assert_eq!(dgram().unattach(psock.id()).unwrap_err().errno(), errno::ENOENT);
}

#[tokio::test]
async fn unattach_returns_the_bytes_of_the_unfinished_message() {
    if !runs("attach::unattach_returns_the_bytes_of_the_unfinished_message") {
        return;
    }
    // semantics J17 (exceeding A35)
    for cut in 1..9 {
        let socket = dgram();
        let (mut peer, stream) = pair().await;
        let psock = socket.attach_with(stream, &Be32, attach_options()).unwrap();
        let bytes = frame("abcde");
        peer.send(&bytes[..cut]).await.unwrap();
        let read = || has_taken(&psock, cut as u64);
        eventually("the bytes to be read", read).await;
        let mut back = socket.unattach(psock.id()).unwrap();
        assert_eq!(&back.unread[..], &bytes[..cut]);
        assert_eq!(psock.error(), Some(PsockError::Unattached));
        // The rest is read from the stream, as it comes.
        peer.send(&bytes[cut..]).await.unwrap();
        let mut rest = vec![0; 9 - cut];
        back.stream.read_exact(&mut rest).await.unwrap();
        assert_eq!([&back.unread[..], &rest].concat(), bytes);
    }
}

#[tokio::test]
async fn unattach_returns_messages_that_nobody_had_room_for() {
    if !runs("attach::unattach_returns_messages_that_nobody_had_room_for") {
        return;
    }
    // semantics A36, J17
    let socket = KcmSocket::builder(SocketType::Dgram).recv_buffer(1).build();
    let (mut peer, stream) = pair().await;
    let psock = socket.attach_with(stream, &Be32, attach_options()).unwrap();
    let bytes: Vec<u8> = (0..5).flat_map(|seq| numbered(0, seq, 20)).collect();
    peer.send(&bytes[..bytes.len() - 3]).await.unwrap();
    eventually("messages to be parked", || psock.stats().unwrap().parked_msgs == 3).await;
    let mut back = socket.unattach(psock.id()).unwrap();
    assert_eq!(number(&socket.try_recv().unwrap()), Some((0, 0)));
    let mut all = back.unread.to_vec();
    peer.send(&bytes[bytes.len() - 3..]).await.unwrap();
    peer.finish().await.unwrap();
    back.stream.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, &bytes[24..], "everything but what was delivered, in order");
}

#[tokio::test]
async fn unattach_is_prompt_while_data_pours_in() {
    if !runs("attach::unattach_is_prompt_while_data_pours_in") {
        return;
    }
    let socket = KcmSocket::builder(SocketType::Dgram).recv_buffer(1 << 30).build();
    let (mut peer, stream) = pair().await;
    let psock = socket.attach_with(stream, &Be32, attach_options()).unwrap();
    let sender = tokio::spawn(async move {
        for seq in 0.. {
            if peer.send(&numbered(0, seq, 1000)).await.is_err() {
                return seq;
            }
        }
        0
    });
    eventually("some messages", || socket.stats().recv_queued_msgs > 100).await;
    let mut back = socket.unattach(psock.id()).unwrap();
    let delivered = socket.stats().recv_queued_msgs as u32;
    // What comes next on the stream follows what was delivered.
    let mut next = back.unread.to_vec();
    while next.len() < 1004 {
        back.stream.read_buf(&mut next).await.unwrap();
    }
    assert_eq!(number(&next[..1004]), Some((0, delivered)));
    drop(back);
    soon("the sender to notice", sender).await.unwrap();
}

#[tokio::test]
async fn a_half_sent_message_marks_the_stream_and_is_sent_elsewhere() {
    if !runs("attach::a_half_sent_message_marks_the_stream_and_is_sent_elsewhere") {
        return;
    }
    // semantics A37, J11 (exceeding A38)
    let socket = KcmSocket::builder(SocketType::Dgram).send_buffer(1 << 24).build();
    let narrow =
        PairOptions { peer_recv_buffer: Some(4096), send_buffer: Some(4096), ..Default::default() };
    let (mut first, stream) = pair_with(narrow).await.unwrap();
    let psock = socket.attach_with(stream, &Be32, attach_options()).unwrap();
    let message = numbered(1, 1, 1 << 20);
    socket.send(&message).await.unwrap();
    let back = socket.unattach(psock.id()).unwrap();
    assert!(back.desynchronised);
    let refused = socket.attach_with(back.stream, &Be32, attach_options()).unwrap_err();
    assert_eq!(refused.errno(), errno::EPROTO);
    assert!(matches!(refused.reason(), AttachErrorReason::Desynchronised));
    let (mut peer, stream) = pair().await;
    socket.attach_with(stream, &Be32, attach_options()).unwrap();
    assert_eq!(frame(peer.read_frame().await.unwrap()), message);
    // The stream itself still works: the first peer sees a prefix, and an end.
    drop(refused);
    let prefix = first.read_to_end().await.unwrap_or_default();
    assert!(!prefix.is_empty() && message.starts_with(&prefix));
}

#[tokio::test]
async fn a_stream_comes_back_as_it_was() {
    if !runs("attach::a_stream_comes_back_as_it_was") {
        return;
    }
    let socket = dgram();
    let (_peer, stream) = std_pair().await;
    let sock = socket2::SockRef::from(&stream);
    sock.set_tcp_nodelay(false).unwrap();
    let dup = stream.try_clone().unwrap();
    let psock = socket.attach_with(stream, &Be32, attach_options()).unwrap();
    let while_attached = socket2::SockRef::from(&dup);
    assert!(while_attached.tcp_nodelay().unwrap());
    assert!(while_attached.out_of_band_inline().unwrap());
    assert!(while_attached.nonblocking().unwrap());
    let back: Detached<std::net::TcpStream> = socket.unattach_as(psock.id()).unwrap();
    let sock = socket2::SockRef::from(&back.stream);
    assert!(!sock.tcp_nodelay().unwrap());
    assert!(!sock.out_of_band_inline().unwrap());
    assert!(!sock.nonblocking().unwrap());
    // And nothing is touched that was not to be.
    let options = attach_options().nodelay(None);
    let psock = socket.attach_with(back.stream, &Be32, options).unwrap();
    assert!(!while_attached.tcp_nodelay().unwrap());
    // It may come back as the other type of the same stream.
    let back: Detached<TcpStream> = socket.unattach(psock.id()).unwrap();
    assert_eq!(back.stream.peer_addr().unwrap(), dup.peer_addr().unwrap());
}

#[tokio::test]
async fn unix_streams_are_attached_as_they_are() {
    if !runs("attach::unix_streams_are_attached_as_they_are") {
        return;
    }
    let socket = dgram();
    let (mut peer, stream) = UnixStream::pair().unwrap();
    let (mut std_peer, std_stream) = std::os::unix::net::UnixStream::pair().unwrap();
    let psock = socket.attach_with(stream, &Be32, attach_options()).unwrap();
    socket.attach_with(std_stream, &Be32, attach_options()).unwrap();
    peer.write_all(&frame("hello")).await.unwrap();
    let message = soon("a message", socket.recv()).await.unwrap();
    socket.reply(&message, frame("world")).await.unwrap();
    let mut reply = [0; 9];
    peer.read_exact(&mut reply).await.unwrap();
    assert_eq!(payload(&reply), b"world");
    use std::io::Write;
    std_peer.write_all(&frame("too")).unwrap();
    assert_eq!(payload(&soon("a message", socket.recv()).await.unwrap()), b"too");
    // It is no TCP stream, and says so.
    assert_eq!(socket.unattach(psock.id()).unwrap_err().errno(), errno::EINVAL);
    assert!(psock.peer_addr().is_err() && psock.tcp_info().is_err());
    let _: Detached<UnixStream> = socket.unattach_as(psock.id()).unwrap();
}

#[tokio::test]
async fn any_stream_can_be_attached_and_comes_back_with_its_type() {
    if !runs("attach::any_stream_can_be_attached_and_comes_back_with_its_type") {
        return;
    }
    for seed in 0..20 {
        let socket = dgram();
        let (peer, ours) = tokio::io::duplex(300);
        let mut ours = Faulty::new(ours, seed);
        (ours.piece, ours.stall) = (50, 3);
        let psock = socket.attach_with(ours, &Be32, attach_options()).unwrap();
        let (mut read, mut write) = tokio::io::split(peer);
        let echo = tokio::spawn(async move {
            tokio::io::copy(&mut read, &mut write).await.unwrap();
        });
        for seq in 0..50 {
            socket.send(numbered(0, seq, (seq as usize * 37) % 700)).await.unwrap();
        }
        for seq in 0..50 {
            let message = soon("the echo", socket.recv()).await.unwrap();
            assert_eq!(number(&message), Some((0, seq)));
        }
        let back: Detached<Faulty<tokio::io::DuplexStream>> =
            socket.unattach_as(psock.id()).unwrap();
        assert!(!back.desynchronised);
        drop(back);
        soon("the echo's end", echo).await.unwrap();
    }
}

#[tokio::test]
async fn an_error_of_the_stream_itself_is_kept_as_it_is() {
    if !runs("attach::an_error_of_the_stream_itself_is_kept_as_it_is") {
        return;
    }
    let socket = dgram();
    let (_peer, ours) = tokio::io::duplex(300);
    let mut ours = Faulty::new(ours, 1);
    ours.fail_read_at = Some((0, std::io::ErrorKind::InvalidData));
    let psock = socket.attach_with(ours, &Be32, attach_options()).unwrap();
    match soon("the failure", psock.closed()).await {
        PsockError::Io(cause) => assert_eq!(cause.kind, std::io::ErrorKind::InvalidData),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_psock_tells_about_its_connection() {
    if !runs("attach::a_psock_tells_about_its_connection") {
        return;
    }
    let socket = dgram();
    let (peer, stream) = pair().await;
    let local = stream.local_addr().unwrap();
    let psock = socket.attach_with(stream, &Be32, attach_options()).unwrap();
    assert_eq!(psock.local_addr().unwrap(), local);
    assert_eq!(psock.peer_addr().unwrap(), peer.into_inner().local_addr().unwrap());
    let info = psock.tcp_info().unwrap();
    assert!(info.snd_mss > 0 && info.rtt < Duration::from_secs(60), "{info:?}");
    socket.unattach(psock.id()).unwrap();
    assert!(psock.tcp_info().is_err() && psock.stats().is_none());
}

#[tokio::test]
async fn closing_the_last_socket_closes_the_connections() {
    if !runs("attach::closing_the_last_socket_closes_the_connections") {
        return;
    }
    // semantics A45, J19
    let socket = dgram();
    let clone = socket.try_clone().unwrap();
    let (mut peer, stream) = pair().await;
    let psock = socket.attach_with(stream, &Be32, attach_options()).unwrap();
    drop(socket);
    peer.send(&frame("still")).await.unwrap();
    assert_eq!(payload(&clone.recv().await.unwrap()), b"still");
    let mut events = clone.events();
    drop(clone);
    assert_eq!(peer.read_to_end().await.unwrap(), b"", "the peer sees the end");
    assert_eq!(soon("the end", psock.closed()).await, PsockError::Unattached);
    while soon("the last events", events.next()).await.is_some() {}
}

#[tokio::test]
async fn a_message_sent_just_before_the_last_socket_closes_arrives() {
    if !runs("attach::a_message_sent_just_before_the_last_socket_closes_arrives") {
        return;
    }
    let socket = dgram();
    let (mut peer, stream) = pair().await;
    socket.attach_with(stream, &Be32, attach_options()).unwrap();
    socket.send(frame("bye")).await.unwrap();
    drop(socket);
    assert_eq!(peer.read_frame().await.unwrap(), b"bye");
    assert_eq!(peer.read_to_end().await.unwrap(), b"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attaching_and_unattaching_in_a_storm_leaves_each_connection_in_one_place() {
    if !runs("attach::attaching_and_unattaching_in_a_storm_leaves_each_connection_in_one_place") {
        return;
    }
    // kernel-faults rows 9, 14, 29, 47
    let socket = std::sync::Arc::new(dgram());
    let mut tasks = Vec::new();
    for conn in 0..4 {
        let socket = socket.clone();
        tasks.push(tokio::spawn(async move {
            let (mut peer, mut stream) = pair().await;
            let mut initial = bytes::Bytes::new();
            let mut sent = 0;
            for round in 0..300_u32 {
                let options = attach_options().initial(initial);
                let psock = socket.attach_with(stream, &Be32, options).unwrap();
                for _ in 0..round % 3 {
                    let message = numbered(conn, sent, 50);
                    // In two pieces: an unattach may come between.
                    let cut = (round as usize * 7) % message.len();
                    peer.send(&message[..cut]).await.unwrap();
                    tokio::task::yield_now().await;
                    peer.send(&message[cut..]).await.unwrap();
                    sent += 1;
                }
                let back = socket.unattach(psock.id()).unwrap();
                (stream, initial) = (back.stream, back.unread);
            }
            socket.attach_with(stream, &Be32, attach_options().initial(initial)).unwrap();
            (peer, sent)
        }));
    }
    let mut expected = 0;
    let mut peers = Vec::new();
    for task in tasks {
        let (peer, sent) = soon("the storm", task).await.unwrap();
        expected += sent;
        peers.push(peer);
    }
    let mut next = [0; 4];
    for _ in 0..expected {
        let message = soon("all messages", socket.recv()).await.unwrap();
        let (conn, seq) = number(&message).expect("whole, as sent");
        assert_eq!(seq, next[conn as usize], "in order, once");
        next[conn as usize] += 1;
    }
    assert!(socket.try_recv().is_err());
    assert_eq!(socket.psocks().len(), 4);
}

#[tokio::test]
async fn a_peer_that_ended_before_attach_is_noticed() {
    if !runs("attach::a_peer_that_ended_before_attach_is_noticed") {
        return;
    }
    // exceeding semantics A21
    let socket = dgram();
    let (listener, addr) = listener().await;
    let stream = TcpStream::connect(addr).await.unwrap();
    let mut peer = Peer::new(listener.accept().await.unwrap().0);
    peer.send(&frame("last words")).await.unwrap();
    peer.finish().await.unwrap();
    eventually("the words", || queued(&stream).unwrap() > 0).await;
    let psock = socket.attach_with(stream, &Be32, attach_options()).unwrap();
    assert_eq!(soon("the end", psock.closed()).await, PsockError::Eof);
    assert_eq!(payload(&socket.recv().await.unwrap()), b"last words");
}
