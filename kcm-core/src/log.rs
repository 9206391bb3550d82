//! A parser's log lines, in the application's log.
//!
//! A parser logs with aya-log's macros (`kcm_ebpf::info!` and its like). They write records
//! into the program's ring buffer [`RING`]; this module reads one record, whichever engine it
//! came from, and hands it to the `log` crate with its level, target, module, file and
//! line (`tracing` gets them through its `tracing-log`). The formats are those of
//! aya-log-common 0.2, whose own decoder wants a kernel.
//!
//! Records are as trustworthy as the parser and its stream: text is shown with control
//! characters escaped, what cannot be decoded is counted and reported, and no more lines than
//! [`set_rate`] allows are written each second, however many a parser sends.

use std::fmt::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use ::log::{Level, Metadata, Record};
use parking_lot::Mutex;

use crate::bpf::map::Map;

/// The name of the ring-buffer map that log records come through.
pub const RING: &str = "AYA_LOGS";

/// The name of the program's global (one byte) with the least important level that it writes:
/// a level beyond it costs a comparison in the parser.
pub const LEVEL_GLOBAL: &str = "AYA_LOG_LEVEL";

/// The most bytes a record has; aya-log writes none that are larger.
pub const MAX_RECORD: usize = 8192;

/// Lines each second unless [`set_rate`] says otherwise.
pub const DEFAULT_RATE: u32 = 100;

/// The target of what this module itself has to say.
const OWN: &str = "kcm_core::log";

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivery {
    /// It is in the application's log.
    Logged,
    /// The application wants no lines of this level and target.
    Disabled,
    /// Too many lines this second: it was left out and counted.
    Limited,
    /// It is no record of aya-log.
    Malformed,
}

/// Why bytes are no log record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The record ends inside a field.
    #[error("the log record ends at byte {at}, inside a field")]
    Truncated {
        /// Where it ends.
        at: usize,
    },
    /// A field is not the one that belongs there.
    #[error("the log record has field {found} at byte {at}, where {expected} belongs")]
    Field {
        /// Where.
        at: usize,
        /// The number of its kind.
        found: u8,
        /// What should be there.
        expected: &'static str,
    },
    /// A field's size is not that of its kind.
    #[error("the log record has {size} bytes for {what} at byte {at}")]
    Size {
        /// Where.
        at: usize,
        /// Its size.
        size: usize,
        /// What it should be.
        what: &'static str,
    },
}

/// The application's level as [`LEVEL_GLOBAL`] takes it: 0 for none, 1 for errors to 5 for
/// everything.
pub fn level() -> u8 {
    ::log::STATIC_MAX_LEVEL.min(::log::max_level()) as u8
}

/// Whether the application wants any line of a parser at all.
pub fn enabled() -> bool {
    level() > 0
}

/// How many lines of all parsers together are written each second, at most; as many may come
/// at once. 0 for none.
pub fn set_rate(lines_per_second: u32) {
    LIMITER.lock().rate = lines_per_second;
}

/// Decodes a record and writes it to the application's log. Never fails loudly: see
/// [`Delivery`].
pub fn deliver(record: &[u8]) -> Delivery {
    if !enabled() {
        return Delivery::Disabled;
    }
    let line = match Line::decode(record) {
        Ok(line) => line,
        Err(error) => {
            if admitted() {
                ::log::warn!(target: OWN, "a parser wrote {} bytes to its log that are no line: {error}", record.len());
            }
            return Delivery::Malformed;
        }
    };
    let target = Clean(line.target).to_string();
    let metadata = Metadata::builder().level(line.level).target(&target).build();
    if line.level > ::log::STATIC_MAX_LEVEL
        || line.level > ::log::max_level()
        || !::log::logger().enabled(&metadata)
    {
        return Delivery::Disabled;
    }
    if !admitted() {
        return Delivery::Limited;
    }
    let (module, file) = (Clean(line.module).to_string(), Clean(line.file).to_string());
    ::log::logger().log(
        &Record::builder()
            .metadata(metadata)
            .args(format_args!("{line}"))
            .module_path(Some(&module))
            .file(Some(&file))
            .line(Some(line.line))
            .build(),
    );
    Delivery::Logged
}

