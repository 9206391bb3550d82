//! Nanoseconds per call of a parser: the same parse function as native Rust, and its BPF
//! programs on each engine; the buffer call, which finds all messages of a buffer at once; and
//! what a call costs that does nothing.

use std::hint::black_box;

use anyhow::{Context, Result, bail};
use kcm_core::bpf::asm;
use kcm_core::bpf::program::ProgramKind;
use kcm_core::bpf::run::{Exec, Executable};
use kcm_core::bpf::verifier;
use kcm_core::delineate::{Delineate, WalkEnd, WalkLimits};
use kcm_core::{Object, Parser};
use kcm_tests::load;

use super::rings::{Case, Form, RING, cases};
use crate::rbpf_peer::Rbpf;
use crate::report::{Case as Compared, Metric, Row, metric};
use crate::run::Bench;
use crate::sbpf_peer::Sbpf;
use crate::{drive, sys, wire};

/// Calls of one sample, at most; even one-nanosecond calls then take long enough for the clock.
const CALLS: usize = 16 * 1024;

/// A sample takes about this long, or less.
const SAMPLE_NS: f64 = 1e6;

/// One contender: `sample` measures nanoseconds per call.
pub(super) struct Contender {
    name: &'static str,
    sample: Box<dyn FnMut() -> f64>,
}

const ENGINES: [(&str, Exec); 3] =
    [("jit", Exec::Jit), ("interpreter", Exec::Interpreter), ("checked", Exec::Checked)];

/// Makes a contender of a call; checks its answers first.
pub(super) fn contender(
    name: &'static str,
    ring: &[Vec<u8>],
    mut call: impl FnMut(&[u8]) -> i64 + 'static,
) -> Result<Contender> {
    let ring = ring.to_vec();
    for m in &ring {
        let answer = call(m);
        if answer != m.len() as i64 {
            bail!("it says {answer} of a message of {} bytes", m.len());
        }
    }
    let mut rounds = CALLS / RING;
    let sample = move || {
        let start = sys::thread_ns();
        for _ in 0..rounds {
            for m in &ring {
                black_box(call(black_box(m)));
            }
        }
        let ns = (sys::thread_ns() - start) / (rounds * ring.len()) as f64;
        // Slow engines get fewer calls.
        rounds = ((SAMPLE_NS / ns) as usize / RING).clamp(1, CALLS / RING);
        ns
    };
    Ok(Contender { name, sample: Box::new(sample) })
}

/// Everything that can run the case; what cannot says why.
fn contenders(b: &mut Bench, case: &Case, form: Form, object: &Object) -> Result<Vec<Contender>> {
    let native = case.native();
    let mut all =
        vec![contender("native", &case.ring, move |m| i64::from(native.parse(m).to_raw()))?];
    let mut add = |name: &'static str, made: Result<Contender>| match made {
        Ok(c) => all.push(c),
        Err(e) => b.note(format!("{} ({}) on {name}: {e:#}", case.program, form.name())),
    };
    for (name, exec) in ENGINES {
        let made = Parser::builder(object, case.program).exec(exec).load();
        let made = made
            .map_err(anyhow::Error::from)
            .and_then(|p| contender(name, &case.ring, move |m| i64::from(p.parse(m).to_raw())));
        add(name, made);
    }
    if form == Form::Direct {
        // Their contexts hold no packet pointers of 32 bits.
        return Ok(all);
    }
    let program = object.program(case.program)?;
    for (name, jit) in [("rbpf-jit", true), ("rbpf", false)] {
        let made = Rbpf::new(&program, jit).and_then(|mut vm| {
            // An error of the machine is an answer that no message has.
            contender(name, &case.ring, move |m| vm.call(m).unwrap_or(i64::MIN))
        });
        add(name, made);
    }
    for (name, jit) in [("sbpf-jit", true), ("sbpf", false)] {
        let made = Sbpf::new(&program, jit).and_then(|mut vm| {
            contender(name, &case.ring, move |m| vm.call(m).unwrap_or(i64::MIN))
        });
        add(name, made);
    }
    Ok(all)
}

/// A buffer call: appends the ends it finds.
type Walk = Box<dyn Fn(&[u8], &mut Vec<u32>) -> WalkEnd>;

/// Bytes of the buffer that the buffer call walks.
const BUFFER: usize = 64 * 1024;

