//! How connections end: each cause told apart, confined to its connection, and nothing whole
//! lost (semantics B5 to B25, J3, J12, J17; kernel-faults rows 37, 46, 52).

use std::time::Duration;

use kcm_common::errno;
use kcm_core::{AttachOptions, KcmSocket, Psock, PsockError, PsockEvent, SocketType};
use kcm_tests::codec::{Be32, Lines, frame, number, numbered, payload, poison};
use kcm_tests::engine::{attach_options, has_taken, runs, unread_of};
use kcm_tests::harness::{eventually, soon};
use kcm_tests::peer::{Peer, pair, std_pair};

struct Scene {
    socket: KcmSocket,
    peer: Peer,
    psock: Psock,
    /// A connection that nothing happens to.
    other: (Peer, Psock),
}

async fn scene(options: AttachOptions) -> Scene {
    let socket = KcmSocket::new(SocketType::Dgram);
    let (peer, stream) = pair().await;
    let psock = socket.attach_with(stream, &Be32, options).unwrap();
    let (other, stream) = pair().await;
    let other = (other, socket.attach_with(stream, &Be32, attach_options()).unwrap());
    Scene { socket, peer, psock, other }
}

impl Scene {
    /// The connection ends so, after these whole messages, with these bytes unread; the other
    /// one works on.
    async fn ends(mut self, cause: PsockError, whole: &[&str], unread: &[u8]) {
        assert_eq!(soon("the end", self.psock.closed()).await, cause);
        for &text in whole {
            let message = soon("a whole message", self.socket.recv()).await.unwrap();
            assert_eq!((payload(&message), message.psock()), (text.as_bytes(), self.psock.id()));
        }
        assert!(self.socket.try_recv().is_err());
        self.other.0.send(&frame("still")).await.unwrap();
        assert_eq!(payload(&self.socket.recv().await.unwrap()), b"still");
        // Sends find the healthy one.
        for _ in 0..3 {
            self.socket.send(frame("out")).await.unwrap();
            assert_eq!(self.other.0.read_frame().await.unwrap(), b"out");
        }
        assert_eq!(self.other.1.error(), None);
        // The cause is sticky, and listed as long as the connection is attached (F5).
        assert_eq!(self.psock.error(), Some(cause.clone()));
        assert_eq!(self.socket.psocks().len(), 2);
        let detached = self.socket.unattach(self.psock.id()).unwrap();
        assert_eq!(&detached.unread[..], unread_of(unread));
        assert_eq!(detached.cause, Some(cause.clone()));
        assert_eq!(self.psock.error(), Some(cause));
    }
}

#[tokio::test]
async fn an_end_on_a_message_boundary_is_clean() {
    if !runs("failures::an_end_on_a_message_boundary_is_clean") {
        return;
    }
    let mut s = scene(attach_options()).await;
    s.peer.send(&[frame("a"), frame("b")].concat()).await.unwrap();
    s.peer.finish().await.unwrap();
    s.ends(PsockError::Eof, &["a", "b"], b"").await;
}

#[tokio::test]
async fn an_end_inside_a_message_is_told_from_a_clean_one_at_every_byte() {
    if !runs("failures::an_end_inside_a_message_is_told_from_a_clean_one_at_every_byte") {
        return;
    }
    let bytes = frame("cut short");
    for at in 1..bytes.len() {
        let mut s = scene(attach_options()).await;
        s.peer.send(&[&frame("whole")[..], &bytes[..at]].concat()).await.unwrap();
        s.peer.finish().await.unwrap();
        let need = (at >= 4).then_some(13);
        let cause = PsockError::EofMidMessage { have: at as u64, need };
        s.ends(cause, &["whole"], &bytes[..at]).await;
    }
}

#[tokio::test]
async fn an_end_alone_is_clean() {
    if !runs("failures::an_end_alone_is_clean") {
        return;
    }
    let mut s = scene(attach_options()).await;
    s.peer.finish().await.unwrap();
    s.ends(PsockError::Eof, &[], b"").await;
}

