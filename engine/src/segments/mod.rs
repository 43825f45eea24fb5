//! Segment files: which there are, what is live in them, and which are ready to be written.
//!
//! A segment goes round: *ready* (its blocks are allocated, so that a write to it cannot fail for
//! lack of space; and mostly filled through, so that a sync is one device flush and no file-system
//! journal commit) -> *in use* (the log is writing it, or has; or the cleaner has) -> *ready* again, when
//! a checkpoint finds nothing live in it. Each use has a number of its own, the [`SegmentId`].
//!
//! What is live is settled by checkpoints: between two of them, live bytes are those of the last one.

mod files;
mod forward;
mod mmap;
mod pace;
mod room;
mod supply;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use rustc_hash::{FxHashMap, FxHashSet};

pub(crate) use files::{Damage, Make, SegmentFiles};
pub(crate) use forward::Forwards;
pub(crate) use mmap::{DirectoryLock, Mapped, Mappings};
pub(crate) use room::{Purpose, usable_bytes};

use crate::config::FormatParams;
use crate::error::{Error, Result};
use crate::format::StoredRef;
use crate::format::catalog::SegmentEntry;
use crate::format::segment::SegmentKind;
use crate::sync::atomic::{AtomicBool, AtomicU64};
use crate::sync::{Mutex, MutexGuard};
use crate::types::{FileNo, Lsn, SegmentId};
use pace::Pace;
use room::{Demand, Room};
use supply::{READY_SHARE, ready_bytes_kept};

/// A segment that holds, or may hold, something needed.
#[derive(Clone, Copy, Debug)]
struct InUse {
    file: FileNo,
    size: u32,
    kind: SegmentKind,
    /// Bytes of page records that the newest checkpoint refers to.
    live_page_bytes: u64,
    /// Bytes of its own parts that it refers to.
    live_part_bytes: u64,
    /// Spilled pages of transactions that are open, or that no checkpoint knows yet.
    pins: u32,
    /// The LSN after its last record; `None` while it is being written. Recovery needs the segment
    /// until the replay position has passed this.
    sealed_at: Option<Lsn>,
    /// Bytes from its start that stay as they are as long as it is this segment.
    finished_bytes: u32,
    /// The LSN when it was filled, from which its age counts.
    born: Lsn,
}

impl Table {
    fn in_use_bytes(&self) -> u64 {
        self.in_use.values().map(|entry| u64::from(entry.size)).sum()
    }

    fn ready_bytes(&self) -> u64 {
        self.ready.values().map(|ready| u64::from(ready.size)).sum()
    }
}

impl InUse {
    fn live_bytes(&self) -> u64 {
        self.live_page_bytes + self.live_part_bytes
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    pub(crate) size: u32,
}

#[derive(Debug, Default)]
struct Table {
    in_use: BTreeMap<SegmentId, InUse>,
    ready: BTreeMap<FileNo, Ready>,
    /// Nothing in them is needed, and they cannot be used again; see [`Io::is_reserved`](crate::Io).
    spent: Vec<FileNo>,
    /// Highest numbers that were ever given out.
    last_file: FileNo,
    last_segment: SegmentId,
}

/// Changes of live bytes, collected to be applied at once.
#[derive(Debug, Default)]
pub(crate) struct LiveChanges {
    pages: FxHashMap<SegmentId, i64>,
    parts: FxHashMap<SegmentId, i64>,
}

impl LiveChanges {
    /// Counts a page record at `place` in (`sign` 1) or out (-1).
    pub(crate) fn page(&mut self, place: SegmentId, len: u32, sign: i64) {
        *self.pages.entry(place).or_default() += sign * i64::from(len);
    }

    /// Bytes counted in a segment: of pages, and of checkpoint parts.
    pub(crate) fn of(&self, segment: SegmentId) -> (u64, u64) {
        let bytes = |counts: &FxHashMap<SegmentId, i64>| {
            u64::try_from(counts.get(&segment).copied().unwrap_or(0)).unwrap_or(0)
        };
        (bytes(&self.pages), bytes(&self.parts))
    }

    /// The same for a checkpoint part.
    pub(crate) fn part(&mut self, place: SegmentId, len: u32, sign: i64) {
        *self.parts.entry(place).or_default() += sign * i64::from(len);
    }
}

/// A segment as the cleaner sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) segment: SegmentId,
    pub(crate) file: FileNo,
    pub(crate) size: u32,
    pub(crate) live_bytes: u64,
    pub(crate) born: Lsn,
}

