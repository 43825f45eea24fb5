//! Publication: what a flush does to facets once their records are durable. Recovery replays
//! commits through the same steps.
//!
//! Steps run in order of LSN, while the flush has the lead. What leaves the durable version becomes
//! history, or nothing: what is live in segments is settled by the next checkpoint.

use std::sync::Arc;

use super::history::Edit;
use super::snapshot::read_stored;
use super::{Content, Facet, State};
use crate::format::catalog::VersionMeta;
use crate::format::record::Referred;
use crate::format::{Malformed, StoredRef};
use crate::log::{CommitEffect, PageEffect};
use crate::map::{PageMap, PageRef};
use crate::types::{Incarnation, Lsn, PageNo};

/// A commit as it changes the durable version.
pub(crate) struct Committed<'a> {
    pub(crate) meta: VersionMeta,
    pub(crate) pages_kept: u32,
    pub(crate) pages: &'a mut dyn Iterator<Item = (PageNo, PageRef)>,
}

impl Facet {
    /// A commit is durable; its pages are where `pages` says.
    pub(crate) fn publish_commit<'a>(
        self: &Arc<Self>,
        commit: &CommitEffect,
        lsn: Lsn,
        pages: impl Iterator<Item = (&'a PageEffect, StoredRef)>,
    ) {
        let mut state = self.state();
        let page_count = commit.referred.len() + commit.pages.len();
        self.note_spilled(&commit.referred);
        let referred = commit.referred.iter();
        let referred = referred.map(|page| (page.page, PageRef::of_stored(page.reference)));
        // Whoever holds an older or a newer version reads what is settled from the log from now on.
        let placed = pages.map(|(page, reference)| {
            let stays = page.is_delta || page.image.settle(reference);
            let pending = || PageRef::Pending(Arc::clone(&page.image));
            (page.page, if stays { pending() } else { PageRef::Stored(reference) })
        });
        let meta = VersionMeta { lsn, ..commit.meta };
        let committed =
            Committed { meta, pages_kept: commit.pages_kept, pages: &mut referred.chain(placed) };
        let (history_bytes, unstored) = self.apply(&mut state, committed);
        if state.latest.meta.version == meta.version {
            state.latest = state.durable.clone();
        }
        self.trim(&mut state);
        self.note_change(&mut state, page_count, unstored, history_bytes);
    }

    /// Pages that were spilled stay pinned until a checkpoint has counted them.
    pub(crate) fn note_spilled(&self, referred: &[Referred]) {
        let spilled = referred.iter().filter(|page| page.is_spilled);
        let spilled: Vec<StoredRef> = spilled.filter_map(|page| page.reference).collect();
        if !spilled.is_empty() {
            self.core.with_changed(|changed| changed.spilled.extend(spilled));
        }
    }

    /// Recovery: a commit found in the log.
    ///
    /// # Errors
    /// As [`Facet::snapshot`], if the page map cannot be read.
    pub(crate) fn replay_commit(self: &Arc<Self>, commit: Committed<'_>) -> crate::Result<()> {
        let mut state = self.loaded()?;
        let page_count = commit.pages.size_hint().0;
        let (history_bytes, unstored) = self.apply(&mut state, commit);
        state.latest = state.durable.clone();
        // Else a commit that came while nothing was to be kept would leave a gap behind what still is.
        self.trim(&mut state);
        self.note_change(&mut state, page_count, unstored, history_bytes);
        Ok(())
    }

    /// Recovery: what a delta makes of a page of the version before.
    ///
    /// # Errors
    /// As [`Facet::snapshot`], if that cannot be read; within, if it makes nothing of it.
    pub(crate) fn replay_delta(
        &self,
        page: PageNo,
        record: &[u8],
    ) -> crate::Result<Result<PageRef, Malformed>> {
        let state = self.loaded()?;
        let core = &self.core;
        let base = state.durable.map.get(page.0 - 1);
        base.with_delta(&core.images, core.log.epoch(), record, |base, image| {
            read_stored(core, base, page, image, || state.name.to_string())
        })
    }

    /// Recovery: whether a delta of the page can be replayed, as far as reading goes.
    ///
    /// # Errors
    /// As [`Facet::snapshot`], if what it would be made against cannot be read.
    pub(crate) fn check_base(&self, page: PageNo) -> crate::Result<()> {
        let state = self.loaded()?;
        if let (PageRef::Stored(base), Some(size)) =
            (state.durable.map.get(page.0 - 1), state.durable.meta.page_size)
        {
            let name = || state.name.to_string();
            read_stored(&self.core, *base, page, &mut vec![0; size.bytes()], name)?;
        }
        Ok(())
    }

    /// Recovery: the content as replayed so far.
    ///
    /// # Errors
    /// As [`Facet::snapshot`], if it cannot be read.
    pub(crate) fn replayed(&self) -> crate::Result<Content> {
        Ok(self.loaded()?.durable.clone())
    }

