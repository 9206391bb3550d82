//! What a scenario is given: a back end, TCP peers, and a place for its answers.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use socket2::{SockRef, Socket};

use super::backend::{
    Backend, Conn, Detached, Got, Opt, Ready, RecvFlags, Result, SendFlags, Sock, Type,
};
use super::program::Parser;
use super::text;

/// One running scenario. Its helpers end the scenario (panic) where the set-up itself fails,
/// which shows in the answers.
pub struct T {
    back: Arc<dyn Backend>,
    /// Waiting times are multiplied by this: a busy machine is asked again with more patience
    /// before an answer counts as different.
    patience: u32,
    out: Mutex<Vec<String>>,
}

/// Answers with a formatted line.
#[macro_export]
macro_rules! say {
    ($t:expr, $($arg:tt)*) => { $t.line(format!($($arg)*)) };
}

/// A peer's buffers: small ones make TCP stop early. 0 leaves the system's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Buffers {
    /// SO_RCVBUF of both ends.
    pub recv: usize,
    /// SO_SNDBUF of the end that will be attached.
    pub send: usize,
}

impl T {
    /// For one scenario.
    pub fn new(back: Arc<dyn Backend>, patience: u32) -> Self {
        T { back, patience: patience.max(1), out: Mutex::default() }
    }

    /// The back end.
    pub fn back(&self) -> &dyn Backend {
        &*self.back
    }

