//! Errors read like a compiler's.

use super::*;
use crate::bpf::program::Line;

#[test]
fn an_error_names_rule_source_instruction_registers_and_help() {
    let mut p = program(
        ProgramKind::StreamParser,
        "ldxw %r2, [%r1+76]
         ldxw %r3, [%r1+80]
         mov %r4, %r2
         add %r4, 4
         mov %r0, 0
         jgt %r4, %r3, exit
         ldxw %r0, [%r2+1]
         exit",
    );
    p.lines = vec![Line {
        insn: 6,
        file: "src/thrift.rs".into(),
        line: 12,
        column: 9,
        text: "    let n = view.u32(1);".into(),
    }];
    let e = verify(p, &Options::default()).expect_err("accepted");
    assert_eq!(
        e.to_string(),
        "error: access may reach to byte 5 of the packet, 4 are proven to be there
  --> src/thrift.rs:12:9
   |
12 |     let n = view.u32(1);
   = 6: r0 = *(u32 *)(r2 + 1)
   = r2: packet+0, 4 bytes proven
   = help: compare the pointer plus the bytes you need with data_end first, or use bpf_skb_load_bytes"
    );
}

#[test]
fn an_unknown_helper_is_named() {
    let e = check_as(ProgramKind::StreamParser, "call 12\nexit").expect_err("accepted");
    let text = e.to_string();
    assert!(text.contains("helper 12 (bpf_tail_call) is not available"), "{text}");
    assert!(text.contains("program `asm`, instruction 0"), "{text}");
    assert!(text.contains("= 0: call bpf_tail_call#12"), "{text}");
}

#[test]
fn instructions_print_as_the_kernel_prints_them() {
    let cases = [
        ("ldxsh %r3, [%r1-4]", "r3 = *(s16 *)(r1 - 4)"),
        ("stw [%r10-4], -7", "*(u32 *)(r10 - 4) = -7"),
        ("stxb [%r2+1], %r3", "*(u8 *)(r2 + 1) = r3"),
        ("add32 %r0, 5", "w0 += 5"),
        ("smod %r1, %r2", "r1 s%= r2"),
        ("movsx832 %r1, %r2", "w1 = (s8)w2"),
        ("jsgt32 %r1, -1, +2", "if w1 s> -1 goto +2"),
        ("lock fetch add [%r10-8], %r1", "r1 = atomic_fetch_add((u64 *)(r10 - 8), r1)"),
        ("lock cmpxchg32 [%r10-8], %r1", "r0 = atomic_cmpxchg((u32 *)(r10 - 8), r0, r1)"),
        ("lddw %r1, map[2]+8", "r1 = map[2].value + 8"),
        ("ldindh %r3, 6", "r0 = *(u16 *)skb[r3 + 6]"),
        ("be32 %r0", "r0 = bswap32 r0"),
    ];
    for (text, expected) in cases {
        let a = asm::assemble(text).unwrap_or_else(|e| panic!("{e}"));
        let padding = [crate::bpf::insn::Insn { code: 0x95, ..Default::default() }; 4];
        let insns = [a.insns, padding.to_vec()].concat();
        assert_eq!(crate::bpf::disasm::disassemble(&insns, 0), expected, "{text}");
    }
}
