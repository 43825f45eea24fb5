//! Latencies: nanoseconds in, percentiles in microseconds out.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::numbers::float;

/// Two percentiles of a latency.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p99: f64,
}

/// A point of a distribution: so large a part of the calls took no longer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    pub quantile: f64,
    pub us: f64,
}

impl CurvePoint {
    /// The quantile as a number of nines: 0.9 is 1, 0.99 is 2.
    pub fn nines(&self) -> f64 {
        -(1.0 - self.quantile).log10()
    }
}

const CURVE_QUANTILES: [f64; 12] =
    [0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9995, 0.9999];

/// How long calls took, each to within 0.1 %, from 1 ns to 10 minutes (longer counts as that).
#[derive(Clone, Debug)]
pub struct Latency {
    histogram: Histogram<u64>,
}

const LATENCY_NS_MAX: u64 = 600_000_000_000;

impl Default for Latency {
    fn default() -> Self {
        Self::new()
    }
}

impl Latency {
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)
            .expect("constant bounds that the histogram takes");
        Self { histogram }
    }

    pub fn record(&mut self, latency: Duration) {
        self.histogram.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    pub fn add(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("histograms of the same bounds");
    }

    /// `None` if nothing was recorded.
    pub fn percentiles_us(&self) -> Option<Percentiles> {
        if self.histogram.is_empty() {
            return None;
        }
        Some(Percentiles { p50: self.quantile_us(0.5), p99: self.quantile_us(0.99) })
    }

    /// The distribution, as far as there are enough calls to tell: ten beyond each point. Empty if
    /// nothing was recorded.
    pub fn curve_us(&self) -> Vec<CurvePoint> {
        CURVE_QUANTILES
            .iter()
            .filter(|&&quantile| float(self.histogram.len()) * (1.0 - quantile) >= 10.0)
            .map(|&quantile| CurvePoint { quantile, us: self.quantile_us(quantile) })
            .collect()
    }

    #[allow(clippy::cast_precision_loss, reason = "at most ten minutes in nanoseconds")]
    fn quantile_us(&self, quantile: f64) -> f64 {
        let us = self.histogram.value_at_quantile(quantile) as f64 / 1000.0;
        (us * 100.0).round() / 100.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_recorded_has_no_percentiles() {
        assert_eq!(Latency::new().percentiles_us(), None);
    }

    #[test]
    fn a_curve_ends_where_there_are_too_few_calls_to_tell() {
        let mut latency = Latency::new();
        assert_eq!(latency.curve_us(), []);
        (1..=1000).for_each(|us| latency.record(Duration::from_micros(us)));
        let curve = latency.curve_us();
        let last = curve.last().unwrap();
        assert_eq!(last.quantile, 0.99);
        assert!((last.us - 990.0).abs() < 2.0 && (last.nines() - 2.0).abs() < 1e-9, "{last:?}");
        assert!(curve.windows(2).all(|pair| pair[0].us <= pair[1].us));
    }

    #[test]
    fn percentiles_of_a_known_set() {
        let mut latency = Latency::new();
        for us in 1..=1000 {
            latency.record(Duration::from_micros(us));
        }
        let percentiles = latency.percentiles_us().unwrap();
        assert!((percentiles.p50 - 500.0).abs() <= 0.5, "{percentiles:?}");
        assert!((percentiles.p99 - 990.0).abs() <= 1.0, "{percentiles:?}");
    }

    #[test]
    fn sub_microsecond_latencies_are_kept() {
        let mut latency = Latency::new();
        latency.record(Duration::from_nanos(250));
        assert_eq!(latency.percentiles_us().unwrap().p50, 0.25);
    }

    #[test]
    fn merging_equals_recording_into_one() {
        let (mut left, mut right, mut both) = (Latency::new(), Latency::new(), Latency::new());
        for us in [3, 70, 900, 12_000] {
            left.record(Duration::from_micros(us));
            right.record(Duration::from_micros(us * 2));
            both.record(Duration::from_micros(us));
            both.record(Duration::from_micros(us * 2));
        }
        left.add(&right);
        assert_eq!(left.percentiles_us(), both.percentiles_us());
    }

    #[test]
    fn a_latency_beyond_the_bound_is_not_lost() {
        let mut latency = Latency::new();
        latency.record(Duration::from_secs(3600));
        assert!(latency.percentiles_us().unwrap().p50 >= 599_000_000.0);
    }
}
