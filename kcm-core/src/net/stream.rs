//! Streams that can be attached, and how they come back.

use std::{
    any::{Any, TypeId},
    io,
    net::{SocketAddr, SocketAddrV4},
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::Duration,
};

use rustix::fs::OFlags;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use super::{
    io::{Io, Locked},
    options::AttachOptions,
    owned::{self, Owned},
    tcp_info::{TcpState, tcp_info},
};
use crate::error::AttachError as AttachRefusal;

/// Streams that can be attached: tokio's and the standard library's `TcpStream` and
/// `UnixStream`, and whatever else is `AsyncRead + AsyncWrite + Send + Unpin` (a TLS stream,
/// an in-memory pipe). `Kind` is found by the compiler; nobody need name it.
///
/// Unattaching gives the same type back. Standard streams are made non-blocking while they
/// are attached and come back as they were.
pub trait Attachable<Kind>: Sized + Send + 'static {
    #[doc(hidden)]
    fn open(self, options: &AttachOptions) -> Result<Opened, (Self, AttachRefusal)>;

    #[doc(hidden)]
    fn restore(parts: Parts) -> Result<Self, Parts>;

    #[doc(hidden)]
    fn family() -> Family;
}

/// Streams of one family can be given back as any type of it.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Tcp,
    Unix,
    Other(TypeId),
}

/// The [`Attachable`] kind of asynchronous streams.
#[derive(Debug)]
pub enum Async {}

/// The [`Attachable`] kind of the standard library's streams.
#[derive(Debug)]
pub enum Blocking {}

/// A stream taken for attachment.
#[doc(hidden)]
pub struct Opened {
    pub(super) io: Arc<dyn Io>,
    pub(super) meta: Meta,
    /// The peer's address and our own.
    pub(super) addrs: Addrs,
    /// SO_RCVBUF, as reported.
    pub(super) recv_buffer: Option<usize>,
    /// SO_RCVTIMEO.
    pub(super) recv_timeout: Option<Duration>,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("meta", &self.meta).finish_non_exhaustive()
    }
}

/// The addresses of a TCP connection.
#[derive(Debug, Default)]
pub(super) enum Addrs {
    #[default]
    None,
    /// The peer's and our own, in 12 bytes instead of 64.
    V4(SocketAddrV4, SocketAddrV4),
    Other(Box<[Option<SocketAddr>; 2]>),
}

impl Addrs {
    fn new(peer: Option<SocketAddr>, local: Option<SocketAddr>) -> Self {
        match (peer, local) {
            (Some(SocketAddr::V4(peer)), Some(SocketAddr::V4(local))) => Addrs::V4(peer, local),
            _ => Addrs::Other(Box::new([peer, local])),
        }
    }

    pub(super) fn peer(&self) -> Option<SocketAddr> {
        match self {
            Addrs::None => None,
            Addrs::V4(peer, _) => Some((*peer).into()),
            Addrs::Other(both) => both[0],
        }
    }

    pub(super) fn local(&self) -> Option<SocketAddr> {
        match self {
            Addrs::None => None,
            Addrs::V4(_, local) => Some((*local).into()),
            Addrs::Other(both) => both[1],
        }
    }
}

/// What is remembered of a stream while it is attached.
#[derive(Debug)]
pub(super) struct Meta {
    pub(super) owned: Owned,
    /// Options to set back, if attach changed them.
    oob_inline: Option<bool>,
    nodelay: Option<bool>,
    blocking: bool,
}

impl Meta {
    fn none() -> Self {
        Meta { owned: Owned::unknown(), oob_inline: None, nodelay: None, blocking: false }
    }

    /// Puts the options of the socket back. Failures do not matter: the socket is at worst
    /// in a state it can be used in.
    fn restore(&self, fd: impl AsFd) {
        let socket = SockRef::from(&fd);
        if let Some(inline) = self.oob_inline {
            let _ = socket.set_out_of_band_inline(inline);
        }
        if let Some(nodelay) = self.nodelay {
            let _ = socket.set_tcp_nodelay(nodelay);
        }
    }
}

/// A stream on its way back.
#[doc(hidden)]
pub struct Parts {
    /// Nobody else has it any more.
    pub(super) io: Arc<dyn Any + Send + Sync>,
    pub(super) meta: Meta,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("meta", &self.meta).finish_non_exhaustive()
    }
}

/// The same value under another name for its type, if it is that type.
fn cast<A: 'static, B: 'static>(value: A) -> Result<B, A> {
    let mut slot = Some(value);
    if let Some(value) =
        (&mut slot as &mut dyn Any).downcast_mut::<Option<B>>().and_then(Option::take)
    {
        return Ok(value);
    }
    match slot {
        Some(value) => Err(value),
        // tidy-allow(panic): the slot is only emptied by the return above
        None => unreachable!("a value is either cast or kept"),
    }
}

