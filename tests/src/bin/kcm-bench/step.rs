//! `kcm-bench step-serve` and `step-send`: a closed loop, for engines that hold no peer back.
//!
//! Each connection has one step of messages under way: the sender writes it, the receiver
//! answers with one byte when it has the whole step, and then comes the next. What an answer
//! costs is the same for all receivers.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use kcm_core::{AttachOptions, Engine, KcmSocket, RecvError, SocketType, parsers};
use rustix::event::epoll::EventFlags;

use crate::load::Load;
use crate::poll::Poll;
use crate::wire::{HEAD, READ, Tally, Until, accept, message_len, messages, now_ns};

/// Bytes of a step, about: one message where messages are larger.
const STEP: usize = 16 << 10;

/// Messages of a step.
fn per_step(size: usize) -> usize {
    (STEP / (HEAD + size)).max(1)
}

/// Options of `kcm-bench step-serve`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ServeArgs {
    /// Who receives
    #[arg(long, value_enum)]
    pub(crate) variant: Variant,
    /// Connections to accept
    #[arg(long, default_value_t = 1)]
    pub(crate) conns: usize,
    /// Payload bytes of a message
    #[arg(long, default_value_t = 64)]
    pub(crate) size: usize,
}

/// A receiver.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// One epoll thread that reads and parses natively
    Plain,
    /// A KCM socket, delineated in this process
    Process,
    /// A KCM socket, delineated in the kernel
    Kernel,
}

pub(crate) fn serve(a: &ServeArgs) -> Result<()> {
    let tally = match a.variant {
        Variant::Plain => plain(accept(a.conns)?, a.size)?,
        Variant::Process => on_tokio(a, Engine::Process)?,
        Variant::Kernel => on_tokio(a, Engine::Kernel)?,
    };
    tally.print_done();
    Ok(())
}

fn on_tokio(a: &ServeArgs, engine: Engine) -> Result<Tally> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let socket = KcmSocket::new(SocketType::Dgram);
        let parser = parsers::thrift();
        let options = AttachOptions::new().engine(engine).max_message(1 << 20);
        // Into the kernel before a byte is there: the sender waits for the last connection.
        for s in accept(a.conns)? {
            s.set_nonblocking(true)?;
            socket.attach_with(tokio::net::TcpStream::from_std(s)?, &parser, options.clone())?;
        }
        println!("ATTACHED");
        socket.set_end_with_psocks(true);
        let answer = Bytes::from_static(b"!");
        let step = per_step(a.size);
        let mut t = Tally::default();
        let mut seen: HashMap<_, usize> = HashMap::new();
        loop {
            match socket.recv_batch().await {
                Ok(batch) => {
                    let mut n = 0;
                    for m in &batch {
                        t.eat(m.get(HEAD..).context("a message shorter than its head")?);
                        n += 1;
                    }
                    let psock = batch.psock();
                    let have = seen.entry(psock).or_default();
                    *have += n;
                    if *have >= step {
                        *have -= step;
                        socket.send_to(psock, answer.clone()).await?;
                    }
                }
                Err(RecvError::NoPsockLeft) => return Ok(t),
                Err(e) => return Err(e.into()),
            }
        }
    })
}

/// A connection of the plain reader.
struct Conn {
    stream: TcpStream,
    buf: Vec<u8>,
    have: usize,
    seen: usize,
}

fn plain(streams: Vec<TcpStream>, size: usize) -> Result<Tally> {
    let step = per_step(size);
    let mut poll = Poll::new()?;
    let mut conns = Vec::new();
    for (i, stream) in streams.into_iter().enumerate() {
        stream.set_nonblocking(true)?;
        poll.add(&stream, i, EventFlags::IN | EventFlags::RDHUP)?;
        conns.push(Conn { stream, buf: vec![0; READ], have: 0, seen: 0 });
    }
    println!("ATTACHED");
    let mut t = Tally::default();
    let mut live = conns.len();
    while live > 0 {
        for i in poll.wait()? {
            let c = &mut conns[i];
            let n = match c.stream.read(&mut c.buf[c.have..]) {
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => continue,
                Err(e) => return Err(e.into()),
            };
            if n == 0 {
                poll.remove(&c.stream)?;
                live -= 1;
                continue;
            }
            c.have += n;
            let mut at = 0;
            while let Some(len) = message_len(&c.buf[at..c.have]).filter(|l| at + l <= c.have) {
                t.eat(&c.buf[at + HEAD..at + len]);
                at += len;
                c.seen += 1;
            }
            c.buf.copy_within(at..c.have, 0);
            c.have -= at;
            if c.seen >= step {
                c.seen -= step;
                c.stream.write_all(b"!")?;
            }
        }
    }
    Ok(t)
}

pub(crate) fn send(a: &Load) -> Result<()> {
    let conns = a.connect()?;
    let count = per_step(a.size);
    let step = messages(a.size, count);
    let stop = Until::start(a.secs);
    let threads: Vec<_> = conns
        .into_iter()
        .map(|s| {
            let step = step.clone();
            std::thread::spawn(move || steps(&s, &step, stop))
        })
        .collect();
    let mut steps = 0u64;
    for t in threads {
        steps += t.join().map_err(|_| anyhow::anyhow!("a sender panicked"))??;
    }
    let n = count as u64;
    let sum = if a.size >= 8 { steps * (n * (n - 1) / 2) } else { 0 };
    let sent = Tally { msgs: steps * n, bytes: steps * step.len() as u64, sum, ..Tally::default() };
    sent.print_sent("");
    Ok(())
}

fn steps(mut s: &TcpStream, step: &[u8], stop: u64) -> Result<u64> {
    let mut n = 0;
    while now_ns() < stop {
        s.write_all(step)?;
        let mut answer = [0; 1];
        if s.read(&mut answer)? == 0 {
            bail!("the server has closed a connection after {n} steps");
        }
        n += 1;
    }
    s.shutdown(Shutdown::Write)?;
    Ok(n)
}
