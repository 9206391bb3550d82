//! Receiving, in all its forms.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::task::coop;

use super::{
    shared::{Core, Waiting},
    socket::{KcmSocket, Op},
};
use crate::{
    error::RecvError,
    message::{Batch, Message},
    mux::{KcmId, Received},
};

/// A call that has to wait is pending; everything else is its result.
fn pending<T>(result: Result<T, RecvError>) -> Poll<Result<T, RecvError>> {
    match result {
        Err(RecvError::WouldBlock) => Poll::Pending,
        result => Poll::Ready(result),
    }
}

/// Bytes of a batch for one unit of a task's budget (of which it has 128), in
/// [haste](super::haste): others have their turn after as much work as of a task that takes
/// message by message.
const BUDGETED: usize = 1024;

/// Takes a task's budget for a batch of so many bytes. One unit was taken for the call.
fn spend(bytes: usize, cx: &mut Context<'_>) {
    for _ in 0..bytes / BUDGETED {
        if !coop::has_budget_remaining() {
            return;
        }
        if let Poll::Ready(taken) = coop::poll_proceed(cx) {
            taken.made_progress();
        }
    }
}

/// Receiving. All forms take from the same queue, and end with
/// [`RecvError::NoPsockLeft`] only if the socket was told so
/// ([`Builder::end_with_psocks`](super::Builder::end_with_psocks)); failed connections show
/// nowhere else here (semantics D22), but in [`events`](KcmSocket::events).
impl KcmSocket {
    /// The next message, whole (semantics E1).
    ///
    /// Cancel safe: a message is taken only when it is returned.
    pub async fn recv(&self) -> Result<Message, RecvError> {
        // One unit of the task's budget for 16 messages: asking for one takes 3 ns.
        if let Some(message) = self.cursor.pop(true) {
            return Ok(message);
        }
        let mut op = Op::new(self, Waiting::Recv, |core: &mut Core, kcm| pending(core.recv(kcm)));
        coop::cooperative(poll_fn(|cx| {
            // Not past somebody who waits: whoever waits has found nothing lent.
            match if op.waits() { None } else { self.cursor.pop(false) } {
                Some(message) => Poll::Ready(Ok(message)),
                None => Pin::new(&mut op).poll(cx),
            }
        }))
        .await
    }

    /// The next message if there is one; EAGAIN otherwise (semantics E8).
    pub fn try_recv(&self) -> Result<Message, RecvError> {
        match self.cursor.pop(false) {
            Some(message) => Ok(message),
            None => self.now(Core::recv),
        }
    }

    /// Appends at least one and at most `max` messages to `out`, as many as are there;
    /// returns how many. As `recvmmsg` (semantics E1). With `max` 0, returns 0 at once.
    ///
    /// Cancel safe: messages are taken only when it returns.
    pub async fn recv_many(&self, out: &mut Vec<Message>, max: usize) -> Result<usize, RecvError> {
        if max == 0 {
            return Ok(0);
        }
        Op::new(self, Waiting::Recv, |core: &mut Core, kcm| {
            core.give_back(kcm);
            pending(core.mux.recv_many(kcm, max, out, &mut core.fx))
        })
        .cooperative()
        .await
    }

    /// As [`recv_many`](Self::recv_many), with what is there now; EAGAIN if nothing is.
    pub fn try_recv_many(&self, out: &mut Vec<Message>, max: usize) -> Result<usize, RecvError> {
        if max == 0 {
            return Ok(0);
        }
        self.now(|core, kcm| {
            core.give_back(kcm);
            core.mux.recv_many(kcm, max, out, &mut core.fx)
        })
    }

    /// Messages of one connection that arrived together, in one block with one reference
    /// count: the cheapest way to receive.
    ///
    /// ```no_run
    /// # async fn f(socket: &kcm_core::KcmSocket) -> Result<(), kcm_core::RecvError> {
    /// let mut bytes = 0;
    /// let batch = socket.recv_batch().await?;
    /// for message in &batch {
    ///     bytes += message.len();
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// Cancel safe: messages are taken only when it returns.
    pub async fn recv_batch(&self) -> Result<Batch, RecvError> {
        self.recv_batch_max(usize::MAX).await
    }

