//! A parser: a verified program that says where messages end.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::bpf::map::Map;
use crate::bpf::program::{Program, ProgramKind};
use crate::bpf::run::{Exec, Executable};
use crate::bpf::verifier::{self, Facts, Options, Verified};
use crate::delineate::{Delineate, Verdict, WalkEnd, WalkLimits};
use crate::log::LEVEL_GLOBAL;
use crate::object::{LoadError, Object};

/// A verified program with its maps, ready to say where messages end.
///
/// Clones share the program, its maps and whatever it keeps in them. A parser runs from any
/// number of threads at once; running it never blocks, panics, faults, allocates or loops
/// without end.
#[derive(Clone)]
pub struct Parser {
    executable: Arc<Executable>,
    cookie: u64,
    source: Option<Arc<Source>>,
}

/// What a parser was loaded from: whoever runs it elsewhere loads its other forms from there.
pub(crate) struct Source {
    pub(crate) object: Object,
    pub(crate) log_level: u8,
    /// Bytes of the kernel engine's ring, if not as usual.
    pub(crate) kernel_ring: Option<u32>,
    /// What the parser is loaded as elsewhere, while it is.
    pub(crate) loaded: Mutex<Option<Weak<dyn Any + Send + Sync>>>,
}

/// How a parser is loaded; made by [`Parser::builder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ParserBuilder<'a> {
    object: &'a Object,
    name: &'a str,
    exec: Exec,
    options: Options,
    log_level: Option<log::LevelFilter>,
    share: Option<Parser>,
    kernel_ring: Option<u32>,
}

impl ParserBuilder<'_> {
    /// Chooses the executor; [`Exec::Auto`] if this is not called.
    pub fn exec(mut self, exec: Exec) -> Self {
        self.exec = exec;
        self
    }

    /// Lets the verifier explore more or fewer instructions than the kernel's million before
    /// it widens loops, and as many again before it gives up.
    pub fn verifier_budget(mut self, instructions: u64) -> Self {
        self.options = self.options.with_budget(instructions);
        self
    }

    /// The most backward jumps one call of a parser may take whose loops could not be shown to
    /// end; it then ends with `-ELOOP`. [`FUEL`](verifier::FUEL), some 4 million, if this is not
    /// called; it bounds the time that one message can cost.
    pub fn fuel(mut self, back_edges: u64) -> Self {
        self.options = self.options.with_fuel(back_edges);
        self
    }

    /// The least important log lines the parser writes; what the application logs when the
    /// parser is loaded ([`log::max_level`]) if this is not called. The verifier knows it as a
    /// constant: lines beyond it are no part of the program that runs, and cost nothing.
    pub fn log_level(mut self, level: log::LevelFilter) -> Self {
        self.log_level = Some(level);
        self
    }

    /// The size of the ring through which the kernel engine hands over messages, for all
    /// connections that are attached with this parser together, in bytes: a power of two, at
    /// least 4096; 8 MiB if this is not called. Each connection may have half of it on its way
    /// to a reader; the longest message is nearly a quarter of it. The memory is the kernel's,
    /// and there while a connection is attached with [`Engine::Kernel`](crate::Engine).
    pub fn kernel_ring(mut self, bytes: u32) -> Self {
        self.kernel_ring = Some(bytes);
        self
    }

    /// Shares with another parser the maps that both programs have, by name and definition, as
    /// programs of one object do in a kernel: counters, tables, variables.
    pub fn share_maps(mut self, other: &Parser) -> Self {
        self.share = Some(other.clone());
        self
    }

    /// Links, verifies and lowers the program, and makes its maps.
    ///
    /// # Errors
    /// As [`Parser::load`]; [`LoadError::Exec`] also where [`Exec::Jit`] is not available.
    pub fn load(self) -> Result<Parser, LoadError> {
        let shared = self.share.as_ref().map_or(&[][..], Parser::maps);
        let (verified, maps) = self.prepare(shared)?;
        let program = verified.program().name.clone();
        match Executable::new(verified, maps, self.exec) {
            Ok(executable) => Ok(self.finish(executable)),
            Err(error) => Err(LoadError::Exec { program, error }),
        }
    }

    /// The verified program and its maps; those that `shared` has already are taken from there.
    fn prepare(&self, shared: &[Arc<Map>]) -> Result<(Verified, Vec<Arc<Map>>), LoadError> {
        let program = self.link()?;
        let verified = verifier::verify(program, &self.options).map_err(LoadError::Rejected)?;
        let program = verified.program().name.clone();
        let mut maps =
            Executable::make_maps(&verified).map_err(|error| LoadError::Exec { program, error })?;
        for theirs in shared {
            for own in maps.iter_mut().filter(|own| own.def() == theirs.def()) {
                *own = Arc::clone(theirs);
            }
        }
        Ok((verified, maps))
    }

    fn finish(&self, executable: Executable) -> Parser {
        Parser {
            source: Some(Arc::new(Source {
                object: self.object.clone(),
                log_level: self.level(),
                kernel_ring: self.kernel_ring,
                loaded: Mutex::new(None),
            })),
            ..Parser::from_executable(executable)
        }
    }

    fn level(&self) -> u8 {
        self.log_level.map_or_else(crate::log::level, |level| level as u8)
    }

    /// The program, linked, told how much it is to log.
    fn link(&self) -> Result<Program, LoadError> {
        if !self.object.has_global(LEVEL_GLOBAL, 1) {
            return self.object.program(self.name);
        }
        let level = self.level();
        let mut object = self.object.clone();
        object.set_global(LEVEL_GLOBAL, &[level])?;
        object.program(self.name)
    }
}

