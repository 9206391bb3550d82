//! The checked mode: instructions read one by one from the program as it was linked, every
//! access checked, every step counted.
//!
//! It exists to keep the other executors and the verifier honest, so it shares with them
//! nothing that could be wrong in both: it has its own reading of the instruction set, its
//! own addresses (numbers that mean a region and an offset, never memory), and it knows which
//! registers and stack bytes were written. What the verifier claimed about an instruction is
//! held against what happens. There is no unsafe code in here, so that even a program that
//! nobody verified can do no harm.
#![forbid(unsafe_code)]

pub(super) mod alu;
mod helper;
mod memory;

use std::sync::Arc;

use super::insn::Insn;
use super::map::Map;
use super::program::Program;
use super::verifier::{Facts, Fuel, Region, Verified};
use memory::{Frame, MemoryState, Place};

/// The most functions that may be active at once, as in the kernel.
const MAX_FRAMES: usize = 8;

/// Why checked mode ended a program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("instruction {insn}: {reason}")]
pub struct Trap {
    /// Slot of the instruction.
    pub insn: usize,
    /// What was wrong.
    pub reason: Reason,
}

/// What a program did that it must not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// An access outside of everything, or across the end of something.
    #[error("an access of {size} bytes at {at} is out of bounds")]
    OutOfBounds {
        /// Where, in words.
        at: String,
        /// Bytes.
        size: usize,
    },
    /// A store to the message, the context or constant data.
    #[error("a store to {at}, which is read-only")]
    ReadOnly {
        /// Where, in words.
        at: String,
    },
    /// A read of stack bytes that were not written.
    #[error("a read of stack that was not written: {at}")]
    Uninitialised {
        /// Where, in words.
        at: String,
    },
    /// An atomic operation at an address that is not a multiple of its size.
    #[error("an atomic operation at an unaligned address: {at}")]
    Unaligned {
        /// Where, in words.
        at: String,
    },
    /// A read of a register that holds nothing.
    #[error("r{0} is read and was not written")]
    Register(u8),
    /// Not an instruction.
    #[error("{code:#04x} (source {src}, offset {off}, constant {imm}) is no instruction")]
    Opcode {
        /// Operation code.
        code: u8,
        /// Source field.
        src: u8,
        /// Offset field.
        off: i16,
        /// Constant.
        imm: i32,
    },
    /// Execution left the program.
    #[error("a jump or call to slot {0}, where no instruction starts")]
    Jump(i64),
    /// Too many active functions.
    #[error("more than {MAX_FRAMES} functions are active")]
    Frames,
    /// Not a helper.
    #[error("there is no helper {0}")]
    Helper(u32),
    /// A helper's argument is not what the helper takes.
    #[error("r{register} of helper {helper} is not {wanted}")]
    Argument {
        /// The helper.
        helper: u32,
        /// The register, 1-5.
        register: u8,
        /// What it must be.
        wanted: &'static str,
    },
    /// More steps than the limit.
    #[error("more than {0} steps")]
    Steps(u64),
    /// The program ended with a record reserved.
    #[error("the program ends and a ring-buffer record is still reserved")]
    Record,
    /// What the verifier claimed about this instruction is not so.
    #[error("the verifier claims that {0}")]
    Claim(String),
}

/// What a run is about.
pub(crate) struct Env<'a> {
    /// The message.
    pub(crate) msg: &'a [u8],
    /// The program's maps.
    pub(crate) maps: &'a [Arc<Map>],
    /// The connection's cookie.
    pub(crate) cookie: u64,
    /// The slot of per-CPU maps.
    pub(crate) slot: u32,
}

/// A program to be run in checked mode.
pub(crate) struct Machine {
    program: Program,
    facts: Option<Facts>,
    limit: u64,
}

/// Why a function did not return.
enum Stop {
    Trap(Reason),
    /// The whole program ends with this r0.
    End(u64),
}

impl From<Reason> for Stop {
    fn from(r: Reason) -> Self {
        Stop::Trap(r)
    }
}

type Run<T> = Result<T, Stop>;

impl Machine {
    pub(crate) fn new(verified: &Verified) -> Self {
        Machine {
            program: verified.program().clone(),
            facts: Some(verified.facts().clone()),
            limit: 1 << 40,
        }
    }

    /// A program that nobody verified: for tests of the verifier.
    #[cfg(test)]
    pub(crate) fn unverified(program: Program, limit: u64) -> Self {
        Machine { program, facts: None, limit }
    }

