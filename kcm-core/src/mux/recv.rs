//! Receiving: steering batches to KCM sockets, and all ways to take them there.

use smallvec::SmallVec;

use super::*;
use crate::{
    error::RecvError,
    message::{Batch, Message},
    stats::StrpStats,
};

/// How many parked connections are looked at with each turn, for those that have nothing at the
/// socket at hand.
pub(super) const ASKED: usize = 4;

/// What became of a batch.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Delivery {
    /// KCM sockets have it: read on.
    Taken,
    /// Some or all of it is parked on the connection: stop reading until
    /// [`Effect::ResumeRx`] (semantics C8).
    Parked,
    /// The connection has left, is leaving, or its reader has said it is done: these are
    /// unread messages.
    Refused(Batch),
}

/// What a receive into a buffer did (semantics E1–E6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes written to the buffer.
    pub copied: usize,
    /// Bytes of the message (or of its unread rest) before this call.
    pub len: usize,
    /// The message's last byte was returned, or cut off: MSG_EOR. Never with peek.
    pub end_of_record: bool,
    /// The rest of the message did not fit and is dropped: MSG_TRUNC. Only DGRAM, never with
    /// peek.
    pub truncated: bool,
    /// The connection it came from.
    pub psock: PsockId,
}

impl Mux {
    /// A connection's reader has whole messages: what one pass of its stream parser found
    /// (the kernel's "one ready callback", C1). They go to one KCM socket, the first in line,
    /// until it is full, then to the next (C5); what finds none is parked (C8).
    pub fn deliver(&mut self, psock: PsockId, mut batch: Batch, fx: &mut Effects) -> Delivery {
        let Some(p) = self
            .psocks
            .get_mut(psock.index, psock.generation)
            .filter(|p| !p.leaving && !p.rx_ended)
        else {
            return Delivery::Refused(batch);
        };
        self.seq += 1;
        batch.seq = self.seq;
        let (msgs, bytes) = (batch.len() as u64, batch.bytes() as u64);
        p.stats.rx_msgs += msgs;
        p.stats.rx_bytes += bytes;
        p.stats.rx_batches += 1;
        p.stats.rx_batch_max = p.stats.rx_batch_max.max(batch.len() as u32);
        if let Some(size) = msgs.checked_ilog2() {
            let last = self.totals.rx_batch_sizes.len() - 1;
            self.totals.rx_batch_sizes[last.min(size as usize)] += 1;
        }
        self.totals.rx_msgs += msgs;
        self.totals.rx_bytes += bytes;
        if !p.parked.is_empty() {
            // A reader that did not stop: its messages wait behind the parked ones.
            p.parked.insert(batch);
            return Delivery::Parked;
        }
        if batch.is_empty() {
            return Delivery::Taken;
        }
        match self.steer(batch, fx) {
            None => Delivery::Taken,
            Some(rest) => {
                self.park(psock.index, rest);
                Delivery::Parked
            }
        }
    }

    /// Gives a batch to the receivers in line; returns what found none.
    fn steer(&mut self, mut batch: Batch, fx: &mut Effects) -> Option<Batch> {
        while let Some(first) = self.rx_wait.front() {
            let Some(k) = self.kcms.at_mut(first) else {
                self.rx_wait.remove(first);
                continue;
            };
            let room = k.room();
            if room == 0 {
                // Full, found out by refusing (C4, C7): back when drained.
                k.full = true;
                self.rx_wait.remove(first);
                continue;
            }
            let taken = batch.split_to(batch.fits(room));
            k.stats.rx_batches += 1;
            fx.readable(k.id, taken.len());
            k.rx.insert(taken, self.turns);
            if batch.is_empty() {
                // At the end of its batch the socket goes to the end of the line (C1).
                self.rx_wait.remove(first);
                self.rx_wait.push_back(first);
                return None;
            }
        }
        Some(batch)
    }

    fn park(&mut self, index: u32, batch: Batch) {
        if let Some(p) = self.psocks.at_mut(index) {
            p.parked.insert(batch);
            self.ready.push_back(index);
            self.asking.push_back(index);
        }
    }

