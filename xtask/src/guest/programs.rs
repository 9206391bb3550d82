//! What runs in the guest: built as cargo builds it, found by cargo's own account.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::sh::{Cmd, cargo};

/// One program to be run, and what else must be there for it.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    /// Programs that it starts.
    pub(crate) others: Vec<PathBuf>,
    /// How long it may take.
    pub(crate) seconds: u64,
}

/// How long one program may take, in seconds, where nothing else is known of it.
const SECONDS: u64 = 900;

/// How long the kernel engine's load may take: a million messages, translated.
const LOAD_SECONDS: u64 = 3600;

/// Builds the guest's first process and what was asked for; `more` goes to each program.
pub(crate) fn build(what: &[String], more: &[String]) -> Result<(PathBuf, Vec<Step>)> {
    let mut steps = Vec::new();
    let mut tests = Vec::new();
    let mut engine = false;
    for w in what {
        match w.as_str() {
            "oracle" => {
                // One at a time, all of them: about a minute, and more where many answer late.
                let args = ["run-in-guest".to_owned()].into_iter().chain(more.iter().cloned());
                steps.push(step(w, bin("oracle", false)?, args.collect()));
            }
            "bench-kcm" => {
                steps.push(step(w, bin("kernel-kcm-bench", true)?, more.to_vec()));
            }
            "bench-engines" => {
                let args = ["run", "--only=engines"].map(str::to_owned).into_iter();
                let args = args.chain(more.iter().cloned());
                steps.push(step(w, bin("kcm-bench", true)?, args.collect()));
            }
            "kernel-engine" => {
                engine = true;
                tests.extend([
                    "kernel_engine",
                    "kernel_engine_limits",
                    "kernel_engine_tables",
                    "on_kernel_engine",
                ]);
            }
            _ => tests.push(w.as_str()),
        }
    }
    if tests.is_empty() {
        return Ok((bin(INIT, false)?, steps));
    }
    // A build of tests has other features than one of programs: the first process is taken from
    // it, so that there is only one.
    let built = tests_built(&tests)?;
    if engine {
        steps.push(step("probe", find(&built, "bin", "kernel-probe")?, Vec::new()));
        // Options are the load's; the tests take none then.
        let load = step("load", find(&built, "bin", "kernel-load")?, more.to_vec());
        steps.push(Step { seconds: LOAD_SECONDS, ..load });
        steps.extend(integration_tests(&built, &tests, &[])?);
        return Ok((find(&built, "bin", INIT)?, steps));
    }
    steps.extend(integration_tests(&built, &tests, more)?);
    Ok((find(&built, "bin", INIT)?, steps))
}

fn step(name: &str, program: PathBuf, args: Vec<String>) -> Step {
    Step { name: name.into(), program, args, others: Vec::new(), seconds: SECONDS }
}

/// The guest's first process.
const INIT: &str = "guest-init";

/// Something that cargo has built.
struct Built {
    name: String,
    kind: String,
    path: PathBuf,
}

/// Builds a program of the tests' package.
pub(crate) fn bin(name: &str, release: bool) -> Result<PathBuf> {
    let mut c = cargo().args(["build", "--package", "kcm-tests", "--bin", name]);
    if release {
        c = c.arg("--release");
    }
    find(&built(c)?, "bin", name)
}

fn find(built: &[Built], kind: &str, name: &str) -> Result<PathBuf> {
    built
        .iter()
        .find(|b| b.name == name && b.kind == kind)
        .map(|b| b.path.clone())
        .with_context(|| format!("cargo built no {kind} {name}"))
}

fn tests_built(names: &[&str]) -> Result<Vec<Built>> {
    let mut c = cargo().args(["test", "--package", "kcm-tests", "--no-run"]);
    for n in names {
        c = c.args(["--test", n]);
    }
    built(c)
}

fn integration_tests(built: &[Built], names: &[&str], more: &[String]) -> Result<Vec<Step>> {
    let bins: Vec<&Built> = built.iter().filter(|b| b.kind == "bin").collect();
    let mut steps = Vec::new();
    for n in names {
        let test = find(built, "test", n)?;
        // What a test starts it names by its whole path.
        let text = std::fs::read(&test)?;
        let holds = |b: &Built| {
            let path = b.path.as_os_str().as_encoded_bytes();
            text.windows(path.len()).any(|w| w == path)
        };
        let others = bins.iter().filter(|b| holds(b)).map(|b| b.path.clone()).collect();
        // One at a time: what the log says then belongs to one test.
        let mut args = vec!["--test-threads=1".to_owned()];
        args.extend(more.iter().cloned());
        steps.push(Step { others, ..step(n, test, args) });
    }
    Ok(steps)
}

/// Runs cargo, and reads what it says about what it made.
fn built(c: Cmd) -> Result<Vec<Built>> {
    let text = c.arg("--message-format=json-render-diagnostics").read()?;
    let mut out = Vec::new();
    for line in text.lines() {
        let v: serde_json::Value = serde_json::from_str(line).context("cargo's own account")?;
        let target = &v["target"];
        if let (Some(path), Some(name), Some(kind)) =
            (v["executable"].as_str(), target["name"].as_str(), target["kind"][0].as_str())
        {
            out.push(Built { name: name.into(), kind: kind.into(), path: path.into() });
        }
    }
    if out.is_empty() {
        bail!("cargo built no program");
    }
    Ok(out)
}

/// The files that `ldd` names.
pub(crate) fn ldd(text: &str) -> Vec<PathBuf> {
    text.lines()
        .filter_map(|l| {
            let found = l.split_once("=>").map_or(l, |(_, to)| to);
            let path = found.trim().split(" (").next()?;
            path.starts_with('/').then(|| path.into())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_read_from_what_ldd_prints() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x7f)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        let want = [
            "/lib/x86_64-linux-gnu/libgcc_s.so.1",
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(ldd(text), want.map(PathBuf::from));
        assert_eq!(ldd("\tstatically linked\n"), Vec::<PathBuf>::new());
    }
}
