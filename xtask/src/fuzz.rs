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
    /// Instead of a time, so many cases
    #[arg(long, conflicts_with = "minutes")]
    cases: Option<u64>,
    /// The first seed; the clock's without it
    #[arg(long)]
    seed: Option<u64>,
    /// On so many threads
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Run the one case of this seed again
    #[arg(long)]
    replay: Option<u64>,
    /// Run the one case of this file, such as those in tests/data/fuzz
    #[arg(long, conflicts_with = "replay")]
    file: Option<std::path::PathBuf>,
}

/// Builds the targets optimised and runs one.
pub(crate) fn run(args: Args) -> Result<()> {
    let mut c = cargo()
        .args(["run", "--quiet", "--release", "--package", "kcm-tests", "--bin", "fuzz", "--"])
        .args(args.target);
    if let Some(seed) = args.replay {
        return c.args(["--replay", &seed.to_string()]).run();
    }
    if let Some(file) = args.file {
        return c.arg("--file").arg(std::path::absolute(file)?).run();
    }
    c = match args.cases {
        Some(cases) => c.args(["--cases", &cases.to_string()]),
        None => c.args(["--minutes", &args.minutes.to_string()]),
    };
    if let Some(seed) = args.seed {
        c = c.args(["--seed", &seed.to_string()]);
    }
    c.args(["--threads", &args.threads.to_string()]).run()
}
