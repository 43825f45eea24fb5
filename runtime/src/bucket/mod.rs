//! A store that is kept in a bucket as well as on the local disk, so that its host can be replaced.
//!
//! What a host commits is on its disk at once, and in the bucket within an interval. A host that is lost
//! is followed by another, which needs nothing but the bucket: it claims the store by replacing the
//! manifest, fetches what it reads, and the one before it never writes again. `docs/BUCKET.md` is the
//! guide, with a table of what fails and what is safe then.
//!
//! # Reading map
//!
//! | module | holds |
//! |---|---|
//! | `objects`, `remote` | what is asked of a bucket, and a real one by the crate `object_store` |
//! | `format` | the bytes: manifest, objects of data, the local note |
//! | `attach`, `notes` | getting hold of a store: a table of what may be found |
//! | `lease` | whether this host may still write |
//! | `files`, `journal` | the engine's files, and what was written to them since the bucket was told |
//! | `shipper`, `thread` | telling the bucket, and when |
//! | `history`, `garbage` | earlier states that are kept, and what nothing needs any more |
//! | `local_disk` | what is on the local disk, and eviction |
//! | `fetch`, `cached_file` | reading from the bucket what the local disk does not have |
//! | `gate` | replies that wait for the bucket |
//! | `status`, `check`, `pull` | looking at a bucket without holding the store: who has it, is it whole, a copy of it |
//! | `follower` | read-only hosts that follow what another ships |
//!
//! # Example
//!
//! ```
//! use std::sync::Arc;
//! use lapidary::bucket::{Bucket, BucketSettings, Objects, RemoteObjects, Watch};
//! use lapidary_engine::{Environment, FacetName, MemoryIo, Store, StoreOptions};
//!
//! // `s3://bucket/prefix` for the real thing. Credentials come from the usual environment.
//! let objects: Arc<dyn Objects> = Arc::new(RemoteObjects::in_memory()?);
//! let host = |name: &str| -> Result<_, Box<dyn std::error::Error>> {
//!     let environment = Environment::with_io(Arc::new(MemoryIo::new()));
//!     let settings = BucketSettings { name: name.to_owned(), ..BucketSettings::default() };
//!     let bucket = Bucket::attach(&objects, &environment, settings, &mut Watch::default())?;
//!     let store = Store::open(bucket.environment(), StoreOptions::create())?;
//!     bucket.serve(&store)?;
//!     Ok((bucket, store))
//! };
//!
//! let (bucket, store) = host("first")?;
//! let facet = store.create_facet(&FacetName::new("tenants/acme")?)?;
//! let ticket = store.current_ticket();
//! store.wait_durable(ticket)?;
//! bucket.wait_shipped(ticket)?; // from here on no loss of this host can take it
//! store.close()?;
//! bucket.close()?;
//!
//! // Another host, with an empty disk.
//! let (_bucket, store) = host("second")?;
//! assert!(store.facet_exists(&FacetName::new("tenants/acme")?));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod attach;
mod cached_file;
mod check;
mod error;
mod fetch;
mod files;
mod follower;
mod format;
mod garbage;
mod gate;
mod history;
mod journal;
mod lease;
mod local_disk;
mod notes;
mod objects;
mod pull;
mod remote;
mod settings;
mod shipper;
mod status;
mod thread;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use lapidary_engine::{Environment, Io, Lsn, Store, Ticket};

pub use attach::Watch;
pub use check::{BucketFinding, BucketReport, verify, verify_history};
pub(crate) use error::no_bucket;
pub use error::{BucketError, Result};
pub use follower::{AtLeast, Follower, FollowerSettings, FollowerStat};
pub use gate::Acknowledge;
pub(crate) use gate::BucketGate;
pub use history::{HistoryPoint, history};
pub use lease::HolderId;
pub use objects::{Condition, ObjectError, ObjectErrorKind, Objects, Tag};
pub use pull::{PullProgress, Pulled, pull, pull_at};
pub use remote::RemoteObjects;
pub use settings::BucketSettings;
pub use status::{BucketStatus, status};

use fetch::Fetcher;
use files::BucketIo;
use journal::Journal;
use lease::Lease;
use local_disk::LocalDisk;
use shipper::{ShipCounters, Shipper};
use thread::ShipThread;

/// How long whoever waits for the bucket looks away from the lease.
const LOOK: Duration = Duration::from_millis(50);

/// How many requests of no hurry are made after a shipment at most.
const TIDY_MAX: usize = 16;

type Listener = Box<dyn Fn() + Send + Sync>;

