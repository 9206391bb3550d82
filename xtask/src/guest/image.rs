//! The guest's whole world: an initramfs with its first process, the programs to run, their
//! libraries and data, and the kernel's modules.

use std::collections::BTreeSet;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use super::kernel::Kernel;
use super::libraries;
use super::programs::Step;
use crate::sh::{Cmd, root, which};

/// What programs read at run time, from the workspace's root; the same place in the guest.
const DATA: &[&str] = &["tests/data", "kcm-core/objects", "docs", "ARCHITECTURE.md", "README.md"];

/// Writes the image and says where.
pub(crate) fn build(kernel: &Kernel, init: &Path, steps: &[Step], dir: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(dir)?;
    let path = dir.join("initramfs");
    let file = std::fs::File::create(&path).with_context(|| format!("{}", path.display()))?;
    let mut archive = Archive::new(BufWriter::new(file));
    archive.device("/dev/console", 5, 1)?;
    for d in ["/proc", "/sys", "/tmp", "/run", "/guest"] {
        archive.folder(Path::new(d))?;
    }
    let mut modules = Vec::new();
    for (name, bytes) in &kernel.modules {
        let at = format!("/guest/modules/{name}.ko");
        archive.file(Path::new(&at), 0o644, bytes)?;
        modules.push(at);
    }
    let mut needed = BTreeSet::new();
    archive.file(Path::new("/init"), 0o755, &stripped(init, dir)?)?;
    needed.extend(libraries(init)?);
    let mut copied = BTreeSet::new();
    for s in steps {
        for program in std::iter::once(&s.program).chain(&s.others) {
            if copied.insert(program.clone()) {
                archive.file(program, 0o755, &stripped(program, dir)?)?;
                needed.extend(libraries(program)?);
            }
        }
    }
    for library in needed {
        archive.file(&library, 0o755, &std::fs::read(&library)?)?;
    }
    let root = root();
    for d in DATA {
        archive.copy(&root.join(d))?;
    }
    // Where cargo runs tests.
    let cwd = root.join("tests");
    archive.folder(&cwd)?;
    let plan = json!({
        "modules": modules,
        "steps": steps.iter().map(|s| json!({
            "name": s.name,
            "program": s.program,
            "args": s.args,
            "cwd": cwd,
            "seconds": s.seconds,
        })).collect::<Vec<_>>(),
    });
    archive.file(Path::new("/guest/plan.json"), 0o644, plan.to_string().as_bytes())?;
    archive.end()?;
    Ok(path)
}

/// A program without its debug information, which is most of its size.
fn stripped(program: &Path, dir: &Path) -> Result<Vec<u8>> {
    let read = |p: &Path| std::fs::read(p).with_context(|| format!("{}", p.display()));
    if which("strip").is_none() {
        return read(program);
    }
    let to = dir.join("stripped");
    Cmd::new("strip").args(["--strip-debug", "-o"]).arg(&to).arg(program).quiet().run()?;
    let bytes = read(&to)?;
    std::fs::remove_file(&to)?;
    Ok(bytes)
}

/// An archive in the format that kernels unpack at boot ("newc" of cpio).
struct Archive<W: Write> {
    out: W,
    at: usize,
    number: u32,
    folders: BTreeSet<PathBuf>,
}

impl<W: Write> Archive<W> {
    fn new(out: W) -> Self {
        Archive { out, at: 0, number: 1, folders: BTreeSet::new() }
    }

    /// Both numbers are those of the device.
    fn device(&mut self, path: &str, major: u32, minor: u32) -> Result<()> {
        self.parents(Path::new(path))?;
        self.entry(Path::new(path), 0o020_600, (major, minor), &[])
    }

    /// The folder and those it is in.
    fn folder(&mut self, path: &Path) -> Result<()> {
        if path.parent().is_none() || !self.folders.insert(path.to_owned()) {
            return Ok(());
        }
        self.parents(path)?;
        self.entry(path, 0o040_755, (0, 0), &[])
    }

    fn parents(&mut self, path: &Path) -> Result<()> {
        path.parent().map_or(Ok(()), |p| self.folder(p))
    }

    /// `mode` holds the permissions.
    fn file(&mut self, path: &Path, mode: u32, bytes: &[u8]) -> Result<()> {
        self.parents(path)?;
        self.entry(path, 0o100_000 | mode, (0, 0), bytes)
    }

    /// A file or a folder with all in it, at its own place.
    fn copy(&mut self, path: &Path) -> Result<()> {
        if !path.is_dir() {
            let bytes = std::fs::read(path).with_context(|| format!("{}", path.display()))?;
            return self.file(path, 0o644, &bytes);
        }
        self.folder(path)?;
        for e in std::fs::read_dir(path)? {
            self.copy(&e?.path())?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, mode: u32, device: (u32, u32), bytes: &[u8]) -> Result<()> {
        let name = path.to_str().context("a path that is no text")?.trim_start_matches('/');
        let number = self.number;
        self.number += 1;
        let len = u32::try_from(bytes.len()).context("a file of 4 GiB or more")?;
        let mut head = String::from("070701");
        for field in [
            number,
            mode,
            0, // uid
            0, // gid
            1, // links
            0, // time
            len,
            0,
            0, // where the archive is from
            device.0,
            device.1,
            name.len() as u32 + 1,
            0, // no checksum
        ] {
            head.push_str(&format!("{field:08x}"));
        }
        self.put(head.as_bytes())?;
        self.put(name.as_bytes())?;
        self.put(&[0])?;
        self.align()?;
        self.put(bytes)?;
        self.align()
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.at += bytes.len();
        Ok(self.out.write_all(bytes)?)
    }

    fn align(&mut self) -> Result<()> {
        let pad = self.at.next_multiple_of(4) - self.at;
        self.put(&[0; 3][..pad])
    }

    fn end(mut self) -> Result<()> {
        self.entry(Path::new("TRAILER!!!"), 0, (0, 0), &[])?;
        Ok(self.out.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_each_folder_once_before_its_files_and_every_part_aligned() {
        let mut out = Vec::new();
        let mut a = Archive::new(&mut out);
        a.file(Path::new("/a/b/c"), 0o755, b"hello").unwrap();
        a.file(Path::new("/a/b/d"), 0o644, b"").unwrap();
        a.end().unwrap();
        assert_eq!(out.len() % 4, 0);
        let text = String::from_utf8_lossy(&out);
        let heads: Vec<usize> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert!(heads.iter().all(|at| at % 4 == 0), "{heads:?}");
        let names: Vec<&str> =
            heads.iter().map(|at| text[at + 110..].split('\0').next().unwrap()).collect();
        assert_eq!(names, ["a", "a/b", "a/b/c", "a/b/d", "TRAILER!!!"]);
        // Mode and size of the first file.
        assert_eq!(&text[heads[2] + 14..heads[2] + 22], "000081ed");
        assert_eq!(&text[heads[2] + 54..heads[2] + 62], "00000005");
    }
}
