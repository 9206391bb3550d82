//! From a verified program to the interpreter's operations: dead code dropped, jump targets
//! resolved, the context's fields answered by operations of their own, frequent pairs fused.

use std::sync::Arc;

use super::live;
use super::machine::{Dispatch, Op};
use super::ops::Code;
use super::table;
use crate::bpf::builtins;
use crate::bpf::insn::Insn;
use crate::bpf::map::Map;
use crate::bpf::run::{ExecError, Scratch};
use crate::bpf::verifier::{CallFact, Facts, Fuel, Region, Verified};

/// An operation before it is linked for a dispatcher.
#[derive(Clone, Copy)]
pub(super) struct Lowered {
    pub(super) code: Result<Code, u64>,
    pub(super) imm: i32,
    pub(super) off: i16,
    pub(super) dst: u8,
    pub(super) src: u8,
}

impl Lowered {
    pub(super) fn link(self, threaded: bool) -> Op {
        let Lowered { code, imm, off, dst, src } = self;
        let dispatch = match code {
            Ok(code) if threaded => Dispatch { handler: code.handler() },
            Ok(code) => Dispatch { code },
            Err(data) => Dispatch { data },
        };
        Op { dispatch, imm, off, dst, src }
    }
}

/// Where a jump's distance goes.
enum Fix {
    Near,
    Far,
}

pub(super) struct Lowering<'a> {
    insns: &'a [Insn],
    facts: &'a Facts,
    funcs: Vec<usize>,
    maps: &'a [Arc<Map>],
    out: Vec<Lowered>,
    /// Where each slot's operation is.
    place: Vec<usize>,
    fixes: Vec<(usize, usize, Fix)>,
    /// Slots that some jump or call goes to.
    targets: Vec<bool>,
    /// Registers that matter after each slot.
    live: Vec<live::Regs>,
    /// Whether the program writes the context's scratch bytes.
    scratch: bool,
}

/// `bpf_skb_load_bytes` into this frame's stack at a known place, of a known size.
struct LoadBytes {
    to: i16,
    size: u8,
    /// The offset, where it is constant.
    offset: Option<i32>,
}

impl LoadBytes {
    /// `set` is what r2 was set to just before, if the code says so: the verifier's facts do not,
    /// where it has not walked every path.
    fn of(fact: &CallFact, set: Option<i32>) -> Option<Self> {
        if fact.helper != builtins::id::SKB_LOAD_BYTES {
            return None;
        }
        let size @ 1..=255 = fact.consts[3]? else { return None };
        let offset = fact.consts[1].map(|o| o as u32 as i32).or(set);
        Some(LoadBytes { to: fact.stack[2]?, size: size as u8, offset })
    }
}

type Lower<T> = Result<T, ExecError>;

fn fail<T>(insn: usize, why: impl Into<String>) -> Lower<T> {
    Err(ExecError::Lower { insn, why: why.into() })
}

impl<'a> Lowering<'a> {
    pub(super) fn run(verified: &'a Verified, maps: &'a [Arc<Map>]) -> Lower<Vec<Lowered>> {
        let program = verified.program();
        let n = program.insns.len();
        let mut l = Lowering {
            insns: &program.insns,
            facts: verified.facts(),
            funcs: program.funcs.iter().map(|f| f.start).collect(),
            maps,
            out: Vec::with_capacity(n + 1),
            place: vec![0; n + 1],
            fixes: Vec::new(),
            targets: vec![false; n + 1],
            live: Vec::new(),
            scratch: Scratch::is_written(verified),
        };
        l.find_targets();
        l.live = live::after(l.insns, l.facts, |slot| match l.facts.calls.get(slot) {
            Some(Some(fact)) => match LoadBytes::of(fact, l.set_before(slot, 2)) {
                Some(LoadBytes { offset: Some(_), .. }) => 0,
                Some(_) => 1 << 2,
                None => live::arguments(fact.helper),
            },
            _ => live::arguments(0),
        });
        let mut at = 0;
        while at < n {
            at = l.slot(at)?;
        }
        l.place[n] = l.out.len();
        l.op(Code::Unreachable, Insn::default());
        l.fix()?;
        Ok(l.out)
    }

    fn reached(&self, slot: usize) -> bool {
        self.facts.reached.get(slot).copied().unwrap_or(false)
    }

    fn insn(&self, slot: usize) -> Lower<Insn> {
        match self.insns.get(slot) {
            Some(i) => Ok(*i),
            None => fail(slot, "the program ends inside an instruction"),
        }
    }

