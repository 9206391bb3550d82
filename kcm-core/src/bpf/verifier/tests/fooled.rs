//! Programs of the kind that have fooled verifiers: each would read or write out of bounds, or
//! tell an address, if a range were computed wrongly.

use super::*;

/// Ends a program that has an index in r2 by using it in the 16-byte value of map 0.
fn index(text: &str) -> String {
    format!("{text}\nlddw %r3, map[0]+0\nadd %r3, %r2\nldxb %r0, [%r3+0]\nmov %r0, 0\nexit")
}

#[track_caller]
fn must_reject(text: &str) {
    for kind in [ProgramKind::StreamParser, ProgramKind::SocketFilter] {
        match check_as(kind, text) {
            Ok(_) => panic!("accepted as {kind:?}"),
            Err(e) => assert!(
                !matches!(e.rule, Rule::Encoding(_) | Rule::TooComplex { .. }),
                "rejected for the wrong reason: {e}"
            ),
        }
    }
}

#[test]
fn an_eight_byte_key_in_four_bytes_of_stack() {
    reject(
        "stw [%r10-4], 0
         lddw %r1, map[3]
         mov %r2, %r10
         add %r2, -4
         call map_lookup_elem
         mov %r0, 0
         exit",
        5,
        Rule::StackBounds { min: -4, end: 4 },
    );
}

#[test]
fn a_key_of_which_half_is_uninitialised() {
    reject(
        "stw [%r10-8], 0
         lddw %r1, map[3]
         mov %r2, %r10
         add %r2, -8
         call map_lookup_elem
         mov %r0, 0
         exit",
        5,
        Rule::StackUninit { off: -4 },
    );
}

#[test]
fn a_32_bit_comparison_says_nothing_of_the_high_word() {
    // As in CVE-2020-8835: low word known, high word not.
    must_reject(&index("call ktime_get_ns\nmov %r2, %r0\nmov %r0, 0\njgt32 %r2, 15, exit"));
    must_reject(&index("call ktime_get_ns\nmov %r2, %r0\nmov %r0, 0\njne32 %r2, 1, exit"));
    must_reject(&index(
        "call ktime_get_ns\nmov %r2, %r0\nmov %r0, 0\njsgt32 %r2, 15, exit\njslt32 %r2, 0, exit",
    ));
}

#[test]
fn a_64_bit_equality_of_a_masked_word() {
    // CVE-2020-8835's other half: bounds of 64 bits taken over into 32 by truncation.
    must_reject(&index(
        "call ktime_get_ns
         mov %r2, %r0
         mov %r0, 0
         lddw %r4, 0x100000000
         jlt %r2, %r4, exit
         lddw %r4, 0x200000001
         jgt %r2, %r4, exit
         mov32 %r2, %r2",
    ));
}

#[test]
fn bounds_of_a_bitwise_operation_on_half_known_words() {
    // As in CVE-2021-3490: 32-bit bounds of and/or/xor with one side's low word known.
    for op in ["and", "or", "xor"] {
        must_reject(&index(&format!(
            "call ktime_get_ns
             mov %r2, %r0
             lddw %r4, 0xffffffff00000000
             and %r2, %r4
             or %r2, 1
             lddw %r4, 0x100000002
             {op} %r2, %r4
             rsh %r2, 32
             lsh %r2, 4"
        )));
    }
}

#[test]
fn signed_bounds_from_unsigned_ones_across_the_sign() {
    // As in CVE-2021-31440: 64-bit signed bounds inferred from 32-bit ones.
    must_reject(&index(
        "call ktime_get_ns
         mov %r2, %r0
         mov %r0, 0
         jslt32 %r2, 0, exit
         jsgt %r2, 15, exit",
    ));
    must_reject(&index(
        "call ktime_get_ns
         mov %r2, %r0
         mov %r0, 0
         jsgt %r2, 15, exit",
    ));
}

#[test]
fn sign_extension_of_an_unsigned_word() {
    // Immediate -1 is all ones in 64 bits but 0xffffffff after a 32-bit move (CVE-2017-16995).
    must_reject(&index("mov32 %r2, -1\njne %r2, -1, +1\nmov %r2, 0\nadd32 %r2, 32\nlsh %r2, 4"));
    must_reject(&index("ldxb %r2, [%r1+48]\nmovsx864 %r2, %r2\nmov %r0, 0\njsgt %r2, 15, exit"));
    must_reject(&index(
        "ldxw %r2, [%r1+0]\nmovsx3264 %r2, %r2\nand32 %r2, -1\nrsh %r2, 28\nadd %r2, 1",
    ));
}

#[test]
fn a_product_that_wraps() {
    must_reject(&index(
        "call ktime_get_ns\nmov %r2, %r0\nmul %r2, 8\nmov %r0, 0\njgt %r2, 16, exit",
    ));
    must_reject(&index("ldxw %r2, [%r1+0]\nmul32 %r2, 3\nand32 %r2, 31"));
}

#[test]
fn a_shift_that_wraps() {
    must_reject(&index("ldxb %r2, [%r1+48]\nlsh32 %r2, 28\nrsh32 %r2, 27"));
    must_reject(&index("ldxb %r4, [%r1+48]\nmov %r2, 1\nlsh %r2, %r4"));
}

#[test]
fn a_negative_offset_hidden_in_a_sum() {
    must_reject(&index("ldxb %r2, [%r1+48]\nand %r2, 15\nsub %r2, 1"));
    must_reject(&index("ldxb %r2, [%r1+48]\nmod %r2, 17"));
    must_reject(&index("ldxb %r2, [%r1+48]\nneg %r2\nand %r2, 31"));
    must_reject(&index("ldxb %r2, [%r1+48]\nsmod %r2, -17"));
}

