//! Semantics A (create, clone, attach, unattach, close) and F (errors), G (texts).

use super::*;

#[test]
fn a5_a_fresh_socket_is_writable_and_not_readable() {
    for kind in [DGRAM, SEQ] {
        let (rig, k) = Rig::new(kind);
        assert!(rig.mux.is_writable(k) && !rig.mux.is_readable(k));
        assert_eq!(rig.mux.kind(), kind);
    }
}

#[test]
fn a4_buffers_begin_as_the_systems_do() {
    let (rig, k) = Rig::new(SEQ);
    let options = rig.mux.options(k).unwrap();
    assert_eq!((options.recv_buffer, options.send_buffer), (212_992, 212_992));
    assert_eq!((options.recv_low_water, options.end_with_psocks), (None, false));
    assert_eq!(rig.mux.kcms.at(k.index).unwrap().low_water(), 106_496, "half of it (J15)");
}

#[test]
fn a7_row_31_a_clone_has_its_parents_buffers_but_not_its_receive_disable() {
    let options = KcmOptions {
        recv_buffer: 77,
        send_buffer: 88,
        recv_low_water: Some(9),
        end_with_psocks: true,
    };
    let (mut rig, k) = Rig::with(DGRAM, MuxOptions::default(), options);
    rig.disable(k, true);
    let clone = rig.clone_kcm(k);
    assert_eq!(rig.mux.options(clone), Ok(options));
    assert_eq!(rig.mux.recv_disabled(clone), Ok(false));
}

#[test]
fn a9_a_clone_takes_held_and_parked_messages_at_once() {
    let (mut rig, k) = Rig::new(DGRAM);
    let p = rig.attach();
    let _ = rig.deliver(p, &["held"]);
    rig.disable(k, true);
    let _ = rig.deliver(p, &["parked"]);
    let clone = rig.clone_kcm(k);
    assert_eq!(rig.recv_all(clone), ["held", "parked"]);
}

#[test]
fn a11_the_lowest_free_index_is_used_and_an_old_id_names_nobody() {
    let (mut rig, _) = Rig::new(DGRAM);
    let [a, b, c] = [(); 3].map(|()| rig.attach());
    assert_eq!([a, b, c].map(PsockId::index), [0, 1, 2]);
    rig.unattach(b).unwrap();
    let again = rig.attach();
    assert_eq!(again.index(), 1);
    assert_ne!(again, b);
    assert!(matches!(rig.deliver(b, &["stale"]), Delivery::Refused(_)));
    assert_eq!(rig.mux.psock_stats(b), None);
}

#[test]
fn a34_what_is_not_attached_cannot_be_unattached() {
    let (mut rig, _) = Rig::new(DGRAM);
    let p = rig.attach();
    rig.unattach(p).unwrap();
    let again = rig.unattach(p);
    assert_eq!(again, Err(SocketError::NotAttached(p)));
    assert_eq!(again.unwrap_err().errno(), 2);
}

#[test]
fn a34_unattaching_what_is_being_unattached_is_refused() {
    let (mut rig, k) = Rig::new(DGRAM);
    let p = rig.attach();
    rig.send(k, "x", NONE).unwrap();
    assert!(rig.begin(p));
    rig.unattach(p).unwrap();
    let again = rig.unattach(p);
    assert_eq!(again, Err(SocketError::Detaching(p)));
    assert_eq!(again.unwrap_err().errno(), 114);
    assert_eq!(rig.leftover(), None, "not while the write is under way");
    rig.finish(p);
    rig.run();
    let left = rig.leftover().unwrap();
    assert!(!left.desynchronised);
    assert!(rig.mux.is_flushed(k), "the message is out: it is not sent again");
    rig.check_sums();
}

#[test]
fn a36_j17_parked_messages_come_back_and_queued_ones_stay() {
    let (mut rig, k) = Rig::with(DGRAM, MuxOptions::default(), small(1));
    let p = rig.attach();
    let _ = rig.deliver(p, &["queued", "parked"]);
    rig.unattach(p).unwrap();
    let left = rig.leftover().unwrap();
    assert_eq!(left.parked, [batch(p, &["parked"])]);
    assert_eq!(rig.recv_all(k), ["queued"]);
    assert_eq!(rig.mux.stats().rx_ready_drops, 0);
    rig.check_sums();
}

