//! Sending, the connection's side: who may write what on which connection.
//!
//! A connection sends from two queues: that of the KCM socket which holds it (messages that
//! may go anywhere) and its own (`send_to`). It changes between them only where a message
//! ends (semantics D16), and does so each time if both have something.
//!
//! A KCM socket keeps its connection until its whole queue is empty (D14), with two
//! exceptions that the kernel lacks: after its turn (`MuxOptions::tx_turn`, bounding D15a),
//! and when the connection takes nothing while no byte of the current message is out (J8,
//! ending D15b): then the socket goes back to the head of the line and takes the next
//! connection that is free.

use super::*;
use crate::error::SendError;

impl Mux {
    /// The socket has something to transmit: it takes an idle connection or gets in line.
    pub(super) fn want_tx(&mut self, kcm: u32, fx: &mut Effects) {
        let Some(k) = self.kcms.at(kcm) else { return };
        if k.tx.is_empty() || k.batching || k.psock.is_some() || self.tx_wait.contains(kcm) {
            // A connection that it holds has a writer, or gets one when it is writable.
            return;
        }
        match self.idle.pop_front() {
            Some(psock) => self.reserve(kcm, psock, fx),
            None => self.tx_wait.push_back(kcm),
        }
    }

    /// The socket lost its connection and is the first to get another.
    fn next_in_line(&mut self, kcm: u32, fx: &mut Effects) {
        if self.kcms.at(kcm).is_none_or(|k| k.tx.is_empty()) {
            return;
        }
        match self.idle.pop_front() {
            Some(other) => self.reserve(kcm, other, fx),
            None => self.tx_wait.push_front(kcm),
        }
    }

    /// The socket takes a free connection.
    fn reserve(&mut self, kcm: u32, psock: u32, fx: &mut Effects) {
        let (Some(k), Some(p)) = (self.kcms.at_mut(kcm), self.psocks.at_mut(psock)) else {
            return;
        };
        k.psock = Some(psock);
        k.turn = 0;
        p.owner = Some(kcm);
        p.stats.reserved += 1;
        if p.writer == Writer::None {
            p.writer = Writer::Appointed;
            fx.push(Effect::StartTx { psock: p.id });
        }
    }

    /// The socket gives its connection back; returns it. The caller offers it to others.
    pub(super) fn unreserve(&mut self, kcm: u32) -> Option<u32> {
        let psock = self.kcms.at_mut(kcm)?.psock.take()?;
        let p = self.psocks.at_mut(psock)?;
        p.owner = None;
        p.stats.unreserved += 1;
        Some(psock)
    }

    /// A connection without owner may be free: the socket that waited longest gets it, else
    /// it becomes idle. One with a writer is offered again when the writer is done.
    pub(super) fn offer(&mut self, psock: u32, fx: &mut Effects) {
        let Some(p) = self.psocks.at(psock) else { return };
        if !p.takes() || p.owner.is_some() || p.writer != Writer::None {
            return;
        }
        match self.tx_wait.pop_front() {
            Some(kcm) => self.reserve(kcm, psock, fx),
            None => self.idle.push_back(psock),
        }
    }

    /// Bytes that wait to be written on this connection, as far as it is settled that they are
    /// to leave on it.
    pub fn tx_waiting(&self, psock: PsockId) -> usize {
        let Some(p) = self.psocks.get(psock.index, psock.generation) else { return 0 };
        let owner = p.owner.and_then(|kcm| self.kcms.at(kcm));
        owner.map_or(0, |k| k.tx.bytes()) + p.own.as_ref().map_or(0, |own| own.queue.bytes())
    }

    /// The KCM socket whose messages a writer on this connection would get next.
    pub fn tx_next(&self, psock: PsockId) -> Option<KcmId> {
        let p = self.psocks.get(psock.index, psock.generation)?;
        let kcm = p.owner.or_else(|| self.tx_wait.front())?;
        self.kcms.at(kcm).map(|k| k.id)
    }

    /// The connection that this KCM socket holds for sending.
    pub fn tx_psock(&self, kcm: KcmId) -> Option<PsockId> {
        let k = self.kcms.get(kcm.index, kcm.generation)?;
        k.psock.and_then(|p| self.psocks.at(p)).map(|p| p.id)
    }

