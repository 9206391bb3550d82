//! Fuzzing by seeds: the same number makes the same case, on every machine and for ever.
//!
//! Targets are named; [`run`] drives one for a time or a number of cases, on as many threads as
//! wanted. A finding says its seed, and is made small and written to a file: in the tree such
//! files lie in `tests/data/fuzz/TARGET`, where the ordinary tests replay them with everything
//! on. Cases are not chosen by coverage, so that a seed alone says which they are; instead each
//! generator covers by construction, and a report says what became of the cases.

pub mod generate;
pub mod kernel;
pub mod object;
pub mod parser;
pub mod program;
pub mod rng;
pub mod text;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rng::Rng;

/// What a target made of one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The input was taken, and held to everything it must hold to; what kind it was of.
    Accepted(&'static str),
    /// The input was refused, properly; by what rule.
    Refused(String),
}

/// What a test of the tests puts in, to see it found. None of it is in what is tested: answers are
/// changed on their way here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An executor gives another result, now and then.
    Result,
    /// Something is left behind otherwise than it should be: a byte of a map, a linked jump.
    State,
}

/// One way to fuzz.
pub trait Fuzz {
    /// An input.
    type Case: Clone;

    /// Makes an input.
    fn make(rng: &mut Rng) -> Self::Case;

    /// Holds what is tested to what it promises, on this input; `fault` is put in, where the
    /// target has a place for it.
    ///
    /// # Errors
    /// The finding.
    fn check(case: &Self::Case, fault: Option<Fault>) -> Result<Verdict, String>;

    /// Inputs that are a little smaller, the smallest first.
    fn smaller(case: &Self::Case) -> Vec<Self::Case>;

    /// As a file, with comments for people.
    fn write(case: &Self::Case) -> Vec<u8>;

    /// Reads such a file. Everything that is checked of a share of the cases only is checked
    /// of this one.
    ///
    /// # Errors
    /// What is not in the format.
    fn read(file: &[u8]) -> Result<Self::Case, String>;
}

/// A fuzz target.
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub about: &'static str,
    /// Whether it can run anywhere: it asks nobody but us.
    pub alone: bool,
    case: fn(u64, Option<Fault>) -> Result<Verdict, String>,
    shrunk: fn(u64, Option<Fault>) -> (Vec<u8>, String),
    file: fn(&[u8]) -> Result<Verdict, String>,
}

const fn target<F: Fuzz>(name: &'static str, about: &'static str, alone: bool) -> Target {
    Target {
        name,
        about,
        alone,
        case: |seed, fault| caught(|| F::check(&F::make(&mut Rng::new(seed)), fault)),
        shrunk: |seed, fault| shrink::<F>(F::make(&mut Rng::new(seed)), fault),
        file: |bytes| caught(|| F::check(&F::read(bytes)?, None)),
    }
}

/// The targets.
pub const TARGETS: &[Target] = &[
    target::<program::Programs>(
        "program",
        "the verifier: a program that is accepted never traps in checked mode, ends, and gives \
         the same result and maps in every executor",
        true,
    ),
    target::<object::Objects>(
        "object",
        "the loader: a file is an object or an error, whatever is in it; what is linked from it \
         is whole, and goes through the verifier",
        true,
    ),
    target::<parser::Parsers>(
        "parser",
        "every built-in parser: native code and all executors say the same of any bytes, no \
         answer changes with more of them, and no cut of a stream changes its messages",
        true,
    ),
    target::<kernel::Kernel>(
        "kernel",
        "the running kernel: its verifier and ours differ in explained ways only, and what both \
         accept returns the same",
        false,
    ),
];

/// The target of that name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|t| t.name == name)
}

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After so many cases.
    Cases(u64),
    /// After so much time.
    Time(Duration),
}

/// What a run found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Cases run.
    pub cases: u64,
    /// Of those, accepted.
    pub accepted: u64,
    /// What became of the cases: kinds of accepted ones, rules of refused ones, with numbers.
    pub mix: BTreeMap<String, u64>,
    /// Findings: seed and what was wrong. A run ends with the tenth.
    pub findings: Vec<(u64, String)>,
    /// How long it took.
    pub took: Duration,
}

impl Report {
    fn count(&mut self, verdict: Verdict) {
        let name = match verdict {
            Verdict::Accepted(kind) => {
                self.accepted += 1;
                format!("accepted: {kind}")
            }
            Verdict::Refused(rule) => format!("refused: {rule}"),
        };
        *self.mix.entry(name).or_default() += 1;
    }

    fn add(&mut self, other: Report) {
        self.cases += other.cases;
        self.accepted += other.accepted;
        self.findings.extend(other.findings);
        for (name, n) in other.mix {
            *self.mix.entry(name).or_default() += n;
        }
    }