    /// The same, with another limit on steps.
    #[cfg(test)]
    pub(crate) fn limit(self, limit: u64) -> Self {
        Machine { limit, ..self }
    }

    /// Runs the program and returns r0.
    ///
    /// # Errors
    /// What it did that it must not, and where.
    pub(crate) fn run(&self, env: &Env<'_>) -> Result<u64, Trap> {
        self.run_counted(env).map(|(r0, _)| r0)
    }

    /// [`run`](Self::run), which also tells the steps it took.
    pub(crate) fn run_counted(&self, env: &Env<'_>) -> Result<(u64, u64), Trap> {
        let mut state = State {
            machine: self,
            env,
            memory: MemoryState::default(),
            regs: [None; 11],
            pc: 0,
            steps: 0,
            fuel: self.facts.as_ref().map_or(0, |f| f.budget),
        };
        state.regs[1] = Some(Place::Ctx.address(0));
        let msg = env.msg;
        let shown = Env { msg: &msg[..msg.len().min(i32::MAX as usize)], ..*env };
        state.env = &shown;
        let r0 = match state.function(0).and_then(|r0| Ok(r0.ok_or(Reason::Register(0))?)) {
            Ok(r0) if state.memory.reserved.is_empty() => r0,
            Ok(_) => return Err(Trap { insn: state.pc, reason: Reason::Record }),
            Err(Stop::End(r0)) => {
                state.abandon();
                r0
            }
            Err(Stop::Trap(reason)) => {
                state.abandon();
                return Err(Trap { insn: state.pc, reason });
            }
        };
        Ok((r0, state.steps))
    }

    fn func_of(&self, slot: usize) -> usize {
        self.program.funcs.partition_point(|f| f.start <= slot).saturating_sub(1)
    }
}

struct State<'a> {
    machine: &'a Machine,
    env: &'a Env<'a>,
    memory: MemoryState,
    regs: [Option<u64>; 11],
    pc: usize,
    steps: u64,
    fuel: u64,
}

fn claim<T>(what: impl Into<String>) -> Run<T> {
    Err(Stop::Trap(Reason::Claim(what.into())))
}

