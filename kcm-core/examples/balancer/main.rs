//! A TCP load balancer that knows where messages end.
//!
//! ```text
//! cargo run --example balancer -- --listen 127.0.0.1:7000 --parser resp \
//!     --backend 127.0.0.1:6379 --backend 127.0.0.1:6380
//! cargo run --example balancer -- --listen 127.0.0.1:7000 --parser postgres --affinity \
//!     --backend 127.0.0.1:5432
//! ```
//!
//! Without `--affinity`, each request goes to whichever backend connection has least to do,
//! and replies come back in each client's order (`spread.rs`). With it, each client has a
//! backend connection of its own (`affinity.rs`): for protocols with sessions.
//!
//! Options: `--connections N` to each backend (4), `--shards N` (the number of processors);
//! without affinity only.

#[allow(unreachable_pub)]
mod affinity;
#[allow(unreachable_pub)]
mod spread;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::net::TcpListener;

struct Args {
    listen: String,
    parser: String,
    backends: Vec<SocketAddr>,
    affinity: bool,
    connections: usize,
    shards: usize,
}

fn args() -> Result<Args, Box<dyn std::error::Error>> {
    let mut args = Args {
        listen: "127.0.0.1:7000".to_owned(),
        parser: "resp".to_owned(),
        backends: Vec::new(),
        affinity: false,
        connections: 4,
        shards: std::thread::available_parallelism().map_or(1, |n| n.get()),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--listen" => args.listen = value()?,
            "--parser" => args.parser = value()?,
            "--backend" => args.backends.push(value()?.parse()?),
            "--affinity" => args.affinity = true,
            "--connections" => args.connections = value()?.parse()?,
            "--shards" => args.shards = value()?.parse()?,
            _ => return Err(format!("{word} is no option; see the head of the example").into()),
        }
    }
    if args.backends.is_empty() {
        return Err("name at least one --backend ADDRESS".into());
    }
    Ok(args)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = args()?;
    let parser = kcm_core::parsers::by_name(&args.parser).ok_or_else(|| {
        let names: Vec<_> = kcm_core::parsers::all().iter().map(|p| p.name()).collect();
        format!("there is no parser {}; there are {}", args.parser, names.join(", "))
    })?;
    let listener = TcpListener::bind(&args.listen).await?;
    println!("balancing {} on {}", args.parser, listener.local_addr()?);
    if args.affinity {
        let counts = Arc::new(affinity::Counts::default());
        let seen = counts.clone();
        report(move || (load(&seen.sessions), load(&seen.requests), load(&seen.replies)));
        let postgres = args.parser == "postgres";
        let balancer = affinity::Affinity { backends: args.backends, parser, postgres, counts };
        balancer.serve(listener).await?;
    } else {
        let counts = Arc::new(spread::Counts::default());
        let seen = counts.clone();
        report(move || (load(&seen.clients), load(&seen.requests), load(&seen.replies)));
        let balancer = spread::Spread {
            backends: args.backends,
            connections: args.connections,
            shards: args.shards,
            parser,
        };
        balancer.serve(listener, counts).await?;
    }
    Ok(())
}

fn load(count: &std::sync::atomic::AtomicU64) -> u64 {
    count.load(std::sync::atomic::Ordering::Relaxed)
}

/// Says what went through, when something did.
fn report(counts: impl Fn() -> (u64, u64, u64) + Send + 'static) {
    tokio::spawn(async move {
        let mut before = (0, 0, 0);
        loop {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let now = counts();
            if now != before {
                before = now;
                println!("{} clients, {} requests, {} replies", now.0, now.1, now.2);
            }
        }
    });
}
