//! `kcm-bench memory`: what an attached connection costs beyond its socket, by the allocator's
//! own count. One arena, so that the count is of everything.

use std::time::Duration;

use anyhow::{Context, Result};
use kcm_core::bpf::run::Exec;
use kcm_tests::load::built_in;
use tokio::net::TcpStream;

use crate::kcm::sockets;
use crate::wire::{HEAD, Tally, accept};

/// Options of `kcm-bench memory`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct MemoryArgs {
    /// Connections to accept
    #[arg(long, default_value_t = 10_000)]
    conns: usize,
    /// Payload bytes of the message that comes on each
    #[arg(long, default_value_t = 64)]
    size: usize,
}

/// Bytes in use: of the allocator, and resident.
#[derive(Clone, Copy, Debug)]
struct Used {
    heap: u64,
    resident: u64,
}

/// Accepts, attaches, takes one message of each connection; prints what each step added.
pub(crate) fn run(a: &MemoryArgs) -> Result<()> {
    one_arena();
    let rt = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    rt.block_on(steps(a))
}

async fn steps(a: &MemoryArgs) -> Result<()> {
    let parser = built_in("thrift", Exec::Auto)?;
    let mut conns = Vec::with_capacity(a.conns);
    for s in accept(a.conns)? {
        s.set_nonblocking(true)?;
        conns.push(TcpStream::from_std(s)?);
    }
    let before = settled().await;
    let sockets = sockets(conns, &parser, 1, a.size)?;
    let socket = sockets.first().context("no socket")?;
    let attached = settled().await;
    println!("ATTACHED");
    let mut t = Tally::default();
    while t.msgs < a.conns as u64 {
        let batch = socket.recv_batch().await?;
        for m in &batch {
            t.eat(m.get(HEAD..).context("a message shorter than its head")?);
        }
    }
    // The messages are gone, the connections are as idle as before them. What they read into goes
    // back two seconds after its last use, and is not theirs.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after = settled().await;
    let of = |u: Used| {
        let per = |now: u64, then: u64| (now as f64 - then as f64) / a.conns as f64;
        (per(u.heap, before.heap), per(u.resident, before.resident))
    };
    let ((attached, attached_rss), (used, used_rss)) = (of(attached), of(after));
    println!(
        "MEMORY attached={attached:.1} attached_rss={attached_rss:.1} used={used:.1} \
         used_rss={used_rss:.1}"
    );
    t.print_done();
    Ok(())
}

/// What is in use once nothing changes any more: tasks that were just woken have run.
async fn settled() -> Used {
    let mut last = used();
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = used();
        if now.heap == last.heap {
            return now;
        }
        last = now;
    }
    last
}

fn used() -> Used {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = status.split_whitespace().nth(1).and_then(|w| w.parse::<u64>().ok()).unwrap_or(0);
    Used { heap: heap(), resident: pages * rustix::param::page_size() as u64 }
}

#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
fn heap() -> u64 {
    // SAFETY: the call takes nothing and returns plain numbers.
    let info = unsafe { libc::mallinfo2() };
    (info.uordblks + info.hblkhd) as u64
}

#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
fn one_arena() {
    // SAFETY: the call takes two numbers; no other thread runs yet that could be allocating.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Other allocators do not say; what is resident remains.
#[cfg(not(target_env = "gnu"))]
fn heap() -> u64 {
    0
}

#[cfg(not(target_env = "gnu"))]
fn one_arena() {}
