//! Checkpoints: what recovery would have to replay, written down so that it need not.
//!
//! A checkpoint holds the durable state as of one LSN, its *cut*: the page maps and catalog entries
//! of facets that changed since the last one, and the segment table. It is written into the log as
//! ordinary records, while commits go on.
//!
//! Order, and what would break otherwise:
//! 1. *Cut*: with the catalog locked and the lead held, everything appended is flushed and the
//!    durable state captured (O(1) per changed facet). Without the lock, names could be captured
//!    that are not durable.
//! 2. Page-map nodes, leaves first, then catalog chunks, then the root; each level is durable before
//!    the next refers to it, since only then its places are known.
//! 3. The superblock, in both slots. A crash before leaves the old checkpoint, whose parts and pages
//!    are all still there.
//! 4. Only then segments are made ready again in which neither the new checkpoint nor any version
//!    has anything. Earlier, the old superblock could lead into overwritten segments.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use super::Shared;
use super::superblock::SuperblockFile;
use crate::core::Core;
use crate::error::Result;
use crate::facet::{Captured, Facet};
use crate::format::catalog::{self, CHUNK_FACETS, ChunkNo, FacetEntry, Root, SegmentEntry};
use crate::format::superblock::LogPosition;
use crate::format::{StoredRef, record, stored_len};
use crate::log::{Effect, PartPlace};
use crate::map;
use crate::segments::Purpose;
use crate::types::{FacetId, Lsn, Ticket};

/// Bytes of parts appended before they are flushed, so that a checkpoint does not fill the buffers.
const PART_BYTES_PER_FLUSH: usize = 1 << 20;

/// Takes checkpoints, one at a time.
#[derive(Debug)]
pub(super) struct Checkpointer {
    superblock: SuperblockFile,
    /// Where the catalog's chunks are.
    chunks: BTreeMap<ChunkNo, StoredRef>,
}

/// The durable state at the cut.
struct Cut {
    position: LogPosition,
    lsn: Lsn,
    next_facet: FacetId,
    captured: Vec<Captured>,
    deleted: Vec<Arc<Facet>>,
    /// The facets of each chunk that has to be written.
    chunks: BTreeMap<ChunkNo, Vec<Arc<Facet>>>,
    segments: Vec<SegmentEntry>,
    tail_bytes: u64,
}

impl Shared {
    /// Takes a checkpoint.
    pub(super) fn checkpoint(&self) -> Result<()> {
        let mut checkpointer = self.checkpointer();
        let cut = self.cut()?;
        let result = checkpointer.write(&self.core, &cut);
        match &result {
            Ok(()) => {
                self.checkpoints.fetch_add(1, Ordering::Relaxed);
                self.unload_idle();
            }
            Err(_) => {
                // All that was captured has to be in the next one.
                let tail = &self.core.log.counters.tail_bytes;
                tail.fetch_add(cut.tail_bytes, Ordering::Relaxed);
                for captured in &cut.captured {
                    captured.facet.restore_change();
                }
                self.core.with_changed(|changed| changed.deleted.extend(cut.deleted));
            }
        }
        result
    }

    /// Step 1.
    fn cut(&self) -> Result<Cut> {
        let core = &self.core;
        let catalog = self.catalog_mut();
        let mut lead = core.log.lead();
        lead.flush_in_lead(&core.segments)?;
        let changed = core.with_changed(std::mem::take);
        let mut chunk_numbers: BTreeSet<ChunkNo> =
            changed.deleted.iter().map(|facet| ChunkNo::of(facet.id())).collect();
        let captured: Vec<Captured> =
            changed.facets.iter().filter_map(|facet| facet.capture()).collect();
        chunk_numbers.extend(captured.iter().map(|captured| ChunkNo::of(captured.facet.id())));
        let facets_of = |chunk: ChunkNo| {
            let first = chunk.0 * CHUNK_FACETS;
            catalog.by_ids(FacetId(first)..FacetId(first + CHUNK_FACETS)).cloned().collect()
        };
        Ok(Cut {
            position: lead.writer().position(),
            lsn: core.log.durable_lsn(),
            next_facet: catalog.next(),
            captured,
            deleted: changed.deleted,
            chunks: chunk_numbers.into_iter().map(|chunk| (chunk, facets_of(chunk))).collect(),
            segments: core.segments.entries(),
            tail_bytes: core.log.counters.tail_bytes.swap(0, Ordering::Relaxed),
        })
    }

    /// Drops the page maps of facets that nobody holds a handle to.
    fn unload_idle(&self) {
        for facet in self.catalog().facets() {
            // One count is the catalog's.
            if Arc::strong_count(facet) == 1 {
                facet.unload();
            }
        }
    }
}

impl Checkpointer {
    pub(super) fn new(superblock: SuperblockFile, chunks: BTreeMap<ChunkNo, StoredRef>) -> Self {
        Self { superblock, chunks }
    }

