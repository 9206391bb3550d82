//! Memory that programs on many threads may touch at once: map values and ring-buffer
//! records.
//!
//! The kernel lets programs read and write map values without any order between CPUs; so
//! does this engine. What is guaranteed: an access that is naturally aligned is one access
//! (never torn), an unaligned one is a sequence of byte accesses, atomics (always aligned:
//! the verifier insists) are sequentially consistent, and nothing else is ordered. All
//! memory is made of `AtomicU64`; every access made in Rust is atomic, so that a race
//! between programs, or of a program with the application, is a stale or mixed value and
//! never undefined behaviour.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

/// A fixed block of zero-initialised shared memory, aligned to 8 bytes.
pub(crate) struct Memory {
    words: Box<[AtomicU64]>,
}

impl Memory {
    /// `None` when the allocator has no such block.
    pub(crate) fn zeroed(bytes: usize) -> Option<Self> {
        let n = bytes.div_ceil(8);
        if n == 0 {
            return Some(Memory { words: Box::default() });
        }
        let layout = Layout::array::<AtomicU64>(n).ok()?;
        // SAFETY: the layout's size is not zero (n > 0).
        let p = unsafe { alloc_zeroed(layout) };
        if p.is_null() {
            return None;
        }
        let slice = std::ptr::slice_from_raw_parts_mut(p.cast::<AtomicU64>(), n);
        // SAFETY: `p` was allocated by the global allocator with the layout of
        // `[AtomicU64; n]`, and zeroed memory is a valid `AtomicU64`.
        let words = unsafe { Box::from_raw(slice) };
        Some(Memory { words })
    }

    /// Bytes in the block.
    pub(crate) fn len(&self) -> usize {
        self.words.len() * 8
    }

    /// Address of the first byte, with its provenance exposed: executors make pointers from
    /// numbers in registers.
    pub(crate) fn addr(&self) -> u64 {
        self.words.as_ptr().expose_provenance() as u64
    }

    /// The aligned word with this index.
    pub(crate) fn word(&self, index: usize) -> Option<&AtomicU64> {
        self.words.get(index)
    }

    #[cfg(test)]
    fn byte(&self, off: usize) -> Option<u8> {
        let w = self.words.get(off / 8)?.load(Relaxed);
        Some((w >> (off % 8 * 8)) as u8)
    }

    fn set_byte(&self, off: usize, v: u8) -> Option<()> {
        let (mask, bits) = (0xffu64 << (off % 8 * 8), u64::from(v) << (off % 8 * 8));
        self.words
            .get(off / 8)?
            .fetch_update(Relaxed, Relaxed, |w| Some((w & !mask) | bits))
            .ok()
            .map(drop)
    }

    /// Loads `size` (1, 2, 4, 8) bytes, little-endian. `None` when out of the block.
    #[cfg(test)]
    pub(crate) fn load(&self, off: usize, size: usize) -> Option<u64> {
        if off.checked_add(size)? > self.len() {
            return None;
        }
        if off % 8 + size <= 8 {
            let w = self.words.get(off / 8)?.load(Relaxed) >> (off % 8 * 8);
            return Some(if size == 8 { w } else { w & ((1 << (size * 8)) - 1) });
        }
        let mut v = 0;
        for i in 0..size {
            v |= u64::from(self.byte(off + i)?) << (i * 8);
        }
        Some(v)
    }

    /// Stores the low `size` (1, 2, 4, 8) bytes of `v`, little-endian. `None` (and nothing
    /// stored) when out of the block.
    pub(crate) fn store(&self, off: usize, size: usize, v: u64) -> Option<()> {
        if off.checked_add(size)? > self.len() {
            return None;
        }
        if size == 8 && off.is_multiple_of(8) {
            self.words.get(off / 8)?.store(v, Relaxed);
            return Some(());
        }
        for i in 0..size {
            self.set_byte(off + i, (v >> (i * 8)) as u8)?;
        }
        Some(())
    }

    /// Replaces the aligned `size` (4 or 8) bytes by `f` of them, as one sequentially
    /// consistent step, and returns what was there. `None` when unaligned or out of the block.
    pub(crate) fn atomic(&self, off: usize, size: usize, f: impl Fn(u64) -> u64) -> Option<u64> {
        use std::sync::atomic::Ordering::SeqCst;
        if !off.is_multiple_of(size) || (size != 4 && size != 8) {
            return None;
        }
        let shift = off % 8 * 8;
        let mask = if size == 8 { u64::MAX } else { 0xffff_ffff << shift };
        self.words
            .get(off / 8)?
            .fetch_update(SeqCst, SeqCst, |w| {
                Some((w & !mask) | ((f((w & mask) >> shift) << shift) & mask))
            })
            .ok()
            .map(|w| (w & mask) >> shift)
    }

