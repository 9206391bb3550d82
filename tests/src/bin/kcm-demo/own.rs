//! The main job, watched: a peer's connections feed our message sockets.

use std::collections::HashMap;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context, Result};
use kcm_core::{KcmSocket, PsockId, RecvError, SocketType};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::board::{Board, Conn};
use crate::live::Live;
use crate::shape::Shape;
use crate::summary::Summary;
use crate::{Cli, load};

/// What one socket saw of one connection.
struct Seen {
    conn: Arc<Conn>,
    /// The last number; the next must be larger.
    last: Option<u64>,
    messages: u64,
    /// Of all numbers, wrapping.
    sum: u64,
    /// Messages out of order, or that are not the peer's.
    wrong: u64,
}

/// Runs until the peer has ended, or Ctrl-C makes it end.
pub(crate) async fn run(cli: &Cli) -> Result<Summary> {
    let parser = load::parser(cli, &cli.parser)?;
    let shape = Shape::new(&cli.parser, cli.size as usize)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut peer = start_peer(cli, listener.local_addr()?.port())?;

    // The connections, then the sockets: nothing is lost in between, the first socket is there.
    let socket = KcmSocket::builder(SocketType::Dgram).build();
    let board = Board::new(cli.sockets.into());
    let mut ports = HashMap::new();
    let options = cli.attach_options(shape.len() as u32);
    for _ in 0..cli.conns {
        let (stream, from) = tokio::select! {
            accepted = listener.accept() => accepted?,
            ended = peer.child.wait() => anyhow::bail!("the peer ended at once: {}", ended?),
        };
        let psock = socket.attach_with(stream, &parser, options.clone())?;
        board.attached(&psock);
        ports.insert(from.port(), psock.id());
    }
    let mut sockets = vec![socket];
    while sockets.len() < cli.sockets.into() {
        sockets.push(sockets[0].try_clone()?);
    }
    // Told only now: with no connection attached yet it would have ended at once.
    sockets.iter().for_each(|s| s.set_end_with_psocks(true));
    let live = Live::start(board.clone());
    let mut events = sockets[0].events();
    let watch = board.clone();
    let watching = tokio::spawn(async move {
        while let Some(event) = events.next().await {
            if let kcm_core::PsockEvent::Failed { psock, cause, .. } = event {
                watch.ended(psock, cause);
            }
        }
    });
    let mut tasks = JoinSet::new();
    for (i, socket) in sockets.into_iter().enumerate() {
        tasks.spawn(receive(socket, i, board.clone(), shape.clone()));
    }
    let mut seen: Vec<HashMap<PsockId, Seen>> = Vec::new();
    let mut interrupted = false;
    loop {
        tokio::select! {
            ended = tasks.join_next() => match ended {
                Some(one) => seen.push(one??),
                None => break,
            },
            _ = tokio::signal::ctrl_c(), if !interrupted => {
                interrupted = true;
                // The peer sends its batches to the end and closes; we drain and sum up.
                peer.stdin = None;
            }
        }
    }
    let seconds = board.started.elapsed().as_secs_f64();
    // The last socket is closed: so are the events, once those before have been seen.
    watching.await?;
    drop(live);
    let sent = peer.finish().await?;
    let mut summary = Summary::new("own peer", &parser, &board, seconds);
    check(&mut summary, &seen, &sent, &ports);
    summary.json["interrupted"] = json!(interrupted);
    Ok(summary)
}

