//! The places where receivers, senders and connections' tasks wait for one another, and where
//! programs share maps, in their interleavings and with every order of memory that the machine may choose (loom).
//!
//! The files are the product's own, compiled here against loom's locks and atomics.

#![allow(dead_code)]

use std::task::Poll;

use loom::future::block_on;
use loom::sync::Arc;
use loom::thread;

/// What the product takes from parking_lot and the standard library.
mod sync {
    pub(super) use loom::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};

    #[derive(Debug)]
    pub(super) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(super) fn new(value: T) -> Self {
            Mutex(loom::sync::Mutex::new(value))
        }

        pub(super) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }
    }
}

#[path = "../src/net/bell.rs"]
mod bell;
#[path = "../src/net/claims.rs"]
mod claims;
#[path = "../src/net/intake.rs"]
mod intake;
#[path = "../src/net/owned.rs"]
mod owned;
#[path = "../src/net/wait.rs"]
mod wait;

/// The maps of BPF programs.
#[path = "."]
mod map {
    /// As the product's, with words that loom watches, and the same hash each time.
    pub(crate) mod sync {
        use std::hash::{BuildHasherDefault, DefaultHasher};

        pub(super) use loom::hint::spin_loop;
        pub(super) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
        pub(super) use loom::thread::yield_now;

        pub(super) struct RandomState(BuildHasherDefault<DefaultHasher>);

        impl RandomState {
            pub(super) fn new() -> Self {
                RandomState(BuildHasherDefault::default())
            }
        }

        impl std::hash::BuildHasher for RandomState {
            type Hasher = DefaultHasher;

            fn build_hasher(&self) -> DefaultHasher {
                self.0.build_hasher()
            }
        }
    }

    #[path = "../src/bpf/map/hash.rs"]
    pub(crate) mod hash;
    #[path = "../src/bpf/map/spin.rs"]
    pub(crate) mod spin;

    #[derive(Default)]
    pub(crate) struct Lock(spin::Spin);

    impl Lock {
        pub(crate) fn with<T>(&self, call: impl FnOnce() -> T) -> T {
            let _held = self.0.lock();
            call()
        }
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Exists {
        Either,
        MustNot,
        Must,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum MapError {
        NotFound,
        Exists,
        Full,
    }
}

mod bpf {
    /// Words that loom watches.
    pub(crate) mod memory {
        use loom::sync::atomic::{AtomicU64, Ordering};

        pub(crate) struct Memory(Vec<AtomicU64>);

        impl Memory {
            pub(crate) fn zeroed(bytes: usize) -> Option<Self> {
                Some(Memory((0..bytes.div_ceil(8)).map(|_| AtomicU64::new(0)).collect()))
            }

            pub(crate) fn word(&self, index: usize) -> Option<&AtomicU64> {
                self.0.get(index)
            }

