//! Salvage: gets out of a damaged store what can still be read, without changing a byte of it.
//!
//! If the store opens, its facets are as the catalog has them, and only pages that are damaged are
//! missing. If it does not, nothing is taken for granted: every segment file with a good header is read
//! from its start to its end, in the order in which they were written, and each batch whose hash is
//! right is replayed: commits, changes of names, and what checkpoints say of facets. So the outcome is the
//! newest state that can be put together; it may have facets that were deleted shortly before the damage.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::Store;
use super::recovery::{self, Spot};
use crate::config::{Background, FormatParams, StoreOptions};
use crate::core::read_part;
use crate::env::Environment;
use crate::error::{Error, Result};
use crate::facet::{Content, read_stored_from};
use crate::format::catalog::{self, CHUNK_FACETS, ChunkNo, FacetEntry, VersionMeta};
use crate::format::record::{
    self, CatalogChange, CommittedPage, ItemKind, PartKind, PlacedPage, Record,
};
use crate::format::segment::{BATCHES_AT, SegmentHeader, SegmentKind};
use crate::format::{
    BLOCK_BYTES_STORED, Identity, Malformed, StoredRef, batch, slot_at, stored_len,
};
use crate::io::OverlayIo;
use crate::map::{self, ImageMemory, NodeSource, PageRef};
use crate::segments::{SegmentFiles, Segments};
use crate::types::{Epoch, FacetId, PageNo, PageSize, SegmentId, StoreId, Version, View};

/// A facet that salvage found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Salvaged {
    /// Its name; `None` if all that would tell is damaged.
    pub name: Option<String>,
    /// Its number.
    pub facet: FacetId,
    /// The version that was put together.
    pub version: Version,
    /// Size of its pages; `None` if it never had one.
    pub page_size: Option<PageSize>,
    /// Number of its pages.
    pub page_count: u32,
    /// Pages that cannot be read: they are handed out as zeros.
    pub damaged: Vec<PageNo>,
}

/// What salvage came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SalvageReport {
    /// What was handed out.
    pub facets: Vec<Salvaged>,
    /// Why the store could not be opened; `None` if it could.
    pub refused: Option<String>,
    /// What else was in the way.
    pub notes: Vec<String>,
}

/// Takes what salvage finds.
pub trait SalvageSink {
    /// A facet begins. `facet.damaged` is not known yet.
    ///
    /// # Errors
    /// Ends the salvage.
    fn begin(&mut self, facet: &Salvaged) -> std::io::Result<()>;

    /// The next page of the facet, from page 1 on, all of them.
    ///
    /// # Errors
    /// Ends the salvage.
    fn page(&mut self, page: PageNo, image: &[u8]) -> std::io::Result<()>;

    /// The facet ends; what was damaged of it is known.
    ///
    /// # Errors
    /// Ends the salvage.
    fn end(&mut self, facet: &Salvaged) -> std::io::Result<()>;
}

impl Store {
    /// Hands everything that can still be read of a store that no process has open to `sink`, facet by
    /// facet, without changing a byte of it.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Missing`], [`Error::NotAStore`], [`Error::FormatTooNew`]; [`Error::Io`]
    /// of the sink. Damage is no error: it is in the report.
    pub fn salvage(environment: Environment, sink: &mut dyn SalvageSink) -> Result<SalvageReport> {
        let io = Arc::new(OverlayIo::new(Arc::clone(&environment.io)));
        let overlaid = Environment { io, ..environment.clone() };
        let options = StoreOptions { background: Background::Manual, ..StoreOptions::default() };
        let mut report = SalvageReport::default();
        match Self::open(overlaid, options) {
            Ok(store) => store.hand_out(sink, &mut report)?,
            Err(
                error @ (Error::Locked { .. }
                | Error::Missing { .. }
                | Error::NotAStore { .. }
                | Error::FormatTooNew { .. }),
            ) => return Err(error),
            Err(error) => {
                report.refused = Some(error.to_string());
                scan(environment, sink, &mut report)?;
            }
        }
        Ok(report)
    }

