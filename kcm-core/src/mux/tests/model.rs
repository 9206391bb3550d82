//! The multiplexor under any sequence of operations, against simple oracles: for each
//! connection the messages it brought, in order; for each message sent, where it ended up.
//!
//! Checked after every operation: the sums agree; no receiver is left asleep next to a
//! message, no sender next to an idle connection; readiness is the truth. At the end
//! everything is drained: each message was delivered exactly once, per socket in the
//! connection's order; each sent one is whole on exactly one connection, or dropped and
//! counted; and what is left equals a new multiplexor.
//!
//! `tests/data/model/mux.jsonl` has cases that are run each time, one a line. A case that fails
//! prints itself in that form: add it there. `grow_corpus` looks for cases that do something
//! which none of them does.

// tidy-allow(length): one model, whose operations and oracles read together

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::*;
use crate::corpus::{self, Corpus};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Op {
    Attach {
        half_close: bool,
        space: usize,
    },
    Unattach(usize),
    Clone(usize),
    Close(usize, bool),
    Disable(usize, bool),
    Options(usize, usize, usize, Option<usize>),
    Deliver(usize, Vec<usize>),
    RxEnd(usize, bool),
    Recv(usize),
    RecvMany(usize, usize),
    RecvInto(usize, usize, bool),
    Lend(usize, usize, usize),
    Send(usize, usize, u8),
    SendTo(usize, usize, usize),
    Flush(usize),
    /// One write, its report delayed until `Finish`.
    Begin(usize),
    Finish(usize),
    Open(usize, usize),
    Break(usize),
    Tick(u64),
    Run,
    /// Our sending side of a connection is to end.
    EndTx(usize),
    /// Whole messages admitted outside and brought together.
    SendAdmitted(usize, Vec<usize>),
    /// Whole messages in one call, as many as there is room for.
    SendWhole(usize, Vec<usize>, u8),
}

fn op() -> impl Strategy<Value = Op> {
    let i = 0usize..6;
    let size = prop_oneof![5 => 1usize..12, 1 => 1000usize..1400];
    prop_oneof![
        3 => (any::<bool>(), prop_oneof![2 => 0usize..40, 1 => Just(WIDE)]).prop_map(|(half_close, space)| Op::Attach { half_close, space }),
        2 => i.clone().prop_map(Op::Unattach),
        2 => i.clone().prop_map(Op::Clone),
        1 => (i.clone(), any::<bool>()).prop_map(|(k, drain)| Op::Close(k, drain)),
        2 => (i.clone(), any::<bool>()).prop_map(|(k, d)| Op::Disable(k, d)),
        1 => (i.clone(), 1usize..60, 1usize..60, prop::option::of(0usize..40)).prop_map(|(k, r, s, l)| Op::Options(k, r, s, l)),
        8 => (i.clone(), prop::collection::vec(1usize..9, 1..6)).prop_map(|(p, m)| Op::Deliver(p, m)),
        1 => (i.clone(), any::<bool>()).prop_map(|(p, clean)| Op::RxEnd(p, clean)),
        4 => i.clone().prop_map(Op::Recv),
        2 => (i.clone(), 1usize..5).prop_map(|(k, n)| Op::RecvMany(k, n)),
        2 => (i.clone(), 0usize..9, any::<bool>()).prop_map(|(k, n, peek)| Op::RecvInto(k, n, peek)),
        2 => (i.clone(), 1usize..5, 0usize..5).prop_map(|(k, n, read)| Op::Lend(k, n, read)),
        8 => (i.clone(), size.clone(), 0u8..8).prop_map(|(k, n, f)| Op::Send(k, n, f)),
        3 => (i.clone(), prop::collection::vec(1usize..12, 1..5)).prop_map(|(k, n)| Op::SendAdmitted(k, n)),
        3 => (i.clone(), prop::collection::vec(1usize..12, 1..5), 0u8..8).prop_map(|(k, n, f)| Op::SendWhole(k, n, f)),
        3 => (i.clone(), i.clone(), size).prop_map(|(k, p, n)| Op::SendTo(k, p, n)),
        1 => i.clone().prop_map(Op::Flush),
        4 => i.clone().prop_map(Op::Begin),
        4 => i.clone().prop_map(Op::Finish),
        3 => (i.clone(), 1usize..40).prop_map(|(p, n)| Op::Open(p, n)),
        1 => i.clone().prop_map(Op::Break),
        1 => i.prop_map(Op::EndTx),
        1 => (0u64..20).prop_map(Op::Tick),
        3 => Just(Op::Run),
    ]
}

