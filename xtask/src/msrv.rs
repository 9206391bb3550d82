//! The MSRV check: the stated rust-version is the compiler that checks, and no dependency
//! asks for a newer one.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::sh::{Cmd, cargo, root};

/// Compiles the workspace with the stated rust-version, as far as one is there.
pub(crate) fn check() -> Result<()> {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml"))?;
    let stated = stated(&manifest)?;
    let json = cargo().args(["metadata", "--format-version", "1", "--locked"]).read()?;
    let meta: Value = serde_json::from_str(&json).context("cargo metadata printed no JSON")?;
    let newer = newer(&meta, stated);
    for n in &newer {
        eprintln!("{n}");
    }
    if !newer.is_empty() {
        bail!("{} packages need a newer Rust than {}.{}", newer.len(), stated.0, stated.1);
    }
    let current = cargo().arg("-V").quiet().read()?;
    if version(current.split_whitespace().nth(1).unwrap_or("")) == Some(stated) {
        println!("msrv: {current} is the stated version; clippy has compiled the workspace");
        return Ok(());
    }
    let toolchain = format!("+{}.{}.0", stated.0, stated.1);
    // Not the `cargo` that runs this: only rustup's takes a toolchain as argument.
    let rustup = || Cmd::new("cargo").env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    if rustup().args([&toolchain, "-V"]).quiet().succeeds() {
        return rustup()
            .args([&toolchain, "check", "--workspace", "--all-targets", "--locked"])
            .env("CARGO_TARGET_DIR", root().join("target/msrv"))
            .run();
    }
    let why = format!(
        "the stated Rust {}.{} is not installed (this is {current}): rustup toolchain install {}.{}",
        stated.0, stated.1, stated.0, stated.1
    );
    if std::env::var_os("CI").is_some() {
        bail!("{why}");
    }
    println!("SKIPPED msrv: {why}");
    Ok(())
}

/// Major and minor of `1.95` or `1.95.0`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.');
    Some((parts.next()?.parse().ok()?, parts.next().unwrap_or("0").parse().ok()?))
}

fn stated(manifest: &str) -> Result<(u32, u32)> {
    let doc: toml::Table = manifest.parse().context("Cargo.toml is no TOML")?;
    doc.get("workspace")
        .and_then(|w| w.get("package"))
        .and_then(|p| p.get("rust-version"))
        .and_then(|v| v.as_str())
        .and_then(version)
        .context("Cargo.toml states no workspace.package.rust-version")
}

fn newer(meta: &Value, stated: (u32, u32)) -> Vec<String> {
    let mut out = Vec::new();
    for p in meta["packages"].as_array().into_iter().flatten() {
        let Some(v) = p["rust_version"].as_str() else { continue };
        if version(v).is_none_or(|v| v > stated) {
            out.push(format!("{} {} needs Rust {v}", p["name"], p["version"]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(version("1.95.0"), Some((1, 95)));
        assert_eq!(version("1.100"), Some((1, 100)));
        assert_eq!(version("nightly"), None);
        let meta = serde_json::json!({"packages": [
            {"name": "a", "version": "1", "rust_version": "1.9"},
            {"name": "b", "version": "1", "rust_version": "1.100.0"},
            {"name": "c", "version": "1", "rust_version": null},
        ]});
        let bad = newer(&meta, (1, 95));
        assert_eq!(bad.len(), 1);
        assert!(bad[0].contains("\"b\""));
    }

    #[test]
    fn the_workspace_states_its_version() {
        let m = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
        assert!(stated(&m).unwrap() >= (1, 95));
        assert!(stated("[workspace]").is_err());
    }
}
