//! `kcm-bench profile`: where the time of a workload goes. perf looks at the process under test
//! by the CPU clock, which needs no counters of the processor's; most virtual machines have none.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::drive::{Duo, End, Watched};
use crate::rows::{lat, many, rx, tx};

/// Options of `kcm-bench profile`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ProfileArgs {
    /// The workloads (default: all)
    workloads: Vec<Workload>,
    /// Seconds of the run
    #[arg(long, default_value_t = 2.0)]
    secs: f64,
    /// Lines of each list
    #[arg(long, default_value_t = 16)]
    lines: usize,
    /// Where perf's data go, for a closer look with `perf report`
    #[arg(long, default_value = "target/bench/profile")]
    dir: PathBuf,
}

/// What runs, always our own.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Workload {
    /// Receive 64 B, 8 connections to 4 sockets, batches
    Rx,
    /// The same, one `recv().await` per message
    RxOne,
    /// Receive 16 KiB, 8 connections to 4 sockets, batches
    Rx16k,
    /// Send 64 B, 16 producers, 8 connections, `send`
    Tx,
    /// The same, `send_many` of 64
    TxMany,
    /// Ask and answer, 64 B, one connection, one in flight
    Lat,
    /// Receive 64 B, 100 busy connections among 10,000
    Many,
}

impl Workload {
    fn duo(self, secs: f64) -> (Duo, End) {
        match self {
            Workload::Rx => (rx::duo("kcm", 64, 8, 4, secs), End::Server),
            Workload::RxOne => (rx::duo("kcm-one", 64, 8, 4, secs), End::Server),
            Workload::Rx16k => (rx::duo("kcm", 16 << 10, 8, 4, secs), End::Server),
            Workload::Tx => (tx::duo("kcm", 64, 8, 16, secs), End::Client),
            Workload::TxMany => (tx::duo("kcm-many", 64, 8, 16, secs), End::Client),
            Workload::Lat => (lat::duo("kcm-one", 1, 0, false, secs), End::Server),
            Workload::Many => (many::duo("kcm", many::MANY, secs), End::Server),
        }
    }
}

/// Runs each workload once under perf and prints where its time went.
pub(crate) fn run(a: &ProfileArgs) -> Result<()> {
    use clap::ValueEnum;
    std::fs::create_dir_all(&a.dir)?;
    crate::sys::raise_open_files()?;
    let all = Workload::value_variants();
    let wanted = if a.workloads.is_empty() { all } else { &a.workloads };
    wanted.iter().try_for_each(|w| one(*w, a))
}

fn one(workload: Workload, a: &ProfileArgs) -> Result<()> {
    use clap::ValueEnum;
    let named = workload.to_possible_value().context("a workload without a name")?;
    let (name, about) = (named.get_name(), named.get_help().map(ToString::to_string));
    let data = a.dir.join(format!("{name}.data"));
    let record = ["perf", "record", "-q", "-e", "cpu-clock", "-F", "1999", "-o"];
    let mut command: Vec<String> = record.map(str::to_owned).to_vec();
    command.extend([data.display().to_string(), "--".to_owned()]);
    let (duo, end) = workload.duo(a.secs);
    let duo = Duo { watched: Some(Watched { end, command }), ..duo };
    let ran = duo.run().with_context(|| format!("{name}, under perf"))?;
    let costs = ran.costs(match end {
        End::Server => ran.server,
        End::Client => ran.client,
    });
    println!("\n{name}: {}", about.unwrap_or_default());
    println!("  {:.1} ns of CPU a message, {:.1} of them in the kernel", costs[0], costs[2]);
    let report = Command::new("perf")
        .args(["report", "--stdio", "-q", "--no-children", "--sort", "dso,symbol", "-i"])
        .arg(&data)
        .output()
        .context("perf report")?;
    if !report.status.success() {
        bail!("perf report: {}", String::from_utf8_lossy(&report.stderr).trim());
    }
    let text = String::from_utf8_lossy(&report.stdout);
    // Columns that this sort order leaves empty are shown as dashes.
    let lines = text.lines().map(|l| l.trim_end_matches(['-', ' ']).trim_start());
    lines.filter(|l| !l.is_empty()).take(a.lines).for_each(|l| println!("  {l}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn perf_runs_the_end_that_is_our_own_and_the_other_is_a_peer_or_the_load() {
        for w in Workload::value_variants() {
            let (duo, end) = w.duo(1.0);
            let ours = match end {
                End::Server => duo.server,
                End::Client => duo.client,
            };
            assert!(ours.iter().any(|o| o.starts_with("--variant=kcm")), "{w:?}: {ours:?}");
        }
    }
}
