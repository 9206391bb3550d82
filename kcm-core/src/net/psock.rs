//! One attached connection: the handle of the user, and what the driver and writers share.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::{
    bell::{AWAKE, Bell},
    inside,
    io::{Io, hang_up},
    kernel::KernelRx,
    shared::{Core, Shared, Todo},
    stream::{Addrs, Meta},
    tcp_info::{TcpInfo, tcp_info},
    wait::{Ticket, WaitList},
};
use crate::{
    delineate::Delineate,
    error::{PsockError, SendError, SocketError},
    kernel::Kernel,
    message::{Batch, PsockId},
    mux::{Leftover, TxWork},
    stats::PsockStats,
    strparser::StrParser,
};

/// What one write carries at most: slices and bytes.
const MAX_BUFS: usize = 64;
const MAX_BYTES: usize = 512 * 1024;

/// Whoever is the writer writes at most this many bytes, or times, before it leaves the rest
/// to the connection's task, or the task to its next turn: others have work to do as well.
const CALLER_BYTES: usize = 1 << 20;
const CALLER_ROUNDS: usize = 16;

/// What the driver is told.
pub(super) mod signal {
    /// The messages parked are gone: read on.
    pub(crate) const RESUME: u8 = 1;
    /// Sending failed: take what has arrived, then stop reading.
    pub(crate) const STOP: u8 = 2;
    /// You are the writer now.
    pub(crate) const WRITE: u8 = 4;
    /// The connection has left.
    pub(crate) const GONE: u8 = 8;
    /// Something happened to a connection in the kernel.
    pub(crate) const LOOK: u8 = 16;
}

/// The receiving side; its lock is held for a pass.
pub(super) struct Rx {
    /// The connection's messages come from the kernel. It leaves there before it is closed.
    pub(super) kernel: Option<Box<KernelRx>>,
    pub(super) io: Arc<dyn Io>,
    pub(super) strp: StrParser<Arc<dyn Delineate>>,
    pub(super) before: Option<Box<Before>>,
    /// Messages parked: do not read.
    pub(super) paused: bool,
    /// Sending failed: end when there is nothing more to read.
    pub(super) stop: bool,
    /// The end was reported.
    pub(super) ended: bool,
    pub(super) auto_close: bool,
    /// The timeout is the socket's own, read anew for each message (semantics B18).
    pub(super) socket_timeout: bool,
    /// Bytes received, as last reported.
    pub(super) reported: u64,
    /// Bytes of memory, as last accounted for.
    pub(super) memory: usize,
}

impl Rx {
    /// Nobody takes messages of this connection any more: keeps these, for unattach, and ends.
    pub(super) fn refused(&mut self, batch: Batch) {
        self.before.get_or_insert_default().refused.push(batch);
        self.ended = true;
    }

    /// Notes how much memory the unfinished message takes.
    pub(super) fn account(&mut self, shared: &Shared, memory: usize) {
        if memory != self.memory {
            // Two's complement: what is added may be less than nothing.
            shared.assembly.fetch_add(memory.wrapping_sub(self.memory), Ordering::Relaxed);
            self.memory = memory;
        }
    }
}

/// What hardly any connection has, and idle ones shall not pay for.
#[derive(Debug, Default)]
pub(super) struct Before {
    /// Whole messages that the multiplexor did not take any more.
    pub(super) refused: Vec<Batch>,
    /// Bytes that come before what is read.
    pub(super) initial: Bytes,
}

impl Before {
    pub(super) fn new(initial: Bytes) -> Option<Box<Self>> {
        (!initial.is_empty()).then(|| Box::new(Before { initial, ..Before::default() }))
    }
}

/// The sending side; its lock is held for one write.
pub(super) struct Tx {
    pub(super) io: Arc<dyn Io>,
    pub(super) meta: Meta,
    /// The driver's; woken when a blocked connection is writable.
    pub(super) waker: Waker,
    /// When the stalled peer is given up.
    pub(super) deadline: Option<std::time::Instant>,
    /// The multiplexor was told that the connection takes no more.
    blocked: bool,
    /// Written, but perhaps still buffered in the stream itself.
    unflushed: bool,
    /// Nothing more will be written: the sending side is to end.
    ending: bool,
}

