//! The helper functions that programs call, as the executors without checks call them.
//!
//! Every helper has one shape, `fn(&mut Env, r1, r2, r3, r4, r5) -> r0`, so that compiled
//! code calls it directly. The arguments are what the verifier let through: a pointer
//! argument is valid for the length that its prototype couples it with (proved), a map is one
//! of the program's own, a record is reserved. Nothing here allocates, blocks for long, or
//! panics.
//!
//! What a helper *means*, apart from memory, is in the safe functions that the checked mode
//! shares.
#![allow(unsafe_code)]

pub(crate) mod trace;

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

use super::memory::{Memory, racy};
use super::run::Env;
use crate::bpf::map::{Map, MapError};

/// Numbers of helpers, as in the kernel's interface.
pub(crate) mod id {
    pub(crate) const MAP_LOOKUP_ELEM: u32 = 1;
    pub(crate) const MAP_UPDATE_ELEM: u32 = 2;
    pub(crate) const MAP_DELETE_ELEM: u32 = 3;
    pub(crate) const KTIME_GET_NS: u32 = 5;
    pub(crate) const TRACE_PRINTK: u32 = 6;
    pub(crate) const GET_PRANDOM_U32: u32 = 7;
    pub(crate) const GET_SMP_PROCESSOR_ID: u32 = 8;
    pub(crate) const PERF_EVENT_OUTPUT: u32 = 25;
    pub(crate) const SKB_LOAD_BYTES: u32 = 26;
    pub(crate) const SKB_PULL_DATA: u32 = 39;
    pub(crate) const GET_SOCKET_COOKIE: u32 = 46;
    pub(crate) const SKB_LOAD_BYTES_RELATIVE: u32 = 68;
    pub(crate) const KTIME_GET_BOOT_NS: u32 = 125;
    pub(crate) const RINGBUF_OUTPUT: u32 = 130;
    pub(crate) const RINGBUF_RESERVE: u32 = 131;
    pub(crate) const RINGBUF_SUBMIT: u32 = 132;
    pub(crate) const RINGBUF_DISCARD: u32 = 133;
    pub(crate) const RINGBUF_QUERY: u32 = 134;
    pub(crate) const KTIME_GET_COARSE_NS: u32 = 160;
    pub(crate) const LOOP: u32 = 181;
    pub(crate) const STRNCMP: u32 = 182;
}

