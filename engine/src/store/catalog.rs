//! The names of a store, as a tree kept in order, and what is known of each facet.
//!
//! A facet that nobody uses is *cold*: no more than what its catalog entry says is in memory. It is
//! *opened* when somebody asks for it, and becomes cold again after a checkpoint that finds it unused.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::refusals::Refusals;
use super::settings::Settings;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::facet::Facet;
use crate::format::StoredRef;
use crate::format::catalog::{CHUNK_FACETS, ChunkNo, FacetEntry, VersionMeta};
use crate::format::record;
use crate::name::FacetName;
use crate::types::{FacetId, Version};

/// Facets by name and by id. Each facet is in both.
#[derive(Debug)]
pub(crate) struct Catalog {
    by_name: BTreeMap<FacetName, FacetId>,
    /// In chunks, as they are stored.
    by_id: BTreeMap<ChunkNo, Vec<Slot>>,
    open: FxHashSet<FacetId>,
    next: FacetId,
    pub(crate) settings: Settings,
    pub(super) refusals: Refusals,
}

#[derive(Debug)]
enum Slot {
    Cold(Cold),
    /// With its id: to look for it must not take a walk to wherever it is in memory.
    Open(FacetId, Arc<Facet>),
}

/// A facet that nobody uses, as small as can be: there may be millions.
#[derive(Debug)]
struct Cold {
    name: FacetName,
    id: FacetId,
    family: FacetId,
    meta: VersionMeta,
    map_levels: u8,
    map_root: Option<StoredRef>,
    history: Option<Box<ColdHistory>>,
}

#[derive(Clone, Copy, Debug)]
struct ColdHistory {
    from: Version,
    bytes: u64,
    index: StoredRef,
}

impl Cold {
    fn new(entry: FacetEntry) -> Self {
        let history = entry.history.map(|index| {
            let (from, bytes) = (entry.history_from, entry.history_bytes);
            Box::new(ColdHistory { from, bytes, index })
        });
        Self {
            name: entry.name,
            id: entry.facet,
            family: entry.family,
            meta: entry.meta,
            map_levels: entry.map_levels,
            map_root: entry.map_root,
            history,
        }
    }

    fn entry(&self) -> FacetEntry {
        let history = self.history.as_deref();
        FacetEntry {
            facet: self.id,
            name: self.name.clone(),
            meta: self.meta,
            family: self.family,
            map_levels: self.map_levels,
            map_root: self.map_root,
            history_from: history.map_or(Version(0), |history| history.from),
            history_bytes: history.map_or(0, |history| history.bytes),
            history: history.map(|history| history.index),
        }
    }
}

impl Slot {
    fn id(&self) -> FacetId {
        match self {
            Self::Cold(cold) => cold.id,
            Self::Open(id, _) => *id,
        }
    }

    fn for_checkpoint(&self) -> ChunkSlot {
        match self {
            Self::Cold(cold) => ChunkSlot::Cold(cold.entry()),
            Self::Open(_, facet) => ChunkSlot::Open(Arc::clone(facet)),
        }
    }
}

/// Where a facet is in its chunk, or where it would be put.
fn place_in(slots: &[Slot], id: FacetId) -> Result<usize, usize> {
    // Ids go up by one, so this is it unless some before it were deleted.
    let first = slots.first().map_or(0, |slot| slot.id().0);
    let guess = usize::try_from(id.0.wrapping_sub(first)).unwrap_or(usize::MAX);
    if slots.get(guess).is_some_and(|slot| slot.id() == id) {
        return Ok(guess);
    }
    slots.binary_search_by_key(&id, Slot::id)
}

/// What a checkpoint writes of a facet that is in a chunk it writes.
#[derive(Debug)]
pub(crate) enum ChunkSlot {
    /// What the last checkpoint says.
    Cold(FacetEntry),
    Open(Arc<Facet>),
}

