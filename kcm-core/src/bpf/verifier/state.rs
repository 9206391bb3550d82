//! What is known at one point of one path: registers, stack frames, unreleased records.

use std::fmt;

use super::scalar::Scalar;

/// Frames that calls may nest to, the main one included (the kernel's limit).
pub(super) const MAX_FRAMES: usize = 8;
/// Bytes of stack, all frames together.
pub(super) const STACK_SIZE: i64 = 512;
/// No message is longer: `len` is 32 bits wide.
pub(super) const MAX_PACKET: u64 = u32::MAX as u64;
/// Bound of every pointer's offset, fixed and variable part alike, either side of zero. Far
/// below where adding it to an address could wrap.
pub(super) const MAX_OFFSET: i64 = 1 << 34;

/// What a register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing that may be read.
    Uninit,
    /// A number.
    Scalar,
    /// The context.
    Ctx,
    /// A place in the message, counted from its first byte.
    Packet,
    /// The end of the message.
    PacketEnd,
    /// A place in the stack of a frame, counted from its top.
    Stack { frame: u8 },
    /// A map.
    Map { map: u32 },
    /// A place in a value of a map; or null.
    Value { map: u32, nullable: bool },
    /// A place in a reserved ring-buffer record; or null.
    Record { size: u32, nullable: bool },
    /// A function.
    Func { target: u32 },
}

impl Kind {
    pub(super) const fn is_pointer(self) -> bool {
        !matches!(self, Kind::Uninit | Kind::Scalar)
    }

    pub(super) const fn nullable(self) -> bool {
        matches!(self, Kind::Value { nullable: true, .. } | Kind::Record { nullable: true, .. })
    }

    /// In words, for messages.
    pub(super) const fn describe(self) -> &'static str {
        match self {
            Kind::Uninit => "an uninitialised value",
            Kind::Scalar => "a number",
            Kind::Ctx => "the context",
            Kind::Packet => "a packet pointer",
            Kind::PacketEnd => "the packet end",
            Kind::Stack { .. } => "a stack pointer",
            Kind::Map { .. } => "a map",
            Kind::Value { nullable: false, .. } => "a map value",
            Kind::Value { nullable: true, .. } => "a map value or null",
            Kind::Record { nullable: false, .. } => "a ring-buffer record",
            Kind::Record { nullable: true, .. } => "a ring-buffer record or null",
            Kind::Func { .. } => "a function",
        }
    }
}

/// A register or stack place of a state: the same number in every state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u16);

impl Place {
    pub(super) const fn register(frame: usize, reg: usize) -> Place {
        Place((frame << 10 | reg) as u16)
    }

    const fn spill(frame: usize, at: u16) -> Place {
        Place((frame << 10) as u16 | (16 + at))
    }
}

/// What a value was at the last checkpoint: the value of a place, moved by so much since.
/// Kept where loops are widened, to see whether they end (see `ends`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) place: Place,
    pub(super) least: i64,
    pub(super) most: i64,
    /// Only the low 32 bits moved so.
    pub(super) word: bool,
}

impl Origin {
    /// Further by between `least` and `most`; `None` where that gets out of hand.
    pub(super) fn moved(self, least: i64, most: i64) -> Option<Origin> {
        const FAR: i64 = 1 << 50;
        let (least, most) = (self.least.checked_add(least)?, self.most.checked_add(most)?);
        (least > -FAR && most < FAR).then_some(Origin { least, most, ..self })
    }
}

/// A register's (or a spilled register's) value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reg {
    pub(super) kind: Kind,
    /// Scalars: values with one id differ by the difference of their `off`. Packet pointers:
    /// one id, one variable part. Nullable pointers and records: one id, one pointer.
    /// 0: none.
    pub(super) id: u32,
    /// Pointers: the fixed part of the offset. Scalars: see `id`.
    pub(super) off: i64,
    /// Packet pointers: this many bytes from the variable part on are in the packet.
    pub(super) range: i64,
    /// Scalars: the value. Pointers: the variable part of the offset.
    pub(super) num: Scalar,
    /// Scalars of the last checkpoint that the value was computed from (see `explore`).
    pub(super) deps: u128,
    /// Where the value comes from, while loops are widened.
    pub(super) origin: Option<Origin>,
}

impl Reg {
    pub(super) const UNINIT: Reg = Reg {
        kind: Kind::Uninit,
        id: 0,
        off: 0,
        range: 0,
        num: Scalar::UNKNOWN,
        deps: 0,
        origin: None,
    };

    pub(super) const fn scalar(num: Scalar) -> Reg {
        Reg { kind: Kind::Scalar, num, ..Reg::UNINIT }
    }

