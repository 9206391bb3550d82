//! Maps: what a program keeps between calls.

mod hash;
#[cfg(test)]
mod hash_tests;
mod ring;
mod spin;

/// What is shared between threads, and what depends on chance. A test compiles `hash` and `spin`
/// against another one of these, which tries every interleaving.
mod sync {
    pub(super) use std::hash::RandomState;
    pub(super) use std::hint::spin_loop;
    pub(super) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
    pub(super) use std::thread::yield_now;
}

pub(crate) use hash::Hash;
pub(crate) use ring::{FORCE_WAKEUP, NO_WAKEUP, Ring};
pub(crate) use spin::Backoff;

use super::memory::Memory;

/// What a map is, as the object file declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapDef {
    /// The name in the object file (`.rodata` and friends for data sections).
    pub name: String,
    /// The kernel's number of the map type (BPF_MAP_TYPE_*).
    pub kind: u32,
    /// Bytes per key.
    pub key_size: u32,
    /// Bytes per value.
    pub value_size: u32,
    /// Entries (ring buffers: bytes).
    pub max_entries: u32,
    /// The kernel's map flags (BPF_F_RDONLY_PROG = 1 << 7 marks frozen data).
    pub flags: u32,
    /// First contents of a data section's single value.
    pub initial: Option<Vec<u8>>,
}

impl MapDef {
    /// A map without flags and first contents; sizes in bytes, as in the fields.
    pub fn new(
        name: impl Into<String>,
        kind: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
    ) -> Self {
        let name = name.into();
        MapDef { name, kind, key_size, value_size, max_entries, flags: 0, initial: None }
    }
}

/// The kernel's numbers of the map types that this engine has.
pub mod kind {
    /// BPF_MAP_TYPE_HASH.
    pub const HASH: u32 = 1;
    /// BPF_MAP_TYPE_ARRAY; data sections are arrays of one value.
    pub const ARRAY: u32 = 2;
    /// BPF_MAP_TYPE_PERF_EVENT_ARRAY.
    pub const PERF_EVENT_ARRAY: u32 = 4;
    /// BPF_MAP_TYPE_PERCPU_HASH.
    pub const PERCPU_HASH: u32 = 5;
    /// BPF_MAP_TYPE_PERCPU_ARRAY.
    pub const PERCPU_ARRAY: u32 = 6;
    /// BPF_MAP_TYPE_LRU_HASH.
    pub const LRU_HASH: u32 = 9;
    /// BPF_MAP_TYPE_LRU_PERCPU_HASH.
    pub const LRU_PERCPU_HASH: u32 = 10;
    /// BPF_MAP_TYPE_RINGBUF.
    pub const RINGBUF: u32 = 27;
}

/// The largest map that is made, in bytes of values.
pub const MAX_MAP_BYTES: usize = 1 << 30;

/// Bytes of the ring behind a perf event array (the kernel's size is the reader's choice at
/// mapping time, which does not exist here).
const PERF_RING_BYTES: usize = 256 << 10;

/// BPF_F_RDONLY_PROG marks data that is frozen once loaded.
const RDONLY_PROG: u32 = 1 << 7;

/// What an update wants to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exists {
    /// BPF_ANY: make the key or overwrite its value.
    Either,
    /// BPF_NOEXIST: only make it.
    MustNot,
    /// BPF_EXIST: only overwrite it.
    Must,
}

