//! Loads, stores and atomics: of the message, the stack, the context, maps and records.

use super::*;

impl Translator<'_, '_, '_> {
    pub(super) fn len(&mut self) -> Value {
        let (data, end) = (self.b.use_var(self.data), self.b.use_var(self.end));
        self.b.ins().isub(end, data)
    }

    pub(super) fn legacy(&mut self, at: usize, i: Insn) -> Jit<()> {
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
    pub(super) fn in_message(&mut self, offset: Value, size: i64, inside: Block, outside: Block) {
        let last = self.b.ins().iadd_imm_s(offset, size);
        let len = self.len();
        let there = self.b.ins().icmp(IntCC::UnsignedLessThanOrEqual, last, len);
        self.b.ins().brif(there, inside, &[], outside, &[]);
    }

    pub(super) fn load_message(&mut self, offset: Value, size: i64) -> Value {
        let data = self.b.use_var(self.data);
        let at = self.b.ins().iadd(data, offset);
        self.load_at(at, 0, size as i32)
    }

    /// An unsigned load, as 64 bits.
    pub(super) fn load_at(&mut self, at: Value, off: i32, size: i32) -> Value {
        match size {
            1 => self.b.ins().uload8(I64, VALID, at, off),
            2 => self.b.ins().uload16(I64, VALID, at, off),
            4 => self.b.ins().uload32(VALID, at, off),
            _ => self.b.ins().load(I64, VALID, at, off),
        }
    }

    pub(super) fn store_at(&mut self, v: Value, at: Value, off: i32, size: i32) {
        match size {
            1 => self.b.ins().istore8(VALID, v, at, off),
            2 => self.b.ins().istore16(VALID, v, at, off),
            4 => self.b.ins().istore32(VALID, v, at, off),
            _ => self.b.ins().store(VALID, v, at, off),
        };
    }

    /// Reverses the low `size` bytes; the others become 0.
    pub(super) fn swap(&mut self, v: Value, size: i64) -> Value {
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

    pub(super) fn region(&self, at: usize) -> Jit<Region> {
        match self.unit.facts.region.get(at).copied().flatten() {
            Some(r) => Ok(r),
            None => fail(at, "nothing was proved about its address"),
        }
    }

    pub(super) fn load(&mut self, at: usize, i: Insn) -> Jit<()> {
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

    pub(super) fn sign_extend(&mut self, v: Value, size: i32) -> Value {
        let v = self.b.ins().ireduce(int(size), v);
        self.b.ins().sextend(I64, v)
    }

    pub(super) fn read_pieces(&mut self, at: i32, size: i32) -> Value {
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
    pub(super) fn write_pieces(&mut self, at: i32, size: i32, v: Value) {
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
    pub(super) fn field(&mut self, at: usize, i: Insn, offset: u16, size: i32) -> Jit<()> {
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

    pub(super) fn store(&mut self, at: usize, i: Insn) -> Jit<()> {
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

    pub(super) fn atomic(&mut self, at: usize, i: Insn, size: i32) -> Jit<()> {
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
}
