//! What is known of a number: its bits and four ranges (64 and 32 bits wide, unsigned and
//! signed), each refined by the others, and what every operation and comparison does to them.

// tidy-allow(length): one type, whose operations refine each other's ranges
use super::tnum::Tnum;
use crate::bpf::decode::{Cond, Op};

/// A set of 64-bit values. Never empty: what would make it empty is reported as `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scalar {
    pub(crate) bits: Tnum,
    pub(crate) umin: u64,
    pub(crate) umax: u64,
    pub(crate) smin: i64,
    pub(crate) smax: i64,
    pub(crate) u32min: u32,
    pub(crate) u32max: u32,
    pub(crate) s32min: i32,
    pub(crate) s32max: i32,
}

impl Scalar {
    /// Any value.
    pub(crate) const UNKNOWN: Scalar = Scalar {
        bits: Tnum::UNKNOWN,
        umin: 0,
        umax: u64::MAX,
        smin: i64::MIN,
        smax: i64::MAX,
        u32min: 0,
        u32max: u32::MAX,
        s32min: i32::MIN,
        s32max: i32::MAX,
    };

    /// One value.
    pub(crate) const fn constant(v: u64) -> Scalar {
        Scalar {
            bits: Tnum::constant(v),
            umin: v,
            umax: v,
            smin: v as i64,
            smax: v as i64,
            u32min: v as u32,
            u32max: v as u32,
            s32min: v as i32,
            s32max: v as i32,
        }
    }

    /// All of `min..=max`, unsigned.
    pub(crate) fn urange(min: u64, max: u64) -> Scalar {
        let mut s = Scalar { umin: min, umax: max, ..Scalar::UNKNOWN };
        if !s.sync() {
            return Scalar::UNKNOWN;
        }
        s
    }

    /// All of `min..=max`, signed.
    pub(crate) fn srange(min: i64, max: i64) -> Scalar {
        let mut s = Scalar { smin: min, smax: max, ..Scalar::UNKNOWN };
        if !s.sync() {
            return Scalar::UNKNOWN;
        }
        s
    }

    /// What a zero-extending load of 1, 2, 4 or 8 bytes can give.
    pub(crate) const fn of_size(bytes: u32) -> Scalar {
        let m = match bytes {
            1 => 0xff,
            2 => 0xffff,
            4 => {
                return Scalar {
                    bits: Tnum { value: 0, mask: 0xffff_ffff },
                    umin: 0,
                    umax: 0xffff_ffff,
                    smin: 0,
                    smax: 0xffff_ffff,
                    ..Scalar::UNKNOWN
                };
            }
            _ => return Scalar::UNKNOWN,
        };
        Scalar {
            bits: Tnum { value: 0, mask: m },
            umin: 0,
            umax: m,
            smin: 0,
            smax: m as i64,
            u32min: 0,
            u32max: m as u32,
            s32min: 0,
            s32max: m as i32,
        }
    }

    /// The value, if there is only one.
    pub(crate) const fn as_const(&self) -> Option<u64> {
        if self.bits.is_const() { Some(self.bits.value) } else { None }
    }

    /// Whether every value of `other` is in `self`.
    pub(crate) const fn contains(&self, other: &Scalar) -> bool {
        self.umin <= other.umin
            && self.umax >= other.umax
            && self.smin <= other.smin
            && self.smax >= other.smax
            && self.u32min <= other.u32min
            && self.u32max >= other.u32max
            && self.s32min <= other.s32min
            && self.s32max >= other.s32max
            && self.bits.contains(other.bits)
    }

    /// Whether `v` may be the value.
    #[cfg(test)]
    pub(crate) fn holds(&self, v: u64) -> bool {
        self.contains(&Scalar::constant(v))
    }

