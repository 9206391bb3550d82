//! Write KCM parsers in Rust-BPF.
//!
//! A parser looks at the bytes of one message so far and says how long the message is. It
//! is a plain function from a [`Message`] (the view of those bytes) to a [`Parsed`]:
//!
//! ```
//! use kcm_ebpf::{Message, Parsed, Verdict};
//!
//! /// A 4-byte big-endian length, then that many bytes.
//! fn parse(msg: &Message<'_>) -> Parsed {
//!     let body = msg.be32(0)?; // fewer than 4 bytes here: `?` says "need more"
//!     Ok(4 + u64::from(body))
//! }
//!
//! assert_eq!(kcm_ebpf::parse_bytes(parse, &[0, 0]), Verdict::NeedMore);
//! assert_eq!(kcm_ebpf::parse_bytes(parse, &[0, 0, 0, 2, 7, 7, 9]), Verdict::Message(6));
//! ```
//!
//! [`parser!`] turns the function into a BPF program (section `sk_skb/stream_parser`) when
//! the crate is built by `cargo xtask build-ebpf`. On every other target the very same
//! function runs natively over a byte slice, for tests, benchmarks and debuggers; the macro
//! then leaves only an empty `main`.
//!
//! # Rules of the game
//!
//! * **Stateless.** The input is exactly the message so far, from its first byte, which may
//!   reach beyond the message's end into the next ones (semantics J1). Nothing is kept
//!   between calls; need-more means a later call with a longer prefix.
//! * **Prefix-consistent.** What is answered for a prefix must hold for every longer one:
//!   need-more may turn into a length, a length never changes.
//! * **Bounded.** Every loop needs a bound known at compile time, for a verifier has to see
//!   its end. The scans here ([`Message::find_byte`], [`Message::find_line`]) take one.
//! * **No panics.** Slices, indexing and unwraps bring panic paths that no verifier accepts;
//!   the loads here are total. Positions and lengths are `u64`, so that adding 32-bit fields
//!   cannot overflow.
//!
//! Errors are errno values from [`errno`]: by custom `EPROTO` when the bytes are not this
//! protocol, `EMSGSIZE` when something exceeds a limit, `EPROTONOSUPPORT` for a variant that
//! is recognised but not delineated.
//!
//! The ready parsers are in [`parsers`].
#![no_std]
#![deny(unsafe_code)]

#[cfg(test)]
extern crate std;

mod entry;
#[cfg(target_arch = "bpf")]
mod kernel;
mod log;
mod message;
pub mod parsers;
mod scan;

pub use kcm_common::{errno, verdict::Verdict};
pub use message::Message;
pub use scan::Decimal;

/// What the macros expand to; not for direct use.
#[doc(hidden)]
pub mod __private {
    pub use crate::message::steps;

    #[cfg(target_arch = "bpf")]
    pub use aya_ebpf::bindings::__sk_buff;

    #[cfg(target_arch = "bpf")]
    pub mod kernel {
        pub use crate::kernel::{parse, verdict};
    }
}

/// Why a parse function ends without a length: [`NEED_MORE`](Self::NEED_MORE), or an errno.
///
/// (One wide number and not an enum: with it a `Result` of any load is taken apart into
/// registers by the compiler, where smaller ones are packed into one and picked apart again.)
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// 0, or the negated errno: what the program returns.
    raw: i64,
}

impl Stop {
    /// The head of the message is not complete: ask again when there are more bytes
    /// (semantics B3). Every load beyond the bytes that are here says this.
    pub const NEED_MORE: Stop = Stop { raw: kcm_common::verdict::NEED_MORE as i64 };

    /// The stream is refused; the positive errno says why (semantics B9). A code that is not
    /// positive is no errno and becomes `EPROTO`.
    #[inline(always)]
    pub const fn error(errno: i32) -> Stop {
        Stop { raw: -(if errno > 0 { errno } else { errno::EPROTO } as i64) }
    }

    /// The verdict that this stands for.
    #[inline(always)]
    pub const fn verdict(self) -> Verdict {
        Verdict::from_raw(self.raw as i32)
    }
}

impl core::fmt::Debug for Stop {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.verdict().fmt(f)
    }
}

/// What a parse function returns: the length of the whole message in bytes, counted from its
/// first byte (it may be longer than what is here), or why there is none yet.
///
/// A length of 0 becomes the error `EPROTO`, one beyond `i32::MAX` becomes `EMSGSIZE`
/// (semantics B4, D3).
pub type Parsed = Result<u64, Stop>;

/// Refuses the stream with a positive errno: `return refuse(errno::EPROTO)`.
///
/// # Errors
/// Always [`Stop::error`]; that is its purpose.
#[inline(always)]
pub const fn refuse<T>(errno: i32) -> Result<T, Stop> {
    Err(Stop::error(errno))
}

/// The program's 32-bit result for a parse function's result.
#[inline(always)]
pub const fn raw_verdict(parsed: Parsed) -> i32 {
    match parsed {
        Ok(0) => -errno::EPROTO,
        Ok(len) if len <= i32::MAX as u64 => len as i32,
        Ok(_) => -errno::EMSGSIZE,
        Err(stop) => stop.raw as i32,
    }
}

/// The verdict that a parse function's result stands for.
#[inline(always)]
pub const fn verdict(parsed: Parsed) -> Verdict {
    Verdict::from_raw(raw_verdict(parsed))
}

/// Runs a parse function natively over the message so far.
#[cfg(not(target_arch = "bpf"))]
pub fn parse_bytes(parse: impl Fn(&Message<'_>) -> Parsed, bytes: &[u8]) -> Verdict {
    verdict(parse(&Message::new(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_that_cannot_be_said_is_an_error() {
        assert_eq!(verdict(Ok(0)), Verdict::Error(errno::EPROTO));
        assert_eq!(verdict(Ok(1)), Verdict::Message(1));
        assert_eq!(verdict(Ok(i32::MAX as u64)), Verdict::Message(i32::MAX as u32));
        assert_eq!(verdict(Ok(1 << 31)), Verdict::Error(errno::EMSGSIZE));
        assert_eq!(verdict(Ok(u64::MAX)), Verdict::Error(errno::EMSGSIZE));
    }

    #[test]
    fn an_error_code_that_is_no_errno_is_still_an_error() {
        assert_eq!(verdict(refuse(0)), Verdict::Error(errno::EPROTO));
        assert_eq!(verdict(refuse(-5)), Verdict::Error(errno::EPROTO));
        assert_eq!(raw_verdict(refuse(5)), -5);
        assert_eq!(raw_verdict(Err(Stop::NEED_MORE)), 0);
    }
}
