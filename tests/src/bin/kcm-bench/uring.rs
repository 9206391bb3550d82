//! The receiver of `rx_peers::epoll` on io_uring: one multishot receive for each connection, into
//! buffers that the kernel picks from a ring; the same native parser, no steering.

use std::alloc::{Layout, handle_alloc_error};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result, ensure};
use io_uring::types::{BufRingEntry, Fd};
use io_uring::{IoUring, cqueue, opcode};

use crate::rx_peers::Partial;
use crate::serve::ServeArgs;
use crate::wire::Tally;

/// Buffers, a power of two; the kernel goes round, so more of them would fall out of the cache.
const BUFFERS: u16 = 16;

/// Bytes of each.
pub(crate) const EACH: usize = 64 * 1024;

/// The only group of buffers.
const GROUP: u16 = 0;

/// Whether this machine lets us: many forbid it.
pub(crate) fn probe() -> Result<()> {
    Buffers::register(&mut ring()?).map(|_| ())
}

fn ring() -> Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_cqsize(1024)
        .build(256)
        .context("io_uring")
}

/// The buffers, and the ring in which the kernel finds those that are free. Never freed: the
/// kernel may look at them for as long as the process lives.
struct Buffers {
    entries: NonNull<BufRingEntry>,
    bytes: NonNull<u8>,
    tail: u16,
}

impl Buffers {
    #[allow(unsafe_code)]
    fn register(ring: &mut IoUring) -> Result<Buffers> {
        let page = rustix::param::page_size();
        let entries = zeroed(Layout::array::<BufRingEntry>(BUFFERS.into())?.align_to(page)?);
        let bytes = zeroed(Layout::array::<u8>(EACH * usize::from(BUFFERS))?.align_to(page)?);
        // SAFETY: the entries are page-aligned, as many as said, and are never freed.
        unsafe {
            let at = entries.as_ptr() as u64;
            ring.submitter().register_buf_ring_with_flags(at, BUFFERS, GROUP, 0)?;
        }
        let mut b = Buffers { entries: entries.cast(), bytes, tail: 0 };
        (0..BUFFERS).for_each(|buffer| b.give(buffer));
        b.publish();
        Ok(b)
    }

    /// Lets the kernel write a buffer, from the next `publish` on.
    #[allow(unsafe_code)]
    fn give(&mut self, buffer: u16) {
        let at = usize::from(self.tail % BUFFERS);
        // SAFETY: the index is within the ring's entries; those after the published tail are
        // ours alone, and the kernel reads none of them.
        let entry = unsafe { self.entries.add(at).as_mut() };
        entry.set_addr(self.start(buffer).as_ptr() as u64);
        entry.set_len(EACH as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    #[allow(unsafe_code)]
    fn publish(&self) {
        // SAFETY: the ring's tail is a u16 in its first entry that is read by the kernel and
        // written by nobody but us.
        let tail = unsafe { &*BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }

    #[allow(unsafe_code)]
    fn start(&self, buffer: u16) -> NonNull<u8> {
        // SAFETY: the modulus keeps it within the allocation of BUFFERS * EACH bytes.
        unsafe { self.bytes.add(usize::from(buffer % BUFFERS) * EACH) }
    }

    /// What the kernel has written into a buffer that it picked and that was not given back yet.
    #[allow(unsafe_code)]
    fn filled(&self, buffer: u16, len: usize) -> &[u8] {
        // SAFETY: initialised since it was allocated; `len` is cut to one buffer; the kernel
        // does not write a buffer before it is given back, which takes `&mut self`.
        unsafe { std::slice::from_raw_parts(self.start(buffer).as_ptr(), len.min(EACH)) }
    }
}

#[allow(unsafe_code)]
fn zeroed(layout: Layout) -> NonNull<u8> {
    // SAFETY: neither of the two layouts is of size 0.
    let at = unsafe { std::alloc::alloc_zeroed(layout) };
    NonNull::new(at).unwrap_or_else(|| handle_alloc_error(layout))
}

/// Receives until every connection has ended.
pub(crate) fn receive(conns: &[TcpStream], a: &ServeArgs) -> Result<Tally> {
    ensure!(!a.echo, "this receiver does not answer");
    let mut ring = ring()?;
    let mut buffers = Buffers::register(&mut ring)?;
    let mut partial: Vec<Partial> = conns.iter().map(|_| Partial::default()).collect();
    let mut tally = Tally::default();
    let mut live = conns.len();
    let mut unarmed: Vec<usize> = (0..conns.len()).collect();
    let mut seen = Vec::new();
    while live > 0 {
        for i in unarmed.drain(..) {
            arm(&mut ring, &conns[i], i)?;
        }
        ring.submit_and_wait(1)?;
        seen.extend(ring.completion().map(|c| (c.user_data() as usize, c.result(), c.flags())));
        for (i, result, flags) in seen.drain(..) {
            let buffer = cqueue::buffer_select(flags);
            if let (Some(buffer), Ok(n)) = (buffer, usize::try_from(result)) {
                partial[i].feed(buffers.filled(buffer, n), &mut |m| tally.eat(m));
            }
            if let Some(buffer) = buffer {
                buffers.give(buffer);
            }
            match result {
                0 => live -= 1,
                n if n < 0 && n != -libc::ENOBUFS => {
                    return Err(std::io::Error::from_raw_os_error(-n)).context("a receive");
                }
                // Also where there was no buffer: there are some again once these are done.
                _ if !cqueue::more(flags) => unarmed.push(i),
                _ => {}
            }
        }
        buffers.publish();
    }
    Ok(tally)
}

#[allow(unsafe_code)]
fn arm(ring: &mut IoUring, conn: &TcpStream, token: usize) -> Result<()> {
    let entry = opcode::RecvMulti::new(Fd(conn.as_raw_fd()), GROUP).build();
    let entry = entry.user_data(token as u64);
    // SAFETY: the connection is open until every receive has ended, and the buffers live for
    // ever.
    while unsafe { ring.submission().push(&entry) }.is_err() {
        ring.submit()?;
    }
    Ok(())
}
