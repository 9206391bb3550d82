//! The few facts on which both worlds must agree: the runtime (`kcm-core`, std) and the
//! parsers (`kcm-ebpf`, BPF). Nothing here allocates, and there are no dependencies.
#![no_std]
#![forbid(unsafe_code)]

pub mod errno;
pub mod kernel;
pub mod verdict;
