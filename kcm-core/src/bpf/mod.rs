//! The engine: BPF programs from linked instructions to verdicts.
//!
//! `Program` (linked, untrusted) → `verifier::verify` → `Verified` → an executor. Only a
//! `Verified` can be executed. Nothing in here knows of sockets, streams or the multiplexor.

pub mod asm;
mod builtins;
mod checked;
pub mod decode;
pub mod disasm;
pub mod helpers;
pub mod insn;
mod interp;
#[cfg(kcm_jit)]
mod jit;
pub mod map;
mod memory;
pub mod program;
pub mod run;
pub mod verifier;
