//! Programs that must be accepted, and what is found out about them.

use super::*;

#[test]
fn a_header_parser_needs_no_meter() {
    let f = accept(
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
    );
    assert_eq!(f.fuel, Fuel::NotNeeded);
    assert_eq!(f.region[1], Some(Region::Ctx { offset: 76 }));
    assert_eq!(f.region[7], Some(Region::Packet));
    assert_eq!(f.taken[6], Taken { jump: true, fall: true });
    assert_eq!(f.stack_depth, 0);
}

#[test]
fn a_counted_loop_over_load_bytes_needs_no_meter() {
    let f = accept(
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
    );
    assert_eq!(f.fuel, Fuel::NotNeeded);
    let call = f.calls[7].as_ref().unwrap();
    assert_eq!((call.helper, call.consts[3], call.stack[2]), (26, Some(1), Some(-1)));
    assert_eq!(f.frames, [8]);
}

#[test]
fn packet_ranges_are_proved_by_comparisons_in_all_directions() {
    // 4 bytes of the packet proved (or not) by one comparison; `jump` says which way has them.
    let cases = [
        ("jgt %r4, %r3, no", 4, false),
        ("jge %r4, %r3, no", 5, false),
        ("jlt %r4, %r3, yes", 5, true),
        ("jle %r4, %r3, yes", 4, true),
        ("jlt %r3, %r4, no", 4, false),
        ("jle %r3, %r4, no", 5, false),
        ("jgt %r3, %r4, yes", 5, true),
        ("jge %r3, %r4, yes", 4, true),
    ];
    for (jump, proven, on_jump) in cases {
        let text = |last: i32| {
            let way = if on_jump { "ja no\nyes:" } else { "" };
            format!(
                "ldxw %r2, [%r1+76]
                 ldxw %r3, [%r1+80]
                 mov %r4, %r2
                 add %r4, 4
                 {jump}
                 {way}
                 ldxb %r0, [%r2+{last}]
                 no:
                 mov %r0, 0
                 exit"
            )
        };
        accept(&text(proven - 1));
        let at = if on_jump { 6 } else { 5 };
        let (min, end) = (i64::from(proven), i64::from(proven) + 1);
        reject(&text(proven), at, Rule::PacketBounds { min, end, proven: i64::from(proven) });
    }
}

#[test]
fn a_bounded_index_into_the_packet_is_proved_by_comparing_the_sum() {
    accept(
        "ldxw %r2, [%r1+76]
         ldxw %r3, [%r1+80]
         ldxw %r5, [%r1+0]
         add %r2, %r5
         mov %r4, %r2
         add %r4, 8
         mov %r0, 0
         jgt %r4, %r3, exit
         ldxdw %r0, [%r2+0]
         mov %r0, 1
         exit",
    );
}

#[test]
fn what_is_proven_stays_proven_less_a_bounded_step() {
    accept(
        "ldxw %r2, [%r1+76]
         ldxw %r3, [%r1+80]
         mov %r4, %r2
         add %r4, 20
         mov %r0, 0
         jgt %r4, %r3, exit
         ldxb %r5, [%r2+0]
         and %r5, 15
         add %r2, %r5
         ldxw %r0, [%r2+1]
         exit",
    );
}

#[test]
fn copies_learn_from_a_branch_even_when_spilled_or_moved() {
    accept(
        "ldxw %r2, [%r1+0]
         stxdw [%r10-8], %r2
         mov %r3, %r2
         add %r3, 2
         mov %r0, 0
         jgt %r3, 10, exit
         jlt %r3, 2, exit
         ldxdw %r4, [%r10-8]
         stdw [%r10-16], 0
         mov %r5, %r10
         add %r5, -16
         jgt %r4, 7, exit
         add %r5, %r4
         ldxb %r0, [%r5+0]
         mov %r0, 0
         exit",
    );
    // The branch on the copy alone is enough.
    accept(
        "ldxw %r2, [%r1+0]
         stxdw [%r10-8], %r2
         mov %r3, %r2
         mov %r0, 0
         jgt %r3, 7, exit
         ldxdw %r4, [%r10-8]
         mov %r5, %r10
         add %r5, -8
         add %r5, %r4
         ldxb %r0, [%r5+0]
         exit",
    );
}

