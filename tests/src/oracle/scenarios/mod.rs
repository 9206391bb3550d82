//! The scenarios, by section of the semantics. Each is named after what it looks at and says
//! which statements it bears on.

mod abi;
mod attach;
mod attached;
mod closing;
mod create;
mod end;
mod monitor;
mod parser;
mod receive;
mod send;
mod steer;
mod timer;
mod transmit;

use super::context::T;

/// One question to both back ends.
pub struct Scenario {
    /// Its name, unique.
    pub name: &'static str,
    /// The statements of the semantics it observes (`B8`).
    pub statements: &'static [&'static str],
    /// What a newcomer would call it, for those in the table of headlines.
    pub headline: Option<&'static str>,
    /// Asks and answers.
    pub run: fn(&T),
}

impl std::fmt::Debug for Scenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}", self.name, self.statements)
    }
}

/// All scenarios.
pub fn all() -> impl Iterator<Item = &'static Scenario> {
    [
        create::LIST,
        attach::LIST,
        attached::LIST,
        closing::LIST,
        parser::LIST,
        timer::LIST,
        end::LIST,
        steer::LIST,
        send::LIST,
        transmit::LIST,
        receive::LIST,
        monitor::LIST,
        abi::LIST,
    ]
    .into_iter()
    .flatten()
}

/// A table of scenarios: `function, [statements], "headline";`.
macro_rules! scenarios {
    ($($f:ident [$($s:literal)*] $($headline:literal)?;)*) => {
        pub(super) const LIST: &[super::Scenario] = &[$(super::Scenario {
            name: stringify!($f),
            statements: &[$($s),*],
            headline: scenarios!(@ $($headline)?),
            run: $f,
        }),*];
    };
    (@) => { None };
    (@ $headline:literal) => { Some($headline) };
}
use scenarios;

/// What scenarios share.
mod prelude {
    pub(super) use super::super::backend::{Opt, RecvFlags, SendFlags, TYPES, Type};
    pub(super) use super::super::context::{Buffers, T, count, okay, outcome, ready, tags};
    pub(super) use super::super::program::Parser;
    pub(super) use super::super::text::{msg, msgs, runs, show};
    pub(super) use crate::say;
    pub(super) use std::net::TcpStream;

    /// MSG_MORE.
    pub(super) const MORE: SendFlags =
        SendFlags { more: true, eor: false, batch: false, wait: false };
    /// MSG_EOR.
    pub(super) const EOR: SendFlags =
        SendFlags { more: false, eor: true, batch: false, wait: false };
    /// MSG_EOR | MSG_MORE.
    pub(super) const EOR_MORE: SendFlags =
        SendFlags { more: true, eor: true, batch: false, wait: false };
    /// MSG_BATCH.
    pub(super) const BATCH: SendFlags =
        SendFlags { more: false, eor: false, batch: true, wait: false };
    /// Blocking.
    pub(super) const WAIT: SendFlags =
        SendFlags { more: false, eor: false, batch: false, wait: true };
    /// MSG_PEEK.
    pub(super) const PEEK: RecvFlags = RecvFlags { peek: true, wait: false };
    /// Blocking.
    pub(super) const BLOCK: RecvFlags = RecvFlags { peek: false, wait: true };
    /// Buffers so small that a peer that does not read stops a sender after some kilobytes.
    pub(super) const TIGHT: Buffers = Buffers { recv: 4096, send: 4096 };

    /// Closes a connection with a reset.
    pub(super) fn reset(peer: TcpStream) {
        socket2::SockRef::from(&peer)
            .set_linger(Some(std::time::Duration::ZERO))
            .expect("SO_LINGER");
        drop(peer);
    }
}
