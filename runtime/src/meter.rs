//! What each facet used, to bill from.
//!
//! A meter belongs to a name and outlives its connections. Counts are of work done since the host was
//! opened, durable or not, and grow only; who wants a period takes the difference of two readings.

use std::array;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use lapidary_engine::FacetName;

use crate::error::Result;
use crate::host::{Host, checked};

/// What a facet has used since the host was opened or the meter was reset.
///
/// ```
/// # use lapidary::{Host, HostConfig};
/// # let directory = tempfile::tempdir()?;
/// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
/// let facet = host.facet("tenants/acme")?;
/// facet.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1), (2)").wait()?;
/// let before = host.meter("tenants/acme")?;
/// facet.query("SELECT a FROM t WHERE a > 1", (), |row| row.get::<_, i64>(0)).wait()?;
/// let used = host.meter("tenants/acme")?.since(&before);
/// // One row came out of a scan of two.
/// assert_eq!((used.calls, used.rows_read, used.rows_written), (1, 1, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct MeterReading {
    /// Calls run, on the core and as readers.
    pub calls: u64,
    /// Time that calls ran on their threads, as the wall clock has it: how long they kept a core from
    /// its other facets. Nothing waits in a call for the disk's syncs; reads of pages that are not
    /// cached are in it.
    pub busy: Duration,
    /// Processor time of the same. Of a call, or the part of it before its first 1,000 VM steps, that
    /// is too short for the processor's clock to be asked, `busy` stands for it.
    pub cpu: Duration,
    /// VM steps of SQLite.
    pub vm_steps: u64,
    /// Rows that statements gave out, to `query` and to closures alike.
    pub rows_read: u64,
    /// Rows that statements stepped over in scans of whole tables, whether they gave them out or not.
    /// Rows found through an index are not in it.
    pub rows_scanned: u64,
    /// Rows inserted, updated and deleted, also by triggers and cascades, and if they were rolled
    /// back.
    pub rows_written: u64,
    /// Bytes of pages that SQLite read from the store, since its cache did not have them. What of a large
    /// value is on pages of its own it reads past its cache, each time.
    pub bytes_read: u64,
    /// Bytes of pages that it wrote, also if they were rolled back.
    pub bytes_written: u64,
    /// Bytes of values that `query` returned, 8 for a number.
    pub bytes_returned: u64,
    /// Transactions with changes that SQLite went on to commit.
    pub commits: u64,
    /// The most memory, in bytes, that one connection of the facet has held in SQLite: its cache, its
    /// schema, its statements and what they worked with. 0 if
    /// [`Host::process_setup`](crate::Host::process_setup) came too late.
    pub memory_peak_bytes: u64,
}

impl MeterReading {
    /// What was used between `earlier` and this reading of the same meter, if that was not reset in
    /// between. The peak of memory is this one's.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self::of(&self.counts().since(&earlier.counts()), self.memory_peak_bytes)
    }

    fn of(counts: &Counts, memory_peak_bytes: u64) -> Self {
        let count = |which: Count| counts.0[which as usize];
        Self {
            calls: count(Count::Calls),
            busy: Duration::from_nanos(count(Count::BusyNanos)),
            cpu: Duration::from_nanos(count(Count::CpuNanos)),
            vm_steps: count(Count::VmSteps),
            rows_read: count(Count::RowsRead),
            rows_scanned: count(Count::RowsScanned),
            rows_written: count(Count::RowsWritten),
            bytes_read: count(Count::BytesRead),
            bytes_written: count(Count::BytesWritten),
            bytes_returned: count(Count::BytesReturned),
            commits: count(Count::Commits),
            memory_peak_bytes,
        }
    }

    fn counts(&self) -> Counts {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let mut counts = Counts::default();
        for (which, count) in [
            (Count::Calls, self.calls),
            (Count::BusyNanos, nanos(self.busy)),
            (Count::CpuNanos, nanos(self.cpu)),
            (Count::VmSteps, self.vm_steps),
            (Count::RowsRead, self.rows_read),
            (Count::RowsScanned, self.rows_scanned),
            (Count::RowsWritten, self.rows_written),
            (Count::BytesRead, self.bytes_read),
            (Count::BytesWritten, self.bytes_written),
            (Count::BytesReturned, self.bytes_returned),
            (Count::Commits, self.commits),
        ] {
            counts.0[which as usize] = count;
        }
        counts
    }
}

