//! A facet's history: for each commit, what it replaced. An old version is the newest one with the
//! edits since taken back, so that keeping versions costs what changed, and nothing where nothing is
//! kept.
//!
//! Edits are counted as live by checkpoints, as page maps are (`store/references.rs`). So two numbers
//! are kept with them: edits below `saved_before` are part of the last checkpoint, and those below
//! `captured_before` of the one that is being taken, if any. An edit that leaves is remembered, if a
//! checkpoint counts it or may come to, until one has counted it out.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::config::Retention;
use crate::format::StoredRef;
use crate::format::catalog::{EDIT_FIXED_BYTES, EDIT_PAGE_BYTES, StoredEdit, VersionMeta};
use crate::format::page::record_bytes_max;
use crate::map::{PageMap, PageRef};
use crate::types::{PageNo, Version};

/// What a commit replaced.
#[derive(Debug)]
pub(crate) struct Edit {
    /// The version that was replaced.
    pub(crate) meta: VersionMeta,
    /// What it had where the next version has something else. In memory alone are pages that were
    /// logged as deltas when the facet began to keep history, until the next checkpoint.
    pub(crate) pages: Vec<(PageNo, PageRef)>,
}

impl Edit {
    /// Bytes that keeping it costs. They get less when a checkpoint writes the images of pages that are
    /// in memory alone.
    pub(crate) fn bytes(&self) -> u64 {
        let size = self.meta.page_size.map_or(0, record_bytes_max) as u64;
        let bytes = |page: &PageRef| match page {
            PageRef::Absent => 0,
            page => page.stored().map_or(size, |reference| u64::from(reference.len)),
        };
        self.pages.iter().map(|(_, page)| bytes(page)).sum::<u64>() + self.note_bytes()
    }

    /// Where its pages are, as a checkpoint has them.
    ///
    /// # Panics
    /// If one is in memory alone: checkpoints write images first.
    pub(crate) fn placed(&self) -> impl Iterator<Item = (PageNo, Option<StoredRef>)> {
        self.pages.iter().map(|(page, reference)| (*page, reference.placed()))
    }

    /// What it refers to, as a checkpoint has it.
    ///
    /// # Panics
    /// As [`placed`](Self::placed).
    pub(crate) fn references(&self) -> impl Iterator<Item = StoredRef> {
        self.placed().filter_map(|(_, reference)| reference)
    }

    /// Bytes that it takes in a checkpoint.
    pub(crate) fn note_bytes(&self) -> u64 {
        (EDIT_FIXED_BYTES + EDIT_PAGE_BYTES * self.pages.len()) as u64
    }
}

/// A part of a checkpoint that holds edits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HistoryPart {
    pub(crate) reference: StoredRef,
    /// Newest version that it has an edit of.
    pub(crate) newest: Version,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct History {
    /// One for each version kept but the newest, oldest first.
    edits: VecDeque<Arc<Edit>>,
    bytes: u64,
    saved_before: Version,
    captured_before: Version,
    /// Edits that left, and that a checkpoint counts.
    left: Vec<Arc<Edit>>,
    /// Where the last checkpoint has the edits, oldest first.
    stored: StoredHistory,
}

/// Where a checkpoint has a history.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoredHistory {
    pub(crate) index: Option<StoredRef>,
    /// Oldest first.
    pub(crate) parts: Vec<HistoryPart>,
}

impl StoredHistory {
    /// All of it.
    pub(crate) fn references(&self) -> impl Iterator<Item = StoredRef> {
        self.index.into_iter().chain(self.parts.iter().map(|part| part.reference))
    }
}

/// What a checkpoint takes of a history.
#[derive(Debug, Default)]
pub(crate) struct CapturedHistory {
    /// Edits that the last checkpoint does not have.
    pub(crate) added: Vec<Arc<Edit>>,
    /// Edits that it has, and that are kept no longer.
    pub(crate) left: Vec<Arc<Edit>>,
    /// All that are kept and that the last checkpoint has.
    pub(crate) kept: Vec<Arc<Edit>>,
    /// Oldest version of the history.
    pub(crate) from: Version,
    /// Where the last checkpoint has it.
    pub(crate) stored: StoredHistory,
}

impl CapturedHistory {
    /// Bytes of all that is kept.
    pub(crate) fn bytes(&self) -> u64 {
        self.kept.iter().chain(&self.added).map(|edit| edit.bytes()).sum()
    }
}

impl History {
    /// A history as a checkpoint has it.
    pub(super) fn restored(edits: Vec<StoredEdit>, stored: StoredHistory, newest: Version) -> Self {
        let mut this =
            Self { saved_before: newest, captured_before: newest, stored, ..Self::default() };
        let page =
            |(page, reference): (_, Option<StoredRef>)| (page, PageRef::of_stored(reference));
        for StoredEdit { meta, pages } in edits {
            let pages = pages.into_iter().map(page);
            if let Some(last) = this.edits.back_mut()
                && last.meta.version == meta.version
            {
                // An edit that was cut into several.
                let edit = Arc::get_mut(last).expect("nobody else knows it yet");
                edit.pages.extend(pages);
            } else {
                this.edits.push_back(Arc::new(Edit { meta, pages: pages.collect() }));
            }
        }
        this.bytes = this.edits.iter().map(|edit| edit.bytes()).sum();
        this
    }

