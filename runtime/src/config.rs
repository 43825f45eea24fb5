//! Settings of a host.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use lapidary_engine::{FacetName, StoreOptions};
use lapidary_vfs::{ProcessSettings, VfsOptions};

use crate::alarms::AlarmHandler;
use crate::error::{HostError, Result};
use crate::isolation::Isolation;
use crate::placement::CORES_MAX;
use crate::residency::Hooks;
use crate::transaction::Transaction;

/// What a call meets when its core's mailbox is full, or its facet has its most calls waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum MailboxFull {
    /// It waits for room, when it is awaited or waited for.
    #[default]
    Wait,
    /// It fails at once with [`HostError::MailboxFull`] or [`HostError::FacetBusy`].
    Error,
}

/// Settings of a [`Host`](crate::Host), none of them persisted.
///
/// ```
/// use std::num::NonZeroUsize;
/// use lapidary::{HostConfig, MailboxFull};
///
/// let config = HostConfig::new()
///     .cores(NonZeroUsize::MIN)
///     .mailbox_full(MailboxFull::Error)
///     .resident_facets_max(1_000);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct HostConfig {
    pub(crate) cores: NonZeroUsize,
    pub(crate) pin_cores: bool,
    pub(crate) idle_poll: Duration,
    pub(crate) mailbox_calls_max: usize,
    pub(crate) mailbox_full: MailboxFull,
    pub(crate) facet_calls_max: usize,
    pub(crate) coalesce_writes: bool,
    pub(crate) resident_facets_max: usize,
    pub(crate) resident_bytes_max: Option<u64>,
    pub(crate) hooks: Hooks,
    pub(crate) cached_statements_max: usize,
    pub(crate) page_cache_kib_max: u32,
    pub(crate) idle_readers_max: usize,
    pub(crate) process: ProcessSettings,
    pub(crate) store: StoreOptions,
    pub(crate) vfs: VfsOptions,
    pub(crate) vfs_name: Option<String>,
    pub(crate) shutdown_timeout: Duration,
    pub(crate) isolation: Isolation,
    pub(crate) slow_statement: Option<Duration>,
    #[cfg(feature = "metrics")]
    pub(crate) metrics_interval: Duration,
    #[cfg(feature = "bucket")]
    pub(crate) acknowledge: crate::bucket::Acknowledge,
    pub(crate) on_alarm: Option<AlarmHandler>,
}

/// SQLite's own default, which needs no statement at each open.
pub(crate) const PAGE_CACHE_KIB_DEFAULT: u32 = 2_000;

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            cores: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            pin_cores: true,
            idle_poll: Duration::ZERO,
            mailbox_calls_max: 4_096,
            mailbox_full: MailboxFull::default(),
            facet_calls_max: 1_024,
            coalesce_writes: false,
            resident_facets_max: 8_192,
            resident_bytes_max: None,
            hooks: Hooks::default(),
            cached_statements_max: 32,
            page_cache_kib_max: PAGE_CACHE_KIB_DEFAULT,
            idle_readers_max: 1_024,
            process: ProcessSettings::default(),
            store: StoreOptions::create(),
            vfs: VfsOptions::default(),
            vfs_name: None,
            shutdown_timeout: Duration::from_secs(30),
            isolation: Isolation::trusted(),
            slow_statement: None,
            #[cfg(feature = "metrics")]
            metrics_interval: Duration::from_secs(5),
            #[cfg(feature = "bucket")]
            acknowledge: crate::bucket::Acknowledge::default(),
            on_alarm: None,
        }
    }
}

impl HostConfig {
    /// The defaults: every core of the machine, and a store that is created if there is none.
    pub fn new() -> Self {
        Self::default()
    }

    /// Threads that run calls. Default: the parallelism the operating system grants. More than the
    /// machine has gain nothing; fewer leave room for other work of the process.
    pub fn cores(mut self, cores: NonZeroUsize) -> Self {
        self.cores = cores;
        self
    }

    /// Whether each thread is bound to one core of the machine. Default: yes, which keeps a facet's
    /// pages in one core's caches; no is better where other busy processes share the machine.
    pub fn pin_cores(mut self, pin: bool) -> Self {
        self.pin_cores = pin;
        self
    }

    /// How long a core that has run out of calls looks out for the next one before it sleeps. Default:
    /// not at all. A call that finds the core awake saves the time it takes to wake a thread, which is
    /// tens of microseconds on a virtual machine whose processors halt when they are idle; the price is
    /// up to this much processor time each time the core runs out. Other threads get the processor
    /// meanwhile if they ask for it.
    pub fn idle_poll(mut self, time: Duration) -> Self {
        self.idle_poll = time;
        self
    }

    /// Calls that wait in a core's mailbox, all facets together, at least 1. Default 4,096. A larger
    /// mailbox rides out longer bursts. A facet that has no call waiting is let in beyond it with one,
    /// so those with many never keep it out.
    pub fn mailbox_calls_max(mut self, calls: usize) -> Self {
        self.mailbox_calls_max = calls;
        self
    }

