//! The receiving side of connections whose messages are delineated in the kernel.
//!
//! The kernel engine's thread delivers messages itself, under the psock's receive lock, as the
//! driver does for the process engine; the driver looks after everything else: messages that
//! could not be delivered, deadlines, how the connection ended.
//!
//! Lock order: the engine's ring, then a psock's `rx`, then the multiplexor's. Who holds `rx`
//! does not ask the engine to drain.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use kcm_common::{errno, kernel::stopped};
use parking_lot::Mutex;
use socket2::SockRef;

use super::{
    io::Io,
    psock::{PsockShared, Rx, io_cause, signal},
    shared::{Shared, Todo},
    tcp_info::{TcpState, tcp_info},
};
use crate::{
    error::{AttachError as AttachRefusal, IoCause, PsockError},
    kernel::{Kernel, Lease, Message, Sink},
    message::Batch,
    mux::Delivery,
    stats::StrpStats,
};

/// How long the end of a stream is looked at again for bytes that the kernel has received and
/// not yet parsed.
const PATIENCE: Duration = Duration::from_secs(5);
/// And how often.
const AGAIN: Duration = Duration::from_millis(2);

/// What the receiving side knows of a connection in the kernel.
pub(super) struct KernelRx {
    pub(super) lease: Lease,
    /// Messages that came while others were parked, with the credit that they hold.
    pending: VecDeque<(Batch, u64)>,
    /// The credit of the messages that are parked.
    parked: u64,
    /// The number of the next message.
    next: u64,
    /// Bytes that had been received and read before the first message.
    before: u64,
    max_message: u32,
    max_header: u32,
    /// The socket's error, which is told once.
    error: Option<i32>,
    /// Since when the end of the stream has been looked at.
    ending: Option<Instant>,
}

/// What a look at the connection found.
enum Look {
    Nothing,
    /// How it ended, once all its messages are delivered.
    Ended(PsockError),
    /// It ends, but not everything is parsed yet.
    Later,
}

impl KernelRx {
    pub(super) fn new(lease: Lease, before: u64, max_message: u32, max_header: u32) -> Box<Self> {
        Box::new(KernelRx {
            lease,
            pending: VecDeque::new(),
            parked: 0,
            next: 0,
            before,
            max_message,
            max_header,
            error: None,
            ending: None,
        })
    }

    /// Changes the longest message accepted, in bytes.
    pub(super) fn set_max_message(&mut self, bytes: u32) {
        self.max_message = bytes.min(self.lease.kernel().carries());
        self.lease.set_max_message(self.max_message);
    }

    /// Whole messages that were not delivered.
    pub(super) fn into_pending(self) -> impl Iterator<Item = Batch> {
        self.pending.into_iter().map(|(batch, _)| batch)
    }

    fn stats(&self) -> StrpStats {
        let seen = self.lease.seen();
        StrpStats {
            msgs: seen.msgs,
            bytes: seen.bytes,
            delivered_bytes: seen.bytes,
            need_more_hdr: seen.need_more,
            msg_too_big: u64::from(seen.stopped & (stopped::TOO_LONG | stopped::HEADER) != 0),
            interrupted: u64::from(seen.code != 0),
            ..StrpStats::default()
        }
    }

