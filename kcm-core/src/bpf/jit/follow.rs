//! Where an edge of the control-flow graph really leads.
//!
//! With what is known at the edge (constants in registers, which way facts say a jump goes)
//! the instructions after it are followed: constants and copies are remembered, jumps that
//! are decided are taken. The edge then goes straight to where that ends, often an exit with
//! a constant. This is the largest single win in speed of compiled parsers.

use crate::bpf::checked::alu;
use crate::bpf::insn::Insn;
use crate::bpf::verifier::{Facts, Fuel};

/// What a register holds at the end of an edge, in terms of its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sym {
    /// What this register held.
    Was(u8),
    Const(u64),
}

pub(super) type Env = [Sym; 11];

/// Where an edge leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    Slot(usize),
    Exit,
}

/// The longest way that is followed.
const STEPS: usize = 48;

/// An environment in which registers hold what they hold, and some of that is known.
pub(super) fn env(known: &[Option<u64>; 11]) -> Env {
    std::array::from_fn(|r| match known[r] {
        Some(c) => Sym::Const(c),
        None => Sym::Was(r as u8),
    })
}

/// Follows from `slot`, where a block starts, to the exit or to the last slot on the way where
/// one starts (`is_block`).
pub(super) fn follow(
    insns: &[Insn],
    facts: &Facts,
    slot: usize,
    is_block: impl Fn(usize) -> bool,
    start: Env,
) -> (To, Env) {
    let mut env = start;
    let mut stop = (To::Slot(slot), env);
    let metered = |slot: usize| match &facts.fuel {
        Fuel::NotNeeded => false,
        Fuel::Metered { back_edges } => back_edges.binary_search(&slot).is_ok(),
    };
    let mut at = slot;
    for _ in 0..STEPS {
        if is_block(at) {
            stop = (To::Slot(at), env);
        }
        let Some(&i) = insns.get(at) else { break };
        let (dst, src) = (usize::from(i.dst), usize::from(i.src));
        if dst > 10 || src > 10 || metered(at) {
            break;
        }
        let reg = i.code & 8 != 0;
        match i.code {
            0x95 => return (To::Exit, env),
            0x05 => at = at.wrapping_add_signed(1 + isize::from(i.off)),
            0x06 => at = at.wrapping_add_signed(1 + i.imm as isize),
            0x18 if i.src == 0 => {
                let high = insns.get(at + 1).map_or(0, |h| h.imm);
                env[dst] = Sym::Const(u64::from(i.imm as u32) | u64::from(high as u32) << 32);
                at += 2;
            }
            // mov dst, src
            0xbf if i.off == 0 => {
                env[dst] = env[src];
                at += 1;
            }
            code if matches!(code & 7, 4 | 7) => {
                let op = code & 0xf0;
                let unary = matches!(op, 0x80 | 0xd0);
                let a = if op == 0xb0 { Sym::Const(0) } else { env[dst] };
                let b = if reg && !unary { env[src] } else { Sym::Const(i64::from(i.imm) as u64) };
                let (Sym::Const(a), Sym::Const(b)) = (a, b) else { break };
                let Some(v) = alu::compute(i, code & 7 == 7, a, b) else { break };
                env[dst] = Sym::Const(v);
                at += 1;
            }
            code if matches!(code & 7, 5 | 6) && !matches!(code, 0x85 | 0x8d) => {
                let b = if reg { env[src] } else { Sym::Const(i64::from(i.imm) as u64) };
                let known = match (env[dst], b) {
                    (Sym::Const(a), Sym::Const(b)) => {
                        alu::condition(code & 0xf0, code & 7 == 5, a, b)
                    }
                    _ => None,
                };
                let taken = facts.taken.get(at).copied().unwrap_or_default();
                let jump = match (taken.jump, taken.fall) {
                    (true, false) => true,
                    (false, true) => false,
                    _ => match known {
                        Some(k) => k,
                        None => break,
                    },
                };
                at = if jump { at.wrapping_add_signed(1 + isize::from(i.off)) } else { at + 1 };
            }
            _ => break,
        }
    }
    stop
}
