//! The other end of a connection, which does what the plan says.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kcm_core::delineate::{Delineate, Verdict};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{Notify, oneshot};
use tokio::time::sleep;

use super::ledger::{Ledger, PeerReport};
use super::plan::{Ending, Manner, Plan};
use crate::codec::Be32;
use crate::harness::Rng;

/// Runs a peer to its end. `written` is told when its last byte is.
pub(super) async fn run(
    plan: Plan,
    mut stream: TcpStream,
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    written: oneshot::Sender<()>,
) -> PeerReport {
    let eof = Notify::new();
    let (mut report, mut sent) = (PeerReport::default(), 0);
    if converse(&plan, &mut stream, &ledger, &stop, &eof, &mut report.got, &mut sent, written).await
    {
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    }
    report.sent = sent;
    report
}

/// Reads and writes at once. True: to be reset.
#[allow(clippy::too_many_arguments)]
async fn converse(
    plan: &Plan,
    stream: &mut TcpStream,
    ledger: &Ledger,
    stop: &AtomicBool,
    eof: &Notify,
    got: &mut u64,
    sent: &mut u32,
    written: oneshot::Sender<()>,
) -> bool {
    let (r, mut w) = stream.split();
    let mut reads = pin!(read(plan, r, ledger, got, eof));
    let mut writes = pin!(async {
        // An error here is the connection's end, which its other side tells about.
        let _ = write(plan, &mut w, sent, stop).await;
        let _ = written.send(());
        match plan.ending {
            Ending::Reset { .. } => return true,
            Ending::Fin { .. } => {}
            _ => eof.notified().await,
        }
        let _ = w.shutdown().await;
        false
    });
    let mut read = false;
    loop {
        tokio::select! {
            reset = &mut writes => {
                if !reset && !read {
                    reads.await;
                }
                return reset;
            }
            () = &mut reads, if !read => read = true,
        }
    }
}

async fn read(plan: &Plan, mut r: ReadHalf<'_>, ledger: &Ledger, got: &mut u64, eof: &Notify) {
    let mut rng = Rng::new(plan.seed ^ 1);
    sleep(plan.sulks).await;
    let (mut bytes, mut slow) = (bytes::BytesMut::new(), plan.slow_reads);
    loop {
        if slow > 0 {
            slow -= 1;
            sleep(Duration::from_millis(rng.below(30) as u64)).await;
        }
        if !matches!(r.read_buf(&mut bytes).await, Ok(1..)) {
            break;
        }
        while let Verdict::Message(len) = Be32.parse(&bytes) {
            if bytes.len() < len as usize {
                break;
            }
            *got += 1;
            ledger.got(plan.conn, &bytes.split_to(len as usize));
        }
    }
    // What is left is a message that was begun and sent again elsewhere.
    eof.notify_one();
}

async fn write(
    plan: &Plan,
    w: &mut WriteHalf<'_>,
    sent: &mut u32,
    stop: &AtomicBool,
) -> std::io::Result<()> {
    let mut rng = Rng::new(plan.seed ^ 2);
    if plan.anchor {
        while !stop.load(Ordering::Relaxed) {
            w.write_all(&plan.message(*sent, &mut rng)).await?;
            *sent += 1;
            sleep(Duration::from_millis(20)).await;
        }
        return Ok(());
    }
    while *sent < plan.messages {
        let mut n = 1;
        if plan.manner == Manner::Bursts {
            n = (1 + rng.below(20) as u32).min(plan.messages - *sent);
        }
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        for seq in *sent..*sent + n {
            bytes.extend(plan.message(seq, &mut rng));
            ends.push(bytes.len());
        }
        let last = *sent + n == plan.messages;
        if last {
            bytes.extend(plan.tail());
        }
        let mut written = 0;
        while written < bytes.len() {
            let most = bytes.len() - written;
            let piece = match plan.manner {
                Manner::Bursts => most,
                Manner::Pieces(n) => most.min(1 + rng.below(n)),
                Manner::Stalls => most.min(1 + rng.below(100)),
            };
            if plan.manner == Manner::Stalls && rng.below(8) == 0 {
                sleep(Duration::from_millis(rng.below(12) as u64)).await;
            }
            w.write_all(&bytes[written..written + piece]).await?;
            written += piece;
            // Whole ones only: what a reset cuts off was not sent.
            while ends.first().is_some_and(|&end| end <= written) {
                ends.remove(0);
                *sent += 1;
            }
        }
        if rng.below(4) == 0 {
            sleep(Duration::from_millis(rng.below(25) as u64)).await;
        }
    }
    if plan.messages == 0 {
        w.write_all(&plan.tail()).await?;
    }
    Ok(())
}
