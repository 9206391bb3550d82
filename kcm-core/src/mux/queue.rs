//! A send queue: a stream of bytes with marks where messages end.
//!
//! Small messages are copied into a common block, so that one slice carries hundreds of
//! them; large ones are kept as they came. Bytes after the last mark belong to the message
//! that is being built and are never written before it is marked.
//!
//! Positions are counted from the queue's first byte ever. Invariants:
//! `base <= written <= last mark <= end`; `base` begins the first message that is not out
//! whole; the kept bytes are exactly `base..end`.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use super::send::{Payload, TxWork};

/// Shared payloads up to this many bytes are copied into the common block: a slice of its
/// own costs the write more than the copy does.
pub(super) const COPY_SHARED: usize = 1024;
/// Borrowed payloads beyond this many bytes get a block of their own.
const COPY_BORROWED: usize = 16 * 1024;
/// The first common block, and the largest.
const FIRST_BLOCK: usize = 2 * 1024;
const LAST_BLOCK: usize = 64 * 1024;
/// Room for this many marks is kept while the queue is empty.
const KEPT_MARKS: usize = 1024;

#[derive(Debug)]
pub(super) struct SendQueue {
    /// `base..`, without the tail.
    segs: VecDeque<Bytes>,
    /// What follows `segs`, still growing.
    tail: BytesMut,
    block: usize,
    /// Where messages end; ascending, all above `base`.
    marks: VecDeque<u64>,
    base: u64,
    written: u64,
    end: u64,
}

impl Default for SendQueue {
    fn default() -> Self {
        SendQueue {
            segs: VecDeque::new(),
            tail: BytesMut::new(),
            block: FIRST_BLOCK,
            marks: VecDeque::new(),
            base: 0,
            written: 0,
            end: 0,
        }
    }
}

impl SendQueue {
    /// Messages not out whole.
    pub(super) fn msgs(&self) -> usize {
        self.marks.len()
    }

    /// Their bytes.
    pub(super) fn bytes(&self) -> usize {
        (self.last_mark() - self.base) as usize
    }

    pub(super) fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// Some bytes of the first message are out.
    pub(super) fn started(&self) -> bool {
        self.written > self.base
    }

    /// A message is being built.
    pub(super) fn is_open(&self) -> bool {
        self.end > self.last_mark()
    }

    /// Bytes of the message being built.
    pub(super) fn open_bytes(&self) -> usize {
        (self.end - self.last_mark()) as usize
    }

    /// Bytes of memory held.
    pub(super) fn memory(&self) -> usize {
        self.segs.iter().map(Bytes::len).sum::<usize>()
            + self.tail.capacity()
            + self.segs.capacity() * size_of::<Bytes>()
            + self.marks.capacity() * size_of::<u64>()
    }

    fn last_mark(&self) -> u64 {
        self.marks.back().copied().unwrap_or(self.base)
    }

    /// Adds bytes to the message being built.
    pub(super) fn append(&mut self, data: Payload<'_>) {
        let own_block = match &data {
            Payload::Borrowed(bytes) => bytes.len() > COPY_BORROWED,
            Payload::Shared(bytes) => bytes.len() > COPY_SHARED,
        };
        if own_block {
            self.seal();
            let bytes = match data {
                Payload::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
                Payload::Shared(bytes) => bytes,
            };
            self.end += bytes.len() as u64;
            self.segs.push_back(bytes);
            return;
        }
        let bytes: &[u8] = match &data {
            Payload::Borrowed(bytes) => bytes,
            Payload::Shared(bytes) => bytes,
        };
        if self.tail.capacity() - self.tail.len() < bytes.len() {
            self.seal();
            // A block that was written whole is used again.
            let block = self.block.max(bytes.len());
            if !self.tail.try_reclaim(block) {
                self.tail = BytesMut::with_capacity(block);
                self.block = (self.block * 2).min(LAST_BLOCK);
            }
        }
        self.tail.extend_from_slice(bytes);
        self.end += bytes.len() as u64;
    }

    /// Adds whole small messages, which end where `ends` says. A message that is being built ends
    /// with the first.
    pub(super) fn append_whole(&mut self, data: &[u8], ends: &[u32]) {
        let before = self.end;
        self.append(Payload::Borrowed(data));
        self.marks.extend(ends.iter().map(|&end| before + u64::from(end)));
    }

