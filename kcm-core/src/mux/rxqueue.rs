//! A queue of received batches in arrival order, with its size.

use std::collections::VecDeque;

use crate::message::Batch;

/// For how many batches an empty queue keeps room.
const KEPT: usize = 64;

/// The queue of a connection that is hardly ever parked: nothing, while it is empty.
#[derive(Debug, Default)]
pub(super) struct Parked(Option<Box<RxQueue>>);

impl Parked {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn msgs(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| queue.msgs())
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| queue.bytes())
    }

    pub(super) fn memory(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| queue.memory() + size_of::<RxQueue>())
    }

    pub(super) fn front(&self) -> Option<&Batch> {
        self.0.as_ref()?.front()
    }

    pub(super) fn insert(&mut self, batch: Batch) {
        if !batch.is_empty() {
            self.0.get_or_insert_default().insert(batch);
        }
    }

    pub(super) fn pop(&mut self, max: usize) -> Option<Batch> {
        let batch = self.0.as_mut()?.pop(max);
        self.0.take_if(|queue| queue.is_empty());
        batch
    }

    pub(super) fn take(&mut self) -> RxQueue {
        self.0.take().map_or_else(RxQueue::default, |queue| *queue)
    }

    /// Keeps what is left of the queue that was taken.
    pub(super) fn put(&mut self, queue: RxQueue) {
        self.0 = (!queue.is_empty()).then(|| Box::new(queue));
    }

    #[cfg(test)]
    pub(super) fn is_sound(&self) -> bool {
        self.0.as_ref().is_none_or(|queue| queue.is_sound() && !queue.is_empty())
    }
}

/// Batches, ascending by arrival stamp; none is empty.
#[derive(Debug, Default)]
pub(super) struct RxQueue {
    batches: VecDeque<Batch>,
    msgs: usize,
    bytes: usize,
}

impl RxQueue {
    pub(super) fn msgs(&self) -> usize {
        self.msgs
    }

    /// Unread payload bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of memory held: the messages', their marks', the queue's. Blocks may be longer than
    /// the messages in them that are still unread, as `strparser` says by how much.
    pub(super) fn memory(&self) -> usize {
        self.bytes + self.msgs * size_of::<u32>() + self.batches.capacity() * size_of::<Batch>()
    }

    /// In order, without empty batches, and the sizes are right.
    #[cfg(test)]
    pub(super) fn is_sound(&self) -> bool {
        self.batches.iter().is_sorted_by(|a, b| a.order() < b.order())
            && self.batches.iter().all(|b| !b.is_empty())
            && self.msgs == self.batches.iter().map(Batch::len).sum::<usize>()
            && self.bytes == self.batches.iter().map(Batch::bytes).sum::<usize>()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    pub(super) fn front(&self) -> Option<&Batch> {
        self.batches.front()
    }

    /// Puts a batch to its place in the arrival order: the end, except for what moved.
    pub(super) fn insert(&mut self, batch: Batch) {
        if batch.is_empty() {
            return;
        }
        self.msgs += batch.len();
        self.bytes += batch.bytes();
        match self.batches.back() {
            Some(last) if last.order() > batch.order() => {
                let at = self.batches.partition_point(|b| b.order() < batch.order());
                self.batches.insert(at, batch);
            }
            _ => self.batches.push_back(batch),
        }
    }

    /// Merges another queue in, by arrival order, in one walk over both.
    pub(super) fn merge(&mut self, mut other: RxQueue) {
        let overlap = match (self.batches.back(), other.batches.front()) {
            (Some(last), Some(first)) => last.order() > first.order(),
            _ => false,
        };
        if !overlap {
            self.msgs += other.msgs;
            self.bytes += other.bytes;
            self.batches.append(&mut other.batches);
            return;
        }
        let mut merged = RxQueue {
            batches: VecDeque::with_capacity(self.batches.len() + other.batches.len()),
            ..RxQueue::default()
        };
        loop {
            let ours = match (self.batches.front(), other.batches.front()) {
                (Some(a), Some(b)) => a.order() < b.order(),
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => break,
            };
            let from = if ours { &mut self.batches } else { &mut other.batches };
            if let Some(batch) = from.pop_front() {
                merged.insert(batch);
            }
        }
        *self = merged;
    }

    /// Takes up to `max` messages of the first batch.
    pub(super) fn pop(&mut self, max: usize) -> Option<Batch> {
        let first = self.batches.front_mut()?;
        let taken =
            if first.len() <= max { self.batches.pop_front()? } else { first.split_to(max) };
        self.msgs -= taken.len();
        self.bytes -= taken.bytes();
        self.tidy();
        Some(taken)
    }

    /// An empty queue keeps room for a few batches, not for the largest burst ever.
    fn tidy(&mut self) {
        if self.batches.is_empty() && self.batches.capacity() > KEPT {
            self.batches = VecDeque::new();
        }
    }

    /// Takes from the front what a receiver accepts that takes one more message as long as
    /// it holds less than `room` bytes of them (semantics C4).
    pub(super) fn take_fitting(&mut self, room: usize) -> RxQueue {
        let mut taken = RxQueue::default();
        while taken.bytes < room {
            let Some(first) = self.batches.front() else { break };
            let n = first.fits(room - taken.bytes);
            match self.pop(n) {
                Some(batch) => taken.insert(batch),
                None => break,
            }
        }
        taken
    }

    pub(super) fn into_batches(self) -> Vec<Batch> {
        self.batches.into()
    }

    /// Takes everything, leaving an empty queue.
    pub(super) fn take(&mut self) -> RxQueue {
        std::mem::take(self)
    }
}
