//! Parsers as a compiler makes them: which are accepted, and how much exploring it takes.

use std::time::{Duration, Instant};

use kcm_core::bpf::{
    insn::Insn,
    program::{Func, Program, ProgramKind},
    run::{Exec, Executable},
    verifier::{Facts, Fuel, Options, Rule, VerifyError, verify},
};
use kcm_core::delineate::{WalkEnd, WalkLimits};

macro_rules! parser {
    ($name:literal) => {
        ($name, include_bytes!(concat!("data/verifier/", $name, ".bin")) as &[u8])
    };
}

/// Parsers, and the most that may be explored. In brackets what the verifier of Linux 6.18
/// explores for the same instructions; "gives up" is a rejection.
const ACCEPTED: &[((&str, &[u8]), u64)] = &[
    (parser!("thrift"), 23),             // (23)
    (parser!("http2"), 63),              // (67)
    (parser!("mqtt_unrolled"), 63),      // (64)
    (parser!("mqtt_rolled"), 105),       // (105)
    (parser!("crlf_pointer"), 4_000),    // (156 040)
    (parser!("crlf_index"), 4_000),      // (gives up after 77 821)
    (parser!("crlf_load_bytes"), 4_000), // (163 986)
    (parser!("crlf_chunk"), 5_000),      // (225 193)
    (parser!("resp_small"), 10_000),     // (371 484)
    (parser!("resp_array"), 15_000),     // (gives up after 1 000 001)
    // Bounded by the message alone.
    (parser!("unbounded_pointer"), 4_000), // (gives up after 53 258)
];

/// As Linux has it on every machine that this runs on.
const ELOOP: i64 = 40;

/// Nothing but a failing helper ends these.
const METERED: &[(&str, &[u8])] = &[parser!("metered")];

fn program((name, bytes): (&str, &[u8])) -> Program {
    let insns = bytes.as_chunks::<8>().0.iter().map(|b| Insn::from_bytes(*b)).collect();
    Program {
        name: name.to_owned(),
        kind: ProgramKind::StreamParser,
        insns,
        funcs: vec![Func { start: 0, name: name.to_owned() }],
        maps: Vec::new(),
        lines: Vec::new(),
        license: String::new(),
    }
}

fn facts(p: (&str, &[u8])) -> Result<Facts, Box<VerifyError>> {
    verify(program(p), &Options::default()).map(|v| v.facts().clone())
}

#[test]
fn useful_parsers_are_accepted_without_a_meter() {
    for &(p, most) in ACCEPTED {
        let f = facts(p).unwrap_or_else(|e| panic!("{}: {e}", p.0));
        assert_eq!(f.fuel, Fuel::NotNeeded, "{}", p.0);
        assert!(f.explored <= most, "{}: {} explored, {most} are enough", p.0, f.explored);
    }
}

#[test]
fn loops_without_a_bound_of_their_own_are_metered() {
    for &p in METERED {
        let f = facts(p).unwrap_or_else(|e| panic!("{}: {e}", p.0));
        let Fuel::Metered { back_edges } = f.fuel else { panic!("{} is not metered", p.0) };
        assert!(!back_edges.is_empty(), "{}", p.0);
    }
}

#[test]
fn a_metered_loop_ends_with_eloop_when_its_fuel_is_used_up() {
    let message = [b'x'; 100];
    for (fuel, want) in [(10, -ELOOP), (98, -ELOOP), (1000, 0)] {
        let options = Options::default().with_fuel(fuel);
        let verified = verify(program(METERED[0]), &options).unwrap();
        assert_eq!(verified.facts().budget, fuel);
        for exec in [Exec::Interpreter, Exec::Checked, Exec::Jit] {
            if !exec.is_available() {
                continue;
            }
            let run = Executable::new(verified.clone(), Vec::new(), exec).unwrap();
            // Twice: each call has its own.
            for _ in 0..2 {
                assert_eq!(run.run(&message, 0) as i64, want, "{exec:?}, {fuel}");
            }
            let mut ends = Vec::new();
            let limits = WalkLimits { max_message: 1000, max_ends: 10 };
            let walked = run.walk(&message, 0, limits, &mut ends, 0);
            let end = if want == 0 { WalkEnd::NeedMore } else { WalkEnd::Error(-want as i32) };
            assert_eq!((walked, &ends[..]), (end, &[][..]), "{exec:?}, {fuel}");
        }
    }
}

#[test]
fn a_read_beyond_what_was_compared_is_rejected() {
    let e = facts(parser!("bad_bounds")).expect_err("accepted");
    assert_eq!(e.rule, Rule::PacketBounds { min: 4, end: 5, proven: 4 });
}

#[test]
fn a_loop_that_changes_nothing_is_rejected() {
    let e = facts(parser!("bad_unbounded")).expect_err("accepted");
    assert_eq!(e.rule, Rule::InfiniteLoop);
}

/// Not a check: prints what verification costs (`--release -- --ignored --nocapture`).
#[test]
#[ignore = "prints figures"]
fn figures() {
    println!("{:<18}{:>7}{:>10}{:>8}{:>12}", "parser", "insns", "explored", "states", "median");
    for p in ACCEPTED.iter().map(|(p, _)| *p).chain(METERED.iter().copied()) {
        let program = program(p);
        let mut times: Vec<Duration> = Vec::new();
        let mut last = None;
        for _ in 0..15 {
            let input = program.clone();
            let start = Instant::now();
            last = Some(verify(input, &Options::default()));
            times.push(start.elapsed());
        }
        times.sort();
        match last {
            Some(Ok(v)) => println!(
                "{:<18}{:>7}{:>10}{:>8}{:>10.1}us",
                p.0,
                program.insns.len(),
                v.facts().explored,
                v.facts().peak_states,
                times[times.len() / 2].as_secs_f64() * 1e6
            ),
            Some(Err(e)) => println!("{:<18} {e}", p.0),
            None => {}
        }
    }
}
