//! Answers of all scenarios as one text file.
//!
//! A line `== NAME` starts a scenario's answers; each answer is one line, indented by two
//! blanks. Lines that start with `#` are comments.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result, bail};

/// Answers by scenario, in the order of the names.
pub type Answers = BTreeMap<String, Vec<String>>;

/// Marks the line that says in one sentence what happened; [headlines](super::differences)
/// are made of these.
pub const SUMMARY: &str = "=> ";

/// Reads a transcript.
pub fn parse(text: &str) -> Result<Answers> {
    let mut out = Answers::new();
    let mut current: Option<&mut Vec<String>> = None;
    for (n, line) in text.lines().enumerate() {
        let line = line.trim_end();
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        if let Some(name) = line.strip_prefix("== ") {
            if out.contains_key(name) {
                bail!("line {}: scenario {name} is there twice", n + 1);
            }
            current = Some(out.entry(name.to_owned()).or_default());
        } else {
            let answers =
                current.as_mut().with_context(|| format!("line {}: no scenario", n + 1))?;
            let answer = line
                .strip_prefix("  ")
                .with_context(|| format!("line {}: answers are indented by two blanks", n + 1))?;
            answers.push(answer.to_owned());
        }
    }
    Ok(out)
}

/// Writes a transcript; `head` becomes comment lines.
pub fn format(head: &str, answers: &Answers) -> String {
    let mut out = String::new();
    for l in head.lines() {
        let _ = writeln!(out, "{}", format!("# {l}").trim_end());
    }
    for (name, lines) in answers {
        let _ = writeln!(out, "\n== {name}");
        for l in lines {
            let _ = writeln!(out, "  {l}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transcript_survives_writing_and_reading() {
        let mut a = Answers::new();
        a.insert("x".into(), vec!["recv: EAGAIN".into(), "=> nothing".into()]);
        a.insert("y".into(), vec![]);
        assert_eq!(parse(&format("made by\nhand", &a)).unwrap(), a);
    }

    #[test]
    fn a_damaged_transcript_is_refused_by_line() {
        assert!(parse("  stray").unwrap_err().to_string().contains("line 1"));
        assert!(parse("== a\nnot indented").unwrap_err().to_string().contains("line 2"));
        assert!(parse("== a\n== a").unwrap_err().to_string().contains("twice"));
    }
}
