//! The host: opening, names, figures, shutdown.

use std::fmt;
use std::mem;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use core_affinity::CoreId;
use crossbeam_channel::{Receiver, Sender};
#[cfg(feature = "bucket")]
use lapidary_engine::Tunables;
use lapidary_engine::{Environment, Error, FacetInfo, FacetName, FileName, Store};
use lapidary_vfs::{ProcessSetup, Registration, configure_process};

use crate::abort::Aborts;
use crate::alarms::{AlarmService, AlarmThread, is_reserved};
use crate::call::{Call, Target};
use crate::config::HostConfig;
use crate::core_thread::{self, Core};
use crate::error::{HostError, Result};
use crate::exported;
use crate::facet::FacetHandle;
use crate::files::forget_interrupted;
use crate::isolation::Policies;
use crate::mailbox::{Inbox, mailbox};
use crate::meter::Meters;
use crate::moves::{Moves, is_hidden};
use crate::placement::Placement;
use crate::readers::Readers;
use crate::residency::Pins;
use crate::schedule::Scope;
use crate::shared::{Names, Shared};
use crate::stat::{CoreCounters, HostStat};
use crate::ticker::Tickers;

/// Log bytes after which a checkpoint is taken of a store in a bucket, unless others are configured.
#[cfg(feature = "bucket")]
const CHECKPOINT_LOG_BYTES: u64 = 64 << 20;

/// An open store with a thread for each core.
///
/// Dropping it shuts it down; [`shutdown`](Self::shutdown) does the same and tells of errors.
/// [`FacetHandle`]s may outlive it: their calls then fail with
/// [`Closed`](crate::HostErrorKind::Closed).
///
/// ```
/// # use lapidary::{Host, HostConfig};
/// # let directory = tempfile::tempdir()?;
/// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
/// // One for the process and the store; threads share it.
/// let host = std::sync::Arc::new(host);
/// let threads: Vec<_> = (0..4)
///     .map(|n| {
///         let host = std::sync::Arc::clone(&host);
///         std::thread::spawn(move || {
///             host.facet(format!("tenant-{n}"))?.execute("CREATE TABLE t(x)", ()).wait()
///         })
///     })
///     .collect();
/// for thread in threads {
///     thread.join().unwrap()?;
/// }
/// assert_eq!(host.list(None, None, 10).wait()?.len(), 4);
/// host.shutdown()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Host {
    pub(crate) shared: Arc<Shared>,
    threads: Mutex<Option<Threads>>,
    config: HostConfig,
}

struct Threads {
    handles: Vec<JoinHandle<()>>,
    alarms: Option<AlarmThread>,
    /// Each core's number, when its thread ends.
    ended: Receiver<usize>,
}

/// What a host has besides its local store.
#[derive(Default)]
struct Beyond {
    #[cfg(feature = "bucket")]
    bucket: Option<Arc<crate::bucket::BucketGate>>,
}

/// Tells that a thread ends, also when it panics.
struct Ending {
    core: usize,
    ended: Sender<usize>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        // An error means that nobody waits for the end any more.
        let _ = self.ended.send(self.core);
    }
}

impl Host {
    /// Opens the store in the directory `path`, by default creating it, and starts the cores.
    ///
    /// # Errors
    /// A directory that is not a store, is locked by another process, is damaged or was written by a
    /// newer release; a setting out of range; a thread that cannot be started.
    pub fn open(path: impl AsRef<Path>, config: HostConfig) -> Result<Self> {
        Self::open_in(Environment::system(path), config)
    }

