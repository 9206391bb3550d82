//! This product as a back end, through its public interface only: the blocking one, whose calls
//! are those of the kernel's sockets.

use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kcm_core::blocking::{KcmSocket, Psock};
use kcm_core::bpf::insn::Insn;
use kcm_core::bpf::map::{MapDef, kind};
use kcm_core::bpf::program::{Func, Program, ProgramKind};
use kcm_core::bpf::run::{Exec, Executable};
use kcm_core::bpf::verifier::{Options, verify};
use kcm_core::delineate::{Delineate, Verdict};
use kcm_core::{Detached as Back, Message, PsockId, SocketType};

use super::backend::{
    Backend, Conn, Detached, Got, Opt, Ready, RecvFlags, Refused, Result, SendFlags, Sock, Type,
};
use super::errno::Errno;
use super::program::{Parser, Slot, TRACE_ENTRIES};

/// The back end. Sockets and connections are kept by number; a closed one leaves its place.
pub struct Ours {
    answers: Answers,
    socks: Mutex<Vec<Option<Arc<KcmSocket>>>>,
    conns: Mutex<Vec<Attached>>,
}

struct Attached {
    psock: Psock,
    calls: Calls,
}

fn locked<X>(m: &Mutex<X>) -> std::sync::MutexGuard<'_, X> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who answers for a parser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// The very instructions that the kernel is given, verified.
    Program,
    /// A native function of the same meaning.
    Function,
}

/// The instructions that the kernel is given, verified and made executable. A traced program
/// notes its calls in its map itself.
fn program(parser: &Parser) -> anyhow::Result<kcm_core::parser::Parser> {
    let traced = matches!(parser, Parser::Traced(_));
    let map = MapDef::new(TRACE, kind::ARRAY, 4, 8, TRACE_ENTRIES);
    let insn = |s: Slot| Insn { code: s.code, dst: s.dst, src: s.src, off: s.off, imm: s.imm };
    let program = Program {
        name: "parser".into(),
        kind: ProgramKind::SocketFilter,
        // Instructions name a map by its place among the program's.
        insns: parser.slots(traced.then_some(0)).into_iter().map(insn).collect(),
        funcs: vec![Func { start: 0, name: "parser".into() }],
        maps: if traced { vec![map] } else { Vec::new() },
        lines: Vec::new(),
        license: "GPL".into(),
    };
    let verified = verify(program, &Options::default())?;
    let maps = Executable::make_maps(&verified)?;
    Ok(kcm_core::parser::Parser::from_executable(Executable::new(verified, maps, Exec::Auto)?))
}

const TRACE: &str = "calls";

/// What the program noted, as the kernel's back end reads it.
fn noted(parser: &kcm_core::parser::Parser) -> Vec<u32> {
    let Some(map) = parser.map(TRACE) else { return Vec::new() };
    let get = |i: u32| {
        let value = map.get_array::<8>(&i.to_ne_bytes()).ok().flatten();
        u64::from_ne_bytes(value.unwrap_or_default()) as u32
    };
    (1..=get(0).min(TRACE_ENTRIES - 1)).map(get).collect()
}

/// A function whose calls are noted.
#[derive(Clone)]
struct Traced {
    inner: Arc<dyn Delineate>,
    calls: Arc<Mutex<Vec<u32>>>,
}

impl Delineate for Traced {
    fn parse(&self, msg: &[u8]) -> Verdict {
        locked(&self.calls).push(msg.len() as u32);
        self.inner.parse(msg)
    }
}

/// Where the calls of an attached parser are noted.
enum Calls {
    Program(kcm_core::parser::Parser),
    Function(Arc<Mutex<Vec<u32>>>),
}

/// A parser as a native function.
struct Native(Parser);

impl Delineate for Native {
    fn parse(&self, msg: &[u8]) -> Verdict {
        let answer = |n: i64| match n {
            0 => Verdict::NeedMore,
            n if n > 0 => Verdict::Message(n as u32),
            n => Verdict::Error(-n as i32),
        };
        match &self.0 {
            Parser::Len4 => match msg.first_chunk::<4>() {
                Some(head) => answer(i64::from(u32::from_be_bytes(*head) as i32) + 4),
                None => Verdict::NeedMore,
            },
            Parser::Len2 => match msg.first_chunk::<2>() {
                Some(head) => answer(i64::from(u16::from_be_bytes(*head)) + 2),
                None => Verdict::NeedMore,
            },
            Parser::U8 => msg.first().map_or(Verdict::NeedMore, |b| answer((*b).into())),
            Parser::Const(v) => answer((*v).into()),
            Parser::When { least, then } if msg.len() as i64 >= i64::from(*least) => {
                answer((*then).into())
            }
            Parser::When { .. } => Verdict::NeedMore,
            Parser::Traced(inner) => Native((**inner).clone()).parse(msg),
        }
    }
}

