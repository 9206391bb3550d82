//! What is accepted and what is not: from assembler text to the exact error.

mod accepted;
mod display;
mod fooled;
mod pruning;
mod rules;
mod running;
mod weakened;

use super::*;
use crate::bpf::{asm, map::MapDef, program::ProgramKind};

/// The maps that tests have: an array, read-only data, a ring buffer, a hash with 8-byte keys,
/// a perf event array, an array that programs may only write, a hash that they may only read.
fn maps() -> Vec<MapDef> {
    let mut rodata = MapDef::new(".rodata", 2, 4, 16, 1);
    rodata.flags = 1 << 7;
    rodata.initial = Some(b"\x07\0\0\0\xff\xfe\xfd\xfcabc\0wxyz".to_vec());
    let mut written = MapDef::new("written", 2, 4, 16, 1);
    written.flags = 1 << 8;
    let mut looked_up = MapDef::new("looked_up", 1, 4, 16, 8);
    looked_up.flags = 1 << 7;
    vec![
        MapDef::new("array", 2, 4, 16, 8),
        rodata,
        MapDef::new("ring", 27, 0, 0, 4096),
        MapDef::new("hash", 1, 8, 12, 64),
        MapDef::new("perf", 4, 4, 4, 2),
        written,
        looked_up,
    ]
}

fn program(kind: ProgramKind, text: &str) -> Program {
    asm::program(text, kind, maps()).unwrap_or_else(|e| panic!("{e}"))
}

fn check_as(kind: ProgramKind, text: &str) -> Result<Verified, Box<VerifyError>> {
    verify(program(kind, text), &Options::default())
}

/// Accepts a stream parser.
#[track_caller]
fn accept(text: &str) -> Facts {
    match check_as(ProgramKind::StreamParser, text) {
        Ok(v) => v.facts().clone(),
        Err(e) => panic!("rejected: {e}"),
    }
}

/// Rejects a stream parser, with this rule at this slot.
#[track_caller]
fn reject(text: &str, insn: usize, rule: Rule) {
    reject_as(ProgramKind::StreamParser, text, insn, rule);
}

#[track_caller]
fn reject_as(kind: ProgramKind, text: &str, insn: usize, rule: Rule) {
    match check_as(kind, text) {
        Ok(_) => panic!("accepted, but {rule}"),
        Err(e) => assert_eq!((e.insn, &e.rule), (insn, &rule), "{e}"),
    }
}
