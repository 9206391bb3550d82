//! `cargo xtask bench`: builds kcm-bench as users build (release) and lets it compare.

use std::path::PathBuf;

use anyhow::Result;

use crate::sh::{Cmd, cargo, root};

/// Options of the verb.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Fewer workloads, shorter runs: a minute or two instead of a quarter of an hour
    #[arg(long)]
    quick: bool,
    /// Only these parts, separated by commas: parser, rx, tx, lat, many, memory, flood, ...
    #[arg(long)]
    only: Option<String>,
    /// Where to write the figures as JSON (`-`: to standard output)
    #[arg(long, default_value = "target/bench.json")]
    json: String,
    /// Where to write the tables as Markdown, as docs/performance.md shows them
    #[arg(long)]
    markdown: Option<String>,
    /// Where to write plots of cost against message size and against connections (SVG)
    #[arg(long, default_value = "target/bench")]
    plots: String,
    /// Also boot a guest whose kernel has AF_KCM, and compare with that (some minutes more)
    #[arg(long)]
    kernel: bool,
    /// More options of `kcm-bench run`, such as --rounds 9
    #[arg(last = true)]
    more: Vec<String>,
}

/// Builds and runs.
pub(crate) fn run(args: Args) -> Result<()> {
    cargo().args(["build", "--release", "--package", "kcm-tests", "--bin", "kcm-bench"]).run()?;
    let mut c = Cmd::new(target_dir()?.join("release/kcm-bench")).arg("run");
    if args.quick {
        c = c.arg("--quick");
    }
    if let Some(only) = &args.only {
        c = c.args(["--only", only]);
    }
    if let Some(markdown) = &args.markdown {
        c = c.args(["--markdown", markdown]);
    }
    let mut guest = Ok(());
    if args.kernel {
        // Without the guest's figures the others are worth having all the same.
        match kernel_figures(args.quick) {
            Ok(file) => c = c.arg("--kernel-figures").arg(file),
            Err(e) => guest = Err(e.context("the guest gave no figures")),
        }
    }
    c.args(["--json", &args.json, "--plots", &args.plots]).args(&args.more).run()?;
    guest
}

/// Boots a guest and lets its kernel's KCM receive; where its lines are kept.
fn kernel_figures(quick: bool) -> Result<PathBuf> {
    let short = ["--rounds=1".to_owned(), "--secs=0.5".to_owned()];
    let lines = crate::guest::bench_kcm(if quick { short.to_vec() } else { Vec::new() })?;
    let dir = target_dir()?.join("bench");
    std::fs::create_dir_all(&dir)?;
    let file = dir.join("kernel.txt");
    std::fs::write(&file, lines.join("\n") + "\n")?;
    Ok(file)
}

/// Where cargo puts what it builds: the environment or a configuration may have moved it.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let json = cargo().args(["metadata", "--format-version", "1", "--no-deps"]).quiet().read()?;
    let meta: serde_json::Value = serde_json::from_str(&json)?;
    Ok(meta["target_directory"].as_str().map_or_else(|| root().join("target"), Into::into))
}
