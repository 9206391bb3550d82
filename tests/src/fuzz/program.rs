//! The target `program`: accepted ⇒ checked mode never traps, all executors agree, it ends.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use kcm_core::bpf::insn::Insn;
use kcm_core::bpf::map::Map;
use kcm_core::bpf::program::Program;
use kcm_core::bpf::run::{Exec, Executable};
use kcm_core::bpf::verifier::{self, Fuel, Options, Verified, VerifyError};

use super::rng::Rng;
use super::{Fault, Fuzz, Verdict, generate, pieces, text};
use crate::objects;

/// One in so many programs is compiled, unless [`compile_one_in`] says otherwise: compiling takes a
/// hundred times as long as the rest.
static COMPILED: AtomicU64 = AtomicU64::new(50);

/// Compiles one program in so many, from now on; which ones is told by their seeds.
pub fn compile_one_in(n: u64) {
    COMPILED.store(n.max(1), Relaxed);
}

/// Instructions the verifier may explore.
const BUDGET: u64 = 2_500;

/// Back edges a run may take: enough for loops to come to their ends, and soon used up where
/// they do not.
const FUEL: u64 = 100;

/// A program and what it is run on.
#[derive(Clone, Debug)]
pub struct Case {
    /// The program, unverified.
    pub program: Program,
    /// Messages, run one after another with the same maps.
    pub messages: Vec<Vec<u8>>,
    /// Whether it is compiled too.
    pub jit: bool,
    /// What the verifier must say, where that is known.
    pub expect: Option<String>,
}

/// The target.
pub struct Programs;

impl Fuzz for Programs {
    type Case = Case;

    fn make(rng: &mut Rng) -> Case {
        let mut case = make(rng);
        case.jit = rng.one_in(COMPILED.load(Relaxed));
        case
    }

    fn check(case: &Case, fault: Option<Fault>) -> Result<Verdict, String> {
        let expect = case.expect.as_deref();
        match verify(&case.program) {
            Ok(_) if expect.is_some_and(|rule| rule != "accepted") => {
                Err(format!("accepted, which should be refused: {}", expect.unwrap_or_default()))
            }
            Ok(verified) => run(&verified, case, fault),
            Err(e) => match rule(&e) {
                rule if expect.is_none_or(|known| known == rule) => Ok(Verdict::Refused(rule)),
                rule => Err(format!("expected {}, it is {rule}: {e}", expect.unwrap_or_default())),
            },
        }
    }

    fn smaller(case: &Case) -> Vec<Case> {
        smaller(case)
    }

    fn write(case: &Case) -> Vec<u8> {
        text::write(&case.program, &case.messages).into_bytes()
    }

    fn read(file: &[u8]) -> Result<Case, String> {
        let text::File { program, mut messages, expect } = text::read(file)?;
        if messages.is_empty() {
            let mut rng = Rng::new(1);
            messages = (0..40).map(|n| rng.bytes(n)).collect();
        }
        Ok(Case { program, messages, jit: true, expect })
    }
}

/// A generated program, or one that a compiler wrote; often mutated.
pub fn make(rng: &mut Rng) -> Case {
    let seeded = rng.one_in(8);
    let mut program = if seeded {
        let seeds = seeds();
        seeds[rng.below(seeds.len() as u64) as usize].clone()
    } else {
        generate::program(rng)
    };
    if seeded || rng.one_in(3) {
        generate::mutate(rng, &mut program);
    }
    let messages = (0..4)
        .map(|i| {
            let len = if i == 0 { 0 } else { rng.below(80) as usize };
            rng.bytes(len)
        })
        .collect();
    Case { program, messages, jit: false, expect: None }
}

/// Small programs of the committed objects.
fn seeds() -> &'static [Program] {
    static SEEDS: OnceLock<Vec<Program>> = OnceLock::new();
    SEEDS.get_or_init(|| {
        let mut all: Vec<Program> = objects::programs().into_iter().map(|(_, p)| p).collect();
        all.retain(|p| p.insns.len() <= 400 && verify(p).is_ok());
        for p in &mut all {
            p.lines.clear();
        }
        all
    })
}

/// Verifies as this target does.
///
/// # Errors
/// The rule that is broken.
pub fn verify(program: &Program) -> Result<Verified, Box<VerifyError>> {
    let options = Options::default().with_budget(BUDGET).with_fuel(FUEL);
    verifier::verify(program.clone(), &options)
}

/// The name of the rule that a program broke.
pub fn rule(e: &VerifyError) -> String {
    let text = format!("{:?}", e.rule);
    text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
}

