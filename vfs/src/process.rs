//! Settings of SQLite that hold for the whole process.

use std::sync::Mutex;

use crate::ffi;

/// Process-wide settings of SQLite, for [`configure_process`]. The defaults suit thousands of open
/// connections on several threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessSettings {
    /// Whether SQLite counts what it allocates. Default: no, since the counter's mutex serialises
    /// threads. Without it `sqlite3_memory_used` and the soft heap limit do not work.
    pub memory_statistics: bool,
    /// Whether a connection's page cache starts with room for 20 pages. Default: no, which saves
    /// about 87 KiB for a small database.
    pub page_cache_preallocated: bool,
    /// Bytes in a slot of a connection's lookaside allocator. Default 256.
    pub lookaside_slot_bytes: u16,
    /// Slots in a connection's lookaside allocator. Default 16, which makes 4 KiB with 256-byte
    /// slots; SQLite's own default is 48 KiB. 0 turns the allocator off. More saves mallocs while
    /// statements are prepared and run; every open connection holds all of it.
    pub lookaside_slots: u16,
    /// Bytes of each database, counted from its start, that are read in place unless its connection
    /// says otherwise (`PRAGMA mmap_size`). Default 0, as in SQLite: none. It holds for databases in
    /// files as well, and SQLite takes no more than 2,147,418,112 (2 GiB less 64 KiB).
    pub mmap_bytes: u64,
}

impl Default for ProcessSettings {
    fn default() -> Self {
        Self {
            memory_statistics: false,
            page_cache_preallocated: false,
            lookaside_slot_bytes: 256,
            lookaside_slots: 16,
            mmap_bytes: 0,
        }
    }
}

/// What came of [`configure_process`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessSetup {
    /// The settings are in force.
    Applied,
    /// An earlier call applied its settings; those stay.
    AlreadyApplied,
    /// SQLite was initialised before (by a connection or a registration); its own settings stay.
    TooLate,
}

/// Applies `settings` to the process's SQLite, and has it count its memory by thread
/// ([`thread_heap_bytes`](crate::thread_heap_bytes)). Works once, and only before SQLite is first used:
/// before the first connection and the first [`Registration`](crate::Registration).
///
/// SQLite does not lock its configuration: no other thread may start to use SQLite during the
/// call.
///
/// ```standalone_crate
/// use lapidary_vfs::{ProcessSettings, ProcessSetup, configure_process};
/// let settings = ProcessSettings::default();
/// assert_eq!(configure_process(&settings), ProcessSetup::Applied);
/// assert_eq!(configure_process(&settings), ProcessSetup::AlreadyApplied);
/// ```
pub fn configure_process(settings: &ProcessSettings) -> ProcessSetup {
    static APPLIED: Mutex<bool> = Mutex::new(false);
    let mut applied = APPLIED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if *applied {
        return ProcessSetup::AlreadyApplied;
    }
    if !ffi::configure(settings) {
        tracing::warn!("SQLite was in use before its process-wide settings were to be applied");
        return ProcessSetup::TooLate;
    }
    *applied = true;
    ProcessSetup::Applied
}