/// A store in a bucket, held by this process. Clones share it.
///
/// 1. [`attach`](Self::attach) gets hold of it, and renews the lease from then on. 2. The store is opened in
///    [`environment`](Self::environment). 3. [`serve`](Self::serve) ships what it writes from then on.
///    4. After [`Store::close`], [`close`](Self::close) ships the rest and gives the lease back.
///
/// Dropped without 4, it is as if the host were lost: others wait for the lease to run out.
#[derive(Clone)]
pub struct Bucket {
    inner: Arc<Inner>,
    running: Arc<Running>,
}

/// The thread that ships, as long as somebody has the bucket.
#[derive(Default)]
struct Running(Mutex<Option<ShipThread>>);

impl Running {
    fn thread(&self) -> MutexGuard<'_, Option<ShipThread>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(thread) = self.thread().take() {
            thread.stop();
        }
    }
}

pub(crate) struct Inner {
    objects: Arc<dyn Objects>,
    environment: Environment,
    settings: BucketSettings,
    journal: Arc<Journal>,
    lease: Arc<Lease>,
    fetcher: Arc<Fetcher>,
    disk: Arc<LocalDisk>,
    shipper: Mutex<Shipper>,
    counters: Arc<ShipCounters>,
    progress: Mutex<Progress>,
    moved: Condvar,
    listeners: Mutex<Vec<Listener>>,
    store: OnceLock<Weak<Store>>,
    /// Up to where the bucket had everything when it was claimed.
    shipped_before: Lsn,
    epoch: u64,
}

#[derive(Debug)]
struct Progress {
    shipped: Lsn,
    /// When the last shipment began that has landed, on the monotonic clock.
    landed_ns: u64,
    is_closed: bool,
}

/// Figures of a store in a bucket, since it was attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BucketStat {
    /// Epoch in which this host holds the store.
    pub epoch: u64,
    /// Up to there everything is in the bucket.
    pub shipped_lsn: Lsn,
    /// Bytes that were written and wait to be shipped.
    pub unshipped_bytes: u64,
    /// Milliseconds since the last shipment that arrived was begun. What was committed before that is
    /// in the bucket.
    pub lag_ms: u64,
    /// Objects written, those that failed included, and their bytes.
    pub puts: u64,
    /// Bytes of those.
    pub put_bytes: u64,
    /// Requests to write that failed.
    pub put_failures: u64,
    /// Requests to read data.
    pub gets: u64,
    /// Bytes that those brought.
    pub get_bytes: u64,
    /// Bytes of the local disk that segment files take.
    pub local_bytes: u64,
    /// Bytes of it that were given back by evictions.
    pub evicted_bytes: u64,
    /// Objects deleted.
    pub deletes: u64,
    /// Bytes of the manifest.
    pub manifest_bytes: u64,
    /// Whether something was taken to be shipped, and it is not known yet that it arrived.
    pub is_under_way: bool,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket")
            .field("objects", &self.inner.objects)
            .field("epoch", &self.inner.epoch)
            .finish_non_exhaustive()
    }
}

impl Bucket {
    /// Gets hold of the store in `objects`, with `environment` as its local disk: an empty directory, or
    /// the one that this store was served from last. An empty bucket is given the store of the directory,
    /// or the one that is created there next.
    ///
    /// It does not wait. To wait for the lease of another host, try again now and then with the same
    /// `watch`, or use [`attach_waiting`](Self::attach_waiting).
    ///
    /// # Errors
    /// [`Held`](BucketError::Held) while another host's lease lasts; a thread that cannot be started;
    /// [`StaleDirectory`](BucketError::StaleDirectory) and [`Directory`](BucketError::Directory) if the
    /// directory and the bucket do not belong together; what the bucket, the local disk or damage say.
    pub fn attach(
        objects: &Arc<dyn Objects>,
        environment: &Environment,
        settings: BucketSettings,
        watch: &mut Watch,
    ) -> Result<Self> {
        let held = attach::attach(objects, environment, &settings, watch)?;
        let BucketIo { journal, lease, .. } = &*held.io;
        let (journal, lease) = (Arc::clone(journal), Arc::clone(lease));
        let shipped = held.shipper.shipped();
        let now_ns = lease.now_ns();
        let epoch = held.shipper.epoch();
        let io: Arc<dyn Io> = held.io;
        let inner = Arc::new(Inner {
            objects: Arc::clone(objects),
            environment: Environment { io, ..environment.clone() },
            settings,
            journal,
            lease,
            fetcher: held.fetcher,
            disk: held.disk,
            counters: Arc::clone(held.shipper.counters()),
            shipper: Mutex::new(held.shipper),
            progress: Mutex::new(Progress { shipped, landed_ns: now_ns, is_closed: false }),
            moved: Condvar::new(),
            listeners: Mutex::default(),
            store: OnceLock::new(),
            shipped_before: shipped,
            epoch,
        });
        let running = Arc::<Running>::default();
        if inner.settings.background {
            let started = ShipThread::start(Arc::clone(&inner));
            let local = &*inner.environment.io;
            let failed = BucketError::local(local, "start a thread for", None);
            let thread = started.map_err(failed)?;
            *running.thread() = Some(thread);
        }
        Ok(Self { inner, running })
    }

