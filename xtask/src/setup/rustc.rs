//! The compiler half of the toolchain: a rustc with its cargo and the source of `core`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::apt;
use crate::sh::{Cmd, root, which};

/// A rustc that can build `core` for a BPF target.
pub(crate) struct Rustc {
    /// Its cargo, by path: a bare `cargo` may be rustup's shim for another toolchain.
    pub(crate) cargo: PathBuf,
    /// The compiler.
    pub(crate) rustc: PathBuf,
    /// Its release, such as `1.96.0`.
    pub(crate) release: String,
    /// The major version of its LLVM.
    pub(crate) llvm: u32,
    /// Its sysroot, with the source of `core` below it.
    pub(crate) sysroot: PathBuf,
}

impl Rustc {
    /// Its cargo as a command with a clean environment.
    pub(crate) fn cargo_cmd(&self) -> Cmd {
        let mut cmd = Cmd::new(&self.cargo)
            .env("RUSTC", &self.rustc)
            // -Z build-std on a compiler that is no nightly.
            .env("RUSTC_BOOTSTRAP", "1");
        for inherited in INHERITED {
            cmd = cmd.env_remove(inherited);
        }
        cmd
    }

    /// Reads a rustc's own account of itself; `None` unless it and its cargo run, it is new
    /// enough and the source of its `core` is there.
    fn inspect(rustc: &Path, cargo: &Path, needed: Version) -> Option<Self> {
        let account = bare(rustc).args(["--version", "--verbose"]).answer()?;
        let release = field(&account, "release:")?;
        let llvm = field(&account, "LLVM version:")?.split('.').next()?.parse().ok()?;
        let sysroot = PathBuf::from(bare(rustc).args(["--print", "sysroot"]).answer()?);
        let fit = version(release)? >= needed
            && sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file()
            && bare(cargo).arg("--version").succeeds();
        fit.then(|| Rustc {
            cargo: cargo.to_owned(),
            rustc: rustc.to_owned(),
            release: release.to_owned(),
            llvm,
            sysroot,
        })
    }
}

/// What `cargo run` and rustup's shims leave in the environment of this program, and what
/// would steer the build elsewhere.
const INHERITED: &[&str] = &[
    "CARGO",
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "LD_LIBRARY_PATH",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
];

fn bare(program: &Path) -> Cmd {
    INHERITED.iter().fold(Cmd::new(program).quiet(), |cmd, name| cmd.env_remove(name))
}

/// A release as numbers, to compare.
type Version = [u32; 3];

/// `1.97.0-nightly` and `1.95` alike.
fn version(text: &str) -> Option<Version> {
    let numbers = text.split(['-', '+']).next()?;
    let mut version = [0; 3];
    for (slot, number) in version.iter_mut().zip(numbers.split('.')) {
        *slot = number.parse().ok()?;
    }
    Some(version)
}

fn field<'a>(account: &'a str, name: &str) -> Option<&'a str> {
    account.lines().find_map(|l| l.strip_prefix(name)).map(str::trim)
}

/// The oldest rustc that can compile the workspace, as the workspace says.
fn needed() -> Result<Version> {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml"))?;
    manifest
        .lines()
        .find_map(|l| l.strip_prefix("rust-version = "))
        .and_then(|v| version(v.trim().trim_matches('"')))
        .context("the workspace's Cargo.toml states no rust-version")
}

/// The first compiler that is fit: of rustup's toolchains (nightlies first), then of PATH.
pub(super) fn find() -> Result<Rustc> {
    let needed = needed()?;
    if let Some(found) = from_rustup(needed).or_else(|| from_path(needed)) {
        return Ok(found);
    }
    let [major, minor, _] = needed;
    bail!(
        "no rustc >= {major}.{minor} with the source of its standard library is here; \
         `cargo xtask setup` gets one"
    )
}

