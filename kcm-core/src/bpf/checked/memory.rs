//! Addresses of checked mode, and the regions they lead to.
//!
//! An address is a number: what region in the upper byte, which one of them (frame, map,
//! function) in the next 24 bits, the offset below. Arithmetic that leaves a region leads to
//! an offset that no region has, or to another region's name; both are checked like any
//! other.

use super::{Reason, Run, State, Stop};
use crate::bpf::map::Store;
use crate::bpf::program::ProgramKind;

/// Bytes in a frame's address range; r10 points to its end.
pub(super) const FRAME: usize = 512;

const OFFSET_BITS: u32 = 40;

/// What an address leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Ctx,
    Packet,
    Stack(usize),
    Value(usize),
    Handle(usize),
    Function(usize),
    Record(usize),
}

impl Place {
    pub(super) fn address(self, offset: usize) -> u64 {
        let (kind, which) = match self {
            Place::Ctx => (1, 0),
            Place::Packet => (2, 0),
            Place::Stack(n) => (3, n),
            Place::Value(n) => (4, n),
            Place::Handle(n) => (5, n),
            Place::Function(n) => (6, n),
            Place::Record(n) => (7, n),
        };
        // Half of the offsets are below the region, so that a pointer can go there and back.
        (kind << 60 | (which as u64 & 0xf_ffff) << OFFSET_BITS | 1 << (OFFSET_BITS - 1))
            .wrapping_add(offset as u64)
    }

    /// The place and the offset in it. `None`: a null or wild pointer.
    pub(super) fn of(address: u64) -> Option<(Place, usize)> {
        let which = (address >> OFFSET_BITS & 0xf_ffff) as usize;
        let half = 1u64 << (OFFSET_BITS - 1);
        let offset = (address & ((1 << OFFSET_BITS) - 1)).checked_sub(half)? as usize;
        let place = match (address >> 60, which) {
            (1, 0) => Place::Ctx,
            (2, 0) => Place::Packet,
            (3, n) => Place::Stack(n),
            (4, n) => Place::Value(n),
            (5, n) => Place::Handle(n),
            (6, n) => Place::Function(n),
            (7, n) => Place::Record(n),
            _ => return None,
        };
        Some((place, offset))
    }
}

/// An address in words.
pub(super) fn describe(address: u64) -> String {
    match Place::of(address) {
        None => format!("{address:#x}, which is no pointer"),
        Some((Place::Ctx, o)) => format!("the context + {o}"),
        Some((Place::Packet, o)) => format!("the message + {o}"),
        Some((Place::Stack(n), o)) => format!("frame {n} {:+}", o as i64 - FRAME as i64),
        Some((Place::Value(m), o)) => format!("values of map {m} + {o}"),
        Some((Place::Handle(m), o)) => format!("the handle of map {m} + {o}"),
        Some((Place::Function(f), o)) => format!("the function at {f} + {o}"),
        Some((Place::Record(m), o)) => format!("records of map {m} + {o}"),
    }
}

/// A function's stack.
pub(super) struct Frame {
    bytes: [u8; FRAME],
    written: [bool; FRAME],
    /// Bytes below r10 that it may use.
    pub(super) size: usize,
}

impl Frame {
    pub(super) fn new(size: usize) -> Self {
        Frame { bytes: [0; FRAME], written: [false; FRAME], size }
    }
}

/// What a run has of memory besides the message and the maps.
#[derive(Default)]
pub(super) struct MemoryState {
    pub(super) frames: Vec<Frame>,
    /// The context's scratch bytes (`cb`).
    scratch: [u8; 20],
    /// Reserved records: map, offset, length.
    pub(super) reserved: Vec<(usize, usize, usize)>,
}

/// The little-endian number in the first `size` bytes (or as many as there are).
fn number(bytes: &[u8], size: usize) -> u64 {
    bytes.iter().take(size).rev().fold(0, |v, b| v << 8 | u64::from(*b))
}

