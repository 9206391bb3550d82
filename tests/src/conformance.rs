//! The public BPF conformance suite's files (`*.data`), read in place and run.
//!
//! A file has sections that begin with a line `-- NAME`: `asm` (assembler text) or `raw` (bytes
//! in hexadecimal), perhaps `mem` (bytes that r1 points to, r2 being their number), and
//! `result` (r0) or `error`. Programs here get no memory of their caller's: the bytes of `mem`
//! become a data section, and three instructions in front of the program's first set r1 and r2.
//!
//! Cases of our own (`tests/data/conformance`) cover what the suite has not: they may have a
//! section `message` (bytes; the program then begins with the context in r1, as parsers do),
//! `maps` (lines of name, kind, key size, value size, entries, flags, perhaps initial bytes) and
//! `kind` (`socket_filter`, which is the default, or `stream_parser`).
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kcm_core::bpf::asm;
use kcm_core::bpf::insn::Insn;
use kcm_core::bpf::map::{MapDef, kind};
use kcm_core::bpf::program::{Func, Program, ProgramKind};
use kcm_core::bpf::run::{Exec, Executable};
use kcm_core::bpf::verifier::{self, Options};

/// One file.
#[derive(Debug)]
pub struct Case {
    /// The file's name without `.data`.
    pub name: String,
    /// Whether it lies in the folder of cases that must be rejected.
    pub negative: bool,
    code: Code,
    mem: Vec<u8>,
    kind: ProgramKind,
    maps: Vec<MapDef>,
    /// What the program is shown; `None` where it gets `mem` instead.
    message: Option<Vec<u8>>,
    /// r0 at the end; `None` where an error is expected.
    expected: Option<u64>,
}

#[derive(Debug)]
enum Code {
    Asm(String),
    Raw(Vec<Insn>),
}

/// What became of a case under one executor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The result is the expected one; for a negative case: it was refused, or its result is
    /// another.
    Passed,
    /// The assembler, the verifier or the executor would not take it, and says why.
    Refused(String),
    /// Another result than expected; for a negative case: it was taken.
    Failed(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Passed => f.write_str("passed"),
            Outcome::Refused(why) => write!(f, "refused: {why}"),
            Outcome::Failed(why) => write!(f, "FAILED: {why}"),
        }
    }
}

/// Cases that an engine which verifies refuses, and why that is right.
pub const REFUSED: &[(&str, &str)] =
    &[("callx", "a call through a register: no verifier of sandboxed programs follows one")];

/// What `bpf_get_socket_cookie` says to cases.
const COOKIE: u64 = 0x1122_3344_5566_7788;

/// The executors of this build.
pub fn executors() -> Vec<Exec> {
    let all = [Exec::Interpreter, Exec::Jit, Exec::Checked];
    all.into_iter().filter(|e| e.is_available()).collect()
}

fn hex(text: &str) -> Result<Vec<u8>> {
    let digits: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    if !digits.len().is_multiple_of(2) {
        bail!("an odd number of hexadecimal digits");
    }
    let byte = |i| u8::from_str_radix(digits.get(i..i + 2).unwrap_or("?"), 16);
    (0..digits.len()).step_by(2).map(|i| Ok(byte(i)?)).collect()
}

