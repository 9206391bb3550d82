//! What a proof may come to need later of a function's registers and stack: found from its
//! instructions alone, before any path is walked.
//!
//! Where loops are widened, what is not needed is forgotten where paths join, so that states
//! which differ in it are one. Forgetting is sound whatever is said here: at worst a proof is
//! missed that a walk without it finds.

use super::{
    state::{STACK_SIZE, full_slots, slots},
    structure::Code,
};
use crate::bpf::{
    decode::{Ins, Op, Operand, Wide},
    helpers::{self, Arg},
    map::MapDef,
    program::Program,
};

/// What is needed before an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Need {
    /// Registers whose number bounds an access, decides when a loop ends, or may be an address.
    pub(super) numbers: u16,
    /// Stack slots (bits) that are read before they are written.
    pub(super) live: u64,
    /// Of those, the ones whose numbers are needed.
    pub(super) stack_numbers: u64,
}

impl Need {
    const NOTHING: Need = Need { numbers: 0, live: 0, stack_numbers: 0 };
    const ALL: Need = Need { numbers: u16::MAX, live: u64::MAX, stack_numbers: u64::MAX };

    fn join(self, o: Need) -> Need {
        Need {
            numbers: self.numbers | o.numbers,
            live: self.live | o.live,
            stack_numbers: self.stack_numbers | o.stack_numbers,
        }
    }
}

/// What a register can be, as far as the instructions alone tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Nothing came here yet.
    None,
    Const(i64),
    Number,
    Ctx,
    /// A number or an address, but not in this frame.
    Elsewhere,
    /// This far from the frame's top.
    Own(i64),
    Any,
}

impl What {
    fn join(self, o: What) -> What {
        use What::*;
        match (self, o) {
            (a, b) if a == b => a,
            (None, a) | (a, None) => a,
            (Const(_) | Number, Const(_) | Number) => Number,
            (Own(_) | Any, _) | (_, Own(_) | Any) => Any,
            _ => Elsewhere,
        }
    }

    fn is_number(self) -> bool {
        matches!(self, What::None | What::Const(_) | What::Number)
    }

    fn in_frame(self) -> bool {
        matches!(self, What::Own(_) | What::Any)
    }

    fn add(self, o: What, sign: i64) -> What {
        use What::*;
        match (self, o) {
            (None, _) | (_, None) => None,
            (Const(a), Const(b)) => Const(a.wrapping_add(b.wrapping_mul(sign))),
            (Own(a), Const(b)) => Own(a.wrapping_add(b.wrapping_mul(sign))),
            (Const(b), Own(a)) if sign == 1 => Own(a.wrapping_add(b)),
            (a, b) if a.is_number() && b.is_number() => Number,
            (a, b) if a.in_frame() || b.in_frame() => Any,
            _ => Elsewhere,
        }
    }
}

type Regs = [What; 11];

/// Back edges times instructions that loops are looked for in.
const MOST: usize = 1 << 22;

/// What is needed before each instruction of the program; `ends`: also what decides when its
/// loops end.
pub(super) fn needs(program: &Program, code: &Code, ends: bool) -> Vec<Need> {
    let mut out = vec![Need::NOTHING; code.ins.len()];
    let exits = if ends { loop_exits(code) } else { vec![false; code.ins.len()] };
    for (i, f) in program.funcs.iter().enumerate() {
        let end = program.funcs.get(i + 1).map_or(code.ins.len(), |f| f.start);
        let range = f.start..end;
        // A function that is called may read and write this one's frame.
        let calls = range.clone().any(|at| match code.ins[at] {
            Ins::CallLocal { .. } => true,
            Ins::Call { helper } => helper == super::BPF_LOOP,
            _ => false,
        });
        if calls {
            out[range].fill(Need::ALL);
            continue;
        }
        let what = Forward { code, range: range.clone(), main: i == 0 }.run();
        Backward { code, maps: &program.maps, range, main: i == 0, what: &what, exits: &exits }
            .run(&mut out);
    }
    out
}