    /// Fills `work` with what to write next on this connection: at most `max_bufs` slices,
    /// and no more of them once there are `max_bytes`. False: nothing to write, the caller is
    /// no longer its writer.
    ///
    /// Only the writer may call it, that is, once after [`Effect::StartTx`] and again after
    /// each [`tx_done`](Self::tx_done).
    pub fn tx_begin(
        &mut self,
        psock: PsockId,
        max_bufs: usize,
        max_bytes: usize,
        work: &mut TxWork,
        fx: &mut Effects,
    ) -> bool {
        work.bufs.clear();
        work.bytes = 0;
        let index = psock.index;
        let Some(p) = self.psocks.get_mut(index, psock.generation) else { return false };
        if !p.sends() {
            p.writer = Writer::None;
            return false;
        }
        let inside_own = p.own.as_ref().is_some_and(|own| own.queue.started());
        if p.owner.is_none()
            && !inside_own
            && p.takes()
            && let Some(kcm) = self.tx_wait.pop_front()
        {
            self.reserve(kcm, index, fx);
        }
        let Some(p) = self.psocks.at_mut(index) else { return false };
        let owner = p.owner.and_then(|kcm| self.kcms.at_mut(kcm));
        let own = p.own.as_mut().filter(|own| !own.queue.is_empty());
        // After its turn the socket stops at the end of a message, if others wait: a write that
        // the connection takes in part would otherwise hardly ever end at one.
        let turn_over = !self.tx_wait.is_empty()
            && owner.as_ref().is_some_and(|k| self.options.tx_turn.is_some_and(|t| k.turn >= t));
        // So does one whose connection is to send nothing more.
        let one = turn_over || p.tx_end != TxEnd::Open;
        let (source, queue) = match (own, owner) {
            (None, None) => {
                p.writer = Writer::None;
                // The next burst makes a new one; ten thousand idle connections hold none.
                p.own = None;
                self.offer(index, fx);
                self.try_end_tx(index, fx);
                return false;
            }
            (Some(own), None) => (Source::Own, &mut own.queue),
            (None, Some(k)) => (Source::Kcm, &mut k.tx),
            (Some(own), Some(k)) => {
                let own_next = match p.source {
                    Source::Own => own.queue.started() || k.tx.is_empty(),
                    Source::Kcm => !k.tx.started(),
                };
                if own_next { (Source::Own, &mut own.queue) } else { (Source::Kcm, &mut k.tx) }
            }
        };
        queue.fill(max_bufs, max_bytes, one && source == Source::Kcm, work);
        p.source = source;
        p.writer = Writer::Writing;
        true
    }

    /// The connection took `n` bytes of what `tx_begin` gave. The caller is still the writer:
    /// it calls `tx_begin` again, or [`tx_blocked`](Self::tx_blocked).
    pub fn tx_done(&mut self, psock: PsockId, n: usize, fx: &mut Effects) {
        let index = psock.index;
        let Some(p) =
            self.psocks.get_mut(index, psock.generation).filter(|p| p.writer == Writer::Writing)
        else {
            return;
        };
        p.writer = Writer::Appointed;
        p.stats.tx_bytes += n as u64;
        self.totals.tx_bytes += n as u64;
        if n > 0 {
            p.stall = None;
        }
        match p.source {
            Source::Own => self.own_done(index, n, fx),
            Source::Kcm => self.kcm_done(index, n, fx),
        }
        self.written(index, fx);
        self.afterwards(index, fx);
    }

    /// Bytes of the connection's own queue are out.
    fn own_done(&mut self, index: u32, n: usize, fx: &mut Effects) {
        let Some(p) = self.psocks.at_mut(index) else { return };
        let Some(own) = p.own.as_mut() else { return };
        let (msgs, _) = own.queue.done(n);
        p.stats.tx_msgs += msgs as u64;
        self.totals.tx_msgs += msgs as u64;
        for _ in 0..msgs {
            let Some((kcm, bytes)) = own.owners.pop_front() else { break };
            self.finishing.extend(addressed_out(&mut self.kcms, kcm, bytes, false, fx));
        }
    }

    /// Bytes of the owner's queue are out.
    fn kcm_done(&mut self, index: u32, n: usize, fx: &mut Effects) {
        let Some(p) = self.psocks.at_mut(index) else { return };
        let Some(kcm) = p.owner else { return };
        let Some(k) = self.kcms.at_mut(kcm) else { return };
        let could_send = k.admits();
        let (msgs, _) = k.tx.done(n);
        k.turn += n as u64;
        p.stats.tx_msgs += msgs as u64;
        self.totals.tx_msgs += msgs as u64;
        if !could_send && k.admits() {
            fx.push(Effect::Writable { kcm: k.id });
        }
        let begun = k.tx.started();
        if k.closing == Some(Close::Now) {
            self.drop_unstarted(kcm);
        }
        let Some(k) = self.kcms.at_mut(kcm) else { return };
        if k.tx.is_empty() {
            // The whole queue is out (D14).
            let closing = k.closing.is_some();
            self.unreserve(kcm);
            self.finishing.extend(closing.then_some(kcm));
        } else if !begun
            && !self.tx_wait.is_empty()
            && self.options.tx_turn.is_some_and(|turn| k.turn >= turn)
        {
            // Others wait, and it had its turn (D15a).
            self.unreserve(kcm);
            self.tx_wait.push_back(kcm);
        }
    }

