//! `cargo xtask ci`: the checks of .ci/run, by name, so that one of them can be run alone.

use anyhow::{Result, bail};

use crate::sh::{Cmd, cargo};
use crate::{licences, msrv, test, tidy};

/// Options of the verb.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only these steps, in this order (default: all)
    steps: Vec<String>,
}

/// A step's name and what it does.
type Step = (&'static str, fn() -> Result<()>);

const STEPS: &[Step] = &[
    ("fmt", fmt),
    ("clippy", clippy),
    ("doc", doc),
    ("tidy", || tidy::run(tidy::Args {})),
    ("licences", licences::check),
    ("msrv", msrv::check),
    ("objects", objects),
    ("test", || test::run(test::Args::default())),
    ("no-jit", no_jit),
    ("release", release),
];

/// Runs the steps; the first that fails ends the run.
pub(crate) fn run(args: Args) -> Result<()> {
    let mut chosen: Vec<Step> = Vec::new();
    for name in &args.steps {
        match STEPS.iter().find(|s| s.0 == name) {
            Some(s) => chosen.push(*s),
            None => {
                let all: Vec<&str> = STEPS.iter().map(|s| s.0).collect();
                bail!("no step named {name}; the steps are {}", all.join(", "));
            }
        }
    }
    if chosen.is_empty() {
        chosen.extend_from_slice(STEPS);
    }
    for (name, step) in chosen {
        eprintln!("== {name}");
        let start = std::time::Instant::now();
        step()?;
        eprintln!("== {name}: ok in {:.1} s", start.elapsed().as_secs_f64());
    }
    Ok(())
}

/// The committed BPF objects are what the sources give.
fn objects() -> Result<()> {
    Cmd::new(std::env::current_exe()?).args(["build-ebpf", "--check"]).run()
}

/// Everything works without the JIT.
fn no_jit() -> Result<()> {
    cargo().args(["test", "--package", "kcm-core", "--no-default-features", "--tests"]).run()
}

/// The engine's tests as users build it: only there is the interpreter threaded (a test fails
/// where it is not), and nothing catches an overflow.
fn release() -> Result<()> {
    cargo().args(["test", "--release", "--package", "kcm-core", "--lib", "--", "bpf::"]).run()
}

fn fmt() -> Result<()> {
    cargo().args(["fmt", "--all", "--", "--check"]).run()
}

fn clippy() -> Result<()> {
    cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]).run()
}

fn doc() -> Result<()> {
    cargo().args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings").run()
}
