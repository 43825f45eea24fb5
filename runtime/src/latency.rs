//! How long calls take.

use std::time::Duration;

use histogram::{AtomicHistogram, Config, Histogram};

/// Buckets of a power of two have this many parts, as a power of two: each is 3 % wide.
const GROUPING_POWER: u8 = 5;
/// Nanoseconds are below two to this power, 18 minutes; what is more counts as that.
const NANOS_POWER: u8 = 40;

/// How long something took, over many times. Quantiles are upper bounds, at most 4 % above the exact
/// ones.
///
/// ```
/// # use lapidary::{Host, HostConfig};
/// # let directory = tempfile::tempdir()?;
/// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
/// host.facet("agents/42")?.execute("CREATE TABLE t(x)", ()).wait()?;
/// let latency = host.snapshot(0).latency;
/// assert_eq!(latency.count, 1);
/// assert!(latency.p50 <= latency.max);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LatencySummary {
    /// How many times.
    pub count: u64,
    /// Half of them took no longer.
    pub p50: Duration,
    /// 90 % of them took no longer.
    pub p90: Duration,
    /// 99 % of them took no longer.
    pub p99: Duration,
    /// 99.9 % of them took no longer.
    pub p999: Duration,
    /// None took longer.
    pub max: Duration,
}

/// Written by one thread, read by any.
#[derive(Debug)]
pub(crate) struct Latency {
    nanos: AtomicHistogram,
    #[cfg(feature = "metrics")]
    exported: metrics::Histogram,
}

fn config() -> Config {
    // Test: `the_settings_are_in_range`.
    Config::new(GROUPING_POWER, NANOS_POWER).expect("the settings are in range")
}

impl Latency {
    #[cfg(not(feature = "metrics"))]
    pub(crate) fn new() -> Self {
        Self { nanos: AtomicHistogram::with_config(&config()) }
    }

    /// One that records into `exported` as well, in seconds.
    #[cfg(feature = "metrics")]
    pub(crate) fn new(exported: metrics::Histogram) -> Self {
        Self { nanos: AtomicHistogram::with_config(&config()), exported }
    }

    pub(crate) fn record(&self, took: Duration) {
        let most = (1 << NANOS_POWER) - 1;
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(most).min(most);
        // Everything up to the most is in range.
        let _ = self.nanos.increment(nanos);
        #[cfg(feature = "metrics")]
        self.exported.record(took.as_secs_f64());
    }

    /// What all of `several` have recorded, together.
    pub(crate) fn summary<'a>(several: impl IntoIterator<Item = &'a Self>) -> LatencySummary {
        let mut all = Histogram::with_config(&config());
        for latency in several {
            // They have the same settings, and no count comes near the most there is.
            let added = all.checked_add_assign(&latency.nanos.load());
            debug_assert!(added.is_ok(), "{added:?}");
        }
        let count = all.as_slice().iter().sum();
        let at = |quantile: f64| {
            let found = all.quantile_bucket(quantile).ok().flatten();
            found.map_or(Duration::ZERO, |bucket| Duration::from_nanos(bucket.end()))
        };
        LatencySummary {
            count,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: at(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latency() -> Latency {
        #[cfg(feature = "metrics")]
        return Latency::new(metrics::Histogram::noop());
        #[cfg(not(feature = "metrics"))]
        Latency::new()
    }

    #[test]
    fn the_settings_are_in_range() {
        assert!(config().error() < 4.0, "{}", config().error());
        let latency = latency();
        latency.record(Duration::ZERO);
        latency.record(Duration::MAX);
        let summary = Latency::summary([&latency]);
        assert_eq!((summary.count, summary.p50), (2, Duration::ZERO));
        assert_eq!(summary.max, Duration::from_nanos((1 << NANOS_POWER) - 1));
    }

    #[test]
    fn quantiles_are_bounds_near_the_exact_ones() {
        let cores = [latency(), latency()];
        for micros in 1..=10_000_u64 {
            cores[usize::from(micros % 2 == 0)].record(Duration::from_micros(micros));
        }
        let summary = Latency::summary(&cores);
        assert_eq!(summary.count, 10_000);
        for (found, exact) in [
            (summary.p50, 5_000),
            (summary.p90, 9_000),
            (summary.p99, 9_900),
            (summary.p999, 9_990),
            (summary.max, 10_000),
        ] {
            let exact = Duration::from_micros(exact);
            assert!(found >= exact && found <= exact.mul_f64(1.04), "{found:?} {exact:?}");
        }
        assert_eq!(Latency::summary([&latency()]), LatencySummary::default());
    }
}