impl Case {
    /// Reads one file's text.
    ///
    /// # Errors
    /// What is not in this format.
    pub fn parse(name: &str, negative: bool, text: &str) -> Result<Self> {
        let mut sections: BTreeMap<&str, String> = BTreeMap::new();
        let mut current = None;
        for line in text.lines() {
            if let Some(section) = line.strip_prefix("--") {
                current = Some(section.trim());
            } else if let Some(section) = current {
                let s = sections.entry(section).or_default();
                s.push_str(line);
                s.push('\n');
            }
        }
        let stripped = |s: &str| -> String {
            s.lines().map(|l| l.split('#').next().unwrap_or("").to_owned() + "\n").collect()
        };
        let has_asm = sections.get("asm").is_some_and(|a| !stripped(a).trim().is_empty());
        let code = if let Some(raw) = sections.get("raw").filter(|_| !has_asm) {
            let bytes = hex(&stripped(raw)).context("section raw")?;
            let (insns, rest) = bytes.as_chunks::<8>();
            if !rest.is_empty() {
                bail!("section raw ends inside an instruction");
            }
            Code::Raw(insns.iter().map(|b| Insn::from_bytes(*b)).collect())
        } else {
            match sections.get("asm") {
                Some(a) => Code::Asm(a.clone()),
                None => bail!("it has neither a section asm nor raw"),
            }
        };
        let mem = match sections.get("mem") {
            Some(m) => hex(&stripped(m)).context("section mem")?,
            None => Vec::new(),
        };
        let message = match sections.get("message") {
            Some(m) => Some(hex(&stripped(m)).context("section message")?),
            None => None,
        };
        if message.is_some() && !mem.is_empty() {
            bail!("it has both a section mem and message");
        }
        let kind = match sections.get("kind").map(|k| stripped(k)).as_deref().map(str::trim) {
            None | Some("socket_filter") => ProgramKind::SocketFilter,
            Some("stream_parser") => ProgramKind::StreamParser,
            Some(other) => bail!("section kind: {other:?}"),
        };
        let maps = sections.get("maps").map(|m| stripped(m)).unwrap_or_default();
        let maps = maps.lines().filter(|l| !l.trim().is_empty()).map(map);
        let maps = maps.collect::<Result<Vec<MapDef>>>().context("section maps")?;
        let expected = match sections.get("result") {
            Some(r) => {
                let r = stripped(r);
                let r = r.trim();
                let number = match r.strip_prefix("0x") {
                    Some(h) => u64::from_str_radix(h, 16),
                    None => r.parse(),
                };
                Some(number.with_context(|| format!("section result: {r:?}"))?)
            }
            None if sections.contains_key("error") || negative => None,
            None => bail!("it has neither a section result nor error"),
        };
        Ok(Case { name: name.to_owned(), negative, code, mem, kind, maps, message, expected })
    }

    /// The program, with r1 and r2 set in front.
    ///
    /// # Errors
    /// What the assembler says.
    pub fn program(&self) -> Result<Program> {
        let (insns, funcs) = match &self.code {
            Code::Asm(text) => {
                let a = asm::assemble(text)?;
                (a.insns, a.funcs)
            }
            Code::Raw(insns) => (insns.clone(), vec![Func { start: 0, name: String::new() }]),
        };
        if self.message.is_some() {
            return Ok(Program {
                name: self.name.clone(),
                kind: self.kind,
                insns,
                funcs,
                maps: self.maps.clone(),
                lines: Vec::new(),
                license: "GPL".to_owned(),
            });
        }
        let mut maps = self.maps.clone();
        let data = maps.len() as i32;
        let r1 = if self.mem.is_empty() {
            Insn { code: 0x18, dst: 1, ..Insn::default() }
        } else {
            maps.push(MapDef {
                name: ".data".into(),
                kind: kind::ARRAY,
                key_size: 4,
                value_size: self.mem.len() as u32,
                max_entries: 1,
                flags: 0,
                initial: Some(self.mem.clone()),
            });
            Insn { code: 0x18, dst: 1, src: 2, imm: data, ..Insn::default() }
        };
        let r2 = Insn { code: 0xb7, dst: 2, imm: self.mem.len() as i32, ..Insn::default() };
        let front = [r1, Insn::default(), r2];
        let moved = |f: Func| Func { start: if f.start == 0 { 0 } else { f.start + 3 }, ..f };
        Ok(Program {
            name: self.name.clone(),
            kind: self.kind,
            insns: front.into_iter().chain(insns).collect(),
            funcs: funcs.into_iter().map(moved).collect(),
            maps,
            lines: Vec::new(),
            license: String::new(),
        })
    }

    /// Runs it by one executor.
    pub fn run(&self, exec: Exec) -> Outcome {
        let got = match self.r0(exec) {
            Ok(r0) => r0,
            Err(_) if self.expected.is_none() || self.negative => return Outcome::Passed,
            Err(e) => return Outcome::Refused(first_line(&e)),
        };
        match self.expected {
            Some(want) if (want == got) != self.negative => Outcome::Passed,
            Some(want) if !self.negative => {
                Outcome::Failed(format!("r0 is {got:#x}, expected {want:#x}"))
            }
            _ => Outcome::Failed(format!("it was taken, and r0 is {got:#x}")),
        }
    }

    fn r0(&self, exec: Exec) -> Result<u64> {
        let verified = verifier::verify(self.program()?, &Options::default())
            .map_err(|e| anyhow::anyhow!("{}", e.rule))?;
        let maps = Executable::make_maps(&verified)?;
        let executable = Executable::new(verified, maps, exec)?;
        let message = self.message.as_deref().unwrap_or_default();
        if exec == Exec::Checked {
            return Ok(executable.run_checked(message, COOKIE)?);
        }
        Ok(executable.run(message, COOKIE))
    }
}

