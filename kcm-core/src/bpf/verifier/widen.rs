//! Widening: makes the state at a loop head large enough that rounds stop changing it.

use super::{
    scalar::Scalar,
    state::{Kind, MAX_PACKET, Reg, State},
    structure::Code,
    tnum::Tnum,
};
use crate::bpf::decode::{Ins, Op, Operand, Wide};

/// The program's constants and their neighbours: where loops are likely to end.
pub(super) struct Thresholds {
    unsigned: Vec<u64>,
    signed: Vec<i64>,
}

impl Thresholds {
    pub(super) fn of(code: &Code) -> Thresholds {
        let mut all = vec![0, 1, u64::from(u32::MAX), 1 << 32, MAX_PACKET + 2];
        for ins in &code.ins {
            let c = match *ins {
                Ins::Jmp { src: Operand::Imm(i), is32: true, .. }
                | Ins::Mov { src: Operand::Imm(i), is32: true, .. } => u64::from(i as u32),
                Ins::Jmp { src: Operand::Imm(i), .. }
                | Ins::Alu { src: Operand::Imm(i), .. }
                | Ins::Mov { src: Operand::Imm(i), .. } => i64::from(i) as u64,
                Ins::Wide { what: Wide::Imm(v), .. } => v,
                _ => continue,
            };
            all.extend([c.wrapping_sub(1), c, c.wrapping_add(1)]);
        }
        all.sort_unstable();
        all.dedup();
        let mut signed: Vec<i64> = all.iter().map(|v| *v as i64).collect();
        signed.sort_unstable();
        Thresholds { unsigned: all, signed }
    }

    fn up(&self, v: u64, leap: usize) -> u64 {
        let i = self.unsigned.partition_point(|t| *t < v) + (1 << leap) - 1;
        self.unsigned.get(i).copied().unwrap_or(u64::MAX)
    }

    fn down(&self, v: u64, leap: usize) -> u64 {
        let i = self.unsigned.partition_point(|t| *t <= v);
        i.checked_sub(1 << leap).map_or(0, |i| self.unsigned[i])
    }

    fn sup(&self, v: i64, leap: usize) -> i64 {
        let i = self.signed.partition_point(|t| *t < v) + (1 << leap) - 1;
        self.signed.get(i).copied().unwrap_or(i64::MAX)
    }

    fn sdown(&self, v: i64, leap: usize) -> i64 {
        let i = self.signed.partition_point(|t| *t <= v);
        i.checked_sub(1 << leap).map_or(i64::MIN, |i| self.signed[i])
    }
}

/// Whether registers that hold 0 or 1 in both states hold the same.
pub(super) fn flags_agree(old: &State, new: &State, live: u16) -> bool {
    let flag = |r: &Reg| r.as_const().filter(|v| *v <= 1);
    old.top().regs[..10].iter().zip(&new.top().regs).enumerate().all(|(r, (o, n))| {
        live >> r & 1 == 0 || flag(o).is_none() || flag(n).is_none() || flag(o) == flag(n)
    })
}

/// Makes `new` hold what `old` and `new` hold, and more where they differ: up to the next of the
/// program's constants, or with `leap` to the one that is 2^leap further.
pub(super) fn widen(
    old: &State,
    new: &mut State,
    live: u16,
    thresholds: &Thresholds,
    leap: usize,
    next_id: &mut u32,
) {
    let top = old.frames.len() - 1;
    for (f, (o, n)) in old.frames.iter().zip(&mut new.frames).enumerate() {
        for r in 0..10 {
            if f == top && live >> r & 1 == 0 {
                continue;
            }
            widen_reg(&o.regs[r], &mut n.regs[r], thresholds, leap, next_id);
        }
        for s in &mut n.stack.spills {
            if let Some(p) = o.stack.spill_at(s.at, s.size) {
                widen_reg(&p.reg, &mut s.reg, thresholds, leap, next_id);
            }
        }
    }
}

fn widen_reg(old: &Reg, new: &mut Reg, t: &Thresholds, leap: usize, next_id: &mut u32) {
    if old.kind != new.kind {
        return;
    }
    match new.kind {
        Kind::Scalar if old.num != new.num => {
            new.num = widen_scalar(&old.num, &new.num, t, leap);
            new.id = 0;
            new.off = 0;
        }
        Kind::Packet | Kind::Stack { .. } | Kind::Value { .. } | Kind::Record { .. } => {
            if old.off == new.off && old.num == new.num {
                new.range = new.range.min(old.range);
                return;
            }
            // Both as one fixed part and a variable one that holds the difference.
            let off = old.off.min(new.off);
            let part = |r: &Reg| {
                let by = Scalar::constant(r.off.wrapping_sub(off) as u64);
                Scalar::alu(Op::Add, false, &r.num, &by)
            };
            let (a, b) = (part(old), part(new));
            let wide = widen_scalar(&a, &b, t, leap);
            // Wide, but within what pointers may have.
            let cap = Scalar::srange(-(1 << 33), 1 << 33);
            new.num = match wide.intersect(&cap) {
                Some(n) if n.contains(&a.union(&b)) => n,
                _ => a.union(&b),
            };
            new.off = off;
            if new.kind == Kind::Packet {
                *next_id += 1;
                new.id = *next_id;
                new.range = 0;
            }
        }
        _ => {}
    }
}

fn widen_scalar(old: &Scalar, new: &Scalar, t: &Thresholds, leap: usize) -> Scalar {
    let mut s = old.union(new);
    if s == *old {
        return s;
    }
    let hull = s;
    if s.umin < old.umin {
        s.umin = t.down(s.umin, leap);
    }
    if s.umax > old.umax {
        s.umax = t.up(s.umax, leap);
    }
    if s.smin < old.smin {
        s.smin = t.sdown(s.smin, leap);
    }
    if s.smax > old.smax {
        s.smax = t.sup(s.smax, leap);
    }
    if s.u32min < old.u32min || s.u32max > old.u32max {
        (s.u32min, s.u32max) = (0, u32::MAX);
    }
    if s.s32min < old.s32min || s.s32max > old.s32max {
        (s.s32min, s.s32max) = (i32::MIN, i32::MAX);
    }
    if s.bits != old.bits {
        // Low bits that stay known say how large the steps are; the others will not stay.
        let known = s.bits.mask.trailing_zeros().min(63);
        let low = (1u64 << known) - 1;
        s.bits = Tnum { value: s.bits.value & low, mask: !low };
    }
    if s.sync() && s.contains(&hull) { s } else { Scalar::UNKNOWN }
}
