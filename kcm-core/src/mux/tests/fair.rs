//! First come, first served, against plain deques (semantics C1, C12, D14, A27); and no
//! connection keeps another one waiting for more than its turn.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::message::Message;

/// How a socket is read.
#[derive(Clone, Copy, Debug)]
enum Take {
    One,
    Many(usize),
    Batch,
    Into(usize),
    Lent,
}

fn take() -> impl Strategy<Value = Take> {
    prop_oneof![
        Just(Take::One),
        (1usize..9).prop_map(Take::Many),
        Just(Take::Batch),
        (1usize..300).prop_map(Take::Into),
        Just(Take::Lent),
    ]
}

impl Rig {
    /// Whose messages one read takes, and how many bytes each brought.
    fn take(&mut self, k: KcmId, take: Take) -> Vec<(PsockId, usize)> {
        let (mux, fx) = (&mut self.mux, &mut self.fx);
        let got: Vec<Message> = match take {
            Take::One => mux.recv(k, fx).into_iter().collect(),
            Take::Many(max) => {
                let mut out = Vec::new();
                let _ = mux.recv_many(k, max, &mut out, fx);
                out
            }
            Take::Batch => mux.recv_batch(k, usize::MAX, fx).into_iter().flatten().collect(),
            Take::Into(len) => {
                let got = mux.recv_into(k, &mut vec![0; len], false, fx);
                return got.into_iter().map(|got| (got.psock, got.copied)).collect();
            }
            Take::Lent => {
                let lent: Vec<Message> =
                    mux.lend(k, usize::MAX, fx).into_iter().flatten().collect();
                mux.settle(k, lent.len(), lent.iter().map(|m| m.len()).sum(), fx);
                lent
            }
        };
        self.settle();
        got.iter().map(|message| (message.psock(), message.len())).collect()
    }
}

#[derive(Clone, Debug)]
enum Rx {
    Deliver(usize),
    Disable(usize),
    Enable(usize),
    Clone,
}

#[derive(Clone, Debug)]
enum Tx {
    Send(usize),
    /// The writer of one connection runs to its end.
    Run(usize),
    Attach,
    Clone,
}

