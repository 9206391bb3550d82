//! Every refused call leaves everything as it was, and says why: whatever is asked of a
//! multiplexor that cannot be, in any order and any number of times, nothing of it can be seen
//! afterwards. Alone in its process, for it counts descriptors.

use std::fmt::Write;
use std::net::TcpListener;

use kcm_common::errno;
use kcm_core::{
    AttachErrorReason, AttachOptions, Engine, Events, KcmSocket, Psock, PsockError, SendFlags,
    SocketType,
};
use kcm_tests::codec::{Be32, frame, payload, poison};
use kcm_tests::harness::{alive_tasks, eventually, open_fds, poll_once, soon};
use kcm_tests::peer::{PairOptions, Peer, pair, pair_with, std_pair};
use proptest::prelude::*;
use tokio::net::UnixStream;

/// What can be asked in vain.
#[derive(Clone, Copy, Debug)]
enum Bad {
    AttachListener,
    AttachUnconnected,
    AttachAgain,
    AttachElsewhere,
    AttachSpoilt,
    AttachOption(usize),
    UnattachUnknown,
    UnattachOfAnother,
    UnattachAsAnotherType,
    SendToUnknown,
    SendToFailed,
    SendToShut,
    SendFull(u8),
    SendToFull,
    Receive(usize),
    Limits(u32),
    AskTheDetached,
    AskTheUnix,
    ShutTheFailed,
    /// Begun, and given up.
    Dropped(usize),
}

fn bad() -> impl Strategy<Value = Bad> {
    use Bad::*;
    let fixed = prop::sample::select(vec![
        AttachListener,
        AttachUnconnected,
        AttachAgain,
        AttachElsewhere,
        AttachSpoilt,
        UnattachUnknown,
        UnattachOfAnother,
        UnattachAsAnotherType,
        SendToUnknown,
        SendToFailed,
        SendToShut,
        SendToFull,
        AskTheDetached,
        AskTheUnix,
        ShutTheFailed,
    ]);
    prop_oneof![
        6 => fixed,
        1 => (0usize..4).prop_map(AttachOption),
        1 => (0u8..8).prop_map(SendFull),
        1 => (0usize..5).prop_map(Receive),
        1 => prop_oneof![Just(0), (1u32 << 31)..].prop_map(Limits),
        2 => (0usize..6).prop_map(Dropped),
    ]
}

/// A multiplexor in the middle of things, another one whose send buffer is full, and
/// everything that can be refused.
struct World {
    k: KcmSocket,
    clone: KcmSocket,
    /// Has a message queued, and no connection.
    full: KcmSocket,
    events: Events,
    alive: (Peer, Psock),
    unix: (UnixStream, Psock),
    failed: Psock,
    shut: (Peer, Psock),
    detached: Psock,
    /// Another descriptor of `alive`'s socket.
    again: Option<std::net::TcpStream>,
    spoilt: Option<tokio::net::TcpStream>,
    fresh: (Peer, Option<tokio::net::TcpStream>),
    listener: Option<std::net::TcpStream>,
    unconnected: Option<std::net::TcpStream>,
    /// Peers that only must not go.
    _peers: Vec<Peer>,
}

async fn world(kind: SocketType) -> World {
    let k = KcmSocket::new(kind);
    let clone = k.try_clone().unwrap();
    let mut peers = Vec::new();
    // One that was unattached inside a message.
    let narrow =
        PairOptions { peer_recv_buffer: Some(4096), send_buffer: Some(4096), ..Default::default() };
    let (peer, stream) = pair_with(narrow).await.unwrap();
    let detached = k.attach(stream, &Be32).unwrap();
    k.try_send_to(detached.id(), vec![0; 1 << 20]).unwrap();
    let back = k.unattach(detached.id()).unwrap();
    assert!(back.desynchronised);
    peers.push(peer);
    let (mut peer, stream) = pair().await;
    let failed = k.attach(stream, &Be32).unwrap();
    peer.send(&poison(errno::EIO as u32)).await.unwrap();
    soon("the failure", failed.closed()).await;
    peers.push(peer);
    let (peer, stream) = pair().await;
    let shut = k.attach(stream, &Be32).unwrap();
    shut.shutdown_write().unwrap();
    let shut = (peer, shut);
    let (peer, stream) = UnixStream::pair().unwrap();
    let unix = (peer, k.attach(stream, &Be32).unwrap());
    // A message to be read, the beginning of another, and one that is being built.
    let (mut peer, stream) = std_pair().await;
    let again = Some(stream.try_clone().unwrap());
    let alive = k.attach(stream, &Be32).unwrap();
    peer.send(&[&frame("whole")[..], &frame("half")[..5]].concat()).await.unwrap();
    let read = || alive.stats().is_some_and(|s| s.strp.bytes == 14);
    eventually("a message and a half", read).await;
    k.send_with(&frame("open")[..6], SendFlags::MORE).await.unwrap();
    let full = KcmSocket::builder(kind).send_buffer(1).build();
    full.send(frame("queued")).await.unwrap();
    let fresh = pair().await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let listener = std::net::TcpStream::from(std::os::fd::OwnedFd::from(listener));
    let lone = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let mut events = k.events();
    assert_eq!(events.try_next(), None);
    World {
        k,
        clone,
        full,
        events,
        alive: (peer, alive),
        unix,
        failed,
        shut,
        detached,
        again,
        spoilt: Some(back.stream),
        fresh: (fresh.0, Some(fresh.1)),
        listener: Some(listener),
        unconnected: Some(lone.into()),
        _peers: peers,
    }
}

