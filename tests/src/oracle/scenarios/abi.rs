//! The system call interface itself: descriptors, pointers, request numbers. Outside the kernel
//! these questions do not exist; what this product has instead is said in each answer.

use super::prelude::*;
use super::scenarios;
use crate::oracle::kernel::{Kernel, sys};
use std::os::fd::AsRawFd;

scenarios! {
    other_types_and_protocols ["A2"];
    flags_at_creation ["A1"];
    calls_of_connected_sockets ["A3"];
    domain_type_and_protocol_are_reported ["A4"];
    descriptor_flags_of_a_clone ["A7"];
    a_clone_with_a_bad_pointer ["A8"];
    bad_arguments_of_attach ["A12" "A13" "A14"];
    programs_that_are_no_socket_filters ["A14"];
    kinds_of_descriptors_that_are_not_attached ["A15"];
    bad_arguments_of_unattach ["A34"];
    unattach_through_a_duplicate ["A34" "A24"];
    bad_memory_of_a_datagram ["D6"];
    bad_memory_of_a_seqpacket_message ["D6"];
    a_fault_in_an_open_datagram ["D6"];
    an_address_and_urgent_data_are_ignored ["D7"];
    splicing_into_a_socket ["D8"];
    an_edge_of_writability ["D12"];
    no_address_of_a_sender ["E1"];
    receive_flags_without_effect ["E3" "E8"];
    bad_memory_of_a_reader ["E7"];
    splicing_from_a_datagram_socket ["E11"];
    splicing_from_a_seqpacket_socket ["E10"];
    splicing_from_a_seqpacket_socket_without_waiting ["E10"];
    queue_sizes_by_ioctl ["E12"];
    lengths_of_the_receive_disable_option ["G1"];
    other_options_and_requests ["G1" "G2"];
    the_tables_and_who_may_read_them ["G3" "G5"];
}

/// The kernel's own interface, or an answer that says what stands for it.
fn kernel<'a>(t: &'a T, why: &str) -> Option<&'a Kernel> {
    t.lacks_kernel(why);
    t.back().kernel()
}

fn num(r: &super::super::backend::Result<usize>) -> String {
    count(r)
}

fn other_types_and_protocols(t: &T) {
    let Some(_) = kernel(t, "SocketType has the two types, and there is no protocol") else {
        return;
    };
    for (name, ty) in [
        ("STREAM", libc::SOCK_STREAM),
        ("DGRAM", libc::SOCK_DGRAM),
        ("RAW", libc::SOCK_RAW),
        ("RDM", libc::SOCK_RDM),
        ("SEQPACKET", libc::SOCK_SEQPACKET),
    ] {
        let a = [0, 1].map(|p| okay(&sys::kcm_socket(ty, p)));
        say!(t, "{name}: protocol 0: {}, protocol 1: {}", a[0], a[1]);
    }
}

fn flags_at_creation(t: &T) {
    let Some(_) = kernel(t, "every call is there in a waiting and a non-waiting form") else {
        return;
    };
    let ty = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    match sys::kcm_socket(ty, 0) {
        Ok(fd) => {
            say!(t, "close-on-exec and non-blocking: {:?}", sys::descriptor_flags(fd.as_raw_fd()))
        }
        Err(e) => say!(t, "{e}"),
    }
}

fn calls_of_connected_sockets(t: &T) {
    let Some(kernel) = kernel(t, "KcmSocket has no such methods") else { return };
    let k = t.dgram();
    for call in [
        "bind",
        "connect",
        "listen",
        "accept",
        "getsockname",
        "getpeername",
        "shutdown",
        "socketpair",
    ] {
        say!(t, "{call}: {}", num(&sys::unsupported(kernel.fd(k), call)));
    }
}