    /// Opens a store in an environment of the caller's, such as files in memory.
    ///
    /// ```
    /// # use lapidary::{Environment, Host, HostConfig};
    /// use std::sync::Arc;
    /// use lapidary_engine::MemoryIo;
    ///
    /// // A store in memory, for tests.
    /// let environment = Environment::with_io(Arc::new(MemoryIo::new()));
    /// let host = Host::open_in(environment, HostConfig::new())?;
    /// host.facet("a")?.execute("CREATE TABLE t(x)", ()).wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_in(environment: Environment, mut config: HostConfig) -> Result<Self> {
        config.check_without_bucket()?;
        // Before the store: nothing of SQLite has run yet, as far as this host is concerned.
        let process_setup = configure_process(&config.process);
        // The last buffer is for plain connections and changes of the catalog.
        config.store.tunables.log_buffers = config.cores.get() + 1;
        check_not_in_bucket(&environment)?;
        let store = Store::open(environment, config.store.clone())?;
        forget_interrupted(&store)?;
        Self::start(store, config, process_setup, Beyond::default())
    }

    /// Opens the store that `bucket` holds, by default creating it if there is none yet, ships what it
    /// writes, and gives the store back at shutdown. A call is answered as
    /// [`HostConfig::acknowledge`] says. With the feature `bucket`.
    ///
    /// ```
    /// # use lapidary::bucket::{Bucket, BucketSettings, Objects, RemoteObjects, Watch};
    /// # use lapidary::{Environment, Host, HostConfig};
    /// # use std::sync::Arc;
    /// # let directory = tempfile::tempdir()?;
    /// # let url = format!("file://{}/bucket", directory.path().display());
    /// let objects: Arc<dyn Objects> = Arc::new(RemoteObjects::open(&url)?);
    /// let local = Environment::system(directory.path().join("store"));
    /// let settings = BucketSettings::default();
    /// let bucket = Bucket::attach(&objects, &local, settings, &mut Watch::default())?;
    /// let host = Host::open_from_bucket(bucket, HostConfig::new())?;
    /// host.facet("a")?.execute("CREATE TABLE t(x)", ()).wait()?;
    /// host.sync_to_bucket()?; // from here on no loss of this host can take it
    /// host.shutdown()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Checkpoints are 64 MiB of log apart at most, unless
    /// [`checkpoint_log_bytes`](lapidary_engine::Tunables::checkpoint_log_bytes) is not the default: the next
    /// host has to fetch the log since the last one.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`HostError::Bucket`].
    #[cfg(feature = "bucket")]
    pub fn open_from_bucket(bucket: crate::bucket::Bucket, mut config: HostConfig) -> Result<Self> {
        config.check()?;
        let process_setup = configure_process(&config.process);
        config.store.tunables.log_buffers = config.cores.get() + 1;
        let checkpoint = &mut config.store.tunables.checkpoint_log_bytes;
        if *checkpoint == Tunables::default().checkpoint_log_bytes {
            // The next host has to fetch the log since the last one before it can answer.
            *checkpoint = CHECKPOINT_LOG_BYTES;
        }
        let store = Store::open(bucket.environment(), config.store.clone())?;
        bucket.serve(&store)?;
        forget_interrupted(&store)?;
        let bucket = Some(crate::bucket::BucketGate::new(bucket, config.acknowledge));
        Self::start(store, config, process_setup, Beyond { bucket })
    }

    /// Waits until the bucket has everything that calls were answered for so far.
    ///
    /// # Errors
    /// [`HostError::Bucket`] if this host may not write to the bucket any more, or has none.
    #[cfg(feature = "bucket")]
    pub fn sync_to_bucket(&self) -> Result<()> {
        self.sync().wait()?;
        let Some(gate) = &self.shared.bucket else {
            return Err(crate::bucket::no_bucket().into());
        };
        gate.bucket().wait_shipped(self.shared.store.current_ticket())?;
        Ok(())
    }

    /// The bucket that the store is kept in, if it is in one.
    #[cfg(feature = "bucket")]
    #[must_use]
    pub fn bucket(&self) -> Option<&crate::bucket::Bucket> {
        self.shared.bucket.as_ref().map(|gate| gate.bucket())
    }

    /// Starts the cores on a store that is open; the host closes it at shutdown. Its tunables should
    /// have one log buffer for each core and one more.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn with_store(store: Arc<Store>, config: HostConfig) -> Result<Self> {
        config.check_without_bucket()?;
        let process_setup = configure_process(&config.process);
        Self::start(store, config, process_setup, Beyond::default())
    }

    #[cfg_attr(
        not(feature = "bucket"),
        expect(unused_variables, clippy::needless_pass_by_value, reason = "it has nothing in it")
    )]
    fn start(
        store: Arc<Store>,
        config: HostConfig,
        process_setup: ProcessSetup,
        beyond: Beyond,
    ) -> Result<Self> {
        if process_setup == ProcessSetup::TooLate {
            tracing::warn!(
                "SQLite was in use before the host was opened: malloc statistics and initial page \
                 allocation stay on, at a cost in speed and memory, and bounds of memory do not hold"
            );
        }
        let vfs_name = config.vfs_name.clone().unwrap_or_else(unique_vfs_name);
        let registration =
            Registration::register(&vfs_name, Arc::clone(&store), config.vfs.clone())?;
        let cores = config.cores.get();
        let (mailboxes, inboxes, signals) = {
            let mut parts = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..cores {
                let (mailbox, inbox, signal) = mailbox(config.mailbox_calls_max);
                parts.0.push(mailbox);
                parts.1.push(inbox);
                parts.2.push(signal);
            }
            parts
        };
        // Before any commit, so that none can become durable unheard.
        store.on_durable(Box::new(move || {
            for signal in &signals {
                signal.put();
            }
        }));
        let alarms = AlarmService::open(&registration, cores, config.on_alarm.clone())?;
        // Before the first call, which could create what has gone elsewhere.
        let moves = Moves::open(&registration)?;
        let policies = Arc::new(Policies::new(config.isolation.clone()));
        let meters = Arc::<Meters>::default();
        let shared = Arc::new(Shared {
            readers: Readers::new(
                Arc::clone(&store),
                &vfs_name,
                &config,
                Arc::clone(&policies),
                Arc::clone(&meters),
            ),
            policies,
            meters,
            registration,
            placement: Placement::new(mailboxes.len()),
            mailboxes: mailboxes.into_boxed_slice(),
            mailbox_calls_max: config.mailbox_calls_max,
            mailbox_full: config.mailbox_full,
            facet_calls_max: config.facet_calls_max,
            coalesce_writes: config.coalesce_writes,
            counters: (0..cores).map(|core| Arc::new(exported::counters(&store, core))).collect(),
            aborts: (0..cores).map(|_| Aborts::default()).collect(),
            alarms: Arc::new(alarms),
            moves,
            pins: Pins::default(),
            names: Names::default(),
            tickers: Tickers::default(),
            #[cfg(feature = "bucket")]
            bucket: beyond.bucket,
            #[cfg(feature = "metrics")]
            told: exported::Told::default(),
            process_setup,
            opened_by: std::process::id(),
            fork_generation: AtomicU32::new(lapidary_vfs::fork_generation()),
            closed: AtomicBool::new(false),
            lost: (0..cores).map(|_| AtomicBool::new(false)).collect(),
            store,
        });
        let mut threads = start_cores(&shared, inboxes, &config)?;
        let started = AlarmThread::start(&shared).map(|alarms| threads.alarms = alarms);
        #[cfg(feature = "metrics")]
        let started = started.and_then(|()| exported::start(&shared, config.metrics_interval));
        if let Err(error) = started {
            // What went wrong first is told.
            let _ = stop(&shared, threads, &config);
            return Err(error);
        }
        tracing::info!(store = %shared.store.describe(), cores, vfs = %vfs_name, "host open");
        Ok(Self { shared, threads: Mutex::new(Some(threads)), config })
    }

    /// A handle to the facet `name`, which need not exist. Nothing is opened or created yet.
    ///
    /// # Errors
    /// A name that breaks the rules of [`FacetName`], and `:memory:`, which SQLite keeps for itself.
    pub fn facet(&self, name: impl AsRef<str>) -> Result<FacetHandle> {
        let name = checked(name.as_ref())?;
        Ok(FacetHandle::new(name.clone(), self.target(&name)))
    }

    /// Deletes the facet `name` and everything below it, at once. Calls made before it run first;
    /// its readers are refused from then on.
    ///
    /// The call fails with [`NotFound`](crate::HostErrorKind::NotFound) if there is nothing.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, HostErrorKind};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// host.facet("tenants/acme")?.execute("CREATE TABLE t(x)", ()).wait()?;
    /// host.facet("tenants/acme/logs")?.execute("CREATE TABLE t(x)", ()).wait()?;
    /// host.delete("tenants/acme").wait()?; // both
    /// assert!(host.list(Some("tenants"), None, 10).wait()?.is_empty());
    /// assert_eq!(host.delete("tenants/acme").wait().unwrap_err().kind(), HostErrorKind::NotFound);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn delete(&self, name: impl AsRef<str>) -> Call<()> {
        let name = match checked(name.as_ref()) {
            Ok(name) => name,
            Err(error) => return Call::failed(error),
        };
        self.target(&name).call_over(vec![Scope::subtree(&name)], move |core: &mut Core| {
            core.on_catalog(&[&name], |store| {
                store.delete_facet(&name)?;
                Ok(())
            })
        })
    }

    /// Gives the facet `from` and everything below it the name `to`, at once. Calls made on the old
    /// name before it run first. A call on a core that names `from` afterwards finds no facet there
    /// and creates one; one that names `to` before it has created that, so that the renaming fails.
    ///
    /// The call fails with [`NotFound`](crate::HostErrorKind::NotFound) if there is nothing named
    /// `from`, and with [`AlreadyExists`](crate::HostErrorKind::AlreadyExists) if there is something
    /// named `to`.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// host.facet("drafts/7")?.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES (1)").wait()?;
    /// host.rename("drafts/7", "published/7").wait()?;
    /// let found = host.facet("published/7")?.query("SELECT x FROM t", (), |row| row.get::<_, i64>(0));
    /// assert_eq!(found.wait()?, [1]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn rename(&self, from: impl AsRef<str>, to: impl AsRef<str>) -> Call<()> {
        let (from, to) = match (checked(from.as_ref()), checked(to.as_ref())) {
            (Ok(from), Ok(to)) => (from, to),
            (Err(error), _) | (_, Err(error)) => return Call::failed(error),
        };
        let scopes = vec![Scope::subtree(&from), Scope::subtree(&to)];
        self.target(&from).call_over(scopes, move |core: &mut Core| core.rename(&from, &to))
    }

    /// At most `limit` facets within `prefix` (all if `None`), in the order of their names, from the
    /// one that follows `after`. It does not wait for calls made before it: a facet that one of those
    /// creates is in the list if that one was answered.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// for n in 0..5 {
    ///     host.facet(format!("agents/{n}"))?.execute("CREATE TABLE t(x)", ()).wait()?;
    /// }
    /// // In pages of two.
    /// let (mut names, mut after) = (Vec::new(), None::<String>);
    /// loop {
    ///     let page = host.list(Some("agents"), after.as_deref(), 2).wait()?;
    ///     let Some(last) = page.last() else { break };
    ///     after = Some(last.name.to_string());
    ///     names.extend(page.into_iter().map(|facet| facet.name.to_string()));
    /// }
    /// assert_eq!(names, ["agents/0", "agents/1", "agents/2", "agents/3", "agents/4"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn list(
        &self,
        prefix: Option<&str>,
        after: Option<&str>,
        limit: usize,
    ) -> Call<Vec<FacetInfo>> {
        let named = |name: Option<&str>| name.map(FacetName::new).transpose();
        let (prefix, after) = match (named(prefix), named(after)) {
            (Ok(prefix), Ok(after)) => (prefix, after),
            (Err(error), _) | (_, Err(error)) => return Call::failed(error.into()),
        };
        let core = prefix.as_ref().map_or(0, |prefix| self.shared.placement.core_of(prefix));
        Target::on_core(&self.shared, core).call(move |core: &mut Core| {
            core.on_catalog(&[], |store| list(store, prefix.as_ref(), after, limit))
        })
    }

    /// Replies when everything that calls on any facet were answered for is durable, also what was
    /// not [confirmed](FacetHandle::unconfirmed).
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// for n in 0..3 {
    ///     let fast = host.facet(format!("sensor-{n}"))?.unconfirmed();
    ///     fast.execute("CREATE TABLE sample(value)", ()).wait()?;
    /// }
    /// host.sync().wait()?; // now all three are durable
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn sync(&self) -> Call<()> {
        Target::on_core(&self.shared, 0).call(|core: &mut Core| core.on_catalog(&[], |_| Ok(())))
    }

    /// Figures of the store and of each core.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// host.facet("agents/42")?.execute("CREATE TABLE t(x)", ()).wait()?;
    /// let stat = host.stat().wait()?;
    /// assert_eq!((stat.store.facets, stat.store.commits), (1, 1));
    /// assert_eq!(stat.cores.iter().map(|core| core.opened_facets).sum::<u64>(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stat(&self) -> Call<HostStat> {
        Target::on_core(&self.shared, 0).call(move |core: &mut Core| {
            let shared = Arc::clone(&core.shared);
            core.on_catalog(&[], |store| {
                Ok(HostStat {
                    store: store.stat(),
                    cores: shared.core_stats(),
                    idle_readers: shared.readers.idle(),
                    alarms: shared.alarms.stat(),
                    process_setup: shared.process_setup,
                })
            })
        })
    }

    /// Has alarms that are due run now. They do so by themselves, and follow a clock that was set forward
    /// within a second: this is for programs that know of it sooner.
    pub fn check_alarms(&self) {
        self.shared.alarms.check();
    }

    /// The store. Names are to be changed through the host: it would not learn of a renaming done
    /// here, and go on under the old name.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.shared.store
    }

    /// Name of the VFS that plain connections to the same store use. They see what is durable; they
    /// cannot write to a facet that a core has open for writing.
    #[must_use]
    pub fn vfs_name(&self) -> &str {
        self.shared.registration.name()
    }

    /// Whether SQLite's process-wide settings came in time.
    #[must_use]
    pub fn process_setup(&self) -> ProcessSetup {
        self.shared.process_setup
    }

    /// Runs every call that was sent, waits until all is durable, closes every connection and the
    /// store. Calls made meanwhile or later are refused. Doing it again does nothing.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, HostErrorKind};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// let facet = host.facet("agents/42")?;
    /// let sent = facet.execute("CREATE TABLE t(x)", ());
    /// host.shutdown()?;
    /// sent.wait()?; // what was sent before has run, and is durable
    /// let late = facet.execute("INSERT INTO t VALUES (1)", ()).wait();
    /// assert_eq!(late.unwrap_err().kind(), HostErrorKind::Closed);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`HostError::ShutdownTimeout`]; failures of the store, after which opening it again recovers
    /// everything acknowledged; [`HostError::WaitOnCore`] inside a closure that runs on a core.
    pub fn shutdown(&self) -> Result<()> {
        self.shared.check_process()?;
        if core_thread::is_current() {
            return Err(HostError::WaitOnCore { facet: None });
        }
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        match threads.take() {
            Some(threads) => stop(&self.shared, threads, &self.config),
            None => Ok(()),
        }
    }

    pub(crate) fn target(&self, name: &FacetName) -> Arc<Target> {
        Target::facet_of(&self.shared, name.clone())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let threads = self.threads.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let Some(threads) = threads else { return };
        if self.shared.check_process().is_err() {
            // In a forked child there are no threads to wait for and the store is the parent's:
            // nothing of it may be run here, destructors included.
            mem::forget((threads, Arc::clone(&self.shared)));
            return;
        }
        let (shared, config) = (Arc::clone(&self.shared), self.config.clone());
        let finish = move || {
            if let Err(error) = stop(&shared, threads, &config) {
                tracing::error!(%error, "the host was dropped and did not shut down cleanly");
            }
        };
        if core_thread::is_current() {
            // The last owner was a closure on a core, which cannot wait for itself to end.
            let named = thread::Builder::new().name("lapidary-shutdown".to_owned());
            if let Err(error) = named.spawn(finish) {
                tracing::error!(%error, "no thread to shut the host down; the store stays open");
            }
        } else {
            finish();
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("store", &self.shared.store.describe())
            .field("vfs_name", &self.vfs_name())
            .field("cores", &self.shared.mailboxes.len())
            .finish_non_exhaustive()
    }
}

