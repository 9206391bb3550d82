//! What one call of a program needs: the environment that executors and helpers share, and
//! the executable that ties a verified program, its maps and an executor together.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::*};

#[cfg(kcm_jit)]
use super::jit;
use super::map::{Backoff, Map, MapError, slot_count};
use super::verifier::{Entry, Fuel, Region, Verified};
use super::{builtins, checked, interp};
use crate::delineate::{Verdict, WalkEnd, WalkLimits};
pub use checked::{Reason, Trap};

#[cfg(target_endian = "big")]
compile_error!(
    "kcm-core runs little-endian BPF objects in place: big-endian hosts are not supported"
);

/// Which executor runs a program. All of them give the same results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Exec {
    /// The fastest that this build and machine have.
    #[default]
    Auto,
    /// Machine code (feature `jit`; x86-64 and aarch64).
    Jit,
    /// The pre-decoded interpreter: everywhere.
    Interpreter,
    /// Every access checked, every step counted: slow, for tests and doubts.
    Checked,
}

impl Exec {
    /// Whether this build has it.
    pub const fn is_available(self) -> bool {
        match self {
            Exec::Jit => cfg!(kcm_jit),
            Exec::Auto | Exec::Interpreter | Exec::Checked => true,
        }
    }
}

/// How the interpreter gets from one operation to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dispatch {
    /// Each operation jumps to the next: what an optimised build has, and a third faster.
    Threaded,
    /// One loop around a `match`: where the compiler made calls of those jumps.
    Match,
}

/// The interpreter's dispatch in this process, found out by trying (once, on first use).
pub fn dispatch() -> Dispatch {
    if interp::is_threaded() { Dispatch::Threaded } else { Dispatch::Match }
}

/// Why a verified program could not be made executable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// This build or machine has no JIT.
    #[error("no JIT here ({why}): use Exec::Auto or Exec::Interpreter")]
    NoJit {
        /// What is missing.
        why: &'static str,
    },
    /// The program cannot be lowered for the executor.
    #[error("instruction {insn}: {why}")]
    Lower {
        /// Slot of the instruction.
        insn: usize,
        /// What the executor cannot do.
        why: String,
    },
    /// The program was verified for something else than a message's context in r1.
    #[error("the program was not verified as a parser: use Options with Entry::Context")]
    Entry,
    /// The program's maps and those given do not match.
    #[error("the program has {expected} maps, {given} were given")]
    Maps {
        /// Maps in the program.
        expected: usize,
        /// Maps given.
        given: usize,
    },
    /// A map could not be made.
    #[error("map {name}: {error}")]
    Map {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        error: MapError,
    },
}

impl ExecError {
    /// The errno this error stands for. Always positive.
    pub fn errno(&self) -> i32 {
        match self {
            ExecError::NoJit { .. } => libc::EOPNOTSUPP,
            ExecError::Map { error, .. } => error.errno(),
            ExecError::Lower { .. } | ExecError::Maps { .. } | ExecError::Entry => libc::EINVAL,
        }
    }
}

/// The most bytes of a message that a program is shown: its `len` is a signed 32-bit number
/// in places.
const MAX_SHOWN: usize = i32::MAX as usize;

/// A context pointer's value: never an address, never null.
pub(crate) const CTX: u64 = 0x6b63_6d00;

/// Ring-buffer records that a run has reserved and not finished.
pub(crate) struct Reserved {
    n: usize,
    items: [MaybeUninit<(u64, *const Map, usize)>; Self::MOST],
}

impl Reserved {
    /// The most records one run may hold at once; a further `bpf_ringbuf_reserve` gives null.
    const MOST: usize = 8;

    fn new() -> Self {
        Reserved { n: 0, items: [const { MaybeUninit::uninit() }; Self::MOST] }
    }

    pub(crate) fn has_room(&self) -> bool {
        self.n < Self::MOST
    }

    pub(crate) fn push(&mut self, addr: u64, map: &Map, record: usize) {
        if let Some(slot) = self.items.get_mut(self.n) {
            slot.write((addr, map, record));
            self.n += 1;
        }
    }

    fn item(&self, i: usize) -> Option<(u64, *const Map, usize)> {
        // SAFETY: the first `n` items are initialised: `push` writes before it counts.
        (i < self.n).then(|| unsafe { self.items[i].assume_init() })
    }

