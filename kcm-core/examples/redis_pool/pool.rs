//! A pool of Redis connections behind one multiplexor, shared by any number of tasks.
//!
//! Redis answers the requests of a connection in their order, so that is how replies are
//! matched: each connection has a queue of those who wait for its next replies. A request
//! names its connection (`send_to`), chosen as the one with the shortest queue; the reply
//! says which connection it came on (`Message::psock`). Requests of many tasks leave together
//! in one write when the connection is busy, and their replies come back as one batch: that
//! is where a pool like this beats one connection per task.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use kcm_core::{
    AttachOptions, Batch, Events, KcmSocket, Parser, PsockError, PsockEvent, PsockId, SendError,
    SocketType,
};
use tokio::{net::TcpStream, sync::oneshot};

/// Why a request has no reply.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RequestError {
    /// The connection ended before the reply came. Whether the request was carried out is not
    /// known.
    #[error("the connection ended before the reply: {0}")]
    Connection(PsockError),
    /// No connection is there now; the pool goes on trying.
    #[error("no connection to the server")]
    NoConnection,
    /// The pool is gone.
    #[error("the pool is closed")]
    Closed,
}

type Reply = Result<Bytes, RequestError>;

struct Shared {
    socket: KcmSocket,
    parser: Parser,
    server: SocketAddr,
    /// By connection: who waits for its replies, the next first.
    waiting: Mutex<BTreeMap<PsockId, VecDeque<oneshot::Sender<Reply>>>>,
    closed: AtomicBool,
}

/// The pool. Cloning it is cheap; the connections close with its last clone.
#[derive(Clone)]
pub struct Pool(Arc<Closing>);

/// Ends the tasks with the pool.
struct Closing(Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Relaxed);
        for psock in self.0.socket.psocks() {
            let _ = self.0.socket.unattach(psock.id());
        }
    }
}

impl Pool {
    /// Connects so many times. One that fails later is replaced.
    pub async fn connect(
        server: SocketAddr,
        connections: usize,
        parser: Parser,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            socket: KcmSocket::builder(SocketType::Dgram).send_buffer(4 << 20).build(),
            parser,
            server,
            waiting: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        // Watched from before anything is attached, or a failure could come before its watcher.
        let events = shared.socket.events();
        for _ in 0..connections {
            shared.connect().await?;
        }
        tokio::spawn(distribute(Arc::downgrade(&shared), events));
        Ok(Pool(Arc::new(Closing(shared))))
    }

    /// Sends one request, as the words of a command, and waits for its reply: the bytes of one
    /// whole RESP value.
    ///
    /// Dropping the future does not take the request back; its reply is then dropped.
    pub async fn request(&self, command: &[&[u8]]) -> Reply {
        self.raw(encode(command)).await
    }

    /// As [`request`](Self::request), with the bytes of the request.
    pub async fn raw(&self, request: Bytes) -> Reply {
        let shared = &self.0.0;
        let reply = loop {
            if let Some(reply) = shared.try_send(&request)? {
                break reply;
            }
            shared.socket.writable().await;
        };
        reply.await.unwrap_or(Err(RequestError::Closed))
    }

    /// Connections there are now.
    pub fn connections(&self) -> usize {
        self.0.0.waiting().len()
    }

    /// The multiplexor, to look at.
    pub fn socket(&self) -> &KcmSocket {
        &self.0.0.socket
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<PsockId, VecDeque<oneshot::Sender<Reply>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self) -> io::Result<()> {
        let stream = TcpStream::connect(self.server).await?;
        // Replies as large as Redis allows.
        let options = AttachOptions::new().max_message(512 << 20).max_header(16 << 20);
        let psock = self.socket.attach_with(stream, &self.parser, options)?;
        self.waiting().insert(psock.id(), VecDeque::new());
        Ok(())
    }

    /// Sends on the connection with the shortest queue. None: the send buffer is full.
    ///
    /// The lock makes the order in the queue that on the wire.
    fn try_send(&self, request: &Bytes) -> Result<Option<oneshot::Receiver<Reply>>, RequestError> {
        let mut waiting = self.waiting();
        loop {
            let shortest = waiting.iter_mut().min_by_key(|(_, queue)| queue.len());
            let (&psock, queue) = shortest.ok_or(RequestError::NoConnection)?;
            match self.socket.try_send_to(psock, request) {
                Ok(_) => {
                    let (tx, rx) = oneshot::channel();
                    queue.push_back(tx);
                    return Ok(Some(rx));
                }
                Err(SendError::WouldBlock) => return Ok(None),
                Err(error) => {
                    // It has just failed: those who wait on it are told by its event.
                    let cause = match error {
                        SendError::Psock(cause) => cause,
                        _ => PsockError::Unattached,
                    };
                    fail(waiting.remove(&psock).unwrap_or_default(), &cause);
                }
            }
        }
    }

    fn distribute(&self, batch: &Batch) {
        let mut waiting = self.waiting();
        let Some(queue) = waiting.get_mut(&batch.psock()) else { return };
        for message in batch.clone() {
            match queue.pop_front() {
                // Whoever asked may not wait any more.
                Some(asked) => drop(asked.send(Ok(message.into_bytes()))),
                None => eprintln!("{}: a reply that nobody asked for", batch.psock()),
            }
        }
    }
}

fn fail(queue: VecDeque<oneshot::Sender<Reply>>, cause: &PsockError) {
    for asked in queue {
        let _ = asked.send(Err(RequestError::Connection(cause.clone())));
    }
}

/// Hands replies to those who wait for them, and replaces connections that failed.
async fn distribute(pool: Weak<Shared>, mut events: Events) {
    loop {
        let Some(shared) = pool.upgrade().filter(|s| !s.closed.load(Ordering::Relaxed)) else {
            return;
        };
        let event = tokio::select! {
            biased;
            batch = shared.socket.recv_batch() => {
                let Ok(batch) = batch else { return };
                shared.distribute(&batch);
                continue;
            }
            event = events.next() => event,
        };
        match event {
            None => return,
            Some(PsockEvent::Failed { psock, cause, .. }) => {
                // Replies that came whole before the end are replies.
                while let Ok(batch) = shared.socket.try_recv_batch() {
                    shared.distribute(&batch);
                }
                fail(shared.waiting().remove(&psock).unwrap_or_default(), &cause);
                let _ = shared.socket.unattach(psock);
                tokio::spawn(reconnect(Arc::downgrade(&shared)));
            }
            Some(_) => {}
        }
    }
}

async fn reconnect(pool: Weak<Shared>) {
    let mut pause = Duration::from_millis(10);
    while let Some(shared) = pool.upgrade().filter(|s| !s.closed.load(Ordering::Relaxed)) {
        if shared.connect().await.is_ok() {
            return;
        }
        drop(shared);
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(Duration::from_secs(2));
    }
}

/// A command as Redis wants it: an array of bulk strings.
pub fn encode(command: &[&[u8]]) -> Bytes {
    let mut request = format!("*{}\r\n", command.len()).into_bytes();
    for word in command {
        request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        request.extend_from_slice(word);
        request.extend_from_slice(b"\r\n");
    }
    request.into()
}
