//! The multiplexor behind its lock, and what follows from each call on it.
//!
//! Every call is: lock, one call on [`Mux`], [`Core::collect`] (turn effects into work),
//! unlock, [`Todo::run`]. Nothing blocks under the lock, nobody is woken under it.
//!
//! Lock order: a psock's `rx`, then its `tx`, then [`Shared::core`], then leaves (a psock's
//! `driver` and `end`, a watcher's queue, [`Shared::blocks`]). Work is run and others are woken
//! with none of them held. Parsers and streams run with their connection's held: what would
//! wait for another's in there is refused (see `inside`).

use std::{
    sync::{Arc, Weak, atomic::AtomicUsize},
    task::Waker,
};

use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use super::{
    cursor::{Cursor, LEAST, Lent},
    events::Watcher,
    haste::Haste,
    inside,
    intake::Intake,
    psock::{PsockShared, signal},
    wait::{Ticket, WaitList},
};
use crate::{
    error::RecvError,
    message::{Batch, Message, PsockId},
    mux::{Delivery, Effect, Effects, KcmId, Leftover, Mux, PsockEvent, make_room},
    strparser::Blocks,
};

/// A sender that finds its connection idle writes itself, this many times in a row over all
/// connections; then the connections' tasks have a turn to write what comes meanwhile.
const DIRECT: usize = 16;

/// With so many bytes to write nothing is gained by waiting for more.
const DIRECT_BYTES: usize = 32 * 1024;

/// What somebody waits for at a KCM socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// A message, to take it.
    Recv,
    /// Room, to use it.
    Send,
    /// To know that there is a message.
    Readable,
    /// To know that there is room.
    Writable,
    /// Everything queued to be out.
    Flushed,
    /// The socket to be closed.
    Closed,
}

/// Who waits at one KCM socket.
#[derive(Debug, Default)]
struct KcmSlot {
    id: Option<KcmId>,
    lists: [WaitList; 6],
    intake: Option<Arc<Intake>>,
    /// Closed with [`Close::Drain`](crate::mux::Close::Drain), and drained.
    closed: bool,
    lent: Lent,
}

impl KcmSlot {
    /// Takes in what the socket's senders have handed over.
    fn take_in(&self, mux: &mut Mux, fx: &mut Effects) {
        if let (Some(kcm), Some(intake)) = (self.id, &self.intake) {
            intake.empty(|bytes, ends| mux.send_admitted(kcm, bytes, ends, fx));
        }
    }
}

/// A KCM socket's slot, while the id is its.
fn slot(kcms: &[KcmSlot], kcm: KcmId) -> Option<&KcmSlot> {
    kcms.get(kcm.index() as usize).filter(|slot| slot.id == Some(kcm))
}

/// As [`slot`], to change it.
fn slot_mut(kcms: &mut [KcmSlot], kcm: KcmId) -> Option<&mut KcmSlot> {
    kcms.get_mut(kcm.index() as usize).filter(|slot| slot.id == Some(kcm))
}

/// What the lock protects.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) mux: Mux,
    pub(super) fx: Effects,
    kcms: Vec<KcmSlot>,
    psocks: Vec<Option<Arc<PsockShared>>>,
    watchers: Vec<Weak<Watcher>>,
    /// Those who wait for [`Waiting::Flushed`], at all sockets.
    flushing: usize,
    /// Nothing more will happen.
    ended: bool,
    /// Drivers that are going to have a turn for what senders leave to them.
    pub(super) awake: usize,
    /// Taken back from its driver by the sender whose call is at hand, who is to write.
    taken_over: Option<Arc<PsockShared>>,
    /// Writes by senders themselves since a driver had such a turn and found nothing.
    direct: usize,
    /// KCM sockets of which messages are lent (see `cursor`).
    lending: SmallVec<[u32; 8]>,
    /// Whom to wake after the call at hand.
    to_wake: SmallVec<[Waker; 2]>,
}

/// One multiplexor, shared by its KCM sockets, psock handles and drivers.
#[derive(Debug)]
pub(super) struct Shared {
    core: Mutex<Core>,
    /// Bytes of memory in which connections' unfinished messages are put together.
    pub(super) assembly: AtomicUsize,
    pub(super) haste: Haste,
    /// What the connections read into.
    pub(super) blocks: Mutex<Blocks>,
}

