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

use std::collections::BTreeMap;

use super::Ready;
use crate::format::{BLOCK_BYTES, batch};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::types::FileNo;

/// Largest segment: its size must fit the 32-bit fields of the format.
const SEGMENT_BYTES_LIMIT: u64 = 1 << 31;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// What a checkpoint writes besides nodes and chunks: a small root, and padding for its flushes.
const CHECKPOINT_BYTES_MIN: u64 = 12 * BLOCK;

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
    /// Half of what the ready segments but the smallest hold.
    bytes: AtomicU64,
    /// Largest record that all of them were counted for.
    record_bytes_max: AtomicU64,
    /// Bytes kept back for the checkpoint that is due, and for the one that is being taken.
    reserve: AtomicU64,
    reserve_in_flight: AtomicU64,
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

/// Size of a segment that counts for `bytes` of records, at least `wanted`; `None` beyond the
/// largest possible.
pub(super) fn size_for(bytes: usize, wanted: u32) -> Option<u32> {
    let needed = (2 * with_overhead(bytes) + BLOCK_BYTES as u64).next_power_of_two();
    if bytes == 0 {
        return Some(wanted);
    }
    (needed <= SEGMENT_BYTES_LIMIT)
        .then(|| u32::try_from(needed).ok().map(|size| size.max(wanted)))?
}

impl Room {
    /// Counts anew after the ready segments have changed.
    pub(super) fn publish(&self, ready: &BTreeMap<FileNo, Ready>) {
        let smallest = ready.values().map(|ready| ready.size).min().unwrap_or(0);
        let record_bytes_max = usable_bytes(smallest) / 2;
        let halves = || ready.values().map(|ready| usable_bytes(ready.size) / 2);
        let bytes = halves().sum::<u64>() - halves().min().unwrap_or(0);
        self.record_bytes_max.store(record_bytes_max, Ordering::Release);
        self.bytes.store(bytes, Ordering::Release);
    }

    pub(super) fn set_reserve(&self, part_bytes: u64) {
        self.reserve.store(part_bytes, Ordering::Relaxed);
    }

    pub(super) fn set_reserve_in_flight(&self, part_bytes: u64) {
        self.reserve_in_flight.store(part_bytes, Ordering::Relaxed);
    }

    /// The log has so many bytes left in the segment that it is writing.
    pub(super) fn set_active(&self, bytes: u32) {
        self.active.store(u64::from(bytes), Ordering::Relaxed);
    }

    pub(super) fn active_bytes(&self) -> u64 {
        self.active.load(Ordering::Relaxed)
    }

    /// Bytes kept back: the parts of the checkpoint, the root, and a block for each of its flushes.
    pub(super) fn reserve_bytes(&self) -> u64 {
        let parts =
            self.reserve.load(Ordering::Relaxed) + self.reserve_in_flight.load(Ordering::Relaxed);
        parts + parts / 64 + CHECKPOINT_BYTES_MIN
    }

    /// Whether the checkpoint that is due still finds room when only `ready` is left.
    pub(super) fn is_enough_for_checkpoint(&self, ready: &BTreeMap<FileNo, Ready>) -> bool {
        let bytes = usize::try_from(self.reserve_bytes()).unwrap_or(usize::MAX / 4);
        let demand =
            Demand { buffered_bytes: bytes, record_bytes: 0, purpose: Purpose::Checkpoint };
        is_enough_in(ready, self.active_bytes(), demand, 0)
    }

    pub(super) fn is_enough(&self, demand: Demand) -> bool {
        demand.purpose == Purpose::Commit
            && with_overhead(demand.record_bytes) <= self.record_bytes_max.load(Ordering::Acquire)
            && with_overhead(demand.buffered_bytes) + self.reserve_bytes()
                <= self.bytes.load(Ordering::Acquire)
    }
}

/// Exact form of [`Room::is_enough`].
pub(super) fn is_enough_in(
    ready: &BTreeMap<FileNo, Ready>,
    active_bytes: u64,
    demand: Demand,
    reserve_bytes: u64,
) -> bool {
    let halves = || ready.values().map(|ready| usable_bytes(ready.size) / 2);
    let buffered = with_overhead(demand.buffered_bytes);
    let record = with_overhead(demand.record_bytes);
    match demand.purpose {
        // The new record needs segments twice as large as it is; what is kept back may be small.
        Purpose::Commit => {
            let reserve = reserve_bytes + halves().min().unwrap_or(0);
            halves().filter(|&half| half >= record).sum::<u64>() >= buffered
                && halves().sum::<u64>() >= buffered + reserve
        }
        // Small records, so that of each segment, also the one being written, no more is wasted than
        // one of them, or the eighth that the log leaves rather than to split a batch.
        Purpose::Delete | Purpose::Checkpoint => {
            let left = |bytes: u64| bytes.saturating_sub(record.max(bytes / 8 + BLOCK));
            let room = ready.values().map(|ready| left(usable_bytes(ready.size))).sum::<u64>()
                + left(active_bytes);
            let reserve = if demand.purpose == Purpose::Delete { reserve_bytes } else { 0 };
            room >= buffered + reserve
        }
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
        is_enough_in(ready, 0, Demand { buffered_bytes, record_bytes, purpose }, reserve)
    }

    #[test]
    fn a_reserve_is_kept() {
        let one = ready(&[1 << 16]);
        assert!(!is_enough(&one, 100, 100, Purpose::Commit, 0));
        assert!(is_enough(&one, 100, 100, Purpose::Delete, 0));
        assert!(!is_enough(&one, 100, 100, Purpose::Delete, 60_000));
        assert!(is_enough(&one, 100, 100, Purpose::Checkpoint, 30_000));
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
        let mixed = ready(&[1 << 16, 1 << 17]);
        assert!(is_enough(&mixed, 40_000, 40_000, Purpose::Commit, 0));
    }

    #[test]
    fn a_new_segment_counts_for_what_it_was_made_for() {
        for bytes in [1, 5_000, 100_000, 3_000_000, 100_000_000] {
            let size = size_for(bytes, 1 << 16).unwrap();
            let ready = ready(&[1 << 16, size]);
            assert!(is_enough(&ready, bytes, bytes, Purpose::Commit, 0), "{bytes}");
        }
        assert_eq!(size_for(2_000_000_000, 1 << 16), None);
    }
}
