//! The kernel engine: parsers on sockets in the kernel (`sk_skb/stream_parser`), which hand
//! whole messages to this process through a ring buffer.
//!
//! Asked for with [`Engine::Kernel`](crate::Engine) at attach, for parsers that are verified
//! programs ([`Parser`](crate::Parser)); [`probe`] says beforehand whether this machine and
//! this process can. The application is woken for whole messages only, and never sees a byte
//! of a message that the parser refused. What it costs:
//!
//! - CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON.
//! - **No back-pressure.** The kernel takes a connection's bytes as they come, whoever reads or
//!   does not. Each connection has a credit of half the ring; a peer that sends faster than
//!   messages are taken for longer than that is cut off with
//!   [`PsockError::Overrun`](crate::PsockError::Overrun), after everything before was
//!   delivered: never a silent gap.
//! - A connection that is unattached is shut down: a socket cannot leave the kernel's parser
//!   with its stream in order.
//! - A copy of every message into the ring, and one out of it; for small messages more time
//!   than the process engine takes.
//!
//! One ring serves all connections of a loaded parser; one thread reads it, as long as there
//! are any. It hands each connection's messages over as one batch per pass.

mod btf;
mod engine;
mod error;
mod load;
mod probe;
mod ring;
mod sys;

pub use error::{Capability, Error, SETCAP};
pub use probe::{Report, probe};

pub(crate) use engine::{Kernel, Lease, Limits, Message, Sink};
