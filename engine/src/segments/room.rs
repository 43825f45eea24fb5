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
use std::sync::atomic::{AtomicU64, Ordering};

use super::Ready;
use crate::format::{BLOCK_BYTES, batch};
use crate::types::SegmentId;

/// Largest segment: its size must fit the 32-bit fields of the format.
const SEGMENT_BYTES_LIMIT: u64 = 1 << 31;

/// What room is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// New data: leaves one ready segment in reserve.
    Commit,
    /// Something that leads to space being freed (a delete, a checkpoint): may use the reserve.
    Reclaim,
}

/// Room for commits, published for a check without a lock.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// Half of what the ready segments but one hold.
    bytes: AtomicU64,
    /// Largest record that all of them were counted for.
    record_bytes_max: AtomicU64,
}

/// Bytes of batches that a segment of `size` bytes holds.
pub(super) fn usable_bytes(size: u32) -> u64 {
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
    pub(super) fn publish(&self, ready: &BTreeMap<SegmentId, Ready>) {
        let smallest = ready.values().map(|ready| ready.size).min().unwrap_or(0);
        let record_bytes_max = usable_bytes(smallest) / 2;
        // Ordering: only a hint; a thread that reads a stale value either takes the slow path or
        // was admitted against segments that were ready at that time.
        self.record_bytes_max.store(record_bytes_max, Ordering::Relaxed);
        self.bytes.store(half_of(ready, 0, Purpose::Commit), Ordering::Relaxed);
    }

    pub(super) fn is_enough(
        &self,
        buffered_bytes: usize,
        record_bytes: usize,
        purpose: Purpose,
    ) -> bool {
        purpose == Purpose::Commit
            && with_overhead(record_bytes) <= self.record_bytes_max.load(Ordering::Relaxed)
            && with_overhead(buffered_bytes + record_bytes) <= self.bytes.load(Ordering::Relaxed)
    }
}

/// Exact form of [`Room::is_enough`].
pub(super) fn is_enough_in(
    ready: &BTreeMap<SegmentId, Ready>,
    buffered_bytes: usize,
    record_bytes: usize,
    purpose: Purpose,
) -> bool {
    with_overhead(buffered_bytes + record_bytes)
        <= half_of(ready, with_overhead(record_bytes), purpose)
}

/// Half of what the ready segments hold that are at least twice as large as the record, one kept
/// in reserve.
fn half_of(ready: &BTreeMap<SegmentId, Ready>, record_bytes: u64, purpose: Purpose) -> u64 {
    let counted =
        || ready.values().map(|r| usable_bytes(r.size) / 2).filter(|&h| h >= record_bytes);
    let reserve = match purpose {
        // The smallest of all, which may be one that is not counted.
        Purpose::Commit => {
            let smallest = ready.values().map(|ready| usable_bytes(ready.size) / 2).min();
            smallest.filter(|&half| half >= record_bytes).unwrap_or(0)
        }
        Purpose::Reclaim => 0,
    };
    counted().sum::<u64>() - reserve
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Generation;

    fn ready(sizes: &[u32]) -> BTreeMap<SegmentId, Ready> {
        (1..)
            .map(SegmentId)
            .zip(sizes.iter().map(|&size| Ready { generation: Generation(0), size }))
            .collect()
    }

    #[test]
    fn one_segment_is_kept_for_reclaiming() {
        let one = ready(&[1 << 16]);
        assert!(!is_enough_in(&one, 0, 100, Purpose::Commit));
        assert!(is_enough_in(&one, 0, 100, Purpose::Reclaim));
        let two = ready(&[1 << 16, 1 << 16]);
        assert!(is_enough_in(&two, 0, 100, Purpose::Commit));
        assert!(!is_enough_in(&two, 30_000, 100, Purpose::Commit));
    }

    #[test]
    fn small_segments_do_not_count_for_large_records() {
        let many = ready(&[1 << 16; 20]);
        assert!(is_enough_in(&many, 200_000, 100, Purpose::Commit));
        assert!(!is_enough_in(&many, 0, 40_000, Purpose::Commit));
        let mixed = ready(&[1 << 16, 1 << 17]);
        assert!(is_enough_in(&mixed, 0, 40_000, Purpose::Commit));
    }

    #[test]
    fn a_new_segment_counts_for_what_it_was_made_for() {
        for bytes in [1, 5_000, 100_000, 3_000_000, 100_000_000] {
            let size = size_for(bytes, 1 << 16).unwrap();
            let ready = ready(&[1 << 16, size]);
            assert!(is_enough_in(&ready, 0, bytes, Purpose::Commit), "{bytes}");
        }
        assert_eq!(size_for(2_000_000_000, 1 << 16), None);
    }
}
