//! The message as a byte slice: every target but BPF.

use super::{Message, Word};
use crate::Stop;

#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    bytes: &'a [u8],
}

impl View<'_> {
    #[inline(always)]
    pub(super) fn in_kernel(&self) -> bool {
        false
    }

    #[inline(always)]
    pub(super) fn unknown_zero(&self) -> u64 {
        0
    }

    /// Takes a step until it gives something or fails, `rounds` times at most.
    #[inline(always)]
    pub(super) fn repeat<R>(
        &self,
        rounds: u32,
        step: impl FnMut() -> Result<Option<R>, Stop>,
    ) -> Result<Option<R>, Stop> {
        super::steps(rounds, step)
    }

    #[inline(always)]
    pub(super) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    #[inline(always)]
    pub(super) fn load<T: Word>(&self, at: u64) -> Result<T, Stop> {
        let load = || {
            let start = usize::try_from(at).ok()?;
            T::from_slice(self.bytes.get(start..start.checked_add(size_of::<T>())?)?)
        };
        load().ok_or(Stop::NEED_MORE)
    }

    /// The bytes from `at` on, which are fewer than eight, as a little-endian number, and how
    /// many they are.
    #[inline(always)]
    pub(super) fn tail(&self, at: u64) -> (u64, u64) {
        let start = usize::try_from(at).unwrap_or(usize::MAX);
        let tail = self.bytes.get(start..).unwrap_or_default();
        let word = tail.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
        (word, tail.len() as u64)
    }
}

impl<'a> Message<'a> {
    /// The message so far as a byte slice (not on the BPF target, where only the program's
    /// context makes a message).
    #[inline(always)]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self::from_view(View { bytes })
    }
}
