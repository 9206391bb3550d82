//! Senders that keep what is under way below a limit, and receivers that check every message.
//!
//! An engine without back-pressure cuts a peer off that sends faster than messages are taken;
//! so these senders look how far the receiver has come.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kcm_core::{KcmSocket, PsockId, RecvError};
use kcm_tests::codec::number;
use tokio::sync::Notify;

/// How long nothing may happen before a scenario is given up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of one connection that were sent and not yet received.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    received: AtomicU64,
    came: Notify,
}

impl Flow {
    /// Waits until no more than `most` of the `sent` bytes are under way.
    pub(crate) async fn below(&self, most: u64, sent: u64) -> Result<()> {
        loop {
            let came = self.came.notified();
            tokio::pin!(came);
            came.as_mut().enable();
            let under_way = sent.saturating_sub(self.received.load(Ordering::Acquire));
            if under_way <= most {
                return Ok(());
            }
            tokio::time::timeout(PATIENCE, came)
                .await
                .with_context(|| format!("{under_way} bytes are under way, and none arrive"))?;
        }
    }

    fn take(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Release);
        self.came.notify_waiters();
    }
}

/// Checks the messages of all connections, as they come from any number of sockets.
#[derive(Debug)]
pub(crate) struct Check {
    /// More than one socket receives: then messages of one connection overtake each other.
    shared: bool,
    by_id: HashMap<PsockId, usize>,
    conns: Vec<Conn>,
}

#[derive(Debug)]
struct Conn {
    flow: Arc<Flow>,
    count: AtomicU64,
    /// A bit for each message.
    seen: Vec<AtomicU64>,
}

impl Check {
    pub(crate) fn new(shared: bool) -> Check {
        Check { shared, by_id: HashMap::new(), conns: Vec::new() }
    }

    /// Takes up a connection, whose number is the count of those before, for so many messages
    /// at most.
    pub(crate) fn add(&mut self, psock: PsockId, most: u32) -> Arc<Flow> {
        let flow = Arc::new(Flow::default());
        self.by_id.insert(psock, self.conns.len());
        self.conns.push(Conn {
            flow: flow.clone(),
            count: AtomicU64::new(0),
            seen: (0..=most / 64).map(|_| AtomicU64::new(0)).collect(),
        });
        flow
    }

    /// Messages of the connection so far.
    pub(crate) fn count(&self, conn: usize) -> u64 {
        self.conns.get(conn).map_or(0, |c| c.count.load(Ordering::Acquire))
    }

    /// One message: every byte of it, from the right connection, never seen before, and the
    /// next in its order where there is one.
    pub(crate) fn message(&self, psock: PsockId, bytes: &[u8]) -> Result<()> {
        let at = *self.by_id.get(&psock).context("a message of no connection")?;
        let conn = &self.conns[at];
        let (of, seq) = number(bytes).with_context(|| {
            format!("connection {at}: a damaged message of {} bytes", bytes.len())
        })?;
        ensure!(of as usize == at, "a message of connection {of} came from {at}");
        let bit = 1 << (seq % 64);
        let word = conn.seen.get(seq as usize / 64);
        let word = word.with_context(|| format!("connection {at}: message {seq} was not sent"))?;
        let before = word.fetch_or(bit, Ordering::AcqRel);
        ensure!(before & bit == 0, "connection {at}: message {seq} came twice");
        let expected = conn.count.fetch_add(1, Ordering::AcqRel);
        ensure!(
            self.shared || u64::from(seq) == expected,
            "connection {at}: message {seq}, not {expected}"
        );
        conn.flow.take(bytes.len() as u64);
        Ok(())
    }

    /// Receives on a socket until every connection has ended; each batch after so
    /// long a wait.
    /// How many messages came.
    pub(crate) async fn receive(&self, socket: &KcmSocket, lag: Option<Duration>) -> Result<u64> {
        let mut count = 0;
        loop {
            if let Some(lag) = lag {
                tokio::time::sleep(lag).await; // a slow reader is what is tested
            }
            match tokio::time::timeout(PATIENCE, socket.recv_batch()).await {
                Ok(Ok(batch)) => {
                    let psock = batch.psock();
                    for m in &batch {
                        self.message(psock, m)?;
                        count += 1;
                    }
                }
                Ok(Err(RecvError::NoPsockLeft)) => return Ok(count),
                Ok(Err(e)) => return Err(e.into()),
                Err(_) => bail!("nothing arrives any more, after {count} messages"),
            }
        }
    }
}
