//! What the kernel engine says when a privilege is missing. A process of its own: a parser that
//! another test has in the kernel would not be loaded again.

use kcm_core::kernel::{Error, probe};
use kcm_tests::kernel_engine::{available, drop_capabilities};

#[test]
fn each_missing_capability_is_named_with_what_to_grant() {
    if !available() {
        return;
    }
    // CAP_SYS_ADMIN stands for the others and has to go too.
    for (bit, name) in [(39, "CAP_BPF"), (12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON")] {
        let asked = std::thread::spawn(move || {
            drop_capabilities(&[21, bit]).unwrap();
            probe()
        });
        let error = asked.join().unwrap().unwrap_err();
        let text = error.to_string();
        let Error::Privileges { missing, .. } = &error else { panic!("{name}: {text}") };
        let names: Vec<&str> = missing.iter().map(|c| c.name()).collect();
        assert_eq!(names, [name], "{text}");
        assert_eq!(error.errno(), libc::EPERM);
        assert!(text.contains("setcap cap_bpf,cap_net_admin,cap_perfmon+ep"), "{text}");
    }
    // An unprivileged process lacks them all, and hears of all at once.
    let asked = std::thread::spawn(|| {
        drop_capabilities(&[21, 39, 12, 38]).unwrap();
        probe()
    });
    let text = asked.join().unwrap().unwrap_err().to_string();
    for part in ["CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON", "setcap ", "Engine::Process"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // The three are all it takes.
    let without = std::thread::spawn(|| {
        drop_capabilities(&[21]).unwrap();
        probe().map(|report| report.steps.len())
    });
    assert_eq!(without.join().unwrap().unwrap(), 5);
}