/// Delivers all records that are in a program's ring now; gives how many there were. Nothing
/// happens with a map that is no ring. The engine in process calls this after a program that
/// logs has run; whoever reads the ring of another engine does it like this.
#[inline]
pub fn drain(ring: &Map) -> usize {
    match ring.ring().map(|ring| ring.positions()) {
        Some((_, consumed, produced)) if consumed != produced => drain_some(ring),
        _ => 0,
    }
}

/// Records taken in one go: others may write as fast as this one reads.
const DRAINED: usize = 4096;

#[cold]
fn drain_some(ring: &Map) -> usize {
    let mut record = Vec::new();
    for n in 0..DRAINED {
        if !matches!(ring.read_record(&mut record), Ok(true)) {
            return n;
        }
        deliver(&record);
    }
    DRAINED
}

/// Whether another line may be written now; reports those that were left out before.
fn admitted() -> bool {
    let (admitted, missed) = {
        let mut limiter = LIMITER.lock();
        (limiter.admit(Instant::now()), limiter.report())
    };
    if let Some(missed) = missed {
        ::log::warn!(target: OWN, "{missed} log lines of parsers were left out: there were too many");
    }
    admitted
}

static LIMITER: Mutex<Limiter> = Mutex::new(Limiter::new(DEFAULT_RATE));

/// A bucket that fills at the rate, up to what one second brings.
struct Limiter {
    rate: u32,
    /// Lines that may be written at once, in thousandths; full at first.
    room: u64,
    filled: Option<Instant>,
    missed: u64,
}

impl Limiter {
    const fn new(rate: u32) -> Self {
        Limiter { rate, room: u64::MAX, filled: None, missed: 0 }
    }

    fn admit(&mut self, now: Instant) -> bool {
        let since = self.filled.map_or(0, |then| now.saturating_duration_since(then).as_millis());
        let full = u64::from(self.rate) * 1000;
        let more = u64::from(self.rate).saturating_mul(u64::try_from(since).unwrap_or(u64::MAX));
        // The clock is noted only when it moved on, so that no part of a millisecond is lost.
        if more > 0 || self.filled.is_none() {
            self.filled = Some(now);
        }
        self.room = self.room.saturating_add(more).min(full);
        match self.room.checked_sub(1000) {
            Some(room) => {
                self.room = room;
                true
            }
            None => {
                self.missed += 1;
                false
            }
        }
    }

    /// How many lines were left out, once it is a line's turn again.
    fn report(&mut self) -> Option<u64> {
        (self.missed > 0 && self.room >= 1000).then(|| std::mem::take(&mut self.missed))
    }
}

/// A decoded record. It prints as the line's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// What the line is about; aya-log's default is the module.
    pub target: &'a [u8],
    /// How important it is.
    pub level: Level,
    /// The module it was written in.
    pub module: &'a [u8],
    /// The source file it was written in.
    pub file: &'a [u8],
    /// The line in that file.
    pub line: u32,
    /// The arguments, checked: every field is whole and of the size of its kind.
    arguments: &'a [u8],
    count: u32,
}

impl<'a> Line<'a> {
    /// Decodes a record. What stands behind its length, padding of the slot in the ring, is
    /// left alone.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(record: &'a [u8]) -> Result<Self, DecodeError> {
        let truncated = DecodeError::Truncated { at: record.len() };
        let size = record.first_chunk::<2>().ok_or(truncated)?;
        let size = usize::from(u16::from_le_bytes(*size));
        let mut fields = Fields { record: record.get(..size).ok_or(truncated)?, at: 2 };
        let target = fields.header(0, "the target")?;
        let level = fields.header(1, "the level")?;
        let level = match level {
            [1] => Level::Error,
            [2] => Level::Warn,
            [3] => Level::Info,
            [4] => Level::Debug,
            [5] => Level::Trace,
            _ => return Err(fields.size(level.len(), "a level from 1 to 5")),
        };
        let module = fields.header(2, "the module")?;
        let file = fields.header(3, "the file")?;
        let line = fields.word(4, "the line")?;
        let count = fields.word(5, "the number of arguments")?;
        let arguments = fields.record.get(fields.at..).unwrap_or_default();
        for _ in 0..count {
            let at = fields.at;
            let (kind, value) = fields.next()?;
            let Some(argument) = Argument::of(kind) else {
                return Err(DecodeError::Field { at, found: kind, expected: "an argument" });
            };
            if argument.size().is_some_and(|size| size != value.len()) {
                return Err(DecodeError::Size { at, size: value.len(), what: "an argument" });
            }
        }
        Ok(Line { target, level, module, file, line, arguments, count })
    }
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = Fields { record: self.arguments, at: 0 };
        let mut hint = Hint::Default;
        for _ in 0..self.count {
            // `decode` has been over them: there is always another.
            let Ok((kind, value)) = fields.next() else { break };
            match (Argument::of(kind), value) {
                (Some(Argument::Hint), [number]) => hint = Hint::of(*number),
                (Some(argument), value) => {
                    argument.print(value, hint, f)?;
                    hint = Hint::Default;
                }
                (None, _) => break,
            }
        }
        Ok(())
    }
}

