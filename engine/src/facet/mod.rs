//! A facet: one small database, as a series of versions of a page map.
//!
//! Two of its versions matter: *latest*, which its writer sees, and *durable*, which everybody else
//! sees. A commit moves `latest` at once; publication, after the sync, moves `durable` to the same
//! content, with every pending image replaced by the place it was written to.

mod capture;
mod commit;
mod held;
mod history;
mod limits;
mod load;
mod publish;
mod restore;
mod root_hash;
mod snapshot;
mod versions;
mod writer;

use std::sync::{Arc, PoisonError};

use rustc_hash::FxHashSet;

pub(crate) use capture::{Captured, CapturedContent, Checkpointed, image_bytes_max};
pub(crate) use commit::Group;
pub use held::HeldPages;
pub(crate) use history::{CapturedHistory, Edit, HistoryPart, StoredHistory};
pub(crate) use limits::{Limits, Quota};
pub(crate) use load::Nodes;
pub(crate) use publish::Committed;
pub use restore::Restored;
pub use root_hash::{RootHash, RootHasher};
pub use snapshot::Snapshot;
pub(crate) use snapshot::read_stored_from;
pub use versions::VersionInfo;
pub use writer::Writer;
pub(crate) use writer::{StagedImage, encode_pages};

use history::History;

use crate::bookmark::Bookmark;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::format::catalog::{FacetEntry, VersionMeta};
use crate::map::PageMap;
use crate::name::FacetName;
use crate::sync::atomic::AtomicBool;
use crate::sync::{Mutex, MutexGuard};
use crate::types::{FacetId, Lsn, PageSize, SegmentId, Ticket, Version, View};

/// A facet's content at a version.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    pub(crate) meta: VersionMeta,
    pub(crate) map: PageMap,
}

/// An open facet. Cheap to keep: it holds no file and no descriptor.
#[derive(Debug)]
pub struct Facet {
    id: FacetId,
    /// The facet at the root of the tree of forks that this one is in.
    family: FacetId,
    core: Arc<Core>,
    state: Mutex<State>,
    /// Whether the checkpoint that is due counts the facet's entry: `is_changed` of its state, without a lock.
    is_counted: AtomicBool,
}

#[derive(Debug)]
struct State {
    name: FacetName,
    /// Of the create or rename that gave the facet its name.
    name_ticket: Ticket,
    is_deleted: bool,
    has_writer: bool,
    /// How many want its pages to be stored as images: see [`Facet::log_images`].
    images_wanted: u32,
    limits: Limits,
    latest: Content,
    latest_ticket: Ticket,
    durable: Content,
    /// What snapshots hold, in order of version.
    pins: Vec<Pin>,
    history: History,
    /// What the last checkpoint says of the facet; `None` if it does not know it.
    checkpoint: Option<FacetEntry>,
    /// The page map of that checkpoint, whose nodes are on disk.
    checkpoint_map: PageMap,
    /// Whether the facet is in [`Changed`](crate::core::Changed).
    is_changed: bool,
    /// Bytes of map nodes counted in [`Changed`](crate::core::Changed) for it, and of images.
    noted_bytes: u64,
    noted_image_bytes: u64,
    /// Whether maps and history are in memory; if not, `checkpoint` says where they are.
    is_loaded: bool,
}

/// A version that snapshots hold.
#[derive(Debug)]
struct Pin {
    version: Version,
    count: u32,
    /// Its pages: the segments they are in must stay.
    map: PageMap,
}

impl Facet {
    /// A new, empty facet.
    pub(crate) fn new(
        core: Arc<Core>,
        id: FacetId,
        name: FacetName,
        meta: VersionMeta,
        limits: Limits,
    ) -> Arc<Self> {
        let content = Content { meta, map: PageMap::default() };
        Self::with(core, id, id, name, content, None, limits)
    }

    /// A facet that begins with `content` of another, of the same family.
    pub(crate) fn forked(
        core: Arc<Core>,
        id: FacetId,
        family: FacetId,
        name: FacetName,
        content: Content,
        limits: Limits,
    ) -> Arc<Self> {
        let facet = Self::with(core, id, family, name, Content::default(), None, limits);
        facet.state().latest = content;
        facet
    }

    /// A facet as a checkpoint has it; its page map stays on disk until it is needed.
    pub(crate) fn cold(core: Arc<Core>, entry: FacetEntry, limits: Limits) -> Arc<Self> {
        let content = Content { meta: entry.meta, map: PageMap::default() };
        let name = entry.name.clone();
        Self::with(core, entry.facet, entry.family, name, content, Some(entry), limits)
    }

