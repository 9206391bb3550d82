//! Calls: of the program's own functions, of helpers, and those that are compiled inline.

use super::*;

impl Translator<'_, '_, '_> {
    /// Calls a function of the program by its number.
    fn call_number(&mut self, func: usize, signature: &Signature, args: &[Value]) -> Value {
        let signature = self.b.import_signature(signature.clone());
        let name = UserExternalName { namespace: 0, index: func as u32 };
        let name = self.b.func.declare_imported_user_function(name);
        let f = self.b.import_function(ExtFuncData {
            name: ExternalName::user(name),
            signature,
            colocated: true,
            patchable: false,
        });
        let call = self.b.ins().call(f, args);
        self.b.inst_results(call)[0]
    }

    /// Calls the parsing function on the message `[data, end)`.
    pub(in crate::bpf::jit) fn call_main(&mut self, data: Value, end: Value) -> Value {
        self.call_number(0, self.unit.main, &[self.env, data, end])
    }

    pub(super) fn call_function(&mut self, func: usize, args: &[Value]) -> Value {
        let mut all = vec![self.env, self.b.use_var(self.data), self.b.use_var(self.end)];
        all.extend_from_slice(args);
        let r0 = self.call_number(func, self.unit.sub, &all);
        if self.unit.may_end[func] {
            let at = std::mem::offset_of!(Env<'_>, ended) as i32;
            let ended = self.b.ins().load(I64, VALID, self.env, at);
            let (on, out) = (self.b.create_block(), self.b.create_block());
            self.b.set_cold_block(out);
            self.b.ins().brif(ended, out, &[], on, &[]);
            self.b.switch_to_block(out);
            if self.func == 0 {
                let zero = self.b.ins().iconst(I64, 0);
                self.b.ins().store(VALID, zero, self.env, at);
            }
            self.leave(r0);
            self.b.switch_to_block(on);
        }
        r0
    }

    /// Forgets what a call may have changed.
    pub(super) fn after_call(&mut self, r0: Value) {
        self.set(0, r0);
        for r in 1..=5 {
            self.known.0[r] = None;
        }
    }

    pub(super) fn local_call(&mut self, at: usize, i: Insn) -> Jit<()> {
        let target = at.wrapping_add_signed(1 + i.imm as isize);
        let func = self.unit.func_of(target);
        if self.unit.funcs.get(func) != Some(&target) {
            return fail(at, "a call to where no function starts");
        }
        let args: Vec<Value> = (1..=5).map(|r| self.get(r)).collect();
        let r0 = self.call_function(func, &args);
        self.after_call(r0);
        Ok(())
    }

    pub(super) fn helper(&mut self, at: usize, i: Insn) -> Jit<bool> {
        let fact = self.fact(at)?;
        let number = i.imm as u32;
        if let Some((to, size)) = inline_load_bytes(fact) {
            self.load_bytes(at, fact, to, size)?;
            return Ok(false);
        }
        if number == builtins::id::LOOP {
            let Some(callback) = fact.callback else {
                return fail(at, "bpf_loop without one callback");
            };
            self.rounds(at, callback)?;
            return Ok(true);
        }
        if let Some(key) = self.unit.inline_lookup(fact) {
            self.lookup(fact, key);
            return Ok(true);
        }
        let Some(f) = builtins::find(number) else {
            return fail(at, format!("there is no helper {number}"));
        };
        let n = builtins::arity(number);
        let mut args = vec![self.env];
        for r in 1..=n {
            args.push(self.get(r as u8));
        }
        let sig = match self.sigs.get(&n) {
            Some(s) => *s,
            None => {
                let s = self.b.import_signature(self.unit.helper[n].clone());
                self.sigs.insert(n, s);
                s
            }
        };
        let f = self.b.ins().iconst(I64, f as usize as i64);
        let call = self.b.ins().call_indirect(sig, f, &args);
        let r0 = self.b.inst_results(call)[0];
        self.after_call(r0);
        Ok(true)
    }

    /// `bpf_skb_load_bytes` of a known size to a known place: a comparison and loads. Its two
    /// outcomes are edges, along which r0 is known.
    pub(super) fn load_bytes(&mut self, at: usize, fact: &CallFact, to: i32, size: i32) -> Jit<()> {
        let offset = match fact.consts[1] {
            Some(c) => self.b.ins().iconst(I64, i64::from(c as u32)),
            None => {
                let o = self.get32(2);
                self.b.ins().uextend(I64, o)
            }
        };
        let dest = self.get(3);
        for r in 0..=5 {
            self.known.0[r] = None;
        }
        let (inside, outside) = (self.b.create_block(), self.b.create_block());
        self.in_message(offset, i64::from(size), inside, outside);
        for (block, there) in [(inside, true), (outside, false)] {
            self.b.switch_to_block(block);
            let from = if there {
                let data = self.b.use_var(self.data);
                Some(self.b.ins().iadd(data, offset))
            } else {
                None
            };
            self.fill(from, to, size, dest);
            let r0 = if there { 0 } else { builtins::err(libc::EFAULT) };
            let v = self.b.ins().iconst(I64, r0 as i64);
            self.b.def_var(self.regs[0], v);
            let mut known = self.known;
            known.0[0] = Some(r0);
            let next = self.edge(at + 1, &known)?;
            self.b.ins().jump(next, &[]);
        }
        Ok(())
    }

    /// Copies `size` bytes from an address (or zeroes) to a place in this frame's stack.
    pub(super) fn fill(&mut self, from: Option<Value>, to: i32, size: i32, dest: Value) {
        let value = |t: &mut Self, off: i32, size: i32| match from {
            Some(f) => t.load_at(f, off, size),
            None => t.b.ins().iconst(I64, 0),
        };
        if let Some(range) = self.layout.pieces_of(to, size) {
            for p in range {
                let piece = self.layout.pieces[p];
                let v = value(self, piece.at - to, piece.size);
                self.b.def_var(self.pieces[p], v);
            }
            return;
        }
        let mut done = 0;
        while done < size {
            let mut n = 8;
            while n > size - done {
                n /= 2;
            }
            let v = value(self, done, n);
            self.store_at(v, dest, done, n);
            done += n;
        }
    }

    /// `bpf_map_lookup_elem` on an array: a comparison and an address.
    pub(super) fn lookup(&mut self, fact: &CallFact, key: i32) {
        let Some(map) = fact.map.and_then(|m| self.unit.maps.get(m as usize)) else { return };
        let index = if self.layout.pieces_of(key, 4).is_some() {
            self.read_pieces(key, 4)
        } else {
            let at = self.get(2);
            self.load_at(at, 0, 4)
        };
        let stride = map.stride() as i64;
        let offset = self.b.ins().imul_imm_s(index, stride);
        let base = self.b.ins().iconst(I64, map.memory().addr() as i64);
        let value = self.b.ins().iadd(base, offset);
        let entries = i64::from(map.def().max_entries);
        let there = self.b.ins().icmp_imm_u(IntCC::UnsignedLessThan, index, entries);
        let null = self.b.ins().iconst(I64, 0);
        let r0 = self.b.ins().select(there, value, null);
        self.after_call(r0);
    }

    /// `bpf_loop(rounds, callback, ctx, flags)`.
    pub(super) fn rounds(&mut self, at: usize, callback: usize) -> Jit<()> {
        let func = self.unit.func_of(callback);
        if self.unit.funcs.get(func) != Some(&callback) {
            return fail(at, "a callback where no function starts");
        }
        let n = self.get32(1);
        let n = self.b.ins().uextend(I64, n);
        let (ctx, flags) = (self.get(3), self.get(4));
        let [head, round, next, done, check, bad] = std::array::from_fn(|_| self.b.create_block());
        let count = self.b.append_block_param(head, I64);
        let result = self.b.append_block_param(done, I64);
        let arg = |v| [BlockArg::Value(v)];
        self.b.ins().brif(flags, bad, &[], check, &[]);
        self.b.switch_to_block(bad);
        let error = self.b.ins().iconst(I64, builtins::err(libc::EINVAL) as i64);
        self.b.ins().jump(done, &arg(error));
        self.b.switch_to_block(check);
        let most = builtins::MAX_LOOPS as i64;
        let many = self.b.ins().icmp_imm_u(IntCC::UnsignedGreaterThan, n, most);
        let error = self.b.ins().iconst(I64, builtins::err(libc::E2BIG) as i64);
        let zero = self.b.ins().iconst(I64, 0);
        self.b.ins().brif(many, done, &arg(error), head, &arg(zero));
        self.b.switch_to_block(head);
        let more = self.b.ins().icmp(IntCC::UnsignedLessThan, count, n);
        self.b.ins().brif(more, round, &[], done, &arg(count));
        self.b.switch_to_block(round);
        if self.unit.metered(at) {
            self.burn();
        }
        let zero = self.b.ins().iconst(I64, 0);
        let stop = self.call_function(func, &[count, ctx, zero, zero, zero]);
        let after = self.b.ins().iadd_imm_s(count, 1);
        self.b.ins().brif(stop, done, &arg(after), next, &[]);
        self.b.switch_to_block(next);
        self.b.ins().jump(head, &arg(after));
        self.b.switch_to_block(done);
        self.after_call(result);
        Ok(())
    }
}
