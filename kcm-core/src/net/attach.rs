//! Attaching and unattaching streams.

use std::{any::Any, fmt, os::fd::AsFd, sync::Arc};

use bytes::Bytes;
use kcm_common::errno;
use parking_lot::Mutex;
use tokio::runtime::{Handle, TryCurrentError};

use super::{
    driver::Driver,
    inside,
    io::Io,
    kernel::{self as in_kernel, KernelRx, PsockSink},
    options::{AttachOptions, Engine},
    psock::{Before, Psock, PsockShared, Rx, signal},
    shared::{Shared, Todo},
    socket::Home,
    stream::{Attachable, Meta, Opened, Parts},
};
use crate::{
    delineate::Delineate,
    error::{AttachError as AttachRefusal, PsockError, SocketError},
    kernel::{self, Kernel},
    message::PsockId,
    mux::PsockOptions,
    parser::Parser,
    strparser::{Limits, StrParser},
};

/// A refused attach: why, and the stream, as it was.
///
/// ```
/// # use kcm_core::{KcmSocket, SocketType};
/// # use kcm_core::delineate::{Delineate, Verdict};
/// # #[derive(Clone)] struct Lines;
/// # impl Delineate for Lines {
/// #     fn parse(&self, msg: &[u8]) -> Verdict {
/// #         match msg.iter().position(|&b| b == b'\n') {
/// #             Some(at) => Verdict::Message(at as u32 + 1),
/// #             None => Verdict::NeedMore,
/// #         }
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// let stream = std::net::TcpStream::connect(listener.local_addr()?)?;
/// let copy = stream.try_clone()?;
/// let socket = KcmSocket::new(SocketType::Dgram);
/// socket.attach(stream, &Lines)?;
/// // The same connection again, through another descriptor:
/// let refused = socket.attach(copy, &Lines).unwrap_err();
/// assert_eq!(refused.errno(), 114); // EALREADY
/// let copy: std::net::TcpStream = refused.into_stream().unwrap();
/// # Ok(()) }
/// ```
pub struct AttachError {
    reason: AttachRefusal,
    /// The lock makes the error shareable also for streams that are not.
    stream: Mutex<Option<Box<dyn Any + Send>>>,
}

impl AttachError {
    fn new<S: Send + 'static>(reason: AttachRefusal, stream: S) -> Self {
        AttachError { reason, stream: Mutex::new(Some(Box::new(stream))) }
    }

    /// Why.
    pub fn reason(&self) -> &AttachRefusal {
        &self.reason
    }

    /// The errno this error stands for.
    pub fn errno(&self) -> i32 {
        self.reason.errno()
    }

    /// The stream that was to be attached, if `S` is its type.
    pub fn into_stream<S: 'static>(self) -> Option<S> {
        let stream = self.stream.into_inner()?;
        stream.downcast::<S>().ok().map(|stream| *stream)
    }
}

impl fmt::Debug for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AttachError").field(&self.reason).finish()
    }
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl std::error::Error for AttachError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.reason)
    }
}

impl From<AttachError> for std::io::Error {
    /// Keeps the errno's kind; the stream is closed.
    fn from(error: AttachError) -> Self {
        error.reason.into()
    }
}

/// What [`unattach`](super::KcmSocket::unattach) gives back.
#[derive(Debug)]
#[non_exhaustive]
pub struct Detached<S = tokio::net::TcpStream> {
    /// The stream, as it was attached: its options are put back.
    pub stream: S,
    /// Bytes that were read from it and not delivered as messages, in order: whole messages
    /// that no KCM socket had room for, then the beginning of an unfinished one, or what the
    /// parser refused (semantics J17, exceeding A35, A36, B11).
    pub unread: Bytes,
    /// A message was sent in part: the peer can no longer be understood to, the stream should
    /// be closed, and attaching it again is refused (semantics J11). The message itself is
    /// sent again on another connection (semantics A37).
    pub desynchronised: bool,
    /// Why the connection was out of use, if it was.
    pub cause: Option<PsockError>,
    /// Messages addressed to this connection with
    /// [`send_to`](super::KcmSocket::send_to) or [`reply`](super::KcmSocket::reply) that were
    /// not sent.
    pub unsent: usize,
}

/// Why a connection was not unattached. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnattachError {
    /// It is not attached, or is being unattached, or the socket is closed.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// It was attached as a stream of another type. EINVAL.
    #[error("connection {psock} was attached as another type of stream; use unattach_as")]
    StreamType {
        /// Which.
        psock: PsockId,
    },
}

impl UnattachError {
    /// The errno this error stands for.
    pub fn errno(&self) -> i32 {
        match self {
            UnattachError::Socket(e) => e.errno(),
            UnattachError::StreamType { .. } => kcm_common::errno::EINVAL,
        }
    }
}

impl From<UnattachError> for std::io::Error {
    fn from(error: UnattachError) -> Self {
        let kind = std::io::Error::from_raw_os_error(error.errno()).kind();
        std::io::Error::new(kind, error)
    }
}