    pub(super) const fn constant(v: u64) -> Reg {
        Reg::scalar(Scalar::constant(v))
    }

    pub(super) const fn pointer(kind: Kind, off: i64) -> Reg {
        Reg { kind, off, num: Scalar::constant(0), ..Reg::UNINIT }
    }

    /// Any number of those in `all` instead, linked to none.
    pub(super) fn forget_number(&mut self, all: Scalar) {
        self.num = all;
        self.id = 0;
        self.off = 0;
    }

    pub(super) fn as_const(&self) -> Option<u64> {
        if self.kind == Kind::Scalar { self.num.as_const() } else { None }
    }

    /// The offset of a pointer, if it is the same on every path here.
    pub(super) fn fixed_off(&self) -> Option<i64> {
        self.num.as_const().map(|v| self.off.wrapping_add(v as i64))
    }

    /// Lowest and highest offset a pointer may have. The parts are within [`MAX_OFFSET`].
    pub(super) fn off_bounds(&self) -> (i64, i64) {
        (self.off.saturating_add(self.num.smin), self.off.saturating_add(self.num.smax))
    }
}

impl fmt::Display for Reg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |f: &mut fmt::Formatter<'_>| match self.num.as_const() {
            Some(v) => write!(f, "{:+}", self.off.wrapping_add(v as i64)),
            None => write!(f, "{:+} + {}..={}", self.off, self.num.smin, self.num.smax),
        };
        match self.kind {
            Kind::Uninit => f.write_str("uninitialised"),
            Kind::Scalar => fmt_scalar(&self.num, f),
            Kind::Ctx => {
                f.write_str("context")?;
                if self.off != 0 { place(f) } else { Ok(()) }
            }
            Kind::Packet => {
                f.write_str("packet")?;
                place(f)?;
                write!(f, ", {} bytes proven", self.range.max(0))
            }
            Kind::PacketEnd => f.write_str("packet end"),
            Kind::Stack { frame } => {
                write!(f, "stack of frame {frame}, fp")?;
                place(f)
            }
            Kind::Map { map } => write!(f, "map {map}"),
            Kind::Value { map, nullable } => {
                write!(f, "value of map {map}")?;
                place(f)?;
                f.write_str(if nullable { ", or null" } else { "" })
            }
            Kind::Record { size, nullable } => {
                write!(f, "record of {size} bytes")?;
                place(f)?;
                f.write_str(if nullable { ", or null" } else { "" })
            }
            Kind::Func { target } => write!(f, "function at {target}"),
        }
    }
}

fn fmt_scalar(s: &Scalar, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if let Some(v) = s.as_const() {
        return if v > 0xffff && (v as i64) > 0 {
            write!(f, "{v:#x}")
        } else {
            write!(f, "{}", v as i64)
        };
    }
    let mut sep = "number ";
    let mut part = |f: &mut fmt::Formatter<'_>, text: String| {
        let r = write!(f, "{sep}{text}");
        sep = ", ";
        r
    };
    let unsigned = s.umin != 0 || s.umax != u64::MAX;
    let signed = s.smin != i64::MIN || s.smax != i64::MAX;
    let same = s.smin >= 0 && s.smin as u64 == s.umin && s.smax as u64 == s.umax;
    if unsigned {
        part(f, format!("{}..={}", s.umin, s.umax))?;
    }
    if signed && !same {
        part(f, format!("signed {}..={}", s.smin, s.smax))?;
    }
    if s.umax > u64::from(u32::MAX) && (s.u32min != 0 || s.u32max != u32::MAX) {
        part(f, format!("low word {}..={}", s.u32min, s.u32max))?;
    }
    let zeros = !(s.bits.value | s.bits.mask) & (u64::MAX >> s.umax.leading_zeros().min(63));
    if s.bits.value != 0 || zeros != 0 {
        part(f, format!("bits {:#x}/{:#x}", s.bits.value, !s.bits.mask))?;
    }
    if sep == "number " { f.write_str("number, any") } else { Ok(()) }
}

/// A register's value in the stack, at its natural alignment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spill {
    /// Byte index: 0 is fp-512.
    pub(super) at: u16,
    /// 1, 2, 4 or 8; pointers always 8.
    pub(super) size: u8,
    pub(super) reg: Reg,
}

impl Spill {
    fn end(&self) -> usize {
        usize::from(self.at) + usize::from(self.size)
    }
}

/// One frame's stack: which bytes are initialised, and which values are known.
#[derive(Clone, Debug, Default)]
pub(super) struct Stack {
    init: [u64; 8],
    /// Sorted by `at`, without overlap; every byte of a spill is initialised.
    pub(super) spills: Vec<Spill>,
}

