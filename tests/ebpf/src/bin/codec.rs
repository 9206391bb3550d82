//! The format of most tests (`Be32` in `tests/src/codec.rs`) as a program, so that the same tests run
//! on engines that take no native function.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

use kcm_ebpf::{Message, Parsed, refuse};

/// Four bytes of length, big-endian, and that many bytes; with the top bit set, the low bits
/// are an error's code instead.
#[inline(always)]
fn be32(msg: &Message<'_>) -> Parsed {
    let len = msg.be32(0)?;
    if len & 0x8000_0000 != 0 {
        return refuse((len & 0xfff) as i32);
    }
    Ok(4 + u64::from(len))
}

kcm_ebpf::parser!(be32, be32);
