//! From the root of a checkpoint down to every page.

use rustc_hash::FxHashMap;

use super::reached::Reached;
use super::report::{Finding, FindingKind, VerifyProgress, VerifyReport};
use crate::error::{Error, Result};
use crate::format::catalog::{
    self, CHUNK_FACETS, ChunkNo, FacetEntry, OtherPart, SegmentEntry, StoredEdit,
};
use crate::format::page::UnverifiedPage;
use crate::format::record::PartKind;
use crate::format::{Identity, Malformed, StoredRef};
use crate::segments::Damage;
use crate::store::Shared;
use crate::store::checkpoint::Checkpointer;
use crate::types::{FacetId, PageNo, PageSize};

/// See the [module](self).
pub(super) struct Walk<'a> {
    pub(super) shared: &'a Shared,
    checkpointer: &'a Checkpointer,
    segments: &'a [SegmentEntry],
    pub(super) report: VerifyReport,
    reached: Reached,
    /// Families of the facets there are.
    families: FxHashMap<FacetId, FacetId>,
    buffer: Vec<u8>,
    image: Vec<u8>,
    progress: &'a mut dyn FnMut(VerifyProgress),
    total_bytes: u64,
    told_bytes: u64,
}

/// Bytes between two reports of progress.
const PROGRESS_BYTES: u64 = 16 << 20;

