//! The fuzz targets, shortly: the same cases on every run. `cargo xtask fuzz` goes on.

use kcm_tests::fuzz::{TARGETS, Until, run};

/// Cases of each target: what takes a few seconds without optimisation.
const CASES: u64 = 300;

#[test]
fn no_target_finds_anything_in_its_first_cases() {
    for (name, what, target) in TARGETS {
        let report = run(*target, 1, Until::Cases(CASES));
        assert!(report.findings.is_empty(), "{name} ({what}): {:#?}", report.findings);
        assert!(report.accepted > CASES / 10, "{name}: only {} accepted", report.accepted);
        assert!(report.accepted < CASES, "{name}: nothing is ever refused");
    }
}
