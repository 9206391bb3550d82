//! Who sent what and where it came to: the books of a run.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kcm_core::PsockError;

use super::plan::{Ending, Plan};
use crate::codec::number;

/// Numbers of those who send on KCM sockets begin here, and of replies there: replies to
/// connection `c` are the messages of `REPLY | c`.
pub(super) const SENDER: u32 = 0x4000_0000;
pub(super) const REPLY: u32 = 0x8000_0000;

/// How long a message may be under way after its connection is gone.
const UNDER_WAY: Duration = Duration::from_secs(90);

/// What became of a message of a peer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Unknown,
    Delivered,
    Returned,
}

/// What a peer has to say at its end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PeerReport {
    /// Messages that it wrote whole.
    pub(super) sent: u32,
    /// Messages that it read whole.
    pub(super) got: u64,
}

struct Conn {
    plan: Plan,
    fates: Vec<Fate>,
    replies: u32,
    last_reply: Option<u32>,
    ended: Option<(PeerReport, Instant)>,
}

impl Conn {
    /// None: not all is known yet. Some: what is wrong with it.
    fn verdict(&self) -> Option<Result<(), String>> {
        let (report, _) = self.ended?;
        let known = self.fates.iter().filter(|f| **f != Fate::Unknown).count();
        if self.fates.len() > report.sent as usize {
            return Some(Err(format!("only {} messages were sent whole", report.sent)));
        }
        if known < report.sent as usize {
            return None;
        }
        let delivered = self.fates.iter().take_while(|f| **f == Fate::Delivered).count();
        match self.fates.iter().skip(delivered).all(|f| *f == Fate::Returned) {
            true => Some(Ok(())),
            false => {
                Some(Err("something was given back that came before what was delivered".into()))
            }
        }
    }
}

#[derive(Default)]
struct Sender {
    got: Vec<u64>,
}

#[derive(Default)]
struct Books {
    conns: HashMap<u32, Conn>,
    senders: HashMap<u32, Sender>,
    totals: Totals,
}

/// Sums over a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals {
    /// Messages that peers wrote whole, of connections that have ended.
    pub(super) sent: u64,
    pub(super) delivered: u64,
    pub(super) returned: u64,
    /// Lost with a reset connection: written by the peer, discarded by the system.
    pub(super) reset_in: u64,
    /// Messages that peers of ended connections read whole.
    pub(super) got: u64,
    /// Messages handed to the system for a connection that was reset before its peer read them.
    pub(super) reset_out: u64,
    /// Messages taken from senders, replies included.
    pub(super) accepted: u64,
    pub(super) ordered: u64,
    pub(super) exempt: u64,
    pub(super) conns: u64,
    /// Endings, by cause.
    pub(super) causes: BTreeMap<String, u64>,
    /// What was done to connections, and how often.
    pub(super) injected: BTreeMap<&'static str, u64>,
    /// After how many bytes of a message a FIN came.
    pub(super) fins: BTreeSet<usize>,
}

/// The books.
#[derive(Default)]
pub(super) struct Ledger {
    books: Mutex<Books>,
    failures: Mutex<Vec<String>>,
    failed: AtomicBool,
}

impl Ledger {
    /// Notes what must not be.
    pub(super) fn fail(&self, what: impl Into<String>) {
        let mut failures = lock(&self.failures);
        // The first tells; the rest follows from it.
        if failures.len() < 20 {
            failures.push(what.into());
        }
        self.failed.store(true, Ordering::Release);
    }

    pub(super) fn failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    pub(super) fn failures(&self) -> Vec<String> {
        lock(&self.failures).clone()
    }

    pub(super) fn totals(&self) -> Totals {
        lock(&self.books).totals.clone()
    }

    pub(super) fn begin(&self, plan: Plan) {
        let conn = plan.conn;
        let mut books = lock(&self.books);
        for what in plan.injects() {
            *books.totals.injected.entry(what).or_default() += 1;
        }
        if let Ending::Fin { cut } = plan.ending {
            books.totals.fins.insert(cut);
        }
        let new = Conn { plan, fates: Vec::new(), replies: 0, last_reply: None, ended: None };
        books.conns.insert(conn, new);
    }

    /// Something was done to a KCM socket.
    pub(super) fn injected(&self, what: &'static str) {
        *lock(&self.books).totals.injected.entry(what).or_default() += 1;
    }

    /// A KCM socket's reader has this message. Says which it is.
    pub(super) fn delivered(&self, message: &[u8]) -> Option<(u32, u32)> {
        self.fate(message, Fate::Delivered)
    }

