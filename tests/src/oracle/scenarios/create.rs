//! Creation and cloning (semantics A1–A11).

use super::prelude::*;
use super::scenarios;

scenarios! {
    a_new_socket_has_the_default_buffers ["A1" "A4"];
    a_fresh_socket_is_writable_only ["A5"];
    a_fresh_socket_has_nothing_to_receive ["A5" "E8"];
    a_clone_has_the_type_of_its_parent ["A7"];
    a_clone_and_the_buffer_sizes_of_its_parent ["A7"];
    a_clone_is_not_disabled_with_its_parent ["A7" "C12"];
    a_clone_receives_what_is_held_and_parked_at_once ["A9" "C9"];
    any_socket_attaches_and_unattaches ["A11"];
    a_freed_socket_index_is_used_again ["A11"];
    a_freed_connection_index_is_used_again ["A11"];
    two_sockets_have_two_multiplexors ["A1"];
}

fn a_new_socket_has_the_default_buffers(t: &T) {
    for ty in TYPES {
        let k = t.socket(ty);
        let get = |o| t.back().get(k, o).map_or_else(|e| e.to_string(), |v| v.to_string());
        say!(
            t,
            "{}: receive buffer {}, send buffer {}, low water {}, receive-disable {}",
            ty.name(),
            get(Opt::RecvBuffer),
            get(Opt::SendBuffer),
            get(Opt::RecvLowWater),
            get(Opt::RecvDisabled)
        );
    }
}

fn a_fresh_socket_is_writable_only(t: &T) {
    for ty in TYPES {
        let k = t.socket(ty);
        say!(t, "{}: poll says {}", ty.name(), ready(t.back().ready(k)));
    }
}

fn a_fresh_socket_has_nothing_to_receive(t: &T) {
    for ty in TYPES {
        let k = t.socket(ty);
        t.say_recv_now(k);
    }
}

fn a_clone_has_the_type_of_its_parent(t: &T) {
    // A SEQPACKET socket sends nothing before MSG_EOR, a DGRAM socket does.
    for ty in TYPES {
        let k = t.socket(ty);
        let c = t.clone_of(k);
        let (_c, peer) = t.connected(k);
        say!(t, "{}: clone sends without flags: {}", ty.name(), count(&t.send(c, b"abc")));
        t.say_peer("peer", &peer);
    }
}

fn a_clone_and_the_buffer_sizes_of_its_parent(t: &T) {
    let k = t.dgram();
    let fresh = t.back().get(k, Opt::RecvBuffer);
    t.set(k, Opt::RecvBuffer, 50_000);
    t.set(k, Opt::SendBuffer, 50_000);
    t.set(k, Opt::RecvLowWater, 77);
    let c = t.clone_of(k);
    for (what, o) in [
        ("receive buffer", Opt::RecvBuffer),
        ("send buffer", Opt::SendBuffer),
        ("low water", Opt::RecvLowWater),
    ] {
        let (parent, clone) = (t.back().get(k, o), t.back().get(c, o));
        let same = if parent == clone { "the parent's" } else { "its own" };
        say!(t, "{what} of the clone: {same}");
    }
    say!(t, "default: {}", if fresh == t.back().get(c, Opt::RecvBuffer) { "yes" } else { "no" });
}

fn a_clone_is_not_disabled_with_its_parent(t: &T) {
    let k = t.dgram();
    t.set(k, Opt::RecvDisabled, 1);
    let c = t.clone_of(k);
    say!(t, "clone's receive-disable: {:?}", t.back().get(c, Opt::RecvDisabled));
    let (_c, peer) = t.connected(k);
    t.put(&peer, &msg(b'A', 20));
    say!(t, "clone gets {}", t.tags(c));
}

fn a_clone_receives_what_is_held_and_parked_at_once(t: &T) {
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    for tag in b'0'..b'3' {
        t.put(&peer, &msg(tag, 20));
    }
    t.set(k, Opt::RecvDisabled, 1);
    for tag in b'3'..b'6' {
        t.put(&peer, &msg(tag, 20));
    }
    let c = t.clone_of(k);
    t.within_a_second(|| t.back().ready(c).readable);
    say!(t, "clone gets {}", t.tags(c));
    say!(t, "parent gets {}", t.tags(k));
}

fn any_socket_attaches_and_unattaches(t: &T) {
    let k = t.dgram();
    let c = t.clone_of(k);
    let (conn, peer) = t.connected(c);
    t.put(&peer, &msg(b'A', 20));
    let d = t.back().unattach(k, conn);
    say!(t, "unattach through the other socket: {}", okay(&d));
    say!(t, "the message is still there: {}", [t.tags(k), t.tags(c)].join(" / "));
}

fn a_freed_socket_index_is_used_again(t: &T) {
    let k = t.dgram();
    let (k2, _k3) = (t.clone_of(k), t.clone_of(k));
    t.back().close(k2);
    t.quiet();
    let names = |t: &T| {
        let lines = super::super::text::kcm_lines(&t.back().kcm_text(k));
        lines.into_iter().map(|l| l.0).collect::<Vec<_>>().join(" ")
    };
    say!(t, "one closed: {}", names(t));
    let _k4 = t.clone_of(k);
    say!(t, "one more: {}", names(t));
}

fn a_freed_connection_index_is_used_again(t: &T) {
    let k = t.dgram();
    let (c0, _p0) = t.connected(k);
    let (_c1, _p1) = t.connected(k);
    let _d = t.unattach(k, c0);
    t.say_table(k, &["psock-0", "psock-1"]);
    let (_c2, _p2) = t.connected(k);
    t.say_table(k, &["psock-0", "psock-1", "psock-2"]);
}

fn two_sockets_have_two_multiplexors(t: &T) {
    let (k, other) = (t.dgram(), t.dgram());
    let (conn, peer) = t.connected(k);
    t.put(&peer, &msg(b'A', 20));
    t.say_recv_now(other);
    say!(t, "unattach through the other: {}", okay(&t.back().unattach(other, conn)));
    t.say_recv(k);
}
