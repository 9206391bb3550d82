//! Marks of messages that are taken one by one by several threads, without a lock.

use super::sync::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// A word that says it all: how often marks were laid out, how many were taken, how many may be.
/// It changes with each mark taken, so a mark that was read and is then taken by a change of
/// just this word was still laid out. (Its first part comes back after 2^40 times, which nobody
/// sleeps through.)
#[derive(Clone, Copy)]
struct State(u64);

impl State {
    const BITS: u32 = 12;
    const MASK: u64 = (1 << Self::BITS) - 1;
    const ONE: u64 = 1 << Self::BITS;

    fn at(self) -> usize {
        (self.0 >> Self::BITS & Self::MASK) as usize
    }

    fn limit(self) -> usize {
        (self.0 & Self::MASK) as usize
    }

    /// The next round, of which nothing was taken.
    fn next(self, limit: usize) -> State {
        let round = (self.0 >> (2 * Self::BITS)).wrapping_add(1) << (2 * Self::BITS);
        State(round | limit as u64 & Self::MASK)
    }
}

/// Who has taken a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// What was said when it was laid out.
    pub(super) of: *mut (),
    pub(super) from: u32,
    pub(super) to: u32,
}

/// One atomic operation a message: whoever moves the count on has the message.
///
/// One at a time lays marks out, looks and closes; others take. It has `N` marks, for one message
/// less, and less than 4096.
#[derive(Debug)]
pub(super) struct Claims<const N: usize> {
    state: AtomicU64,
    of: AtomicPtr<()>,
    /// Message `n` is from mark `n` to the next.
    marks: [AtomicU32; N],
}

impl<const N: usize> Claims<N> {
    pub(super) fn new() -> Self {
        const { assert!(N > 0 && N as u64 <= State::MASK) };
        Claims {
            state: AtomicU64::new(0),
            of: AtomicPtr::new(std::ptr::null_mut()),
            marks: std::array::from_fn(|_| AtomicU32::new(0)),
        }
    }

    /// Takes the next mark. With `turns`, not every 16th: for who has to let others have their
    /// turn now and then.
    #[inline]
    pub(super) fn take(&self, turns: bool) -> Option<Claim> {
        // With what was laid out before it.
        let mut seen = self.state.load(Ordering::Acquire);
        loop {
            let state = State(seen);
            let at = state.at();
            if at >= state.limit() || (turns && at % 16 == 15) {
                return None;
            }
            let of = self.of.load(Ordering::Relaxed);
            let from = self.marks.get(at)?.load(Ordering::Relaxed);
            let to = self.marks.get(at + 1)?.load(Ordering::Relaxed);
            // Release: who closes sees the word changed by us, so that we have not read what
            // he lays out next.
            match self.state.compare_exchange_weak(
                seen,
                seen + State::ONE,
                Ordering::Release,
                Ordering::Acquire,
            ) {
                Ok(_) => return Some(Claim { of, from, to }),
                Err(now) => seen = now,
            }
        }
    }

    /// Lays marks out, after [`close`](Self::close): the first message's start, and the
    /// ends of as many as there is room for.
    pub(super) fn lay_out(&self, of: *mut (), start: u32, ends: &[u32]) {
        self.of.store(of, Ordering::Relaxed);
        let ends = ends.get(..N - 1).unwrap_or(ends);
        for (mark, at) in self.marks.iter().zip(std::iter::once(&start).chain(ends)) {
            mark.store(*at, Ordering::Relaxed);
        }
        // Nobody else changes it while it is closed.
        let closed = State(self.state.load(Ordering::Relaxed));
        self.state.store(closed.next(ends.len()).0, Ordering::Release);
    }

    /// How many were taken since marks were laid out.
    pub(super) fn taken(&self) -> usize {
        State(self.state.load(Ordering::Acquire)).at()
    }

    /// Lets nobody take any more; how many were taken.
    pub(super) fn close(&self) -> usize {
        let state = State(self.state.load(Ordering::Relaxed));
        // Acquire: who has taken one before had read all he read.
        State(self.state.swap(state.next(0).0, Ordering::Acquire)).at()
    }
}

impl<const N: usize> Default for Claims<N> {
    fn default() -> Self {
        Self::new()
    }
}
