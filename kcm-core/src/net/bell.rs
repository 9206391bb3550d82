//! How a connection's task is told something: a bit, and a wake-up if it needs one.

use std::task::Waker;

use super::sync::{AtomicU8, Mutex, Ordering};

/// The task is going to look: nobody needs to wake it.
pub(super) const AWAKE: u8 = 0x80;

/// Rung by anybody, answered by one task. A ring is never lost: either the task sees the bit
/// when it looks, or the ringer sees whom to wake. That takes the order in which both do it:
/// the ringer sets the bit and then looks for the waker; the task leaves its waker
/// ([`answered_by`](Self::answered_by)) and then takes the bits.
///
/// With [`AWAKE`] a ring costs no wake-up. Whoever sets it sees to it that the task runs: a
/// ringer wakes it, the task itself arranges for another turn. It is cleared only together
/// with a look at the other bits ([`rest`](Self::rest)), so a ringer who saw it was seen.
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
        match self.bits.fetch_or(bit, Ordering::AcqRel) & AWAKE {
            0 => self.waker(),
            _ => None,
        }
    }

    /// Takes what the task was told.
    pub(super) fn take(&self) -> u8 {
        self.bits.fetch_and(AWAKE, Ordering::AcqRel) & !AWAKE
    }

    /// Takes one thing from the task, so that somebody else does it. False: it was not told
    /// that, or has taken it already.
    pub(super) fn take_over(&self, bit: u8) -> bool {
        self.bits.fetch_and(!bit, Ordering::AcqRel) & bit != 0
    }

    /// True if the task is going to look anyhow.
    pub(super) fn awake(&self) -> bool {
        self.bits.load(Ordering::Acquire) & AWAKE != 0
    }

    /// The task will look again without being woken. False if that was so already.
    pub(super) fn stay_awake(&self) -> bool {
        self.bits.fetch_or(AWAKE, Ordering::AcqRel) & AWAKE == 0
    }

    /// The task will not look again until it is woken. True if it must look once more, for it
    /// was told something.
    pub(super) fn rest(&self) -> bool {
        self.bits.fetch_and(!AWAKE, Ordering::AcqRel) & !AWAKE != 0
    }

    /// True if there is something to take.
    pub(super) fn rung(&self) -> bool {
        self.bits.load(Ordering::Acquire) & !AWAKE != 0
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