/// Goes through the fields of a record: a kind, two bytes of length, the value.
struct Fields<'a> {
    record: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<(u8, &'a [u8]), DecodeError> {
        let rest = self.record.get(self.at..).unwrap_or_default();
        let truncated = DecodeError::Truncated { at: self.record.len() };
        let ([kind, a, b], rest) = rest.split_first_chunk::<3>().ok_or(truncated)?;
        let size = usize::from(u16::from_le_bytes([*a, *b]));
        let value = rest.get(..size).ok_or(truncated)?;
        self.at += 3 + size;
        Ok((*kind, value))
    }

    fn header(&mut self, kind: u8, expected: &'static str) -> Result<&'a [u8], DecodeError> {
        let at = self.at;
        match self.next()? {
            (found, value) if found == kind => Ok(value),
            (found, _) => Err(DecodeError::Field { at, found, expected }),
        }
    }

    fn word(&mut self, kind: u8, expected: &'static str) -> Result<u32, DecodeError> {
        let value = self.header(kind, expected)?;
        let word = value.try_into().map_err(|_| self.size(value.len(), expected))?;
        Ok(u32::from_le_bytes(word))
    }

    /// What to say of the last field, whose value had `size` bytes.
    fn size(&self, size: usize, what: &'static str) -> DecodeError {
        DecodeError::Size { at: self.at.saturating_sub(3 + size), size, what }
    }
}

/// What an argument is.
#[derive(Clone, Copy)]
enum Argument {
    Hint,
    Signed(usize),
    Unsigned(usize),
    F32,
    F64,
    Ipv4,
    Ipv6,
    Bytes4,
    Bytes6,
    Bytes16,
    Words8,
    Bytes,
    Str,
    Pointer,
}

impl Argument {
    fn of(kind: u8) -> Option<Self> {
        Some(match kind {
            0 => Argument::Hint,
            1 => Argument::Signed(1),
            2 => Argument::Signed(2),
            3 => Argument::Signed(4),
            4 | 5 => Argument::Signed(8),
            6 => Argument::Unsigned(1),
            7 => Argument::Unsigned(2),
            8 => Argument::Unsigned(4),
            9 | 10 => Argument::Unsigned(8),
            11 => Argument::F32,
            12 => Argument::F64,
            13 => Argument::Ipv4,
            14 => Argument::Ipv6,
            15 => Argument::Bytes4,
            16 => Argument::Bytes6,
            17 => Argument::Bytes16,
            18 => Argument::Words8,
            19 => Argument::Bytes,
            20 => Argument::Str,
            21 => Argument::Pointer,
            _ => return None,
        })
    }

    /// How many bytes its value has, where that is fixed.
    fn size(self) -> Option<usize> {
        match self {
            Argument::Signed(size) | Argument::Unsigned(size) => Some(size),
            Argument::Hint => Some(1),
            Argument::F32 | Argument::Ipv4 | Argument::Bytes4 => Some(4),
            Argument::F64 | Argument::Pointer => Some(8),
            Argument::Bytes6 => Some(6),
            Argument::Ipv6 | Argument::Bytes16 | Argument::Words8 => Some(16),
            Argument::Bytes | Argument::Str => None,
        }
    }

