//! What can go wrong, for whom, and which errno it stands for.
//!
//! One enum per operation. A [`PsockError`] is the sticky cause for which one connection
//! went out of use (semantics J12): it is set once, never overwritten, never cleared by
//! being read, and tells a clean end from a truncated one. The kernel has only the last
//! errno, and EPIPE for most of it (semantics B22, B25, F3, F4); [`PsockError::errno`] gives
//! the code the kernel would have shown where it has one that says anything.

use std::io;

use kcm_common::errno;

/// Whose doing a failed connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The peer ended, reset or stalled the connection, or sent what no parser accepts.
    Peer,
    /// The parser refused the stream, or named a length that makes no sense.
    Parser,
    /// This process: a limit of ours, a local call, the operating system.
    Local,
}

/// An error of the operating system on a connection, in a form that can be compared and
/// copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IoCause {
    /// The portable kind.
    pub kind: io::ErrorKind,
    /// The errno, where the error came from the operating system.
    pub code: Option<i32>,
}

/// Why a connection went out of use (semantics J12). Sticky: the first cause stays.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum PsockError {
    /// The peer closed its sending side on a message boundary: nothing was lost. EPIPE
    /// (semantics B22).
    #[error("the peer closed the connection after a whole message; unattach it")]
    Eof,
    /// The peer closed its sending side inside a message (semantics B24). EPIPE.
    #[error("the peer closed the connection inside a message: {have} bytes of {} came; the bytes are returned by unattach", Need(*.need))]
    EofMidMessage {
        /// Bytes of the unfinished message that arrived.
        have: u64,
        /// The message's whole length, if the parser could already tell it.
        need: Option<u32>,
    },
    /// The connection was reset. ECONNRESET (the kernel says EPIPE, semantics B25).
    #[error("the connection was reset by the peer; unattach and connect anew")]
    Reset,
    /// The parser refused the bytes, with this positive errno (semantics B9). ESTRPIPE here
    /// means that the parser handed the stream back at the start of a message, with nothing
    /// of it consumed (semantics B10).
    #[error(
        "the parser refused the stream with code {0}; unattach returns the refused bytes first"
    )]
    Parser(i32),
    /// The parser handed the stream back (ESTRPIPE) after it had asked for more of the same
    /// message. ENODATA (semantics B10).
    #[error(
        "the parser handed the stream back after {consumed} bytes of a message; unattach returns them"
    )]
    HandedBackLate {
        /// Bytes of the message the parser had already asked to be added to.
        consumed: u64,
    },
    /// The parser named a length that ends inside bytes for which it had asked for more.
    /// EPROTO (semantics B7).
    #[error(
        "the parser named a length of {len} bytes after asking for more than {seen}; it contradicts itself"
    )]
    BadLength {
        /// The length named.
        len: u32,
        /// Bytes that the parser had seen when it last asked for more.
        seen: u64,
    },
    /// The message is longer than the connection accepts. EMSGSIZE (semantics B5).
    #[error("a message of {len} bytes exceeds the limit of {limit}; raise max_message or unattach")]
    TooLong {
        /// The length the parser named.
        len: u32,
        /// The largest length accepted.
        limit: u32,
    },
    /// No length was named within this many bytes. EMSGSIZE (semantics J3).
    #[error("no message length within the first {limit} bytes; raise max_header or unattach")]
    HeaderTooLong {
        /// The most bytes the parser may look at before it must name a length.
        limit: u32,
    },
    /// A message was begun and not completed in time. ETIMEDOUT (semantics B20).
    #[error("a message was begun and not completed within the assembly timeout: {have} bytes of {} came", Need(*.need))]
    TimedOut {
        /// Bytes of the unfinished message that arrived.
        have: u64,
        /// The message's whole length, if the parser could already tell it.
        need: Option<u32>,
    },
    /// On the kernel engine, which cannot hold a peer back: messages came faster than they were
    /// taken, until the connection's share of the ring was used up. All before were delivered;
    /// this and every later message was dropped. ENOBUFS.
    #[error(
        "messages came faster than they were taken: {} ({credit} bytes a connection); later ones are lost. Take them faster, load the parser with a larger kernel_ring, or use Engine::Process, which holds the peer back", if *.ring_full { "the ring was full" } else { "the connection's credit was used up" }
    )]
    Overrun {
        /// Bytes of the ring that the connection may have in use at once.
        credit: u64,
        /// It was not the connection's credit but the whole ring that was used up.
        ring_full: bool,
    },
    /// The peer took none of a begun message for the stall deadline (semantics J8).
    /// ETIMEDOUT.
    #[error(
        "the peer stopped reading inside a message for longer than the stall deadline; the message is sent again elsewhere"
    )]
    Stalled,
    /// The connection was unattached. ENOENT.
    #[error("the connection was unattached")]
    Unattached,
    /// Any other error of the operating system; its own code, else EIO.
    #[error("connection error: {}", .0.kind)]
    Io(IoCause),
}

