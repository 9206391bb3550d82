//! The message as the socket buffer of a BPF program's context.
#![allow(unsafe_code)] // a context pointer and a helper call: there is no safe form of them

use core::{marker::PhantomData, mem::MaybeUninit};

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};

use super::{Message, Word};
use crate::Stop;

pub(super) struct View<'a> {
    skb: *mut __sk_buff,
    /// Where the message starts in the socket buffer. In process the buffer is exactly the
    /// message so far (semantics J1) and this is the constant 0, which folds away. A kernel
    /// shows the segment instead (semantics B8): the engine that runs there builds its entry
    /// point with the offset it takes from `strp_msg`.
    base: u64,
    context: PhantomData<&'a __sk_buff>,
}

impl View<'_> {
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
        if failed != 0 {
            return (0, 0);
        }
        (word, have)
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
        Self::from_view(View { skb, base: 0, context: PhantomData })
    }

    /// The message that starts at `base` in the socket buffer of a kernel's context.
    ///
    /// # Safety
    /// As [`from_context`](Self::from_context).
    #[inline(always)]
    pub(crate) unsafe fn from_segment(skb: *mut __sk_buff, base: u32) -> Self {
        Self::from_view(View { skb, base: u64::from(base), context: PhantomData })
    }
}
