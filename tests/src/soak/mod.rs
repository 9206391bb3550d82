//! The chaos soak: connections that end in every way, peers and readers of every kind, sockets
//! that come and go; and books that must agree at the end.
//!
//! What is done follows from the seed. Who is faster does not: a failure that is a race may
//! take several runs of its seed to show again.

mod conn;
mod ledger;
mod peer;
mod plan;
mod station;

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use kcm_core::stats::MuxStats;
use kcm_core::{KcmSocket, SocketType};
use tokio::task::JoinSet;
use tokio::time::sleep;

use self::ledger::Ledger;
use self::plan::{CUTS, INJECTED, Plan};
use self::station::Hall;
use crate::harness::{Rng, alive_tasks, open_fds};

/// How long what is under way at the end may take.
const SETTLE: Duration = Duration::from_secs(120);

/// By how much the process may have grown since its first quarter, in bytes, where the heap is
/// not counted. What the allocator keeps in its arenas goes up and down by some MiB; a leaked
/// message block per connection would be far more.
const GROWTH: u64 = 64 << 20;

/// What may be on the heap at the end more than after the first quarter, when connections and
/// messages were there: the books of what was sent.
const HEAP_GROWTH: u64 = 2 << 20;

/// After so many connections everything must have been done.
const ENOUGH: u64 = 800;

/// Bytes on the heap now, if the process counts them (`cargo xtask soak` does); else 0.
pub static HEAP: AtomicUsize = AtomicUsize::new(0);

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// New connections are made for this long.
    pub time: Duration,
    /// Everything planned follows from it.
    pub seed: u64,
    /// Connections at a time.
    pub connections: usize,
    /// KCM sockets at a time, besides one per multiplexor that only attaches.
    pub sockets: usize,
    /// Not a word but the last.
    pub quiet: bool,
}

/// Runs it; the report of a run that found nothing wrong.
///
/// # Errors
/// What was found wrong, with all that is known about it.
pub async fn run(options: Options) -> Result<String> {
    let (fds, tasks) = (open_fds(), alive_tasks());
    let soak = Soak::new();
    let mut out = soak.go(&options).await;
    // Everything is dropped: nothing may be left of it.
    let gone = |what: &str, now: &dyn Fn() -> usize, before: usize| {
        (now() > before).then(|| format!("{} {what} left over", now() - before))
    };
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end && (open_fds() > fds || alive_tasks() > tasks) {
        sleep(Duration::from_millis(10)).await;
    }
    let left = [gone("descriptors", &open_fds, fds), gone("tasks", &alive_tasks, tasks)];
    out.failures.extend(left.into_iter().flatten());
    if out.failures.is_empty() {
        return Ok(out.report);
    }
    let mut text = String::new();
    for failure in &out.failures {
        let _ = writeln!(text, "FAILED: {failure}");
    }
    let (seed, minutes) = (options.seed, options.time.as_secs_f64() / 60.0);
    bail!(
        "{text}{}\nto replay: cargo xtask soak --seed {seed} --minutes {minutes:.2} \
         --connections {} --sockets {}\n(the plan is the same each time; who is faster is not, \
         so a race may take several runs)",
        out.report,
        options.connections,
        options.sockets,
    )
}

struct Outcome {
    report: String,
    failures: Vec<String>,
}

struct Soak {
    ledger: Arc<Ledger>,
    roots: Arc<Vec<KcmSocket>>,
    halls: Vec<Arc<Hall>>,
    begun: Instant,
}

/// One KCM socket in use.
struct Station {
    mux: usize,
    socket: Arc<KcmSocket>,
    sending: Arc<AtomicBool>,
    receiving: Arc<AtomicBool>,
    sender: tokio::task::JoinHandle<()>,
    receiver: tokio::task::JoinHandle<()>,
}

