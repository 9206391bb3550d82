//! Where a thread is inside a connection, and must not wait for one.
//!
//! A parser, or a stream of the user's own type, is called with a connection's lock held. What
//! it does in there with other connections is its matter, but to take one out of use would
//! need that connection's locks: its own, which it holds, or those of one whose parser is
//! waiting for this one (kernel-faults row 63). So such calls are refused with EDEADLK, and
//! what must happen all the same, as the end of connections when the last socket is dropped in
//! there, is done when the thread is out again.

use std::{
    cell::{Cell, RefCell},
    sync::Arc,
};

use super::{psock::PsockShared, shared::Shared};

/// A connection to be dropped: what it belonged to, and whether a message was sent in part.
type Dropped = (Arc<PsockShared>, Arc<Shared>, bool);

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static LATER: RefCell<Vec<Dropped>> = const { RefCell::new(Vec::new()) };
}

/// This thread is inside a connection as long as this lives. Make it before the connection's
/// lock is taken, so that it goes after that is released.
pub(super) struct Inside(());

pub(super) fn enter() -> Inside {
    DEPTH.set(DEPTH.get() + 1);
    Inside(())
}

/// This thread must not wait for a connection's locks.
pub(super) fn is_inside() -> bool {
    DEPTH.get() > 0
}

/// Drops a connection's stream, now or when this thread is out.
pub(super) fn drop_stream(psock: Arc<PsockShared>, shared: &Arc<Shared>, desynchronised: bool) {
    match is_inside() {
        true => LATER.with_borrow_mut(|later| later.push((psock, shared.clone(), desynchronised))),
        false => psock.drop_stream(shared, desynchronised),
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let depth = DEPTH.get() - 1;
        DEPTH.set(depth);
        if depth == 0 {
            for (psock, shared, desynchronised) in LATER.take() {
                psock.drop_stream(&shared, desynchronised);
            }
        }
    }
}
