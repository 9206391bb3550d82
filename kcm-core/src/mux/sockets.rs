//! KCM sockets: made, cloned, set up, closed.

use super::*;
use crate::error::SocketError;

impl Mux {
    /// A multiplexor with one KCM socket (semantics A1). Buffer sizes of 0 count as 1.
    pub fn new(kind: SocketType, options: MuxOptions, first: KcmOptions) -> (Self, KcmId) {
        let mut mux = Mux {
            kind,
            options,
            kcms: Slab::default(),
            psocks: Slab::default(),
            rx_wait: Fifo::default(),
            ready: Fifo::default(),
            asking: Fifo::default(),
            turns: Turns::default(),
            hold: RxQueue::default(),
            idle: Fifo::default(),
            tx_wait: Fifo::default(),
            round: Vec::new(),
            lent_msgs: 0,
            lent_bytes: 0,
            seq: 0,
            usable: 0,
            readable: 0,
            had_psock: false,
            finishing: Vec::new(),
            ending: None,
            totals: MuxStats::default(),
        };
        let id = mux.add_kcm(first).unwrap_or(KcmId { index: 0, generation: 0 });
        mux.rx_wait.push_back(id.index);
        (mux, id)
    }

    fn add_kcm(&mut self, options: KcmOptions) -> Option<KcmId> {
        let (index, generation) = self.kcms.insert(|index, generation| Kcm {
            id: KcmId { index, generation },
            options: valid(options),
            rx: FairQueue::default(),
            lent_msgs: 0,
            lent_bytes: 0,
            disabled: false,
            full: false,
            tx: SendQueue::default(),
            addressed_msgs: 0,
            addressed_bytes: 0,
            batching: false,
            psock: None,
            turn: 0,
            closing: None,
            stats: KcmStats::default(),
        })?;
        Some(KcmId { index, generation })
    }

    /// A further KCM socket of the same type, with the options of `parent` except
    /// receive-disable (semantics A7). Held and parked messages are pushed into it (A9).
    pub fn clone_kcm(&mut self, parent: KcmId, fx: &mut Effects) -> Result<KcmId, SocketError> {
        let options = self.open_kcm(parent)?.options;
        let id = self.add_kcm(options).ok_or(SocketError::InvalidOption {
            name: "clone",
            reason: "there are as many KCM sockets as a 32-bit number can name",
        })?;
        self.receiver_ready(id.index, fx);
        Ok(id)
    }

    /// A KCM socket that takes calls.
    pub(super) fn open_kcm(&mut self, kcm: KcmId) -> Result<&mut Kcm, SocketError> {
        self.kcms
            .get_mut(kcm.index, kcm.generation)
            .filter(|k| k.closing.is_none())
            .ok_or(SocketError::Closed)
    }

    /// The same, to look at.
    pub(super) fn peek_kcm(&self, kcm: KcmId) -> Option<&Kcm> {
        self.kcms.get(kcm.index, kcm.generation).filter(|k| k.closing.is_none())
    }

    /// Takes a KCM socket out of the receivers, or back in (semantics C12). Its unread
    /// messages move, in order, to the first receiver in line, else to the hold queue.
    /// Saying the same again does nothing.
    pub fn set_recv_disabled(
        &mut self,
        kcm: KcmId,
        disabled: bool,
        fx: &mut Effects,
    ) -> Result<(), SocketError> {
        let k = self.open_kcm(kcm)?;
        if k.disabled == disabled {
            return Ok(());
        }
        k.disabled = disabled;
        if disabled {
            k.full = false;
            let unread = k.rx.take();
            self.rx_wait.remove(kcm.index);
            self.requeue(unread, fx);
        } else {
            self.receiver_ready(kcm.index, fx);
        }
        Ok(())
    }

    /// Whether a KCM socket is receive-disabled.
    pub fn recv_disabled(&self, kcm: KcmId) -> Result<bool, SocketError> {
        self.peek_kcm(kcm).map(|k| k.disabled).ok_or(SocketError::Closed)
    }

    /// Changes a KCM socket's options; sizes of 0 count as 1. A full socket that is below
    /// its low water mark by the new measure takes messages at once (the kernel's would not,
    /// semantics C6).
    pub fn set_options(
        &mut self,
        kcm: KcmId,
        options: KcmOptions,
        fx: &mut Effects,
    ) -> Result<(), SocketError> {
        let k = self.open_kcm(kcm)?;
        let could_send = k.admits();
        k.options = valid(options);
        if !could_send && k.admits() {
            fx.push(Effect::Writable { kcm });
        }
        self.after_read(kcm.index, fx);
        self.wake_ended(fx);
        Ok(())
    }

    /// A KCM socket's options.
    pub fn options(&self, kcm: KcmId) -> Result<KcmOptions, SocketError> {
        self.peek_kcm(kcm).map(|k| k.options).ok_or(SocketError::Closed)
    }

    /// What ends a message.
    pub fn kind(&self) -> SocketType {
        self.kind
    }

    /// Open KCM sockets, by index.
    pub fn kcms(&self) -> impl Iterator<Item = KcmId> {
        self.kcms.iter().filter(|(_, k)| k.closing.is_none()).map(|(_, k)| k.id)
    }

