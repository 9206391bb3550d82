//! What each connection is going to do: from the seed and its number alone.

use std::time::Duration;

use kcm_core::PsockError;

use crate::codec::{numbered, poison};
use crate::harness::Rng;
use crate::peer::PairOptions;

/// The longest message accepted; what breaks this is refused.
pub(super) const MAX_MESSAGE: u32 = 256 * 1024;

/// How long an unfinished message may take where that is limited.
pub(super) const ASSEMBLY: Duration = Duration::from_millis(400);

/// Payload of the message that some endings cut: its frame has four bytes more.
const LAST: usize = 40;

/// Everything that is done in a run of some length.
pub(super) const INJECTED: [&str; 25] = [
    "fin between messages",
    "fin inside a message",
    "reset",
    "parser error",
    "message too long",
    "silence",
    "unattach",
    "one-byte writes",
    "stalls",
    "bursts",
    "tiny receive window",
    "tiny window of the peer",
    "peer that does not read for a while",
    "peer that reads slowly",
    "half close",
    "moved to another multiplexor",
    "bpf parser",
    "native parser",
    "disable and enable",
    "receive buffer changed",
    "low water changed",
    "send buffer changed",
    "close, drained",
    "close, at once",
    "clone",
];

/// Byte positions of a message at which a FIN comes.
pub(super) const CUTS: usize = LAST + 4;

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// FIN, this many bytes into a message.
    Fin { cut: usize },
    /// RST, this many bytes into a message.
    Reset { cut: usize },
    /// Bytes that the parser refuses with this code.
    Poison { code: u32 },
    /// A length beyond the limit.
    TooLong,
    /// Silence, this many bytes into a message, for longer than is allowed.
    Silence { cut: usize },
    /// None: it is unattached while it lives.
    Unattach,
}

/// How its peer writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// Many messages in one write.
    Bursts,
    /// Pieces of up to so many bytes.
    Pieces(usize),
    /// Pauses, also inside messages.
    Stalls,
}

/// One connection's life.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) conn: u32,
    /// Multiplexor to which it is attached first.
    pub(super) mux: usize,
    /// Whole messages that its peer sends. An anchor sends until the end of the run.
    pub(super) messages: u32,
    pub(super) anchor: bool,
    pub(super) manner: Manner,
    pub(super) ending: Ending,
    pub(super) buffers: PairOptions,
    pub(super) half_close: bool,
    /// The parser is the BPF one.
    pub(super) bpf: bool,
    /// Times that it is unattached and attached again, perhaps elsewhere, on its way.
    pub(super) moves: u32,
    /// Its peer reads nothing for this long.
    pub(super) sulks: Duration,
    /// Reads of its peer that are preceded by a pause.
    pub(super) slow_reads: u32,
    /// For what the peer and the controller choose on their way.
    pub(super) seed: u64,
}

impl Plan {
    pub(super) fn new(seed: u64, conn: u32, muxes: usize) -> Self {
        let mut rng = Rng::new(seed ^ (u64::from(conn) + 1).wrapping_mul(0x9e37_79b9));
        rng.number();
        // By number, so that every byte position has its turn whatever the seed.
        let cut = conn as usize / 4 % CUTS;
        let ending = match conn % 4 {
            0 | 1 => Ending::Fin { cut },
            _ => match rng.below(8) {
                0 | 1 => Ending::Reset { cut },
                2 | 3 => Ending::Poison { code: 1 + rng.below(4000) as u32 },
                4 => Ending::TooLong,
                5 => Ending::Silence { cut: cut.max(1) },
                _ => Ending::Unattach,
            },
        };
        let manner = match rng.below(6) {
            0 => Manner::Pieces(1),
            1 => Manner::Pieces(2 + rng.below(60)),
            2 => Manner::Stalls,
            _ => Manner::Bursts,
        };
        let small = |rng: &mut Rng| match rng.below(3) {
            0 => Some(2048 << rng.below(4)),
            _ => None,
        };
        let sulks = match rng.below(5) {
            0 => Duration::from_millis(200 + rng.below(1500) as u64),
            _ => Duration::ZERO,
        };
        let small = |rng: &mut Rng| match sulks.is_zero() {
            true => small(rng),
            // Little fits: what is sent to it gets stuck.
            false => Some(2048),
        };
        Plan {
            conn,
            mux: rng.below(muxes),
            messages: match manner {
                // These take long.
                Manner::Pieces(1) | Manner::Stalls => rng.below(30) as u32,
                _ => rng.below(400) as u32,
            },
            anchor: false,
            manner,
            ending,
            buffers: PairOptions {
                recv_buffer: small(&mut rng),
                peer_recv_buffer: small(&mut rng),
                send_buffer: small(&mut rng),
            },
            half_close: rng.below(3) == 0,
            bpf: !matches!(ending, Ending::Poison { .. }) && rng.below(2) == 0,
            // What a reset loses is counted per attachment; so there is one only.
            moves: match ending {
                Ending::Reset { .. } => 0,
                _ => rng.below(4) as u32,
            },
            sulks,
            slow_reads: if rng.below(4) == 0 { rng.below(40) as u32 } else { 0 },
            seed: rng.number(),
        }
    }

