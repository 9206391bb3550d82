//! The running kernel's verifier and executor, as a second opinion on linked programs: load,
//! and run once over given bytes. Nothing is attached to anything.
#![allow(unsafe_code)] // system calls that no crate wraps

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use kcm_core::bpf::map::{MapDef, kind};
use kcm_core::bpf::program::{Program, ProgramKind};

const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;
const PROG_TEST_RUN: libc::c_int = 10;
const BTF_LOAD: libc::c_int = 18;
const MAP_FREEZE: libc::c_int = 22;

/// BPF_F_RDONLY_PROG.
const RDONLY_PROG: u32 = 1 << 7;

/// Bytes of an Ethernet header, which a test run takes off a socket filter's data.
const HEADER: usize = 14;

/// The most message bytes a test run takes: a page less what the kernel puts around them.
pub const MAX_DATA: usize = 2048;

/// The argument of the system call: zeros where nothing is said.
#[repr(C, align(8))]
struct Attr([u8; 128]);

impl Attr {
    fn new() -> Self {
        Attr([0; 128])
    }

    fn word(mut self, at: usize, value: u32) -> Self {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn address<T>(mut self, at: usize, value: *const T) -> Self {
        self.0[at..at + 8].copy_from_slice(&(value as usize as u64).to_ne_bytes());
        self
    }

    fn call(&mut self, command: libc::c_int) -> io::Result<i32> {
        // SAFETY: the argument is as long as is said; every address that a caller put into it
        // is of memory that is at least as long as the kernel takes it for, and alive.
        let r = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), self.0.len()) };
        if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r as i32) }
    }
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Why a program was not loaded.
#[derive(Debug)]
pub enum Refusal {
    /// This process may not ask, or the kernel has no such thing.
    CannotAsk(io::Error),
    /// A map cannot be made there.
    Map(String, io::Error),
    /// The kernel's verifier says no; the end of what it wrote.
    Rejected(io::Error, String),
}

/// A program that the kernel accepted.
#[derive(Debug)]
pub struct Loaded {
    program: OwnedFd,
    /// Alive as long as the program.
    _maps: Vec<OwnedFd>,
}

/// What a kernel wants to know of functions before it follows the address of one: a BTF object
/// in which each is a function of no arguments, and which of them begins where.
fn functions(program: &Program) -> io::Result<(OwnedFd, Vec<[u32; 2]>)> {
    const INT: [u32; 4] = [1, 1 << 24, 4, 1 << 24 | 32];
    const PROTO: [u32; 3] = [0, 13 << 24, 1];
    let mut strings = b"\0int\0".to_vec();
    let mut types: Vec<u32> = [&INT[..], &PROTO[..]].concat();
    let mut infos = Vec::new();
    for (n, f) in program.funcs.iter().enumerate() {
        types.extend([strings.len() as u32, 12 << 24, 2]);
        strings.extend(format!("f{n}\0").bytes());
        infos.push([f.start as u32, 3 + n as u32]);
    }
    let (types_len, strings_len) = (types.len() as u32 * 4, strings.len() as u32);
    // Magic, version 1, no flags; the header's length; where types and strings are.
    let mut blob: Vec<u8> = vec![0x9f, 0xeb, 1, 0];
    for word in [24, 0, types_len, types_len, strings_len].into_iter().chain(types) {
        blob.extend(word.to_le_bytes());
    }
    blob.extend(strings);
    let fd = Attr::new().address(0, blob.as_ptr()).word(16, blob.len() as u32).call(BTF_LOAD)?;
    Ok((owned(fd), infos))
}

