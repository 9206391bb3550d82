//! The stream parser under any sequence of operations, against an oracle that knows the
//! stream, how much of it was fed and what time it is.
//!
//! Its corpus is `tests/data/model/strparser.jsonl`; see `crate::corpus`.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::{tests::*, *};
use crate::corpus::{self, Corpus};

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Op {
    /// The next bytes of the stream arrive and are parsed.
    Arrive(usize),
    /// Time passes; the driver looks at the deadline.
    Tick(u64),
    Pause,
    Resume,
    /// The driver is about to wait.
    Release,
    SetTimeout(Option<u64>),
    /// The driver reads the timeout of a message that has begun from somewhere else.
    HeadTimeout(Option<u64>),
    Eof,
    Reset,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => prop_oneof![1usize..8, 8usize..64, 64usize..9000].prop_map(Op::Arrive),
        4 => (0u64..70).prop_map(Op::Tick),
        1 => Just(Op::Pause),
        2 => Just(Op::Resume),
        2 => Just(Op::Release),
        1 => prop::option::of(0u64..100).prop_map(Op::SetTimeout),
        2 => prop::option::of(0u64..100).prop_map(Op::HeadTimeout),
        1 => Just(Op::Eof),
        1 => Just(Op::Reset),
    ]
}

/// How the stream goes on after its good messages.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Tail {
    Nothing,
    Refused,
    TooLong,
}

const LIMIT: u32 = 6000;

struct Model {
    sp: StrParser<Plain>,
    now: Instant,
    stream: Vec<u8>,
    /// Where the good messages end.
    bounds: Vec<usize>,
    fed: usize,
    delivered: usize,
    timeout: Option<Duration>,
    /// The deadline of the message at the head, as an oracle sees it.
    due: Option<Instant>,
    paused: Option<Instant>,
    ended: Option<PsockError>,
    /// Which message was last found incomplete.
    begun_at: usize,
    /// When, and whether the driver has not asked yet.
    begun: Option<Instant>,
    fresh: bool,
    blocks: Blocks,
}

impl Model {
    fn new(lens: &[usize], tail: &Tail, timeout: Option<u64>) -> Self {
        let mut stream = Vec::new();
        let mut bounds = Vec::new();
        for (&len, fill) in lens.iter().zip(0u8..) {
            stream.extend(message(len, fill));
            bounds.push(stream.len());
        }
        match tail {
            Tail::Nothing => {}
            Tail::Refused => stream.extend([0xff; 40]),
            Tail::TooLong => stream.extend(message(LIMIT as usize + 1, 0)),
        }
        let timeout = timeout.map(Duration::from_millis);
        let limits = Limits { max_message: LIMIT, assembly_timeout: timeout, ..Limits::default() };
        Model {
            sp: StrParser::new(By(prefixed), ID, limits),
            now: Instant::now(),
            stream,
            bounds,
            fed: 0,
            delivered: 0,
            timeout: timeout.filter(|t| !t.is_zero()),
            due: None,
            paused: None,
            ended: None,
            begun_at: usize::MAX,
            begun: None,
            fresh: false,
            blocks: Blocks::default(),
        }
    }

    /// Bytes fed of the message at the head.
    fn begun(&self) -> usize {
        self.fed - self.delivered.checked_sub(1).map_or(0, |last| self.bounds[last])
    }

    /// What the oracle says about the stream's end at the bytes fed so far.
    fn refusal(&self, tail: &Tail) -> Option<PsockError> {
        let known = self.delivered == self.bounds.len() && self.begun() >= 4;
        match tail {
            Tail::Refused if known => Some(PsockError::Parser(errno::EPROTO)),
            Tail::TooLong if known => Some(PsockError::TooLong { len: LIMIT + 1, limit: LIMIT }),
            _ => None,
        }
    }

    fn apply(&mut self, op: &Op, tail: &Tail) {
        match *op {
            Op::Arrive(_) if self.paused.is_some() || self.ended.is_some() => {}
            Op::Arrive(n) => {
                let n = n.min(self.stream.len() - self.fed);
                let piece = self.stream[self.fed..self.fed + n].to_vec();
                // Bytes may arrive in more than one read if there is less room.
                let mut left = &piece[..];
                while !left.is_empty() && self.sp.error().is_none() {
                    let buf = self.sp.read_buf(&mut self.blocks);
                    let room = (buf.capacity() - buf.len()).min(left.len());
                    assert!(room > 0);
                    buf.extend_from_slice(&left[..room]);
                    left = &left[room..];
                    self.fed += room;
                    self.check_messages();
                    self.ended = self.refusal(tail);
                }
            }
            Op::Tick(ms) => {
                self.now += Duration::from_millis(ms);
                let late = self.due.is_some_and(|due| due <= self.now);
                let expect = late && self.paused.is_none() && self.ended.is_none();
                let got = self.sp.on_deadline(self.now);
                assert_eq!(got.is_err(), expect, "expiry");
                if let Err(cause) = got {
                    assert!(
                        matches!(cause, PsockError::TimedOut { have, .. } if have == self.begun() as u64)
                    );
                    self.ended = Some(cause);
                }
            }
            Op::Pause => {
                self.sp.pause(self.now);
                self.paused.get_or_insert(self.now);
            }
            Op::Resume => {
                self.sp.resume(self.now);
                if let Some(since) = self.paused.take() {
                    self.due = self.due.map(|due| due + (self.now - since));
                    self.begun = self.begun.map(|begun| begun + (self.now - since));
                }
            }
            Op::Release => {
                self.sp.release(&mut self.blocks);
                let need = self.head_len(tail).map_or(2 * self.begun(), |len| len as usize);
                assert!(self.sp.memory() <= need + 256, "{} for {need}", self.sp.memory());
            }
            Op::SetTimeout(ms) => {
                let timeout = ms.map(Duration::from_millis);
                self.sp.set_assembly_timeout(timeout);
                self.timeout = timeout.filter(|t| !t.is_zero());
            }
            Op::HeadTimeout(_) if self.ended.is_some() => {}
            Op::HeadTimeout(ms) => {
                assert_eq!(self.sp.has_begun(), self.fresh, "told once for each");
                if std::mem::take(&mut self.fresh) {
                    let timeout = ms.map(Duration::from_millis);
                    self.sp.set_head_timeout(timeout);
                    self.timeout = timeout.filter(|t| !t.is_zero());
                    self.due = self.timeout.zip(self.begun).map(|(after, from)| from + after);
                }
            }
            Op::Eof => {
                self.sp.eof();
                let cause = match self.begun() {
                    0 => PsockError::Eof,
                    have => {
                        PsockError::EofMidMessage { have: have as u64, need: self.head_len(tail) }
                    }
                };
                self.ended.get_or_insert(cause);
                self.check_messages();
            }
            Op::Reset => {
                self.sp.fail(PsockError::Reset);
                self.ended.get_or_insert(PsockError::Reset);
                self.check_messages();
            }
        }
        self.check();
    }

