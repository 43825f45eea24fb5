//! What facets used, as one who sends bills wants it: with what they store, and as a stream of
//! differences.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use lapidary_engine::{FacetInfo, FacetName, Store};

use crate::call::Call;
use crate::core_thread::Core;
use crate::error::{HostError, Result};
use crate::facet::FacetHandle;
use crate::host::Host;
use crate::meter::{Meter, MeterReading, Meters};
use crate::ticker::Tick;

/// What a facet has used and what it stores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Usage {
    /// What it has used since the host was opened or its meter was reset.
    pub used: MeterReading,
    /// Bytes of the pages of its newest version, whether or not they are shared with a fork; 0 if it does
    /// not exist.
    pub stored_bytes: u64,
}

/// What a facet has used in a period.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct UsageDelta {
    /// The facet.
    pub facet: FacetName,
    /// What it has used since the last delta that had it; its peak of memory is that since the host was
    /// opened, or the meter reset.
    pub used: MeterReading,
    /// Bytes of the pages of its newest version at the end; 0 if it does not exist any more. It stays so
    /// until the next delta of this facet.
    pub stored_bytes: u64,
}

/// Deltas as they come; see [`Host::usage_stream`]. Blocks between them as an iterator does, and ends when
/// the host was shut down.
///
/// ```
/// # use lapidary::{Host, HostConfig};
/// # let directory = tempfile::tempdir()?;
/// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
/// use std::time::Duration;
///
/// let stream = host.usage_stream(Duration::from_millis(1), 10)?;
/// host.facet("tenants/acme")?.execute("CREATE TABLE t(x)", ()).wait()?;
/// let batch = stream.next_within(Duration::from_secs(30)).expect("a batch within a millisecond or so");
/// assert_eq!((batch[0].facet.as_str(), batch[0].used.calls), ("tenants/acme", 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct UsageStream {
    batches: Receiver<Vec<UsageDelta>>,
}

impl UsageStream {
    /// The next batch, if there is one by now.
    #[must_use]
    pub fn try_next(&self) -> Option<Vec<UsageDelta>> {
        self.batches.try_recv().ok()
    }

    /// The next batch, if one comes within `timeout`.
    #[must_use]
    pub fn next_within(&self, timeout: Duration) -> Option<Vec<UsageDelta>> {
        self.batches.recv_timeout(timeout).ok()
    }
}

impl Iterator for UsageStream {
    type Item = Vec<UsageDelta>;

    fn next(&mut self) -> Option<Vec<UsageDelta>> {
        self.batches.recv().ok()
    }
}

impl FacetHandle {
    /// What the facet has used and what it stores, after all calls before this one. The reply comes when
    /// all it tells of is durable. It does not create the facet.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// let facet = host.facet("tenants/acme")?;
    /// facet.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1), (2)").wait()?;
    /// let usage = facet.usage().wait()?;
    /// assert_eq!((usage.used.commits, usage.used.rows_written), (2, 2));
    /// assert_eq!(usage.stored_bytes, 8192);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn usage(&self) -> Call<Usage> {
        let name = self.name.clone();
        self.target.call_on(self.terms, move |core: &mut Core| {
            let used = core.shared.meters.find(&name).map(|meter| meter.read());
            core.on_catalog(&[], |store| {
                let stored_bytes = stored_bytes(store, &name)?.unwrap_or(0);
                Ok(Usage { used: used.unwrap_or_default(), stored_bytes })
            })
        })
    }
}