    fn print(self, value: &[u8], hint: Hint, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut word = [0; 8];
        if let (true, Some(bytes)) = (value.len() <= 8, word.get_mut(..value.len())) {
            bytes.copy_from_slice(value);
        }
        let word = u64::from_le_bytes(word);
        match self {
            Argument::Hint => Ok(()),
            Argument::Signed(size) => {
                let unused = 64 - 8 * size as u32;
                let number = ((word << unused) as i64) >> unused;
                match hint {
                    // As Rust prints a negative number in hex: its own width, two's complement.
                    Hint::LowerHex => write!(f, "{word:x}"),
                    Hint::UpperHex => write!(f, "{word:X}"),
                    _ => write!(f, "{number}"),
                }
            }
            Argument::Unsigned(size) => match hint {
                Hint::LowerHex => write!(f, "{word:x}"),
                Hint::UpperHex => write!(f, "{word:X}"),
                Hint::Ip if size == 4 => write!(f, "{}", Ipv4Addr::from(word as u32)),
                _ => write!(f, "{word}"),
            },
            Argument::F32 => write!(f, "{}", f32::from_bits(word as u32)),
            Argument::F64 => write!(f, "{}", f64::from_bits(word)),
            Argument::Pointer => write!(f, "{word:#x}"),
            Argument::Ipv4 => write!(f, "{}", Ipv4Addr::from((word as u32).to_le_bytes())),
            Argument::Ipv6 => ipv6(value, f),
            Argument::Bytes4 if hint == Hint::Ip => {
                write!(f, "{}", Ipv4Addr::from((word as u32).to_le_bytes()))
            }
            Argument::Bytes16 if hint == Hint::Ip => ipv6(value, f),
            Argument::Words8 => {
                let mut words = [0u16; 8];
                for (word, bytes) in words.iter_mut().zip(value.as_chunks::<2>().0) {
                    *word = u16::from_le_bytes(*bytes);
                }
                match hint {
                    Hint::Ip => write!(f, "{}", Ipv6Addr::from(words)),
                    _ => write!(f, "{words:?}"),
                }
            }
            Argument::Str => write!(f, "{}", Clean(value)),
            Argument::Bytes4 | Argument::Bytes6 | Argument::Bytes16 | Argument::Bytes => match hint
            {
                Hint::LowerMac => hex(value, ":", false, f),
                Hint::UpperMac => hex(value, ":", true, f),
                Hint::LowerHex => hex(value, "", false, f),
                Hint::UpperHex => hex(value, "", true, f),
                _ => write!(f, "{value:?}"),
            },
        }
    }
}

/// How an argument is to be shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hint {
    Default,
    LowerHex,
    UpperHex,
    Ip,
    LowerMac,
    UpperMac,
}

impl Hint {
    /// What does not exist, and what an argument's kind says already, is the default.
    fn of(number: u8) -> Self {
        match number {
            2 => Hint::LowerHex,
            3 => Hint::UpperHex,
            4 => Hint::Ip,
            5 => Hint::LowerMac,
            6 => Hint::UpperMac,
            _ => Hint::Default,
        }
    }
}

fn ipv6(value: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match value.first_chunk::<16>() {
        Some(bytes) => write!(f, "{}", Ipv6Addr::from(*bytes)),
        None => Ok(()),
    }
}

fn hex(value: &[u8], between: &str, upper: bool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (i, byte) in value.iter().enumerate() {
        if i > 0 {
            f.write_str(between)?;
        }
        if upper { write!(f, "{byte:02X}")? } else { write!(f, "{byte:02x}")? }
    }
    Ok(())
}

/// Text from a parser: whatever is no UTF-8 replaced, and control characters escaped, so that
/// a stream cannot write lines of its own into the log or talk to a terminal.
struct Clean<'a>(&'a [u8]);