impl Soak {
    fn new() -> Self {
        // Two multiplexors: one waits for a stuck peer, the other gives it up.
        let roots =
            [(SocketType::Dgram, None), (SocketType::Seqpacket, Some(300))].map(|(kind, stall)| {
                KcmSocket::builder(kind).stall_deadline(stall.map(Duration::from_millis)).build()
            });
        roots.iter().for_each(|root| root.set_recv_disabled(true));
        let halls = roots.iter().map(|_| Arc::default()).collect();
        Soak { ledger: Arc::default(), roots: Arc::new(roots.into()), halls, begun: Instant::now() }
    }

    async fn go(self, options: &Options) -> Outcome {
        let (stop, anchors_stop) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let mut rng = Rng::new(options.seed);
        let mut conns = JoinSet::new();
        let mut anchors = JoinSet::new();
        let mut next = 0_u32;
        for mux in 0..self.roots.len() {
            let plan = Plan::anchor(options.seed, u32::MAX / 8 + mux as u32, mux);
            let (roots, ledger) = (self.roots.clone(), self.ledger.clone());
            anchors.spawn(conn::run(plan, roots, ledger, Arc::clone(&anchors_stop)));
        }
        let mut stations = Vec::new();
        let mut opened = 0_u32;
        let watch = Watch::spawn(&self, options, stop.clone());
        while self.begun.elapsed() < options.time && !self.ledger.failed() {
            while conns.len() < options.connections {
                let plan = Plan::new(options.seed, next, self.roots.len());
                next += 1;
                let (roots, ledger) = (self.roots.clone(), self.ledger.clone());
                conns.spawn(conn::run(plan, roots, ledger, stop.clone()));
            }
            while stations.len() < options.sockets {
                let mux = opened as usize % self.roots.len();
                match self.open(mux, opened, &mut rng) {
                    Ok(station) => stations.push(station),
                    Err(e) => self.ledger.fail(format!("clone: {e}")),
                }
                opened += 1;
            }
            sleep(Duration::from_millis(1 + rng.below(20) as u64)).await;
            while conns.try_join_next().is_some() {}
            let station = &stations[rng.below(stations.len())];
            let hall = &self.halls[station.mux];
            match rng.below(12) {
                0..4 => {
                    self.ledger.injected("disable and enable");
                    let off = station.socket.clone();
                    hall.moves.during(|| off.set_recv_disabled(true));
                    sleep(Duration::from_millis(rng.below(20) as u64)).await;
                    hall.moves.during(|| off.set_recv_disabled(false));
                }
                4 => {
                    self.ledger.injected("receive buffer changed");
                    station.socket.set_recv_buffer(1 + rng.below(100_000));
                }
                5 => {
                    self.ledger.injected("low water changed");
                    station.socket.set_recv_low_water(1 + rng.below(50_000));
                }
                6 => {
                    self.ledger.injected("send buffer changed");
                    station.socket.set_send_buffer(1 + rng.below(300_000));
                }
                7 => {
                    let at = rng.below(stations.len());
                    let station = stations.swap_remove(at);
                    self.close(station, rng.below(2) == 0).await;
                }
                _ => {}
            }
        }
        self.finish(conns, anchors, stations, &anchors_stop).await;
        stop.store(true, Ordering::Relaxed);
        let watched = watch.end().await;
        self.sums(&watched);
        let report = self.report(options, next, opened, &watched);
        Outcome { report, failures: self.ledger.failures() }
    }

    fn open(&self, mux: usize, id: u32, rng: &mut Rng) -> Result<Station, kcm_core::SocketError> {
        let hall = self.halls[mux].clone();
        // A clone takes what is held, which may be older than what others have read.
        let socket = Arc::new(hall.moves.during(|| self.roots[mux].try_clone())?);
        self.ledger.injected("clone");
        let sizes = [2_000, 20_000, 212_992];
        socket.set_recv_buffer(sizes[rng.below(3)]);
        let sending = Arc::new(AtomicBool::new(false));
        let receiving = Arc::new(AtomicBool::new(false));
        let sender = tokio::spawn(station::send(
            socket.clone(),
            id,
            self.ledger.clone(),
            sending.clone(),
            rng.number(),
        ));
        let receiver = tokio::spawn(station::receive(
            socket.clone(),
            hall,
            self.ledger.clone(),
            receiving.clone(),
            rng.number(),
        ));
        Ok(Station { mux, socket, sending, receiving, sender, receiver })
    }

