//! The message format, what a consumer keeps of it, and the lines that the roles print.
//!
//! A message is a big-endian u32 length and that many bytes of payload (framed Thrift); the
//! payload's first 8 bytes are a little-endian number. A server counts messages and sums the
//! numbers; a run counts only if both equal what was sent.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};

pub(crate) use kcm_tests::bench_format::{HEAD, messages};

/// The number of messages that an echoing server counts, but does not answer.
pub(crate) const UNANSWERED: u64 = 1 << 32;

/// Whether a message with this payload is to be answered.
#[inline]
pub(crate) fn wants_answer(payload: &[u8]) -> bool {
    payload.first_chunk::<8>().is_none_or(|n| u64::from_le_bytes(*n) < UNANSWERED)
}

/// How much a receiver that reads for itself asks for at once; 32 to 128 KiB is the best
/// range (beyond it, the cache is lost).
pub(crate) const READ: usize = 128 * 1024;

/// What a consumer has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) msgs: u64,
    /// Heads included.
    pub(crate) bytes: u64,
    /// Wrapping sum of the payloads' numbers.
    pub(crate) sum: u64,
    /// When the last one was seen, 0 where nobody looked at the clock.
    pub(crate) last_ns: u64,
}

impl Tally {
    /// Counts one payload; reads its number, so that its bytes must really be there.
    #[inline]
    pub(crate) fn eat(&mut self, payload: &[u8]) {
        self.msgs += 1;
        self.bytes += (payload.len() + HEAD) as u64;
        if let Some(n) = payload.first_chunk::<8>() {
            self.sum = self.sum.wrapping_add(u64::from_le_bytes(*n));
        }
    }

    pub(crate) fn add(&mut self, other: Tally) {
        self.msgs += other.msgs;
        self.bytes += other.bytes;
        self.sum = self.sum.wrapping_add(other.sum);
        self.last_ns = self.last_ns.max(other.last_ns);
    }

    /// Notes the time: with thousands of connections, the run has ended when the last message
    /// is there, not when the last connection is closed.
    pub(crate) fn stamp(&mut self) {
        self.last_ns = now_ns();
    }

    /// A server's last line.
    pub(crate) fn print_done(&self) {
        let Tally { msgs, bytes, sum, last_ns } = self;
        let end_ns = if *last_ns > 0 { *last_ns } else { now_ns() };
        println!("DONE msgs={msgs} bytes={bytes} sum={sum} end_ns={end_ns}");
    }

    /// A sender's last line.
    pub(crate) fn print_sent(&self, more: &str) {
        let Tally { msgs, bytes, sum, .. } = self;
        println!("SENT msgs={msgs} bytes={bytes} sum={sum}{more}");
    }
}

/// The length of the message at the front of `b`, head included.
#[inline]
pub(crate) fn message_len(b: &[u8]) -> Option<usize> {
    b.first_chunk::<HEAD>().map(|h| u32::from_be_bytes(*h) as usize + HEAD)
}

/// CLOCK_MONOTONIC in nanoseconds: the same clock in every process of a run.
pub(crate) fn now_ns() -> u64 {
    let t = clock_gettime(ClockId::Monotonic);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// Connections to one address and port, at most: a client's ports are some 28,000, and those of
/// the runs before may still be in TIME_WAIT.
const PER_ADDRESS: usize = 4096;

/// The `i`th connection's address at the server: 127.0.0.1, and further ones where there are
/// very many connections.
fn address(i: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + (i / PER_ADDRESS) as u32)
}

/// Binds a free loopback port, says which, and accepts `n` connections.
pub(crate) fn accept(n: usize) -> Result<Vec<TcpStream>> {
    let first = TcpListener::bind((address(0), 0))?;
    let port = first.local_addr()?.port();
    let mut listeners = vec![first];
    for i in (PER_ADDRESS..n).step_by(PER_ADDRESS) {
        listeners.push(
            TcpListener::bind((address(i), port))
                .with_context(|| format!("port {port} is not free on {}", address(i)))?,
        );
    }
    println!("READY {port}");
    std::io::stdout().flush()?;
    (0..n)
        .map(|i| {
            // In the order in which `connect` asks for them.
            let (s, _) = listeners[i / PER_ADDRESS].accept()?;
            s.set_nodelay(true)?;
            Ok(s)
        })
        .collect()
}

/// Opens `n` connections to a loopback port.
pub(crate) fn connect(port: u16, n: usize) -> Result<Vec<TcpStream>> {
    (0..n)
        .map(|i| {
            let s = TcpStream::connect((address(i), port))
                .with_context(|| format!("no server on {}:{port}", address(i)))?;
            s.set_nodelay(true)?;
            Ok(s)
        })
        .collect()
}

/// Looks at the clock only every 64th time: a sender's loop must not measure the clock.
pub(crate) struct Until {
    stop_ns: u64,
    calls: u32,
}

impl Until {
    /// Starts now, says so, and ends after `secs`.
    pub(crate) fn start(secs: f64) -> u64 {
        let start = now_ns();
        println!("START start_ns={start}");
        start + (secs * 1e9) as u64
    }

    pub(crate) fn new(stop_ns: u64) -> Self {
        Until { stop_ns, calls: 0 }
    }

    #[inline]
    pub(crate) fn goes_on(&mut self) -> bool {
        self.calls = self.calls.wrapping_add(1);
        !self.calls.is_multiple_of(64) || now_ns() < self.stop_ns
    }

    /// Looks at the clock: for calls that do much at once.
    #[inline]
    pub(crate) fn not_over(&self) -> bool {
        now_ns() < self.stop_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_and_summed_as_they_were_made() {
        let b = messages(64, 5);
        let mut t = Tally::default();
        let mut at = 0;
        while let Some(len) = message_len(&b[at..]) {
            t.eat(&b[at + HEAD..at + len]);
            at += len;
        }
        assert_eq!(t, Tally { msgs: 5, bytes: 5 * 68, sum: 10, last_ns: 0 });
        assert_eq!(at, b.len());
        assert_eq!(messages(3, 2).len(), 14); // too short for a number: still whole messages
    }
}
