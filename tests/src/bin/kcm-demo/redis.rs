//! N connections to a real Redis, shared by M workers as a pool.
//!
//! A worker takes a free connection, writes a round of requests to it, waits for as many
//! replies, checks them, and gives the connection back. Replies arrive at any of the message
//! sockets; each knows its connection, and so finds the worker that holds it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use kcm_core::{KcmSocket, Message, PsockEvent, PsockId, SendError, SocketType};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::board::Board;
use crate::live::Live;
use crate::summary::Summary;
use crate::{Cli, load};

/// Keys live this long, should the demo not get to delete them.
const EXPIRY_SECONDS: u32 = 60;

/// The connections of the pool.
struct Pool {
    free: (flume::Sender<PsockId>, flume::Receiver<PsockId>),
    /// Who waits for the replies of each connection that is in use.
    waiting: Mutex<HashMap<PsockId, mpsc::UnboundedSender<Message>>>,
}

impl Pool {
    fn waiting(
        &self,
    ) -> std::sync::MutexGuard<'_, HashMap<PsockId, mpsc::UnboundedSender<Message>>> {
        self.waiting.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// What a worker did.
#[derive(Default)]
struct Done {
    replies: u64,
    /// Of each round.
    micros: Vec<u64>,
}

/// Runs until the time is over, Ctrl-C, or the last connection's end.
pub(crate) async fn run(cli: &Cli, addr: &str) -> Result<Summary> {
    let parser = load::parser(cli, "resp")?;
    let socket = KcmSocket::builder(SocketType::Dgram).build();
    let mut events = socket.events();
    let board = Board::new(cli.sockets.into());
    let pool = Arc::new(Pool { free: flume::unbounded(), waiting: Mutex::default() });
    // The longest reply is one payload and its head.
    let options = cli.attach_options(cli.size + 64);
    for _ in 0..cli.conns {
        let stream = TcpStream::connect(addr)
            .await
            .with_context(|| format!("no Redis at {addr}; start one with `redis-server`"))?;
        let psock = socket.attach_with(stream, &parser, options.clone())?;
        board.attached(&psock);
        pool.free.0.send(psock.id())?;
    }
    let live = Live::start(board.clone());
    let (stop, stopped) = watch::channel(false);
    let mut workers = JoinSet::new();
    for i in 0..cli.sockets.into() {
        let socket = Arc::new(socket.try_clone()?);
        tokio::spawn(dispatch(socket.clone(), i, board.clone(), pool.clone()));
        workers.spawn(work(socket, i, cli.clone(), pool.clone(), stopped.clone()));
    }
    // The first socket only watches.
    socket.set_recv_disabled(true);
    let over = tokio::time::sleep(Duration::from_secs_f64(cli.seconds.unwrap_or(5.0)));
    tokio::pin!(over);
    let mut done = Done::default();
    let mut problems = Vec::new();
    loop {
        tokio::select! {
            () = &mut over, if !*stop.borrow() => stop.send_replace(true),
            _ = tokio::signal::ctrl_c(), if !*stop.borrow() => stop.send_replace(true),
            Some(event) = events.next() => {
                match event {
                    PsockEvent::Failed { psock, cause, .. } => {
                        problems.push(format!("connection {}: {cause}", board.conn(psock).number));
                        board.ended(psock, cause);
                        // Whoever waits for its replies is told by the channel's end.
                        pool.waiting().remove(&psock);
                    }
                    PsockEvent::NoneLeft => { stop.send_replace(true); }
                    _ => {}
                }
                continue;
            }
            ended = workers.join_next() => {
                match ended {
                    None => break,
                    Some(Ok(Ok(d))) => {
                        done.replies += d.replies;
                        done.micros.extend(d.micros);
                    }
                    Some(Ok(Err(e))) => problems.push(format!("{e:#}")),
                    Some(Err(e)) => problems.push(e.to_string()),
                }
                continue;
            }
        };
    }
    let seconds = board.started.elapsed().as_secs_f64();
    drop(live);
    let mut summary = Summary::new("redis", &parser, &board, seconds);
    done.micros.sort_unstable();
    let quantile = |q: f64| {
        let at = (done.micros.len().saturating_sub(1) as f64 * q) as usize;
        done.micros.get(at).copied().unwrap_or(0)
    };
    let text = format!(
        "  {} replies checked; a round of {} requests took {} µs in the median, {} at the 99th \
         percentile",
        done.replies,
        pairs(cli) * 2,
        quantile(0.5),
        quantile(0.99)
    );
    summary.note("replies_checked", json!(done.replies), &text);
    summary.json["round_us"] = json!({"p50": quantile(0.5), "p99": quantile(0.99)});
    if done.replies == 0 {
        problems.push("no reply was received".into());
    }
    summary.problems = problems;
    Ok(summary)
}

/// A round is so many SETs, each with its GET.
fn pairs(cli: &Cli) -> usize {
    usize::from(cli.pipeline / 2).max(1)
}

/// Hands what one message socket receives to those who wait for it.
async fn dispatch(socket: Arc<KcmSocket>, index: usize, board: Arc<Board>, pool: Arc<Pool>) {
    while let Ok(batch) = socket.recv_batch().await {
        let conn = board.conn(batch.psock());
        let (messages, bytes) = (batch.len() as u64, batch.bytes() as u64);
        conn.count.add(messages, bytes);
        board.sockets[index].add(messages, bytes);
        let Some(to) = pool.waiting().get(&batch.psock()).cloned() else { continue };
        for message in batch {
            // A worker that went away with an error wants no more.
            let _ = to.send(message);
        }
    }
}

async fn work(
    socket: Arc<KcmSocket>,
    me: usize,
    cli: Cli,
    pool: Arc<Pool>,
    mut stopped: watch::Receiver<bool>,
) -> Result<Done> {
    let mut done = Done::default();
    let key = |pair: usize| format!("kcm-demo:{}:{me}:{pair}", std::process::id());
    for number in 0u64.. {
        let psock = tokio::select! {
            biased;
            _ = stopped.wait_for(|s| *s) => break,
            free = pool.free.1.recv_async() => free?,
        };
        let start = Instant::now();
        let mut requests = Vec::new();
        let mut expected = Replies::default();
        for pair in 0..pairs(&cli) {
            let mut value = format!("{me}-{number}-{pair}-");
            value.extend(std::iter::repeat_n('v', (cli.size as usize).saturating_sub(value.len())));
            let expiry = EXPIRY_SECONDS.to_string();
            requests.push(command(&["SET", &key(pair), &value, "EX", &expiry]));
            requests.push(command(&["GET", &key(pair)]));
            expected.ok += 1;
            expected.values.insert(format!("${}\r\n{value}\r\n", value.len()).into_bytes());
        }
        if !round(&socket, psock, &pool, requests, expected).await? {
            continue; // the connection failed; another will do
        }
        done.replies += 2 * pairs(&cli) as u64;
        done.micros.push(start.elapsed().as_micros() as u64);
        pool.free.0.send(psock)?;
    }
    // Leave nothing behind.
    if let Ok(psock) = pool.free.1.try_recv() {
        let keys: Vec<String> = (0..pairs(&cli)).map(key).collect();
        let mut words = vec!["DEL"];
        words.extend(keys.iter().map(String::as_str));
        let expected = Replies { deleted: true, ..Replies::default() };
        round(&socket, psock, &pool, vec![command(&words)], expected).await?;
        pool.free.0.send(psock)?;
    }
    Ok(done)
}

/// The replies that a round must bring.
#[derive(Default)]
struct Replies {
    ok: usize,
    values: HashSet<Vec<u8>>,
    deleted: bool,
}

impl Replies {
    fn are_all_there(&self) -> bool {
        self.ok == 0 && self.values.is_empty() && !self.deleted
    }

