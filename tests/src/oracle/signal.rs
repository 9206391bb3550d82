//! Counts SIGPIPE: a library must not raise it where its caller asked for none.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering};

static SEEN: AtomicU32 = AtomicU32::new(0);

extern "C" fn on_pipe(_: libc::c_int) {
    SEEN.fetch_add(1, Ordering::Relaxed);
}

/// Counts instead of ignoring, which is what Rust's runtime sets up.
pub fn count_sigpipe() {
    // SAFETY: the handler only touches an atomic, which is async-signal-safe; the address of
    // an `extern "C" fn(c_int)` is what `signal` takes.
    unsafe { libc::signal(libc::SIGPIPE, on_pipe as *const () as libc::sighandler_t) };
}

/// The default disposition: the process ends.
pub fn die_of_sigpipe() {
    // SAFETY: SIG_DFL is a valid disposition for SIGPIPE.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// How many arrived since [`count_sigpipe`].
pub fn sigpipes() -> u32 {
    SEEN.load(Ordering::Relaxed)
}
