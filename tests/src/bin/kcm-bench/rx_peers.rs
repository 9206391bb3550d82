//! Receivers to compare with: what is written by hand today, from the raw socket up.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use rustix::event::epoll::EventFlags;
use tokio::io::AsyncReadExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio_util::codec::{Framed, FramedRead, FramedWrite, LengthDelimitedCodec};

use crate::poll::Poll;
use crate::serve::ServeArgs;
use crate::wire::{HEAD, READ, Tally, message_len, wants_answer};

/// The limit: a thread per connection reads and looks at nothing. Counts bytes only.
pub(crate) fn raw(conns: Vec<TcpStream>) -> Result<Tally> {
    let threads: Vec<_> = conns
        .into_iter()
        .map(|mut s| {
            std::thread::spawn(move || -> std::io::Result<u64> {
                let mut buf = vec![0; READ];
                let mut total = 0;
                loop {
                    match s.read(&mut buf)? {
                        0 => return Ok(total),
                        n => total += n as u64,
                    }
                }
            })
        })
        .collect();
    let mut t = Tally::default();
    for th in threads {
        t.bytes += th.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??;
    }
    Ok(t)
}

/// The message that began in an earlier read.
#[derive(Default)]
pub(crate) struct Partial(Vec<u8>);

impl Partial {
    /// Gives every whole message's payload to `f` as a slice, keeps the rest.
    pub(crate) fn feed(&mut self, mut b: &[u8], f: &mut impl FnMut(&[u8])) {
        while !self.0.is_empty() && !b.is_empty() {
            // Up to the head, then up to the end of the message.
            let want = message_len(&self.0).unwrap_or(HEAD);
            let n = (want - self.0.len()).min(b.len());
            self.0.extend_from_slice(&b[..n]);
            b = &b[n..];
            if message_len(&self.0) == Some(self.0.len()) {
                f(&self.0[HEAD..]);
                self.0.clear();
            }
        }
        while let Some(len) = message_len(b).filter(|len| *len <= b.len()) {
            f(&b[HEAD..len]);
            b = &b[len..];
        }
        self.0.extend_from_slice(b);
    }
}

/// One thread, epoll, native parsing, messages as slices of one buffer of `read` bytes, no
/// steering at all. A connection is read once each time it has something; with `empty`, until it
/// has nothing.
pub(crate) fn epoll(
    conns: Vec<TcpStream>,
    a: &ServeArgs,
    read: usize,
    empty: bool,
) -> Result<Tally> {
    let mut poll = Poll::new()?;
    for (i, c) in conns.iter().enumerate() {
        c.set_nonblocking(true)?;
        poll.add(c, i, EventFlags::IN | EventFlags::RDHUP)?;
    }
    let mut partial: Vec<Partial> = conns.iter().map(|_| Partial::default()).collect();
    let mut buf = vec![0; read];
    let mut reply = Vec::new();
    let mut tally = Tally::default();
    let mut live = conns.len();
    while live > 0 {
        for i in poll.wait()? {
            loop {
                let n = match (&conns[i]).read(&mut buf) {
                    Ok(n) => n,
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    Err(e) => return Err(e.into()),
                };
                if n == 0 {
                    poll.remove(&conns[i])?;
                    live -= 1;
                    break;
                }
                partial[i].feed(&buf[..n], &mut |m| {
                    tally.eat(m);
                    if a.echo && wants_answer(m) {
                        reply.extend_from_slice(&(m.len() as u32).to_be_bytes());
                        reply.extend_from_slice(m);
                    }
                });
                if a.announce {
                    tally.stamp();
                }
                if !reply.is_empty() {
                    (&conns[i]).write_all(&reply)?;
                    reply.clear();
                }
                if !empty {
                    break;
                }
            }
        }
    }
    Ok(tally)
}

async fn total(mut tasks: JoinSet<Result<Tally>>) -> Result<Tally> {
    let mut t = Tally::default();
    while let Some(one) = tasks.join_next().await {
        t.add(one??);
    }
    Ok(t)
}

