//! `kcm-bench`: what a message costs, beside what others make it cost.
//!
//! One program, several roles, each a process of its own, so that the system's accounting says
//! what a role used:
//!
//! * `serve` receives from N connections and deals to M consumers; prints `READY <port>`, then
//!   `DONE msgs=.. bytes=.. sum=.. end_ns=..`
//! * `send` and `lat` are its clients; `tx` sends with M producers over N connections; each
//!   prints `START start_ns=..` and `SENT msgs=.. bytes=.. sum=..`
//! * `idle` and `memory` hold thousands of connections, and say what those cost in memory
//! * `profile` runs one workload under perf, and says where its time goes
//! * `run` runs them all in rounds and compares
//!
//! To add figures: a file in `rows` with a `measure` function that puts `Case`s into the bench,
//! a line in `rows::PARTS`, and, where the product claims something about them, a line in
//! `targets::TARGETS`. Table, JSON, Markdown and plots are made of the cases.

mod drive;
mod kcm;
mod load;
mod markdown;
mod memory;
mod plot;
mod poll;
mod profile;
mod rbpf_peer;
mod report;
mod rows;
mod run;
mod rx_peers;
mod sbpf_peer;
mod serve;
mod stats;
mod step;
mod sys;
mod targets;
mod tx;
mod tx_peers;
mod uring;
mod wire;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "kcm-bench")]
struct Cli {
    /// Run on this CPU only
    #[arg(long, global = true)]
    cpu: Option<usize>,
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Receive from N connections, deal to M consumers
    Serve(serve::ServeArgs),
    /// Fill a server's connections with messages
    Send(load::SendArgs),
    /// Ask an echoing server, wait for the answer, measure
    Lat(load::LatArgs),
    /// Send with M producers over N connections
    Tx(tx::TxArgs),
    /// Hold connections: a message on each, then nothing
    Idle(load::IdleArgs),
    /// Receive in a closed loop, on one of the engines
    StepServe(step::ServeArgs),
    /// Send in a closed loop
    StepSend(load::Load),
    /// What an attached connection costs in memory
    Memory(memory::MemoryArgs),
    /// Where the time of a workload goes, by perf
    Profile(profile::ProfileArgs),
    /// Compare: all workloads, all variants
    Run(run::RunArgs),
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    if let Some(cpu) = cli.cpu {
        sys::pin(cpu)?;
    }
    match cli.role {
        Role::Serve(a) => serve::run(&a),
        Role::Send(a) => load::send(&a),
        Role::Lat(a) => load::lat(&a),
        Role::Tx(a) => tx::run(&a),
        Role::Idle(a) => load::idle(&a),
        Role::StepServe(a) => step::serve(&a),
        Role::StepSend(a) => step::send(&a),
        Role::Memory(a) => memory::run(&a),
        Role::Profile(a) => profile::run(&a),
        Role::Run(a) => run::run(&a),
    }
}
