//! Latencies, and the few numbers that describe them.

use std::time::Duration;

/// Latencies of one phase of a run. Keeps every value: 8 bytes for each append.
#[derive(Debug, Clone, Default)]
pub struct Latencies {
    micros: Vec<u64>,
}

impl Latencies {
    /// Adds one.
    pub fn add(&mut self, latency: Duration) {
        self.micros.push(latency.as_micros() as u64);
    }

    /// Adds those of another phase.
    pub fn extend(&mut self, others: &Self) {
        self.micros.extend_from_slice(&others.micros);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.micros.len()
    }

    /// The value that `percent` of all do not exceed; `None` without any.
    ///
    /// # Panics
    ///
    /// If `percent` is over 100.
    pub fn percentile(&self, percent: usize) -> Option<Duration> {
        assert!(percent <= 100, "a percentile is at most 100");
        let mut sorted = self.micros.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.get(rank).map(|micros| Duration::from_micros(*micros))
    }
}

/// A duration in the unit that suits it, in at most four digits.
pub fn show(duration: Duration) -> String {
    let micros = duration.as_micros();
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        _ => format!("{:.1} s", micros as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentile(50), None);
        for micros in (1..=200).rev() {
            latencies.add(Duration::from_micros(micros));
        }
        assert_eq!(latencies.count(), 200);
        assert_eq!(latencies.percentile(0), Some(Duration::from_micros(1)));
        assert_eq!(latencies.percentile(50), Some(Duration::from_micros(100)));
        assert_eq!(latencies.percentile(99), Some(Duration::from_micros(198)));
        assert_eq!(latencies.percentile(100), Some(Duration::from_micros(200)));
    }

    #[test]
    fn durations_are_shown_in_a_unit_that_suits_them() {
        assert_eq!(show(Duration::from_micros(250)), "250 µs");
        assert_eq!(show(Duration::from_micros(1_250)), "1.2 ms");
        assert_eq!(show(Duration::from_secs(3)), "3.0 s");
    }
}
