//! `kcm-bench run`: every workload, ours beside the peers, in rounds: each round runs all
//! variants of a case one after another, so that they are neighbours in time and a ratio
//! compares like with like.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::drive::{Duo, Ran};
use crate::report::{Case, Row};
use crate::rows::{PARTS, Part};
use crate::stats::Spread;
use crate::{markdown, plot, sys, targets};

/// Options of `kcm-bench run`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct RunArgs {
    /// Fewer workloads, shorter runs: a minute or two
    #[arg(long)]
    quick: bool,
    /// Only these parts, separated by commas (default: all)
    #[arg(long, value_delimiter = ',', value_parser = known_part)]
    only: Vec<&'static Part>,
    /// Rounds of each case (default: 5, with --quick 3)
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of one run (default: 0.3, with --quick 0.25)
    #[arg(long)]
    secs: Option<f64>,
    /// Write the figures as JSON to this file (`-`: standard output, the table goes to
    /// standard error)
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the tables as Markdown to this file
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Write plots (SVG) into this directory
    #[arg(long)]
    plots: Option<PathBuf>,
    /// Figures that `kernel-kcm-bench` printed in a guest, for the part `kernel`
    #[arg(long)]
    kernel_figures: Option<PathBuf>,
}

fn known_part(name: &str) -> Result<&'static Part, String> {
    PARTS.iter().find(|p| p.name == name).ok_or_else(|| {
        let names: Vec<&str> = PARTS.iter().map(|p| p.name).collect();
        format!("the parts are {}", names.join(", "))
    })
}

/// A benchmark that is running: its plan, and what it has found.
pub(crate) struct Bench {
    pub(crate) quick: bool,
    pub(crate) rounds: usize,
    /// Of one run.
    pub(crate) secs: f64,
    /// What a guest printed, if one ran.
    pub(crate) kernel_figures: Option<PathBuf>,
    progress: bool,
    cases: Vec<Case>,
    notes: Vec<String>,
    failures: Vec<String>,
    /// CPUs that others used, run by run.
    noise: Vec<f64>,
}

impl Bench {
    /// Takes up a case with its figures.
    pub(crate) fn add(&mut self, case: Case) {
        self.cases.push(case);
    }

    /// Says why something has no figures.
    pub(crate) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// Runs two roles, and notes how quiet the machine was.
    pub(crate) fn duo(&mut self, duo: &Duo) -> Result<Ran> {
        let ran = duo.run()?;
        self.noise.push(ran.noise);
        Ok(ran)
    }

    /// Fills `case` with the variants' figures: in each round all variants, one after another.
    /// A variant that fails is reported, and left out; the others go on.
    pub(crate) fn compare(
        &mut self,
        mut case: Case,
        variants: &[&str],
        mut one: impl FnMut(&mut Bench, &str) -> Result<Vec<f64>>,
    ) {
        case.rows =
            variants.iter().map(|v| Row { variant: (*v).to_owned(), rounds: Vec::new() }).collect();
        for round in 0..self.rounds {
            case.rows.retain_mut(|row| {
                let v = &row.variant;
                if self.progress {
                    let of = self.rounds;
                    eprint!("\r\x1b[K{}: round {}/{of}, {v}", case.title, round + 1);
                }
                match one(self, v) {
                    Ok(figures) => row.rounds.push(figures),
                    Err(e) => {
                        self.failures.push(format!("{}, {v}: {e:#}", case.title));
                        return false;
                    }
                }
                true
            });
        }
        if self.progress {
            eprint!("\r\x1b[K");
        }
        self.add(case);
    }
}

/// Runs everything that was asked for and prints it.
pub(crate) fn run(a: &RunArgs) -> Result<()> {
    let mut bench = Bench {
        quick: a.quick,
        rounds: a.rounds.unwrap_or(if a.quick { 3 } else { 5 }).max(1),
        secs: a.secs.unwrap_or(if a.quick { 0.25 } else { 0.3 }),
        kernel_figures: a.kernel_figures.clone(),
        progress: std::io::stderr().is_terminal(),
        cases: Vec::new(),
        notes: Vec::new(),
        failures: Vec::new(),
        noise: Vec::new(),
    };
    for part in PARTS {
        let wanted = a.only.is_empty() || a.only.iter().any(|p| p.name == part.name);
        if wanted && let Err(e) = (part.measure)(&mut bench) {
            // The other parts' figures are worth having all the same.
            bench.failures.push(format!("part {}: {e:#}", part.name));
        }
    }
    let mut report = Report::of(bench);
    // What was not asked for is not told as unmeasured.
    report.outcomes.retain(|o| {
        a.only.is_empty() || o.value.is_some() || a.only.iter().any(|p| p.name == o.part())
    });
    report.write(a)
}

/// A run during which others used more than this many CPUs says little.
const NOISY: f64 = 0.15;

