//! The running kernel as a second opinion: what its verifier says of the same programs, and
//! what they return for the same bytes. Nothing is attached to any socket.
//!
//! Where it and ours disagree, the table below says why; a disagreement that is not in it fails
//! the test. Where this process may not ask, that is said and counted.

use kcm_core::bpf::map::MapDef;
use kcm_core::bpf::program::{Program, ProgramKind};
use kcm_core::bpf::run::{Exec, Executable};
use kcm_core::bpf::verifier::{Fuel, Options, Verified, verify};
use kcm_tests::kernel_bpf::{MAX_DATA, Refusal, load};
use kcm_tests::objects::programs;
use kcm_tests::parser_table;
use kcm_tests::skip::skip;

/// What ours accepts and a kernel may reject, with the part of its words that shows that it is
/// for this reason, and why accepting is right.
const KERNEL_IS_STRICTER: &[(&str, &str, &str)] = &[
    (
        "calls/framed",
        "cannot return stack pointer",
        "memcpy returns its first argument, a place in its caller's frame, which is still there; \
         the kernel allows no stack pointer to be returned, ours none into the frame that ends",
    ),
    ("calls/framed_twice", "cannot return stack pointer", "as calls/framed"),
    ("calls_without_btf/framed", "cannot return stack pointer", "as calls/framed"),
    ("calls_without_btf/framed_twice", "cannot return stack pointer", "as calls/framed"),
    (
        "memcached/memcached",
        "too complex",
        "the kernel gives up on loops of this size; ours widens them: every access stays proved, \
         and the number of their rounds is metered",
    ),
    ("resp/resp", "too complex", "as memcached/memcached"),
    ("metered.bin", "too complex", "as memcached/memcached"),
    (
        "crlf_index.bin",
        "too complex",
        "ours merges states that the kernel keeps apart, and so reaches the end of every path",
    ),
    ("unbounded_pointer.bin", "too complex", "as crlf_index.bin: the pointer's offset ends it"),
    (
        "resp_array.bin",
        "too large",
        "as crlf_index.bin; the kernel stops at a million instructions",
    ),
];

/// What ours rejects and a kernel may accept, and why.
const OURS_IS_STRICTER: &[(&str, &str)] =
    &[("many/four", "stream verdicts are for a kernel's sockets; no message is parsed by one")];

fn ours(program: &Program) -> Result<Verified, String> {
    verify(program.clone(), &Options::default()).map_err(|e| e.to_string())
}

/// True if the test should end: nobody may ask this kernel.
fn cannot_ask(refusal: &Refusal, what: &str) -> bool {
    if let Refusal::CannotAsk(e) = refusal {
        skip(format!("this kernel cannot be asked about BPF programs ({e}): {what}"));
        return true;
    }
    false
}

#[test]
fn the_kernels_verifier_agrees_or_the_difference_is_explained() {
    let (mut agreed, mut explained, mut unasked) = (0, 0, 0);
    for (name, program) in programs() {
        let our = ours(&program);
        let metered = our.as_ref().is_ok_and(|v| !matches!(v.facts().fuel, Fuel::NotNeeded));
        let their = match load(&program, false) {
            Err(refusal) if cannot_ask(&refusal, "no verdicts compared") => return,
            Err(Refusal::Map(map, e)) => {
                println!("{name}: not asked, this kernel makes no map {map}: {e}");
                unasked += 1;
                continue;
            }
            other => other.map(drop),
        };
        match (&our, &their) {
            (Ok(_), Ok(())) | (Err(_), Err(_)) => agreed += 1,
            (Ok(_), Err(Refusal::Rejected(error, log))) => {
                let row = KERNEL_IS_STRICTER.iter().find(|row| row.0 == name);
                let words = format!("{log} {error}").to_lowercase();
                let Some((_, says, why)) = row else {
                    panic!("{name}: accepted here, and the kernel says {error}: {log}");
                };
                // Which of its limits a kernel meets first depends on its version.
                let gave_up = ["too complex", "too large", "argument list too long"];
                let same = words.contains(says)
                    || gave_up.contains(says) && gave_up.iter().any(|g| words.contains(g));
                assert!(same, "{name}: expected the kernel to say {says:?}: {error}: {log}");
                println!(
                    "{name}: kernel stricter{}: {why}",
                    if metered { ", metered here" } else { "" }
                );
                explained += 1;
            }
            (Err(e), Ok(())) => {
                let row = OURS_IS_STRICTER.iter().find(|row| row.0 == name);
                let Some((_, why)) = row else { panic!("{name}: the kernel accepts it: {e}") };
                println!("{name}: ours stricter: {why}");
                explained += 1;
            }
            (Ok(_), Err(other)) => panic!("{name}: {other:?}"),
        }
    }
    println!("{agreed} alike, {explained} differ as explained, {unasked} not asked");
    assert!(agreed >= 30, "only {agreed} alike");
}

