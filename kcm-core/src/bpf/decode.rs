//! Instructions as what they mean: RFC 9669's encodings, decoded once, every reserved field
//! held to zero (sections 3 to 5).

use super::insn::Insn;

/// Binary arithmetic (RFC 9669 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Addition, wrapping.
    Add,
    /// Subtraction, wrapping.
    Sub,
    /// Multiplication, wrapping.
    Mul,
    /// Unsigned division; by zero gives 0.
    Div,
    /// Signed division; by zero gives 0, the least value by -1 gives itself.
    Sdiv,
    /// Unsigned remainder; by zero gives the dividend.
    Mod,
    /// Signed remainder (truncated); by zero gives the dividend.
    Smod,
    /// Bitwise or.
    Or,
    /// Bitwise and.
    And,
    /// Bitwise exclusive or.
    Xor,
    /// Shift left, the amount modulo the width.
    Lsh,
    /// Logical shift right, the amount modulo the width.
    Rsh,
    /// Arithmetic shift right, the amount modulo the width.
    Arsh,
}

/// Conditions of jumps (RFC 9669 section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cond {
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
    /// Some bit in common.
    Set,
    /// No bit in common. No instruction has it; it is what `Set` leaves on the other way.
    NotSet,
    /// Unsigned greater.
    Gt,
    /// Unsigned greater or equal.
    Ge,
    /// Unsigned less.
    Lt,
    /// Unsigned less or equal.
    Le,
    /// Signed greater.
    Sgt,
    /// Signed greater or equal.
    Sge,
    /// Signed less.
    Slt,
    /// Signed less or equal.
    Sle,
}

impl Cond {
    /// The condition that holds when this one does not.
    pub const fn negate(self) -> Cond {
        match self {
            Cond::Eq => Cond::Ne,
            Cond::Ne => Cond::Eq,
            Cond::Set => Cond::NotSet,
            Cond::NotSet => Cond::Set,
            Cond::Gt => Cond::Le,
            Cond::Ge => Cond::Lt,
            Cond::Lt => Cond::Ge,
            Cond::Le => Cond::Gt,
            Cond::Sgt => Cond::Sle,
            Cond::Sge => Cond::Slt,
            Cond::Slt => Cond::Sge,
            Cond::Sle => Cond::Sgt,
        }
    }

    /// The condition with its sides exchanged.
    pub const fn mirror(self) -> Cond {
        match self {
            Cond::Gt => Cond::Lt,
            Cond::Ge => Cond::Le,
            Cond::Lt => Cond::Gt,
            Cond::Le => Cond::Ge,
            Cond::Sgt => Cond::Slt,
            Cond::Sge => Cond::Sle,
            Cond::Slt => Cond::Sgt,
            Cond::Sle => Cond::Sge,
            same => same,
        }
    }
}

/// A register or a sign-extended immediate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// A register.
    Reg(u8),
    /// A constant, sign-extended to 64 bits.
    Imm(i32),
}

/// What `LDDW` loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wide {
    /// A number.
    Imm(u64),
    /// The map with this index.
    Map(u32),
    /// The address of `offset` in the single value of the map with this index.
    MapValue {
        /// Index into the program's maps.
        map: u32,
        /// Bytes into the value.
        offset: u32,
    },
    /// The address of the function that starts at this slot (for `bpf_loop`).
    Func(usize),
}

/// What an atomic instruction does (RFC 9669 section 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AtomicOp {
    /// Adds.
    Add,
    /// Ors.
    Or,
    /// Ands.
    And,
    /// Exclusive-ors.
    Xor,
    /// Exchanges; always fetches.
    Xchg,
    /// Compares with r0 and exchanges; always fetches, into r0.
    Cmpxchg,
}