    /// What had to wait for the writer's report.
    fn written(&mut self, index: u32, fx: &mut Effects) {
        let Some(p) = self.psocks.at(index) else { return };
        if p.leaving {
            self.detach(index, fx);
        } else if p.cause.is_some() {
            self.stop_tx(index, fx);
        }
    }

    /// The connection takes no more for now (after `tx_done` for what it took, if anything).
    /// The caller is no longer the writer; it calls [`tx_writable`](Self::tx_writable) when
    /// the connection is writable. A message of which nothing is out may meanwhile go to
    /// another connection (semantics J8).
    pub fn tx_blocked(&mut self, psock: PsockId, now: Instant, fx: &mut Effects) {
        let index = psock.index;
        let stall = self.options.stall_deadline;
        let Some(p) = self.psocks.get_mut(index, psock.generation) else { return };
        if !matches!(p.writer, Writer::Writing | Writer::Appointed) {
            return;
        }
        p.writer = Writer::Blocked;
        if !p.sends() {
            self.written(index, fx);
            self.afterwards(index, fx);
            return;
        }
        let owner = p.owner;
        let begun = match p.source {
            Source::Own => p.own.as_ref().is_some_and(|own| own.queue.started()),
            Source::Kcm => owner.and_then(|k| self.kcms.at(k)).is_some_and(|k| k.tx.started()),
        };
        if begun && p.stall.is_none() {
            p.stall = stall.and_then(|after| now.checked_add(after));
        }
        if let Some(kcm) = owner.filter(|_| !begun || p.source == Source::Own) {
            self.unreserve(kcm);
            self.next_in_line(kcm, fx);
        }
        self.afterwards(index, fx);
    }

    /// A connection that was reported blocked can take bytes again.
    pub fn tx_writable(&mut self, psock: PsockId, fx: &mut Effects) {
        let index = psock.index;
        let Some(p) = self.psocks.get_mut(index, psock.generation) else { return };
        if p.writer != Writer::Blocked {
            return;
        }
        p.writer = Writer::None;
        if !p.sends() {
            return;
        }
        if p.owner.is_some() || !p.own_is_empty() {
            p.writer = Writer::Appointed;
            fx.push(Effect::StartTx { psock });
        } else {
            self.offer(index, fx);
        }
    }

    /// A write failed: the connection is out of use. The caller is no longer the writer. The
    /// interrupted message is sent again from its first byte on another connection (semantics
    /// D18); messages for this connection alone are dropped. What the peer sent before is
    /// still delivered ([`Effect::StopRx`], D21).
    pub fn tx_failed(&mut self, psock: PsockId, cause: PsockError, fx: &mut Effects) {
        let index = psock.index;
        let Some(p) = self.psocks.get_mut(index, psock.generation) else { return };
        p.writer = Writer::None;
        if p.leaving || p.cause.is_some() {
            self.written(index, fx);
        } else {
            self.fail(index, cause, fx);
        }
        self.afterwards(index, fx);
    }

    /// When [`on_tx_deadline`](Self::on_tx_deadline) is due for this connection: it is blocked
    /// inside a message, and there is a stall deadline (semantics J8).
    pub fn tx_deadline(&self, psock: PsockId) -> Option<Instant> {
        let p = self.psocks.get(psock.index, psock.generation)?;
        p.stall.filter(|_| p.writer == Writer::Blocked)
    }

    /// Fails the connection with [`PsockError::Stalled`] if its deadline has passed; early or
    /// spurious calls do nothing.
    pub fn on_tx_deadline(&mut self, psock: PsockId, now: Instant, fx: &mut Effects) {
        if self.tx_deadline(psock).is_some_and(|deadline| deadline <= now) {
            self.fail(psock.index, PsockError::Stalled, fx);
            self.afterwards(psock.index, fx);
        }
    }

    /// Ends our own sending side of a connection once everything queued for it alone, and the
    /// message that a KCM socket has begun on it, is out; then [`Effect::EndTx`] says so. It
    /// takes no further messages from now on; it goes on receiving (semantics A31). Saying the
    /// same again does nothing.
    pub fn end_tx(&mut self, psock: PsockId, fx: &mut Effects) -> Result<(), SendError> {
        let p = in_use(&mut self.psocks, psock)?;
        if p.tx_end == TxEnd::Open {
            p.tx_end = TxEnd::Ending;
            self.idle.remove(psock.index);
            self.try_end_tx(psock.index, fx);
        }
        Ok(())
    }