#[tokio::test]
async fn a_reset_is_not_an_end() {
    if !runs("failures::a_reset_is_not_an_end") {
        return;
    }
    let mut s = scene(attach_options()).await;
    s.peer.send(&[&frame("whole")[..], b"\0\0"].concat()).await.unwrap();
    let read = || has_taken(&s.psock, 11);
    eventually("the bytes to be read", read).await;
    let peer = std::mem::replace(&mut s.peer, pair().await.0);
    peer.reset();
    s.ends(PsockError::Reset, &["whole"], b"\0\0").await;
}

#[tokio::test]
async fn a_refusal_carries_the_parsers_code_and_its_bytes_come_back() {
    if !runs("failures::a_refusal_carries_the_parsers_code_and_its_bytes_come_back") {
        return;
    }
    // semantics B9, B11
    for code in [1, 5, 4095] {
        let mut s = scene(attach_options()).await;
        let bad = [&poison(code)[..], b"whatever follows"].concat();
        s.peer.send(&[&frame("whole")[..], &bad].concat()).await.unwrap();
        s.ends(PsockError::Parser(code as i32), &["whole"], &bad).await;
    }
}

#[tokio::test]
async fn eagain_from_a_parser_is_a_refusal_like_others() {
    if !runs("failures::eagain_from_a_parser_is_a_refusal_like_others") {
        return;
    }
    // semantics D23, kernel-faults row 74
    let mut s = scene(attach_options()).await;
    s.peer.send(&poison(errno::EAGAIN as u32)).await.unwrap();
    s.ends(PsockError::Parser(errno::EAGAIN), &[], &poison(errno::EAGAIN as u32)).await;
}

#[tokio::test]
async fn a_stream_can_be_handed_back_and_used() {
    if !runs("failures::a_stream_can_be_handed_back_and_used") {
        return;
    }
    // semantics B10
    let socket = KcmSocket::new(SocketType::Dgram);
    let (mut peer, stream) = pair().await;
    let psock = socket.attach_with(stream, &Be32, attach_options()).unwrap();
    let over = [&poison(errno::ESTRPIPE as u32)[..], b"now plain text\n"].concat();
    peer.send(&[&frame("last")[..], &over].concat()).await.unwrap();
    let cause = soon("the hand-back", psock.closed()).await;
    assert_eq!(cause, PsockError::Parser(errno::ESTRPIPE));
    let back = socket.unattach(psock.id()).unwrap();
    assert_eq!(&back.unread[..], over);
    assert!(!back.desynchronised);
    // The same stream again, with another parser, from where it is.
    let rest = back.unread.slice(4..);
    socket.attach_with(back.stream, &Lines, attach_options().initial(rest)).unwrap();
    peer.send(b"and more\n").await.unwrap();
    let mut texts = Vec::new();
    for _ in 0..3 {
        texts.push(soon("a message", socket.recv()).await.unwrap().to_vec());
    }
    assert_eq!(texts, [frame("last"), b"now plain text\n".to_vec(), b"and more\n".to_vec()]);
}

#[tokio::test]
async fn a_message_beyond_the_limit_fails_and_one_at_the_limit_passes() {
    if !runs("failures::a_message_beyond_the_limit_fails_and_one_at_the_limit_passes") {
        return;
    }
    // semantics B5
    let mut s = scene(attach_options().max_message(20)).await;
    let bad = frame([0; 17]);
    s.peer.send(&[&frame([1; 16])[..], &bad].concat()).await.unwrap();
    let text = String::from_utf8(vec![1; 16]).unwrap();
    s.ends(PsockError::TooLong { len: 21, limit: 20 }, &[&text], &bad).await;
}