    /// A set that holds what either holds.
    pub(crate) fn union(&self, o: &Scalar) -> Scalar {
        Scalar {
            bits: self.bits.union(o.bits),
            umin: self.umin.min(o.umin),
            umax: self.umax.max(o.umax),
            smin: self.smin.min(o.smin),
            smax: self.smax.max(o.smax),
            u32min: self.u32min.min(o.u32min),
            u32max: self.u32max.max(o.u32max),
            s32min: self.s32min.min(o.s32min),
            s32max: self.s32max.max(o.s32max),
        }
    }

    /// What is in both, or `None` if nothing is.
    pub(crate) fn intersect(&self, o: &Scalar) -> Option<Scalar> {
        let mut s = Scalar {
            bits: self.bits.intersect(o.bits)?,
            umin: self.umin.max(o.umin),
            umax: self.umax.min(o.umax),
            smin: self.smin.max(o.smin),
            smax: self.smax.min(o.smax),
            u32min: self.u32min.max(o.u32min),
            u32max: self.u32max.min(o.u32max),
            s32min: self.s32min.max(o.s32min),
            s32max: self.s32max.min(o.s32max),
        };
        s.sync().then_some(s)
    }

    /// Refines each view of the value by the others. `false`: no value is left.
    #[must_use]
    pub(crate) fn sync(&mut self) -> bool {
        for _ in 0..2 {
            self.bounds_from_bits();
            self.bounds_from_bounds();
            self.bounds_from_bounds();
            if !self.bits_from_bounds() {
                return false;
            }
        }
        self.bounds_from_bits();
        self.umin <= self.umax
            && self.smin <= self.smax
            && self.u32min <= self.u32max
            && self.s32min <= self.s32max
    }

    fn bounds_from_bits(&mut self) {
        let Tnum { value, mask } = self.bits;
        self.umin = self.umin.max(value);
        self.umax = self.umax.min(value | mask);
        self.smin = self.smin.max((value | (mask & (1 << 63))) as i64);
        self.smax = self.smax.min((value | (mask & (u64::MAX >> 1))) as i64);
        let (v, m) = (value as u32, mask as u32);
        self.u32min = self.u32min.max(v);
        self.u32max = self.u32max.min(v | m);
        self.s32min = self.s32min.max((v | (m & (1 << 31))) as i32);
        self.s32max = self.s32max.min((v | (m & (u32::MAX >> 1))) as i32);
    }

    fn bounds_from_bounds(&mut self) {
        // The low word of a range whose high word does not change.
        if self.umin >> 32 == self.umax >> 32 {
            self.u32min = self.u32min.max(self.umin as u32);
            self.u32max = self.u32max.min(self.umax as u32);
        }
        if self.smin >> 32 == self.smax >> 32 {
            self.u32min = self.u32min.max(self.smin as u32);
            self.u32max = self.u32max.min(self.smax as u32);
        }
        // A 64-bit value that is a sign-extended 32-bit one.
        if self.smin >= i64::from(i32::MIN) && self.smax <= i64::from(i32::MAX) {
            self.s32min = self.s32min.max(self.smin as i32);
            self.s32max = self.s32max.min(self.smax as i32);
            self.smin = self.smin.max(i64::from(self.s32min));
            self.smax = self.smax.min(i64::from(self.s32max));
        }
        // Unsigned and signed views agree where the range does not cross a sign change.
        if self.u32min as i32 <= self.u32max as i32 {
            self.s32min = self.s32min.max(self.u32min as i32);
            self.s32max = self.s32max.min(self.u32max as i32);
        }
        if self.s32min as u32 <= self.s32max as u32 {
            self.u32min = self.u32min.max(self.s32min as u32);
            self.u32max = self.u32max.min(self.s32max as u32);
        }
        if self.umin as i64 <= self.umax as i64 {
            self.smin = self.smin.max(self.umin as i64);
            self.smax = self.smax.min(self.umax as i64);
        }
        if self.smin as u64 <= self.smax as u64 {
            self.umin = self.umin.max(self.smin as u64);
            self.umax = self.umax.min(self.smax as u64);
        }
        // A low word's range moves a bound within its high word.
        let hi = |v: u64| v & !0xffff_ffff;
        self.umin = self.umin.max(hi(self.umin) | u64::from(self.u32min));
        self.umax = self.umax.min(hi(self.umax) | u64::from(self.u32max));
        self.smin = self.smin.max((hi(self.smin as u64) | u64::from(self.u32min)) as i64);
        self.smax = self.smax.min((hi(self.smax as u64) | u64::from(self.u32max)) as i64);
    }

