//! The engines: what a message costs delineated in this process, in the kernel, and by hand.

use anyhow::Result;

use super::bytes;
use crate::drive::{Cpu, Duo, words};
use crate::report::{Case, Metric, metric};
use crate::run::Bench;

const VARIANTS: &[&str] = &["plain", "process", "kernel"];

/// The kernel's part is billed to whoever triggers it, on loopback the sender: both ends count.
const METRICS: &[Metric] = &[
    metric("cpu_ns", "CPU ns/message, both ends"),
    metric("receiver_ns", "receiver"),
    metric("sender_ns", "sender"),
    metric("mmsg_per_s", "M messages/s"),
];

pub(super) fn measure(b: &mut Bench) -> Result<()> {
    let mut variants = VARIANTS;
    if let Err(e) = kcm_core::kernel::probe() {
        b.note(format!("no kernel engine here: {e}"));
        variants = &VARIANTS[..2];
    }
    for size in [64, 1 << 10, 16 << 10] {
        for conns in [1, 16] {
            case(b, variants, size, conns);
        }
    }
    Ok(())
}

fn case(b: &mut Bench, variants: &[&str], size: usize, conns: usize) {
    let case = Case {
        part: "engines",
        id: format!("{}-{conns}c", bytes(size)),
        title: format!("engines, {}, {conns} connections, closed loop of 16 KiB", bytes(size)),
        params: vec![("size", size as f64), ("conns", conns as f64)],
        metrics: METRICS,
        base: "plain",
        rows: Vec::new(),
    };
    b.compare(case, variants, |b, variant| {
        let options = [("conns", conns.to_string()), ("size", size.to_string())];
        let mut server = options.to_vec();
        server.push(("variant", variant.to_owned()));
        let mut client = options.to_vec();
        client.push(("secs", b.secs.to_string()));
        let ran = b.duo(&Duo {
            server: words("step-serve", &server, &[]),
            client: words("step-send", &client, &[]),
            announced: true,
            counted: true,
            watched: None,
        })?;
        let ns = |of: Cpu| (of.user + of.sys) * 1e9 / ran.msgs();
        let (receiver, sender) = (ns(ran.server), ns(ran.client));
        Ok(vec![receiver + sender, receiver, sender, ran.msgs() / ran.wall / 1e6])
    });
}
