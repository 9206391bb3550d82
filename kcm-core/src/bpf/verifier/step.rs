//! One instruction on one state: arithmetic, jumps, returns.

use super::{
    error::Rule,
    explore::{Explorer, Flow, Stop},
    scalar::Scalar,
    state::{Kind, MAX_OFFSET, MAX_PACKET, Origin, Reg, State, Sum},
};
use crate::bpf::decode::{Cond, Ins, Op, Operand, Wide};

impl Explorer<'_> {
    /// Executes the instruction at `at` on the state.
    pub(super) fn step(&mut self, st: &mut State, at: usize) -> Result<Flow, Stop> {
        match self.code.ins[at] {
            Ins::Alu { op, is32, dst, src } => self.alu(st, op, is32, dst, src)?,
            Ins::Mov { is32, dst, src } => self.mov(st, is32, dst, src)?,
            Ins::Movsx { is32, bits, dst, src } => self.movsx(st, is32, bits, dst, src)?,
            Ins::Neg { is32, dst } => {
                let a = number(st, dst)?;
                let num = Scalar::alu(Op::Sub, is32, &Scalar::constant(0), &a.num);
                st.set(dst, Reg { deps: a.deps, ..Reg::scalar(num) });
            }
            Ins::End { bytes, swap, dst } => {
                let a = number(st, dst)?;
                let num = a.num.byte_order(u32::from(bytes), swap);
                st.set(dst, Reg { deps: a.deps, ..Reg::scalar(num) });
            }
            Ins::Wide { dst, what } => st.set(
                dst,
                match what {
                    Wide::Imm(v) => Reg::constant(v),
                    Wide::Map(map) => Reg::pointer(Kind::Map { map }, 0),
                    Wide::MapValue { map, offset } => {
                        Reg::pointer(Kind::Value { map, nullable: false }, i64::from(offset))
                    }
                    Wide::Func(t) => Reg::pointer(Kind::Func { target: t as u32 }, 0),
                },
            ),
            Ins::Second => {}
            Ins::Load { size, signed, dst, src, off } => {
                self.load(st, at, size, signed, dst, src, off)?;
            }
            Ins::Store { size, dst, off, src } => self.store(st, at, size, dst, off, src)?,
            Ins::Atomic { op, fetch, size, dst, off, src } => {
                self.atomic(st, at, op, fetch, size, dst, off, src)?;
            }
            Ins::Packet { size, index, .. } => legacy_load(st, size, index)?,
            Ins::Ja { target } => return Ok(Flow::Next(target)),
            Ins::Jmp { cond, is32, dst, src, target } => {
                return Ok(self.jump(st, at, cond, is32, dst, src, target)?);
            }
            Ins::Call { helper } => return self.call_helper(st, at, helper),
            Ins::CallLocal { target } => {
                self.call_function(st, at, target)?;
                return Ok(Flow::Next(target));
            }
            Ins::Exit => return Ok(self.exit(st)?),
        }
        Ok(Flow::Next(self.code.next(at)))
    }

    fn alu(
        &mut self,
        st: &mut State,
        op: Op,
        is32: bool,
        dst: u8,
        src: Operand,
    ) -> Result<(), Rule> {
        let a = readable(st, dst)?;
        let b = operand(st, src)?;
        let reg = match (a.kind, b.kind, op) {
            (Kind::Scalar, Kind::Scalar, _) => {
                let num = Scalar::alu(op, is32, &a.num, &b.num);
                let mut r = Reg { deps: a.deps | b.deps, ..Reg::scalar(num) };
                r.origin = moved(&a, &b, src, op, is32);
                // A link survives moving by a constant: the difference is known.
                if let (false, Operand::Imm(c), Op::Add | Op::Sub) = (is32, src, op)
                    && a.id != 0
                {
                    r.id = a.id;
                    r.off = match op {
                        Op::Add => a.off.wrapping_add(i64::from(c)),
                        _ => a.off.wrapping_sub(i64::from(c)),
                    };
                }
                r
            }
            (p, Kind::Scalar, Op::Add | Op::Sub) if p.is_pointer() && !is32 => match src {
                Operand::Reg(r) if op == Op::Add => {
                    let b = self.linked(st, r);
                    self.move_pointer(st, dst, &a, &b, false)?
                }
                _ => self.move_pointer(st, dst, &a, &b, op == Op::Sub)?,
            },
            (Kind::Scalar, p, Op::Add) if p.is_pointer() && !is32 => {
                let reg = if let Operand::Reg(r) = src { r } else { dst };
                self.move_pointer(st, reg, &b, &a, false)?
            }
            (Kind::Packet | Kind::PacketEnd, Kind::Packet | Kind::PacketEnd, Op::Sub) if !is32 => {
                Reg::scalar(packet_distance(&a, &b))
            }
            (p, ..) if p.is_pointer() => {
                return Err(Rule::PointerArithmetic { reg: dst, is: p.describe() });
            }
            (_, p, _) => {
                let reg = if let Operand::Reg(r) = src { r } else { dst };
                return Err(Rule::PointerArithmetic { reg, is: p.describe() });
            }
        };
        st.set(dst, reg);
        Ok(())
    }

    fn move_pointer(
        &mut self,
        st: &mut State,
        reg: u8,
        ptr: &Reg,
        by: &Reg,
        negative: bool,
    ) -> Result<Reg, Rule> {
        let movable = match ptr.kind {
            Kind::Packet | Kind::Stack { .. } | Kind::Ctx => true,
            Kind::Value { nullable, .. } | Kind::Record { nullable, .. } => !nullable,
            _ => false,
        };
        if !movable {
            return Err(Rule::PointerArithmetic { reg, is: ptr.kind.describe() });
        }
        self.rely(st, by);
        let n = if negative {
            Scalar::alu(Op::Sub, false, &Scalar::constant(0), &by.num)
        } else {
            by.num
        };
        check_offset(reg, n.smin, n.smax)?;
        let mut new = *ptr;
        new.origin = ptr.origin.and_then(|o| o.moved(n.smin, n.smax));
        if let Some(c) = n.as_const() {
            new.off = ptr.off.wrapping_add(c as i64);
        } else {
            new.num = Scalar::alu(Op::Add, false, &ptr.num, &n);
            if ptr.kind == Kind::Packet {
                // What is proven beyond the old place is proven beyond the new one, less the
                // distance.
                new.range = ptr.range.saturating_sub(n.smax).max(0);
                self.name_sum(st, ptr, by, negative, &mut new);
            }
        }
        check_offset(reg, new.off, new.off)?;
        let (min, max) = new.off_bounds();
        check_offset(reg, min, max)?;
        Ok(new)
    }

    /// The same pointer plus the same number is the same place.
    fn name_sum(&mut self, st: &mut State, ptr: &Reg, by: &Reg, negative: bool, new: &mut Reg) {
        let number = (by.id, by.off);
        let named = by.id != 0 && !negative;
        if named && let Some(s) = st.sums.iter().find(|s| s.base == ptr.id && s.number == number) {
            new.id = s.id;
            new.range = new.range.max(s.range);
            return;
        }
        new.id = self.fresh_id();
        if named {
            st.sums.push(Sum { base: ptr.id, number, id: new.id, range: new.range });
        }
    }

    fn mov(&mut self, st: &mut State, is32: bool, dst: u8, src: Operand) -> Result<(), Rule> {
        let r = match src {
            Operand::Imm(i) if is32 => Reg::constant(u64::from(i as u32)),
            Operand::Imm(i) => Reg::constant(i64::from(i) as u64),
            Operand::Reg(r) => {
                let a = readable(st, r)?;
                if is32 && a.kind.is_pointer() {
                    return Err(Rule::PointerArithmetic { reg: r, is: a.kind.describe() });
                }
                if is32 && a.num.umax > u64::from(u32::MAX) {
                    let origin = a.origin.map(|o| Origin { word: true, ..o });
                    Reg { deps: a.deps, origin, ..Reg::scalar(a.num.zext32()) }
                } else {
                    self.linked(st, r)
                }
            }
        };
        st.set(dst, r);
        Ok(())
    }

    /// A register's value for copying: a number gets an id, so that what is learned of one
    /// copy is learned of all.
    pub(super) fn linked(&mut self, st: &mut State, r: u8) -> Reg {
        let mut a = *st.reg(r);
        if a.kind == Kind::Scalar && a.id == 0 && a.num.as_const().is_none() {
            a.id = self.fresh_id();
            a.off = 0;
            st.set(r, a);
        }
        a
    }

    fn movsx(
        &mut self,
        st: &mut State,
        is32: bool,
        bits: u8,
        dst: u8,
        src: u8,
    ) -> Result<(), Rule> {
        let a = number(st, src)?;
        let num = a.num.sext(u32::from(bits));
        let num = if is32 { num.zext32() } else { num };
        let reg = if num == a.num && a.num.smin >= 0 && a.num.smax < 1 << (bits - 1) {
            self.linked(st, src)
        } else {
            Reg { deps: a.deps, ..Reg::scalar(num) }
        };
        st.set(dst, reg);
        Ok(())
    }

    #[expect(clippy::too_many_arguments)]
    fn jump(
        &mut self,
        st: &mut State,
        at: usize,
        cond: Cond,
        is32: bool,
        dst: u8,
        src: Operand,
        target: usize,
    ) -> Result<Flow, Rule> {
        let a = readable(st, dst)?;
        let b = operand(st, src)?;
        let fall = at + 1;
        let decided = |e: &mut Self, yes: bool| {
            let t = &mut e.found.taken[at];
            t.jump |= yes;
            t.fall |= !yes;
            Ok(Flow::Next(if yes { target } else { fall }))
        };
        if let Operand::Reg(r) = src
            && r == dst
            && a.kind == Kind::Scalar
        {
            match cond {
                Cond::Eq | Cond::Ge | Cond::Le | Cond::Sge | Cond::Sle => {
                    return decided(self, true);
                }
                Cond::Set | Cond::NotSet => return Ok(self.both(st, at, target, |_| {}, |_| {})),
                _ => return decided(self, false),
            }
        }
        if a.kind == Kind::Scalar && b.kind == Kind::Scalar {
            let (yes, no) = match Scalar::decide(cond, is32, &a.num, &b.num) {
                Some(t) => {
                    self.rely(st, &a);
                    self.rely(st, &b);
                    return decided(self, t);
                }
                None => (
                    Scalar::refine(cond, is32, &a.num, &b.num),
                    Scalar::refine(cond.negate(), is32, &a.num, &b.num),
                ),
            };
            return match (yes, no) {
                (Some(yes), Some(no)) => {
                    let src = if let Operand::Reg(r) = src { Some(r) } else { None };
                    Ok(self.both(
                        st,
                        at,
                        target,
                        |s| learn(s, dst, src, yes),
                        |s| learn(s, dst, src, no),
                    ))
                }
                (yes, _) => {
                    self.rely(st, &a);
                    self.rely(st, &b);
                    decided(self, yes.is_some())
                }
            };
        }
        let wrong = Rule::PointerCompare { left: a.kind.describe(), right: b.kind.describe() };
        if is32 {
            return Err(wrong);
        }
        // A number on the left compares as well from the right.
        let (a, b, cond) =
            if a.kind == Kind::Scalar { (b, a, cond.mirror()) } else { (a, b, cond) };
        if b.as_const() == Some(0) && matches!(cond, Cond::Eq | Cond::Ne) {
            self.rely(st, &b);
            if !a.kind.nullable() {
                return decided(self, cond == Cond::Ne);
            }
            let (null, held) =
                (move |s: &mut State| is_null(s, a.id), move |s: &mut State| not_null(s, a.id));
            return Ok(if cond == Cond::Eq {
                self.both(st, at, target, null, held)
            } else {
                self.both(st, at, target, held, null)
            });
        }
        match (a.kind, b.kind) {
            (Kind::Packet, Kind::PacketEnd) => {
                check_address_order(cond, wrong)?;
                Ok(self.both(
                    st,
                    at,
                    target,
                    |s| below_end(s, &a, cond),
                    |s| below_end(s, &a, cond.negate()),
                ))
            }
            (Kind::PacketEnd, Kind::Packet) => {
                let cond = cond.mirror();
                check_address_order(cond, wrong)?;
                Ok(self.both(
                    st,
                    at,
                    target,
                    |s| below_end(s, &b, cond),
                    |s| below_end(s, &b, cond.negate()),
                ))
            }
            (Kind::Packet, Kind::Packet) => {
                check_address_order(cond, wrong)?;
                if a.id == b.id {
                    // The same place but for the constants: they decide. The offset is signed
                    // but addresses do not wrap (MAX_OFFSET).
                    let order = Scalar::decide(
                        signed(cond),
                        false,
                        &Scalar::constant(a.off as u64),
                        &Scalar::constant(b.off as u64),
                    );
                    if let Some(t) = order {
                        return decided(self, t);
                    }
                }
                Ok(self.both(st, at, target, |_| {}, |_| {}))
            }
            _ => Err(wrong),
        }
    }

    /// Both ways are possible: one is left for later.
    fn both(
        &mut self,
        st: &mut State,
        at: usize,
        target: usize,
        jump: impl FnOnce(&mut State),
        fall: impl FnOnce(&mut State),
    ) -> Flow {
        st.jumps += 1;
        let t = &mut self.found.taken[at];
        t.jump = true;
        t.fall = true;
        let mut other = st.clone();
        jump(&mut other);
        fall(st);
        self.fork(other, target);
        Flow::Next(at + 1)
    }

    fn exit(&mut self, st: &mut State) -> Result<Flow, Rule> {
        let r0 = *st.reg(0);
        let depth = st.depth();
        if depth == 0 {
            if r0.kind == Kind::Uninit {
                return Err(Rule::Uninit { reg: 0 });
            }
            if r0.kind != Kind::Scalar {
                return Err(Rule::ReturnValue { is: r0.kind.describe() });
            }
            if let Some(h) = st.held.first() {
                return Err(Rule::RecordHeld { reserved: h.insn as usize });
            }
            return Ok(Flow::End);
        }
        if r0.kind == (Kind::Stack { frame: depth as u8 }) {
            return Err(Rule::ReturnStack);
        }
        let callsite = st.top().callsite as usize;
        if st.top().callback {
            if r0.kind == Kind::Uninit {
                return Err(Rule::Uninit { reg: 0 });
            }
            if r0.kind != Kind::Scalar || r0.num.umax > 1 {
                return Err(Rule::CallbackResult);
            }
            self.rely(st, &r0);
            let kept = st.top().refs_at_entry as usize;
            if let Some(h) = st.held.get(kept) {
                return Err(Rule::RecordHeld { reserved: h.insn as usize });
            }
            st.frames.pop();
            // The next round, or the end, is decided at the call again.
            return Ok(Flow::Next(callsite));
        }
        st.frames.pop();
        for r in 1..=5 {
            st.set(r, Reg::UNINIT);
        }
        st.set(0, r0);
        Ok(Flow::Next(callsite + 1))
    }
}