/// What a read of the stack gives.
pub(super) enum StackRead {
    /// A value that was stored so.
    Reg(Reg),
    /// Initialised bytes.
    Bytes,
    /// The byte at this index was never written.
    Uninit(usize),
    /// Part of a stored pointer.
    Pointer,
}

/// The 8-byte slots that `at..at + size` touches, as bits.
pub(super) fn slots(at: usize, size: usize) -> u64 {
    if size == 0 {
        return 0;
    }
    let (first, last) = (at / 8, (at + size - 1) / 8);
    (u64::MAX >> (63 - (last - first).min(63))) << first
}

/// The 8-byte slots that `at..at + size` covers in full, as bits.
pub(super) fn full_slots(at: usize, size: usize) -> u64 {
    let (first, end) = (at.div_ceil(8), (at + size) / 8);
    if end <= first { 0 } else { slots(first * 8, (end - first) * 8) }
}

impl Stack {
    fn init_bits(&self, at: usize, size: usize) -> impl Iterator<Item = (usize, bool)> + '_ {
        (at..at + size).map(|b| (b, self.init[b / 64] >> (b % 64) & 1 == 1))
    }

    pub(super) fn first_uninit(&self, at: usize, size: usize) -> Option<usize> {
        self.init_bits(at, size).find(|(_, i)| !i).map(|(b, _)| b)
    }

    fn any_init(&self, at: usize, size: usize) -> bool {
        self.init_bits(at, size).any(|(_, i)| i)
    }

    fn set_init(&mut self, at: usize, size: usize, on: bool) {
        for b in at..at + size {
            let bit = 1 << (b % 64);
            if on {
                self.init[b / 64] |= bit;
            } else {
                self.init[b / 64] &= !bit;
            }
        }
    }

    fn overlapping(&self, at: usize, size: usize) -> impl Iterator<Item = &Spill> {
        self.spills.iter().filter(move |s| usize::from(s.at) < at + size && s.end() > at)
    }

    pub(super) fn spill_at(&self, at: u16, size: u8) -> Option<&Spill> {
        self.spills.iter().find(|s| s.at == at && s.size == size)
    }

    /// Whether any of these bytes belongs to a stored pointer.
    pub(super) fn has_pointer(&self, at: usize, size: usize) -> bool {
        self.overlapping(at, size).any(|s| s.reg.kind.is_pointer())
    }

    /// Forgets all slots but these (bits).
    pub(super) fn keep_only(&mut self, slots: u64) {
        if slots == u64::MAX {
            return;
        }
        for (i, init) in self.init.iter_mut().enumerate() {
            let byte = slots >> (8 * i) & 0xff;
            *init &= (0..8).fold(0, |m, b| m | ((byte >> b & 1) * (0xff << (8 * b))));
        }
        self.spills.retain(|s| slots >> (s.at / 8) & 1 == 1);
    }

    /// Stores; `None` leaves initialised bytes of unknown value.
    pub(super) fn write(&mut self, at: usize, size: usize, reg: Option<Reg>) {
        self.forget(at, size);
        self.set_init(at, size, true);
        if let Some(reg) = reg
            && at.is_multiple_of(size)
        {
            let i = self.spills.partition_point(|s| usize::from(s.at) < at);
            self.spills.insert(i, Spill { at: at as u16, size: size as u8, reg });
        }
    }

    /// A store somewhere in these bytes: values are forgotten, and stored pointers with them,
    /// but bytes that were not initialised still are not.
    pub(super) fn forget(&mut self, at: usize, size: usize) {
        // A pointer that loses a part leaves bytes that must not be read as numbers.
        let broken: Vec<(usize, usize)> = self
            .overlapping(at, size)
            .filter(|s| s.reg.kind.is_pointer())
            .map(|s| (usize::from(s.at), usize::from(s.size)))
            .collect();
        for (a, n) in broken {
            self.set_init(a, n, false);
        }
        self.spills.retain(|s| usize::from(s.at) >= at + size || s.end() <= at);
    }

    pub(super) fn read(&self, at: usize, size: usize) -> StackRead {
        if let Some(b) = self.first_uninit(at, size) {
            return StackRead::Uninit(b);
        }
        let mut value: Option<(u64, u128, usize)> = Some((0, 0, 0));
        for s in self.overlapping(at, size) {
            let (a, n) = (usize::from(s.at), usize::from(s.size));
            if a == at && n == size {
                return StackRead::Reg(s.reg);
            }
            if s.reg.kind.is_pointer() {
                return StackRead::Pointer;
            }
            if a == at && n > size {
                let num = s.reg.num.zext(size as u32);
                return StackRead::Reg(Reg { deps: s.reg.deps, ..Reg::scalar(num) });
            }
            // Constants put together.
            value = match (value, s.reg.num.as_const()) {
                (Some((v, deps, covered)), Some(c)) => {
                    let mut v = v;
                    let mut covered = covered;
                    for i in 0..n {
                        if (at..at + size).contains(&(a + i)) {
                            v |= (c >> (8 * i) & 0xff) << (8 * (a + i - at));
                            covered += 1;
                        }
                    }
                    Some((v, deps | s.reg.deps, covered))
                }
                _ => None,
            };
        }
        match value {
            Some((v, deps, covered)) if covered == size => {
                StackRead::Reg(Reg { deps, ..Reg::constant(v) })
            }
            _ => StackRead::Bytes,
        }
    }
}

