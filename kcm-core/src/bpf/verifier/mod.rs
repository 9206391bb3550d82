//! The verifier: decides whether a program can run without any check at run time.
//!
//! # What is proved
//! For every run of a verified program, on any message, from any thread:
//! - every load and store is within the message (read-only), a context field that exists
//!   ([`context`]), initialised stack, a map value, or a reserved record;
//! - no register or stack byte is read before it was written; no address leaves the program
//!   (result, maps, records, helpers' numbers) or decides a branch;
//! - helpers get what their prototypes say, memory arguments within bounds whatever the region;
//! - reserved records are submitted or discarded exactly once;
//! - at most 512 bytes of stack, 8 frames, no recursion;
//! - it ends: proved, or metered on backward jumps ([`Fuel::Metered`]).
//!
//! # What executors must hold to
//! - Frames, map values and records begin at multiples of 8.
//! - A helper that fills memory (`skb_load_bytes`) fills all of it, with zeros where it fails.
//! - A message has at most `u32::MAX` bytes.
//! - Division by zero gives 0, remainder by zero the dividend, shifts count modulo the width.
#![forbid(unsafe_code)]

mod calls;
pub mod context;
mod ends;
mod error;
mod explore;
mod facts;
mod memory;
mod needs;
mod scalar;
mod state;
mod step;
mod structure;
mod tnum;
mod trace;
mod widen;

#[cfg(test)]
mod scalar_props;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod weak;

pub use error::{Rule, VerifyError};
pub use facts::{CallFact, FUEL, Facts, Fuel, Region, Taken};
pub use trace::Trace;

use explore::{Explorer, Mode};
use scalar::Scalar;
use state::{Kind, Reg};
use structure::Code;

use super::program::Program;

/// BPF_MAP_TYPE_ARRAY.
const MAP_ARRAY: u32 = 2;
/// BPF_F_RDONLY_PROG.
const MAP_RDONLY: u32 = 1 << 7;
/// BPF_F_WRONLY_PROG.
const MAP_WRONLY: u32 = 1 << 8;
/// Instructions to walk before loops are widened: enough for header parsers, and for a loop
/// with a wrong access to be told so with exact ranges.
const FIRST_WALK: u64 = 2_000;
/// Instructions to walk with all kept that may show that loops end, before they are metered.
const FIRST_FORGET: u64 = 10_000;
/// The helper `bpf_map_delete_elem`.
const MAP_DELETE: u32 = 3;
/// The helper `bpf_loop`.
const BPF_LOOP: u32 = 181;

/// What a program starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Entry {
    /// r1 = the context: parsers.
    #[default]
    Context,
    /// r1 = the value of this map (writable memory of its value size), r2 = that size: for
    /// running conformance suites and plain BPF functions.
    Buffer {
        /// Index into the program's maps.
        map: u32,
    },
}

/// How to verify.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Instructions to explore with loops widened, and again round by round before giving up.
    pub budget: u64,
    /// What the program starts with.
    pub entry: Entry,
    /// Back edges one call may take, where termination is metered; then it ends with `-ELOOP`.
    pub fuel: u64,
}

impl Default for Options {
    /// The kernel's budget of a million instructions; a parser's entry; [`FUEL`].
    fn default() -> Options {
        Options { budget: 1_000_000, entry: Entry::Context, fuel: FUEL }
    }
}

impl Options {
    /// With another budget.
    #[must_use]
    pub fn with_budget(mut self, budget: u64) -> Options {
        self.budget = budget;
        self
    }

    /// With another limit on the back edges of one call.
    #[must_use]
    pub fn with_fuel(mut self, fuel: u64) -> Options {
        self.fuel = fuel;
        self
    }

    /// With another entry.
    #[must_use]
    pub fn with_entry(mut self, entry: Entry) -> Options {
        self.entry = entry;
        self
    }
}

/// A program that was proved safe. The only constructor is the verifier, and executors take
/// nothing else: that is what makes unverified execution impossible.
#[derive(Clone, Debug)]
pub struct Verified {
    program: Program,
    facts: Facts,
    entry: Entry,
}

impl Verified {
    /// What it was proved to start with. Executors give a context and refuse any other.
    pub fn entry(&self) -> Entry {
        self.entry
    }

    /// The program, as it was linked.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// What was proved about it, for executors to build on.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }
}

/// Verifies a program.
///
/// # Errors
/// The first rule found broken, boxed: it carries the source line and the registers.
pub fn verify(program: Program, options: &Options) -> Result<Verified, Box<VerifyError>> {
    let facts = run(&program, options, None)?;
    Ok(Verified { program, facts, entry: options.entry })
}

/// Verifies a program and keeps what was known at each instruction, also when it is rejected.
pub fn verify_traced(
    program: Program,
    options: &Options,
) -> (Result<Verified, Box<VerifyError>>, Trace) {
    let mut trace = Trace::default();
    let result = run(&program, options, Some(&mut trace));
    (result.map(|facts| Verified { program, facts, entry: options.entry }), trace)
}

fn run(
    program: &Program,
    options: &Options,
    mut trace: Option<&mut Trace>,
) -> Result<Facts, Box<VerifyError>> {
    let code =
        Code::check(program).map_err(|(at, rule)| Box::new(VerifyError::new(program, at, rule)))?;
    let entry = entry(program, options)?;
    let mut needs = Vec::new();
    let mut spent = 0;
    let mut rejected = None;
    for (mode, budget) in [
        (Mode::Walk, FIRST_WALK.min(options.budget)),
        (Mode::Forget { ends: true }, FIRST_FORGET.min(options.budget)),
        (Mode::Forget { ends: false }, options.budget),
        (Mode::Widen, options.budget),
        (Mode::Walk, options.budget),
    ] {
        let again = match mode {
            // Walked like that already.
            Mode::Walk => rejected.is_some() && options.budget <= FIRST_WALK,
            // What was missed with more kept is missed with less.
            Mode::Forget { .. } => rejected.is_some(),
            _ => false,
        };
        if again {
            continue;
        }
        if let Mode::Forget { ends } = mode {
            needs = needs::needs(program, &code, ends);
        }
        if let Some(t) = trace.as_deref_mut() {
            t.start(program.insns.len());
        }
        let mut explorer =
            Explorer::new(program, &code, &needs, budget, mode, trace.as_deref_mut());
        explorer.fuel = options.fuel;
        match explorer.run(entry) {
            Ok(mut facts) => {
                facts.explored += spent;
                return Ok(facts);
            }
            // Forgetting and widening may lose what the proof needs: walking has the last word.
            Err((Some(error), explored)) if mode.widens() => {
                spent += explored;
                rejected = Some(error);
            }
            Err((Some(error), _)) => return Err(error),
            Err((None, explored)) => spent += explored,
        }
    }
    let rule = Rule::TooComplex { explored: spent };
    Err(rejected.unwrap_or_else(|| Box::new(VerifyError::new(program, 0, rule))))
}

fn entry(program: &Program, options: &Options) -> Result<[Reg; 11], Box<VerifyError>> {
    let mut regs = [Reg::UNINIT; 11];
    match options.entry {
        Entry::Context => regs[1] = Reg::pointer(Kind::Ctx, 0),
        Entry::Buffer { map } => {
            let Some(def) = program.maps.get(map as usize) else {
                return Err(Box::new(VerifyError::new(program, 0, Rule::NoSuchMap { map })));
            };
            regs[1] = Reg::pointer(Kind::Value { map, nullable: false }, 0);
            regs[2] = Reg::scalar(Scalar::constant(u64::from(def.value_size)));
        }
    }
    Ok(regs)
}
