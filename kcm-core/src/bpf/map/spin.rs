//! A lock held for a few dozen instructions, by programs that may not sleep or allocate.

use super::sync::{AtomicBool, Ordering::*, spin_loop, yield_now};

#[derive(Default)]
pub(super) struct Spin(AtomicBool);

/// Unlocks when dropped.
pub(super) struct Held<'a>(&'a Spin);

impl Spin {
    pub(super) fn lock(&self) -> Held<'_> {
        let mut wait = Backoff::default();
        while self.0.compare_exchange_weak(false, true, Acquire, Relaxed).is_err() {
            wait.pause();
        }
        Held(self)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.0.store(false, Release);
    }
}

/// Spins a little, then gives the processor to whoever is being waited for: the holder may
/// have been preempted.
#[derive(Default)]
pub(crate) struct Backoff(u32);

impl Backoff {
    pub(crate) fn pause(&mut self) {
        self.0 = self.0.saturating_add(1);
        if self.0 < 64 {
            spin_loop();
        } else {
            yield_now();
        }
    }
}
