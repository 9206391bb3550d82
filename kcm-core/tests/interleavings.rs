//! The places where receivers, senders and connections' tasks wait for one another, in their
//! interleavings and with every order of memory that the machine may choose (loom).
//!
//! The files are the product's own, compiled here against loom's locks and atomics.

#![allow(dead_code)]

use std::task::Poll;

use loom::future::block_on;
use loom::sync::Arc;
use loom::thread;

/// What the product takes from parking_lot and the standard library.
mod sync {
    pub(super) use loom::sync::atomic::{AtomicU8, Ordering};

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
#[path = "../src/net/wait.rs"]
mod wait;

use bell::Bell;
use sync::Mutex;
use wait::{Ticket, WaitList};

/// Tries what threads can do to one another with at most two of them interrupted at an
/// arbitrary place; more interruptions find the same, in hours instead of seconds.
fn every_interleaving(scene: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(scene);
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
        let ringers: Vec<_> = [1, 2]
            .map(|bit| {
                let bell = bell.clone();
                thread::spawn(move || {
                    if let Some(waker) = bell.ring(bit) {
                        waker.wake();
                    }
                })
            })
            .into();
        // Loom finds a task that sleeps for ever.
        block_on(answers(bell, 3));
        for ringer in ringers {
            ringer.join().unwrap();
        }
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
