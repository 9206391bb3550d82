//! The tables of compatibility and of faults cannot drift: every statement and every fault has
//! one row, no cell is empty, and every test that a row names exists.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use kcm_tests::oracle::record;

/// The rows of a document's tables, each with `N` cells; the last names tests.
fn rows<const N: usize>(document: &str) -> Vec<[String; N]> {
    let text = std::fs::read_to_string(record::repository(document)).unwrap();
    text.lines()
        .filter(|line| {
            line.starts_with("| ") && !line.starts_with("| #") && !line.starts_with("| Row")
        })
        .map(|line| {
            let cells: Vec<String> =
                line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
            assert!(cells.iter().all(|cell| !cell.is_empty()), "an empty cell: {line}");
            cells.try_into().unwrap_or_else(|_| panic!("not {N} cells: {line}"))
        })
        .collect()
}

/// Statement, verdict, kernel, ours, tests.
fn statements() -> Vec<[String; 5]> {
    rows("docs/kcm-compatibility.md")
}

/// Row, fault, ours, tests.
fn faults() -> Vec<[String; 4]> {
    rows("docs/kernel-faults.md")
}

#[test]
fn every_statement_has_one_row_with_its_verdict_and_no_cell_is_empty() {
    let mut seen = BTreeMap::new();
    for row in statements() {
        let before = seen.insert(row[0].clone(), row[1].clone());
        assert_eq!(before, None, "{} has two rows", row[0]);
    }
    let text = std::fs::read_to_string(record::path("verdicts.txt")).unwrap();
    let verdicts: BTreeMap<String, String> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(' '))
        .map(|(n, verdict)| (n.to_owned(), verdict.trim().to_owned()))
        .collect();
    assert_eq!(seen, verdicts);
}

#[test]
fn every_fault_has_one_row_in_order() {
    let numbers: Vec<usize> = faults().iter().map(|row| row[0].parse().unwrap()).collect();
    assert_eq!(numbers, (1..=78).collect::<Vec<_>>());
}

#[test]
fn every_test_that_a_row_names_exists() {
    let mut functions = BTreeSet::new();
    for folder in ["kcm-core/src", "kcm-core/tests", "tests/tests", "tests/src"] {
        collect(&record::repository(folder), &mut functions);
    }
    let statements = statements().into_iter().map(|[n, .., tests]| (n, tests));
    let faults = faults().into_iter().map(|[n, .., tests]| (format!("row {n}"), tests));
    for (row, tests) in statements.chain(faults) {
        let named: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        if named.is_empty() {
            assert!(tests.starts_with("n/a: "), "{row} has neither a test nor a reason");
        }
        for test in named {
            assert!(functions.contains(test), "{row} names {test}, which does not exist");
        }
    }
}

/// Rows whose fault is a race, whatever it led to: two threads, one of them too early or too late.
const RACES: [usize; 19] =
    [1, 2, 9, 10, 14, 15, 16, 18, 25, 26, 29, 30, 36, 46, 47, 50, 55, 62, 63];

#[test]
fn every_fault_that_is_a_race_has_a_storm_of_a_hundred_thousand() {
    let path = record::repository("tests/tests/storms.rs");
    let text = std::fs::read_to_string(path).unwrap();
    // Each storm asks how often; `times` says 10^5 in the long set.
    let storms: BTreeMap<&str, &str> = text
        .split("#[tokio::test")
        .skip(1)
        .filter_map(|test| test.split_once("async fn ")?.1.split_once('('))
        .collect();
    for row in faults().iter().filter(|row| RACES.contains(&row[0].parse().unwrap())) {
        let named = row[3].split('`').skip(1).step_by(2);
        let storm = named.filter_map(|test| storms.get(test)).any(|body| body.contains("times("));
        assert!(storm, "row {} names no storm", row[0]);
    }
}

/// The names of all functions in a folder that are marked as tests: by an attribute, or by
/// standing in `proptest!`, which puts the attribute above them too.
fn collect(folder: &Path, functions: &mut BTreeSet<String>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, functions);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let mut marked = false;
            for line in text.lines().map(str::trim) {
                if line.starts_with("#[") && line.contains("test") && !line.contains("cfg") {
                    marked = true;
                } else if let Some((_, rest)) = line.split_once("fn ") {
                    let name: String =
                        rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                    if std::mem::take(&mut marked) {
                        functions.insert(name);
                    }
                } else if !line.starts_with("#[") && !line.starts_with("//") {
                    marked = false;
                }
            }
        }
    }
}
