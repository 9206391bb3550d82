//! The committed files: the kernel's answers, the table of differences, the verdicts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::differences::{self, Table, Verdicts};
use super::transcript::{self, Answers};

/// The release of the kernel whose answers are recorded.
pub const RELEASE: &str = "6.1";

/// The document made of the table, from the repository's root.
pub const DOCUMENT: &str = "docs/kernel-differences.md";

/// The comment at the start of the table.
pub const TABLE_HEAD: &str = "\
Where this product answers otherwise than the kernel, and why. `because ANCHORS: reason` is
written by hand; the answers behind `|` are this product's, written by
`cargo xtask oracle --update`. What an anchor is: tests/src/oracle/differences.rs.";

/// A file beside the recorded answers.
pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data/oracle").join(name)
}

/// A file of the repository, from its root.
pub fn repository(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

fn read(path: PathBuf) -> Result<String> {
    std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))
}

/// What the kernel answered.
pub fn kernel() -> Result<Answers> {
    transcript::parse(&read(path("kernel-6.1.txt"))?)
}

/// What the kernel of this release answered: that of its own series, where it is recorded.
pub fn kernel_of(release: &str) -> Result<Answers> {
    let mut parts = release.split('.');
    let series = [parts.next().unwrap_or_default(), parts.next().unwrap_or_default()].join(".");
    let own = path(&format!("kernel-{series}.txt"));
    if own.exists() { transcript::parse(&read(own)?) } else { kernel() }
}

/// Why another kernel answers otherwise than the first: by scenario, of `series`. A line of the
/// file is `SERIES SCENARIO: reason`, comments begin with `#`.
pub fn reasons(series: &str) -> Result<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for l in read(path("kernels.txt"))?.lines() {
        if l.is_empty() || l.starts_with('#') {
            continue;
        }
        let (head, reason) = l.split_once(": ").with_context(|| format!("no reason in {l:?}"))?;
        let (of, name) = head.split_once(' ').with_context(|| format!("no scenario in {l:?}"))?;
        if of == series {
            out.insert(name.to_owned(), reason.to_owned());
        }
    }
    Ok(out)
}

/// The explained differences.
pub fn table() -> Result<Table> {
    differences::parse(&read(path("differences.txt"))?)
}

/// How each statement is to be taken.
pub fn verdicts() -> Result<Verdicts> {
    Ok(differences::verdicts(&read(path("verdicts.txt"))?))
}

/// The text of ARCHITECTURE.md.
pub fn architecture() -> Result<String> {
    read(repository("ARCHITECTURE.md"))
}
