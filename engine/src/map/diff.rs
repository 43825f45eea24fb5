//! Where two page maps differ, in time that depends on how much that is: what they share is skipped.

use std::sync::Arc;

use super::{Children, Node, PageMap, PageRef, SHIFT, Settled, child_index};
use crate::types::PageNo;

/// The pages up to `page_count` in which `there` differs from `here`, with what `there` has.
pub(crate) fn differing_pages(
    here: &PageMap,
    there: &PageMap,
    page_count: u32,
) -> Vec<(PageNo, Settled)> {
    let mut differing = Vec::new();
    visit(there, here, page_count, &mut |index, page| {
        let is_same = match (page, here.get(index)) {
            (PageRef::Absent, PageRef::Absent) => true,
            (PageRef::Pending(page), PageRef::Pending(here)) if Arc::ptr_eq(page, here) => true,
            (page, here) => page
                .stored()
                .zip(here.stored())
                .is_some_and(|(page, here)| page.identity() == here.identity()),
        };
        if !is_same {
            differing.push((PageNo(index + 1), page.settled()));
        }
    });
    // What is there here alone.
    visit(here, there, page_count, &mut |index, page| {
        if !matches!(page, PageRef::Absent) && matches!(there.get(index), PageRef::Absent) {
            differing.push((PageNo(index + 1), Settled::Stored(None)));
        }
    });
    differing.sort_unstable_by_key(|&(page, _)| page);
    differing.dedup_by_key(|&mut (page, _)| page);
    differing
}

/// Hands the pages of `map` to `each` but those in nodes that `other` has too.
fn visit(map: &PageMap, other: &PageMap, page_count: u32, each: &mut impl FnMut(u32, &PageRef)) {
    if let Some(root) = map.root() {
        visit_node(root, map.levels(), 0, other, page_count, each);
    }
}

fn visit_node(
    node: &Arc<Node>,
    level: u8,
    index: u32,
    other: &PageMap,
    page_count: u32,
    each: &mut impl FnMut(u32, &PageRef),
) {
    let first_page = u64::from(index) << (SHIFT * (u32::from(level) + 1));
    if first_page >= u64::from(page_count) || is_same(Some(node), other.node_at(level, index)) {
        return;
    }
    match node.children() {
        Children::Pages(pages) => {
            for (page, reference) in (index << SHIFT..page_count).zip(pages) {
                each(page, reference);
            }
        }
        Children::Nodes(nodes) => {
            for (slot, child) in nodes.iter().enumerate() {
                if let Some(child) = child {
                    visit_node(child, level - 1, child_index(index, slot), other, page_count, each);
                }
            }
        }
    }
}

/// Whether two nodes are one, in memory or on disk.
fn is_same(a: Option<&Arc<Node>>, b: Option<&Arc<Node>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => {
            Arc::ptr_eq(a, b)
                || matches!((a.stored(), b.stored()),
                    (Some((a, _)), Some((b, _))) if a.identity() == b.identity())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::stored as reference;
    use super::*;

    proptest! {
        /// Against a comparison page by page.
        #[test]
        fn like_page_by_page(
            common in prop::collection::vec((0u32..3000, 1u32..1000), 0..60),
            changes in prop::collection::vec((any::<bool>(), 0u8..3, 0u32..3000, 1000u32..2000), 0..30),
            page_count in 0u32..3200,
        ) {
            let mut here = PageMap::default();
            for (index, value) in common {
                here.set(index, PageRef::Stored(reference(value)));
            }
            let mut there = here.clone();
            for (is_here, kind, index, value) in changes {
                let map = if is_here { &mut here } else { &mut there };
                match kind {
                    0 => map.truncate(index, &mut |_, _| ()),
                    1 => drop(map.set(index, PageRef::Absent)),
                    _ => drop(map.set(index, PageRef::Stored(reference(value)))),
                }
            }
            let expected: Vec<_> = (0..page_count)
                .filter(|&index| here.get(index).stored() != there.get(index).stored())
                .map(|index| (PageNo(index + 1), there.get(index).stored()))
                .collect();
            let found: Vec<_> = differing_pages(&here, &there, page_count)
                .into_iter()
                .map(|(page, settled)| match settled {
                    Settled::Stored(reference) => (page, reference),
                    Settled::Unstored(_) => panic!("all of them are stored"),
                })
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