/// How a connection ended, for those who wait for that.
#[derive(Debug, Default)]
struct End {
    cause: Option<PsockError>,
    detached: bool,
    waiters: WaitList,
}

/// One attached connection.
pub(super) struct PsockShared {
    id: PsockId,
    /// Where its messages come from, if that is not here.
    pub(super) kernel: Option<Arc<Kernel>>,
    addrs: Addrs,
    /// What the driver is told.
    bell: Bell,
    /// The driver shall look after the sending side when it is woken. Set before a write
    /// that may have to wait, so that the wake-up for it cannot come too early to be heard.
    pub(super) attention: AtomicBool,
    pub(super) rx: Mutex<Option<Rx>>,
    pub(super) tx: Mutex<Option<Tx>>,
    /// Nothing to note before it ends or somebody waits for that.
    end: Mutex<Option<Box<End>>>,
}

impl std::fmt::Debug for PsockShared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PsockShared").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Drop for PsockShared {
    /// A multiplexor that is dropped closes its connections.
    fn drop(&mut self) {
        // What is in the kernel leaves there first.
        drop(self.rx.get_mut().take());
        if let Some(tx) = self.tx.get_mut() {
            hang_up(&*tx.io);
        }
    }
}

/// How an error of a system call reads as a cause. EPIPE, on a socket of which nobody else
/// can shut down the sending side, is the peer's reset.
pub(super) fn io_cause(error: &io::Error) -> PsockError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => PsockError::Reset,
        _ => PsockError::from_io(error),
    }
}

impl PsockShared {
    pub(super) fn new(id: PsockId, rx: Rx, io: Arc<dyn Io>, meta: Meta, addrs: Addrs) -> Arc<Self> {
        Arc::new(PsockShared {
            id,
            kernel: rx.kernel.as_ref().map(|k| k.lease.kernel().clone()),
            addrs,
            bell: Bell::new(),
            attention: AtomicBool::new(false),
            rx: Mutex::new(Some(rx)),
            tx: Mutex::new(Some(Tx {
                io,
                meta,
                // The driver looks for itself when it begins.
                waker: Waker::noop().clone(),
                deadline: None,
                blocked: false,
                unflushed: false,
                ending: false,
            })),
            end: Mutex::new(None),
        })
    }

    pub(super) fn id(&self) -> PsockId {
        self.id
    }

    /// Tells the driver something; returns whom to wake for it.
    pub(super) fn signal(&self, bit: u8) -> Option<Waker> {
        self.bell.ring(bit)
    }

    /// The driver shall write, on its next turn. None: it has that turn anyhow. To be called
    /// with the multiplexor locked, for a driver that is there.
    pub(super) fn defer(&self) -> (bool, Option<Waker>) {
        let waker = self.bell.ring(signal::WRITE | AWAKE);
        (waker.is_some(), waker)
    }

    /// The driver shall have a turn, in which others may leave their writes to it.
    pub(super) fn rouse(&self) -> Option<Waker> {
        self.bell.ring(AWAKE)
    }

    /// There is a driver.
    pub(super) fn is_driven(&self) -> bool {
        self.bell.waker().is_some()
    }

    /// Writes at once what was left to the driver's next turn, if something was. Wakes nobody
    /// yet, so locks may be held that come before this connection's `tx`.
    pub(super) fn write_now(self: &Arc<Self>, shared: &Shared, todo: &mut Todo) {
        // Inside a connection its lock may be held: the driver's turn is soon enough.
        if !inside::is_inside() {
            self.write_in_pass(shared, todo);
        }
    }

    /// As [`write_now`](Self::write_now), by the driver in a pass.
    pub(super) fn write_in_pass(self: &Arc<Self>, shared: &Shared, todo: &mut Todo) {
        if self.take_over() {
            self.write_on(shared, todo, false);
        }
    }

