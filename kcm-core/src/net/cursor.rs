//! The batch from which a KCM socket's `recv` takes message after message without the
//! multiplexor's lock.
//!
//! Its messages are lent ([`Mux::lend`](crate::mux::Mux::lend)): unread, but out of the queue.
//! What was read of them is settled with the multiplexor before anything is measured: before
//! messages are steered, statistics are told, options change; and whenever the lock is taken
//! for a receive. The last message of a batch is always taken under the lock, and so is the one
//! with which a full socket comes below its low water: it takes messages again (semantics J15).
//! Whatever else is done with the socket's messages gives the rest back first.
//!
//! The references that the messages need are counted once for all of them ([`Lender`]), and each
//! is taken with one atomic operation ([`Claims`]): a lock, a look at the batch and a reference
//! were half of what a message cost.
#![allow(unsafe_code)] // references handed out by one and claimed by another

use std::sync::Arc;

use super::claims;
use crate::message::{Batch, Lender, Message, Part};

/// Batches of fewer messages are not worth lending: the first and the last are taken under the
/// lock in any case.
pub(super) const LEAST: usize = 4;

/// Messages laid out at once. More would take longer to lay out than they save calls on the
/// multiplexor.
const MESSAGES: usize = 128;

type Claims = claims::Claims<{ MESSAGES + 1 }>;

/// Where a KCM socket's receivers take messages.
#[derive(Clone, Debug, Default)]
pub(super) struct Cursor(Arc<Claims>);

impl Cursor {
    /// The next message, if it can be taken without the multiplexor's lock. With `turns`, not
    /// every 16th.
    #[inline]
    pub(super) fn pop(&self, turns: bool) -> Option<Message> {
        let claim = self.0.take(turns)?;
        // SAFETY: `Lent::lay_out` laid this out with the name of its lender and marks of messages
        // of its batch, not more than it has references. Each is claimed once, and `Lent` tells
        // the lender of it before it drops it (`catch_up` after `close`).
        let part = unsafe { Part::claim(claim.of, claim.from, claim.to) };
        Some(Message::of_part(part))
    }
}

/// What is lent, with the multiplexor's lock: it has the only view that says how much was read.
#[derive(Debug)]
struct Loan {
    /// Unread as far as known. Never empty.
    batch: Batch,
    /// A reference for each message of it.
    lender: Lender,
}

/// The lending side of a [`Cursor`].
#[derive(Debug, Default)]
pub(super) struct Lent {
    claims: Arc<Claims>,
    loan: Option<Loan>,
    /// How many claims we know of since they were laid out.
    seen: usize,
    /// So many bytes may be read of it without the lock.
    slack: usize,
}

/// Messages and their bytes.
pub(super) type Amount = (usize, usize);

impl Lent {
    pub(super) fn cursor(&self) -> Cursor {
        Cursor(self.claims.clone())
    }

    /// Something is lent, and at least its last message is unread.
    pub(super) fn is_lending(&self) -> bool {
        self.loan.is_some()
    }

    /// What may be read of it was found out with this.
    pub(super) fn slack(&self) -> usize {
        self.slack
    }

    /// Lends a batch, closed as yet.
    pub(super) fn lend(&mut self, batch: Batch) {
        debug_assert!(self.loan.is_none());
        let lender = batch.lender();
        self.loan = Some(Loan { batch, lender }).filter(|loan| !loan.batch.is_empty());
    }

    /// The next message, once it is closed.
    pub(super) fn pop(&mut self) -> Option<Message> {
        let loan = self.loan.as_mut()?;
        let message = loan.batch.pop_lent(&mut loan.lender)?;
        if loan.batch.is_empty() {
            self.loan = None;
        }
        Some(message)
    }

    /// What was read that was not told yet.
    pub(super) fn catch_up(&mut self) -> Amount {
        let n = match &self.loan {
            Some(_) => self.claims.taken() - self.seen,
            None => 0,
        };
        self.seen += n;
        self.read(n)
    }

    /// Lets nobody read any more; what was read that was not told yet.
    pub(super) fn close(&mut self) -> Amount {
        if self.loan.is_none() {
            return (0, 0);
        }
        let n = self.claims.close() - std::mem::take(&mut self.seen);
        self.read(n)
    }

    fn read(&mut self, n: usize) -> Amount {
        let Some(loan) = &mut self.loan else { return (0, 0) };
        if n == 0 {
            return (0, 0);
        }
        // SAFETY: whoever has taken a mark since the last call, and nobody else, has claimed a
        // reference by this lender's name.
        unsafe { loan.lender.handed_out(n) };
        let bytes = loan.batch.skip(n);
        if self.slack != usize::MAX {
            self.slack = self.slack.saturating_sub(bytes);
        }
        (n, bytes)
    }

    /// Once it is closed: lets the next messages be read without the lock, those of at most
    /// `slack` bytes, and not the last.
    pub(super) fn lay_out(&mut self, slack: usize) {
        let Some(loan) = &self.loan else { return };
        self.slack = slack;
        let n = loan.batch.within(slack).min(loan.batch.len() - 1).min(MESSAGES);
        if n > 0 {
            let (start, ends) = loan.batch.marked_out(n);
            self.claims.lay_out(loan.lender.name().into_raw(), start, ends);
        }
    }

    /// Takes back what is unread, once it is closed.
    pub(super) fn take_back(&mut self) -> Option<Batch> {
        self.loan.take().map(|loan| loan.batch)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.close();
    }
}
