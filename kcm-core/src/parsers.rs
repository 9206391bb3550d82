//! The parsers that come with the crate, their BPF objects embedded: no BPF toolchain, no file.
//!
//! Each is linked, verified and compiled on first use, in less than a millisecond for those that
//! look at a header and in some twenty for [`resp`] and [`memcached`], which look at all of a
//! message; after that a call costs a clone of an [`Arc`](std::sync::Arc). Their sources, with
//! what each accepts, limits and refuses, are the modules of `kcm_ebpf::parsers`.
//!
//! ```
//! use kcm_core::delineate::Verdict;
//!
//! let thrift = kcm_core::parsers::thrift();
//! assert_eq!(thrift.parse(&[0, 0]), Verdict::NeedMore);
//! assert_eq!(thrift.parse(&[0, 0, 0, 2, 7, 7]), Verdict::Message(6));
//! assert_eq!(kcm_core::parsers::by_name("thrift").unwrap().name(), "thrift");
//! ```

use std::sync::OnceLock;

use crate::object::{LoadError, Object};
use crate::parser::Parser;

/// A built-in parser: what there is to know of it without loading it.
#[derive(Debug)]
pub struct BuiltIn {
    name: &'static str,
    about: &'static str,
    object: &'static [u8],
    parser: OnceLock<Parser>,
}

impl BuiltIn {
    const fn new(name: &'static str, about: &'static str, object: &'static [u8]) -> Self {
        BuiltIn { name, about, object, parser: OnceLock::new() }
    }

    /// Its name, which is its program's.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What it delineates, in a few words.
    pub fn about(&self) -> &'static str {
        self.about
    }

    /// The bytes of its object, for [`Object::parse`] with choices of one's own, for the
    /// kernel's loader or for tools.
    pub fn object(&self) -> &'static [u8] {
        self.object
    }

    /// Links and verifies it, or takes what was loaded before. All clones share its state.
    ///
    /// # Errors
    /// None with the objects this crate was released with, which its tests load: they have no
    /// maps that could fail to be made.
    pub fn load(&self) -> Result<Parser, LoadError> {
        if let Some(parser) = self.parser.get() {
            return Ok(parser.clone());
        }
        // Two threads may both load it the first time; one of the two results is kept.
        let parser = Parser::load(&Object::parse(self.object)?, self.name)?;
        Ok(self.parser.get_or_init(|| parser).clone())
    }

    fn get(&self) -> Parser {
        match self.load() {
            Ok(parser) => parser,
            // tidy-allow(panic): no input: the object is a constant that the tests load
            Err(error) => panic!("built-in parser {}: {error}", self.name),
        }
    }
}

macro_rules! built_in {
    ($($index:literal $name:ident $object:literal $about:literal;)*) => {
        static ALL: [BuiltIn; [$($index),*].len()] = [$(
            BuiltIn::new(
                stringify!($name),
                $about,
                include_bytes!(concat!("../objects/", $object, ".o")),
            ),
        )*];

        $(
            #[doc = concat!("The built-in parser `", stringify!($name), "`: ", $about, ".")]
            pub fn $name() -> Parser {
                ALL[$index].get()
            }
        )*

        #[cfg(test)]
        const BY_FUNCTION: &[(&str, fn() -> Parser)] = &[$((stringify!($name), $name),)*];
    };
}

built_in! {
    0 thrift "thrift" "Apache Thrift, framed transport";
    1 http2 "http2" "HTTP/2 frames, with the client's preface; gRPC";
    2 resp "resp" "Redis' protocol, RESP2 and RESP3, requests and replies";
    3 mqtt "mqtt" "MQTT control packets, versions 3.1, 3.1.1 and 5";
    4 postgres "postgres" "PostgreSQL's protocol version 3, both directions";
    5 memcached "memcached" "memcached's text protocol, classic and meta commands, and replies";
    6 kafka "kafka" "Apache Kafka's protocol, both directions";
    7 dns_tcp "dns-tcp" "DNS over TCP, and over TLS once that is taken off";
    8 lenprefix_be16 "lenprefix" "a 16-bit big-endian length, then that many bytes";
    9 lenprefix_be32 "lenprefix" "a 32-bit big-endian length, then that many bytes";
    10 lenprefix_le16 "lenprefix" "a 16-bit little-endian length, then that many bytes";
    11 lenprefix_le32 "lenprefix" "a 32-bit little-endian length, then that many bytes";
    12 lenprefix_varint "lenprefix" "a varint length as protobuf writes it, then that many bytes";
}

/// All of them, none loaded by being listed.
pub fn all() -> &'static [BuiltIn] {
    &ALL
}

/// The one of that name. Protocol names with `-` for `_` are understood too.
pub fn by_name(name: &str) -> Option<Parser> {
    find(name).map(BuiltIn::get)
}

/// The bytes of the object with the parser of that name.
pub fn object(name: &str) -> Option<&'static [u8]> {
    find(name).map(BuiltIn::object)
}

fn find(name: &str) -> Option<&'static BuiltIn> {
    ALL.iter().find(|b| {
        b.name.len() == name.len()
            && b.name.bytes().zip(name.bytes()).all(|(a, b)| a == b || (a == b'_' && b == b'-'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::program::ProgramKind;

    #[test]
    fn every_built_in_parser_loads_under_its_name() {
        assert_eq!(ALL.len(), BY_FUNCTION.len());
        for (built_in, (name, function)) in ALL.iter().zip(BY_FUNCTION) {
            let parser = built_in.load().unwrap();
            assert_eq!((parser.name(), built_in.name()), (*name, *name));
            assert_eq!(function().name(), *name);
            assert!(std::ptr::eq(function().executable(), parser.executable()), "loaded once");
            assert_eq!(by_name(name).unwrap().name(), *name);
        }
    }

    #[test]
    fn every_program_of_every_embedded_object_is_listed() {
        for built_in in &ALL {
            let object = Object::parse(built_in.object()).unwrap();
            let (parsers, others): (Vec<_>, Vec<_>) =
                object.programs().partition(|p| p.kind == ProgramKind::StreamParser);
            for program in &parsers {
                assert!(find(program.name).is_some(), "{} is not listed", program.name);
            }
            // Each has its form for a kernel, and the object one verdict.
            assert_eq!(others.len(), parsers.len() + 1, "{}", built_in.name());
        }
    }

    #[test]
    fn names_are_forgiving_about_the_dash_alone() {
        assert_eq!(by_name("dns-tcp").unwrap().name(), "dns_tcp");
        assert!(by_name("dns+tcp").is_none());
        assert!(by_name("thrift2").is_none() && by_name("").is_none());
        assert!(object("resp").is_some_and(|o| o.starts_with(b"\x7fELF")));
    }
}