/// Prints a length that may not be known.
struct Need(Option<u32>);

impl std::fmt::Display for Need {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(need) => write!(f, "{need}"),
            None => f.write_str("an unknown number"),
        }
    }
}

impl PsockError {
    /// Reads an error of a read or write on the connection. Resets and aborts are
    /// [`PsockError::Reset`]; everything else keeps its kind and code.
    pub fn from_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => PsockError::Reset,
            kind => PsockError::Io(IoCause { kind, code: error.raw_os_error() }),
        }
    }

    /// The errno this cause stands for (semantics F2, by exact cause instead of EPIPE for
    /// all). Always positive.
    pub fn errno(&self) -> i32 {
        match self {
            PsockError::Eof | PsockError::EofMidMessage { .. } => errno::EPIPE,
            PsockError::Reset => errno::ECONNRESET,
            PsockError::Parser(code) => *code,
            PsockError::HandedBackLate { .. } => errno::ENODATA,
            PsockError::BadLength { .. } => errno::EPROTO,
            PsockError::TooLong { .. } | PsockError::HeaderTooLong { .. } => errno::EMSGSIZE,
            PsockError::TimedOut { .. } | PsockError::Stalled => errno::ETIMEDOUT,
            PsockError::Unattached => errno::ENOENT,
            PsockError::Overrun { .. } => errno::ENOBUFS,
            PsockError::Io(cause) => cause.code.unwrap_or(errno::EIO),
        }
    }

    /// Whose doing it is. A refused stream is the parser's word about the peer's bytes; it
    /// counts as [`Fault::Parser`], because only the parser's author can tell which.
    pub fn fault(&self) -> Fault {
        match self {
            PsockError::Eof
            | PsockError::EofMidMessage { .. }
            | PsockError::Reset
            | PsockError::TooLong { .. }
            | PsockError::HeaderTooLong { .. }
            | PsockError::TimedOut { .. }
            | PsockError::Stalled => Fault::Peer,
            PsockError::Parser(_)
            | PsockError::HandedBackLate { .. }
            | PsockError::BadLength { .. } => Fault::Parser,
            PsockError::Unattached | PsockError::Overrun { .. } | PsockError::Io(_) => Fault::Local,
        }
    }

    /// True if the peer ended the connection in good order: nothing was lost and nothing is
    /// wrong.
    pub fn is_clean(&self) -> bool {
        matches!(self, PsockError::Eof | PsockError::Unattached)
    }
}

