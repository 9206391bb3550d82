//! The task of one connection: reads, parses, delivers; writes when a sender could not.

use std::{
    any::Any,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use tokio::time::{Instant, Sleep};

use super::{
    inside,
    kernel::{self, KernelPass},
    psock::{PsockShared, Rx, failed, io_cause, signal},
    shared::{Shared, Todo},
};
use crate::{
    error::{IoCause, PsockError},
    mux::Delivery,
};

/// Bytes read in one go before other tasks have their turn: a few hundred microseconds of work.
/// A peer that sends more than we read waits for our window, and then each of our reads does
/// the peer's sending for it, in the acknowledgement (a third of the whole cost of a small
/// message); reading a connection empty before turning to the next ends that.
const WORK_LIMIT: usize = 2 * 1024 * 1024;

/// The same in [haste](super::haste).
const SHORT_LIMIT: usize = 64 * 1024;

/// How long blocks are kept that nobody uses; twice that, at most.
const TIDY: std::time::Duration = std::time::Duration::from_secs(1);

/// What a pass over the receiving side came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    /// All there was is read.
    Drained,
    /// The work limit was reached.
    More,
    /// Messages were delivered: wake who waits for them, and go on.
    Wake,
    /// The same, and probably there is no more to read: they have their turn first, for the read
    /// that finds nothing is on nobody's way then, nor are the clocks.
    Turn,
    /// Messages are parked (semantics C8).
    Paused,
    /// Receiving has ended.
    Ended,
    /// The connection has left.
    Gone,
}

/// One connection's task. Ends when the connection has left, or is out of use.
pub(super) struct Driver {
    psock: Arc<PsockShared>,
    shared: Arc<Shared>,
    rare: Option<Box<Rare>>,
}

/// What hardly any connection's task has. With all of it a task would take 256 bytes, which
/// tokio makes of anything beyond 128.
#[derive(Default)]
struct Rare {
    clock: Option<Pin<Box<Sleep>>>,
    /// A connection in the kernel is to be looked at then.
    look: Option<std::time::Instant>,
    /// This one looks after the blocks that nobody needs, and when.
    tidy: Option<std::time::Instant>,
    done: bool,
    /// Our own runtime lives as long as one of its connections.
    _keep: Option<Arc<dyn Any + Send + Sync>>,
}

