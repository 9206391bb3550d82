//! Errors, options and counters (semantics F1–F6, G1–G8, H1–H2).

use super::prelude::*;
use super::scenarios;
use std::net::Shutdown;

scenarios! {
    an_error_is_on_the_connection_and_not_on_the_socket ["F1"];
    the_first_cause_and_what_came_after_it ["F3"];
    an_error_is_read_twice ["F4"];
    a_dead_connection_stays_listed ["F5" "G4"];
    which_connection_did_a_message_come_from ["F6"] "Which connection did this message come from?";
    table_of_a_new_multiplexor ["G4"];
    table_after_receiving ["G4"];
    table_after_sending ["G4"];
    table_of_unread_and_unsent ["G4"];
    table_of_a_disabled_socket ["G4" "C12"];
    table_of_a_parked_connection ["G4" "C8"];
    table_of_a_half_message ["G4" "B14"];
    table_of_a_stuck_sender ["G4" "D14"];
    attach_and_unattach_are_counted ["G5" "G6"];
    unattach_while_sending_is_counted ["G5" "G6"];
    retries_are_counted ["G6" "D18"];
    aborts_of_receiving_are_counted ["G6" "H1"];
    causes_of_aborts_are_counted ["G5" "H1"];
    need_more_is_counted ["H1"];
    reservations_are_counted ["G8"];
    aborts_of_sending_are_counted ["G8"];
    received_bytes_of_a_message_in_two_parts ["H2"];
    received_bytes_of_a_message_byte_by_byte ["H2"];
    the_multiplexor_s_counters_are_those_of_its_connections ["G7"];
    sums_after_unattach ["G7"];
}

fn an_error_is_on_the_connection_and_not_on_the_socket(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.attached(k, &Parser::Const(-5));
    t.put(&peer, b"hello");
    t.say_error(c);
    say!(
        t,
        "the socket's error: {:?}, poll says {}",
        t.back().socket_error(k),
        ready(t.back().ready(k))
    );
}

fn the_first_cause_and_what_came_after_it(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.attached(k, &Parser::Const(-5));
    t.put(&peer, b"hello");
    peer.shutdown(Shutdown::Write).expect("shutdown");
    t.quiet();
    say!(t, "error: {}", t.error_now(c));
}

fn an_error_is_read_twice(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.attached(k, &Parser::Const(-5));
    t.put(&peer, b"hello");
    say!(t, "error: {}", t.error(c));
    say!(t, "again: {}", t.error_now(c));
}

fn a_dead_connection_stays_listed(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.attached(k, &Parser::Const(-5));
    t.put(&peer, b"hello");
    t.say_error(c);
    t.say_table(k, &["mux", "psock-0"]);
    let _d = t.unattach(k, c);
    t.say_table(k, &["mux", "psock-0"]);
}

fn which_connection_did_a_message_come_from(t: &T) {
    let k = t.dgram();
    let (c1, p1) = t.connected(k);
    let (c2, p2) = t.connected(k);
    t.put(&p2, &msg(b'A', 20));
    t.put(&p1, &msg(b'B', 20));
    let mut known = true;
    for want in [c2, c1] {
        match t.recv_soon(k) {
            Ok(g) => known &= g.from == Some(want),
            Err(e) => say!(t, "{e}"),
        }
    }
    say!(t, "each message names its connection: {known}");
    t.summary(if known { "the message says it" } else { "unknowable" });
}

fn table_of_a_new_multiplexor(t: &T) {
    let k = t.dgram();
    let _k2 = t.clone_of(k);
    let (_c, _peer) = t.connected(k);
    t.say_table(k, &["mux", "kcm-0", "kcm-1", "psock-0"]);
}

fn table_after_receiving(t: &T) {
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    t.put(&peer, &msg(b'A', 20));
    t.put(&peer, &msg(b'B', 20));
    t.say_table(k, &["kcm-0", "psock-0"]);
    t.say_recv(k);
    t.say_table(k, &["kcm-0", "psock-0"]);
    t.say_recv(k);
    t.say_table(k, &["kcm-0", "psock-0"]);
}

fn table_after_sending(t: &T) {
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    for m in ["one", "three"] {
        say!(t, "send: {}", count(&t.send(k, m.as_bytes())));
    }
    t.peer_all(&peer);
    t.say_table(k, &["mux", "kcm-0", "psock-0"]);
}

fn table_of_unread_and_unsent(t: &T) {
    let k = t.dgram();
    for m in ["one", "three"] {
        say!(t, "send: {}", count(&t.send(k, m.as_bytes())));
    }
    t.say_table(k, &["mux", "kcm-0"]);
}

fn table_of_a_disabled_socket(t: &T) {
    let k = t.dgram();
    t.set(k, Opt::RecvDisabled, 1);
    t.say_table(k, &["kcm-0"]);
    t.set(k, Opt::RecvDisabled, 0);
    t.say_table(k, &["kcm-0"]);
}

fn table_of_a_parked_connection(t: &T) {
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    t.set(k, Opt::RecvDisabled, 1);
    t.put(&peer, &msg(b'A', 20));
    t.say_table(k, &["kcm-0", "psock-0"]);
}

fn table_of_a_half_message(t: &T) {
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    t.put(&peer, &msg(b'A', 20)[..3]);
    t.say_table(k, &["psock-0"]);
    t.put(&peer, &msg(b'A', 20)[3..10]);
    t.say_table(k, &["psock-0"]);
}