impl Catalog {
    pub(crate) fn new(next: FacetId) -> Self {
        Self {
            by_name: BTreeMap::new(),
            by_id: BTreeMap::new(),
            open: FxHashSet::default(),
            next,
            settings: Settings::default(),
            refusals: Refusals::default(),
        }
    }

    /// A catalog of cold facets, the chunks as they are stored. On failure, the name that two have.
    pub(crate) fn restored(
        next: FacetId,
        chunks: impl Iterator<Item = (ChunkNo, Vec<FacetEntry>)>,
    ) -> Result<Self, FacetName> {
        let mut catalog = Self::new(next);
        let mut names = Vec::new();
        for (chunk, entries) in chunks {
            names.extend(entries.iter().map(|entry| (entry.name.clone(), entry.facet)));
            // Not `collect`, which would keep the memory of the entries: they are larger.
            let mut slots = Vec::with_capacity(entries.len());
            slots.extend(entries.into_iter().map(|entry| Slot::Cold(Cold::new(entry))));
            if let Some(last) = slots.last() {
                catalog.next = catalog.next.max(FacetId(last.id().0 + 1));
                catalog.by_id.insert(chunk, slots);
            }
        }
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(twice[0].0.clone());
        }
        catalog.by_name = names.into_iter().collect();
        Ok(catalog)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Id that the next facet gets.
    pub(crate) fn next(&self) -> FacetId {
        self.next
    }

    pub(crate) fn contains(&self, name: &FacetName) -> bool {
        self.by_name.contains_key(name)
    }

    fn slot(&self, id: FacetId) -> Option<&Slot> {
        let slots = self.by_id.get(&ChunkNo::of(id))?;
        place_in(slots, id).ok().map(|at| &slots[at])
    }

    /// The facet of that name, if it is open already.
    pub(crate) fn get_open(&self, name: &FacetName) -> Option<&Arc<Facet>> {
        match self.slot(*self.by_name.get(name)?)? {
            Slot::Open(_, facet) => Some(facet),
            Slot::Cold(_) => None,
        }
    }

    /// The facet of that name, opened.
    pub(crate) fn get(&mut self, name: &FacetName, core: &Arc<Core>) -> Option<Arc<Facet>> {
        let id = *self.by_name.get(name)?;
        self.by_id(id, core)
    }

    /// The facet of that id, opened.
    pub(crate) fn by_id(&mut self, id: FacetId, core: &Arc<Core>) -> Option<Arc<Facet>> {
        let slots = self.by_id.get_mut(&ChunkNo::of(id))?;
        let at = place_in(slots, id).ok()?;
        if let Slot::Cold(cold) = &slots[at] {
            let limits = self.settings.limits_of(&cold.name, &core.tunables);
            let facet = Facet::cold(Arc::clone(core), cold.entry(), limits);
            slots[at] = Slot::Open(id, facet);
            self.open.insert(id);
        }
        match &slots[at] {
            Slot::Open(_, facet) => Some(Arc::clone(facet)),
            Slot::Cold(_) => None,
        }
    }

    /// What a checkpoint has of a facet, or would say of it if it were durable now.
    pub(crate) fn info(&self, id: FacetId) -> Option<(Version, Option<crate::PageSize>, u32)> {
        match self.slot(id)? {
            Slot::Cold(cold) => {
                Some((cold.meta.version, cold.meta.page_size, cold.meta.page_count))
            }
            Slot::Open(_, facet) => Some(facet.summary()),
        }
    }

    pub(crate) fn logical_bytes(&self, id: FacetId) -> u64 {
        match self.slot(id) {
            Some(Slot::Cold(cold)) => cold.meta.logical_bytes(),
            Some(Slot::Open(_, facet)) => facet.logical_bytes(),
            None => 0,
        }
    }

    /// A facet, open or as the last checkpoint has it.
    pub(crate) fn slot_of(&self, id: FacetId) -> Option<ChunkSlot> {
        self.slot(id).map(Slot::for_checkpoint)
    }

