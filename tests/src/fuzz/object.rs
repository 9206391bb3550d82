//! The target `object`: whatever is in a file, it is an object or an error.

use std::sync::OnceLock;

use kcm_core::Object;
use kcm_core::bpf::program::Program;
use kcm_core::bpf::verifier::{self, Options};
use kcm_core::object::limits;

use super::rng::Rng;
use super::{Fault, Fuzz, Verdict, pieces};
use crate::objects::{self, sound};

/// One in so many linked programs goes on to the verifier, and so many instructions far.
const VERIFIED: u64 = 16;
const BUDGET: u64 = 2_000;

// Where things are in an ELF file.
const SHOFF: usize = 40;
const SHNUM: usize = 60;
const SHDR: usize = 64;

/// A file.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is in it.
    pub bytes: Vec<u8>,
    /// Whether its programs go on to the verifier.
    pub verify: bool,
}

/// The target.
pub struct Objects;

impl Fuzz for Objects {
    type Case = Case;

    fn make(rng: &mut Rng) -> Case {
        let seeds = seeds();
        let mut bytes = seeds[rng.below(seeds.len() as u64) as usize].clone();
        if rng.one_in(200) {
            // Nothing of an object's, or no more than its first bytes.
            let n = rng.below(300) as usize;
            bytes.truncate(rng.pick(&[0, 4, 16, 64]));
            bytes.extend(rng.bytes(n));
        }
        mutate(&mut bytes, rng);
        Case { bytes, verify: rng.one_in(VERIFIED) }
    }

    fn check(case: &Case, fault: Option<Fault>) -> Result<Verdict, String> {
        if let Err(e) = Object::parse(&case.bytes) {
            return Ok(Verdict::Refused(first_words(&e.to_string())));
        }
        let mut programs = link(&case.bytes)?;
        if fault == Some(Fault::State) {
            // As of a call that is linked to one instruction further.
            for p in &mut programs {
                let call = p.insns.iter_mut().find(|i| i.code == 0x85 && i.src == 1);
                if let Some(call) = call {
                    call.imm += 1;
                }
                whole(p)?;
            }
        }
        let mut accepted = false;
        for p in programs.iter().filter(|_| case.verify) {
            // Whatever it says; running is what the target `program` is for.
            let options = Options::default().with_budget(BUDGET);
            accepted |= verifier::verify(p.clone(), &options).is_ok();
        }
        Ok(match (programs.is_empty(), accepted) {
            (true, _) => Verdict::Refused("none of its programs links".into()),
            (_, true) => Verdict::Accepted("verified"),
            (_, false) if case.verify => Verdict::Accepted("linked, refused by the verifier"),
            _ => Verdict::Accepted("linked"),
        })
    }

    fn smaller(case: &Case) -> Vec<Case> {
        let with = |bytes| Case { bytes, verify: case.verify };
        let mut all = Vec::new();
        for range in pieces(case.bytes.len()).into_iter().take(400) {
            // What follows keeps its place in the file.
            if case.bytes[range.clone()].iter().any(|b| *b != 0) {
                let mut bytes = case.bytes.clone();
                bytes[range.clone()].fill(0);
                all.push(with(bytes));
            }
            if range.end == case.bytes.len() {
                all.push(with(case.bytes[..range.start].to_vec()));
            }
        }
        all
    }

    fn write(case: &Case) -> Vec<u8> {
        case.bytes.clone()
    }

    fn read(file: &[u8]) -> Result<Case, String> {
        Ok(Case { bytes: file.to_vec(), verify: true })
    }
}

/// The committed objects, sound and unsound.
fn seeds() -> &'static [Vec<u8>] {
    static SEEDS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    SEEDS.get_or_init(|| {
        let mut all: Vec<Vec<u8>> = sound().into_iter().map(|(_, bytes)| bytes).collect();
        all.extend(objects::BUILDS.iter().map(|b| objects::bytes(b.name)));
        // The same files twice are no more likely to be of interest.
        all.sort();
        all.dedup();
        all
    })
}

/// The kind of an error: its words up to what differs from file to file.
fn first_words(text: &str) -> String {
    let words = text.split_whitespace().filter(|w| {
        w.chars().all(|c| c.is_ascii_lowercase() || ",.:;'-".contains(c)) && w.len() > 1
    });
    words.take(6).collect::<Vec<_>>().join(" ")
}

/// Loads and links whatever there is.
///
/// # Errors
/// What is wrong with a linked program, or with an error.
pub fn link(bytes: &[u8]) -> Result<Vec<Program>, String> {
    let Ok(o) = Object::parse(bytes) else { return Ok(Vec::new()) };
    let names: Vec<String> = o.programs().map(|p| p.name.to_owned()).collect();
    let mut linked = Vec::new();
    // A hostile file can name many thousand programs; some are as good as all.
    for name in names.iter().take(8) {
        match o.program(name) {
            Ok(p) => {
                whole(&p).map_err(|what| format!("{name}: {what}"))?;
                linked.push(p);
            }
            Err(e) if e.to_string().len() < 100_000 && e.errno() > 0 => {}
            Err(e) => return Err(format!("an error that is none, {}: {e}", e.errno())),
        }
    }
    Ok(linked)
}