    /// Submits or discards the record at an address. Nothing happens if there is none.
    pub(crate) fn finish(&mut self, addr: u64, discard: bool, flags: u64) {
        let found = (0..self.n).find(|i| self.item(*i).is_some_and(|it| it.0 == addr));
        let Some((i, (_, map, record))) = found.and_then(|i| Some((i, self.item(i)?))) else {
            return;
        };
        // SAFETY: `push` took it from a reference to a map of the executable that runs.
        if let Some(ring) = unsafe { &*map }.ring() {
            ring.commit(record, discard, flags);
        }
        self.n -= 1;
        self.items.swap(i, self.n);
    }

    /// Discards what a program that was ended early left behind.
    #[cold]
    fn abandon(&mut self) {
        while let Some((addr, ..)) = self.item(0) {
            self.finish(addr, true, 0);
        }
    }
}

/// `cb[0..5]` of `struct __sk_buff`: 20 bytes that a socket filter may write, from offset
/// [`AT`](Scratch::AT) of the context on.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default)]
pub(crate) struct Scratch(pub(crate) [u8; 20]);

impl Scratch {
    /// Its first byte in the context.
    pub(crate) const AT: u16 = 48;
    /// One past its last.
    pub(crate) const END: u16 = 68;

    /// Whether the program ever writes it. Where it does not, it is 0 and not there.
    pub(crate) fn is_written(verified: &Verified) -> bool {
        let program = verified.program();
        program.insns.iter().zip(&verified.facts().region).any(|(i, region)| {
            matches!(i.code & 7, 2 | 3) && matches!(region, Some(Region::Ctx { .. }))
        })
    }
}

/// The environment of one run. Compiled code reads the first fields at fixed places.
#[repr(C)]
pub(crate) struct Env<'a> {
    /// First byte of the message.
    pub(crate) data: *const u8,
    /// One past its last byte.
    pub(crate) data_end: *const u8,
    /// Back edges left, where metered.
    pub(crate) fuel: u64,
    /// Not 0: the whole program ends with what the callee returned.
    pub(crate) ended: u64,
    /// The context's scratch bytes (`cb`): zero at the start of each call.
    pub(crate) cb: Scratch,
    /// This run's slot of per-CPU maps.
    pub(crate) slot: u32,
    /// The connection's cookie.
    pub(crate) cookie: u64,
    /// How the interpreter runs a function.
    pub(crate) enter: interp::Handler,
    pub(crate) reserved: Reserved,
    message: PhantomData<&'a [u8]>,
}

/// Where a program sees a message.
///
/// An empty slice may be said to lie near address 0. A pointer that the program moves to before
/// it would wrap there, and compare as one that is behind it; so it lies where none wraps.
#[inline(always)]
pub(crate) fn shown(msg: &[u8]) -> Range<*const u8> {
    const NOWHERE: *const u8 = std::ptr::without_provenance(1 << 40);
    if msg.is_empty() {
        return NOWHERE..NOWHERE;
    }
    // Programs make packet pointers from numbers in registers.
    msg.as_ptr().expose_provenance();
    msg.as_ptr_range()
}

impl<'a> Env<'a> {
    pub(crate) fn new(slot: u32, cookie: u64, enter: interp::Handler, fuel: u64) -> Self {
        let Range { start: data, end: data_end } = shown(&[]);
        Env {
            data,
            data_end,
            fuel,
            ended: 0,
            cb: Scratch::default(),
            slot,
            cookie,
            enter,
            reserved: Reserved::new(),
            message: PhantomData,
        }
    }

    /// Shows the program another message.
    #[inline(always)]
    pub(crate) fn show(&mut self, msg: &'a [u8]) {
        let range = shown(&msg[..msg.len().min(MAX_SHOWN)]);
        (self.data, self.data_end) = (range.start, range.end);
    }

    /// The message.
    #[inline(always)]
    pub(crate) fn msg(&self) -> &'a [u8] {
        // SAFETY: the two ends of the slice that `show` was given, which outlives 'a; or nothing,
        // at an address that is not null.
        unsafe { std::slice::from_raw_parts(self.data, self.len()) }
    }

    /// Bytes in the message.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.data_end as usize - self.data as usize
    }
}

/// Slots of per-CPU maps: who runs holds one.
#[derive(Default)]
struct Slots(AtomicU64);

struct Slot<'a>(&'a Slots, u32);

