//! HTTP/2 frames, with the client's preface.
//!
//! Source: RFC 9113 section 4.1 (frame: 3-byte big-endian length, type, flags, stream, then
//! that many bytes) and section 3.4 (the client starts with 24 fixed bytes). gRPC travels in
//! the same frames.
//!
//! * A message is one frame, its 9-byte header included. The preface is a message of its own,
//!   of 24 bytes; the SETTINGS frame behind it is the next.
//! * The preface is recognised wherever a message starts with `PRI `, because a parser does
//!   not know where in the stream it is. As a frame those bytes would announce 5,263,945
//!   bytes of an undefined type; no implementation sends that.
//! * Limits: 2^24 - 1 bytes behind the header, by the format. SETTINGS_MAX_FRAME_SIZE is
//!   agreed between the peers and unknown here; `max_message` is the place for it
//!   (9 + 16,384 by default).
//! * Errors: `EPROTO` for `PRI ` that does not go on as the preface, and for HTTP/1 at the
//!   start of a message: `HTTP` (a response to a client that spoke too early), which would
//!   be a frame of 4,740,180 bytes of an undefined type.

use crate::{Message, Parsed, errno, refuse};

/// Bytes of a frame's header.
const HEADER: u64 = 9;

/// The preface, eight bytes at a time.
const PREFACE: [u64; 3] = [
    u64::from_be_bytes(*b"PRI * HT"),
    u64::from_be_bytes(*b"TP/2.0\r\n"),
    u64::from_be_bytes(*b"\r\nSM\r\n\r\n"),
];

/// The length of the frame, or of the preface, that `msg` starts with; see the module's
/// description.
///
/// # Errors
/// Need-more below 4 bytes, and for a preface below 24; `EPROTO` as described above.
#[inline(always)]
pub fn parse(msg: &Message<'_>) -> Parsed {
    let head = msg.be32(0)?;
    if head == u32::from_be_bytes(*b"PRI ") {
        return preface(msg);
    }
    if head == u32::from_be_bytes(*b"HTTP") {
        return refuse(errno::EPROTO);
    }
    Ok(HEADER + u64::from(head >> 8))
}

#[inline(always)]
fn preface(msg: &Message<'_>) -> Parsed {
    if msg.be64(0)? != PREFACE[0] || msg.be64(8)? != PREFACE[1] || msg.be64(16)? != PREFACE[2] {
        return refuse(errno::EPROTO);
    }
    Ok(24)
}
