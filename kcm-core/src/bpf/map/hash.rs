//! Hash maps, plain and LRU: preallocated, with value addresses that stay valid as long as
//! the map, and look-ups that take no lock.
//!
//! Elements live in chains hung from buckets. A bucket's counter is odd while a writer
//! changes its chain; a reader that saw it change starts again. An element that is taken out
//! may be used again at once for another key, as with the kernel's preallocated maps: who
//! still holds its value's address then sees the new value. An update of an existing key
//! overwrites the value in place.
//!
//! A full LRU map throws out an element that no look-up has touched since the hand of a clock
//! last passed it: an approximation of least recently used, as the kernel's is.

use std::hash::BuildHasher;

use super::spin::Backoff;
use super::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering::*, RandomState, fence};
use super::{Exists, MapError};
use crate::bpf::memory::Memory;

/// No element. Indices are stored plus one.
const NONE: u32 = 0;

struct Bucket {
    seq: AtomicU32,
    head: AtomicU32,
}

#[derive(Default)]
struct Element {
    next: AtomicU32,
    bucket: AtomicU32,
    /// Is in a chain.
    live: AtomicBool,
    /// Was looked up since the clock's hand passed.
    touched: AtomicBool,
}

pub(crate) struct Hash {
    key_size: usize,
    key_words: usize,
    /// Bytes from one element's value to the next one's.
    stride: usize,
    lru: bool,
    buckets: Box<[Bucket]>,
    elements: Box<[Element]>,
    keys: Memory,
    values: Memory,
    /// Top of the stack of unused elements, with a count of changes in the high half.
    free: AtomicU64,
    used: AtomicU32,
    hand: AtomicU32,
    seed: RandomState,
}

/// Holds a bucket's chain for writing.
struct Locked<'a> {
    bucket: &'a Bucket,
    seq: u32,
}

impl Bucket {
    fn lock(&self) -> Locked<'_> {
        let mut wait = Backoff::default();
        loop {
            if let Some(l) = self.try_lock() {
                return l;
            }
            wait.pause();
        }
    }

    fn try_lock(&self) -> Option<Locked<'_>> {
        let seq = self.seq.load(Relaxed);
        let even = seq & 1 == 0;
        if even && self.seq.compare_exchange(seq, seq.wrapping_add(1), Acquire, Relaxed).is_ok() {
            // Orders the odd counter before the changes that follow, for readers.
            fence(Release);
            return Some(Locked { bucket: self, seq: seq.wrapping_add(2) });
        }
        None
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.bucket.seq.store(self.seq, Release);
    }
}

impl Hash {
    /// `None` when there is no memory. `stride` is a multiple of 8, `entries > 0`.
    pub(crate) fn new(key_size: usize, stride: usize, entries: u32, lru: bool) -> Option<Self> {
        let n = entries as usize;
        let key_words = key_size.div_ceil(8);
        let elements: Box<[Element]> = (0..entries)
            .map(|i| Element {
                // All unused, each pointing to the one after it.
                next: AtomicU32::new(if i + 1 < entries { i + 2 } else { NONE }),
                ..Element::default()
            })
            .collect();
        let buckets = (0..n.checked_next_power_of_two()?)
            .map(|_| Bucket { seq: AtomicU32::new(0), head: AtomicU32::new(NONE) })
            .collect();
        Some(Hash {
            key_size,
            key_words,
            stride,
            lru,
            buckets,
            elements,
            keys: Memory::zeroed(n.checked_mul(key_words * 8)?)?,
            values: Memory::zeroed(n.checked_mul(stride)?)?,
            free: AtomicU64::new(1),
            used: AtomicU32::new(0),
            hand: AtomicU32::new(0),
            seed: RandomState::new(),
        })
    }

    pub(crate) fn values(&self) -> &Memory {
        &self.values
    }

    pub(crate) fn len(&self) -> usize {
        self.used.load(Relaxed) as usize
    }

    fn bucket_of(&self, key: &[u8]) -> (u32, &Bucket) {
        let i = self.seed.hash_one(key) as usize & (self.buckets.len() - 1);
        (i as u32, &self.buckets[i])
    }

    fn has_key(&self, element: usize, key: &[u8]) -> bool {
        let base = element * self.key_words;
        key.chunks(8).enumerate().all(|(i, c)| {
            let mut w = [0; 8];
            w[..c.len()].copy_from_slice(c);
            self.keys.word(base + i).is_some_and(|k| k.load(Relaxed) == u64::from_le_bytes(w))
        })
    }

    fn key_of(&self, element: usize, out: &mut [u8]) {
        let _ = self.keys.read(element * self.key_words * 8, out);
    }

    /// Looks along a chain; the caller knows whether it may have changed meanwhile.
    fn find(&self, bucket: &Bucket, key: &[u8]) -> Option<usize> {
        let mut at = bucket.head.load(Acquire);
        // A chain that changes under a reader's feet may lead anywhere, but never on and on.
        for _ in 0..self.elements.len() {
            let i = (at as usize).checked_sub(1)?;
            if self.has_key(i, key) {
                return Some(i);
            }
            at = self.elements[i].next.load(Acquire);
        }
        None
    }

