//! Memcached: the text protocol, classic and meta commands, and the binary protocol; requests
//! and replies.
//!
//! Source: memcached's `doc/protocol.txt` (text), `doc/protocol-binary.xml` (binary).
//!
//! * A text message is a line, and with it the data block that the line announces: of `set`,
//!   `add`, `replace`, `append`, `prepend` and `cas` (the length is the fourth word behind
//!   the command's), of `ms` (second word behind), of `VALUE` (third) and `VA` (first). The
//!   block is followed by `\r\n`, which belongs to the message. `noreply`, a cas number and
//!   meta flags may follow the length.
//! * Every other line is a message of its own: the reply to a `get` is one message for each
//!   `VALUE` and one for `END`. (Taken as one message its length would be known only with
//!   the last byte, and a large value would have to count as head.)
//! * A line ends with `\n`, alone or behind `\r`, as the server takes it; words are
//!   separated by one to eight spaces. An empty line is a message.
//! * A binary message (first byte 0x80 or 0x81) is a 24-byte header and the body whose
//!   length is in its bytes 8 to 11.
//! * Limits: lines of 64 KiB; lines that announce a data block of 2 KiB, words before its
//!   length of 512 bytes (keys have 250 at most).
//! * Errors: `EPROTO` for a first byte that is neither printable nor a line end nor binary,
//!   for an announcing line without its words, for a length that is no number or is
//!   followed by something else than a space or the line's end (negative ones included).
//!   `EMSGSIZE` beyond the limits and for a data block that makes the message exceed 31
//!   bits. A wrong end of a data block is not seen: the length is told before it is there.

use crate::{Message, Parsed, Stop, errno, refuse, scan};

/// The longest line, its end included, in bytes.
const MAX_LINE: u64 = 65_536;
/// The longest line that announces a data block: it holds one key at most. (The server gives
/// up on a command at the same length, multi-key `get` excepted.)
const MAX_ANNOUNCING: u64 = 2048;
/// The longest word that is skipped on the way to the length, in bytes.
const MAX_WORD: u64 = 512;
/// Bytes of the binary protocol's header.
const BINARY_HEADER: u64 = 24;

/// The length of the message that `msg` starts with; see the module's description.
///
/// # Errors
/// Need-more while the line's end is not here (of the binary header, byte 11); `EPROTO` and
/// `EMSGSIZE` as described above.
#[inline(always)]
pub fn parse(msg: &Message<'_>) -> Parsed {
    let first = msg.u8(0)?;
    if first == 0x80 || first == 0x81 {
        return Ok(BINARY_HEADER + u64::from(msg.be32(8)?));
    }
    if !matches!(first, b' '..=b'~' | b'\r' | b'\n') {
        return refuse(errno::EPROTO);
    }
    let (word, have) = msg.window(0);
    if have < 8 && scan::matches(word, b'\n') == 0 {
        // Perhaps not the whole command.
        return Err(Stop::NEED_MORE);
    }
    let (mut at, words) = match announces(word) {
        Some(found) => found,
        None => return Ok(msg.find_byte::<MAX_LINE>(b'\n', 0)? + 1),
    };
    let end = msg.find_byte::<MAX_ANNOUNCING>(b'\n', 0)?;
    let mut skipped = 0;
    while skipped < words {
        at = word_end(msg, skip_spaces(msg, at)?, end)?;
        skipped += 1;
    }
    let size = msg.decimal(skip_spaces(msg, at)?)?;
    if !matches!(msg.u8(size.end)?, b' ' | b'\r' | b'\n') {
        return refuse(errno::EPROTO);
    }
    Ok(end + 1 + size.value + 2)
}

/// For a line (its first eight bytes) that announces a data block: the position behind its first word, and how many
/// words stand between that and the length.
#[inline(always)]
fn announces(word: u64) -> Option<(u64, u32)> {
    let starts = |text: &[u8; 8], len: u32| {
        let mask = u64::MAX >> (64 - 8 * len);
        (word ^ u64::from_le_bytes(*text)) & mask == 0
    };
    if starts(b"set     ", 4) || starts(b"add     ", 4) || starts(b"cas     ", 4) {
        Some((3, 3))
    } else if starts(b"ms      ", 3) {
        Some((2, 1))
    } else if starts(b"VA      ", 3) {
        Some((2, 0))
    } else if starts(b"VALUE   ", 6) {
        Some((5, 2))
    } else if starts(b"append  ", 7) {
        Some((6, 3))
    } else if starts(b"replace ", 8) || starts(b"prepend ", 8) {
        Some((7, 3))
    } else {
        None
    }
}

/// Behind the spaces at `at`, of which there is at least one.
#[inline(always)]
fn skip_spaces(msg: &Message<'_>, at: u64) -> Result<u64, Stop> {
    let (word, have) = msg.window(at);
    let others = word ^ u64::from_le_bytes([b' '; 8]);
    // (The masks here and below change nothing: they show a verifier, which may take the index
    // for -1, that no position is before the message.)
    let spaces = if others == 0 { 8 } else { scan::first_nonzero(others) & 7 };
    if spaces == 0 || have == 0 {
        return refuse(errno::EPROTO);
    }
    Ok(at + spaces)
}

/// Behind the word at `at`: at the space that ends it, before the line's `end`.
#[inline(always)]
fn word_end(msg: &Message<'_>, at: u64, end: u64) -> Result<u64, Stop> {
    if msg.in_kernel() {
        let (copy, mut done) = (msg.copied(), msg.unknown_zero());
        let found = msg.repeat(MAX_WORD.div_ceil(8) as u32, || {
            let found = word_step(&copy, at, end, done);
            done += 8;
            found
        })?;
        return found.map_or_else(|| refuse(errno::EMSGSIZE), Ok);
    }
    let mut done = 0;
    while done < MAX_WORD {
        let (word, have) = msg.window(at + done);
        let hits = scan::matches(word, b' ');
        if hits != 0 {
            let space = at + done + (scan::first(hits) & 7);
            return if space < end { Ok(space) } else { refuse(errno::EPROTO) };
        }
        done += 8;
        // All of the line is here: a word that does not end in it never will.
        if have < 8 || at + done >= end {
            return refuse(errno::EPROTO);
        }
    }
    refuse(errno::EMSGSIZE)
}

/// One step of it, for a kernel: looks at the eight bytes that are `done` bytes behind `at`.
#[inline(always)]
fn word_step(msg: &Message<'_>, at: u64, end: u64, done: u64) -> Result<Option<u64>, Stop> {
    let (word, have) = msg.window(at + done);
    let hits = scan::matches(word, b' ');
    if hits != 0 {
        let space = at + done + scan::first(hits);
        return if space < end { Ok(Some(space)) } else { refuse(errno::EPROTO) };
    }
    if have < 8 || at + done + 8 >= end {
        return refuse(errno::EPROTO);
    }
    Ok(None)
}