/// Holds an accepted program to the property.
fn run(verified: &Verified, case: &Case, fault: Option<Fault>) -> Result<Verdict, String> {
    let say = |what: String| format!("{what}\n{}", text::write(&case.program, &case.messages));
    let checked = Runner::new(verified, Exec::Checked).map_err(say)?;
    let mut want = Vec::new();
    for m in &case.messages {
        match checked.executable.run_checked(m, 7) {
            Ok(r0) => want.push(r0),
            Err(trap) => return Err(say(format!("accepted, and checked mode says: {trap}"))),
        }
    }
    let left: Vec<_> = checked.maps.iter().map(|m| contents(m)).collect();
    for exec in [Exec::Interpreter, Exec::Jit] {
        if !exec.is_available() || exec == Exec::Jit && !case.jit {
            continue;
        }
        let runner = Runner::new(verified, exec).map_err(say)?;
        for (m, want) in case.messages.iter().zip(&want) {
            let mut got = runner.executable.run(m, 7);
            if fault == Some(Fault::Result) {
                // As of a 32-bit operation that should have been a 64-bit one.
                got = u64::from(got as u32);
            }
            if got != *want {
                if differs_by_itself(verified) {
                    return Ok(Verdict::Accepted("tells the time, so not compared"));
                }
                let what = format!("{exec:?} says {got:#x}, checked {want:#x}, for {m:02x?}");
                return Err(say(what));
            }
        }
        for (map, want) in runner.maps.iter().zip(&left) {
            let mut got = contents(map);
            if fault == Some(Fault::State)
                && let Some(byte) = got.first_mut().and_then(|(_, value)| value.last_mut())
            {
                // As of a store that is a byte too short.
                *byte = 0;
            }
            if got != *want && !differs_by_itself(verified) {
                let name = map.name();
                return Err(say(format!(
                    "{exec:?} left {got:02x?} in {name}, checked {want:02x?}"
                )));
            }
        }
    }
    let out = -i64::from(libc::ELOOP) as u64;
    Ok(Verdict::Accepted(match verified.facts().fuel {
        Fuel::NotNeeded if case.jit => "compiled too",
        Fuel::NotNeeded => "every path known",
        Fuel::Metered { .. } if want.contains(&out) => "metered, ran out",
        Fuel::Metered { .. } => "metered, ended",
    }))
}

/// Whether the program asks for what is another in every run: the time, chance, the processor.
/// Generated ones throw it away, but a mutation may have taken that out.
fn differs_by_itself(verified: &Verified) -> bool {
    let asks = |helper| matches!(helper, 5 | 7 | 8 | 125 | 160);
    verified.facts().calls.iter().flatten().any(|c| asks(c.helper))
}

struct Runner {
    executable: Executable,
    maps: Vec<Arc<Map>>,
}

impl Runner {
    fn new(verified: &Verified, exec: Exec) -> Result<Self, String> {
        let maps = Executable::make_maps(verified).map_err(|e| e.to_string())?;
        let executable = Executable::new(verified.clone(), maps.clone(), exec)
            .map_err(|e| format!("accepted, and {exec:?} cannot lower it: {e}"))?;
        Ok(Runner { executable, maps })
    }
}

/// What programs left in a map: records, or keys and values.
fn contents(map: &Map) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    let mut record = Vec::new();
    while map.read_record(&mut record) == Ok(true) {
        all.push((Vec::new(), record.clone()));
    }
    let mut keys = map.keys();
    keys.sort();
    // What a full LRU map threw out is not promised: only how many it has.
    let lru = map.name().starts_with("lru");
    all.extend(keys.into_iter().map(|k| {
        let value = map.get(&k).ok().flatten().unwrap_or_default();
        if lru { Default::default() } else { (k, value) }
    }));
    all
}

/// Nothing, as an instruction.
const NOP: Insn = Insn { code: 0x05, dst: 0, src: 0, off: 0, imm: 0 };

/// Fewer messages, shorter ones, fewer instructions.
pub fn smaller(case: &Case) -> Vec<Case> {
    let mut all = Vec::new();
    if case.messages.len() > 1 {
        for range in pieces(case.messages.len()) {
            let mut c = case.clone();
            c.messages.drain(range);
            all.push(c);
        }
    }
    for (n, m) in case.messages.iter().enumerate() {
        if !m.is_empty() {
            let mut c = case.clone();
            c.messages[n].truncate(m.len() / 2);
            all.push(c);
        }
    }
    all.extend(compacted(&case.program).map(|program| Case { program, ..case.clone() }));
    for range in pieces(case.program.insns.len()) {
        let mut c = case.clone();
        let insns = &mut c.program.insns;
        // Not half of a wide one.
        let torn = |at: usize| at > 0 && insns.get(at - 1).is_some_and(|i| i.code == 0x18);
        if torn(range.start) || torn(range.end) || insns[range.clone()].iter().all(|i| *i == NOP) {
            continue;
        }
        insns[range].fill(NOP);
        all.push(c);
    }
    all
}

/// The program without instructions that do nothing, if there are any.
fn compacted(program: &Program) -> Option<Program> {
    let insns = &program.insns;
    let wide = |at: usize| at > 0 && insns[at - 1].code == 0x18;
    // Where each slot goes; functions keep their first.
    let mut to = Vec::with_capacity(insns.len() + 1);
    let mut kept = Vec::new();
    for (at, i) in insns.iter().enumerate() {
        to.push(kept.len());
        if *i != NOP || wide(at) || program.funcs.iter().any(|f| f.start == at) {
            kept.push(at);
        }
    }
    to.push(kept.len());
    if kept.len() == insns.len() {
        return None;
    }
    let mut p = program.clone();
    let target = |at: usize, by: i64| -> Option<i64> {
        let old = usize::try_from(at as i64 + 1 + by).ok()?;
        Some(*to.get(old)? as i64 - to[at] as i64 - 1)
    };
    p.insns.clear();
    for at in kept {
        let mut i = insns[at];
        let jump = matches!(i.code & 7, 5 | 6) && !matches!(i.code & 0xf0, 0x80 | 0x90);
        match (i.code, i.src) {
            (0x06, _) | (0x85, 1) | (0x18, 4) if !wide(at) => {
                i.imm = target(at, i.imm.into())? as i32;
            }
            _ if jump && !wide(at) => i.off = target(at, i.off.into())? as i16,
            _ => {}
        }
        p.insns.push(i);
    }
    for f in &mut p.funcs {
        f.start = to[f.start];
    }
    Some(p)
}
