//! What a kernel's log says when something went wrong in the kernel.

/// How lines begin, behind their time stamp, that no healthy kernel prints.
const BEGINNINGS: &[&str] = &[
    "BUG: ",
    "kernel BUG at",
    "WARNING: ",
    "Oops",
    "Kernel panic",
    "general protection fault",
    "Unable to handle",
    "divide error",
    "invalid opcode",
    "refcount_t: ",
    "list_add corruption",
    "list_del corruption",
    "UBSAN: ",
    "Internal error",
    "DEADLOCK",
];

/// What such lines hold, anywhere.
const PARTS: &[&str] = &[
    " blocked for more than ",
    "soft lockup",
    "hard LOCKUP",
    "detected stalls",
    "self-detected stall",
    "possible circular locking",
    "possible recursive locking",
    "inconsistent lock state",
    "suspicious RCU usage",
    "scheduling while atomic",
    "sleeping function called from invalid context",
    "double fault",
    "stack-protector",
];

/// Lines that look alike and are none, each with its reason.
const HARMLESS: &[&str] = &[
    "WARNING: Spectre v2 mitigation leaves", // what the boot says of an emulated processor
];

/// How many lines after a failure's first are shown with it: registers and the call trace.
const CONTEXT: usize = 45;

/// Each failure in the log, with the lines that follow it.
pub(crate) fn failures(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().map(|l| l.trim_end_matches('\r')).collect();
    let mut out: Vec<String> = Vec::new();
    let mut shown = 0;
    for (i, line) in lines.iter().enumerate() {
        // What follows a failure (RIP, a second "Oops" of the same) belongs to it.
        if i >= shown && is_failure(line) {
            shown = lines.len().min(i + CONTEXT);
            out.push(lines[i..shown].join("\n"));
        }
    }
    out
}

fn is_failure(line: &str) -> bool {
    let said = message(line);
    !HARMLESS.iter().any(|h| said.contains(h))
        && (BEGINNINGS.iter().any(|b| said.starts_with(b))
            || PARTS.iter().any(|p| said.contains(p)))
}

/// The line without its time stamp: "[    1.234567] ...", with a "T12" or "C0" in it if the
/// kernel names the caller.
fn message(line: &str) -> &str {
    match line.strip_prefix('[').and_then(|l| l.split_once(']')) {
        Some((_, rest)) => {
            let rest = rest.trim_start();
            // A caller in brackets of its own: "[    T12] ".
            match rest.strip_prefix('[').and_then(|l| l.split_once(']')) {
                Some((_, rest)) => rest.trim_start(),
                None => rest,
            }
        }
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kernel_says_of_its_own_faults_is_found_with_its_trace() {
        let log = "[    0.1] Linux version 6.12\n\
                   [   12.345678] kernel BUG at net/ipv4/tcp_input.c:5300!\n\
                   [   12.345679] Call Trace:\n\
                   [   12.345680]  tcp_collapse+0x1\n";
        let f = failures(log);
        assert_eq!(f.len(), 1);
        assert!(f[0].contains("tcp_collapse"), "{f:?}");
        for line in [
            "[    9.1] BUG: kernel NULL pointer dereference, address: 0000000000000008",
            "[    9.1] WARNING: CPU: 0 PID: 77 at net/kcm/kcmsock.c:1 kcm_release+0x1/0x2 [kcm]",
            "[    9.1][   T77] WARNING: possible circular locking dependency detected",
            "[    9.1] INFO: task kworker/0:1:13 blocked for more than 60 seconds.",
            "[    9.1] watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [x:77]",
            "[    9.1] rcu: INFO: rcu_preempt self-detected stall on CPU",
            "[    9.1] refcount_t: underflow; use-after-free.",
            "[    9.1] Kernel panic - not syncing: Fatal exception",
        ] {
            assert_eq!(failures(line).len(), 1, "{line}");
        }
    }

    #[test]
    fn two_faults_that_lie_apart_are_two_and_one_with_its_echo_is_one() {
        let far = "[ 1.0] fine\n".repeat(100);
        let bug = "[ 1.0] BUG: a\n[ 1.0] Oops: 0002 [#1] PREEMPT SMP\n";
        assert_eq!(failures(bug).len(), 1);
        assert_eq!(failures(&format!("{bug}{far}{bug}")).len(), 2);
    }

    #[test]
    fn a_healthy_boot_has_no_failures() {
        for line in [
            "[    0.0] Linux version 6.1.0-50-cloud-amd64 (debian-kernel@lists.debian.org)",
            "[    0.0] tsc: Marking TSC unstable due to TSCs unsynchronized",
            "[    0.0] NMI watchdog: Perf NMI watchdog permanently disabled",
            "[    0.0] Spectre V2 : WARNING: Spectre v2 mitigation leaves CPU vulnerable",
            "[    0.0] Spectre V2 : Mitigation: Retpolines",
            "[    0.0] ACPI BIOS debugging: no",
        ] {
            assert_eq!(failures(line), Vec::<String>::new(), "{line}");
        }
    }
}
