//! The fuzz targets, shortly: the same cases on every run. `cargo xtask fuzz` goes on.

use kcm_tests::fuzz::{TARGETS, Until, Verdict, find, run};

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