fn domain_type_and_protocol_are_reported(t: &T) {
    let Some(kernel) = kernel(t, "there is no descriptor") else { return };
    for ty in TYPES {
        let fd = kernel.fd(t.socket(ty));
        let get = |o| sys::get(fd, libc::SOL_SOCKET, o);
        say!(
            t,
            "{}: domain {:?}, type {:?}, protocol {:?}",
            ty.name(),
            get(libc::SO_DOMAIN),
            get(libc::SO_TYPE),
            get(libc::SO_PROTOCOL)
        );
    }
}

fn descriptor_flags_of_a_clone(t: &T) {
    let Some(_) = kernel(t, "there is no descriptor") else { return };
    let ty = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let Ok(parent) = sys::kcm_socket(ty, 0) else { return say!(t, "no socket") };
    match sys::kcm_clone(parent.as_raw_fd()) {
        Ok(c) => {
            say!(t, "close-on-exec and non-blocking: {:?}", sys::descriptor_flags(c.as_raw_fd()))
        }
        Err(e) => say!(t, "{e}"),
    }
}

fn a_clone_with_a_bad_pointer(t: &T) {
    let Some(kernel) = kernel(t, "try_clone takes no pointer") else { return };
    let k = t.dgram();
    let open = || std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let before = open();
    say!(t, "clone: {}", num(&sys::ioctl_bad_pointer(kernel.fd(k), sys::SIOCKCMCLONE)));
    say!(t, "descriptors leaked: {}", open() - before);
}

fn bad_arguments_of_attach(t: &T) {
    let Some(kernel) = kernel(t, "attach takes a stream and a verified parser, by type") else {
        return;
    };
    let k = t.dgram();
    let fd = kernel.fd(k);
    let (a, _peer) = t.pair();
    let tcp = a.as_raw_fd();
    let file = std::fs::File::open("/proc/self/stat").expect("a file");
    let Ok(program) = sys::load_program(sys::SOCKET_FILTER, &Parser::Len4.slots(None)) else {
        return say!(t, "no program");
    };
    let program = program.as_raw_fd();
    let attach = |tcp, program| okay(&sys::kcm_attach(fd, tcp, program));
    say!(t, "bad pointer: {}", num(&sys::ioctl_bad_pointer(fd, sys::SIOCKCMATTACH)));
    say!(t, "tcp fd -1: {}", attach(-1, program));
    say!(t, "tcp fd a file: {}", attach(file.as_raw_fd(), program));
    say!(t, "program fd -1: {}", attach(tcp, -1));
    say!(t, "program fd a socket: {}", attach(tcp, tcp));
    say!(t, "both bad: {}", attach(-1, -1));
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("udp");
    say!(t, "UDP and a bad program: {}", attach(udp.as_raw_fd(), -1));
    say!(t, "all good: {}", attach(tcp, program));
}

fn programs_that_are_no_socket_filters(t: &T) {
    let Some(kernel) = kernel(t, "Parser::load refuses other kinds by name") else { return };
    let k = t.dgram();
    let (a, _peer) = t.pair();
    for (name, ty) in [("sched_cls", sys::SCHED_CLS), ("sk_skb", sys::SK_SKB)] {
        match sys::load_program(ty, &Parser::Const(4).slots(None)) {
            Ok(p) => say!(
                t,
                "{name}: {}",
                okay(&sys::kcm_attach(kernel.fd(k), a.as_raw_fd(), p.as_raw_fd()))
            ),
            Err(e) => say!(t, "{name} cannot be loaded: {e}"),
        }
    }
    match sys::array_map(4) {
        Ok(m) => {
            say!(t, "a map: {}", okay(&sys::kcm_attach(kernel.fd(k), a.as_raw_fd(), m.as_raw_fd())))
        }
        Err(e) => say!(t, "no map: {e}"),
    }
}

