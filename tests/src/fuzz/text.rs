//! Programs and messages as text files, for cases that are kept.
//!
//! ```text
//! expect PacketBounds              the rule it must be refused for, or: accepted
//! kind socket_filter
//! map array 2 4 24 5 0            name, kind, key, value, entries, flags, perhaps initial bytes
//! func 0 main
//! insn bf16000000000000           # r6 = r1
//! message 0102ff
//! asm                             instead of insn: the rest of the file is assembler text
//! ```

use std::fmt::Write;

use kcm_core::bpf::asm;
use kcm_core::bpf::disasm;
use kcm_core::bpf::insn::Insn;
use kcm_core::bpf::map::MapDef;
use kcm_core::bpf::program::{Func, Program, ProgramKind};

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The bytes of hexadecimal digits.
///
/// # Errors
/// What is none.
pub fn unhex(text: &str) -> Result<Vec<u8>, String> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return Err(format!("an odd number of digits: {text}"));
    }
    let byte = |pair: &[u8; 2]| {
        let digits = std::str::from_utf8(pair).unwrap_or("?");
        u8::from_str_radix(digits, 16).map_err(|e| format!("{digits}: {e}"))
    };
    pairs.iter().map(byte).collect()
}

/// Writes a program and messages.
pub fn write(program: &Program, messages: &[Vec<u8>]) -> String {
    let mut out = String::new();
    let kind = match program.kind {
        ProgramKind::SocketFilter => "socket_filter",
        _ => "stream_parser",
    };
    let mut line = |text: String| {
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(format!("kind {kind}"));
    for m in &program.maps {
        let MapDef { name, kind, key_size, value_size, max_entries, flags, initial } = m;
        let initial = initial.as_deref().map(hex).unwrap_or_default();
        line(format!("map {name} {kind} {key_size} {value_size} {max_entries} {flags} {initial}"));
    }
    for f in &program.funcs {
        line(format!("func {} {}", f.start, f.name));
    }
    let mut wide = false;
    for (at, i) in program.insns.iter().enumerate() {
        let mut text = format!("insn {}", hex(&i.to_bytes()));
        if !wide {
            let _ = write!(text, "  # {at}: {}", disasm::disassemble(&program.insns, at));
        }
        wide = !wide && i.code == 0x18;
        line(text);
    }
    for m in messages {
        line(format!("message {}", hex(m)));
    }
    out
}

fn number<T: std::str::FromStr>(word: Option<&str>) -> Result<T, String> {
    let word = word.ok_or("a number is missing")?;
    word.parse().map_err(|_| format!("{word} is no number"))
}

/// What is in a file.
#[derive(Clone, Debug)]
pub struct File {
    /// The program.
    pub program: Program,
    /// The messages.
    pub messages: Vec<Vec<u8>>,
    /// What the verifier must say: the name of a rule, or `accepted`.
    pub expect: Option<String>,
}

/// Reads a program and messages.
///
/// # Errors
/// The line that is not in the format.
pub fn read(file: &[u8]) -> Result<File, String> {
    let text = std::str::from_utf8(file).map_err(|e| e.to_string())?;
    let mut program = Program {
        name: "file".into(),
        kind: ProgramKind::StreamParser,
        insns: Vec::new(),
        funcs: Vec::new(),
        maps: Vec::new(),
        lines: Vec::new(),
        license: "Dual MIT/GPL".into(),
    };
    let mut messages = Vec::new();
    let mut expect = None;
    let mut lines = text.lines().enumerate();
    while let Some((n, line)) = lines.next() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let fail = |e: String| format!("line {}: {e}", n + 1);
        match words.next() {
            None => {}
            Some("expect") => expect = words.next().map(str::to_owned),
            Some("kind") => {
                program.kind = match words.next() {
                    Some("socket_filter") => ProgramKind::SocketFilter,
                    Some("stream_parser") => ProgramKind::StreamParser,
                    other => return Err(fail(format!("no kind: {other:?}"))),
                }
            }
            Some("map") => {
                let name = words.next().unwrap_or_default().to_owned();
                let mut numbers = [0; 5];
                for v in &mut numbers {
                    *v = number(words.next()).map_err(fail)?;
                }
                let [kind, key_size, value_size, max_entries, flags] = numbers;
                let initial = words.next().map(unhex).transpose().map_err(fail)?;
                program.maps.push(MapDef {
                    name,
                    kind,
                    key_size,
                    value_size,
                    max_entries,
                    flags,
                    initial,
                });
            }
            Some("func") => {
                let start = number(words.next()).map_err(fail)?;
                let name = words.next().unwrap_or_default().to_owned();
                program.funcs.push(Func { start, name });
            }
            Some("insn") => {
                let bytes = unhex(words.next().unwrap_or_default()).map_err(fail)?;
                let bytes = bytes.try_into().map_err(|_| fail("not 8 bytes".into()))?;
                program.insns.push(Insn::from_bytes(bytes));
            }
            Some("message") => {
                messages.push(unhex(words.next().unwrap_or_default()).map_err(fail)?);
            }
            Some("asm") => {
                let rest: Vec<&str> = lines.by_ref().map(|(_, l)| l).collect();
                let a = asm::assemble(&rest.join("\n")).map_err(|e| format!("asm {e}"))?;
                (program.insns, program.funcs) = (a.insns, a.funcs);
            }
            Some(other) => return Err(fail(format!("no such word: {other}"))),
        }
    }
    Ok(File { program, messages, expect })
}
