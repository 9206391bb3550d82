//! Apache Thrift, framed transport.
//!
//! Source: Apache Thrift specification, "Thrift Remote Procedure Call", section "Framed vs.
//! unframed transport": a 4-byte big-endian signed length, then that many bytes. The header
//! transport (THeader) is framed the same way.
//!
//! * Limits: none but the 31 bits of the field; the attach option `max_message` is the place
//!   for one (Thrift's own default is 16,384,000 bytes).
//! * An empty frame (length 0) is a message of 4 bytes: transports skip it, so it is not an
//!   error here.
//! * Errors: `EPROTO` for a negative length. That is also what the unframed strict binary
//!   protocol looks like (its first byte is 0x80). `EMSGSIZE` when header and frame together
//!   exceed 31 bits.

use crate::{Message, Parsed, errno, refuse};

/// The length of the frame that `msg` starts with; see the module's description.
///
/// # Errors
/// Need-more below 4 bytes; `EPROTO` and `EMSGSIZE` as described above.
#[inline(always)]
pub fn parse(msg: &Message<'_>) -> Parsed {
    let size = msg.be32(0)?;
    if size > i32::MAX as u32 {
        return refuse(errno::EPROTO);
    }
    Ok(4 + u64::from(size))
}
