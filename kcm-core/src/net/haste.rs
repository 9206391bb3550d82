//! Whether somebody would profit from shorter turns.
//!
//! Tasks do much in one turn where that is cheapest: a connection is read empty, a socket is read
//! by the batch. As long as every connection has much to say nobody minds. A connection that has
//! little to say does: its message waits for whatever is being done, and for the runtime to look
//! whether it has come at all. Such a message is the sign for all tasks of the multiplexor to make
//! their turns short for a while.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A connection that was read empty and brought no more than this has little to say.
const LITTLE: usize = 16 * 1024;

/// So many turns of connections with more to say are short after that.
const TURNS: usize = 64;

/// A hint: counts may be lost.
#[derive(Debug, Default)]
pub(super) struct Haste(AtomicUsize);

impl Haste {
    pub(super) fn is_on(&self) -> bool {
        self.0.load(Relaxed) > 0
    }

    /// A connection was read; `empty`: there was no more.
    pub(super) fn had_turn(&self, read: usize, empty: bool) {
        let left = self.0.load(Relaxed);
        if empty && (1..=LITTLE).contains(&read) {
            if left < TURNS {
                self.0.store(TURNS, Relaxed);
            }
        } else if read > LITTLE && left > 0 {
            self.0.store(left - 1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_short_for_a_while_after_a_connection_with_little_to_say() {
        let haste = Haste::default();
        haste.had_turn(1 << 20, true);
        haste.had_turn(100, false);
        haste.had_turn(0, true);
        assert!(!haste.is_on(), "nobody had little to say");
        haste.had_turn(100, true);
        for _ in 0..TURNS {
            assert!(haste.is_on());
            haste.had_turn(1 << 20, false);
        }
        assert!(!haste.is_on());
    }
}
