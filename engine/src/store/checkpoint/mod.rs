//! Checkpoints: what recovery would have to replay, written down so that it need not.
//!
//! A checkpoint holds the durable state as of one LSN, its *cut*: the page maps, histories and catalog
//! entries of facets that changed since the last one, who shares what, what the cleaner moved, and the
//! segment table. It is written into the log as ordinary records, while commits go on.
//!
//! Order, and what would break otherwise:
//! 1. *Cut*: with the catalog locked and the lead held, everything appended is flushed and the
//!    durable state captured (O(1) per changed facet). Without the lock, names could be captured
//!    that are not durable.
//! 2. The images of pages that are logged as deltas, so that what follows can refer to them; then
//!    page-map nodes, leaves first, then histories, then catalog chunks; each level is durable before
//!    the next refers to it, since only then its places are known.
//! 3. What is live is settled (`references.rs`). Before that a checkpoint that fails has changed nothing;
//!    from here on one that fails stops the store.
//! 4. The other parts, then the root.
//! 5. The superblock, in both slots. A crash before leaves the old checkpoint, whose parts and pages
//!    are all still there.
//! 6. Only then segments are made ready again in which neither the new checkpoint nor any snapshot
//!    has anything. Earlier, the old superblock could lead into overwritten segments.
//!
//! When the cleaner has emptied segments and nothing else calls for a checkpoint, only what it moved is
//! written down: the same steps with the *old cut*, in which nothing has changed. The root is new, and
//! recovery starts where it would have.

mod histories;
mod images;
mod parts;

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use self::histories::{WrittenHistory, history_bytes_max, write_histories};
use self::images::Images;
use self::parts::{PART_BYTES_PER_FLUSH, PART_PAYLOAD_BYTES, Parts, placed};
use super::Shared;
use super::catalog::ChunkSlot;
use super::references::{References, Settlement};
use super::superblock::SuperblockFile;
use crate::core::Core;
use crate::error::Result;
use crate::facet::{Captured, CapturedContent, CapturedHistory, Facet};
use crate::format::catalog::{
    self, ChunkNo, FORWARD_BYTES, FacetEntry, OtherPart, ROOT_PART_BYTES, ROOT_SEGMENT_BYTES, Root,
    SHARED_NODE_BYTES, StoredSettings,
};
use crate::format::record::{self, PartKind};
use crate::format::superblock::LogPosition;
use crate::format::{BLOCK_BYTES, Identity, StoredRef};
use crate::log::PartPlace;
use crate::map::{self, Unwritten};
use crate::segments::Purpose;
use crate::sync::atomic::Ordering;
use crate::types::{FacetId, Lsn, SegmentId};

/// Takes checkpoints, one at a time.
#[derive(Debug)]
pub(super) struct Checkpointer {
    pub(super) superblock: SuperblockFile,
    /// Where the catalog's chunks are.
    pub(super) chunks: BTreeMap<ChunkNo, StoredRef>,
    pub(super) others: Vec<(OtherPart, StoredRef)>,
    pub(super) references: References,
    /// The images that the last checkpoint wrote, behind its cut.
    images: FxHashSet<Identity>,
    /// The cleaner took out of a segment what has to be written again, not moved.
    pub(super) rewrite_settings: bool,
    /// The LSN of the last cut, and the number that the next facet had then.
    lsn: Lsn,
    next_facet: FacetId,
    /// What was written from here on, the last cut does not hold: the root that was written first
    /// after it.
    nodes_from: Identity,
}

/// The durable state at the cut.
struct Cut {
    /// It is the one of the last checkpoint.
    is_old: bool,
    position: LogPosition,
    lsn: Lsn,
    next_facet: FacetId,
    captured: Vec<Captured>,
    deleted: Vec<Arc<Facet>>,
    spilled: Vec<StoredRef>,
    settings: Option<StoredSettings>,
    /// The facets of each chunk that has to be written.
    chunks: BTreeMap<ChunkNo, Vec<ChunkSlot>>,
    tail_bytes: u64,
}

