//! Messages and batches: blocks of received bytes with marks where messages end.
//!
//! All whole messages of one pass over a connection's bytes are one [`Batch`]: one block,
//! one reference count, the ends as `u32` offsets. A batch is moved, split and iterated
//! without touching the bytes and without a reference count per message; a [`Message`] (one
//! count) is made only for those who ask for one. This is where the cost of a message is
//! decided: a count per message was a third of the whole receive path when measured.

mod lease;

use std::{fmt, ops::Deref, sync::Arc};

use bytes::{Buf, Bytes};

pub(crate) use self::lease::{Lender, Part};

/// Names one attached connection of one multiplexor.
///
/// The index is the lowest one free at attach (semantics A11), so it is small and is reused;
/// the generation makes sure that an id kept beyond the connection's end never names
/// another connection. The default is the first of a new multiplexor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PsockId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl PsockId {
    /// The small integer by which `/proc/net/kcm` names the connection.
    pub fn index(self) -> u32 {
        self.index
    }
}

impl fmt::Display for PsockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "psock-{}", self.index)
    }
}

/// Whole messages of one connection, in order, in one block. Never empty when received.
///
/// Cloning copies no bytes. Invariants: `start <= stop <= block.len()`; with `ends`, the
/// messages are those whose ends are `ends[lo..hi]`, ascending, all in `start..=stop`.
#[derive(Clone)]
pub struct Batch {
    block: Bytes,
    /// None: one message, `start..stop`.
    ends: Option<Arc<[u32]>>,
    lo: u32,
    hi: u32,
    start: u32,
    stop: u32,
    /// Bytes of the first message that a SEQPACKET reader has taken already.
    read: u32,
    psock: PsockId,
    /// Arrival stamp of the multiplexor: orders what moves between sockets (semantics J14).
    pub(crate) seq: u64,
}

impl Batch {
    /// Marks messages in a block. `ends` must ascend strictly, begin above 0 and end at most
    /// at the block's length, and the block must be shorter than 4 GiB; None otherwise, and
    /// for no messages at all.
    pub fn new(block: Bytes, ends: &[u32], psock: PsockId) -> Option<Self> {
        let stop = *ends.last()?;
        let mut previous = 0;
        let mut ascending = true;
        for &end in ends {
            ascending &= end > previous;
            previous = end;
        }
        if !ascending || stop as usize > block.len() || u32::try_from(block.len()).is_err() {
            return None;
        }
        Self::marked(block, ends, psock)
    }

    /// The same, for marks already looked at.
    pub(crate) fn marked(block: Bytes, ends: &[u32], psock: PsockId) -> Option<Self> {
        let stop = *ends.last()?;
        Some(Batch {
            block,
            ends: (ends.len() > 1).then(|| Arc::from(ends)),
            lo: 0,
            hi: ends.len() as u32,
            start: 0,
            stop,
            read: 0,
            psock,
            seq: 0,
        })
    }

    /// Messages in the batch.
    pub fn len(&self) -> usize {
        (self.hi - self.lo) as usize
    }

    /// True for a batch of which every message was taken.
    pub fn is_empty(&self) -> bool {
        self.lo == self.hi
    }

    /// Payload bytes in the batch, without those already read of a partly read first
    /// message.
    pub fn bytes(&self) -> usize {
        (self.stop - self.start - self.read) as usize
    }

    /// The connection all of it came from.
    pub fn psock(&self) -> PsockId {
        self.psock
    }

