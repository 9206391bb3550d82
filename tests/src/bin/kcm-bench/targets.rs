//! What the product claims of itself, and whether this run bears it out.

use serde_json::{Value, json};

use crate::report::{Case, pairwise};
use crate::stats::{Spread, short};

/// A variant of a case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    part: &'static str,
    case: &'static str,
    variant: &'static str,
}

const fn at(part: &'static str, case: &'static str, variant: &'static str) -> At {
    At { part, case, variant }
}

/// How a target's figure comes about.
#[derive(Clone, Copy, Debug)]
enum To {
    /// The metric itself.
    Itself,
    /// Its ratio to another's.
    Ratio(At),
    /// How much more it is than another's.
    Beyond(At),
}

#[derive(Clone, Copy, Debug)]
enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

/// One claim.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// The work.
    work: &'static str,
    /// What it is held against.
    peer: &'static str,
    of: At,
    metric: &'static str,
    to: To,
    limit: Limit,
}

const RX64: &str = "64B-8c-4w";
const TX64: &str = "64B-8c-16w";

const fn rx(
    work: &'static str,
    peer: &'static str,
    case: &'static str,
    ours: &'static str,
    theirs: &'static str,
    limit: f64,
) -> Target {
    let (of, to) = (at("rx", case, ours), To::Ratio(at("rx", case, theirs)));
    Target { work, peer, of, metric: "cpu_ns", to, limit: Limit::AtMost(limit) }
}

const fn bytes(work: &'static str, case: &'static str, variant: &'static str) -> Target {
    Target {
        work,
        peer: "raw: bytes/s",
        of: at("rx", case, variant),
        metric: "gb_per_s",
        to: To::Ratio(at("rx", case, "raw")),
        limit: Limit::AtLeast(0.9),
    }
}

const fn tx(peer: &'static str, theirs: &'static str, limit: f64) -> Target {
    Target {
        work: "send 64 B, 8 connections, 16 producers",
        peer,
        of: at("tx", TX64, "kcm"),
        metric: "mmsg_per_s",
        to: To::Ratio(at("tx", TX64, theirs)),
        limit: Limit::AtLeast(limit),
    }
}

const fn call(work: &'static str, case: &'static str) -> Target {
    engine(work, case, "jit", 1.5)
}

const fn engine(work: &'static str, case: &'static str, ours: &'static str, limit: f64) -> Target {
    Target {
        work,
        peer: "the same in safe native Rust",
        of: at("parser", case, ours),
        metric: "ns",
        to: To::Ratio(at("parser", case, "native")),
        limit: Limit::AtMost(limit),
    }
}

const fn load(work: &'static str, parser: &'static str, limit_us: f64) -> Target {
    Target {
        work,
        peer: "verify and compile, µs",
        of: at("parser", "load", parser),
        metric: "total_us",
        to: To::Itself,
        limit: Limit::AtMost(limit_us),
    }
}

