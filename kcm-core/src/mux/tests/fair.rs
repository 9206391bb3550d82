//! First come, first served, against plain deques (semantics C1, C12, D14, A27).

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

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
