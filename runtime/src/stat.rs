//! Figures of a host.

use std::sync::atomic::{AtomicU64, Ordering};

use lapidary_engine::StoreStat;
use lapidary_vfs::ProcessSetup;

use crate::alarms::AlarmStat;
use crate::latency::{Latency, LatencySummary};

/// Figures of a host at a moment, held back until what they tell is durable.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HostStat {
    /// The store's own figures.
    pub store: StoreStat,
    /// One entry for each core.
    pub cores: Vec<CoreStat>,
    /// Reader connections open and unused.
    pub idle_readers: usize,
    /// What has become of alarms.
    pub alarms: AlarmStat,
    /// Whether SQLite's process-wide settings came in time.
    pub process_setup: ProcessSetup,
}

/// Figures of one core. Counts are since the host was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CoreStat {
    /// The core's number, from 0.
    pub core: usize,
    /// The processor its thread is bound to; `None` if it is not bound.
    pub pinned_to: Option<usize>,
    /// Calls in the mailbox now.
    pub calls_waiting: usize,
    /// Replies held back now, until they are durable.
    pub replies_held: u64,
    /// Writer connections open now.
    pub resident_facets: u64,
    /// Bytes of SQLite's memory that they hold now.
    pub resident_bytes: u64,
    /// Calls run.
    pub calls: u64,
    /// Writer connections opened.
    pub opened_facets: u64,
    /// Times that a writer connection gave back its pages to make room.
    pub shrunk_facets: u64,
    /// Writer connections closed to make room for another.
    pub evicted_facets: u64,
    /// Closures that panicked.
    pub panics: u64,
    /// How long calls took, from their making to the leaving of their replies.
    pub latency: LatencySummary,
    /// How long they waited before they ran; part of it.
    pub wait: LatencySummary,
}

/// Written by one core's thread, read by any.
#[derive(Debug)]
pub(crate) struct CoreCounters {
    pub(crate) pinned_to: AtomicU64,
    pub(crate) replies_held: AtomicU64,
    pub(crate) resident_facets: AtomicU64,
    pub(crate) resident_bytes: AtomicU64,
    pub(crate) calls: AtomicU64,
    pub(crate) opened_facets: AtomicU64,
    pub(crate) shrunk_facets: AtomicU64,
    pub(crate) evicted_facets: AtomicU64,
    pub(crate) panics: AtomicU64,
    pub(crate) latency: Latency,
    pub(crate) wait: Latency,
}

const NOT_PINNED: u64 = u64::MAX;

impl CoreCounters {
    pub(crate) fn new(latency: Latency, wait: Latency) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            pinned_to: AtomicU64::new(NOT_PINNED),
            replies_held: zero(),
            resident_facets: zero(),
            resident_bytes: zero(),
            calls: zero(),
            opened_facets: zero(),
            shrunk_facets: zero(),
            evicted_facets: zero(),
            panics: zero(),
            latency,
            wait,
        }
    }

    pub(crate) fn stat(&self, core: usize, calls_waiting: usize) -> CoreStat {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let pinned_to = read(&self.pinned_to);
        CoreStat {
            core,
            pinned_to: usize::try_from(pinned_to).ok().filter(|_| pinned_to != NOT_PINNED),
            calls_waiting,
            replies_held: read(&self.replies_held),
            resident_facets: read(&self.resident_facets),
            resident_bytes: read(&self.resident_bytes),
            calls: read(&self.calls),
            opened_facets: read(&self.opened_facets),
            shrunk_facets: read(&self.shrunk_facets),
            evicted_facets: read(&self.evicted_facets),
            panics: read(&self.panics),
            latency: Latency::summary([&self.latency]),
            wait: Latency::summary([&self.wait]),
        }
    }
}

/// Adds to a counter that one thread alone writes, without the cost of an atomic addition.
pub(crate) fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed) + more, Ordering::Relaxed);
}
