//! Semantics D (send).

use super::*;

#[test]
fn d1_a_datagram_ends_with_the_first_call_without_more() {
    let (mut rig, k) = Rig::new(DGRAM);
    let p = rig.attach();
    rig.send(k, "a", MORE).unwrap();
    rig.send(k, "b", MORE | EOR).unwrap();
    rig.run();
    assert_eq!(rig.wire(p), "", "EOR is ignored");
    rig.send(k, "c", NONE).unwrap();
    rig.run();
    assert_eq!(rig.wire(p), "abc");
    assert_eq!(rig.mux.kcm_stats(k).unwrap().tx_msgs, 1);
}

#[test]
fn d2_a_seqpacket_message_ends_only_with_eor() {
    let (mut rig, k) = Rig::new(SEQ);
    let p = rig.attach();
    rig.send(k, "a", NONE).unwrap();
    rig.send(k, "b", MORE).unwrap();
    rig.run();
    assert_eq!(rig.wire(p), "");
    rig.send(k, "c", EOR | MORE).unwrap();
    rig.run();
    assert_eq!(rig.wire(p), "abc");
}

#[test]
fn d3_rows_4_20_no_bytes_end_an_open_message_and_else_are_nothing() {
    for (kind, end) in [(DGRAM, NONE), (SEQ, EOR)] {
        let (mut rig, k) = Rig::new(kind);
        let p = rig.attach();
        for flags in [NONE, MORE, EOR, BATCH, MORE | BATCH, EOR | BATCH] {
            assert_eq!(rig.send(k, "", flags), Ok(0));
        }
        rig.run();
        let before = rig.mux.psock_stats(p).unwrap();
        assert_eq!((before.reserved, before.tx_msgs), (0, 0), "no connection is touched");
        rig.send(k, "open", MORE).unwrap();
        rig.send(k, "", MORE).unwrap();
        rig.run();
        assert_eq!(rig.wire(p), "");
        assert_eq!(rig.send(k, "", end), Ok(0));
        rig.run();
        assert_eq!(rig.wire(p), "open");
        assert_eq!(rig.mux.kcm_stats(k).unwrap().tx_msgs, 1, "there are no empty messages");
    }
}

#[test]
fn d3_no_bytes_wait_for_room_like_any_send() {
    let options = KcmOptions { send_buffer: 1, ..KcmOptions::default() };
    let (mut rig, k) = Rig::with(DGRAM, MuxOptions::default(), options);
    rig.send(k, "x", NONE).unwrap();
    assert_eq!(rig.send(k, "", NONE), Err(SendError::WouldBlock));
}

#[test]
fn d9_d10_d11_messages_queue_without_a_connection_until_the_buffer_is_full() {
    let options = KcmOptions { send_buffer: 10, ..KcmOptions::default() };
    let (mut rig, k) = Rig::with(DGRAM, MuxOptions::default(), options);
    rig.send(k, "123456789", NONE).unwrap();
    // Below the limit, hence taken whole, whatever its size.
    let big = "x".repeat(8 << 20);
    assert_eq!(rig.send(k, &big, NONE), Ok(8 << 20));
    assert!(!rig.mux.is_writable(k));
    assert_eq!(rig.send(k, "y", NONE), Err(SendError::WouldBlock));
    rig.effects();
    let p = rig.attach();
    rig.run();
    assert!(rig.effects().contains(&Effect::Writable { kcm: k }), "blocked senders are woken");
    assert_eq!(rig.wire(p).len(), 9 + (8 << 20));
    rig.check_sums();
}

#[test]
fn d12_j5_row_69_writable_means_that_a_send_would_be_admitted() {
    let options = KcmOptions { send_buffer: 4, ..KcmOptions::default() };
    let (mut rig, k) = Rig::with(DGRAM, MuxOptions::default(), options);
    let p = rig.attach_with(PsockOptions::default(), 0);
    for text in ["abc", "d", "e"] {
        let writable = rig.mux.is_writable(k);
        assert_eq!(rig.send(k, text, NONE).is_ok(), writable);
        rig.run();
    }
    assert!(!rig.mux.is_writable(k));
    rig.effects();
    rig.open(p, 2);
    rig.run();
    assert!(
        rig.effects().iter().all(|e| !matches!(e, Effect::Writable { .. })),
        "a part of a message frees nothing"
    );
    rig.open(p, 1);
    rig.run();
    assert!(rig.effects().contains(&Effect::Writable { kcm: k }));
    assert!(rig.mux.is_writable(k));
}

