//! What a KCM socket has not read yet, in arrival order, but so that no connection keeps the
//! others waiting.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasherDefault, Hasher},
};

use super::rxqueue::RxQueue;
use crate::message::{Batch, Message, PsockId};

/// For how many batches an empty queue keeps room.
const KEPT: usize = 64;

/// How much of one connection is served before others who wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turns {
    /// A connection with so many bytes in line gets no further: what comes then stands behind
    /// its own, and gets in line when that is read.
    pub(super) line: usize,
    /// One batch is read so far in one turn when it is taken whole ...
    pub(super) batch: usize,
    /// ... and so far when it is taken message by message, where each costs more than twice as much.
    pub(super) messages: usize,
}

impl Default for Turns {
    /// Some tens of microseconds of a worker's time, at 64 bytes a message.
    fn default() -> Self {
        Turns { line: 16 * 1024, batch: 64 * 1024, messages: 16 * 1024 }
    }
}

#[cfg(test)]
impl Turns {
    pub(super) fn all(bytes: usize) -> Self {
        Turns { line: bytes, batch: bytes, messages: bytes }
    }
}

/// Batches of many connections, none empty. Those of one connection are in the order in which
/// they came, always. Those of different ones are too, as long as none has more than
/// [`Turns::line`] bytes unread here; what it has beyond that comes after what the others had
/// in line by then. So the next message of a connection with nothing here waits for at most
/// `line + batch` bytes, and one message more, of each other.
///
/// A connection that is no longer attached takes no turns: all it left is read before what comes
/// later, which may be the same stream's, attached again.
///
/// Costs one look into a hash table per batch put in and per batch taken.
#[derive(Debug, Default)]
pub(super) struct FairQueue {
    /// To be served in this order.
    line: VecDeque<Batch>,
    /// Of each connection that has something in line; in no order.
    flows: HashMap<PsockId, Flow, BuildHasherDefault<IdHasher>>,
    msgs: usize,
    bytes: usize,
    /// Batches that are not in line.
    behind: usize,
    /// Connections that are no longer attached.
    gone: usize,
    /// Bytes read of the batch in front since it is there.
    turn: usize,
    /// A connection had its turn and has more; told once.
    passed: bool,
    /// Nothing that was put in since the queue was empty came later.
    latest: (u64, u32),
}

/// One connection's part of the queue.
#[derive(Debug, Default)]
struct Flow {
    /// Its bytes in line; not 0.
    in_line: usize,
    /// What came after those.
    behind: VecDeque<Batch>,
    /// Nothing of it came later.
    latest: (u64, u32),
    /// It is no longer attached: all of it is in line, and stays where it is.
    gone: bool,
}

impl FairQueue {
    pub(super) fn msgs(&self) -> usize {
        self.msgs
    }

    /// Unread payload bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// Something of this connection is unread here.
    pub(super) fn holds(&self, psock: PsockId) -> bool {
        self.flows.contains_key(&psock)
    }

    /// Bytes of memory held, as [`RxQueue::memory`] counts them.
    pub(super) fn memory(&self) -> usize {
        self.bytes
            + self.msgs * size_of::<u32>()
            + (self.line.capacity() + self.behind) * size_of::<Batch>()
            + self.flows.capacity() * size_of::<(PsockId, Flow)>()
    }

    /// What is served next.
    pub(super) fn front(&self) -> Option<&Batch> {
        self.line.front()
    }

    /// A connection is no longer attached: what it has here is read before all that comes now.
    pub(super) fn leave(&mut self, psock: PsockId) {
        let Some(flow) = self.flows.get_mut(&psock) else { return };
        self.gone += usize::from(!std::mem::replace(&mut flow.gone, true));
        for batch in flow.behind.drain(..) {
            self.behind -= 1;
            flow.in_line += batch.bytes();
            self.line.push_back(batch);
        }
    }

    /// Something is unread of a connection that is no longer attached.
    pub(super) fn holds_gone(&self) -> bool {
        self.gone > 0
    }

    /// Puts in what a connection has brought.
    pub(super) fn insert(&mut self, batch: Batch, turns: Turns) {
        if batch.is_empty() {
            return;
        }
        let order = batch.order();
        let flow = self.flows.entry(batch.psock()).or_default();
        if order < flow.latest {
            self.rebuild([batch], turns, |_| false);
            return;
        }
        flow.latest = order;
        self.latest = self.latest.max(order);
        self.msgs += batch.len();
        self.bytes += batch.bytes();
        if flow.gone || flow.behind.is_empty() && flow.in_line < turns.line {
            flow.in_line += batch.bytes();
            self.line.push_back(batch);
        } else {
            flow.behind.push_back(batch);
            self.behind += 1;
        }
    }

