//! The senders, and what a receiver has seen.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use kcm_tests::oracle::kernel::sys;

pub(crate) use kcm_tests::bench_format::{HEAD, messages};

/// How long a sender waits for a receiver that takes nothing before it says so.
const STALLED: Duration = Duration::from_secs(5);

/// Messages counted, and their numbers summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) msgs: u64,
    pub(crate) sum: u64,
}

impl Tally {
    /// Counts one message, head included.
    #[inline]
    pub(crate) fn eat(&mut self, message: &[u8]) {
        self.msgs += 1;
        if let Some(n) = message.get(HEAD..).and_then(|p| p.first_chunk::<8>()) {
            self.sum = self.sum.wrapping_add(u64::from_le_bytes(*n));
        }
    }

    pub(crate) fn add(&mut self, other: Tally) {
        self.msgs += other.msgs;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

/// A measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) sent: Tally,
    pub(crate) received: Tally,
    /// From the first write to the last message received.
    pub(crate) seconds: f64,
    /// A sender gave up: the receiver took nothing any more.
    pub(crate) stalled: bool,
}

/// Senders that are connected and wait for the start.
pub(crate) struct Load {
    conns: Vec<TcpStream>,
    batch: Vec<u8>,
    per_write: usize,
}

/// Senders at work.
pub(crate) struct Running {
    pub(crate) start: Instant,
    threads: Vec<JoinHandle<Result<(Tally, bool)>>>,
}

impl Load {
    /// The load, and the receiving ends of its connections.
    pub(crate) fn connect(
        n: usize,
        size: usize,
        per_write: usize,
    ) -> Result<(Load, Vec<TcpStream>)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (mut conns, mut accepted) = (Vec::new(), Vec::new());
        for _ in 0..n {
            let c = TcpStream::connect(listener.local_addr()?)?;
            c.set_nodelay(true)?;
            c.set_write_timeout(Some(STALLED))?;
            conns.push(c);
            accepted.push(listener.accept()?.0);
        }
        Ok((Load { conns, batch: messages(size, per_write), per_write }, accepted))
    }

    /// Starts a thread per connection, for a time.
    pub(crate) fn start(self, secs: f64) -> Running {
        let start = Instant::now();
        let end = start + Duration::from_secs_f64(secs);
        let threads = self
            .conns
            .into_iter()
            .map(|c| {
                let (batch, per_write) = (self.batch.clone(), self.per_write as u64);
                std::thread::spawn(move || send(&c, &batch, per_write, end))
            })
            .collect();
        Running { start, threads }
    }
}

impl Running {
    /// All senders have ended (or a thread of them is about to say why not).
    pub(crate) fn ended(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// What was sent, beside what was received until `last`.
    pub(crate) fn finish(self, received: Tally, last: Instant) -> Result<Seen> {
        let seconds = last.saturating_duration_since(self.start).as_secs_f64();
        let (mut sent, mut stalled) = (Tally::default(), false);
        for t in self.threads {
            let (tally, gave_up) = t.join().map_err(|_| anyhow!("a sender panicked"))??;
            sent.add(tally);
            stalled |= gave_up;
        }
        Ok(Seen { sent, received, seconds, stalled })
    }
}

/// Writes whole batches until the time is over; what was sent, and whether it had to give up.
fn send(c: &TcpStream, batch: &[u8], per_write: u64, end: Instant) -> Result<(Tally, bool)> {
    let mut batches = 0;
    let mut stalled = false;
    'all: while Instant::now() < end {
        let mut at = 0;
        while at < batch.len() {
            // EOR: the next write starts a segment of its own. The kernel's parser sees segments
            // and takes the start of each for the start of a message (semantics B8).
            let flags = libc::MSG_NOSIGNAL | libc::MSG_EOR;
            match sys::send(c.as_raw_fd(), &batch[at..], flags) {
                Ok(n) => at += n,
                Err(e) if e.0 == libc::EAGAIN => {
                    stalled = true;
                    break 'all;
                }
                Err(e) if e.0 == libc::EINTR => {}
                Err(e) => return Err(anyhow!("a sender: {e}")),
            }
        }
        batches += 1;
    }
    match c.shutdown(Shutdown::Write) {
        Err(e) if e.kind() != ErrorKind::NotConnected => return Err(e).context("shutdown"),
        _ => {}
    }
    let msgs = batches * per_write;
    Ok((Tally { msgs, sum: batches.wrapping_mul(per_write * (per_write - 1) / 2) }, stalled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_and_summed_as_they_were_made() {
        let b = messages(64, 5);
        let mut t = Tally::default();
        b.chunks(68).for_each(|m| t.eat(m));
        assert_eq!(t, Tally { msgs: 5, sum: 10 });
    }
}