    fn with(
        core: Arc<Core>,
        id: FacetId,
        family: FacetId,
        name: FacetName,
        content: Content,
        checkpoint: Option<FacetEntry>,
        limits: Limits,
    ) -> Arc<Self> {
        let state = State {
            name,
            name_ticket: Ticket::DURABLE,
            is_deleted: false,
            has_writer: false,
            images_wanted: 0,
            limits,
            latest: content.clone(),
            latest_ticket: Ticket::DURABLE,
            durable: content,
            pins: Vec::new(),
            history: History::default(),
            is_loaded: checkpoint.is_none(),
            checkpoint,
            checkpoint_map: PageMap::default(),
            is_changed: false,
            noted_bytes: 0,
            noted_image_bytes: 0,
        };
        let is_counted = AtomicBool::new(false);
        Arc::new(Self { id, family, core, state: Mutex::new(state), is_counted })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the catalog has to know of the facet while nobody uses it, if nobody does: then
    /// everything about it is in the last checkpoint.
    pub(crate) fn idle_entry(&self) -> Option<FacetEntry> {
        let state = self.state();
        let is_idle = !state.is_changed
            && !state.has_writer
            && !state.is_deleted
            && state.pins.is_empty()
            && (!state.is_loaded || state.history.is_idle());
        let entry = state.checkpoint.as_ref().filter(|_| is_idle)?;
        let is_current =
            entry.meta.version == state.latest.meta.version && entry.name == state.name;
        is_current.then(|| entry.clone())
    }

    /// Identity of the facet, unchanged by a rename.
    #[must_use]
    pub fn id(&self) -> FacetId {
        self.id
    }

    pub(crate) fn family(&self) -> FacetId {
        self.family
    }

    /// The name it has now.
    #[must_use]
    pub fn name(&self) -> FacetName {
        self.state().name.clone()
    }

    /// Whether `name` is the name it has now. Nothing is the name of one that was deleted.
    #[must_use]
    pub fn is_named(&self, name: &FacetName) -> bool {
        let state = self.state();
        !state.is_deleted && state.name == *name
    }

    /// Ticket of the create, fork or rename that gave the facet its name, if that was since the
    /// store was opened. Who finds a facet by name has observed it.
    #[must_use]
    pub fn name_ticket(&self) -> Ticket {
        self.state().name_ticket
    }

    /// Number of the newest commit, durable or not.
    #[must_use]
    pub fn latest_version(&self) -> Version {
        self.state().latest.meta.version
    }

    /// Ticket of the newest commit made since the store was opened.
    #[must_use]
    pub fn latest_ticket(&self) -> Ticket {
        self.state().latest_ticket
    }

    /// Whether a [`Writer`] exists.
    #[must_use]
    pub fn has_writer(&self) -> bool {
        self.state().has_writer
    }

    /// Whether it was deleted.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.state().is_deleted
    }

    fn bookmark_of(&self, meta: &VersionMeta) -> Bookmark {
        Bookmark { incarnation: meta.incarnation, version: meta.version, facet: self.id }
    }

    /// Pins a version, in time that does not depend on its size.
    ///
    /// # Errors
    /// [`Error::FacetDeleted`]; [`Error::MapCorrupt`] or [`Error::Io`] if its page map cannot be
    /// read; [`Error::Poisoned`] or [`Error::Closed`].
    pub fn snapshot(self: &Arc<Self>, view: View) -> Result<Snapshot> {
        self.core.log.check_usable()?;
        let mut state = self.alive()?;
        let content = match view {
            View::Latest => state.latest.clone(),
            View::Durable => state.durable.clone(),
        };
        state.pin(&content);
        drop(state);
        Ok(Snapshot::new(Arc::clone(self), content))
    }

    /// A table of pages to be held by one reader of this facet. It is of no size until it is used.
    #[must_use]
    pub fn held_pages(&self) -> HeldPages {
        HeldPages::new(Arc::clone(&self.core))
    }

    /// The state of a facet that was not deleted, in memory.
    fn alive(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.loaded()?;
        if state.is_deleted {
            return Err(Error::FacetDeleted { name: state.name.to_string() });
        }
        Ok(state)
    }

    /// Takes the facet's one place for a writer. The transaction starts from `base`, which must be
    /// the latest version.
    ///
    /// # Errors
    /// [`Error::WriterBusy`] if there is a writer; [`Error::StaleSnapshot`] if `base` is not the
    /// latest version; [`Error::FacetDeleted`]; [`Error::Poisoned`] or [`Error::Closed`];
    /// [`Error::InvalidInput`] if `base` is of another facet.
    pub fn begin_write(self: &Arc<Self>, base: &Snapshot) -> Result<Writer> {
        self.core.log.check_usable()?;
        if !Arc::ptr_eq(base.facet(), self) {
            return Err(Error::InvalidInput(
                "the snapshot a writer starts from must be of the same facet".to_owned(),
            ));
        }
        let mut state = self.state();
        let name = || state.name.to_string();
        if state.is_deleted {
            return Err(Error::FacetDeleted { name: name() });
        }
        if state.has_writer {
            return Err(Error::WriterBusy { name: name() });
        }
        if state.latest.meta.version != base.version() {
            return Err(Error::StaleSnapshot { name: name() });
        }
        state.has_writer = true;
        drop(state);
        Ok(Writer::new(base.clone()))
    }

