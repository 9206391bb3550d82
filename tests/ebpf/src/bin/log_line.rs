//! One parser with a log line, and without: for what a line costs.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

use kcm_ebpf::{Message, Parsed, errno, info, refuse};

/// One byte of length.
#[inline(always)]
fn silent(msg: &Message<'_>) -> Parsed {
    let length = msg.u8(0)?;
    if length == 0 {
        return refuse(errno::EPROTO);
    }
    Ok(u64::from(length))
}

/// The same, and says each.
#[inline(always)]
fn chatty(msg: &Message<'_>) -> Parsed {
    let length = msg.u8(0)?;
    if length == 0 {
        return refuse(errno::EPROTO);
    }
    info!(msg, "length {}", length);
    Ok(u64::from(length))
}

kcm_ebpf::parser! { silent = silent, chatty = chatty }