/// Why a map could not be made or did not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// ENOENT.
    #[error("the map has no such key")]
    NotFound,
    /// EEXIST.
    #[error("the map has this key already")]
    Exists,
    /// E2BIG: no room for another key, or an index beyond the array.
    #[error("the map is full, or the index is beyond its last entry")]
    Full,
    /// EINVAL: the key or value has another size than the map's.
    #[error("the {what} is {given} bytes long, this map's are {expected}")]
    Size {
        /// `"key"` or `"value"`.
        what: &'static str,
        /// The size given, in bytes.
        given: usize,
        /// The map's size, in bytes.
        expected: usize,
    },
    /// EINVAL: arrays have no delete, rings no keys.
    #[error("maps of this type cannot do that")]
    Unsupported,
    /// EPERM: constant data cannot be changed.
    #[error("this map is constant data (BPF_F_RDONLY_PROG)")]
    Frozen,
    /// EINVAL at creation.
    #[error("map type {kind} is not supported; supported are 1, 2, 4, 5, 6, 9, 10 and 27")]
    Kind {
        /// The kernel's number of the type.
        kind: u32,
    },
    /// EINVAL at creation.
    #[error("the map's definition is not possible: {why}")]
    Definition {
        /// What is wrong with it.
        why: &'static str,
    },
    /// E2BIG at creation.
    #[error("the map would take {bytes} bytes; the limit is {limit}")]
    TooLarge {
        /// What it would take.
        bytes: u128,
        /// [`MAX_MAP_BYTES`].
        limit: usize,
    },
    /// ENOMEM at creation.
    #[error("there is no memory for the map")]
    NoMemory,
}

impl MapError {
    /// The positive error number that a helper returns negated.
    pub fn errno(self) -> i32 {
        match self {
            MapError::NotFound => libc::ENOENT,
            MapError::Exists => libc::EEXIST,
            MapError::Full | MapError::TooLarge { .. } => libc::E2BIG,
            MapError::Frozen => libc::EPERM,
            MapError::NoMemory => libc::ENOMEM,
            MapError::Size { .. }
            | MapError::Unsupported
            | MapError::Kind { .. }
            | MapError::Definition { .. } => libc::EINVAL,
        }
    }
}

pub(crate) enum Store {
    Array(Memory),
    Hash(Box<Hash>),
    Ring(Box<Ring>),
    Perf(Box<Ring>),
}

/// A map at run time, shared by every clone of a parser and by the application.
///
/// Values stay at one address as long as the map lives. Programs and the application may use
/// a map from any number of threads at once: look-ups take no lock; an access that is aligned
/// to its size is never torn; values wider than 8 bytes may be seen half updated. Programs
/// that need more use atomics, as in the kernel.
///
/// **Per-CPU maps** have one value per *slot* instead of per CPU. A run of a program that has
/// such maps holds one slot for its duration (mostly the one its thread held before), so that
/// no two runs ever share a value; there are [`slots`](Self::slots) of them, and a run waits
/// only if as many runs are under way. `bpf_get_smp_processor_id` is the number of the slot.
pub struct Map {
    def: MapDef,
    pub(crate) store: Store,
    /// Bytes from one entry's value to the next one's, in each slot.
    stride: usize,
    /// Bytes from one slot's values to the next one's: 0 where there is one slot.
    slot_stride: usize,
    slots: u32,
}

