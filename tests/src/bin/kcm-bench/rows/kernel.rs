//! The kernel's own KCM, in a guest that has one: `kernel-kcm-bench` measured there, its figures
//! are read here.

use anyhow::{Context, Result};

use crate::report::{Case, Metric, Row, metric};
use crate::run::Bench;

const METRICS: &[Metric] = &[metric("mmsg_per_s", "M messages/s")];

pub(super) fn measure(b: &mut Bench) -> Result<()> {
    let Some(path) = b.kernel_figures.clone() else {
        b.note("the kernel's KCM: no guest ran (`cargo xtask bench --kernel` boots one)".into());
        return Ok(());
    };
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("could not read {}", path.display()))?;
    let cases = read(&text)?;
    anyhow::ensure!(!cases.is_empty(), "{} has no figures", path.display());
    cases.into_iter().for_each(|c| b.add(c));
    Ok(())
}

/// A case for each size of writes.
fn read(text: &str) -> Result<Vec<Case>> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines().filter_map(|l| l.trim().strip_prefix("FIGURES ")) {
        let field = |name: &str| {
            line.split_whitespace()
                .find_map(|w| w.split_once('=').filter(|(k, _)| *k == name))
                .map(|(_, v)| v)
                .with_context(|| format!("no {name} in {line:?}"))
        };
        let writes = field("writes")?;
        let id = if writes == "1" { "64B-4c-4w-single" } else { "64B-4c-4w" };
        let rates = field("rates")?.split(',');
        let rounds =
            rates.map(|r| Ok(vec![r.parse::<f64>()? / 1e6])).collect::<Result<Vec<_>>>()?;
        let row = Row { variant: field("variant")?.to_owned(), rounds };
        match cases.iter_mut().find(|c| c.id == id) {
            Some(case) => case.rows.push(row),
            None => cases.push(Case {
                part: "kernel",
                id: id.to_owned(),
                title: format!(
                    "receive in a guest, 64B, 4 connections, 4 sockets, writes of {writes} messages"
                ),
                params: Vec::new(),
                metrics: METRICS,
                base: "kernel-kcm",
                rows: vec![row],
            }),
        }
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_lines_are_read_whatever_is_between_them() {
        let text = "a table\nFIGURES writes=481 variant=kernel-kcm rates=100000,200000\n\
                    FIGURES writes=481 variant=kcm rates=1000000,1000000\n\
                    FIGURES writes=1 variant=kcm rates=5\nthe end\n";
        let cases = read(text).unwrap();
        assert_eq!(cases.len(), 2);
        let ratio = cases[0].ratio("kcm").unwrap();
        assert_eq!((ratio.min, ratio.max), (5.0, 10.0));
        assert!(read("FIGURES writes=1 variant=kcm").is_err());
    }
}
