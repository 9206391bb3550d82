//! Arithmetic and comparisons on sets of numbers hold what they do to each number.

use proptest::prelude::*;

use super::{
    scalar::{Scalar, eval_cond, eval32, eval64},
    tnum::Tnum,
};
use crate::bpf::decode::{Cond, Op};

/// Numbers where ranges go wrong: around powers of two and sign changes, and any.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        any::<u32>().prop_map(u64::from),
        any::<i32>().prop_map(|v| i64::from(v) as u64),
        0u64..300,
        (-300i64..0).prop_map(|v| v as u64),
        (0u32..64, -2i64..=2).prop_map(|(s, d)| (1u64 << s).wrapping_add(d as u64)),
        prop::sample::select(vec![
            0,
            u64::MAX,
            i64::MIN as u64,
            i64::MAX as u64,
            u64::from(u32::MAX),
            i64::from(i32::MIN) as u64,
            1 << 31,
        ]),
    ]
}

fn ordered<T: Ord, const N: usize>(mut v: [T; N]) -> [T; N] {
    v.sort_unstable();
    v
}

fn synced(mut s: Scalar) -> Scalar {
    assert!(s.sync(), "a set with something in it became empty");
    s
}

/// A set of numbers and one in it.
fn set() -> impl Strategy<Value = (Scalar, u64)> {
    let base = prop_oneof![
        value().prop_map(|v| (Scalar::constant(v), v)),
        (value(), prop::sample::select(vec![1u32, 2, 4, 8])).prop_map(|(v, n)| (
            Scalar::of_size(n),
            if n == 8 { v } else { v & ((1 << (8 * n)) - 1) }
        )),
        (value(), value(), value()).prop_map(|(a, b, c)| {
            let [lo, v, hi] = ordered([a, b, c]);
            (Scalar::urange(lo, hi), v)
        }),
        (value(), value(), value()).prop_map(|(a, b, c)| {
            let [lo, v, hi] = ordered([a as i64, b as i64, c as i64]);
            (Scalar::srange(lo, hi), v as u64)
        }),
        (value(), value()).prop_map(|(v, mask)| {
            (synced(Scalar { bits: Tnum { value: v & !mask, mask }, ..Scalar::UNKNOWN }), v)
        }),
        (value(), value(), value()).prop_map(|(v, a, b)| {
            let [u32min, _, u32max] = ordered([v as u32, a as u32, b as u32]);
            (synced(Scalar { u32min, u32max, ..Scalar::UNKNOWN }), v)
        }),
        (value(), value(), value()).prop_map(|(v, a, b)| {
            let [s32min, _, s32max] = ordered([v as i32, a as i32, b as i32]);
            (synced(Scalar { s32min, s32max, ..Scalar::UNKNOWN }), v)
        }),
    ]
    .boxed();
    // Sets that several views describe: narrowed by another set that holds the number too.
    (base.clone(), prop::collection::vec(base, 0..3)).prop_map(|((a, v), others)| {
        let mut s = a;
        for (b, _) in others {
            if b.holds(v) {
                s = s.intersect(&b).expect("both hold the number");
            }
        }
        (s, v)
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop::sample::select(vec![
        Op::Add,
        Op::Sub,
        Op::Mul,
        Op::Div,
        Op::Sdiv,
        Op::Mod,
        Op::Smod,
        Op::Or,
        Op::And,
        Op::Xor,
        Op::Lsh,
        Op::Rsh,
        Op::Arsh,
    ])
}

fn cond() -> impl Strategy<Value = Cond> {
    prop::sample::select(vec![
        Cond::Eq,
        Cond::Ne,
        Cond::Set,
        Cond::NotSet,
        Cond::Gt,
        Cond::Ge,
        Cond::Lt,
        Cond::Le,
        Cond::Sgt,
        Cond::Sge,
        Cond::Slt,
        Cond::Sle,
    ])
}

fn concrete(op: Op, is32: bool, a: u64, b: u64) -> u64 {
    if is32 { u64::from(eval32(op, a as u32, b as u32)) } else { eval64(op, a, b) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn every_operation_holds_the_concrete_result(
        (a, x) in set(), (b, y) in set(), op in op(), is32: bool,
    ) {
        prop_assert!(a.holds(x) && b.holds(y));
        let r = Scalar::alu(op, is32, &a, &b);
        let c = concrete(op, is32, x, y);
        prop_assert!(r.holds(c), "{x:#x} {op:?} {y:#x} = {c:#x} not in {r:?}");
        prop_assert_eq!(r.bits.value & r.bits.mask, 0);
    }

    #[test]
    fn chains_of_operations_hold_the_concrete_result(
        (a, x) in set(),
        chain in prop::collection::vec((op(), any::<bool>(), set()), 1..8),
    ) {
        let (mut s, mut v) = (a, x);
        for (op, is32, (b, y)) in chain {
            let r = Scalar::alu(op, is32, &s, &b);
            let c = concrete(op, is32, v, y);
            prop_assert!(r.holds(c), "{v:#x} {op:?} {y:#x} = {c:#x} not in {r:?} from {s:?}, {b:?}");
            (s, v) = (r, c);
        }
    }

    #[test]
    fn every_branch_keeps_the_numbers_that_take_it(
        (a, x) in set(), (b, y) in set(), cond in cond(), is32: bool,
    ) {
        let truth = eval_cond(cond, is32, x, y);
        if let Some(d) = Scalar::decide(cond, is32, &a, &b) {
            prop_assert_eq!(d, truth, "decided wrongly");
        }
        let way = if truth { cond } else { cond.negate() };
        match Scalar::refine(way, is32, &a, &b) {
            None => prop_assert!(false, "a possible way is called impossible"),
            Some((p, q)) => {
                prop_assert!(p.holds(x), "left {x:#x} lost: {p:?}");
                prop_assert!(q.holds(y), "right {y:#x} lost: {q:?}");
                prop_assert!(a.contains(&p) && b.contains(&q), "a branch forgets");
            }
        }
    }

    #[test]
    fn sums_and_differences_are_as_narrow_as_their_ends(
        a in value(), x in 0u64..1 << 40, b in value(), y in 0u64..1 << 40, is32: bool,
    ) {
        let cut = |v: u64| if is32 { u64::from(v as u32) } else { v };
        let (x, y) = if is32 { (x & 0xffff, y & 0xffff) } else { (x, y) };
        let range = |lo: u64, n: u64| cut(lo).checked_add(n).filter(|hi| cut(*hi) == *hi)
            .map(|hi| Scalar::urange(cut(lo), hi));
        let (Some(p), Some(q)) = (range(a, x), range(b, y)) else { return Ok(()) };
        for (op, lo) in [
            (Op::Add, cut(cut(a).wrapping_add(cut(b)))),
            (Op::Sub, cut(cut(a).wrapping_sub(cut(b).wrapping_add(y)))),
        ] {
            let r = Scalar::alu(op, is32, &p, &q);
            match lo.checked_add(x + y).filter(|hi| cut(*hi) == *hi) {
                Some(hi) => prop_assert_eq!((r.umin, r.umax), (lo, hi), "{:?}", op),
                // They come round: both ends are in it.
                None => prop_assert!(r.holds(lo) && r.holds(cut(lo.wrapping_add(x + y)))),
            }
        }
    }

    #[test]
    fn conversions_hold_the_concrete_result((a, x) in set()) {
        prop_assert!(a.zext32().holds(x & 0xffff_ffff));
        for n in [1u32, 2, 4, 8] {
            let m = if n == 8 { u64::MAX } else { (1 << (8 * n)) - 1 };
            prop_assert!(a.zext(n).holds(x & m));
            prop_assert!(a.byte_order(n, false).holds(x & m));
            if n > 1 {
                let swapped = x.swap_bytes() >> (64 - 8 * n);
                prop_assert!(a.byte_order(n, true).holds(swapped));
            }
        }
        prop_assert!(a.sext(8).holds(i64::from(x as i8) as u64));
        prop_assert!(a.sext(16).holds(i64::from(x as i16) as u64));
        prop_assert!(a.sext(32).holds(i64::from(x as i32) as u64));
    }

    #[test]
    fn unions_hold_both_and_intersections_what_is_common((a, x) in set(), (b, y) in set()) {
        let u = a.union(&b);
        prop_assert!(u.holds(x) && u.holds(y) && u.contains(&a) && u.contains(&b));
        match a.intersect(&b) {
            Some(i) => prop_assert!(!b.holds(x) || i.holds(x)),
            None => prop_assert!(!b.holds(x) && !a.holds(y)),
        }
    }
}
