//! A host at a moment, for dashboards.

use lapidary_engine::{FacetName, StoreStat};

use crate::host::Host;
use crate::latency::{Latency, LatencySummary};
use crate::meter::MeterReading;
use crate::shared::Shared;
use crate::stat::CoreStat;

/// A host at a moment. Its figures are read one after the other while work goes on, so sums may be off by
/// the calls of a few microseconds. Counts are since the host was opened.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct HostSnapshot {
    /// Facets there are.
    pub facets: u64,
    /// Facets with a writer connection open. The others cost an entry in the catalog.
    pub facets_open: u64,
    /// Reader connections open and unused.
    pub idle_readers: usize,
    /// Each core: what waits, what is held, what it has done, how long calls took.
    pub cores: Vec<CoreStat>,
    /// How long calls took, from their making to the leaving of their replies, over all cores. Reads on
    /// callers' threads are no calls.
    pub latency: LatencySummary,
    /// How long they waited before they ran; part of it.
    pub wait: LatencySummary,
    /// The store: space, log, checkpoints, cleaner.
    pub store: StoreStat,
    /// The facets that kept their threads busy for longest, the busiest first.
    pub busiest: Vec<BusyFacet>,
}

/// A facet and what it has used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct BusyFacet {
    /// The facet.
    pub facet: FacetName,
    /// What it has used since the host was opened or its meter was reset.
    pub used: MeterReading,
}

impl Host {
    /// The host at this moment, with the `busiest_max` facets that kept their threads busy for longest.
    /// It asks no core and waits for nothing, so it works when calls do not, and tells of work that is
    /// not durable yet. It takes some microseconds, and one for every ten facets that ever ran a call.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// host.facet("tenants/acme")?.execute("CREATE TABLE t(x)", ()).wait()?;
    /// let now = host.snapshot(10);
    /// assert_eq!((now.facets, now.facets_open), (1, 1));
    /// println!("p99 of {} calls: {:?}", now.latency.count, now.latency.p99);
    /// println!("{} bytes on disk", now.store.allocated_bytes);
    /// for busy in &now.busiest {
    ///     println!("{}: {:?}", busy.facet, busy.used.busy);
    /// }
    /// # assert_eq!(now.busiest.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn snapshot(&self, busiest_max: usize) -> HostSnapshot {
        self.shared.snapshot(busiest_max)
    }
}

impl Shared {
    pub(crate) fn snapshot(&self, busiest_max: usize) -> HostSnapshot {
        let cores = self.core_stats();
        let store = self.store.stat();
        let busiest = self.meters.busiest(busiest_max).into_iter();
        HostSnapshot {
            facets: store.facets,
            facets_open: cores.iter().map(|core| core.resident_facets).sum(),
            idle_readers: self.readers.idle(),
            cores,
            latency: Latency::summary(self.counters.iter().map(|core| &core.latency)),
            wait: Latency::summary(self.counters.iter().map(|core| &core.wait)),
            store,
            busiest: busiest.map(|(facet, used)| BusyFacet { facet, used }).collect(),
        }
    }

    /// Figures of each core.
    pub(crate) fn core_stats(&self) -> Vec<CoreStat> {
        let cores = self.counters.iter().zip(&self.mailboxes).enumerate();
        cores
            .map(|(number, (counters, mailbox))| counters.stat(number, mailbox.calls_waiting()))
            .collect()
    }
}
