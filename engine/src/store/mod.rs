//! The store: what the outside holds.

mod background;
mod catalog;
mod checkpoint;
mod cleaner;
mod fork;
mod group;
mod holders;
#[cfg(all(test, lapidary_loom))]
mod interleavings;
mod limits;
mod recovery;
mod references;
mod refusals;
mod salvage;
mod settings;
mod superblock;
mod verify;
mod worker;

use std::sync::{Arc, PoisonError, Weak};

use background::Threads;
use catalog::Catalog;
use checkpoint::Checkpointer;
pub use cleaner::Cleaned;
use cleaner::{Cleaning, Pace, Urge};
pub use fork::ForkFrom;
pub use limits::{LimitsOf, QuotaInfo};
use recovery::Following;
pub use refusals::Refusal;
pub use salvage::{SalvageReport, SalvageSink, Salvaged};
pub use verify::{Finding, FindingKind, VerifyProgress, VerifyReport};
pub use worker::Worker;

use crate::config::{Background, StoreOptions};
use crate::core::{Changed, Core};
use crate::env::Environment;
use crate::error::{Error, Result};
use crate::facet::Facet;
use crate::format::catalog::VersionMeta;
use crate::format::record::{self, CatalogChange};
use crate::log::Effect;
use crate::name::FacetName;
use crate::segments::{DirectoryLock, Purpose};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard, RwLock};
use crate::types::{FacetId, Lsn, PageSize, SegmentId, StoreId, Ticket, Version};

/// An open store: one log, its segments, and the facets in them.
///
/// All methods may be called from any thread. Dropping it is like a crash of the process: nothing
/// acknowledged is lost, and the next open recovers. [`close`](Self::close) makes that open quick.
///
/// ```
/// use std::sync::Arc;
/// use lapidary_engine::{Environment, FacetName, MemoryIo, Store, StoreOptions, View};
///
/// let environment = Environment::with_io(Arc::new(MemoryIo::new()));
/// let store = Store::open(environment, StoreOptions::create())?;
/// let facet = store.create_facet(&FacetName::new("tenants/acme")?)?;
/// assert_eq!(facet.snapshot(View::Latest)?.page_count(), 0);
/// store.close()?;
/// # Ok::<(), lapidary_engine::Error>(())
/// ```
#[derive(Debug)]
pub struct Store {
    shared: Arc<Shared>,
    threads: Mutex<Option<Threads>>,
}

/// Log bytes after which a checkpoint is taken even of a small store, unless fewer are configured.
const CHECKPOINT_LOG_BYTES_MIN: u64 = 16 << 20;

/// Share of what is live that is written between two checkpoints, unless that is very little.
const CHECKPOINT_LIVE_SHARE: u64 = 32;

/// What the store's threads share with it.
#[derive(Debug)]
struct Shared {
    core: Arc<Core>,
    id: StoreId,
    /// Taken before the log's lead, never after it.
    catalog: RwLock<Catalog>,
    /// Taken before the catalog.
    checkpointer: Mutex<Checkpointer>,
    cleaning: Mutex<Cleaning>,
    /// Facets that were deleted and that snapshots may still read.
    deleted: Mutex<Vec<Weak<Facet>>>,
    checkpoints: AtomicU64,
    /// As of the last checkpoint.
    shared_references: AtomicU64,
    recovered_bytes: u64,
    /// Of a store that follows what another process writes.
    following: Option<Mutex<Following>>,
    /// The store's lock; given back when the store is dropped or closed.
    lock: Mutex<Option<LockGuard>>,
}

struct LockGuard(#[expect(dead_code, reason = "held for its drop")] Box<dyn Send + Sync>);

impl std::fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LockGuard")
    }
}

/// What a list says of a facet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FacetInfo {
    /// Identity, unchanged by a rename.
    pub id: FacetId,
    /// Name.
    pub name: FacetName,
    /// Newest version.
    pub version: Version,
    /// Page size; `None` while it has never had a page.
    pub page_size: Option<PageSize>,
    /// Number of pages.
    pub page_count: u32,
}

