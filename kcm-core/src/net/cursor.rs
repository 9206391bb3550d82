//! The batch from which a KCM socket's `recv` takes message after message without the
//! multiplexor's lock.
//!
//! Its messages are lent ([`Mux::lend`](crate::mux::Mux::lend)): unread, but out of the queue.
//! What was read of them is settled with the multiplexor before anything is measured: before
//! messages are steered, statistics are told, options change; and whenever the lock is taken
//! for a receive. The last message of a batch is always taken under the lock, and so is the one
//! with which a full socket comes below its low water: it takes messages again (semantics J15).
//! Whatever else is done with the socket's messages gives the rest back first.

use parking_lot::Mutex;

use crate::message::{Batch, Message};

/// What is lent.
#[derive(Debug, Default)]
pub(super) struct Lent {
    /// Never empty.
    pub(super) batch: Option<Batch>,
    /// Read of it, and not settled.
    pub(super) msgs: usize,
    pub(super) bytes: usize,
    /// `bytes` may not become more than this.
    pub(super) slack: usize,
}

/// A KCM socket's lent batch. The lock is a leaf, and held for moments.
#[derive(Debug, Default)]
pub(super) struct Cursor(Mutex<Lent>);

impl Cursor {
    /// The next message, if it can be taken without the multiplexor's lock.
    pub(super) fn pop(&self) -> Option<Message> {
        let mut lent = self.0.lock();
        let lent = &mut *lent;
        let batch = lent.batch.as_mut().filter(|batch| batch.len() > 1)?;
        let bytes = lent.bytes + batch.first()?.len();
        if bytes > lent.slack {
            return None;
        }
        let message = batch.pop()?;
        lent.msgs += 1;
        lent.bytes = bytes;
        Some(message)
    }

    /// Changes it, under the multiplexor's lock.
    pub(super) fn with<R>(&self, call: impl FnOnce(&mut Lent) -> R) -> R {
        call(&mut self.0.lock())
    }

    /// Something is lent and unread.
    pub(super) fn is_lending(&self) -> bool {
        self.0.lock().batch.is_some()
    }
}
