//! Nanoseconds per call of a parser: the same parse function as native Rust, and its BPF
//! program on each engine, over a ring of 16 messages that fits the first-level cache; and
//! the buffer call, which finds all messages of a buffer at once.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use kcm_core::Object;
use kcm_core::bpf::run::Exec;
use kcm_core::delineate::{Delineate, WalkEnd, WalkLimits};
use kcm_tests::load;
use kcm_tests::streams::native;

use crate::rbpf_peer::Rbpf;
use crate::report::{Case as Compared, Metric, Row, metric};
use crate::run::Bench;
use crate::{drive, sys, wire};

/// Messages in a ring.
const RING: usize = 16;

/// Calls of one sample, at most; even one-nanosecond calls then take long enough for the clock.
const CALLS: usize = 16 * 1024;

/// A sample takes about this long, or less.
const SAMPLE_NS: f64 = 2e6;

/// A parser and what it is asked about.
struct Case {
    program: &'static str,
    ring: Vec<Vec<u8>>,
}

/// One contender: `sample` measures nanoseconds per call.
struct Contender {
    name: &'static str,
    sample: Box<dyn FnMut() -> f64>,
}

fn cases() -> Vec<Case> {
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
        Case {
            program: "memcached",
            // A line of about 200 bytes, to its end.
            ring: ring(&|i| format!("get {}\r\n", "k".repeat(180 + i * 2)).into_bytes()),
        },
    ]
}

/// Makes a contender of a call; checks its answers first.
fn contender(
    name: &'static str,
    case: &Case,
    mut call: impl FnMut(&[u8]) -> i64 + 'static,
) -> Result<Contender> {
    let ring = case.ring.clone();
    for m in &ring {
        let answer = call(m);
        if answer != m.len() as i64 {
            bail!("{name} says {answer} of a {} message of {} bytes", case.program, m.len());
        }
    }
    let mut rounds = CALLS / RING;
    let sample = move || {
        let start = Instant::now();
        for _ in 0..rounds {
            for m in &ring {
                black_box(call(black_box(m)));
            }
        }
        let ns = start.elapsed().as_nanos() as f64 / (rounds * RING) as f64;
        // Slow engines get fewer calls.
        rounds = ((SAMPLE_NS / ns) as usize / RING).clamp(1, CALLS / RING);
        ns
    };
    Ok(Contender { name, sample: Box::new(sample) })
}

/// Everything that can run the case; what cannot says why in `notes`.
fn contenders(case: &Case, notes: &mut Vec<String>) -> Result<Vec<Contender>> {
    let parse = native(case.program);
    let mut all = vec![contender("native", case, move |m| i64::from(parse.parse(m).to_raw()))?];
    for (name, exec) in [("jit", Exec::Jit), ("interpreter", Exec::Interpreter)] {
        match load::built_in(case.program, exec) {
            Ok(p) => all.push(contender(name, case, move |m| i64::from(p.parse(m).to_raw()))?),
            Err(e) => notes.push(format!("{} on {name}: {e:#}", case.program)),
        }
    }
    let object = Object::parse(load::find(case.program).context("no such parser")?.object())?;
    let program = object.program(case.program)?;
    for (name, jit) in [("rbpf-jit", true), ("rbpf", false)] {
        let made = Rbpf::new(&program, jit).and_then(|mut vm| {
            // An error of the machine is an answer that no message has.
            contender(name, case, move |m| vm.call(m).unwrap_or(i64::MIN))
        });
        match made {
            Ok(c) => all.push(c),
            Err(e) => notes.push(format!("{} on {name}: {e:#}", case.program)),
        }
    }
    Ok(all)
}

/// A buffer call: appends the ends it finds.
type Walk = Box<dyn Fn(&[u8], &mut Vec<u32>) -> WalkEnd>;

/// Bytes of the buffer that the buffer call walks.
const BUFFER: usize = 64 * 1024;

/// The buffer call over back-to-back Thrift messages of 68 bytes, ns per message.
fn buffer_call(notes: &mut Vec<String>) -> Result<Vec<Contender>> {
    let count = BUFFER / 68;
    let buffer = wire::messages(64, count);
    let limits = WalkLimits { max_message: 1 << 20, max_ends: u32::MAX };
    let mut all = Vec::new();
    let mut add = |name, walk: Walk| -> Result<()> {
        let buffer = buffer.clone();
        let mut ends = Vec::with_capacity(count);
        let mut once = move || {
            ends.clear();
            let start = Instant::now();
            for _ in 0..8 {
                ends.clear();
                black_box(walk(black_box(&buffer), &mut ends));
            }
            let ns = start.elapsed().as_nanos() as f64 / (8 * count) as f64;
            (ns, ends.len())
        };
        let (_, found) = once();
        if found != count {
            bail!("{name} finds {found} of {count} messages in the buffer");
        }
        all.push(Contender { name, sample: Box::new(move || once().0) });
        Ok(())
    };
    // The loop somebody would write by hand.
    add(
        "native",
        Box::new(|b, ends| {
            let mut at = 0;
            while let Some(len) = wire::message_len(&b[at..]).filter(|len| at + len <= b.len()) {
                at += len;
                ends.push(at as u32);
            }
            WalkEnd::Empty
        }),
    )?;
    for (name, exec) in [("jit", Exec::Jit), ("interpreter", Exec::Interpreter)] {
        match load::built_in("thrift", exec) {
            Ok(p) => add(name, Box::new(move |b, ends| p.walk(b, 0, limits, ends)))?,
            Err(e) => notes.push(format!("buffer call on {name}: {e:#}")),
        }
    }
    Ok(all)
}

/// Measures all parsers, on the CPU that servers run on, where nothing moves it.
pub(super) fn measure(b: &mut Bench) -> Result<()> {
    sys::on_cpu(drive::cpus().0, || all(b))?
}

fn all(b: &mut Bench) -> Result<()> {
    for case in cases() {
        let mut notes = Vec::new();
        let all = contenders(&case, &mut notes)?;
        notes.into_iter().for_each(|n| b.note(n));
        let id = format!("{}-load_bytes", case.program);
        compare(b, &id, &format!("{}, a call", case.program), "native", all)?;
    }
    let mut notes = Vec::new();
    let all = buffer_call(&mut notes)?;
    notes.into_iter().for_each(|n| b.note(n));
    compare(b, "buffer", "thrift, 68-byte messages back to back, per message", "native", all)
}

const METRICS: &[Metric] = &[metric("ns", "ns")];

/// Takes samples in turn, so that those of a round are neighbours in time.
fn compare(
    b: &mut Bench,
    id: &str,
    title: &str,
    base: &'static str,
    mut all: Vec<Contender>,
) -> Result<()> {
    let rounds = if b.quick { 9 } else { 31 };
    let samples: Vec<Vec<f64>> =
        (0..rounds).map(|_| all.iter_mut().map(|c| (c.sample)()).collect()).collect();
    let row = |(i, c): (usize, &Contender)| Row {
        variant: c.name.to_owned(),
        rounds: samples.iter().map(|round| vec![round[i]]).collect(),
    };
    b.add(Compared {
        part: "parser",
        id: id.to_owned(),
        title: title.to_owned(),
        params: Vec::new(),
        metrics: METRICS,
        base,
        rows: all.iter().enumerate().map(row).collect(),
    });
    Ok(())
}
