//! What happens to connections, for those who watch.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures_core::Stream;
use parking_lot::Mutex;

use crate::mux::PsockEvent;

/// Events kept for a watcher that does not take them; older ones are dropped and counted.
const KEPT: usize = 4096;

/// One watcher's queue.
#[derive(Debug, Default)]
pub(super) struct Watcher(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<PsockEvent>,
    missed: u64,
    waker: Option<Waker>,
    ended: bool,
}

impl Watcher {
    pub(super) fn push(&self, event: PsockEvent) -> Option<Waker> {
        let mut queue = self.0.lock();
        if queue.events.len() == KEPT {
            queue.events.pop_front();
            queue.missed += 1;
        }
        queue.events.push_back(event);
        queue.waker.take()
    }

    pub(super) fn end(&self) -> Option<Waker> {
        let mut queue = self.0.lock();
        queue.ended = true;
        queue.waker.take()
    }
}

/// The events of a multiplexor's connections, from the call of
/// [`KcmSocket::events`](super::KcmSocket::events) on. A stream; it ends when the last KCM
/// socket is closed.
///
/// The last 4096 events are kept for a watcher that is slow; what it misses is counted by
/// [`missed`](Self::missed), and can be found out by [`Psock::error`](super::Psock::error).
#[derive(Debug)]
pub struct Events(Arc<Watcher>);

impl Events {
    pub(super) fn new() -> (Self, Arc<Watcher>) {
        let watcher = Arc::new(Watcher::default());
        (Events(watcher.clone()), watcher)
    }

    /// The next event; None when the multiplexor is closed.
    ///
    /// Cancel safe: an event is taken only when it is returned.
    pub async fn next(&mut self) -> Option<PsockEvent> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// The next event, if there is one now.
    pub fn try_next(&mut self) -> Option<PsockEvent> {
        self.0.0.lock().events.pop_front()
    }

    /// How many events were dropped because nobody took them.
    pub fn missed(&self) -> u64 {
        self.0.0.lock().missed
    }
}

impl Stream for Events {
    type Item = PsockEvent;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<PsockEvent>> {
        let mut queue = self.0.0.lock();
        match queue.events.pop_front() {
            Some(event) => Poll::Ready(Some(event)),
            None if queue.ended => Poll::Ready(None),
            None => {
                queue.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
