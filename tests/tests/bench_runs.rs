//! The benchmarks run: every part gives its figures, every message that is sent is received, and
//! table, JSON, Markdown and plots are written. How fast anything was is not looked at.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The tool, with runs as short as can be.
fn run(dir: &Path, more: &[&str]) -> (std::process::Output, Value) {
    let json = dir.join("bench.json");
    let out = Command::new(env!("CARGO_BIN_EXE_kcm-bench"))
        .args(["run", "--quick", "--rounds=1", "--secs=0.02"])
        .arg("--json")
        .arg(&json)
        .arg("--markdown")
        .arg(dir.join("bench.md"))
        .arg("--plots")
        .arg(dir.join("plots"))
        .args(more)
        .output()
        .expect("the tool starts");
    let text = std::fs::read_to_string(&json).unwrap_or_else(|e| panic!("no JSON ({e}): {out:?}"));
    (out, serde_json::from_str(&text).expect("valid JSON"))
}

fn array<'a>(value: &'a Value, key: &str) -> &'a Vec<Value> {
    value[key].as_array().unwrap_or_else(|| panic!("no list `{key}`"))
}

#[test]
fn a_short_run_measures_every_part_and_loses_no_message() {
    let dir = tempfile::tempdir().expect("a directory");
    // A run that lost, tore or doubled a message is a failure, and fails the tool.
    let (out, json) = run(dir.path(), &["--only=rx,tx,lat,memory,flood"]);
    assert!(out.status.success(), "{out:?}");
    assert!(array(&json, "failures").is_empty());

    let cases = array(&json, "cases");
    for part in ["rx", "tx", "lat", "memory", "flood"] {
        let of_part: Vec<&Value> = cases.iter().filter(|c| c["part"] == part).collect();
        assert!(!of_part.is_empty(), "part {part} has no case");
        for case in of_part {
            for row in array(case, "rows") {
                assert_eq!(row["rounds"], 1, "{row}");
                let compared = case["compared"].as_str().expect("a metric");
                let figure = &row["metrics"][compared];
                for key in ["median", "min", "max"] {
                    assert!(figure[key].is_number(), "{part}: {row}");
                }
                let ratio = &row["ratio"];
                assert_eq!(ratio.is_null(), case["base"] == "", "{part}: {row}");
            }
        }
    }

    // Each claim is listed, measured or not; those of these parts are measured.
    let targets = array(&json, "targets");
    let told = |t: &Value| t["verdict"].as_str().expect("a verdict").to_owned();
    assert!(targets.iter().any(|t| told(t) == "not measured"), "the parser part did not run");
    let measured: Vec<&Value> = targets.iter().filter(|t| told(t) != "not measured").collect();
    assert!(measured.len() >= 10, "{measured:#?}");
    for t in measured {
        assert!(t["value"]["median"].is_number() && t["met"].is_boolean(), "{t}");
    }
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(said.contains("not measured") && said.contains("targets"), "{said}");

    let markdown = std::fs::read_to_string(dir.path().join("bench.md")).expect("Markdown");
    assert!(markdown.contains("| work | against | target | measured |"), "{markdown}");
    let svg = std::fs::read_to_string(dir.path().join("plots/cost-by-size.svg")).expect("a plot");
    assert!(svg.starts_with("<svg"), "{svg}");
}

#[test]
fn a_part_that_does_not_exist_is_refused_with_those_that_do() {
    let out = Command::new(env!("CARGO_BIN_EXE_kcm-bench"))
        .args(["run", "--only=teleport"])
        .output()
        .expect("the tool starts");
    assert!(!out.status.success());
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("parser, rx, tx"), "{said}");
}