/// One activation of a function.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) regs: [Reg; 11],
    pub(super) stack: Stack,
    /// Index into the program's functions.
    pub(super) func: u32,
    /// Slot of the call; `usize::MAX` for the main function.
    pub(super) callsite: u32,
    /// Called by `bpf_loop` rather than by the program.
    pub(super) callback: bool,
    /// Unreleased records when the callback began.
    pub(super) refs_at_entry: u32,
}

impl Frame {
    pub(super) fn new(depth: usize, func: u32, callsite: u32) -> Frame {
        let mut regs = [Reg::UNINIT; 11];
        regs[10] = Reg::pointer(Kind::Stack { frame: depth as u8 }, 0);
        Frame { regs, stack: Stack::default(), func, callsite, callback: false, refs_at_entry: 0 }
    }
}

/// A record that was reserved and not yet given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) id: u32,
    pub(super) insn: u32,
}

/// A packet pointer plus a number: computed again, it is the same place. Kept up to the next
/// checkpoint only, so that no state that is compared relies on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sum {
    /// The pointer's id.
    pub(super) base: u32,
    /// The number's id and distance.
    pub(super) number: (u32, i64),
    /// The sum's id, and what is proven from there.
    pub(super) id: u32,
    pub(super) range: i64,
}

/// What is known at one point of one path.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) frames: Vec<Frame>,
    pub(super) held: Vec<Held>,
    pub(super) sums: Vec<Sum>,
    /// The checkpoint this path came from; see `explore`.
    pub(super) parent: u32,
    /// Slots written in full since that checkpoint, by frame.
    pub(super) written: [u64; MAX_FRAMES],
    /// Instructions since that checkpoint.
    pub(super) insns: u32,
    /// Open branches since that checkpoint.
    pub(super) jumps: u32,
}

impl State {
    pub(super) fn depth(&self) -> usize {
        self.frames.len() - 1
    }

    pub(super) fn top(&self) -> &Frame {
        let n = self.frames.len();
        &self.frames[n - 1]
    }

    pub(super) fn top_mut(&mut self) -> &mut Frame {
        let n = self.frames.len();
        &mut self.frames[n - 1]
    }

    pub(super) fn reg(&self, r: u8) -> &Reg {
        &self.top().regs[usize::from(r)]
    }

    pub(super) fn set(&mut self, r: u8, reg: Reg) {
        self.top_mut().regs[usize::from(r)] = reg;
    }

    /// The value of a place, if a register's is one that `live` (frame, register) says counts.
    pub(super) fn at(&self, place: Place, live: impl Fn(usize, usize) -> bool) -> Option<&Reg> {
        let (frame, i) = (usize::from(place.0 >> 10), usize::from(place.0 & 0x3ff));
        let f = self.frames.get(frame)?;
        match i.checked_sub(16) {
            Some(at) => f.stack.spills.iter().find(|s| usize::from(s.at) == at).map(|s| &s.reg),
            None => f.regs.get(i).filter(|_| live(frame, i)),
        }
    }

    /// Every register and spilled register with its place.
    pub(super) fn places_mut(&mut self, mut f: impl FnMut(Place, &mut Reg)) {
        for (n, frame) in self.frames.iter_mut().enumerate() {
            for (r, reg) in frame.regs[..10].iter_mut().enumerate() {
                f(Place::register(n, r), reg);
            }
            for s in &mut frame.stack.spills {
                f(Place::spill(n, s.at), &mut s.reg);
            }
        }
    }