    /// Copies bytes out. `None` when out of the block.
    pub(crate) fn read(&self, off: usize, out: &mut [u8]) -> Option<()> {
        if off.checked_add(out.len())? > self.len() {
            return None;
        }
        let mut at = off;
        for chunk in chunks_to_alignment(out, off) {
            let w = self.words.get(at / 8)?.load(Relaxed).to_le_bytes();
            let from = at % 8;
            chunk.copy_from_slice(w.get(from..from + chunk.len())?);
            at += chunk.len();
        }
        Some(())
    }

    /// Copies bytes in. `None` (and nothing written) when out of the block.
    pub(crate) fn write(&self, off: usize, bytes: &[u8]) -> Option<()> {
        if off.checked_add(bytes.len())? > self.len() {
            return None;
        }
        let mut at = off;
        let mut rest = bytes;
        while !rest.is_empty() {
            if at.is_multiple_of(8)
                && let Some((word, tail)) = rest.split_first_chunk::<8>()
            {
                self.words.get(at / 8)?.store(u64::from_le_bytes(*word), Relaxed);
                (at, rest) = (at + 8, tail);
            } else if let Some((b, tail)) = rest.split_first() {
                self.set_byte(at, *b)?;
                (at, rest) = (at + 1, tail);
            }
        }
        Some(())
    }

    /// Sets bytes to zero. `None` when out of the block.
    pub(crate) fn zero(&self, off: usize, len: usize) -> Option<()> {
        if off.checked_add(len)? > self.len() {
            return None;
        }
        let (mut at, end) = (off, off + len);
        while at < end {
            if at.is_multiple_of(8) && end - at >= 8 {
                self.words.get(at / 8)?.store(0, Relaxed);
                at += 8;
            } else {
                self.set_byte(at, 0)?;
                at += 1;
            }
        }
        Some(())
    }
}

/// Cuts `out` so that no piece crosses an 8-byte boundary of a block in which it starts at
/// `off`.
fn chunks_to_alignment(out: &mut [u8], off: usize) -> impl Iterator<Item = &mut [u8]> {
    let head = ((8 - off % 8) % 8).min(out.len());
    let (first, rest) = out.split_at_mut(head);
    std::iter::once(first).filter(|f| !f.is_empty()).chain(rest.chunks_mut(8))
}

/// Access through addresses that the verifier proved to be in shared memory. Atomic, relaxed,
/// one access when aligned and byte by byte when not.
pub(crate) mod racy {
    use super::*;

