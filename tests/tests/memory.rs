//! What connections cost in memory: idle ones, and after a burst. The allocator counts, for
//! the whole process, so the tests run one at a time and alone in their binary.
#![allow(unsafe_code)] // an allocator that counts

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use kcm_core::strparser::{BLOCK, KEEP};
use kcm_core::{KcmSocket, SocketType};
use kcm_tests::codec::{Be32, frame, payload};
use kcm_tests::harness::{eventually, soon};
use kcm_tests::peer::{Peer, pair};
use tokio::net::TcpStream;

/// The system's allocator, counting what is held: with what it adds to each allocation and
/// rounds it up to, as the benchmark's figure.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

/// What an allocation really takes.
///
/// # Safety
/// `ptr` is null or from the system's allocator, and not freed.
unsafe fn taken(ptr: *mut u8) -> usize {
    // SAFETY: the caller's obligation is the function's.
    match unsafe { libc::malloc_usable_size(ptr.cast()) } {
        0 => 0,
        usable => usable + size_of::<usize>(),
    }
}

// SAFETY: every call goes to the system's allocator with the same arguments.
unsafe impl GlobalAlloc for Counting {
    /// # Safety
    /// As the trait's.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's obligations are this function's.
        let ptr = unsafe { System.alloc(layout) };
        // SAFETY: it was just allocated, if it was.
        HELD.fetch_add(unsafe { taken(ptr) }, Ordering::Relaxed);
        ptr
    }

    /// # Safety
    /// As the trait's.
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: by the caller's obligation it is allocated here.
        HELD.fetch_sub(unsafe { taken(ptr) }, Ordering::Relaxed);
        // SAFETY: the caller's obligations are this function's.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static ALONE: Mutex<()> = Mutex::new(());

fn held() -> usize {
    HELD.load(Ordering::SeqCst)
}

/// Runs a test's body alone, on a runtime of one thread, which is idle when the body looks.
fn alone(body: impl Future<Output = ()>) {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(body);
}

async fn pairs(n: usize) -> (Vec<Peer>, Vec<TcpStream>) {
    let (mut peers, mut streams) = (Vec::new(), Vec::new());
    for _ in 0..n {
        let (peer, stream) = pair().await;
        peers.push(peer);
        streams.push(stream);
    }
    (peers, streams)
}

/// Lets every task that is ready run.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn an_idle_connection_takes_little_memory() {
    const N: usize = 400;
    alone(async {
        let socket = KcmSocket::new(SocketType::Dgram);
        let (mut peers, streams) = pairs(N + 1).await;
        let mut streams = streams.into_iter();
        // Things that are made once.
        socket.attach(streams.next().unwrap(), &Be32).unwrap();
        settle().await;
        let before = held();
        for stream in streams {
            socket.attach(stream, &Be32).unwrap();
        }
        settle().await;
        let fresh = (held() - before) / N;
        assert!(fresh <= 968, "{fresh} bytes per connection that has done nothing");

        // After a burst on every connection it is the same again, within two seconds.
        let burst = frame([7; 60]).repeat(20_000 / 64);
        for peer in &mut peers {
            peer.send(&burst).await.unwrap();
        }
        let mut left = (N + 1) * (20_000 / 64);
        while left > 0 {
            left -= soon("the burst", socket.recv_batch()).await.unwrap().len();
        }
        // Queues keep little, and no block is left.
        eventually("memory to come back", || held() < before + N * fresh + BLOCK / 2).await;
    });
}

#[test]
fn the_beginnings_of_messages_take_no_more_than_their_bytes() {
    const N: usize = 100;
    alone(async {
        let socket = KcmSocket::new(SocketType::Dgram);
        let (mut peers, streams) = pairs(N).await;
        for stream in streams {
            socket.attach(stream, &Be32).unwrap();
        }
        settle().await;
        let before = held();
        for (n, peer) in peers.iter_mut().enumerate() {
            peer.send(&frame(vec![n as u8; 1000])[..800]).await.unwrap();
        }
        let begun = || socket.mux_stats().psocks.strp.bytes == (800 * N) as u64;
        eventually("the beginnings to be read", begun).await;
        eventually("blocks to come back", || held() < before + N * 900).await;
        for peer in &mut peers {
            peer.send(&vec![9; 204]).await.unwrap();
        }
        for _ in 0..N {
            assert_eq!(payload(&soon("a message", socket.recv()).await.unwrap()).len(), 1000);
        }
    });
}

#[test]
fn a_burst_takes_no_more_than_the_receive_buffers_and_all_of_it_comes_back() {
    alone(async {
        let socket = KcmSocket::builder(SocketType::Dgram).recv_buffer(1 << 20).build();
        let (mut peers, streams) = pairs(8).await;
        for stream in streams {
            socket.attach(stream, &Be32).unwrap();
        }
        settle().await;
        let before = held();
        let burst = frame([7; 60]).repeat(1 << 14);
        let senders: Vec<_> = peers
            .drain(..)
            .map(|mut peer| {
                let burst = burst.clone();
                tokio::spawn(async move {
                    peer.send(&burst).await.unwrap();
                    peer
                })
            })
            .collect();
        eventually("the socket to be full", || socket.mux_stats().parked_msgs > 0).await;
        // The receive buffer, the batch that crossed it, a parked batch for each connection,
        // and what is read into and kept; twice, for what lies between messages.
        let bound = before + burst.len() * 8 + 2 * ((1 << 20) + (1 + 8 + KEEP) * BLOCK);
        assert!(held() <= bound, "{} > {bound}", held());
        let mut left = 8 << 14;
        while left > 0 {
            left -= soon("the burst", socket.recv_batch()).await.unwrap().len();
            assert!(held() <= bound, "{} > {bound}", held());
        }
        for sender in senders {
            peers.push(sender.await.unwrap());
        }
        drop(burst);
        eventually("memory to come back", || held() < before + 16 * 1024).await;
    });
}
