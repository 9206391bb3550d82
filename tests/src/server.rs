//! Real servers for tests: private instances on free loopback ports, in folders of their own.
//!
//! Each answers a first request before its constructor returns, and is gone, with its folder,
//! when it is dropped. Servers that the system runs are neither used nor disturbed.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// How long a server may take until it answers.
const START: Duration = Duration::from_secs(60);

/// How long a server may take to end by itself once asked to.
const STOP: Duration = Duration::from_secs(5);

/// A running server.
#[derive(Debug)]
pub struct Server {
    name: &'static str,
    child: Child,
    addr: SocketAddr,
    dir: TempDir,
}

/// What a program needs to be run: its path, or the name of the Debian package that has it.
fn need(name: &str, package: &str) -> Result<PathBuf> {
    find(name).with_context(|| format!("{name} is not installed (apt-get install {package})"))
}

/// `name` in PATH, or where Debian puts programs that are not in everybody's PATH.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    dirs.push("/usr/sbin".into());
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| Some((e.file_name().to_str()?.parse().ok()?, e.path().join("bin"))))
        .collect();
    versions.sort();
    // The newest first: PATH may have wrappers of several versions.
    let newest = versions.into_iter().rev().map(|v| v.1);
    newest.chain(dirs).map(|d| d.join(name)).find(|p| p.is_file())
}

impl Server {
    /// A redis-server without persistence.
    pub fn redis() -> Result<Server> {
        let program = need("redis-server", "redis-server")?;
        Self::start("redis-server", &program, false, ping_redis, |port, dir| {
            let port = port.to_string();
            let mut args = words(&["--port", &port, "--bind", "127.0.0.1", "--save", ""]);
            args.extend(words(&["--appendonly", "no", "--daemonize", "no", "--dir"]));
            args.push(dir.into());
            Ok(args)
        })
    }

