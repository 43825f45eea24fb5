//! The page map of a facet: page number -> page reference, as a persistent tree.
//!
//! Nodes hold up to 32 children and are shared between versions by reference count; a change copies
//! the nodes on its path that somebody else still holds. So a snapshot is a copy of one pointer.
//! A small facet's map is one leaf, as long as the facet has pages.

mod diff;
mod pending;
mod persist;
mod places;

use std::sync::{Arc, OnceLock};

pub(crate) use diff::differing_pages;
pub(crate) use pending::{ImageMemory, PendingPage};
pub(crate) use persist::{NodeSource, Unwritten, load, unwritten_levels};
pub(crate) use places::Place;

use places::Places;

use crate::format::catalog::NODE_REFS;
use crate::format::page::UnverifiedPage;
use crate::format::{Malformed, StoredRef};
use crate::types::{Epoch, FacetId};

const SHIFT: u32 = NODE_REFS.trailing_zeros();

/// Where a page of a version is.
#[derive(Clone, Debug, Default)]
pub(crate) enum PageRef {
    /// Never written: zeros.
    #[default]
    Absent,
    /// In a segment.
    Stored(StoredRef),
    /// Committed; its image is in memory, or was when this version was made.
    Pending(Arc<PendingPage>),
}

/// A page that is stored as an image, or one that is in memory alone.
#[derive(Clone, Debug)]
pub(crate) enum Settled {
    /// `None`: never written.
    Stored(Option<StoredRef>),
    Unstored(Arc<PendingPage>),
}

impl PageRef {
    /// Where the page is in a segment, if it is.
    pub(crate) fn stored(&self) -> Option<StoredRef> {
        match self {
            Self::Absent => None,
            Self::Stored(reference) => Some(*reference),
            Self::Pending(page) => page.stored(),
        }
    }

    /// A page by where it is; `None`: never written.
    pub(crate) fn of_stored(reference: Option<StoredRef>) -> Self {
        reference.map_or(Self::Absent, Self::Stored)
    }

    /// Whether the page is in memory alone.
    pub(crate) fn is_unstored(&self) -> bool {
        matches!(self, Self::Pending(page) if page.stored().is_none())
    }

    /// Where the page is in a segment, or the image that is in memory alone.
    pub(crate) fn settled(&self) -> Settled {
        match self {
            Self::Absent => Settled::Stored(None),
            Self::Stored(reference) => Settled::Stored(Some(*reference)),
            Self::Pending(page) => match page.stored() {
                Some(reference) => Settled::Stored(Some(reference)),
                None => Settled::Unstored(Arc::clone(page)),
            },
        }
    }

    /// What a delta makes of this page, as its record in the log has it. `read` reads the page if it is
    /// stored. The page that comes of it is in memory alone.
    ///
    /// # Errors
    /// Those of `read`; within, if it makes nothing of it.
    pub(crate) fn with_delta<E>(
        &self,
        memory: &Arc<ImageMemory>,
        epoch: Epoch,
        record: &[u8],
        read: impl FnOnce(StoredRef, &mut [u8]) -> Result<(), E>,
    ) -> Result<Result<Self, Malformed>, E> {
        let delta = match UnverifiedPage::parse(record) {
            Ok(delta) => delta,
            Err(malformed) => return Ok(Err(malformed)),
        };
        let mut image = vec![0; delta.size().bytes()];
        let base_crc = match self {
            Self::Absent => None,
            Self::Stored(base) => {
                read(*base, &mut image)?;
                Some(base.crc)
            }
            Self::Pending(base) => base.with_base(epoch, |base| {
                let base = base.filter(|base| base.image.len() == image.len())?;
                image.copy_from_slice(base.image);
                Some(base.crc)
            }),
        };
        let applied = base_crc
            .ok_or(Malformed("a delta has no image to be made against"))
            .and_then(|base_crc| delta.apply(base_crc, &mut image));
        Ok(applied.map(|()| {
            Self::Pending(Arc::new(PendingPage::replayed(memory, &image, epoch, delta.crc)))
        }))
    }