/// Why a connection was not attached. The multiplexor and the stream are as before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The stream is not a connected one: listening, never connected, still connecting or
    /// already reset. EOPNOTSUPP (semantics A16, J10).
    #[error("the stream is not connected; attach it when the connection is established")]
    NotConnected,
    /// A previous unattach left a half-sent message on this stream, so its peer can no
    /// longer be spoken to. EPROTO (semantics J11).
    #[error(
        "the stream is desynchronised: a message was sent in part before it was unattached; close it and connect anew"
    )]
    Desynchronised,
    /// The stream is attached already, here or elsewhere. EALREADY (semantics A18).
    #[error("the connection is attached already; unattach it first")]
    AlreadyAttached,
    /// The engine asked for cannot serve this stream. EOPNOTSUPP.
    #[error("the {engine} engine cannot serve this stream: {reason}")]
    UnsupportedEngine {
        /// The engine's name.
        engine: &'static str,
        /// What it lacks, and what to do.
        reason: String,
    },
    /// The engine asked for could serve this stream, but does not: it lacks a privilege, its
    /// verifier refuses the parser, its ring is too small. The engine's own code.
    #[error("{reason}")]
    Engine {
        /// The errno.
        code: i32,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// An option is out of its range. EINVAL.
    #[error("attach option {name} is out of range: {reason}")]
    InvalidOption {
        /// The option's name.
        name: &'static str,
        /// The range.
        reason: &'static str,
    },
    /// The multiplexor is closed. EBADF.
    #[error("the multiplexor is closed")]
    Closed,
    /// The operating system refused something that attach needs; its own code.
    #[error("attach failed: {0}")]
    Io(#[from] io::Error),
}

impl AttachError {
    /// The errno this error stands for. Always positive.
    pub fn errno(&self) -> i32 {
        match self {
            AttachError::NotConnected | AttachError::UnsupportedEngine { .. } => errno::EOPNOTSUPP,
            AttachError::Engine { code, .. } => *code,
            AttachError::Desynchronised => errno::EPROTO,
            AttachError::AlreadyAttached => errno::EALREADY,
            AttachError::InvalidOption { .. } => errno::EINVAL,
            AttachError::Closed => errno::EBADF,
            AttachError::Io(error) => error.raw_os_error().unwrap_or(errno::EIO),
        }
    }
}

/// Why a send was not taken. Nothing of it was: neither queued nor sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The send buffer is full, and the call may not wait. EAGAIN (semantics D10).
    #[error("the send buffer is full; wait until the socket is writable")]
    WouldBlock,
    /// The send timeout passed before there was room. EAGAIN (semantics D10).
    #[error("the send buffer stayed full for the send timeout")]
    TimedOut,
    /// The connection asked for is not attached (any more). ENOENT.
    #[error("connection {0} is not attached")]
    NoSuchPsock(crate::message::PsockId),
    /// The connection asked for is out of use, for this cause; the cause's errno.
    #[error("the connection is out of use: {0}")]
    Psock(PsockError),
    /// Our own sending side of the connection asked for was shut down. EPIPE.
    #[error("the sending side of connection {0} was shut down; it only receives")]
    ShutDown(crate::message::PsockId),
    /// The KCM socket is closed. EBADF.
    #[error("the KCM socket is closed")]
    Closed,
}

impl SendError {
    /// The errno this error stands for. Always positive.
    pub fn errno(&self) -> i32 {
        match self {
            SendError::WouldBlock | SendError::TimedOut => errno::EAGAIN,
            SendError::NoSuchPsock(_) => errno::ENOENT,
            SendError::Psock(cause) => cause.errno(),
            SendError::ShutDown(_) => errno::EPIPE,
            SendError::Closed => errno::EBADF,
        }
    }
}

/// Why a receive returned no message. Nothing was consumed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// No message is there, and the call may not wait. EAGAIN (semantics E8).
    #[error("no message is there; wait until the socket is readable")]
    WouldBlock,
    /// The receive timeout passed. EAGAIN (semantics E8).
    #[error("no message came within the receive timeout")]
    TimedOut,
    /// No connection is left from which a message could come, and the socket was told to
    /// end then (semantics J13). ENOTCONN.
    #[error("no connection is left; attach one, or stop receiving")]
    NoPsockLeft,
    /// The KCM socket is closed. EBADF.
    #[error("the KCM socket is closed")]
    Closed,
}

