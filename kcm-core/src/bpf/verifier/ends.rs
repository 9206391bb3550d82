//! Whether widened loops end.
//!
//! Widening leaves a graph: kept states, and the ways from each to the next one on the path (or
//! to the one that covers it). A run that does not end goes round in it for ever, so it stays in
//! one strongly connected part at last. A place (register or stack slot) whose value never moves
//! down on any way of that part, is bounded there, and moves up on some of its ways, allows those
//! ways only so often; what is left without them must be shown to end in the same manner.

use super::{
    explore::NONE,
    state::{Kind, Place, State},
    structure::Code,
};

/// A place that kept its value or moved it by a known amount.
pub(super) struct Move {
    pub(super) place: Place,
    pub(super) least: i64,
    pub(super) most: i64,
    /// Only its low 32 bits did.
    pub(super) word: bool,
}

/// From one kept state to the next.
pub(super) struct Way {
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) moves: Vec<Move>,
}

/// A kept state.
pub(super) struct Node<'a> {
    pub(super) at: usize,
    pub(super) state: &'a State,
}

/// Values within these bounds move without wrapping.
const MOST: i64 = 1 << 40;
/// A place in the message counts as moving at most this often: what a header may be long.
const MESSAGE: u64 = 1 << 16;

/// How often ways can be taken in one run, at most; `None` if that is not known.
pub(super) fn most_ways(code: &Code, nodes: &[Option<Node<'_>>], ways: &[Way]) -> Option<u64> {
    let ways: Vec<&Way> = ways.iter().filter(|w| w.from != NONE).collect();
    most(code, nodes, &ways)
}

fn most(code: &Code, nodes: &[Option<Node<'_>>], ways: &[&Way]) -> Option<u64> {
    let part = parts(nodes.len(), ways);
    let mut total = 1u64;
    let mut inner: Vec<Vec<&Way>> = Vec::new();
    let mut index = vec![usize::MAX; nodes.len()];
    for w in ways {
        let p = part[w.from as usize];
        if p != part[w.to as usize] {
            continue;
        }
        if index[p] == usize::MAX {
            index[p] = inner.len();
            inner.push(Vec::new());
        }
        inner[index[p]].push(w);
    }
    for cycle in inner {
        total = total.saturating_add(cycle_bound(code, nodes, &cycle)?);
    }
    Some(total)
}

/// How often the ways of one strongly connected part can be taken.
fn cycle_bound(code: &Code, nodes: &[Option<Node<'_>>], ways: &[&Way]) -> Option<u64> {
    let mut best: Option<(u64, Vec<&Way>)> = None;
    for &Move { place, .. } in &ways.first()?.moves {
        for up in [true, false] {
            let Some((rounds, rest)) = rounds(code, nodes, ways, place, up) else { continue };
            if best.as_ref().is_none_or(|(r, _)| rounds < *r) {
                best = Some((rounds, rest));
            }
        }
    }
    let (rounds, rest) = best?;
    Some(rounds.saturating_mul(most(code, nodes, &rest)?))
}

/// How often `place` can move up (or down), and the ways on which it does not.
fn rounds<'w>(
    code: &Code,
    nodes: &[Option<Node<'_>>],
    ways: &[&'w Way],
    place: Place,
    up: bool,
) -> Option<(u64, Vec<&'w Way>)> {
    let (mut step, mut rest) = (i64::MAX, Vec::new());
    let (mut low, mut high, mut message) = (i64::MAX, i64::MIN, false);
    let mut far = 0;
    let word = ways.iter().any(|w| w.moves.iter().any(|m| m.place == place && m.word));
    for w in ways {
        let &Move { least, most, .. } = w.moves.iter().find(|m| m.place == place)?;
        far = far.max(if up { most } else { -least });
        let by = if up { least } else { -most };
        match by {
            ..0 => return None,
            0 => rest.push(*w),
            _ => step = step.min(by),
        }
        let node = nodes.get(w.from as usize)?.as_ref()?;
        let (lo, hi, in_message) = bounds(code, node, place, word)?;
        (low, high, message) = (low.min(lo), high.max(hi), message || in_message);
    }
    if rest.len() == ways.len() {
        return None;
    }
    // A word that moves less than it would take to come round to its bounds does not wrap.
    if word && (high - low).checked_add(far)? >= 1 << 32 {
        return None;
    }
    let n = (high - low) as u64 / step as u64 + 1;
    Some((if message { n.min(MESSAGE) } else { n }, rest))
}

/// What a kept state says of a place: least, most, and whether it is within the message.
fn bounds(code: &Code, node: &Node<'_>, place: Place, word: bool) -> Option<(i64, i64, bool)> {
    let reg = node.state.at(place, |frame, r| live(code, node, frame, r))?;
    let (lo, hi, message) = match reg.kind {
        Kind::Scalar if word => (i64::from(reg.num.s32min), i64::from(reg.num.s32max), false),
        Kind::Scalar => (reg.num.smin, reg.num.smax, false),
        Kind::Packet => {
            let (lo, hi) = reg.off_bounds();
            (lo, hi, true)
        }
        _ => return None,
    };
    (lo >= -MOST && hi <= MOST).then_some((lo, hi, message))
}

/// Registers that are not live are not compared: what the state says of them may not hold.
fn live(code: &Code, node: &Node<'_>, frame: usize, reg: usize) -> bool {
    super::explore::live_in_frame(code, node.state, frame, node.at) >> reg & 1 == 1
}

/// The strongly connected part of each node (Tarjan's algorithm, without recursion).
fn parts(nodes: usize, ways: &[&Way]) -> Vec<usize> {
    let mut next: Vec<Vec<usize>> = vec![Vec::new(); nodes];
    for w in ways {
        next[w.from as usize].push(w.to as usize);
    }
    let mut part = vec![usize::MAX; nodes];
    let (mut order, mut low) = (vec![usize::MAX; nodes], vec![0usize; nodes]);
    let (mut count, mut open) = (0, Vec::new());
    for root in 0..nodes {
        if order[root] != usize::MAX {
            continue;
        }
        let mut path = vec![(root, 0)];
        while let Some(&mut (v, ref mut i)) = path.last_mut() {
            if *i == 0 {
                order[v] = count;
                low[v] = count;
                count += 1;
                open.push(v);
            }
            if let Some(&w) = next[v].get(*i) {
                *i += 1;
                if order[w] == usize::MAX {
                    path.push((w, 0));
                } else if part[w] == usize::MAX {
                    low[v] = low[v].min(order[w]);
                }
                continue;
            }
            path.pop();
            if let Some(&(parent, _)) = path.last() {
                low[parent] = low[parent].min(low[v]);
            }
            if low[v] == order[v] {
                while let Some(w) = open.pop() {
                    part[w] = v;
                    if w == v {
                        break;
                    }
                }
            }
        }
    }
    part
}
