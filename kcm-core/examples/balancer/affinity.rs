//! Affinity: each client has a backend connection of its own, for protocols whose
//! connections have a state (PostgreSQL sessions, MQTT subscriptions, Redis transactions).
//!
//! A session is two multiplexors with one connection each: whole messages go from one to the
//! other, and each direction has its own flow control, so a slow client slows down nobody
//! but its backend connection.

use std::{
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use kcm_core::{AttachOptions, Detached, KcmSocket, Parser, Psock, SocketType};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// What went through, over all sessions.
#[derive(Debug, Default)]
pub struct Counts {
    pub sessions: AtomicU64,
    pub requests: AtomicU64,
    pub replies: AtomicU64,
}

/// How sessions are served.
#[derive(Clone)]
pub struct Affinity {
    pub backends: Vec<SocketAddr>,
    pub parser: Parser,
    /// Answer PostgreSQL's requests for encryption here, with "no": the backend's answer is a
    /// single byte, which is no message.
    pub postgres: bool,
    pub counts: Arc<Counts>,
}

impl Affinity {
    /// Serves clients for as long as the listener does.
    pub async fn serve(self, listener: TcpListener) -> io::Result<()> {
        let mut next = 0;
        loop {
            let (client, peer) = listener.accept().await?;
            let backend = self.backends[next % self.backends.len()];
            next += 1;
            let this = self.clone();
            tokio::spawn(async move {
                if let Err(e) = this.session(client, backend).await {
                    eprintln!("{peer}: {e}");
                }
            });
        }
    }

    async fn session(&self, mut client: TcpStream, backend: SocketAddr) -> io::Result<()> {
        let initial = match self.postgres {
            true => refuse_encryption(&mut client).await?,
            false => Bytes::new(),
        };
        let backend = TcpStream::connect(backend).await?;
        self.counts.sessions.fetch_add(1, Ordering::Relaxed);

        // A side that ends its stream may still be answered.
        let options = || AttachOptions::new().half_close(true).max_message(1 << 30);
        let one = || KcmSocket::builder(SocketType::Dgram).end_with_psocks(true).build();
        let (front, back) = (one(), one());
        let client = front.attach_with(client, &self.parser, options().initial(initial))?;
        let server = back.attach_with(backend, &self.parser, options())?;

        self.relay(&front, &client, &back, &server).await;
        // Replies on their way to the client get there, if it still reads.
        tokio::select! {
            () = front.close() => {}
            _ = client.closed() => {}
        }
        Ok(())
    }

    /// Passes messages until the session is over: the backend has ended its stream, or the
    /// client is gone.
    async fn relay(&self, front: &KcmSocket, client: &Psock, back: &KcmSocket, server: &Psock) {
        let mut up = pin!(forward(front, back, &self.counts.requests));
        let mut down = pin!(forward(back, front, &self.counts.replies));
        tokio::select! {
            () = &mut down => return report("backend", server),
            _ = client.closed() => return report("client", client),
            () = &mut up => {}
        }
        // The client has ended its stream and waits for what is still to come. So is the
        // backend told, when it has everything.
        tokio::select! {
            _ = back.flush() => {}
            _ = server.closed() => {}
            _ = client.closed() => return report("client", client),
        }
        let rest = back.unattach(server.id());
        tokio::select! {
            () = &mut down => {}
            _ = client.closed() => return report("client", client),
        }
        if let Ok(Detached { mut stream, unread, .. }) = rest {
            tokio::select! {
                _ = the_rest(&mut stream, &unread, front) => {}
                _ = client.closed() => report("client", client),
            }
        }
    }
}

/// Passes whole messages on, as they came together, until no more can come.
async fn forward(from: &KcmSocket, to: &KcmSocket, count: &AtomicU64) {
    while let Ok(batch) = from.recv_batch().await {
        count.fetch_add(batch.len() as u64, Ordering::Relaxed);
        if to.send(batch.into_bytes()).await.is_err() {
            return;
        }
    }
}

/// Ends our side of the stream and passes on what still comes, as it comes.
async fn the_rest(stream: &mut TcpStream, unread: &[u8], front: &KcmSocket) -> io::Result<()> {
    stream.shutdown().await?;
    let mut bytes = BytesMut::from(unread);
    loop {
        front.send(bytes.split().freeze()).await?;
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
}

fn report(who: &str, psock: &Psock) {
    if let Some(cause) = psock.error().filter(|cause| !cause.is_clean()) {
        eprintln!("{who} {psock}: {cause}", psock = psock.id());
    }
}

/// Says no to SSLRequest and GSSENCRequest, and returns the bytes of the client's next message
/// that were read with it (PostgreSQL documentation, "SSL Session Encryption").
async fn refuse_encryption(client: &mut TcpStream) -> io::Result<Bytes> {
    loop {
        let mut head = [0; 8];
        client.read_exact(&mut head).await?;
        let is_request = matches!(head, [0, 0, 0, 8, 4, 210, 22, 47 | 48]);
        if !is_request {
            return Ok(Bytes::copy_from_slice(&head));
        }
        client.write_all(b"N").await?;
    }
}
