//! The target `parser`: any bytes, cut anywhere.

use std::sync::OnceLock;
use std::time::Instant;

use kcm_core::bpf::run::Exec;
use kcm_core::delineate::{Delineate, Verdict as Answer, WalkLimits};
use kcm_core::message::PsockId;
use kcm_core::parser::Parser;
use kcm_core::parsers;
use kcm_core::strparser::{Blocks, Limits, StrParser};

use super::rng::Rng;
use super::{Fault, Fuzz, Verdict, pieces, text};
use crate::streams::{Native, native};
use crate::{load, parser_table};

/// One in so many cases runs in checked mode too.
const CHECKED: u64 = 8;

/// The most bytes of a case that is not all of a seed.
const BYTES: usize = 300;

/// What one connection brings.
#[derive(Clone, Debug)]
pub struct Case {
    /// Index into the built-in parsers.
    pub parser: usize,
    /// The stream.
    pub bytes: Vec<u8>,
    /// Where it is cut, ascending.
    pub cuts: Vec<usize>,
    /// Whether it runs in checked mode too.
    pub checked: bool,
}

/// The target.
pub struct Parsers;

/// A parser in every form.
struct Forms {
    native: Native,
    interpreter: Parser,
    checked: Parser,
    jit: Option<Parser>,
    /// Streams that mean something to it.
    seeds: Vec<Vec<u8>>,
    /// What is behind a message may tell its length: no promise about prefixes then.
    follower_tells: bool,
}

fn forms() -> &'static [Forms] {
    static FORMS: OnceLock<Vec<Forms>> = OnceLock::new();
    FORMS.get_or_init(|| {
        let tables = parser_table::all().unwrap_or_else(|e| panic!("{e:#}"));
        let load =
            |name: &str, exec| load::built_in(name, exec).unwrap_or_else(|e| panic!("{e:#}"));
        let one = |name: &str| {
            let of_it = || tables.iter().filter(|t| t.program == name).flat_map(|t| &t.cases);
            Forms {
                native: native(name),
                interpreter: load(name, Exec::Interpreter),
                checked: load(name, Exec::Checked),
                jit: Exec::Jit.is_available().then(|| load(name, Exec::Jit)),
                seeds: of_it().map(|c| c.bytes.clone()).filter(|b| b.len() <= 1500).collect(),
                follower_tells: of_it().any(|c| c.follower_tells),
            }
        };
        parsers::all().iter().map(|b| one(b.name())).collect()
    })
}

impl Fuzz for Parsers {
    type Case = Case;

    fn make(rng: &mut Rng) -> Case {
        let forms = forms();
        let parser = rng.below(forms.len() as u64) as usize;
        let mut bytes = stream(&forms[parser].seeds, rng);
        for _ in 0..rng.pick(&[0u64, 1, 1, 2, 4]) {
            mutate(&mut bytes, rng);
        }
        let n = rng.below(6);
        let mut cuts: Vec<usize> =
            (0..n).map(|_| rng.below(bytes.len() as u64 + 1) as usize).collect();
        if rng.one_in(20) {
            cuts = (0..bytes.len()).collect();
        }
        cuts.sort_unstable();
        cuts.dedup();
        Case { parser, bytes, cuts, checked: rng.one_in(CHECKED) }
    }

    fn check(case: &Case, fault: Option<Fault>) -> Result<Verdict, String> {
        check(case, fault).map_err(|what| {
            let name = parsers::all()[case.parser].name();
            format!("{name}: {what}: {} cut at {:?}", case.bytes.escape_ascii(), case.cuts)
        })
    }

    fn smaller(case: &Case) -> Vec<Case> {
        let mut all = Vec::new();
        for range in pieces(case.cuts.len()) {
            let mut c = case.clone();
            c.cuts.drain(range);
            all.push(c);
        }
        for range in pieces(case.bytes.len()) {
            let mut c = case.clone();
            c.bytes.drain(range.clone());
            for cut in &mut c.cuts {
                let left_out = cut.saturating_sub(range.start).min(range.len());
                *cut -= left_out;
            }
            c.cuts.dedup();
            all.push(c);
        }
        all
    }

    fn write(case: &Case) -> Vec<u8> {
        let cuts: Vec<String> = case.cuts.iter().map(ToString::to_string).collect();
        format!(
            "# {}\nparser {}\nbytes {}\ncuts {}\n",
            case.bytes.escape_ascii(),
            parsers::all()[case.parser].name(),
            text::hex(&case.bytes),
            cuts.join(" ")
        )
        .into_bytes()
    }

    fn read(file: &[u8]) -> Result<Case, String> {
        let text = std::str::from_utf8(file).map_err(|e| e.to_string())?;
        let mut case = Case { parser: 0, bytes: Vec::new(), cuts: Vec::new(), checked: true };
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "parser" => {
                    let all = parsers::all();
                    let found = all.iter().position(|b| b.name() == rest);
                    case.parser = found.ok_or_else(|| format!("no parser {rest}"))?;
                }
                "bytes" => case.bytes = text::unhex(rest)?,
                "cuts" => {
                    let number = |w: &str| w.parse().map_err(|_| format!("{w} is no number"));
                    case.cuts = rest.split_whitespace().map(number).collect::<Result<_, _>>()?;
                }
                "" => {}
                other => return Err(format!("no such word: {other}")),
            }
        }
        Ok(case)
    }
}

