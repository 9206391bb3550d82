//! Plots of the receive cases: cost against message size, and against connections.

use std::path::{Path, PathBuf};

use anyhow::Result;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::report::Case;
use crate::rows::bytes;
use crate::stats::{Spread, short};

/// The variants a plot shows, and their colours, which colour-blind people can tell apart; all
/// variants would hide each other.
const SHOWN: &[(&str, RGBColor)] = &[
    ("raw", RGBColor(0x77, 0x77, 0x77)),
    ("epoll", RGBColor(0x00, 0x00, 0x00)),
    ("block", RGBColor(0xd5, 0x5e, 0x00)),
    ("batch", RGBColor(0xe6, 0x9f, 0x00)),
    ("kcm", RGBColor(0x00, 0x72, 0xb2)),
    ("kcm-one", RGBColor(0x56, 0xb4, 0xe9)),
    ("kcm-interp", RGBColor(0x00, 0x9e, 0x73)),
    ("framed", RGBColor(0xcc, 0x79, 0xa7)),
    ("framed-flume", RGBColor(0x88, 0x22, 0x55)),
];

/// A variant's line.
struct Line {
    variant: &'static str,
    colour: RGBColor,
    /// Where on the abscissa, and how much there.
    points: Vec<(f64, Spread)>,
}

