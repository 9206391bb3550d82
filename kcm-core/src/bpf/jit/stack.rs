//! Which bytes of a function's stack can live in registers.
//!
//! Compilers put values on the BPF stack mostly to pass their address to a helper that is
//! compiled inline here (`bpf_skb_load_bytes`), or to spill. Where every access to a byte is
//! at a fixed offset and no address of it leaves the function, the bytes become SSA
//! variables: *pieces*, cut at the boundaries of all accesses.

use crate::bpf::builtins::id;
use crate::bpf::insn::Insn;
use crate::bpf::verifier::{CallFact, Region, Verified};

/// A part of the stack that is a variable: `size` is 1, 2, 4 or 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Offset from r10.
    pub(super) at: i32,
    pub(super) size: i32,
}

/// How a function's stack is kept.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    /// By ascending offset; they do not overlap.
    pub(super) pieces: Vec<Piece>,
    /// Whether some bytes must be in memory.
    pub(super) memory: bool,
}

/// The most pieces worth making.
const MOST: usize = 64;

impl Layout {
    /// The pieces that make up exactly the bytes `[at, at + size)`, if they are variables.
    pub(super) fn pieces_of(&self, at: i32, size: i32) -> Option<std::ops::Range<usize>> {
        let first = self.pieces.partition_point(|p| p.at < at);
        let mut next = at;
        let mut i = first;
        while next < at + size {
            let p = self.pieces.get(i).filter(|p| p.at == next)?;
            next += p.size;
            i += 1;
        }
        (next == at + size && size > 0).then_some(first..i)
    }
}

/// `bpf_skb_load_bytes` that is compiled inline: where to, and how many bytes.
pub(super) fn inline_load_bytes(fact: &CallFact) -> Option<(i32, i32)> {
    if fact.helper != id::SKB_LOAD_BYTES {
        return None;
    }
    let to = fact.stack[2]?;
    // Longer ones are not slower by a call.
    let size @ 1..=64 = fact.consts[3]? else { return None };
    Some((i32::from(to), size as i32))
}

/// The memory that a call's arguments point to: register (1-5) and bytes, where known.
fn arguments(verified: &Verified, fact: &CallFact) -> Vec<(usize, Option<i32>)> {
    let map = fact.map.and_then(|m| verified.program().maps.get(m as usize));
    let key = map.map(|m| m.key_size as i32);
    let value = map.map(|m| m.value_size as i32);
    let length = |r: usize| fact.consts[r - 1].and_then(|n| i32::try_from(n).ok());
    match fact.helper {
        id::MAP_LOOKUP_ELEM | id::MAP_DELETE_ELEM => vec![(2, key)],
        id::MAP_UPDATE_ELEM => vec![(2, key), (3, value)],
        id::SKB_LOAD_BYTES | id::SKB_LOAD_BYTES_RELATIVE => vec![(3, length(4))],
        id::TRACE_PRINTK | id::STRNCMP => vec![(1, length(2))],
        id::PERF_EVENT_OUTPUT => vec![(4, length(5))],
        id::RINGBUF_OUTPUT => vec![(2, length(3))],
        _ => vec![],
    }
}

