//! Page maps and checkpoints: which nodes have to be written, and loading them back.

use std::sync::{Arc, OnceLock};

use rustc_hash::FxHashSet;

use super::{Children, Node, PageMap, PageRef, child_index};
use crate::error::Result;
use crate::format::StoredRef;
use crate::format::catalog;
use crate::types::FacetId;

/// A node that has no place on disk yet.
#[derive(Debug)]
pub(crate) struct Unwritten {
    pub(crate) node: Arc<Node>,
    /// The facet it is written for: the first that has it.
    pub(crate) owner: FacetId,
    pub(crate) level: u8,
    /// Its number at that level.
    pub(crate) index: u32,
}

/// The nodes of `maps` that have no place on disk yet, by level, leaves first: a node can only be
/// written when its children have their places.
pub(crate) fn unwritten_levels<'a>(
    maps: impl Iterator<Item = (FacetId, &'a PageMap)>,
) -> Vec<Vec<Unwritten>> {
    let mut levels = Vec::new();
    // Forks have nodes in common.
    let mut seen = FxHashSet::default();
    for (owner, map) in maps {
        if let Some(root) = &map.root {
            collect_unwritten(root, owner, map.levels, 0, &mut seen, &mut levels);
        }
    }
    levels
}

fn collect_unwritten(
    node: &Arc<Node>,
    owner: FacetId,
    level: u8,
    index: u32,
    seen: &mut FxHashSet<*const Node>,
    levels: &mut Vec<Vec<Unwritten>>,
) {
    // What is below a written node is written: nodes change by being replaced, up to the root.
    if node.stored.get().is_some() || !seen.insert(Arc::as_ptr(node)) {
        return;
    }
    if let Children::Nodes(nodes) = &node.children {
        for (slot, child) in nodes.iter().enumerate() {
            if let Some(child) = child {
                let index = child_index(index, slot);
                collect_unwritten(child, owner, level - 1, index, seen, levels);
            }
        }
    }
    let at = usize::from(level);
    if levels.len() <= at {
        levels.resize_with(at + 1, Vec::new);
    }
    levels[at].push(Unwritten { node: Arc::clone(node), owner, level, index });
}

impl Node {
    /// The node as a checkpoint part.
    ///
    /// # Panics
    /// If a page is in memory alone or a child has no place: see [`unwritten_levels`].
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match &self.children {
            Children::Pages(pages) => catalog::encode_node(pages.iter().map(PageRef::placed), out),
            Children::Nodes(nodes) => catalog::encode_node(
                nodes.iter().map(|node| {
                    node.as_ref()
                        .map(|node| node.stored.get().expect("children are written first").0)
                }),
                out,
            ),
        }
    }
}

/// Reads the references in a node.
pub(crate) trait NodeSource {
    /// The facet that the node at `reference` was written for, and its references, checked.
    fn node(&self, reference: StoredRef) -> Result<(FacetId, Vec<Option<StoredRef>>)>;
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
    let (owner, refs) = source.node(reference)?;
    let children = if level == 0 {
        let page = |stored: Option<StoredRef>| stored.map_or(PageRef::Absent, PageRef::Stored);
        Children::Pages(refs.into_iter().map(page).collect())
    } else {
        let child = |stored: Option<StoredRef>| {
            stored.map(|stored| load_node(source, stored, level - 1)).transpose()
        };
        Children::Nodes(refs.into_iter().map(child).collect::<Result<_>>()?)
    };
    Ok(Arc::new(Node { stored: OnceLock::from((reference, owner)), ..Node::of(children) }))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::tests::stored;
    use super::*;

    #[derive(Default)]
    struct Disk {
        parts: RefCell<BTreeMap<u32, Vec<u8>>>,
    }

    impl Disk {
        fn write(&self, map: &PageMap) {
            for level in unwritten_levels([(FacetId(1), map)].into_iter()) {
                for Unwritten { node, owner, level, index } in level {
                    assert!(Arc::ptr_eq(map.node_at(level, index).unwrap(), &node));
                    let mut payload = Vec::new();
                    node.encode(&mut payload);
                    let mut parts = self.parts.borrow_mut();
                    let place = u32::try_from(parts.len()).unwrap() + 1_000_000;
                    parts.insert(place, payload);
                    node.set_stored(stored(place), owner);
                }
            }
        }
    }

    impl NodeSource for Disk {
        fn node(&self, reference: StoredRef) -> Result<(FacetId, Vec<Option<StoredRef>>)> {
            let refs = catalog::decode_node(&self.parts.borrow()[&reference.slot]).unwrap();
            Ok((FacetId(1), refs))
        }
    }

    proptest! {
        /// Every checkpoint loads back as it was.
        #[test]
        fn checkpoints(rounds in prop::collection::vec(
            prop::collection::vec((any::<bool>(), 0u32..3000, 1u32..1000), 0..20), 1..8,
        )) {
            let disk = Disk::default();
            let mut map = PageMap::default();
            for round in rounds {
                for (set, index, value) in round {
                    if set {
                        map.set(index, PageRef::Stored(stored(value)));
                    } else {
                        map.truncate(index, &mut |_, _| ());
                    }
                }
                disk.write(&map);
                let loaded = load(&disk, map.stored_root(), map.levels()).unwrap();
                let all = |map: &PageMap| {
                    let mut all = Vec::new();
                    map.for_each_stored(&mut |_, reference| all.push(reference));
                    all
                };
                prop_assert_eq!(all(&loaded), all(&map));
            }
        }
    }
}
