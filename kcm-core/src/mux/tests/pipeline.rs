//! Both cores together: bytes of several connections in, messages at several sockets out, with
//! readers that stop when told, and connections that leave and come back with their unread
//! bytes. Nothing is lost, doubled or out of order on the way.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::{
    delineate::{Delineate, Verdict},
    strparser::{Blocks, Limits, StrParser},
};

/// A length of two bytes, then as many.
struct Be16;

impl Delineate for Be16 {
    fn parse(&self, msg: &[u8]) -> Verdict {
        match msg.first_chunk::<2>() {
            None => Verdict::NeedMore,
            Some(head) => Verdict::Message(2 + u32::from(u16::from_be_bytes(*head))),
        }
    }
}

fn framed(number: u32, size: usize) -> Vec<u8> {
    let mut body = number.to_be_bytes().to_vec();
    body.resize(4 + size, number as u8);
    [&(body.len() as u16).to_be_bytes()[..], &body].concat()
}

/// A stream and its reader.
struct Conn {
    psock: PsockId,
    strp: StrParser<Be16>,
    paused: bool,
    /// What the peer has yet to send.
    rest: VecDeque<u8>,
    /// Numbers of the messages in the stream, in order.
    numbers: Vec<u32>,
}

#[derive(Clone, Debug)]
enum Op {
    Arrive(usize, usize),
    Recv(usize, usize),
    Disable(usize, bool),
    /// The connection leaves and is attached again: what was unread is read first.
    Again(usize),
}

struct Sim {
    rig: Rig,
    kcms: Vec<KcmId>,
    conns: Vec<Conn>,
    /// Shared by all connections.
    blocks: Blocks,
    got: Vec<Vec<u32>>,
}

impl Sim {
    fn limits() -> Limits {
        Limits { max_batch: 3, ..Limits::default() }
    }

    fn arrive(&mut self, at: usize, n: usize) {
        let conn = &mut self.conns[at];
        let n = n.min(conn.rest.len());
        if conn.paused || n == 0 {
            return;
        }
        let bytes: Vec<u8> = conn.rest.drain(..n).collect();
        let mut left = &bytes[..];
        while !left.is_empty() {
            let conn = &mut self.conns[at];
            let buf = conn.strp.read_buf(&mut self.blocks);
            let room = (buf.capacity() - buf.len()).min(left.len());
            buf.extend_from_slice(&left[..room]);
            left = &left[room..];
            self.parse(at);
            if self.conns[at].paused {
                // The reader stops: the rest stays with TCP.
                for byte in left.iter().rev() {
                    self.conns[at].rest.push_front(*byte);
                }
                break;
            }
        }
        self.conns[at].strp.release(&mut self.blocks);
    }

    fn parse(&mut self, at: usize) {
        let conn = &mut self.conns[at];
        while !conn.paused {
            let Some(batch) = conn.strp.parse(self.rig.now).unwrap() else { break };
            match self.rig.mux.deliver(conn.psock, batch, &mut self.rig.fx) {
                Delivery::Taken => {}
                Delivery::Parked => conn.paused = true,
                Delivery::Refused(_) => panic!("it is attached"),
            }
        }
        self.settle();
    }

    fn settle(&mut self) {
        loop {
            let resumed: Vec<PsockId> = self
                .rig
                .effects()
                .into_iter()
                .filter_map(|e| match e {
                    Effect::ResumeRx { psock } => Some(psock),
                    _ => None,
                })
                .collect();
            if resumed.is_empty() {
                return;
            }
            for psock in resumed {
                if let Some(at) = self.conns.iter().position(|c| c.psock == psock) {
                    self.conns[at].paused = false;
                    self.parse(at);
                }
            }
        }
    }

    fn recv(&mut self, at: usize, max: usize) {
        let kcm = self.kcms[at % self.kcms.len()];
        if let Ok(batch) = self.rig.mux.recv_batch(kcm, max, &mut self.rig.fx) {
            for message in &batch {
                let number = u32::from_be_bytes(*message[2..].first_chunk::<4>().unwrap());
                let conn = number as usize >> 16;
                assert_eq!(message, framed(number, message.len() - 6));
                self.got[conn].push(number);
            }
        }
        self.settle();
    }