/// What is to be done once the lock is released.
#[derive(Debug, Default)]
pub(super) struct Todo {
    wakers: SmallVec<[Waker; 4]>,
    /// Psocks on which the runner is to write, and whom to wake then.
    tx: SmallVec<[(Arc<PsockShared>, Option<Waker>); 2]>,
    /// Psocks whose sending side is to end.
    ended: Vec<Arc<PsockShared>>,
    /// Psocks that have left, and what is left of them.
    pub(super) gone: Vec<(Arc<PsockShared>, Leftover)>,
}

impl Shared {
    pub(super) fn new(mux: Mux, first: KcmId, intake: Arc<Intake>) -> (Arc<Self>, Cursor) {
        let mut core = Core {
            mux,
            fx: Effects::new(),
            kcms: Vec::new(),
            psocks: Vec::new(),
            watchers: Vec::new(),
            flushing: 0,
            ended: false,
            awake: 0,
            direct: 0,
            taken_over: None,
            lending: SmallVec::new(),
            to_wake: SmallVec::new(),
        };
        let cursor = core.add_kcm(first, intake);
        let shared = Arc::new(Shared {
            core: Mutex::new(core),
            assembly: AtomicUsize::new(0),
            haste: Haste::default(),
            blocks: Mutex::default(),
        });
        (shared, cursor)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock()
    }

    /// One call, with everything that follows from it.
    pub(super) fn with<R>(self: &Arc<Self>, call: impl FnOnce(&mut Core) -> R) -> R {
        let mut core = self.lock();
        let result = call(&mut core);
        if core.quiet() {
            return result;
        }
        let mut todo = Todo::default();
        core.collect(&mut todo);
        drop(core);
        todo.run(self);
        result
    }

    /// One call, with what follows from it left to the caller.
    pub(super) fn with_todo<R>(&self, todo: &mut Todo, call: impl FnOnce(&mut Core) -> R) -> R {
        let mut core = self.lock();
        let result = call(&mut core);
        if !core.quiet() {
            core.collect(todo);
        }
        result
    }

    pub(super) fn psock(&self, id: PsockId) -> Option<Arc<PsockShared>> {
        self.lock().psock(id).cloned()
    }
}

impl Core {
    /// True if nothing follows from the last call.
    fn quiet(&self) -> bool {
        self.fx.is_empty()
            && self.flushing == 0
            && self.to_wake.is_empty()
            && self.taken_over.is_none()
    }

    /// Takes in what senders of this socket have handed over, before anybody looks at or
    /// changes what is queued for it.
    pub(super) fn take_in(&mut self, kcm: KcmId) {
        if let Some(slot) = slot(&self.kcms, kcm) {
            slot.take_in(&mut self.mux, &mut self.fx);
        }
    }

    /// As [`take_in`](Self::take_in), for all sockets.
    pub(super) fn take_in_all(&mut self) {
        for slot in &self.kcms {
            slot.take_in(&mut self.mux, &mut self.fx);
        }
    }

    /// After messages were queued, while senders are at it: they may hand the next ones over
    /// without asking. If enough has come together the sender writes it, and does not leave it
    /// to the connection's task any longer.
    pub(super) fn sent(&mut self, kcm: KcmId) {
        if self.awake == 0 {
            return;
        }
        if let Some(intake) = slot(&self.kcms, kcm).and_then(|slot| slot.intake.as_ref()) {
            intake.open(self.mux.admits(kcm));
        }
        if let Some(id) = self.mux.tx_psock(kcm)
            && self.mux.tx_waiting(id) >= DIRECT_BYTES
            && let Some(psock) = self.psock(id).filter(|psock| psock.take_over())
        {
            self.taken_over = Some(psock.clone());
        }
    }

    /// The connections on which something of this socket may have been left to the task: the
    /// one it holds, or all, if it is the last and they end with it.
    pub(super) fn left_to_tasks(&self, kcm: KcmId) -> SmallVec<[Arc<PsockShared>; 1]> {
        if self.awake == 0 {
            return SmallVec::new();
        }
        if self.mux.is_last(kcm) {
            return self.psocks.iter().flatten().cloned().collect();
        }
        let psock = self.mux.tx_psock(kcm).and_then(|id| self.psock(id));
        psock.into_iter().cloned().collect()
    }

