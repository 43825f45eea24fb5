//! What checkpoints take of facets, and what they tell them.

use std::sync::Arc;

use super::history::{CapturedHistory, Edit, StoredHistory};
use super::{DELTA_PAGE_BYTES_MAX, Facet, State};
use crate::format::StoredRef;
use crate::format::catalog::{self, FacetEntry};
use crate::format::page::record_bytes_max;
use crate::format::record;
use crate::map::PageMap;
use crate::sync::atomic::Ordering;
use crate::types::PageSize;

/// What a checkpoint takes of a changed facet.
#[derive(Debug)]
pub(crate) struct Captured {
    pub(crate) facet: Arc<Facet>,
    pub(crate) entry: FacetEntry,
    /// Page map and history; `None` if they were not in memory, and so are as the last checkpoint
    /// has them (a facet that was only renamed).
    pub(crate) content: Option<CapturedContent>,
}

#[derive(Debug)]
pub(crate) struct CapturedContent {
    pub(crate) map: PageMap,
    /// The map of the last checkpoint.
    pub(crate) before: PageMap,
    /// The last checkpoint does not know the facet.
    pub(crate) is_new: bool,
    pub(crate) history: CapturedHistory,
}

/// What the last checkpoint has of a facet that is gone.
#[derive(Debug)]
pub(crate) struct Checkpointed {
    pub(crate) map: PageMap,
    /// The root of the map, if that is not in memory, and its level.
    pub(crate) root: Option<(StoredRef, u8)>,
    pub(crate) edits: Vec<Arc<Edit>>,
    pub(crate) history: StoredHistory,
}

/// A page map, what commits replaced, and where that is noted, as the last checkpoint has them.
pub(crate) type CheckpointContent = (PageMap, Vec<Arc<Edit>>, StoredHistory);

/// Bytes of history parts of a facet for so many bytes of notes, and of what is shared by them, at most; the first
/// of a checkpoint are written together with a small part that is there.
fn history_parts_bytes(notes: u64, is_first: bool) -> u64 {
    const FIRST_BYTES: u64 = 4 << 10;
    if notes == 0 { 0 } else { 2 * notes + if is_first { FIRST_BYTES } else { 0 } }
}

/// Bytes that a checkpoint writes for the image of a page that is logged as a delta, at most.
pub(crate) fn image_bytes_max(size: Option<PageSize>) -> u64 {
    let size = size.filter(|size| size.bytes() <= DELTA_PAGE_BYTES_MAX);
    size.map_or(0, |size| record_bytes_max(size) + record::IMAGES_BYTES) as u64
}

/// Most bytes by which a commit makes the next checkpoint longer, images aside: of `pages` pages of a
/// facet that has `page_count` then, with `cut` pages gone.
pub(super) fn growth_max(facet: &Facet, pages: usize, page_count: u32, cut: u32) -> u64 {
    let nodes = pages as u64 * map_levels_max(page_count) * record::NODE_BYTES_MAX;
    let notes = catalog::EDIT_FIXED_BYTES + (pages + cut as usize) * catalog::EDIT_PAGE_BYTES;
    let is_first = !facet.is_counted.load(Ordering::Relaxed);
    let entry = if is_first { record::chunk_bytes(facet.name().as_str().len()) } else { 0 };
    nodes.min(record::map_bytes_max(page_count)) + history_parts_bytes(notes as u64, true) + entry
}

fn map_levels_max(page_count: u32) -> u64 {
    let mut levels = 1;
    let mut pages = catalog::NODE_REFS as u64;
    while pages < u64::from(page_count) {
        pages *= catalog::NODE_REFS as u64;
        levels += 1;
    }
    levels + 1
}

impl Facet {
    /// Notes that the next checkpoint has to write the facet, up to so many more of its pages'
    /// nodes, `unstored` images, and so many bytes of history.
    pub(super) fn note_change(
        self: &Arc<Self>,
        state: &mut State,
        pages: usize,
        unstored: u64,
        history_bytes: u64,
    ) {
        let is_new = !std::mem::replace(&mut state.is_changed, true);
        let levels = u64::from(state.durable.map.levels()) + 1;
        let nodes = (pages as u64).saturating_mul(levels * record::NODE_BYTES_MAX);
        let meta = state.durable.meta;
        // Pages that change again and again are written once.
        let note = |noted: &mut u64, added: u64, most: u64| {
            let now = noted.saturating_add(added).min(most).max(*noted);
            now - std::mem::replace(noted, now)
        };
        let nodes = note(&mut state.noted_bytes, nodes, record::map_bytes_max(meta.page_count));
        let images = note(
            &mut state.noted_image_bytes,
            unstored * image_bytes_max(meta.page_size),
            // One that the history has, and the newest.
            2 * u64::from(meta.page_count) * image_bytes_max(meta.page_size),
        );
        let more = nodes + history_parts_bytes(history_bytes, is_new);
        self.is_counted.store(true, Ordering::Relaxed);
        if is_new || more > 0 || images > 0 {
            self.core.with_changed(|changed| {
                if is_new {
                    changed.note_chunk(self.id, &state.name);
                    changed.facets.push(Arc::clone(self));
                }
                changed.part_bytes += more;
                changed.image_bytes += images;
                self.core.segments.set_reserve(changed.part_bytes, changed.image_bytes);
            });
        }
    }