impl Map {
    /// Makes the map that a definition describes.
    ///
    /// # Errors
    /// [`MapError::Kind`], [`MapError::Definition`], [`MapError::TooLarge`],
    /// [`MapError::NoMemory`].
    pub fn new(def: MapDef) -> Result<Self, MapError> {
        let bad = |why| MapError::Definition { why };
        let entries = def.max_entries as usize;
        if entries == 0 && def.kind != kind::PERF_EVENT_ARRAY {
            return Err(bad("it has no entries"));
        }
        let per_slot =
            matches!(def.kind, kind::PERCPU_ARRAY | kind::PERCPU_HASH | kind::LRU_PERCPU_HASH);
        let slots = if per_slot { slot_count() } else { 1 };
        let value = (def.value_size as usize).next_multiple_of(8);
        let check = |bytes: u128| {
            if bytes > MAX_MAP_BYTES as u128 {
                Err(MapError::TooLarge { bytes, limit: MAX_MAP_BYTES })
            } else {
                Ok(bytes as usize)
            }
        };
        let whole = check(value as u128 * entries as u128 * u128::from(slots))?;
        let (mut stride, mut slot_stride) = (value, 0);
        let store = match def.kind {
            kind::ARRAY | kind::PERCPU_ARRAY => {
                if def.key_size != 4 {
                    return Err(bad("an array's key has 4 bytes"));
                }
                if def.value_size == 0 {
                    return Err(bad("its values have no bytes"));
                }
                if per_slot {
                    slot_stride = value * entries;
                }
                Store::Array(Memory::zeroed(whole).ok_or(MapError::NoMemory)?)
            }
            kind::HASH | kind::LRU_HASH | kind::PERCPU_HASH | kind::LRU_PERCPU_HASH => {
                if def.key_size == 0 || def.key_size > 512 {
                    return Err(bad("a key has 1 to 512 bytes"));
                }
                if def.value_size == 0 {
                    return Err(bad("its values have no bytes"));
                }
                check((def.key_size as u128 + 64) * entries as u128)?;
                if per_slot {
                    // All slots' values of an element lie together.
                    slot_stride = value;
                    stride = value * slots as usize;
                }
                let lru = matches!(def.kind, kind::LRU_HASH | kind::LRU_PERCPU_HASH);
                let h = Hash::new(def.key_size as usize, stride, def.max_entries, lru);
                Store::Hash(Box::new(h.ok_or(MapError::NoMemory)?))
            }
            kind::RINGBUF => {
                if !entries.is_power_of_two() || entries < 64 {
                    return Err(bad("a ring buffer's size is a power of two, at least 64"));
                }
                check(entries as u128)?;
                Store::Ring(Box::new(Ring::new(entries).ok_or(MapError::NoMemory)?))
            }
            kind::PERF_EVENT_ARRAY => {
                Store::Perf(Box::new(Ring::new(PERF_RING_BYTES).ok_or(MapError::NoMemory)?))
            }
            kind => return Err(MapError::Kind { kind }),
        };
        if let Some(initial) = &def.initial {
            let Store::Array(memory) = &store else {
                return Err(bad("only a data section has first contents"));
            };
            if initial.len() > def.value_size as usize {
                return Err(bad("its first contents are longer than its value"));
            }
            memory.write(0, initial).ok_or(bad("its first contents do not fit"))?;
        }
        Ok(Map { def, store, stride, slot_stride, slots })
    }

    /// The definition in the object file.
    pub fn def(&self) -> &MapDef {
        &self.def
    }

    /// The name in the object file.
    pub fn name(&self) -> &str {
        &self.def.name
    }

    /// How many values a key of a per-CPU map has; 1 for other maps.
    pub fn slots(&self) -> usize {
        self.slots as usize
    }

    /// How many keys it has. Arrays have all of theirs from the start.
    pub fn len(&self) -> usize {
        match &self.store {
            Store::Array(_) => self.def.max_entries as usize,
            Store::Hash(h) => h.len(),
            Store::Ring(_) | Store::Perf(_) => 0,
        }
    }

    /// Whether it has no key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a key: for per-CPU maps the values of all slots, one after another.
    ///
    /// # Errors
    /// [`MapError::Size`], [`MapError::Unsupported`] (rings).
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, MapError> {
        self.check("key", key.len(), self.def.key_size)?;
        let size = self.def.value_size as usize;
        let mut out = vec![0; size * self.slots()];
        for (slot, out) in out.chunks_exact_mut(size).enumerate() {
            let Some((memory, at)) = self.find(key, slot as u32)? else { return Ok(None) };
            memory.read(at, out).ok_or(MapError::NotFound)?;
        }
        Ok(Some(out))
    }

    /// The value of a key as a fixed number of bytes, for `u64::from_le_bytes` and the like.
    ///
    /// # Errors
    /// [`MapError::Size`] also when the value (all slots) does not have `N` bytes.
    pub fn get_array<const N: usize>(&self, key: &[u8]) -> Result<Option<[u8; N]>, MapError> {
        let Some(v) = self.get(key)? else { return Ok(None) };
        let given = N;
        let wrong = |v: Vec<u8>| MapError::Size { what: "value", given, expected: v.len() };
        v.try_into().map(Some).map_err(wrong)
    }