/// Figures of a store at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct StoreStat {
    /// Facets there are.
    pub facets: u64,
    /// Segment files.
    pub segments: u32,
    /// Segment files that wait to be written.
    pub ready_segments: u32,
    /// Bytes of all segment files.
    pub allocated_bytes: u64,
    /// Bytes in segments that are needed, as of the last checkpoint: pages of durable versions, of
    /// forks and of history that is kept, and the checkpoint itself.
    pub live_bytes: u64,
    /// Bytes of history that is kept; part of what is live, as far as checkpoints know it.
    pub history_bytes: u64,
    /// Bytes written to the log since the last checkpoint: what recovery would have to replay.
    pub tail_bytes: u64,
    /// Bytes of page images in memory between checkpoints: see
    /// [`delta_memory_bytes_max`](crate::Tunables::delta_memory_bytes_max).
    pub image_bytes: u64,
    /// Bytes that the cleaner has moved since the store was opened.
    pub cleaned_bytes: u64,
    /// Segments that it has emptied since then.
    pub cleaned_segments: u64,
    /// Bytes of the segments that it had to choose from when it last looked: neither ready, nor being
    /// filled, nor written since the last checkpoint.
    pub settled_bytes: u64,
    /// What was live in those.
    pub settled_live_bytes: u64,
    /// Things it has moved that are still there: each costs 24 bytes of memory.
    pub forwards: u64,
    /// Page-map nodes and pages that several facets, or versions, have in common as such.
    pub shared_references: u64,
    /// Bytes written to the log since the store was opened, with headers and padding.
    pub written_bytes: u64,
    /// Bytes written since then to fill segments ahead of their use.
    pub filled_bytes: u64,
    /// Flushes since then; each is one sync, or a few.
    pub flushes: u64,
    /// Commits made durable since then.
    pub commits: u64,
    /// Checkpoints taken since then.
    pub checkpoints: u64,
    /// Bytes of log that recovery read when the store was opened.
    pub recovered_bytes: u64,
    /// All up to this LSN is durable.
    pub durable_lsn: Lsn,
    /// What does the work on files; see [`Io::backend`](crate::Io::backend).
    pub io_backend: &'static str,
}

impl Store {
    /// Opens a store, recovering what was acknowledged.
    ///
    /// # Errors
    /// [`Error::Missing`] if there is none and `create` is not set; [`Error::NotAStore`],
    /// [`Error::Locked`], [`Error::FormatTooNew`], [`Error::Corrupt`]; [`Error::InvalidInput`] for
    /// settings out of range; [`Error::Io`] and [`Error::NoSpace`].
    pub fn open(environment: Environment, options: StoreOptions) -> Result<Arc<Self>> {
        let StoreOptions { create, format, tunables, background } = options;
        let shared = Arc::new(recovery::open(environment, create, format, tunables)?);
        let threads = match background {
            Background::Threads => Some(Threads::start(&shared)?),
            Background::Manual => None,
        };
        Ok(Arc::new(Self { shared, threads: Mutex::new(threads) }))
    }

    /// Opens files that another process writes to, or a copy of which grows as they do, without changing
    /// them, and as of a batch of the log that is known to count: `known` is an LSN up to which it is known
    /// by other means that everything does, and which has to be there. Of what is beyond, a last batch is
    /// left out, since a crash may take it from its writer.
    ///
    /// Reads are as of any store, and whatever would write is refused with [`Error::InvalidInput`];
    /// [`follow`](Self::follow) moves on. No thread is started.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`Error::Corrupt`] if the log does not reach to `known`.
    pub fn open_to_follow(
        environment: Environment,
        tunables: crate::config::Tunables,
        known: Lsn,
    ) -> Result<Arc<Self>> {
        let shared = Arc::new(recovery::open_to_follow(environment, tunables, known)?);
        Ok(Arc::new(Self { shared, threads: Mutex::new(None) }))
    }

