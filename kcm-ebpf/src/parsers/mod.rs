//! The ready parsers, one file per protocol: parse functions that run natively and, through
//! the binary of the same name, as a BPF program.

pub mod thrift;