/// A message on the wire or in a block: `<` connection or socket `:` number `:` padding `>`.
/// Self-describing, so that the peers' bytes can be read back whole.
fn text(origin: u32, number: usize, size: usize) -> String {
    format!("<{origin}:{number}:{}>", "x".repeat(size))
}

/// Where one sent message was last seen.
#[derive(Debug)]
struct Sent {
    text: String,
    /// The only connection it may be on.
    to: Option<PsockId>,
}

struct Model {
    rig: Rig,
    kcms: Vec<KcmId>,
    psocks: Vec<PsockId>,
    /// Everything each connection brought, in order.
    brought: BTreeMap<PsockId, Vec<String>>,
    /// What each socket read of each connection, in order: positions in `brought`.
    read: Vec<(KcmId, PsockId, usize)>,
    /// Came back with unattach, or was refused.
    returned: Vec<(PsockId, String)>,
    /// Messages read in part, and how much of each.
    partial: Vec<(PsockId, String, usize)>,
    sent: Vec<Sent>,
    /// What each socket is building.
    open: BTreeMap<KcmId, String>,
    /// In a write: which, and its slices.
    writing: BTreeMap<PsockId, TxWork>,
    parked: BTreeSet<PsockId>,
    next: usize,
    /// Sends that found the buffer full and have not been told of room since.
    refused: BTreeSet<KcmId>,
    closing: BTreeSet<KcmId>,
    /// Connections whose sending side has ended, and how much they had been sent then.
    ended: BTreeSet<PsockId>,
    ended_at: BTreeMap<PsockId, usize>,
    /// Kinds of effects since they were last noted.
    effects: BTreeSet<String>,
    /// Messages may have moved from socket to socket.
    moved: bool,
}

impl Model {
    fn new(kind: SocketType, options: MuxOptions, first: KcmOptions) -> Self {
        let (rig, kcm) = Rig::with(kind, options, first);
        Model {
            rig,
            kcms: vec![kcm],
            psocks: Vec::new(),
            brought: BTreeMap::new(),
            read: Vec::new(),
            returned: Vec::new(),
            partial: Vec::new(),
            sent: Vec::new(),
            open: BTreeMap::new(),
            writing: BTreeMap::new(),
            parked: BTreeSet::new(),
            next: 0,
            refused: BTreeSet::new(),
            closing: BTreeSet::new(),
            ended: BTreeSet::new(),
            ended_at: BTreeMap::new(),
            effects: BTreeSet::new(),
            moved: false,
        }
    }

    fn kcm(&self, at: usize) -> Option<KcmId> {
        (!self.kcms.is_empty()).then(|| self.kcms[at % self.kcms.len()])
    }

    fn psock(&self, at: usize) -> Option<PsockId> {
        (!self.psocks.is_empty()).then(|| self.psocks[at % self.psocks.len()])
    }

    /// A reader took a message, or the rest of one read in part: it must be one that this
    /// connection brought and nobody read before.
    fn took(&mut self, k: KcmId, psock: PsockId, bytes: &[u8]) {
        let text = std::str::from_utf8(bytes).unwrap();
        let whole = match self.begun(psock, text) {
            Some(at) => self.partial.remove(at).1,
            None => text.to_owned(),
        };
        let all = &self.brought[&psock];
        let at = all
            .iter()
            .position(|m| *m == whole)
            .unwrap_or_else(|| panic!("{whole} was never brought by {psock}"));
        let twice = self.read.iter().any(|r| r.1 == psock && r.2 == at);
        assert!(!twice, "{whole} read twice");
        if !self.moved {
            let last = self.read.iter().rev().find(|r| r.0 == k && r.1 == psock);
            assert!(last.is_none_or(|last| last.2 < at), "{whole} out of order");
        }
        self.read.push((k, psock, at));
    }