            pub(crate) fn read(&self, at: usize, out: &mut [u8]) -> Option<()> {
                let word = self.word(at / 8)?.load(Ordering::Relaxed).to_le_bytes();
                out.copy_from_slice(word.get(..out.len())?);
                Some(())
            }
        }
    }
}

use bell::{AWAKE, Bell};
use claims::{Claim, Claims};
use intake::Intake;
use map::{Exists, MapError, hash::Hash};
use owned::{Refused, Sockets};
use sync::Mutex;
use wait::{Ticket, WaitList};

/// Tries what threads can do to one another with at most two of them interrupted at an
/// arbitrary place; more interruptions find the same, in hours instead of seconds.
fn every_interleaving(scene: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(scene);
}

/// Threads that ring, one for each bit.
fn ringers(bell: &Arc<Bell>, bits: [u8; 2]) -> [thread::JoinHandle<()>; 2] {
    bits.map(|bit| {
        let bell = bell.clone();
        thread::spawn(move || {
            if let Some(waker) = bell.ring(bit) {
                waker.wake();
            }
        })
    })
}

/// A connection's task: takes bits until it has all of them.
async fn answers(bell: Arc<Bell>, all: u8) {
    let mut had = 0;
    std::future::poll_fn(|cx| {
        bell.answered_by(cx.waker());
        loop {
            had |= bell.take();
            if had == all {
                return Poll::Ready(());
            }
            if !bell.rung() {
                return Poll::Pending;
            }
        }
    })
    .await;
}

#[test]
fn a_ring_is_never_lost() {
    every_interleaving(|| {
        let bell = Arc::new(Bell::new());
        let ringers = ringers(&bell, [1, 2]);
        // Loom finds a task that sleeps for ever.
        block_on(answers(bell, 3));
        for ringer in ringers {
            ringer.join().unwrap();
        }
    });
}

/// A connection's task that has another turn after each in which it was told something, and
/// rests after one in which it was not.
async fn takes_turns(bell: Arc<Bell>, all: u8) {
    let mut had = 0;
    std::future::poll_fn(|cx| {
        bell.answered_by(cx.waker());
        loop {
            let told = bell.take();
            had |= told;
            if had == all {
                return Poll::Ready(());
            }
            if told != 0 {
                bell.stay_awake();
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if !bell.rest() {
                return Poll::Pending;
            }
        }
    })
    .await;
}

#[test]
fn a_ring_without_a_wake_up_is_not_lost_on_a_task_that_goes_to_rest() {
    every_interleaving(|| {
        let bell = Arc::new(Bell::new());
        let ringers = ringers(&bell, [1, 2 | AWAKE]);
        block_on(takes_turns(bell, 3));
        for ringer in ringers {
            ringer.join().unwrap();
        }
    });
}

#[test]
fn what_is_taken_over_is_done_by_one_only() {
    every_interleaving(|| {
        let bell = Arc::new(Bell::new());
        bell.ring(1 | 2 | AWAKE);
        let other = bell.clone();
        let sender = thread::spawn(move || other.take_over(1));
        let task = bell.take();
        assert!(sender.join().unwrap() != (task & 1 != 0));
        assert!(task & 2 != 0 && bell.awake());
    });
}

/// A KCM socket of which messages are queued, and its writer, under the multiplexor's lock.
#[derive(Default)]
struct Sending {
    queued: Vec<u8>,
    written: Vec<u8>,
    writing: bool,
}

/// One send: handed over, or queued; the caller writes if nobody does.
fn send(sending: &Mutex<Sending>, intake: &Intake, message: u8) {
    if intake.put(&[message]) {
        return;
    }
    let mut s = sending.lock();
    intake.empty(|bytes, _| s.queued.extend(bytes));
    s.queued.push(message);
    intake.open(8);
    if !std::mem::replace(&mut s.writing, true) {
        drop(s);
        write(sending, intake);
    }
}

/// The writer, as a connection's: takes in before it begins and before it reports.
fn write(sending: &Mutex<Sending>, intake: &Intake) {
    loop {
        let mut s = sending.lock();
        intake.empty(|bytes, _| s.queued.extend(bytes));
        let n = s.queued.len();
        if n == 0 {
            s.writing = false;
            return;
        }
        drop(s);
        // The write itself is here.
        let mut s = sending.lock();
        intake.empty(|bytes, _| s.queued.extend(bytes));
        let out: Vec<u8> = s.queued.drain(..n).collect();
        s.written.extend(out);
        if s.queued.is_empty() {
            s.writing = false;
            return;
        }
    }
}

#[test]
fn nothing_handed_over_is_left_behind_by_the_last_writer() {
    every_interleaving(|| {
        let sending = Arc::new(Mutex::new(Sending::default()));
        let intake = Arc::new(Intake::new());
        let (s, i) = (sending.clone(), intake.clone());
        let other = thread::spawn(move || {
            for message in [11, 12] {
                send(&s, &i, message);
            }
        });
        for message in [1, 2, 3] {
            send(&sending, &intake, message);
        }
        other.join().unwrap();
        let s = sending.lock();
        assert!(!s.writing && s.queued.is_empty());
        let of = |from: std::ops::Range<u8>| -> Vec<u8> {
            s.written.iter().copied().filter(|m| from.contains(m)).collect()
        };
        assert_eq!((of(0..10), of(10..20)), (vec![1, 2, 3], vec![11, 12]), "in order");
        assert_eq!(s.written.len(), 5);
    });
}

/// A KCM socket's queue, and who waits for it, under the multiplexor's one lock.
#[derive(Default)]
struct Queue {
    messages: usize,
    waiting: WaitList,
}

/// One receive, as the sockets do it: look, else wait; leave, and pass on what is left.
async fn receive(queue: &Mutex<Queue>) {
    let mut ticket = None;
    std::future::poll_fn(|cx| {
        let mut q = queue.lock();
        let others_first = ticket.is_some_and(|t| q.waiting.must_wait(t));
        if q.messages == 0 || others_first {
            q.waiting.wait(&mut ticket, cx.waker());
            return Poll::Pending;
        }
        q.messages -= 1;
        let next = leave(&mut q, &mut ticket, true);
        drop(q);
        next.into_iter().for_each(std::task::Waker::wake);
        Poll::Ready(())
    })
    .await;
}

/// A receive that is given up after one look.
fn try_once(queue: &Mutex<Queue>) -> bool {
    let mut ticket = None;
    let mut q = queue.lock();
    let got = q.messages > 0;
    if !got {
        q.waiting.wait(&mut ticket, std::task::Waker::noop());
        drop(q);
        thread::yield_now();
        q = queue.lock();
    }
    q.messages -= usize::from(got);
    let next = leave(&mut q, &mut ticket, got);
    drop(q);
    next.into_iter().for_each(std::task::Waker::wake);
    got
}

fn leave(q: &mut Queue, ticket: &mut Option<Ticket>, used: bool) -> Option<std::task::Waker> {
    let woken = q.waiting.leave(ticket);
    match (used || woken) && q.messages > 0 {
        true => q.waiting.wake_one(),
        false => None,
    }
}

fn deliver(queue: &Mutex<Queue>) {
    let mut q = queue.lock();
    q.messages += 1;
    let waker = q.waiting.wake_one();
    drop(q);
    waker.into_iter().for_each(std::task::Waker::wake);
}

#[test]
fn two_receivers_get_two_messages() {
    every_interleaving(|| {
        let queue = Arc::new(Mutex::new(Queue::default()));
        let other = queue.clone();
        let receiver = thread::spawn(move || block_on(receive(&other)));
        let source = queue.clone();
        let sender = thread::spawn(move || {
            deliver(&source);
            deliver(&source);
        });
        block_on(receive(&queue));
        sender.join().unwrap();
        receiver.join().unwrap();
        assert!(queue.lock().messages == 0 && queue.lock().waiting.is_empty());
    });
}

#[test]
fn a_wake_up_that_is_given_up_goes_to_the_next() {
    every_interleaving(|| {
        let queue = Arc::new(Mutex::new(Queue::default()));
        let other = queue.clone();
        let fickle = thread::spawn(move || try_once(&other));
        let source = queue.clone();
        let sender = thread::spawn(move || {
            deliver(&source);
            deliver(&source);
        });
        // Two messages, one who may take one and one who must have one.
        block_on(receive(&queue));
        sender.join().unwrap();
        let taken = usize::from(fickle.join().unwrap());
        assert_eq!(queue.lock().messages, 1 - taken);
    });
}

#[test]
fn a_socket_has_one_owner_at_a_time() {
    every_interleaving(|| {
        let sockets = Arc::new(Sockets::new());
        let owners = Arc::new(loom::sync::atomic::AtomicU8::new(0));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (sockets, owners) = (sockets.clone(), owners.clone());
                thread::spawn(move || {
                    for _ in 0..2 {
                        match sockets.claim(7) {
                            Ok(()) => {
                                assert_eq!(owners.fetch_add(1, sync::Ordering::Relaxed), 0);
                                assert_eq!(owners.fetch_sub(1, sync::Ordering::Relaxed), 1);
                                sockets.release(7);
                            }
                            Err(refused) => assert_eq!(refused, Refused::Attached),
                        }
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(sockets.claim(7), Ok(()), "nobody has it any more");
    });
}

#[test]
fn a_spoilt_socket_is_attached_by_nobody_who_waits_for_it() {
    every_interleaving(|| {
        let sockets = Arc::new(Sockets::new());
        sockets.claim(7).unwrap();
        let other = sockets.clone();
        let waits = thread::spawn(move || {
            for _ in 0..3 {
                assert!(other.claim(7).is_err(), "a half-sent message is on it");
            }
        });
        // As unattach does: marked first, then given back.
        sockets.spoil(7);
        sockets.release(7);
        waits.join().unwrap();
        assert_eq!(sockets.claim(7), Err(Refused::Spoilt));
    });
}

fn put(map: &Hash, key: u64, value: u64, exists: Exists) -> Result<(), MapError> {
    map.update(&key.to_le_bytes(), exists, |values, at| {
        values.word(at / 8).unwrap().store(value, sync::Ordering::Relaxed);
    })
}

fn get(map: &Hash, key: u64) -> Option<u64> {
    let at = map.lookup(&key.to_le_bytes())?;
    Some(map.values().word(at / 8).unwrap().load(sync::Ordering::Relaxed))
}

#[test]
fn a_key_that_is_there_all_along_is_found_while_others_come_and_go() {
    every_interleaving(|| {
        // One chain, whose middle changes.
        let map = Arc::new(Hash::new(8, 8, 2, false).unwrap());
        put(&map, 1, 11, Exists::Either).unwrap();
        let other = map.clone();
        let writer = thread::spawn(move || {
            put(&other, 2, 22, Exists::Either).unwrap();
            other.delete(&2_u64.to_le_bytes()).unwrap();
        });
        assert_eq!(get(&map, 1), Some(11));
        writer.join().unwrap();
        assert_eq!((get(&map, 1), get(&map, 2), map.len()), (Some(11), None, 1));
    });
}

#[test]
fn of_two_who_make_the_same_key_one_does() {
    every_interleaving(|| {
        let map = Arc::new(Hash::new(8, 8, 2, false).unwrap());
        let threads: Vec<_> = [10, 20]
            .map(|value| {
                let map = map.clone();
                thread::spawn(move || put(&map, 7, value, Exists::MustNot))
            })
            .into();
        let made: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        assert_eq!(made.iter().filter(|m| m.is_ok()).count(), 1);
        assert!(made.iter().all(|m| matches!(m, Ok(()) | Err(MapError::Exists))), "{made:?}");
        let first = if made[0].is_ok() { 10 } else { 20 };
        assert_eq!((get(&map, 7), map.len()), (Some(first), 1));
        // The element that the other had taken is there for the next.
        put(&map, 8, 80, Exists::MustNot).unwrap();
        assert_eq!(put(&map, 9, 90, Exists::MustNot), Err(MapError::Full));
    });
}

#[test]
fn a_spinning_lock_lets_one_in() {
    every_interleaving(|| {
        let lock = Arc::new((map::Lock::default(), loom::cell::UnsafeCell::new(0)));
        let other = lock.clone();
        let add = |lock: &(map::Lock, loom::cell::UnsafeCell<u32>)| {
            lock.0.with(|| {
                // SAFETY: the lock is held, so nobody else has the cell; loom checks just that.
                lock.1.with_mut(|n| unsafe { *n += 1 });
            });
        };
        let thread = thread::spawn(move || add(&other));
        add(&lock);
        thread.join().unwrap();
        // SAFETY: the other thread is gone.
        assert_eq!(lock.1.with(|n| unsafe { *n }), 2);
    });
}

/// Two batches' marks: what they are of, and where each of their messages is.
fn laid_out(round: usize) -> (*mut (), [u32; 4]) {
    let first = 10 * round as u32;
    (std::ptr::without_provenance_mut(round), [first, first + 1, first + 3, first + 6])
}

/// Lays one batch out, lets two take of it while it is closed and the other is laid out, and
/// counts: nothing was taken twice, left out, or mixed up, and who closes knows how many.
#[test]
fn each_mark_that_was_laid_out_is_taken_by_one_and_known_to_the_one_who_closes() {
    every_interleaving(|| {
        let claims = Arc::new(Claims::<4>::new());
        let lay_out = |round: usize| {
            let (of, marks) = laid_out(round);
            claims.lay_out(of, marks[0], &marks[1..]);
        };
        lay_out(1);
        let takers = [(), ()].map(|()| {
            let claims = claims.clone();
            thread::spawn(move || [claims.take(false), claims.take(false)])
        });
        let first = claims.close();
        lay_out(2);
        let mut taken: Vec<Claim> = Vec::new();
        for taker in takers {
            taken.extend(taker.join().unwrap().into_iter().flatten());
        }
        assert_eq!(claims.taken(), taken.len() - first);
        let second = claims.close();
        assert!(claims.take(false).is_none());
        let mut expected = Vec::new();
        for (round, n) in [(1, first), (2, second)] {
            let (of, marks) = laid_out(round);
            expected.extend((0..n).map(|i| Claim { of, from: marks[i], to: marks[i + 1] }));
        }
        taken.sort_by_key(|claim| claim.from);
        assert_eq!(taken, expected);
    });
}

/// What is read under a mark was there before it was laid out, and is not changed before the
/// one who closes knows that it was taken.
#[test]
fn what_a_mark_stands_for_is_read_before_it_is_changed() {
    every_interleaving(|| {
        let claims = Arc::new(Claims::<2>::new());
        let block = Arc::new(loom::cell::UnsafeCell::new(1));
        claims.lay_out(laid_out(1).0, 0, &[1]);
        let taker = {
            let (claims, block) = (claims.clone(), block.clone());
            thread::spawn(move || {
                let claim = claims.take(false)?;
                // SAFETY: loom checks just that.
                Some((claim, block.with(|block| unsafe { *block })))
            })
        };
        if claims.close() == 0 {
            // SAFETY: nobody has taken the mark that stands for it; loom checks just that.
            block.with_mut(|block| unsafe { *block = 2 });
            claims.lay_out(laid_out(2).0, 0, &[1]);
        }
        if let Some((claim, seen)) = taker.join().unwrap() {
            assert_eq!(claim.of, laid_out(seen).0);
        }
    });
}