/// The buffer call over back-to-back Thrift messages of 68 bytes, ns per message.
fn buffer_call(b: &mut Bench) -> Result<Vec<Contender>> {
    let count = BUFFER / 68;
    let buffer = wire::messages(64, count);
    let limits = WalkLimits { max_message: 1 << 20, max_ends: u32::MAX };
    let mut all = Vec::new();
    let mut add = |name, walk: Walk| -> Result<()> {
        let buffer = buffer.clone();
        let mut ends = Vec::with_capacity(count);
        let mut once = move || {
            ends.clear();
            let start = sys::thread_ns();
            for _ in 0..8 {
                ends.clear();
                black_box(walk(black_box(&buffer), &mut ends));
            }
            let ns = (sys::thread_ns() - start) / (8 * count) as f64;
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
    for (name, exec) in ENGINES {
        match load::built_in("thrift", exec) {
            Ok(p) => add(name, Box::new(move |b, ends| p.walk(b, 0, limits, ends)))?,
            Err(e) => b.note(format!("buffer call on {name}: {e:#}")),
        }
    }
    Ok(all)
}

/// Measures all parsers, on the CPU that servers run on, where nothing moves it.
pub(super) fn measure(b: &mut Bench) -> Result<()> {
    sys::on_cpu(drive::cpus().0, || all(b))?
}

fn all(b: &mut Bench) -> Result<()> {
    empty(b)?;
    for case in cases() {
        for form in [Form::LoadBytes, Form::Direct] {
            let Some(object) = case.object(form)? else { continue };
            let all = contenders(b, &case, form, &object)?;
            let id = format!("{}-{}", case.program, form.name());
            let title = format!("{}, a call, {}", case.program, form.name());
            let done = compare(b, &id, &title, "native", all);
            if case.program == "crlf" && form == Form::Direct {
                per_instruction(b, &case, &object, &done)?;
            }
            b.add(done);
        }
    }
    let all = buffer_call(b)?;
    let title = "thrift, buffer call, 68-byte messages back to back, per message";
    let done = compare(b, "buffer", title, "native", all);
    b.add(done);
    super::load::measure(b)?;
    super::log::measure(b)
}

/// A program that only returns, and a function that does.
fn empty(b: &mut Bench) -> Result<()> {
    const LEN: u8 = 64;
    let ring = [vec![0; usize::from(LEN)]];
    let nothing: fn(&[u8]) -> i64 = |_| i64::from(LEN);
    let nothing = black_box(nothing);
    let mut all = vec![contender("native", &ring, nothing)?];
    for (name, exec) in ENGINES {
        let program =
            asm::program(&format!("mov %r0, {LEN}\nexit"), ProgramKind::StreamParser, Vec::new())?;
        let verified = verifier::verify(program, &verifier::Options::default())
            .map_err(|e| anyhow::anyhow!("the empty program: {e}"))?;
        match Executable::new(verified, Vec::new(), exec) {
            Ok(e) => {
                let p = Parser::from_executable(e);
                all.push(contender(name, &ring, move |m| i64::from(p.parse(m).to_raw()))?);
            }
            Err(e) => b.note(format!("the empty program on {name}: {e}")),
        }
    }
    let done = compare(b, "empty", "an empty program, a call", "native", all);
    b.add(done);
    Ok(())
}

/// What an instruction costs that is executed, on a loop.
fn per_instruction(b: &mut Bench, case: &Case, object: &Object, done: &Compared) -> Result<()> {
    let parser = Parser::builder(object, case.program).exec(Exec::Checked).load()?;
    let mut executed = 0;
    for m in &case.ring {
        let counted = parser.executable().run_counted(m, 0);
        executed += counted.map_err(|trap| anyhow::anyhow!("{trap:?}"))?.1;
    }
    let per_call = executed as f64 / case.ring.len() as f64;
    let mut each = done.clone();
    each.id = "loop".into();
    each.title =
        format!("{} (direct), an executed instruction ({per_call:.0} in a call)", case.program);
    each.base = "jit";
    each.rows.retain(|r| r.variant != "native");
    each.rows.iter_mut().flat_map(|r| &mut r.rounds).flatten().for_each(|ns| *ns /= per_call);
    b.add(each);
    Ok(())
}

const METRICS: &[Metric] = &[metric("ns", "ns")];

/// Takes samples in turn, so that those of a round are neighbours in time.
pub(super) fn compare(
    b: &Bench,
    id: &str,
    title: &str,
    base: &'static str,
    mut all: Vec<Contender>,
) -> Compared {
    let rounds = if b.quick { 9 } else { 31 };
    // Once for nothing: caches and predictors know everybody then.
    for c in &mut all {
        (c.sample)();
    }
    let samples: Vec<Vec<f64>> =
        (0..rounds).map(|_| all.iter_mut().map(|c| (c.sample)()).collect()).collect();
    let row = |(i, c): (usize, &Contender)| Row {
        variant: c.name.to_owned(),
        rounds: samples.iter().map(|round| vec![round[i]]).collect(),
    };
    Compared {
        part: "parser",
        id: id.to_owned(),
        title: title.to_owned(),
        params: Vec::new(),
        metrics: METRICS,
        base,
        rows: all.iter().enumerate().map(row).collect(),
    }
}

/// The program of an object's only parser, loaded; for what is measured beside calls.
pub(super) fn loaded(object: &Object, name: &str, level: log::LevelFilter) -> Result<Parser> {
    Parser::builder(object, name).log_level(level).load().with_context(|| name.to_owned())
}
