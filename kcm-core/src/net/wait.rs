//! Who waits for a KCM socket: first come, first woken.

use std::{collections::VecDeque, task::Waker};

/// A place in a [`WaitList`].
pub(super) type Ticket = u64;

#[derive(Debug)]
struct Waiter {
    ticket: Ticket,
    /// None: woken, and has not run yet. It keeps its place: if somebody else was faster, it
    /// is still the next.
    waker: Option<Waker>,
}

/// Waiters in the order in which they came (semantics C17).
#[derive(Debug, Default)]
pub(super) struct WaitList {
    /// Ascending by ticket.
    waiters: VecDeque<Waiter>,
    next: Ticket,
}

impl WaitList {
    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// Takes or keeps a place, and remembers whom to wake.
    pub(super) fn wait(&mut self, ticket: &mut Option<Ticket>, waker: &Waker) {
        if let Some(waiter) = ticket.and_then(|t| self.find(t)) {
            match &mut waiter.waker {
                Some(old) if old.will_wake(waker) => {}
                other => *other = Some(waker.clone()),
            }
            return;
        }
        self.next += 1;
        *ticket = Some(self.next);
        self.waiters.push_back(Waiter { ticket: self.next, waker: Some(waker.clone()) });
    }

    /// Gives a place up. True if its holder had been woken: then the wake-up is unused, and
    /// the next should have it.
    pub(super) fn leave(&mut self, ticket: &mut Option<Ticket>) -> bool {
        let Some(ticket) = ticket.take() else { return false };
        match self.waiters.binary_search_by_key(&ticket, |w| w.ticket) {
            Ok(at) => self.waiters.remove(at).is_some_and(|w| w.waker.is_none()),
            Err(_) => false,
        }
    }

    /// True for one who was neither woken nor is the first: it is not his turn, should he
    /// look all the same.
    pub(super) fn must_wait(&self, ticket: Ticket) -> bool {
        match self.waiters.binary_search_by_key(&ticket, |w| w.ticket) {
            Ok(0) | Err(_) => false,
            Ok(at) => self.waiters.get(at).is_some_and(|w| w.waker.is_some()),
        }
    }

    /// The first who was not woken yet.
    pub(super) fn wake_one(&mut self) -> Option<Waker> {
        self.waiters.iter_mut().find_map(|w| w.waker.take())
    }

    /// All who were not woken yet.
    pub(super) fn wake_all(&mut self) -> impl Iterator<Item = Waker> {
        self.waiters.iter_mut().filter_map(|w| w.waker.take())
    }

    fn find(&mut self, ticket: Ticket) -> Option<&mut Waiter> {
        let at = self.waiters.binary_search_by_key(&ticket, |w| w.ticket).ok()?;
        self.waiters.get_mut(at)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    struct Count(AtomicUsize);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn waker() -> (Arc<Count>, Waker) {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        (count.clone(), count.into())
    }

    #[test]
    fn waiters_are_woken_in_the_order_they_came_and_keep_their_place() {
        let mut list = WaitList::default();
        let (a, wa) = waker();
        let (b, wb) = waker();
        let (mut ta, mut tb) = (None, None);
        list.wait(&mut ta, &wa);
        list.wait(&mut tb, &wb);
        list.wake_one().unwrap().wake();
        assert_eq!((a.0.load(Ordering::Relaxed), b.0.load(Ordering::Relaxed)), (1, 0));
        // The first found nothing and waits again: it is the first still.
        list.wait(&mut ta, &wa);
        list.wake_one().unwrap().wake();
        assert_eq!((a.0.load(Ordering::Relaxed), b.0.load(Ordering::Relaxed)), (2, 0));
        // The first leaves with its wake-up unused: the second is to have it.
        assert!(list.leave(&mut ta));
        list.wake_one().unwrap().wake();
        assert_eq!(b.0.load(Ordering::Relaxed), 1);
        assert!(list.leave(&mut tb) && list.is_empty());
        assert!(!list.leave(&mut tb));
    }
}
