//! The load: `send` fills sockets with messages, `lat` asks and waits for the answer, `idle`
//! holds connections.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use anyhow::Result;
use rustix::event::epoll::EventFlags;

use crate::poll::Poll;
use crate::sys;
use crate::wire::{HEAD, Tally, UNANSWERED, Until, connect, messages, now_ns};

/// What every client must know: to whom, how many, how large, how long.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Load {
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
    /// Connect, then wait for a line on standard input before the first message
    #[arg(long)]
    pub(crate) go: bool,
}

impl Load {
    /// Opens the connections; with `--go`, waits until told to begin.
    pub(crate) fn connect(&self) -> Result<Vec<TcpStream>> {
        let conns = connect(self.port, self.conns)?;
        if self.go {
            std::io::stdin().read_line(&mut String::new())?;
        }
        Ok(conns)
    }
}

/// Options of `kcm-bench send`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct SendArgs {
    #[command(flatten)]
    pub(crate) load: Load,
    /// Bytes of the batch that is written again and again
    #[arg(long, default_value_t = 256 * 1024)]
    pub(crate) batch: usize,
    /// Connections that send, evenly spread among all (default: all)
    #[arg(long)]
    pub(crate) active: Option<usize>,
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
    let size = a.load.size;
    let count = (a.batch / (HEAD + size)).max(1);
    let batch = messages(size, count);
    let all = a.load.connect()?;
    let step = (all.len() / a.active.unwrap_or(all.len()).max(1)).max(1);
    let mut conns: Vec<Conn> = Vec::new();
    let mut idle = Vec::new();
    for (i, stream) in all.into_iter().enumerate() {
        if i % step == 0 && a.active.is_none_or(|n| conns.len() < n) {
            conns.push(Conn { stream, offset: 0, batches: 0 });
        } else {
            idle.push(stream);
        }
    }
    let stop = Until::start(a.load.secs);
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
    let per_batch = if size >= 8 { count as u64 * (count as u64 - 1) / 2 } else { 0 };
    let sent = Tally {
        msgs: batches * count as u64,
        bytes: batches * batch.len() as u64,
        sum: batches.wrapping_mul(per_batch),
        ..Tally::default()
    };
    sent.print_sent("");
    drop(idle);
    Ok(())
}

/// Options of `kcm-bench lat`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct LatArgs {
    #[command(flatten)]
    pub(crate) load: Load,
    /// Requests per second on each connection, 0 for the next as soon as one is answered
    #[arg(long, default_value_t = 0)]
    pub(crate) rate: u64,
    /// One connection more, which sends without asking for answers, as fast as it goes
    #[arg(long)]
    pub(crate) flood: bool,
}

/// Round trips; the answers must be what was sent.
pub(crate) fn lat(a: &LatArgs) -> Result<()> {
    let Load { size, secs, .. } = a.load;
    let flooder = if a.flood { connect(a.load.port, 1)?.pop() } else { None };
    let conns = a.load.connect()?;
    let stop = Until::start(secs);
    let flooder = flooder.map(|s| std::thread::spawn(move || flood(s, size, stop)));
    let count = conns.len();
    let threads: Vec<_> = conns
        .into_iter()
        .enumerate()
        .map(|(i, s)| {
            // The connections' requests are spread over the interval.
            let interval = 1_000_000_000u64.checked_div(a.rate).unwrap_or(0);
            let pace = Pace { interval, next: now_ns() + interval * i as u64 / count as u64 };
            std::thread::spawn(move || round_trips(s, size, stop, pace))
        })
        .collect();
    let mut all = Vec::new();
    for t in threads {
        all.extend(t.join().map_err(|_| anyhow::anyhow!("a client thread panicked"))??);
    }
    let flooded = match flooder {
        Some(t) => t.join().map_err(|_| anyhow::anyhow!("the flood panicked"))??,
        None => 0,
    };
    all.sort_unstable();
    let quantile = |q: f64| {
        let at = (all.len().saturating_sub(1)) as f64 * q;
        all.get(at as usize).map_or(0.0, |ns| *ns as f64 / 1e3)
    };
    let (p50, p99) = (quantile(0.5), quantile(0.99));
    let asked = all.len() as u64;
    let msgs = asked + flooded;
    let bytes = msgs * (HEAD + size) as u64;
    Tally { msgs, bytes, sum: flooded.wrapping_mul(UNANSWERED), ..Tally::default() }
        .print_sent(&format!(" p50={p50:.2} p99={p99:.2} asked={asked} flooded={flooded}"));
    Ok(())
}

/// When a connection asks next.
struct Pace {
    /// 0: at once.
    interval: u64,
    next: u64,
}

impl Pace {
    /// Sleeps until it is time; the time.
    fn wait(&mut self) -> u64 {
        let now = now_ns();
        if self.interval == 0 {
            return now;
        }
        if let Some(ahead) = self.next.checked_sub(now) {
            std::thread::sleep(std::time::Duration::from_nanos(ahead));
        }
        self.next += self.interval;
        now_ns()
    }
}

fn round_trips(mut s: TcpStream, size: usize, stop: u64, mut pace: Pace) -> Result<Vec<u64>> {
    let request = messages(size, 1);
    let mut answer = vec![0; request.len()];
    let mut out = Vec::new();
    loop {
        let start = pace.wait();
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

/// Messages that want no answer, without a pause; how many. Runs only when nobody else on its
/// CPU wants to, so that what the others see is the server's doing and not this thread's.
fn flood(mut s: TcpStream, size: usize, stop: u64) -> Result<u64> {
    sys::only_when_idle()?;
    let mut one = messages(size, 1);
    anyhow::ensure!(size >= 8, "a message that wants no answer needs a number");
    one[HEAD..HEAD + 8].copy_from_slice(&UNANSWERED.to_le_bytes());
    let count = ((64 * 1024) / one.len()).max(1);
    let batch = one.repeat(count);
    let mut sent = 0;
    while now_ns() < stop {
        s.write_all(&batch)?;
        sent += count as u64;
    }
    Ok(sent)
}

/// Options of `kcm-bench idle`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct IdleArgs {
    #[command(flatten)]
    pub(crate) load: Load,
}

/// Connects, sends one message on each connection, closes when standard input ends.
pub(crate) fn idle(a: &IdleArgs) -> Result<()> {
    let mut conns = a.load.connect()?;
    let one = messages(a.load.size, 1);
    println!("START start_ns={}", now_ns());
    for s in &mut conns {
        s.write_all(&one)?;
    }
    let msgs = conns.len() as u64;
    Tally { msgs, bytes: msgs * one.len() as u64, ..Tally::default() }.print_sent("");
    std::io::stdout().flush()?;
    while std::io::stdin().read_line(&mut String::new())? > 0 {}
    Ok(())
}
