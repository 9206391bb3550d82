//! Calls: of helpers, by their prototypes, and of the program's own functions.

use super::{
    error::Rule,
    explore::{Explorer, Flow, Mode, Stop},
    facts::CallFact,
    memory::{Place, StackSpan},
    scalar::Scalar,
    state::{Frame, Held, Kind, MAX_FRAMES, Reg, State},
    step::readable,
};
use crate::bpf::helpers::{self, Arg, MAX_LOOPS, MapUse, Proto, Ret};

/// Sizes that helpers take are at most this.
const MAX_SIZE: u64 = 1 << 29;

/// What was found out about one call's arguments.
struct Args {
    fact: CallFact,
    map: Option<u32>,
    /// Memory that the helper writes.
    writes: Option<StackSpan>,
    reserve: u32,
    record: Option<u32>,
}

impl Explorer<'_> {
    pub(super) fn call_function(
        &mut self,
        st: &mut State,
        at: usize,
        target: usize,
    ) -> Result<(), Rule> {
        let depth = st.frames.len();
        if depth >= MAX_FRAMES {
            return Err(Rule::CallDepth);
        }
        let mut frame = Frame::new(depth, self.code.func_of[target], at as u32);
        for r in 1..=5 {
            frame.regs[r] = st.top().regs[r];
        }
        st.written[depth] = 0;
        st.frames.push(frame);
        Ok(())
    }

    pub(super) fn call_helper(&mut self, st: &mut State, at: usize, id: u32) -> Result<Flow, Stop> {
        let proto = check_helper(id)?;
        let args = self.check_args(st, proto)?;
        let (map, writes, reserve, record) = (args.map, args.writes, args.reserve, args.record);
        self.note_call(at, args.fact);
        if id == super::BPF_LOOP {
            return self.call_loop(st, at);
        }
        if let Some(s) = writes {
            Self::write_stack(st, s, None);
        }
        if proto.moves_packet {
            st.void(|r| matches!(r.kind, Kind::Packet | Kind::PacketEnd));
            st.sums.clear();
        }
        if let Some(id) = record {
            st.held.retain(|h| h.id != id);
            st.void(|r| matches!(r.kind, Kind::Record { .. }) && r.id == id);
        }
        let r0 = match proto.ret {
            Ret::Number(lo, hi) => Reg::scalar(Scalar::srange(lo, hi)),
            Ret::Any => Reg::scalar(Scalar::UNKNOWN),
            Ret::Void => Reg::UNINIT,
            Ret::MapValueOrNull => {
                let kind = Kind::Value { map: map.unwrap_or(0), nullable: true };
                Reg { id: self.fresh_id(), ..Reg::pointer(kind, 0) }
            }
            Ret::RecordOrNull => {
                let id = self.fresh_id();
                st.held.push(Held { id, insn: at as u32 });
                Reg { id, ..Reg::pointer(Kind::Record { size: reserve, nullable: true }, 0) }
            }
        };
        for r in 1..=5 {
            st.set(r, Reg::UNINIT);
        }
        st.set(0, r0);
        Ok(Flow::Next(at + 1))
    }

    /// `bpf_loop`: from here either the loop is over, or there is one more round, which comes
    /// back here. Rounds are not counted, so this needs widening.
    fn call_loop(&mut self, st: &mut State, at: usize) -> Result<Flow, Stop> {
        if self.mode == Mode::Walk {
            return Err(Stop::NeedsWidening);
        }
        let Kind::Func { target } = st.reg(2).kind else {
            // `check_args` saw to it.
            return Err(Rule::NotConstant { reg: 2 }.into());
        };
        let rounds = st.reg(1).num.zext32().umax.min(u64::from(MAX_LOOPS));
        if rounds > 0 {
            let mut round = st.clone();
            let depth = round.frames.len();
            self.call_function(&mut round, at, target as usize)?;
            let held = round.held.len() as u32;
            let context = *st.reg(3);
            let frame = &mut round.frames[depth];
            frame.callback = true;
            frame.refs_at_entry = held;
            frame.regs[1] = Reg::scalar(Scalar::urange(0, rounds - 1));
            frame.regs[2] = context;
            for r in 3..=5 {
                frame.regs[r] = Reg::UNINIT;
            }
            self.fork(round, target as usize);
        }
        for r in 1..=5 {
            st.set(r, Reg::UNINIT);
        }
        st.set(0, Reg::scalar(Scalar::srange(-4095, rounds as i64)));
        Ok(Flow::Next(at + 1))
    }

    fn note_call(&mut self, at: usize, fact: CallFact) {
        let slot = &mut self.found.calls[at];
        let Some(old) = slot else {
            *slot = Some(fact);
            return;
        };
        for i in 0..5 {
            if old.consts[i] != fact.consts[i] {
                old.consts[i] = None;
            }
            if old.stack[i] != fact.stack[i] {
                old.stack[i] = None;
            }
        }
        if old.map != fact.map {
            old.map = None;
        }
        if old.callback != fact.callback {
            old.callback = None;
        }
    }

    fn check_args(&mut self, st: &State, proto: &Proto) -> Result<Args, Rule> {
        let mut args = Args {
            fact: CallFact {
                helper: proto.id,
                consts: [None; 5],
                map: None,
                callback: None,
                stack: [None; 5],
            },
            map: None,
            writes: None,
            reserve: 0,
            record: None,
        };
        for (i, arg) in proto.args.iter().enumerate() {
            self.check_arg(st, proto, i, *arg, &mut args)?;
        }
        Ok(args)
    }

    fn check_arg(
        &mut self,
        st: &State,
        proto: &Proto,
        i: usize,
        arg: Arg,
        out: &mut Args,
    ) -> Result<(), Rule> {
        let reg = i as u8 + 1;
        let r = readable(st, reg)?;
        let wrong = |expected| Rule::HelperArgument { reg, expected, is: r.kind.describe() };
        if let Kind::Stack { frame } = r.kind
            && usize::from(frame) == st.depth()
        {
            out.fact.stack[i] = r.fixed_off().and_then(|o| i16::try_from(o).ok());
        }
        match arg {
            Arg::Ctx => {
                if r.kind != Kind::Ctx || r.fixed_off() != Some(0) {
                    return Err(wrong("the unchanged context"));
                }
            }
            Arg::Map(usage) => {
                let Kind::Map { map } = r.kind else { return Err(wrong("a map")) };
                let (kind, flags) = self.map(map).map_or((0, 0), |m| (m.kind, m.flags));
                check_map_kind(map, kind, usage)?;
                // An update is refused for its value.
                if proto.id == super::MAP_DELETE && flags & super::MAP_RDONLY != 0 {
                    return Err(Rule::MapReadOnly { map });
                }
                out.map = Some(map);
                out.fact.map = Some(map);
            }
            Arg::Key => {
                let n = out.map.and_then(|m| self.map(m)).map_or(0, |m| m.key_size);
                self.check_read(st, reg, u64::from(n))?;
            }
            Arg::Value => {
                let map = out.map.unwrap_or(0);
                let (n, flags) = self.map(map).map_or((0, 0), |m| (m.value_size, m.flags));
                if flags & super::MAP_RDONLY != 0 {
                    return Err(Rule::MapReadOnly { map });
                }
                self.check_read(st, reg, u64::from(n))?;
            }
            Arg::Read | Arg::ReadOrNull | Arg::Write => {
                let size_reg = reg + 1;
                let or_zero = proto.args.get(i + 1) == Some(&Arg::SizeOrZero);
                let max = self.check_size(st, size_reg, or_zero)?;
                if arg == Arg::ReadOrNull && r.as_const() == Some(0) {
                    self.rely(st, &r);
                    if max > 0 {
                        return Err(wrong("memory, as the size is not 0"));
                    }
                } else if arg == Arg::Write {
                    out.writes = self.check_write(st, reg, size_reg, max)?;
                } else {
                    self.check_read(st, reg, max)?;
                }
            }
            Arg::Size | Arg::SizeOrZero => {
                // Checked with the memory before it; proofs rely on it.
                out.fact.consts[i] = r.as_const();
            }
            Arg::Number => {
                if r.kind != Kind::Scalar {
                    return Err(wrong("a number"));
                }
                // Nothing relies on it, so in this mode another path may bring another value
                // and never be walked: it must not be called constant.
                if self.mode != Mode::Walk {
                    out.fact.consts[i] = r.as_const();
                }
            }
            Arg::Zero => {
                if r.kind != Kind::Scalar {
                    return Err(wrong("a number"));
                }
                self.rely(st, &r);
                if r.as_const() != Some(0) {
                    return Err(wrong("0"));
                }
                out.fact.consts[i] = Some(0);
            }
            Arg::Reserve => {
                if r.kind != Kind::Scalar {
                    return Err(wrong("a number"));
                }
                self.rely(st, &r);
                let Some(n) = r.as_const() else { return Err(Rule::NotConstant { reg }) };
                if n > MAX_SIZE {
                    return Err(Rule::SizeUnbounded { reg, min: r.num.smin, max: r.num.umax });
                }
                out.reserve = n as u32;
                out.fact.consts[i] = Some(n);
            }
            Arg::Record => {
                let Kind::Record { nullable, .. } = r.kind else {
                    return Err(wrong("a ring-buffer record"));
                };
                if nullable {
                    return Err(Rule::MaybeNull { reg });
                }
                if r.fixed_off() != Some(0) {
                    return Err(Rule::RecordOffset { reg });
                }
                out.record = Some(r.id);
            }
            Arg::Callback => {
                let Kind::Func { target } = r.kind else { return Err(wrong("a function")) };
                out.fact.callback = Some(target as usize);
            }
            Arg::CallbackCtx => match r.kind {
                Kind::Scalar | Kind::Stack { .. } => {}
                Kind::Value { nullable: false, .. } => {}
                _ => return Err(wrong("a number or a pointer to the stack or a map value")),
            },
            Arg::Str => self.check_string(st, reg)?,
        }
        Ok(())
    }

    /// The greatest value of a size.
    fn check_size(&mut self, st: &State, reg: u8, or_zero: bool) -> Result<u64, Rule> {
        let r = readable(st, reg)?;
        if r.kind != Kind::Scalar {
            return Err(Rule::HelperArgument {
                reg,
                expected: "the size of the memory before it",
                is: r.kind.describe(),
            });
        }
        self.rely(st, &r);
        if r.num.smin < 0 || r.num.umax > MAX_SIZE {
            return Err(Rule::SizeUnbounded { reg, min: r.num.smin, max: r.num.umax });
        }
        if r.num.umin == 0 && !or_zero {
            return Err(Rule::SizeZero { reg });
        }
        Ok(r.num.umax)
    }

    /// Memory that a helper reads: within its region, initialised, and no pointer in it.
    fn check_read(&mut self, st: &State, reg: u8, size: u64) -> Result<(), Rule> {
        match self.check_access(st, reg, 0, size as i64, false)? {
            Place::Stack(s) if s.len > 0 => self.check_stack_numbers(st, s),
            _ => Ok(()),
        }
    }

    /// Memory that a helper writes in full.
    fn check_write(
        &mut self,
        st: &State,
        reg: u8,
        size_reg: u8,
        max: u64,
    ) -> Result<Option<StackSpan>, Rule> {
        let Place::Stack(mut s) = self.check_access(st, reg, 0, max as i64, true)? else {
            return Ok(None);
        };
        // Only bytes that are written whatever the size are initialised by it.
        let least = st.reg(size_reg).num.umin;
        if least < max {
            s.fixed = false;
        }
        Ok(Some(s))
    }

    /// A string that ends within read-only data.
    fn check_string(&mut self, st: &State, reg: u8) -> Result<(), Rule> {
        let r = readable(st, reg)?;
        let wrong = Rule::HelperArgument {
            reg,
            expected: "a string in read-only data at a known place",
            is: r.kind.describe(),
        };
        let Kind::Value { map, nullable: false } = r.kind else { return Err(wrong) };
        let Some(mut off) = r.fixed_off() else { return Err(wrong) };
        let size = self.map(map).map_or(0, |m| i64::from(m.value_size));
        if off < 0 || off >= size {
            return Err(Rule::MapBounds { min: off, end: off + 1, size: size as u32 });
        }
        if self.constant_data(map, off, 1).is_none() {
            return Err(wrong);
        }
        while let Some(b) = self.constant_data(map, off, 1) {
            if b == 0 {
                return Ok(());
            }
            off += 1;
        }
        Err(Rule::StringEnd { reg })
    }
}

fn check_helper(id: u32) -> Result<&'static Proto, Rule> {
    match (helpers::proto_of(id), helpers::name(id)) {
        (Some(p), _) => Ok(p),
        (None, Some(name)) => Err(Rule::UnsupportedHelper { id, name }),
        (None, None) => Err(Rule::UnknownHelper { id }),
    }
}

fn check_map_kind(map: u32, kind: u32, usage: MapUse) -> Result<(), Rule> {
    if usage.fits(kind) { Ok(()) } else { Err(Rule::HelperMap { map, expected: usage.describe() }) }
}