    pub(super) fn add_kcm(&mut self, id: KcmId, intake: Arc<Intake>) -> Cursor {
        let index = id.index() as usize;
        if self.kcms.len() <= index {
            self.kcms.resize_with(index + 1, KcmSlot::default);
        }
        if let Some(slot) = self.kcms.get_mut(index) {
            *slot = KcmSlot { id: Some(id), intake: Some(intake), ..KcmSlot::default() };
            return slot.lent.cursor();
        }
        Cursor::default()
    }

    pub(super) fn add_psock(&mut self, psock: Arc<PsockShared>) {
        let index = psock.id().index() as usize;
        if self.psocks.len() <= index {
            make_room(&mut self.psocks, index + 1);
            self.psocks.resize_with(index + 1, || None);
        }
        if let Some(slot) = self.psocks.get_mut(index) {
            *slot = Some(psock);
        }
    }

    pub(super) fn psock(&self, id: PsockId) -> Option<&Arc<PsockShared>> {
        self.psocks.get(id.index() as usize)?.as_ref().filter(|p| p.id() == id)
    }

    pub(super) fn watch(&mut self, watcher: &Arc<Watcher>) {
        if self.ended {
            let _ = watcher.end();
            return;
        }
        self.watchers.retain(|w| w.strong_count() > 0);
        self.watchers.push(Arc::downgrade(watcher));
    }

    pub(super) fn is_closed(&self, kcm: KcmId) -> bool {
        slot(&self.kcms, kcm).is_none_or(|slot| slot.closed)
    }

    /// The next message: of what is lent, or else of a batch that is lent from now on.
    pub(super) fn recv(&mut self, kcm: KcmId) -> Result<Message, RecvError> {
        let Core { mux, fx, lending, kcms, .. } = self;
        let Some(slot) = slot_mut(kcms, kcm) else { return Err(RecvError::Closed) };
        let lent = &mut slot.lent;
        let (msgs, bytes) = lent.close();
        if !lent.is_lending() {
            if mux.next_len(kcm) < LEAST {
                return mux.recv(kcm, fx);
            }
            lent.lend(mux.lend(kcm, usize::MAX, fx)?);
            lending.push(kcm.index());
        }
        // A lent batch has a message.
        let message = lent.pop().ok_or(RecvError::WouldBlock)?;
        mux.settle(kcm, msgs + 1, bytes + message.len(), fx);
        lent.lay_out(mux.slack(kcm));
        if !lent.is_lending() {
            lending.retain(|index| *index != kcm.index());
        }
        Ok(message)
    }

    /// Settles what was read of lent batches, so that everything is measured right, and finds
    /// out how far full sockets may be read.
    pub(super) fn settle(&mut self) {
        let Core { mux, fx, lending, kcms, .. } = self;
        for &index in &*lending {
            let Some(KcmSlot { id: Some(id), lent, .. }) = kcms.get_mut(index as usize) else {
                continue;
            };
            let (msgs, bytes) = lent.catch_up();
            if msgs > 0 {
                mux.settle(*id, msgs, bytes, fx);
            }
            if mux.slack(*id) != lent.slack() {
                let (msgs, bytes) = lent.close();
                if msgs > 0 {
                    mux.settle(*id, msgs, bytes, fx);
                }
                lent.lay_out(mux.slack(*id));
            }
        }
    }

    /// Steers a connection's messages by what is really unread.
    pub(super) fn deliver(&mut self, psock: PsockId, batch: Batch) -> Delivery {
        self.settle();
        let delivery = self.mux.deliver(psock, batch, &mut self.fx);
        self.settle();
        delivery
    }

    /// Takes back what a socket was lent: for all that is not [`recv`](Self::recv).
    pub(super) fn give_back(&mut self, kcm: KcmId) {
        let Core { mux, fx, lending, kcms, .. } = self;
        let Some(at) = lending.iter().position(|&k| k == kcm.index()) else { return };
        let Some(slot) = slot_mut(kcms, kcm) else { return };
        lending.swap_remove(at);
        let (msgs, bytes) = slot.lent.close();
        mux.settle(kcm, msgs, bytes, fx);
        if let Some(rest) = slot.lent.take_back() {
            mux.give_back(kcm, rest, fx);
        }
    }

