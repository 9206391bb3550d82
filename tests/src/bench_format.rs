//! The messages that the benchmarks send: framed Thrift, a big-endian length in front of a
//! payload whose first 8 bytes are a little-endian number.

/// Bytes of length in front of a payload.
pub const HEAD: usize = 4;

/// `count` messages back to back, their numbers 0, 1, 2, ...; `size` is the payload's, in bytes.
pub fn messages(size: usize, count: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(count * (HEAD + size));
    for i in 0..count {
        out.extend_from_slice(&(size as u32).to_be_bytes());
        let at = out.len();
        out.resize(at + size, b'x');
        if let Some(n) = out[at..].first_chunk_mut::<8>() {
            *n = (i as u64).to_le_bytes();
        }
    }
    out
}
