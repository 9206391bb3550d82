//! The multiplexor: which KCM socket gets a message, which connection takes one.
//!
//! Pure: it performs no I/O, reads no clock, wakes nobody and starts nothing. Connections
//! ("psocks") and message sockets ("KCM sockets") are entries in it; bytes and time are
//! arguments; what has to happen outside comes back as [`Effects`]. It is meant to stand
//! behind one lock that is held for each call and for nothing else: calls are short, and
//! cost per batch, not per message, on the receive side.
//!
//! # The four kinds of method
//!
//! * **Getters** (`&self`): readiness, statistics, options.
//! * **What happened** on a connection: [`deliver`](Mux::deliver), [`rx_end`](Mux::rx_end)
//!   from its reader; [`tx_begin`](Mux::tx_begin), [`tx_done`](Mux::tx_done),
//!   [`tx_blocked`](Mux::tx_blocked), [`tx_writable`](Mux::tx_writable),
//!   [`tx_failed`](Mux::tx_failed), [`on_tx_deadline`](Mux::on_tx_deadline) from its writer.
//! * **Commands** of users: attach, unattach, clone, close, receive, send, options.
//! * **Effects**: filled by every call that takes `&mut Effects`, to be acted upon in order
//!   after the lock is released. None may be dropped.
//!
//! # Receiving
//! A reader gives each batch to [`deliver`](Mux::deliver). Told [`Delivery::Parked`], it
//! stops reading (its stream parser's clock is paused) until [`Effect::ResumeRx`]. When the
//! stream parser tells how the connection ended, it calls [`rx_end`](Mux::rx_end).
//!
//! # Sending
//! A psock has at most one writer at a time. [`Effect::StartTx`] appoints it. The writer
//! loops: `tx_begin` (false: done, no longer the writer) → release the lock → write →
//! lock → `tx_done(n)` → `tx_begin` …; when the connection takes no more it calls
//! `tx_blocked`, waits for writability without being in a call, calls `tx_writable`, and is
//! no longer the writer: a new `StartTx` tells whether there is still something to do. It
//! must not be lost between `tx_begin` and the report (run it to its end in one go; the
//! write itself never blocks).
//!
//! # Order and determinism
//! Nothing iterates over a hash table; the same calls give the same effects. Every batch gets
//! an arrival stamp, and whatever moves between queues is merged by it, so within one KCM
//! socket the messages of one connection are always in the order they came (semantics J14).

mod effects;
mod list;
mod queue;
mod recv;
mod send;

pub use self::{
    effects::{Effect, Effects, Leftover, PsockEvent},
    recv::{Delivery, Received},
    send::{Payload, SendFlags, TxWork},
};

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

use self::{list::Fifo, queue::SendQueue, slab::Slab};
use crate::{
    error::{AttachError, PsockError, RecvError, SendError, SocketError},
    message::{Batch, Message, PsockId},
    stats::{KcmStats, MuxStats, PsockStats, StrpStats},
};

mod slab;

/// Default size of a KCM socket's receive and send buffers, in payload bytes: the system's
/// default for sockets (semantics A4).
pub const DEFAULT_BUFFER: usize = 212_992;

/// Names one KCM socket of one multiplexor. The index is the lowest one free; the
/// generation makes sure that an id kept too long names nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KcmId {
    index: u32,
    generation: u32,
}

impl KcmId {
    /// The small integer by which `/proc/net/kcm` names the socket.
    pub fn index(self) -> u32 {
        self.index
    }
}

/// What ends a message at a KCM socket (semantics A1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SocketType {
    /// A send without [`SendFlags::MORE`] ends the message (semantics D1); a receive into
    /// too small a buffer cuts the message (E3).
    Dgram,
    /// Only [`SendFlags::EOR`] ends the message (semantics D2); a receive into too small a
    /// buffer leaves the rest to the next one (J4).
    Seqpacket,
}

/// What a KCM socket is made with; its clones begin with the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KcmOptions {
    /// A message is accepted while fewer payload bytes than this are unread (semantics C4).
    /// At least 1.
    pub recv_buffer: usize,
    /// A message is admitted while fewer payload bytes than this are queued (semantics D9).
    /// At least 1.
    pub send_buffer: usize,
    /// A socket that was full takes messages again when fewer payload bytes than this are
    /// unread (semantics J15). None: half of `recv_buffer`. 1: when it is empty, as in the
    /// kernel (C6).
    pub recv_low_water: Option<usize>,
    /// Let receives end with [`RecvError::NoPsockLeft`] when no usable connection is left
    /// and everything received was read (semantics J13).
    pub end_with_psocks: bool,
}

impl Default for KcmOptions {
    fn default() -> Self {
        KcmOptions {
            recv_buffer: DEFAULT_BUFFER,
            send_buffer: DEFAULT_BUFFER,
            recv_low_water: None,
            end_with_psocks: false,
        }
    }
}

