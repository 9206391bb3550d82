//! Conditions with a deadline, counters of what a process holds, and small helpers.

use std::time::{Duration, Instant};

/// How long a test waits for what must happen. It is never waited for in full but by a test
/// that fails.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Waits until the condition holds; panics with `what` if it does not in time.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "not in time: {what}");
        // Between two looks, not for a time: others run meanwhile.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// As [`eventually`], for threads.
pub fn eventually_blocking(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The running kernel's release; empty where it does not say.
pub fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// Awaits what must happen; panics with `what` if it does not in time.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not in time: {what}"),
    }
}

/// Polls a future once, with a waker that does nothing: what it does without waiting.
pub fn poll_once<F: Future + ?Sized>(future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
    future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
}

/// Open descriptors of this process.
pub fn open_fds() -> usize {
    // One of them is the folder being read.
    std::fs::read_dir("/proc/self/fd").expect("procfs").count() - 1
}

/// Threads of this process.
pub fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").expect("procfs").count()
}

/// Tasks that live on the current runtime, the caller's own not counted.
pub fn alive_tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// A small deterministic generator, for choices that a failed test must be able to repeat.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number (xorshift64*).
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.number() >> 33) as usize % n.max(1)
    }
}
