//! What was measured: cases, and in each the variants that did the same work. Tables and JSON
//! are made of it.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use crate::stats::{Spread, short};

/// A figure that is taken in every round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Metric {
    /// Its key in JSON.
    pub(crate) name: &'static str,
    /// What a reader calls it.
    pub(crate) shown: &'static str,
}

/// Short for a list of metrics.
pub(crate) const fn metric(name: &'static str, shown: &'static str) -> Metric {
    Metric { name, shown }
}

/// One piece of work, and those that did it.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// The part of the benchmarks it belongs to.
    pub(crate) part: &'static str,
    /// Its name within the part; targets look it up.
    pub(crate) id: String,
    /// What a reader calls it.
    pub(crate) title: String,
    /// What plots need: `("size", 64)`.
    pub(crate) params: Vec<(&'static str, f64)>,
    /// The first is the one that is compared.
    pub(crate) metrics: &'static [Metric],
    /// The variant that ratios are to; empty: there is nothing to compare.
    pub(crate) base: &'static str,
    pub(crate) rows: Vec<Row>,
}

/// A variant's figures.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) variant: String,
    /// For each round, the metrics in the case's order.
    pub(crate) rounds: Vec<Vec<f64>>,
}

impl Case {
    pub(crate) fn row(&self, variant: &str) -> Option<&Row> {
        self.rows.iter().find(|r| r.variant == variant)
    }

    /// A metric of a variant, round by round.
    pub(crate) fn values(&self, variant: &str, metric: &str) -> Option<Vec<f64>> {
        let at = self.metrics.iter().position(|m| m.name == metric)?;
        self.row(variant)?.rounds.iter().map(|r| r.get(at).copied()).collect()
    }

    pub(crate) fn spread(&self, variant: &str, metric: &str) -> Option<Spread> {
        Some(Spread::of(self.values(variant, metric)?))
    }

    /// The compared metric's ratio to the base, each run's to its neighbour in time.
    pub(crate) fn ratio(&self, variant: &str) -> Option<Spread> {
        let of = self.metrics.first()?.name;
        let base = self.values(self.base, of)?;
        Some(Spread::of(pairwise(&self.values(variant, of)?, &base)))
    }

    /// Aligned text.
    pub(crate) fn table(&self) -> String {
        let Some((first, more)) = self.metrics.split_first() else { return String::new() };
        let names = self.rows.iter().map(|r| r.variant.chars().count());
        let wide = names.max().unwrap_or(0).max(12);
        let mut out = format!("\n{}\n", self.title);
        let ratio_head =
            if self.base.is_empty() { String::new() } else { format!("to {}", self.base) };
        let more_head: Vec<&str> = more.iter().map(|m| m.shown).collect();
        let head = format!(
            "  {:<wide$} {:>22} {ratio_head:>22}   {}",
            "",
            first.shown,
            more_head.join(", ")
        );
        let _ = writeln!(out, "{}", head.trim_end());
        for row in &self.rows {
            let v = &row.variant;
            let of = |m: &Metric| self.spread(v, m.name).unwrap_or(Spread::of([]));
            let ratio = self.ratio(v).map_or(String::new(), |r| r.to_string());
            let more: Vec<String> = more.iter().map(|m| short(of(m).median)).collect();
            let value = of(first).to_string();
            let line = format!("  {v:<wide$} {value:>22} {ratio:>22}   {}", more.join(", "));
            let _ = writeln!(out, "{}", line.trim_end());
        }
        out
    }

    pub(crate) fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let metrics: Map<String, Value> = self
                .metrics
                .iter()
                .filter_map(|m| {
                    Some((m.name.to_owned(), self.spread(&row.variant, m.name)?.json()))
                })
                .collect();
            let ratio = self.ratio(&row.variant).map(|r| r.json());
            json!({
                "variant": row.variant, "rounds": row.rounds.len(), "metrics": metrics,
                "ratio": ratio,
            })
        });
        let params: Map<String, Value> =
            self.params.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
        json!({
            "part": self.part, "id": self.id, "title": self.title, "params": params,
            "base": self.base, "compared": self.metrics.first().map(|m| m.name),
            "rows": rows.collect::<Vec<_>>(),
        })
    }
}

/// The ratio of each round's values.
pub(crate) fn pairwise(values: &[f64], base: &[f64]) -> Vec<f64> {
    values.iter().zip(base).map(|(x, b)| x / b.max(f64::MIN_POSITIVE)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &[Metric] = &[metric("ns", "ns"), metric("rate", "M/s")];

    pub(crate) fn case() -> Case {
        let row = |variant: &str, ns: [f64; 3]| Row {
            variant: variant.into(),
            rounds: ns.iter().map(|n| vec![*n, 1.0]).collect(),
        };
        Case {
            part: "rx",
            id: "64B".into(),
            title: "receive".into(),
            params: vec![("size", 64.0)],
            metrics: METRICS,
            base: "peer",
            rows: vec![row("ours", [1.0, 2.0, 30.0]), row("peer", [2.0, 4.0, 60.0])],
        }
    }

    #[test]
    fn ratios_are_of_neighbours_in_time() {
        // The third round was disturbed; both of it were.
        let ratio = case().ratio("ours").unwrap();
        assert_eq!(ratio, Spread { median: 0.5, min: 0.5, max: 0.5 });
        assert_eq!(case().ratio("nobody"), None);
    }

    #[test]
    fn table_and_json_have_every_variant() {
        let text = case().table();
        assert!(text.contains("ours") && text.contains("2.00 (1.00–30.0)"), "{text}");
        let json = case().json();
        assert_eq!(json["rows"][1]["metrics"]["ns"]["max"], 60.0);
        assert_eq!(json["rows"][0]["ratio"]["median"], 0.5);
    }
}
