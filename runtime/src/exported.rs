//! The figures of a host, for the crate `metrics`: one table of all there is, and how it is told.
//!
//! How long calls take is recorded as they are answered. The rest is counted anyway, and told every so
//! often.

#[cfg(all(feature = "metrics", feature = "bucket"))]
pub use bucket::BUCKET_METRICS;
#[cfg(feature = "metrics")]
pub use told::{METRICS, Metric, MetricKind};
#[cfg(feature = "metrics")]
pub(crate) use told::{Told, counters, start};

/// The counters of the core `core`.
#[cfg(not(feature = "metrics"))]
pub(crate) fn counters(_store: &lapidary_engine::Store, _core: usize) -> crate::stat::CoreCounters {
    use crate::latency::Latency;

    crate::stat::CoreCounters::new(Latency::new(), Latency::new())
}

#[cfg(feature = "metrics")]
mod told {
    use std::collections::HashMap;
    use std::ops::ControlFlow;
    use std::sync::{Arc, Mutex, PoisonError};
    use std::time::Duration;

    use lapidary_engine::{Store, StoreStat};
    use metrics::Unit;

    use crate::error::Result;
    use crate::host::Host;
    use crate::latency::Latency;
    use crate::shared::Shared;
    use crate::snapshot::HostSnapshot;
    use crate::stat::{CoreCounters, CoreStat};

    /// What becomes of a [`Metric`]'s values.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[non_exhaustive]
    pub enum MetricKind {
        /// Grows, from zero at the opening of the host.
        Counter,
        /// Goes up and down.
        Gauge,
        /// Many values, of which quantiles are of interest.
        Histogram,
    }

    /// A metric that a host tells of. Each has the label `store`, where the store is.
    #[derive(Clone, Copy, Debug)]
    #[non_exhaustive]
    pub struct Metric {
        /// Its name.
        pub name: &'static str,
        /// Counter, gauge or histogram.
        pub kind: MetricKind,
        /// What it is counted in.
        pub unit: Unit,
        /// What it is, in words.
        pub description: &'static str,
        /// Whether there is one for each core, with the label `core`.
        pub is_per_core: bool,
        source: Source,
    }

    #[derive(Clone, Copy, Debug)]
    pub(super) enum Source {
        Core(fn(&CoreStat) -> u64),
        Store(fn(&StoreStat) -> u64),
        Host(fn(&HostSnapshot) -> u64),
        #[cfg(feature = "bucket")]
        Bucket(fn(&crate::bucket::BucketStat) -> u64),
        /// Recorded by the core itself.
        Latency,
    }

    const LATENCY: &str = "lapidary_call_duration_seconds";
    const WAIT: &str = "lapidary_call_wait_seconds";

    pub(super) const fn metric(
        name: &'static str,
        kind: MetricKind,
        unit: Unit,
        description: &'static str,
        source: Source,
    ) -> Metric {
        let is_per_core = matches!(source, Source::Core(_) | Source::Latency);
        Metric { name, kind, unit, description, is_per_core, source }
    }

    use MetricKind::{Counter, Gauge, Histogram};
    use Unit::{Bytes, Count, Seconds};

