//! References to a block, counted once for many messages.
//!
//! A message of its own needs a reference to the block that it lies in. Taken one by one, each
//! costs an atomic operation and a call through [`Bytes`]' table. A [`Lender`] takes as many as
//! there are messages at once, and hands them out without any.
#![allow(unsafe_code)] // a reference count of our own

use std::{
    fmt,
    mem::ManuallyDrop,
    ops::{Deref, Range},
    ptr::NonNull,
    sync::atomic::{AtomicUsize, Ordering, fence},
};

use bytes::{Buf, Bytes};

use super::PsockId;

/// A block, and how many references to it there are: the lender's and its messages'.
struct Inner {
    count: AtomicUsize,
    block: Bytes,
    psock: PsockId,
}

/// Names a lender's block to whoever hands its references out ([`Lender::name`]).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Name(NonNull<Inner>);

impl Name {
    /// As a word.
    pub(crate) fn into_raw(self) -> *mut () {
        self.0.as_ptr().cast()
    }
}

/// References to a block that are to be handed out.
pub(crate) struct Lender {
    /// Alive while `left > 0`.
    inner: NonNull<Inner>,
    left: usize,
}

// SAFETY: it is a count of references to an `Inner`, whose count is atomic and whose other parts
// are not changed while there are any, and are `Send` and `Sync` themselves.
unsafe impl Send for Lender {}
// SAFETY: as above; through a shared reference nothing can be done with it.
unsafe impl Sync for Lender {}

impl Lender {
    /// `messages` references to a block.
    pub(crate) fn new(block: Bytes, psock: PsockId, messages: usize) -> Self {
        let inner = Box::new(Inner { count: AtomicUsize::new(messages), block, psock });
        let mut lender = Lender { inner: NonNull::from(Box::leak(inner)), left: messages };
        if messages == 0 {
            // Nobody would free it.
            lender.inner = free(lender.inner);
        }
        lender
    }

    /// Takes one reference, with a part of the block. None: none is left, or the block has no
    /// such part.
    pub(crate) fn take(&mut self, from: u32, to: u32) -> Option<Part> {
        if self.left == 0 {
            return None;
        }
        // SAFETY: `left` references of `count` are ours, so it is alive.
        unsafe { self.inner.as_ref() }.block.get(from as usize..to as usize)?;
        self.left -= 1;
        Some(Part { inner: self.inner, place: place(from, to) })
    }

    /// The name under which others may [`claim`](Part::claim) references, which must be
    /// [`handed_out`](Self::handed_out) before this is dropped.
    pub(crate) fn name(&self) -> Name {
        Name(self.inner)
    }

    /// Others have claimed `n` of the references.
    ///
    /// # Safety
    /// By [`Part::claim`], with this lender's name, and for no other's account.
    pub(crate) unsafe fn handed_out(&mut self, n: usize) {
        debug_assert!(n <= self.left);
        self.left -= n;
    }
}

impl Drop for Lender {
    fn drop(&mut self) {
        if self.left > 0 {
            release(self.inner, self.left);
        }
    }
}

impl fmt::Debug for Lender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lender").field("left", &self.left).finish_non_exhaustive()
    }
}

/// A part of a block, and one reference to it.
///
/// Two words, so that it is moved in registers, or word by word: three are stored one by one and
/// then loaded two at a time, for which the processor waits until they are in the cache. That
/// was a seventh of what a message cost.
pub(crate) struct Part {
    inner: NonNull<Inner>,
    /// Where in the block, and in the upper half how many bytes.
    place: u64,
}

/// A part's place. The block has it.
#[inline]
fn place(from: u32, to: u32) -> u64 {
    u64::from(to - from) << 32 | u64::from(from)
}

// SAFETY: bytes that nobody changes, and a reference to an `Inner` (see `Lender`).
unsafe impl Send for Part {}
// SAFETY: as above.
unsafe impl Sync for Part {}

impl Part {
    /// One reference of a lender's, with a part of its block.
    ///
    /// # Safety
    /// `name` is the [`Name`] of a lender. Of its `left` references one is not claimed by
    /// anybody else, and the lender will be told that it is
    /// [`handed out`](Lender::handed_out). `from..to` is a part of its block.
    #[inline]
    pub(crate) unsafe fn claim(name: *mut (), from: u32, to: u32) -> Part {
        // SAFETY: a name is a pointer, and not null.
        let inner = unsafe { NonNull::new_unchecked(name.cast::<Inner>()) };
        Part { inner, place: place(from, to) }
    }

    /// All of a block; of one of 4 GiB and more, which no message has, the beginning.
    pub(crate) fn new(block: Bytes, psock: PsockId) -> Part {
        let len = u32::try_from(block.len()).unwrap_or(u32::MAX);
        let inner = Box::new(Inner { count: AtomicUsize::new(1), block, psock });
        Part { inner: NonNull::from(Box::leak(inner)), place: place(0, len) }
    }

