//! What is accepted and what is not.
use super::*;
use crate::bpf::{asm, program::ProgramKind};

fn check(text: &str) -> Result<Verified, Box<VerifyError>> {
    let p = asm::program(text, ProgramKind::StreamParser, Vec::new()).unwrap();
    verify(p, &Options::default())
}

#[test]
fn a_header_parser_is_accepted() {
    let v = check(
        "mov %r6, %r1
         ldxw %r2, [%r1+76]
         ldxw %r3, [%r1+80]
         mov %r4, %r2
         add %r4, 4
         mov %r0, 0
         jgt %r4, %r3, exit
         ldxw %r0, [%r2+0]
         be32 %r0
         add32 %r0, 4
         jgt32 %r0, 1048576, bad
         exit
         bad:
         mov %r0, -90
         exit",
    )
    .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(v.facts().fuel, Fuel::NotNeeded);
}

#[test]
fn a_counted_loop_over_load_bytes_is_accepted() {
    let v = check(
        "mov %r6, %r1
         mov %r7, 0
         loop:
         mov %r1, %r6
         mov %r2, %r7
         mov %r3, %r10
         add %r3, -1
         mov %r4, 1
         call skb_load_bytes
         jne %r0, 0, more
         ldxb %r1, [%r10-1]
         jeq %r1, 10, found
         add %r7, 1
         jlt %r7, 4096, loop
         mov %r0, -1
         exit
         more:
         mov %r0, 0
         exit
         found:
         mov %r0, %r7
         add %r0, 1
         exit",
    )
    .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(v.facts().fuel, Fuel::NotNeeded);
    assert!(v.facts().explored < 70_000, "{}", v.facts().explored);
}
