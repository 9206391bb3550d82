//! A line, byte by byte: what a parser without word tricks does, a loop whose body is one load.

use super::{Message, Parsed, errno, refuse};

/// The longest line, its end included.
const LONGEST: u64 = 1024;

/// The length of the line that `msg` starts with, its `\r\n` included.
///
/// # Errors
/// Need-more while its end is not here; `EMSGSIZE` beyond 1024 bytes.
#[inline(always)]
pub(super) fn parse(msg: &Message<'_>) -> Parsed {
    let mut at = 0;
    while at < LONGEST - 1 {
        if msg.u8(at)? == b'\r' && msg.u8(at + 1)? == b'\n' {
            return Ok(at + 2);
        }
        at += 1;
    }
    refuse(errno::EMSGSIZE)
}
