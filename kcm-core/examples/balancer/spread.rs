//! Spreading: the requests of all clients go, message by message, to whichever backend
//! connection has least to do, and each reply finds its way back. For protocols in which each
//! request has one reply, replies come in the order of the requests, and connections have no
//! state.
//!
//! Each client gets its replies in the order of its requests, although different backends
//! answered: a reply that is early waits for those before it.
//!
//! Two multiplexors: the clients' and the backends'. One task takes requests, one takes
//! replies, in batches; more cores are used by more such pairs (`shards`).

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use kcm_core::{
    AttachOptions, Batch, Events, KcmSocket, Parser, Psock, PsockEvent, PsockId, SendError,
    SocketType,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
};

/// How messages are spread.
#[derive(Clone, Debug)]
pub struct Spread {
    pub backends: Vec<SocketAddr>,
    /// Connections to each backend, per shard.
    pub connections: usize,
    pub shards: usize,
    pub parser: Parser,
}

/// What went through.
#[derive(Debug, Default)]
pub struct Counts {
    pub clients: AtomicU64,
    pub requests: AtomicU64,
    pub replies: AtomicU64,
}

struct Shard {
    front: KcmSocket,
    back: KcmSocket,
    parser: Parser,
    state: Mutex<State>,
    /// A backend connection was made.
    connected: Notify,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct State {
    clients: HashMap<PsockId, Client>,
    backends: BTreeMap<PsockId, Backend>,
}

#[derive(Default)]
struct Client {
    /// Replies owed, in the order of the requests; those that are here already are early.
    owed: VecDeque<Option<Bytes>>,
    /// The number of the first of them.
    first: u64,
    /// It has ended its stream: closed when nothing is owed any more.
    ending: bool,
}

struct Backend {
    address: SocketAddr,
    /// Takes no more requests.
    failed: bool,
    /// Whose its next replies are, and which of theirs.
    owes: VecDeque<(PsockId, u64)>,
}

impl Spread {
    /// Serves clients for as long as the listener does.
    pub async fn serve(self, listener: TcpListener, counts: Arc<Counts>) -> io::Result<()> {
        let mut shards = Vec::new();
        for _ in 0..self.shards.max(1) {
            shards.push(self.shard(counts.clone()).await?);
        }
        for shard in shards.iter().cycle() {
            let (client, peer) = listener.accept().await?;
            if let Err(refused) = shard.admit(client) {
                eprintln!("{peer}: {refused}");
            }
        }
        Ok(())
    }

    async fn shard(&self, counts: Arc<Counts>) -> io::Result<Arc<Shard>> {
        let socket = || {
            KcmSocket::builder(SocketType::Dgram)
                .recv_buffer(1 << 20)
                .send_buffer(1 << 20)
                // A peer that does not read would in the end hold up all others.
                .stall_deadline(Some(Duration::from_secs(30)))
                .build()
        };
        let shard = Arc::new(Shard {
            front: socket(),
            back: socket(),
            parser: self.parser.clone(),
            state: Mutex::default(),
            connected: Notify::new(),
            counts,
        });
        // Watched from before anything is attached, or an event could come before its watcher.
        let (clients, backends) = (shard.front.events(), shard.back.events());
        // Backends take turns, so that the first requests of a shard are spread as well.
        for _ in 0..self.connections.max(1) {
            for &backend in &self.backends {
                shard.connect(backend).await?;
            }
        }
        tokio::spawn(requests(shard.clone(), clients));
        tokio::spawn(replies(shard.clone(), backends));
        Ok(shard)
    }
}

impl Shard {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(&self, client: TcpStream) -> Result<(), kcm_core::AttachError> {
        let options = AttachOptions::new().half_close(true).max_message(1 << 30);
        // Under the lock: its first message must find it.
        let mut state = self.state();
        let client = self.front.attach_with(client, &self.parser, options)?;
        state.clients.insert(client.id(), Client::default());
        self.counts.clients.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<()> {
        let stream = TcpStream::connect(address).await?;
        let options = AttachOptions::new().max_message(1 << 30).max_header(16 << 20);
        let psock = self.back.attach_with(stream, &self.parser, options)?;
        self.state()
            .backends
            .insert(psock.id(), Backend { address, failed: false, owes: VecDeque::new() });
        self.connected.notify_waiters();
        Ok(())
    }

    /// Sends a client's requests on, each to the connection that has least to do.
    async fn pass_on(&self, batch: Batch) {
        let client = batch.psock();
        self.counts.requests.fetch_add(batch.len() as u64, Ordering::Relaxed);
        for request in batch {
            let request = request.into_bytes();
            loop {
                let connected = self.connected.notified();
                match self.try_pass_on(client, &request) {
                    Ok(()) => break,
                    Err(SendError::WouldBlock) => self.back.writable().await,
                    // No backend at the moment: requests wait, and clients with them.
                    Err(_) => connected.await,
                }
            }
        }
    }