/// Refuses a directory that is one host's part of a store in a bucket: it may lack what was not fetched
/// yet, and what is written to it past the bucket may be written to the store by another host as well.
fn check_not_in_bucket(environment: &Environment) -> Result<()> {
    if environment.io.open_read_only(FileName::Bucket).is_err() {
        return Ok(());
    }
    let path = environment.io.describe();
    Err(Error::InvalidInput(format!(
        "{path}: its store is kept in a bucket, and this directory may have a part of it only; open it \
         with `Host::open_from_bucket`, or the command's option `--bucket`"
    ))
    .into())
}

/// As [`Host::list`] has it: the host's own are not told of, nor what is on its way to or from another store.
fn list(
    store: &Store,
    prefix: Option<&FacetName>,
    mut after: Option<FacetName>,
    limit: usize,
) -> Result<Vec<FacetInfo>> {
    let mut found = Vec::new();
    while found.len() < limit {
        let more = store.list_facets(prefix, after.as_ref(), limit - found.len())?;
        let Some(last) = more.last() else { break };
        after = Some(last.name.clone());
        found.extend(more.into_iter().filter(|facet| !is_kept(&facet.name)));
    }
    Ok(found)
}

/// Whether the host keeps the name for itself.
fn is_kept(name: &FacetName) -> bool {
    is_reserved(name) || is_hidden(name)
}

