//! Sending, in all its forms.

use std::task::Poll;

use bytes::{Bytes, BytesMut};

use super::{
    shared::{Core, Todo, Waiting},
    socket::{KcmSocket, Op},
};
use crate::{
    error::SendError,
    message::{Message, PsockId},
    mux::{KcmId, Payload, SendFlags},
};

/// Borrowed bytes beyond this are copied before the lock is taken, not under it.
const COPY_UNDER_LOCK: usize = 16 * 1024;

macro_rules! payload {
    ($($type:ty => |$value:ident| $payload:expr;)*) => {$(
        impl<'a> From<$type> for Payload<'a> {
            fn from($value: $type) -> Self {
                $payload
            }
        }
    )*};
}

payload! {
    &'a str => |text| Payload::Borrowed(text.as_bytes());
    &'a Vec<u8> => |bytes| Payload::Borrowed(bytes);
    &'a Bytes => |bytes| Payload::Borrowed(bytes);
    &'a Message => |message| Payload::Borrowed(message);
    Vec<u8> => |bytes| Payload::Shared(bytes.into());
    String => |text| Payload::Shared(text.into());
    BytesMut => |bytes| Payload::Shared(bytes.freeze());
    Message => |message| Payload::Shared(message.into_bytes());
}

impl<'a, const N: usize> From<&'a [u8; N]> for Payload<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Payload::Borrowed(bytes)
    }
}

pub(super) fn prepare<'a>(bytes: impl Into<Payload<'a>>) -> Payload<'a> {
    match bytes.into() {
        Payload::Borrowed(bytes) if bytes.len() > COPY_UNDER_LOCK => {
            Payload::Shared(Bytes::copy_from_slice(bytes))
        }
        payload => payload,
    }
}

/// One try. Gives the payload away only if it can be taken, or nobody waits for the result.
pub(super) fn attempt<'a>(
    core: &mut Core,
    kcm: KcmId,
    payload: &mut Option<Payload<'a>>,
    mut call: impl FnMut(&mut Core, Payload<'a>) -> Result<usize, SendError>,
) -> Poll<Result<usize, SendError>> {
    let given = match core.mux.is_writable(kcm) {
        true => payload.take(),
        false => payload.clone(),
    };
    // Taken already: only by a future that is polled after it was ready.
    let Some(given) = given else { return Poll::Pending };
    match call(core, given) {
        Err(SendError::WouldBlock) => Poll::Pending,
        result => Poll::Ready(result),
    }
}

