//! Where this product answers otherwise than the kernel, and why: the table, its checks, and
//! the document made of it.
//!
//! The table is text. `== SCENARIO` starts an entry. A line `because ANCHORS: reason` explains
//! it; lines that start with `| ` are this product's answers, so that an explained difference
//! cannot change unnoticed. An anchor is
//!
//! - the number of a statement that leaves room for a difference (verdict `>` or `?` in
//!   `verdicts.txt`), or of a J contract;
//! - `"words of ARCHITECTURE.md"`, which must be there;
//! - `kernel-only`, for questions about the system call interface, which have no counterpart;
//!   this product's only answer then starts with [`NO_COUNTERPART`].
//!
//! A difference without an entry is an error, and so is an entry without a difference.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use anyhow::{Context, Result, bail};

use super::scenarios;
use super::transcript::{Answers, SUMMARY};

/// The start of the answer to a question that exists only for the kernel.
pub const NO_COUNTERPART: &str = "no counterpart: ";

/// The anchor of such questions.
pub const KERNEL_ONLY: &str = "kernel-only";

/// What `--update` writes where a reason is still to be given; it never passes the check.
pub const TO_DO: &str = "UNEXPLAINED";

/// One explained difference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Statements and quotations that carry the explanation.
    pub anchors: Vec<String>,
    /// The explanation.
    pub reason: String,
    /// This product's answers.
    pub ours: Vec<String>,
}

/// All of them, by scenario.
pub type Table = BTreeMap<String, Entry>;

/// Verdicts by statement: which of `=`, `>`, `?`.
pub type Verdicts = BTreeMap<String, String>;

/// Something that fails the comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Different answers, and no entry.
    Unexplained(String),
    /// An entry, and equal answers.
    Stale(String),
    /// An entry whose answers are not this product's.
    Changed(String),
    /// An entry whose anchors do not carry it.
    Anchor(String, String),
    /// A scenario without the kernel's answers, or an entry without a scenario.
    Unknown(String),
    /// A scenario failed to run.
    Broken(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Unexplained(s) => {
                write!(f, "{s}: differs from the kernel, and nothing explains it")
            }
            Problem::Stale(s) => write!(f, "{s}: explained, but there is no difference any more"),
            Problem::Changed(s) => {
                write!(f, "{s}: differs from the kernel in another way than is explained")
            }
            Problem::Anchor(s, why) => write!(f, "{s}: {why}"),
            Problem::Unknown(s) => {
                write!(f, "{s}: is not both a scenario and in the kernel's recorded answers")
            }
            Problem::Broken(s) => write!(f, "{s}: did not run to its end"),
        }
    }
}

/// The outcome of a comparison.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Scenarios with equal answers.
    pub same: Vec<String>,
    /// Scenarios whose difference is explained.
    pub explained: Vec<String>,
    /// Questions that exist only for the kernel.
    pub kernel_only: Vec<String>,
    /// What fails it.
    pub problems: Vec<Problem>,
}

/// Reads the table.
pub fn parse(text: &str) -> Result<Table> {
    let mut out = Table::new();
    for (name, lines) in super::transcript::parse(text)? {
        let mut e = Entry::default();
        for l in lines {
            if let Some(answer) = l.strip_prefix("| ") {
                e.ours.push(answer.to_owned());
            } else if let Some(because) = l.strip_prefix("because ") {
                let (anchors, reason) = split_because(because)
                    .with_context(|| format!("{name}: `because ANCHORS: reason` is meant"))?;
                e.anchors = anchors;
                e.reason = reason;
            } else {
                bail!("{name}: neither `because` nor an answer: {l}");
            }
        }
        out.insert(name, e);
    }
    Ok(out)
}

