//! `bpf_trace_printk`: a line to the application's log, target `bpf_trace_printk`, level
//! info.
//!
//! Conversions are `%d %i %u %x %X %o %c %p %%` with the length modifiers `hh h l ll z`,
//! the flags `0 - #` and a width. `%s` and the kernel's `%p` extensions would follow a
//! pointer that nobody verified: they are `-EINVAL` here. The line is cut at 512 bytes.

use std::fmt::{self, Write};

use super::err;

/// Bytes of the longest format string.
pub(crate) const MAX_FORMAT: usize = 512;

struct Line {
    bytes: [u8; 512],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for b in s.bytes() {
            if let Some(slot) = self.bytes.get_mut(self.len) {
                *slot = b;
                self.len += 1;
            }
        }
        Ok(())
    }
}

/// Formats and logs; returns the length of the line, or `-EINVAL`.
pub(crate) fn print(format: &[u8], args: [u64; 3]) -> u64 {
    let mut line = Line { bytes: [0; 512], len: 0 };
    // The last byte is the NUL; nothing after an earlier one counts.
    let Some((0, text)) = format.split_last() else { return err(libc::EINVAL) };
    let text = text.split(|b| *b == 0).next().unwrap_or_default();
    if render(text, &args, &mut line).is_none() {
        return err(libc::EINVAL);
    }
    let shown = line.bytes.get(..line.len).unwrap_or_default();
    if let Ok(s) = std::str::from_utf8(shown) {
        log::info!(target: "bpf_trace_printk", "{}", s.trim_end_matches('\n'));
    }
    line.len as u64
}

fn render(text: &[u8], args: &[u64], out: &mut Line) -> Option<()> {
    let mut args = args.iter();
    let mut rest = text;
    while let Some((&b, tail)) = rest.split_first() {
        rest = tail;
        if b != b'%' {
            if !b.is_ascii() {
                return None;
            }
            out.write_char(b as char).ok()?;
            continue;
        }
        let (mut zero, mut left, mut alt, mut width) = (false, false, false, 0usize);
        let mut take = || -> Option<u8> {
            let (&b, tail) = rest.split_first()?;
            rest = tail;
            Some(b)
        };
        let mut c = take()?;
        while let b'0' | b'-' | b'#' = c {
            (zero, left, alt) = (zero | (c == b'0'), left | (c == b'-'), alt | (c == b'#'));
            c = take()?;
        }
        while c.is_ascii_digit() {
            width = width.saturating_mul(10).saturating_add((c - b'0') as usize).min(512);
            c = take()?;
        }
        let mut bits = 32;
        loop {
            match c {
                b'h' if bits == 32 => bits = 16,
                b'h' => bits = 8,
                b'l' | b'z' => bits = 64,
                _ => break,
            }
            c = take()?;
        }
        if c == b'%' {
            out.write_char('%').ok()?;
            continue;
        }
        let v = *args.next()?;
        let unsigned = v & (u64::MAX >> (64 - bits));
        let signed = (v << (64 - bits)) as i64 >> (64 - bits);
        let mut n = Line { bytes: [0; 512], len: 0 };
        match c {
            b'd' | b'i' => write!(n, "{signed}").ok()?,
            b'u' => write!(n, "{unsigned}").ok()?,
            b'x' if alt => write!(n, "{unsigned:#x}").ok()?,
            b'x' => write!(n, "{unsigned:x}").ok()?,
            b'X' if alt => write!(n, "0X{unsigned:X}").ok()?,
            b'X' => write!(n, "{unsigned:X}").ok()?,
            b'o' => write!(n, "{unsigned:o}").ok()?,
            b'p' => write!(n, "{v:016x}").ok()?,
            b'c' => n.write_char(char::from((v as u8) & 0x7f)).ok()?,
            _ => return None,
        }
        let digits = std::str::from_utf8(n.bytes.get(..n.len)?).ok()?;
        let pad = width.saturating_sub(n.len);
        let (sign, digits) = match digits.strip_prefix('-') {
            Some(d) if zero && !left => ("-", d),
            _ => ("", digits),
        };
        out.write_str(sign).ok()?;
        if !left {
            for _ in 0..pad {
                out.write_char(if zero { '0' } else { ' ' }).ok()?;
            }
        }
        out.write_str(digits).ok()?;
        if left {
            for _ in 0..pad {
                out.write_char(' ').ok()?;
            }
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: &str, args: [u64; 3]) -> Option<String> {
        let mut l = Line { bytes: [0; 512], len: 0 };
        render(format.as_bytes(), &args, &mut l)?;
        Some(String::from_utf8(l.bytes[..l.len].to_vec()).unwrap())
    }

    #[test]
    fn conversions_print_as_the_kernels_do() {
        let l = |f, a| line(f, a).unwrap();
        assert_eq!(l("len %d of %u%%", [-5i64 as u64, 7, 0]), "len -5 of 7%");
        assert_eq!(l("%x %#x %X", [255, 255, 255]), "ff 0xff FF");
        assert_eq!(
            l("%llx|%lu|%hhd", [u64::MAX, 1 << 40, 0x1ff]),
            "ffffffffffffffff|1099511627776|-1"
        );
        assert_eq!(l("[%5d][%-5d][%05d]", [1, 2, -3i64 as u64]), "[    1][2    ][-0003]");
        assert_eq!(l("%c%c", [65, 66, 0]), "AB");
        assert_eq!(l("%d", [1 << 32 | 3, 0, 0]), "3", "32 bits without a modifier");
    }

    #[test]
    fn what_would_follow_a_pointer_or_lacks_an_argument_is_refused() {
        for bad in ["%s", "%pI4 %s", "%d %d %d %d", "%", "%5", "%q", "\u{e9}"] {
            assert_eq!(line(bad, [0; 3]), None, "{bad}");
        }
        assert_eq!(print(b"no nul", [0; 3]), err(libc::EINVAL));
        assert_eq!(print(b"", [0; 3]), err(libc::EINVAL));
        assert_eq!(print(b"four\0", [0; 3]), 4);
    }

    #[test]
    fn long_lines_are_cut_not_overrun() {
        let long = "%512d".repeat(3);
        assert_eq!(line(&long, [1, 2, 3]).unwrap().len(), 512);
    }
}