impl Shared {
    /// Takes a checkpoint.
    pub(super) fn checkpoint(&self) -> Result<()> {
        let mut checkpointer = self.checkpointer();
        self.checkpoint_with(&mut checkpointer)
    }

    /// Makes ready what the cleaner has emptied: writes down where things are now, and no more than
    /// that if possible.
    pub(super) fn save_moves(&self) -> Result<()> {
        let core = &self.core;
        let mut checkpointer = self.checkpointer();
        if checkpointer.rewrite_settings {
            // Those of the last cut are no more.
            return self.checkpoint_with(&mut checkpointer);
        }
        core.log.check_writable()?;
        let _unwinding = core.log.poison_if_unwinding();
        let mut cut = checkpointer.old_cut();
        let result = checkpointer.write(core, &mut cut);
        if result.is_ok() {
            self.reset_emptied();
            self.recycle(&cut.position);
        }
        checkpointer.publish_others(core);
        core.segments.set_reserve_in_flight(0, 0);
        core.publish_reserve();
        result
    }

    pub(super) fn checkpoint_with(&self, checkpointer: &mut Checkpointer) -> Result<()> {
        let _span = tracing::debug_span!("checkpoint").entered();
        let core = &self.core;
        core.log.check_writable()?;
        // If anything below panics, what was captured is in no checkpoint and never will be.
        let _unwinding = core.log.poison_if_unwinding();
        let mut cut = self.cut(checkpointer)?;
        let result = checkpointer.write(core, &mut cut);
        match &result {
            Ok(()) => {
                self.checkpoints.fetch_add(1, Ordering::Relaxed);
                self.reset_emptied();
                let (nodes, pages) = checkpointer.references.len();
                self.shared_references.store((nodes + pages) as u64, Ordering::Relaxed);
                let position = checkpointer.superblock.current.replay;
                self.recycle(&position);
                // The cut holds handles of its own.
                drop(cut);
                self.catalog_mut().cool();
            }
            Err(_) => {
                // All that was captured has to be in the next one.
                core.log.counters.tail_bytes.fetch_add(cut.tail_bytes, Ordering::Relaxed);
                for captured in cut.captured {
                    captured.facet.restore_change(captured.content.map(|content| content.history));
                }
                let deleted: Vec<_> =
                    cut.deleted.into_iter().map(|facet| (facet.name(), facet)).collect();
                core.with_changed(|changed| {
                    changed.settings |= cut.settings.is_some();
                    changed.spilled.append(&mut cut.spilled);
                    for (name, facet) in deleted {
                        changed.note_chunk(facet.id(), &name);
                        changed.deleted.push(facet);
                    }
                });
            }
        }
        checkpointer.publish_others(core);
        core.segments.set_reserve_in_flight(0, 0);
        core.publish_reserve();
        result
    }

    /// Step 6: makes ready what is empty and what no snapshot reads.
    pub(super) fn recycle(&self, position: &LogPosition) {
        let mut pinned = FxHashSet::default();
        let opened: Vec<Arc<Facet>> = self.catalog().opened().cloned().collect();
        for facet in opened {
            facet.pinned_segments(&mut pinned);
        }
        self.deleted().retain(|facet| {
            let facet = facet.upgrade();
            facet.is_some_and(|facet| {
                facet.pinned_segments(&mut pinned);
                true
            })
        });
        self.core.segments.recycle(position.segment, position.lsn, &pinned);
    }

    /// Whether a checkpoint would save recovery work, or free space.
    pub(super) fn is_worth_a_checkpoint(&self) -> bool {
        self.core.with_changed(|changed| {
            !changed.facets.is_empty() || !changed.deleted.is_empty() || changed.settings
        }) || self.core.segments.has_empty()
    }

