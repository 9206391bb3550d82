//! `kcm-bench run`: every workload, ours beside the peers, in rounds: each round runs all
//! variants of a cell one after another, so that they are neighbours in time and a ratio
//! compares like with like.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::stats::{Spread, short};
use crate::sys::{self, Role};

/// Options of `kcm-bench run`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct RunArgs {
    /// Fewer workloads, shorter runs: about a minute
    #[arg(long)]
    quick: bool,
    /// Only these parts (default: all)
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Rounds of each cell (default: 5, with --quick 3)
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of one run (default: 1, with --quick 0.4)
    #[arg(long)]
    secs: Option<f64>,
    /// Write the figures as JSON to this file (`-`: standard output, the table goes to
    /// standard error)
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A part of the benchmarks.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Nanoseconds per call of a parser
    Parser,
    /// Receive: CPU per message
    Rx,
    /// Send: messages per second
    Tx,
    /// Request and response, one in flight
    Lat,
}

/// One workload and those that do it.
struct Cell {
    part: Part,
    size: usize,
    conns: usize,
    /// Consumers or producers.
    workers: usize,
    /// Names of `serve` (or, for `Tx`, `tx`) variants; ratios are to the last.
    variants: &'static [&'static str],
}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.part {
            Part::Tx => "send",
            Part::Lat => "ask and answer",
            _ => "receive",
        };
        let Cell { size, conns, workers, .. } = self;
        write!(f, "{what}, {size} B, {conns} connections, {workers} workers")
    }
}

const RX: &[&str] = &[
    "raw",
    "epoll",
    "block",
    "kcm",
    "kcm-one",
    "kcm-interp",
    "kcm-native",
    "framed",
    "framed-mpsc",
    "framed-flume",
];
const TX: &[&str] = &["kcm", "kcm-many", "combining", "mpsc", "mpsc-writev", "framed", "mutex"];
const LAT: &[&str] = &["kcm-one", "framed", "framed-flume", "epoll"];

fn cells(quick: bool) -> Vec<Cell> {
    let mut out = Vec::new();
    let sizes: &[usize] = if quick { &[64] } else { &[64, 1024, 16384] };
    let conns: &[usize] = if quick { &[8] } else { &[1, 8, 64] };
    for &size in sizes {
        for &conns in conns {
            out.push(Cell { part: Part::Rx, size, conns, workers: 4, variants: RX });
        }
    }
    let tx: &[(usize, usize, usize)] = if quick {
        &[(64, 8, 16)]
    } else {
        &[(64, 1, 4), (64, 8, 1), (64, 8, 16), (1024, 1, 4), (1024, 8, 16)]
    };
    for &(size, conns, workers) in tx {
        out.push(Cell { part: Part::Tx, size, conns, workers, variants: TX });
    }
    let lat: &[usize] = if quick { &[1] } else { &[1, 8] };
    for &conns in lat {
        out.push(Cell { part: Part::Lat, size: 64, conns, workers: 4, variants: LAT });
    }
    out
}

/// One run of one variant.
#[derive(Clone, Debug, Default)]
struct Sample {
    /// CPU nanoseconds per message of the process under test: in itself, in the kernel.
    user: f64,
    sys: f64,
    /// Millions of messages per second.
    rate: f64,
    /// 10^9 bytes per second.
    gbs: f64,
    /// Microseconds; 0 where nothing is asked and answered.
    p50: f64,
    p99: f64,
    /// CPU seconds per second of others: neighbours, and the host.
    noise: f64,
}

impl Sample {
    fn cpu(&self) -> f64 {
        self.user + self.sys
    }
}

/// Runs everything that was asked for and prints it.
pub(crate) fn run(a: &RunArgs) -> Result<()> {
    let wants = |p: Part| a.only.is_empty() || a.only.contains(&p);
    let rounds = a.rounds.unwrap_or(if a.quick { 3 } else { 5 });
    let secs = a.secs.unwrap_or(if a.quick { 0.4 } else { 1.0 });
    let mut report = Report::new(rounds, secs);
    if wants(Part::Parser) {
        report.parser(crate::parser::measure(a.quick)?);
    }
    let progress = std::io::stderr().is_terminal();
    for cell in cells(a.quick).iter().filter(|c| wants(c.part)) {
        let mut samples: BTreeMap<&str, Vec<Sample>> = BTreeMap::new();
        for round in 0..rounds {
            for v in cell.variants {
                if progress {
                    eprint!("\r\x1b[K{cell}: round {}/{rounds}, {v}", round + 1);
                }
                samples.entry(v).or_default().push(one(cell, v, secs)?);
            }
        }
        eprint!("{}", if progress { "\r\x1b[K" } else { "" });
        report.cell(cell, &samples);
    }
    report.finish(a)
}

/// Server on one CPU, client on the other, where there are two.
fn cpus() -> (Option<usize>, Option<usize>) {
    if std::thread::available_parallelism().map_or(1, usize::from) >= 2 {
        (Some(0), Some(1))
    } else {
        (None, None)
    }
}

