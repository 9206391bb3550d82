//! Running qemu: the guest's output streamed, its kernel log kept, its time limited.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::kernel::Kernel;

/// What executes the guest's instructions.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accel {
    /// qemu, by translation
    Tcg,
    /// The processor, through /dev/kvm
    Kvm,
}

/// The virtual machine.
pub(crate) struct Machine {
    pub(crate) qemu: PathBuf,
    pub(crate) accel: Accel,
    pub(crate) memory: u32,
    pub(crate) cpus: u32,
    pub(crate) seconds: u64,
    /// Where the kernel's log goes.
    pub(crate) log: PathBuf,
}

/// How a run ended.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// Every line that the programs printed.
    pub(crate) output: Vec<String>,
    /// Step and how it ended: "exit 0", "signal 6", "time limit".
    pub(crate) exits: Vec<(String, String)>,
    /// Processes that could not be ended.
    pub(crate) stuck: Vec<String>,
    /// The guest came to the end of its plan.
    pub(crate) done: bool,
    /// It was ended by the time limit.
    pub(crate) late: bool,
}

/// The first words of the lines in which the guest's first process reports.
const MARK: &str = "=== guest ";

/// The kernel's command line. The log goes to the first serial port, all of it; an oops ends
/// the guest at once (what comes after one means nothing), and a panic ends qemu. An emulated
/// processor on a busy host is slow: only much longer waits than usual are called hangs, and
/// the timer is not tested at boot, where ticks that come late are taken for a broken one.
const COMMAND_LINE: &str = "console=ttyS0 no_timer_check ignore_loglevel panic=-1 oops=panic no5lvl \
    watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=120 workqueue.watchdog_thresh=120 \
    rdinit=/init";

impl Machine {
    /// Boots the kernel with the image and stays until the guest has ended.
    pub(crate) fn run(&self, kernel: &Kernel, image: &Path) -> Result<Ended> {
        let mut c = Command::new("timeout");
        // `timeout` holds the limit even where this process is killed.
        c.args(["--foreground", "--kill-after=5", &self.seconds.to_string()]);
        c.args(["nice", "-n", "5"]).arg(&self.qemu);
        c.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        c.args(["-nic", "none", "-monitor", "none"]);
        c.args(["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny"]);
        match self.accel {
            Accel::Tcg => c.args(["-accel", "tcg,thread=multi", "-cpu", "max"]),
            Accel::Kvm => c.args(["-accel", "kvm", "-cpu", "host"]),
        };
        c.args(["-m", &self.memory.to_string(), "-smp", &self.cpus.to_string()]);
        c.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(image);
        c.args(["-append", COMMAND_LINE]);
        c.arg("-chardev").arg(format!("file,id=log,path={}", self.log.display()));
        c.args(["-serial", "chardev:log"]);
        c.args(["-chardev", "stdio,id=out,signal=off", "-serial", "chardev:out"]);
        eprintln!("$ {} ... -kernel {}", self.qemu.display(), kernel.image.display());
        eprintln!("  Linux {}, its log in {}", kernel.release, self.log.display());
        let mut child = c
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("could not start qemu (through `timeout` and `nice`)")?;
        let out = child.stdout.take().context("qemu's output is not ours")?;
        let mut ended = Ended::default();
        let mut lines = BufReader::new(out);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).context("qemu's output")? > 0 {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            println!("{text}");
            std::io::stdout().flush()?;
            ended.note(text);
            line.clear();
        }
        let status = child.wait()?;
        ended.late = matches!(status.code(), Some(124 | 137));
        Ok(ended)
    }
}

impl Ended {
    fn note(&mut self, line: String) {
        if let Some(said) = line.strip_prefix(MARK) {
            match said.split_once(' ') {
                Some(("end", what)) => {
                    if let Some((name, how)) = what.split_once(": ") {
                        let how = how.split(" (").next().unwrap_or(how);
                        self.exits.push((name.to_owned(), how.to_owned()));
                    }
                }
                Some(("stuck", what)) => self.stuck.push(what.to_owned()),
                _ => self.done |= said == "done",
            }
        }
        self.output.push(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_s_reports_are_told_from_its_programs_output() {
        let mut e = Ended::default();
        for l in [
            "=== guest begin receive",
            "test a ... ok",
            "=== guest end receive: exit 101 (3.2 s)",
            "=== guest stuck 77 soak D",
            "=== guest done",
        ] {
            e.note(l.into());
        }
        assert_eq!(e.exits, [("receive".into(), "exit 101".into())]);
        assert_eq!(e.stuck, ["77 soak D"]);
        assert!(e.done);
        assert_eq!(e.output.len(), 5);
    }
}