    /// The facets of a chunk, in order of id.
    pub(crate) fn chunk(&self, chunk: ChunkNo) -> Vec<ChunkSlot> {
        let slots = self.by_id.get(&chunk).map_or(&[][..], Vec::as_slice);
        slots.iter().map(Slot::for_checkpoint).collect()
    }

    /// Facets that are open.
    pub(crate) fn opened(&self) -> impl Iterator<Item = &Arc<Facet>> {
        self.open.iter().filter_map(|&id| match self.slot(id)? {
            Slot::Open(_, facet) => Some(facet),
            Slot::Cold(_) => None,
        })
    }

    /// Ids of cold facets whose oldest version that is kept beside the newest was replaced before…
    /// nobody knows without looking: those that have history at all.
    pub(crate) fn cold_with_history(&self) -> Vec<FacetId> {
        let has_history = |slot: &&Slot| matches!(slot, Slot::Cold(cold) if cold.history.is_some());
        self.by_id.values().flatten().filter(has_history).map(Slot::id).collect()
    }

    /// Puts the open facets of a subtree under the limits that go for their names now.
    pub(crate) fn apply_limits(&self, root: &FacetName, core: &Core) {
        for (name, id) in self.subtree(root) {
            if let Some(Slot::Open(_, facet)) = self.slot(id) {
                facet.set_limits(self.settings.limits_of(name, &core.tunables));
            }
        }
    }

    /// Counts the facets of a subtree that are not open into its quota, which is new.
    pub(crate) fn count_cold(&self, quota: &crate::facet::Quota) {
        for (_, id) in self.subtree(&quota.name) {
            if let Some(Slot::Cold(cold)) = self.slot(id) {
                quota.add(cold.meta.logical_bytes());
            }
        }
    }

    /// Bytes of history of all cold facets.
    pub(crate) fn cold_history_bytes(&self) -> u64 {
        let bytes = |slot: &Slot| match slot {
            Slot::Cold(cold) => cold.history.as_ref().map_or(0, |history| history.bytes),
            Slot::Open(..) => 0,
        };
        self.by_id.values().flatten().map(bytes).sum()
    }

    /// Forgets all but the entries of facets that nobody uses.
    pub(crate) fn cool(&mut self) {
        let unused: Vec<(FacetId, FacetEntry)> = self
            .opened()
            // One count is the catalog's.
            .filter(|facet| Arc::strong_count(facet) == 1)
            .filter_map(|facet| Some((facet.id(), facet.idle_entry()?)))
            .collect();
        for (id, entry) in unused {
            self.open.remove(&id);
            if let Some(slots) = self.by_id.get_mut(&ChunkNo::of(id))
                && let Ok(at) = place_in(slots, id)
            {
                slots[at] = Slot::Cold(Cold::new(entry));
            }
        }
    }

    /// Puts a facet in; `false` if its name or id is taken.
    pub(crate) fn insert(&mut self, name: FacetName, facet: Arc<Facet>) -> bool {
        let id = facet.id();
        let slots = self.by_id.entry(ChunkNo::of(id)).or_default();
        let Err(at) = place_in(slots, id) else { return false };
        if self.by_name.contains_key(&name) {
            return false;
        }
        // Ids go up, so a chunk is filled once and for all.
        if slots.is_empty() {
            slots.reserve_exact(usize::try_from(CHUNK_FACETS).unwrap_or(0));
        }
        slots.insert(at, Slot::Open(id, facet));
        self.open.insert(id);
        self.next = self.next.max(FacetId(id.0 + 1));
        self.by_name.insert(name, id);
        true
    }