    fn bits_from_bounds(&mut self) -> bool {
        if self.umin > self.umax || self.u32min > self.u32max {
            return false;
        }
        let low = Tnum::range(u64::from(self.u32min), u64::from(self.u32max));
        let low = Tnum { value: low.value, mask: low.mask | !0xffff_ffff };
        match self.bits.intersect(Tnum::range(self.umin, self.umax)).and_then(|t| t.intersect(low))
        {
            Some(t) => {
                self.bits = t;
                true
            }
            None => false,
        }
    }

    /// The result of an operation that was computed on views known to be consistent.
    fn synced(mut self) -> Scalar {
        // Operations on non-empty sets give non-empty sets; were that ever wrong, "anything"
        // is the answer that stays sound.
        if self.sync() { self } else { Scalar::UNKNOWN }
    }

    /// The low 32 bits, zero-extended: what every 32-bit operation leaves.
    pub(crate) fn zext32(&self) -> Scalar {
        if self.umax <= 0xffff_ffff {
            return *self;
        }
        Scalar {
            bits: self.bits.low32(),
            umin: u64::from(self.u32min),
            umax: u64::from(self.u32max),
            smin: i64::from(self.u32min),
            smax: i64::from(self.u32max),
            ..*self
        }
        .synced()
    }

    /// The low `bytes` bytes, zero-extended.
    pub(crate) fn zext(&self, bytes: u32) -> Scalar {
        match bytes {
            1 | 2 => {
                let m = (1u64 << (8 * bytes)) - 1;
                if self.umax <= m {
                    return *self;
                }
                Scalar { bits: self.bits.low_bytes(bytes), ..Scalar::of_size(bytes) }.synced()
            }
            4 => self.zext32(),
            _ => *self,
        }
    }

    /// The low `bits` bits (8, 16 or 32), sign-extended to 64.
    pub(crate) fn sext(&self, bits: u32) -> Scalar {
        let (lo, hi) = (-(1i64 << (bits - 1)), (1i64 << (bits - 1)) - 1);
        if self.smin >= lo && self.smax <= hi {
            return *self;
        }
        let t = self.bits.lsh(64 - bits).arsh(64 - bits);
        let (smin, smax) =
            if bits == 32 { (i64::from(self.s32min), i64::from(self.s32max)) } else { (lo, hi) };
        Scalar { bits: t, smin, smax, ..Scalar::UNKNOWN }.synced()
    }

    /// `le`/`be`/`bswap` of 2, 4 or 8 bytes; `swap` says whether bytes change places.
    pub(crate) fn byte_order(&self, bytes: u32, swap: bool) -> Scalar {
        if !swap {
            return self.zext(bytes);
        }
        Scalar { bits: self.bits.swap(bytes), ..Scalar::UNKNOWN }.synced()
    }

    /// A 64- or 32-bit operation; 32-bit results are zero-extended.
    pub(crate) fn alu(op: Op, is32: bool, a: &Scalar, b: &Scalar) -> Scalar {
        if let (Some(x), Some(y)) = (a.as_const(), b.as_const()) {
            return Scalar::constant(if is32 {
                u64::from(eval32(op, x as u32, y as u32))
            } else {
                eval64(op, x, y)
            });
        }
        if !is32 {
            return Scalar::alu64(op, a, b);
        }
        match op {
            Op::Add | Op::Sub | Op::Mul | Op::And | Op::Or | Op::Xor => {
                Scalar::alu64(op, a, b).zext32()
            }
            Op::Div | Op::Mod => Scalar::alu64(op, &a.zext32(), &b.zext32()),
            Op::Sdiv | Op::Smod => Scalar::alu64(op, &a.sext(32), &b.sext(32)).zext32(),
            Op::Lsh | Op::Rsh | Op::Arsh => {
                let by = if b.u32max < 32 {
                    b.zext32()
                } else if b.as_const().is_some() {
                    Scalar::constant(u64::from(b.u32min & 31))
                } else {
                    Scalar::urange(0, 31)
                };
                let x = if op == Op::Arsh { a.sext(32) } else { a.zext32() };
                Scalar::alu64(op, &x, &by).zext32()
            }
        }
    }

