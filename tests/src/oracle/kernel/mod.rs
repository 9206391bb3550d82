//! The kernel's AF_KCM as a back end: system calls, and nothing of this product.

pub mod guest;
pub mod sys;

use std::io::Read;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use super::backend::{
    Backend, Conn, Detached, Got, Opt, Ready, RecvFlags, Refused, Result, SendFlags, Sock, Type,
};
use super::errno::Errno;
use super::program::{Parser, TRACE_ENTRIES};
use sys::OptValue;

/// The back end. Sockets and connections are kept by number; a closed one leaves its place.
#[derive(Default)]
pub struct Kernel {
    socks: Mutex<Vec<Option<OwnedFd>>>,
    conns: Mutex<Vec<Attached>>,
}

#[derive(Default)]
struct Attached {
    tcp: Option<TcpStream>,
    trace: Option<OwnedFd>,
}

fn locked<X>(m: &Mutex<X>) -> std::sync::MutexGuard<'_, X> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kernel {
    /// No sockets yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The descriptor of a KCM socket: for system calls that only scenarios about the system
    /// call interface make.
    pub fn fd(&self, s: Sock) -> RawFd {
        locked(&self.socks).get(s.0).and_then(|f| f.as_ref()).map_or(-1, AsRawFd::as_raw_fd)
    }

    /// The descriptor of an attached connection; -1 once it was taken away.
    pub fn tcp_fd(&self, c: Conn) -> RawFd {
        locked(&self.conns).get(c.0).and_then(|a| a.tcp.as_ref()).map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Takes the application's descriptor of an attached connection, to close it.
    pub fn take_tcp(&self, c: Conn) -> Option<TcpStream> {
        locked(&self.conns).get_mut(c.0).and_then(|a| a.tcp.take())
    }

    fn keep(&self, fd: OwnedFd) -> Sock {
        let mut socks = locked(&self.socks);
        socks.push(Some(fd));
        Sock(socks.len() - 1)
    }

    fn stream(&self, c: Conn) -> Result<TcpStream> {
        locked(&self.conns)
            .get(c.0)
            .and_then(|a| a.tcp.as_ref())
            .ok_or(Errno(libc::EBADF))
            .and_then(|t| t.try_clone().map_err(|e| Errno::of(&e)))
    }
}

/// Loads a parser as a socket filter; the map that its calls are noted in, if it is traced.
fn load(parser: &Parser) -> Result<(OwnedFd, Option<OwnedFd>)> {
    let trace = match parser {
        Parser::Traced(_) => Some(sys::array_map(TRACE_ENTRIES)?),
        _ => None,
    };
    let slots = parser.slots(trace.as_ref().map(AsRawFd::as_raw_fd));
    Ok((sys::load_program(sys::SOCKET_FILTER, &slots)?, trace))
}