/// What a meter counts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Count {
    Calls,
    BusyNanos,
    CpuNanos,
    VmSteps,
    RowsRead,
    RowsScanned,
    RowsWritten,
    BytesRead,
    BytesWritten,
    BytesReturned,
    Commits,
}

const COUNTS: usize = Count::Commits as usize + 1;

/// One number for each [`Count`].
#[derive(Clone, Copy, Debug, Default)]
struct Counts([u64; COUNTS]);

impl Counts {
    fn since(&self, earlier: &Self) -> Self {
        Self(array::from_fn(|at| self.0[at].saturating_sub(earlier.0[at])))
    }
}

/// Written by the facet's core and its readers' threads.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    counts: [AtomicU64; COUNTS],
    memory_peak_bytes: AtomicU64,
    /// What the counts were at the last reset.
    zero: Mutex<Counts>,
    /// The mark that was current when it last counted a call.
    changed: AtomicU64,
    mark: Arc<AtomicU64>,
}

impl Meter {
    pub(crate) fn add(&self, which: Count, more: u64) {
        if more > 0 {
            self.counts[which as usize].fetch_add(more, Ordering::Relaxed);
        }
    }

    pub(crate) fn note_memory(&self, peak_bytes: u64) {
        self.memory_peak_bytes.fetch_max(peak_bytes, Ordering::Relaxed);
    }

    /// To be called when a call has been counted.
    pub(crate) fn note_changed(&self) {
        // After the counts: who sees the mark sees them. Again if it has moved on meanwhile, since
        // the scan that moved it may have passed by already.
        let mut mark = self.mark.load(Ordering::SeqCst);
        loop {
            self.changed.store(mark, Ordering::SeqCst);
            match self.mark.load(Ordering::SeqCst) {
                same if same == mark => return,
                newer => mark = newer,
            }
        }
    }

    fn counted(&self) -> Counts {
        Counts(array::from_fn(|at| self.counts[at].load(Ordering::Relaxed)))
    }

    pub(crate) fn read(&self) -> MeterReading {
        let zero = *self.zero.lock().unwrap_or_else(PoisonError::into_inner);
        let peak = self.memory_peak_bytes.load(Ordering::Relaxed);
        MeterReading::of(&self.counted().since(&zero), peak)
    }

    /// As [`read`](Self::read), of all since the host was opened.
    pub(crate) fn read_whole(&self) -> MeterReading {
        MeterReading::of(&self.counted(), self.memory_peak_bytes.load(Ordering::Relaxed))
    }

    fn reset(&self) -> MeterReading {
        let mut zero = self.zero.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.counted();
        let before = std::mem::replace(&mut *zero, now);
        MeterReading::of(&now.since(&before), self.memory_peak_bytes.swap(0, Ordering::Relaxed))
    }
}

/// The meters of a host, by name.
#[derive(Debug)]
pub(crate) struct Meters {
    named: RwLock<HashMap<FacetName, Arc<Meter>>>,
    mark: Arc<AtomicU64>,
}

impl Default for Meters {
    fn default() -> Self {
        // A meter that never counted has the mark 0.
        Self { named: RwLock::default(), mark: Arc::new(AtomicU64::new(1)) }
    }
}

