//! Message-granular I/O over TCP streams: what the kernel's Connection Multiplexor (KCM)
//! promised, on any Linux machine, without root and without trusting the parser.
#![deny(unsafe_code)]

pub mod blocking;
pub mod bpf;
#[cfg(test)]
mod corpus;
pub mod delineate;
pub mod error;
pub mod kernel;
pub mod log;
pub mod message;
pub mod mux;
pub mod net;
pub mod object;
pub mod parser;
pub mod parsers;
pub mod stats;
pub mod strparser;

pub use bpf::run::Exec;
pub use delineate::Verdict;
pub use object::{LoadError, Object};
pub use parser::{Parser, ParserBuilder};

pub use crate::{
    error::{AttachError as AttachErrorReason, PsockError, RecvError, SendError, SocketError},
    message::{Batch, Message, PsockId},
    mux::{PsockEvent, Received, SendFlags, SocketType},
    net::{
        AttachError, AttachOptions, Builder, Detached, Engine, Events, KcmSocket, Psock,
        UnattachError,
    },
};