/// A fit compiler, installed if there is none: by rustup where there is one, else (or when
/// its server cannot be reached) from Debian's packages.
pub(super) fn ensure() -> Result<Rustc> {
    let needed = needed()?;
    if let Some(found) = from_rustup(needed).or_else(|| from_path(needed)) {
        return Ok(found);
    }
    let mut tried = Vec::new();
    if which("rustup").is_some() {
        // A nightly that only lacks the source is left at its version; if that does not
        // help (it is too old, or its source is no longer served), the newest is fetched.
        let add = ["component", "add", "rust-src", "--toolchain", "nightly"];
        let install = ["toolchain", "install", "nightly", "--profile", "minimal"];
        let newest = ["--component", "rust-src", "--no-self-update"];
        let installed = Cmd::new("rustup").args(["which", "rustc", "--toolchain", "nightly"]);
        let mut commands = vec![Cmd::new("rustup").args(install).args(newest)];
        if installed.quiet().succeeds() {
            commands.insert(0, Cmd::new("rustup").args(add));
        }
        for command in commands {
            match command.run() {
                Ok(()) => match from_rustup(needed) {
                    Some(found) => return Ok(found),
                    None => tried.push("rustup's nightly is too old or incomplete".to_owned()),
                },
                Err(e) => tried.push(format!("{e:#}")),
            }
        }
    }
    if apt::available() {
        match install_packages(needed) {
            Ok(()) => match from_path(needed) {
                Some(found) => return Ok(found),
                None => tried.push("the packages' rustc is not in PATH".to_owned()),
            },
            Err(e) => tried.push(format!("{e:#}")),
        }
    }
    let [major, minor, _] = needed;
    bail!(
        "parsers need rustc >= {major}.{minor} with the source of its standard library. \
         Get it with `rustup toolchain install nightly --component rust-src`{}",
        tried.iter().map(|t| format!("\n  tried: {t}")).collect::<String>()
    )
}

/// Nightlies first, then the others: with RUSTC_BOOTSTRAP any serves that has its source.
fn from_rustup(needed: Version) -> Option<Rustc> {
    let home = match std::env::var_os("RUSTUP_HOME") {
        Some(home) => PathBuf::from(home),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".rustup"),
    };
    let mut toolchains: Vec<PathBuf> =
        std::fs::read_dir(home.join("toolchains")).ok()?.flatten().map(|e| e.path()).collect();
    let key = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().display().to_string();
        // The undated nightly is the newest.
        (!name.starts_with("nightly"), name.len(), name)
    };
    toolchains.sort_by_cached_key(key);
    toolchains.iter().find_map(|toolchain| {
        let bin = toolchain.join("bin");
        Rustc::inspect(&bin.join("rustc"), &bin.join("cargo"), needed)
    })
}

/// Every rustc in PATH that is not one of rustup's shims.
fn from_path(needed: Version) -> Option<Rustc> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .filter(|dir| {
            let real = std::fs::canonicalize(dir.join("rustc")).unwrap_or_default();
            real.file_name().is_some_and(|name| name != "rustup")
        })
        .find_map(|dir| Rustc::inspect(&dir.join("rustc"), &dir.join("cargo"), needed))
}

/// Debian's packages, by the names under which it ships a rustc: the newest first.
const PACKAGES: &[[&str; 3]] =
    &[["rustc-web", "cargo-web", "rust-web-src"], ["rustc", "cargo", "rust-src"]];

fn install_packages(needed: Version) -> Result<()> {
    let fit = || {
        let candidates = PACKAGES.iter().filter_map(|set| Some((apt::candidate(set[0])?, set)));
        candidates.filter_map(|(v, set)| Some((version(&v)?, set))).filter(|c| c.0 >= needed).max()
    };
    let chosen = match fit() {
        Some(chosen) => Some(chosen),
        None => {
            apt::update()?;
            fit()
        }
    };
    match chosen {
        Some((_, set)) => apt::install(set),
        None => bail!("the archives that apt knows have no rustc that is new enough"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_compare_as_numbers() {
        assert_eq!(version("1.97.0-nightly"), Some([1, 97, 0]));
        assert_eq!(version("1.96.0+dfsg1-1~deb12u2"), Some([1, 96, 0]));
        assert_eq!(version("1.95"), Some([1, 95, 0]));
        assert!(version("1.100.0") > version("1.99.1"));
        assert_eq!(version("x.y"), None);
    }

    #[test]
    fn the_workspace_states_what_it_needs() {
        assert!(needed().unwrap() >= [1, 85, 0]);
    }
}
