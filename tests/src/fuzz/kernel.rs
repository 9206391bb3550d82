//! The target `kernel`: small generated programs, to the running kernel's verifier and to ours,
//! and what both accept is run by both.
//!
//! Every difference is explained by a row of the tables below, or is a finding. Nothing is
//! attached to any socket.

use kcm_core::bpf::map::kind;
use kcm_core::bpf::program::{Program, ProgramKind};
use kcm_core::bpf::run::{Exec, Executable};
use kcm_core::bpf::verifier::{self, Options, Verified};

use super::program::{Case, Programs, rule, smaller};
use super::rng::Rng;
use super::{Fuzz, Verdict, generate, text};
use crate::kernel_bpf::{Loaded, Refusal, load};

/// Longer programs are not asked about.
const INSNS: usize = 150;

/// What ours accepts and a kernel rejects: a part of what the kernel says, a name for the
/// reason, and why accepting is right. What ours accepts is also run in checked mode, here and
/// by the target `program`: an access that should not have been accepted would trap.
pub const KERNEL_IS_STRICTER: &[(&str, &str, &str)] = &[
    (
        "unreachable insn",
        "the kernel wants no dead code",
        "code that no path reaches is never translated here",
    ),
    (
        "BPF program is too large",
        "too much for the kernel's walk",
        "the kernel goes through such loops round by round and gives up; ours widens them: every \
         access stays proved, and the rounds are metered",
    ),
    (
        "program of this type cannot use helper",
        "a helper of the other kind of program",
        "ours has one list of helpers for both kinds: what they do is the same",
    ),
    ("too complex", "too much for the kernel's walk", "as before"),
];

/// What ours rejects and a kernel accepts: our rule, a name for the reason, and why.
pub const OURS_IS_STRICTER: &[(&str, &str, &str)] = &[];

/// The target.
pub struct Kernel;

impl Fuzz for Kernel {
    type Case = Case;

    fn make(rng: &mut Rng) -> Case {
        let mut program = loop {
            let p = generate::program(rng);
            if p.insns.len() <= INSNS {
                break p;
            }
        };
        if rng.one_in(3) {
            generate::mutate(rng, &mut program);
        }
        let messages = (0..3)
            .map(|_| {
                let len = 1 + rng.below(60) as usize;
                rng.bytes(len)
            })
            .collect();
        Case { program, messages, jit: false, expect: None }
    }

    fn check(case: &Case) -> Result<Verdict, String> {
        let say = |what: String| format!("{what}\n{}", text::write(&case.program, &case.messages));
        let options = Options::default().with_budget(50_000);
        let ours = verifier::verify(case.program.clone(), &options);
        let filter = case.program.kind == ProgramKind::SocketFilter;
        let theirs = load(&case.program, filter);
        match (ours, theirs) {
            (_, Err(Refusal::CannotAsk(e))) => Err(format!("this kernel cannot be asked: {e}")),
            (_, Err(Refusal::Map(..))) => Ok(Verdict::Refused("a map it cannot make".into())),
            (Ok(v), Ok(loaded)) if filter => run(case, &v, &loaded).map_err(say),
            (Ok(_), Ok(_)) => Ok(Verdict::Accepted("by both")),
            (Err(_), Err(_)) => Ok(Verdict::Refused("by both".into())),
            (Ok(_), Err(Refusal::Rejected(error, log))) => {
                let words = format!("{log} {error}");
                match KERNEL_IS_STRICTER.iter().find(|row| words.contains(row.0)) {
                    Some(row) => Ok(Verdict::Accepted(row.1)),
                    None => Err(say(format!("accepted here, and the kernel says {words}"))),
                }
            }
            (Err(e), Ok(_)) => {
                let rule = rule(&e);
                match OURS_IS_STRICTER.iter().find(|row| row.0 == rule) {
                    Some(row) => Ok(Verdict::Refused(format!("by ours alone: {}", row.1))),
                    None => Err(say(format!("the kernel accepts it, and ours says {rule}: {e}"))),
                }
            }
        }
    }

    fn smaller(case: &Case) -> Vec<Case> {
        smaller(case)
    }

    fn write(case: &Case) -> Vec<u8> {
        Programs::write(case)
    }

    fn read(file: &[u8]) -> Result<Case, String> {
        Programs::read(file)
    }
}

/// What makes results differ, which is no difference between the engines: helpers that tell the
/// time, chance, the processor, the connection, or whether anybody listens; maps whose contents
/// depend on the processor or on which entry is thrown out.
fn differs_by_itself(program: &Program) -> bool {
    let helper = |n| matches!(n, 5 | 6 | 7 | 8 | 25 | 46 | 125 | 160);
    let map = |k| {
        matches!(k, kind::PERCPU_ARRAY | kind::PERCPU_HASH | kind::LRU_HASH | kind::LRU_PERCPU_HASH)
    };
    program.insns.iter().any(|i| match (i.code, i.src) {
        (0x85, 0) => helper(i.imm),
        (0x18, 1 | 2) => program.maps.get(i.imm as usize).is_some_and(|m| map(m.kind)),
        _ => false,
    })
}

/// Runs by both, message after message.
fn run(case: &Case, verified: &Verified, loaded: &Loaded) -> Result<Verdict, String> {
    let maps = Executable::make_maps(verified).map_err(|e| e.to_string())?;
    let ours = Executable::new(verified.clone(), maps, Exec::Checked).map_err(|e| e.to_string())?;
    let compared = !differs_by_itself(verified.program());
    for message in &case.messages {
        let our = ours.run_checked(message, 0).map_err(|trap| format!("checked mode: {trap}"))?;
        let their = loaded.run(message).map_err(|e| format!("the kernel cannot run it: {e}"))?;
        if compared && our as u32 != their {
            return Err(format!("r0 is {our:#x}, in the kernel {their:#x}, for {message:02x?}"));
        }
    }
    Ok(Verdict::Accepted(if compared { "by both, with the same results" } else { "by both, run" }))
}