/// A case whose best and worst run are further apart than this (as a part of the median) says
/// little either, whoever disturbed it.
const WIDE: f64 = 0.5;

/// What a benchmark has found, to be told in several ways.
pub(crate) struct Report {
    pub(crate) machine: String,
    pub(crate) quick: bool,
    pub(crate) rounds: usize,
    pub(crate) secs: f64,
    pub(crate) cases: Vec<Case>,
    pub(crate) outcomes: Vec<targets::Outcome>,
    pub(crate) notes: Vec<String>,
    failures: Vec<String>,
    /// What to know before trusting it.
    pub(crate) warnings: Vec<String>,
    noise: Value,
}

impl Report {
    fn of(bench: Bench) -> Report {
        let Bench { quick, rounds, secs, cases, notes, failures, noise, .. } = bench;
        let noisy = noise.iter().filter(|n| **n > NOISY).count();
        let mut warnings = Vec::new();
        if noisy * 3 > noise.len() {
            warnings.push(format!(
                "the machine was too noisy to tell: in {noisy} of {} runs others used more than \
                 {NOISY} CPUs; trust ratios within a case only, and none near its limit",
                noise.len()
            ));
        }
        let width = |c: &Case, r: &Row| {
            let compared = c.metrics.first()?.name;
            c.spread(&r.variant, compared).map(|s| s.width())
        };
        let widths: Vec<f64> =
            cases.iter().flat_map(|c| c.rows.iter().filter_map(|r| width(c, r))).collect();
        let wide = widths.iter().filter(|w| **w > WIDE).count();
        if wide * 3 > widths.len() {
            warnings.push(format!(
                "the runs do not agree: {wide} of {} figures have a range of more than {} % of \
                 their median",
                widths.len(),
                WIDE * 100.0
            ));
        }
        let cpus = Spread::of(noise.iter().copied());
        let noise = json!({
            "cpus": cpus.json(), "noisy_runs": noisy, "runs": noise.len(), "limit_cpus": NOISY,
            "wide_figures": wide, "figures": widths.len(), "limit_width": WIDE,
        });
        let outcomes = targets::outcomes(&cases);
        let machine = sys::describe();
        Report { machine, quick, rounds, secs, cases, outcomes, notes, failures, warnings, noise }
    }

    fn text(&self) -> String {
        let mut out = format!(
            "{}; medians of {} runs of {} s (min–max)\n",
            self.machine, self.rounds, self.secs
        );
        out.extend(self.cases.iter().map(Case::table));
        out.push_str(&targets::table(&self.outcomes));
        out.push('\n');
        for n in &self.notes {
            out.push_str(&format!("left out: {n}\n"));
        }
        if let (Some(cpus), Some(_)) = (self.noise["cpus"].as_object(), self.noise["runs"].as_u64())
        {
            out.push_str(&format!(
                "CPUs that others used during a run: {} ({}–{})\n",
                cpus["median"], cpus["min"], cpus["max"]
            ));
        }
        for w in &self.warnings {
            out.push_str(&format!("WARNING: {w}\n"));
        }
        for f in &self.failures {
            out.push_str(&format!("FAILED: {f}\n"));
        }
        out
    }

    fn json(&self) -> Value {
        json!({
            "head": {
                "machine": self.machine, "quick": self.quick, "rounds": self.rounds,
                "secs": self.secs, "version": env!("CARGO_PKG_VERSION"),
            },
            "cases": self.cases.iter().map(Case::json).collect::<Vec<_>>(),
            "targets": self.outcomes.iter().map(|o| o.json()).collect::<Vec<_>>(),
            "noise": self.noise, "warnings": self.warnings, "notes": self.notes,
            "failures": self.failures,
        })
    }

    fn write(&self, a: &RunArgs) -> Result<()> {
        let json = serde_json::to_string_pretty(&self.json())? + "\n";
        let save = |path: &PathBuf, text: &str| {
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir)?;
            }
            std::fs::write(path, text)
                .with_context(|| format!("could not write {}", path.display()))
        };
        let mut said = self.text();
        let mut to_stdout = false;
        match &a.json {
            Some(p) if p.as_os_str() == "-" => to_stdout = true,
            Some(p) => {
                save(p, &json)?;
                said.push_str(&format!("JSON: {}\n", p.display()));
            }
            None => {}
        }
        if let Some(p) = &a.markdown {
            save(p, &markdown::of(self))?;
            said.push_str(&format!("Markdown: {}\n", p.display()));
        }
        if let Some(dir) = &a.plots {
            for p in plot::all(&self.cases, dir)? {
                said.push_str(&format!("plot: {}\n", p.display()));
            }
        }
        if to_stdout {
            eprint!("{said}");
            print!("{json}");
        } else {
            print!("{said}");
        }
        if !self.failures.is_empty() {
            bail!("{} figures could not be taken, see above", self.failures.len());
        }
        Ok(())
    }
}