/// A decoded instruction. Sizes are in bytes, targets are absolute instruction slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ins {
    /// `dst = dst op src`.
    Alu {
        /// The operation.
        op: Op,
        /// 32 bits wide; the result is zero-extended.
        is32: bool,
        /// Left side and result.
        dst: u8,
        /// Right side.
        src: Operand,
    },
    /// `dst = src`.
    Mov {
        /// 32 bits wide; the result is zero-extended.
        is32: bool,
        /// Result.
        dst: u8,
        /// What is copied.
        src: Operand,
    },
    /// `dst = ` the low `bits` of src, sign-extended.
    Movsx {
        /// Extended to 32 bits (then zero-extended) rather than 64.
        is32: bool,
        /// 8, 16 or 32.
        bits: u8,
        /// Result.
        dst: u8,
        /// What is extended.
        src: u8,
    },
    /// `dst = -dst`.
    Neg {
        /// 32 bits wide; the result is zero-extended.
        is32: bool,
        /// The register.
        dst: u8,
    },
    /// Byte order: the low `bytes` bytes, reversed if `swap`, zero-extended. Programs are
    /// little-endian, so `le` only truncates and `be` and `bswap` reverse.
    End {
        /// 2, 4 or 8.
        bytes: u8,
        /// Whether bytes are reversed.
        swap: bool,
        /// The register.
        dst: u8,
    },
    /// `dst = ` 64 bits; the next slot is [`Ins::Second`].
    Wide {
        /// Result.
        dst: u8,
        /// What is loaded.
        what: Wide,
    },
    /// The second slot of a [`Ins::Wide`]: not an instruction.
    Second,
    /// `dst = *(size *)(src + off)`.
    Load {
        /// 1, 2, 4 or 8.
        size: u8,
        /// Sign-extended (sizes 1, 2, 4) rather than zero-extended.
        signed: bool,
        /// Result.
        dst: u8,
        /// Base address.
        src: u8,
        /// Offset.
        off: i16,
    },
    /// `*(size *)(dst + off) = src`.
    Store {
        /// 1, 2, 4 or 8.
        size: u8,
        /// Base address.
        dst: u8,
        /// Offset.
        off: i16,
        /// What is stored.
        src: Operand,
    },
    /// An atomic read-modify-write of `*(size *)(dst + off)`.
    Atomic {
        /// The operation.
        op: AtomicOp,
        /// Whether src (r0 for `Cmpxchg`) gets the old value.
        fetch: bool,
        /// 4 or 8.
        size: u8,
        /// Base address.
        dst: u8,
        /// Offset.
        off: i16,
        /// Right side.
        src: u8,
    },
    /// Legacy packet load: r0 = big-endian bytes of the packet at `imm` (+ the register).
    Packet {
        /// 1, 2 or 4.
        size: u8,
        /// `LD_IND`'s register.
        index: Option<u8>,
        /// Constant offset.
        imm: i32,
    },
    /// Jump.
    Ja {
        /// Slot.
        target: usize,
    },
    /// `if dst cond src goto target`.
    Jmp {
        /// The condition.
        cond: Cond,
        /// Compares the low 32 bits.
        is32: bool,
        /// Left side.
        dst: u8,
        /// Right side.
        src: Operand,
        /// Slot.
        target: usize,
    },
    /// Call of a helper by number.
    Call {
        /// The kernel's number of the helper.
        helper: u32,
    },
    /// Call of a function of the program.
    CallLocal {
        /// Its first slot.
        target: usize,
    },
    /// Return.
    Exit,
}