/// Where execution goes from here, within the function.
fn successors(code: &Code, at: usize) -> [Option<usize>; 2] {
    match code.ins[at] {
        Ins::Second | Ins::Exit => [None, None],
        Ins::Ja { target } => [Some(target), None],
        Ins::Jmp { target, .. } => [Some(target), Some(at + 1)],
        _ => [Some(code.next(at)), None],
    }
}

/// Conditional jumps that may leave a loop.
fn loop_exits(code: &Code) -> Vec<bool> {
    let n = code.ins.len();
    let backs: Vec<(usize, usize)> = (0..n)
        .filter_map(|at| match code.ins[at] {
            Ins::Ja { target } | Ins::Jmp { target, .. } if target <= at => Some((at, target)),
            _ => None,
        })
        .collect();
    if backs.len() * n > MOST {
        return vec![true; n];
    }
    let mut before = vec![Vec::new(); n];
    for at in 0..n {
        for to in successors(code, at).into_iter().flatten().filter(|to| *to < n) {
            before[to].push(at);
        }
    }
    let mut exits = vec![false; n];
    let mut inside = vec![false; n];
    for (from, head) in backs {
        inside.fill(false);
        inside[head] = true;
        let mut work = vec![from];
        while let Some(at) = work.pop() {
            if !std::mem::replace(&mut inside[at], true) {
                work.extend_from_slice(&before[at]);
            }
        }
        for at in (0..n).filter(|at| inside[*at]) {
            if let [Some(a), Some(b)] = successors(code, at) {
                exits[at] |= inside[a] != inside.get(b).copied().unwrap_or(false);
            }
        }
    }
    exits
}

/// What registers can be before each instruction of a function.
struct Forward<'a> {
    code: &'a Code,
    range: std::ops::Range<usize>,
    main: bool,
}

impl Forward<'_> {
    fn run(&self) -> Vec<Regs> {
        let mut regs = vec![[What::None; 11]; self.range.len()];
        // What was ever stored to each slot, whole.
        let mut stored = [What::None; 64];
        let first = &mut regs[0];
        first[1..=5].fill(What::Elsewhere);
        if self.main {
            first[1] = What::Ctx;
        }
        first[10] = What::Own(0);
        loop {
            let mut changed = false;
            for at in self.range.clone() {
                let before = regs[at - self.range.start];
                if before[10] == What::None {
                    continue;
                }
                let after = self.step(at, before, &mut stored, &mut changed);
                for to in successors(self.code, at).into_iter().flatten() {
                    let Some(there) =
                        to.checked_sub(self.range.start).and_then(|i| regs.get_mut(i))
                    else {
                        continue;
                    };
                    for (old, new) in there.iter_mut().zip(after) {
                        let joined = old.join(new);
                        changed |= joined != *old;
                        *old = joined;
                    }
                }
            }
            if !changed {
                return regs;
            }
        }
    }

    fn step(&self, at: usize, mut r: Regs, stored: &mut [What; 64], changed: &mut bool) -> Regs {
        let operand = |r: &Regs, o: Operand| match o {
            Operand::Reg(s) => r[usize::from(s)],
            Operand::Imm(i) => What::Const(i64::from(i)),
        };
        let mut store = |slot: usize, what: What| {
            let joined = stored[slot].join(what);
            *changed |= joined != stored[slot];
            stored[slot] = joined;
        };
        match self.code.ins[at] {
            Ins::Alu { op: op @ (Op::Add | Op::Sub), is32: false, dst, src } => {
                let by = operand(&r, src);
                let sign = if op == Op::Add { 1 } else { -1 };
                r[usize::from(dst)] = r[usize::from(dst)].add(by, sign);
            }
            Ins::Alu { dst, .. } | Ins::Neg { dst, .. } | Ins::End { dst, .. } => {
                r[usize::from(dst)] = What::Number;
            }
            Ins::Movsx { dst, .. } | Ins::Mov { is32: true, dst, src: Operand::Reg(_) } => {
                r[usize::from(dst)] = What::Number;
            }
            Ins::Mov { is32: true, dst, src: Operand::Imm(i) } => {
                r[usize::from(dst)] = What::Const(i64::from(i as u32));
            }
            Ins::Mov { dst, src, .. } => r[usize::from(dst)] = operand(&r, src),
            Ins::Wide { dst, what } => {
                r[usize::from(dst)] = match what {
                    Wide::Imm(v) => What::Const(v as i64),
                    _ => What::Elsewhere,
                };
            }
            Ins::Load { size, dst, src, off, .. } => {
                r[usize::from(dst)] = match r[usize::from(src)] {
                    What::Ctx if matches!(off, 76 | 80) => What::Elsewhere,
                    What::Own(c) if size == 8 => {
                        slot_of(c + i64::from(off)).map_or(What::Number, |s| match stored[s] {
                            What::None | What::Const(_) => What::Number,
                            what => what,
                        })
                    }
                    What::Any if size == 8 => stored.iter().fold(What::Number, |a, b| a.join(*b)),
                    What::Elsewhere if size == 8 && !self.main => What::Elsewhere,
                    _ => What::Number,
                };
            }
            Ins::Store { size: 8, dst, off, src } => match r[usize::from(dst)] {
                What::Own(c) => {
                    if let Some(slot) = slot_of(c + i64::from(off)) {
                        store(slot, operand(&r, src));
                    }
                }
                What::Any => {
                    let what = operand(&r, src);
                    (0..64).for_each(|slot| store(slot, what));
                }
                _ => {}
            },
            Ins::Atomic { dst: _, src, .. } => {
                r[usize::from(src)] = r[usize::from(src)].join(What::Number);
                r[0] = r[0].join(What::Number);
            }
            Ins::Packet { .. } => {
                r[0] = What::Number;
                r[1..=5].fill(What::Elsewhere);
            }
            Ins::Call { .. } => r[..=5].fill(What::Elsewhere),
            _ => {}
        }
        r
    }
}

