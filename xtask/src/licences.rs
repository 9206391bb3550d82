//! The licence check: every dependency's licence must be satisfiable with those that
//! deny.toml allows, and every dependency must come from the registry. deny.toml is in
//! cargo-deny's format, so that cargo-deny can be run on it too where it is installed.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::sh::{cargo, root};

/// Checks all dependencies for all platforms and features.
pub(crate) fn check() -> Result<()> {
    let config = std::fs::read_to_string(root().join("deny.toml")).context("deny.toml")?;
    let allow = allowed(&config)?;
    let json =
        cargo().args(["metadata", "--format-version", "1", "--all-features", "--locked"]).read()?;
    let meta: Value = serde_json::from_str(&json).context("cargo metadata printed no JSON")?;
    let (count, bad) = judge(&meta, &allow)?;
    for b in &bad {
        eprintln!("{b}");
    }
    if !bad.is_empty() {
        bail!("{} of {count} packages are not covered by deny.toml", bad.len());
    }
    println!("licences: {count} packages, all allowed by deny.toml");
    Ok(())
}

/// The `[licenses] allow` list.
fn allowed(config: &str) -> Result<Vec<String>> {
    let doc: toml::Table = config.parse().context("deny.toml is no TOML")?;
    let list = doc
        .get("licenses")
        .and_then(|l| l.get("allow"))
        .and_then(|a| a.as_array())
        .context("deny.toml has no [licenses] allow = [...]")?;
    Ok(list.iter().filter_map(|v| v.as_str()).map(str::to_owned).collect())
}

/// How many packages there are, and what is wrong with which.
fn judge(meta: &Value, allow: &[String]) -> Result<(usize, Vec<String>)> {
    let packages = meta["packages"].as_array().context("cargo metadata lists no packages")?;
    let mut bad = Vec::new();
    for p in packages {
        let name = format!(
            "{} {}",
            p["name"].as_str().unwrap_or("?"),
            p["version"].as_str().unwrap_or("?")
        );
        match p["license"].as_str() {
            None => bad.push(format!("{name}: states no licence")),
            Some(text) => match satisfied(text, allow) {
                Ok(true) => {}
                Ok(false) => bad.push(format!("{name}: {text} is not allowed")),
                Err(e) => bad.push(format!("{name}: {text:?} cannot be read: {e}")),
            },
        }
        let source = p["source"].as_str(); // null: a member of this workspace
        if source.is_some_and(|s| !s.starts_with("registry+")) {
            bad.push(format!("{name}: comes from {}", source.unwrap_or("?")));
        }
    }
    Ok((packages.len(), bad))
}

/// True if the SPDX expression can be met with the allowed licences alone.
fn satisfied(expression: &str, allow: &[String]) -> Result<bool> {
    let e = spdx::Expression::parse_mode(expression, spdx::ParseMode::LAX)
        .map_err(|e| anyhow::anyhow!("{}", e.reason))?;
    Ok(e.evaluate(|req| allow.iter().any(|a| *a == req.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow() -> Vec<String> {
        vec!["MIT".into(), "Apache-2.0".into(), "Apache-2.0 WITH LLVM-exception".into()]
    }

    #[test]
    fn an_expression_is_met_by_what_is_allowed() {
        for ok in [
            "MIT",
            "MIT OR GPL-3.0",
            "MIT/Apache-2.0",
            "MIT AND (Zlib OR Apache-2.0)",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert!(satisfied(ok, &allow()).unwrap(), "{ok}");
        }
        for no in
            ["GPL-3.0-only", "MIT AND GPL-2.0-only", "Apache-2.0 WITH Classpath-exception-2.0"]
        {
            assert!(!satisfied(no, &allow()).unwrap(), "{no}");
        }
        assert!(satisfied("my own", &allow()).is_err());
    }

    #[test]
    fn an_unknown_licence_or_source_is_named() {
        let meta = serde_json::json!({"packages": [
            {"name": "a", "version": "1.0.0", "license": "MIT", "source": "registry+x"},
            {"name": "b", "version": "1.0.0", "license": null, "source": "registry+x"},
            {"name": "c", "version": "1.0.0", "license": "MIT", "source": "git+https://x"},
            {"name": "d", "version": "1.0.0", "license": "AGPL-3.0-only", "source": null},
        ]});
        let (n, bad) = judge(&meta, &allow()).unwrap();
        assert_eq!(n, 4);
        assert_eq!(bad.len(), 3, "{bad:?}");
        for (b, name) in bad.iter().zip(["b 1.0.0", "c 1.0.0", "d 1.0.0"]) {
            assert!(b.starts_with(name), "{b}");
        }
    }
}
