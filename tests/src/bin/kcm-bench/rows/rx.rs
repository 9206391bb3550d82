//! Receive: CPU per message, by message size, connections and consumers.

use anyhow::Result;

use super::bytes;
use crate::drive::{Duo, words};
use crate::report::{Case, Metric, metric};
use crate::run::Bench;

/// Measured with [`URING_CONNS`] connections and [`URING_WORKERS`] consumers only: whether
/// io_uring is worth a driver of ours, and the epoll receiver that reads as it does.
const URING: [&str; 2] = ["uring", "epoll-empty"];
const URING_CONNS: usize = 8;
const URING_WORKERS: usize = 4;

/// Whoever is compared closely runs side by side: a neighbour in the list is one in time.
const VARIANTS: &[&str] = &[
    "raw",
    "epoll",
    "uring",
    "epoll-empty",
    "kcm",
    "block",
    "batch",
    "kcm-interp",
    "kcm-native",
    "kcm-one",
    "framed-flume",
    "framed-mpsc",
    "framed",
];

/// What [`crate::drive::Ran::costs`] gives.
pub(super) const METRICS: &[Metric] = &[
    metric("cpu_ns", "CPU ns/message"),
    metric("user_ns", "user ns"),
    metric("sys_ns", "system ns"),
    metric("mmsg_per_s", "M messages/s"),
    metric("gb_per_s", "GB/s"),
];

pub(super) fn measure(b: &mut Bench) -> Result<()> {
    let sizes: &[usize] =
        if b.quick { &[64, 16 << 10] } else { &[64, 1 << 10, 16 << 10, 256 << 10] };
    let conns: &[usize] = if b.quick { &[8] } else { &[1, 8, 64] };
    let workers: &[usize] = if b.quick { &[4] } else { &[1, 4] };
    let uring = crate::uring::probe();
    if let Err(e) = &uring {
        b.note(format!("uring: not permitted here: {e:#}"));
    }
    for &size in sizes {
        for &conns in conns {
            for &workers in workers {
                let with = uring.is_ok() && conns == URING_CONNS && workers == URING_WORKERS;
                let variants: Vec<&str> =
                    VARIANTS.iter().copied().filter(|v| with || !URING.contains(v)).collect();
                case(b, &variants, size, conns, workers);
            }
        }
    }
    Ok(())
}

fn case(b: &mut Bench, variants: &[&str], size: usize, conns: usize, workers: usize) {
    let case = Case {
        part: "rx",
        id: format!("{}-{conns}c-{workers}w", bytes(size)),
        title: format!("receive, {}, {conns} connections, {workers} consumers", bytes(size)),
        params: vec![("size", size as f64), ("conns", conns as f64), ("workers", workers as f64)],
        metrics: METRICS,
        base: "framed-flume",
        rows: Vec::new(),
    };
    b.compare(case, variants, |b, variant| {
        let ran = b.duo(&duo(variant, size, conns, workers, b.secs))?;
        Ok(ran.costs(ran.server))
    });
}

/// A receiver, and a client that fills its connections.
pub(crate) fn duo(variant: &str, size: usize, conns: usize, workers: usize, secs: f64) -> Duo {
    Duo {
        server: words(
            "serve",
            &[
                ("variant", variant.to_owned()),
                ("conns", conns.to_string()),
                ("size", size.to_string()),
                ("consumers", workers.to_string()),
            ],
            &[],
        ),
        client: words(
            "send",
            &[
                ("conns", conns.to_string()),
                ("size", size.to_string()),
                ("secs", secs.to_string()),
                // At least a few messages, and enough for a large write.
                ("batch", (256 << 10).max(size + 4).to_string()),
            ],
            &[],
        ),
        announced: false,
        // It counts bytes only.
        counted: variant != "raw",
        watched: None,
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    #[test]
    fn every_variant_exists() {
        for v in super::VARIANTS {
            assert!(crate::serve::RxVariant::from_str(v, false).is_ok(), "{v}");
        }
    }
}
