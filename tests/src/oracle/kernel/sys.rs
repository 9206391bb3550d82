//! The system calls of AF_KCM, and those that a guest needs: each does one thing and returns
//! the error number.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_long, c_void};
use std::mem::{size_of, zeroed};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::ptr::null_mut;

use crate::oracle::backend::{Got, Ready, Result};
use crate::oracle::errno::Errno;
use crate::oracle::program::Slot;

/// The address family.
pub const AF_KCM: c_int = 41;
/// Level of KCM's own options.
pub const SOL_KCM: c_int = 281;
/// The one option.
pub const RECV_DISABLE: c_int = 1;
/// Queue and do not transmit yet.
pub const MSG_BATCH: c_int = 0x40000;
/// {tcp fd, program fd}.
pub const SIOCKCMATTACH: u64 = 0x89E0;
/// {tcp fd}.
pub const SIOCKCMUNATTACH: u64 = 0x89E1;
/// {new fd}, written by the kernel.
pub const SIOCKCMCLONE: u64 = 0x89E2;
/// BPF program type.
pub const SOCKET_FILTER: u32 = 1;
/// BPF program type.
pub const SCHED_CLS: u32 = 3;
/// BPF program type.
pub const SK_SKB: u32 = 14;

/// An address in the first page, which is never mapped.
const NOWHERE: *mut c_void = std::ptr::without_provenance_mut(8);

const BPF_MAP_CREATE: c_int = 0;
const BPF_MAP_LOOKUP_ELEM: c_int = 1;
const BPF_PROG_LOAD: c_int = 5;

fn check(r: c_long) -> Result<usize> {
    usize::try_from(r).map_err(|_| Errno::last())
}

fn owned(r: c_long) -> Result<OwnedFd> {
    let fd = check(r)?;
    // SAFETY: the kernel has just returned this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// A KCM socket of any type and protocol.
pub fn kcm_socket(ty: c_int, protocol: c_int) -> Result<OwnedFd> {
    // SAFETY: no pointers.
    owned(unsafe { libc::socket(AF_KCM, ty, protocol) }.into())
}

/// A socket of any family.
pub fn socket(family: c_int, ty: c_int, protocol: c_int) -> Result<OwnedFd> {
    // SAFETY: no pointers.
    owned(unsafe { libc::socket(family, ty, protocol) }.into())
}

/// SIOCKCMCLONE.
pub fn kcm_clone(k: RawFd) -> Result<OwnedFd> {
    let mut new: c_int = -1;
    // SAFETY: the kernel writes one int to the pointer, which is a live one.
    check(unsafe { libc::ioctl(k, SIOCKCMCLONE as _, &raw mut new) }.into())?;
    owned(new.into())
}

/// SIOCKCMATTACH.
pub fn kcm_attach(k: RawFd, tcp: RawFd, program: RawFd) -> Result<()> {
    let arg = [tcp, program];
    // SAFETY: the kernel reads two ints from the pointer.
    check(unsafe { libc::ioctl(k, SIOCKCMATTACH as _, arg.as_ptr()) }.into()).map(drop)
}

/// SIOCKCMUNATTACH.
pub fn kcm_unattach(k: RawFd, tcp: RawFd) -> Result<()> {
    let arg = [tcp];
    // SAFETY: the kernel reads one int from the pointer.
    check(unsafe { libc::ioctl(k, SIOCKCMUNATTACH as _, arg.as_ptr()) }.into()).map(drop)
}

/// Any ioctl with a pointer that is no address: what the kernel says to that.
pub fn ioctl_bad_pointer(fd: RawFd, request: u64) -> Result<usize> {
    // SAFETY: the kernel checks user pointers; the first page is never mapped, so that it can only
    // refuse it.
    check(unsafe { libc::ioctl(fd, request as _, NOWHERE) }.into())
}

/// Any ioctl on an int.
pub fn ioctl_int(fd: RawFd, request: u64, value: &mut c_int) -> Result<usize> {
    // SAFETY: the requests used here read or write one int at the pointer.
    check(unsafe { libc::ioctl(fd, request as _, std::ptr::from_mut(value)) }.into())
}

/// The calls that a KCM socket has no use for, by name.
pub fn unsupported(fd: RawFd, call: &str) -> Result<usize> {
    // SAFETY: an all-zero socket address is valid, and its size is passed.
    let mut addr: libc::sockaddr_in = unsafe { zeroed() };
    let mut len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    let p: *mut libc::sockaddr = (&raw mut addr).cast();
    let mut two = [-1; 2];
    // SAFETY: every pointer is to a live local of the size that is passed.
    let r = unsafe {
        match call {
            "bind" => libc::bind(fd, p, len),
            "connect" => libc::connect(fd, p, len),
            "listen" => libc::listen(fd, 1),
            "accept" => libc::accept(fd, null_mut(), null_mut()),
            "getsockname" => libc::getsockname(fd, p, &raw mut len),
            "getpeername" => libc::getpeername(fd, p, &raw mut len),
            "shutdown" => libc::shutdown(fd, libc::SHUT_RDWR),
            _ => libc::socketpair(AF_KCM, libc::SOCK_DGRAM, 0, two.as_mut_ptr()),
        }
    };
    check(r.into())
}

/// send().
pub fn send(fd: RawFd, bytes: &[u8], flags: c_int) -> Result<usize> {
    // SAFETY: pointer and length are of one slice.
    check(unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) } as c_long)
}