    /// A connection that lives as long as the run, so that everything sent can leave.
    pub(super) fn anchor(seed: u64, conn: u32, mux: usize) -> Self {
        Plan {
            mux,
            messages: 0,
            anchor: true,
            manner: Manner::Bursts,
            ending: Ending::Unattach,
            buffers: PairOptions::default(),
            half_close: false,
            bpf: true,
            moves: 0,
            sulks: Duration::ZERO,
            slow_reads: 0,
            ..Plan::new(seed, conn, 1)
        }
    }

    /// Message number `seq`.
    pub(super) fn message(&self, seq: u32, rng: &mut Rng) -> Vec<u8> {
        let len = match rng.below(40) {
            _ if self.manner == Manner::Pieces(1) => 8 + rng.below(80),
            0 => 8 + rng.below(60_000),
            1..5 => 8 + rng.below(4000),
            _ => 8 + rng.below(200),
        };
        numbered(self.conn, seq, len)
    }

    /// What comes after the last whole message.
    pub(super) fn tail(&self) -> Vec<u8> {
        let cut = |cut: usize| numbered(self.conn, self.messages, LAST)[..cut].to_vec();
        match self.ending {
            Ending::Fin { cut: at } | Ending::Reset { cut: at } | Ending::Silence { cut: at } => {
                cut(at)
            }
            Ending::Poison { code } => poison(code).to_vec(),
            Ending::TooLong => (MAX_MESSAGE + 1).to_be_bytes().to_vec(),
            Ending::Unattach => Vec::new(),
        }
    }

    /// What is done to it, by the names in [`INJECTED`].
    pub(super) fn injects(&self) -> Vec<&'static str> {
        let ending = match self.ending {
            _ if self.anchor => return Vec::new(),
            Ending::Fin { cut: 0 } => "fin between messages",
            Ending::Fin { .. } => "fin inside a message",
            Ending::Reset { .. } => "reset",
            Ending::Poison { .. } => "parser error",
            Ending::TooLong => "message too long",
            Ending::Silence { .. } => "silence",
            Ending::Unattach => "unattach",
        };
        let tiny = |buffer: Option<u32>| buffer.is_some_and(|n| n <= 4096);
        let also = [
            ("one-byte writes", self.manner == Manner::Pieces(1)),
            ("stalls", self.manner == Manner::Stalls),
            ("bursts", self.manner == Manner::Bursts),
            ("tiny receive window", tiny(self.buffers.recv_buffer)),
            ("tiny window of the peer", tiny(self.buffers.peer_recv_buffer)),
            ("peer that does not read for a while", !self.sulks.is_zero()),
            ("peer that reads slowly", self.slow_reads > 0),
            ("half close", self.half_close),
            ("moved to another multiplexor", self.moves > 0),
            ("bpf parser", self.bpf),
            ("native parser", !self.bpf),
        ];
        std::iter::once(ending).chain(also.iter().filter(|a| a.1).map(|a| a.0)).collect()
    }

    /// True if unfinished messages are not waited for.
    pub(super) fn timed(&self) -> bool {
        matches!(self.ending, Ending::Silence { .. })
    }

    /// True if the connection can fail for this cause.
    pub(super) fn explains(&self, cause: &PsockError) -> bool {
        match cause {
            // A peer that reads slowly, on a multiplexor that does not wait for ever.
            PsockError::Stalled => true,
            PsockError::TimedOut { .. } => self.timed(),
            PsockError::Eof => matches!(self.ending, Ending::Fin { cut: 0 }),
            PsockError::EofMidMessage { have, .. } => {
                matches!(self.ending, Ending::Fin { cut } if cut as u64 == *have)
            }
            PsockError::Reset => matches!(self.ending, Ending::Reset { .. }),
            PsockError::Parser(code) => {
                matches!(self.ending, Ending::Poison { code: c } if c as i32 == *code)
            }
            PsockError::TooLong { .. } => self.ending == Ending::TooLong,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_plan_follows_from_the_seed_and_the_number_alone() {
        let plan = |seed, conn| format!("{:?}", Plan::new(seed, conn, 2));
        assert_eq!(plan(1, 7), plan(1, 7));
        assert!((0..20).any(|conn| plan(1, conn) != plan(2, conn)));
    }

    #[test]
    fn every_ending_occurs_and_every_byte_position_has_its_fin() {
        let plans: Vec<Plan> = (0..400).map(|conn| Plan::new(5, conn, 2)).collect();
        let fins: BTreeSet<usize> = plans
            .iter()
            .filter_map(|p| match p.ending {
                Ending::Fin { cut } => Some(cut),
                _ => None,
            })
            .collect();
        assert_eq!(fins, (0..CUTS).collect());
        let done: BTreeSet<&str> = plans.iter().flat_map(Plan::injects).collect();
        assert!(done.iter().all(|what| INJECTED.contains(what)), "{done:?}");
        // The rest is done to sockets.
        assert_eq!(done.len(), 18, "{done:?}");
        let has = |wanted: fn(&Ending) -> bool| plans.iter().any(|p| wanted(&p.ending));
        assert!(has(|e| matches!(e, Ending::Reset { .. })));
        assert!(has(|e| matches!(e, Ending::Poison { .. })));
        assert!(has(|e| matches!(e, Ending::Silence { .. })));
        assert!(has(|e| matches!(e, Ending::TooLong)));
        assert!(has(|e| matches!(e, Ending::Unattach)));
    }
}
