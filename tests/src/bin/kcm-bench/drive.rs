//! One run: a server and a client, each a process of its own on a CPU of its own; what they
//! said and cost.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::sys::{self, Role};

/// The `key=value` pairs of a line.
pub(crate) type Pairs = BTreeMap<String, String>;

/// A number among the pairs; 0 if it is not there.
pub(crate) fn number(pairs: &Pairs, key: &str) -> f64 {
    pairs.get(key).and_then(|v| v.parse().ok()).unwrap_or(0.0)
}

/// CPU seconds of a process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    /// Spent in itself.
    pub(crate) user: f64,
    /// Spent in the kernel for it.
    pub(crate) sys: f64,
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) server: Cpu,
    pub(crate) client: Cpu,
    /// The server's lines that carry figures, all in one.
    pub(crate) done: Pairs,
    pub(crate) sent: Pairs,
    /// Seconds from the client's first message to the server's last.
    pub(crate) wall: f64,
    /// CPUs that others used meanwhile, the host included.
    pub(crate) noise: f64,
}

impl Ran {
    /// Messages, by the sender's count (which is the receiver's, where it counts).
    pub(crate) fn msgs(&self) -> f64 {
        number(&self.sent, "msgs").max(1.0)
    }

    /// Of the process `of`: nanoseconds per message, all, user, system; millions of messages
    /// and 10^9 bytes per second.
    pub(crate) fn costs(&self, of: Cpu) -> Vec<f64> {
        let ns = |secs: f64| secs * 1e9 / self.msgs();
        let rate = self.msgs() / self.wall / 1e6;
        let gbs = number(&self.done, "bytes") / self.wall / 1e9;
        vec![ns(of.user + of.sys), ns(of.user), ns(of.sys), rate, gbs]
    }
}

/// How two roles run together.
#[derive(Clone, Debug)]
pub(crate) struct Duo {
    pub(crate) server: Vec<String>,
    /// Without `--port`, which the server says.
    pub(crate) client: Vec<String>,
    /// The server says when it is ready to be filled (`ATTACHED`), and the client waits for it.
    pub(crate) announced: bool,
    /// The server counts, and must have counted what was sent.
    pub(crate) counted: bool,
    /// Started by this command and its arguments, for one that looks on.
    pub(crate) watched: Option<Watched>,
}

/// Which of the two processes runs under which command.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub(crate) end: End,
    pub(crate) command: Vec<String>,
}

/// One of the two processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Server,
    Client,
}

/// Words and options as arguments.
pub(crate) fn words(role: &str, options: &[(&str, String)], flags: &[&str]) -> Vec<String> {
    let mut out = vec![role.to_owned()];
    out.extend(options.iter().map(|(k, v)| format!("--{k}={v}")));
    out.extend(flags.iter().map(|f| format!("--{f}")));
    out
}

/// Server on one CPU, client on the other, where there are two.
pub(crate) fn cpus() -> (Option<usize>, Option<usize>) {
    if std::thread::available_parallelism().map_or(1, usize::from) >= 2 {
        (Some(0), Some(1))
    } else {
        (None, None)
    }
}

impl Duo {
    /// Runs both to their end. Not what was sent is received: no run.
    pub(crate) fn run(&self) -> Result<Ran> {
        let (server_cpu, client_cpu) = cpus();
        let (begin, (busy0, steal0)) = (Instant::now(), sys::machine());
        let by = |end| match &self.watched {
            Some(w) if w.end == end => w.command.as_slice(),
            _ => &[],
        };
        let mut server = Role::start(by(End::Server), server_cpu, &self.server)?;
        let ready = server.line()?;
        let port = ready.trim().strip_prefix("READY ").with_context(|| {
            format!("the server {:?} said {ready:?} instead of READY", self.server)
        })?;
        let mut args = self.client.clone();
        args.push(format!("--port={port}"));
        if self.announced {
            args.push("--go".into());
        }
        let mut client = Role::start(by(End::Client), client_cpu, &args)?;
        if self.announced {
            let line = server.line()?;
            if line.trim() != "ATTACHED" {
                bail!("the server {:?} said {line:?} instead of ATTACHED", self.server);
            }
            client.go()?;
        }
        // A client that holds its connections ends when nobody needs them any more.
        let holds = self.client.first().is_some_and(|role| role == "idle");
        let (server, client) = if holds {
            let server = server.wait()?;
            (server, client.wait()?)
        } else {
            let client = client.wait()?;
            (server.wait()?, client)
        };
        let (busy1, steal1) = sys::machine();
        let said = &server.text;

        let mut done = pairs(said, "DONE")?;
        done.extend(pairs(said, "MEMORY").unwrap_or_default());
        let start = pairs(&client.text, "START")?;
        let sent = pairs(&client.text, "SENT")?;
        if self.counted && !same_messages(&done, &sent) {
            bail!(
                "lost, torn or doubled messages: server {}, client {}",
                said.trim(),
                client.text.trim()
            );
        }
        let wall = (number(&done, "end_ns") - number(&start, "start_ns")) / 1e9;
        let ours = server.user + server.sys + client.user + client.sys;
        Ok(Ran {
            server: Cpu { user: server.user, sys: server.sys },
            client: Cpu { user: client.user, sys: client.sys },
            done,
            sent,
            wall,
            noise: ((busy1 - busy0 - ours).max(0.0) + steal1 - steal0)
                / begin.elapsed().as_secs_f64(),
        })
    }
}

/// As many messages were received as were sent, and their numbers sum up to the same.
fn same_messages(done: &Pairs, sent: &Pairs) -> bool {
    ["msgs", "sum"].iter().all(|k| done.contains_key(*k) && done.get(*k) == sent.get(*k))
}

/// The pairs of the line that starts with `word`.
fn pairs(text: &str, word: &str) -> Result<Pairs> {
    let line = text
        .lines()
        .find(|l| l.starts_with(word))
        .with_context(|| format!("no {word} line in {text:?}"))?;
    let pairs = line.split_whitespace().filter_map(|w| w.split_once('='));
    Ok(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_a_role_are_read() {
        let n = pairs("START start_ns=5\nSENT msgs=3 sum=9 p50=1.5\n", "SENT").unwrap();
        assert_eq!((&*n["msgs"], &*n["sum"], &*n["p50"]), ("3", "9", "1.5"));
        assert!(pairs("nothing", "SENT").is_err());
    }

    #[test]
    fn a_run_that_lost_doubled_or_tore_a_message_is_noticed() {
        let same = |done: &str| {
            let sent = pairs("SENT msgs=3 sum=9", "SENT").unwrap();
            same_messages(&pairs(&format!("DONE {done}"), "DONE").unwrap(), &sent)
        };
        assert!(same("msgs=3 sum=9 end_ns=7"));
        assert!(!same("msgs=2 sum=9"));
        assert!(!same("msgs=3 sum=8"));
        assert!(!same("bytes=3"));
    }
}