    /// Step 1.
    fn cut(&self, checkpointer: &Checkpointer) -> Result<Cut> {
        let core = &self.core;
        let catalog = self.catalog_mut();
        let mut lead = core.log.lead();
        lead.flush_for_cut(&core.segments)?;
        let changed = core.with_changed(std::mem::take);
        // Until the checkpoint ends, commits have to leave room for it.
        core.segments.set_reserve_in_flight(changed.part_bytes, changed.image_bytes);
        core.publish_reserve();
        let deleted = changed.deleted.iter().map(|facet| ChunkNo::of(facet.id()));
        let mut chunks: BTreeMap<ChunkNo, Vec<ChunkSlot>> =
            deleted.map(|chunk| (chunk, Vec::new())).collect();
        let mut captured: Vec<Captured> =
            changed.facets.iter().filter_map(|facet| facet.capture()).collect();
        // What several have is written for the first, which is to be the oldest.
        captured.sort_by_key(|captured| captured.facet.id());
        let captured_chunks = captured.iter().map(|captured| ChunkNo::of(captured.facet.id()));
        chunks.extend(captured_chunks.map(|chunk| (chunk, Vec::new())));
        for (&chunk, slots) in &mut chunks {
            *slots = catalog.chunk(chunk);
        }
        let settings = changed.settings || checkpointer.rewrite_settings;
        Ok(Cut {
            is_old: false,
            position: lead.writer().position(),
            lsn: core.log.durable_lsn(),
            next_facet: catalog.next(),
            captured,
            deleted: changed.deleted,
            spilled: changed.spilled,
            settings: settings.then(|| catalog.settings.stored()),
            chunks,
            tail_bytes: core.log.counters.tail_bytes.swap(0, Ordering::Relaxed),
        })
    }
}

impl Checkpointer {
    /// As recovery finds it.
    pub(super) fn restored(
        superblock: SuperblockFile,
        root: Option<Root>,
        references: References,
        images: FxHashSet<Identity>,
    ) -> Self {
        let first = superblock.current.checkpoint.map_or(Identity::FIRST, StoredRef::identity);
        let root = root.unwrap_or_else(|| Root { next_facet: FacetId(1), ..Root::default() });
        Self {
            superblock,
            chunks: root.chunks.into_iter().collect(),
            others: root.others,
            references,
            images,
            rewrite_settings: false,
            lsn: root.lsn,
            next_facet: root.next_facet,
            nodes_from: first,
        }
    }

    fn old_cut(&self) -> Cut {
        Cut {
            is_old: true,
            position: self.superblock.current.replay,
            lsn: self.lsn,
            next_facet: self.next_facet,
            captured: Vec::new(),
            deleted: Vec::new(),
            spilled: Vec::new(),
            settings: None,
            chunks: BTreeMap::new(),
            tail_bytes: 0,
        }
    }

