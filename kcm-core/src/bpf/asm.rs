//! A small assembler for tests and tools: the text dialect of the public BPF conformance
//! suite, with additions for maps, helpers by name, functions and legacy packet loads.
//!
//! ```text
//! # a comment
//! ldxw %r2, [%r1+76]        loads: ldxb ldxh ldxw ldxdw, sign-extending ldxsb ldxsh ldxsw
//! stxdw [%r10-8], %r2       stores: stxb.. of registers, stb.. of immediates
//! add32 %r0, -3             arithmetic: add sub mul div sdiv mod smod or and xor lsh rsh arsh mov
//! jne %r0, 15, fail         jumps to labels, to `+3`, or to `exit` (the last exit)
//! lock fetch add [%r10-8], %r1
//! lddw %r1, map[0]          also map[0]+8 (address in its value), func name, a number
//! call 26                   also call skb_load_bytes, call local name
//! ldabsw 4                  legacy packet loads: ldabsb.., ldindb.. %r2, 4
//! fail:
//! exit
//! ```

use std::collections::HashMap;

use super::{
    helpers,
    insn::Insn,
    map::MapDef,
    program::{Func, Program, ProgramKind},
};

/// What does not assemble, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct AsmError {
    /// 1-based line of the text.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

/// Assembled text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assembly {
    /// Instruction slots.
    pub insns: Vec<Insn>,
    /// Functions: slot 0 and whatever is called or taken the address of.
    pub funcs: Vec<Func>,
    /// The line of each slot.
    pub lines: Vec<usize>,
}

/// Assembles a program of this kind with these maps.
///
/// # Errors
/// As [`assemble`].
pub fn program(text: &str, kind: ProgramKind, maps: Vec<MapDef>) -> Result<Program, AsmError> {
    let a = assemble(text)?;
    Ok(Program {
        name: "asm".to_owned(),
        kind,
        insns: a.insns,
        funcs: a.funcs,
        maps,
        lines: Vec::new(),
        license: String::new(),
    })
}

/// Where a slot's target goes.
enum Field {
    Off,
    Imm,
}

/// Assembles text.
///
/// # Errors
/// The first line that is not an instruction of the dialect.
pub fn assemble(text: &str) -> Result<Assembly, AsmError> {
    let mut asm = Assembly::default();
    let mut labels: HashMap<&str, usize> = HashMap::new();
    let mut fixups: Vec<(usize, &str, Field)> = Vec::new();
    let mut functions: Vec<&str> = Vec::new();
    for (n, raw) in text.lines().enumerate() {
        let line = n + 1;
        let fail = |what: String| AsmError { line, what };
        let mut rest = raw.split('#').next().unwrap_or("").trim();
        while let Some((label, after)) = rest.split_once(':') {
            let label = label.trim();
            if label.is_empty() || label.contains(char::is_whitespace) {
                return Err(fail(format!("bad label `{label}`")));
            }
            if labels.insert(label, asm.insns.len()).is_some() {
                return Err(fail(format!("label `{label}` is already there")));
            }
            rest = after.trim();
        }
        if rest.is_empty() {
            continue;
        }
        let (mnemonic, args) = match rest.split_once(char::is_whitespace) {
            Some((m, a)) => (m, a.trim()),
            None => (rest, ""),
        };
        let parts: Vec<&str> =
            if args.is_empty() { Vec::new() } else { args.split(',').map(str::trim).collect() };
        let mut out = Line { at: asm.insns.len(), fixups: &mut fixups, functions: &mut functions };
        let (first, second) = out.encode(mnemonic, &parts).map_err(fail)?;
        asm.insns.push(first);
        asm.lines.push(line);
        if let Some(second) = second {
            asm.insns.push(second);
            asm.lines.push(line);
        }
    }
    if !labels.contains_key("exit")
        && let Some(at) = asm.insns.iter().rposition(|i| i.code == 0x95)
    {
        labels.insert("exit", at);
    }
    for (at, label, field) in fixups {
        let fail = |what: String| AsmError { line: asm.lines[at], what };
        let by = match label.strip_prefix('+') {
            Some(n) => n.parse::<i64>().map_err(|e| fail(format!("bad target `{label}`: {e}")))?,
            None if label.starts_with('-') => {
                label.parse().map_err(|e| fail(format!("bad target `{label}`: {e}")))?
            }
            None => match labels.get(label) {
                Some(t) => *t as i64 - at as i64 - 1,
                None => return Err(fail(format!("no label `{label}`"))),
            },
        };
        let range = |_| fail(format!("`{label}` is too far away"));
        match field {
            Field::Off => asm.insns[at].off = i16::try_from(by).map_err(range)?,
            Field::Imm => asm.insns[at].imm = i32::try_from(by).map_err(range)?,
        }
    }
    let mut starts = HashMap::from([(0, "main")]);
    for f in functions {
        if let Some(t) = labels.get(f) {
            starts.insert(*t, f);
        }
    }
    asm.funcs =
        starts.into_iter().map(|(start, name)| Func { start, name: name.to_owned() }).collect();
    asm.funcs.sort_by_key(|f| f.start);
    Ok(asm)
}

