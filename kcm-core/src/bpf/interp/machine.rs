//! What one operation of the interpreter sees and can do.
//!
//! BPF registers lie in an array, the message, the stack and the maps at their addresses.
//! No access is checked here: an [`M`] exists only while a verified program runs.

use std::sync::atomic::{AtomicU32, AtomicU64};

use super::ops::Code;
use crate::bpf::builtins::{self, Helper};
use crate::bpf::memory::racy;
use crate::bpf::run::Env;

/// Runs from `pc` to the end of its function and returns r0.
///
/// # Safety
/// `pc` is an operation of a [`Code`](super::Code) lowered from a verified program, reached
/// as that program reaches it; `regs` are its registers (11 of them); `env` is the
/// environment of this run, showing the message.
pub(crate) type Handler = unsafe fn(*const Op, *mut u64, *mut Env<'_>) -> u64;

/// How the next operation is found.
#[derive(Clone, Copy)]
pub(crate) union Dispatch {
    /// Threaded: the function to jump to.
    pub(super) handler: Handler,
    /// Matched: the number.
    pub(super) code: Code,
    /// In a slot that is the second half of an operation: its data.
    pub(super) data: u64,
}

/// One pre-decoded operation: 16 bytes.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Op {
    pub(super) dispatch: Dispatch,
    pub(super) imm: i32,
    /// Jumps: slots from this one to the target. Memory: the offset.
    pub(super) off: i16,
    pub(super) dst: u8,
    pub(super) src: u8,
}

/// What follows an operation.
pub(super) enum Flow {
    Go(*const Op),
    /// The function returns this r0.
    End(u64),
}

/// Integers that are loaded and stored.
pub(super) trait Int: Copy {
    /// # Safety
    /// `at` is valid for reads, perhaps racing with writes.
    unsafe fn load_shared(at: u64) -> Self;
    /// # Safety
    /// `at` is valid for writes, perhaps racing with others.
    unsafe fn store_shared(self, at: u64);
}

macro_rules! int {
    ($($t:ty, $load:ident, $store:ident;)*) => {$(
        impl Int for $t {
            #[inline(always)]
            unsafe fn load_shared(at: u64) -> Self {
                // SAFETY: by contract.
                unsafe { racy::$load(at) }
            }
            #[inline(always)]
            unsafe fn store_shared(self, at: u64) {
                // SAFETY: by contract.
                unsafe { racy::$store(at, self) }
            }
        }
    )*};
}
int! { u8, load8, store8; u16, load16, store16; u32, load32, store32; u64, load64, store64; }

/// The machine at one operation. Its methods do what their names say without any check; that
/// is sound because of what [`M::new`] asks for.
#[derive(Clone, Copy)]
pub(super) struct M<'a> {
    op: &'a Op,
    regs: *mut u64,
    env: *mut Env<'a>,
}

#[inline(always)]
fn ptr(at: u64) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(at as usize)
}

impl<'a> M<'a> {
    /// # Safety
    /// [`Handler`]'s contract, and `pc` is the operation that is executed next. Then every
    /// address that the operation computes is one of which the verifier proved that the
    /// access is inside a live region of the kind that lowering chose the operation for.
    #[inline(always)]
    pub(super) unsafe fn new(pc: *const Op, regs: *mut u64, env: *mut Env<'a>) -> Self {
        // SAFETY: by contract `pc` is an operation of a live `Code`.
        M { op: unsafe { &*pc }, regs, env }
    }

