//! `cargo xtask soak`: connections that end in every way for minutes, and every message counted.

use anyhow::Result;

use crate::bench::target_dir;
use crate::sh::{Cmd, cargo};

/// Options of the verb.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long connections are made, in minutes; parts of one too
    #[arg(long, default_value_t = 3.0)]
    minutes: f64,
    /// What is done follows from it; a new one each time without
    #[arg(long)]
    seed: Option<u64>,
    /// More options of the soak, such as --connections 40 or --sockets 12
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    more: Vec<String>,
}

/// Builds and runs; with debug assertions, as it looks for faults.
pub(crate) fn run(args: Args) -> Result<()> {
    cargo().args(["build", "--package", "kcm-tests", "--bin", "soak"]).run()?;
    let mut c =
        Cmd::new(target_dir()?.join("debug/soak")).args(["--minutes", &args.minutes.to_string()]);
    if let Some(seed) = args.seed {
        c = c.args(["--seed", &seed.to_string()]);
    }
    c.args(&args.more).run()
}
