//! Runs the scenarios of the oracle; `cargo xtask oracle` calls it.
//!
//! - `oracle one BACK-END PATIENCE NAME` runs one scenario in this process.
//! - `oracle run BACK-END [FILTER...]` runs all of them, each in a process of its own, and
//!   prints the transcript.
//! - `oracle compare [--kernel FILE] [--headlines] [--update] [FILTER...]` runs this product's
//!   side and compares with the kernel's answers, those recorded or those in FILE.
//! - `oracle run-in-guest [FILTER...]` runs the scenarios on the kernel's AF_KCM, on a machine that
//!   is ready for it, and prints the transcript between two marks.
//! - `oracle kernels SERIES FILE [FILTER...]` compares answers of another kernel, in FILE, with those
//!   recorded of its series and with those of the first, whose differences have reasons too.
//! - `oracle list [headlines]` prints names.
//! - As process 1 of a kernel it makes the machine ready, runs the scenarios on the kernel's
//!   AF_KCM, prints the transcript between two marks, and powers off. Environment:
//!   `KCM_KO` names the module, `ORACLE_FILTER` filters, separated by commas.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use kcm_tests::harness::kernel_release;
use kcm_tests::oracle::backend::Backend;
use kcm_tests::oracle::context::T;
use kcm_tests::oracle::differences::{self, Report, Table};
use kcm_tests::oracle::kernel::{Kernel, guest};
use kcm_tests::oracle::ours::{self, Ours};
use kcm_tests::oracle::runner::{self, Plan};
use kcm_tests::oracle::transcript::{self, Answers};
use kcm_tests::oracle::{record, scenarios};

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
    let filters = std::env::var("ORACLE_FILTER").unwrap_or_default();
    let filters: Vec<String> =
        filters.split(',').filter(|f| !f.is_empty()).map(str::to_owned).collect();
    if let Err(e) = guest::prepare().and_then(|()| run_in_guest(&filters)) {
        println!("error in the guest: {e:#}");
    }
    guest::power_off()
}