impl Meters {
    /// The meter of `name`, for a connection that opens.
    pub(crate) fn of(&self, name: &FacetName) -> Arc<Meter> {
        if let Some(meter) = self.find(name) {
            return meter;
        }
        let mut named = self.named.write().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Meter { mark: Arc::clone(&self.mark), ..Meter::default() });
        Arc::clone(named.entry(name.clone()).or_insert_with(new))
    }

    pub(crate) fn find(&self, name: &FacetName) -> Option<Arc<Meter>> {
        self.named.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Lets go of the meter of `name`, and says so, if no connection counts on it, so that there are no
    /// more than `references` to it, and nothing is lost with it.
    pub(crate) fn forget(
        &self,
        name: &FacetName,
        references: usize,
        is_told: impl FnOnce(&Meter) -> bool,
    ) -> bool {
        let mut named = self.named.write().unwrap_or_else(PoisonError::into_inner);
        // Nobody can come by another reference meanwhile: that takes the lock.
        let unused = |meter: &Arc<Meter>| Arc::strong_count(meter) <= references && is_told(meter);
        named.get(name).is_some_and(unused) && named.remove(name).is_some()
    }

    /// The meters that ran a call since `mark`, by name, and the mark for the next time.
    pub(crate) fn changed_since(&self, mark: u64) -> (Vec<(FacetName, Arc<Meter>)>, u64) {
        // First: what counts from here on has the new mark, and is found the next time.
        let next = self.mark.fetch_add(1, Ordering::SeqCst) + 1;
        let named = self.named.read().unwrap_or_else(PoisonError::into_inner);
        let changed = |meter: &Meter| meter.changed.load(Ordering::SeqCst) >= mark.max(1);
        let mut meters: Vec<_> = named
            .iter()
            .filter(|(_, meter)| changed(meter))
            .map(|(name, meter)| (name.clone(), Arc::clone(meter)))
            .collect();
        drop(named);
        meters.sort_by(|(one, _), (other, _)| one.cmp(other));
        // A call that read the old mark before the step above may store it after the scan.
        (meters, next - 1)
    }

    /// The `most` facets that kept their threads busy for longest, the busiest first.
    pub(crate) fn busiest(&self, most: usize) -> Vec<(FacetName, MeterReading)> {
        let named = self.named.read().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<(MeterReading, &FacetName)> =
            named.iter().map(|(name, meter)| (meter.read(), name)).collect();
        let order = |one: &(MeterReading, &FacetName), other: &(MeterReading, &FacetName)| {
            other.0.busy.cmp(&one.0.busy).then_with(|| one.1.cmp(other.1))
        };
        if most < found.len() {
            found.select_nth_unstable_by(most, order);
            found.truncate(most);
        }
        found.sort_unstable_by(order);
        found.into_iter().map(|(reading, name)| (name.clone(), reading)).collect()
    }
}

impl Host {
    /// What the facet `name` has used. All zero if no call has run. See
    /// [`FacetHandle::usage`](crate::FacetHandle::usage) for a reading that is held until it is durable,
    /// and comes with what the facet stores.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// let facet = host.facet("tenants/acme")?;
    /// facet.execute("CREATE TABLE t(a)", ()).wait()?;
    /// facet.execute("INSERT INTO t VALUES (1), (2)", ()).wait()?;
    /// facet.query("SELECT a FROM t", (), |row| row.get::<_, i64>(0)).wait()?;
    /// let used = host.meter("tenants/acme")?;
    /// assert_eq!((used.calls, used.commits), (3, 2));
    /// assert_eq!((used.rows_written, used.rows_read), (2, 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// A name that no facet can have.
    pub fn meter(&self, name: impl AsRef<str>) -> Result<MeterReading> {
        let name = checked(name.as_ref())?;
        Ok(self.shared.meters.find(&name).map(|meter| meter.read()).unwrap_or_default())
    }

    /// The readings of all facets that ran a call since `mark` was returned, by name, and the mark
    /// for the next time; 0 asks for all. A reading may come once more than it changed, never less.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// host.facet("tenants/acme")?.execute("CREATE TABLE t(a)", ()).wait()?;
    /// let mut mark = 0;
    /// // Once a minute:
    /// let (readings, next) = host.meters_since(mark);
    /// for (facet, used) in &readings {
    ///     println!("{facet}: {} VM steps since the host was opened", used.vm_steps);
    /// }
    /// mark = next;
    /// # assert_eq!(readings.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn meters_since(&self, mark: u64) -> (Vec<(FacetName, MeterReading)>, u64) {
        let (meters, next) = self.shared.meters.changed_since(mark);
        (meters.into_iter().map(|(name, meter)| (name, meter.read())).collect(), next)
    }

    /// Sets the meter of `name` to zero and returns what it had counted, each count exactly once. If the
    /// facet has no connection open, its meter takes no memory from then on.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// host.facet("jobs/1")?.execute("CREATE TABLE t(a)", ()).wait()?;
    /// host.delete("jobs/1").wait()?;
    /// // The bill of a facet that is gone.
    /// assert_eq!(host.reset_meter("jobs/1")?.calls, 1);
    /// assert_eq!(host.meter("jobs/1")?.calls, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// A name that no facet can have.
    pub fn reset_meter(&self, name: impl AsRef<str>) -> Result<MeterReading> {
        let name = checked(name.as_ref())?;
        let reading = self.shared.meters.find(&name).map(|meter| meter.reset());
        self.shared.meters.forget(&name, 1, |meter| meter.read() == MeterReading::default());
        Ok(reading.unwrap_or_default())
    }
}