    /// A KCM socket became able to receive: it takes the held messages, then one message from
    /// each connection with parked ones, first come first served, until it is full (semantics
    /// C9, C11); then those connections compete for receivers with what they have left (C10).
    pub(super) fn receiver_ready(&mut self, kcm: u32, fx: &mut Effects) {
        let Some(k) = self.kcms.at_mut(kcm) else { return };
        k.full = false;
        let held = self.hold.take_fitting(k.room());
        if !held.is_empty() {
            fx.readable(k.id, held.msgs());
            k.rx.merge(held, self.turns, |psock| gone(&self.psocks, psock));
        }
        let mut full = !self.hold.is_empty();
        let mut round = std::mem::take(&mut self.round);
        // With one connection parked, its turn is all of it: no need to take it apart.
        let turns = if self.ready.len() > 1 { self.ready.len() } else { 0 };
        for _ in 0..turns {
            if k.room() == 0 {
                full = true;
                break;
            }
            let Some(next) = self.ready.pop_front() else { break };
            let Some(p) = self.psocks.at_mut(next) else { continue };
            if let Some(one) = p.parked.pop(1) {
                fx.readable(k.id, 1);
                k.rx.insert(one, self.turns);
            }
            round.push(next);
        }
        if turns == 0 {
            round.extend(self.ready.pop_front());
        }
        if full {
            k.full = true;
        } else {
            self.rx_wait.push_back(kcm);
        }
        for &index in &round {
            self.relieved(index, fx);
        }
        round.clear();
        self.round = round;
        self.wake_ended(fx);
    }

    /// A connection had its turn: what it still has competes like new arrivals.
    fn relieved(&mut self, index: u32, fx: &mut Effects) {
        let Some(p) = self.psocks.at_mut(index) else { return };
        let mut rest = p.parked.take();
        while let Some(batch) = rest.pop(usize::MAX) {
            if let Some(refused) = self.steer(batch, fx) {
                rest.insert(refused);
                break;
            }
        }
        let Some(p) = self.psocks.at_mut(index) else { return };
        if rest.is_empty() {
            self.unparked(index, fx);
        } else {
            p.parked.put(rest);
            self.ready.push_back(index);
            self.asking.push_back(index);
        }
    }

    /// A connection has nothing parked any more.
    fn unparked(&mut self, index: u32, fx: &mut Effects) {
        self.ready.remove(index);
        self.asking.remove(index);
        if let Some(p) = self.psocks.at(index).filter(|p| !p.rx_ended) {
            fx.push(Effect::ResumeRx { psock: p.id });
        }
    }

    /// A connection other than those that filled this socket may have messages parked.
    fn others_parked(&self, kcm: u32) -> bool {
        match self.ready.front() {
            // The one that floods is parked itself, most of the time.
            Some(only) if self.ready.len() == 1 => {
                let psock = self.psocks.at(only).map(|p| p.id);
                self.kcms.at(kcm).zip(psock).is_some_and(|(k, psock)| !k.rx.holds(psock))
            }
            first => first.is_some(),
        }
    }

    /// Of a full socket one connection's turn was read, and it has more there: now is the turn
    /// of those that have nothing there, and would wait until half of what the others have is
    /// read (exceeding semantics C9). They are served next, so this adds no more than
    /// [`ASKED`] turns to what is unread.
    fn let_in(&mut self, kcm: u32, fx: &mut Effects) {
        // What is held is older, and what a connection has left may be the same stream's. Nobody
        // gets in front of the rest of a message.
        let closed = |k: &Kcm| k.rx.is_begun() || k.rx.holds_gone();
        if !self.hold.is_empty() || self.kcms.at(kcm).is_none_or(closed) {
            return;
        }
        let mut first: SmallVec<[Batch; ASKED]> = SmallVec::new();
        for _ in 0..self.asking.len().min(ASKED) {
            let Some(index) = self.asking.pop_front() else { break };
            self.asking.push_back(index);
            let Some((k, p)) = self.kcms.at(kcm).zip(self.psocks.at_mut(index)) else { continue };
            if k.rx.holds(p.id) {
                continue;
            }
            let fits = p.parked.front().map_or(0, |batch| batch.fits(self.turns.line));
            first.extend(p.parked.pop(fits));
            if p.parked.is_empty() {
                self.unparked(index, fx);
            }
        }
        if let Some(k) = self.kcms.at_mut(kcm) {
            k.stats.rx_batches += first.len() as u64;
            first.into_iter().rev().for_each(|batch| k.rx.insert_first(batch, false, self.turns));
        }
        self.wake_ended(fx);
    }

