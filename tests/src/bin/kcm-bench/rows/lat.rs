//! Ask and answer: how long one waits.

use anyhow::Result;

use crate::drive::{Duo, Ran, number, words};
use crate::report::{Case, Metric, metric};
use crate::run::Bench;

const VARIANTS: &[&str] = &["epoll", "kcm-one", "framed", "kcm", "framed-flume"];

pub(super) const METRICS: &[Metric] = &[
    metric("p50_us", "p50 µs"),
    metric("p99_us", "p99 µs"),
    metric("asked", "asked"),
    metric("cpu_ns", "CPU ns/message"),
];

pub(super) fn figures(ran: &Ran) -> Vec<f64> {
    let get = |k| number(&ran.sent, k);
    vec![get("p50"), get("p99"), get("asked"), ran.costs(ran.server)[0]]
}

pub(super) fn measure(b: &mut Bench) -> Result<()> {
    case(b, "1c", "ask and answer, 64B, one connection, one in flight", 1, 0);
    case(b, "8c-250", "ask and answer, 64B, 8 connections, 250 requests/s each", 8, 250);
    Ok(())
}

/// An echoing server and a client that asks.
pub(super) fn asked(
    b: &mut Bench,
    variant: &str,
    conns: usize,
    rate: u64,
    flood: bool,
) -> Result<Ran> {
    let duo = duo(variant, conns, rate, flood, b.secs);
    b.duo(&duo)
}

pub(crate) fn duo(variant: &str, conns: usize, rate: u64, flood: bool, secs: f64) -> Duo {
    // A quantile of the last hundredth wants some hundreds of answers.
    let secs = if rate == 0 { secs } else { secs * 2.5 };
    Duo {
        server: words(
            "serve",
            &[
                ("variant", variant.to_owned()),
                ("conns", (conns + usize::from(flood)).to_string()),
                ("size", "64".into()),
                ("consumers", "4".into()),
            ],
            &["echo"],
        ),
        client: words(
            "lat",
            &[("conns", conns.to_string()), ("secs", secs.to_string()), ("rate", rate.to_string())],
            if flood { &["flood"] } else { &[] },
        ),
        announced: false,
        counted: true,
        watched: None,
    }
}

fn case(b: &mut Bench, id: &str, title: &str, conns: usize, rate: u64) {
    let case = Case {
        part: "lat",
        id: id.into(),
        title: title.into(),
        params: vec![("conns", conns as f64), ("rate", rate as f64)],
        metrics: METRICS,
        base: "epoll",
        rows: Vec::new(),
    };
    b.compare(case, VARIANTS, |b, variant| Ok(figures(&asked(b, variant, conns, rate, false)?)));
}
