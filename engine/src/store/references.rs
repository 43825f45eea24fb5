//! Who holds what, settled by each checkpoint.
//!
//! A page is *held* by a leaf of a page map, or by an edit of a history; a page-map node by its parent,
//! or by a facet whose map it is the root of. What nobody holds is not live. Nearly everything has one
//! holder, the facet it was written for, and then nothing is noted here. Forks have what they have in
//! common with others: what has several holders, or one that is not the facet it was written for, is
//! *shared*, and its holders are counted. Sharing a node shares what is below it, so a fork costs one
//! count, however large it is.
//!
//! A checkpoint settles, in this order:
//! 1. *New facets* take hold of their maps. 2. *Changed facets* go from the map of the last checkpoint to
//!    that of this one, and from edit to edit. 3. *Deleted facets* let go.
//!
//! If 2 came before 1, what a fork begins with could be counted out by the change that replaced it in
//! the source before the fork took hold of it. Within a facet, likewise, new edits take hold before maps
//! let go, and edits that leave let go last.
//!
//! What is *fresh*, was written since the last checkpoint, nobody has held yet: its first holder counts
//! it as live.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::core::Core;
use crate::facet::{Checkpointed, Edit, Nodes};
use crate::format::catalog::{
    SHARED_NODE_BYTES, SHARED_PAGE_BYTES, SharedNode, SharedPage, encode_shared,
};
use crate::format::{Identity, StoredRef};
use crate::map::{Children, Node, NodeSource, PageMap, PageRef};
use crate::name::FacetName;
use crate::segments::LiveChanges;
use crate::types::FacetId;

/// Bytes of a part of shared references: small enough for the smallest segment.
const PART_BYTES: usize = 16 << 10;

/// What is shared, and by how many. See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct References {
    nodes: FxHashMap<Identity, SharedNode>,
    /// Shared nodes by the facet they were written for.
    by_owner: FxHashMap<FacetId, Vec<Identity>>,
    pages: FxHashMap<Identity, SharedPage>,
    is_dirty: bool,
}

impl References {
    /// Recovery: what a checkpoint part says.
    pub(crate) fn restore(&mut self, (nodes, pages): (Vec<SharedNode>, Vec<SharedPage>)) {
        for node in nodes {
            self.by_owner.entry(node.owner).or_default().push(node.reference.identity());
            self.nodes.insert(node.reference.identity(), node);
        }
        self.pages.extend(pages.into_iter().map(|page| (page.reference.identity(), page)));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.pages.is_empty()
    }

    pub(crate) fn page(&self, identity: Identity) -> Option<&SharedPage> {
        self.pages.get(&identity)
    }

    pub(crate) fn node(&self, identity: Identity) -> Option<&SharedNode> {
        self.nodes.get(&identity)
    }

    /// Shared nodes that were written for a facet.
    pub(crate) fn nodes_of(&self, owner: FacetId) -> impl Iterator<Item = &SharedNode> {
        let identities = self.by_owner.get(&owner).map_or(&[][..], Vec::as_slice);
        identities.iter().filter_map(|identity| self.nodes.get(identity))
    }

