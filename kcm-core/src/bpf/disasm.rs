//! Instructions as text, in the kernel's manner: `r0 = *(u32 *)(r1 + 16)`.

use std::fmt::Write as _;

use super::{
    decode::{AtomicOp, Cond, Ins, Op, Operand, Wide, decode_one},
    helpers,
    insn::Insn,
    program::Program,
};

/// The instruction in slot `at` as text; a slot that is no instruction prints as its bytes.
pub fn disassemble(insns: &[Insn], at: usize) -> String {
    match decode_one(insns, at) {
        Ok(ins) => text(&ins, at),
        Err(_) => match insns.get(at) {
            Some(i) => i.to_bytes().iter().fold(".byte".to_owned(), |mut s, b| {
                let _ = write!(s, " {b:02x}");
                s
            }),
            None => "<end>".to_owned(),
        },
    }
}

/// The whole program, one instruction a line with its slot, functions by name.
pub fn listing(program: &Program) -> String {
    let mut out = String::new();
    let mut at = 0;
    while at < program.insns.len() {
        if let Some(f) = program.funcs.iter().find(|f| f.start == at) {
            let _ = writeln!(out, "{}:", if f.name.is_empty() { "<function>" } else { &f.name });
        }
        let _ = writeln!(out, "{at:5}: {}", disassemble(&program.insns, at));
        at += if program.insns[at].code == 0x18 { 2 } else { 1 };
    }
    out
}

/// A decoded instruction as text; `at` is its slot (jumps print how far they go).
pub fn text(ins: &Ins, at: usize) -> String {
    let reg = |is32: bool, r: u8| format!("{}{r}", if is32 { 'w' } else { 'r' });
    let arg = |is32: bool, o: &Operand| match o {
        Operand::Reg(r) => reg(is32, *r),
        Operand::Imm(i) => i.to_string(),
    };
    match ins {
        Ins::Alu { op, is32, dst, src } => {
            format!("{} {} {}", reg(*is32, *dst), op_text(*op), arg(*is32, src))
        }
        Ins::Mov { is32, dst, src } => format!("{} = {}", reg(*is32, *dst), arg(*is32, src)),
        Ins::Movsx { is32, bits, dst, src } => {
            format!("{} = (s{bits}){}", reg(*is32, *dst), reg(*is32, *src))
        }
        Ins::Neg { is32, dst } => format!("{0} = -{0}", reg(*is32, *dst)),
        Ins::End { bytes, swap, dst } => {
            format!(
                "r{dst} = {}{} r{dst}",
                if *swap { "bswap" } else { "le" },
                u32::from(*bytes) * 8
            )
        }
        Ins::Wide { dst, what } => match what {
            Wide::Imm(v) => format!("r{dst} = {v:#x} ll"),
            Wide::Map(m) => format!("r{dst} = map[{m}]"),
            Wide::MapValue { map, offset } => format!("r{dst} = map[{map}].value + {offset}"),
            Wide::Func(t) => format!("r{dst} = func {}", relative(at, *t)),
        },
        Ins::Second => "<second half>".to_owned(),
        Ins::Load { size, signed, dst, src, off } => {
            let sign = if *signed { 's' } else { 'u' };
            format!("r{dst} = *({sign}{} *)(r{src} {})", u32::from(*size) * 8, offset(*off))
        }
        Ins::Store { size, dst, off, src } => {
            format!("*(u{} *)(r{dst} {}) = {}", u32::from(*size) * 8, offset(*off), arg(false, src))
        }
        Ins::Atomic { op, fetch, size, dst, off, src } => {
            let name = match op {
                AtomicOp::Add => "add",
                AtomicOp::Or => "or",
                AtomicOp::And => "and",
                AtomicOp::Xor => "xor",
                AtomicOp::Xchg => "xchg",
                AtomicOp::Cmpxchg => "cmpxchg",
            };
            let place = format!("(u{} *)(r{dst} {})", u32::from(*size) * 8, offset(*off));
            match (op, fetch) {
                (AtomicOp::Cmpxchg, _) => format!("r0 = atomic_cmpxchg({place}, r0, r{src})"),
                (_, true) => format!("r{src} = atomic_fetch_{name}({place}, r{src})"),
                (_, false) => format!("lock {name} {place}, r{src}"),
            }
        }
        Ins::Packet { size, index, imm } => {
            let bits = u32::from(*size) * 8;
            match index {
                None => format!("r0 = *(u{bits} *)skb[{imm}]"),
                Some(r) => format!("r0 = *(u{bits} *)skb[r{r} + {imm}]"),
            }
        }
        Ins::Ja { target } => format!("goto {}", relative(at, *target)),
        Ins::Jmp { cond, is32, dst, src, target } => format!(
            "if {} {} {} goto {}",
            reg(*is32, *dst),
            cond_text(*cond),
            arg(*is32, src),
            relative(at, *target)
        ),
        Ins::Call { helper } => match helpers::name(*helper) {
            Some(n) => format!("call bpf_{n}#{helper}"),
            None => format!("call unknown#{helper}"),
        },
        Ins::CallLocal { target } => format!("call {}", relative(at, *target)),
        Ins::Exit => "exit".to_owned(),
    }
}

fn offset(off: i16) -> String {
    if off < 0 { format!("- {}", -i32::from(off)) } else { format!("+ {off}") }
}

fn relative(at: usize, target: usize) -> String {
    format!("{:+}", target as i64 - at as i64 - 1)
}

fn op_text(op: Op) -> &'static str {
    match op {
        Op::Add => "+=",
        Op::Sub => "-=",
        Op::Mul => "*=",
        Op::Div => "/=",
        Op::Sdiv => "s/=",
        Op::Mod => "%=",
        Op::Smod => "s%=",
        Op::Or => "|=",
        Op::And => "&=",
        Op::Xor => "^=",
        Op::Lsh => "<<=",
        Op::Rsh => ">>=",
        Op::Arsh => "s>>=",
    }
}

fn cond_text(c: Cond) -> &'static str {
    match c {
        Cond::Eq => "==",
        Cond::Ne => "!=",
        Cond::Set => "&",
        Cond::NotSet => "!&",
        Cond::Gt => ">",
        Cond::Ge => ">=",
        Cond::Lt => "<",
        Cond::Le => "<=",
        Cond::Sgt => "s>",
        Cond::Sge => "s>=",
        Cond::Slt => "s<",
        Cond::Sle => "s<=",
    }
}
