//! The two dispatchers beside each other.

use std::time::Instant;

use super::*;
use crate::bpf::checked;
use crate::bpf::run::Executable;
use crate::bpf::verifier::{FUEL, verify};
use crate::object::Object;

/// A built-in program, and a message that keeps it busy.
fn program(object: &[u8], name: &str) -> (Verified, Vec<Arc<Map>>) {
    let program = Object::parse(object).unwrap().program(name).unwrap();
    let verified = verify(program, &Default::default()).unwrap();
    let maps = Executable::make_maps(&verified).unwrap();
    (verified, maps)
}

fn run(code: &Code, msg: &[u8]) -> u64 {
    let mut env = Env::new(0, 0, code.enter(), FUEL);
    env.show(msg);
    // SAFETY: the code's maps are alive in the callers, and the environment is its own.
    unsafe { code.run(&mut env, &mut Room::new()) }
}

const THRIFT: &[u8] = include_bytes!("../../../objects/thrift.o");
const MEMCACHED: &[u8] = include_bytes!("../../../objects/memcached.o");

fn busy() -> Vec<u8> {
    let mut line = vec![b'a'; 200];
    line.extend(b"\r\n");
    line
}

#[test]
fn both_dispatchers_give_the_same_results() {
    let threaded = probe::tail_calls_are_jumps();
    let (verified, maps) = program(THRIFT, "thrift");
    let matched = Code::with_dispatch(&verified, &maps, false).unwrap();
    let chosen = Code::new(&verified, &maps).unwrap();
    assert_eq!(chosen.threaded, threaded);
    for msg in [&b""[..], &[0, 0, 0], &[0, 0, 0, 9], &[0x80, 0, 0, 0], &[0, 0, 1, 0, 7]] {
        assert_eq!(run(&matched, msg) as i32, run(&chosen, msg) as i32, "{msg:?}");
    }
}

/// The operations on the way of a thrift message of known length: as few as there are.
#[test]
fn returns_and_constant_offsets_take_no_operations_of_their_own() {
    let (verified, maps) = program(THRIFT, "thrift");
    let ops = lower::Lowering::run(&verified, &maps).unwrap();
    let codes: Vec<_> = ops.iter().filter_map(|op| op.code.ok()).collect();
    let count = |code| codes.iter().filter(|c| **c == code).count();
    assert_eq!(count(ops::Code::LoadBytes4), 1, "its offset is 0: {codes:?}");
    assert_eq!(count(ops::Code::Ja) + count(ops::Code::Exit), 0, "{codes:?}");
    assert_eq!(count(ops::Code::Mov32Reg) + count(ops::Code::Mov64Reg), 0, "{codes:?}");
    assert!(codes.len() <= 13, "{codes:?}");
}

/// Compiled in optimised builds only: `cargo xtask ci release` runs it.
#[cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(debug_assertions)))]
#[test]
fn optimised_builds_are_threaded() {
    assert_eq!(crate::bpf::run::dispatch(), crate::bpf::run::Dispatch::Threaded);
}

#[test]
#[ignore = "a measurement: cargo test --release -p kcm-core dispatch -- --ignored --nocapture"]
fn dispatch_styles_measured() {
    for (object, name, msg) in
        [(THRIFT, "thrift", vec![0, 0, 0, 64, 1, 2, 3]), (MEMCACHED, "memcached", busy())]
    {
        let (verified, maps) = program(object, name);
        let env = checked::Env { msg: &msg, maps: &maps, cookie: 0, slot: 0 };
        let (_, steps) = checked::Machine::new(&verified).run_counted(&env).unwrap();
        for threaded in [false, true] {
            let code = Code::with_dispatch(&verified, &maps, threaded).unwrap();
            let mut best = f64::MAX;
            for _ in 0..200 {
                let rounds = 1 + 200_000 / steps;
                let start = Instant::now();
                for _ in 0..rounds {
                    std::hint::black_box(run(&code, std::hint::black_box(&msg)));
                }
                best = best.min(start.elapsed().as_nanos() as f64 / rounds as f64);
            }
            let style = if threaded { "threaded" } else { "matched" };
            let each = best / steps as f64;
            println!(
                "{name}: {style} {best:.1} ns per call, {steps} instructions, {each:.2} ns each"
            );
        }
    }
}
