//! What checked mode stops, by programs that no verifier was asked about.

use std::sync::Arc;

use super::*;
use crate::bpf::asm;
use crate::bpf::map::{MapDef, kind};
use crate::bpf::program::ProgramKind;

fn maps() -> Vec<MapDef> {
    let rodata = MapDef {
        flags: 1 << 7,
        initial: Some(b"const".to_vec()),
        ..MapDef::new(".rodata", kind::ARRAY, 4, 8, 1)
    };
    vec![
        MapDef::new("array", kind::ARRAY, 4, 12, 2),
        rodata,
        MapDef::new("ring", kind::RINGBUF, 0, 0, 4096),
        MapDef::new("hash", kind::HASH, 8, 8, 2),
    ]
}

fn run(text: &str, msg: &[u8]) -> Result<u64, Trap> {
    let program = asm::program(text, ProgramKind::SocketFilter, maps()).expect(text);
    let maps: Vec<Arc<Map>> = maps().into_iter().map(|d| Arc::new(Map::new(d).unwrap())).collect();
    let env = Env { msg, maps: &maps, cookie: 5, slot: 0 };
    Machine::unverified(program, 10_000).run(&env)
}

fn trap(text: &str) -> Reason {
    run(text, b"0123456789").expect_err(text).reason
}

#[test]
fn accesses_beyond_a_region_are_trapped_and_the_last_inside_are_not() {
    let ok = [
        // The message's last byte, and its last eight.
        ("ldxw %r2, [%r1+76]\nldxb %r0, [%r2+9]\nexit", u64::from(b'9')),
        ("ldxw %r2, [%r1+80]\nldxdw %r0, [%r2-8]\nexit", u64::from_le_bytes(*b"23456789")),
        // The stack's ends.
        ("stb [%r10-512], 7\nldxb %r0, [%r10-512]\nexit", 7),
        ("stb [%r10-1], 8\nldxb %r0, [%r10-1]\nexit", 8),
        // The value's last bytes.
        ("lddw %r1, map[0]+8\nstw [%r1+0], 3\nldxw %r0, [%r1+0]\nexit", 3),
        ("ldxw %r0, [%r1+0]\nexit", 10),
        ("ldxb %r0, [%r1+0]\nexit", 10),
        ("ldxw %r0, [%r1+16]\nexit", 0),
    ];
    for (text, want) in ok {
        assert_eq!(run(text, b"0123456789"), Ok(want), "{text}");
    }
    let bad = [
        "ldxw %r2, [%r1+76]\nldxb %r0, [%r2+10]\nexit",
        "ldxw %r2, [%r1+76]\nldxb %r0, [%r2-1]\nexit",
        "ldxw %r2, [%r1+80]\nldxdw %r0, [%r2-7]\nexit",
        "stb [%r10-513], 7\nmov %r0, 0\nexit",
        "stb [%r10+0], 7\nmov %r0, 0\nexit",
        "stdw [%r10-7], 7\nmov %r0, 0\nexit",
        // The second value of an array is not part of the first.
        "lddw %r1, map[0]+12\nstw [%r1+0], 3\nmov %r0, 0\nexit",
        "lddw %r1, map[0]+8\nstdw [%r1+0], 3\nmov %r0, 0\nexit",
        "mov %r1, 0\nldxb %r0, [%r1+0]\nexit",
        "lddw %r1, 0x7fff00000000\nldxb %r0, [%r1+0]\nexit",
        "ldxw %r0, [%r1+192]\nexit",
        "ldxh %r0, [%r1+76]\nexit",
        "lddw %r1, map[0]\nldxw %r0, [%r1+0]\nexit",
    ];
    for text in bad {
        assert!(matches!(trap(text), Reason::OutOfBounds { .. }), "{text}: {:?}", trap(text));
    }
}

#[test]
fn stores_to_read_only_memory_are_trapped() {
    for text in [
        "ldxw %r2, [%r1+76]\nstb [%r2+0], 1\nmov %r0, 0\nexit",
        "stw [%r1+0], 1\nmov %r0, 0\nexit",
        "stdw [%r1+64], 1\nmov %r0, 0\nexit",
        "lddw %r1, map[1]+0\nstb [%r1+0], 1\nmov %r0, 0\nexit",
    ] {
        assert!(matches!(trap(text), Reason::ReadOnly { .. }), "{text}: {:?}", trap(text));
    }
}

