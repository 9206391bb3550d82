//! Fuzzing by seeds: the same number makes the same case, on every machine and for ever.
//!
//! Targets are named; [`run`] drives one for a time or a number of cases. A case that fails
//! says its seed; [`replay`] runs it alone.

pub mod exec;
pub mod generate;
pub mod rng;

use std::time::{Duration, Instant};

use rng::Rng;

/// What a target made of one case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The input was taken, and held to everything it must hold to.
    Accepted,
    /// The input was refused, properly.
    Refused,
}

/// A fuzz target: one case from one seed. An error is a finding.
pub type Target = fn(&mut Rng) -> Result<Verdict, String>;

/// The targets by name, with what each holds.
pub const TARGETS: &[(&str, &str, Target)] = &[(
    "exec",
    "random programs: what is accepted never traps in checked mode, ends, and gives the same \
     result and maps in every executor",
    exec::case,
)];

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
    /// Findings: seed and what was wrong. A run ends with the tenth.
    pub findings: Vec<(u64, String)>,
}

/// Runs a target from `seed` on.
pub fn run(target: Target, seed: u64, until: Until) -> Report {
    let start = Instant::now();
    let mut report = Report::default();
    loop {
        let done = match until {
            Until::Cases(n) => report.cases >= n,
            Until::Time(t) => report.cases.is_multiple_of(64) && start.elapsed() >= t,
        };
        if done || report.findings.len() >= 10 {
            return report;
        }
        let case = seed.wrapping_add(report.cases);
        report.cases += 1;
        match replay(target, case) {
            Ok(Verdict::Accepted) => report.accepted += 1,
            Ok(Verdict::Refused) => {}
            Err(what) => report.findings.push((case, what)),
        }
    }
}

/// Runs the one case of a seed. A panic is a finding like any other.
///
/// # Errors
/// What was wrong.
pub fn replay(target: Target, seed: u64) -> Result<Verdict, String> {
    let run = || target(&mut Rng::new(seed));
    match std::panic::catch_unwind(run) {
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
