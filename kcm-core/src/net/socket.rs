//! The KCM socket: creation, options, connections, closing.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    task::coop::{self, Coop},
};

use super::{
    attach::{self, AttachError, Detached, UnattachError},
    cursor::Cursor,
    events::Events,
    intake::Intake,
    options::AttachOptions,
    psock::Psock,
    shared::{Core, Shared, Waiting},
    sink::Polled,
    stream::Attachable,
    wait::Ticket,
};
use crate::{
    delineate::Delineate,
    error::SocketError,
    message::PsockId,
    mux::{Close, KcmId, KcmOptions, Mux, MuxOptions, SocketType},
    stats::{KcmStats, MuxStats},
};

/// Creates a multiplexor and its first KCM socket with other than the usual options.
///
/// ```
/// use kcm_core::{KcmSocket, SocketType};
///
/// let socket = KcmSocket::builder(SocketType::Seqpacket).recv_buffer(1 << 20).build();
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    kind: SocketType,
    mux: MuxOptions,
    kcm: KcmOptions,
    home: Option<Home>,
}

/// The runtime that serves a multiplexor's connections.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    pub(crate) handle: Handle,
    /// Kept until the last connection is done, if the runtime is ours.
    pub(crate) keep: Option<Arc<dyn std::any::Any + Send + Sync>>,
}

impl Builder {
    /// The receive buffer: a message is accepted while fewer payload bytes than this are
    /// unread, whatever the message's size (semantics C4). Default 212992; at least 1.
    pub fn recv_buffer(mut self, bytes: usize) -> Self {
        self.kcm.recv_buffer = bytes.max(1);
        self
    }

    /// The send buffer: a message is admitted while fewer payload bytes than this are queued,
    /// whatever the message's size (semantics D9). Default 212992; at least 1.
    pub fn send_buffer(mut self, bytes: usize) -> Self {
        self.kcm.send_buffer = bytes.max(1);
        self
    }

    /// A socket that was full takes messages again when fewer payload bytes than this are
    /// unread (semantics J15). Default: half of the receive buffer. 1 is the kernel's way:
    /// when it is empty (C6).
    pub fn recv_low_water(mut self, bytes: usize) -> Self {
        self.kcm.recv_low_water = Some(bytes.max(1));
        self
    }

    /// Let receives end with [`RecvError::NoPsockLeft`](crate::RecvError::NoPsockLeft) when
    /// everything received was read and no connection is left that could bring more
    /// (semantics J13). Default: they wait for ever, as in the kernel (E9).
    pub fn end_with_psocks(mut self, yes: bool) -> Self {
        self.kcm.end_with_psocks = yes;
        self
    }

    /// After this many bytes on one connection a KCM socket gives it to the next that waits,
    /// if one does (exceeding semantics D15a). Default 1 MiB; None: when its queue is empty.
    pub fn tx_turn(mut self, bytes: Option<u64>) -> Self {
        self.mux.tx_turn = bytes;
        self
    }

    /// A connection whose peer takes nothing of a begun message for this long fails with
    /// [`PsockError::Stalled`](crate::PsockError::Stalled), and the message is sent elsewhere
    /// (semantics J8). Default: none.
    pub fn stall_deadline(mut self, deadline: Option<Duration>) -> Self {
        self.mux.stall_deadline = deadline;
        self
    }

    /// The runtime on which connections are served. Default: the one in which
    /// [`KcmSocket::attach`] is called. Its I/O and time drivers must be enabled.
    pub fn runtime(self, runtime: Handle) -> Self {
        self.home(Home { handle: runtime, keep: None })
    }

    pub(crate) fn has_home(&self) -> bool {
        self.home.is_some()
    }

    pub(crate) fn home(mut self, home: Home) -> Self {
        self.home = Some(home);
        self
    }

    /// Creates the multiplexor.
    pub fn build(self) -> KcmSocket {
        let (mux, kcm) = Mux::new(self.kind, self.mux, self.kcm);
        let intake = Arc::new(Intake::new());
        let (shared, cursor) = Shared::new(mux, kcm, intake.clone());
        KcmSocket::new_in(shared, kcm, (cursor, intake), self.home)
    }
}