impl Slots {
    fn lease(&self) -> Slot<'_> {
        use std::cell::Cell;
        thread_local!(static LAST: Cell<u32> = const { Cell::new(0) });
        let n = slot_count();
        let mut wait = Backoff::default();
        loop {
            let last = LAST.get();
            for i in (0..n).map(|i| (last + i) % n) {
                if self.0.load(Relaxed) & (1 << i) == 0
                    && self.0.fetch_or(1 << i, Acquire) & (1 << i) == 0
                {
                    LAST.set(i);
                    return Slot(self, i);
                }
            }
            wait.pause();
        }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_and(!(1 << self.1), Release);
    }
}

enum Code {
    #[cfg(kcm_jit)]
    Jit(Box<jit::Code>),
    Interpreter(interp::Code),
    Checked(Box<checked::Machine>),
}

/// A verified program with its maps, ready to run from any number of threads at once.
///
/// This is the engine's lower face; [`Parser`](crate::parser::Parser) is made of it.
pub struct Executable {
    code: Code,
    verified: Verified,
    maps: Box<[Arc<Map>]>,
    /// Takes part in per-CPU maps or asks for its processor.
    needs_slot: bool,
    metered: bool,
    scratch: bool,
    /// Compiled code that does without an environment. It lives in `code`.
    #[cfg(kcm_jit)]
    bare: Option<jit::Bare>,
    slots: Slots,
    /// The ring that the program writes log lines to, if any of its code does.
    logs: Option<Arc<Map>>,
}

impl Executable {
    /// Makes the program's maps from their definitions.
    ///
    /// # Errors
    /// [`ExecError::Map`] names the map that could not be made.
    pub fn make_maps(verified: &Verified) -> Result<Vec<Arc<Map>>, ExecError> {
        let one = |def: &super::map::MapDef| {
            Map::new(def.clone())
                .map(Arc::new)
                .map_err(|error| ExecError::Map { name: def.name.clone(), error })
        };
        verified.program().maps.iter().map(one).collect()
    }

    /// Lowers a verified program for an executor. `maps` are the program's, in its order,
    /// made from the same definitions ([`make_maps`](Self::make_maps)).
    ///
    /// # Errors
    /// [`ExecError::NoJit`] for [`Exec::Jit`] where there is none, [`ExecError::Maps`] when
    /// `maps` are not the program's, [`ExecError::Entry`], [`ExecError::Lower`].
    pub fn new(verified: Verified, maps: Vec<Arc<Map>>, exec: Exec) -> Result<Self, ExecError> {
        Self::check(&verified, &maps)?;
        let code = match exec {
            Exec::Interpreter => Code::Interpreter(interp::Code::new(&verified, &maps)?),
            #[cfg(kcm_jit)]
            Exec::Jit => Code::Jit(Box::new(jit::Code::new(&verified, &maps)?)),
            // A processor or a system that the JIT cannot serve is no reason not to run.
            #[cfg(kcm_jit)]
            Exec::Auto => match jit::Code::new(&verified, &maps) {
                Ok(code) => Code::Jit(Box::new(code)),
                Err(e) => {
                    log::warn!("{}: interpreted, for the JIT failed: {e}", verified.program().name);
                    Code::Interpreter(interp::Code::new(&verified, &maps)?)
                }
            },
            #[cfg(not(kcm_jit))]
            Exec::Auto => Code::Interpreter(interp::Code::new(&verified, &maps)?),
            #[cfg(not(kcm_jit))]
            Exec::Jit if cfg!(feature = "jit") => {
                return Err(ExecError::NoJit { why: "no code generator for this machine" });
            }
            #[cfg(not(kcm_jit))]
            Exec::Jit => return Err(ExecError::NoJit { why: "built without feature `jit`" }),
            Exec::Checked => Code::Checked(Box::new(checked::Machine::new(&verified))),
        };
        Ok(Self::of(verified, maps, code))
    }