#[test]
fn a37_j11_unattaching_inside_a_message_sends_it_again_and_marks_the_stream() {
    let (mut rig, k) = Rig::new(DGRAM);
    let p = rig.attach_with(PsockOptions::default(), 3);
    rig.send(k, "whole", NONE).unwrap();
    rig.run();
    rig.unattach(p).unwrap();
    assert!(rig.leftover().unwrap().desynchronised);
    assert_eq!(rig.mux.stats().unattach_rsvd, 1);
    let q = rig.attach();
    rig.run();
    assert_eq!((rig.wire(p), rig.wire(q)), ("who", "whole"));
    // Between messages the stream is in order.
    rig.unattach(q).unwrap();
    assert!(!rig.leftover().unwrap().desynchronised);
    rig.check_sums();
}

#[test]
fn j11_a_stream_that_failed_inside_a_message_stays_marked() {
    let (mut rig, k) = Rig::new(DGRAM);
    let p = rig.attach_with(PsockOptions::default(), 3);
    rig.send_to(k, p, "whole").unwrap();
    rig.run();
    rig.mux.rx_end(p, PsockError::Parser(5), &mut rig.fx);
    rig.unattach(p).unwrap();
    let left = rig.leftover().unwrap();
    assert!(left.desynchronised);
    assert_eq!(left.cause, Some(PsockError::Parser(5)));
}

#[test]
fn a40_attaching_and_unattaching_many_times_leaves_nothing_behind() {
    let (mut rig, _) = Rig::new(DGRAM);
    for _ in 0..2000 {
        let p = rig.attach();
        assert_eq!(p.index(), 0);
        rig.unattach(p).unwrap();
        rig.effects();
        rig.peers.clear();
    }
    let stats = rig.mux.stats();
    assert_eq!((stats.attach, stats.unattach), (2000, 2000));
    assert_eq!(rig.mux.psocks().count(), 0);
}

#[test]
fn a41_row_10_the_unread_messages_of_a_closed_socket_move_in_order() {
    let (mut rig, a) = Rig::new(DGRAM);
    let b = rig.clone_kcm(a);
    let p = rig.attach();
    for n in 0..6 {
        let _ = rig.deliver(p, &[&n.to_string()]);
    }
    assert!(rig.close(a, Close::Now));
    assert_eq!(rig.recv_all(b).concat(), "012345");
    assert_eq!(rig.mux.recv(a, &mut rig.fx), Err(RecvError::Closed));
    assert_eq!(rig.send(a, "x", NONE), Err(SendError::Closed));
    assert_eq!(rig.mux.clone_kcm(a, &mut rig.fx), Err(SocketError::Closed));
    rig.check_sums();
}

#[test]
fn a43_j9_row_71_closing_a_socket_lets_the_begun_message_finish_and_harms_nobody() {
    let (mut rig, k) = Rig::new(DGRAM);
    let k2 = rig.clone_kcm(k);
    let p = rig.attach_with(PsockOptions::default(), 2);
    rig.send(k, "begun", BATCH).unwrap();
    rig.send(k, "not begun", NONE).unwrap();
    rig.run();
    assert!(!rig.close(k, Close::Now), "one message is out in part");
    assert_eq!(rig.mux.stats().tx_dropped_msgs, 1);
    rig.send(k2, "next", NONE).unwrap();
    rig.effects();
    rig.open(p, 100);
    rig.run();
    assert_eq!(rig.wire(p), "begunnext");
    assert!(rig.effects().contains(&Effect::Closed { kcm: k }));
    assert_eq!(rig.mux.psock_error(p), None);
    rig.check_sums();
}