/// All of them, in the order in which they are told.
pub(crate) const TARGETS: &[Target] = &[
    rx(
        "receive 64 B, 8 connections to 4 sockets, batches, JIT",
        "block: CPU",
        RX64,
        "kcm",
        "block",
        1.15,
    ),
    rx("the same", "batch: CPU", RX64, "kcm", "batch", 0.8),
    rx(
        "the same, one recv().await per message",
        "framed-flume: CPU",
        RX64,
        "kcm-one",
        "framed-flume",
        0.3,
    ),
    rx("the same, batches", "epoll: CPU", RX64, "kcm", "epoll", 2.0),
    bytes("receive 16 KiB, 8 connections to 4 sockets", "16KiB-8c-4w", "kcm"),
    bytes("receive 256 KiB, 8 connections to 4 sockets", "256KiB-8c-4w", "kcm"),
    rx("interpreter, 64 B Thrift", "the JIT: CPU", RX64, "kcm-interp", "kcm", 2.0),
    engine("buffer call, 68-byte Thrift back to back", "buffer", "jit", 1.5),
    tx("Mutex<TcpStream>: messages/s", "mutex", 50.0),
    tx("mpsc to a writer, copy + write: messages/s", "mpsc", 1.3),
    tx("combining buffer, 64-message affinity: messages/s", "combining", 0.8),
    Target {
        work: "request and response, one in flight, 64 B",
        peer: "epoll echo: p50",
        of: at("lat", "1c", "kcm-one"),
        metric: "p50_us",
        to: To::Ratio(at("lat", "1c", "epoll")),
        limit: Limit::AtMost(1.2),
    },
    Target {
        work: "the same",
        peer: "Framed echo: p50",
        of: at("lat", "1c", "kcm-one"),
        metric: "p50_us",
        to: To::Ratio(at("lat", "1c", "framed")),
        limit: Limit::AtMost(1.0),
    },
    Target {
        work: "10,000 connections, 1 % active",
        peer: "the same load on 100: messages/s",
        of: at("many", "kcm", "10000 connections"),
        metric: "mmsg_per_s",
        to: To::Ratio(at("many", "kcm", "100 connections")),
        limit: Limit::AtLeast(0.8),
    },
    Target {
        work: "an idle connection, attached and used before",
        peer: "bytes of memory beyond the socket",
        of: at("memory", "idle", "kcm"),
        metric: "used_bytes",
        to: To::Itself,
        limit: Limit::AtMost(1024.0),
    },
    Target {
        work: "64 connections, one floods: p99 of the others",
        peer: "the same without the flood",
        of: at("flood", "kcm-one", "flooded"),
        metric: "p99_us",
        to: To::Ratio(at("flood", "kcm-one", "quiet")),
        limit: Limit::AtMost(2.0),
    },
    Target {
        work: "receive 64 B, 4 connections to 4 sockets, in one guest",
        peer: "the kernel's KCM, the same parser: messages/s",
        of: at("kernel", "64B-4c-4w", "kcm"),
        metric: "mmsg_per_s",
        to: To::Ratio(at("kernel", "64B-4c-4w", "kernel-kcm")),
        limit: Limit::AtLeast(20.0),
    },
    call("thrift, direct access, JIT", "thrift-direct"),
    call("thrift, load_bytes, JIT", "thrift-load_bytes"),
    call("http2, direct access, JIT", "http2-direct"),
    call("http2, load_bytes, JIT", "http2-load_bytes"),
    call("mqtt, direct access, JIT", "mqtt-direct"),
    call("mqtt, load_bytes, JIT", "mqtt-load_bytes"),
    call("resp, direct access, JIT", "resp-direct"),
    call("resp, load_bytes, JIT", "resp-load_bytes"),
    call("CRLF scan, direct access, JIT", "crlf-direct"),
    call("CRLF scan, load_bytes, JIT", "crlf-load_bytes"),
    Target {
        work: "a call of the JIT's, ns",
        peer: "beyond an empty call",
        of: at("parser", "empty", "jit"),
        metric: "ns",
        to: To::Beyond(at("parser", "empty", "native")),
        limit: Limit::AtMost(2.0),
    },
    load("thrift", "thrift", 1000.0),
    load("http2", "http2", 1000.0),
    load("mqtt", "mqtt", 1000.0),
    load("postgres", "postgres", 1000.0),
    load("resp", "resp", 25_000.0),
    engine("thrift, interpreter", "thrift-load_bytes", "interpreter", 25.0),
    engine("http2, interpreter", "http2-load_bytes", "interpreter", 25.0),
    engine("mqtt, interpreter", "mqtt-load_bytes", "interpreter", 25.0),
    Target {
        work: "interpreter, a loop",
        peer: "ns per executed instruction",
        of: at("parser", "loop", "interpreter"),
        metric: "ns",
        to: To::Itself,
        limit: Limit::AtMost(1.5),
    },
];

/// What came of a target.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) target: Target,
    /// `None`: not measured in this run.
    pub(crate) value: Option<Spread>,
}

impl Outcome {
    pub(crate) fn met(&self) -> Option<bool> {
        Some(within(self.target.limit, self.value?.median))
    }

    /// The best and the worst round are on different sides of the limit.
    fn close(&self) -> bool {
        self.value
            .is_some_and(|v| within(self.target.limit, v.min) != within(self.target.limit, v.max))
    }

