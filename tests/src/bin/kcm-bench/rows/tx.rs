//! Send: messages per second of M producers over N connections.

use anyhow::Result;

use super::bytes;
use super::rx::METRICS as COSTS;
use crate::drive::{Duo, words};
use crate::report::{Case, Metric};
use crate::run::Bench;

const VARIANTS: &[&str] =
    &["kcm", "kcm-many", "combining", "mpsc", "mpsc-writev", "mutex", "framed"];

/// The rate is what is compared.
const METRICS: &[Metric] = &[COSTS[3], COSTS[4], COSTS[0], COSTS[1], COSTS[2]];

pub(super) fn measure(b: &mut Bench) -> Result<()> {
    let cases: &[(usize, usize, usize)] = if b.quick {
        &[(64, 8, 16)]
    } else {
        &[(64, 1, 4), (64, 8, 1), (64, 8, 16), (1024, 1, 4), (1024, 8, 16)]
    };
    for &(size, conns, producers) in cases {
        case(b, size, conns, producers);
    }
    Ok(())
}

fn case(b: &mut Bench, size: usize, conns: usize, producers: usize) {
    let case = Case {
        part: "tx",
        id: format!("{}-{conns}c-{producers}w", bytes(size)),
        title: format!("send, {}, {conns} connections, {producers} producers", bytes(size)),
        params: vec![("size", size as f64), ("conns", conns as f64), ("workers", producers as f64)],
        metrics: METRICS,
        base: "mutex",
        rows: Vec::new(),
    };
    b.compare(case, VARIANTS, |b, variant| {
        let ran = b.duo(&duo(variant, size, conns, producers, b.secs))?;
        let c = ran.costs(ran.client);
        Ok(vec![c[3], c[4], c[0], c[1], c[2]])
    });
}

/// A receiver that takes everything, and the sender.
pub(crate) fn duo(variant: &str, size: usize, conns: usize, producers: usize, secs: f64) -> Duo {
    let conns = ("conns", conns.to_string());
    let size = ("size", size.to_string());
    Duo {
        server: words("serve", &[("variant", "epoll".into()), conns.clone(), size.clone()], &[]),
        client: words(
            "tx",
            &[
                ("variant", variant.to_owned()),
                conns,
                size,
                ("producers", producers.to_string()),
                ("secs", secs.to_string()),
            ],
            &[],
        ),
        announced: false,
        counted: true,
        watched: None,
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    #[test]
    fn every_variant_exists() {
        for v in super::VARIANTS {
            assert!(crate::tx::TxVariant::from_str(v, false).is_ok(), "{v}");
        }
    }
}
