//! Statistics, and the texts of `/proc/net/kcm` and `/proc/net/kcm_stats` (semantics G4, G5).

use std::fmt::Write;

use super::*;
use crate::stats::{MemoryStats, PsockStats};

impl Mux {
    /// A KCM socket's counters; None once it is gone.
    pub fn kcm_stats(&self, kcm: KcmId) -> Option<KcmStats> {
        self.kcms.get(kcm.index, kcm.generation).map(kcm_stats)
    }

    /// A connection's counters; None once it is unattached.
    pub fn psock_stats(&self, psock: PsockId) -> Option<PsockStats> {
        self.psocks.get(psock.index, psock.generation).map(psock_stats)
    }

    /// The multiplexor's counters. At any moment
    /// `rx_msgs = delivered + queued + held + parked + returned + rx_ready_drops` and
    /// `accepted_msgs = tx_msgs + send_queued + tx_dropped`; the first also in bytes, except
    /// for what was dropped. Costs a walk over all sockets and connections.
    pub fn stats(&self) -> MuxStats {
        let mut stats = self.totals;
        stats.queued_msgs = self.lent_msgs as u64;
        stats.queued_bytes = self.lent_bytes as u64;
        for (_, k) in self.kcms.iter() {
            stats.queued_msgs += k.rx.msgs() as u64;
            stats.queued_bytes += k.rx.bytes() as u64;
            stats.send_queued_msgs += k.tx.msgs() as u64;
            stats.send_queued_bytes += k.tx.bytes() as u64;
        }
        stats.held_msgs = self.hold.msgs() as u64;
        stats.held_bytes = self.hold.bytes() as u64;
        for (_, p) in self.psocks.iter() {
            let one = psock_stats(p);
            fold(&mut stats.psocks, &one);
            stats.psocks.queued_msgs += one.queued_msgs;
            stats.psocks.queued_bytes += one.queued_bytes;
            stats.parked_msgs += one.parked_msgs;
            stats.parked_bytes += one.parked_bytes;
        }
        stats.psocks.parked_msgs = stats.parked_msgs;
        stats.psocks.parked_bytes = stats.parked_bytes;
        stats.memory = self.memory();
        stats.send_queued_msgs += stats.psocks.queued_msgs;
        stats.send_queued_bytes += stats.psocks.queued_bytes;
        stats
    }

    /// What is held in memory, without what the connections' readers hold.
    fn memory(&self) -> MemoryStats {
        let kcms = self.kcms.iter().map(|(_, k)| (k.rx.memory(), k.tx.memory()));
        let psocks = self.psocks.iter().map(|(_, p)| {
            let own = p.own.as_ref().map_or(0, |own| {
                own.queue.memory() + own.owners.capacity() * size_of::<(KcmId, usize)>()
            });
            (p.parked.memory(), own)
        });
        let (received, send) =
            kcms.chain(psocks).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let lists = [&self.rx_wait, &self.ready, &self.asking, &self.idle, &self.tx_wait];
        MemoryStats {
            assembly: 0,
            blocks: 0,
            received: (received + self.hold.memory() + self.lent_bytes) as u64,
            send: send as u64,
            tables: (self.kcms.memory()
                + self.psocks.memory()
                + lists.map(Fifo::memory).iter().sum::<usize>()) as u64,
        }
    }

    /// The text of `/proc/net/kcm` for this multiplexor alone, with the kernel's columns. Two
    /// of them mean what only we can know: a psock's Recv-Q and Rmem are the messages parked
    /// on it and their bytes, its Send-Q and Smem those queued for it alone. Rmem of a KCM
    /// socket is payload bytes.
    pub fn proc_net_kcm(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_proc_net_kcm(&mut out);
        out
    }

    fn write_proc_net_kcm(&self, out: &mut String) -> std::fmt::Result {
        let stats = self.stats();
        writeln!(out, "*** KCM statistics (1 MUX) ****\n")?;
        let columns = [
            "Object", "RX-Msgs", "RX-Bytes", "TX-Msgs", "TX-Bytes", "Recv-Q", "Rmem", "Send-Q",
            "Smem",
        ];
        row(out, columns, "Status")?;
        let counts = [stats.rx_msgs, stats.rx_bytes, stats.tx_msgs, stats.tx_bytes].map(text);
        let [a, b, c, d] = counts.each_ref().map(String::as_str);
        let status = format!("KCMs: {}, Psocks {}", self.kcms.len(), self.psocks.len());
        row(out, ["mux", a, b, c, d, "-", "-", "-", "-"], &status)?;
        for (index, k) in self.kcms.iter() {
            let s = kcm_stats(k);
            let cells = [
                s.rx_msgs,
                s.rx_bytes,
                s.tx_msgs,
                s.tx_bytes,
                s.recv_queued_msgs,
                s.recv_queued_bytes,
                s.send_queued_msgs,
            ]
            .map(text);
            let [a, b, c, d, e, f, g] = cells.each_ref().map(String::as_str);
            let mut status = String::new();
            if let Some(psock) = k.psock {
                write!(status, "Psck-{psock} ")?;
            }
            if self.tx_wait.contains(index) {
                status.push_str("TxWait ");
            }
            if k.batching {
                status.push_str("WMore ");
            }
            if self.rx_wait.contains(index) {
                status.push_str("RxWait ");
            }
            if k.closing.is_some() {
                status.push_str("Done ");
            }
            row(out, [&format!("   kcm-{index}"), a, b, c, d, e, f, g, "-"], &status)?;
        }
        for (index, p) in self.psocks.iter() {
            let s = psock_stats(p);
            let cells = [
                s.rx_msgs,
                s.strp.bytes.max(s.rx_bytes),
                s.tx_msgs,
                s.tx_bytes,
                s.parked_msgs,
                s.parked_bytes,
                s.queued_msgs,
                s.queued_bytes,
            ]
            .map(text);
            let [a, b, c, d, e, f, g, h] = cells.each_ref().map(String::as_str);
            let mut status = String::new();
            if p.leaving {
                status.push_str("Done ");
            }
            if !p.takes() {
                status.push_str("TxStop ");
            }
            if p.rx_ended {
                status.push_str("RxStop ");
            }
            if let Some(kcm) = p.owner {
                write!(status, "Rsvd-{kcm} ")?;
            }
            // The beginning of a message, which in the kernel would be in TCP's queue.
            if !p.rx_ended && s.strp.bytes > s.strp.delivered_bytes {
                match p.missing {
                    0 => status.push_str("RxWait "),
                    n => write!(status, "RxWait={n} ")?,
                }
            }
            if !p.parked.is_empty() {
                status.push_str(if p.rx_ended { "RdyRx " } else { "RxPause RdyRx " });
            }
            row(out, [&format!("   psock-{index}"), a, b, c, d, e, f, g, h], &status)?;
        }
        Ok(())
    }

