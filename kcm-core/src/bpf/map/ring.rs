//! Ring buffers: records from programs to the application.
//!
//! As in the kernel, a record is reserved (busy), filled in place, and submitted or
//! discarded; the reader sees records in the order of their reservation and waits behind a
//! busy one. The block is twice the ring's size, so that a record which starts before the
//! ring's end is contiguous; its bytes beyond the end stand for the ring's first ones, which
//! no other record uses at that time.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use std::time::{Duration, Instant};

use super::spin::Spin;
use crate::bpf::memory::Memory;

const HEADER: u64 = 8;
const BUSY: u64 = 1 << 31;
const DISCARD: u64 = 1 << 30;
const LEN: u64 = DISCARD - 1;

/// `BPF_RB_NO_WAKEUP`: submit without waking the reader.
pub(crate) const NO_WAKEUP: u64 = 1;
/// `BPF_RB_FORCE_WAKEUP`: wake the reader even where it is not waiting for this record.
pub(crate) const FORCE_WAKEUP: u64 = 2;

pub(crate) struct Ring {
    memory: Memory,
    size: u64,
    reserving: Spin,
    /// Bytes ever reserved; written under `reserving`.
    produced: AtomicU64,
    /// Bytes ever consumed; written under `reading`. `consumed <= produced <= consumed + size`.
    consumed: AtomicU64,
    lost: AtomicU64,
    reading: parking_lot::Mutex<()>,
    sleepers: AtomicU32,
    wake: (parking_lot::Mutex<u64>, parking_lot::Condvar),
}

