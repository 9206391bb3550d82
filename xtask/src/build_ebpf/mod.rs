//! `cargo xtask build-ebpf`: parsers to BPF objects.
//!
//! Without options the built-in parsers (`kcm-ebpf`) are built into `kcm-core/objects`, from
//! where `kcm-core` embeds them, and then those of the tests (`tests/ebpf`) into
//! `tests/data/objects/rust`: they share sources. `--manifest-path` builds any parser crate on
//! disk, into `bpf/` of its own target folder. The output depends on the source and on the
//! versions of compiler and linker, not on the machine: paths are remapped, profile settings are
//! fixed.

mod object;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::setup::{self, Toolchain};
use crate::sh::root;

/// Options of the verb.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build the parser crate with this Cargo.toml (or in this folder) instead of the
    /// built-in parsers; its objects go to bpf/ in its target folder
    #[arg(long, value_name = "PATH")]
    manifest_path: Option<PathBuf>,
    /// Write the objects here instead
    #[arg(long, value_name = "DIR", conflicts_with = "check")]
    out_dir: Option<PathBuf>,
    /// Build only this program of the crate; may be repeated
    #[arg(long, value_name = "NAME")]
    bin: Vec<String>,
    /// Write none of the committed objects: rebuild them into target/bpf and compare
    #[arg(long, conflicts_with = "manifest_path")]
    check: bool,
}

impl Args {
    /// The built-in parsers, into a folder.
    pub(crate) fn into_folder(dir: PathBuf) -> Self {
        Args { manifest_path: None, out_dir: Some(dir), bin: Vec::new(), check: false }
    }
}

/// Builds, and says what came out.
pub(crate) fn run(args: Args) -> Result<()> {
    let toolchain = setup::ensure()?;
    let all = args.manifest_path.is_none() && args.bin.is_empty() && args.out_dir.is_none();
    let of_tests = Args {
        manifest_path: Some(root().join("tests/ebpf/Cargo.toml")),
        out_dir: Some(root().join("tests/data/objects/rust")),
        bin: Vec::new(),
        check: args.check,
    };
    run_one(&toolchain, args)?;
    if all { run_one(&toolchain, of_tests) } else { Ok(()) }
}

/// Builds the objects of one crate.
fn run_one(toolchain: &Toolchain, args: Args) -> Result<()> {
    let builtin = args.manifest_path.is_none();
    let manifest = manifest(args.manifest_path.as_deref())?;
    let built = build(toolchain, &manifest, &args.bin)?;
    let built_in = root().join("kcm-core/objects");
    let committed = match &args.out_dir {
        Some(dir) if args.check => dir.clone(),
        _ => built_in.clone(),
    };
    let dir = match &args.out_dir {
        Some(dir) if !args.check => dir.clone(),
        None if builtin && !args.check => committed.clone(),
        _ => built.target.join("bpf"),
    };
    fs::create_dir_all(&dir).with_context(|| format!("could not create {}", dir.display()))?;
    for object in &built.objects {
        let path = dir.join(format!("{}.o", object.name));
        // An unchanged file is left alone, so that nothing that embeds it is rebuilt.
        if fs::read(&path).ok().as_deref() != Some(&object.elf) {
            fs::write(&path, &object.elf)
                .with_context(|| format!("could not write {}", path.display()))?;
        }
        let programs: Vec<String> =
            object.programs.iter().map(|p| format!("{} ({})", p.name, p.slots)).collect();
        println!(
            "{}: {} bytes ({} of them BTF); programs (instruction slots): {}",
            path.display(),
            object.elf.len(),
            object::btf_bytes(&object.elf)?,
            programs.join(", ")
        );
    }
    if builtin && args.bin.is_empty() && !args.check && args.out_dir.is_none() {
        fs::write(built_in.join("toolchain.txt"), fingerprint(toolchain)?)?;
    }
    // One note says what all committed objects were built with.
    let theirs = fs::read_to_string(built_in.join("toolchain.txt")).unwrap_or_default();
    if args.check { check(&built.objects, &committed, toolchain, &theirs) } else { Ok(()) }
}

/// A linked and stripped object.
struct Object {
    /// The binary target's name.
    name: String,
    elf: Vec<u8>,
    programs: Vec<object::Program>,
}

struct Built {
    objects: Vec<Object>,
    /// The crate's target folder.
    target: PathBuf,
}

