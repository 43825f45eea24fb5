//! Room in ready segments, admitted before it is used.
//!
//! A commit is refused *before* anything of it is appended unless ready segments are sure to hold
//! it. So a full disk is an error of that one transaction: by the time bytes are written to the log,
//! their blocks exist.
//!
//! The bound: records are not split, so a segment is left when the next record does not fit; if no
//! record is larger than half of it, it is then at least half full. So what is buffered fits if it
//! is at most half of what the ready segments hold, counting only those that are twice as large as
//! the record.
//!
//! Beside that, room for the checkpoint that is due is kept back, or the store could not give back any
//! space: for all that it writes if everything buffered is published first, and with what its largest
//! record may leave unused in each segment. Whatever takes a ready segment leaves that much: commits,
//! deletes and the cleaner.

use std::collections::BTreeMap;

use super::Ready;
use crate::format::{BLOCK_BYTES, batch, catalog, record};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::types::FileNo;

/// Largest segment: its size must fit the 32-bit fields of the format.
const SEGMENT_BYTES_LIMIT: u64 = 1 << 31;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// Padding for the flushes of a checkpoint.
const CHECKPOINT_BYTES_MIN: u64 = 12 * BLOCK;
/// Largest record of a small checkpoint, about.
const CHECKPOINT_RECORD_BYTES_MIN: u64 = 33 << 10;
/// What a map node that is written may add to the table of what is shared, for each byte of it.
const SHARED_PER_NODE_BYTE: u64 =
    (catalog::NODE_REFS * catalog::SHARED_NODE_BYTES) as u64 / record::NODE_BYTES_MAX + 1;

/// What room is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// New data: leaves the reserve, and one ready segment for deletes.
    Commit,
    /// A delete, which leads to space being freed: leaves the reserve.
    Delete,
    /// All of a checkpoint, which frees it: what the reserve is for.
    Checkpoint,
}

/// Room asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    /// Bytes of records that wait to be written, the new one included.
    pub(super) buffered_bytes: usize,
    /// Bytes of the new one.
    pub(super) record_bytes: usize,
    pub(super) purpose: Purpose,
}

/// Room for commits, published for a check without a lock.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// What the ready segments but the smallest hold, less what a checkpoint may leave unused.
    bytes: AtomicU64,
    /// Largest record that all of them were counted for.
    record_bytes_max: AtomicU64,
    /// Bytes kept back for the checkpoint that is due, and for the one that is being taken.
    reserve: AtomicU64,
    reserve_in_flight: AtomicU64,
    /// The same for images of pages that are logged as deltas, which are shared like other pages.
    images: AtomicU64,
    images_in_flight: AtomicU64,
    /// What it grows by when all that is admitted is published.
    growth: AtomicU64,
    /// What a checkpoint writes besides maps, histories and catalog: what was moved, shared and set, and
    /// the root.
    others: AtomicU64,
    /// Its largest record, if that is not small.
    largest: AtomicU64,
    /// Whether facets share anything, so that maps that are written may add to what is shared.
    is_shared: AtomicBool,
    /// What is left of the segment that the log is writing.
    active: AtomicU64,
}

/// Bytes of batches that a segment of `size` bytes holds.
pub(crate) fn usable_bytes(size: u32) -> u64 {
    u64::from(size).saturating_sub(BLOCK_BYTES as u64)
}

/// Bytes to count for records: each batch adds a header and padding of at most a block.
fn with_overhead(bytes: usize) -> u64 {
    batch::padded_bytes(bytes) as u64 + BLOCK_BYTES as u64
}

impl Room {
    /// Size of a segment that counts for a record of `bytes`, at least `wanted`; `None` beyond the largest
    /// possible.
    pub(super) fn size_for(&self, bytes: usize, wanted: u32) -> Option<u32> {
        let needed = if bytes == 0 { 0 } else { 2 * with_overhead(bytes) + BLOCK };
        let mut size = needed.next_power_of_two().max(u64::from(wanted));
        // One that is of no use to a checkpoint would not count at all.
        while self.left(size - BLOCK, 0) == 0 {
            size *= 2;
        }
        u32::try_from(size).ok().filter(|&size| u64::from(size) <= SEGMENT_BYTES_LIMIT)
    }

