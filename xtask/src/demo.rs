//! `cargo xtask demo`: N connections feed M message sockets, to be watched.

use anyhow::Result;

use crate::bench::target_dir;
use crate::build_ebpf;
use crate::sh::{Cmd, cargo};

/// Options of the verb.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// Use the parsers' committed objects; do not get the BPF toolchain to build them
    #[arg(long)]
    committed: bool,
    /// Options of the demo itself; `cargo xtask demo --help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    demo: Vec<String>,
}

/// Builds the parsers, where that can be, and the demo; then becomes the demo.
pub(crate) fn run(args: Args) -> Result<()> {
    let target = target_dir()?;
    cargo().args(["build", "--release", "--package", "kcm-tests", "--bin", "kcm-demo"]).run()?;
    let demo = Cmd::new(target.join("release/kcm-demo"));
    if args.demo.iter().any(|a| a == "--help" || a == "-h") {
        eprintln!("(--committed in front: use the committed objects, get no BPF toolchain)");
        return demo.arg("--help").quiet().exec();
    }
    let objects = target.join("bpf/demo");
    let built = if args.committed {
        Err(anyhow::anyhow!("--committed was given"))
    } else {
        build_ebpf::run(build_ebpf::Args::into_folder(objects.clone()))
    };
    let demo = match built {
        Ok(()) => demo.arg("--objects").arg(objects),
        Err(e) => {
            eprintln!("using the committed objects of the built-in parsers: {e:#}");
            demo
        }
    };
    demo.args(args.demo).exec()
}