/// Loads a program as what its kind says, or as a socket filter, which can be run.
///
/// # Errors
/// [`Refusal`].
pub fn load(program: &Program, as_filter: bool) -> Result<Loaded, Refusal> {
    let mut maps = Vec::new();
    for def in &program.maps {
        maps.push(map(def).map_err(|e| match e.raw_os_error() {
            Some(libc::EPERM | libc::ENOSYS) => Refusal::CannotAsk(e),
            _ => Refusal::Map(def.name.clone(), e),
        })?);
    }
    let mut insns = program.insns.clone();
    for insn in insns.iter_mut().filter(|i| i.code == 0x18 && matches!(i.src, 1 | 2)) {
        if let Some(fd) = maps.get(insn.imm as usize) {
            insn.imm = fd.as_raw_fd();
        }
    }
    let code: Vec<[u8; 8]> = insns.iter().map(|i| i.to_bytes()).collect();
    let license = std::ffi::CString::new(program.license.as_str()).unwrap_or_default();
    let (kind, attach) = match program.kind {
        _ if as_filter => (1, 0),
        ProgramKind::SocketFilter => (1, 0),
        ProgramKind::StreamVerdict => (14, 5),
        _ => (14, 4),
    };
    // Without callbacks nobody asks for it.
    let callbacks = program.insns.iter().any(|i| i.code == 0x18 && i.src == 4);
    let functions = if callbacks { functions(program).ok() } else { None };
    let with_functions = |attr: Attr| match &functions {
        Some((btf, infos)) => attr
            .word(72, btf.as_raw_fd() as u32)
            .word(76, 8)
            .address(80, infos.as_ptr())
            .word(88, infos.len() as u32),
        None => attr,
    };
    let attr = || {
        let attr = Attr::new()
            .word(0, kind)
            .word(4, code.len() as u32)
            .address(8, code.as_ptr())
            .address(16, license.as_ptr())
            .word(68, attach);
        with_functions(attr)
    };
    let error = match attr().call(PROG_LOAD) {
        Ok(fd) => return Ok(Loaded { program: owned(fd), _maps: maps }),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => {
            return Err(Refusal::CannotAsk(e));
        }
        Err(e) => e,
    };
    let mut log = vec![0u8; 16 << 20];
    let _ =
        attr().word(24, 1).word(28, log.len() as u32).address(32, log.as_mut_ptr()).call(PROG_LOAD);
    let end = log.iter().position(|b| *b == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(&log[..end]).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(6)..].join(" | ");
    Err(Refusal::Rejected(error, last))
}

fn map(def: &MapDef) -> io::Result<OwnedFd> {
    // As many as there are processors, where the definition leaves it to the loader.
    let perf = def.kind == kind::PERF_EVENT_ARRAY && def.max_entries == 0;
    let entries = if perf { 64 } else { def.max_entries };
    let fd = owned(
        Attr::new()
            .word(0, def.kind)
            .word(4, def.key_size)
            .word(8, def.value_size)
            .word(12, entries)
            .word(16, def.flags)
            .call(MAP_CREATE)?,
    );
    if let Some(initial) = &def.initial {
        let mut value = initial.clone();
        value.resize(def.value_size as usize, 0);
        Attr::new()
            .word(0, fd.as_raw_fd() as u32)
            .address(8, [0u8; 4].as_ptr())
            .address(16, value.as_ptr())
            .call(MAP_UPDATE_ELEM)?;
        if def.flags & RDONLY_PROG != 0 {
            Attr::new().word(0, fd.as_raw_fd() as u32).call(MAP_FREEZE)?;
        }
    }
    Ok(fd)
}

impl Loaded {
    /// Runs the program once over a message. Only socket filters can be run.
    ///
    /// # Errors
    /// What the kernel says; longer messages than [`MAX_DATA`] it does not take.
    pub fn run(&self, message: &[u8]) -> io::Result<u32> {
        let mut data = vec![0u8; HEADER];
        data.extend_from_slice(message);
        let mut attr = Attr::new()
            .word(0, self.program.as_raw_fd() as u32)
            .word(8, data.len() as u32)
            .address(16, data.as_ptr())
            .word(32, 1);
        attr.call(PROG_TEST_RUN)?;
        Ok(u32::from_ne_bytes([attr.0[4], attr.0[5], attr.0[6], attr.0[7]]))
    }
}