    /// Takes up to `max` messages of the next batch, in turns of `share` bytes.
    fn take(&mut self, kcm: u32, max: usize, share: usize, fx: &mut Effects) -> Option<Batch> {
        let others = self.others_parked(kcm);
        let k = self.kcms.at_mut(kcm)?;
        let batch = k.rx.pop(max.max(1), share, others, self.turns);
        self.taken(kcm, fx);
        batch
    }

    /// Something was taken of a socket's queue.
    fn taken(&mut self, kcm: u32, fx: &mut Effects) {
        if self.kcms.at_mut(kcm).is_some_and(|k| k.rx.has_passed()) && !self.asking.is_empty() {
            self.let_in(kcm, fx);
        }
    }

    /// Messages that lost their socket move to the first receiver in line, in order, all to
    /// the same one until it is full, else to the hold queue (semantics C12, C13). Merging by
    /// arrival keeps each connection's order (J14).
    pub(super) fn requeue(&mut self, mut unread: RxQueue, fx: &mut Effects) {
        while !unread.is_empty() {
            let Some(first) = self.rx_wait.front() else {
                self.hold.merge(unread);
                return;
            };
            let Some(k) = self.kcms.at_mut(first) else {
                self.rx_wait.remove(first);
                continue;
            };
            let moved = unread.take_fitting(k.room());
            if moved.is_empty() {
                k.full = true;
                self.rx_wait.remove(first);
                continue;
            }
            fx.readable(k.id, moved.msgs());
            k.rx.merge(moved, self.turns, |psock| gone(&self.psocks, psock));
        }
    }

    /// A KCM socket was read, or measured anew: back in line if it was full and is low.
    pub(super) fn after_read(&mut self, kcm: u32, fx: &mut Effects) {
        let Some(k) = self.kcms.at(kcm) else { return };
        if k.full
            && !k.disabled
            && k.closing.is_none()
            && k.unread() < k.low_water().max(1)
            && k.room() > 0
        {
            self.receiver_ready(kcm, fx);
        }
    }

    fn count_read(&mut self, kcm: KcmId, msgs: usize, bytes: usize, fx: &mut Effects) {
        self.totals.delivered_msgs += msgs as u64;
        self.totals.delivered_bytes += bytes as u64;
        if let Some(k) = self.kcms.get_mut(kcm.index, kcm.generation) {
            k.stats.rx_msgs += msgs as u64;
            k.stats.rx_bytes += bytes as u64;
            self.after_read(kcm.index, fx);
        }
    }

    /// The socket's queue, if something is in it; else why not.
    fn unread(&mut self, kcm: KcmId) -> Result<&mut Kcm, RecvError> {
        let none_left = self.no_psock_left();
        let k = self.open_kcm(kcm).map_err(|_| RecvError::Closed)?;
        if !k.rx.is_empty() {
            Ok(k)
        } else if none_left && k.options.end_with_psocks && k.lent_msgs == 0 {
            Err(RecvError::NoPsockLeft)
        } else {
            Err(RecvError::WouldBlock)
        }
    }

    /// Takes the next message.
    pub fn recv(&mut self, kcm: KcmId, fx: &mut Effects) -> Result<Message, RecvError> {
        let (turns, others) = (self.turns, self.others_parked(kcm.index));
        let k = self.unread(kcm)?;
        let message = k.rx.pop_message(others, turns).ok_or(RecvError::WouldBlock)?;
        self.taken(kcm.index, fx);
        self.count_read(kcm, 1, message.len(), fx);
        Ok(message)
    }

