//! Runs a folder of the public BPF conformance suite through every executor and prints a
//! table: passed, refused with the reason, failed. Exits with 1 where something failed.

use std::path::PathBuf;
use std::process::ExitCode;

use kcm_tests::conformance::{executors, read_suite, run_suite};

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let dir = match (args.next(), args.next(), args.next()) {
        (Some(flag), Some(dir), None) if flag == "--suite" => PathBuf::from(dir),
        _ => {
            eprintln!("usage: conformance --suite DIR");
            return ExitCode::from(2);
        }
    };
    let cases = match read_suite(&dir) {
        Ok(cases) => cases,
        Err(e) => {
            eprintln!("error: {e:#}");
            return ExitCode::FAILURE;
        }
    };
    let negative = cases.iter().filter(|c| c.negative).count();
    println!("{} cases and {negative} negative ones in {}", cases.len() - negative, dir.display());
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
    notes.dedup();
    notes.sort();
    notes.dedup();
    for n in notes {
        println!("{n}");
    }
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
