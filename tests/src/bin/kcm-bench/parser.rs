//! Nanoseconds per call of a parser: the same parse function as native Rust, and its BPF
//! program on each engine, over a ring of 16 messages that fits the first-level cache.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Result, ensure};
use kcm_ebpf::{Message, Parsed, parse_bytes, parsers};
use serde_json::{Value, json};

use crate::stats::{Spread, short};
use crate::wire;

/// A parser and what it is asked about.
struct Case {
    name: &'static str,
    native: fn(&Message<'_>) -> Parsed,
    ring: Vec<Vec<u8>>,
}

/// One contender's measurement: a sample is nanoseconds per call.
struct Contender {
    name: &'static str,
    sample: Box<dyn FnMut() -> f64>,
}

const RING: usize = 16;

fn cases() -> Vec<Case> {
    vec![Case {
        name: "thrift",
        native: parsers::thrift::parse,
        ring: (0..RING).map(|i| wire::messages(40 + i * 3, 1)).collect(),
    }]
}

/// Calls of one sample; even one-nanosecond calls then take long enough for the clock.
const CALLS: usize = 16 * 1024;

fn contender(
    name: &'static str,
    ring: &[Vec<u8>],
    mut call: impl FnMut(&[u8]) -> i64 + 'static,
) -> Contender {
    let ring = ring.to_vec();
    let sample = move || {
        let start = Instant::now();
        for _ in 0..CALLS / RING {
            for m in &ring {
                black_box(call(black_box(m)));
            }
        }
        start.elapsed().as_nanos() as f64 / CALLS as f64
    };
    Contender { name, sample: Box::new(sample) }
}

fn native(case: &Case) -> Contender {
    // A call through a pointer, as for every other contender.
    let parse = case.native;
    contender("native", &case.ring, move |m| i64::from(parse_bytes(parse, m).to_raw()))
}

/// Measures all parsers; the table, and the rows for JSON.
pub(crate) fn measure(quick: bool) -> Result<(String, Vec<Value>)> {
    let rounds = if quick { 9 } else { 31 };
    let mut table = String::from("\nparser, ns per call (ratio to native)\n");
    let mut rows = Vec::new();
    for case in cases() {
        let mut all = [native(&case)];
        let mut samples: Vec<Vec<f64>> = all.iter().map(|_| Vec::new()).collect();
        for _ in 0..rounds {
            for (c, s) in all.iter_mut().zip(&mut samples) {
                s.push((c.sample)());
            }
        }
        ensure!(!samples[0].is_empty(), "no sample was taken");
        table.push_str(&format!("  {:<10}", case.name));
        for (c, s) in all.iter().zip(&samples) {
            let ns = Spread::of(s.iter().copied());
            let ratio = Spread::of(s.iter().zip(&samples[0]).map(|(x, n)| x / n));
            table.push_str(&format!("  {} {ns} ({}x)", c.name, short(ratio.median)));
            rows.push(json!({
                "parser": case.name, "engine": c.name,
                "ns_per_call": ns.json(), "ratio_to_native": ratio.json(),
            }));
        }
        table.push('\n');
    }
    Ok((table, rows))
}