    /// Every register and spilled register that holds something.
    pub(super) fn for_each_mut(&mut self, mut f: impl FnMut(&mut Reg)) {
        for frame in &mut self.frames {
            for r in &mut frame.regs[..10] {
                f(r);
            }
            for s in &mut frame.stack.spills {
                f(&mut s.reg);
            }
        }
    }

    /// Drops every trace of pointers for which `gone` holds.
    pub(super) fn void(&mut self, gone: impl Fn(&Reg) -> bool) {
        for frame in &mut self.frames {
            for r in &mut frame.regs[..10] {
                if gone(r) {
                    *r = Reg::UNINIT;
                }
            }
            let dead: Vec<(usize, usize)> = frame
                .stack
                .spills
                .iter()
                .filter(|s| gone(&s.reg))
                .map(|s| (usize::from(s.at), usize::from(s.size)))
                .collect();
            for (at, size) in dead {
                frame.stack.forget(at, size);
            }
        }
    }
}

/// Which ids of one state stand for which of another, one to one.
#[derive(Default)]
pub(super) struct IdMap {
    pairs: Vec<(u32, u32)>,
    fresh: u32,
}

impl IdMap {
    pub(super) fn clear(&mut self) {
        self.pairs.clear();
        self.fresh = 0;
    }

    pub(super) fn check(&mut self, old: u32, new: u32) -> bool {
        if old == 0 {
            return new == 0;
        }
        let new = if new == 0 {
            // Linked to nothing: like an id of its own.
            self.fresh += 1;
            u32::MAX - self.fresh
        } else {
            new
        };
        for &(o, n) in &self.pairs {
            if o == old {
                return n == new;
            }
            if n == new {
                return false;
            }
        }
        self.pairs.push((old, new));
        true
    }
}

/// How closely two values must agree.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// Whatever is proved from the old is proved for the new.
    Within,
    /// They are the same.
    Exact,
}

/// Whether `new` is covered by what was proved from `old`. A scalar that is not `precise`
/// was never relied upon: any number will do.
pub(super) fn reg_fits(old: &Reg, new: &Reg, precise: bool, fit: Fit, ids: &mut IdMap) -> bool {
    #[cfg(test)]
    let precise = precise && !super::weak::has(super::weak::Weakness::Precision);
    let num = |ids: &mut IdMap, link: bool| {
        (match fit {
            Fit::Within => old.num.contains(&new.num),
            Fit::Exact => old.num == new.num,
        }) && (!link || ids.check(old.id, new.id))
    };
    match old.kind {
        Kind::Uninit => true,
        Kind::Scalar => {
            new.kind == Kind::Scalar
                && (!precise
                    || (num(ids, false)
                        && (old.id == 0 || (ids.check(old.id, new.id) && old.off == new.off))))
        }
        Kind::Packet => {
            new.kind == Kind::Packet
                && old.off == new.off
                && (old.range == new.range || (fit == Fit::Within && old.range < new.range))
                && num(ids, true)
        }
        _ => old.kind == new.kind && old.off == new.off && num(ids, true),
    }
}

/// Whether the part of the stack in `read` (slots) is covered.
pub(super) fn stack_fits(
    old: &Stack,
    new: &Stack,
    read: u64,
    fit: Fit,
    ids: &mut IdMap,
    mut precise: impl FnMut(usize) -> bool,
) -> bool {
    if read == 0 {
        return true;
    }
    for slot in 0..64usize {
        if read >> slot & 1 == 0 {
            continue;
        }
        let shift = slot % 8 * 8;
        let (o, n) = (old.init[slot / 8] >> shift & 0xff, new.init[slot / 8] >> shift & 0xff);
        if o & !n != 0 {
            return false;
        }
    }
    let touched = |s: &Spill| read >> (s.at / 8) & 1 == 1;
    for (i, s) in old.spills.iter().enumerate() {
        if !touched(s) {
            continue;
        }
        let precise = precise(i);
        match new.spill_at(s.at, s.size) {
            Some(n) => {
                if !reg_fits(&s.reg, &n.reg, precise, fit, ids) {
                    return false;
                }
            }
            None => {
                let size = u32::from(s.size);
                let any = s.reg.kind == Kind::Scalar
                    && (!precise || (s.reg.id == 0 && s.reg.num.contains(&Scalar::of_size(size))));
                if !any || new.has_pointer(usize::from(s.at), usize::from(s.size)) {
                    return false;
                }
            }
        }
    }
    // A pointer where the old state had plain bytes would be read in parts.
    new.spills.iter().all(|n| {
        !touched(n)
            || !n.reg.kind.is_pointer()
            || old.spill_at(n.at, n.size).is_some()
            || !old.any_init(usize::from(n.at), usize::from(n.size))
    })
}
