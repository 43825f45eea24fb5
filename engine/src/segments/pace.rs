//! How fast segments are taken and given back: what decides how many are kept ready.

/// The log is busy if it needs less than this for a segment.
const BUSY_INTERVAL_NS: u64 = 1_000_000_000;
/// For a busy log whose batches have this length on average or more, segments are not filled with zeros.
/// What a sync of new blocks costs more (the file system converts them and writes the inode, some 0.1 ms
/// on ext4) is shared by many commits then, while filling would double what is written.
const LARGE_BATCH_BYTES: u64 = 16 << 10;

/// How fast the log takes segments, on the clock of [`fill_ahead`](super::Segments::fill_ahead).
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Segments taken, counted by [`take`](super::Segments::take), and their bytes.
    pub(super) taken: u64,
    pub(super) taken_bytes: u64,
    seen: u64,
    /// What was taken, and how many batches were written, when a segment was last seen to be taken.
    seen_bytes: u64,
    seen_batches: u64,
    are_batches_large: bool,
    /// How much of the log is written, at most a second ago.
    pub(super) bytes_per_second: u64,
    second: u64,
    second_bytes: u64,
    last_ns: u64,
    busy_until_ns: u64,
    /// Fewest ready bytes that there were in this second, and in the one before.
    low: [u64; 2],
    /// Most bytes that were to be kept back for a checkpoint, likewise.
    back: [u64; 2],
    window: u64,
}

impl Pace {
    /// Whether the log takes segments less than an interval apart. `batches`: those written so far.
    pub(super) fn is_busy(&mut self, now_ns: u64, batches: u64) -> bool {
        let second = now_ns / 1_000_000_000;
        let bytes = self.taken_bytes - self.second_bytes;
        if second != self.second {
            let seconds = second.saturating_sub(self.second).max(1);
            (self.second, self.second_bytes) = (second, self.taken_bytes);
            self.bytes_per_second = bytes / seconds;
        } else {
            self.bytes_per_second = self.bytes_per_second.max(bytes);
        }
        if self.seen != self.taken {
            if self.seen > 0 && now_ns.saturating_sub(self.last_ns) < BUSY_INTERVAL_NS {
                self.busy_until_ns = now_ns + BUSY_INTERVAL_NS;
            }
            let (bytes, count) = (self.taken_bytes - self.seen_bytes, batches - self.seen_batches);
            self.are_batches_large = bytes >= count.saturating_mul(LARGE_BATCH_BYTES);
            (self.seen_bytes, self.seen_batches) = (self.taken_bytes, batches);
            self.seen = self.taken;
            self.last_ns = now_ns;
        }
        now_ns < self.busy_until_ns
    }

    /// Whether the batches of the segments that were taken last were large.
    pub(super) fn are_batches_large(&self) -> bool {
        self.are_batches_large
    }

    /// Bytes that were ready all the time in the last second or two, `ready` being those that are now,
    /// and the most that had to be kept back in that time, `back` being what has to be now. While the
    /// cleaner works, segments come by the dozen and are taken one by one; and what is kept back grows
    /// with every commit until the next checkpoint.
    pub(super) fn lately(&mut self, now_ns: u64, ready: u64, back: u64) -> (u64, u64) {
        let window = now_ns / BUSY_INTERVAL_NS;
        if window != self.window {
            let is_next = window == self.window + 1;
            self.low = [ready, if is_next { self.low[0] } else { 0 }];
            self.back = [back, if is_next { self.back[0] } else { 0 }];
            self.window = window;
        }
        self.back[0] = self.back[0].max(back);
        (self.low[0].min(self.low[1]), self.back[0].max(self.back[1]))
    }

    /// So many bytes are ready now.
    pub(super) fn note_ready(&mut self, bytes: u64) {
        self.low[0] = self.low[0].min(bytes);
    }

    /// So many ready bytes were removed.
    pub(super) fn removed(&mut self, bytes: u64) {
        self.low = self.low.map(|low| low.saturating_sub(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_busy_by_the_time_between_segments_and_its_batches_are_large_by_their_number() {
        const MS: u64 = 1_000_000;
        const MIB: u64 = 1 << 20;
        for (batches_each, large) in [(4, true), (64, true), (65, false), (256, false)] {
            let mut pace = Pace::default();
            assert!(!pace.is_busy(0, 0));
            for n in 1..=3 {
                (pace.taken, pace.taken_bytes) = (n, n * MIB);
                let busy = pace.is_busy(n * 500 * MS, n * batches_each);
                assert_eq!(busy, n > 1, "the first tells nothing");
                assert_eq!(pace.are_batches_large(), large, "{batches_each} in a MiB");
            }
            assert!(!pace.is_busy(60_000 * MS, 3 * batches_each), "it has ended");
        }
    }
}
