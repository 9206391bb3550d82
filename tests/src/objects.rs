//! The object files of the tests: compiled from `tests/c`, committed in `tests/data/objects`,
//! so that the tests need no BPF compiler. Where there is one, a test compiles them anew.

use std::path::{Path, PathBuf};
use std::process::Command;

use kcm_common::kernel::VERDICT;
use kcm_core::Object;
use kcm_core::bpf::insn::Insn;
use kcm_core::bpf::program::{Func, Program, ProgramKind};
use kcm_core::object::ProgramInfo;

/// How an object came to be: `clang TARGET FLAGS -fdebug-prefix-map=REPO=. -c tests/c/SOURCE -o
/// tests/data/objects/NAME.o`, in the repository's root.
#[derive(Debug)]
pub struct Build {
    /// The object.
    pub name: &'static str,
    /// The source in `tests/c`.
    pub source: &'static str,
    /// The machine it is for.
    pub target: &'static str,
    /// The other flags.
    pub flags: &'static [&'static str],
}

const DEBUG: &[&str] = &["-mcpu=v3", "-O2", "-g", "-Wall"];

const fn bpf(name: &'static str, source: &'static str) -> Build {
    Build { name, source, target: "bpfel", flags: DEBUG }
}

/// All objects that clang writes.
pub const BUILDS: &[Build] = &[
    bpf("addresses", "addresses.c"),
    bpf("calls", "calls.c"),
    bpf("cyclic", "cyclic.c"),
    bpf("legacy_maps", "legacy_maps.c"),
    bpf("many", "many.c"),
    bpf("maps", "maps.c"),
    bpf("sections", "sections.c"),
    bpf("socket_kcm", "socket_kcm.c"),
    bpf("undefined", "undefined.c"),
    Build {
        name: "calls_without_btf",
        source: "calls.c",
        target: "bpfel",
        flags: &["-mcpu=v3", "-O2"],
    },
    Build {
        name: "maps_without_btf",
        source: "maps.c",
        target: "bpfel",
        flags: &["-mcpu=v3", "-O2"],
    },
    Build { name: "foreign/bpfeb", source: "many.c", target: "bpfeb", flags: &["-O2"] },
    Build { name: "foreign/x86-64", source: "foreign.c", target: "x86_64-linux-gnu", flags: &[] },
    Build { name: "foreign/aarch64", source: "foreign.c", target: "aarch64-linux-gnu", flags: &[] },
    Build { name: "foreign/arm", source: "foreign.c", target: "armv7-linux-gnueabi", flags: &[] },
];

/// The objects that are built from `tests/ebpf`; how, its Cargo.toml says.
const RUST: [&str; 2] = ["rust/globals", "rust/logging"];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Where a committed object is.
pub fn path(name: &str) -> PathBuf {
    repository().join("tests/data/objects").join(format!("{name}.o"))
}

/// The bytes of a committed object.
///
/// # Panics
/// Where there is none.
pub fn bytes(name: &str) -> Vec<u8> {
    let path = path(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Names and bytes of the objects that should load, built-in parsers included.
///
/// # Panics
/// Where one cannot be read.
pub fn sound() -> Vec<(String, Vec<u8>)> {
    let no = ["undefined", "addresses", "maps_without_btf"];
    let mut all: Vec<(String, Vec<u8>)> = BUILDS
        .iter()
        .filter(|b| b.target == "bpfel" && !no.contains(&b.name))
        .map(|b| b.name)
        .chain(RUST)
        .map(|name| (name.to_owned(), bytes(name)))
        .collect();
    let dir = repository().join("kcm-core/objects");
    let mut built_in: Vec<PathBuf> = std::fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|entry| entry.unwrap_or_else(|e| panic!("{}: {e}", dir.display())).path())
        .filter(|path| path.extension().is_some_and(|e| e == "o"))
        .collect();
    built_in.sort();
    for path in built_in {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        all.push((name, bytes));
    }
    all
}

/// Programs for other opinions than ours: those of [`sound`], named `object/program`, and the
/// verifier's own C parsers and bad programs, by the names of their files.
///
/// # Panics
/// Where one cannot be read or linked.
pub fn programs() -> Vec<(String, Program)> {
    let mut all = Vec::new();
    for (name, bytes) in sound() {
        let object = Object::parse(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        for info in object.programs().filter(|p| !is_for_a_kernel(p)) {
            let program = object.program(info.name).unwrap_or_else(|e| panic!("{name}: {e}"));
            all.push((format!("{name}/{}", info.name), program));
        }
    }
    let dir = repository().join("kcm-core/tests/data/verifier");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|entry| entry.unwrap_or_else(|e| panic!("{}: {e}", dir.display())).path())
        .filter(|path| path.extension().is_some_and(|e| e == "bin"))
        .collect();
    files.sort();
    for path in files {
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let program = Program {
            name: name.clone(),
            kind: ProgramKind::StreamParser,
            insns: bytes.as_chunks::<8>().0.iter().map(|b| Insn::from_bytes(*b)).collect(),
            funcs: vec![Func { start: 0, name: name.clone() }],
            maps: Vec::new(),
            lines: Vec::new(),
            license: "GPL".to_owned(),
        };
        all.push((name, program));
    }
    all
}

/// True for programs that the kernel engine alone runs: no other opinion is asked about them,
/// and its own tests load them.
pub fn is_for_a_kernel(program: &ProgramInfo<'_>) -> bool {
    program.kind == ProgramKind::KernelParser || program.name == VERDICT
}

/// A clang for BPF: its command and its major version.
pub fn clang() -> Option<(&'static str, u32)> {
    ["clang-22", "clang", "clang-21", "clang-20", "clang-19"].into_iter().find_map(|command| {
        let out = Command::new(command).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let version = text.split("version ").nth(1)?;
        Some((command, version.split('.').next()?.parse().ok()?))
    })
}

impl Build {
    /// Compiles the source anew.
    ///
    /// # Errors
    /// What the compiler says.
    pub fn compile(&self, clang: &str, to: &Path) -> Result<(), String> {
        let repository = repository();
        let out = Command::new(clang)
            .current_dir(repository)
            .args(["-target", self.target])
            .args(self.flags)
            .arg(format!("-fdebug-prefix-map={}=.", repository.display()))
            .arg("-c")
            .arg(format!("tests/c/{}", self.source))
            .arg("-o")
            .arg(to)
            .output()
            .map_err(|e| format!("{clang}: {e}"))?;
        if out.status.success() {
            Ok(())
        } else {
            Err(format!("{}: {}", self.name, String::from_utf8_lossy(&out.stderr)))
        }
    }
}
