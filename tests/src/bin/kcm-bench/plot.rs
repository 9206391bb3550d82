//! Plots of the receive cases: cost against message size, and against connections.

use std::path::{Path, PathBuf};

use anyhow::Result;
use plotters::prelude::*;

use crate::report::Case;
use crate::stats::Spread;

/// The variants a plot shows, in the order of its legend; all of them would hide each other.
const SHOWN: &[&str] =
    &["raw", "epoll", "block", "batch", "kcm", "kcm-one", "kcm-interp", "framed", "framed-flume"];

/// A variant's line.
struct Line<'a> {
    variant: &'a str,
    /// Where on the abscissa, and how much there.
    points: Vec<(f64, Spread)>,
}

/// Writes every plot that the cases give points for; where they are.
pub(crate) fn all(cases: &[Case], dir: &Path) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(dir)?;
    let mut out = Vec::new();
    let mut one = |name: &str, title: &str, against: &str, axis: &str, keep: &[(&str, f64)]| {
        let lines = lines(cases, against, keep);
        if lines.iter().all(|l| l.points.len() < 2) {
            return Ok(());
        }
        let path = dir.join(name);
        draw(&path, title, axis, &lines)?;
        out.push(path);
        Ok::<(), anyhow::Error>(())
    };
    one(
        "cost-by-size.svg",
        "CPU per message received, 8 connections, 4 consumers",
        "size",
        "message, bytes",
        &[("conns", 8.0), ("workers", 4.0)],
    )?;
    one(
        "cost-by-connections.svg",
        "CPU per message received, 64 bytes, 4 consumers",
        "conns",
        "connections",
        &[("size", 64.0), ("workers", 4.0)],
    )?;
    Ok(out)
}

fn param(c: &Case, name: &str) -> Option<f64> {
    c.params.iter().find(|p| p.0 == name).map(|p| p.1)
}

fn lines<'a>(cases: &[Case], against: &str, keep: &[(&str, f64)]) -> Vec<Line<'a>> {
    SHOWN
        .iter()
        .map(|variant| {
            let mut points: Vec<(f64, Spread)> = cases
                .iter()
                .filter(|c| c.part == "rx" && keep.iter().all(|(k, v)| param(c, k) == Some(*v)))
                .filter_map(|c| Some((param(c, against)?, c.spread(variant, "cpu_ns")?)))
                .filter(|(_, s)| s.min > 0.0)
                .collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            Line { variant, points }
        })
        .filter(|l| !l.points.is_empty())
        .collect()
}

fn draw(path: &Path, title: &str, axis: &str, lines: &[Line<'_>]) -> Result<()> {
    let points = || lines.iter().flat_map(|l| &l.points);
    let of = |f: fn(&(f64, Spread)) -> f64| {
        let all = Spread::of(points().map(f));
        (all.min, all.max)
    };
    let (left, right) = of(|p| p.0);
    let (low, high) = (of(|p| p.1.min).0, of(|p| p.1.max).1);
    // Room above the lines for the legend.
    let high = high * 3.0;
    let root = SVGBackend::new(path, (860, 520)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d((left * 0.9..right * 1.1).log_scale(), (low * 0.8..high).log_scale())?;
    chart
        .configure_mesh()
        .x_desc(axis)
        .y_desc("CPU ns per message")
        .light_line_style(RGBColor(240, 240, 240))
        .x_label_formatter(&plain)
        .y_label_formatter(&plain)
        .draw()?;
    for (i, line) in lines.iter().enumerate() {
        let ours = line.variant.starts_with("kcm");
        let style = Palette99::pick(i).stroke_width(if ours { 3 } else { 1 });
        let middle = line.points.iter().map(|(x, s)| (*x, s.median));
        chart
            .draw_series(LineSeries::new(middle.clone(), style))?
            .label(line.variant)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 24, y)], style));
        chart.draw_series(middle.map(|at| Circle::new(at, 3, style.filled())))?;
        // From the best to the worst run.
        let ranges = line.points.iter().map(|(x, s)| vec![(*x, s.min), (*x, s.max)]);
        chart.draw_series(ranges.map(|r| PathElement::new(r, style.stroke_width(1))))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(RGBColor(200, 200, 200))
        .draw()?;
    root.present()?;
    Ok(())
}

/// A figure on an axis.
fn plain(x: &f64) -> String {
    if *x >= 10_000.0 { format!("{:.0} k", x / 1000.0) } else { format!("{x:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Metric, Row, metric};

    const METRICS: &[Metric] = &[metric("cpu_ns", "CPU ns")];

    fn case(size: f64, ns: f64) -> Case {
        let row = |variant: &str, ns: f64| Row {
            variant: variant.into(),
            rounds: vec![vec![ns], vec![ns * 1.2]],
        };
        Case {
            part: "rx",
            id: String::new(),
            title: String::new(),
            params: vec![("size", size), ("conns", 8.0), ("workers", 4.0)],
            metrics: METRICS,
            base: "",
            rows: vec![row("kcm", ns), row("raw", ns / 3.0)],
        }
    }

    #[test]
    fn two_sizes_make_a_plot_with_a_line_per_variant_and_one_makes_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(all(&[case(64.0, 20.0)], dir.path()).unwrap(), Vec::<PathBuf>::new());
        let plots = all(&[case(64.0, 20.0), case(16384.0, 3000.0)], dir.path()).unwrap();
        assert_eq!(plots.len(), 1);
        let svg = std::fs::read_to_string(&plots[0]).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert!(svg.matches("<polyline").count() > 4, "{svg}");
        for word in ["kcm", "raw", "message, bytes"] {
            assert!(svg.contains(word), "{word}");
        }
    }
}
