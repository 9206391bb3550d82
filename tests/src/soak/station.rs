//! A KCM socket in use: one task that receives in every way, one that sends in every way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kcm_core::{KcmSocket, Message, RecvError, SendError, SendFlags};
use tokio::time::{sleep, timeout};

use super::ledger::{Ledger, SENDER};
use crate::codec::numbered;
use crate::harness::Rng;

/// Moves of messages between the sockets of one multiplexor.
#[derive(Default)]
pub(super) struct Moves {
    begun: AtomicU64,
    done: AtomicU64,
}

impl Moves {
    /// Does what moves messages.
    pub(super) fn during<T>(&self, act: impl FnOnce() -> T) -> T {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let result = act();
        self.done.fetch_add(1, Ordering::SeqCst);
        result
    }
}

/// What the stations of one multiplexor share.
#[derive(Default)]
pub(super) struct Hall {
    pub(super) moves: Moves,
    /// Messages that the stations read.
    pub(super) read: AtomicU64,
}

/// The last message of a connection that one socket read.
struct Last {
    seq: u32,
    /// Moves that were done before it was read.
    moves: u64,
}

/// Receives until told to stop.
pub(super) async fn receive(
    socket: Arc<KcmSocket>,
    hall: Arc<Hall>,
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    seed: u64,
) {
    let mut rng = Rng::new(seed);
    let mut last = std::collections::HashMap::<u32, Last>::new();
    let mut buf = vec![0; 300_000];
    let mut many = Vec::new();
    let slow = rng.below(3) == 0;
    while !stop.load(Ordering::Relaxed) {
        if slow && rng.below(20) == 0 {
            sleep(Duration::from_millis(rng.below(20) as u64)).await;
        }
        let moves = hall.moves.done.load(Ordering::SeqCst);
        let way = rng.below(6);
        let one = async {
            match way {
                0 => many.push(socket.recv().await?),
                1 => _ = socket.recv_many(&mut many, 1 + rng.below(16)).await?,
                2 => {
                    let mut batch = socket.recv_batch_max(1 + rng.below(8)).await?;
                    while let Some(message) = batch.pop() {
                        many.push(message);
                    }
                }
                3 => {
                    socket.peek().await?;
                    many.extend(socket.try_recv().ok());
                }
                4 => {
                    socket.readable().await;
                    many.extend(socket.try_recv().ok());
                }
                _ => {
                    let got = socket.recv_into(&mut buf).await?;
                    if !got.end_of_record || got.truncated {
                        ledger.fail(format!("a message of {} bytes was cut", got.len));
                    }
                    many.push(Message::new(Bytes::copy_from_slice(&buf[..got.copied]), got.psock));
                }
            }
            Ok::<_, RecvError>(())
        };
        // Cut short now and then: nothing may be lost by that.
        match timeout(Duration::from_millis(50), one).await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(e)) => ledger.fail(format!("receive: {e}")),
        }
        let begun = hall.moves.begun.load(Ordering::SeqCst);
        for message in many.drain(..) {
            hall.read.fetch_add(1, Ordering::Relaxed);
            let Some((conn, seq)) = ledger.delivered(&message) else { continue };
            let before = last.insert(conn, Last { seq, moves });
            if let Some(before) = before {
                // Between the two no message was moved: they come in the order they were sent.
                let quiet = before.moves == begun;
                ledger.in_order(quiet);
                if quiet && before.seq >= seq {
                    ledger.fail(format!("connection {conn}: {seq} after {}", before.seq));
                }
            }
            if seq % 7 == 3 {
                ledger.reply(conn, |from, n| {
                    let reply = numbered(from, n, 8 + seq as usize % 300);
                    socket.try_send_to(message.psock(), reply).is_ok()
                });
            }
        }
        if last.len() > 5000 {
            last.clear();
        }
    }
}

/// Sends until told to stop, under the number `SENDER | id`.
pub(super) async fn send(
    socket: Arc<KcmSocket>,
    id: u32,
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    seed: u64,
) {
    let mut rng = Rng::new(seed);
    let mut seq = 0;
    let message = |seq: u32, rng: &mut Rng| {
        let len = if rng.below(10) == 0 { 60_000 } else { 300 };
        Bytes::from(numbered(SENDER | id, seq, 8 + rng.below(len)))
    };
    while !stop.load(Ordering::Relaxed) {
        sleep(Duration::from_micros(rng.below(8000) as u64)).await;
        let taken = match rng.below(6) {
            0 | 1 => {
                let send = socket.send(message(seq, &mut rng));
                match timeout(Duration::from_millis(20), send).await {
                    Ok(sent) => sent.map(|_| 1),
                    // Cancelled: nothing of it was taken.
                    Err(_) => Ok(0),
                }
            }
            2 => socket.try_send(message(seq, &mut rng)).map(|_| 1),
            3 => {
                let n = 1 + rng.below(12) as u32;
                let all: Vec<Bytes> = (seq..seq + n).map(|s| message(s, &mut rng)).collect();
                socket.send_many(all).await.map(|n| n as u32)
            }
            4 => in_parts(&socket, message(seq, &mut rng), &mut rng).await,
            _ => {
                let flags = SendFlags::EOR | SendFlags::BATCH;
                let first = socket.try_send_with(message(seq, &mut rng), flags).map(|_| 1);
                let flushed = socket.try_flush();
                first.and_then(|n| flushed.map(|()| n))
            }
        };
        match taken {
            Ok(n) => {
                seq += n;
                ledger.accepted(u64::from(n));
            }
            Err(SendError::WouldBlock) => {}
            Err(e) => ledger.fail(format!("send: {e}")),
        }
    }
}

/// One message in two or three parts; once begun, it is finished.
async fn in_parts(socket: &KcmSocket, message: Bytes, rng: &mut Rng) -> Result<u32, SendError> {
    let mut rest = message;
    for _ in 0..rng.below(3) {
        let part = rest.split_to(rng.below(rest.len()));
        socket.send_with(part, SendFlags::MORE).await?;
    }
    socket.send_with(rest, SendFlags::EOR).await.map(|_| 1)
}