impl State<'_> {
    fn out(at: u64, size: usize) -> Stop {
        Reason::OutOfBounds { at: describe(at), size }.into()
    }

    /// The stack bytes of an access, as a range of its frame.
    fn stack(&self, at: u64, n: usize, o: usize, size: usize) -> Run<std::ops::Range<usize>> {
        let end = o.checked_add(size).filter(|e| *e <= FRAME);
        match (self.memory.frames.get(n), end) {
            (Some(f), Some(end)) if o >= FRAME - f.size => Ok(o..end),
            _ => Err(Self::out(at, size)),
        }
    }

    /// Checks that an access is inside one map value or one reserved record.
    fn shared(&self, at: u64, place: Place, o: usize, size: usize) -> Run<()> {
        let end = o.checked_add(size).ok_or_else(|| Self::out(at, size))?;
        let inside = match place {
            Place::Value(m) => self.env.maps.get(m).is_some_and(|map| {
                let value = map.def().value_size as usize;
                let unit = value.next_multiple_of(8).max(8);
                matches!(map.store, Store::Array(_) | Store::Hash(_))
                    && o % unit + size <= value
                    && end <= map.memory().len()
            }),
            Place::Record(m) => self
                .memory
                .reserved
                .iter()
                .any(|(map, from, len)| *map == m && *from <= o && end <= from + len),
            _ => false,
        };
        if inside { Ok(()) } else { Err(Self::out(at, size)) }
    }

    /// Loads `size` bytes, little-endian.
    pub(super) fn read(&self, at: u64, size: usize) -> Run<u64> {
        if let Some((Place::Ctx, o)) = Place::of(at) {
            return self.context(at, o, size);
        }
        Ok(number(&self.read_bytes(at, size)?, size))
    }

    /// A field of `struct __sk_buff`.
    fn context(&self, at: u64, o: usize, size: usize) -> Run<u64> {
        const LEN: usize = 0;
        const DATA: usize = 76;
        const DATA_END: usize = 80;
        const SCRATCH: usize = 48;
        const SCRATCH_END: usize = 68;
        const END: usize = 192;
        if !o.is_multiple_of(size) || o + size > END {
            return Err(Self::out(at, size));
        }
        let len = self.env.msg.len();
        Ok(match (o, size) {
            (DATA, 4) => Place::Packet.address(0),
            (DATA_END, 4) => Place::Packet.address(len),
            (DATA..84, _) => return Err(Self::out(at, size)),
            (LEN..4, _) => number(&(len as u32).to_le_bytes()[o..], size),
            (SCRATCH..SCRATCH_END, _) if o + size <= SCRATCH_END => {
                number(&self.memory.scratch[o - SCRATCH..], size)
            }
            _ => 0,
        })
    }

    /// Copies bytes out of what may be read.
    pub(super) fn read_bytes(&self, at: u64, size: usize) -> Run<Vec<u8>> {
        let out = || Self::out(at, size);
        let (place, o) = Place::of(at).ok_or_else(out)?;
        match place {
            Place::Packet => {
                let end = o.checked_add(size).ok_or_else(out)?;
                self.env.msg.get(o..end).map(<[u8]>::to_vec).ok_or_else(out)
            }
            Place::Stack(n) => {
                let range = self.stack(at, n, o, size)?;
                let frame = &self.memory.frames[n];
                if frame.written[range.clone()].contains(&false) {
                    return Err(Reason::Uninitialised { at: describe(at) }.into());
                }
                Ok(frame.bytes[range].to_vec())
            }
            Place::Value(m) | Place::Record(m) => {
                self.shared(at, place, o, size)?;
                let mut bytes = vec![0; size];
                let map = self.env.maps.get(m).ok_or_else(out)?;
                map.memory().read(o, &mut bytes).ok_or_else(out)?;
                Ok(bytes)
            }
            Place::Ctx | Place::Handle(_) | Place::Function(_) => Err(out()),
        }
    }

    /// Stores the low `size` bytes of `v`.
    pub(super) fn write(&mut self, at: u64, size: usize, v: u64) -> Run<()> {
        if let Some((p @ (Place::Value(_) | Place::Record(_)), o)) = Place::of(at) {
            // In one piece where it is aligned, as other threads may see it.
            let map = self.writable(at, p, o, size)?;
            return self.env.maps[map]
                .memory()
                .store(o, size, v)
                .ok_or_else(|| Self::out(at, size));
        }
        if let Some((Place::Ctx, o)) = Place::of(at)
            && self.machine.program.kind == ProgramKind::SocketFilter
            && let Some(o) = o.checked_sub(48)
            && let Some(bytes) = self.memory.scratch.get_mut(o..o.saturating_add(size))
        {
            bytes.copy_from_slice(&v.to_le_bytes()[..size]);
            return Ok(());
        }
        self.write_bytes(at, &v.to_le_bytes()[..size])
    }

    /// Checks a store to shared memory; returns the map.
    fn writable(&self, at: u64, place: Place, o: usize, size: usize) -> Run<usize> {
        self.shared(at, place, o, size)?;
        let (Place::Value(m) | Place::Record(m)) = place else {
            return Err(Self::out(at, size));
        };
        // BPF_F_RDONLY_PROG.
        if matches!(place, Place::Value(_)) && self.env.maps[m].def().flags & (1 << 7) != 0 {
            return Err(Reason::ReadOnly { at: describe(at) }.into());
        }
        Ok(m)
    }

    /// Copies bytes into what may be written.
    pub(super) fn write_bytes(&mut self, at: u64, bytes: &[u8]) -> Run<()> {
        let size = bytes.len();
        let out = || Self::out(at, size);
        let (place, o) = Place::of(at).ok_or_else(out)?;
        match place {
            Place::Stack(n) => {
                let range = self.stack(at, n, o, size)?;
                let frame = &mut self.memory.frames[n];
                frame.bytes[range.clone()].copy_from_slice(bytes);
                frame.written[range].fill(true);
                Ok(())
            }
            Place::Value(_) | Place::Record(_) => {
                let m = self.writable(at, place, o, size)?;
                self.env.maps[m].memory().write(o, bytes).ok_or_else(out)
            }
            Place::Packet | Place::Ctx => Err(Reason::ReadOnly { at: describe(at) }.into()),
            Place::Handle(_) | Place::Function(_) => Err(out()),
        }
    }

    /// An atomic step; returns what was there.
    pub(super) fn update(&mut self, at: u64, size: usize, f: impl Fn(u64) -> u64) -> Run<u64> {
        if !at.is_multiple_of(size as u64) {
            return Err(Reason::Unaligned { at: describe(at) }.into());
        }
        if let Some((p @ (Place::Value(_) | Place::Record(_)), o)) = Place::of(at) {
            let map = self.writable(at, p, o, size)?;
            let was = self.env.maps[map].memory().atomic(o, size, f);
            return was.ok_or_else(|| Self::out(at, size));
        }
        let was = self.read(at, size)?;
        self.write(at, size, f(was))?;
        Ok(was)
    }
}