/// `B8 J1 "some words": reason`; a quotation may hold blanks and colons.
fn split_because(s: &str) -> Option<(Vec<String>, String)> {
    let (mut anchors, mut rest) = (Vec::new(), s.trim_start());
    loop {
        if let Some(r) = rest.strip_prefix(':') {
            return Some((anchors, r.trim().to_owned()));
        }
        let end = if let Some(quoted) = rest.strip_prefix('"') {
            quoted.find('"')? + 2
        } else {
            rest.find([' ', ':'])?
        };
        anchors.push(rest[..end].to_owned());
        rest = rest[end..].trim_start();
    }
}

/// Writes the table; `head` becomes comment lines.
pub fn format(head: &str, table: &Table) -> String {
    let lines = table
        .iter()
        .map(|(name, e)| {
            let because = format!("because {}: {}", e.anchors.join(" "), e.reason);
            let ours = e.ours.iter().map(|l| format!("| {l}"));
            (name.clone(), std::iter::once(because).chain(ours).collect())
        })
        .collect();
    super::transcript::format(head, &lines)
}

/// Reads the verdicts.
pub fn verdicts(text: &str) -> Verdicts {
    text.lines()
        .filter(|l| !l.starts_with('#'))
        .filter_map(|l| l.split_once(' '))
        .map(|(a, b)| (a.to_owned(), b.trim().to_owned()))
        .collect()
}

/// Compares. `architecture` is the text of ARCHITECTURE.md.
pub fn compare(
    kernel: &Answers,
    ours: &Answers,
    table: &Table,
    verdicts: &Verdicts,
    architecture: &str,
) -> Report {
    let mut r = Report::default();
    for (name, answers) in ours {
        let Some(theirs) = kernel.get(name) else {
            r.problems.push(Problem::Unknown(name.clone()));
            continue;
        };
        if answers.iter().any(|l| l.starts_with("!!") || l == "hangs") {
            r.problems.push(Problem::Broken(name.clone()));
        } else if answers == theirs {
            match table.get(name) {
                Some(_) => r.problems.push(Problem::Stale(name.clone())),
                None => r.same.push(name.clone()),
            }
        } else {
            let Some(e) = table.get(name) else {
                r.problems.push(Problem::Unexplained(name.clone()));
                continue;
            };
            if e.ours != *answers {
                r.problems.push(Problem::Changed(name.clone()));
            } else if let Some(why) = weak(e, verdicts, architecture) {
                r.problems.push(Problem::Anchor(name.clone(), why));
            } else if e.anchors == [KERNEL_ONLY] {
                r.kernel_only.push(name.clone());
            } else {
                r.explained.push(name.clone());
            }
        }
    }
    let all: Vec<&str> = scenarios::all().map(|s| s.name).collect();
    for name in table.keys().chain(kernel.keys()) {
        if !all.contains(&name.as_str()) {
            r.problems.push(Problem::Unknown(name.clone()));
        }
    }
    r
}

/// The answers that this product is expected to give: those of the table, else the kernel's.
pub fn expected<'a>(kernel: &'a Answers, table: &'a Table, name: &str) -> Option<&'a [String]> {
    table.get(name).map(|e| &*e.ours).or_else(|| kernel.get(name).map(Vec::as_slice))
}

/// Why an entry's anchors do not carry it.
fn weak(e: &Entry, verdicts: &Verdicts, architecture: &str) -> Option<String> {
    if e.anchors.is_empty() || e.reason.is_empty() || e.reason.contains(TO_DO) {
        return Some("no reason is given yet".into());
    }
    if e.anchors == [KERNEL_ONLY] {
        let fits = matches!(&*e.ours, [only] if only.starts_with(NO_COUNTERPART));
        return (!fits).then(|| format!("{KERNEL_ONLY} fits `{NO_COUNTERPART}` alone"));
    }
    let mut carries = false;
    // In ARCHITECTURE.md a sentence may go over the end of a line.
    let words = |s: &str| s.split_whitespace().collect::<Vec<_>>().join(" ");
    for a in &e.anchors {
        if let Some(quote) = a.strip_prefix('"').and_then(|a| a.strip_suffix('"')) {
            if !words(architecture).contains(&words(quote)) {
                return Some(format!("ARCHITECTURE.md does not say {a}"));
            }
            carries = true;
        } else {
            match verdicts.get(a) {
                None => return Some(format!("there is no statement {a}")),
                Some(v) => carries |= v.contains(['>', '?']),
            }
        }
    }
    (!carries).then(|| "every statement named says to do as the kernel does".into())
}

