//! Segment files: which there are, what is live in them, and which are ready to be written.
//!
//! A segment goes round: *ready* (its blocks are allocated, so that a write to it cannot fail for
//! lack of space; and mostly filled through, so that a sync is one device flush and no file-system
//! journal commit) -> *in use* (the log is
//! writing it, or has) -> *ready* again, when a checkpoint finds nothing live in it.

mod files;
mod room;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;

pub(crate) use files::{Make, SegmentFiles};
pub(crate) use room::Purpose;

use crate::config::FormatParams;
use crate::error::{Error, Result};
use crate::format::StoredRef;
use crate::format::catalog::SegmentEntry;
use crate::io::FileName;
use crate::types::{Generation, Lsn, SegmentId};
use room::{Demand, Room};

/// A segment that holds, or may hold, something needed.
#[derive(Clone, Copy, Debug)]
struct InUse {
    generation: Generation,
    size: u32,
    /// Bytes of page records that durable versions refer to.
    live_page_bytes: u64,
    /// Bytes of checkpoint parts that the newest checkpoint refers to.
    live_part_bytes: u64,
    /// Bytes that only snapshots, or transactions that spilled, still need. Below zero for a moment
    /// when a snapshot ends while the batch that pinned the page for it is being published.
    pinned_bytes: i64,
    /// The LSN after its last record; `None` while the log is writing it. Recovery needs the
    /// segment until the replay position has passed this.
    sealed_at: Option<Lsn>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    /// Generation it had when it was last in use.
    pub(crate) generation: Generation,
    pub(crate) size: u32,
}

#[derive(Debug, Default)]
struct Table {
    in_use: BTreeMap<SegmentId, InUse>,
    ready: BTreeMap<SegmentId, Ready>,
    /// Numbers of files that could not be completed and are taken.
    next: u32,
}

/// Changes of live bytes, collected to be applied at once.
#[derive(Debug, Default)]
pub(crate) struct LiveChanges {
    pages: FxHashMap<SegmentId, i64>,
    pins: FxHashMap<SegmentId, i64>,
}

impl LiveChanges {
    /// Durable versions refer to the page from now on.
    pub(crate) fn add(&mut self, reference: StoredRef) {
        *self.pages.entry(reference.segment).or_default() += i64::from(reference.len);
    }

    /// No durable version refers to the page any more.
    pub(crate) fn remove(&mut self, reference: StoredRef) {
        *self.pages.entry(reference.segment).or_default() -= i64::from(reference.len);
    }

    /// A snapshot or an open transaction needs the page.
    pub(crate) fn pin(&mut self, reference: StoredRef) {
        *self.pins.entry(reference.segment).or_default() += i64::from(reference.len);
    }

    /// It no longer does.
    pub(crate) fn unpin(&mut self, reference: StoredRef) {
        *self.pins.entry(reference.segment).or_default() -= i64::from(reference.len);
    }
}

/// The segments of a store.
#[derive(Debug)]
pub(crate) struct Segments {
    pub(crate) files: SegmentFiles,
    format: FormatParams,
    table: Mutex<Table>,
    room: Room,
    /// Held while a segment is made, so that threads that find no room make one and not one each.
    /// `true` once the store is closed: the files may then be somebody else's.
    making: Mutex<bool>,
    pace: Mutex<Pace>,
    /// Something was refused for lack of space since the flag was last taken.
    is_starved: AtomicBool,
}

/// How fast the log takes segments, on the clock of [`Segments::fill_ahead`].
#[derive(Debug, Default)]
struct Pace {
    /// Segments taken, counted by [`Segments::take`].
    taken: u64,
    seen: u64,
    last_ns: u64,
    busy_until_ns: u64,
}

impl Pace {
    /// The log is busy if it takes segments less than an interval apart.
    fn is_busy(&mut self, now_ns: u64) -> bool {
        if self.seen != self.taken {
            if self.seen > 0 && now_ns.saturating_sub(self.last_ns) < FILL_INTERVAL_NS {
                self.busy_until_ns = now_ns + FILL_INTERVAL_NS;
            }
            self.seen = self.taken;
            self.last_ns = now_ns;
        }
        now_ns < self.busy_until_ns
    }
}