impl World {
    /// Everything that can be seen of it.
    fn snapshot(&mut self) -> String {
        let mut text = String::new();
        for socket in [&self.k, &self.clone, &self.full] {
            let ids: Vec<_> = socket.psocks().iter().map(|p| (p.id(), p.error())).collect();
            let _ = writeln!(
                text,
                "{}{}{:?}\n{:?}\n{ids:?} {:?}",
                socket.proc_net_kcm(),
                socket.proc_net_kcm_stats(),
                socket.stats(),
                socket.mux_stats(),
                (
                    socket.recv_buffer(),
                    socket.send_buffer(),
                    socket.recv_low_water(),
                    socket.recv_disabled(),
                    socket.is_readable(),
                    socket.is_writable(),
                ),
            );
        }
        let psocks = [&self.alive.1, &self.unix.1, &self.failed, &self.shut.1, &self.detached];
        for psock in psocks {
            let _ = writeln!(text, "{:?} {:?}", psock.stats(), psock.error());
        }
        let _ = writeln!(text, "{:?} {}", self.events.try_next(), self.events.missed());
        let _ = writeln!(text, "{} tasks, {} descriptors", alive_tasks(), open_fds());
        text
    }

    /// Asks; the errno and what was said.
    fn ask(&mut self, bad: Bad) -> (i32, String) {
        let said = |e: &dyn std::fmt::Display, code: i32| (code, e.to_string());
        macro_rules! refused {
            ($call:expr) => {{
                let e = $call.unwrap_err();
                said(&e, e.errno())
            }};
        }
        macro_rules! attach {
            ($socket:expr, $place:expr, $options:expr) => {{
                let stream = $place.take().unwrap();
                let e = $socket.attach_with(stream, &Be32, $options).unwrap_err();
                let told = said(&e, e.errno());
                assert!(!matches!(e.reason(), AttachErrorReason::Closed));
                $place = Some(e.into_stream().expect("the stream comes back"));
                told
            }};
        }
        let plain = AttachOptions::new;
        match bad {
            Bad::AttachListener => attach!(self.k, self.listener, plain()),
            Bad::AttachUnconnected => attach!(self.clone, self.unconnected, plain()),
            Bad::AttachAgain => attach!(self.k, self.again, plain()),
            Bad::AttachElsewhere => attach!(self.full, self.again, plain()),
            Bad::AttachSpoilt => attach!(self.full, self.spoilt, plain()),
            Bad::AttachOption(n) => {
                let options = match n {
                    0 => plain().max_message(0),
                    1 => plain().max_message(1 << 31),
                    2 => plain().max_header(0),
                    _ => plain().max_header(0).engine(Engine::Process),
                };
                attach!(self.full, self.fresh.1, options)
            }
            Bad::UnattachUnknown => refused!(self.k.unattach(self.detached.id())),
            Bad::UnattachOfAnother => refused!(self.full.unattach(self.alive.1.id())),
            Bad::UnattachAsAnotherType => refused!(self.clone.unattach(self.unix.1.id())),
            Bad::SendToUnknown => refused!(self.k.try_send_to(self.detached.id(), "x")),
            Bad::SendToFailed => refused!(self.k.try_send_to(self.failed.id(), "x")),
            Bad::SendToShut => refused!(self.clone.try_send_to(self.shut.1.id(), "x")),
            Bad::SendFull(flags) => {
                let all = [SendFlags::MORE, SendFlags::EOR, SendFlags::BATCH];
                let flags = all
                    .into_iter()
                    .enumerate()
                    .filter(|(bit, _)| flags & (1 << bit) != 0)
                    .fold(SendFlags::NONE, |sum, (_, flag)| sum | flag);
                refused!(self.full.try_send_with(vec![1; 2000], flags))
            }
            Bad::SendToFull => refused!(self.full.try_send_to(self.detached.id(), "x")),
            Bad::Receive(n) => match n {
                0 => refused!(self.full.try_recv()),
                1 => refused!(self.full.try_recv_many(&mut Vec::new(), 9)),
                2 => refused!(self.full.try_recv_batch()),
                3 => refused!(self.full.try_recv_into(&mut [0; 9])),
                _ => refused!(self.full.try_peek()),
            },
            Bad::Limits(n) => refused!(self.alive.1.set_max_message(n)),
            Bad::AskTheDetached => {
                assert!(self.detached.tcp_info().is_err());
                let a = refused!(self.detached.set_max_message(9));
                let b = refused!(self.detached.set_assembly_timeout(None));
                let c = refused!(self.detached.shutdown_write());
                assert!(a.0 == b.0 && b.0 == c.0);
                a
            }
            Bad::AskTheUnix => {
                let e = self.unix.1.tcp_info().unwrap_err();
                (e.raw_os_error().unwrap(), e.to_string())
            }
            Bad::ShutTheFailed => refused!(self.failed.shutdown_write()),
            Bad::Dropped(n) => {
                let mut buf = [0; 9];
                let pending = match n {
                    0 => poll_once(Box::pin(self.full.send("never")).as_mut()).is_pending(),
                    1 => poll_once(Box::pin(self.full.recv()).as_mut()).is_pending(),
                    2 => poll_once(Box::pin(self.full.flush()).as_mut()).is_pending(),
                    3 => poll_once(Box::pin(self.full.writable()).as_mut()).is_pending(),
                    4 => poll_once(Box::pin(self.full.recv_into(&mut buf)).as_mut()).is_pending(),
                    _ => poll_once(Box::pin(self.alive.1.closed()).as_mut()).is_pending(),
                };
                assert!(pending);
                (0, "given up by the caller, before it was ready".to_owned())
            }
        }
    }