    pub(super) fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Oldest version that is kept, if any but the newest is.
    pub(super) fn oldest(&self) -> Option<&VersionMeta> {
        self.edits.front().map(|edit| &edit.meta)
    }

    pub(super) fn versions(&self) -> impl DoubleEndedIterator<Item = &Arc<Edit>> {
        self.edits.iter()
    }

    pub(super) fn push(&mut self, edit: Edit) {
        self.bytes += edit.bytes();
        self.edits.push_back(Arc::new(edit));
    }

    /// Lets go of what is beyond `retention`; `newest` is the newest version. Says whether a
    /// checkpoint has to be told.
    pub(super) fn trim(&mut self, retention: Retention, newest: &VersionMeta, now_ms: u64) -> bool {
        let mut changed = false;
        let since_ms = now_ms.saturating_sub(retention.age_ms());
        while let Some(oldest) = self.edits.front() {
            let replaced_ms = self.edits.get(1).map_or(newest.wall_ms, |next| next.meta.wall_ms);
            let is_kept =
                retention.is_on() && self.bytes <= retention.bytes && replaced_ms >= since_ms;
            if is_kept {
                break;
            }
            self.bytes -= oldest.bytes();
            if oldest.meta.version < self.captured_before {
                self.left.push(Arc::clone(oldest));
                changed = true;
            }
            self.edits.pop_front();
        }
        changed
    }

    /// `newest` as it was when its version was that of the edit `from`.
    ///
    /// # Panics
    /// If there is no such edit.
    pub(super) fn map_at(&self, newest: &PageMap, version: Version) -> PageMap {
        let mut map = newest.clone();
        for edit in self.edits.iter().rev() {
            map.truncate(edit.meta.page_count, &mut |_, _| ());
            for (page, reference) in &edit.pages {
                map.set(page.0 - 1, reference.without_image());
            }
            if edit.meta.version == version {
                return map;
            }
        }
        panic!("a version that is asked for is kept");
    }

    /// Checkpoint, at its cut.
    pub(super) fn capture(&mut self, newest: Version) -> CapturedHistory {
        self.captured_before = newest;
        let is_saved = |edit: &&Arc<Edit>| edit.meta.version < self.saved_before;
        CapturedHistory {
            added: self.edits.iter().filter(|edit| !is_saved(edit)).cloned().collect(),
            kept: self.edits.iter().filter(is_saved).cloned().collect(),
            left: std::mem::take(&mut self.left),
            from: self.oldest().map_or(newest, |meta| meta.version),
            stored: self.stored.clone(),
        }
    }

    /// Checkpoint: it succeeded, and has the history there. Returns by how much what it keeps has become
    /// less, since pages that were in memory alone are stored.
    pub(super) fn saved(&mut self, stored: StoredHistory) -> u64 {
        self.saved_before = self.captured_before;
        self.stored = stored;
        let before = std::mem::take(&mut self.bytes);
        self.bytes = self.edits.iter().map(|edit| edit.bytes()).sum();
        before - self.bytes
    }

    /// Checkpoint: it failed, so what it took has still to be counted out.
    pub(super) fn not_saved(&mut self, mut left: Vec<Arc<Edit>>) {
        left.append(&mut self.left);
        left.retain(|edit| edit.meta.version < self.saved_before);
        self.left = left;
        self.captured_before = self.saved_before;
    }

    /// The facet is gone: all edits that a checkpoint counts, and where it has them.
    pub(super) fn end(&mut self) -> (Vec<Arc<Edit>>, StoredHistory) {
        let mut counted = std::mem::take(&mut self.left);
        let saved = self.edits.iter().filter(|edit| edit.meta.version < self.saved_before);
        counted.extend(saved.cloned());
        self.edits.clear();
        self.bytes = 0;
        (counted, std::mem::take(&mut self.stored))
    }

    /// Whether a checkpoint has anything of it, or should have.
    pub(super) fn is_idle(&self) -> bool {
        self.left.is_empty()
            && self.edits.back().is_none_or(|edit| edit.meta.version < self.saved_before)
    }

    /// Edits that the last checkpoint has, whether or not they are still kept.
    pub(super) fn counted(&self) -> impl Iterator<Item = &Arc<Edit>> {
        let saved = self.edits.iter().filter(|edit| edit.meta.version < self.saved_before);
        let left = self.left.iter().filter(|edit| edit.meta.version < self.saved_before);
        saved.chain(left)
    }

    pub(super) fn stored(&self) -> &StoredHistory {
        &self.stored
    }
}