fn kinds_of_descriptors_that_are_not_attached(t: &T) {
    let Some(kernel) = kernel(t, "attach takes streams, by type") else { return };
    let k = t.dgram();
    let fd = kernel.fd(k);
    let Ok(program) = sys::load_program(sys::SOCKET_FILTER, &Parser::Len4.slots(None)) else {
        return say!(t, "no program");
    };
    say!(t, "the KCM socket itself: {}", okay(&sys::kcm_attach(fd, fd, program.as_raw_fd())));
    match sys::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_TCP) {
        Ok(raw) => {
            let r = sys::kcm_attach(fd, raw.as_raw_fd(), program.as_raw_fd());
            say!(t, "a raw socket of protocol TCP: {}", okay(&r));
        }
        Err(e) => say!(t, "no raw socket: {e}"),
    }
}

fn bad_arguments_of_unattach(t: &T) {
    let Some(kernel) = kernel(t, "unattach takes the number that attach gave") else { return };
    let k = t.dgram();
    let fd = kernel.fd(k);
    let (_c, peer) = t.connected(k);
    say!(t, "bad pointer: {}", num(&sys::ioctl_bad_pointer(fd, sys::SIOCKCMUNATTACH)));
    say!(t, "fd -1: {}", okay(&sys::kcm_unattach(fd, -1)));
    say!(
        t,
        "a connection that is not attached: {}",
        okay(&sys::kcm_unattach(fd, peer.as_raw_fd()))
    );
}

fn unattach_through_a_duplicate(t: &T) {
    let Some(kernel) = kernel(t, "there is no descriptor to duplicate") else { return };
    let k = t.dgram();
    let (a, _peer) = t.pair();
    let dup = a.try_clone().expect("dup");
    let c = t.attach(k, a, &Parser::Len4);
    t.back().forget_handle(c);
    say!(t, "unattach: {}", okay(&sys::kcm_unattach(kernel.fd(k), dup.as_raw_fd())));
}

fn bad_memory_of_a_datagram(t: &T) {
    let Some(kernel) = kernel(t, "bytes are slices: memory is always good") else { return };
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    say!(t, "sendmsg: {}", num(&sys::send_with_fault(kernel.fd(k), b"good", libc::MSG_NOSIGNAL)));
    t.say_peer("peer", &peer);
    say!(t, "send: {}", count(&t.send(k, b"ok")));
    t.say_peer("peer", &peer);
}

fn bad_memory_of_a_seqpacket_message(t: &T) {
    let Some(kernel) = kernel(t, "bytes are slices: memory is always good") else { return };
    let k = t.socket(Type::Seqpacket);
    let (_c, peer) = t.connected(k);
    say!(t, "sendmsg: {}", num(&sys::send_with_fault(kernel.fd(k), b"good", libc::MSG_EOR)));
    t.say_peer("peer", &peer);
    say!(t, "send: {}", count(&t.send_with(k, b"ok", EOR)));
    t.say_peer("peer", &peer);
}

fn a_fault_in_an_open_datagram(t: &T) {
    let Some(kernel) = kernel(t, "bytes are slices: memory is always good") else { return };
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    say!(t, "send with MORE: {}", count(&t.send_with(k, b"abc", MORE)));
    say!(t, "a faulting send: {}", num(&sys::send_with_fault(kernel.fd(k), b"", 0)));
    say!(t, "send: {}", count(&t.send(k, b"xyz")));
    t.say_peer("peer", &peer);
}

fn an_address_and_urgent_data_are_ignored(t: &T) {
    let Some(kernel) = kernel(t, "send takes no address, and there is no urgent data") else {
        return;
    };
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    say!(t, "sendto: {}", num(&sys::send_with_address(kernel.fd(k), b"hi", 0)));
    t.say_peer("peer", &peer);
    say!(t, "send with OOB: {}", num(&sys::send_urgent(kernel.fd(k), b'o')));
    t.say_peer("peer", &peer);
}

