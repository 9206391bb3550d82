//! The runtime behind the blocking face, and how a thread waits without being in one.

use std::{
    io,
    pin::pin,
    sync::{
        Arc, LazyLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::Thread,
    time::Instant,
};

use parking_lot::Mutex;
use tokio::runtime::Runtime;

use crate::net::Home;

/// One runtime for all blocking sockets of the process, while there are any.
static SHARED: LazyLock<Mutex<Weak<Private>>> = LazyLock::new(Mutex::default);

/// A runtime that may be dropped anywhere, its own threads included.
#[derive(Debug)]
pub(super) struct Private(Option<Runtime>);

impl Drop for Private {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // The ordinary drop waits for the threads, which may be this one.
            runtime.shutdown_background();
        }
    }
}

/// The runtime, started if there is none.
pub(super) fn home() -> io::Result<Home> {
    let mut shared = SHARED.lock();
    let private = match shared.upgrade() {
        Some(private) => private,
        None => {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(threads())
                .thread_name("kcm-io")
                .enable_io()
                .enable_time()
                .build()?;
            let private = Arc::new(Private(Some(runtime)));
            *shared = Arc::downgrade(&private);
            private
        }
    };
    let handle = match &private.0 {
        Some(runtime) => runtime.handle().clone(),
        None => return Err(io::Error::other("the runtime is being stopped")),
    };
    Ok(Home { handle, keep: Some(private) })
}

/// Connections are served by half of the processors, at most four threads: the other half is
/// for the callers, whose threads do the rest.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get() / 2).clamp(1, 4)
}

struct Parker {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

thread_local! {
    static PARKER: Arc<Parker> = Arc::new(Parker {
        thread: std::thread::current(),
        woken: AtomicBool::new(false),
    });
}

/// Blocks the thread until the future is ready, or the deadline has passed: then None, and
/// the future is dropped. Enters no runtime, so it may be called inside one (whose thread it
/// blocks, as any blocking call does).
pub(super) fn block_on<F: Future>(future: F, deadline: Option<Instant>) -> Option<F::Output> {
    // On a runtime's thread the task's budget must not end the wait for a wake-up that only
    // comes when the task yields.
    let mut future = pin!(tokio::task::coop::unconstrained(future));
    let parker = PARKER.with(Arc::clone);
    let waker = Waker::from(parker.clone());
    let mut cx = Context::from_waker(&waker);
    loop {
        parker.woken.store(false, Ordering::Release);
        if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
            return Some(value);
        }
        while !parker.woken.load(Ordering::Acquire) {
            match deadline {
                None => std::thread::park(),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    std::thread::park_timeout(left);
                }
            }
        }
    }
}
