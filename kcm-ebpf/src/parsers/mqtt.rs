//! MQTT control packets, versions 3.1, 3.1.1 and 5.
//!
//! Source: MQTT 5.0 (OASIS) sections 2.1 and 1.5.5, MQTT 3.1.1 section 2.2: a byte of packet
//! type and flags, the remaining length as a varint of 1 to 4 bytes (7 bits each, lowest
//! first), then that many bytes.
//!
//! * Limits: 268,435,455 bytes behind the header, by the format.
//! * Errors: `EPROTO` for packet type 0, which no version defines, and for a varint that does
//!   not end with its fourth byte. A varint with more bytes than it needs is read as what it
//!   says: version 5 forbids that, version 3 does not, and the length is clear.

use crate::{Message, Parsed, errno, refuse};

/// The length of the packet that `msg` starts with, its fixed header included; see the
/// module's description.
///
/// # Errors
/// Need-more while the header is not complete; `EPROTO` as described above.
#[inline(always)]
pub fn parse(msg: &Message<'_>) -> Parsed {
    if msg.u8(0)? >> 4 == 0 {
        return refuse(errno::EPROTO);
    }
    let mut size = 0;
    let mut at = 1;
    while at < 5 {
        let byte = msg.u8(at)?;
        size |= u64::from(byte & 0x7f) << (7 * (at - 1));
        at += 1;
        if byte < 0x80 {
            return Ok(at + size);
        }
    }
    refuse(errno::EPROTO)
}