    /// Takes back what all sockets were lent: before messages move from one to another, which
    /// puts them in before those of their connection that came later (semantics J14).
    pub(super) fn give_all_back(&mut self) {
        while let Some(&index) = self.lending.last() {
            match self.kcms.get(index as usize).and_then(|slot| slot.id) {
                Some(kcm) => self.give_back(kcm),
                None => drop(self.lending.pop()),
            }
        }
    }

    /// A receive would return at once.
    pub(super) fn is_readable(&self, kcm: KcmId) -> bool {
        self.mux.is_readable(kcm) || slot(&self.kcms, kcm).is_some_and(|s| s.lent.is_lending())
    }

    /// Takes or keeps a place in a list.
    pub(super) fn wait(
        &mut self,
        kcm: KcmId,
        what: Waiting,
        ticket: &mut Option<Ticket>,
        waker: &Waker,
    ) {
        if what == Waiting::Flushed && ticket.is_none() {
            self.flushing += 1;
        }
        if let Some(list) = self.list(kcm, what) {
            list.wait(ticket, waker);
        }
    }

    /// True if others who wait for the same are before this one.
    pub(super) fn must_wait(&mut self, kcm: KcmId, what: Waiting, ticket: Option<Ticket>) -> bool {
        matches!(what, Waiting::Recv | Waiting::Send)
            && ticket.is_some_and(|t| self.list(kcm, what).is_some_and(|list| list.must_wait(t)))
    }

    /// Ends a wait, or a call that did not have to wait: if it left something, the next is
    /// woken.
    pub(super) fn done(&mut self, kcm: KcmId, what: Waiting, ticket: &mut Option<Ticket>) {
        self.leave(kcm, what, ticket, true);
    }

    /// Gives a wait up: a wake-up that was not used goes to the next.
    pub(super) fn give_up(&mut self, kcm: KcmId, what: Waiting, ticket: &mut Option<Ticket>) {
        self.leave(kcm, what, ticket, false);
    }

    fn leave(&mut self, kcm: KcmId, what: Waiting, ticket: &mut Option<Ticket>, used: bool) {
        if what == Waiting::Flushed && ticket.is_some() {
            self.flushing -= 1;
        }
        let Some(list) = self.list(kcm, what) else { return };
        let woken = list.leave(ticket);
        if list.is_empty() || !(used || woken) {
            return;
        }
        let more = match what {
            Waiting::Recv => self.is_readable(kcm),
            Waiting::Send => self.mux.is_writable(kcm),
            // These are all woken at once.
            _ => false,
        };
        if more {
            let next = self.list(kcm, what).and_then(WaitList::wake_one);
            self.to_wake.extend(next);
        }
    }

    fn list(&mut self, kcm: KcmId, what: Waiting) -> Option<&mut WaitList> {
        let slot = self.kcms.get_mut(kcm.index() as usize).filter(|s| s.id == Some(kcm))?;
        slot.lists.get_mut(what as usize)
    }

    /// Turns the effects of a call into work for after the lock.
    pub(super) fn collect(&mut self, todo: &mut Todo) {
        if !self.to_wake.is_empty() {
            todo.wakers.extend(self.to_wake.drain(..));
        }
        if let Some(psock) = self.taken_over.take() {
            todo.tx.push((psock, None));
        }
        // Given back below, with its allocation.
        let mut fx = std::mem::take(&mut self.fx);
        for effect in fx.drain() {
            self.follow(effect, todo);
        }
        self.fx = fx.again();
        if self.flushing > 0 {
            for slot in &mut self.kcms {
                let Some(id) = slot.id else { continue };
                if let Some(flushed) = slot.lists.get_mut(Waiting::Flushed as usize)
                    && !flushed.is_empty()
                    && self.mux.is_flushed(id)
                {
                    todo.wakers.extend(flushed.wake_all());
                }
            }
        }
    }

