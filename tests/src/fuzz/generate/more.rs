//! Pieces of the rarer kind: loops over the message, pointers handed to functions, and the
//! helpers that only some parsers call.

use kcm_core::bpf::insn::Insn;

use super::{Gen, PERF, RECEIVER, WORDS, op};

impl Gen<'_> {
    /// Goes over the message byte by byte until its end, or a byte of some value.
    pub(super) fn scan(&mut self) {
        if self.filter {
            return self.count();
        }
        // r1 goes from data (r7) to data_end (r8).
        self.put(0xbf, 1, 7, 0, 0);
        self.put(0xb7, 9, 0, 0, 0);
        let top = self.code.len();
        self.put(0xbf, 2, 1, 0, 0);
        let ahead = self.slip(1) as i32;
        self.put(0x07, 2, 0, 0, ahead);
        let end = self.code.len();
        self.code.push(op(0x2d, 2, 8, 0, 0));
        self.put(0x71, 3, 1, 0, 0);
        let step = self.rng.pick(&[1, 1, 1, 2]);
        self.put(0x07, 1, 0, 0, step);
        match self.rng.below(4) {
            0 => self.put(0x0f, 9, 3, 0, 0),
            1 => {
                self.put(0x27, 9, 0, 0, 10);
                self.put(0x0f, 9, 3, 0, 0);
            }
            2 => self.stack(),
            _ => self.put(0x07, 9, 0, 0, 1),
        }
        // A limit on the rounds, for some.
        if self.rng.one_in(2) {
            self.put(0x55, 3, 0, 1, 10);
            let out = self.code.len();
            self.put(0x05, 0, 0, 0, 0);
            self.back(top);
            self.code[out].off = (self.code.len() - out - 1) as i16;
        } else {
            self.back(top);
        }
        self.code[end].off = (self.code.len() - end - 1) as i16;
        self.refill(&[1, 2, 3]);
    }

    fn back(&mut self, top: usize) {
        let by = top as i64 - self.code.len() as i64 - 1;
        self.put(0x05, 0, 0, by, 0);
    }

    /// A loop whose rounds depend on a number nobody knows.
    fn count(&mut self) {
        self.load_byte();
        let d = self.rng.pick(&[3u8, 4, 5]);
        let c = self.rng.constant();
        let top = self.code.len();
        self.put(0x27, d, 0, 0, c);
        self.put(0x07, d, 0, 0, 1);
        let step = self.rng.pick(&[1, 1, 3]);
        self.put(0x17, 2, 0, 0, step);
        let by = top as i64 - self.code.len() as i64 - 1;
        let code = self.rng.pick(&[0x55u8, 0x65, 0x25]);
        self.put(code, 2, 0, by, 0);
        self.refill(&[2]);
    }

    /// A byte of the message in r2, as a number.
    fn load_byte(&mut self) {
        self.put(0xbf, 1, 6, 0, 0);
        self.put(0xb7, 2, 0, 0, 0);
        self.put(0xbf, 3, 10, 0, 0);
        self.put(0x07, 3, 0, 0, -8);
        self.put(0xb7, 4, 0, 0, 1);
        self.helper(26);
        self.refill(&[1, 3, 4, 5]);
        self.put(0x71, 2, 10, -8, 0);
    }

    /// Hands a place on the stack to a function, directly or round by round.
    pub(super) fn hand_over(&mut self) {
        let at = -8 * self.rng.between(1, 12);
        let s = self.scalar();
        self.put(0x7b, 10, s, at, 0);
        let to = self.slip(at) as i32;
        if self.rng.one_in(2) {
            let n = self.rng.pick(&[0, 1, 2, 7, 30]);
            self.put(0xb7, 1, 0, 0, n);
            self.calls.push((self.code.len(), RECEIVER));
            self.put(0x18, 2, 4, 0, 0);
            self.put(0, 0, 0, 0, 0);
            self.put(0xbf, 3, 10, 0, 0);
            self.put(0x07, 3, 0, 0, to);
            self.put(0xb7, 4, 0, 0, 0);
            self.helper(181);
        } else {
            self.refill(&[1]);
            self.put(0xbf, 2, 10, 0, 0);
            self.put(0x07, 2, 0, 0, to);
            self.calls.push((self.code.len(), RECEIVER));
            self.put(0x85, 0, 1, 0, 0);
        }
        self.refill(&[1, 2, 3, 4, 5]);
        self.put(0x79, 2, 10, at, 0);
    }

    /// What is handed a place: it adds its first argument to what is there, and says 0 or 1.
    pub(super) fn receiver(&mut self) {
        self.put(0x79, 3, 2, 0, 0);
        self.put(0x0f, 3, 1, 0, 0);
        if self.rng.one_in(3) {
            let operation = self.rng.pick(&[0, 0x40, 0x50, 0xa0, 1]);
            self.put(0xdb, 2, 1, 0, operation);
        } else {
            self.put(0x7b, 2, 3, 0, 0);
        }
        self.put(0xbf, 0, 3, 0, 0);
        let bit = self.rng.pick(&[0x100, 1, 0]);
        self.put(0x57, 0, 0, 0, bit);
        self.put(0x15, 0, 0, 1, 0);
        self.put(0xb7, 0, 0, 0, 1);
        self.put(0x95, 0, 0, 0, 0);
    }

    /// Helpers for events, text and numbers that differ from run to run.
    pub(super) fn rare(&mut self) {
        match self.rng.below(4) {
            0 => {
                let size = self.rng.pick(&[1i64, 8, 13, 24]);
                let at = -8 * self.rng.between((size + 7) / 8, 12);
                self.put(0xbf, 1, 6, 0, 0);
                self.map(2, PERF);
                self.wide(3, 0xffff_ffff);
                self.put(0xbf, 4, 10, 0, 0);
                let to = self.slip(at) as i32;
                self.put(0x07, 4, 0, 0, to);
                self.put(0xb7, 5, 0, 0, size as i32);
                self.helper(25);
                self.refill(&[1, 2, 3, 4, 5]);
            }
            1 => {
                let at = -8 * self.rng.between(1, 12);
                let word = self.rng.pick(&[0x0054_4547i32, 0x656c, 0x4547, 0]);
                self.put(0x62, 10, 0, at, word);
                self.put(0xbf, 1, 10, 0, 0);
                self.put(0x07, 1, 0, 0, at as i32);
                let n = self.rng.between(1, 8) as i32;
                self.put(0xb7, 2, 0, 0, n);
                let word = self.rng.pick(&[0, 4, 11, 15]);
                self.code.push(op(0x18, 3, 2, 0, WORDS));
                self.put(0, 0, 0, 0, word);
                self.helper(182);
                self.refill(&[1, 2, 3, 4, 5]);
            }
            2 => {
                let at = -8 * self.rng.between(1, 12);
                // "%d %x\0" and such.
                let text = self.rng.pick(&[0x0064_2564, 0x7825, 0x0061, 0x7325]);
                self.put(0x7a, 10, 0, at, text);
                self.put(0xbf, 1, 10, 0, 0);
                self.put(0x07, 1, 0, 0, at as i32);
                self.put(0xb7, 2, 0, 0, 8);
                self.helper(6);
                self.refill(&[0, 1, 2, 3, 4, 5]);
            }
            _ => {
                let number = self.rng.pick(&[5, 7, 8, 125, 160]);
                self.helper(number);
                // It is another in every run; what is decided by it must not tell.
                let by = self.rng.pick(&[0x57u8, 0x54]);
                self.put(by, 0, 0, 0, 0);
                self.refill(&[1, 2, 3, 4, 5]);
            }
        }
    }

    fn wide(&mut self, dst: u8, value: u64) {
        self.put(0x18, dst, 0, 0, value as i32);
        self.code.push(Insn { imm: (value >> 32) as i32, ..Insn::default() });
    }
}
