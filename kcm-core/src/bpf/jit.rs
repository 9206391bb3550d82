//! The JIT: verified programs as machine code without per-access checks (x86-64, aarch64), by
//! Cranelift.
//!
//! Two functions are made of a program: one that answers for one message, and one that walks
//! a buffer, with the program's body inside its loop (or, of a long program, a call of the
//! first). The functions of a program, and of programs that are loaded together, share one
//! allocation, which is never writable and executable at once.
//!
//! What makes the code fast, measured on the parsers of the benchmark: constants are carried
//! along the edges of the control-flow graph ([`follow`]), stack bytes at fixed offsets are
//! variables ([`stack`]), `bpf_skb_load_bytes` of a known size and look-ups in arrays are
//! inlined, the ends of the message are values, errors are moved out of the way.
#![allow(unsafe_code)]

mod follow;
mod memory;
mod stack;
mod translate;

use std::sync::{Arc, OnceLock};

use cranelift_codegen::Context;
use cranelift_codegen::binemit::Reloc;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I32, I64};
use cranelift_codegen::ir::{
    AbiParam, BlockArg, ExternalName, Function, InstBuilder, Signature, UserFuncName, Value,
};
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_codegen::settings::{self, Configurable};
use cranelift_codegen::{FinalizedMachReloc, FinalizedRelocTarget};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

use super::builtins;
use super::map::Map;
use super::run::{CTX, Env, ExecError, Scratch, shown};
use super::verifier::{Fuel, Verified};
use memory::CodeMemory;
use translate::{Exit, Translator, Unit, VALID};

/// What compiled walking code reads and writes.
#[repr(C)]
pub(crate) struct WalkState {
    /// The buffer's first byte, to which ends are relative.
    pub(crate) base: *const u8,
    /// Where the next message starts.
    pub(crate) at: *const u8,
    /// One past the buffer's last byte.
    pub(crate) end: *const u8,
    /// The longest message.
    pub(crate) limit: u64,
    /// Where the next end goes.
    pub(crate) ends: *mut u32,
    /// How many ends may still be written there.
    pub(crate) room: u64,
}