/// A segment is only filled with zeros if the log needs more than this for one. If it does not, its
/// flushes are large, so that what a flush to new blocks costs more is little to each commit, while
/// filling would double what is written.
const FILL_INTERVAL_NS: u64 = 1_000_000_000;

/// Most of the reserve that one new segment is made for.
const RESERVE_BYTES_PER_SEGMENT: usize = 1 << 20;

/// A segment handed to the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub(crate) segment: SegmentId,
    pub(crate) generation: Generation,
    pub(crate) size: u32,
}

impl Segments {
    pub(crate) fn new(files: SegmentFiles, format: FormatParams) -> Self {
        Self {
            files,
            format,
            table: Mutex::default(),
            room: Room::default(),
            making: Mutex::new(false),
            pace: Mutex::default(),
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
        let mut table = self.table();
        table.next = table.next.max(entry.segment.0);
        table.in_use.insert(
            entry.segment,
            InUse {
                generation: entry.generation,
                size: entry.size,
                live_page_bytes: entry.live_page_bytes,
                live_part_bytes: entry.live_part_bytes,
                pinned_bytes: 0,
                sealed_at: Some(sealed_at),
            },
        );
    }

    /// Recovery: a segment that the log goes through; what the checkpoint said of it stands.
    pub(crate) fn restore_if_new(&self, entry: &SegmentEntry) {
        if !self.is_in_use(entry.segment) {
            self.restore_in_use(entry, Lsn(0));
        }
    }

    /// Whether a segment holds, or may hold, something needed.
    pub(crate) fn is_in_use(&self, segment: SegmentId) -> bool {
        self.table().in_use.contains_key(&segment)
    }

    /// Recovery: a segment that can be used again.
    pub(crate) fn restore_ready(&self, segment: SegmentId, ready: Ready) {
        let mut table = self.table();
        table.next = table.next.max(segment.0);
        table.ready.insert(segment, ready);
        self.room.publish(&table.ready);
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Size that a new segment should have: an eighth of what is in use, within the format's bounds.
    fn size_wanted(&self, table: &Table) -> u32 {
        let in_use: u64 = table.in_use.values().map(|entry| u64::from(entry.size)).sum();
        let eighth = u32::try_from(in_use / 8).unwrap_or(u32::MAX / 2).max(1);
        eighth
            .checked_next_power_of_two()
            .unwrap_or(self.format.segment_bytes_max)
            .clamp(self.format.segment_bytes_min, self.format.segment_bytes_max)
    }

    /// Takes the smallest ready segment in which `batch_bytes` fit after the header, so that large
    /// ones are left for large records; makes one if need be.
    pub(crate) fn take(&self, batch_bytes: usize) -> Result<Taken> {
        loop {
            let mut table = self.table();
            let fits = |ready: &Ready| room::usable_bytes(ready.size) >= batch_bytes as u64;
            let ready = table.ready.iter().filter(|(_, ready)| fits(ready));
            let found = ready.min_by_key(|(_, ready)| ready.size).map(|(&id, &ready)| (id, ready));
            if let Some((segment, ready)) = found {
                table.ready.remove(&segment);
                self.room.publish(&table.ready);
                self.pace().taken += 1;
                let generation = Generation(ready.generation.0 + 1);
                table.in_use.insert(
                    segment,
                    InUse {
                        generation,
                        size: ready.size,
                        live_page_bytes: 0,
                        live_part_bytes: 0,
                        pinned_bytes: 0,
                        sealed_at: None,
                    },
                );
                return Ok(Taken { segment, generation, size: ready.size });
            }
            drop(table);
            self.make(batch_bytes, Make::Reserved, |table| table.ready.values().any(fits))?;
        }
    }

    /// The log has left `segment`; the record after its last one is `at`.
    pub(crate) fn seal(&self, segment: SegmentId, at: Lsn) {
        if let Some(entry) = self.table().in_use.get_mut(&segment) {
            entry.sealed_at = Some(at);
        }
    }

    /// Makes a segment ready in which `bytes` of records count as fitting, or of the size wanted if
    /// that is larger; does nothing if, by the time it is this thread's turn, `is_done`.
    fn make(&self, bytes: usize, how: Make, is_done: impl Fn(&Table) -> bool) -> Result<()> {
        let closed = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if *closed {
            return Err(Error::Closed);
        }
        let (segment, size) = {
            let mut table = self.table();
            if is_done(&table) {
                return Ok(());
            }
            table.next += 1;
            (SegmentId(table.next), self.size_wanted(&table))
        };
        let size_of = |wanted: u32| {
            room::size_for(bytes, wanted).ok_or_else(|| {
                let what = "bytes are too much at once; use smaller transactions";
                Error::InvalidInput(format!("{bytes} {what}"))
            })
        };
        let (mut size, smallest) = (size_of(size)?, size_of(self.format.segment_bytes_min)?);
        while let Err(error) = self.files.make(segment, size, how) {
            // What was made of the file is of no use; if it cannot be removed either, the next
            // open does it.
            let _ = self.files.remove(segment);
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
        table.ready.insert(segment, Ready { generation: Generation(0), size });
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
            let active = self.room.active_bytes();
            let is_done = |table: &Table| room::is_enough_in(&table.ready, active, demand, reserve);
            if is_done(&self.table()) {
                return Ok(());
            }
            // What is to be kept back may be made up of several segments.
            let reserve = usize::try_from(reserve).unwrap_or(usize::MAX);
            let bytes = match purpose {
                Purpose::Commit => buffered_bytes.max(reserve.min(RESERVE_BYTES_PER_SEGMENT)),
                Purpose::Delete | Purpose::Checkpoint => buffered_bytes,
            };
            self.make(bytes, Make::Reserved, is_done).inspect_err(|error| {
                if matches!(error, Error::NoSpace { .. }) {
                    self.is_starved.store(true, Ordering::Relaxed);
                }
            })?;
        }
        Ok(())
    }

    /// The log has so many bytes left in the segment that it is writing.
    pub(crate) fn set_active_room(&self, bytes: u32) {
        self.room.set_active(bytes);
    }

    /// Bytes that the checkpoint that is due would write: commits leave room for them.
    pub(crate) fn set_reserve(&self, bytes: u64) {
        self.room.set_reserve(bytes);
    }

    /// The same of the checkpoint that is being taken.
    pub(crate) fn set_reserve_in_flight(&self, bytes: u64) {
        self.room.set_reserve_in_flight(bytes);
    }

    /// Makes a segment ahead of need if few are ready; says whether it did.
    pub(crate) fn fill_ahead(&self, now_ns: u64) -> Result<bool> {
        let is_busy = self.pace().is_busy(now_ns);
        let is_done = |table: &Table| {
            let wanted = self.size_wanted(table);
            let large = table.ready.values().filter(|ready| ready.size >= wanted).count();
            // One in reserve, and two for what comes next, of the size the store has grown to; a
            // busy log has taken them before the next ones are made, so it needs more.
            table.ready.len() >= 3 && large >= if is_busy { 3 } else { 1 }
        };
        if is_done(&self.table()) {
            return Ok(false);
        }
        let how = if is_busy { Make::Reserved } else { Make::Filled };
        self.make(0, how, is_done)?;
        Ok(true)
    }

    /// Whether a commit was refused for lack of space since this was last asked.
    pub(crate) fn take_starved(&self) -> bool {
        self.is_starved.swap(false, Ordering::Relaxed)
    }

    /// Whether a checkpoint would make a segment ready: one that the log has left and in which
    /// nothing is live.
    pub(crate) fn has_empty(&self) -> bool {
        self.table().in_use.values().any(|entry| {
            entry.live_page_bytes == 0
                && entry.live_part_bytes == 0
                && entry.pinned_bytes == 0
                && entry.sealed_at.is_some()
        })
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
        for (segment, delta) in &changes.pins {
            let entry = table.in_use.get_mut(segment).expect("pinned pages are in segments in use");
            entry.pinned_bytes += delta;
        }
    }

    /// Counts checkpoint parts in (`+`) or out (`-`).
    ///
    /// # Panics
    /// As [`apply`](Self::apply).
    pub(crate) fn apply_part(&self, reference: StoredRef, sign: i64) {
        let mut table = self.table();
        let entry = table
            .in_use
            .get_mut(&reference.segment)
            .expect("checkpoint parts are in segments in use");
        entry.live_part_bytes = entry
            .live_part_bytes
            .checked_add_signed(sign * i64::from(reference.len))
            .expect("a segment has no fewer than 0 live bytes of checkpoint parts");
    }

    /// The table as a checkpoint stores it.
    pub(crate) fn entries(&self) -> Vec<SegmentEntry> {
        let table = self.table();
        let in_use = table.in_use.iter().map(|(&segment, entry)| SegmentEntry {
            segment,
            generation: entry.generation,
            size: entry.size,
            is_ready: false,
            live_page_bytes: entry.live_page_bytes,
            live_part_bytes: entry.live_part_bytes,
        });
        let ready = table.ready.iter().map(|(&segment, ready)| SegmentEntry {
            segment,
            generation: ready.generation,
            size: ready.size,
            is_ready: true,
            live_page_bytes: 0,
            live_part_bytes: 0,
        });
        let mut entries: Vec<_> = in_use.chain(ready).collect();
        entries.sort_by_key(|entry| entry.segment);
        entries
    }

    /// After a checkpoint is durable: makes ready what it found empty. `cut` is the table as it
    /// was at the checkpoint; recovery starts in `replay_segment`, at `replay_lsn`.
    pub(crate) fn recycle(
        &self,
        cut: &[SegmentEntry],
        replay_segment: Option<SegmentId>,
        replay_lsn: Lsn,
    ) {
        let mut table = self.table();
        for at_cut in cut.iter().filter(|entry| entry.live_page_bytes == 0) {
            let Some(entry) = table.in_use.get(&at_cut.segment) else { continue };
            // 1. The checkpoint must not need it (pages: at the cut; parts: now, since they were
            //    written after the cut). 2. No version, snapshot or open transaction may need it.
            // 3. Recovery must not read it: the replay position has passed it and is elsewhere.
            let empty = entry.live_page_bytes == 0
                && entry.live_part_bytes == 0
                && entry.pinned_bytes == 0
                && entry.sealed_at.is_some_and(|at| at <= replay_lsn)
                && Some(at_cut.segment) != replay_segment;
            if empty {
                let ready = Ready { generation: entry.generation, size: entry.size };
                table.in_use.remove(&at_cut.segment);
                table.ready.insert(at_cut.segment, ready);
            }
        }
        self.room.publish(&table.ready);
    }

    /// (segments, allocated bytes, live bytes, ready segments)
    pub(crate) fn totals(&self) -> (u32, u64, u64, u32) {
        let table = self.table();
        let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let live =
            table.in_use.values().map(|entry| entry.live_page_bytes + entry.live_part_bytes).sum();
        let segments = count(table.in_use.len() + table.ready.len());
        (segments, allocated_bytes(&table), live, count(table.ready.len()))
    }
}

fn allocated_bytes(table: &Table) -> u64 {
    let in_use = table.in_use.values().map(|entry| u64::from(entry.size));
    in_use.chain(table.ready.values().map(|ready| u64::from(ready.size))).sum()
}

/// What the store was doing, for errors of segment files.
pub(crate) fn io_error(
    files: &SegmentFiles,
    operation: &'static str,
    segment: SegmentId,
    offset: Option<u64>,
    source: std::io::Error,
) -> Error {
    let path = format!("{}/{}", files.describe(), FileName::Segment(segment));
    Error::Io { operation, path, offset, source }
}

/// The shared handle of an open segment file.
pub(crate) type SegmentFile = Arc<dyn crate::io::IoFile>;