#[test]
fn d13_batched_messages_wait_for_a_push_and_leave_together() {
    for how in ["send", "empty", "flush", "pressure"] {
        let options = KcmOptions { send_buffer: 4, ..KcmOptions::default() };
        let (mut rig, k) = Rig::with(DGRAM, MuxOptions::default(), options);
        let [p, q] = [rig.attach(), rig.attach()];
        rig.send(k, "1", BATCH).unwrap();
        rig.send(k, "2", BATCH).unwrap();
        rig.run();
        assert_eq!(rig.wire(p), "");
        assert!(rig.mux.proc_net_kcm().contains("WMore"));
        let expect = match how {
            "send" => {
                rig.send(k, "3", NONE).unwrap();
                "123"
            }
            "empty" => {
                rig.send(k, "", NONE).unwrap();
                "12"
            }
            "flush" => {
                rig.mux.flush(k, &mut rig.fx).unwrap();
                "12"
            }
            _ => {
                rig.send(k, "345", BATCH).unwrap();
                "12345"
            }
        };
        rig.run();
        assert_eq!((rig.wire(p), rig.wire(q)), (expect, ""), "{how}");
        assert_eq!(rig.mux.psock_stats(p).unwrap().reserved, 1);
    }
}

#[test]
fn d13_batched_messages_never_pushed_are_dropped_and_counted_at_close() {
    let (mut rig, k) = Rig::new(DGRAM);
    let k2 = rig.clone_kcm(k);
    let p = rig.attach();
    rig.send(k, "1", BATCH).unwrap();
    assert!(rig.close(k, Close::Now));
    rig.send(k2, "2", NONE).unwrap();
    rig.run();
    assert_eq!(rig.wire(p), "2");
    assert_eq!(rig.mux.stats().tx_dropped_msgs, 1);
    rig.check_sums();
}

#[test]
fn d14_one_message_per_call_goes_round_the_idle_connections() {
    let (mut rig, k) = Rig::new(DGRAM);
    let psocks = [(); 3].map(|()| rig.attach());
    for n in 0..7 {
        rig.send(k, &n.to_string(), NONE).unwrap();
        rig.run();
    }
    assert_eq!(psocks.map(|p| rig.wire(p).to_owned()), ["036", "14", "25"]);
}

#[test]
fn d14_a_socket_keeps_its_connection_until_its_queue_is_empty() {
    let (mut rig, k) = Rig::new(DGRAM);
    let [p, q] = [rig.attach(), rig.attach()];
    for n in 0..4 {
        rig.send(k, &n.to_string(), NONE).unwrap();
    }
    rig.run();
    assert_eq!((rig.wire(p), rig.wire(q)), ("0123", ""));
    let stats = rig.mux.psock_stats(p).unwrap();
    assert_eq!((stats.reserved, stats.unreserved), (1, 1));
}

#[test]
fn d15a_a_socket_that_always_has_something_yields_after_its_turn() {
    for (turn, place) in [(Some(4000), 4000), (None, 12_000)] {
        let options = MuxOptions { tx_turn: turn, ..MuxOptions::default() };
        let (mut rig, k) = Rig::with(DGRAM, options, KcmOptions::default());
        let k2 = rig.clone_kcm(k);
        let p = rig.attach();
        // Large enough for a slice, and so a write, of its own.
        rig.bufs = 1;
        let large = Bytes::from("a".repeat(2000));
        for _ in 0..6 {
            rig.mux.send(k, large.clone().into(), NONE, &mut rig.fx).unwrap();
        }
        rig.send(k2, "b", NONE).unwrap();
        rig.run();
        assert_eq!(rig.wire(p).find('b'), Some(place));
        assert_eq!(rig.wire(p).len(), 12_001);
    }
}