impl Backend for Kernel {
    fn name(&self) -> &'static str {
        "kernel"
    }

    fn kernel(&self) -> Option<&Kernel> {
        Some(self)
    }

    fn socket(&self, ty: Type) -> Result<Sock> {
        let ty = match ty {
            Type::Dgram => libc::SOCK_DGRAM,
            Type::Seqpacket => libc::SOCK_SEQPACKET,
        };
        Ok(self.keep(sys::kcm_socket(ty, 0)?))
    }

    fn clone_of(&self, s: Sock) -> Result<Sock> {
        Ok(self.keep(sys::kcm_clone(self.fd(s))?))
    }

    fn close(&self, s: Sock) {
        let fd = locked(&self.socks).get_mut(s.0).and_then(Option::take);
        drop(fd); // outside the lock: closing may take its time
    }

    fn attach(
        &self,
        s: Sock,
        tcp: TcpStream,
        parser: &Parser,
    ) -> std::result::Result<Conn, Refused> {
        let attached = load(parser).and_then(|(program, trace)| {
            sys::kcm_attach(self.fd(s), tcp.as_raw_fd(), program.as_raw_fd())?;
            Ok(trace)
        });
        match attached {
            Ok(trace) => {
                let mut conns = locked(&self.conns);
                conns.push(Attached { tcp: Some(tcp), trace });
                Ok(Conn(conns.len() - 1))
            }
            Err(errno) => Err(Refused { errno, stream: Some(tcp) }),
        }
    }

    fn unattach(&self, s: Sock, c: Conn) -> Result<Detached> {
        sys::kcm_unattach(self.fd(s), self.tcp_fd(c))?;
        let stream = self.take_tcp(c).ok_or(Errno(libc::EBADF))?;
        Ok(Detached { stream, unread: Vec::new() })
    }

    fn send(&self, s: Sock, bytes: &[u8], f: SendFlags) -> Result<usize> {
        let mut flags = libc::MSG_NOSIGNAL;
        for (set, flag) in [
            (f.more, libc::MSG_MORE),
            (f.eor, libc::MSG_EOR),
            (f.batch, sys::MSG_BATCH),
            (!f.wait, libc::MSG_DONTWAIT),
        ] {
            if set {
                flags |= flag;
            }
        }
        sys::send(self.fd(s), bytes, flags)
    }

    fn send_many(&self, s: Sock, messages: &[&[u8]]) -> Result<usize> {
        sys::sendmmsg(self.fd(s), messages, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
    }

    fn write(&self, s: Sock, bytes: &[u8]) -> Result<usize> {
        sys::write(self.fd(s), bytes)
    }

    fn recv(&self, s: Sock, room: usize, f: RecvFlags) -> Result<Got> {
        let mut flags = if f.wait { 0 } else { libc::MSG_DONTWAIT };
        if f.peek {
            flags |= libc::MSG_PEEK;
        }
        sys::recv(self.fd(s), room, flags)
    }

    fn recv_many(&self, s: Sock, max: usize) -> Result<Vec<Got>> {
        sys::recvmmsg(self.fd(s), max, 1 << 16, libc::MSG_DONTWAIT)
    }

    fn ready(&self, s: Sock) -> Ready {
        sys::poll(self.fd(s))
    }

    fn socket_error(&self, s: Sock) -> Option<Errno> {
        sys::so_error(self.fd(s))
    }

    fn set(&self, s: Sock, o: Opt, value: i32) -> Result<()> {
        let fd = self.fd(s);
        let time = OptValue::Millis(value.into());
        match o {
            Opt::RecvBuffer => sys::set(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, value.into()),
            Opt::SendBuffer => sys::set(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, value.into()),
            Opt::RecvLowWater => sys::set(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, value.into()),
            Opt::RecvTimeout => sys::set(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, time),
            Opt::SendTimeout => sys::set(fd, libc::SOL_SOCKET, libc::SO_SNDTIMEO, time),
            Opt::RecvDisabled => sys::set(fd, sys::SOL_KCM, sys::RECV_DISABLE, value.into()),
        }
    }

    fn hold_two(&self, s: Sock) -> Result<()> {
        // The smallest the kernel grants is 2304, and a message of 20 bytes takes some 1300.
        self.set(s, Opt::RecvBuffer, 1)
    }

    fn get(&self, s: Sock, o: Opt) -> Result<i32> {
        let fd = self.fd(s);
        match o {
            Opt::RecvBuffer => sys::get(fd, libc::SOL_SOCKET, libc::SO_RCVBUF),
            Opt::SendBuffer => sys::get(fd, libc::SOL_SOCKET, libc::SO_SNDBUF),
            Opt::RecvLowWater => sys::get(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT),
            Opt::RecvDisabled => sys::get(fd, sys::SOL_KCM, sys::RECV_DISABLE),
            Opt::RecvTimeout | Opt::SendTimeout => Err(Errno(libc::ENOPROTOOPT)),
        }
    }

    fn error(&self, c: Conn) -> Option<Errno> {
        sys::so_error(self.tcp_fd(c))
    }

    fn cause(&self, c: Conn) -> String {
        self.error(c).map_or("none".into(), |e| e.to_string())
    }

    fn own_handle(&self, c: Conn) -> Option<TcpStream> {
        self.stream(c).ok()
    }

    fn forget_handle(&self, c: Conn) {
        drop(self.take_tcp(c));
    }

    fn kcm_text(&self, _: Sock) -> String {
        // Newest multiplexor first; a scenario's process has made no other since, unless it
        // says so.
        let mut text = String::new();
        let read =
            std::fs::File::open("/proc/net/kcm").and_then(|mut f| f.read_to_string(&mut text));
        if let Err(e) = read {
            return format!("could not be read: {e}");
        }
        let mut muxes = 0;
        text.lines()
            .take_while(|l| {
                muxes += usize::from(l.trim_start().starts_with("mux"));
                muxes < 2
            })
            .map(|l| format!("{l}\n"))
            .collect()
    }

    fn stats_text(&self, _: Sock) -> String {
        std::fs::read_to_string("/proc/net/kcm_stats").unwrap_or_default()
    }

    fn calls(&self, c: Conn) -> Vec<u32> {
        let conns = locked(&self.conns);
        let Some(map) = conns.get(c.0).and_then(|a| a.trace.as_ref()) else { return Vec::new() };
        let n = sys::map_get(map.as_raw_fd(), 0).min(u64::from(TRACE_ENTRIES) - 1);
        (1..=n as u32).map(|i| sys::map_get(map.as_raw_fd(), i) as u32).collect()
    }
}