    /// Calls of one facet that wait for their turn, at least 1. Default 1,024.
    /// [`Isolation::calls_waiting_max`](crate::Isolation::calls_waiting_max) says it for some facets.
    ///
    /// The facets of a core take turns: one with many calls waiting delays a call of another by no more
    /// than one of its own. So this bounds memory, and how long a facet's own last call waits.
    pub fn facet_calls_max(mut self, calls: usize) -> Self {
        self.facet_calls_max = calls;
        self
    }

    /// Whether calls of one facet that wait at the same time share a commit, unless a
    /// [handle](crate::FacetHandle::coalesced) says otherwise. Default: no, each has its own.
    pub fn coalesce_writes(mut self, coalesce: bool) -> Self {
        self.coalesce_writes = coalesce;
        self
    }

    /// What a call meets when the mailbox is full, or the facet has its most calls waiting. Default: it
    /// waits.
    pub fn mailbox_full(mut self, full: MailboxFull) -> Self {
        self.mailbox_full = full;
        self
    }

    /// Writer connections that a core keeps open, at least 1; the least recently used is closed
    /// first. Default 8,192. An open one holds some 60 KiB and up to
    /// [`page_cache_kib_max`](Self::page_cache_kib_max) of pages; opening one again takes tens of
    /// microseconds and a schema parse.
    pub fn resident_facets_max(mut self, facets: usize) -> Self {
        self.resident_facets_max = facets;
        self
    }

    /// Bytes of SQLite's memory that the writer connections of a core hold together. Above it the least
    /// recently used give back their pages, which they read again when they need them; those that have
    /// none left are closed. Default: no bound but that of their number. It is looked at between
    /// calls, so it is exceeded by what one call takes
    /// ([`Isolation::call_memory_max`](crate::Isolation::call_memory_max)), and by
    /// [pinned](crate::Host::pin) facets. Not counted are readers' connections, and if
    /// [`Host::process_setup`](crate::Host::process_setup) says that it came too late, nothing.
    pub fn resident_bytes_max(mut self, bytes: Option<u64>) -> Self {
        self.resident_bytes_max = bytes;
        self
    }

    /// What runs on the core when a facet's writer connection has been opened, before its first call and the
    /// steps of its [`Schema`](crate::Schema): the place for SQL functions of the embedder's own, and for
    /// what it keeps in memory for open facets. If it fails so does the call, and the next one tries again.
    ///
    /// It is a transaction under the facet's [`Isolation`](crate::Isolation).
    pub fn on_wake<F>(mut self, hook: F) -> Self
    where
        F: Fn(&Transaction<'_>, &FacetName) -> Result<()> + Send + Sync + 'static,
    {
        self.hooks.on_wake = Some(Arc::new(hook));
        self
    }

    /// What runs on the core before a facet's writer connection is closed to make room, or at shutdown: the
    /// place to write what was kept in memory. It is the last that runs on the connection, a transaction
    /// under the facet's [`Isolation`](crate::Isolation), durable soon after. If it fails, `tracing` is
    /// told, and the connection is closed all the same.
    ///
    /// It does not run when a facet is aborted, renamed or deleted, when its policy is changed, or when a call
    /// has left the connection unusable. So it is for what can be lost, as in a crash.
    pub fn on_hibernate<F>(mut self, hook: F) -> Self
    where
        F: Fn(&Transaction<'_>, &FacetName) -> Result<()> + Send + Sync + 'static,
    {
        self.hooks.on_hibernate = Some(Arc::new(hook));
        self
    }

    /// Prepared statements that a connection keeps. Default 32. Each saves the parse of its SQL at
    /// the next use and holds a few KiB.
    pub fn cached_statements_max(mut self, statements: usize) -> Self {
        self.cached_statements_max = statements;
        self
    }

    /// Pages in KiB that a writer connection keeps in SQLite's cache. Default 2,000, as SQLite has
    /// it; memory is taken as pages are used. Less bounds the memory of large facets, and they read
    /// from the store more often.
    pub fn page_cache_kib_max(mut self, kib: u32) -> Self {
        self.page_cache_kib_max = kib;
        self
    }

    /// Default lookaside of each connection in the process: `slots` of `slot_bytes` bytes. Default
    /// 16 of 256 bytes. More saves mallocs (64 slots: 4 % of the instructions of small transactions);
    /// each connection holds all of it (64 slots: 12 KiB more).
    pub fn lookaside(mut self, slot_bytes: u16, slots: u16) -> Self {
        self.process.lookaside_slot_bytes = slot_bytes;
        self.process.lookaside_slots = slots;
        self
    }

    /// Bytes of each database, from its start, that connections of the process read in place rather
    /// than through a cache of their own, if nothing else is said (`PRAGMA mmap_size`). Default 0. It
    /// pays for large facets with many readers; of small ones most pages are not stored in full.
    pub fn mmap_bytes(mut self, bytes: u64) -> Self {
        self.process.mmap_bytes = bytes;
        self
    }

    /// Reader connections kept open while nobody reads, over all facets. Default 1,024. Opening one
    /// takes about four times as long as a short read.
    pub fn idle_readers_max(mut self, readers: usize) -> Self {
        self.idle_readers_max = readers;
        self
    }

    /// How the store is opened. Default: created if there is none, default tunables. The host sets
    /// the number of log buffers itself: one for each core, one for everybody else.
    pub fn store(mut self, options: StoreOptions) -> Self {
        self.store = options;
        self
    }

    /// How the store is registered with SQLite.
    pub fn vfs(mut self, options: VfsOptions) -> Self {
        self.vfs = options;
        self
    }

    /// Name under which SQLite knows the store, for plain connections next to the host. Default: a
    /// name that no other host of the process has.
    pub fn vfs_name(mut self, name: impl Into<String>) -> Self {
        self.vfs_name = Some(name.into());
        self
    }

    /// How long shutdown waits for calls that run or wait. Default 30 seconds. After it the host
    /// gives up and leaves the store to recovery, which loses nothing acknowledged.
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.shutdown_timeout = timeout;
        self
    }

    /// What SQL inside facets may do, unless [`Host::set_isolation`](crate::Host::set_isolation) says
    /// otherwise. Default: [`Isolation::trusted`], everything but `ATTACH`.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, HostErrorKind, Isolation};
    /// let config = HostConfig::new().isolation(Isolation::untrusted());
    /// # let directory = tempfile::tempdir()?;
    /// let host = Host::open(directory.path().join("store"), config)?;
    /// let refused = host.facet("agents/42")?.execute("PRAGMA writable_schema = on", ()).wait();
    /// assert_eq!(refused.unwrap_err().kind(), HostErrorKind::NotAllowed);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn isolation(mut self, policy: Isolation) -> Self {
        self.isolation = policy;
        self
    }

