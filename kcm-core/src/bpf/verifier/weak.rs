//! What the verifier would be with one of its rules forgotten: to show that the tests of what it
//! accepts can fail. In no build but that of the tests.

use std::cell::Cell;

/// A rule that is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weakness {
    /// Nothing is before the message.
    PacketStart,
    /// The stack counts as written.
    StackInit,
    /// A 32-bit comparison bounds all 64 bits (as in CVE-2020-8835).
    LowWord,
    /// Paths are cut off whatever the numbers are (as in CVE-2023-2163).
    Precision,
}

thread_local!(static NOW: Cell<Option<Weakness>> = const { Cell::new(None) });

/// Whether this thread's verifier has it.
pub(super) fn has(weakness: Weakness) -> bool {
    NOW.get() == Some(weakness)
}

/// Runs something with a weak verifier on this thread.
pub(super) fn with<R>(weakness: Weakness, run: impl FnOnce() -> R) -> R {
    NOW.set(Some(weakness));
    let result = run();
    NOW.set(None);
    result
}