fn words(w: &[&str], more: &[(&str, String)]) -> Vec<String> {
    let mut out: Vec<String> = w.iter().map(|s| (*s).to_owned()).collect();
    for (k, v) in more {
        out.push(format!("--{k}={v}"));
    }
    out
}

fn one(cell: &Cell, variant: &str, secs: f64) -> Result<Sample> {
    let size = ("size", cell.size.to_string());
    let conns = ("conns", cell.conns.to_string());
    let secs = ("secs", secs.to_string());
    let (server_cpu, client_cpu) = cpus();
    let serve = |v: &str, echo: &[&str]| {
        let mut w = vec!["serve"];
        w.extend_from_slice(echo);
        let more = [
            ("variant", v.to_owned()),
            conns.clone(),
            size.clone(),
            ("consumers", cell.workers.to_string()),
        ];
        words(&w, &more)
    };
    let server_args = match cell.part {
        Part::Tx => serve("epoll", &[]),
        Part::Lat => serve(variant, &["--echo"]),
        _ => serve(variant, &[]),
    };
    let (busy0, steal0) = sys::machine();
    let mut server = Role::start(server_cpu, &server_args)?;
    let ready = server.line()?;
    let port = ready
        .trim()
        .strip_prefix("READY ")
        .with_context(|| format!("the server {server_args:?} said {ready:?} instead of READY"))?;
    let port = ("port", port.to_owned());
    let client_args = match cell.part {
        Part::Tx => {
            let producers = ("producers", cell.workers.to_string());
            words(&["tx"], &[("variant", variant.into()), port, conns, size, secs, producers])
        }
        Part::Lat => words(&["lat"], &[port, conns, size, secs]),
        _ => words(&["send"], &[port, conns, size, secs]),
    };
    let client = Role::start(client_cpu, &client_args)?.wait()?;
    let server = server.wait()?;
    let (busy1, steal1) = sys::machine();

    let done = pairs(&server.text, "DONE")?;
    let start = pairs(&client.text, "START")?;
    let sent = pairs(&client.text, "SENT")?;
    let get = |m: &Pairs, k: &str| m.get(k).and_then(|v| v.parse::<f64>().ok()).unwrap_or(0.0);
    // An echoing run is checked by its client, answer by answer.
    let checked = cell.part != Part::Lat && variant != "raw";
    if checked && ["msgs", "sum"].iter().any(|k| done.get(*k) != sent.get(*k)) {
        bail!(
            "{variant}: lost, torn or doubled messages: server {}, client {}",
            server.text.trim(),
            client.text.trim()
        );
    }
    let wall = (get(&done, "end_ns") - get(&start, "start_ns")) / 1e9;
    let tested = if cell.part == Part::Tx { &client } else { &server };
    let msgs = get(&sent, "msgs").max(1.0);
    let ours = server.user + server.sys + client.user + client.sys;
    Ok(Sample {
        user: tested.user * 1e9 / msgs,
        sys: tested.sys * 1e9 / msgs,
        rate: msgs / wall / 1e6,
        gbs: get(&done, "bytes") / wall / 1e9,
        p50: get(&sent, "p50"),
        p99: get(&sent, "p99"),
        noise: ((busy1 - busy0 - ours).max(0.0) + steal1 - steal0) / wall,
    })
}

/// The `key=value` pairs of a line.
type Pairs = BTreeMap<String, String>;

