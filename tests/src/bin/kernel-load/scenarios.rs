//! What is done to an engine.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use kcm_core::{AttachOptions, Engine, KcmSocket, Psock, PsockError, SocketType};
use kcm_tests::codec::{Be32, numbered};
use kcm_tests::harness::Rng;
use kcm_tests::peer::{Peer, pair};
use tokio::task::JoinSet;

use crate::flow::{Check, Flow, PATIENCE};

/// What scenarios are made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) engine: Engine,
    pub(crate) messages: u32,
    pub(crate) seed: u64,
}

type Ended = Pin<Box<dyn Future<Output = Result<String>> + Send>>;

/// A name, and what is done; says what held.
pub(crate) type Scenario = fn(Plan) -> Ended;

pub(crate) const ALL: &[(&str, Scenario)] = &[
    ("split writes", |p| Box::pin(split_writes(p))),
    ("lagging readers", |p| Box::pin(lagging_readers(p))),
    ("ring overrun", |p| Box::pin(overrun(p))),
    ("resets", |p| Box::pin(resets(p))),
    ("many messages", |p| Box::pin(many_messages(p))),
];

/// The longest message, and what may be under way of one connection: together far below the
/// ring.
const LONGEST: usize = 64 << 10;
const UNDER_WAY: u64 = 256 << 10;

fn options(plan: Plan) -> AttachOptions {
    AttachOptions::new().engine(plan.engine).max_message(LONGEST as u32)
}

async fn connect(plan: Plan, socket: &KcmSocket) -> Result<(Peer, Psock)> {
    let (peer, stream) = pair().await;
    let psock =
        socket.attach_with(stream, &Be32, options(plan)).map_err(|e| anyhow!("attach: {e}"))?;
    Ok((peer, psock))
}

/// How a sender cuts what it writes.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// Anywhere, in pieces of a few bytes up to some KiB: a segment each.
    Anywhere,
    /// Many messages in one write.
    Bursts,
}

/// Sends `count` messages as connection `conn`, no more than `most` bytes under way.
async fn send(
    mut peer: Peer,
    flow: Arc<Flow>,
    (conn, count): (u32, u32),
    most: u64,
    longest: usize,
    cut: Cut,
    mut rng: Rng,
) -> Result<()> {
    let (mut sent, mut seq) = (0u64, 0);
    while seq < count {
        let mut bytes = Vec::new();
        let share = match cut {
            Cut::Anywhere => 8 << 10,
            Cut::Bursts => 32 << 10,
        };
        while seq < count && bytes.len() < share {
            // Most are small, some are large.
            let len = if rng.below(16) == 0 { rng.below(longest) } else { rng.below(256) };
            bytes.extend(numbered(conn, seq, len));
            seq += 1;
        }
        flow.below(most, sent).await?;
        sent += bytes.len() as u64;
        match cut {
            Cut::Bursts => peer.send(&bytes).await?,
            Cut::Anywhere => {
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let n = 1 + if rng.below(2) == 0 { rng.below(16) } else { rng.below(3000) };
                    let (piece, more) = rest.split_at(n.min(rest.len()));
                    peer.send(piece).await?;
                    rest = more;
                    // The piece shall be on its way before the next is written.
                    tokio::task::yield_now().await;
                }
            }
        }
    }
    peer.finish().await
}

/// Connections that send, sockets that receive; all messages exactly once.
struct Setting {
    conns: u32,
    sockets: usize,
    /// Of each connection.
    count: u32,
    most: u64,
    longest: usize,
    cut: Cut,
    /// Receivers wait so long before each batch.
    lag: Option<Duration>,
}

