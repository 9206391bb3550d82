//! `cargo xtask VERB`: everything that is done to this repository, one file per verb.
//!
//! A verb prints each command before it runs it, gets what it needs by itself, and fails
//! with a message that says what to do. To add one: a file with `pub(crate) struct Args`
//! (clap) and `pub(crate) fn run(args: Args) -> anyhow::Result<()>`, a `mod` line and a
//! line in [`Verb`] below.

mod apt;
mod bench;
mod build_ebpf;
mod ci;
mod conformance;
mod cross;
mod demo;
mod fuzz;
mod guest;
mod kernel_engine;
mod licences;
mod msrv;
mod new_parser;
mod oracle;
mod setup;
#[allow(dead_code)] // shared by the verbs, each of which uses a part
mod sh;
mod soak;
mod test;
mod tidy;
mod verify;

use clap::{Parser, Subcommand};

/// Development verbs of the kcm workspace.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

/// One variant per verb; the documentation comment is the verb's help text.
#[derive(Subcommand)]
enum Verb {
    /// Get what building parsers needs: a rustc with its source, and bpf-linker
    Setup(setup::Args),
    /// Build parsers to BPF objects: the built-in ones, or those of any parser crate
    BuildEbpf(build_ebpf::Args),
    /// Write a new parser crate, ready to build
    NewParser(new_parser::Args),
    /// Watch N connections feed M message sockets
    Demo(demo::Args),
    /// Compare the cost of a message with what others make it cost
    Bench(bench::Args),
    /// Run our own conformance cases, and the public BPF suite, through every executor
    Conformance(conformance::Args),
    /// Run the engine's tests for another machine (aarch64), under qemu
    Cross(cross::Args),
    /// Fuzz a target for a time
    Fuzz(fuzz::Args),
    /// Run tests and benchmarks on a Debian kernel in qemu, and read its log for faults
    Guest(guest::Args),
    /// Ask whether the kernel engine can be used here
    KernelEngine(kernel_engine::Args),
    /// Run every check that a change must pass, in the order of .ci/run
    Ci(ci::Args),
    /// Check the rules of this repository that no compiler checks
    Tidy(tidy::Args),
    /// Put the same questions to a real AF_KCM (User-Mode-Linux) and to this product
    Oracle(oracle::Args),
    /// Let connections end in every way for minutes, and count every message
    Soak(soak::Args),
    /// Run every test, real servers included; count what had to be skipped
    Test(test::Args),
    /// Verify the programs of object files, and say what was found out about each
    Verify(verify::Args),
}

fn main() -> std::process::ExitCode {
    let result = match Cli::parse().verb {
        Verb::Setup(args) => setup::run(args),
        Verb::BuildEbpf(args) => build_ebpf::run(args),
        Verb::NewParser(args) => new_parser::run(args),
        Verb::Bench(args) => bench::run(args),
        Verb::Demo(args) => demo::run(args),
        Verb::Conformance(args) => conformance::run(args),
        Verb::Cross(args) => cross::run(args),
        Verb::Fuzz(args) => fuzz::run(args),
        Verb::Guest(args) => guest::run(args),
        Verb::KernelEngine(args) => kernel_engine::run(args),
        Verb::Ci(args) => ci::run(args),
        Verb::Tidy(args) => tidy::run(args),
        Verb::Oracle(args) => oracle::run(args),
        Verb::Soak(args) => soak::run(args),
        Verb::Test(args) => test::run(args),
        Verb::Verify(args) => verify::run(args),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