    /// Everything that is shared, with the number of its holders.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Identity, u32)> {
        let nodes = self.nodes.iter().map(|(&identity, node)| (identity, node.holders));
        nodes.chain(self.pages.iter().map(|(&identity, page)| (identity, page.holders)))
    }

    /// Shared nodes and pages there are.
    pub(crate) fn len(&self) -> (usize, usize) {
        (self.nodes.len(), self.pages.len())
    }

    /// Whether the last checkpoint says otherwise.
    pub(crate) fn is_dirty(&self) -> bool {
        self.is_dirty
    }

    pub(crate) fn set_dirty(&mut self) {
        self.is_dirty = true;
    }

    pub(crate) fn saved(&mut self) {
        self.is_dirty = false;
    }

    /// Bytes of the checkpoint parts that say all this.
    pub(crate) fn stored_bytes(&self) -> usize {
        self.nodes.len() * SHARED_NODE_BYTES + self.pages.len() * SHARED_PAGE_BYTES
    }

    /// The payloads of those parts.
    pub(crate) fn encode(&self) -> Vec<Vec<u8>> {
        let mut nodes: Vec<SharedNode> = self.nodes.values().copied().collect();
        let mut pages: Vec<SharedPage> = self.pages.values().copied().collect();
        nodes.sort_unstable_by_key(|node| node.reference.identity());
        pages.sort_unstable_by_key(|page| page.reference.identity());
        let mut payloads = Vec::new();
        for nodes in nodes.chunks(PART_BYTES / SHARED_NODE_BYTES) {
            let mut payload = Vec::new();
            encode_shared(nodes, &[], &mut payload);
            payloads.push(payload);
        }
        for pages in pages.chunks(PART_BYTES / SHARED_PAGE_BYTES) {
            let mut payload = Vec::new();
            encode_shared(&[], pages, &mut payload);
            payloads.push(payload);
        }
        payloads
    }

    fn remove_node(&mut self, identity: Identity) {
        if let Some(node) = self.nodes.remove(&identity)
            && let Some(identities) = self.by_owner.get_mut(&node.owner)
        {
            identities.retain(|&other| other != identity);
            if identities.is_empty() {
                self.by_owner.remove(&node.owner);
            }
        }
    }
}

/// A node, in memory or on disk.
enum Held<'a> {
    Memory(&'a Arc<Node>),
    Disk(StoredRef),
}

/// One checkpoint's settlement.
pub(crate) struct Settlement<'a> {
    references: &'a mut References,
    core: &'a Core,
    /// Pages from here on are fresh, and so are those among the spilled, but not the images that the
    /// last checkpoint wrote, behind its cut.
    pages_from: Identity,
    spilled: FxHashSet<Identity>,
    images: &'a FxHashSet<Identity>,
    /// Nodes from here on are fresh.
    nodes_from: Identity,
    /// Fresh things that have been counted.
    counted: FxHashSet<Identity>,
    /// What became shared through the facet that is being settled: if that facet is the only holder in
    /// the end, it is not.
    temporary: FxHashSet<Identity>,
    /// What the facet's new edits are to hold.
    transfers: FxHashMap<Identity, StoredRef>,
    pub(crate) live: LiveChanges,
    /// What nobody holds any more.
    pub(crate) gone: Vec<Identity>,
}

impl<'a> Settlement<'a> {
    pub(crate) fn new(
        references: &'a mut References,
        core: &'a Core,
        pages_from: Identity,
        nodes_from: Identity,
        spilled: &[StoredRef],
        images: &'a FxHashSet<Identity>,
    ) -> Self {
        Self {
            references,
            images,
            core,
            pages_from,
            spilled: spilled.iter().map(|reference| reference.identity()).collect(),
            nodes_from,
            counted: FxHashSet::default(),
            temporary: FxHashSet::default(),
            transfers: FxHashMap::default(),
            live: LiveChanges::default(),
            gone: Vec::new(),
        }
    }

    /// Step 1: a facet that the last checkpoint does not know.
    pub(crate) fn begin(&mut self, map: &PageMap, added: &[Arc<Edit>]) {
        if let Some(root) = map.root() {
            self.hold_node(root, map.levels(), 0);
        }
        for reference in added.iter().flat_map(|edit| edit.references()) {
            self.hold_page(reference);
        }
    }

    /// Step 2: a facet that the last checkpoint has as `before`. It has new edits, and some have left.
    pub(crate) fn change(
        &mut self,
        before: &PageMap,
        now: &PageMap,
        added: &[Arc<Edit>],
        left: &[Arc<Edit>],
        facet: &FacetName,
    ) {
        self.temporary.clear();
        let references = |edits: &[Arc<Edit>]| -> Vec<StoredRef> {
            edits.iter().flat_map(|edit| edit.references()).collect()
        };
        for reference in references(added) {
            // One that is replaced twice, after a restore, is held twice.
            if self.transfers.insert(reference.identity(), reference).is_some() {
                self.hold_page(reference);
            }
        }
        if before.levels() == now.levels() {
            self.replace(before.root(), now.root(), now.levels(), 0, facet);
        } else {
            if let Some(root) = now.root() {
                self.hold_node(root, now.levels(), 0);
            }
            if let Some(root) = before.root() {
                self.let_node_go(&Held::Memory(root), before.levels(), facet);
            }
        }
        for (_, reference) in std::mem::take(&mut self.transfers) {
            self.hold_page(reference);
        }
        for reference in references(left) {
            self.let_page_go(reference);
        }
    }