fn splicing_into_a_socket(t: &T) {
    let Some(kernel) = kernel(t, "send takes Bytes without a copy") else { return };
    for ty in TYPES {
        let k = t.socket(ty);
        let (_c, peer) = t.connected(k);
        let Ok((rx, tx)) = sys::pipe() else { return say!(t, "no pipe") };
        let _ = sys::write(tx.as_raw_fd(), b"hello");
        let r = sys::splice(rx.as_raw_fd(), kernel.fd(k), 5, 0);
        say!(t, "{}: splice: {}", ty.name(), num(&r));
        t.say_peer("peer", &peer);
        let _ = sys::write(tx.as_raw_fd(), b"more");
        let r = sys::splice(rx.as_raw_fd(), kernel.fd(k), 4, libc::SPLICE_F_MORE);
        say!(t, "splice with MORE: {}", num(&r));
        t.say_peer("peer", &peer);
    }
}

fn an_edge_of_writability(t: &T) {
    let Some(kernel) = kernel(t, "writable() is a future: it has no edges") else { return };
    let k = t.dgram();
    say!(t, "send of 300000 bytes: {}", count(&t.send(k, &[0; 300_000])));
    let mut peer = None;
    let r = sys::edges(
        kernel.fd(k),
        &mut [&mut || (), &mut || (), &mut || {
            let (_c, p) = t.connected(k);
            t.peer_all(&p);
            peer = Some(p);
        }],
    );
    say!(t, "full, asked again, drained: {r:?}");
}

fn no_address_of_a_sender(t: &T) {
    let Some(kernel) = kernel(t, "a message names its connection instead") else { return };
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    t.put(&peer, &msg(b'A', 20));
    say!(
        t,
        "bytes and length of the address: {:?}",
        sys::recv_address_length(kernel.fd(k), &mut [0; 64])
    );
}

fn receive_flags_without_effect(t: &T) {
    let Some(kernel) = kernel(t, "recv takes no flags") else { return };
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    for (name, flag, room) in [
        ("TRUNC", libc::MSG_TRUNC, 8),
        ("WAITALL", libc::MSG_WAITALL, 40),
        ("OOB", libc::MSG_OOB, 40),
        ("ERRQUEUE", libc::MSG_ERRQUEUE, 40),
    ] {
        t.put(&peer, &msg(b'A', 20));
        let r = sys::recv(kernel.fd(k), room, flag | libc::MSG_DONTWAIT);
        say!(t, "{name}, {room} bytes: {}", outcome(&r));
    }
}

fn bad_memory_of_a_reader(t: &T) {
    let Some(kernel) = kernel(t, "recv_into takes a slice: memory is always good") else { return };
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    t.put(&peer, &msg(b'A', 20));
    say!(t, "recv: {}", num(&sys::recv_with_fault(kernel.fd(k))));
    t.say_recv_now(k);
}

const SPLICE: &str = "a message is a Bytes: it is handed on without a copy";

fn splicing_from_a_datagram_socket(t: &T) {
    let Some(kernel) = kernel(t, SPLICE) else { return };
    let k = t.dgram();
    let (_c, peer) = t.connected(k);
    t.put(&peer, &msg(b'A', 20));
    let Ok((_rx, tx)) = sys::pipe() else { return say!(t, "no pipe") };
    let r = sys::splice(kernel.fd(k), tx.as_raw_fd(), 8, libc::SPLICE_F_NONBLOCK);
    say!(t, "splice 8: {}", num(&r));
    t.say_recv_now(k);
}

fn splicing_from_a_seqpacket_socket(t: &T) {
    let Some(kernel) = kernel(t, SPLICE) else { return };
    let k = t.socket(Type::Seqpacket);
    let (_c, peer) = t.connected(k);
    t.put(&peer, &msg(b'A', 20));
    let Ok((_rx, tx)) = sys::pipe() else { return say!(t, "no pipe") };
    say!(t, "splice 8: {}", num(&sys::splice(kernel.fd(k), tx.as_raw_fd(), 8, 0)));
    say!(t, "poll says {}", ready(t.back().ready(k)));
    t.say_recv_now(k);
}