/// What is wrong with an encoding.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// No instruction has this code (or this code with these sub-codes).
    #[error("unknown instruction {code:#04x}")]
    UnknownOpcode {
        /// The code.
        code: u8,
    },
    /// A field that this instruction does not use is not zero.
    #[error("reserved field `{field}` is not zero")]
    ReservedField {
        /// The field: `dst`, `src`, `off` or `imm`.
        field: &'static str,
    },
    /// Registers are r0 to r10.
    #[error("there is no register r{reg}")]
    BadRegister {
        /// The number encoded.
        reg: u8,
    },
    /// r10 is the frame pointer and read-only.
    #[error("the frame pointer r10 cannot be written")]
    FramePointerWrite,
    /// A jump's target is outside of the program.
    #[error("target {target} is outside of the program")]
    BadTarget {
        /// The slot it names.
        target: i64,
    },
    /// The last slot holds the first half of a `LDDW`.
    #[error("the second half of a 64-bit load is missing")]
    TruncatedWide,
    /// This kind of `LDDW` (src 3, 5, 6) or call (src 2) needs a kernel.
    #[error("relocation kind {src} needs a running kernel")]
    KernelReference {
        /// The sub-code in the src field.
        src: u8,
    },
    /// A call through a register; the target cannot be proved.
    #[error("call through a register")]
    CallRegister,
}

const LD: u8 = 0;
const LDX: u8 = 1;
const ST: u8 = 2;
const STX: u8 = 3;
const ALU: u8 = 4;
const JMP: u8 = 5;
const JMP32: u8 = 6;

/// Decodes all slots. The second slots of `LDDW` become [`Ins::Second`].
///
/// # Errors
/// The first slot that is not an instruction of RFC 9669, with its index.
pub fn decode(insns: &[Insn]) -> Result<Vec<Ins>, (usize, DecodeError)> {
    let mut out = Vec::with_capacity(insns.len());
    while out.len() < insns.len() {
        let at = out.len();
        let ins = decode_one(insns, at).map_err(|e| (at, e))?;
        out.push(ins);
        if let Ins::Wide { .. } = ins {
            out.push(Ins::Second);
        }
    }
    Ok(out)
}

/// Decodes the instruction in slot `at`.
///
/// # Errors
/// It is not an instruction of RFC 9669, or not within `insns`.
pub fn decode_one(insns: &[Insn], at: usize) -> Result<Ins, DecodeError> {
    let Some(&i) = insns.get(at) else {
        return Err(DecodeError::BadTarget { target: at as i64 });
    };
    for reg in [i.dst, i.src] {
        // Sub-codes in src are checked where they are used.
        if reg > 10 {
            return Err(DecodeError::BadRegister { reg });
        }
    }
    match i.code & 7 {
        LD => decode_ld(insns, at, i),
        LDX => {
            zero("imm", i.imm)?;
            let size = size(i.code);
            let signed = match i.code >> 5 {
                3 => false,
                4 if size < 8 => true,
                _ => return unknown(i),
            };
            writable(i.dst)?;
            Ok(Ins::Load { size, signed, dst: i.dst, src: i.src, off: i.off })
        }
        ST => {
            if i.code >> 5 != 3 {
                return unknown(i);
            }
            zero("src", i32::from(i.src))?;
            Ok(Ins::Store { size: size(i.code), dst: i.dst, off: i.off, src: Operand::Imm(i.imm) })
        }
        STX => match i.code >> 5 {
            3 => {
                zero("imm", i.imm)?;
                let src = Operand::Reg(i.src);
                Ok(Ins::Store { size: size(i.code), dst: i.dst, off: i.off, src })
            }
            6 => decode_atomic(i),
            _ => unknown(i),
        },
        JMP | JMP32 => decode_jmp(insns.len(), at, i),
        ALU => decode_alu(i, true),
        _ => decode_alu(i, false),
    }
}