/// Sending. A message is taken whole or not at all, also with no connection attached: it then
/// leaves on one attached later (semantics D11). A connection that dies inside a message
/// makes the message start again from its first byte on another (D18); messages that the
/// operating system had already taken are its peer's, or lost with the connection (D19).
///
/// A message sent alone leaves at once, in the caller. In a burst messages are written together,
/// by the connection's task when it has its turn or by the sender that makes it 32 KiB; see
/// [who does the work](super#who-does-the-work). [`flush`](KcmSocket::flush) does not wait for
/// a turn.
impl KcmSocket {
    /// Sends one message, on both types of socket. If a message was left open with
    /// [`SendFlags::MORE`] (or on a SEQPACKET socket without [`SendFlags::EOR`]), this is its
    /// end. Returns the bytes taken. An empty message is nothing (semantics D3).
    ///
    /// Waits while the send buffer is full (D9, D10). "Sent" is what the kernel means by it:
    /// taken over, not received by the peer.
    ///
    /// Cancel safe: dropped before it is ready, nothing of the message was taken; once it was
    /// taken, it is sent whole.
    pub async fn send<'a>(&self, bytes: impl Into<Payload<'a>>) -> Result<usize, SendError> {
        let payload = bytes.into();
        if self.hand_over(&payload) {
            return Ok(payload.len());
        }
        self.send_with(payload, SendFlags::EOR).await
    }

    /// As [`send`](Self::send); EAGAIN if the send buffer is full. Never waits for another
    /// sender (semantics J7, exceeding D5).
    pub fn try_send<'a>(&self, bytes: impl Into<Payload<'a>>) -> Result<usize, SendError> {
        let payload = bytes.into();
        if self.hand_over(&payload) {
            return Ok(payload.len());
        }
        self.try_send_with(payload, SendFlags::EOR)
    }

    /// The short way for a small whole message, while senders are at it.
    #[inline]
    fn hand_over(&self, payload: &Payload<'_>) -> bool {
        match payload {
            Payload::Borrowed(bytes) => self.intake.put(bytes),
            Payload::Shared(bytes) => self.intake.put(bytes),
        }
    }

    /// Sends with the kernel's flags and nothing else. On a DGRAM socket the message ends
    /// unless [`SendFlags::MORE`] is given (semantics D1); on a SEQPACKET socket it ends only
    /// with [`SendFlags::EOR`] (D2). With [`SendFlags::BATCH`] it is queued and leaves with
    /// the next message without it, with [`flush`](Self::flush), or when the buffer is full
    /// (D13).
    ///
    /// An open message belongs to the socket, not to the caller (D4): let only one task build
    /// messages in parts, or give each its own socket.
    ///
    /// Cancel safe as [`send`](Self::send).
    pub async fn send_with<'a>(
        &self,
        bytes: impl Into<Payload<'a>>,
        flags: SendFlags,
    ) -> Result<usize, SendError> {
        let mut payload = Some(prepare(bytes));
        Op::new(self, Waiting::Send, move |core: &mut Core, kcm| {
            let sent = attempt(core, kcm, &mut payload, |core, payload| {
                core.mux.send(kcm, payload, flags, &mut core.fx)
            });
            core.sent(kcm);
            sent
        })
        .cooperative()
        .await
    }

    /// As [`send_with`](Self::send_with); EAGAIN if the send buffer is full.
    pub fn try_send_with<'a>(
        &self,
        bytes: impl Into<Payload<'a>>,
        flags: SendFlags,
    ) -> Result<usize, SendError> {
        let payload = prepare(bytes);
        self.shared.with(|core| {
            core.take_in(self.kcm);
            let result = core.mux.send(self.kcm, payload, flags, &mut core.fx);
            core.sent(self.kcm);
            core.done(self.kcm, Waiting::Send, &mut None);
            result
        })
    }

    /// Sends one whole message on one connection (beyond KCM, whose answer to F6 was: none).
    /// Messages for one connection keep their order; towards messages sent without an address
    /// there is none. ENOENT: it is not attached; its cause's errno: it is out of use. If it
    /// fails later, the message is dropped and counted in its `Failed` event.
    ///
    /// Cancel safe as [`send`](Self::send).
    pub async fn send_to<'a>(
        &self,
        psock: PsockId,
        bytes: impl Into<Payload<'a>>,
    ) -> Result<usize, SendError> {
        let mut payload = Some(prepare(bytes));
        Op::new(self, Waiting::Send, move |core: &mut Core, kcm| {
            attempt(core, kcm, &mut payload, |core, payload| {
                core.mux.send_to(kcm, psock, payload, &mut core.fx)
            })
        })
        .cooperative()
        .await
    }

    /// As [`send_to`](Self::send_to); EAGAIN if the send buffer is full.
    pub fn try_send_to<'a>(
        &self,
        psock: PsockId,
        bytes: impl Into<Payload<'a>>,
    ) -> Result<usize, SendError> {
        let payload = prepare(bytes);
        self.shared.with(|core| {
            core.take_in(self.kcm);
            let result = core.mux.send_to(self.kcm, psock, payload, &mut core.fx);
            core.done(self.kcm, Waiting::Send, &mut None);
            result
        })
    }

    /// Sends one whole message on the connection from which `message` came.
    ///
    /// Cancel safe as [`send`](Self::send).
    pub async fn reply<'a>(
        &self,
        message: &Message,
        bytes: impl Into<Payload<'a>>,
    ) -> Result<usize, SendError> {
        self.send_to(message.psock(), bytes).await
    }

    /// Transmits what was queued with [`SendFlags::BATCH`] or left to a connection's task, and
    /// waits until everything that was sent on this socket, an open message excepted, is out:
    /// handed to the operating system. Waits also for a connection to be attached, if none is.
    ///
    /// Cancel safe: the messages are transmitted whether or not it is awaited to its end.
    pub async fn flush(&self) -> Result<(), SendError> {
        self.try_flush()?;
        Op::new(self, Waiting::Flushed, |core: &mut Core, kcm| match core.mux.is_flushed(kcm) {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        })
        .cooperative()
        .await
    }

    /// As [`flush`](Self::flush), without waiting for what the connection does not take at once.
    pub fn try_flush(&self) -> Result<(), SendError> {
        self.push()?;
        self.write_now();
        Ok(())
    }

    /// Transmits what was queued, but leaves it to a connection's task if that is about to
    /// write.
    pub(super) fn push(&self) -> Result<(), SendError> {
        self.shared.with(|core| {
            core.take_in(self.kcm);
            core.mux.flush(self.kcm, &mut core.fx)
        })
    }

    /// Writes at once what was left to a connection's task.
    pub(super) fn write_now(&self) {
        let left = self.shared.lock().left_to_tasks(self.kcm);
        if left.is_empty() {
            return;
        }
        let mut todo = Todo::default();
        for psock in left {
            psock.write_now(&self.shared, &mut todo);
        }
        todo.run(&self.shared);
    }

    /// Waits until a send would be taken at once (semantics J5, exceeding D12). Somebody
    /// else's may be faster.
    ///
    /// Cancel safe: it only looks.
    pub async fn writable(&self) {
        Op::new(self, Waiting::Writable, |core: &mut Core, kcm| match core.mux.is_writable(kcm) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .cooperative()
        .await
    }

    /// True if a send would be taken at once.
    pub fn is_writable(&self) -> bool {
        let mut core = self.shared.lock();
        core.take_in(self.kcm);
        core.mux.is_writable(self.kcm)
    }
}