    /// Step 3: a facet that is gone.
    pub(crate) fn end(&mut self, known: &Checkpointed, facet: &FacetName) {
        self.temporary.clear();
        if let Some(root) = known.map.root() {
            self.let_node_go(&Held::Memory(root), known.map.levels(), facet);
        }
        if let Some((root, level)) = known.root {
            self.let_node_go(&Held::Disk(root), level, facet);
        }
        for edit in &known.edits {
            for reference in edit.references() {
                self.let_page_go(reference);
            }
        }
        known.history.references().for_each(|part| self.part(part, -1));
    }

    /// Counts a checkpoint part in (1) or out (-1).
    pub(crate) fn part(&mut self, reference: StoredRef, sign: i64) {
        let place = self.core.segments.files.place(reference.identity());
        self.live.part(place.segment, reference.len, sign);
        if sign < 0 {
            self.gone.push(reference.identity());
        }
    }

    fn page(&mut self, reference: StoredRef, sign: i64) {
        let place = self.core.segments.files.place(reference.identity());
        self.live.page(place.segment, reference.len, sign);
        if sign < 0 {
            self.gone.push(reference.identity());
        }
    }

    /// The same place in the maps of two checkpoints.
    fn replace(
        &mut self,
        before: Option<&Arc<Node>>,
        now: Option<&Arc<Node>>,
        level: u8,
        index: u32,
        facet: &FacetName,
    ) {
        let (before, now) = match (before, now) {
            (None, None) => return,
            (Some(before), None) => return self.let_node_go(&Held::Memory(before), level, facet),
            (None, Some(now)) => return self.hold_node(now, level, index),
            (Some(before), Some(now)) => (before, now),
        };
        let (old, new) = (stored(before), stored(now));
        if old.identity() == new.identity() {
            return;
        }
        let is_first = self.is_first_holder_of_node(new.identity());
        if !is_first || self.references.nodes.contains_key(&old.identity()) {
            // Others go on holding the old node and what is below it, or hold the new one already.
            if is_first {
                self.counted.remove(&new.identity());
            }
            self.hold_node(now, level, index);
            self.let_node_go(&Held::Memory(before), level, facet);
            return;
        }
        // The new node takes over what the old one held.
        self.part(new, 1);
        self.part(old, -1);
        match (before.children(), now.children()) {
            (Children::Pages(before), Children::Pages(now)) => {
                for at in 0..before.len().max(now.len()) {
                    let (old, new) = (page_at(before, at), page_at(now, at));
                    if old.map(StoredRef::identity) == new.map(StoredRef::identity) {
                        continue;
                    }
                    if let Some(new) = new {
                        self.hold_page(new);
                    }
                    if let Some(old) = old {
                        self.let_page_go(old);
                    }
                }
            }
            (Children::Nodes(before), Children::Nodes(now)) => {
                let child = |nodes: &[Option<Arc<Node>>], at| nodes.get(at).cloned().flatten();
                for at in 0..before.len().max(now.len()) {
                    let (old, new) = (child(before, at), child(now, at));
                    let index = crate::map::child_index(index, at);
                    self.replace(old.as_ref(), new.as_ref(), level - 1, index, facet);
                }
            }
            _ => unreachable!("nodes of one level are of one kind"),
        }
    }

    /// Whether a fresh node is held for the first time; from now on it is not.
    fn is_first_holder_of_node(&mut self, identity: Identity) -> bool {
        identity >= self.nodes_from && self.counted.insert(identity)
    }

