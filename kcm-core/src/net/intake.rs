//! Where small messages wait that a socket's senders have handed over, until somebody who has
//! the multiplexor locked takes them in: a lock of the socket's own and a copy per message, and
//! the multiplexor's lock once for many.

use super::sync::Mutex;

/// Messages taken between two calls on the multiplexor. More would help little and let a task
/// send for too long before it has to let others have their turn.
pub(super) const MESSAGES: u32 = 16;

/// Their bytes, but for the last.
pub(super) const BYTES: usize = 16 * 1024;

/// Larger messages are not copied twice.
pub(super) const LARGEST: usize = 2048;

/// One KCM socket's.
///
/// It takes messages only while it is open, that is, within what the multiplexor would admit
/// (semantics D9), and only while the socket has other messages there, for then somebody is
/// going to write, and empties it before he does, and again before he reports what is out. So:
/// * it is opened under the multiplexor's lock, when the socket has something queued;
/// * whoever is about to tell the multiplexor what could leave the socket with nothing queued
///   empties it first, under the same lock, and that closes it;
/// * whoever wants to know or change what is queued for the socket empties it first.
///
/// Order is kept: it is emptied before anything else is queued.
#[derive(Debug)]
pub(super) struct Intake {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    bytes: Vec<u8>,
    /// Where the messages in `bytes` end.
    ends: Vec<u32>,
    /// How many more messages; 0: closed.
    messages: u32,
    /// More are taken while this is not 0.
    room: usize,
}

impl Intake {
    pub(super) fn new() -> Self {
        Intake { inner: Mutex::new(Inner::default()) }
    }

    /// Takes one whole message, if it is open and the message is small, and not nothing.
    #[inline]
    pub(super) fn put(&self, message: &[u8]) -> bool {
        let len = message.len();
        if len == 0 || len > LARGEST {
            return false;
        }
        let mut inner = self.inner.lock();
        if inner.messages == 0 || inner.room == 0 {
            return false;
        }
        inner.messages -= 1;
        inner.room = inner.room.saturating_sub(len);
        inner.bytes.extend_from_slice(message);
        let end = inner.bytes.len() as u32;
        inner.ends.push(end);
        true
    }

    /// Opens it for as much as the multiplexor would admit. To be called with that locked.
    pub(super) fn open(&self, admitted: usize) {
        if admitted > 0 {
            let mut inner = self.inner.lock();
            inner.messages = MESSAGES;
            inner.room = admitted.min(BYTES);
        }
    }

    /// Closes it and hands over what it has. To be called with the multiplexor locked.
    pub(super) fn empty(&self, take: impl FnOnce(&[u8], &[u32])) {
        let mut inner = self.inner.lock();
        inner.messages = 0;
        if !inner.ends.is_empty() {
            take(&inner.bytes, &inner.ends);
            inner.bytes.clear();
            inner.ends.clear();
        }
    }
}