#[test]
fn j9_row_15_a_close_during_a_write_decides_when_the_write_reports() {
    for (space, wire, dropped) in
        [(0, "", 2), (2, "begun", 1), (5, "begun", 1), (9, "begunsecond", 0)]
    {
        let (mut rig, k) = Rig::new(DGRAM);
        rig.clone_kcm(k);
        let p = rig.attach_with(PsockOptions::default(), space);
        rig.send(k, "begun", BATCH).unwrap();
        rig.send(k, "second", NONE).unwrap();
        assert!(rig.begin(p));
        assert!(!rig.close(k, Close::Now));
        rig.finish(p);
        rig.open(p, 100);
        rig.run();
        assert_eq!(rig.wire(p), wire, "space {space}");
        assert_eq!(rig.mux.stats().tx_dropped_msgs, dropped);
        assert!(rig.effects().contains(&Effect::Closed { kcm: k }));
        rig.check_sums();
    }
}

#[test]
fn a42_a_draining_close_sends_everything_first() {
    let (mut rig, k) = Rig::new(DGRAM);
    rig.clone_kcm(k);
    rig.send(k, "1", NONE).unwrap();
    rig.send(k, "2", BATCH).unwrap();
    assert!(!rig.close(k, Close::Drain));
    let p = rig.attach();
    rig.run();
    assert_eq!(rig.wire(p), "12");
    assert!(rig.effects().contains(&Effect::Closed { kcm: k }));
    rig.check_sums();
}

#[test]
fn a_draining_close_can_be_cut_short() {
    let (mut rig, k) = Rig::new(DGRAM);
    rig.clone_kcm(k);
    rig.send(k, "1", NONE).unwrap();
    assert!(!rig.close(k, Close::Drain));
    assert_eq!(rig.mux.close(k, Close::Drain, &mut rig.fx), Err(SocketError::Closed));
    assert!(rig.close(k, Close::Now));
    assert_eq!(rig.mux.close(k, Close::Now, &mut rig.fx), Err(SocketError::Closed));
    rig.check_sums();
}

#[test]
fn j9_a_closing_socket_whose_connection_dies_retries_elsewhere_or_gives_up() {
    for other in [true, false] {
        let (mut rig, k) = Rig::new(DGRAM);
        rig.clone_kcm(k);
        let p = rig.attach_with(PsockOptions::default(), 2);
        let q = other.then(|| rig.attach());
        rig.send(k, "begun", NONE).unwrap();
        rig.run();
        assert!(!rig.close(k, Close::Now));
        rig.mux.rx_end(p, PsockError::Reset, &mut rig.fx);
        rig.run();
        assert!(rig.effects().contains(&Effect::Closed { kcm: k }));
        if let Some(q) = q {
            assert_eq!(rig.wire(q), "begun");
        }
        assert_eq!(rig.mux.stats().tx_dropped_msgs, u64::from(!other));
        rig.check_sums();
    }
}

#[test]
fn row_26_unattach_and_close_in_either_order_around_a_write() {
    for unattach_first in [true, false] {
        for report_between in [true, false] {
            let (mut rig, k) = Rig::new(DGRAM);
            rig.clone_kcm(k);
            let p = rig.attach_with(PsockOptions::default(), 2);
            rig.send(k, "message", NONE).unwrap();
            assert!(rig.begin(p));
            for step in [unattach_first, !unattach_first] {
                if step {
                    let _ = rig.mux.unattach(p, &mut rig.fx);
                } else {
                    let _ = rig.mux.close(k, Close::Now, &mut rig.fx);
                }
                if report_between && rig.peers[&p].start {
                    rig.finish(p);
                }
            }
            if rig.peers[&p].start {
                rig.finish(p);
            }
            rig.run();
            assert!(rig.leftover().unwrap().desynchronised);
            assert_eq!(rig.mux.psocks().count(), 0);
            assert_eq!(rig.mux.kcms().count(), 1);
            assert_eq!(rig.mux.stats().tx_dropped_msgs, 1);
            rig.check_sums();
        }
    }
}