    /// Which of the messages read in part this is the rest of.
    fn begun(&self, psock: PsockId, rest: &str) -> Option<usize> {
        self.partial
            .iter()
            .position(|(p, whole, read)| *p == psock && whole.get(*read..) == Some(rest))
    }

    fn absorb(&mut self) {
        for effect in self.rig.effects() {
            self.effects.insert(corpus::name(&effect));
            match effect {
                Effect::Detached(left) => {
                    assert!(self.psocks.contains(&left.psock));
                    self.psocks.retain(|p| *p != left.psock);
                    self.parked.remove(&left.psock);
                    for batch in &left.parked {
                        for message in batch {
                            self.returned
                                .push((left.psock, String::from_utf8(message.to_vec()).unwrap()));
                        }
                    }
                }
                Effect::ResumeRx { psock } => {
                    assert!(self.parked.remove(&psock), "resumed without having been parked");
                }
                Effect::Writable { kcm } => {
                    self.refused.remove(&kcm);
                }
                Effect::Closed { kcm } => {
                    assert!(self.closing.remove(&kcm));
                }
                Effect::MuxClosed => assert!(self.kcms.is_empty()),
                Effect::EndTx { psock } => {
                    assert!(self.ended.insert(psock), "ended twice");
                    assert!(!self.writing.contains_key(&psock), "ended in a write");
                    let wire = self.rig.wire(psock).len();
                    self.ended_at.insert(psock, wire);
                }
                _ => {}
            }
        }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Attach { half_close, space } => {
                if self.psocks.len() < 6 && !self.kcms.is_empty() {
                    let psock =
                        self.rig.attach_with(PsockOptions { half_close: *half_close }, *space);
                    self.psocks.push(psock);
                    self.brought.insert(psock, Vec::new());
                }
            }
            Op::Unattach(p) => {
                if let Some(psock) = self.psock(*p) {
                    let _ = self.rig.unattach(psock);
                }
            }
            Op::Clone(k) => {
                if let Some(kcm) = self.kcm(*k).filter(|_| self.kcms.len() < 5) {
                    let clone = self.rig.clone_kcm(kcm);
                    self.kcms.push(clone);
                }
            }
            Op::Close(k, drain) => {
                if let Some(kcm) = self.kcm(*k).filter(|_| self.kcms.len() > 1) {
                    self.close(kcm, *drain);
                }
            }
            Op::Disable(k, disabled) => {
                if let Some(kcm) = self.kcm(*k) {
                    self.moved = true;
                    self.rig.disable(kcm, *disabled);
                }
            }
            Op::Options(k, recv_buffer, send_buffer, recv_low_water) => {
                if let Some(kcm) = self.kcm(*k) {
                    let options = KcmOptions {
                        recv_buffer: *recv_buffer,
                        send_buffer: *send_buffer,
                        recv_low_water: *recv_low_water,
                        end_with_psocks: false,
                    };
                    self.rig.mux.set_options(kcm, options, &mut self.rig.fx).unwrap();
                    self.rig.settle();
                }
            }
            Op::Deliver(p, sizes) => {
                let Some(psock) = self.psock(*p).filter(|p| !self.parked.contains(p)) else {
                    return;
                };
                let texts: Vec<String> = sizes
                    .iter()
                    .map(|size| {
                        self.next += 1;
                        text(psock.index, self.next, *size)
                    })
                    .collect();
                let refs: Vec<&str> = texts.iter().map(String::as_str).collect();
                match self.rig.deliver(psock, &refs) {
                    Delivery::Taken => self.brought.get_mut(&psock).unwrap().extend(texts),
                    Delivery::Parked => {
                        self.brought.get_mut(&psock).unwrap().extend(texts);
                        self.parked.insert(psock);
                    }
                    Delivery::Refused(_) => {}
                }
            }
            Op::RxEnd(p, clean) => {
                if let Some(psock) = self.psock(*p) {
                    let cause = if *clean { PsockError::Eof } else { PsockError::Reset };
                    self.rig.mux.rx_end(psock, cause, &mut self.rig.fx);
                    // Its reader is done: it waits for nothing.
                    self.absorb();
                    self.parked.remove(&psock);
                }
            }
            Op::Recv(k) => {
                let Some(kcm) = self.kcm(*k) else { return };
                if let Ok(message) = self.rig.mux.recv(kcm, &mut self.rig.fx) {
                    self.took(kcm, message.psock(), &message);
                }
            }
            Op::RecvMany(k, n) => {
                let Some(kcm) = self.kcm(*k) else { return };
                let mut out = Vec::new();
                let got = self.rig.mux.recv_many(kcm, *n, &mut out, &mut self.rig.fx).unwrap_or(0);
                assert!(got == out.len() && got <= *n);
                for message in out {
                    self.took(kcm, message.psock(), &message);
                }
            }
            Op::RecvInto(k, len, peek) => {
                let Some(kcm) = self.kcm(*k) else { return };
                let Ok(front) = self.rig.mux.peek(kcm) else { return };
                let mut buf = vec![0; *len];
                let got = self.rig.mux.recv_into(kcm, &mut buf, *peek, &mut self.rig.fx).unwrap();
                assert_eq!((got.len, got.psock), (front.len(), front.psock()));
                assert_eq!(buf[..got.copied], front[..got.copied]);
                if got.end_of_record {
                    self.took(kcm, front.psock(), &front);
                } else if !*peek && got.copied > 0 {
                    let rest = std::str::from_utf8(&front).unwrap();
                    match self.begun(front.psock(), rest) {
                        Some(at) => self.partial[at].2 += got.copied,
                        None => {
                            self.partial.push((front.psock(), rest.to_owned(), got.copied));
                        }
                    }
                }
            }
            Op::Lend(k, n, read) => {
                let Some(kcm) = self.kcm(*k) else { return };
                let Ok(mut lent) = self.rig.mux.lend(kcm, *n, &mut self.rig.fx) else { return };
                self.rig.check_sums();
                let (mut msgs, mut bytes) = (0, 0);
                for _ in 0..*read {
                    let Some(message) = lent.pop() else { break };
                    msgs += 1;
                    bytes += message.len();
                    self.took(kcm, message.psock(), &message);
                }
                self.rig.mux.settle(kcm, msgs, bytes, &mut self.rig.fx);
                self.rig.mux.give_back(kcm, lent, &mut self.rig.fx);
            }
            Op::Send(k, size, flags) => {
                let Some(kcm) = self.kcm(*k) else { return };
                self.send(kcm, *size, SendFlags::of(*flags));
            }
            Op::SendAdmitted(k, sizes) => {
                if let Some(kcm) = self.kcm(*k) {
                    self.send_admitted(kcm, sizes);
                }
            }
            Op::SendWhole(k, sizes, flags) => {
                if let Some(kcm) = self.kcm(*k) {
                    self.send_whole(kcm, sizes, SendFlags::of(*flags));
                }
            }
            Op::SendTo(k, p, size) => {
                let (Some(kcm), Some(psock)) = (self.kcm(*k), self.psock(*p)) else { return };
                self.next += 1;
                let text = text(1000 + kcm.index, self.next, *size);
                let writable = self.rig.mux.is_writable(kcm);
                match self.rig.send_to(kcm, psock, &text) {
                    Ok(n) => {
                        assert!(writable && n == text.len());
                        self.sent.push(Sent { text, to: Some(psock) });
                    }
                    Err(SendError::WouldBlock) => {
                        assert!(!writable);
                        self.refused.insert(kcm);
                    }
                    Err(_) => {}
                }
            }
            Op::Flush(k) => {
                if let Some(kcm) = self.kcm(*k) {
                    self.rig.mux.flush(kcm, &mut self.rig.fx).unwrap();
                }
            }
            Op::Begin(at) => {
                self.rig.settle();
                let starting: Vec<PsockId> = self
                    .rig
                    .peers
                    .iter()
                    .filter(|(id, p)| p.start && !self.writing.contains_key(id))
                    .map(|(&id, _)| id)
                    .collect();
                if !starting.is_empty() {
                    let psock = starting[at % starting.len()];
                    if self.rig.begin(psock) {
                        self.writing.insert(psock, std::mem::take(&mut self.rig.work));
                    }
                }
            }
            Op::Finish(at) => {
                let all: Vec<PsockId> = self.writing.keys().copied().collect();
                if !all.is_empty() {
                    self.finish(all[at % all.len()]);
                }
            }
            Op::Open(p, space) => {
                if let Some(psock) = self.psock(*p) {
                    self.rig.open(psock, *space);
                }
            }
            Op::Break(p) => {
                if let Some(psock) = self.psock(*p) {
                    self.rig.peers.get_mut(&psock).unwrap().broken = true;
                }
            }
            Op::Tick(seconds) => {
                self.rig.now += Duration::from_secs(*seconds);
                for psock in self.psocks.clone() {
                    self.rig.mux.on_tx_deadline(psock, self.rig.now, &mut self.rig.fx);
                }
            }
            Op::Run => self.run(),
            Op::EndTx(p) => {
                if let Some(psock) = self.psock(*p) {
                    let failed = self.rig.mux.psock_error(psock).is_some();
                    let done = self.rig.mux.end_tx(psock, &mut self.rig.fx);
                    assert!(!failed || done.is_err());
                    self.rig.settle();
                }
            }
        }
        self.absorb();
        self.check();
    }

    fn send(&mut self, kcm: KcmId, size: usize, flags: SendFlags) {
        let open = self.open.get(&kcm).cloned().unwrap_or_default();
        let ends = match self.rig.mux.kind() {
            SocketType::Dgram => !flags.contains(MORE),
            SocketType::Seqpacket => flags.contains(EOR),
        };
        self.next += 1;
        // Parts of one message: the first opens it, the last closes it.
        let mut part = if open.is_empty() {
            format!("<{}:{}:", 1000 + kcm.index, self.next)
        } else {
            String::new()
        };
        part.push_str(&"x".repeat(size));
        if ends {
            part.push('>');
        }
        let writable = self.rig.mux.is_writable(kcm);
        match self.rig.send(kcm, &part, flags) {
            Ok(n) => {
                assert!(writable && n == part.len());
                let whole = open + &part;
                if ends {
                    self.open.remove(&kcm);
                    self.sent.push(Sent { text: whole, to: None });
                } else {
                    self.open.insert(kcm, whole);
                }
            }
            Err(error) => {
                assert_eq!(error, SendError::WouldBlock);
                assert!(!writable);
                self.refused.insert(kcm);
            }
        }
    }

    fn send_admitted(&mut self, kcm: KcmId, sizes: &[usize]) {
        let mut room = self.rig.mux.admits(kcm);
        let (mut data, mut ends) = (String::new(), Vec::new());
        for &size in sizes {
            if room == 0 {
                break;
            }
            self.next += 1;
            let text = text(1000 + kcm.index, self.next, size);
            room = room.saturating_sub(text.len());
            data.push_str(&text);
            ends.push(data.len() as u32);
            self.sent.push(Sent { text, to: None });
        }
        if !ends.is_empty() {
            assert!(self.rig.mux.is_writable(kcm), "each would have been admitted");
            self.rig.mux.send_admitted(kcm, data.as_bytes(), &ends, &mut self.rig.fx);
        }
    }

    fn send_whole(&mut self, kcm: KcmId, sizes: &[usize], flags: SendFlags) {
        let mut first = self.open.get(&kcm).cloned().unwrap_or_default();
        let open = first.len();
        let (mut data, mut ends, mut texts) = (String::new(), Vec::new(), Vec::new());
        for &size in sizes {
            self.next += 1;
            let whole = match first.is_empty() {
                true => text(1000 + kcm.index, self.next, size),
                false => std::mem::take(&mut first) + "x>",
            };
            // What was sent of the first before is not sent again.
            data.push_str(if texts.is_empty() { &whole[open..] } else { &whole });
            ends.push(data.len() as u32);
            texts.push(whole);
        }
        let writable = self.rig.mux.is_writable(kcm);
        let sent = self.rig.mux.send_whole(kcm, data.as_bytes(), &ends, flags, &mut self.rig.fx);
        match sent {
            Ok(taken) => {
                assert!(writable && taken > 0);
                self.open.remove(&kcm);
                let sent = texts.into_iter().take(taken);
                self.sent.extend(sent.map(|text| Sent { text, to: None }));
                assert!(taken == sizes.len() || !self.rig.mux.is_writable(kcm));
                if taken < sizes.len() {
                    // It waits for room, with the rest.
                    self.refused.insert(kcm);
                }
            }
            Err(error) => {
                assert_eq!(error, SendError::WouldBlock);
                assert!(!writable);
                self.refused.insert(kcm);
            }
        }
    }

    fn finish(&mut self, psock: PsockId) {
        self.rig.work = self.writing.remove(&psock).unwrap();
        if self.rig.finish(psock) {
            // Still the writer.
            self.rig.peers.get_mut(&psock).unwrap().start = true;
        }
    }

    fn run(&mut self) {
        while let Some(&psock) = self.writing.keys().next() {
            self.finish(psock);
        }
        self.rig.run();
    }

    fn close(&mut self, kcm: KcmId, drain: bool) {
        self.kcms.retain(|k| *k != kcm);
        self.moved = true;
        self.open.remove(&kcm);
        self.refused.remove(&kcm);
        if !self.rig.close(kcm, if drain { Close::Drain } else { Close::Now }) {
            self.closing.insert(kcm);
        }
    }

    fn check(&mut self) {
        self.rig.check_sums();
        let mux = &self.rig.mux;
        let stats = mux.stats();
        // No message waits while a receiver could take it.
        let receivers =
            mux.kcms.iter().filter(|(_, k)| !k.disabled && !k.full && k.closing.is_none()).count();
        assert_eq!(mux.rx_wait.len(), receivers);
        if receivers > 0 {
            assert_eq!(
                (stats.held_msgs, stats.parked_msgs),
                (0, 0),
                "a receiver sleeps next to a message"
            );
        }
        assert!(mux.hold.is_sound());
        for (_, k) in mux.kcms.iter() {
            assert!(k.rx.is_sound());
            if k.full {
                assert!(k.unread() >= k.low_water().min(k.options.recv_buffer) && !k.disabled);
            }
            // A socket with something to send has a connection or is in line.
            if !k.tx.is_empty() && !k.batching {
                assert!(k.psock.is_some() || mux.tx_wait.contains(k.id.index));
            }
            let held = k.psock.map(|p| mux.psocks.at(p).unwrap().owner);
            assert!(held.is_none_or(|owner| owner == Some(k.id.index)));
        }
        assert!(
            mux.idle.is_empty() || mux.tx_wait.is_empty(),
            "a sender sleeps next to an idle connection"
        );
        for (index, p) in mux.psocks.iter() {
            let free =
                p.takes() && p.owner.is_none() && p.writer == Writer::None && p.own_is_empty();
            assert_eq!(mux.idle.contains(index), free, "{p:?}");
            assert!(p.parked.is_sound());
            assert_eq!(mux.ready.contains(index), !p.parked.is_empty());
            assert_eq!(mux.asking.contains(index), !p.parked.is_empty());
            let peer = &self.rig.peers[&p.id];
            match p.writer {
                Writer::None => assert!(!peer.blocked || !p.sends()),
                Writer::Appointed => assert!(peer.start, "nobody knows that it is to write"),
                Writer::Writing => assert!(self.writing.contains_key(&p.id)),
                Writer::Blocked => assert!(peer.blocked, "nobody waits for it"),
            }
        }
        // Nobody waits for room that is there.
        for kcm in &self.refused {
            assert!(!mux.is_writable(*kcm), "a lost wake-up");
        }
    }

    /// Lets everything come to its end and checks the whole account.
    fn finish_all(mut self) {
        self.run();
        for psock in self.psocks.clone() {
            let peer = self.rig.peers.get_mut(&psock).unwrap();
            peer.space = WIDE / 2;
            self.rig.open(psock, 0);
        }
        self.run();
        self.absorb();
        // A last good connection takes what found none.
        if !self.rig.mux.is_closed() {
            for kcm in self.kcms.clone() {
                self.rig.mux.flush(kcm, &mut self.rig.fx).unwrap();
            }
            let psock = self.rig.attach();
            self.psocks.push(psock);
            self.brought.insert(psock, Vec::new());
        }
        self.run();
        self.absorb();
        self.check();
        for kcm in self.kcms.clone() {
            self.rig.disable(kcm, false);
        }
        for kcm in self.kcms.clone() {
            while let Ok(message) = self.rig.mux.recv(kcm, &mut self.rig.fx) {
                self.took(kcm, message.psock(), &message);
            }
        }
        self.absorb();
        let stats = self.rig.mux.stats();
        assert_eq!(
            (stats.queued_msgs, stats.held_msgs, stats.parked_msgs, stats.send_queued_msgs),
            (0, 0, 0, 0)
        );
        assert!(self.parked.is_empty(), "a reader was not told to read on");
        self.check_received(&stats);
        for (psock, at) in &self.ended_at {
            assert_eq!(self.rig.wire(*psock).len(), *at, "sent after the end");
        }
        self.check_sent(stats.tx_dropped_msgs);
        self.check_reset();
    }

    /// Each message exactly once: read by one socket, or handed back; those of the end that
    /// nobody was left to read are counted.
    fn check_received(&self, stats: &MuxStats) {
        let mut missing = 0;
        for (psock, all) in &self.brought {
            for (at, message) in all.iter().enumerate() {
                let read = self.read.iter().filter(|r| r.1 == *psock && r.2 == at).count();
                let back =
                    self.returned.iter().filter(|r| r.0 == *psock && r.1 == *message).count();
                assert!(read + back <= 1, "{message} of {psock} twice");
                missing += 1 - read - back;
            }
        }
        // Whether the last ones parked were handed back or dropped is the caller's to know.
        assert_eq!(
            missing + self.returned.len(),
            (stats.rx_ready_drops + stats.returned_msgs) as usize,
            "read, handed back, or dropped at the end"
        );
    }

    /// Each message whole on one connection only, in order per connection where it has one.
    fn check_sent(&self, dropped: u64) {
        let mut missing = 0;
        for sent in &self.sent {
            let on: Vec<PsockId> = self
                .rig
                .peers
                .iter()
                .filter(|(_, peer)| std::str::from_utf8(&peer.wire).unwrap().contains(&sent.text))
                .map(|(&id, _)| id)
                .collect();
            assert!(on.len() <= 1, "{} was sent twice", sent.text);
            match (on.first(), sent.to) {
                (Some(on), Some(to)) => assert_eq!(*on, to),
                (Some(_), None) => {}
                (None, _) => missing += 1,
            }
        }
        assert_eq!(missing, dropped, "dropped and counted, or sent");
        for peer in self.rig.peers.values() {
            // Only the last message may be cut, where the connection failed or left.
            let wire = std::str::from_utf8(&peer.wire).unwrap();
            let mut rest = wire;
            while let Some(end) = rest.find('>') {
                assert!(rest.starts_with('<') && !rest[1..end].contains('<'), "mixed: {wire}");
                rest = &rest[end + 1..];
            }
            // In the order they were queued, per connection they were addressed to.
            let numbers: Vec<usize> = self
                .sent
                .iter()
                .filter(|s| s.to.is_some())
                .filter_map(|s| wire.find(&s.text))
                .collect();
            assert!(numbers.is_sorted(), "{wire}");
        }
    }

    /// With every connection and all but one socket gone, it is as new.
    fn check_reset(mut self) {
        for psock in self.psocks.clone() {
            self.rig.unattach(psock).unwrap();
        }
        for kcm in self.kcms.split_off(1.min(self.kcms.len())) {
            self.close(kcm, false);
        }
        self.absorb();
        let mux = &self.rig.mux;
        assert_eq!((mux.psocks.len(), mux.kcms.len()), (0, self.kcms.len()));
        assert!(
            mux.hold.is_empty()
                && mux.ready.is_empty()
                && mux.asking.is_empty()
                && mux.idle.is_empty()
                && mux.tx_wait.is_empty()
        );
        assert_eq!((mux.usable, mux.readable, mux.lent_msgs, mux.lent_bytes), (0, 0, 0, 0));
        assert!(self.closing.is_empty(), "a closing socket never ended");
        if let Some(&kcm) = self.kcms.first() {
            assert_eq!(mux.rx_wait.len(), 1);
            assert!(mux.is_writable(kcm) && !mux.is_readable(kcm));
        }
    }
}

