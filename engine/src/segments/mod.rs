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
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::types::{FileNo, Lsn, SegmentId};
use pace::Pace;
use room::{Demand, Room};

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

/// Segments that the log should not need more than of in a second.
const SEGMENTS_PER_SECOND: u64 = 64;

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

    /// Recovery: a file that can be used again.
    pub(crate) fn restore_ready(&self, file: FileNo, ready: Ready) {
        let mut table = self.table();
        table.last_file = table.last_file.max(file);
        self.put_ready(&mut table, file, ready);
        self.room.publish(&table.ready);
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Size that a new segment should have, within the format's bounds: little of what is in use, so
    /// that a few that are ready or half empty take little space; but not so little that the log needs
    /// a new one all the time.
    fn size_wanted(&self, in_use: u64) -> u32 {
        const SHARE: u64 = 512;
        let wanted = (in_use / SHARE).max(self.pace().bytes_per_second / SEGMENTS_PER_SECOND);
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX / 2).max(1);
        wanted
            .checked_next_power_of_two()
            .unwrap_or(self.format.segment_bytes_max)
            .clamp(self.format.segment_bytes_min, self.format.segment_bytes_max)
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
        let fits = |ready: &Ready| usable_bytes(ready.size) >= bytes;
        loop {
            let mut table = self.table();
            let wanted = self.size_wanted(table.in_use_bytes());
            let fitting = || table.ready.iter().filter(|(_, ready)| fits(ready));
            let large = fitting().filter(|(_, ready)| ready.size >= wanted);
            let found = large.min_by_key(|(_, ready)| ready.size);
            let found = found.or_else(|| fitting().max_by_key(|(_, ready)| ready.size));
            if let Some((file, ready)) = found.map(|(&file, &ready)| (file, ready)) {
                // First it is no longer counted as room, then it is looked at what was admitted: a commit
                // that finds room by what was published before is seen here.
                table.ready.remove(&file);
                self.room.publish(&table.ready);
                let buffered_bytes = buffered();
                let demand = Demand {
                    buffered_bytes,
                    record_bytes: buffered_bytes,
                    purpose: Purpose::Commit,
                };
                if self.room.is_enough_in(&table.ready, demand, self.room.reserve_bytes()) {
                    let kind = SegmentKind::Survivors;
                    return Some(self.take_file(&mut table, file, ready, kind, born));
                }
                table.ready.insert(file, ready);
                self.room.publish(&table.ready);
            }
            let ready = table.ready.len();
            drop(table);
            // As long as there is space, the cleaner is not held up: what it takes is made.
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            let is_done = |table: &Table| table.ready.len() > ready;
            if self.make(bytes, Make::Reserved, is_done).is_err() {
                return None;
            }
        }
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

    /// Makes a segment ready in which `bytes` of records count as fitting, or of the size wanted if
    /// that is larger; does nothing if, by the time it is this thread's turn, `is_done`.
    fn make(&self, bytes: usize, how: Make, is_done: impl Fn(&Table) -> bool) -> Result<()> {
        let closed = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if *closed {
            return Err(Error::Closed);
        }
        let (file, size) = {
            let mut table = self.table();
            if is_done(&table) {
                return Ok(());
            }
            table.last_file = FileNo(table.last_file.0 + 1);
            (table.last_file, self.size_wanted(table.in_use_bytes()))
        };
        let size_of = |wanted: u32| {
            self.room.size_for(bytes, wanted).ok_or_else(|| {
                let what = "bytes are too much at once; use smaller transactions";
                Error::InvalidInput(format!("{bytes} {what}"))
            })
        };
        let (mut size, smallest) = (size_of(size)?, size_of(self.format.segment_bytes_min)?);
        while let Err(error) = self.files.make(file, size, how) {
            // What was made of the file is of no use; if it cannot be removed either, the next
            // open does it.
            let _ = self.files.remove(file);
            if !error.is_disk_full() {
                return Err(error);
            }
            if size == smallest {
                let path = self.files.describe();
                return Err(Error::NoSpace { path, needed_bytes: u64::from(size) });
            }
            // A small one may still fit.
            size = smallest;
        }
        let mut table = self.table();
        table.ready.insert(file, Ready { size });
        self.room.publish(&table.ready);
        Ok(())
    }

    /// Ends the making of segments: whoever is at it is waited for.
    pub(crate) fn close(&self) {
        *self.making.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Sees to it that what is buffered finds room when it is written, `buffered_bytes` of records,
    /// none of them longer than those admitted before and `record_bytes`.
    pub(crate) fn ensure_room(
        &self,
        buffered_bytes: usize,
        record_bytes: usize,
        purpose: Purpose,
    ) -> Result<()> {
        let demand = Demand { buffered_bytes, record_bytes, purpose };
        while !self.room.is_enough(demand) {
            let reserve = self.room.reserve_bytes();
            let is_done = |table: &Table| self.room.is_enough_in(&table.ready, demand, reserve);
            if is_done(&self.table()) {
                return Ok(());
            }
            // What is to be kept back may be made up of several segments.
            let reserve = usize::try_from(reserve).unwrap_or(usize::MAX);
            let bytes = match purpose {
                Purpose::Commit => {
                    let wanted =
                        usize::try_from(self.size_wanted(self.table().in_use_bytes())).unwrap_or(0);
                    buffered_bytes.max(reserve.min(wanted / 2))
                }
                Purpose::Delete | Purpose::Checkpoint => buffered_bytes,
            };
            self.make(bytes, Make::Reserved, is_done).map_err(|error| match error {
                Error::NoSpace { path, needed_bytes } => {
                    self.is_starved.store(true, Ordering::Relaxed);
                    // Of the size that there was no room for, as many as it takes.
                    let size = u32::try_from(needed_bytes).unwrap_or(u32::MAX);
                    let ready = &self.table().ready;
                    let needed_bytes = self.room.lacking_files_bytes(ready, demand, size);
                    Error::NoSpace { path, needed_bytes }
                }
                other => other,
            })?;
        }
        Ok(())
    }

    /// The log has left the segment that it was writing.
    pub(crate) fn note_left(&self) {
        self.room.set_active(0);
    }

    /// The log has written a batch, and has so many bytes left in the segment that it is writing.
    pub(crate) fn note_batch(&self, room: u32) {
        self.room.set_active(room);
        self.batches.fetch_add(1, Ordering::Relaxed);
    }

    fn is_busy(&self, now_ns: u64) -> bool {
        self.pace().is_busy(now_ns, self.batches.load(Ordering::Relaxed))
    }

    /// Bytes that the checkpoint that is due would write: commits leave room for them.
    pub(crate) fn set_reserve(&self, parts: u64, images: u64) {
        self.room.set_reserve(parts, images);
    }

    /// Bytes that it would write besides what changed, and its largest record; whether facets share
    /// anything.
    pub(crate) fn set_others(&self, bytes: usize, largest: usize, is_shared: bool) {
        let table = self.table();
        self.room.set_others(bytes as u64, largest as u64, is_shared);
        self.room.publish(&table.ready);
    }

    /// So many more.
    pub(crate) fn add_others(&self, bytes: usize) {
        self.room.add_others(bytes as u64);
    }

    /// Facets are about to share something.
    pub(crate) fn set_shared(&self) {
        self.room.set_shared();
    }

    /// So many bytes come to what changed when what is being admitted is published.
    pub(crate) fn grow_reserve(&self, bytes: u64) {
        self.room.grow(bytes);
    }

    /// They were counted there, or it is not appended.
    pub(crate) fn reserve_grown(&self, bytes: u64) {
        self.room.grown(bytes);
    }

    /// Segment files, of those in use and those that are ready.
    pub(crate) fn file_count(&self) -> usize {
        let table = self.table();
        table.in_use.len() + table.ready.len()
    }

    /// The same of the checkpoint that is being taken.
    pub(crate) fn set_reserve_in_flight(&self, parts: u64, images: u64) {
        self.room.set_reserve_in_flight(parts, images);
    }

    /// Makes a segment ahead of need if few are ready; says whether it did.
    pub(crate) fn fill_ahead(&self, now_ns: u64) -> Result<bool> {
        let is_busy = self.is_busy(now_ns);
        let is_done = |table: &Table| {
            let wanted = self.size_wanted(table.in_use_bytes());
            self.is_ahead(&table.ready, wanted, is_busy, self.room.reserve_bytes())
        };
        if is_done(&self.table()) {
            return Ok(false);
        }
        let is_costly = is_busy && self.pace().are_batches_large();
        let how = if is_costly { Make::Reserved } else { Make::Filled };
        self.make(0, how, is_done)?;
        Ok(true)
    }

    /// Whether `ready` is enough: one in reserve, and two for what comes next, of the size the store
    /// has grown to; a busy log has taken them before the next ones are made, so it needs more. And
    /// what commits have to leave to the next checkpoint, `back`, or they would make it themselves.
    fn is_ahead(
        &self,
        ready: &BTreeMap<FileNo, Ready>,
        wanted: u32,
        is_busy: bool,
        back: u64,
    ) -> bool {
        let large = ready.values().filter(|ready| ready.size >= wanted).count();
        let buffered_bytes = usize::try_from(wanted).unwrap_or(usize::MAX);
        let demand = Demand { buffered_bytes, record_bytes: 0, purpose: Purpose::Commit };
        ready.len() >= 3
            && large >= if is_busy { 3 } else { 1 }
            && self.room.is_enough_in(ready, demand, back)
    }

    /// Whether a commit was refused for lack of space since this was last asked.
    pub(crate) fn take_starved(&self) -> bool {
        self.is_starved.swap(false, Ordering::Relaxed)
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
    /// # Panics
    /// If a count would fall below zero: the accounting is then wrong, and space could be reused
    /// that is still needed.
    pub(crate) fn apply(&self, changes: &LiveChanges) {
        let mut table = self.table();
        for (segment, delta) in &changes.pages {
            let entry = table.in_use.get_mut(segment).expect("live pages are in segments in use");
            entry.live_page_bytes = entry
                .live_page_bytes
                .checked_add_signed(*delta)
                .expect("a segment has no fewer than 0 live bytes of pages");
        }
        for (segment, delta) in &changes.parts {
            let entry =
                table.in_use.get_mut(segment).expect("checkpoint parts are in segments in use");
            entry.live_part_bytes = entry
                .live_part_bytes
                .checked_add_signed(*delta)
                .expect("a segment has no fewer than 0 live bytes of checkpoint parts");
        }
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

    /// Removes a file that cannot be used again, or one that is ready, if there are more than the log
    /// and the cleaner will need soon, or one that is much larger than they will; says whether it did.
    pub(crate) fn trim(&self, now_ns: u64) -> Result<bool> {
        let closed = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if *closed {
            return Err(Error::Closed);
        }
        let spent = self.table().spent.pop();
        if let Some(file) = spent {
            self.files.remove(file)?;
            return Ok(true);
        }
        let is_busy = self.is_busy(now_ns);
        let file = {
            let mut table = self.table();
            let in_use = table.in_use_bytes();
            let wanted = self.size_wanted(in_use);
            let ready = table.ready_bytes();
            let back = self.room.reserve_bytes();
            let (low, back_max) = self.pace().lately(now_ns, ready, back);
            let keep = ready_bytes_kept(wanted, in_use);
            let ready = if is_busy { low.max(ready.saturating_sub(2 * keep)) } else { ready };
            let size_max = (2 * u64::from(wanted)).max(in_use / READY_SHARE);
            // One that is too large, or else a small one, so that they come to be of the size wanted.
            let size = |ready: &Ready| u64::from(ready.size);
            let large = table.ready.iter().find(|(_, ready)| size(ready) > size_max);
            let found = large.or_else(|| table.ready.iter().min_by_key(|(_, ready)| ready.size));
            let Some((&file, size)) = found.map(|(file, ready)| (file, size(ready))) else {
                return Ok(false);
            };
            let spare = if large.is_some() { ready } else { ready.saturating_sub(keep) };
            if spare < size {
                return Ok(false);
            }
            // Not what would have to be made again at once.
            let mut left = table.ready.clone();
            left.remove(&file);
            if !self.is_ahead(&left, wanted, is_busy, back_max) {
                return Ok(false);
            }
            self.pace().removed(size);
            table.ready.remove(&file);
            self.room.publish(&table.ready);
            file
        };
        self.files.remove(file)?;
        Ok(true)
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

/// More ready bytes than so many segments of the size wanted, and than this share of what is in use, are
/// given back to the file system, unless they are what the log and the next checkpoint need.
const READY_SEGMENTS: u64 = 4;
const READY_SHARE: u64 = 64;

fn ready_bytes_kept(wanted: u32, in_use: u64) -> u64 {
    (READY_SEGMENTS * u64::from(wanted)).max(in_use / READY_SHARE)
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