/// A line of a section `maps`.
fn map(line: &str) -> Result<MapDef> {
    let mut words = line.split_whitespace();
    let name = words.next().unwrap_or_default().to_owned();
    let mut number =
        || -> Result<u32> { Ok(words.next().context("a number is missing")?.parse()?) };
    let [kind, key_size, value_size, max_entries, flags] =
        [number()?, number()?, number()?, number()?, number()?];
    let initial = words.next().map(hex).transpose()?;
    Ok(MapDef { name, kind, key_size, value_size, max_entries, flags, initial })
}

/// The folder of our own cases.
pub fn own() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/conformance")
}

fn first_line(e: &anyhow::Error) -> String {
    format!("{e:#}").lines().next().unwrap_or("").to_owned()
}

/// Reads every case of a folder and of its folder `negative`.
///
/// # Errors
/// A folder or file that cannot be read; a positive case that is not in the format.
pub fn read_suite(dir: &Path) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for (folder, negative) in [(dir.to_owned(), false), (dir.join("negative"), true)] {
        if negative && !folder.is_dir() {
            continue;
        }
        for path in files(&folder)? {
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            match Case::parse(&name, negative, &text) {
                Ok(case) => cases.push(case),
                // That it is not in the format is why it is there.
                Err(_) if negative => {}
                Err(e) => return Err(e.context(path.display().to_string())),
            }
        }
    }
    Ok(cases)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = std::fs::read_dir(folder)
        .with_context(|| format!("cannot read the folder {}", folder.display()))?;
    let mut files: Vec<PathBuf> = read
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|x| x == "data"))
        .collect();
    files.sort();
    Ok(files)
}

/// What one executor made of a suite.
#[derive(Debug)]
pub struct Report {
    /// The executor.
    pub exec: Exec,
    /// Cases that passed; of those in `negative`.
    pub passed: [usize; 2],
    /// Cases that were refused, with the reason; listed ones first.
    pub refused: Vec<(String, String)>,
    /// Cases that failed, or were refused and are not listed in [`REFUSED`].
    pub failed: Vec<(String, String)>,
}

/// Runs a suite by one executor.
pub fn run_suite(cases: &[Case], exec: Exec) -> Report {
    let mut report = Report { exec, passed: [0; 2], refused: Vec::new(), failed: Vec::new() };
    for case in cases {
        let outcome = case.run(exec);
        match outcome {
            Outcome::Passed => report.passed[usize::from(case.negative)] += 1,
            Outcome::Refused(why) => match REFUSED.iter().find(|(n, _)| *n == case.name) {
                Some((_, reason)) => report.refused.push((case.name.clone(), (*reason).into())),
                None => report.failed.push((case.name.clone(), format!("refused: {why}"))),
            },
            Outcome::Failed(why) => report.failed.push((case.name.clone(), why)),
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_read_and_run_by_every_executor() {
        let text = "# a comment\n-- asm\nldxb %r0, [%r1+1]\nadd %r0, %r2\nexit\n\
                    -- mem\n01 02 # two\n03\n-- result\n0x5\n";
        let case = Case::parse("x", false, text).unwrap();
        for exec in executors() {
            assert_eq!(case.run(exec), Outcome::Passed, "{exec:?}");
        }
        let wrong = text.replace("0x5", "6");
        let case = Case::parse("x", false, &wrong).unwrap();
        assert!(matches!(case.run(Exec::Interpreter), Outcome::Failed(_)));
    }

    #[test]
    fn a_negative_case_passes_by_being_refused_and_fails_by_being_taken() {
        let bad = Case::parse("x", true, "-- raw\n07 00 01 00 01 00 00 00\n-- error\n").unwrap();
        assert_eq!(bad.run(Exec::Interpreter), Outcome::Passed);
        let good = Case::parse("x", true, "-- asm\nmov %r0, 1\nexit\n-- error\nx\n").unwrap();
        assert!(matches!(good.run(Exec::Interpreter), Outcome::Failed(_)));
    }

    #[test]
    fn files_in_another_format_are_errors() {
        for bad in ["", "-- asm\nexit\n", "-- result\n0\n", "-- raw\n07 0\n-- result\n0\n"] {
            assert!(Case::parse("x", false, bad).is_err(), "{bad:?}");
        }
    }
}
