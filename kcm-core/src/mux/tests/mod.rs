//! The multiplexor's statements, one test each, and a model of the whole.

mod fair;
mod life;
mod model;
mod pipeline;
mod recv;
mod send;

use std::collections::BTreeMap;

use bytes::Bytes;

use super::*;
use crate::{
    error::{RecvError, SendError, SocketError},
    message::Batch,
};

/// A connection as its peer sees it.
#[derive(Debug, Default)]
struct Peer {
    /// All bytes it was sent.
    wire: Vec<u8>,
    /// Bytes the connection still takes before it blocks.
    space: usize,
    /// There is a writer to run.
    start: bool,
    /// The writer waits until it is writable.
    blocked: bool,
    /// Writing fails.
    broken: bool,
}

/// A multiplexor with its surroundings: runs writers, collects effects.
struct Rig {
    mux: Mux,
    fx: Effects,
    now: Instant,
    peers: BTreeMap<PsockId, Peer>,
    log: Vec<Effect>,
    work: TxWork,
    /// Slices and bytes per write.
    bufs: usize,
    bytes: usize,
}

const WIDE: usize = usize::MAX / 2;

impl Rig {
    fn with(kind: SocketType, mux: MuxOptions, first: KcmOptions) -> (Rig, KcmId) {
        let (mux, kcm) = Mux::new(kind, mux, first);
        let rig = Rig {
            mux,
            fx: Effects::new(),
            now: Instant::now(),
            peers: BTreeMap::new(),
            log: Vec::new(),
            work: TxWork::default(),
            bufs: 64,
            bytes: 1 << 18,
        };
        (rig, kcm)
    }

    fn new(kind: SocketType) -> (Rig, KcmId) {
        Self::with(kind, MuxOptions::default(), KcmOptions::default())
    }

    /// Takes note of effects; runs no writer.
    fn settle(&mut self) {
        for effect in self.fx.drain() {
            match &effect {
                Effect::StartTx { psock } => {
                    let peer = self.peers.entry(*psock).or_default();
                    assert!(!peer.start, "one writer at a time");
                    assert!(!peer.blocked, "a blocked connection is left alone");
                    peer.start = true;
                }
                Effect::Detached(left) => {
                    // Its wire stays for inspection; nobody waits on it any more.
                    if let Some(peer) = self.peers.get_mut(&left.psock) {
                        peer.blocked = false;
                    }
                }
                _ => {}
            }
            self.log.push(effect);
        }
    }

    /// Runs every writer until there is none.
    fn run(&mut self) {
        self.settle();
        while let Some(psock) = self.peers.iter().find(|(_, p)| p.start).map(|(&id, _)| id) {
            self.write(psock);
        }
    }

    /// Runs one writer to its end.
    fn write(&mut self, psock: PsockId) {
        while self.begin(psock) {
            if !self.finish(psock) {
                break;
            }
        }
    }

    fn begin(&mut self, psock: PsockId) -> bool {
        let more = self.mux.tx_begin(psock, self.bufs, self.bytes, &mut self.work, &mut self.fx);
        if let Some(peer) = self.peers.get_mut(&psock) {
            peer.start = more;
        }
        self.settle();
        if more {
            assert!(self.work.bytes > 0 && self.work.bufs.len() <= self.bufs);
        }
        more
    }

    /// The write itself, and its report. False: no longer the writer.
    fn finish(&mut self, psock: PsockId) -> bool {
        let peer = self.peers.get_mut(&psock).unwrap();
        let all: Vec<u8> = self.work.bufs.iter().flat_map(|b| b.to_vec()).collect();
        let n = all.len().min(peer.space);
        peer.wire.extend(&all[..n]);
        peer.space -= n;
        let goes_on = n == all.len();
        if peer.broken {
            peer.start = false;
            self.mux.tx_done(psock, n, &mut self.fx);
            self.mux.tx_failed(psock, PsockError::Reset, &mut self.fx);
            self.settle();
            return false;
        }
        self.mux.tx_done(psock, n, &mut self.fx);
        if !goes_on {
            peer.start = false;
            peer.blocked = true;
            self.mux.tx_blocked(psock, self.now, &mut self.fx);
        }
        self.settle();
        if !self.mux.is_attached(psock) {
            self.peers.get_mut(&psock).unwrap().blocked = false;
        }
        goes_on
    }

    /// The peer reads: there is room for `space` more bytes.
    fn open(&mut self, psock: PsockId, space: usize) {
        let peer = self.peers.entry(psock).or_default();
        peer.space += space;
        if std::mem::take(&mut peer.blocked) {
            self.mux.tx_writable(psock, &mut self.fx);
        }
        self.settle();
    }

    fn attach(&mut self) -> PsockId {
        self.attach_with(PsockOptions::default(), WIDE)
    }

    fn attach_with(&mut self, options: PsockOptions, space: usize) -> PsockId {
        let psock = self.mux.attach(options, &mut self.fx).unwrap();
        self.peers.insert(psock, Peer { space, ..Peer::default() });
        self.settle();
        psock
    }

    fn clone_kcm(&mut self, parent: KcmId) -> KcmId {
        let kcm = self.mux.clone_kcm(parent, &mut self.fx).unwrap();
        self.settle();
        kcm
    }