    /// Whether this slot is a jump that closes a loop of a metered program.
    fn metered(&self, slot: usize) -> bool {
        match &self.facts.fuel {
            Fuel::NotNeeded => false,
            Fuel::Metered { back_edges } => back_edges.binary_search(&slot).is_ok(),
        }
    }

    fn target(slot: usize, by: i64) -> Option<usize> {
        usize::try_from(slot as i64 + 1 + by).ok()
    }

    /// The slot that an instruction refers to, if it refers to one.
    fn refers(slot: usize, i: Insn) -> Option<usize> {
        match (i.code, i.code & 7) {
            (0x06, _) => Self::target(slot, i64::from(i.imm)),
            (0x85, _) if i.src == 1 => Self::target(slot, i64::from(i.imm)),
            (0x18, _) if i.src == 4 => Self::target(slot, i64::from(i.imm)),
            (0x85 | 0x8d | 0x95, _) => None,
            (_, 5 | 6) => Self::target(slot, i64::from(i.off)),
            _ => None,
        }
    }

    fn find_targets(&mut self) {
        for slot in 0..self.insns.len() {
            if self.reached(slot)
                && let Some(t) = Self::refers(slot, self.insns[slot])
                && let Some(mark) = self.targets.get_mut(t)
            {
                *mark = true;
            }
        }
        for f in &self.funcs {
            if let Some(mark) = self.targets.get_mut(*f) {
                *mark = true;
            }
        }
    }

    /// The 32-bit constant that a register is set to on every way to a slot: by an instruction
    /// before it, after which nothing else sets it and nobody jumps in.
    fn set_before(&self, slot: usize, reg: u8) -> Option<i32> {
        for at in (0..slot).rev() {
            if self.targets.get(at + 1).is_none_or(|&target| target) || !self.reached(at) {
                return None;
            }
            let i = self.insns.get(at)?;
            match (i.code, i.code & 7) {
                (0xb4 | 0xb7, _) if i.dst == reg && i.off == 0 => return Some(i.imm),
                // Arithmetic and loads set `dst`. Legacy loads set r0 and, as calls, what a
                // call may change; the second half of a constant is no instruction.
                (_, 4 | 7 | 1) if i.dst != reg => {}
                // Stores set nothing, but atomic ones.
                (code, 2 | 3) if code & 0xe0 != 0xc0 => {}
                _ => return None,
            }
        }
        None
    }

    fn op(&mut self, code: Code, i: Insn) {
        self.out.push(Lowered { code: Ok(code), imm: i.imm, off: i.off, dst: i.dst, src: i.src });
    }

    fn data(&mut self, data: u64) {
        self.out.push(Lowered { code: Err(data), imm: 0, off: 0, dst: 0, src: 0 });
    }

    fn jump_to(&mut self, target: usize, fix: Fix) {
        self.fixes.push((self.out.len() - 1, target, fix));
    }

    fn fix(&mut self) -> Lower<()> {
        for (op, target, fix) in std::mem::take(&mut self.fixes) {
            let Some(place) = self.place.get(target) else {
                return fail(target, "a jump leaves the program");
            };
            let by = *place as i64 - op as i64;
            match fix {
                Fix::Near => match i16::try_from(by) {
                    Ok(off) => self.out[op].off = off,
                    Err(_) => return fail(target, "too far from the jump that goes here"),
                },
                Fix::Far => match i32::try_from(by) {
                    Ok(imm) => self.out[op].imm = imm,
                    Err(_) => return fail(target, "too far from the jump that goes here"),
                },
            }
        }
        Ok(())
    }

    /// Lowers the instruction in a slot and returns the slot that follows it.
    fn slot(&mut self, slot: usize) -> Lower<usize> {
        self.place[slot] = self.out.len();
        let i = self.insn(slot)?;
        let wide = i.code == 0x18;
        let mut next = slot + if wide { 2 } else { 1 };
        if wide && let Some(p) = self.place.get_mut(slot + 1) {
            *p = self.out.len();
        }
        if !self.reached(slot) {
            return Ok(next);
        }
        if i.dst > 10 || i.src > 10 {
            return fail(slot, "it names a register beyond r10");
        }
        if self.is_dead(slot, i) {
            return Ok(next);
        }
        match i.code & 7 {
            0 if wide => self.constant(slot, i)?,
            0 => self.legacy(slot, i)?,
            1 => {
                if self.load(slot, i)? {
                    next += 1;
                    self.place[slot + 1] = self.out.len();
                }
            }
            2 | 3 => self.store(slot, i)?,
            4 | 7 => {
                if self.alu(slot, i)? {
                    next += 1;
                    self.place[slot + 1] = self.out.len();
                }
            }
            _ => self.jump(slot, i)?,
        }
        Ok(next)
    }