    /// Statements that take at least this long, from their first step to their reset, are told to
    /// `tracing` as a warning, `slow statement`, with `facet`, `sql` (its first 1,000 bytes, without the
    /// values bound to it), `elapsed`, `steps` of SQLite's VM and `rows` given out. What stands in the
    /// SQL as a literal is in the log. Default: none are. It costs two readings of the clock for each
    /// statement.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig};
    /// use std::time::Duration;
    ///
    /// let config = HostConfig::new().slow_statement(Duration::from_millis(100));
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), config)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn slow_statement(mut self, at_least: Duration) -> Self {
        self.slow_statement = Some(at_least);
        self
    }

    /// How often counters and gauges are told to the recorder of the crate `metrics`. Default 5 seconds.
    /// [`Host::publish_metrics`](crate::Host::publish_metrics) does it at once. With the feature `metrics`.
    #[cfg(feature = "metrics")]
    pub fn metrics_interval(mut self, every: Duration) -> Self {
        self.metrics_interval = every;
        self
    }

    /// When a call is answered by a host that was opened by
    /// [`Host::open_from_bucket`](crate::Host::open_from_bucket). Default: when what it observed is
    /// locally durable. [`FacetHandle::acknowledge`](crate::FacetHandle::acknowledge) says otherwise for
    /// single calls. A host without a bucket is not opened with
    /// [`InBucket`](crate::bucket::Acknowledge::InBucket). With the feature `bucket`.
    #[cfg(feature = "bucket")]
    pub fn acknowledge(mut self, when: crate::bucket::Acknowledge) -> Self {
        self.acknowledge = when;
        self
    }

    /// What runs when an [alarm](crate::Alarms) is due. Default: nothing, and alarms wait until the store
    /// is opened by a host with a handler. It takes one thread more.
    pub fn on_alarm(mut self, handler: AlarmHandler) -> Self {
        self.on_alarm = Some(handler);
        self
    }

    /// As [`check`](Self::check), for a host that has no bucket.
    pub(crate) fn check_without_bucket(&self) -> Result<()> {
        #[cfg(feature = "bucket")]
        if self.acknowledge == crate::bucket::Acknowledge::InBucket {
            return Err(crate::bucket::no_bucket().into());
        }
        self.check()
    }

    pub(crate) fn check(&self) -> Result<()> {
        let broken = if self.mailbox_calls_max == 0 {
            Some(("mailbox_calls_max", "is 0, so no call could enter; use at least 1"))
        } else if self.facet_calls_max == 0 {
            Some(("facet_calls_max", "is 0, so no call could enter; use at least 1"))
        } else if self.cores.get() > CORES_MAX {
            Some(("cores", "is above 65,536; use one for each core of the machine"))
        } else if self.resident_facets_max == 0 {
            Some(("resident_facets_max", "is 0, so no facet could open; use at least 1"))
        } else if self.page_cache_kib_max > i32::MAX.unsigned_abs() {
            Some(("page_cache_kib_max", "is above 2,147,483,647, the most SQLite takes"))
        } else {
            None
        };
        broken
            .map_or(Ok(()), |(setting, reason)| Err(HostError::InvalidSetting { setting, reason }))
    }
}