/// Messages for every program: the streams of the parser tables, from each message's start, and
/// bytes of no meaning.
fn messages() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for table in parser_table::all().unwrap() {
        for case in table.cases {
            let mut start = 0;
            let ends = case.lengths.iter().map(|l| *l as usize).chain([usize::MAX]);
            for length in ends.take(4) {
                let rest = case.bytes.get(start..).unwrap_or_default();
                for cut in [rest.len(), length.min(rest.len()), 1, 4, 5, 9, 12] {
                    all.push(rest[..cut.min(rest.len()).min(MAX_DATA)].to_vec());
                }
                start = start.saturating_add(length);
            }
        }
    }
    let mut state = 1u64;
    for n in 0..300usize {
        let byte = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        all.push(std::iter::repeat_with(byte).take(n).collect());
    }
    all.sort();
    all.dedup();
    // A kernel makes no socket buffer of nothing.
    all.retain(|m| !m.is_empty());
    all
}

#[test]
fn programs_return_what_they_return_in_the_kernel() {
    let messages = messages();
    let (mut runs, mut ran, mut unable) = (0u64, 0, Vec::new());
    for (name, mut program) in programs() {
        let Ok(verified) = ours(&program) else { continue };
        // A socket filter's test run is the only one that shows the program exactly a message;
        // what it may call and read there is what stream parsers may, but for direct access.
        program.kind = ProgramKind::SocketFilter;
        let loaded = match load(&program, true) {
            Ok(loaded) => loaded,
            Err(refusal) if cannot_ask(&refusal, "no results compared") => return,
            Err(_) => {
                unable.push(name);
                continue;
            }
        };
        let maps = Executable::make_maps(&verified).unwrap();
        let executables: Vec<Executable> = [Exec::Interpreter, Exec::Auto]
            .into_iter()
            .map(|exec| Executable::new(verified.clone(), maps.clone(), exec).unwrap())
            .take(if keeps_state(&program.maps) { 1 } else { 2 })
            .collect();
        for message in &messages {
            let their = match loaded.run(message) {
                Ok(r0) => r0,
                Err(e) if ran == 0 && runs == 0 => {
                    return skip(format!("this kernel runs no socket filter for a test: {e}"));
                }
                Err(e) => panic!("{name}, {} bytes: {e}", message.len()),
            };
            for executable in &executables {
                let our = executable.run(message, 0) as u32;
                assert_eq!(our, their, "{name} by {:?}: {message:02x?}", executable.exec());
                runs += 1;
            }
        }
        ran += 1;
    }
    println!("{ran} programs, {runs} results alike; not runnable there: {}", unable.join(", "));
    assert!(ran >= 20, "only {ran} programs ran");
}

/// Whether the result may depend on earlier runs.
fn keeps_state(maps: &[MapDef]) -> bool {
    maps.iter().any(|m| m.flags & (1 << 7) == 0)
}

#[test]
fn no_pointer_into_a_frame_that_ends_is_returned() {
    // The proof for `calls/framed`: what the kernel forbids for all frames ours forbids for
    // the one that ends.
    use kcm_core::bpf::insn::Insn;
    use kcm_core::bpf::program::Func;
    let insn = |code, dst, src, off, imm| Insn { code, dst, src, off, imm };
    let program = Program {
        name: "dangling".to_owned(),
        kind: ProgramKind::StreamParser,
        insns: vec![
            insn(0x85, 0, 1, 0, 2),   // call the next function
            insn(0x79, 0, 0, 0, 0),   // r0 = *(u64 *)(r0 + 0)
            insn(0x95, 0, 0, 0, 0),   // exit
            insn(0x7a, 10, 0, -8, 5), // *(u64 *)(r10 - 8) = 5
            insn(0xbf, 0, 10, 0, 0),  // r0 = r10
            insn(0x07, 0, 0, 0, -8),  // r0 += -8
            insn(0x95, 0, 0, 0, 0),   // exit
        ],
        funcs: vec![
            Func { start: 0, name: "dangling".to_owned() },
            Func { start: 3, name: "inner".to_owned() },
        ],
        maps: Vec::new(),
        lines: Vec::new(),
        license: "GPL".to_owned(),
    };
    let e = ours(&program).unwrap_err();
    println!("{e}");
    // And through its caller's frame: kept there, it is no pointer any more.
    let mut stored = program;
    stored.insns = vec![
        insn(0xbf, 1, 10, 0, 0),   // r1 = r10
        insn(0x07, 1, 0, 0, -16),  // r1 += -16
        insn(0x7a, 10, 0, -16, 0), // *(u64 *)(r10 - 16) = 0
        insn(0x85, 0, 1, 0, 3),    // call the next function
        insn(0x79, 2, 10, -16, 0), // r2 = *(u64 *)(r10 - 16)
        insn(0x79, 0, 2, 0, 0),    // r0 = *(u64 *)(r2 + 0)
        insn(0x95, 0, 0, 0, 0),    // exit
        insn(0x7a, 10, 0, -8, 5),  // *(u64 *)(r10 - 8) = 5
        insn(0xbf, 2, 10, 0, 0),   // r2 = r10
        insn(0x07, 2, 0, 0, -8),   // r2 += -8
        insn(0x7b, 1, 2, 0, 0),    // *(u64 *)(r1 + 0) = r2
        insn(0xb7, 0, 0, 0, 0),    // r0 = 0
        insn(0x95, 0, 0, 0, 0),    // exit
    ];
    stored.funcs[1].start = 7;
    let e = ours(&stored).unwrap_err();
    println!("{e}");
}
