//! Why the kernel engine cannot be used, and what to do about it.

use std::fmt;
use std::io;

use kcm_common::errno;

use crate::object::LoadError;

/// A capability that the kernel engine takes. CAP_SYS_ADMIN stands for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Capability {
    /// To make maps and load programs.
    Bpf,
    /// To have a program on sockets.
    NetAdmin,
    /// To let a program read where a message starts (`bpf_probe_read_kernel`).
    Perfmon,
}

impl Capability {
    /// All of them.
    pub const ALL: [Capability; 3] = [Capability::Bpf, Capability::NetAdmin, Capability::Perfmon];

    /// Its name, as in `capabilities(7)`.
    pub fn name(self) -> &'static str {
        match self {
            Capability::Bpf => "CAP_BPF",
            Capability::NetAdmin => "CAP_NET_ADMIN",
            Capability::Perfmon => "CAP_PERFMON",
        }
    }

    fn bit(self) -> u32 {
        match self {
            Capability::Bpf => 39,
            Capability::NetAdmin => 12,
            Capability::Perfmon => 38,
        }
    }

    /// Those that the calling thread does not have.
    pub fn missing() -> Vec<Capability> {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
        let Some(all) = line.and_then(|l| u64::from_str_radix(l.trim(), 16).ok()) else {
            return Vec::new();
        };
        const SYS_ADMIN: u32 = 21;
        let has = |bit: u32| all & 1 << bit != 0;
        let lacking = |c: &Capability| !has(c.bit()) && !has(SYS_ADMIN);
        // CAP_SYS_ADMIN is no CAP_NET_ADMIN where the network is concerned.
        Self::ALL
            .into_iter()
            .filter(|c| lacking(c) || *c == Capability::NetAdmin && !has(c.bit()))
            .collect()
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The command that gives a program what the kernel engine takes.
pub const SETCAP: &str = "setcap cap_bpf,cap_net_admin,cap_perfmon+ep PROGRAM";

struct Names<'a>(&'a [Capability]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, capability) in self.0.iter().enumerate() {
            write!(f, "{}{capability}", if i > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// Why the kernel engine cannot serve: it, its parser, or this connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// This process may not. EPERM.
    #[error(
        "the kernel engine lacks {} ({doing}: {error}); grant them with `{SETCAP}`, or use Engine::Process, which needs none",
        Names(missing)
    )]
    Privileges {
        /// What is missing.
        missing: Vec<Capability>,
        /// What was refused.
        doing: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
    /// The kernel cannot. EOPNOTSUPP.
    #[error("this kernel cannot serve as engine: {what}; use Engine::Process")]
    Unsupported {
        /// What is missing: an option, a type, a behaviour.
        what: String,
    },
    /// The object has no programs for a kernel. EOPNOTSUPP.
    #[error(
        "the object of parser {parser} has no program {missing}; rebuild it with the `parser!` macro of this version of kcm-ebpf (`cargo xtask build-ebpf`)"
    )]
    NoPrograms {
        /// The parser.
        parser: String,
        /// The program that is not there.
        missing: String,
    },
    /// The object's programs for a kernel are of another version. EOPNOTSUPP.
    #[error(
        "the object of parser {parser} speaks to the kernel engine by {found}, this version by {expected}; rebuild it with this version of kcm-ebpf (`cargo xtask build-ebpf`)"
    )]
    Version {
        /// The parser.
        parser: String,
        /// Its verdict program.
        found: String,
        /// The one that is understood.
        expected: &'static str,
    },
    /// A program of the object cannot be linked. EINVAL.
    #[error("the programs for a kernel cannot be linked: {0}")]
    Link(#[from] LoadError),
    /// The kernel's verifier refused a program; its code.
    #[error("the kernel's verifier refuses {program} ({error}): {}; {opinion}", last_words(log))]
    Rejected {
        /// The program.
        program: String,
        /// The code.
        error: io::Error,
        /// What the verifier wrote, all of it.
        log: String,
        /// What our own verifier says of the same parser.
        opinion: String,
    },
    /// The ring cannot carry a message as long as the connection accepts. EMSGSIZE.
    #[error(
        "a message of up to {message} bytes does not go through a ring of {ring} bytes, which carries {carries} at most; lower max_message, or load the parser with a larger kernel_ring"
    )]
    RingTooSmall {
        /// The longest message that was to be accepted, in bytes.
        message: u32,
        /// The ring's size, in bytes.
        ring: u32,
        /// The longest message that it carries, in bytes.
        carries: u32,
    },
    /// No ring has that size. EINVAL.
    #[error("a ring of {ring} bytes cannot be: a power of two, at least a page ({page} bytes)")]
    RingSize {
        /// The size asked for, in bytes.
        ring: u32,
        /// The size of a page, in bytes.
        page: u32,
    },
    /// The parser serves as many connections as it can. ENOBUFS.
    #[error("the parser serves {0} connections in the kernel already; load another one")]
    Full(u32),
    /// The kernel takes only established connections whose peer has not closed its side.
    /// EOPNOTSUPP.
    #[error(
        "the kernel takes established connections only, and this one's peer has closed its side; use Engine::Process, which delivers what it sent before"
    )]
    NotEstablished,
    /// The socket carries another parser: attached here or elsewhere. EALREADY.
    #[error("the socket is in a sockmap or attached to a KCM socket already")]
    AlreadyAttached,
    /// A system call failed; its code.
    #[error("{doing} failed: {error}")]
    Io {
        /// What was done.
        doing: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

/// The end of a verifier's log: what it says, without its count of work done.
fn last_words(log: &str) -> String {
    let counts = |l: &&str| !l.starts_with("processed ") && !l.trim().is_empty();
    let lines: Vec<&str> = log.lines().filter(counts).collect();
    match lines.len() {
        0 => "it says nothing".to_owned(),
        n => lines.get(n.saturating_sub(3)..).unwrap_or_default().join(" | "),
    }
}

impl Error {
    /// The errno this error stands for. Always positive.
    pub fn errno(&self) -> i32 {
        match self {
            Error::Privileges { .. } => errno::EPERM,
            Error::Unsupported { .. }
            | Error::NoPrograms { .. }
            | Error::Version { .. }
            | Error::NotEstablished => errno::EOPNOTSUPP,
            Error::Link(_) | Error::RingSize { .. } => errno::EINVAL,
            Error::RingTooSmall { .. } => errno::EMSGSIZE,
            Error::Full(_) => errno::ENOBUFS,
            Error::AlreadyAttached => errno::EALREADY,
            Error::Rejected { error, .. } | Error::Io { error, .. } => {
                error.raw_os_error().unwrap_or(errno::EIO)
            }
        }
    }

    /// Reads what a system call said: missing privileges by name, what the kernel lacks.
    pub(super) fn of(doing: &'static str, error: io::Error) -> Self {
        let missing = match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Capability::missing(),
            Some(libc::ENOSYS) => {
                return Error::Unsupported { what: format!("no bpf system call ({doing})") };
            }
            _ => Vec::new(),
        };
        if missing.is_empty() {
            Error::Io { doing, error }
        } else {
            Error::Privileges { missing, doing, error }
        }
    }
}