    /// What the catalog has.
    fn hand_out(&self, sink: &mut dyn SalvageSink, report: &mut SalvageReport) -> Result<()> {
        let mut after = None;
        loop {
            let listed = self.list_facets(None, after.as_ref(), 256)?;
            let Some(last) = listed.last() else { return Ok(()) };
            after = Some(last.name.clone());
            for info in listed {
                let facet = self.open_facet(&info.name)?;
                let found = Salvaged {
                    name: Some(info.name.to_string()),
                    facet: info.id,
                    version: info.version,
                    page_size: info.page_size,
                    page_count: info.page_count,
                    damaged: Vec::new(),
                };
                let snapshot = match facet.snapshot(View::Durable) {
                    Ok(snapshot) => Some(snapshot),
                    Err(error) => {
                        report.notes.push(error.to_string());
                        None
                    }
                };
                let mut read = |page: PageNo, image: &mut [u8]| match &snapshot {
                    Some(snapshot) => snapshot.read_page(page, image).is_ok(),
                    None => false,
                };
                hand_out_one(found, &mut read, sink, report)?;
            }
        }
    }
}

fn hand_out_one(
    mut found: Salvaged,
    read: &mut dyn FnMut(PageNo, &mut [u8]) -> bool,
    sink: &mut dyn SalvageSink,
    report: &mut SalvageReport,
) -> Result<()> {
    let name = found.name.clone().unwrap_or_else(|| format!("facet {}", found.facet));
    let failed =
        |source| Error::Io { operation: "salvage", path: name.clone(), offset: None, source };
    sink.begin(&found).map_err(failed)?;
    if let Some(size) = found.page_size {
        let mut image = vec![0; size.bytes()];
        for page in (1..=found.page_count).map(PageNo) {
            if !read(page, &mut image) {
                image.fill(0);
                found.damaged.push(page);
            }
            sink.page(page, &image).map_err(failed)?;
        }
    }
    sink.end(&found).map_err(failed)?;
    report.facets.push(found);
    Ok(())
}

/// A facet as far as it was put together.
#[derive(Default)]
struct Remains {
    name: Option<String>,
    content: Content,
    /// Nothing is missing before what was found of it.
    is_whole: bool,
}

/// A store that does not open, put together batch by batch.
struct Scan<'a> {
    segments: Segments,
    memory: Arc<ImageMemory>,
    facets: BTreeMap<FacetId, Remains>,
    notes: &'a mut Vec<String>,
}

fn scan(
    environment: Environment,
    sink: &mut dyn SalvageSink,
    report: &mut SalvageReport,
) -> Result<()> {
    let io = Arc::new(OverlayIo::new(environment.io));
    let lock = crate::io::Io::lock(&*io).map_err(|source| Error::Io {
        operation: "lock",
        path: crate::io::Io::describe(&*io),
        offset: None,
        source,
    })?;
    let lock = lock.ok_or_else(|| Error::Locked { path: crate::io::Io::describe(&*io) })?;
    let _lock = Mutex::new(lock);
    let io: Arc<dyn crate::io::Io> = io;
    let headers = recovery::readable_headers(&io, &mut report.notes)?;
    // Of several stores' files in one directory, those of the most.
    let mut stores: BTreeMap<[u8; 16], usize> = BTreeMap::new();
    headers.iter().for_each(|header| *stores.entry(header.store.0).or_default() += 1);
    let Some((&store, _)) = stores.iter().max_by_key(|&(_, &count)| count) else {
        report.notes.push("no segment file has a good header".to_owned());
        return Ok(());
    };
    let files = SegmentFiles::new(io, 256);
    let segments = Segments::new(files, FormatParams::default(), 0);
    let mut headers: Vec<SegmentHeader> =
        headers.into_iter().filter(|header| header.store == StoreId(store)).collect();
    headers.sort_by_key(|header| header.segment);
    headers.iter().for_each(|header| segments.files.set_file(header.segment, header.file));
    let memory = ImageMemory::new(0);
    let mut scan = Scan { segments, memory, facets: BTreeMap::new(), notes: &mut report.notes };
    // What was moved is found first: page maps lead to it by the places where it was.
    for header in headers.iter().filter(|header| header.kind == SegmentKind::Survivors) {
        scan.survivors(header);
    }
    for header in headers.iter().filter(|header| header.kind == SegmentKind::Log) {
        scan.log(header);
    }
    let Scan { segments, facets, .. } = scan;
    for (id, Remains { name, content, .. }) in facets {
        let VersionMeta { version, page_size, page_count, .. } = content.meta;
        let found =
            Salvaged { name, facet: id, version, page_size, page_count, damaged: Vec::new() };
        let mut read = |page: PageNo, image: &mut [u8]| match content.map.get(page.0 - 1) {
            PageRef::Absent => {
                image.fill(0);
                true
            }
            PageRef::Stored(reference) => {
                matches!(read_stored_from(&segments, *reference, page, image), Ok(Ok(())))
            }
            PageRef::Pending(pending) => pending.read(|found| image.copy_from_slice(found)).is_ok(),
        };
        hand_out_one(found, &mut read, sink, report)?;
    }
    Ok(())
}