/// `Framed<LengthDelimitedCodec>`, a task per connection, consumed where it is read.
pub(crate) async fn framed(conns: Vec<tokio::net::TcpStream>, a: &ServeArgs) -> Result<Tally> {
    let echo = a.echo;
    let mut tasks = JoinSet::new();
    for s in conns {
        tasks.spawn(async move {
            let mut t = Tally::default();
            let mut f = Framed::new(s, LengthDelimitedCodec::new());
            while let Some(m) = f.next().await {
                let m = m?;
                t.eat(&m);
                if echo && wants_answer(&m) {
                    f.send(m.freeze()).await?;
                }
            }
            Ok(t)
        });
    }
    total(tasks).await
}

type Reply = Option<Arc<Mutex<FramedWrite<OwnedWriteHalf, LengthDelimitedCodec>>>>;
type Item = (BytesMut, Reply);
type Reader = FramedRead<OwnedReadHalf, LengthDelimitedCodec>;

fn split(s: tokio::net::TcpStream, echo: bool) -> (Reader, Reply) {
    let (r, w) = s.into_split();
    let reply =
        echo.then(|| Arc::new(Mutex::new(FramedWrite::new(w, LengthDelimitedCodec::new()))));
    (FramedRead::new(r, LengthDelimitedCodec::new()), reply)
}

async fn consume(t: &mut Tally, (m, reply): Item) -> Result<()> {
    t.eat(&m);
    if let Some(w) = reply
        && wants_answer(&m)
    {
        w.lock().await.send(m.freeze()).await?;
    }
    Ok(())
}

/// What people write today: a `Framed` task per connection, one flume channel, M consumer tasks.
pub(crate) async fn framed_flume(
    conns: Vec<tokio::net::TcpStream>,
    a: &ServeArgs,
) -> Result<Tally> {
    let (tx, rx) = flume::bounded::<Item>(1024);
    for s in conns {
        let tx = tx.clone();
        let (mut f, reply) = split(s, a.echo);
        tokio::spawn(async move {
            while let Some(Ok(m)) = f.next().await {
                if tx.send_async((m, reply.clone())).await.is_err() {
                    break;
                }
            }
        });
    }
    drop(tx);
    let mut tasks = JoinSet::new();
    for _ in 0..a.consumers {
        let rx = rx.clone();
        tasks.spawn(async move {
            let mut t = Tally::default();
            while let Ok(m) = rx.recv_async().await {
                consume(&mut t, m).await?;
            }
            Ok(t)
        });
    }
    total(tasks).await
}

/// The same with a tokio channel per consumer, dealt round robin.
pub(crate) async fn framed_mpsc(conns: Vec<tokio::net::TcpStream>, a: &ServeArgs) -> Result<Tally> {
    let mut to = Vec::new();
    let mut tasks = JoinSet::new();
    for _ in 0..a.consumers {
        let (tx, mut rx) = mpsc::channel::<Item>(1024);
        to.push(tx);
        tasks.spawn(async move {
            let mut t = Tally::default();
            while let Some(m) = rx.recv().await {
                consume(&mut t, m).await?;
            }
            Ok(t)
        });
    }
    for (i, s) in conns.into_iter().enumerate() {
        let to = to.clone();
        let (mut f, reply) = split(s, a.echo);
        tokio::spawn(async move {
            let mut at = i;
            while let Some(Ok(m)) = f.next().await {
                at = (at + 1) % to.len();
                if to[at].send((m, reply.clone())).await.is_err() {
                    break;
                }
            }
        });
    }
    drop(to);
    total(tasks).await
}

