//! The few calls of `bpf(2)` that loading and attaching take.
#![allow(unsafe_code)] // a system call that no crate wraps

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::bpf::insn::Insn;
use crate::bpf::map::MapDef;

/// The type of sockmaps.
pub(super) const SOCKMAP: u32 = 15;
/// BPF_SK_SKB_STREAM_PARSER and BPF_SK_SKB_STREAM_VERDICT.
pub(super) const STREAM_PARSER: u32 = 4;
pub(super) const STREAM_VERDICT: u32 = 5;

const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const BTF_LOAD: libc::c_int = 18;
const MAP_FREEZE: libc::c_int = 22;

/// BPF_PROG_TYPE_SK_SKB.
const SK_SKB: u32 = 14;
/// BPF_F_RDONLY_PROG.
const RDONLY_PROG: u32 = 1 << 7;
/// BPF_NOEXIST.
const NOEXIST: u64 = 1;

/// The argument of the system call: zeros where nothing is said.
#[repr(C, align(8))]
struct Attr([u8; 128]);

impl Attr {
    fn new() -> Self {
        Attr([0; 128])
    }

    fn word(mut self, at: usize, value: u32) -> Self {
        if let Some(field) = self.0.get_mut(at..at + 4) {
            field.copy_from_slice(&value.to_ne_bytes());
        }
        self
    }

    fn long(mut self, at: usize, value: u64) -> Self {
        if let Some(field) = self.0.get_mut(at..at + 8) {
            field.copy_from_slice(&value.to_ne_bytes());
        }
        self
    }

    fn address<T>(self, at: usize, value: *const T) -> Self {
        self.long(at, value as usize as u64)
    }

    /// A name: letters, digits, `_` and `.` only, as the kernel wants it.
    fn name(mut self, at: usize, name: &str) -> Self {
        let good = |b: u8| if b.is_ascii_alphanumeric() || b == b'_' { b } else { b'_' };
        if let Some(field) = self.0.get_mut(at..at + 15) {
            for (to, from) in field.iter_mut().zip(name.bytes()) {
                *to = good(from);
            }
        }
        self
    }

    fn fd(self, at: usize, fd: BorrowedFd<'_>) -> Self {
        self.word(at, fd.as_raw_fd() as u32)
    }

    /// # Safety
    /// Every address put into it is of memory that is as long as the command takes it for, and
    /// alive.
    unsafe fn call(&mut self, command: libc::c_int) -> io::Result<i32> {
        // SAFETY: the argument is as long as is said; the rest is the caller's promise.
        let r = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), self.0.len()) };
        if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r as i32) }
    }

    /// For commands that make a descriptor.
    ///
    /// # Safety
    /// As [`call`](Self::call).
    unsafe fn make(&mut self, command: libc::c_int) -> io::Result<OwnedFd> {
        // SAFETY: the caller's promise; and the kernel has just made the descriptor for us.
        unsafe { self.call(command).map(|fd| OwnedFd::from_raw_fd(fd)) }
    }
}

/// Makes a map, with its first contents.
pub(super) fn map(def: &MapDef) -> io::Result<OwnedFd> {
    // SAFETY: no addresses.
    let fd = unsafe {
        Attr::new()
            .word(0, def.kind)
            .word(4, def.key_size)
            .word(8, def.value_size)
            .word(12, def.max_entries)
            .word(16, def.flags)
            .name(28, &def.name)
            .make(MAP_CREATE)?
    };
    if let Some(initial) = &def.initial {
        let mut value = initial.clone();
        value.resize(def.value_size as usize, 0);
        update(fd.as_fd(), &0u32.to_ne_bytes(), &value, false)?;
        if def.flags & RDONLY_PROG != 0 {
            // SAFETY: no addresses.
            unsafe { Attr::new().fd(0, fd.as_fd()).call(MAP_FREEZE)? };
        }
    }
    Ok(fd)
}

/// Sets a key; both slices have the map's sizes. `new`: it must not be there.
pub(super) fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8], new: bool) -> io::Result<()> {
    let attr = Attr::new().fd(0, map).address(8, key.as_ptr()).address(16, value.as_ptr());
    // SAFETY: key and value are alive, and of the map's sizes by the caller's promise.
    unsafe { attr.long(24, if new { NOEXIST } else { 0 }).call(MAP_UPDATE_ELEM).map(drop) }
}

