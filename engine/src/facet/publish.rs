//! Publication: what a flush does to facets once their records are durable. Recovery replays
//! commits through the same steps.
//!
//! Steps run in order of LSN, while the flush has the lead. What leaves the durable version is free,
//! unless an older version is pinned: then it is kept until that pin ends.

use std::sync::Arc;

use super::{Content, Facet, State};
use crate::format::catalog::FacetEntry;
use crate::format::{StoredRef, record};
use crate::log::{CommitEffect, PageEffect};
use crate::map::{self, PageMap, PageRef};
use crate::segments::LiveChanges;
use crate::types::{PageNo, PageSize, Version};

/// A commit as it changes the durable version.
pub(crate) struct Committed<'a> {
    pub(crate) version: Version,
    pub(crate) wall_ms: u64,
    pub(crate) page_count: u32,
    pub(crate) pages_kept: u32,
    pub(crate) page_size: Option<PageSize>,
    pub(crate) pages: &'a mut dyn Iterator<Item = (PageNo, StoredRef)>,
}

/// What a checkpoint takes of a changed facet.
#[derive(Debug)]
pub(crate) struct Captured {
    pub(crate) facet: Arc<Facet>,
    pub(crate) entry: FacetEntry,
    /// The durable page map; `None` if it was not in memory, and so is as the last checkpoint has
    /// it (a facet that was only renamed).
    pub(crate) map: Option<PageMap>,
}

impl Facet {
    /// A commit is durable; its pages are where `pages` says.
    pub(crate) fn publish_commit<'a>(
        self: &Arc<Self>,
        commit: &CommitEffect,
        pages: impl Iterator<Item = (&'a PageEffect, StoredRef)> + Clone,
        changes: &mut LiveChanges,
    ) {
        let mut state = self.state();
        let page_count = commit.spilled.len() + commit.pages.len();
        for &(_, reference) in &commit.spilled {
            changes.unpin(reference);
        }
        let spilled = commit.spilled.iter().copied();
        let placed = pages.clone().map(|(page, reference)| (page.page, reference));
        state.apply(
            Committed {
                version: commit.version,
                wall_ms: commit.wall_ms,
                page_count: commit.page_count,
                pages_kept: commit.pages_kept,
                page_size: commit.page_size,
                pages: &mut spilled.chain(placed),
            },
            changes,
        );
        if state.latest.version == commit.version {
            state.latest.map = state.durable.map.clone();
        } else {
            // Newer commits are under way; only let go of this one's images.
            for (page, reference) in pages {
                let index = page.page.0 - 1;
                let same = matches!(state.latest.map.get(index),
                    PageRef::Pending(image) if Arc::ptr_eq(image, &page.image));
                if same {
                    state.latest.map.set(index, PageRef::Stored(reference));
                }
            }
        }
        self.note_change(&mut state, page_count);
    }

    /// Recovery: a commit found in the log.
    ///
    /// # Errors
    /// As [`Facet::snapshot`], if the page map cannot be read.
    pub(crate) fn replay_commit(
        self: &Arc<Self>,
        commit: Committed<'_>,
        changes: &mut LiveChanges,
    ) -> crate::Result<()> {
        let mut state = self.loaded()?;
        let page_count = commit.pages.size_hint().0;
        state.apply(commit, changes);
        state.latest = state.durable.clone();
        self.note_change(&mut state, page_count);
        Ok(())
    }

    /// The facet is new or renamed, durably.
    pub(crate) fn publish_touch(self: &Arc<Self>) {
        self.note_change(&mut self.state(), 0);
    }

    /// The delete of the facet is durable.
    pub(crate) fn publish_delete(self: &Arc<Self>, changes: &mut LiveChanges) {
        let mut state = self.state();
        let map = std::mem::take(&mut state.durable.map);
        let died = state.durable.version.next();
        map.for_each_stored(&mut |reference| state.drop_page(reference, died, changes));
        state.latest.map = PageMap::default();
        let name = state.name.clone();
        drop(state);
        self.core.with_changed(|changed| {
            changed.note_chunk(self.id, &name);
            changed.deleted.push(Arc::clone(self));
            self.core.segments.set_reserve(changed.part_bytes);
        });
    }