    /// Steps 2 to 5. Until step 3 nothing is changed, and no facet is told anything: if a step fails,
    /// it is as if it had not begun, but for parts that nothing leads to.
    fn write(&mut self, core: &Core, cut: &mut Cut) -> Result<()> {
        let maps = cut
            .captured
            .iter()
            .filter_map(|captured| Some((captured.facet.id(), &captured.content.as_ref()?.map)));
        let levels = map::unwritten_levels(maps);
        let images = Images::of(cut, &levels);
        self.ensure_room(core, cut, levels.iter().map(Vec::len).sum(), images.bytes_max())?;
        let images = images.write(core, cut)?;
        let mut parts = Parts::new(core);
        for level in levels {
            for Unwritten { node, owner, level, index } in level {
                let mut payload = Vec::new();
                node.encode(&mut payload);
                let kind = PartKind::Node { owner, level, index };
                parts.append(kind, &payload, PartPlace::Node(node, owner))?;
            }
            parts.flush()?;
        }
        let mut histories = write_histories(&mut parts, &cut.captured)?;

        let mut entries: BTreeMap<FacetId, FacetEntry> = BTreeMap::new();
        for Captured { facet, entry, content } in &cut.captured {
            let mut entry = entry.clone();
            if let Some(content) = content {
                entry.map_root = content.map.stored_root();
                entry.history_from = content.history.from;
                entry.history_bytes = content.history.bytes();
            }
            if let Some(written) = histories.get(&facet.id()) {
                entry.history = written.stored.index;
            }
            entries.insert(facet.id(), entry);
        }
        let mut chunks = self.chunks.clone();
        let (mut obsolete, mut added) = (Vec::new(), Vec::new());
        let mut cells = Vec::new();
        for (&chunk, slots) in &cut.chunks {
            obsolete.extend(chunks.remove(&chunk));
            if slots.is_empty() {
                continue;
            }
            let entries: Vec<FacetEntry> = slots
                .iter()
                .map(|slot| match slot {
                    ChunkSlot::Cold(entry) => entry.clone(),
                    ChunkSlot::Open(facet) => {
                        let entry = entries.get(&facet.id()).cloned();
                        entry.unwrap_or_else(|| facet.checkpoint_entry())
                    }
                })
                .collect();
            let mut payload = Vec::new();
            catalog::encode_chunk(&entries, &mut payload);
            cells.push((chunk, parts.append_in_cell(PartKind::Chunk(chunk), &payload)?));
        }
        parts.flush()?;
        for (chunk, cell) in cells {
            let place = placed(&cell);
            added.push(place);
            chunks.insert(chunk, place);
        }

        // From here on, what is counted as live is that of this checkpoint.
        let superblock =
            self.settle_and_save(core, cut, &mut parts, &histories, &chunks, (obsolete, added));
        if let Err(error) = superblock {
            return Err(core.log.poison(&error));
        }
        if !cut.is_old {
            self.images = images;
        }
        self.chunks = chunks;
        for captured in &cut.captured {
            let id = captured.facet.id();
            let content = captured.content.as_ref().map(|content| {
                let history = histories.remove(&id).map(|written| written.stored);
                (content.map.clone(), history.unwrap_or_else(|| content.history.stored.clone()))
            });
            if let Some(entry) = entries.remove(&id) {
                captured.facet.checkpointed(entry, content);
            }
        }
        for reference in std::mem::take(&mut cut.spilled) {
            core.segments.unpin(reference);
        }
        let facets = cut.captured.len();
        tracing::debug!(lsn = cut.lsn.0, is_old = cut.is_old, facets, "checkpoint");
        Ok(())
    }

    /// Steps 3 to 5.
    fn settle_and_save(
        &mut self,
        core: &Core,
        cut: &Cut,
        parts: &mut Parts<'_>,
        histories: &BTreeMap<FacetId, WrittenHistory>,
        chunks: &BTreeMap<ChunkNo, StoredRef>,
        (mut obsolete, mut added): (Vec<StoredRef>, Vec<StoredRef>),
    ) -> Result<()> {
        let current = &self.superblock.current;
        let nodes_from = self.nodes_from;
        let pages_from = current.replay.identity();
        let references = &mut self.references;
        let mut settlement =
            Settlement::new(references, core, pages_from, nodes_from, &cut.spilled, &self.images);
        let contents = || {
            let content = |captured: &'_ Captured| captured.content.is_some();
            cut.captured.iter().filter(move |captured| content(captured))
        };
        for captured in contents() {
            if let Some(CapturedContent { map, is_new: true, history, .. }) = &captured.content {
                settlement.begin(map, &history.added);
            }
        }
        for captured in contents() {
            if let Some(CapturedContent { map, before, is_new: false, history }) = &captured.content
            {
                let CapturedHistory { added, left, .. } = history;
                settlement.change(before, map, added, left, &captured.entry.name);
            }
        }
        for facet in &cut.deleted {
            settlement.end(&facet.take_checkpointed(), &facet.name());
        }
        for written in histories.values() {
            obsolete.extend_from_slice(&written.obsolete);
            added.extend_from_slice(&written.added);
        }
        obsolete.extend(current.checkpoint);
        added.iter().for_each(|&part| settlement.part(part, 1));
        obsolete.iter().for_each(|&part| settlement.part(part, -1));
        let (mut live, mut gone) = (settlement.live, settlement.gone);
        core.count(&std::mem::take(&mut live))?;
        core.segments.files.with_forwards(|forwards| {
            gone.drain(..).for_each(|identity| forwards.let_go(identity));
        });

        let others = self.write_others(core, cut, parts)?;
        let root = Root {
            lsn: cut.lsn,
            next_facet: cut.next_facet,
            next_segment: SegmentId(core.segments.last_segment().0 + 1),
            chunks: chunks.iter().map(|(&chunk, &reference)| (chunk, reference)).collect(),
            segments: core.segments.entries(),
            others,
        };
        let mut payload = Vec::new();
        catalog::encode_root(&root, &mut payload);
        let cell = parts.append_in_cell(PartKind::Root, &payload)?;
        parts.flush()?;
        let place = placed(&cell);

        let mut next = self.superblock.current.clone();
        next.replay = cut.position;
        next.durable_through = core.log.durable_lsn();
        next.checkpoint = Some(place);
        let files = &core.segments.files;
        next.replay_file = cut.position.segment.map_or(next.replay_file, |at| files.number(at));
        next.root_file = files.number(place.segment);
        self.superblock.replace(next)?;

        // The root does not count itself.
        live.part(place.segment, place.len, 1);
        core.count(&live)?;
        self.others = root.others;
        (self.lsn, self.next_facet) = (cut.lsn, cut.next_facet);
        if !cut.is_old {
            self.nodes_from = place.identity();
        }
        self.references.saved();
        self.rewrite_settings = false;
        core.segments.files.with_forwards(crate::segments::Forwards::saved);
        Ok(())
    }

