//! What a call on the multiplexor asks of its surroundings, as data.

use super::KcmId;
use crate::{
    error::PsockError,
    message::{Batch, PsockId},
};

/// Something that happened to a connection, for those who watch (semantics J12, J13).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PsockEvent {
    /// A connection was attached.
    Attached {
        /// Which.
        psock: PsockId,
    },
    /// A connection went out of use. Told once per connection, with the cause that stays.
    /// It stays attached until it is unattached (semantics F5).
    Failed {
        /// Which.
        psock: PsockId,
        /// Why.
        cause: PsockError,
        /// Messages addressed to this connection alone (`send_to`) that will not be sent.
        unsent: usize,
    },
    /// The peer will send no more, on a message boundary, and the connection was attached
    /// with `half_close`: sending goes on.
    HalfClosed {
        /// Which.
        psock: PsockId,
    },
    /// Our own sending side has ended, as was asked for: everything sent on this connection is
    /// out. Receiving goes on (semantics A31).
    TxEnded {
        /// Which.
        psock: PsockId,
    },
    /// A connection was unattached.
    Detached {
        /// Which.
        psock: PsockId,
    },
    /// The last usable connection went out of use or was unattached (semantics J13).
    NoneLeft,
}

/// What is left of a connection when it leaves the multiplexor.
#[derive(Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Which.
    pub psock: PsockId,
    /// A message was sent in part: the peer cannot be spoken to on this stream any more, and
    /// attaching it again must be refused (semantics J11).
    pub desynchronised: bool,
    /// Messages that were received whole but parked, because no KCM socket could take them;
    /// their bytes come first in what unattach returns as unread (semantics A36, J17).
    pub parked: Vec<Batch>,
    /// Why it was out of use, if it was.
    pub cause: Option<PsockError>,
    /// Messages addressed to this connection alone that were dropped unsent.
    pub unsent: usize,
}

/// One thing to do, after the lock is released.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// Messages came for this KCM socket, or its `recv` has something else to say (it ends
    /// when no connection is left): wake up to `messages` waiting receivers.
    Readable {
        /// Which.
        kcm: KcmId,
        /// How many messages came; at least 1.
        messages: usize,
    },
    /// This KCM socket's send buffer has room again: wake its waiting senders.
    Writable {
        /// Which.
        kcm: KcmId,
    },
    /// There is something to write on this connection and nobody is writing: call
    /// [`tx_begin`](super::Mux::tx_begin). Whoever sees this becomes the writer, be it the
    /// sender itself (no task hop).
    StartTx {
        /// Which.
        psock: PsockId,
    },
    /// The messages parked on this connection are gone: read on (semantics C9).
    ResumeRx {
        /// Which.
        psock: PsockId,
    },
    /// Sending failed on this connection: deliver what has already arrived, then stop
    /// reading and report [`rx_end`](super::Mux::rx_end) (semantics D21, J12).
    StopRx {
        /// Which.
        psock: PsockId,
    },
    /// Nothing more is to be sent on this connection: end its sending side (FIN).
    EndTx {
        /// Which.
        psock: PsockId,
    },
    /// For those who watch.
    Event(PsockEvent),
    /// The connection has left; its id names nothing any more.
    Detached(Leftover),
    /// This KCM socket, which was closed, has written what it had to; its id names nothing
    /// any more.
    Closed {
        /// Which.
        kcm: KcmId,
    },
    /// The last KCM socket is gone: every connection has been made to leave (one
    /// [`Effect::Detached`] each, some perhaps later); the multiplexor takes no more calls
    /// (semantics A45).
    MuxClosed,
}

/// The effects of one or more calls, in order. Reuse it: it keeps its allocation.
#[derive(Debug, Default)]
pub struct Effects {
    list: Vec<Effect>,
}

impl Effects {
    /// No effects.
    pub fn new() -> Self {
        Self::default()
    }

    /// True if there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Takes all effects, oldest first.
    pub fn drain(&mut self) -> std::vec::Drain<'_, Effect> {
        self.list.drain(..)
    }

    /// The effects so far.
    pub fn as_slice(&self) -> &[Effect] {
        &self.list
    }

    /// For the next calls: empty, with room for a few, not for the most there ever were.
    #[must_use]
    pub fn again(mut self) -> Self {
        self.list.clear();
        if self.list.capacity() > 64 { Self::new() } else { self }
    }

    pub(super) fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }

    /// Adds messages to the last effect if it is for the same receiver: one wake-up.
    pub(super) fn readable(&mut self, kcm: KcmId, messages: usize) {
        if let Some(Effect::Readable { kcm: last, messages: n }) = self.list.last_mut()
            && *last == kcm
        {
            *n = n.saturating_add(messages);
            return;
        }
        self.push(Effect::Readable { kcm, messages });
    }

    pub(super) fn event(&mut self, event: PsockEvent) {
        self.push(Effect::Event(event));
    }
}
