//! The same linked instructions in rbpf, as somebody would run a parser there: the context is a
//! socket buffer of which only the length is filled in, the message is reached through the
//! helper `bpf_skb_load_bytes`, registered as rbpf wants it.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;

use anyhow::{Context, Result, bail};
use kcm_core::bpf::program::Program;

/// `bpf_skb_load_bytes`.
const LOAD_BYTES: u32 = 26;

/// Large enough for every field of `__sk_buff`; the length is its first.
const CONTEXT: usize = 192;

thread_local! {
    /// The message that the running program is asked about.
    static MESSAGE: Cell<(*const u8, usize)> = const { Cell::new((std::ptr::null(), 0)) };
}

/// The helper: copies from the message to where the program says, -1 beyond its end.
fn load_bytes(_: u64, offset: u64, to: u64, len: u64, _: u64) -> u64 {
    let (message, size) = MESSAGE.get();
    let (offset, len) = (offset as u32 as usize, len as u32 as usize);
    if offset.checked_add(len).is_none_or(|end| end > size) {
        return -1i64 as u64;
    }
    // SAFETY: the range was just compared with the message's size, and `call` keeps the
    // message borrowed while the program runs. `to` is not checked: rbpf does not check what
    // a program passes to helpers, and our verifier has accepted this very program, with
    // `to..to + len` on its stack.
    #[allow(unsafe_code)]
    unsafe {
        std::ptr::copy_nonoverlapping(message.add(offset), to as *mut u8, len);
    }
    0
}

/// A program in rbpf.
pub(crate) struct Rbpf {
    vm: rbpf::EbpfVmMbuff<'static>,
    jit: bool,
    context: [u8; CONTEXT],
}

impl Rbpf {
    /// Loads it; an error says what rbpf cannot do.
    pub(crate) fn new(program: &Program, jit: bool) -> Result<Rbpf> {
        if !program.maps.is_empty() {
            bail!("the program has maps, of which rbpf knows nothing");
        }
        let bytes: Vec<u8> = program.insns.iter().flat_map(|i| i.to_bytes()).collect();
        // rbpf borrows the program; it lives as long as the benchmark.
        let bytes: &'static [u8] = bytes.leak();
        let mut vm = rbpf::EbpfVmMbuff::new(Some(bytes)).context("rbpf rejects it")?;
        vm.register_helper(LOAD_BYTES, load_bytes)?;
        if jit {
            // It panics where the code outgrows its buffer.
            let hook = std::panic::take_hook();
            std::panic::set_hook(Box::new(|_| {}));
            let compiled = std::panic::catch_unwind(AssertUnwindSafe(|| vm.jit_compile()));
            std::panic::set_hook(hook);
            match compiled {
                Ok(result) => result.context("rbpf's JIT")?,
                Err(_) => bail!("rbpf's JIT panics: the program is too large for its buffer"),
            }
        }
        Ok(Rbpf { vm, jit, context: [0; CONTEXT] })
    }

    /// Asks about one message.
    #[inline]
    pub(crate) fn call(&mut self, message: &[u8]) -> Result<i64> {
        MESSAGE.set((message.as_ptr(), message.len()));
        if let Some(len) = self.context.first_chunk_mut::<4>() {
            *len = (message.len() as u32).to_le_bytes();
        }
        let r0 = if self.jit {
            let context = std::ptr::from_mut(&mut self.context);
            // SAFETY: `execute_program_jit` wants the context for as long as the program
            // lives, but keeps nothing of it beyond the call; it is ours alone during the
            // call. The compiled code checks no access: our verifier accepted this program.
            #[allow(unsafe_code)]
            unsafe {
                self.vm.execute_program_jit(&mut [], &mut *context)?
            }
        } else {
            self.vm.execute_program(&[], &self.context)?
        };
        Ok(i64::from(r0 as i32))
    }
}
