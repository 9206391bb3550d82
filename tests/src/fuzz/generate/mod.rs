//! Random programs of which a good part is accepted: each piece is what a compiler could have
//! written, now and then with a mistake in it.

use kcm_core::bpf::decode;
use kcm_core::bpf::insn::Insn;
use kcm_core::bpf::map::{MapDef, kind};
use kcm_core::bpf::program::{Func, Program, ProgramKind};

mod more;

use super::rng::Rng;

/// The maps of every generated program, by index.
const ARRAY: i32 = 0;
const HASH: i32 = 1;
const RING: i32 = 2;
const LRU: i32 = 3;
const PERCPU: i32 = 4;
const PERCPU_HASH: i32 = 5;
const WORDS: i32 = 6;
const PERF: i32 = 7;

/// Bytes of the values of the array and the hash maps.
const VALUE: i64 = 24;

/// The number of the function that is handed a pointer.
const RECEIVER: usize = usize::MAX;

struct Gen<'r> {
    rng: &'r mut Rng,
    code: Vec<Insn>,
    /// Calls to patch: slot of the call, number of the function, or [`RECEIVER`].
    calls: Vec<(usize, usize)>,
    /// Functions made so far, the main one not counted.
    funcs: usize,
    /// Whether there is a loop over the message already, or none wanted.
    scans: bool,
    /// Nesting of blocks.
    depth: u32,
    /// Socket filters have legacy loads where others reach into the message directly.
    filter: bool,
}

fn op(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
    Insn { code, dst, src, off, imm }
}

/// The size bits of a load's or store's opcode.
fn size_bits(size: i64) -> u8 {
    match size {
        1 => 0x10,
        2 => 0x08,
        4 => 0x00,
        _ => 0x18,
    }
}

/// Scratch registers, which hold scalars between pieces.
const SCALARS: [u8; 6] = [0, 2, 3, 4, 5, 9];