    /// The messages as slices: no reference counts. A partly read first message shows its
    /// rest.
    pub fn iter(&self) -> Slices<'_> {
        Slices {
            block: &self.block,
            at: (self.start + self.read) as usize,
            stop: if self.is_empty() { self.start } else { self.stop } as usize,
            ends: self.marks().iter(),
        }
    }

    /// The first message, or its unread rest.
    pub fn first(&self) -> Option<&[u8]> {
        let end = self.end(1)?;
        self.block.get((self.start + self.read) as usize..end as usize)
    }

    /// Takes the first message off the batch.
    pub fn pop(&mut self) -> Option<Message> {
        let end = self.end(1)?;
        let from = (self.start + self.read) as usize;
        let bytes = if self.len() == 1 {
            // The last one takes the batch's own reference count.
            let mut block = std::mem::take(&mut self.block);
            block.truncate(end as usize);
            block.advance(from);
            (self.start, self.stop, self.read, self.lo) = (0, 0, 0, self.hi);
            block
        } else {
            let bytes = self.block.slice(from..end as usize);
            self.drop_first(end);
            bytes
        };
        Some(Message::new(bytes, self.psock))
    }

    /// Takes the first message off, with a reference of this batch's [`lender`](Self::lender).
    pub(crate) fn pop_lent(&mut self, lender: &mut Lender) -> Option<Message> {
        let end = self.end(1)?;
        let part = lender.take(self.start + self.read, end)?;
        self.drop_first(end);
        Some(Message(part))
    }

    /// References for all its messages, counted at once.
    pub(crate) fn lender(&self) -> Lender {
        Lender::new(self.block.clone(), self.psock, self.len())
    }

    /// Where the first message starts, or its unread rest, and where the first `n` end; fewer if
    /// there are fewer marks, and for a lone message none.
    pub(crate) fn marked_out(&self, n: usize) -> (u32, &[u32]) {
        let marks = self.marks();
        (self.start + self.read, marks.get(..n).unwrap_or(marks))
    }

    /// How many messages, from the first, have at most so many bytes.
    pub(crate) fn within(&self, bytes: usize) -> usize {
        if bytes >= self.bytes() {
            return self.len();
        }
        let origin = self.start as usize + self.read as usize;
        self.marks().partition_point(|&end| (end as usize).saturating_sub(origin) <= bytes)
    }

    /// Drops the first `n` messages; their bytes.
    pub(crate) fn skip(&mut self, n: usize) -> usize {
        let Some(end) = self.end(n.min(self.len())) else { return 0 };
        let before = self.bytes();
        self.lo += (n as u32).min(self.hi - self.lo);
        self.start = end;
        self.read = 0;
        before - self.bytes()
    }

    /// Splits the batch at a message, without copying: returns the first `at` messages
    /// (fewer if there are fewer) and keeps the rest.
    pub fn split_to(&mut self, at: usize) -> Batch {
        if at >= self.len() {
            let rest = Batch {
                block: Bytes::new(),
                ends: None,
                lo: self.hi,
                start: self.stop,
                stop: self.stop,
                read: 0,
                ..*self
            };
            return std::mem::replace(self, rest);
        }
        let Some(cut) = self.end(at) else {
            // Nothing asked for: an empty batch in front.
            let mut none = self.clone();
            none.hi = none.lo;
            none.stop = none.start;
            none.read = 0;
            return none;
        };
        let head = Batch {
            block: self.block.clone(),
            ends: if at == 1 { None } else { self.ends.clone() },
            hi: self.lo + at as u32,
            stop: cut,
            ..*self
        };
        self.lo += at as u32;
        self.start = cut;
        self.read = 0;
        head
    }

    /// The bytes of all messages, one after the other as they came, without a copy.
    pub fn into_bytes(self) -> Bytes {
        self.block.slice((self.start + self.read) as usize..self.stop as usize)
    }

    /// How many messages, from the first, are accepted by a receiver that takes one more as
    /// long as it holds less than `room` bytes of this batch (semantics C4).
    pub(crate) fn fits(&self, room: usize) -> usize {
        if room == 0 {
            return 0;
        }
        if room > self.bytes() {
            return self.len();
        }
        // Message k is accepted if the k messages before it have fewer than `room` bytes.
        let origin = self.start as usize + self.read as usize;
        let marks = self.marks();
        let before = marks.partition_point(|&end| (end as usize).saturating_sub(origin) < room);
        (before + 1).min(self.len())
    }

    /// Marks `n` more bytes of the first message as read; a message read to its end leaves
    /// the batch. True if it did.
    pub(crate) fn advance(&mut self, n: usize) -> bool {
        let Some(end) = self.end(1) else { return false };
        let left = (end - self.start - self.read) as usize;
        if n >= left {
            self.drop_first(end);
            true
        } else {
            self.read += n as u32;
            false
        }
    }

    /// A part of the first message was read.
    pub(crate) fn is_begun(&self) -> bool {
        self.read > 0
    }

    /// Orders the pieces of what arrived: by arrival, and within one arrival by place.
    pub(crate) fn order(&self) -> (u64, u32) {
        (self.seq, self.start)
    }

    fn drop_first(&mut self, end: u32) {
        self.lo += 1;
        self.start = end;
        self.read = 0;
    }

    /// The marked ends of the messages left; empty also for a lone message.
    fn marks(&self) -> &[u32] {
        self.ends
            .as_deref()
            .and_then(|ends| ends.get(self.lo as usize..self.hi as usize))
            .unwrap_or_default()
    }

    /// The end of the `n`th message left, counted from 1.
    fn end(&self, n: usize) -> Option<u32> {
        if n == 0 || n > self.len() {
            return None;
        }
        match &self.ends {
            None => Some(self.stop),
            Some(_) => self.marks().get(n - 1).copied(),
        }
    }
}

impl PartialEq for Batch {
    /// Same connection, same messages.
    fn eq(&self, other: &Self) -> bool {
        self.psock == other.psock && self.iter().eq(other.iter())
    }
}

impl Eq for Batch {}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("psock", &self.psock)
            .field("messages", &self.len())
            .field("bytes", &self.bytes())
            .finish()
    }
}

impl<'a> IntoIterator for &'a Batch {
    type Item = &'a [u8];
    type IntoIter = Slices<'a>;

    fn into_iter(self) -> Slices<'a> {
        self.iter()
    }
}

impl IntoIterator for Batch {
    type Item = Message;
    type IntoIter = Messages;

