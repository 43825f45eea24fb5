//! How fast segments are taken and given back: what decides how many are kept ready.

/// A segment is only filled with zeros if the log needs more than this for one. If it does not, its
/// flushes are large, so that what a flush to new blocks costs more is little to each commit, while
/// filling would double what is written.
const FILL_INTERVAL_NS: u64 = 1_000_000_000;

/// How fast the log takes segments, on the clock of [`fill_ahead`](super::Segments::fill_ahead).
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Segments taken, counted by [`take`](super::Segments::take), and their bytes.
    pub(super) taken: u64,
    pub(super) taken_bytes: u64,
    seen: u64,
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
    /// The log is busy if it takes segments less than an interval apart.
    pub(super) fn is_busy(&mut self, now_ns: u64) -> bool {
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
            if self.seen > 0 && now_ns.saturating_sub(self.last_ns) < FILL_INTERVAL_NS {
                self.busy_until_ns = now_ns + FILL_INTERVAL_NS;
            }
            self.seen = self.taken;
            self.last_ns = now_ns;
        }
        now_ns < self.busy_until_ns
    }

    /// Bytes that were ready all the time in the last second or two, `ready` being those that are now,
    /// and the most that had to be kept back in that time, `back` being what has to be now. While the
    /// cleaner works, segments come by the dozen and are taken one by one; and what is kept back grows
    /// with every commit until the next checkpoint.
    pub(super) fn lately(&mut self, now_ns: u64, ready: u64, back: u64) -> (u64, u64) {
        let window = now_ns / FILL_INTERVAL_NS;
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