    /// Makes a key or overwrites its value (in a per-CPU map: of all slots, from as many
    /// values one after another, or from one for all).
    ///
    /// # Errors
    /// [`MapError::Size`], [`MapError::Full`], [`MapError::Frozen`],
    /// [`MapError::Unsupported`].
    pub fn set(&self, key: &[u8], value: &[u8]) -> Result<(), MapError> {
        self.set_if(key, value, Exists::Either)
    }

    /// [`set`](Self::set) with a condition.
    ///
    /// # Errors
    /// Those of [`set`](Self::set), [`MapError::Exists`], [`MapError::NotFound`].
    pub fn set_if(&self, key: &[u8], value: &[u8], exists: Exists) -> Result<(), MapError> {
        self.check("key", key.len(), self.def.key_size)?;
        let size = self.def.value_size as usize;
        if value.len() != size * self.slots() {
            self.check("value", value.len(), self.def.value_size)?;
        }
        if self.def.flags & RDONLY_PROG != 0 && self.def.initial.is_some() {
            return Err(MapError::Frozen);
        }
        let slot_value = |slot: usize| {
            let from = if value.len() == size { 0 } else { slot * size };
            value.get(from..from + size).unwrap_or_default()
        };
        self.put(key, exists, |memory, at| {
            for slot in 0..self.slots() {
                let _ = memory.write(at + slot * self.slot_stride, slot_value(slot));
            }
        })
    }

    /// Removes a key.
    ///
    /// # Errors
    /// [`MapError::NotFound`], [`MapError::Size`], [`MapError::Unsupported`] (arrays, rings).
    pub fn remove(&self, key: &[u8]) -> Result<(), MapError> {
        self.check("key", key.len(), self.def.key_size)?;
        match &self.store {
            Store::Hash(h) => h.delete(key),
            _ => Err(MapError::Unsupported),
        }
    }

    /// A snapshot of the keys, in no order. Empty for rings.
    pub fn keys(&self) -> Vec<Vec<u8>> {
        match &self.store {
            Store::Array(_) => {
                (0..self.def.max_entries).map(|i| i.to_le_bytes().to_vec()).collect()
            }
            Store::Hash(h) => h.keys(),
            Store::Ring(_) | Store::Perf(_) => Vec::new(),
        }
    }

    /// Moves the next record of a ring buffer, or of a perf event array, into `out`. `false`
    /// when there is none now. Readers may be many; each record goes to one of them.
    ///
    /// # Errors
    /// [`MapError::Unsupported`] when this is no ring.
    pub fn read_record(&self, out: &mut Vec<u8>) -> Result<bool, MapError> {
        Ok(self.ring().ok_or(MapError::Unsupported)?.pop(out))
    }

    /// [`read_record`](Self::read_record) that waits until the deadline. It blocks the
    /// thread: not for use inside async code.
    ///
    /// # Errors
    /// [`MapError::Unsupported`] when this is no ring.
    pub fn wait_record(
        &self,
        out: &mut Vec<u8>,
        deadline: std::time::Instant,
    ) -> Result<bool, MapError> {
        Ok(self.ring().ok_or(MapError::Unsupported)?.pop_until(out, deadline))
    }

    /// Records that programs could not write because the ring was full.
    pub fn lost_records(&self) -> u64 {
        self.ring().map_or(0, Ring::lost)
    }

    pub(crate) fn ring(&self) -> Option<&Ring> {
        match &self.store {
            Store::Ring(r) | Store::Perf(r) => Some(r),
            _ => None,
        }
    }

    /// The block in which values (or records) lie.
    pub(crate) fn memory(&self) -> &Memory {
        match &self.store {
            Store::Array(m) => m,
            Store::Hash(h) => h.values(),
            Store::Ring(r) | Store::Perf(r) => r.memory(),
        }
    }

