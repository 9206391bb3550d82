//! The harness of the integration tests: peers, faults, real servers.

pub mod server;
pub mod skip;