    /// Counts anew after the ready segments have changed.
    pub(super) fn publish(&self, ready: &BTreeMap<FileNo, Ready>) {
        let smallest = ready.values().map(|ready| ready.size).min().unwrap_or(0);
        let record_bytes_max = usable_bytes(smallest) / 2;
        let left = || ready.values().map(|ready| self.left(usable_bytes(ready.size), 0));
        let bytes = left().sum::<u64>() - left().min().unwrap_or(0);
        self.record_bytes_max.store(record_bytes_max, Ordering::Release);
        // With what is admitted: see `Segments::take_for_survivors`.
        self.bytes.store(bytes, Ordering::SeqCst);
    }

    /// Of `bytes` in a segment, those that are used whatever a checkpoint writes, and records of up to
    /// `record` bytes. Not used is what the next record does not fit into, or the eighth that the log leaves
    /// rather than to split a batch.
    fn left(&self, bytes: u64, record: u64) -> u64 {
        let largest = self.largest.load(Ordering::Relaxed).max(CHECKPOINT_RECORD_BYTES_MIN);
        bytes.saturating_sub((largest + BLOCK).max(record).max(bytes / 8 + BLOCK))
    }

    /// So many more bytes will be kept back when what is admitted is published.
    pub(super) fn grow(&self, bytes: u64) {
        self.growth.fetch_add(bytes, Ordering::Relaxed);
    }

