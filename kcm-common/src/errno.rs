//! The errno values (Linux, x86-64 and aarch64 agree on all of these) that stand for our
//! errors, so that BPF code needs no libc.

/// Operation not permitted.
pub const EPERM: i32 = 1;
/// No such entry.
pub const ENOENT: i32 = 2;
/// Input/output error.
pub const EIO: i32 = 5;
/// Bad descriptor.
pub const EBADF: i32 = 9;
/// Try again.
pub const EAGAIN: i32 = 11;
/// Out of memory.
pub const ENOMEM: i32 = 12;
/// Bad address.
pub const EFAULT: i32 = 14;
/// Invalid argument.
pub const EINVAL: i32 = 22;
/// Broken pipe.
pub const EPIPE: i32 = 32;
/// Resource deadlock avoided.
pub const EDEADLK: i32 = 35;
/// Too many levels: a parser ran out of fuel.
pub const ELOOP: i32 = 40;
/// No data: the stream cannot be handed back whole.
pub const ENODATA: i32 = 61;
/// Protocol error.
pub const EPROTO: i32 = 71;
/// Bad message.
pub const EBADMSG: i32 = 74;
/// Value too large.
pub const EOVERFLOW: i32 = 75;
/// Streams pipe error: the parser hands the stream back.
pub const ESTRPIPE: i32 = 86;
/// Message too long.
pub const EMSGSIZE: i32 = 90;
/// Protocol not supported.
pub const EPROTONOSUPPORT: i32 = 93;
/// Socket type not supported.
pub const ESOCKTNOSUPPORT: i32 = 94;
/// Operation not supported.
pub const EOPNOTSUPP: i32 = 95;
/// Connection reset.
pub const ECONNRESET: i32 = 104;
/// No buffer space.
pub const ENOBUFS: i32 = 105;
/// Not connected.
pub const ENOTCONN: i32 = 107;
/// Timed out.
pub const ETIMEDOUT: i32 = 110;
/// Already attached.
pub const EALREADY: i32 = 114;
