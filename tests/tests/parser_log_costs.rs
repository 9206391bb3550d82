//! A log line that nobody wants costs next to nothing: counted, not timed.
//!
//! `chatty` and `silent` are one parser (`tests/ebpf/src/bin/log_line.rs`), with and without a
//! line. Where the line is switched off when the parser is loaded, its level is a constant that
//! the verifier knows: neither the line nor the question is compiled. What stays is one load of
//! that constant, for whose result nothing waits.

use kcm_core::{Exec, Object, Parser, Verdict};
use kcm_tests::objects::bytes;
use log::LevelFilter;

fn load(name: &str, exec: Exec, level: LevelFilter) -> Parser {
    let object = Object::parse(&bytes("rust/log_line")).unwrap();
    let parser = Parser::builder(&object, name).exec(exec).log_level(level).load();
    parser.unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn a_line_that_is_switched_off_leaves_one_load_in_the_machine_code() {
    if !Exec::Jit.is_available() {
        return kcm_tests::skip::skip("this build has no JIT");
    }
    let size = |name, level| load(name, Exec::Jit, level).executable().code_size().unwrap();
    let silent = size("silent", LevelFilter::Off);
    let off = size("chatty", LevelFilter::Off);
    let on = size("chatty", LevelFilter::Info);
    println!("bytes of machine code: {silent} without the line, {off} switched off, {on} on");
    assert!(off <= silent + 2 * LOAD, "{off} bytes, {silent} without the line");
    assert!(on > off + 500, "the line is code where it is wanted");
    // What is less important than the level is off too.
    assert_eq!(size("chatty", LevelFilter::Warn), off);
}

#[test]
fn a_line_that_is_switched_off_executes_nothing_but_the_way_around_it() {
    let executed = |name, level| {
        let parser = load(name, Exec::Checked, level);
        let (r0, steps) = parser.executable().run_counted(&[7; 7], 0).unwrap();
        assert_eq!(Verdict::from_raw(r0 as i32), Verdict::Message(7));
        steps
    };
    let silent = executed("silent", LevelFilter::Off);
    let off = executed("chatty", LevelFilter::Off);
    let on = executed("chatty", LevelFilter::Info);
    println!("instructions: {silent} without the line, {off} switched off, {on} on");
    assert!(off <= silent + WAY_AROUND, "{off} instructions, {silent} without the line");
    assert!(on > off + 50, "the line is written where it is wanted");
}

/// Bytes of a load from a 64-bit address, in each of the two functions that a parser is compiled
/// to; functions start at multiples of 32.
const LOAD: usize = 32;

/// The level's address, its load, the comparison, and what the compiler lays out otherwise: BPF
/// instructions, most of which executors drop.
const WAY_AROUND: u64 = 8;
