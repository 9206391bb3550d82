//! Loads, stores, atomics: every access proved to be within its region.

use super::{
    error::Rule,
    explore::Explorer,
    facts::Region,
    scalar::Scalar,
    state::{Kind, Reg, STACK_SIZE, StackRead, State, full_slots, slots},
    step::{number, operand, readable},
};
use crate::bpf::{
    decode::{AtomicOp, Operand},
    map::MapDef,
};

/// Bytes of a stack frame, as indexes: 0 is fp-512.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StackSpan {
    pub(super) frame: usize,
    /// First byte that may be touched.
    pub(super) at: usize,
    /// Bytes from there on that may be touched.
    pub(super) len: usize,
    /// All of them are touched, every time.
    pub(super) fixed: bool,
}

/// Where an access was proved to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Packet,
    Stack(StackSpan),
    Value(u32),
    Record,
}

impl Explorer<'_> {
    pub(super) fn map(&self, map: u32) -> Option<&MapDef> {
        self.program.maps.get(map as usize)
    }

    /// Proves that `size` bytes at `reg + off` are within the region that `reg` points into.
    /// What stack bytes hold is not looked at.
    pub(super) fn check_access(
        &mut self,
        st: &State,
        reg: u8,
        off: i64,
        size: i64,
        write: bool,
    ) -> Result<Place, Rule> {
        let r = readable(st, reg)?;
        if r.kind.nullable() {
            return Err(Rule::MaybeNull { reg });
        }
        let (lo, hi) = r.off_bounds();
        let (min, end) = (lo + off, hi + off + size);
        match r.kind {
            Kind::Packet => {
                check_packet(&r, off, size)?;
                if write {
                    return Err(Rule::PacketWrite);
                }
                Ok(Place::Packet)
            }
            Kind::Stack { frame } => {
                let frame = usize::from(frame);
                if min < -STACK_SIZE || end > 0 {
                    return Err(Rule::StackBounds { min, end });
                }
                self.note_stack_use(st, frame, min);
                Ok(Place::Stack(StackSpan {
                    frame,
                    at: (STACK_SIZE + min) as usize,
                    len: (end - min) as usize,
                    fixed: lo == hi,
                }))
            }
            Kind::Value { map, .. } => {
                let (size, flags) = self.map(map).map_or((0, 0), |m| (m.value_size, m.flags));
                if min < 0 || end > i64::from(size) {
                    return Err(Rule::MapBounds { min, end, size });
                }
                if write && flags & super::MAP_RDONLY != 0 {
                    return Err(Rule::MapReadOnly { map });
                }
                if !write {
                    self.check_map_read(map)?;
                }
                Ok(Place::Value(map))
            }
            Kind::Record { size, .. } => {
                if min < 0 || end > i64::from(size) {
                    return Err(Rule::RecordBounds { min, end, size });
                }
                Ok(Place::Record)
            }
            kind => Err(Rule::NotAPointer { reg, is: kind.describe() }),
        }
    }

    /// Programs may read the map's values.
    fn check_map_read(&self, map: u32) -> Result<(), Rule> {
        let flags = self.map(map).map_or(0, |m| m.flags);
        if flags & super::MAP_WRONLY == 0 { Ok(()) } else { Err(Rule::MapWriteOnly { map }) }
    }

    fn note_place(&mut self, st: &State, at: usize, place: Place) -> Result<(), Rule> {
        let region = match place {
            Place::Packet => Region::Packet,
            Place::Value(map) => Region::MapValue { map },
            Place::Record => Region::Record,
            Place::Stack(s) => {
                let own = s.fixed && s.frame == st.depth();
                Region::Stack { offset: own.then(|| (s.at as i64 - STACK_SIZE) as i16) }
            }
        };
        self.note_region(at, region)
    }

    /// All bytes of the span are initialised and none belongs to a stored pointer.
    pub(super) fn check_stack_numbers(&mut self, st: &State, s: StackSpan) -> Result<(), Rule> {
        let stack = &st.frames[s.frame].stack;
        if let Some(b) = stack.first_uninit(s.at, s.len) {
            return Err(Rule::StackUninit { off: b as i64 - STACK_SIZE });
        }
        if stack.has_pointer(s.at, s.len) {
            return Err(Rule::PointerBytes { off: s.at as i64 - STACK_SIZE });
        }
        self.note_read(st, s.frame, slots(s.at, s.len));
        Ok(())
    }

    /// Something of unknown value is written to the span.
    pub(super) fn write_stack(st: &mut State, s: StackSpan, reg: Option<Reg>) {
        let stack = &mut st.frames[s.frame].stack;
        if s.fixed {
            stack.write(s.at, s.len, reg);
            st.written[s.frame] |= full_slots(s.at, s.len);
        } else {
            stack.forget(s.at, s.len);
        }
    }

    #[expect(clippy::too_many_arguments)]
    pub(super) fn load(
        &mut self,
        st: &mut State,
        at: usize,
        size: u8,
        signed: bool,
        dst: u8,
        src: u8,
        off: i16,
    ) -> Result<(), Rule> {
        let base = readable(st, src)?;
        if base.kind == Kind::Ctx {
            let field = context_offset(&base, off)?;
            let reg = super::context::read(self.program.kind, field, size)?;
            if signed && reg.kind != Kind::Scalar {
                return Err(Rule::PointerArithmetic { reg: dst, is: reg.kind.describe() });
            }
            self.note_region(at, Region::Ctx { offset: field as u16 })?;
            st.set(dst, extend(reg, size, signed));
            return Ok(());
        }
        let n = i64::from(size);
        let place = self.check_access(st, src, i64::from(off), n, false)?;
        self.note_place(st, at, place)?;
        let any = Reg::scalar(Scalar::of_size(u32::from(size)));
        let reg = match place {
            Place::Packet | Place::Record => any,
            Place::Value(map) => {
                let from = base.fixed_off().map(|o| o + i64::from(off));
                match from.and_then(|o| self.constant_data(map, o, size)) {
                    Some(v) => Reg::constant(v),
                    None => any,
                }
            }
            Place::Stack(s) if s.fixed => self.read_stack(st, s)?.unwrap_or(any),
            Place::Stack(s) => {
                self.check_stack_numbers(st, s)?;
                any
            }
        };
        if signed && reg.kind != Kind::Scalar {
            return Err(Rule::PointerArithmetic { reg: dst, is: reg.kind.describe() });
        }
        st.set(dst, extend(reg, size, signed));
        Ok(())
    }

    fn read_stack(&mut self, st: &State, s: StackSpan) -> Result<Option<Reg>, Rule> {
        let out = match st.frames[s.frame].stack.read(s.at, s.len) {
            StackRead::Reg(r) => Some(r),
            #[cfg(test)]
            StackRead::Uninit(_) if super::weak::has(super::weak::Weakness::StackInit) => None,
            StackRead::Bytes => None,
            StackRead::Uninit(b) => {
                return Err(Rule::StackUninit { off: b as i64 - STACK_SIZE });
            }
            StackRead::Pointer => {
                return Err(Rule::PointerBytes { off: s.at as i64 - STACK_SIZE });
            }
        };
        self.note_read(st, s.frame, slots(s.at, s.len));
        Ok(out)
    }

    /// What read-only data holds.
    pub(super) fn constant_data(&self, map: u32, off: i64, size: u8) -> Option<u64> {
        let m = self.map(map)?;
        if m.flags & super::MAP_RDONLY == 0 || m.kind != super::MAP_ARRAY {
            return None;
        }
        let data = m.initial.as_deref()?;
        let from = usize::try_from(off).ok()?;
        let bytes = data.get(from..from.checked_add(usize::from(size))?)?;
        Some(bytes.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b)))
    }

    pub(super) fn store(
        &mut self,
        st: &mut State,
        at: usize,
        size: u8,
        dst: u8,
        off: i16,
        src: Operand,
    ) -> Result<(), Rule> {
        let base = readable(st, dst)?;
        let value = operand(st, src)?;
        if base.kind == Kind::Ctx {
            let field = context_offset(&base, off)?;
            super::context::check_write(self.program.kind, field, size)?;
            if value.kind != Kind::Scalar {
                return Err(Rule::PointerLeak { into: "the context" });
            }
            return self.note_region(at, Region::Ctx { offset: field as u16 });
        }
        let place = self.check_access(st, dst, i64::from(off), i64::from(size), true)?;
        self.note_place(st, at, place)?;
        let Place::Stack(s) = place else {
            return if value.kind == Kind::Scalar {
                Ok(())
            } else {
                Err(Rule::PointerLeak {
                    into: if place == Place::Record {
                        "a ring-buffer record"
                    } else {
                        "a map value"
                    },
                })
            };
        };
        let reg = if value.kind == Kind::Scalar {
            let num = value.num.zext(u32::from(size));
            if num == value.num {
                match src {
                    Operand::Reg(r) => self.linked(st, r),
                    Operand::Imm(_) => value,
                }
            } else {
                Reg { deps: value.deps, ..Reg::scalar(num) }
            }
        } else {
            check_pointer_store(&value, s, size)?;
            value
        };
        Self::write_stack(st, s, Some(reg));
        Ok(())
    }

    #[expect(clippy::too_many_arguments)]
    pub(super) fn atomic(
        &mut self,
        st: &mut State,
        at: usize,
        op: AtomicOp,
        fetch: bool,
        size: u8,
        dst: u8,
        off: i16,
        src: u8,
    ) -> Result<(), Rule> {
        let base = readable(st, dst)?;
        let leak = |r: Result<Reg, Rule>| {
            r.map_err(|e| match e {
                Rule::PointerArithmetic { .. } => Rule::PointerLeak { into: "an atomic variable" },
                e => e,
            })
        };
        leak(number(st, src))?;
        if op == AtomicOp::Cmpxchg {
            leak(number(st, 0))?;
        }
        match base.kind {
            Kind::Stack { .. } | Kind::Value { .. } | Kind::Record { .. } => {}
            kind => return Err(Rule::AtomicTarget { is: kind.describe() }),
        }
        let place = self.check_access(st, dst, i64::from(off), i64::from(size), true)?;
        if let Place::Value(map) = place {
            self.check_map_read(map)?;
        }
        check_atomic_alignment(&base, off, size)?;
        self.note_place(st, at, place)?;
        if let Place::Stack(s) = place {
            self.check_stack_numbers(st, s)?;
            Self::write_stack(st, s, None);
        }
        if fetch {
            let old = Reg::scalar(Scalar::of_size(u32::from(size)));
            st.set(if op == AtomicOp::Cmpxchg { 0 } else { src }, old);
        }
        Ok(())
    }
}

