//! Arithmetic.

use super::*;

impl Translator<'_, '_, '_> {
    pub(super) fn alu(&mut self, at: usize, i: Insn) -> Jit<()> {
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
    pub(super) fn divide(
        &mut self,
        x: Value,
        y: Value,
        rem: bool,
        signed: bool,
        nonzero: bool,
    ) -> Value {
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
}