    /// As [`attach`](Self::attach), waiting for the lease of another host and for a bucket that does not
    /// answer, until `give_up` says so.
    ///
    /// # Errors
    /// As [`attach`](Self::attach); the last one, if it gave up.
    pub fn attach_waiting(
        objects: &Arc<dyn Objects>,
        environment: &Environment,
        settings: &BucketSettings,
        give_up: impl Fn(&BucketError) -> bool,
    ) -> Result<Self> {
        let mut watch = Watch::default();
        loop {
            match Self::attach(objects, environment, settings.clone(), &mut watch) {
                Err(error) if attach::may_pass(&error) && !give_up(&error) => {
                    tracing::debug!(%error, "waits for the store");
                    std::thread::sleep(settings.poll());
                }
                attached => return attached,
            }
        }
    }

    /// The environment to open the store in, once.
    #[must_use]
    pub fn environment(&self) -> Environment {
        self.inner.environment.clone()
    }

    /// Ships what `store` writes; it was opened in [`environment`](Self::environment). With
    /// [`background`](BucketSettings::background) a thread does, and everything is in the bucket when
    /// this returns, also what the directory had before.
    ///
    /// # Errors
    /// [`Directory`](BucketError::Directory) if the directory is an old copy of the store, which is
    /// behind what it shipped itself; [`Fenced`](BucketError::Fenced).
    pub fn serve(&self, store: &Arc<Store>) -> Result<()> {
        let inner = &self.inner;
        if store.durable_lsn() < inner.shipped_before {
            let directory = inner.environment.io.describe();
            let detail = format!(
                "its store ends at LSN {}, but {} has it up to {}: it is an old copy; open the store with \
                 an empty directory",
                store.durable_lsn(),
                inner.objects.describe(),
                inner.shipped_before
            );
            inner.lease.fence(detail.clone());
            store.stop(&detail);
            return Err(BucketError::Directory { directory, detail });
        }
        if inner.store.set(Arc::downgrade(store)).is_err() {
            return Err(BucketError::InvalidInput("a bucket serves one store".to_owned()));
        }
        inner.disk.serve(Arc::downgrade(store));
        if inner.settings.background {
            self.wait_shipped(store.current_ticket())?;
        }
        Ok(())
    }

    /// Ships what was written so far, in two requests or a few more, and renews the lease. For who has
    /// no thread that does it.
    ///
    /// # Errors
    /// [`Fenced`](BucketError::Fenced), after which the store is stopped; a request failed: the call may
    /// be made again, and goes on from there.
    pub fn ship(&self) -> Result<Lsn> {
        self.inner.ship()
    }

    /// Up to there everything is in the bucket.
    #[must_use]
    pub fn shipped_lsn(&self) -> Lsn {
        self.inner.progress().shipped
    }

    /// Whether `ticket` is in the bucket.
    ///
    /// # Errors
    /// [`Fenced`](BucketError::Fenced) if it is not and will not be, by this host.
    pub fn is_shipped(&self, ticket: Ticket) -> Result<bool> {
        if ticket.lsn() <= self.shipped_lsn() {
            return Ok(true);
        }
        self.inner.lease.check()?;
        Ok(false)
    }

