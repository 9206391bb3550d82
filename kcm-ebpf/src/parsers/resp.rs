//! Redis' protocol, RESP2 and RESP3, requests and replies.
//!
//! Source: Redis documentation, "Redis serialization protocol specification", and the RESP3
//! specification (antirez/RESP3). A message is one whole value: a line (`+` `-` `:` `_` `,`
//! `#` `(`), a bulk of announced length (`$` `!` `=`), or an aggregate with all its elements,
//! nested to any depth (`*` `~` `>`, `%` with two values per entry). An attribute (`|`) is
//! part of the value behind it. A message that starts with none of these bytes is an inline
//! command: a line.
//!
//! Nesting takes no stack: all that has to be known is how many values are still to come,
//! and an aggregate adds its elements to that number.
//!
//! * The length is told as soon as it is certain: a bulk that is the last value of its
//!   message need not be here, nor its line end, which then is not looked at.
//! * Limits: [`MAX_STEPS`] steps, a step being a value, or eight bytes of a line beyond its
//!   first eight. (A parser starts over at each call, so that a large aggregate arriving in
//!   many pieces costs the square of its elements; `max_header` bounds that too.) An inline
//!   command has at most 64 KiB, as in the server.
//! * Errors: `EPROTO` for a line that does not end with `\r\n` (an inline command may end
//!   with `\n`), a length that is no number, has leading zeros or a sign (`$-1` and `*-1`,
//!   RESP2's nulls, are values), a bulk that is not followed by `\r\n`, and bytes that start
//!   neither a value nor, at the message's start, an inline command. `EMSGSIZE` beyond the
//!   limits, and for a length or a message beyond 31 bits. `EPROTONOSUPPORT` for RESP3's
//!   streamed values (`$?`, `*?`), which no server sends.

use crate::{Message, Parsed, Stop, errno, refuse, scan};

/// Steps for one message; see the module's description.
pub const MAX_STEPS: u32 = 1 << 20;

/// The longest inline command, its line end included, in bytes.
const MAX_INLINE: u64 = 65_536;

/// The length of the value, or inline command, that `msg` starts with; see the module's
/// description.
///
/// # Errors
/// Need-more while its length cannot be told; `EPROTO`, `EMSGSIZE` and `EPROTONOSUPPORT` as
/// described above.
#[inline(always)]
pub fn parse(msg: &Message<'_>) -> Parsed {
    parse_bounded::<MAX_STEPS>(msg)
}

/// [`parse`] with another number of steps, for a verifier with less patience.
///
/// # Errors
/// As [`parse`]; `EMSGSIZE` beyond `STEPS` steps.
#[inline(always)]
pub fn parse_bounded<const STEPS: u32>(msg: &Message<'_>) -> Parsed {
    if is_inline(msg.u8(0)?) {
        return Ok(msg.find_byte::<MAX_INLINE>(b'\n', 0)? + 1);
    }
    if msg.in_kernel() {
        let (copy, zero) = (msg.copied(), msg.unknown_zero());
        let mut walk = Walk { at: zero, left: zero + 1, in_line: false };
        let length = msg.repeat(STEPS, || walk.step(&copy))?;
        return length.map_or_else(|| refuse(errno::EMSGSIZE), Ok);
    }
    let mut walk = Walk { at: 0, left: 1, in_line: false };
    let mut step = 0;
    while step < STEPS {
        step += 1;
        if let Some(length) = walk.step(msg)? {
            return Ok(length);
        }
    }
    refuse(errno::EMSGSIZE)
}

/// A walk over the values of a message.
struct Walk {
    at: u64,
    /// Values still to come, the one at `at` included.
    left: u64,
    /// In the middle of a line, whose first bytes were looked at.
    in_line: bool,
}

