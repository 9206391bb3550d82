//! Receiving: steering batches to KCM sockets, and all ways to take them there.
use super::*;

/// What became of a batch.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Delivery {
    /// KCM sockets have it: read on.
    Taken,
    /// Some or all of it is parked on the connection: stop reading until
    /// [`Effect::ResumeRx`] (semantics C8).
    Parked,
    /// The connection has left or is leaving: these are unread messages.
    Refused(Batch),
}

/// What a receive into a buffer did (semantics E1–E6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes written to the buffer.
    pub copied: usize,
    /// Bytes of the message (or of its unread rest) before this call.
    pub len: usize,
    /// The message's last byte was returned, or cut off: MSG_EOR.
    pub end_of_record: bool,
    /// The rest of the message did not fit and is dropped: MSG_TRUNC. Only DGRAM.
    pub truncated: bool,
    /// The connection it came from.
    pub psock: PsockId,
}

impl Mux {
    /// A connection's reader has whole messages. They go to one KCM socket, the first in
    /// line, until it is full, then to the next (semantics C1, C5); what finds none is
    /// parked (C8).
    pub fn deliver(&mut self, psock: PsockId, batch: Batch, fx: &mut Effects) -> Delivery {
        unimplemented!()
    }

    /// A connection's reader is done, for this cause, after delivering all there was. The
    /// connection is out of use, or half closed if it was attached so and the end is clean.
    /// Messages parked on it stay until they are taken or it is unattached.
    pub fn rx_end(&mut self, psock: PsockId, cause: PsockError, fx: &mut Effects) {
        unimplemented!()
    }

    /// Takes over the stream parser's counters, for the statistics.
    pub fn report_strp(&mut self, psock: PsockId, stats: &StrpStats) {
        unimplemented!()
    }

    /// Takes the next message.
    pub fn recv(&mut self, kcm: KcmId, fx: &mut Effects) -> Result<Message, RecvError> {
        unimplemented!()
    }

    /// Takes up to `max` messages, at least 1, appending them to `out`; returns how many.
    pub fn recv_many(
        &mut self,
        kcm: KcmId,
        max: usize,
        out: &mut Vec<Message>,
        fx: &mut Effects,
    ) -> Result<usize, RecvError> {
        unimplemented!()
    }

    /// Takes the next batch: up to `max` messages (at least 1) of one connection that
    /// arrived together.
    pub fn recv_batch(
        &mut self,
        kcm: KcmId,
        max: usize,
        fx: &mut Effects,
    ) -> Result<Batch, RecvError> {
        unimplemented!()
    }

    /// Copies the next message into `buf`. What does not fit stays for the next call
    /// (SEQPACKET) or is dropped and reported (DGRAM). An empty `buf` takes nothing and
    /// reports the message's length (semantics J4). With `peek` the message stays as it is
    /// (E5).
    pub fn recv_into(
        &mut self,
        kcm: KcmId,
        buf: &mut [u8],
        peek: bool,
        fx: &mut Effects,
    ) -> Result<Received, RecvError> {
        unimplemented!()
    }

    /// The next message, which stays (semantics E5).
    pub fn peek(&self, kcm: KcmId) -> Result<Message, RecvError> {
        unimplemented!()
    }

    /// Lends the next batch: as [`recv_batch`](Self::recv_batch), but its messages count as
    /// unread until [`settle`](Self::settle). With this a receiver takes message after
    /// message from a batch of its own without the lock, and the receive buffer is still
    /// measured right.
    pub fn lend(&mut self, kcm: KcmId, max: usize, fx: &mut Effects) -> Result<Batch, RecvError> {
        unimplemented!()
    }

    /// Messages of what was lent have been read: `msgs` whole ones, `bytes` in all.
    pub fn settle(&mut self, kcm: KcmId, msgs: usize, bytes: usize, fx: &mut Effects) {
        unimplemented!()
    }

    /// Takes back the unread rest of what was lent; it goes to its old place in the order.
    /// Settle first. To be called before the socket is closed or receive-disabled, so that
    /// these messages move too.
    pub fn give_back(&mut self, kcm: KcmId, rest: Batch, fx: &mut Effects) {
        unimplemented!()
    }
}
