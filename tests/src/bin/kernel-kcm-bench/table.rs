//! The figures: medians of the rounds with their range, and ratios to the kernel's.

use std::fmt::Write;

use crate::Args;
use crate::load::{HEAD, Seen};

/// One variant's rounds.
pub(crate) struct Row {
    /// What it is called among other benchmarks.
    id: &'static str,
    name: &'static str,
    /// Messages per second.
    rates: Vec<f64>,
    lost: u64,
    stalled: bool,
}

impl Row {
    pub(crate) fn new(id: &'static str, name: &'static str) -> Row {
        Row { id, name, rates: Vec::new(), lost: 0, stalled: false }
    }

    pub(crate) fn note(&mut self, seen: &Seen) {
        self.rates.push(seen.received.msgs as f64 / seen.seconds.max(1e-9));
        self.stalled |= seen.stalled;
        if seen.sent != seen.received {
            // Equal counts with another sum: something came that was not sent.
            self.lost += seen.sent.msgs.abs_diff(seen.received.msgs).max(1);
        }
    }

    /// Something was lost that no stall explains, or this product lost anything.
    pub(crate) fn is_wrong(&self) -> bool {
        self.lost > 0 && !self.name.starts_with("kernel")
    }

    fn sorted(&self) -> Vec<f64> {
        let mut v = self.rates.clone();
        v.sort_by(f64::total_cmp);
        v
    }

    fn median(&self) -> f64 {
        let v = self.sorted();
        v.get(v.len() / 2).copied().unwrap_or(0.0)
    }
}

/// Tables for people, one for each size of writes.
pub(crate) fn report(args: &Args, tables: &[(usize, Vec<Row>)]) -> String {
    let mut out = String::new();
    for (per_write, rows) in tables {
        let Some(kernel) = rows.first().map(Row::median) else { continue };
        let _ = writeln!(
            out,
            "\n{} B messages, {} connections, {} KCM sockets, writes of {} messages ({} B); \
             medians of {} rounds of {} s",
            args.size,
            args.conns,
            args.sockets,
            per_write,
            per_write * (args.size + HEAD),
            args.rounds,
            args.secs,
        );
        let _ = writeln!(out, "{:38} {:>9}  {:>19}  {:>10}", "", "Mmsg/s", "min–max", "x kernel");
        for r in rows {
            let v = r.sorted();
            let (min, max) = (v.first().unwrap_or(&0.0), v.last().unwrap_or(&0.0));
            let range = format!("{:.4}–{:.4}", min / 1e6, max / 1e6);
            let median = r.median();
            let _ = write!(
                out,
                "{:38} {:>9.4}  {range:>19}  {:>10.2}",
                r.name,
                median / 1e6,
                median / kernel.max(1e-9)
            );
            if r.lost > 0 {
                let _ = write!(out, "  {} MESSAGES NOT AS SENT", r.lost);
            }
            if r.stalled {
                let _ = write!(out, "  STALLED");
            }
            out.push('\n');
        }
    }
    out
}

/// Lines for `kcm-bench run --kernel-figures`: every round's messages per second.
pub(crate) fn figures(tables: &[(usize, Vec<Row>)]) -> String {
    let mut out = String::new();
    for (per_write, rows) in tables {
        for r in rows {
            let rates: Vec<String> = r.rates.iter().map(|r| format!("{r:.0}")).collect();
            let _ = writeln!(
                out,
                "FIGURES writes={per_write} variant={} rates={}",
                r.id,
                rates.join(",")
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Tally;

    fn seen(sent: u64, received: u64) -> Seen {
        let tally = |msgs| Tally { msgs, sum: msgs };
        Seen { sent: tally(sent), received: tally(received), seconds: 2.0, stalled: false }
    }

    #[test]
    fn a_loss_of_this_product_is_wrong_and_one_of_the_kernel_is_told() {
        let mut ours = Row::new("kcm-one", "this product, recv");
        ours.note(&seen(10, 10));
        assert!(!ours.is_wrong());
        ours.note(&seen(10, 9));
        assert!(ours.is_wrong());
        let mut kernel = Row::new("kernel-kcm", "kernel KCM");
        kernel.note(&seen(10, 4));
        assert!(!kernel.is_wrong());
        let args = clap::Parser::parse_from(["bench"]);
        let tables = [(1, vec![kernel, ours])];
        let text = report(&args, &tables);
        assert!(text.contains("6 MESSAGES NOT AS SENT"), "{text}");
        let lines = figures(&tables);
        assert!(lines.contains("FIGURES writes=1 variant=kcm-one rates=5,"), "{lines}");
    }
}
