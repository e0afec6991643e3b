//! Medians, spreads and ratios.

use counterfoil_benches::{Remark, Unit, Workload};
use serde::Serialize;

use crate::turn::Turn;

/// What came out of a workload: what each system did, and why others did nothing.
#[derive(Default)]
pub(crate) struct Results {
    pub(crate) series: Vec<Series>,
    pub(crate) absent: Vec<(&'static str, String)>,
    /// What else came out.
    pub(crate) found: Vec<String>,
}

/// Who did a workload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) system: &'static str,
    pub(crate) remark: Option<Remark>,
}

/// The figures of one system at one workload.
#[derive(Debug)]
pub(crate) struct Series {
    entry: Entry,
    /// Ascending.
    figures: Vec<f64>,
    /// 99th percentile of single operations, in microseconds.
    p99_us: Option<f64>,
}

impl Series {
    pub(crate) fn new(entry: Entry, turns: Vec<Turn>) -> Self {
        let mut figures: Vec<f64> = turns.iter().map(|turn| turn.figure).collect();
        figures.sort_by(f64::total_cmp);
        let mut latencies: Vec<u32> = turns.into_iter().flat_map(|turn| turn.latencies).collect();
        let rank = (latencies.len() * 99).div_ceil(100).saturating_sub(1);
        let p99_us = (!latencies.is_empty()).then(|| f64::from(*latencies.select_nth_unstable(rank).1) / 1e3);
        Self { entry, figures, p99_us }
    }

    fn median(&self) -> f64 {
        let middle = self.figures.len() / 2;
        if self.figures.len() % 2 == 1 {
            self.figures[middle]
        } else {
            f64::midpoint(self.figures[middle - 1], self.figures[middle])
        }
    }

    /// What its ratios are made of.
    fn compared(&self, workload: Workload) -> f64 {
        match self.p99_us {
            Some(p99) if workload == Workload::At => p99,
            _ => self.median(),
        }
    }

    fn is_peer(&self) -> bool {
        !matches!(self.entry.system, "counterfoil" | "counterfoil-met" | "limit" | "limit-plain")
    }
}

/// One row of `report.json`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) workload: &'static str,
    pub(crate) system: &'static str,
    /// Of the rounds.
    pub(crate) median: f64,
    /// 99th percentile of single operations over all rounds, in `p99_unit`.
    pub(crate) p99: Option<f64>,
    pub(crate) unit: String,
    /// The system's figure divided by the limit's: more is better for `rec/s`, less for all others.
    pub(crate) ratio_to_limit: Option<f64>,
    /// The same by the best peer's.
    pub(crate) ratio_to_best_peer: Option<f64>,
    pub(crate) p99_unit: Option<&'static str>,
    /// Of the rounds.
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) rounds: usize,
    /// What this system does otherwise.
    pub(crate) remark: Option<&'static str>,
    /// It promises less than was asked for.
    pub(crate) is_less: bool,
    /// What its ratios are made of.
    #[serde(skip)]
    pub(crate) compared: f64,
    #[serde(skip)]
    pub(crate) is_best_peer: bool,
}

/// A workload with its rows, best first.
#[derive(Debug)]
pub(crate) struct Chapter {
    pub(crate) workload: Workload,
    pub(crate) rows: Vec<Row>,
    pub(crate) absent: Vec<(&'static str, String)>,
    pub(crate) found: Vec<String>,
}

impl Chapter {
    pub(crate) fn new(workload: Workload, results: Results) -> Self {
        let Results { series, absent, found } = results;
        let is_more_better = workload.unit().is_more_better();
        let limit = series.iter().find(|series| series.entry.system == "limit").map(|limit| limit.compared(workload));
        let peers =
            series.iter().filter(|series| series.is_peer() && !matches!(series.entry.remark, Some(Remark::Less(_))));
        let best_peer = peers
            .map(|peer| peer.compared(workload))
            .reduce(|best, other| if is_more_better { best.max(other) } else { best.min(other) });
        let mut rows: Vec<_> = series.iter().map(|series| row(workload, series, limit, best_peer)).collect();
        rows.sort_by(|a, b| {
            let order = a.median.total_cmp(&b.median);
            if is_more_better { order.reverse() } else { order }
        });
        Self { workload, rows, absent, found }
    }
}

fn row(workload: Workload, series: &Series, limit: Option<f64>, best_peer: Option<f64>) -> Row {
    let ratio = |other: f64| rounded(series.compared(workload) / other);
    let (remark, is_less) = match series.entry.remark {
        Some(Remark::Less(text)) => (Some(text), true),
        Some(Remark::Otherwise(text)) => (Some(text), false),
        None => (None, false),
    };
    Row {
        workload: workload.letter(),
        system: series.entry.system,
        median: rounded(series.median()),
        p99: series.p99_us.map(rounded),
        unit: workload.unit().to_string(),
        ratio_to_limit: limit.map(ratio),
        ratio_to_best_peer: best_peer.map(ratio),
        p99_unit: series.p99_us.map(|_| "us"),
        min: rounded(series.figures[0]),
        max: rounded(series.figures[series.figures.len() - 1]),
        rounds: series.figures.len(),
        remark,
        is_less,
        compared: series.compared(workload),
        is_best_peer: series.is_peer() && !is_less && best_peer == Some(series.compared(workload)),
    }
}

/// To five significant digits: the noise is in the third.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10_f64.powi(4 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

/// A figure for a person.
pub(crate) fn figure(value: f64, unit: Unit) -> String {
    match unit {
        Unit::RecordsPerSecond if value >= 1e6 => format!("{:.2} M", value / 1e6),
        Unit::RecordsPerSecond if value >= 1e4 => format!("{:.1} k", value / 1e3),
        Unit::RecordsPerSecond => format!("{value:.0}"),
        _ if value >= 100.0 => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn five_digits_are_kept() {
        assert_eq!([123_456.7, 0.012_345_67, 0.0].map(super::rounded), [123_460.0, 0.012_346, 0.0]);
    }
}
