//! Semantics C (steering) and E (receive).

use super::*;

fn three() -> (Rig, [KcmId; 3], PsockId) {
    let (mut rig, a) = Rig::new(DGRAM);
    let b = rig.clone_kcm(a);
    let c = rig.clone_kcm(a);
    let p = rig.attach();
    (rig, [a, b, c], p)
}

#[test]
fn c1_c2_one_message_per_arrival_goes_round_the_sockets() {
    let (mut rig, kcms, p) = three();
    for n in 0..9 {
        assert_eq!(rig.deliver(p, &[&n.to_string()]), Delivery::Taken);
    }
    let got = kcms.map(|k| rig.recv_all(k).join(""));
    assert_eq!(got, ["036", "147", "258"]);
}

#[test]
fn c1_c2_all_messages_of_one_arrival_go_to_one_socket() {
    let (mut rig, kcms, p) = three();
    for first in [0, 3, 6, 9] {
        let texts = [first, first + 1, first + 2].map(|n| format!("{n},"));
        let _ = rig.deliver(p, &texts.each_ref().map(String::as_str));
    }
    let got = kcms.map(|k| rig.recv_all(k).join(""));
    assert_eq!(got, ["0,1,2,9,10,11,", "3,4,5,", "6,7,8,"]);
}

#[test]
fn c1_one_arrival_is_one_wake_up() {
    let (mut rig, kcms, p) = three();
    rig.effects();
    let _ = rig.deliver(p, &["a", "b", "c"]);
    assert_eq!(rig.effects(), [Effect::Readable { kcm: kcms[0], messages: 3 }]);
}

#[test]
fn c2_steering_rotates_regardless_of_what_is_unread() {
    let (mut rig, kcms, p) = three();
    for n in 0..3 {
        let _ = rig.deliver(p, &[&n.to_string()]);
    }
    rig.recv_all(kcms[1]);
    rig.recv_all(kcms[2]);
    let _ = rig.deliver(p, &["next"]);
    assert_eq!(rig.recv_all(kcms[0]), ["0", "next"]);
}

#[test]
fn c4_a_message_is_accepted_while_there_is_any_room_whatever_its_size() {
    let (mut rig, k) = Rig::with(DGRAM, MuxOptions::default(), small(2304));
    let p = rig.attach();
    assert_eq!(rig.deliver(p, &[&"x".repeat(60_000)]), Delivery::Taken);
    assert_eq!(rig.deliver(p, &["y"]), Delivery::Parked);
    assert_eq!(rig.recv(k).unwrap().len(), 60_000);
    assert_eq!(rig.recv(k).unwrap(), "y");
}

#[test]
fn c5_a_socket_that_fills_in_the_middle_of_a_batch_hands_the_rest_to_the_next() {
    let (mut rig, a) = Rig::with(DGRAM, MuxOptions::default(), small(3));
    let b = rig.clone_kcm(a);
    let p = rig.attach();
    assert_eq!(rig.deliver(p, &["0", "1", "2", "3", "4"]), Delivery::Taken);
    assert_eq!(rig.recv_all(a).concat(), "012");
    assert_eq!(rig.recv_all(b).concat(), "34");
}

#[test]
fn c6_j15_a_full_socket_receives_again_below_its_low_water_mark() {
    // (low water, reads of one byte each until it takes the parked message)
    for (low, reads) in [(None, 3), (Some(1), 4), (Some(4), 1), (Some(3), 2)] {
        let options = KcmOptions { recv_buffer: 4, recv_low_water: low, ..KcmOptions::default() };
        let (mut rig, k) = Rig::with(DGRAM, MuxOptions::default(), options);
        let p = rig.attach();
        assert_eq!(rig.deliver(p, &["a", "b", "c", "d", "e"]), Delivery::Parked);
        let mut done = 0;
        while !rig.log.contains(&Effect::ResumeRx { psock: p }) {
            rig.recv(k).unwrap();
            done += 1;
        }
        assert_eq!(done, reads, "low water {low:?}");
        rig.check_sums();
    }
}