/// The register, if it may be read.
pub(super) fn readable(st: &State, reg: u8) -> Result<Reg, Rule> {
    let r = *st.reg(reg);
    if r.kind == Kind::Uninit { Err(Rule::Uninit { reg }) } else { Ok(r) }
}

/// The register, if it is a number.
pub(super) fn number(st: &State, reg: u8) -> Result<Reg, Rule> {
    let r = readable(st, reg)?;
    if r.kind == Kind::Scalar {
        Ok(r)
    } else {
        Err(Rule::PointerArithmetic { reg, is: r.kind.describe() })
    }
}

pub(super) fn operand(st: &State, src: Operand) -> Result<Reg, Rule> {
    match src {
        Operand::Reg(r) => readable(st, r),
        Operand::Imm(i) => Ok(Reg::constant(i64::from(i) as u64)),
    }
}

fn check_offset(reg: u8, min: i64, max: i64) -> Result<(), Rule> {
    if min < -MAX_OFFSET || max > MAX_OFFSET {
        return Err(Rule::PointerOffset { reg, min, max });
    }
    Ok(())
}

fn check_address_order(cond: Cond, wrong: Rule) -> Result<(), Rule> {
    match cond {
        Cond::Eq | Cond::Ne | Cond::Gt | Cond::Ge | Cond::Lt | Cond::Le => Ok(()),
        _ => Err(wrong),
    }
}

