//! The stream parser: bytes of one connection in, whole messages, a cause or a deadline out.
//!
//! Pure: no socket, no clock, no task. It owns the assembly buffer of one connection and
//! asks a [`Delineate`] where messages end. Methods come in four kinds:
//!
//! * input: [`read_buf`](StrParser::read_buf) (where to put bytes), then
//!   [`parse`](StrParser::parse) until it returns nothing; [`eof`](StrParser::eof) and
//!   [`fail`](StrParser::fail) when the connection ends;
//! * time: [`deadline`](StrParser::deadline), [`on_deadline`](StrParser::on_deadline),
//!   [`pause`](StrParser::pause), [`resume`](StrParser::resume);
//! * memory: [`release`](StrParser::release) before waiting for more bytes,
//!   [`into_unread`](StrParser::into_unread) at the end, [`Blocks`] to share between
//!   connections;
//! * getters.
//!
//! `now` must never go backwards.
//!
//! Rules it keeps, by number: the parser is shown exactly the message so far, from its first
//! byte (semantics J1, exceeding B8), once per arrival while the length is unknown, and not
//! again once it is known (B1); a burst of k messages is one pass (B2); a message may be as
//! long as the limit (B5) and must end beyond what the parser asked to be added to (B7); a
//! refusal carries the parser's code (B9, B10); an end is final (B12); one deadline per
//! message, started by its first incomplete piece, never re-armed, cancelled when it is
//! complete (B18–B20); whole messages that came before an end are delivered before it (B23);
//! nothing is lost: what was not delivered comes back from `into_unread` (J17, exceeding
//! B11, B24, A35).
//!
//! Always draining the connection into a buffer of our own rules out the kernel's stall for
//! messages that the TCP window cannot hold (J2, exceeding B15), and `max_header` bounds
//! what an undecided parser can make us hold (J3, exceeding B16).
//!
//! **Memory.** Reads go into [blocks](Blocks) of [`BLOCK`] bytes that the connections of a
//! multiplexor share. After [`release`](StrParser::release) a connection holds nothing when
//! idle, and of a message begun what has come of it (at most twice that, or its length once
//! that is known). A message longer than a block gets a buffer of its own exact length, read in
//! place (up to [`BELIEVED`] bytes at once; beyond, room follows what has come); or one of at most
//! twice that which another such message is done with. Small batches
//! (up to [`COPY_LIMIT`] bytes) are copied out, so that the block is used again. Hence a
//! delivered batch keeps alive at most `max(BLOCK, 4 × its own bytes)`.

mod blocks;
mod buffer;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kcm_common::{errno, verdict::DEFAULT_MAX_HEADER};

use self::buffer::Assembly;
pub use self::{
    blocks::{BLOCK, Blocks, KEEP},
    buffer::{BELIEVED, COPY_LIMIT},
};
use crate::{
    delineate::{Delineate, WalkEnd, WalkLimits},
    error::PsockError,
    message::{Batch, PsockId},
    stats::{StrpCounts, StrpStats},
};

/// What one connection's stream parser may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest message, in bytes; one of exactly this length is accepted (semantics B5).
    pub max_message: u32,
    /// The most bytes the parser may be shown before it must name a length (semantics J3).
    /// A bound on memory, not on the protocol: a length named at one look over more bytes
    /// than this, because they came together, is accepted. Parsers that find a message's end
    /// only at the end (nested formats) need it as large as their largest message.
    pub max_header: u32,
    /// From a message's first incomplete piece to its last byte; None or zero for no limit
    /// (semantics B18).
    pub assembly_timeout: Option<Duration>,
    /// At most this many messages in one batch: bounds the work of one pass.
    pub max_batch: u32,
}

impl Default for Limits {
    /// 212992 bytes a message (the system's usual socket buffer), 64 KiB of header, no
    /// timeout, 4096 messages a pass.
    fn default() -> Self {
        Limits {
            max_message: 212_992,
            max_header: DEFAULT_MAX_HEADER as u32,
            assembly_timeout: None,
            max_batch: 4096,
        }
    }
}