/// What a plot is about.
#[derive(Clone, Copy)]
struct Plot<'a> {
    file: &'a str,
    title: &'a str,
    /// The parameter along the abscissa, what it is called there, and how its values are.
    against: &'a str,
    axis: &'a str,
    shown: fn(f64) -> String,
    /// What the other parameters must be.
    keep: [(&'a str, f64); 2],
    /// What is divided by, with the name of the quotient.
    per: (fn(f64) -> f64, &'a str),
}

/// Writes every plot that the cases give points for; where they are.
pub(crate) fn all(cases: &[Case], dir: &Path) -> Result<Vec<PathBuf>> {
    let by_size = Plot {
        file: "cost-by-size.svg",
        title: "CPU per message received, 8 connections, 4 consumers",
        against: "size",
        axis: "payload of a message",
        shown: |x| bytes(x as usize),
        keep: [("conns", 8.0), ("workers", 4.0)],
        per: (|_| 1.0, "CPU ns per message"),
    };
    let plots = [
        by_size,
        Plot {
            file: "cost-per-byte-by-size.svg",
            title: "CPU per byte received, 8 connections, 4 consumers",
            per: (|size| size, "CPU ns per byte of payload"),
            ..by_size
        },
        Plot {
            file: "cost-by-connections.svg",
            title: "CPU per message received, 64 bytes, 4 consumers",
            against: "conns",
            axis: "connections",
            shown: |x| format!("{x:.0}"),
            keep: [("size", 64.0), ("workers", 4.0)],
            per: (|_| 1.0, "CPU ns per message"),
        },
    ];
    std::fs::create_dir_all(dir)?;
    let mut out = Vec::new();
    for p in &plots {
        let lines = p.lines(cases);
        if lines.iter().any(|l| l.points.len() > 1) {
            let path = dir.join(p.file);
            p.draw(&path, &lines)?;
            out.push(path);
        }
    }
    Ok(out)
}

fn param(c: &Case, name: &str) -> Option<f64> {
    c.params.iter().find(|p| p.0 == name).map(|p| p.1)
}

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, LogCoord<f64>>>;

/// Of a label, in pixels.
const LABEL: i32 = 16;

impl Plot<'_> {
    fn lines(&self, cases: &[Case]) -> Vec<Line> {
        let keeps =
            |c: &&Case| c.part == "rx" && self.keep.iter().all(|(k, v)| param(c, k) == Some(*v));
        SHOWN
            .iter()
            .map(|&(variant, colour)| {
                let mut points: Vec<(f64, Spread)> = cases
                    .iter()
                    .filter(keeps)
                    .filter_map(|c| {
                        let x = param(c, self.against)?;
                        let by = (self.per.0)(x);
                        let ns = c.values(variant, "cpu_ns")?;
                        Some((x, Spread::of(ns.iter().map(|ns| ns / by))))
                    })
                    .filter(|(_, s)| s.min > 0.0)
                    .collect();
                points.sort_by(|a, b| a.0.total_cmp(&b.0));
                Line { variant, colour, points }
            })
            .filter(|l| !l.points.is_empty())
            .collect()
    }

    fn draw(&self, path: &Path, lines: &[Line]) -> Result<()> {
        let points = || lines.iter().flat_map(|l| &l.points);
        // What was measured stands at equal distances.
        let mut xs: Vec<f64> = points().map(|p| p.0).collect();
        xs.sort_by(f64::total_cmp);
        xs.dedup();
        let place = |x: f64| xs.iter().position(|at| *at == x).unwrap_or(0) as f64;
        let low = Spread::of(points().map(|p| p.1.min)).min / 1.15;
        let high = Spread::of(points().map(|p| p.1.max)).max * 1.15;
        let right = xs.len() as f64 - 1.0;

        let root = SVGBackend::new(path, (900, 540)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(self.title, ("sans-serif", 20))
            .margin(14)
            .margin_right(124)
            .x_label_area_size(48)
            .y_label_area_size(70)
            .build_cartesian_2d(-0.12..right + 0.04, (low..high).log_scale())?;
        // The libraries' own marks would stand at tens, where nothing was measured.
        chart
            .configure_mesh()
            .disable_mesh()
            .x_label_formatter(&|_| String::new())
            .y_label_formatter(&|_| String::new())
            .set_all_tick_mark_size(0)
            .x_desc(self.axis)
            .y_desc(self.per.1)
            .axis_desc_style(("sans-serif", 14))
            .draw()?;
        let small = ("sans-serif", 13).into_font().color(&BLACK);
        let grid = RGBColor(225, 225, 225);
        for (i, x) in xs.iter().enumerate() {
            let at = i as f64;
            chart.draw_series([PathElement::new(vec![(at, low), (at, high)], grid)])?;
            let (px, py) = chart.backend_coord(&(at, low));
            let style = small.pos(Pos::new(HPos::Center, VPos::Top));
            root.draw(&Text::new((self.shown)(*x), (px, py + 8), style))?;
        }
        for y in ticks(low, high) {
            let across = vec![(-0.12, y), (right + 0.04, y)];
            chart.draw_series([PathElement::new(across, grid)])?;
            let (px, py) = chart.backend_coord(&(-0.12, y));
            let style = small.pos(Pos::new(HPos::Right, VPos::Center));
            root.draw(&Text::new(plain(y), (px - 8, py), style))?;
        }
        for line in lines {
            let wide = if line.variant.starts_with("kcm") { 3 } else { 1 };
            let style = line.colour.stroke_width(wide);
            let middle = line.points.iter().map(|(x, s)| (place(*x), s.median));
            chart.draw_series(LineSeries::new(middle.clone(), style))?;
            chart.draw_series(middle.map(|at| Circle::new(at, 3, style.filled())))?;
            // From the best to the worst run.
            let ranges =
                line.points.iter().map(|(x, s)| vec![(place(*x), s.min), (place(*x), s.max)]);
            let thin = line.colour.stroke_width(1);
            chart.draw_series(ranges.map(|r| PathElement::new(r, thin)))?;
        }
        names(&chart, &root, lines, place)?;
        root.present()?;
        Ok(())
    }
}

/// Each line's name beside its right end, moved where two would stand in the same place.
fn names(
    chart: &Chart<'_, '_>,
    root: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    lines: &[Line],
    place: impl Fn(f64) -> f64,
) -> Result<()> {
    let mut ends: Vec<(i32, i32, &Line)> = lines
        .iter()
        .filter_map(|l| {
            let (x, s) = l.points.last()?;
            let (px, py) = chart.backend_coord(&(place(*x), s.median));
            Some((px, py, l))
        })
        .collect();
    ends.sort_by_key(|e| e.1);
    let wanted: Vec<i32> = ends.iter().map(|e| e.1).collect();
    let (_, height) = root.dim_in_pixel();
    for ((px, py, line), at) in ends.iter().zip(apart(&wanted, LABEL, (20, height as i32 - 70))) {
        let thin = line.colour.mix(0.6).stroke_width(1);
        root.draw(&PathElement::new(vec![(px + 6, *py), (px + 24, at)], thin))?;
        let bold = line.variant.starts_with("kcm");
        let font = match bold {
            true => ("sans-serif", 14, FontStyle::Bold).into_font(),
            false => ("sans-serif", 14).into_font(),
        };
        let style = font.color(&line.colour).pos(Pos::new(HPos::Left, VPos::Center));
        root.draw(&Text::new(line.variant, (px + 28, at), style))?;
    }
    Ok(())
}

/// Ascending positions with `gap` between neighbours, as near to those wanted (which ascend) as a
/// few rounds of pushing bring them, and none outside `least..=most` but for want of room.
fn apart(wanted: &[i32], gap: i32, (least, most): (i32, i32)) -> Vec<i32> {
    let mut at: Vec<i32> = wanted.to_vec();
    for _ in 0..200 {
        for i in 1..at.len() {
            let lack = gap - (at[i] - at[i - 1]);
            if lack > 0 {
                at[i - 1] -= (lack + 1) / 2;
                at[i] += lack / 2;
            }
        }
    }
    // Whatever the rounds have left, and the bounds: down from the first, up from the last.
    let mut bound = least;
    for y in &mut at {
        *y = (*y).max(bound);
        bound = *y + gap;
    }
    let mut bound = most;
    for y in at.iter_mut().rev() {
        *y = (*y).min(bound);
        bound = *y - gap;
    }
    at
}

/// Where an ordinate of tens is marked: at tens alone if there are many.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let steps: &[f64] = if high / low > 1000.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let (from, to) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let all = (from..=to).flat_map(|e| steps.iter().map(move |s| s * 10f64.powi(e)));
    all.filter(|y| (low..=high).contains(y)).collect()
}

/// A figure on an axis.
fn plain(x: f64) -> String {
    match x {
        _ if x >= 10_000.0 => format!("{:.0} k", x / 1000.0),
        _ if x >= 1.0 => format!("{x:.0}"),
        _ if x >= 0.1 => format!("{x:.1}"),
        _ => short(x),
    }
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
    fn two_sizes_make_plots_with_a_line_per_variant_and_one_makes_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(all(&[case(64.0, 20.0)], dir.path()).unwrap(), Vec::<PathBuf>::new());
        let plots = all(&[case(64.0, 20.0), case(16384.0, 3000.0)], dir.path()).unwrap();
        assert_eq!(plots.len(), 2, "per message and per byte");
        for plot in plots {
            let svg = std::fs::read_to_string(plot).unwrap();
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
            assert!(svg.matches("<polyline").count() > 4, "{svg}");
            for word in ["kcm", "raw", "payload of a message", "64B", "16KiB"] {
                assert!(svg.contains(word), "{word}");
            }
        }
    }

    #[test]
    fn names_in_the_same_place_are_moved_apart_and_stay_in_order() {
        assert_eq!(apart(&[10, 100], 16, (0, 400)), [10, 100], "these have room");
        for wanted in [vec![50; 9], vec![50, 51, 52, 120, 121, 399], vec![400; 5], vec![0; 4]] {
            let at = apart(&wanted, 16, (0, 400));
            assert!(at.windows(2).all(|w| w[1] - w[0] >= 16), "{at:?}");
            assert!(at.iter().all(|y| (0..=400).contains(y)), "{at:?}");
        }
    }

    #[test]
    fn an_ordinate_is_marked_within_its_range() {
        assert_eq!(ticks(0.15, 3.0), [0.2, 0.5, 1.0, 2.0]);
        assert_eq!(ticks(8.0, 90_000.0), [10.0, 100.0, 1000.0, 10_000.0]);
    }
}