    /// Unattach gave this message back.
    pub(super) fn returned(&self, message: &[u8]) {
        self.fate(message, Fate::Returned);
    }

    fn fate(&self, message: &[u8], fate: Fate) -> Option<(u32, u32)> {
        let Some((conn, seq)) = number(message) else {
            self.fail(format!("a message of {} bytes that nobody sent", message.len()));
            return None;
        };
        let mut books = lock(&self.books);
        match fate {
            Fate::Returned => books.totals.returned += 1,
            _ => books.totals.delivered += 1,
        }
        let Some(entry) = books.conns.get_mut(&conn) else {
            drop(books);
            self.fail(format!(
                "message {seq} of connection {conn}, of which all are accounted for"
            ));
            return None;
        };
        let at = seq as usize;
        if entry.fates.len() <= at {
            entry.fates.resize(at + 1, Fate::Unknown);
        }
        let before = std::mem::replace(&mut entry.fates[at], fate);
        if before != Fate::Unknown {
            let plan = entry.plan.clone();
            drop(books);
            self.fail(format!("message {seq} of connection {conn} twice; {plan:?}"));
        }
        Some((conn, seq))
    }

    /// Sends a reply to a connection, numbered, if `send` takes it.
    pub(super) fn reply(&self, conn: u32, send: impl FnOnce(u32, u32) -> bool) {
        let mut books = lock(&self.books);
        let Some(entry) = books.conns.get_mut(&conn) else { return };
        // Under the lock, so that replies are sent in the order of their numbers.
        if send(REPLY | conn, entry.replies) {
            entry.replies += 1;
            books.totals.accepted += 1;
        }
    }

    pub(super) fn accepted(&self, messages: u64) {
        lock(&self.books).totals.accepted += messages;
    }

    /// A peer read this message.
    pub(super) fn got(&self, by: u32, message: &[u8]) {
        let Some((from, seq)) = number(message) else {
            return self.fail(format!("peer {by} read a message that nobody sent"));
        };
        let mut books = lock(&self.books);
        if from & REPLY != 0 {
            let entry = books.conns.get_mut(&by);
            let last = entry.and_then(|c| c.last_reply.replace(seq));
            if from != REPLY | by || last.is_some_and(|last| last >= seq) {
                drop(books);
                self.fail(format!("peer {by} read reply {seq} of {from:#x} after {last:?}"));
            }
            return;
        }
        let sender = books.senders.entry(from).or_default();
        let (word, bit) = (seq as usize / 64, 1_u64 << (seq % 64));
        if sender.got.len() <= word {
            sender.got.resize(word + 1, 0);
        }
        let before = sender.got[word] & bit;
        sender.got[word] |= bit;
        if before != 0 {
            drop(books);
            self.fail(format!("peer {by} read message {seq} of sender {from:#x} a second time"));
        }
    }

    /// A connection and its peer are gone. `tx` is how many messages were handed to the system
    /// for one that was reset.
    pub(super) fn end(&self, conn: u32, report: PeerReport, cause: &str, tx: Option<u64>) {
        let mut books = lock(&self.books);
        books.totals.conns += 1;
        books.totals.sent += u64::from(report.sent);
        books.totals.got += report.got;
        *books.totals.causes.entry(cause.to_owned()).or_default() += 1;
        if let Some(tx) = tx {
            match tx.checked_sub(report.got) {
                Some(lost) => books.totals.reset_out += lost,
                None => {
                    drop(books);
                    let got = report.got;
                    return self.fail(format!("peer {conn} read {got} messages of {tx} written"));
                }
            }
        }
        if let Some(entry) = books.conns.get_mut(&conn) {
            entry.ended = Some((report, Instant::now()));
        }
    }

    /// Closes the books of connections of which everything is known; how many are still open.
    /// At the end of the run nothing can come any more.
    pub(super) fn settle(&self, last: bool) -> usize {
        let mut wrong = Vec::new();
        let mut books = lock(&self.books);
        let Books { conns, totals, .. } = &mut *books;
        conns.retain(|id, conn| {
            let Some((report, since)) = conn.ended else { return true };
            match conn.verdict() {
                Some(Ok(())) => return false,
                Some(Err(e)) => {
                    wrong.push(format!("connection {id}: {e}; {:?}", conn.plan));
                    return false;
                }
                None => {}
            }
            // What a reset loses is the end of the stream, never something in its middle.
            let reset = matches!(conn.plan.ending, Ending::Reset { .. });
            if reset && last {
                if conn.fates.contains(&Fate::Unknown) {
                    wrong.push(format!("connection {id}: a gap before a reset; {:?}", conn.plan));
                }
                totals.reset_in += u64::from(report.sent) - conn.fates.len() as u64;
                return false;
            }
            if last || (!reset && since.elapsed() > UNDER_WAY) {
                let missing: Vec<usize> = (0..report.sent as usize)
                    .filter(|&m| conn.fates.get(m).is_none_or(|f| *f == Fate::Unknown))
                    .collect();
                let few = &missing[..missing.len().min(8)];
                wrong.push(format!(
                    "connection {id}: {} of {} messages never came, the first {few:?}; {:?}",
                    missing.len(),
                    report.sent,
                    conn.plan
                ));
                return false;
            }
            true
        });
        let open =
            conns.values().filter(|c| !matches!(c.plan.ending, Ending::Reset { .. })).count();
        drop(books);
        for e in wrong {
            self.fail(e);
        }
        open
    }