impl Scan<'_> {
    /// Hands every good batch of a segment to `each`: its header, the offset of its records, them.
    fn batches(
        &mut self,
        segment: &SegmentHeader,
        mut each: impl FnMut(&mut Self, &batch::BatchHeader, u64, &[u8]),
    ) {
        let mut offset = BATCHES_AT;
        let mut bad = None;
        while offset < segment.size {
            let spot = Spot {
                store: segment.store,
                file: segment.file,
                segment: Some(segment.segment),
                offset,
                end: segment.size,
            };
            if let Ok(Some((header, _, bytes))) = spot.batch(&self.segments) {
                if let Some(bad) = bad.take() {
                    let path = self.segments.files.path_of(segment.file);
                    self.notes.push(format!("{path}: no valid batch at offset {bad}"));
                }
                let at = u64::from(offset) + batch::HEADER_BYTES as u64;
                each(self, &header, at, &bytes);
                offset += stored_len(batch::padded_bytes(bytes.len()));
            } else {
                bad.get_or_insert(offset);
                offset += BLOCK_BYTES_STORED;
            }
        }
    }

    fn survivors(&mut self, segment: &SegmentHeader) {
        self.batches(segment, |scan, header, at, bytes| {
            let Ok(items) = record::items(bytes, header.first_lsn, header.record_count) else {
                return;
            };
            let moved = items.into_iter().filter_map(|item| {
                let was = item.moved?;
                let len = stored_len(item.bytes.len());
                let reference =
                    StoredRef { segment: was.segment, slot: was.slot, len, crc: item.crc };
                Some((
                    reference,
                    Identity { segment: header.segment, slot: slot_at(at + item.at as u64) },
                ))
            });
            let moved = moved.collect();
            // Segments come in order, so what was moved twice is where it was moved last.
            scan.segments.files.with_forwards(|forwards| forwards.add(moved));
        });
    }

    fn log(&mut self, segment: &SegmentHeader) {
        self.batches(segment, |scan, header, at, bytes| {
            match record::decode_all(bytes, header.first_lsn, header.record_count) {
                Ok(records) => {
                    for record in records {
                        scan.record(record, header.segment, at);
                    }
                }
                Err(malformed) => {
                    let path = scan.segments.files.path(header.segment);
                    scan.notes.push(format!("{path}: a batch at offset {at}: {}", malformed.0));
                }
            }
            let items = record::items(bytes, header.first_lsn, header.record_count);
            for item in items.unwrap_or_default() {
                if let ItemKind::Part(PartKind::Chunk(chunk)) = item.kind
                    && let Ok((_, payload)) = record::decode_part(item.bytes, item.crc)
                    && let Ok(entries) = catalog::decode_chunk(chunk, payload)
                {
                    scan.chunk(chunk, entries);
                }
            }
        });
    }

    /// What a checkpoint says of 64 facets.
    fn chunk(&mut self, chunk: ChunkNo, entries: Vec<FacetEntry>) {
        // A facet with a lower number than one that is listed was there before it: if it is not
        // listed, it was deleted.
        let newest = entries.last().map_or(FacetId(0), |entry| entry.facet);
        let range = FacetId(chunk.0 * CHUNK_FACETS)..newest;
        let known: Vec<FacetId> = self.facets.range(range).map(|(&id, _)| id).collect();
        for id in known.into_iter().filter(|&id| entries.iter().all(|entry| entry.facet != id)) {
            self.facets.remove(&id);
        }
        for entry in entries {
            let remains = self.facets.entry(entry.facet).or_default();
            remains.name = Some(entry.name.to_string());
            // The same version is taken from here: pages that were put together are stored by now.
            if remains.is_whole && remains.content.meta.version > entry.meta.version {
                continue;
            }
            let source = Lenient { segments: &self.segments };
            let mut map = match map::load(&source, entry.map_root, entry.map_levels) {
                Ok(map) => map,
                Err(error) => {
                    self.notes.push(error.to_string());
                    continue;
                }
            };
            if remains.content.meta.version > entry.meta.version {
                // What later commits wrote goes on top.
                map.truncate(remains.content.meta.page_count, &mut |_, _| ());
                remains.content.map.for_each_page(&mut |index, page| {
                    map.set(index, page.clone());
                });
            } else {
                remains.content.meta = entry.meta;
            }
            remains.content.map = map;
            remains.is_whole = true;
        }
    }

    fn record(&mut self, record: Record, segment: SegmentId, records_at: u64) {
        match record {
            Record::Commit { header, pages } => {
                let remains = self.facets.entry(header.facet).or_default();
                if header.meta.version <= remains.content.meta.version {
                    return;
                }
                remains.is_whole &= header.meta.version == remains.content.meta.version.next();
                let map = &mut remains.content.map;
                map.truncate(header.pages_kept, &mut |_, _| ());
                for page in pages {
                    let (page, reference) = match page {
                        CommittedPage::Referred(page) => {
                            (page.page, PageRef::of_stored(page.reference))
                        }
                        CommittedPage::Inline(PlacedPage { page, at, len, crc }) => {
                            let slot = slot_at(records_at + at as u64);
                            (page, PageRef::Stored(StoredRef { segment, slot, len, crc }))
                        }
                        CommittedPage::Delta { page, record } => {
                            let base = map.get(page.0 - 1);
                            let (segments, memory) = (&self.segments, &self.memory);
                            (page, apply_delta(segments, memory, base, page, &record))
                        }
                    };
                    map.set(page.0 - 1, reference);
                }
                remains.content.meta = header.meta;
            }
            Record::Catalog { change, .. } => self.catalog_change(change),
            Record::Fork(entries) => {
                for entry in entries {
                    let source = self.facets.get(&entry.source);
                    let is_whole = source.is_some_and(|source| source.is_whole);
                    let mut map =
                        source.map(|source| source.content.map.clone()).unwrap_or_default();
                    map.truncate(entry.meta.page_count, &mut |_, _| ());
                    for (page, reference) in entry.pages {
                        map.set(page.0 - 1, PageRef::of_stored(reference));
                    }
                    let content = Content { meta: entry.meta, map };
                    let name = Some(entry.name.to_string());
                    self.facets.insert(entry.facet, Remains { name, content, is_whole });
                }
            }
            Record::Images { .. } | Record::Other => {}
        }
    }

    fn catalog_change(&mut self, change: CatalogChange) {
        let is_within = |remains: &Remains, root: &crate::FacetName| {
            let name = remains.name.as_ref().and_then(|name| crate::FacetName::new(name).ok());
            name.is_some_and(|name| name.is_within(root))
        };
        match change {
            CatalogChange::Create { facet, name, .. } => {
                let remains = self.facets.entry(facet).or_default();
                remains.name = Some(name.to_string());
                remains.is_whole |= remains.content.meta.version == Version(0);
            }
            CatalogChange::Delete { name } => {
                self.facets.retain(|_, remains| !is_within(remains, &name));
            }
            CatalogChange::Rename { from, to } => {
                for remains in self.facets.values_mut() {
                    let name =
                        remains.name.as_ref().and_then(|name| crate::FacetName::new(name).ok());
                    if let Some(Ok(Some(moved))) = name.map(|name| name.moved(&from, &to)) {
                        remains.name = Some(moved.to_string());
                    }
                }
            }
            CatalogChange::Quota { .. } | CatalogChange::Retention { .. } => {}
        }
    }
}

