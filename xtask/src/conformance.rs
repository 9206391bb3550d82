//! `cargo xtask conformance`: our own cases, and the public BPF conformance suite, through every
//! executor.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::sh::cargo;

/// Arguments of the verb.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The folder of the public suite's `*.data` files, with its folder `negative` (`tests` in a
    /// checkout of github.com/Alan-Jowett/bpf_conformance); without it only our own cases run
    #[arg(long, env = "KCM_CONFORMANCE_SUITE")]
    suite: Option<PathBuf>,
}

/// Prints a table by executor: passed, refused with the reason, failed.
pub(crate) fn run(args: Args) -> Result<()> {
    let mut c = cargo().args(["run", "--quiet", "--package", "kcm-tests", "--bin", "conformance"]);
    if let Some(suite) = args.suite {
        if !suite.is_dir() {
            bail!("{} is no folder; give the suite's by --suite DIR", suite.display());
        }
        c = c.args(["--", "--suite"]).arg(suite.canonicalize()?);
    }
    c.run()
}
