//! KCM sockets for plain threads: no runtime in the caller's code.
//!
//! The same sockets, the same rules and the same names as [`KcmSocket`](crate::KcmSocket),
//! where [`net`] explains them; calls block instead of returning futures.
//! Connections are served by threads of a private runtime (`kcm-io`, at most four), which is
//! started with the first blocking socket of the process and stopped with the last. Sends
//! that need not wait are written by the calling thread itself, but for bursts, which are written
//! together by those threads.
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::{TcpListener, TcpStream};
//!
//! use kcm_core::{SocketType, blocking::KcmSocket};
//! # use kcm_core::delineate::{Delineate, Verdict};
//! # #[derive(Clone)] struct Lines;
//! # impl Delineate for Lines {
//! #     fn parse(&self, msg: &[u8]) -> Verdict {
//! #         match msg.iter().position(|&b| b == b'\n') {
//! #             Some(at) => Verdict::Message(at as u32 + 1),
//! #             None => Verdict::NeedMore,
//! #         }
//! #     }
//! # }
//!
//! # fn main() -> std::io::Result<()> {
//! let listener = TcpListener::bind("127.0.0.1:0")?;
//! let mut peer = TcpStream::connect(listener.local_addr()?)?;
//! let (stream, _) = listener.accept()?;
//!
//! let socket = KcmSocket::new(SocketType::Dgram)?;
//! socket.attach(stream, &Lines)?;
//! peer.write_all(b"hello\n")?;
//! let message = socket.recv()?;
//! socket.reply(&message, b"hello yourself\n")?;
//! # let mut reply = [0; 15];
//! # peer.read_exact(&mut reply)?;
//! # assert_eq!(&reply, b"hello yourself\n");
//! # Ok(()) }
//! ```
//!
//! # Waiting
//!
//! [`set_recv_timeout`](KcmSocket::set_recv_timeout) and
//! [`set_send_timeout`](KcmSocket::set_send_timeout) are SO_RCVTIMEO and SO_SNDTIMEO: a call
//! that waited so long returns `TimedOut`, whose errno is EAGAIN (semantics D10, E8).
//! [`set_nonblocking`](KcmSocket::set_nonblocking) is O_NONBLOCK, and the `try_` forms are
//! MSG_DONTWAIT. A call that did not get what it waited for did nothing.
//!
//! These calls may be made on a thread of an asynchronous runtime: they block it, as any
//! blocking call does, and nothing worse.

mod runtime;

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use self::runtime::block_on;
use crate::{
    delineate::Delineate,
    error::{PsockError, RecvError, SendError, SocketError},
    message::{Batch, Message, PsockId},
    mux::{Payload, PsockEvent, Received, SendFlags, SocketType},
    net::{self, AttachError, AttachOptions, Attachable, Detached, UnattachError},
    stats::{KcmStats, MuxStats},
};

/// Creates a multiplexor and its first KCM socket with other than the usual options; see
/// [`net::Builder`] for what each means.
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder(net::Builder);

impl Builder {
    /// See [`net::Builder::recv_buffer`].
    pub fn recv_buffer(self, bytes: usize) -> Self {
        Builder(self.0.recv_buffer(bytes))
    }

    /// See [`net::Builder::send_buffer`].
    pub fn send_buffer(self, bytes: usize) -> Self {
        Builder(self.0.send_buffer(bytes))
    }

    /// See [`net::Builder::recv_low_water`].
    pub fn recv_low_water(self, bytes: usize) -> Self {
        Builder(self.0.recv_low_water(bytes))
    }

    /// See [`net::Builder::end_with_psocks`].
    pub fn end_with_psocks(self, yes: bool) -> Self {
        Builder(self.0.end_with_psocks(yes))
    }

    /// See [`net::Builder::tx_turn`].
    pub fn tx_turn(self, bytes: Option<u64>) -> Self {
        Builder(self.0.tx_turn(bytes))
    }

    /// See [`net::Builder::stall_deadline`].
    pub fn stall_deadline(self, deadline: Option<Duration>) -> Self {
        Builder(self.0.stall_deadline(deadline))
    }

    /// Serves the connections on this runtime instead of a private one.
    pub fn runtime(self, runtime: tokio::runtime::Handle) -> Self {
        Builder(self.0.runtime(runtime))
    }