    fn into_iter(self) -> Messages {
        let lender = self.lender();
        Messages { batch: self, lender }
    }
}

/// The messages of a batch as slices.
#[derive(Clone, Debug)]
pub struct Slices<'a> {
    block: &'a [u8],
    at: usize,
    stop: usize,
    ends: std::slice::Iter<'a, u32>,
}

impl<'a> Iterator for Slices<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let end = match self.ends.next() {
            Some(&end) => end as usize,
            None if self.at < self.stop => self.stop,
            None => return None,
        };
        let message = self.block.get(self.at..end)?;
        self.at = end;
        Some(message)
    }
}

/// The messages of a batch, each with a reference to its block.
#[derive(Debug)]
pub struct Messages {
    batch: Batch,
    lender: Lender,
}

impl Clone for Messages {
    fn clone(&self) -> Self {
        self.batch.clone().into_iter()
    }
}

impl Iterator for Messages {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        self.batch.pop_lent(&mut self.lender)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.batch.len(), Some(self.batch.len()))
    }
}

impl ExactSizeIterator for Messages {}

/// One received message, whole (or the unread rest of one that was read in part).
#[derive(Clone)]
pub struct Message(Part);

impl Message {
    /// A message from its parts, for tests and adaptors. Of 4 GiB and more, which no stream
    /// parser takes for one message, the first 4 GiB less a byte.
    pub fn new(bytes: Bytes, psock: PsockId) -> Self {
        Message(Part::new(bytes, psock))
    }

    /// A part of a block.
    #[inline]
    pub(crate) fn of_part(part: Part) -> Self {
        Message(part)
    }

    /// The bytes, without a copy. They share their block with the messages that arrived with
    /// them; the block lives as long as any of them.
    pub fn into_bytes(self) -> Bytes {
        self.0.into_bytes()
    }

    /// The connection it came from.
    pub fn psock(&self) -> PsockId {
        self.0.psock()
    }
}

impl Deref for Message {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Message> for Bytes {
    fn from(message: Message) -> Bytes {
        message.into_bytes()
    }
}

impl PartialEq for Message {
    /// Same connection, same bytes.
    fn eq(&self, other: &Self) -> bool {
        self.psock() == other.psock() && self[..] == other[..]
    }
}

impl Eq for Message {}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("psock", &self.psock())
            .field("bytes", &Escaped(self))
            .finish()
    }
}

/// Shown as [`Bytes`] are.
struct Escaped<'a>(&'a [u8]);

impl fmt::Debug for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PsockId = PsockId { index: 0, generation: 0 };

    fn batch() -> Batch {
        Batch::new(Bytes::from_static(b"aabbbc-tail"), &[2, 5, 6], P).unwrap()
    }

    #[test]
    fn a_batch_splits_at_any_message_into_the_same_messages() {
        for at in 0..=4 {
            let mut rest = batch();
            let head = rest.split_to(at);
            assert_eq!(head.len(), at.min(3));
            assert_eq!(head.bytes() + rest.bytes(), 6);
            assert_eq!((head.is_empty(), rest.is_empty()), (at == 0, at >= 3));
            let got: Vec<&[u8]> = head.iter().chain(rest.iter()).collect();
            assert_eq!(got, [&b"aa"[..], b"bbb", b"c"]);
            let got: Vec<Message> = head.into_iter().chain(rest).collect();
            assert_eq!(
                got.iter().map(|m| m.to_vec()).collect::<Vec<_>>(),
                [&b"aa"[..], b"bbb", b"c"]
            );
        }
    }

    #[test]
    fn marks_that_make_no_sense_make_no_batch() {
        let block = Bytes::from_static(b"abc");
        for ends in [&[][..], &[0], &[2, 2], &[2, 1], &[4]] {
            assert!(Batch::new(block.clone(), ends, P).is_none(), "{ends:?}");
        }
    }

    #[test]
    fn a_partly_read_message_keeps_its_rest_through_splits() {
        let mut rest = batch();
        assert!(!rest.advance(1));
        assert_eq!(rest.bytes(), 5);
        assert_eq!(rest.first().unwrap(), b"a");
        let mut head = rest.split_to(2);
        assert_eq!(head.iter().collect::<Vec<_>>(), [&b"a"[..], b"bbb"]);
        assert!(head.advance(1));
        assert_eq!(head.pop().unwrap().to_vec(), b"bbb");
        assert_eq!(rest.clone().into_bytes(), "c");
        assert!(rest.advance(9) && rest.is_empty());
        assert_eq!(rest.iter().count(), 0);
    }

    #[test]
    fn a_receiver_takes_messages_while_it_holds_less_than_its_limit() {
        // semantics C4: the test is made before adding, whatever the message's size.
        let b = batch();
        let taken: Vec<usize> = (0..8).map(|room| b.fits(room)).collect();
        assert_eq!(taken, [0, 1, 1, 2, 2, 2, 3, 3]);
    }
}