#[test]
fn read_only_data_decides_branches_and_the_rest_is_dead() {
    let f = accept(
        "lddw %r2, map[1]+0
         ldxw %r3, [%r2+0]
         mov %r0, 0
         jeq %r3, 7, exit
         call 9999
         exit",
    );
    assert!(!f.reached[5]);
    assert_eq!(f.taken[4], Taken { jump: true, fall: false });
    assert_eq!(f.region[2], Some(Region::MapValue { map: 1 }));
}

#[test]
fn map_values_are_used_after_a_null_check() {
    let f = accept(
        "stw [%r10-4], 1
         lddw %r1, map[0]
         mov %r2, %r10
         add %r2, -4
         call map_lookup_elem
         jne %r0, 0, found
         mov %r0, 0
         exit
         found:
         ldxdw %r1, [%r0+8]
         add %r1, 1
         stxdw [%r0+8], %r1
         lock add [%r0+0], %r1
         mov %r0, 0
         exit",
    );
    assert_eq!(f.calls[5].as_ref().unwrap().map, Some(0));
    assert_eq!(f.region[9], Some(Region::MapValue { map: 0 }));
}

#[test]
fn records_are_reserved_filled_and_submitted() {
    let f = accept(
        "lddw %r1, map[2]
         mov %r2, 16
         mov %r3, 0
         call ringbuf_reserve
         jeq %r0, 0, exit
         stdw [%r0+0], 1
         stdw [%r0+8], 2
         mov %r1, %r0
         mov %r2, 0
         call ringbuf_submit
         mov %r0, 0
         exit",
    );
    assert_eq!(f.calls[4].as_ref().unwrap().consts[1], Some(16));
    assert_eq!(f.region[6], Some(Region::Record));
}

#[test]
fn functions_see_their_arguments_and_keep_the_callers_registers() {
    let f = accept(
        "mov %r6, 5
         stdw [%r10-8], 3
         mov %r1, %r10
         add %r1, -8
         mov %r2, 4
         call local sum
         add %r0, %r6
         exit
         sum:
         ldxdw %r0, [%r1+0]
         add %r0, %r2
         stxdw [%r10-16], %r0
         mov %r6, 0
         exit",
    );
    assert_eq!(f.frames, [8, 16]);
    assert_eq!(f.stack_depth, 24);
    assert_eq!(f.region[8], Some(Region::Stack { offset: None }));
    assert_eq!(f.region[10], Some(Region::Stack { offset: Some(-16) }));
}

#[test]
fn bpf_loop_is_metered_at_its_call() {
    let f = accept(
        "stdw [%r10-8], 0
         mov %r1, 100
         lddw %r2, func round
         mov %r3, %r10
         add %r3, -8
         mov %r4, 0
         call loop
         ldxdw %r0, [%r10-8]
         exit
         round:
         ldxdw %r3, [%r2+0]
         add %r3, %r1
         stxdw [%r2+0], %r3
         mov %r0, 0
         exit",
    );
    assert_eq!(f.fuel, Fuel::Metered { back_edges: vec![7] });
    assert_eq!(f.calls[7].as_ref().unwrap().callback, Some(10));
}