fn check_packet(r: &Reg, off: i64, size: i64) -> Result<(), Rule> {
    let min = r.off + r.num.smin + off;
    let end = r.off + off + size;
    #[cfg(test)]
    let min = if super::weak::has(super::weak::Weakness::PacketStart) { 0 } else { min };
    if min < 0 || end > r.range {
        return Err(Rule::PacketBounds { min, end, proven: r.range.max(0) });
    }
    Ok(())
}

fn check_pointer_store(value: &Reg, s: StackSpan, size: u8) -> Result<(), Rule> {
    if size != 8 || !s.fixed || !s.at.is_multiple_of(8) {
        return Err(Rule::PointerLeak { into: "bytes of the stack" });
    }
    if let Kind::Stack { frame } = value.kind
        && usize::from(frame) > s.frame
    {
        return Err(Rule::PointerLeak { into: "a caller's stack, which outlives it" });
    }
    Ok(())
}

fn check_atomic_alignment(base: &Reg, off: i16, size: u8) -> Result<(), Rule> {
    // Frames, map values and records all begin at multiples of 8.
    let off = base.off + i64::from(off);
    let low = i64::from(size) - 1;
    let unknown = base.num.bits.mask as i64 & low;
    let at = off.wrapping_add(base.num.bits.value as i64);
    if unknown != 0 || at & low != 0 {
        return Err(Rule::AtomicAlignment { off: at });
    }
    Ok(())
}

fn context_offset(base: &Reg, off: i16) -> Result<i64, Rule> {
    base.fixed_off().map(|o| o + i64::from(off)).ok_or(Rule::ContextOffset)
}

/// A loaded value, sign-extended if asked for.
fn extend(mut reg: Reg, size: u8, signed: bool) -> Reg {
    if signed && size < 8 {
        let num = reg.num.sext(u32::from(size) * 8);
        if num != reg.num {
            reg.num = num;
            reg.id = 0;
            reg.off = 0;
            reg.origin = None;
        }
    }
    reg
}