    #[inline(always)]
    pub(super) fn env<'e>(self) -> &'e mut Env<'a> {
        // SAFETY: this run's own environment; references to it do not outlive an expression
        // of one operation.
        unsafe { &mut *self.env }
    }

    #[inline(always)]
    pub(super) fn reg(&self, i: u8) -> u64 {
        // SAFETY: register numbers were checked (0-10) when the program was lowered.
        unsafe { *self.regs.add(i as usize) }
    }

    #[inline(always)]
    pub(super) fn set_reg(&self, i: u8, v: u64) {
        // SAFETY: as in `reg`.
        unsafe { *self.regs.add(i as usize) = v }
    }

    #[inline(always)]
    pub(super) fn d(&self) -> u64 {
        self.reg(self.op.dst)
    }

    #[inline(always)]
    pub(super) fn s(&self) -> u64 {
        self.reg(self.op.src)
    }

    #[inline(always)]
    pub(super) fn d32(&self) -> u32 {
        self.d() as u32
    }

    #[inline(always)]
    pub(super) fn s32(&self) -> u32 {
        self.s() as u32
    }

    #[inline(always)]
    pub(super) fn imm(&self) -> u64 {
        i64::from(self.op.imm) as u64
    }

    #[inline(always)]
    pub(super) fn imm32(&self) -> u32 {
        self.op.imm as u32
    }

    #[inline(always)]
    pub(super) fn off(&self) -> u32 {
        self.op.off as u32
    }

    #[inline(always)]
    pub(super) fn set(&self, v: u64) {
        self.set_reg(self.op.dst, v);
    }

    #[inline(always)]
    pub(super) fn set32(&self, v: u32) {
        self.set(u64::from(v));
    }

    #[inline(always)]
    pub(super) fn set_s(&self, v: u64) {
        self.set_reg(self.op.src, v);
    }

    /// The 64 bits of the slot after this one.
    #[inline(always)]
    pub(super) fn wide(&self) -> u64 {
        // SAFETY: lowering put a data slot behind every operation that calls this.
        unsafe { (*(&raw const *self.op).add(1)).dispatch.data }
    }

    #[inline(always)]
    fn at(&self, base: u64) -> u64 {
        base.wrapping_add_signed(i64::from(self.op.off))
    }

    /// Loads from the message or the stack.
    #[inline(always)]
    pub(super) fn plain<T: Int>(&self, base: u64) -> T {
        // SAFETY: the verifier proved the access inside the message or initialised stack.
        unsafe { ptr(self.at(base)).cast::<T>().read_unaligned() }
    }

    /// Stores to the stack.
    #[inline(always)]
    pub(super) fn put<T: Int>(&self, v: T) {
        // SAFETY: the verifier proved the access inside the stack.
        unsafe { ptr(self.at(self.d())).cast::<T>().write_unaligned(v) }
    }

    /// Loads from the context's scratch bytes.
    #[inline(always)]
    pub(super) fn scratch<T: Int>(&self) -> T {
        let at = (&raw const self.env().cb).cast::<u8>();
        // SAFETY: the verifier proved the access inside the scratch bytes.
        unsafe { at.add(self.op.off as usize).cast::<T>().read_unaligned() }
    }

    /// Stores to the context's scratch bytes.
    #[inline(always)]
    pub(super) fn put_scratch<T: Int>(&self, v: T) {
        let at = (&raw mut self.env().cb).cast::<u8>();
        // SAFETY: the verifier proved the access inside the scratch bytes.
        unsafe { at.add(self.op.off as usize).cast::<T>().write_unaligned(v) }
    }

    /// Loads from anywhere.
    #[inline(always)]
    pub(super) fn shared<T: Int>(&self, base: u64) -> T {
        // SAFETY: the verifier proved the access inside a live region.
        unsafe { T::load_shared(self.at(base)) }
    }

    /// Stores to anywhere that can be written.
    #[inline(always)]
    pub(super) fn put_shared<T: Int>(&self, v: T) {
        // SAFETY: the verifier proved the access inside a live region that can be written.
        unsafe { v.store_shared(self.at(self.d())) }
    }

    #[inline(always)]
    pub(super) fn atomic64(&self) -> &AtomicU64 {
        // SAFETY: the verifier proved the access inside a live region that can be written,
        // and aligned.
        unsafe { AtomicU64::from_ptr(ptr(self.at(self.d())).cast()) }
    }

    #[inline(always)]
    pub(super) fn atomic32(&self) -> &AtomicU32 {
        // SAFETY: as in `atomic64`.
        unsafe { AtomicU32::from_ptr(ptr(self.at(self.d())).cast()) }
    }

    #[inline(always)]
    fn slots(&self, n: isize) -> *const Op {
        // SAFETY: lowering computes jumps and sizes inside the array of operations, which
        // ends with an operation that does not go on.
        unsafe { (&raw const *self.op).offset(n) }
    }

    #[inline(always)]
    pub(super) fn next(&self) -> Flow {
        Flow::Go(self.slots(1))
    }

    #[inline(always)]
    pub(super) fn skip(&self, n: isize) -> Flow {
        Flow::Go(self.slots(n))
    }

    /// A taken conditional jump.
    #[inline(always)]
    pub(super) fn jump(&self) -> Flow {
        Flow::Go(self.slots(self.op.off as isize))
    }

    /// An unconditional jump.
    #[inline(always)]
    pub(super) fn far(&self) -> Flow {
        Flow::Go(self.slots(self.op.imm as isize))
    }

    /// Ends the program, from whatever depth of calls.
    #[inline(always)]
    pub(super) fn end_program(&self, r0: u64) -> Flow {
        self.env().ended = 1;
        Flow::End(r0)
    }

    /// Takes one back edge from the budget; `false` when it is used up.
    #[inline(always)]
    pub(super) fn burn(&self) -> bool {
        let env = self.env();
        let left = env.fuel;
        env.fuel = left.wrapping_sub(1);
        left != 0
    }

    /// Calls a function of the program: `off` is the size of this frame.
    #[inline(always)]
    pub(super) fn call(&self) -> Flow {
        let r0 = self.enter(self.slots(self.op.imm as isize), self.op.off);
        if self.env().ended != 0 {
            return Flow::End(r0);
        }
        self.set_reg(0, r0);
        self.next()
    }

    /// Runs a function of the program with a frame below this one (`frame` bytes), and puts
    /// r6-r10 back.
    #[inline(always)]
    fn enter(&self, target: *const Op, frame: i16) -> u64 {
        let saved = [6, 7, 8, 9, 10].map(|r| self.reg(r));
        self.set_reg(10, self.reg(10).wrapping_sub(frame as u64));
        // SAFETY: calls of a verified program are acyclic, so this recursion ends, and the
        // frames of a chain of calls fit the stack together.
        let r0 = unsafe { (self.env().enter)(target, self.regs, self.env) };
        for (r, v) in [6, 7, 8, 9, 10].into_iter().zip(saved) {
            self.set_reg(r, v);
        }
        r0
    }

    /// Calls the helper whose address the next slot holds, and skips that slot.
    #[inline(always)]
    pub(super) fn helper(&self) -> Flow {
        let f = self.wide();
        // SAFETY: lowering put the address of a `Helper` there.
        let f = unsafe { std::mem::transmute::<usize, Helper>(f as usize) };
        // SAFETY: the verifier checked the arguments against the helper's prototype.
        let r0 =
            unsafe { f(self.env, self.reg(1), self.reg(2), self.reg(3), self.reg(4), self.reg(5)) };
        self.set_reg(0, r0);
        self.skip(2)
    }

    /// `bpf_loop(rounds, callback, ctx, flags)`: the callback is a fixed one, `imm` slots
    /// away; `off` is the size of this frame, `src` not 0 where rounds are metered.
    #[inline(always)]
    pub(super) fn bpf_loop(&self) -> Flow {
        // Not inlined into the operation, and given nothing that lies in its frame: the
        // operation must be able to leave by a jump.
        #[inline(never)]
        unsafe fn rounds(op: *const Op, regs: *mut u64, env: *mut Env<'_>) -> Flow {
            // SAFETY: those of the operation itself.
            unsafe { M::new(op, regs, env) }.rounds()
        }
        // SAFETY: as above.
        unsafe { rounds(self.op, self.regs, self.env) }
    }

    fn rounds(&self) -> Flow {
        let (rounds, ctx, flags) = (u64::from(self.reg(1) as u32), self.reg(3), self.reg(4));
        let target = self.slots(self.op.imm as isize);
        let done = if flags != 0 {
            builtins::err(libc::EINVAL)
        } else if rounds > builtins::MAX_LOOPS {
            builtins::err(libc::E2BIG)
        } else {
            let mut i = 0;
            while i < rounds {
                if self.op.src != 0 && !self.burn() {
                    return self.end_program(builtins::err(libc::ELOOP));
                }
                self.set_reg(1, i);
                self.set_reg(2, ctx);
                let r0 = self.enter(target, self.op.off);
                if self.env().ended != 0 {
                    return Flow::End(r0);
                }
                i += 1;
                if r0 != 0 {
                    break;
                }
            }
            i
        };
        self.set_reg(0, done);
        self.next()
    }

    /// `bpf_skb_load_bytes(ctx, offset, r10 + off, N)`.
    #[inline(always)]
    pub(super) fn load_bytes<const N: usize>(&self, offset: u32) {
        let env = self.env();
        let offset = u64::from(offset);
        let there = offset + N as u64 <= env.len() as u64;
        let bytes = if there {
            // SAFETY: `offset + N` bytes are in the message, as just compared.
            unsafe { env.data.add(offset as usize).cast::<[u8; N]>().read() }
        } else {
            [0; N]
        };
        // SAFETY: the verifier proved that N bytes there are in the stack.
        unsafe { ptr(self.at(self.reg(10))).cast::<[u8; N]>().write(bytes) };
        self.set_reg(0, if there { 0 } else { builtins::err(libc::EFAULT) });
    }

    /// The same for as many bytes as `src` says.
    #[inline(always)]
    pub(super) fn load_bytes_n(&self, offset: u32) {
        let env = self.env();
        let (offset, n) = (u64::from(offset), usize::from(self.op.src));
        let there = offset + n as u64 <= env.len() as u64;
        let to = ptr(self.at(self.reg(10)));
        if there {
            // SAFETY: `offset + n` bytes are in the message, as just compared; the verifier
            // proved that `n` bytes there are in the stack.
            unsafe { to.copy_from_nonoverlapping(env.data.add(offset as usize), n) };
        } else {
            // SAFETY: the verifier proved that `n` bytes there are in the stack.
            unsafe { to.write_bytes(0, n) };
        }
        self.set_reg(0, if there { 0 } else { builtins::err(libc::EFAULT) });
    }

    /// `LD_ABS` and `LD_IND`: big-endian, and the end of the program where the message ends.
    #[inline(always)]
    pub(super) fn legacy<const N: usize>(&self, offset: u32) -> Flow {
        match builtins::legacy::<N>(self.env().msg(), offset) {
            Some(v) => {
                self.set_reg(0, v);
                self.next()
            }
            None => self.end_program(0),
        }
    }
}