    fn hold_node(&mut self, node: &Arc<Node>, level: u8, index: u32) {
        let (reference, owner) = node.stored().expect("a captured map is written");
        let identity = reference.identity();
        if self.is_first_holder_of_node(identity) {
            self.part(reference, 1);
            match node.children() {
                Children::Pages(pages) => {
                    for at in 0..pages.len() {
                        if let Some(page) = page_at(pages, at) {
                            self.hold_page(page);
                        }
                    }
                }
                Children::Nodes(nodes) => {
                    for (at, child) in nodes.iter().enumerate() {
                        if let Some(child) = child {
                            self.hold_node(child, level - 1, crate::map::child_index(index, at));
                        }
                    }
                }
            }
            return;
        }
        self.references.is_dirty = true;
        if let Some(shared) = self.references.nodes.get_mut(&identity) {
            shared.holders += 1;
        } else {
            let shared = SharedNode { reference, owner, index, level, holders: 2 };
            self.references.nodes.insert(identity, shared);
            self.references.by_owner.entry(owner).or_default().push(identity);
            self.temporary.insert(identity);
        }
    }

    fn let_node_go(&mut self, held: &Held<'_>, level: u8, facet: &FacetName) {
        let reference = match held {
            Held::Memory(node) => stored(node),
            Held::Disk(reference) => *reference,
        };
        let identity = reference.identity();
        if let Some(shared) = self.references.nodes.get_mut(&identity) {
            self.references.is_dirty = true;
            shared.holders -= 1;
            let holders = shared.holders;
            if holders > 0 {
                if holders == 1 && self.temporary.contains(&identity) {
                    self.references.remove_node(identity);
                }
                return;
            }
            self.references.remove_node(identity);
        }
        self.part(reference, -1);
        match held {
            Held::Memory(node) => self.let_children_go(node, level, facet),
            Held::Disk(reference) => {
                let source = Nodes { core: self.core, facet };
                // Children are not loaded with it: each may be shared.
                match source.node(*reference) {
                    Ok((_, children)) => {
                        for child in children.into_iter().flatten() {
                            if level == 0 {
                                self.let_page_go(child);
                            } else {
                                self.let_node_go(&Held::Disk(child), level - 1, facet);
                            }
                        }
                    }
                    Err(error) => tracing::warn!(
                        %error,
                        "the space below a damaged page-map node is lost until the cleaner finds it"
                    ),
                }
            }
        }
    }

    fn let_children_go(&mut self, node: &Arc<Node>, level: u8, facet: &FacetName) {
        match node.children() {
            Children::Pages(pages) => {
                for at in 0..pages.len() {
                    if let Some(page) = page_at(pages, at) {
                        self.let_page_go(page);
                    }
                }
            }
            Children::Nodes(nodes) => {
                for child in nodes.iter().flatten() {
                    self.let_node_go(&Held::Memory(child), level - 1, facet);
                }
            }
        }
    }

    fn hold_page(&mut self, reference: StoredRef) {
        let identity = reference.identity();
        let is_fresh = (identity >= self.pages_from && !self.images.contains(&identity))
            || self.spilled.contains(&identity);
        if is_fresh && self.counted.insert(identity) {
            self.page(reference, 1);
            return;
        }
        self.references.is_dirty = true;
        if let Some(shared) = self.references.pages.get_mut(&identity) {
            shared.holders += 1;
        } else {
            self.references.pages.insert(identity, SharedPage { reference, holders: 2 });
            self.temporary.insert(identity);
        }
    }

    fn let_page_go(&mut self, reference: StoredRef) {
        let identity = reference.identity();
        // An edit of this very commit takes it over.
        if self.transfers.remove(&identity).is_some() {
            return;
        }
        if let Some(shared) = self.references.pages.get_mut(&identity) {
            self.references.is_dirty = true;
            shared.holders -= 1;
            let holders = shared.holders;
            if holders > 0 {
                if holders == 1 && self.temporary.contains(&identity) {
                    self.references.pages.remove(&identity);
                }
                return;
            }
            self.references.pages.remove(&identity);
        }
        self.page(reference, -1);
    }
}

fn stored(node: &Node) -> StoredRef {
    node.stored().expect("a captured map is written").0
}

/// # Panics
/// If the page is in memory alone: checkpoints write images first.
fn page_at(pages: &[PageRef], at: usize) -> Option<StoredRef> {
    pages.get(at).and_then(PageRef::placed)
}