    fn again(&mut self, at: usize) {
        self.rig.mux.unattach(self.conns[at].psock, &mut self.rig.fx).unwrap();
        self.rig.settle();
        let left = self.rig.leftover().unwrap();
        let conn = &mut self.conns[at];
        let psock = self.rig.mux.attach(PsockOptions::default(), &mut self.rig.fx).unwrap();
        let old = std::mem::replace(&mut conn.strp, StrParser::new(Be16, psock, Self::limits()));
        let mut unread: Vec<u8> = left.parked.into_iter().flat_map(|b| b.into_bytes()).collect();
        unread.extend(old.into_unread());
        for byte in unread.iter().rev() {
            conn.rest.push_front(*byte);
        }
        conn.psock = psock;
        conn.paused = false;
        self.settle();
    }
}

proptest! {
    #[test]
    fn bytes_in_are_messages_out_once_and_in_order(
        sizes in prop::collection::vec(prop::collection::vec(prop_oneof![8 => 0usize..20, 1 => 2000usize..9000], 1..12), 1..4),
        sockets in 1usize..4,
        buffer in 1usize..200,
        low in prop::option::of(1usize..100),
        ops in prop::collection::vec(prop_oneof![
            6 => (0usize..4, prop_oneof![3 => 1usize..40, 1 => 40usize..9000]).prop_map(|(c, n)| Op::Arrive(c, n)),
            4 => (0usize..4, 1usize..5).prop_map(|(k, n)| Op::Recv(k, n)),
            1 => (0usize..4, any::<bool>()).prop_map(|(k, d)| Op::Disable(k, d)),
            1 => (0usize..4).prop_map(Op::Again),
        ], 0..80),
    ) {
        let options = KcmOptions { recv_buffer: buffer, recv_low_water: low, ..KcmOptions::default() };
        let (rig, first) = Rig::with(DGRAM, MuxOptions::default(), options);
        let mut sim = Sim { rig, kcms: vec![first], conns: Vec::new(), blocks: Blocks::default(), got: vec![Vec::new(); sizes.len()] };
        for _ in 1..sockets {
            let kcm = sim.rig.clone_kcm(first);
            sim.kcms.push(kcm);
        }
        for (at, sizes) in sizes.iter().enumerate() {
            let psock = sim.rig.attach();
            let numbers: Vec<u32> = (0..sizes.len() as u32).map(|n| ((at as u32) << 16) + n).collect();
            let rest = numbers.iter().zip(sizes).flat_map(|(&n, &size)| framed(n, size)).collect();
            let strp = StrParser::new(Be16, psock, Sim::limits());
            sim.conns.push(Conn { psock, strp, paused: false, rest, numbers });
        }
        for op in ops {
            match op {
                Op::Arrive(c, n) => sim.arrive(c % sizes.len(), n),
                Op::Recv(k, n) => sim.recv(k, n),
                Op::Disable(k, disabled) => {
                    let kcm = sim.kcms[k % sockets];
                    sim.rig.mux.set_recv_disabled(kcm, disabled, &mut sim.rig.fx).unwrap();
                    sim.settle();
                }
                Op::Again(c) => sim.again(c % sizes.len()),
            }
            sim.rig.check_sums();
        }
        // Everything comes to its end: readers read on when they are told to, and only then.
        for kcm in sim.kcms.clone() {
            sim.rig.mux.set_recv_disabled(kcm, false, &mut sim.rig.fx).unwrap();
            sim.settle();
        }
        for _ in 0..10_000 {
            let before = sim.got.iter().map(Vec::len).sum::<usize>();
            for at in 0..sim.conns.len() {
                sim.arrive(at, usize::MAX);
            }
            for k in 0..sockets {
                sim.recv(k, 1);
            }
            let after = sim.got.iter().map(Vec::len).sum::<usize>();
            if after == before && sim.conns.iter().all(|c| c.rest.is_empty()) {
                break;
            }
        }
        for (conn, got) in sim.conns.iter().zip(&mut sim.got) {
            prop_assert_eq!(conn.strp.buffered(), 0);
            if sockets == 1 {
                // One socket: not only once, but in the order they came.
                prop_assert_eq!(&*got, &conn.numbers);
            }
            got.sort();
            prop_assert_eq!(&*got, &conn.numbers);
        }
    }
}
