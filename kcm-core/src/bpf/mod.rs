//! The engine: BPF programs from linked instructions to verdicts.
//!
//! `Program` (linked, untrusted) → `verifier::verify` → `Verified` → an executor. Only a
//! `Verified` can be executed. Nothing in here knows of sockets, streams or the multiplexor.

pub mod insn;
pub mod map;
pub mod program;
pub mod verifier;