/// The aligned slot at an offset from the frame's top.
fn slot_of(off: i64) -> Option<usize> {
    let at = STACK_SIZE.checked_add(off)?;
    (at % 8 == 0 && (0..STACK_SIZE).contains(&at)).then_some(at as usize / 8)
}

/// The part within the frame of `size` bytes at an offset from its top: first byte and length.
fn span(off: i64, size: i64) -> (usize, usize) {
    let from = (STACK_SIZE.saturating_add(off)).clamp(0, STACK_SIZE);
    let to = (STACK_SIZE.saturating_add(off).saturating_add(size)).clamp(from, STACK_SIZE);
    (from as usize, (to - from) as usize)
}

/// What is needed, from the end of a function to its start.
struct Backward<'a> {
    code: &'a Code,
    maps: &'a [MapDef],
    range: std::ops::Range<usize>,
    main: bool,
    what: &'a [Regs],
    exits: &'a [bool],
}

impl Backward<'_> {
    fn run(&self, out: &mut [Need]) {
        let mut changed = true;
        while changed {
            changed = false;
            for at in self.range.clone().rev() {
                let mut after = Need::NOTHING;
                for to in successors(self.code, at).into_iter().flatten() {
                    if self.range.contains(&to) {
                        after = after.join(out[to]);
                    }
                }
                let before = self.before(at, after);
                if before != out[at] {
                    out[at] = before;
                    changed = true;
                }
            }
        }
    }

    fn what(&self, at: usize, r: u8) -> What {
        self.what[at - self.range.start][usize::from(r)]
    }

    fn before(&self, at: usize, mut n: Need) -> Need {
        let bit = |r: u8| 1u16 << r;
        let reg = |o: Operand| if let Operand::Reg(r) = o { bit(r) } else { 0 };
        let wanted = |n: &Need, r: u8| n.numbers >> r & 1 == 1;
        match self.code.ins[at] {
            // The result is of the two, and what is needed of it is needed of them.
            Ins::Alu { dst, src, .. } if wanted(&n, dst) => n.numbers |= reg(src),
            Ins::Mov { dst, src, .. } => {
                let needed = wanted(&n, dst);
                n.numbers &= !bit(dst);
                if needed {
                    n.numbers |= reg(src);
                }
            }
            Ins::Movsx { dst, src, .. } => {
                let needed = wanted(&n, dst);
                n.numbers &= !bit(dst);
                if needed {
                    n.numbers |= bit(src);
                }
            }
            Ins::Wide { dst, .. } => n.numbers &= !bit(dst),
            Ins::Load { size, dst, src, off, .. } => {
                let needed = wanted(&n, dst);
                n.numbers &= !bit(dst);
                n.numbers |= bit(src);
                let read = self.touched(at, src, i64::from(off), Some(i64::from(size)));
                n.live |= read;
                if needed {
                    n.stack_numbers |= read;
                }
            }
            Ins::Store { size, dst, off, src } => {
                let touched = self.touched(at, dst, i64::from(off), Some(i64::from(size)));
                if n.stack_numbers & touched != 0 {
                    n.numbers |= reg(src);
                }
                self.written(at, dst, i64::from(off), i64::from(size), &mut n);
                n.numbers |= bit(dst);
            }
            Ins::Atomic { size, dst, off, .. } => {
                n.live |= self.touched(at, dst, i64::from(off), Some(i64::from(size)));
                n.numbers |= bit(dst);
            }
            Ins::Packet { .. } => n.numbers &= !0x3f,
            Ins::Jmp { is32, dst, src, .. } => {
                let both = bit(dst) | reg(src);
                let addresses = !is32
                    && match src {
                        Operand::Reg(s) => {
                            !(self.what(at, dst).is_number() && self.what(at, s).is_number())
                        }
                        Operand::Imm(_) => false,
                    };
                if self.exits[at] || addresses || n.numbers & both != 0 {
                    n.numbers |= both;
                }
            }
            Ins::Call { helper } => self.call(at, helper, &mut n),
            // The main function's result may be any number.
            Ins::Exit if !self.main => n.numbers |= 1,
            _ => {}
        }
        n
    }

    fn call(&self, at: usize, helper: u32, n: &mut Need) {
        n.numbers &= !0x3f;
        let args = helpers::proto_of(helper).map_or(&[][..], |p| p.args);
        let size_of = |i: usize| match self.what(at, i as u8 + 2) {
            What::Const(c) => Some(c),
            _ => None,
        };
        let map = |of: fn(&MapDef) -> u32| {
            // Which map it is is not known here: the largest it can be.
            self.maps.iter().map(|m| i64::from(of(m))).max()
        };
        for (i, arg) in args.iter().enumerate() {
            let r = i as u8 + 1;
            let read = match arg {
                Arg::Number | Arg::Ctx => continue,
                Arg::Key => Some(map(|m| m.key_size)),
                Arg::Value => Some(map(|m| m.value_size)),
                Arg::Read | Arg::ReadOrNull => Some(size_of(i)),
                _ => None,
            };
            n.numbers |= 1 << r;
            if let Some(size) = read {
                n.live |= self.touched(at, r, 0, size);
            } else if let (Arg::Write, Some(size)) = (arg, size_of(i)) {
                self.written(at, r, 0, size, n);
            }
        }
    }

    /// The slots that an access may touch.
    fn touched(&self, at: usize, base: u8, off: i64, size: Option<i64>) -> u64 {
        match self.what(at, base) {
            What::Own(c) => {
                let (from, len) = span(c.saturating_add(off), size.unwrap_or(STACK_SIZE));
                slots(from, len)
            }
            What::Any => u64::MAX,
            _ => 0,
        }
    }

    /// The slots that an access writes in full are not needed before it.
    fn written(&self, at: usize, base: u8, off: i64, size: i64, n: &mut Need) {
        if let What::Own(c) = self.what(at, base) {
            let (from, len) = span(c.saturating_add(off), size);
            let full = full_slots(from, len);
            n.live &= !full;
            n.stack_numbers &= !full;
        }
    }
}
