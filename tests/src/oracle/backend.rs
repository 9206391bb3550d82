//! What a scenario may do: the operations of a KCM socket, as an application sees them.

use std::net::TcpStream;

use super::errno::Errno;
use super::kernel::Kernel;
use super::program::Parser;

/// The two socket types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// SOCK_DGRAM.
    Dgram,
    /// SOCK_SEQPACKET.
    Seqpacket,
}

/// Both socket types, for scenarios that compare them.
pub const TYPES: [Type; 2] = [Type::Dgram, Type::Seqpacket];

impl Type {
    /// As in the answers.
    pub fn name(self) -> &'static str {
        match self {
            Type::Dgram => "DGRAM",
            Type::Seqpacket => "SEQPACKET",
        }
    }
}

/// A KCM socket of the back end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sock(pub usize);

/// An attached connection of the back end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conn(pub usize);

/// How to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendFlags {
    /// MSG_MORE.
    pub more: bool,
    /// MSG_EOR.
    pub eor: bool,
    /// MSG_BATCH.
    pub batch: bool,
    /// Wait for room in the send buffer (the default here is not to).
    pub wait: bool,
}

/// How to receive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecvFlags {
    /// MSG_PEEK.
    pub peek: bool,
    /// Wait for a message (the default here is not to).
    pub wait: bool,
}

/// One received message, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// MSG_EOR: the message ends here.
    pub eor: bool,
    /// MSG_TRUNC: bytes were left out.
    pub trunc: bool,
    /// Which connection it came from, where that can be known.
    pub from: Option<Conn>,
}

/// What poll says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// POLLIN.
    pub readable: bool,
    /// POLLOUT.
    pub writable: bool,
    /// POLLERR.
    pub error: bool,
    /// POLLHUP.
    pub hangup: bool,
}

/// A socket option of a KCM socket; values are integers, times are milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opt {
    /// SO_RCVBUF, as set (the kernel doubles it).
    RecvBuffer,
    /// SO_SNDBUF, as set (the kernel doubles it).
    SendBuffer,
    /// SO_RCVLOWAT.
    RecvLowWater,
    /// SO_RCVTIMEO.
    RecvTimeout,
    /// SO_SNDTIMEO.
    SendTimeout,
    /// KCM_RECV_DISABLE.
    RecvDisabled,
}

/// A connection that is the application's again.
#[derive(Debug)]
pub struct Detached {
    /// The stream.
    pub stream: TcpStream,
    /// Bytes that had been taken from it and belong to no delivered message.
    pub unread: Vec<u8>,
}

/// A refused attach.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub errno: Errno,
    /// The stream, given back.
    pub stream: Option<TcpStream>,
}

/// The result of an operation.
pub type Result<T> = std::result::Result<T, Errno>;

/// A back end. Calls come from several threads; handles stay valid until closed.
pub trait Backend: Send + Sync {
    /// The name in transcripts.
    fn name(&self) -> &'static str;
    /// The kernel's own system calls, for what has no counterpart outside it.
    fn kernel(&self) -> Option<&Kernel> {
        None
    }
    /// A KCM socket with a multiplexor of its own.
    fn socket(&self, ty: Type) -> Result<Sock>;
    /// One more KCM socket of the same multiplexor.
    fn clone_of(&self, s: Sock) -> Result<Sock>;
    /// Closes a KCM socket.
    fn close(&self, s: Sock);
    /// Attaches a connection.
    fn attach(
        &self,
        s: Sock,
        tcp: TcpStream,
        parser: &Parser,
    ) -> std::result::Result<Conn, Refused>;
    /// Takes a connection out of the multiplexor of `s`.
    fn unattach(&self, s: Sock, c: Conn) -> Result<Detached>;
    /// Sends once; the number of bytes taken.
    fn send(&self, s: Sock, bytes: &[u8], flags: SendFlags) -> Result<usize>;
    /// Sends several messages with one call; the number of messages taken.
    fn send_many(&self, s: Sock, messages: &[&[u8]]) -> Result<usize>;
    /// Sends by write() or what stands for it: the bytes are a message, whatever the type.
    fn write(&self, s: Sock, bytes: &[u8]) -> Result<usize>;
    /// Receives into a buffer of `room` bytes.
    fn recv(&self, s: Sock, room: usize, flags: RecvFlags) -> Result<Got>;
    /// Receives up to `max` messages with one call, without waiting.
    fn recv_many(&self, s: Sock, max: usize) -> Result<Vec<Got>>;
    /// Readiness of a KCM socket now.
    fn ready(&self, s: Sock) -> Ready;
    /// The pending error of a KCM socket.
    fn socket_error(&self, s: Sock) -> Option<Errno>;
    /// Sets an option.
    fn set(&self, s: Sock, o: Opt, value: i32) -> Result<()>;
    /// Makes the receive buffer so small that two messages of 20 bytes fill it. (The kernel
    /// counts buffer memory, this product payload: the number to set differs.)
    fn hold_two(&self, s: Sock) -> Result<()>;
    /// Reads an option.
    fn get(&self, s: Sock, o: Opt) -> Result<i32>;
    /// The error of an attached connection, read as the back end's users read it (the kernel:
    /// SO_ERROR of the TCP socket, which clears it).
    fn error(&self, c: Conn) -> Option<Errno>;
    /// The cause of a connection's failure in the most telling words there are.
    fn cause(&self, c: Conn) -> String;
    /// The application's own handle on an attached connection, where there is such a thing.
    fn own_handle(&self, c: Conn) -> Option<TcpStream>;
    /// Closes the application's own handle on an attached connection, where there is one.
    fn forget_handle(&self, c: Conn);
    /// Text of /proc/net/kcm, the block of the multiplexor of `s`.
    fn kcm_text(&self, s: Sock) -> String;
    /// Text of /proc/net/kcm_stats.
    fn stats_text(&self, s: Sock) -> String;
    /// Input lengths of the calls of a traced parser.
    fn calls(&self, c: Conn) -> Vec<u32>;
}