/// The Cargo.toml to build, as an absolute path.
fn manifest(given: Option<&Path>) -> Result<PathBuf> {
    let path = match given {
        None => root().join("kcm-ebpf/Cargo.toml"),
        Some(path) if path.is_dir() => path.join("Cargo.toml"),
        Some(path) => path.to_owned(),
    };
    if path.file_name().is_none_or(|name| name != "Cargo.toml") {
        bail!("{} is no Cargo.toml; give the manifest of a parser crate", path.display());
    }
    fs::canonicalize(&path).with_context(|| {
        format!("there is no {}; `cargo xtask new-parser NAME` writes a crate", path.display())
    })
}

/// Builds the binaries of the crate with that manifest, all of them if `only` is empty.
fn build(toolchain: &Toolchain, manifest: &Path, only: &[String]) -> Result<Built> {
    let crate_ = read_crate(toolchain, manifest)?;
    for name in only {
        if !crate_.bins.contains(name) {
            bail!(
                "{} has no binary named {name}; it has {}",
                manifest.display(),
                crate_.bins.join(", ")
            );
        }
    }
    let bins = if only.is_empty() { crate_.bins.as_slice() } else { only };
    // A folder of its own: another compiler writes there than the one that holds the lock
    // on the rest of the target folder.
    let target = crate_.target.join("bpf/build");
    toolchain
        .cargo()
        .args(["build", "--release", "-Z", "build-std=core", "--target", TARGET])
        .arg("--manifest-path")
        .arg(manifest)
        .arg("--target-dir")
        .arg(&target)
        .args(PROFILE.iter().flat_map(|setting| ["--config", *setting]))
        .args(bins.iter().flat_map(|name| ["--bin", name]))
        .arg("--config")
        .arg(format!("target.{TARGET}.rustflags={:?}", flags(toolchain, &crate_.workspace)))
        .dir(&crate_.workspace)
        .run()
        .with_context(|| format!("{} does not build for {TARGET}", manifest.display()))?;
    let mut objects = Vec::new();
    for name in bins {
        let linked = target.join(TARGET).join("release").join(name);
        let elf = fs::read(&linked)
            .with_context(|| format!("cargo built no {}", linked.display()))
            .and_then(|elf| object::strip(&elf))
            .with_context(|| format!("binary {name}"))?;
        let programs = object::programs(&elf).with_context(|| format!("binary {name}"))?;
        if programs.is_empty() {
            bail!(
                "binary {name} of {} defines no program: its main file needs \
                 `kcm_ebpf::parser!({}, parse);`",
                manifest.display(),
                name.replace('-', "_")
            );
        }
        objects.push(Object { name: name.clone(), elf, programs });
    }
    Ok(Built { objects, target: crate_.target })
}

const TARGET: &str = "bpfel-unknown-none";

/// What a crate's own profile may not change: a panic path cannot be verified, and what the
/// object looks like should not depend on who builds it.
const PROFILE: &[&str] = &[
    "profile.release.codegen-units=1",
    "profile.release.debug=2",
    "profile.release.debug-assertions=false",
    "profile.release.incremental=false",
    "profile.release.lto=false",
    "profile.release.opt-level=3",
    "profile.release.overflow-checks=false",
    "profile.release.panic='abort'",
    "profile.release.strip='none'",
];

fn flags(toolchain: &Toolchain, workspace: &Path) -> Vec<String> {
    let mut flags = vec![
        // jmp32 and alu32: understood by every kernel since 5.1, and by our own verifier.
        "-Ctarget-cpu=v3".to_owned(),
        format!("-Clinker={}", toolchain.linker.display()),
        "-Clink-arg=--btf".to_owned(),
        // aya's bindings know the kernel's structures by architecture; parsers use none of
        // those that differ, so that one object serves every machine.
        "--cfg=bpf_target_arch=\"x86_64\"".to_owned(),
    ];
    let mut remap = |from: &Path, to: &str| {
        flags.push(format!("--remap-path-prefix={}={to}", from.display()));
        if let Ok(real) = fs::canonicalize(from)
            && real != from
        {
            flags.push(format!("--remap-path-prefix={}={to}", real.display()));
        }
    };
    // The last one that fits is taken: the narrowest come last.
    remap(&toolchain.rustc.sysroot.join("lib/rustlib/src/rust/library"), "rust/library");
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    if let Some(home) = cargo_home.or(home) {
        remap(&home.join("registry/src"), "registry");
    }
    remap(&root(), "kcm");
    remap(workspace, "");
    flags
}

/// What has to be known of the crate.
struct Crate {
    bins: Vec<String>,
    workspace: PathBuf,
    target: PathBuf,
}

