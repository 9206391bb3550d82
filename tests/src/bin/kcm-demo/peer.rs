//! The demo's own peer, a process of its own: numbered messages on every connection, as fast
//! as they are taken, until the time is over or its standard input closes.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::Cli;
use crate::shape::Shape;

/// About this many bytes are made and written at once.
const BATCH: usize = 64 * 1024;

struct Conn {
    stream: TcpStream,
    batch: Vec<u8>,
    offset: usize,
    /// Messages in all batches before the current one.
    sent: u64,
    done: bool,
}

/// Sends until the end; prints one line per connection: local port and messages sent.
pub(crate) fn run(cli: &Cli, port: u16) -> Result<()> {
    let shape = Shape::new(&cli.parser, cli.size as usize)?;
    let per_batch = (BATCH / shape.len()).max(1);
    let mut conns = Vec::new();
    for _ in 0..cli.conns {
        let stream =
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("the demo does not listen")?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let mut batch = shape.batch(per_batch);
        shape.number(&mut batch, 0);
        conns.push(Conn { stream, batch, offset: 0, sent: 0, done: false });
    }
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    // The demo closes our input when it wants to end early, or when it is gone.
    std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        flag.store(true, Ordering::Relaxed);
    });
    let deadline = Instant::now() + Duration::from_secs_f64(cli.seconds.unwrap_or(5.0));
    while conns.iter().any(|c| !c.done) {
        let late = stop.load(Ordering::Relaxed) || Instant::now() >= deadline;
        let mut moved = false;
        for c in conns.iter_mut().filter(|c| !c.done) {
            moved |= c.push(&shape, per_batch as u64, late)?;
        }
        if !moved {
            wait(&conns)?;
        }
    }
    for c in &conns {
        println!("SENT port={} messages={}", c.stream.local_addr()?.port(), c.sent);
    }
    Ok(())
}

impl Conn {
    /// One write; false if the connection takes nothing now. The current batch is always sent
    /// to its end.
    fn push(&mut self, shape: &Shape, per_batch: u64, late: bool) -> Result<bool> {
        if late && self.offset == 0 {
            self.stream.shutdown(Shutdown::Write)?;
            self.done = true;
            return Ok(true);
        }
        match self.stream.write(&self.batch[self.offset..]) {
            Ok(n) => self.offset += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(e).context("the demo closed a connection"),
        }
        if self.offset == self.batch.len() {
            self.offset = 0;
            self.sent += per_batch;
            shape.number(&mut self.batch, self.sent);
        }
        Ok(true)
    }
}

/// Until one of the connections takes more, or a little later: the time may be over.
fn wait(conns: &[Conn]) -> Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds: Vec<PollFd<'_>> =
        conns.iter().filter(|c| !c.done).map(|c| PollFd::new(&c.stream, PollFlags::OUT)).collect();
    let timeout = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