async fn all_arrive(plan: Plan, s: Setting) -> Result<String> {
    let mut sockets = vec![KcmSocket::new(SocketType::Dgram)];
    while sockets.len() < s.sockets {
        sockets.push(sockets[0].try_clone()?);
    }
    let mut check = Check::new(s.sockets > 1);
    let (mut tasks, mut psocks) = (JoinSet::new(), Vec::new());
    let mut senders = Vec::new();
    for conn in 0..s.conns {
        let (peer, psock) = connect(plan, &sockets[0]).await?;
        let flow = check.add(psock.id(), s.count);
        let rng = Rng::new(plan.seed << 16 | u64::from(conn));
        senders.push(send(peer, flow, (conn, s.count), s.most, s.longest, s.cut, rng));
        psocks.push(psock);
    }
    senders.into_iter().for_each(|sender| {
        tasks.spawn(async { sender.await.map(|()| 0) });
    });
    let check = Arc::new(check);
    for socket in sockets {
        socket.set_end_with_psocks(true);
        let (check, lag) = (check.clone(), s.lag);
        tasks.spawn(async move { check.receive(&socket, lag).await });
    }
    let mut received = 0;
    while let Some(one) = tasks.join_next().await {
        received += one??;
    }
    for (i, psock) in psocks.iter().enumerate() {
        let (got, cause) = (check.count(i), psock.error());
        ensure!(
            got == u64::from(s.count) && cause == Some(PsockError::Eof),
            "connection {i}: {got} of {} messages, then {cause:?}",
            s.count
        );
    }
    Ok(format!("{received} messages of {} connections, each whole and once", s.conns))
}

async fn split_writes(plan: Plan) -> Result<String> {
    let setting = Setting {
        conns: 8,
        sockets: 1,
        count: (plan.messages / 100).max(8),
        most: UNDER_WAY,
        longest: 16 << 10,
        cut: Cut::Anywhere,
        lag: None,
    };
    all_arrive(plan, setting).await
}

async fn lagging_readers(plan: Plan) -> Result<String> {
    let setting = Setting {
        conns: 8,
        sockets: 2,
        count: (plan.messages / 400).max(8),
        most: UNDER_WAY,
        longest: LONGEST - 4,
        cut: Cut::Anywhere,
        lag: Some(Duration::from_millis(2)),
    };
    all_arrive(plan, setting).await
}

async fn many_messages(plan: Plan) -> Result<String> {
    let setting = Setting {
        conns: 16,
        sockets: 4,
        count: plan.messages.div_ceil(16),
        most: UNDER_WAY,
        longest: 2 << 10,
        cut: Cut::Bursts,
        lag: None,
    };
    all_arrive(plan, setting).await
}

/// Nobody reads, and a peer sends on. On the kernel engine it is cut off, after a stream
/// without a gap; on the process engine TCP holds it back. Its neighbour loses nothing.
async fn overrun(plan: Plan) -> Result<String> {
    /// More than any ring and all the buffers on the way.
    const FLOOD: u64 = 64 << 20;
    let socket = KcmSocket::new(SocketType::Dgram);
    let mut check = Check::new(false);
    let (peer, flooded) = connect(plan, &socket).await?;
    check.add(flooded.id(), FLOOD as u32 / 1000);
    let flood = tokio::spawn(async move {
        let (mut sent, mut seq) = (0u64, 0);
        let mut peer = peer;
        while sent < FLOOD {
            // Many in one write: how long one takes is not what is tried.
            let bytes: Vec<u8> = (seq..seq + 32).flat_map(|n| numbered(0, n, 1000)).collect();
            seq += 32;
            // Cut off, or held back for longer than a peer's patience: both end it.
            if peer.send(&bytes).await.is_err() {
                break;
            }
            sent += bytes.len() as u64;
        }
        (peer, seq)
    });
    let held_back = match plan.engine {
        Engine::Kernel => {
            let end = tokio::time::timeout(PATIENCE, flooded.closed());
            // Messages wait for a reader, and so does the cause: what was whole comes first.
            let reader = async {
                // Not before the flood is over.
                let flooded = tokio::time::timeout(PATIENCE, flood).await??;
                Ok::<_, anyhow::Error>(flooded)
            };
            let (_peer, sent) = reader.await.context("the flood does not end")?;
            let mut received = 0u64;
            let drain = async {
                while let Ok(batch) = socket.recv_batch().await {
                    for m in &batch {
                        check.message(batch.psock(), m)?;
                        received += 1;
                    }
                }
                Ok::<_, anyhow::Error>(())
            };
            let cause = tokio::select! {
                cause = end => cause.context("the flooded connection does not end")?,
                drained = drain => return Err(anyhow!("the socket ended: {drained:?}")),
            };
            while let Ok(m) = socket.try_recv() {
                check.message(m.psock(), &m)?;
                received += 1;
            }
            ensure!(
                matches!(cause, PsockError::Overrun { .. }),
                "the cause is {cause:?}, after {received} of {sent} messages"
            );
            ensure!(received > 0 && received < u64::from(sent), "{received} of {sent} messages");
            format!("{received} of {sent} messages without a gap, then {cause}")
        }
        _ => {
            let (peer, sent) = tokio::time::timeout(PATIENCE, flood).await??;
            drop(peer);
            ensure!(u64::from(sent) * 1000 < FLOOD, "nobody held the peer back");
            format!("held back after {sent} messages")
        }
    };
    // Another connection of the same parser goes on.
    let (mut peer, psock) = connect(plan, &socket).await?;
    let mut check = Check::new(false);
    check.add(psock.id(), 64);
    for seq in 0..64 {
        peer.send(&numbered(0, seq, 500)).await?;
    }
    while check.count(0) < 64 {
        let m = tokio::time::timeout(PATIENCE, socket.recv()).await.context("the next one")??;
        if m.psock() == psock.id() {
            check.message(m.psock(), &m)?;
        }
    }
    Ok(format!("{held_back}; the next connection loses nothing"))
}