    fn alu64(op: Op, a: &Scalar, b: &Scalar) -> Scalar {
        match op {
            Op::Add => a.add(b),
            Op::Sub => a.sub(b),
            Op::Mul => a.mul(b),
            Op::And => a.and(b),
            Op::Or => a.or(b),
            Op::Xor => a.xor(b),
            Op::Lsh | Op::Rsh | Op::Arsh => a.shift(op, b),
            Op::Div => a.div(b),
            Op::Mod => a.rem(b),
            Op::Sdiv => a.sdiv(b),
            Op::Smod => a.smod(b),
        }
    }

    fn add(&self, o: &Scalar) -> Scalar {
        let [u, s, u32s, s32s] = self.bounds();
        let [v, t, v32s, t32s] = o.bounds();
        let sums = |a: Bounds, b: Bounds| (a.0 + b.0, a.1 + b.1);
        Scalar::summed(
            self.bits.add(o.bits),
            [sums(u, v), sums(s, t), sums(u32s, v32s), sums(s32s, t32s)],
        )
    }

    fn sub(&self, o: &Scalar) -> Scalar {
        let [u, s, u32s, s32s] = self.bounds();
        let [v, t, v32s, t32s] = o.bounds();
        let differences = |a: Bounds, b: Bounds| (a.0 - b.1, a.1 - b.0);
        Scalar::summed(
            self.bits.sub(o.bits),
            [
                differences(u, v),
                differences(s, t),
                differences(u32s, v32s),
                differences(s32s, t32s),
            ],
        )
    }

    /// The four pairs of bounds: unsigned, signed, and both of the low word.
    fn bounds(&self) -> [Bounds; 4] {
        [
            (self.umin.into(), self.umax.into()),
            (self.smin.into(), self.smax.into()),
            (self.u32min.into(), self.u32max.into()),
            (self.s32min.into(), self.s32max.into()),
        ]
    }

    /// The sum (or difference) whose bounds, were numbers endless, are these.
    fn summed(bits: Tnum, [u, s, u32s, s32s]: [Bounds; 4]) -> Scalar {
        let mut r = Scalar { bits, ..Scalar::UNKNOWN };
        if let Some((lo, hi)) = wrapped(u, 0, 64) {
            (r.umin, r.umax) = (lo as u64, hi as u64);
        }
        if let Some((lo, hi)) = wrapped(s, i64::MIN.into(), 64) {
            (r.smin, r.smax) = (lo as i64, hi as i64);
        }
        if let Some((lo, hi)) = wrapped(u32s, 0, 32) {
            (r.u32min, r.u32max) = (lo as u32, hi as u32);
        }
        if let Some((lo, hi)) = wrapped(s32s, i32::MIN.into(), 32) {
            (r.s32min, r.s32max) = (lo as i32, hi as i32);
        }
        r.synced()
    }