#[test]
fn legacy_packet_loads_need_the_context_in_r6() {
    for kind in [ProgramKind::SocketFilter, ProgramKind::StreamParser] {
        let text = "mov %r6, %r1
             ldabsw 0
             mov %r7, %r0
             ldindh %r7, 4
             add %r0, 4
             exit";
        check_as(kind, text).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn socket_filters_have_scratch_space_in_the_context() {
    let text = "mov %r2, 7
         stxw [%r1+48], %r2
         ldxw %r0, [%r1+48]
         ldxb %r2, [%r1+67]
         ldxw %r3, [%r1+8]
         exit";
    check_as(ProgramKind::SocketFilter, text).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn packet_length_is_a_number() {
    accept(
        "ldxw %r2, [%r1+76]
         ldxw %r0, [%r1+80]
         sub %r0, %r2
         exit",
    );
}

#[test]
fn a_variable_offset_into_initialised_stack_can_be_read() {
    accept(
        "stdw [%r10-8], 0
         stdw [%r10-16], 0
         ldxw %r2, [%r1+0]
         and %r2, 15
         mov %r3, %r10
         add %r3, -16
         add %r3, %r2
         stb [%r3+0], 1
         ldxb %r0, [%r3+0]
         exit",
    );
}

#[test]
fn constants_put_together_on_the_stack_are_still_known() {
    let f = accept(
        "stw [%r10-8], 1
         stw [%r10-4], 0
         ldxdw %r2, [%r10-8]
         mov %r0, 0
         jeq %r2, 1, exit
         call 9999
         exit",
    );
    assert!(!f.reached[5]);
}

/// A loop with a counter in r2 that ends at `end`.
fn counted(step: &str, end: &str) -> Fuel {
    accept(&format!(
        "mov %r2, 0
         loop:
         {step}
         {end}
         mov %r0, 0
         exit"
    ))
    .fuel
}

#[test]
fn counted_loops_beyond_walking_are_shown_to_end() {
    assert_eq!(counted("add %r2, 1", "jlt %r2, 1000000, loop"), Fuel::NotNeeded);
    assert_eq!(counted("add32 %r2, 3", "jlt32 %r2, 1000000, loop"), Fuel::NotNeeded);
    assert_eq!(
        counted("mov32 %r3, %r2\nadd32 %r3, 1\nmov %r2, %r3", "jlt %r2, 9000, loop"),
        Fuel::NotNeeded
    );
    let down = "mov %r2, 1000000\nloop:\nsub %r2, 1\njne %r2, 0, loop\nmov %r0, 0\nexit";
    assert_eq!(accept(down).fuel, Fuel::NotNeeded);
}

#[test]
fn loops_not_shown_to_end_soon_are_metered_at_their_backward_jumps() {
    let metered = |at: usize| Fuel::Metered { back_edges: vec![at] };
    // Ten million rounds are too many, wrapping ones have no bound.
    assert_eq!(counted("add %r2, 1", "jlt %r2, 10000000, loop"), metered(2));
    assert_eq!(counted("add32 %r2, 2", "jne32 %r2, 1999999999, loop"), metered(2));
}

#[test]
fn nested_loops_end_if_the_outer_one_does() {
    let text = |step| {
        format!(
            "mov %r6, 0
             outer:
             mov %r7, 0
             inner:
             add %r7, 1
             jlt %r7, 1000, inner
             {step}
             jlt %r6, 1000, outer
             mov %r0, 0
             exit"
        )
    };
    assert_eq!(accept(&text("add %r6, 1")).fuel, Fuel::NotNeeded);
    assert_eq!(
        accept(&text("mov %r6, %r7\nand %r6, 7")).fuel,
        Fuel::Metered { back_edges: vec![3, 6] }
    );
}

#[test]
fn loops_that_move_back_on_one_way_are_metered() {
    let f = accept(
        "mov %r6, %r1
         mov %r7, 0
         loop:
         ldxw %r2, [%r6+0]
         jeq %r2, 5, back
         add %r7, 1
         ja next
         back:
         jeq %r7, 0, next
         sub %r7, 1
         next:
         jlt %r7, 5000, loop
         mov %r0, 0
         exit",
    );
    assert!(matches!(f.fuel, Fuel::Metered { .. }), "{:?}", f.fuel);
}

#[test]
fn widened_loops_still_prove_every_access() {
    let text = |mask| {
        format!(
            "mov %r6, %r1
             stdw [%r10-8], 0
             mov %r2, 0
             loop:
             mov %r3, %r2
             and %r3, {mask}
             mov %r4, %r10
             add %r4, -8
             add %r4, %r3
             ldxb %r5, [%r4+0]
             add %r2, 1
             jlt %r2, 1000000, loop
             mov %r0, 0
             exit"
        )
    };
    accept(&text(7));
    reject(&text(15), 8, Rule::StackBounds { min: 0, end: 1 });
}

#[test]
fn a_buffer_entry_gives_memory_and_its_size() {
    let p = program(
        ProgramKind::StreamParser,
        "ldxdw %r3, [%r1+8]
         mov %r0, %r2
         exit",
    );
    verify(p, &Options::default().with_entry(Entry::Buffer { map: 0 })).unwrap();
}

#[test]
fn a_trace_says_what_was_known() {
    let p = program(
        ProgramKind::StreamParser,
        "ldxb %r2, [%r1+48]
         mov %r0, %r2
         exit",
    );
    let (verdict, trace) = verify_traced(p.clone(), &Options::default());
    verdict.unwrap();
    assert_eq!(trace.visits(1), 1);
    let text = trace.render(&p);
    assert!(text.contains("r2={number 0..=255}"), "{text}");
}
