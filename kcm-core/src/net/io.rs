//! An attached stream, whatever it is.

use std::{
    any::{Any, TypeId},
    io::{self, IoSlice},
    os::fd::{AsFd, BorrowedFd},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest},
    net::{TcpStream, UnixStream},
};

use super::{sigpipe, stream::Family};

/// An attached stream. Its receiving side has one caller, the psock's driver; its sending side
/// one at a time, whoever holds the psock's write lock. Both use the one allocation: a box for
/// each side would take 64 bytes more of an idle connection.
pub(super) trait Io: Send + Sync {
    /// Appends what one read brings to `buf`, in the room it has; 0 is the end of the stream.
    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut BytesMut) -> Poll<io::Result<usize>>;

    /// SO_RCVTIMEO, if it is a socket and has one.
    fn recv_timeout(&self) -> Option<Duration>;

    /// The socket, if it is one.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// Pending when a read certainly would be: no buffer is needed then. May be wrong in
    /// saying ready.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// Writes what goes without waiting; pending: `cx` is woken when more may go. Never
    /// raises SIGPIPE (semantics J6).
    fn poll_write(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>>;

    /// Pushes out what the stream itself buffers.
    fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ends the sending side, after what the stream itself buffers.
    fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ready when a write may get somewhere. May be wrong in saying ready.
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// As which types the stream can be given back.
    fn family(&self) -> Family;

    /// For giving the stream back.
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

/// Ends the sending side of a stream that is closed, if it is a socket: another descriptor of
/// it (a `try_clone`) does not keep the peer from seeing the end.
pub(super) fn hang_up(io: &dyn Io) {
    if let Some(fd) = io.fd() {
        let _ = socket2::SockRef::from(&fd).shutdown(std::net::Shutdown::Write);
    }
}

/// tokio's own sockets: sends are `sendmsg` with MSG_NOSIGNAL, for `writev` would raise
/// SIGPIPE in a process that has not turned it off.
macro_rules! socket_io {
    ($stream:ty, $family:expr) => {
        impl Io for $stream {
            fn poll_read(
                &self,
                cx: &mut Context<'_>,
                buf: &mut BytesMut,
            ) -> Poll<io::Result<usize>> {
                // tokio's own poll_read takes a short read for the last one and does not
                // look again before the next event. Behind urgent data there may be more,
                // without an event (kernel-faults row 73).
                loop {
                    match self.poll_read_ready(cx) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                        Poll::Ready(Ok(())) => {}
                    }
                    match self.try_read_buf(buf) {
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        done => return Poll::Ready(done),
                    }
                }
            }

            fn recv_timeout(&self) -> Option<Duration> {
                socket2::SockRef::from(self).read_timeout().ok().flatten()
            }

            fn fd(&self) -> Option<BorrowedFd<'_>> {
                Some(self.as_fd())
            }

            fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
                // An error shows in the read.
                self.poll_read_ready(cx).map(|_| ())
            }

            fn poll_write(
                &self,
                cx: &mut Context<'_>,
                bufs: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                loop {
                    let send = || {
                        let socket = socket2::SockRef::from(self);
                        match bufs {
                            // The kernel has less to copy and to check.
                            [one] => socket.send_with_flags(one, libc::MSG_NOSIGNAL),
                            many => socket.send_vectored_with_flags(many, libc::MSG_NOSIGNAL),
                        }
                    };
                    let sent = match self.poll_write_ready(cx) {
                        Poll::Ready(Ok(())) => self.try_io(Interest::WRITABLE, send),
                        Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                        // The runtime may not have heard of a fresh connection yet, which
                        // takes bytes all the same. To take it for a stuck one would send its
                        // first messages elsewhere (semantics D14).
                        Poll::Pending => match send() {
                            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                                return Poll::Pending;
                            }
                            sent => sent,
                        },
                    };
                    match sent {
                        // Not writable after all: wait for it to become so.
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        done => return Poll::Ready(done),
                    }
                }
            }

            fn poll_flush(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }

            fn poll_shutdown(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(socket2::SockRef::from(self).shutdown(std::net::Shutdown::Write))
            }

            fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_write_ready(cx)
            }

            fn family(&self) -> Family {
                $family
            }

            fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
                self
            }
        }
    };
}

socket_io!(TcpStream, Family::Tcp);
socket_io!(UnixStream, Family::Unix);

/// Any other stream (TLS, in-memory pipes): one side waits while the other is polled.
pub(super) struct Locked<S>(Mutex<S>);

impl<S> Locked<S> {
    pub(super) fn new(stream: S) -> Self {
        Locked(Mutex::new(stream))
    }

    pub(super) fn into_inner(self) -> S {
        self.0.into_inner()
    }
}

impl<S> Io for Locked<S>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut BytesMut) -> Poll<io::Result<usize>> {
        // The future keeps nothing between polls, so it may be made anew for each.
        // A TLS stream may write when it is read.
        sigpipe::without(|| pin!(self.0.lock().read_buf(buf)).poll(cx))
    }

    fn recv_timeout(&self) -> Option<Duration> {
        None
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn poll_readable(&self, _: &mut Context<'_>) -> Poll<()> {
        // Such streams cannot be asked; the read itself will tell.
        Poll::Ready(())
    }

    fn poll_write(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        sigpipe::without(|| Pin::new(&mut *self.0.lock()).poll_write_vectored(cx, bufs))
    }

    fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        sigpipe::without(|| Pin::new(&mut *self.0.lock()).poll_flush(cx))
    }

    fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        sigpipe::without(|| Pin::new(&mut *self.0.lock()).poll_shutdown(cx))
    }

    fn poll_writable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Such streams cannot be asked; the write itself will tell.
        Poll::Ready(Ok(()))
    }

    fn family(&self) -> Family {
        Family::Other(TypeId::of::<S>())
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
