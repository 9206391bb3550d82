//! `cargo xtask oracle`: the same questions to a real AF_KCM and to this product.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::apt;
use crate::sh::{Cmd, cargo, root, which};

/// Options of the verb.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print the table of headlines: what the kernel did, what this product did
    #[arg(long)]
    headlines: bool,
    /// Write the kernel's answers, this product's and the document anew; differences without a
    /// reason are marked, and go on failing
    #[arg(long, conflicts_with = "headlines")]
    update: bool,
    /// Boot no kernel: compare with its recorded answers
    #[arg(long)]
    recorded: bool,
    /// Parts of names of the scenarios to run; all without
    #[arg(conflicts_with = "update")]
    filters: Vec<String>,
}

/// Where the recorded answers are.
const RECORDED: &str = "tests/data/oracle/kernel-6.1.txt";

/// How long a guest may take, in seconds. A run takes about one minute.
const GUEST_SECONDS: &str = "400";

/// Runs the scenarios on both sides and compares.
pub(crate) fn run(args: Args) -> Result<()> {
    cargo().args(["build", "--package", "kcm-tests", "--bin", "oracle"]).run()?;
    let program = target_dir()?.join("debug/oracle");
    let mut c = Cmd::new(&program).arg("compare");
    if !args.recorded {
        let mut filters = args.filters.clone();
        if args.headlines {
            let names = Cmd::new(&program).args(["list", "headlines"]).quiet().read()?;
            filters.extend(names.split_whitespace().map(str::to_owned));
        }
        let transcript = ask_kernel(&program, &filters)?;
        let fresh = target_dir()?.join("oracle-kernel.txt");
        std::fs::write(&fresh, &transcript)?;
        if args.update {
            std::fs::write(root().join(RECORDED), &transcript)?;
        }
        c = c.arg("--kernel").arg(fresh);
    }
    for (set, option) in [(args.headlines, "--headlines"), (args.update, "--update")] {
        if set {
            c = c.arg(option);
        }
    }
    c.args(&args.filters).run()
}

fn target_dir() -> Result<PathBuf> {
    let text = cargo().args(["metadata", "--format-version=1", "--no-deps"]).quiet().read()?;
    let v: serde_json::Value = serde_json::from_str(&text)?;
    let dir = v["target_directory"].as_str().context("cargo metadata names no target folder")?;
    Ok(dir.into())
}

/// Boots a kernel that has AF_KCM with the scenarios as its first process; their transcript.
fn ask_kernel(program: &Path, filters: &[String]) -> Result<String> {
    let (linux, module) = user_mode_linux()?;
    // The kernel's command line has no quotes: a path without blanks is needed, and one that
    // no rebuild touches meanwhile.
    let dir = std::env::temp_dir().join(format!("kcm-oracle-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let copied = dir.join("oracle");
    let out =
        std::fs::copy(program, &copied).context("could not copy the program").and_then(|_| {
            let dir = dir.display();
            Cmd::new("timeout")
                .args(["--kill-after=10", GUEST_SECONDS])
                .arg(linux)
                .args([format!("uml_dir={dir}"), "umid=oracle".into(), "mem=512M".into()])
                .args(["rootfstype=hostfs", "ro", "quiet", "con=null", "con0=fd:0,fd:1"])
                .arg(format!("init={}", copied.display()))
                .arg(format!("KCM_KO={}", module.display()))
                .arg(format!("ORACLE_FILTER={}", filters.join(",")))
                .read()
        });
    let _ = std::fs::remove_dir_all(&dir);
    let out = out?.replace('\r', "");
    transcript(&out)
        .map(str::to_owned)
        .with_context(|| format!("the guest printed no transcript, but:\n{out}"))
}

fn transcript(output: &str) -> Option<&str> {
    let (_, rest) = output.split_once("=== transcript begins\n")?;
    rest.split_once("=== transcript ends").map(|(t, _)| t)
}

/// Compares what another kernel answered, in a guest that printed `output`.
pub(crate) fn of_guest(series: &str, output: &str, filters: &[String], update: bool) -> Result<()> {
    let text = transcript(output).context("the guest printed no transcript")?;
    let fresh = target_dir()?.join(format!("oracle-kernel-{series}.txt"));
    std::fs::write(&fresh, text)?;
    if update && filters.is_empty() {
        std::fs::copy(&fresh, root().join(format!("tests/data/oracle/kernel-{series}.txt")))?;
    }
    let program = target_dir()?.join("debug/oracle");
    Cmd::new(program).arg("kernels").arg(series).arg(&fresh).args(filters).run()
}

/// Debian's User-Mode-Linux, which runs a kernel as an ordinary process, and its KCM module.
fn user_mode_linux() -> Result<(PathBuf, PathBuf)> {
    if which("linux.uml").is_none() {
        apt::install(&["user-mode-linux"])?;
    }
    let linux = which("linux.uml").context("user-mode-linux has no linux.uml")?;
    let mut todo = vec![PathBuf::from("/usr/lib/uml/modules")];
    while let Some(dir) = todo.pop() {
        for e in std::fs::read_dir(&dir).with_context(|| format!("{}", dir.display()))? {
            let path = e?.path();
            if path.file_name().is_some_and(|n| n == "kcm.ko") {
                return Ok((linux, path));
            }
            if path.is_dir() && !path.is_symlink() {
                todo.push(path);
            }
        }
    }
    bail!("user-mode-linux has no kcm.ko under /usr/lib/uml/modules")
}