    /// Reads what was added to the log since, and shows it: as of the last batch that counts, as
    /// [`open_to_follow`](Self::open_to_follow) has it. Returns up to where that is. Snapshots stay as they
    /// are. The superblock has to be the one that the store was opened with: after a checkpoint, or
    /// another opening for writing, the files are to be opened anew.
    ///
    /// # Errors
    /// As [`open_to_follow`](Self::open_to_follow). After an error that came amid replaying, what is shown
    /// is some first part of what was to be added, and every later call fails with [`Error::InvalidInput`]:
    /// the files are to be opened anew. So it does for a store that was opened otherwise.
    pub fn follow(&self, known: Lsn) -> Result<Lsn> {
        self.shared.follow(known)
    }

    /// The store's directory, for messages.
    #[must_use]
    pub fn describe(&self) -> String {
        self.shared.core.environment.io.describe()
    }

    /// Random identity of the store.
    #[must_use]
    pub fn id(&self) -> StoreId {
        self.shared.id
    }

    /// What the store was opened in: its files, clocks and randomness.
    #[must_use]
    pub fn environment(&self) -> &Environment {
        &self.shared.core.environment
    }

    /// Creates an empty facet. It is durable with the next commit or flush.
    ///
    /// # Errors
    /// [`Error::FacetExists`]; [`Error::FacetMoved`]; [`Error::NoSpace`]; [`Error::Poisoned`] or
    /// [`Error::Closed`].
    pub fn create_facet(&self, name: &FacetName) -> Result<Arc<Facet>> {
        match self.shared.create(name)? {
            (facet, true) => Ok(facet),
            (_, false) => Err(Error::FacetExists { name: name.to_string() }),
        }
    }

    /// Opens a facet.
    ///
    /// # Errors
    /// [`Error::FacetNotFound`]; [`Error::FacetMoved`]; [`Error::Poisoned`] or [`Error::Closed`].
    pub fn open_facet(&self, name: &FacetName) -> Result<Arc<Facet>> {
        self.shared.core.log.check_usable()?;
        match self.shared.open(name) {
            Some(facet) => Ok(facet),
            None => {
                self.shared.catalog().refusals.check(name, None)?;
                Err(Error::FacetNotFound { name: name.to_string() })
            }
        }
    }

    /// Opens the facet of an id, whatever it is called now; `None` if it was deleted. An id is never
    /// given to another facet of the store.
    ///
    /// # Errors
    /// [`Error::Poisoned`] or [`Error::Closed`].
    pub fn facet_of_id(&self, id: FacetId) -> Result<Option<Arc<Facet>>> {
        self.shared.core.log.check_usable()?;
        Ok(self.shared.catalog_mut().by_id(id, &self.shared.core))
    }

    /// Opens a facet, creating it if it is not there.
    ///
    /// # Errors
    /// As [`create_facet`](Self::create_facet), but for its being there.
    pub fn open_or_create_facet(&self, name: &FacetName) -> Result<Arc<Facet>> {
        match self.open_facet(name) {
            Err(Error::FacetNotFound { .. }) => Ok(self.shared.create(name)?.0),
            opened => opened,
        }
    }

    /// Whether there is a facet of that name.
    #[must_use]
    pub fn facet_exists(&self, name: &FacetName) -> bool {
        self.shared.catalog().contains(name)
    }

    /// Deletes a facet and all below it, atomically. Snapshots that exist stay readable.
    ///
    /// # Errors
    /// [`Error::FacetNotFound`] if there is neither; [`Error::NoSpace`]; [`Error::Poisoned`] or
    /// [`Error::Closed`].
    pub fn delete_facet(&self, name: &FacetName) -> Result<Ticket> {
        let shared = &self.shared;
        let core = &shared.core;
        let growth = shared.catalog().growth_max(name);
        let bytes = record::CATALOG_BYTES_MAX;
        let admit = || core.log.admit(&core.segments, bytes, growth, Purpose::Delete);
        let admission = match admit() {
            Err(Error::NoSpace { .. }) => {
                // What is kept for a checkpoint may be all there is. It gives more back.
                self.checkpoint()?;
                admit()?
            }
            admitted => admitted?,
        };
        let mut catalog = shared.catalog_mut();
        let facets = catalog.remove_subtree(name, core);
        if facets.is_empty() {
            catalog.refusals.check(name, None)?;
            return Err(Error::FacetNotFound { name: name.to_string() });
        }
        // Before the catalog is let go of: whoever makes segments ready asks one or the other.
        shared.deleted().extend(facets.iter().map(Arc::downgrade));
        if catalog.settings.remove_subtree(name) {
            core.with_changed(|changed| changed.settings = true);
        }
        for facet in &facets {
            facet.mark_deleted();
        }
        let change = CatalogChange::Delete { name: name.clone() };
        Ok(shared.append_change(admission, &change, Effect::Delete(facets)))
    }