proptest! {
    #[test]
    fn receivers_are_served_in_the_order_of_their_line(ops in prop::collection::vec(
        prop_oneof![
            6 => (1usize..4).prop_map(Rx::Deliver),
            1 => (0usize..5).prop_map(Rx::Disable),
            2 => (0usize..5).prop_map(Rx::Enable),
            1 => Just(Rx::Clone),
        ],
        1..60,
    )) {
        let (mut rig, first) = Rig::new(DGRAM);
        let psock = rig.attach();
        let mut kcms = vec![first];
        let mut line = VecDeque::from([first]);
        let mut number = 0;
        for op in ops {
            match op {
                Rx::Deliver(n) => {
                    let texts: Vec<String> = (0..n).map(|at| format!("{}", number + at)).collect();
                    let refs: Vec<&str> = texts.iter().map(String::as_str).collect();
                    let Some(next) = line.pop_front() else { continue };
                    line.push_back(next);
                    number += n;
                    prop_assert_eq!(rig.deliver(psock, &refs), Delivery::Taken);
                    prop_assert_eq!(rig.recv_all(next), texts);
                }
                Rx::Disable(at) => {
                    let kcm = kcms[at % kcms.len()];
                    rig.disable(kcm, true);
                    line.retain(|k| *k != kcm);
                }
                Rx::Enable(at) => {
                    let kcm = kcms[at % kcms.len()];
                    rig.disable(kcm, false);
                    if !line.contains(&kcm) {
                        line.push_back(kcm);
                    }
                }
                Rx::Clone if kcms.len() < 5 => {
                    let kcm = rig.clone_kcm(first);
                    kcms.push(kcm);
                    line.push_back(kcm);
                }
                Rx::Clone => {}
            }
        }
    }

    /// Connections that flood and one with a message: however the socket is read, and whether it
    /// takes that message or is full of the others', of no other more is read before it than a few
    /// turns, whatever that one has.
    #[test]
    fn a_lone_message_waits_for_no_more_than_a_turn_of_each_other_connection(
        floods in 1usize..8,
        arrivals in prop::collection::vec((0usize..8, 1usize..40), 1..60),
        before in prop::collection::vec(take(), 0..20),
        take in take(),
        (turn, room, seqpacket) in (1usize..2000, prop_oneof![Just(1usize << 20), 1usize..5000], any::<bool>()),
    ) {
        const LARGEST: usize = 200;
        let (mut rig, k) =
            Rig::with(if seqpacket { SEQ } else { DGRAM }, MuxOptions::default(), small(room));
        rig.mux.turns = Turns::all(turn);
        let others: Vec<PsockId> = (0..floods).map(|_| rig.attach()).collect();
        let lone = rig.attach();
        for (at, (who, count)) in arrivals.into_iter().enumerate() {
            let psock = others[who % floods];
            if rig.mux.psock_stats(psock).unwrap().parked_msgs == 0 {
                let texts: Vec<String> = (0..count).map(|n| "x".repeat(1 + (at * 37 + n * 61) % LARGEST)).collect();
                let _ = rig.deliver(psock, &texts.iter().map(String::as_str).collect::<Vec<_>>());
            }
        }
        for take in before {
            rig.take(k, take);
        }
        let _ = rig.deliver(lone, &["the one"]);
        let mut waited: BTreeMap<PsockId, usize> = BTreeMap::new();
        loop {
            let got = rig.take(k, take);
            prop_assert!(!got.is_empty(), "it is never served");
            let before = got.iter().take_while(|(psock, _)| *psock != lone);
            for (psock, bytes) in before {
                *waited.entry(*psock).or_default() += bytes;
            }
            if got.iter().any(|(psock, _)| *psock == lone) {
                break;
            }
            rig.check_sums();
        }
        for (psock, bytes) in waited {
            // What is read until those that wait for a full socket are looked at, if it is full;
            // what is in line; and a turn. What crosses a limit is a message.
            let bound = (2 + (floods + 1).div_ceil(super::super::recv::ASKED)) * (turn + LARGEST);
            prop_assert!(bytes <= bound, "{bytes} of {psock}, more than {bound}");
        }
    }

    /// A stream that is attached again, with another parser say: what its old connection left is
    /// read before what the new one brings, among others that flood, and though messages move.
    #[test]
    fn what_a_connection_left_is_read_before_what_comes_later(
        events in prop::collection::vec((0usize..4, 1usize..40, prop::option::of(take())), 1..60),
        leaves in 0usize..40,
        moves in prop::option::of(0usize..60),
        take in take(),
        (turn, room) in (1usize..2000, prop_oneof![Just(1usize << 20), 1usize..5000]),
    ) {
        let (mut rig, k) = Rig::with(DGRAM, MuxOptions::default(), small(room));
        rig.mux.turns = Turns::all(turn);
        // What finds no room where it moves to waits outside, and is overtaken.
        let moves = moves.filter(|_| room == 1 << 20);
        let other = rig.clone_kcm(k);
        rig.disable(other, moves.is_none());
        let floods = [rig.attach(), rig.attach()];
        let (old, mut new) = (rig.attach(), None);
        for (at, (who, count, read)) in events.into_iter().enumerate() {
            if at == leaves {
                prop_assert_eq!(rig.unattach(old), Ok(()));
                new = Some(rig.attach());
            }
            if moves == Some(at) {
                rig.disable(other, true);
            }
            let psock = floods.get(who).copied().unwrap_or(new.unwrap_or(old));
            if rig.mux.psock_stats(psock).unwrap().parked_msgs == 0 {
                let texts: Vec<String> = (0..count).map(|n| "x".repeat(1 + (at * 37 + n * 61) % 200)).collect();
                let _ = rig.deliver(psock, &texts.iter().map(String::as_str).collect::<Vec<_>>());
            }
            if let Some(read) = read.filter(|_| at < leaves) {
                rig.take(k, read);
            }
        }
        rig.disable(other, true);
        let (mut later, mut rounds) = (false, 0);
        while rig.mux.is_readable(k) && rounds < 10_000 {
            for (psock, _) in rig.take(k, take) {
                later |= Some(psock) == new;
                prop_assert!(psock != old || !later, "after what came later");
            }
            rig.check_sums();
            rounds += 1;
        }
    }

    #[test]
    fn senders_and_connections_meet_in_the_order_of_their_lines(ops in prop::collection::vec(
        prop_oneof![
            6 => (0usize..5).prop_map(Tx::Send),
            3 => (0usize..5).prop_map(Tx::Run),
            1 => Just(Tx::Attach),
            1 => Just(Tx::Clone),
        ],
        1..80,
    )) {
        let options = MuxOptions { tx_turn: None, ..MuxOptions::default() };
        let (mut rig, first) = Rig::with(DGRAM, options, KcmOptions::default());
        let mut kcms = vec![first];
        let mut psocks = Vec::new();
        // The oracle: who waits, who is idle, who holds whom, what is queued, what must be out.
        let mut waiting: VecDeque<KcmId> = VecDeque::new();
        let mut idle: VecDeque<PsockId> = VecDeque::new();
        let mut holds: BTreeMap<PsockId, KcmId> = BTreeMap::new();
        let mut queued: BTreeMap<KcmId, String> = BTreeMap::new();
        let mut wires: BTreeMap<PsockId, String> = BTreeMap::new();
        for (number, op) in ops.into_iter().enumerate() {
            match op {
                Tx::Send(at) => {
                    let kcm = kcms[at % kcms.len()];
                    let text = format!("{number}.");
                    rig.send(kcm, &text, NONE).unwrap();
                    queued.entry(kcm).or_default().push_str(&text);
                    let served = holds.values().any(|k| *k == kcm) || waiting.contains(&kcm);
                    match (served, idle.front()) {
                        (true, _) => {}
                        (false, Some(&psock)) => {
                            idle.pop_front();
                            holds.insert(psock, kcm);
                        }
                        (false, None) => waiting.push_back(kcm),
                    }
                }
                Tx::Run(at) => {
                    let writers: Vec<PsockId> = holds.keys().copied().collect();
                    if writers.is_empty() {
                        continue;
                    }
                    let psock = writers[at % writers.len()];
                    rig.write(psock);
                    // It serves its holder, then everybody who waits, then it is idle.
                    let mut next = holds.remove(&psock);
                    while let Some(kcm) = next {
                        let out = queued.remove(&kcm).unwrap_or_default();
                        wires.entry(psock).or_default().push_str(&out);
                        next = waiting.pop_front();
                    }
                    idle.push_back(psock);
                }
                Tx::Attach if psocks.len() < 5 => {
                    let psock = rig.attach();
                    psocks.push(psock);
                    match waiting.pop_front() {
                        Some(kcm) => { holds.insert(psock, kcm); }
                        None => idle.push_back(psock),
                    }
                }
                Tx::Clone if kcms.len() < 5 => kcms.push(rig.clone_kcm(first)),
                _ => {}
            }
            for psock in &psocks {
                let expect = wires.get(psock).map_or("", String::as_str);
                prop_assert_eq!(rig.wire(*psock), expect);
            }
        }
    }
}