/// A name that a facet can have.
pub(crate) fn checked(name: &str) -> Result<FacetName> {
    if name == ":memory:" {
        let reason = "facet name \":memory:\" is refused: SQLite keeps it for databases in memory; \
                      choose another";
        return Err(Error::InvalidInput(reason.to_owned()).into());
    }
    let name = FacetName::new(name)?;
    if is_kept(&name) {
        let reason = format!("facet name \"{name}\" is refused: the host keeps it; choose another");
        return Err(Error::InvalidInput(reason).into());
    }
    Ok(name)
}

pub(crate) fn unique_vfs_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("lapidary-host-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn start_cores(shared: &Arc<Shared>, inboxes: Vec<Inbox>, config: &HostConfig) -> Result<Threads> {
    let (ended_tell, ended) = crossbeam_channel::unbounded();
    let processors = if config.pin_cores { processors() } else { Vec::new() };
    let mut handles = Vec::new();
    for (number, inbox) in inboxes.into_iter().enumerate() {
        let processor = processors.get(number % processors.len().max(1)).copied();
        let ending = Ending { core: number, ended: ended_tell.clone() };
        let core = Core::new(number, Arc::clone(shared), config);
        let (shared_with_core, pin_core) = (Arc::clone(shared), config.pin_cores);
        let run = move || {
            let _ending = ending;
            if pin_core {
                pin(number, processor, &shared_with_core.counters[number]);
            }
            core.run(inbox);
        };
        let named = thread::Builder::new().name(format!("lapidary-core-{number}"));
        match named.spawn(run) {
            Ok(handle) => handles.push(handle),
            Err(source) => {
                // Those that were started would wait for calls for ever.
                shared.close();
                for handle in handles {
                    let _ = handle.join();
                }
                return Err(HostError::Spawn { core: number, source });
            }
        }
    }
    Ok(Threads { handles, alarms: None, ended })
}