#[test]
fn a_division_that_does_not_bound() {
    must_reject(&index("ldxb %r4, [%r1+48]\nmov %r2, 16\ndiv %r2, %r4"));
    must_reject(&index("ldxb %r4, [%r1+48]\nmov %r2, 16\nmod %r2, %r4"));
}

#[test]
fn one_byte_more_than_was_compared() {
    for (compare, ok) in [("jgt", 3), ("jge", 4)] {
        let text = |off| {
            format!(
                "ldxw %r2, [%r1+76]\nldxw %r3, [%r1+80]\nmov %r4, %r2\nadd %r4, 4\nmov %r0, 0
                 {compare} %r4, %r3, exit\nldxb %r5, [%r2+{off}]\nexit"
            )
        };
        accept(&text(ok));
        must_reject(&text(ok + 1));
    }
}

#[test]
fn an_index_that_is_compared_before_it_grows() {
    must_reject(
        "ldxw %r2, [%r1+76]
         ldxw %r3, [%r1+80]
         ldxw %r4, [%r1+0]
         add %r2, %r4
         mov %r5, %r2
         add %r5, 1
         mov %r0, 0
         jgt %r5, %r3, exit
         add %r2, %r4
         ldxb %r0, [%r2+0]
         exit",
    );
}

#[test]
fn an_address_told_by_arithmetic_comparison_or_spill() {
    must_reject("mov %r0, %r10\nsub %r0, %r1\nexit");
    must_reject("mov %r0, %r10\nrsh %r0, 1\nexit");
    must_reject("mov %r0, 0\njgt %r10, %r0, exit\nmov %r0, 1\nexit");
    must_reject("stxdw [%r10-8], %r10\nldxw %r0, [%r10-4]\nexit");
    must_reject("stxdw [%r10-8], %r10\nstw [%r10-8], 0\nldxdw %r0, [%r10-8]\nexit");
    must_reject(
        "stxdw [%r10-8], %r10\nmov %r2, 0\nlock fetch or [%r10-8], %r2\nmov %r0, %r2\nexit",
    );
    must_reject(
        "mov %r2, %r10\nstxdw [%r10-8], %r2\nmov %r1, %r10\nadd %r1, -8\nmov %r2, 8\nmov %r3, 0\nmov %r4, 0\nmov %r5, 0\ncall trace_printk\nexit",
    );
    must_reject("mov %r2, 1\nmov %r3, %r10\nadd %r2, %r3\nmov %r0, %r2\nexit");
}

#[test]
fn a_null_check_of_one_lookup_used_for_another() {
    must_reject(
        "stw [%r10-4], 0
         lddw %r1, map[0]
         mov %r2, %r10
         add %r2, -4
         call map_lookup_elem
         mov %r6, %r0
         lddw %r1, map[0]
         mov %r2, %r10
         add %r2, -4
         call map_lookup_elem
         jeq %r0, 0, exit
         ldxb %r1, [%r6+0]
         mov %r0, 0
         exit",
    );
}

#[test]
fn a_number_that_looks_alike_but_was_relied_upon() {
    // Two ways to one use; the first is safe, the second is not, and what differs is a number.
    must_reject(
        "ldxw %r2, [%r1+0]
         mov %r6, 0
         jeq %r2, 0, +1
         mov %r6, 16
         mov %r7, 0
         mov %r7, 0
         mov %r7, 0
         mov %r7, 0
         mov %r7, 0
         ldxw %r3, [%r1+0]
         jeq %r3, 1, +1
         mov %r8, 0
         jeq %r3, 2, +1
         mov %r8, 1
         join:
         mov %r2, %r6
         lddw %r3, map[0]+0
         add %r3, %r2
         ldxb %r0, [%r3+0]
         mov %r0, 0
         exit",
    );
}

#[test]
fn a_link_between_numbers_that_another_path_does_not_have() {
    // r7 is a copy of r6 on one path only; the comparison of r6 bounds r7 there, not here.
    for (first, second) in
        [("mov %r7, %r6", "ldxw %r7, [%r1+0]"), ("ldxw %r7, [%r1+0]", "mov %r7, %r6")]
    {
        must_reject(&format!(
            "ldxw %r6, [%r1+0]
             ldxw %r2, [%r1+0]
             ldxw %r3, [%r1+0]
             jeq %r2, 3, other
             {first}
             jeq %r3, 4, +0
             mov %r8, 0
             ja join
             other:
             {second}
             jeq %r3, 4, +0
             mov %r8, 0
             mov %r8, 0
             join:
             mov %r9, 0
             mov %r9, 0
             mov %r0, 0
             jgt %r6, 15, exit
             lddw %r3, map[0]+0
             add %r3, %r7
             ldxb %r0, [%r3+0]
             mov %r0, 0
             exit"
        ));
    }
}

#[test]
fn an_uninitialised_byte_behind_a_join() {
    must_reject(
        "ldxw %r2, [%r1+0]
         ldxw %r3, [%r1+0]
         jeq %r2, 3, other
         stdw [%r10-8], 0
         other:
         jeq %r3, 4, +0
         mov %r8, 0
         jeq %r3, 5, +0
         mov %r8, 0
         mov %r8, 0
         mov %r8, 0
         ldxb %r0, [%r10-1]
         exit",
    );
}
