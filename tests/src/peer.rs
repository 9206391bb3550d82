//! The other end of a connection: real loopback TCP, with the bad manners of real peers.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::harness::DEADLINE;

/// A peer: what a test holds of the other side.
#[derive(Debug)]
pub struct Peer {
    stream: TcpStream,
}

/// How a connection is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct PairOptions {
    /// SO_RCVBUF of the attached side, set before the connection is made, so that its window
    /// is as small as that.
    pub recv_buffer: Option<u32>,
    /// SO_RCVBUF of the peer: how much it takes without reading.
    pub peer_recv_buffer: Option<u32>,
    /// SO_SNDBUF of the attached side.
    pub send_buffer: Option<u32>,
}

/// A peer and the stream to attach.
pub async fn pair() -> (Peer, TcpStream) {
    pair_with(PairOptions::default()).await.expect("loopback TCP works")
}

/// As [`pair`], with buffers as asked for.
pub async fn pair_with(options: PairOptions) -> Result<(Peer, TcpStream)> {
    let socket = TcpSocket::new_v4()?;
    if let Some(bytes) = options.peer_recv_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    let listener = socket.listen(1)?;
    let ours = TcpSocket::new_v4()?;
    if let Some(bytes) = options.recv_buffer {
        ours.set_recv_buffer_size(bytes)?;
    }
    if let Some(bytes) = options.send_buffer {
        ours.set_send_buffer_size(bytes)?;
    }
    let stream = ours.connect(listener.local_addr()?).await?;
    let (peer, from) = listener.accept().await?;
    ensure!(from == stream.local_addr()?, "a stranger connected");
    peer.set_nodelay(true)?;
    Ok((Peer { stream: peer }, stream))
}

/// As [`pair`], the stream being the standard library's.
pub async fn std_pair() -> (Peer, std::net::TcpStream) {
    let (peer, stream) = pair().await;
    let stream = stream.into_std().expect("a registered stream");
    stream.set_nonblocking(false).expect("a socket");
    (peer, stream)
}

impl AsFd for Peer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Peer {
    /// Wraps a connected stream.
    pub fn new(stream: TcpStream) -> Self {
        Peer { stream }
    }

    /// Writes everything; fails if that takes too long.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        within(self.stream.write_all(bytes)).await.context("peer could not send")
    }

    /// Writes in pieces that end at these offsets (ascending) and at the end, each in a
    /// segment of its own; `gap` is awaited between two, so that the test can have each
    /// piece read before the next comes.
    pub async fn send_split(
        &mut self,
        bytes: &[u8],
        cuts: &[usize],
        mut gap: impl AsyncFnMut(usize),
    ) -> Result<()> {
        let mut from = 0;
        for &cut in cuts.iter().chain([&bytes.len()]) {
            self.send(&bytes[from..cut]).await?;
            if cut > from {
                gap(cut).await;
            }
            from = cut;
        }
        Ok(())
    }

    /// Writes what goes without waiting; how many bytes that was.
    pub fn try_send(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.stream.try_write(bytes) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
            result => result,
        }
    }

    /// Sends one byte of urgent data.
    pub fn send_urgent(&self, byte: u8) -> io::Result<usize> {
        SockRef::from(&self.stream).send_out_of_band(&[byte])
    }

    /// Reads exactly `n` bytes.
    pub async fn read(&mut self, n: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; n];
        within(self.stream.read_exact(&mut bytes)).await.context("peer could not read")?;
        Ok(bytes)
    }

    /// Reads one length-prefixed message (see [`crate::codec::frame`]); its payload.
    pub async fn read_frame(&mut self) -> Result<Vec<u8>> {
        let head = self.read(4).await?;
        let len = u32::from_be_bytes(head.try_into().expect("four bytes"));
        self.read(len as usize).await
    }

    /// Reads until the other side ends; what there was.
    pub async fn read_to_end(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        within(self.stream.read_to_end(&mut bytes)).await?;
        Ok(bytes)
    }

    /// Bytes that can be read now, without reading them.
    pub async fn peek(&self) -> Result<usize> {
        let mut buf = [0; 65536];
        within(self.stream.peek(&mut buf)).await
    }

    /// Ends the sending side: FIN.
    pub async fn finish(&mut self) -> Result<()> {
        within(self.stream.shutdown()).await
    }

    /// Resets the connection: RST.
    pub fn reset(self) {
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    /// Where the attached side is.
    pub fn addr(&self) -> SocketAddr {
        self.stream.peer_addr().expect("a connected stream")
    }

    /// The stream itself.
    pub fn into_inner(self) -> TcpStream {
        self.stream
    }
}

/// A listener on a free port, for peers that connect.
pub async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let addr = listener.local_addr().expect("a bound socket");
    (listener, addr)
}

async fn within<T>(io: impl Future<Output = io::Result<T>>) -> Result<T> {
    Ok(tokio::time::timeout(DEADLINE, io).await.context("not within the deadline")??)
}

/// Bytes that have arrived at a socket and were not read.
pub fn queued(stream: &impl std::os::fd::AsFd) -> Result<usize> {
    Ok(usize::try_from(rustix::io::ioctl_fionread(stream)?)?)
}
