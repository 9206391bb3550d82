//! `cargo xtask verify`: what the verifier says of the programs of object files.

use anyhow::Result;

use crate::bench::target_dir;
use crate::sh::{Cmd, cargo};

/// Options of the verb: they are the tool's own.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// Object files and options; `cargo xtask verify --help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    verify: Vec<String>,
}

/// Builds the tool as users build (times are printed), and becomes it.
pub(crate) fn run(args: Args) -> Result<()> {
    cargo().args(["build", "--release", "--package", "kcm-tests", "--bin", "verify"]).run()?;
    Cmd::new(target_dir()?.join("release/verify")).args(args.verify).exec()
}
