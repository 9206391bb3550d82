//! The harness of the integration tests: peers, faults, real servers.

pub mod capture;
pub mod oracle;
pub mod parser_table;
pub mod server;
pub mod skip;
pub mod streams;
