//! A proxy that keeps what it passes on: how tests get real streams.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, bail};

/// What went over one connection, both ways.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// From the client to the server.
    pub requests: Vec<u8>,
    /// From the server to the client.
    pub replies: Vec<u8>,
    /// Directions that have ended.
    ended: u8,
}

#[derive(Default)]
struct State {
    stop: AtomicBool,
    recordings: Mutex<Vec<Recording>>,
    changed: Condvar,
}

/// A running proxy.
pub struct Capture {
    addr: SocketAddr,
    state: Arc<State>,
    accept: Option<JoinHandle<()>>,
}

impl Capture {
    /// Listens on a free loopback port and passes every connection on to `server`.
    pub fn start(server: SocketAddr) -> Result<Capture> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let addr = listener.local_addr()?;
        let state = Arc::new(State::default());
        let shared = state.clone();
        let accept = std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // The proxy's own wake-up call, at its end.
                if shared.stop.load(Ordering::Relaxed) {
                    return;
                }
                if let Ok(server) = TcpStream::connect(server) {
                    pass(&shared, client, server);
                }
            }
        });
        Ok(Capture { addr, state, accept: Some(accept) })
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The port of [`addr`](Self::addr), for command lines.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// All connections so far, once each has ended in both directions.
    ///
    /// # Errors
    /// If one has not after 30 seconds.
    pub fn finish(mut self) -> Result<Vec<Recording>> {
        let guard = self.state.recordings.lock().unwrap_or_else(|e| e.into_inner());
        let (all, waited) = self
            .state
            .changed
            .wait_timeout_while(guard, Duration::from_secs(30), |all| {
                all.iter().any(|r| r.ended < 2)
            })
            .unwrap_or_else(|e| e.into_inner());
        if waited.timed_out() {
            bail!("a connection through the proxy did not end");
        }
        let out = all.clone();
        drop(all);
        self.stop();
        Ok(out)
    }

    fn stop(&mut self) {
        // The flag tells the accept loop what the next connection means.
        self.state.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.addr);
        if let Some(t) = self.accept.take() {
            let _ = t.join();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if self.accept.is_some() {
            self.stop();
        }
    }
}

/// Passes bytes on in both directions until both have ended.
fn pass(state: &Arc<State>, client: TcpStream, server: TcpStream) {
    let mut all = state.recordings.lock().unwrap_or_else(|e| e.into_inner());
    let index = all.len();
    all.push(Recording::default());
    drop(all);
    let (Ok(client2), Ok(server2)) = (client.try_clone(), server.try_clone()) else { return };
    let copy = |mut from: TcpStream, mut to: TcpStream, request: bool| {
        let state = state.clone();
        std::thread::spawn(move || {
            let mut buf = vec![0; 64 * 1024];
            while let Ok(n @ 1..) = from.read(&mut buf) {
                let mut all = state.recordings.lock().unwrap_or_else(|e| e.into_inner());
                let r = &mut all[index];
                let kept = if request { &mut r.requests } else { &mut r.replies };
                kept.extend_from_slice(&buf[..n]);
                drop(all);
                if to.write_all(&buf[..n]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Write);
            state.recordings.lock().unwrap_or_else(|e| e.into_inner())[index].ended += 1;
            state.changed.notify_all();
        })
    };
    copy(client, server2, true);
    copy(server, client2, false);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_of_every_connection_are_kept() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let proxy = Capture::start(server.local_addr().unwrap()).unwrap();
        for i in 0..2u8 {
            let mut c = TcpStream::connect(proxy.addr()).unwrap();
            c.write_all(&[i; 3]).unwrap();
            let (mut s, _) = server.accept().unwrap();
            let mut b = [0; 3];
            s.read_exact(&mut b).unwrap();
            s.write_all(b"ok").unwrap();
            drop(s);
            let mut answer = Vec::new();
            c.read_to_end(&mut answer).unwrap();
            assert_eq!(answer, b"ok");
        }
        let all = proxy.finish().unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!((&all[1].requests[..], &all[1].replies[..]), (&[1u8; 3][..], &b"ok"[..]));
    }
}
