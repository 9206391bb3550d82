//! A linked program that nobody has verified yet.

use std::sync::Arc;

use super::{insn::Insn, map::MapDef};

/// What kind of program the section name says this is; it decides the context fields and
/// helpers that the verifier allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProgramKind {
    /// `socket*`, the kernel documentation's `socket_kcm` included: what `SIOCKCMATTACH` takes.
    SocketFilter,
    /// `sk_skb/stream_parser*`.
    StreamParser,
    /// `sk_skb/stream_parser/kernel`: a stream parser's form for the kernel engine, where the
    /// message starts anywhere in the socket buffer.
    KernelParser,
    /// `sk_skb/stream_verdict*`: only the kernel engine runs these.
    StreamVerdict,
}

impl ProgramKind {
    /// Whether [`Parser::load`](crate::Parser::load) takes such programs; the others are for
    /// the kernel engine.
    pub fn is_parser(self) -> bool {
        matches!(self, ProgramKind::SocketFilter | ProgramKind::StreamParser)
    }
}

/// A function of the program (the main one first, then bpf-to-bpf callees).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Func {
    /// Index of its first instruction slot.
    pub start: usize,
    /// Its symbol name, or `""`.
    pub name: String,
}

/// Where instructions from `insn` on come from (BTF line info).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Index of the first instruction slot of this line.
    pub insn: usize,
    /// Source file, as the compiler was told.
    pub file: Arc<str>,
    /// 1-based line.
    pub line: u32,
    /// 1-based column, 0 if unknown.
    pub column: u32,
    /// The text of the line, or `""`.
    pub text: Arc<str>,
}

/// A program with its calls and map references linked, not yet verified. It can be looked at
/// and verified, never run.
///
/// Encodings fixed by linking: `LDDW src=1` has the index into [`maps`](Self::maps) in `imm`
/// (the map itself); `LDDW src=2` has that index in `imm` and an offset into the map's single
/// value in the next slot's `imm`; `CALL src=1` has a relative target in `imm`; `LDDW src=4`
/// (a function's address, for `bpf_loop`) has a relative target in `imm` as `CALL` has.
#[derive(Clone, Debug)]
pub struct Program {
    /// The program's name (its function's symbol).
    pub name: String,
    /// Its kind.
    pub kind: ProgramKind,
    /// All instruction slots, functions one after another.
    pub insns: Vec<Insn>,
    /// Functions by ascending start; the first starts at 0.
    pub funcs: Vec<Func>,
    /// The maps that `LDDW` instructions name by index.
    pub maps: Vec<MapDef>,
    /// Line information by ascending `insn`; may be empty.
    pub lines: Vec<Line>,
    /// The object's license section, or `""`.
    pub license: String,
}

impl Program {
    /// The source line of an instruction slot, where the object says so.
    pub fn line_of(&self, insn: usize) -> Option<&Line> {
        let n = self.lines.partition_point(|l| l.insn <= insn);
        n.checked_sub(1).map(|i| &self.lines[i])
    }
}