/// The stream parser of one connection. See the [module's documentation](self).
#[derive(Debug)]
pub struct StrParser<D> {
    delineate: D,
    limits: Limits,
    psock: PsockId,
    /// Begins at a message's first byte, always.
    assembly: Assembly,
    /// Ends found in the current pass; kept for its allocation until a wait.
    ends: Vec<u32>,
    /// Bytes of the assembly already looked at with the result "incomplete".
    /// `walked <= assembly.len()`.
    walked: usize,
    /// Bytes the parser had seen when it last asked for more of the first message (B7).
    seen: usize,
    /// The first message's length, once the parser named it.
    known: Option<u32>,
    deadline: Option<Instant>,
    /// When the first message was found incomplete (B18).
    begun: Option<Instant>,
    /// The owner has not been told that it was.
    fresh: bool,
    paused_at: Option<Instant>,
    /// How the connection ended, to be told after what came before it.
    ending: Option<Box<PsockError>>,
    /// The end, told: final (B12).
    failed: Option<Box<PsockError>>,
    stats: StrpCounts,
}

impl<D: Delineate> StrParser<D> {
    /// A stream parser for a connection whose next byte begins a message. A `max_batch` of 0
    /// counts as 1.
    pub fn new(delineate: D, psock: PsockId, limits: Limits) -> Self {
        StrParser {
            delineate,
            limits: Limits { max_batch: limits.max_batch.max(1), ..limits },
            psock,
            assembly: Assembly::default(),
            ends: Vec::new(),
            walked: 0,
            seen: 0,
            known: None,
            deadline: None,
            begun: None,
            fresh: false,
            paused_at: None,
            ending: None,
            failed: None,
            stats: StrpCounts::default(),
        }
    }

    /// Where the next bytes go: append to it, at most up to its capacity (a vectored or
    /// `read_buf` style read does just that), then call [`parse`](Self::parse). It has room
    /// for at least one byte; when the message's length is known and large, exactly for the
    /// rest of it. Do not remove or change what is in it.
    ///
    /// A new block, if one is needed, comes from `blocks`.
    pub fn read_buf(&mut self, blocks: &mut Blocks) -> &mut BytesMut {
        self.assembly.room(self.known, blocks)
    }

    /// True between [`read_buf`](Self::read_buf) and [`release`](Self::release), if the bytes go
    /// to a shared block.
    pub fn has_block(&self) -> bool {
        self.assembly.has_block()
    }

    /// True if [`parse`](Self::parse) would look at nothing and return None: there is no need to
    /// call it, nor to look at the clock for it.
    pub fn is_idle(&self) -> bool {
        self.assembly.len() == self.walked && self.ending.is_none() && self.failed.is_none()
    }

    /// Looks at what was read: returns the next batch of whole messages, None when more
    /// bytes are needed, or how the connection ended. Call it until it returns None or an
    /// error; whole messages always come before the error, and the error stays (B12).
    ///
    /// One call finds at most `max_batch` messages (the work limit of a pass).
    pub fn parse(&mut self, now: Instant) -> Result<Option<Batch>, PsockError> {
        if let Some(cause) = self.error() {
            return Err(cause.clone());
        }
        if self.assembly.len() > self.walked {
            let batch = self.pass(now);
            if batch.is_some() {
                return Ok(batch);
            }
        }
        if self.failed.is_none()
            && self.walked == self.assembly.len()
            && let Some(cause) = self.ending.take()
        {
            self.end(match *cause {
                PsockError::Eof if self.assembly.len() > 0 => {
                    PsockError::EofMidMessage { have: self.assembly.len() as u64, need: self.known }
                }
                other => other,
            });
        }
        match self.error() {
            Some(cause) => Err(cause.clone()),
            None => Ok(None),
        }
    }

