//! `cargo xtask setup`: gets what building parsers needs, and says what it is.
//!
//! Three things are needed: a rustc that builds `core` from source (`-Z build-std`), the
//! matching source, and a `bpf-linker` whose LLVM is not older than rustc's, for it reads
//! rustc's bitcode. Whatever is there is used, from rustup or from the system; what is
//! missing is installed, every command printed, nothing asked.

mod linker;
mod rustc;

use std::path::PathBuf;

use anyhow::Result;

use crate::sh::Cmd;

/// Options of the verb.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only say what is there and what would be missing; install nothing
    #[arg(long)]
    check: bool,
}

/// Gets the toolchain and says which one it is.
pub(crate) fn run(args: Args) -> Result<()> {
    let toolchain = if args.check { find()? } else { ensure()? };
    println!("rustc       {} (LLVM {})", toolchain.rustc.release, toolchain.rustc.llvm);
    println!("            {}", toolchain.rustc.rustc.display());
    println!("cargo       {}", toolchain.rustc.cargo.display());
    println!("bpf-linker  {}", toolchain.linker.display());
    Ok(())
}

/// All that a parser is built with.
pub(crate) struct Toolchain {
    /// The compiler, its cargo and its `core`.
    pub(crate) rustc: rustc::Rustc,
    /// bpf-linker.
    pub(crate) linker: PathBuf,
}

/// The toolchain, installing what is missing. Quick when nothing is.
pub(crate) fn ensure() -> Result<Toolchain> {
    let rustc = rustc::ensure()?;
    let linker = linker::ensure(&rustc)?;
    Ok(Toolchain { rustc, linker })
}

/// The compiler alone, for building a standard library; installed if it is missing.
pub(crate) fn compiler() -> Result<rustc::Rustc> {
    rustc::ensure()
}

/// The toolchain that is there; an error that names what is missing.
fn find() -> Result<Toolchain> {
    let rustc = rustc::find()?;
    let linker = linker::find(rustc.llvm)?;
    Ok(Toolchain { rustc, linker })
}

impl Toolchain {
    /// This toolchain's cargo, told to use its own rustc and to allow `-Z build-std`, with
    /// nothing left of the toolchain that runs this very program: `cargo run` passes that on
    /// in the environment.
    pub(crate) fn cargo(&self) -> Cmd {
        self.rustc.cargo_cmd()
    }
}
