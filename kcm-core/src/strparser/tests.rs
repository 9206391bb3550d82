//! One test per statement of the semantics that concerns the stream parser alone.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use proptest::prelude::*;

use super::*;
use crate::delineate::Verdict;

/// A parser by a function, which counts how often it was asked and for how many bytes.
pub(super) struct By<F>(pub(super) F);

impl<F: Fn(&[u8]) -> Verdict + Send + Sync> Delineate for By<F> {
    fn parse(&self, msg: &[u8]) -> Verdict {
        (self.0)(msg)
    }
}

pub(super) type Plain = By<fn(&[u8]) -> Verdict>;

pub(super) const ID: PsockId = PsockId { index: 0, generation: 0 };

/// The documentation's own: a big-endian length of the payload, then the payload.
pub(super) fn prefixed(msg: &[u8]) -> Verdict {
    match msg.first_chunk::<4>() {
        None => Verdict::NeedMore,
        Some(head) => match i32::from_be_bytes(*head).checked_add(4) {
            Some(len) if len >= 4 => Verdict::Message(len as u32),
            _ => Verdict::Error(errno::EPROTO),
        },
    }
}

/// A message of `len` bytes in all.
pub(super) fn message(len: usize, fill: u8) -> Vec<u8> {
    let mut bytes = ((len - 4) as u32).to_be_bytes().to_vec();
    bytes.resize(len, fill);
    bytes
}

fn strp<D: Delineate>(delineate: D) -> StrParser<D> {
    StrParser::new(delineate, ID, Limits::default())
}

/// Feeds bytes as a connection would: no more at a time than there is room.
pub(super) fn feed<D: Delineate>(
    sp: &mut StrParser<D>,
    mut bytes: &[u8],
    now: Instant,
) -> Vec<Vec<u8>> {
    let mut got = Vec::new();
    while !bytes.is_empty() && sp.error().is_none() {
        let buf = sp.read_buf(&mut Blocks::default());
        let room = buf.capacity() - buf.len();
        assert!(room > 0, "there is always room for more");
        let (piece, rest) = bytes.split_at(room.min(bytes.len()));
        buf.extend_from_slice(piece);
        bytes = rest;
        got.extend(drain(sp, now));
    }
    got
}

pub(super) fn drain<D: Delineate>(sp: &mut StrParser<D>, now: Instant) -> Vec<Vec<u8>> {
    let mut got = Vec::new();
    while let Ok(Some(batch)) = sp.parse(now) {
        assert!(!batch.is_empty());
        got.extend(batch.iter().map(<[u8]>::to_vec));
    }
    got
}

fn concat(messages: &[Vec<u8>]) -> Vec<u8> {
    messages.concat()
}

#[test]
fn b1_the_parser_is_asked_at_each_arrival_until_it_names_a_length() {
    let asked = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let log = asked.clone();
    let mut sp = strp(By(move |msg: &[u8]| {
        log.lock().push(msg.len());
        prefixed(msg)
    }));
    let now = Instant::now();
    let bytes = message(10, 7);
    let mut got = Vec::new();
    for byte in &bytes {
        got.extend(feed(&mut sp, &[*byte], now));
    }
    assert_eq!(got, [bytes]);
    assert_eq!(*asked.lock(), [1, 2, 3, 4]);
    assert_eq!(sp.stats().need_more_hdr, 3);
}

#[test]
fn b2_j1_pipelined_messages_of_any_length_are_one_batch_of_exactly_those() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let mut sp = strp(By(move |msg: &[u8]| {
        counted.fetch_add(1, Ordering::Relaxed);
        prefixed(msg)
    }));
    let messages = [message(10, 1), message(20, 2), message(10, 3)];
    sp.read_buf(&mut Blocks::default()).extend_from_slice(&concat(&messages));
    let batch = sp.parse(Instant::now()).unwrap().unwrap();
    assert_eq!(batch.iter().collect::<Vec<_>>(), messages);
    assert_eq!(calls.load(Ordering::Relaxed), 3);
}

#[test]
fn b8_rows_44_64_the_tail_of_a_message_together_with_the_next_is_not_misread() {
    let mut sp = strp(By(prefixed));
    let (a, b) = (message(30, 1), message(12, 2));
    let now = Instant::now();
    assert!(feed(&mut sp, &a[..15], now).is_empty());
    assert_eq!(feed(&mut sp, &[&a[15..], &b[..]].concat(), now), [a, b]);
}