    /// A PostgreSQL cluster of its own, without durability; user `postgres`, no password.
    pub fn postgres() -> Result<Server> {
        let program = need("postgres", "postgresql")?;
        let initdb = need("initdb", "postgresql")?;
        Self::start("postgres", &program, true, ping_postgres, |port, dir| {
            let data = dir.join("data");
            let mut init = Command::new(&initdb);
            init.args(["--auth=trust", "--username=postgres", "--no-sync", "--locale=C"])
                .args(["--encoding=UTF8", "-D"])
                .arg(&data);
            unprivileged(&mut init);
            let out = init.current_dir(dir).stdin(Stdio::null()).output()?;
            if !out.status.success() {
                bail!("initdb failed: {}", String::from_utf8_lossy(&out.stderr));
            }
            let mut args = vec![OsString::from("-D"), data.into()];
            args.extend(words(&["-F", "-p", &port.to_string(), "-c"]));
            args.extend(words(&["listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]));
            Ok(args)
        })
    }

    /// A memcached with a small cache.
    pub fn memcached() -> Result<Server> {
        let program = need("memcached", "memcached")?;
        Self::start("memcached", &program, true, ping_memcached, |port, _| {
            let port = port.to_string();
            Ok(words(&["-l", "127.0.0.1", "-p", &port, "-U", "0", "-m", "16", "-t", "1"]))
        })
    }

    /// A mosquitto broker that lets everybody in and keeps nothing on disk.
    pub fn mosquitto() -> Result<Server> {
        let program = need("mosquitto", "mosquitto")?;
        Self::start("mosquitto", &program, true, ping_mosquitto, |port, dir| {
            let conf = dir.join("mosquitto.conf");
            let text = format!(
                "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n\
                 max_queued_messages 0\nlog_dest stderr\n"
            );
            std::fs::write(&conf, text)?;
            Ok(vec!["-c".into(), conf.into()])
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The port of [`addr`](Self::addr), for command lines.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    fn start(
        name: &'static str,
        program: &Path,
        drop_root: bool,
        ping: fn(&mut TcpStream) -> std::io::Result<bool>,
        args: impl Fn(u16, &Path) -> Result<Vec<OsString>>,
    ) -> Result<Server> {
        // Between our look at a free port and the server's bind somebody may take it: then
        // the server ends, and another port is tried.
        let mut last = String::new();
        for _ in 0..5 {
            let dir = private_dir()?;
            let port = free_port()?;
            let log = std::fs::File::create(dir.path().join("log"))?;
            let mut c = Command::new(program);
            c.args(args(port, dir.path())?)
                .current_dir(dir.path())
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log);
            if drop_root {
                unprivileged(&mut c);
            }
            let child =
                c.spawn().with_context(|| format!("could not start {}", program.display()))?;
            let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let mut server = Server { name, child, addr, dir };
            if server.answers(ping)? {
                return Ok(server);
            }
            last = server.log();
        }
        bail!("{name} did not start; its last words: {last}")
    }

    /// Waits for the first answer; false if the server ended instead.
    fn answers(&mut self, ping: fn(&mut TcpStream) -> std::io::Result<bool>) -> Result<bool> {
        let deadline = Instant::now() + START;
        while Instant::now() < deadline {
            if self.child.try_wait()?.is_some() {
                return Ok(false);
            }
            let answer = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1))
                .and_then(|mut s| {
                    s.set_read_timeout(Some(Duration::from_secs(5)))?;
                    ping(&mut s)
                })
                .unwrap_or(false);
            if answer {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(20)); // between two questions
        }
        bail!("{} did not answer within {START:?}; its last words: {}", self.name, self.log())
    }

    fn log(&self) -> String {
        let text = std::fs::read(self.dir.path().join("log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let tail: Vec<&str> = text.lines().rev().take(10).collect();
        tail.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Server {
    /// Ends the server, first by its own fast way (PostgreSQL leaves shared memory behind
    /// otherwise), then by force.
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let deadline = Instant::now() + STOP;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5)); // between two looks
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn words(w: &[&str]) -> Vec<OsString> {
    w.iter().map(OsString::from).collect()
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A folder that the server may write to, whoever it runs as.
fn private_dir() -> Result<TempDir> {
    let dir = tempfile::Builder::new().prefix("kcm-server-").tempdir()?;
    if let Some((uid, gid)) = unprivileged_ids() {
        std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid))?;
    }
    Ok(dir)
}

/// Some servers refuse to run as root, and none needs to.
fn unprivileged(c: &mut Command) {
    if let Some((uid, gid)) = unprivileged_ids() {
        c.uid(uid).gid(gid);
    }
}

/// User and group to run a server as; none where we are not root and need no other.
fn unprivileged_ids() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let ids = |user: &str| {
        passwd.lines().find_map(|l| {
            let mut f = l.split(':');
            (f.next()? == user).then_some(())?;
            Some((f.nth(1)?.parse().ok()?, f.next()?.parse().ok()?))
        })
    };
    // initdb wants a user that has a name.
    Some(ids("postgres").or_else(|| ids("nobody")).unwrap_or((65534, 65534)))
}

fn ping_redis(s: &mut TcpStream) -> std::io::Result<bool> {
    s.write_all(b"PING\r\n")?;
    let mut b = [0; 7];
    s.read_exact(&mut b)?;
    Ok(&b == b"+PONG\r\n")
}

fn ping_memcached(s: &mut TcpStream) -> std::io::Result<bool> {
    s.write_all(b"version\r\n")?;
    let mut b = [0; 8];
    s.read_exact(&mut b)?;
    Ok(&b == b"VERSION ")
}

/// CONNECT with an empty client id; the answer is a CONNACK of return code 0.
fn ping_mosquitto(s: &mut TcpStream) -> std::io::Result<bool> {
    s.write_all(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x0a\x00\x00")?;
    let mut b = [0; 4];
    s.read_exact(&mut b)?;
    Ok(b[0] == 0x20 && b[3] == 0)
}

/// A start-up message; a server that is still starting answers with an error message instead
/// of an authentication request.
fn ping_postgres(s: &mut TcpStream) -> std::io::Result<bool> {
    let body = b"\x00\x03\x00\x00user\0postgres\0database\0postgres\0\0";
    s.write_all(&(body.len() as u32 + 4).to_be_bytes())?;
    s.write_all(body)?;
    let mut b = [0; 1];
    s.read_exact(&mut b)?;
    Ok(&b == b"R")
}

/// Starts a server, or says that the test is skipped and returns from it.
///
/// ```ignore
/// let redis = kcm_tests::server!(redis);
/// ```
#[macro_export]
macro_rules! server {
    ($name:ident) => {{
        if $crate::skip::fast() {
            $crate::skip::skip("the real servers are left out (--fast)");
            return;
        }
        match $crate::server::Server::$name() {
            Ok(server) => server,
            Err(e) if $crate::server::missing(&e) => {
                $crate::skip::skip(format!("{e:#}"));
                return;
            }
            Err(e) => panic!("{e:#}"),
        }
    }};
}

/// Finds a client program, or says that the test is skipped and returns from it.
#[macro_export]
macro_rules! client {
    ($name:literal, $package:literal) => {
        match $crate::server::find($name) {
            Some(path) => path,
            None => {
                $crate::skip::skip(concat!(
                    $name,
                    " is not installed (apt-get install ",
                    $package,
                    ")"
                ));
                return;
            }
        }
    };
}

/// True if the error says that a program is not installed: a reason to skip, where every other
/// failure to start is a failed test.
pub fn missing(e: &anyhow::Error) -> bool {
    e.to_string().contains("is not installed")
}