impl<S> Attachable<Async> for S
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    fn open(self, options: &AttachOptions) -> Result<Opened, (Self, AttachRefusal)> {
        // An error gives the stream back under its name in here: the cast cannot fail.
        let stream = match cast::<S, TcpStream>(self) {
            Ok(tcp) => {
                return match prepare_tcp(&tcp, options) {
                    Ok(prepared) => Ok(prepared.with(Arc::new(tcp))),
                    Err(e) => match cast(tcp) {
                        Ok(stream) => Err((stream, e)),
                        // tidy-allow(panic): cast back to the type it was cast from, above
                        Err(_) => unreachable!("the same type"),
                    },
                };
            }
            Err(stream) => stream,
        };
        let stream = match cast::<S, UnixStream>(stream) {
            Ok(unix) => {
                return match prepare_unix(&unix) {
                    Ok(prepared) => Ok(prepared.with(Arc::new(unix))),
                    Err(e) => match cast(unix) {
                        Ok(stream) => Err((stream, e)),
                        // tidy-allow(panic): cast back to the type it was cast from, above
                        Err(_) => unreachable!("the same type"),
                    },
                };
            }
            Err(stream) => stream,
        };
        Ok(Opened {
            io: Arc::new(Locked::new(stream)),
            meta: Meta::none(),
            addrs: Addrs::default(),
            recv_buffer: None,
            recv_timeout: None,
        })
    }

    fn restore(parts: Parts) -> Result<Self, Parts> {
        let parts = match socket_again::<TcpStream>(parts) {
            Ok((tcp, meta)) => {
                return cast(tcp).map_err(|tcp| Parts { io: Arc::new(tcp), meta });
            }
            Err(parts) => parts,
        };
        let parts = match socket_again::<UnixStream>(parts) {
            Ok((unix, meta)) => {
                return cast(unix).map_err(|unix| Parts { io: Arc::new(unix), meta });
            }
            Err(parts) => parts,
        };
        alone::<Locked<S>>(parts).map(|(stream, _)| stream.into_inner())
    }

    fn family() -> Family {
        let this = TypeId::of::<S>();
        if this == TypeId::of::<TcpStream>() {
            Family::Tcp
        } else if this == TypeId::of::<UnixStream>() {
            Family::Unix
        } else {
            Family::Other(this)
        }
    }
}

impl Attachable<Blocking> for std::net::TcpStream {
    fn open(self, options: &AttachOptions) -> Result<Opened, (Self, AttachRefusal)> {
        match prepare_tcp(&self, options) {
            Ok(prepared) => to_tokio(
                self,
                prepared,
                std::net::TcpStream::try_clone,
                std::net::TcpStream::set_nonblocking,
                |s| Ok(Arc::new(TcpStream::from_std(s)?)),
            ),
            Err(e) => Err((self, e)),
        }
    }

    fn restore(parts: Parts) -> Result<Self, Parts> {
        let (tcp, meta) = socket_again::<TcpStream>(parts)?;
        // Deregistering cannot fail for a socket that is registered.
        let stream = match tcp.into_std() {
            Ok(stream) => stream,
            // tidy-allow(panic): deregistering a registered socket does not fail
            Err(e) => unreachable!("a registered socket can be deregistered: {e}"),
        };
        let _ = stream.set_nonblocking(!meta.blocking);
        Ok(stream)
    }

    fn family() -> Family {
        Family::Tcp
    }
}

impl Attachable<Blocking> for std::os::unix::net::UnixStream {
    fn open(self, _: &AttachOptions) -> Result<Opened, (Self, AttachRefusal)> {
        match prepare_unix(&self) {
            Ok(prepared) => to_tokio(
                self,
                prepared,
                std::os::unix::net::UnixStream::try_clone,
                std::os::unix::net::UnixStream::set_nonblocking,
                |s| Ok(Arc::new(UnixStream::from_std(s)?)),
            ),
            Err(e) => Err((self, e)),
        }
    }

    fn restore(parts: Parts) -> Result<Self, Parts> {
        let (unix, meta) = socket_again::<UnixStream>(parts)?;
        let stream = match unix.into_std() {
            Ok(stream) => stream,
            // tidy-allow(panic): deregistering a registered socket does not fail
            Err(e) => unreachable!("a registered socket can be deregistered: {e}"),
        };
        let _ = stream.set_nonblocking(!meta.blocking);
        Ok(stream)
    }

    fn family() -> Family {
        Family::Unix
    }
}

/// A checked stream that is still to be taken.
struct Prepared {
    meta: Meta,
    addrs: Addrs,
    recv_buffer: Option<usize>,
    recv_timeout: Option<Duration>,
}

impl Prepared {
    fn with(self, io: Arc<dyn Io>) -> Opened {
        Opened {
            io,
            meta: self.meta,
            addrs: self.addrs,
            recv_buffer: self.recv_buffer,
            recv_timeout: self.recv_timeout,
        }
    }
}

