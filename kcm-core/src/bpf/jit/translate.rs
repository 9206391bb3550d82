//! One function of a program, from BPF to Cranelift's SSA form.
//!
//! BPF registers and promoted stack bytes are variables; the message's two ends are values in
//! registers; the context is nothing at all. No access is checked: the verifier proved each.
//! Loads are never marked movable, for it is the comparison before them that makes them
//! valid.

mod alu;
mod calls;
mod memory;

use std::collections::HashMap;
use std::sync::Arc;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I8, I16, I32, I64};
use cranelift_codegen::ir::{
    AtomicRmwOp, Block, BlockArg, ExtFuncData, ExternalName, InstBuilder, MemFlagsData, SigRef,
    Signature, StackSlot, StackSlotData, StackSlotKind, Type, UserExternalName, Value,
};
use cranelift_frontend::{FunctionBuilder, Variable};

use super::follow::{self, Sym, To};
use super::stack::{Layout, inline_load_bytes};
use crate::bpf::builtins;
use crate::bpf::insn::Insn;
use crate::bpf::map::{Map, Store};
use crate::bpf::run::{Env, ExecError, Scratch};
use crate::bpf::verifier::{CallFact, Facts, Fuel, Region};

/// The program and what is the same in all its functions.
pub(super) struct Unit<'a> {
    pub(super) insns: &'a [Insn],
    pub(super) facts: &'a Facts,
    /// Start of each function.
    pub(super) funcs: &'a [usize],
    pub(super) maps: &'a [Arc<Map>],
    /// Functions that may end the whole program.
    pub(super) may_end: &'a [bool],
    /// Whether the program writes the context's scratch bytes.
    pub(super) scratch: bool,
    /// The signature of the parsing function: the environment and the message.
    pub(super) main: &'a Signature,
    /// The signature of functions other than the main one.
    pub(super) sub: &'a Signature,
    /// The signature of helpers, by number of arguments after the environment.
    pub(super) helper: &'a [Signature; 6],
}

impl<'a> Unit<'a> {
    pub(super) fn func_of(&self, slot: usize) -> usize {
        self.funcs.partition_point(|s| *s <= slot).saturating_sub(1)
    }

    pub(super) fn slots_of(&self, func: usize) -> std::ops::Range<usize> {
        let end = self.funcs.get(func + 1).copied().unwrap_or(self.insns.len());
        self.funcs[func]..end
    }

    pub(super) fn metered(&self, slot: usize) -> bool {
        match &self.facts.fuel {
            Fuel::NotNeeded => false,
            Fuel::Metered { back_edges } => back_edges.binary_search(&slot).is_ok(),
        }
    }

    pub(super) fn reached(&self, slot: usize) -> bool {
        self.facts.reached.get(slot) == Some(&true)
    }

    /// A look-up that is compiled inline: an array's, with a key at this stack offset.
    pub(super) fn inline_lookup(&self, fact: &CallFact) -> Option<i32> {
        if fact.helper != builtins::id::MAP_LOOKUP_ELEM {
            return None;
        }
        let map = self.maps.get(fact.map? as usize)?;
        let plain = matches!(map.store, Store::Array(_)) && !map.per_slot();
        fact.stack[1].filter(|_| plain).map(i32::from)
    }
}

/// What `exit` does.
#[derive(Clone, Copy)]
pub(super) enum Exit {
    Return,
    /// Goes on with r0 as the block's argument.
    Continue(Block),
}

type Jit<T> = Result<T, ExecError>;

pub(super) fn fail<T>(insn: usize, why: impl Into<String>) -> Jit<T> {
    Err(ExecError::Lower { insn, why: why.into() })
}

/// Memory that is valid wherever it is accessed, perhaps unaligned. Not movable.
pub(super) const VALID: MemFlagsData = MemFlagsData::new().with_notrap();

/// An edge whose code is still to be written.
struct Edge {
    block: Block,
    to: To,
    env: follow::Env,
}

/// What is known where the current instruction is executed.
#[derive(Clone, Copy, Default)]
struct Known([Option<u64>; 11]);

