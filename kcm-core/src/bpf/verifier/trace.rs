//! An annotated listing: what was known before each instruction, over all visits.

use std::fmt::Write as _;

use super::state::{Kind, Reg};
use crate::bpf::{disasm, program::Program};

/// What exploration saw, by instruction.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    visits: Vec<u64>,
    regs: Vec<[Option<Reg>; 10]>,
}

impl Trace {
    /// How often the instruction in this slot was explored.
    pub fn visits(&self, insn: usize) -> u64 {
        self.visits.get(insn).copied().unwrap_or(0)
    }

    /// The program's listing with, before each instruction, how often it was explored and what
    /// its registers held (the union over all visits; `varies` where kinds differ).
    pub fn render(&self, program: &Program) -> String {
        let mut out = String::new();
        let mut line = None;
        let mut at = 0;
        while at < program.insns.len() {
            if let Some(f) = program.funcs.iter().find(|f| f.start == at) {
                let _ =
                    writeln!(out, "{}:", if f.name.is_empty() { "<function>" } else { &f.name });
            }
            if let Some(l) = program.line_of(at)
                && line != Some((l.file.clone(), l.line))
            {
                line = Some((l.file.clone(), l.line));
                let _ = writeln!(out, "; {}:{} {}", l.file, l.line, l.text.trim());
            }
            let visits = self.visits(at);
            let _ = write!(out, "{at:5}: {:<44}", disasm::disassemble(&program.insns, at));
            if visits == 0 {
                let _ = writeln!(out, " ; dead");
            } else {
                let _ = write!(out, " ; {visits}x");
                for (r, reg) in self.regs[at].iter().enumerate() {
                    match reg {
                        Some(reg) if reg.kind == Kind::Uninit => {}
                        Some(reg) => {
                            let _ = write!(out, " r{r}={{{reg}}}");
                        }
                        None => {
                            let _ = write!(out, " r{r}={{varies}}");
                        }
                    }
                }
                out.push('\n');
            }
            at += if program.insns[at].code == 0x18 { 2 } else { 1 };
        }
        out
    }

    pub(super) fn start(&mut self, insns: usize) {
        self.visits = vec![0; insns];
        self.regs = vec![[None; 10]; insns];
    }

    pub(super) fn visit(&mut self, at: usize, regs: &[Reg; 11]) {
        let first = self.visits[at] == 0;
        self.visits[at] += 1;
        for (slot, new) in self.regs[at].iter_mut().zip(regs) {
            if first {
                *slot = Some(*new);
            } else if let Some(old) = slot {
                *slot = union(old, new);
            }
        }
    }
}

fn union(a: &Reg, b: &Reg) -> Option<Reg> {
    if a.kind != b.kind || (a.kind.is_pointer() && a.off != b.off) {
        return None;
    }
    Some(Reg { num: a.num.union(&b.num), range: a.range.min(b.range), ..*a })
}
