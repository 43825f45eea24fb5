//! What a recorder of the crate `metrics` is told.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test may panic, and counts small things"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{await_that, config, host_on};
use lapidary::{METRICS, MetricKind};
use lapidary_engine::MemoryIo;
use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, SharedString, Unit};

/// Values by name and labels.
type Values = Mutex<BTreeMap<String, Arc<AtomicU64>>>;

#[derive(Default)]
struct Told {
    described: Mutex<BTreeMap<String, (MetricKind, Unit, String)>>,
    counters: Values,
    gauges: Values,
    histograms: Mutex<BTreeMap<String, Arc<Recorded>>>,
}

#[derive(Default)]
struct Recorded(Mutex<Vec<f64>>);

impl HistogramFn for Recorded {
    fn record(&self, value: f64) {
        self.0.lock().unwrap().push(value);
    }
}

fn name(key: &Key) -> String {
    let mut labels: Vec<_> =
        key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
    labels.sort();
    format!("{}{labels:?}", key.name())
}

impl Told {
    fn describe(&self, kind: MetricKind, key: &KeyName, unit: Option<Unit>, what: &SharedString) {
        let described = (kind, unit.unwrap(), what.to_string());
        self.described.lock().unwrap().insert(key.as_str().to_owned(), described);
    }

    /// The sum over all cores and stores.
    fn sum(&self, values: &Values, name: &str) -> u64 {
        let of_name = format!("{name}[");
        let values = values.lock().unwrap();
        values
            .iter()
            .filter(|(key, _)| key.starts_with(&of_name))
            .map(|(_, value)| value.load(Ordering::Relaxed))
            .sum()
    }
}

#[derive(Clone, Default)]
struct Recorder(Arc<Told>);

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, what: SharedString) {
        self.0.describe(MetricKind::Counter, &key, unit, &what);
    }
    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, what: SharedString) {
        self.0.describe(MetricKind::Gauge, &key, unit, &what);
    }
    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, what: SharedString) {
        self.0.describe(MetricKind::Histogram, &key, unit, &what);
    }
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let mut counters = self.0.counters.lock().unwrap();
        Counter::from_arc(Arc::clone(counters.entry(name(key)).or_default()))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let mut gauges = self.0.gauges.lock().unwrap();
        Gauge::from_arc(Arc::clone(gauges.entry(name(key)).or_default()))
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let mut histograms = self.0.histograms.lock().unwrap();
        Histogram::from_arc(Arc::clone(histograms.entry(name(key)).or_default()))
    }
}