/// sendto() with an address, which KCM ignores.
pub fn send_with_address(fd: RawFd, bytes: &[u8], flags: c_int) -> Result<usize> {
    // SAFETY: an all-zero socket address is valid.
    let addr: libc::sockaddr_in = unsafe { zeroed() };
    let len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: both pointers are to live values of the sizes that are passed.
    let r = unsafe {
        libc::sendto(fd, bytes.as_ptr().cast(), bytes.len(), flags, (&raw const addr).cast(), len)
    };
    check(r as c_long)
}

/// sendmsg() of good bytes followed by a part that is not mapped.
pub fn send_with_fault(fd: RawFd, good: &[u8], flags: c_int) -> Result<usize> {
    let mut iov = [
        libc::iovec { iov_base: good.as_ptr().cast_mut().cast(), iov_len: good.len() },
        libc::iovec { iov_base: NOWHERE, iov_len: 4 },
    ];
    // SAFETY: an all-zero msghdr is valid.
    let mut h: libc::msghdr = unsafe { zeroed() };
    h.msg_iov = iov.as_mut_ptr();
    h.msg_iovlen = iov.len() as _;
    // SAFETY: the header and the first part are live; the second is an address that is never
    // mapped, which the kernel checks and refuses.
    check(unsafe { libc::sendmsg(fd, &raw const h, flags) } as c_long)
}

/// sendmmsg().
pub fn sendmmsg(fd: RawFd, messages: &[&[u8]], flags: c_int) -> Result<usize> {
    let mut iov: Vec<libc::iovec> = messages
        .iter()
        .map(|m| libc::iovec { iov_base: m.as_ptr().cast_mut().cast(), iov_len: m.len() })
        .collect();
    let mut heads: Vec<libc::mmsghdr> = iov
        .iter_mut()
        .map(|v| {
            // SAFETY: an all-zero mmsghdr is valid.
            let mut h: libc::mmsghdr = unsafe { zeroed() };
            h.msg_hdr.msg_iov = v;
            h.msg_hdr.msg_iovlen = 1;
            h
        })
        .collect();
    // SAFETY: the headers and what they point to are live; the kernel only reads the bytes.
    check(unsafe { libc::sendmmsg(fd, heads.as_mut_ptr(), heads.len() as _, flags) }.into())
}

/// write().
pub fn write(fd: RawFd, bytes: &[u8]) -> Result<usize> {
    // SAFETY: pointer and length are of one slice.
    check(unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) } as c_long)
}