/// Looks at the function whose slots are `slots`. `inline_lookup` tells which look-ups read
/// their key as a value (4 bytes).
pub(super) fn layout(
    verified: &Verified,
    slots: std::ops::Range<usize>,
    inline_lookup: impl Fn(&CallFact) -> Option<i32>,
) -> Layout {
    let facts = verified.facts();
    let memory = Layout { pieces: Vec::new(), memory: true };
    let mut access: Vec<(i32, i32)> = Vec::new();
    let mut escaped: Vec<(i32, i32)> = Vec::new();
    for slot in slots {
        let Some(&Insn { code, src, .. }) = verified.program().insns.get(slot) else { continue };
        if facts.reached.get(slot) != Some(&true) {
            continue;
        }
        // Other functions of the program may be given addresses.
        if code == 0x85 && src == 1 {
            return memory;
        }
        if let Some(Some(fact)) = facts.calls.get(slot) {
            if fact.callback.is_some() {
                return memory;
            }
            if let Some(one) = inline_load_bytes(fact) {
                access.push(one);
                continue;
            }
            if let Some(at) = inline_lookup(fact) {
                access.push((at, 4));
                continue;
            }
            for (r, size) in arguments(verified, fact) {
                match fact.stack[r - 1] {
                    // Somewhere in the stack, perhaps.
                    None => return memory,
                    Some(at) => {
                        let at = i32::from(at);
                        escaped.push((at, size.unwrap_or(-at)));
                    }
                }
            }
        }
        let size = [4, 2, 1, 8][usize::from(code >> 3 & 3)];
        match facts.region.get(slot).copied().flatten() {
            None | Some(Region::Ctx { .. } | Region::Packet) => {}
            Some(Region::MapValue { .. } | Region::Record) => {}
            Some(Region::Mixed | Region::Stack { offset: None }) => return memory,
            Some(Region::Stack { offset: Some(at) }) => {
                let atomic = code & 7 == 3 && code & 0xe0 == 0xc0;
                let list = if atomic { &mut escaped } else { &mut access };
                list.push((i32::from(at), size));
            }
        }
    }
    promote(access, escaped)
}

/// Cuts what is only accessed and never escapes into pieces.
fn promote(mut access: Vec<(i32, i32)>, mut escaped: Vec<(i32, i32)>) -> Layout {
    let overlap = |a: &(i32, i32), b: &(i32, i32)| a.0 < b.0 + b.1 && b.0 < a.0 + a.1;
    // An access that touches memory is in memory as a whole.
    loop {
        let (out, keep): (Vec<_>, Vec<_>) =
            access.into_iter().partition(|a| escaped.iter().any(|e| overlap(a, e)));
        access = keep;
        if out.is_empty() {
            break;
        }
        escaped.extend(out);
    }
    let mut cuts: Vec<i32> = access.iter().flat_map(|a| [a.0, a.0 + a.1]).collect();
    cuts.sort_unstable();
    cuts.dedup();
    let mut pieces = Vec::new();
    for pair in cuts.windows(2) {
        let (mut at, end) = (pair[0], pair[1]);
        if !access.iter().any(|a| a.0 <= at && end <= a.0 + a.1) {
            continue;
        }
        while at < end {
            let mut size = 8;
            while size > end - at {
                size /= 2;
            }
            pieces.push(Piece { at, size });
            at += size;
        }
    }
    if pieces.len() > MOST {
        return Layout { pieces: Vec::new(), memory: true };
    }
    Layout { pieces, memory: !escaped.is_empty() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_cut_at_the_boundaries_of_all_accesses() {
        let l = promote(vec![(-8, 8), (-8, 4), (-16, 7)], vec![]);
        let p = |at, size| Piece { at, size };
        assert_eq!(l.pieces, [p(-16, 4), p(-12, 2), p(-10, 1), p(-8, 4), p(-4, 4)]);
        assert!(!l.memory);
        assert_eq!(l.pieces_of(-8, 8), Some(3..5));
        assert_eq!(l.pieces_of(-8, 4), Some(3..4));
        assert_eq!(l.pieces_of(-16, 7), Some(0..3));
        assert_eq!(l.pieces_of(-16, 8), None);
        assert_eq!(l.pieces_of(-9, 1), None);
    }

    #[test]
    fn what_touches_an_escaped_byte_is_in_memory_as_a_whole() {
        let l = promote(vec![(-8, 8), (-12, 8), (-24, 8)], vec![(-4, 1)]);
        assert_eq!(l.pieces, [Piece { at: -24, size: 8 }]);
        assert!(l.memory, "-8..0 by its last bytes, -12..-4 by the former");
    }
}