fn run_in_guest(filters: &[String]) -> Result<()> {
    // The files are there: the machine's root is the host's, or holds a copy. What answers
    // otherwise than is recorded is asked again with more patience.
    let recorded = record::kernel_of(&kernel_release()).unwrap_or_default();
    let as_recorded =
        |name: &str, answers: &[String]| recorded.get(name).is_some_and(|r| r == answers);
    let answers = plan("kernel", 1)?.run_until(&runner::select(filters), as_recorded);
    println!("{}", runner::BEGIN);
    print!(
        "{}",
        transcript::format(
            &format!(
                "Answers of AF_KCM in Linux {}; `cargo xtask oracle --update` asks again.",
                kernel_release()
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
            let answers = plan(back_end, jobs())?.run(&runner::select(&args[2..]));
            print!("{}", transcript::format(back_end, &answers));
            Ok(())
        }
        ["run-in-guest", ..] => run_in_guest(&args[1..]),
        ["compare", ..] => compare(&args[1..]),
        ["kernels", series, file, ..] => kernels(series, file, &args[3..]),
        ["list"] => {
            for s in scenarios::all() {
                println!("{} {}", s.name, s.statements.join(" "));
            }
            Ok(())
        }
        ["list", "headlines"] => {
            for s in scenarios::all().filter(|s| s.headline.is_some()) {
                println!("{}", s.name);
            }
            Ok(())
        }
        _ => bail!(
            "usage: oracle (one BACK-END PATIENCE NAME | run BACK-END [FILTER...] | \
             run-in-guest [FILTER...] | \
             compare [--kernel FILE] [--headlines] [--update] [FILTER...] | \
             kernels SERIES FILE [FILTER...] | \
             list [headlines])"
        ),
    }
}

fn one(back_end: &str, patience: u32, name: &str) -> Result<()> {
    let scenario = scenarios::all()
        .find(|s| s.name == name)
        .with_context(|| format!("there is no scenario {name}"))?;
    let back: Arc<dyn Backend> = match back_end {
        "kernel" => Arc::new(Kernel::new()),
        "ours" => Arc::new(Ours::new(ours::Answers::Program)),
        "ours-native" => Arc::new(Ours::new(ours::Answers::Function)),
        _ => bail!("no back end {back_end}: kernel, ours, ours-native"),
    };
    (scenario.run)(&T::new(back, patience));
    // Threads of the back end, and those that a scenario left blocked, end with the process.
    std::process::exit(0)
}

/// What `compare` is asked for.
#[derive(Default)]
struct Compare {
    kernel: Option<String>,
    headlines: bool,
    update: bool,
    filters: Vec<String>,
}

fn compare(args: &[String]) -> Result<()> {
    let mut c = Compare::default();
    let mut args = args.iter().cloned();
    while let Some(a) = args.next() {
        match a.as_str() {
            "--kernel" => c.kernel = Some(args.next().context("--kernel FILE: FILE is missing")?),
            "--headlines" => c.headlines = true,
            "--update" => c.update = true,
            _ => c.filters.push(a),
        }
    }
    let mut selected = runner::select(&c.filters);
    if c.headlines {
        selected.retain(|s| s.headline.is_some());
    }
    if selected.is_empty() {
        bail!("no scenario has a name with {:?}", c.filters);
    }
    let recorded = record::kernel()?;
    let (kernel, fresh) = match &c.kernel {
        None => (recorded.clone(), false),
        Some(file) => {
            let text = std::fs::read_to_string(file).with_context(|| format!("no {file}"))?;
            (transcript::parse(&text)?, true)
        }
    };
    let table = if c.update { record::table().unwrap_or_default() } else { record::table()? };
    let expect = |name: &str, answers: &[String]| {
        differences::expected(&kernel, &table, name) == Some(answers)
    };
    let ours = plan("ours", jobs())?.run_until(&selected, expect);
    if c.update {
        return update(&kernel, &ours, &table);
    }
    if c.headlines {
        print!("{}", as_table(&differences::headlines(&kernel, &ours)));
    }
    let mut failed = 0;
    if fresh {
        for s in &selected {
            let (then, now) = (recorded.get(s.name), kernel.get(s.name));
            if then != now {
                failed += 1;
                println!("{}: the kernel answers otherwise than is recorded", s.name);
                let lines = |a: Option<&Vec<String>>| a.cloned().unwrap_or_default();
                print!("{}", differences::diff(&lines(then), &lines(now)));
            }
        }
    }
    let report = differences::compare(
        &kernel,
        &ours,
        &table,
        &record::verdicts()?,
        &record::architecture()?,
    );
    if !c.headlines {
        print_differences(&report, &kernel, &ours, &table);
    }
    for p in &report.problems {
        failed += 1;
        println!("PROBLEM {p}");
        if let Some((name, _)) = p.to_string().split_once(':')
            && let (Some(k), Some(o)) = (kernel.get(name), ours.get(name))
        {
            print!("{}", differences::diff(k, o));
        }
    }
    println!(
        "{} scenarios: {} with the same answers, {} that differ for a stated reason, {} that \
         exist only for the kernel, {failed} problems",
        selected.len(),
        report.same.len(),
        report.explained.len(),
        report.kernel_only.len(),
    );
    if failed > 0 {
        bail!(
            "{failed} problems: give each difference its reason in tests/data/oracle/\
             differences.txt, or mend the code (lines: - kernel, + ours)"
        );
    }
    Ok(())
}

/// Another kernel's answers: as recorded, and different from the first kernel's only where it is
/// known why.
fn kernels(series: &str, file: &str, filters: &[String]) -> Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("no {file}"))?;
    let fresh = transcript::parse(&text)?;
    let (first, recorded) = (record::kernel()?, record::kernel_of(series)?);
    let reasons = record::reasons(series)?;
    let (mut failed, mut same, mut explained) = (0, 0, 0);
    for s in runner::select(filters) {
        let of = |a: &Answers| a.get(s.name).cloned().unwrap_or_default();
        let (then, now, other) = (of(&recorded), of(&fresh), of(&first));
        if then != now {
            failed += 1;
            println!("{}: the kernel answers otherwise than is recorded", s.name);
            print!("{}", differences::diff(&then, &now));
        }
        match (now == other, reasons.get(s.name)) {
            (true, None) => same += 1,
            (true, Some(_)) => {
                failed += 1;
                println!("PROBLEM {}: a reason, and no difference between the kernels", s.name);
            }
            (false, why) => {
                explained += usize::from(why.is_some());
                failed += usize::from(why.is_none());
                println!("{} (- {}, + {series})", s.name, record::RELEASE);
                println!("  {}", why.map_or("PROBLEM: nothing says why", String::as_str));
                print!("{}", differences::diff(&other, &now));
            }
        }
    }
    println!(
        "Linux {series}: {same} scenarios with the answers of {}, {explained} that differ for a \
         stated reason, {failed} problems",
        record::RELEASE
    );
    if failed > 0 {
        bail!(
            "{failed} problems: `cargo xtask guest --kernel {series} --update oracle` records the \
             answers anew; reasons are in tests/data/oracle/kernels.txt"
        );
    }
    Ok(())
}

