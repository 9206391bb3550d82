//! Runs our own conformance cases, and the public BPF conformance suite where its folder is
//! given, through every executor and prints a table: passed, refused with the reason, failed.
//! Exits with 1 where something failed.

use std::path::PathBuf;
use std::process::ExitCode;

use kcm_tests::conformance::{executors, own, read_suite, run_suite};

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let suite = match &args[..] {
        [] => None,
        [flag, dir] if flag == "--suite" => Some(PathBuf::from(dir)),
        _ => {
            eprintln!("usage: conformance [--suite DIR]");
            return ExitCode::from(2);
        }
    };
    println!("the interpreter's dispatch: {:?}", kcm_core::bpf::run::dispatch());
    let mut ok = table("cases of our own", &own());
    match suite {
        Some(dir) => ok &= table("the public suite", &dir),
        None => println!("\nthe public suite was NOT run: its folder was not given (--suite DIR)"),
    }
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one folder; false where something failed.
fn table(what: &str, dir: &std::path::Path) -> bool {
    let cases = match read_suite(dir) {
        Ok(cases) => cases,
        Err(e) => {
            eprintln!("error: {e:#}");
            return false;
        }
    };
    let negative = cases.iter().filter(|c| c.negative).count();
    println!("{what}: {} cases and {negative} negative ones", cases.len() - negative);
    println!(
        "{:<12} {:>6} {:>9} {:>7} {:>6}",
        "executor", "passed", "negative", "refused", "failed"
    );
    let mut ok = true;
    let mut notes = Vec::new();
    for exec in executors() {
        let r = run_suite(&cases, exec);
        println!(
            "{:<12} {:>6} {:>9} {:>7} {:>6}",
            format!("{exec:?}").to_lowercase(),
            r.passed[0],
            r.passed[1],
            r.refused.len(),
            r.failed.len()
        );
        ok &= r.failed.is_empty();
        for (name, why) in &r.refused {
            notes.push(format!("refused {name}: {why}"));
        }
        for (name, why) in &r.failed {
            notes.push(format!("FAILED  {name} ({exec:?}): {why}"));
        }
    }
    notes.sort();
    notes.dedup();
    for n in notes {
        println!("{n}");
    }
    ok
}