    /// Bytes from one entry of an array to the next.
    #[cfg(kcm_jit)]
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// Whether its values are one per slot.
    pub(crate) fn per_slot(&self) -> bool {
        self.slot_stride != 0
    }

    fn check(&self, what: &'static str, given: usize, size: u32) -> Result<(), MapError> {
        let expected = size as usize;
        if self.ring().is_some() {
            Err(MapError::Unsupported)
        } else if given != expected {
            Err(MapError::Size { what, given, expected })
        } else {
            Ok(())
        }
    }

    fn find(&self, key: &[u8], slot: u32) -> Result<Option<(&Memory, usize)>, MapError> {
        match &self.store {
            Store::Ring(_) | Store::Perf(_) => Err(MapError::Unsupported),
            _ => Ok(self.lookup(key, slot).map(|at| (self.memory(), at))),
        }
    }

    /// `bpf_map_lookup_elem`: where the key's value starts in [`memory`](Self::memory).
    #[inline]
    pub(crate) fn lookup(&self, key: &[u8], slot: u32) -> Option<usize> {
        let at = match &self.store {
            Store::Array(_) => {
                let index = u32::from_le_bytes(key.try_into().ok()?);
                if index >= self.def.max_entries {
                    return None;
                }
                index as usize * self.stride
            }
            Store::Hash(h) => h.lookup(key)?,
            Store::Ring(_) | Store::Perf(_) => return None,
        };
        Some(at + slot as usize * self.slot_stride)
    }

    /// `bpf_map_update_elem` from a program: in a per-slot map only the run's slot is filled,
    /// and a new key's other slots are zero. `fill` writes the value at an offset of
    /// [`memory`](Self::memory).
    pub(crate) fn update(
        &self,
        key: &[u8],
        slot: u32,
        flags: u64,
        fill: impl Fn(&Memory, usize),
    ) -> Result<(), MapError> {
        let exists = match flags {
            0 => Exists::Either,
            1 => Exists::MustNot,
            2 => Exists::Must,
            _ => return Err(MapError::Unsupported),
        };
        if self.per_slot()
            && matches!(self.store, Store::Hash(_))
            && self.lookup(key, slot).is_none()
        {
            return self.put(key, exists, |memory, at| {
                let _ = memory.zero(at, self.slots() * self.slot_stride);
                fill(memory, at + slot as usize * self.slot_stride);
            });
        }
        self.put(key, exists, |memory, at| fill(memory, at + slot as usize * self.slot_stride))
    }

    fn put(
        &self,
        key: &[u8],
        exists: Exists,
        fill: impl Fn(&Memory, usize),
    ) -> Result<(), MapError> {
        match &self.store {
            Store::Array(memory) => {
                let at = self.lookup(key, 0).ok_or(MapError::Full)?;
                if exists == Exists::MustNot {
                    return Err(MapError::Exists);
                }
                fill(memory, at);
                Ok(())
            }
            Store::Hash(h) if key.len() == self.def.key_size as usize => {
                h.update(key, exists, fill)
            }
            _ => Err(MapError::Unsupported),
        }
    }

    /// `bpf_map_delete_elem`.
    pub(crate) fn delete(&self, key: &[u8]) -> Result<(), MapError> {
        match &self.store {
            Store::Hash(h) => h.delete(key),
            _ => Err(MapError::Unsupported),
        }
    }
}

impl std::fmt::Debug for Map {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Map")
            .field("name", &self.def.name)
            .field("kind", &self.def.kind)
            .field("key_size", &self.def.key_size)
            .field("value_size", &self.def.value_size)
            .field("max_entries", &self.def.max_entries)
            .finish_non_exhaustive()
    }
}

