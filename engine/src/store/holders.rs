//! Answers whether the last checkpoint holds something: what the cleaner moves, and what it leaves.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::Shared;
use super::catalog::ChunkSlot;
use super::checkpoint::Checkpointer;
use super::references::References;
use crate::core::Core;
use crate::error::Result;
use crate::facet::{Facet, Nodes};
use crate::format::catalog::{FacetEntry, NODE_REFS, OtherPart};
use crate::format::record::{ItemKind, PartKind};
use crate::format::{Identity, StoredRef};
use crate::map::{self, NodeSource, PageMap};
use crate::name::FacetName;
use crate::types::{FacetId, PageNo};

/// What the last checkpoint has of a facet.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) map: PageMap,
    /// Pages that commits replaced, and that are kept.
    pub(crate) replaced: FxHashSet<Identity>,
    /// Where the history is.
    pub(crate) history: Vec<StoredRef>,
}

impl Known {
    fn has_page(&self, page: PageNo, identity: Identity) -> bool {
        let found = self.map.get(page.0 - 1).stored();
        found.is_some_and(|found| found.identity() == identity) || self.replaced.contains(&identity)
    }

    fn has_node(&self, level: u8, index: u32, identity: Identity) -> bool {
        let node = self.map.node_at(level, index);
        node.and_then(|node| node.stored()).is_some_and(|(node, _)| node.identity() == identity)
    }
}

/// Whether something is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Dead,
    Live,
    /// The checkpoint refers to it in a way that cannot be forwarded: it has to be written again.
    Rewrite(OtherPart),
    /// It is live, and stays where it is: the superblock leads to it.
    Root,
}

/// Reads what it needs of facets once.
pub(super) struct Holders<'a> {
    shared: &'a Shared,
    checkpointer: &'a Checkpointer,
    known: FxHashMap<FacetId, Option<Known>>,
    /// Facets that were deleted: the last checkpoint may hold them still.
    deleted: FxHashMap<FacetId, Arc<Facet>>,
    /// How long the store's list of them was then.
    deleted_seen: usize,
}

/// Facets remembered at a time.
const KNOWN_MAX: usize = 4096;

impl<'a> Holders<'a> {
    pub(super) fn new(shared: &'a Shared, checkpointer: &'a Checkpointer) -> Self {
        Self {
            shared,
            checkpointer,
            known: FxHashMap::default(),
            deleted: FxHashMap::default(),
            deleted_seen: 0,
        }
    }

    /// Whether the last checkpoint holds `reference`, which is what `kind` says.
    ///
    /// # Errors
    /// If a page map cannot be read: then nobody knows.
    pub(super) fn verdict(&mut self, kind: ItemKind, reference: StoredRef) -> Result<Verdict> {
        let identity = reference.identity();
        let references = &self.checkpointer.references;
        let is_live = match kind {
            ItemKind::Page { facet, page } => {
                references.page(identity).is_some()
                    || self.known(facet)?.is_some_and(|known| known.has_page(page, identity))
                    || self.is_below_shared(facet, page.0 - 1, 0, identity)?
            }
            ItemKind::Part(PartKind::Node { owner, level, index }) => {
                references.node(identity).is_some()
                    || self
                        .known(owner)?
                        .is_some_and(|known| known.has_node(level, index, identity))
                    || self.is_below_shared(owner, index, level + 1, identity)?
            }
            ItemKind::Part(PartKind::Chunk(chunk)) => {
                let chunk = self.checkpointer.chunks.get(&chunk);
                chunk.is_some_and(|chunk| chunk.identity() == identity)
            }
            ItemKind::Part(PartKind::History(facet) | PartKind::HistoryIndex(facet)) => {
                let known = self.known(facet)?;
                known.is_some_and(|known| {
                    known.history.iter().any(|part| part.identity() == identity)
                })
            }
            ItemKind::Part(PartKind::Root) => {
                let root = self.checkpointer.superblock.current.checkpoint;
                let is_it = root.is_some_and(|root| root.identity() == identity);
                return Ok(if is_it { Verdict::Root } else { Verdict::Dead });
            }
            ItemKind::Part(PartKind::Shared | PartKind::Forwards(_) | PartKind::Settings) => {
                let mut others = self.checkpointer.others.iter();
                let found = others.find(|(_, part)| part.identity() == identity);
                return Ok(found.map_or(Verdict::Dead, |&(part, _)| Verdict::Rewrite(part)));
            }
        };
        Ok(if is_live { Verdict::Live } else { Verdict::Dead })
    }

