//! What loading a parser takes: verification and compilation.

use anyhow::Result;
use kcm_core::Object;
use kcm_core::bpf::run::{Exec, Executable};
use kcm_core::bpf::verifier::{self, Options};
use kcm_core::parsers;

use crate::report::{Case, Metric, Row, metric};
use crate::run::Bench;
use crate::sys;

const METRICS: &[Metric] = &[
    metric("total_us", "µs"),
    metric("verify_us", "verify µs"),
    metric("compile_us", "compile µs"),
    metric("explored", "instructions explored"),
    metric("slots", "instruction slots"),
];

/// All built-in parsers, each several times.
pub(super) fn measure(b: &mut Bench) -> Result<()> {
    let rounds = if b.quick { 3 } else { 9 };
    let mut rows: Vec<Row> = parsers::all()
        .iter()
        .map(|p| Row { variant: p.name().to_owned(), rounds: Vec::new() })
        .collect();
    for _ in 0..rounds {
        for (parser, row) in parsers::all().iter().zip(&mut rows) {
            row.rounds.push(once(parser)?);
        }
    }
    b.add(Case {
        part: "parser",
        id: "load".into(),
        title: "loading a built-in parser: verification and compilation".into(),
        params: Vec::new(),
        metrics: METRICS,
        base: "",
        rows,
    });
    Ok(())
}

fn once(parser: &parsers::BuiltIn) -> Result<Vec<f64>> {
    let program = Object::parse(parser.object())?.program(parser.name())?;
    let slots = program.insns.len();
    let start = sys::thread_ns();
    let verified = verifier::verify(program, &Options::default())
        .map_err(|e| anyhow::anyhow!("{}: {e}", parser.name()))?;
    let verify = sys::thread_ns() - start;
    let explored = verified.facts().explored;
    let maps = Executable::make_maps(&verified)?;
    let start = sys::thread_ns();
    let made = Executable::new(verified, maps, Exec::Auto)?;
    let compile = sys::thread_ns() - start;
    drop(made);
    let us = |ns: f64| ns / 1e3;
    Ok(vec![us(verify + compile), us(verify), us(compile), explored as f64, slots as f64])
}