    /// One walk over the buffer.
    fn pass(&mut self, now: Instant) -> Option<Batch> {
        let have = self.assembly.len();
        self.ends.clear();
        let mut start = 0;
        if let Some(len) = self.known {
            if have < len as usize {
                self.walked = have;
                return None;
            }
            // The parser is not asked again about a message whose length it named (B1).
            self.ends.push(len);
            start = len as usize;
        }
        let limits = WalkLimits {
            max_message: self.limits.max_message,
            max_ends: self.limits.max_batch - self.ends.len() as u32,
        };
        let mut end = self.delineate.walk(self.assembly.bytes(), start, limits, &mut self.ends);
        let sound = sound(&self.ends, have);
        if sound < self.ends.len() {
            // An empty message, or an end beyond the bytes: what is before it stands.
            self.ends.truncate(sound);
            end = WalkEnd::Error(errno::EPROTO);
        }

        // The first message must end beyond what the parser had asked to be added to (B7).
        if let Some(&first) = self.ends.first()
            && first as usize <= self.seen
        {
            self.stats.bad_hdr_len += 1;
            self.end(PsockError::BadLength { len: first, seen: self.seen as u64 });
            return None;
        }
        let batch = self.take_batch();
        let rest = self.assembly.len();
        if batch.is_some() {
            self.seen = 0;
            self.known = None;
            self.deadline = None;
            self.begun = None;
            self.fresh = false;
        }
        self.walked = rest;
        match end {
            WalkEnd::Empty => {}
            WalkEnd::Full => self.walked = 0,
            WalkEnd::NeedMore => {
                self.stats.need_more_hdr += 1;
                self.seen = rest;
                if rest >= self.limits.max_header as usize {
                    self.stats.msg_too_big += 1;
                    self.end(PsockError::HeaderTooLong { limit: self.limits.max_header });
                } else {
                    self.arm(now);
                }
            }
            // It said itself that the message is not whole.
            WalkEnd::Partial { len } if len as usize <= rest => {
                self.stats.interrupted = 1;
                self.end(PsockError::Parser(errno::EPROTO));
            }
            WalkEnd::Partial { len } => {
                self.known = Some(len);
                self.arm(now);
            }
            WalkEnd::TooLong { len } => {
                self.stats.msg_too_big += 1;
                self.end(PsockError::TooLong { len, limit: self.limits.max_message });
            }
            WalkEnd::Error(code) => {
                let late = code == errno::ESTRPIPE && self.seen > 0;
                if late {
                    // Counted separately, as the kernel does (semantics B10).
                    self.stats.unrecov_intr = 1;
                    self.end(PsockError::HandedBackLate { consumed: self.seen as u64 });
                } else {
                    self.stats.interrupted = 1;
                    self.end(PsockError::Parser(code));
                }
            }
        }
        batch
    }

    /// Splits the messages found off the buffer.
    fn take_batch(&mut self) -> Option<Batch> {
        let consumed = *self.ends.last()? as usize;
        let block = self.assembly.split_to(consumed);
        let batch = Batch::marked(block, &self.ends, self.psock);
        self.stats.msgs += self.ends.len() as u64;
        self.stats.delivered_bytes += consumed as u64;
        batch
    }

    /// Starts the deadline of the message at the head, once (B19).
    fn arm(&mut self, now: Instant) {
        if self.begun.is_none() {
            self.begun = Some(now);
            self.fresh = true;
            self.set_deadline();
        }
    }

    fn set_deadline(&mut self) {
        let timeout = self.limits.assembly_timeout.filter(|timeout| !timeout.is_zero());
        // A timeout beyond the end of time is no timeout.
        self.deadline = self.begun.zip(timeout).and_then(|(from, after)| from.checked_add(after));
    }

    /// True once for each message found incomplete: who takes timeouts from elsewhere now reads
    /// the one for it, and gives it to [`set_head_timeout`](Self::set_head_timeout).
    pub fn has_begun(&mut self) -> bool {
        std::mem::take(&mut self.fresh)
    }

    /// Changes the assembly timeout, also for the message that is being put together; it counts
    /// from that message's first piece.
    pub fn set_head_timeout(&mut self, timeout: Option<Duration>) {
        self.limits.assembly_timeout = timeout;
        self.set_deadline();
    }

    /// Ends the connection's receive side for good.
    fn end(&mut self, cause: PsockError) {
        self.deadline = None;
        self.stats.aborts = 1;
        self.assembly.shrink(&mut Blocks::default());
        self.walked = self.assembly.len();
        self.failed = Some(Box::new(cause));
    }

    /// The peer will send nothing more. After the whole messages in the buffer,
    /// [`parse`](Self::parse) returns [`PsockError::Eof`] on a message boundary, else
    /// [`PsockError::EofMidMessage`] (semantics B22, B24, J12).
    pub fn eof(&mut self) {
        self.fail(PsockError::Eof);
    }

    /// The connection failed. After the whole messages in the buffer,
    /// [`parse`](Self::parse) returns this cause. The first cause stays.
    pub fn fail(&mut self, cause: PsockError) {
        if self.failed.is_none() && self.ending.is_none() {
            self.ending = Some(Box::new(cause));
        }
    }

    /// When [`on_deadline`](Self::on_deadline) is due. None: nothing to wait for.
    pub fn deadline(&self) -> Option<Instant> {
        match self.paused_at {
            Some(_) => None,
            None => self.deadline,
        }
    }