fn table_of_a_stuck_sender(t: &T) {
    let k = t.dgram();
    let k2 = t.clone_of(k);
    let (a, _peer) = t.pair_with(TIGHT);
    let _c = t.attach(k, a, &Parser::Len4);
    say!(t, "send of 400000 bytes: {}", count(&t.send(k, &vec![b'k'; 400_000])));
    say!(t, "another socket: {}", count(&t.send(k2, b"waits")));
    t.quiet();
    let lines = super::super::text::kcm_lines(&t.back().kcm_text(k));
    for (name, line) in lines {
        // How many bytes TCP took is TCP's affair.
        if let Some((_, status)) = line.split_once('[')
            && name != "mux"
        {
            say!(t, "{name}: [{status}");
        }
    }
    t.say_table(k, &["kcm-0", "kcm-1"]);
}

fn attach_and_unattach_are_counted(t: &T) {
    let k = t.dgram();
    let names = ["MUX Attach", "MUX Unattach", "MUX UnattchRsvd"];
    let mut conn = None;
    t.say_counters(k, &names, || conn = Some(t.connected(k)));
    let Some((c, _peer)) = conn else { return };
    t.say_counters(k, &names, || drop(t.unattach(k, c)));
}

fn unattach_while_sending_is_counted(t: &T) {
    let k = t.dgram();
    let (a, _peer) = t.pair_with(TIGHT);
    let c = t.attach(k, a, &Parser::Len4);
    say!(t, "send of 400000 bytes: {}", count(&t.send(k, &vec![b'k'; 400_000])));
    t.quiet();
    t.say_counters(k, &["MUX Unattach", "MUX UnattchRsvd"], || {
        drop(t.unattach(k, c));
        t.quiet();
    });
}

fn retries_are_counted(t: &T) {
    let k = t.dgram();
    let (a, _peer) = t.pair_with(TIGHT);
    let c = t.attach(k, a, &Parser::Len4);
    t.say_counters(k, &["MUX TX-Retries"], || {
        say!(t, "send of 400000 bytes: {}", count(&t.send(k, &vec![b'k'; 400_000])));
        t.quiet();
        drop(t.unattach(k, c));
        let (_c2, peer2) = t.connected(k);
        let mut got = 0;
        t.within_a_second(|| {
            got += t.peer_all(&peer2).0.len();
            got >= 400_000
        });
        say!(t, "the next peer gets {got} bytes");
    });
}

fn aborts_of_receiving_are_counted(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.attached(k, &Parser::Const(-5));
    t.say_counters(k, &["Psock RX-Aborts", "Psock RX-Intr"], || {
        t.put(&peer, b"hello");
        t.say_error(c);
    });
}

fn causes_of_aborts_are_counted(t: &T) {
    let k = t.dgram();
    let names = ["Psock RX-TooBig", "Psock RX-BadLen", "Psock RX-Intr", "Psock RX-Unrecov"];
    t.say_counters(k, &names, || {
        let (c, peer) = t.connected(k);
        t.put(&peer, b"\x7f\xff\xff\0");
        t.say_error(c);
    });
    t.say_counters(k, &names, || {
        let (c, peer) = t.attached(k, &Parser::Const(-71));
        t.put(&peer, b"hello");
        t.say_error(c);
    });
}

fn need_more_is_counted(t: &T) {
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    t.say_counters(k, &["Psock RX-NeedMor"], || {
        for b in msg(b'A', 10) {
            t.put(&peer, &[b]);
        }
    });
    t.say_recv(k);
}

fn reservations_are_counted(t: &T) {
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    t.say_counters(
        k,
        &["Psock Reserved", "Psock Unreserved", "Psock TX-Msgs", "Psock TX-Bytes"],
        || {
            for m in ["one", "two", "three"] {
                let _ = t.send(k, m.as_bytes());
                t.quiet();
            }
            t.peer_all(&peer);
        },
    );
}

fn aborts_of_sending_are_counted(t: &T) {
    crate::oracle::signal::count_sigpipe();
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    reset(peer);
    t.quiet();
    t.say_counters(k, &["Psock TX-Aborts"], || {
        say!(t, "send: {}", count(&t.send(k, b"hello")));
        t.quiet();
    });
}

fn received_bytes_of_a_message_in_two_parts(t: &T) {
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    t.say_counters(k, &["Psock RX-Msgs", "Psock RX-Bytes"], || {
        t.put(&peer, &msg(b'A', 20)[..10]);
        t.put(&peer, &msg(b'A', 20)[10..]);
        t.say_recv(k);
    });
}

fn received_bytes_of_a_message_byte_by_byte(t: &T) {
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    t.say_counters(k, &["Psock RX-Msgs", "Psock RX-Bytes"], || {
        for b in msg(b'A', 20) {
            t.put(&peer, &[b]);
        }
        t.say_recv(k);
    });
}

fn the_multiplexor_s_counters_are_those_of_its_connections(t: &T) {
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    for tag in *b"012345678" {
        t.put(&peer, &msg(tag, 20));
    }
    t.say_table(k, &["mux", "psock-0"]);
}

fn sums_after_unattach(t: &T) {
    let k = t.dgram();
    let (c, peer) = t.connected(k);
    for tag in b'0'..b'3' {
        t.put(&peer, &msg(tag, 20));
    }
    say!(t, "send: {}", count(&t.send(k, b"hello")));
    t.peer_all(&peer);
    let _d = t.unattach(k, c);
    t.say_table(k, &["mux"]);
}