type ParseFn = unsafe extern "C" fn(*mut Env<'_>, *const u8, *const u8) -> u64;
type WalkFn = unsafe extern "C" fn(*mut Env<'_>, *mut WalkState) -> u64;

/// A compiled program.
pub(crate) struct Code {
    /// Keeps the code mapped.
    #[cfg_attr(not(test), expect(dead_code))]
    memory: Arc<CodeMemory>,
    len: usize,
    parse: ParseFn,
    walk: WalkFn,
    /// Whether the code looks at its environment.
    uses_env: bool,
}

/// The parsing function of code that never looks at its environment.
#[derive(Clone, Copy)]
pub(crate) struct Bare(ParseFn);

impl Bare {
    /// Answers for a message of at most 2^31 - 1 bytes.
    ///
    /// # Safety
    /// The [`Code`] that this came from lives, and so do the maps it was compiled with.
    #[inline(always)]
    pub(crate) unsafe fn parse(self, msg: &[u8]) -> u64 {
        let range = shown(msg);
        // SAFETY: the code of a verified program, given a message; it does not look at its
        // environment, and by contract it is mapped.
        unsafe { (self.0)(std::ptr::null_mut(), range.start, range.end) }
    }
}

/// The machine this runs on, as Cranelift describes it.
fn isa() -> Result<OwnedTargetIsa, ExecError> {
    static ISA: OnceLock<Result<OwnedTargetIsa, &'static str>> = OnceLock::new();
    let make = || {
        let mut flags = settings::builder();
        let on = |flags: &mut settings::Builder, name: &str, value: &str| {
            flags.set(name, value).map_err(|_| "the code generator does not know an option of ours")
        };
        on(&mut flags, "opt_level", "speed")?;
        on(&mut flags, "is_pic", "false")?;
        on(&mut flags, "unwind_info", "false")?;
        on(&mut flags, "enable_probestack", "false")?;
        let check = if cfg!(debug_assertions) { "true" } else { "false" };
        on(&mut flags, "enable_verifier", check)?;
        let builder = cranelift_native::builder()?;
        builder
            .finish(settings::Flags::new(flags))
            .map_err(|_| "the code generator does not support this processor")
    };
    ISA.get_or_init(make).clone().map_err(|why| ExecError::NoJit { why })
}

fn signature(isa: &OwnedTargetIsa, params: usize) -> Signature {
    let mut s = Signature::new(isa.default_call_conv());
    s.params = vec![AbiParam::new(I64); params];
    s.returns = vec![AbiParam::new(I64)];
    s
}

/// Machine code of one function, not yet placed.
struct Compiled {
    code: Vec<u8>,
    align: usize,
    relocs: Vec<Reference>,
}

/// A call from one function of the program to another.
struct Reference {
    kind: Reloc,
    offset: usize,
    addend: i64,
    /// The callee's number among the program's functions, if it is one.
    func: Option<usize>,
}

/// A compiled program that has no place in memory yet.
pub(crate) struct Unplaced {
    /// The parsing function, the walking one, and the program's functions from its second on.
    parts: Vec<Compiled>,
    uses_env: bool,
}

struct Compiler {
    isa: OwnedTargetIsa,
    context: Context,
    builder: FunctionBuilderContext,
}

impl Compiler {
    /// Compiles one function; `write` makes its body.
    fn compile(
        &mut self,
        signature: Signature,
        write: impl FnOnce(FunctionBuilder<'_>, &[Value]) -> Result<(), ExecError>,
    ) -> Result<Compiled, ExecError> {
        self.context.clear();
        self.context.func = Function::with_name_signature(UserFuncName::default(), signature);
        let mut b = FunctionBuilder::new(&mut self.context.func, &mut self.builder);
        let entry = b.create_block();
        b.append_block_params_for_function_params(entry);
        b.switch_to_block(entry);
        let params = b.block_params(entry).to_vec();
        write(b, &params)?;
        self.context.compile(&*self.isa, &mut ControlPlane::default()).map_err(|e| {
            ExecError::Lower { insn: 0, why: format!("the code generator failed: {:?}", e.inner) }
        })?;
        let Some(compiled) = self.context.compiled_code() else {
            return translate::fail(0, "the code generator made no code");
        };
        let names = self.context.func.params.user_named_funcs();
        let reference = |r: &FinalizedMachReloc| Reference {
            kind: r.kind,
            offset: r.offset as usize,
            addend: r.addend,
            func: match &r.target {
                FinalizedRelocTarget::ExternalName(ExternalName::User(u)) => {
                    names.get(*u).map(|n| n.index as usize)
                }
                _ => None,
            },
        };
        Ok(Compiled {
            code: compiled.code_buffer().to_vec(),
            align: compiled.buffer.alignment.max(32) as usize,
            relocs: compiled.buffer.relocs().iter().map(reference).collect(),
        })
    }
}

impl Unplaced {
    /// Compiles a program.
    pub(crate) fn new(verified: &Verified, maps: &[Arc<Map>]) -> Result<Self, ExecError> {
        let isa = isa()?;
        let program = verified.program();
        let funcs: Vec<usize> = program.funcs.iter().map(|f| f.start).collect();
        if funcs.first() != Some(&0) {
            return translate::fail(0, "no function starts at the first instruction");
        }
        // Functions after the main one take the environment, the message and r1-r5.
        let main = signature(&isa, 3);
        let sub = signature(&isa, 8);
        let helper = std::array::from_fn(|n| signature(&isa, n + 1));
        let mut unit = Unit {
            insns: &program.insns,
            facts: verified.facts(),
            funcs: &funcs,
            maps,
            may_end: &[],
            scratch: Scratch::is_written(verified),
            main: &main,
            sub: &sub,
            helper: &helper,
        };
        let may_end = may_end(&unit);
        unit.may_end = &may_end;
        let layouts: Vec<stack::Layout> = (0..funcs.len())
            .map(|f| stack::layout(verified, unit.slots_of(f), |fact| unit.inline_lookup(fact)))
            .collect();
        let mut compiler =
            Compiler { isa, context: Context::new(), builder: FunctionBuilderContext::new() };
        let config = compiler.isa.frontend_config();
        let parse = compiler.compile(main.clone(), |mut b, params| {
            let &[env, data, end] = params else { return no_parameters() };
            let ctx = b.ins().iconst(I64, CTX as i64);
            Translator::new(&unit, &mut b, 0, &layouts[0], Exit::Return, env).body(
                data,
                end,
                &[ctx],
            )?;
            b.seal_all_blocks();
            b.finalize(config);
            Ok(())
        })?;
        let whole = signature(&compiler.isa, 2);
        let walk = compiler.compile(whole, |mut b, params| {
            let &[env, state] = params else { return no_parameters() };
            write_walk(&unit, &mut b, &layouts[0], env, state)?;
            b.seal_all_blocks();
            b.finalize(config);
            Ok(())
        })?;
        let mut parts = vec![parse, walk];
        for f in 1..funcs.len() {
            // One that nothing calls is not there, but its number is.
            if !unit.reached(funcs[f]) {
                parts.push(Compiled { code: Vec::new(), align: 1, relocs: Vec::new() });
                continue;
            }
            parts.push(compiler.compile(sub.clone(), |mut b, params| {
                let [env, data, end, args @ ..] = params else { return no_parameters() };
                Translator::new(&unit, &mut b, f, &layouts[f], Exit::Return, *env)
                    .body(*data, *end, args)?;
                b.seal_all_blocks();
                b.finalize(config);
                Ok(())
            })?);
        }
        Ok(Unplaced { parts, uses_env: uses_env(&unit) })
    }
}

impl Code {
    /// Compiles a program and gives it memory of its own.
    pub(crate) fn new(verified: &Verified, maps: &[Arc<Map>]) -> Result<Self, ExecError> {
        let mut placed = Self::place(vec![Unplaced::new(verified, maps)?])?;
        placed.pop().ok_or_else(|| lower("a program got no place".into()))
    }

    /// Lays programs out in one mapping, which lives as long as any of them.
    pub(crate) fn place(programs: Vec<Unplaced>) -> Result<Vec<Self>, ExecError> {
        let mut code = Vec::new();
        let mut places: Vec<Vec<usize>> = Vec::new();
        let mut ends = Vec::new();
        for program in &programs {
            let mut at = Vec::new();
            for p in &program.parts {
                code.resize(code.len().next_multiple_of(p.align), 0);
                at.push(code.len());
                code.extend_from_slice(&p.code);
            }
            places.push(at);
            ends.push(code.len());
        }
        let mut failed = None;
        let memory = CodeMemory::new(&code, |bytes, _| {
            for (program, places) in programs.iter().zip(&places) {
                for (p, place) in program.parts.iter().zip(places) {
                    for r in &p.relocs {
                        if relocate(bytes, *place, r, places).is_none() {
                            failed = Some(format!("a reference of kind {:?}", r.kind));
                        }
                    }
                }
            }
        });
        let memory = Arc::new(memory.map_err(|e| lower(format!("no memory for code: {e}")))?);
        if let Some(what) = failed {
            return Err(lower(format!("{what} could not be resolved")));
        }
        let mut from = 0;
        let placed = programs.iter().zip(&places).zip(ends).map(|((program, places), end)| {
            let entry = |i: usize| {
                let at = places.get(i).and_then(|p| memory.address(*p));
                at.ok_or_else(|| lower("a function has no code".into()))
            };
            let (parse, walk) = (entry(0)?.as_ptr(), entry(1)?.as_ptr());
            // SAFETY: functions with these signatures, in C's calling convention, were
            // compiled to these places.
            let parse = unsafe { std::mem::transmute::<*mut u8, ParseFn>(parse) };
            // SAFETY: as above.
            let walk = unsafe { std::mem::transmute::<*mut u8, WalkFn>(walk) };
            let len = end - from;
            from = end;
            let memory = Arc::clone(&memory);
            Ok(Code { memory, len, parse, walk, uses_env: program.uses_env })
        });
        placed.collect()
    }

    /// Whether two programs' code is in one mapping.
    #[cfg(test)]
    pub(crate) fn is_beside(&self, other: &Code) -> bool {
        Arc::ptr_eq(&self.memory, &other.memory)
    }

    /// The way in that needs no environment, where the code does without.
    pub(crate) fn bare(&self) -> Option<Bare> {
        (!self.uses_env).then_some(Bare(self.parse))
    }

    /// Bytes of machine code.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Answers for the message that `env` shows.
    ///
    /// # Safety
    /// The maps that the code was compiled with are alive.
    #[inline(always)]
    pub(crate) unsafe fn parse(&self, env: &mut Env<'_>) -> u64 {
        let (data, end) = (env.data, env.data_end);
        // SAFETY: the code of a verified program, given the message that `env` shows.
        unsafe { (self.parse)(env, data, end) }
    }

    /// Walks from `state.at`, writing ends, until there is no room, no byte, or no whole
    /// message that is short enough; returns r0 of the last message asked about (0 if none).
    ///
    /// # Safety
    /// As for [`parse`](Self::parse); `base <= at <= end` delimit a buffer of at most 2^31 - 1
    /// bytes that outlives `env`'s message, and `room` numbers can be written at `ends`.
    pub(crate) unsafe fn walk(&self, env: &mut Env<'_>, state: &mut WalkState) -> u64 {
        // SAFETY: by contract.
        unsafe { (self.walk)(env, state) }
    }
}

fn lower(why: String) -> ExecError {
    ExecError::Lower { insn: 0, why }
}

fn no_parameters<T>() -> Result<T, ExecError> {
    translate::fail(0, "a function of the JIT's has other parameters than it should")
}

/// Which functions may end the whole program: by a legacy load past the end, or by running
/// out of fuel, in themselves or in one they call.
fn may_end(unit: &Unit<'_>) -> Vec<bool> {
    let funcs = 0..unit.funcs.len();
    let mut ends: Vec<bool> = funcs
        .clone()
        .map(|f| {
            unit.slots_of(f).any(|s| {
                let code = unit.insns[s].code;
                let legacy = code & 7 == 0 && matches!(code & 0xe0, 0x20 | 0x40);
                unit.reached(s) && (legacy || unit.metered(s))
            })
        })
        .collect();
    // Calls are acyclic: as many rounds as functions are enough.
    for _ in funcs.clone() {
        for f in funcs.clone() {
            let calls = |s: usize| {
                let i = unit.insns[s];
                let local = (i.code == 0x85 && i.src == 1)
                    .then(|| s.wrapping_add_signed(1 + i.imm as isize));
                let fact = unit.facts.calls.get(s).and_then(Option::as_ref);
                local.or_else(|| fact.and_then(|f| f.callback))
            };
            let called = unit.slots_of(f).filter(|s| unit.reached(*s)).filter_map(calls);
            let any = called.into_iter().any(|t| ends[unit.func_of(t)]);
            ends[f] |= any;
        }
    }
    ends
}

/// Whether a helper that is called looks at the message through the environment.
fn reads_env_message(unit: &Unit<'_>) -> bool {
    use builtins::id::*;
    unit.facts.calls.iter().enumerate().any(|(s, c)| {
        c.as_ref().is_some_and(|c| {
            unit.reached(s)
                && stack::inline_load_bytes(c).is_none()
                && matches!(
                    c.helper,
                    SKB_LOAD_BYTES | SKB_LOAD_BYTES_RELATIVE | SKB_PULL_DATA | PERF_EVENT_OUTPUT
                )
        })
    })
}

/// Whether the code looks at its environment: for a helper that is called, fuel, the
/// context's scratch bytes, or to say that a callee ended the program.
fn uses_env(unit: &Unit<'_>) -> bool {
    let calls = unit.facts.calls.iter().enumerate().any(|(s, c)| {
        c.as_ref().is_some_and(|c| {
            let inline = stack::inline_load_bytes(c).is_some() || unit.inline_lookup(c).is_some();
            unit.reached(s) && !inline
        })
    });
    calls
        || unit.scratch
        || !matches!(unit.facts.fuel, Fuel::NotNeeded)
        || unit.may_end.contains(&true) && unit.funcs.len() > 1
}

/// Whether the loop over a buffer calls the parsing function instead of holding the program's
/// body once more. What a call costs is lost in what a long program does, and the code generator
/// has half the work.
fn walks_by_call(unit: &Unit<'_>) -> bool {
    const LONG: usize = 256;
    unit.slots_of(0).filter(|s| unit.reached(*s)).count() > LONG
}

/// The loop over a buffer, with the program's body inside, or a call of it.
fn write_walk(
    unit: &Unit<'_>,
    b: &mut FunctionBuilder<'_>,
    layout: &stack::Layout,
    env: Value,
    state: Value,
) -> Result<(), ExecError> {
    let offset = |field: usize| field as i32;
    let load =
        |b: &mut FunctionBuilder<'_>, field: usize| b.ins().load(I64, VALID, state, offset(field));
    let base = load(b, std::mem::offset_of!(WalkState, base));
    let first = load(b, std::mem::offset_of!(WalkState, at));
    let end = load(b, std::mem::offset_of!(WalkState, end));
    let limit = load(b, std::mem::offset_of!(WalkState, limit));
    let ends = load(b, std::mem::offset_of!(WalkState, ends));
    let room = load(b, std::mem::offset_of!(WalkState, room));
    // One past the last place for an end.
    let bytes = b.ins().ishl_imm_u(room, 2);
    let last = b.ins().iadd(ends, bytes);

    let [head, some, ask, answer, whole, out] = std::array::from_fn(|_| b.create_block());
    let at = b.append_block_param(head, I64);
    let to = b.append_block_param(head, I64);
    let r0 = b.append_block_param(answer, I64);
    let result = b.append_block_param(out, I64);
    b.ins().jump(head, &[BlockArg::Value(first), BlockArg::Value(ends)]);

    b.switch_to_block(head);
    let zero = b.ins().iconst(I64, 0);
    let nothing = [BlockArg::Value(zero)];
    let more = b.ins().icmp(IntCC::NotEqual, at, end);
    b.ins().brif(more, some, &[], out, &nothing);
    b.switch_to_block(some);
    let fits = b.ins().icmp(IntCC::NotEqual, to, last);
    b.ins().brif(fits, ask, &[], out, &nothing);

    b.switch_to_block(ask);
    if reads_env_message(unit) {
        b.ins().store(VALID, at, env, offset(std::mem::offset_of!(Env<'_>, data)));
        b.ins().store(VALID, end, env, offset(std::mem::offset_of!(Env<'_>, data_end)));
    }
    let ctx = b.ins().iconst(I64, CTX as i64);
    let mut t = Translator::new(unit, b, 0, layout, Exit::Continue(answer), env);
    if !matches!(unit.facts.fuel, Fuel::NotNeeded) {
        t.refuel();
    }
    if unit.scratch {
        t.clear_scratch();
    }
    if walks_by_call(unit) {
        let r0 = t.call_main(at, end);
        b.ins().jump(answer, &[BlockArg::Value(r0)]);
    } else {
        t.body(at, end, &[ctx])?;
    }

    b.switch_to_block(answer);
    // 0 < r0 <= limit and r0 <= what is here, in one comparison: 0 and errors are large.
    let len = b.ins().ireduce(I32, r0);
    let one = b.ins().iconst(I32, 1);
    let less = b.ins().isub(len, one);
    let less = b.ins().uextend(I64, less);
    let here = b.ins().isub(end, at);
    let most = b.ins().umin(here, limit);
    let good = b.ins().icmp(IntCC::UnsignedLessThan, less, most);
    b.ins().brif(good, whole, &[], out, &[BlockArg::Value(r0)]);

    b.switch_to_block(whole);
    let len = b.ins().uextend(I64, len);
    let next = b.ins().iadd(at, len);
    let relative = b.ins().isub(next, base);
    b.ins().istore32(VALID, relative, to, 0);
    let after = b.ins().iadd_imm_s(to, 4);
    b.ins().jump(head, &[BlockArg::Value(next), BlockArg::Value(after)]);

    b.switch_to_block(out);
    b.ins().store(VALID, at, state, offset(std::mem::offset_of!(WalkState, at)));
    b.ins().store(VALID, to, state, offset(std::mem::offset_of!(WalkState, ends)));
    b.ins().return_(&[result]);
    Ok(())
}

/// Resolves a reference from the function at `place` to a function of the program. `None`: it
/// is of a kind that no code of ours has.
fn relocate(bytes: &mut [u8], place: usize, r: &Reference, places: &[usize]) -> Option<()> {
    let at = place + r.offset;
    // The main function is there twice; what is called is the one that parses.
    let target = *places.get(r.func.map(|f| if f == 0 { 0 } else { f + 1 })?)? as i64;
    let field = bytes.get_mut(at..)?.first_chunk_mut::<4>()?;
    match r.kind {
        Reloc::X86CallPCRel4 | Reloc::X86PCRel4 => {
            let by = i32::try_from(target + r.addend - at as i64).ok()?;
            *field = by.to_le_bytes();
        }
        Reloc::Arm64Call => {
            let by = (target + r.addend - at as i64) >> 2;
            if !(-(1 << 25)..1 << 25).contains(&by) {
                return None;
            }
            let insn = u32::from_le_bytes(*field) & 0xfc00_0000;
            *field = (insn | (by as u32 & 0x03ff_ffff)).to_le_bytes();
        }
        _ => return None,
    }
    Some(())
}