#[test]
fn c6_raising_the_buffer_of_a_full_socket_makes_it_receive() {
    let (mut rig, k) = Rig::with(DGRAM, MuxOptions::default(), small(1));
    let p = rig.attach();
    assert_eq!(rig.deliver(p, &["a", "b", "c"]), Delivery::Parked);
    rig.mux.set_options(k, small(100), &mut rig.fx).unwrap();
    assert!(rig.effects().contains(&Effect::ResumeRx { psock: p }));
    assert_eq!(rig.recv_all(k).concat(), "abc");
}

#[test]
fn c7_a_socket_that_never_refused_needs_no_draining() {
    let options = KcmOptions { recv_buffer: 3, recv_low_water: Some(1), ..KcmOptions::default() };
    let (mut rig, k) = Rig::with(DGRAM, MuxOptions::default(), options);
    let p = rig.attach();
    assert_eq!(rig.deliver(p, &["a", "b", "c"]), Delivery::Taken);
    rig.recv(k);
    assert_eq!(rig.deliver(p, &["d"]), Delivery::Taken, "not drained, but never overflowed");
}

#[test]
fn c8_with_no_socket_able_to_receive_messages_stay_on_their_connection() {
    let (mut rig, k) = Rig::with(DGRAM, MuxOptions::default(), small(1));
    let p = rig.attach();
    assert_eq!(rig.deliver(p, &["a"]), Delivery::Taken);
    assert_eq!(rig.deliver(p, &["b", "c"]), Delivery::Parked);
    let stats = rig.mux.psock_stats(p).unwrap();
    assert_eq!((stats.parked_msgs, stats.parked_bytes), (2, 2));
    assert!(rig.mux.proc_net_kcm().contains("RxPause RdyRx"));
    // Nothing is lost, nothing is out of order.
    assert_eq!(rig.recv_all(k).concat(), "abc");
    assert!(rig.effects().contains(&Effect::ResumeRx { psock: p }));
}

#[test]
fn c9_c11_parked_connections_are_drained_one_message_each_in_turn() {
    let options = KcmOptions { recv_buffer: 6, recv_low_water: Some(1), ..KcmOptions::default() };
    let (mut rig, k) = Rig::with(DGRAM, MuxOptions::default(), options);
    let [a, b, c] = [(); 3].map(|()| rig.attach());
    let _ = rig.deliver(a, &["xxxxxx"]);
    for (p, name) in [(a, "a"), (b, "b"), (c, "c")] {
        let texts = [0, 1, 2].map(|n| format!("{name}{n}"));
        assert_eq!(rig.deliver(p, &texts.each_ref().map(String::as_str)), Delivery::Parked);
    }
    let got = rig.recv_all(k);
    assert_eq!(got, ["xxxxxx", "a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2"]);
}

#[test]
fn c9_held_messages_come_before_parked_ones() {
    let (mut rig, k) = Rig::new(DGRAM);
    let p = rig.attach();
    let _ = rig.deliver(p, &["held"]);
    rig.disable(k, true);
    assert_eq!(rig.deliver(p, &["parked"]), Delivery::Parked);
    rig.disable(k, false);
    assert_eq!(rig.recv_all(k), ["held", "parked"]);
}

#[test]
fn c10_the_next_messages_of_all_parked_connections_go_to_the_socket_that_became_free() {
    let (mut rig, k) = Rig::with(DGRAM, MuxOptions::default(), small(4));
    let k2 = rig.clone_kcm(k);
    let [a, b, c] = [(); 3].map(|()| rig.attach());
    let _ = rig.deliver(a, &["....", "...."]);
    for (p, text) in [(a, "a"), (b, "b"), (c, "c")] {
        assert_eq!(rig.deliver(p, &[text]), Delivery::Parked);
    }
    assert_eq!(rig.recv(k2).unwrap(), "....");
    assert_eq!(rig.recv_all(k2).concat(), "abc");
    assert_eq!(rig.recv_all(k).len(), 1);
}

