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
use crate::format::{BLOCK_BYTES, StoredRef, record, stored_len};
use crate::log::{Effect, PartPlace};
use crate::map::{self, PageMap};
use crate::segments::Purpose;
use crate::types::{FacetId, Lsn, SegmentId, Ticket};

/// Bytes of parts appended before they are flushed, so that a checkpoint does not fill the buffers.
const PART_BYTES_PER_FLUSH: usize = 1 << 20;

/// Takes checkpoints, one at a time.
#[derive(Debug)]
pub(super) struct Checkpointer {
    superblock: SuperblockFile,
    /// Where the catalog's chunks are.
    chunks: BTreeMap<ChunkNo, StoredRef>,
    leftovers: Leftovers,
}

/// Parts that checkpoints which failed have written, and that count as live until one succeeds.
#[derive(Debug, Default)]
struct Leftovers {
    parts: Vec<StoredRef>,
    /// Parts that were appended and may not have had a place yet.
    cells: Vec<Cell>,
}

type Cell = Arc<OnceLock<StoredRef>>;

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
        let core = &self.core;
        let mut checkpointer = self.checkpointer();
        // If anything below panics, what was captured is in no checkpoint and never will be.
        let _unwinding = core.log.poison_if_unwinding();
        let cut = self.cut()?;
        let result = checkpointer.write(core, &cut);
        match &result {
            Ok(()) => {
                self.checkpoints.fetch_add(1, Ordering::Relaxed);
                // The cut holds handles of its own.
                drop(cut);
                self.unload_idle();
            }
            Err(_) => {
                // All that was captured has to be in the next one.
                core.log.counters.tail_bytes.fetch_add(cut.tail_bytes, Ordering::Relaxed);
                for captured in cut.captured {
                    captured.facet.restore_change();
                    if let Some(map) = captured.map {
                        let parts = &mut checkpointer.leftovers.parts;
                        captured.facet.keep_written(map, &mut |part| parts.push(part));
                    }
                }
                let deleted: Vec<_> =
                    cut.deleted.into_iter().map(|facet| (facet.name(), facet)).collect();
                core.with_changed(|changed| {
                    for (name, facet) in deleted {
                        changed.note_chunk(facet.id(), &name);
                        changed.deleted.push(facet);
                    }
                });
            }
        }
        core.segments.set_reserve_in_flight(0);
        core.publish_reserve();
        result
    }

    /// Whether a checkpoint would save recovery work, or free space.
    pub(super) fn is_worth_a_checkpoint(&self) -> bool {
        self.core.with_changed(|changed| !changed.facets.is_empty() || !changed.deleted.is_empty())
            || self.core.segments.has_empty()
    }

    /// Step 1.
    fn cut(&self) -> Result<Cut> {
        let core = &self.core;
        let catalog = self.catalog_mut();
        let mut lead = core.log.lead();
        lead.flush_in_lead(&core.segments)?;
        let changed = core.with_changed(std::mem::take);
        // Until the checkpoint ends, commits have to leave room for it.
        core.segments.set_reserve_in_flight(changed.part_bytes);
        core.publish_reserve();
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
        Self { superblock, chunks, leftovers: Leftovers::default() }
    }

    /// Steps 2 to 4. Until step 4 nothing that the checkpoint before needs is counted out, and no
    /// facet is told anything: if a step fails, it is as if it had not begun, but for the parts that
    /// were written, which become leftovers.
    fn write(&mut self, core: &Core, cut: &Cut) -> Result<()> {
        // Parts of attempts that failed have their places since the cut's flush.
        let cells = self.leftovers.cells.drain(..);
        self.leftovers.parts.extend(cells.filter_map(|cell| cell.get().copied()));

        let levels = map::unwritten_levels(cut.captured.iter().filter_map(|c| c.map.as_ref()));
        self.ensure_room(core, cut, levels.iter().map(Vec::len).sum())?;
        let mut parts = Parts { core, pending_bytes: 0, ticket: Ticket::DURABLE };
        for level in levels {
            for node in level {
                let mut payload = Vec::new();
                node.encode(&mut payload);
                parts.append(&payload, PartPlace::Node(node))?;
            }
            parts.flush()?;
        }

        let mut entries: BTreeMap<FacetId, FacetEntry> = BTreeMap::new();
        for Captured { entry, map, .. } in &cut.captured {
            let map_root = map.as_ref().map_or(entry.map_root, PageMap::stored_root);
            entries.insert(entry.facet, FacetEntry { map_root, ..entry.clone() });
        }
        let mut obsolete = Vec::new();
        let mut chunks = self.chunks.clone();
        let mut written = Vec::new();
        for (&chunk, facets) in &cut.chunks {
            obsolete.extend(chunks.remove(&chunk));
            if facets.is_empty() {
                continue;
            }
            let entries: Vec<FacetEntry> = facets
                .iter()
                .map(|facet| {
                    let entry = entries.get(&facet.id()).cloned();
                    entry.unwrap_or_else(|| facet.checkpoint_entry())
                })
                .collect();
            let mut payload = Vec::new();
            catalog::encode_chunk(&entries, &mut payload);
            written.push((chunk, self.append_in_cell(&mut parts, &payload)?));
        }
        parts.flush()?;
        for (chunk, cell) in written {
            chunks.insert(chunk, placed(&cell));
        }

        // The maps are counted as if the checkpoint had succeeded, and told to the facets only when
        // it has: what is handed out here is what the state on disk will not need.
        let mut kept = Vec::new();
        for captured in &cut.captured {
            if let Some(map) = &captured.map {
                captured.facet.keep_written(map.clone(), &mut |part| kept.push(part));
            }
        }
        for facet in &cut.deleted {
            facet.forget_checkpoint(&mut |part| kept.push(part));
        }
        // From here on these belong to no map: they are leftovers, whatever happens.
        self.leftovers.parts.append(&mut kept);
        obsolete.extend(self.superblock.current.checkpoint);

        let now = core.segments.entries();
        let root = Root {
            lsn: cut.lsn,
            next_facet: cut.next_facet,
            chunks: chunks.iter().map(|(&chunk, &reference)| (chunk, reference)).collect(),
            segments: table_at(cut, now, obsolete.iter().chain(&self.leftovers.parts)),
        };
        let mut payload = Vec::new();
        catalog::encode_root(&root, &mut payload);
        let cell = self.append_in_cell(&mut parts, &payload)?;
        parts.flush()?;

        let mut next = self.superblock.current.clone();
        next.replay = cut.position;
        next.durable_through = core.log.durable_lsn();
        next.checkpoint = Some(placed(&cell));
        // After a failure nobody knows which checkpoint the next open finds.
        if let Err(error) = self.superblock.replace(next) {
            return Err(core.log.poison(&error));
        }

        self.chunks = chunks;
        self.leftovers.cells.clear();
        for captured in &cut.captured {
            if let Some(entry) = entries.remove(&captured.facet.id()) {
                captured.facet.checkpointed(entry);
            }
        }
        for part in obsolete.into_iter().chain(self.leftovers.parts.drain(..)) {
            core.segments.apply_part(part, -1);
        }
        let replay_segment = cut.position.segment.map(|(segment, _)| segment);
        core.segments.recycle(&cut.segments, replay_segment, cut.position.lsn);
        tracing::debug!(lsn = cut.lsn.0, facets = cut.captured.len(), "checkpoint");
        Ok(())
    }

    /// Appends a part and remembers it as a leftover until the checkpoint has succeeded.
    fn append_in_cell(&mut self, parts: &mut Parts<'_>, payload: &[u8]) -> Result<Cell> {
        let cell = Arc::new(OnceLock::new());
        parts.append(payload, PartPlace::Cell(Arc::clone(&cell)))?;
        self.leftovers.cells.push(Arc::clone(&cell));
        Ok(cell)
    }

    /// Refuses the checkpoint before anything is appended if it may not fit, so that attempts that
    /// fail do not use up the room that the one that would free some needs. Commits leave the room
    /// alone until it has ended.
    fn ensure_room(&self, core: &Core, cut: &Cut, nodes: usize) -> Result<()> {
        let node = usize::try_from(record::NODE_BYTES_MAX).unwrap_or(usize::MAX);
        let chunk = |facets: &Vec<Arc<Facet>>| {
            let names: usize = facets.iter().map(|facet| facet.name().as_str().len()).sum();
            record::part_bytes(8 + facets.len() * catalog::FACET_FIXED_BYTES + names)
        };
        let chunks = cut.chunks.values().map(chunk);
        let chunk_max = chunks.clone().max().unwrap_or(0);
        let chunk_count = self.chunks.len() + cut.chunks.len();
        let root = record::part_bytes(24 + 24 * chunk_count + 32 * (cut.segments.len() + 8));
        let all = nodes * node + chunks.sum::<usize>() + root;
        // Each flush fills up its last block: one per level, per so many bytes, and a few more.
        let flushes = 8 + all / PART_BYTES_PER_FLUSH;
        let parts = all + flushes * BLOCK_BYTES;
        core.segments.set_reserve_in_flight(parts as u64);
        // What others have appended may be long records, which can waste as much as they take.
        let bytes = 2 * core.log.buffered_bytes() + parts;
        core.segments.ensure_room(bytes, chunk_max.max(root), Purpose::Checkpoint)
    }
}