struct Line<'a, 't> {
    at: usize,
    fixups: &'a mut Vec<(usize, &'t str, Field)>,
    functions: &'a mut Vec<&'t str>,
}

type Encoded = Result<(Insn, Option<Insn>), String>;

impl<'t> Line<'_, 't> {
    fn encode(&mut self, m: &str, args: &[&'t str]) -> Encoded {
        match m {
            "exit" => {
                let [] = operands(m, args)?;
                one(Insn { code: 0x95, ..Insn::default() })
            }
            "ja" | "ja32" => {
                let [target] = operands(m, args)?;
                let (code, field) = if m == "ja" { (0x05, Field::Off) } else { (0x06, Field::Imm) };
                self.fixups.push((self.at, target, field));
                one(Insn { code, ..Insn::default() })
            }
            "call" => self.call(args),
            "lock" => lock(args),
            "lddw" => self.wide(args),
            _ => {
                if let Some(i) = memory(m, args)? {
                    return one(i);
                }
                if let Some(i) = unary(m, args)? {
                    return one(i);
                }
                if let Some(i) = alu(m, args)? {
                    return one(i);
                }
                self.jump(m, args)
            }
        }
    }

    fn call(&mut self, args: &[&'t str]) -> Encoded {
        let [what] = operands("call", args)?;
        let call = Insn { code: 0x85, ..Insn::default() };
        if let Some(label) = what.strip_prefix("local ") {
            let label = label.trim();
            self.fixups.push((self.at, label, Field::Imm));
            self.functions.push(label);
            return one(Insn { src: 1, ..call });
        }
        if what.starts_with('%') {
            return one(Insn { code: 0x8d, dst: register(what)?, ..Insn::default() });
        }
        if what.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
            return one(Insn { imm: immediate(what)?, ..call });
        }
        let name = what.strip_prefix("bpf_").unwrap_or(what);
        let id = (1..1000).find(|id| helpers::name(*id) == Some(name));
        match id {
            Some(id) => one(Insn { imm: id as i32, ..call }),
            None => Err(format!("no helper `{what}`")),
        }
    }

    fn wide(&mut self, args: &[&'t str]) -> Encoded {
        let [dst, what] = operands("lddw", args)?;
        let mut i = Insn { code: 0x18, dst: register(dst)?, ..Insn::default() };
        let mut second = Insn::default();
        if let Some(map) = what.strip_prefix("map[") {
            let (index, after) = map.split_once(']').ok_or("missing `]`")?;
            i.imm = immediate(index.trim())?;
            match after.trim().strip_prefix('+') {
                Some(off) => {
                    i.src = 2;
                    second.imm = immediate(off.trim())?;
                }
                None if after.trim().is_empty() => i.src = 1,
                None => return Err(format!("`{what}` is not a map")),
            }
        } else if let Some(label) = what.strip_prefix("func ") {
            let label = label.trim();
            i.src = 4;
            self.fixups.push((self.at, label, Field::Imm));
            self.functions.push(label);
        } else {
            let v = number(what)?;
            let v = u64::try_from(v)
                .or_else(|_| i64::try_from(v).map(|v| v as u64))
                .map_err(|_| format!("`{what}` does not fit 64 bits"))?;
            i.imm = v as i32;
            second.imm = (v >> 32) as i32;
        }
        Ok((i, Some(second)))
    }

    fn jump(&mut self, m: &str, args: &[&'t str]) -> Encoded {
        let (name, class) = match m.strip_suffix("32") {
            Some(n) => (n, 6),
            None => (m, 5),
        };
        let op = match name {
            "jeq" => 0x10,
            "jgt" => 0x20,
            "jge" => 0x30,
            "jset" => 0x40,
            "jne" => 0x50,
            "jsgt" => 0x60,
            "jsge" => 0x70,
            "jlt" => 0xa0,
            "jle" => 0xb0,
            "jslt" => 0xc0,
            "jsle" => 0xd0,
            _ => return Err(format!("unknown instruction `{m}`")),
        };
        let [dst, src, target] = operands(m, args)?;
        self.fixups.push((self.at, target, Field::Off));
        one(with_source(Insn { code: op | class, dst: register(dst)?, ..Insn::default() }, src)?)
    }
}

fn one(i: Insn) -> Encoded {
    Ok((i, None))
}

fn operands<'t, const N: usize>(m: &str, args: &[&'t str]) -> Result<[&'t str; N], String> {
    <[&str; N]>::try_from(args).map_err(|_| format!("`{m}` takes {N} operands, not {}", args.len()))
}