#[test]
fn d15b_j8_a_message_of_which_nothing_is_out_leaves_a_stuck_connection() {
    let (mut rig, k) = Rig::new(DGRAM);
    let stuck = rig.attach_with(PsockOptions::default(), 0);
    let good = rig.attach();
    rig.send(k, "one", NONE).unwrap();
    rig.run();
    assert_eq!((rig.wire(stuck), rig.wire(good)), ("", "one"));
    for n in 0..3 {
        rig.send(k, &n.to_string(), NONE).unwrap();
        rig.run();
    }
    assert_eq!(rig.wire(good), "one012", "a stuck connection is not idle");
    rig.open(stuck, 100);
    rig.send(k, "x", NONE).unwrap();
    rig.send(k, "y", NONE).unwrap();
    rig.run();
    rig.send(k, "z", NONE).unwrap();
    rig.run();
    assert_eq!(rig.wire(stuck), "z", "it is when it can take bytes again, last in line");
}

#[test]
fn j8_with_no_other_connection_the_message_waits_at_the_head_of_the_line() {
    let (mut rig, k) = Rig::new(DGRAM);
    let k2 = rig.clone_kcm(k);
    let p = rig.attach_with(PsockOptions::default(), 0);
    rig.send(k, "first", NONE).unwrap();
    rig.run();
    rig.send(k2, "second", NONE).unwrap();
    rig.run();
    rig.open(p, 100);
    rig.run();
    assert_eq!(rig.wire(p), "firstsecond");
    // Or takes a connection that comes.
    let (mut rig, k) = Rig::new(DGRAM);
    rig.attach_with(PsockOptions::default(), 0);
    rig.send(k, "m", NONE).unwrap();
    rig.run();
    let fresh = rig.attach();
    rig.run();
    assert_eq!(rig.wire(fresh), "m");
}

#[test]
fn j8_a_begun_message_stays_until_the_stall_deadline_and_then_is_sent_whole_elsewhere() {
    let options =
        MuxOptions { stall_deadline: Some(Duration::from_secs(5)), ..MuxOptions::default() };
    let (mut rig, k) = Rig::with(DGRAM, options, KcmOptions::default());
    let p = rig.attach_with(PsockOptions::default(), 3);
    let q = rig.attach();
    rig.send(k, "message", NONE).unwrap();
    rig.run();
    assert_eq!((rig.wire(p), rig.wire(q)), ("mes", ""), "never in two places by itself");
    let due = rig.mux.tx_deadline(p).unwrap();
    assert_eq!(due, rig.now + Duration::from_secs(5));
    // Progress starts the deadline anew.
    rig.now += Duration::from_secs(3);
    rig.open(p, 1);
    rig.run();
    assert_eq!(rig.mux.tx_deadline(p), Some(rig.now + Duration::from_secs(5)));
    rig.mux.on_tx_deadline(p, rig.now, &mut rig.fx);
    rig.run();
    assert_eq!(rig.mux.psock_error(p), None, "early calls do nothing");
    rig.now += Duration::from_secs(5);
    rig.mux.on_tx_deadline(p, rig.now, &mut rig.fx);
    rig.run();
    assert_eq!(rig.mux.psock_error(p), Some(&PsockError::Stalled));
    assert_eq!(rig.wire(q), "message");
    assert_eq!(rig.mux.stats().tx_retries, 1);
    rig.check_sums();
}

#[test]
fn d16_nothing_gets_between_the_bytes_of_a_message() {
    let (mut rig, k) = Rig::new(DGRAM);
    let k2 = rig.clone_kcm(k);
    let p = rig.attach_with(PsockOptions::default(), 0);
    rig.send(k, "aaaa", NONE).unwrap();
    rig.open(p, 2);
    rig.run();
    rig.send(k2, "bbbb", NONE).unwrap();
    rig.send_to(k2, p, "cccc").unwrap();
    for _ in 0..20 {
        rig.open(p, 1);
        rig.run();
    }
    let wire = rig.wire(p).to_owned();
    assert!(wire.starts_with("aaaa"), "{wire}");
    assert!(wire == "aaaabbbbcccc" || wire == "aaaaccccbbbb", "{wire}");
}