    fn try_pass_on(&self, client: PsockId, request: &Bytes) -> Result<(), SendError> {
        let State { clients, backends } = &mut *self.state();
        // Gone meanwhile: nobody waits for the reply.
        let Some(owed) = clients.get_mut(&client) else { return Ok(()) };
        loop {
            let usable = backends.iter_mut().filter(|(_, backend)| !backend.failed);
            let least = usable.min_by_key(|(_, backend)| backend.owes.len());
            let Some((&id, backend)) = least else { return Err(SendError::Closed) };
            match self.back.try_send_to(id, request) {
                Ok(_) => {
                    backend.owes.push_back((client, owed.first + owed.owed.len() as u64));
                    owed.owed.push_back(None);
                    return Ok(());
                }
                Err(SendError::WouldBlock) => return Err(SendError::WouldBlock),
                // It has just failed, and its event is under way.
                Err(_) => backend.failed = true,
            }
        }
    }

    /// Hands replies to the clients they are for, or keeps those that are early.
    async fn hand_out(self: &Arc<Self>, batch: Batch) {
        self.counts.replies.fetch_add(batch.len() as u64, Ordering::Relaxed);
        let mut ready: Vec<(PsockId, Bytes)> = Vec::with_capacity(batch.len());
        let mut done = Vec::new();
        {
            let State { clients, backends } = &mut *self.state();
            let Some(backend) = backends.get_mut(&batch.psock()) else { return };
            for reply in batch {
                let Some((id, number)) = backend.owes.pop_front() else {
                    eprintln!("{}: a reply that nobody asked for", reply.psock());
                    continue;
                };
                // A client that is gone wants no reply.
                let Some(client) = clients.get_mut(&id) else { continue };
                let place = (number - client.first) as usize;
                if let Some(place) = client.owed.get_mut(place) {
                    *place = Some(reply.into_bytes());
                }
                while let Some(Some(reply)) = client.owed.front_mut().map(Option::take) {
                    client.owed.pop_front();
                    client.first += 1;
                    ready.push((id, reply));
                }
                if client.ending && client.owed.is_empty() {
                    done.push(id);
                }
            }
        }
        for (client, reply) in ready {
            // It may be gone by now.
            let _ = self.front.send_to(client, reply).await;
        }
        for client in done {
            self.finish(client);
        }
    }

    /// A client that has ended its stream has all its replies: close it when they are out.
    fn finish(self: &Arc<Self>, id: PsockId) {
        self.state().clients.remove(&id);
        let shard = self.clone();
        tokio::spawn(async move {
            let client = shard.front.psocks().into_iter().find(|p| p.id() == id);
            while client.as_ref().and_then(Psock::stats).is_some_and(|s| s.queued_msgs > 0) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            // Closed by being dropped.
            let _ = shard.front.unattach(id);
        });
    }

    fn client_event(self: &Arc<Self>, event: PsockEvent) {
        match event {
            PsockEvent::HalfClosed { psock } => {
                let done = match self.state().clients.get_mut(&psock) {
                    Some(client) => {
                        client.ending = true;
                        client.owed.is_empty()
                    }
                    None => false,
                };
                if done {
                    self.finish(psock);
                }
            }
            PsockEvent::Failed { psock, cause, .. } => {
                if !cause.is_clean() {
                    eprintln!("client {psock}: {cause}");
                }
                self.state().clients.remove(&psock);
                let _ = self.front.unattach(psock);
            }
            _ => {}
        }
    }

    /// A backend connection failed: the replies it owed will not come, and what its requests
    /// did is not known. So their clients' connections end, as if each had been connected to
    /// it; everybody else goes on. A new connection is made.
    fn backend_failed(self: &Arc<Self>, psock: PsockId, cause: &kcm_core::PsockError) {
        eprintln!("backend {psock}: {cause}");
        let _ = self.back.unattach(psock);
        let Some(backend) = self.state().backends.remove(&psock) else { return };
        for (client, _) in backend.owes {
            if self.state().clients.remove(&client).is_some() {
                let _ = self.front.unattach(client);
            }
        }
        let this = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut pause = Duration::from_millis(10);
            while let Some(shard) = this.upgrade() {
                if shard.connect(backend.address).await.is_ok() {
                    return;
                }
                drop(shard);
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(Duration::from_secs(2));
            }
        });
    }
}

/// Takes requests, and looks after the clients.
async fn requests(shard: Arc<Shard>, mut events: Events) {
    loop {
        tokio::select! {
            biased;
            batch = shard.front.recv_batch() => match batch {
                Ok(batch) => shard.pass_on(batch).await,
                Err(_) => return,
            },
            event = events.next() => {
                // What came before the event is in the queue by now.
                while let Ok(batch) = shard.front.try_recv_batch() {
                    shard.pass_on(batch).await;
                }
                let Some(event) = event else { return };
                shard.client_event(event);
            }
        }
    }
}

/// Takes replies, and looks after the backends.
async fn replies(shard: Arc<Shard>, mut events: Events) {
    loop {
        tokio::select! {
            biased;
            batch = shard.back.recv_batch() => match batch {
                Ok(batch) => shard.hand_out(batch).await,
                Err(_) => return,
            },
            event = events.next() => {
                while let Ok(batch) = shard.back.try_recv_batch() {
                    shard.hand_out(batch).await;
                }
                match event {
                    Some(PsockEvent::Failed { psock, cause, .. }) => {
                        shard.backend_failed(psock, &cause);
                    }
                    Some(_) => {}
                    None => return,
                }
            }
        }
    }
}