#[test]
fn row_33_a_parked_connection_resumes_without_new_data() {
    let (mut rig, k) = Rig::new(DGRAM);
    let p = rig.attach();
    rig.disable(k, true);
    assert_eq!(rig.deliver(p, &["a", "b", "c"]), Delivery::Parked);
    rig.effects();
    rig.disable(k, false);
    assert_eq!(
        rig.effects(),
        [Effect::Readable { kcm: k, messages: 3 }, Effect::ResumeRx { psock: p }]
    );
    assert_eq!(rig.recv_all(k).concat(), "abc");
}

#[test]
fn c12_a_disabled_socket_hands_its_messages_on_in_order_and_takes_none() {
    let (mut rig, [a, b, c], p) = three();
    let _ = rig.deliver(p, &["0", "1"]);
    rig.disable(a, true);
    rig.disable(a, true);
    assert_eq!(rig.recv(a), None);
    for n in 2..5 {
        let _ = rig.deliver(p, &[&n.to_string()]);
    }
    assert_eq!(rig.recv_all(b).concat(), "0124");
    assert_eq!(rig.recv_all(c).concat(), "3");
    assert_eq!(rig.mux.recv_disabled(a), Ok(true));
    rig.disable(a, false);
    for n in 5..8 {
        let _ = rig.deliver(p, &[&n.to_string()]);
    }
    assert_eq!(rig.recv_all(a).len(), 1);
    rig.check_sums();
}

#[test]
fn c12_a_disabled_socket_still_sends() {
    let (mut rig, [a, ..], p) = three();
    rig.disable(a, true);
    rig.send(a, "out", NONE).unwrap();
    rig.run();
    assert_eq!(rig.wire(p), "out");
}

#[test]
fn c12_moved_messages_go_to_one_socket_until_it_is_full_and_count_there() {
    // Also row 59: moved messages count against the new owner's limit.
    let (mut rig, a) = Rig::with(DGRAM, MuxOptions::default(), small(4));
    rig.clone_kcm(a);
    let c = rig.clone_kcm(a);
    let p = rig.attach();
    let _ = rig.deliver(p, &["0", "1", "2"]);
    let _ = rig.deliver(p, &["x", "y"]);
    rig.disable(a, true);
    assert_eq!(rig.mux.kcm_stats(c).unwrap().recv_queued_msgs, 3);
    let _ = rig.deliver(p, &["z"]);
    rig.disable(c, true);
    // c had 0 1 2; b takes them until it holds four bytes, the rest is held.
    let stats = rig.mux.stats();
    assert_eq!((stats.queued_msgs, stats.held_msgs), (4, 2));
    rig.check_sums();
}

#[test]
fn c13_messages_without_any_socket_are_held_without_limit_and_come_first() {
    let (mut rig, k) = Rig::new(DGRAM);
    let p = rig.attach();
    for _ in 0..4 {
        let _ = rig.deliver(p, &["x".repeat(60_000).as_str()]);
    }
    rig.disable(k, true);
    assert_eq!(rig.mux.stats().held_msgs, 4);
    let k2 = rig.clone_kcm(k);
    let _ = rig.deliver(p, &["new"]);
    assert_eq!(
        rig.recv_all(k2).iter().map(String::len).collect::<Vec<_>>(),
        [60_000, 60_000, 60_000, 60_000, 3]
    );
    rig.check_sums();
}

#[test]
fn c14_j14_a_move_keeps_the_arrival_order() {
    let (mut rig, k) = Rig::new(DGRAM);
    let k2 = rig.clone_kcm(k);
    let p = rig.attach();
    for n in 0..4 {
        let _ = rig.deliver(p, &[&n.to_string()]);
    }
    // 0, 2 on k and 1, 3 on k2: the kernel would make it 1, 3, 0, 2.
    rig.disable(k, true);
    assert_eq!(rig.recv_all(k2).concat(), "0123");
}

