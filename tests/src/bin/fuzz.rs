//! Fuzzes a target for a time: `fuzz TARGET [--minutes N] [--seed S] [--replay S]`.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kcm_tests::fuzz::{TARGETS, Until, replay, run};

fn usage() -> ExitCode {
    eprintln!("usage: fuzz TARGET [--minutes N] [--seed S] [--replay S]\ntargets:");
    for (name, what, _) in TARGETS {
        eprintln!("  {name:<10} {what}");
    }
    ExitCode::from(2)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((name, options)) = args.split_first() else { return usage() };
    let Some((_, _, target)) = TARGETS.iter().find(|(n, _, _)| n == name) else { return usage() };
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (mut seed, mut minutes) = (clock.as_nanos() as u64, 1.0f64);
    for pair in options.chunks(2) {
        let [flag, value] = pair else { return usage() };
        match (flag.as_str(), value.parse::<u64>(), value.parse::<f64>()) {
            ("--minutes", _, Ok(m)) => minutes = m,
            ("--seed", Ok(s), _) => seed = s,
            ("--replay", Ok(s), _) => {
                return match replay(*target, s) {
                    Ok(v) => {
                        println!("{v:?}");
                        ExitCode::SUCCESS
                    }
                    Err(what) => {
                        println!("seed {s}: {what}");
                        ExitCode::FAILURE
                    }
                };
            }
            _ => return usage(),
        }
    }
    println!("{name}: from seed {seed} for {minutes} minutes");
    let end = Until::Time(Duration::from_secs_f64(minutes * 60.0));
    let report = run(*target, seed, end);
    println!("{name}: {} cases, {} accepted", report.cases, report.accepted);
    for (seed, what) in &report.findings {
        println!("FINDING, seed {seed}: {what}");
    }
    if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