    /// Writes what is shared, what was moved and what was set, as far as that changed.
    fn write_others(
        &self,
        core: &Core,
        cut: &Cut,
        parts: &mut Parts<'_>,
    ) -> Result<Vec<(OtherPart, StoredRef)>> {
        let moved = core.segments.files.with_forwards(|forwards| forwards.changed());
        let is_obsolete = |part: &OtherPart| match part {
            OtherPart::Shared => self.references.is_dirty(),
            OtherPart::Settings => cut.settings.is_some(),
            OtherPart::Forwards(segment) => {
                moved.binary_search_by_key(segment, |&(segment, _)| segment).is_ok()
            }
        };
        let (obsolete, mut others): (Vec<_>, Vec<_>) =
            self.others.iter().copied().partition(|(part, _)| is_obsolete(part));
        let mut cells = Vec::new();
        if self.references.is_dirty() {
            for payload in self.references.encode() {
                let cell = parts.append_in_cell(PartKind::Shared, &payload)?;
                cells.push((OtherPart::Shared, cell));
            }
        }
        for (segment, forwards) in moved {
            for forwards in forwards.chunks(PART_PAYLOAD_BYTES / FORWARD_BYTES) {
                let mut payload = Vec::new();
                catalog::encode_forwards(forwards, &mut payload);
                let cell = parts.append_in_cell(PartKind::Forwards(segment), &payload)?;
                cells.push((OtherPart::Forwards(segment), cell));
            }
        }
        for settings in cut.settings.iter().flat_map(StoredSettings::pieces) {
            let mut payload = Vec::new();
            catalog::encode_settings(&settings, &mut payload);
            cells.push((OtherPart::Settings, parts.append_in_cell(PartKind::Settings, &payload)?));
        }
        parts.flush()?;
        let mut live = crate::segments::LiveChanges::default();
        for (_, part) in obsolete {
            live.part(part.segment, part.len, -1);
        }
        for (part, cell) in cells {
            let place = placed(&cell);
            live.part(place.segment, place.len, 1);
            others.push((part, place));
        }
        core.count(&live)?;
        Ok(others)
    }

