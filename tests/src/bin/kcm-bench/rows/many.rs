//! Ten thousand connections of which one in a hundred is busy, against the busy ones alone.

use anyhow::Result;

use super::rx::METRICS as COSTS;
use crate::drive::{Duo, words};
use crate::report::{Case, Metric};
use crate::run::Bench;
use crate::sys;

/// The rate is what is compared.
const METRICS: &[Metric] = &[COSTS[3], COSTS[0], COSTS[1], COSTS[2]];

/// Connections that send.
const ACTIVE: usize = 100;

/// Connections in all.
pub(crate) const MANY: usize = 10_000;

/// Files a process has open beside its connections.
const OTHER_FILES: u64 = 100;

pub(super) fn measure(b: &mut Bench) -> Result<()> {
    let room = sys::raise_open_files()?;
    if room < MANY as u64 + OTHER_FILES {
        b.note(format!("{MANY} connections: this process may open {room} files only"));
        return Ok(());
    }
    for variant in ["kcm", "epoll", "block"] {
        let case = Case {
            part: "many",
            id: variant.into(),
            title: format!(
                "receive, 64B, {ACTIVE} busy connections among many, 4 consumers, {variant}"
            ),
            params: vec![("active", ACTIVE as f64)],
            metrics: METRICS,
            base: "100 connections",
            rows: Vec::new(),
        };
        b.compare(case, &["100 connections", "10000 connections"], |b, which| {
            let conns = if which == "100 connections" { ACTIVE } else { MANY };
            let ran = b.duo(&duo(variant, conns, b.secs))?;
            let c = ran.costs(ran.server);
            Ok(vec![c[3], c[0], c[1], c[2]])
        });
    }
    Ok(())
}

/// A receiver with so many connections, and a client of which [`ACTIVE`] send.
pub(crate) fn duo(variant: &str, conns: usize, secs: f64) -> Duo {
    Duo {
        server: words(
            "serve",
            &[
                ("variant", variant.to_owned()),
                ("conns", conns.to_string()),
                ("size", "64".into()),
                ("consumers", "4".into()),
            ],
            &["announce"],
        ),
        client: words(
            "send",
            &[
                ("conns", conns.to_string()),
                ("active", ACTIVE.to_string()),
                ("secs", secs.to_string()),
            ],
            &[],
        ),
        announced: true,
        counted: true,
        watched: None,
    }
}
