//! A loaded parser with its connections, and the thread that reads its ring.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use kcm_common::kernel::{RECORD_HEAD, Slot, charge};
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, epoll, eventfd};

use super::error::Error;
use super::load::{CONNECTIONS, Loaded, RING_BYTES, Source, carries, load};
use super::ring::{Record, Ring, Seen, Slots};
use super::sys;
use crate::parser::Parser;

/// A message in the ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    /// Messages of the connection before this one.
    pub(crate) seq: u64,
    pub(crate) bytes: &'a [u8],
    /// The credit it used up.
    pub(crate) charge: u64,
}

/// Where a connection's messages go. Called from any thread, with the ring's lock held but for
/// [`after`](Self::after).
pub(crate) trait Sink: Send + Sync {
    /// Messages, in order.
    fn messages(&self, messages: &[Message<'_>]);

    /// Something happened to the connection or in its slot: look.
    fn look(&self);

    /// Called after the others, without a lock: to wake those who are concerned, who may run at
    /// once and want this connection.
    fn after(&self);
}

/// What a connection may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) max_message: u32,
    pub(crate) max_header: u32,
}

/// Who listens to a slot.
struct Entry {
    token: u64,
    sink: Arc<dyn Sink>,
}

/// What there is one of, behind the ring's lock.
struct Reader {
    ring: Ring,
    logs: Option<Ring>,
    entries: Vec<Option<Entry>>,
    /// Slots that are free, and how many were ever used.
    free: VecDeque<u32>,
    used: u32,
    generation: u32,
}

struct Inner {
    loaded: Loaded,
    slots: Slots,
    reader: Mutex<Reader>,
    /// Connections that left: slot and cookie. The reader takes them out, for whoever drops one
    /// may be called by the reader.
    left: Mutex<Vec<(u32, u64)>>,
    epoll: OwnedFd,
    bell: OwnedFd,
    stop: AtomicBool,
    ring_bytes: u32,
}

/// A parser in the kernel. Dropping it takes it out, once its last connection has left.
pub(crate) struct Kernel {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel").field("loaded", &self.inner.loaded).finish_non_exhaustive()
    }
}

/// One pass takes at most this share of the ring, so that what is read makes room.
const SHARE: u64 = 4;

/// And at most this many bytes, so that nobody waits long to be woken.
const PASS: u64 = 256 << 10;

const RING: u64 = 0;
const LOGS: u64 = 1;
const BELL: u64 = 2;

impl Kernel {
    /// The parser's programs in the kernel, loaded if they are not.
    pub(crate) fn of(parser: &Parser) -> Result<Arc<Self>, Error> {
        let Some(source) = parser.source() else {
            return Err(Error::NoPrograms {
                parser: parser.name().to_owned(),
                missing: "for a kernel, for it was not loaded from an object".to_owned(),
            });
        };
        let mut loaded = source.loaded.lock();
        let there = loaded.as_ref().and_then(Weak::upgrade);
        if let Some(kernel) = there.and_then(|any| any.downcast::<Kernel>().ok()) {
            return Ok(kernel);
        }
        let kernel = Kernel::load(&Source {
            object: &source.object,
            name: parser.name(),
            log_level: source.log_level,
            ring_bytes: source.kernel_ring.unwrap_or(RING_BYTES),
            opinion: format!(
                "the same parser's form for the process is accepted by our verifier after {} \
                 instructions; what a kernel does not follow are usually loops: use the scans of \
                 kcm-ebpf, or bound them lower",
                parser.facts().explored
            ),
        })?;
        let kernel = Arc::new(kernel);
        let any: Arc<dyn std::any::Any + Send + Sync> = kernel.clone();
        *loaded = Some(Arc::downgrade(&any));
        Ok(kernel)
    }

