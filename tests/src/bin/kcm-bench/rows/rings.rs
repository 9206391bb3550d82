//! What parsers are asked about: for each, a ring of messages that fits the first-level cache.

use kcm_tests::streams::Native;
use kcm_tests::{load, objects, streams};

use anyhow::{Context, Result};
use kcm_core::Object;

use crate::wire;

/// Messages in a ring.
pub(super) const RING: usize = 16;

/// A parser and what it is asked about.
pub(super) struct Case {
    pub(super) program: &'static str,
    pub(super) ring: Vec<Vec<u8>>,
}

/// How a program gets at the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `bpf_skb_load_bytes`: what the built-in parsers do.
    LoadBytes,
    /// `data` and `data_end`.
    Direct,
}

impl Form {
    pub(super) fn name(self) -> &'static str {
        match self {
            Form::LoadBytes => "load_bytes",
            Form::Direct => "direct",
        }
    }
}

/// The line scan is a parser of the tests: its source is shared with the BPF programs.
#[path = "../../../../ebpf/src/crlf.rs"]
mod crlf;
use kcm_ebpf::{Message, Parsed, errno, refuse};

impl Case {
    /// The same function in native Rust.
    pub(super) fn native(&self) -> Native {
        if self.program == "crlf" { Native(crlf::parse) } else { streams::native(self.program) }
    }

    /// The object with the program in this form; `None` where there is none.
    pub(super) fn object(&self, form: Form) -> Result<Option<Object>> {
        let bytes = match form {
            Form::LoadBytes if self.program == "crlf" => objects::bytes("rust/crlf"),
            Form::LoadBytes => {
                load::find(self.program).context("no such parser")?.object().to_vec()
            }
            Form::Direct => objects::bytes("rust/direct"),
        };
        let object = Object::parse(&bytes)?;
        let there = object.programs().any(|p| p.name == self.program);
        Ok(there.then_some(object))
    }
}

pub(super) fn cases() -> Vec<Case> {
    let ring = |f: &dyn Fn(usize) -> Vec<u8>| (0..RING).map(f).collect();
    vec![
        Case { program: "thrift", ring: ring(&|i| wire::messages(40 + i * 3, 1)) },
        Case {
            program: "http2",
            ring: ring(&|i| {
                let mut f = vec![0, 0, 40 + i as u8, 0, 0, 0, 0, 0, 1];
                f.resize(9 + 40 + i, b'd');
                f
            }),
        },
        Case {
            program: "mqtt",
            // Remaining lengths of one and of two bytes.
            ring: ring(&|i| {
                let size = if i % 2 == 0 { 60 } else { 200 };
                let mut f = vec![0x30];
                if size > 127 {
                    f.push(0x80 | (size % 128) as u8);
                }
                f.push((if size > 127 { size / 128 } else { size }) as u8);
                f.resize(f.len() + size, b'm');
                f
            }),
        },
        Case {
            program: "postgres",
            ring: ring(&|i| {
                let mut f = vec![b'Q'];
                f.extend_from_slice(&(44 + i as u32).to_be_bytes());
                f.resize(1 + 44 + i, b'q');
                f
            }),
        },
        Case {
            program: "resp",
            // An array of 12 bulks, about 201 bytes.
            ring: ring(&|i| {
                let mut f = b"*12\r\n".to_vec();
                for k in 0..12 {
                    let bulk = "b".repeat(6 + (i + k) % 9);
                    f.extend_from_slice(format!("${}\r\n{bulk}\r\n", bulk.len()).as_bytes());
                }
                f
            }),
        },
        // Lines of about 200 bytes, to their ends: eight bytes a step, and byte by byte.
        Case { program: "memcached", ring: ring(&line) },
        Case { program: "crlf", ring: ring(&line) },
    ]
}

fn line(i: usize) -> Vec<u8> {
    format!("get {}\r\n", "k".repeat(180 + i * 2)).into_bytes()
}