    fn follow(&mut self, effect: Effect, todo: &mut Todo) {
        match effect {
            Effect::Readable { kcm, .. } => {
                // One is woken; he wakes the next if he leaves something.
                if let Some(list) = self.list(kcm, Waiting::Recv) {
                    todo.wakers.extend(list.wake_one());
                }
                if let Some(list) = self.list(kcm, Waiting::Readable) {
                    todo.wakers.extend(list.wake_all());
                }
            }
            Effect::Writable { kcm } => {
                if let Some(list) = self.list(kcm, Waiting::Send) {
                    todo.wakers.extend(list.wake_one());
                }
                if let Some(list) = self.list(kcm, Waiting::Writable) {
                    todo.wakers.extend(list.wake_all());
                }
            }
            Effect::StartTx { psock } => self.start_tx(psock, todo),
            Effect::EndTx { psock } => todo.ended.extend(self.psock(psock).cloned()),
            Effect::ResumeRx { psock } => self.signal(psock, signal::RESUME, todo),
            Effect::StopRx { psock } => self.signal(psock, signal::STOP, todo),
            Effect::Event(event) => self.tell(event, todo),
            Effect::Detached(leftover) => {
                let slot = self.psocks.get_mut(leftover.psock.index() as usize);
                if let Some(psock) = slot.and_then(Option::take) {
                    psock.end(None, &mut todo.wakers);
                    todo.gone.push((psock, leftover));
                }
            }
            Effect::Closed { kcm } => {
                if let Some(slot) = self.kcms.get_mut(kcm.index() as usize) {
                    slot.closed = true;
                }
                if let Some(list) = self.list(kcm, Waiting::Closed) {
                    todo.wakers.extend(list.wake_all());
                }
            }
            Effect::MuxClosed => {
                self.ended = true;
                for watcher in self.watchers.drain(..).filter_map(|w| w.upgrade()) {
                    todo.wakers.extend(watcher.end());
                }
            }
        }
    }

    /// Somebody is to write: whoever has made the call at hand, so that a message alone leaves
    /// at once; or, while senders are at it, the connection's task on its next turn, so that
    /// the messages that come until then leave in the same write. A system call costs as much
    /// as the way through here of a hundred small messages.
    ///
    /// No clock tells one from the other: senders are at it while a task has just written, or
    /// after [`DIRECT`] writes in between which no task had a turn.
    fn start_tx(&mut self, id: PsockId, todo: &mut Todo) {
        let Some(psock) = self.psock(id).cloned() else { return };
        let large = self.mux.tx_waiting(id) >= DIRECT_BYTES;
        if large || !psock.is_driven() {
            todo.tx.push((psock, None));
        } else if self.awake > 0 {
            let (roused, waker) = psock.defer();
            self.awake += usize::from(roused);
            todo.wakers.extend(waker);
        } else {
            self.direct += 1;
            let mut then = None;
            if self.direct >= DIRECT {
                then = psock.rouse();
                self.awake += usize::from(then.is_some());
            }
            todo.tx.push((psock, then));
        }
    }

    /// A driver had its turn and found nothing.
    pub(super) fn rested(&mut self) {
        self.awake = self.awake.saturating_sub(1);
        self.direct = 0;
    }

    fn tell(&mut self, event: PsockEvent, todo: &mut Todo) {
        if let PsockEvent::Failed { psock, cause, .. } = &event
            && let Some(psock) = self.psock(*psock)
        {
            psock.end(Some(cause), &mut todo.wakers);
        }
        if !self.watchers.is_empty() {
            self.watchers.retain(|watcher| match watcher.upgrade() {
                Some(watcher) => {
                    todo.wakers.extend(watcher.push(event.clone()));
                    true
                }
                None => false,
            });
        }
    }

    fn signal(&self, psock: PsockId, bit: u8, todo: &mut Todo) {
        if let Some(psock) = self.psock(psock) {
            todo.wakers.extend(psock.signal(bit));
        }
    }
}

impl Todo {
    /// Somebody is to be woken.
    pub(super) fn wakes(&self) -> bool {
        !self.wakers.is_empty()
    }

    /// Wakes whoever is to be woken so far.
    pub(super) fn wake(&mut self) {
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
    }

    pub(super) fn wake_later(&mut self, waker: Option<Waker>) {
        self.wakers.extend(waker);
    }

    /// Does everything, and what follows from it.
    pub(super) fn run(mut self, shared: &Arc<Shared>) {
        loop {
            self.wake();
            // Hardly ever, and even nothing taken has its cost: this runs for each message sent.
            if !self.gone.is_empty() {
                for (psock, leftover) in std::mem::take(&mut self.gone) {
                    inside::drop_stream(psock, shared, leftover.desynchronised);
                }
            }
            if !self.ended.is_empty() {
                for psock in std::mem::take(&mut self.ended) {
                    psock.end_tx(shared, &mut self);
                }
            }
            let Some((psock, then)) = self.tx.pop() else { break };
            psock.write(shared, &mut self);
            self.wake_later(then);
        }
    }
}