#[tokio::test]
async fn the_limit_is_by_default_the_receive_buffer_of_the_socket() {
    if !runs("failures::the_limit_is_by_default_the_receive_buffer_of_the_socket") {
        return;
    }
    let socket = KcmSocket::new(SocketType::Dgram);
    let (mut peer, stream) = pair().await;
    let limit = socket2::SockRef::from(&stream).recv_buffer_size().unwrap() as u32;
    let psock = socket.attach_with(stream, &Be32, attach_options()).unwrap();
    peer.send(&(limit - 3).to_be_bytes()).await.unwrap();
    let cause = soon("the end", psock.closed()).await;
    assert_eq!(cause, PsockError::TooLong { len: limit + 1, limit });
}

#[tokio::test]
async fn a_header_without_end_is_bounded() {
    if !runs("failures::a_header_without_end_is_bounded") {
        return;
    }
    // semantics J3 (exceeding B16), kernel-faults row 67
    let socket = KcmSocket::new(SocketType::Dgram);
    let (mut peer, stream) = pair().await;
    let options = attach_options().max_header(1000);
    let psock = socket.attach_with(stream, &Lines, options).unwrap();
    peer.send(&[&b"fine\n"[..], &[b'x'; 1000]].concat()).await.unwrap();
    let cause = soon("the end", psock.closed()).await;
    assert_eq!(cause, PsockError::HeaderTooLong { limit: 1000 });
    assert_eq!(&*socket.recv().await.unwrap(), b"fine\n");
    assert_eq!(socket.unattach(psock.id()).unwrap().unread, vec![b'x'; 1000]);
}

#[tokio::test]
async fn an_unfinished_message_ends_by_the_sockets_own_timeout() {
    if !runs("failures::an_unfinished_message_ends_by_the_sockets_own_timeout") {
        return;
    }
    // semantics B18, B20: SO_RCVTIMEO is the default.
    let socket = KcmSocket::new(SocketType::Dgram);
    let (mut peer, stream) = pair().await;
    let timeout = Duration::from_millis(50);
    socket2::SockRef::from(&stream).set_read_timeout(Some(timeout)).unwrap();
    let psock = socket.attach_with(stream, &Be32, attach_options()).unwrap();
    peer.send(&[&frame("whole")[..], &frame("half")[..6]].concat()).await.unwrap();
    let cause = soon("the timeout", psock.closed()).await;
    assert_eq!(cause, PsockError::TimedOut { have: 6, need: Some(8) });
    assert_eq!(payload(&socket.recv().await.unwrap()), b"whole");
    assert_eq!(&socket.unattach(psock.id()).unwrap().unread[..], &frame("half")[..6]);
}

#[tokio::test]
async fn a_timeout_set_on_the_socket_while_attached_counts_from_the_next_message() {
    if !runs("failures::a_timeout_set_on_the_socket_while_attached_counts_from_the_next_message") {
        return;
    }
    // semantics B18, A30
    let socket = KcmSocket::new(SocketType::Dgram);
    let (mut peer, stream) = std_pair().await;
    let dup = stream.try_clone().unwrap();
    let psock = socket.attach_with(stream, &Be32, attach_options()).unwrap();
    let read = |n| has_taken(&psock, n);
    peer.send(&frame("first")[..6]).await.unwrap();
    eventually("the first half", || read(6)).await;
    dup.set_read_timeout(Some(Duration::from_millis(60))).unwrap();
    // A time that passes: this message has no deadline.
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(psock.error(), None);
    peer.send(&frame("first")[6..]).await.unwrap();
    assert_eq!(payload(&soon("the first", socket.recv()).await.unwrap()), b"first");
    peer.send(&frame("next")[..5]).await.unwrap();
    let cause = soon("the deadline of the next", psock.closed()).await;
    assert_eq!(cause, PsockError::TimedOut { have: 5, need: Some(8) });
}