fn jobs() -> usize {
    // Scenarios wait most of the time.
    std::thread::available_parallelism().map_or(1, usize::from) * 2
}

fn print_differences(report: &Report, kernel: &Answers, ours: &Answers, table: &Table) {
    for name in &report.explained {
        if let (Some(e), Some(k), Some(o)) = (table.get(name), kernel.get(name), ours.get(name)) {
            println!("{name}\n  {} ({})", e.reason, e.anchors.join(", "));
            print!("{}", differences::diff(k, o));
        }
    }
}

fn update(kernel: &Answers, ours: &Answers, table: &Table) -> Result<()> {
    let table = differences::update(kernel, ours, table);
    std::fs::write(
        record::path("differences.txt"),
        differences::format(record::TABLE_HEAD, &table),
    )?;
    let document = differences::document(record::RELEASE, kernel, ours, &table);
    std::fs::write(record::repository(record::DOCUMENT), document)?;
    let open: Vec<&String> =
        table.iter().filter(|(_, e)| e.reason == differences::TO_DO).map(|(n, _)| n).collect();
    println!("{} differences, {} of them without a reason: {open:#?}", table.len(), open.len());
    Ok(())
}

/// Columns as wide as the longest cell, at most as wide as is readable.
fn as_table(rows: &[[String; 3]]) -> String {
    const WIDTHS: [usize; 3] = [34, 44, 44];
    let head = ["", "the kernel's AF_KCM", "this product"].map(str::to_owned);
    let mut out = String::new();
    for row in std::iter::once(&head).chain(rows) {
        let cells: Vec<Vec<String>> =
            row.iter().zip(WIDTHS).map(|(cell, w)| wrapped(cell, w)).collect();
        for i in 0..cells.iter().map(Vec::len).max().unwrap_or(0) {
            let line: Vec<String> = cells
                .iter()
                .zip(WIDTHS)
                .map(|(c, w)| format!("{:w$}", c.get(i).map_or("", String::as_str)))
                .collect();
            out.push_str(line.join("  ").trim_end());
            out.push('\n');
        }
        out.push('\n');
    }
    out
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut out: Vec<String> = vec![String::new()];
    for word in text.split_whitespace() {
        match out.last_mut() {
            Some(l) if l.is_empty() => l.push_str(word),
            Some(l) if l.len() + 1 + word.len() <= width => {
                l.push(' ');
                l.push_str(word);
            }
            _ => out.push(word.into()),
        }
    }
    out
}
