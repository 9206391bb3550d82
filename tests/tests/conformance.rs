//! The public BPF conformance suite, where its folder is known (`KCM_CONFORMANCE_SUITE`).

use std::path::PathBuf;

use kcm_tests::conformance::{REFUSED, executors, read_suite, run_suite};
use kcm_tests::skip::skip;

#[test]
fn every_executor_passes_the_public_suite_but_for_the_listed_cases() {
    let Some(dir) = std::env::var_os("KCM_CONFORMANCE_SUITE").map(PathBuf::from) else {
        return skip("KCM_CONFORMANCE_SUITE does not name the suite's folder");
    };
    let cases = read_suite(&dir).unwrap();
    let positive = cases.iter().filter(|c| !c.negative).count();
    assert!(positive > 0, "{} holds no cases", dir.display());
    for exec in executors() {
        let report = run_suite(&cases, exec);
        assert_eq!(report.failed, [], "{exec:?}");
        assert_eq!(report.passed[0] + report.refused.len(), positive, "{exec:?}");
        assert!(report.refused.len() <= REFUSED.len(), "{exec:?}");
    }
}
