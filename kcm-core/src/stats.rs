//! Counters under the kernel's names, and its two `/proc` texts (semantics G4, G5, H1).
//!
//! The names are the kernel's, the values are right where the kernel's are not (semantics
//! J16, exceeding G6, G7, H2): unattach counts stand under their own headings, retries are
//! summed, aborts are counted, bytes are counted once, and the mux line is the sum of its
//! psocks at any moment.

use crate::error::PsockError;

/// Counters of one stream parser (semantics H1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct StrpStats {
    /// Messages completed.
    pub msgs: u64,
    /// Bytes received, each once: delivered and still in the buffer.
    pub bytes: u64,
    /// Bytes of the messages completed.
    pub delivered_bytes: u64,
    /// Passes abandoned for lack of memory. Always 0: a Rust process that runs out of memory
    /// ends, it does not retry.
    pub mem_fail: u64,
    /// Times the parser asked for more.
    pub need_more_hdr: u64,
    /// Messages refused for their length, or for naming none in time (semantics J3).
    pub msg_too_big: u64,
    /// Lengths that contradict an earlier need-more.
    pub bad_hdr_len: u64,
    /// Assembly deadlines that passed.
    pub msg_timeouts: u64,
    /// 1 once receiving has ended, for any cause.
    pub aborts: u64,
    /// 1 once the parser refused the stream, other than as `unrecov_intr` counts it.
    pub interrupted: u64,
    /// 1 once the parser handed the stream back too late (semantics B10).
    pub unrecov_intr: u64,
    /// Nanoseconds spent looking for messages: in the parser and around it. Beyond the kernel's
    /// counters.
    pub parse_nanos: u64,
}

/// As [`StrpStats`], in the memory that one connection's need: what ends a connection is counted
/// once.
#[derive(Debug, Default)]
pub(crate) struct StrpCounts {
    pub(crate) msgs: u64,
    pub(crate) delivered_bytes: u64,
    pub(crate) need_more_hdr: u64,
    pub(crate) parse_nanos: u64,
    pub(crate) msg_too_big: u8,
    pub(crate) bad_hdr_len: u8,
    pub(crate) msg_timeouts: u8,
    pub(crate) aborts: u8,
    pub(crate) interrupted: u8,
    pub(crate) unrecov_intr: u8,
}

impl StrpCounts {
    /// Of which `bytes` is another's to know.
    pub(crate) fn stats(&self, bytes: u64) -> StrpStats {
        StrpStats {
            msgs: self.msgs,
            bytes,
            delivered_bytes: self.delivered_bytes,
            // Always 0 (see there).
            mem_fail: 0,
            need_more_hdr: self.need_more_hdr,
            msg_too_big: self.msg_too_big.into(),
            bad_hdr_len: self.bad_hdr_len.into(),
            msg_timeouts: self.msg_timeouts.into(),
            aborts: self.aborts.into(),
            interrupted: self.interrupted.into(),
            unrecov_intr: self.unrecov_intr.into(),
            parse_nanos: self.parse_nanos,
        }
    }
}

impl From<&StrpStats> for StrpCounts {
    fn from(s: &StrpStats) -> Self {
        let small = |n: u64| u8::try_from(n).unwrap_or(u8::MAX);
        StrpCounts {
            msgs: s.msgs,
            delivered_bytes: s.delivered_bytes,
            need_more_hdr: s.need_more_hdr,
            parse_nanos: s.parse_nanos,
            msg_too_big: small(s.msg_too_big),
            bad_hdr_len: small(s.bad_hdr_len),
            msg_timeouts: small(s.msg_timeouts),
            aborts: small(s.aborts),
            interrupted: small(s.interrupted),
            unrecov_intr: small(s.unrecov_intr),
        }
    }
}

impl std::ops::AddAssign for StrpStats {
    fn add_assign(&mut self, other: StrpStats) {
        self.msgs += other.msgs;
        self.bytes += other.bytes;
        self.delivered_bytes += other.delivered_bytes;
        self.mem_fail += other.mem_fail;
        self.need_more_hdr += other.need_more_hdr;
        self.msg_too_big += other.msg_too_big;
        self.bad_hdr_len += other.bad_hdr_len;
        self.msg_timeouts += other.msg_timeouts;
        self.aborts += other.aborts;
        self.interrupted += other.interrupted;
        self.unrecov_intr += other.unrecov_intr;
        self.parse_nanos += other.parse_nanos;
    }
}

/// Counters of one psock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PsockStats {
    /// The stream parser's counters, as of its last report.
    pub strp: StrpStats,
    /// Messages handed to the multiplexor.
    pub rx_msgs: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Batches in which they came; `rx_msgs` over this is the mean batch.
    pub rx_batches: u64,
    /// Messages in the largest of them.
    pub rx_batch_max: u64,
    /// Messages completed to the connection.
    pub tx_msgs: u64,
    /// Bytes accepted by the connection, those of interrupted messages included.
    pub tx_bytes: u64,
    /// Times a KCM socket took the psock to send on.
    pub reserved: u64,
    /// Times it was given back.
    pub unreserved: u64,
    /// 1 once sending was given up for a failure.
    pub tx_aborts: u64,
    /// Complete messages parked here because no KCM socket can take more.
    pub parked_msgs: u64,
    /// Their bytes.
    pub parked_bytes: u64,
    /// Messages queued for this psock alone (`send_to`), not completed.
    pub queued_msgs: u64,
    /// Their bytes.
    pub queued_bytes: u64,
}

