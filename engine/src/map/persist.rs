//! Page maps and checkpoints: which nodes have to be written, which ones are no longer needed, and
//! loading them back.

use std::sync::{Arc, OnceLock};

use super::{Children, Node, PageMap, PageRef};
use crate::error::Result;
use crate::format::StoredRef;
use crate::format::catalog;

/// The nodes of `maps` that have no place on disk yet, by level, leaves first: a node can only be
/// written when its children have their places.
///
/// # Panics
/// If a map has pending pages: only durable maps are written.
pub(crate) fn unwritten_levels<'a>(maps: impl Iterator<Item = &'a PageMap>) -> Vec<Vec<Arc<Node>>> {
    let mut levels = Vec::new();
    for map in maps {
        if let Some(root) = &map.root {
            collect_unwritten(root, usize::from(map.levels), &mut levels);
        }
    }
    levels
}

fn collect_unwritten(node: &Arc<Node>, level: usize, levels: &mut Vec<Vec<Arc<Node>>>) {
    // What is below a written node is written: nodes change by being replaced, up to the root.
    if node.stored.get().is_some() {
        return;
    }
    if let Children::Nodes(nodes) = &node.children {
        for child in nodes.iter().flatten() {
            collect_unwritten(child, level - 1, levels);
        }
    }
    if levels.len() <= level {
        levels.resize_with(level + 1, Vec::new);
    }
    levels[level].push(Arc::clone(node));
}

impl Node {
    /// The node as a checkpoint part.
    ///
    /// # Panics
    /// If a page is pending or a child has no place: see [`unwritten_levels`].
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match &self.children {
            Children::Pages(pages) => catalog::encode_node(
                pages.iter().map(|page| match page {
                    PageRef::Absent => None,
                    PageRef::Stored(reference) => Some(*reference),
                    PageRef::Pending(_) => panic!("a durable map has no pending page"),
                }),
                out,
            ),
            Children::Nodes(nodes) => catalog::encode_node(
                nodes.iter().map(|node| {
                    node.as_ref()
                        .map(|node| *node.stored.get().expect("children are written first"))
                }),
                out,
            ),
        }
    }
}

/// Hands the written nodes that `old` has and `new` has not to `obsolete`.
pub(crate) fn obsolete_parts(old: &PageMap, new: &PageMap, obsolete: &mut impl FnMut(StoredRef)) {
    // A map that grew has the old one as the first child of its first child…
    let mut counterpart = new.root.as_ref();
    for _ in old.levels..new.levels {
        counterpart = match counterpart.map(|node| &node.children) {
            Some(Children::Nodes(nodes)) => nodes.first().and_then(Option::as_ref),
            _ => None,
        };
    }
    if new.levels < old.levels {
        counterpart = None;
    }
    if let Some(root) = &old.root {
        collect_obsolete(root, counterpart, obsolete);
    }
}

fn collect_obsolete(
    old: &Arc<Node>,
    new: Option<&Arc<Node>>,
    obsolete: &mut impl FnMut(StoredRef),
) {
    if new.is_some_and(|new| Arc::ptr_eq(old, new)) {
        return;
    }
    if let Some(reference) = old.stored.get() {
        obsolete(*reference);
    }
    if let Children::Nodes(children) = &old.children {
        for (slot, child) in children.iter().enumerate() {
            let counterpart = match new.map(|node| &node.children) {
                Some(Children::Nodes(nodes)) => nodes.get(slot).and_then(Option::as_ref),
                _ => None,
            };
            if let Some(child) = child {
                collect_obsolete(child, counterpart, obsolete);
            }
        }
    }
}

/// Reads the references in a node.
pub(crate) trait NodeSource {
    /// The references of the node at `reference`, checked.
    fn node(&self, reference: StoredRef) -> Result<Vec<Option<StoredRef>>>;
}

/// Reads a whole page map back.
pub(crate) fn load(
    source: &impl NodeSource,
    root: Option<StoredRef>,
    levels: u8,
) -> Result<PageMap> {
    let root = root.map(|root| load_node(source, root, levels)).transpose()?;
    Ok(PageMap { root, levels })
}

fn load_node(source: &impl NodeSource, reference: StoredRef, level: u8) -> Result<Arc<Node>> {
    let refs = source.node(reference)?;
    let children = if level == 0 {
        let page = |stored: Option<StoredRef>| stored.map_or(PageRef::Absent, PageRef::Stored);
        Children::Pages(refs.into_iter().map(page).collect())
    } else {
        let child = |stored: Option<StoredRef>| {
            stored.map(|stored| load_node(source, stored, level - 1)).transpose()
        };
        Children::Nodes(refs.into_iter().map(child).collect::<Result<_>>()?)
    };
    Ok(Arc::new(Node { children, stored: OnceLock::from(reference) }))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::super::tests::stored;
    use super::*;

    #[derive(Default)]
    struct Disk {
        parts: RefCell<BTreeMap<u32, Vec<u8>>>,
    }

    impl Disk {
        fn write(&self, map: &PageMap) {
            for level in unwritten_levels([map].into_iter()) {
                for node in level {
                    let mut payload = Vec::new();
                    node.encode(&mut payload);
                    let mut parts = self.parts.borrow_mut();
                    let place = u32::try_from(parts.len()).unwrap() + 1_000_000;
                    parts.insert(place, payload);
                    node.set_stored(stored(place));
                }
            }
        }
    }

    impl NodeSource for Disk {
        fn node(&self, reference: StoredRef) -> Result<Vec<Option<StoredRef>>> {
            Ok(catalog::decode_node(&self.parts.borrow()[&reference.slot]).unwrap())
        }
    }

    fn parts_of(map: &PageMap) -> BTreeSet<u32> {
        let mut parts = BTreeSet::new();
        obsolete_parts(map, &PageMap::default(), &mut |part| {
            assert!(parts.insert(part.slot));
        });
        parts
    }

    proptest! {
        /// Every checkpoint loads back as it was, and what becomes obsolete is exactly the
        /// difference of two checkpoints.
        #[test]
        fn checkpoints(rounds in prop::collection::vec(
            prop::collection::vec((any::<bool>(), 0u32..3000, 1u32..1000), 0..20), 1..8,
        )) {
            let disk = Disk::default();
            let mut map = PageMap::default();
            let mut checkpoint = PageMap::default();
            for round in rounds {
                for (set, index, value) in round {
                    if set {
                        map.set(index, PageRef::Stored(stored(value)));
                    } else {
                        map.truncate(index, &mut |_| ());
                    }
                }
                disk.write(&map);
                let mut obsolete = BTreeSet::new();
                obsolete_parts(&checkpoint, &map, &mut |part| {
                    assert!(obsolete.insert(part.slot));
                });
                let (before, after) = (parts_of(&checkpoint), parts_of(&map));
                prop_assert_eq!(obsolete, before.difference(&after).copied().collect());
                checkpoint = map.clone();

                let loaded = load(&disk, map.stored_root(), map.levels()).unwrap();
                let all = |map: &PageMap| {
                    let mut all = Vec::new();
                    map.for_each_stored(&mut |reference| all.push(reference));
                    all
                };
                prop_assert_eq!(all(&loaded), all(&map));
                prop_assert_eq!(parts_of(&loaded), after);
            }
        }
    }
}
