//! `cargo xtask fuzz TARGET`: the long form of the fuzz targets that the tests run shortly.

use anyhow::Result;

use crate::sh::cargo;

/// Arguments of the verb.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to fuzz; without it, the targets are listed
    target: Option<String>,
    /// For how long
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// The first seed; the clock's without it
    #[arg(long)]
    seed: Option<u64>,
    /// Run the one case of this seed again
    #[arg(long)]
    replay: Option<u64>,
}

/// Builds the target optimised, with its assertions kept, and runs it.
pub(crate) fn run(args: Args) -> Result<()> {
    let mut c = cargo()
        .args(["run", "--quiet", "--release", "--package", "kcm-tests", "--bin", "fuzz", "--"])
        .args(args.target)
        .args(["--minutes", &args.minutes.to_string()]);
    if let Some(seed) = args.seed {
        c = c.args(["--seed", &seed.to_string()]);
    }
    if let Some(seed) = args.replay {
        c = c.args(["--replay", &seed.to_string()]);
    }
    c.run()
}
