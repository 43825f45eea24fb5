//! A facet: one small database, as a series of versions of a page map.
//!
//! Two of its versions matter: *latest*, which its writer sees, and *durable*, which everybody else
//! sees. A commit moves `latest` at once; publication, after the sync, moves `durable` to the same
//! content, with every pending image replaced by the place it was written to.

mod publish;
mod snapshot;
mod writer;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) use publish::{Captured, Committed};
pub use snapshot::Snapshot;
pub use writer::Writer;

use crate::core::Core;
use crate::error::{Error, Result};
use crate::format::catalog::{FacetEntry, decode_node};
use crate::format::{StoredRef, record};
use crate::map::{self, NodeSource, PageMap};
use crate::name::FacetName;
use crate::types::{FacetId, PageSize, Ticket, Version, View};

/// A facet's content at a version.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    pub(crate) version: Version,
    pub(crate) wall_ms: u64,
    /// `None` while the facet has never had a page.
    pub(crate) page_size: Option<PageSize>,
    pub(crate) page_count: u32,
    pub(crate) map: PageMap,
}

/// An open facet. Cheap to keep: it holds no file and no descriptor.
#[derive(Debug)]
pub struct Facet {
    id: FacetId,
    core: Arc<Core>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    name: FacetName,
    /// Of the create or rename that gave the facet its name.
    name_ticket: Ticket,
    is_deleted: bool,
    has_writer: bool,
    latest: Content,
    latest_ticket: Ticket,
    durable: Content,
    /// Versions that snapshots hold, in order, each with how many do.
    pins: Vec<(Version, u32)>,
    /// Pages that left the durable version while an older one was pinned, in order of the version
    /// that they are no longer part of.
    dead: VecDeque<(Version, StoredRef)>,
    /// What the last checkpoint says of the facet; `None` if it does not know it.
    checkpoint: Option<FacetEntry>,
    /// The page map of that checkpoint, whose nodes are on disk.
    checkpoint_map: PageMap,
    /// Whether the facet is in [`Changed`](crate::core::Changed).
    is_changed: bool,
    /// Bytes of map nodes counted in [`Changed`](crate::core::Changed) for it.
    noted_bytes: u64,
    /// Whether the maps above are in memory; if not, `checkpoint` says where they are.
    is_loaded: bool,
}

impl Facet {
    /// A new, empty facet.
    pub(crate) fn new(core: Arc<Core>, id: FacetId, name: FacetName) -> Arc<Self> {
        Self::with(core, id, name, Content::default(), None)
    }

    /// A facet as a checkpoint has it; its page map stays on disk until it is needed.
    pub(crate) fn cold(core: Arc<Core>, entry: FacetEntry) -> Arc<Self> {
        let content = Content {
            version: entry.version,
            wall_ms: entry.wall_ms,
            page_size: entry.page_size,
            page_count: entry.page_count,
            map: PageMap::default(),
        };
        Self::with(core, entry.facet, entry.name.clone(), content, Some(entry))
    }