/// read().
pub fn read(fd: RawFd, buf: &mut [u8]) -> Result<usize> {
    // SAFETY: pointer and length are of one slice.
    check(unsafe { libc::read(fd, buf.as_mut_ptr().cast(), buf.len()) } as c_long)
}

/// recv() to an address that is not mapped.
pub fn recv_with_fault(fd: RawFd) -> Result<usize> {
    // SAFETY: the first page is never mapped: the kernel checks and refuses it.
    let r = unsafe { libc::recv(fd, NOWHERE, 20, libc::MSG_DONTWAIT) };
    check(r as c_long)
}

/// recvfrom() of an address: the length that the kernel reports for it.
pub fn recv_address_length(fd: RawFd, buf: &mut [u8]) -> Result<(usize, u32)> {
    // SAFETY: an all-zero socket address is valid.
    let mut addr: libc::sockaddr_storage = unsafe { zeroed() };
    let mut len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: all pointers are to live values of the sizes that are passed.
    let r = unsafe {
        libc::recvfrom(
            fd,
            buf.as_mut_ptr().cast(),
            buf.len(),
            libc::MSG_DONTWAIT,
            (&raw mut addr).cast(),
            &raw mut len,
        )
    };
    check(r as c_long).map(|n| (n, len))
}

/// recvmsg().
pub fn recv(fd: RawFd, room: usize, flags: c_int) -> Result<Got> {
    let mut bytes = vec![0; room];
    let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: room };
    // SAFETY: an all-zero msghdr is valid.
    let mut h: libc::msghdr = unsafe { zeroed() };
    h.msg_iov = &raw mut iov;
    h.msg_iovlen = 1;
    // SAFETY: the header points to one live buffer of the stated size.
    let n = check(unsafe { libc::recvmsg(fd, &raw mut h, flags) } as c_long)?;
    bytes.truncate(n);
    let has = |f| h.msg_flags & f != 0;
    Ok(Got { bytes, eor: has(libc::MSG_EOR), trunc: has(libc::MSG_TRUNC), from: None })
}

/// recvmmsg().
pub fn recvmmsg(fd: RawFd, max: usize, room: usize, flags: c_int) -> Result<Vec<Got>> {
    let mut bufs = vec![vec![0u8; room]; max];
    let mut iov: Vec<libc::iovec> = bufs
        .iter_mut()
        .map(|b| libc::iovec { iov_base: b.as_mut_ptr().cast(), iov_len: b.len() })
        .collect();
    let mut heads: Vec<libc::mmsghdr> = iov
        .iter_mut()
        .map(|v| {
            // SAFETY: an all-zero mmsghdr is valid.
            let mut h: libc::mmsghdr = unsafe { zeroed() };
            h.msg_hdr.msg_iov = v;
            h.msg_hdr.msg_iovlen = 1;
            h
        })
        .collect();
    // SAFETY: the headers point to live buffers of the stated sizes; no time limit is passed.
    let n = check(
        unsafe { libc::recvmmsg(fd, heads.as_mut_ptr(), heads.len() as _, flags, null_mut()) }
            .into(),
    )?;
    let got = bufs.into_iter().zip(&heads).take(n).map(|(mut bytes, h)| {
        bytes.truncate(h.msg_len as usize);
        let has = |f| h.msg_hdr.msg_flags & f != 0;
        Got { bytes, eor: has(libc::MSG_EOR), trunc: has(libc::MSG_TRUNC), from: None }
    });
    Ok(got.collect())
}

/// poll() of one descriptor, without waiting.
pub fn poll(fd: RawFd) -> Ready {
    let mut p = libc::pollfd { fd, events: libc::POLLIN | libc::POLLOUT, revents: 0 };
    // SAFETY: one live pollfd.
    unsafe { libc::poll(&raw mut p, 1, 0) };
    let has = |f| p.revents & f != 0;
    Ready {
        readable: has(libc::POLLIN),
        writable: has(libc::POLLOUT),
        error: has(libc::POLLERR),
        hangup: has(libc::POLLHUP),
    }
}

