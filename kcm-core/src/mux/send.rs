//! Sending, the user's side: building messages, admission, queues.

use bytes::Bytes;

use super::{tx::in_use, *};
use crate::error::SendError;

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

    #[cfg(test)]
    pub(super) const fn of(bits: u8) -> Self {
        SendFlags(bits)
    }

    /// True if every flag of `other` is set.
    #[inline]
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

impl Payload<'_> {
    /// Bytes in it.
    pub fn len(&self) -> usize {
        match self {
            Payload::Borrowed(bytes) => bytes.len(),
            Payload::Shared(bytes) => bytes.len(),
        }
    }

    /// True for no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
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
    /// socket type say so (semantics D1, D2); an ended message is queued, and a connection is
    /// taken for it if one is idle ([`Effect::StartTx`]). Taken whole or not at all; returns
    /// the bytes taken.
    ///
    /// No bytes end a message that is being built, if the flags say so, and else are nothing:
    /// there are no empty messages (D3). Without [`SendFlags::BATCH`] they also push what was
    /// batched (D13).
    ///
    /// Admitted while fewer bytes than the send buffer's size are queued, whatever the
    /// message's size (D9), also with no connection at all (D11).
    pub fn send(
        &mut self,
        kcm: KcmId,
        data: Payload<'_>,
        flags: SendFlags,
        fx: &mut Effects,
    ) -> Result<usize, SendError> {
        let kind = self.kind;
        let k = self.open_kcm(kcm).map_err(|_| SendError::Closed)?;
        if !k.admits() {
            // Buffer pressure pushes what was batched (D13).
            self.push(kcm.index, fx);
            return Err(SendError::WouldBlock);
        }
        let taken = data.len();
        if taken > 0 {
            k.tx.append(data);
            k.stats.tx_bytes += taken as u64;
        }
        let ends = match kind {
            SocketType::Dgram => !flags.contains(SendFlags::MORE),
            SocketType::Seqpacket => flags.contains(SendFlags::EOR),
        };
        let ended = ends && k.tx.is_open();
        if ended {
            k.tx.mark();
            k.stats.tx_msgs += 1;
            k.batching |= flags.contains(SendFlags::BATCH);
        }
        let pressed = !k.admits();
        self.totals.accepted_msgs += u64::from(ended);
        if (ends || taken == 0) && !flags.contains(SendFlags::BATCH) || pressed {
            self.push(kcm.index, fx);
        }
        Ok(taken)
    }

    /// As one [`send`](Self::send) of a whole message after another, in one call: `data` has them
    /// back to back, none of them empty, and `ends` says where they end. If a message is being
    /// built, the first is the end of it. Returns how many were taken, which are as many as
    /// `send` would have taken; with [`SendFlags::BATCH`] they are queued only.
    pub fn send_whole(
        &mut self,
        kcm: KcmId,
        data: &[u8],
        ends: &[u32],
        flags: SendFlags,
        fx: &mut Effects,
    ) -> Result<usize, SendError> {
        let k = self.open_kcm(kcm).map_err(|_| SendError::Closed)?;
        if !k.admits() {
            self.push(kcm.index, fx);
            return Err(SendError::WouldBlock);
        }
        let Some((_, before)) = ends.split_last() else { return Ok(0) };
        // The first has room; each other, if those before it leave some.
        let room = k.options.send_buffer - k.unsent();
        let open = k.tx.open_bytes();
        let taken = 1 + before.partition_point(|&end| open + (end as usize) < room);
        let ends = ends.get(..taken).unwrap_or(ends);
        let len = ends.last().map_or(0, |&end| end as usize);
        k.tx.append_whole(data.get(..len).unwrap_or(data), ends);
        k.stats.tx_msgs += taken as u64;
        k.stats.tx_bytes += len as u64;
        let batch = flags.contains(SendFlags::BATCH);
        k.batching |= batch;
        // Pressed by the last one or by the first that was not taken.
        let pressed = !k.admits();
        self.totals.accepted_msgs += taken as u64;
        if !batch || pressed {
            self.push(kcm.index, fx);
        }
        Ok(taken)
    }

    /// How many bytes of whole messages may be admitted on the multiplexor's behalf and brought
    /// later ([`send_admitted`](Self::send_admitted)), the last one whatever its size (semantics
    /// D9). None (0) unless the socket has messages to transmit already: these see to it that
    /// somebody asks.
    pub fn admits(&self, kcm: KcmId) -> usize {
        let Some(k) = self.kcms.get(kcm.index, kcm.generation) else { return 0 };
        if k.closing.is_some() || k.batching || k.tx.is_empty() || k.tx.is_open() {
            return 0;
        }
        k.options.send_buffer.saturating_sub(k.unsent())
    }

    /// Queues messages that were admitted before by what [`admits`](Self::admits) said: small
    /// ones, back to back in `data`, ending where `ends` says. Nothing may have been queued or
    /// set for the socket in between.
    pub fn send_admitted(&mut self, kcm: KcmId, data: &[u8], ends: &[u32], fx: &mut Effects) {
        let Some(k) = self.kcms.get_mut(kcm.index, kcm.generation) else { return };
        k.tx.append_whole(data, ends);
        k.stats.tx_msgs += ends.len() as u64;
        k.stats.tx_bytes += data.len() as u64;
        self.totals.accepted_msgs += ends.len() as u64;
        self.want_tx(kcm.index, fx);
    }

    /// Queues one whole message for one connection. Messages for one connection keep their
    /// order; towards messages sent without an address there is none. A message being built
    /// with [`send`](Self::send) is not touched. No bytes are no message (semantics D3).
    ///
    /// Admission is by the KCM socket's send buffer, as in `send`. The message leaves on that
    /// connection or not at all: if it fails first, the message is dropped and counted, and
    /// the connection's [`PsockEvent::Failed`] says how many were.
    pub fn send_to(
        &mut self,
        kcm: KcmId,
        psock: PsockId,
        data: Payload<'_>,
        fx: &mut Effects,
    ) -> Result<usize, SendError> {
        let k = self
            .kcms
            .get_mut(kcm.index, kcm.generation)
            .filter(|k| k.closing.is_none())
            .ok_or(SendError::Closed)?;
        let p = in_use(&mut self.psocks, psock)?;
        if p.tx_end != TxEnd::Open {
            return Err(SendError::ShutDown(psock));
        }
        if !k.admits() {
            self.push(kcm.index, fx);
            return Err(SendError::WouldBlock);
        }
        let taken = data.len();
        if taken == 0 {
            return Ok(0);
        }
        let own = p.own.get_or_insert_default();
        own.queue.append(data);
        own.queue.mark();
        own.owners.push_back((kcm, taken));
        k.addressed_msgs += 1;
        k.addressed_bytes += taken;
        k.stats.tx_msgs += 1;
        k.stats.tx_bytes += taken as u64;
        self.totals.accepted_msgs += 1;
        if p.writer == Writer::None {
            p.writer = Writer::Appointed;
            self.idle.remove(psock.index);
            fx.push(Effect::StartTx { psock });
        }
        Ok(taken)
    }

    /// Transmits what was queued with [`SendFlags::BATCH`] (semantics D13).
    pub fn flush(&mut self, kcm: KcmId, fx: &mut Effects) -> Result<(), SendError> {
        self.open_kcm(kcm).map_err(|_| SendError::Closed)?;
        self.push(kcm.index, fx);
        Ok(())
    }

    /// Whether everything accepted from this socket is out (or was dropped), except a message
    /// being built.
    pub fn is_flushed(&self, kcm: KcmId) -> bool {
        self.kcms.get(kcm.index, kcm.generation).is_none_or(|k| k.unsent() == 0)
    }

    /// A send would be admitted (semantics J5, exceeding D12), or fail at once because the
    /// socket is closed.
    pub fn is_writable(&self, kcm: KcmId) -> bool {
        self.peek_kcm(kcm).is_none_or(Kcm::admits)
    }

    fn push(&mut self, kcm: u32, fx: &mut Effects) {
        if let Some(k) = self.kcms.at_mut(kcm) {
            k.batching = false;
            self.want_tx(kcm, fx);
        }
    }
}
