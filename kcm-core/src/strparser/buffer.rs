//! The assembly buffer: how large blocks are, when they are shared, and when not.

use bytes::{Buf, Bytes, BytesMut};

/// The smallest block, in bytes: what a connection with little traffic reads into.
pub const MIN_BLOCK: usize = 4 * 1024;
/// The largest block that is not for one message alone, in bytes. Larger ones cost more in
/// cache misses than they save in calls.
pub const MAX_BLOCK: usize = 64 * 1024;
/// Batches of at most this many bytes are copied out of the block, which costs no more than
/// sharing it and leaves it whole for the next read.
pub const COPY_LIMIT: usize = 1024;
/// A length named by the peer is believed up to this many bytes; beyond, room is made as the
/// bytes come, for at most twice of what has come. A few header bytes reserve no gigabyte.
pub const BELIEVED: usize = 4 * 1024 * 1024;
/// After a large message, room for the next one's start behind its expected end.
const LOOKAHEAD: usize = 4 * 1024;
/// Reads that leave three quarters of their room empty, in a row, before blocks shrink.
const PATIENCE: u8 = 8;

/// Bytes of one connection from a message's first byte on.
#[derive(Debug)]
pub(super) struct Assembly {
    buf: BytesMut,
    /// The size of the next block, `MIN_BLOCK..=MAX_BLOCK`.
    block: usize,
    /// The last message longer than a block, if the last one was: the next one is expected
    /// to be as long, and is read in place from its first byte.
    large: usize,
    /// Length and room when `room` was last called, to see how full reads are.
    before: usize,
    room: usize,
    small_reads: u8,
}

impl Default for Assembly {
    fn default() -> Self {
        Assembly {
            buf: BytesMut::new(),
            block: MIN_BLOCK,
            large: 0,
            before: 0,
            room: 0,
            small_reads: 0,
        }
    }
}

impl Assembly {
    pub(super) fn len(&self) -> usize {
        self.buf.len()
    }

    pub(super) fn capacity(&self) -> usize {
        self.buf.capacity()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buf
    }

    pub(super) fn into_bytes(self) -> Bytes {
        self.buf.freeze()
    }

    /// The buffer with room for more of a message of `known` length, or of any.
    pub(super) fn room(&mut self, known: Option<u32>) -> &mut BytesMut {
        let have = self.buf.len();
        match known {
            Some(len) if len as usize > have => {
                let full = self.buf.capacity() == have;
                if full || self.buf.capacity() < (len as usize).min(BELIEVED) {
                    // Exactly the message if it is large, so that it is read in place;
                    // else a block, for what follows it.
                    let believed = BELIEVED.max(2 * have);
                    self.grow((len as usize).max(self.block).min(believed));
                }
            }
            _ => {
                let spare = self.buf.capacity() - have;
                if spare < self.block / 2 {
                    let expected = if self.large > 0 { self.large + LOOKAHEAD } else { 0 };
                    // Twice what is there keeps the copies of a long header linear.
                    self.grow(self.block.max(expected).max(2 * have));
                }
            }
        }
        self.before = self.buf.len();
        self.room = self.buf.capacity() - self.before;
        &mut self.buf
    }

    /// Makes the capacity `capacity`, which is more than the length, moving the bytes to the
    /// front of a block that nobody else reads, or else to a new one.
    fn grow(&mut self, capacity: usize) {
        let have = self.buf.len();
        // Blocks whose readers are done are used again; a huge one is not kept for that.
        if capacity <= MAX_BLOCK && self.buf.try_reclaim(capacity - have) {
            return;
        }
        let mut buf = BytesMut::with_capacity(capacity);
        buf.extend_from_slice(&self.buf);
        self.buf = buf;
    }

    /// Learns from the last read how large blocks should be.
    pub(super) fn arrived(&mut self) {
        let got = self.buf.len().saturating_sub(self.before);
        self.before = self.buf.len();
        if got == 0 {
            return;
        }
        if got >= self.room {
            self.block = (self.block * 2).min(MAX_BLOCK);
            self.small_reads = 0;
        } else if got < self.block / 4 {
            self.small_reads += 1;
            if self.small_reads == PATIENCE {
                self.small_reads = 0;
                self.block = (self.block / 2).max(MIN_BLOCK);
            }
        } else {
            self.small_reads = 0;
        }
    }

    /// Splits `n` bytes of whole messages off the front.
    pub(super) fn split_to(&mut self, n: usize) -> Bytes {
        let capacity = self.buf.capacity();
        self.large = if n > MAX_BLOCK { n.min(BELIEVED) } else { 0 };
        let block = if n <= COPY_LIMIT || (capacity > MAX_BLOCK && n < capacity / 4) {
            let copy = Bytes::copy_from_slice(self.buf.get(..n).unwrap_or_default());
            self.buf.advance(n.min(self.buf.len()));
            copy
        } else {
            self.buf.split_to(n).freeze()
        };
        self.before = self.buf.len();
        block
    }

    /// Gives an empty buffer back.
    pub(super) fn release(&mut self) {
        if self.buf.is_empty() && self.buf.capacity() > 0 {
            self.buf = BytesMut::new();
        }
    }

    /// Keeps what is there in no more memory than it needs.
    pub(super) fn shrink(&mut self) {
        if self.buf.capacity() > self.buf.len() {
            self.buf = BytesMut::from(&self.buf[..]);
        }
    }
}