#[tokio::test]
async fn limits_changed_while_attached_count_from_the_next_message() {
    if !runs("failures::limits_changed_while_attached_count_from_the_next_message") {
        return;
    }
    // semantics A30, B6, B18
    let socket = KcmSocket::new(SocketType::Dgram);
    let (mut peer, stream) = pair().await;
    let psock = socket.attach_with(stream, &Be32, attach_options().max_message(10)).unwrap();
    psock.set_max_message(30).unwrap();
    peer.send(&frame([b'x'; 26])).await.unwrap();
    assert_eq!(payload(&soon("the message", socket.recv()).await.unwrap()), [b'x'; 26]);
    psock.set_assembly_timeout(Some(Duration::from_millis(40))).unwrap();
    psock.set_max_message(29).unwrap();
    for bad in [0, 1 << 31] {
        assert_eq!(psock.set_max_message(bad).unwrap_err().errno(), errno::EINVAL);
    }
    peer.send(&frame([b'y'; 25])[..20]).await.unwrap();
    let cause = soon("the deadline", psock.closed()).await;
    assert_eq!(cause, PsockError::TimedOut { have: 20, need: Some(29) });
    socket.unattach(psock.id()).unwrap();
    assert_eq!(psock.set_max_message(9).unwrap_err().errno(), errno::ENOENT);
    assert_eq!(psock.set_assembly_timeout(None).unwrap_err().errno(), errno::ENOENT);
}

#[tokio::test]
async fn our_own_slowness_is_not_held_against_the_peer() {
    if !runs("failures::our_own_slowness_is_not_held_against_the_peer") {
        return;
    }
    // The clock of a message stands while we do not read (semantics C8, B18).
    let socket = KcmSocket::builder(SocketType::Dgram).recv_buffer(1).build();
    let (mut peer, stream) = pair().await;
    let options = attach_options().assembly_timeout(Duration::from_millis(300));
    let psock = socket.attach_with(stream, &Be32, options).unwrap();
    let bytes = [frame("1"), frame("2"), frame("3")].concat();
    peer.send(&bytes[..bytes.len() - 1]).await.unwrap();
    eventually("messages to be parked", || psock.stats().unwrap().parked_msgs == 1).await;
    // Longer than the timeout: this is a time that passes, not something waited for.
    tokio::time::sleep(Duration::from_millis(450)).await;
    assert_eq!(psock.error(), None);
    for text in [b"1", b"2"] {
        assert_eq!(payload(&soon("a message", socket.recv()).await.unwrap()), text);
    }
    peer.send(&bytes[bytes.len() - 1..]).await.unwrap();
    assert_eq!(payload(&soon("a message", socket.recv()).await.unwrap()), b"3");
}

#[tokio::test]
async fn every_end_is_an_event_once_with_its_cause() {
    if !runs("failures::every_end_is_an_event_once_with_its_cause") {
        return;
    }
    let socket = KcmSocket::new(SocketType::Dgram);
    let mut events = socket.events();
    let (mut peer, stream) = pair().await;
    let psock = socket.attach_with(stream, &Be32, attach_options()).unwrap();
    let id = psock.id();
    peer.send(&poison(5)).await.unwrap();
    peer.finish().await.unwrap();
    soon("the end", psock.closed()).await;
    drop(peer);
    socket.unattach(id).unwrap();
    drop(socket);
    let mut all = Vec::new();
    while let Some(event) = soon("events", events.next()).await {
        all.push(event);
    }
    let expected = [
        PsockEvent::Attached { psock: id },
        PsockEvent::Failed { psock: id, cause: PsockError::Parser(5), unsent: 0 },
        PsockEvent::NoneLeft,
        PsockEvent::Detached { psock: id },
    ];
    assert_eq!(all, expected);
}

