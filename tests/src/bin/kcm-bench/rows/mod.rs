//! What is measured, a part per file.

mod engines;
mod flood;
mod kernel;
pub(crate) mod lat;
mod load;
mod log;
pub(crate) mod many;
mod memory;
mod parser;
mod rings;
pub(crate) mod rx;
pub(crate) mod tx;

use anyhow::Result;

use crate::run::Bench;

/// A part of the benchmarks.
#[derive(Debug)]
pub(crate) struct Part {
    /// What `--only` calls it.
    pub(crate) name: &'static str,
    /// Measures its cases and puts them into the bench.
    pub(crate) measure: fn(&mut Bench) -> Result<()>,
}

/// All parts, in the order in which they run and are told.
pub(crate) const PARTS: &[Part] = &[
    Part { name: "parser", measure: parser::measure },
    Part { name: "rx", measure: rx::measure },
    Part { name: "tx", measure: tx::measure },
    Part { name: "lat", measure: lat::measure },
    Part { name: "many", measure: many::measure },
    Part { name: "memory", measure: memory::measure },
    Part { name: "flood", measure: flood::measure },
    Part { name: "engines", measure: engines::measure },
    Part { name: "kernel", measure: kernel::measure },
];

/// A message size as people write it.
pub(crate) fn bytes(size: usize) -> String {
    if size >= 1024 { format!("{}KiB", size / 1024) } else { format!("{size}B") }
}
