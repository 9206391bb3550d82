//! A parser that logs: every level, and the arguments that aya-log has.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

use kcm_ebpf::{Message, Parsed, debug, errno, error, info, refuse, trace, warn};

/// One byte of length; what the next one says is logged.
#[inline(always)]
fn parse(msg: &Message<'_>) -> Parsed {
    let length = msg.u8(0)?;
    match msg.u8(1)? {
        1 => error!(msg, "bad length {}", length),
        2 => warn!(msg, "length {} of at most {:x}", length, 0xffu32),
        3 => info!(msg, "from {:i}, {} and {:X}", 0x7f00_0001u32, -5i32, 0xabcdu16),
        4 => debug!(msg, "{}", "a text"),
        5 => trace!(msg, "no arguments"),
        6 => return refuse(errno::EPROTO),
        _ => {}
    }
    Ok(u64::from(length))
}

kcm_ebpf::parser!(logging, parse);
