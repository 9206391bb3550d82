//! The tables as Markdown, for docs/performance.md.

use crate::report::Case;
use crate::run::Report;
use crate::stats::{Spread, short};

/// All of them, targets first.
pub(crate) fn of(r: &Report) -> String {
    let mut out = format!(
        "{}; `cargo xtask bench{}`: medians of {} runs of {} s (min–max).\n",
        r.machine,
        if r.quick { " --quick" } else { "" },
        r.rounds,
        r.secs
    );
    for w in &r.warnings {
        out.push_str(&format!("\n**Warning**: {w}.\n"));
    }
    out.push_str(
        "\n### Targets\n\n| work | against | target | measured | |\n|---|---|---|---|---|\n",
    );
    for o in &r.outcomes {
        let line = [o.work(), o.peer(), &o.limit(), &o.value(), o.verdict()].map(cell);
        out.push_str(&format!("| {} |\n", line.join(" | ")));
    }
    let mut part = "";
    for c in &r.cases {
        if c.part != part {
            part = c.part;
            out.push_str(&format!("\n### {part}\n"));
        }
        out.push_str(&case(c));
    }
    if !r.notes.is_empty() {
        out.push_str("\nLeft out:\n\n");
        out.extend(r.notes.iter().map(|n| format!("- {n}\n")));
    }
    out
}

/// A `|` would end the cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn case(c: &Case) -> String {
    let mut head = vec![String::new()];
    head.extend(c.metrics.iter().map(|m| m.shown.to_owned()));
    if !c.base.is_empty() {
        head.insert(2, format!("to `{}`", c.base));
    }
    let mut out =
        format!("\n{}:\n\n| {} |\n|{}\n", c.title, head.join(" | "), "---|".repeat(head.len()));
    for row in &c.rows {
        let v = &row.variant;
        let ours = v.starts_with("kcm") || ["jit", "interpreter"].contains(&v.as_str());
        let mut line = vec![if ours { format!("**{v}**") } else { v.clone() }];
        for (i, m) in c.metrics.iter().enumerate() {
            let spread = c.spread(v, m.name).unwrap_or(Spread::of([]));
            line.push(if i == 0 { spread.to_string() } else { short(spread.median) });
            if i == 0 && !c.base.is_empty() {
                line.push(c.ratio(v).map_or(String::new(), |r| r.to_string()));
            }
        }
        let line: Vec<String> = line.iter().map(|t| cell(t)).collect();
        out.push_str(&format!("| {} |\n", line.join(" | ")));
    }
    out
}
