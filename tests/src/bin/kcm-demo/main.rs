//! `kcm-demo`: N connections feed M message sockets, and you can watch.
//!
//! * by itself: a peer of its own sends numbered messages on every connection; each message
//!   must arrive once, whole, and in its connection's order
//! * `--redis ADDR`: a pool of connections to a real Redis, shared by workers; every reply is
//!   checked
//! * `--listen ADDR`: whoever connects is delineated, by a built-in parser or by your own

mod board;
mod listen;
mod live;
mod load;
mod own;
mod peer;
mod redis;
mod shape;
mod summary;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// N connections feed M message sockets. By default from a peer of its own.
#[derive(Parser, Clone, Debug)]
#[command(name = "cargo xtask demo")]
pub(crate) struct Cli {
    /// Connections
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    conns: u16,
    /// Message sockets, each with a task of its own
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    sockets: u16,
    /// Payload bytes of a message (own peer and --redis)
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(16..=16_000_000))]
    size: u32,
    /// Stop after this many seconds (default: 5; with --listen: never)
    #[arg(long)]
    seconds: Option<f64>,
    /// A built-in parser, or a BPF object file
    #[arg(long, default_value = "thrift", value_name = "NAME|FILE.o")]
    parser: String,
    /// The program in the object file (default: its only one)
    #[arg(long, value_name = "NAME")]
    program: Option<String>,
    /// Which executor runs the parser
    #[arg(long, value_enum, default_value_t = load::ExecArg::Auto)]
    exec: load::ExecArg,
    /// Take the built-in parsers' objects from this folder instead of those embedded
    #[arg(long, value_name = "DIR")]
    objects: Option<PathBuf>,
    /// Share connections to the Redis at this address, as a pool
    #[arg(long, value_name = "ADDR", conflicts_with = "listen")]
    redis: Option<String>,
    /// With --redis: requests in flight on a connection
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pipeline: u16,
    /// Accept connections at this address and delineate what they send
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// The longest message, in bytes (default: the connection's receive buffer)
    #[arg(long, value_name = "BYTES")]
    max_message: Option<u32>,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
    /// Be the peer of another kcm-demo that listens on this port of 127.0.0.1
    #[arg(long, hide = true, value_name = "PORT")]
    peer_of: Option<u16>,
}

impl Cli {
    fn attach_options(&self, longest: u32) -> kcm_core::AttachOptions {
        let options = kcm_core::AttachOptions::new();
        match self.max_message {
            Some(bytes) => options.max_message(bytes),
            // Our own messages must pass, however small the system's buffers are.
            None if longest > 0 => options.max_message(longest),
            None => options,
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// True if everything was as it should be.
fn run(cli: &Cli) -> Result<bool> {
    if let Some(port) = cli.peer_of {
        peer::run(cli, port)?;
        return Ok(true);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let summary = runtime.block_on(async {
        if let Some(addr) = &cli.redis {
            redis::run(cli, addr).await
        } else if let Some(addr) = cli.listen {
            listen::run(cli, addr).await
        } else {
            own::run(cli).await
        }
    })?;
    summary.print(cli.json);
    Ok(summary.problems.is_empty())
}
