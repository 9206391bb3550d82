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

impl Message<'_> {
    /// Position of the first `byte` at or after `from`, looking at `LIMIT` bytes at most.
    ///
    /// # Errors
    /// [`Stop::NeedMore`] when it is not among the bytes that are here and these are fewer
    /// than `LIMIT`; `EMSGSIZE` when it is not among `LIMIT` bytes.
    #[inline(always)]
    pub fn find_byte<const LIMIT: u64>(&self, byte: u8, from: u64) -> Result<u64, Stop> {
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
                    Err(Stop::NeedMore)
                };
            }
            done += 8;
        }
        refuse(errno::EMSGSIZE)
    }

    /// Position just behind the line that starts at `from`: behind its `\r\n`, which must be
    /// among the first `LIMIT` bytes.
    ///
    /// # Errors
    /// [`Stop::NeedMore`] while its end is not here; `EPROTO` when its `\n` does not follow a
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
