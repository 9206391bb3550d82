//! Whether tests of the kernel engine can run here, and what they have in common.
#![allow(unsafe_code)] // system calls that no crate wraps

use std::os::fd::{AsRawFd, BorrowedFd};

use kcm_core::{AttachOptions, Engine, Object, Parser, parsers};

use crate::skip::skip;

/// The parser that most of them attach with: 2 bytes of length, big-endian.
const PARSER: &str = "lenprefix_be16";

/// True where the kernel engine works; else the calling test is skipped, with what is missing.
pub fn available() -> bool {
    match kcm_core::kernel::probe() {
        Ok(_) => true,
        Err(e) => {
            skip(format!("no kernel engine here: {e}"));
            false
        }
    }
}

/// A message of `lenprefix_be16`.
pub fn message(body: &[u8]) -> Vec<u8> {
    let mut all = (body.len() as u16).to_be_bytes().to_vec();
    all.extend_from_slice(body);
    all
}

/// To attach with on the kernel engine.
pub fn kernel() -> AttachOptions {
    AttachOptions::new().engine(Engine::Kernel)
}

/// `lenprefix_be16` with a ring of its own, of so many bytes.
pub fn with_ring(bytes: u32) -> Parser {
    let object = parsers::object(PARSER).expect("a built-in object");
    let object = Object::parse(object).expect("it is whole");
    Parser::builder(&object, PARSER).kernel_ring(bytes).load().expect("it loads")
}

/// Takes capabilities away from the calling thread, for good.
///
/// # Errors
/// What the kernel says.
pub fn drop_capabilities(bits: &[u32]) -> std::io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    // Effective, permitted and inheritable, each in two words, the lower one first.
    let mut sets = [[0u32; 3]; 2];
    // _LINUX_CAPABILITY_VERSION_3
    let mut header = Header { version: 0x2008_0522, pid: 0 };
    // SAFETY: both arguments are of the structures that this version of the call takes.
    let got = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) };
    if got != 0 {
        return Err(std::io::Error::last_os_error());
    }
    for bit in bits {
        for set in &mut sets[(bit / 32) as usize] {
            *set &= !(1 << (bit % 32));
        }
    }
    // SAFETY: as above.
    let set = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) };
    if set != 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// Bytes that a socket has sent and its peer's kernel has not acknowledged.
///
/// # Errors
/// What the kernel says.
pub fn unacknowledged(socket: BorrowedFd<'_>) -> std::io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ) writes one int.
    let got = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if got != 0 { Err(std::io::Error::last_os_error()) } else { Ok(bytes as u32) }
}
