//! Counts per message socket and per connection, written by many tasks, read by the display.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::Instant;

use kcm_core::{Psock, PsockError, PsockId};

/// Messages and bytes.
#[derive(Debug, Default)]
pub(crate) struct Count {
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl Count {
    pub(crate) fn add(&self, messages: u64, bytes: u64) {
        self.messages.fetch_add(messages, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Conn {
    /// In order of first appearance, from 0.
    pub(crate) number: usize,
    pub(crate) count: Count,
    pub(crate) shortest: AtomicU64,
    pub(crate) longest: AtomicU64,
    peer: OnceLock<SocketAddr>,
    end: Mutex<Option<PsockError>>,
}

impl Conn {
    /// The peer's address, or `?` while it is not known.
    pub(crate) fn peer(&self) -> String {
        self.peer.get().map_or_else(|| "?".into(), SocketAddr::to_string)
    }

    /// Why the connection is out of use, if it is.
    pub(crate) fn end(&self) -> Option<PsockError> {
        self.end.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// What to show of its state.
    pub(crate) fn state(&self) -> String {
        match self.end() {
            None => "open".into(),
            Some(PsockError::Eof) => "ended".into(),
            Some(cause) => format!("FAILED: {cause}"),
        }
    }
}

/// All counts.
#[derive(Debug)]
pub(crate) struct Board {
    pub(crate) started: Instant,
    pub(crate) sockets: Vec<Count>,
    conns: RwLock<Conns>,
}

#[derive(Debug, Default)]
struct Conns {
    by_id: HashMap<PsockId, Arc<Conn>>,
    all: Vec<Arc<Conn>>,
}

impl Board {
    pub(crate) fn new(sockets: usize) -> Arc<Board> {
        Arc::new(Board {
            started: Instant::now(),
            sockets: (0..sockets).map(|_| Count::default()).collect(),
            conns: RwLock::default(),
        })
    }

    /// The connection of that name; made known if it is not: a message may be received before
    /// whoever attached its connection gets to say so.
    pub(crate) fn conn(&self, id: PsockId) -> Arc<Conn> {
        if let Some(c) = self.conns.read().unwrap_or_else(|e| e.into_inner()).by_id.get(&id) {
            return c.clone();
        }
        let mut conns = self.conns.write().unwrap_or_else(|e| e.into_inner());
        let Conns { by_id, all } = &mut *conns;
        let new = || {
            let conn = Arc::new(Conn {
                number: all.len(),
                count: Count::default(),
                shortest: AtomicU64::new(u64::MAX),
                longest: AtomicU64::new(0),
                peer: OnceLock::new(),
                end: Mutex::default(),
            });
            all.push(conn.clone());
            conn
        };
        by_id.entry(id).or_insert_with(new).clone()
    }

    /// Makes an attached connection known.
    pub(crate) fn attached(&self, psock: &Psock) -> Arc<Conn> {
        let conn = self.conn(psock.id());
        if let Ok(peer) = psock.peer_addr() {
            let _ = conn.peer.set(peer);
        }
        conn
    }

    /// Notes how a connection ended.
    pub(crate) fn ended(&self, id: PsockId, cause: PsockError) {
        *self.conn(id).end.lock().unwrap_or_else(|e| e.into_inner()) = Some(cause);
    }

    /// All connections, in order of appearance.
    pub(crate) fn conns(&self) -> Vec<Arc<Conn>> {
        self.conns.read().unwrap_or_else(|e| e.into_inner()).all.clone()
    }

    /// Sums over all sockets.
    pub(crate) fn total(&self) -> (u64, u64) {
        let sum = |f: fn(&Count) -> u64| self.sockets.iter().map(f).sum();
        (sum(Count::messages), sum(Count::bytes))
    }
}