/// Checks a TCP stream and sets its options, or leaves everything as it is.
fn prepare_tcp(stream: &impl AsFd, options: &AttachOptions) -> Result<Prepared, AttachRefusal> {
    match tcp_info(stream.as_fd())?.state {
        // Listening, never connected, reset (semantics A16), still connecting (J10).
        TcpState::Listen | TcpState::Close | TcpState::SynSent | TcpState::SynRecv => {
            return Err(AttachRefusal::NotConnected);
        }
        _ => {}
    }
    let mut prepared = prepare_socket(stream.as_fd())?;
    let socket = SockRef::from(stream);
    let addr = |a: io::Result<socket2::SockAddr>| a.ok().and_then(|a| a.as_socket());
    prepared.addrs = Addrs::new(addr(socket.peer_addr()), addr(socket.local_addr()));
    // Urgent bytes are ordinary bytes (semantics J18).
    let inline = socket.out_of_band_inline()?;
    if !inline {
        socket.set_out_of_band_inline(true)?;
        prepared.meta.oob_inline = Some(inline);
    }
    if let Some(wanted) = options.nodelay {
        let nodelay = socket.tcp_nodelay().unwrap_or(wanted);
        if nodelay != wanted && socket.set_tcp_nodelay(wanted).is_ok() {
            prepared.meta.nodelay = Some(nodelay);
        }
    }
    Ok(prepared)
}

fn prepare_unix(stream: &impl AsFd) -> Result<Prepared, AttachRefusal> {
    if SockRef::from(stream).peer_addr().is_err() {
        return Err(AttachRefusal::NotConnected);
    }
    prepare_socket(stream.as_fd())
}

fn prepare_socket(fd: BorrowedFd<'_>) -> Result<Prepared, AttachRefusal> {
    let owned = owned::claim(fd).map_err(|refused| match refused {
        owned::Refused::Attached => AttachRefusal::AlreadyAttached,
        owned::Refused::Spoilt => AttachRefusal::Desynchronised,
    })?;
    let socket = SockRef::from(&fd);
    Ok(Prepared {
        meta: Meta { owned, ..Meta::none() },
        addrs: Addrs::default(),
        recv_buffer: socket.recv_buffer_size().ok(),
        recv_timeout: socket.read_timeout().ok().flatten(),
    })
}

/// Hands a standard stream to tokio. The copy of the descriptor is what comes back if tokio
/// refuses, for it keeps the one it was given.
fn to_tokio<S: AsFd>(
    stream: S,
    mut prepared: Prepared,
    copy: impl Fn(&S) -> io::Result<S>,
    nonblocking: impl Fn(&S, bool) -> io::Result<()>,
    register: impl Fn(S) -> io::Result<Arc<dyn Io>>,
) -> Result<Opened, (S, AttachRefusal)> {
    let ready = rustix::fs::fcntl_getfl(&stream).map_err(io::Error::from).and_then(|flags| {
        prepared.meta.blocking = !flags.contains(OFlags::NONBLOCK);
        let spare = copy(&stream)?;
        nonblocking(&stream, true)?;
        Ok(spare)
    });
    let spare = match ready {
        Ok(spare) => spare,
        Err(e) => {
            prepared.meta.restore(&stream);
            return Err((stream, e.into()));
        }
    };
    match register(stream) {
        Ok(io) => Ok(prepared.with(io)),
        Err(e) => {
            let _ = nonblocking(&spare, !prepared.meta.blocking);
            prepared.meta.restore(&spare);
            Err((spare, e.into()))
        }
    }
}

/// The stream, if it is of that type.
fn alone<T: Send + Sync + 'static>(parts: Parts) -> Result<(T, Meta), Parts> {
    let Parts { io, meta } = parts;
    match io.downcast::<T>().map(Arc::try_unwrap) {
        Ok(Ok(stream)) => Ok((stream, meta)),
        // Not reached: both sides of the psock have given it up.
        Ok(Err(shared)) => Err(Parts { io: shared, meta }),
        Err(io) => Err(Parts { io, meta }),
    }
}

/// The same, with the options of the socket put back.
fn socket_again<T: AsFd + Send + Sync + 'static>(parts: Parts) -> Result<(T, Meta), Parts> {
    let (stream, meta) = alone::<T>(parts)?;
    meta.restore(&stream);
    Ok((stream, meta))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::owned::{Refused, claim};

    #[test]
    fn a_socket_is_claimed_once_through_any_of_its_descriptors() {
        let (a, _b) = UnixStream::pair().unwrap();
        let dup = a.try_clone().unwrap();
        let owned = claim(&a).unwrap();
        assert_eq!(claim(&dup).unwrap_err(), Refused::Attached);
        drop(owned);
        let owned = claim(&dup).unwrap();
        owned.spoil();
        drop(owned);
        assert_eq!(claim(&a).unwrap_err(), Refused::Spoilt);
    }
}