fn signed(cond: Cond) -> Cond {
    match cond {
        Cond::Gt => Cond::Sgt,
        Cond::Ge => Cond::Sge,
        Cond::Lt => Cond::Slt,
        Cond::Le => Cond::Sle,
        c => c,
    }
}

/// Where a sum or difference comes from.
fn moved(a: &Reg, b: &Reg, src: Operand, op: Op, is32: bool) -> Option<Origin> {
    let mut origin = a.origin?;
    let (mut least, mut most) = match (src, is32) {
        (Operand::Imm(i), _) => (i64::from(i), i64::from(i)),
        (Operand::Reg(_), true) => (i64::from(b.num.u32min), i64::from(b.num.u32max)),
        (Operand::Reg(_), false) => (b.num.smin, b.num.smax),
    };
    match op {
        Op::Add => {}
        Op::Sub => (least, most) = (most.checked_neg()?, least.checked_neg()?),
        _ => return None,
    }
    if is32 {
        let max = i64::from(u32::MAX);
        let fits = a.num.umax <= max as u64
            && a.num.umin as i64 + least >= 0
            && a.num.umax as i64 + most <= max;
        origin.word |= !fits;
    }
    origin.moved(least, most)
}

/// The distance of two places in (or at the end of) one packet.
fn packet_distance(a: &Reg, b: &Reg) -> Scalar {
    let place = |r: &Reg| Scalar::alu(Op::Add, false, &r.num, &Scalar::constant(r.off as u64));
    // From a place to the end.
    let to_end = |r: &Reg| {
        let (lo, hi) = r.off_bounds();
        let least = if r.range > 0 || r.id == 0 { r.range.max(0) - r.off } else { -hi };
        Scalar::srange(least.max(-hi), MAX_PACKET as i64 - lo)
    };
    match (a.kind, b.kind) {
        (Kind::PacketEnd, Kind::PacketEnd) => Scalar::constant(0),
        (Kind::PacketEnd, _) => to_end(b),
        (_, Kind::PacketEnd) => Scalar::alu(Op::Sub, false, &Scalar::constant(0), &to_end(a)),
        _ if a.id == b.id => Scalar::constant(a.off.wrapping_sub(b.off) as u64),
        _ => Scalar::alu(Op::Sub, false, &place(a), &place(b)),
    }
}