#[test]
fn a45_with_the_last_socket_every_connection_leaves_and_the_rest_is_counted() {
    let (mut rig, k) = Rig::with(DGRAM, MuxOptions::default(), small(1));
    let [p, q] = [rig.attach(), rig.attach()];
    let _ = rig.deliver(p, &["unread", "parked"]);
    rig.send(k, "x", NONE).unwrap();
    assert!(rig.begin(p));
    rig.effects();
    assert!(!rig.close(k, Close::Now));
    rig.finish(p);
    rig.run();
    let effects = rig.effects();
    let left: Vec<&Leftover> = effects
        .iter()
        .filter_map(|e| match e {
            Effect::Detached(left) => Some(left),
            _ => None,
        })
        .collect();
    assert_eq!(left.iter().map(|l| l.psock).collect::<Vec<_>>(), [p, q]);
    assert_eq!(left[0].parked, [batch(p, &["parked"])]);
    assert!(effects.contains(&Effect::MuxClosed));
    assert!(rig.mux.is_closed());
    assert_eq!(rig.mux.stats().rx_ready_drops, 2);
    let attach = rig.mux.attach(PsockOptions::default(), &mut rig.fx);
    assert_eq!(attach.unwrap_err().errno(), 9);
    rig.check_sums();
}

#[test]
fn j12_f3_f4_the_first_cause_stays_and_is_told_once() {
    let (mut rig, _) = Rig::new(DGRAM);
    let p = rig.attach();
    rig.effects();
    rig.mux.rx_end(p, PsockError::Parser(5), &mut rig.fx);
    rig.mux.rx_end(p, PsockError::Eof, &mut rig.fx);
    rig.mux.tx_failed(p, PsockError::Reset, &mut rig.fx);
    assert_eq!(
        rig.events(),
        [
            PsockEvent::Failed { psock: p, cause: PsockError::Parser(5), unsent: 0 },
            PsockEvent::NoneLeft
        ]
    );
    for _ in 0..3 {
        assert_eq!(rig.mux.psock_error(p), Some(&PsockError::Parser(5)));
    }
}

#[test]
fn b13_j12_a_refused_stream_is_out_of_use_for_sending_too() {
    let (mut rig, k) = Rig::new(DGRAM);
    let p = rig.attach();
    rig.mux.rx_end(p, PsockError::Parser(5), &mut rig.fx);
    rig.send(k, "x", NONE).unwrap();
    rig.run();
    assert_eq!(rig.wire(p), "");
    let q = rig.attach();
    rig.run();
    assert_eq!(rig.wire(q), "x");
}

#[test]
fn f5_a_failed_connection_stays_listed_until_it_is_unattached() {
    let (mut rig, _) = Rig::new(DGRAM);
    let p = rig.attach();
    rig.mux.rx_end(p, PsockError::Reset, &mut rig.fx);
    assert!(rig.mux.is_attached(p));
    assert!(rig.mux.proc_net_kcm().contains("TxStop RxStop"));
    rig.unattach(p).unwrap();
    assert_eq!(rig.leftover().unwrap().cause, Some(PsockError::Reset));
}

#[test]
fn j12_messages_parked_on_a_connection_survive_its_failure() {
    let (mut rig, k) = Rig::with(DGRAM, MuxOptions::default(), small(1));
    let p = rig.attach();
    let _ = rig.deliver(p, &["a", "b", "c"]);
    rig.mux.rx_end(p, PsockError::Reset, &mut rig.fx);
    assert_eq!(rig.recv_all(k).concat(), "abc");
    let resumed = rig.effects().contains(&Effect::ResumeRx { psock: p });
    assert!(!resumed, "its reader is done");
}

#[test]
fn a_failure_during_a_write_waits_for_the_report_and_sends_nothing_twice() {
    for (space, retried) in [(2, true), (7, false)] {
        let (mut rig, k) = Rig::new(DGRAM);
        let p = rig.attach_with(PsockOptions::default(), space);
        let q = rig.attach();
        rig.send(k, "message", NONE).unwrap();
        assert!(rig.begin(p));
        rig.mux.rx_end(p, PsockError::Reset, &mut rig.fx);
        rig.settle();
        rig.finish(p);
        rig.run();
        assert_eq!(rig.wire(q), if retried { "message" } else { "" });
        assert_eq!(rig.mux.stats().tx_retries, u64::from(retried));
        rig.check_sums();
    }
}

