//! What each facet used, to bill from.
//!
//! A meter belongs to a name and outlives its connections. Counts are of work done since the host was
//! opened, durable or not, and grow only; who wants a period takes the difference of two readings.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use lapidary_engine::FacetName;

use crate::error::Result;
use crate::host::{Host, checked};
use crate::isolation::Used;

/// What a facet has used since the host was opened or the meter was reset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MeterReading {
    /// Calls run, on the core and as readers.
    pub calls: u64,
    /// Time that calls ran on their threads, as the wall clock has it. A core runs one call at a
    /// time and never waits in one for the disk's syncs, so on a machine that is not overloaded this
    /// is processor time; reads of pages that are not cached are in it.
    pub busy: Duration,
    /// VM steps of SQLite, in thousands: a prepared statement is counted each time it has taken
    /// 1,000 more over all its runs.
    pub vm_steps: u64,
    /// Rows that `query` returned. Rows that a closure fetches by itself are in `vm_steps` alone.
    pub rows_returned: u64,
    /// Bytes of values that `query` returned, 8 for a number.
    pub bytes_returned: u64,
    /// Rows inserted, updated and deleted, also by triggers and cascades, and if they were rolled
    /// back.
    pub rows_written: u64,
    /// Transactions with changes that SQLite went on to commit.
    pub commits: u64,
}

/// Written by the facet's core and its readers' threads.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    calls: AtomicU64,
    busy_nanos: AtomicU64,
    vm_steps: AtomicU64,
    rows_returned: AtomicU64,
    bytes_returned: AtomicU64,
    rows_written: AtomicU64,
    commits: AtomicU64,
    /// The mark that was current when it last counted a call.
    changed: AtomicU64,
    mark: Arc<AtomicU64>,
}

impl Meter {
    pub(crate) fn add_steps(&self, steps: u64) {
        self.vm_steps.fetch_add(steps, Ordering::Relaxed);
    }

    pub(crate) fn add_commit(&self) {
        self.commits.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_call(&self, used: &Used, rows_written: u64) {
        let add = |counter: &AtomicU64, more: u64| {
            if more > 0 {
                counter.fetch_add(more, Ordering::Relaxed);
            }
        };
        add(&self.calls, 1);
        add(&self.busy_nanos, u64::try_from(used.elapsed.as_nanos()).unwrap_or(u64::MAX));
        add(&self.rows_returned, used.rows);
        add(&self.bytes_returned, used.bytes);
        add(&self.rows_written, rows_written);
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

    fn take(&self, read: impl Fn(&AtomicU64) -> u64) -> MeterReading {
        MeterReading {
            calls: read(&self.calls),
            busy: Duration::from_nanos(read(&self.busy_nanos)),
            vm_steps: read(&self.vm_steps),
            rows_returned: read(&self.rows_returned),
            bytes_returned: read(&self.bytes_returned),
            rows_written: read(&self.rows_written),
            commits: read(&self.commits),
        }
    }

    fn read(&self) -> MeterReading {
        self.take(|counter| counter.load(Ordering::Relaxed))
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

    fn find(&self, name: &FacetName) -> Option<Arc<Meter>> {
        self.named.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn since(&self, mark: u64) -> (Vec<(FacetName, MeterReading)>, u64) {
        // First: what counts from here on has the new mark, and is found the next time.
        let next = self.mark.fetch_add(1, Ordering::SeqCst) + 1;
        let named = self.named.read().unwrap_or_else(PoisonError::into_inner);
        let changed = |meter: &Meter| meter.changed.load(Ordering::SeqCst) >= mark.max(1);
        let mut readings: Vec<_> = named
            .iter()
            .filter(|(_, meter)| changed(meter))
            .map(|(name, meter)| (name.clone(), meter.read()))
            .collect();
        drop(named);
        readings.sort_by(|(one, _), (other, _)| one.cmp(other));
        // A call that read the old mark before the step above may store it after the scan.
        (readings, next - 1)
    }
}

impl Host {
    /// What the facet `name` has used. All zero if no call has run.
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
    /// assert_eq!((used.rows_written, used.rows_returned), (2, 2));
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
    ///     // A dollar for a million writes, and ten cents for an hour on a core.
    ///     let dollars = used.rows_written as f64 / 1e6 + used.busy.as_secs_f64() / 3600.0 * 0.1;
    ///     println!("{facet}: {dollars:.9}");
    /// }
    /// mark = next;
    /// # assert_eq!(readings.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn meters_since(&self, mark: u64) -> (Vec<(FacetName, MeterReading)>, u64) {
        self.shared.meters.since(mark)
    }

    /// Sets the meter of `name` to zero and returns what it had counted, each count exactly once.
    ///
    /// # Errors
    /// A name that no facet can have.
    pub fn reset_meter(&self, name: impl AsRef<str>) -> Result<MeterReading> {
        let name = checked(name.as_ref())?;
        let reset = |meter: Arc<Meter>| meter.take(|counter| counter.swap(0, Ordering::Relaxed));
        Ok(self.shared.meters.find(&name).map(reset).unwrap_or_default())
    }
}