/// Reads much, cuts what is whole with `cut`, gives it to one consumer, the next to the next.
async fn dealt<T, C, E>(
    conns: Vec<tokio::net::TcpStream>,
    a: &ServeArgs,
    cut: C,
    eat: E,
) -> Result<Tally>
where
    T: Send + 'static,
    C: Fn(&mut BytesMut) -> Option<T> + Copy + Send + 'static,
    E: Fn(&mut Tally, T) + Copy + Send + 'static,
{
    anyhow::ensure!(!a.echo, "this variant does not echo");
    let mut to = Vec::new();
    let mut tasks = JoinSet::new();
    for _ in 0..a.consumers {
        let (tx, mut rx) = mpsc::channel::<T>(16);
        to.push(tx);
        let stamp = a.announce;
        tasks.spawn(async move {
            let mut t = Tally::default();
            while let Some(b) = rx.recv().await {
                eat(&mut t, b);
                if stamp {
                    t.stamp();
                }
            }
            Ok(t)
        });
    }
    for (i, mut s) in conns.into_iter().enumerate() {
        let to = to.clone();
        tokio::spawn(async move {
            let mut at = i;
            let mut b = BytesMut::new();
            loop {
                if b.capacity() - b.len() < READ / 4 {
                    b.reserve(READ);
                }
                if s.read_buf(&mut b).await.context("read")? == 0 {
                    return Ok::<(), anyhow::Error>(());
                }
                if let Some(whole) = cut(&mut b) {
                    at = (at + 1) % to.len();
                    if to[at].send(whole).await.is_err() {
                        return Ok(());
                    }
                }
            }
        });
    }
    drop(to);
    total(tasks).await
}

/// Tuned by hand: no codec, large reads, the messages of one read go to one consumer as a
/// `Vec<Bytes>`; a reference count per message.
pub(crate) async fn batch(conns: Vec<tokio::net::TcpStream>, a: &ServeArgs) -> Result<Tally> {
    let cut = |b: &mut BytesMut| {
        let mut out = Vec::new();
        while let Some(len) = message_len(b).filter(|len| *len <= b.len()) {
            out.push(b.split_to(len).freeze().slice(HEAD..));
        }
        (!out.is_empty()).then_some(out)
    };
    dealt(conns, a, cut, |t, b: Vec<Bytes>| b.iter().for_each(|m| t.eat(m))).await
}

/// Whole messages back to back in one buffer, and where each ends.
struct Block {
    bytes: Bytes,
    ends: Vec<u32>,
}

impl Block {
    /// Cuts every whole message off the front of `b` at once.
    fn cut(b: &mut BytesMut) -> Option<Block> {
        let (mut at, mut ends) = (0, Vec::new());
        while let Some(len) = message_len(&b[at..]).filter(|len| at + len <= b.len()) {
            if ends.is_empty() {
                ends.reserve(b.len() / len + 1);
            }
            at += len;
            ends.push(at as u32);
        }
        (at > 0).then(|| Block { bytes: b.split_to(at).freeze(), ends })
    }

    fn each(&self, mut f: impl FnMut(&[u8])) {
        let mut at = 0;
        for &end in &self.ends {
            f(&self.bytes[at + HEAD..end as usize]);
            at = end as usize;
        }
    }
}

/// The best that was found by hand: no codec, large reads, one block per read goes to one
/// consumer; one reference count per read, not per message.
pub(crate) async fn block(conns: Vec<tokio::net::TcpStream>, a: &ServeArgs) -> Result<Tally> {
    dealt(conns, a, Block::cut, |t, b: Block| b.each(|m| t.eat(m))).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::messages;

    #[test]
    fn a_message_split_anywhere_is_counted_once() {
        let b = messages(20, 3);
        for cut in 0..=b.len() {
            let mut p = Partial::default();
            let mut t = Tally::default();
            p.feed(&b[..cut], &mut |m| t.eat(m));
            p.feed(&b[cut..], &mut |m| t.eat(m));
            assert_eq!(
                t,
                Tally { msgs: 3, bytes: b.len() as u64, sum: 3, last_ns: 0 },
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn a_block_holds_the_whole_messages_and_leaves_the_rest() {
        let mut b = BytesMut::from(&messages(20, 3)[..70]);
        let mut t = Tally::default();
        Block::cut(&mut b).unwrap().each(|m| t.eat(m));
        assert_eq!((t.msgs, b.len()), (2, 70 - 48));
        assert!(Block::cut(&mut b).is_none());
    }
}
