//! `cargo xtask cross aarch64`: the engine's tests for a machine that is not here, under qemu's
//! user emulation. What is missing is installed.
//!
//! The standard library for the other machine comes from rustup where it can be had, and is
//! else built from its source (`-Z build-std`), with the compiler that also builds parsers.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::apt;
use crate::setup::compiler;
use crate::sh::{Cmd, cargo, root, which};

/// Arguments of the verb.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The machine; aarch64 is the only one with a JIT besides x86-64
    #[arg(default_value = "aarch64", value_parser = ["aarch64"])]
    machine: String,
    /// Only tests of kcm-core whose names contain one of these; `bpf::` without it
    filters: Vec<String>,
    /// The folder of the public conformance suite, as for `cargo xtask conformance`
    #[arg(long, env = "KCM_CONFORMANCE_SUITE")]
    suite: Option<PathBuf>,
    /// Cases of each fuzz target; every accepted program is compiled
    #[arg(long, default_value_t = 2_000)]
    cases: u64,
    /// Run also the tests that take long under emulation and make no code for the machine
    #[arg(long)]
    all: bool,
}

const TARGET: &str = "aarch64-unknown-linux-gnu";

/// Tests that say nothing about the machine and take minutes under emulation: properties of the
/// verifier, in which no code of the machine's is made.
const SLOW: &[&str] = &[
    "scalar_props",
    "cutting_paths_off_changes_no_verdict",
    "accepted_programs_are_never_stopped",
    "a_verifier_without_one_of_its_rules_is_found_out",
];

/// Dependencies that the tests spend their time in: under emulation they are optimised too.
const OPTIMISED: &[&str] = &[
    "cranelift-bforest",
    "cranelift-codegen",
    "cranelift-entity",
    "cranelift-frontend",
    "hashbrown",
    "kcm-tests",
    "regalloc2",
    "smallvec",
];

/// What links and runs programs of that machine: files, and the packages that have them.
const NEEDED: &[(&str, &str)] =
    &[("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"), ("qemu-aarch64", "qemu-user")];

/// Builds and runs the tests of the engine, the conformance cases and the fuzz targets.
pub(crate) fn run(args: Args) -> Result<()> {
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(file, _)| which(file).is_none()).map(|(_, p)| *p).collect();
    if !missing.is_empty() {
        apt::install(&[&missing[..], &["libc6-dev-arm64-cross"]].concat())?;
    }
    let build = builder()?;
    let filters = if args.filters.is_empty() { vec!["bpf::".to_owned()] } else { args.filters };
    let mut test = build("test").args(["--package", "kcm-core", "--lib", "--"]).args(filters);
    for slow in SLOW.iter().filter(|_| !args.all) {
        test = test.args(["--skip", slow]);
    }
    test.run()?;
    build("test").args(["--package", "kcm-core", "--test", "verifier_parsers"]).run()?;
    let tests = |bin: &str| build("run").args(["--package", "kcm-tests", "--bin", bin]);
    let mut conformance = tests("conformance");
    if let Some(suite) = &args.suite {
        if !suite.is_dir() {
            bail!("{} is no folder; give the suite's by --suite DIR", suite.display());
        }
        conformance = conformance.args(["--", "--suite"]).arg(suite.canonicalize()?);
    }
    conformance.run()?;
    for target in ["program", "parser"] {
        let cases = args.cases.to_string();
        let seeds = ["--seed", "1", "--cases", &cases, "--compile-one-in", "1"];
        tests("fuzz").args(["--", target]).args(seeds).run()?;
    }
    Ok(())
}

/// How cargo is called for the other machine.
fn builder() -> Result<impl Fn(&str) -> Cmd> {
    let installed = |name: &str| {
        let rustc = Cmd::new("rustc").args(["--print", "target-libdir", "--target", name]).quiet();
        rustc.answer().is_some_and(|dir| PathBuf::from(dir).is_dir())
    };
    let has_std = installed(TARGET)
        || which("rustup").is_some()
            && Cmd::new("rustup").args(["target", "add", TARGET]).run().is_ok()
            && installed(TARGET);
    let own = if has_std { None } else { Some(compiler()?) };
    Ok(move |verb: &str| {
        let c = match &own {
            None => cargo().arg(verb),
            Some(rustc) => rustc.cargo_cmd().arg(verb).args(["-Z", "build-std"]),
        };
        let optimised = OPTIMISED.iter().fold(c, |c, package| {
            c.arg("--config").arg(format!("profile.dev.package.{package}.opt-level=2"))
        });
        // Nobody debugs over there, and half of the building is debug information.
        let c = optimised.args(["--config", "profile.dev.debug=0"]);
        c.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc")
            .env(
                "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER",
                "qemu-aarch64 -L /usr/aarch64-linux-gnu",
            )
            .args(["--target", TARGET, "--target-dir"])
            .arg(root().join("target/cross"))
    })
}
