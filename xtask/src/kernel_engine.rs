//! `cargo xtask kernel-engine`: can the kernel engine be used here?

use anyhow::Result;

use crate::bench::target_dir;
use crate::sh::{Cmd, cargo};

/// Options of the verb.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Say yes, or which capability, option or behaviour is missing, by trying it
    Probe {
        /// Ask as this user (by number) has it, without any privileges
        #[arg(long)]
        user: Option<u32>,
    },
}

/// Builds and asks.
pub(crate) fn run(args: Args) -> Result<()> {
    let What::Probe { user } = args.what;
    cargo().args(["build", "--package", "kcm-tests", "--bin", "kernel-probe"]).run()?;
    let program = target_dir()?.join("debug/kernel-probe");
    match user {
        None => Cmd::new(program).run(),
        // The folders on the way need not be open to that user: the program is given by
        // setpriv, which is still the caller.
        Some(uid) => {
            let id = uid.to_string();
            Cmd::new("setpriv")
                .args(["--reuid", &id, "--regid", &id, "--clear-groups", "--inh-caps=-all"])
                .arg(program)
                .run()
        }
    }
}
