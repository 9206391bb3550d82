//! Parser tables (`tests/data/parsers/*.toml`): streams with the places where their messages
//! end, read from data files and run over any [`Delineate`]. The format and what a run does
//! are described in that folder's README.md.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use kcm_common::errno;
use kcm_core::delineate::{Delineate, Verdict, WalkEnd, WalkLimits};
use serde::Deserialize;

/// One file: the cases of one program.
#[derive(Debug)]
pub struct Table {
    /// The program's name.
    pub program: String,
    /// The name of the object that holds it, without `.o`.
    pub object: String,
    /// Its cases, in file order.
    pub cases: Vec<Case>,
}

/// One stream and what a parser is expected to say of it.
#[derive(Debug)]
pub struct Case {
    /// What is shown.
    pub name: String,
    /// The stream.
    pub bytes: Vec<u8>,
    /// Lengths of the whole messages in it, in order.
    pub lengths: Vec<u32>,
    /// What follows the last of them.
    pub end: End,
    /// Where messages end depends on the bytes behind them, as it should not: those are not
    /// exchanged for others.
    pub follower_tells: bool,
}

/// What follows the last whole message of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing.
    Clean,
    /// Bytes from which no length can be told.
    NeedMore,
    /// The start of a message of this many bytes.
    Partial(u32),
    /// Bytes that the parser refuses with this positive errno.
    Error(i32),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTable {
    program: String,
    object: Option<String>,
    case: Vec<RawCase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCase {
    name: String,
    hex: Option<String>,
    text: Option<String>,
    parts: Option<Vec<Part>>,
    #[serde(default)]
    lengths: Vec<u32>,
    #[serde(default)]
    follower_tells: bool,
    #[serde(default)]
    need_more: bool,
    partial: Option<u32>,
    error: Option<Errno>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    hex: Option<String>,
    text: Option<String>,
    #[serde(default = "once")]
    times: usize,
}

fn once() -> usize {
    1
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Errno {
    Number(i32),
    Name(String),
}

/// The folder of the tables.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/parsers")
}

/// Reads all tables, by file name.
///
/// # Errors
/// A file that cannot be read, or that is not in the format; it is named.
pub fn all() -> Result<Vec<Table>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder())
        .context("no folder of parser tables")?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|e| e == "toml"));
    files.sort();
    files.iter().map(|path| Table::read(path)).collect()
}

impl Table {
    /// Reads one file.
    ///
    /// # Errors
    /// As [`all`].
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// Text that is not in the format.
    pub fn parse(text: &str) -> Result<Self> {
        let raw: RawTable = toml::from_str(text)?;
        let mut cases = Vec::new();
        for case in raw.case {
            let name = case.name.clone();
            let case = Case::new(case).with_context(|| format!("case {name:?}"))?;
            ensure!(cases.iter().all(|c: &Case| c.name != name), "two cases named {name:?}");
            cases.push(case);
        }
        let object = raw.object.unwrap_or_else(|| raw.program.clone());
        Ok(Table { program: raw.program, object, cases })
    }

    /// Runs every case; see the folder's README.md.
    ///
    /// # Errors
    /// Every difference between what was expected and what `parser` said, by case.
    pub fn check(&self, parser: &dyn Delineate) -> Result<()> {
        let faults: Vec<String> = self
            .cases
            .iter()
            .filter_map(|case| Some(format!("{:?}: {:#}", case.name, case.check(parser).err()?)))
            .collect();
        ensure!(faults.is_empty(), "{}: {}", self.program, faults.join("\n  "));
        Ok(())
    }
}

impl Case {
    fn new(raw: RawCase) -> Result<Self> {
        let bytes = match (raw.hex, raw.text, raw.parts) {
            (Some(hex), None, None) => unhex(&hex)?,
            (None, Some(text), None) => text.into_bytes(),
            (None, None, Some(parts)) => {
                let mut bytes = Vec::new();
                for part in parts {
                    let piece = match (part.hex, part.text) {
                        (Some(hex), None) => unhex(&hex)?,
                        (None, Some(text)) => text.into_bytes(),
                        _ => bail!("a part has either hex or text"),
                    };
                    bytes.extend(piece.repeat(part.times));
                }
                bytes
            }
            _ => bail!("a case has one of hex, text and parts"),
        };
        let end = match (raw.need_more, raw.partial, raw.error) {
            (false, None, None) => End::Clean,
            (true, None, None) => End::NeedMore,
            (false, Some(len), None) => End::Partial(len),
            (false, None, Some(errno)) => End::Error(errno.number()?),
            _ => bail!("a case has at most one of need_more, partial and error"),
        };
        let case = Case {
            name: raw.name,
            bytes,
            lengths: raw.lengths,
            end,
            follower_tells: raw.follower_tells,
        };
        let rest =
            case.bytes.len().checked_sub(case.whole()).context("lengths exceed the bytes")?;
        match end {
            End::Clean => ensure!(rest == 0, "{rest} bytes behind the last message"),
            End::NeedMore | End::Error(_) => ensure!(rest > 0, "no byte behind the last message"),
            End::Partial(len) => {
                ensure!(rest > 0 && rest < len as usize, "{rest} bytes for a part of {len}");
            }
        }
        Ok(case)
    }

