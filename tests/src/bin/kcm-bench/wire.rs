//! The message format, what a consumer keeps of it, and the lines that the roles print.
//!
//! A message is a big-endian u32 length and that many bytes of payload (framed Thrift); the
//! payload's first 8 bytes are a little-endian number. A server counts messages and sums the
//! numbers; a run counts only if both equal what was sent.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};

/// Bytes of length in front of a payload.
pub(crate) const HEAD: usize = 4;

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
    }

    /// A server's last line.
    pub(crate) fn print_done(&self) {
        let Tally { msgs, bytes, sum } = self;
        println!("DONE msgs={msgs} bytes={bytes} sum={sum} end_ns={}", now_ns());
    }

    /// A sender's last line.
    pub(crate) fn print_sent(&self, more: &str) {
        let Tally { msgs, bytes, sum } = self;
        println!("SENT msgs={msgs} bytes={bytes} sum={sum}{more}");
    }
}

/// The length of the message at the front of `b`, head included.
#[inline]
pub(crate) fn message_len(b: &[u8]) -> Option<usize> {
    b.first_chunk::<HEAD>().map(|h| u32::from_be_bytes(*h) as usize + HEAD)
}

/// `count` messages back to back, their numbers 0, 1, 2, ...
pub(crate) fn messages(size: usize, count: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(count * (HEAD + size));
    for i in 0..count {
        out.extend_from_slice(&(size as u32).to_be_bytes());
        let at = out.len();
        out.resize(at + size, b'x');
        if let Some(n) = out[at..].first_chunk_mut::<8>() {
            *n = (i as u64).to_le_bytes();
        }
    }
    out
}

/// CLOCK_MONOTONIC in nanoseconds: the same clock in every process of a run.
pub(crate) fn now_ns() -> u64 {
    let t = clock_gettime(ClockId::Monotonic);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// Binds a free loopback port and says which.
pub(crate) fn listen() -> Result<TcpListener> {
    let l = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("READY {}", l.local_addr()?.port());
    std::io::stdout().flush()?;
    Ok(l)
}

/// Accepts `n` connections.
pub(crate) fn accept(l: &TcpListener, n: usize) -> Result<Vec<TcpStream>> {
    (0..n)
        .map(|_| {
            let (s, _) = l.accept()?;
            s.set_nodelay(true)?;
            Ok(s)
        })
        .collect()
}

/// Opens `n` connections to a loopback port.
pub(crate) fn connect(port: u16, n: usize) -> Result<Vec<TcpStream>> {
    (0..n)
        .map(|_| {
            let s = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                .with_context(|| format!("no server on port {port}"))?;
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
        assert_eq!(t, Tally { msgs: 5, bytes: 5 * 68, sum: 10 });
        assert_eq!(at, b.len());
        assert_eq!(messages(3, 2).len(), 14); // too short for a number: still whole messages
    }
}