impl Gen<'_> {
    fn put(&mut self, code: u8, dst: u8, src: u8, off: i64, imm: i32) {
        self.code.push(op(code, dst, src, off as i16, imm));
    }

    fn scalar(&mut self) -> u8 {
        self.rng.pick(&SCALARS)
    }

    /// Gives the scratch registers values again after a call.
    fn refill(&mut self, from: &[u8]) {
        for &r in from {
            let c = self.rng.constant();
            if self.rng.one_in(8) {
                self.put(0x18, r, 0, 0, c);
                let high = self.rng.constant();
                self.put(0, 0, 0, 0, high);
            } else {
                self.put(0xb7, r, 0, 0, c);
            }
        }
    }

    fn helper(&mut self, number: i32) {
        self.put(0x85, 0, 0, 0, number);
    }

    fn map(&mut self, dst: u8, map: i32) {
        self.put(0x18, dst, 1, 0, map);
        self.put(0, 0, 0, 0, 0);
    }

    fn alu(&mut self) {
        let (d, s) = (self.scalar(), self.scalar());
        let class = self.rng.pick(&[4u8, 7]);
        let bits = if class == 7 { 64 } else { 32 };
        let o = self.rng.pick(&[
            0x00u8, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0,
        ]);
        match o {
            0x80 => self.put(class | o, d, 0, 0, 0),
            0xd0 => {
                let width = self.rng.pick(&[16, 32, 64]);
                let source = if class == 4 { self.rng.pick(&[0u8, 8]) } else { 0 };
                self.put(class | o | source, d, 0, 0, width);
            }
            0xb0 if self.rng.one_in(3) => {
                let sizes: &[i64] = if class == 7 { &[8, 16, 32] } else { &[8, 16] };
                let off = self.rng.pick(sizes);
                self.put(class | o | 8, d, s, off, 0);
            }
            0x60 | 0x70 | 0xc0 => {
                if self.rng.one_in(2) {
                    self.put(class | o | 8, d, s, 0, 0);
                } else {
                    let by = self.rng.below(bits) as i32;
                    self.put(class | o, d, 0, 0, by);
                }
            }
            0x30 | 0x90 => {
                let signed = i64::from(self.rng.one_in(2));
                if self.rng.one_in(2) {
                    self.put(class | o | 8, d, s, signed, 0);
                } else {
                    let c = self.rng.constant();
                    self.put(class | o, d, 0, signed, if c == 0 { 7 } else { c });
                }
            }
            _ => {
                if self.rng.one_in(2) {
                    self.put(class | o | 8, d, s, 0, 0);
                } else {
                    let c = self.rng.constant();
                    self.put(class | o, d, 0, 0, c);
                }
            }
        }
    }

    /// A condition over scalars that jumps over what `inside` makes.
    fn skip_if(&mut self, inside: impl FnOnce(&mut Self)) {
        let (d, s) = (self.scalar(), self.scalar());
        let class = self.rng.pick(&[5u8, 6]);
        let cc =
            self.rng.pick(&[0x10u8, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0xa0, 0xb0, 0xc0, 0xd0]);
        let c = self.rng.constant();
        if self.rng.one_in(2) {
            self.jump_over(op(class | cc | 8, d, s, 0, 0), inside);
        } else {
            self.jump_over(op(class | cc, d, 0, 0, c), inside);
        }
    }

    fn jump_over(&mut self, jump: Insn, inside: impl FnOnce(&mut Self)) {
        let at = self.code.len();
        self.code.push(jump);
        inside(self);
        self.code[at].off = (self.code.len() - at - 1) as i16;
    }

    /// Sometimes one more or less than what is right.
    fn slip(&mut self, right: i64) -> i64 {
        if self.rng.one_in(40) { right + self.rng.pick(&[-1, 1, 8, -8]) } else { right }
    }

    fn stack(&mut self) {
        let size = self.rng.pick(&[1i64, 2, 4, 8]);
        let at = -8 * self.rng.between(1, 12);
        let at = at + self.rng.below((8 / size) as u64) as i64 * size;
        let bits = size_bits(size);
        let (s, d) = (self.scalar(), self.scalar());
        let write = self.slip(at);
        match self.rng.below(3) {
            0 => {
                let c = self.rng.constant();
                self.put(0x62 | bits, 10, 0, write, c);
            }
            _ => self.put(0x63 | bits, 10, s, write, 0),
        }
        let signed = size < 8 && self.rng.one_in(4);
        self.put(if signed { 0x81 } else { 0x61 } | bits, d, 10, at, 0);
        if self.rng.one_in(6) && size >= 4 {
            self.atomic(10, at, size);
        }
    }

    fn atomic(&mut self, base: u8, at: i64, size: i64) {
        let code = if size == 8 { 0xdb } else { 0xc3 };
        let o = self.rng.pick(&[0, 1, 0x40, 0x41, 0x50, 0x51, 0xa0, 0xa1, 0xe1, 0xf1]);
        let s = self.rng.pick(&[2, 3, 4, 5]);
        self.put(code, base, s, at, o);
    }

    /// A direct load from the message behind a comparison with its end.
    fn packet(&mut self) {
        let size = self.rng.pick(&[1i64, 2, 4, 8]);
        let bits = size_bits(size);
        let at = self.rng.between(0, 40);
        let need = self.slip(at + size);
        let d = self.scalar();
        match self.rng.below(3) {
            // if data + need > end skip
            0 => {
                self.put(0xbf, 1, 7, 0, 0);
                self.put(0x07, 1, 0, 0, need as i32);
                self.jump_over(op(0x2d, 1, 8, 0, 0), |g| g.put(0x61 | bits, d, 7, at, 0));
            }
            // if end < data + need skip
            1 => {
                self.put(0xbf, 1, 7, 0, 0);
                self.put(0x07, 1, 0, 0, need as i32);
                self.jump_over(op(0xad, 8, 1, 0, 0), |g| g.put(0x61 | bits, d, 7, at, 0));
            }
            // A variable offset, masked.
            _ => {
                let mask = self.rng.pick(&[7, 15, 63, 255]);
                self.put(0xbf, 1, 7, 0, 0);
                self.put(0x57, 4, 0, 0, mask);
                self.put(0x0f, 1, 4, 0, 0);
                self.put(0xbf, 2, 1, 0, 0);
                self.put(0x07, 2, 0, 0, need as i32);
                self.jump_over(op(0x2d, 2, 8, 0, 0), |g| {
                    let signed = size < 8 && g.rng.one_in(3);
                    g.put(if signed { 0x81 } else { 0x61 } | bits, 3, 1, at, 0);
                });
                self.refill(&[2]);
            }
        }
        self.refill(&[1]);
    }

    fn load_bytes(&mut self) {
        let size = self.rng.pick(&[1i64, 2, 4, 8, 3, 7, 16, 33]);
        let at = -8 * self.rng.between((size + 7) / 8, 12);
        self.put(0xbf, 1, 6, 0, 0);
        if self.rng.one_in(2) {
            let c = self.rng.between(0, 50) as i32;
            self.put(0xb7, 2, 0, 0, c);
        } else if self.rng.one_in(2) {
            self.put(0x57, 2, 0, 0, 63);
        }
        self.put(0xbf, 3, 10, 0, 0);
        let to = self.slip(at);
        self.put(0x07, 3, 0, 0, to as i32);
        self.put(0xb7, 4, 0, 0, size as i32);
        let number = if self.rng.one_in(8) { 68 } else { 26 };
        if number == 68 {
            let start = self.rng.below(3) as i32;
            self.put(0xb7, 5, 0, 0, start);
        }
        self.helper(number);
        self.refill(&[1, 2, 3, 4, 5]);
        let (part, bits) = match size {
            1 | 3 => (1, 0x10),
            2 => (2, 0x08),
            4 | 7 => (4, 0x00),
            _ => (8, 0x18),
        };
        if self.rng.one_in(2) {
            self.jump_over(op(0x55, 0, 0, 0, 0), |g| g.put(0x61 | bits, 3, 10, at, 0));
        } else {
            let off = self.rng.between(0, size - part);
            self.put(0x71, 2, 10, at + off, 0);
        }
    }

    fn key(&mut self, at: i64) {
        let index = self.rng.between(0, 6) as i32;
        if self.rng.one_in(3) {
            self.put(0x57, 9, 0, 0, 7);
            self.put(0x63, 10, 9, at, 0);
        } else {
            self.put(0x62, 10, 0, at, index);
        }
    }

    fn value_access(&mut self, base: u8) {
        let size = self.rng.pick(&[1i64, 2, 4, 8]);
        let bits = size_bits(size);
        let at = self.rng.below((VALUE / size) as u64) as i64 * size;
        let at = self.slip(at);
        match self.rng.below(4) {
            0 => {
                let c = self.rng.constant();
                self.put(0x62 | bits, base, 0, at, c);
            }
            1 => self.put(0x63 | bits, base, 3, at, 0),
            2 if size >= 4 => self.atomic(base, at, size),
            _ => self.put(0x61 | bits, 4, base, at, 0),
        }
    }

    fn maps(&mut self) {
        let map = self.rng.pick(&[ARRAY, HASH, LRU, PERCPU, PERCPU_HASH]);
        let at = -8 * self.rng.between(1, 12);
        self.key(at);
        let key = self.slip(at);
        match self.rng.below(4) {
            0 => {
                let value = -8 * self.rng.between(3, 12);
                for w in 0..3 {
                    self.put(0x7b, 10, 9, value + w * 8, 0);
                }
                self.key(at);
                self.map(1, map);
                self.put(0xbf, 2, 10, 0, 0);
                self.put(0x07, 2, 0, 0, key as i32);
                self.put(0xbf, 3, 10, 0, 0);
                self.put(0x07, 3, 0, 0, value as i32);
                let flags = self.rng.pick(&[0, 0, 0, 1, 2, 3]);
                self.put(0xb7, 4, 0, 0, flags);
                self.helper(2);
                self.refill(&[1, 2, 3, 4, 5]);
            }
            1 => {
                self.map(1, map);
                self.put(0xbf, 2, 10, 0, 0);
                self.put(0x07, 2, 0, 0, key as i32);
                self.helper(3);
                self.refill(&[1, 2, 3, 4, 5]);
            }
            _ => {
                self.map(1, map);
                self.put(0xbf, 2, 10, 0, 0);
                self.put(0x07, 2, 0, 0, key as i32);
                self.helper(1);
                self.refill(&[2, 3, 4, 5]);
                self.put(0xbf, 1, 0, 0, 0);
                self.refill(&[0]);
                if self.rng.one_in(60) {
                    self.value_access(1);
                }
                self.jump_over(op(0x15, 1, 0, 0, 0), |g| {
                    for _ in 0..g.rng.between(1, 3) {
                        g.value_access(1);
                    }
                    // A variable offset into the value.
                    if g.rng.one_in(4) {
                        let mask = g.rng.pick(&[7, 15, 16, 23]);
                        g.put(0x57, 2, 0, 0, mask);
                        g.put(0x0f, 1, 2, 0, 0);
                        g.put(0x71, 4, 1, 0, 0);
                    }
                });
                self.refill(&[1]);
            }
        }
    }

    fn ring(&mut self) {
        if self.rng.one_in(2) {
            let at = -8 * self.rng.between(1, 12);
            self.put(0x7b, 10, 9, at, 0);
            self.map(1, RING);
            self.put(0xbf, 2, 10, 0, 0);
            self.put(0x07, 2, 0, 0, at as i32);
            self.put(0xb7, 3, 0, 0, 8);
            self.put(0xb7, 4, 0, 0, 0);
            self.helper(130);
            self.refill(&[0, 1, 2, 3, 4, 5]);
            return;
        }
        self.map(1, RING);
        self.put(0xb7, 2, 0, 0, VALUE as i32);
        self.put(0xb7, 3, 0, 0, 0);
        self.helper(131);
        self.put(0xbf, 1, 0, 0, 0);
        self.refill(&[0, 2, 3, 4, 5]);
        self.jump_over(op(0x15, 1, 0, 0, 0), |g| {
            g.put(0x7b, 1, 9, 0, 0);
            g.value_access(1);
            g.put(0xb7, 2, 0, 0, 0);
            let number = g.rng.pick(&[132, 133]);
            if !g.rng.one_in(40) {
                g.helper(number);
            }
            g.refill(&[0, 2, 3, 4, 5]);
        });
        self.refill(&[1]);
    }

    fn small_loop(&mut self) {
        let rounds = self.rng.between(1, 9) as i32;
        let rounds = if self.rng.one_in(60) { 0 } else { rounds };
        self.put(0xb7, 9, 0, 0, rounds);
        let top = self.code.len();
        let n = self.rng.between(1, 3);
        for _ in 0..n {
            match self.rng.below(4) {
                0 => self.load_bytes_fixed(),
                _ => {
                    let d = self.rng.pick(&[0u8, 2, 3, 4, 5]);
                    let c = self.rng.constant();
                    let code = self.rng.pick(&[0x07, 0x27, 0x57, 0x47, 0x04, 0xa7]);
                    self.put(code, d, 0, 0, c);
                }
            }
        }
        let step = self.slip(1) as i32;
        self.put(0x17, 9, 0, 0, step);
        let back = top as i64 - self.code.len() as i64 - 1;
        self.put(0x55, 9, 0, back, 0);
    }

    /// One byte of the message by its number in r9.
    fn load_bytes_fixed(&mut self) {
        self.put(0xbf, 1, 6, 0, 0);
        self.put(0xbf, 2, 9, 0, 0);
        self.put(0xbf, 3, 10, 0, 0);
        self.put(0x07, 3, 0, 0, -1);
        self.put(0xb7, 4, 0, 0, 1);
        self.helper(26);
        self.refill(&[1, 2, 3, 4, 5]);
        self.put(0x71, 2, 10, -1, 0);
    }

    fn spill(&mut self) {
        let at = -8 * self.rng.between(1, 12);
        let r = self.rng.pick(&[7u8, 8, 6]);
        self.put(0x7b, 10, r, at, 0);
        self.alu();
        self.put(0x79, r, 10, at, 0);
    }

    fn legacy(&mut self) {
        let bits = self.rng.pick(&[0x00u8, 0x08, 0x10]);
        if self.rng.one_in(2) {
            let at = self.rng.between(0, 30) as i32;
            self.put(0x20 | bits, 0, 0, 0, at);
        } else {
            self.put(0x57, 4, 0, 0, 31);
            let by = self.rng.between(-4, 8) as i32;
            self.put(0x40 | bits, 0, 4, 0, by);
        }
        self.refill(&[1, 2, 3, 4, 5]);
    }

    fn call(&mut self) {
        if self.funcs == 0 {
            return self.alu();
        }
        let f = self.rng.below(self.funcs as u64) as usize + 1;
        self.refill(&[1]);
        self.calls.push((self.code.len(), f));
        if self.rng.one_in(4) {
            // bpf_loop over it: it is given the round and a number.
            let n = self.rng.pick(&[0, 1, 3, 20]);
            self.put(0x18, 2, 4, 0, 0);
            self.put(0, 0, 0, 0, 0);
            self.put(0xb7, 1, 0, 0, n);
            self.put(0xb7, 3, 0, 0, 0);
            let flags = i32::from(self.rng.one_in(20));
            self.put(0xb7, 4, 0, 0, flags);
            self.helper(181);
        } else {
            self.put(0x85, 0, 1, 0, 0);
        }
        self.refill(&[1, 2, 3, 4, 5]);
    }

    fn other(&mut self) {
        match self.rng.below(4) {
            0 => {
                self.put(0xbf, 1, 6, 0, 0);
                let n = self.rng.between(0, 80) as i32;
                self.put(0xb7, 2, 0, 0, n);
                self.helper(39);
                // The ends have to be looked up again.
                if !self.filter {
                    self.put(0x61, 7, 6, 76, 0);
                    self.put(0x61, 8, 6, 80, 0);
                }
            }
            1 => {
                self.put(0xbf, 1, 6, 0, 0);
                self.helper(46);
            }
            2 => {
                self.helper(5);
                self.refill(&[0]);
            }
            _ if self.filter && self.rng.one_in(3) => {
                let size = self.rng.pick(&[1i64, 2, 4, 8]);
                let at = 48 + self.rng.below((20 / size) as u64) as i64 * size;
                self.put(0x63 | size_bits(size), 6, 9, at, 0);
                let c = self.rng.constant();
                self.put(0x62 | size_bits(size), 6, 0, at, c);
                self.put(0x61, 3, 6, 48, 0);
                return;
            }
            _ => {
                let field =
                    self.rng.pick(if self.filter { &[0, 16, 4, 2] } else { &[0i64, 0, 76, 2] });
                self.put(0x61, 0, 6, field, 0);
                if field == 76 {
                    self.refill(&[0]);
                }
                return;
            }
        }
        self.refill(&[1, 2, 3, 4, 5]);
    }

    fn piece(&mut self) {
        match self.rng.below(30) {
            0..8 => self.alu(),
            8..11 => self.stack(),
            11..14 if !self.filter => self.packet(),
            11 if self.funcs == 0 => self.legacy(),
            14..16 => self.load_bytes(),
            16..18 => self.maps(),
            18 => self.ring(),
            19 => self.small_loop(),
            20 => self.spill(),
            22 => self.call(),
            23 => self.other(),
            // Loops one after another multiply what there is to explore.
            26 if !std::mem::replace(&mut self.scans, true) => self.scan(),
            27 => self.hand_over(),
            28 => self.rare(),
            _ if self.depth < 3 => {
                self.depth += 1;
                self.skip_if(|g| {
                    for _ in 0..g.rng.between(1, 3) {
                        g.piece();
                    }
                });
                self.depth -= 1;
            }
            _ => self.alu(),
        }
    }

    fn start(&mut self) {
        self.put(0xbf, 6, 1, 0, 0);
        if self.filter {
            self.refill(&[7, 8]);
        } else {
            self.put(0x61, 7, 6, 76, 0);
            self.put(0x61, 8, 6, 80, 0);
        }
        self.refill(&[0, 1, 2, 3, 4, 5, 9]);
        // What later pieces read may not have been written on every path.
        for w in 1..=12 {
            if !self.rng.one_in(30) {
                self.put(0x7a, 10, 0, -8 * w, 0);
            }
        }
    }

    /// A function of scalars.
    fn function(&mut self) {
        self.put(0xbf, 0, 1, 0, 0);
        self.put(0x07, 0, 0, 0, 1);
        for r in [3, 4, 5, 9] {
            self.refill(&[r]);
        }
        for _ in 0..self.rng.between(1, 6) {
            match self.rng.below(4) {
                0 => self.skip_if(Self::alu),
                1 => {
                    let s = self.rng.pick(&[0u8, 3, 4]);
                    self.put(0x7b, 10, s, -8, 0);
                    self.put(0x79, 4, 10, -8, 0);
                }
                _ => self.alu(),
            }
        }
        if self.rng.one_in(3) {
            self.put(0x57, 0, 0, 0, 1);
        }
        self.put(0x95, 0, 0, 0, 0);
    }
}

