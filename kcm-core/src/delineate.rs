//! What the stream parser asks of a parser, and what it is told. A leaf: the engine
//! (`bpf`) and the stream parser (`strparser`) both speak it and do not know each other.

use std::any::Any;

pub use kcm_common::verdict::Verdict;

/// Limits that one walk over a buffer obeys.
#[derive(Clone, Copy, Debug)]
pub struct WalkLimits {
    /// The longest message accepted, in bytes; a longer one ends the walk with
    /// [`WalkEnd::TooLong`] (semantics B5: equal is accepted).
    pub max_message: u32,
    /// At most this many ends are appended by one walk (work limit).
    pub max_ends: u32,
}

/// Why a walk over a buffer stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkEnd {
    /// Every byte belongs to a whole message.
    Empty,
    /// At the last end the parser was asked about the rest and needs more to tell a length.
    NeedMore,
    /// At the last end starts a message of `len` bytes of which only a part is here.
    Partial {
        /// The whole length of the message, counted from its first byte.
        len: u32,
    },
    /// At the last end starts a message longer than [`WalkLimits::max_message`].
    TooLong {
        /// The length the parser named.
        len: u32,
    },
    /// The parser refused the bytes at the last end.
    Error(i32),
    /// [`WalkLimits::max_ends`] ends were appended; there may be more.
    Full,
}

/// Says where messages end. Implemented by verified programs and, for tests and benchmarks,
/// by native functions.
pub trait Delineate: Send + Sync {
    /// One question: `msg` is exactly the message so far, from its first byte (semantics J1).
    fn parse(&self, msg: &[u8]) -> Verdict;

    /// The same parser for one connection, of which `cookie` is the number that the kernel gave
    /// it (SO_COOKIE; 0 for streams that are no sockets). Asked for at attach; for parsers that
    /// keep something for each connection.
    fn for_connection(&self, cookie: u64) -> Self
    where
        Self: Sized + Clone,
    {
        let _ = cookie;
        self.clone()
    }

    /// The [`Parser`](crate::Parser) that this is, for engines that run its program elsewhere
    /// than here. None for native functions, which no other engine can run.
    fn program(&self) -> Option<&dyn Any> {
        None
    }

    /// Walks `buf`, whose byte `start` begins a message, and appends to `ends` the offset in
    /// `buf` of the end of each whole message found. Requires `start <= buf.len() <= u32::MAX`.
    ///
    /// The default asks [`parse`](Self::parse) once per message; executors that can keep the
    /// loop inside the engine override it.
    fn walk(&self, buf: &[u8], start: usize, limits: WalkLimits, ends: &mut Vec<u32>) -> WalkEnd {
        let mut at = start;
        let mut room = limits.max_ends;
        loop {
            if at == buf.len() {
                return WalkEnd::Empty;
            }
            if room == 0 {
                return WalkEnd::Full;
            }
            match self.parse(&buf[at..]) {
                Verdict::NeedMore => return WalkEnd::NeedMore,
                Verdict::Error(code) => return WalkEnd::Error(code),
                Verdict::Message(len) if len > limits.max_message => {
                    return WalkEnd::TooLong { len };
                }
                Verdict::Message(len) if len as usize > buf.len() - at => {
                    return WalkEnd::Partial { len };
                }
                Verdict::Message(len) => {
                    at += len as usize;
                    ends.push(at as u32);
                    room -= 1;
                }
            }
        }
    }
}

impl<D: Delineate + ?Sized> Delineate for std::sync::Arc<D> {
    fn program(&self) -> Option<&dyn Any> {
        (**self).program()
    }

    fn parse(&self, msg: &[u8]) -> Verdict {
        (**self).parse(msg)
    }

    fn walk(&self, buf: &[u8], start: usize, limits: WalkLimits, ends: &mut Vec<u32>) -> WalkEnd {
        (**self).walk(buf, start, limits, ends)
    }
}