/// What an edge-triggered epoll reports about room to write, asked as often as `steps` has
/// entries, each of which runs first.
pub fn edges(fd: RawFd, steps: &mut [&mut dyn FnMut()]) -> Result<Vec<bool>> {
    // SAFETY: no pointers.
    let ep = owned(unsafe { libc::epoll_create1(0) }.into())?;
    let ep = std::os::fd::AsRawFd::as_raw_fd(&ep);
    let mut ev = libc::epoll_event { events: (libc::EPOLLOUT | libc::EPOLLET) as u32, u64: 0 };
    // SAFETY: one live event.
    check(unsafe { libc::epoll_ctl(ep, libc::EPOLL_CTL_ADD, fd, &raw mut ev) }.into())?;
    let ask = |step: &mut &mut dyn FnMut()| {
        step();
        // SAFETY: room for one event is what is passed.
        check(unsafe { libc::epoll_wait(ep, &raw mut ev, 1, 0) }.into()).map(|n| n > 0)
    };
    steps.iter_mut().map(ask).collect()
}

/// An option's value.
#[derive(Clone, Copy, Debug)]
pub enum OptValue {
    /// An int.
    Int(c_int),
    /// A struct timeval.
    Millis(i64),
}

impl From<i32> for OptValue {
    fn from(v: i32) -> Self {
        OptValue::Int(v)
    }
}

/// setsockopt().
pub fn set(fd: RawFd, level: c_int, name: c_int, value: OptValue) -> Result<()> {
    match value {
        OptValue::Int(v) => set_raw(fd, level, name, &v.to_ne_bytes(), None),
        OptValue::Millis(ms) => {
            let tv = libc::timeval { tv_sec: ms / 1000, tv_usec: ms % 1000 * 1000 };
            let len = size_of::<libc::timeval>() as libc::socklen_t;
            // SAFETY: one live timeval of the size that is passed.
            let r = unsafe { libc::setsockopt(fd, level, name, (&raw const tv).cast(), len) };
            check(r.into()).map(drop)
        }
    }
}

/// setsockopt() of raw bytes; `len` says another length than theirs (not a longer one).
pub fn set_raw(fd: RawFd, level: c_int, name: c_int, bytes: &[u8], len: Option<u32>) -> Result<()> {
    let n = len.unwrap_or(bytes.len() as u32).min(bytes.len() as u32);
    // SAFETY: at most the slice's length is passed.
    check(unsafe { libc::setsockopt(fd, level, name, bytes.as_ptr().cast(), n) }.into()).map(drop)
}

/// setsockopt() with no pointer at all.
pub fn set_null(fd: RawFd, level: c_int, name: c_int) -> Result<()> {
    // SAFETY: the kernel checks user pointers and refuses this one.
    check(unsafe { libc::setsockopt(fd, level, name, null_mut(), 4) }.into()).map(drop)
}

/// getsockopt() of an int.
pub fn get(fd: RawFd, level: c_int, name: c_int) -> Result<i32> {
    let (bytes, _) = get_raw(fd, level, name, 4)?;
    Ok(i32::from_ne_bytes(bytes[..4].try_into().unwrap_or_default()))
}

/// getsockopt() with any stated length: the first bytes of the buffer, and the length that the
/// kernel reports.
pub fn get_raw(fd: RawFd, level: c_int, name: c_int, len: i32) -> Result<([u8; 128], i32)> {
    let mut buf = [0xee; 128];
    let mut n = len.min(128) as libc::socklen_t;
    // SAFETY: the length is at most the buffer's; a negative one is refused by the kernel,
    // which reads it as signed.
    let r = unsafe { libc::getsockopt(fd, level, name, buf.as_mut_ptr().cast(), &raw mut n) };
    check(r.into()).map(|_| (buf, n as i32))
}

/// SO_ERROR, which reading clears.
pub fn so_error(fd: RawFd) -> Option<Errno> {
    match get(fd, libc::SOL_SOCKET, libc::SO_ERROR) {
        Ok(0) => None,
        Ok(e) => Some(Errno(e)),
        Err(e) => Some(e),
    }
}