    /// Renames a facet and all below it, atomically. Open handles stay good.
    ///
    /// # Errors
    /// [`Error::FacetNotFound`]; [`Error::FacetExists`] if a new name is taken, [`Error::FacetMoved`] if it is refused;
    /// [`Error::InvalidName`] if one would break a rule; [`Error::InvalidInput`] if the new name is
    /// within the old; [`Error::NoSpace`]; [`Error::Poisoned`] or [`Error::Closed`].
    pub fn rename_facet(&self, from: &FacetName, to: &FacetName) -> Result<Ticket> {
        let shared = &self.shared;
        let core = &shared.core;
        let growth = shared.catalog().growth_max(from);
        let bytes = record::CATALOG_BYTES_MAX;
        let admission = core.log.admit(&core.segments, bytes, growth, Purpose::Commit)?;
        let mut catalog = shared.catalog_mut();
        let moves = catalog.plan_rename(from, to)?;
        let bytes = catalog.subtree(from).map(|(_, id)| catalog.logical_bytes(id));
        let arrivals = moves.iter().map(|(_, to)| to).zip(bytes);
        catalog.settings.check_room(arrivals, Some(from))?;
        let facets = catalog.rename(moves, core);
        let (any, quotas) = catalog.settings.rename(from, to);
        if any {
            core.with_changed(|changed| changed.settings = true);
        }
        // What was moved is open, but what was there before may not be.
        quotas.iter().for_each(|quota| catalog.count_cold(quota));
        catalog.apply_limits(to, core);
        let change = CatalogChange::Rename { from: from.clone(), to: to.clone() };
        let ticket = shared.append_change(admission, &change, Effect::Touch(facets.clone()));
        for facet in facets {
            facet.set_name_ticket(ticket);
        }
        Ok(ticket)
    }

    /// Facets within `prefix` (all, if `None`), in order of name, those after `after`, at most
    /// `limit`. It may say more than is durable: wait for [`current_ticket`](Self::current_ticket).
    ///
    /// # Errors
    /// [`Error::Poisoned`] or [`Error::Closed`].
    pub fn list_facets(
        &self,
        prefix: Option<&FacetName>,
        after: Option<&FacetName>,
        limit: usize,
    ) -> Result<Vec<FacetInfo>> {
        self.shared.core.log.check_usable()?;
        let catalog = self.shared.catalog();
        let info = |(name, id): (&FacetName, FacetId)| {
            let (version, page_size, page_count) = catalog.info(id).unwrap_or_default();
            FacetInfo { id, name: name.clone(), version, page_size, page_count }
        };
        Ok(match prefix {
            Some(prefix) => catalog
                .subtree(prefix)
                .filter(|(name, _)| after.is_none_or(|after| *name > after))
                .take(limit)
                .map(info)
                .collect(),
            None => catalog.after(after).take(limit).map(info).collect(),
        })
    }

    /// A ticket for all that was appended so far.
    #[must_use]
    pub fn current_ticket(&self) -> Ticket {
        self.shared.core.log.current_ticket()
    }

    /// Whether a segment is in use and is not written any more: its bytes stay as they are until nothing in
    /// it is needed. Then, and not before, [`Io::is_reserved`](crate::Io::is_reserved) is asked of its file.
    /// For who keeps the store elsewhere as well, and wants the space of what is there.
    #[must_use]
    pub fn is_finished(&self, segment: SegmentId) -> bool {
        self.shared.core.segments.is_finished(segment)
    }