pub(super) fn attach<S, K, P>(
    shared: &Arc<Shared>,
    home: Option<&Home>,
    stream: S,
    parser: &P,
    options: AttachOptions,
) -> Result<Psock, AttachError>
where
    S: Attachable<K>,
    P: Delineate + Clone + 'static,
{
    if let Err(reason) = options.check() {
        return Err(AttachError::new(reason, stream));
    }
    let here = || Ok(Home { handle: Handle::try_current()?, keep: None });
    let home = match home.cloned().map_or_else(here, Ok::<_, TryCurrentError>) {
        Ok(home) => home,
        Err(e) => {
            let e = std::io::Error::other(format!("{e}; give the builder a runtime's handle"));
            return Err(AttachError::new(e.into(), stream));
        }
    };
    let _inside = home.handle.enter();
    let kernel = match options.engine {
        Engine::Kernel => match kernel_of(parser) {
            Ok(kernel) => Some(kernel),
            Err(reason) => return Err(AttachError::new(reason, stream)),
        },
        _ => None,
    };
    let opened = stream.open(&options).map_err(|(stream, e)| AttachError::new(e, stream))?;
    let Opened { io, meta, addrs, recv_buffer, recv_timeout } = opened;
    let limits = Limits::default();
    let limits = Limits {
        max_message: options.max_message.unwrap_or_else(|| {
            recv_buffer.map_or(limits.max_message, |n| n.clamp(1, i32::MAX as usize) as u32)
        }),
        max_header: options.max_header,
        assembly_timeout: options.assembly_timeout.or(recv_timeout),
        ..limits
    };
    let delineate: Arc<dyn Delineate> = Arc::new(parser.for_connection(meta.owned.cookie()));

    let mut todo = Todo::default();
    // All or nothing: refused, the stream comes back.
    let enlist = |io: Arc<dyn Io>, meta: Meta, kernel: Option<Box<KernelRx>>, todo: &mut Todo| {
        shared.with_todo(todo, |core| {
            let id = match core
                .mux
                .attach(PsockOptions { half_close: options.half_close }, &mut core.fx)
            {
                Ok(id) => id,
                Err(e) => return Err(Box::new((e, io, meta))),
            };
            let rx = Rx {
                kernel,
                io: io.clone(),
                strp: StrParser::new(delineate, id, limits),
                before: Before::new(options.initial),
                paused: false,
                stop: false,
                ended: false,
                auto_close: options.auto_close,
                socket_timeout: options.assembly_timeout.is_none(),
                reported: 0,
                memory: 0,
            };
            let psock = PsockShared::new(id, rx, io, meta, addrs);
            core.add_psock(psock.clone());
            Ok(psock)
        })
    };
    let attached = match kernel {
        None => enlist(io, meta, None, &mut todo),
        Some(kernel) => {
            let ready = in_kernel::prepare(
                &*io,
                &kernel,
                options.max_message,
                recv_buffer,
                limits.assembly_timeout,
            );
            // The descriptor of the stream that the closure takes along stays open.
            match ready {
                Err(e) => Err(Box::new((e, io, meta))),
                Ok(ready) => into_kernel(&kernel, ready, limits, io, meta, |io, m, rx| {
                    let psock = enlist(io, m, Some(rx), &mut todo)?;
                    Ok((PsockSink::of(&psock, shared), psock))
                }),
            }
        }
    };
    let inner = match attached {
        Ok(inner) => inner,
        Err(refused) => {
            let (reason, io, meta) = *refused;
            let parts = Parts { io: io.into_any(), meta };
            return Err(match S::restore(parts) {
                Ok(stream) => AttachError::new(reason, stream),
                Err(_) => AttachError { reason, stream: Mutex::new(None) },
            });
        }
    };
    if inner.kernel.is_some() {
        // What was in the socket before, and an end that came meanwhile, nobody is told of.
        todo.wake_later(inner.signal(signal::LOOK));
        if let Some(fd) = inner.rx.lock().as_ref().and_then(|rx| rx.io.fd()) {
            in_kernel::poke(fd);
        }
    }
    home.handle.spawn(Driver::new(inner.clone(), shared.clone(), home.keep));
    todo.run(shared);
    Ok(Psock { shared: shared.clone(), inner })
}

/// A refused attach, with everything that is to be put together again.
type Refused = Box<(AttachRefusal, Arc<dyn Io>, Meta)>;

/// The parser in the kernel.
fn kernel_of<P: Delineate>(parser: &P) -> Result<Arc<Kernel>, AttachRefusal> {
    let program = parser.program().and_then(|any| any.downcast_ref::<Parser>());
    let Some(program) = program else {
        return Err(AttachRefusal::UnsupportedEngine {
            engine: "kernel",
            reason: "its parser is a native function; load a verified program (`Parser`), or \
                     use Engine::Process"
                .to_owned(),
        });
    };
    Kernel::of(program).map_err(refusal)
}

/// What the kernel engine's error is for who attaches.
fn refusal(error: kernel::Error) -> AttachRefusal {
    match error {
        kernel::Error::AlreadyAttached => AttachRefusal::AlreadyAttached,
        error => AttachRefusal::Engine { code: error.errno(), reason: error.to_string() },
    }
}