    /// Where the key's value starts in [`values`](Self::values).
    pub(crate) fn lookup(&self, key: &[u8]) -> Option<usize> {
        if key.len() != self.key_size {
            return None;
        }
        let (_, bucket) = self.bucket_of(key);
        let mut wait = Backoff::default();
        loop {
            let seq = bucket.seq.load(Acquire);
            let found = self.find(bucket, key);
            fence(Acquire);
            if seq & 1 == 0 && bucket.seq.load(Relaxed) == seq {
                let i = found?;
                if self.lru && !self.elements[i].touched.load(Relaxed) {
                    self.elements[i].touched.store(true, Relaxed);
                }
                return Some(i * self.stride);
            }
            wait.pause();
        }
    }

    /// Finds or makes the key's element and fills its value. The key's length was checked.
    pub(crate) fn update(
        &self,
        key: &[u8],
        exists: Exists,
        fill: impl Fn(&Memory, usize),
    ) -> Result<(), MapError> {
        let (index, bucket) = self.bucket_of(key);
        // Taken before the bucket's lock, for it may have to throw an element out of another.
        let mut spare = None;
        loop {
            let locked = bucket.lock();
            if let Some(i) = self.find(bucket, key) {
                let out = if exists == Exists::MustNot {
                    Err(MapError::Exists)
                } else {
                    fill(&self.values, i * self.stride);
                    Ok(())
                };
                drop(locked);
                if let Some(s) = spare {
                    self.give_back(s);
                }
                return out;
            }
            if exists == Exists::Must {
                drop(locked);
                if let Some(s) = spare {
                    self.give_back(s);
                }
                return Err(MapError::NotFound);
            }
            let Some(i) = spare else {
                drop(locked);
                spare = Some(self.take().ok_or(MapError::Full)?);
                continue;
            };
            for (w, c) in key.chunks(8).enumerate() {
                let mut word = [0; 8];
                word[..c.len()].copy_from_slice(c);
                if let Some(k) = self.keys.word(i * self.key_words + w) {
                    k.store(u64::from_le_bytes(word), Relaxed);
                }
            }
            fill(&self.values, i * self.stride);
            let e = &self.elements[i];
            e.bucket.store(index, Relaxed);
            e.touched.store(true, Relaxed);
            e.next.store(bucket.head.load(Relaxed), Relaxed);
            e.live.store(true, Release);
            bucket.head.store(i as u32 + 1, Release);
            self.used.fetch_add(1, Relaxed);
            return Ok(());
        }
    }

    pub(crate) fn delete(&self, key: &[u8]) -> Result<(), MapError> {
        if key.len() != self.key_size {
            return Err(MapError::NotFound);
        }
        let (_, bucket) = self.bucket_of(key);
        let locked = bucket.lock();
        let i = self.find(bucket, key).ok_or(MapError::NotFound)?;
        self.unlink(&locked, i);
        drop(locked);
        self.give_back(i);
        Ok(())
    }

    /// Takes an element out of the chain that `locked` holds. It is in it.
    fn unlink(&self, locked: &Locked<'_>, element: usize) {
        let me = element as u32 + 1;
        let next = self.elements[element].next.load(Relaxed);
        let mut link = &locked.bucket.head;
        loop {
            let at = link.load(Relaxed);
            if at == me {
                link.store(next, Release);
                break;
            }
            match (at as usize).checked_sub(1) {
                Some(i) => link = &self.elements[i].next,
                None => break,
            }
        }
        self.elements[element].live.store(false, Release);
        self.used.fetch_sub(1, Relaxed);
    }

    fn give_back(&self, element: usize) {
        let mut top = self.free.load(Relaxed);
        loop {
            self.elements[element].next.store(top as u32, Relaxed);
            let new = ((top >> 32).wrapping_add(1) << 32) | (element as u64 + 1);
            match self.free.compare_exchange_weak(top, new, Release, Relaxed) {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }

    fn take(&self) -> Option<usize> {
        let mut top = self.free.load(Acquire);
        loop {
            let Some(i) = (top as u32 as usize).checked_sub(1) else {
                return if self.lru { self.evict() } else { None };
            };
            let next = self.elements[i].next.load(Relaxed);
            let new = ((top >> 32).wrapping_add(1) << 32) | u64::from(next);
            match self.free.compare_exchange_weak(top, new, Acquire, Acquire) {
                Ok(_) => return Some(i),
                Err(now) => top = now,
            }
        }
    }

    /// Throws out an element. Goes around at most three times, then gives up: the elements
    /// are all in the hands of other threads.
    fn evict(&self) -> Option<usize> {
        let n = self.elements.len();
        for _ in 0..n.checked_mul(3)? {
            let i = self.hand.fetch_add(1, Relaxed) as usize % n;
            let e = &self.elements[i];
            if !e.live.load(Acquire) || e.touched.swap(false, Relaxed) {
                continue;
            }
            let bucket = &self.buckets[e.bucket.load(Relaxed) as usize];
            let Some(locked) = bucket.try_lock() else { continue };
            // Still where it was, now that nobody else can move it?
            let mut at = bucket.head.load(Relaxed) as usize;
            while at != 0 && at - 1 != i {
                at = self.elements[at - 1].next.load(Relaxed) as usize;
            }
            if at != 0 {
                self.unlink(&locked, i);
                return Some(i);
            }
        }
        None
    }

    /// A snapshot of the keys, in no order.
    pub(crate) fn keys(&self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        for bucket in &self.buckets {
            let _locked = bucket.lock();
            let mut at = bucket.head.load(Relaxed) as usize;
            while at != 0 {
                let mut key = vec![0; self.key_size];
                self.key_of(at - 1, &mut key);
                all.push(key);
                at = self.elements[at - 1].next.load(Relaxed) as usize;
            }
        }
        all
    }
}
