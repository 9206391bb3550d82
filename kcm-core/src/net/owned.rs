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

use parking_lot::Mutex;

/// At most this many spoilt sockets are remembered, the oldest forgotten first: they are to
/// be closed anyway.
const REMEMBERED: usize = 4096;

#[derive(Default)]
struct Sockets {
    attached: HashSet<u64>,
    spoilt: VecDeque<u64>,
}

static SOCKETS: LazyLock<Mutex<Sockets>> = LazyLock::new(Mutex::default);

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
    let mut sockets = SOCKETS.lock();
    if sockets.spoilt.contains(&cookie) {
        return Err(Refused::Spoilt);
    }
    if !sockets.attached.insert(cookie) {
        return Err(Refused::Attached);
    }
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
            let mut sockets = SOCKETS.lock();
            sockets.spoilt.push_back(cookie);
            if sockets.spoilt.len() > REMEMBERED {
                sockets.spoilt.pop_front();
            }
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(cookie) = self.0 {
            SOCKETS.lock().attached.remove(&cookie);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_socket_is_claimed_once_through_any_of_its_descriptors() {
        let (a, _b) = UnixStream::pair().unwrap();
        let dup = a.try_clone().unwrap();
        let owned = claim(&a).unwrap();
        assert_eq!(claim(&dup).unwrap_err(), Refused::Attached);
        drop(owned);
        let owned = claim(&dup).unwrap();
        owned.spoil();
        drop(owned);
        assert_eq!(claim(&a).unwrap_err(), Refused::Spoilt);
    }
}