    /// Takes one reply off the list. The order is not looked at: replies of one connection
    /// that arrived at different sockets get here by different tasks.
    fn take(&mut self, reply: &[u8]) -> bool {
        if reply == b"+OK\r\n" && self.ok > 0 {
            self.ok -= 1;
            return true;
        }
        if self.deleted && reply.starts_with(b":") {
            self.deleted = false;
            return true;
        }
        self.values.remove(reply)
    }
}

/// One round on one connection; false if the connection failed.
async fn round(
    socket: &KcmSocket,
    psock: PsockId,
    pool: &Pool,
    requests: Vec<Bytes>,
    mut expected: Replies,
) -> Result<bool> {
    let (to, mut replies) = mpsc::unbounded_channel();
    pool.waiting().insert(psock, to);
    for request in requests {
        match socket.send_to(psock, request).await {
            Ok(_) => {}
            Err(SendError::Psock(_) | SendError::NoSuchPsock(_)) => {
                pool.waiting().remove(&psock);
                return Ok(false);
            }
            Err(e) => return Err(e).context("send"),
        }
    }
    while !expected.are_all_there() {
        let Some(reply) = replies.recv().await else { return Ok(false) };
        if !expected.take(&reply) {
            let shown = reply.get(..reply.len().min(80)).unwrap_or_default();
            bail!("Redis' answer is not what was asked for: {}", shown.escape_ascii());
        }
    }
    pool.waiting().remove(&psock);
    Ok(true)
}

/// A request as Redis wants it.
fn command(words: &[&str]) -> Bytes {
    let mut out = format!("*{}\r\n", words.len());
    for w in words {
        out.push_str(&format!("${}\r\n{w}\r\n", w.len()));
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_that_was_not_asked_for_is_no_reply() {
        let mut r = Replies { ok: 1, values: [b"$1\r\na\r\n".to_vec()].into(), deleted: false };
        assert!(!r.take(b"-ERR no\r\n") && !r.take(b":1\r\n") && !r.take(b"$1\r\nb\r\n"));
        assert!(r.take(b"+OK\r\n") && !r.take(b"+OK\r\n"));
        assert!(r.take(b"$1\r\na\r\n") && !r.take(b"$1\r\na\r\n"));
        assert!(r.are_all_there());
    }

    #[test]
    fn a_command_is_one_message() {
        assert_eq!(command(&["GET", "k"]), "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
    }
}