    /// Loads, and starts the thread that reads.
    fn load(source: &Source<'_>) -> Result<Self, Error> {
        let failed = |doing| move |e: io::Error| Error::of(doing, e);
        let loaded = load(source)?;
        let ring = Ring::new(loaded.ring.as_fd(), source.ring_bytes as usize)
            .map_err(failed("mapping the ring"))?;
        let logs = loaded.logs.as_ref();
        let logs = logs
            .map(|(fd, bytes)| Ring::new(fd.as_fd(), *bytes))
            .transpose()
            .map_err(failed("mapping the log's ring"))?;
        let slots = Slots::new(loaded.slots.as_fd(), CONNECTIONS as usize)
            .map_err(failed("mapping the slots"))?;
        let watch = || -> io::Result<_> {
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            let add = |fd: BorrowedFd<'_>, data| {
                let data = epoll::EventData::new_u64(data);
                epoll::add(&epoll, fd, data, epoll::EventFlags::IN)
            };
            add(loaded.ring.as_fd(), RING)?;
            if let Some((fd, _)) = &loaded.logs {
                add(fd.as_fd(), LOGS)?;
            }
            add(bell.as_fd(), BELL)?;
            Ok((epoll, bell))
        };
        let (epoll, bell) = watch().map_err(failed("watching the ring"))?;
        let inner = Arc::new(Inner {
            loaded,
            slots,
            reader: Mutex::new(Reader {
                ring,
                logs,
                entries: Vec::new(),
                free: VecDeque::new(),
                used: 0,
                generation: 0,
            }),
            left: Mutex::new(Vec::new()),
            epoll,
            bell,
            stop: AtomicBool::new(false),
            ring_bytes: source.ring_bytes,
        });
        let thread = inner.clone();
        std::thread::Builder::new()
            .name("kcm-kernel".to_owned())
            .spawn(move || thread.run())
            .map_err(failed("starting the ring's thread"))?;
        Ok(Kernel { inner })
    }

    /// The longest message the ring carries, in bytes.
    pub(crate) fn carries(&self) -> u32 {
        carries(self.inner.ring_bytes)
    }

    /// What a connection may have in the ring and on its way to a reader: half the ring.
    pub(crate) fn credit(&self) -> u64 {
        u64::from(self.inner.ring_bytes / 2)
    }

    /// Puts a connected socket under the parser. `register` runs when it is there and before
    /// any message of it is read; what it gives will hear of them.
    ///
    /// # Errors
    /// [`Error::RingTooSmall`], [`Error::Full`], [`Error::NotEstablished`],
    /// [`Error::AlreadyAttached`], [`Error::Privileges`], [`Error::Io`].
    pub(crate) fn admit<T, R>(
        self: &Arc<Self>,
        fd: BorrowedFd<'_>,
        cookie: u64,
        limits: Limits,
        register: impl FnOnce(Lease) -> Result<(Arc<dyn Sink>, T), R>,
    ) -> Result<Result<T, R>, Error> {
        if charge(limits.max_message) > self.credit() || limits.max_message > self.carries() {
            return Err(Error::RingTooSmall {
                message: limits.max_message,
                ring: self.inner.ring_bytes,
                carries: self.carries(),
            });
        }
        let inner = &self.inner;
        let mut reader = inner.reader.lock();
        inner.forget_left(&mut reader);
        let index = inner.place(&mut reader).ok_or(Error::Full(CONNECTIONS))?;
        reader.generation = reader.generation.wrapping_add(1).max(1);
        let token = u64::from(reader.generation) << 32 | u64::from(index);
        inner.slots.set(
            index,
            &Slot {
                token,
                credit: self.credit(),
                max_message: limits.max_message,
                max_header: limits.max_header,
                quiet_below: self.credit(),
                ..Slot::default()
            },
        );
        if let Err(error) = inner.insert(fd, cookie, index, token) {
            reader.free.push_back(index);
            return Err(error);
        }
        let lease = Lease { kernel: self.clone(), index, cookie };
        // The ring's lock is held: whatever comes now waits for the sink.
        Ok(register(lease).map(|(sink, value)| {
            let at = index as usize;
            if reader.entries.len() <= at {
                reader.entries.resize_with(at + 1, || None);
            }
            if let Some(entry) = reader.entries.get_mut(at) {
                *entry = Some(Entry { token, sink });
            }
            value
        }))
    }

    /// Hands over what is in the ring now. Not to be called from a [`Sink`], nor with a lock
    /// held that one takes.
    pub(crate) fn drain(&self) {
        self.inner.drain();
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.inner.stop.store(true, Ordering::Release);
        self.inner.ring_bell();
    }
}