    fn mul(&self, o: &Scalar) -> Scalar {
        let mut r = Scalar { bits: self.bits.mul(o.bits), ..Scalar::UNKNOWN };
        if let Some(hi) = self.umax.checked_mul(o.umax) {
            (r.umin, r.umax) = (self.umin * o.umin, hi);
        }
        if let Some(hi) = self.u32max.checked_mul(o.u32max) {
            (r.u32min, r.u32max) = (self.u32min * o.u32min, hi);
        }
        let corners = |a: (i64, i64), b: (i64, i64)| {
            let p = [
                i128::from(a.0) * i128::from(b.0),
                i128::from(a.0) * i128::from(b.1),
                i128::from(a.1) * i128::from(b.0),
                i128::from(a.1) * i128::from(b.1),
            ];
            (p.into_iter().fold(i128::MAX, i128::min), p.into_iter().fold(i128::MIN, i128::max))
        };
        let (lo, hi) = corners((self.smin, self.smax), (o.smin, o.smax));
        if let (Ok(lo), Ok(hi)) = (i64::try_from(lo), i64::try_from(hi)) {
            (r.smin, r.smax) = (lo, hi);
        }
        let (lo, hi) = corners(
            (i64::from(self.s32min), i64::from(self.s32max)),
            (i64::from(o.s32min), i64::from(o.s32max)),
        );
        if let (Ok(lo), Ok(hi)) = (i32::try_from(lo), i32::try_from(hi)) {
            (r.s32min, r.s32max) = (lo, hi);
        }
        r.synced()
    }

    fn and(&self, o: &Scalar) -> Scalar {
        Scalar {
            bits: self.bits.and(o.bits),
            umax: self.umax.min(o.umax),
            u32max: self.u32max.min(o.u32max),
            ..Scalar::UNKNOWN
        }
        .synced()
    }

    fn or(&self, o: &Scalar) -> Scalar {
        Scalar {
            bits: self.bits.or(o.bits),
            umin: self.umin.max(o.umin),
            u32min: self.u32min.max(o.u32min),
            ..Scalar::UNKNOWN
        }
        .synced()
    }

    fn xor(&self, o: &Scalar) -> Scalar {
        Scalar { bits: self.bits.xor(o.bits), ..Scalar::UNKNOWN }.synced()
    }

    fn shift(&self, op: Op, by: &Scalar) -> Scalar {
        // Amounts beyond the width count modulo the width (RFC 9669 section 4.1).
        let (lo, hi) = match by.as_const() {
            Some(c) => ((c & 63) as u32, (c & 63) as u32),
            None if by.umax < 64 => (by.umin as u32, by.umax as u32),
            None => (0, 63),
        };
        let mut r = Scalar::UNKNOWN;
        match op {
            Op::Lsh => {
                if lo == hi {
                    r.bits = self.bits.lsh(lo);
                }
                if self.umax <= u64::MAX >> hi {
                    (r.umin, r.umax) = (self.umin << lo, self.umax << hi);
                }
                if self.u32max <= u32::MAX.checked_shr(hi).unwrap_or(0) {
                    (r.u32min, r.u32max) = (
                        self.u32min.checked_shl(lo).unwrap_or(0),
                        self.u32max.checked_shl(hi).unwrap_or(0),
                    );
                }
            }
            Op::Rsh => {
                if lo == hi {
                    r.bits = self.bits.rsh(lo);
                }
                (r.umin, r.umax) = (self.umin >> hi, self.umax >> lo);
            }
            _ => {
                if lo == hi {
                    r.bits = self.bits.arsh(lo);
                }
                r.smin = (self.smin >> lo).min(self.smin >> hi);
                r.smax = (self.smax >> lo).max(self.smax >> hi);
            }
        }
        r.synced()
    }

    fn div(&self, o: &Scalar) -> Scalar {
        // x / 0 = 0.
        let min = if o.umin == 0 { 0 } else { self.umin / o.umax };
        Scalar::urange(min, self.umax / o.umin.max(1))
    }

    fn rem(&self, o: &Scalar) -> Scalar {
        // x % 0 = x.
        if o.umin == 0 {
            return Scalar::urange(0, self.umax);
        }
        if self.umax < o.umin {
            return *self;
        }
        Scalar::urange(0, self.umax.min(o.umax - 1))
    }

