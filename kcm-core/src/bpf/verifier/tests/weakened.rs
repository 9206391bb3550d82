//! The tests can fail: a verifier without one of its rules accepts programs that checked mode
//! stops, and generated programs show it.

use proptest::{
    prelude::*,
    test_runner::{Config, TestError, TestRng, TestRunner},
};

use super::{
    super::weak::{self, Weakness},
    pruning::step,
    running::never_stopped,
};

/// Programs to generate, at most.
const CASES: u32 = 8_000;

/// What the programs read: numbers about the size of what they index, and large ones.
const MESSAGES: [&[u8]; 6] = [
    &[],
    &[0; 40],
    &[16; 40],
    &[15, 17, 1, 31, 2, 32, 30, 14, 3, 33, 13, 18],
    &[1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1],
    &[0xff; 20],
];

/// What the generated programs show to be wrong; the same ones every time.
fn found() -> Option<String> {
    let config = Config {
        cases: CASES,
        max_shrink_iters: 0,
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::deterministic_rng(config.rng_algorithm);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let steps = prop::collection::vec(step(), 4..40);
    match runner.run(&steps, |steps| never_stopped(&steps, &MESSAGES)) {
        Err(TestError::Fail(why, _)) => Some(why.to_string()),
        Err(TestError::Abort(why)) => panic!("{why}"),
        Ok(()) => None,
    }
}

#[test]
fn a_verifier_without_one_of_its_rules_is_found_out() {
    let mut missed = Vec::new();
    for weakness in
        [Weakness::PacketStart, Weakness::StackInit, Weakness::LowWord, Weakness::Precision]
    {
        match weak::with(weakness, found) {
            Some(why) => println!("{weakness:?}: {}", why.lines().next().unwrap_or_default()),
            None => missed.push(weakness),
        }
    }
    assert_eq!(missed, [], "not found by {CASES} programs");
}
