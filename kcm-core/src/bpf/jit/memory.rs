//! Memory for machine code: written first, then executable, never both (W^X).

use std::ptr::NonNull;

/// A mapping that holds code. Unmapped when dropped.
pub(super) struct CodeMemory {
    at: NonNull<u8>,
    len: usize,
}

impl CodeMemory {
    /// Maps `code`, gives it to `patch` with the address at which it will run, and makes it
    /// executable.
    ///
    /// # Errors
    /// What the system calls said.
    pub(super) fn new(code: &[u8], patch: impl FnOnce(&mut [u8], u64)) -> std::io::Result<Self> {
        let len = code.len().max(1);
        // SAFETY: a new private mapping, placed by the kernel.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let Some(at) = NonNull::new(at.cast::<u8>()) else {
            return Err(std::io::ErrorKind::OutOfMemory.into());
        };
        // From here on dropped, and so unmapped, on every way out.
        let memory = CodeMemory { at, len };
        // SAFETY: the mapping is `len` bytes, readable and writable, and nobody else's yet.
        let bytes = unsafe { std::slice::from_raw_parts_mut(at.as_ptr(), len) };
        bytes[..code.len()].copy_from_slice(code);
        patch(bytes, at.as_ptr() as u64);
        // SAFETY: the mapping made above; `bytes` is not used any more.
        let done =
            unsafe { libc::mprotect(at.as_ptr().cast(), len, libc::PROT_READ | libc::PROT_EXEC) };
        if done != 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: the range is mapped and holds the code.
        unsafe {
            wasmtime_internal_jit_icache_coherence::clear_cache(at.as_ptr().cast(), len)
                .map_err(std::io::Error::other)?;
        }
        wasmtime_internal_jit_icache_coherence::pipeline_flush_mt()
            .map_err(std::io::Error::other)?;
        Ok(memory)
    }

    /// The address of the byte at an offset.
    pub(super) fn address(&self, offset: usize) -> Option<NonNull<u8>> {
        // SAFETY: inside the mapping.
        (offset < self.len).then(|| unsafe { self.at.add(offset) })
    }
}

impl Drop for CodeMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping made by `new`; whoever runs the code borrows this.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
    }
}

// SAFETY: the mapping is read-only (and executable) from `new` on.
unsafe impl Send for CodeMemory {}
// SAFETY: as above.
unsafe impl Sync for CodeMemory {}