    fn sdiv(&self, o: &Scalar) -> Scalar {
        match o.as_const().map(|c| c as i64) {
            Some(c) if c != 0 && c != -1 => {
                let (x, y) = (self.smin / c, self.smax / c);
                Scalar::srange(x.min(y), x.max(y))
            }
            Some(0) => Scalar::constant(0),
            _ => Scalar::UNKNOWN,
        }
    }

    fn smod(&self, o: &Scalar) -> Scalar {
        match o.as_const().map(|c| c as i64) {
            Some(0) => *self,
            Some(c) => {
                // The sign of the remainder is the dividend's (truncated division).
                let m = (c.unsigned_abs() - 1).min(i64::MAX as u64) as i64;
                let lo = if self.smin >= 0 { 0 } else { (-m).max(self.smin) };
                let hi = if self.smax <= 0 { 0 } else { m.min(self.smax) };
                Scalar::srange(lo, hi)
            }
            None => Scalar::UNKNOWN,
        }
    }

    /// Whether the condition always (`Some(true)`) or never (`Some(false)`) holds.
    pub(crate) fn decide(cond: Cond, is32: bool, a: &Scalar, b: &Scalar) -> Option<bool> {
        let (bits_a, bits_b) =
            if is32 { (a.bits.low32(), b.bits.low32()) } else { (a.bits, b.bits) };
        let u = |s: &Scalar| {
            if is32 { (u64::from(s.u32min), u64::from(s.u32max)) } else { (s.umin, s.umax) }
        };
        let s = |s: &Scalar| {
            if is32 { (i64::from(s.s32min), i64::from(s.s32max)) } else { (s.smin, s.smax) }
        };
        let ((ua, ub), (sa, sb)) = ((u(a), u(b)), (s(a), s(b)));
        match cond {
            Cond::Eq => {
                if bits_a.is_const() && bits_b.is_const() {
                    return Some(bits_a.value == bits_b.value);
                }
                let apart = bits_a.intersect(bits_b).is_none()
                    || ua.0 > ub.1
                    || ua.1 < ub.0
                    || sa.0 > sb.1
                    || sa.1 < sb.0;
                apart.then_some(false)
            }
            Cond::Set => {
                if bits_a.value & bits_b.value != 0 {
                    return Some(true);
                }
                let and = bits_a.and(bits_b);
                (and.value | and.mask == 0).then_some(false)
            }
            Cond::Gt => order(ua.0 > ub.1, ua.1 <= ub.0),
            Cond::Ge => order(ua.0 >= ub.1, ua.1 < ub.0),
            Cond::Sgt => order(sa.0 > sb.1, sa.1 <= sb.0),
            Cond::Sge => order(sa.0 >= sb.1, sa.1 < sb.0),
            Cond::Ne | Cond::NotSet | Cond::Lt | Cond::Le | Cond::Slt | Cond::Sle => {
                Scalar::decide(cond.negate(), is32, a, b).map(|t| !t)
            }
        }
    }