    /// Every metric that a host tells of.
    ///
    /// ```
    /// for metric in lapidary::METRICS {
    ///     assert!(metric.name.starts_with("lapidary_"));
    /// }
    /// ```
    pub static METRICS: &[Metric] = &[
        metric(
            LATENCY,
            Histogram,
            Seconds,
            "calls, from their making to the leaving of their replies",
            Source::Latency,
        ),
        metric(WAIT, Histogram, Seconds, "calls, from their making to their turn", Source::Latency),
        metric(
            "lapidary_calls_total",
            Counter,
            Count,
            "calls run",
            Source::Core(|core| core.calls),
        ),
        metric(
            "lapidary_panics_total",
            Counter,
            Count,
            "closures that panicked",
            Source::Core(|core| core.panics),
        ),
        metric(
            "lapidary_facets_opened_total",
            Counter,
            Count,
            "writer connections opened",
            Source::Core(|core| core.opened_facets),
        ),
        metric(
            "lapidary_facets_shrunk_total",
            Counter,
            Count,
            "times that a writer connection gave back its pages to make room",
            Source::Core(|core| core.shrunk_facets),
        ),
        metric(
            "lapidary_facets_evicted_total",
            Counter,
            Count,
            "writer connections closed to make room",
            Source::Core(|core| core.evicted_facets),
        ),
        metric(
            "lapidary_calls_waiting",
            Gauge,
            Count,
            "calls in the mailbox",
            Source::Core(|core| core.calls_waiting as u64),
        ),
        metric(
            "lapidary_replies_held",
            Gauge,
            Count,
            "replies held back until they are durable",
            Source::Core(|core| core.replies_held),
        ),
        metric(
            "lapidary_facets_open",
            Gauge,
            Count,
            "writer connections open",
            Source::Core(|core| core.resident_facets),
        ),
        metric(
            "lapidary_readers_idle",
            Gauge,
            Count,
            "reader connections open and unused",
            Source::Host(|host| host.idle_readers as u64),
        ),
        metric(
            "lapidary_facets",
            Gauge,
            Count,
            "facets there are",
            Source::Store(|store| store.facets),
        ),
        metric(
            "lapidary_commits_total",
            Counter,
            Count,
            "commits made durable",
            Source::Store(|store| store.commits),
        ),
        metric(
            "lapidary_flushes_total",
            Counter,
            Count,
            "flushes, each of one sync or a few",
            Source::Store(|store| store.flushes),
        ),
        metric(
            "lapidary_written_bytes_total",
            Counter,
            Bytes,
            "written to the log",
            Source::Store(|store| store.written_bytes),
        ),
        metric(
            "lapidary_filled_bytes_total",
            Counter,
            Bytes,
            "written to fill segments ahead of their use",
            Source::Store(|store| store.filled_bytes),
        ),
        metric(
            "lapidary_checkpoints_total",
            Counter,
            Count,
            "checkpoints taken",
            Source::Store(|store| store.checkpoints),
        ),
        metric(
            "lapidary_cleaned_bytes_total",
            Counter,
            Bytes,
            "moved by the cleaner",
            Source::Store(|store| store.cleaned_bytes),
        ),
        metric(
            "lapidary_cleaned_segments_total",
            Counter,
            Count,
            "segments that the cleaner emptied",
            Source::Store(|store| store.cleaned_segments),
        ),
        metric(
            "lapidary_segments",
            Gauge,
            Count,
            "segment files",
            Source::Store(|store| store.segments.into()),
        ),
        metric(
            "lapidary_allocated_bytes",
            Gauge,
            Bytes,
            "of all segment files",
            Source::Store(|store| store.allocated_bytes),
        ),
        metric(
            "lapidary_live_bytes",
            Gauge,
            Bytes,
            "needed, in segments, as of the last checkpoint",
            Source::Store(|store| store.live_bytes),
        ),
        metric(
            "lapidary_history_bytes",
            Gauge,
            Bytes,
            "of history that is kept",
            Source::Store(|store| store.history_bytes),
        ),
        metric(
            "lapidary_tail_bytes",
            Gauge,
            Bytes,
            "of log since the last checkpoint",
            Source::Store(|store| store.tail_bytes),
        ),
        metric(
            "lapidary_durable_lsn",
            Gauge,
            Count,
            "all up to it is durable",
            Source::Store(|store| store.durable_lsn.0),
        ),
    ];

    /// What each counter of each core was when it was last told. A recorder may know the same counters from
    /// a host that had the store open before, so it is told of what came since.
    #[derive(Default)]
    pub(crate) struct Told(Mutex<HashMap<(&'static str, usize), u64>>);

    impl Told {
        /// What `value` has grown by.
        fn growth(&self, name: &'static str, core: usize, value: u64) -> u64 {
            let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            value.saturating_sub(told.insert((name, core), value).unwrap_or(0))
        }
    }

    fn describe() {
        for &Metric { name, kind, unit, description, .. } in all() {
            match kind {
                Counter => metrics::describe_counter!(name, unit, description),
                Gauge => metrics::describe_gauge!(name, unit, description),
                Histogram => metrics::describe_histogram!(name, unit, description),
            }
        }
    }

    /// The counters of the core `core`, which record into the recorder that is installed now.
    pub(crate) fn counters(store: &Store, core: usize) -> CoreCounters {
        let histogram = |name: &'static str| {
            let labels = [("store", store.describe()), ("core", core.to_string())];
            Latency::new(metrics::histogram!(name, &labels))
        };
        CoreCounters::new(histogram(LATENCY), histogram(WAIT))
    }

    /// Has the figures of a host told every so often, until it is shut down.
    pub(crate) fn start(shared: &Arc<Shared>, every: Duration) -> Result<()> {
        describe();
        let host = Arc::downgrade(shared);
        shared.tickers.start("lapidary-metrics", every, move |_| {
            let Some(host) = host.upgrade() else { return ControlFlow::Break(()) };
            publish(&host);
            ControlFlow::Continue(())
        })
    }

    /// Every metric of this build, those included that need a bucket.
    fn all() -> impl Iterator<Item = &'static Metric> {
        #[cfg(feature = "bucket")]
        let others = super::bucket::BUCKET_METRICS;
        #[cfg(not(feature = "bucket"))]
        let others: &[Metric] = &[];
        METRICS.iter().chain(others)
    }

    fn publish(shared: &Shared) {
        let now = shared.snapshot(0);
        let store = shared.store.describe();
        #[cfg(feature = "bucket")]
        let bucket = shared.bucket.as_ref().map(|gate| gate.bucket().stat());
        for metric in all() {
            match metric.source {
                Source::Latency => {}
                Source::Store(value) => {
                    tell(shared, metric, &[("store", store.clone())], 0, value(&now.store));
                }
                Source::Host(value) => {
                    tell(shared, metric, &[("store", store.clone())], 0, value(&now));
                }
                #[cfg(feature = "bucket")]
                Source::Bucket(value) => {
                    if let Some(bucket) = &bucket {
                        tell(shared, metric, &[("store", store.clone())], 0, value(bucket));
                    }
                }
                Source::Core(value) => {
                    for core in &now.cores {
                        let labels = [("store", store.clone()), ("core", core.core.to_string())];
                        tell(shared, metric, &labels, core.core, value(core));
                    }
                }
            }
        }
    }