/// One message socket's task: takes batches until no connection is left.
async fn receive(
    socket: KcmSocket,
    index: usize,
    board: Arc<Board>,
    shape: Shape,
) -> Result<HashMap<PsockId, Seen>> {
    let mut seen: HashMap<PsockId, Seen> = HashMap::new();
    loop {
        let batch = match socket.recv_batch().await {
            Ok(batch) => batch,
            Err(RecvError::NoPsockLeft) => return Ok(seen),
            Err(e) => return Err(e).context("receive"),
        };
        let s = seen.entry(batch.psock()).or_insert_with(|| Seen {
            conn: board.conn(batch.psock()),
            last: None,
            messages: 0,
            sum: 0,
            wrong: 0,
        });
        for message in &batch {
            let number = shape.read(message);
            s.messages += 1;
            s.wrong += u64::from(number.is_none() || number <= s.last);
            s.sum = s.sum.wrapping_add(number.unwrap_or(0));
            s.last = number.max(s.last);
        }
        let (messages, bytes) = (batch.len() as u64, batch.bytes() as u64);
        s.conn.count.add(messages, bytes);
        board.sockets[index].add(messages, bytes);
    }
}

/// Every message that was sent arrived once, whole and in its connection's order.
fn check(
    summary: &mut Summary,
    seen: &[HashMap<PsockId, Seen>],
    sent: &HashMap<u16, u64>,
    ports: &HashMap<u16, PsockId>,
) {
    let mut all_sent = 0;
    for (port, id) in ports {
        let sent = sent.get(port).copied().unwrap_or(0);
        all_sent += sent;
        let of = |f: fn(&Seen) -> u64| -> u64 {
            seen.iter().filter_map(|s| s.get(id)).fold(0, |a, s| a.wrapping_add(f(s)))
        };
        let (got, sum, wrong) = (of(|s| s.messages), of(|s| s.sum), of(|s| s.wrong));
        // 0 + 1 + .. + (sent - 1), wrapping as the sum did.
        let expected = (u128::from(sent) * u128::from(sent.saturating_sub(1)) / 2) as u64;
        if got != sent || sum != expected || wrong > 0 {
            summary.problems.push(format!(
                "connection from port {port}: {sent} messages sent, {got} received, {wrong} \
                 wrong or out of order, sums {expected} and {sum}"
            ));
        }
    }
    let verdict = if summary.problems.is_empty() {
        "every message arrived once, whole, in its connection's order"
    } else {
        "NOT every message arrived once, whole, in its connection's order"
    };
    summary.note("sent", json!(all_sent), &format!("  {all_sent} sent; {verdict}"));
    summary.json["complete"] = json!(summary.problems.is_empty());
}

struct Peer {
    child: tokio::process::Child,
    /// The peer ends when this is closed. Not left to `child`, whose `wait` closes it.
    stdin: Option<tokio::process::ChildStdin>,
}

fn start_peer(cli: &Cli, port: u16) -> Result<Peer> {
    let mut c = std::process::Command::new(std::env::current_exe()?);
    c.arg(format!("--peer-of={port}"))
        .arg(format!("--conns={}", cli.conns))
        .arg(format!("--size={}", cli.size))
        .arg(format!("--seconds={}", cli.seconds.unwrap_or(5.0)))
        .arg(format!("--parser={}", cli.parser))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // Ctrl-C is for us; we tell the peer.
        .process_group(0);
    let mut c = tokio::process::Command::from(c);
    let mut child = c.kill_on_drop(true).spawn().context("could not start the peer")?;
    let stdin = child.stdin.take();
    Ok(Peer { child, stdin })
}

impl Peer {
    /// How many messages it sent, by its port.
    async fn finish(mut self) -> Result<HashMap<u16, u64>> {
        let mut sent = HashMap::new();
        if let Some(out) = self.child.stdout.take() {
            let mut lines = BufReader::new(out).lines();
            while let Some(line) = lines.next_line().await? {
                let number = |key: &str| {
                    line.split_whitespace().find_map(|w| w.strip_prefix(key)?.parse::<u64>().ok())
                };
                if let (Some(port), Some(messages)) = (number("port="), number("messages=")) {
                    sent.insert(port as u16, messages);
                }
            }
        }
        let status = self.child.wait().await?;
        anyhow::ensure!(status.success(), "the peer failed: {status}");
        Ok(sent)
    }
}
