//! Write KCM parsers in Rust-BPF.
#![no_std]
