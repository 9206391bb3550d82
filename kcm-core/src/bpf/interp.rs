//! The interpreter: pre-decoded operations, no check per access, no allocation.
//!
//! A program is lowered once: dead code and what nobody reads is dropped, jumps are resolved,
//! context fields and `bpf_skb_load_bytes` of a known size become operations of their own, a
//! load and the byte swap behind it one, and so does the end of a function with the jump to it.
//! BPF registers lie in an array; the stack is not cleared.
//!
//! # Dispatch
//! Two ways were measured, with the same operations (x86-64, rustc 1.95 `-O3`, best of 200,
//! two shared cores; `dispatch_styles_measured` in the tests measures again):
//!
//! | | one loop around a `match` | threaded: each operation calls the next |
//! |---|---|---|
//! | per executed instruction, scan of a 200-byte line (817 instructions) | 0.71 ns | **0.50 ns** |
//! | a call of the thrift parser (18 instructions) | 10.3 ns | **8.8 ns** |
//!
//! So threaded it is, wherever the calls in tail position are jumps, which is tried at run
//! time ([`probe`]); the `match` elsewhere.
#![allow(unsafe_code)]

mod live;
mod lower;
mod machine;
mod ops;
mod probe;
mod table;

use std::mem::MaybeUninit;
use std::sync::Arc;

use super::map::Map;
use super::run::{CTX, Env, ExecError};
use super::verifier::Verified;
pub(crate) use machine::Handler;
use machine::Op;
pub(crate) use probe::tail_calls_are_jumps as is_threaded;

/// Bytes of stack a program and its callees have together.
const STACK: usize = 512;

/// What a run needs. Nothing clears the stack: the verifier proved that what is read was
/// written. Registers are cleared once, for calls pass and save also those that hold nothing.
#[repr(C, align(16))]
pub(crate) struct Room {
    stack: MaybeUninit<[u8; STACK]>,
    regs: [u64; 11],
}

impl Room {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Room { stack: MaybeUninit::uninit(), regs: [0; 11] }
    }
}

/// For runs of other executors, which never enter anything here.
#[cfg(kcm_jit)]
pub(crate) const NOTHING: Handler = enter_threaded;

/// A lowered program.
pub(crate) struct Code {
    ops: Box<[Op]>,
    threaded: bool,
}

impl Code {
    pub(crate) fn new(verified: &Verified, maps: &[Arc<Map>]) -> Result<Self, ExecError> {
        Self::with_dispatch(verified, maps, probe::tail_calls_are_jumps())
    }

    pub(crate) fn with_dispatch(
        verified: &Verified,
        maps: &[Arc<Map>],
        threaded: bool,
    ) -> Result<Self, ExecError> {
        let lowered = lower::Lowering::run(verified, maps)?;
        Ok(Code { ops: lowered.into_iter().map(|l| l.link(threaded)).collect(), threaded })
    }

    /// How one of its functions is run.
    #[inline(always)]
    pub(crate) fn enter(&self) -> Handler {
        if self.threaded { enter_threaded } else { ops::run_match }
    }

    /// Runs the program over the message that `env` shows.
    ///
    /// # Safety
    /// The maps that the code was lowered with are alive; `env` was made with this code's
    /// [`enter`](Self::enter).
    #[inline(always)]
    pub(crate) unsafe fn run(&self, env: &mut Env<'_>, room: &mut Room) -> u64 {
        let regs = room.regs.as_mut_ptr();
        let top = room.stack.as_mut_ptr().cast::<u8>().expose_provenance() + STACK;
        // SAFETY: `regs` has 11 places.
        unsafe {
            regs.add(1).write(CTX);
            regs.add(10).write(top as u64);
        }
        let pc = self.ops.as_ptr();
        // SAFETY: the first operation is where the main function starts; `regs` and the stack
        // are `room`'s, exclusively borrowed.
        unsafe {
            if self.threaded {
                enter_threaded(pc, regs, env)
            } else {
                ops::run_match(pc, regs, env)
            }
        }
    }
}

/// [`Handler`] of threaded code.
///
/// # Safety
/// [`Handler`]'s, with operations that were linked for threaded dispatch.
#[inline(always)]
unsafe fn enter_threaded(pc: *const Op, regs: *mut u64, env: *mut Env<'_>) -> u64 {
    // SAFETY: by contract.
    unsafe { ((*pc).dispatch.handler)(pc, regs, env) }
}

// SAFETY: operations are plain data, never changed after linking; the addresses in them are
// of functions, of maps (which are `Sync`) and of their values.
unsafe impl Send for Code {}
// SAFETY: as above.
unsafe impl Sync for Code {}

#[cfg(test)]
mod tests;
