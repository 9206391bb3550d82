//! Maps and globals as aya writes them, a function of its own, and copies that become calls of
//! `memcpy`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
use aya_ebpf::{Global, macros::map, maps::Array};
use kcm_ebpf::{Message, Parsed};

/// Set by the application before the parser is loaded.
#[cfg(target_arch = "bpf")]
#[unsafe(no_mangle)]
static HEADER: Global<u32> = Global::new(2);

#[cfg(target_arch = "bpf")]
#[map]
static MESSAGES: Array<u64> = Array::with_max_entries(4, 0);

#[cfg(target_arch = "bpf")]
fn header() -> u64 {
    if let Some(count) = MESSAGES.get_ptr_mut(1) {
        // SAFETY: the map's value is there as long as the program runs; that several runs at
        // once may lose a count is no harm to a test.
        unsafe { *count += 1 };
    }
    u64::from(HEADER.load())
}

#[cfg(not(target_arch = "bpf"))]
fn header() -> u64 {
    2
}

#[inline(never)]
fn sum(a: u64, b: u64) -> u64 {
    a + b
}

/// Two bytes of length, big-endian; how many of them to count is a global.
#[inline(always)]
fn parse(msg: &Message<'_>) -> Parsed {
    Ok(sum(u64::from(msg.be16(0)?), header()))
}

kcm_ebpf::parser!(globals, parse);
