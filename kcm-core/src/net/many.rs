//! Many messages in one call: small ones are put back to back outside the multiplexor's lock, so
//! that a run of them is one call on it and one copy.

use std::{collections::VecDeque, iter::Fuse, task::Poll};

use super::{
    intake,
    send::{attempt, prepare},
    shared::{Core, Waiting},
    socket::{KcmSocket, Op},
};
use crate::{
    error::SendError,
    mux::{KcmId, Payload, SendFlags},
};

/// Messages that are queued under one lock.
const MESSAGES: usize = 64;

/// Shared messages up to this size are copied in any case.
const SHARED: usize = 1024;

/// Some messages, those of them that were taken removed from the front.
#[derive(Default)]
struct Chunk<'a> {
    items: VecDeque<Item<'a>>,
    /// The bytes of all runs.
    bytes: Vec<u8>,
    /// Where the messages of all runs end, counted from the start of their run.
    ends: Vec<u32>,
}

enum Item<'a> {
    /// Small messages, by where they begin in `bytes` and in `ends`, and how many they are.
    Run { at: usize, first: usize, count: usize },
    /// A large message, or an empty one.
    One(Payload<'a>),
}

impl<'a> Chunk<'a> {
    /// Takes up to [`MESSAGES`] in place of those that were there.
    fn fill(&mut self, messages: impl Iterator<Item = Payload<'a>>) {
        self.items.clear();
        self.bytes.clear();
        self.ends.clear();
        // Growing step by step was a fifth of all the time.
        let expected = messages.size_hint().0.min(MESSAGES);
        for payload in messages.take(MESSAGES) {
            let (bytes, small): (&[u8], _) = match &payload {
                Payload::Borrowed(bytes) => (&bytes[..], intake::LARGEST),
                Payload::Shared(bytes) => (&bytes[..], SHARED),
            };
            if bytes.is_empty() || bytes.len() > small {
                self.items.push_back(Item::One(prepare(payload)));
                continue;
            }
            if self.ends.is_empty() {
                self.bytes.reserve((bytes.len() * expected).min(intake::BYTES));
                self.ends.reserve(expected);
            }
            let (at, first) = (self.bytes.len(), self.ends.len());
            let start = match self.items.back_mut() {
                Some(Item::Run { at, count, .. })
                    if self.bytes.len() + bytes.len() - *at <= intake::BYTES =>
                {
                    *count += 1;
                    *at
                }
                _ => {
                    self.items.push_back(Item::Run { at, first, count: 1 });
                    at
                }
            };
            self.bytes.extend_from_slice(bytes);
            self.ends.push((self.bytes.len() - start) as u32);
        }
    }

    /// Sends what the multiplexor takes now, pushed if these are the last; how many messages.
    fn send(&mut self, core: &mut Core, kcm: KcmId, last: bool) -> Poll<Result<usize, SendError>> {
        let mut taken = 0;
        while let Some(item) = self.items.pop_front() {
            let flags = match last && self.items.is_empty() {
                true => SendFlags::EOR,
                false => SendFlags::EOR | SendFlags::BATCH,
            };
            match item {
                Item::Run { at, first, count } => {
                    let ends = self.ends.get(first..first + count).unwrap_or_default();
                    let bytes = self.bytes.get(at..).unwrap_or_default();
                    let sent = match core.mux.send_whole(kcm, bytes, ends, flags, &mut core.fx) {
                        Ok(sent) => sent,
                        Err(SendError::WouldBlock) => 0,
                        Err(e) => return Poll::Ready(Err(e)),
                    };
                    taken += sent;
                    if sent < count {
                        self.give_back(at, first, count, sent);
                        break;
                    }
                }
                Item::One(payload) => {
                    let mut payload = Some(payload);
                    match attempt(core, kcm, &mut payload, |core, payload| {
                        core.mux.send(kcm, payload, flags, &mut core.fx)
                    }) {
                        Poll::Ready(Ok(_)) => taken += 1,
                        Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                        Poll::Pending => {
                            let back = payload.map(Item::One);
                            back.into_iter().for_each(|item| self.items.push_front(item));
                            break;
                        }
                    }
                }
            }
        }
        core.sent(kcm);
        if taken == 0 { Poll::Pending } else { Poll::Ready(Ok(taken)) }
    }

    /// Puts the rest of a run back to the front; `sent` of it were taken.
    fn give_back(&mut self, at: usize, first: usize, count: usize, sent: usize) {
        let rest = self.ends.get_mut(first..first + count).unwrap_or_default();
        let (gone, rest) = rest.split_at_mut(sent.min(rest.len()));
        let len = gone.last().copied().unwrap_or(0);
        rest.iter_mut().for_each(|end| *end -= len);
        let (at, first) = (at + len as usize, first + sent);
        self.items.push_front(Item::Run { at, first, count: count - sent });
    }
}

/// The caller's messages, and one that was looked at ahead, to know the last chunk.
struct Ahead<I: Iterator> {
    messages: Fuse<I>,
    next: Option<I::Item>,
}

impl<I: Iterator> Iterator for Ahead<I> {
    type Item = I::Item;

    #[inline]
    fn next(&mut self) -> Option<I::Item> {
        self.next.take().or_else(|| self.messages.next())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let (least, most) = self.messages.size_hint();
        let ahead = usize::from(self.next.is_some());
        (least.saturating_add(ahead), most.and_then(|most| most.checked_add(ahead)))
    }
}

impl<I: Iterator> Ahead<I> {
    fn is_empty(&mut self) -> bool {
        if self.next.is_none() {
            self.next = self.messages.next();
        }
        self.next.is_none()
    }
}

impl KcmSocket {
    /// Sends many messages, which leave together (as `sendmmsg`, semantics D13). Returns how
    /// many were taken: all.
    ///
    /// Each is taken whole or not at all, as by [`send`](Self::send). The iterator is asked for
    /// some messages before the first of them is taken. If the call is dropped, the messages
    /// taken so far are sent, those not yet taken are not.
    pub async fn send_many<'a, I>(&self, messages: I) -> Result<usize, SendError>
    where
        I: IntoIterator,
        I::Item: Into<Payload<'a>>,
    {
        let mut flush = Flush(Some(self));
        let messages = messages.into_iter().map(Into::into).fuse();
        let mut messages = Ahead { messages, next: None };
        let mut chunk = Chunk::default();
        let mut sent = 0;
        // The caller's iterator runs outside the lock.
        while !messages.is_empty() {
            chunk.fill(messages.by_ref());
            let last = messages.is_empty();
            while !chunk.items.is_empty() {
                sent += Op::new(self, Waiting::Send, |core: &mut Core, kcm| {
                    chunk.send(core, kcm, last)
                })
                .cooperative()
                .await?;
            }
            if last {
                // The last one was pushed by itself.
                flush.0 = None;
            }
        }
        Ok(sent)
    }
}

/// Transmits what was queued, however the call ends.
struct Flush<'a>(Option<&'a KcmSocket>);

impl Drop for Flush<'_> {
    fn drop(&mut self) {
        if let Some(socket) = self.0 {
            let _ = socket.push();
        }
    }
}