fn with_source(mut i: Insn, src: &str) -> Result<Insn, String> {
    if src.starts_with('%') {
        i.code |= 8;
        i.src = register(src)?;
    } else {
        i.imm = immediate(src)?;
    }
    Ok(i)
}

fn register(s: &str) -> Result<u8, String> {
    s.strip_prefix("%r")
        .and_then(|n| n.parse::<u8>().ok())
        .filter(|n| *n <= 10)
        .ok_or_else(|| format!("`{s}` is not a register"))
}

fn number(s: &str) -> Result<i128, String> {
    let (negative, digits) = match s.strip_prefix('-') {
        Some(d) => (true, d),
        None => (false, s),
    };
    let v = match digits.strip_prefix("0x") {
        Some(h) => i128::from_str_radix(h, 16),
        None => digits.parse(),
    }
    .map_err(|_| format!("`{s}` is not a number"))?;
    Ok(if negative { -v } else { v })
}

/// Signed 32 bits in decimal; hexadecimal may use all 32 bits.
fn immediate(s: &str) -> Result<i32, String> {
    let v = number(s)?;
    i32::try_from(v)
        .ok()
        .or_else(|| s.starts_with("0x").then(|| u32::try_from(v).ok().map(|v| v as i32)).flatten())
        .ok_or_else(|| format!("`{s}` does not fit 32 bits"))
}

/// `[%r1+16]`
fn place(s: &str) -> Result<(u8, i16), String> {
    let inner = s
        .strip_prefix('[')
        .and_then(|s| s.strip_suffix(']'))
        .ok_or_else(|| format!("`{s}` is not a memory operand"))?
        .trim();
    let (reg, off) = match inner.find(['+', '-']) {
        Some(i) => (inner[..i].trim(), inner[i..].trim_start_matches('+').replace(' ', "")),
        None => (inner, "0".to_owned()),
    };
    let v = number(&off)?;
    let off = i16::try_from(v).map_err(|_| format!("offset `{off}` does not fit 16 bits"))?;
    Ok((register(reg)?, off))
}

fn size_code(suffix: &str) -> Option<u8> {
    Some(match suffix {
        "w" => 0x00,
        "h" => 0x08,
        "b" => 0x10,
        "dw" => 0x18,
        _ => return None,
    })
}

fn memory(m: &str, args: &[&str]) -> Result<Option<Insn>, String> {
    let code = |prefix: &str| m.strip_prefix(prefix).and_then(size_code);
    if let Some(size) = code("ldxs").filter(|s| *s != 0x18) {
        return load(m, args, 0x81 | size);
    }
    if let Some(size) = code("ldx") {
        return load(m, args, 0x61 | size);
    }
    if let Some(size) = code("stx") {
        let [dst, src] = operands(m, args)?;
        let (dst, off) = place(dst)?;
        return Ok(Some(Insn { code: 0x63 | size, dst, src: register(src)?, off, imm: 0 }));
    }
    if let Some(size) = code("ldabs").filter(|s| *s != 0x18) {
        let [imm] = operands(m, args)?;
        return Ok(Some(Insn { code: 0x20 | size, imm: immediate(imm)?, ..Insn::default() }));
    }
    if let Some(size) = code("ldind").filter(|s| *s != 0x18) {
        let [src, imm] = operands(m, args)?;
        let (src, imm) = (register(src)?, immediate(imm)?);
        return Ok(Some(Insn { code: 0x40 | size, src, imm, ..Insn::default() }));
    }
    if let Some(size) = code("st") {
        let [dst, imm] = operands(m, args)?;
        let (dst, off) = place(dst)?;
        return Ok(Some(Insn { code: 0x62 | size, dst, src: 0, off, imm: immediate(imm)? }));
    }
    Ok(None)
}

