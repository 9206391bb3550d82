//! DNS over TCP.
//!
//! Source: RFC 1035 section 4.2.2 and RFC 7766 section 8: a 2-byte big-endian length, then a
//! DNS message of that many bytes. DNS over TLS (RFC 7858) is the same inside TLS.
//!
//! * Limits: 65,535 bytes behind the length, by the format.
//! * Errors: `EPROTO` for a length below 12, the size of a DNS header (RFC 1035 section
//!   4.1.1); 0 included.

use crate::{Message, Parsed, errno, refuse};

/// Bytes of a DNS message's header.
const HEADER: u16 = 12;

/// The length of the DNS message that `msg` starts with, its length field included; see the
/// module's description.
///
/// # Errors
/// Need-more below 2 bytes; `EPROTO` as described above.
#[inline(always)]
pub fn parse(msg: &Message<'_>) -> Parsed {
    let size = msg.be16(0)?;
    if size < HEADER {
        return refuse(errno::EPROTO);
    }
    Ok(2 + u64::from(size))
}
