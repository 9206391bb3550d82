//! The target `exec`: accepted ⇒ checked mode never traps, all executors agree, it ends.

use std::sync::Arc;

use kcm_core::bpf::disasm;
use kcm_core::bpf::map::Map;
use kcm_core::bpf::program::Program;
use kcm_core::bpf::run::{Exec, Executable};
use kcm_core::bpf::verifier::{self, Options, Verified};

use super::Verdict;
use super::generate;
use super::rng::Rng;

/// One random program, perhaps mutated, and a few messages.
///
/// # Errors
/// Where an accepted program traps or the executors differ.
pub fn case(rng: &mut Rng) -> Result<Verdict, String> {
    let mut program = generate::program(rng);
    if rng.one_in(3) {
        generate::mutate(rng, &mut program);
    }
    let messages = messages(rng);
    check(program, &messages)
}

/// Messages of several lengths.
pub fn messages(rng: &mut Rng) -> Vec<Vec<u8>> {
    (0..4)
        .map(|i| {
            let len = if i == 0 { 0 } else { rng.below(80) as usize };
            rng.bytes(len)
        })
        .collect()
}

/// Holds one program to the property.
///
/// # Errors
/// Where an accepted program traps or the executors differ.
pub fn check(program: Program, messages: &[Vec<u8>]) -> Result<Verdict, String> {
    let Ok(verified) = verifier::verify(program, &Options::default().with_budget(20_000)) else {
        return Ok(Verdict::Refused);
    };
    let say = |what: String| format!("{what}\n{}", listing(&verified));
    let checked = Runner::new(&verified, Exec::Checked).map_err(say)?;
    let want: Vec<Result<u64, String>> = messages
        .iter()
        .map(|m| checked.executable.run_checked(m, 7).map_err(|trap| trap.to_string()))
        .collect();
    if let Some(Err(trap)) = want.iter().find(|w| w.is_err()) {
        return Err(say(format!("accepted, and checked mode says: {trap}")));
    }
    let left: Vec<_> = checked.maps.iter().map(|m| contents(m)).collect();
    for exec in [Exec::Interpreter, Exec::Jit] {
        if !exec.is_available() {
            continue;
        }
        let runner = Runner::new(&verified, exec).map_err(say)?;
        for (m, want) in messages.iter().zip(&want) {
            let got = runner.executable.run(m, 7);
            if Ok(got) != *want {
                let what = format!("{exec:?} says {got:#x}, checked {want:x?}, for {m:02x?}");
                return Err(say(what));
            }
        }
        for (map, want) in runner.maps.iter().zip(&left) {
            let got = contents(map);
            if got != *want {
                let name = map.name();
                return Err(say(format!(
                    "{exec:?} left {got:02x?} in {name}, checked {want:02x?}"
                )));
            }
        }
    }
    Ok(Verdict::Accepted)
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

fn listing(verified: &Verified) -> String {
    let p = verified.program();
    format!("{:?}, functions {:?}\n{}", p.kind, p.funcs, disasm::listing(p))
}
