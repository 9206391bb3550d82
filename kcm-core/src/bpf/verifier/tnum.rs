//! Known bits: a value of which some bits are known and the others are not ("tristate number").

/// A set of 64-bit values: bits where `mask` is 0 equal `value`, the others are unknown.
/// Invariant: `value & mask == 0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tnum {
    pub(crate) value: u64,
    pub(crate) mask: u64,
}

impl Tnum {
    /// Nothing known.
    pub(crate) const UNKNOWN: Tnum = Tnum { value: 0, mask: u64::MAX };

    /// One value.
    pub(crate) const fn constant(value: u64) -> Tnum {
        Tnum { value, mask: 0 }
    }

    /// The smallest set that holds all of `min..=max`.
    pub(crate) const fn range(min: u64, max: u64) -> Tnum {
        let bits = 64 - (min ^ max).leading_zeros();
        if bits > 63 {
            return Tnum::UNKNOWN;
        }
        let delta = (1u64 << bits) - 1;
        Tnum { value: min & !delta, mask: delta }
    }

    /// Whether only one value is left.
    pub(crate) const fn is_const(self) -> bool {
        self.mask == 0
    }

    /// Whether every value of `other` is in `self`.
    pub(crate) const fn contains(self, other: Tnum) -> bool {
        other.mask & !self.mask == 0 && (other.value ^ self.value) & !self.mask == 0
    }

    /// What is in both, or `None` if nothing is.
    pub(crate) const fn intersect(self, other: Tnum) -> Option<Tnum> {
        if (self.value ^ other.value) & !self.mask & !other.mask != 0 {
            return None;
        }
        let mask = self.mask & other.mask;
        Some(Tnum { value: (self.value | other.value) & !mask, mask })
    }

    /// A set that holds what either holds.
    pub(crate) const fn union(self, other: Tnum) -> Tnum {
        let mask = self.mask | other.mask | (self.value ^ other.value);
        Tnum { value: self.value & !mask, mask }
    }

    pub(crate) const fn add(self, other: Tnum) -> Tnum {
        let sm = self.mask.wrapping_add(other.mask);
        let sv = self.value.wrapping_add(other.value);
        let sigma = sm.wrapping_add(sv);
        let mask = (sigma ^ sv) | self.mask | other.mask;
        Tnum { value: sv & !mask, mask }
    }

    pub(crate) const fn sub(self, other: Tnum) -> Tnum {
        let dv = self.value.wrapping_sub(other.value);
        let alpha = dv.wrapping_add(self.mask);
        let beta = dv.wrapping_sub(other.mask);
        let mask = (alpha ^ beta) | self.mask | other.mask;
        Tnum { value: dv & !mask, mask }
    }

    pub(crate) const fn and(self, other: Tnum) -> Tnum {
        let alpha = self.value | self.mask;
        let beta = other.value | other.mask;
        let value = self.value & other.value;
        Tnum { value, mask: alpha & beta & !value }
    }

    pub(crate) const fn or(self, other: Tnum) -> Tnum {
        let value = self.value | other.value;
        let mask = self.mask | other.mask;
        Tnum { value, mask: mask & !value }
    }

    pub(crate) const fn xor(self, other: Tnum) -> Tnum {
        let mask = self.mask | other.mask;
        Tnum { value: (self.value ^ other.value) & !mask, mask }
    }

    /// Schoolbook multiplication over known and unknown partial products.
    pub(crate) const fn mul(self, other: Tnum) -> Tnum {
        let (mut a, mut b) = (self, other);
        let known = a.value.wrapping_mul(b.value);
        let mut unknown = Tnum::constant(0);
        while a.value | a.mask != 0 {
            if a.value & 1 != 0 {
                unknown = unknown.add(Tnum { value: 0, mask: b.mask });
            } else if a.mask & 1 != 0 {
                unknown = unknown.add(Tnum { value: 0, mask: b.value | b.mask });
            }
            a = a.rsh(1);
            b = b.lsh(1);
        }
        Tnum::constant(known).add(unknown)
    }

    /// Shift left by 0–63.
    pub(crate) const fn lsh(self, by: u32) -> Tnum {
        Tnum { value: self.value << by, mask: self.mask << by }
    }

    /// Shift right by 0–63, zeros in.
    pub(crate) const fn rsh(self, by: u32) -> Tnum {
        Tnum { value: self.value >> by, mask: self.mask >> by }
    }

    /// Shift right by 0–63, the sign bit in.
    pub(crate) const fn arsh(self, by: u32) -> Tnum {
        let value = ((self.value as i64) >> by) as u64;
        let mask = ((self.mask as i64) >> by) as u64;
        Tnum { value: value & !mask, mask }
    }

    /// The low 32 bits, zero-extended.
    pub(crate) const fn low32(self) -> Tnum {
        Tnum { value: self.value & 0xffff_ffff, mask: self.mask & 0xffff_ffff }
    }

    /// The value with its low `bytes` bytes in reverse order and the others zero.
    pub(crate) const fn swap(self, bytes: u32) -> Tnum {
        let by = 64 - 8 * bytes;
        Tnum { value: self.value.swap_bytes() >> by, mask: self.mask.swap_bytes() >> by }
    }

    /// The low `bytes` bytes, zero-extended.
    pub(crate) const fn low_bytes(self, bytes: u32) -> Tnum {
        if bytes >= 8 {
            return self;
        }
        let m = (1u64 << (8 * bytes)) - 1;
        Tnum { value: self.value & m, mask: self.mask & m }
    }
}
