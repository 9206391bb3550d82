//! Which registers still matter after each instruction.
//!
//! Specialised operations read less than the instructions they stand for: what a program
//! computed only to pass it to a helper that is not called any more need not be computed.

use crate::bpf::builtins;
use crate::bpf::insn::Insn;
use crate::bpf::verifier::Facts;

/// Registers, one bit each.
pub(super) type Regs = u16;

const fn bit(r: u8) -> Regs {
    1 << (r & 15)
}

/// r0-r5: what a call leaves undefined, r0 aside.
const SCRATCH: Regs = 0b11_1111;

/// What an instruction reads and writes. `call` tells the arguments that a helper call reads.
fn reads_and_writes(i: Insn, call: impl Fn() -> Regs) -> (Regs, Regs) {
    let (d, s) = (bit(i.dst), bit(i.src));
    let reg = i.code & 8 != 0;
    match i.code & 7 {
        0 if i.code == 0x18 => (0, d),
        0 if i.code & 0xe0 == 0x40 => (s, SCRATCH),
        0 => (0, SCRATCH),
        1 => (s, d),
        2 => (d, 0),
        3 if i.code & 0xe0 == 0xc0 => match i.imm {
            0xf1 => (d | s | bit(0), bit(0)),
            op if op & 1 == 1 => (d | s, s),
            _ => (d | s, 0),
        },
        3 => (d | s, 0),
        4 | 7 => match i.code & 0xf0 {
            0xb0 if reg => (s, d),
            0xb0 => (0, d),
            0x80 | 0xd0 => (d, d),
            _ if reg => (d | s, d),
            _ => (d, d),
        },
        _ => match i.code {
            0x05 | 0x06 => (0, 0),
            0x95 => (bit(0), 0),
            0x85 if i.src == 1 => (SCRATCH & !1, SCRATCH),
            0x85 => (call(), SCRATCH),
            _ if reg => (d | s, 0),
            _ => (d, 0),
        },
    }
}

/// The argument registers that a helper call reads when nothing better is known.
pub(super) fn arguments(number: u32) -> Regs {
    ((1u16 << (builtins::arity(number) + 1)) - 1) & !1
}

/// The registers that matter after each slot. `call` tells the arguments read by the helper
/// call in a slot.
pub(super) fn after(insns: &[Insn], facts: &Facts, call: impl Fn(usize) -> Regs) -> Vec<Regs> {
    let n = insns.len();
    let mut before = vec![0; n + 1];
    let mut after = vec![0; n];
    loop {
        let mut changed = false;
        for at in (0..n).rev() {
            if facts.reached.get(at) != Some(&true) {
                continue;
            }
            let i = insns[at];
            let get = |to: isize| {
                at.checked_add_signed(to).and_then(|t| before.get(t)).copied().unwrap_or(0)
            };
            let taken = facts.taken.get(at).copied().unwrap_or_default();
            let live = match i.code {
                0x95 => 0,
                0x18 => get(2),
                0x05 => get(1 + isize::from(i.off)),
                0x06 => get(1 + i.imm as isize),
                code if matches!(code & 7, 5 | 6) && code != 0x85 => {
                    let (jump, fall) = match (taken.jump, taken.fall) {
                        (false, false) => (true, true),
                        both => both,
                    };
                    let j = if jump { get(1 + isize::from(i.off)) } else { 0 };
                    j | if fall { get(1) } else { 0 }
                }
                _ => get(1),
            };
            let (reads, writes) = reads_and_writes(i, || call(at));
            // What is only read for something that nobody reads does not matter either.
            let idle = is_pure(i) && live & bit(i.dst) == 0;
            let start = if idle { live } else { reads | (live & !writes) };
            after[at] = live;
            if before[at] != start {
                before[at] = start;
                changed = true;
            }
        }
        if !changed {
            return after;
        }
    }
}

/// Whether an instruction does nothing but write its destination.
pub(super) fn is_pure(i: Insn) -> bool {
    matches!(i.code & 7, 1 | 4 | 7) || i.code == 0x18
}
