//! The harness of the integration tests: peers, faults, real servers.

pub mod parser_table;
pub mod server;
pub mod skip;