/// One message socket of a multiplexor.
///
/// Messages of all attached connections are steered to the multiplexor's KCM sockets, each
/// message to one of them; messages sent on any of them leave on an attached connection, each
/// whole on one. [`try_clone`](Self::try_clone) makes further sockets of the same
/// multiplexor. All methods take `&self`: a socket may be shared by many tasks, which are
/// woken in the order in which they began to wait (semantics C17).
///
/// Dropping a socket closes it: unread messages go to the other sockets (semantics A41), a
/// message begun on a connection is finished, those not begun are dropped and counted
/// (J9); [`close`](Self::close) sends them first. With the last socket the multiplexor
/// closes, and with it the connections that are still attached, each once the message begun on it
/// is out (with [`close`](Self::close): everything addressed to it). A message that is begun when
/// its peer does not read keeps its connection open until the peer reads, or until the
/// [stall deadline](Builder::stall_deadline).
#[derive(Debug)]
pub struct KcmSocket {
    pub(super) shared: Arc<Shared>,
    pub(super) kcm: KcmId,
    pub(super) intake: Arc<Intake>,
    /// What `recv` takes from.
    pub(super) cursor: Cursor,
    home: Option<Home>,
    /// For `Stream` and `Sink`.
    pub(super) polled: Polled,
    closed: bool,
}

impl KcmSocket {
    /// Creates a multiplexor with its first KCM socket (semantics A1).
    pub fn new(kind: SocketType) -> Self {
        Self::builder(kind).build()
    }

    /// As [`new`](Self::new), with options.
    pub fn builder(kind: SocketType) -> Builder {
        Builder { kind, mux: MuxOptions::default(), kcm: KcmOptions::default(), home: None }
    }

    fn new_in(
        shared: Arc<Shared>,
        kcm: KcmId,
        (cursor, intake): (Cursor, Arc<Intake>),
        home: Option<Home>,
    ) -> Self {
        let polled = Polled::default();
        KcmSocket { shared, kcm, intake, cursor, home, polled, closed: false }
    }

    /// A further KCM socket of the same multiplexor (semantics A7), with the same type,
    /// buffer sizes and low water, not receive-disabled. It receives at once (A9).
    pub fn try_clone(&self) -> Result<KcmSocket, SocketError> {
        let intake = Arc::new(Intake::new());
        let (kcm, cursor) = self.shared.with(|core| {
            let kcm = core.mux.clone_kcm(self.kcm, &mut core.fx)?;
            Ok::<_, SocketError>((kcm, core.add_kcm(kcm, intake.clone())))
        })?;
        Ok(Self::new_in(self.shared.clone(), kcm, (cursor, intake), self.home.clone()))
    }

    /// Attaches a connected stream, whose messages `parser` delineates (semantics A11 to
    /// A27). The stream belongs to the multiplexor from now on (J19) and comes back from
    /// [`unattach`](Self::unattach). Bytes that have arrived already are messages too (A25).
    ///
    /// `parser` is a [verified parser](crate), or anything else that is `Delineate`.
    ///
    /// # Errors
    /// The stream is in the error. EOPNOTSUPP: not connected, listening, or still connecting
    /// (A16, J10). EALREADY: attached already, to this multiplexor or another, be it through
    /// another descriptor (A18). EPROTO: a message was left half-sent on it (J11).
    ///
    /// Must be called inside a tokio runtime (with I/O and time enabled), unless the builder
    /// was given one; the connection is served there.
    pub fn attach<S, K, P>(&self, stream: S, parser: &P) -> Result<Psock, AttachError>
    where
        S: Attachable<K>,
        P: Delineate + Clone + 'static,
    {
        self.attach_with(stream, parser, AttachOptions::default())
    }

    /// As [`attach`](Self::attach), with options. EINVAL: an option is out of its range;
    /// EOPNOTSUPP: the engine asked for is not available.
    pub fn attach_with<S, K, P>(
        &self,
        stream: S,
        parser: &P,
        options: AttachOptions,
    ) -> Result<Psock, AttachError>
    where
        S: Attachable<K>,
        P: Delineate + Clone + 'static,
    {
        attach::attach(&self.shared, self.home.as_ref(), stream, parser, options)
    }

    /// Takes a TCP connection back (semantics A34 to A38, J17). Through any KCM socket of the
    /// multiplexor (A11). Never waits for the peer; it may wait for a pass of the connection's
    /// task over what it has just read.
    ///
    /// ENOENT: it is not attached. EINVAL: it is not a TCP stream, use
    /// [`unattach_as`](Self::unattach_as).
    pub fn unattach(&self, psock: PsockId) -> Result<Detached, UnattachError> {
        self.unattach_as(psock)
    }