fn read_crate(toolchain: &Toolchain, manifest: &Path) -> Result<Crate> {
    let answer = toolchain
        .cargo()
        .args(["metadata", "--format-version", "1", "--no-deps", "--manifest-path"])
        .arg(manifest)
        .quiet()
        .read()
        .with_context(|| format!("cargo cannot read {}", manifest.display()))?;
    let metadata: serde_json::Value = serde_json::from_str(&answer)?;
    let path = |key: &str| {
        let text = metadata[key].as_str().context("cargo metadata says nothing of its folders")?;
        anyhow::Ok(PathBuf::from(text))
    };
    let array = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let packages = array(&metadata["packages"]);
    let Some(package) =
        packages.iter().find(|p| p["manifest_path"].as_str().map(Path::new) == Some(manifest))
    else {
        bail!("{} describes a workspace; give the manifest of one crate in it", manifest.display());
    };
    let name = package["name"].as_str().unwrap_or_default();
    let library = |d: &serde_json::Value| {
        d["name"].as_str().is_some_and(|name| name == "kcm-ebpf" || name == "aya-ebpf")
    };
    if name != "kcm-ebpf" && !array(&package["dependencies"]).iter().any(library) {
        bail!(
            "{name} ({}) is no parser crate: it does not depend on kcm-ebpf. \
             `cargo xtask new-parser NAME` writes one that does",
            manifest.display()
        );
    }
    let is_bin = |t: &&serde_json::Value| array(&t["kind"]).iter().any(|k| k == "bin");
    let mut bins: Vec<String> = array(&package["targets"])
        .iter()
        .filter(is_bin)
        .filter_map(|t| t["name"].as_str().map(str::to_owned))
        .collect();
    bins.sort();
    if bins.is_empty() {
        bail!(
            "{name} ({}) has no binary target: a parser is a binary (src/main.rs or \
             src/bin/NAME.rs) that calls `kcm_ebpf::parser!`",
            manifest.display()
        );
    }
    Ok(Crate { bins, workspace: path("workspace_root")?, target: path("target_directory")? })
}

/// What the objects were built with, as committed beside them.
fn fingerprint(toolchain: &Toolchain) -> Result<String> {
    let linker = crate::sh::Cmd::new(&toolchain.linker).arg("--version").quiet().read()?;
    let rustc = &toolchain.rustc;
    Ok(format!("rustc {} (LLVM {})\n{linker}\n", rustc.release, rustc.llvm))
}

/// Compares what was built with what is committed.
fn check(built: &[Object], committed: &Path, toolchain: &Toolchain, theirs: &str) -> Result<()> {
    let ours = fingerprint(toolchain)?;
    let mut faults = Vec::new();
    for object in built {
        let name = &object.name;
        let path = committed.join(format!("{name}.o"));
        match fs::read(&path) {
            Err(e) => faults.push(format!("{}: {e}", path.display())),
            Ok(old) if old == object.elf => {}
            Ok(old) => match object::difference(&old, &object.elf) {
                Ok(None) => println!("{name}: same program, other BTF"),
                Ok(Some(what)) => faults.push(format!("{name}: {what}")),
                Err(e) => faults.push(format!("{}: {e:#}", path.display())),
            },
        }
    }
    for entry in fs::read_dir(committed)?.flatten() {
        let path = entry.path();
        let known = |o: &Object| path.file_stem().is_some_and(|stem| stem == o.name.as_str());
        if path.extension().is_some_and(|e| e == "o") && !built.iter().any(known) {
            faults.push(format!("{}: built from no source that is here", path.display()));
        }
    }
    if faults.is_empty() {
        println!("{}: the objects are what their source builds to", committed.display());
        return Ok(());
    }
    let list = faults.join("\n  ");
    if theirs != ours {
        // Another compiler makes other code of the same source; whether it means the same is
        // for the parser tests to say, which run on the rebuilt objects too.
        println!(
            "the committed objects were built with other tools and cannot be compared:\n  \
             {list}\ncommitted: {}\nhere:      {}",
            theirs.trim().replace('\n', ", "),
            ours.trim().replace('\n', ", ")
        );
        return Ok(());
    }
    bail!(
        "committed objects differ from what their source builds to; \
         run `cargo xtask build-ebpf` and commit:\n  {list}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_no_manifest_is_refused_with_advice() {
        let e = manifest(Some(Path::new("/nonexistent/Cargo.toml"))).unwrap_err().to_string();
        assert!(e.contains("new-parser"), "{e}");
        let e = manifest(Some(Path::new("/etc/passwd"))).unwrap_err().to_string();
        assert!(e.contains("no Cargo.toml"), "{e}");
    }
}
