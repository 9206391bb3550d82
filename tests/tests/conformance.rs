//! Our own conformance cases, and the public suite where its folder is known
//! (`KCM_CONFORMANCE_SUITE`), through every executor.

use std::collections::BTreeSet;
use std::path::PathBuf;

use kcm_core::bpf::{helpers, map::kind};
use kcm_tests::conformance::{REFUSED, executors, own, read_suite, run_suite};
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

#[test]
fn every_executor_passes_our_own_cases() {
    let cases = read_suite(&own()).unwrap();
    let positive = cases.iter().filter(|c| !c.negative).count();
    assert!(positive >= 60 && cases.len() - positive >= 5, "cases are missing");
    for exec in executors() {
        let report = run_suite(&cases, exec);
        assert_eq!(report.failed, [], "{exec:?}");
        assert_eq!(report.refused, [], "{exec:?}");
        assert_eq!(report.passed, [positive, cases.len() - positive], "{exec:?}");
    }
}

#[test]
fn our_own_cases_call_every_helper_and_use_every_kind_of_map() {
    let (mut called, mut kinds) = (BTreeSet::new(), BTreeSet::new());
    for case in read_suite(&own()).unwrap().iter().filter(|c| !c.negative) {
        let program = case.program().unwrap();
        let calls = program.insns.iter().filter(|i| i.code == 0x85 && i.src == 0);
        called.extend(calls.map(|i| i.imm as u32));
        kinds.extend(program.maps.iter().map(|m| m.kind));
    }
    for proto in helpers::PROTOS {
        assert!(called.contains(&proto.id), "no case calls {:?}", helpers::name(proto.id));
    }
    for wanted in [
        kind::HASH,
        kind::ARRAY,
        kind::PERF_EVENT_ARRAY,
        kind::PERCPU_HASH,
        kind::PERCPU_ARRAY,
        kind::LRU_HASH,
        kind::LRU_PERCPU_HASH,
        kind::RINGBUF,
    ] {
        assert!(kinds.contains(&wanted), "no case uses a map of kind {wanted}");
    }
}
