//! The kernel's KCM as a receiver: a thread per KCM socket, many messages per system call.
#![allow(unsafe_code)]

use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use kcm_tests::oracle::kernel::sys::{self, OptValue};
use kcm_tests::oracle::program::Parser;

use crate::Args;
use crate::load::{HEAD, Load, Seen, Tally};

/// How the kernel is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setup {
    pub(crate) format: Format,
    /// SO_RCVBUF of each KCM socket, in bytes; the kernel's own choice without.
    pub(crate) buffer: Option<i32>,
}

/// What the BPF parser does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// It reads the length, as ours does.
    Length,
    /// It reads nothing: the least that a parser can cost.
    Constant,
}

/// Messages taken by one system call.
const MANY: usize = 64;

/// How long a receiver with nothing to take waits before it looks whether all has ended.
const LOOK_MS: i64 = 100;

/// Says what to do where there is no AF_KCM.
pub(crate) fn available() -> Result<()> {
    match sys::kcm_socket(libc::SOCK_DGRAM, 0) {
        Ok(_) => Ok(()),
        Err(e) => bail!("this kernel has no AF_KCM ({e}); run `cargo xtask guest bench-kcm`"),
    }
}

pub(crate) fn receive(
    args: &Args,
    setup: Setup,
    load: Load,
    conns: Vec<TcpStream>,
) -> Result<Seen> {
    let mut sockets = vec![sys::kcm_socket(libc::SOCK_DGRAM, 0).map_err(|e| anyhow!("{e}"))?];
    while sockets.len() < args.sockets {
        sockets.push(sys::kcm_clone(sockets[0].as_raw_fd()).map_err(|e| anyhow!("clone: {e}"))?);
    }
    for s in &sockets {
        let fd = s.as_raw_fd();
        let option = |name, value| sys::set(fd, libc::SOL_SOCKET, name, value);
        option(libc::SO_RCVTIMEO, OptValue::Millis(LOOK_MS)).map_err(|e| anyhow!("{e}"))?;
        if let Some(bytes) = setup.buffer {
            option(libc::SO_RCVBUFFORCE, bytes.into()).map_err(|e| anyhow!("SO_RCVBUF: {e}"))?;
        }
    }
    let parser = match setup.format {
        Format::Length => Parser::Len4,
        Format::Constant => Parser::Const((args.size + HEAD) as i32),
    };
    let program = sys::load_program(sys::SOCKET_FILTER, &parser.slots(None))
        .map_err(|e| anyhow!("the parser: {e}"))?;
    for c in &conns {
        sys::kcm_attach(sockets[0].as_raw_fd(), c.as_raw_fd(), program.as_raw_fd())
            .map_err(|e| anyhow!("attach: {e}"))?;
    }
    let room = args.size + HEAD;
    let stop = AtomicBool::new(false);
    let running = load.start(args.secs);
    let (received, last) = std::thread::scope(|scope| -> Result<(Tally, Instant)> {
        let threads: Vec<_> =
            sockets.iter().map(|s| scope.spawn(|| receive_all(s, room, &stop))).collect();
        while !running.ended() {
            std::thread::sleep(std::time::Duration::from_millis(10)); // between two looks
        }
        stop.store(true, Ordering::Release);
        let (mut all, mut last) = (Tally::default(), running.start);
        for t in threads {
            let (tally, at) = t.join().map_err(|_| anyhow!("a receiver panicked"))??;
            all.add(tally);
            last = last.max(at);
        }
        Ok((all, last))
    })?;
    for c in &conns {
        if let Some(e) = sys::so_error(c.as_raw_fd()).filter(|e| e.0 != libc::EPIPE) {
            eprintln!("kernel KCM: a connection ended with {e}");
        }
    }
    running.finish(received, last)
}

/// Takes messages until the senders have ended and there are none left; the time of the last.
fn receive_all(socket: &OwnedFd, room: usize, stop: &AtomicBool) -> Result<(Tally, Instant)> {
    let mut slots = Slots::new(room);
    let (mut tally, mut last) = (Tally::default(), Instant::now());
    loop {
        let ended = stop.load(Ordering::Acquire);
        match slots.recv(socket.as_raw_fd()) {
            Ok(n) => {
                slots.messages(n).for_each(|m| tally.eat(m));
                last = Instant::now();
            }
            // Nothing came during the whole wait, and the senders had ended before it.
            Err(libc::EAGAIN) if ended => return Ok((tally, last)),
            Err(libc::EAGAIN | libc::EINTR) => {}
            Err(e) => {
                return Err(std::io::Error::from_raw_os_error(e)).context("the kernel's recvmmsg");
            }
        }
    }
}

/// Room for the messages of one system call, used again and again.
struct Slots {
    room: usize,
    bytes: Vec<u8>,
    heads: Vec<libc::mmsghdr>,
    /// What the heads point to: moved nowhere as long as they live.
    _parts: Vec<libc::iovec>,
}

impl Slots {
    fn new(room: usize) -> Slots {
        let mut bytes = vec![0u8; room * MANY];
        let mut parts: Vec<libc::iovec> = bytes
            .chunks_mut(room)
            .map(|b| libc::iovec { iov_base: b.as_mut_ptr().cast(), iov_len: b.len() })
            .collect();
        let heads = parts
            .iter_mut()
            .map(|p| {
                // SAFETY: an all-zero mmsghdr is valid.
                let mut h: libc::mmsghdr = unsafe { std::mem::zeroed() };
                h.msg_hdr.msg_iov = p;
                h.msg_hdr.msg_iovlen = 1;
                h
            })
            .collect();
        Slots { room, bytes, heads, _parts: parts }
    }

    /// Waits for a message and takes those that are there with it; how many, or the error number.
    fn recv(&mut self, fd: RawFd) -> Result<usize, i32> {
        let (heads, len) = (self.heads.as_mut_ptr(), self.heads.len() as _);
        // SAFETY: each head names one part of `bytes`, all of which this holds for as long as the
        // heads, and nobody looks at them during the call.
        let n = unsafe {
            libc::recvmmsg(fd, heads, len, libc::MSG_WAITFORONE as _, std::ptr::null_mut())
        };
        usize::try_from(n)
            .map_err(|_| std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    }

    /// The first `n` messages.
    fn messages(&self, n: usize) -> impl Iterator<Item = &[u8]> {
        self.bytes
            .chunks(self.room)
            .zip(&self.heads)
            .take(n)
            .map(|(b, h)| &b[..(h.msg_len as usize).min(b.len())])
    }
}
