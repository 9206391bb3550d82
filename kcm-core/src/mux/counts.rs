//! The counters of a connection, in the memory that they need.

use crate::stats::{PsockStats, StrpCounts, StrpStats};

/// As [`PsockStats`], without what is counted when it is asked for.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) rx_msgs: u64,
    pub(super) rx_bytes: u64,
    pub(super) rx_batches: u64,
    pub(super) rx_batch_max: u32,
    pub(super) tx_aborts: u8,
    pub(super) tx_msgs: u64,
    pub(super) tx_bytes: u64,
    pub(super) reserved: u64,
    pub(super) unreserved: u64,
    strp: StrpCounts,
    strp_bytes: u64,
}

impl Counts {
    /// Takes the stream parser's counters over.
    pub(super) fn set_strp(&mut self, stats: &StrpStats) {
        self.strp = stats.into();
        self.strp_bytes = stats.bytes;
    }

    /// All of them, and nothing queued.
    pub(super) fn stats(&self) -> PsockStats {
        PsockStats {
            strp: self.strp.stats(self.strp_bytes),
            rx_msgs: self.rx_msgs,
            rx_bytes: self.rx_bytes,
            rx_batches: self.rx_batches,
            rx_batch_max: self.rx_batch_max.into(),
            tx_msgs: self.tx_msgs,
            tx_bytes: self.tx_bytes,
            reserved: self.reserved,
            unreserved: self.unreserved,
            tx_aborts: self.tx_aborts.into(),
            ..PsockStats::default()
        }
    }
}