    /// Closes a station: with everything sent, or at once.
    async fn close(&self, station: Station, drain: bool) {
        let Station { mux, socket, sending, receiving, sender, receiver } = station;
        sending.store(true, Ordering::Relaxed);
        self.within("a sender", sender).await;
        receiving.store(true, Ordering::Relaxed);
        self.within("a receiver", receiver).await;
        let Some(socket) = Arc::into_inner(socket) else {
            return self.ledger.fail("somebody still holds a socket");
        };
        let moves = &self.halls[mux].moves;
        self.ledger.injected(if drain { "close, drained" } else { "close, at once" });
        if drain {
            // Its unread messages move in the call, not while it waits.
            let mut close = Box::pin(socket.close());
            let first = moves.during(|| crate::harness::poll_once(close.as_mut()));
            if first.is_pending() {
                self.within("close", close).await;
            }
        } else {
            moves.during(|| drop(socket));
        }
    }

    /// Awaits what must end.
    async fn within<T>(&self, what: &str, future: impl Future<Output = T>) -> Option<T> {
        let done = tokio::time::timeout(SETTLE, future).await.ok();
        if done.is_none() {
            self.ledger.fail(format!("{what} did not end; {}", self.state()));
        }
        done
    }

    /// Lets everything come to its end.
    async fn finish(
        &self,
        mut conns: JoinSet<()>,
        mut anchors: JoinSet<()>,
        stations: Vec<Station>,
        anchors_stop: &AtomicBool,
    ) {
        stations.iter().for_each(|s| s.sending.store(true, Ordering::Relaxed));
        for station in &stations {
            // Everything sent leaves: there is always an anchor that takes it.
            if let Some(Err(e)) = self.within("flush", station.socket.flush()).await {
                self.ledger.fail(format!("flush: {e}"));
            }
        }
        let ended = async { while conns.join_next().await.is_some() {} };
        self.within("connections", ended).await;
        anchors_stop.store(true, Ordering::Relaxed);
        let ended = async { while anchors.join_next().await.is_some() {} };
        self.within("anchors", ended).await;
        let end = Instant::now() + SETTLE;
        let waiting = |s: &MuxStats| s.queued_msgs + s.held_msgs + s.parked_msgs;
        while !self.ledger.failed()
            && (self.ledger.settle(false) > 0
                || self.roots.iter().any(|r| waiting(&r.mux_stats()) > 0))
        {
            if Instant::now() > end {
                self.ledger.fail(format!("messages are left in queues; {}", self.state()));
            }
            sleep(Duration::from_millis(10)).await;
        }
        for station in stations {
            self.close(station, true).await;
        }
        self.ledger.settle(true);
    }

