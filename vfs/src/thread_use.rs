//! What the calling thread uses of SQLite and of facets' pages.

use std::cell::Cell;

/// Bytes that SQLite has moved and holds on behalf of the calling thread. A host that runs one call
/// at a time on a thread learns from it what the call took.
///
/// ```
/// use lapidary_vfs::ThreadUse;
///
/// let outer = ThreadUse::default().replace();
/// // … what is to be measured …
/// let used = outer.replace();
/// assert_eq!(used.read_bytes, 0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadUse {
    /// Bytes of facets that SQLite read because its caches did not have them. Those it read in place
    /// (`PRAGMA mmap_size`) are not counted.
    pub read_bytes: u64,
    /// Bytes that it wrote to facets, also if they were not committed in the end.
    pub written_bytes: u64,
    /// Bytes of memory that it took less those it gave back, in every one of the thread's
    /// connections. Memory is counted if [`configure_process`](crate::configure_process) came in time.
    pub memory_bytes: i64,
    /// The most that `memory_bytes` has been.
    pub memory_peak_bytes: i64,
}

struct Counters {
    read_bytes: Cell<u64>,
    written_bytes: Cell<u64>,
    /// All that SQLite has taken on the thread, less what it has given back there.
    heap_bytes: Cell<i64>,
    /// What `heap_bytes` was when what is counted began.
    heap_bytes_before: Cell<i64>,
    /// The most that `heap_bytes` has been since.
    heap_bytes_peak: Cell<i64>,
}

thread_local! {
    static COUNTERS: Counters = const {
        Counters {
            read_bytes: Cell::new(0),
            written_bytes: Cell::new(0),
            heap_bytes: Cell::new(0),
            heap_bytes_before: Cell::new(0),
            heap_bytes_peak: Cell::new(0),
        }
    };
}

impl ThreadUse {
    /// Has the thread go on counting from here, and returns what it had counted.
    pub fn replace(self) -> Self {
        COUNTERS.with(|counters| {
            let heap_bytes = counters.heap_bytes.get();
            let new_before = heap_bytes - self.memory_bytes;
            let before = counters.heap_bytes_before.replace(new_before);
            let peak = counters.heap_bytes_peak.replace(new_before + self.memory_peak_bytes);
            Self {
                read_bytes: counters.read_bytes.replace(self.read_bytes),
                written_bytes: counters.written_bytes.replace(self.written_bytes),
                memory_bytes: heap_bytes - before,
                memory_peak_bytes: peak - before,
            }
        })
    }
}

pub(crate) fn add_read(bytes: usize) {
    COUNTERS.with(|counters| counters.read_bytes.set(counters.read_bytes.get() + bytes as u64));
}

pub(crate) fn add_written(bytes: usize) {
    let add = |counter: &Cell<u64>| counter.set(counter.get() + bytes as u64);
    COUNTERS.with(|counters| add(&counters.written_bytes));
}

/// Counts memory taken, or given back if `bytes` is negative.
#[cfg(not(feature = "loadable_extension"))]
pub(crate) fn add_memory(bytes: i64) {
    COUNTERS.with(|counters| {
        let now = counters.heap_bytes.get() + bytes;
        counters.heap_bytes.set(now);
        if now > counters.heap_bytes_peak.get() {
            counters.heap_bytes_peak.set(now);
        }
    });
}

/// Bytes that SQLite has allocated on this thread less those it has freed here: what one thread
/// allocates and another frees counts for the first and against the second, so only differences on one
/// thread say something. 0 unless [`configure_process`](crate::configure_process) came in time.
#[cfg(not(feature = "loadable_extension"))]
#[must_use]
pub fn thread_heap_bytes() -> i64 {
    COUNTERS.with(|counters| counters.heap_bytes.get())
}