    /// Bytes of the whole messages.
    fn whole(&self) -> usize {
        self.lengths.iter().map(|&len| len as usize).sum()
    }

    /// Where messages start, each with what is expected there when all bytes are shown.
    fn starts(&self) -> Vec<(usize, Verdict)> {
        let mut starts = Vec::new();
        let mut at = 0;
        for &len in &self.lengths {
            starts.push((at, Verdict::Message(len)));
            at += len as usize;
        }
        match self.end {
            End::Clean => {}
            End::NeedMore => starts.push((at, Verdict::NeedMore)),
            End::Partial(len) => starts.push((at, Verdict::Message(len))),
            End::Error(errno) => starts.push((at, Verdict::Error(errno))),
        }
        starts
    }

    /// Runs the case.
    ///
    /// # Errors
    /// The first difference.
    pub fn check(&self, parser: &dyn Delineate) -> Result<()> {
        for (start, expected) in self.starts() {
            let rest = &self.bytes[start..];
            let said = parser.parse(rest);
            ensure!(said == expected, "at byte {start}: {said:?} instead of {expected:?}");
            let message = match expected {
                Verdict::Message(len) => &rest[..rest.len().min(len as usize)],
                _ => rest,
            };
            prefixes(parser, start, message, expected)?;
            if !self.follower_tells {
                followed(parser, start, message, expected)?;
            }
        }
        for cut in sample(self.bytes.len()) {
            self.arrive(parser, &[cut, self.bytes.len()])
                .with_context(|| format!("cut at byte {cut}"))?;
        }
        for size in [1, 2, 3, 7, 16, 1000] {
            if self.bytes.len() / size > LONG {
                continue;
            }
            let mut cuts: Vec<usize> = (0..self.bytes.len()).step_by(size).skip(1).collect();
            cuts.push(self.bytes.len());
            self.arrive(parser, &cuts).with_context(|| format!("in pieces of {size}"))?;
        }
        Ok(())
    }

    /// The stream arrives up to one of `cuts` after the other; messages are taken as they
    /// become whole.
    fn arrive(&self, parser: &dyn Delineate, cuts: &[usize]) -> Result<()> {
        let limits = WalkLimits { max_message: i32::MAX as u32, max_ends: u32::MAX };
        let mut ends = Vec::new();
        let mut start = 0;
        let mut end = WalkEnd::Empty;
        for &cut in cuts {
            end = parser.walk(&self.bytes[..cut], start, limits, &mut ends);
            start = ends.last().map_or(0, |&end| end as usize);
            if let WalkEnd::Error(_) = end {
                break;
            }
        }
        let mut at = 0;
        let expected: Vec<u32> = self
            .lengths
            .iter()
            .map(|len| {
                at += len;
                at
            })
            .collect();
        ensure!(ends == expected, "messages end at {ends:?} instead of {expected:?}");
        let expected = match self.end {
            End::Clean => WalkEnd::Empty,
            End::NeedMore => WalkEnd::NeedMore,
            End::Partial(len) => WalkEnd::Partial { len },
            End::Error(errno) => WalkEnd::Error(errno),
        };
        ensure!(end == expected, "the walk ends with {end:?} instead of {expected:?}");
        Ok(())
    }
}

/// Streams beyond this many bytes (or pieces) are not run in every possible way.
const LONG: usize = 1024;

/// Every prefix of a message gets need-more or the final answer, which then stays.
fn prefixes(parser: &dyn Delineate, start: usize, message: &[u8], last: Verdict) -> Result<()> {
    let mut told = false;
    for len in sample(message.len()) {
        let said = parser.parse(&message[..len]);
        let fits = said == last || (said == Verdict::NeedMore && !told);
        ensure!(fits, "first {len} bytes from byte {start}: {said:?}, and finally {last:?}");
        told |= said != Verdict::NeedMore;
    }
    Ok(())
}

