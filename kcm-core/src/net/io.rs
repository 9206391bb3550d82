//! The two halves of an attached stream, whatever it is.

use std::{
    any::Any,
    io::{self, IoSlice},
    os::fd::{AsFd, BorrowedFd},
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest, ReadHalf, WriteHalf},
    net::{TcpStream, UnixStream, tcp, unix},
};

use super::sigpipe;

/// The receiving half. One owner: the psock's driver.
pub(super) trait ReadIo: Send {
    /// Appends what one read brings to `buf`, in the room it has; 0 is the end of the stream.
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut BytesMut) -> Poll<io::Result<usize>>;

    /// SO_RCVTIMEO, if it is a socket and has one.
    fn recv_timeout(&self) -> Option<Duration>;

    /// The socket, if it is one.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// Pending when a read certainly would be: no buffer is needed then. May be wrong in
    /// saying ready.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// For putting the stream together again.
    fn into_any(self: Box<Self>) -> Box<dyn Any + Send>;
}

/// The sending half. One owner at a time: whoever holds the psock's write lock.
pub(super) trait WriteIo: Send {
    /// Writes what goes without waiting; pending: `cx` is woken when more may go. Never
    /// raises SIGPIPE (semantics J6).
    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>])
    -> Poll<io::Result<usize>>;

    /// Pushes out what the stream itself buffers.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ends the sending side, after what the stream itself buffers.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ready when a write may get somewhere. May be wrong in saying ready.
    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// The socket, if it is one.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// For putting the stream together again.
    fn into_any(self: Box<Self>) -> Box<dyn Any + Send>;
}

/// Both halves.
pub(super) struct Halves {
    pub(super) read: Box<dyn ReadIo>,
    pub(super) write: Box<dyn WriteIo>,
}

/// tokio's own sockets: sends are `sendmsg` with MSG_NOSIGNAL, for `writev` would raise
/// SIGPIPE in a process that has not turned it off.
macro_rules! socket_halves {
    ($stream:ty, $read:ty, $write:ty) => {
        impl From<$stream> for Halves {
            fn from(stream: $stream) -> Halves {
                let (read, write) = stream.into_split();
                Halves { read: Box::new(read), write: Box::new(write) }
            }
        }

        impl ReadIo for $read {
            fn poll_read(
                &mut self,
                cx: &mut Context<'_>,
                buf: &mut BytesMut,
            ) -> Poll<io::Result<usize>> {
                // tokio's own poll_read takes a short read for the last one and does not
                // look again before the next event. Behind urgent data there may be more,
                // without an event (kernel-faults row 73).
                let stream: &$stream = (*self).as_ref();
                loop {
                    match stream.poll_read_ready(cx) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                        Poll::Ready(Ok(())) => {}
                    }
                    match stream.try_read_buf(buf) {
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        done => return Poll::Ready(done),
                    }
                }
            }

            fn recv_timeout(&self) -> Option<Duration> {
                let stream: &$stream = self.as_ref();
                socket2::SockRef::from(stream).read_timeout().ok().flatten()
            }

            fn fd(&self) -> Option<BorrowedFd<'_>> {
                let stream: &$stream = self.as_ref();
                Some(stream.as_fd())
            }

            fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
                let stream: &$stream = (*self).as_ref();
                // An error shows in the read.
                stream.poll_read_ready(cx).map(|_| ())
            }

            fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
                self
            }
        }

        impl WriteIo for $write {
            fn poll_write(
                &mut self,
                cx: &mut Context<'_>,
                bufs: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                let stream: &$stream = (*self).as_ref();
                loop {
                    let send = || {
                        let socket = socket2::SockRef::from(stream);
                        match bufs {
                            // The kernel has less to copy and to check.
                            [one] => socket.send_with_flags(one, libc::MSG_NOSIGNAL),
                            many => socket.send_vectored_with_flags(many, libc::MSG_NOSIGNAL),
                        }
                    };
                    let sent = match stream.poll_write_ready(cx) {
                        Poll::Ready(Ok(())) => stream.try_io(Interest::WRITABLE, send),
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

            fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }

            fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                let stream: &$stream = (*self).as_ref();
                Poll::Ready(socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write))
            }

            fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                let stream: &$stream = (*self).as_ref();
                stream.poll_write_ready(cx)
            }

            fn fd(&self) -> Option<BorrowedFd<'_>> {
                let stream: &$stream = self.as_ref();
                Some(stream.as_fd())
            }

            fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
                self
            }
        }
    };
}

socket_halves!(TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf);
socket_halves!(UnixStream, unix::OwnedReadHalf, unix::OwnedWriteHalf);

/// Any other stream (TLS, in-memory pipes): the halves share a lock inside.
pub(super) fn split<S>(stream: S) -> Halves
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (read, write) = tokio::io::split(stream);
    Halves { read: Box::new(read), write: Box::new(write) }
}

impl<S> ReadIo for ReadHalf<S>
where
    S: AsyncRead + Send + Unpin + 'static,
{
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut BytesMut) -> Poll<io::Result<usize>> {
        // The future keeps nothing between polls, so it may be made anew for each.
        // A TLS stream may write when it is read.
        sigpipe::without(|| pin!(self.read_buf(buf)).poll(cx))
    }

    fn recv_timeout(&self) -> Option<Duration> {
        None
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn poll_readable(&mut self, _: &mut Context<'_>) -> Poll<()> {
        // Such streams cannot be asked; the read itself will tell.
        Poll::Ready(())
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

impl<S> WriteIo for WriteHalf<S>
where
    S: AsyncWrite + Send + Unpin + 'static,
{
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        sigpipe::without(|| Pin::new(self).poll_write_vectored(cx, bufs))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        sigpipe::without(|| AsyncWrite::poll_flush(Pin::new(self), cx))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        sigpipe::without(|| AsyncWrite::poll_shutdown(Pin::new(self), cx))
    }

    fn poll_writable(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Such streams cannot be asked; the write itself will tell.
        Poll::Ready(Ok(()))
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}