#[test]
fn c15_with_all_sockets_disabled_every_connection_waits() {
    let (mut rig, kcms, p) = three();
    let q = rig.attach();
    for k in kcms {
        rig.disable(k, true);
    }
    assert_eq!(rig.deliver(p, &["p"]), Delivery::Parked);
    assert_eq!(rig.deliver(q, &["q"]), Delivery::Parked);
    rig.disable(kcms[1], false);
    assert_eq!(rig.recv_all(kcms[1]).concat(), "pq");
}

#[test]
fn c16_the_rest_of_a_partly_read_message_moves_too() {
    let (mut rig, k) = Rig::new(SEQ);
    let k2 = rig.clone_kcm(k);
    let p = rig.attach();
    let _ = rig.deliver(p, &["abcdef", "next"]);
    let mut buf = [0; 2];
    assert_eq!(rig.mux.recv_into(k, &mut buf, false, &mut rig.fx).unwrap().copied, 2);
    rig.disable(k, true);
    assert_eq!(rig.recv_all(k2), ["cdef", "next"]);
    rig.check_sums();
}

fn read(rig: &mut Rig, k: KcmId, len: usize) -> (String, Received) {
    let mut buf = vec![0; len];
    let got = rig.mux.recv_into(k, &mut buf, false, &mut rig.fx).unwrap();
    (String::from_utf8(buf[..got.copied].to_vec()).unwrap(), got)
}

#[test]
fn e2_a_message_that_fits_ends_its_record() {
    for kind in [DGRAM, SEQ] {
        let (mut rig, k) = Rig::new(kind);
        let p = rig.attach();
        let _ = rig.deliver(p, &["abc"]);
        let (text, got) = read(&mut rig, k, 10);
        assert_eq!(
            (text.as_str(), got.len, got.end_of_record, got.truncated),
            ("abc", 3, true, false)
        );
        assert_eq!(got.psock, p);
    }
}

#[test]
fn e3_a_datagram_too_long_is_cut_and_its_whole_length_reported() {
    let (mut rig, k) = Rig::new(DGRAM);
    let p = rig.attach();
    let _ = rig.deliver(p, &["abcdef", "next"]);
    let (text, got) = read(&mut rig, k, 4);
    assert_eq!((text.as_str(), got.len, got.end_of_record, got.truncated), ("abcd", 6, true, true));
    assert_eq!(rig.recv_all(k), ["next"]);
    rig.check_sums();
}

#[test]
fn e4_j4_row_19_a_short_seqpacket_read_keeps_the_rest_and_marks_only_the_end() {
    let (mut rig, k) = Rig::new(SEQ);
    let p = rig.attach();
    let _ = rig.deliver(p, &["abc", "de"]);
    let steps: Vec<(String, bool)> = (0..5)
        .map(|_| {
            let (text, got) = read(&mut rig, k, 1);
            (text, got.end_of_record)
        })
        .collect();
    let steps: Vec<(&str, bool)> = steps.iter().map(|(t, e)| (t.as_str(), *e)).collect();
    assert_eq!(steps, [("a", false), ("b", false), ("c", true), ("d", false), ("e", true)]);
    assert_eq!(rig.mux.kcm_stats(k).unwrap().rx_msgs, 2);
    rig.check_sums();
}

#[test]
fn e5_row_53_a_peek_changes_and_counts_nothing() {
    for kind in [DGRAM, SEQ] {
        let (mut rig, k) = Rig::new(kind);
        let p = rig.attach();
        let _ = rig.deliver(p, &["abc"]);
        for _ in 0..3 {
            let mut buf = [0; 2];
            let got = rig.mux.recv_into(k, &mut buf, true, &mut rig.fx).unwrap();
            assert_eq!((&buf, got.len, got.end_of_record, got.truncated), (b"ab", 3, false, false));
            assert_eq!(&*rig.mux.peek(k).unwrap(), b"abc");
        }
        assert_eq!(rig.mux.kcm_stats(k).unwrap().rx_bytes, 0);
        assert_eq!(rig.recv_all(k), ["abc"]);
    }
}

