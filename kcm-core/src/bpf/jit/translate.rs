//! One function of a program, from BPF to Cranelift's SSA form.
//!
//! BPF registers and promoted stack bytes are variables; the message's two ends are values in
//! registers; the context is nothing at all. No access is checked: the verifier proved each.
//! Loads are never marked movable, for it is the comparison before them that makes them
//! valid.

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
use crate::bpf::verifier::{CallFact, FUEL, Facts, Fuel, Region};

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
                    return fail(at, "execution runs into what is never reached");
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
        // Errors are not what code is laid out for.
        if to == To::Exit && matches!(env[0], Sym::Const(c) if (c as i32) < 0) {
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

    fn len(&mut self) -> Value {
        let (data, end) = (self.b.use_var(self.data), self.b.use_var(self.end));
        self.b.ins().isub(end, data)
    }

    fn legacy(&mut self, at: usize, i: Insn) -> Jit<()> {
        let size = match i.code & 0x18 {
            0x00 => 4,
            0x08 => 2,
            0x10 => 1,
            _ => return fail(at, format!("unknown opcode {:#04x}", i.code)),
        };
        let offset = match i.code & 0xe0 {
            0x20 => self.b.ins().iconst(I32, i64::from(i.imm as u32)),
            0x40 => {
                let base = self.get32(i.src);
                let imm = self.b.ins().iconst(I32, i64::from(i.imm as u32));
                self.b.ins().iadd(base, imm)
            }
            _ => return fail(at, format!("unknown opcode {:#04x}", i.code)),
        };
        // Offsets beyond 2^31 are beyond any message: it is shown 2^31 - 1 bytes at most.
        let offset = self.b.ins().uextend(I64, offset);
        let (inside, outside) = (self.b.create_block(), self.b.create_block());
        self.in_message(offset, size, inside, outside);
        self.b.switch_to_block(outside);
        let zero = self.b.ins().iconst(I64, 0);
        self.end_program(zero);
        self.b.switch_to_block(inside);
        let v = self.load_message(offset, size);
        let v = self.swap(v, size);
        self.set(0, v);
        Ok(())
    }

    /// Branches on whether `size` bytes at `offset` are in the message.
    fn in_message(&mut self, offset: Value, size: i64, inside: Block, outside: Block) {
        let last = self.b.ins().iadd_imm_s(offset, size);
        let len = self.len();
        let there = self.b.ins().icmp(IntCC::UnsignedLessThanOrEqual, last, len);
        self.b.ins().brif(there, inside, &[], outside, &[]);
    }

    fn load_message(&mut self, offset: Value, size: i64) -> Value {
        let data = self.b.use_var(self.data);
        let at = self.b.ins().iadd(data, offset);
        self.load_at(at, 0, size as i32)
    }

    /// An unsigned load, as 64 bits.
    fn load_at(&mut self, at: Value, off: i32, size: i32) -> Value {
        match size {
            1 => self.b.ins().uload8(I64, VALID, at, off),
            2 => self.b.ins().uload16(I64, VALID, at, off),
            4 => self.b.ins().uload32(VALID, at, off),
            _ => self.b.ins().load(I64, VALID, at, off),
        }
    }

    fn store_at(&mut self, v: Value, at: Value, off: i32, size: i32) {
        match size {
            1 => self.b.ins().istore8(VALID, v, at, off),
            2 => self.b.ins().istore16(VALID, v, at, off),
            4 => self.b.ins().istore32(VALID, v, at, off),
            _ => self.b.ins().store(VALID, v, at, off),
        };
    }

    /// Reverses the low `size` bytes; the others become 0.
    fn swap(&mut self, v: Value, size: i64) -> Value {
        let ty = match size {
            1 => return v,
            2 => I16,
            4 => I32,
            _ => return self.b.ins().bswap(v),
        };
        let v = self.b.ins().ireduce(ty, v);
        let v = self.b.ins().bswap(v);
        self.b.ins().uextend(I64, v)
    }

    fn region(&self, at: usize) -> Jit<Region> {
        match self.unit.facts.region.get(at).copied().flatten() {
            Some(r) => Ok(r),
            None => fail(at, "nothing was proved about its address"),
        }
    }

    fn load(&mut self, at: usize, i: Insn) -> Jit<()> {
        let size = size_of_access(i);
        let signed = match i.code & 0xe0 {
            0x60 => false,
            0x80 if size < 8 => true,
            _ => return fail(at, format!("unknown opcode {:#04x}", i.code)),
        };
        let v = match self.region(at)? {
            Region::Ctx { offset } => return self.field(at, i, offset, size),
            Region::Stack { offset: Some(o) }
                if self.layout.pieces_of(i32::from(o), size).is_some() =>
            {
                let v = self.read_pieces(i32::from(o), size);
                if signed { self.sign_extend(v, size) } else { v }
            }
            _ => {
                let base = self.get(i.src);
                let off = i32::from(i.off);
                match (signed, size) {
                    (false, _) => self.load_at(base, off, size),
                    (true, 1) => self.b.ins().sload8(I64, VALID, base, off),
                    (true, 2) => self.b.ins().sload16(I64, VALID, base, off),
                    (true, _) => self.b.ins().sload32(VALID, base, off),
                }
            }
        };
        self.set(i.dst, v);
        Ok(())
    }

    fn sign_extend(&mut self, v: Value, size: i32) -> Value {
        let v = self.b.ins().ireduce(int(size), v);
        self.b.ins().sextend(I64, v)
    }

    fn read_pieces(&mut self, at: i32, size: i32) -> Value {
        let range = self.layout.pieces_of(at, size).unwrap_or_default();
        let mut whole = None;
        for p in range {
            let v = self.b.use_var(self.pieces[p]);
            let shift = i64::from(self.layout.pieces[p].at - at) * 8;
            let v = if shift == 0 { v } else { self.b.ins().ishl_imm_u(v, shift) };
            whole = Some(match whole {
                None => v,
                Some(w) => self.b.ins().bor(w, v),
            });
        }
        whole.unwrap_or_else(|| self.b.ins().iconst(I64, 0))
    }

    /// Writes the low `size` bytes of `v`, whose upper bytes may be anything.
    fn write_pieces(&mut self, at: i32, size: i32, v: Value) {
        let range = self.layout.pieces_of(at, size).unwrap_or_default();
        for p in range {
            let piece = self.layout.pieces[p];
            let shift = i64::from(piece.at - at) * 8;
            let part = if shift == 0 { v } else { self.b.ins().ushr_imm_u(v, shift) };
            let part = if piece.size == 8 {
                part
            } else {
                let low = self.b.ins().ireduce(int(piece.size), part);
                self.b.ins().uextend(I64, low)
            };
            self.b.def_var(self.pieces[p], part);
        }
    }

    /// A field of `struct __sk_buff`: len (0-3), data (76), data_end (80); others are 0.
    fn field(&mut self, at: usize, i: Insn, offset: u16, size: i32) -> Jit<()> {
        match (offset, size) {
            (0..4, _) => {
                let len = self.len();
                let v = self.b.ins().ushr_imm_u(len, i64::from(offset) * 8);
                let v = if size >= 4 {
                    v
                } else {
                    let low = self.b.ins().ireduce(int(size), v);
                    self.b.ins().uextend(I64, low)
                };
                self.set(i.dst, v);
            }
            (76, 4) => {
                let v = self.b.use_var(self.data);
                self.set(i.dst, v);
            }
            (80, 4) => {
                let v = self.b.use_var(self.end);
                self.set(i.dst, v);
            }
            (76..84, _) => return fail(at, "a part of a packet pointer"),
            (Scratch::AT..Scratch::END, _) if self.unit.scratch => {
                let v = self.load_at(self.env, scratch(offset), size);
                self.set(i.dst, v);
            }
            _ => self.set_const(i.dst, 0),
        }
        Ok(())
    }

    fn store(&mut self, at: usize, i: Insn) -> Jit<()> {
        let size = size_of_access(i);
        let region = self.region(at)?;
        let read_only = match region {
            Region::Ctx { offset } => {
                !(Scratch::AT..Scratch::END).contains(&offset) || i.code & 0xe0 != 0x60
            }
            region => region == Region::Packet,
        };
        if read_only {
            return fail(at, "a store to memory that is read-only");
        }
        match (i.code & 7, i.code & 0xe0) {
            (3, 0xc0) if size >= 4 => return self.atomic(at, i, size),
            (2 | 3, 0x60) => {}
            _ => return fail(at, format!("unknown opcode {:#04x}", i.code)),
        }
        let v = if i.code & 7 == 3 { self.get(i.src) } else { self.imm(i) };
        match region {
            Region::Stack { offset: Some(o) }
                if self.layout.pieces_of(i32::from(o), size).is_some() =>
            {
                self.write_pieces(i32::from(o), size, v);
            }
            Region::Ctx { offset } => self.store_at(v, self.env, scratch(offset), size),
            _ => {
                let base = self.get(i.dst);
                self.store_at(v, base, i32::from(i.off), size);
            }
        }
        Ok(())
    }

    fn atomic(&mut self, at: usize, i: Insn, size: i32) -> Jit<()> {
        let wide = size == 8;
        let base = self.get(i.dst);
        let address = self.b.ins().iadd_imm_s(base, i64::from(i.off));
        let b = if wide { self.get(i.src) } else { self.get32(i.src) };
        let flags = VALID.with_aligned();
        if i.imm == 0xf1 {
            let expect = if wide { self.get(0) } else { self.get32(0) };
            let was = self.b.ins().atomic_cas(flags, address, expect, b);
            if wide {
                self.set(0, was)
            } else {
                self.set32(0, was)
            }
            return Ok(());
        }
        let op = match i.imm & !1 {
            0x00 => AtomicRmwOp::Add,
            0x40 => AtomicRmwOp::Or,
            0x50 => AtomicRmwOp::And,
            0xa0 => AtomicRmwOp::Xor,
            0xe0 if i.imm == 0xe1 => AtomicRmwOp::Xchg,
            _ => return fail(at, format!("unknown atomic operation {:#x}", i.imm)),
        };
        let was = self.b.ins().atomic_rmw(int(size), flags, op, address, b);
        if i.imm & 1 == 1 {
            if wide { self.set(i.src, was) } else { self.set32(i.src, was) }
        }
        Ok(())
    }

    fn alu(&mut self, at: usize, i: Insn) -> Jit<()> {
        let (wide, reg, op) = (i.code & 7 == 7, i.code & 8 != 0, i.code & 0xf0);
        let unary = matches!(op, 0x80 | 0xd0);
        let imm = Some(i64::from(i.imm) as u64);
        let a = if op == 0xb0 { Some(0) } else { self.known.0[usize::from(i.dst)] };
        let b = if reg && !unary { self.known.0[usize::from(i.src)] } else { imm };
        if let (Some(a), Some(b)) = (a, b) {
            return match crate::bpf::checked::alu::compute(i, wide, a, b) {
                Some(c) => {
                    self.set_const(i.dst, c);
                    Ok(())
                }
                None => fail(at, format!("unknown opcode {:#04x}", i.code)),
            };
        }
        if op == 0xd0 {
            let v = self.get(i.dst);
            let size = i64::from(i.imm / 8);
            let v = match (wide || reg, i.imm) {
                (true, 16 | 32 | 64) => self.swap(v, size),
                (false, 64) => v,
                (false, 16 | 32) => {
                    let low = self.b.ins().ireduce(int(size as i32), v);
                    self.b.ins().uextend(I64, low)
                }
                _ => return fail(at, format!("unknown byte swap of {} bits", i.imm)),
            };
            self.set(i.dst, v);
            return Ok(());
        }
        if op == 0xb0 && i.off != 0 {
            let size = i32::from(i.off) / 8;
            if !reg || !matches!(i.off, 8 | 16 | 32) || (i.off == 32 && !wide) {
                return fail(at, format!("unknown move with offset {}", i.off));
            }
            let v = self.get(i.src);
            let v = self.sign_extend(v, size);
            if wide {
                self.set(i.dst, v);
            } else {
                let low = self.b.ins().ireduce(I32, v);
                self.set32(i.dst, low);
            }
            return Ok(());
        }
        let (x, y) = if wide {
            let x = if op == 0xb0 { None } else { Some(self.get(i.dst)) };
            (x, if reg && op != 0x80 { self.get(i.src) } else { self.imm(i) })
        } else {
            let x = if op == 0xb0 { None } else { Some(self.get32(i.dst)) };
            let y = if reg && op != 0x80 {
                self.get32(i.src)
            } else {
                self.b.ins().iconst(I32, i64::from(i.imm as u32))
            };
            (x, y)
        };
        let x = x.unwrap_or(y);
        let nonzero = !reg && i.imm != 0;
        let v = match (op, i.off) {
            (0x00, 0) => self.b.ins().iadd(x, y),
            (0x10, 0) => self.b.ins().isub(x, y),
            (0x20, 0) => self.b.ins().imul(x, y),
            (0x30 | 0x90, 0 | 1) => self.divide(x, y, op == 0x90, i.off == 1, nonzero),
            (0x40, 0) => self.b.ins().bor(x, y),
            (0x50, 0) => self.b.ins().band(x, y),
            (0x60, 0) => self.b.ins().ishl(x, y),
            (0x70, 0) => self.b.ins().ushr(x, y),
            (0x80, 0) => self.b.ins().ineg(x),
            (0xa0, 0) => self.b.ins().bxor(x, y),
            (0xb0, 0) => y,
            (0xc0, 0) => self.b.ins().sshr(x, y),
            _ => return fail(at, format!("unknown opcode {:#04x}", i.code)),
        };
        if wide {
            self.set(i.dst, v)
        } else {
            self.set32(i.dst, v)
        }
        Ok(())
    }

    /// Division and remainder as RFC 9669 section 4.1 has them: by zero, the quotient is 0
    /// and the remainder the dividend; the one signed overflow wraps.
    fn divide(&mut self, x: Value, y: Value, rem: bool, signed: bool, nonzero: bool) -> Value {
        if nonzero && !signed {
            return if rem { self.b.ins().urem(x, y) } else { self.b.ins().udiv(x, y) };
        }
        let ty = self.b.func.dfg.value_type(x);
        let one = self.b.ins().iconst(ty, 1);
        let zero = self.b.ins().iconst(ty, 0);
        let is_zero = self.b.ins().icmp(IntCC::Equal, y, zero);
        let safe = self.b.ins().select(is_zero, one, y);
        if !signed {
            let v = if rem { self.b.ins().urem(x, safe) } else { self.b.ins().udiv(x, safe) };
            let by_zero = if rem { x } else { zero };
            return self.b.ins().select(is_zero, by_zero, v);
        }
        let minus = self.b.ins().iconst(ty, if ty == I32 { 0xffff_ffff } else { -1 });
        let is_minus = self.b.ins().icmp(IntCC::Equal, y, minus);
        let safe = self.b.ins().select(is_minus, one, safe);
        if rem {
            // x % 1 is 0, as x % -1 is.
            let v = self.b.ins().srem(x, safe);
            self.b.ins().select(is_zero, x, v)
        } else {
            let v = self.b.ins().sdiv(x, safe);
            let negated = self.b.ins().ineg(x);
            let v = self.b.ins().select(is_minus, negated, v);
            self.b.ins().select(is_zero, zero, v)
        }
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
        let all = self.b.ins().iconst(I64, FUEL as i64);
        self.b.ins().store(VALID, all, self.env, at);
    }

    /// Clears the context's scratch bytes, for the next message of a walk.
    pub(super) fn clear_scratch(&mut self) {
        let zero = self.b.ins().iconst(I64, 0);
        for (at, size) in [(0, 8), (8, 8), (16, 4)] {
            self.store_at(zero, self.env, scratch(Scratch::AT) + at, size);
        }
    }

    fn call_function(&mut self, func: usize, args: &[Value]) -> Value {
        let sig = self.b.import_signature(self.unit.sub.clone());
        let name = UserExternalName { namespace: 0, index: func as u32 };
        let name = self.b.func.declare_imported_user_function(name);
        let f = self.b.import_function(ExtFuncData {
            name: ExternalName::user(name),
            signature: sig,
            colocated: true,
            patchable: false,
        });
        let mut all = vec![self.env, self.b.use_var(self.data), self.b.use_var(self.end)];
        all.extend_from_slice(args);
        let call = self.b.ins().call(f, &all);
        let r0 = self.b.inst_results(call)[0];
        if self.unit.may_end[func] {
            let at = std::mem::offset_of!(Env<'_>, ended) as i32;
            let ended = self.b.ins().load(I64, VALID, self.env, at);
            let (on, out) = (self.b.create_block(), self.b.create_block());
            self.b.set_cold_block(out);
            self.b.ins().brif(ended, out, &[], on, &[]);
            self.b.switch_to_block(out);
            if self.func == 0 {
                let zero = self.b.ins().iconst(I64, 0);
                self.b.ins().store(VALID, zero, self.env, at);
            }
            self.leave(r0);
            self.b.switch_to_block(on);
        }
        r0
    }

    /// Forgets what a call may have changed.
    fn after_call(&mut self, r0: Value) {
        self.set(0, r0);
        for r in 1..=5 {
            self.known.0[r] = None;
        }
    }

    fn local_call(&mut self, at: usize, i: Insn) -> Jit<()> {
        let target = at.wrapping_add_signed(1 + i.imm as isize);
        let func = self.unit.func_of(target);
        if self.unit.funcs.get(func) != Some(&target) {
            return fail(at, "a call to where no function starts");
        }
        let args: Vec<Value> = (1..=5).map(|r| self.get(r)).collect();
        let r0 = self.call_function(func, &args);
        self.after_call(r0);
        Ok(())
    }

    fn helper(&mut self, at: usize, i: Insn) -> Jit<bool> {
        let fact = self.fact(at)?;
        let number = i.imm as u32;
        if let Some((to, size)) = inline_load_bytes(fact) {
            self.load_bytes(at, fact, to, size)?;
            return Ok(false);
        }
        if number == builtins::id::LOOP {
            let Some(callback) = fact.callback else {
                return fail(at, "bpf_loop without one callback");
            };
            self.rounds(at, callback)?;
            return Ok(true);
        }
        if let Some(key) = self.unit.inline_lookup(fact) {
            self.lookup(fact, key);
            return Ok(true);
        }
        let Some(f) = builtins::find(number) else {
            return fail(at, format!("there is no helper {number}"));
        };
        let n = builtins::arity(number);
        let mut args = vec![self.env];
        for r in 1..=n {
            args.push(self.get(r as u8));
        }
        let sig = match self.sigs.get(&n) {
            Some(s) => *s,
            None => {
                let s = self.b.import_signature(self.unit.helper[n].clone());
                self.sigs.insert(n, s);
                s
            }
        };
        let f = self.b.ins().iconst(I64, f as usize as i64);
        let call = self.b.ins().call_indirect(sig, f, &args);
        let r0 = self.b.inst_results(call)[0];
        self.after_call(r0);
        Ok(true)
    }

    /// `bpf_skb_load_bytes` of a known size to a known place: a comparison and loads. Its two
    /// outcomes are edges, along which r0 is known.
    fn load_bytes(&mut self, at: usize, fact: &CallFact, to: i32, size: i32) -> Jit<()> {
        let offset = match fact.consts[1] {
            Some(c) => self.b.ins().iconst(I64, i64::from(c as u32)),
            None => {
                let o = self.get32(2);
                self.b.ins().uextend(I64, o)
            }
        };
        let dest = self.get(3);
        for r in 0..=5 {
            self.known.0[r] = None;
        }
        let (inside, outside) = (self.b.create_block(), self.b.create_block());
        self.in_message(offset, i64::from(size), inside, outside);
        for (block, there) in [(inside, true), (outside, false)] {
            self.b.switch_to_block(block);
            let from = if there {
                let data = self.b.use_var(self.data);
                Some(self.b.ins().iadd(data, offset))
            } else {
                None
            };
            self.fill(from, to, size, dest);
            let r0 = if there { 0 } else { builtins::err(libc::EFAULT) };
            let v = self.b.ins().iconst(I64, r0 as i64);
            self.b.def_var(self.regs[0], v);
            let mut known = self.known;
            known.0[0] = Some(r0);
            let next = self.edge(at + 1, &known)?;
            self.b.ins().jump(next, &[]);
        }
        Ok(())
    }

    /// Copies `size` bytes from an address (or zeroes) to a place in this frame's stack.
    fn fill(&mut self, from: Option<Value>, to: i32, size: i32, dest: Value) {
        let value = |t: &mut Self, off: i32, size: i32| match from {
            Some(f) => t.load_at(f, off, size),
            None => t.b.ins().iconst(I64, 0),
        };
        if let Some(range) = self.layout.pieces_of(to, size) {
            for p in range {
                let piece = self.layout.pieces[p];
                let v = value(self, piece.at - to, piece.size);
                self.b.def_var(self.pieces[p], v);
            }
            return;
        }
        let mut done = 0;
        while done < size {
            let mut n = 8;
            while n > size - done {
                n /= 2;
            }
            let v = value(self, done, n);
            self.store_at(v, dest, done, n);
            done += n;
        }
    }

    /// `bpf_map_lookup_elem` on an array: a comparison and an address.
    fn lookup(&mut self, fact: &CallFact, key: i32) {
        let Some(map) = fact.map.and_then(|m| self.unit.maps.get(m as usize)) else { return };
        let index = if self.layout.pieces_of(key, 4).is_some() {
            self.read_pieces(key, 4)
        } else {
            let at = self.get(2);
            self.load_at(at, 0, 4)
        };
        let stride = map.stride() as i64;
        let offset = self.b.ins().imul_imm_s(index, stride);
        let base = self.b.ins().iconst(I64, map.memory().addr() as i64);
        let value = self.b.ins().iadd(base, offset);
        let entries = i64::from(map.def().max_entries);
        let there = self.b.ins().icmp_imm_u(IntCC::UnsignedLessThan, index, entries);
        let null = self.b.ins().iconst(I64, 0);
        let r0 = self.b.ins().select(there, value, null);
        self.after_call(r0);
    }

    /// `bpf_loop(rounds, callback, ctx, flags)`.
    fn rounds(&mut self, at: usize, callback: usize) -> Jit<()> {
        let func = self.unit.func_of(callback);
        if self.unit.funcs.get(func) != Some(&callback) {
            return fail(at, "a callback where no function starts");
        }
        let n = self.get32(1);
        let n = self.b.ins().uextend(I64, n);
        let (ctx, flags) = (self.get(3), self.get(4));
        let [head, round, next, done, check, bad] = std::array::from_fn(|_| self.b.create_block());
        let count = self.b.append_block_param(head, I64);
        let result = self.b.append_block_param(done, I64);
        let arg = |v| [BlockArg::Value(v)];
        self.b.ins().brif(flags, bad, &[], check, &[]);
        self.b.switch_to_block(bad);
        let error = self.b.ins().iconst(I64, builtins::err(libc::EINVAL) as i64);
        self.b.ins().jump(done, &arg(error));
        self.b.switch_to_block(check);
        let most = builtins::MAX_LOOPS as i64;
        let many = self.b.ins().icmp_imm_u(IntCC::UnsignedGreaterThan, n, most);
        let error = self.b.ins().iconst(I64, builtins::err(libc::E2BIG) as i64);
        let zero = self.b.ins().iconst(I64, 0);
        self.b.ins().brif(many, done, &arg(error), head, &arg(zero));
        self.b.switch_to_block(head);
        let more = self.b.ins().icmp(IntCC::UnsignedLessThan, count, n);
        self.b.ins().brif(more, round, &[], done, &arg(count));
        self.b.switch_to_block(round);
        if self.unit.metered(at) {
            self.burn();
        }
        let zero = self.b.ins().iconst(I64, 0);
        let stop = self.call_function(func, &[count, ctx, zero, zero, zero]);
        let after = self.b.ins().iadd_imm_s(count, 1);
        self.b.ins().brif(stop, done, &arg(after), next, &[]);
        self.b.switch_to_block(next);
        self.b.ins().jump(head, &arg(after));
        self.b.switch_to_block(done);
        self.after_call(result);
        Ok(())
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
