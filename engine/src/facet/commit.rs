//! Commits: what is staged becomes one record of the log, and the newest version of its facet, or of
//! several facets together.

use std::sync::Arc;

use super::capture::{growth_max, image_bytes_max};
use super::writer::{AsVersion, StagedImage, encode_pages};
use super::{Content, Facet, Snapshot, State, Writer};
use crate::core::Core;
use crate::error::Result;
use crate::format::catalog::VersionMeta;
use crate::format::record::{self, CommitHeader, Referred};
use crate::log::{Admission, CommitEffect, Effect};
use crate::map::PageRef;
use crate::segments::Purpose;
use crate::sync::MutexGuard;
use crate::types::{Lsn, PageSize, Ticket};

/// A transaction about to be appended.
pub(super) struct Draft {
    pub(super) facet: Arc<Facet>,
    pub(super) page_size: Option<PageSize>,
    pub(super) page_count: u32,
    pub(super) pages_kept: u32,
    /// Pages that are gone.
    pub(super) pages_cut: u32,
    /// In order of their numbers, as those in `referred`.
    pub(super) images: Vec<StagedImage>,
    pub(super) referred: Vec<Referred>,
}

impl Draft {
    /// Bytes that its record takes at most.
    fn bytes_max(&self) -> usize {
        let size = self.page_size.unwrap_or(PageSize::MIN);
        record::commit_bytes_max(self.referred.len(), self.images.len(), size)
    }

    /// What it adds to the checkpoint that is due, at most.
    fn growth_max(&self) -> u64 {
        let pages = self.referred.len() + self.images.len();
        let may_log_deltas = self.facet.core.tunables.delta_memory_bytes_max > 0;
        let images = if may_log_deltas { self.images.len() as u64 } else { 0 };
        let images = images * image_bytes_max(self.page_size);
        growth_max(&self.facet, pages, self.page_count, self.pages_cut) + images
    }

    /// Whether its pages may be logged as deltas.
    fn may_log_deltas(&self, state: &State) -> bool {
        self.page_size.is_some_and(|size| state.may_log_deltas(size))
    }

    /// The version it makes; what that takes of the facet's quotas is counted.
    fn reserve(&self, state: &State, wall_ms: u64) -> Result<VersionMeta> {
        let meta = VersionMeta {
            version: state.latest.meta.version.next(),
            incarnation: self.facet.core.incarnation,
            lsn: Lsn(0),
            wall_ms,
            page_count: self.page_count,
            page_size: self.page_size,
        };
        state.limits.change(state.latest.meta.logical_bytes(), meta.logical_bytes())?;
        Ok(meta)
    }

    /// Makes it the facet's latest version; notes what its pages were.
    fn apply(&mut self, latest: &mut Content, meta: VersionMeta) {
        latest.meta = meta;
        latest.map.truncate(self.pages_kept, &mut |_, _| ());
        for page in &self.referred {
            latest.map.set(page.page.0 - 1, PageRef::of_stored(page.reference));
        }
        for staged in &mut self.images {
            let new = PageRef::Pending(Arc::clone(&staged.image));
            if let PageRef::Pending(old) = latest.map.set(staged.page.0 - 1, new) {
                staged.base = Some(old);
            }
        }
    }

    /// Appends its record, while its log buffer is locked.
    fn encode(
        self,
        lsn: Lsn,
        meta: VersionMeta,
        may_log_deltas: bool,
        out: &mut Vec<u8>,
    ) -> CommitEffect {
        let Self { facet, page_size, pages_kept, images, referred, .. } = self;
        let monotonic_ns = facet.core.monotonic_ns();
        let header = CommitHeader { facet: facet.id, meta, monotonic_ns, pages_kept };
        let start = record::start_commit(lsn, &header, &referred, images.len(), out);
        let size = page_size.unwrap_or(PageSize::MIN);
        let core = &facet.core;
        let memory = may_log_deltas.then_some(&core.images);
        let as_version = AsVersion { epoch: core.log.epoch(), memory };
        let pages = encode_pages(facet.id, size, images, Some(as_version), out);
        record::finish(start, out);
        CommitEffect { facet, meta, pages_kept, referred, pages }
    }
}

impl State {
    /// The latest version was appended: it is pinned for the writer that goes on from it.
    fn appended(&mut self, ticket: Ticket) -> Content {
        self.latest_ticket = ticket;
        let content = self.latest.clone();
        self.pin(&content);
        content
    }
}