/// What stands behind a message does not change its length.
fn followed(parser: &dyn Delineate, start: usize, message: &[u8], last: Verdict) -> Result<()> {
    let Verdict::Message(len) = last else { return Ok(()) };
    if message.len() < len as usize {
        return Ok(());
    }
    for foreign in [&[][..], &[0; 9], &[0xff; 9], b"\r\n", b"\n", b"0123456789", b"  $-1\r\n"] {
        let said = parser.parse(&[message, foreign].concat());
        ensure!(
            said == last,
            "message at byte {start} followed by {foreign:?}: {said:?} instead of {last:?}"
        );
    }
    Ok(())
}

/// Numbers from 1 to `len`: all, or for a long stream those at both ends and some between.
fn sample(len: usize) -> Vec<usize> {
    if len <= LONG {
        return (1..=len).collect();
    }
    let between = (100..len - 100).step_by((len / 50) | 1);
    (1..100).chain(between).chain(len - 100..=len).collect()
}

impl Errno {
    fn number(&self) -> Result<i32> {
        let name = match self {
            Errno::Number(number) if *number > 0 => return Ok(*number),
            Errno::Number(number) => bail!("{number} is no positive errno"),
            Errno::Name(name) => name,
        };
        Ok(match name.as_str() {
            "EBADMSG" => errno::EBADMSG,
            "EINVAL" => errno::EINVAL,
            "ELOOP" => errno::ELOOP,
            "EMSGSIZE" => errno::EMSGSIZE,
            "EPROTO" => errno::EPROTO,
            "EPROTONOSUPPORT" => errno::EPROTONOSUPPORT,
            "ESTRPIPE" => errno::ESTRPIPE,
            _ => bail!("no errno named {name} is known here; give its number"),
        })
    }
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).map(|d| d as u8).with_context(|| format!("{c:?} is no hex digit")))
        .collect::<Result<_>>()?;
    let (pairs, odd) = digits.as_chunks::<2>();
    ensure!(odd.is_empty(), "an odd number of hex digits");
    Ok(pairs.iter().map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A byte, then that many bytes; 255 is refused.
    struct Byte;

    impl Delineate for Byte {
        fn parse(&self, msg: &[u8]) -> Verdict {
            match msg.first() {
                None => Verdict::NeedMore,
                Some(255) => Verdict::Error(71),
                Some(&len) => Verdict::Message(1 + u32::from(len)),
            }
        }
    }

    /// Takes what is there for the whole message.
    struct Greedy;

    impl Delineate for Greedy {
        fn parse(&self, msg: &[u8]) -> Verdict {
            Verdict::Message(msg.len() as u32)
        }
    }

    fn one(case: &str) -> Result<()> {
        Table::parse(&format!("program = 'byte'\n[[case]]\nname = 'it'\n{case}"))?.check(&Byte)
    }

    #[test]
    fn a_right_answer_passes_and_a_wrong_one_does_not() {
        one("hex = '01 aa 00'\nlengths = [2, 1]").unwrap();
        one("hex = '01 aa 03 00'\nlengths = [2]\npartial = 4").unwrap();
        one("hex = '00 ff'\nlengths = [1]\nerror = 'EPROTO'").unwrap();
        one("hex = '01 aa 00'\nlengths = [3]").unwrap_err();
        one("hex = '01 aa 03 00'\nlengths = [2]\nneed_more = true").unwrap_err();
        one("hex = '00 ff'\nlengths = [1]\nerror = 'EMSGSIZE'").unwrap_err();
    }

    #[test]
    fn an_answer_that_changes_with_more_bytes_does_not_pass() {
        let table = "program = 'greedy'\n[[case]]\nname = 'it'\nhex = '00 00 00'\nlengths = [3]";
        let e = Table::parse(table).unwrap().check(&Greedy).unwrap_err().to_string();
        assert!(e.contains("first 1 bytes"), "{e}");
    }

    #[test]
    fn a_file_that_contradicts_itself_is_refused() {
        one("hex = '01 aa 00'\nlengths = [2]").unwrap_err();
        one("hex = '01 a'\nlengths = [2]").unwrap_err();
        one("hex = '01'\ntext = 'x'").unwrap_err();
        one("hex = '01 aa'\nlengths = [2]\nneed_more = true").unwrap_err();
        one("hex = '01 aa'\nlengths = [2]\nfoo = 1").unwrap_err();
    }
}
