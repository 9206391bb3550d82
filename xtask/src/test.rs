//! `cargo xtask test`: gets what the tests need, runs all of them, and counts what was skipped.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::sh::{cargo, root, which};
use crate::{apt, setup};

/// Options of the verb.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Leave out the tests that talk to real servers (they count as skipped)
    #[arg(long)]
    fast: bool,
    /// Repeat each storm (a test that provokes a race) 100000 times: some minutes more
    #[arg(long)]
    long: bool,
    /// Install nothing: what is missing is skipped and counted
    #[arg(long)]
    offline: bool,
    /// Names, or parts of names, of the tests to run; options of the test runner after `--`
    filters: Vec<String>,
}

/// Programs of real servers and clients, and the Debian package that has each.
const REAL: &[(&str, &str)] = &[
    ("redis-server", "redis-server"),
    ("redis-cli", "redis-tools"),
    ("redis-benchmark", "redis-tools"),
    ("initdb", "postgresql"),
    ("postgres", "postgresql"),
    ("pgbench", "postgresql"),
    ("psql", "postgresql-client"),
    ("memcached", "memcached"),
    ("mosquitto", "mosquitto"),
    ("mosquitto_pub", "mosquitto-clients"),
    ("mosquitto_sub", "mosquitto-clients"),
];

/// Runs the tests of the whole workspace.
pub(crate) fn run(args: Args) -> Result<()> {
    if !args.fast && !args.offline {
        real_servers();
        if let Err(e) = setup::ensure() {
            eprintln!("warning: tests that build parsers will be skipped: {e:#}");
        }
    }
    let log = root().join("target/skipped-tests.txt");
    std::fs::create_dir_all(root().join("target"))?;
    std::fs::write(&log, "").with_context(|| format!("could not write {}", log.display()))?;
    let outcome = tests(&args, &log);
    let skipped = report(&std::fs::read_to_string(&log)?);
    eprint!("{skipped}");
    outcome
}

/// Installs the servers that are missing. A failure is no failure of the tests: those that
/// need a missing server say so and are counted.
fn real_servers() {
    let mut missing: Vec<&str> =
        REAL.iter().filter(|(p, _)| !found(p)).map(|(_, package)| *package).collect();
    missing.dedup();
    if let Err(e) = apt::install(&missing) {
        eprintln!("warning: the tests of real servers will be skipped: {e:#}");
    }
}

/// In PATH, or where Debian keeps PostgreSQL's and other servers' programs.
fn found(program: &str) -> bool {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    which(program).is_some()
        || Path::new("/usr/sbin").join(program).is_file()
        || versions.into_iter().any(|v| v.path().join("bin").join(program).is_file())
}

fn tests(args: &Args, log: &Path) -> Result<()> {
    let with_env = |c: crate::sh::Cmd| {
        let c = c.env("KCM_SKIP_LOG", log);
        let c = if args.long { c.env("KCM_LONG", "1") } else { c };
        if args.fast { c.env("KCM_TEST_FAST", "1") } else { c }
    };
    let nextest = cargo().args(["nextest", "--version"]).quiet().succeeds();
    if !nextest {
        let c = cargo().args(["test", "--workspace", "--no-fail-fast"]);
        let c = match args.filters.split_first() {
            None => c,
            // `cargo test` takes one filter in front of `--`, more behind it.
            Some((first, rest)) => c.arg(first).arg("--").args(rest),
        };
        return with_env(c).run();
    }
    let c = cargo().args(["nextest", "run", "--workspace", "--no-fail-fast"]);
    let run = with_env(c.args(&args.filters)).run();
    if !args.filters.is_empty() {
        return run; // nextest itself fails when no test matches
    }
    // nextest knows no documentation tests.
    let doc = with_env(cargo().args(["test", "--workspace", "--doc", "--no-fail-fast"])).run();
    match (run, doc) {
        (Err(a), Err(b)) => bail!("{a:#}; {b:#}"),
        (a, b) => a.and(b),
    }
}

/// What was skipped, to be read at the end of the run.
fn report(log: &str) -> String {
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    if lines.is_empty() {
        return "skipped: 0 tests\n".into();
    }
    let mut out = format!("SKIPPED: {} tests did not run\n", lines.len());
    for l in lines {
        out.push_str("  ");
        out.push_str(l);
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_tests_are_listed_and_counted() {
        assert_eq!(report(""), "skipped: 0 tests\n");
        let r = report("b: no server\na: no kernel\na: no kernel\n");
        assert_eq!(r, "SKIPPED: 2 tests did not run\n  a: no kernel\n  b: no server\n");
    }

    #[test]
    fn a_program_outside_path_is_found_where_debian_puts_it() {
        assert!(found("sh"));
        assert!(!found("no-such-program-here"));
    }
}