    /// As [`unattach`](Self::unattach), for a stream of any type. TCP and UNIX streams can be
    /// taken back as tokio's or the standard library's, however they were attached.
    ///
    /// ```no_run
    /// # use kcm_core::{Detached, KcmSocket, Psock};
    /// # fn f(socket: KcmSocket, psock: Psock) -> std::io::Result<()> {
    /// let back: Detached<tokio::net::UnixStream> = socket.unattach_as(psock.id())?;
    /// # Ok(()) }
    /// ```
    pub fn unattach_as<S, K>(&self, psock: PsockId) -> Result<Detached<S>, UnattachError>
    where
        S: Attachable<K>,
    {
        attach::unattach(&self.shared, psock)
    }

    /// The attached connections, those out of use included, by index.
    pub fn psocks(&self) -> Vec<Psock> {
        let core = self.shared.lock();
        let psock = |id| core.psock(id).cloned();
        let handle = |inner| Psock { shared: self.shared.clone(), inner };
        core.mux.psocks().filter_map(psock).map(handle).collect()
    }

    /// What happens to the multiplexor's connections from now on.
    pub fn events(&self) -> Events {
        let (events, watcher) = Events::new();
        self.shared.lock().watch(&watcher);
        events
    }

    /// The type the socket was created with.
    pub fn socket_type(&self) -> SocketType {
        self.shared.lock().mux.kind()
    }

    /// The small number by which [`proc_net_kcm`](Self::proc_net_kcm) names this socket.
    pub fn index(&self) -> u32 {
        self.kcm.index()
    }

    /// Takes the socket out of the receivers, or back in (semantics C12). Its unread messages
    /// move to the others; per connection they stay in order (J14).
    pub fn set_recv_disabled(&self, disabled: bool) {
        // The socket exists as long as `self`.
        let _ = self.shared.with(|core| {
            core.give_all_back();
            core.mux.set_recv_disabled(self.kcm, disabled, &mut core.fx)
        });
    }

    /// Changes the receive buffer, in payload bytes, at least 1. A full socket that has room
    /// by the new measure receives at once.
    pub fn set_recv_buffer(&self, bytes: usize) {
        self.set_options(|options| options.recv_buffer = bytes.max(1));
    }

    /// Changes the send buffer, in payload bytes, at least 1.
    pub fn set_send_buffer(&self, bytes: usize) {
        self.set_options(|options| options.send_buffer = bytes.max(1));
    }

    /// Changes the low water: a socket that was full takes messages again when fewer payload
    /// bytes than this are unread (semantics J15). At least 1, the kernel's.
    pub fn set_recv_low_water(&self, bytes: usize) {
        self.set_options(|options| options.recv_low_water = Some(bytes.max(1)));
    }

    /// Tells whether receives end when no connection is left; see
    /// [`Builder::end_with_psocks`].
    pub fn set_end_with_psocks(&self, yes: bool) {
        self.set_options(|options| options.end_with_psocks = yes);
    }

    /// True if the socket was taken out of the receivers (semantics C12, G1).
    pub fn recv_disabled(&self) -> bool {
        self.shared.lock().mux.recv_disabled(self.kcm).unwrap_or_default()
    }

    /// The receive buffer, in payload bytes.
    pub fn recv_buffer(&self) -> usize {
        self.options().recv_buffer
    }

    /// The send buffer, in payload bytes.
    pub fn send_buffer(&self) -> usize {
        self.options().send_buffer
    }

    /// The low water, in payload bytes.
    pub fn recv_low_water(&self) -> usize {
        let options = self.options();
        options.recv_low_water.unwrap_or((options.recv_buffer / 2).max(1))
    }

    fn options(&self) -> KcmOptions {
        self.shared.lock().mux.options(self.kcm).unwrap_or_default()
    }

    fn set_options(&self, change: impl FnOnce(&mut KcmOptions)) {
        self.shared.with(|core| {
            core.take_in(self.kcm);
            if let Ok(mut options) = core.mux.options(self.kcm) {
                change(&mut options);
                // Values were brought into their range by the callers.
                core.settle();
                let _ = core.mux.set_options(self.kcm, options, &mut core.fx);
                core.settle();
            }
        });
    }

    /// A look at what is measured, with everything in it that senders have handed over and
    /// receivers have read.
    fn settled<R>(&self, look: impl FnOnce(&Core) -> R) -> R {
        self.shared.with(|core| {
            core.take_in_all();
            core.settle();
            look(core)
        })
    }

    /// This socket's counters.
    pub fn stats(&self) -> KcmStats {
        self.settled(|core| core.mux.kcm_stats(self.kcm)).unwrap_or_default()
    }

