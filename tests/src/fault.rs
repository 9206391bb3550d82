//! Faults as a wrapper around any stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::harness::Rng;

/// A stream that reads and writes in small pieces, answers "not yet" when it could, and can
/// be told to fail at a byte. What it does depends on the seed alone.
#[derive(Debug)]
pub struct Faulty<S> {
    inner: S,
    rng: Rng,
    /// Largest piece of one read or write.
    pub piece: usize,
    /// One call in so many says "not yet" first. 0: none.
    pub stall: usize,
    /// Writes fail once so many bytes were written.
    pub fail_write_at: Option<(usize, io::ErrorKind)>,
    /// Reads fail once so many bytes were read.
    pub fail_read_at: Option<(usize, io::ErrorKind)>,
    written: usize,
    read: usize,
}

impl<S> Faulty<S> {
    /// Wraps a stream; it does no harm until its fields are set.
    pub fn new(inner: S, seed: u64) -> Self {
        Faulty {
            inner,
            rng: Rng::new(seed),
            piece: usize::MAX,
            stall: 0,
            fail_write_at: None,
            fail_read_at: None,
            written: 0,
            read: 0,
        }
    }

    fn stalls(&mut self, cx: &mut Context<'_>) -> bool {
        let stalls = self.stall > 0 && self.rng.below(self.stall) == 0;
        if stalls {
            cx.waker().wake_by_ref();
        }
        stalls
    }

    fn piece(&mut self, most: usize) -> usize {
        match self.piece {
            usize::MAX => most,
            piece => most.min(1 + self.rng.below(piece)),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Faulty<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.stalls(cx) {
            return Poll::Pending;
        }
        let mut room = this.piece(buf.remaining());
        if let Some((at, kind)) = this.fail_read_at {
            if this.read >= at {
                return Poll::Ready(Err(kind.into()));
            }
            room = room.min(at - this.read);
        }
        let mut piece = vec![0; room];
        let mut part = ReadBuf::new(&mut piece);
        match Pin::new(&mut this.inner).poll_read(cx, &mut part) {
            Poll::Ready(Ok(())) => {
                this.read += part.filled().len();
                buf.put_slice(part.filled());
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Faulty<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.stalls(cx) {
            return Poll::Pending;
        }
        let mut n = this.piece(buf.len());
        if let Some((at, kind)) = this.fail_write_at {
            if this.written >= at {
                return Poll::Ready(Err(kind.into()));
            }
            n = n.min(at - this.written);
        }
        let written = Pin::new(&mut this.inner).poll_write(cx, &buf[..n]);
        if let Poll::Ready(Ok(n)) = written {
            this.written += n;
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
