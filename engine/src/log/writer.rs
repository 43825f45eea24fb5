//! The end of the log: turns what a flush took into batches, and makes them durable.

use std::collections::VecDeque;
use std::sync::PoisonError;

use super::Log;
use super::buffer::{Buffer, CommitEffect, Effect, Entry, PartPlace, Placement};
use crate::error::Result;
use crate::format::batch::{self, BatchHeader};
use crate::format::segment::{BATCHES_AT, SegmentHeader, SegmentKind};
use crate::format::stored_len;
use crate::format::superblock::LogPosition;
use crate::segments::{SegmentFile, Segments, Taken, io_error};
use crate::sync::atomic::Ordering;
use crate::types::{FileNo, Incarnation, Lsn, SegmentId, StoreId};

#[derive(Debug)]
struct Active {
    segment: SegmentId,
    number: FileNo,
    size: u32,
    file: SegmentFile,
    /// Where the next batch goes.
    offset: u32,
}

/// Writes batches. One exists per open store; who holds the lead uses it.
#[derive(Debug)]
pub(crate) struct LogWriter {
    store: StoreId,
    incarnation: Incarnation,
    /// The segment being written; `None` until the first batch of this incarnation.
    active: Option<Active>,
    /// Where recovery would continue before the first batch of this incarnation.
    recovered: LogPosition,
    next_lsn: Lsn,
    hash: crate::format::Hash,
    /// Reused: buffers that were taken, and the batch being built.
    taken: Vec<Buffer>,
    batch: Vec<u8>,
}

impl LogWriter {
    /// A writer that continues after `recovered`, in a segment of its own.
    pub(crate) fn new(store: StoreId, incarnation: Incarnation, recovered: LogPosition) -> Self {
        Self {
            store,
            incarnation,
            active: None,
            recovered,
            next_lsn: recovered.lsn,
            hash: recovered.hash,
            taken: Vec::new(),
            batch: Vec::new(),
        }
    }

    /// Where the next batch goes, as recovery has to know it.
    pub(crate) fn position(&self) -> LogPosition {
        match &self.active {
            None => self.recovered,
            Some(active) => LogPosition {
                segment: Some(active.segment),
                offset: active.offset,
                lsn: self.next_lsn,
                hash: self.hash,
            },
        }
    }

