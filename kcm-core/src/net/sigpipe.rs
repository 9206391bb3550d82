//! Writes that raise no SIGPIPE, whoever makes the system call (semantics J6).
#![allow(unsafe_code)]

use std::{mem::MaybeUninit, ptr};

/// Runs `io`, and takes back a SIGPIPE that it raises in this thread.
///
/// Sockets of our own are written to with MSG_NOSIGNAL. What a TLS stream does inside is its
/// own matter: `writev` on a connection that is gone sends the signal to the thread that
/// called it. Rust programs ignore SIGPIPE, which makes this one system call; in a process
/// where it would be deadly (a library in a C program), the signal is blocked meanwhile.
pub(super) fn without<T>(io: impl FnOnce() -> T) -> T {
    if ignored() {
        return io();
    }
    let _blocked = Blocked::new();
    io()
}

/// SIGPIPE does nothing in this process.
fn ignored() -> bool {
    let mut now = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action only asks; `now` is valid for the answer, and all zeroes is a
    // valid `sigaction` should there be none.
    let now = unsafe {
        libc::sigaction(libc::SIGPIPE, ptr::null(), now.as_mut_ptr());
        now.assume_init()
    };
    now.sa_sigaction == libc::SIG_IGN
}

/// SIGPIPE, as a set.
fn pipe() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: `sigemptyset` initialises the set, `sigaddset` is given a valid set and signal.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE);
        set.assume_init()
    }
}

/// A SIGPIPE waits for this thread, or for the process.
fn pending() -> bool {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: `set` is valid for the answer, and zeroed (an empty set) should there be none;
    // then it is only read.
    unsafe {
        libc::sigpending(set.as_mut_ptr());
        libc::sigismember(set.as_ptr(), libc::SIGPIPE) == 1
    }
}

/// SIGPIPE is blocked in this thread as long as this lives; one that came meanwhile is taken.
struct Blocked {
    before: libc::sigset_t,
    /// One was waiting before: it is not ours to take.
    pending: bool,
}

impl Blocked {
    fn new() -> Self {
        let pending = pending();
        let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: both sets are valid; with SIG_BLOCK only this thread's mask changes.
        let before = unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, &pipe(), before.as_mut_ptr());
            before.assume_init()
        };
        Blocked { before, pending }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        if !self.pending && pending() {
            let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: the set and the time are valid, no information is asked for. With no time
            // to wait it returns at once.
            unsafe { libc::sigtimedwait(&pipe(), ptr::null_mut(), &now) };
        }
        // SAFETY: `before` is the mask that this thread had.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, ptr::null_mut()) };
    }
}