fn splicing_from_a_seqpacket_socket_without_waiting(t: &T) {
    let Some(kernel) = kernel(t, SPLICE) else { return };
    let k = t.socket(Type::Seqpacket);
    let (_c, peer) = t.connected(k);
    t.put(&peer, &msg(b'A', 20));
    let Ok((_rx, tx)) = sys::pipe() else { return say!(t, "no pipe") };
    let r = sys::splice(kernel.fd(k), tx.as_raw_fd(), 20, libc::SPLICE_F_NONBLOCK);
    say!(t, "splice 20: {}", num(&r));
    say!(t, "poll says {}", ready(t.back().ready(k)));
    t.say_recv_now(k);
}

fn queue_sizes_by_ioctl(t: &T) {
    let Some(kernel) = kernel(t, "stats() has the queues") else { return };
    let k = t.dgram();
    let mut v = 0;
    for (name, request) in [("FIONREAD", libc::FIONREAD), ("SIOCOUTQ", libc::TIOCOUTQ)] {
        say!(t, "{name}: {}", num(&sys::ioctl_int(kernel.fd(k), request, &mut v)));
    }
}

fn lengths_of_the_receive_disable_option(t: &T) {
    let Some(kernel) = kernel(t, "set_recv_disabled takes a bool") else { return };
    let k = t.dgram();
    let fd = kernel.fd(k);
    for len in [0, 3] {
        let r = sys::set_raw(fd, sys::SOL_KCM, sys::RECV_DISABLE, &[1; 4], Some(len));
        say!(t, "set with {len} bytes: {}", okay(&r));
    }
    say!(
        t,
        "set with 8 bytes: {}",
        okay(&sys::set_raw(fd, sys::SOL_KCM, sys::RECV_DISABLE, &[1; 8], None))
    );
    say!(t, "set without a pointer: {}", okay(&sys::set_null(fd, sys::SOL_KCM, sys::RECV_DISABLE)));
    for len in [-1, 0, 1, 3, 4, 100] {
        match sys::get_raw(fd, sys::SOL_KCM, sys::RECV_DISABLE, len) {
            Ok((b, n)) => {
                say!(t, "get with {len} bytes: {n} bytes, {:?}", &b[..n.clamp(0, 4) as usize])
            }
            Err(e) => say!(t, "get with {len} bytes: {e}"),
        }
    }
}

fn other_options_and_requests(t: &T) {
    let Some(kernel) = kernel(t, "the methods are what there is") else { return };
    let k = t.dgram();
    let fd = kernel.fd(k);
    say!(t, "option 9: {}", okay(&sys::set(fd, sys::SOL_KCM, 9, 1.into())));
    say!(t, "option 9 with 3 bytes: {}", okay(&sys::set_raw(fd, sys::SOL_KCM, 9, &[0; 3], None)));
    say!(t, "get option 2: {}", okay(&sys::get(fd, sys::SOL_KCM, 2)));
    say!(
        t,
        "an option of TCP: {}",
        okay(&sys::set(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1.into()))
    );
    let mut v = 1;
    say!(t, "request 0x89e3: {}", num(&sys::ioctl_int(fd, 0x89E3, &mut v)));
    say!(t, "FIONBIO: {}", num(&sys::ioctl_int(fd, libc::FIONBIO, &mut v)));
}

fn the_tables_and_who_may_read_them(t: &T) {
    use std::os::unix::fs::PermissionsExt;
    let Some(_) = kernel(t, "proc_net_kcm() is a text of the caller's own multiplexor") else {
        return;
    };
    for file in ["/proc/net/kcm", "/proc/net/kcm_stats"] {
        match std::fs::metadata(file) {
            Ok(m) => say!(t, "{file}: mode {:o}", m.permissions().mode() & 0o777),
            Err(e) => say!(t, "{file}: {e}"),
        }
    }
    let k = t.dgram();
    let names: Vec<String> =
        crate::oracle::text::stats(&t.back().stats_text(k)).into_keys().collect();
    say!(t, "counters: {}", names.join(", "));
}
