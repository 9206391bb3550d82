//! One rejected program for each rule.

use super::*;
use crate::bpf::{decode::DecodeError, insn::Insn, program::Func};

fn raw(insns: &[[u8; 8]]) -> (usize, Rule) {
    let p = Program {
        name: "raw".to_owned(),
        kind: ProgramKind::StreamParser,
        insns: insns.iter().map(|b| Insn::from_bytes(*b)).collect(),
        funcs: vec![Func { start: 0, name: "raw".to_owned() }],
        maps: maps(),
        lines: Vec::new(),
        license: String::new(),
    };
    let e = verify(p, &Options::default()).expect_err("accepted");
    (e.insn, e.rule)
}

const EXIT: [u8; 8] = [0x95, 0, 0, 0, 0, 0, 0, 0];
const MOV: [u8; 8] = [0xb7, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn encodings_outside_of_the_instruction_set() {
    use DecodeError as E;
    let cases: &[([u8; 8], DecodeError)] = &[
        ([0xff, 0, 0, 0, 0, 0, 0, 0], E::UnknownOpcode { code: 0xff }),
        ([0x06, 0, 1, 0, 0, 0, 0, 0], E::ReservedField { field: "off" }),
        ([0xe5, 0, 0, 0, 0, 0, 0, 0], E::UnknownOpcode { code: 0xe5 }),
        ([0x07, 0x10, 0, 0, 1, 0, 0, 0], E::ReservedField { field: "src" }),
        ([0x07, 0, 1, 0, 1, 0, 0, 0], E::ReservedField { field: "off" }),
        ([0x0f, 0, 0, 0, 1, 0, 0, 0], E::ReservedField { field: "imm" }),
        ([0xb7, 0x0b, 0, 0, 0, 0, 0, 0], E::BadRegister { reg: 11 }),
        ([0xb7, 0x0a, 0, 0, 0, 0, 0, 0], E::FramePointerWrite),
        ([0x05, 0, 9, 0, 0, 0, 0, 0], E::BadTarget { target: 10 }),
        ([0x05, 0, 0xf0, 0xff, 0, 0, 0, 0], E::BadTarget { target: -15 }),
        ([0x18, 0, 0, 0, 0, 0, 0, 0], E::TruncatedWide),
        ([0x8d, 0, 0, 0, 0, 0, 0, 0], E::CallRegister),
        ([0x85, 0x20, 0, 0, 0, 0, 0, 0], E::KernelReference { src: 2 }),
        ([0xdb, 0, 0, 0, 2, 0, 0, 0], E::UnknownOpcode { code: 0xdb }),
        ([0xcb, 0, 0, 0, 0, 0, 0, 0], E::UnknownOpcode { code: 0xcb }),
        ([0xd7, 0, 0, 0, 8, 0, 0, 0], E::UnknownOpcode { code: 0xd7 }),
        ([0x38, 0, 0, 0, 0, 0, 0, 0], E::UnknownOpcode { code: 0x38 }),
        ([0xbc, 0, 32, 0, 0, 0, 0, 0], E::ReservedField { field: "off" }),
    ];
    for (bytes, what) in cases {
        assert_eq!(raw(&[*bytes, EXIT]), (0, Rule::Encoding(what.clone())), "{bytes:02x?}");
    }
}

#[test]
fn empty_and_verdict_programs() {
    assert_eq!(raw(&[]), (0, Rule::Empty));
    reject_as(ProgramKind::StreamVerdict, "mov %r0, 0\nexit", 0, Rule::ProgramKind);
}

#[test]
fn control_flow_leaves_its_function_or_the_program() {
    assert_eq!(raw(&[MOV]), (0, Rule::FallsOffEnd));
    reject("mov %r0, 0\njeq %r0, 0, -2", 1, Rule::FallsOffEnd);
    reject("mov %r0, 0\nja +1\nlddw %r0, 1\nexit", 1, Rule::JumpIntoWide { target: 3 });
    reject("call local f\nexit\nf:\nmov %r0, 0\nja -4", 3, Rule::JumpOutOfFunction { target: 0 });
    assert_eq!(
        raw(&[[0x85, 0x10, 0, 0, 1, 0, 0, 0], EXIT, MOV, EXIT]),
        (0, Rule::NotAFunction { target: 2 })
    );
}

#[test]
fn functions_that_call_each_other_in_a_circle() {
    reject(
        "call local f\nexit\nf:\ncall local g\nexit\ng:\ncall local f\nexit",
        2,
        Rule::Recursion,
    );
    reject("start:\ncall local start\nexit", 0, Rule::Recursion);
}

#[test]
fn maps_that_are_not_there() {
    reject("lddw %r1, map[9]\nmov %r0, 0\nexit", 0, Rule::NoSuchMap { map: 9 });
    reject("lddw %r1, map[0]+17\nmov %r0, 0\nexit", 0, Rule::MapValueOffset { map: 0, offset: 17 });
    reject("lddw %r1, map[3]+0\nmov %r0, 0\nexit", 0, Rule::MapValueOffset { map: 3, offset: 0 });
}

#[test]
fn calls_deeper_than_eight_frames() {
    let mut text = "call local f1\nexit\n".to_owned();
    for i in 1..8 {
        text += &format!("f{i}:\ncall local f{}\nexit\n", i + 1);
    }
    text += "f8:\nmov %r0, 0\nexit\n";
    reject(&text, 14, Rule::CallDepth);
}

#[test]
fn frames_that_need_more_stack_than_there_is() {
    reject(
        "stdw [%r10-256], 0
         call local f
         exit
         f:
         stdw [%r10-264], 0
         mov %r0, 0
         exit",
        1,
        Rule::StackDepth { bytes: 520 },
    );
}

#[test]
fn registers_that_were_never_written() {
    reject("mov %r0, %r3\nexit", 0, Rule::Uninit { reg: 3 });
    reject("exit", 0, Rule::Uninit { reg: 0 });
    reject(
        "mov %r6, %r1\nmov %r2, 0\ncall ktime_get_ns\nmov %r0, %r2\nexit",
        3,
        Rule::Uninit { reg: 2 },
    );
    // Written on one path only.
    reject(
        "ldxw %r2, [%r1+0]\njeq %r2, 0, +1\nmov %r3, 1\nmov %r0, %r3\nexit",
        3,
        Rule::Uninit { reg: 3 },
    );
}

#[test]
fn addresses_that_are_no_pointers() {
    reject("mov %r2, 16\nldxw %r0, [%r2+0]\nexit", 1, Rule::NotAPointer { reg: 2, is: "a number" });
    reject(
        "ldxw %r2, [%r1+80]\nldxb %r0, [%r2+0]\nexit",
        1,
        Rule::NotAPointer { reg: 2, is: "the packet end" },
    );
    reject(
        "lddw %r2, map[0]\nldxw %r0, [%r2+0]\nexit",
        2,
        Rule::NotAPointer { reg: 2, is: "a map" },
    );
}

#[test]
fn map_values_without_a_null_check() {
    let lookup = "stw [%r10-4], 1
         lddw %r1, map[0]
         mov %r2, %r10
         add %r2, -4
         call map_lookup_elem\n";
    reject(&format!("{lookup}ldxw %r0, [%r0+0]\nexit"), 6, Rule::MaybeNull { reg: 0 });
    reject(
        &format!("{lookup}add %r0, 4\nexit"),
        6,
        Rule::PointerArithmetic { reg: 0, is: "a map value or null" },
    );
    reject(
        &format!("{lookup}jeq %r0, 0, exit\nldxdw %r1, [%r0+12]\nmov %r0, 0\nexit"),
        7,
        Rule::MapBounds { min: 12, end: 20, size: 16 },
    );
    reject(
        &format!("{lookup}jeq %r0, 0, exit\nldxb %r1, [%r0-1]\nmov %r0, 0\nexit"),
        7,
        Rule::MapBounds { min: -1, end: 0, size: 16 },
    );
}

#[test]
fn packet_access() {
    let open = "ldxw %r2, [%r1+76]\nldxw %r3, [%r1+80]\n";
    reject(
        &format!("{open}ldxb %r0, [%r2+0]\nexit"),
        2,
        Rule::PacketBounds { min: 0, end: 1, proven: 0 },
    );
    reject(
        &format!(
            "{open}mov %r4, %r2\nadd %r4, 4\nmov %r0, 0\njgt %r4, %r3, exit\nldxb %r5, [%r2-1]\nexit"
        ),
        6,
        Rule::PacketBounds { min: -1, end: 0, proven: 4 },
    );
    reject(
        &format!(
            "{open}mov %r4, %r2\nadd %r4, 4\nmov %r0, 0\njgt %r4, %r3, exit\nstb [%r2+0], 1\nexit"
        ),
        6,
        Rule::PacketWrite,
    );
    // A helper that may move the packet voids what was known of it.
    reject(
        "mov %r6, %r1
         ldxw %r7, [%r1+76]
         mov %r2, 4
         call skb_pull_data
         ldxb %r0, [%r7+0]
         exit",
        4,
        Rule::Uninit { reg: 7 },
    );
}

#[test]
fn stack_access() {
    reject("ldxw %r0, [%r10-4]\nexit", 0, Rule::StackUninit { off: -4 });
    reject("stw [%r10-4], 1\nldxdw %r0, [%r10-4]\nexit", 1, Rule::StackBounds { min: -4, end: 4 });
    reject("stdw [%r10-520], 1\nmov %r0, 0\nexit", 0, Rule::StackBounds { min: -520, end: -512 });
    reject("stw [%r10-8], 1\nldxdw %r0, [%r10-8]\nexit", 1, Rule::StackUninit { off: -4 });
    reject(
        "stdw [%r10-8], 0
         ldxw %r2, [%r1+0]
         and %r2, 15
         mov %r3, %r10
         add %r3, -8
         add %r3, %r2
         ldxb %r0, [%r3+0]
         exit",
        6,
        Rule::StackBounds { min: -8, end: 8 },
    );
    // A store that may go anywhere initialises nothing.
    reject(
        "ldxw %r2, [%r1+0]
         and %r2, 7
         mov %r3, %r10
         add %r3, -8
         add %r3, %r2
         stb [%r3+0], 1
         ldxb %r0, [%r10-8]
         exit",
        6,
        Rule::StackUninit { off: -8 },
    );
}

#[test]
fn pointers_that_are_read_in_parts_or_leave() {
    reject("stxdw [%r10-8], %r1\nldxw %r0, [%r10-8]\nexit", 1, Rule::PointerBytes { off: -8 });
    reject(
        "stxdw [%r10-8], %r1\nstb [%r10-8], 0\nldxb %r0, [%r10-7]\nexit",
        2,
        Rule::StackUninit { off: -7 },
    );
    reject(
        "stxw [%r10-8], %r1\nmov %r0, 0\nexit",
        0,
        Rule::PointerLeak { into: "bytes of the stack" },
    );
    reject(
        "lddw %r2, map[0]+0\nstxdw [%r2+0], %r10\nmov %r0, 0\nexit",
        2,
        Rule::PointerLeak { into: "a map value" },
    );
    reject("mov %r0, %r10\nexit", 1, Rule::ReturnValue { is: "a stack pointer" });
    reject(
        "stxdw [%r10-8], %r10\nmov %r2, %r10\nadd %r2, -8\nlddw %r1, map[2]\nmov %r3, 8\nmov %r4, 0\ncall ringbuf_output\nmov %r0, 0\nexit",
        7,
        Rule::PointerBytes { off: -8 },
    );
    reject(
        "mov %r1, %r10\ncall local f\nmov %r0, 0\nexit\nf:\nmov %r2, %r10\nstxdw [%r1-8], %r2\nmov %r0, 0\nexit",
        5,
        Rule::PointerLeak { into: "a caller's stack, which outlives it" },
    );
    reject("call local f\nmov %r0, 0\nexit\nf:\nmov %r0, %r10\nexit", 4, Rule::ReturnStack);
}

#[test]
fn arithmetic_on_pointers() {
    let stack = |op: &str| format!("mov %r2, %r10\n{op}\nmov %r0, 0\nexit");
    let wrong = |is| Rule::PointerArithmetic { reg: 2, is };
    for op in [
        "mul %r2, 2",
        "and %r2, -8",
        "add32 %r2, 1",
        "neg %r2",
        "be64 %r2",
        "xor %r2, %r10",
        "sub %r2, %r10",
    ] {
        reject(&stack(op), 1, wrong("a stack pointer"));
    }
    reject(
        "mov32 %r2, %r10\nmov %r0, 0\nexit",
        0,
        Rule::PointerArithmetic { reg: 10, is: "a stack pointer" },
    );
    reject("ldxw %r2, [%r1+80]\nadd %r2, 1\nmov %r0, 0\nexit", 1, wrong("the packet end"));
    reject(
        "mov %r2, 1\nsub %r2, %r10\nmov %r0, 0\nexit",
        1,
        Rule::PointerArithmetic { reg: 10, is: "a stack pointer" },
    );
    reject(
        "call ktime_get_ns\nmov %r2, %r10\nadd %r2, %r0\nmov %r0, 0\nexit",
        2,
        Rule::PointerOffset { reg: 2, min: i64::MIN, max: i64::MAX },
    );
}

#[test]
fn comparisons_of_addresses() {
    let wrong = |left, right| Rule::PointerCompare { left, right };
    reject("mov %r0, 0\njgt %r10, 5, exit\nexit", 1, wrong("a stack pointer", "a number"));
    reject("mov %r0, 0\njeq %r10, %r1, exit\nexit", 1, wrong("a stack pointer", "the context"));
    reject("mov %r0, 0\njeq32 %r10, 0, exit\nexit", 1, wrong("a stack pointer", "a number"));
    reject(
        "ldxw %r2, [%r1+76]\nldxw %r3, [%r1+80]\nmov %r0, 0\njsgt %r2, %r3, exit\nexit",
        3,
        wrong("a packet pointer", "the packet end"),
    );
}

#[test]
fn context_fields() {
    let field = |offset, name, why| Rule::ContextField { offset, name, why };
    reject("ldxw %r0, [%r1+192]\nexit", 0, field(192, "?", "there is no such field"));
    reject("ldxw %r0, [%r1-4]\nexit", 0, field(-4, "?", "there is no such field"));
    reject("ldxdw %r0, [%r1+0]\nexit", 0, field(0, "len", "the access goes beyond the field"));
    reject("ldxh %r0, [%r1+49]\nexit", 0, field(49, "cb", "the access is not aligned to its size"));
    reject("ldxh %r2, [%r1+76]\nexit", 0, field(76, "data", "only 4-byte loads of it exist"));
    reject("ldxw %r0, [%r1+8]\nexit", 0, field(8, "mark", "stream parsers may not read it"));
    reject(
        "ldxw %r0, [%r1+132]\nexit",
        0,
        field(
            132,
            "remote_port",
            "it belongs to the connection or the kernel and cannot be answered in process",
        ),
    );
    reject("mov %r0, 0\nstxw [%r1+0], %r0\nexit", 1, field(0, "len", "it is read-only"));
    reject_as(
        ProgramKind::SocketFilter,
        "ldxw %r2, [%r1+76]\nmov %r0, 0\nexit",
        0,
        field(76, "data", "socket filters have no direct packet access; use bpf_skb_load_bytes"),
    );
    reject_as(
        ProgramKind::SocketFilter,
        "mov %r0, 0\nstxdw [%r1+48], %r10\nexit",
        1,
        Rule::PointerLeak { into: "the context" },
    );
    reject(
        "ldxb %r2, [%r1+48]\nand %r2, 4\nadd %r1, %r2\nldxw %r0, [%r1+0]\nexit",
        3,
        Rule::ContextOffset,
    );
    reject(
        "ldxw %r2, [%r1+0]\nstdw [%r10-8], 0\nmov %r3, %r10\nadd %r3, -8\njeq %r2, 0, +1\nmov %r3, %r1\nldxw %r0, [%r3+0]\nexit",
        6,
        Rule::ContextMixed,
    );
}

#[test]
fn atomics() {
    reject("mov %r0, 0\nlock add [%r1+48], %r0\nexit", 1, Rule::AtomicTarget { is: "the context" });
    reject(
        "mov %r0, 0\nstdw [%r10-16], 0\nstdw [%r10-8], 0\nlock add [%r10-12], %r0\nexit",
        3,
        Rule::AtomicAlignment { off: -12 },
    );
    reject("mov %r0, 0\nlock add [%r10-8], %r0\nexit", 1, Rule::StackUninit { off: -8 });
    reject(
        "stdw [%r10-8], 0\nlock xchg [%r10-8], %r1\nmov %r0, 0\nexit",
        1,
        Rule::PointerLeak { into: "an atomic variable" },
    );
    reject(
        "stdw [%r10-8], 0\nmov %r2, 0\nlock cmpxchg [%r10-8], %r2\nexit",
        2,
        Rule::Uninit { reg: 0 },
    );
}

#[test]
fn helpers_and_their_arguments() {
    reject("call 9999\nexit", 0, Rule::UnknownHelper { id: 9999 });
    reject("call 12\nexit", 0, Rule::UnsupportedHelper { id: 12, name: "tail_call" });
    reject(
        "mov %r1, 0\ncall get_socket_cookie\nexit",
        1,
        Rule::HelperArgument { reg: 1, expected: "the unchanged context", is: "a number" },
    );
    reject(
        "mov %r2, %r10\nmov %r3, %r10\nadd %r3, -8\nmov %r4, 8\ncall skb_load_bytes\nexit",
        4,
        Rule::HelperArgument { reg: 2, expected: "a number", is: "a stack pointer" },
    );
    reject(
        "stw [%r10-4], 0\nmov %r2, %r10\nadd %r2, -4\nlddw %r1, map[2]\ncall map_lookup_elem\nexit",
        5,
        Rule::HelperMap { map: 2, expected: "an array or hash map" },
    );
    reject(
        "stw [%r10-4], 0\nmov %r2, %r10\nadd %r2, -4\nmov %r3, %r2\nmov %r4, 0\nlddw %r1, map[1]\ncall map_update_elem\nexit",
        7,
        Rule::MapReadOnly { map: 1 },
    );
    reject("lddw %r2, map[1]+0\nstw [%r2+0], 1\nmov %r0, 0\nexit", 2, Rule::MapReadOnly { map: 1 });
}

#[test]
fn sizes_of_memory_arguments() {
    let load = |size: &str| {
        format!(
            "ldxw %r4, [%r1+0]\nmov %r2, 0\nmov %r3, %r10\nadd %r3, -64\n{size}\ncall skb_load_bytes\nmov %r0, 0\nexit"
        )
    };
    accept(&load("and %r4, 63\nadd %r4, 1"));
    reject(&load("and %r4, 63"), 5, Rule::SizeZero { reg: 4 });
    reject(
        &load("lsh %r4, 32"),
        5,
        Rule::SizeUnbounded { reg: 4, min: i64::MIN, max: 0xffff_ffff << 32 },
    );
    reject(&load("and %r4, 127\nadd %r4, 1"), 6, Rule::StackBounds { min: -64, end: 64 });
    // A variable size initialises nothing for sure.
    reject(
        "ldxw %r4, [%r1+0]\nand %r4, 63\nadd %r4, 1\nmov %r2, 0\nmov %r3, %r10\nadd %r3, -64\ncall skb_load_bytes\nldxb %r0, [%r10-64]\nexit",
        7,
        Rule::StackUninit { off: -64 },
    );
}

#[test]
fn records() {
    let reserve = "lddw %r1, map[2]\nmov %r2, 8\nmov %r3, 0\ncall ringbuf_reserve\n";
    reject(
        &format!("{reserve}jeq %r0, 0, exit\nmov %r0, 0\nexit"),
        7,
        Rule::RecordHeld { reserved: 4 },
    );
    reject(
        &format!("{reserve}mov %r1, %r0\nmov %r2, 0\ncall ringbuf_submit\nmov %r0, 0\nexit"),
        7,
        Rule::MaybeNull { reg: 1 },
    );
    let held = format!("{reserve}jeq %r0, 0, exit\nmov %r6, %r0\nmov %r1, %r0\nmov %r2, 0\n");
    reject(
        &format!("{held}add %r1, 1\ncall ringbuf_discard\nmov %r0, 0\nexit"),
        10,
        Rule::RecordOffset { reg: 1 },
    );
    reject(
        &format!("{held}stdw [%r1+1], 0\nexit"),
        9,
        Rule::RecordBounds { min: 1, end: 9, size: 8 },
    );
    // Gone after submission, by whatever name.
    reject(
        &format!("{held}call ringbuf_submit\nstdw [%r6+0], 0\nmov %r0, 0\nexit"),
        10,
        Rule::Uninit { reg: 6 },
    );
    reject(
        &format!("{held}stxdw [%r1+0], %r10\nexit"),
        9,
        Rule::PointerLeak { into: "a ring-buffer record" },
    );
    reject(
        "ldxw %r2, [%r1+0]\nlddw %r1, map[2]\nmov %r3, 0\ncall ringbuf_reserve\nexit",
        4,
        Rule::NotConstant { reg: 2 },
    );
    reject(
        &format!("mov %r6, %r1\n{reserve}jeq %r0, 0, exit\nmov %r7, %r0\nldabsb 0\nexit"),
        8,
        Rule::LegacyHeld { reserved: 5 },
    );
}

#[test]
fn callbacks_and_legacy_loads() {
    reject(
        "mov %r1, 4\nlddw %r2, func f\nmov %r3, 0\nmov %r4, 0\ncall loop\nmov %r0, 0\nexit\nf:\nmov %r0, 2\nexit",
        9,
        Rule::CallbackResult,
    );
    reject(
        "mov %r1, 4\nmov %r2, 0\nmov %r3, 0\nmov %r4, 0\ncall loop\nexit",
        4,
        Rule::HelperArgument { reg: 2, expected: "a function", is: "a number" },
    );
    reject("mov %r6, 0\nldabsb 0\nexit", 1, Rule::LegacyContext { is: "a number" });
    reject(
        "mov %r6, %r1\ncall local f\nexit\nf:\nmov %r6, %r1\nldabsb 0\nexit",
        4,
        Rule::LegacyInFunction,
    );
}

#[test]
fn strings_must_end_in_read_only_data() {
    let compare = |off| {
        format!(
            "stdw [%r10-8], 0\nmov %r1, %r10\nadd %r1, -8\nmov %r2, 8\nlddw %r3, map[1]+{off}\ncall strncmp\nmov %r0, 0\nexit"
        )
    };
    accept(&compare(8));
    reject(&compare(12), 6, Rule::StringEnd { reg: 3 });
}

#[test]
fn loops_that_never_end_and_programs_too_complex() {
    reject("loop:\nja loop", 0, Rule::InfiniteLoop);
    reject("loop:\ncall get_prandom_u32\njne %r0, 0, loop\nexit", 0, Rule::InfiniteLoop);
    let p = program(ProgramKind::StreamParser, "mov %r0, 0\nmov %r0, 0\nmov %r0, 0\nexit");
    let e = verify(p, &Options::default().with_budget(2)).expect_err("accepted");
    assert_eq!(e.rule, Rule::TooComplex { explored: 3 });
}

#[test]
fn maps_are_used_as_their_flags_allow() {
    let wrong = Rule::MapWriteOnly { map: 5 };
    reject("lddw %r2, map[5]+0\nldxw %r0, [%r2+0]\nexit", 2, wrong.clone());
    reject("lddw %r2, map[5]+0\nmov %r0, 1\nlock fetch add [%r2+0], %r0\nexit", 3, wrong.clone());
    accept("lddw %r2, map[5]+0\nstw [%r2+0], 1\nmov %r0, 0\nexit");
    // As the memory of a helper that reads it.
    reject(
        "lddw %r2, map[5]+0\nlddw %r1, map[0]\ncall map_lookup_elem\nmov %r0, 0\nexit",
        4,
        wrong,
    );
    let key = "stw [%r10-4], 0\nmov %r2, %r10\nadd %r2, -4\nlddw %r1, map[6]\n";
    accept(&format!("{key}call map_lookup_elem\nmov %r0, 0\nexit"));
    reject(
        &format!("{key}call map_delete_elem\nmov %r0, 0\nexit"),
        5,
        Rule::MapReadOnly { map: 6 },
    );
    reject(
        &format!(
            "{key}call map_lookup_elem\njeq %r0, 0, out\nstw [%r0+0], 1\nout:\nmov %r0, 0\nexit"
        ),
        7,
        Rule::MapReadOnly { map: 6 },
    );
}