    /// Creates the multiplexor. Fails if the private runtime cannot be started (no threads, no
    /// descriptors).
    pub fn build(self) -> io::Result<KcmSocket> {
        let builder = match self.0.has_home() {
            true => self.0,
            false => self.0.home(runtime::home()?),
        };
        Ok(KcmSocket::new_in(builder.build()))
    }
}

/// One message socket of a multiplexor, for plain threads. See
/// [`kcm_core::KcmSocket`](crate::KcmSocket) for what the calls mean, and the
/// [module](self) for how they wait.
///
/// May be shared by threads, which are served in the order in which they began to wait.
#[derive(Debug)]
pub struct KcmSocket {
    inner: net::KcmSocket,
    /// In nanoseconds; 0 is none.
    recv_timeout: AtomicU64,
    send_timeout: AtomicU64,
    nonblocking: AtomicBool,
}

impl KcmSocket {
    /// Creates a multiplexor with its first KCM socket (semantics A1). Fails if the private
    /// runtime cannot be started.
    pub fn new(kind: SocketType) -> io::Result<Self> {
        Self::builder(kind).build()
    }

    /// As [`new`](Self::new), with options.
    pub fn builder(kind: SocketType) -> Builder {
        Builder(net::KcmSocket::builder(kind))
    }

    fn new_in(inner: net::KcmSocket) -> Self {
        KcmSocket {
            inner,
            recv_timeout: AtomicU64::new(0),
            send_timeout: AtomicU64::new(0),
            nonblocking: AtomicBool::new(false),
        }
    }

    /// A further KCM socket of the same multiplexor (semantics A7); blocking and without
    /// timeouts, as the kernel's.
    pub fn try_clone(&self) -> Result<KcmSocket, SocketError> {
        self.inner.try_clone().map(Self::new_in)
    }

    /// The same socket for asynchronous code; its connections stay where they are served.
    pub fn into_async(self) -> net::KcmSocket {
        self.inner
    }

    /// Attaches a connected stream; see [`net::KcmSocket::attach`].
    pub fn attach<S, K, P>(&self, stream: S, parser: &P) -> Result<Psock, AttachError>
    where
        S: Attachable<K>,
        P: Delineate + Clone + 'static,
    {
        self.inner.attach(stream, parser).map(Psock)
    }