    /// The same for several programs with their maps, as those of one object: where they are
    /// compiled, their code is in one allocation, which lives as long as any of them.
    ///
    /// # Errors
    /// As [`new`](Self::new), of any of them.
    pub fn together(
        programs: Vec<(Verified, Vec<Arc<Map>>)>,
        exec: Exec,
    ) -> Result<Vec<Self>, ExecError> {
        for (verified, maps) in &programs {
            Self::check(verified, maps)?;
        }
        #[cfg(kcm_jit)]
        if matches!(exec, Exec::Auto | Exec::Jit) {
            let compiled: Result<Vec<_>, _> = programs
                .iter()
                .map(|(verified, maps)| jit::Unplaced::new(verified, maps))
                .collect();
            match compiled.and_then(jit::Code::place) {
                Ok(codes) => {
                    let one = |((verified, maps), code)| {
                        Self::of(verified, maps, Code::Jit(Box::new(code)))
                    };
                    return Ok(programs.into_iter().zip(codes).map(one).collect());
                }
                Err(e) if exec == Exec::Jit => return Err(e),
                // Each as well as it can be.
                Err(_) => {}
            }
        }
        programs.into_iter().map(|(verified, maps)| Self::new(verified, maps, exec)).collect()
    }

    /// Whether the program is one that can be lowered with these maps.
    fn check(verified: &Verified, maps: &[Arc<Map>]) -> Result<(), ExecError> {
        if verified.entry() != Entry::Context {
            return Err(ExecError::Entry);
        }
        let defs = &verified.program().maps;
        // What was proved about a map's values rests on its definition.
        if defs.len() != maps.len() || defs.iter().zip(maps).any(|(d, m)| *d != *m.def()) {
            return Err(ExecError::Maps { expected: defs.len(), given: maps.len() });
        }
        Ok(())
    }

    /// `code` was made of the program and the maps.
    fn of(verified: Verified, maps: Vec<Arc<Map>>, code: Code) -> Self {
        let asks = verified
            .facts()
            .calls
            .iter()
            .flatten()
            .any(|c| c.helper == builtins::id::GET_SMP_PROCESSOR_ID);
        let logs = logs(&verified, &maps);
        Executable {
            #[cfg(kcm_jit)]
            bare: match &code {
                Code::Jit(code) => code.bare(),
                _ => None,
            },
            code,
            needs_slot: asks || maps.iter().any(|m| m.per_slot()),
            metered: !matches!(verified.facts().fuel, Fuel::NotNeeded),
            scratch: Scratch::is_written(&verified),
            maps: maps.into(),
            verified,
            slots: Slots::default(),
            logs,
        }
    }

    /// Whether the code of both is in one allocation.
    #[cfg(test)]
    pub(crate) fn is_beside(&self, other: &Executable) -> bool {
        match (&self.code, &other.code) {
            #[cfg(kcm_jit)]
            (Code::Jit(a), Code::Jit(b)) => a.is_beside(b),
            _ => false,
        }
    }

    /// The program and what was proved about it.
    pub fn verified(&self) -> &Verified {
        &self.verified
    }

    /// The program's maps, in its order.
    pub fn maps(&self) -> &[Arc<Map>] {
        &self.maps
    }

    /// Which executor this is: never [`Exec::Auto`].
    pub fn exec(&self) -> Exec {
        match self.code {
            #[cfg(kcm_jit)]
            Code::Jit(_) => Exec::Jit,
            Code::Interpreter(_) => Exec::Interpreter,
            Code::Checked(_) => Exec::Checked,
        }
    }

    /// Bytes of machine code, where it was compiled.
    pub fn code_size(&self) -> Option<usize> {
        match &self.code {
            #[cfg(kcm_jit)]
            Code::Jit(code) => Some(code.len()),
            _ => None,
        }
    }

    /// Runs the program over a message (the first 2 GiB − 1 of it) and returns r0 as it left
    /// it. `cookie` is what `bpf_get_socket_cookie` says.
    ///
    /// A metered program that used up its budget returns `-ELOOP`. In checked mode a program
    /// that does what the verifier proved it does not is ended with `-EFAULT`, and the log
    /// says where and why.
    #[inline(always)]
    pub fn run(&self, msg: &[u8], cookie: u64) -> u64 {
        // Nothing to set up and nothing to put back: most parsers. Small enough to be inlined.
        #[cfg(kcm_jit)]
        if let Some(entry) = self.bare {
            // SAFETY: `code`, where it came from, lives as long as `self`, as the maps do.
            return unsafe { entry.parse(&msg[..msg.len().min(MAX_SHOWN)]) };
        }
        self.run_in_session(msg, cookie)
    }

    #[inline(never)]
    fn run_in_session(&self, msg: &[u8], cookie: u64) -> u64 {
        self.session(cookie, Once(msg))
    }

    /// [`run`](Self::run) in checked mode, whatever the executor, with the trap as a value.
    ///
    /// # Errors
    /// The [`Trap`], which for a verified program is a bug of the verifier.
    pub fn run_checked(&self, msg: &[u8], cookie: u64) -> Result<u64, Trap> {
        self.run_counted(msg, cookie).map(|(r0, _)| r0)
    }

