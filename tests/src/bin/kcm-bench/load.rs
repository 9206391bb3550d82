//! The load: `send` fills sockets with messages, `lat` asks and waits for the answer.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use anyhow::Result;
use rustix::event::epoll::EventFlags;

use crate::poll::Poll;
use crate::wire::{HEAD, Tally, Until, connect, messages, now_ns};

/// Options of `kcm-bench send`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct SendArgs {
    /// The server's port on 127.0.0.1
    #[arg(long)]
    pub(crate) port: u16,
    /// Connections
    #[arg(long, default_value_t = 1)]
    pub(crate) conns: usize,
    /// Payload bytes of a message
    #[arg(long, default_value_t = 64)]
    pub(crate) size: usize,
    /// Seconds
    #[arg(long, default_value_t = 1.0)]
    pub(crate) secs: f64,
    /// Bytes of the batch that is written again and again
    #[arg(long, default_value_t = 256 * 1024)]
    pub(crate) batch: usize,
}

struct Conn {
    stream: TcpStream,
    /// Of the batch being written.
    offset: usize,
    batches: u64,
}

impl Conn {
    /// One write; true once the connection has ended its last batch after the stop time.
    fn push(&mut self, batch: &[u8], late: bool) -> Result<bool> {
        if late && self.offset == 0 {
            self.stream.shutdown(Shutdown::Write)?;
            return Ok(true);
        }
        match (&self.stream).write(&batch[self.offset..]) {
            Ok(n) => self.offset += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(e.into()),
        }
        if self.offset == batch.len() {
            self.offset = 0;
            self.batches += 1;
        }
        Ok(false)
    }
}

/// Writes whole batches to every connection that takes them, for a time.
pub(crate) fn send(a: &SendArgs) -> Result<()> {
    let count = (a.batch / (HEAD + a.size)).max(1);
    let batch = messages(a.size, count);
    let mut conns: Vec<Conn> = connect(a.port, a.conns)?
        .into_iter()
        .map(|stream| Conn { stream, offset: 0, batches: 0 })
        .collect();
    let stop = Until::start(a.secs);
    if let [one] = &mut conns[..] {
        // A single connection needs no poll: the write itself waits.
        while !one.push(&batch, now_ns() >= stop)? {}
    } else {
        let mut poll = Poll::new()?;
        for (i, c) in conns.iter().enumerate() {
            c.stream.set_nonblocking(true)?;
            poll.add(&c.stream, i, EventFlags::OUT)?;
        }
        let mut live = conns.len();
        while live > 0 {
            let late = now_ns() >= stop;
            for i in poll.wait()? {
                if conns[i].push(&batch, late)? {
                    poll.remove(&conns[i].stream)?;
                    live -= 1;
                }
            }
        }
    }
    let batches: u64 = conns.iter().map(|c| c.batches).sum();
    let per_batch = if a.size >= 8 { count as u64 * (count as u64 - 1) / 2 } else { 0 };
    let sent = Tally {
        msgs: batches * count as u64,
        bytes: batches * batch.len() as u64,
        sum: batches.wrapping_mul(per_batch),
    };
    sent.print_sent("");
    Ok(())
}

/// Options of `kcm-bench lat`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct LatArgs {
    /// The server's port on 127.0.0.1; it must echo
    #[arg(long)]
    pub(crate) port: u16,
    /// Connections, each with one request in flight
    #[arg(long, default_value_t = 1)]
    pub(crate) conns: usize,
    /// Payload bytes of a message
    #[arg(long, default_value_t = 64)]
    pub(crate) size: usize,
    /// Seconds
    #[arg(long, default_value_t = 1.0)]
    pub(crate) secs: f64,
}

/// Round trips; the answers must be what was sent.
pub(crate) fn lat(a: &LatArgs) -> Result<()> {
    let conns = connect(a.port, a.conns)?;
    let stop = Until::start(a.secs);
    let size = a.size;
    let threads: Vec<_> =
        conns.into_iter().map(|s| std::thread::spawn(move || round_trips(s, size, stop))).collect();
    let mut all = Vec::new();
    for t in threads {
        all.extend(t.join().map_err(|_| anyhow::anyhow!("a client thread panicked"))??);
    }
    all.sort_unstable();
    let quantile = |q: f64| {
        let at = (all.len().saturating_sub(1)) as f64 * q;
        all.get(at as usize).map_or(0.0, |ns| *ns as f64 / 1e3)
    };
    let more = format!(" p50={:.2} p99={:.2}", quantile(0.5), quantile(0.99));
    let msgs = all.len() as u64;
    Tally { msgs, bytes: msgs * (HEAD + size) as u64, sum: 0 }.print_sent(&more);
    Ok(())
}

fn round_trips(mut s: TcpStream, size: usize, stop: u64) -> Result<Vec<u64>> {
    let request = messages(size, 1);
    let mut answer = vec![0; request.len()];
    let mut out = Vec::new();
    loop {
        let start = now_ns();
        if start >= stop {
            break;
        }
        s.write_all(&request)?;
        s.read_exact(&mut answer)?;
        out.push(now_ns() - start);
        anyhow::ensure!(answer == request, "the answer is not what was sent");
    }
    Ok(out)
}
