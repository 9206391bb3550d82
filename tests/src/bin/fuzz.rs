//! Fuzzes a target for a time: `fuzz TARGET [--minutes N | --cases N] [--seed S] [--threads T]`;
//! `fuzz TARGET --replay SEED`, `fuzz TARGET --file FILE`. `--compile-one-in N` is for `program`.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kcm_tests::fuzz::{Report, TARGETS, Target, Until, Verdict, find, program, run_told};

fn usage() -> ExitCode {
    eprintln!(
        "usage: fuzz TARGET [--minutes N | --cases N] [--seed S] [--threads T] \
         [--compile-one-in N]\n       \
         fuzz TARGET --replay SEED | --file FILE\ntargets:"
    );
    for t in TARGETS {
        eprintln!("  {:<8} {}", t.name, t.about);
    }
    ExitCode::from(2)
}

fn one(result: Result<Verdict, String>) -> ExitCode {
    match result {
        Ok(verdict) => {
            println!("{verdict:?}");
            ExitCode::SUCCESS
        }
        Err(what) => {
            println!("FINDING: {what}");
            ExitCode::FAILURE
        }
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((name, options)) = args.split_first() else { return usage() };
    let Some(target) = find(name) else { return usage() };
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut seed = clock.as_nanos() as u64;
    let mut until = Until::Time(Duration::from_secs(60));
    let mut threads = 1;
    for pair in options.chunks(2) {
        let [flag, value] = pair else { return usage() };
        match (flag.as_str(), value.parse::<u64>(), value.parse::<f64>()) {
            ("--minutes", _, Ok(m)) if m >= 0.0 => {
                until = Until::Time(Duration::from_secs_f64(m * 60.0));
            }
            ("--cases", Ok(n), _) => until = Until::Cases(n),
            ("--threads", Ok(n @ 1..=1024), _) => threads = n as usize,
            ("--seed", Ok(s), _) => seed = s,
            ("--compile-one-in", Ok(n), _) => program::compile_one_in(n),
            ("--replay", Ok(s), _) => return one(target.replay(s)),
            ("--file", ..) => {
                return match std::fs::read(value) {
                    Ok(bytes) => one(target.file(&bytes)),
                    Err(e) => {
                        eprintln!("{value}: {e}");
                        ExitCode::FAILURE
                    }
                };
            }
            _ => return usage(),
        }
    }
    println!("{name}: from seed {seed} on, {until:?}, {threads} threads");
    // Panics are findings: they are told once, at the end.
    std::panic::set_hook(Box::new(|_| {}));
    let told = std::sync::atomic::AtomicU64::new(0);
    let report = run_told(target, seed, until, threads, &|cases, time, finding| {
        if let Some(what) = finding {
            println!("FINDING, seed {cases}: {what}");
            return;
        }
        // Once a minute, by whoever comes first.
        let minute = time.as_secs() / 60;
        if told.fetch_max(minute, std::sync::atomic::Ordering::Relaxed) < minute {
            println!("{minute} min: {cases} executions");
        }
    });
    tell(target, &report);
    if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell(target: &Target, report: &Report) {
    println!(
        "{}: {} executions in {:.0} s, {:.0} a second; {} accepted ({:.1} %), {} findings",
        target.name,
        report.cases,
        report.took.as_secs_f64(),
        report.rate(),
        report.accepted,
        report.accepted as f64 * 100.0 / report.cases.max(1) as f64,
        report.findings.len()
    );
    let mut mix: Vec<_> = report.mix.iter().collect();
    mix.sort_by_key(|(name, n)| (std::cmp::Reverse(**n), *name));
    for (name, n) in mix.iter().take(40) {
        println!("{:>6.2} %  {name}", **n as f64 * 100.0 / report.cases.max(1) as f64);
    }
    for (n, (seed, _)) in report.findings.iter().enumerate() {
        // All of them may be one; the first few are made small.
        if n < 3 {
            let (file, what) = target.shrink(*seed, None);
            let to = std::env::current_dir()
                .unwrap_or_default()
                .join(format!("target/fuzz-{}-{seed}.txt", target.name));
            match std::fs::write(&to, file) {
                Ok(()) => println!(
                    "made small: {what}\nin {}; kept under tests/data/fuzz/{} it is replayed by the tests",
                    to.display(),
                    target.name
                ),
                Err(e) => println!("made small: {what}\ncould not write {}: {e}", to.display()),
            }
        }
    }
}