/// The maps that generated programs name.
pub fn maps() -> Vec<MapDef> {
    vec![
        MapDef::new("array", kind::ARRAY, 4, VALUE as u32, 5),
        MapDef::new("hash", kind::HASH, 4, VALUE as u32, 4),
        MapDef::new("ring", kind::RINGBUF, 0, 0, 4096),
        MapDef::new("lru", kind::LRU_HASH, 4, VALUE as u32, 3),
        MapDef::new("percpu", kind::PERCPU_ARRAY, 4, VALUE as u32, 5),
        MapDef::new("percpu_hash", kind::PERCPU_HASH, 4, VALUE as u32, 4),
        MapDef {
            // BPF_F_RDONLY_PROG
            flags: 1 << 7,
            initial: Some(b"GET\0length\0el\0\0\0".to_vec()),
            ..MapDef::new("words", kind::ARRAY, 4, 16, 1)
        },
        MapDef::new("perf", kind::PERF_EVENT_ARRAY, 4, 4, 0),
    ]
}

/// A program of this seed's.
pub fn program(rng: &mut Rng) -> Program {
    let loops = rng.one_in(3);
    program_with(rng, loops)
}

/// The same, with or without a loop whose rounds nobody knows.
pub fn program_with(rng: &mut Rng, loops: bool) -> Program {
    let kind = rng.pick(&[ProgramKind::SocketFilter, ProgramKind::StreamParser]);
    let filter = kind == ProgramKind::SocketFilter;
    let scans = !loops;
    let funcs = rng.pick(&[0, 0, 0, 1, 2]);
    let mut g = Gen { rng, code: Vec::new(), calls: Vec::new(), funcs, scans, depth: 0, filter };
    g.start();
    let most = if scans { g.rng.pick(&[4, 8, 20]) } else { 8 };
    for _ in 0..g.rng.between(1, most) {
        g.piece();
    }
    if g.rng.one_in(2) {
        let s = g.scalar();
        g.put(0xbf, 0, s, 0, 0);
    }
    g.put(0x95, 0, 0, 0, 0);
    // Those that are called; a kernel rejects a program with others.
    let mut called: Vec<usize> = g.calls.iter().map(|c| c.1).collect();
    called.sort_unstable();
    called.dedup();
    let mut starts = vec![0];
    for f in &called {
        starts.push(g.code.len());
        match *f {
            RECEIVER => g.receiver(),
            _ => g.function(),
        }
    }
    for (at, f) in std::mem::take(&mut g.calls) {
        let n = called.partition_point(|c| *c < f) + 1;
        g.code[at].imm = starts[n] as i32 - at as i32 - 1;
    }
    // Maps are made for each run: only those that there is a use for.
    let used = g.code.iter().filter(|i| i.code == 0x18 && matches!(i.src, 1 | 2)).map(|i| i.imm);
    let mut maps = maps();
    maps.truncate(used.max().map_or(0, |m| m as usize + 1));
    let funcs = starts.iter().map(|&start| Func { start, name: format!("f{start}") }).collect();
    Program {
        name: "fuzz".into(),
        kind,
        insns: g.code,
        funcs,
        maps,
        lines: Vec::new(),
        license: "Dual MIT/GPL".into(),
    }
}

