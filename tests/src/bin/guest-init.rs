//! Process 1 of a guest kernel; `cargo xtask guest` boots it.
//!
//! Makes the machine ready, loads the modules and runs the programs that `/guest/plan.json`
//! names, each with a time limit, and powers off. What programs print goes to the second serial
//! port, between lines that begin with `=== guest`; the first is the kernel's, for its log.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kcm_tests::harness::kernel_release;
use kcm_tests::oracle::kernel::guest;
use kcm_tests::skip;
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

#[derive(serde::Deserialize)]
struct Plan {
    /// Files, in the order in which they are to be loaded.
    modules: Vec<String>,
    steps: Vec<Step>,
}

#[derive(serde::Deserialize)]
struct Step {
    name: String,
    program: PathBuf,
    args: Vec<String>,
    cwd: PathBuf,
    seconds: u64,
}

/// Where skipped tests are noted.
const SKIPS: &str = "/tmp/skipped";

fn main() {
    if !guest::is_first_process() {
        eprintln!("this is the first process of a guest; `cargo xtask guest` boots one");
        std::process::exit(2);
    }
    // Without the second port nobody would hear the error: then it goes to the kernel's.
    if let Err(e) = life() {
        println!("=== guest error: {e:#}");
    }
    guest::power_off()
}

fn life() -> Result<()> {
    for (what, at) in
        [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp")]
    {
        mount(what, at, what, MountFlags::empty(), None).with_context(|| format!("mount {at}"))?;
    }
    let mut port = OpenOptions::new().read(true).write(true).open("/dev/ttyS1")?;
    raw(&port)?;
    if let Err(e) = work(&mut port) {
        writeln!(port, "=== guest error: {e:#}")?;
    }
    // What is still in the port's queue must leave before the power goes.
    rustix::termios::tcdrain(&port)?;
    Ok(())
}

/// Bytes as they are: a serial port of the kernel adds carriage returns otherwise.
fn raw(port: &File) -> Result<()> {
    let mut mode = rustix::termios::tcgetattr(port)?;
    mode.make_raw();
    rustix::termios::tcsetattr(port, rustix::termios::OptionalActions::Now, &mode)?;
    Ok(())
}

fn work(port: &mut File) -> Result<()> {
    let plan = std::fs::read("/guest/plan.json").context("/guest/plan.json")?;
    let plan: Plan = serde_json::from_slice(&plan).context("/guest/plan.json")?;
    for m in &plan.modules {
        guest::insert(m)?;
    }
    guest::loopback_up()?;
    guest::allow_large_buffers()?;
    // One task that waits for a minute in the kernel is a hang.
    std::fs::write("/proc/sys/kernel/hung_task_timeout_secs", "60").context("hung tasks")?;
    writeln!(port, "=== guest ready {}", kernel_release())?;
    for s in &plan.steps {
        step(s, port)?;
    }
    skips(port)?;
    writeln!(port, "=== guest done")?;
    Ok(())
}

fn step(s: &Step, port: &mut File) -> Result<()> {
    writeln!(port, "=== guest begin {}", s.name)?;
    let start = Instant::now();
    let how = match start_step(s, port) {
        Ok(child) => match wait(child, start + Duration::from_secs(s.seconds))? {
            Some(status) => told(status),
            None => "time limit".into(),
        },
        Err(e) => format!("could not be started: {e}"),
    };
    if how == "time limit" {
        // The kernel's log then says where the waiting tasks are.
        let _ = std::fs::write("/proc/sysrq-trigger", "w");
    }
    end_all(port)?;
    let seconds = start.elapsed().as_secs_f64();
    writeln!(port, "=== guest end {}: {how} ({seconds:.1} s)", s.name)?;
    Ok(())
}

fn start_step(s: &Step, port: &File) -> Result<Pid> {
    let child = Command::new(&s.program)
        .args(&s.args)
        .current_dir(&s.cwd)
        .env("RUST_BACKTRACE", "1")
        .env("KCM_IN_GUEST", "1")
        .env("PATH", "/bin:/usr/bin")
        .env(skip::LOG, SKIPS)
        .stdin(Stdio::null())
        .stdout(port.try_clone()?)
        .stderr(port.try_clone()?)
        .process_group(0)
        .spawn()
        .with_context(|| format!("{}", s.program.display()))?;
    Ok(Pid::from_child(&child))
}

/// Waits for a process, and for every other that ends meanwhile: orphans are process 1's.
fn wait(pid: Pid, end: Instant) -> Result<Option<ExitStatus>> {
    loop {
        match rustix::process::wait(rustix::process::WaitOptions::NOHANG) {
            Ok(Some((ended, status))) if ended == pid => {
                return Ok(Some(ExitStatus::from_raw(status.as_raw())));
            }
            Ok(Some(_)) => {}
            Ok(None) if Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(20)); // between two looks
            }
            Ok(None) => {
                let _ = kill_process_group(pid, Signal::KILL);
                return Ok(None);
            }
            Err(e) => return Err(e).context("wait"),
        }
    }
}

fn told(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or_default()),
    }
}

/// Ends whatever a program has left running. A process that does not go is stuck in the kernel,
/// which is what this guest is looked at for.
fn end_all(port: &mut File) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let left = processes();
        if left.is_empty() {
            return Ok(());
        }
        for p in &left {
            let _ = kill_process(*p, Signal::KILL);
        }
        while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
        if Instant::now() >= end {
            for p in left {
                let of = |name: &str| {
                    let path = Path::new("/proc").join(p.as_raw_nonzero().to_string()).join(name);
                    std::fs::read_to_string(path).unwrap_or_default()
                };
                writeln!(port, "=== guest stuck {} {}", p.as_raw_nonzero(), of("stat").trim())?;
                writeln!(port, "{}", of("stack"))?;
            }
            let _ = std::fs::write("/proc/sysrq-trigger", "w");
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20)); // between two looks
    }
}

/// Every process but this one and the kernel's own threads.
fn processes() -> Vec<Pid> {
    let mut out = Vec::new();
    for e in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = e.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else {
            continue;
        };
        // Threads of the kernel have no command line, nor have processes that are dead and wait
        // to be waited for: those are not in the way.
        let ours = std::fs::read(e.path().join("cmdline")).is_ok_and(|c| !c.is_empty());
        if ours && pid != 1 {
            out.extend(Pid::from_raw(pid));
        }
    }
    out
}

fn skips(port: &mut File) -> Result<()> {
    let text = std::fs::read_to_string(SKIPS).unwrap_or_default();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    if !lines.is_empty() {
        writeln!(port, "SKIPPED: {} tests did not run in the guest", lines.len())?;
        for l in lines {
            writeln!(port, "  {l}")?;
        }
    }
    Ok(())
}
