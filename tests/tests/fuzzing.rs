//! The fuzz targets, shortly: the same cases on every run. `cargo xtask fuzz` goes on.

use kcm_tests::fuzz::{Fault, TARGETS, Until, Verdict, find, run};

/// Cases of each target: what takes a few seconds without optimisation.
const CASES: u64 = 2_000;

#[test]
fn no_target_finds_anything_in_its_first_cases() {
    for target in TARGETS.iter().filter(|t| t.alone) {
        let report = run(target, 1, Until::Cases(CASES), 1);
        let (name, about) = (target.name, target.about);
        assert!(report.findings.is_empty(), "{name} ({about}): {:#?}", report.findings);
        assert!(report.accepted > CASES / 5, "{name}: only {} accepted", report.accepted);
        assert!(report.accepted < CASES, "{name}: nothing is ever refused");
        assert_eq!(report.cases, CASES, "{name}");
    }
}

#[test]
fn findings_of_old_are_no_findings_any_more() {
    for target in TARGETS.iter().filter(|t| t.alone) {
        let files = target.files();
        for path in &files {
            let bytes = std::fs::read(path).unwrap();
            if let Err(what) = target.file(&bytes) {
                panic!("{}: {what}", path.display());
            }
        }
        println!("{}: {} files", target.name, files.len());
        assert!(!files.is_empty(), "{}: nothing is kept", target.name);
    }
}

/// What is wrong in these files must be found, or the targets find nothing.
#[test]
fn a_file_that_is_no_case_is_told_so() {
    let program = find("program").unwrap();
    for (file, says) in [("what 1\n", "line 1: no such word"), ("insn 00\n", "not 8 bytes")] {
        let e = program.file(file.as_bytes()).unwrap_err();
        assert!(e.contains(says), "{e}");
    }
    assert!(find("parser").unwrap().file(b"parser nobody\n").is_err());
    assert!(matches!(find("object").unwrap().file(b""), Ok(Verdict::Refused(_))));
}

#[test]
fn faults_that_are_put_in_are_found_and_made_small() {
    for (name, fault, small) in [
        ("program", Fault::Result, 8),
        ("program", Fault::State, 20),
        ("object", Fault::State, 0),
        ("parser", Fault::Result, 0),
    ] {
        let target = find(name).unwrap();
        let found = (1..=CASES).find(|seed| target.replay_with(*seed, fault).is_err());
        let seed = found.unwrap_or_else(|| panic!("{name}: {fault:?} is not found"));
        assert_eq!(target.replay(seed).map(|_| ()), Ok(()), "{name}: without it nothing is wrong");
        println!("{name}: {fault:?} found with seed {seed}");
        if small > 0 {
            let (file, what) = target.shrink(seed, Some(fault));
            let text = String::from_utf8(file).unwrap();
            let insns = text.lines().filter(|l| l.starts_with("insn ")).count();
            assert!((1..=small).contains(&insns), "{name}: {what} in {insns} instructions\n{text}");
        }
    }
}
