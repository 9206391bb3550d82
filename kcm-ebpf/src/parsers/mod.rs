//! The ready parsers, one file per protocol: parse functions that run natively and, through
//! the binary of the same name, as a BPF program.
//!
//! They delineate, they do not validate: bytes are refused when the length cannot be told
//! from them, or when they plainly are another protocol. Common to all: `EPROTO` for bytes
//! that are not the protocol, `EMSGSIZE` for a length beyond a limit or beyond 31 bits.

pub mod dns_tcp;
pub mod http2;
pub mod kafka;
pub mod lenprefix;
pub mod memcached;
pub mod mqtt;
pub mod postgres;
pub mod resp;
pub mod thrift;

#[cfg(test)]
mod tests;

use crate::{Message, Parsed};

/// A parse function, as the table below holds it.
pub type ParseFn = fn(&Message<'_>) -> Parsed;

/// Every ready program by the name of its object and its own, with its parse function: for
/// tests and tools that run all of them natively.
pub const ALL: &[(&str, &str, ParseFn)] = &[
    ("dns-tcp", "dns_tcp", dns_tcp::parse),
    ("http2", "http2", http2::parse),
    ("kafka", "kafka", kafka::parse),
    ("lenprefix", "lenprefix_be16", lenprefix::be16),
    ("lenprefix", "lenprefix_be32", lenprefix::be32),
    ("lenprefix", "lenprefix_le16", lenprefix::le16),
    ("lenprefix", "lenprefix_le32", lenprefix::le32),
    ("lenprefix", "lenprefix_varint", lenprefix::varint),
    ("memcached", "memcached", memcached::parse),
    ("mqtt", "mqtt", mqtt::parse),
    ("postgres", "postgres", postgres::parse),
    ("resp", "resp", resp::parse),
    ("thrift", "thrift", thrift::parse),
];