    /// As [`recv_batch`](Self::recv_batch), at most `max` messages, at least one.
    ///
    /// Cancel safe: messages are taken only when it returns.
    pub async fn recv_batch_max(&self, max: usize) -> Result<Batch, RecvError> {
        let mut op = Op::new(self, Waiting::Recv, move |core: &mut Core, kcm| {
            core.give_back(kcm);
            pending(core.mux.recv_batch(kcm, max.max(1), &mut core.fx))
        });
        coop::cooperative(poll_fn(|cx| {
            let batch = ready!(Pin::new(&mut op).poll(cx));
            if self.shared.haste.is_on() {
                spend(batch.as_ref().map_or(0, Batch::bytes), cx);
            }
            Poll::Ready(batch)
        }))
        .await
    }

    /// As [`recv_batch`](Self::recv_batch), with what is there now; EAGAIN if nothing is.
    pub fn try_recv_batch(&self) -> Result<Batch, RecvError> {
        self.now(|core, kcm| {
            core.give_back(kcm);
            core.mux.recv_batch(kcm, usize::MAX, &mut core.fx)
        })
    }

    /// Copies the next message into `buf`, and says how much of it there was. What does not
    /// fit stays for the next call on a SEQPACKET socket (semantics J4, exceeding E4) and is
    /// dropped on a DGRAM one (E3). An empty `buf` takes nothing, and tells the length of the
    /// next message (exceeding E6).
    ///
    /// Cancel safe: bytes are taken only when it returns.
    pub async fn recv_into(&self, buf: &mut [u8]) -> Result<Received, RecvError> {
        Op::new(self, Waiting::Recv, |core: &mut Core, kcm| {
            core.give_back(kcm);
            pending(core.mux.recv_into(kcm, buf, false, &mut core.fx))
        })
        .cooperative()
        .await
    }

    /// As [`recv_into`](Self::recv_into); EAGAIN if no message is there.
    pub fn try_recv_into(&self, buf: &mut [u8]) -> Result<Received, RecvError> {
        self.now(|core, kcm| {
            core.give_back(kcm);
            core.mux.recv_into(kcm, buf, false, &mut core.fx)
        })
    }

    /// The next message, which stays (semantics E5).
    ///
    /// Cancel safe: it takes nothing.
    pub async fn peek(&self) -> Result<Message, RecvError> {
        // Not a place among those who take: a message that one peeks at is still there.
        Op::new(self, Waiting::Readable, |core: &mut Core, kcm| {
            core.give_back(kcm);
            pending(core.mux.peek(kcm))
        })
        .cooperative()
        .await
    }

    /// As [`peek`](Self::peek); EAGAIN if no message is there.
    pub fn try_peek(&self) -> Result<Message, RecvError> {
        self.shared.with(|core| {
            core.give_back(self.kcm);
            core.mux.peek(self.kcm)
        })
    }

    /// Copies the beginning of the next message, which stays (semantics E5).
    ///
    /// Cancel safe: it takes nothing.
    pub async fn peek_into(&self, buf: &mut [u8]) -> Result<Received, RecvError> {
        Op::new(self, Waiting::Readable, |core: &mut Core, kcm| {
            core.give_back(kcm);
            pending(core.mux.recv_into(kcm, buf, true, &mut core.fx))
        })
        .cooperative()
        .await
    }

    /// Waits until a receive would return at once. Somebody else's may be faster.
    ///
    /// Cancel safe: it only looks.
    pub async fn readable(&self) {
        Op::new(self, Waiting::Readable, |core: &mut Core, kcm| match core.is_readable(kcm) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .cooperative()
        .await
    }

    /// True if a receive would return at once.
    pub fn is_readable(&self) -> bool {
        self.shared.lock().is_readable(self.kcm)
    }

    /// A call that does not wait.
    fn now<T>(
        &self,
        call: impl FnOnce(&mut Core, KcmId) -> Result<T, RecvError>,
    ) -> Result<T, RecvError> {
        self.shared.with(|core| {
            let result = call(core, self.kcm);
            if result.is_ok() {
                core.done(self.kcm, Waiting::Recv, &mut None);
            }
            result
        })
    }
}