impl Parser {
    /// Loads the program `name` of an object: links it, verifies it, makes its maps, and
    /// prepares it for the fastest executor there is. Each parser that is loaded has maps of
    /// its own; its clones share them.
    ///
    /// # Errors
    /// What [`Object::program`] says of the name and of linking; [`LoadError::Rejected`] with
    /// the rule, instruction and source line where the verifier rejects the program;
    /// [`LoadError::Exec`] where a map cannot be made.
    pub fn load(object: &Object, name: &str) -> Result<Self, LoadError> {
        Self::builder(object, name).load()
    }

    /// Loads all programs of an object that parse, in its order. They share the maps that they
    /// have in common, as in a kernel; compiled, they are in one allocation.
    ///
    /// # Errors
    /// As [`load`](Self::load), of the first program that cannot be loaded.
    pub fn load_all(object: &Object) -> Result<Vec<Self>, LoadError> {
        let builders: Vec<ParserBuilder<'_>> = object
            .programs()
            .filter(|p| p.kind.is_parser())
            .map(|p| Self::builder(object, p.name))
            .collect();
        let mut shared: Vec<Arc<Map>> = Vec::new();
        let mut prepared = Vec::new();
        for builder in &builders {
            let (verified, maps) = builder.prepare(&shared)?;
            for map in &maps {
                if !shared.iter().any(|s| Arc::ptr_eq(s, map)) {
                    shared.push(Arc::clone(map));
                }
            }
            prepared.push((verified, maps));
        }
        let first = builders.first().map_or("", |b| b.name).to_owned();
        let made = Executable::together(prepared, Exec::Auto)
            .map_err(|error| LoadError::Exec { program: first, error })?;
        Ok(builders.iter().zip(made).map(|(builder, one)| builder.finish(one)).collect())
    }

    /// The same with choices.
    pub fn builder<'a>(object: &'a Object, name: &'a str) -> ParserBuilder<'a> {
        ParserBuilder {
            object,
            name,
            exec: Exec::Auto,
            options: Options::default(),
            log_level: None,
            share: None,
            kernel_ring: None,
        }
    }

    /// A parser from the engine's lower face.
    pub fn from_executable(executable: Executable) -> Self {
        Parser { executable: Arc::new(executable), cookie: 0, source: None }
    }

    /// The same parser for one connection: `bpf_get_socket_cookie` says `cookie` to it. It is 0
    /// for others, as in the kernel where there is no socket.
    #[must_use]
    pub fn with_cookie(&self, cookie: u64) -> Self {
        Parser { executable: Arc::clone(&self.executable), cookie, source: self.source.clone() }
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

    /// What it was loaded from; None for one from the engine's lower face.
    pub(crate) fn source(&self) -> Option<&Arc<Source>> {
        self.source.as_ref()
    }

    /// The engine's lower face.
    pub fn executable(&self) -> &Executable {
        &self.executable
    }

    /// Asks about one message: `msg` is exactly the message so far, from its first byte
    /// (semantics J1). Bytes beyond the message's end may follow.
    // A call of compiled code costs some two nanoseconds: not another call around it.
    #[inline]
    pub fn parse(&self, msg: &[u8]) -> Verdict {
        Verdict::from_raw(self.executable.run(msg, self.cookie) as i32)
    }
}

impl Delineate for Parser {
    fn program(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn for_connection(&self, cookie: u64) -> Self {
        self.with_cookie(cookie)
    }

    #[inline]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_of_an_object_share_an_allocation_and_answer_as_if_alone() {
        let object = Object::parse(crate::parsers::object("lenprefix_be16").unwrap()).unwrap();
        let all = Parser::load_all(&object).unwrap();
        assert!(all.len() >= 5);
        let messages: [&[u8]; 4] = [&[0, 2, 7, 7], &[2, 0, 0, 0, 9, 9], &[0, 0, 0, 1, 5], &[0]];
        for p in &all {
            let alone = Parser::load(&object, p.name()).unwrap();
            for m in messages {
                assert_eq!(p.parse(m), alone.parse(m), "{} of {m:?}", p.name());
            }
            let beside = p.executable().is_beside(all[0].executable());
            assert_eq!(beside, p.exec() == Exec::Jit, "{}", p.name());
            assert!(!p.executable().is_beside(alone.executable()));
        }
        // The code of one outlives the others.
        let last = all.into_iter().last().unwrap();
        assert_eq!(last.parse(&[]), Verdict::NeedMore);
    }
}
