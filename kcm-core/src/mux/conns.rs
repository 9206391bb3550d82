//! Connections: attached, failed, unattached.

use super::*;
use crate::error::{AttachError, SocketError};

impl Mux {
    /// Adds a connection, which is in use at once: the KCM socket that waited longest to
    /// transmit gets it (semantics A27). The caller has checked the stream (A15–A19, J10,
    /// J11).
    pub fn attach(
        &mut self,
        options: PsockOptions,
        fx: &mut Effects,
    ) -> Result<PsockId, AttachError> {
        if self.is_closed() {
            return Err(AttachError::Closed);
        }
        let (index, generation) = self
            .psocks
            .insert(|index, generation| Psock {
                id: PsockId { index, generation },
                options,
                parked: Parked::default(),
                rx_ended: false,
                cause: None,
                leaving: false,
                writer: Writer::None,
                owner: None,
                own: None,
                source: Source::Kcm,
                tx_end: TxEnd::Open,
                desynchronised: false,
                missing: 0,
                stall: None,
                stats: Counts::default(),
            })
            .ok_or(AttachError::InvalidOption {
                name: "stream",
                reason: "as many connections are attached as a 32-bit number can name",
            })?;
        let psock = PsockId { index, generation };
        self.totals.attach += 1;
        self.usable += 1;
        self.readable += 1;
        self.had_psock = true;
        fx.event(PsockEvent::Attached { psock });
        self.offer(index, fx);
        Ok(psock)
    }

    /// Makes a connection leave. [`Effect::Detached`] brings what is left of it: at once, or
    /// when its writer reports, if it is in a write at this moment. Messages parked on it are
    /// returned (semantics A36, J17); the one it was sending is sent again elsewhere, from
    /// its first byte (A37).
    pub fn unattach(&mut self, psock: PsockId, fx: &mut Effects) -> Result<(), SocketError> {
        let p = self
            .psocks
            .get_mut(psock.index, psock.generation)
            .ok_or(SocketError::NotAttached(psock))?;
        if p.leaving {
            return Err(SocketError::Detaching(psock));
        }
        p.leaving = true;
        if p.writer != Writer::Writing {
            self.detach(psock.index, fx);
            self.afterwards(psock.index, fx);
        }
        Ok(())
    }

    /// The rest of unattach, with nobody in a write.
    pub(super) fn detach(&mut self, index: u32, fx: &mut Effects) {
        let reserved = self.psocks.at(index).is_some_and(|p| p.owner.is_some());
        let unsent = self.stop_tx(index, fx);
        self.idle.remove(index);
        self.ready.remove(index);
        self.asking.remove(index);
        let Some(mut p) = self.psocks.remove(index) else { return };
        self.kcms.values_mut().for_each(|k| k.rx.leave(p.id));
        self.totals.unattach += 1;
        self.totals.unattach_rsvd += u64::from(reserved);
        if !p.rx_ended {
            self.readable -= 1;
        }
        let was_usable = p.cause.is_none();
        let parked = p.parked.take();
        if self.is_closed() {
            self.totals.rx_ready_drops += parked.msgs() as u64;
        } else {
            self.totals.returned_msgs += parked.msgs() as u64;
            self.totals.returned_bytes += parked.bytes() as u64;
        }
        report::fold(&mut self.totals.psocks, &p.stats.stats());
        fx.push(Effect::Detached(Leftover {
            psock: p.id,
            desynchronised: p.desynchronised,
            parked: parked.into_batches(),
            cause: p.cause.map(|cause| *cause),
            unsent,
        }));
        fx.event(PsockEvent::Detached { psock: p.id });
        if was_usable {
            self.one_less(fx);
        }
        self.wake_ended(fx);
    }

    /// Puts a connection out of use, once, for the first cause (semantics J12).
    pub(super) fn fail(&mut self, index: u32, cause: PsockError, fx: &mut Effects) {
        let Some(p) = self.psocks.at_mut(index) else { return };
        if p.cause.is_some() || p.leaving {
            return;
        }
        self.totals.ends.count(&cause);
        p.cause = Some(Box::new(cause.clone()));
        let psock = p.id;
        let writing = p.writer == Writer::Writing;
        let still_reading = !p.rx_ended;
        self.idle.remove(index);
        // In a write nobody knows what is out: the rest follows when the writer reports. The
        // messages it may yet complete are not among those told here as unsent.
        let unsent =
            if writing { self.drop_own_unstarted(index, fx) } else { self.stop_tx(index, fx) };
        if still_reading {
            fx.push(Effect::StopRx { psock });
        }
        fx.event(PsockEvent::Failed { psock, cause, unsent });
        self.one_less(fx);
    }

    fn one_less(&mut self, fx: &mut Effects) {
        self.usable -= 1;
        if self.usable == 0 {
            fx.event(PsockEvent::NoneLeft);
        }
    }

    /// A connection's reader is done, for this cause, after delivering all there was. The
    /// connection is out of use, or half closed if it was attached so and the end is clean.
    /// Messages parked on it stay until they are taken or it is unattached.
    pub fn rx_end(&mut self, psock: PsockId, cause: PsockError, fx: &mut Effects) {
        let Some(p) = self.psocks.get_mut(psock.index, psock.generation) else { return };
        if p.rx_ended {
            return;
        }
        p.rx_ended = true;
        self.readable -= 1;
        let goes_on = p.options.half_close && p.tx_end != TxEnd::Ended;
        if cause == PsockError::Eof && goes_on && p.cause.is_none() {
            fx.event(PsockEvent::HalfClosed { psock });
        } else {
            self.fail(psock.index, cause, fx);
        }
        self.wake_ended(fx);
        self.afterwards(psock.index, fx);
    }

    /// Wakes receivers that are to end with the connections, when it is time (semantics J13).
    pub(super) fn wake_ended(&mut self, fx: &mut Effects) {
        if !self.no_psock_left() {
            return;
        }
        for (_, k) in self.kcms.iter() {
            if k.options.end_with_psocks && k.rx.is_empty() && k.closing.is_none() {
                fx.readable(k.id, usize::MAX);
            }
        }
    }

    /// There were connections, none can bring messages any more, and all they brought is in
    /// KCM sockets' queues.
    pub(super) fn no_psock_left(&self) -> bool {
        self.had_psock && self.readable == 0 && self.hold.is_empty() && self.ready.is_empty()
    }

    /// All attached connections, by index.
    pub fn psocks(&self) -> impl Iterator<Item = PsockId> {
        self.psocks.iter().map(|(_, p)| p.id)
    }

    /// The connection is attached, in use or not.
    pub fn is_attached(&self, psock: PsockId) -> bool {
        self.psocks.get(psock.index, psock.generation).is_some()
    }

    /// Why a connection is out of use; None while it is in use, and for one not attached.
    pub fn psock_error(&self, psock: PsockId) -> Option<&PsockError> {
        self.psocks.get(psock.index, psock.generation)?.cause.as_deref()
    }

    /// Connections that are not out of use.
    pub fn usable_psocks(&self) -> usize {
        self.usable
    }
}
