//! Which sockets of this process are attached, and which are spoilt.
//!
//! A stream is moved into the multiplexor, but another descriptor of the same socket (a
//! `try_clone`) can be offered for attachment. The socket's cookie, a number that the kernel
//! never gives twice, tells.

use std::{
    collections::{HashSet, VecDeque},
    os::fd::AsFd,
    sync::LazyLock,
};

use super::sync::Mutex;

/// At most this many spoilt sockets are remembered, the oldest forgotten first: they are to
/// be closed anyway.
const REMEMBERED: usize = 4096;

/// The sockets of one process, by their cookies.
pub(super) struct Sockets(Mutex<Known>);

#[derive(Default)]
struct Known {
    attached: HashSet<u64>,
    spoilt: VecDeque<u64>,
}

static SOCKETS: LazyLock<Sockets> = LazyLock::new(Sockets::new);

impl Sockets {
    pub(super) fn new() -> Self {
        Sockets(Mutex::new(Known::default()))
    }

    pub(super) fn claim(&self, cookie: u64) -> Result<(), Refused> {
        let mut known = self.0.lock();
        if known.spoilt.contains(&cookie) {
            return Err(Refused::Spoilt);
        }
        match known.attached.insert(cookie) {
            true => Ok(()),
            false => Err(Refused::Attached),
        }
    }

    pub(super) fn spoil(&self, cookie: u64) {
        let mut known = self.0.lock();
        known.spoilt.push_back(cookie);
        if known.spoilt.len() > REMEMBERED {
            known.spoilt.pop_front();
        }
    }

    pub(super) fn release(&self, cookie: u64) {
        self.0.lock().attached.remove(&cookie);
    }
}

/// Why a socket may not be attached.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Attached,
    Spoilt,
}

/// The right to an attached socket; given back when dropped.
#[derive(Debug)]
pub(super) struct Owned(Option<u64>);

/// Takes a socket, once for the whole process (semantics A18). Kernels without cookies
/// (before 4.12) and sandboxes that hide them let everything pass.
pub(super) fn claim(fd: impl AsFd) -> Result<Owned, Refused> {
    let Ok(cookie) = rustix::net::sockopt::socket_cookie(fd) else {
        return Ok(Owned(None));
    };
    SOCKETS.claim(cookie)?;
    Ok(Owned(Some(cookie)))
}

impl Owned {
    /// A stream that is no socket, or not known to be one.
    pub(super) fn unknown() -> Self {
        Owned(None)
    }

    /// The socket's number, 0 if it has none.
    pub(super) fn cookie(&self) -> u64 {
        self.0.unwrap_or(0)
    }

    /// A message was sent in part: never attach this socket again (semantics J11).
    pub(super) fn spoil(&self) {
        if let Some(cookie) = self.0 {
            SOCKETS.spoil(cookie);
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(cookie) = self.0 {
            SOCKETS.release(cookie);
        }
    }
}
