//! Being process 1 of a kernel that was booted for the scenarios: proc, KCM's module, the
//! loopback interface, and the end.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail};

use super::sys;

/// True for the first process of a machine.
pub fn is_first_process() -> bool {
    std::process::id() == 1
}

/// Makes the kernel ready: /proc, the module named by the environment's `KCM_KO`, `lo` up.
pub fn prepare() -> Result<()> {
    let proc = c"proc";
    // SAFETY: all pointers are to C strings; proc takes no data.
    let r = unsafe {
        libc::mount(proc.as_ptr(), c"/proc".as_ptr(), proc.as_ptr(), 0, std::ptr::null())
    };
    if r != 0 {
        bail!("could not mount /proc: {}", std::io::Error::last_os_error());
    }
    if let Some(module) = std::env::var_os("KCM_KO") {
        insert(&module.to_string_lossy())?;
    }
    allow_large_buffers()?;
    loopback_up()
}

/// Lets sockets have the buffers that scenarios ask for.
pub fn allow_large_buffers() -> Result<()> {
    // Send buffers of megabytes can be asked for: some scenarios queue that much.
    std::fs::write("/proc/sys/net/core/wmem_max", "16777216").context("wmem_max")
}

/// Loads a kernel module from its file.
pub fn insert(module: &str) -> Result<()> {
    let file = std::fs::File::open(module).with_context(|| format!("could not open {module}"))?;
    let none = CString::default();
    // SAFETY: an open file and an empty string of parameters.
    let r = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), none.as_ptr(), 0) };
    if r != 0 {
        bail!("could not load {module}: {}", std::io::Error::last_os_error());
    }
    Ok(())
}

/// Brings `lo` up.
pub fn loopback_up() -> Result<()> {
    let s = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)
        .map_err(|e| anyhow::anyhow!("no UDP socket: {e}"))?;
    // SAFETY: an all-zero ifreq is valid.
    let mut r: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in r.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    r.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: the kernel reads one live ifreq.
    if unsafe { libc::ioctl(s.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const r) } != 0 {
        bail!("could not bring lo up: {}", std::io::Error::last_os_error());
    }
    Ok(())
}

/// Ends the machine.
pub fn power_off() -> ! {
    // SAFETY: no pointers.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
    std::process::exit(1) // process 1 must not end; where power off failed, the kernel panics
}