/// Everything a run is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Case {
    seqpacket: bool,
    turn: Option<u64>,
    stall: Option<u64>,
    recv_buffer: usize,
    send_buffer: usize,
    low_water: Option<usize>,
    slices: usize,
    /// Bytes of a connection's turn; 0 for the usual ones, which no case here is long enough for.
    #[serde(default)]
    turn_bytes: usize,
    /// Before which operation all sockets are closed, and whether they are drained.
    close_all: Option<(usize, bool)>,
    ops: Vec<Op>,
}

fn case() -> impl Strategy<Value = Case> {
    let buffers = (1usize..60, 1usize..60, prop::option::of(0usize..40));
    let limits = (prop::option::of(1u64..40), prop::option::of(1u64..10));
    let close_all = prop::option::weighted(0.3, (0usize..150, any::<bool>()));
    let ops = prop::collection::vec(op(), 1..150);
    let turns = prop_oneof![Just(0usize), 1usize..40];
    (any::<bool>(), limits, buffers, 1usize..4, turns, close_all, ops).prop_map(
        |(seqpacket, (turn, stall), buffers, slices, turn_bytes, close_all, ops)| Case {
            seqpacket,
            turn,
            stall,
            recv_buffer: buffers.0,
            send_buffer: buffers.1,
            low_water: buffers.2,
            slices,
            turn_bytes,
            close_all,
            ops,
        },
    )
}