    /// What is left of both sides where the condition holds; `None`: it never does.
    pub(crate) fn refine(
        cond: Cond,
        is32: bool,
        a: &Scalar,
        b: &Scalar,
    ) -> Option<(Scalar, Scalar)> {
        let (mut x, mut y) = (*a, *b);
        match cond {
            Cond::Lt => return swap(Scalar::refine(Cond::Gt, is32, b, a)),
            Cond::Le => return swap(Scalar::refine(Cond::Ge, is32, b, a)),
            Cond::Slt => return swap(Scalar::refine(Cond::Sgt, is32, b, a)),
            Cond::Sle => return swap(Scalar::refine(Cond::Sge, is32, b, a)),
            Cond::Eq if is32 => {
                x.u32min = a.u32min.max(b.u32min);
                x.u32max = a.u32max.min(b.u32max);
                x.s32min = a.s32min.max(b.s32min);
                x.s32max = a.s32max.min(b.s32max);
                (y.u32min, y.u32max, y.s32min, y.s32max) = (x.u32min, x.u32max, x.s32min, x.s32max);
                let low = a.bits.low32().intersect(b.bits.low32())?;
                x.bits = with_low(a.bits, low);
                y.bits = with_low(b.bits, low);
            }
            Cond::Eq => {
                let s = a.intersect(b)?;
                return Some((s, s));
            }
            Cond::Ne => {
                if let Some(c) = low_const(b, is32) {
                    trim(&mut x, c, is32)?;
                }
                if let Some(c) = low_const(a, is32) {
                    trim(&mut y, c, is32)?;
                }
            }
            Cond::Set => {
                if let Some(c) = low_const(b, is32)
                    && c.is_power_of_two()
                {
                    x.bits = x.bits.intersect(Tnum { value: c, mask: !c })?;
                }
            }
            Cond::NotSet => {
                if let Some(c) = low_const(b, is32) {
                    x.bits = x.bits.intersect(Tnum { value: 0, mask: !c })?;
                }
            }
            Cond::Gt if is32 => {
                x.u32min = a.u32min.max(b.u32min.checked_add(1)?);
                y.u32max = b.u32max.min(a.u32max.checked_sub(1)?);
                #[cfg(test)]
                if super::weak::has(super::weak::Weakness::LowWord) {
                    y.umax = y.umax.min(y.u32max.into());
                }
            }
            Cond::Gt => {
                x.umin = a.umin.max(b.umin.checked_add(1)?);
                y.umax = b.umax.min(a.umax.checked_sub(1)?);
            }
            Cond::Ge if is32 => {
                x.u32min = a.u32min.max(b.u32min);
                y.u32max = b.u32max.min(a.u32max);
            }
            Cond::Ge => {
                x.umin = a.umin.max(b.umin);
                y.umax = b.umax.min(a.umax);
            }
            Cond::Sgt if is32 => {
                x.s32min = a.s32min.max(b.s32min.checked_add(1)?);
                y.s32max = b.s32max.min(a.s32max.checked_sub(1)?);
            }
            Cond::Sgt => {
                x.smin = a.smin.max(b.smin.checked_add(1)?);
                y.smax = b.smax.min(a.smax.checked_sub(1)?);
            }
            Cond::Sge if is32 => {
                x.s32min = a.s32min.max(b.s32min);
                y.s32max = b.s32max.min(a.s32max);
            }
            Cond::Sge => {
                x.smin = a.smin.max(b.smin);
                y.smax = b.smax.min(a.smax);
            }
        }
        (x.sync() && y.sync()).then_some((x, y))
    }
}

/// Bounds of a number of any of the four kinds, and of a sum of two.
type Bounds = (i128, i128);

/// Bounds of what is left in a number of `width` bits, the least of which is `least`: they hold
/// where both wrap around equally often.
fn wrapped((lo, hi): Bounds, least: i128, width: u32) -> Option<Bounds> {
    let turns = |v: i128| (v - least) >> width;
    let back = turns(lo) << width;
    (turns(lo) == turns(hi)).then_some((lo - back, hi - back))
}

fn swap(p: Option<(Scalar, Scalar)>) -> Option<(Scalar, Scalar)> {
    p.map(|(a, b)| (b, a))
}

fn order(always: bool, never: bool) -> Option<bool> {
    if always {
        Some(true)
    } else if never {
        Some(false)
    } else {
        None
    }
}

fn with_low(whole: Tnum, low: Tnum) -> Tnum {
    Tnum {
        value: (whole.value & !0xffff_ffff) | low.value,
        mask: (whole.mask & !0xffff_ffff) | low.mask,
    }
}

fn low_const(s: &Scalar, is32: bool) -> Option<u64> {
    if !is32 {
        return s.as_const();
    }
    let low = s.bits.low32();
    low.is_const().then_some(low.value)
}