    /// Whether nothing ever reads what this instruction computes.
    fn is_dead(&self, slot: usize, i: Insn) -> bool {
        live::is_pure(i) && self.live[slot] & 1 << i.dst == 0
    }

    /// The next instruction, if it can be made one with this slot's: it is executed after it
    /// and never else.
    fn follower(&self, slot: usize) -> Option<Insn> {
        let n = slot + 1;
        let i = *self.insns.get(n)?;
        (self.reached(n) && !self.targets[n] && !self.is_dead(n, i)).then_some(i)
    }

    fn constant(&mut self, slot: usize, i: Insn) -> Lower<()> {
        let high = self.insn(slot + 1)?.imm;
        let map = || match self.maps.get(i.imm as usize) {
            Some(m) => Ok(m),
            None => fail(slot, "it names a map that the program does not have"),
        };
        let value = match i.src {
            0 => u64::from(i.imm as u32) | u64::from(high as u32) << 32,
            1 => Arc::as_ptr(map()?).expose_provenance() as u64,
            2 => map()?.memory().addr().wrapping_add(u64::from(high as u32)),
            // A callback: never called through its value, which must only be some value.
            4 => 0x6b63_6d00_0000_0000 | slot as u64,
            _ => return fail(slot, "an unknown kind of 64-bit constant"),
        };
        if value == i64::from(value as i32) as u64 {
            self.op(Code::Mov64Imm, Insn { imm: value as i32, ..i });
        } else {
            self.op(Code::Const64, i);
            self.data(value);
        }
        Ok(())
    }

    fn legacy(&mut self, slot: usize, i: Insn) -> Lower<()> {
        let code = match (i.code & 0xe0, table::size(i.code)) {
            (0x20, 1) => Code::Abs8,
            (0x20, 2) => Code::Abs16,
            (0x20, 4) => Code::Abs32,
            (0x40, 1) => Code::Ind8,
            (0x40, 2) => Code::Ind16,
            (0x40, 4) => Code::Ind32,
            _ => return fail(slot, format!("unknown opcode {:#04x}", i.code)),
        };
        self.op(code, i);
        Ok(())
    }

    fn region(&self, slot: usize) -> Lower<Region> {
        match self.facts.region.get(slot).copied().flatten() {
            Some(r) => Ok(r),
            None => fail(slot, "nothing was proved about its address"),
        }
    }

    /// Returns whether the next slot was made one with this.
    fn load(&mut self, slot: usize, i: Insn) -> Lower<bool> {
        let (size, signed) = (table::size(i.code), i.code & 0xe0 == 0x80);
        if !matches!(i.code & 0xe0, 0x60 | 0x80) {
            return fail(slot, format!("unknown opcode {:#04x}", i.code));
        }
        let shared = match self.region(slot)? {
            Region::Ctx { offset } => {
                self.field(slot, i, offset, size)?;
                return Ok(false);
            }
            Region::Packet | Region::Stack { .. } => false,
            Region::MapValue { .. } | Region::Record | Region::Mixed => true,
        };
        let Some(code) = table::load(size, signed, shared) else {
            return fail(slot, format!("unknown opcode {:#04x}", i.code));
        };
        if !shared
            && !signed
            && size > 1
            && let Some(f) = self.follower(slot)
            && matches!(f.code, 0xdc | 0xd7)
            && f.dst == i.dst
            && f.imm as usize == size * 8
        {
            let code = match size {
                2 => Code::LoadBe16,
                4 => Code::LoadBe32,
                _ => Code::LoadBe64,
            };
            self.op(code, i);
            return Ok(true);
        }
        self.op(code, i);
        Ok(false)
    }

