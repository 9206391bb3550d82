//! Our own receiver and sender.

use anyhow::{Context, Result};
use bytes::Bytes;
use kcm_core::delineate::Delineate;
use kcm_core::{AttachOptions, KcmSocket, RecvError, SocketType};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::serve::ServeArgs;
use crate::tx::{TxArgs, TxVariant};
use crate::wire::{HEAD, Tally, Until, messages, wants_answer};

/// A KCM socket's receive buffer: eight reads. More would fall out of the cache.
const RECV_BUFFER: usize = 1 << 20;

/// How a consumer takes messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    /// `recv_batch`.
    Batches,
    /// `recv`, one await and one reference count each.
    Messages,
}

/// One multiplexor with the connections attached, and a socket for each worker.
pub(crate) fn sockets<P>(
    conns: Vec<TcpStream>,
    parser: &P,
    workers: usize,
    size: usize,
) -> Result<Vec<KcmSocket>>
where
    P: Delineate + Clone + 'static,
{
    // Room for some blocks at each socket, as the hand-written peers have in their channels.
    let first = KcmSocket::builder(SocketType::Dgram).recv_buffer(RECV_BUFFER).build();
    let mut sockets = Vec::new();
    for _ in 1..workers {
        sockets.push(first.try_clone()?);
    }
    sockets.push(first);
    // Larger than the receive buffer only if the messages are.
    let options = AttachOptions::new().max_message((HEAD + size).max(1 << 20) as u32);
    for stream in conns {
        sockets[0].attach_with(stream, parser, options.clone())?;
    }
    for s in &sockets {
        s.set_end_with_psocks(true);
    }
    Ok(sockets)
}

/// Receives until every connection has ended.
pub(crate) async fn receive<P>(
    conns: Vec<TcpStream>,
    a: &ServeArgs,
    parser: &P,
    take: Take,
) -> Result<Tally>
where
    P: Delineate + Clone + 'static,
{
    let mut tasks = JoinSet::new();
    let sockets = sockets(conns, parser, a.consumers, a.size)?;
    a.announce();
    for socket in sockets {
        let (echo, stamp) = (a.echo, a.announce);
        tasks.spawn(async move {
            match take {
                Take::Batches => batches(&socket, echo, stamp).await,
                Take::Messages => one_by_one(&socket, echo).await,
            }
        });
    }
    let mut total = Tally::default();
    while let Some(t) = tasks.join_next().await {
        total.add(t??);
    }
    Ok(total)
}

async fn batches(socket: &KcmSocket, echo: bool, stamp: bool) -> Result<Tally> {
    let mut t = Tally::default();
    loop {
        match socket.recv_batch().await {
            Ok(batch) => {
                for m in &batch {
                    t.eat(m.get(HEAD..).context("a message shorter than its head")?);
                }
                if stamp {
                    t.stamp();
                }
                if echo {
                    let psock = batch.psock();
                    for m in batch {
                        if wants_answer(&m[HEAD..]) {
                            socket.send_to(psock, m.into_bytes()).await?;
                        }
                    }
                }
            }
            Err(RecvError::NoPsockLeft) => return Ok(t),
            Err(e) => return Err(e.into()),
        }
    }
}

async fn one_by_one(socket: &KcmSocket, echo: bool) -> Result<Tally> {
    let mut t = Tally::default();
    loop {
        match socket.recv().await {
            Ok(m) => {
                t.eat(m.get(HEAD..).context("a message shorter than its head")?);
                if echo && wants_answer(&m[HEAD..]) {
                    socket.send_to(m.psock(), m.into_bytes()).await?;
                }
            }
            Err(RecvError::NoPsockLeft) => return Ok(t),
            Err(e) => return Err(e.into()),
        }
    }
}

/// Messages of one `send_many`.
const MANY: usize = 64;

/// Larger messages are sent as shared ones, smaller ones as borrowed.
const LARGE: usize = 4096;

/// Sends with a socket for each producer; returns how many messages.
pub(crate) async fn send<P>(conns: Vec<TcpStream>, a: &TxArgs, parser: &P) -> Result<u64>
where
    P: Delineate + Clone + 'static,
{
    let sockets = sockets(conns, parser, a.producers, a.load.size)?;
    let stop = Until::start(a.load.secs);
    let many = a.variant == TxVariant::KcmMany;
    let mut tasks = JoinSet::new();
    for socket in sockets {
        let m = Bytes::from(messages(a.load.size, 1));
        tasks.spawn(async move {
            let (mut n, mut until) = (0u64, Until::new(stop));
            if many {
                let chunk = vec![m; MANY];
                // As below.
                let large = chunk.iter().any(|m| m.len() > LARGE);
                while until.not_over() {
                    n += match large {
                        true => socket.send_many(chunk.iter().cloned()).await?,
                        false => socket.send_many(&chunk).await?,
                    } as u64;
                }
            } else {
                while until.goes_on() {
                    // Small messages are copied: a reference would only be counted.
                    let sent = match m.len() > LARGE {
                        true => socket.send(m.clone()).await?,
                        false => socket.send(&m).await?,
                    };
                    n += u64::from(sent == m.len());
                }
            }
            socket.flush().await?;
            Ok::<_, anyhow::Error>((n, socket))
        });
    }
    let mut total = 0;
    let mut sockets = Vec::new();
    while let Some(one) = tasks.join_next().await {
        // Kept until the last has sent all: the connections close with the last socket.
        let (n, socket) = one??;
        total += n;
        sockets.push(socket);
    }
    for s in sockets {
        s.close().await;
    }
    Ok(total)
}