    /// Compares a connection's cause with its plan, and its last bytes with what it sent.
    pub(super) fn explained(&self, plan: &Plan, cause: Option<&PsockError>, tail: Option<&[u8]>) {
        if let Some(cause) = cause
            && !plan.explains(cause)
        {
            self.fail(format!("connection {} failed: {cause:?}; {plan:?}", plan.conn));
        }
        if tail.is_some_and(|tail| tail != plan.tail()) {
            let n = tail.map_or(0, <[u8]>::len);
            self.fail(format!("connection {}: {n} bytes at its end; {plan:?}", plan.conn));
        }
    }

    /// One more message in the order in which a connection sent it, or one of which that could
    /// not be said because messages were being moved between sockets.
    pub(super) fn in_order(&self, checked: bool) {
        let totals = &mut lock(&self.books).totals;
        match checked {
            true => totals.ordered += 1,
            false => totals.exempt += 1,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::numbered;

    fn plan(ending: Ending) -> Plan {
        Plan { conn: 7, ending, ..Plan::new(1, 7, 1) }
    }

    /// Books of connection 7, which sent `sent` messages, of which these arrived.
    fn books(ending: Ending, sent: u32, delivered: &[u32], returned: &[u32]) -> Vec<String> {
        let ledger = Ledger::default();
        ledger.begin(plan(ending));
        for &seq in delivered {
            ledger.delivered(&numbered(7, seq, 20));
        }
        for &seq in returned {
            ledger.returned(&numbered(7, seq, 20));
        }
        ledger.end(7, PeerReport { sent, got: 0 }, "", None);
        ledger.settle(true);
        ledger.failures()
    }

    #[test]
    fn books_that_agree_are_closed() {
        assert_eq!(books(Ending::Unattach, 4, &[1, 0, 2], &[3]), [""; 0]);
        assert_eq!(books(Ending::Reset { cut: 0 }, 4, &[0, 1], &[]), [""; 0]);
    }

    #[test]
    fn what_is_missing_doubled_or_out_of_place_is_found() {
        let wrong = |ending, sent, delivered: &[u32], returned: &[u32], what: &str| {
            let found = books(ending, sent, delivered, returned);
            assert!(found.iter().any(|f| f.contains(what)), "{found:?}");
        };
        wrong(Ending::Unattach, 3, &[0, 2], &[], "1 of 3 messages never came, the first [1]");
        wrong(Ending::Unattach, 2, &[0, 1, 1], &[], "twice");
        wrong(Ending::Unattach, 2, &[0, 1], &[1], "twice");
        wrong(Ending::Unattach, 1, &[0, 1], &[], "only 1 messages were sent whole");
        wrong(Ending::Unattach, 2, &[1], &[0], "came before what was delivered");
        wrong(Ending::Reset { cut: 0 }, 3, &[0, 2], &[], "a gap before a reset");
    }

    #[test]
    fn what_peers_read_is_read_once_and_replies_in_order() {
        let ledger = Ledger::default();
        ledger.begin(plan(Ending::Unattach));
        ledger.got(7, &numbered(SENDER | 1, 70, 20));
        ledger.got(7, &numbered(SENDER | 1, 69, 20));
        ledger.got(7, &numbered(REPLY | 7, 0, 20));
        ledger.got(7, &numbered(REPLY | 7, 2, 20));
        assert!(!ledger.failed());
        ledger.got(8, &numbered(SENDER | 1, 70, 20));
        ledger.got(7, &numbered(REPLY | 7, 1, 20));
        ledger.got(7, &numbered(REPLY | 6, 3, 20));
        let mut damaged = numbered(SENDER | 1, 71, 20);
        damaged[15] ^= 1;
        ledger.got(7, &damaged);
        assert_eq!(ledger.failures().len(), 4, "{:?}", ledger.failures());
    }
}