#[tokio::test]
async fn a_half_closed_peer_can_be_answered_if_that_was_wanted() {
    if !runs("failures::a_half_closed_peer_can_be_answered_if_that_was_wanted") {
        return;
    }
    // semantics B26
    let socket = KcmSocket::new(SocketType::Dgram);
    let (mut peer, stream) = pair().await;
    let options = attach_options().half_close(true);
    let psock = socket.attach_with(stream, &Be32, options).unwrap();
    peer.send(&frame("question")).await.unwrap();
    peer.finish().await.unwrap();
    let question = soon("the question", socket.recv()).await.unwrap();
    let mut events = socket.events();
    if psock.stats().unwrap().strp.aborts == 0 {
        let half = soon("the end", events.next()).await;
        assert_eq!(half, Some(PsockEvent::HalfClosed { psock: psock.id() }));
    }
    assert_eq!(psock.error(), None);
    for _ in 0..3 {
        socket.reply(&question, frame("answer")).await.unwrap();
        assert_eq!(peer.read_frame().await.unwrap(), b"answer");
    }
    // An end inside a message is no clean end.
    let (mut peer, stream) = pair().await;
    let options = attach_options().half_close(true);
    let psock = socket.attach_with(stream, &Be32, options).unwrap();
    peer.send(b"\0").await.unwrap();
    peer.finish().await.unwrap();
    let cause = soon("the end", psock.closed()).await;
    assert_eq!(cause, PsockError::EofMidMessage { have: 1, need: None });
}

#[tokio::test]
async fn a_connection_that_was_to_close_itself_is_gone_when_it_fails() {
    if !runs("failures::a_connection_that_was_to_close_itself_is_gone_when_it_fails") {
        return;
    }
    let socket = KcmSocket::new(SocketType::Dgram);
    let (mut peer, stream) = pair().await;
    let options = attach_options().auto_close(true);
    let psock = socket.attach_with(stream, &Be32, options).unwrap();
    peer.send(&frame("whole")).await.unwrap();
    peer.send(&poison(7)).await.unwrap();
    assert_eq!(peer.read_to_end().await.unwrap_or_default(), b"");
    assert_eq!(soon("the end", psock.closed()).await, PsockError::Parser(7));
    eventually("it to be unattached", || socket.psocks().is_empty()).await;
    assert_eq!(payload(&socket.recv().await.unwrap()), b"whole");
}

#[tokio::test]
async fn many_connections_that_fail_leave_the_good_ones_alone() {
    if !runs("failures::many_connections_that_fail_leave_the_good_ones_alone") {
        return;
    }
    let socket = KcmSocket::builder(SocketType::Dgram).recv_buffer(1 << 20).build();
    let (mut good, stream) = pair().await;
    socket.attach_with(stream, &Be32, attach_options()).unwrap();
    for seq in 0..60 {
        let (mut bad, stream) = pair().await;
        let psock = socket.attach_with(stream, &Be32, attach_options()).unwrap();
        match seq % 3 {
            0 => {
                bad.send(&poison(1)).await.unwrap();
            }
            1 => {
                bad.send(&frame("cut")[..5]).await.unwrap();
                bad.finish().await.unwrap();
            }
            _ => bad.reset(),
        }
        good.send(&numbered(0, seq, 100)).await.unwrap();
        soon("the failure", psock.closed()).await;
        socket.unattach(psock.id()).unwrap();
    }
    for seq in 0..60 {
        let message = soon("the good one's messages", socket.recv()).await.unwrap();
        assert_eq!(number(&message), Some((0, seq)));
    }
}

#[tokio::test]
async fn a_peer_that_stops_reading_is_given_up_after_the_stall_deadline() {
    if !runs("failures::a_peer_that_stops_reading_is_given_up_after_the_stall_deadline") {
        return;
    }
    // semantics J8
    let socket = KcmSocket::builder(SocketType::Dgram)
        .send_buffer(1 << 24)
        .stall_deadline(Some(Duration::from_millis(100)))
        .build();
    let narrow = kcm_tests::peer::PairOptions {
        peer_recv_buffer: Some(4096),
        send_buffer: Some(4096),
        ..Default::default()
    };
    let (_stuck, stream) = kcm_tests::peer::pair_with(narrow).await.unwrap();
    let psock = socket.attach_with(stream, &Be32, attach_options()).unwrap();
    let message = numbered(1, 1, 1 << 20);
    socket.send(&message).await.unwrap();
    assert_eq!(soon("the deadline", psock.closed()).await, PsockError::Stalled);
    let (mut peer, stream) = pair().await;
    socket.attach_with(stream, &Be32, attach_options()).unwrap();
    assert_eq!(frame(peer.read_frame().await.unwrap()), message);
}
