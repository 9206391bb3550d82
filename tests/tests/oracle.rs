//! The recorded answers of a real AF_KCM, held against this product. No kernel is needed: see
//! `cargo xtask oracle` for asking one.

use std::collections::BTreeSet;

use kcm_tests::oracle::runner::{self, Plan};
use kcm_tests::oracle::transcript::Answers;
use kcm_tests::oracle::{differences, record, scenarios};

#[test]
fn every_scenario_has_the_kernel_s_answers_and_no_answers_are_orphaned() {
    let recorded: BTreeSet<String> = record::kernel().unwrap().into_keys().collect();
    let names: BTreeSet<String> = scenarios::all().map(|s| s.name.to_owned()).collect();
    assert_eq!(scenarios::all().count(), names.len(), "two scenarios have one name");
    let missing: Vec<&String> = names.symmetric_difference(&recorded).collect();
    assert!(missing.is_empty(), "run `cargo xtask oracle --update`: {missing:?}");
}

#[test]
fn the_kernel_ran_every_scenario_to_its_end() {
    for (name, answers) in record::kernel().unwrap() {
        let bad = answers.iter().find(|l| l.starts_with("!!") || *l == "hangs");
        assert_eq!(bad, None, "{name}");
        assert!(!answers.is_empty(), "{name} has no answers");
    }
}

/// Kernels whose answers are recorded beside those of the first.
const OTHERS: &[&str] = &["6.12"];

#[test]
fn a_later_kernel_answers_as_the_first_or_otherwise_for_a_stated_reason() {
    let first = record::kernel().unwrap();
    for series in OTHERS {
        let other = record::kernel_of(series).unwrap();
        let reasons = record::reasons(series).unwrap();
        for (name, answers) in &first {
            let now = other.get(name).unwrap_or_else(|| panic!("{series} has no {name}"));
            assert_eq!(now != answers, reasons.contains_key(name), "{series}, {name}");
        }
        let names: Vec<&String> = reasons.keys().filter(|n| !first.contains_key(*n)).collect();
        assert!(names.is_empty() && other.len() == first.len(), "{series}: {names:?}");
    }
}

#[test]
fn every_scenario_names_statements_that_exist() {
    let verdicts = record::verdicts().unwrap();
    for s in scenarios::all() {
        assert!(!s.statements.is_empty(), "{}", s.name);
        for n in s.statements {
            assert!(verdicts.contains_key(*n), "{} names {n}", s.name);
        }
    }
}

/// Statements that no application can observe from outside, or that need what one guest does
/// not have, with the reason.
const NOT_OBSERVABLE: &[(&str, &str)] = &[
    ("A6", "network namespaces are not the subject of a library"),
    ("A10", "needs a security module that enforces"),
    ("A17", "needs an allocation that fails"),
    ("A22", "the guest's kernel has no TLS"),
    ("A39", "the order inside one call"),
    ("B4", "a number's width, seen in B9"),
    ("B17", "how memory is chained"),
    ("B21", "whether a timer was started that could not fire"),
    ("C3", "which connection a socket serves at a moment"),
    ("D24", "an internal inconsistency"),
    ("H3", "callbacks inside the kernel"),
    ("H4", "pauses inside the kernel, seen in C8"),
    ("H5", "a mode without sockets"),
    ("H6", "teardown inside the kernel"),
];

#[test]
fn every_statement_that_can_be_observed_has_a_scenario() {
    let asked: BTreeSet<&str> =
        scenarios::all().flat_map(|s| s.statements.iter().copied()).collect();
    for (n, _) in record::verdicts().unwrap() {
        if n.starts_with(['I', 'J']) {
            // I: of sockmaps, which no AF_KCM answers; the kernel engine's tests hold them.
            // J: contracts, which show in the answers to the statements they replace.
            continue;
        }
        let excused = NOT_OBSERVABLE.iter().any(|(x, _)| *x == n);
        assert!(asked.contains(n.as_str()) != excused, "{n}: asked or excused, one of both");
    }
}

/// What this product is expected to answer: the explained answer, else the kernel's.
fn expected() -> Answers {
    let (kernel, table) = (record::kernel().unwrap(), record::table().unwrap());
    let of = |name: &String| differences::expected(&kernel, &table, name).unwrap().to_vec();
    kernel.keys().map(|name| (name.clone(), of(name))).collect()
}

fn plan(back_end: &str) -> Plan {
    Plan {
        program: env!("CARGO_BIN_EXE_oracle").into(),
        back_end: back_end.into(),
        patience: 1,
        // Scenarios wait most of the time.
        jobs: std::thread::available_parallelism().map_or(1, usize::from) * 2,
    }
}

#[test]
fn this_product_answers_as_the_kernel_or_otherwise_for_a_stated_reason() {
    let plan = plan("ours");
    let (kernel, table) = (record::kernel().unwrap(), record::table().unwrap());
    let expect = |name: &str, answers: &[String]| {
        differences::expected(&kernel, &table, name) == Some(answers)
    };
    let ours = plan.run_until(&runner::select(&[]), expect);
    let verdicts = record::verdicts().unwrap();
    let architecture = record::architecture().unwrap();
    let report = differences::compare(&kernel, &ours, &table, &verdicts, &architecture);
    for p in &report.problems {
        let text = p.to_string();
        let name = text.split(':').next().unwrap_or_default();
        let (want, got) = (differences::expected(&kernel, &table, name), ours.get(name));
        let (want, got) = (want.unwrap_or_default(), got.map(Vec::as_slice).unwrap_or_default());
        eprintln!("{text} (- expected, + answered)\n{}", differences::diff(want, got));
    }
    assert!(report.problems.is_empty(), "{} problems, see above", report.problems.len());
    let asked_of_both = report.same.len() + report.explained.len();
    assert!(asked_of_both >= 120, "{asked_of_both} scenarios are asked of both sides");
}

#[test]
fn the_document_of_differences_is_that_of_the_table() {
    let (kernel, table) = (record::kernel().unwrap(), record::table().unwrap());
    let want = differences::document(record::RELEASE, &kernel, &expected(), &table);
    let have = std::fs::read_to_string(record::repository(record::DOCUMENT)).unwrap_or_default();
    assert!(want == have, "run `cargo xtask oracle --update --recorded`");
}

#[test]
fn every_headline_is_answered_by_both_sides() {
    let rows = differences::headlines(&record::kernel().unwrap(), &expected());
    assert!(rows.len() >= 10);
    for [what, kernel, ours] in rows {
        assert!(kernel != "not run" && ours != "not run", "{what}");
        assert_ne!(kernel, ours, "{what}: no difference to show");
    }
}

#[test]
fn a_native_function_delineates_as_the_verified_program_does() {
    let list: Vec<_> =
        scenarios::all().filter(|s| s.statements.iter().any(|n| n.starts_with('B'))).collect();
    let expected = expected();
    let plan = plan("ours-native");
    let ours = plan.run_until(&list, |name, a| expected.get(name).is_some_and(|e| e == a));
    for (name, answers) in ours {
        assert_eq!(expected[&name], answers, "{name}");
    }
}