impl Host {
    /// What the facets have used, in batches: one each time `every` has passed in which any facet ran a
    /// call, with the differences since the last batch, by name. What was used before the stream was
    /// started is in its first batch. When the host is shut down a last batch comes, then the end.
    ///
    /// At most `batches_max` batches wait to be taken, at least 1; while so many do, nothing is
    /// lost: the next batch has it. Each count is in the batches of a stream exactly once, whatever
    /// [`reset_meter`](Self::reset_meter) does. A stream keeps some hundred bytes for each facet that
    /// exists and ran a call.
    ///
    /// Meters are not stored: what was used after the last batch is lost in a crash, and the next opening
    /// counts from zero. Choose `every` by how much of that may go unbilled. Work may be counted that a
    /// crash then takes.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use lapidary::{Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// let stream = host.usage_stream(Duration::from_secs(60), 10)?;
    /// // A thread of its own that bills.
    /// let billing = std::thread::spawn(move || {
    ///     let mut rows_written = 0;
    ///     for batch in stream {
    ///         // Here: one transaction in the database of the bills, so that each delta counts once.
    ///         rows_written += batch.iter().map(|delta| delta.used.rows_written).sum::<u64>();
    ///     }
    ///     rows_written
    /// });
    /// let facet = host.facet("tenants/acme")?;
    /// facet.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1), (2)").wait()?;
    /// host.shutdown()?;
    /// assert_eq!(billing.join().unwrap(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `every` or `batches_max` is zero; the host is shut down; a thread cannot be started.
    pub fn usage_stream(&self, every: Duration, batches_max: usize) -> Result<UsageStream> {
        self.shared.check_open(None)?;
        for (setting, is_zero) in [("every", every.is_zero()), ("batches_max", batches_max == 0)] {
            if is_zero {
                let reason = "is zero, so no batch could come; use more";
                return Err(HostError::InvalidSetting { setting, reason });
            }
        }
        // The last batch has a place of its own.
        let (sender, batches) = bounded(batches_max.saturating_add(1));
        let mut source = Deltas {
            meters: Arc::clone(&self.shared.meters),
            store: Arc::clone(&self.shared.store),
            mark: 0,
            sent: HashMap::new(),
        };
        let tick = move |tick| source.send(&sender, batches_max, tick);
        self.shared.tickers.start("lapidary-usage", every, tick)?;
        Ok(UsageStream { batches })
    }
}

/// Where the batches of a stream come from.
struct Deltas {
    meters: Arc<Meters>,
    store: Arc<Store>,
    mark: u64,
    sent: HashMap<FacetName, Sent>,
}

/// What was sent of a facet.
struct Sent {
    /// Kept, so that it does not begin anew.
    _meter: Arc<Meter>,
    reading: MeterReading,
    stored_bytes: u64,
}

impl Deltas {
    fn send(
        &mut self,
        sender: &Sender<Vec<UsageDelta>>,
        batches_max: usize,
        tick: Tick,
    ) -> ControlFlow<()> {
        if tick == Tick::Due && sender.len() >= batches_max {
            return ControlFlow::Continue(());
        }
        let (changed, mark) = self.meters.changed_since(self.mark);
        self.mark = mark;
        let batch: Vec<_> =
            changed.into_iter().filter_map(|(name, meter)| self.delta(name, meter)).collect();
        if batch.is_empty() {
            return ControlFlow::Continue(());
        }
        match sender.try_send(batch) {
            Ok(()) => ControlFlow::Continue(()),
            // There is room: nobody else sends. So nobody listens any more.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => ControlFlow::Break(()),
        }
    }

    /// What is to be said of a facet whose meter may have changed.
    fn delta(&mut self, facet: FacetName, meter: Arc<Meter>) -> Option<UsageDelta> {
        let reading = meter.read_whole();
        let new = || Sent { _meter: meter, reading: MeterReading::default(), stored_bytes: 0 };
        let sent = self.sent.entry(facet.clone()).or_insert_with(new);
        let used = reading.since(&sent.reading);
        let is_new = sent.reading != reading;
        let stored = stored_bytes(&self.store, &facet);
        let is_deleted = matches!(stored, Ok(None));
        // A store that has failed does not tell any more. What was used is to be paid all the same.
        sent.stored_bytes = stored.map_or(sent.stored_bytes, Option::unwrap_or_default);
        let stored_bytes = sent.stored_bytes;
        sent.reading = reading;
        // The other reference to its meter is the one above.
        if is_deleted && self.meters.forget(&facet, 2, |meter| meter.read_whole() == sent.reading) {
            self.sent.remove(&facet);
        }
        is_new.then_some(UsageDelta { facet, used, stored_bytes })
    }
}

/// Bytes of the pages of a facet; `None` if there is none of that name.
fn stored_bytes(store: &Store, name: &FacetName) -> Result<Option<u64>> {
    let found = store.list_facets(Some(name), None, 1)?;
    Ok(found.first().filter(|info| info.name == *name).map(bytes))
}

fn bytes(info: &FacetInfo) -> u64 {
    info.page_size.map_or(0, |size| size.bytes() as u64 * u64::from(info.page_count))
}
