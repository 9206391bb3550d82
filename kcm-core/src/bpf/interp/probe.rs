//! Whether threaded dispatch can be used: measured, not assumed.
//!
//! In threaded code each operation ends by calling the next one. Optimising compilers make a
//! jump of that, but stable Rust does not promise it, and a build without optimisation, or
//! with debug assertions, does not do it everywhere; then each operation would leave a frame
//! on the stack. So every operation is run some times in a row, once per process, and the
//! stack pointer before and after tells.

use std::hint::black_box;
use std::sync::OnceLock;

use super::lower::Lowered;
use super::machine::{Dispatch, Op};
use super::ops::Code;
use crate::bpf::builtins;
use crate::bpf::run::Env;
use crate::bpf::verifier::FUEL;

/// How often each operation is run in a row.
const TIMES: usize = 32;

/// More bytes than this and the stack grew: a frame has 8 at least.
const SLACK: u64 = 128;

/// Whether every operation ends in a jump.
pub(crate) fn tail_calls_are_jumps() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| Code::ALL.iter().all(|code| stays(*code)))
}

/// Where the stack is, about. A [`Handler`](super::machine::Handler).
///
/// # Safety
/// Needs nothing.
#[inline(never)]
unsafe fn probe(_: *const Op, _: *mut u64, _: *mut Env<'_>) -> u64 {
    let here = 0u8;
    black_box(&raw const here) as u64
}

/// Whether one operation leaves the stack where it was.
fn stays(code: Code) -> bool {
    if matches!(code, Code::Exit | Code::Exit32 | Code::Exit64 | Code::Unreachable) {
        return true;
    }
    let wide = matches!(code, Code::Const64 | Code::Helper);
    let mut ops = Vec::new();
    for left in (1..=TIMES).rev() {
        // Calls go to the `exit` behind the probe, jumps to the next operation.
        let imm = match code {
            Code::Call | Code::Loop => left as i32 + 1,
            Code::Ja => 1,
            _ => 0,
        };
        let src = match code {
            Code::Ind8 | Code::Ind16 | Code::Ind32 => 5,
            Code::LoadBytesN | Code::LoadBytesRegN => 8,
            _ => 1,
        };
        ops.push(Lowered { code: Ok(code), imm, off: 1, dst: 2, src }.link(true));
        if wide {
            let f = builtins::find(builtins::id::GET_SOCKET_COOKIE);
            let data = f.map_or(0, |f| f as usize as u64);
            ops.push(Lowered { code: Err(data), imm: 0, off: 0, dst: 0, src: 0 }.link(true));
        }
    }
    let end = Op { dispatch: Dispatch { handler: probe }, imm: 0, off: 0, dst: 0, src: 0 };
    ops.push(end);
    ops.push(Lowered { code: Ok(Code::Exit), imm: 0, off: 0, dst: 0, src: 0 }.link(true));
    // Everything that is loaded from or stored to is in here; `off` is 1, but atomics must be
    // aligned.
    let mut memory = [0u64; 8];
    let at = memory.as_mut_ptr().expose_provenance() as u64 + 16;
    let atomic = format!("{code:?}").starts_with("Atomic");
    let mut regs = [if atomic { at - 1 } else { at }; 11];
    (regs[3], regs[5]) = (at, 0);
    // With fuel: operations that burn it would end the run, and nothing were measured.
    let mut env = Env::new(0, 0, super::enter_threaded, FUEL);
    env.show(&[0; 16]);
    let mut run = |from: usize| {
        let pc = &raw const ops[from];
        // SAFETY: the operations are followed by the probe, which ends the run; their
        // registers are below 11 and lead to `memory`; the wide ones have their data.
        unsafe { super::enter_threaded(pc, regs.as_mut_ptr(), &mut env) }
    };
    let after = run(0);
    let before = run(ops.len() - 2);
    before.abs_diff(after) < SLACK
}