    /// The same, and how many instructions were executed.
    ///
    /// # Errors
    /// As [`run_checked`](Self::run_checked).
    pub fn run_counted(&self, msg: &[u8], cookie: u64) -> Result<(u64, u64), Trap> {
        let slot = self.needs_slot.then(|| self.slots.lease());
        let other;
        let machine = match &self.code {
            Code::Checked(m) => &**m,
            _ => {
                other = checked::Machine::new(&self.verified);
                &other
            }
        };
        let env = checked::Env { msg, maps: &self.maps, cookie, slot: slot.map_or(0, |s| s.1) };
        machine.run_counted(&env)
    }

    /// Walks a buffer; see [`Delineate::walk`](crate::delineate::Delineate::walk).
    pub fn walk(
        &self,
        buf: &[u8],
        start: usize,
        limits: WalkLimits,
        ends: &mut Vec<u32>,
        cookie: u64,
    ) -> WalkEnd {
        #[cfg(kcm_jit)]
        if let Code::Jit(code) = &self.code
            && start <= buf.len()
            && buf.len() <= MAX_SHOWN
        {
            return self.walk_compiled(code, buf, start, limits, ends, cookie);
        }
        self.session(cookie, Walk { buf, start, limits, ends })
    }

    /// Walks with the loop that is compiled around the program.
    #[cfg(kcm_jit)]
    fn walk_compiled(
        &self,
        code: &jit::Code,
        buf: &[u8],
        start: usize,
        limits: WalkLimits,
        ends: &mut Vec<u32>,
        cookie: u64,
    ) -> WalkEnd {
        /// Places for ends made at a time, at least.
        const SOME: usize = 64;
        let slot = self.needs_slot.then(|| self.slots.lease());
        let mut env =
            Env::new(slot.as_ref().map_or(0, |s| s.1), cookie, interp::NOTHING, self.fuel());
        env.show(buf);
        let range = buf.as_ptr_range();
        let mut state = jit::WalkState {
            base: range.start,
            at: range.start.wrapping_add(start),
            end: range.end,
            limit: u64::from(limits.max_message),
            ends: std::ptr::null_mut(),
            room: 0,
        };
        let mut room = limits.max_ends as usize;
        loop {
            if ends.spare_capacity_mut().is_empty() && room > 0 {
                ends.reserve(SOME.min(room));
            }
            let spare = ends.spare_capacity_mut();
            let places = spare.len().min(room);
            let first = spare.as_mut_ptr().cast::<u32>();
            (state.ends, state.room) = (first, places as u64);
            // SAFETY: the code was compiled from `self.verified` over `self.maps`, which live
            // as long as `self`; `state` delimits `buf` and the vector's spare places.
            let r0 = unsafe { code.walk(&mut env, &mut state) };
            self.finish(&mut env);
            // SAFETY: the code wrote the places from `first` to `state.ends`.
            let written = unsafe { state.ends.offset_from_unsigned(first) };
            // SAFETY: as above; they are within the capacity.
            unsafe { ends.set_len(ends.len() + written) };
            room -= written;
            let left = state.end as usize - state.at as usize;
            if left == 0 {
                return WalkEnd::Empty;
            }
            if written == places {
                if room == 0 {
                    return WalkEnd::Full;
                }
                continue;
            }
            return match Verdict::from_raw(r0 as i32) {
                Verdict::NeedMore => WalkEnd::NeedMore,
                Verdict::Error(code) => WalkEnd::Error(code),
                Verdict::Message(len) if len > limits.max_message => WalkEnd::TooLong { len },
                Verdict::Message(len) => WalkEnd::Partial { len },
            };
        }
    }