    /// All up to this LSN is durable.
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        self.shared.core.log.durable_lsn()
    }

    /// Whether `ticket` is durable.
    ///
    /// # Errors
    /// [`Error::Poisoned`] or [`Error::Closed`] if it is not and will not be, by this store.
    pub fn is_durable(&self, ticket: Ticket) -> Result<bool> {
        self.shared.core.log.is_durable(ticket)
    }

    /// Waits until `ticket` is durable. The calling thread writes the log itself if nobody else
    /// does; threads that wait at the same time share one sync.
    ///
    /// # Errors
    /// As [`is_durable`](Self::is_durable).
    pub fn wait_durable(&self, ticket: Ticket) -> Result<()> {
        self.shared.core.log.wait_durable(&self.shared.core.segments, ticket)
    }

    /// Asks the store's thread for a flush and returns at once. Flushes asked for this way keep
    /// [`flush_interval`](crate::Tunables::flush_interval) apart, unless every [`Worker`] rests. With
    /// [`Background::Manual`] there is no such thread, and nothing happens.
    pub fn request_flush(&self) {
        self.shared.core.log.request_flush();
    }

    /// Makes all that was appended so far durable.
    ///
    /// # Errors
    /// As [`is_durable`](Self::is_durable).
    pub fn flush(&self) -> Result<()> {
        self.shared.core.log.flush(&self.shared.core.segments)
    }

    /// Has `listener` called after every flush, and when the store is poisoned or closed, from the
    /// thread that did it. It must be quick, and may call nothing of the store but
    /// [`is_durable`](Self::is_durable) and [`durable_lsn`](Self::durable_lsn).
    pub fn on_durable(&self, listener: Box<dyn Fn() + Send + Sync>) {
        self.shared.core.log.on_durable(listener);
    }

    /// Writes what changed since the last checkpoint, so that the next open need not replay it,
    /// and makes segments ready again in which nothing is live.
    ///
    /// # Errors
    /// [`Error::NoSpace`], after which the store goes on as before; [`Error::Poisoned`] or
    /// [`Error::Closed`].
    pub fn checkpoint(&self) -> Result<()> {
        self.shared.checkpoint()
    }

    /// Does one piece of background work, if there is any: fills a segment ahead, or takes a
    /// checkpoint. Says whether it did. With [`Background::Threads`] nobody needs to call it.
    ///
    /// # Errors
    /// As [`checkpoint`](Self::checkpoint).
    pub fn maintain(&self) -> Result<bool> {
        self.shared.maintain(&mut |_, _| ())
    }

    /// Moves together what is live in segments that are partly garbage, as much as one pass does,
    /// however much space is used; a checkpoint then makes the emptied segments ready. Background
    /// work does this by itself when space is beyond
    /// [`space_percent_max`](crate::Tunables::space_percent_max).
    ///
    /// # Errors
    /// As [`checkpoint`](Self::checkpoint).
    pub fn clean(&self) -> Result<Cleaned> {
        self.shared.clean(Urge::Space, &mut |_, _| ())
    }

    /// Figures as of now.
    #[must_use]
    pub fn stat(&self) -> StoreStat {
        let core = &self.shared.core;
        let totals = core.segments.totals(None, Lsn(0));
        let counters = &core.log.counters;
        let cleaning = self.shared.cleaning();
        let forwards = core.segments.files.with_forwards(|forwards| forwards.len());
        StoreStat {
            facets: self.shared.catalog().len() as u64,
            segments: totals.segments,
            ready_segments: totals.ready,
            allocated_bytes: totals.allocated_bytes,
            live_bytes: totals.live_bytes,
            history_bytes: core.history.bytes(),
            tail_bytes: counters.tail_bytes.load(Ordering::Relaxed),
            image_bytes: core.images.bytes() as u64,
            cleaned_bytes: cleaning.moved_bytes,
            cleaned_segments: cleaning.segments,
            settled_bytes: cleaning.settled_bytes,
            settled_live_bytes: cleaning.settled_live_bytes,
            forwards: forwards as u64,
            shared_references: self.shared.shared_references.load(Ordering::Relaxed),
            written_bytes: counters.written_bytes.load(Ordering::Relaxed),
            filled_bytes: core.segments.files.filled_bytes(),
            flushes: counters.flushes.load(Ordering::Relaxed),
            commits: counters.commits.load(Ordering::Relaxed),
            checkpoints: self.shared.checkpoints.load(Ordering::Relaxed),
            recovered_bytes: self.shared.recovered_bytes,
            durable_lsn: self.durable_lsn(),
            io_backend: core.environment.io.backend(),
        }
    }

    /// Stops the store for good, as a failed write does: from now on nothing becomes durable, and who
    /// waits is told [`Error::Poisoned`] with `cause`. For whoever knows that this process may not
    /// write any more.
    pub fn stop(&self, cause: &str) {
        self.shared.core.log.stop(cause.to_owned());
    }

    /// Makes everything durable, takes a checkpoint, and closes the store. Afterwards every
    /// operation fails with [`Error::Closed`], and another process may open it, if no pages are held
    /// ([`HeldPages`](crate::HeldPages)); else as soon as none is.
    ///
    /// # Errors
    /// [`Error::NoSpace`]: all is durable and the store is closed, but the next open has more to
    /// replay. [`Error::Poisoned`]: closed as after a crash. [`Error::Closed`] if it was.
    pub fn close(&self) -> Result<()> {
        self.shared.core.log.check_open()?;
        if self.shared.following.is_some() {
            self.shut();
            return Ok(());
        }
        let result = self.flush().and_then(|()| self.checkpoint());
        self.shut();
        result
    }

    /// Ends threads and gives the lock back.
    fn shut(&self) {
        self.shared.core.log.close();
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(threads) = threads {
            threads.stop();
        }
        // Others may still be at it. Each of these waits for whoever is, and whoever comes later
        // finds the store closed; only then the files may be somebody else's.
        drop(self.shared.checkpointer());
        drop(self.shared.core.log.lead());
        self.shared.core.segments.close();
        self.shared.let_go();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.shut();
    }
}