/// Appends `draft`; `old` is the version of the past that it is, which must still be kept. Returns the
/// new version, pinned.
pub(super) fn append(
    mut draft: Draft,
    log_buffer: usize,
    old: Option<&Snapshot>,
) -> Result<(Content, Ticket)> {
    let facet = Arc::clone(&draft.facet);
    let core = &facet.core;
    let admission =
        core.log.admit(&core.segments, draft.bytes_max(), draft.growth_max(), Purpose::Commit)?;
    let wall_ms = core.environment.clock.wall_ms();

    // The facet's lock is held while the record is appended, so that the order of its versions is the
    // order of their LSNs.
    let mut state = facet.alive()?;
    if let Some(old) = old {
        // A checkpoint that no longer counts what only that version has cannot come between this and
        // the append, since it flushes first; one that did is seen here.
        facet.check_kept(&state, &old.bookmark())?;
    }
    let meta = draft.reserve(&state, wall_ms)?;
    // From here on nothing fails. If something panics all the same, the latest version is one that
    // the log does not have.
    let _unwinding = core.log.poison_if_unwinding();
    draft.apply(&mut state.latest, meta);
    let may_log_deltas = draft.may_log_deltas(&state);
    let ticket = core.log.append(admission, log_buffer, |lsn, out| {
        Effect::Commit(draft.encode(lsn, meta, may_log_deltas, out))
    });
    Ok((state.appended(ticket), ticket))
}

/// Appends `drafts`, of different facets in order of their numbers, as one record. Returns the new
/// versions, pinned, in the same order.
///
/// Locks all the facets at once: the caller keeps away whoever might do so in another order.
fn append_group(
    core: &Core,
    admission: Admission<'_>,
    mut drafts: Vec<Draft>,
    log_buffer: usize,
) -> Result<(Vec<Content>, Ticket)> {
    let facets: Vec<Arc<Facet>> = drafts.iter().map(|draft| Arc::clone(&draft.facet)).collect();
    let wall_ms = core.environment.clock.wall_ms();
    let mut reserved: Vec<(MutexGuard<'_, State>, VersionMeta)> = Vec::with_capacity(drafts.len());
    for (facet, draft) in facets.iter().zip(&drafts) {
        let one = facet
            .alive()
            .and_then(|state| draft.reserve(&state, wall_ms).map(|meta| (state, meta)));
        match one {
            Ok(one) => reserved.push(one),
            Err(error) => {
                for (state, meta) in &reserved {
                    let bytes = state.latest.meta.logical_bytes();
                    state.limits.take_back(bytes, meta.logical_bytes());
                }
                return Err(error);
            }
        }
    }
    // As above.
    let _unwinding = core.log.poison_if_unwinding();
    for (draft, (state, meta)) in drafts.iter_mut().zip(&mut reserved) {
        draft.apply(&mut state.latest, *meta);
    }
    let ticket = core.log.append(admission, log_buffer, |lsn, out| {
        let start = record::start_group(lsn, drafts.len(), out);
        let commits = drafts.into_iter().zip(&reserved).map(|(draft, (state, meta))| {
            let may_log_deltas = draft.may_log_deltas(state);
            draft.encode(lsn, *meta, may_log_deltas, out)
        });
        let commits = commits.collect();
        record::finish(start, out);
        Effect::Group(commits)
    });
    Ok((reserved.iter_mut().map(|(state, _)| state.appended(ticket)).collect(), ticket))
}

/// Commits of several facets that are one transaction.
///
/// Two steps, since the log must be asked for room before, and facets locked after, the caller has
/// locked what it has to.
pub(crate) struct Group<'a, 'w> {
    writers: Vec<&'a mut &'w mut Writer>,
    drafts: Vec<Draft>,
}

impl<'a, 'w> Group<'a, 'w> {
    /// # Errors
    /// [`Error::InvalidInput`] if a writer's pages could not be staged, or errors of spilling.
    pub(crate) fn new(mut writers: Vec<&'a mut &'w mut Writer>) -> Result<Self> {
        writers.sort_unstable_by_key(|writer| writer.base().facet().id());
        // The record of the group must fit into a segment as that of one transaction does.
        let staged: usize = writers.iter().map(|writer| writer.image_bytes()).sum();
        if writers.first().is_some_and(|writer| staged > writer.core().tunables.spill_bytes) {
            writers.iter_mut().try_for_each(|writer| writer.spill())?;
        }
        let drafts = writers.iter().map(|writer| writer.draft()).collect::<Result<_>>()?;
        Ok(Self { writers, drafts })
    }

    /// Bytes that the record takes at most.
    pub(crate) fn bytes_max(&self) -> usize {
        record::GROUP_BYTES + self.drafts.iter().map(Draft::bytes_max).sum::<usize>()
    }

    /// What it adds to the checkpoint that is due, at most.
    pub(crate) fn growth_max(&self) -> u64 {
        self.drafts.iter().map(Draft::growth_max).sum()
    }

    /// See [`append_group`].
    pub(crate) fn append(
        self,
        core: &Core,
        admission: Admission<'_>,
        log_buffer: usize,
    ) -> Result<Ticket> {
        let (contents, ticket) = append_group(core, admission, self.drafts, log_buffer)?;
        for (writer, content) in self.writers.into_iter().zip(contents) {
            writer.go_on_from(content);
        }
        Ok(ticket)
    }
}