    /// Waits until `ticket` is durable locally and in the bucket, and has it shipped without waiting for
    /// the interval.
    ///
    /// # Errors
    /// As [`is_shipped`](Self::is_shipped) and [`Store::wait_durable`]; and if there is no thread that
    /// ships.
    pub fn wait_shipped(&self, ticket: Ticket) -> Result<()> {
        if let Some(store) = self.inner.store.get().and_then(Weak::upgrade) {
            store.wait_durable(ticket)?;
        }
        let mut progress = self.inner.progress();
        while progress.shipped < ticket.lsn() {
            drop(progress);
            self.inner.lease.check()?;
            if !self.hurry() {
                let what = "nothing ships this store but calls of `Bucket::ship`".to_owned();
                return Err(BucketError::InvalidInput(what));
            }
            progress = self.inner.progress();
            if progress.shipped < ticket.lsn() {
                let waited = self.inner.moved.wait_timeout(progress, LOOK);
                progress = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        Ok(())
    }

    /// Has what was written shipped without waiting for the interval; whether there is a thread that does.
    fn hurry(&self) -> bool {
        self.running.thread().as_ref().map(ShipThread::hurry).is_some()
    }

    /// Has `listener` called after every shipment that arrived, and when this host is fenced, by the
    /// thread that ships. It must be quick.
    pub fn on_shipped(&self, listener: Box<dyn Fn() + Send + Sync>) {
        self.inner.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(listener);
    }

    /// Figures as of now.
    #[must_use]
    pub fn stat(&self) -> BucketStat {
        let inner = &self.inner;
        let counters = &inner.counters;
        let (gets, get_bytes) = inner.fetcher.counts();
        let progress = inner.progress();
        let lag_ns = inner.lease.now_ns().saturating_sub(progress.landed_ns);
        BucketStat {
            epoch: inner.epoch,
            shipped_lsn: progress.shipped,
            unshipped_bytes: inner.journal.pending_bytes() as u64,
            lag_ms: lag_ns / 1_000_000,
            puts: counters.puts.load(Ordering::Relaxed),
            put_bytes: counters.put_bytes.load(Ordering::Relaxed),
            put_failures: counters.failures.load(Ordering::Relaxed),
            gets,
            get_bytes,
            local_bytes: inner.disk.bytes(),
            evicted_bytes: inner.disk.evicted_bytes(),
            deletes: counters.deletes.load(Ordering::Relaxed),
            manifest_bytes: counters.manifest_bytes.load(Ordering::Relaxed),
            is_under_way: counters.is_under_way.load(Ordering::Relaxed),
        }
    }

    /// From now on this host may not write to the store, for a reason of the caller's: as if another had
    /// taken over. Others wait for the lease.
    pub fn fence(&self, cause: &str) {
        self.inner.lease.fence(cause.to_owned());
        if let Some(store) = self.inner.store.get().and_then(Weak::upgrade) {
            store.stop(cause);
        }
        self.inner.tell();
    }

    /// Makes a [point of history](history) of all that was durable when this was called, whenever the next one is
    /// due. When it returns, the manifest lists it.
    ///
    /// # Errors
    /// [`InvalidInput`](BucketError::InvalidInput) if [`BucketSettings::history_for`] says that none is kept;
    /// [`Fenced`](BucketError::Fenced); a request failed: the call may be made again.
    pub fn keep_point(&self) -> Result<HistoryPoint> {
        let inner = &self.inner;
        if let Some(store) = inner.store.get().and_then(Weak::upgrade) {
            let wanted = store.durable_lsn();
            while inner.progress().shipped < wanted {
                inner.ship()?;
            }
        }
        inner.shipper().keep_point_now()
    }

    /// After the store was closed: ships the rest and gives the lease back, so that another host need
    /// not wait. Nothing can be written afterwards.
    ///
    /// # Errors
    /// [`Fenced`](BucketError::Fenced); a request failed: the call may be made again, or what was not
    /// shipped stays in the directory until that is served again.
    pub fn close(&self) -> Result<()> {
        let inner = &self.inner;
        let thread = self.running.thread().take();
        if let Some(thread) = thread {
            thread.stop();
        }
        if inner.progress().is_closed {
            return Ok(());
        }
        while inner.journal.is_changed() || inner.shipper().is_under_way() {
            inner.ship()?;
        }
        inner.shipper().give_back()?;
        inner.progress().is_closed = true;
        inner.lease.fence("the store was closed, and its lease given back".to_owned());
        Ok(())
    }
}

impl Inner {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shipper(&self) -> MutexGuard<'_, Shipper> {
        self.shipper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ship(&self) -> Result<Lsn> {
        let began_ns = self.lease.now_ns();
        let served = self.store.get();
        let store = served.and_then(Weak::upgrade);
        let durable = || store.as_ref().map_or(self.shipped_before, |store| store.durable_lsn());
        let mut shipper = self.shipper();
        let was_under_way = shipper.is_under_way();
        let shipped = if served.is_some() {
            shipper.ship(durable)
        } else {
            // The store is being opened, which may take longer than a lease.
            shipper.renew().map(|()| self.shipped_before)
        };
        drop(shipper);
        match shipped {
            Ok(shipped) => {
                let mut progress = self.progress();
                progress.shipped = progress.shipped.max(shipped);
                if !was_under_way {
                    progress.landed_ns = progress.landed_ns.max(began_ns);
                }
                drop(progress);
                self.tell();
                self.disk.settle();
                if let Err(error) = self.shipper().tidy(TIDY_MAX) {
                    tracing::debug!(%error, "history and garbage wait for the next shipment");
                }
                Ok(shipped)
            }
            Err(error) => {
                if let BucketError::Fenced { cause } = &error {
                    if let Some(store) = store {
                        store.stop(cause);
                    }
                    self.tell();
                }
                Err(error)
            }
        }
    }

    fn tell(&self) {
        self.moved.notify_all();
        for listener in self.listeners.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            listener();
        }
    }
}
