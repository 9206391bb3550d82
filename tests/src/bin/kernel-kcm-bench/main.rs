//! `kernel-kcm-bench`: how many messages the kernel's own KCM receives in a second, and how many
//! this product does, on the same kernel in the same run.
//!
//! Needs a kernel with AF_KCM: `cargo xtask guest bench-kcm` runs it on one. Processor time is
//! no measure here, as the kernel spends its share in workers that belong to nobody; so the
//! figures are messages per second, every message counted and its content summed, from the
//! first write to the last message received.

mod kernel;
mod load;
mod process;
mod table;

use anyhow::{Result, bail};
use clap::Parser;

use load::{Load, Seen};

/// The command line.
#[derive(Parser, Clone, Debug)]
#[command(name = "kernel-kcm-bench")]
struct Args {
    /// Seconds of each measurement
    #[arg(long, default_value_t = 2.0)]
    secs: f64,
    /// How often each is repeated; all variants take turns
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Connections
    #[arg(long, default_value_t = 4)]
    conns: usize,
    /// KCM sockets, each with a thread or task that receives
    #[arg(long, default_value_t = 4)]
    sockets: usize,
    /// Payload bytes of a message; 4 bytes of length come before it
    #[arg(long, default_value_t = 64)]
    size: usize,
}

/// Who receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    /// The kernel's KCM.
    Kernel(kernel::Setup),
    /// This product, batches.
    Batches,
    /// This product, `recv` for each message.
    Messages,
    /// A thread per connection that reads and finds the messages, and steers nothing.
    ReadLoop,
}

/// In the order of the table: what others are compared with comes first.
fn variants() -> Vec<(&'static str, &'static str, Variant)> {
    use kernel::{Format, Setup};
    let kernel = |format, buffer| Variant::Kernel(Setup { format, buffer });
    vec![
        ("kernel-kcm", "kernel KCM", kernel(Format::Length, None)),
        (
            "kernel-kcm-64M",
            "kernel KCM, 64 MiB receive buffers",
            kernel(Format::Length, Some(64 << 20)),
        ),
        (
            "kernel-kcm-constant",
            "kernel KCM, the parser a constant",
            kernel(Format::Constant, None),
        ),
        ("kcm", "this product, recv_batch", Variant::Batches),
        ("kcm-one", "this product, recv", Variant::Messages),
        ("read-loop", "read loop, nothing steered", Variant::ReadLoop),
    ]
}

/// Messages in one write: as many as fill the largest that stays one segment on loopback, and
/// one, which is what the kernel's accounting likes best.
fn writes(size: usize) -> [usize; 2] {
    [((32 << 10) / (size + load::HEAD)).max(1), 1]
}

fn main() -> Result<()> {
    let args = Args::parse();
    kernel::available()?;
    let mut tables = Vec::new();
    for per_write in writes(args.size) {
        let mut rows: Vec<table::Row> =
            variants().into_iter().map(|(id, name, _)| table::Row::new(id, name)).collect();
        for _ in 0..args.rounds {
            for ((.., variant), row) in variants().into_iter().zip(&mut rows) {
                row.note(&once(&args, variant, per_write)?);
            }
        }
        tables.push((per_write, rows));
    }
    print!("{}{}", table::report(&args, &tables), table::figures(&tables));
    if tables.iter().flat_map(|(_, rows)| rows).any(table::Row::is_wrong) {
        bail!("messages were lost or changed, see above");
    }
    Ok(())
}

/// One measurement; messages of a kernel that stops midway are no error, but told.
fn once(args: &Args, variant: Variant, per_write: usize) -> Result<Seen> {
    let (load, receivers) = Load::connect(args.conns, args.size, per_write)?;
    match variant {
        Variant::Kernel(setup) => kernel::receive(args, setup, load, receivers),
        Variant::Batches => process::receive(args, process::Take::Batches, load, receivers),
        Variant::Messages => process::receive(args, process::Take::Messages, load, receivers),
        Variant::ReadLoop => process::read_loop(args, load, receivers),
    }
}