fn processors() -> Vec<CoreId> {
    core_affinity::get_core_ids().unwrap_or_default()
}

fn pin(number: usize, processor: Option<CoreId>, counters: &CoreCounters) {
    match processor {
        Some(processor) if core_affinity::set_for_current(processor) => {
            counters.pinned_to.store(processor.id as u64, Ordering::Relaxed);
        }
        _ => tracing::warn!(
            core = number,
            "the thread could not be bound to a processor; it runs wherever the system puts it"
        ),
    }
}

fn stop(shared: &Arc<Shared>, threads: Threads, config: &HostConfig) -> Result<()> {
    // The order of the steps matters.
    // 1. No new calls, alarms first; those that are sent still run.
    if let Some(alarms) = threads.alarms {
        alarms.stop();
    }
    shared.close();
    let deadline = Instant::now() + config.shutdown_timeout;
    // 2. Each core empties its mailbox, waits for the disk, and closes its connections, if need be
    //    after the deadline.
    let mut busy: Vec<usize> = (0..shared.mailboxes.len()).collect();
    while !busy.is_empty() {
        match threads.ended.recv_deadline(deadline) {
            Ok(ended) => busy.retain(|core| *core != ended),
            Err(_) => break,
        }
    }
    // What the last calls used is told before the store is closed.
    shared.tickers.stop();
    // 3. No reader or index stays open over a closed store.
    shared.readers.close();
    shared.alarms.close();
    if !busy.is_empty() {
        return Err(HostError::ShutdownTimeout { cores: busy, waited: config.shutdown_timeout });
    }
    let mut lost = None;
    for (core, handle) in threads.handles.into_iter().enumerate() {
        if handle.join().is_err() {
            lost.get_or_insert(core);
        }
    }
    // 4. Only now: the checkpoint that closing takes holds everything committed.
    let closed = shared.store.close();
    // 5. What closing wrote is shipped too, and then nothing may be written any more.
    #[cfg(feature = "bucket")]
    if let Some(gate) = &shared.bucket {
        gate.close()?;
    }
    closed?;
    tracing::info!(store = %shared.store.describe(), "host closed");
    lost.map_or(Ok(()), |core| Err(HostError::CoreLost { facet: None, core }))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use lapidary_engine::MemoryIo;

    use super::*;
    use crate::error::HostErrorKind;

    /// Stands in for fork(2), which a test with threads cannot do safely: to the host, another count of
    /// forks is all the difference.
    #[test]
    fn a_forked_child_is_refused_and_leaves_the_store_alone() {
        let memory = MemoryIo::new();
        let open = || {
            let environment = Environment::with_io(Arc::new(memory.clone()));
            Host::open_in(environment, HostConfig::new().cores(NonZeroUsize::MIN).pin_cores(false))
        };
        let host = open().unwrap();
        let facet = host.facet("a").unwrap();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let sent_before = facet.run(move |_| Ok(wait.recv().is_ok()));
        let generation = host.shared.fork_generation.swap(7, Ordering::Relaxed);
        let parent = std::process::id();

        let forked = |error: HostError| {
            assert!(
                matches!(error, HostError::Forked { opened_by } if opened_by == parent),
                "{error}"
            );
            assert_eq!(error.kind(), HostErrorKind::InvalidInput);
        };
        forked(sent_before.wait().unwrap_err());
        forked(facet.execute("CREATE TABLE t(n)", ()).wait().unwrap_err());
        forked(facet.read(|_| Ok(())).unwrap_err());
        forked(host.list(None, None, 1).wait().unwrap_err());
        forked(host.shutdown().unwrap_err());

        // Dropped in the child, it neither waits for threads nor touches the store.
        let shared = Arc::clone(&host.shared);
        drop(host);
        assert!(!shared.is_closed());
        assert!(shared.store.flush().is_ok());
        // The parent goes on.
        shared.fork_generation.store(generation, Ordering::Relaxed);
        go.send(()).unwrap();
        facet.execute("CREATE TABLE t(n)", ()).wait().unwrap();
    }

    fn in_memory() -> Host {
        let environment = Environment::with_io(Arc::new(MemoryIo::new()));
        let config = HostConfig::new().cores(NonZeroUsize::MIN).pin_cores(false);
        Host::open_in(environment, config).unwrap()
    }

    #[test]
    fn a_core_that_died_is_told_of_even_after_shutdown() {
        let host = in_memory();
        let target = Target::on_core(&host.shared, 0);
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let dying = target.call::<(), _>(move |_| {
            let _ = wait.recv();
            panic!("a defect")
        });
        let behind = host.facet("a").unwrap().execute("CREATE TABLE t(n)", ());
        host.shared.close();
        go.send(()).unwrap();
        for error in [dying.wait().unwrap_err(), behind.wait().unwrap_err()] {
            assert!(matches!(error, HostError::CoreLost { core: 0, .. }), "{error}");
        }
        let error = host.shutdown().unwrap_err();
        assert!(matches!(error, HostError::CoreLost { core: 0, .. }), "{error}");
    }

    #[test]
    fn a_core_outlives_a_panic_in_the_catalog() {
        let host = in_memory();
        let target = Target::on_core(&host.shared, 0);
        let call = target.call(|core: &mut Core| core.on_catalog::<()>(&[], |_| panic!("why")));
        let error = call.wait().unwrap_err();
        assert_eq!(error.kind(), HostErrorKind::Reopen);
        assert!(error.to_string().contains("why"), "{error}");
        host.facet("a").unwrap().execute("CREATE TABLE t(n)", ()).wait().unwrap();
        host.shutdown().unwrap();
    }
}