#[test]
fn g4_proc_net_kcm_has_the_kernels_columns() {
    let (mut rig, k) = Rig::new(DGRAM);
    rig.clone_kcm(k);
    let p = rig.attach();
    for text in ["0", "11", "222"] {
        let _ = rig.deliver(p, &[text]);
    }
    rig.recv(k);
    rig.send(k, "out", NONE).unwrap();
    rig.run();
    let expect = "\
*** KCM statistics (1 MUX) ****

Object         RX-Msgs    RX-Bytes         TX-Msgs    TX-Bytes         Recv-Q   Rmem     Send-Q   Smem     Status
mux            3          6                1          3                -        -        -        -        KCMs: 2, Psocks 1
   kcm-0       1          1                1          3                1        3        0        -        RxWait 
   kcm-1       0          0                0          0                1        2        0        -        RxWait 
   psock-0     3          6                1          3                0        0        0        0        
";
    assert_eq!(rig.mux.proc_net_kcm(), expect);
}

#[test]
fn g4_a_message_in_assembly_shows_how_much_it_still_needs() {
    let (mut rig, _) = Rig::new(DGRAM);
    let p = rig.attach();
    let status = |rig: &Rig| {
        let text = rig.mux.proc_net_kcm();
        let line = text.lines().find(|l| l.contains("psock-0")).unwrap();
        line.split_whitespace().skip(9).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(status(&rig), "");
    let mut strp = crate::stats::StrpStats { bytes: 3, ..Default::default() };
    rig.mux.report_strp(p, &strp, None);
    assert_eq!(status(&rig), "RxWait", "its length is not known yet");
    strp.bytes = 10;
    rig.mux.report_strp(p, &strp, Some(90));
    assert_eq!(status(&rig), "RxWait=90");
    strp.delivered_bytes = 10;
    rig.mux.report_strp(p, &strp, None);
    assert_eq!(status(&rig), "");
}

#[test]
fn the_causes_of_ends_and_the_sizes_of_batches_are_counted() {
    let (mut rig, _) = Rig::new(DGRAM);
    let p = rig.attach();
    for messages in [&["1"][..], &["1"], &["1", "2", "3"], &["x"; 5000]] {
        let _ = rig.deliver(p, messages);
    }
    let causes = [
        PsockError::Eof,
        PsockError::EofMidMessage { have: 1, need: None },
        PsockError::Reset,
        PsockError::Parser(5),
        PsockError::HandedBackLate { consumed: 1 },
        PsockError::BadLength { len: 1, seen: 1 },
        PsockError::TooLong { len: 2, limit: 1 },
        PsockError::HeaderTooLong { limit: 1 },
        PsockError::TimedOut { have: 1, need: None },
        PsockError::Stalled,
    ];
    for cause in causes {
        let p = rig.attach();
        rig.mux.rx_end(p, cause, &mut rig.fx);
        rig.mux.rx_end(p, PsockError::Reset, &mut rig.fx);
    }
    rig.unattach(p).unwrap();
    let stats = rig.mux.stats();
    assert_eq!((stats.rx_batch_sizes[0], stats.rx_batch_sizes[1]), (2, 1));
    assert_eq!(stats.rx_batch_sizes[12], 1);
    let ends = stats.ends;
    assert_eq!([ends.eof, ends.eof_mid_message, ends.reset, ends.parser], [1, 1, 1, 2]);
    assert_eq!([ends.bad_length, ends.too_long, ends.header_too_long], [1; 3]);
    assert_eq!([ends.timed_out, ends.stalled, ends.io], [1, 1, 0]);
    assert_eq!(ends.total(), 10);
}

#[test]
fn g5_g6_row_75_kcm_stats_has_each_value_under_its_own_heading() {
    let (mut rig, k) = Rig::new(DGRAM);
    let p = rig.attach_with(PsockOptions::default(), 2);
    let q = rig.attach();
    rig.send(k, "abc", NONE).unwrap();
    rig.run();
    rig.unattach(p).unwrap();
    rig.run();
    rig.unattach(q).unwrap();
    let text = rig.mux.proc_net_kcm_stats();
    let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
    let value = |at: usize, name: &str| {
        let column = lines[at].iter().position(|h| *h == name).unwrap() - 1;
        lines[at + 1][column]
    };
    assert_eq!(lines[0][0], "MUX");
    assert_eq!(lines[2][0], "Psock");
    let got = ["TX-Msgs", "TX-Bytes", "TX-Retries", "Attach", "Unattach", "UnattchRsvd"]
        .map(|n| value(0, n));
    assert_eq!(got, ["1", "5", "1", "2", "2", "1"]);
    let got = ["TX-Msgs", "TX-Bytes", "Reserved", "Unreserved"].map(|n| value(2, n));
    assert_eq!(got, ["1", "5", "2", "2"], "what left is not forgotten");
}

#[test]
fn an_idle_connection_costs_less_than_a_kib_with_its_stream_parser() {
    type Strp = crate::strparser::StrParser<std::sync::Arc<dyn crate::delineate::Delineate>>;
    let (mut rig, k) = Rig::new(DGRAM);
    let p = rig.attach();
    // Traffic of its own leaves no queue behind.
    rig.send_to(k, p, "x").unwrap();
    rig.run();
    assert!(rig.mux.psocks.at(p.index).unwrap().own.is_none());
    // Three lists of links, the slot's generation, and the entries themselves.
    let cost = size_of::<Psock>() + 3 * 12 + 16 + size_of::<Strp>();
    assert!(cost < 800, "{cost} bytes");
}

#[test]
fn row_1_a_refused_clone_or_attach_leaves_everything_as_it_was() {
    let (mut rig, k) = Rig::new(DGRAM);
    let gone = rig.clone_kcm(k);
    rig.close(gone, Close::Now);
    let before = (rig.mux.kcms().count(), rig.mux.rx_wait.len(), rig.mux.stats());
    for _ in 0..3 {
        assert_eq!(rig.mux.clone_kcm(gone, &mut rig.fx), Err(SocketError::Closed));
        assert!(rig.fx.is_empty());
    }
    assert_eq!(before, (rig.mux.kcms().count(), rig.mux.rx_wait.len(), rig.mux.stats()));
    rig.close(k, Close::Now);
    assert!(rig.mux.attach(PsockOptions::default(), &mut rig.fx).is_err());
    assert_eq!((rig.mux.psocks().count(), rig.mux.stats().attach), (0, 0));
}

#[test]
fn j9_with_the_last_socket_a_message_begun_for_one_connection_is_finished() {
    for (how, wire, dropped) in [(Close::Now, "begun", 2), (Close::Drain, "begunsecondthird", 0)] {
        let (mut rig, k) = Rig::new(DGRAM);
        let p = rig.attach_with(PsockOptions::default(), 2);
        let q = rig.attach();
        for text in ["begun", "second", "third"] {
            rig.send_to(k, p, text).unwrap();
        }
        rig.run();
        // Drained, it waits for what was addressed too; dropped, the socket itself is gone.
        assert_eq!(rig.close(k, how), how == Close::Now);
        assert_eq!(rig.mux.is_attached(q), how == Close::Drain);
        assert!(rig.mux.is_attached(p), "it has something to finish");
        rig.open(p, 100);
        rig.run();
        assert_eq!(rig.wire(p), wire);
        assert!(!rig.mux.is_attached(p) && rig.mux.is_closed());
        assert!(!rig.leftover().unwrap().desynchronised);
        assert_eq!(rig.mux.stats().tx_dropped_msgs, dropped);
        rig.check_sums();
    }
}

#[test]
fn j9_what_is_left_to_finish_at_the_end_ends_with_its_connection() {
    let fails: [fn(&mut Rig, PsockId); 3] = [
        |rig, p| rig.mux.rx_end(p, PsockError::Reset, &mut rig.fx),
        |rig, p| {
            rig.peers.get_mut(&p).unwrap().broken = true;
            rig.open(p, 1);
            rig.run();
        },
        |rig, p| rig.mux.on_tx_deadline(p, rig.now + Duration::from_secs(9), &mut rig.fx),
    ];
    for fail in fails {
        let options = MuxOptions { stall_deadline: Some(Duration::from_secs(5)), tx_turn: None };
        let (mut rig, k) = Rig::with(DGRAM, options, KcmOptions::default());
        let p = rig.attach_with(PsockOptions::default(), 2);
        rig.send_to(k, p, "begun").unwrap();
        rig.run();
        assert!(rig.close(k, Close::Now));
        rig.effects();
        fail(&mut rig, p);
        rig.settle();
        let told: Vec<bool> = rig
            .log
            .iter()
            .filter_map(|e| match e {
                Effect::Event(PsockEvent::Failed { .. }) => Some(true),
                Effect::Event(PsockEvent::Detached { .. }) => Some(false),
                _ => None,
            })
            .collect();
        assert_eq!(told, [true, false], "why, and then that it is gone");
        assert!(rig.leftover().unwrap().desynchronised);
        assert!(!rig.mux.is_attached(p));
        rig.check_sums();
    }
}

#[test]
fn a42_a_draining_close_waits_for_what_was_addressed_to_one_connection() {
    let (mut rig, k) = Rig::new(DGRAM);
    let other = rig.clone_kcm(k);
    let p = rig.attach_with(PsockOptions::default(), 2);
    rig.send_to(k, p, "for p").unwrap();
    rig.send_to(other, p, "after it").unwrap();
    rig.run();
    assert!(!rig.close(k, Close::Drain));
    rig.open(p, 3);
    rig.run();
    assert!(rig.effects().contains(&Effect::Closed { kcm: k }));
    // One that dies with it is dropped, and the socket closes.
    assert!(!rig.close(other, Close::Drain));
    rig.mux.rx_end(p, PsockError::Reset, &mut rig.fx);
    assert!(rig.effects().contains(&Effect::Closed { kcm: other }));
    assert!(rig.mux.is_closed());
    assert_eq!(rig.mux.stats().tx_dropped_msgs, 1);
    rig.check_sums();
}

#[test]
fn a31_a_sending_side_ends_after_what_is_begun_and_addressed() {
    let (mut rig, k) = Rig::new(DGRAM);
    let p = rig.attach_with(PsockOptions::default(), 2);
    rig.send(k, "begun", BATCH).unwrap();
    rig.send(k, "anywhere", NONE).unwrap();
    rig.run();
    rig.send_to(k, p, "for p").unwrap();
    rig.mux.end_tx(p, &mut rig.fx).unwrap();
    rig.mux.end_tx(p, &mut rig.fx).unwrap();
    assert_eq!(rig.send_to(k, p, "late"), Err(SendError::ShutDown(p)));
    assert_eq!(rig.send_to(k, p, "late").unwrap_err().errno(), 32);
    let ended = |effects: &[Effect]| effects.contains(&Effect::EndTx { psock: p });
    assert!(!ended(&rig.effects()));
    rig.open(p, 100);
    rig.run();
    assert_eq!(rig.wire(p), "begunfor p");
    assert!(ended(&rig.effects()));
    // It still receives, and is in use.
    let _ = rig.deliver(p, &["in"]);
    assert_eq!(rig.recv(k).as_deref(), Some("in"));
    assert_eq!((rig.mux.psock_error(p), rig.mux.usable_psocks()), (None, 1));
    assert!(rig.mux.proc_net_kcm().contains("TxStop"));
    // What has no address leaves elsewhere.
    let q = rig.attach();
    rig.run();
    assert_eq!(rig.wire(q), "anywhere");
    assert_eq!(rig.wire(p), "begunfor p");
    rig.check_sums();
}

#[test]
fn a31_a_connection_of_which_both_sides_have_ended_is_out_of_use() {
    for ours_first in [true, false] {
        let (mut rig, _) = Rig::new(DGRAM);
        let p = rig.attach_with(PsockOptions { half_close: true }, 10);
        if ours_first {
            rig.mux.end_tx(p, &mut rig.fx).unwrap();
        }
        rig.mux.rx_end(p, PsockError::Eof, &mut rig.fx);
        if !ours_first {
            assert_eq!(rig.mux.psock_error(p), None, "half closed");
            rig.mux.end_tx(p, &mut rig.fx).unwrap();
        }
        assert_eq!(rig.mux.psock_error(p), Some(&PsockError::Eof));
        let mut again = Effects::new();
        assert_eq!(rig.mux.end_tx(p, &mut again), Err(SendError::Psock(PsockError::Eof)));
        assert!(again.is_empty());
        let count = |e: &&Effect| matches!(e, Effect::EndTx { .. });
        assert_eq!(rig.effects().iter().filter(count).count(), 1);
        rig.unattach(p).unwrap();
        assert_eq!(rig.mux.end_tx(p, &mut again).unwrap_err().errno(), 2);
    }
}