/// A connection's place. When it is dropped, what still comes from the socket is dropped too;
/// shut the socket down, or close it, right then. It leaves the sockmap when it is closed.
#[derive(Debug)]
pub(crate) struct Lease {
    kernel: Arc<Kernel>,
    index: u32,
    cookie: u64,
}

impl Lease {
    pub(crate) fn kernel(&self) -> &Arc<Kernel> {
        &self.kernel
    }

    /// What the programs know of the connection.
    pub(crate) fn seen(&self) -> Seen {
        self.kernel.inner.slots.seen(self.index)
    }

    pub(crate) fn set_max_message(&self, bytes: u32) {
        self.kernel.inner.slots.set_max_message(self.index, bytes);
    }

    /// Gives credit back, when messages have been taken.
    pub(crate) fn grant(&self, charge: u64) {
        self.kernel.inner.slots.grant(self.index, charge);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.kernel.inner.left.lock().push((self.index, self.cookie));
        self.kernel.inner.ring_bell();
    }
}

impl Inner {
    fn ring_bell(&self) {
        // Full means that it rings already.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    fn insert(&self, fd: BorrowedFd<'_>, cookie: u64, index: u32, token: u64) -> Result<(), Error> {
        let flags = epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), flags)
            .map_err(|e| Error::of("watching the connection", e.into()))?;
        let sockets = self.loaded.sockets.as_fd();
        sys::update(sockets, &cookie.to_ne_bytes(), &index.to_ne_bytes(), true)
            .map_err(|e| match e.raw_os_error() {
                Some(libc::EEXIST) => Error::AlreadyAttached,
                _ => Error::of("noting the connection", e),
            })
            .and_then(|()| {
                let (key, value) = (index.to_ne_bytes(), (fd.as_raw_fd() as u64).to_ne_bytes());
                sys::update(self.loaded.sockmap.as_fd(), &key, &value, true)
                    .map_err(|e| match e.raw_os_error() {
                        Some(libc::EOPNOTSUPP) => Error::NotEstablished,
                        Some(libc::EBUSY | libc::EEXIST) => Error::AlreadyAttached,
                        _ => Error::of("putting the socket into the sockmap", e),
                    })
                    .inspect_err(|_| self.forget(cookie))
            })
            .inspect_err(|_| {
                let _ = epoll::delete(&self.epoll, fd);
            })
    }

    /// An index at which the sockmap has no socket. One that left is there until it is closed:
    /// taking it out meanwhile would lose bytes, and race with its closing in the kernel.
    fn place(&self, reader: &mut Reader) -> Option<u32> {
        for _ in 0..reader.free.len() {
            let index = reader.free.pop_front()?;
            if !sys::holds(self.loaded.sockmap.as_fd(), index) {
                return Some(index);
            }
            reader.free.push_back(index);
        }
        let fresh = (reader.used < CONNECTIONS).then_some(reader.used)?;
        reader.used += 1;
        Some(fresh)
    }

    /// The programs no longer know the socket: what still comes is dropped.
    fn forget(&self, cookie: u64) {
        // Not there any more: all the better.
        let _ = sys::delete(self.loaded.sockets.as_fd(), &cookie.to_ne_bytes());
    }

    /// Takes out those that left.
    fn forget_left(&self, reader: &mut Reader) {
        let left = std::mem::take(&mut *self.left.lock());
        for (index, cookie) in left {
            self.forget(cookie);
            if let Some(entry) = reader.entries.get_mut(index as usize) {
                *entry = None;
            }
            reader.free.push_back(index);
        }
    }

    /// Reads until there is nothing more to read.
    fn drain(&self) {
        let limit = (u64::from(self.ring_bytes) / SHARE).min(PASS);
        let mut concerned = Vec::new();
        loop {
            let mut reader = self.reader.lock();
            let Reader { ring, entries, .. } = &mut *reader;
            let any = ring.read(limit, |records| hand_over(records, entries, &mut concerned));
            if !any && ring.was_crowded() {
                self.look_at_stopped(entries, &mut concerned);
            }
            drop(reader);
            for sink in concerned.drain(..) {
                sink.after();
            }
            if !any {
                break;
            }
        }
        if let Some(logs) = &mut self.reader.lock().logs {
            let line = |records: &[Record<'_>]| {
                for record in records {
                    crate::log::deliver(record.data);
                }
            };
            while logs.read(u64::MAX, line) {}
        }
    }

    /// Has those looked at who were stopped: where there was no room in the ring for a message,
    /// there may have been none for the record that says so. (If there is by now, it is there.)
    fn look_at_stopped(&self, entries: &[Option<Entry>], concerned: &mut Vec<Arc<dyn Sink>>) {
        for (index, entry) in (0..).zip(entries) {
            if let Some(entry) = entry
                && self.slots.is_stopped(index)
            {
                entry.sink.look();
                concerned.push(entry.sink.clone());
            }
        }
    }

    fn run(&self) {
        let mut events = Vec::with_capacity(64);
        let mut concerned: Vec<Arc<dyn Sink>> = Vec::new();
        loop {
            events.clear();
            let waited =
                epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None);
            if matches!(waited, Err(e) if e != rustix::io::Errno::INTR) {
                // Not reached: the descriptor and the buffer are good.
                return;
            }
            // Messages first: whoever looks at his connection finds them delivered.
            self.drain();
            let mut reader = self.reader.lock();
            for event in &events {
                match event.data.u64() {
                    BELL => {
                        let _ = rustix::io::read(&self.bell, &mut [0u8; 8][..]);
                    }
                    RING | LOGS => {}
                    token => {
                        let entry = reader.entries.get(token as u32 as usize);
                        if let Some(entry) = entry.and_then(Option::as_ref)
                            && entry.token == token
                        {
                            entry.sink.look();
                            concerned.push(entry.sink.clone());
                        }
                    }
                }
            }
            self.forget_left(&mut reader);
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            let behind = reader.ring.is_behind();
            drop(reader);
            for sink in concerned.drain(..) {
                sink.after();
            }
            if behind {
                // A record is being written on another processor.
                std::thread::yield_now();
            }
        }
    }
}