impl Driver {
    pub(super) fn new(
        psock: Arc<PsockShared>,
        shared: Arc<Shared>,
        keep: Option<Arc<dyn Any + Send + Sync>>,
    ) -> Self {
        let rare = keep.map(|keep| Box::new(Rare { _keep: Some(keep), ..Rare::default() }));
        Driver { psock, shared, rare }
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    fn look(&self) -> Option<std::time::Instant> {
        self.rare.as_ref()?.look
    }

    fn step(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.psock.driven_by(cx.waker());
        let limit = if self.shared.haste.is_on() { SHORT_LIMIT } else { WORK_LIMIT };
        let mut room = limit;
        let mut wrote = false;
        loop {
            let signals = self.psock.signals();
            if signals & signal::GONE != 0 {
                return Poll::Ready(());
            }
            let mut todo = Todo::default();
            if signals & signal::WRITE != 0 {
                wrote |= self.psock.write(&self.shared, &mut todo);
            }
            self.psock.poll_tx(cx, &self.shared, &mut todo);
            let (pass, deadline) = match &self.psock.kernel {
                Some(_) => self.kernel_pass(signals, &mut todo),
                None => self.pass(cx, signals, &mut room, &mut todo),
            };
            let close = pass == Pass::Ended && self.finished(&mut todo);
            todo.run(&self.shared);
            if matches!(pass, Pass::Drained | Pass::Turn | Pass::More | Pass::Paused) {
                let empty = matches!(pass, Pass::Drained | Pass::Turn);
                self.shared.haste.had_turn(limit - room, empty);
            }
            match pass {
                Pass::Gone => return Poll::Ready(()),
                Pass::Ended if close => return Poll::Ready(()),
                // Not while senders leave their writes to our turn: it must end, so that they stop.
                Pass::Turn if !wrote && !self.psock.is_awake() => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Pass::Wake | Pass::Turn => continue,
                _ => {}
            }
            self.tidy();
            if self.expired(cx, deadline) {
                continue;
            }
            if pass == Pass::More && !self.shared.haste.is_on() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if wrote && pass != Pass::More {
                // Senders are at it: they may leave their next messages to our next turn.
                self.psock.stay_awake(&self.shared);
            }
            if wrote || pass == Pass::More {
                // It comes when all others had theirs, and after a look at what has become
                // readable. Pending, and arranged for, whatever it says.
                let _ = pin!(tokio::task::yield_now()).poll(cx);
                return Poll::Pending;
            }
            if !self.psock.rest(&self.shared) {
                return Poll::Pending;
            }
        }
    }

    /// Reads, parses and delivers until there is no more. Also says when to look again at
    /// the latest.
    fn pass(
        &self,
        cx: &mut Context<'_>,
        signals: u8,
        room: &mut usize,
        todo: &mut Todo,
    ) -> (Pass, Option<std::time::Instant>) {
        let _inside = inside::enter();
        let mut guard = self.psock.rx.lock();
        let Some(rx) = &mut *guard else { return (Pass::Gone, None) };
        if signals & signal::RESUME != 0 && rx.paused {
            rx.paused = false;
            rx.strp.resume(now());
        }
        rx.stop |= signals & signal::STOP != 0;
        if rx.ended {
            return (Pass::Ended, None);
        }
        if rx.paused {
            return (Pass::Paused, None);
        }
        let mut short = false;
        let pass = loop {
            match self.parse(rx, todo) {
                Some(Pass::Wake) if short => break Pass::Turn,
                Some(pass) => break pass,
                None => {}
            }
            if *room == 0 && !rx.stop {
                break Pass::More;
            }
            // A connection that is to stop reading gets this one pass, however much its peer
            // goes on to send.
            let read = if *room == 0 { Poll::Pending } else { self.read(rx, cx) };
            match read {
                Poll::Ready((n, filled)) => {
                    *room = room.saturating_sub(n);
                    short = !filled;
                }
                Poll::Pending if rx.stop => {
                    let cause = failed(&self.shared.lock(), self.psock.id());
                    rx.strp.fail(cause.unwrap_or(PsockError::Unattached));
                }
                Poll::Pending => {
                    if rx.socket_timeout && rx.strp.has_begun() {
                        rx.strp.set_head_timeout(rx.io.recv_timeout());
                    }
                    // What has come is parsed, so the clock may be looked at.
                    if rx.strp.deadline().is_some()
                        && let Err(cause) = rx.strp.on_deadline(now())
                    {
                        break self.end(rx, cause, todo);
                    }
                    self.report(rx);
                    break Pass::Drained;
                }
            }
        };
        if !matches!(pass, Pass::Wake | Pass::Turn) {
            rx.strp.release(&mut self.shared.blocks.lock());
            let memory = rx.strp.memory();
            rx.account(&self.shared, memory);
        }
        (pass, rx.strp.deadline())
    }

    /// The same for a connection whose messages come from the kernel.
    fn kernel_pass(&mut self, signals: u8, todo: &mut Todo) -> (Pass, Option<std::time::Instant>) {
        let due = self.look().is_some_and(|at| at <= now());
        if due || signals & signal::LOOK != 0 {
            self.rare().look = None;
            // What came before the end comes first. No lock is held here.
            if let Some(kernel) = &self.psock.kernel {
                kernel.drain();
            }
        }
        let mut guard = self.psock.rx.lock();
        let Some(rx) = &mut *guard else { return (Pass::Gone, None) };
        rx.stop |= signals & signal::STOP != 0;
        if rx.ended {
            return (Pass::Ended, None);
        }
        let pass = match kernel::pass(rx, &self.psock, &self.shared, signals, now(), todo) {
            _ if rx.ended => Pass::Ended,
            KernelPass::Ended(cause) => self.end(rx, cause, todo),
            KernelPass::Again(at) => {
                self.rare.get_or_insert_default().look = Some(at);
                Pass::Drained
            }
            KernelPass::Paused => Pass::Paused,
            KernelPass::Quiet if rx.stop => {
                let cause = failed(&self.shared.lock(), self.psock.id());
                self.end(rx, cause.unwrap_or(PsockError::Unattached), todo)
            }
            KernelPass::Quiet => Pass::Drained,
        };
        (pass, self.look())
    }

    /// One read into the stream parser's buffer; how many bytes it brought, and whether there was
    /// no room for more. The end of the stream and failures are told to the stream parser and
    /// bring nothing.
    fn read(&self, rx: &mut Rx, cx: &mut Context<'_>) -> Poll<(usize, bool)> {
        let initial = rx.before.as_ref().is_some_and(|before| !before.initial.is_empty());
        if !initial && !rx.strp.has_block() && rx.io.poll_readable(cx).is_pending() {
            return Poll::Pending;
        }
        let buf = rx.strp.read_buf(&mut self.shared.blocks.lock());
        if let Some(before) = &mut rx.before
            && !before.initial.is_empty()
        {
            let room = (buf.capacity() - buf.len()).max(1);
            let part = before.initial.split_to(room.min(before.initial.len()));
            buf.extend_from_slice(&part);
            if before.initial.is_empty() && before.refused.is_empty() {
                rx.before = None;
            }
            return Poll::Ready((part.len(), true));
        }
        let read = rx.io.poll_read(cx, buf);
        let filled = buf.len() == buf.capacity();
        match read {
            Poll::Ready(Ok(0)) => rx.strp.eof(),
            Poll::Ready(Ok(n)) => return Poll::Ready((n, filled)),
            Poll::Ready(Err(e)) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Poll::Ready(Err(e)) => rx.strp.fail(io_cause(&e)),
            Poll::Pending => return Poll::Pending,
        }
        Poll::Ready((0, true))
    }

    /// Delivers the whole messages in the buffer. None: there are no more.
    fn parse(&self, rx: &mut Rx, todo: &mut Todo) -> Option<Pass> {
        let id = self.psock.id();
        let mut at = None;
        while !rx.strp.is_idle() {
            // One look at the clock for each look at the bytes, and one before.
            let before = at.unwrap_or_else(now);
            let found = rx.strp.parse(before);
            let after = now();
            rx.strp.add_parse_time(after.saturating_duration_since(before));
            at = Some(after);
            let batch = match found {
                Ok(Some(batch)) => batch,
                Ok(None) => return None,
                Err(cause) => return Some(self.end(rx, cause, todo)),
            };
            let (stats, missing) = (rx.strp.stats(), rx.strp.missing());
            rx.reported = stats.bytes;
            let delivery = self.shared.with_todo(todo, |core| {
                core.mux.report_strp(id, &stats, missing);
                core.deliver(id, batch)
            });
            match delivery {
                // Not later: they can begin while we read on. Not here: who is woken may run at
                // once, in this thread, and want this connection.
                Delivery::Taken if todo.wakes() => return Some(Pass::Wake),
                Delivery::Taken => {}
                Delivery::Parked => {
                    rx.paused = true;
                    rx.strp.pause(now());
                    return Some(Pass::Paused);
                }
                Delivery::Refused(batch) => {
                    rx.refused(batch);
                    return Some(Pass::Ended);
                }
            }
        }
        None
    }

    /// Reports bytes that made no message yet, so that the counters tell of them.
    fn report(&self, rx: &mut Rx) {
        let stats = rx.strp.stats();
        if stats.bytes != rx.reported {
            rx.reported = stats.bytes;
            let missing = rx.strp.missing();
            self.shared.lock().mux.report_strp(self.psock.id(), &stats, missing);
        }
    }

    fn end(&self, rx: &mut Rx, cause: PsockError, todo: &mut Todo) -> Pass {
        // What was sent before the end is known still leaves.
        self.psock.write_in_pass(&self.shared, todo);
        rx.ended = true;
        let id = self.psock.id();
        let stats = kernel::final_stats(rx, &cause).unwrap_or_else(|| rx.strp.stats());
        self.shared.with_todo(todo, |core| {
            core.mux.report_strp(id, &stats, None);
            core.mux.rx_end(id, cause, &mut core.fx);
        });
        Pass::Ended
    }

    /// True if there is nothing left to do for this connection; closes it if it is to be.
    fn finished(&self, todo: &mut Todo) -> bool {
        let id = self.psock.id();
        if failed(&self.shared.lock(), id).is_none() {
            // Half closed: there may be something to send.
            return false;
        }
        let auto_close = self.psock.rx.lock().as_ref().is_some_and(|rx| rx.auto_close);
        if auto_close {
            // Already gone: all the better.
            let _ = self.shared.with_todo(todo, |core| core.mux.unattach(id, &mut core.fx));
        }
        true
    }

    /// The task ends.
    fn leave(&mut self) {
        self.psock.undriven(&self.shared);
        if self.rare.as_mut().is_some_and(|rare| rare.tidy.take().is_some()) {
            self.shared.blocks.lock().abandon();
        }
    }

    /// Gives memory back that connections do not need any more, if this is the one to do it.
    fn tidy(&mut self) {
        let again = match self.rare.as_ref().and_then(|rare| rare.tidy) {
            Some(due) if due > now() => return,
            Some(_) => self.shared.blocks.lock().tidy(),
            None => self.shared.blocks.lock().watch(),
        };
        if again || self.rare.is_some() {
            self.rare().tidy = again.then(|| now() + TIDY);
        }
    }

    /// Sets the clock; true if it has run out.
    fn expired(&mut self, cx: &mut Context<'_>, rx: Option<std::time::Instant>) -> bool {
        let tx = match self.psock.attention.load(std::sync::atomic::Ordering::Acquire) {
            true => self.psock.tx.lock().as_ref().and_then(|tx| tx.deadline),
            false => None,
        };
        let tidy = self.rare.as_ref().and_then(|rare| rare.tidy);
        let Some(deadline) = rx.into_iter().chain(tx).chain(tidy).min() else {
            // The clock may stay set: waking once for nothing costs less than setting it for
            // each message.
            return false;
        };
        let deadline = Instant::from_std(deadline);
        let sleep = || Box::pin(tokio::time::sleep_until(deadline));
        let clock = self.rare().clock.get_or_insert_with(sleep);
        if clock.deadline() != deadline {
            clock.as_mut().reset(deadline);
        }
        if clock.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.rare().clock = None;
        if tx.is_some_and(|tx| tx <= now()) {
            let id = self.psock.id();
            self.shared.with(|core| core.mux.on_tx_deadline(id, now(), &mut core.fx));
            if let Some(tx) = &mut *self.psock.tx.lock() {
                tx.deadline = None;
            }
        }
        true
    }
}

/// tokio's clock, so that tests can advance it.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let done = self.step(cx);
        if done.is_ready() {
            self.rare().done = true;
            self.leave();
        }
        done
    }
}

impl Drop for Driver {
    /// A runtime that ends drops its tasks; the connection is out of use then.
    fn drop(&mut self) {
        if self.rare.as_ref().is_some_and(|rare| rare.done) {
            return;
        }
        self.leave();
        let id = self.psock.id();
        let cause = PsockError::Io(IoCause { kind: std::io::ErrorKind::Other, code: None });
        if let Some(rx) = &mut *self.psock.rx.lock() {
            rx.ended = true;
        }
        self.shared.with(|core| core.mux.rx_end(id, cause, &mut core.fx));
    }
}