    fn deliver(&mut self, psock: PsockId, messages: &[&str]) -> Delivery {
        let delivery = self.mux.deliver(psock, batch(psock, messages), &mut self.fx);
        self.settle();
        delivery
    }

    fn recv(&mut self, kcm: KcmId) -> Option<String> {
        let got = self.mux.recv(kcm, &mut self.fx);
        self.settle();
        match got {
            Ok(message) => Some(String::from_utf8_lossy(&message).into_owned()),
            Err(RecvError::WouldBlock) => None,
            Err(other) => panic!("{other}"),
        }
    }

    /// Reads a socket empty.
    fn recv_all(&mut self, kcm: KcmId) -> Vec<String> {
        std::iter::from_fn(|| self.recv(kcm)).collect()
    }

    fn send(&mut self, kcm: KcmId, text: &str, flags: SendFlags) -> Result<usize, SendError> {
        let sent = self.mux.send(kcm, text.as_bytes().into(), flags, &mut self.fx);
        self.settle();
        sent
    }

    fn send_to(&mut self, kcm: KcmId, psock: PsockId, text: &str) -> Result<usize, SendError> {
        let sent = self.mux.send_to(kcm, psock, text.as_bytes().into(), &mut self.fx);
        self.settle();
        sent
    }

    fn wire(&self, psock: PsockId) -> &str {
        std::str::from_utf8(&self.peers[&psock].wire).unwrap()
    }

    fn unattach(&mut self, psock: PsockId) -> Result<(), SocketError> {
        let done = self.mux.unattach(psock, &mut self.fx);
        self.settle();
        done
    }

    fn close(&mut self, kcm: KcmId, how: Close) -> bool {
        let done = self.mux.close(kcm, how, &mut self.fx).unwrap();
        self.settle();
        done
    }

    fn disable(&mut self, kcm: KcmId, disabled: bool) {
        self.mux.set_recv_disabled(kcm, disabled, &mut self.fx).unwrap();
        self.settle();
    }

    /// Effects so far; forgets them.
    fn effects(&mut self) -> Vec<Effect> {
        self.settle();
        std::mem::take(&mut self.log)
    }

    fn events(&mut self) -> Vec<PsockEvent> {
        self.effects()
            .into_iter()
            .filter_map(|effect| match effect {
                Effect::Event(event) => Some(event),
                _ => None,
            })
            .collect()
    }

    fn leftover(&mut self) -> Option<Leftover> {
        let at = self.log.iter().position(|e| matches!(e, Effect::Detached(_)))?;
        match self.log.remove(at) {
            Effect::Detached(left) => Some(left),
            _ => None,
        }
    }

    /// Everything is accounted for (semantics J16).
    fn check_sums(&self) {
        let s = self.mux.stats();
        assert_eq!(
            s.rx_msgs,
            s.delivered_msgs
                + s.queued_msgs
                + s.held_msgs
                + s.parked_msgs
                + s.returned_msgs
                + s.rx_ready_drops,
            "{s:?}"
        );
        if s.rx_ready_drops == 0 {
            assert_eq!(
                s.rx_bytes,
                s.delivered_bytes
                    + s.queued_bytes
                    + s.held_bytes
                    + s.parked_bytes
                    + s.returned_bytes
            );
        }
        assert_eq!(s.accepted_msgs, s.tx_msgs + s.send_queued_msgs + s.tx_dropped_msgs, "{s:?}");
        // The multiplexor's line is the sum of its connections', past and present (G7).
        let p = s.psocks;
        assert_eq!(
            (s.rx_msgs, s.rx_bytes, s.tx_msgs, s.tx_bytes),
            (p.rx_msgs, p.rx_bytes, p.tx_msgs, p.tx_bytes)
        );
        assert_eq!(s.rx_batch_sizes.iter().sum::<u64>(), p.rx_batches);
        let held = self.mux.kcms.iter().filter(|(_, k)| k.psock.is_some()).count() as u64;
        assert_eq!(p.reserved, p.unreserved + held);
        assert_eq!(s.attach, s.unattach + self.mux.psocks.len() as u64);
        assert!(s.ends.total() <= s.attach && s.unattach_rsvd <= s.unattach);
        assert!(s.memory.received >= s.queued_bytes + s.held_bytes + s.parked_bytes);
        assert!(s.memory.send >= s.send_queued_bytes);
    }
}

fn batch(psock: PsockId, messages: &[&str]) -> Batch {
    let mut ends = Vec::new();
    let mut block = Vec::new();
    for message in messages {
        block.extend(message.as_bytes());
        ends.push(block.len() as u32);
    }
    Batch::new(Bytes::from(block), &ends, psock).unwrap()
}

fn small(recv_buffer: usize) -> KcmOptions {
    KcmOptions { recv_buffer, ..KcmOptions::default() }
}

const DGRAM: SocketType = SocketType::Dgram;
const SEQ: SocketType = SocketType::Seqpacket;
const NONE: SendFlags = SendFlags::NONE;
const MORE: SendFlags = SendFlags::MORE;
const EOR: SendFlags = SendFlags::EOR;
const BATCH: SendFlags = SendFlags::BATCH;
