//! The linker half of the toolchain: bpf-linker, on an LLVM not older than rustc's.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::rustc::Rustc;
use crate::apt;
use crate::sh::{Cmd, root, which};

/// The release that is installed where there is none, with the LLVM majors it builds on.
const RELEASE: &str = "0.13.0";
const RELEASE_LLVMS: std::ops::RangeInclusive<u32> = 21..=23;

/// Newer majors than rustc's that are looked for: bitcode is read by later versions.
const NEWER: u32 = 3;

/// A bpf-linker that reads this rustc's bitcode, installed if there is none.
pub(super) fn ensure(rustc: &Rustc) -> Result<PathBuf> {
    if let Ok(found) = find(rustc.llvm) {
        return Ok(found);
    }
    let (llvm, prefix) = llvm(rustc.llvm)?;
    let dir = folder(llvm)?;
    let release: &[&str] =
        // A later LLVM needs a later bpf-linker: the newest one knows it, or says so.
        if RELEASE_LLVMS.contains(&llvm) { &["--version", RELEASE] } else { &[] };
    rustc
        .cargo_cmd()
        .args(["install", "bpf-linker", "--locked", "--no-default-features"])
        .args(release)
        .arg("--features")
        .arg(format!("llvm-{llvm}"))
        .arg("--root")
        .arg(&dir)
        // Without it llvm-sys asks the wrong llvm-config.
        .env("LLVM_PREFIX", prefix)
        .run()
        .with_context(|| format!("could not build bpf-linker on LLVM {llvm}"))?;
    find(rustc.llvm).context("bpf-linker was installed but does not run")
}

/// The bpf-linker that is there: the one installed by this verb, or else that of PATH.
pub(super) fn find(needed: u32) -> Result<PathBuf> {
    for llvm in needed..=needed + NEWER {
        let ours = folder(llvm)?.join("bin/bpf-linker");
        if ours.is_file() && runs(&ours) {
            return Ok(ours);
        }
    }
    let Some(found) = which("bpf-linker") else {
        bail!("no bpf-linker is here; `cargo xtask setup` gets one");
    };
    match linked_llvm(&found) {
        Some(llvm) if llvm < needed => bail!(
            "{} is built on LLVM {llvm}, older than rustc's {needed}: it cannot read its \
             output. `cargo xtask setup` gets one that can",
            found.display()
        ),
        _ if !runs(&found) => bail!("{} does not run", found.display()),
        // Linked statically it does not say; those are released with the newest LLVM.
        _ => Ok(found),
    }
}

fn runs(linker: &Path) -> bool {
    Cmd::new(linker).arg("--version").quiet().succeeds()
}

/// The major version of the LLVM library that the program is linked with, if dynamically.
fn linked_llvm(program: &Path) -> Option<u32> {
    let libraries = Cmd::new("ldd").arg(program).quiet().answer()?;
    let name = libraries.lines().find_map(|l| l.trim().strip_prefix("libLLVM"))?;
    // libLLVM.so.22.1, or libLLVM-15.so.1
    let digits = name.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Where this verb keeps its own build: outside `target`, which people delete.
fn folder(llvm: u32) -> Result<PathBuf> {
    let cache = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        (Some(dir), _) if !dir.is_empty() => PathBuf::from(dir),
        (_, Some(home)) if !home.is_empty() => PathBuf::from(home).join(".cache"),
        _ => root().join("target"),
    };
    Ok(cache.join("kcm").join(format!("bpf-linker-{RELEASE}-llvm-{llvm}")))
}

/// An LLVM with its headers, not older than `needed`, installed if there is none: its major
/// version and its prefix.
fn llvm(needed: u32) -> Result<(u32, PathBuf)> {
    let majors = || needed..=needed + NEWER;
    if let Some(found) = majors().find_map(|major| Some((major, prefix(major)?))) {
        return Ok(found);
    }
    if apt::available() {
        let package = |major| format!("llvm-{major}-dev");
        let known = || majors().find(|&major| apt::candidate(&package(major)).is_some());
        let major = match known() {
            Some(major) => Some(major),
            None => {
                apt::update()?;
                known()
            }
        };
        if let Some(major) = major {
            apt::install(&[&package(major)])?;
            let prefix = prefix(major)
                .with_context(|| format!("llvm-{major}-dev is installed without its tools"))?;
            return Ok((major, prefix));
        }
    }
    bail!(
        "bpf-linker needs an LLVM >= {needed} with its headers (Debian: llvm-{needed}-dev, \
         also from apt.llvm.org; or put a released bpf-linker binary into PATH)"
    )
}

/// The prefix of the LLVM of that major version, if its headers and its library are there.
fn prefix(major: u32) -> Option<PathBuf> {
    [format!("llvm-config-{major}"), "llvm-config".to_owned()].iter().find_map(|name| {
        let config = which(name)?;
        let ask = |what: &str| Cmd::new(&config).arg(what).quiet().answer();
        let fit = ask("--version")?.split('.').next()?.parse() == Ok(major)
            && PathBuf::from(ask("--includedir")?).join("llvm-c/Core.h").is_file();
        if fit { ask("--prefix").map(PathBuf::from) } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_llvm_names_none() {
        assert_eq!(linked_llvm(Path::new("/bin/sh")), None);
    }

    #[test]
    fn builds_for_different_llvms_do_not_share_a_folder() {
        assert_ne!(folder(22).unwrap(), folder(23).unwrap());
    }
}