/// Pieces of seeds, or bytes of no meaning.
fn stream(seeds: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    if seeds.is_empty() || rng.one_in(8) {
        let n = rng.below(BYTES as u64) as usize;
        return rng.bytes(n);
    }
    for _ in 0..rng.between(1, 3) {
        let seed = &seeds[rng.below(seeds.len() as u64) as usize];
        if rng.one_in(4) {
            let from = rng.below(seed.len() as u64 + 1) as usize;
            bytes.extend_from_slice(&seed[from..]);
        } else {
            bytes.extend_from_slice(seed);
        }
        if bytes.len() > BYTES {
            break;
        }
    }
    if rng.one_in(4) {
        bytes.truncate(rng.below(bytes.len() as u64 + 1) as usize);
    }
    bytes
}

fn mutate(bytes: &mut Vec<u8>, rng: &mut Rng) {
    let at = rng.below(bytes.len() as u64 + 1) as usize;
    let some = |rng: &mut Rng| match rng.below(4) {
        0 => rng.bits() as u8,
        1 => rng.pick(b"\r\n:*$+-0123456789 abc\0"),
        2 => rng.below(8) as u8,
        _ => rng.pick(&[0, 0x7f, 0x80, 0xff, 1, 0xfe]),
    };
    match rng.below(6) {
        0 => bytes.insert(at, some(rng)),
        1 if at < bytes.len() => drop(bytes.remove(at)),
        2 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
        3 => {
            let piece = bytes[at..].to_vec();
            let n = rng.below(20).min(piece.len() as u64) as usize;
            let to = rng.below(bytes.len() as u64 + 1) as usize;
            bytes.splice(to..to, piece[..n].iter().copied());
        }
        _ if at < bytes.len() => bytes[at] = some(rng),
        _ => bytes.push(some(rng)),
    }
}

/// Limits of a walk: small enough to be met.
const WALK: WalkLimits = WalkLimits { max_message: 4096, max_ends: 1000 };

fn check(case: &Case, fault: Option<Fault>) -> Result<Verdict, String> {
    let forms = &forms()[case.parser];
    let bytes = &case.bytes[..];
    let first = forms.native.parse(bytes);

    // All say the same, and walk the same way.
    let walked = |d: &dyn Delineate| {
        let mut ends = Vec::new();
        let end = d.walk(bytes, 0, WALK, &mut ends);
        (ends, end)
    };
    let native = walked(&forms.native);
    let compiled = forms.jit.as_ref();
    let executors = [Some(&forms.interpreter), case.checked.then_some(&forms.checked), compiled];
    for parser in executors.into_iter().flatten() {
        let (exec, mut said) = (parser.exec(), parser.parse(bytes));
        if fault == Some(Fault::Result) && bytes.len() == 4 {
            // As of a bounds check that is off by one.
            said = Answer::NeedMore;
        }
        if said != first {
            return Err(format!("{exec:?} says {said:?}, native code {first:?}"));
        }
        let walk = walked(parser);
        if walk != native {
            return Err(format!("{exec:?} walks {walk:?}, native code {native:?}"));
        }
    }

    // What was answered once stays.
    if !forms.follower_tells {
        let step = 1 + bytes.len() / 64;
        let mut known = Answer::NeedMore;
        for n in (0..bytes.len()).step_by(step).chain([bytes.len()]) {
            let said = forms.native.parse(&bytes[..n]);
            if known != Answer::NeedMore && said != known {
                return Err(format!("{known:?} became {said:?} with {n} bytes"));
            }
            known = said;
        }
        let whole = arrive(forms, bytes, &[]);
        let cut = arrive(forms, bytes, &case.cuts);
        if whole != cut {
            return Err(format!("in pieces: {cut:?}, in one: {whole:?}"));
        }
    }
    Ok(match (native.0.len(), first) {
        (0, Answer::NeedMore) => Verdict::Refused("needs more".into()),
        (0, Answer::Message(_)) => Verdict::Accepted("a message to come"),
        (0, Answer::Error(_)) => Verdict::Refused("an error".into()),
        (1, _) => Verdict::Accepted("one message"),
        _ => Verdict::Accepted("some messages"),
    })
}

/// The messages that a stream parser makes of a stream in pieces, and how it ends.
fn arrive(forms: &Forms, bytes: &[u8], cuts: &[usize]) -> (Vec<Vec<u8>>, String) {
    let limits = Limits { max_message: 4096, ..Limits::default() };
    let parser = forms.jit.as_ref().unwrap_or(&forms.interpreter);
    let mut strp = StrParser::new(parser.clone(), PsockId::default(), limits);
    let mut blocks = Blocks::default();
    let now = Instant::now();
    let mut messages = Vec::new();
    let mut all = |strp: &mut StrParser<Parser>| {
        loop {
            match strp.parse(now) {
                Ok(Some(batch)) => messages.extend(batch.iter().map(<[u8]>::to_vec)),
                Ok(None) => return None,
                Err(e) => return Some(format!("{e:?}")),
            }
        }
    };
    let mut end = None;
    let mut start = 0;
    for stop in cuts.iter().copied().filter(|c| *c < bytes.len()).chain([bytes.len()]) {
        while start < stop && end.is_none() {
            let room = strp.read_buf(&mut blocks);
            let take = (stop - start).min(room.capacity() - room.len());
            room.extend_from_slice(&bytes[start..start + take]);
            start += take;
            end = all(&mut strp);
        }
        strp.release(&mut blocks);
    }
    let end = end.unwrap_or_else(|| {
        strp.eof();
        all(&mut strp).unwrap_or_else(|| "no end".into())
    });
    (messages, end)
}