/// Puts a prepared stream under the parser in the kernel, and enlists it there.
fn into_kernel(
    kernel: &Arc<Kernel>,
    (before, max_message): (u64, u32),
    limits: Limits,
    io: Arc<dyn Io>,
    meta: Meta,
    enlist: impl FnOnce(
        Arc<dyn Io>,
        Meta,
        Box<KernelRx>,
    ) -> Result<(Arc<dyn kernel::Sink>, Arc<PsockShared>), Refused>,
) -> Result<Arc<PsockShared>, Refused> {
    let cookie = meta.owned.cookie();
    let of_kernel = kernel::Limits { max_message, max_header: limits.max_header };
    // The stream moves while the socket goes in; a copy of its descriptor stays here.
    let fd = io.fd().map(|fd| fd.try_clone_to_owned());
    let fd = match fd {
        Some(Ok(fd)) if cookie != 0 => fd,
        Some(Err(e)) => return Err(Box::new((e.into(), io, meta))),
        _ => {
            return Err(Box::new((
                std::io::Error::from_raw_os_error(errno::EOPNOTSUPP).into(),
                io,
                meta,
            )));
        }
    };
    let mut parts = Some((io, meta));
    let admitted = kernel.admit(fd.as_fd(), cookie, of_kernel, |lease| {
        let Some((io, meta)) = parts.take() else { return Err(None) };
        let rx = KernelRx::new(lease, before, max_message, limits.max_header);
        enlist(io, meta, rx).map_err(Some)
    });
    match (admitted, parts) {
        (Ok(Ok(psock)), _) => Ok(psock),
        (Ok(Err(Some(refused))), _) => Err(refused),
        (Err(e), Some((io, meta))) => Err(Box::new((refusal(e), io, meta))),
        // tidy-allow(panic): the parts are taken by the closure alone, which runs once at most
        (Ok(Err(None)), _) | (Err(_), None) => unreachable!("the parts are somewhere"),
    }
}

pub(super) fn unattach<S, K>(
    shared: &Arc<Shared>,
    id: PsockId,
) -> Result<Detached<S>, UnattachError>
where
    S: Attachable<K>,
{
    if inside::is_inside() {
        return Err(SocketError::WouldDeadlock.into());
    }
    let not_attached = || UnattachError::Socket(SocketError::NotAttached(id));
    let psock = shared.psock(id).ok_or_else(not_attached)?;
    // Not held while the kernel's ring is drained.
    let family = psock.tx.lock().as_ref().map(|tx| tx.io.family());
    if family.ok_or_else(not_attached)? != S::family() {
        return Err(UnattachError::StreamType { psock: id });
    }
    if let Some(kernel) = &psock.kernel {
        // What is whole in its ring comes back with the stream, or goes to a reader.
        kernel.drain();
    }
    let mut todo = Todo::default();
    // What was left to the task of the connection would have left before.
    psock.write_now(shared, &mut todo);
    // With both sides' locks held nobody is in the middle of a read or a write.
    let (mut rx, tx, mut leftover) = {
        let mut rx_guard = psock.rx.lock();
        let mut tx_guard = psock.tx.lock();
        let refused = match (&*rx_guard, &*tx_guard) {
            (Some(_), Some(_)) => shared
                .with_todo(&mut todo, |core| core.mux.unattach(id, &mut core.fx))
                .map_err(UnattachError::from)
                .err(),
            _ => Some(not_attached()),
        };
        if let Some(refused) = refused {
            drop((rx_guard, tx_guard));
            // What was written above is to be followed up all the same.
            todo.run(shared);
            return Err(refused);
        }
        let at = todo.gone.iter().position(|(gone, _)| gone.id() == id);
        let leftover = at.map(|at| todo.gone.swap_remove(at).1);
        let (Some(rx), Some(tx), Some(leftover)) = (rx_guard.take(), tx_guard.take(), leftover)
        else {
            // Not reached: both are there, and the multiplexor lets a connection on which
            // nobody writes go at once.
            todo.run(shared);
            return Err(not_attached());
        };
        (rx, tx, leftover)
    };
    rx.account(shared, 0);
    todo.wake_later(psock.signal(signal::GONE));
    todo.run(shared);

    if leftover.desynchronised {
        tx.meta.owned.spoil();
    }
    if psock.kernel.is_some()
        && let Some(fd) = tx.io.fd()
    {
        // A live socket that leaves the kernel's parser loses bytes, and may never receive
        // again (semantics I12, I13).
        let _ = socket2::SockRef::from(&fd).shutdown(std::net::Shutdown::Both);
    }
    let unread = PsockShared::unread(&mut leftover, rx);
    let parts = Parts { io: tx.io.into_any(), meta: tx.meta };
    match S::restore(parts) {
        Ok(stream) => Ok(Detached {
            stream,
            unread,
            desynchronised: leftover.desynchronised,
            cause: leftover.cause,
            unsent: leftover.unsent,
        }),
        // Not reached: the type was compared.
        Err(_) => Err(UnattachError::StreamType { psock: id }),
    }
}
