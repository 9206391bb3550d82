//! Checks that need no knowledge of values, and what the control flow alone tells: functions,
//! joins, loop heads, and which registers are still needed where.

use super::error::Rule;
use crate::bpf::{
    decode::{AtomicOp, Ins, Operand, Wide, decode},
    helpers,
    program::{Program, ProgramKind},
};

/// Slots a program may have.
pub(super) const MAX_INSNS: usize = 1 << 16;
/// Functions a program may have (the kernel's limit).
const MAX_FUNCS: usize = 256;

/// A program whose structure is sound.
pub(super) struct Code {
    pub(super) ins: Vec<Ins>,
    /// The function of each slot.
    pub(super) func_of: Vec<u32>,
    /// Where paths come together: states are kept and compared here.
    pub(super) join: Vec<bool>,
    /// Targets of backward jumps, and `bpf_loop` calls.
    pub(super) head: Vec<bool>,
    /// Registers (bits) that are read later, before they are written.
    pub(super) live: Vec<u16>,
    /// Calls of functions: (slot, caller, callee), callbacks included.
    pub(super) calls: Vec<(usize, u32, u32)>,
}

type Fault = (usize, Rule);

impl Code {
    pub(super) fn check(program: &Program) -> Result<Code, Fault> {
        check_size(program)?;
        check_kind(program)?;
        check_functions(program)?;
        let ins = decode(&program.insns).map_err(|(at, e)| (at, Rule::Encoding(e)))?;
        let func_of = functions(program, ins.len());
        let mut code = Code {
            join: vec![false; ins.len()],
            head: vec![false; ins.len()],
            live: vec![0; ins.len()],
            calls: Vec::new(),
            ins,
            func_of,
        };
        check_wide(program, &code)?;
        check_jumps(&code)?;
        check_ends(program, &code)?;
        check_maps(program, &code)?;
        code.calls = check_calls(program, &code)?;
        check_recursion(program, &code)?;
        code.find_joins();
        code.find_live();
        Ok(code)
    }

    /// The slot after the instruction at `at`.
    pub(super) fn next(&self, at: usize) -> usize {
        at + if matches!(self.ins[at], Ins::Wide { .. }) { 2 } else { 1 }
    }

    /// Jumps that go backwards: every loop has at least one.
    pub(super) fn back_edge(&self, at: usize) -> bool {
        match self.ins[at] {
            Ins::Ja { target } | Ins::Jmp { target, .. } => target <= at,
            Ins::Call { helper } => helper == super::BPF_LOOP,
            _ => false,
        }
    }

    fn find_joins(&mut self) {
        let mut entries = vec![0u8; self.ins.len()];
        for at in 0..self.ins.len() {
            let mut to = |t: usize| {
                if let Some(n) = entries.get_mut(t) {
                    *n = n.saturating_add(1);
                }
            };
            match self.ins[at] {
                Ins::Second | Ins::Exit => {}
                Ins::Ja { target } => to(target),
                Ins::Jmp { target, .. } => {
                    to(target);
                    to(at + 1);
                }
                _ => to(self.next(at)),
            }
            if let Ins::Ja { target } | Ins::Jmp { target, .. } = self.ins[at]
                && target <= at
            {
                self.head[target] = true;
            }
            if matches!(self.ins[at], Ins::Call { helper } if helper == super::BPF_LOOP) {
                self.head[at] = true;
            }
        }
        for (at, n) in entries.iter().enumerate() {
            self.join[at] = *n > 1 || self.head[at];
        }
    }

    fn find_live(&mut self) {
        let mut changed = true;
        while changed {
            changed = false;
            for at in (0..self.ins.len()).rev() {
                let after = |t: usize| self.live.get(t).copied().unwrap_or(0);
                let out = match self.ins[at] {
                    Ins::Second => continue,
                    Ins::Exit => 0,
                    Ins::Ja { target } => after(target),
                    Ins::Jmp { target, .. } => after(target) | after(at + 1),
                    _ => after(self.next(at)),
                };
                let (uses, defs) = uses_defs(&self.ins[at]);
                let live = uses | (out & !defs);
                if live != self.live[at] {
                    self.live[at] = live;
                    changed = true;
                }
            }
        }
    }
}

/// Registers an instruction reads, as bits.
pub(super) fn registers_read(ins: &Ins) -> u16 {
    uses_defs(ins).0
}

/// Registers an instruction reads and writes, as bits.
fn uses_defs(ins: &Ins) -> (u16, u16) {
    let bit = |r: u8| 1u16 << r;
    let op = |o: Operand| match o {
        Operand::Reg(r) => bit(r),
        Operand::Imm(_) => 0,
    };
    match *ins {
        Ins::Alu { dst, src, .. } => (bit(dst) | op(src), bit(dst)),
        Ins::Mov { dst, src, .. } => (op(src), bit(dst)),
        Ins::Movsx { dst, src, .. } | Ins::Load { dst, src, .. } => (bit(src), bit(dst)),
        Ins::Neg { dst, .. } | Ins::End { dst, .. } => (bit(dst), bit(dst)),
        Ins::Wide { dst, .. } => (0, bit(dst)),
        Ins::Second | Ins::Ja { .. } => (0, 0),
        Ins::Store { dst, src, .. } => (bit(dst) | op(src), 0),
        Ins::Atomic { op, fetch, dst, src, .. } => match op {
            AtomicOp::Cmpxchg => (bit(dst) | bit(src) | 1, 1),
            _ => (bit(dst) | bit(src), if fetch { bit(src) } else { 0 }),
        },
        Ins::Packet { index, .. } => (bit(6) | index.map_or(0, bit), 0x3f),
        Ins::Jmp { dst, src, .. } => (bit(dst) | op(src), 0),
        Ins::Call { helper } => {
            let n = helpers::proto_of(helper).map_or(5, |p| p.args.len());
            (((1 << n) - 1) << 1, 0x3f)
        }
        Ins::CallLocal { .. } => (0x3e, 0x3f),
        Ins::Exit => (1, 0),
    }
}