impl Ours {
    /// No sockets yet.
    pub fn new(answers: Answers) -> Self {
        Ours { answers, socks: Mutex::default(), conns: Mutex::default() }
    }

    fn held(&self, s: Sock) -> Result<Arc<KcmSocket>> {
        locked(&self.socks).get(s.0).cloned().flatten().ok_or(Errno(libc::EBADF))
    }

    fn keep(&self, socket: KcmSocket) -> Sock {
        let mut socks = locked(&self.socks);
        socks.push(Some(Arc::new(socket)));
        Sock(socks.len() - 1)
    }

    fn psock(&self, c: Conn) -> Option<Psock> {
        locked(&self.conns).get(c.0).map(|a| a.psock.clone())
    }

    fn conn_of(&self, id: PsockId) -> Option<Conn> {
        locked(&self.conns).iter().position(|a| a.psock.id() == id).map(Conn)
    }
}

fn flags(f: SendFlags) -> kcm_core::SendFlags {
    let mut out = kcm_core::SendFlags::NONE;
    for (set, flag) in [
        (f.more, kcm_core::SendFlags::MORE),
        (f.eor, kcm_core::SendFlags::EOR),
        (f.batch, kcm_core::SendFlags::BATCH),
    ] {
        if set {
            out = out | flag;
        }
    }
    out
}