/// What the whole multiplexor is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MuxOptions {
    /// A KCM socket that has written this many bytes on the connection it holds gives it to
    /// the next in line at the end of the message, if one waits (exceeding semantics D15a,
    /// where it would keep it until its queue is empty). None: the kernel's way.
    pub tx_turn: Option<u64>,
    /// A connection whose peer takes nothing of a begun message for this long fails with
    /// [`PsockError::Stalled`], and the message is sent elsewhere (semantics J8). None: wait
    /// for ever.
    pub stall_deadline: Option<Duration>,
}

impl Default for MuxOptions {
    fn default() -> Self {
        MuxOptions { tx_turn: Some(1 << 20), stall_deadline: None }
    }
}

/// What a connection is attached with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PsockOptions {
    /// A clean end of the peer's sending side leaves our sending side in use (semantics
    /// B26). Otherwise the connection is out of use.
    pub half_close: bool,
}

/// How a KCM socket is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// Finish the message begun on a connection, drop those not begun and count them
    /// (semantics J9).
    Now,
    /// Send everything queued first, however long that takes; a later close with
    /// [`Close::Now`] cuts it short.
    Drain,
}

/// The multiplexor. See the [module's documentation](self).
#[derive(Debug)]
pub struct Mux {}

impl Mux {
    /// A multiplexor with one KCM socket (semantics A1).
    pub fn new(kind: SocketType, mux: MuxOptions, first: KcmOptions) -> (Self, KcmId) {
        unimplemented!()
    }

    // ---- sockets ----

    /// A further KCM socket of the same type, with the options of `parent` except
    /// receive-disable (semantics A7, A9).
    pub fn clone_kcm(&mut self, parent: KcmId, fx: &mut Effects) -> Result<KcmId, SocketError> {
        unimplemented!()
    }

    /// Closes a KCM socket: no more calls on it. Its unread messages move to the others in
    /// order (semantics A41), what it had lent included if given back before. True: done;
    /// false: [`Effect::Closed`] follows when its last message is out.
    pub fn close(&mut self, kcm: KcmId, how: Close, fx: &mut Effects) -> Result<bool, SocketError> {
        unimplemented!()
    }

    /// Takes a KCM socket out of the receivers, or back in (semantics C12).
    pub fn set_recv_disabled(
        &mut self,
        kcm: KcmId,
        disabled: bool,
        fx: &mut Effects,
    ) -> Result<(), SocketError> {
        unimplemented!()
    }

    /// Changes a KCM socket's options. A full socket that has room by the new measure takes
    /// messages at once (the kernel's would not, semantics C6).
    pub fn set_options(
        &mut self,
        kcm: KcmId,
        options: KcmOptions,
        fx: &mut Effects,
    ) -> Result<(), SocketError> {
        unimplemented!()
    }

    /// A KCM socket's options.
    pub fn options(&self, kcm: KcmId) -> Option<KcmOptions> {
        unimplemented!()
    }

    /// The socket type.
    pub fn kind(&self) -> SocketType {
        unimplemented!()
    }

    // ---- connections ----

    /// Adds a connection, which becomes usable at once: the KCM socket that waited longest
    /// to transmit gets it (semantics A27).
    pub fn attach(
        &mut self,
        options: PsockOptions,
        fx: &mut Effects,
    ) -> Result<PsockId, AttachError> {
        unimplemented!()
    }

    /// Makes a connection leave. [`Effect::Detached`] brings what is left of it: at once, or
    /// when its writer reports if it is writing at this moment. Messages parked on it are
    /// returned, the one it was sending is sent again elsewhere from its first byte
    /// (semantics A36, A37).
    pub fn unattach(&mut self, psock: PsockId, fx: &mut Effects) -> Result<(), SocketError> {
        unimplemented!()
    }

    /// All attached connections, by index.
    pub fn psocks(&self) -> impl Iterator<Item = PsockId> {
        std::iter::empty()
    }

    /// Why a connection is out of use; None while it is usable.
    pub fn psock_error(&self, psock: PsockId) -> Option<&PsockError> {
        unimplemented!()
    }

    /// Connections that can still bring a message.
    pub fn usable_psocks(&self) -> usize {
        unimplemented!()
    }

    // ---- readiness and statistics ----

    /// A receive would return at once.
    pub fn is_readable(&self, kcm: KcmId) -> bool {
        unimplemented!()
    }

    /// A send would be admitted (semantics J5).
    pub fn is_writable(&self, kcm: KcmId) -> bool {
        unimplemented!()
    }

    /// A KCM socket's counters.
    pub fn kcm_stats(&self, kcm: KcmId) -> Option<KcmStats> {
        unimplemented!()
    }
    /// A connection's counters.
    pub fn psock_stats(&self, psock: PsockId) -> Option<PsockStats> {
        unimplemented!()
    }
    /// The multiplexor's counters.
    pub fn stats(&self) -> MuxStats {
        unimplemented!()
    }

    /// The text of `/proc/net/kcm` for this multiplexor alone (semantics G4).
    pub fn proc_net_kcm(&self) -> String {
        unimplemented!()
    }
    /// The text of `/proc/net/kcm_stats` for this multiplexor alone (semantics G5).
    pub fn proc_net_kcm_stats(&self) -> String {
        unimplemented!()
    }
}