    /// Takes from the driver what was left to its next turn: true if the caller is to write.
    pub(super) fn take_over(&self) -> bool {
        self.bell.take_over(signal::WRITE)
    }

    /// The driver will have another turn.
    pub(super) fn stay_awake(&self, shared: &Shared) {
        let mut core = shared.lock();
        core.awake += usize::from(self.bell.stay_awake());
    }

    /// Senders leave what they write to the driver's turn.
    pub(super) fn is_awake(&self) -> bool {
        self.bell.awake()
    }

    /// The driver has nothing to do. True: it has after all.
    pub(super) fn rest(&self, shared: &Shared) -> bool {
        if !self.bell.awake() {
            return self.bell.rung();
        }
        let mut core = shared.lock();
        core.rested();
        self.bell.rest()
    }

    /// Takes what the driver was told.
    pub(super) fn signals(&self) -> u8 {
        self.bell.take()
    }

    /// The driver says how to wake it.
    pub(super) fn driven_by(&self, waker: &Waker) {
        if self.bell.answered_by(waker)
            && let Some(tx) = &mut *self.tx.lock()
        {
            tx.waker = waker.clone();
        }
    }

    /// The driver is done. Under the lock: nobody leaves a write to a driver that is gone.
    pub(super) fn undriven(&self, shared: &Shared) {
        let mut core = shared.lock();
        self.bell.unanswered();
        if self.bell.awake() {
            core.rested();
            self.bell.rest();
        }
    }

    /// Notes how the connection ended: failed with a cause, or left.
    pub(super) fn end(&self, cause: Option<&PsockError>, wakers: &mut SmallVec<[Waker; 4]>) {
        let mut end = self.end.lock();
        let end = end.get_or_insert_default();
        match cause {
            Some(cause) => {
                end.cause.get_or_insert_with(|| cause.clone());
            }
            None => end.detached = true,
        }
        wakers.extend(end.waiters.wake_all());
    }

    /// Writes until there is nothing to write, or the connection takes no more, or enough
    /// was done for one turn. To be called by the appointed writer. True if something was
    /// written.
    pub(super) fn write(self: &Arc<Self>, shared: &Shared, todo: &mut Todo) -> bool {
        self.write_on(shared, todo, true)
    }

    fn write_on(self: &Arc<Self>, shared: &Shared, todo: &mut Todo, wake: bool) -> bool {
        let mut work = WORK.take();
        let mut room = CALLER_BYTES;
        let mut rounds = CALLER_ROUNDS;
        let mut wrote = false;
        while self.round(shared, todo, &mut work) == Round::More {
            if wake {
                todo.wake();
            }
            wrote = true;
            rounds -= 1;
            room = room.saturating_sub(work.bytes);
            if rounds == 0 || room == 0 {
                todo.wake_later(self.signal(signal::WRITE));
                break;
            }
        }
        work.bufs.clear();
        WORK.set(work);
        wrote
    }

