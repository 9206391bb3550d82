//! The harness of the integration tests: peers, faults, real servers.

pub mod codec;
pub mod fault;
pub mod harness;
pub mod parser_table;
pub mod peer;
pub mod server;
pub mod skip;
