//! A parser: a verified program that says where messages end.

use std::fmt;
use std::sync::Arc;

use crate::bpf::map::Map;
use crate::bpf::program::ProgramKind;
use crate::bpf::run::{Exec, Executable};
use crate::bpf::verifier::Facts;
use crate::delineate::{Delineate, Verdict, WalkEnd, WalkLimits};

/// A verified program with its maps, ready to say where messages end.
///
/// Clones share the program, its maps and whatever it keeps in them. A parser runs from any
/// number of threads at once; running it never blocks, panics, faults, allocates or loops
/// without end.
#[derive(Clone)]
pub struct Parser {
    executable: Arc<Executable>,
    cookie: u64,
}

impl Parser {
    /// A parser from the engine's lower face.
    pub fn from_executable(executable: Executable) -> Self {
        Parser { executable: Arc::new(executable), cookie: 0 }
    }

    /// The same parser for one connection: `bpf_get_socket_cookie` says `cookie` to it. It is 0
    /// for others, as in the kernel where there is no socket.
    #[must_use]
    pub fn with_cookie(&self, cookie: u64) -> Self {
        Parser { executable: Arc::clone(&self.executable), cookie }
    }

    /// The program's name in its object.
    pub fn name(&self) -> &str {
        &self.executable.verified().program().name
    }

    /// What kind of program it is.
    pub fn kind(&self) -> ProgramKind {
        self.executable.verified().program().kind
    }

    /// Which executor runs it; never [`Exec::Auto`].
    pub fn exec(&self) -> Exec {
        self.executable.exec()
    }

    /// What verification learned: instructions explored, stack used, how it terminates.
    pub fn facts(&self) -> &Facts {
        self.executable.verified().facts()
    }

    /// A map of the program, by its name in the object (`.rodata`, `.data`, `.bss` and the
    /// like for data sections).
    pub fn map(&self, name: &str) -> Option<&Arc<Map>> {
        self.maps().iter().find(|m| m.name() == name)
    }

    /// All maps of the program.
    pub fn maps(&self) -> &[Arc<Map>] {
        self.executable.maps()
    }

    /// The engine's lower face.
    pub fn executable(&self) -> &Executable {
        &self.executable
    }

    /// Asks about one message: `msg` is exactly the message so far, from its first byte
    /// (semantics J1). Bytes beyond the message's end may follow.
    pub fn parse(&self, msg: &[u8]) -> Verdict {
        Verdict::from_raw(self.executable.run(msg, self.cookie) as i32)
    }
}

impl Delineate for Parser {
    fn parse(&self, msg: &[u8]) -> Verdict {
        Parser::parse(self, msg)
    }

    fn walk(&self, buf: &[u8], start: usize, limits: WalkLimits, ends: &mut Vec<u32>) -> WalkEnd {
        self.executable.walk(buf, start, limits, ends, self.cookie)
    }
}

impl fmt::Debug for Parser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parser")
            .field("name", &self.name())
            .field("kind", &self.kind())
            .field("exec", &self.exec())
            .field("cookie", &self.cookie)
            .finish_non_exhaustive()
    }
}