impl Shared {
    fn new(
        core: Arc<Core>,
        id: StoreId,
        catalog: Catalog,
        checkpointer: Checkpointer,
        recovered_bytes: u64,
        lock: LockGuard,
    ) -> Self {
        Self {
            core,
            id,
            catalog: RwLock::new(catalog),
            checkpointer: Mutex::new(checkpointer),
            cleaning: Mutex::default(),
            deleted: Mutex::default(),
            checkpoints: AtomicU64::new(0),
            shared_references: AtomicU64::new(0),
            recovered_bytes,
            following: None,
            lock: Mutex::new(Some(lock)),
        }
    }

    fn catalog(&self) -> crate::sync::RwLockReadGuard<'_, Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn catalog_mut(&self) -> crate::sync::RwLockWriteGuard<'_, Catalog> {
        self.catalog.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn checkpointer(&self) -> MutexGuard<'_, Checkpointer> {
        self.checkpointer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cleaning(&self) -> MutexGuard<'_, Cleaning> {
        self.cleaning.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deleted(&self) -> MutexGuard<'_, Vec<Weak<Facet>>> {
        self.deleted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The facet of that name.
    fn open(&self, name: &FacetName) -> Option<Arc<Facet>> {
        if let Some(facet) = self.catalog().get_open(name) {
            return Some(Arc::clone(facet));
        }
        self.catalog_mut().get(name, &self.core)
    }

    /// The facet of that name, and whether this call created it.
    fn create(&self, name: &FacetName) -> Result<(Arc<Facet>, bool)> {
        let core = &self.core;
        let growth = record::chunk_bytes(name.as_str().len());
        let bytes = record::CATALOG_BYTES_MAX;
        let admission = core.log.admit(&core.segments, bytes, growth, Purpose::Commit)?;
        let mut catalog = self.catalog_mut();
        if let Some(facet) = catalog.get(name, core) {
            return Ok((facet, false));
        }
        catalog.refusals.check(name, None)?;
        let limits = catalog.settings.limits_of(name, &core.tunables);
        let incarnation = core.incarnation;
        let wall_ms = core.environment.clock.wall_ms();
        let meta = VersionMeta { incarnation, wall_ms, ..VersionMeta::default() };
        let facet = Facet::new(Arc::clone(core), catalog.next(), name.clone(), meta, limits);
        catalog.insert(name.clone(), Arc::clone(&facet));
        let change = CatalogChange::Create { facet: facet.id(), name: name.clone(), incarnation };
        let effect = Effect::Create(Arc::clone(&facet));
        let ticket = self.append_change(admission, &change, effect);
        facet.set_created(ticket.lsn());
        facet.set_name_ticket(ticket);
        Ok((facet, true))
    }

    /// Appends a catalog record. The catalog is locked, so that the order of changes is the order
    /// of their LSNs.
    fn append_change(
        &self,
        admission: crate::log::Admission<'_>,
        change: &CatalogChange,
        effect: Effect,
    ) -> Ticket {
        let wall_ms = self.core.environment.clock.wall_ms();
        self.core.log.append(admission, 0, |lsn, out| {
            record::encode_catalog(lsn, wall_ms, change, out);
            effect
        })
    }

    fn maintain(&self, pace: Pace<'_>) -> Result<bool> {
        let core = &self.core;
        core.log.check_writable()?;
        // A commit was refused for lack of space: a checkpoint may find some, or the cleaner.
        if core.segments.take_starved() {
            if self.is_worth_a_checkpoint() {
                self.checkpoint()?;
                return Ok(true);
            }
            if self.clean(Urge::Space, pace)?.segments > 0 {
                self.checkpoint()?;
                return Ok(true);
            }
        }
        let filled = match core.segments.fill_ahead(core.monotonic_ns()) {
            Ok(true) => return Ok(true),
            Err(Error::NoSpace { .. }) if core.segments.has_empty() => {
                self.checkpoint()?;
                return Ok(true);
            }
            // All else here may free some.
            filled @ (Ok(false) | Err(Error::NoSpace { .. })) => filled,
            Err(error) => return Err(error),
        };
        let tail = core.log.counters.tail_bytes.load(Ordering::Relaxed);
        if tail >= self.checkpoint_due_bytes() && self.is_worth_a_checkpoint() {
            self.checkpoint()?;
            return Ok(true);
        }
        if core.segments.trim(core.monotonic_ns())? || self.trim_histories()? {
            return Ok(true);
        }
        let cleaned = self.clean(Urge::Routine, pace)?.segments > 0;
        if self.is_emptied(!cleaned) {
            self.save_moves()?;
            return Ok(true);
        }
        if cleaned { Ok(true) } else { filled }
    }

    /// Bytes of log after which a checkpoint is due. A store that is small has little to gain from a long
    /// tail, and space to win back.
    fn checkpoint_due_bytes(&self) -> u64 {
        let live = self.core.segments.totals(None, Lsn(0)).live_bytes;
        let due = (live / CHECKPOINT_LIVE_SHARE).max(CHECKPOINT_LOG_BYTES_MIN);
        // Images that are kept in memory are written by it, and again after it.
        let due = due.max(self.core.images.bytes() as u64);
        due.min(self.core.tunables.checkpoint_log_bytes)
    }

    /// Lets go of history that has become too old, now and then; says whether it found any.
    fn trim_histories(&self) -> Result<bool> {
        let core = &self.core;
        let now_ns = core.monotonic_ns();
        let is_due = self.cleaning().is_trim_due(now_ns) || core.history.is_exceeded();
        if !is_due || core.history.bytes() == 0 {
            return Ok(false);
        }
        let before = core.history.bytes();
        let mut facets: Vec<Arc<Facet>> = self.catalog().opened().cloned().collect();
        // Cold ones a few at a time: each has to be read.
        for id in self.cleaning().next_cold(|| self.catalog().cold_with_history()) {
            facets.extend(self.catalog_mut().by_id(id, core));
        }
        for facet in facets {
            if let Err(error) = facet.trim_history() {
                tracing::warn!(%error, "a history cannot be read, so it is not trimmed");
            }
        }
        Ok(core.history.bytes() < before)
    }

    /// Breaks the circles between facets, buffers and this, and gives the lock back.
    fn let_go(&self) {
        self.core.log.discard_buffers();
        *self.catalog_mut() = Catalog::new(FacetId(1));
        self.core.with_changed(|changed| *changed = Changed::default());
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
        let lock = lock.map(|lock| -> DirectoryLock { Arc::new(lock) });
        self.core.segments.mappings.close(lock.as_ref());
    }
}