/// Whether a sockmap has a socket at an index. Its values have 8 bytes.
pub(super) fn holds(sockmap: BorrowedFd<'_>, index: u32) -> bool {
    let (key, mut cookie) = (index.to_ne_bytes(), [0u8; 8]);
    let attr = Attr::new().fd(0, sockmap).address(8, key.as_ptr());
    // SAFETY: key and value are alive, and of a sockmap's sizes by the caller's promise.
    unsafe { attr.address(16, cookie.as_mut_ptr()).call(MAP_LOOKUP_ELEM).is_ok() }
}

/// Removes a key, which has the map's key size.
pub(super) fn delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<()> {
    // SAFETY: the key is alive, and of the map's size by the caller's promise.
    unsafe { Attr::new().fd(0, map).address(8, key.as_ptr()).call(MAP_DELETE_ELEM).map(drop) }
}

/// Attaches a program to a sockmap.
pub(super) fn attach(map: BorrowedFd<'_>, program: BorrowedFd<'_>, kind: u32) -> io::Result<()> {
    // SAFETY: no addresses.
    unsafe { Attr::new().fd(0, map).fd(4, program).word(8, kind).call(PROG_ATTACH).map(drop) }
}

/// A program for [`load`].
pub(super) struct Load<'a> {
    pub(super) name: &'a str,
    /// Maps named by descriptor.
    pub(super) insns: &'a [Insn],
    /// Where its functions start, in slots; the first at 0.
    pub(super) funcs: &'a [u32],
    pub(super) license: &'a str,
    /// [`STREAM_PARSER`] or [`STREAM_VERDICT`].
    pub(super) attach: u32,
}

/// Type information that says no more than that there are functions: a kernel takes the address
/// of one (`bpf_loop`) only where it has that. Two types: a prototype without parameters, and a
/// static function of it.
fn btf() -> Vec<u8> {
    let mut all = Vec::new();
    let types: [u32; 6] = [0, 13 << 24, 0, 1, 12 << 24, 1];
    let strings = b"\0f\0";
    all.extend_from_slice(&0xeb9f_u16.to_ne_bytes());
    all.extend_from_slice(&[1, 0]);
    let size = size_of_val(&types) as u32;
    for word in [24, 0, size, size, strings.len() as u32].iter().chain(&types) {
        all.extend_from_slice(&word.to_ne_bytes());
    }
    all.extend_from_slice(strings);
    all
}

/// The number of the function in [`btf`].
const FUNC_TYPE: u32 = 2;

/// Loads a program. On refusal the second part is what the kernel's verifier wrote.
pub(super) fn load(load: &Load<'_>) -> Result<OwnedFd, (io::Error, String)> {
    let plain = |e| (e, String::new());
    let code: Vec<[u8; 8]> = load.insns.iter().map(|i| i.to_bytes()).collect();
    let license = CString::new(load.license).unwrap_or_default();
    let info: Vec<[u32; 2]> = load.funcs.iter().map(|start| [*start, FUNC_TYPE]).collect();
    let mut attr = Attr::new()
        .word(0, SK_SKB)
        .word(4, code.len() as u32)
        .address(8, code.as_ptr())
        .address(16, license.as_ptr())
        .name(48, load.name)
        .word(68, load.attach);
    let _types;
    if info.len() > 1 {
        let types = btf();
        // SAFETY: the types are alive, and as long as is said.
        let fd = unsafe {
            Attr::new()
                .address(0, types.as_ptr())
                .word(16, types.len() as u32)
                .make(BTF_LOAD)
                .map_err(plain)?
        };
        attr = attr
            .fd(72, fd.as_fd())
            .word(76, 8)
            .address(80, info.as_ptr())
            .word(88, info.len() as u32);
        _types = fd;
    }
    // SAFETY: instructions, license and function records are alive, and as long as is said.
    let error = match unsafe { Attr(attr.0).make(PROG_LOAD) } {
        Ok(fd) => return Ok(fd),
        Err(e) => e,
    };
    // Again, for what the verifier has to say: its last words are what matters, and newer
    // kernels keep those where the buffer is too small.
    let mut log = vec![0u8; 1 << 24];
    let mut attr = attr.word(24, 1).word(28, log.len() as u32).address(32, log.as_mut_ptr());
    // SAFETY: as above, and the buffer is as long as is said.
    if let Ok(fd) = unsafe { attr.make(PROG_LOAD) } {
        // Memory was short a moment ago, perhaps.
        return Ok(fd);
    }
    let end = log.iter().position(|b| *b == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(log.get(..end).unwrap_or_default()).into_owned();
    Err((error, text))
}