/// A facet that is being looked at.
struct Of<'a> {
    entry: &'a FacetEntry,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        checkpointer: &'a Checkpointer,
        segments: &'a [SegmentEntry],
        progress: &'a mut dyn FnMut(VerifyProgress),
    ) -> Self {
        let live: u64 =
            segments.iter().map(|entry| entry.live_page_bytes + entry.live_part_bytes).sum();
        let size: u64 = segments.iter().map(|entry| u64::from(entry.size)).sum();
        Self {
            shared,
            checkpointer,
            segments,
            report: VerifyReport::default(),
            reached: Reached::default(),
            families: FxHashMap::default(),
            buffer: Vec::new(),
            image: Vec::new(),
            progress,
            total_bytes: live + size,
            told_bytes: 0,
        }
    }

    /// Counts bytes that were read.
    pub(super) fn read(&mut self, bytes: u64) {
        self.report.read_bytes += bytes;
        if self.report.read_bytes - self.told_bytes >= PROGRESS_BYTES {
            self.told_bytes = self.report.read_bytes;
            let done_bytes = self.told_bytes.min(self.total_bytes);
            (self.progress)(VerifyProgress { done_bytes, total_bytes: self.total_bytes });
        }
    }

    /// Step 1.
    pub(super) fn down(&mut self) -> Result<()> {
        if let Some(root) = self.checkpointer.superblock.current.checkpoint {
            self.part(FindingKind::Catalog, None, root, |kind, payload| match kind {
                PartKind::Root => catalog::decode_root(payload).map(drop),
                _ => Err(Malformed("it is not the root of a checkpoint")),
            })?;
        }
        let others = self.checkpointer.others.clone();
        for (other, reference) in others {
            self.part(FindingKind::Catalog, None, reference, |kind, payload| {
                match (other, kind) {
                    (OtherPart::Shared, PartKind::Shared) => {
                        catalog::decode_shared(payload).map(drop)
                    }
                    (OtherPart::Forwards(a), PartKind::Forwards(b)) if a == b => {
                        catalog::decode_forwards(payload).map(drop)
                    }
                    (OtherPart::Settings, PartKind::Settings) => {
                        catalog::decode_settings(payload).map(drop)
                    }
                    _ => Err(Malformed("it is another part than is expected here")),
                }
            })?;
        }
        let chunks: Vec<(ChunkNo, StoredRef)> =
            self.checkpointer.chunks.iter().map(|(&chunk, &part)| (chunk, part)).collect();
        let mut entries = Vec::new();
        for (chunk, reference) in chunks {
            let read =
                self.part(FindingKind::Catalog, None, reference, |kind, payload| match kind {
                    PartKind::Chunk(found) if found == chunk => {
                        catalog::decode_chunk(chunk, payload)
                    }
                    _ => Err(Malformed("it is another part than is expected here")),
                })?;
            let found = read.flatten().unwrap_or_default();
            if found.len() as u64 > CHUNK_FACETS {
                self.find(
                    FindingKind::Catalog,
                    None,
                    reference,
                    "a chunk has too many facets".into(),
                );
            }
            entries.extend(found);
        }
        self.report.facets = entries.len() as u64;
        self.families = entries.iter().map(|entry| (entry.facet, entry.family)).collect();
        let mut names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
        names.sort_unstable();
        for twice in names.windows(2).filter(|pair| pair[0] == pair[1]) {
            let root = self.checkpointer.superblock.current.checkpoint;
            let detail = format!("two facets have the name {}", twice[0]);
            if let Some(root) = root {
                self.find(FindingKind::Catalog, None, root, detail);
            }
        }
        for entry in &entries {
            self.facet(&Of { entry })?;
        }
        Ok(())
    }

    fn facet(&mut self, of: &Of<'_>) -> Result<()> {
        if let Some(root) = of.entry.map_root {
            self.node(of, root, of.entry.map_levels, 0)?;
        }
        let Some(index) = of.entry.history else { return Ok(()) };
        let parts = self.part(FindingKind::Map, Some(of), index, |kind, payload| match kind {
            PartKind::HistoryIndex(_) => catalog::decode_history_index(payload),
            _ => Err(Malformed("it is not the index of a history")),
        })?;
        for (part, _) in parts.flatten().unwrap_or_default() {
            let edits =
                self.part(FindingKind::Map, Some(of), part, |kind, payload| match kind {
                    PartKind::History(_) => catalog::decode_history(payload),
                    _ => Err(Malformed("it is not a part of a history")),
                })?;
            for StoredEdit { meta, pages } in edits.flatten().unwrap_or_default() {
                if meta.version < of.entry.history_from {
                    continue;
                }
                for (page, reference) in pages {
                    if let Some(reference) = reference {
                        self.page(of, page, meta.page_size, reference)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn node(&mut self, of: &Of<'_>, reference: StoredRef, level: u8, index: u32) -> Result<()> {
        let refs =
            self.part(FindingKind::Map, Some(of), reference, |kind, payload| match kind {
                PartKind::Node { level: l, index: i, .. } if (l, i) == (level, index) => {
                    catalog::decode_node(payload)
                }
                _ => Err(Malformed("it is not the page-map node that belongs here")),
            })?;
        for (slot, child) in refs.flatten().unwrap_or_default().into_iter().enumerate() {
            let Some(child) = child else { continue };
            let number = crate::map::child_index(index, slot);
            if level > 0 {
                self.node(of, child, level - 1, number)?;
            } else {
                let page = PageNo(number.saturating_add(1));
                if page.0 > of.entry.meta.page_count {
                    let detail = format!(
                        "page {page} is beyond the end of the facet, which has {} pages",
                        of.entry.meta.page_count
                    );
                    self.find(FindingKind::Map, Some(of), child, detail);
                }
                self.page(of, page, of.entry.meta.page_size, child)?;
            }
        }
        Ok(())
    }

    fn page(
        &mut self,
        of: &Of<'_>,
        page: PageNo,
        size: Option<PageSize>,
        reference: StoredRef,
    ) -> Result<()> {
        if !self.reached.reach(reference) {
            return Ok(());
        }
        let files = &self.shared.core.segments.files;
        let place = files.place(reference.identity());
        self.reached.live.page(place.segment, reference.len, 1);
        self.image.resize(size.map_or(0, PageSize::bytes), 0);
        let image = &mut self.image;
        let read = files.read_checked(reference, &mut self.buffer, |record| {
            let found = UnverifiedPage::parse(record)?;
            if found.page != page || found.crc != reference.crc {
                return Err(Malformed("another page, or another version of it, is in its place"));
            }
            found.unpack(image)?;
            Ok(found.facet)
        });
        self.report.pages += 1;
        self.read(u64::from(reference.len));
        let written_for = match self.readable(read)? {
            Ok(Ok(facet)) => facet,
            Ok(Err(damage)) => {
                self.find_page(of, page, reference, damage.malformed.0.to_owned());
                return Ok(());
            }
            Err(detail) => {
                self.find_page(of, page, reference, detail);
                return Ok(());
            }
        };
        if !self.is_related(of.entry, written_for) {
            let detail = format!(
                "page {page} was written for facet number {written_for}, to which it is not related"
            );
            self.find(FindingKind::Foreign, Some(of), reference, detail);
        }
        Ok(())
    }

    /// Whether a page written for a facet can be one of `entry`'s: it was written for it, or for one
    /// that it was forked from, directly or not. Those may be gone, but their numbers are lower.
    fn is_related(&self, entry: &FacetEntry, written_for: FacetId) -> bool {
        match self.families.get(&written_for) {
            Some(&family) => family == entry.family,
            None => (entry.family..entry.facet).contains(&written_for),
        }
    }

    /// Reads a part, the first time something leads to it; `None` if something did before.
    fn part<T>(
        &mut self,
        kind: FindingKind,
        of: Option<&Of<'_>>,
        reference: StoredRef,
        decode: impl Fn(PartKind, &[u8]) -> Result<T, Malformed>,
    ) -> Result<Option<Option<T>>> {
        if !self.reached.reach(reference) {
            return Ok(None);
        }
        let place = self.shared.core.segments.files.place(reference.identity());
        self.reached.live.part(place.segment, reference.len, 1);
        self.report.parts += 1;
        self.read(u64::from(reference.len));
        let read = self.shared.core.read_part(reference, decode);
        let detail = match self.readable(read)? {
            Ok(Ok(value)) => return Ok(Some(Some(value))),
            Ok(Err(damage)) => damage.malformed.0.to_owned(),
            Err(detail) => detail,
        };
        self.find(kind, of, reference, detail);
        Ok(Some(None))
    }

    /// An error of the operating system is a finding like any other; one of the store ends it all.
    fn readable<T>(
        &self,
        read: Result<Result<T, Damage>>,
    ) -> Result<Result<Result<T, Damage>, String>> {
        match read {
            Ok(read) => Ok(Ok(read)),
            Err(error @ (Error::Poisoned { .. } | Error::Closed)) => Err(error),
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    fn find_page(&mut self, of: &Of<'_>, page: PageNo, reference: StoredRef, detail: String) {
        let mut finding = self.finding(FindingKind::Page, Some(of), reference.identity(), detail);
        finding.page = Some(page);
        self.report.push(finding);
    }

    fn find(&mut self, kind: FindingKind, of: Option<&Of<'_>>, at: StoredRef, detail: String) {
        let finding = self.finding(kind, of, at.identity(), detail);
        self.report.push(finding);
    }

    fn finding(
        &self,
        kind: FindingKind,
        of: Option<&Of<'_>>,
        at: Identity,
        detail: String,
    ) -> Finding {
        let files = &self.shared.core.segments.files;
        let place = files.place(at);
        Finding {
            kind,
            facet: of.map(|of| of.entry.name.to_string()),
            page: None,
            path: files.path(place.segment),
            segment: Some(place.segment),
            offset: place.offset(),
            detail,
        }
    }

    /// Step 2. Where something could not be read, what is below it was not reached, and counts prove
    /// nothing.
    pub(super) fn check_counts(&mut self) {
        if self
            .report
            .findings
            .iter()
            .any(|finding| matches!(finding.kind, FindingKind::Map | FindingKind::Catalog))
        {
            return;
        }
        for entry in self.segments {
            let (pages, parts) = self.reached.live.of(entry.segment);
            let counted = (entry.live_page_bytes, entry.live_part_bytes);
            if (pages, parts) != counted {
                let detail = format!(
                    "{} bytes of pages and {} of checkpoint parts are counted as live, but {pages} \
                     and {parts} are",
                    counted.0, counted.1
                );
                let at = Identity { segment: entry.segment, slot: 0 };
                let finding = self.finding(FindingKind::Accounting, None, at, detail);
                self.report.push(finding);
            }
        }
        let references = &self.checkpointer.references;
        let counted = |identity| {
            let node = references.node(identity).map(|node| node.holders);
            node.or_else(|| references.page(identity).map(|page| page.holders))
        };
        let uncounted =
            self.reached.shared().filter(|&(identity, holders)| counted(identity) != Some(holders));
        let wrong = references
            .all()
            .filter(|&(identity, holders)| self.reached.holders(identity) != holders);
        let wrong: Vec<(Identity, u32)> = uncounted.chain(wrong).collect();
        for (identity, _) in wrong {
            let detail = format!(
                "{} things lead to it, but {} are counted",
                self.reached.holders(identity),
                counted(identity).unwrap_or(1)
            );
            let finding = self.finding(FindingKind::Accounting, None, identity, detail);
            self.report.push(finding);
        }
        let mut unreached = Vec::new();
        self.shared.core.segments.files.with_forwards(|forwards| {
            forwards.for_each_live(|identity| {
                if self.reached.holders(identity) == 0 {
                    unreached.push(identity);
                }
            });
        });
        for identity in unreached {
            let detail = "it was moved here, and nothing leads to it any more".to_owned();
            let finding = self.finding(FindingKind::Accounting, None, identity, detail);
            self.report.push(finding);
        }
    }
}