    /// One write: begun, done and reported under the write lock.
    fn round(&self, shared: &Shared, todo: &mut Todo, work: &mut TxWork) -> Round {
        let _inside = inside::enter();
        let mut guard = self.tx.lock();
        let Some(tx) = &mut *guard else { return Round::Done };
        let begun = shared.with_todo(todo, |core| {
            if let Some(kcm) = core.mux.tx_next(self.id) {
                core.take_in(kcm);
            }
            core.mux.tx_begin(self.id, MAX_BUFS, MAX_BYTES, work, &mut core.fx)
        });
        if !begun {
            if tx.unflushed {
                self.flush(shared, todo, tx);
            }
            return Round::Done;
        }
        let waker = tx.waker.clone();
        let mut cx = Context::from_waker(&waker);
        let slices: SmallVec<[IoSlice<'_>; MAX_BUFS]> =
            work.bufs.iter().map(|b| IoSlice::new(b)).collect();
        self.attention.store(true, Ordering::Release);
        let wrote = unconstrained(&mut cx, |cx| tx.io.poll_write(cx, &slices));
        if wrote.is_ready() {
            self.attention.store(false, Ordering::Release);
        }
        drop(slices);
        work.bufs.clear();
        match wrote {
            Poll::Ready(Ok(n)) if n > 0 || work.bytes == 0 => {
                tx.unflushed = true;
                shared.with_todo(todo, |core| {
                    // The socket must not seem to have nothing left when it has.
                    if let Some(kcm) = core.mux.tx_next(self.id) {
                        core.take_in(kcm);
                    }
                    core.mux.tx_done(self.id, n, &mut core.fx);
                });
                Round::More
            }
            Poll::Ready(failed) => {
                let cause = match failed {
                    Err(e) => io_cause(&e),
                    Ok(_) => PsockError::from_io(&io::ErrorKind::WriteZero.into()),
                };
                shared.with_todo(todo, |core| core.mux.tx_failed(self.id, cause, &mut core.fx));
                Round::Done
            }
            Poll::Pending => {
                let now = Instant::now().into_std();
                shared.with_todo(todo, |core| {
                    core.mux.tx_blocked(self.id, now, &mut core.fx);
                    tx.deadline = core.mux.tx_deadline(self.id);
                });
                tx.blocked = true;
                if tx.deadline.is_some() {
                    // The driver has to set its clock.
                    todo.wake_later(self.bell.waker());
                }
                Round::Done
            }
        }
    }

    /// Ends the sending side; what does not go at once is left to the driver.
    pub(super) fn end_tx(&self, shared: &Shared, todo: &mut Todo) {
        let _inside = inside::enter();
        let mut guard = self.tx.lock();
        let Some(tx) = &mut *guard else { return };
        (tx.ending, tx.unflushed) = (true, true);
        self.flush(shared, todo, tx);
    }

    /// Pushes out what the stream itself has buffered, and ends it if that is all.
    fn flush(&self, shared: &Shared, todo: &mut Todo, tx: &mut Tx) {
        let waker = tx.waker.clone();
        self.attention.store(true, Ordering::Release);
        let mut cx = Context::from_waker(&waker);
        let flushed = unconstrained(&mut cx, |cx| match tx.ending {
            true => tx.io.poll_shutdown(cx),
            false => tx.io.poll_flush(cx),
        });
        if let Poll::Ready(flushed) = flushed {
            tx.unflushed = false;
            self.attention.store(tx.blocked, Ordering::Release);
            if let Err(e) = flushed {
                let cause = io_cause(&e);
                shared.with_todo(todo, |core| core.mux.tx_failed(self.id, cause, &mut core.fx));
            }
        }
    }

    /// The driver's look at the sending side: writable again, or to be flushed.
    pub(super) fn poll_tx(&self, cx: &mut Context<'_>, shared: &Shared, todo: &mut Todo) {
        if !self.attention.load(Ordering::Acquire) {
            return;
        }
        let _inside = inside::enter();
        let mut guard = self.tx.lock();
        let Some(tx) = &mut *guard else { return };
        if tx.blocked && tx.io.poll_writable(cx).is_ready() {
            tx.blocked = false;
            tx.deadline = None;
            self.attention.store(tx.unflushed, Ordering::Release);
            // An error of the connection shows in the next write.
            shared.with_todo(todo, |core| core.mux.tx_writable(self.id, &mut core.fx));
        }
        if tx.unflushed && !tx.blocked {
            self.flush(shared, todo, tx);
        }
    }

    /// Bytes received and not delivered, in order: parked, refused, in assembly, not parsed.
    pub(super) fn unread(leftover: &mut Leftover, rx: Rx) -> Bytes {
        let mut parts: SmallVec<[Bytes; 4]> = SmallVec::new();
        let Before { refused, initial } = rx.before.map(|before| *before).unwrap_or_default();
        let pending = rx.kernel.into_iter().flat_map(|kernel| kernel.into_pending());
        let whole = leftover.parked.drain(..).chain(refused).chain(pending);
        parts.extend(whole.map(Batch::into_bytes));
        parts.push(rx.strp.into_unread());
        parts.push(initial);
        parts.retain(|p| !p.is_empty());
        match parts.len() {
            0 => Bytes::new(),
            1 => parts.remove(0),
            _ => {
                let mut all = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
                for part in &parts {
                    all.extend_from_slice(part);
                }
                all.freeze()
            }
        }
    }

    /// The connection left with nobody to take it: close it.
    pub(super) fn drop_stream(&self, shared: &Shared, desynchronised: bool) {
        let mut rx = self.rx.lock().take();
        let tx = self.tx.lock().take();
        if let Some(rx) = &mut rx {
            rx.account(shared, 0);
        }
        if let (true, Some(tx)) = (desynchronised, &tx) {
            tx.meta.owned.spoil();
        }
        // What is in the kernel leaves there first.
        drop(rx);
        if let Some(tx) = tx {
            hang_up(&*tx.io);
        }
        if let Some(waker) = self.signal(signal::GONE) {
            waker.wake();
        }
    }
}

/// Polls I/O without regard to the calling task's budget: the waker is the driver's, and a
/// budget that is used up would keep it from being woken for as long as the caller, whose
/// matter this is not, does not yield.
fn unconstrained<T>(
    cx: &mut Context<'_>,
    mut io: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Poll<T> {
    pin!(tokio::task::coop::unconstrained(std::future::poll_fn(|cx| io(cx)))).poll(cx)
}

thread_local! {
    /// Slices of a write, kept for their allocation.
    static WORK: std::cell::Cell<TxWork> = std::cell::Cell::default();
}

#[derive(PartialEq, Eq)]
enum Round {
    /// Something was written; there may be more.
    More,
    /// No longer the writer.
    Done,
}

/// An attached connection, by which it can be watched. Dropping it changes nothing: the
/// connection belongs to the multiplexor until it is
/// [unattached](super::KcmSocket::unattach).
#[derive(Clone, Debug)]
pub struct Psock {
    pub(super) shared: Arc<Shared>,
    pub(super) inner: Arc<PsockShared>,
}

impl Psock {
    /// Names the connection in [`unattach`](super::KcmSocket::unattach),
    /// [`send_to`](super::KcmSocket::send_to), events, and messages
    /// ([`Message::psock`](crate::Message::psock)).
    pub fn id(&self) -> PsockId {
        self.inner.id
    }

    /// The peer's address, as it was at attach. ENOTCONN for streams that have none.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.inner.addrs.peer().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// The connection's own address, as it was at attach. ENOTCONN for streams that have
    /// none.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.addrs.local().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// The kernel's view of the connection (semantics A30). ENOTCONN once it is unattached,
    /// EOPNOTSUPP for streams that are not TCP sockets themselves, EDEADLK inside a parser.
    pub fn tcp_info(&self) -> io::Result<TcpInfo> {
        if inside::is_inside() {
            return Err(SocketError::WouldDeadlock.into());
        }
        let tx = self.inner.tx.lock();
        let tx = tx.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        match tx.io.fd() {
            Some(fd) => tcp_info(fd),
            None => Err(io::Error::from_raw_os_error(kcm_common::errno::EOPNOTSUPP)),
        }
    }

    /// The connection's counters; None once it is unattached.
    pub fn stats(&self) -> Option<PsockStats> {
        self.shared.lock().mux.psock_stats(self.inner.id)
    }

    /// Why the connection is out of use; None while it is usable. It stays, also after the
    /// connection was unattached (semantics J12). [`PsockError::Unattached`] if it was
    /// unattached in good order.
    pub fn error(&self) -> Option<PsockError> {
        let end = self.inner.end.lock();
        let end = end.as_ref()?;
        end.cause.clone().or_else(|| end.detached.then_some(PsockError::Unattached))
    }

    /// Changes the longest message accepted, in bytes, 1 to 2³¹−1: for messages whose length is
    /// not known yet (semantics B6, A30). See
    /// [`AttachOptions::max_message`](super::AttachOptions#structfield.max_message). EINVAL: out
    /// of range; ENOENT: not attached.
    pub fn set_max_message(&self, bytes: u32) -> Result<(), SocketError> {
        if bytes == 0 || bytes > i32::MAX as u32 {
            let reason = "1 to 2147483647 bytes";
            return Err(SocketError::InvalidOption { name: "max_message", reason });
        }
        self.set_rx(|rx| {
            if let Some(kernel) = &mut rx.kernel {
                kernel.set_max_message(bytes);
            }
            rx.strp.set_max_message(bytes);
        })
    }

    /// Changes the assembly timeout, from the next message on (semantics B18, A30); zero is no
    /// limit. None: the socket's SO_RCVTIMEO again, read for each message. See
    /// [`AttachOptions::assembly_timeout`](super::AttachOptions#structfield.assembly_timeout).
    /// ENOENT: not attached.
    pub fn set_assembly_timeout(&self, timeout: Option<Duration>) -> Result<(), SocketError> {
        self.set_rx(|rx| {
            rx.socket_timeout = timeout.is_none();
            rx.strp.set_assembly_timeout(timeout);
            // In the kernel it is the socket's that counts.
            if let (Some(_), Some(timeout), Some(fd)) = (&rx.kernel, timeout, rx.io.fd()) {
                let timeout = Some(timeout).filter(|t| !t.is_zero());
                let _ = socket2::SockRef::from(&fd).set_read_timeout(timeout);
            }
        })
    }

    fn set_rx(&self, set: impl FnOnce(&mut Rx)) -> Result<(), SocketError> {
        if inside::is_inside() {
            return Err(SocketError::WouldDeadlock);
        }
        match &mut *self.inner.rx.lock() {
            Some(rx) => {
                set(rx);
                Ok(())
            }
            None => Err(SocketError::NotAttached(self.inner.id)),
        }
    }

    /// Ends our own sending side of the connection, as `shutdown(SHUT_WR)` (semantics A31): the
    /// peer sees the end of the stream after everything that was sent to this connection with
    /// [`send_to`](super::KcmSocket::send_to) or [`reply`](super::KcmSocket::reply), and after
    /// the message begun on it, if there is one. Messages keep coming from it; those sent
    /// without an address leave on other connections from now on. Returns at once; a
    /// [`TxEnded`](crate::PsockEvent::TxEnded) event tells when everything is out. Once both
    /// sides have ended, the connection is out of use with [`PsockError::Eof`].
    ///
    /// ENOENT: it is not attached; its cause's errno: it is out of use. Saying it again does
    /// nothing. Unattach gives the stream back as it then is.
    pub fn shutdown_write(&self) -> Result<(), SendError> {
        // What was left to the connection's task leaves before.
        let mut todo = Todo::default();
        self.inner.write_now(&self.shared, &mut todo);
        todo.run(&self.shared);
        self.shared.with(|core| core.mux.end_tx(self.inner.id, &mut core.fx))
    }

    /// Waits until the connection is out of use or unattached, and says why.
    ///
    /// Cancel safe: it only looks.
    pub async fn closed(&self) -> PsockError {
        Closed { psock: self, ticket: None }.await
    }
}

struct Closed<'a> {
    psock: &'a Psock,
    ticket: Option<Ticket>,
}

impl Future for Closed<'_> {
    type Output = PsockError;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<PsockError> {
        if let Some(cause) = self.psock.error() {
            return Poll::Ready(cause);
        }
        let psock = self.psock;
        let mut end = psock.inner.end.lock();
        end.get_or_insert_default().waiters.wait(&mut self.ticket, cx.waker());
        drop(end);
        // It may have ended between the look and the wait.
        match psock.error() {
            Some(cause) => Poll::Ready(cause),
            None => Poll::Pending,
        }
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        if self.ticket.is_some()
            && let Some(end) = &mut *self.psock.inner.end.lock()
        {
            end.waiters.leave(&mut self.ticket);
        }
    }
}

/// True if the multiplexor holds the connection for out of use.
pub(super) fn failed(core: &Core, id: PsockId) -> Option<PsockError> {
    core.mux.psock_error(id).cloned()
}