    /// `met`, `missed`, `not measured`; and whether the rounds agree.
    pub(crate) fn verdict(&self) -> &'static str {
        match (self.met(), self.close()) {
            (None, _) => "not measured",
            (Some(true), false) => "met",
            (Some(true), true) => "met (not in every round)",
            (Some(false), false) => "MISSED",
            (Some(false), true) => "MISSED (not in every round)",
        }
    }

    pub(crate) fn value(&self) -> String {
        self.value.map_or_else(|| "-".to_owned(), |v| v.to_string())
    }

    pub(crate) fn limit(&self) -> String {
        match self.target.limit {
            Limit::AtMost(x) => format!("≤ {}", plain(x)),
            Limit::AtLeast(x) => format!("≥ {}", plain(x)),
        }
    }

    /// The part of the benchmarks that measures it.
    pub(crate) fn part(&self) -> &'static str {
        self.target.of.part
    }

    pub(crate) fn work(&self) -> &'static str {
        self.target.work
    }

    pub(crate) fn peer(&self) -> &'static str {
        self.target.peer
    }

    pub(crate) fn json(&self) -> Value {
        let (bound, limit) = match self.target.limit {
            Limit::AtMost(x) => ("at_most", x),
            Limit::AtLeast(x) => ("at_least", x),
        };
        json!({
            "work": self.target.work, "peer": self.target.peer, bound: limit,
            "value": self.value.map(|v| v.json()), "met": self.met(), "verdict": self.verdict(),
        })
    }
}

/// A limit as it was written.
fn plain(x: f64) -> String {
    if x.fract() == 0.0 || x >= 100.0 { format!("{x:.0}") } else { short(x) }
}

fn within(limit: Limit, x: f64) -> bool {
    match limit {
        Limit::AtMost(most) => x <= most,
        Limit::AtLeast(least) => x >= least,
    }
}

fn values(cases: &[Case], at: At, metric: &str) -> Option<Vec<f64>> {
    cases
        .iter()
        .find(|c| c.part == at.part && c.id == at.case)?
        .values(at.variant, metric)
        .filter(|v| !v.is_empty())
}

/// Holds every target against what was measured.
pub(crate) fn outcomes(cases: &[Case]) -> Vec<Outcome> {
    let value = |t: &Target| {
        let ours = values(cases, t.of, t.metric)?;
        Some(match t.to {
            To::Itself => Spread::of(ours),
            To::Ratio(base) => Spread::of(pairwise(&ours, &values(cases, base, t.metric)?)),
            To::Beyond(base) => {
                let base = values(cases, base, t.metric)?;
                Spread::of(ours.iter().zip(&base).map(|(x, b)| x - b))
            }
        })
    };
    TARGETS.iter().map(|t| Outcome { target: *t, value: value(t) }).collect()
}

/// Aligned text.
pub(crate) fn table(outcomes: &[Outcome]) -> String {
    let wide =
        |f: fn(&Outcome) -> &'static str| outcomes.iter().map(|o| f(o).chars().count()).max();
    let (work, peer) = (wide(Outcome::work).unwrap_or(0), wide(Outcome::peer).unwrap_or(0));
    let mut out = "\ntargets\n".to_owned();
    for o in outcomes {
        out.push_str(&format!(
            "  {:<work$}  {:<peer$} {:>9} {:>22}  {}\n",
            o.work(),
            o.peer(),
            o.limit(),
            o.value(),
            o.verdict()
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Metric, Row, metric};

    const METRICS: &[Metric] = &[metric("cpu_ns", "CPU ns")];

    fn measured(kcm: [f64; 3], block: [f64; 3]) -> Vec<Outcome> {
        let row = |variant: &str, ns: [f64; 3]| Row {
            variant: variant.into(),
            rounds: ns.iter().map(|n| vec![*n]).collect(),
        };
        let case = Case {
            part: "rx",
            id: RX64.into(),
            title: String::new(),
            params: Vec::new(),
            metrics: METRICS,
            base: "block",
            rows: vec![row("kcm", kcm), row("block", block)],
        };
        outcomes(&[case])
    }

    #[test]
    fn a_target_is_met_or_missed_by_the_median_of_neighbours() {
        let verdict = |kcm, block| measured(kcm, block)[0].verdict();
        assert_eq!(verdict([11.0; 3], [10.0; 3]), "met");
        assert_eq!(verdict([12.0; 3], [10.0; 3]), "MISSED");
        assert_eq!(verdict([11.0, 11.0, 12.0], [10.0; 3]), "met (not in every round)");
        assert_eq!(verdict([12.0, 12.0, 11.0], [10.0; 3]), "MISSED (not in every round)");
    }

    #[test]
    fn what_did_not_run_is_said_to_be_unmeasured() {
        let all = measured([1.0; 3], [1.0; 3]);
        assert_eq!(all.len(), TARGETS.len());
        assert_eq!(all.iter().filter(|o| o.value.is_some()).count(), 1);
        assert_eq!(all[1].verdict(), "not measured");
        assert!(all[1].json()["met"].is_null());
    }
}
