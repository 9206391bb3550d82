//! The KCM socket as a stream of messages and a sink for them.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_core::Stream;
use futures_sink::Sink;

use super::{
    shared::{Core, Waiting},
    socket::{KcmSocket, poll_op},
    wait::Ticket,
};
use crate::{
    error::{RecvError, SendError},
    message::Message,
    mux::{KcmId, Payload, SendFlags},
};

/// Places in the socket's lines between polls.
#[derive(Debug, Default)]
pub(super) struct Polled {
    recv: Option<Ticket>,
    send: Option<Ticket>,
    flush: Option<Ticket>,
    /// Given to the sink when the buffer was full.
    held: Option<Bytes>,
}

impl Polled {
    /// Gives all places up.
    pub(super) fn forget(&mut self, core: &mut Core, kcm: KcmId) {
        core.give_up(kcm, Waiting::Recv, &mut self.recv);
        core.give_up(kcm, Waiting::Send, &mut self.send);
        core.give_up(kcm, Waiting::Flushed, &mut self.flush);
    }
}

/// Ends when the socket was told to end with its last connection
/// ([`Builder::end_with_psocks`](super::Builder::end_with_psocks)).
impl Stream for KcmSocket {
    type Item = Message;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        let this = self.get_mut();
        if this.polled.recv.is_none()
            && let Some(message) = this.cursor.pop(false)
        {
            return Poll::Ready(Some(message));
        }
        let mut ticket = this.polled.recv.take();
        let result =
            poll_op(this, Waiting::Recv, &mut ticket, cx, &mut |core, kcm| match core.recv(kcm) {
                Err(RecvError::WouldBlock) => Poll::Pending,
                result => Poll::Ready(result.ok()),
            });
        this.polled.recv = ticket;
        result
    }
}

/// Sends each item as one message, on both types of socket. An item that comes when the
/// buffer is full is held until there is room. Flushing waits until everything is handed to
/// the operating system; closing is flushing, the socket closes when it is dropped.
impl Sink<Bytes> for KcmSocket {
    type Error = SendError;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let this = self.get_mut();
        let (mut ticket, mut held) = (this.polled.send.take(), this.polled.held.take());
        let result = poll_op(this, Waiting::Send, &mut ticket, cx, &mut |core, kcm| {
            if !core.mux.is_writable(kcm) {
                return Poll::Pending;
            }
            if let Some(bytes) = held.take() {
                core.mux.send(kcm, Payload::Shared(bytes), SendFlags::EOR, &mut core.fx)?;
            }
            match core.mux.is_writable(kcm) {
                true => Poll::Ready(Ok(())),
                false => Poll::Pending,
            }
        });
        (this.polled.send, this.polled.held) = (ticket, held);
        result
    }

    fn start_send(self: Pin<&mut Self>, item: Bytes) -> Result<(), SendError> {
        let this = self.get_mut();
        if this.polled.held.is_some() {
            // Only without the poll_ready that the contract asks for.
            return Err(SendError::WouldBlock);
        }
        match this.try_send(item.clone()) {
            Err(SendError::WouldBlock) => {
                this.polled.held = Some(item);
                Ok(())
            }
            result => result.map(drop),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        while self.polled.held.is_some() {
            match self.as_mut().poll_ready(cx) {
                // Held, it could not be sent: what is ready now may be full again.
                Poll::Ready(Ok(())) => {}
                Poll::Pending if self.polled.held.is_none() => {}
                other => return other,
            }
        }
        let this = self.get_mut();
        let mut ticket = this.polled.flush.take();
        let result = poll_op(this, Waiting::Flushed, &mut ticket, cx, &mut |core, kcm| {
            core.mux.flush(kcm, &mut core.fx)?;
            match core.mux.is_flushed(kcm) {
                true => Poll::Ready(Ok(())),
                false => Poll::Pending,
            }
        });
        this.polled.flush = ticket;
        result
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.poll_flush(cx)
    }
}
