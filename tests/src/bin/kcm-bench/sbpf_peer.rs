//! The same linked instructions in solana-sbpf, as somebody would run a parser there: its newest
//! instruction set is that of BPF; the context is a memory region of which only the length is
//! filled in, the message is reached through a system call of ours that does what
//! `bpf_skb_load_bytes` does. Every access is checked and every instruction metered: that is
//! what this machine is for.

use std::ptr::NonNull;
use std::sync::Arc;

use anyhow::{Result, bail};
use kcm_core::bpf::program::Program;
use solana_sbpf::aligned_memory::AlignedMemory;
use solana_sbpf::declare_builtin_function;
use solana_sbpf::ebpf;
use solana_sbpf::elf::Executable;
use solana_sbpf::error::{EbpfError, StableResult};
use solana_sbpf::memory_region::{AccessType, MemoryMapping, MemoryRegion};
use solana_sbpf::program::{BuiltinProgram, FunctionRegistry, SBPFVersion};
use solana_sbpf::verifier::RequisiteVerifier;
use solana_sbpf::vm::{CallFrame, Config, ContextObject, EbpfVm, ExecutionMode};

/// `bpf_skb_load_bytes`.
const LOAD_BYTES: i32 = 26;
const NAME: &str = "load_bytes";

/// Large enough for every field of `__sk_buff`; the length is its first.
const CONTEXT: usize = 192;

/// Instructions a call may execute.
const METER: u64 = 1 << 30;

/// What a running program can reach.
struct Reach {
    remaining: u64,
    mapping: MemoryMapping,
    /// The message that the running program is asked about.
    message: (*const u8, usize),
}

impl ContextObject for Reach {
    fn consume(&mut self, amount: u64) {
        self.remaining = self.remaining.saturating_sub(amount);
    }

    fn get_remaining(&self) -> u64 {
        self.remaining
    }

    fn active_mapping_ptr(&mut self) -> NonNull<MemoryMapping> {
        NonNull::from(&mut self.mapping)
    }
}

declare_builtin_function!(
    /// Copies from the message to where the program says, -1 beyond its end.
    LoadBytes,
    fn rust(
        reach: &mut Reach,
        _context: u64,
        offset: u64,
        to: u64,
        len: u64,
        _unused: u64,
    ) -> Result<u64, EbpfError> {
        let (message, size) = reach.message;
        let (offset, len) = (offset as u32 as usize, len as u32 as usize);
        if offset.checked_add(len).is_none_or(|end| end > size) {
            return Ok(-1i64 as u64);
        }
        let to = match reach.mapping.map(AccessType::Store, to, len as u64) {
            StableResult::Ok(to) => to.ptr_mut().cast::<u8>(),
            StableResult::Err(e) => return Err(e),
        };
        // SAFETY: the range was just compared with the message's size, and `call` keeps the
        // message borrowed while the program runs; `to..to + len` lies in a writable region.
        #[allow(unsafe_code)]
        unsafe {
            std::ptr::copy_nonoverlapping(message.add(offset), to, len);
        }
        Ok(0)
    }
);

/// Its errors stay in the thread they come from, and so are no causes of ours.
fn refused(who: &str, e: &EbpfError) -> anyhow::Error {
    anyhow::anyhow!("{who} refuses it: {e}")
}

/// A program in solana-sbpf.
pub(crate) struct Sbpf {
    // First, for it refers to the others.
    vm: EbpfVm<'static, Reach>,
    executable: Executable<Reach>,
    registers: [u64; 12],
    jit: bool,
    frames: Vec<CallFrame>,
    context: Box<[u8; CONTEXT]>,
}

impl Sbpf {
    /// Loads it; an error says what this machine cannot do.
    pub(crate) fn new(program: &Program, jit: bool) -> Result<Sbpf> {
        if !program.maps.is_empty() {
            bail!("the program has maps, of which solana-sbpf knows nothing");
        }
        let mut text = Vec::new();
        for insn in &program.insns {
            let mut insn = *insn;
            let calls_helper = insn.to_bytes()[0] == ebpf::CALL_IMM && insn.src == 0;
            if calls_helper && insn.imm == LOAD_BYTES {
                // System calls go by the hash of their name there.
                insn.imm = ebpf::hash_symbol_name(NAME.as_bytes()) as i32;
            }
            text.extend_from_slice(&insn.to_bytes());
        }
        let version = SBPFVersion::V4;
        let mut loader = BuiltinProgram::<Reach>::new_loader(Config::default());
        loader.register_definition::<LoadBytes>(NAME)?;
        let loader = Arc::new(loader);
        let executable = Executable::from_text_bytes(
            &text,
            loader.clone(),
            version,
            FunctionRegistry::default(),
        )
        .map_err(|e| refused("solana-sbpf", &e))?;
        executable.verify::<RequisiteVerifier>().map_err(|e| refused("its verifier", &e))?;
        if jit {
            executable.jit_compile().map_err(|e| refused("its JIT", &e))?;
        }
        let config = executable.get_config();
        // Both live as long as the benchmark, like the context object below.
        let stack = Box::leak(Box::new(AlignedMemory::<{ ebpf::HOST_ALIGN }>::zero_filled(
            config.stack_size(),
        )));
        let heap = Box::leak(Box::new(AlignedMemory::<{ ebpf::HOST_ALIGN }>::with_capacity(0)));
        let stack_len = stack.len();
        let mut context = Box::new([0; CONTEXT]);
        let regions = vec![
            executable.get_ro_region(),
            MemoryRegion::new(stack, ebpf::MM_STACK_START),
            MemoryRegion::new(heap, ebpf::MM_HEAP_START),
            MemoryRegion::new(&raw mut *context, ebpf::MM_INPUT_START),
        ];
        // SAFETY: stack and heap are never freed; the program's text is the executable's and
        // the context is a box, both of which live as long as the machine that uses them.
        // All are plain bytes, into which anything may be written.
        #[allow(unsafe_code)]
        let mapping = unsafe { MemoryMapping::new(regions, config, version) }
            .map_err(|e| refused("its memory", &e))?;
        let frames = vec![CallFrame::default(); config.max_call_depth];
        let reach = Box::leak(Box::new(Reach {
            remaining: METER,
            mapping,
            message: (std::ptr::null(), 0),
        }));
        let vm = EbpfVm::new(loader, version, reach, stack_len);
        let mut registers = vm.registers;
        registers[1] = ebpf::MM_INPUT_START;
        Ok(Sbpf { vm, executable, registers, jit, frames, context })
    }

    /// Asks about one message.
    #[inline]
    pub(crate) fn call(&mut self, message: &[u8]) -> Result<i64> {
        if let Some(len) = self.context.first_chunk_mut::<4>() {
            *len = (message.len() as u32).to_le_bytes();
        }
        let reach = self.vm.context();
        reach.message = (message.as_ptr(), message.len());
        reach.remaining = METER;
        self.vm.registers = self.registers;
        let mut mode = if self.jit { ExecutionMode::Jit } else { ExecutionMode::Interpreted };
        let (_, result) = self.vm.execute_program(&self.executable, &mut mode, &mut self.frames);
        match result {
            StableResult::Ok(r0) => Ok(i64::from(r0 as i32)),
            StableResult::Err(e) => bail!("{e}"),
        }
    }
}