/// Counters of one KCM socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct KcmStats {
    /// Messages finished by readers.
    pub rx_msgs: u64,
    /// Bytes taken by readers (peeks not counted).
    pub rx_bytes: u64,
    /// Messages accepted from callers.
    pub tx_msgs: u64,
    /// Bytes accepted from callers, those of an open message included.
    pub tx_bytes: u64,
    /// Messages waiting to be read.
    pub recv_queued_msgs: u64,
    /// Their bytes.
    pub recv_queued_bytes: u64,
    /// Messages accepted and not completed on a connection.
    pub send_queued_msgs: u64,
    /// Their bytes.
    pub send_queued_bytes: u64,
    /// Messages dropped unsent: by closing the socket, or addressed to a connection that
    /// failed.
    pub tx_dropped_msgs: u64,
    /// Their bytes.
    pub tx_dropped_bytes: u64,
    /// Batches received; `rx` messages over this is the mean batch.
    pub rx_batches: u64,
}

/// Counters of a multiplexor, present and past psocks and KCM sockets together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct MuxStats {
    /// Messages received from psocks.
    pub rx_msgs: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Messages completed to connections.
    pub tx_msgs: u64,
    /// Bytes accepted by connections, those of interrupted messages included.
    pub tx_bytes: u64,
    /// Messages begun again from their first byte on another connection (semantics D18).
    pub tx_retries: u64,
    /// Connections attached, ever.
    pub attach: u64,
    /// Connections unattached, ever.
    pub unattach: u64,
    /// Those of them that a KCM socket had reserved to send on.
    pub unattach_rsvd: u64,
    /// Complete messages dropped because the last KCM socket closed.
    pub rx_ready_drops: u64,
    /// Messages read by callers, over all KCM sockets ever.
    pub delivered_msgs: u64,
    /// Bytes read by callers.
    pub delivered_bytes: u64,
    /// Messages in KCM sockets' receive queues.
    pub queued_msgs: u64,
    /// Their bytes.
    pub queued_bytes: u64,
    /// Messages in the hold queue (semantics C13).
    pub held_msgs: u64,
    /// Their bytes.
    pub held_bytes: u64,
    /// Messages parked on psocks (semantics C8).
    pub parked_msgs: u64,
    /// Their bytes.
    pub parked_bytes: u64,
    /// Complete messages handed back by unattach, with their bytes, as unread.
    pub returned_msgs: u64,
    /// Their bytes.
    pub returned_bytes: u64,
    /// Messages accepted from callers, ever.
    pub accepted_msgs: u64,
    /// Messages accepted and not completed.
    pub send_queued_msgs: u64,
    /// Their bytes.
    pub send_queued_bytes: u64,
    /// Messages dropped unsent.
    pub tx_dropped_msgs: u64,
    /// Batches received, by how many messages were in them: one; two or three; four to seven; and
    /// so on, the last being 4096 and more.
    pub rx_batch_sizes: [u64; 13],
    /// Connections that went out of use, by cause.
    pub ends: EndStats,
    /// What is held in memory now.
    pub memory: MemoryStats,
    /// All psocks' counters, summed.
    pub psocks: PsockStats,
}

/// How many connections went out of use for which cause ([`PsockError`]), ever. Those that were
/// unattached in use are not among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct EndStats {
    /// The peer ended on a message boundary.
    pub eof: u64,
    /// The peer ended inside a message.
    pub eof_mid_message: u64,
    /// Reset.
    pub reset: u64,
    /// The parser refused the stream, or handed it back.
    pub parser: u64,
    /// The parser contradicted itself.
    pub bad_length: u64,
    /// A message beyond `max_message`.
    pub too_long: u64,
    /// No length within `max_header`.
    pub header_too_long: u64,
    /// A message that was not completed in time.
    pub timed_out: u64,
    /// A peer that took nothing of a begun message.
    pub stalled: u64,
    /// Messages that came faster than they were taken, on the kernel engine.
    pub overrun: u64,
    /// Any other error of the operating system, or the end of the runtime.
    pub io: u64,
}

impl EndStats {
    pub(crate) fn count(&mut self, cause: &PsockError) {
        *match cause {
            PsockError::Eof => &mut self.eof,
            PsockError::EofMidMessage { .. } => &mut self.eof_mid_message,
            PsockError::Reset => &mut self.reset,
            PsockError::Parser(_) | PsockError::HandedBackLate { .. } => &mut self.parser,
            PsockError::BadLength { .. } => &mut self.bad_length,
            PsockError::TooLong { .. } => &mut self.too_long,
            PsockError::HeaderTooLong { .. } => &mut self.header_too_long,
            PsockError::TimedOut { .. } => &mut self.timed_out,
            PsockError::Stalled => &mut self.stalled,
            PsockError::Overrun { .. } => &mut self.overrun,
            PsockError::Io(_) | PsockError::Unattached => &mut self.io,
        } += 1;
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.eof
            + self.eof_mid_message
            + self.reset
            + self.parser
            + self.bad_length
            + self.too_long
            + self.header_too_long
            + self.timed_out
            + self.stalled
            + self.overrun
            + self.io
    }
}

/// What a multiplexor holds in memory, in bytes. Of blocks that several hold, what is unread
/// in them is counted, not their whole length; messages in the hands of callers are theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct MemoryStats {
    /// Where connections put unfinished messages together. A connection that has none, and is
    /// not reading at this moment, holds no buffer.
    pub assembly: u64,
    /// Blocks kept for the next reads, at most; none after two seconds without any.
    pub blocks: u64,
    /// Received messages in all queues.
    pub received: u64,
    /// Messages to be sent, in all queues.
    pub send: u64,
    /// Tables of connections and KCM sockets; they do not shrink.
    pub tables: u64,
}

impl MemoryStats {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.assembly + self.blocks + self.received + self.send + self.tables
    }
}
