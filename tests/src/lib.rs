//! The harness of the integration tests: peers, faults, real servers.