    fn known(&mut self, facet: FacetId) -> Result<Option<&Known>> {
        if !self.known.contains_key(&facet) {
            if self.known.len() >= KNOWN_MAX {
                self.known.clear();
            }
            let slot = self.shared.catalog().slot_of(facet);
            let slot = slot.or_else(|| self.deleted(facet).map(ChunkSlot::Open));
            let known = slot.map(|slot| known_of(&self.shared.core, slot)).transpose()?.flatten();
            self.known.insert(facet, known);
        }
        Ok(self.known.get(&facet).and_then(Option::as_ref))
    }

    /// A facet that was deleted. The list only grows while the checkpointer is locked.
    fn deleted(&mut self, facet: FacetId) -> Option<Arc<Facet>> {
        let all = self.shared.deleted();
        if all.len() != self.deleted_seen {
            let facets = all.iter().filter_map(std::sync::Weak::upgrade);
            self.deleted = facets.map(|facet| (facet.id(), facet)).collect();
            self.deleted_seen = all.len();
        }
        self.deleted.get(&facet).map(Arc::clone)
    }

    /// Whether a thing of `level` (pages: 0; leaves: 1…) and number `index` in the maps written for
    /// `owner` is held through a node that is shared.
    fn is_below_shared(
        &self,
        owner: FacetId,
        index: u32,
        level: u8,
        identity: Identity,
    ) -> Result<bool> {
        let references: &References = &self.checkpointer.references;
        for shared in references.nodes_of(owner).filter(|shared| shared.level >= level) {
            let distance = u32::from(shared.level - level) + 1;
            if above(index, distance) != u64::from(shared.index) {
                continue;
            }
            let name = anonymous(owner);
            let source = Nodes { core: &self.shared.core, facet: &name };
            let mut reference = Some(shared.reference);
            for step in (0..distance).rev() {
                let Some(node) = reference else { break };
                let (_, children) = source.node(node)?;
                let slot = usize::try_from(above(index, step)).unwrap_or(0) % NODE_REFS;
                reference = children.get(slot).copied().flatten();
            }
            if reference.is_some_and(|reference| reference.identity() == identity) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Number of the node that is `distance` levels above number `index`.
fn above(index: u32, distance: u32) -> u64 {
    u64::from(index) >> (NODE_REFS.trailing_zeros() * distance)
}

/// For messages about what was written for a facet that may be gone.
fn anonymous(facet: FacetId) -> FacetName {
    FacetName::new(format!("facet {facet}")).expect("a number makes a good name")
}

/// What the last checkpoint has of a facet; `None` if it does not know it.
pub(super) fn known_of(core: &Arc<Core>, slot: ChunkSlot) -> Result<Option<Known>> {
    match slot {
        ChunkSlot::Open(facet) => facet.known(),
        ChunkSlot::Cold(entry) => known_of_entry(core, &entry).map(Some),
    }
}

fn known_of_entry(core: &Arc<Core>, entry: &FacetEntry) -> Result<Known> {
    let source = Nodes { core, facet: &entry.name };
    let map = map::load(&source, entry.map_root, entry.map_levels)?;
    let (edits, history) = source.stored_history(entry)?;
    let pages = edits.iter().flat_map(|edit| &edit.pages).filter_map(|&(_, page)| page);
    Ok(Known {
        map,
        replaced: pages.map(StoredRef::identity).collect(),
        history: history.references().collect(),
    })
}

impl Facet {
    /// What the last checkpoint has of the facet; `None` if it does not know it.
    ///
    /// # Errors
    /// As [`snapshot`](Self::snapshot), if it cannot be read.
    fn known(&self) -> Result<Option<Known>> {
        self.checkpoint_content().map(|content| {
            content.map(|(map, edits, history)| {
                let pages = edits.iter().flat_map(|edit| edit.references());
                Known {
                    map,
                    replaced: pages.map(StoredRef::identity).collect(),
                    history: history.references().collect(),
                }
            })
        })
    }
}