    /// Puts in what is to be served at once: what was taken from the front and not read, or the
    /// turn of a connection that had nothing here. `gone`: it is no longer attached.
    pub(super) fn insert_first(&mut self, batch: Batch, gone: bool, turns: Turns) {
        if batch.is_empty() {
            return;
        }
        let (psock, order) = (batch.psock(), batch.order());
        let older = |b: &Batch| b.psock() == psock && b.order() < order;
        if self.holds(psock) && self.line.iter().any(older) {
            self.rebuild([batch], turns, |other| gone && other == psock);
            return;
        }
        let flow = self.flows.entry(psock).or_default();
        if gone && !flow.gone {
            flow.gone = true;
            self.gone += 1;
        }
        flow.in_line += batch.bytes();
        flow.latest = flow.latest.max(order);
        self.latest = self.latest.max(order);
        self.msgs += batch.len();
        self.bytes += batch.bytes();
        self.turn = 0;
        self.line.push_front(batch);
    }

    /// Merges messages in that moved, by arrival. `gone` says of which connections they are that
    /// are no longer attached.
    pub(super) fn merge(&mut self, moved: RxQueue, turns: Turns, gone: impl Fn(PsockId) -> bool) {
        let late = |first: &Batch| !self.is_empty() && first.order() < self.latest;
        if moved.front().is_some_and(late) {
            self.rebuild(moved.into_batches(), turns, gone);
        } else {
            self.insert_all(moved.into_batches(), turns, gone);
        }
    }

    /// Puts in what moved, which is in order.
    fn insert_all(
        &mut self,
        moved: impl IntoIterator<Item = Batch>,
        turns: Turns,
        gone: impl Fn(PsockId) -> bool,
    ) {
        for batch in moved {
            let psock = batch.psock();
            self.insert(batch, turns);
            if gone(psock) {
                self.leave(psock);
            }
        }
    }

    /// Takes up to `max` messages of the first batch, and, if others wait (here, or as `others`
    /// says), not more of it than is left of a turn of `share` bytes.
    pub(super) fn pop(
        &mut self,
        max: usize,
        share: usize,
        others: bool,
        turns: Turns,
    ) -> Option<Batch> {
        let shared = others || self.flows.len() > 1;
        let turn = self.turn;
        let first = self.line.front_mut()?;
        let n = match shared {
            true => first.fits(share.saturating_sub(turn).max(1)).min(max),
            false => max,
        };
        let whole = n >= first.len();
        let taken = if whole { self.line.pop_front()? } else { first.split_to(n.max(1)) };
        self.msgs -= taken.len();
        self.took(taken.psock(), taken.bytes(), whole, shared.then_some(share), turns);
        Some(taken)
    }

    /// Takes the first message, with one reference count for it.
    pub(super) fn pop_message(&mut self, others: bool, turns: Turns) -> Option<Message> {
        let first = self.line.front_mut()?;
        let message = first.pop()?;
        let whole = first.is_empty();
        self.msgs -= 1;
        self.read(message.psock(), message.len(), whole, others, turns);
        Some(message)
    }

    /// Marks `n` bytes of the first message as read.
    pub(super) fn advance(&mut self, n: usize, others: bool, turns: Turns) {
        let Some(first) = self.line.front_mut() else { return };
        let (psock, before) = (first.psock(), first.bytes());
        let message = first.advance(n);
        let (bytes, whole) = (before - first.bytes(), first.is_empty());
        self.msgs -= usize::from(message);
        self.read(psock, bytes, whole, others, turns);
    }

    /// Something was taken of the first message; with `whole`, of the batch nothing is left.
    fn read(&mut self, psock: PsockId, bytes: usize, whole: bool, others: bool, turns: Turns) {
        if whole {
            self.line.pop_front();
        }
        let shared = others || self.flows.len() > 1;
        self.took(psock, bytes, whole, shared.then_some(turns.messages), turns);
    }