    fn with(
        core: Arc<Core>,
        id: FacetId,
        name: FacetName,
        content: Content,
        checkpoint: Option<FacetEntry>,
    ) -> Arc<Self> {
        let state = State {
            name,
            name_ticket: Ticket::DURABLE,
            is_deleted: false,
            has_writer: false,
            latest: content.clone(),
            latest_ticket: Ticket::DURABLE,
            durable: content,
            pins: Vec::new(),
            dead: VecDeque::new(),
            is_loaded: checkpoint.is_none(),
            checkpoint,
            checkpoint_map: PageMap::default(),
            is_changed: false,
            noted_bytes: 0,
        };
        Arc::new(Self { id, core, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, with the page map in memory.
    fn loaded(&self) -> Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        if !state.is_loaded {
            let entry = state.checkpoint.as_ref().expect("what is not loaded is in a checkpoint");
            let source = Nodes { core: &self.core, facet: &state.name };
            let map = map::load(&source, entry.map_root, entry.map_levels)?;
            state.latest.map = map.clone();
            state.durable.map = map.clone();
            state.checkpoint_map = map;
            state.is_loaded = true;
        }
        Ok(state)
    }

    /// Drops the page map from memory if nobody needs it there; says whether it is gone.
    pub(crate) fn unload(&self) -> bool {
        let mut state = self.state();
        let idle = !state.is_changed
            && !state.has_writer
            && !state.is_deleted
            && state.pins.is_empty()
            && state.dead.is_empty()
            && state.checkpoint.as_ref().is_some_and(|entry| entry.version == state.latest.version);
        if idle && state.is_loaded {
            state.latest.map = PageMap::default();
            state.durable.map = PageMap::default();
            state.checkpoint_map = PageMap::default();
            state.is_loaded = false;
        }
        idle
    }

    /// Identity of the facet, unchanged by a rename.
    #[must_use]
    pub fn id(&self) -> FacetId {
        self.id
    }

    /// The name it has now.
    #[must_use]
    pub fn name(&self) -> FacetName {
        self.state().name.clone()
    }

    /// Ticket of the create or rename that gave the facet its name, if that was since the store was
    /// opened. Who finds a facet by name has observed it.
    #[must_use]
    pub fn name_ticket(&self) -> Ticket {
        self.state().name_ticket
    }

    /// Number of the newest commit, durable or not.
    #[must_use]
    pub fn latest_version(&self) -> Version {
        self.state().latest.version
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

    /// Pins a version, in time that does not depend on its size.
    ///
    /// # Errors
    /// [`Error::FacetDeleted`]; [`Error::MapCorrupt`] or [`Error::Io`] if its page map cannot be
    /// read; [`Error::Poisoned`] or [`Error::Closed`].
    pub fn snapshot(self: &Arc<Self>, view: View) -> Result<Snapshot> {
        self.core.log.check_usable()?;
        let mut state = self.loaded()?;
        if state.is_deleted {
            return Err(Error::FacetDeleted { name: state.name.to_string() });
        }
        let content = match view {
            View::Latest => state.latest.clone(),
            View::Durable => state.durable.clone(),
        };
        state.pin(content.version);
        Ok(Snapshot::new(Arc::clone(self), content))
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
        if state.latest.version != base.version() {
            return Err(Error::StaleSnapshot { name: name() });
        }
        state.has_writer = true;
        drop(state);
        Ok(Writer::new(base.clone()))
    }

    /// Gives the facet another name; the catalog's lock is held.
    pub(crate) fn set_name(&self, name: FacetName) {
        self.state().name = name;
    }

    /// Says when the facet got its name; the catalog's lock is held.
    pub(crate) fn set_name_ticket(&self, ticket: Ticket) {
        self.state().name_ticket = ticket;
    }

    /// Ends the facet's life: no snapshot and no commit from now on. Its page map is brought into
    /// memory, so that its space can be given back when the delete is durable.
    ///
    /// A map that cannot be read is no reason to keep a facet; its space is then lost.
    pub(crate) fn mark_deleted(&self) {
        if let Err(error) = self.loaded().map(drop) {
            tracing::warn!(%error, "the space of a deleted facet cannot be given back");
        }
        self.state().is_deleted = true;
    }

    /// What a list says of it: latest version, page size, pages.
    pub(crate) fn summary(&self) -> (Version, Option<PageSize>, u32) {
        let latest = &self.state().latest;
        (latest.version, latest.page_size, latest.page_count)
    }
}

impl State {
    fn pin(&mut self, version: Version) {
        match self.pins.binary_search_by_key(&version, |&(pinned, _)| pinned) {
            Ok(at) => self.pins[at].1 += 1,
            Err(at) => self.pins.insert(at, (version, 1)),
        }
    }

    /// Ends a pin; hands pages that nothing needs any more to `free`.
    fn unpin(&mut self, version: Version, mut free: impl FnMut(StoredRef)) {
        let at = self
            .pins
            .binary_search_by_key(&version, |&(pinned, _)| pinned)
            .expect("a snapshot's version is pinned");
        self.pins[at].1 -= 1;
        if self.pins[at].1 == 0 {
            self.pins.remove(at);
        }
        let oldest = self.pins.first().map(|&(version, _)| version);
        while let Some(&(died, reference)) = self.dead.front() {
            if oldest.is_some_and(|oldest| oldest < died) {
                break;
            }
            self.dead.pop_front();
            free(reference);
        }
    }
}

/// Reads page-map nodes of a facet.
struct Nodes<'a> {
    core: &'a Core,
    facet: &'a FacetName,
}

impl NodeSource for Nodes<'_> {
    fn node(&self, reference: StoredRef) -> Result<Vec<Option<StoredRef>>> {
        let mut bytes = Vec::new();
        self.core.segments.files.read(reference, &mut bytes)?;
        record::decode_part(&bytes, reference.crc).and_then(decode_node).map_err(|malformed| {
            Error::MapCorrupt {
                facet: self.facet.to_string(),
                segment: reference.segment,
                offset: reference.offset(),
                detail: malformed.0.to_owned(),
            }
        })
    }
}
