//! Settings: what is frozen when a store is created, and what can be tuned at every open.

use std::time::Duration;

/// Parameters written into the superblock when a store is created; later opens use what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatParams {
    /// Size of the smallest segment file in bytes (power of two, 64 KiB to 1 GiB). Default 256 KiB.
    /// A new store starts with three of them, so it is what a tiny store costs.
    pub segment_bytes_min: u32,
    /// Size of the largest ordinary segment file in bytes (power of two, up to 1 GiB). Default
    /// 64 MiB. Larger segments mean fewer files, coarser reuse of space.
    pub segment_bytes_max: u32,
}

impl Default for FormatParams {
    fn default() -> Self {
        Self { segment_bytes_min: 256 << 10, segment_bytes_max: 64 << 20 }
    }
}

/// How much of a facet's past is kept. A version leaves when it is beyond either bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Bytes of pages that no longer belong to the newest version, and of the notes about them.
    pub bytes: u64,
    /// How long ago a version may have been replaced by the next. Counted in milliseconds.
    pub age: Duration,
}

impl Retention {
    /// Nothing is kept but the newest version.
    pub const OFF: Self = Self { bytes: 0, age: Duration::ZERO };

    /// Whether anything is kept.
    #[must_use]
    pub fn is_on(self) -> bool {
        self.bytes > 0 && self.age_ms() > 0
    }

    pub(crate) fn age_ms(self) -> u64 {
        u64::try_from(self.age.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Settings that are not persisted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunables {
    /// Log buffers, one per core that writes. Default 1. A [`Writer`](crate::Writer) says which it
    /// appends to; the number is taken modulo this.
    pub log_buffers: usize,
    /// Shortest time between two flushes asked for by
    /// [`Store::request_flush`](crate::Store::request_flush) while any [`Worker`](crate::Worker) is at work.
    /// Default 500 microseconds. An idle store flushes at once. Shorter lowers latency under load and
    /// costs CPU.
    pub flush_interval: Duration,
    /// Appended but unwritten bytes at which committers wait for a flush. Default 32 MiB.
    pub buffered_bytes_max: usize,
    /// Page bytes a transaction stages in memory before they are spilled to the log ahead of the
    /// commit. Default 8 MiB.
    pub spill_bytes: usize,
    /// Bytes of page images that stay in memory between two checkpoints, because only their changes are
    /// in the log since, or so that the next change can be logged alone. Default 32 MiB. When they take
    /// more, changed pages are logged whole. 0: always. Facets that keep history log them whole, too, and
    /// pages of more than 8 KiB always are.
    pub delta_memory_bytes_max: usize,
    /// Log bytes after which a checkpoint is taken, and so the most that recovery replays
    /// (roughly). Default 256 MiB; a store takes them as often as it writes a thirty-second of what is
    /// live, so that the log since the last one takes little space, but not more often than every
    /// 16 MiB.
    pub checkpoint_log_bytes: u64,
    /// Segment files kept open for reading. Default 256.
    pub open_segments_max: usize,
    /// Segments mapped into memory at a time, so that pages are read in place. Default 4096, which is
    /// up to 256 GiB of address space with segments of the largest default size, and one bit of
    /// memory for each 512 bytes mapped. 0: none. Pages are then always copied by calls, which costs
    /// time, but an I/O error is an error of one read; in a mapping it is a `SIGBUS`, which ends the
    /// process.
    pub mapped_segments_max: usize,
    /// History of facets that have no setting of their own (see
    /// [`Store::set_retention`](crate::Store::set_retention)). Default [`Retention::OFF`]: history
    /// costs space, and memory for each open facet.
    pub retention: Retention,
    /// Bytes of history in the whole store above which every facet keeps less, in proportion.
    /// Default: no bound.
    pub history_bytes_max: u64,
    /// Space that the store may take for each 100 bytes that are live, in percent; above it the
    /// cleaner moves live data together. Default 125. A lower number costs more writing: if everything
    /// is overwritten evenly, about 5 bytes for each byte of pages at 125. A store of less than some
    /// 200 MiB takes more, for what it keeps ready and for the log since the last checkpoint.
    pub space_percent_max: u32,
    /// Bytes a second that the cleaner writes at most while space is within bounds; it goes faster
    /// the further the store is beyond them. Default 128 MiB.
    pub clean_bytes_per_second: u64,
}

impl Default for Tunables {
    fn default() -> Self {
        Self {
            log_buffers: 1,
            flush_interval: Duration::from_micros(500),
            buffered_bytes_max: 32 << 20,
            spill_bytes: 8 << 20,
            delta_memory_bytes_max: 32 << 20,
            checkpoint_log_bytes: 256 << 20,
            open_segments_max: 256,
            mapped_segments_max: 4096,
            retention: Retention::OFF,
            history_bytes_max: u64::MAX,
            space_percent_max: 125,
            clean_bytes_per_second: 128 << 20,
        }
    }
}

/// Who runs the store's background work (flushes that were asked for, segments filled ahead,
/// checkpoints).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Background {
    /// Two threads of the store's own.
    #[default]
    Threads,
    /// Nobody: the caller does, with [`Store::flush`](crate::Store::flush) and
    /// [`Store::maintain`](crate::Store::maintain). A run is then a function of its calls, which
    /// is what simulation needs.
    Manual,
}

/// How to open a store.
#[derive(Clone, Debug, Default)]
pub struct StoreOptions {
    /// Create a store if there is none. Default: no.
    pub create: bool,
    /// Used when a store is created.
    pub format: FormatParams,
    /// Used by this open.
    pub tunables: Tunables,
    /// Who runs the background work.
    pub background: Background,
}

impl StoreOptions {
    /// Options that create the store if there is none.
    #[must_use]
    pub fn create() -> Self {
        Self { create: true, ..Self::default() }
    }
}