    /// Steps 2 to 4.
    fn write(&mut self, core: &Core, cut: &Cut) -> Result<()> {
        let mut parts = Parts { core, pending_bytes: 0, ticket: Ticket::DURABLE };
        for level in map::unwritten_levels(cut.captured.iter().map(|c| &c.content.map)) {
            for node in level {
                let mut payload = Vec::new();
                node.encode(&mut payload);
                parts.append(&payload, PartPlace::Node(node))?;
            }
            parts.flush()?;
        }

        let mut obsolete = Vec::new();
        let mut note = |part| obsolete.push(part);
        let mut entries: BTreeMap<FacetId, FacetEntry> = BTreeMap::new();
        for captured in &cut.captured {
            let map = captured.content.map.clone();
            let entry = FacetEntry { map_root: map.stored_root(), ..captured.entry.clone() };
            entries.insert(entry.facet, entry.clone());
            captured.facet.checkpointed(entry, map, &mut note);
        }
        for facet in &cut.deleted {
            facet.forget_checkpoint(&mut note);
        }

        let mut chunks = self.chunks.clone();
        let mut written = Vec::new();
        for (&chunk, facets) in &cut.chunks {
            chunks.remove(&chunk).into_iter().for_each(&mut note);
            if facets.is_empty() {
                continue;
            }
            let entries: Vec<FacetEntry> = facets
                .iter()
                .map(|facet| {
                    entries.remove(&facet.id()).unwrap_or_else(|| facet.checkpoint_entry())
                })
                .collect();
            let mut payload = Vec::new();
            catalog::encode_chunk(&entries, &mut payload);
            written.push((chunk, parts.append_in_cell(&payload)?));
        }
        parts.flush()?;
        for (chunk, cell) in written {
            chunks.insert(chunk, placed(&cell));
        }
        // What failed before this line counts for nothing: the old checkpoint is still the valid
        // one, and the next attempt replaces the same chunks.
        for part in obsolete {
            core.segments.apply_part(part, -1);
        }
        self.chunks = chunks;

        let root = Root {
            lsn: cut.lsn,
            next_facet: cut.next_facet,
            chunks: self.chunks.iter().map(|(&chunk, &reference)| (chunk, reference)).collect(),
            segments: table_at(cut, core.segments.entries(), self.superblock.current.checkpoint),
        };
        let mut payload = Vec::new();
        catalog::encode_root(&root, &mut payload);
        let cell = parts.append_in_cell(&payload)?;
        parts.flush()?;

        let mut next = self.superblock.current.clone();
        next.replay = cut.position;
        next.durable_through = core.log.durable_lsn();
        let old_root = next.checkpoint.replace(placed(&cell));
        self.superblock.replace(next).inspect_err(|error| core.log.poison(error))?;

        if let Some(root) = old_root {
            core.segments.apply_part(root, -1);
        }
        let replay_segment = cut.position.segment.map(|(segment, _)| segment);
        core.segments.recycle(&cut.segments, replay_segment, cut.position.lsn);
        tracing::debug!(lsn = cut.lsn.0, facets = cut.captured.len(), "checkpoint");
        Ok(())
    }
}

/// The segment table as of the cut: page bytes as they were then, since replay starts from there;
/// part bytes as they are, since parts are written after the cut and not replayed. The old root is
/// left out, since this checkpoint replaces it.
fn table_at(cut: &Cut, now: Vec<SegmentEntry>, old_root: Option<StoredRef>) -> Vec<SegmentEntry> {
    let then: BTreeMap<_, _> = cut.segments.iter().map(|entry| (entry.segment, entry)).collect();
    let at_cut = |mut entry: SegmentEntry| {
        entry.live_page_bytes = match then.get(&entry.segment) {
            Some(then) if then.generation == entry.generation => then.live_page_bytes,
            _ => 0,
        };
        if let Some(root) = old_root.filter(|root| root.segment == entry.segment) {
            entry.live_part_bytes -= u64::from(root.len);
        }
        entry
    };
    now.into_iter().map(at_cut).collect()
}

fn placed(cell: &OnceLock<StoredRef>) -> StoredRef {
    *cell.get().expect("a durable part has its place")
}

/// Appends checkpoint parts.
struct Parts<'a> {
    core: &'a Core,
    pending_bytes: usize,
    ticket: Ticket,
}

impl Parts<'_> {
    fn append(&mut self, payload: &[u8], place: PartPlace) -> Result<()> {
        let log = &self.core.log;
        let bytes = record::part_bytes(payload.len());
        let admission = log.admit(&self.core.segments, bytes, Purpose::Reclaim)?;
        // The last buffer: cores use the first ones.
        let buffer = self.core.tunables.log_buffers.max(1) - 1;
        self.ticket = log.append(admission, buffer, |lsn, out| {
            let at = out.len();
            let crc = record::encode_part(lsn, payload, out);
            Effect::Part { at, len: stored_len(out.len() - at), crc, place }
        });
        self.pending_bytes += bytes;
        if self.pending_bytes >= PART_BYTES_PER_FLUSH {
            self.flush()?;
        }
        Ok(())
    }

    fn append_in_cell(&mut self, payload: &[u8]) -> Result<Arc<OnceLock<StoredRef>>> {
        let cell = Arc::new(OnceLock::new());
        self.append(payload, PartPlace::Cell(Arc::clone(&cell)))?;
        Ok(cell)
    }

    fn flush(&mut self) -> Result<()> {
        self.pending_bytes = 0;
        self.core.log.wait_durable(&self.core.segments, self.ticket)
    }
}