    /// The text of `/proc/net/kcm_stats` for this multiplexor alone: the kernel's columns, with
    /// each value under its own heading (exceeding semantics G6).
    pub fn proc_net_kcm_stats(&self) -> String {
        let s = self.stats();
        let p = s.psocks;
        let mut out = String::new();
        for (name, columns) in [
            (
                "MUX",
                &[
                    ("RX-Msgs", s.rx_msgs),
                    ("RX-Bytes", s.rx_bytes),
                    ("TX-Msgs", s.tx_msgs),
                    ("TX-Bytes", s.tx_bytes),
                    ("TX-Retries", s.tx_retries),
                    ("Attach", s.attach),
                    ("Unattach", s.unattach),
                    ("UnattchRsvd", s.unattach_rsvd),
                    ("RX-RdyDrops", s.rx_ready_drops),
                ][..],
            ),
            (
                "Psock",
                &[
                    ("RX-Msgs", p.rx_msgs),
                    ("RX-Bytes", p.strp.bytes.max(p.rx_bytes)),
                    ("TX-Msgs", p.tx_msgs),
                    ("TX-Bytes", p.tx_bytes),
                    ("Reserved", p.reserved),
                    ("Unreserved", p.unreserved),
                    ("RX-Aborts", p.strp.aborts),
                    ("RX-Intr", p.strp.interrupted),
                    ("RX-Unrecov", p.strp.unrecov_intr),
                    ("RX-MemFail", p.strp.mem_fail),
                    ("RX-NeedMor", p.strp.need_more_hdr),
                    ("RX-BadLen", p.strp.bad_hdr_len),
                    ("RX-TooBig", p.strp.msg_too_big),
                    ("RX-Timeout", p.strp.msg_timeouts),
                    ("TX-Aborts", p.tx_aborts),
                ][..],
            ),
        ] {
            let mut heads = format!("{name:<8} ");
            let mut values = format!("{:<8} ", "");
            for (at, (head, value)) in columns.iter().enumerate() {
                let width = if at == 1 || at == 3 { 16 } else { 10 };
                // Writing to a String cannot fail.
                let _ = write!(heads, "{head:<width$} ");
                let width = width.max(head.len());
                let _ = write!(values, "{value:<width$} ");
            }
            out.push_str(&heads);
            out.push('\n');
            out.push_str(&values);
            out.push('\n');
        }
        out
    }
}

fn text(n: u64) -> String {
    n.to_string()
}

fn row(out: &mut String, cells: [&str; 9], status: &str) -> std::fmt::Result {
    let [o, a, b, c, d, e, f, g, h] = cells;
    writeln!(out, "{o:<14} {a:<10} {b:<16} {c:<10} {d:<16} {e:<8} {f:<8} {g:<8} {h:<8} {status}")
}

fn kcm_stats(k: &Kcm) -> KcmStats {
    KcmStats {
        recv_queued_msgs: (k.rx.msgs() + k.lent_msgs) as u64,
        recv_queued_bytes: k.unread() as u64,
        send_queued_msgs: (k.tx.msgs() + k.addressed_msgs) as u64,
        send_queued_bytes: k.unsent() as u64,
        ..k.stats
    }
}

fn psock_stats(p: &Psock) -> PsockStats {
    let (queued_msgs, queued_bytes) = match &p.own {
        Some(own) => (own.queue.msgs(), own.queue.bytes()),
        None => (0, 0),
    };
    PsockStats {
        parked_msgs: p.parked.msgs() as u64,
        parked_bytes: p.parked.bytes() as u64,
        queued_msgs: queued_msgs as u64,
        queued_bytes: queued_bytes as u64,
        ..p.stats.stats()
    }
}

/// Adds one connection's counters, not its gauges, to a sum.
pub(super) fn fold(sum: &mut PsockStats, one: &PsockStats) {
    sum.strp += one.strp;
    sum.rx_msgs += one.rx_msgs;
    sum.rx_bytes += one.rx_bytes;
    sum.rx_batches += one.rx_batches;
    sum.rx_batch_max = sum.rx_batch_max.max(one.rx_batch_max);
    sum.tx_msgs += one.tx_msgs;
    sum.tx_bytes += one.tx_bytes;
    sum.reserved += one.reserved;
    sum.unreserved += one.unreserved;
    sum.tx_aborts += one.tx_aborts;
}
