//! What a log line costs in a parser: where nobody wants it, and where somebody does.

use anyhow::Result;
use kcm_core::Object;
use kcm_tests::objects;
use log::LevelFilter;

use super::parser::{compare, contender, loaded};
use super::rings::RING;
use crate::run::Bench;

/// Takes lines and does nothing with them: what a logger makes of a line is its own affair.
struct Sink;

impl log::Log for Sink {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        std::hint::black_box(record.args());
    }

    fn flush(&self) {}
}

pub(super) fn measure(b: &mut Bench) -> Result<()> {
    let _ = log::set_logger(&Sink);
    let before = log::max_level();
    log::set_max_level(LevelFilter::Info);
    let object = Object::parse(&objects::bytes("rust/log_line"))?;
    let mut all = Vec::new();
    // One parser, without the line and with it.
    for (name, program, level) in [
        ("no line", "silent", LevelFilter::Info),
        ("not wanted", "chatty", LevelFilter::Warn),
        ("wanted", "chatty", LevelFilter::Info),
    ] {
        let parser = loaded(&object, program, level)?;
        let ring: Vec<Vec<u8>> = (0..RING)
            .map(|i| {
                let mut m = vec![b'x'; 40 + i];
                m[0] = m.len() as u8;
                m
            })
            .collect();
        let parser_of_calls = parser.clone();
        all.push(contender(name, &ring, move |m| i64::from(parser_of_calls.parse(m).to_raw()))?);
    }
    // The most lines a second by default, which is what a flood of them meets.
    let title = "a parser's log line with one argument, a call";
    let done = compare(b, "log", title, "no line", all);
    log::set_max_level(before);
    b.add(done);
    Ok(())
}