    /// Something was taken of the batch in front; with `whole`, that was its rest, and another
    /// is in front. `share` is told if others wait.
    fn took(
        &mut self,
        psock: PsockId,
        bytes: usize,
        whole: bool,
        share: Option<usize>,
        turns: Turns,
    ) {
        self.bytes -= bytes;
        self.turn += bytes;
        let Some(flow) = self.flows.get_mut(&psock) else { return };
        flow.in_line -= bytes;
        if whole {
            self.turn = 0;
            self.passed |= !flow.behind.is_empty();
            while flow.in_line < turns.line
                && let Some(next) = flow.behind.pop_front()
            {
                self.behind -= 1;
                flow.in_line += next.bytes();
                self.line.push_back(next);
            }
            if flow.in_line == 0 {
                self.gone -= usize::from(flow.gone);
                self.flows.remove(&psock);
                self.tidy();
            }
        } else if !flow.gone
            && share.is_some_and(|share| self.turn >= share)
            // Not past what came after it, nor inside a message.
            && self.line.front().is_some_and(|b| b.bytes() == flow.in_line && !b.is_begun())
            && let Some(rest) = self.line.pop_front()
        {
            self.turn = 0;
            self.passed = true;
            self.line.push_back(rest);
        }
    }

    /// True once after a connection had its turn and has more.
    pub(super) fn has_passed(&mut self) -> bool {
        std::mem::take(&mut self.passed)
    }

    /// The first message was read in part.
    pub(super) fn is_begun(&self) -> bool {
        self.line.front().is_some_and(Batch::is_begun)
    }

    /// Takes everything, by arrival.
    pub(super) fn take(&mut self) -> RxQueue {
        let mut all = RxQueue::default();
        self.drain().into_iter().for_each(|batch| all.insert(batch));
        all
    }

    /// Takes everything, by arrival, and leaves an empty queue.
    fn drain(&mut self) -> Vec<Batch> {
        let mut all = Vec::from(std::mem::take(&mut self.line));
        for at in 0..all.len() {
            // Who has something behind has something in line.
            let flow = all.get(at).and_then(|batch| self.flows.remove(&batch.psock()));
            all.extend(flow.into_iter().flat_map(|flow| flow.behind));
        }
        all.sort_by_key(Batch::order);
        *self = FairQueue::default();
        all
    }

    /// Puts everything in again by arrival, together with what moved: that is rare.
    fn rebuild(
        &mut self,
        moved: impl IntoIterator<Item = Batch>,
        turns: Turns,
        gone: impl Fn(PsockId) -> bool,
    ) {
        let left: Vec<PsockId> =
            self.flows.iter().filter(|(_, flow)| flow.gone).map(|(psock, _)| *psock).collect();
        let mut all = self.drain();
        all.extend(moved);
        all.sort_by_key(Batch::order);
        self.insert_all(all, turns, |psock| left.contains(&psock) || gone(psock));
    }

    /// An empty queue keeps room for a few batches, not for the largest burst ever.
    fn tidy(&mut self) {
        if self.line.is_empty() {
            if self.line.capacity() > KEPT {
                self.line = VecDeque::new();
            }
            if self.flows.capacity() > KEPT {
                self.flows = HashMap::default();
            }
        }
    }

    /// The sizes are right, each connection's batches in order, and none is forgotten.
    #[cfg(test)]
    pub(super) fn is_sound(&self) -> bool {
        let mut of: std::collections::BTreeMap<PsockId, Vec<&Batch>> = Default::default();
        self.line.iter().for_each(|b| of.entry(b.psock()).or_default().push(b));
        let in_order = of.len() == self.flows.len()
            && of.iter().all(|(psock, line)| {
                let flow = &self.flows[psock];
                flow.in_line == line.iter().map(|b| b.bytes()).sum::<usize>()
                    && line.iter().copied().chain(&flow.behind).is_sorted_by_key(|b| b.order())
            });
        let all = || self.line.iter().chain(of.keys().flat_map(|p| &self.flows[p].behind));
        in_order
            && all().all(|b| !b.is_empty() && b.order().0 <= self.latest.0)
            && self.behind == all().count() - self.line.len()
            && self.gone == self.flows.values().filter(|flow| flow.gone).count()
            && self.flows.values().all(|flow| !flow.gone || flow.behind.is_empty())
            && self.msgs == all().map(Batch::len).sum::<usize>()
            && self.bytes == all().map(Batch::bytes).sum::<usize>()
    }
}

/// Names of connections are small numbers, the lowest that are free: any mixing will do.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        // The table looks at both ends.
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&b| self.write_u32(b.into()));
    }

    fn write_u32(&mut self, n: u32) {
        self.0 = (self.0.rotate_left(5) ^ u64::from(n)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}
