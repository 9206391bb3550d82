//! `Stream`, `Sink`, events, statistics, and the process around it.

use std::pin::Pin;
use std::process::Command;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use kcm_core::{AttachOptions, KcmSocket, PsockError, PsockEvent, SocketType};
use kcm_tests::codec::{Be32, frame, number, numbered, payload};
use kcm_tests::harness::{eventually, soon};
use kcm_tests::peer::pair;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[tokio::test]
async fn a_socket_is_a_stream_and_a_sink() {
    for kind in [SocketType::Dgram, SocketType::Seqpacket] {
        let mut socket = KcmSocket::builder(kind).end_with_psocks(true).send_buffer(64).build();
        let (mut peer, stream) = pair().await;
        socket.attach(stream, &Be32).unwrap();
        for seq in 0..20 {
            soon("room", socket.feed(Bytes::from(numbered(0, seq, 30)))).await.unwrap();
        }
        soon("the flush", SinkExt::flush(&mut socket)).await.unwrap();
        for seq in 0..20 {
            let sent = frame(peer.read_frame().await.unwrap());
            assert_eq!(number(&sent), Some((0, seq)));
            peer.send(&sent).await.unwrap();
        }
        peer.finish().await.unwrap();
        let got: Vec<_> = soon("the echo", (&mut socket).collect::<Vec<_>>()).await;
        let got: Vec<_> = got.iter().map(|message| number(message).unwrap().1).collect();
        assert_eq!(got, (0..20).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn an_item_given_to_a_full_sink_is_held_not_lost() {
    let mut socket = KcmSocket::builder(SocketType::Dgram).send_buffer(10).build();
    let clone = socket.try_clone().unwrap();
    // Ready, and then somebody else is faster: by contract the sink must take the item.
    futures_util::future::poll_fn(|cx| socket.poll_ready_unpin(cx)).await.unwrap();
    socket.try_send(numbered(0, 0, 20)).unwrap();
    socket.start_send_unpin(Bytes::from(numbered(0, 1, 20))).unwrap();
    let (mut peer, stream) = pair().await;
    clone.attach(stream, &Be32).unwrap();
    soon("the flush", SinkExt::flush(&mut socket)).await.unwrap();
    for seq in 0..2 {
        assert_eq!(number(&frame(peer.read_frame().await.unwrap())), Some((0, seq)));
    }
}

#[tokio::test]
async fn forwarding_one_multiplexor_to_another_is_one_line() {
    let from = KcmSocket::builder(SocketType::Dgram).end_with_psocks(true).build();
    let to = KcmSocket::new(SocketType::Dgram);
    let (mut source, stream) = pair().await;
    from.attach(stream, &Be32).unwrap();
    let (mut sink, stream) = pair().await;
    to.attach(stream, &Be32).unwrap();
    for seq in 0..100 {
        source.send(&numbered(0, seq, 500)).await.unwrap();
    }
    source.finish().await.unwrap();
    let forward = from.map(|message| Ok(message.into_bytes())).forward(to);
    soon("all to be forwarded", forward).await.unwrap();
    for seq in 0..100 {
        assert_eq!(number(&frame(sink.read_frame().await.unwrap())), Some((0, seq)));
    }
}

#[tokio::test]
async fn a_watcher_that_is_slow_misses_old_events_and_knows_it() {
    let socket = KcmSocket::new(SocketType::Dgram);
    let mut slow = socket.events();
    let (_peer, mut stream) = pair().await;
    for _ in 0..2000 {
        let psock = socket.attach(stream, &Be32).unwrap();
        stream = socket.unattach(psock.id()).unwrap().stream;
    }
    // Attached, none left, detached: three each.
    assert_eq!(slow.missed(), 6000 - 4096);
    assert!(slow.try_next().is_some());
    let mut fresh = socket.events();
    assert_eq!(fresh.try_next(), None);
    let psock = socket.attach(stream, &Be32).unwrap();
    assert_eq!(fresh.try_next(), Some(PsockEvent::Attached { psock: psock.id() }));
}

#[tokio::test]
async fn the_sums_agree_at_a_quiet_moment() {
    let k = KcmSocket::builder(SocketType::Dgram).recv_buffer(300).build();
    let k2 = k.try_clone().unwrap();
    let mut peers = Vec::new();
    for conn in 0..3 {
        let (mut peer, stream) = pair().await;
        k.attach(stream, &Be32).unwrap();
        for seq in 0..10 {
            peer.send(&numbered(conn, seq, 50)).await.unwrap();
        }
        peers.push(peer);
    }
    eventually("all to be full", || k.mux_stats().parked_msgs > 0).await;
    for _ in 0..3 {
        k.recv().await.unwrap();
        k2.send(frame("out")).await.unwrap();
    }
    k2.set_recv_disabled(true);
    let agree = || {
        let s = k.mux_stats();
        let rx = s.delivered_msgs + s.queued_msgs + s.held_msgs + s.parked_msgs;
        s.rx_msgs == rx && s.accepted_msgs == s.tx_msgs + s.send_queued_msgs
    };
    eventually("the sums to agree", agree).await;
    assert_eq!(k.stats().rx_msgs, 3);
    // Half a message more, on a connection that is read: it is in memory, and nowhere else.
    let (mut peer, stream) = pair().await;
    let psock = k.attach(stream, &Be32).unwrap();
    let s = k.mux_stats();
    assert!(s.memory.assembly < 1024, "what waits is in queues: {:?}", s.memory);
    assert!(s.memory.received >= s.queued_bytes + s.held_bytes + s.parked_bytes);
    assert!(s.memory.tables > 0 && s.memory.total() - s.memory.blocks < 64 << 10, "{:?}", s.memory);
    peer.send(&numbered(9, 0, 50)[..20]).await.unwrap();
    eventually("half a message", || psock.stats().is_some_and(|s| s.strp.bytes == 20)).await;
    eventually("its memory", || k.mux_stats().memory.assembly >= s.memory.assembly + 20).await;
    let s = k.mux_stats();
    assert_eq!(s.rx_batch_sizes.iter().sum::<u64>(), s.psocks.rx_batches);
    assert!(s.psocks.strp.parse_nanos > 0);
    assert_eq!(s.ends.total(), 0);
    drop(peer);
    soon("the end", psock.closed()).await;
    let s = k.mux_stats();
    assert_eq!((s.ends.eof_mid_message, s.ends.total()), (1, 1));
    k.unattach(psock.id()).unwrap();
    assert!(k.mux_stats().memory.assembly < 1024);
    let text = k.proc_net_kcm();
    for word in ["RX-Msgs", "KCMs", "Psocks", "psock-2"] {
        assert!(text.contains(word), "{word} in\n{text}");
    }
    assert!(k.proc_net_kcm_stats().contains("RX-TooBig"));
}

/// Set in the process that a test of signals starts.
const CHILD: &str = "KCM_TEST_SIGPIPE_CHILD";

#[test]
fn a_peer_that_is_gone_raises_no_signal() {
    // semantics J6 (exceeding D20), kernel-faults row 68
    if std::env::var_os(CHILD).is_some() {
        // What a program in another language, or one that asks for it, starts with.
        // SAFETY: SIG_DFL is a valid disposition, and nothing else in this process cares.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        tokio::runtime::Runtime::new().unwrap().block_on(send_to_dead_peers());
        return;
    }
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_peer_that_is_gone_raises_no_signal", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
}

/// The signal comes with EPIPE, and that is the answer to a write after the peer ended the
/// connection and then reset it.
async fn send_to_dead_peers() {
    // The same for a stream that makes its own system calls, as a TLS stream does.
    let socket = KcmSocket::new(SocketType::Dgram);
    for round in 0..10_u32 {
        let (peer, stream) = pair().await;
        let options = AttachOptions::new().half_close(true);
        let psock = socket.attach_with(Wrapped(stream), &Be32, options).unwrap();
        drop(peer);
        eventually("a write to fail", || {
            let _ = socket.try_send_to(psock.id(), numbered(0, round, 10));
            psock.error().is_some()
        })
        .await;
        assert!(!pending(libc::SIGPIPE), "taken back, not left waiting");
    }
    for round in 0..20_u32 {
        let socket = KcmSocket::new(SocketType::Dgram);
        let (peer, stream) = pair().await;
        let options = AttachOptions::new().half_close(true);
        let psock = socket.attach_with(stream, &Be32, options).unwrap();
        drop(peer);
        let mut seq = 0;
        eventually("a write to fail", || {
            // The caller itself writes, and finds out.
            let _ = match round % 2 {
                0 => socket.try_send(numbered(0, seq, 10)),
                _ => socket.try_send_to(psock.id(), numbered(0, seq, 10)),
            };
            seq += 1;
            psock.error().is_some()
        })
        .await;
        assert_eq!(psock.error(), Some(PsockError::Reset));
    }
}

fn pending(signal: i32) -> bool {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is valid for the answer, and initialised by it.
    unsafe {
        libc::sigpending(set.as_mut_ptr());
        libc::sigismember(set.as_ptr(), signal) == 1
    }
}

/// A stream around a TCP stream, which writes with `writev`.
struct Wrapped(tokio::net::TcpStream);

impl AsyncRead for Wrapped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wrapped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, &[std::io::IoSlice::new(buf)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parser_given_as_shared_object_serves_many_connections_at_once() {
    use kcm_core::delineate::Delineate;
    // kernel-faults row 12: no state is shared between calls.
    let parser: std::sync::Arc<dyn Delineate> = std::sync::Arc::new(Be32);
    let socket = KcmSocket::builder(SocketType::Dgram).recv_buffer(1 << 24).build();
    let mut peers = Vec::new();
    for conn in 0..8 {
        let (mut peer, stream) = pair().await;
        socket.attach(stream, &parser).unwrap();
        peers.push(tokio::spawn(async move {
            for seq in 0..200 {
                peer.send(&numbered(conn, seq, (seq as usize * 13) % 800)).await.unwrap();
            }
            peer
        }));
    }
    let mut next = [0; 8];
    for _ in 0..1600 {
        let message = soon("all messages", socket.recv()).await.unwrap();
        let (conn, seq) = number(&message).expect("whole, as sent");
        assert_eq!(seq, next[conn as usize]);
        next[conn as usize] += 1;
    }
    for peer in peers {
        peer.await.unwrap();
    }
    assert_eq!(payload(&frame("x")), b"x");
}