/// Takes `c` off the ends of the ranges; `None` if it was the only value.
fn trim(x: &mut Scalar, c: u64, is32: bool) -> Option<()> {
    if is32 {
        let c = c as u32;
        if x.u32min == x.u32max && x.u32min == c {
            return None;
        }
        if x.u32min == c {
            x.u32min += 1;
        } else if x.u32max == c {
            x.u32max -= 1;
        }
        if x.s32min == x.s32max && x.s32min == c as i32 {
            return None;
        }
        if x.s32min == c as i32 {
            x.s32min += 1;
        } else if x.s32max == c as i32 {
            x.s32max -= 1;
        }
    } else {
        if x.umin == x.umax && x.umin == c {
            return None;
        }
        if x.umin == c {
            x.umin += 1;
        } else if x.umax == c {
            x.umax -= 1;
        }
        if x.smin == x.smax && x.smin == c as i64 {
            return None;
        }
        if x.smin == c as i64 {
            x.smin += 1;
        } else if x.smax == c as i64 {
            x.smax -= 1;
        }
    }
    Some(())
}

/// The operation on concrete 64-bit values (RFC 9669 section 4.1).
pub(crate) fn eval64(op: Op, a: u64, b: u64) -> u64 {
    let (sa, sb) = (a as i64, b as i64);
    match op {
        Op::Add => a.wrapping_add(b),
        Op::Sub => a.wrapping_sub(b),
        Op::Mul => a.wrapping_mul(b),
        Op::Div => a.checked_div(b).unwrap_or(0),
        Op::Sdiv => {
            if sb == 0 {
                0
            } else {
                sa.wrapping_div(sb) as u64
            }
        }
        Op::Mod => a.checked_rem(b).unwrap_or(a),
        Op::Smod => {
            if sb == 0 {
                a
            } else {
                sa.wrapping_rem(sb) as u64
            }
        }
        Op::Or => a | b,
        Op::And => a & b,
        Op::Xor => a ^ b,
        Op::Lsh => a.wrapping_shl(b as u32),
        Op::Rsh => a.wrapping_shr(b as u32),
        Op::Arsh => sa.wrapping_shr(b as u32) as u64,
    }
}

/// The operation on concrete 32-bit values (RFC 9669 section 4.1).
pub(crate) fn eval32(op: Op, a: u32, b: u32) -> u32 {
    let (sa, sb) = (a as i32, b as i32);
    match op {
        Op::Add => a.wrapping_add(b),
        Op::Sub => a.wrapping_sub(b),
        Op::Mul => a.wrapping_mul(b),
        Op::Div => a.checked_div(b).unwrap_or(0),
        Op::Sdiv => {
            if sb == 0 {
                0
            } else {
                sa.wrapping_div(sb) as u32
            }
        }
        Op::Mod => a.checked_rem(b).unwrap_or(a),
        Op::Smod => {
            if sb == 0 {
                a
            } else {
                sa.wrapping_rem(sb) as u32
            }
        }
        Op::Or => a | b,
        Op::And => a & b,
        Op::Xor => a ^ b,
        Op::Lsh => a.wrapping_shl(b),
        Op::Rsh => a.wrapping_shr(b),
        Op::Arsh => sa.wrapping_shr(b) as u32,
    }
}

/// The condition on concrete values.
#[cfg(test)]
pub(crate) fn eval_cond(cond: Cond, is32: bool, a: u64, b: u64) -> bool {
    let (ua, ub) = if is32 { (a & 0xffff_ffff, b & 0xffff_ffff) } else { (a, b) };
    let (sa, sb) =
        if is32 { (i64::from(a as i32), i64::from(b as i32)) } else { (a as i64, b as i64) };
    match cond {
        Cond::Eq => ua == ub,
        Cond::Ne => ua != ub,
        Cond::Set => ua & ub != 0,
        Cond::NotSet => ua & ub == 0,
        Cond::Gt => ua > ub,
        Cond::Ge => ua >= ub,
        Cond::Lt => ua < ub,
        Cond::Le => ua <= ub,
        Cond::Sgt => sa > sb,
        Cond::Sge => sa >= sb,
        Cond::Slt => sa < sb,
        Cond::Sle => sa <= sb,
    }
}