    /// `is_cut`: what is appended after what is flushed here is of the next epoch.
    pub(super) fn flush(&mut self, log: &Log, segments: &Segments, is_cut: bool) -> Result<()> {
        self.take_buffers(log, is_cut);
        let mut queue = self.merge();
        let mut taken = std::mem::take(&mut self.taken);
        let mut flushed = false;
        while !queue.is_empty() {
            flushed = true;
            let count = self.make_room(&queue, segments)?;
            self.write_batch(log, segments, &mut queue, count, &taken)?;
        }
        for buffer in &mut taken {
            // A burst must not keep its memory for ever.
            const KEPT_BYTES_MAX: usize = 8 << 20;
            if buffer.bytes.capacity() > KEPT_BYTES_MAX {
                buffer.bytes = Vec::new();
            }
            buffer.bytes.clear();
        }
        self.taken = taken;
        if flushed {
            log.counters.flushes.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Takes all buffers at once: the cut is consistent because every lock is held.
    fn take_buffers(&mut self, log: &Log, is_cut: bool) {
        self.taken.resize_with(log.buffers.len(), Buffer::default);
        let mut guards: Vec<_> = log
            .buffers
            .iter()
            .map(|buffer| buffer.lock().unwrap_or_else(PoisonError::into_inner))
            .collect();
        for (guard, taken) in guards.iter_mut().zip(&mut self.taken) {
            debug_assert!(taken.entries.is_empty() && taken.bytes.is_empty());
            std::mem::swap(&mut **guard, taken);
        }
        if is_cut {
            // While all are locked: of a record that was taken, nobody finds the new epoch, and of one
            // that comes later nobody the old one.
            log.epoch.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The records taken, in order of LSN, each with the number of its buffer.
    fn merge(&mut self) -> VecDeque<(usize, Entry)> {
        let mut queue = VecDeque::with_capacity(self.taken.iter().map(|b| b.entries.len()).sum());
        let mut sources: Vec<_> = self
            .taken
            .iter_mut()
            .enumerate()
            .map(|(number, buffer)| (number, buffer.entries.drain(..).peekable()))
            .collect();
        let mut expected = self.next_lsn;
        // The next LSN is in exactly one buffer, and mostly in the one that had the last.
        loop {
            let before = expected;
            for (number, source) in &mut sources {
                while let Some(entry) = source.next_if(|entry| entry.lsn == expected) {
                    queue.push_back((*number, entry));
                    expected = expected.next();
                }
            }
            if expected == before {
                break;
            }
        }
        assert!(
            sources.iter_mut().all(|(_, source)| source.peek().is_none()),
            "a flush takes consecutive LSNs, all that were given out"
        );
        queue
    }

    /// Sees to it that the active segment can take the next batch; returns how many records it has.
    fn make_room(
        &mut self,
        queue: &VecDeque<(usize, Entry)>,
        segments: &Segments,
    ) -> Result<usize> {
        let fitting = |room: u32| {
            let mut bytes = 0;
            queue
                .iter()
                .take_while(|(_, entry)| {
                    bytes += entry.len;
                    batch::padded_bytes(bytes) <= room as usize
                })
                .count()
        };
        if let Some(active) = &self.active {
            let room = active.size - active.offset;
            let count = fitting(room);
            // Rather a little space unused than one more sync for a scrap of the batch.
            if count == queue.len() || (count > 0 && room >= active.size / 8) {
                return Ok(count);
            }
            segments.seal(active.segment, self.next_lsn);
            segments.note_left();
            self.active = None;
        }
        let first = queue.front().map_or(0, |(_, entry)| entry.len);
        let size = self.enter(segments, batch::padded_bytes(first))?;
        Ok(fitting(size - BATCHES_AT))
    }

    /// Goes on in a segment that has room for a batch of `batch_bytes`; returns its size.
    fn enter(&mut self, segments: &Segments, batch_bytes: usize) -> Result<u32> {
        let Taken { segment, file: number, size } =
            segments.take(batch_bytes, SegmentKind::Log, self.next_lsn)?;
        let file = segments.files.get(segment)?;
        // Offset 0: the header is written together with the first batch.
        self.active = Some(Active { segment, number, size, file, offset: 0 });
        Ok(size)
    }

    /// Writes the first `count` records of `queue` as a batch, makes it durable, publishes it.
    fn write_batch(
        &mut self,
        log: &Log,
        segments: &Segments,
        queue: &mut VecDeque<(usize, Entry)>,
        count: usize,
        taken: &[Buffer],
    ) -> Result<()> {
        let (segment, mut record_at) = self.emit(segments, log.durable_lsn(), count, |batch| {
            for (buffer, entry) in queue.range(..count) {
                let bytes = &taken[*buffer].bytes[entry.start..entry.start + entry.len];
                batch.extend_from_slice(bytes);
            }
        })?;
        let written = self.batch.len() as u64;
        log.counters.written_bytes.fetch_add(written, Ordering::Relaxed);
        log.counters.tail_bytes.fetch_add(written, Ordering::Relaxed);

        let (mut bytes, mut commits, mut growth) = (0, 0, 0);
        for (_, entry) in queue.drain(..count) {
            let place = Placement { segment, record_at, start: entry.start };
            commits += match &entry.effect {
                Effect::Commit(_) => 1,
                Effect::Group(commits) => commits.len() as u64,
                _ => 0,
            };
            publish(entry.effect, entry.lsn, place, segments);
            record_at += entry.len as u64;
            bytes += entry.len;
            growth += entry.growth;
        }
        // What was published has been counted as changed by now.
        segments.reserve_grown(growth);
        log.counters.commits.fetch_add(commits, Ordering::Relaxed);
        log.buffered_bytes.fetch_sub(bytes, Ordering::Release);
        log.durable.store(self.next_lsn.0 - 1, Ordering::Release);
        Ok(())
    }

    /// See [`Log::rewrite_tail`].
    pub(super) fn rewrite_tail(
        &mut self,
        segments: &Segments,
        durable_through: Lsn,
        count: u32,
        records: &[u8],
    ) -> Result<(SegmentId, u64)> {
        self.enter(segments, batch::padded_bytes(records.len()))?;
        self.emit(segments, durable_through, count as usize, |batch| {
            batch.extend_from_slice(records);
        })
    }

    /// Writes and syncs a batch of `count` records in the active segment, which has room for it.
    /// Returns the segment and the offset of the records.
    fn emit(
        &mut self,
        segments: &Segments,
        durable_through: Lsn,
        count: usize,
        records: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(SegmentId, u64)> {
        let active = self.active.as_mut().expect("room was made in an active segment");
        let write_at = u64::from(active.offset);
        self.batch.clear();
        if active.offset == 0 {
            let header = SegmentHeader {
                file: active.number,
                store: self.store,
                segment: active.segment,
                kind: SegmentKind::Log,
                incarnation: self.incarnation,
                size: active.size,
                first_lsn: self.next_lsn,
                previous_hash: self.hash,
            };
            header.encode(&mut self.batch);
            active.offset = BATCHES_AT;
        }
        let start = self.batch.len();
        self.batch.resize(start + batch::HEADER_BYTES, 0);
        records(&mut self.batch);
        let header = BatchHeader {
            store: self.store,
            segment: active.segment,
            offset: active.offset,
            incarnation: self.incarnation,
            kind: SegmentKind::Log,
            first_lsn: self.next_lsn,
            record_count: stored_len(count),
            durable_through,
            previous_hash: self.hash,
        };
        let hash = header.seal(&mut self.batch, start);

        // 1. Write. 2. Sync. 3. Only the caller publishes: nobody may see as durable what a crash
        //    could take. A batch is never written before the one ahead of it was synced, so that a
        //    damaged batch with a good successor is known to be corruption, not a torn tail.
        let failed = |operation, source| {
            io_error(&segments.files, operation, header.segment, Some(write_at), source)
        };
        active.file.write_and_sync(write_at, &self.batch).map_err(|error| {
            let (operation, source) = error.into_parts();
            failed(operation, source)
        })?;

        active.offset += stored_len(self.batch.len() - start);
        segments.note_batch(active.size - active.offset);
        self.hash = hash;
        self.next_lsn = header.next_lsn();
        Ok((header.segment, u64::from(header.offset) + batch::HEADER_BYTES as u64))
    }
}

fn publish(effect: Effect, lsn: Lsn, place: Placement, segments: &Segments) {
    match effect {
        Effect::Commit(commit) => publish_commit(&commit, lsn, place),
        Effect::Group(commits) => {
            commits.iter().for_each(|commit| publish_commit(commit, lsn, place));
        }
        Effect::Images(pages) => {
            for page in pages {
                page.image.settle(place.of_page(&page));
                page.image.let_go();
            }
        }
        Effect::Spill { pages, place: cell } => {
            let placed: Vec<_> =
                pages.iter().map(|page| (page.page, place.of_page(page))).collect();
            for &(_, reference) in &placed {
                segments.pin(reference);
            }
            let _ = cell.set(placed);
        }
        Effect::Delete(facets) => {
            for facet in facets {
                facet.publish_delete();
            }
        }
        Effect::Fork(forks) => {
            for fork in forks {
                fork.facet.publish_fork(&fork.source, fork.content, fork.incarnation, lsn);
            }
        }
        Effect::Create(facet) => facet.publish_create(lsn),
        Effect::Touch(facets) => {
            for facet in facets {
                facet.publish_touch();
            }
        }
        Effect::Part { at, len, crc, place: part } => {
            let reference = place.of(at, len, crc);
            match part {
                PartPlace::Node(node, owner) => node.set_stored(reference, owner),
                PartPlace::Cell(cell) => {
                    let _ = cell.set(reference);
                }
            }
        }
    }
}

fn publish_commit(commit: &CommitEffect, lsn: Lsn, place: Placement) {
    let pages = commit.pages.iter().map(|page| (page, place.of_page(page)));
    commit.facet.publish_commit(commit, lsn, pages);
}