    /// The multiplexor's counters, present and past connections and sockets together.
    pub fn mux_stats(&self) -> MuxStats {
        let mut stats = self.settled(|core| core.mux.stats());
        stats.memory.assembly =
            self.shared.assembly.load(std::sync::atomic::Ordering::Relaxed) as u64;
        stats.memory.blocks = self.shared.blocks.lock().memory() as u64;
        stats
    }

    /// This multiplexor as `/proc/net/kcm` would show it (semantics G4), with true numbers.
    pub fn proc_net_kcm(&self) -> String {
        self.settled(|core| core.mux.proc_net_kcm())
    }

    /// This multiplexor as `/proc/net/kcm_stats` would show it (semantics G5), with true
    /// numbers.
    pub fn proc_net_kcm_stats(&self) -> String {
        self.settled(|core| core.mux.proc_net_kcm_stats())
    }

    /// Closes the socket when everything sent on it, also to single connections, is out: handed
    /// to the operating system.
    /// Its unread messages go to the other sockets at once. Waits as long as that takes, also
    /// for a connection to be attached through another socket.
    ///
    /// Cancel safe in the sense that dropping the future closes the socket as dropping the
    /// socket does: messages not begun are dropped and counted.
    pub async fn close(mut self) {
        let done = self
            .shared
            .with(|core| {
                core.take_in(self.kcm);
                core.give_all_back();
                core.mux.close(self.kcm, Close::Drain, &mut core.fx)
            })
            // Only a closed socket refuses.
            .unwrap_or(true);
        if !done {
            Op::new(&self, Waiting::Closed, |core: &mut Core, kcm| match core.is_closed(kcm) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            })
            .await;
        }
        self.closed = true;
    }
}

impl Drop for KcmSocket {
    fn drop(&mut self) {
        let kcm = self.kcm;
        let mut polled = std::mem::take(&mut self.polled);
        if !self.closed {
            // What was left to a connection's task would have left before: it is not dropped
            // for that.
            self.write_now();
        }
        self.shared.with(|core| {
            // Nobody else can be waiting: waiters borrow the socket.
            polled.forget(core, kcm);
            if !self.closed {
                core.take_in(kcm);
                core.give_all_back();
                let _ = core.mux.close(kcm, Close::Now, &mut core.fx);
            }
        });
    }
}

/// One call that waits until it can be done. Dropped before that, nothing was done, and its
/// place in the line goes to the next.
pub(super) struct Op<'a, F> {
    socket: &'a KcmSocket,
    what: Waiting,
    ticket: Option<Ticket>,
    call: F,
}

impl<'a, F> Op<'a, F> {
    pub(super) fn new<T>(socket: &'a KcmSocket, what: Waiting, call: F) -> Self
    where
        F: FnMut(&mut Core, KcmId) -> Poll<T> + Unpin,
    {
        Op { socket, what, ticket: None, call }
    }

    /// It has a place in the line.
    pub(super) fn waits(&self) -> bool {
        self.ticket.is_some()
    }

    /// Lets other tasks of the runtime have their turn now and then, also when there is always
    /// something to receive or room to send.
    pub(super) fn cooperative<T>(self) -> Coop<Self>
    where
        F: FnMut(&mut Core, KcmId) -> Poll<T> + Unpin,
    {
        coop::cooperative(self)
    }
}

impl<T, F> Future for Op<'_, F>
where
    F: FnMut(&mut Core, KcmId) -> Poll<T> + Unpin,
{
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let op = self.get_mut();
        poll_op(op.socket, op.what, &mut op.ticket, cx, &mut op.call)
    }
}

/// One try of a call that may have to wait.
pub(super) fn poll_op<T>(
    socket: &KcmSocket,
    what: Waiting,
    ticket: &mut Option<Ticket>,
    cx: &mut Context<'_>,
    call: &mut impl FnMut(&mut Core, KcmId) -> Poll<T>,
) -> Poll<T> {
    socket.shared.with(|core| {
        if !matches!(what, Waiting::Recv | Waiting::Readable) {
            core.take_in(socket.kcm);
        }
        let result = match core.must_wait(socket.kcm, what, *ticket) {
            true => Poll::Pending,
            false => call(core, socket.kcm),
        };
        if result.is_pending() {
            core.wait(socket.kcm, what, ticket, cx.waker());
        } else {
            core.done(socket.kcm, what, ticket);
        }
        result
    })
}

impl<F> Drop for Op<'_, F> {
    fn drop(&mut self) {
        if self.ticket.is_some() {
            let socket = self.socket;
            socket.shared.with(|core| core.give_up(socket.kcm, self.what, &mut self.ticket));
        }
    }
}
