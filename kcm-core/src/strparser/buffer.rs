//! The assembly buffer: when blocks are shared, and when a message gets room of its own.

use bytes::{Buf, Bytes, BytesMut};

use super::blocks::{BLOCK, Blocks, LEAST_READ};

/// Batches of at most this many bytes are copied out of the block, which costs no more than
/// sharing it and leaves it whole for the next read.
pub const COPY_LIMIT: usize = 1024;
/// A length named by the peer is believed up to this many bytes; beyond, room is made as the
/// bytes come, for at most twice of what has come. A few header bytes reserve no gigabyte.
pub const BELIEVED: usize = 4 * 1024 * 1024;
/// After a large message, room for the next one's start behind its expected end.
const LOOKAHEAD: usize = 4 * 1024;
/// The beginning of a message, while it waits for the rest, is copied out of the block if it
/// has at most this many bytes, and back again when the rest comes. A longer one moves to a
/// buffer of its own once, and grows there: a peer that sends byte by byte shall not make
/// us copy all of it for each.
const ASIDE: usize = 4 * 1024;

/// Bytes of one connection from a message's first byte on.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    buf: BytesMut,
    /// `buf` is the rest of a block, to be given back.
    block: bool,
    /// `buf` is the rest of a buffer of this size, to be given back; 0: it is not.
    own: u32,
    /// The last message longer than a block, if the last one was: the next one is expected
    /// to be as long, and is read in place from its first byte.
    large: u32,
}

impl Assembly {
    pub(super) fn len(&self) -> usize {
        self.buf.len()
    }

    pub(super) fn capacity(&self) -> usize {
        self.buf.capacity()
    }

    pub(super) fn has_block(&self) -> bool {
        self.block
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buf
    }

    pub(super) fn into_bytes(self) -> Bytes {
        self.buf.freeze()
    }

    /// The buffer with room for more of a message of `known` length, or of any.
    pub(super) fn room(&mut self, known: Option<u32>, blocks: &mut Blocks) -> &mut BytesMut {
        let (have, capacity) = (self.buf.len(), self.buf.capacity());
        match known {
            Some(len) if len as usize > have => {
                let len = len as usize;
                if capacity == have || capacity < len.min(BELIEVED) {
                    // Exactly the message if it is large, so that it is read in place;
                    // else a block, for what follows it.
                    self.grow(len, believed(len, have), blocks);
                }
            }
            _ => {
                // In a buffer of its own, a message goes on as long as that is worth a call.
                let least = if self.block || have == 0 { LEAST_READ } else { have.min(LEAST_READ) };
                if capacity - have < least {
                    let expected = if self.large > 0 { self.large as usize + LOOKAHEAD } else { 0 };
                    // Twice what is there keeps the copies of a long header linear.
                    let capacity = expected.max(2 * have);
                    self.grow((have + least).max(capacity), capacity, blocks);
                }
            }
        }
        &mut self.buf
    }

    /// Makes room for `least` bytes in all: in a block, else in a new buffer of `capacity`.
    fn grow(&mut self, least: usize, capacity: usize, blocks: &mut Blocks) {
        let have = self.buf.len();
        if least > BLOCK {
            let (size, buf) = blocks.take_large(capacity.max(have + 1));
            self.replace(buf, false, blocks);
            self.own = u32::try_from(size).unwrap_or_default();
        } else if !(self.block && self.buf.try_reclaim(BLOCK - have)) {
            let block = blocks.take(least);
            self.replace(block, true, blocks);
        }
    }

    fn replace(&mut self, mut buf: BytesMut, block: bool, blocks: &mut Blocks) {
        buf.extend_from_slice(&self.buf);
        let old = std::mem::replace(&mut self.buf, buf);
        let own = std::mem::take(&mut self.own) as usize;
        if std::mem::replace(&mut self.block, block) {
            blocks.give(old);
        } else if own > 0 {
            blocks.give_large(own, old);
        }
    }

    /// Splits `n` bytes of whole messages off the front.
    pub(super) fn split_to(&mut self, n: usize) -> Bytes {
        let capacity = self.buf.capacity();
        self.large = if n > BLOCK { n.min(BELIEVED) as u32 } else { 0 };
        if n <= COPY_LIMIT || (!self.block && capacity > BLOCK && n < capacity / 4) {
            let copy = Bytes::copy_from_slice(self.buf.get(..n).unwrap_or_default());
            self.buf.advance(n.min(self.buf.len()));
            copy
        } else {
            self.buf.split_to(n).freeze()
        }
    }

    /// Gives the block back before a wait, and keeps no more than the beginning of a message,
    /// of `known` length or not.
    pub(super) fn release(&mut self, known: Option<u32>, blocks: &mut Blocks) {
        let have = self.buf.len();
        if !self.block {
            if have == 0 && (self.own > 0 || self.buf.capacity() > 0) {
                self.replace(BytesMut::new(), false, blocks);
            }
            return;
        }
        let capacity = match known {
            _ if have <= ASIDE => have,
            Some(len) => believed(len as usize, have),
            None => 2 * have,
        };
        self.replace(BytesMut::with_capacity(capacity), false, blocks);
    }

    /// Keeps what is there in no more memory than it needs.
    pub(super) fn shrink(&mut self, blocks: &mut Blocks) {
        if self.buf.capacity() > self.buf.len() {
            self.replace(BytesMut::with_capacity(self.buf.len()), false, blocks);
        }
    }
}

/// How much room a message of `len` bytes gets of which `have` are there.
fn believed(len: usize, have: usize) -> usize {
    len.min(BELIEVED.max(2 * have))
}
