//! Apache Kafka, requests and responses.
//!
//! Source: Apache Kafka protocol guide, section "Protocol Primitive Types" and "Common
//! Request and Response Structure": `RequestOrResponse => Size (int32, big-endian)`, then
//! that many bytes.
//!
//! * Limits: none but the 31 bits of the field; a broker's own default is 100 MiB
//!   (`socket.request.max.bytes`), for which `max_message` is the place.
//! * Errors: `EPROTO` for a size below 4: negative, or without room for the correlation id
//!   that every response starts with (a request's header is longer still). `EMSGSIZE` when
//!   size and field together exceed 31 bits.

use crate::{Message, Parsed, errno, refuse};

/// Bytes of the shortest header, a response's: the correlation id.
const HEADER: u32 = 4;

/// The length of the request or response that `msg` starts with, its size field included;
/// see the module's description.
///
/// # Errors
/// Need-more below 4 bytes; `EPROTO` and `EMSGSIZE` as described above.
#[inline(always)]
pub fn parse(msg: &Message<'_>) -> Parsed {
    let size = msg.be32(0)?;
    if size < HEADER || size > i32::MAX as u32 {
        return refuse(errno::EPROTO);
    }
    Ok(4 + u64::from(size))
}