/// A helper without its callback form (`bpf_loop` is the executors' own).
pub(crate) type Helper = unsafe extern "C" fn(*mut Env<'_>, u64, u64, u64, u64, u64) -> u64;

/// The function behind a helper's number. `None`: there is no such helper here.
pub(crate) fn find(number: u32) -> Option<Helper> {
    Some(match number {
        id::MAP_LOOKUP_ELEM => map_lookup_elem,
        id::MAP_UPDATE_ELEM => map_update_elem,
        id::MAP_DELETE_ELEM => map_delete_elem,
        id::KTIME_GET_NS => ktime_get_ns,
        id::KTIME_GET_BOOT_NS => ktime_get_boot_ns,
        id::KTIME_GET_COARSE_NS => ktime_get_coarse_ns,
        id::TRACE_PRINTK => trace_printk,
        id::GET_PRANDOM_U32 => get_prandom_u32,
        id::GET_SMP_PROCESSOR_ID => get_smp_processor_id,
        id::PERF_EVENT_OUTPUT => perf_event_output,
        id::SKB_LOAD_BYTES => skb_load_bytes,
        id::SKB_LOAD_BYTES_RELATIVE => skb_load_bytes_relative,
        id::SKB_PULL_DATA => skb_pull_data,
        id::GET_SOCKET_COOKIE => get_socket_cookie,
        id::RINGBUF_OUTPUT => ringbuf_output,
        id::RINGBUF_RESERVE => ringbuf_reserve,
        id::RINGBUF_SUBMIT => ringbuf_submit,
        id::RINGBUF_DISCARD => ringbuf_discard,
        id::RINGBUF_QUERY => ringbuf_query,
        id::STRNCMP => strncmp,
        _ => return None,
    })
}

/// How many arguments a helper takes.
pub(crate) fn arity(number: u32) -> usize {
    match number {
        id::KTIME_GET_NS
        | id::KTIME_GET_BOOT_NS
        | id::KTIME_GET_COARSE_NS
        | id::GET_PRANDOM_U32
        | id::GET_SMP_PROCESSOR_ID
        | id::GET_SOCKET_COOKIE => 0,
        id::MAP_LOOKUP_ELEM
        | id::MAP_DELETE_ELEM
        | id::SKB_PULL_DATA
        | id::RINGBUF_SUBMIT
        | id::RINGBUF_DISCARD
        | id::RINGBUF_QUERY => 2,
        id::RINGBUF_RESERVE | id::STRNCMP => 3,
        id::MAP_UPDATE_ELEM | id::SKB_LOAD_BYTES | id::RINGBUF_OUTPUT => 4,
        _ => 5,
    }
}

/// A negated error number as a helper returns it in r0.
pub(crate) const fn err(errno: i32) -> u64 {
    -(errno as i64) as u64
}

/// The most rounds of one `bpf_loop`; more is `-E2BIG`.
pub(crate) const MAX_LOOPS: u64 = 1 << 23;

/// The largest offset `bpf_skb_load_bytes_relative` takes.
pub(crate) const MAX_RELATIVE: u32 = 0xffff;

// ---- what is the same in every executor -------------------------------------------------

/// The message's bytes that `bpf_skb_load_bytes(offset, len)` is about, if they are all there.
pub(crate) fn span(msg: &[u8], offset: u32, len: u32) -> Option<&[u8]> {
    let from = offset as usize;
    msg.get(from..from.checked_add(len as usize)?)
}

/// `bpf_skb_load_bytes_relative`: both headers it can be relative to (0: link layer, 1:
/// network layer) stand for the first byte of the message.
pub(crate) fn relative_span(msg: &[u8], offset: u32, len: u32, start: u32) -> Option<&[u8]> {
    if offset > MAX_RELATIVE || start > 1 { None } else { span(msg, offset, len) }
}

/// `LD_ABS`/`LD_IND` of `N` bytes: the big-endian number at an offset of the message. Offsets
/// with the sign bit set (the kernel's ancillary data) are in no message.
#[inline(always)]
pub(crate) fn legacy<const N: usize>(msg: &[u8], offset: u32) -> Option<u64> {
    let (bytes, _) = msg.get(offset as usize..)?.split_first_chunk::<N>()?;
    if offset > i32::MAX as u32 {
        return None;
    }
    Some(bytes.iter().fold(0, |v, b| v << 8 | u64::from(*b)))
}

/// `bpf_skb_pull_data`: all of the message is always there to be read.
pub(crate) fn pull_data(msg_len: usize, len: u32) -> u64 {
    if len as usize <= msg_len { 0 } else { err(libc::ENOMEM) }
}

pub(crate) fn clock(which: libc::clockid_t) -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is valid for the write. An unknown clock leaves it alone.
    unsafe { libc::clock_gettime(which, &mut t) };
    (t.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(t.tv_nsec as u64)
}

/// The clock of a helper number.
pub(crate) fn clock_of(number: u32) -> libc::clockid_t {
    match number {
        id::KTIME_GET_BOOT_NS => libc::CLOCK_BOOTTIME,
        id::KTIME_GET_COARSE_NS => libc::CLOCK_MONOTONIC_COARSE,
        _ => libc::CLOCK_MONOTONIC,
    }
}

/// Pseudo-random, per thread (xorshift64*), seeded from the system. Not for secrets.
pub(crate) fn prandom() -> u32 {
    thread_local!(static STATE: Cell<u64> = const { Cell::new(0) });
    STATE.with(|s| {
        let mut x = s.get();
        if x == 0 {
            x = RandomState::new().hash_one(0u8) | 1;
        }
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        s.set(x);
        (x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    })
}

/// `bpf_strncmp` over bytes produced one by one: -1, 0 or 1.
pub(crate) fn compare(n: u64, mut a: impl FnMut(u64) -> u8, mut b: impl FnMut(u64) -> u8) -> u64 {
    for i in 0..n {
        let (x, y) = (a(i), b(i));
        if x != y {
            return if x < y { -1i64 as u64 } else { 1 };
        }
        if x == 0 {
            break;
        }
    }
    0
}

pub(crate) fn result(r: Result<(), MapError>) -> u64 {
    match r {
        Ok(()) => 0,
        Err(e) => err(e.errno()),
    }
}

/// `bpf_perf_event_output`: how many bytes of the message follow the program's own, from the
/// flags; the error to return where they ask for what is not there.
pub(crate) fn perf_flags(map: &Map, flags: u64, msg_len: usize) -> Result<usize, u64> {
    const INDEX: u64 = 0xffff_ffff;
    const CTX_LEN: u64 = 0xf_ffff << 32;
    if flags & !(INDEX | CTX_LEN) != 0 {
        return Err(err(libc::EINVAL));
    }
    let index = flags & INDEX;
    if index != INDEX && index >= u64::from(map.def().max_entries) {
        return Err(err(libc::E2BIG));
    }
    let extra = ((flags & CTX_LEN) >> 32) as usize;
    if extra > msg_len { Err(err(libc::EFAULT)) } else { Ok(extra) }
}

/// `bpf_ringbuf_query`.
pub(crate) fn ring_query(map: &Map, what: u64) -> u64 {
    let Some((size, consumed, produced)) = map.ring().map(|r| r.positions()) else { return 0 };
    match what {
        0 => produced.saturating_sub(consumed),
        1 => size,
        2 => consumed,
        3 => produced,
        _ => 0,
    }
}

/// Rings take these flags and no other.
pub(crate) fn ring_flags_ok(flags: u64) -> bool {
    flags & !(super::map::NO_WAKEUP | super::map::FORCE_WAKEUP) == 0
}

// ---- the helpers themselves -------------------------------------------------------------
//
// SAFETY for every `unsafe extern "C" fn` below, named "helper contract" where it is used:
// the caller is an executor of a verified program; `env` is that run's environment; the
// arguments are those of the call instruction, which the verifier checked against the
// helper's prototype (pointer arguments valid for the coupled length, map arguments maps of
// the type that the helper takes, record arguments live reservations).

/// The map behind a map handle, which is its address.
///
/// # Safety
/// Helper contract; the executable keeps its maps alive while it runs.
unsafe fn map_of<'a>(handle: u64) -> &'a Map {
    // SAFETY: by contract the handle is the exposed address of a live `Map`.
    unsafe { &*std::ptr::with_exposed_provenance::<Map>(handle as usize) }
}

/// Calls `f` with a copy of the key: other threads may be changing the bytes it lies in.
///
/// # Safety
/// Helper contract: `addr` is valid for the map's key size.
unsafe fn with_key<R>(map: &Map, addr: u64, f: impl FnOnce(&[u8]) -> R) -> R {
    match map.def().key_size as usize {
        // SAFETY: valid for 4 bytes by contract.
        4 => f(&unsafe { racy::load32(addr) }.to_le_bytes()),
        // SAFETY: valid for 8 bytes by contract.
        8 => f(&unsafe { racy::load64(addr) }.to_le_bytes()),
        n => {
            let mut buf = [0u8; 512];
            let Some(key) = buf.get_mut(..n) else { return f(&[]) };
            // SAFETY: valid for `n` bytes by contract.
            unsafe { racy::read(addr, key) };
            f(key)
        }
    }
}

/// Copies bytes from a program's memory into a shared block.
///
/// # Safety
/// `from` is valid for reads of `len` bytes.
unsafe fn copy_in(memory: &Memory, mut at: usize, mut from: u64, mut len: usize) {
    while len >= 8 {
        // SAFETY: at least eight bytes are left of those that are valid by contract.
        let v = unsafe { racy::load64(from) };
        let _ = memory.store(at, 8, v);
        (at, from, len) = (at + 8, from + 8, len - 8);
    }
    for i in 0..len {
        // SAFETY: one of the bytes that are valid by contract.
        let v = unsafe { racy::load8(from + i as u64) };
        let _ = memory.store(at + i, 1, u64::from(v));
    }
}

/// Writes bytes (or as many zeroes) to a program's memory.
///
/// # Safety
/// `to` is valid for writes of `len` bytes.
unsafe fn copy_out(mut to: u64, len: usize, bytes: Option<&[u8]>) {
    let mut rest = bytes.unwrap_or_default();
    let mut left = len;
    while left >= 8 {
        let (word, tail) = match rest.split_first_chunk::<8>() {
            Some((w, tail)) => (u64::from_le_bytes(*w), tail),
            None => (0, rest),
        };
        // SAFETY: at least eight bytes are left of those that are valid by contract.
        unsafe { racy::store64(to, word) };
        (to, left, rest) = (to + 8, left - 8, tail);
    }
    for i in 0..left {
        // SAFETY: one of the bytes that are valid by contract.
        unsafe { racy::store8(to + i as u64, rest.get(i).copied().unwrap_or(0)) };
    }
}

macro_rules! helper {
    ($(#[$m:meta])* $name:ident($env:ident, $($a:pat),*) $body:block) => {
        $(#[$m])*
        /// # Safety
        /// Helper contract.
        unsafe extern "C" fn $name(
            $env: *mut Env<'_>, $($a: u64),*
        ) -> u64 {
            // SAFETY: helper contract.
            #[allow(unused_variables)]
            let $env = unsafe { &mut *$env };
            $body
        }
    };
}

helper!(map_lookup_elem(env, map, key, _, _, _) {
    // SAFETY: helper contract.
    let map = unsafe { map_of(map) };
    // SAFETY: helper contract.
    match unsafe { with_key(map, key, |k| map.lookup(k, env.slot)) } {
        Some(at) => map.memory().addr() + at as u64,
        None => 0,
    }
});

helper!(map_update_elem(env, map, key, value, flags, _) {
    // SAFETY: helper contract.
    let map = unsafe { map_of(map) };
    let size = map.def().value_size as usize;
    let fill = |memory: &Memory, at| {
        // SAFETY: helper contract: `value` is valid for the map's value size.
        unsafe { copy_in(memory, at, value, size) }
    };
    // SAFETY: helper contract.
    result(unsafe { with_key(map, key, |k| map.update(k, env.slot, flags, fill)) })
});

helper!(map_delete_elem(env, map, key, _, _, _) {
    // SAFETY: helper contract.
    let map = unsafe { map_of(map) };
    // SAFETY: helper contract.
    result(unsafe { with_key(map, key, |k| map.delete(k)) })
});

helper!(ktime_get_ns(env, _, _, _, _, _) { clock(libc::CLOCK_MONOTONIC) });
helper!(ktime_get_boot_ns(env, _, _, _, _, _) { clock(libc::CLOCK_BOOTTIME) });
helper!(ktime_get_coarse_ns(env, _, _, _, _, _) { clock(libc::CLOCK_MONOTONIC_COARSE) });
helper!(get_prandom_u32(env, _, _, _, _, _) { u64::from(prandom()) });
helper!(get_smp_processor_id(env, _, _, _, _, _) { u64::from(env.slot) });
helper!(get_socket_cookie(env, _, _, _, _, _) { env.cookie });

helper!(trace_printk(env, fmt, len, a, b, c) {
    let mut buf = [0u8; trace::MAX_FORMAT];
    let Some(text) = buf.get_mut(..len as u32 as usize) else { return err(libc::EINVAL) };
    // SAFETY: helper contract: `fmt` is valid for `len` bytes.
    unsafe { racy::read(fmt, text) };
    trace::print(text, [a, b, c])
});

helper!(perf_event_output(env, _, map, flags, data, size) {
    // SAFETY: helper contract.
    let map = unsafe { map_of(map) };
    let extra = match perf_flags(map, flags, env.msg().len()) {
        Ok(n) => n,
        Err(e) => return e,
    };
    let Some(ring) = map.ring() else { return err(libc::EINVAL) };
    let Some(record) = ring.reserve(size.saturating_add(extra as u64)) else {
        return err(libc::ENOSPC);
    };
    // SAFETY: helper contract: `data` is valid for `size` bytes.
    unsafe { copy_in(ring.memory(), record, data, size as usize) };
    let _ = ring.memory().write(record + size as usize, &env.msg()[..extra]);
    ring.commit(record, false, 0);
    0
});

helper!(skb_load_bytes(env, _, offset, to, len, _) {
    let bytes = span(env.msg(), offset as u32, len as u32);
    // SAFETY: helper contract: `to` is valid for writes of `len` bytes.
    unsafe { copy_out(to, len as u32 as usize, bytes) };
    if bytes.is_some() { 0 } else { err(libc::EFAULT) }
});

helper!(skb_load_bytes_relative(env, _, offset, to, len, start) {
    let bytes = relative_span(env.msg(), offset as u32, len as u32, start as u32);
    // SAFETY: helper contract: `to` is valid for writes of `len` bytes.
    unsafe { copy_out(to, len as u32 as usize, bytes) };
    if bytes.is_some() { 0 } else { err(libc::EFAULT) }
});

helper!(skb_pull_data(env, _, len, _, _, _) { pull_data(env.msg().len(), len as u32) });

helper!(ringbuf_output(env, map, data, size, flags, _) {
    // SAFETY: helper contract.
    let Some(ring) = unsafe { map_of(map) }.ring() else { return err(libc::EINVAL) };
    if !ring_flags_ok(flags) {
        return err(libc::EINVAL);
    }
    let Some(record) = ring.reserve(size) else { return err(libc::EAGAIN) };
    // SAFETY: helper contract: `data` is valid for `size` bytes.
    unsafe { copy_in(ring.memory(), record, data, size as usize) };
    ring.commit(record, false, flags);
    0
});

helper!(ringbuf_reserve(env, map, size, flags, _, _) {
    // SAFETY: helper contract.
    let map = unsafe { map_of(map) };
    let Some(ring) = map.ring() else { return 0 };
    if flags != 0 || !env.reserved.has_room() {
        return 0;
    }
    let Some(record) = ring.reserve(size) else { return 0 };
    let addr = ring.memory().addr() + record as u64;
    env.reserved.push(addr, map, record);
    addr
});

helper!(ringbuf_submit(env, record, flags, _, _, _) {
    env.reserved.finish(record, false, flags);
    0
});

helper!(ringbuf_discard(env, record, flags, _, _, _) {
    env.reserved.finish(record, true, flags);
    0
});

helper!(ringbuf_query(env, map, what, _, _, _) {
    // SAFETY: helper contract.
    ring_query(unsafe { map_of(map) }, what)
});

helper!(strncmp(env, a, n, b, _, _) {
    // SAFETY: helper contract: `a` is valid for `n` bytes, `b` is a constant NUL-terminated
    // string, and the comparison stops at the first NUL in either.
    let at = |p: u64| move |i| unsafe { racy::load8(p + i) };
    compare(n as u32 as u64, at(a), at(b))
});
