//! A connection on our side: attached, perhaps moved, unattached, and read to its last byte.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use kcm_core::delineate::{Delineate, Verdict};
use kcm_core::{AttachOptions, Detached, Exec, KcmSocket, Psock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::ledger::Ledger;
use super::peer;
use super::plan::{ASSEMBLY, Ending, MAX_MESSAGE, Plan};
use crate::codec::Be32;
use crate::harness::Rng;
use crate::load::built_in;
use crate::peer::{pair_with, queued};

/// What ends must end within this time.
const END: Duration = Duration::from_secs(60);

/// Runs a connection from its beginning to its end. `roots` has one socket of each
/// multiplexor, which receives nothing.
pub(super) async fn run(
    plan: Plan,
    roots: Arc<Vec<KcmSocket>>,
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
) {
    let (peer, stream) = match pair_with(plan.buffers).await {
        Ok(pair) => pair,
        Err(e) => return ledger.fail(format!("no connection could be made: {e:#}")),
    };
    ledger.begin(plan.clone());
    let (written, was_written) = oneshot::channel();
    let peer = tokio::spawn(peer::run(
        plan.clone(),
        peer.into_inner(),
        ledger.clone(),
        stop.clone(),
        written,
    ));
    let Some((back, tx)) = live(&plan, &roots, &ledger, stream, was_written).await else {
        return;
    };
    let (cause, reset) = (back.cause.clone(), matches!(plan.ending, Ending::Reset { .. }));
    let (mut stream, mut rest) = (back.stream, back.unread.to_vec());
    if !drain(&mut stream, &mut rest).await && !reset {
        // Whether it is TCP that is waiting, or one of us.
        let (came, queued) = (rest.len(), queued(&stream));
        let what = format!("{came} bytes came after it was unattached, queued are {queued:?}");
        return ledger.fail(format!("connection {} did not end: {what}; {plan:?}", plan.conn));
    }
    drop(stream);
    let mut left = &rest[..];
    while let Verdict::Message(len) = Be32.parse(left) {
        let Some((message, after)) = left.split_at_checked(len as usize) else { break };
        ledger.returned(message);
        left = after;
    }
    let report = match timeout(END, peer).await {
        Ok(Ok(report)) => report,
        other => return ledger.fail(format!("peer {} did not end: {other:?}", plan.conn)),
    };
    ledger.explained(&plan, cause.as_ref(), (!reset).then_some(left));
    let name = match &cause {
        None => "unattached alive".to_owned(),
        Some(cause) => {
            let name = format!("{cause:?}");
            name.split([' ', '(', '{']).next().unwrap_or_default().to_owned()
        }
    };
    ledger.end(plan.conn, report, &name, tx);
}

/// Attaches, moves about, waits for the end and unattaches. Also says how many messages were
/// written to a connection that was reset.
async fn live(
    plan: &Plan,
    roots: &[KcmSocket],
    ledger: &Ledger,
    stream: TcpStream,
    mut written: oneshot::Receiver<()>,
) -> Option<(Detached, Option<u64>)> {
    let mut rng = Rng::new(plan.seed ^ 3);
    let (mut mux, mut stream, mut initial) = (plan.mux, stream, Bytes::new());
    let mut moves = plan.moves;
    loop {
        let mut options = AttachOptions::new()
            .max_message(MAX_MESSAGE)
            .half_close(plan.half_close)
            .initial(std::mem::take(&mut initial));
        if plan.timed() {
            options = options.assembly_timeout(ASSEMBLY);
        }
        let attached = match plan.bpf {
            true => match built_in("lenprefix_be32", Exec::Auto) {
                Ok(parser) => roots[mux].attach_with(stream, &parser, options),
                Err(e) => {
                    ledger.fail(format!("no parser: {e:#}"));
                    return None;
                }
            },
            false => roots[mux].attach_with(stream, &Be32, options),
        };
        let psock = match attached {
            Ok(psock) => psock,
            Err(e) => {
                ledger.fail(format!("connection {}: attach: {e}; {plan:?}", plan.conn));
                return None;
            }
        };
        if moves > 0 {
            moves -= 1;
            let wait = Duration::from_micros(rng.below(150_000) as u64);
            let _ = timeout(wait, psock.closed()).await;
            let back = unattach(plan, &roots[mux], ledger, &psock)?;
            if back.cause.is_some() || back.desynchronised {
                // It failed, or a message was sent in part: that is its end.
                return Some((back, None));
            }
            (stream, initial) = (back.stream, back.unread);
            mux = rng.below(roots.len());
            continue;
        }
        // An end on a boundary is none for a connection that may be half closed.
        let ours = match plan.ending {
            Ending::Unattach => true,
            Ending::Fin { cut } => cut == 0 && plan.half_close,
            _ => false,
        };
        tokio::select! {
            _ = psock.closed() => {}
            _ = &mut written, if ours => {
                let wait = Duration::from_millis(rng.below(60) as u64);
                let _ = timeout(wait, psock.closed()).await;
            }
            () = sleep(END * 5), if !plan.anchor => {
                ledger.fail(format!("connection {} lives for ever; {plan:?}", plan.conn));
                return None;
            }
        }
        // It is out of use: nothing is written to it any more, and this is all that was.
        let reset = matches!(plan.ending, Ending::Reset { .. });
        let tx = psock.stats().map(|s| s.tx_msgs).filter(|_| reset);
        return Some((unattach(plan, &roots[mux], ledger, &psock)?, tx));
    }
}

fn unattach(plan: &Plan, root: &KcmSocket, ledger: &Ledger, psock: &Psock) -> Option<Detached> {
    match root.unattach(psock.id()) {
        Ok(back) => Some(back),
        Err(e) => {
            ledger.fail(format!("connection {}: unattach: {e}; {plan:?}", plan.conn));
            None
        }
    }
}

/// Ends our side and reads what the other still has to say. False: it does not end.
async fn drain(stream: &mut TcpStream, rest: &mut Vec<u8>) -> bool {
    let _ = stream.shutdown().await;
    let end = async { while let Ok(1..) = stream.read_buf(rest).await {} };
    timeout(END, end).await.is_ok()
}
