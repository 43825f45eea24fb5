//! The images of pages that are logged as deltas: what a checkpoint writes before the page maps that
//! refer to them (`docs/adr/0035-delta-records.md`).

use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::Cut;
use super::parts::{PART_BYTES_PER_FLUSH, PART_PAYLOAD_BYTES};
use crate::core::Core;
use crate::error::Result;
use crate::facet::{StagedImage, encode_pages};
use crate::format::page::record_bytes_max;
use crate::format::record::{self, IMAGES_BYTES};
use crate::format::{BLOCK_BYTES, Identity};
use crate::log::Effect;
use crate::map::{Children, PageRef, PendingPage, Unwritten, child_index};
use crate::types::{FacetId, PageNo, PageSize};

/// Images of one facet that go into one record.
struct Record {
    facet: FacetId,
    size: PageSize,
    pages: Vec<(PageNo, Arc<PendingPage>)>,
}

/// What a checkpoint has to write.
pub(super) struct Images {
    records: Vec<Record>,
}

impl Images {
    /// Those of a cut, whose page-map nodes without a place are in `levels`. What is kept in memory and
    /// is stored as well is let go of: nothing that comes after the cut may be built on it.
    ///
    /// A page that several facets have is written for the oldest of them, whether it is that one's latest or
    /// in its past: all others were forked from it or from what it was forked from, which is what verification
    /// goes by when the one that a page was written for is gone.
    pub(super) fn of(cut: &Cut, levels: &[Vec<Unwritten>]) -> Self {
        let mut pages: Vec<(FacetId, PageNo, &PageRef)> = Vec::new();
        for Unwritten { node, owner, index, .. } in levels.first().into_iter().flatten() {
            let Children::Pages(children) = node.children() else { continue };
            let number = |slot| PageNo(child_index(*index, slot) + 1);
            pages.extend(children.iter().enumerate().map(|(slot, it)| (*owner, number(slot), it)));
        }
        for captured in &cut.captured {
            let added = captured.content.iter().flat_map(|content| &content.history.added);
            let added = added.flat_map(|edit| &edit.pages);
            pages.extend(added.map(|(number, page)| (captured.facet.id(), *number, page)));
        }
        pages.retain(|(_, _, page)| matches!(page, PageRef::Pending(_)));
        pages.sort_by_key(|&(facet, ..)| facet);
        let mut this = Self { records: Vec::new() };
        let mut seen = FxHashSet::default();
        for (facet, number, page) in pages {
            this.add(facet, number, page, &mut seen);
        }
        this
    }

    fn add(
        &mut self,
        facet: FacetId,
        number: PageNo,
        page: &PageRef,
        seen: &mut FxHashSet<*const PendingPage>,
    ) {
        let PageRef::Pending(page) = page else { return };
        if page.stored().is_some() {
            return page.let_go();
        }
        let Ok(bytes) = page.read(<[u8]>::len) else { return };
        let size = PageSize::from_bytes(bytes).expect("an image has the size of its page");
        if !seen.insert(Arc::as_ptr(page)) {
            return;
        }
        let fits = |record: &Record| {
            let bytes = (record.pages.len() + 1) * record_bytes_max(size);
            record.facet == facet && record.size == size && bytes <= PART_PAYLOAD_BYTES
        };
        if !self.records.last().is_some_and(fits) {
            self.records.push(Record { facet, size, pages: Vec::new() });
        }
        let record = self.records.last_mut().expect("it was just made");
        record.pages.push((number, Arc::clone(page)));
    }

    /// Bytes that the log takes for them at most.
    pub(super) fn bytes_max(&self) -> usize {
        let all: usize = self.records.iter().map(Record::bytes_max).sum();
        let flushes = if all > 0 { 2 + all / PART_BYTES_PER_FLUSH } else { 0 };
        all + flushes * BLOCK_BYTES
    }

    /// Writes them, for which there is room, and waits until they are durable; returns where they are.
    pub(super) fn write(self, core: &Core, cut: &Cut) -> Result<FxHashSet<Identity>> {
        let log = &core.log;
        let mut written = FxHashSet::default();
        let mut waiting: Vec<Arc<PendingPage>> = Vec::new();
        let mut bytes = 0;
        let mut records = self.records.into_iter().peekable();
        while let Some(record) = records.next() {
            let admission = log.admit_ensured(record.bytes_max())?;
            bytes += record.bytes_max();
            waiting.extend(record.pages.iter().map(|(_, page)| Arc::clone(page)));
            // The last buffer, as other parts.
            let buffer = core.tunables.log_buffers.max(1) - 1;
            let ticket = log.append(admission, buffer, |lsn, out| {
                let Record { facet, size, pages } = record;
                let start = record::start_images(lsn, facet, cut.lsn, pages.len(), out);
                let pages = pages.iter().map(|(page, image)| StagedImage::new(*page, image));
                let effects = encode_pages(facet, size, pages.collect(), None, out);
                record::finish(start, out);
                Effect::Images(effects)
            });
            if bytes >= PART_BYTES_PER_FLUSH || records.peek().is_none() {
                log.wait_durable(&core.segments, ticket)?;
                bytes = 0;
                let placed = waiting.drain(..).map(|page| page.stored());
                written
                    .extend(placed.map(|page| page.expect("a durable image is stored").identity()));
            }
        }
        Ok(written)
    }
}

impl Record {
    fn bytes_max(&self) -> usize {
        IMAGES_BYTES + self.pages.len() * record_bytes_max(self.size)
    }
}