    /// Notes that the next checkpoint has to write the facet, and up to so many more of its pages'
    /// nodes.
    fn note_change(self: &Arc<Self>, state: &mut State, pages: usize) {
        let is_new = !std::mem::replace(&mut state.is_changed, true);
        let levels = u64::from(state.durable.map.levels()) + 1;
        let added = (pages as u64).saturating_mul(levels * record::NODE_BYTES_MAX);
        let most = record::map_bytes_max(state.durable.page_count);
        let noted = state.noted_bytes.saturating_add(added).min(most).max(state.noted_bytes);
        let more = noted - std::mem::replace(&mut state.noted_bytes, noted);
        if is_new || more > 0 {
            self.core.with_changed(|changed| {
                if is_new {
                    changed.note_chunk(self.id, &state.name);
                    changed.facets.push(Arc::clone(self));
                }
                changed.part_bytes += more;
                self.core.segments.set_reserve(changed.part_bytes);
            });
        }
    }

    /// Checkpoint, at its cut: the durable state of a facet that changed. `None` if it was deleted.
    pub(crate) fn capture(self: &Arc<Self>) -> Option<Captured> {
        let mut state = self.state();
        state.is_changed = false;
        state.noted_bytes = 0;
        if state.is_deleted {
            return None;
        }
        let (map, map_levels, map_root) = if state.is_loaded {
            (Some(state.durable.map.clone()), state.durable.map.levels(), None)
        } else {
            let last = state.checkpoint.as_ref().expect("what is not loaded is in a checkpoint");
            (None, last.map_levels, last.map_root)
        };
        let entry = FacetEntry {
            facet: self.id,
            name: state.name.clone(),
            version: state.durable.version,
            wall_ms: state.durable.wall_ms,
            page_count: state.durable.page_count,
            page_size: state.durable.page_size,
            map_levels,
            map_root,
        };
        Some(Captured { facet: Arc::clone(self), entry, map })
    }

    /// Checkpoint: what the last checkpoint said of a facet that has not changed since.
    ///
    /// # Panics
    /// If the last checkpoint did not know it: every new facet is a changed one.
    pub(crate) fn checkpoint_entry(&self) -> FacetEntry {
        self.state().checkpoint.clone().expect("an unchanged facet is in the last checkpoint")
    }

    /// Checkpoint: its nodes of `map` are written, whether or not the checkpoint succeeds. Hands
    /// nodes that were written before and are not part of `map` to `obsolete`.
    pub(crate) fn keep_written(&self, map: PageMap, obsolete: &mut impl FnMut(StoredRef)) {
        let mut state = self.state();
        map::obsolete_parts(&state.checkpoint_map, &map, obsolete);
        state.checkpoint_map = map;
    }

    /// Checkpoint: it succeeded.
    pub(crate) fn checkpointed(&self, entry: FacetEntry) {
        self.state().checkpoint = Some(entry);
    }

    /// Checkpoint: the facet was deleted, so all its parts are obsolete.
    pub(crate) fn forget_checkpoint(&self, obsolete: &mut impl FnMut(StoredRef)) {
        self.keep_written(PageMap::default(), obsolete);
    }

    /// A checkpoint failed: the facet has still to be written by the next one.
    pub(crate) fn restore_change(self: &Arc<Self>) {
        let mut state = self.state();
        let page_count = state.durable.page_count as usize;
        self.note_change(&mut state, page_count);
    }
}

impl State {
    /// Makes a commit the durable version.
    fn apply(&mut self, commit: Committed<'_>, changes: &mut LiveChanges) {
        let died = commit.version;
        let mut map = std::mem::take(&mut self.durable.map);
        map.truncate(commit.pages_kept, &mut |reference| self.drop_page(reference, died, changes));
        for (page, reference) in commit.pages {
            changes.add(reference);
            if let PageRef::Stored(old) = map.set(page.0 - 1, PageRef::Stored(reference)) {
                self.drop_page(old, died, changes);
            }
        }
        self.durable = Content {
            version: commit.version,
            wall_ms: commit.wall_ms,
            page_size: commit.page_size,
            page_count: commit.page_count,
            map,
        };
    }

    /// A page is not part of version `died` and later durable ones.
    fn drop_page(&mut self, reference: StoredRef, died: Version, changes: &mut LiveChanges) {
        changes.remove(reference);
        if self.pins.first().is_some_and(|&(oldest, _)| oldest < died) {
            changes.pin(reference);
            self.dead.push_back((died, reference));
        }
    }
}