    /// Attaches with options; see [`net::KcmSocket::attach_with`].
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
        self.inner.attach_with(stream, parser, options).map(Psock)
    }

    /// Takes a TCP connection back, blocking or not as it was attached; see
    /// [`net::KcmSocket::unattach`].
    pub fn unattach(&self, psock: PsockId) -> Result<Detached<std::net::TcpStream>, UnattachError> {
        self.inner.unattach_as(psock)
    }

    /// Takes a stream of any type back; see [`net::KcmSocket::unattach_as`].
    pub fn unattach_as<S, K>(&self, psock: PsockId) -> Result<Detached<S>, UnattachError>
    where
        S: Attachable<K>,
    {
        self.inner.unattach_as(psock)
    }

    /// The attached connections, by index.
    pub fn psocks(&self) -> Vec<Psock> {
        self.inner.psocks().into_iter().map(Psock).collect()
    }

    /// What happens to the multiplexor's connections from now on.
    pub fn events(&self) -> Events {
        Events(self.inner.events())
    }

    // ---- waiting ----

    /// How long a receive waits (SO_RCVTIMEO); None and zero: for ever.
    pub fn set_recv_timeout(&self, timeout: Option<Duration>) {
        self.recv_timeout.store(nanos(timeout), Ordering::Relaxed);
    }

    /// How long a send waits (SO_SNDTIMEO); None and zero: for ever.
    pub fn set_send_timeout(&self, timeout: Option<Duration>) {
        self.send_timeout.store(nanos(timeout), Ordering::Relaxed);
    }

    /// How long a receive waits.
    pub fn recv_timeout(&self) -> Option<Duration> {
        duration(&self.recv_timeout)
    }

    /// How long a send waits.
    pub fn send_timeout(&self) -> Option<Duration> {
        duration(&self.send_timeout)
    }

    /// No call waits any more (O_NONBLOCK): each is as its `try_` form.
    pub fn set_nonblocking(&self, yes: bool) {
        self.nonblocking.store(yes, Ordering::Relaxed);
    }

    fn receive<T>(&self, wait: impl Future<Output = Result<T, RecvError>>) -> Result<T, RecvError> {
        if self.nonblocking.load(Ordering::Relaxed) {
            return once(wait).unwrap_or(Err(RecvError::WouldBlock));
        }
        block_on(wait, deadline(&self.recv_timeout)).unwrap_or(Err(RecvError::TimedOut))
    }

    fn transmit<T>(
        &self,
        wait: impl Future<Output = Result<T, SendError>>,
    ) -> Result<T, SendError> {
        if self.nonblocking.load(Ordering::Relaxed) {
            return once(wait).unwrap_or(Err(SendError::WouldBlock));
        }
        block_on(wait, deadline(&self.send_timeout)).unwrap_or(Err(SendError::TimedOut))
    }

    // ---- receiving ----

    /// The next message; see [`net::KcmSocket::recv`].
    pub fn recv(&self) -> Result<Message, RecvError> {
        self.receive(self.inner.recv())
    }

    /// The next message if there is one; EAGAIN otherwise.
    pub fn try_recv(&self) -> Result<Message, RecvError> {
        self.inner.try_recv()
    }

    /// The next message, waited for at most so long, whatever the socket's timeout.
    pub fn recv_within(&self, timeout: Duration) -> Result<Message, RecvError> {
        let deadline = Instant::now().checked_add(timeout);
        block_on(self.inner.recv(), deadline).unwrap_or(Err(RecvError::TimedOut))
    }

    /// At least one and at most `max` messages; see [`net::KcmSocket::recv_many`].
    pub fn recv_many(&self, out: &mut Vec<Message>, max: usize) -> Result<usize, RecvError> {
        self.receive(self.inner.recv_many(out, max))
    }

    /// At least one and at most `max` messages, if there are any; EAGAIN otherwise.
    pub fn try_recv_many(&self, out: &mut Vec<Message>, max: usize) -> Result<usize, RecvError> {
        self.inner.try_recv_many(out, max)
    }

    /// Messages of one connection that arrived together; see [`net::KcmSocket::recv_batch`].
    pub fn recv_batch(&self) -> Result<Batch, RecvError> {
        self.receive(self.inner.recv_batch())
    }

    /// As [`recv_batch`](Self::recv_batch), at most `max` messages.
    pub fn recv_batch_max(&self, max: usize) -> Result<Batch, RecvError> {
        self.receive(self.inner.recv_batch_max(max))
    }

    /// A batch, if there is one; EAGAIN otherwise.
    pub fn try_recv_batch(&self) -> Result<Batch, RecvError> {
        self.inner.try_recv_batch()
    }

    /// Copies the next message into `buf`; see [`net::KcmSocket::recv_into`].
    pub fn recv_into(&self, buf: &mut [u8]) -> Result<Received, RecvError> {
        self.receive(self.inner.recv_into(buf))
    }

    /// As [`recv_into`](Self::recv_into); EAGAIN if no message is there.
    pub fn try_recv_into(&self, buf: &mut [u8]) -> Result<Received, RecvError> {
        self.inner.try_recv_into(buf)
    }

    /// The next message, which stays (semantics E5).
    pub fn peek(&self) -> Result<Message, RecvError> {
        self.receive(self.inner.peek())
    }

    /// As [`peek`](Self::peek); EAGAIN if no message is there.
    pub fn try_peek(&self) -> Result<Message, RecvError> {
        self.inner.try_peek()
    }

    /// Copies the beginning of the next message, which stays.
    pub fn peek_into(&self, buf: &mut [u8]) -> Result<Received, RecvError> {
        self.receive(self.inner.peek_into(buf))
    }

    /// Waits until a receive would return at once. False: not within the receive timeout.
    pub fn wait_readable(&self) -> bool {
        block_on(self.inner.readable(), deadline(&self.recv_timeout)).is_some()
    }

    /// True if a receive would return at once.
    pub fn is_readable(&self) -> bool {
        self.inner.is_readable()
    }

    /// Messages as they come, until a receive fails (with `TimedOut`, `WouldBlock` or
    /// `NoPsockLeft`, which [`recv`](Self::recv) would tell).
    pub fn iter(&self) -> Iter<'_> {
        Iter(self)
    }

    // ---- sending ----

    /// Sends one message; see [`net::KcmSocket::send`].
    pub fn send<'a>(&self, bytes: impl Into<Payload<'a>>) -> Result<usize, SendError> {
        self.transmit(self.inner.send(bytes))
    }

    /// As [`send`](Self::send); EAGAIN if the send buffer is full.
    pub fn try_send<'a>(&self, bytes: impl Into<Payload<'a>>) -> Result<usize, SendError> {
        self.inner.try_send(bytes)
    }

    /// Sends with the kernel's flags; see [`net::KcmSocket::send_with`].
    pub fn send_with<'a>(
        &self,
        bytes: impl Into<Payload<'a>>,
        flags: SendFlags,
    ) -> Result<usize, SendError> {
        self.transmit(self.inner.send_with(bytes, flags))
    }

    /// As [`send_with`](Self::send_with); EAGAIN if the send buffer is full.
    pub fn try_send_with<'a>(
        &self,
        bytes: impl Into<Payload<'a>>,
        flags: SendFlags,
    ) -> Result<usize, SendError> {
        self.inner.try_send_with(bytes, flags)
    }

    /// Sends many messages, which leave together; see [`net::KcmSocket::send_many`]. After a
    /// timeout the messages taken so far are sent.
    pub fn send_many<'a, I>(&self, messages: I) -> Result<usize, SendError>
    where
        I: IntoIterator,
        I::Item: Into<Payload<'a>>,
    {
        self.transmit(self.inner.send_many(messages))
    }

    /// Sends one message on one connection; see [`net::KcmSocket::send_to`].
    pub fn send_to<'a>(
        &self,
        psock: PsockId,
        bytes: impl Into<Payload<'a>>,
    ) -> Result<usize, SendError> {
        self.transmit(self.inner.send_to(psock, bytes))
    }

    /// As [`send_to`](Self::send_to); EAGAIN if the send buffer is full.
    pub fn try_send_to<'a>(
        &self,
        psock: PsockId,
        bytes: impl Into<Payload<'a>>,
    ) -> Result<usize, SendError> {
        self.inner.try_send_to(psock, bytes)
    }

    /// Sends one message on the connection from which `message` came.
    pub fn reply<'a>(
        &self,
        message: &Message,
        bytes: impl Into<Payload<'a>>,
    ) -> Result<usize, SendError> {
        self.transmit(self.inner.reply(message, bytes))
    }

    /// Transmits everything and waits until it is out; see [`net::KcmSocket::flush`].
    pub fn flush(&self) -> Result<(), SendError> {
        self.transmit(self.inner.flush())
    }

    /// Transmits everything, without waiting for it to be out.
    pub fn try_flush(&self) -> Result<(), SendError> {
        self.inner.try_flush()
    }

    /// Waits until a send would be taken at once. False: not within the send timeout.
    pub fn wait_writable(&self) -> bool {
        block_on(self.inner.writable(), deadline(&self.send_timeout)).is_some()
    }

    /// True if a send would be taken at once.
    pub fn is_writable(&self) -> bool {
        self.inner.is_writable()
    }

    /// Closes the socket when everything sent on it is out (see [`net::KcmSocket::close`]).
    /// After the send timeout it is closed as by dropping it, and `TimedOut` says so.
    pub fn close(self) -> Result<(), SendError> {
        let deadline = deadline(&self.send_timeout);
        block_on(self.inner.close(), deadline).ok_or(SendError::TimedOut)
    }

    // ---- options and statistics ----

    /// See [`net::KcmSocket::socket_type`].
    pub fn socket_type(&self) -> SocketType {
        self.inner.socket_type()
    }

    /// See [`net::KcmSocket::index`].
    pub fn index(&self) -> u32 {
        self.inner.index()
    }

    /// See [`net::KcmSocket::set_recv_disabled`].
    pub fn set_recv_disabled(&self, disabled: bool) {
        self.inner.set_recv_disabled(disabled);
    }

    /// See [`net::KcmSocket::set_recv_buffer`].
    pub fn set_recv_buffer(&self, bytes: usize) {
        self.inner.set_recv_buffer(bytes);
    }

    /// See [`net::KcmSocket::set_send_buffer`].
    pub fn set_send_buffer(&self, bytes: usize) {
        self.inner.set_send_buffer(bytes);
    }

    /// See [`net::KcmSocket::set_recv_low_water`].
    pub fn set_recv_low_water(&self, bytes: usize) {
        self.inner.set_recv_low_water(bytes);
    }

    /// See [`net::KcmSocket::set_end_with_psocks`].
    pub fn set_end_with_psocks(&self, yes: bool) {
        self.inner.set_end_with_psocks(yes);
    }

    /// See [`net::KcmSocket::recv_disabled`].
    pub fn recv_disabled(&self) -> bool {
        self.inner.recv_disabled()
    }

    /// See [`net::KcmSocket::recv_buffer`].
    pub fn recv_buffer(&self) -> usize {
        self.inner.recv_buffer()
    }

    /// See [`net::KcmSocket::send_buffer`].
    pub fn send_buffer(&self) -> usize {
        self.inner.send_buffer()
    }

    /// See [`net::KcmSocket::recv_low_water`].
    pub fn recv_low_water(&self) -> usize {
        self.inner.recv_low_water()
    }

    /// See [`net::KcmSocket::stats`].
    pub fn stats(&self) -> KcmStats {
        self.inner.stats()
    }

    /// See [`net::KcmSocket::mux_stats`].
    pub fn mux_stats(&self) -> MuxStats {
        self.inner.mux_stats()
    }

    /// See [`net::KcmSocket::proc_net_kcm`].
    pub fn proc_net_kcm(&self) -> String {
        self.inner.proc_net_kcm()
    }

    /// See [`net::KcmSocket::proc_net_kcm_stats`].
    pub fn proc_net_kcm_stats(&self) -> String {
        self.inner.proc_net_kcm_stats()
    }
}