/// Connections that are reset anywhere inside a message: what was whole before may be lost with
/// the connection (TCP drops it), but never out of order, never damaged, and the cause is told.
async fn resets(plan: Plan) -> Result<String> {
    let rounds = (plan.messages / 2000).clamp(4, 500);
    let mut rng = Rng::new(plan.seed);
    let socket = KcmSocket::new(SocketType::Dgram);
    let (mut healthy, healthy_psock) = connect(plan, &socket).await?;
    let (mut causes, mut messages) = ((0u32, 0u32), 0u64);
    for round in 0..rounds {
        let (mut peer, psock) = connect(plan, &socket).await?;
        let mut check = Check::new(false);
        check.add(psock.id(), 64);
        let count = rng.below(20) as u32;
        let mut bytes: Vec<u8> =
            (0..count).flat_map(|seq| numbered(0, seq, rng.below(3000))).collect();
        let part = numbered(0, count, 1000);
        bytes.extend_from_slice(&part[..rng.below(part.len())]);
        peer.send(&bytes).await?;
        healthy.send(&numbered(9, round, 100)).await?;
        if rng.below(2) == 0 {
            peer.reset();
        } else {
            drop(peer);
        }
        let cause = tokio::time::timeout(PATIENCE, psock.closed())
            .await
            .with_context(|| format!("round {round}: the connection does not end"))?;
        match cause {
            PsockError::Reset => causes.0 += 1,
            PsockError::Eof | PsockError::EofMidMessage { .. } => causes.1 += 1,
            other => return Err(anyhow!("round {round}: {other:?}")),
        }
        let clean = cause != PsockError::Reset;
        let mut other = false;
        // What was delivered before the end is there, and the healthy connection's comes.
        while !other || (clean && check.count(0) < u64::from(count)) {
            let m = tokio::time::timeout(PATIENCE, socket.recv())
                .await
                .with_context(|| format!("round {round}: after {cause:?}"))??;
            if m.psock() == healthy_psock.id() {
                ensure!(kcm_tests::codec::number(&m) == Some((9, round)), "round {round}: healthy");
                other = true;
            } else {
                check.message(m.psock(), &m)?;
            }
        }
        while let Ok(m) = socket.try_recv() {
            check.message(m.psock(), &m)?;
        }
        messages += check.count(0);
        let _ = socket.unattach(psock.id());
    }
    Ok(format!(
        "{rounds} connections, {} reset and {} ended inside or between messages; {messages} whole \
         messages before, and their neighbour lost none",
        causes.0, causes.1
    ))
}