#[test]
fn e6_j4_row_60_an_empty_buffer_takes_nothing_and_tells_the_length() {
    for kind in [DGRAM, SEQ] {
        let (mut rig, k) = Rig::new(kind);
        let p = rig.attach();
        let _ = rig.deliver(p, &["abc"]);
        let (_, got) = read(&mut rig, k, 0);
        assert_eq!((got.copied, got.len, got.truncated), (0, 3, false));
        assert_eq!(rig.recv_all(k), ["abc"]);
    }
}

#[test]
fn e8_an_empty_socket_would_block() {
    let (mut rig, k) = Rig::new(DGRAM);
    assert_eq!(rig.mux.recv(k, &mut rig.fx), Err(RecvError::WouldBlock));
    assert_eq!(rig.mux.recv_into(k, &mut [0], false, &mut rig.fx), Err(RecvError::WouldBlock));
    assert_eq!(rig.mux.recv_batch(k, 9, &mut rig.fx), Err(RecvError::WouldBlock));
    assert_eq!(rig.mux.peek(k), Err(RecvError::WouldBlock));
    assert!(!rig.mux.is_readable(k));
}

#[test]
fn e9_j13_receives_end_with_the_last_connection_only_if_asked() {
    let options = KcmOptions { end_with_psocks: true, ..KcmOptions::default() };
    let (mut rig, k) = Rig::with(DGRAM, MuxOptions::default(), options);
    assert_eq!(
        rig.mux.recv(k, &mut rig.fx),
        Err(RecvError::WouldBlock),
        "none yet is not none left"
    );
    let p = rig.attach();
    let _ = rig.deliver(p, &["last"]);
    rig.effects();
    rig.mux.rx_end(p, PsockError::Eof, &mut rig.fx);
    assert!(
        !rig.effects().iter().any(|e| matches!(e, Effect::Readable { .. })),
        "there is a message to read"
    );
    assert_eq!(rig.recv(k).unwrap(), "last");
    assert_eq!(rig.mux.recv(k, &mut rig.fx), Err(RecvError::NoPsockLeft));
    assert!(rig.mux.is_readable(k));
    // A new one, and it is a connection again.
    rig.attach();
    assert_eq!(rig.mux.recv(k, &mut rig.fx), Err(RecvError::WouldBlock));

    let (mut rig, k) = Rig::new(DGRAM);
    let p = rig.attach();
    rig.mux.rx_end(p, PsockError::Eof, &mut rig.fx);
    assert_eq!(
        rig.mux.recv(k, &mut rig.fx),
        Err(RecvError::WouldBlock),
        "as the kernel, by default"
    );
}

#[test]
fn j13_waiting_receivers_are_woken_when_the_last_connection_goes() {
    let options = KcmOptions { end_with_psocks: true, ..KcmOptions::default() };
    let (mut rig, k) = Rig::with(DGRAM, MuxOptions::default(), options);
    let p = rig.attach();
    rig.effects();
    rig.unattach(p).unwrap();
    let effects = rig.effects();
    assert!(effects.contains(&Effect::Readable { kcm: k, messages: usize::MAX }), "{effects:?}");
    assert!(effects.contains(&Effect::Event(PsockEvent::NoneLeft)));
}

#[test]
fn a_batch_is_taken_whole_or_up_to_a_number() {
    let (mut rig, k) = Rig::new(DGRAM);
    let p = rig.attach();
    let _ = rig.deliver(p, &["a", "b", "c"]);
    let _ = rig.deliver(p, &["d"]);
    assert_eq!(rig.mux.recv_batch(k, 2, &mut rig.fx).unwrap(), batch(p, &["a", "b"]));
    assert_eq!(rig.mux.recv_batch(k, 9, &mut rig.fx).unwrap(), batch(p, &["c"]));
    let _ = rig.deliver(p, &["e"]);
    let mut many = Vec::new();
    assert_eq!(rig.mux.recv_many(k, 9, &mut many, &mut rig.fx), Ok(2));
    assert_eq!(many.iter().map(|m| m.to_vec()).collect::<Vec<_>>(), [b"d", b"e"]);
    rig.check_sums();
}