/// Gives records to whom they belong: each connection's as one batch, in order.
fn hand_over(
    records: &[Record<'_>],
    entries: &[Option<Entry>],
    concerned: &mut Vec<Arc<dyn Sink>>,
) {
    let mut all: Vec<(u64, Message<'_>)> = Vec::with_capacity(records.len());
    let mut mixed = false;
    for record in records {
        let Some((head, rest)) = record.data.split_first_chunk::<{ RECORD_HEAD as usize }>() else {
            continue;
        };
        let word = |at: usize| head.get(at..).and_then(|b| b.first_chunk()).copied();
        let long = |at: usize| u64::from_ne_bytes(word(at).unwrap_or_default());
        let (token, seq, len) = (long(0), long(8), long(16) as u32 as usize);
        let Some(bytes) = rest.get(..len) else { continue };
        mixed |= all.first().is_some_and(|first| first.0 != token);
        all.push((token, Message { seq, bytes, charge: record.charge }));
    }
    if mixed {
        all.sort_by_key(|(token, _)| *token);
    }
    let mut messages = Vec::with_capacity(all.len());
    for of_one in all.chunk_by(|a, b| a.0 == b.0) {
        let Some((token, _)) = of_one.first() else { continue };
        let entry = entries.get(*token as u32 as usize).and_then(Option::as_ref);
        // None: it has left.
        let Some(entry) = entry.filter(|entry| entry.token == *token) else { continue };
        messages.clear();
        messages.extend(of_one.iter().map(|(_, m)| *m).filter(|m| !m.bytes.is_empty()));
        if !messages.is_empty() {
            entry.sink.messages(&messages);
        }
        if messages.len() < of_one.len() {
            entry.sink.look();
        }
        concerned.push(entry.sink.clone());
    }
}