    /// To be called when the deadline is reached; earlier or spurious calls do nothing. An
    /// incomplete message whose deadline has passed ends the connection with
    /// [`PsockError::TimedOut`], which is returned here and by every later
    /// [`parse`](Self::parse) (semantics B20).
    ///
    /// Bytes read before this call but not yet given to `parse` still count: parse first.
    pub fn on_deadline(&mut self, now: Instant) -> Result<(), PsockError> {
        match self.deadline() {
            Some(deadline) if deadline <= now && self.failed.is_none() => {
                self.stats.msg_timeouts += 1;
                let cause =
                    PsockError::TimedOut { have: self.assembly.len() as u64, need: self.known };
                self.end(cause.clone());
                Err(cause)
            }
            _ => Ok(()),
        }
    }

    /// Stops the clock of the message at the head: we are the ones who do not read
    /// (back-pressure, semantics C8), which must not be held against the peer.
    pub fn pause(&mut self, now: Instant) {
        self.paused_at.get_or_insert(now);
    }

    /// Starts the clock again with what was left of it.
    pub fn resume(&mut self, now: Instant) {
        if let Some(since) = self.paused_at.take() {
            let pause = now.saturating_duration_since(since);
            self.begun = self.begun.and_then(|begun| begun.checked_add(pause));
            self.deadline = self.deadline.and_then(|deadline| deadline.checked_add(pause));
        }
    }

    /// Gives the block back, and keeps of what was read only the beginning of a message, in no
    /// more memory than it needs. Call it before waiting, for the connection to become readable
    /// or for room for its messages.
    pub fn release(&mut self, blocks: &mut Blocks) {
        self.ends = Vec::new();
        // Not with messages in it that were not looked at: the next pass does.
        if self.walked == self.assembly.len() {
            self.assembly.release(self.known, blocks);
        }
    }

    /// Adds to the time spent in [`parse`](Self::parse), for the statistics: who has a clock
    /// may measure it.
    pub fn add_parse_time(&mut self, spent: Duration) {
        let nanos = u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX);
        self.stats.parse_nanos = self.stats.parse_nanos.saturating_add(nanos);
    }

    /// Changes the assembly timeout from the next message on; a running deadline stays
    /// (semantics B18).
    pub fn set_assembly_timeout(&mut self, timeout: Option<Duration>) {
        self.limits.assembly_timeout = timeout;
    }

    /// Changes the longest message accepted, for messages whose length is not yet known
    /// (semantics B6).
    pub fn set_max_message(&mut self, bytes: u32) {
        self.limits.max_message = bytes;
    }

    /// Everything received and not delivered, from the first byte of the message at the
    /// head: after a refusal, the refused bytes (semantics B11, J17).
    pub fn into_unread(self) -> Bytes {
        self.assembly.into_bytes()
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The connection this parser serves.
    pub fn psock(&self) -> PsockId {
        self.psock
    }

    /// How the connection ended, once [`parse`](Self::parse) or
    /// [`on_deadline`](Self::on_deadline) has told it.
    pub fn error(&self) -> Option<&PsockError> {
        self.failed.as_deref()
    }

    /// Bytes received and not yet delivered.
    pub fn buffered(&self) -> usize {
        self.assembly.len()
    }

    /// How many bytes are missing from the message at the head, if its length is known.
    pub fn missing(&self) -> Option<u64> {
        let have = self.assembly.len() as u64;
        self.known.map(|len| u64::from(len).saturating_sub(have))
    }

    /// Bytes of memory held for this connection beyond `size_of::<Self>()`.
    pub fn memory(&self) -> usize {
        self.assembly.capacity() + self.ends.capacity() * size_of::<u32>()
    }

    /// The counters (semantics H1), with every byte counted once (exceeding H2).
    pub fn stats(&self) -> StrpStats {
        self.stats.stats(self.stats.delivered_bytes + self.assembly.len() as u64)
    }
}

/// How many ends make sense before the first that does not: ascending, within `have` bytes. A
/// [`Delineate`] that keeps its contract gives no others.
fn sound(ends: &[u32], have: usize) -> usize {
    let mut previous = 0;
    let mut ascending = true;
    // Without an early exit: this runs for every message there is, and is to cost nothing.
    for &end in ends {
        ascending &= end > previous;
        previous = end;
    }
    if ascending && previous as usize <= have {
        return ends.len();
    }
    let mut previous = 0;
    ends.iter()
        .take_while(|&&end| {
            let sound = end > previous && end as usize <= have;
            previous = end;
            sound
        })
        .count()
}