fn check_size(program: &Program) -> Result<(), Fault> {
    match program.insns.len() {
        0 => Err((0, Rule::Empty)),
        insns if insns > MAX_INSNS => Err((0, Rule::TooLong { insns, limit: MAX_INSNS })),
        _ => Ok(()),
    }
}

fn check_kind(program: &Program) -> Result<(), Fault> {
    match program.kind {
        ProgramKind::SocketFilter | ProgramKind::StreamParser => Ok(()),
        ProgramKind::StreamVerdict | ProgramKind::KernelParser => Err((0, Rule::ProgramKind)),
    }
}

fn check_functions(program: &Program) -> Result<(), Fault> {
    let f = &program.funcs;
    let sound = f.len() <= MAX_FUNCS
        && f.first().is_some_and(|f| f.start == 0)
        && f.windows(2).all(|w| w[0].start < w[1].start)
        && f.last().is_some_and(|f| f.start < program.insns.len());
    if sound { Ok(()) } else { Err((0, Rule::FunctionTable)) }
}

fn functions(program: &Program, len: usize) -> Vec<u32> {
    let mut out = vec![0; len];
    for (i, f) in program.funcs.iter().enumerate() {
        out[f.start..].fill(i as u32);
    }
    out
}

fn check_wide(program: &Program, code: &Code) -> Result<(), Fault> {
    for f in &program.funcs {
        if code.ins[f.start] == Ins::Second {
            return Err((f.start, Rule::FunctionTable));
        }
    }
    Ok(())
}

fn check_jumps(code: &Code) -> Result<(), Fault> {
    for (at, ins) in code.ins.iter().enumerate() {
        if let Ins::Ja { target } | Ins::Jmp { target, .. } = *ins {
            if code.func_of[target] != code.func_of[at] {
                return Err((at, Rule::JumpOutOfFunction { target }));
            }
            if code.ins[target] == Ins::Second {
                return Err((at, Rule::JumpIntoWide { target }));
            }
        }
    }
    Ok(())
}

fn check_ends(program: &Program, code: &Code) -> Result<(), Fault> {
    let ends = program.funcs.iter().skip(1).map(|f| f.start).chain([code.ins.len()]);
    for end in ends {
        // `end` is at least 1: functions are not empty.
        if !matches!(code.ins[end - 1], Ins::Exit | Ins::Ja { .. }) {
            return Err((end - 1, Rule::FallsOffEnd));
        }
    }
    Ok(())
}

fn check_maps(program: &Program, code: &Code) -> Result<(), Fault> {
    for (at, ins) in code.ins.iter().enumerate() {
        let Ins::Wide { what, .. } = *ins else { continue };
        let (Wide::Map(map) | Wide::MapValue { map, .. }) = what else { continue };
        let Some(def) = program.maps.get(map as usize) else {
            return Err((at, Rule::NoSuchMap { map }));
        };
        if let Wide::MapValue { offset, .. } = what {
            // One past the end is no access yet: compilers form such addresses.
            let array = def.kind == super::MAP_ARRAY && def.max_entries >= 1;
            if !array || offset > def.value_size {
                return Err((at, Rule::MapValueOffset { map, offset }));
            }
        }
    }
    Ok(())
}

fn check_calls(program: &Program, code: &Code) -> Result<Vec<(usize, u32, u32)>, Fault> {
    let mut calls = Vec::new();
    for (at, ins) in code.ins.iter().enumerate() {
        let (Ins::CallLocal { target } | Ins::Wide { what: Wide::Func(target), .. }) = *ins else {
            continue;
        };
        match program.funcs.binary_search_by_key(&target, |f| f.start) {
            Ok(callee) => calls.push((at, code.func_of[at], callee as u32)),
            Err(_) => return Err((at, Rule::NotAFunction { target })),
        }
    }
    Ok(calls)
}

fn check_recursion(program: &Program, code: &Code) -> Result<(), Fault> {
    // Functions whose callees are all known to end are known to end; what is left is a circle.
    let n = program.funcs.len();
    let mut ends = vec![false; n];
    loop {
        let mut changed = false;
        for f in 0..n {
            if !ends[f]
                && code.calls.iter().all(|&(_, from, to)| from as usize != f || ends[to as usize])
            {
                ends[f] = true;
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    // Of those, a call that its callee leads back to.
    let leads_back = |from: u32, to: u32| {
        let (mut seen, mut work) = (vec![false; n], vec![to]);
        while let Some(f) = work.pop() {
            if f == from {
                return true;
            }
            if !std::mem::replace(&mut seen[f as usize], true) {
                work.extend(code.calls.iter().filter(|c| c.1 == f).map(|c| c.2));
            }
        }
        false
    };
    let circle =
        code.calls.iter().find(|&&(_, from, to)| !ends[to as usize] && leads_back(from, to));
    match circle {
        Some(&(at, ..)) => Err((at, Rule::Recursion)),
        None => Ok(()),
    }
}