    /// Looks at the connection: has it ended, and how?
    fn look(&mut self, fd: BorrowedFd<'_>, now: Instant) -> Look {
        // The socket first: what the programs wrote before it ended is seen after it.
        let socket = SockRef::from(&fd);
        if let Ok(Some(error)) = socket.take_error() {
            self.error.get_or_insert(error.raw_os_error().unwrap_or(errno::EIO));
        }
        let info = tcp_info(fd);
        let seen = self.lease.seen();
        let received = info.as_ref().map_or(0, |i| i.bytes_received.saturating_sub(self.before));
        let have = received.saturating_sub(seen.bytes);
        let need = (seen.need > 0).then_some(seen.need);
        if seen.stopped & (stopped::CREDIT | stopped::FULL) != 0 {
            return Look::Ended(PsockError::Overrun {
                credit: self.lease.kernel().credit(),
                ring_full: seen.stopped & stopped::FULL != 0,
            });
        }
        if seen.stopped & stopped::TOO_LONG != 0 {
            return Look::Ended(PsockError::TooLong { len: seen.need, limit: self.max_message });
        }
        if seen.stopped & stopped::HEADER != 0 {
            return Look::Ended(PsockError::HeaderTooLong { limit: self.max_header });
        }
        if seen.stopped != 0 {
            return Look::Ended(PsockError::Io(IoCause {
                kind: std::io::ErrorKind::InvalidData,
                code: Some(errno::EFAULT),
            }));
        }
        let state = info.map_or(TcpState::Close, |i| i.state);
        let alive = state != TcpState::Close;
        if let Some(code) = self.error {
            return Look::Ended(match code {
                errno::ENODATA if seen.code == errno::ESTRPIPE => {
                    PsockError::HandedBackLate { consumed: u64::from(seen.seen) }
                }
                code if code == seen.code => PsockError::Parser(code),
                // The connection lives: it is strparser that has ended.
                errno::ETIMEDOUT if alive => {
                    // What came too late, and an end, are in TCP's count as well.
                    let have =
                        need.map_or(have, |need| have.min(u64::from(need).saturating_sub(1)));
                    PsockError::TimedOut { have, need }
                }
                errno::EMSGSIZE if alive => {
                    PsockError::TooLong { len: seen.need, limit: self.max_message }
                }
                // Of the length is known only that it was not beyond what had been seen.
                errno::EPROTO if alive => {
                    PsockError::BadLength { len: seen.seen, seen: u64::from(seen.seen) }
                }
                code => io_cause(&std::io::Error::from_raw_os_error(code)),
            });
        }
        match state {
            TcpState::Established | TcpState::FinWait1 | TcpState::FinWait2 => Look::Nothing,
            // Only a reset ends it without an end of the stream; a write took the error.
            TcpState::Close => Look::Ended(PsockError::Reset),
            _ => self.at_the_end(fd, have, need, now),
        }
    }

    /// The peer has closed its side; `have` bytes came that are in no message yet.
    fn at_the_end(
        &mut self,
        fd: BorrowedFd<'_>,
        have: u64,
        need: Option<u32>,
        now: Instant,
    ) -> Look {
        // The end itself counts as a byte.
        let have = have.saturating_sub(1);
        if have == 0 {
            return Look::Ended(PsockError::Eof);
        }
        // strparser holds what it took of an unfinished message; what it has not taken yet is
        // still in the socket. It takes all there is, or, once it knows a length, leaves bytes
        // there until all of the message has come, which will not happen any more.
        let queued = rustix::io::ioctl_fionread(fd).unwrap_or(0);
        let waits = match need {
            Some(need) => have >= u64::from(need),
            None => queued > 0,
        };
        // The first time its work may still be waiting for a processor, whatever the socket
        // says of its queue.
        let first = self.ending.is_none();
        let since = *self.ending.get_or_insert(now);
        if (first || waits) && now.saturating_duration_since(since) < PATIENCE {
            poke(fd);
            return Look::Later;
        }
        Look::Ended(PsockError::EofMidMessage { have, need })
    }
}

/// Has the kernel look at the bytes that a socket holds already: a read does that, and gets
/// nothing (semantics I11).
pub(super) fn poke(fd: BorrowedFd<'_>) {
    let _ = rustix::net::recv(fd, &mut [0u8; 1][..], rustix::net::RecvFlags::DONTWAIT);
}

