//! Blocks that connections read into, shared by all connections of one multiplexor.

use std::collections::VecDeque;

use bytes::BytesMut;

/// The size of a block, in bytes: what one read may bring. Half of it makes twice the calls,
/// and with them twice the acknowledgements, which cost the receiving side most; twice of it
/// falls out of the cache before the messages are read.
pub const BLOCK: usize = 128 * 1024;
/// A block with less room than this is not read into any more.
pub(super) const LEAST_READ: usize = BLOCK / 4;
/// Blocks kept in all; beyond, they go back to the system as soon as their readers are done.
pub const KEEP: usize = 16;

/// Blocks that are not being read into: those with room left, and those that are full and
/// perhaps still read by somebody.
///
/// A connection takes one when it is readable and gives the rest of it back when it has read
/// all there is, so there are never more of them in use than connections read at the same
/// time, and a block takes many small reads of many connections. A block is used again when
/// its last message was dropped: it is in the cache and known to the system, where a fresh
/// one costs a page fault for each 4 KiB. So is the buffer of a message longer than a block: of
/// what receiving messages of 256 KiB cost, page faults and giving the pages back were 45 %.
///
/// **Memory.** At most [`KEEP`] × [`BLOCK`] bytes (2 MiB) that nobody else holds; none
/// once [`tidy`](Self::tidy) was called twice without a use between.
#[derive(Debug, Default)]
pub struct Blocks {
    /// With room for more, the last used last.
    open: Vec<BytesMut>,
    /// Without, the oldest first.
    full: VecDeque<BytesMut>,
    /// Of one message longer than a block each, and their sizes; the oldest first.
    large: VecDeque<(usize, BytesMut)>,
    /// Taken since the last tidying.
    used: bool,
    /// Somebody has promised to tidy.
    watched: bool,
}

impl Blocks {
    /// A block with room for at least `least` bytes, which is at most [`BLOCK`].
    pub(super) fn take(&mut self, least: usize) -> BytesMut {
        self.used = true;
        let fits = |b: &mut BytesMut| b.capacity() >= least || b.try_reclaim(BLOCK);
        if let Some(at) = self.open.iter_mut().rposition(fits) {
            return self.open.remove(at);
        }
        for _ in 0..self.full.len() {
            let Some(mut block) = self.full.pop_front() else { break };
            if block.try_reclaim(BLOCK) {
                return block;
            }
            self.full.push_back(block);
        }
        BytesMut::with_capacity(BLOCK)
    }

    /// Takes back what is left of a block; what is in it is forgotten.
    pub(super) fn give(&mut self, mut block: BytesMut) {
        block.clear();
        match block.capacity() >= LEAST_READ {
            true => self.open.push(block),
            false => self.full.push_back(block),
        }
        self.keep();
    }

    /// A buffer for at least `least` bytes, more than [`BLOCK`]; and its size, which is at most
    /// twice that.
    pub(super) fn take_large(&mut self, least: usize) -> (usize, BytesMut) {
        self.used = true;
        let fits = |(size, buf): &mut (usize, BytesMut)| {
            (least..=2 * least).contains(size) && buf.try_reclaim(least)
        };
        let at = self.large.iter_mut().rposition(fits);
        match at.and_then(|at| self.large.remove(at)) {
            Some(kept) => kept,
            None => (least, BytesMut::with_capacity(least)),
        }
    }

    /// Takes back what is left of a buffer from [`take_large`](Self::take_large).
    pub(super) fn give_large(&mut self, size: usize, mut buf: BytesMut) {
        if size <= KEEP * BLOCK {
            buf.clear();
            self.large.push_back((size, buf));
            self.keep();
        }
    }

    /// Lets what is too much go.
    fn keep(&mut self) {
        while self.memory() > KEEP * BLOCK && self.forget() {}
    }

    /// Lets one go, the oldest first and those first that may be in use; where there are both,
    /// blocks and large buffers have half of the memory each. False: there is none.
    fn forget(&mut self) -> bool {
        let blocks = self.open.len() + self.full.len();
        if blocks == 0 || self.large_memory() > KEEP * BLOCK / 2 {
            self.large.pop_front().is_some()
        } else {
            if self.full.pop_front().is_none() {
                self.open.remove(0);
            }
            true
        }
    }

    fn large_memory(&self) -> usize {
        self.large.iter().map(|(size, _)| size).sum()
    }

    fn len(&self) -> usize {
        self.open.len() + self.full.len() + self.large.len()
    }

    /// True if there is something that should be [`tidied`](Self::tidy) in a while, and
    /// nobody knows yet: who is told so, is to do it.
    pub fn watch(&mut self) -> bool {
        let news = !self.watched && self.len() > 0;
        self.watched |= news;
        news
    }