#[test]
fn d18_a_failed_write_sends_the_message_again_whole_on_the_next_connection() {
    let (mut rig, k) = Rig::new(DGRAM);
    let p = rig.attach_with(PsockOptions::default(), 5);
    let q = rig.attach();
    rig.send(k, "one", BATCH).unwrap();
    rig.send(k, "two", NONE).unwrap();
    rig.peers.get_mut(&p).unwrap().broken = true;
    rig.run();
    // "one" was out whole: it is not sent again.
    assert_eq!((rig.wire(p), rig.wire(q)), ("onetw", "two"));
    let stats = rig.mux.stats();
    assert_eq!((stats.tx_retries, stats.tx_msgs, stats.tx_bytes), (1, 2, 8));
    assert_eq!(rig.mux.psock_stats(p).unwrap().tx_aborts, 1);
    assert_eq!(rig.mux.psock_error(p), Some(&PsockError::Reset));
    rig.check_sums();
}

#[test]
fn d18_with_no_connection_left_the_message_waits_for_one() {
    let (mut rig, k) = Rig::new(DGRAM);
    let p = rig.attach_with(PsockOptions::default(), 2);
    rig.peers.get_mut(&p).unwrap().broken = true;
    assert_eq!(rig.send(k, "whole", NONE), Ok(5), "the caller's send succeeds");
    rig.run();
    let q = rig.attach();
    rig.run();
    assert_eq!(rig.wire(q), "whole");
}

#[test]
fn d21_a_connection_that_failed_in_sending_still_delivers_what_came() {
    let (mut rig, k) = Rig::new(DGRAM);
    let p = rig.attach();
    rig.peers.get_mut(&p).unwrap().broken = true;
    rig.send(k, "x", NONE).unwrap();
    rig.run();
    assert!(rig.effects().contains(&Effect::StopRx { psock: p }));
    assert_eq!(rig.deliver(p, &["late"]), Delivery::Taken);
    rig.mux.rx_end(p, PsockError::Eof, &mut rig.fx);
    assert_eq!(rig.recv_all(k), ["late"]);
    assert_eq!(rig.mux.psock_error(p), Some(&PsockError::Reset), "the first cause stays");
    assert!(matches!(rig.deliver(p, &["more"]), Delivery::Refused(_)));
}

#[test]
fn a27_an_attached_connection_serves_the_sockets_in_the_order_they_queued() {
    let (mut rig, a) = Rig::new(DGRAM);
    let b = rig.clone_kcm(a);
    let c = rig.clone_kcm(a);
    for (k, text) in [(b, "b1"), (a, "a1"), (c, "c1"), (b, "b2"), (a, "a2"), (c, "c2")] {
        rig.send(k, text, NONE).unwrap();
    }
    let p = rig.attach();
    rig.run();
    assert_eq!(rig.wire(p), "b1b2a1a2c1c2");
}

#[test]
fn rows_3_13_an_open_message_survives_a_refused_part_and_is_dropped_at_close() {
    let options = KcmOptions { send_buffer: 2, ..KcmOptions::default() };
    let (mut rig, k) = Rig::with(DGRAM, MuxOptions::default(), options);
    let k2 = rig.clone_kcm(k);
    rig.send(k, "xx", NONE).unwrap();
    assert_eq!(rig.send(k, "part", MORE), Err(SendError::WouldBlock));
    let p = rig.attach();
    rig.run();
    rig.send(k, "part", MORE).unwrap();
    assert!(rig.close(k, Close::Now));
    rig.send(k2, "y", NONE).unwrap();
    rig.run();
    assert_eq!(rig.wire(p), "xxy");
    rig.check_sums();
}

