//! Many workers share a few connections to a Redis server, through one multiplexor.
//!
//! ```text
//! cargo run --example redis_pool -- [SERVER] [CONNECTIONS] [WORKERS] [REQUESTS]
//! cargo run --example redis_pool -- 127.0.0.1:6379 4 64 100000
//! ```
//!
//! Each worker counts with keys of its own and checks every reply. The pool itself, in
//! `pool.rs`, is what to take from here.

#[allow(unreachable_pub)]
mod pool;

use std::time::Instant;

use pool::Pool;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let server = args.next().unwrap_or_else(|| "127.0.0.1:6379".to_owned()).parse()?;
    let connections: usize = args.next().map_or(Ok(4), |n| n.parse())?;
    let workers: usize = args.next().map_or(Ok(64), |n| n.parse())?;
    let requests: usize = args.next().map_or(Ok(100_000), |n| n.parse())?;

    let pool = Pool::connect(server, connections, kcm_core::parsers::resp()).await?;
    println!("{} connections to {server}, {workers} workers", pool.connections());
    let start = Instant::now();
    let mut tasks = Vec::new();
    for worker in 0..workers {
        let pool = pool.clone();
        let rounds = requests / workers / 2;
        tasks.push(tokio::spawn(async move {
            let key = format!("kcm-pool:{worker}");
            for round in 0..rounds {
                let value = format!("{worker}/{round}");
                let set = [&b"SET"[..], key.as_bytes(), value.as_bytes()];
                let reply = pool.request(&set).await?;
                assert_eq!(&reply[..], b"+OK\r\n");
                let reply = pool.request(&[b"GET", key.as_bytes()]).await?;
                let expected = format!("${}\r\n{value}\r\n", value.len());
                assert_eq!(reply, expected, "another worker's reply");
            }
            pool.request(&[b"DEL", key.as_bytes()]).await?;
            Ok::<_, pool::RequestError>(2 * rounds + 1)
        }));
    }
    let mut done = 0;
    for task in tasks {
        done += task.await??;
    }
    let took = start.elapsed();
    let stats = pool.socket().mux_stats();
    println!(
        "{done} requests in {took:.2?}, {:.0} a second; {} messages sent, {} received",
        done as f64 / took.as_secs_f64(),
        stats.tx_msgs,
        stats.rx_msgs,
    );
    Ok(())
}