#[test]
fn the_contexts_scratch_bytes_are_zero_until_written() {
    let text = "ldxw %r0, [%r1+48]\nstw [%r1+64], 5\nldxw %r2, [%r1+64]\nadd %r0, %r2\nexit";
    assert_eq!(run(text, b""), Ok(5));
}

#[test]
fn what_was_not_written_is_not_read() {
    assert!(matches!(trap("ldxb %r0, [%r10-8]\nexit"), Reason::Uninitialised { .. }));
    let partly = "stb [%r10-8], 1\nldxh %r0, [%r10-8]\nexit";
    assert!(matches!(trap(partly), Reason::Uninitialised { .. }));
    assert_eq!(trap("mov %r0, %r3\nexit"), Reason::Register(3));
    assert_eq!(trap("exit"), Reason::Register(0));
    assert_eq!(trap("mov %r10, 0\nmov %r0, 0\nexit"), Reason::Register(10));
    let after_call = "mov %r2, 1\ncall 5\nmov %r0, %r2\nexit";
    assert_eq!(trap(after_call), Reason::Register(2));
    // A callee starts with r1-r5 and its own frame.
    let callee = "call local f\nexit\nf:\nmov %r0, %r6\nexit";
    assert_eq!(trap(callee), Reason::Register(6));
    let frame = "stb [%r10-1], 1\ncall local f\nexit\nf:\nldxb %r0, [%r10-1]\nexit";
    assert!(matches!(trap(frame), Reason::Uninitialised { .. }));
}

#[test]
fn a_callers_frame_is_reached_through_a_pointer_and_gone_after_its_return() {
    let write = "mov %r1, %r10\nadd %r1, -8\ncall local f\nldxdw %r0, [%r10-8]\nexit\n\
                 f:\nstdw [%r1+0], 9\nmov %r0, 0\nexit";
    assert_eq!(run(write, b""), Ok(9));
    let kept = "call local f\nldxb %r0, [%r0+0]\nexit\n\
                f:\nstb [%r10-1], 9\nmov %r0, %r10\nadd %r0, -1\nexit";
    assert!(matches!(trap(kept), Reason::OutOfBounds { .. }));
}

#[test]
fn atomics_are_aligned() {
    let text = "stdw [%r10-8], 1\nstdw [%r10-16], 1\nmov %r1, 2\n\
                lock add [%r10-12], %r1\nmov %r0, 0\nexit";
    assert!(matches!(trap(text), Reason::Unaligned { .. }));
}

#[test]
fn helpers_get_what_they_take() {
    let argument = |text| match trap(text) {
        Reason::Argument { helper, register, .. } => (helper, register),
        other => panic!("{text}: {other:?}"),
    };
    let no_map = "mov %r1, 0\nmov %r2, %r10\ncall 1\nexit";
    assert_eq!(argument(no_map), (1, 1));
    let ring = "lddw %r1, map[2]\nmov %r2, %r10\ncall 1\nexit";
    assert_eq!(argument(ring), (1, 1));
    let no_ctx = "mov %r1, 1\nmov %r2, 0\nmov %r3, %r10\nmov %r4, 0\ncall 26\nexit";
    assert_eq!(argument(no_ctx), (26, 1));
    let not_reserved = "lddw %r1, map[0]+0\nmov %r2, 0\ncall 132\nexit";
    assert_eq!(argument(not_reserved), (132, 1));
    assert_eq!(trap("call 9999\nexit"), Reason::Helper(9999));
    // An 8-byte key at r10-4 is half outside of the stack.
    let key = "stw [%r10-4], 0\nlddw %r1, map[3]\nmov %r2, %r10\nadd %r2, -4\ncall 1\nexit";
    assert!(matches!(trap(key), Reason::OutOfBounds { size: 8, .. }));
    let long = "mov %r2, 0\nmov %r3, %r10\nadd %r3, -4\nmov %r4, 5\ncall 26\nexit";
    assert!(matches!(trap(long), Reason::OutOfBounds { size: 5, .. }));
    // Where it fails, it clears: and so checks its room just the same.
    let far = "mov %r2, 100\nmov %r3, %r10\nadd %r3, -4\nmov %r4, 5\ncall 26\nexit";
    assert!(matches!(trap(far), Reason::OutOfBounds { size: 5, .. }));
}