/// The table with the answers of now: explanations are kept, new differences are marked
/// [`TO_DO`], stale entries go.
pub fn update(kernel: &Answers, ours: &Answers, table: &Table) -> Table {
    let mut out = Table::new();
    for (name, answers) in ours {
        if kernel.get(name) == Some(answers) {
            continue;
        }
        let mut e = table.get(name).cloned().unwrap_or_default();
        e.ours.clone_from(answers);
        if matches!(&**answers, [only] if only.starts_with(NO_COUNTERPART)) {
            e.anchors = vec![KERNEL_ONLY.into()];
            e.reason = answers[0][NO_COUNTERPART.len()..].to_owned();
        } else if e.reason.is_empty() {
            e.reason = TO_DO.into();
        }
        out.insert(name.clone(), e);
    }
    out
}

/// Lines that are only on one side, in the manner of diff.
pub fn diff(kernel: &[String], ours: &[String]) -> String {
    // Longest common subsequence; answers are a few lines.
    let (n, m) = (kernel.len(), ours.len());
    let mut best = vec![vec![0usize; m + 1]; n + 1];
    for i in (0..n).rev() {
        for j in (0..m).rev() {
            best[i][j] = if kernel[i] == ours[j] {
                best[i + 1][j + 1] + 1
            } else {
                best[i + 1][j].max(best[i][j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut out = String::new();
    while i < n || j < m {
        let (mark, line) = if i < n && j < m && kernel[i] == ours[j] {
            i += 1;
            j += 1;
            (' ', &kernel[i - 1])
        } else if i < n && (j == m || best[i + 1][j] >= best[i][j + 1]) {
            i += 1;
            ('-', &kernel[i - 1])
        } else {
            j += 1;
            ('+', &ours[j - 1])
        };
        let _ = writeln!(out, "    {mark} {line}");
    }
    out
}

/// The table of headlines: what the kernel did, what we did.
pub fn headlines(kernel: &Answers, ours: &Answers) -> Vec<[String; 3]> {
    let said = |a: &Answers, name: &str| {
        let lines = a.get(name).map(Vec::as_slice).unwrap_or_default();
        lines.iter().find_map(|l| l.strip_prefix(SUMMARY)).unwrap_or("not run").to_owned()
    };
    scenarios::all()
        .filter_map(|s| Some([s.headline?.to_owned(), said(kernel, s.name), said(ours, s.name)]))
        .collect()
}

/// The document: headlines, then every explained difference with both answers.
pub fn document(release: &str, kernel: &Answers, ours: &Answers, table: &Table) -> String {
    let mut out = format!(
        "# Where this product differs from the kernel's KCM\n\n\
         Written by `cargo xtask oracle --update`; a test holds it against the recorded answers of\n\
         AF_KCM in Linux {release} and against this product. Of {} scenarios, {} have the same\n\
         answers from both, {} differ knowingly, and {} are questions about the system call\n\
         interface that do not exist outside the kernel. Numbers such as B8 name statements of\n\
         the semantics; J numbers are the contracts that stand in the place of the kernel's\n\
         defects.\n\n## The headlines\n\n| | the kernel | this product |\n|---|---|---|\n",
        ours.len(),
        ours.iter().filter(|(n, a)| kernel.get(*n) == Some(a)).count(),
        table.values().filter(|e| e.anchors != [KERNEL_ONLY]).count(),
        table.values().filter(|e| e.anchors == [KERNEL_ONLY]).count(),
    );
    for [what, kernel, ours] in headlines(kernel, ours) {
        let _ = writeln!(out, "| {what} | {} | {} |", cell(&kernel), cell(&ours));
    }
    out.push_str("\n## All differences\n");
    for (name, e) in table.iter().filter(|(_, e)| e.anchors != [KERNEL_ONLY]) {
        let theirs = kernel.get(name).map(Vec::as_slice).unwrap_or_default();
        let _ = writeln!(out, "\n### {}\n", title(name));
        let anchors = e.anchors.join(", ");
        let _ = writeln!(out, "{} ({anchors})\n\n```diff", e.reason);
        for l in diff(theirs, &e.ours).lines() {
            let _ = writeln!(out, "{}", l.strip_prefix("    ").unwrap_or(l).trim_end());
        }
        out.push_str("```\n");
    }
    out.push_str(
        "\n## Questions that exist only for the kernel\n\n| scenario | here |\n|---|---|\n",
    );
    for (name, e) in table.iter().filter(|(_, e)| e.anchors == [KERNEL_ONLY]) {
        let _ = writeln!(out, "| {} | {} |", title(name), cell(&e.reason));
    }
    out
}

fn title(name: &str) -> String {
    let mut s = name.replace('_', " ");
    if let Some(first) = s.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    s
}

fn cell(s: &str) -> String {
    s.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(list: &[(&str, &str)]) -> Answers {
        list.iter().map(|(n, a)| ((*n).into(), a.lines().map(str::to_owned).collect())).collect()
    }

    const NAME: &str = "messages_of_unequal_length_in_one_write";

    fn problems(kernel: &str, ours: &str, table: &str) -> Vec<Problem> {
        let v = verdicts("B8 >\nB7 =\nJ1 >");
        let t = parse(table).unwrap();
        compare(
            &answers(&[(NAME, kernel)]),
            &answers(&[(NAME, ours)]),
            &t,
            &v,
            "We count\n payload.",
        )
        .problems
    }

    #[test]
    fn a_difference_needs_an_explanation() {
        assert_eq!(problems("x", "x", ""), []);
        assert_eq!(problems("x", "y", ""), [Problem::Unexplained(NAME.into())]);
        assert_eq!(problems("x", "y", &format!("== {NAME}\n  because B8: why\n  | y")), []);
    }

    #[test]
    fn an_explanation_of_what_is_equal_is_refused() {
        let table = format!("== {NAME}\n  because B8: why\n  | y");
        assert_eq!(problems("y", "y", &table), [Problem::Stale(NAME.into())]);
    }

    #[test]
    fn an_explained_difference_may_not_change() {
        let table = format!("== {NAME}\n  because B8: why\n  | y");
        assert_eq!(problems("x", "z", &table), [Problem::Changed(NAME.into())]);
    }

    #[test]
    fn an_explanation_stands_on_a_statement_that_allows_it() {
        for (anchors, good) in [
            ("B8", true),
            ("B7", false),
            ("B7 J1", true),
            ("B99", false),
            ("\"count payload\"", true),
            ("\"count memory\"", false),
            ("kernel-only", false),
        ] {
            let table = format!("== {NAME}\n  because {anchors}: why\n  | y");
            assert_eq!(problems("x", "y", &table).is_empty(), good, "{anchors}");
        }
        let table = format!("== {NAME}\n  because B8: {TO_DO}\n  | y");
        assert_eq!(problems("x", "y", &table).len(), 1);
    }

    #[test]
    fn a_scenario_that_did_not_run_is_no_difference() {
        assert_eq!(problems("x", "!! panicked", ""), [Problem::Broken(NAME.into())]);
    }

    #[test]
    fn the_table_survives_writing_and_reading() {
        let text = format!("== {NAME}\n  because B8 \"a: b\": why: so\n  | y\n  | z");
        let t = parse(&text).unwrap();
        assert_eq!(t[NAME].anchors, ["B8", "\"a: b\""]);
        assert_eq!(t[NAME].reason, "why: so");
        assert_eq!(parse(&format("", &t)).unwrap(), t);
    }

    #[test]
    fn a_diff_keeps_common_lines() {
        let l = |s: &str| s.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(diff(&l("a b c"), &l("a x c")), "      a\n    - b\n    + x\n      c\n");
    }
}
