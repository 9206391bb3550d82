//! A ring buffer and an array that a program in the kernel shares with this process.
#![allow(unsafe_code)] // shared memory

use std::io;
use std::mem::offset_of;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use kcm_common::kernel::{RING_HEAD, Slot};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A mapping of a map's memory.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the memory belongs to nobody's thread; access is by atomics or ruled by `Ring`.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(map: BorrowedFd<'_>, offset: u64, bytes: usize, write: bool) -> io::Result<Self> {
        let prot = if write { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let start =
            unsafe { mmap(std::ptr::null_mut(), bytes, prot, MapFlags::SHARED, map, offset)? };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { start, bytes })
    }

    fn u64(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.bytes);
        // SAFETY: inside the mapping and aligned; the kernel's accesses are single ones too.
        unsafe { self.start.add(at).cast().as_ref() }
    }

    fn u32(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4) && at + 4 <= self.bytes);
        // SAFETY: as above.
        unsafe { self.start.add(at).cast().as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`; every reference into it borrows from this.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// Set in a record's length while it is being written.
const BUSY: u32 = 1 << 31;
/// Set in the length of a record that was given up.
const DISCARDED: u32 = 1 << 30;

/// The reading end of a ring buffer.
#[derive(Debug)]
pub(super) struct Ring {
    consumer: Mapping,
    /// A page with the producer's position, then the data, twice: no record is cut.
    producer: Mapping,
    page: usize,
    bytes: usize,
    /// There may have been no room for a record since this was last asked.
    crowded: bool,
}

/// A committed record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub(super) data: &'a [u8],
    /// Bytes of the ring that it takes.
    pub(super) charge: u64,
}

impl Ring {
    /// Maps a ring of `bytes` data bytes.
    pub(super) fn new(map: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        let page = rustix::param::page_size();
        Ok(Ring {
            consumer: Mapping::new(map, 0, page, true)?,
            producer: Mapping::new(map, page as u64, page + 2 * bytes, false)?,
            page,
            bytes,
            crowded: false,
        })
    }

    /// Gives `take` the records from the reader's position on, until `limit` bytes, a record
    /// that is still being written, or the end; then frees their room. Returns whether there
    /// were any. `&mut`: there is one reader.
    pub(super) fn read(&mut self, limit: u64, take: impl FnOnce(&[Record<'_>])) -> bool {
        let start = self.consumer.u64(0).load(Ordering::Relaxed);
        let end = self.producer.u64(0).load(Ordering::Acquire);
        let mut at = start;
        let mut records = Vec::new();
        while at < end && at - start < limit {
            let offset = self.page + (at as usize & (self.bytes - 1));
            let head = self.producer.u32(offset).load(Ordering::Acquire);
            if head & BUSY != 0 {
                break;
            }
            let len = head & !(BUSY | DISCARDED);
            let charge = u64::from(len + RING_HEAD).next_multiple_of(8);
            let from = offset + RING_HEAD as usize;
            if head & DISCARDED == 0 && from + len as usize <= self.producer.bytes {
                // SAFETY: inside the mapping; a committed record is not written to until the
                // reader's position, which is set below, has passed it.
                let data = unsafe {
                    std::slice::from_raw_parts(self.producer.start.add(from).as_ptr(), len as usize)
                };
                records.push(Record { data, charge });
            }
            at += charge;
        }
        if at == start {
            return false;
        }
        take(&records);
        self.consumer.u64(0).store(at, Ordering::Release);
        // The kernel wakes a reader whose position is that of the record it commits: the
        // position has to be seen before the next look at whether there is a record.
        fence(Ordering::SeqCst);
        // Whoever found no room, for a record of at most half the ring, found it against the
        // position before that one.
        let end = self.producer.u64(0).load(Ordering::Acquire);
        self.crowded |= end.wrapping_sub(start) >= self.bytes as u64 / 2;
        true
    }

    /// Whether somebody may have found no room for a record since this was last asked.
    pub(super) fn was_crowded(&mut self) -> bool {
        std::mem::take(&mut self.crowded)
    }

    /// Whether the reader is behind: records are there, or being written.
    pub(super) fn is_behind(&self) -> bool {
        self.consumer.u64(0).load(Ordering::Relaxed) != self.producer.u64(0).load(Ordering::Acquire)
    }
}

/// The slots of all connections.
#[derive(Debug)]
pub(super) struct Slots(Mapping);

/// What the programs wrote into a slot; see [`Slot`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) msgs: u64,
    pub(crate) bytes: u64,
    pub(crate) need_more: u64,
    pub(crate) need: u32,
    pub(crate) seen: u32,
    pub(crate) code: i32,
    pub(crate) stopped: u32,
}

const SLOT: usize = size_of::<Slot>();

impl Slots {
    pub(super) fn new(map: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        let page = rustix::param::page_size();
        Mapping::new(map, 0, (count * SLOT).next_multiple_of(page), true).map(Slots)
    }

    /// Makes a slot anew. No program uses it now.
    pub(super) fn set(&self, index: u32, slot: &Slot) {
        let at = index as usize * SLOT;
        let zero = [offset_of!(Slot, used), offset_of!(Slot, msgs), offset_of!(Slot, bytes)];
        for field in zero.into_iter().chain([
            offset_of!(Slot, need_more),
            offset_of!(Slot, dropped),
            // Two of 32 bits each.
            offset_of!(Slot, need),
            offset_of!(Slot, code),
            offset_of!(Slot, quiet),
        ]) {
            self.0.u64(at + field).store(0, Ordering::Relaxed);
        }
        self.0.u64(at + offset_of!(Slot, token)).store(slot.token, Ordering::Relaxed);
        self.0.u64(at + offset_of!(Slot, credit)).store(slot.credit, Ordering::Relaxed);
        let quiet_below = self.0.u64(at + offset_of!(Slot, quiet_below));
        quiet_below.store(slot.quiet_below, Ordering::Relaxed);
        self.0.u32(at + offset_of!(Slot, max_message)).store(slot.max_message, Ordering::Relaxed);
        self.0.u32(at + offset_of!(Slot, max_header)).store(slot.max_header, Ordering::Release);
    }

    pub(super) fn set_max_message(&self, index: u32, bytes: u32) {
        let at = index as usize * SLOT + offset_of!(Slot, max_message);
        self.0.u32(at).store(bytes, Ordering::Release);
    }

    /// Lets the connection put `more` bytes into the ring.
    pub(super) fn grant(&self, index: u32, more: u64) {
        let credit = self.0.u64(index as usize * SLOT + offset_of!(Slot, credit));
        credit.fetch_add(more, Ordering::Release);
    }

    /// Whether the connection's messages have come to an end: [`Slot::stopped`].
    pub(super) fn is_stopped(&self, index: u32) -> bool {
        let at = index as usize * SLOT + offset_of!(Slot, stopped);
        self.0.u32(at).load(Ordering::Acquire) != 0
    }

    pub(super) fn seen(&self, index: u32) -> Seen {
        let at = index as usize * SLOT;
        let long = |field| self.0.u64(at + field).load(Ordering::Acquire);
        let word = |field| self.0.u32(at + field).load(Ordering::Acquire);
        Seen {
            stopped: word(offset_of!(Slot, stopped)),
            code: word(offset_of!(Slot, code)) as i32,
            need: word(offset_of!(Slot, need)),
            seen: word(offset_of!(Slot, seen)),
            msgs: long(offset_of!(Slot, msgs)),
            bytes: long(offset_of!(Slot, bytes)),
            need_more: long(offset_of!(Slot, need_more)),
        }
    }
}