#[test]
fn b5_a_message_of_exactly_the_limit_is_accepted_and_a_longer_one_is_not() {
    for (len, ok) in [(100, true), (101, false)] {
        let limits = Limits { max_message: 100, ..Limits::default() };
        let mut sp = StrParser::new(By(prefixed), ID, limits);
        let got = feed(&mut sp, &message(len, 1), Instant::now());
        assert_eq!(got.len(), usize::from(ok));
        if !ok {
            let cause = PsockError::TooLong { len: 101, limit: 100 };
            assert_eq!((sp.error(), cause.errno()), (Some(&cause), errno::EMSGSIZE));
            assert_eq!(sp.stats().msg_too_big, 1);
        }
    }
}

#[test]
fn b7_a_length_inside_what_needed_more_is_refused_and_one_beyond_it_is_not() {
    for (length, ok) in [(4u32, false), (3, false), (5, true), (6, true)] {
        let mut sp =
            strp(By(
                move |msg: &[u8]| {
                    if msg.len() < 8 { Verdict::NeedMore } else { Verdict::Message(length) }
                },
            ));
        let now = Instant::now();
        assert!(feed(&mut sp, b"abcd", now).is_empty());
        let got = feed(&mut sp, b"efgh", now);
        if ok {
            assert_eq!(got, [b"abcdefgh"[..length as usize].to_vec()]);
            assert_eq!(sp.into_unread(), b"abcdefgh"[length as usize..]);
        } else {
            assert!(got.is_empty());
            let cause = PsockError::BadLength { len: length, seen: 4 };
            assert_eq!((sp.error(), cause.errno()), (Some(&cause), errno::EPROTO));
            assert_eq!(sp.stats().bad_hdr_len, 1);
        }
    }
}

#[test]
fn b9_b12_a_refusal_carries_the_code_is_counted_once_and_is_final() {
    for code in [errno::EPERM, errno::EIO, errno::EAGAIN, 4095] {
        let mut sp = strp(By(move |_: &[u8]| Verdict::Error(code)));
        let now = Instant::now();
        feed(&mut sp, b"hello", now);
        for _ in 0..3 {
            assert_eq!(sp.parse(now), Err(PsockError::Parser(code)));
        }
        sp.fail(PsockError::Reset);
        sp.eof();
        assert_eq!(sp.parse(now), Err(PsockError::Parser(code)));
        let stats = sp.stats();
        assert_eq!((stats.interrupted, stats.unrecov_intr, stats.aborts), (1, 0, 1));
    }
}

#[test]
fn b10_handing_the_stream_back_late_is_told_from_handing_it_back_whole() {
    let early = || strp(By(|_: &[u8]| Verdict::Error(errno::ESTRPIPE)));
    let mut sp = early();
    feed(&mut sp, b"hello", Instant::now());
    assert_eq!(sp.error(), Some(&PsockError::Parser(errno::ESTRPIPE)));
    assert_eq!(sp.stats().unrecov_intr, 0);

    let mut sp =
        strp(By(
            |msg: &[u8]| {
                if msg.len() < 8 { Verdict::NeedMore } else { Verdict::Error(errno::ESTRPIPE) }
            },
        ));
    feed(&mut sp, b"abcd", Instant::now());
    feed(&mut sp, b"efgh", Instant::now());
    let cause = PsockError::HandedBackLate { consumed: 4 };
    assert_eq!((sp.error(), cause.errno()), (Some(&cause), errno::ENODATA));
    assert_eq!((sp.stats().unrecov_intr, sp.stats().interrupted), (1, 0));
    // Exceeding B11: all of it comes back, not just the newest piece.
    assert_eq!(sp.into_unread(), "abcdefgh");
}

#[test]
fn b11_j17_whole_messages_before_a_refusal_are_delivered_and_the_rest_comes_back() {
    let mut sp = strp(By(prefixed));
    let good = message(10, 1);
    let bad = [0xff; 9];
    let now = Instant::now();
    assert_eq!(feed(&mut sp, &[&good[..], &bad].concat(), now), [good]);
    assert_eq!(sp.parse(now), Err(PsockError::Parser(errno::EPROTO)));
    assert_eq!(sp.into_unread(), bad[..]);
}