    /// The length of the message at the head, if enough of it is there.
    fn head_len(&self, _tail: &Tail) -> Option<u32> {
        let end = self.bounds.get(self.delivered)?;
        (self.begun() >= 4).then(|| (end - (self.fed - self.begun())) as u32)
    }

    /// Exactly the messages that are now whole, in order, and then nothing.
    fn check_messages(&mut self) {
        let begun_before = self.delivered;
        for got in drain(&mut self.sp, self.now) {
            let start = self.delivered.checked_sub(1).map_or(0, |last| self.bounds[last]);
            assert_eq!(got, self.stream[start..self.bounds[self.delivered]]);
            self.delivered += 1;
        }
        let whole = self.bounds.iter().filter(|&&end| end <= self.fed).count();
        assert_eq!(self.delivered, whole, "whole messages are delivered at once");
        if self.delivered > begun_before || self.begun() == 0 {
            self.due = None;
            (self.begun, self.fresh) = (None, false);
        }
        // The timeout is read when a message is first found incomplete (B18).
        if self.begun() > 0 && (self.delivered > begun_before || self.begun_at != self.delivered) {
            self.begun_at = self.delivered;
            (self.begun, self.fresh) = (Some(self.now), true);
            self.due = self.timeout.map(|timeout| self.now + timeout);
        }
    }

    fn check(&mut self) {
        assert_eq!(self.sp.buffered(), self.begun(), "nothing lost, nothing twice");
        let stats = self.sp.stats();
        assert_eq!((stats.msgs, stats.bytes), (self.delivered as u64, self.fed as u64));
        match &self.ended {
            Some(cause) => {
                assert_eq!(self.sp.parse(self.now), Err(cause.clone()), "the first cause stays");
                assert_eq!(self.sp.deadline(), None);
            }
            None => {
                assert_eq!(self.sp.parse(self.now), Ok(None));
                assert_eq!(self.sp.deadline(), self.due.filter(|_| self.paused.is_none()));
            }
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Case {
    lens: Vec<usize>,
    tail: Tail,
    timeout: Option<u64>,
    ops: Vec<Op>,
}

fn case() -> impl Strategy<Value = Case> {
    let lens = prop::collection::vec(prop_oneof![4 => 4usize..40, 1 => 500usize..6000], 0..12);
    let tail = prop_oneof![Just(Tail::Nothing), Just(Tail::Refused), Just(Tail::TooLong)];
    let ops = prop::collection::vec(op(), 1..60);
    (lens, tail, prop::option::of(0u64..100), ops).prop_map(|(lens, tail, timeout, ops)| Case {
        lens,
        tail,
        timeout,
        ops,
    })
}

/// Runs a case; what was seen to happen, for the corpus.
fn run(case: &Case) -> BTreeSet<String> {
    let mut model = Model::new(&case.lens, &case.tail, case.timeout);
    let mut seen = BTreeSet::new();
    for op in &case.ops {
        let before = model.delivered;
        model.apply(op, &case.tail);
        let head = match (model.begun(), model.sp.missing()) {
            (0, _) => "whole",
            (_, None) => "header",
            (_, Some(_)) => "body",
        };
        let ended = model.ended.as_ref().map_or("alive".to_owned(), corpus::name);
        let (op, got) = (corpus::name(op), (model.delivered - before).min(3));
        let clock = (model.due.is_some(), model.paused.is_some());
        seen.insert(format!("{op} > {got} {head} {ended}"));
        seen.insert(format!("{op} > {head} {clock:?}"));
        seen.insert(format!("{op} > {ended} {clock:?}"));
    }
    let begun = model.begun();
    let rest = model.stream[model.fed - begun..model.fed].to_vec();
    assert_eq!(model.sp.into_unread(), rest, "what was not delivered comes back");
    seen
}

const CORPUS: Corpus = Corpus { file: "strparser.jsonl" };

#[test]
fn the_corpus_of_the_model_holds() {
    CORPUS.replay(20, run);
}

/// Adds cases to the corpus that do what none of it does. Run it by name after an operation or a
/// state was added to the model.
#[test]
#[ignore = "changes the corpus"]
fn grow_corpus() {
    CORPUS.grow(&case(), 4000, run);
}

proptest! {
    #[test]
    fn model(case in case()) {
        CORPUS.run(&case, run);
    }
}
