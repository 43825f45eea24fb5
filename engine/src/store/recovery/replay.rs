//! Replaying records: the same steps that publication takes, from the log instead of memory.

use std::sync::Arc;

use super::{corrupt_at, is_cut_off};
use rustc_hash::FxHashSet;

use crate::core::Core;
use crate::error::{Error, Result};
use crate::facet::{Committed, Content, Facet};
use crate::format::catalog::VersionMeta;
use crate::format::record::{
    CatalogChange, CommitHeader, CommittedPage, ForkEntry, PlacedPage, Record,
};
use crate::format::{Identity, Malformed, StoredRef, slot_at};
use crate::map::PageRef;
use crate::store::catalog::Catalog;
use crate::types::{Lsn, SegmentId};

/// Replays batches into a catalog.
pub(super) struct Replay<'a> {
    core: &'a Arc<Core>,
    catalog: &'a mut Catalog,
    /// The cut of the checkpoint that replay goes on from.
    cut: Lsn,
    /// The images that that checkpoint wrote, and counts, behind its cut.
    pub(super) images: FxHashSet<Identity>,
}

/// What is wrong with a record, if it makes no sense.
type Sense = Result<(), &'static str>;

/// The log goes on from the page map and the history that the checkpoint has of a facet: without them none
/// of what follows can be replayed, so the whole store is concerned.
fn needed(facet: &Facet, error: Error) -> Error {
    let what = |detail: &str| {
        let name = facet.name();
        format!("the log goes on from what the checkpoint has of facet {name}: {detail}")
    };
    match error {
        Error::PageCorrupt { page, path, offset, detail, .. } => {
            let name = facet.name();
            let detail = format!("the log goes on from page {page} of facet {name}: {detail}");
            Error::Corrupt { path, offset, detail }
        }
        Error::MapCorrupt { path, offset, detail, .. } => {
            Error::Corrupt { path, offset, detail: what(&detail) }
        }
        Error::Io { path, offset, source, .. } if is_cut_off(&source) => {
            let detail = what("the file ends before it, or is missing");
            Error::Corrupt { path, offset: offset.unwrap_or(0), detail }
        }
        other => other,
    }
}

impl<'a> Replay<'a> {
    pub(super) fn new(core: &'a Arc<Core>, catalog: &'a mut Catalog, cut: Lsn) -> Self {
        Self { core, catalog, cut, images: FxHashSet::default() }
    }

    /// Reads what replaying `records` will need, which can fail, and changes nothing.
    pub(super) fn prepare(&mut self, records: &[Record]) -> Result<()> {
        let mut written = FxHashSet::default();
        for record in records {
            let facets: Vec<_> = match record {
                Record::Commit { header, .. } => vec![header.facet],
                Record::Fork(entries) => entries.iter().map(|entry| entry.source).collect(),
                Record::Catalog { .. } | Record::Images { .. } | Record::Other => Vec::new(),
            };
            for id in facets {
                let Some(facet) = self.catalog.by_id(id, self.core) else { continue };
                facet.replayed().map_err(|error| needed(&facet, error))?;
            }
            let Record::Commit { header, pages } = record else { continue };
            for page in pages {
                let number = page.number();
                let is_first = written.insert((header.facet, number));
                if let (true, CommittedPage::Delta { .. }) = (is_first, page)
                    && let Some(facet) = self.catalog.by_id(header.facet, self.core)
                {
                    facet.check_base(number).map_err(|error| needed(&facet, error))?;
                }
            }
        }
        Ok(())
    }

    /// Replays the records of a batch, whose bytes are at `place`.
    pub(super) fn batch(&mut self, records: Vec<Record>, place: (SegmentId, u64)) -> Result<()> {
        let (segment, at) = place;
        for record in records {
            let done = match record {
                Record::Commit { header, pages } => self.commit(&header, pages, place)?,
                Record::Catalog { lsn, wall_ms, change } => {
                    self.catalog_change(change, lsn, wall_ms)?
                }
                Record::Fork(entries) => self.fork(entries)?,
                Record::Images { cut, pages } => {
                    if cut == self.cut {
                        let slots = pages.iter().map(|page| slot_at(at + page.at as u64));
                        self.images.extend(slots.map(|slot| Identity { segment, slot }));
                    }
                    Ok(())
                }
                Record::Other => Ok(()),
            };
            done.map_err(|detail| {
                let detail = format!("a batch whose checksum is right makes no sense: {detail}");
                corrupt_at(&self.core.segments, segment, at, detail)
            })?;
        }
        Ok(())
    }