/// The segment table as of the cut: page bytes as they were then, since replay starts from there;
/// part bytes as they are, since parts are written after the cut and not replayed. What this
/// checkpoint makes obsolete is left out.
fn table_at<'a>(
    cut: &Cut,
    now: Vec<SegmentEntry>,
    obsolete: impl Iterator<Item = &'a StoredRef>,
) -> Vec<SegmentEntry> {
    let then: BTreeMap<_, _> = cut.segments.iter().map(|entry| (entry.segment, entry)).collect();
    let mut table: BTreeMap<SegmentId, SegmentEntry> =
        now.into_iter().map(|entry| (entry.segment, entry)).collect();
    for entry in table.values_mut() {
        entry.live_page_bytes = match then.get(&entry.segment) {
            Some(then) if then.generation == entry.generation => then.live_page_bytes,
            _ => 0,
        };
    }
    for part in obsolete {
        let entry = table.get_mut(&part.segment).expect("checkpoint parts are in segments in use");
        entry.live_part_bytes -= u64::from(part.len);
    }
    table.into_values().collect()
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
        let admission = log.admit_ensured(bytes)?;
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

    fn flush(&mut self) -> Result<()> {
        self.pending_bytes = 0;
        self.core.log.wait_durable(&self.core.segments, self.ticket)
    }
}
