//! Senders that people write by hand, to be compared with.

use std::io::{IoSlice, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{self, Arc};

use anyhow::Result;
use bytes::Bytes;
use futures_util::SinkExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::tx::TxArgs;
use crate::wire::{HEAD, Until, messages};

async fn total(mut tasks: JoinSet<Result<u64>>) -> Result<u64> {
    let mut n = 0;
    while let Some(one) = tasks.join_next().await {
        n += one??;
    }
    Ok(n)
}

/// What most services do: one write a message.
pub(crate) async fn mutex(conns: Vec<TcpStream>, a: &TxArgs) -> Result<u64> {
    let conns: Arc<Vec<_>> = Arc::new(conns.into_iter().map(Mutex::new).collect());
    let next = Arc::new(AtomicUsize::new(0));
    let stop = Until::start(a.load.secs);
    let mut tasks = JoinSet::new();
    for _ in 0..a.producers {
        let (conns, next, m) = (conns.clone(), next.clone(), messages(a.load.size, 1));
        tasks.spawn(async move {
            let (mut n, mut until) = (0, Until::new(stop));
            while until.goes_on() {
                let i = next.fetch_add(1, Ordering::Relaxed) % conns.len();
                conns[i].lock().await.write_all(&m).await?;
                n += 1;
            }
            Ok(n)
        });
    }
    total(tasks).await
}

/// The same with a codec.
pub(crate) async fn framed(conns: Vec<TcpStream>, a: &TxArgs) -> Result<u64> {
    let open = |s| Mutex::new(Framed::new(s, LengthDelimitedCodec::new()));
    let conns: Arc<Vec<_>> = Arc::new(conns.into_iter().map(open).collect());
    let next = Arc::new(AtomicUsize::new(0));
    let stop = Until::start(a.load.secs);
    let mut tasks = JoinSet::new();
    for _ in 0..a.producers {
        let (conns, next) = (conns.clone(), next.clone());
        let m = Bytes::from(messages(a.load.size, 1)).slice(HEAD..);
        tasks.spawn(async move {
            let (mut n, mut until) = (0, Until::new(stop));
            while until.goes_on() {
                let i = next.fetch_add(1, Ordering::Relaxed) % conns.len();
                conns[i].lock().await.send(m.clone()).await?;
                n += 1;
            }
            Ok(n)
        });
    }
    total(tasks).await
}

/// A writer task per connection: takes up to 256 messages that wait, one write for them all.
pub(crate) async fn writers(conns: Vec<TcpStream>, a: &TxArgs, vectored: bool) -> Result<u64> {
    let mut to = Vec::new();
    let mut writers = JoinSet::new();
    for mut s in conns {
        let (tx, mut rx) = mpsc::channel::<Bytes>(1024);
        to.push(tx);
        writers.spawn(async move {
            let mut queue = Vec::with_capacity(256);
            let mut flat = Vec::new();
            while rx.recv_many(&mut queue, 256).await > 0 {
                if vectored {
                    let mut iov: Vec<_> = queue.iter().map(|m| IoSlice::new(m)).collect();
                    let mut left = &mut iov[..];
                    while !left.is_empty() {
                        let n = s.write_vectored(left).await?;
                        IoSlice::advance_slices(&mut left, n);
                    }
                    queue.clear();
                } else {
                    flat.clear();
                    for m in queue.drain(..) {
                        flat.extend_from_slice(&m);
                    }
                    s.write_all(&flat).await?;
                }
            }
            Ok(0)
        });
    }
    let next = Arc::new(AtomicUsize::new(0));
    let stop = Until::start(a.load.secs);
    let mut tasks = JoinSet::new();
    for _ in 0..a.producers {
        let (to, next, m) = (to.clone(), next.clone(), Bytes::from(messages(a.load.size, 1)));
        tasks.spawn(async move {
            let (mut n, mut until) = (0, Until::new(stop));
            while until.goes_on() {
                let i = next.fetch_add(1, Ordering::Relaxed) % to.len();
                to[i].send(m.clone()).await?;
                n += 1;
            }
            Ok(n)
        });
    }
    drop(to);
    let n = total(tasks).await?;
    total(writers).await?;
    Ok(n)
}

/// One connection of [`combining`].
struct Combined {
    buf: sync::Mutex<Gathered>,
    room: sync::Condvar,
    stream: std::net::TcpStream,
}

#[derive(Default)]
struct Gathered {
    bytes: Vec<u8>,
    /// Somebody writes what was gathered before.
    writing: bool,
}

/// Bytes that are gathered before they are written, and that may be gathered meanwhile.
const GATHER: usize = 32 * 1024;
const GATHER_MAX: usize = 256 * 1024;

/// Messages that one connection gets before it is the next one's turn.
const AFFINITY: usize = 64;

/// Threads and buffers, nothing else; see [`crate::tx::TxVariant::Combining`].
pub(crate) fn combining(a: &TxArgs) -> Result<u64> {
    let open =
        |stream| Combined { buf: sync::Mutex::default(), room: sync::Condvar::new(), stream };
    let conns: Vec<Combined> = a.load.connect()?.into_iter().map(open).collect();
    let next = AtomicUsize::new(0);
    let stop = Until::start(a.load.secs);
    let total = std::thread::scope(|scope| {
        let producer = || -> Result<u64> {
            let m = messages(a.load.size, 1);
            let (mut n, mut until) = (0, Until::new(stop));
            let mut mine = Vec::with_capacity(GATHER_MAX + m.len());
            while until.goes_on() {
                let i = (next.fetch_add(1, Ordering::Relaxed) / AFFINITY) % conns.len();
                conns[i].add(&m, &mut mine)?;
                n += 1;
            }
            Ok(n)
        };
        let threads: Vec<_> = (0..a.producers).map(|_| scope.spawn(producer)).collect();
        let mut n = 0;
        for t in threads {
            n += t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok::<_, anyhow::Error>(n)
    })?;
    for c in conns {
        let rest = c.buf.into_inner().unwrap_or_else(sync::PoisonError::into_inner);
        (&c.stream).write_all(&rest.bytes)?;
    }
    Ok(total)
}

impl Combined {
    fn add(&self, message: &[u8], mine: &mut Vec<u8>) -> Result<()> {
        let lock = || self.buf.lock().unwrap_or_else(sync::PoisonError::into_inner);
        let mut g = lock();
        while g.bytes.len() >= GATHER_MAX && g.writing {
            g = self.room.wait(g).unwrap_or_else(sync::PoisonError::into_inner);
        }
        g.bytes.extend_from_slice(message);
        if g.writing || g.bytes.len() < GATHER {
            return Ok(());
        }
        g.writing = true;
        std::mem::swap(&mut g.bytes, mine);
        drop(g);
        let wrote = (&self.stream).write_all(mine);
        mine.clear();
        lock().writing = false;
        self.room.notify_all();
        Ok(wrote?)
    }
}