#[test]
fn records_are_finished_once_and_used_only_between() {
    let reserve = "lddw %r1, map[2]\nmov %r2, 8\nmov %r3, 0\ncall 131\n";
    assert_eq!(trap(&format!("{reserve}mov %r0, 0\nexit")), Reason::Record);
    let once =
        format!("{reserve}stdw [%r0+0], 1\nmov %r6, %r0\nmov %r1, %r0\nmov %r2, 0\ncall 132\n");
    assert_eq!(run(&format!("{once}mov %r0, 3\nexit"), b""), Ok(3));
    let twice = format!("{once}mov %r1, %r6\nmov %r2, 0\ncall 132\nmov %r0, 0\nexit");
    assert!(matches!(trap(&twice), Reason::Argument { helper: 132, .. }));
    let after = format!("{once}stdw [%r6+0], 1\nmov %r0, 0\nexit");
    assert!(matches!(trap(&after), Reason::OutOfBounds { .. }));
    let beyond = format!("{reserve}stdw [%r0+8], 1\nmov %r0, 0\nexit");
    assert!(matches!(trap(&beyond), Reason::OutOfBounds { .. }));
}

#[test]
fn it_ends() {
    assert_eq!(trap("l:\nja l\nexit"), Reason::Steps(10_000));
    assert_eq!(trap("call local f\nexit\nf:\ncall local f\nexit"), Reason::Frames);
    assert!(matches!(trap("mov %r0, 0"), Reason::Jump(1)));
}

#[test]
fn a_legacy_load_past_the_end_ends_the_program_with_0() {
    let text = "mov %r6, %r1\nldabsw 6\nexit";
    assert_eq!(run(text, b"0123456789"), Ok(u64::from(u32::from_be_bytes(*b"6789"))));
    assert_eq!(run(text, b"012345678"), Ok(0), "semantics B3");
    let negative = "mov %r6, %r1\nldabsb -1\nmov %r0, 5\nexit";
    assert_eq!(run(negative, b"0123456789"), Ok(0));
    let no_ctx = "mov %r6, 0\nldabsb 0\nexit";
    assert!(matches!(trap(no_ctx), Reason::OutOfBounds { .. }));
}

#[test]
fn what_is_no_instruction_is_trapped() {
    for (code, src, off, imm) in [
        (0x00, 0, 0, 0),
        (0x8d, 0, 0, 0),
        (0xe7, 0, 0, 0),
        (0xd7, 0, 0, 24),
        (0xbf, 2, 5, 0),
        (0xdb, 2, 0, 0x33),
    ] {
        let mut program = asm::program(
            "mov %r2, 0\nmov %r0, 0\nmov %r0, 0\nexit",
            ProgramKind::SocketFilter,
            vec![],
        )
        .unwrap();
        program.insns[2] = Insn { code, dst: 2, src, off, imm };
        let env = Env { msg: b"", maps: &[], cookie: 0, slot: 0 };
        let got = Machine::unverified(program, 100).run(&env).unwrap_err();
        assert_eq!(got.insn, 2);
        assert_eq!(got.reason, Reason::Opcode { code, src, off, imm });
    }
}

#[test]
fn a_claim_of_the_verifier_that_is_not_so_is_trapped() {
    let text = "ldxw %r2, [%r1+76]\nldxw %r3, [%r1+80]\nmov %r0, 0\nmov %r4, %r2\nadd %r4, 1\n\
                jgt %r4, %r3, out\nldxb %r0, [%r2+0]\nout:\nexit";
    let program = asm::program(text, ProgramKind::StreamParser, vec![]).unwrap();
    let verified = crate::bpf::verifier::verify(program, &Default::default()).unwrap();
    let env = Env { msg: b"a", maps: &[], cookie: 0, slot: 0 };
    let run = |change: &dyn Fn(&mut Facts)| {
        let mut machine = Machine::new(&verified).limit(100);
        change(machine.facts.as_mut().unwrap());
        machine.run(&env)
    };
    assert_eq!(run(&|_| {}), Ok(u64::from(b'a')));
    let wrong: [&dyn Fn(&mut Facts); 4] = [
        &|f| f.region[6] = Some(Region::Stack { offset: None }),
        &|f| f.reached[6] = false,
        &|f| f.taken[5].fall = false,
        &|f| f.region[0] = Some(Region::Ctx { offset: 80 }),
    ];
    for (n, change) in wrong.iter().enumerate() {
        let trap = run(change).expect_err("a wrong claim");
        assert!(matches!(trap.reason, Reason::Claim(_)), "{n}: {trap}");
    }
}
