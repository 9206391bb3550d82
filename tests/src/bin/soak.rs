//! The chaos soak; run by `cargo xtask soak`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::process::ExitCode;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use clap::Parser;
use kcm_tests::soak::HEAP;

/// The system's allocator, and how much of it is in use: what the process holds besides, in the
/// allocator's own arenas, says nothing about leaks.
struct Counting;

// SAFETY: every call is passed on to the system's allocator as it came; only a number is kept.
unsafe impl GlobalAlloc for Counting {
    /// # Safety
    /// As the trait says; nothing is asked besides.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HEAP.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`, which is this one's.
        unsafe { System.alloc(layout) }
    }

    /// # Safety
    /// As the trait says; nothing is asked besides.
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HEAP.fetch_sub(layout.size(), Relaxed);
        // SAFETY: `at` came from `alloc` above with this layout, so from the system's.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Keeps connections failing in every way for a while, and counts every message.
#[derive(Parser)]
struct Args {
    /// How long connections are made, in minutes; parts of one too
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// What is done follows from it; a new one each time without
    #[arg(long)]
    seed: Option<u64>,
    /// Connections at a time
    #[arg(long, default_value_t = 40)]
    connections: usize,
    /// KCM sockets at a time
    #[arg(long, default_value_t = 12)]
    sockets: usize,
    /// Print no progress
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let time = std::time::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_nanos());
    let seed = args.seed.unwrap_or(time as u64 % 1_000_000);
    eprintln!("seed {seed}");
    let Ok(time) = Duration::try_from_secs_f64(args.minutes * 60.0) else {
        eprintln!("error: {} is no number of minutes", args.minutes);
        return ExitCode::from(2);
    };
    let options = kcm_tests::soak::Options {
        time,
        seed,
        connections: args.connections.max(1),
        sockets: args.sockets.max(2),
        quiet: args.quiet,
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("error: no runtime: {e}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(kcm_tests::soak::run(options)) {
        Ok(report) => {
            println!("{report}\nnothing wrong");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("{e:#}");
            ExitCode::FAILURE
        }
    }
}