#[test]
fn a_recorder_is_told_of_everything_in_the_table() {
    let recorder = Recorder::default();
    let told = Arc::clone(&recorder.0);
    metrics::set_global_recorder(recorder).unwrap();

    let never = Duration::from_secs(3600);
    let host = host_on(&MemoryIo::new(), config(2).metrics_interval(never));
    for n in 0..20 {
        let facet = host.facet(format!("tenant-{n}")).unwrap();
        facet.execute("CREATE TABLE t(x)", ()).wait().unwrap();
    }
    assert_eq!(
        told.sum(&told.counters, "lapidary_calls_total"),
        0,
        "nothing is told before its time"
    );
    host.publish_metrics();
    assert_eq!(told.sum(&told.counters, "lapidary_calls_total"), 20);
    assert_eq!(told.sum(&told.counters, "lapidary_commits_total"), 20);
    let gauge = |name: &str| f64::from_bits(told.sum(&told.gauges, name));
    assert!((gauge("lapidary_facets") - 20.0).abs() < 0.1);
    assert!(gauge("lapidary_allocated_bytes") > 100_000.0);

    // Both cores answered, and each call is in the histogram of its own. A reply is recorded just before
    // it leaves.
    let histograms = told.histograms.lock().unwrap();
    let durations: Vec<_> = histograms
        .iter()
        .filter(|(name, _)| name.starts_with("lapidary_call_duration_seconds["))
        .map(|(_, recorded)| recorded.0.lock().unwrap().clone())
        .collect();
    assert_eq!(durations.len(), 2, "{:?}", histograms.keys());
    assert_eq!(durations.concat().len(), 20);
    assert!(durations.concat().iter().all(|seconds| (0.0..30.0).contains(seconds)));
    drop(histograms);

    // The table is what was described, and what was told of.
    let described = told.described.lock().unwrap();
    let mut names = BTreeSet::new();
    #[cfg(feature = "bucket")]
    let in_buckets = lapidary::BUCKET_METRICS;
    #[cfg(not(feature = "bucket"))]
    let in_buckets: &[lapidary::Metric] = &[];
    for metric in METRICS.iter().chain(in_buckets) {
        let (kind, unit, what) = &described[metric.name];
        assert_eq!((*kind, *unit, what.as_str()), (metric.kind, metric.unit, metric.description));
        names.insert(metric.name.to_owned());
    }
    assert_eq!(names.len(), METRICS.len() + in_buckets.len());
    assert!(described.keys().eq(&names));
    // This host has no bucket.
    names.retain(|name| !in_buckets.iter().any(|metric| metric.name == name));
    let of = |key: &String| key.split('[').next().unwrap().to_owned();
    let mut said: BTreeSet<_> = told.counters.lock().unwrap().keys().map(of).collect();
    said.extend(told.gauges.lock().unwrap().keys().map(of));
    said.extend(told.histograms.lock().unwrap().keys().map(of));
    assert_eq!(said, names);
    drop(described);

    // By itself, too, and a last time at the end.
    host.shutdown().unwrap();
    let soon = config(1).metrics_interval(Duration::from_millis(1));
    let host = host_on(&MemoryIo::new(), soon);
    host.facet("a").unwrap().execute("CREATE TABLE t(x)", ()).wait().unwrap();
    let facets = || gauge("lapidary_facets").round() as u64;
    await_that("it is told", || facets() == 1);
    assert!(told.sum(&told.counters, "lapidary_calls_total") <= 21);
    host.facet("b").unwrap().execute("CREATE TABLE t(x)", ()).wait().unwrap();
    host.shutdown().unwrap();
    assert_eq!((facets(), told.sum(&told.counters, "lapidary_calls_total")), (2, 22));
    #[cfg(feature = "bucket")]
    those_of_a_bucket_are_told(&told);
}

/// Of a host whose store is in a bucket.
#[cfg(feature = "bucket")]
fn those_of_a_bucket_are_told(told: &Told) {
    use lapidary::bucket::{Bucket, BucketSettings, Objects, RemoteObjects, Watch};

    let objects: Arc<dyn Objects> = Arc::new(RemoteObjects::in_memory().unwrap());
    let local = lapidary::Environment::with_io(Arc::new(MemoryIo::new()));
    let settings = BucketSettings::default();
    let bucket = Bucket::attach(&objects, &local, settings, &mut Watch::default()).unwrap();
    let host = lapidary::Host::open_from_bucket(bucket, config(1)).unwrap();
    host.facet("a").unwrap().execute("CREATE TABLE t(x)", ()).wait().unwrap();
    host.sync_to_bucket().unwrap();
    host.publish_metrics();
    let stat = host.bucket().unwrap().stat();
    let gauge = |name: &str| f64::from_bits(told.sum(&told.gauges, name)) as u64;
    assert_eq!(gauge("lapidary_bucket_epoch"), 1);
    assert!(gauge("lapidary_bucket_local_bytes") > 0);
    let puts = told.sum(&told.counters, "lapidary_bucket_puts_total");
    assert!((1..=stat.puts).contains(&puts), "{puts} of {stat:?}");
    let of = |key: &String| key.split('[').next().unwrap().to_owned();
    let mut said: BTreeSet<_> = told.counters.lock().unwrap().keys().map(of).collect();
    said.extend(told.gauges.lock().unwrap().keys().map(of));
    for metric in lapidary::BUCKET_METRICS {
        assert!(said.contains(metric.name), "{}", metric.name);
    }
    host.shutdown().unwrap();
}
