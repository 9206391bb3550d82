//! Skipping a test out loud: what a machine cannot run is counted, never passed in silence.

use std::fmt::Display;
use std::io::Write;

/// Names the file to which skips are appended, one line each; set by `cargo xtask test`,
/// which prints and counts them at the end of its run.
pub const LOG: &str = "KCM_SKIP_LOG";

/// Set (to anything but the empty string) where the real servers shall be left out.
pub const FAST: &str = "KCM_TEST_FAST";

/// Says that the calling test is skipped and why. The caller then returns.
///
/// The test's name is what nextest says, or that of the thread that `cargo test` runs it on.
pub fn skip(why: impl Display) {
    let name = std::env::var("NEXTEST_TEST_NAME")
        .unwrap_or_else(|_| std::thread::current().name().unwrap_or("a test").to_owned());
    skip_named(&name, why);
}

/// As [`skip`], for a test that knows its name.
pub fn skip_named(name: &str, why: impl Display) {
    let line = format!("{name}: {why}\n");
    eprint!("SKIPPED {line}");
    if let Some(path) = std::env::var_os(LOG) {
        // One write of a short line to a file opened for appending: lines of tests that run
        // at the same time do not mix.
        let written = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut f| f.write_all(line.as_bytes()));
        if let Err(e) = written {
            eprintln!("could not note the skip in {}: {e}", path.display());
        }
    }
}

/// True where `cargo xtask test --fast` asked to leave the real servers out.
pub fn fast() -> bool {
    std::env::var_os(FAST).is_some_and(|v| !v.is_empty())
}
