//! Runs scenarios, each in a process of its own with a deadline: one that hangs, or is killed
//! by a signal, is an answer like any other.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::scenarios::{self, Scenario};
use super::transcript::Answers;

/// How long a scenario may take before it counts as hanging.
const DEADLINE: Duration = Duration::from_secs(20);

/// The line before a transcript among other output.
pub const BEGIN: &str = "=== transcript begins";

/// The line after it.
pub const END: &str = "=== transcript ends";

/// What to run, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The program that runs one scenario as `one BACK-END PATIENCE NAME`.
    pub program: PathBuf,
    /// `kernel` or `ours`.
    pub back_end: String,
    /// Multiplies waiting times.
    pub patience: u32,
    /// How many at a time.
    pub jobs: usize,
}

impl Plan {
    /// Runs the given scenarios; the answers of each.
    pub fn run(&self, list: &[&Scenario]) -> Answers {
        let next = AtomicUsize::new(0);
        let out = Mutex::new(Answers::new());
        std::thread::scope(|s| {
            for _ in 0..self.jobs.max(1) {
                s.spawn(|| {
                    while let Some(scenario) = list.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let answers = self.one(scenario);
                        let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
                        out.insert(scenario.name.to_owned(), answers);
                    }
                });
            }
        });
        out.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the scenarios, and those whose answers are not accepted again, twice, with more
    /// patience and one at a time: on a machine that does much else, an answer may come later
    /// than it is waited for. A difference that stays is one.
    pub fn run_until(
        &self,
        list: &[&Scenario],
        accept: impl Fn(&str, &[String]) -> bool,
    ) -> Answers {
        let mut out = self.run(list);
        for more in [3, 10] {
            let again: Vec<&Scenario> = list
                .iter()
                .copied()
                .filter(|s| out.get(s.name).is_some_and(|a| !accept(s.name, a)))
                .collect();
            let plan = Plan { patience: self.patience * more, jobs: 1, ..self.clone() };
            // With many differences something else is wrong: patience would not mend it.
            if again.is_empty() || again.len() > list.len().div_ceil(8).max(4) {
                break;
            }
            out.extend(plan.run(&again));
        }
        out
    }

    fn one(&self, scenario: &Scenario) -> Vec<String> {
        let child = Command::new(&self.program)
            .args(["one", &self.back_end, &self.patience.to_string(), scenario.name])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match child {
            Ok(c) => c,
            Err(e) => return vec![format!("!! could not be started: {e}")],
        };
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let out = std::thread::spawn(move || text(stdout));
        let err = std::thread::spawn(move || text(stderr));
        let end = Instant::now() + DEADLINE * self.patience;
        let status = loop {
            match child.try_wait() {
                Ok(Some(s)) => break Some(s),
                Ok(None) if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(2)); // between two looks
                }
                _ => {
                    let _ = child.kill();
                    let _ = child.wait();
                    break None;
                }
            }
        };
        let text = out.join().unwrap_or_default();
        let mut answers: Vec<String> =
            text.lines().filter_map(|l| l.strip_prefix("  ")).map(str::to_owned).collect();
        match status {
            Some(s) if s.success() => {}
            Some(s) if s.signal().is_some() => {
                answers.push(format!("killed by signal {}", s.signal().unwrap_or_default()));
            }
            Some(_) => {
                // A panic: the set-up failed, or the back end cannot do this.
                let why = err.join().unwrap_or_default();
                let why = why.lines().filter(|l| !l.is_empty() && !l.starts_with("note:"));
                let why: Vec<&str> = why.take(3).collect();
                answers.push(format!("!! {}", why.join(" / ")));
            }
            None => answers.push("hangs".into()),
        }
        answers
    }
}

fn text(from: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut from) = from {
        let _ = from.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The scenarios whose name contains one of `filters`; all without filters.
pub fn select(filters: &[String]) -> Vec<&'static Scenario> {
    scenarios::all()
        .filter(|s| filters.is_empty() || filters.iter().any(|f| s.name.contains(f.as_str())))
        .collect()
}
