//! What an idle connection costs in memory, beyond its socket.

use anyhow::Result;

use crate::drive::{Duo, number, words};
use crate::report::{Case, Metric, metric};
use crate::run::Bench;
use crate::sys;

const METRICS: &[Metric] = &[
    metric("used_bytes", "bytes, after a message"),
    metric("attached_bytes", "bytes, just attached"),
    metric("used_rss_bytes", "resident, after a message"),
    metric("attached_rss_bytes", "resident, just attached"),
];

pub(super) fn measure(b: &mut Bench) -> Result<()> {
    let room = sys::raise_open_files()?;
    let wanted = if b.quick { 2_000 } else { 10_000 };
    let conns = wanted.min(room.saturating_sub(200) as usize);
    let case = Case {
        part: "memory",
        id: "idle".into(),
        title: format!("memory of an idle connection beyond its socket, {conns} connections"),
        params: vec![("conns", conns as f64)],
        metrics: METRICS,
        base: "",
        rows: Vec::new(),
    };
    b.compare(case, &["kcm"], |b, _| {
        let conns = ("conns", conns.to_string());
        let ran = b.duo(&Duo {
            server: words("memory", std::slice::from_ref(&conns), &[]),
            client: words("idle", &[conns], &[]),
            announced: true,
            counted: true,
            watched: None,
        })?;
        let of = |k| number(&ran.done, k);
        Ok(vec![of("used"), of("attached"), of("used_rss"), of("attached_rss")])
    });
    Ok(())
}