    /// From now on until the guard is dropped, commits log images and no deltas. So after a checkpoint
    /// that begins later, all pages of the facet are stored.
    pub(crate) fn log_images(self: &Arc<Self>) -> LogImages {
        self.state().images_wanted += 1;
        LogImages(Arc::clone(self))
    }

    /// Gives the facet another name; the catalog's lock is held.
    pub(crate) fn set_name(&self, name: FacetName) {
        self.state().name = name;
    }

    /// Says when the facet was created, with the version it has; the catalog's lock is held. What was
    /// before that has nothing of it.
    pub(crate) fn set_created(&self, lsn: Lsn) {
        let mut state = self.state();
        state.latest.meta.lsn = lsn;
        state.durable.meta.lsn = lsn;
    }

    /// Says when the facet got its name; the catalog's lock is held.
    pub(crate) fn set_name_ticket(&self, ticket: Ticket) {
        self.state().name_ticket = ticket;
    }

    /// Puts the facet under other limits; the catalog's lock is held. What it has is counted out of
    /// the old quotas and into the new ones.
    pub(crate) fn set_limits(&self, limits: Limits) {
        let mut state = self.state();
        let bytes = state.latest.meta.logical_bytes();
        if !state.is_deleted {
            state.limits.quotas.iter().for_each(|quota| quota.sub(bytes));
            limits.quotas.iter().for_each(|quota| quota.add(bytes));
        }
        state.limits = limits;
    }

    /// Ends the facet's life: no snapshot and no commit from now on.
    pub(crate) fn mark_deleted(&self) {
        let mut state = self.state();
        let bytes = state.latest.meta.logical_bytes();
        state.limits.quotas.iter().for_each(|quota| quota.sub(bytes));
        state.is_deleted = true;
    }

    /// Bytes of its pages in the latest version.
    pub(crate) fn logical_bytes(&self) -> u64 {
        self.state().latest.meta.logical_bytes()
    }

    /// What a list says of it: latest version, page size, pages.
    pub(crate) fn summary(&self) -> (Version, Option<PageSize>, u32) {
        let meta = self.state().latest.meta;
        (meta.version, meta.page_size, meta.page_count)
    }

    /// Segments that snapshots read, of versions that are no longer the durable one.
    pub(crate) fn pinned_segments(&self, pinned: &mut FxHashSet<SegmentId>) {
        let maps: Vec<PageMap> = {
            let state = self.state();
            let is_old = |pin: &&Pin| state.is_deleted || pin.version < state.durable.meta.version;
            state.pins.iter().filter(is_old).map(|pin| pin.map.clone()).collect()
        };
        for map in maps {
            map.for_each_stored(&mut |_, reference| {
                pinned.insert(self.core.segments.files.place(reference.identity()).segment);
            });
        }
    }
}

/// See [`Facet::log_images`].
#[derive(Debug)]
pub(crate) struct LogImages(Arc<Facet>);

impl Drop for LogImages {
    fn drop(&mut self) {
        self.0.state().images_wanted -= 1;
    }
}

/// Largest page that is logged as a delta: the images that a checkpoint writes are no longer than its
/// other parts, which is what room is kept back for.
const DELTA_PAGE_BYTES_MAX: usize = 8 << 10;

impl State {
    /// Whether commits may log pages of `size` as deltas. Where history is kept, what is replaced is referred
    /// to.
    fn may_log_deltas(&self, size: PageSize) -> bool {
        self.images_wanted == 0
            && !self.limits.retention.is_on()
            && size.bytes() <= DELTA_PAGE_BYTES_MAX
    }

    fn pin(&mut self, content: &Content) {
        let version = content.meta.version;
        match self.pins.binary_search_by_key(&version, |pin| pin.version) {
            Ok(at) => {
                // Whoever pinned it first may have read pages from memory that are stored by now.
                self.pins[at].count += 1;
                self.pins[at].map = content.map.clone();
            }
            Err(at) => self.pins.insert(at, Pin { version, count: 1, map: content.map.clone() }),
        }
    }

    fn unpin(&mut self, version: Version) {
        let at = self
            .pins
            .binary_search_by_key(&version, |pin| pin.version)
            .expect("a snapshot's version is pinned");
        self.pins[at].count -= 1;
        if self.pins[at].count == 0 {
            self.pins.remove(at);
        }
    }
}