impl Backend for Ours {
    fn name(&self) -> &'static str {
        "ours"
    }

    fn socket(&self, ty: Type) -> Result<Sock> {
        let ty = match ty {
            Type::Dgram => SocketType::Dgram,
            Type::Seqpacket => SocketType::Seqpacket,
        };
        Ok(self.keep(KcmSocket::new(ty).map_err(|e| Errno::of(&e))?))
    }

    fn clone_of(&self, s: Sock) -> Result<Sock> {
        let clone = self.held(s)?.try_clone().map_err(|e| Errno(e.errno()))?;
        Ok(self.keep(clone))
    }

    fn close(&self, s: Sock) {
        let held = locked(&self.socks).get_mut(s.0).and_then(Option::take);
        drop(held); // the last handle, unless a thread still waits in a call on it
    }

    fn attach(
        &self,
        s: Sock,
        tcp: TcpStream,
        parser: &Parser,
    ) -> std::result::Result<Conn, Refused> {
        let held = match self.held(s) {
            Ok(h) => h,
            Err(errno) => return Err(Refused { errno, stream: Some(tcp) }),
        };
        let (attached, calls) = match self.answers {
            Answers::Program => match program(parser) {
                Ok(p) => (held.attach(tcp, &p), Calls::Program(p)),
                Err(e) => panic!("{parser:?} is no program that runs here: {e:#}"),
            },
            Answers::Function => {
                let calls = Arc::new(Mutex::new(Vec::new()));
                let mut f: Arc<dyn Delineate> = Arc::new(Native(parser.clone()));
                if let Parser::Traced(_) = parser {
                    f = Arc::new(Traced { inner: f, calls: calls.clone() });
                }
                (held.attach(tcp, &f), Calls::Function(calls))
            }
        };
        match attached {
            Ok(psock) => {
                let mut conns = locked(&self.conns);
                conns.push(Attached { psock, calls });
                Ok(Conn(conns.len() - 1))
            }
            Err(e) => Err(Refused { errno: Errno(e.errno()), stream: e.into_stream() }),
        }
    }

    fn unattach(&self, s: Sock, c: Conn) -> Result<Detached> {
        let psock = self.psock(c).ok_or(Errno(libc::ENOENT))?;
        let back: Back<TcpStream> =
            self.held(s)?.unattach_as(psock.id()).map_err(|e| Errno(e.errno()))?;
        back.stream.set_nonblocking(false).map_err(|e| Errno::of(&e))?;
        Ok(Detached { stream: back.stream, unread: back.unread.to_vec() })
    }

    fn send(&self, s: Sock, bytes: &[u8], f: SendFlags) -> Result<usize> {
        let held = self.held(s)?;
        let sent = if f.wait {
            held.send_with(bytes, flags(f))
        } else {
            held.try_send_with(bytes, flags(f))
        };
        sent.map_err(|e| Errno(e.errno()))
    }

    fn send_many(&self, s: Sock, messages: &[&[u8]]) -> Result<usize> {
        let held = self.held(s)?;
        held.send_many(messages.iter().copied()).map_err(|e| Errno(e.errno()))
    }

    fn write(&self, s: Sock, bytes: &[u8]) -> Result<usize> {
        self.held(s)?.try_send(bytes).map_err(|e| Errno(e.errno()))
    }

    fn recv(&self, s: Sock, room: usize, f: RecvFlags) -> Result<Got> {
        let held = self.held(s)?;
        let mut bytes = vec![0; room];
        let got = if f.peek {
            // Whether it would wait: peek_into is the waiting form.
            held.try_peek().and_then(|_| held.peek_into(&mut bytes))
        } else if f.wait {
            held.recv_into(&mut bytes)
        } else {
            held.try_recv_into(&mut bytes)
        };
        let got = got.map_err(|e| Errno(e.errno()))?;
        bytes.truncate(got.copied);
        let from = self.conn_of(got.psock);
        Ok(Got { bytes, eor: got.end_of_record, trunc: got.truncated, from })
    }

    fn recv_many(&self, s: Sock, max: usize) -> Result<Vec<Got>> {
        let mut list: Vec<Message> = Vec::new();
        self.held(s)?.try_recv_many(&mut list, max).map_err(|e| Errno(e.errno()))?;
        let got = |m: Message| Got {
            bytes: m.to_vec(),
            eor: true, // a Message is a whole one
            trunc: false,
            from: self.conn_of(m.psock()),
        };
        Ok(list.into_iter().map(got).collect())
    }

    fn ready(&self, s: Sock) -> Ready {
        let Ok(held) = self.held(s) else { return Ready::default() };
        Ready {
            readable: held.is_readable(),
            writable: held.is_writable(),
            error: false,
            hangup: false,
        }
    }

    fn socket_error(&self, _: Sock) -> Option<Errno> {
        None // a KCM socket has none: connections have
    }

    fn set(&self, s: Sock, o: Opt, value: i32) -> Result<()> {
        let held = self.held(s)?;
        let n = usize::try_from(value).unwrap_or(0);
        let time = (value > 0).then(|| Duration::from_millis(value as u64));
        match o {
            Opt::RecvBuffer => held.set_recv_buffer(n),
            Opt::SendBuffer => held.set_send_buffer(n),
            Opt::RecvLowWater => held.set_recv_low_water(n),
            Opt::RecvTimeout => held.set_recv_timeout(time),
            Opt::SendTimeout => held.set_send_timeout(time),
            Opt::RecvDisabled => held.set_recv_disabled(value != 0),
        }
        Ok(())
    }

    fn hold_two(&self, s: Sock) -> Result<()> {
        self.set(s, Opt::RecvBuffer, 40)
    }

    fn get(&self, s: Sock, o: Opt) -> Result<i32> {
        let held = self.held(s)?;
        let n = match o {
            Opt::RecvBuffer => held.recv_buffer(),
            Opt::SendBuffer => held.send_buffer(),
            Opt::RecvLowWater => held.recv_low_water(),
            Opt::RecvDisabled => usize::from(held.recv_disabled()),
            Opt::RecvTimeout | Opt::SendTimeout => return Err(Errno(libc::ENOPROTOOPT)),
        };
        i32::try_from(n).map_err(|_| Errno(libc::EINVAL))
    }

    fn error(&self, c: Conn) -> Option<Errno> {
        self.psock(c)?.error().map(|e| Errno(e.errno()))
    }

    fn cause(&self, c: Conn) -> String {
        self.psock(c).and_then(|p| p.error()).map_or("none".into(), |e| format!("{e:?}"))
    }

    fn own_handle(&self, _: Conn) -> Option<TcpStream> {
        None // attach took the stream
    }

    fn forget_handle(&self, _: Conn) {}

    fn kcm_text(&self, s: Sock) -> String {
        self.held(s).map_or_else(|e| e.to_string(), |h| h.proc_net_kcm())
    }

    fn stats_text(&self, s: Sock) -> String {
        self.held(s).map_or_else(|e| e.to_string(), |h| h.proc_net_kcm_stats())
    }

    fn calls(&self, c: Conn) -> Vec<u32> {
        let conns = locked(&self.conns);
        match conns.get(c.0).map(|a| &a.calls) {
            Some(Calls::Program(p)) => noted(p),
            Some(Calls::Function(calls)) => locked(calls).clone(),
            None => Vec::new(),
        }
    }
}