impl RecvError {
    /// The errno this error stands for. Always positive.
    pub fn errno(&self) -> i32 {
        match self {
            RecvError::WouldBlock | RecvError::TimedOut => errno::EAGAIN,
            RecvError::NoPsockLeft => errno::ENOTCONN,
            RecvError::Closed => errno::EBADF,
        }
    }
}

/// Why a call on a KCM socket or a multiplexor was refused. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// The connection is not attached to this multiplexor. ENOENT (semantics A34).
    #[error("connection {0} is not attached to this multiplexor")]
    NotAttached(crate::message::PsockId),
    /// Another caller is unattaching the connection. EALREADY (semantics A34).
    #[error("connection {0} is being unattached already")]
    Detaching(crate::message::PsockId),
    /// The call came from inside a parser or a stream that the multiplexor was calling, where a
    /// connection cannot be waited for. EDEADLK (kernel-faults row 63).
    #[error("called from inside a connection's parser or stream; do it after that returned")]
    WouldDeadlock,
    /// A value is out of its range. EINVAL.
    #[error("{name} is out of range: {reason}")]
    InvalidOption {
        /// The option's name.
        name: &'static str,
        /// The range.
        reason: &'static str,
    },
    /// The KCM socket is closed. EBADF.
    #[error("the KCM socket is closed")]
    Closed,
}

impl SocketError {
    /// The errno this error stands for. Always positive.
    pub fn errno(&self) -> i32 {
        match self {
            SocketError::NotAttached(_) => errno::ENOENT,
            SocketError::Detaching(_) => errno::EALREADY,
            SocketError::WouldDeadlock => errno::EDEADLK,
            SocketError::InvalidOption { .. } => errno::EINVAL,
            SocketError::Closed => errno::EBADF,
        }
    }
}

macro_rules! into_io {
    ($($error:ty),*) => {$(
        impl From<$error> for io::Error {
            /// Keeps the errno's kind, with the error itself inside.
            fn from(error: $error) -> Self {
                let kind = io::Error::from_raw_os_error(error.errno()).kind();
                io::Error::new(kind, error)
            }
        }
    )*};
}

into_io!(PsockError, AttachError, SendError, RecvError, SocketError);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_37_every_cause_has_a_positive_errno_and_says_what_to_do() {
        let causes = [
            PsockError::Eof,
            PsockError::EofMidMessage { have: 3, need: None },
            PsockError::Reset,
            PsockError::Parser(errno::EPERM),
            PsockError::HandedBackLate { consumed: 4 },
            PsockError::BadLength { len: 4, seen: 4 },
            PsockError::TooLong { len: 9, limit: 8 },
            PsockError::HeaderTooLong { limit: 8 },
            PsockError::TimedOut { have: 1, need: Some(2) },
            PsockError::Stalled,
            PsockError::Unattached,
            PsockError::Overrun { credit: 1, ring_full: false },
            PsockError::from_io(&io::Error::from_raw_os_error(errno::ENOBUFS)),
        ];
        for cause in causes {
            assert!(cause.errno() > 0, "{cause:?}");
            assert!(cause.to_string().len() > 20, "{cause}");
            assert_eq!(
                io::Error::from(cause.clone()).kind(),
                io::Error::from_raw_os_error(cause.errno()).kind()
            );
        }
    }

    #[test]
    fn causes_that_the_kernel_calls_epipe_are_told_apart() {
        let eof = PsockError::Eof;
        let cut = PsockError::EofMidMessage { have: 8, need: Some(20) };
        assert_ne!(eof, cut);
        assert_eq!((eof.errno(), cut.errno()), (errno::EPIPE, errno::EPIPE));
        assert!(eof.is_clean() && !cut.is_clean());
        assert_eq!(
            cut.to_string(),
            "the peer closed the connection inside a message: 8 bytes of 20 came; the bytes are returned by unattach"
        );
    }
}
