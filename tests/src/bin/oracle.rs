//! Runs the scenarios of the oracle; `cargo xtask oracle` calls it.
//!
//! - `oracle one BACK-END PATIENCE NAME` runs one scenario in this process.
//! - `oracle run BACK-END [FILTER...]` runs all of them, each in a process of its own, and
//!   prints the transcript.
//! - `oracle compare --kernel FILE [--update] [FILTER...]` holds the kernel's answers in FILE
//!   against the recorded ones.
//! - As process 1 of a kernel it makes the machine ready, runs the scenarios on the kernel's
//!   AF_KCM, prints the transcript between two marks, and powers off. Environment:
//!   `KCM_KO` names the module, `ORACLE_FILTER` filters, separated by commas.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use kcm_tests::oracle::backend::Backend;
use kcm_tests::oracle::context::T;
use kcm_tests::oracle::kernel::{Kernel, guest};
use kcm_tests::oracle::runner::{self, Plan};
use kcm_tests::oracle::{differences, record, scenarios, transcript};

fn main() -> ExitCode {
    let done = if guest::is_first_process() { in_guest() } else { command() };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// The life of process 1. Errors end it as well: nobody is left to handle them.
fn in_guest() -> Result<()> {
    if let Err(e) = guest::prepare().and_then(|()| run_in_guest()) {
        println!("error in the guest: {e:#}");
    }
    guest::power_off()
}

fn run_in_guest() -> Result<()> {
    let filters: Vec<String> = std::env::var("ORACLE_FILTER")
        .unwrap_or_default()
        .split(',')
        .filter(|f| !f.is_empty())
        .map(str::to_owned)
        .collect();
    let answers = plan("kernel", 1)?.run(&runner::select(&filters));
    println!("{}", runner::BEGIN);
    print!(
        "{}",
        transcript::format(
            &format!(
                "Answers of AF_KCM in Linux {}; `cargo xtask oracle --update` asks again.",
                guest::release()
            ),
            &answers,
        )
    );
    println!("{}", runner::END);
    Ok(())
}

fn plan(back_end: &str, jobs: usize) -> Result<Plan> {
    let program = std::env::current_exe().context("where is this program?")?;
    Ok(Plan { program, back_end: back_end.into(), patience: 1, jobs })
}

fn command() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match *words.as_slice() {
        ["one", back_end, patience, name] => one(back_end, patience.parse()?, name),
        ["run", back_end, ..] => {
            let jobs = std::thread::available_parallelism().map_or(1, usize::from) * 2;
            let answers = plan(back_end, jobs)?.run(&runner::select(&args[2..]));
            print!("{}", transcript::format(back_end, &answers));
            Ok(())
        }
        ["compare", ..] => compare(&args[1..]),
        ["list"] => {
            for s in scenarios::all() {
                println!("{} {}", s.name, s.statements.join(" "));
            }
            Ok(())
        }
        _ => bail!(
            "usage: oracle (one BACK-END PATIENCE NAME | run BACK-END [FILTER...] | \
             compare --kernel FILE [--update] [FILTER...] | list)"
        ),
    }
}

fn one(back_end: &str, patience: u32, name: &str) -> Result<()> {
    let scenario = scenarios::all()
        .find(|s| s.name == name)
        .with_context(|| format!("there is no scenario {name}"))?;
    let back: Arc<dyn Backend> = match back_end {
        "kernel" => Arc::new(Kernel::new()),
        _ => bail!("no back end {back_end}: kernel"),
    };
    (scenario.run)(&T::new(back, patience));
    // Threads of the back end, and those that a scenario left blocked, end with the process.
    std::process::exit(0)
}

fn compare(args: &[String]) -> Result<()> {
    let (mut kernel, mut update, mut filters) = (None, false, Vec::new());
    let mut args = args.iter();
    while let Some(a) = args.next() {
        match a.as_str() {
            "--kernel" => kernel = args.next(),
            "--update" => update = true,
            filter => filters.push(filter.to_owned()),
        }
    }
    let file = kernel.context("--kernel FILE is missing")?;
    let text = std::fs::read_to_string(file).with_context(|| format!("could not read {file}"))?;
    let kernel = transcript::parse(&text)?;
    let recorded = record::kernel()?;
    let selected = runner::select(&filters);
    let changed: Vec<&str> = selected
        .iter()
        .map(|s| s.name)
        .filter(|n| !update && kernel.get(*n) != recorded.get(*n))
        .collect();
    for name in &changed {
        let get = |a: &transcript::Answers| a.get(*name).cloned().unwrap_or_default();
        println!("{name}: the kernel answered otherwise than is recorded");
        print!("{}", differences::diff(&get(&recorded), &get(&kernel)));
    }
    println!("{} scenarios, {} answers of the kernel changed", selected.len(), changed.len());
    if !changed.is_empty() {
        bail!("the kernel's answers are not those recorded (`--update` records them)");
    }
    Ok(())
}
