//! This product as a receiver, and the plain read loop that both are seen beside.

use std::io::Read;
use std::net::TcpStream;
use std::time::Instant;

use anyhow::{Result, anyhow, ensure};
use kcm_core::{KcmSocket, RecvError, SocketType, parsers};
use tokio::task::JoinSet;

use crate::Args;
use crate::load::{HEAD, Load, Seen, Tally};

/// How a consumer takes messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    Batches,
    Messages,
}

pub(crate) fn receive(args: &Args, take: Take, load: Load, conns: Vec<TcpStream>) -> Result<Seen> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut sockets = vec![KcmSocket::new(SocketType::Dgram)];
        while sockets.len() < args.sockets {
            sockets.push(sockets[0].try_clone()?);
        }
        for c in conns {
            c.set_nonblocking(true)?;
            sockets[0].attach(tokio::net::TcpStream::from_std(c)?, &parsers::thrift())?;
        }
        let running = load.start(args.secs);
        let mut tasks = JoinSet::new();
        for s in sockets {
            s.set_end_with_psocks(true);
            tasks.spawn(async move {
                match take {
                    Take::Batches => batches(&s).await,
                    Take::Messages => messages(&s).await,
                }
            });
        }
        let (mut all, mut last) = (Tally::default(), running.start);
        while let Some(t) = tasks.join_next().await {
            let (tally, at) = t??;
            all.add(tally);
            last = last.max(at);
        }
        running.finish(all, last)
    })
}

async fn batches(socket: &KcmSocket) -> Result<(Tally, Instant)> {
    let mut t = Tally::default();
    loop {
        match socket.recv_batch().await {
            Ok(batch) => batch.iter().for_each(|m| t.eat(m)),
            Err(RecvError::NoPsockLeft) => return Ok((t, Instant::now())),
            Err(e) => return Err(e.into()),
        }
    }
}

async fn messages(socket: &KcmSocket) -> Result<(Tally, Instant)> {
    let mut t = Tally::default();
    loop {
        match socket.recv().await {
            Ok(m) => t.eat(&m),
            Err(RecvError::NoPsockLeft) => return Ok((t, Instant::now())),
            Err(e) => return Err(e.into()),
        }
    }
}

/// A thread per connection, blocking reads, the messages found natively.
pub(crate) fn read_loop(args: &Args, load: Load, conns: Vec<TcpStream>) -> Result<Seen> {
    let running = load.start(args.secs);
    let threads: Vec<_> =
        conns.into_iter().map(|c| std::thread::spawn(move || read_all(c))).collect();
    let (mut all, mut last) = (Tally::default(), running.start);
    for t in threads {
        let (tally, at) = t.join().map_err(|_| anyhow!("a reader panicked"))??;
        all.add(tally);
        last = last.max(at);
    }
    running.finish(all, last)
}

fn read_all(mut c: TcpStream) -> Result<(Tally, Instant)> {
    let mut t = Tally::default();
    let mut buf = vec![0; 128 << 10];
    let mut have = 0;
    loop {
        let n = c.read(&mut buf[have..])?;
        if n == 0 {
            ensure!(have == 0, "{have} bytes of a message that does not end");
            return Ok((t, Instant::now()));
        }
        have += n;
        let mut at = 0;
        while let Some(head) = buf[at..have].first_chunk::<HEAD>() {
            let len = u32::from_be_bytes(*head) as usize + HEAD;
            ensure!(len <= buf.len(), "a message of {len} bytes");
            let Some(message) = buf[at..have].get(..len) else { break };
            t.eat(message);
            at += len;
        }
        buf.copy_within(at..have, 0);
        have -= at;
    }
}
