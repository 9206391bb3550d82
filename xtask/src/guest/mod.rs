//! `cargo xtask guest`: this project's own programs on a Debian kernel under qemu.
//!
//! What may take a kernel down is run here and nowhere else: the guest has no disk, no network
//! and nothing of the host but copies of files in an initramfs, it runs as an ordinary process
//! with a time limit, and its kernel log is read afterwards for whatever a kernel says when
//! something went wrong in it.

mod boot;
mod image;
mod kernel;
mod log;
mod programs;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::bench::target_dir;
use crate::sh::{Cmd, root, which};
use crate::{apt, oracle};
use boot::Machine;
use programs::Step;

/// Options of the verb.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The kernel, as Debian packages it
    #[arg(long, value_enum, default_value_t = kernel::Series::V6_12)]
    kernel: kernel::Series,
    /// The guest is ended after so many seconds, whatever it does (default: 1200, and 5400 for
    /// kernel-engine, whose load alone may take an hour on a busy machine)
    #[arg(long)]
    seconds: Option<u64>,
    /// How the guest's processor is made. `tcg` translates its instructions: slow, and can harm
    /// nothing. `kvm` needs /dev/kvm, and trusts the host's kernel with it
    #[arg(long, value_enum, default_value_t = boot::Accel::Tcg)]
    accel: boot::Accel,
    /// Memory of the guest, in MiB
    #[arg(long, default_value_t = 1536)]
    memory: u32,
    /// Processors of the guest
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// Tests of tests/tests by name (receive, attach, ...), or one of: oracle (the scenarios on
    /// this kernel's AF_KCM), bench-kcm (that AF_KCM beside this product), kernel-engine (this
    /// product's kernel engine: its load and the tests of tests/tests on it), bench-engines
    #[arg(required = true)]
    what: Vec<String>,
    /// Write the oracle's answers of this kernel anew
    #[arg(long)]
    update: bool,
    /// For the programs: test filters, options of the benchmark
    #[arg(last = true)]
    more: Vec<String>,
}

/// Boots and runs.
pub(crate) fn run(args: Args) -> Result<()> {
    let (ended, verdict) = boot(&args)?;
    let answers = args.what.iter().any(|w| w == "oracle").then(|| {
        let out = ended.output.join("\n") + "\n";
        oracle::of_guest(args.kernel.name(), &out, &args.more, args.update)
    });
    verdict.and(answers.unwrap_or(Ok(())))
}

/// Lets the newest kernel's KCM and this product receive the same messages; what was printed.
pub(crate) fn bench_kcm(more: Vec<String>) -> Result<Vec<String>> {
    let args = Args {
        kernel: kernel::Series::V6_12,
        seconds: None,
        accel: boot::Accel::Tcg,
        memory: 1536,
        cpus: 2,
        what: vec!["bench-kcm".into()],
        update: false,
        more,
    };
    let (ended, verdict) = boot(&args)?;
    verdict?;
    Ok(ended.output)
}

/// Boots, runs, and judges how it went.
fn boot(args: &Args) -> Result<(boot::Ended, Result<()>)> {
    let (init, steps) = programs::build(&args.what, &args.more)?;
    let kernel = kernel::get(args.kernel)?;
    let dir = target_dir()?.join("guest");
    let image = image::build(&kernel, &init, &steps, &dir)?;
    let long = args.what.iter().any(|w| w == "kernel-engine");
    let machine = Machine {
        qemu: qemu()?,
        accel: args.accel,
        memory: args.memory,
        cpus: args.cpus,
        seconds: args.seconds.unwrap_or(if long { 5400 } else { 1200 }),
        log: dir.join(format!("kernel-{}.log", args.kernel.name())),
    };
    let ended = machine.run(&kernel, &image)?;
    let verdict = judge(&kernel.release, &machine, &ended, &steps);
    Ok((ended, verdict))
}

/// Everything that went wrong, the kernel's failures first and with the log.
fn judge(release: &str, machine: &Machine, ended: &boot::Ended, steps: &[Step]) -> Result<()> {
    let text = std::fs::read(&machine.log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let failures = log::failures(&text);
    if !failures.is_empty() {
        eprintln!("\nKERNEL FAILURE: Linux {release} said, in {}:", machine.log.display());
        for f in &failures {
            eprintln!("{f}\n");
        }
    }
    let mut wrong: Vec<String> = Vec::new();
    if let Some(first) = failures.first().and_then(|f| f.lines().next()) {
        wrong.push(format!("{} kernel failures, the first: {first}", failures.len()));
    }
    wrong.extend(ended.stuck.iter().map(|s| format!("stuck in the kernel: {s}")));
    for s in steps {
        match ended.exits.iter().find(|(name, _)| *name == s.name) {
            Some((_, how)) if how == "exit 0" => {}
            Some((_, how)) => wrong.push(format!("{}: {how}", s.name)),
            None => wrong.push(format!("{}: did not end", s.name)),
        }
    }
    if ended.late {
        wrong.push(format!("the guest was ended after {} seconds", machine.seconds));
    } else if !ended.done && failures.is_empty() {
        wrong.push("the guest ended before its work, without a word of its kernel".into());
    }
    if !wrong.is_empty() {
        if !ended.done && failures.is_empty() {
            eprintln!("\nThe end of the kernel's log, {}:", machine.log.display());
            let lines: Vec<&str> = text.lines().collect();
            for l in &lines[lines.len().saturating_sub(25)..] {
                eprintln!("{l}");
            }
        }
        bail!("on Linux {release}: {}", wrong.join("; "));
    }
    let lines = text.lines().count();
    eprintln!(
        "Linux {release}: {} programs ended well; {lines} lines of kernel log, none of a bug, a \
         warning or a hang",
        steps.len()
    );
    Ok(())
}

fn qemu() -> Result<PathBuf> {
    const PROGRAM: &str = "qemu-system-x86_64";
    if which(PROGRAM).is_none() {
        apt::install(&["qemu-system-x86"])?;
    }
    which(PROGRAM).with_context(|| format!("qemu-system-x86 has no {PROGRAM}"))
}

/// A folder that is there and empty.
fn empty(dir: &std::path::Path) -> Result<()> {
    if dir.exists() {
        std::fs::remove_dir_all(dir).with_context(|| format!("could not empty {dir:?}"))?;
    }
    std::fs::create_dir_all(dir).with_context(|| format!("could not make {dir:?}"))
}

/// Decompresses a file, if it is compressed, to its bytes.
fn unpacked(path: &std::path::Path) -> Result<Vec<u8>> {
    let read = || std::fs::read(path).with_context(|| format!("could not read {path:?}"));
    if path.extension().is_none_or(|e| e != "xz") {
        return read();
    }
    if which("xz").is_none() {
        apt::install(&["xz-utils"])?;
    }
    let to = root().join("target/guest/unpacked.ko");
    let out = std::fs::File::create(&to)?;
    let done = std::process::Command::new("xz").arg("-dc").arg(path).stdout(out).status()?;
    if !done.success() {
        bail!("xz could not unpack {path:?}");
    }
    let bytes = std::fs::read(&to)?;
    std::fs::remove_file(&to)?;
    Ok(bytes)
}

/// The interpreter and the libraries of a program, as the host's loader finds them.
fn libraries(program: &std::path::Path) -> Result<Vec<PathBuf>> {
    let text = Cmd::new("ldd").arg(program).quiet().read()?;
    Ok(programs::ldd(&text))
}