/// Those of the line that starts with `word`.
fn pairs(text: &str, word: &str) -> Result<Pairs> {
    let line = text
        .lines()
        .find(|l| l.starts_with(word))
        .with_context(|| format!("no {word} line in {text:?}"))?;
    let pairs = line.split_whitespace().filter_map(|w| w.split_once('='));
    Ok(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
}

/// What is printed, and what is written as JSON.
struct Report {
    table: String,
    rows: Vec<Value>,
    parser: Vec<Value>,
    targets: Vec<Value>,
    noise: Vec<f64>,
    head: Value,
}

impl Report {
    fn new(rounds: usize, secs: f64) -> Self {
        let machine = sys::describe();
        Report {
            table: format!("{machine}; medians of {rounds} runs of {secs} s (min–max)\n"),
            rows: Vec::new(),
            parser: Vec::new(),
            targets: Vec::new(),
            noise: Vec::new(),
            head: json!({"machine": machine, "rounds": rounds, "secs": secs}),
        }
    }

    fn parser(&mut self, (table, rows): (String, Vec<Value>)) {
        self.table.push_str(&table);
        self.parser = rows;
    }

    fn cell(&mut self, cell: &Cell, samples: &BTreeMap<&str, Vec<Sample>>) {
        let key = match cell.part {
            Part::Tx => "tx",
            Part::Lat => "lat",
            _ => "rx",
        };
        let Cell { size, conns, workers, .. } = *cell;
        self.table.push_str(&format!("\n{cell}\n"));
        let base = cell.variants.last().copied().unwrap_or_default();
        let figure: (&str, fn(&Sample) -> f64) = match cell.part {
            Part::Tx => ("M messages/s", |s| s.rate),
            Part::Lat => ("p50 µs", |s| s.p50),
            _ => ("CPU ns/message", Sample::cpu),
        };
        self.table.push_str(&format!(
            "  {:<13} {:>22} {:>22}   {}\n",
            "",
            figure.0,
            format!("ratio to {base}"),
            "user + system ns, M messages/s, GB/s"
        ));
        for v in cell.variants {
            let Some(s) = samples.get(v) else { continue };
            let of = |f: fn(&Sample) -> f64| Spread::of(s.iter().map(f));
            let value = of(figure.1);
            // Run by run with the neighbour in time, then the middle of those.
            let ratio = Spread::of(
                s.iter()
                    .zip(&samples[base])
                    .map(|(x, b)| figure.1(x) / figure.1(b).max(f64::MIN_POSITIVE)),
            );
            let (user, sys, rate, gbs) =
                (of(|s| s.user), of(|s| s.sys), of(|s| s.rate), of(|s| s.gbs));
            self.table.push_str(&format!(
                "  {v:<13} {value:>22} {ratio:>22}   {} + {}, {}, {}\n",
                short(user.median),
                short(sys.median),
                short(rate.median),
                short(gbs.median)
            ));
            self.noise.extend(s.iter().map(|s| s.noise));
            self.rows.push(json!({
                "part": key, "size": size, "conns": conns, "workers": workers, "variant": v,
                "cpu_ns": of(Sample::cpu).json(), "user_ns": user.json(), "sys_ns": sys.json(),
                "mmsg_per_s": rate.json(), "gb_per_s": gbs.json(),
                "p50_us": of(|s| s.p50).json(), "p99_us": of(|s| s.p99).json(),
                "base": base, "ratio": ratio.json(),
            }));
            if cell.part == Part::Rx && (size, conns, workers) == (64, 8, 4) && *v == "kcm" {
                self.target(
                    "receive 64 B, 8 connections, 4 consumers: CPU to framed-flume",
                    ratio,
                    1.0,
                );
            }
        }
    }

    fn target(&mut self, name: &str, ratio: Spread, limit: f64) {
        let met = ratio.median < limit;
        self.targets.push(json!({"name": name, "ratio": ratio.json(), "below": limit, "met": met}));
    }

    fn finish(mut self, a: &RunArgs) -> Result<()> {
        for t in &self.targets {
            let verdict = if t["met"] == true { "met" } else { "MISSED" };
            self.table.push_str(&format!(
                "\ntarget {verdict}: {} {} (must be below {})\n",
                t["name"].as_str().unwrap_or_default(),
                t["ratio"]["median"],
                t["below"]
            ));
        }
        let noise = Spread::of(self.noise.iter().copied());
        let noisy = self.noise.iter().filter(|n| **n > NOISY).count();
        if !self.noise.is_empty() {
            self.table.push_str(&format!("\nCPUs used by others during a run: {noise}\n"));
        }
        if noisy * 3 > self.noise.len() {
            self.table.push_str(&format!(
                "WARNING: the machine was busy with other work in {noisy} of {} runs; trust \
                 ratios within a cell only, and no ratio near its limit\n",
                self.noise.len()
            ));
        }
        let json = json!({
            "head": self.head, "parser": self.parser, "rows": self.rows,
            "targets": self.targets,
            "noise": {"cpus": noise.json(), "noisy_runs": noisy, "runs": self.noise.len()},
        });
        let text = serde_json::to_string_pretty(&json)?;
        match &a.json {
            Some(p) if p.as_os_str() == "-" => {
                eprint!("{}", self.table);
                println!("{text}");
            }
            Some(p) => {
                print!("{}", self.table);
                std::fs::write(p, text + "\n")
                    .with_context(|| format!("could not write {}", p.display()))?;
                println!("JSON: {}", p.display());
            }
            None => print!("{}", self.table),
        }
        Ok(())
    }
}

/// A run during which others used more than this many CPUs says little.
const NOISY: f64 = 0.15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_a_role_are_read() {
        let n = pairs("START start_ns=5\nSENT msgs=3 sum=9 p50=1.5\n", "SENT").unwrap();
        assert_eq!((&*n["msgs"], &*n["sum"], &*n["p50"]), ("3", "9", "1.5"));
        assert!(pairs("nothing", "SENT").is_err());
    }

    #[test]
    fn every_cell_names_variants_that_exist() {
        use clap::ValueEnum;
        for quick in [true, false] {
            for c in cells(quick) {
                for v in c.variants {
                    let known = match c.part {
                        Part::Tx => crate::tx::TxVariant::from_str(v, false).is_ok(),
                        _ => crate::serve::RxVariant::from_str(v, false).is_ok(),
                    };
                    assert!(known, "{v}");
                }
            }
        }
    }
}
