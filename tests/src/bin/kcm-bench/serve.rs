//! `kcm-bench serve`: receives from N connections and gives each message to one of M
//! consumers, by our own sockets or by one of the peers.

use anyhow::Result;

use kcm_core::bpf::run::Exec;
use kcm_core::parser::Parser;
use kcm_tests::load;
use kcm_tests::streams::native;

use crate::kcm::{self, Take};
use crate::rx_peers;
use crate::wire::{READ, Tally, accept};

/// Options of `kcm-bench serve`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ServeArgs {
    /// Who receives
    #[arg(long, value_enum, default_value_t = RxVariant::Kcm)]
    pub(crate) variant: RxVariant,
    /// Connections to accept
    #[arg(long, default_value_t = 1)]
    pub(crate) conns: usize,
    /// Consumers
    #[arg(long, default_value_t = 1)]
    pub(crate) consumers: usize,
    /// Payload bytes of the messages to come (receivers that must know get it from each head)
    #[arg(long, default_value_t = 64)]
    pub(crate) size: usize,
    /// Send each message back on the connection it came from
    #[arg(long)]
    pub(crate) echo: bool,
    /// Print `ATTACHED` once every connection is in place, and let the run end with the last
    /// message instead of the last connection: for runs with thousands of connections
    #[arg(long)]
    pub(crate) announce: bool,
}

impl ServeArgs {
    /// Every connection is in place.
    pub(crate) fn announce(&self) {
        if self.announce {
            println!("ATTACHED");
        }
    }
}

/// A receiver.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RxVariant {
    /// KCM sockets, a batch at a time; the parser on the best executor
    Kcm,
    /// The same, `recv` for each message
    KcmOne,
    /// The same as `kcm`, the parser interpreted
    KcmInterp,
    /// KCM sockets, a batch at a time, the parse function native: what steering alone costs
    KcmNative,
    /// Blocking reads, nothing parsed
    Raw,
    /// One epoll thread, native parser, no steering
    Epoll,
    /// The same, a connection read until it is empty, and as many bytes at a time as `uring`
    EpollEmpty,
    /// The same on io_uring: multishot receives, buffers that the kernel picks
    Uring,
    /// tokio-util Framed, consumed in place
    Framed,
    /// tokio-util Framed and one flume channel
    FramedFlume,
    /// tokio-util Framed and a tokio channel per consumer
    FramedMpsc,
    /// tokio, native parser, a block of messages per read
    Block,
    /// tokio, native parser, a `Vec<Bytes>` per read
    Batch,
}

/// Runs the server until every connection has ended.
pub(crate) fn run(a: &ServeArgs) -> Result<()> {
    let tally = match a.variant {
        RxVariant::Raw => rx_peers::raw(accept(a.conns)?)?,
        RxVariant::Epoll => {
            let conns = accept(a.conns)?;
            a.announce();
            rx_peers::epoll(conns, a, READ, false)?
        }
        RxVariant::EpollEmpty => rx_peers::epoll(accept(a.conns)?, a, crate::uring::EACH, true)?,
        RxVariant::Uring => crate::uring::receive(&accept(a.conns)?, a)?,
        _ => tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?
            .block_on(on_tokio(a))?,
    };
    tally.print_done();
    Ok(())
}

async fn on_tokio(a: &ServeArgs) -> Result<Tally> {
    let mut conns = Vec::new();
    for s in accept(a.conns)? {
        s.set_nonblocking(true)?;
        conns.push(tokio::net::TcpStream::from_std(s)?);
    }
    let ours = [RxVariant::Kcm, RxVariant::KcmOne, RxVariant::KcmInterp, RxVariant::KcmNative];
    if !ours.contains(&a.variant) {
        // Ours say so themselves, once they have attached them all.
        a.announce();
    }
    match a.variant {
        RxVariant::Kcm => kcm::receive(conns, a, &thrift(Exec::Auto)?, Take::Batches).await,
        RxVariant::KcmOne => kcm::receive(conns, a, &thrift(Exec::Auto)?, Take::Messages).await,
        RxVariant::KcmInterp => {
            kcm::receive(conns, a, &thrift(Exec::Interpreter)?, Take::Batches).await
        }
        RxVariant::KcmNative => kcm::receive(conns, a, &native("thrift"), Take::Batches).await,
        RxVariant::Framed => rx_peers::framed(conns, a).await,
        RxVariant::FramedFlume => rx_peers::framed_flume(conns, a).await,
        RxVariant::FramedMpsc => rx_peers::framed_mpsc(conns, a).await,
        RxVariant::Block => rx_peers::block(conns, a).await,
        RxVariant::Batch => rx_peers::batch(conns, a).await,
        _ => anyhow::bail!("{:?} does not run on tokio", a.variant),
    }
}

fn thrift(exec: Exec) -> Result<Parser> {
    load::built_in("thrift", exec)
}