fn decode_ld(insns: &[Insn], at: usize, i: Insn) -> Result<Ins, DecodeError> {
    match i.code {
        0x18 => {
            writable(i.dst)?;
            zero("off", i32::from(i.off))?;
            let Some(second) = insns.get(at + 1) else {
                return Err(DecodeError::TruncatedWide);
            };
            if second.code != 0 {
                return Err(DecodeError::TruncatedWide);
            }
            zero("dst", i32::from(second.dst))?;
            zero("src", i32::from(second.src))?;
            zero("off", i32::from(second.off))?;
            let what = match i.src {
                0 => Wide::Imm(u64::from(i.imm as u32) | u64::from(second.imm as u32) << 32),
                1 => {
                    zero("imm", second.imm)?;
                    Wide::Map(i.imm as u32)
                }
                2 => Wide::MapValue { map: i.imm as u32, offset: second.imm as u32 },
                4 => {
                    zero("imm", second.imm)?;
                    Wide::Func(target(insns.len(), at, i64::from(i.imm))?)
                }
                src => return Err(DecodeError::KernelReference { src }),
            };
            Ok(Ins::Wide { dst: i.dst, what })
        }
        0x20 | 0x28 | 0x30 => {
            zero("dst", i32::from(i.dst))?;
            zero("src", i32::from(i.src))?;
            zero("off", i32::from(i.off))?;
            Ok(Ins::Packet { size: size(i.code), index: None, imm: i.imm })
        }
        0x40 | 0x48 | 0x50 => {
            zero("dst", i32::from(i.dst))?;
            zero("off", i32::from(i.off))?;
            Ok(Ins::Packet { size: size(i.code), index: Some(i.src), imm: i.imm })
        }
        _ => unknown(i),
    }
}

fn decode_atomic(i: Insn) -> Result<Ins, DecodeError> {
    let size = size(i.code);
    if size < 4 {
        return unknown(i);
    }
    let (op, fetch) = match i.imm {
        0x00 => (AtomicOp::Add, false),
        0x01 => (AtomicOp::Add, true),
        0x40 => (AtomicOp::Or, false),
        0x41 => (AtomicOp::Or, true),
        0x50 => (AtomicOp::And, false),
        0x51 => (AtomicOp::And, true),
        0xa0 => (AtomicOp::Xor, false),
        0xa1 => (AtomicOp::Xor, true),
        0xe1 => (AtomicOp::Xchg, true),
        0xf1 => (AtomicOp::Cmpxchg, true),
        _ => return unknown(i),
    };
    if fetch && op != AtomicOp::Cmpxchg {
        writable(i.src)?;
    }
    Ok(Ins::Atomic { op, fetch, size, dst: i.dst, off: i.off, src: i.src })
}

fn decode_jmp(len: usize, at: usize, i: Insn) -> Result<Ins, DecodeError> {
    let is32 = i.code & 7 == JMP32;
    let cond = match i.code >> 4 {
        0x0 => {
            zero("dst", i32::from(i.dst))?;
            zero("src", i32::from(i.src))?;
            if i.code & 8 != 0 {
                return unknown(i);
            }
            let by = if is32 {
                zero("off", i32::from(i.off))?;
                i64::from(i.imm)
            } else {
                zero("imm", i.imm)?;
                i64::from(i.off)
            };
            return Ok(Ins::Ja { target: target(len, at, by)? });
        }
        0x8 if is32 => return unknown(i),
        0x8 => {
            zero("off", i32::from(i.off))?;
            if i.code & 8 != 0 {
                return Err(DecodeError::CallRegister);
            }
            zero("dst", i32::from(i.dst))?;
            return match i.src {
                0 => Ok(Ins::Call { helper: i.imm as u32 }),
                1 => Ok(Ins::CallLocal { target: target(len, at, i64::from(i.imm))? }),
                src => Err(DecodeError::KernelReference { src }),
            };
        }
        0x9 => {
            if is32 || i.code & 8 != 0 {
                return unknown(i);
            }
            zero("dst", i32::from(i.dst))?;
            zero("src", i32::from(i.src))?;
            zero("off", i32::from(i.off))?;
            zero("imm", i.imm)?;
            return Ok(Ins::Exit);
        }
        0x1 => Cond::Eq,
        0x2 => Cond::Gt,
        0x3 => Cond::Ge,
        0x4 => Cond::Set,
        0x5 => Cond::Ne,
        0x6 => Cond::Sgt,
        0x7 => Cond::Sge,
        0xa => Cond::Lt,
        0xb => Cond::Le,
        0xc => Cond::Slt,
        0xd => Cond::Sle,
        _ => return unknown(i),
    };
    let src = operand(i)?;
    Ok(Ins::Jmp { cond, is32, dst: i.dst, src, target: target(len, at, i64::from(i.off))? })
}

