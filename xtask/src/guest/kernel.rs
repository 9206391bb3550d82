//! Debian's kernels: fetched and unpacked into the target folder, never installed.
//!
//! apt is given folders of its own, so that the machine's package lists and sources stay as
//! they are, and a kernel of a later Debian can be had too.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection};

use super::{empty, unpacked};
use crate::apt;
use crate::bench::target_dir;
use crate::sh::Cmd;

/// A kernel series, and with it the Debian release that has it.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Series {
    /// Debian 12
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13
    #[value(name = "6.12")]
    V6_12,
}

impl Series {
    /// As it is asked for.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Series::V6_1 => "6.1",
            Series::V6_12 => "6.12",
        }
    }

    fn suite(self) -> &'static str {
        match self {
            Series::V6_1 => "bookworm",
            Series::V6_12 => "trixie",
        }
    }
}

/// The smaller of Debian's two kernels: made for virtual machines, all modules we need in it.
const META: &str = "linux-image-cloud-amd64";

/// Modules that the programs need; what these need is found by reading them.
const MODULES: &[&str] = &["kcm", "tls", "unix_diag", "tcp_diag"];

/// A kernel that is ready to boot.
pub(crate) struct Kernel {
    pub(crate) release: String,
    pub(crate) image: PathBuf,
    /// Name and contents, in the order in which they must be loaded.
    pub(crate) modules: Vec<(String, Vec<u8>)>,
}

/// The series' kernel: the one that is there, or else fetched.
pub(crate) fn get(series: Series) -> Result<Kernel> {
    let dir = target_dir()?.join("guest").join(format!("linux-{}", series.name()));
    let unpacked = dir.join("root");
    if find(&unpacked).is_err() {
        fetch(series, &dir)?;
    }
    let (release, image, modules) = find(&unpacked)?;
    let modules = order(&modules, MODULES)?;
    Ok(Kernel { release, image, modules })
}

/// Release, kernel image and the folder of modules of an unpacked package.
fn find(unpacked: &Path) -> Result<(String, PathBuf, PathBuf)> {
    let boot = unpacked.join("boot");
    for e in std::fs::read_dir(&boot).with_context(|| format!("no {boot:?}"))? {
        let e = e?;
        let name = e.file_name().into_string().unwrap_or_default();
        if let Some(release) = name.strip_prefix("vmlinuz-") {
            for lib in ["usr/lib/modules", "lib/modules"] {
                let modules = unpacked.join(lib).join(release);
                if modules.is_dir() {
                    return Ok((release.to_owned(), e.path(), modules));
                }
            }
        }
    }
    bail!("{} holds no kernel with its modules; remove it and try again", unpacked.display())
}

fn fetch(series: Series, dir: &Path) -> Result<()> {
    if !apt::available() {
        bail!(
            "this is no Debian system (no apt-get); unpack a {META} of {} into {}",
            series.suite(),
            dir.join("root").display()
        );
    }
    empty(dir)?;
    for d in ["lists/partial", "cache/archives/partial", "deb"] {
        std::fs::create_dir_all(dir.join(d))?;
    }
    let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let source =
        format!("deb [signed-by={keys}] http://deb.debian.org/debian {} main\n", series.suite());
    std::fs::write(dir.join("sources.list"), source)?;
    let options = |program: &str| {
        let of = |key: &str, value: String| format!("{key}={value}");
        let at = |d: &str| dir.join(d).display().to_string();
        let mut c = Cmd::new(program).dir(dir.join("deb"));
        for o in [
            of("Dir::Etc::sourcelist", at("sources.list")),
            of("Dir::Etc::sourceparts", "-".into()),
            of("Dir::State::lists", at("lists")),
            of("Dir::Cache", at("cache")),
            of("APT::Architectures", "amd64".into()),
            of("Acquire::Languages", "none".into()),
            // The folders are the caller's; the user _apt may not write there.
            of("APT::Sandbox::User", "root".into()),
        ] {
            c = c.args(["-o", &o]);
        }
        c.arg("-q")
    };
    options("apt-get").arg("update").run()?;
    let depends = options("apt-cache").args(["depends", META]).quiet().read()?;
    let package = depends
        .lines()
        .find_map(|l| l.trim().strip_prefix("Depends: "))
        .with_context(|| format!("{META} of {} names no kernel:\n{depends}", series.suite()))?;
    options("apt-get").args(["download", package]).run()?;
    let deb = std::fs::read_dir(dir.join("deb"))?
        .next()
        .with_context(|| format!("apt-get downloaded no {package}"))??
        .path();
    let to = dir.join("root");
    Cmd::new("dpkg-deb").arg("-x").arg(&deb).arg(&to).run()?;
    for d in ["lists", "cache", "deb"] {
        std::fs::remove_dir_all(dir.join(d))?;
    }
    Ok(())
}

/// The modules `wanted`, and those they need, each after what it needs. A wanted module that
/// is no file is built into the kernel, or not there: what needs it will say so.
fn order(folder: &Path, wanted: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
    let files = files(folder)?;
    let mut out = Vec::new();
    let mut seen = BTreeSet::new();
    for w in wanted {
        add(w, &files, &mut seen, &mut out)?;
    }
    Ok(out)
}

fn add(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    seen: &mut BTreeSet<String>,
    out: &mut Vec<(String, Vec<u8>)>,
) -> Result<()> {
    if !seen.insert(name.to_owned()) {
        return Ok(());
    }
    let Some(path) = files.get(name) else { return Ok(()) };
    let bytes = unpacked(path)?;
    for needed in depends(&bytes).with_context(|| format!("{}", path.display()))? {
        add(&needed, files, seen, out)?;
    }
    out.push((name.to_owned(), bytes));
    Ok(())
}

/// Every module under the folder, by its name.
fn files(folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut out = BTreeMap::new();
    let mut todo = vec![folder.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for e in std::fs::read_dir(&dir).with_context(|| format!("{}", dir.display()))? {
            let path = e?.path();
            if path.is_dir() && !path.is_symlink() {
                todo.push(path);
            } else if let Some(name) = path.file_name().and_then(|n| n.to_str())
                && let Some((module, _)) = name.split_once(".ko")
            {
                out.insert(module.replace('-', "_"), path);
            }
        }
    }
    Ok(out)
}

/// The modules that a module needs, as it says itself.
fn depends(module: &[u8]) -> Result<Vec<String>> {
    let elf = object::File::parse(module).context("no kernel module")?;
    let info = elf.section_by_name(".modinfo").context("a module without .modinfo")?;
    let text = String::from_utf8_lossy(info.data()?).into_owned();
    let needed = text.split('\0').find_map(|l| l.strip_prefix("depends=")).unwrap_or("");
    Ok(needed.split(',').filter(|d| !d.is_empty()).map(|d| d.replace('-', "_")).collect())
}
