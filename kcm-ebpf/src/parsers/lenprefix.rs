//! A length, then that many bytes: what most home-made protocols are.
//!
//! One object with a program for each encoding of the length, which does not count itself:
//! `lenprefix_be16`, `lenprefix_be32`, `lenprefix_le16`, `lenprefix_le32` (fixed size, big-
//! or little-endian) and `lenprefix_varint` (LEB128 as in protobuf's `writeDelimitedTo`;
//! source: Protocol Buffers encoding, section "Base 128 Varints").
//!
//! * An empty body is fine: the message is then the length field alone.
//! * Limits: none but the field; `max_message` is the place for one.
//! * Errors: `EMSGSIZE` when length and field together exceed 31 bits. For the varint,
//!   `EPROTO` when it does not end within 5 bytes or exceeds 32 bits; encodings longer than
//!   necessary are read as what they say, as protobuf's own readers do.

use crate::{Message, Parsed, errno, refuse};

/// A 2-byte big-endian length.
///
/// # Errors
/// Need-more below 2 bytes.
#[inline(always)]
pub fn be16(msg: &Message<'_>) -> Parsed {
    Ok(2 + u64::from(msg.be16(0)?))
}

/// A 4-byte big-endian length.
///
/// # Errors
/// Need-more below 4 bytes; `EMSGSIZE` as described above.
#[inline(always)]
pub fn be32(msg: &Message<'_>) -> Parsed {
    Ok(4 + u64::from(msg.be32(0)?))
}

/// A 2-byte little-endian length.
///
/// # Errors
/// Need-more below 2 bytes.
#[inline(always)]
pub fn le16(msg: &Message<'_>) -> Parsed {
    Ok(2 + u64::from(msg.le16(0)?))
}

/// A 4-byte little-endian length.
///
/// # Errors
/// Need-more below 4 bytes; `EMSGSIZE` as described above.
#[inline(always)]
pub fn le32(msg: &Message<'_>) -> Parsed {
    Ok(4 + u64::from(msg.le32(0)?))
}

/// A varint length of 1 to 5 bytes.
///
/// # Errors
/// Need-more while the varint's last byte is not here; `EPROTO` and `EMSGSIZE` as described
/// above.
#[inline(always)]
pub fn varint(msg: &Message<'_>) -> Parsed {
    let mut size = 0u64;
    let mut at = 0;
    while at < 5 {
        let byte = msg.u8(at)?;
        size |= u64::from(byte & 0x7f) << (7 * at);
        at += 1;
        if byte < 0x80 {
            return if size <= u64::from(u32::MAX) { Ok(at + size) } else { refuse(errno::EPROTO) };
        }
    }
    refuse(errno::EPROTO)
}
