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
//! Those of different connections are in that order until one has more unread than its turn:
//! then they take turns (`fairqueue`), and so do connections that wait for a full socket to be
//! read.

mod conns;
mod counts;
mod effects;
mod fairqueue;
mod list;
mod queue;
mod recv;
mod report;
mod rxqueue;
mod send;
mod slab;
mod sockets;
mod tx;

#[cfg(test)]
mod tests;

pub(crate) use self::slab::make_room;
pub use self::{
    effects::{Effect, Effects, Leftover, PsockEvent},
    recv::{Delivery, Received},
    send::{Payload, SendFlags, TxWork},
};

use std::time::{Duration, Instant};

use self::{
    counts::Counts,
    fairqueue::{FairQueue, Turns},
    list::Fifo,
    queue::SendQueue,
    rxqueue::{Parked, RxQueue},
    slab::Slab,
};
use crate::{
    error::PsockError,
    message::PsockId,
    stats::{KcmStats, MuxStats},
};

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
    /// Let receives end with [`RecvError::NoPsockLeft`](crate::error::RecvError::NoPsockLeft) when no usable connection is left
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
///
/// Invariants between calls:
/// * a KCM socket stands in `rx_wait` iff it is neither disabled, full nor closed;
/// * while one stands there, `hold` and `ready` are empty;
/// * a connection stands in `idle` iff it is usable for sending, unreserved and has no writer
///   and nothing of its own to write; while one stands there, `tx_wait` is empty;
/// * a KCM socket with messages to transmit (not batched) has a connection or stands in
///   `tx_wait`.
#[derive(Debug)]
pub struct Mux {
    kind: SocketType,
    options: MuxOptions,
    kcms: Slab<Kcm>,
    psocks: Slab<Psock>,
    /// KCM sockets able to receive (semantics C1).
    rx_wait: Fifo,
    /// Connections with parked messages (semantics C8).
    ready: Fifo,
    /// The same connections, in the order in which they get in while sockets are full (see
    /// [`Mux::let_in`]).
    asking: Fifo,
    turns: Turns,
    /// Messages that had to move and found no socket (semantics C13).
    hold: RxQueue,
    /// Connections free to be sent on (semantics D14).
    idle: Fifo,
    /// KCM sockets that want one.
    tx_wait: Fifo,
    /// Connections of one round, kept for its allocation.
    round: Vec<u32>,
    /// In the hands of receivers (see [`Mux::lend`]), over all sockets, closed ones too.
    lent_msgs: usize,
    lent_bytes: usize,
    /// Arrival stamp of the last batch.
    seq: u64,
    /// Connections not out of use.
    usable: usize,
    /// Connections that can still bring messages.
    readable: usize,
    /// There has been a connection.
    had_psock: bool,
    /// Closing KCM sockets that may have nothing left to write; looked at when the call at hand
    /// has told everything else.
    finishing: Vec<u32>,
    /// The last KCM socket is gone: how it closed. Connections leave when what they are to send
    /// is out (J9).
    ending: Option<Close>,
    /// What the past and the present add up to, except gauges, which are counted when asked.
    totals: MuxStats,
}

/// One KCM socket.
#[derive(Debug)]
struct Kcm {
    id: KcmId,
    options: KcmOptions,
    rx: FairQueue,
    /// Out of the queue, not yet read (see [`Mux::lend`]).
    lent_msgs: usize,
    lent_bytes: usize,
    disabled: bool,
    /// Refused a message; receives again when drained below the low water mark (C6, J15).
    full: bool,
    tx: SendQueue,
    /// Messages of this socket queued for one connection alone.
    addressed_msgs: usize,
    addressed_bytes: usize,
    /// Batched messages wait for a push (D13).
    batching: bool,
    /// The connection it holds for sending.
    psock: Option<u32>,
    /// Bytes written since it took the connection.
    turn: u64,
    closing: Option<Close>,
    stats: KcmStats,
}

impl Kcm {
    /// Bytes that count against the receive buffer.
    fn unread(&self) -> usize {
        self.rx.bytes() + self.lent_bytes
    }

    fn room(&self) -> usize {
        self.options.recv_buffer.saturating_sub(self.unread())
    }

    fn low_water(&self) -> usize {
        let half = self.options.recv_buffer / 2;
        self.options.recv_low_water.unwrap_or(half).max(1)
    }

    /// Bytes that count against the send buffer (D9).
    fn unsent(&self) -> usize {
        self.tx.bytes() + self.addressed_bytes
    }

    fn admits(&self) -> bool {
        self.unsent() < self.options.send_buffer
    }
}

/// Who is concerned with writing on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writer {
    /// Nobody.
    None,
    /// Somebody, who is about to call `tx_begin`.
    Appointed,
    /// Somebody, who is in the write: what of it is out is not known.
    Writing,
    /// Nobody, until the connection is writable.
    Blocked,
}

/// Which queue a connection is sending from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// That of the KCM socket which holds the connection.
    Kcm,
    /// The connection's own (`send_to`).
    Own,
}

/// Our own sending side of a connection (semantics A31).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TxEnd {
    /// In use.
    Open,
    /// To end once what is queued for the connection, and the message begun on it, is out.
    Ending,
    /// Ended: nothing more is sent.
    Ended,
}

/// Messages for one connection alone.
#[derive(Debug, Default)]
struct OwnQueue {
    queue: SendQueue,
    /// Whose each message is, for the send buffer's measure.
    owners: std::collections::VecDeque<(KcmId, usize)>,
}

/// One connection.
#[derive(Debug)]
struct Psock {
    id: PsockId,
    options: PsockOptions,
    parked: Parked,
    /// Its reader is done.
    rx_ended: bool,
    /// Why it is out of use (J12).
    cause: Option<Box<PsockError>>,
    /// Being unattached; waits for its writer.
    leaving: bool,
    writer: Writer,
    /// The KCM socket that holds it for sending.
    owner: Option<u32>,
    /// Boxed: most connections never have one.
    own: Option<Box<OwnQueue>>,
    source: Source,
    tx_end: TxEnd,
    /// A message is out in part and will not be finished here (J11).
    desynchronised: bool,
    /// Bytes that the message at the head still needs; 0 if that is not known.
    missing: u32,
    /// When being blocked inside a message becomes a failure.
    stall: Option<Instant>,
    stats: Counts,
}

impl Psock {
    fn own_is_empty(&self) -> bool {
        self.own.as_ref().is_none_or(|own| own.queue.is_empty())
    }

    /// What is begun or queued for it can be sent.
    fn sends(&self) -> bool {
        self.cause.is_none() && !self.leaving
    }

    /// In use for sending.
    fn takes(&self) -> bool {
        self.sends() && self.tx_end == TxEnd::Open
    }
}
