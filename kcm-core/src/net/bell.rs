//! How a connection's task is told something: a bit, and a wake-up.

use std::task::Waker;

use super::sync::{AtomicU8, Mutex, Ordering};

/// Rung by anybody, answered by one task. A ring is never lost: either the task sees the bit
/// when it looks, or the ringer sees whom to wake. That takes the order in which both do it:
/// the ringer sets the bit and then looks for the waker; the task leaves its waker
/// ([`answered_by`](Self::answered_by)) and then takes the bits.
#[derive(Debug)]
pub(super) struct Bell {
    bits: AtomicU8,
    waker: Mutex<Option<Waker>>,
}

impl Bell {
    pub(super) fn new() -> Self {
        Bell { bits: AtomicU8::new(0), waker: Mutex::new(None) }
    }

    /// Tells the task something; returns whom to wake for it.
    pub(super) fn ring(&self, bit: u8) -> Option<Waker> {
        self.bits.fetch_or(bit, Ordering::AcqRel);
        self.waker()
    }

    /// Takes what the task was told.
    pub(super) fn take(&self) -> u8 {
        self.bits.swap(0, Ordering::AcqRel)
    }

    /// True if there is something to take.
    pub(super) fn rung(&self) -> bool {
        self.bits.load(Ordering::Acquire) != 0
    }

    /// The task says how to wake it. False if that is as before.
    pub(super) fn answered_by(&self, waker: &Waker) -> bool {
        let mut place = self.waker.lock();
        if place.as_ref().is_some_and(|old| old.will_wake(waker)) {
            return false;
        }
        *place = Some(waker.clone());
        true
    }

    /// Nobody answers any more.
    pub(super) fn unanswered(&self) {
        *self.waker.lock() = None;
    }

    /// Whom a ring wakes.
    pub(super) fn waker(&self) -> Option<Waker> {
        self.waker.lock().clone()
    }
}
