//! The integration tests again, with the parser attached in the kernel.
//!
//! The same files, on the engine that `kcm_tests::engine` chooses by this program's name. What
//! cannot hold there is listed there, with the reason; on a machine without the engine all are
//! skipped, out loud.

use kcm_tests::engine::EXCUSED;

#[path = "attach.rs"]
mod attach;
#[path = "failures.rs"]
mod failures;
#[path = "races.rs"]
mod races;
#[path = "receive.rs"]
mod receive;

/// The sources of the modules above.
const SOURCES: &[(&str, &str)] = &[
    ("attach", include_str!("attach.rs")),
    ("failures", include_str!("failures.rs")),
    ("races", include_str!("races.rs")),
    ("receive", include_str!("receive.rs")),
];

#[test]
fn every_test_asks_where_it_runs_and_every_excuse_is_for_a_test_that_is_there() {
    let mut tests = Vec::new();
    for (file, source) in SOURCES {
        let lines: Vec<&str> = source.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            if !(line.starts_with("#[test]") || line.starts_with("#[tokio::test")) {
                continue;
            }
            let head = lines[i + 1..].iter().position(|l| l.contains("fn ")).unwrap() + i + 1;
            let name = lines[head].split("fn ").nth(1).unwrap().split('(').next().unwrap();
            let start = lines[head + 1..].iter().take(3).copied().collect::<String>();
            let start: String = start.split_whitespace().collect();
            let asks = format!("if!runs(\"{file}::{name}\"");
            assert!(start.starts_with(&asks), "{file}::{name} does not ask where it runs");
            tests.push(format!("{file}::{name}"));
        }
    }
    assert!(tests.len() > 50, "{} tests", tests.len());
    for (name, why) in EXCUSED {
        assert!(tests.iter().any(|t| t == name), "{name} is excused and not there");
        assert!(why.len() > 20, "{name}: {why}");
    }
}
