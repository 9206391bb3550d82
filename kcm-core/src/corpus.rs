//! Corpora of the model tests: cases that every run of the tests repeats.
//!
//! A case is one line of JSON, so that a failure's is copied by hand and a difference reads.

use std::{
    collections::BTreeSet,
    fmt::Debug,
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::PathBuf,
};

use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde::{Serialize, de::DeserializeOwned};

/// One file of cases.
pub(crate) struct Corpus {
    pub(crate) file: &'static str,
}

/// The name of an enum's variant, for what was seen.
pub(crate) fn name(value: &impl Debug) -> String {
    let text = format!("{value:?}");
    text.split([' ', '(', '{']).next().unwrap_or_default().to_owned()
}

impl Corpus {
    fn path(&self) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/model").join(self.file)
    }

    /// The cases of the file, in its order.
    pub(crate) fn cases<T: DeserializeOwned>(&self) -> Vec<T> {
        let path = self.path();
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let case = |(at, line): (usize, &str)| {
            serde_json::from_str(line)
                .unwrap_or_else(|e| panic!("{}:{}: {e}", path.display(), at + 1))
        };
        text.lines().enumerate().filter(|(_, line)| line.starts_with('{')).map(case).collect()
    }

    /// Runs a case. One that fails says how to keep it.
    pub(crate) fn run<T: Serialize, R>(&self, case: &T, run: impl Fn(&T) -> R) -> R {
        match catch_unwind(AssertUnwindSafe(|| run(case))) {
            Ok(result) => result,
            Err(panic) => {
                let line = serde_json::to_string(case).unwrap_or_default();
                eprintln!("for tests/data/model/{}, once it is mended:\n{line}", self.file);
                resume_unwind(panic)
            }
        }
    }

    /// Runs all cases of the file, of which there are `least` or more.
    pub(crate) fn replay<T: Serialize + DeserializeOwned, R>(
        &self,
        least: usize,
        run: impl Fn(&T) -> R,
    ) {
        let cases = self.cases::<T>();
        assert!(cases.len() >= least, "{} cases", cases.len());
        for case in &cases {
            self.run(case, &run);
        }
    }

    /// Looks through `tries` cases for those in which something is seen that is seen in no case
    /// of the file, shortens each as long as it still shows that, and adds it.
    pub(crate) fn grow<S>(
        &self,
        cases: &S,
        tries: usize,
        run: impl Fn(&S::Value) -> BTreeSet<String>,
    ) where
        S: Strategy,
        S::Value: Serialize + DeserializeOwned + Clone,
    {
        let mut seen = BTreeSet::new();
        for case in self.cases::<S::Value>() {
            seen.extend(run(&case));
        }
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let mut file =
            std::fs::OpenOptions::new().append(true).create(true).open(self.path()).unwrap();
        for _ in 0..tries {
            let mut tree = cases.new_tree(&mut runner).unwrap();
            let new = &run(&tree.current()) - &seen;
            if new.is_empty() {
                continue;
            }
            let mut shortest = tree.current();
            let mut steps = 0;
            let mut smaller = tree.simplify();
            while smaller && steps < 2000 {
                steps += 1;
                smaller = match new.is_subset(&run(&tree.current())) {
                    true => {
                        shortest = tree.current();
                        tree.simplify()
                    }
                    false => tree.complicate(),
                };
            }
            seen.extend(run(&shortest));
            writeln!(file, "{}", serde_json::to_string(&shortest).unwrap()).unwrap();
        }
        eprintln!("{} things are seen", seen.len());
    }
}