#[test]
fn b14_row_39_the_rest_byte_by_byte_completes_on_the_last_byte() {
    let mut sp = strp(By(prefixed));
    let now = Instant::now();
    let bytes = message(200, 5);
    assert!(feed(&mut sp, &bytes[..10], now).is_empty());
    for (at, byte) in bytes.iter().enumerate().skip(10) {
        assert_eq!(sp.missing(), Some(200 - at as u64));
        let got = feed(&mut sp, &[*byte], now);
        assert_eq!(got.len(), usize::from(at == 199));
    }
}

#[test]
fn b15_j2_rows_40_41_66_a_message_as_long_as_the_limit_completes_whatever_the_pieces() {
    for limit in [8192u32, 16_384, 65_536, 1 << 20] {
        for len in [limit / 2, limit / 4 * 3, limit] {
            for piece in [536, 4096, usize::MAX] {
                let limits = Limits { max_message: limit, ..Limits::default() };
                let mut sp = StrParser::new(By(prefixed), ID, limits);
                let bytes = message(len as usize, 9);
                let now = Instant::now();
                let mut got = feed(&mut sp, &bytes[..10], now);
                for part in bytes[10..].chunks(piece.min(bytes.len())) {
                    got.extend(feed(&mut sp, part, now));
                }
                assert_eq!(got, [bytes], "limit {limit} length {len} pieces {piece}");
            }
        }
    }
}

#[test]
fn b16_j3_row_67_an_undecided_parser_holds_no_more_than_max_header() {
    let limits = Limits { max_header: 1000, ..Limits::default() };
    let mut sp = StrParser::new(By(|_: &[u8]| Verdict::NeedMore), ID, limits);
    let now = Instant::now();
    feed(&mut sp, &[1; 999], now);
    assert_eq!(sp.error(), None);
    feed(&mut sp, &[1; 1], now);
    let cause = PsockError::HeaderTooLong { limit: 1000 };
    assert_eq!((sp.error(), cause.errno()), (Some(&cause), errno::EMSGSIZE));
    feed(&mut sp, &[1; 100_000], now);
    assert_eq!(sp.buffered(), 1000);
}

