//! Arithmetic and conditions, from RFC 9669 sections 4.1-4.3, by way of wide signed numbers:
//! written to be obviously right, not fast.

use crate::bpf::insn::Insn;

/// The value as the instruction's width sees it, signed.
fn signed(v: u64, wide: bool) -> i128 {
    if wide { i128::from(v as i64) } else { i128::from(v as u32 as i32) }
}

/// The same, unsigned.
fn unsigned(v: u64, wide: bool) -> i128 {
    if wide { i128::from(v) } else { i128::from(v as u32) }
}

/// Whether a conditional jump jumps. `None`: no such condition.
pub(crate) fn condition(op: u8, wide: bool, a: u64, b: u64) -> Option<bool> {
    let (ua, ub) = (unsigned(a, wide), unsigned(b, wide));
    let (sa, sb) = (signed(a, wide), signed(b, wide));
    Some(match op {
        0x10 => ua == ub,
        0x20 => ua > ub,
        0x30 => ua >= ub,
        0x40 => ua & ub != 0,
        0x50 => ua != ub,
        0x60 => sa > sb,
        0x70 => sa >= sb,
        0xa0 => ua < ub,
        0xb0 => ua <= ub,
        0xc0 => sa < sb,
        0xd0 => sa <= sb,
        _ => return None,
    })
}

/// The result of an arithmetic instruction on `a` (destination) and `b`. `None`: no such
/// instruction.
pub(crate) fn compute(i: Insn, wide: bool, a: u64, b: u64) -> Option<u64> {
    let bits = if wide { 64 } else { 32 };
    let reg = i.code & 8 != 0;
    let (ua, ub) = (unsigned(a, wide), unsigned(b, wide));
    let (sa, sb) = (signed(a, wide), signed(b, wide));
    let shift = (ub % bits) as u32;
    let exact: i128 = match (i.code & 0xf0, i.off) {
        (0x00, 0) => ua + ub,
        (0x10, 0) => ua - ub,
        // Modulo 2^64 the product of the signed readings is that of the unsigned ones, and it
        // cannot overflow 128 bits.
        (0x20, 0) => sa * sb,
        (0x30, 0) => ua.checked_div(ub).unwrap_or(0),
        (0x30, 1) => sa.checked_div(sb).unwrap_or(0),
        (0x40, 0) => ua | ub,
        (0x50, 0) => ua & ub,
        (0x60, 0) => (ua as u128).wrapping_shl(shift) as i128,
        (0x70, 0) => ua >> shift,
        (0x80, 0) if !reg => -ua,
        (0x90, 0) => ua.checked_rem(ub).unwrap_or(ua),
        (0x90, 1) => sa.checked_rem(sb).unwrap_or(sa),
        (0xa0, 0) => ua ^ ub,
        (0xb0, 0) => ub,
        (0xb0, 8) if reg => i128::from(b as i8),
        (0xb0, 16) if reg => i128::from(b as i16),
        (0xb0, 32) if reg && wide => i128::from(b as i32),
        (0xc0, 0) => sa >> shift,
        (0xd0, 0) => return swap(a, i.imm, wide, reg),
        _ => return None,
    };
    Some(if wide { exact as u64 } else { u64::from(exact as u32) })
}

/// Byte swaps (RFC 9669 section 4.2): to little-endian, to big-endian, and unconditional.
fn swap(a: u64, bits: i32, wide: bool, reg: bool) -> Option<u64> {
    let n = match bits {
        16 | 32 | 64 => bits as usize / 8,
        _ => return None,
    };
    let mut bytes = a.to_le_bytes();
    let low = &mut bytes[..n];
    match (wide, reg) {
        (false, false) => {}
        (false, true) | (true, false) => low.reverse(),
        (true, true) => return None,
    }
    bytes[n..].fill(0);
    Some(u64::from_le_bytes(bytes))
}

/// What an atomic operation makes of the value in memory. `None`: no such operation.
pub(super) fn atomic(op: i32, b: u64, expect: Option<u64>) -> Option<impl Fn(u64) -> u64> {
    if !matches!(op, 0 | 1 | 0x40 | 0x41 | 0x50 | 0x51 | 0xa0 | 0xa1 | 0xe1 | 0xf1) {
        return None;
    }
    Some(move |was: u64| match op & 0xf0 {
        0x00 => was.wrapping_add(b),
        0x40 => was | b,
        0x50 => was & b,
        0xa0 => was ^ b,
        0xe0 => b,
        _ if Some(was) == expect => b,
        _ => was,
    })
}