/// What a branch tells of two registers, and of their copies.
fn learn(st: &mut State, dst: u8, src: Option<u8>, nums: (Scalar, Scalar)) {
    let deps = st.reg(dst).deps | src.map_or(0, |r| st.reg(r).deps);
    learn_one(st, dst, nums.0, deps);
    if let Some(r) = src {
        learn_one(st, r, nums.1, deps);
    }
}

fn learn_one(st: &mut State, r: u8, num: Scalar, deps: u128) {
    let mut known = *st.reg(r);
    if known.num == num {
        return;
    }
    known.num = num;
    known.deps = deps;
    st.set(r, known);
    if known.id == 0 {
        return;
    }
    st.for_each_mut(|o| {
        if o.kind != Kind::Scalar || o.id != known.id {
            return;
        }
        let delta = o.off.wrapping_sub(known.off);
        let image = if delta == 0 {
            num
        } else {
            Scalar::alu(Op::Add, false, &num, &Scalar::constant(delta as u64))
        };
        if let Some(both) = o.num.intersect(&image)
            && both != o.num
        {
            o.num = both;
            o.deps |= deps;
        }
    });
}

fn is_null(st: &mut State, id: u32) {
    st.for_each_mut(|r| {
        if r.kind.nullable() && r.id == id {
            *r = Reg::constant(0);
        }
    });
    // A reservation that failed holds nothing.
    st.held.retain(|h| h.id != id);
}