    /// Ends the sending side if it is to end and nothing is left to send.
    pub(super) fn try_end_tx(&mut self, index: u32, fx: &mut Effects) {
        let Some(p) = self.psocks.at(index) else { return };
        // In a write nobody knows what is out: the report decides.
        if p.tx_end != TxEnd::Ending || p.writer == Writer::Writing || !p.sends() {
            return;
        }
        let owner = p.owner.and_then(|kcm| self.kcms.at(kcm));
        if let Some(kcm) = owner.filter(|k| !k.tx.started()).map(|k| k.id.index) {
            self.unreserve(kcm);
            self.next_in_line(kcm, fx);
        }
        let Some(p) = self.psocks.at_mut(index) else { return };
        if p.owner.is_some() || !p.own_is_empty() {
            return;
        }
        p.tx_end = TxEnd::Ended;
        let (psock, both) = (p.id, p.rx_ended);
        fx.push(Effect::EndTx { psock });
        fx.event(PsockEvent::TxEnded { psock });
        if both {
            // The peer had ended before: nothing is left of the connection.
            self.fail(index, PsockError::Eof, fx);
        }
    }

    /// Ends sending on a connection that nobody is writing on: its own messages are dropped
    /// (returns how many), its owner's interrupted message begins again elsewhere (semantics
    /// A37, D18).
    pub(super) fn stop_tx(&mut self, index: u32, fx: &mut Effects) -> usize {
        let Some(p) = self.psocks.at_mut(index) else { return 0 };
        p.writer = Writer::None;
        p.stall = None;
        if p.cause.is_some() {
            p.stats.tx_aborts = 1;
        }
        let mut unsent = 0;
        if let Some(own) = p.own.take() {
            p.desynchronised |= own.queue.started();
            for (kcm, bytes) in own.owners {
                unsent += 1;
                self.totals.tx_dropped_msgs += 1;
                self.finishing.extend(addressed_out(&mut self.kcms, kcm, bytes, true, fx));
            }
        }
        let Some(kcm) = p.owner else { return unsent };
        if let Some(k) = self.kcms.at_mut(kcm) {
            if k.tx.rewind() {
                p.desynchronised = true;
                self.totals.tx_retries += 1;
            }
            // What had a connection had been pushed.
            k.batching = false;
        }
        self.unreserve(kcm);
        if self.idle.is_empty() && self.kcms.at(kcm).is_some_and(|k| k.closing == Some(Close::Now))
        {
            // Nobody waits for it, and there is no connection to finish it on.
            self.drop_unstarted(kcm);
        }
        self.want_tx(kcm, fx);
        self.finishing.push(kcm);
        unsent
    }

    /// Drops messages of the connection's own queue that are surely not out; the caller knows
    /// that a write is under way. Returns how many.
    pub(super) fn drop_own_unstarted(&mut self, index: u32, fx: &mut Effects) -> usize {
        let Some(p) = self.psocks.at_mut(index) else { return 0 };
        let Some(own) = p.own.as_mut().filter(|_| p.source == Source::Kcm) else { return 0 };
        let unsent = own.owners.len();
        for (kcm, bytes) in own.owners.drain(..) {
            self.totals.tx_dropped_msgs += 1;
            self.finishing.extend(addressed_out(&mut self.kcms, kcm, bytes, true, fx));
        }
        p.own = None;
        unsent
    }
}

/// The connection, for those who want to send on it or end that: it has neither left nor failed.
pub(super) fn in_use(psocks: &mut Slab<Psock>, psock: PsockId) -> Result<&mut Psock, SendError> {
    let p = psocks
        .get_mut(psock.index, psock.generation)
        .filter(|p| !p.leaving)
        .ok_or(SendError::NoSuchPsock(psock))?;
    match p.cause.as_deref() {
        Some(cause) => Err(SendError::Psock(cause.clone())),
        None => Ok(p),
    }
}

/// A message for one connection alone has left its queue, sent or dropped. Its socket, if it is
/// closing and this may have been the last it waited for.
fn addressed_out(
    kcms: &mut Slab<Kcm>,
    kcm: KcmId,
    bytes: usize,
    dropped: bool,
    fx: &mut Effects,
) -> Option<u32> {
    // Its socket may be closed by now.
    let k = kcms.get_mut(kcm.index, kcm.generation)?;
    let could_send = k.admits();
    k.addressed_msgs = k.addressed_msgs.saturating_sub(1);
    k.addressed_bytes = k.addressed_bytes.saturating_sub(bytes);
    if dropped {
        k.stats.tx_dropped_msgs += 1;
        k.stats.tx_dropped_bytes += bytes as u64;
    }
    if !could_send && k.admits() && k.closing.is_none() {
        fx.push(Effect::Writable { kcm });
    }
    (k.closing.is_some() && k.addressed_msgs == 0).then_some(kcm.index)
}