    /// The sums that must agree when nothing is under way any more.
    fn sums(&self, watched: &Watched) {
        if self.ledger.failed() {
            return;
        }
        let t = self.ledger.totals();
        let equal = |what: &str, a: u64, b: u64| {
            if a != b {
                self.ledger.fail(format!("{what}: {a} != {b}; {t:?}; {}", self.state()));
            }
        };
        let all: Vec<MuxStats> = self.roots.iter().map(KcmSocket::mux_stats).collect();
        let sum = |of: fn(&MuxStats) -> u64| all.iter().map(of).sum::<u64>();
        equal("sent by peers, accounted for", t.sent, t.delivered + t.returned + t.reset_in);
        equal("delivered, as counted by us and by them", t.delivered, sum(|s| s.delivered_msgs));
        let read: u64 = self.halls.iter().map(|h| h.read.load(Ordering::Relaxed)).sum();
        equal("delivered, as read", read, sum(|s| s.delivered_msgs));
        equal("accepted, as counted by us and by them", t.accepted, sum(|s| s.accepted_msgs));
        let out = sum(|s| s.tx_msgs);
        equal("accepted, accounted for", t.accepted, out + sum(|s| s.tx_dropped_msgs));
        equal("written, accounted for", out, t.got + t.reset_out);
        equal("attached, unattached", sum(|s| s.attach), sum(|s| s.unattach));
        equal("left in send queues", sum(|s| s.send_queued_msgs + s.send_queued_bytes), 0);
        equal("dropped on the way in", sum(|s| s.rx_ready_drops), 0);
        let batches = sum(|s| s.rx_batch_sizes.iter().sum());
        equal("batches, by size and by connection", batches, sum(|s| s.psocks.rx_batches));
        equal("memory for unfinished messages", sum(|s| s.memory.assembly), 0);
        // What no connection and no message is left for: the queues' own rooms.
        let queues = sum(|s| s.memory.received + s.memory.send);
        if queues > 64 << 10 {
            self.ledger.fail(format!("{queues} bytes are held for no message"));
        }
        let (what, grown, most) = match watched.heap_quarter {
            0 => ("process", watched.grown(), GROWTH),
            _ => ("heap", watched.heap_grown(), HEAP_GROWTH),
        };
        if grown > most {
            self.ledger.fail(format!("the {what} has grown by {} KiB", grown >> 10));
        }
        if t.conns >= ENOUGH {
            for what in INJECTED.iter().filter(|what| !t.injected.contains_key(*what)) {
                self.ledger.fail(format!("in {} connections no {what}", t.conns));
            }
            equal("byte positions with a FIN", t.fins.len() as u64, CUTS as u64);
        }
    }

    fn state(&self) -> String {
        self.roots.iter().map(|root| format!("\n{}", root.proc_net_kcm())).collect()
    }

    fn report(&self, options: &Options, conns: u32, sockets: u32, watched: &Watched) -> String {
        let t = self.ledger.totals();
        let all: Vec<MuxStats> = self.roots.iter().map(KcmSocket::mux_stats).collect();
        let sum = |of: fn(&MuxStats) -> u64| all.iter().map(of).sum::<u64>();
        let mut out = String::new();
        let _ = writeln!(
            out,
            "soak: seed {}, {:.0} s, {} connections, {} sockets, {} looks at the counters",
            options.seed,
            self.begun.elapsed().as_secs_f64(),
            conns + self.roots.len() as u32,
            sockets,
            watched.looks,
        );
        let _ = writeln!(
            out,
            "in:   {} sent whole = {} delivered + {} given back + {} lost in resets",
            t.sent, t.delivered, t.returned, t.reset_in
        );
        let _ = writeln!(
            out,
            "out:  {} accepted = {} arrived + {} lost in resets + {} dropped at a close or with \
             the connection they were for; {} begun again elsewhere",
            t.accepted,
            t.got,
            t.reset_out,
            sum(|s| s.tx_dropped_msgs),
            sum(|s| s.tx_retries)
        );
        let _ = writeln!(
            out,
            "order: {} pairs of messages in order, {} not compared (moved between sockets)",
            t.ordered, t.exempt
        );
        let _ = writeln!(
            out,
            "memory: {} MiB after a quarter, {} MiB at the end; at most {} KiB queued",
            watched.rss_quarter >> 20,
            watched.rss_end >> 20,
            watched.most_queued >> 10
        );
        if watched.heap_quarter > 0 {
            let _ = writeln!(
                out,
                "heap:  {} KiB after a quarter, {} KiB at the end; of it the multiplexors' at most \
                 {} KiB, {} KiB at the end",
                watched.heap_quarter >> 10,
                watched.heap_end >> 10,
                watched.most_memory >> 10,
                sum(|s| s.memory.total()) >> 10,
            );
        }
        let injected: Vec<String> = t.injected.iter().map(|(w, n)| format!("{w} {n}")).collect();
        let _ = writeln!(
            out,
            "done:  {}; a FIN at {} of {CUTS} byte positions",
            injected.join(", "),
            t.fins.len()
        );
        let causes: Vec<String> = t.causes.iter().map(|(c, n)| format!("{c} {n}")).collect();
        let _ = write!(out, "ends: {}", causes.join(", "));
        out
    }
}