    #[inline(always)]
    fn ptr(addr: u64) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut(addr as usize)
    }

    /// # Safety
    /// `addr` is valid for one byte.
    #[inline(always)]
    pub(crate) unsafe fn load8(addr: u64) -> u8 {
        // SAFETY: by contract; one byte is always aligned.
        unsafe { AtomicU8::from_ptr(ptr(addr)).load(Relaxed) }
    }

    /// # Safety
    /// `addr` is valid for writing one byte.
    #[inline(always)]
    pub(crate) unsafe fn store8(addr: u64, v: u8) {
        // SAFETY: by contract; one byte is always aligned.
        unsafe { AtomicU8::from_ptr(ptr(addr)).store(v, Relaxed) }
    }

    macro_rules! wide {
        ($load:ident, $store:ident, $int:ty, $atomic:ty) => {
            /// # Safety
            /// `addr` is valid for reads of this size.
            #[inline(always)]
            pub(crate) unsafe fn $load(addr: u64) -> $int {
                const N: usize = size_of::<$int>();
                if addr % N as u64 == 0 {
                    // SAFETY: valid by contract, aligned as just tested.
                    unsafe { <$atomic>::from_ptr(ptr(addr).cast()).load(Relaxed) }
                } else {
                    let mut b = [0u8; N];
                    for (i, b) in b.iter_mut().enumerate() {
                        // SAFETY: within the bytes that are valid by contract.
                        *b = unsafe { load8(addr + i as u64) };
                    }
                    <$int>::from_le_bytes(b)
                }
            }

            /// # Safety
            /// `addr` is valid for writes of this size.
            #[inline(always)]
            pub(crate) unsafe fn $store(addr: u64, v: $int) {
                const N: usize = size_of::<$int>();
                if addr % N as u64 == 0 {
                    // SAFETY: valid by contract, aligned as just tested.
                    unsafe { <$atomic>::from_ptr(ptr(addr).cast()).store(v, Relaxed) }
                } else {
                    for (i, b) in v.to_le_bytes().into_iter().enumerate() {
                        // SAFETY: within the bytes that are valid by contract.
                        unsafe { store8(addr + i as u64, b) };
                    }
                }
            }
        };
    }
    wide!(load16, store16, u16, AtomicU16);
    wide!(load32, store32, u32, AtomicU32);
    wide!(load64, store64, u64, AtomicU64);

    /// Copies bytes that other threads may be changing into a buffer of one's own.
    ///
    /// # Safety
    /// `addr` is valid for reads of `out.len()` bytes, which `out` does not overlap.
    pub(crate) unsafe fn read(addr: u64, out: &mut [u8]) {
        let mut at = addr;
        for chunk in out.chunks_mut(8) {
            if let Ok(word) = <&mut [u8; 8]>::try_from(&mut *chunk) {
                // SAFETY: eight of the bytes that are valid by contract.
                *word = unsafe { load64(at) }.to_le_bytes();
            } else {
                for (i, b) in chunk.iter_mut().enumerate() {
                    // SAFETY: one of the bytes that are valid by contract.
                    *b = unsafe { load8(at + i as u64) };
                }
            }
            at += 8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_written_anywhere_are_read_back_and_touch_nothing_else(
            off in 0usize..40, bytes in prop::collection::vec(any::<u8>(), 0..40))
        {
            let m = Memory::zeroed(64).unwrap();
            let fits = off + bytes.len() <= 64;
            prop_assert_eq!(m.write(off, &bytes).is_some(), fits);
            let mut all = [0u8; 64];
            m.read(0, &mut all).unwrap();
            let mut want = [0u8; 64];
            if fits {
                want[off..off + bytes.len()].copy_from_slice(&bytes);
            }
            prop_assert_eq!(all, want);
            let mut part = vec![0; bytes.len()];
            if fits {
                m.read(off, &mut part).unwrap();
                prop_assert_eq!(&part, &bytes);
                m.zero(off, bytes.len()).unwrap();
                m.read(0, &mut all).unwrap();
                prop_assert_eq!(all, [0u8; 64]);
            }
        }

        #[test]
        fn loads_and_stores_of_every_size_agree_with_the_address_based_ones(
            off in 0usize..64, size in prop::sample::select(vec![1usize, 2, 4, 8]), v: u64)
        {
            let m = Memory::zeroed(64).unwrap();
            let stored = m.store(off, size, v);
            prop_assert_eq!(stored.is_some(), off + size <= 64);
            prop_assert_eq!(m.load(off, size).is_some(), off + size <= 64);
            if stored.is_some() {
                let mask = if size == 8 { u64::MAX } else { (1 << (size * 8)) - 1 };
                prop_assert_eq!(m.load(off, size), Some(v & mask));
                let at = m.addr() + off as u64;
                // SAFETY: off + size <= 64, the size of the block.
                let got = unsafe {
                    match size {
                        1 => u64::from(racy::load8(at)),
                        2 => u64::from(racy::load16(at)),
                        4 => u64::from(racy::load32(at)),
                        _ => racy::load64(at),
                    }
                };
                prop_assert_eq!(got, v & mask);
            }
        }
    }

    #[test]
    fn an_atomic_step_on_half_a_word_leaves_the_other_half_alone() {
        let m = Memory::zeroed(8).unwrap();
        m.store(0, 8, 0x1111_1111_ffff_ffff).unwrap();
        assert_eq!(m.atomic(0, 4, |v| v.wrapping_add(1)), Some(0xffff_ffff));
        assert_eq!(m.load(0, 8), Some(0x1111_1111_0000_0000));
        assert_eq!(m.atomic(4, 4, |v| v.wrapping_add(1)), Some(0x1111_1111));
        assert_eq!(m.load(0, 8), Some(0x1111_1112_0000_0000));
        assert_eq!(m.atomic(2, 4, |v| v), None, "unaligned");
        assert_eq!(m.atomic(8, 8, |v| v), None, "outside");
    }
}
