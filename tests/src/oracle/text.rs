//! Bytes and tables as short, stable text.

use std::collections::BTreeMap;

/// A message for [`Parser::Len4`](super::program::Parser::Len4): `len` bytes in all, filled
/// with `fill`.
///
/// # Panics
/// If `len` has no room for the four bytes of the length.
pub fn msg(fill: u8, len: usize) -> Vec<u8> {
    assert!(len >= 4, "a message holds at least its length");
    let mut m = vec![fill; len];
    m[..4].copy_from_slice(&((len - 4) as u32).to_be_bytes());
    m
}

/// Messages one after another.
pub fn msgs(list: &[(u8, usize)]) -> Vec<u8> {
    list.iter().flat_map(|&(fill, len)| msg(fill, len)).collect()
}

/// Runs of equal bytes: `16xA 4x\x00`, at most five of them.
pub fn runs(bytes: &[u8]) -> String {
    let mut out: Vec<String> = Vec::new();
    let mut rest = bytes;
    while let Some(&b) = rest.first() {
        let n = rest.iter().take_while(|x| **x == b).count();
        if out.len() == 5 {
            out.push("...".into());
            break;
        }
        let c = b.escape_ascii();
        out.push(if n == 1 { c.to_string() } else { format!("{n}x{c}") });
        rest = &rest[n..];
    }
    if out.is_empty() { "nothing".into() } else { out.join(" ") }
}

/// A message with a length in its first four bytes: what it is and what it claims to be.
pub fn show(bytes: &[u8]) -> String {
    match bytes.split_first_chunk::<4>() {
        Some((head, body)) if !head[0].is_ascii_graphic() => {
            let says = u64::from(u32::from_be_bytes(*head)) + 4;
            if says == bytes.len() as u64 {
                format!("{} bytes, {}", bytes.len(), runs(body))
            } else {
                format!("{} bytes that say {says}, {}", bytes.len(), runs(body))
            }
        }
        _ => format!("{} bytes, {}", bytes.len(), runs(bytes)),
    }
}

/// One line of /proc/net/kcm: its name and what the columns say, without those that measure
/// the kernel's buffer memory.
pub fn kcm_lines(text: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(name) = words.next() else { continue };
        if !(name == "mux" || name.starts_with("kcm-") || name.starts_with("psock-")) {
            continue;
        }
        let cols: Vec<&str> = words.collect();
        let Some((numbers, status)) = cols.split_at_checked(8) else { continue };
        // RX-Msgs RX-Bytes TX-Msgs TX-Bytes Recv-Q Rmem Send-Q Smem
        let mut s = format!(
            "rx {}/{} tx {}/{} recv-q {} send-q {}",
            numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[6]
        );
        if !status.is_empty() {
            s.push_str(" [");
            s.push_str(&status.join(" "));
            s.push(']');
        }
        out.push((name.to_owned(), s));
    }
    out
}

/// The counters of /proc/net/kcm_stats by the heading they are printed under, `MUX` or `Psock`
/// in front.
pub fn stats(text: &str) -> BTreeMap<String, i64> {
    let mut out = BTreeMap::new();
    let mut lines = text.lines();
    while let (Some(head), Some(values)) = (lines.next(), lines.next()) {
        let mut names = head.split_whitespace();
        let Some(kind) = names.next() else { break };
        for (name, value) in names.zip(values.split_whitespace()) {
            out.insert(format!("{kind} {name}"), value.parse().unwrap_or(-1));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_shown_with_what_it_claims() {
        assert_eq!(show(&msg(b'A', 20)), "20 bytes, 16xA");
        assert_eq!(show(&msg(b'A', 20)[..10]), "10 bytes that say 20, 6xA");
        assert_eq!(show(b"hello"), "5 bytes, h e 2xl o");
        assert_eq!(show(b""), "0 bytes, nothing");
    }

    #[test]
    fn a_line_of_the_table_keeps_its_status_words() {
        let t = "*** KCM statistics (1 MUX) ****\n   Object RX-Msgs\n\
                 mux 1 20 0 0 - - - - KCMs: 1, Psocks 1\n   kcm-0 0 0 0 0 1 900 0 - RxWait \n";
        let l = kcm_lines(t);
        assert_eq!(l[0].1, "rx 1/20 tx 0/0 recv-q - send-q - [KCMs: 1, Psocks 1]");
        assert_eq!(l[1], ("kcm-0".into(), "rx 0/0 tx 0/0 recv-q 1 send-q 0 [RxWait]".into()));
    }

    #[test]
    fn counters_are_read_under_their_headings() {
        let s = stats("MUX RX-Msgs Attach\n    3 1\nPsock RX-Msgs\n   4\n");
        assert_eq!(s["MUX RX-Msgs"], 3);
        assert_eq!(s["Psock RX-Msgs"], 4);
    }
}
