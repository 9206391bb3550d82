//! Counters under the kernel's names, and its two `/proc` texts (semantics G4, G5, H1).
//!
//! The names are the kernel's, the values are right where the kernel's are not (semantics
//! J16, exceeding G6, G7, H2): unattach counts stand under their own headings, retries are
//! summed, aborts are counted, bytes are counted once, and the mux line is the sum of its
//! psocks at any moment.

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
    /// Nanoseconds spent looking for messages, if the driver measures them; else 0. Beyond the
    /// kernel's counters.
    pub parse_nanos: u64,
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
    /// All psocks' counters, summed.
    pub psocks: PsockStats,
}