/// There are no cuts here.
const EPOCH: Epoch = Epoch(0);

/// What a delta makes of a page. What it was made against may be missing: such a page is put where no image
/// is, and so counts as damaged.
fn apply_delta(
    segments: &Segments,
    memory: &Arc<ImageMemory>,
    base: &PageRef,
    page: PageNo,
    record: &[u8],
) -> PageRef {
    const NOWHERE: StoredRef = StoredRef { segment: SegmentId(0), slot: 0, len: 8, crc: 0 };
    let applied = base.with_delta(memory, EPOCH, record, |base, image| {
        match read_stored_from(segments, base, page, image) {
            Ok(Ok(())) => Ok(()),
            _ => Err(()),
        }
    });
    applied.ok().and_then(Result::ok).unwrap_or(PageRef::Stored(NOWHERE))
}

/// Page-map nodes as far as they can be read: what is below a damaged one counts as never written, and
/// so reads as zeros.
struct Lenient<'a> {
    segments: &'a Segments,
}

impl NodeSource for Lenient<'_> {
    fn node(&self, reference: StoredRef) -> Result<(FacetId, Vec<Option<StoredRef>>)> {
        let read = read_part(self.segments, reference, |kind, payload| match kind {
            PartKind::Node { owner, .. } => Ok((owner, catalog::decode_node(payload)?)),
            _ => Err(Malformed("it is not a page-map node")),
        });
        match read {
            Ok(Ok(node)) => Ok(node),
            Ok(Err(damage)) => Err(Error::Corrupt {
                path: damage.path,
                offset: damage.place.offset(),
                detail: format!("a page-map node: {}", damage.malformed.0),
            }),
            Err(error) => Err(error),
        }
    }
}