    /// Ends the message being built.
    pub(super) fn mark(&mut self) {
        if self.is_open() {
            self.marks.push_back(self.end);
        }
    }

    /// Ends the growth of the tail's current bytes.
    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.segs.push_back(self.tail.split().freeze());
        }
    }

    /// What to write next: whole messages, from the first byte that is not out. Stops after
    /// `max_bufs` slices or when there are `max_bytes`. With `one`, only (the rest of) the
    /// first message.
    pub(super) fn fill(&mut self, max_bufs: usize, max_bytes: usize, one: bool, work: &mut TxWork) {
        work.bufs.clear();
        work.bytes = 0;
        let sealed = self.end - self.tail.len() as u64;
        let last = self.last_mark();
        if last > sealed {
            let marked = (last - sealed) as usize;
            self.segs.push_back(self.tail.split_to(marked).freeze());
        }
        let last = if one { self.marks.front().copied().unwrap_or(last) } else { last };
        let mut skip = (self.written - self.base) as usize;
        let mut left = (last - self.written) as usize;
        for seg in &self.segs {
            if left == 0 || work.bufs.len() == max_bufs.max(1) || work.bytes >= max_bytes {
                break;
            }
            if skip >= seg.len() {
                skip -= seg.len();
                continue;
            }
            let slice = seg.slice(skip..seg.len().min(skip + left));
            skip = 0;
            left -= slice.len();
            work.bytes += slice.len();
            work.bufs.push(slice);
        }
    }

    /// `n` more bytes are out; returns how many messages that completed, and their bytes.
    pub(super) fn done(&mut self, n: usize) -> (usize, usize) {
        self.written = (self.written + n as u64).min(self.last_mark());
        let whole = self.marks.partition_point(|&mark| mark <= self.written);
        let Some(base) = whole.checked_sub(1).and_then(|last| self.marks.get(last)).copied() else {
            return (0, 0);
        };
        self.marks.drain(..whole);
        let bytes = (base - self.base) as usize;
        self.base = base;
        self.discard(bytes);
        if self.marks.is_empty() && self.marks.capacity() > KEPT_MARKS {
            // What only a burst needed.
            self.marks = VecDeque::new();
            self.segs.shrink_to(8);
        }
        (whole, bytes)
    }

    /// The first message begins again from its first byte. True if any of it was out.
    pub(super) fn rewind(&mut self) -> bool {
        let started = self.started();
        self.written = self.base;
        started
    }

    /// Drops the message being built and all messages but one that is partly out; returns
    /// how many whole messages that were, and their bytes.
    pub(super) fn drop_unstarted(&mut self) -> (usize, usize) {
        let (msgs, bytes) = (self.msgs(), self.bytes());
        let keep = usize::from(self.started());
        self.marks.truncate(keep);
        // The bytes beyond the last mark stay unused until the queue is dropped or empty;
        // they are cut off here so that nothing can be appended to them.
        let last = self.last_mark();
        let mut cut = (self.end - last) as usize;
        let from_tail = cut.min(self.tail.len());
        self.tail.truncate(self.tail.len() - from_tail);
        cut -= from_tail;
        while cut > 0 {
            let Some(seg) = self.segs.back_mut() else { break };
            if seg.len() <= cut {
                cut -= seg.len();
                self.segs.pop_back();
            } else {
                seg.truncate(seg.len() - cut);
                cut = 0;
            }
        }
        self.end = last;
        (msgs - self.msgs(), bytes - self.bytes())
    }

    /// Forgets `n` bytes at the front.
    fn discard(&mut self, mut n: usize) {
        while n > 0 {
            let Some(seg) = self.segs.front_mut() else { break };
            if seg.len() <= n {
                n -= seg.len();
                self.segs.pop_front();
            } else {
                seg.advance(n);
                n = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(work: &TxWork) -> Vec<u8> {
        work.bufs.iter().flat_map(|b| b.to_vec()).collect()
    }

    #[test]
    fn small_messages_leave_in_one_slice_and_the_open_one_stays() {
        let mut queue = SendQueue::default();
        for message in [&b"one"[..], b"two", b"three"] {
            queue.append(message.into());
            queue.mark();
        }
        queue.append(b"open"[..].into());
        let mut work = TxWork::default();
        queue.fill(8, 1 << 20, false, &mut work);
        assert_eq!((work.bufs.len(), text(&work)), (1, b"onetwothree".to_vec()));
        assert_eq!(queue.done(4), (1, 3));
        assert!(queue.started() && queue.is_open());
        assert!(queue.rewind());
        queue.fill(8, 1 << 20, false, &mut work);
        assert_eq!(text(&work), b"twothree");
        assert_eq!(queue.done(8), (2, 8));
        assert_eq!((queue.msgs(), queue.bytes(), queue.is_open()), (0, 0, true));
        queue.append(b"ed"[..].into());
        queue.mark();
        queue.fill(8, 1 << 20, false, &mut work);
        assert_eq!(text(&work), b"opened");
    }

    #[test]
    fn a_large_shared_payload_is_not_copied() {
        let large = Bytes::from(vec![7u8; 1 << 20]);
        let mut queue = SendQueue::default();
        queue.append(large.clone().into());
        queue.mark();
        let mut work = TxWork::default();
        queue.fill(8, 1 << 20, false, &mut work);
        assert_eq!(work.bufs[0].as_ptr(), large.as_ptr());
    }

    #[derive(Clone, Debug)]
    enum Op {
        Append(usize, bool),
        Mark,
        Write { bufs: usize, bytes: usize, take: usize },
        Rewind,
        Drop,
    }

    fn op() -> impl Strategy<Value = Op> {
        let size = prop_oneof![4 => 0usize..40, 1 => 900usize..1200, 1 => 15_000usize..40_000];
        prop_oneof![
            6 => (size, any::<bool>()).prop_map(|(n, shared)| Op::Append(n, shared)),
            6 => Just(Op::Mark),
            4 => (1usize..4, 1usize..5000, 0usize..6000).prop_map(|(bufs, bytes, take)| Op::Write { bufs, bytes, take }),
            1 => Just(Op::Rewind),
            1 => Just(Op::Drop),
        ]
    }

    proptest! {
        /// Against a plain list of messages and a count of bytes that are out.
        #[test]
        fn what_is_written_is_the_messages_in_order(ops in prop::collection::vec(op(), 0..120)) {
            let mut queue = SendQueue::default();
            let mut messages: VecDeque<Vec<u8>> = VecDeque::new();
            let mut open: Vec<u8> = Vec::new();
            let mut out = 0;
            let mut stamp = 0u8;
            let mut work = TxWork::default();
            for op in ops {
                match op {
                    Op::Append(n, shared) => {
                        stamp = stamp.wrapping_add(1);
                        let bytes = vec![stamp; n];
                        open.extend(&bytes);
                        if shared { queue.append(Bytes::from(bytes).into()) } else { queue.append(bytes[..].into()) }
                    }
                    Op::Mark => {
                        queue.mark();
                        if !open.is_empty() { messages.push_back(std::mem::take(&mut open)); }
                    }
                    Op::Write { bufs, bytes, take } => {
                        queue.fill(bufs, bytes, false, &mut work);
                        let all: Vec<u8> = messages.iter().flatten().skip(out).copied().collect();
                        prop_assert!(work.bufs.len() <= bufs);
                        prop_assert_eq!(work.bytes == 0, all.is_empty());
                        let got = text(&work);
                        prop_assert_eq!(got.len(), work.bytes);
                        prop_assert!(all.starts_with(&got));
                        let n = take.min(work.bytes);
                        let (msgs, _) = queue.done(n);
                        out += n;
                        let mut popped = 0;
                        while messages.front().is_some_and(|m| m.len() <= out) {
                            out -= messages.pop_front().map_or(0, |m| m.len());
                            popped += 1;
                        }
                        prop_assert_eq!(msgs, popped);
                    }
                    Op::Rewind => {
                        prop_assert_eq!(queue.rewind(), out > 0);
                        out = 0;
                    }
                    Op::Drop => {
                        let keep = usize::from(out > 0);
                        let dropped = messages.len() - keep.min(messages.len());
                        prop_assert_eq!(queue.drop_unstarted().0, dropped);
                        messages.truncate(keep);
                        open.clear();
                    }
                }
                prop_assert_eq!(queue.msgs(), messages.len());
                prop_assert_eq!(queue.bytes(), messages.iter().map(Vec::len).sum::<usize>());
                prop_assert_eq!(queue.started(), out > 0);
                prop_assert_eq!(queue.is_open(), !open.is_empty());
            }
        }
    }
}
