//! PostgreSQL's protocol version 3, both directions.
//!
//! Source: PostgreSQL documentation, chapter "Frontend/Backend Protocol", sections "Message
//! Formats" and "Message Flow". A typed message is a type byte, then a 4-byte big-endian
//! length that counts itself but not the type. A client's first message has no type byte:
//! the length comes first, then a code (protocol version, SSLRequest, GSSENCRequest or
//! CancelRequest). Type bytes are letters and digits, and a first message is shorter than
//! 2^24 bytes: a first byte of 0 tells one from the other.
//!
//! **The answer to SSLRequest and GSSENCRequest** is a single byte, `S`, `G` or `N`, without
//! a length. `S` and `G` are followed by an encrypted stream, which no parser reads. `N` is
//! followed by nothing until the client has seen it, and one byte alone cannot be told from
//! the start of a NoticeResponse: the parser says need-more, and waits as long as the client.
//! So these requests are to be answered before the connection is attached, or by whoever
//! takes them from the client (as connection poolers do), or not made at all
//! (`sslmode=disable gssencmode=disable`). Where the byte is followed by the server's next
//! message, as in a recording, it is told by the impossible length and is a message of
//! 1 byte.
//!
//! * Limits: 10,000 bytes for a first message and 2^30 - 1 for others, the server's own
//!   (`MAX_STARTUP_PACKET_LENGTH`, `MaxAllocSize`).
//! * Errors: `EPROTO` for a type that is no letter or digit (TLS records, an HTTP/2 length)
//!   and for a length below its own size; `EMSGSIZE` beyond the limits; `EPROTONOSUPPORT`
//!   for a first message of another protocol version, such as 2.0, whose later messages
//!   carry no lengths.

use crate::{Message, Parsed, errno, refuse};

/// The longest first message that a server takes.
const MAX_STARTUP: u32 = 10_000;
/// A length that no message reaches.
const MAX_MESSAGE: u32 = 0x3fff_ffff;
/// The high half of the codes of SSLRequest, GSSENCRequest and CancelRequest.
const REQUEST: u32 = 1234;
/// The low halves of those codes: 5678 cancel, 5679 SSL, 5680 GSS encryption.
const REQUESTS: core::ops::RangeInclusive<u32> = 5678..=5680;

/// The length of the message that `msg` starts with, a type byte included; see the module's
/// description.
///
/// # Errors
/// Need-more below 5 bytes (8 for a first message); `EPROTO`, `EMSGSIZE` and
/// `EPROTONOSUPPORT` as described above.
#[inline(always)]
pub fn parse(msg: &Message<'_>) -> Parsed {
    let kind = msg.u8(0)?;
    if kind == 0 {
        return first(msg);
    }
    if !kind.is_ascii_alphanumeric() {
        return refuse(errno::EPROTO);
    }
    // The length's highest byte tells an answer to SSLRequest from a typed message, and is
    // looked at first: what follows the answer may be short.
    if msg.u8(1)? > (MAX_MESSAGE >> 24) as u8 {
        return if matches!(kind, b'N' | b'S' | b'G') { Ok(1) } else { refuse(errno::EMSGSIZE) };
    }
    let size = msg.be32(1)?;
    if size < 4 {
        return refuse(errno::EPROTO);
    }
    Ok(1 + u64::from(size))
}

/// A client's first message, without a type byte.
#[inline(always)]
fn first(msg: &Message<'_>) -> Parsed {
    let size = msg.be32(0)?;
    if size < 8 {
        return refuse(errno::EPROTO);
    }
    if size > MAX_STARTUP {
        return refuse(errno::EMSGSIZE);
    }
    let code = msg.be32(4)?;
    let known = match code >> 16 {
        3 => true,
        REQUEST => REQUESTS.contains(&(code & 0xffff)),
        _ => false,
    };
    if !known {
        return refuse(errno::EPROTONOSUPPORT);
    }
    Ok(u64::from(size))
}