    /// Checkpoint, at its cut: the durable state of a facet that changed. `None` if it was deleted.
    pub(crate) fn capture(self: &Arc<Self>) -> Option<Captured> {
        let mut state = self.state();
        state.is_changed = false;
        self.is_counted.store(false, Ordering::Relaxed);
        state.noted_bytes = 0;
        state.noted_image_bytes = 0;
        if state.is_deleted {
            return None;
        }
        let known = state.checkpoint.clone();
        let (content, map_levels, map_root) = if state.is_loaded {
            let newest = state.durable.meta.version;
            let content = CapturedContent {
                map: state.durable.map.clone(),
                before: state.checkpoint_map.clone(),
                is_new: known.is_none(),
                history: state.history.capture(newest),
            };
            (Some(content), state.durable.map.levels(), None)
        } else {
            let last = known.as_ref().expect("what is not loaded is in a checkpoint");
            (None, last.map_levels, last.map_root)
        };
        let entry = FacetEntry {
            facet: self.id,
            name: state.name.clone(),
            meta: state.durable.meta,
            family: self.family,
            map_levels,
            map_root,
            history_from: known.as_ref().map_or_else(Default::default, |entry| entry.history_from),
            history_bytes: if state.is_loaded {
                state.history.bytes()
            } else {
                known.as_ref().map_or(0, |entry| entry.history_bytes)
            },
            history: known.and_then(|entry| entry.history),
        };
        Some(Captured { facet: Arc::clone(self), entry, content })
    }

    /// Checkpoint: what the last checkpoint said of a facet that has not changed since.
    ///
    /// # Panics
    /// If the last checkpoint did not know it: every new facet is a changed one.
    pub(crate) fn checkpoint_entry(&self) -> FacetEntry {
        self.state().checkpoint.clone().expect("an unchanged facet is in the last checkpoint")
    }

    /// Checkpoint: it succeeded, with this entry; if it wrote content, with this map and these parts
    /// of the history.
    pub(crate) fn checkpointed(
        &self,
        entry: FacetEntry,
        content: Option<(PageMap, StoredHistory)>,
    ) {
        let mut state = self.state();
        state.checkpoint = Some(entry);
        if let Some((map, history)) = content {
            state.checkpoint_map = map;
            let less = state.history.saved(history);
            self.core.history.sub(less);
        }
    }

    /// A checkpoint failed: the facet has still to be written by the next one.
    pub(crate) fn restore_change(self: &Arc<Self>, history: Option<CapturedHistory>) {
        let mut state = self.state();
        let page_count = state.durable.meta.page_count as usize;
        let mut history_bytes = 0;
        if let Some(history) = history {
            history_bytes = history.added.iter().map(|edit| edit.note_bytes()).sum();
            state.history.not_saved(history.left);
        }
        let unstored = state.durable.map.unstored_pages();
        self.note_change(&mut state, page_count, unstored, history_bytes);
    }

    /// What the last checkpoint has of a facet that is gone; it is handed out once. If its history
    /// cannot be read, the space of what was replaced is lost until the cleaner finds it.
    pub(crate) fn take_checkpointed(&self) -> Checkpointed {
        let has_history = {
            let state = self.state();
            !state.is_loaded
                && state.checkpoint.as_ref().is_some_and(|entry| entry.history.is_some())
        };
        if has_history && let Err(error) = self.loaded().map(drop) {
            tracing::warn!(%error, "what a deleted facet kept of its past cannot be counted out");
        }
        let mut state = self.state();
        let bytes = state.history.bytes();
        let (edits, history) = state.history.end();
        self.core.history.sub(bytes);
        let entry = state.checkpoint.take();
        let root = entry.as_ref().filter(|_| !state.is_loaded);
        let root = root.and_then(|entry| Some((entry.map_root?, entry.map_levels)));
        state.is_loaded = true;
        Checkpointed { map: std::mem::take(&mut state.checkpoint_map), root, edits, history }
    }

    /// What the last checkpoint has of the facet: its page map, what commits replaced, and where that
    /// is noted. `None` if it does not know the facet.
    ///
    /// # Errors
    /// As [`snapshot`](Self::snapshot), if it cannot be read.
    pub(crate) fn checkpoint_content(&self) -> crate::Result<Option<CheckpointContent>> {
        let state = self.loaded()?;
        if state.checkpoint.is_none() {
            return Ok(None);
        }
        let edits = state.history.counted().cloned().collect();
        let history = state.history.stored().clone();
        Ok(Some((state.checkpoint_map.clone(), edits, history)))
    }
}