    /// The facet, which `source` was forked to, is durable. It begins with `content`, or else with
    /// what is durable of the source by now: everything up to the fork, and nothing after it.
    pub(crate) fn publish_fork(
        self: &Arc<Self>,
        source: &Arc<Self>,
        content: Option<Content>,
        incarnation: Incarnation,
        lsn: Lsn,
    ) {
        let mut content = content.unwrap_or_else(|| source.state().durable.clone());
        content.meta.lsn = lsn;
        content.meta.incarnation = incarnation;
        let mut state = self.state();
        if state.latest.meta.version == content.meta.version {
            state.latest = content.clone();
        }
        let page_count = content.meta.page_count as usize;
        state.durable = content;
        // Most of its nodes are on disk, but how many is not known without looking.
        let pages = if state.durable.map.stored_root().is_some() { 0 } else { page_count };
        // Images that both have are written once, but either may change first.
        let unstored = state.durable.map.unstored_pages();
        self.note_change(&mut state, pages, unstored, 0);
    }

    /// The facet, which is new, is durable.
    pub(crate) fn publish_create(self: &Arc<Self>, lsn: Lsn) {
        let mut state = self.state();
        state.durable.meta.lsn = lsn;
        if state.latest.meta.version == state.durable.meta.version {
            state.latest.meta.lsn = lsn;
        }
        self.note_change(&mut state, 0, 0, 0);
    }

    /// The facet has a new name, durably.
    pub(crate) fn publish_touch(self: &Arc<Self>) {
        self.note_change(&mut self.state(), 0, 0, 0);
    }

    /// The delete of the facet is durable.
    pub(crate) fn publish_delete(self: &Arc<Self>) {
        let mut state = self.state();
        state.durable.map = PageMap::default();
        state.latest.map = PageMap::default();
        let name = state.name.clone();
        drop(state);
        self.core.with_changed(|changed| {
            changed.note_chunk(self.id, &name);
            changed.deleted.push(Arc::clone(self));
            self.core.segments.set_reserve(changed.part_bytes, changed.image_bytes);
        });
    }

    /// Lets go of history beyond what is to be kept; says whether a checkpoint has to be told.
    pub(super) fn trim(&self, state: &mut State) -> bool {
        if state.history.is_empty() {
            return false;
        }
        let mut retention = state.limits.retention;
        let before = state.history.bytes();
        retention.bytes = self.core.history.share(retention.bytes, before);
        let newest = state.durable.meta;
        let now_ms = self.core.environment.clock.wall_ms();
        let changed = state.history.trim(retention, &newest, now_ms);
        self.core.history.sub(before - state.history.bytes());
        changed
    }

    /// Maintenance, with the log's lead: history may have become too old, or too much.
    ///
    /// # Errors
    /// As [`Facet::snapshot`], if it cannot be read.
    pub(crate) fn trim_history(self: &Arc<Self>) -> crate::Result<()> {
        let mut state = self.loaded()?;
        if self.trim(&mut state) && !state.is_deleted {
            self.note_change(&mut state, 0, 0, 0);
        }
        Ok(())
    }

    /// Makes a commit the durable version; returns the bytes that a checkpoint has to write of its
    /// history, and how many pages are in memory alone since.
    fn apply(&self, state: &mut State, commit: Committed<'_>) -> (u64, u64) {
        let before = state.history.bytes();
        let bytes = state.apply(commit);
        self.core.history.add(state.history.bytes() - before);
        bytes
    }
}

impl State {
    /// Returns what the facet's `apply` does.
    fn apply(&mut self, commit: Committed<'_>) -> (u64, u64) {
        let before = self.durable.meta;
        let mut map = std::mem::take(&mut self.durable.map);
        let mut replaced: Vec<(PageNo, PageRef)> = Vec::new();
        let mut unstored = 0;
        let keeps = self.limits.retention.is_on();
        map.truncate(commit.pages_kept, &mut |index, page| {
            if keeps {
                replaced.push((PageNo(index + 1), page.without_image()));
            }
        });
        let cut_off = replaced.len();
        replaced.sort_unstable_by_key(|&(page, _)| page);
        for (page, new) in commit.pages {
            let is_unstored = new.is_unstored();
            let old = map.set(page.0 - 1, new);
            unstored += u64::from(is_unstored && (keeps || !old.is_unstored()));
            let is_noted =
                || replaced[..cut_off].binary_search_by_key(&page, |(page, _)| *page).is_ok();
            if keeps && page.0 <= before.page_count && (page.0 <= commit.pages_kept || !is_noted())
            {
                replaced.push((page, old.without_image()));
            }
        }
        self.durable = Content { meta: commit.meta, map };
        if !keeps {
            return (0, unstored);
        }
        let edit = Edit { meta: before, pages: replaced };
        let note_bytes = edit.note_bytes();
        self.history.push(edit);
        (note_bytes, unstored)
    }
}
