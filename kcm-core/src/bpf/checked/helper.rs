//! Helpers of checked mode: the same meaning, every argument looked at.

use super::memory::Place;
use super::{Reason, Run, State, claim};
use crate::bpf::builtins::{self, err, id};
use crate::bpf::map::{Map, Store};

impl State<'_> {
    fn bad<T>(helper: u32, register: u8, wanted: &'static str) -> Run<T> {
        Err(Reason::Argument { helper, register, wanted }.into())
    }

    fn map(&self, helper: u32, register: u8, ring: Option<bool>) -> Run<(usize, &'_ Map)> {
        let handle = Place::of(self.get(register)?);
        if let Some((Place::Handle(m), 0)) = handle
            && let Some(map) = self.env.maps.get(m)
        {
            let is_ring = matches!(map.store, Store::Ring(_));
            let is_perf = matches!(map.store, Store::Perf(_));
            let fits = match ring {
                None => !is_ring && !is_perf,
                Some(true) => is_ring,
                Some(false) => is_perf,
            };
            if fits {
                return Ok((m, map));
            }
        }
        Self::bad(helper, register, "a map of the type that the helper takes")
    }

    fn ctx(&self, helper: u32) -> Run<()> {
        if self.get(1)? == Place::Ctx.address(0) {
            Ok(())
        } else {
            Self::bad(helper, 1, "the context")
        }
    }

    fn key(&self, map: &Map) -> Run<Vec<u8>> {
        self.read_bytes(self.get(2)?, map.def().key_size as usize)
    }

    /// Calls a helper; sets r0 and forgets r1-r5.
    pub(super) fn helper(&mut self, number: u32) -> Run<()> {
        self.hold_call_claim(number)?;
        let r0 = self.call(number)?;
        for r in 1..=5 {
            self.regs[r] = None;
        }
        self.regs[0] = Some(r0);
        Ok(())
    }

    fn call(&mut self, number: u32) -> Run<u64> {
        let env = self.env;
        Ok(match number {
            id::MAP_LOOKUP_ELEM => {
                let (m, map) = self.map(number, 1, None)?;
                match map.lookup(&self.key(map)?, env.slot) {
                    Some(o) => Place::Value(m).address(o),
                    None => 0,
                }
            }
            id::MAP_UPDATE_ELEM => {
                let (_, map) = self.map(number, 1, None)?;
                let key = self.key(map)?;
                let value = self.read_bytes(self.get(3)?, map.def().value_size as usize)?;
                builtins::result(map.update(&key, env.slot, self.get(4)?, |memory, at| {
                    let _ = memory.write(at, &value);
                }))
            }
            id::MAP_DELETE_ELEM => {
                let (_, map) = self.map(number, 1, None)?;
                builtins::result(map.delete(&self.key(map)?))
            }
            id::KTIME_GET_NS | id::KTIME_GET_BOOT_NS | id::KTIME_GET_COARSE_NS => {
                builtins::clock(builtins::clock_of(number))
            }
            id::GET_PRANDOM_U32 => u64::from(builtins::prandom()),
            id::GET_SMP_PROCESSOR_ID => u64::from(env.slot),
            id::GET_SOCKET_COOKIE => {
                self.ctx(number)?;
                env.cookie
            }
            id::TRACE_PRINTK => {
                let size = self.get(2)? as u32 as usize;
                let text = self.read_bytes(self.get(1)?, size)?;
                // Arguments that the format does not use need not be set.
                let arg = |r: usize| self.regs[r].unwrap_or(0);
                if size > builtins::trace::MAX_FORMAT {
                    err(libc::EINVAL)
                } else {
                    builtins::trace::print(&text, [arg(3), arg(4), arg(5)])
                }
            }
            id::PERF_EVENT_OUTPUT => {
                self.ctx(number)?;
                let (_, map) = self.map(number, 2, Some(false))?;
                let data = self.read_bytes(self.get(4)?, self.get(5)? as usize)?;
                match (builtins::perf_flags(map, self.get(3)?, env.msg.len()), map.ring()) {
                    (Err(e), _) => e,
                    (Ok(n), Some(ring)) if ring.output(&[&data, &env.msg[..n]], 0) => 0,
                    _ => err(libc::ENOSPC),
                }
            }
            id::SKB_LOAD_BYTES | id::SKB_LOAD_BYTES_RELATIVE => {
                self.ctx(number)?;
                let (offset, len) = (self.get(2)? as u32, self.get(4)? as u32);
                let found = if number == id::SKB_LOAD_BYTES {
                    builtins::span(env.msg, offset, len)
                } else {
                    builtins::relative_span(env.msg, offset, len, self.get(5)? as u32)
                };
                let to = self.get(3)?;
                match found {
                    Some(bytes) => {
                        self.write_bytes(to, bytes)?;
                        0
                    }
                    None => {
                        // Checks the range before it makes as many zeroes.
                        if len as usize > super::memory::FRAME.max(1 << 20) {
                            return Self::bad(number, 4, "a length within the memory at r3");
                        }
                        self.write_bytes(to, &vec![0; len as usize])?;
                        err(libc::EFAULT)
                    }
                }
            }
            id::SKB_PULL_DATA => {
                self.ctx(number)?;
                builtins::pull_data(env.msg.len(), self.get(2)? as u32)
            }
            id::RINGBUF_OUTPUT => {
                let (_, map) = self.map(number, 1, Some(true))?;
                let data = self.read_bytes(self.get(2)?, self.get(3)? as usize)?;
                let flags = self.get(4)?;
                match map.ring() {
                    Some(_) if !builtins::ring_flags_ok(flags) => err(libc::EINVAL),
                    Some(ring) if ring.output(&[&data], flags) => 0,
                    _ => err(libc::EAGAIN),
                }
            }
            id::RINGBUF_RESERVE => {
                let (m, map) = self.map(number, 1, Some(true))?;
                let (size, flags) = (self.get(2)?, self.get(3)?);
                let room = flags == 0 && self.memory.reserved.len() < 8;
                match map.ring().filter(|_| room).and_then(|r| r.reserve(size)) {
                    Some(o) => {
                        self.memory.reserved.push((m, o, size as usize));
                        Place::Record(m).address(o)
                    }
                    None => 0,
                }
            }
            id::RINGBUF_SUBMIT | id::RINGBUF_DISCARD => {
                let Some((Place::Record(m), o)) = Place::of(self.get(1)?) else {
                    return Self::bad(number, 1, "a reserved record");
                };
                let flags = self.get(2)?;
                let mine = self.memory.reserved.iter().position(|r| (r.0, r.1) == (m, o));
                let Some(mine) = mine else { return Self::bad(number, 1, "a reserved record") };
                self.memory.reserved.swap_remove(mine);
                if let Some(ring) = env.maps.get(m).and_then(|m| m.ring()) {
                    ring.commit(o, number == id::RINGBUF_DISCARD, flags);
                }
                0
            }
            id::RINGBUF_QUERY => {
                let (_, map) = self.map(number, 1, Some(true))?;
                builtins::ring_query(map, self.get(2)?)
            }
            id::STRNCMP => {
                let n = self.get(2)? as u32;
                let a = self.read_bytes(self.get(1)?, n as usize)?;
                let mut b = Vec::new();
                for i in 0..u64::from(n) {
                    let byte = self.read_bytes(self.get(3)?.wrapping_add(i), 1)?[0];
                    b.push(byte);
                    if byte == 0 || byte != a[i as usize] {
                        break;
                    }
                }
                let at = |v: &[u8], i: u64| v.get(i as usize).copied().unwrap_or(0);
                builtins::compare(u64::from(n), |i| at(&a, i), |i| at(&b, i))
            }
            id::LOOP => self.rounds()?,
            _ => return Err(Reason::Helper(number).into()),
        })
    }

    /// `bpf_loop(rounds, callback, ctx, flags)`.
    fn rounds(&mut self) -> Run<u64> {
        let (n, ctx, flags) = (self.get(1)? as u32, self.get(3)?, self.get(4)?);
        let Some((Place::Function(callback), 0)) = Place::of(self.get(2)?) else {
            return Self::bad(id::LOOP, 2, "a function of the program");
        };
        if flags != 0 {
            return Ok(err(libc::EINVAL));
        }
        if u64::from(n) > builtins::MAX_LOOPS {
            return Ok(err(libc::E2BIG));
        }
        for i in 0..u64::from(n) {
            self.burn()?;
            self.regs[1] = Some(i);
            self.regs[2] = Some(ctx);
            for r in 3..=5 {
                self.regs[r] = None;
            }
            if self.function(callback)?.ok_or(Reason::Register(0))? != 0 {
                return Ok(i + 1);
            }
        }
        Ok(u64::from(n))
    }

    /// Discards what a program that was ended early left reserved.
    pub(super) fn abandon(&mut self) {
        for (m, o, _) in self.memory.reserved.drain(..) {
            if let Some(ring) = self.env.maps.get(m).and_then(|m| m.ring()) {
                ring.commit(o, true, 0);
            }
        }
    }

    /// Holds what the verifier claimed of a call against its arguments.
    fn hold_call_claim(&self, number: u32) -> Run<()> {
        let Some(f) = self.facts() else { return Ok(()) };
        let Some(Some(fact)) = f.calls.get(self.pc) else {
            return claim("no helper is called here");
        };
        if fact.helper != number {
            return claim(format!("helper {} is called", fact.helper));
        }
        let frame = self.memory.frames.len().saturating_sub(1);
        for (r, (known, stack)) in fact.consts.iter().zip(&fact.stack).enumerate() {
            let v = self.regs[r + 1];
            if let Some(k) = known
                && v != Some(*k)
            {
                return claim(format!("r{} is {k}, it is {v:?}", r + 1));
            }
            if let Some(o) = stack {
                let at = super::memory::FRAME.wrapping_add_signed(isize::from(*o));
                if v != Some(Place::Stack(frame).address(at)) {
                    return claim(format!("r{} is r10{o:+}", r + 1));
                }
            }
        }
        if let Some(m) = fact.map {
            let named =
                |r: usize| self.regs[r].and_then(Place::of) == Some((Place::Handle(m as usize), 0));
            if !(1..=5).any(named) {
                return claim(format!("the map is number {m}"));
            }
        }
        if let Some(c) = fact.callback
            && self.regs[2].and_then(Place::of) != Some((Place::Function(c), 0))
        {
            return claim(format!("the callback is at {c}"));
        }
        Ok(())
    }
}