impl Walk {
    /// One step; the message's length with its last.
    #[inline(always)]
    fn step(&mut self, msg: &Message<'_>) -> Result<Option<u64>, Stop> {
        let (word, have) = msg.window(self.at);
        if have == 0 {
            return Err(Stop::NEED_MORE);
        }
        let kind = word as u8;
        if !self.in_line && is_counted(kind) {
            let head = counted(msg, self.at, word, have)?;
            self.at = head.end;
            self.left -= 1;
            match kind {
                // A null has no data and no line end behind it.
                _ if head.null => {}
                b'*' | b'~' | b'>' => self.left += head.value,
                b'%' => self.left += 2 * head.value,
                b'|' => self.left += 1 + 2 * head.value,
                _ => {
                    self.at += head.value + 2;
                    if self.left > 0 && msg.be16(self.at - 2)? != CRLF {
                        return refuse(errno::EPROTO);
                    }
                }
            }
        } else {
            if !self.in_line && !is_line(kind) {
                return refuse(errno::EPROTO);
            }
            let hits = scan::matches(word, b'\n');
            if hits == 0 {
                if have < 8 {
                    return Err(Stop::NEED_MORE);
                }
                self.in_line = true;
                self.at += 8;
                return Ok(None);
            }
            // A value's first byte is not `\n`: there is a byte before it.
            self.at += scan::first(hits) + 1;
            if msg.u8(self.at - 2)? != b'\r' {
                return refuse(errno::EPROTO);
            }
            self.in_line = false;
            self.left -= 1;
        }
        Ok(if self.left == 0 { Some(self.at) } else { None })
    }
}

const CRLF: u16 = u16::from_be_bytes(*b"\r\n");

/// `byte` is among `SET`, all of which are between `!` and `~`: two comparisons instead of
/// one for each.
#[inline(always)]
const fn is_one_of(byte: u8, set: &[u8]) -> bool {
    let (mut low, mut high) = (0u64, 0u64);
    let mut i = 0;
    while i < set.len() {
        if set[i] < 64 {
            low |= 1 << set[i];
        } else {
            high |= 1 << (set[i] - 64);
        }
        i += 1;
    }
    byte < 128 && (if byte < 64 { low >> byte } else { high >> (byte - 64) }) & 1 != 0
}

/// Starts a value that goes on with a count.
#[inline(always)]
const fn is_counted(kind: u8) -> bool {
    is_one_of(kind, b"$*!=%~>|")
}

/// Starts a value that is a line.
#[inline(always)]
const fn is_line(kind: u8) -> bool {
    is_one_of(kind, b"+-:_,#(")
}

/// Starts an inline command: what is printable or a line end, and starts no value.
#[inline(always)]
const fn is_inline(first: u8) -> bool {
    matches!(first, b' '..=b'~' | b'\t' | b'\r' | b'\n') && !is_counted(first) && !is_line(first)
}

/// The count of a bulk or an aggregate.
struct Count {
    value: u64,
    null: bool,
    /// Behind its line.
    end: u64,
}

/// Reads the count of the value at `at`, of which `word` holds the first `have` bytes.
#[inline(always)]
fn counted(msg: &Message<'_>, at: u64, word: u64, have: u64) -> Result<Count, Stop> {
    let (mut value, count) = scan::digits(word >> 8);
    let mut end = at + 1 + count;
    // The common case has type, digits and line end in the one word that is loaded already.
    let terminator = if count == 0 {
        return uncounted(at, word, have);
    } else if count < 6 && have == 8 {
        ((word >> (8 * (1 + count))) as u16).swap_bytes()
    } else {
        let long = msg.decimal(at + 1)?;
        value = long.value;
        end = long.end;
        msg.be16(end)?
    };
    let leading_zero = (word >> 8) as u8 == b'0' && end > at + 2;
    if terminator != CRLF || leading_zero {
        return refuse(errno::EPROTO);
    }
    if value > i32::MAX as u64 {
        return refuse(errno::EMSGSIZE);
    }
    Ok(Count { value, null: false, end: end + 2 })
}

/// What stands where a count should: a null, a streamed value, or nothing that is RESP.
#[inline(always)]
fn uncounted(at: u64, word: u64, have: u64) -> Result<Count, Stop> {
    const NULL: u64 = u32::from_le_bytes(*b"-1\r\n") as u64;
    let kind = word as u8;
    match (word >> 8) as u8 {
        _ if have < 2 => Err(Stop::NEED_MORE),
        b'?' => refuse(errno::EPROTONOSUPPORT),
        b'-' if kind != b'$' && kind != b'*' => refuse(errno::EPROTO),
        b'-' if have < 5 => Err(Stop::NEED_MORE),
        b'-' if (word >> 8) & 0xffff_ffff == NULL => {
            Ok(Count { value: 0, null: true, end: at + 5 })
        }
        _ => refuse(errno::EPROTO),
    }
}