    /// Goes on with everything from where it was.
    async fn goes_on(mut self) {
        let (peer, psock) = &mut self.alive;
        peer.send(&frame("half")[5..]).await.unwrap();
        for text in ["whole", "half"] {
            // On whichever of the two it arrived.
            let message = tokio::select! {
                message = self.k.recv() => message,
                message = self.clone.recv() => message,
            };
            assert_eq!(payload(&message.unwrap()), text.as_bytes());
        }
        // The open message ends with what was said of it, and nothing else.
        self.k.unattach_as::<UnixStream, _>(self.unix.1.id()).unwrap();
        self.k.send_with(&frame("open")[6..], SendFlags::EOR).await.unwrap();
        assert_eq!(peer.read_frame().await.unwrap(), b"open");
        self.k.send_to(psock.id(), frame("directly")).await.unwrap();
        assert_eq!(peer.read_frame().await.unwrap(), b"directly");
        // What was refused did not go into the queue.
        let (mut peer, stream) = (self.fresh.0, self.fresh.1.unwrap());
        self.full.attach(stream, &Be32).unwrap();
        assert_eq!(peer.read_frame().await.unwrap(), b"queued");
        soon("nothing more is queued", self.full.flush()).await.unwrap();
        assert_eq!(self.full.mux_stats().accepted_msgs, 1);
        self.shut.0.send(&frame("still")).await.unwrap();
        let message = tokio::select! {
            message = self.k.recv() => message,
            message = self.clone.recv() => message,
        };
        assert_eq!(payload(&message.unwrap()), b"still");
        assert_eq!(self.failed.error(), Some(PsockError::Parser(errno::EIO)));
    }
}

fn expected(bad: Bad) -> &'static [i32] {
    match bad {
        Bad::AttachListener | Bad::AttachUnconnected | Bad::AskTheUnix => &[errno::EOPNOTSUPP],
        Bad::AttachAgain | Bad::AttachElsewhere => &[errno::EALREADY],
        Bad::AttachSpoilt => &[errno::EPROTO],
        Bad::AttachOption(_) | Bad::UnattachAsAnotherType | Bad::Limits(_) => &[errno::EINVAL],
        Bad::UnattachUnknown
        | Bad::UnattachOfAnother
        | Bad::SendToUnknown
        | Bad::SendToFull
        | Bad::AskTheDetached => &[errno::ENOENT],
        Bad::SendToFailed | Bad::ShutTheFailed => &[errno::EIO],
        Bad::SendToShut => &[errno::EPIPE],
        Bad::SendFull(_) | Bad::Receive(_) => &[errno::EAGAIN],
        Bad::Dropped(_) => &[0],
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn every_refused_call_leaves_everything_as_it_was_and_says_why(
        seqpacket in any::<bool>(),
        all in prop::collection::vec(bad(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let kind = if seqpacket { SocketType::Seqpacket } else { SocketType::Dgram };
            let mut world = world(kind).await;
            let before = world.snapshot();
            for bad in all {
                let (code, why) = world.ask(bad);
                assert!(expected(bad).contains(&code), "{bad:?}: {code}, {why}");
                assert!(why.len() > 15, "{bad:?} says only: {why}");
                assert_eq!(world.snapshot(), before, "after {bad:?}");
            }
            // Nor does anything come of it later.
            tokio::task::yield_now().await;
            assert_eq!(world.snapshot(), before);
            soon("everything to go on", world.goes_on()).await;
        });
    }
}