/// What the watcher saw.
#[derive(Clone, Copy, Debug, Default)]
struct Watched {
    looks: u64,
    rss_quarter: u64,
    rss_end: u64,
    most_queued: u64,
    /// On the heap, where that is counted.
    heap_quarter: u64,
    heap_end: u64,
    /// Of it, by the multiplexors' own account.
    most_memory: u64,
}

impl Watched {
    fn grown(&self) -> u64 {
        self.rss_end.saturating_sub(self.rss_quarter)
    }

    fn heap_grown(&self) -> u64 {
        self.heap_end.saturating_sub(self.heap_quarter)
    }
}

/// Looks at the counters all the time: their sums hold at every moment.
struct Watch {
    task: tokio::task::JoinHandle<Watched>,
}

impl Watch {
    fn spawn(soak: &Soak, options: &Options, stop: Arc<AtomicBool>) -> Self {
        let (roots, ledger) = (soak.roots.clone(), soak.ledger.clone());
        let (begun, options) = (soak.begun, options.clone());
        let spoken = AtomicU64::new(0);
        let task = tokio::spawn(async move {
            let mut seen = Watched::default();
            while !stop.load(Ordering::Relaxed) {
                let (mut queued, mut memory) = (0, 0);
                for root in roots.iter() {
                    let s = root.mux_stats();
                    queued += s.queued_bytes + s.held_bytes + s.parked_bytes + s.send_queued_bytes;
                    memory += s.memory.total();
                    check(&s, &ledger);
                }
                seen.looks += 1;
                seen.most_queued = seen.most_queued.max(queued);
                seen.most_memory = seen.most_memory.max(memory);
                if seen.rss_quarter == 0 && begun.elapsed() > options.time / 4 {
                    seen.rss_quarter = rss();
                    seen.heap_quarter = HEAP.load(Ordering::Relaxed) as u64;
                }
                ledger.settle(false);
                let tens = begun.elapsed().as_secs() / 10;
                if !options.quiet && spoken.swap(tens, Ordering::Relaxed) < tens {
                    let t = ledger.totals();
                    eprintln!(
                        "{:>5} s: {} connections ended, {} messages in, {} out, {} KiB queued, \
                         {} MiB",
                        begun.elapsed().as_secs(),
                        t.conns,
                        t.delivered + t.returned,
                        t.accepted,
                        queued >> 10,
                        rss() >> 20
                    );
                }
                sleep(Duration::from_millis(10)).await;
            }
            seen.rss_end = rss();
            seen.heap_end = HEAP.load(Ordering::Relaxed) as u64;
            seen
        });
        Watch { task }
    }

    async fn end(self) -> Watched {
        self.task.await.unwrap_or_default()
    }
}

fn check(s: &MuxStats, ledger: &Ledger) {
    let came = s.delivered_msgs
        + s.queued_msgs
        + s.held_msgs
        + s.parked_msgs
        + s.returned_msgs
        + s.rx_ready_drops;
    if s.rx_msgs != came || s.accepted_msgs != s.tx_msgs + s.send_queued_msgs + s.tx_dropped_msgs {
        ledger.fail(format!("counters that do not agree: {s:?}"));
    }
    let bytes =
        s.delivered_bytes + s.queued_bytes + s.held_bytes + s.parked_bytes + s.returned_bytes;
    if s.rx_bytes != bytes {
        ledger.fail(format!("bytes that do not agree: {s:?}"));
    }
    if s.memory.received < s.queued_bytes + s.held_bytes + s.parked_bytes
        || s.memory.send < s.send_queued_bytes
    {
        ledger.fail(format!("less memory than there are messages: {s:?}"));
    }
}

/// Memory of this process that is in use, in bytes.
fn rss() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}
