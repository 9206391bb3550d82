//! The target `kernel`: small generated programs, to the running kernel's verifier and to ours,
//! and what both accept is run by both.
//!
//! Every difference is explained by a row of the tables below, or is a finding. Nothing is
//! attached to any socket.

use kcm_core::bpf::insn::Insn;
use kcm_core::bpf::map::kind;
use kcm_core::bpf::program::{Program, ProgramKind};
use kcm_core::bpf::run::{Exec, Executable};
use kcm_core::bpf::verifier::{self, Options, Verified};

use super::program::{Case, Programs, rule, smaller};
use super::rng::Rng;
use super::{Fault, Fuzz, Verdict, generate, text};
use crate::kernel_bpf::{Loaded, Refusal, load};

/// Longer programs are not asked about.
const INSNS: usize = 150;

/// `if rN & rN goto`: the kernel decides it where it knows the number, ours walks both ways, of
/// which one may do what no run does. No compiler writes it, for it is a comparison with 0.
fn tests_itself(i: &Insn) -> bool {
    matches!(i.code, 0x4d | 0x4e) && i.dst == i.src
}

/// What ours accepts and a kernel rejects: a part of what the kernel says, a name for the
/// reason, and why accepting is right. What ours accepts is also run in checked mode, here and
/// by the target `program`: an access that should not have been accepted would trap.
///
/// One more reason is no row, for it can be looked up: the kernel rejects an instruction that
/// ours proved to be never reached, by a branch that it decides more exactly (signed divisions
/// are nothing to the kernel's ranges). Checked mode traps where such an instruction is reached.
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
    (
        "infinite loop detected",
        "too much for the kernel's walk",
        "the kernel takes states that are alike for a loop without end; ours meters it",
    ),
    (
        "misaligned stack access",
        "a stack access across a border of 8 bytes",
        "ours knows each byte of the stack; the machines it runs on load and store anywhere",
    ),
    (
        "cannot return stack pointer",
        "a function returns a place in its caller's frame",
        "that frame is still there; into the frame that ends ours allows none either",
    ),
    (
        "At callback return the register R0",
        "a callback that returns its round's number",
        "ours bounds that number by the number of rounds, the kernel not at all",
    ),
    (
        "math between",
        "a pointer moved by more than 2^29",
        "ours allows 2^34 either way: executors rely on no order of addresses but that of a place in \
         the message and its end, and every access is proved where it is made",
    ),
    (
        "verifier bug",
        "a fault of the kernel's own",
        "it says so itself, where a mutated program has a function that nothing leads to",
    ),
];

/// What ours rejects and a kernel accepts: a part of our rule and message (several, with ` … `
/// between), a name for the reason, and why.
pub const OURS_IS_STRICTER: &[(&str, &str, &str)] = &[
    (
        "MaybeNull",
        "a lookup that cannot fail",
        "newer kernels know that a constant index within an array is found; compilers compare \
         with null all the same",
    ),
    (
        "StackUninit",
        "stack that was not written",
        "privileged programs may read it in a kernel; here it would be what an earlier call left",
    ),
    (
        "ContextField",
        "a context field that only a kernel can answer",
        "there is no socket buffer behind a message here",
    ),
    (
        "ContextMixed",
        "context or memory at one instruction",
        "executors answer context fields by offset: each access must be one or the other",
    ),
    (
        "PointerCompare",
        "comparisons that tell an address",
        "privileged programs may learn addresses in a kernel; here none may",
    ),
    (
        "must be 0, but is a number",
        "flags of bpf_loop",
        "there are none; the kernel says so when it runs",
    ),
    ("PointerLeak", "an address that leaves the program", "as for comparisons"),
    ("PointerBytes", "an address read as a number", "as for comparisons"),
    ("PointerArithmetic", "an address made a number", "as for comparisons"),
    ("ReturnValue", "an address returned", "as for comparisons"),
    (
        "AtomicAlignment",
        "an atomic operation that is not aligned",
        "on aarch64 it would be a fault, and nowhere is it atomic for free",
    ),
    (
        "Uninit: … call bpf_trace_printk",
        "numbers of a log line that were not written",
        "the kernel takes what the registers hold, addresses too; here all three are passed, as 0 \
         where the format has no place for them",
    ),
    (
        "SizeUnbounded: … call bpf_ringbuf_reserve",
        "a record larger than any ring",
        "the kernel reserves none when it runs; ours says so when it is loaded",
    ),
    (
        "Encoding: ",
        "what is no instruction, where no path leads",
        "the kernel looks at it when a path comes there, ours before",
    ),
    (
        "TooComplex",
        "a smaller budget",
        "this target explores 50 000 instructions, the kernel a million",
    ),
];

/// The target.
pub struct Kernel;

impl Fuzz for Kernel {
    type Case = Case;

    fn make(rng: &mut Rng) -> Case {
        let mut program = loop {
            // The kernel goes a million instructions through such loops, a second each.
            let loops = rng.one_in(100);
            let p = generate::program_with(rng, loops);
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

    fn check(case: &Case, _: Option<Fault>) -> Result<Verdict, String> {
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
            (Ok(v), Err(Refusal::Rejected(_, log)))
                if [slot(&log), reserved_at(&log)]
                    .into_iter()
                    .flatten()
                    .any(|s| v.facts().reached.get(s) == Some(&false)) =>
            {
                Ok(Verdict::Accepted("code that ours proves to be dead"))
            }
            (Ok(_), Err(Refusal::Rejected(error, log))) => {
                let words = format!("{log} {error}");
                match KERNEL_IS_STRICTER.iter().find(|row| words.contains(row.0)) {
                    Some(row) => Ok(Verdict::Accepted(row.1)),
                    None => Err(say(format!("accepted here, and the kernel says {words}"))),
                }
            }
            (Err(_), Ok(_)) if case.program.insns.iter().any(tests_itself) => {
                Ok(Verdict::Refused("by ours alone: a bit test of a register with itself".into()))
            }
            (Err(e), Ok(_)) => {
                let words = format!("{}: {e}", rule(&e));
                let fits = |part: &str| part.split(" … ").all(|p| words.contains(p));
                match OURS_IS_STRICTER.iter().find(|row| fits(row.0)) {
                    Some(row) => Ok(Verdict::Refused(format!("by ours alone: {}", row.1))),
                    None => Err(say(format!("the kernel accepts it, and ours says {words}"))),
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

/// The slot of the last instruction in a kernel verifier's words.
fn slot(log: &str) -> Option<usize> {
    let slots = log.split(" | ").filter_map(|line| line.split_once(": (")?.0.trim().parse().ok());
    slots.last()
}

/// The slot at which a record was reserved that the kernel misses at the end.
fn reserved_at(log: &str) -> Option<usize> {
    log.split("alloc_insn=").nth(1)?.split(' ').next()?.parse().ok()
}

/// What makes results differ, which is no difference between the engines: helpers that tell the
/// time, chance, the processor, the connection, whether anybody listens, or what is in front of
/// the message (an Ethernet header, in a kernel's test run); maps whose contents
/// depend on the processor or on which entry is thrown out.
fn differs_by_itself(program: &Program) -> bool {
    let helper = |n| matches!(n, 5 | 6 | 7 | 8 | 25 | 46 | 68 | 125 | 160);
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
