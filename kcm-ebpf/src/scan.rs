//! Bounded scans, eight bytes a step.
//!
//! A step is one load and a handful of arithmetic, without a branch per byte. That is fast,
//! and it is cheap to verify: a verifier that explores every iteration has an eighth of them.

use crate::{Message, Stop, errno, refuse};

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// The high bit of each byte of `word` that equals `byte`. Bits above the lowest one set may
/// be false (a borrow); the lowest is exact.
#[inline(always)]
pub(crate) const fn matches(word: u64, byte: u8) -> u64 {
    let zero = word ^ (ONES * byte as u64);
    zero.wrapping_sub(ONES) & !zero & HIGHS
}

/// Index of the lowest byte with its high bit set in `hits`, which has only such bits and is
/// not 0.
#[inline(always)]
pub(crate) const fn first(hits: u64) -> u64 {
    // BPF has no count of trailing zeros: the bits below the lowest hit cover the lowest bit
    // of each byte up to and including the hit's own, and a multiplication counts those.
    let below = hits.wrapping_sub(1) & !hits & ONES;
    (below.wrapping_mul(ONES) >> 56).wrapping_sub(1)
}

/// Index of the lowest byte of `word`, which is not 0, that is not 0.
#[inline(always)]
pub(crate) const fn first_nonzero(word: u64) -> u64 {
    // To one bit per byte that is not 0; a sum of two bytes below 0x80 does not carry.
    const LOWS: u64 = ONES * 0x7f;
    first((((word & LOWS) + LOWS) | word) & HIGHS)
}

/// The decimal digits that `word` starts with (its lowest byte first), 0 to 8 of them: their
/// value and their number.
#[inline(always)]
pub(crate) const fn digits(word: u64) -> (u64, u64) {
    // A digit has 3 in its high nibble, and still has with 6 added. Carries of the addition
    // come from bytes that are no digits: what they spoil lies above the lowest of those.
    const NIBBLES: u64 = ONES * 0xf0;
    const THREES: u64 = ONES * 0x30;
    let others =
        ((word & NIBBLES) ^ THREES) | ((word.wrapping_add(ONES * 0x06) & NIBBLES) ^ THREES);
    let count = if others == 0 { 8 } else { first(others) };
    if count == 0 {
        return (0, 0);
    }
    // Eight digits with leading zeros, then pairs, then fours, then all, in parallel.
    let eight = (word << (64 - 8 * count)) & (ONES * 0x0f);
    let pairs = eight.wrapping_mul(10).wrapping_add(eight >> 8);
    const LANES: u64 = 0x0000_00ff_0000_00ff;
    let high = (pairs & LANES).wrapping_mul(100 + (1_000_000 << 32));
    let low = ((pairs >> 16) & LANES).wrapping_mul(1 + (10_000 << 32));
    (high.wrapping_add(low) >> 32, count)
}

/// A decimal number in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decimal {
    /// Its value, below 10^10.
    pub value: u64,
    /// Position just behind its last digit.
    pub end: u64,
}