    fn tell(
        shared: &Shared,
        metric: &Metric,
        labels: &[(&'static str, String)],
        core: usize,
        value: u64,
    ) {
        match metric.kind {
            Counter => {
                let growth = shared.told.growth(metric.name, core, value);
                metrics::counter!(metric.name, labels).increment(growth);
            }
            #[expect(clippy::cast_precision_loss, reason = "gauges are floating-point numbers")]
            Gauge => metrics::gauge!(metric.name, labels).set(value as f64),
            Histogram => {}
        }
    }

    impl Host {
        /// Tells counters and gauges to the recorder of the crate `metrics` now, for one who is about to
        /// read them; it is done every
        /// [`metrics_interval`](crate::HostConfig::metrics_interval) anyway. With the feature `metrics`.
        ///
        /// Install the recorder before the host is opened: histograms are recorded into the one that was
        /// there then.
        ///
        /// ```
        /// # use lapidary::{Host, HostConfig};
        /// # let directory = tempfile::tempdir()?;
        /// // Before: an exporter's recorder, such as that of `metrics-exporter-prometheus`.
        /// let host = Host::open(directory.path().join("store"), HostConfig::new())?;
        /// // When its page is asked for:
        /// host.publish_metrics();
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn publish_metrics(&self) {
            publish(&self.shared);
        }
    }
}

/// Figures of a store in a bucket.
#[cfg(all(feature = "metrics", feature = "bucket"))]
mod bucket {
    use metrics::Unit::{Bytes, Count, Milliseconds};

    use super::told::MetricKind::{Counter, Gauge};
    use super::told::{Metric, Source, metric};

    /// Every metric that a host tells of besides [`METRICS`](super::METRICS) if its store is in a bucket.
    ///
    /// ```
    /// for metric in lapidary::BUCKET_METRICS {
    ///     assert!(metric.name.starts_with("lapidary_bucket_"));
    /// }
    /// ```
    pub static BUCKET_METRICS: &[Metric] = &[
        metric(
            "lapidary_bucket_epoch",
            Gauge,
            Count,
            "epoch in which this host holds the store in the bucket",
            Source::Bucket(|bucket| bucket.epoch),
        ),
        metric(
            "lapidary_bucket_shipped_lsn",
            Gauge,
            Count,
            "LSN up to which everything is in the bucket",
            Source::Bucket(|bucket| bucket.shipped_lsn.0),
        ),
        metric(
            "lapidary_bucket_unshipped_bytes",
            Gauge,
            Bytes,
            "bytes that were written and wait to be shipped",
            Source::Bucket(|bucket| bucket.unshipped_bytes),
        ),
        metric(
            "lapidary_bucket_lag_milliseconds",
            Gauge,
            Milliseconds,
            "time since the last shipment that arrived was begun",
            Source::Bucket(|bucket| bucket.lag_ms),
        ),
        metric(
            "lapidary_bucket_puts_total",
            Counter,
            Count,
            "requests to write to the bucket",
            Source::Bucket(|bucket| bucket.puts),
        ),
        metric(
            "lapidary_bucket_put_bytes_total",
            Counter,
            Bytes,
            "bytes of those",
            Source::Bucket(|bucket| bucket.put_bytes),
        ),
        metric(
            "lapidary_bucket_put_failures_total",
            Counter,
            Count,
            "requests to write to the bucket that failed",
            Source::Bucket(|bucket| bucket.put_failures),
        ),
        metric(
            "lapidary_bucket_gets_total",
            Counter,
            Count,
            "requests to read from the bucket",
            Source::Bucket(|bucket| bucket.gets),
        ),
        metric(
            "lapidary_bucket_get_bytes_total",
            Counter,
            Bytes,
            "bytes that those brought",
            Source::Bucket(|bucket| bucket.get_bytes),
        ),
        metric(
            "lapidary_bucket_deletes_total",
            Counter,
            Count,
            "objects deleted",
            Source::Bucket(|bucket| bucket.deletes),
        ),
        metric(
            "lapidary_bucket_manifest_bytes",
            Gauge,
            Bytes,
            "the manifest",
            Source::Bucket(|bucket| bucket.manifest_bytes),
        ),
        metric(
            "lapidary_bucket_local_bytes",
            Gauge,
            Bytes,
            "what segment files take of the local disk",
            Source::Bucket(|bucket| bucket.local_bytes),
        ),
        metric(
            "lapidary_bucket_evicted_bytes_total",
            Counter,
            Bytes,
            "what evictions gave back of it",
            Source::Bucket(|bucket| bucket.evicted_bytes),
        ),
    ];
}