    /// Gives back memory that was not needed since the last call: all of it if none was
    /// used, else half of what is there. To be called now and then; false: not before
    /// [`watch`](Self::watch) says so.
    pub fn tidy(&mut self) -> bool {
        let keep = if std::mem::take(&mut self.used) { self.len() / 2 } else { 0 };
        while self.len() > keep && self.forget() {}
        self.watched = self.len() > 0;
        self.watched
    }

    /// Who had promised to tidy cannot any more: gives everything back.
    pub fn abandon(&mut self) {
        *self = Blocks::default();
    }

    /// Bytes of memory that nobody else holds, at most.
    pub fn memory(&self) -> usize {
        (self.open.len() + self.full.len()) * BLOCK + self.large_memory()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_takes_many_reads_and_is_used_again_when_its_readers_are_done() {
        let mut blocks = Blocks::default();
        let mut block = blocks.take(1);
        let at = block.as_ptr();
        block.extend_from_slice(&[1; 1000]);
        let first = block.split_to(1000).freeze();
        blocks.give(block);
        let mut block = blocks.take(1);
        assert_eq!(block.as_ptr() as usize - at as usize, 1000, "what is left of the same");
        block.extend_from_slice(&vec![2; BLOCK - 2000]);
        let second = block.split_to(BLOCK - 2000).freeze();
        blocks.give(block);
        let other = blocks.take(1);
        assert!(!(at..at.wrapping_add(BLOCK)).contains(&other.as_ptr()), "still read");
        assert_eq!((first[0], second[0]), (1, 2));
        drop((first, second));
        assert_eq!(blocks.take(BLOCK).as_ptr(), at);
        assert_eq!(blocks.memory(), 0);
    }

    #[test]
    fn the_buffer_of_a_large_message_is_used_again_when_its_readers_are_done() {
        let mut blocks = Blocks::default();
        let (size, mut buf) = blocks.take_large(3 * BLOCK);
        let at = buf.as_ptr();
        buf.extend_from_slice(&vec![1; 3 * BLOCK]);
        let message = buf.split_to(3 * BLOCK).freeze();
        blocks.give_large(size, buf);
        assert_eq!(blocks.memory(), 3 * BLOCK);
        let (_, other) = blocks.take_large(2 * BLOCK);
        assert!(!(at..at.wrapping_add(3 * BLOCK)).contains(&other.as_ptr()), "still read");
        assert!(message.iter().all(|&byte| byte == 1));
        drop(message);
        assert_ne!(blocks.take_large(4 * BLOCK).1.as_ptr(), at, "too small");
        assert_ne!(blocks.take_large(BLOCK + 1).1.as_ptr(), at, "too large");
        let (size, buf) = blocks.take_large(2 * BLOCK);
        assert_eq!((size, buf.as_ptr(), buf.capacity() >= 2 * BLOCK), (3 * BLOCK, at, true));
        assert_eq!(blocks.memory(), 0);
    }

    #[test]
    fn large_buffers_count_among_the_memory_that_is_kept() {
        let mut blocks = Blocks::default();
        for _ in 0..KEEP {
            let block = BytesMut::with_capacity(BLOCK);
            blocks.give(block);
        }
        for size in [3 * BLOCK, KEEP * BLOCK + 1, KEEP * BLOCK] {
            let buf = BytesMut::with_capacity(size);
            blocks.give_large(size, buf);
            assert!(blocks.memory() <= KEEP * BLOCK);
            assert!(!blocks.open.is_empty());
        }
        for _ in 0..4 {
            blocks.give_large(3 * BLOCK, BytesMut::with_capacity(3 * BLOCK));
        }
        assert_eq!((blocks.large.len(), blocks.open.len()), (2, KEEP - 6), "half of it each");
        blocks.used = true;
        while blocks.tidy() {}
        assert_eq!(blocks.memory(), 0);
    }

    #[test]
    fn no_more_blocks_are_kept_than_the_limit_and_none_that_are_not_used() {
        let mut blocks = Blocks::default();
        assert!(!blocks.watch(), "nothing to watch");
        let out: Vec<BytesMut> = (0..3 * KEEP).map(|_| blocks.take(1)).collect();
        out.into_iter().for_each(|b| blocks.give(b));
        assert_eq!(blocks.memory(), KEEP * BLOCK);
        assert!(blocks.watch() && !blocks.watch(), "one is enough");
        assert!(blocks.tidy());
        assert_eq!(blocks.memory(), KEEP / 2 * BLOCK);
        assert!(!blocks.tidy());
        assert_eq!(blocks.memory(), 0);
        let block = blocks.take(1);
        blocks.give(block);
        assert!(blocks.watch());
    }
}