pub(super) struct Translator<'a, 'b, 'f> {
    unit: &'a Unit<'a>,
    b: &'b mut FunctionBuilder<'f>,
    func: usize,
    layout: &'a Layout,
    exit: Exit,
    regs: [Variable; 11],
    pieces: Vec<Variable>,
    env: Value,
    data: Variable,
    end: Variable,
    slot: Option<StackSlot>,
    blocks: HashMap<usize, Block>,
    edges: Vec<Edge>,
    known: Known,
    sigs: HashMap<usize, SigRef>,
}

impl<'a, 'b, 'f> Translator<'a, 'b, 'f> {
    /// Prepares the variables; `env` is the environment's address.
    pub(super) fn new(
        unit: &'a Unit<'a>,
        b: &'b mut FunctionBuilder<'f>,
        func: usize,
        layout: &'a Layout,
        exit: Exit,
        env: Value,
    ) -> Self {
        let regs = std::array::from_fn(|_| b.declare_var(I64));
        let pieces = layout.pieces.iter().map(|_| b.declare_var(I64)).collect();
        let (data, end) = (b.declare_var(I64), b.declare_var(I64));
        let size = u32::from(unit.facts.frames.get(func).copied().unwrap_or(0));
        let slot = (layout.memory && size > 0).then(|| {
            b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, size, 4))
        });
        Translator {
            unit,
            b,
            func,
            layout,
            exit,
            regs,
            pieces,
            env,
            data,
            end,
            slot,
            blocks: HashMap::new(),
            edges: Vec::new(),
            known: Known::default(),
            sigs: HashMap::new(),
        }
    }

    /// Writes the function's body, starting in the current block: the message is
    /// `[data, end)`, `args` are r1 and on.
    pub(super) fn body(&mut self, data: Value, end: Value, args: &[Value]) -> Jit<()> {
        self.b.def_var(self.data, data);
        self.b.def_var(self.end, end);
        // Registers and pieces that hold nothing: so that no path brings in an older value.
        let zero = self.b.ins().iconst(I64, 0);
        for v in self.regs.into_iter().chain(self.pieces.clone()) {
            self.b.def_var(v, zero);
        }
        for (r, v) in args.iter().enumerate() {
            self.b.def_var(self.regs[r + 1], *v);
        }
        let top = match self.slot {
            Some(s) => {
                let size = i32::from(self.unit.facts.frames[self.func]);
                self.b.ins().stack_addr(I64, s, size)
            }
            None => zero,
        };
        self.b.def_var(self.regs[10], top);
        let range = self.unit.slots_of(self.func);
        self.find_blocks(range.clone())?;
        let first = self.edge_to(range.start)?;
        self.b.ins().jump(first, &[]);
        self.write_edges()?;
        let mut open = false;
        let mut at = range.start;
        while at < range.end {
            let wide = self.unit.insns[at].code == 0x18;
            let next = at + if wide { 2 } else { 1 };
            if !self.unit.reached(at) {
                if open {
                    // Behind a call of what only ends by running out of its budget.
                    let r0 = self.b.ins().iconst(I64, builtins::err(libc::ELOOP) as i64);
                    self.end_program(r0);
                    self.write_edges()?;
                    open = false;
                }
                at = next;
                continue;
            }
            if let Some(&block) = self.blocks.get(&at) {
                if open {
                    let to = self.edge_to(at)?;
                    self.b.ins().jump(to, &[]);
                    self.write_edges()?;
                }
                self.b.switch_to_block(block);
                self.known = Known::default();
                open = true;
            }
            if !open {
                return fail(at, "no way leads here");
            }
            open = self.insn(at)?;
            if !open {
                self.write_edges()?;
            }
            at = next;
        }
        if open {
            return fail(range.end, "execution runs off the end");
        }
        Ok(())
    }

    /// Makes a block for every slot that some instruction can go to otherwise than from the
    /// slot before it.
    fn find_blocks(&mut self, range: std::ops::Range<usize>) -> Jit<()> {
        let mut leaders = vec![range.start];
        for at in range.clone() {
            if !self.unit.reached(at) {
                continue;
            }
            let i = self.unit.insns[at];
            match i.code {
                0x95 | 0x8d => {}
                0x06 => leaders.push(at.wrapping_add_signed(1 + i.imm as isize)),
                0x05 => leaders.push(at.wrapping_add_signed(1 + isize::from(i.off))),
                0x85 if i.src == 0 => {
                    let inline = self.fact(at).is_ok_and(|f| inline_load_bytes(f).is_some());
                    if inline {
                        leaders.push(at + 1);
                    }
                }
                code if matches!(code & 7, 5 | 6) && code != 0x85 => {
                    leaders.push(at.wrapping_add_signed(1 + isize::from(i.off)));
                    leaders.push(at + 1);
                }
                _ => {}
            }
        }
        for l in leaders {
            if !range.contains(&l) {
                // A jump that is never taken may say anything.
                continue;
            }
            if self.unit.reached(l) && !self.blocks.contains_key(&l) {
                let block = self.b.create_block();
                self.blocks.insert(l, block);
            }
        }
        Ok(())
    }

    fn fact(&self, slot: usize) -> Jit<&'a CallFact> {
        match self.unit.facts.calls.get(slot) {
            Some(Some(f)) => Ok(f),
            _ => fail(slot, "nothing was proved about this call"),
        }
    }

    // ---- edges ---------------------------------------------------------------------------

    /// The block to go to for `slot` from here.
    fn edge_to(&mut self, slot: usize) -> Jit<Block> {
        self.edge(slot, &self.known.clone())
    }

    fn edge(&mut self, slot: usize, known: &Known) -> Jit<Block> {
        let start = follow::env(&known.0);
        let is_block = |s| self.blocks.contains_key(&s);
        let (to, mut env) = follow::follow(self.unit.insns, self.unit.facts, slot, is_block, start);
        let changed = (0..11).any(|r| env[r] != start[r]);
        if let To::Slot(s) = to
            && !changed
        {
            return match self.blocks.get(&s) {
                Some(b) => Ok(*b),
                None => fail(s, "a jump to where no block starts"),
            };
        }
        let block = self.b.create_block();
        // Errors, and that more is needed, are not what code is laid out for.
        if to == To::Exit && matches!(env[0], Sym::Const(c) if (c as i32) <= 0) {
            self.b.set_cold_block(block);
        }
        // What was known needs no writing again.
        for r in 0..11 {
            if env[r] == start[r] {
                env[r] = Sym::Was(r as u8);
            }
        }
        self.edges.push(Edge { block, to, env });
        Ok(block)
    }

    /// Writes the code of the edges made since.
    fn write_edges(&mut self) -> Jit<()> {
        for Edge { block, to, env } in std::mem::take(&mut self.edges) {
            self.b.switch_to_block(block);
            let mut values = Vec::new();
            for (r, sym) in env.iter().enumerate() {
                // Only r0 outlives the function.
                if to == To::Exit && r != 0 {
                    continue;
                }
                match *sym {
                    Sym::Was(w) if usize::from(w) == r => {}
                    Sym::Was(w) => values.push((r, self.b.use_var(self.regs[usize::from(w)]))),
                    Sym::Const(c) => values.push((r, self.b.ins().iconst(I64, c as i64))),
                }
            }
            for (r, v) in values {
                self.b.def_var(self.regs[r], v);
            }
            match to {
                To::Slot(s) => match self.blocks.get(&s) {
                    Some(target) => {
                        self.b.ins().jump(*target, &[]);
                    }
                    None => return fail(s, "a jump to where no block starts"),
                },
                To::Exit => {
                    let r0 = self.b.use_var(self.regs[0]);
                    self.leave(r0);
                }
            }
        }
        Ok(())
    }

    fn leave(&mut self, r0: Value) {
        match self.exit {
            Exit::Return => {
                self.b.ins().return_(&[r0]);
            }
            Exit::Continue(block) => {
                self.b.ins().jump(block, &[BlockArg::Value(r0)]);
            }
        }
    }

    /// Ends the whole program with `r0`, from whatever depth of calls.
    fn end_program(&mut self, r0: Value) {
        if self.func != 0 {
            let one = self.b.ins().iconst(I64, 1);
            let at = std::mem::offset_of!(Env<'_>, ended) as i32;
            self.b.ins().store(VALID, one, self.env, at);
        }
        self.leave(r0);
    }

    // ---- registers -----------------------------------------------------------------------

    fn get(&mut self, r: u8) -> Value {
        match self.known.0[usize::from(r)] {
            Some(c) => self.b.ins().iconst(I64, c as i64),
            None => self.b.use_var(self.regs[usize::from(r)]),
        }
    }

    fn get32(&mut self, r: u8) -> Value {
        match self.known.0[usize::from(r)] {
            Some(c) => self.b.ins().iconst(I32, i64::from(c as u32)),
            None => {
                let v = self.b.use_var(self.regs[usize::from(r)]);
                self.b.ins().ireduce(I32, v)
            }
        }
    }

    fn set(&mut self, r: u8, v: Value) {
        self.known.0[usize::from(r)] = None;
        self.b.def_var(self.regs[usize::from(r)], v);
    }

    fn set32(&mut self, r: u8, v: Value) {
        let v = self.b.ins().uextend(I64, v);
        self.set(r, v);
    }

    fn set_const(&mut self, r: u8, c: u64) {
        let v = self.b.ins().iconst(I64, c as i64);
        self.set(r, v);
        self.known.0[usize::from(r)] = Some(c);
    }

    fn imm(&mut self, i: Insn) -> Value {
        self.b.ins().iconst(I64, i64::from(i.imm))
    }

    // ---- instructions --------------------------------------------------------------------

    /// Translates one instruction; returns whether execution goes on after it in this block.
    fn insn(&mut self, at: usize) -> Jit<bool> {
        let i = self.unit.insns[at];
        if i.dst > 10 || i.src > 10 {
            return fail(at, "it names a register beyond r10");
        }
        match i.code & 7 {
            0 if i.code == 0x18 => self.constant(at, i)?,
            0 => self.legacy(at, i)?,
            1 => self.load(at, i)?,
            2 | 3 => self.store(at, i)?,
            4 | 7 => self.alu(at, i)?,
            _ => return self.jump(at, i),
        }
        Ok(true)
    }

    fn constant(&mut self, at: usize, i: Insn) -> Jit<()> {
        let high = self.unit.insns.get(at + 1).map_or(0, |h| h.imm);
        let map = || match self.unit.maps.get(i.imm as usize) {
            Some(m) => Ok(m),
            None => fail(at, "it names a map that the program does not have"),
        };
        let c = match i.src {
            0 => u64::from(i.imm as u32) | u64::from(high as u32) << 32,
            1 => Arc::as_ptr(map()?).expose_provenance() as u64,
            2 => map()?.memory().addr().wrapping_add(u64::from(high as u32)),
            4 => 0x6b63_6d00_0000_0000 | at as u64,
            _ => return fail(at, "an unknown kind of 64-bit constant"),
        };
        self.set_const(i.dst, c);
        Ok(())
    }

    // ---- control flow --------------------------------------------------------------------

    fn jump(&mut self, at: usize, i: Insn) -> Jit<bool> {
        match i.code {
            0x95 => {
                let r0 = self.get(0);
                self.leave(r0);
                return Ok(false);
            }
            0x85 if i.src == 1 => {
                self.local_call(at, i)?;
                return Ok(true);
            }
            0x85 => return self.helper(at, i),
            _ => {}
        }
        if self.unit.metered(at) {
            self.burn();
        }
        let by = if i.code == 0x06 { i.imm as isize } else { isize::from(i.off) };
        let target = at.wrapping_add_signed(1 + by);
        if matches!(i.code, 0x05 | 0x06) {
            let to = self.edge_to(target)?;
            self.b.ins().jump(to, &[]);
            return Ok(false);
        }
        let taken = self.unit.facts.taken.get(at).copied().unwrap_or_default();
        match (taken.jump, taken.fall) {
            (true, false) => {
                let to = self.edge_to(target)?;
                self.b.ins().jump(to, &[]);
                return Ok(false);
            }
            (false, true) => {
                let to = self.edge_to(at + 1)?;
                self.b.ins().jump(to, &[]);
                return Ok(false);
            }
            _ => {}
        }
        let condition = self.condition(at, i)?;
        let (mut yes, mut no) = (self.known, self.known);
        if i.code & 8 == 0 && i.code & 7 == 5 {
            // Equality with a constant makes it one.
            let c = Some(i64::from(i.imm) as u64);
            match i.code & 0xf0 {
                0x10 => yes.0[usize::from(i.dst)] = c,
                0x50 => no.0[usize::from(i.dst)] = c,
                _ => {}
            }
        }
        let yes = self.edge(target, &yes)?;
        let no = self.edge(at + 1, &no)?;
        self.b.ins().brif(condition, yes, &[], no, &[]);
        Ok(false)
    }

    fn condition(&mut self, at: usize, i: Insn) -> Jit<Value> {
        let (wide, reg) = (i.code & 7 == 5, i.code & 8 != 0);
        let a = if wide { self.get(i.dst) } else { self.get32(i.dst) };
        let b = match (reg, wide) {
            (true, true) => self.get(i.src),
            (true, false) => self.get32(i.src),
            (false, true) => self.imm(i),
            (false, false) => self.b.ins().iconst(I32, i64::from(i.imm as u32)),
        };
        let cc = match i.code & 0xf0 {
            0x10 => IntCC::Equal,
            0x20 => IntCC::UnsignedGreaterThan,
            0x30 => IntCC::UnsignedGreaterThanOrEqual,
            0x40 => return Ok(self.b.ins().band(a, b)),
            0x50 => IntCC::NotEqual,
            0x60 => IntCC::SignedGreaterThan,
            0x70 => IntCC::SignedGreaterThanOrEqual,
            0xa0 => IntCC::UnsignedLessThan,
            0xb0 => IntCC::UnsignedLessThanOrEqual,
            0xc0 => IntCC::SignedLessThan,
            0xd0 => IntCC::SignedLessThanOrEqual,
            _ => return fail(at, format!("unknown opcode {:#04x}", i.code)),
        };
        Ok(self.b.ins().icmp(cc, a, b))
    }

    /// Takes one back edge from the budget, or ends the program with `-ELOOP`.
    fn burn(&mut self) {
        let at = std::mem::offset_of!(Env<'_>, fuel) as i32;
        let left = self.b.ins().load(I64, VALID, self.env, at);
        let (on, out) = (self.b.create_block(), self.b.create_block());
        self.b.set_cold_block(out);
        self.b.ins().brif(left, on, &[], out, &[]);
        self.b.switch_to_block(out);
        let r0 = self.b.ins().iconst(I64, builtins::err(libc::ELOOP) as i64);
        self.end_program(r0);
        self.b.switch_to_block(on);
        let less = self.b.ins().iadd_imm_s(left, -1);
        self.b.ins().store(VALID, less, self.env, at);
    }

    /// Gives the budget back, for the next message of a walk.
    pub(super) fn refuel(&mut self) {
        let at = std::mem::offset_of!(Env<'_>, fuel) as i32;
        let all = self.b.ins().iconst(I64, self.unit.facts.budget as i64);
        self.b.ins().store(VALID, all, self.env, at);
    }

    /// Clears the context's scratch bytes, for the next message of a walk.
    pub(super) fn clear_scratch(&mut self) {
        let zero = self.b.ins().iconst(I64, 0);
        for (at, size) in [(0, 8), (8, 8), (16, 4)] {
            self.store_at(zero, self.env, scratch(Scratch::AT) + at, size);
        }
    }
}

/// Where a scratch byte of the context is in the environment.
fn scratch(offset: u16) -> i32 {
    std::mem::offset_of!(Env<'_>, cb) as i32 + i32::from(offset - Scratch::AT)
}

fn int(size: i32) -> Type {
    match size {
        1 => I8,
        2 => I16,
        4 => I32,
        _ => I64,
    }
}

fn size_of_access(i: Insn) -> i32 {
    [4, 2, 1, 8][usize::from(i.code >> 3 & 3)]
}