    /// A field of `struct __sk_buff`: len (0-3), data (76), data_end (80), scratch (48-67); the
    /// others that may be read are 0 outside the kernel.
    fn field(&mut self, slot: usize, i: Insn, offset: u16, size: usize) -> Lower<()> {
        match (offset, size) {
            (0, 4) => self.op(Code::CtxLen, i),
            (0..4, _) => {
                let bits = 8 * size.min(4) as u32;
                let mask = (u64::MAX >> (64 - bits)) as i32;
                self.op(Code::CtxLenPart, Insn { off: (offset * 8) as i16, imm: mask, ..i });
            }
            (76, 4) => self.op(Code::CtxData, i),
            (80, 4) => self.op(Code::CtxDataEnd, i),
            (76..84, _) => return fail(slot, "a part of a packet pointer"),
            (Scratch::AT..Scratch::END, _) if self.scratch => {
                let code = match size {
                    1 => Code::CtxLoad8,
                    2 => Code::CtxLoad16,
                    4 => Code::CtxLoad32,
                    _ => Code::CtxLoad64,
                };
                self.op(code, Insn { off: (offset - Scratch::AT) as i16, ..i });
            }
            _ => self.op(Code::Mov64Imm, Insn { imm: 0, ..i }),
        }
        Ok(())
    }

    fn store(&mut self, slot: usize, i: Insn) -> Lower<()> {
        let (size, reg) = (table::size(i.code), i.code & 7 == 3);
        let shared = match self.region(slot)? {
            Region::Stack { .. } => false,
            Region::MapValue { .. } | Region::Record | Region::Mixed => true,
            Region::Ctx { offset: offset @ Scratch::AT..Scratch::END } if i.code & 0xe0 == 0x60 => {
                let [with_reg, with_imm] = match size {
                    1 => [Code::CtxStore8Reg, Code::CtxStore8Imm],
                    2 => [Code::CtxStore16Reg, Code::CtxStore16Imm],
                    4 => [Code::CtxStore32Reg, Code::CtxStore32Imm],
                    _ => [Code::CtxStore64Reg, Code::CtxStore64Imm],
                };
                let off = (offset - Scratch::AT) as i16;
                self.op(if reg { with_reg } else { with_imm }, Insn { off, ..i });
                return Ok(());
            }
            Region::Packet | Region::Ctx { .. } => {
                return fail(slot, "a store to memory that is read-only");
            }
        };
        let code = match i.code & 0xe0 {
            0x60 => table::store(size, reg, shared),
            0xc0 if reg && size >= 4 => table::atomic(i.imm, size == 8),
            _ => None,
        };
        let Some(code) = code else {
            return fail(slot, format!("unknown opcode {:#04x} ({:#x})", i.code, i.imm));
        };
        self.op(code, i);
        Ok(())
    }

    /// Returns whether the next slot was made one with this.
    fn alu(&mut self, slot: usize, i: Insn) -> Lower<bool> {
        let (wide, reg, op) = (i.code & 7 == 7, i.code & 8 != 0, i.code & 0xf0);
        let code = match (op, i.off) {
            (0x80, _) => Some(if wide { Code::Neg64 } else { Code::Neg32 }),
            (0xd0, _) => match (wide, reg, i.imm) {
                (false, true, 16) | (true, false, 16) => Some(Code::Swap16),
                (false, true, 32) | (true, false, 32) => Some(Code::Swap32),
                (false, true, 64) | (true, false, 64) => Some(Code::Swap64),
                (false, false, 16) => Some(Code::Low16),
                (false, false, 32) => Some(Code::Low32),
                // 64 little-endian bits are what they are.
                (false, false, 64) => return Ok(false),
                _ => None,
            },
            (0xb0, 8) if reg => Some(if wide { Code::MovSx8To64 } else { Code::MovSx8To32 }),
            (0xb0, 16) if reg => Some(if wide { Code::MovSx16To64 } else { Code::MovSx16To32 }),
            (0xb0, 32) if reg && wide => Some(Code::MovSx32To64),
            (0x30 | 0x90, 1) => table::alu(op, true, wide, reg),
            (_, 0) => table::alu(op, false, wide, reg),
            _ => None,
        };
        let Some(code) = code else {
            return fail(slot, format!("unknown opcode {:#04x} (offset {})", i.code, i.off));
        };
        if code == Code::Mov64Reg
            && let Some(f) = self.follower(slot)
            && f.code == 0x07
            && f.dst == i.dst
        {
            self.op(Code::Lea, Insn { imm: f.imm, ..i });
            return Ok(true);
        }
        // What is moved to a register that is then returned, which is all that happens.
        let narrow = code == Code::Mov32Reg;
        if (narrow || code == Code::Mov64Reg)
            && self.follower(slot).is_some()
            && let Some((half, of)) = self.leaves(slot + 1)
            && of == i.dst
        {
            self.leave(narrow || half, i.src);
            return Ok(true);
        }
        self.op(code, i);
        Ok(false)
    }