/// Changes a few instructions of a program into others: mostly into such as there are.
pub fn mutate(rng: &mut Rng, program: &mut Program) {
    for _ in 0..rng.between(1, 3) {
        let n = program.insns.len() as u64;
        let at = rng.below(n) as usize;
        let was = program.insns[at];
        let other = program.insns[rng.below(n) as usize];
        let i = &mut program.insns[at];
        match rng.below(12) {
            0 => i.imm = rng.constant(),
            1 => i.imm = i.imm.wrapping_add(rng.between(-2, 2) as i32),
            2 => i.off = i.off.wrapping_add(rng.between(-2, 2) as i16),
            3 => i.off = rng.between(-40, 40) as i16,
            4 => i.dst = rng.below(11) as u8,
            5 => i.src = rng.below(11) as u8,
            6 => i.code ^= 1 << rng.below(8),
            7 => *i = other,
            8 => i.dst = (i.dst + 1) % 10,
            9 if i.code & 7 >= 5 => {
                i.code = i.code & 0x0f | rng.pick(&[0x10, 0x20, 0x30, 0x50, 0x60, 0xa0, 0xc0]);
            }
            9 => i.imm = i.imm.wrapping_mul(2),
            _ => i.code = (i.code & 7) | (other.code & 0xf8),
        }
        let none = at > 0 && program.insns[at - 1].code == 0x18 || was.code == 0x18;
        if none || decode::decode_one(&program.insns, at).is_err() && !rng.one_in(30) {
            program.insns[at] = was;
        }
    }
}
