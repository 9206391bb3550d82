//! Medians and the spread around them.

use serde_json::{Value, json};

/// The middle of several runs, and their range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of at least one value; of none, zeros.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut v: Vec<f64> = values.into_iter().collect();
        v.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (v.first(), v.last()) else {
            return Spread { median: 0.0, min: 0.0, max: 0.0 };
        };
        let mid = v.len() / 2;
        let median = if v.len().is_multiple_of(2) { (v[mid - 1] + v[mid]) / 2.0 } else { v[mid] };
        Spread { median, min, max }
    }

    /// How far apart the runs were: the range, as a part of the median.
    pub(crate) fn width(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { (self.max - self.min) / self.median.abs() }
    }

    pub(crate) fn json(&self) -> Value {
        let r = |x: f64| (x * 1e4).round() / 1e4;
        json!({"median": r(self.median), "min": r(self.min), "max": r(self.max)})
    }
}

/// Three significant digits, so that no figure pretends to more.
pub(crate) fn short(x: f64) -> String {
    let a = x.abs();
    match a {
        _ if a >= 100.0 => format!("{x:.0}"),
        _ if a >= 10.0 => format!("{x:.1}"),
        _ if a >= 0.1 || a == 0.0 => format!("{x:.2}"),
        _ => format!("{x:.4}"),
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("{} ({}–{})", short(self.median), short(self.min), short(self.max)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_and_the_range_is_told() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0]).median, 2.5);
        assert_eq!(Spread::of([]).median, 0.0);
        assert_eq!(short(0.00931), "0.0093", "not nothing");
        assert_eq!(Spread::of([123.4, 5.678]).to_string(), "64.5 (5.68–123)");
    }
}