impl Message<'_> {
    /// The unsigned decimal number of 1 to 10 digits at `at`. An eleventh digit is left
    /// unread, for the caller to find where it expects the number's terminator.
    ///
    /// # Errors
    /// [`Stop::NEED_MORE`] while a digit or the byte behind the number is not here; `EPROTO`
    /// when there is no digit at `at`.
    #[inline(always)]
    pub fn decimal(&self, at: u64) -> Result<Decimal, Stop> {
        let (word, have) = self.window(at);
        let (mut value, count) = digits(word);
        let mut end = at + count;
        if count == have && have < 8 {
            return Err(Stop::NEED_MORE);
        }
        if count == 0 {
            return refuse(errno::EPROTO);
        }
        if count == 8 {
            let ninth = self.u8(end)?.wrapping_sub(b'0');
            if ninth < 10 {
                value = value * 10 + u64::from(ninth);
                end += 1;
                let tenth = self.u8(end)?.wrapping_sub(b'0');
                if tenth < 10 {
                    value = value * 10 + u64::from(tenth);
                    end += 1;
                }
            }
        }
        Ok(Decimal { value, end })
    }

    /// Position of the first `byte` at or after `from`, looking at `LIMIT` bytes at most.
    ///
    /// # Errors
    /// [`Stop::NEED_MORE`] when it is not among the bytes that are here and these are fewer
    /// than `LIMIT`; `EMSGSIZE` when it is not among `LIMIT` bytes.
    #[inline(always)]
    pub fn find_byte<const LIMIT: u64>(&self, byte: u8, from: u64) -> Result<u64, Stop> {
        if self.in_kernel() {
            let (copy, mut done) = (self.copied(), self.unknown_zero());
            let found = self.repeat(LIMIT.div_ceil(8) as u32, || {
                let found = copy.find_step::<LIMIT>(byte, from, done);
                done += 8;
                found
            })?;
            return found.map_or_else(|| refuse(errno::EMSGSIZE), Ok);
        }
        // The same, written out: through the function above, which has one more result to tell
        // apart, compilers make a fifth more instructions of it.
        let mut done = 0;
        while done < LIMIT {
            let (word, have) = self.window(from + done);
            let hits = matches(word, byte);
            if hits != 0 {
                let at = first(hits);
                if at < have {
                    // Found, though perhaps beyond the limit, within the last step.
                    return if done + at < LIMIT {
                        Ok(from + done + at)
                    } else {
                        refuse(errno::EMSGSIZE)
                    };
                }
            }
            if have < 8 {
                // With `LIMIT` bytes here and none of them right there is no use in waiting.
                return if done + have >= LIMIT {
                    refuse(errno::EMSGSIZE)
                } else {
                    Err(Stop::NEED_MORE)
                };
            }
            done += 8;
        }
        refuse(errno::EMSGSIZE)
    }

    /// One step of it: looks at the eight bytes that are `done` bytes behind `from`.
    #[inline(always)]
    fn find_step<const LIMIT: u64>(
        &self,
        byte: u8,
        from: u64,
        done: u64,
    ) -> Result<Option<u64>, Stop> {
        let (word, have) = self.window(from + done);
        let hits = matches(word, byte);
        if hits != 0 {
            let at = first(hits);
            if at < have {
                // Found, though perhaps beyond the limit, within the last step.
                return if done + at < LIMIT {
                    Ok(Some(from + done + at))
                } else {
                    refuse(errno::EMSGSIZE)
                };
            }
        }
        if have < 8 {
            // With `LIMIT` bytes here and none of them right there is no use in waiting.
            return if done + have >= LIMIT {
                refuse(errno::EMSGSIZE)
            } else {
                Err(Stop::NEED_MORE)
            };
        }
        Ok(None)
    }

    /// Position just behind the line that starts at `from`: behind its `\r\n`, which must be
    /// among the first `LIMIT` bytes.
    ///
    /// # Errors
    /// [`Stop::NEED_MORE`] while its end is not here; `EPROTO` when its `\n` does not follow a
    /// `\r`; `EMSGSIZE` when it is longer than `LIMIT` bytes.
    #[inline(always)]
    pub fn find_line<const LIMIT: u64>(&self, from: u64) -> Result<u64, Stop> {
        let end = self.find_byte::<LIMIT>(b'\n', from)?;
        if end == from || self.u8(end - 1)? != b'\r' {
            return refuse(errno::EPROTO);
        }
        Ok(end + 1)
    }
}

#[cfg(test)]
mod tests {
    use std::{format, string::String, vec::Vec};

    use proptest::prelude::*;

    use super::*;

    const LIMIT: u64 = 40;

    /// The scan's meaning, spelled out.
    fn find(bytes: &[u8], byte: u8, from: usize) -> Result<u64, Stop> {
        let rest = bytes.get(from..).unwrap_or_default();
        let seen = &rest[..rest.len().min(LIMIT as usize)];
        match seen.iter().position(|&b| b == byte) {
            Some(i) => Ok((from + i) as u64),
            None if seen.len() < LIMIT as usize => Err(Stop::NEED_MORE),
            None => refuse(errno::EMSGSIZE),
        }
    }