fn not_null(st: &mut State, id: u32) {
    st.for_each_mut(|r| {
        if r.id != id {
            return;
        }
        match &mut r.kind {
            Kind::Value { nullable, .. } if *nullable => {
                *nullable = false;
                r.id = 0;
            }
            // The id goes on naming the record until it is given back.
            Kind::Record { nullable, .. } => *nullable = false,
            _ => {}
        }
    });
}

/// What `ptr cond data_end` proves, if anything.
fn below_end(st: &mut State, ptr: &Reg, cond: Cond) {
    let proven = match cond {
        Cond::Le | Cond::Eq => ptr.off,
        Cond::Lt => ptr.off + 1,
        // Not beyond the end, and not at it.
        Cond::Ne if (ptr.range >= ptr.off && ptr.range > 0) || (ptr.id == 0 && ptr.off == 0) => {
            ptr.off + 1
        }
        _ => return,
    };
    for s in &mut st.sums {
        if s.id == ptr.id {
            s.range = s.range.max(proven);
        }
    }
    let most = MAX_PACKET as i64 - ptr.off;
    st.for_each_mut(|r| {
        if r.kind != Kind::Packet || r.id != ptr.id {
            return;
        }
        r.range = r.range.max(proven);
        if r.id != 0
            && let Some(n) = r.num.intersect(&Scalar::srange(i64::MIN, most))
        {
            r.num = n;
        }
    });
}

fn legacy_load(st: &mut State, size: u8, index: Option<u8>) -> Result<(), Rule> {
    let r6 = readable(st, 6)?;
    if r6.kind != Kind::Ctx || r6.fixed_off() != Some(0) {
        return Err(Rule::LegacyContext { is: r6.kind.describe() });
    }
    if let Some(r) = index {
        number(st, r)?;
    }
    if st.depth() > 0 {
        return Err(Rule::LegacyInFunction);
    }
    if let Some(h) = st.held.first() {
        return Err(Rule::LegacyHeld { reserved: h.insn as usize });
    }
    for r in 1..=5 {
        st.set(r, Reg::UNINIT);
    }
    st.set(0, Reg::scalar(Scalar::of_size(u32::from(size))));
    Ok(())
}