    /// Sets up once what all messages of one call share.
    #[inline(always)]
    fn session<'m, V: Visit<'m>>(&self, cookie: u64, visit: V) -> V::Out {
        let slot = self.needs_slot.then(|| self.slots.lease());
        let slot = slot.as_ref().map_or(0, |s| s.1);
        let out = match &self.code {
            #[cfg(kcm_jit)]
            Code::Jit(code) => {
                let mut env = Env::new(slot, cookie, interp::NOTHING, self.fuel());
                visit.visit(|msg| {
                    env.show(msg);
                    // SAFETY: `code` was compiled from `self.verified` over `self.maps`,
                    // which live as long as `self`; `env` shows `msg`.
                    let r0 = unsafe { code.parse(&mut env) };
                    self.finish(&mut env);
                    r0
                })
            }
            Code::Interpreter(code) => {
                let mut env = Env::new(slot, cookie, code.enter(), self.fuel());
                let mut room = interp::Room::new();
                visit.visit(|msg| {
                    env.show(msg);
                    // SAFETY: `code` was lowered from `self.verified` over `self.maps`, which
                    // live as long as `self`; `env` shows `msg`.
                    let r0 = unsafe { code.run(&mut env, &mut room) };
                    self.finish(&mut env);
                    r0
                })
            }
            Code::Checked(machine) => visit.visit(|msg| {
                let env = checked::Env { msg, maps: &self.maps, cookie, slot };
                machine.run(&env).unwrap_or_else(|trap| {
                    let name = &self.verified.program().name;
                    log::error!("checked mode ended the verified program {name}: {trap}");
                    builtins::err(libc::EFAULT)
                })
            }),
        };
        // Once for all messages of a call, and after the program: a logger may do anything.
        if let Some(logs) = &self.logs {
            crate::log::drain(logs);
        }
        out
    }

    /// Back edges that one call may take.
    #[inline(always)]
    fn fuel(&self) -> u64 {
        self.verified.facts().budget
    }

    /// Puts the environment back as the next message needs it.
    #[inline(always)]
    fn finish(&self, env: &mut Env<'_>) {
        if env.reserved.n != 0 {
            env.reserved.abandon();
        }
        if self.metered {
            env.fuel = self.fuel();
        }
        if self.scratch {
            env.cb = Scratch::default();
        }
        env.ended = 0;
    }
}

/// The map of log lines, if code that can run refers to it.
fn logs(verified: &Verified, maps: &[Arc<Map>]) -> Option<Arc<Map>> {
    let index = maps.iter().position(|m| m.name() == crate::log::RING && m.ring().is_some())?;
    let reached = verified.program().insns.iter().zip(&verified.facts().reached);
    let wide = |i: &super::insn::Insn| i.code == 0x18 && i.src == 1 && i.imm == index as i32;
    reached.into_iter().any(|(i, reached)| *reached && wide(i)).then(|| Arc::clone(&maps[index]))
}

impl std::fmt::Debug for Executable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executable")
            .field("name", &self.verified.program().name)
            .field("kind", &self.verified.program().kind)
            .field("exec", &self.exec())
            .field("maps", &self.maps)
            .finish_non_exhaustive()
    }
}

/// What is done with the way to ask about one message. A trait and not a closure, so that
/// each executor has its own loop with its own call inlined.
trait Visit<'m> {
    type Out;
    fn visit(self, ask: impl FnMut(&'m [u8]) -> u64) -> Self::Out;
}

struct Once<'m>(&'m [u8]);

impl<'m> Visit<'m> for Once<'m> {
    type Out = u64;

    #[inline(always)]
    fn visit(self, mut ask: impl FnMut(&'m [u8]) -> u64) -> u64 {
        ask(self.0)
    }
}

struct Walk<'m, 'e> {
    buf: &'m [u8],
    start: usize,
    limits: WalkLimits,
    ends: &'e mut Vec<u32>,
}

impl<'m> Visit<'m> for Walk<'m, '_> {
    type Out = WalkEnd;

    #[inline(always)]
    fn visit(self, mut ask: impl FnMut(&'m [u8]) -> u64) -> WalkEnd {
        let Walk { buf, start, limits, ends } = self;
        let mut at = start;
        let mut room = limits.max_ends;
        loop {
            let Some(rest) = buf.get(at..).filter(|r| !r.is_empty()) else {
                return WalkEnd::Empty;
            };
            if room == 0 {
                return WalkEnd::Full;
            }
            match Verdict::from_raw(ask(rest) as i32) {
                Verdict::NeedMore => return WalkEnd::NeedMore,
                Verdict::Error(code) => return WalkEnd::Error(code),
                Verdict::Message(len) if len > limits.max_message => {
                    return WalkEnd::TooLong { len };
                }
                Verdict::Message(len) if len as usize > rest.len() => {
                    return WalkEnd::Partial { len };
                }
                Verdict::Message(len) => {
                    at += len as usize;
                    ends.push(at as u32);
                    room -= 1;
                }
            }
        }
    }
}