    /// Takes up to `max` messages (0 counts as 1), appending them to `out`; returns how many.
    pub fn recv_many(
        &mut self,
        kcm: KcmId,
        max: usize,
        out: &mut Vec<Message>,
        fx: &mut Effects,
    ) -> Result<usize, RecvError> {
        self.unread(kcm)?;
        let max = max.max(1);
        let (mut msgs, mut bytes) = (0, 0);
        while msgs < max {
            let share = self.turns.messages;
            let Some(batch) = self.take(kcm.index, max - msgs, share, fx) else { break };
            msgs += batch.len();
            bytes += batch.bytes();
            out.extend(batch);
        }
        self.count_read(kcm, msgs, bytes, fx);
        Ok(msgs)
    }

    /// Takes the next batch: up to `max` messages (0 counts as 1) of one connection that
    /// arrived together.
    pub fn recv_batch(
        &mut self,
        kcm: KcmId,
        max: usize,
        fx: &mut Effects,
    ) -> Result<Batch, RecvError> {
        self.unread(kcm)?;
        let share = self.turns.batch;
        let batch = self.take(kcm.index, max, share, fx).ok_or(RecvError::WouldBlock)?;
        self.count_read(kcm, batch.len(), batch.bytes(), fx);
        Ok(batch)
    }

