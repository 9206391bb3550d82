//! Whether this machine and this process can: by doing it, small, on loopback.

use std::fmt;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::engine::{Kernel, Lease, Limits, Message, Sink};
use super::error::Error;

/// What [`probe`] tried, all of it with success.
#[derive(Clone, Debug)]
pub struct Report {
    /// The running kernel's release.
    pub kernel: String,
    /// What was tried, in order.
    pub steps: Vec<&'static str>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the kernel engine works on Linux {}", self.kernel)?;
        self.steps.iter().try_for_each(|step| writeln!(f, "  ok: {step}"))
    }
}

/// How long a step may take: a message is through in microseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// What came.
#[derive(Default)]
struct Heard {
    messages: Mutex<Vec<Vec<u8>>>,
    looked: AtomicBool,
}

impl Sink for Heard {
    fn messages(&self, messages: &[Message<'_>]) {
        self.messages.lock().extend(messages.iter().map(|m| m.bytes.to_vec()));
    }

    fn look(&self) {
        self.looked.store(true, Ordering::Release);
    }

    fn after(&self) {}
}

/// Tries whether the kernel engine works here, for the calling thread's privileges: loads a
/// built-in parser's programs, puts a loopback connection under them, and sends three unequal
/// messages in one write, one in two pieces, and an end. Takes some milliseconds, seconds on a
/// kernel that does not do what it should. Nothing stays behind.
///
/// # Errors
/// What is missing: [`Error::Privileges`] with the capabilities' names,
/// [`Error::Unsupported`] with the kernel's option or what it did wrong, [`Error::Rejected`]
/// with its verifier's words.
///
/// ```no_run
/// match kcm_core::kernel::probe() {
///     Ok(report) => print!("{report}"),
///     Err(missing) => println!("{missing}"),
/// }
/// ```
pub fn probe() -> Result<Report, Error> {
    let failed = |doing| move |error: io::Error| Error::of(doing, error);
    let wrong = |what: &str| Error::Unsupported { what: what.to_owned() };
    let mut steps = Vec::new();
    let kernel = Kernel::of(&crate::parsers::lenprefix_be16())?;
    steps.push("maps, and both programs past the kernel's verifier");

    let connect = || -> io::Result<_> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let peer = TcpStream::connect(listener.local_addr()?)?;
        peer.set_nodelay(true)?;
        Ok((peer, listener.accept()?.0))
    };
    let (mut peer, stream) = connect().map_err(failed("connecting over loopback"))?;
    let cookie = rustix::net::sockopt::socket_cookie(&stream)
        .map_err(|e| Error::of("asking for a socket's cookie", e.into()))?;
    let heard = Arc::new(Heard::default());
    let limits = Limits { max_message: 4096, max_header: 4096 };
    let admitted = kernel.admit(stream.as_fd(), cookie, limits, |lease| {
        Ok::<(Arc<dyn Sink>, Lease), std::convert::Infallible>((heard.clone(), lease))
    })?;
    let lease = match admitted {
        Ok(lease) => lease,
        Err(never) => match never {},
    };
    steps.push("a loopback connection in a sockmap");

    let wait = |done: &dyn Fn() -> bool| {
        let end = Instant::now() + PATIENCE;
        while !done() && Instant::now() < end {
            std::thread::sleep(Duration::from_micros(200));
            kernel.drain();
        }
        done()
    };
    let expect = |messages: &[&[u8]], what: &str| {
        let got = || heard.messages.lock().clone();
        if wait(&|| got().len() >= messages.len()) && got() == messages {
            heard.messages.lock().clear();
            return Ok(());
        }
        Err(wrong(&format!("{what} came as {} wrong ones", got().len())))
    };
    let three: [&[u8]; 3] = [b"\0\x05first", b"\0\x14twenty bytes of body", b"\0\x01x"];
    peer.write_all(&three.concat()).map_err(failed("writing"))?;
    expect(&three, "three messages of unequal length in one write")?;
    steps.push("three messages of unequal length in one write");

    let split: &[u8] = b"\0\x0asplit body";
    let (head, tail) = split.split_at(7);
    peer.write_all(head).map_err(failed("writing"))?;
    let asked = || lease.seen().need == split.len() as u32;
    if !wait(&asked) {
        return Err(wrong("half a message is not waited for"));
    }
    peer.write_all(tail).map_err(failed("writing"))?;
    expect(&[split], "a message in two pieces")?;
    steps.push("a message in two pieces");

    drop(peer);
    if !wait(&|| heard.looked.load(Ordering::Acquire)) {
        return Err(wrong("the end of a connection under a parser is not told"));
    }
    steps.push("the end of the connection");
    let _ = stream.shutdown(Shutdown::Both);
    drop(lease);
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Ok(Report { kernel: release.trim().to_owned(), steps })
}
