//! Replaying records: the same steps that publication takes, from the log instead of memory.

use std::sync::Arc;

use super::corrupt;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::facet::{Committed, Facet};
use crate::format::record::{self, CatalogChange, CommitHeader, CommittedPage, Record};
use crate::format::{SLOT_BYTES, StoredRef, stored_len};
use crate::segments::LiveChanges;
use crate::store::catalog::Catalog;
use crate::types::{Lsn, PageNo, SegmentId};

/// Replays batches into a catalog.
pub(super) struct Replay<'a> {
    core: &'a Arc<Core>,
    catalog: &'a mut Catalog,
}

impl<'a> Replay<'a> {
    pub(super) fn new(core: &'a Arc<Core>, catalog: &'a mut Catalog) -> Self {
        Self { core, catalog }
    }

    /// Replays the records of a batch, whose bytes are at `place`.
    pub(super) fn batch(
        &mut self,
        first_lsn: Lsn,
        count: u32,
        records: &[u8],
        place: (SegmentId, u64),
    ) -> Result<()> {
        let (segment, at) = place;
        let damaged = |detail: &str| {
            let detail = format!("a batch whose checksum is right makes no sense: {detail}");
            corrupt(&*self.core.environment.io, segment, at, detail)
        };
        let decoded = record::decode_all(records, first_lsn, count)
            .map_err(|malformed| damaged(malformed.0))?;
        let mut changes = LiveChanges::default();
        for record in decoded {
            let done = match record {
                Record::Commit { header, pages } => {
                    self.commit(&header, &pages, place, &mut changes)?
                }
                Record::Catalog(change) => self.catalog_change(change, &mut changes)?,
                Record::Other => Ok(()),
            };
            done.map_err(damaged)?;
        }
        self.core.segments.apply(&changes);
        Ok(())
    }

    fn commit(
        &mut self,
        header: &CommitHeader,
        pages: &[(PageNo, CommittedPage)],
        (segment, records_at): (SegmentId, u64),
        changes: &mut LiveChanges,
    ) -> Result<Result<(), &'static str>> {
        let Some(facet) = self.catalog.by_id(header.facet) else {
            return Ok(Err("a commit of a facet that does not exist"));
        };
        if facet.latest_version().next() != header.version {
            return Ok(Err("a commit does not follow the version before it"));
        }
        let mut placed = Vec::with_capacity(pages.len());
        for &(page, committed) in pages {
            let reference = match committed {
                CommittedPage::Spilled(reference) => reference,
                CommittedPage::Inline { at, len, crc } => {
                    let slot = (records_at + at as u64) / SLOT_BYTES as u64;
                    let slot = stored_len(usize::try_from(slot).unwrap_or(usize::MAX));
                    StoredRef { segment, slot, len, crc }
                }
            };
            if !self.core.segments.is_in_use(reference.segment) {
                return Ok(Err("a commit refers to a segment that is not in use"));
            }
            placed.push((page, reference));
        }
        let committed = Committed {
            version: header.version,
            wall_ms: header.wall_ms,
            page_count: header.page_count,
            pages_kept: header.pages_kept,
            page_size: header.page_size,
            pages: &mut placed.into_iter(),
        };
        facet.replay_commit(committed, changes)?;
        Ok(Ok(()))
    }

    fn catalog_change(
        &mut self,
        change: CatalogChange,
        changes: &mut LiveChanges,
    ) -> Result<Result<(), &'static str>> {
        match change {
            CatalogChange::Create { facet, name } => {
                let facet = Facet::new(Arc::clone(self.core), facet, name.clone());
                if !self.catalog.insert(name, Arc::clone(&facet)) {
                    return Ok(Err("a facet is created whose name or number is taken"));
                }
                facet.publish_touch();
            }
            CatalogChange::Delete { name } => {
                let facets = self.catalog.remove_subtree(&name);
                if facets.is_empty() {
                    return Ok(Err("a facet is deleted that does not exist"));
                }
                for facet in facets {
                    facet.mark_deleted();
                    facet.publish_delete(changes);
                }
            }
            CatalogChange::Rename { from, to } => match self.catalog.plan_rename(&from, &to) {
                Ok(moves) => {
                    for facet in self.catalog.rename(moves) {
                        facet.publish_touch();
                    }
                }
                Err(Error::FacetNotFound { .. } | Error::FacetExists { .. }) => {
                    return Ok(Err("a facet is renamed that does not exist, or to a taken name"));
                }
                Err(error) => return Err(error),
            },
        }
        Ok(Ok(()))
    }
}