    /// Cases per second.
    pub fn rate(&self) -> f64 {
        self.cases as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

/// Seeds a thread takes at a time.
const SHARE: u64 = 64;

/// Runs a target from `seed` on, on so many threads.
pub fn run(target: &Target, seed: u64, until: Until, threads: usize) -> Report {
    run_told(target, seed, until, threads, &|_, _, _| {})
}

/// The same; `tell` is told now and then how many cases were begun, and for how long; and each
/// finding at once, with its seed.
pub fn run_told(
    target: &Target,
    seed: u64,
    until: Until,
    threads: usize,
    tell: &(dyn Fn(u64, Duration, Option<&str>) + Sync),
) -> Report {
    let start = Instant::now();
    let (next, enough) = (AtomicU64::new(0), AtomicBool::new(false));
    let total = Mutex::new(Report::default());
    let work = || {
        let mut own = Report::default();
        loop {
            let first = next.fetch_add(SHARE, Relaxed);
            let most = match until {
                Until::Cases(n) => n.saturating_sub(first).min(SHARE),
                Until::Time(t) if start.elapsed() >= t => 0,
                Until::Time(_) => SHARE,
            };
            if most == 0 || enough.load(Relaxed) {
                break;
            }
            if first.is_multiple_of(SHARE * 64) {
                tell(first, start.elapsed(), None);
            }
            for case in first..first + most {
                let case = seed.wrapping_add(case);
                own.cases += 1;
                match (target.case)(case, None) {
                    Ok(verdict) => own.count(verdict),
                    Err(what) => {
                        tell(case, start.elapsed(), Some(&what));
                        own.findings.push((case, what));
                    }
                }
            }
            if own.findings.len() >= 10 {
                enough.store(true, Relaxed);
            }
        }
        total.lock().unwrap_or_else(|e| e.into_inner()).add(own);
    };
    std::thread::scope(|s| {
        for _ in 1..threads {
            s.spawn(work);
        }
        work();
    });
    let mut report = total.into_inner().unwrap_or_else(|e| e.into_inner());
    report.took = start.elapsed();
    report
}

impl Target {
    /// Runs the one case of a seed. A panic is a finding like any other.
    ///
    /// # Errors
    /// What was wrong.
    pub fn replay(&self, seed: u64) -> Result<Verdict, String> {
        (self.case)(seed, None)
    }

    /// The same with a fault put in.
    ///
    /// # Errors
    /// What was wrong.
    pub fn replay_with(&self, seed: u64, fault: Fault) -> Result<Verdict, String> {
        (self.case)(seed, Some(fault))
    }

    /// Makes the finding of a seed (or of a seed and a fault) small; gives the file and what is
    /// wrong with it.
    pub fn shrink(&self, seed: u64, fault: Option<Fault>) -> (Vec<u8>, String) {
        (self.shrunk)(seed, fault)
    }

    /// Runs the case that is in a file.
    ///
    /// # Errors
    /// What was wrong with the case, or that it is none.
    pub fn file(&self, bytes: &[u8]) -> Result<Verdict, String> {
        (self.file)(bytes)
    }

    /// The files that the ordinary tests replay: findings of old, and what others fell for.
    ///
    /// # Panics
    /// Where the folder cannot be read.
    pub fn files(&self) -> Vec<PathBuf> {
        let dir = folder().join(self.name);
        let read = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        let mut files: Vec<PathBuf> = read.map(|e| e.expect("a folder's entry").path()).collect();
        files.sort();
        files
    }
}

/// Where the files of all targets are.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/fuzz")
}

fn caught(run: impl FnOnce() -> Result<Verdict, String>) -> Result<Verdict, String> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
        Ok(result) => result,
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Err(format!("panicked: {}", text.unwrap_or_default()))
        }
    }
}

/// Takes the first smaller input that is still a finding, until there is none.
fn shrink<F: Fuzz>(mut case: F::Case, fault: Option<Fault>) -> (Vec<u8>, String) {
    let mut what = match caught(|| F::check(&case, fault)) {
        Err(what) => what,
        Ok(_) => return (F::write(&case), "no finding".into()),
    };
    let until = Instant::now() + Duration::from_secs(60);
    'again: while Instant::now() < until {
        for other in F::smaller(&case) {
            if let Err(w) = caught(|| F::check(&other, fault)) {
                (case, what) = (other, w);
                continue 'again;
            }
        }
        break;
    }
    (F::write(&case), what)
}

/// Ever smaller pieces of `0..n` to leave out: halves, quarters, down to single ones.
fn pieces(n: usize) -> Vec<std::ops::Range<usize>> {
    let mut all = Vec::new();
    let mut size = n.div_ceil(2);
    while size > 0 {
        all.extend((0..n).step_by(size).map(|at| at..(at + size).min(n)));
        size /= 2;
    }
    all
}