/// Messages as they come; see [`KcmSocket::iter`].
#[derive(Clone, Debug)]
pub struct Iter<'a>(&'a KcmSocket);

impl Iterator for Iter<'_> {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        self.0.recv().ok()
    }
}

impl<'a> IntoIterator for &'a KcmSocket {
    type Item = Message;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// An attached connection, by which it can be watched: [`net::Psock`], to which it derefs,
/// with a blocking [`wait_closed`](Self::wait_closed).
#[derive(Clone, Debug)]
pub struct Psock(net::Psock);

impl std::ops::Deref for Psock {
    type Target = net::Psock;

    fn deref(&self) -> &net::Psock {
        &self.0
    }
}

impl Psock {
    /// Waits until the connection is out of use or unattached, and says why. None: not within
    /// the timeout.
    pub fn wait_closed(&self, timeout: Option<Duration>) -> Option<PsockError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        block_on(self.0.closed(), deadline)
    }
}

/// The events of a multiplexor's connections: an iterator that blocks for the next one, and
/// ends when the last KCM socket is closed. See [`net::Events`].
#[derive(Debug)]
pub struct Events(net::Events);

impl Events {
    /// The next event, if there is one now.
    pub fn try_next(&mut self) -> Option<PsockEvent> {
        self.0.try_next()
    }

    /// The next event, waited for at most so long. None: none came, or none will.
    pub fn next_within(&mut self, timeout: Duration) -> Option<PsockEvent> {
        block_on(self.0.next(), Instant::now().checked_add(timeout)).flatten()
    }

    /// How many events were dropped because nobody took them.
    pub fn missed(&self) -> u64 {
        self.0.missed()
    }
}

impl Iterator for Events {
    type Item = PsockEvent;

    fn next(&mut self) -> Option<PsockEvent> {
        block_on(self.0.next(), None).flatten()
    }
}

/// What a call does without waiting.
fn once<T>(wait: impl Future<Output = T>) -> Option<T> {
    block_on(wait, Some(Instant::now()))
}

fn nanos(timeout: Option<Duration>) -> u64 {
    timeout.map_or(0, |timeout| u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX))
}

fn duration(nanos: &AtomicU64) -> Option<Duration> {
    match nanos.load(Ordering::Relaxed) {
        0 => None,
        nanos => Some(Duration::from_nanos(nanos)),
    }
}

/// A deadline beyond the end of time is none.
fn deadline(nanos: &AtomicU64) -> Option<Instant> {
    duration(nanos).and_then(|timeout| Instant::now().checked_add(timeout))
}
