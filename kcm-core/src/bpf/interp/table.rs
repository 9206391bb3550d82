//! Which operation an opcode is: tables from RFC 9669.

use super::ops::Code::{self, *};

/// 32-bit with a constant, 32-bit with a register, 64-bit with a constant, 64-bit with a
/// register.
type Four = [Code; 4];

fn pick(four: Four, wide: bool, reg: bool) -> Code {
    let [a, b, c, d] = four;
    match (wide, reg) {
        (false, false) => a,
        (false, true) => b,
        (true, false) => c,
        (true, true) => d,
    }
}

/// Arithmetic with two operands (RFC 9669 section 4.1); `op` is the code's upper half.
pub(super) fn alu(op: u8, signed: bool, wide: bool, reg: bool) -> Option<Code> {
    let four = match (op, signed) {
        (0x00, false) => [Add32Imm, Add32Reg, Add64Imm, Add64Reg],
        (0x10, false) => [Sub32Imm, Sub32Reg, Sub64Imm, Sub64Reg],
        (0x20, false) => [Mul32Imm, Mul32Reg, Mul64Imm, Mul64Reg],
        (0x30, false) => [Div32Imm, Div32Reg, Div64Imm, Div64Reg],
        (0x40, false) => [Or32Imm, Or32Reg, Or64Imm, Or64Reg],
        (0x50, false) => [And32Imm, And32Reg, And64Imm, And64Reg],
        (0x60, false) => [Lsh32Imm, Lsh32Reg, Lsh64Imm, Lsh64Reg],
        (0x70, false) => [Rsh32Imm, Rsh32Reg, Rsh64Imm, Rsh64Reg],
        (0x90, false) => [Mod32Imm, Mod32Reg, Mod64Imm, Mod64Reg],
        (0xa0, false) => [Xor32Imm, Xor32Reg, Xor64Imm, Xor64Reg],
        (0xb0, false) => [Mov32Imm, Mov32Reg, Mov64Imm, Mov64Reg],
        (0xc0, false) => [Arsh32Imm, Arsh32Reg, Arsh64Imm, Arsh64Reg],
        (0x30, true) => [SDiv32Imm, SDiv32Reg, SDiv64Imm, SDiv64Reg],
        (0x90, true) => [SMod32Imm, SMod32Reg, SMod64Imm, SMod64Reg],
        _ => return None,
    };
    Some(pick(four, wide, reg))
}

/// Conditional jumps (RFC 9669 section 4.3).
pub(super) fn jump(op: u8, wide: bool, reg: bool) -> Option<Code> {
    let four = match op {
        0x10 => [JEq32Imm, JEq32Reg, JEq64Imm, JEq64Reg],
        0x20 => [JGt32Imm, JGt32Reg, JGt64Imm, JGt64Reg],
        0x30 => [JGe32Imm, JGe32Reg, JGe64Imm, JGe64Reg],
        0x40 => [JSet32Imm, JSet32Reg, JSet64Imm, JSet64Reg],
        0x50 => [JNe32Imm, JNe32Reg, JNe64Imm, JNe64Reg],
        0x60 => [JSGt32Imm, JSGt32Reg, JSGt64Imm, JSGt64Reg],
        0x70 => [JSGe32Imm, JSGe32Reg, JSGe64Imm, JSGe64Reg],
        0xa0 => [JLt32Imm, JLt32Reg, JLt64Imm, JLt64Reg],
        0xb0 => [JLe32Imm, JLe32Reg, JLe64Imm, JLe64Reg],
        0xc0 => [JSLt32Imm, JSLt32Reg, JSLt64Imm, JSLt64Reg],
        0xd0 => [JSLe32Imm, JSLe32Reg, JSLe64Imm, JSLe64Reg],
        _ => return None,
    };
    Some(pick(four, wide, reg))
}

/// Sizes in the order of the opcode's size bits: 4, 2, 1, 8 bytes.
pub(super) fn size(code: u8) -> usize {
    [4, 2, 1, 8][usize::from(code >> 3 & 3)]
}

/// Loads (section 5.1), sign-extending ones where asked.
pub(super) fn load(size: usize, signed: bool, shared: bool) -> Option<Code> {
    Some(match (size, signed, shared) {
        (1, false, false) => Load8,
        (2, false, false) => Load16,
        (4, false, false) => Load32,
        (8, false, false) => Load64,
        (1, true, false) => LoadSx8,
        (2, true, false) => LoadSx16,
        (4, true, false) => LoadSx32,
        (1, false, true) => SharedLoad8,
        (2, false, true) => SharedLoad16,
        (4, false, true) => SharedLoad32,
        (8, false, true) => SharedLoad64,
        (1, true, true) => SharedLoadSx8,
        (2, true, true) => SharedLoadSx16,
        (4, true, true) => SharedLoadSx32,
        _ => return None,
    })
}

/// Stores.
pub(super) fn store(size: usize, reg: bool, shared: bool) -> Option<Code> {
    Some(match (size, reg, shared) {
        (1, false, false) => Store8Imm,
        (2, false, false) => Store16Imm,
        (4, false, false) => Store32Imm,
        (8, false, false) => Store64Imm,
        (1, true, false) => Store8Reg,
        (2, true, false) => Store16Reg,
        (4, true, false) => Store32Reg,
        (8, true, false) => Store64Reg,
        (1, false, true) => SharedStore8Imm,
        (2, false, true) => SharedStore16Imm,
        (4, false, true) => SharedStore32Imm,
        (8, false, true) => SharedStore64Imm,
        (1, true, true) => SharedStore8Reg,
        (2, true, true) => SharedStore16Reg,
        (4, true, true) => SharedStore32Reg,
        (8, true, true) => SharedStore64Reg,
        _ => return None,
    })
}

/// Atomics (section 5.3): `op` is the instruction's constant.
pub(super) fn atomic(op: i32, wide: bool) -> Option<Code> {
    let (narrow, wider) = match op {
        0x00 => (AtomicAdd32NoFetch, AtomicAdd64NoFetch),
        0x40 => (AtomicOr32NoFetch, AtomicOr64NoFetch),
        0x50 => (AtomicAnd32NoFetch, AtomicAnd64NoFetch),
        0xa0 => (AtomicXor32NoFetch, AtomicXor64NoFetch),
        0x01 => (AtomicAdd32, AtomicAdd64),
        0x41 => (AtomicOr32, AtomicOr64),
        0x51 => (AtomicAnd32, AtomicAnd64),
        0xa1 => (AtomicXor32, AtomicXor64),
        0xe1 => (AtomicXchg32, AtomicXchg64),
        0xf1 => (AtomicCmpXchg32, AtomicCmpXchg64),
        _ => return None,
    };
    Some(if wide { wider } else { narrow })
}