impl Ring {
    /// `size` is a power of two and at least 8; `None` when there is no memory.
    pub(crate) fn new(size: usize) -> Option<Self> {
        debug_assert!(size.is_power_of_two() && size >= 8);
        Some(Ring {
            memory: Memory::zeroed(size.checked_mul(2)?)?,
            size: size as u64,
            reserving: Spin::default(),
            produced: AtomicU64::new(0),
            consumed: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            reading: parking_lot::Mutex::new(()),
            sleepers: AtomicU32::new(0),
            wake: Default::default(),
        })
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Records that found no room.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Total bytes of the ring, bytes ever consumed, bytes ever produced.
    pub(crate) fn positions(&self) -> (u64, u64, u64) {
        (self.size, self.consumed.load(Acquire), self.produced.load(Acquire))
    }

    /// Reserves a record of `len` bytes and returns where it starts in [`memory`](Self::memory).
    pub(crate) fn reserve(&self, len: u64) -> Option<usize> {
        let whole = len.checked_next_multiple_of(8)?.checked_add(HEADER)?;
        if len > LEN || whole >= self.size {
            self.lost.fetch_add(1, Relaxed);
            return None;
        }
        let held = self.reserving.lock();
        let at = self.produced.load(Relaxed);
        if at + whole - self.consumed.load(Acquire) >= self.size {
            drop(held);
            self.lost.fetch_add(1, Relaxed);
            return None;
        }
        let start = (at & (self.size - 1)) as usize;
        self.memory.word(start / 8)?.store(len | BUSY, Relaxed);
        // Publishes the busy header with the position.
        self.produced.store(at + whole, Release);
        Some(start + HEADER as usize)
    }

    /// Ends the reservation that starts at `record`. `false` when there is none.
    pub(crate) fn commit(&self, record: usize, discard: bool, flags: u64) -> bool {
        let Some(start) = record.checked_sub(HEADER as usize) else { return false };
        let Some(header) = self.memory.word(start / 8) else { return false };
        let h = header.load(Relaxed);
        if h & BUSY == 0 {
            return false;
        }
        let done = (h & LEN) | if discard { DISCARD } else { 0 };
        // Publishes the record's bytes; SeqCst orders it before the look at `sleepers`, which
        // pairs with a sleeper's registration before its last look at the header.
        header.store(done, SeqCst);
        let next = (self.consumed.load(SeqCst) & (self.size - 1)) as usize == start;
        if flags & FORCE_WAKEUP != 0 || (next && flags & NO_WAKEUP == 0) {
            self.notify();
        }
        true
    }

    fn notify(&self) {
        if self.sleepers.load(SeqCst) > 0 {
            *self.wake.0.lock() += 1;
            self.wake.1.notify_all();
        }
    }

    /// Copies a whole record in. `false` when there is no room.
    pub(crate) fn output(&self, parts: &[&[u8]], flags: u64) -> bool {
        let len: usize = parts.iter().map(|p| p.len()).sum();
        let Some(record) = self.reserve(len as u64) else { return false };
        let mut at = record;
        for part in parts {
            // In bounds: the reservation is as long as all parts together.
            let _ = self.memory.write(at, part);
            at += part.len();
        }
        self.commit(record, false, flags)
    }

    /// Moves the next finished record's bytes into `out`. `false` when the ring is empty or
    /// its next record is still busy.
    pub(crate) fn pop(&self, out: &mut Vec<u8>) -> bool {
        let _one = self.reading.lock();
        loop {
            let at = self.consumed.load(Relaxed);
            if at == self.produced.load(Acquire) {
                return false;
            }
            let start = (at & (self.size - 1)) as usize;
            let Some(header) = self.memory.word(start / 8) else { return false };
            let h = header.load(SeqCst);
            if h & BUSY != 0 {
                return false;
            }
            let len = (h & LEN) as usize;
            let discarded = h & DISCARD != 0;
            if !discarded {
                out.clear();
                out.resize(len, 0);
                let _ = self.memory.read(start + HEADER as usize, out);
            }
            // Gives the room back only after the bytes were read.
            self.consumed.store(at + HEADER + (len as u64).next_multiple_of(8), SeqCst);
            if !discarded {
                return true;
            }
        }
    }

    /// Like [`pop`](Self::pop), waiting for a record until the deadline.
    pub(crate) fn pop_until(&self, out: &mut Vec<u8>, deadline: Instant) -> bool {
        loop {
            if self.pop(out) {
                return true;
            }
            self.sleepers.fetch_add(1, SeqCst);
            let before = *self.wake.0.lock();
            // The last look, after registering: a record finished before this is found here,
            // one finished later finds this sleeper.
            if self.pop(out) {
                self.sleepers.fetch_sub(1, SeqCst);
                return true;
            }
            let mut seen = self.wake.0.lock();
            let mut late = false;
            while *seen == before && !late {
                let left = deadline.saturating_duration_since(Instant::now());
                late = left == Duration::ZERO || self.wake.1.wait_for(&mut seen, left).timed_out();
            }
            drop(seen);
            self.sleepers.fetch_sub(1, SeqCst);
            if late {
                return self.pop(out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_out_in_order_of_reservation_and_wait_behind_a_busy_one() {
        let r = Ring::new(64).unwrap();
        let a = r.reserve(5).unwrap();
        let b = r.reserve(1).unwrap();
        r.memory().write(a, b"first").unwrap();
        r.memory().write(b, b"2").unwrap();
        assert!(r.commit(b, false, 0));
        let mut out = Vec::new();
        assert!(!r.pop(&mut out), "the first is busy");
        assert!(r.commit(a, false, 0));
        assert!(!r.commit(a, false, 0), "only once");
        assert!(r.pop(&mut out));
        assert_eq!(out, b"first");
        assert!(r.pop(&mut out));
        assert_eq!(out, b"2");
        assert!(!r.pop(&mut out));
        let (_, consumed, produced) = r.positions();
        assert_eq!(consumed, produced);
    }

    #[test]
    fn a_full_ring_refuses_and_counts_and_takes_again_when_read() {
        let r = Ring::new(64).unwrap();
        assert!(r.output(&[b"0123456789", b"abcdef"], 0));
        assert!(r.output(&[b"0123456789abcdef"], 0));
        assert!(!r.output(&[b"0123456789abcdef"], 0), "48 + 24 > 64");
        assert_eq!(r.lost(), 1);
        let mut out = Vec::new();
        for i in 0..100u8 {
            // From here every third record straddles the end of the ring.
            assert!(r.pop(&mut out));
            if i > 1 {
                assert_eq!(out, [i - 2; 16]);
            }
            assert!(r.output(&[&[i; 16]], 0));
        }
    }

    #[test]
    fn discarded_records_are_never_seen() {
        let r = Ring::new(128).unwrap();
        let a = r.reserve(8).unwrap();
        assert!(r.commit(a, true, 0));
        assert!(r.output(&[b"x"], 0));
        let mut out = Vec::new();
        assert!(r.pop(&mut out));
        assert_eq!(out, b"x");
    }

    #[test]
    fn many_writers_and_a_sleeping_reader_lose_nothing() {
        let r = Ring::new(256).unwrap();
        let (writers, each) = (3u64, 2000u64);
        std::thread::scope(|s| {
            for w in 0..writers {
                let r = &r;
                s.spawn(move || {
                    for i in 0..each {
                        while !r.output(&[&w.to_le_bytes(), &i.to_le_bytes()], 0) {
                            std::thread::yield_now();
                        }
                    }
                });
            }
            let mut next = [0u64; 3];
            let mut out = Vec::new();
            for _ in 0..writers * each {
                let deadline = Instant::now() + Duration::from_secs(60);
                assert!(r.pop_until(&mut out, deadline), "a record was lost");
                let w = u64::from_le_bytes(out[..8].try_into().unwrap()) as usize;
                let i = u64::from_le_bytes(out[8..].try_into().unwrap());
                assert_eq!(i, next[w], "records of one writer stay in order");
                next[w] += 1;
            }
            assert!(!r.pop(&mut out));
        });
    }

    #[test]
    fn a_record_as_large_as_the_ring_is_refused() {
        let r = Ring::new(64).unwrap();
        assert!(r.reserve(64).is_none());
        assert!(r.reserve(56).is_none(), "a full ring would look empty");
        assert!(r.reserve(48).is_some());
        assert!(r.reserve(u64::MAX).is_none());
    }
}