/// How many runs of one parser may use per-CPU maps at once without waiting: twice the
/// processors, for a run may be preempted while it holds a slot.
pub(crate) fn slot_count() -> u32 {
    static COUNT: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *COUNT.get_or_init(|| {
        let n = std::thread::available_parallelism().map_or(1, usize::from);
        (n * 2).clamp(4, 64) as u32
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn def(kind: u32, key_size: u32, value_size: u32, max_entries: u32) -> MapDef {
        MapDef::new("m", kind, key_size, value_size, max_entries)
    }

    #[test]
    fn an_array_has_all_keys_and_only_those() {
        let m = Map::new(def(kind::ARRAY, 4, 6, 3)).unwrap();
        let key = |i: u32| i.to_le_bytes();
        assert_eq!(m.get_array(&key(2)), Ok(Some([0u8; 6])));
        m.set(&key(2), b"abcdef").unwrap();
        assert_eq!(m.get_array(&key(2)), Ok(Some(*b"abcdef")));
        assert_eq!(m.get_array(&key(1)), Ok(Some([0u8; 6])), "its neighbour is untouched");
        assert_eq!(m.get(&key(3)), Ok(None));
        assert_eq!(m.set(&key(3), b"abcdef"), Err(MapError::Full));
        assert_eq!(m.set_if(&key(0), b"abcdef", Exists::MustNot), Err(MapError::Exists));
        assert_eq!(m.remove(&key(0)), Err(MapError::Unsupported));
        assert!(matches!(m.set(&key(0), b"abc"), Err(MapError::Size { given: 3, .. })));
        assert!(matches!(m.get(b"abc"), Err(MapError::Size { given: 3, .. })));
        assert_eq!(m.len(), 3);
    }

    #[test]
    fn each_slot_of_a_per_cpu_map_has_its_own_value() {
        for k in [kind::PERCPU_ARRAY, kind::PERCPU_HASH] {
            let m = Map::new(def(k, 4, 8, 2)).unwrap();
            let key = 1u32.to_le_bytes();
            for slot in 0..m.slots() as u32 {
                m.update(&key, slot, 0, |mem, at| {
                    mem.store(at, 8, u64::from(slot) + 1).unwrap();
                })
                .unwrap();
            }
            let all = m.get(&key).unwrap().unwrap();
            for (i, v) in all.chunks(8).enumerate() {
                assert_eq!(u64::from_le_bytes(v.try_into().unwrap()), i as u64 + 1);
            }
            m.set(&key, &7u64.to_le_bytes()).unwrap();
            let all = m.get(&key).unwrap().unwrap();
            assert!(all.chunks(8).all(|v| v == 7u64.to_le_bytes()));
        }
    }

    #[test]
    fn constant_data_is_read_and_never_written() {
        let mut d = def(kind::ARRAY, 4, 8, 1);
        (d.flags, d.initial) = (RDONLY_PROG, Some(b"const".to_vec()));
        let m = Map::new(d).unwrap();
        assert_eq!(m.get_array(&[0; 4]), Ok(Some(*b"const\0\0\0")));
        assert_eq!(m.set(&[0; 4], &[1; 8]), Err(MapError::Frozen));
    }

    #[test]
    fn impossible_definitions_are_errors() {
        let e = |d| Map::new(d).map(drop).unwrap_err();
        assert!(matches!(e(def(kind::ARRAY, 8, 8, 1)), MapError::Definition { .. }));
        assert!(matches!(e(def(kind::HASH, 0, 8, 1)), MapError::Definition { .. }));
        assert!(matches!(e(def(kind::HASH, 4, 8, 0)), MapError::Definition { .. }));
        assert!(matches!(e(def(kind::RINGBUF, 0, 0, 100)), MapError::Definition { .. }));
        assert!(matches!(e(def(13, 4, 4, 1)), MapError::Kind { kind: 13 }));
        let huge = def(kind::ARRAY, 4, u32::MAX, u32::MAX);
        assert!(matches!(e(huge), MapError::TooLarge { .. }));
        let huge = def(kind::HASH, 512, 1, u32::MAX);
        assert!(matches!(e(huge), MapError::TooLarge { .. }));
        let mut d = def(kind::ARRAY, 4, 4, 1);
        d.initial = Some(vec![0; 5]);
        assert!(matches!(e(d), MapError::Definition { .. }));
    }
}