    fn number(text: &str) -> Result<Decimal, Stop> {
        Message::new(text.as_bytes()).decimal(0)
    }

    proptest! {
        #[test]
        fn a_scan_finds_the_first_of_its_byte_within_its_limit(
            bytes in proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(10), Just(11), any::<u8>()], 0..70),
            byte in prop_oneof![Just(0u8), Just(10), any::<u8>()],
            from in 0usize..80,
        ) {
            let msg = Message::new(&bytes);
            prop_assert_eq!(msg.find_byte::<LIMIT>(byte, from as u64), find(&bytes, byte, from));
        }

        #[test]
        fn a_number_reads_as_it_prints(value in 0u64..10_000_000_000, zeros in 0usize..3, tail in "[^0-9].{0,9}") {
            let digits = format!("{}{value}", "0".repeat(zeros));
            let text = format!("{digits}{tail}");
            if digits.len() <= 10 {
                let end = digits.len() as u64;
                prop_assert_eq!(number(&text), Ok(Decimal { value, end }));
            }
        }

        #[test]
        fn a_number_whose_end_is_not_here_needs_more(value in 0u64..1_000_000_000) {
            prop_assert_eq!(number(&format!("{value}")), Err(Stop::NEED_MORE));
        }

        #[test]
        fn a_window_is_the_bytes_that_are_here(bytes in proptest::collection::vec(any::<u8>(), 0..20), at in 0usize..24) {
            let here: Vec<u8> = bytes.iter().copied().skip(at).take(8).collect();
            let mut padded = here.clone();
            padded.resize(8, 0);
            let word = u64::from_le_bytes(padded.try_into().expect("eight"));
            prop_assert_eq!(Message::new(&bytes).window(at as u64), (word, here.len() as u64));
        }

        #[test]
        fn loads_at_any_position_are_total(bytes in proptest::collection::vec(any::<u8>(), 0..12), at in any::<u64>()) {
            let msg = Message::new(&bytes);
            let here = |n: u64| at.checked_add(n).is_some_and(|end| end <= bytes.len() as u64);
            prop_assert_eq!(msg.u8(at).is_ok(), here(1));
            prop_assert_eq!(msg.be16(at).is_ok(), here(2));
            prop_assert_eq!(msg.be32(at).is_ok(), here(4));
            prop_assert_eq!(msg.be64(at).is_ok(), here(8));
        }
    }

    #[test]
    fn a_number_needs_a_digit() {
        for text in ["-1 ", "x", " 5 ", ":", "/"] {
            assert_eq!(number(text), refuse(errno::EPROTO), "{text}");
        }
        assert_eq!(number(""), Err(Stop::NEED_MORE));
    }

    #[test]
    fn an_eleventh_digit_is_left_to_the_caller() {
        let text = String::from("12345678901\r\n");
        assert_eq!(number(&text), Ok(Decimal { value: 1_234_567_890, end: 10 }));
    }

    #[test]
    fn a_line_ends_with_both_its_bytes() {
        let line = |text: &str| Message::new(text.as_bytes()).find_line::<LIMIT>(0);
        assert_eq!(line("+OK\r\n:1\r\n"), Ok(5));
        assert_eq!(line("+OK\r"), Err(Stop::NEED_MORE));
        assert_eq!(line("+OK\n"), refuse(errno::EPROTO));
        assert_eq!(line("\n"), refuse(errno::EPROTO));
        assert_eq!(line(&"x".repeat(40)), refuse(errno::EMSGSIZE));
    }

    #[test]
    fn three_byte_numbers_come_in_both_orders() {
        let msg = Message::new(&[1, 2, 3]);
        assert_eq!(msg.be24(0), Ok(0x010203));
        assert_eq!(msg.le24(0), Ok(0x030201));
        assert_eq!(msg.be24(1), Err(Stop::NEED_MORE));
    }
}
