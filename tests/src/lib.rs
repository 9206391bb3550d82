//! The harness of the integration tests: peers, faults, real servers.

pub mod bench_format;
pub mod capture;
pub mod codec;
pub mod conformance;
pub mod engine;
pub mod fault;
pub mod fuzz;
pub mod harness;
pub mod kernel_bpf;
pub mod kernel_engine;
pub mod load;
pub mod objects;
pub mod oracle;
pub mod parser_table;
pub mod peer;
pub mod server;
pub mod skip;
pub mod soak;
pub mod streams;

/// The README's examples, as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