impl State<'_> {
    fn facts(&self) -> Option<&Facts> {
        self.machine.facts.as_ref()
    }

    fn get(&self, r: u8) -> Run<u64> {
        match self.regs.get(usize::from(r)) {
            Some(Some(v)) => Ok(*v),
            _ => Err(Reason::Register(r).into()),
        }
    }

    fn set(&mut self, r: u8, v: u64) -> Run<()> {
        match self.regs.get_mut(usize::from(r)) {
            // r10 cannot be written.
            Some(reg) if r < 10 => {
                *reg = Some(v);
                Ok(())
            }
            _ => Err(Reason::Register(r).into()),
        }
    }

    /// Runs the function that starts at a slot in a frame of its own, and puts r6-r10 back.
    fn function(&mut self, start: usize) -> Run<Option<u64>> {
        if self.memory.frames.len() >= MAX_FRAMES {
            return Err(Reason::Frames.into());
        }
        let size = match self.facts() {
            None => 512,
            Some(f) => {
                let size = f.frames.get(self.machine.func_of(start)).copied().unwrap_or(0);
                let below: usize = self.memory.frames.iter().map(|f| f.size).sum();
                if below + usize::from(size) > usize::from(f.stack_depth) {
                    return claim(format!("frames take at most {} bytes", f.stack_depth));
                }
                usize::from(size)
            }
        };
        let saved = self.regs;
        let back = self.pc;
        let frame = self.memory.frames.len();
        self.memory.frames.push(Frame::new(size));
        for r in [0, 6, 7, 8, 9] {
            self.regs[r] = None;
        }
        self.regs[10] = Some(Place::Stack(frame).address(memory::FRAME));
        self.pc = start;
        let r0 = self.steps()?;
        self.memory.frames.pop();
        self.pc = back;
        self.regs = saved;
        for r in 0..=5 {
            self.regs[r] = None;
        }
        Ok(r0)
    }

    /// Runs to the exit of the current function.
    fn steps(&mut self) -> Run<Option<u64>> {
        loop {
            self.steps += 1;
            if self.steps > self.machine.limit {
                return Err(Reason::Steps(self.machine.limit).into());
            }
            if let Some(f) = self.facts()
                && f.reached.get(self.pc) != Some(&true)
            {
                return claim("this instruction is never reached");
            }
            let Some(&i) = self.machine.program.insns.get(self.pc) else {
                return Err(Reason::Jump(self.pc as i64).into());
            };
            match i.code & 7 {
                0 => self.load_special(i)?,
                1 => self.load(i)?,
                2 | 3 => self.store(i)?,
                4 | 7 => self.alu(i)?,
                // A function that writes no r0 has no result: r0 is unwritten where it was called.
                _ if i.code == 0x95 => return Ok(self.regs[0]),
                _ => {
                    self.jump(i)?;
                    continue;
                }
            }
            self.pc += 1;
        }
    }

    fn no_instruction<T>(i: Insn) -> Run<T> {
        let Insn { code, src, off, imm, .. } = i;
        Err(Reason::Opcode { code, src, off, imm }.into())
    }

    fn load_special(&mut self, i: Insn) -> Run<()> {
        if i.code == 0x18 {
            let Some(second) = self.machine.program.insns.get(self.pc + 1) else {
                return Self::no_instruction(i);
            };
            let high = second.imm as u32;
            let map = i.imm as usize;
            let v = match i.src {
                0 => u64::from(high) << 32 | u64::from(i.imm as u32),
                1 if map < self.env.maps.len() => Place::Handle(map).address(0),
                2 if map < self.env.maps.len() => Place::Value(map).address(high as usize),
                4 => Place::Function(self.relative(i.imm.into())?).address(0),
                _ => return Self::no_instruction(i),
            };
            self.pc += 1;
            return self.set(i.dst, v);
        }
        // Legacy packet loads (RFC 9669 section 5.4; semantics B3).
        let size = match i.code & 0x18 {
            0x00 => 4,
            0x08 => 2,
            0x10 => 1,
            _ => return Self::no_instruction(i),
        };
        let base = match i.code & 0xe0 {
            0x20 => 0,
            0x40 => self.get(i.src)? as u32,
            _ => return Self::no_instruction(i),
        };
        if self.get(6)? != Place::Ctx.address(0) {
            return Err(Reason::OutOfBounds { at: "r6, not the context".into(), size }.into());
        }
        let from = base.wrapping_add(i.imm as u32);
        let in_message =
            i32::try_from(from).ok().and_then(|f| self.env.msg.get(f as usize..f as usize + size));
        let Some(bytes) = in_message else { return Err(Stop::End(0)) };
        let mut v = 0u64;
        for b in bytes {
            v = v * 256 + u64::from(*b);
        }
        for r in 1..=5 {
            self.regs[r] = None;
        }
        self.set(0, v)
    }

    /// The slot `by` after the next one, if an instruction of this program is there.
    fn relative(&self, by: i64) -> Run<usize> {
        let to = self.pc as i64 + 1 + by;
        match usize::try_from(to) {
            Ok(t) if t < self.machine.program.insns.len() => Ok(t),
            _ => Err(Reason::Jump(to).into()),
        }
    }

    /// Counts a jump that closes a loop, where termination is metered.
    fn burn(&mut self) -> Run<()> {
        if let Some(Facts { fuel: Fuel::Metered { back_edges }, .. }) = self.facts()
            && back_edges.contains(&self.pc)
        {
            match self.fuel.checked_sub(1) {
                Some(left) => self.fuel = left,
                None => return Err(Stop::End(-i64::from(libc::ELOOP) as u64)),
            }
        }
        Ok(())
    }

    fn jump(&mut self, i: Insn) -> Run<()> {
        let wide = i.code & 7 == 5;
        match (i.code, i.src) {
            (0x85, 0) => {
                self.helper(i.imm as u32)?;
                self.pc += 1;
                return Ok(());
            }
            (0x85, 1) => {
                let to = self.relative(i.imm.into())?;
                self.regs[0] = self.function(to)?;
                self.pc += 1;
                return Ok(());
            }
            (0x05, _) => {
                self.burn()?;
                self.pc = self.relative(i.off.into())?;
                return Ok(());
            }
            (0x06, _) => {
                self.burn()?;
                self.pc = self.relative(i.imm.into())?;
                return Ok(());
            }
            _ => {}
        }
        let a = self.get(i.dst)?;
        let b = if i.code & 8 != 0 { self.get(i.src)? } else { i64::from(i.imm) as u64 };
        let Some(jump) = alu::condition(i.code & 0xf0, wide, a, b) else {
            return Self::no_instruction(i);
        };
        if let Some(f) = self.facts() {
            let taken = f.taken.get(self.pc).copied().unwrap_or_default();
            if jump && !taken.jump {
                return claim("this jump is never taken");
            }
            if !jump && !taken.fall {
                return claim("this jump is always taken");
            }
        }
        self.burn()?;
        self.pc = if jump { self.relative(i.off.into())? } else { self.pc + 1 };
        Ok(())
    }

    fn alu(&mut self, i: Insn) -> Run<()> {
        let wide = i.code & 7 == 7;
        // One-operand forms use the source bit for something else.
        let b = match i.code & 0xf0 {
            0x80 | 0xd0 => i64::from(i.imm) as u64,
            _ if i.code & 8 != 0 => self.get(i.src)?,
            _ => i64::from(i.imm) as u64,
        };
        let a = if i.code & 0xf0 == 0xb0 { 0 } else { self.get(i.dst)? };
        match alu::compute(i, wide, a, b) {
            Some(v) => self.set(i.dst, v),
            None => Self::no_instruction(i),
        }
    }

    fn size(i: Insn) -> usize {
        match i.code & 0x18 {
            0x00 => 4,
            0x08 => 2,
            0x10 => 1,
            _ => 8,
        }
    }

    fn load(&mut self, i: Insn) -> Run<()> {
        let size = Self::size(i);
        let at = self.get(i.src)?.wrapping_add_signed(i.off.into());
        self.hold_claim(at)?;
        let v = self.read(at, size)?;
        let v = match (i.code & 0xe0, size) {
            (0x60, _) => v,
            (0x80, 1) => v as i8 as u64,
            (0x80, 2) => v as i16 as u64,
            (0x80, 4) => v as i32 as u64,
            _ => return Self::no_instruction(i),
        };
        self.set(i.dst, v)
    }

    fn store(&mut self, i: Insn) -> Run<()> {
        let size = Self::size(i);
        let at = self.get(i.dst)?.wrapping_add_signed(i.off.into());
        self.hold_claim(at)?;
        match (i.code & 7, i.code & 0xe0) {
            (2, 0x60) => self.write(at, size, i64::from(i.imm) as u64),
            (3, 0x60) => {
                let v = self.get(i.src)?;
                self.write(at, size, v)
            }
            (3, 0xc0) if size >= 4 => self.atomic(i, at, size),
            _ => Self::no_instruction(i),
        }
    }

    fn atomic(&mut self, i: Insn, at: u64, size: usize) -> Run<()> {
        let narrow = |v: u64| if size == 4 { u64::from(v as u32) } else { v };
        let b = narrow(self.get(i.src)?);
        let expect = if i.imm == 0xf1 { Some(narrow(self.get(0)?)) } else { None };
        let Some(f) = alu::atomic(i.imm, b, expect) else { return Self::no_instruction(i) };
        let was = self.update(at, size, f)?;
        match i.imm {
            0xf1 => self.set(0, was),
            op if op & 1 == 1 => self.set(i.src, was),
            _ => Ok(()),
        }
    }

    /// Holds what the verifier claimed of the current instruction's address against it.
    fn hold_claim(&self, at: u64) -> Run<()> {
        let Some(f) = self.facts() else { return Ok(()) };
        let frame = self.memory.frames.len().saturating_sub(1);
        let place = Place::of(at);
        let so = match (f.region.get(self.pc).copied().flatten(), place) {
            (Some(Region::Ctx { offset }), Some((Place::Ctx, o))) => usize::from(offset) == o,
            (Some(Region::Packet), Some((Place::Packet, _))) => true,
            (Some(Region::Stack { offset: Some(o) }), Some((Place::Stack(n), at))) => {
                n == frame && at as i64 - memory::FRAME as i64 == i64::from(o)
            }
            (Some(Region::Stack { offset: None }), Some((Place::Stack(_), _))) => true,
            (Some(Region::MapValue { map }), Some((Place::Value(m), _))) => map as usize == m,
            (Some(Region::Record), Some((Place::Record(_), _))) => true,
            (Some(Region::Mixed), Some((p, _))) => p != Place::Ctx,
            _ => false,
        };
        if so {
            return Ok(());
        }
        let is = memory::describe(at);
        claim(format!("the address is in {:?}, it is {is}", f.region.get(self.pc)))
    }
}

#[cfg(test)]
mod tests;