#[test]
fn many_small_messages_leave_in_one_slice() {
    let (mut rig, k) = Rig::new(DGRAM);
    let p = rig.attach_with(PsockOptions::default(), 0);
    for n in 0..500 {
        rig.send(k, &format!("{n:04}"), NONE).unwrap();
    }
    rig.peers.get_mut(&p).unwrap().space = WIDE;
    assert!(rig.begin(p));
    assert!(rig.work.bufs.len() <= 2, "{}", rig.work.bufs.len());
    assert_eq!(rig.work.bytes, 2000);
    rig.finish(p);
    rig.run();
}

#[test]
fn messages_for_one_connection_keep_their_order_and_go_nowhere_else() {
    let (mut rig, k) = Rig::new(DGRAM);
    let [p, q] = [rig.attach(), rig.attach()];
    for n in 0..5 {
        rig.send_to(k, q, &n.to_string()).unwrap();
    }
    assert_eq!(rig.send_to(k, q, ""), Ok(0));
    rig.run();
    assert_eq!((rig.wire(p), rig.wire(q)), ("", "01234"));
    let stats = rig.mux.psock_stats(q).unwrap();
    assert_eq!((stats.reserved, stats.tx_msgs), (0, 5));
    assert!(rig.mux.is_flushed(k));
    rig.check_sums();
}

#[test]
fn a_connection_with_traffic_of_its_own_still_serves_the_sockets_in_line() {
    let (mut rig, k) = Rig::new(DGRAM);
    let p = rig.attach_with(PsockOptions::default(), 0);
    rig.bytes = 1;
    for _ in 0..3 {
        rig.send_to(k, p, "own.").unwrap();
    }
    rig.send(k, "any.", NONE).unwrap();
    rig.run();
    rig.open(p, 100);
    rig.run();
    assert_eq!(rig.wire(p).len(), 16);
    assert!(rig.wire(p).contains("any."));
}

#[test]
fn an_address_that_is_dead_or_gone_is_refused_with_the_cause() {
    let (mut rig, k) = Rig::new(DGRAM);
    let p = rig.attach();
    rig.mux.rx_end(p, PsockError::Reset, &mut rig.fx);
    assert_eq!(rig.send_to(k, p, "x"), Err(SendError::Psock(PsockError::Reset)));
    rig.unattach(p).unwrap();
    assert_eq!(rig.send_to(k, p, "x"), Err(SendError::NoSuchPsock(p)));
    let again = rig.attach();
    assert_eq!(again.index(), p.index());
    assert_eq!(rig.send_to(k, p, "x"), Err(SendError::NoSuchPsock(p)), "an old id names nobody");
    rig.check_sums();
}

#[test]
fn messages_for_a_connection_that_fails_are_dropped_counted_and_told() {
    let options = KcmOptions { send_buffer: 4, ..KcmOptions::default() };
    let (mut rig, k) = Rig::with(DGRAM, MuxOptions::default(), options);
    let p = rig.attach_with(PsockOptions::default(), 1);
    rig.send_to(k, p, "aa").unwrap();
    rig.send_to(k, p, "bb").unwrap();
    assert_eq!(
        rig.send_to(k, p, "cc"),
        Err(SendError::WouldBlock),
        "the send buffer is one for both ways"
    );
    rig.run();
    rig.effects();
    rig.mux.rx_end(p, PsockError::Reset, &mut rig.fx);
    let effects = rig.effects();
    assert!(effects.contains(&Effect::Event(PsockEvent::Failed {
        psock: p,
        cause: PsockError::Reset,
        unsent: 2
    })));
    assert!(effects.contains(&Effect::Writable { kcm: k }));
    assert_eq!(rig.mux.kcm_stats(k).unwrap().tx_dropped_msgs, 2);
    rig.check_sums();
}