fn timed(timeout: Option<Duration>) -> StrParser<Plain> {
    let limits = Limits { assembly_timeout: timeout, ..Limits::default() };
    StrParser::new(By(prefixed as fn(&[u8]) -> Verdict), ID, limits)
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn b18_b19_the_deadline_starts_with_the_first_piece_and_is_not_rearmed() {
    let mut sp = timed(Some(SECOND));
    let start = Instant::now();
    let bytes = message(20, 1);
    assert_eq!(sp.deadline(), None, "not running while idle");
    feed(&mut sp, &bytes[..2], start);
    assert_eq!(sp.deadline(), Some(start + SECOND), "two bytes of the header start it");
    for (n, byte) in bytes[2..19].iter().enumerate() {
        feed(&mut sp, &[*byte], start + SECOND / 20 * n as u32);
        assert_eq!(sp.deadline(), Some(start + SECOND));
    }
    assert_eq!(feed(&mut sp, &bytes[19..], start + SECOND).len(), 1);
    assert_eq!(sp.deadline(), None, "cancelled on completion");
    // The next message has a deadline of its own, begun with its own first piece.
    feed(&mut sp, &bytes[..1], start + 5 * SECOND);
    assert_eq!(sp.deadline(), Some(start + 6 * SECOND));
}

#[test]
fn b18_a_changed_timeout_counts_from_the_next_message() {
    let mut sp = timed(Some(SECOND));
    let start = Instant::now();
    let bytes = message(20, 1);
    feed(&mut sp, &bytes[..2], start);
    sp.set_assembly_timeout(None);
    assert_eq!(sp.deadline(), Some(start + SECOND), "clearing it does not disarm");
    feed(&mut sp, &bytes[2..], start);
    feed(&mut sp, &bytes[..2], start);
    assert_eq!(sp.deadline(), None);
}

#[test]
fn b21_a_message_whole_in_one_look_starts_no_deadline() {
    let mut sp = timed(Some(SECOND));
    let start = Instant::now();
    let whole = message(20, 1);
    assert_eq!(feed(&mut sp, &whole, start), [whole]);
    assert_eq!((sp.deadline(), sp.has_begun()), (None, false));
    assert_eq!(sp.on_deadline(start + 9 * SECOND), Ok(()));
}

#[test]
fn b20_an_expired_message_ends_the_connection_and_comes_back() {
    let mut sp = timed(Some(SECOND));
    let start = Instant::now();
    let (whole, part) = (message(10, 1), message(20, 2));
    assert_eq!(feed(&mut sp, &[&whole[..], &part[..8]].concat(), start), [whole]);
    assert_eq!(sp.on_deadline(start + SECOND / 2), Ok(()), "early calls do nothing");
    let cause = PsockError::TimedOut { have: 8, need: Some(20) };
    assert_eq!(sp.on_deadline(start + SECOND), Err(cause.clone()));
    assert_eq!(sp.deadline(), None);
    assert_eq!(sp.on_deadline(start + 2 * SECOND), Ok(()));
    assert_eq!((sp.parse(start), cause.errno()), (Err(cause), errno::ETIMEDOUT));
    assert_eq!(sp.stats().msg_timeouts, 1);
    assert_eq!(sp.into_unread(), part[..8]);
}

#[test]
fn row_36_expiry_at_the_instant_of_completion_is_one_of_both() {
    let bytes = message(20, 1);
    let start = Instant::now();
    let due = start + SECOND;
    for complete_first in [true, false] {
        let mut sp = timed(Some(SECOND));
        feed(&mut sp, &bytes[..8], start);
        let (delivered, expired);
        if complete_first {
            delivered = feed(&mut sp, &bytes[8..], due).len();
            expired = sp.on_deadline(due).is_err();
        } else {
            expired = sp.on_deadline(due).is_err();
            delivered = feed(&mut sp, &bytes[8..], due).len();
        }
        assert_eq!((delivered, expired), (usize::from(complete_first), !complete_first));
    }
}

#[test]
fn row_38_no_timeout_zero_one_nanosecond_and_for_ever_all_make_sense() {
    let start = Instant::now();
    for (timeout, armed) in [
        (None, false),
        (Some(Duration::ZERO), false),
        (Some(Duration::from_nanos(1)), true),
        (Some(Duration::MAX), false),
    ] {
        let mut sp = timed(timeout);
        feed(&mut sp, &[0], start);
        assert_eq!(sp.deadline().is_some(), armed, "{timeout:?}");
    }
}

#[test]
fn c8_time_during_which_we_do_not_read_is_not_held_against_the_peer() {
    let mut sp = timed(Some(SECOND));
    let start = Instant::now();
    feed(&mut sp, &message(20, 1)[..8], start);
    sp.pause(start + SECOND / 2);
    sp.pause(start + SECOND);
    assert_eq!(sp.deadline(), None);
    assert_eq!(sp.on_deadline(start + 9 * SECOND), Ok(()));
    sp.resume(start + 10 * SECOND);
    assert_eq!(sp.deadline(), Some(start + SECOND + 19 * SECOND / 2));
    sp.resume(start + 11 * SECOND);
    assert!(sp.on_deadline(start + 11 * SECOND).is_err());
}

#[test]
fn b22_b23_b24_j12_the_end_comes_after_the_messages_and_says_whether_it_was_clean() {
    let now = Instant::now();
    for cut in [0usize, 1, 4, 11] {
        let mut sp = strp(By(prefixed));
        let (whole, part) = (message(10, 1), message(20, 2));
        sp.read_buf(&mut Blocks::default()).extend_from_slice(&[&whole[..], &part[..cut]].concat());
        sp.eof();
        assert_eq!(drain(&mut sp, now), [whole]);
        let end = sp.parse(now);
        match cut {
            0 => assert_eq!(end, Err(PsockError::Eof)),
            1 => assert_eq!(end, Err(PsockError::EofMidMessage { have: 1, need: None })),
            _ => {
                assert_eq!(end, Err(PsockError::EofMidMessage { have: cut as u64, need: Some(20) }))
            }
        }
        assert_eq!(sp.into_unread(), part[..cut]);
    }
}

#[test]
fn b25_a_reset_is_told_as_such_after_what_came_before_it() {
    let mut sp = strp(By(prefixed));
    sp.read_buf(&mut Blocks::default()).extend_from_slice(&message(10, 1));
    sp.fail(PsockError::Reset);
    sp.fail(PsockError::Eof);
    assert_eq!(drain(&mut sp, Instant::now()).len(), 1);
    assert_eq!(sp.parse(Instant::now()), Err(PsockError::Reset));
}

#[test]
fn h2_row_48_bytes_are_counted_once() {
    let mut sp = strp(By(prefixed));
    let now = Instant::now();
    for byte in message(20, 1).chunks(10) {
        feed(&mut sp, byte, now);
    }
    for byte in message(20, 1) {
        feed(&mut sp, &[byte], now);
    }
    feed(&mut sp, &[0, 0], now);
    let stats = sp.stats();
    assert_eq!((stats.msgs, stats.bytes, stats.delivered_bytes), (2, 42, 40));
}

#[test]
fn row_45_lengths_around_two_to_the_31_neither_overflow_nor_reserve_memory() {
    for len in [i32::MAX as u32 - 1, i32::MAX as u32, 1 << 31, (1 << 31) + 1, u32::MAX] {
        for max_message in [len - 1, len] {
            let limits = Limits { max_message, ..Limits::default() };
            let mut sp = StrParser::new(
                By(
                    move |msg: &[u8]| {
                        if msg.len() < 6 { Verdict::Message(6) } else { Verdict::Message(len) }
                    },
                ),
                ID,
                limits,
            );
            let now = Instant::now();
            // A message at an offset, as in the fault's report.
            feed(&mut sp, &[0; 3], now);
            feed(&mut sp, &[0; 300], now);
            sp.read_buf(&mut Blocks::default());
            if max_message == len {
                assert_eq!(sp.error(), None);
                assert_eq!(sp.missing().map(|m| m > u64::from(len) - 310), Some(true));
            } else {
                assert_eq!(sp.error(), Some(&PsockError::TooLong { len, limit: max_message }));
            }
            assert!(sp.memory() <= BELIEVED + 4096, "{}", sp.memory());
        }
    }
}

#[test]
fn row_46_an_expired_message_keeps_no_more_memory_than_its_bytes() {
    let mut sp = timed(Some(SECOND));
    let start = Instant::now();
    feed(&mut sp, &message(100_000, 1)[..10], start);
    sp.read_buf(&mut Blocks::default());
    assert!(sp.memory() >= 100_000);
    assert!(sp.on_deadline(start + SECOND).is_err());
    assert!(sp.memory() <= 64, "{}", sp.memory());
    assert_eq!(sp.buffered(), 10);
}

#[test]
fn an_idle_connection_holds_no_buffer_and_is_small() {
    let mut sp = strp(By(prefixed));
    let now = Instant::now();
    let burst: Vec<u8> = (0..5000).flat_map(|n| message(20, n as u8)).collect();
    assert_eq!(feed(&mut sp, &burst, now).len(), 5000);
    sp.release(&mut Blocks::default());
    assert!(sp.memory() <= 256, "{}", sp.memory());
    assert!(size_of::<StrParser<Arc<dyn Delineate>>>() < 512);
    feed(&mut sp, &[0, 0], now);
    sp.release(&mut Blocks::default());
    assert_eq!(sp.buffered(), 2, "what is begun stays");
}

#[test]
fn a_large_message_is_read_in_place() {
    let mut sp =
        StrParser::new(By(prefixed), ID, Limits { max_message: 1 << 20, ..Limits::default() });
    let now = Instant::now();
    let bytes = message(1 << 20, 3);
    feed(&mut sp, &bytes[..100], now);
    let buf = sp.read_buf(&mut Blocks::default());
    let at = buf.as_ptr();
    assert_eq!(buf.capacity(), 1 << 20);
    buf.extend_from_slice(&bytes[100..]);
    let batch = sp.parse(now).unwrap().unwrap();
    assert_eq!(batch.into_bytes().as_ptr(), at);
    // The next one, expected to be as long, is in place from its first byte.
    assert!(sp.read_buf(&mut Blocks::default()).capacity() >= 1 << 20);
}

#[test]
fn a_small_message_never_keeps_a_huge_block_alive() {
    let mut sp =
        StrParser::new(By(prefixed), ID, Limits { max_message: 1 << 20, ..Limits::default() });
    let now = Instant::now();
    feed(&mut sp, &message(1 << 20, 3), now);
    let buf = sp.read_buf(&mut Blocks::default());
    assert!(buf.capacity() >= 1 << 20);
    let range = buf.as_ptr_range();
    buf.extend_from_slice(&message(5000, 1));
    let batch = sp.parse(now).unwrap().unwrap();
    assert!(!range.contains(&batch.into_bytes().as_ptr()));
}

#[test]
fn a_pass_finds_no_more_messages_than_its_limit() {
    let mut sp = StrParser::new(By(prefixed), ID, Limits { max_batch: 3, ..Limits::default() });
    let burst: Vec<u8> = (0..8).flat_map(|n| message(5, n)).collect();
    sp.read_buf(&mut Blocks::default()).extend_from_slice(&burst);
    let mut sizes = Vec::new();
    while let Some(batch) = sp.parse(Instant::now()).unwrap() {
        sizes.push(batch.len());
    }
    assert_eq!(sizes, [3, 3, 2]);
    assert_eq!((sp.stats().msgs, sp.stats().bytes), (8, 40));
}

#[test]
fn a_delineator_that_breaks_its_contract_harms_only_its_connection_and_loses_nothing() {
    struct Liar(Vec<u32>, WalkEnd);
    impl Delineate for Liar {
        fn parse(&self, _: &[u8]) -> Verdict {
            Verdict::NeedMore
        }
        fn walk(&self, _: &[u8], _: usize, _: WalkLimits, ends: &mut Vec<u32>) -> WalkEnd {
            ends.extend(&self.0);
            self.1
        }
    }
    // (ends in five bytes, how the walk ended, messages that stand)
    for (ends, end, stand) in [
        (vec![0], WalkEnd::Full, 0),
        (vec![2, 10], WalkEnd::Empty, 1),
        (vec![2, 2, 2], WalkEnd::Full, 1),
        (vec![1, 3, 2], WalkEnd::Empty, 2),
        (vec![2], WalkEnd::Partial { len: 3 }, 1),
        (vec![], WalkEnd::Partial { len: 0 }, 0),
    ] {
        let mut sp = strp(Liar(ends.clone(), end));
        let got = feed(&mut sp, b"hello", Instant::now());
        assert_eq!(got.len(), stand, "{ends:?}");
        assert_eq!(sp.parse(Instant::now()), Err(PsockError::Parser(errno::EPROTO)), "{ends:?}");
        let all = [got.concat(), sp.into_unread().to_vec()].concat();
        assert_eq!(all, b"hello", "{ends:?}");
    }
}

#[test]
fn an_empty_message_is_a_refusal_after_what_came_before_it() {
    let mut sp = strp(By(|msg: &[u8]| match msg.first() {
        Some(b'0') => Verdict::Message(0),
        _ => Verdict::Message(2),
    }));
    assert_eq!(feed(&mut sp, b"abcd0xyz", Instant::now()), [b"ab", b"cd"]);
    assert_eq!(sp.error(), Some(&PsockError::Parser(errno::EPROTO)));
    assert_eq!(sp.into_unread(), "0xyz");
}

proptest! {
    /// Any split or coalescing of a stream gives the same messages (rows 44, 64).
    #[test]
    fn any_split_of_a_stream_gives_the_same_messages(
        lens in prop::collection::vec(prop_oneof![6 => 4usize..60, 1 => 900usize..5000, 1 => 60_000usize..140_000], 1..20),
        cuts in prop::collection::vec(prop_oneof![3 => 1usize..30, 1 => 30usize..70_000], 1..40),
    ) {
        let messages: Vec<Vec<u8>> = lens.iter().zip(0u8..).map(|(&len, fill)| message(len, fill)).collect();
        let mut sp = strp(By(prefixed));
        let now = Instant::now();
        let stream = concat(&messages);
        let mut rest = &stream[..];
        let mut got = Vec::new();
        for &cut in cuts.iter().cycle() {
            if rest.is_empty() { break; }
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            got.extend(feed(&mut sp, piece, now));
            rest = after;
        }
        prop_assert_eq!(got, messages);
        prop_assert_eq!(sp.stats().bytes, stream.len() as u64);
        prop_assert_eq!(sp.deadline(), None);
    }
}