/// What every linked program must be, whatever it was linked from.
///
/// # Errors
/// What it is not.
pub fn whole(p: &Program) -> Result<(), String> {
    let slots = p.insns.len();
    let starts = |to: i64| p.funcs.iter().any(|f| f.start as i64 == to);
    for (so, what) in [
        (slots > 0 && slots <= limits::PROGRAM_INSNS, "length"),
        (p.funcs.first().is_some_and(|f| f.start == 0), "main function"),
        (p.funcs.windows(2).all(|w| w[0].start < w[1].start), "order of functions"),
        (p.funcs.iter().all(|f| f.start < slots), "functions"),
        (p.lines.windows(2).all(|w| w[0].insn < w[1].insn), "order of lines"),
        (p.lines.iter().all(|l| l.insn < slots), "lines"),
        (p.maps.len() <= limits::PROGRAM_MAPS, "maps"),
    ] {
        if !so {
            return Err(format!("linked with an impossible {what}"));
        }
    }
    let mut slot = 0;
    while let Some(i) = p.insns.get(slot) {
        let to = slot as i64 + 1 + i64::from(i.imm);
        let wide = i.code == 0x18;
        let second = p.insns.get(slot + 1).map_or(-1, |i| i.imm);
        let so = match (i.code, i.src) {
            (0x18, 0) => slot + 1 < slots,
            (0x18, 1) => p.maps.get(i.imm as usize).is_some(),
            (0x18, 2) => p.maps.get(i.imm as usize).is_some_and(|m| (second as u32) < m.value_size),
            (0x18, 4) | (0x85, 1) => starts(to),
            (0x18, _) => false,
            _ => true,
        };
        if !so {
            return Err(format!("linked with an impossible reference at slot {slot}"));
        }
        slot += 1 + usize::from(wide);
    }
    Ok(())
}

fn get(b: &[u8], at: usize, size: usize) -> u64 {
    let mut word = [0; 8];
    if let Some(bytes) = at.checked_add(size).and_then(|end| b.get(at..end)) {
        word[..size].copy_from_slice(bytes);
    }
    u64::from_le_bytes(word)
}

/// Damages a file in some places: mostly where it hurts, in the headers, and in any section as
/// often as in any other.
pub fn mutate(b: &mut Vec<u8>, rng: &mut Rng) {
    const ODD: [u64; 12] = [
        0,
        1,
        7,
        8,
        0x7f,
        0xff,
        0xffff,
        0x7fff_ffff,
        0xffff_ffff,
        1 << 32,
        i64::MAX as u64,
        u64::MAX,
    ];
    let below = |rng: &mut Rng, n: usize| rng.below(n.max(1) as u64) as usize;
    for _ in 0..=below(rng, 4) {
        if b.len() < 64 {
            return;
        }
        let table = get(b, SHOFF, 8) as usize;
        let sections = get(b, SHNUM, 2) as usize;
        let at = match rng.below(8) {
            0 => below(rng, 64),
            1 | 2 => table.saturating_add(below(rng, sections * SHDR)),
            3..=6 => {
                let header = table.saturating_add(below(rng, sections) * SHDR);
                match header.checked_add(SHDR) {
                    Some(end) if end <= b.len() => {
                        let (start, size) = (get(b, header + 24, 8), get(b, header + 32, 8));
                        (start as usize).saturating_add(below(rng, size as usize))
                    }
                    _ => below(rng, b.len()),
                }
            }
            _ => below(rng, b.len()),
        };
        let at = if at < b.len() { at } else { below(rng, b.len()) };
        let size = 1 << rng.below(4);
        match rng.below(6) {
            0 => b[at] ^= 1 << rng.below(8),
            1 => b[at] = rng.bits() as u8,
            2 | 3 => {
                let at = at & !(size - 1);
                if at + size <= b.len() {
                    let value = match rng.below(3) {
                        0 => get(b, at, size).wrapping_add(rng.below(17)).wrapping_sub(8),
                        1 => rng.below(b.len() as u64),
                        _ => rng.pick(&ODD),
                    };
                    b[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
                }
            }
            4 => {
                let (from, n) = (below(rng, b.len()), below(rng, 64));
                let n = n.min(b.len() - from).min(b.len() - at);
                b.copy_within(from..from + n, at);
            }
            _ if rng.one_in(8) => b.truncate(at),
            _ => {}
        }
    }
}
