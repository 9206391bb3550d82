//! `kcm-bench tx`: M producers, N connections, each message whole on one of them, by our own
//! sockets or by one of the peers. The other end is any `serve`.

use anyhow::Result;
use kcm_tests::streams::native;
use tokio::net::TcpStream;

use crate::kcm;
use crate::load::Load;
use crate::tx_peers;
use crate::wire::{HEAD, Tally};

/// Options of `kcm-bench tx`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct TxArgs {
    /// Who sends
    #[arg(long, value_enum, default_value_t = TxVariant::Kcm)]
    pub(crate) variant: TxVariant,
    #[command(flatten)]
    pub(crate) load: Load,
    /// Producers
    #[arg(long, default_value_t = 1)]
    pub(crate) producers: usize,
}

/// A sender.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TxVariant {
    /// KCM sockets, one per producer, an `await` per message
    Kcm,
    /// The same, 64 messages per call
    KcmMany,
    /// `Mutex<TcpStream>` per connection, round robin
    Mutex,
    /// `Mutex<Framed>` per connection, round robin
    Framed,
    /// A writer task per connection behind a channel: copy, one write for all that waits
    Mpsc,
    /// The same with one vectored write
    MpscWritev,
    /// The ceiling: threads append to a buffer per connection, whoever fills it to 32 KiB
    /// writes it; 64 messages stay on one connection. It holds messages back: no design to use
    Combining,
}

/// Sends for a time, then waits until everything has left.
pub(crate) fn run(a: &TxArgs) -> Result<()> {
    if a.variant == TxVariant::Combining {
        report(tx_peers::combining(a)?, a);
        return Ok(());
    }
    let rt = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let msgs = rt.block_on(async {
        let mut conns = Vec::new();
        for s in a.load.connect()? {
            s.set_nonblocking(true)?;
            conns.push(TcpStream::from_std(s)?);
        }
        match a.variant {
            // Nothing is received: no parser is ever asked.
            TxVariant::Kcm | TxVariant::KcmMany => kcm::send(conns, a, &native("thrift")).await,
            TxVariant::Mutex => tx_peers::mutex(conns, a).await,
            TxVariant::Framed => tx_peers::framed(conns, a).await,
            TxVariant::Mpsc => tx_peers::writers(conns, a, false).await,
            TxVariant::MpscWritev => tx_peers::writers(conns, a, true).await,
            TxVariant::Combining => unreachable!("has no runtime, and was run above"),
        }
    })?;
    report(msgs, a);
    Ok(())
}

/// Every message carries the number 0.
fn report(msgs: u64, a: &TxArgs) {
    Tally { msgs, bytes: msgs * (HEAD + a.load.size) as u64, ..Tally::default() }.print_sent("");
}
