//! Which segments are made ahead of need, how much of them is kept back and for whom, and which are given
//! back to the file system.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use super::pace::Pace;
use super::room::{Demand, Purpose};
use super::{Make, Ready, Segments, Table};
use crate::error::{Error, Result};
use crate::sync::MutexGuard;
use crate::sync::atomic::Ordering;
use crate::types::FileNo;

/// Segments that the log should not need more than of in a second.
const SEGMENTS_PER_SECOND: u64 = 64;

/// More ready bytes than so many segments of the size wanted, and than this share of what is in use, are
/// given back to the file system, unless they are what the log and the next checkpoint need.
const READY_SEGMENTS: u64 = 4;
pub(super) const READY_SHARE: u64 = 64;

/// What is kept back for a checkpoint should not take more segments than this.
const RESERVE_SEGMENTS: u64 = 16;
/// It grows with every commit, and a commit that finds too little makes a segment itself: so this share of
/// it more is made ahead.
const RESERVE_AHEAD: u64 = 4;

pub(super) fn ready_bytes_kept(wanted: u32, in_use: u64) -> u64 {
    (READY_SEGMENTS * u64::from(wanted)).max(in_use / READY_SHARE)
}

impl Segments {
    pub(super) fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Size that a new segment should have, within the format's bounds: little of what is in use, so
    /// that a few that are ready or half empty take little space; but not so little that the log needs
    /// a new one all the time, or a checkpoint dozens.
    pub(super) fn size_wanted(&self, in_use: u64) -> u32 {
        const SHARE: u64 = 512;
        let wanted = (in_use / SHARE)
            .max(self.pace().bytes_per_second / SEGMENTS_PER_SECOND)
            .max(self.room.reserve_bytes() / RESERVE_SEGMENTS);
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX / 2).max(1);
        wanted
            .checked_next_power_of_two()
            .unwrap_or(self.format.segment_bytes_max)
            .clamp(self.format.segment_bytes_min, self.format.segment_bytes_max)
    }

    /// Makes a segment ready in which `bytes` of records count as fitting, or of the size wanted if
    /// that is larger; does nothing if, by the time it is this thread's turn, `is_done`.
    pub(super) fn make(
        &self,
        bytes: usize,
        how: Make,
        is_done: impl Fn(&Table) -> bool,
    ) -> Result<()> {
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
            && self.room.is_enough_in(ready, demand, back + back / RESERVE_AHEAD)
    }

    /// Whether a commit was refused for lack of space since this was last asked.
    pub(crate) fn take_starved(&self) -> bool {
        self.is_starved.swap(false, Ordering::Relaxed)
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
}