    #[inline]
    fn inner(&self) -> &Inner {
        // SAFETY: made by `Box::leak`; one reference is ours, so it is alive.
        unsafe { self.inner.as_ref() }
    }

    #[inline]
    fn range(&self) -> Range<usize> {
        let from = self.place as u32 as usize;
        from..from + (self.place >> 32) as usize
    }

    /// The connection it came from.
    pub(crate) fn psock(&self) -> PsockId {
        self.inner().psock
    }

    /// The bytes, with a reference count of the block's own kind.
    pub(crate) fn into_bytes(self) -> Bytes {
        // Acquire: what others did with it comes before.
        if self.inner().count.load(Ordering::Acquire) > 1 {
            return self.inner().block.slice(self.range());
        }
        let range = self.range();
        let this = ManuallyDrop::new(self);
        // SAFETY: made by `Box::leak`. Ours is the only reference, and nobody else can make
        // another of it; it is not dropped (`ManuallyDrop`).
        let mut inner = unsafe { Box::from_raw(this.inner.as_ptr()) };
        let mut block = std::mem::take(&mut inner.block);
        block.truncate(range.end);
        block.advance(range.start);
        block
    }
}

impl Deref for Part {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: it was made with a part of this block, which is not changed while there is a
        // reference to it, as ours.
        unsafe { self.inner().block.get_unchecked(self.range()) }
    }
}

impl Clone for Part {
    fn clone(&self) -> Self {
        // References that fill the memory do not overflow, but forgotten ones take none.
        if self.inner().count.fetch_add(1, Ordering::Relaxed) > isize::MAX as usize {
            std::process::abort();
        }
        Part { inner: self.inner, place: self.place }
    }
}

impl Drop for Part {
    #[inline]
    fn drop(&mut self) {
        release(self.inner, 1);
    }
}

/// Gives `n` references up, which must be the caller's.
#[inline]
fn release(inner: NonNull<Inner>, n: usize) {
    // SAFETY: the references were the caller's until now, so it is alive.
    if unsafe { inner.as_ref() }.count.fetch_sub(n, Ordering::Release) == n {
        free(inner);
    }
}

/// Frees it: there is no reference left. Returns a pointer to nothing.
#[cold]
fn free(inner: NonNull<Inner>) -> NonNull<Inner> {
    // What others did with it comes before.
    fence(Ordering::Acquire);
    // SAFETY: made by `Box::leak` in `Lender::new`; whoever gives up the last reference is the
    // only one who comes here.
    drop(unsafe { Box::from_raw(inner.as_ptr()) });
    NonNull::dangling()
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    const P: PsockId = PsockId { index: 3, generation: 1 };

    /// A block, and whether nobody else has it any more.
    fn block() -> (BytesMut, Bytes) {
        let mut buf = BytesMut::with_capacity(4096);
        buf.extend_from_slice(&[7; 4096]);
        let block = buf.split_to(4096).freeze();
        (buf, block)
    }

    #[test]
    fn a_block_is_held_until_the_last_reference_is_gone_in_any_order() {
        for order in 0..4 {
            let (mut buf, bytes) = block();
            let mut lender = Lender::new(bytes, P, 3);
            let first = lender.take(0, 10).unwrap();
            let name = lender.name();
            // SAFETY: one of the two that are left, told of in the next line.
            let second = unsafe { Part::claim(name.into_raw(), 10, 30) };
            // SAFETY: claimed just now.
            unsafe { lender.handed_out(1) };
            assert_eq!((first.len(), second.len(), second[0], second.psock()), (10, 20, 7, P));
            let copy = second.clone();
            let out = copy.clone().into_bytes();
            assert_eq!(out, [7; 20][..]);
            let mut all: Vec<Box<dyn std::any::Any>> = vec![
                Box::new(lender),
                Box::new(first),
                Box::new(second),
                Box::new(copy),
                Box::new(out),
            ];
            all.rotate_left(order);
            while let Some(one) = all.pop() {
                assert!(!buf.try_reclaim(4096));
                drop(one);
            }
            assert!(buf.try_reclaim(4096));
        }
    }

    #[test]
    fn no_more_references_are_handed_out_than_there_are_nor_parts_beyond_the_block() {
        let (mut buf, bytes) = block();
        let mut lender = Lender::new(bytes, P, 1);
        assert!(lender.take(4000, 4097).is_none() && lender.take(2, 1).is_none());
        let part = lender.take(4000, 4096).unwrap();
        assert!(lender.take(0, 1).is_none());
        drop(lender);
        assert_eq!(part.len(), 96);
        drop(part);
        assert!(buf.try_reclaim(4096));
        let (mut buf, bytes) = block();
        assert!(Lender::new(bytes, P, 0).take(0, 1).is_none());
        assert!(buf.try_reclaim(4096));
    }
}
