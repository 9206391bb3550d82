//! One connection floods: what the others' answers take, with the flood and without.

use anyhow::Result;

use super::lat::{METRICS, asked, figures};
use crate::report::{Case, Metric, metric};
use crate::run::Bench;

/// The 99th percentile is what is compared.
const FLOOD: &[Metric] =
    &[METRICS[1], METRICS[0], METRICS[2], METRICS[3], metric("flooded", "flooded M/s")];

/// Connections that ask; one more floods.
const OTHERS: usize = 63;

/// Requests per second of each: together far less than any server here can answer.
const RATE: u64 = 20;

pub(super) fn measure(b: &mut Bench) -> Result<()> {
    for variant in ["kcm-one", "epoll", "framed", "framed-flume"] {
        let case = Case {
            part: "flood",
            id: variant.into(),
            title: format!("64 connections, one floods: the answers to the other 63, {variant}"),
            params: vec![("conns", 64.0)],
            metrics: FLOOD,
            base: "quiet",
            rows: Vec::new(),
        };
        b.compare(case, &["quiet", "flooded"], |b, how| {
            let ran = asked(b, variant, OTHERS, RATE, how == "flooded")?;
            let f = figures(&ran);
            let flooded = crate::drive::number(&ran.sent, "flooded") / ran.wall / 1e6;
            Ok(vec![f[1], f[0], f[2], f[3], flooded])
        });
    }
    Ok(())
}