    /// Refuses the checkpoint before anything is appended if it may not fit, so that attempts that
    /// fail do not use up the room that the one that would free some needs. Commits leave the room
    /// alone until it has ended.
    ///
    /// `images`: bytes that they take, in records no longer than other parts.
    fn ensure_room(&self, core: &Core, cut: &Cut, nodes: usize, images: usize) -> Result<()> {
        let node = usize::try_from(record::NODE_BYTES_MAX).unwrap_or(usize::MAX);
        let chunk = |slots: &Vec<ChunkSlot>| {
            let names: usize = slots
                .iter()
                .map(|slot| match slot {
                    ChunkSlot::Cold(entry) => entry.name.as_str().len(),
                    ChunkSlot::Open(facet) => facet.name().as_str().len(),
                })
                .sum();
            record::part_bytes(8 + slots.len() * catalog::FACET_FIXED_BYTES + names)
        };
        let chunks = cut.chunks.values().map(chunk);
        let chunk_max = chunks.clone().max().unwrap_or(0);
        let histories: usize = cut.captured.iter().map(history_bytes_max).sum();
        let others = self.others_bytes_max(core, cut, nodes);
        let root = self.root_bytes_max(core, cut.chunks.len(), others);
        let all = nodes * node + histories + chunks.sum::<usize>() + others + root;
        // Each flush fills up its last block: one per level, per so many bytes, and a few more.
        let flushes = 12 + all / PART_BYTES_PER_FLUSH;
        let parts = all + flushes * BLOCK_BYTES;
        // What others have appended may be long records, which can waste as much as they take.
        let bytes = 2 * core.log.buffered_bytes() + parts + images;
        let largest = chunk_max.max(root).max(2 * PART_PAYLOAD_BYTES);
        if cut.is_old {
            // The reserve is for the checkpoint that is due.
            core.segments.ensure_room(bytes, largest, Purpose::Delete)?;
            core.segments.set_reserve_in_flight(parts as u64, images as u64);
            return Ok(());
        }
        core.segments.set_reserve_in_flight(parts as u64, images as u64);
        core.segments.ensure_room(bytes, largest, Purpose::Checkpoint)
    }

    /// Bytes of the root at most, with so many more chunks, and bytes of other parts.
    fn root_bytes_max(&self, core: &Core, chunks: usize, others: usize) -> usize {
        // Any file may be in use by then.
        let segments = core.segments.file_count() + 8;
        record::part_bytes(
            64 + 24 * (self.chunks.len() + chunks)
                + ROOT_SEGMENT_BYTES * segments
                + ROOT_PART_BYTES * (self.others.len() + 8 + others / PART_PAYLOAD_BYTES),
        )
    }

    /// Has commits, deletes and the cleaner leave room for what the next checkpoint writes besides what
    /// changed, as far as that is known now.
    pub(super) fn publish_others(&self, core: &Core) {
        let settings = self.others.iter().filter(|(part, _)| *part == OtherPart::Settings);
        let settings: usize = settings.map(|(_, part)| part.len as usize).sum();
        let others = self.others_bytes_max(core, &self.old_cut(), 0) + settings;
        let root = self.root_bytes_max(core, 1, others);
        let largest = root.max(2 * PART_PAYLOAD_BYTES);
        core.segments.set_others(others + root, largest, !self.references.is_empty());
    }

    /// Bytes that shared references, forwards and settings take at most after this checkpoint.
    fn others_bytes_max(&self, core: &Core, cut: &Cut, nodes: usize) -> usize {
        let has_forks = cut.captured.iter().any(|captured| {
            captured.content.as_ref().is_some_and(|content| content.is_new)
                && captured.facet.family() != captured.facet.id()
        });
        let mut shared = self.references.stored_bytes();
        if has_forks || !self.references.is_empty() {
            // Whatever a node that is written anew refers to may be shared from now on.
            shared += (nodes * catalog::NODE_REFS + cut.captured.len()) * SHARED_NODE_BYTES;
        }
        for captured in &cut.captured {
            if let Some(content) = &captured.content {
                let pages: usize = content.history.added.iter().map(|edit| edit.pages.len()).sum();
                shared += pages * catalog::SHARED_PAGE_BYTES;
            }
        }
        let (forwards, targets) =
            core.segments.files.with_forwards(|forwards| forwards.changed_max());
        let settings = cut.settings.as_ref().map_or(0, StoredSettings::bytes_max);
        let parts =
            (shared + forwards * FORWARD_BYTES + settings) / PART_PAYLOAD_BYTES + targets + 8;
        shared + forwards * FORWARD_BYTES + settings + parts * record::part_bytes(8)
    }
}
