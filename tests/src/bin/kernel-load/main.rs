//! `kernel-load`: an engine under load and under faults, every byte of every message checked.
//!
//! `cargo xtask guest kernel-engine` runs it on the kernel engine of a guest, whose kernel log
//! is read afterwards: what goes wrong in a kernel does not always show in what arrives. On the
//! process engine (`--engine process`) the same must hold, but for the overrun: there TCP holds
//! a peer back.

mod flow;
mod scenarios;

use anyhow::{Result, bail};
use clap::Parser;
use kcm_core::Engine;
use std::time::Instant;

/// The command line.
#[derive(Parser, Clone, Debug)]
#[command(name = "kernel-load")]
struct Args {
    /// What delineates
    #[arg(long, value_enum, default_value_t = Which::Kernel)]
    engine: Which,
    /// Messages of the largest scenario; the others follow
    #[arg(long, default_value_t = 1_000_000)]
    messages: u32,
    /// All that is random follows from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only scenarios whose names hold this
    filter: Option<String>,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Kernel,
    Process,
}

impl Which {
    fn engine(self) -> Engine {
        match self {
            Which::Kernel => Engine::Kernel,
            Which::Process => Engine::Process,
        }
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    if args.engine == Which::Kernel {
        let report = kcm_core::kernel::probe()?;
        println!("kernel engine: {report}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let plan =
        scenarios::Plan { engine: args.engine.engine(), messages: args.messages, seed: args.seed };
    let mut failed = 0;
    for (name, scenario) in scenarios::ALL {
        if args.filter.as_ref().is_some_and(|f| !name.contains(f.as_str())) {
            continue;
        }
        let start = Instant::now();
        let ended = runtime.block_on(async { tokio::spawn(scenario(plan)).await });
        let seconds = start.elapsed().as_secs_f64();
        match ended {
            Ok(Ok(what)) => println!("ok: {name}: {what} ({seconds:.1} s)"),
            Ok(Err(e)) => {
                failed += 1;
                println!("FAILED: {name}: {e:#} ({seconds:.1} s)");
            }
            Err(e) => {
                failed += 1;
                println!("FAILED: {name}: {e} ({seconds:.1} s)");
            }
        }
    }
    if failed > 0 {
        bail!("{failed} scenarios failed");
    }
    Ok(())
}
