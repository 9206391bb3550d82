//! Processes and processors: a role runs pinned, in a process of its own, so that the CPU time
//! it used is known exactly.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Keeps this process on one CPU, in a session (and so a scheduling group) of its own, that a
/// neighbour's compiler may not share.
pub(crate) fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("could not run on CPU {cpu}"))?;
    // Both are only attempts: a session leader may not start another session, and the group's
    // weight is not for everybody to set.
    let _ = rustix::process::setsid();
    let _ = std::fs::write("/proc/self/autogroup", "-20");
    Ok(())
}

/// Lets this process, and those that it starts, open as many files as the system allows; how
/// many that is.
pub(crate) fn raise_open_files() -> Result<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// From here on, this thread runs only when nothing else wants its CPU (SCHED_IDLE).
#[allow(unsafe_code)]
pub(crate) fn only_when_idle() -> Result<()> {
    let param = libc::sched_param { sched_priority: 0 };
    // SAFETY: `param` is a live local of the type that the call reads.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &param) } != 0 {
        bail!("could not become an idle thread: {}", std::io::Error::last_os_error());
    }
    Ok(())
}

/// CPU nanoseconds that this thread has used: what runs between two calls is not measured
/// together with whoever else wanted the CPU meanwhile.
pub(crate) fn thread_ns() -> f64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    t.tv_sec as f64 * 1e9 + t.tv_nsec as f64
}

/// Runs `f` in a thread that stays on one CPU, and gives back what it gave.
pub(crate) fn on_cpu<T: Send>(cpu: Option<usize>, f: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            if let Some(cpu) = cpu {
                let mut set = CpuSet::new();
                set.set(cpu);
                sched_setaffinity(None, &set)?;
            }
            Ok::<T, anyhow::Error>(f())
        });
        thread.join().map_err(|_| anyhow::anyhow!("the measuring thread panicked"))?
    })
}

/// A role that is running.
pub(crate) struct Role {
    child: Child,
    out: BufReader<ChildStdout>,
    line: String,
}

/// What a role said and cost.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// Everything it printed that was not read before.
    pub(crate) text: String,
    /// CPU seconds of the process, spent in itself.
    pub(crate) user: f64,
    /// CPU seconds of the process, spent in the kernel for it.
    pub(crate) sys: f64,
}

impl Role {
    /// Starts this program again with `args`, pinned if a CPU is given; `by` a command that
    /// takes it as its last arguments, if one is given.
    pub(crate) fn start(by: &[String], cpu: Option<usize>, args: &[String]) -> Result<Role> {
        let me = std::env::current_exe()?;
        let mut c = match by.split_first() {
            None => Command::new(me),
            Some((program, more)) => {
                let mut c = Command::new(program);
                c.args(more).arg(me);
                c
            }
        };
        if let Some(cpu) = cpu {
            c.arg(format!("--cpu={cpu}"));
        }
        let mut child = c.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let out = BufReader::new(child.stdout.take().context("the role's output is not ours")?);
        Ok(Role { child, out, line: args.join(" ") })
    }

    /// The next line it prints.
    pub(crate) fn line(&mut self) -> Result<String> {
        let mut l = String::new();
        self.out.read_line(&mut l)?;
        Ok(l)
    }

    /// Tells it to go on: a line on its standard input.
    pub(crate) fn go(&mut self) -> Result<()> {
        Ok(self.child.stdin.as_mut().context("the role's input is not ours")?.write_all(b"\n")?)
    }

    /// Waits for its end; an exit code other than 0 is an error.
    pub(crate) fn wait(mut self) -> Result<Ended> {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.out.read_to_string(&mut text)?;
        let (code, user, sys) = wait4(&self.child)?;
        if code != 0 {
            bail!("`{}` failed with wait status {code}: {text}", self.line);
        }
        Ok(Ended { text, user, sys })
    }
}

impl Drop for Role {
    /// A role whose run failed midway is not left behind.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Wait status, user and system seconds.
#[allow(unsafe_code)]
fn wait4(child: &Child) -> Result<(i32, f64, f64)> {
    let mut status = 0;
    // SAFETY: rusage is plain numbers, for which all zeros is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let pid = i32::try_from(child.id())?;
    // SAFETY: both pointers are to live, exclusively borrowed locals of the right types.
    let got = unsafe { libc::wait4(pid, &mut status, 0, &mut usage) };
    if got != pid {
        bail!("could not wait for process {pid}: {}", std::io::Error::last_os_error());
    }
    let secs = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    Ok((status, secs(usage.ru_utime), secs(usage.ru_stime)))
}

/// CPU seconds of the whole machine so far: (spent in and for processes, stolen by the host).
pub(crate) fn machine() -> (f64, f64) {
    parse_stat(&std::fs::read_to_string("/proc/stat").unwrap_or_default())
}

fn parse_stat(text: &str) -> (f64, f64) {
    let Some(line) = text.lines().find(|l| l.starts_with("cpu ")) else { return (0.0, 0.0) };
    let f: Vec<f64> = line.split_whitespace().skip(1).filter_map(|w| w.parse().ok()).collect();
    let get = |i: usize| f.get(i).copied().unwrap_or(0.0) / 100.0;
    (get(0) + get(1) + get(2), get(7))
}

/// What this machine is, for the head of a report.
pub(crate) fn describe() -> String {
    let read = |p: &str| std::fs::read_to_string(p).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown CPU", |m| m.1.trim());
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{cpus} CPUs ({model}), Linux {}", kcm_tests::harness::kernel_release())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_of_the_machine_is_read_in_seconds() {
        let t = "cpu  100 50 25 999 9 9 9 7 0 0\ncpu0 1 2 3\n";
        assert_eq!(parse_stat(t), (1.75, 0.07));
        assert_eq!(parse_stat(""), (0.0, 0.0));
    }
}