    /// The same page, holding no image that is stored.
    pub(crate) fn without_image(&self) -> Self {
        self.stored().map_or_else(|| self.clone(), Self::Stored)
    }

    /// Where the page is, in what a checkpoint refers to.
    ///
    /// # Panics
    /// If it is in memory alone: checkpoints write images before they refer to pages.
    pub(crate) fn placed(&self) -> Option<StoredRef> {
        match self {
            Self::Absent => None,
            page => {
                Some(page.stored().expect("a checkpoint writes images before it refers to them"))
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct Node {
    children: Children,
    /// Where a checkpoint put this node, and the facet it was written for. A changed node is a new
    /// node, which has none.
    stored: OnceLock<(StoredRef, FacetId)>,
    /// Where its pages were found, if it is a leaf.
    places: Places,
}

#[derive(Clone, Debug)]
pub(crate) enum Children {
    Pages(Vec<PageRef>),
    Nodes(Vec<Option<Arc<Node>>>),
}

impl Clone for Node {
    fn clone(&self) -> Self {
        // A node is cloned to be changed.
        Self::of(self.children.clone())
    }
}

impl Node {
    fn new(level: u8) -> Self {
        let children =
            if level == 0 { Children::Pages(Vec::new()) } else { Children::Nodes(Vec::new()) };
        Self::of(children)
    }

    fn of(children: Children) -> Self {
        Self { children, stored: OnceLock::new(), places: Places::default() }
    }

    /// Forgets what was true of it before it changes.
    fn renew(&mut self) {
        self.stored = OnceLock::new();
        self.places = Places::default();
    }

    /// Says where a checkpoint put this node, and for which facet.
    ///
    /// # Panics
    /// If it was put somewhere before: only one checkpoint runs at a time, and it writes only nodes
    /// that have no place.
    pub(crate) fn set_stored(&self, reference: StoredRef, owner: FacetId) {
        self.stored.set((reference, owner)).expect("a node is written once");
    }

    /// Where a checkpoint put this node, and the facet it was written for.
    pub(crate) fn stored(&self) -> Option<(StoredRef, FacetId)> {
        self.stored.get().copied()
    }

    pub(crate) fn children(&self) -> &Children {
        &self.children
    }
}

/// A version's page map. Cloning is O(1). Pages are counted from 0 here.
#[derive(Clone, Debug, Default)]
pub(crate) struct PageMap {
    root: Option<Arc<Node>>,
    /// Levels above the leaves.
    levels: u8,
}

impl PageMap {
    pub(crate) fn levels(&self) -> u8 {
        self.levels
    }

    /// Where the root node was put, if there is one and it was.
    pub(crate) fn stored_root(&self) -> Option<StoredRef> {
        self.root().and_then(|root| root.stored()).map(|(reference, _)| reference)
    }

    pub(crate) fn root(&self) -> Option<&Arc<Node>> {
        self.root.as_ref()
    }

    /// The node of that number at that level (0: leaves).
    pub(crate) fn node_at(&self, level: u8, index: u32) -> Option<&Arc<Node>> {
        let first_page = u64::from(index) << (SHIFT * (u32::from(level) + 1));
        if level > self.levels || first_page >= Self::capacity(self.levels) {
            return None;
        }
        let first_page = u32::try_from(first_page).ok()?;
        let mut node = self.root.as_ref()?;
        for above in (level + 1..=self.levels).rev() {
            match &node.children {
                Children::Nodes(nodes) => node = nodes.get(slot_at(first_page, above))?.as_ref()?,
                Children::Pages(_) => return None,
            }
        }
        Some(node)
    }

    fn capacity(levels: u8) -> u64 {
        1 << (SHIFT * (u32::from(levels) + 1))
    }

    /// The reference of page `index`.
    pub(crate) fn get(&self, index: u32) -> &PageRef {
        static ABSENT: PageRef = PageRef::Absent;
        self.find(index).map_or(&ABSENT, |(page, _)| page)
    }

    /// The reference of page `index`, if it has one, and where to note its place.
    pub(crate) fn find(&self, index: u32) -> Option<(&PageRef, Place<'_>)> {
        if u64::from(index) >= Self::capacity(self.levels) {
            return None;
        }
        let mut node = self.root.as_deref()?;
        for level in (0..=self.levels).rev() {
            let slot = slot_at(index, level);
            match &node.children {
                Children::Pages(pages) => {
                    return pages.get(slot).map(|page| (page, node.places.of(slot)));
                }
                Children::Nodes(nodes) => node = nodes.get(slot)?.as_deref()?,
            }
        }
        None
    }

    /// Puts a reference in for page `index`; returns the one it replaces.
    pub(crate) fn set(&mut self, index: u32, reference: PageRef) -> PageRef {
        while u64::from(index) >= Self::capacity(self.levels) {
            if let Some(root) = self.root.take() {
                let children = Children::Nodes(vec![Some(root)]);
                self.root = Some(Arc::new(Node::of(children)));
            }
            self.levels += 1;
        }
        let mut level = self.levels;
        let mut node = self.root.get_or_insert_with(|| Arc::new(Node::new(level)));
        loop {
            let slot = slot_at(index, level);
            let changed = Arc::make_mut(node);
            // Where it is the only holder, `make_mut` does not clone, and what is noted is stale.
            changed.renew();
            match &mut changed.children {
                Children::Pages(pages) => {
                    if pages.len() <= slot {
                        pages.resize(slot + 1, PageRef::Absent);
                    }
                    return std::mem::replace(&mut pages[slot], reference);
                }
                Children::Nodes(nodes) => {
                    if nodes.len() <= slot {
                        nodes.resize(slot + 1, None);
                    }
                    level -= 1;
                    node = nodes[slot].get_or_insert_with(|| Arc::new(Node::new(level)));
                }
            }
        }
    }

    /// Drops the pages from `len` on and hands them, with their indexes, to `dropped`, but for those that
    /// were never written.
    pub(crate) fn truncate(&mut self, len: u32, dropped: &mut impl FnMut(u32, &PageRef)) {
        let Some(root) = &mut self.root else { return };
        if len == 0 {
            for_each_page(root, 0, dropped);
            *self = Self::default();
        } else if u64::from(len) < Self::capacity(self.levels) {
            truncate_node(root, self.levels, 0, len, dropped);
        }
    }

    /// Hands every stored reference, with the page's index, to `each`.
    pub(crate) fn for_each_stored(&self, each: &mut impl FnMut(u32, StoredRef)) {
        self.for_each_page(&mut |index, page| {
            if let Some(reference) = page.stored() {
                each(index, reference);
            }
        });
    }

    /// How many pages are in memory alone, in time for what changed since the last checkpoint: of those
    /// below a node that has a place, none is.
    pub(crate) fn unstored_pages(&self) -> u64 {
        fn count(node: &Node) -> u64 {
            if node.stored.get().is_some() {
                return 0;
            }
            match &node.children {
                Children::Pages(pages) => {
                    pages.iter().filter(|page| page.is_unstored()).count() as u64
                }
                Children::Nodes(nodes) => nodes.iter().flatten().map(|node| count(node)).sum(),
            }
        }
        self.root.as_deref().map_or(0, count)
    }

    /// Hands every page that was written, with its index, to `each`.
    pub(crate) fn for_each_page(&self, each: &mut impl FnMut(u32, &PageRef)) {
        if let Some(root) = &self.root {
            for_each_page(root, 0, each);
        }
    }
}

fn slot_at(index: u32, level: u8) -> usize {
    (index >> (SHIFT * u32::from(level))) as usize % NODE_REFS
}

/// Number of the child in `slot` of node `index`, at the level below.
pub(crate) fn child_index(index: u32, slot: usize) -> u32 {
    (index << SHIFT) + u32::try_from(slot).expect("a node has at most 32 children")
}

fn for_each_page(node: &Node, index: u32, each: &mut impl FnMut(u32, &PageRef)) {
    match &node.children {
        Children::Pages(pages) => {
            for (slot, page) in pages.iter().enumerate() {
                if !matches!(page, PageRef::Absent) {
                    each(child_index(index, slot), page);
                }
            }
        }
        Children::Nodes(nodes) => {
            for (slot, node) in nodes.iter().enumerate() {
                if let Some(node) = node {
                    for_each_page(node, child_index(index, slot), each);
                }
            }
        }
    }
}

/// Keeps the first `len` pages below `node`, which is number `index` at its level, `len` being above
/// 0 and below its capacity.
fn truncate_node(
    node: &mut Arc<Node>,
    level: u8,
    index: u32,
    len: u32,
    dropped: &mut impl FnMut(u32, &PageRef),
) {
    let children_len = match &node.children {
        Children::Pages(pages) => pages.len(),
        Children::Nodes(nodes) => nodes.len(),
    };
    let below = 1u64 << (SHIFT * u32::from(level));
    let keep = usize::try_from(u64::from(len).div_ceil(below)).unwrap_or(usize::MAX);
    let partial = u32::try_from(u64::from(len) % below).unwrap_or(0);
    if keep > children_len || (keep == children_len && partial == 0) {
        return;
    }
    let changed = Arc::make_mut(node);
    changed.renew();
    match &mut changed.children {
        Children::Pages(pages) => {
            for (slot, page) in pages.drain(keep..).enumerate() {
                if !matches!(page, PageRef::Absent) {
                    dropped(child_index(index, keep + slot), &page);
                }
            }
        }
        Children::Nodes(nodes) => {
            for (slot, node) in nodes.drain(keep..).enumerate() {
                if let Some(node) = node {
                    for_each_page(&node, child_index(index, keep + slot), dropped);
                }
            }
            if partial > 0
                && let Some(Some(last)) = nodes.last_mut()
            {
                truncate_node(last, level - 1, child_index(index, keep - 1), partial, dropped);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::types::SegmentId;

    pub(super) fn stored(number: u32) -> StoredRef {
        StoredRef { segment: SegmentId(1), slot: number, len: 8, crc: number }
    }

    fn number(page: &PageRef) -> Option<u32> {
        match page {
            PageRef::Stored(reference) => Some(reference.slot),
            _ => None,
        }
    }

    proptest! {
        /// Against a plain map, with snapshots that must not change.
        #[test]
        fn model(operations in prop::collection::vec((0u8..10, 0u32..40_000, any::<u32>()), 1..200)) {
            let mut map = PageMap::default();
            let mut model: BTreeMap<u32, u32> = BTreeMap::new();
            let mut snapshots = Vec::new();
            for (kind, index, value) in operations {
                match kind {
                    0 => {
                        let mut dropped = Vec::new();
                        map.truncate(index, &mut |at, page| dropped.extend(number(page).map(|slot| (at, slot))));
                        dropped.sort_unstable();
                        let expected: Vec<(u32, u32)> =
                            model.split_off(&index).into_iter().collect();
                        prop_assert_eq!(dropped, expected);
                    }
                    1 => snapshots.push((map.clone(), model.clone())),
                    _ => {
                        // Small indexes often, so that they meet.
                        let index = if kind < 6 { index % 70 } else { index };
                        let old = map.set(index, PageRef::Stored(stored(value)));
                        prop_assert_eq!(number(&old), model.insert(index, value));
                    }
                }
            }
            snapshots.push((map, model));
            for (map, model) in snapshots {
                let mut all = Vec::new();
                map.for_each_stored(&mut |at, reference| all.push((at, reference.slot)));
                prop_assert_eq!(all, model.iter().map(|(&at, &slot)| (at, slot)).collect::<Vec<_>>());
                for index in (0..80).chain(model.keys().copied()).chain([u32::MAX]) {
                    prop_assert_eq!(number(map.get(index)), model.get(&index).copied());
                }
            }
        }
    }

    #[test]
    fn last_page_of_all() {
        let mut map = PageMap::default();
        map.set(u32::MAX, PageRef::Stored(stored(7)));
        map.set(0, PageRef::Stored(stored(8)));
        assert_eq!(number(map.get(u32::MAX)), Some(7));
        assert_eq!(map.levels(), crate::format::catalog::MAP_LEVELS_MAX);
        map.truncate(1, &mut |_, _| ());
        assert_eq!(number(map.get(u32::MAX)), None);
        assert_eq!(number(map.get(0)), Some(8));
    }
}