    fn commit(
        &mut self,
        header: &CommitHeader,
        pages: Vec<CommittedPage>,
        (segment, records_at): (SegmentId, u64),
    ) -> Result<Sense> {
        let Some(facet) = self.catalog.by_id(header.facet, self.core) else {
            return Ok(Err("a commit of a facet that does not exist"));
        };
        if facet.latest_version().next() != header.meta.version {
            return Ok(Err("a commit does not follow the version before it"));
        }
        let mut placed = Vec::with_capacity(pages.len());
        let mut referred = Vec::new();
        for page in pages {
            placed.push(match page {
                CommittedPage::Referred(page) => {
                    referred.push(page);
                    (page.page, PageRef::of_stored(page.reference))
                }
                CommittedPage::Inline(PlacedPage { page, at, len, crc }) => {
                    let slot = slot_at(records_at + at as u64);
                    (page, PageRef::Stored(StoredRef { segment, slot, len, crc }))
                }
                CommittedPage::Delta { page, record } => {
                    if page.0 > header.pages_kept {
                        return Ok(Err("a delta is of a page that was dropped"));
                    }
                    let replayed = facet.replay_delta(page, &record);
                    match replayed.map_err(|error| needed(&facet, error))? {
                        Ok(replayed) => (page, replayed),
                        Err(Malformed(what)) => return Ok(Err(what)),
                    }
                }
            });
        }
        let segments = &self.core.segments;
        if !segments.are_in_use(placed.iter().filter_map(|(_, page)| page.stored())) {
            return Ok(Err("a commit refers to a segment that is not in use"));
        }
        for reference in
            referred.iter().filter(|page| page.is_spilled).filter_map(|page| page.reference)
        {
            segments.pin(reference);
        }
        facet.note_spilled(&referred);
        let committed = Committed {
            meta: header.meta,
            pages_kept: header.pages_kept,
            pages: &mut placed.into_iter(),
        };
        facet.replay_commit(committed).map_err(|error| needed(&facet, error))?;
        Ok(Ok(()))
    }

    fn fork(&mut self, entries: Vec<ForkEntry>) -> Result<Sense> {
        for entry in entries {
            let Some(source) = self.catalog.by_id(entry.source, self.core) else {
                return Ok(Err("a fork of a facet that does not exist"));
            };
            if source.latest_version() != entry.source_version {
                return Ok(Err("a fork does not follow the version of its source"));
            }
            let Content { meta, mut map } =
                source.replayed().map_err(|error| needed(&source, error))?;
            // Pages of another size have nothing in common.
            let kept =
                if meta.page_size == entry.meta.page_size { entry.meta.page_count } else { 0 };
            map.truncate(kept, &mut |_, _| ());
            let references = entry.pages.iter().filter_map(|(_, reference)| *reference);
            if !self.core.segments.are_in_use(references) {
                return Ok(Err("a fork refers to a segment that is not in use"));
            }
            for (page, reference) in entry.pages {
                map.set(page.0 - 1, PageRef::of_stored(reference));
            }
            let content = Content { meta: entry.meta, map };
            let limits = self.catalog.settings.limits_of(&entry.name, &self.core.tunables);
            let facet = Facet::forked(
                Arc::clone(self.core),
                entry.facet,
                source.family(),
                entry.name.clone(),
                content.clone(),
                limits,
            );
            if !self.catalog.insert(entry.name, Arc::clone(&facet)) {
                return Ok(Err("a fork is created whose name or number is taken"));
            }
            let (incarnation, lsn) = (content.meta.incarnation, content.meta.lsn);
            facet.publish_fork(&source, Some(content), incarnation, lsn);
        }
        Ok(Ok(()))
    }

    fn catalog_change(&mut self, change: CatalogChange, lsn: Lsn, wall_ms: u64) -> Result<Sense> {
        if self.catalog.settings.replay(&change) {
            if let CatalogChange::Quota { name, .. } | CatalogChange::Retention { name, .. } =
                &change
            {
                self.catalog.apply_limits(name, self.core);
            }
            self.core.with_changed(|changed| changed.settings = true);
            return Ok(Ok(()));
        }
        match change {
            CatalogChange::Create { facet, name, incarnation } => {
                let limits = self.catalog.settings.limits_of(&name, &self.core.tunables);
                let meta = VersionMeta { incarnation, wall_ms, ..VersionMeta::default() };
                let facet = Facet::new(Arc::clone(self.core), facet, name.clone(), meta, limits);
                if !self.catalog.insert(name, Arc::clone(&facet)) {
                    return Ok(Err("a facet is created whose name or number is taken"));
                }
                facet.publish_create(lsn);
            }
            CatalogChange::Delete { name } => {
                let facets = self.catalog.remove_subtree(&name, self.core);
                if facets.is_empty() {
                    return Ok(Err("a facet is deleted that does not exist"));
                }
                self.note_settings(|settings| settings.remove_subtree(&name));
                for facet in facets {
                    facet.mark_deleted();
                    facet.publish_delete();
                }
            }
            CatalogChange::Rename { from, to } => match self.catalog.plan_rename(&from, &to) {
                Ok(moves) => {
                    let facets = self.catalog.rename(moves, self.core);
                    self.note_settings(|settings| settings.rename(&from, &to).0);
                    self.catalog.apply_limits(&to, self.core);
                    for facet in facets {
                        facet.publish_touch();
                    }
                }
                Err(Error::FacetNotFound { .. } | Error::FacetExists { .. }) => {
                    return Ok(Err("a facet is renamed that does not exist, or to a taken name"));
                }
                Err(error) => return Err(error),
            },
            CatalogChange::Quota { .. } | CatalogChange::Retention { .. } => {}
        }
        Ok(Ok(()))
    }

    fn note_settings(
        &mut self,
        change: impl FnOnce(&mut crate::store::settings::Settings) -> bool,
    ) {
        if change(&mut self.catalog.settings) {
            self.core.with_changed(|changed| changed.settings = true);
        }
    }
}
