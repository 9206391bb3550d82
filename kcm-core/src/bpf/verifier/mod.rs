//! The verifier: decides whether a program can run without any check at run time.
#![forbid(unsafe_code)]

mod facts;

pub use facts::{CallFact, FUEL, Facts, Fuel, Region, Taken};

use super::program::Program;

/// A program that was proved safe. The only constructor is the verifier, and executors take
/// nothing else: that is what makes unverified execution impossible.
#[derive(Clone, Debug)]
pub struct Verified {
    program: Program,
    facts: Facts,
}

impl Verified {
    /// The program, as it was linked.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// What was proved about it, for executors to build on.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }
}