/// Sums over all segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) segments: u32,
    pub(crate) ready: u32,
    pub(crate) allocated_bytes: u64,
    pub(crate) ready_bytes: u64,
    /// Bytes that are ready when all is as it should be, or that the cleaner has emptied and that wait
    /// to be.
    pub(crate) kept_bytes: u64,
    /// Bytes of segments in use that the last checkpoint has passed: what the cleaner may look at.
    pub(crate) settled_bytes: u64,
    /// What is live in those.
    pub(crate) settled_live_bytes: u64,
    pub(crate) live_bytes: u64,
}

/// The segments of a store.
#[derive(Debug)]
pub(crate) struct Segments {
    pub(crate) files: SegmentFiles,
    pub(crate) mappings: Mappings,
    format: FormatParams,
    table: Mutex<Table>,
    room: Room,
    /// Held while a segment is made, so that threads that find no room make one and not one each.
    /// `true` once the store is closed: the files may then be somebody else's.
    making: Mutex<bool>,
    pace: Mutex<Pace>,
    /// Batches of the log since the store was opened.
    batches: AtomicU64,
    /// Something was refused for lack of space since the flag was last taken.
    is_starved: AtomicBool,
}

/// A segment handed to the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub(crate) segment: SegmentId,
    pub(crate) file: FileNo,
    pub(crate) size: u32,
}

impl Segments {
    pub(crate) fn new(files: SegmentFiles, format: FormatParams, mapped_max: usize) -> Self {
        Self {
            files,
            mappings: Mappings::new(mapped_max),
            format,
            table: Mutex::default(),
            room: Room::default(),
            making: Mutex::new(false),
            pace: Mutex::default(),
            batches: AtomicU64::new(0),
            is_starved: AtomicBool::new(false),
        }
    }

