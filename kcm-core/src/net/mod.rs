//! KCM sockets on tokio.
//!
//! # Coming from `Framed` and a channel
//!
//! A service that reads messages from N connections and hands them to M workers is usually
//! written as N tasks, each a `Framed<TcpStream, Codec>` whose items go into a channel, and
//! M tasks at the channel's other end. Here that is
//!
//! * a codec → a parser: a verified BPF program, or any [`Delineate`](crate::delineate);
//! * the channel → the multiplexor: [`KcmSocket::attach`] gives it a connection, each worker
//!   has a [`KcmSocket`] of its own ([`KcmSocket::try_clone`]);
//! * an item → a [`Message`](crate::Message), which knows the connection it came from, so
//!   that [`KcmSocket::reply`] finds the way back;
//! * the channel's bound → [`recv_buffer`](Builder::recv_buffer), in bytes: when no socket
//!   has room, reading stops and TCP's window closes. Nothing is dropped;
//! * a stream's error → [`KcmSocket::events`] and [`Psock::closed`], with the cause. One
//!   connection's end is no other's;
//! * the task per connection → still there, but you do not write it.
//!
//! ```
//! use kcm_core::{
//!     KcmSocket, SocketType,
//!     delineate::{Delineate, Verdict},
//! };
//! use tokio::{
//!     io::AsyncWriteExt,
//!     net::{TcpListener, TcpStream},
//! };
//!
//! /// Lines. (A parser that is written in BPF is loaded with `Parser::load`.)
//! #[derive(Clone)]
//! struct Lines;
//!
//! impl Delineate for Lines {
//!     fn parse(&self, message: &[u8]) -> Verdict {
//!         match message.iter().position(|&byte| byte == b'\n') {
//!             Some(at) => Verdict::Message(at as u32 + 1),
//!             None => Verdict::NeedMore,
//!         }
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let listener = TcpListener::bind("127.0.0.1:0").await?;
//! let mut peer = TcpStream::connect(listener.local_addr()?).await?;
//! let (stream, _) = listener.accept().await?;
//!
//! let socket = KcmSocket::new(SocketType::Dgram);
//! let psock = socket.attach(stream, &Lines)?;
//!
//! peer.write_all(b"one\ntwo\nthr").await?;
//! assert_eq!(&*socket.recv().await?, b"one\n");
//! let message = socket.recv().await?;
//! assert_eq!((&*message, message.psock()), (&b"two\n"[..], psock.id()));
//! socket.reply(&message, b"2\n").await?;
//! # Ok(()) }
//! ```
//!
//! # Who does the work
//!
//! Each connection has one task, on the runtime in which it was attached. It reads what has
//! arrived, up to a work limit, finds the ends of all whole messages in it, hands them to one
//! KCM socket as one batch, and wakes one receiver. An idle connection holds no buffer.
//!
//! A message sent alone is written by the caller itself, at once. While senders are at it, what
//! they send is written by the connection's task on its next turn, all in one write: that is,
//! after 16 writes between which none of the multiplexor's tasks had a turn, and until a task
//! had one and found nothing to write. So a message waits at most until the tasks that are
//! ready to run have had their turn; one who sends a burst and then computes without an
//! `await` should [`try_flush`](KcmSocket::try_flush) first. Whoever makes it 32 KiB writes
//! them. What the connection does not take is left to its task in any case. There is no timer
//! and nothing to tune.
//!
//! # TCP_NODELAY, TCP_CORK, SIGPIPE, urgent data
//!
//! While attached, a TCP connection has TCP_NODELAY set ([`AttachOptions::nodelay`]): messages
//! are coalesced here, so Nagle's algorithm would only delay the last. TCP_CORK is not used:
//! what is to leave together leaves in one system call, and
//! [`SendFlags::BATCH`](crate::SendFlags::BATCH) says that more follows. Sends never raise
//! SIGPIPE (semantics J6), those of streams that wrap a socket (TLS) included. Urgent bytes are
//! ordinary bytes (SO_OOBINLINE, J18). What attach sets, unattach puts back.

mod attach;
mod bell;
mod claims;
mod cursor;
mod driver;
mod events;
mod haste;
mod inside;
mod intake;
mod io;
mod kernel;
mod many;
mod options;
mod owned;
mod psock;
mod recv;
mod send;
mod shared;
mod sigpipe;
mod sink;
mod socket;
mod stream;
mod tcp_info;
mod wait;

/// What is shared between threads. A test compiles `bell`, `claims`, `intake` and `owned` against another of
/// these, which tries every interleaving.
mod sync {
    pub(super) use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};

    pub(super) use parking_lot::Mutex;
}

pub(crate) use self::socket::Home;
pub use self::{
    attach::{AttachError, Detached, UnattachError},
    events::Events,
    options::{AttachOptions, Engine},
    psock::Psock,
    socket::{Builder, KcmSocket},
    stream::{Async, Attachable, Blocking},
    tcp_info::{TcpInfo, TcpState},
};
