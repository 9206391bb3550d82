//! The message as a byte slice: every target but BPF.

use super::{Message, Word};
use crate::Stop;

pub(super) struct View<'a> {
    bytes: &'a [u8],
}

impl View<'_> {
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
        load().ok_or(Stop::NeedMore)
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