    /// If from a slot on nothing is done but return a register, r0 or another that is moved there
    /// first, perhaps after jumps: whether only its lower half, and which.
    fn leaves(&self, slot: usize) -> Option<(bool, u8)> {
        let mut at = slot;
        // Jumps that lead nowhere else: a few are enough.
        for _ in 0..4 {
            let i = self.insns.get(at)?;
            match i.code {
                0x95 => return Some((false, 0)),
                0x05 | 0x06 if !self.metered(at) => at = Self::refers(at, *i)?,
                0xbf | 0xbc if i.dst == 0 && i.off == 0 => {
                    let exit = self.insns.get(at + 1)?.code == 0x95;
                    return exit.then_some((i.code == 0xbc, i.src));
                }
                _ => return None,
            }
        }
        None
    }

    fn frame(&self, slot: usize) -> i16 {
        let f = self.funcs.partition_point(|s| *s <= slot).saturating_sub(1);
        self.facts.frames.get(f).copied().unwrap_or(0) as i16
    }

    fn jump(&mut self, slot: usize, i: Insn) -> Lower<()> {
        match i.code {
            0x95 => self.op(Code::Exit, i),
            0x85 if i.src == 1 => {
                let Some(t) = Self::refers(slot, i) else {
                    return fail(slot, "a call leaves the program");
                };
                self.op(Code::Call, Insn { off: self.frame(slot), ..i });
                self.jump_to(t, Fix::Far);
            }
            0x85 => self.helper(slot, i)?,
            _ => self.branch(slot, i)?,
        }
        Ok(())
    }

    /// A jump, or the end of the function that it leads to.
    fn go(&mut self, t: usize, i: Insn) {
        match self.leaves(t) {
            Some((narrow, of)) => self.leave(narrow, of),
            None => {
                self.op(Code::Ja, i);
                self.jump_to(t, Fix::Far);
            }
        }
    }

    /// Returns a register, or its lower half.
    fn leave(&mut self, narrow: bool, of: u8) {
        let code = if narrow { Code::Exit32 } else { Code::Exit64 };
        self.op(code, Insn { src: of, ..Insn::default() });
    }

    fn branch(&mut self, slot: usize, i: Insn) -> Lower<()> {
        let Some(t) = Self::refers(slot, i) else {
            return fail(slot, "a jump leaves the program");
        };
        if self.metered(slot) {
            self.op(Code::Fuel, i);
        }
        if matches!(i.code, 0x05 | 0x06) {
            self.go(t, i);
            return Ok(());
        }
        let Some(code) = table::jump(i.code & 0xf0, i.code & 7 == 5, i.code & 8 != 0) else {
            return fail(slot, format!("unknown opcode {:#04x}", i.code));
        };
        let taken = self.facts.taken.get(slot).copied().unwrap_or_default();
        match (taken.jump, taken.fall) {
            (false, true) => {}
            (true, false) => self.go(t, i),
            _ => {
                self.op(code, i);
                self.jump_to(t, Fix::Near);
            }
        }
        Ok(())
    }

    fn helper(&mut self, slot: usize, i: Insn) -> Lower<()> {
        let Some(Some(fact)) = self.facts.calls.get(slot) else {
            return fail(slot, "nothing was proved about this call");
        };
        let number = i.imm as u32;
        if number == builtins::id::LOOP {
            let Some(t) = fact.callback else {
                return fail(slot, "bpf_loop without one callback");
            };
            let src = u8::from(self.metered(slot));
            self.op(Code::Loop, Insn { off: self.frame(slot), src, ..i });
            self.jump_to(t, Fix::Far);
            return Ok(());
        }
        if let Some(LoadBytes { to, size, offset }) = LoadBytes::of(fact, self.set_before(slot, 2))
        {
            let [fixed, variable] = match size {
                1 => [Code::LoadBytes1, Code::LoadBytesReg1],
                2 => [Code::LoadBytes2, Code::LoadBytesReg2],
                4 => [Code::LoadBytes4, Code::LoadBytesReg4],
                8 => [Code::LoadBytes8, Code::LoadBytesReg8],
                _ => [Code::LoadBytesN, Code::LoadBytesRegN],
            };
            let code = if offset.is_some() { fixed } else { variable };
            self.op(code, Insn { dst: 2, src: size, off: to, imm: offset.unwrap_or(0), ..i });
            return Ok(());
        }
        let Some(f) = builtins::find(number) else {
            return fail(slot, format!("there is no helper {number}"));
        };
        self.op(Code::Helper, i);
        self.data(f as usize as u64);
        Ok(())
    }
}