impl fmt::Display for Clean<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() { write!(f, "{}", c.escape_default())? } else { f.write_char(c)? }
            }
            if !chunk.invalid().is_empty() {
                f.write_char(char::REPLACEMENT_CHARACTER)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aya_log_common::{DisplayHint, Field, Header, Level as Theirs};
    use proptest::prelude::*;

    use super::*;

    /// A record as aya-log's macros build one, in a padded slot.
    struct Builder {
        fields: Vec<u8>,
        count: u32,
    }

    impl Builder {
        fn new() -> Self {
            Builder { fields: Vec::new(), count: 0 }
        }

        fn add(mut self, argument: impl aya_log_common::Argument) -> Self {
            let (kind, value) = argument.as_argument();
            let field = Field::new(kind, value).unwrap();
            let add = &mut |bytes: &[u8]| {
                self.fields.extend_from_slice(bytes);
                Some(())
            };
            field.with_bytes(add).unwrap();
            self.count += 1;
            self
        }

        fn finish(self) -> Vec<u8> {
            let header = Header::new(
                "my_parser",
                Theirs::Warn,
                "my_parser::frame",
                "src/frame.rs",
                42,
                self.count,
            );
            let mut record = vec![0, 0];
            header
                .unwrap()
                .with_bytes(&mut |bytes| {
                    record.extend_from_slice(bytes);
                    Some(())
                })
                .unwrap();
            record.extend_from_slice(&self.fields);
            let size = record.len() as u16;
            record[..2].copy_from_slice(&size.to_le_bytes());
            record.resize(record.len().next_power_of_two().max(64), 0xaa);
            record
        }
    }

    fn text(builder: Builder) -> String {
        Line::decode(&builder.finish()).unwrap().to_string()
    }

    fn shown(hint: DisplayHint, argument: impl aya_log_common::Argument) -> String {
        text(Builder::new().add(hint).add(argument))
    }

    #[test]
    fn a_record_gives_back_what_was_logged() {
        let record = Builder::new()
            .add("length ")
            .add(DisplayHint::Default)
            .add(4096u32)
            .add(" is over ")
            .add(DisplayHint::LowerHex)
            .add(255u64)
            .finish();
        let line = Line::decode(&record).unwrap();
        assert_eq!(line.to_string(), "length 4096 is over ff");
        assert_eq!((line.target, line.level), (&b"my_parser"[..], Level::Warn));
        assert_eq!((line.module, line.file), (&b"my_parser::frame"[..], &b"src/frame.rs"[..]));
        assert_eq!(line.line, 42);
    }

    #[test]
    fn every_kind_of_argument_is_shown_as_its_hint_says() {
        use DisplayHint::*;
        assert_eq!(shown(Default, -5i8), "-5");
        assert_eq!(shown(LowerHex, -5i8), "fb");
        assert_eq!(shown(Default, i64::MIN), i64::MIN.to_string());
        assert_eq!(shown(UpperHex, -1i16), "FFFF");
        assert_eq!(shown(Default, -7i32), "-7");
        assert_eq!(shown(Default, -7isize), "-7");
        assert_eq!(shown(Default, 200u8), "200");
        assert_eq!(shown(UpperHex, 0xabcdu16), "ABCD");
        assert_eq!(shown(Default, u64::MAX), u64::MAX.to_string());
        assert_eq!(shown(Default, 7usize), "7");
        assert_eq!(shown(Ip, 0x7f00_0001u32), "127.0.0.1");
        assert_eq!(shown(Default, 1.5f32), "1.5");
        assert_eq!(shown(Default, -0.25f64), "-0.25");
        assert_eq!(shown(Default, Ipv4Addr::new(10, 0, 0, 1)), "10.0.0.1");
        assert_eq!(shown(Default, Ipv6Addr::LOCALHOST), "::1");
        assert_eq!(shown(Ip, [10, 1, 2, 3]), "10.1.2.3");
        assert_eq!(shown(Ip, Ipv6Addr::LOCALHOST.octets()), "::1");
        assert_eq!(shown(LowerMac, [1, 2, 0xab, 0xcd, 5, 6]), "01:02:ab:cd:05:06");
        assert_eq!(shown(UpperMac, [1, 2, 0xab, 0xcd, 5, 6]), "01:02:AB:CD:05:06");
        assert_eq!(shown(LowerHex, &b"\x00\x7f\xff"[..]), "007fff");
        assert_eq!(shown(UpperHex, &b"\x00\x7f\xff"[..]), "007FFF");
        assert_eq!(shown(Default, [1u8, 2, 3, 4]), "[1, 2, 3, 4]");
        assert_eq!(shown(Default, "text"), "text");
        assert_eq!(shown(Pointer, 0x1000 as *const u8), "0x1000");
        // A hint is for the next argument alone, and one that does not fit is none.
        let two = Builder::new().add(LowerHex).add(255u8).add(" ").add(255u8);
        assert_eq!(text(two), "ff 255");
        assert_eq!(shown(LowerMac, 17u8), "17");
    }

    #[test]
    fn the_words_of_an_ipv6_address_are_shown_as_one() {
        // aya-log has the kind, and no argument that makes it.
        let mut record = Builder::new().add(DisplayHint::Ip).add([0u8; 16]).finish();
        let size = usize::from(u16::from_le_bytes([record[0], record[1]]));
        record[size - 19] = 18;
        for (i, word) in Ipv6Addr::LOCALHOST.segments().into_iter().enumerate() {
            record[size - 16 + 2 * i..][..2].copy_from_slice(&word.to_le_bytes());
        }
        assert_eq!(Line::decode(&record).unwrap().to_string(), "::1");
    }

    #[test]
    fn a_stream_cannot_write_lines_of_its_own() {
        let evil = "ok\nERROR forged\x1b[2J\u{85}";
        assert_eq!(text(Builder::new().add(evil)), r"ok\nERROR forged\u{1b}[2J\u{85}");
        let mut record = Builder::new().add("abc").finish();
        let size = usize::from(u16::from_le_bytes([record[0], record[1]]));
        record[size - 2] = 0xff;
        assert_eq!(Line::decode(&record).unwrap().to_string(), "a\u{fffd}c");
    }

    #[test]
    fn a_record_cut_off_anywhere_is_an_error() {
        let record = Builder::new().add("a").add(DisplayHint::Default).add(7u32).finish();
        let size = usize::from(u16::from_le_bytes([record[0], record[1]]));
        for end in 0..size {
            assert!(Line::decode(&record[..end]).is_err(), "cut off at {end}");
            let mut short = record.clone();
            short[..2].copy_from_slice(&(end as u16).to_le_bytes());
            assert!(Line::decode(&short).is_err(), "said to be {end} bytes long");
        }
        assert!(Line::decode(&record[..size]).is_ok());
    }

    #[test]
    fn fields_that_are_not_what_belongs_there_are_errors() {
        let good = Builder::new().add(7u32).finish();
        let changed = |at: usize, to: u8| {
            let mut record = good.clone();
            record[at] = to;
            Line::decode(&record).unwrap_err()
        };
        assert_eq!(changed(2, 9), DecodeError::Field { at: 2, found: 9, expected: "the target" });
        let level = 2 + 3 + "my_parser".len();
        let what = "a level from 1 to 5";
        assert_eq!(changed(level + 3, 6), DecodeError::Size { at: level, size: 1, what });
        let size = usize::from(u16::from_le_bytes([good[0], good[1]]));
        let argument = size - 7;
        assert_eq!(
            changed(argument, 99),
            DecodeError::Field { at: argument, found: 99, expected: "an argument" }
        );
        assert_eq!(
            changed(argument, 9),
            DecodeError::Size { at: argument, size: 4, what: "an argument" }
        );
        // More arguments than the record has.
        assert!(matches!(changed(argument - 4, 9), DecodeError::Truncated { .. }));
    }

    #[test]
    fn no_more_lines_are_admitted_than_the_rate_allows() {
        let mut limiter = Limiter::new(10);
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let burst = (0..50).filter(|_| limiter.admit(at(0))).count();
        assert_eq!(burst, 10, "what a second brings may come at once");
        assert_eq!(limiter.report(), None, "nothing to say while nobody may say it");
        let later = (1..=1000).filter(|ms| limiter.admit(at(*ms))).count();
        assert_eq!(later, 10, "asked every millisecond for a second");
        assert!(limiter.admit(at(10_000)));
        assert_eq!(limiter.report(), Some(40 + 990), "all that were left out");
        assert_eq!(limiter.report(), None);
        assert_eq!((0..50).filter(|_| limiter.admit(at(10_000))).count(), 9);
        let mut none = Limiter::new(0);
        assert!(!(0..5).any(|s| none.admit(at(s * 1000))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            at in 0usize..200,
            flip in any::<u8>(),
        ) {
            let _ = Line::decode(&bytes).map(|line| line.to_string());
            let mut record = Builder::new()
                .add("x")
                .add(DisplayHint::Ip)
                .add([1u8; 16])
                .add(DisplayHint::UpperMac)
                .add([1u8; 6])
                .add(5u64)
                .finish();
            let at = at % record.len();
            record[at] = flip;
            let _ = Line::decode(&record).map(|line| line.to_string());
        }
    }
}
