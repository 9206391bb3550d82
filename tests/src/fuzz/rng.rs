//! A small seeded generator: the same seed gives the same case on every machine.

/// SplitMix64.
pub struct Rng(u64);

impl Rng {
    /// The sequence of one seed.
    pub fn new(seed: u64) -> Self {
        Rng(seed)
    }

    /// Any 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n` (which is not 0).
    pub fn below(&mut self, n: u64) -> u64 {
        self.bits() % n
    }

    /// A number in `[low, high]`.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low + 1) as u64) as i64
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of them.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// A constant of the kind that shows mistakes: small, near a power of two, or anything.
    pub fn constant(&mut self) -> i32 {
        match self.below(6) {
            0 => self.between(-4, 4) as i32,
            1 => self.between(0, 300) as i32,
            2 => (1i64 << self.below(32)) as i32,
            3 => ((1i64 << self.below(32)) - 1) as i32,
            4 => self.pick(&[i32::MIN, i32::MAX, -1, 0, 1, 0xffff, 0x7fff_fffe]),
            _ => self.bits() as i32,
        }
    }

    /// As many bytes.
    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        // Many small numbers: lengths and separators are.
        (0..n)
            .map(|_| if self.one_in(2) { self.below(20) as u8 } else { self.bits() as u8 })
            .collect()
    }
}