#[test]
fn what_is_lent_counts_as_unread_until_it_is_settled() {
    let options = KcmOptions { recv_buffer: 3, recv_low_water: Some(1), ..KcmOptions::default() };
    let (mut rig, k) = Rig::with(DGRAM, MuxOptions::default(), options);
    let p = rig.attach();
    assert_eq!(rig.deliver(p, &["a", "b", "c", "d"]), Delivery::Parked);
    let mut lent = rig.mux.lend(k, 9, &mut rig.fx).unwrap();
    assert_eq!(rig.mux.kcm_stats(k).unwrap().recv_queued_msgs, 3);
    assert_eq!(rig.recv(k), None);
    rig.check_sums();
    lent.pop();
    rig.mux.settle(k, 1, 1, &mut rig.fx);
    rig.check_sums();
    // Disabled: what is left goes back first, and moves with the rest.
    rig.mux.give_back(k, lent, &mut rig.fx);
    let k2 = rig.clone_kcm(k);
    rig.disable(k, true);
    assert_eq!(rig.recv_all(k2).concat(), "bcd");
    rig.check_sums();
}

#[test]
fn what_is_given_back_late_finds_another_socket() {
    for gone in [false, true] {
        let (mut rig, k) = Rig::new(DGRAM);
        let k2 = rig.clone_kcm(k);
        let p = rig.attach();
        let _ = rig.deliver(p, &["a", "b"]);
        let _ = rig.deliver(p, &["c"]);
        let mut lent = rig.mux.lend(k, 9, &mut rig.fx).unwrap();
        if gone {
            assert!(rig.close(k, Close::Now));
        } else {
            rig.disable(k, true);
        }
        rig.check_sums();
        lent.pop();
        rig.mux.settle(k, 1, 1, &mut rig.fx);
        rig.mux.give_back(k, lent, &mut rig.fx);
        assert_eq!(rig.recv_all(k2).concat(), "bc", "at its place in the order");
        rig.check_sums();
    }
}

#[test]
fn a_reader_that_does_not_stop_loses_nothing() {
    let (mut rig, k) = Rig::with(DGRAM, MuxOptions::default(), small(1));
    let p = rig.attach();
    for n in 0..5 {
        let _ = rig.deliver(p, &[&n.to_string()]);
    }
    assert_eq!(rig.recv_all(k).concat(), "01234");
    rig.check_sums();
}

#[test]
fn row_18_each_message_is_read_once_while_the_socket_is_disabled_and_enabled() {
    let (mut rig, k) = Rig::new(DGRAM);
    let k2 = rig.clone_kcm(k);
    let p = rig.attach();
    let mut got = Vec::new();
    for n in 0..300 {
        let _ = rig.deliver(p, &[&format!("{n}a"), &format!("{n}b")]);
        rig.disable(k, n % 3 == 0);
        rig.disable(k2, n % 5 == 0);
        got.extend(rig.recv(k));
        rig.disable(k, n % 2 == 0);
        got.extend(rig.recv(k2));
    }
    rig.disable(k, false);
    rig.disable(k2, false);
    got.extend(rig.recv_all(k));
    got.extend(rig.recv_all(k2));
    got.sort();
    let mut all: Vec<String> = (0..300).flat_map(|n| [format!("{n}a"), format!("{n}b")]).collect();
    all.sort();
    assert_eq!(got, all);
    rig.check_sums();
}

#[test]
fn batches_are_counted_by_number_and_size() {
    let (mut rig, _) = Rig::new(DGRAM);
    let p = rig.attach();
    let _ = rig.deliver(p, &["a", "b", "c"]);
    let _ = rig.deliver(p, &["d"]);
    let stats = rig.mux.psock_stats(p).unwrap();
    assert_eq!((stats.rx_msgs, stats.rx_batches, stats.rx_batch_max), (4, 2, 3));
    assert_eq!(rig.mux.stats().psocks.rx_batches, 2);
}