/// Bytes of the connection that were read before now: they belong to no message.
pub(super) fn read_so_far(fd: BorrowedFd<'_>) -> std::io::Result<u64> {
    // Bytes may arrive between the two questions.
    for _ in 0..16 {
        let before = tcp_info(fd)?.bytes_received;
        let queued = rustix::io::ioctl_fionread(fd)?;
        if tcp_info(fd)?.bytes_received == before {
            return Ok(before.saturating_sub(queued));
        }
    }
    Err(std::io::ErrorKind::WouldBlock.into())
}

/// Takes a connection's messages from the engine's thread.
pub(super) struct PsockSink {
    psock: Weak<PsockShared>,
    shared: Weak<Shared>,
    /// What follows from messages, for when no lock is held.
    todo: Mutex<Todo>,
}

impl PsockSink {
    pub(super) fn of(psock: &Arc<PsockShared>, shared: &Arc<Shared>) -> Arc<dyn Sink> {
        Arc::new(PsockSink {
            psock: Arc::downgrade(psock),
            shared: Arc::downgrade(shared),
            todo: Mutex::default(),
        })
    }
}

impl Sink for PsockSink {
    fn messages(&self, messages: &[Message<'_>]) {
        let (Some(psock), Some(shared)) = (self.psock.upgrade(), self.shared.upgrade()) else {
            return;
        };
        let mut todo = self.todo.lock();
        let mut guard = psock.rx.lock();
        if let Some(rx) = &mut *guard {
            take(rx, &psock, &shared, messages, &mut todo);
        }
    }

    fn look(&self) {
        if let Some(psock) = self.psock.upgrade() {
            self.todo.lock().wake_later(psock.signal(signal::LOOK));
        }
    }

    fn after(&self) {
        let todo = std::mem::take(&mut *self.todo.lock());
        if let Some(shared) = self.shared.upgrade() {
            todo.run(&shared);
        }
    }
}

/// One batch: the messages' only copy in this process.
fn take(
    rx: &mut Rx,
    psock: &Arc<PsockShared>,
    shared: &Arc<Shared>,
    messages: &[Message<'_>],
    todo: &mut Todo,
) {
    let Some(kernel) = &mut rx.kernel else { return };
    if rx.ended {
        return;
    }
    let mut block = BytesMut::with_capacity(messages.iter().map(|m| m.bytes.len()).sum());
    let mut ends = Vec::with_capacity(messages.len());
    let mut charge = 0;
    for message in messages {
        if message.seq != kernel.next {
            // Not reached: the programs count what they put in. The look finds nothing whole
            // beyond this, and says so.
            break;
        }
        kernel.next += 1;
        charge += message.charge;
        block.extend_from_slice(message.bytes);
        ends.push(block.len() as u32);
    }
    let Some(batch) = Batch::marked(block.freeze(), &ends, psock.id()) else { return };
    if rx.paused {
        kernel.pending.push_back((batch, charge));
    } else {
        deliver(rx, psock, shared, batch, charge, todo);
    }
}

/// Gives a batch to the multiplexor. False: no more now, or ever.
fn deliver(
    rx: &mut Rx,
    psock: &Arc<PsockShared>,
    shared: &Arc<Shared>,
    batch: Batch,
    charge: u64,
    todo: &mut Todo,
) -> bool {
    let Some(kernel) = &mut rx.kernel else { return false };
    let stats = kernel.stats();
    let delivery = shared.with_todo(todo, |core| {
        core.mux.report_strp(psock.id(), &stats, None);
        core.deliver(psock.id(), batch)
    });
    match delivery {
        Delivery::Taken => {
            kernel.lease.grant(charge);
            true
        }
        Delivery::Parked => {
            kernel.parked += charge;
            rx.paused = true;
            false
        }
        Delivery::Refused(batch) => {
            rx.refused(batch);
            false
        }
    }
}

/// What the driver's pass over a connection in the kernel came to.
pub(super) enum KernelPass {
    /// Nothing to do until something happens.
    Quiet,
    /// Messages are parked.
    Paused,
    /// Look again then, after having the engine drain its ring.
    Again(Instant),
    /// It has ended, for this cause; everything before was delivered.
    Ended(PsockError),
}

/// The driver's pass: what was pending, then how the connection is.
pub(super) fn pass(
    rx: &mut Rx,
    psock: &Arc<PsockShared>,
    shared: &Arc<Shared>,
    signals: u8,
    now: Instant,
    todo: &mut Todo,
) -> KernelPass {
    if signals & signal::RESUME != 0 && rx.paused {
        rx.paused = false;
        if let Some(kernel) = &mut rx.kernel {
            kernel.lease.grant(std::mem::take(&mut kernel.parked));
        }
    }
    while !rx.paused && !rx.ended {
        let Some(kernel) = &mut rx.kernel else { break };
        let Some((batch, charge)) = kernel.pending.pop_front() else { break };
        deliver(rx, psock, shared, batch, charge, todo);
    }
    let again = KernelPass::Again(now + AGAIN);
    let Some(fd) = rx.io.fd() else { return KernelPass::Quiet };
    let Some(kernel) = &mut rx.kernel else { return KernelPass::Quiet };
    match kernel.look(fd, now) {
        Look::Nothing if rx.paused => KernelPass::Paused,
        Look::Nothing => KernelPass::Quiet,
        Look::Ended(_) if rx.paused => KernelPass::Paused,
        Look::Ended(_) if kernel.next < kernel.lease.seen().msgs => again,
        Look::Ended(cause) => KernelPass::Ended(cause),
        Look::Later => again,
    }
}

/// What there is to say of the connection at its end.
pub(super) fn final_stats(rx: &Rx, cause: &PsockError) -> Option<StrpStats> {
    let stats = rx.kernel.as_ref()?.stats();
    Some(StrpStats {
        aborts: 1,
        msg_timeouts: u64::from(matches!(cause, PsockError::TimedOut { .. })),
        bad_hdr_len: u64::from(matches!(cause, PsockError::BadLength { .. })),
        unrecov_intr: u64::from(matches!(cause, PsockError::HandedBackLate { .. })),
        ..stats
    })
}

/// What attach has to know of a stream that is to go into the kernel, and do to it.
pub(super) fn prepare(
    io: &dyn Io,
    kernel: &Kernel,
    max_message: Option<u32>,
    recv_buffer: Option<usize>,
    timeout: Option<Duration>,
) -> Result<(u64, u32), AttachRefusal> {
    let unsupported = |reason: &str| AttachRefusal::UnsupportedEngine {
        engine: "kernel",
        reason: reason.to_owned(),
    };
    let Some(fd) = io.fd().filter(|fd| tcp_info(fd.as_fd()).is_ok()) else {
        return Err(unsupported("it is no TCP socket; use Engine::Process"));
    };
    let socket = SockRef::from(&fd);
    let buffer = recv_buffer.unwrap_or(0);
    let max = max_message
        .unwrap_or_else(|| u32::try_from(buffer).unwrap_or(u32::MAX).clamp(1, kernel.carries()));
    // strparser refuses what is longer than the receive buffer, and waits for ever for what
    // the window cannot hold (semantics B5, B15): twice the longest message is enough for both.
    let room = max as usize * 2;
    if max_message.is_some() && buffer < room {
        force_recv_buffer(fd, max)?;
    }
    socket.set_read_timeout(timeout.filter(|t| !t.is_zero()))?;
    Ok((read_so_far(fd)?, max))
}

/// Sets SO_RCVBUF, which the system doubles, beyond its limit: CAP_NET_ADMIN is there, or the
/// socket would not come under the parser.
fn force_recv_buffer(fd: BorrowedFd<'_>, bytes: u32) -> std::io::Result<()> {
    match rustix::net::sockopt::set_socket_recv_buffer_size_force(fd, bytes as usize) {
        Ok(()) => Ok(()),
        Err(_) => SockRef::from(&fd).set_recv_buffer_size(bytes as usize),
    }
}
