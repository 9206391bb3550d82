//! The message as the socket buffer of a BPF program's context.
#![allow(unsafe_code)] // a context pointer and a helper call: there is no safe form of them

use core::{ffi::c_void, marker::PhantomData, mem::MaybeUninit};

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_loop, bpf_probe_read_kernel, bpf_skb_load_bytes},
};

use super::{Message, Word};
use crate::Stop;

#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    skb: *mut __sk_buff,
    /// Where the message starts in the socket buffer. In process the buffer is exactly the
    /// message so far (semantics J1) and this is the constant 0, which folds away. A kernel
    /// shows the segment instead (semantics B8): the engine that runs there builds its entry
    /// point with the offset it takes from `strp_msg`.
    base: u64,
    /// The program is for a kernel. A constant in each of the two forms of a program, as `base`
    /// is, so that neither has code of the other.
    in_kernel: bool,
    context: PhantomData<&'a __sk_buff>,
}

/// In a map that can be written to, so that its value is not known when the program is loaded.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data")]
static mut KCM_ZERO: u64 = 0;

/// A loop's step, and what it ended with.
struct Loop<F, R> {
    step: F,
    result: Result<Option<R>, Stop>,
}

/// One round of a loop that a kernel counts; not 0 ends it.
extern "C" fn round<F, R>(_: u64, context: *mut c_void) -> i64
where
    F: FnMut() -> Result<Option<R>, Stop>,
{
    // SAFETY: `repeat` gives this function a `Loop<F, R>`, which nobody else uses meanwhile.
    let Loop { step, result } = unsafe { &mut *context.cast::<Loop<F, R>>() };
    match step() {
        Ok(None) => 0,
        end => {
            *result = end;
            1
        }
    }
}

impl View<'_> {
    #[inline(always)]
    pub(super) fn in_kernel(&self) -> bool {
        self.in_kernel
    }

    /// 0, which a kernel's verifier does not know to be that: what it knows it follows through
    /// every round of a loop.
    #[inline(always)]
    pub(super) fn unknown_zero(&self) -> u64 {
        // SAFETY: a variable of the program that nobody writes to.
        unsafe { (&raw const KCM_ZERO).read_volatile() }
    }

    /// Takes a step until it gives something or fails, `rounds` times at most.
    ///
    /// A kernel's verifier follows every round of a loop and gives up after some thousands of
    /// jumps; a loop whose rounds the kernel itself counts it follows once.
    #[inline(always)]
    pub(super) fn repeat<F, R>(&self, rounds: u32, step: F) -> Result<Option<R>, Stop>
    where
        F: FnMut() -> Result<Option<R>, Stop>,
    {
        if !self.in_kernel {
            return super::steps(rounds, step);
        }
        let mut all = Loop { step, result: Ok(None) };
        // SAFETY: the helper calls the function with the context that it is given here,
        // which outlives the call.
        unsafe {
            let body: extern "C" fn(u64, *mut c_void) -> i64 = round::<F, R>;
            bpf_loop(rounds, body as *mut c_void, (&raw mut all).cast(), 0);
        }
        all.result
    }

    #[inline(always)]
    pub(super) fn len(&self) -> u64 {
        // SAFETY: `from_context` was given the context of the running program, which stays
        // readable for as long as the program runs; `len` is a field every program may read.
        let whole = unsafe { (*self.skb).len };
        u64::from(whole).wrapping_sub(self.base)
    }

    #[inline(always)]
    pub(super) fn load<T: Word>(&self, at: u64) -> Result<T, Stop> {
        let at = self.base + at;
        // The helper takes 32 bits and refuses what is beyond the buffer; only a position
        // that would wrap into the buffer has to be caught here.
        if at > u64::from(u32::MAX) {
            return Err(Stop::NEED_MORE);
        }
        let mut word = MaybeUninit::<T>::uninit();
        // SAFETY: the context is the program's own, and `word` has room for the size given.
        let failed = unsafe {
            bpf_skb_load_bytes(
                self.skb.cast(),
                at as u32,
                word.as_mut_ptr().cast(),
                size_of::<T>() as u32,
            )
        };
        if failed != 0 {
            return Err(Stop::NEED_MORE);
        }
        // SAFETY: the helper returned 0: it has written every byte of `word`, and any bytes
        // make a valid unsigned integer.
        Ok(unsafe { word.assume_init() })
    }

    /// The bytes from `at` on, which are fewer than eight, as a little-endian number, and how
    /// many they are.
    ///
    /// One load of variable size: as loads of 4, 2 and 1 bytes this would be eight ways
    /// through every scan, each of which a verifier has to follow.
    #[inline(always)]
    pub(super) fn tail(&self, at: u64) -> (u64, u64) {
        let len = self.len();
        if at >= len {
            return (0, 0);
        }
        // Below eight anyway; the mask is what shows it to a verifier.
        let have = (len - at) & 7;
        if have == 0 {
            return (0, 0);
        }
        if self.in_kernel {
            // A size has to be exact, and one that comes of the position would have the kernel's
            // verifier follow the position's every value, and so every round of a loop. Through
            // a copy it cannot see where the number comes from.
            let (mut copy, from) = (0u64, have);
            // SAFETY: both are numbers of 8 bytes.
            unsafe {
                bpf_probe_read_kernel((&raw mut copy).cast(), 8, (&raw const from).cast());
            }
            let have = copy & 7;
            return if have == 0 { (0, 0) } else { self.load_some(at, have) };
        }
        self.load_some(at, have)
    }

    /// `have` bytes, 1 to 7.
    #[inline(always)]
    fn load_some(&self, at: u64, have: u64) -> (u64, u64) {
        let mut word = 0u64;
        // SAFETY: the context is the program's own, and `have`, at most 7, is less than the
        // size of `word`.
        let failed = unsafe {
            bpf_skb_load_bytes(
                self.skb.cast(),
                (self.base + at) as u32,
                (&raw mut word).cast(),
                have as u32,
            )
        };
        if failed != 0 { (0, 0) } else { (word, have) }
    }
}

impl Message<'_> {
    /// The message in a program's context; `parser!` calls this.
    ///
    /// # Safety
    /// `skb` must be the context that the running program was called with, and the value
    /// must not outlive the call.
    #[doc(hidden)]
    #[inline(always)]
    pub unsafe fn from_context(skb: *mut __sk_buff) -> Self {
        Self::from_view(View { skb, base: 0, in_kernel: false, context: PhantomData })
    }

    /// The message that starts at `base` in the socket buffer of a kernel's context.
    ///
    /// # Safety
    /// As [`from_context`](Self::from_context).
    #[inline(always)]
    pub(crate) unsafe fn from_segment(skb: *mut __sk_buff, base: u32) -> Self {
        Self::from_view(View { skb, base: u64::from(base), in_kernel: true, context: PhantomData })
    }
}
