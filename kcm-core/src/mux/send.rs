//! Sending: building messages, admission, and handing them to connections.
use super::*;

/// How a send call treats the message being built (semantics D1, D2, D13).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SendFlags(u8);

impl SendFlags {
    /// No flags: ends the message (DGRAM), leaves it open (SEQPACKET).
    pub const NONE: SendFlags = SendFlags(0);
    /// The message goes on with the next call. DGRAM.
    pub const MORE: SendFlags = SendFlags(1);
    /// The message ends here. SEQPACKET.
    pub const EOR: SendFlags = SendFlags(2);
    /// Queue without transmitting: a later send without it, or a flush, or a full buffer
    /// transmits.
    pub const BATCH: SendFlags = SendFlags(4);

    /// True if every flag of `other` is set.
    pub const fn contains(self, other: SendFlags) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for SendFlags {
    type Output = SendFlags;

    fn bitor(self, other: SendFlags) -> SendFlags {
        SendFlags(self.0 | other.0)
    }
}

/// Bytes to send. Small ones are copied into a common block, so that hundreds of messages
/// leave in one write; large shared ones are never copied.
#[derive(Clone, Debug)]
pub enum Payload<'a> {
    /// Borrowed: copied at once. Make large ones [`Payload::Shared`] before taking the lock.
    Borrowed(&'a [u8]),
    /// Shared: copied only if small.
    Shared(Bytes),
}

impl<'a> From<&'a [u8]> for Payload<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Payload::Borrowed(bytes)
    }
}

impl From<Bytes> for Payload<'_> {
    fn from(bytes: Bytes) -> Self {
        Payload::Shared(bytes)
    }
}

/// What one write is to carry. Reuse it: it keeps its allocation.
#[derive(Debug, Default)]
pub struct TxWork {
    /// The slices, in order. Whole messages of one KCM socket, the first perhaps without the
    /// part that is out already.
    pub bufs: Vec<Bytes>,
    /// Their bytes in all.
    pub bytes: usize,
}

impl Mux {
    /// Adds to the message that the KCM socket is building, and ends it if the flags and the
    /// socket type say so; an ended message is queued, and a connection is taken for it if
    /// one is idle ([`Effect::StartTx`]). Taken whole or not at all; returns the bytes taken.
    ///
    /// Admitted while fewer bytes than the send buffer's size are queued, whatever the
    /// message's size (semantics D9), also with no connection at all (D11).
    pub fn send(
        &mut self,
        kcm: KcmId,
        data: Payload<'_>,
        flags: SendFlags,
        fx: &mut Effects,
    ) -> Result<usize, SendError> {
        unimplemented!()
    }

    /// Queues one whole message for one connection. Messages for one connection keep their
    /// order; towards messages sent without an address there is none. A message being built
    /// with [`send`](Self::send) is not touched. An empty message is nothing (semantics D3).
    pub fn send_to(
        &mut self,
        kcm: KcmId,
        psock: PsockId,
        data: Payload<'_>,
        fx: &mut Effects,
    ) -> Result<usize, SendError> {
        unimplemented!()
    }

    /// Transmits what was queued with [`SendFlags::BATCH`] (semantics D13).
    pub fn flush(&mut self, kcm: KcmId, fx: &mut Effects) -> Result<(), SendError> {
        unimplemented!()
    }

    /// Nothing of this socket's is queued: everything is out, or was dropped.
    pub fn is_flushed(&self, kcm: KcmId) -> bool {
        unimplemented!()
    }

    /// Fills `work` with at most `max_bufs` slices of about `max_bytes` bytes to write on
    /// this connection. False: nothing to write, the caller is no longer its writer.
    pub fn tx_begin(
        &mut self,
        psock: PsockId,
        max_bufs: usize,
        max_bytes: usize,
        work: &mut TxWork,
        fx: &mut Effects,
    ) -> bool {
        unimplemented!()
    }

    /// The connection took `n` bytes of what `tx_begin` gave. The caller is still the writer:
    /// call `tx_begin` again, or [`tx_blocked`](Self::tx_blocked).
    pub fn tx_done(&mut self, psock: PsockId, n: usize, fx: &mut Effects) {
        unimplemented!()
    }

    /// The connection takes no more for now (after `tx_done` for what it took, if anything).
    /// The caller is no longer the writer; it calls [`tx_writable`](Self::tx_writable) when
    /// the connection is writable. A message of which nothing is out may meanwhile go to
    /// another connection (semantics J8).
    pub fn tx_blocked(&mut self, psock: PsockId, now: Instant, fx: &mut Effects) {
        unimplemented!()
    }

    /// A connection reported blocked can take bytes again.
    pub fn tx_writable(&mut self, psock: PsockId, fx: &mut Effects) {
        unimplemented!()
    }

    /// A write failed: the connection is out of use. The interrupted message is sent again
    /// from its first byte on another connection (semantics D18).
    pub fn tx_failed(&mut self, psock: PsockId, cause: PsockError, fx: &mut Effects) {
        unimplemented!()
    }

    /// When [`on_tx_deadline`](Self::on_tx_deadline) is due for this connection: it is blocked
    /// inside a message, and there is a stall deadline (semantics J8).
    pub fn tx_deadline(&self, psock: PsockId) -> Option<Instant> {
        unimplemented!()
    }

    /// Fails the connection with [`PsockError::Stalled`] if its deadline has passed.
    pub fn on_tx_deadline(&mut self, psock: PsockId, now: Instant, fx: &mut Effects) {
        unimplemented!()
    }
}