    /// The facet of that name and those below it, in order of name.
    pub(crate) fn subtree(&self, root: &FacetName) -> impl Iterator<Item = (&FacetName, FacetId)> {
        // What is below "a" is together, from "a/" on; but "a-b" comes between "a" and "a/b".
        let below = format!("{root}/");
        let root = root.clone();
        let own = self.by_name.get_key_value(&root);
        let from = (Bound::Included(below.as_str()), Bound::Unbounded);
        let below_root =
            self.by_name.range::<str, _>(from).take_while(move |(name, _)| name.is_within(&root));
        own.into_iter().chain(below_root).map(|(name, &id)| (name, id))
    }

    /// Most bytes by which a change to all facets of a subtree makes the next checkpoint longer.
    pub(crate) fn growth_max(&self, root: &FacetName) -> u64 {
        let mut chunks = FxHashSet::default();
        let mut name = root.as_str().len();
        for (below, facet) in self.subtree(root) {
            chunks.insert(ChunkNo::of(facet));
            name = name.max(below.as_str().len());
        }
        chunks.len() as u64 * record::chunk_bytes(name)
    }

    /// All facets, in order of name, from `after` (exclusive) on.
    pub(crate) fn after(
        &self,
        after: Option<&FacetName>,
    ) -> impl Iterator<Item = (&FacetName, FacetId)> {
        let from = after.map_or(Bound::Unbounded, |name| Bound::Excluded(name.as_str()));
        self.by_name.range::<str, _>((from, Bound::Unbounded)).map(|(name, &id)| (name, id))
    }

    /// Takes a subtree out.
    pub(crate) fn remove_subtree(&mut self, root: &FacetName, core: &Arc<Core>) -> Vec<Arc<Facet>> {
        let found: Vec<(FacetName, FacetId)> =
            self.subtree(root).map(|(name, id)| (name.clone(), id)).collect();
        found
            .into_iter()
            .filter_map(|(name, id)| {
                let facet = self.by_id(id, core)?;
                self.by_name.remove(&name);
                self.open.remove(&id);
                let chunk = ChunkNo::of(id);
                let slots = self.by_id.get_mut(&chunk)?;
                slots.retain(|slot| slot.id() != id);
                if slots.is_empty() {
                    self.by_id.remove(&chunk);
                }
                Some(facet)
            })
            .collect()
    }

    /// The names that a rename of a subtree would give.
    pub(crate) fn plan_rename(
        &self,
        from: &FacetName,
        to: &FacetName,
    ) -> Result<Vec<(FacetName, FacetName)>> {
        if to.is_within(from) {
            return Err(Error::InvalidInput(format!(
                "facet {from}: cannot be renamed to {to}, which is itself or below it"
            )));
        }
        self.plan_names(from, to)
    }

    /// The names that a copy of a subtree would have, with those they are copies of.
    pub(crate) fn plan_names(
        &self,
        from: &FacetName,
        to: &FacetName,
    ) -> Result<Vec<(FacetName, FacetName)>> {
        let mut names = Vec::new();
        for (name, _) in self.subtree(from) {
            let new = name.moved(from, to)?.expect("a subtree is within its root");
            if self.by_name.contains_key(&new) {
                return Err(Error::FacetExists { name: new.to_string() });
            }
            self.refusals.check(&new, Some(from))?;
            names.push((name.clone(), new));
        }
        if names.is_empty() {
            self.refusals.check(from, None)?;
            return Err(Error::FacetNotFound { name: from.to_string() });
        }
        Ok(names)
    }

    /// Carries out what [`plan_rename`](Self::plan_rename) gave; returns the facets concerned.
    pub(crate) fn rename(
        &mut self,
        moves: Vec<(FacetName, FacetName)>,
        core: &Arc<Core>,
    ) -> Vec<Arc<Facet>> {
        let mut renamed = Vec::with_capacity(moves.len());
        for (from, to) in moves {
            if let Some(facet) = self.get(&from, core) {
                self.by_name.remove(&from);
                facet.set_name(to.clone());
                self.by_name.insert(to, facet.id());
                renamed.push(facet);
            }
        }
        renamed
    }
}
