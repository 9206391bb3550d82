//! The operations of the interpreter: one table, from which both dispatchers are made.
//!
//! `run` operations go on with the next one; `jump` operations have a condition; `flow`
//! operations say themselves what is next.

use std::sync::atomic::Ordering::SeqCst;

use super::machine::{Flow, M, Op};
use crate::bpf::builtins;
use crate::bpf::run::Env;

/// Makes, from one table: the numbers of the operations, the loop that matches on them, and
/// the table of functions that call each other.
macro_rules! operations {
    ($($kind:ident $name:ident = |$m:ident| $body:expr;)*) => {
        /// Numbers of the operations.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u16)]
        pub(crate) enum Code { $($name),* }

        impl Code {
            /// All of them.
            pub(super) const ALL: &[Code] = &[$(Code::$name),*];

            /// The function of this operation, for threaded dispatch.
            pub(super) fn handler(self) -> super::machine::Handler {
                match self { $(Code::$name => threaded::$name),* }
            }
        }

        mod body {
            use super::*;
            $(
                /// # Safety
                /// `M::new`'s: this is the operation that the verified program executes next.
                #[allow(non_snake_case)]
                #[inline(always)]
                pub(super) unsafe fn $name($m: M<'_>) -> Flow { operations!(@$kind $m $body) }
            )*
        }

        mod threaded {
            use super::*;
            $(
                /// # Safety
                /// `Handler`'s, for threaded code.
                #[allow(non_snake_case)]
                pub(super) unsafe fn $name(
                    pc: *const Op, regs: *mut u64, env: *mut Env<'_>,
                ) -> u64 {
                    // SAFETY: by contract of `Handler`.
                    match unsafe { body::$name(M::new(pc, regs, env)) } {
                        // The last thing this function does, with the same arguments in the
                        // same places: a jump in optimised code.
                        // SAFETY: the flow of a verified program stays in it.
                        Flow::Go(next) => unsafe { ((*next).dispatch.handler)(next, regs, env) },
                        Flow::End(r0) => r0,
                    }
                }
            )*
        }

        /// Runs from `pc` to the end of this function by a loop around one `match`.
        ///
        /// # Safety
        /// `Handler`'s, with operations that were linked for this dispatcher.
        pub(super) unsafe fn run_match(
            mut pc: *const Op, regs: *mut u64, env: *mut Env<'_>,
        ) -> u64 {
            loop {
                // SAFETY: by contract.
                let flow = unsafe {
                    match (*pc).dispatch.code {
                        $(Code::$name => body::$name(M::new(pc, regs, env)),)*
                    }
                };
                match flow {
                    Flow::Go(next) => pc = next,
                    Flow::End(r0) => return r0,
                }
            }
        }
    };
    (@run $m:ident $body:expr) => {{ $body; $m.next() }};
    (@jump $m:ident $body:expr) => { if $body { $m.jump() } else { $m.next() } };
    (@flow $m:ident $body:expr) => { $body };
}

// "plain" accesses are in the message or in this run's stack, which nobody else writes;
// "shared" ones may be in a map value or a record and are atomic.
operations! {
    // RFC 9669 section 4.1: arithmetic.
    run Add64Imm = |m| m.set(m.d().wrapping_add(m.imm()));
    run Add64Reg = |m| m.set(m.d().wrapping_add(m.s()));
    run Add32Imm = |m| m.set32(m.d32().wrapping_add(m.imm32()));
    run Add32Reg = |m| m.set32(m.d32().wrapping_add(m.s32()));
    run Sub64Imm = |m| m.set(m.d().wrapping_sub(m.imm()));
    run Sub64Reg = |m| m.set(m.d().wrapping_sub(m.s()));
    run Sub32Imm = |m| m.set32(m.d32().wrapping_sub(m.imm32()));
    run Sub32Reg = |m| m.set32(m.d32().wrapping_sub(m.s32()));
    run Mul64Imm = |m| m.set(m.d().wrapping_mul(m.imm()));
    run Mul64Reg = |m| m.set(m.d().wrapping_mul(m.s()));
    run Mul32Imm = |m| m.set32(m.d32().wrapping_mul(m.imm32()));
    run Mul32Reg = |m| m.set32(m.d32().wrapping_mul(m.s32()));
    run Div64Imm = |m| m.set(m.d().checked_div(m.imm()).unwrap_or(0));
    run Div64Reg = |m| m.set(m.d().checked_div(m.s()).unwrap_or(0));
    run Div32Imm = |m| m.set32(m.d32().checked_div(m.imm32()).unwrap_or(0));
    run Div32Reg = |m| m.set32(m.d32().checked_div(m.s32()).unwrap_or(0));
    run Mod64Imm = |m| m.set(m.d().checked_rem(m.imm()).unwrap_or(m.d()));
    run Mod64Reg = |m| m.set(m.d().checked_rem(m.s()).unwrap_or(m.d()));
    run Mod32Imm = |m| m.set32(m.d32().checked_rem(m.imm32()).unwrap_or(m.d32()));
    run Mod32Reg = |m| m.set32(m.d32().checked_rem(m.s32()).unwrap_or(m.d32()));
    run SDiv64Imm = |m| m.set(sdiv64(m.d(), m.imm()));
    run SDiv64Reg = |m| m.set(sdiv64(m.d(), m.s()));
    run SDiv32Imm = |m| m.set32(sdiv32(m.d32(), m.imm32()));
    run SDiv32Reg = |m| m.set32(sdiv32(m.d32(), m.s32()));
    run SMod64Imm = |m| m.set(smod64(m.d(), m.imm()));
    run SMod64Reg = |m| m.set(smod64(m.d(), m.s()));
    run SMod32Imm = |m| m.set32(smod32(m.d32(), m.imm32()));
    run SMod32Reg = |m| m.set32(smod32(m.d32(), m.s32()));
    run Or64Imm = |m| m.set(m.d() | m.imm());
    run Or64Reg = |m| m.set(m.d() | m.s());
    run Or32Imm = |m| m.set32(m.d32() | m.imm32());
    run Or32Reg = |m| m.set32(m.d32() | m.s32());
    run And64Imm = |m| m.set(m.d() & m.imm());
    run And64Reg = |m| m.set(m.d() & m.s());
    run And32Imm = |m| m.set32(m.d32() & m.imm32());
    run And32Reg = |m| m.set32(m.d32() & m.s32());
    run Xor64Imm = |m| m.set(m.d() ^ m.imm());
    run Xor64Reg = |m| m.set(m.d() ^ m.s());
    run Xor32Imm = |m| m.set32(m.d32() ^ m.imm32());
    run Xor32Reg = |m| m.set32(m.d32() ^ m.s32());
    run Lsh64Imm = |m| m.set(m.d().wrapping_shl(m.imm() as u32));
    run Lsh64Reg = |m| m.set(m.d().wrapping_shl(m.s() as u32));
    run Lsh32Imm = |m| m.set32(m.d32().wrapping_shl(m.imm32()));
    run Lsh32Reg = |m| m.set32(m.d32().wrapping_shl(m.s32()));
    run Rsh64Imm = |m| m.set(m.d().wrapping_shr(m.imm() as u32));
    run Rsh64Reg = |m| m.set(m.d().wrapping_shr(m.s() as u32));
    run Rsh32Imm = |m| m.set32(m.d32().wrapping_shr(m.imm32()));
    run Rsh32Reg = |m| m.set32(m.d32().wrapping_shr(m.s32()));
    run Arsh64Imm = |m| m.set((m.d() as i64).wrapping_shr(m.imm() as u32) as u64);
    run Arsh64Reg = |m| m.set((m.d() as i64).wrapping_shr(m.s() as u32) as u64);
    run Arsh32Imm = |m| m.set32((m.d32() as i32).wrapping_shr(m.imm32()) as u32);
    run Arsh32Reg = |m| m.set32((m.d32() as i32).wrapping_shr(m.s32()) as u32);
    run Mov64Imm = |m| m.set(m.imm());
    run Mov64Reg = |m| m.set(m.s());
    run Mov32Imm = |m| m.set32(m.imm32());
    run Mov32Reg = |m| m.set32(m.s32());
    run Neg64 = |m| m.set(m.d().wrapping_neg());
    run Neg32 = |m| m.set32(m.d32().wrapping_neg());
    run MovSx8To64 = |m| m.set(m.s() as i8 as i64 as u64);
    run MovSx16To64 = |m| m.set(m.s() as i16 as i64 as u64);
    run MovSx32To64 = |m| m.set(m.s() as i32 as i64 as u64);
    run MovSx8To32 = |m| m.set32(m.s() as i8 as i32 as u32);
    run MovSx16To32 = |m| m.set32(m.s() as i16 as i32 as u32);
    run Swap16 = |m| m.set(u64::from((m.d() as u16).swap_bytes()));
    run Swap32 = |m| m.set(u64::from((m.d() as u32).swap_bytes()));
    run Swap64 = |m| m.set(m.d().swap_bytes());
    run Low16 = |m| m.set(u64::from(m.d() as u16));
    run Low32 = |m| m.set(u64::from(m.d() as u32));
    // A 64-bit constant: the next slot holds it.
    flow Const64 = |m| {
        m.set(m.wide());
        m.skip(2)
    };
    // `mov dst, src; add dst, imm` in one.
    run Lea = |m| m.set(m.s().wrapping_add(m.imm()));
    // RFC 9669 section 5: loads and stores.
    run Load8 = |m| m.set(u64::from(m.plain::<u8>(m.s())));
    run Load16 = |m| m.set(u64::from(m.plain::<u16>(m.s())));
    run Load32 = |m| m.set(u64::from(m.plain::<u32>(m.s())));
    run Load64 = |m| m.set(m.plain::<u64>(m.s()));
    run LoadSx8 = |m| m.set(m.plain::<u8>(m.s()) as i8 as i64 as u64);
    run LoadSx16 = |m| m.set(m.plain::<u16>(m.s()) as i16 as i64 as u64);
    run LoadSx32 = |m| m.set(m.plain::<u32>(m.s()) as i32 as i64 as u64);
    run LoadBe16 = |m| m.set(m.plain::<u16>(m.s()).swap_bytes() as u64);
    run LoadBe32 = |m| m.set(m.plain::<u32>(m.s()).swap_bytes() as u64);
    run LoadBe64 = |m| m.set(m.plain::<u64>(m.s()).swap_bytes());
    run SharedLoad8 = |m| m.set(m.shared::<u8>(m.s()) as u64);
    run SharedLoad16 = |m| m.set(m.shared::<u16>(m.s()) as u64);
    run SharedLoad32 = |m| m.set(m.shared::<u32>(m.s()) as u64);
    run SharedLoad64 = |m| m.set(m.shared::<u64>(m.s()));
    run SharedLoadSx8 = |m| m.set(m.shared::<u8>(m.s()) as i8 as i64 as u64);
    run SharedLoadSx16 = |m| m.set(m.shared::<u16>(m.s()) as i16 as i64 as u64);
    run SharedLoadSx32 = |m| m.set(m.shared::<u32>(m.s()) as i32 as i64 as u64);
    run Store8Reg = |m| m.put::<u8>(m.s() as u8);
    run Store8Imm = |m| m.put::<u8>(m.imm() as u8);
    run SharedStore8Reg = |m| m.put_shared::<u8>(m.s() as u8);
    run SharedStore8Imm = |m| m.put_shared::<u8>(m.imm() as u8);
    run Store16Reg = |m| m.put::<u16>(m.s() as u16);
    run Store16Imm = |m| m.put::<u16>(m.imm() as u16);
    run SharedStore16Reg = |m| m.put_shared::<u16>(m.s() as u16);
    run SharedStore16Imm = |m| m.put_shared::<u16>(m.imm() as u16);
    run Store32Reg = |m| m.put::<u32>(m.s() as u32);
    run Store32Imm = |m| m.put::<u32>(m.imm() as u32);
    run SharedStore32Reg = |m| m.put_shared::<u32>(m.s() as u32);
    run SharedStore32Imm = |m| m.put_shared::<u32>(m.imm() as u32);
    run Store64Reg = |m| m.put::<u64>(m.s());
    run Store64Imm = |m| m.put::<u64>(m.imm());
    run SharedStore64Reg = |m| m.put_shared::<u64>(m.s());
    run SharedStore64Imm = |m| m.put_shared::<u64>(m.imm());
    // RFC 9669 section 5.3: atomics. The verifier proved the address aligned.
    run AtomicAdd64 = |m| m.set_s(m.atomic64().fetch_add(m.s(), SeqCst));
    run AtomicAdd32 = |m| m.set_s(u64::from(m.atomic32().fetch_add(m.s32(), SeqCst)));
    run AtomicAdd64NoFetch = |m| { m.atomic64().fetch_add(m.s(), SeqCst); };
    run AtomicAdd32NoFetch = |m| { m.atomic32().fetch_add(m.s32(), SeqCst); };
    run AtomicOr64 = |m| m.set_s(m.atomic64().fetch_or(m.s(), SeqCst));
    run AtomicOr32 = |m| m.set_s(u64::from(m.atomic32().fetch_or(m.s32(), SeqCst)));
    run AtomicOr64NoFetch = |m| { m.atomic64().fetch_or(m.s(), SeqCst); };
    run AtomicOr32NoFetch = |m| { m.atomic32().fetch_or(m.s32(), SeqCst); };
    run AtomicAnd64 = |m| m.set_s(m.atomic64().fetch_and(m.s(), SeqCst));
    run AtomicAnd32 = |m| m.set_s(u64::from(m.atomic32().fetch_and(m.s32(), SeqCst)));
    run AtomicAnd64NoFetch = |m| { m.atomic64().fetch_and(m.s(), SeqCst); };
    run AtomicAnd32NoFetch = |m| { m.atomic32().fetch_and(m.s32(), SeqCst); };
    run AtomicXor64 = |m| m.set_s(m.atomic64().fetch_xor(m.s(), SeqCst));
    run AtomicXor32 = |m| m.set_s(u64::from(m.atomic32().fetch_xor(m.s32(), SeqCst)));
    run AtomicXor64NoFetch = |m| { m.atomic64().fetch_xor(m.s(), SeqCst); };
    run AtomicXor32NoFetch = |m| { m.atomic32().fetch_xor(m.s32(), SeqCst); };
    run AtomicXchg64 = |m| m.set_s(m.atomic64().swap(m.s(), SeqCst));
    run AtomicXchg32 = |m| m.set_s(u64::from(m.atomic32().swap(m.s32(), SeqCst)));
    run AtomicCmpXchg64 = |m| {
        let (Ok(was) | Err(was)) =
            m.atomic64().compare_exchange(m.reg(0), m.s(), SeqCst, SeqCst);
        m.set_reg(0, was);
    };
    run AtomicCmpXchg32 = |m| {
        let (Ok(was) | Err(was)) =
            m.atomic32().compare_exchange(m.reg(0) as u32, m.s32(), SeqCst, SeqCst);
        m.set_reg(0, u64::from(was));
    };
    // The context: its fields are not in memory.
    run CtxData = |m| m.set(m.env().data as u64);
    run CtxDataEnd = |m| m.set(m.env().data_end as u64);
    run CtxLen = |m| m.set(m.env().len() as u64);
    // A part of the length: `off` bits from the right, `imm` as mask.
    run CtxLenPart = |m| m.set(m.env().len() as u64 >> m.off() & m.imm());
    // Scratch bytes of the context: `off` counts from the first of them.
    run CtxLoad8 = |m| m.set(u64::from(m.scratch::<u8>()));
    run CtxLoad16 = |m| m.set(u64::from(m.scratch::<u16>()));
    run CtxLoad32 = |m| m.set(u64::from(m.scratch::<u32>()));
    run CtxLoad64 = |m| m.set(m.scratch::<u64>());
    run CtxStore8Reg = |m| m.put_scratch::<u8>(m.s() as u8);
    run CtxStore8Imm = |m| m.put_scratch::<u8>(m.imm() as u8);
    run CtxStore16Reg = |m| m.put_scratch::<u16>(m.s() as u16);
    run CtxStore16Imm = |m| m.put_scratch::<u16>(m.imm() as u16);
    run CtxStore32Reg = |m| m.put_scratch::<u32>(m.s() as u32);
    run CtxStore32Imm = |m| m.put_scratch::<u32>(m.imm() as u32);
    run CtxStore64Reg = |m| m.put_scratch::<u64>(m.s());
    run CtxStore64Imm = |m| m.put_scratch::<u64>(m.imm());
    // RFC 9669 section 4.3: jumps.
    flow Ja = |m| m.far();
    jump JEq64Imm = |m| m.d() == m.imm();
    jump JEq64Reg = |m| m.d() == m.s();
    jump JEq32Imm = |m| m.d32() == m.imm32();
    jump JEq32Reg = |m| m.d32() == m.s32();
    jump JNe64Imm = |m| m.d() != m.imm();
    jump JNe64Reg = |m| m.d() != m.s();
    jump JNe32Imm = |m| m.d32() != m.imm32();
    jump JNe32Reg = |m| m.d32() != m.s32();
    jump JGt64Imm = |m| m.d() > m.imm();
    jump JGt64Reg = |m| m.d() > m.s();
    jump JGt32Imm = |m| m.d32() > m.imm32();
    jump JGt32Reg = |m| m.d32() > m.s32();
    jump JGe64Imm = |m| m.d() >= m.imm();
    jump JGe64Reg = |m| m.d() >= m.s();
    jump JGe32Imm = |m| m.d32() >= m.imm32();
    jump JGe32Reg = |m| m.d32() >= m.s32();
    jump JLt64Imm = |m| m.d() < m.imm();
    jump JLt64Reg = |m| m.d() < m.s();
    jump JLt32Imm = |m| m.d32() < m.imm32();
    jump JLt32Reg = |m| m.d32() < m.s32();
    jump JLe64Imm = |m| m.d() <= m.imm();
    jump JLe64Reg = |m| m.d() <= m.s();
    jump JLe32Imm = |m| m.d32() <= m.imm32();
    jump JLe32Reg = |m| m.d32() <= m.s32();
    jump JSGt64Imm = |m| (m.d() as i64) > (m.imm() as i64);
    jump JSGt64Reg = |m| (m.d() as i64) > (m.s() as i64);
    jump JSGt32Imm = |m| (m.d32() as i32) > (m.imm32() as i32);
    jump JSGt32Reg = |m| (m.d32() as i32) > (m.s32() as i32);
    jump JSGe64Imm = |m| (m.d() as i64) >= (m.imm() as i64);
    jump JSGe64Reg = |m| (m.d() as i64) >= (m.s() as i64);
    jump JSGe32Imm = |m| (m.d32() as i32) >= (m.imm32() as i32);
    jump JSGe32Reg = |m| (m.d32() as i32) >= (m.s32() as i32);
    jump JSLt64Imm = |m| (m.d() as i64) < (m.imm() as i64);
    jump JSLt64Reg = |m| (m.d() as i64) < (m.s() as i64);
    jump JSLt32Imm = |m| (m.d32() as i32) < (m.imm32() as i32);
    jump JSLt32Reg = |m| (m.d32() as i32) < (m.s32() as i32);
    jump JSLe64Imm = |m| (m.d() as i64) <= (m.imm() as i64);
    jump JSLe64Reg = |m| (m.d() as i64) <= (m.s() as i64);
    jump JSLe32Imm = |m| (m.d32() as i32) <= (m.imm32() as i32);
    jump JSLe32Reg = |m| (m.d32() as i32) <= (m.s32() as i32);
    jump JSet64Imm = |m| m.d() & m.imm() != 0;
    jump JSet64Reg = |m| m.d() & m.s() != 0;
    jump JSet32Imm = |m| m.d32() & m.imm32() != 0;
    jump JSet32Reg = |m| m.d32() & m.s32() != 0;
    // Before a jump that closes a loop, where termination is metered.
    flow Fuel = |m| match m.burn() {
        true => m.next(),
        false => m.end_program(builtins::err(libc::ELOOP)),
    };
    // Calls.
    flow Exit = |m| Flow::End(m.reg(0));
    // `mov r0, src; exit` in one, as is what jumps to it.
    flow Exit64 = |m| Flow::End(m.s());
    flow Exit32 = |m| Flow::End(u64::from(m.s32()));
    flow Call = |m| m.call();
    flow Helper = |m| m.helper();
    flow Loop = |m| m.bpf_loop();
    // `bpf_skb_load_bytes` of a constant size to `off` in this frame's stack, from a constant
    // offset (`imm`) or one in a register.
    run LoadBytes1 = |m| m.load_bytes::<1>(m.imm32());
    run LoadBytes2 = |m| m.load_bytes::<2>(m.imm32());
    run LoadBytes4 = |m| m.load_bytes::<4>(m.imm32());
    run LoadBytes8 = |m| m.load_bytes::<8>(m.imm32());
    run LoadBytesN = |m| m.load_bytes_n(m.imm32());
    run LoadBytesReg1 = |m| m.load_bytes::<1>(m.d32());
    run LoadBytesReg2 = |m| m.load_bytes::<2>(m.d32());
    run LoadBytesReg4 = |m| m.load_bytes::<4>(m.d32());
    run LoadBytesReg8 = |m| m.load_bytes::<8>(m.d32());
    run LoadBytesRegN = |m| m.load_bytes_n(m.d32());
    // A load from the message at an offset (`imm`, plus a register): the program ends with 0
    // where that is not in it (semantics B3).
    flow Abs8 = |m| m.legacy::<1>(m.imm32());
    flow Abs16 = |m| m.legacy::<2>(m.imm32());
    flow Abs32 = |m| m.legacy::<4>(m.imm32());
    flow Ind8 = |m| m.legacy::<1>(m.s32().wrapping_add(m.imm32()));
    flow Ind16 = |m| m.legacy::<2>(m.s32().wrapping_add(m.imm32()));
    flow Ind32 = |m| m.legacy::<4>(m.s32().wrapping_add(m.imm32()));
    // Never reached: the verifier proved that execution does not run off here.
    flow Unreachable = |m| m.end_program(builtins::err(libc::EFAULT));
    // Two in one: the second keeps its slot, for those that jump to it.
}

/// RFC 9669 section 4.1: division by zero gives 0, the one overflow wraps.
#[inline(always)]
fn sdiv64(a: u64, b: u64) -> u64 {
    if b == 0 { 0 } else { (a as i64).wrapping_div(b as i64) as u64 }
}

#[inline(always)]
fn sdiv32(a: u32, b: u32) -> u32 {
    if b == 0 { 0 } else { (a as i32).wrapping_div(b as i32) as u32 }
}

/// RFC 9669 section 4.1: remainder by zero leaves the dividend.
#[inline(always)]
fn smod64(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { (a as i64).wrapping_rem(b as i64) as u64 }
}

#[inline(always)]
fn smod32(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { (a as i32).wrapping_rem(b as i32) as u32 }
}