/// fcntl(F_GETFD) and fcntl(F_GETFL): close-on-exec, and non-blocking.
pub fn descriptor_flags(fd: RawFd) -> (bool, bool) {
    // SAFETY: no pointers.
    let (d, l) = unsafe { (libc::fcntl(fd, libc::F_GETFD), libc::fcntl(fd, libc::F_GETFL)) };
    (d & libc::FD_CLOEXEC != 0, l & libc::O_NONBLOCK != 0)
}

/// splice() from a KCM socket into a pipe, or from a pipe into a KCM socket.
pub fn splice(from: RawFd, to: RawFd, len: usize, flags: u32) -> Result<usize> {
    // SAFETY: no offsets are passed, so that there are no pointers.
    let n = unsafe { libc::splice(from, null_mut(), to, null_mut(), len, flags) };
    check(n as c_long)
}

/// A pipe: the reading end, the writing end.
pub fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1; 2];
    // SAFETY: room for the two descriptors.
    check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) }.into())?;
    Ok((owned(fds[0].into())?, owned(fds[1].into())?))
}

/// Sends one byte of TCP urgent data.
pub fn send_urgent(fd: RawFd, byte: u8) -> Result<usize> {
    send(fd, &[byte], libc::MSG_OOB)
}

/// connect() to AF_UNSPEC: disconnects a TCP socket.
pub fn disconnect(fd: RawFd) -> Result<()> {
    // SAFETY: an all-zero socket address is valid, and is AF_UNSPEC.
    let addr: libc::sockaddr = unsafe { zeroed() };
    let len = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: a live address of the size that is passed.
    check(unsafe { libc::connect(fd, &raw const addr, len) }.into()).map(drop)
}

/// Loads a program.
pub fn load_program(ty: u32, slots: &[Slot]) -> Result<OwnedFd> {
    let code: Vec<u64> = slots
        .iter()
        .map(|s| {
            let off = u64::from(s.off as u16) << 16;
            u64::from(s.code)
                | u64::from(s.dst | s.src << 4) << 8
                | off
                | u64::from(s.imm as u32) << 32
        })
        .collect();
    let license = c"GPL"; // the loads of packets by legacy instructions ask for nothing else
    let mut attr = [0u8; 128];
    attr[0..4].copy_from_slice(&ty.to_ne_bytes());
    attr[4..8].copy_from_slice(&(code.len() as u32).to_ne_bytes());
    attr[8..16].copy_from_slice(&(code.as_ptr() as u64).to_ne_bytes());
    attr[16..24].copy_from_slice(&(license.as_ptr() as u64).to_ne_bytes());
    // SAFETY: the attribute is zero beyond what is set (no log is asked for), and the code and
    // the licence it points to live until the call returns.
    let r = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, attr.as_mut_ptr(), attr.len()) };
    owned(r)
}

/// An array map of 8-byte values.
pub fn array_map(entries: u32) -> Result<OwnedFd> {
    let mut attr = [0u8; 128];
    for (at, v) in [2u32, 4, 8, entries].into_iter().enumerate() {
        attr[at * 4..at * 4 + 4].copy_from_slice(&v.to_ne_bytes());
    }
    // SAFETY: the attribute holds no pointers for this command and is zero beyond what is set.
    let r = unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, attr.as_mut_ptr(), attr.len()) };
    owned(r)
}

/// One value of an array map; 0 where there is none.
pub fn map_get(map: RawFd, key: u32) -> u64 {
    let mut value = 0u64;
    let mut attr = [0u8; 128];
    attr[0..4].copy_from_slice(&(map as u32).to_ne_bytes());
    attr[8..16].copy_from_slice(&(&raw const key as u64).to_ne_bytes());
    attr[16..24].copy_from_slice(&(&raw mut value as u64).to_ne_bytes());
    // SAFETY: key and value are live locals of the map's key and value sizes.
    unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_ELEM, attr.as_mut_ptr(), attr.len()) };
    value
}