/// Runs a case; what was seen to happen, for the corpus.
fn run(case: &Case) -> BTreeSet<String> {
    let kind = if case.seqpacket { SEQ } else { DGRAM };
    let options =
        MuxOptions { tx_turn: case.turn, stall_deadline: case.stall.map(Duration::from_secs) };
    let first = KcmOptions {
        recv_buffer: case.recv_buffer,
        send_buffer: case.send_buffer,
        recv_low_water: case.low_water,
        end_with_psocks: false,
    };
    let mut model = Model::new(kind, options, first);
    model.rig.bufs = case.slices;
    model.rig.bytes = 16;
    if case.turn_bytes > 0 {
        model.rig.mux.turns = Turns::all(case.turn_bytes);
    }
    let mut seen = BTreeSet::new();
    for (at, op) in case.ops.iter().enumerate() {
        if let Some((_, drain)) = case.close_all.filter(|(when, _)| *when == at) {
            for kcm in model.kcms.clone() {
                model.close(kcm, drain);
            }
            model.absorb();
            model.check();
            model.note("CloseAll", &mut seen);
        }
        model.apply(op);
        model.note(&corpus::name(op), &mut seen);
    }
    model.finish_all();
    seen
}

impl Model {
    /// Notes what an operation led to: itself with each effect it had, and with what the
    /// multiplexor then was like.
    fn note(&mut self, op: &str, seen: &mut BTreeSet<String>) {
        for effect in std::mem::take(&mut self.effects) {
            seen.insert(format!("{op} > {effect}"));
        }
        let mux = &self.rig.mux;
        let writing = mux.psocks.iter().any(|(_, p)| p.writer == Writer::Writing);
        let blocked = mux.psocks.iter().any(|(_, p)| p.writer == Writer::Blocked);
        let failed = mux.psocks.iter().any(|(_, p)| p.cause.is_some());
        let state = [
            ("held", !mux.hold.is_empty()),
            ("parked", !mux.ready.is_empty()),
            ("line", !mux.tx_wait.is_empty()),
            ("writing", writing),
            ("blocked", blocked),
            ("failed", failed),
            ("closing", !self.closing.is_empty()),
            ("ending", mux.ending.is_some()),
            ("shut", !self.ended.is_empty()),
        ];
        for (a, _) in state.iter().filter(|s| s.1) {
            for (b, _) in state.iter().filter(|s| s.1) {
                seen.insert(format!("{op} in {a} {b}"));
            }
        }
    }
}

const CORPUS: Corpus = Corpus { file: "mux.jsonl" };

#[test]
fn the_corpus_of_the_model_holds() {
    CORPUS.replay(50, run);
}

/// Adds cases to the corpus that do what none of it does. Run it by name after an operation or a
/// state was added to the model.
#[test]
#[ignore = "changes the corpus"]
fn grow_corpus() {
    CORPUS.grow(&case(), 4000, run);
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::default() })]
    #[test]
    fn model(case in case()) {
        CORPUS.run(&case, run);
    }
}