#[test]
fn b26_a_half_closed_connection_still_sends() {
    let (mut rig, k) = Rig::new(DGRAM);
    let p = rig.attach_with(PsockOptions { half_close: true }, WIDE);
    rig.mux.rx_end(p, PsockError::Eof, &mut rig.fx);
    assert!(rig.events().contains(&PsockEvent::HalfClosed { psock: p }));
    rig.send(k, "out", NONE).unwrap();
    rig.run();
    assert_eq!(rig.wire(p), "out");
    assert_eq!(rig.mux.usable_psocks(), 1);
    // An end that is not clean is a failure all the same.
    let q = rig.attach_with(PsockOptions { half_close: true }, WIDE);
    rig.mux.rx_end(q, PsockError::EofMidMessage { have: 1, need: None }, &mut rig.fx);
    assert!(rig.mux.psock_error(q).is_some());
}

#[test]
fn row_23_a_refused_datagram_leaves_nothing_behind() {
    let options = KcmOptions { send_buffer: 1, ..KcmOptions::default() };
    let (mut rig, k) = Rig::with(DGRAM, MuxOptions::default(), options);
    rig.send(k, "first", NONE).unwrap();
    assert_eq!(rig.send(k, "refused", NONE), Err(SendError::WouldBlock));
    let p = rig.attach();
    rig.run();
    rig.send(k, "next", NONE).unwrap();
    rig.run();
    assert_eq!(rig.wire(p), "firstnext");
}

#[test]
fn d4_row_25_an_open_message_belongs_to_the_socket_whoever_goes_on_with_it() {
    let options = KcmOptions { send_buffer: 4, ..KcmOptions::default() };
    let (mut rig, k) = Rig::with(DGRAM, MuxOptions::default(), options);
    let k2 = rig.clone_kcm(k);
    rig.send(k, "one caller, ", MORE).unwrap();
    rig.send(k, "another caller, ", NONE).unwrap();
    // The first, woken late, finds the buffer full; what it adds then begins a new message.
    assert_eq!(rig.send(k, "late", MORE), Err(SendError::WouldBlock));
    let p = rig.attach();
    rig.run();
    rig.send(k, "late", MORE).unwrap();
    assert!(rig.close(k, Close::Now));
    rig.send(k2, "clean", NONE).unwrap();
    rig.run();
    assert_eq!(rig.wire(p), "one caller, another caller, clean");
    rig.check_sums();
}

#[test]
fn whole_messages_in_one_call_are_taken_as_one_by_one() {
    // Around every limit: what is queued before, what is open, and each end.
    for (buffer, before, open) in (1..30).flat_map(|b| [(b, "", ""), (b, "12", ""), (b, "", "ab")])
    {
        for flags in [EOR, EOR | BATCH] {
            let options = KcmOptions { send_buffer: buffer, ..KcmOptions::default() };
            let rig = || {
                let (mut rig, k) = Rig::with(SEQ, MuxOptions::default(), options);
                rig.send(k, before, EOR).unwrap();
                let _ = rig.send(k, open, NONE);
                (rig, k)
            };
            let texts = ["one", "three", "f", "seventeen", "nine"];
            let (mut singly, k) = rig();
            let one_by_one: Vec<_> = texts.iter().map(|t| singly.send(k, t, flags)).collect();
            let taken = one_by_one.iter().take_while(|r| r.is_ok()).count();

            let (mut together, k) = rig();
            let data = texts.concat();
            let ends: Vec<u32> =
                (1..=texts.len()).map(|n| texts[..n].concat().len() as u32).collect();
            let sent = together.mux.send_whole(k, data.as_bytes(), &ends, flags, &mut together.fx);
            together.settle();
            match taken {
                0 => assert_eq!(sent, Err(SendError::WouldBlock)),
                _ => assert_eq!(sent, Ok(taken), "{buffer} {before} {open}"),
            }
            let stats = |rig: &Rig| rig.mux.kcm_stats(k).unwrap();
            let (a, b) = (stats(&singly), stats(&together));
            assert_eq!((a.tx_msgs, a.tx_bytes), (b.tx_msgs, b.tx_bytes));
            let (p, q) = (singly.attach(), together.attach());
            singly.run();
            together.run();
            let wire = singly.wire(p);
            assert_eq!(wire, together.wire(q), "also whether it was pushed");
            if flags == EOR && taken > 0 {
                assert!(wire.starts_with(&format!("{before}{open}one")), "{wire}");
            }
        }
    }
}