fn decode_alu(i: Insn, is32: bool) -> Result<Ins, DecodeError> {
    writable(i.dst)?;
    let op = match (i.code >> 4, i.off) {
        (0xd, _) => {
            zero("src", i32::from(i.src))?;
            zero("off", i32::from(i.off))?;
            let swap = match (is32, i.code & 8 != 0) {
                (true, to_be) => to_be,
                (false, false) => true,
                (false, true) => return unknown(i),
            };
            let bytes = match i.imm {
                16 => 2,
                32 => 4,
                64 => 8,
                _ => return unknown(i),
            };
            return Ok(Ins::End { bytes, swap, dst: i.dst });
        }
        (0x8, _) => {
            zero("src", i32::from(i.src))?;
            zero("off", i32::from(i.off))?;
            zero("imm", i.imm)?;
            if i.code & 8 != 0 {
                return unknown(i);
            }
            return Ok(Ins::Neg { is32, dst: i.dst });
        }
        (0xb, 0) => return Ok(Ins::Mov { is32, dst: i.dst, src: operand(i)? }),
        (0xb, off) => {
            if i.code & 8 == 0 {
                return zero("off", i32::from(off)).and_then(|()| unknown(i));
            }
            zero("imm", i.imm)?;
            return match (off, is32) {
                (8 | 16, _) | (32, false) => {
                    Ok(Ins::Movsx { is32, bits: off as u8, dst: i.dst, src: i.src })
                }
                _ => Err(DecodeError::ReservedField { field: "off" }),
            };
        }
        (0x3, 1) => Op::Sdiv,
        (0x9, 1) => Op::Smod,
        (code, off) => {
            zero("off", i32::from(off))?;
            match code {
                0x0 => Op::Add,
                0x1 => Op::Sub,
                0x2 => Op::Mul,
                0x3 => Op::Div,
                0x4 => Op::Or,
                0x5 => Op::And,
                0x6 => Op::Lsh,
                0x7 => Op::Rsh,
                0x9 => Op::Mod,
                0xa => Op::Xor,
                0xc => Op::Arsh,
                _ => return unknown(i),
            }
        }
    };
    Ok(Ins::Alu { op, is32, dst: i.dst, src: operand(i)? })
}

fn unknown<T>(i: Insn) -> Result<T, DecodeError> {
    Err(DecodeError::UnknownOpcode { code: i.code })
}

fn operand(i: Insn) -> Result<Operand, DecodeError> {
    if i.code & 8 != 0 {
        zero("imm", i.imm)?;
        Ok(Operand::Reg(i.src))
    } else {
        zero("src", i32::from(i.src))?;
        Ok(Operand::Imm(i.imm))
    }
}

fn zero(field: &'static str, v: i32) -> Result<(), DecodeError> {
    if v == 0 { Ok(()) } else { Err(DecodeError::ReservedField { field }) }
}

fn writable(reg: u8) -> Result<(), DecodeError> {
    if reg == 10 { Err(DecodeError::FramePointerWrite) } else { Ok(()) }
}

fn size(code: u8) -> u8 {
    match code & 0x18 {
        0x00 => 4,
        0x08 => 2,
        0x10 => 1,
        _ => 8,
    }
}

fn target(len: usize, at: usize, by: i64) -> Result<usize, DecodeError> {
    let target = at as i64 + 1 + by;
    match usize::try_from(target) {
        Ok(t) if t < len => Ok(t),
        _ => Err(DecodeError::BadTarget { target }),
    }
}
