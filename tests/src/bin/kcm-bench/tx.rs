//! `kcm-bench tx`: M producers, N connections, each message whole on one of them, by our own
//! sockets or by one of the peers. The other end is any `serve`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use bytes::Bytes;
use futures_util::SinkExt;
use kcm_tests::streams::native;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::kcm;
use crate::wire::{HEAD, Tally, Until, connect, messages};

/// Options of `kcm-bench tx`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct TxArgs {
    /// Who sends
    #[arg(long, value_enum, default_value_t = TxVariant::Kcm)]
    pub(crate) variant: TxVariant,
    /// The server's port on 127.0.0.1
    #[arg(long)]
    pub(crate) port: u16,
    /// Connections
    #[arg(long, default_value_t = 1)]
    pub(crate) conns: usize,
    /// Producers
    #[arg(long, default_value_t = 1)]
    pub(crate) producers: usize,
    /// Payload bytes of a message
    #[arg(long, default_value_t = 64)]
    pub(crate) size: usize,
    /// Seconds
    #[arg(long, default_value_t = 1.0)]
    pub(crate) secs: f64,
}

/// A sender.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TxVariant {
    /// KCM sockets, one per producer
    Kcm,
    /// `Mutex<TcpStream>` per connection, round robin
    Mutex,
    /// `Mutex<Framed>` per connection, round robin
    Framed,
    /// A writer task per connection behind a channel: copy, one write for all that waits
    Mpsc,
}

/// Sends for a time, then waits until everything has left.
pub(crate) fn run(a: &TxArgs) -> Result<()> {
    let rt = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let msgs = rt.block_on(async {
        let mut conns = Vec::new();
        for s in connect(a.port, a.conns)? {
            s.set_nonblocking(true)?;
            conns.push(TcpStream::from_std(s)?);
        }
        match a.variant {
            // Nothing is received: no parser is ever asked.
            TxVariant::Kcm => kcm::send(conns, a, &native("thrift")).await,
            TxVariant::Mutex => mutex(conns, a).await,
            TxVariant::Framed => framed(conns, a).await,
            TxVariant::Mpsc => writers(conns, a).await,
        }
    })?;
    // Every message carries the number 0.
    Tally { msgs, bytes: msgs * (HEAD + a.size) as u64, sum: 0 }.print_sent("");
    Ok(())
}

async fn total(mut tasks: JoinSet<Result<u64>>) -> Result<u64> {
    let mut n = 0;
    while let Some(one) = tasks.join_next().await {
        n += one??;
    }
    Ok(n)
}

async fn mutex(conns: Vec<TcpStream>, a: &TxArgs) -> Result<u64> {
    let conns: Arc<Vec<_>> = Arc::new(conns.into_iter().map(Mutex::new).collect());
    let next = Arc::new(AtomicUsize::new(0));
    let stop = Until::start(a.secs);
    let mut tasks = JoinSet::new();
    for _ in 0..a.producers {
        let (conns, next, m) = (conns.clone(), next.clone(), messages(a.size, 1));
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

async fn framed(conns: Vec<TcpStream>, a: &TxArgs) -> Result<u64> {
    let open = |s| Mutex::new(Framed::new(s, LengthDelimitedCodec::new()));
    let conns: Arc<Vec<_>> = Arc::new(conns.into_iter().map(open).collect());
    let next = Arc::new(AtomicUsize::new(0));
    let stop = Until::start(a.secs);
    let mut tasks = JoinSet::new();
    for _ in 0..a.producers {
        let (conns, next) = (conns.clone(), next.clone());
        let m = Bytes::from(messages(a.size, 1)).slice(HEAD..);
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

async fn writers(conns: Vec<TcpStream>, a: &TxArgs) -> Result<u64> {
    let mut to = Vec::new();
    let mut writers = JoinSet::new();
    for mut s in conns {
        let (tx, mut rx) = mpsc::channel::<Bytes>(1024);
        to.push(tx);
        writers.spawn(async move {
            let mut queue = Vec::with_capacity(256);
            let mut flat = Vec::new();
            while rx.recv_many(&mut queue, 256).await > 0 {
                flat.clear();
                for m in queue.drain(..) {
                    flat.extend_from_slice(&m);
                }
                s.write_all(&flat).await?;
            }
            Ok(0)
        });
    }
    let next = Arc::new(AtomicUsize::new(0));
    let stop = Until::start(a.secs);
    let mut tasks = JoinSet::new();
    for _ in 0..a.producers {
        let (to, next, m) = (to.clone(), next.clone(), Bytes::from(messages(a.size, 1)));
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