    /// They are kept back now, or were let go of.
    pub(super) fn grown(&self, bytes: u64) {
        self.growth.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// See [`others`](Self::others).
    pub(super) fn set_others(&self, bytes: u64, largest: u64, is_shared: bool) {
        self.others.store(bytes, Ordering::Relaxed);
        self.largest.store(largest, Ordering::Relaxed);
        self.is_shared.store(is_shared, Ordering::Relaxed);
    }

    pub(super) fn add_others(&self, bytes: u64) {
        self.others.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn set_shared(&self) {
        self.is_shared.store(true, Ordering::Relaxed);
    }

    pub(super) fn set_reserve(&self, parts: u64, images: u64) {
        self.reserve.store(parts, Ordering::Relaxed);
        self.images.store(images, Ordering::Relaxed);
    }

    pub(super) fn set_reserve_in_flight(&self, parts: u64, images: u64) {
        self.reserve_in_flight.store(parts, Ordering::Relaxed);
        self.images_in_flight.store(images, Ordering::Relaxed);
    }

    /// The log has so many bytes left in the segment that it is writing.
    pub(super) fn set_active(&self, bytes: u32) {
        self.active.store(u64::from(bytes), Ordering::Relaxed);
    }

    pub(super) fn active_bytes(&self) -> u64 {
        self.active.load(Ordering::Relaxed)
    }

    /// Bytes kept back: all parts of the checkpoint, and a block for each of its flushes.
    pub(super) fn reserve_bytes(&self) -> u64 {
        let parts = self.reserve.load(Ordering::Relaxed)
            + self.reserve_in_flight.load(Ordering::Relaxed)
            + self.growth.load(Ordering::Relaxed);
        let is_shared = self.is_shared.load(Ordering::Relaxed);
        let shared = if is_shared { parts * SHARED_PER_NODE_BYTE } else { 0 };
        let images =
            self.images.load(Ordering::Relaxed) + self.images_in_flight.load(Ordering::Relaxed);
        let all = parts + shared + images + self.others.load(Ordering::Relaxed);
        all + all / 64 + CHECKPOINT_BYTES_MIN
    }

    pub(super) fn is_enough(&self, demand: Demand) -> bool {
        demand.purpose == Purpose::Commit
            && with_overhead(demand.record_bytes) <= self.record_bytes_max.load(Ordering::Acquire)
            && 2 * with_overhead(demand.buffered_bytes) + self.reserve_bytes()
                <= self.bytes.load(Ordering::SeqCst)
    }

    /// Exact form of [`is_enough`](Self::is_enough), with so many bytes kept back.
    pub(super) fn is_enough_in(
        &self,
        ready: &BTreeMap<FileNo, Ready>,
        demand: Demand,
        reserve_bytes: u64,
    ) -> bool {
        let halves = ready.values().map(|ready| usable_bytes(ready.size) / 2);
        let record = with_overhead(demand.record_bytes);
        // A new record needs segments twice as large as it is. Deletes and checkpoints have small ones.
        let fits = demand.purpose != Purpose::Commit
            || halves.filter(|&half| half >= record).sum::<u64>()
                >= with_overhead(demand.buffered_bytes);
        fits && self.lacking(ready, demand, reserve_bytes) == 0
    }

    /// Bytes of segments that have to come to `ready`, not counting what each leaves unused.
    fn lacking(&self, ready: &BTreeMap<FileNo, Ready>, demand: Demand, reserve_bytes: u64) -> u64 {
        let buffered = with_overhead(demand.buffered_bytes);
        let record = match demand.purpose {
            Purpose::Commit => 0,
            Purpose::Delete | Purpose::Checkpoint => with_overhead(demand.record_bytes),
        };
        let left = || ready.values().map(|ready| self.left(usable_bytes(ready.size), record));
        // What is buffered takes no more than twice its bytes of what is kept back.
        let (needed, more) = match demand.purpose {
            Purpose::Commit => (2 * buffered + reserve_bytes + left().min().unwrap_or(1), 0),
            // Also of the segment that is being written no more is wasted than one of these records.
            Purpose::Delete => {
                (2 * buffered + reserve_bytes, self.left(self.active_bytes(), record))
            }
            Purpose::Checkpoint => (buffered, self.left(self.active_bytes(), record)),
        };
        needed.saturating_sub(left().sum::<u64>() + more)
    }

    /// Bytes of files that make up for what is lacking, if each is of `size` bytes.
    pub(super) fn lacking_files_bytes(
        &self,
        ready: &BTreeMap<FileNo, Ready>,
        demand: Demand,
        size: u32,
    ) -> u64 {
        let lacking = self.lacking(ready, demand, self.reserve_bytes());
        let files = lacking.div_ceil(self.left(usable_bytes(size), 0).max(1)).max(1);
        // Of commits, one is left for deletes.
        let one_more = demand.purpose == Purpose::Commit && ready.is_empty();
        (files + u64::from(one_more)) * u64::from(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(sizes: &[u32]) -> BTreeMap<FileNo, Ready> {
        (1..).map(FileNo).zip(sizes.iter().map(|&size| Ready { size })).collect()
    }

    fn is_enough(
        ready: &BTreeMap<FileNo, Ready>,
        buffered_bytes: usize,
        record_bytes: usize,
        purpose: Purpose,
        reserve: u64,
    ) -> bool {
        let demand = Demand { buffered_bytes, record_bytes, purpose };
        Room::default().is_enough_in(ready, demand, reserve)
    }

    #[test]
    fn a_reserve_is_kept() {
        let one = ready(&[1 << 16]);
        assert!(!is_enough(&one, 100, 100, Purpose::Commit, 0));
        assert!(is_enough(&one, 100, 100, Purpose::Delete, 0));
        assert!(!is_enough(&one, 100, 100, Purpose::Delete, 60_000));
        assert!(is_enough(&one, 15_000, 100, Purpose::Checkpoint, 60_000));
        assert!(!is_enough(&one, 30_000, 100, Purpose::Checkpoint, 0));
        let two = ready(&[1 << 16, 1 << 16]);
        assert!(is_enough(&two, 100, 100, Purpose::Commit, 0));
        assert!(!is_enough(&two, 100, 100, Purpose::Commit, 30_000));
        assert!(!is_enough(&two, 30_000, 100, Purpose::Commit, 0));
    }

    #[test]
    fn small_segments_do_not_count_for_large_records() {
        let many = ready(&[1 << 16; 20]);
        assert!(is_enough(&many, 200_000, 100, Purpose::Commit, 0));
        assert!(!is_enough(&many, 40_000, 40_000, Purpose::Commit, 0));
        let mixed = ready(&[1 << 16, 1 << 16, 1 << 17]);
        assert!(is_enough(&mixed, 40_000, 40_000, Purpose::Commit, 0));
    }

    #[test]
    fn a_new_segment_counts_for_what_it_was_made_for() {
        for bytes in [1, 5_000, 100_000, 3_000_000, 100_000_000] {
            let size = Room::default().size_for(bytes, 1 << 16).unwrap();
            let ready = ready(&[size; 3]);
            assert!(is_enough(&ready, bytes, bytes, Purpose::Commit, 0), "{bytes}");
        }
        assert_eq!(Room::default().size_for(2_000_000_000, 1 << 16), None);
    }
}