    pub(crate) fn format(&self) -> FormatParams {
        self.format
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Recovery: a segment that is in use. `sealed_at`: see [`InUse`].
    pub(crate) fn restore_in_use(&self, entry: &SegmentEntry, sealed_at: Lsn) {
        self.files.set_file(entry.segment, entry.file);
        let mut table = self.table();
        table.last_file = table.last_file.max(entry.file);
        table.last_segment = table.last_segment.max(entry.segment);
        table.in_use.insert(
            entry.segment,
            InUse {
                file: entry.file,
                size: entry.size,
                kind: entry.kind,
                live_page_bytes: entry.live_page_bytes,
                live_part_bytes: entry.live_part_bytes,
                pins: 0,
                sealed_at: Some(sealed_at),
                finished_bytes: entry.size,
                born: entry.born,
            },
        );
    }

    /// Recovery: a segment that the log goes through; what the checkpoint said of it stands.
    pub(crate) fn restore_if_new(&self, entry: &SegmentEntry) {
        if !self.is_in_use(entry.segment) {
            self.restore_in_use(entry, Lsn(0));
        }
    }

    /// Recovery: no segment gets this number or a lower one.
    pub(crate) fn reserve_numbers(&self, segment: SegmentId, file: FileNo) {
        let mut table = self.table();
        table.last_file = table.last_file.max(file);
        table.last_segment = table.last_segment.max(segment);
    }

    /// Highest number of a segment so far.
    pub(crate) fn last_segment(&self) -> SegmentId {
        self.table().last_segment
    }

    /// Whether a segment holds, or may hold, something needed.
    pub(crate) fn is_in_use(&self, segment: SegmentId) -> bool {
        self.table().in_use.contains_key(&segment)
    }

    /// Whether the segments that these are in now are in use.
    pub(crate) fn are_in_use(&self, mut references: impl Iterator<Item = StoredRef>) -> bool {
        let segment = |reference: StoredRef| self.files.place(reference.identity()).segment;
        references.all(|reference| {
            let mut at = segment(reference);
            while !self.is_in_use(at) {
                // The cleaner may have moved it, and the segment may be ready by now.
                let before = std::mem::replace(&mut at, segment(reference));
                if before == at {
                    return false;
                }
            }
            true
        })
    }

    /// Recovery: a file that can be used again.
    pub(crate) fn restore_ready(&self, file: FileNo, ready: Ready) {
        let mut table = self.table();
        table.last_file = table.last_file.max(file);
        self.put_ready(&mut table, file, ready);
        self.room.publish(&table.ready);
    }

    /// Takes the smallest ready segment in which `batch_bytes` fit after the header, so that large
    /// ones are left for large records; makes one if need be. `born`: see [`InUse`].
    pub(crate) fn take(&self, batch_bytes: usize, kind: SegmentKind, born: Lsn) -> Result<Taken> {
        let fits = |ready: &Ready| room::usable_bytes(ready.size) >= batch_bytes as u64;
        loop {
            let mut table = self.table();
            let ready = table.ready.iter().filter(|(_, ready)| fits(ready));
            let found =
                ready.min_by_key(|(_, ready)| ready.size).map(|(&file, &ready)| (file, ready));
            if let Some((file, ready)) = found {
                return Ok(self.take_file(&mut table, file, ready, kind, born));
            }
            drop(table);
            self.make(batch_bytes, Make::Reserved, |table| table.ready.values().any(fits))?;
        }
    }

    /// Takes a ready segment in which `bytes` of survivors fit after the header; `None` if there is
    /// none, and none can be made, that neither the checkpoint that is due needs nor what is `buffered`.
    pub(crate) fn take_for_survivors(
        &self,
        bytes: u64,
        born: Lsn,
        buffered: impl Fn() -> usize,
    ) -> Option<Taken> {
        // So many segments are made for it at most: if that is not enough, the cleaner has to wait.
        const MADE_MAX: usize = 8;
        for _ in 0..MADE_MAX {
            let ready = match self.take_spare(bytes, born, &buffered) {
                Ok(taken) => return Some(taken),
                Err(ready) => ready,
            };
            // As long as there is space, the cleaner is not held up: what it takes is made.
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            self.make(bytes, Make::Reserved, |table| table.ready.len() > ready).ok()?;
        }
        self.take_spare(bytes, born, &buffered).ok()
    }

    /// The same, making none; if there is none to spare, says how many are ready.
    fn take_spare(
        &self,
        bytes: u64,
        born: Lsn,
        buffered: impl Fn() -> usize,
    ) -> Result<Taken, usize> {
        let mut table = self.table();
        let wanted = self.size_wanted(table.in_use_bytes());
        let fitting = || table.ready.iter().filter(|(_, ready)| usable_bytes(ready.size) >= bytes);
        let large = fitting().filter(|(_, ready)| ready.size >= wanted);
        let found = large.min_by_key(|(_, ready)| ready.size);
        let found = found.or_else(|| fitting().max_by_key(|(_, ready)| ready.size));
        let Some((file, ready)) = found.map(|(&file, &ready)| (file, ready)) else {
            return Err(table.ready.len());
        };
        let is_enough = |table: &Table, record_bytes: usize| {
            let buffered_bytes = buffered();
            let record_bytes = record_bytes.min(buffered_bytes);
            let demand = Demand { buffered_bytes, record_bytes, purpose: Purpose::Commit };
            self.room.is_enough_in(&table.ready, demand, self.room.reserve_bytes())
        };
        // What was admitted may be one record, which needs a segment twice as large, or many: it is taken for
        // one if there is such a segment, and else may lose none of the largest.
        let is_one = is_enough(&table, usize::MAX);
        // First it is no longer counted as room, then it is looked at what was admitted: a commit that finds
        // room by what was published before is seen here.
        table.ready.remove(&file);
        self.room.publish(&table.ready);
        let is_spare = if is_one {
            is_enough(&table, usize::MAX)
        } else {
            table.ready.values().any(|other| other.size >= ready.size) && is_enough(&table, 0)
        };
        if is_spare {
            return Ok(self.take_file(&mut table, file, ready, SegmentKind::Survivors, born));
        }
        table.ready.insert(file, ready);
        self.room.publish(&table.ready);
        Err(table.ready.len())
    }

    /// What a segment holds.
    pub(crate) fn kind(&self, segment: SegmentId) -> SegmentKind {
        self.table().in_use.get(&segment).map_or(SegmentKind::Log, |entry| entry.kind)
    }

    fn take_file(
        &self,
        table: &mut Table,
        file: FileNo,
        ready: Ready,
        kind: SegmentKind,
        born: Lsn,
    ) -> Taken {
        table.ready.remove(&file);
        self.room.publish(&table.ready);
        let mut pace = self.pace();
        pace.note_ready(table.ready_bytes());
        if kind == SegmentKind::Log {
            pace.taken += 1;
            pace.taken_bytes += u64::from(ready.size);
        }
        drop(pace);
        let next = table.last_segment.0.checked_add(1);
        table.last_segment =
            SegmentId(next.expect("a store has fewer than 2 to the 32nd segments"));
        let segment = table.last_segment;
        self.files.set_file(segment, file);
        table.in_use.insert(
            segment,
            InUse {
                file,
                size: ready.size,
                kind,
                live_page_bytes: 0,
                live_part_bytes: 0,
                pins: 0,
                sealed_at: None,
                finished_bytes: 0,
                born,
            },
        );
        Taken { segment, file, size: ready.size }
    }

    /// Whether a segment is in use and is not written any more: its bytes stay as they are until nothing
    /// in it is needed, and then the file is asked for whether it is reserved.
    pub(crate) fn is_finished(&self, segment: SegmentId) -> bool {
        self.table().in_use.get(&segment).is_some_and(|entry| entry.sealed_at.is_some())
    }

    /// The log has left `segment`; the record after its last one is `at`.
    pub(crate) fn seal(&self, segment: SegmentId, at: Lsn) {
        if let Some(entry) = self.table().in_use.get_mut(&segment) {
            entry.sealed_at = Some(at);
            entry.finished_bytes = entry.size;
        }
        self.mappings.note_change();
    }

    /// The cleaner goes on in `segment` from `bytes` on, and what is before that is synced.
    pub(crate) fn set_finished(&self, segment: SegmentId, bytes: u32) {
        if let Some(entry) = self.table().in_use.get_mut(&segment) {
            entry.finished_bytes = bytes;
        }
        self.mappings.note_change();
    }

    /// Segment files, of those in use and those that are ready.
    pub(crate) fn file_count(&self) -> usize {
        let table = self.table();
        table.in_use.len() + table.ready.len()
    }

    /// Whether a checkpoint would make a segment ready: one that was left and in which nothing is
    /// live.
    pub(crate) fn has_empty(&self) -> bool {
        self.table()
            .in_use
            .values()
            .any(|entry| entry.live_bytes() == 0 && entry.pins == 0 && entry.sealed_at.is_some())
    }

    /// A spilled page must stay, whatever a checkpoint says of its segment.
    pub(crate) fn pin(&self, reference: StoredRef) {
        if let Some(entry) = self.table().in_use.get_mut(&reference.segment) {
            entry.pins += 1;
        }
    }

    /// It no longer has to.
    ///
    /// # Panics
    /// If it was not pinned.
    pub(crate) fn unpin(&self, reference: StoredRef) {
        let mut table = self.table();
        let entry = table.in_use.get_mut(&reference.segment);
        let entry = entry.expect("a segment with a pinned page is in use");
        entry.pins = entry.pins.checked_sub(1).expect("a page is let go once");
    }

    /// Applies collected changes.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a count would fall below zero: the accounting is wrong, or a page map is forged, and
    /// space could be reused that is still needed. The store is to stop.
    pub(crate) fn apply(&self, changes: &LiveChanges) -> Result<()> {
        let mut table = self.table();
        let wrong = |segment: &SegmentId, what: &str| Error::Corrupt {
            path: self.files.describe(),
            offset: 0,
            detail: format!("segment {segment} would hold fewer live bytes of {what} than none"),
        };
        for (segment, delta) in &changes.pages {
            let live = table.in_use.get_mut(segment).and_then(|entry| {
                entry.live_page_bytes = entry.live_page_bytes.checked_add_signed(*delta)?;
                Some(())
            });
            live.ok_or_else(|| wrong(segment, "pages"))?;
        }
        for (segment, delta) in &changes.parts {
            let live = table.in_use.get_mut(segment).and_then(|entry| {
                entry.live_part_bytes = entry.live_part_bytes.checked_add_signed(*delta)?;
                Some(())
            });
            live.ok_or_else(|| wrong(segment, "checkpoint parts"))?;
        }
        Ok(())
    }

    /// The segments in use, as a checkpoint stores them.
    pub(crate) fn entries(&self) -> Vec<SegmentEntry> {
        let table = self.table();
        let entry = |(&segment, entry): (&SegmentId, &InUse)| SegmentEntry {
            segment,
            file: entry.file,
            size: entry.size,
            kind: entry.kind,
            live_page_bytes: entry.live_page_bytes,
            live_part_bytes: entry.live_part_bytes,
            born: entry.born,
        };
        table.in_use.iter().map(entry).collect()
    }

    /// Segments that the cleaner may take things out of: recovery does not read them, if it starts
    /// in `replay_segment` at `replay_lsn`.
    pub(crate) fn candidates(
        &self,
        replay_segment: Option<SegmentId>,
        replay_lsn: Lsn,
    ) -> Vec<Candidate> {
        let table = self.table();
        let settled = table.in_use.iter().filter(|(segment, entry)| {
            is_settled(**segment, entry, replay_segment, replay_lsn) && entry.pins == 0
        });
        settled
            .map(|(&segment, entry)| Candidate {
                segment,
                file: entry.file,
                size: entry.size,
                live_bytes: entry.live_bytes(),
                born: entry.born,
            })
            .collect()
    }

    /// After a checkpoint is durable: makes ready what it found empty. Recovery starts in
    /// `replay_segment`, at `replay_lsn`; snapshots read `pinned`. Where a page is held in place, the
    /// segment waits for a later checkpoint.
    pub(crate) fn recycle(
        &self,
        replay_segment: Option<SegmentId>,
        replay_lsn: Lsn,
        pinned: &FxHashSet<SegmentId>,
    ) {
        let mut table = self.table();
        let mut empty = Vec::new();
        for (&segment, entry) in &table.in_use {
            // 1. The checkpoint must not need it, nor an open transaction. 2. No snapshot may.
            // 3. Recovery must not read it: the replay position has passed it and is elsewhere.
            if entry.live_bytes() == 0
                && entry.pins == 0
                && !pinned.contains(&segment)
                && is_settled(segment, entry, replay_segment, replay_lsn)
            {
                empty.push((segment, entry.file, entry.size));
            }
        }
        for (segment, file, size) in empty {
            if self.mappings.remove(segment).is_err() {
                continue;
            }
            self.files.forget(segment);
            table.in_use.remove(&segment);
            self.put_ready(&mut table, file, Ready { size });
        }
        self.room.publish(&table.ready);
    }

    /// A file in which nothing is needed: ready, if writing into it cannot fail for lack of space.
    fn put_ready(&self, table: &mut Table, file: FileNo, ready: Ready) {
        if self.files.is_reserved(file) {
            table.ready.insert(file, ready);
        } else {
            table.spent.push(file);
        }
    }

    /// Recovery, when it is known what is in use: ends forwards to what is not. A checkpoint leads to
    /// segments in which nothing is live, and they may have been put to use before the crash.
    pub(crate) fn forget_unused_targets(&self) {
        for target in self.files.with_forwards(|forwards| forwards.targets()) {
            if !self.is_in_use(target) {
                self.files.forget(target);
            }
        }
    }

    pub(crate) fn totals(&self, replay_segment: Option<SegmentId>, replay_lsn: Lsn) -> Totals {
        let table = self.table();
        let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let mut totals = Totals {
            segments: count(table.in_use.len() + table.ready.len()),
            ready: count(table.ready.len()),
            ready_bytes: table.ready_bytes(),
            ..Totals::default()
        };
        totals.allocated_bytes = totals.ready_bytes;
        for (&segment, entry) in &table.in_use {
            totals.allocated_bytes += u64::from(entry.size);
            totals.live_bytes += entry.live_bytes();
            if is_settled(segment, entry, replay_segment, replay_lsn) {
                totals.settled_bytes += u64::from(entry.size);
                totals.settled_live_bytes += entry.live_bytes();
            }
        }
        let in_use = totals.allocated_bytes - totals.ready_bytes;
        totals.kept_bytes =
            ready_bytes_kept(self.size_wanted(in_use), in_use) + in_use / READY_SHARE;
        totals
    }
}

fn is_settled(
    segment: SegmentId,
    entry: &InUse,
    replay_segment: Option<SegmentId>,
    replay_lsn: Lsn,
) -> bool {
    entry.sealed_at.is_some_and(|at| at <= replay_lsn) && Some(segment) != replay_segment
}

/// What the store was doing, for errors of segment files.
pub(crate) fn io_error(
    files: &SegmentFiles,
    operation: &'static str,
    segment: SegmentId,
    offset: Option<u64>,
    source: std::io::Error,
) -> Error {
    Error::Io { operation, path: files.path(segment), offset, source }
}

/// The shared handle of an open segment file.
pub(crate) type SegmentFile = Arc<dyn crate::io::IoFile>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::MemoryIo;

    /// If this fails, the cleaner makes segments until the disk is full, since no number of them is twice as
    /// large as all that is buffered; or it does nothing while anything is.
    #[test]
    fn the_cleaner_takes_what_can_be_spared_and_makes_few_segments() {
        let format = FormatParams { segment_bytes_min: 64 << 10, segment_bytes_max: 64 << 10 };
        let segments = Segments::new(SegmentFiles::new(Arc::new(MemoryIo::new()), 16), format, 0);
        for _ in 0..40 {
            segments.make(0, Make::Reserved, |_| false).unwrap();
        }
        let taken = segments.take_for_survivors(10_000, Lsn(1), || 200_000);
        assert!(taken.is_some(), "there is room for as much in what is left");
        assert_eq!(segments.file_count(), 40);
        let taken = segments.take_for_survivors(10_000, Lsn(1), || 100 << 20);
        assert!(taken.is_none(), "there is not");
        assert!(segments.file_count() <= 48, "{} files", segments.file_count());
    }
}