    /// Adds one answer. It is printed at once, so that it is known even if the next step
    /// never returns.
    pub fn line(&self, line: String) {
        println!("  {line}");
        self.out.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// The sentence for the table of headlines.
    pub fn summary(&self, line: impl std::fmt::Display) {
        self.line(format!("{}{line}", super::transcript::SUMMARY));
    }

    /// Says that this back end has no such operation. True if so.
    pub fn lacks_kernel(&self, why: &str) -> bool {
        let lacks = self.back.kernel().is_none();
        if lacks {
            self.line(format!("no counterpart: {why}"));
        }
        lacks
    }

    fn times(&self, ms: u64) -> Duration {
        Duration::from_millis(ms * u64::from(self.patience))
    }

    /// Lets everything happen that is going to happen without further cause. The absence of
    /// an event cannot be waited for by a condition; too short a pause shows as a difference,
    /// which is then looked at again with more patience.
    pub fn quiet(&self) {
        std::thread::sleep(self.times(25));
    }

    /// A pause of its own length.
    pub fn pause(&self, ms: u64) {
        std::thread::sleep(self.times(ms));
    }

    /// Waits until `done` or for a second; says which.
    pub fn within_a_second(&self, mut done: impl FnMut() -> bool) -> bool {
        let end = Instant::now() + self.times(1000);
        loop {
            if done() {
                return true;
            }
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2)); // between two looks
        }
    }

    /// Two connected TCP sockets: the one to attach, and its peer.
    pub fn pair(&self) -> (TcpStream, TcpStream) {
        self.pair_with(Buffers::default())
    }

    /// The same with buffers of given sizes.
    pub fn pair_with(&self, b: Buffers) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        let ours = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("socket");
        if b.recv > 0 {
            SockRef::from(&listener).set_recv_buffer_size(b.recv).expect("SO_RCVBUF");
            ours.set_recv_buffer_size(b.recv).expect("SO_RCVBUF");
        }
        if b.send > 0 {
            ours.set_send_buffer_size(b.send).expect("SO_SNDBUF");
        }
        ours.connect(&listener.local_addr().expect("address").into()).expect("connect");
        let ours = TcpStream::from(ours);
        let (peer, _) = listener.accept().expect("accept");
        for s in [&ours, &peer] {
            s.set_nodelay(true).expect("TCP_NODELAY");
        }
        (ours, peer)
    }

    /// A KCM socket.
    pub fn socket(&self, ty: Type) -> Sock {
        self.back.socket(ty).expect("socket")
    }

    /// A datagram KCM socket, which most scenarios use.
    pub fn dgram(&self) -> Sock {
        self.socket(Type::Dgram)
    }

    /// A clone.
    pub fn clone_of(&self, k: Sock) -> Sock {
        self.back.clone_of(k).expect("clone")
    }

    /// Attaches; the scenario ends if that is refused.
    pub fn attach(&self, k: Sock, tcp: TcpStream, parser: &Parser) -> Conn {
        self.back.attach(k, tcp, parser).expect("attach")
    }

    /// A new connection, attached, and its peer.
    pub fn attached(&self, k: Sock, parser: &Parser) -> (Conn, TcpStream) {
        let (a, peer) = self.pair();
        (self.attach(k, a, parser), peer)
    }

    /// The same with a documentation-like parser.
    pub fn connected(&self, k: Sock) -> (Conn, TcpStream) {
        self.attached(k, &Parser::Len4)
    }

    /// Unattaches; the scenario ends if that fails.
    pub fn unattach(&self, k: Sock, c: Conn) -> Detached {
        self.back.unattach(k, c).expect("unattach")
    }

    /// Writes all as the peer and lets it arrive.
    pub fn put(&self, mut peer: &TcpStream, bytes: &[u8]) {
        peer.write_all(bytes).expect("the peer's write");
        self.quiet();
    }

    /// Sends a message, without waiting.
    pub fn send(&self, k: Sock, bytes: &[u8]) -> Result<usize> {
        self.back.send(k, bytes, SendFlags::default())
    }

    /// Sends with flags.
    pub fn send_with(&self, k: Sock, bytes: &[u8], flags: SendFlags) -> Result<usize> {
        self.back.send(k, bytes, flags)
    }

    /// Receives without waiting, with room for everything.
    pub fn recv(&self, k: Sock) -> Result<Got> {
        self.back.recv(k, 1 << 17, RecvFlags::default())
    }

    /// Receives when there is something, at most a second later; otherwise what recv says.
    pub fn recv_soon(&self, k: Sock) -> Result<Got> {
        self.within_a_second(|| self.back.ready(k).readable);
        self.recv(k)
    }

    /// Receives and answers with the outcome.
    pub fn say_recv(&self, k: Sock) {
        let got = self.recv_soon(k);
        self.line(format!("recv: {}", outcome(&got)));
    }

    /// Receives when it is certain that nothing shall come (no long wait).
    pub fn say_recv_now(&self, k: Sock) {
        let got = self.recv(k);
        self.line(format!("recv: {}", outcome(&got)));
    }

    /// Receives all there is, quiet at the end.
    pub fn drain(&self, k: Sock) -> Vec<Got> {
        let mut out = Vec::new();
        loop {
            while let Ok(g) = self.recv(k) {
                out.push(g);
            }
            self.quiet();
            match self.recv(k) {
                Ok(g) => out.push(g),
                Err(_) => return out,
            }
        }
    }

    /// The fills of all messages there are: `0 3 6`.
    pub fn tags(&self, k: Sock) -> String {
        tags(&self.drain(k))
    }

    /// What the peer can read until it is quiet, and whether the stream ended.
    pub fn peer_all(&self, mut peer: &TcpStream) -> (Vec<u8>, bool) {
        let mut out = Vec::new();
        let mut buf = vec![0; 1 << 16];
        peer.set_read_timeout(Some(self.times(60))).expect("SO_RCVTIMEO");
        loop {
            match peer.read(&mut buf) {
                Ok(0) => return (out, true),
                Ok(n) => out.extend_from_slice(&buf[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return (out, false),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return (out, true),
            }
        }
    }

    /// Answers with what the peer gets.
    pub fn say_peer(&self, who: &str, peer: &TcpStream) {
        let (bytes, end) = self.peer_all(peer);
        let end = if end { ", then the end" } else { "" };
        self.line(format!("{who} gets {}{end}", text::show(&bytes)));
    }

    /// What an application reads from a stream that is its own (again).
    pub fn own_read(&self, stream: &TcpStream) -> String {
        let (bytes, end) = self.peer_all(stream);
        let end = if end { ", then the end" } else { "" };
        format!("{}{end}", text::show(&bytes))
    }

    /// Answers with the error of a connection.
    pub fn say_error(&self, c: Conn) {
        self.line(format!("connection's error: {}", self.error(c)));
    }

    /// The error of a connection, waited for a second; `none`.
    pub fn error(&self, c: Conn) -> String {
        let mut e = None;
        self.within_a_second(|| {
            e = self.back.error(c);
            e.is_some()
        });
        e.map_or("none".into(), |e| e.to_string())
    }

    /// The error of a connection now, where none is expected.
    pub fn error_now(&self, c: Conn) -> String {
        self.back.error(c).map_or("none".into(), |e| e.to_string())
    }

    /// Sets an option; the scenario ends if that is refused.
    pub fn set(&self, k: Sock, o: Opt, v: i32) {
        self.back.set(k, o, v).expect("option");
    }

    /// Answers with the named lines of /proc/net/kcm (`mux`, `kcm-0`, `psock-0`).
    pub fn say_table(&self, k: Sock, names: &[&str]) {
        for (name, line) in text::kcm_lines(&self.back.kcm_text(k)) {
            if names.contains(&name.as_str()) {
                self.line(format!("{name}: {line}"));
            }
        }
    }

    /// Runs `f` and answers with the counters that changed meanwhile, of those named.
    pub fn say_counters(&self, k: Sock, names: &[&str], f: impl FnOnce()) {
        let before = text::stats(&self.back.stats_text(k));
        f();
        let after = text::stats(&self.back.stats_text(k));
        let list: Vec<String> = names
            .iter()
            .map(|n| {
                let get = |m: &std::collections::BTreeMap<String, i64>| m.get(*n).copied();
                match (get(&before), get(&after)) {
                    (Some(b), Some(a)) => format!("{n} +{}", a - b),
                    _ => format!("{n} absent"),
                }
            })
            .collect();
        self.line(list.join(", "));
    }
}

/// A receive's outcome as text.
pub fn outcome(got: &Result<Got>) -> String {
    match got {
        Ok(g) => {
            let mut s = text::show(&g.bytes);
            if g.trunc {
                s.push_str(" TRUNC");
            }
            if g.eor {
                s.push_str(" EOR");
            }
            s
        }
        Err(e) => e.to_string(),
    }
}

/// A number of bytes or an error.
pub fn count(r: &Result<usize>) -> String {
    match r {
        Ok(n) => n.to_string(),
        Err(e) => e.to_string(),
    }
}

/// `ok` or an error.
pub fn okay<X>(r: &Result<X>) -> String {
    match r {
        Ok(_) => "ok".into(),
        Err(e) => e.to_string(),
    }
}

/// Poll's answer as words.
pub fn ready(r: Ready) -> String {
    let words: Vec<&str> =
        [(r.readable, "IN"), (r.writable, "OUT"), (r.error, "ERR"), (r.hangup, "HUP")]
            .into_iter()
            .filter_map(|(set, w)| set.then_some(w))
            .collect();
    if words.is_empty() { "nothing".into() } else { words.join("|") }
}

/// The first filling byte of each message.
pub fn tags(list: &[Got]) -> String {
    let tags: Vec<String> = list
        .iter()
        .map(|g| g.bytes.get(4).map_or("?".into(), |b| b.escape_ascii().to_string()))
        .collect();
    if tags.is_empty() { "nothing".into() } else { tags.join(" ") }
}