    /// Closes a KCM socket: it takes no more calls. Its unread messages move to the others,
    /// in order (semantics A41); a message being built is dropped (A44); messages addressed
    /// to one connection stay with that connection. What is queued goes by `how`.
    ///
    /// True: done, the id names nothing any more. False: [`Effect::Closed`] follows when the
    /// last message is out. Closing a draining socket again with [`Close::Now`] cuts it short.
    ///
    /// With the last KCM socket the multiplexor ends ([`Effect::MuxClosed`]). Its connections
    /// leave at once, except those that have still to send what was addressed to them: the
    /// message begun, or with [`Close::Drain`] all of it (J9).
    pub fn close(&mut self, kcm: KcmId, how: Close, fx: &mut Effects) -> Result<bool, SocketError> {
        let k = self
            .kcms
            .get_mut(kcm.index, kcm.generation)
            .filter(|k| k.closing.is_none_or(|before| before == Close::Drain && how == Close::Now))
            .ok_or(SocketError::Closed)?;
        k.closing = Some(how);
        k.full = false;
        let unread = k.rx.take();
        k.batching = false;
        if how == Close::Now {
            let writing = k
                .psock
                .and_then(|p| self.psocks.at(p))
                .is_some_and(|p| p.writer == Writer::Writing && p.source == Source::Kcm);
            // While a write is under way nobody knows what is out: what is begun is then
            // decided when the writer reports.
            if !writing {
                self.drop_unstarted(kcm.index);
            }
        }
        self.rx_wait.remove(kcm.index);
        self.requeue(unread, fx);
        self.want_tx(kcm.index, fx);
        Ok(self.try_finish_close(kcm.index, false, fx))
    }

    /// Drops, counted, what a closing socket has queued and not begun.
    pub(super) fn drop_unstarted(&mut self, kcm: u32) {
        let Some(k) = self.kcms.at_mut(kcm) else { return };
        let (msgs, bytes) = k.tx.drop_unstarted();
        k.stats.tx_dropped_msgs += msgs as u64;
        k.stats.tx_dropped_bytes += bytes as u64;
        self.totals.tx_dropped_msgs += msgs as u64;
    }

    /// Removes a closing socket that has nothing left to write. True if it is gone.
    pub(super) fn try_finish_close(&mut self, kcm: u32, tell: bool, fx: &mut Effects) -> bool {
        let Some(k) = self.kcms.at(kcm) else { return false };
        let how = match k.closing {
            Some(how) if k.tx.is_empty() => how,
            _ => return false,
        };
        if how == Close::Drain && k.addressed_msgs > 0 {
            return false;
        }
        let id = k.id;
        self.tx_wait.remove(kcm);
        if let Some(psock) = self.unreserve(kcm) {
            self.offer(psock, fx);
        }
        self.kcms.remove(kcm);
        if tell {
            fx.push(Effect::Closed { kcm: id });
        }
        if self.kcms.len() == 0 {
            let dropped = self.hold.take();
            self.totals.rx_ready_drops += dropped.msgs() as u64;
            self.ending = Some(how);
            let all: Vec<PsockId> = self.psocks().collect();
            for psock in all {
                self.wind_up(psock.index, fx);
            }
            fx.push(Effect::MuxClosed);
        }
        true
    }

    /// After the last KCM socket: lets a connection go when it has nothing left to send.
    fn wind_up(&mut self, index: u32, fx: &mut Effects) {
        let Some(how) = self.ending else { return };
        let Some(p) = self.psocks.at_mut(index) else { return };
        // One that is leaving, or in a write, is looked at when its writer reports.
        if p.leaving || p.writer == Writer::Writing {
            return;
        }
        let psock = p.id;
        if p.sends() {
            if let Some(own) = p.own.as_mut().filter(|_| how == Close::Now) {
                let dropped = own.queue.drop_unstarted().0;
                own.owners.truncate(own.owners.len() - dropped);
                self.totals.tx_dropped_msgs += dropped as u64;
            }
            if !p.own_is_empty() {
                return;
            }
        }
        // It is attached and not leaving: this is not refused.
        let _ = self.unattach(psock, fx);
    }

    /// What follows once everything else of a call about this connection is done: closing
    /// sockets that had to wait for it, its own leaving with the multiplexor, the end of its
    /// sending side.
    pub(super) fn afterwards(&mut self, index: u32, fx: &mut Effects) {
        self.try_end_tx(index, fx);
        while let Some(kcm) = self.finishing.pop() {
            self.try_finish_close(kcm, true, fx);
        }
        self.wind_up(index, fx);
    }

    /// The multiplexor ends with this KCM socket.
    pub fn is_last(&self, kcm: KcmId) -> bool {
        self.kcms.len() == 1 && self.kcms.get(kcm.index, kcm.generation).is_some()
    }

    /// Every KCM socket is gone.
    pub fn is_closed(&self) -> bool {
        self.kcms.len() == 0
    }
}

fn valid(options: KcmOptions) -> KcmOptions {
    KcmOptions {
        recv_buffer: options.recv_buffer.max(1),
        send_buffer: options.send_buffer.max(1),
        ..options
    }
}
