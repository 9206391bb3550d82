//! `cargo xtask conformance`: the public BPF conformance suite through every executor.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::sh::cargo;

/// Arguments of the verb.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The folder of the suite's `*.data` files, with its folder `negative`
    /// (`tests` in a checkout of github.com/Alan-Jowett/bpf_conformance)
    #[arg(long, env = "KCM_CONFORMANCE_SUITE")]
    suite: PathBuf,
}

/// Prints a table by executor: passed, refused with the reason, failed.
pub(crate) fn run(args: Args) -> Result<()> {
    if !args.suite.is_dir() {
        bail!("{} is no folder; give the suite's by --suite DIR", args.suite.display());
    }
    let suite = args.suite.canonicalize()?;
    cargo()
        .args(["run", "--quiet", "--package", "kcm-tests", "--bin", "conformance", "--"])
        .arg("--suite")
        .arg(suite)
        .run()
}
