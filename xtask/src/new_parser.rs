//! `cargo xtask new-parser NAME`: a parser crate that builds as it is.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::sh::root;

/// Options of the verb.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The crate's name: lower-case letters, digits, `-` and `_`, a letter first
    name: String,
    /// Where to write it (default: a new folder of that name, here)
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
}

/// The files of a new crate, by their names there.
const FILES: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("new_parser/Cargo.toml.in")),
    ("src/main.rs", include_str!("new_parser/main.rs.in")),
    ("README.md", include_str!("new_parser/README.md.in")),
    (".gitignore", include_str!("new_parser/gitignore.in")),
];

/// Writes the crate and says how to go on.
pub(crate) fn run(args: Args) -> Result<()> {
    check_name(&args.name)?;
    let dir = args.path.unwrap_or_else(|| PathBuf::from(&args.name));
    write(&args.name, &dir, &root())?;
    let dir = dir.display();
    println!(
        "wrote {dir}\n\
         try its tests:    cargo test --manifest-path {dir}/Cargo.toml\n\
         build its object: cargo xtask build-ebpf --manifest-path {dir}/Cargo.toml"
    );
    Ok(())
}

/// A name that is a package, a binary and, with `_` for `-`, a function and a program.
fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    let first = name.chars().next();
    if !first.is_some_and(|c| c.is_ascii_lowercase()) || !name.chars().all(plain) {
        bail!(
            "{name:?} is no name for a parser: it has lower-case letters, digits, `-` and `_` \
             only, and a letter first"
        );
    }
    if name.len() > MAX_NAME {
        bail!("{name:?} is too long for a name: {} characters, at most {MAX_NAME}", name.len());
    }
    let program = name.replace('-', "_");
    if RESERVED.contains(&program.as_str()) {
        bail!("a parser cannot be named {name:?}: Rust or the crate itself uses that name");
    }
    Ok(())
}

/// Longer than any sensible name, and within what cargo and registries take.
const MAX_NAME: usize = 64;

/// Rust's keywords, the crates that every crate sees, the names that the new crate uses, and
/// those of the functions that the BPF build adds.
const RESERVED: &[&str] = &[
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "aya_ebpf",
    "aya_log_ebpf",
    "bcmp",
    "become",
    "box",
    "break",
    "build",
    "const",
    "continue",
    "core",
    "crate",
    "deps",
    "do",
    "dyn",
    "else",
    "enum",
    "examples",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "incremental",
    "kcm_common",
    "kcm_ebpf",
    "let",
    "license",
    "loop",
    "macro",
    "main",
    "match",
    "memcmp",
    "memcpy",
    "memmove",
    "memset",
    "mod",
    "move",
    "mut",
    "override",
    "panic",
    "parse",
    "priv",
    "proc_macro",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "tests",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "where",
    "while",
    "yield",
];

/// Writes all files below `dir`, none of which may be there.
fn write(name: &str, dir: &Path, kcm: &Path) -> Result<()> {
    if fs::symlink_metadata(dir).is_ok() {
        bail!("{} is there already; nothing was written", dir.display());
    }
    fs::create_dir_all(dir.join("src"))
        .with_context(|| format!("could not create {}", dir.display()))?;
    let library = path_from(dir, &kcm.join("kcm-ebpf"))?;
    for (file, template) in FILES {
        let text = template
            .replace("{{name}}", name)
            .replace("{{program}}", &name.replace('-', "_"))
            .replace("{{kcm-ebpf}}", &library)
            .replace("{{rust-version}}", env!("CARGO_PKG_RUST_VERSION"));
        let path = dir.join(file);
        let mut new = fs::File::create_new(&path)
            .with_context(|| format!("could not create {}", path.display()))?;
        new.write_all(text.as_bytes())
            .with_context(|| format!("could not write {}", path.display()))?;
    }
    Ok(())
}

/// The path of `target` as the manifest in `dir` names it: relative inside this repository,
/// so that the two can move together, else absolute.
fn path_from(dir: &Path, target: &Path) -> Result<String> {
    let dir = fs::canonicalize(dir)?;
    let target = fs::canonicalize(target)?;
    let kcm = target.parent().context("kcm-ebpf is in no folder")?;
    let path = match dir.strip_prefix(kcm) {
        Ok(below) => below.components().map(|_| Path::new("..")).collect::<PathBuf>(),
        Err(_) => kcm.to_path_buf(),
    };
    let path = path.join(target.file_name().context("kcm-ebpf has no name")?);
    let text = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
    // A TOML basic string.
    Ok(text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sh::cargo;

    #[test]
    fn names_that_are_no_crate_and_no_function_are_refused() {
        for name in ["my-proto", "a", "proto_2", "redis7"] {
            check_name(name).unwrap();
        }
        let long = "x".repeat(65);
        for name in
            ["", "2fast", "-x", "My-Proto", "a b", "../x", "a/b", "ünï", "match", "kcm-ebpf", &long]
        {
            check_name(name).unwrap_err();
        }
    }

    #[test]
    fn what_is_there_is_not_overwritten() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("p");
        write("p", &dir, &root()).unwrap();
        fs::write(dir.join("src/main.rs"), "mine").unwrap();
        let e = write("p", &dir, &root()).unwrap_err().to_string();
        assert!(e.contains("there already"), "{e}");
        assert_eq!(fs::read_to_string(dir.join("src/main.rs")).unwrap(), "mine");
    }

    #[test]
    fn no_placeholder_is_left() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("p");
        write("p", &dir, &root()).unwrap();
        for (file, _) in FILES {
            let text = fs::read_to_string(dir.join(file)).unwrap();
            assert!(!text.contains("{{") || !text.contains("}}"), "{file}");
        }
    }

    #[test]
    fn a_crate_inside_the_repository_names_it_relatively() {
        let kcm = tempfile::tempdir().unwrap();
        let dir = kcm.path().join("x/y");
        fs::create_dir_all(&dir).unwrap();
        fs::create_dir_all(kcm.path().join("kcm-ebpf")).unwrap();
        let path = path_from(&dir, &kcm.path().join("kcm-ebpf")).unwrap();
        assert_eq!(path, "../../kcm-ebpf");
        let other = tempfile::tempdir().unwrap();
        let path = path_from(other.path(), &kcm.path().join("kcm-ebpf")).unwrap();
        assert!(Path::new(&path).is_absolute(), "{path}");
    }

    #[test]
    fn the_tests_of_a_new_crate_pass_as_it_is() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("fresh-one");
        write("fresh-one", &dir, &root()).unwrap();
        cargo()
            .args(["test", "--quiet", "--manifest-path"])
            .arg(dir.join("Cargo.toml"))
            .env("CARGO_TARGET_DIR", tmp.path().join("target"))
            .dir(&dir)
            .run()
            .unwrap();
    }
}