fn load(m: &str, args: &[&str], code: u8) -> Result<Option<Insn>, String> {
    let [dst, src] = operands(m, args)?;
    let (src, off) = place(src)?;
    Ok(Some(Insn { code, dst: register(dst)?, src, off, imm: 0 }))
}

/// `neg`, byte order, sign extension.
fn unary(m: &str, args: &[&str]) -> Result<Option<Insn>, String> {
    let (code, off, imm) = match m {
        "neg" | "neg64" => (0x87, 0, 0),
        "neg32" => (0x84, 0, 0),
        "le16" => (0xd4, 0, 16),
        "le32" => (0xd4, 0, 32),
        "le64" => (0xd4, 0, 64),
        "be16" => (0xdc, 0, 16),
        "be32" => (0xdc, 0, 32),
        "be64" => (0xdc, 0, 64),
        "swap16" | "bswap16" => (0xd7, 0, 16),
        "swap32" | "bswap32" => (0xd7, 0, 32),
        "swap64" | "bswap64" => (0xd7, 0, 64),
        "movsx832" => (0xbc, 8, 0),
        "movsx1632" => (0xbc, 16, 0),
        "movsx864" => (0xbf, 8, 0),
        "movsx1664" => (0xbf, 16, 0),
        "movsx3264" => (0xbf, 32, 0),
        _ => return Ok(None),
    };
    if off == 0 {
        let [dst] = operands(m, args)?;
        return Ok(Some(Insn { code, dst: register(dst)?, src: 0, off: 0, imm }));
    }
    let [dst, src] = operands(m, args)?;
    Ok(Some(Insn { code, dst: register(dst)?, src: register(src)?, off, imm: 0 }))
}

fn alu(m: &str, args: &[&str]) -> Result<Option<Insn>, String> {
    let (name, class) = match (m.strip_suffix("32"), m.strip_suffix("64")) {
        (Some(n), _) => (n, 4),
        (_, Some(n)) => (n, 7),
        _ => (m, 7),
    };
    let (op, off) = match name {
        "add" => (0x00, 0),
        "sub" => (0x10, 0),
        "mul" => (0x20, 0),
        "div" => (0x30, 0),
        "sdiv" => (0x30, 1),
        "or" => (0x40, 0),
        "and" => (0x50, 0),
        "lsh" => (0x60, 0),
        "rsh" => (0x70, 0),
        "mod" => (0x90, 0),
        "smod" => (0x90, 1),
        "xor" => (0xa0, 0),
        "mov" => (0xb0, 0),
        "arsh" => (0xc0, 0),
        _ => return Ok(None),
    };
    let [dst, src] = operands(m, args)?;
    let i = Insn { code: op | class, dst: register(dst)?, off, ..Insn::default() };
    with_source(i, src).map(Some)
}

fn lock(args: &[&str]) -> Encoded {
    let [first, src] = operands("lock", args)?;
    let (op, at) = first.split_once('[').ok_or("`lock` needs a memory operand")?;
    let (dst, off) = place(&format!("[{at}"))?;
    let op = op.trim();
    let (op, fetch) = match op.strip_prefix("fetch") {
        Some(o) => (o.trim_start_matches(['_', ' ']), 1),
        None => (op, 0),
    };
    let (name, size) = match op.strip_suffix("32") {
        Some(o) => (o, 0x00),
        None => (op, 0x18),
    };
    let imm = match name {
        "add" => fetch,
        "or" => 0x40 | fetch,
        "and" => 0x50 | fetch,
        "xor" => 0xa0 | fetch,
        "xchg" => 0xe1,
        "cmpxchg" => 0xf1,
        _ => return Err(format!("unknown atomic operation `{op}`")),
    };
    one(Insn { code: 0xc3 | size, dst, src: register(src)?, off, imm })
}