    /// Copies the next message into `buf`. What does not fit stays for the next call
    /// (SEQPACKET) or is dropped and reported (DGRAM, semantics E3). An empty `buf` takes
    /// nothing and reports the message's length (J4, exceeding E6). With `peek` the message
    /// stays as it is (E5).
    pub fn recv_into(
        &mut self,
        kcm: KcmId,
        buf: &mut [u8],
        peek: bool,
        fx: &mut Effects,
    ) -> Result<Received, RecvError> {
        let seqpacket = self.kind == SocketType::Seqpacket;
        let (turns, others) = (self.turns, self.others_parked(kcm.index));
        let k = self.unread(kcm)?;
        let Some((first, psock)) = k.rx.front().and_then(|b| Some((b.first()?, b.psock()))) else {
            return Err(RecvError::WouldBlock);
        };
        let len = first.len();
        let copied = len.min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..copied), first.get(..copied)) {
            to.copy_from_slice(from);
        }
        let mut received = Received { copied, len, end_of_record: false, truncated: false, psock };
        if peek || copied == 0 {
            return Ok(received);
        }
        let whole = copied == len || !seqpacket;
        received.end_of_record = whole;
        received.truncated = whole && copied < len;
        k.rx.advance(if whole { len } else { copied }, others, turns);
        self.taken(kcm.index, fx);
        // A cut message counts as read whole, so that the sums agree.
        self.count_read(kcm, usize::from(whole), if whole { len } else { copied }, fx);
        Ok(received)
    }

    /// The next message (or its unread rest), which stays (semantics E5).
    pub fn peek(&self, kcm: KcmId) -> Result<Message, RecvError> {
        let k = self.peek_kcm(kcm).ok_or(RecvError::Closed)?;
        match k.rx.front().cloned().and_then(|mut batch| batch.pop()) {
            Some(message) => Ok(message),
            None if self.no_psock_left() && k.options.end_with_psocks && k.lent_msgs == 0 => {
                Err(RecvError::NoPsockLeft)
            }
            None => Err(RecvError::WouldBlock),
        }
    }

    /// How many messages the next batch has; 0: none is there.
    pub fn next_len(&self, kcm: KcmId) -> usize {
        self.peek_kcm(kcm).and_then(|k| k.rx.front()).map_or(0, Batch::len)
    }

    /// Lends the next batch: as [`recv_batch`](Self::recv_batch), but its messages count as
    /// unread until [`settle`](Self::settle). With this a receiver takes message after
    /// message from a batch of its own without the lock, and the receive buffer is still
    /// measured right.
    ///
    /// No more than one turn is lent at a time, whether others wait or not: nobody is asked for
    /// it back when others come.
    pub fn lend(&mut self, kcm: KcmId, max: usize, fx: &mut Effects) -> Result<Batch, RecvError> {
        let share = self.turns.messages;
        let fits = self.unread(kcm)?.rx.front().map_or(1, |first| first.fits(share));
        let batch = self.take(kcm.index, max.min(fits), share, fx).ok_or(RecvError::WouldBlock)?;
        if let Some(k) = self.kcms.at_mut(kcm.index) {
            k.lent_msgs += batch.len();
            k.lent_bytes += batch.bytes();
        }
        self.lent_msgs += batch.len();
        self.lent_bytes += batch.bytes();
        Ok(batch)
    }

    /// Messages of what was lent have been read: `msgs` whole ones, `bytes` in all. Valid
    /// also after the socket was closed.
    pub fn settle(&mut self, kcm: KcmId, msgs: usize, bytes: usize, fx: &mut Effects) {
        self.lent_msgs = self.lent_msgs.saturating_sub(msgs);
        self.lent_bytes = self.lent_bytes.saturating_sub(bytes);
        if let Some(k) = self.kcms.get_mut(kcm.index, kcm.generation) {
            k.lent_msgs = k.lent_msgs.saturating_sub(msgs);
            k.lent_bytes = k.lent_bytes.saturating_sub(bytes);
        }
        self.count_read(kcm, msgs, bytes, fx);
    }

    /// Takes back the unread rest of what was lent; it goes to its old place in the order, or
    /// to another socket if this one is closed or receive-disabled. Settle first. To be
    /// called before the socket is closed or receive-disabled, so that these messages move
    /// with the others.
    pub fn give_back(&mut self, kcm: KcmId, rest: Batch, fx: &mut Effects) {
        let (msgs, bytes) = (rest.len(), rest.bytes());
        self.lent_msgs = self.lent_msgs.saturating_sub(msgs);
        self.lent_bytes = self.lent_bytes.saturating_sub(bytes);
        if let Some(k) = self.kcms.get_mut(kcm.index, kcm.generation) {
            k.lent_msgs = k.lent_msgs.saturating_sub(msgs);
            k.lent_bytes = k.lent_bytes.saturating_sub(bytes);
            if !k.disabled && k.closing.is_none() {
                if msgs > 0 {
                    fx.readable(k.id, msgs);
                }
                let gone = gone(&self.psocks, rest.psock());
                k.rx.insert_first(rest, gone, self.turns);
                return;
            }
        }
        let mut unread = RxQueue::default();
        unread.insert(rest);
        self.requeue(unread, fx);
    }

    /// How many more bytes may be read of a socket before it has to be told: a socket that is
    /// full takes messages again when it is read below its low water (semantics J15).
    pub fn slack(&self, kcm: KcmId) -> usize {
        match self.kcms.get(kcm.index, kcm.generation) {
            Some(k) if k.full => k.unread().saturating_sub(k.low_water()),
            _ => usize::MAX,
        }
    }

    /// A receive would return at once: with a message, with the end of all connections if it
    /// was asked for, or because the socket is closed.
    pub fn is_readable(&self, kcm: KcmId) -> bool {
        !matches!(self.peek(kcm), Err(RecvError::WouldBlock))
    }

    /// Takes over the stream parser's counters, for the statistics. A copy of a few words:
    /// call it with each batch and at the end. `missing` is how many bytes the message at the
    /// head still needs, if that is known.
    pub fn report_strp(&mut self, psock: PsockId, stats: &StrpStats, missing: Option<u64>) {
        if let Some(p) = self.psocks.get_mut(psock.index, psock.generation) {
            p.stats.set_strp(stats);
            p.missing = missing.and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        }
    }
}

/// Whether a connection that messages are of is no longer attached.
fn gone(psocks: &Slab<Psock>, psock: PsockId) -> bool {
    psocks.get(psock.index, psock.generation).is_none()
}
