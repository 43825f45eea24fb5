//! `sqlite3_config`.

use std::os::raw::{c_int, c_void};
use std::ptr;

use rusqlite::ffi as sqlite;

use crate::process::ProcessSettings;

/// Applies `settings`; `false` if SQLite is initialised already, and nothing was changed.
pub(crate) fn configure(settings: &ProcessSettings) -> bool {
    // SAFETY: MEMSTATUS takes one int. SQLite is not in use by other threads, which the caller of
    // `configure_process` sees to; if it was initialised before, the call is refused.
    let code = unsafe {
        sqlite::sqlite3_config(
            sqlite::SQLITE_CONFIG_MEMSTATUS,
            c_int::from(settings.memory_statistics),
        )
    };
    if code != sqlite::SQLITE_OK || !super::heap::install() {
        return false;
    }
    // SAFETY: LOOKASIDE takes two ints; as above.
    let code = unsafe {
        sqlite::sqlite3_config(
            sqlite::SQLITE_CONFIG_LOOKASIDE,
            c_int::from(settings.lookaside_slot_bytes),
            c_int::from(settings.lookaside_slots),
        )
    };
    if code != sqlite::SQLITE_OK {
        return false;
    }
    let mmap_bytes = sqlite::sqlite3_int64::try_from(settings.mmap_bytes);
    // SAFETY: MMAP_SIZE takes two 64-bit numbers; -1 leaves the most that can be asked for as it is.
    let code = unsafe {
        sqlite::sqlite3_config(
            sqlite::SQLITE_CONFIG_MMAP_SIZE,
            mmap_bytes.unwrap_or(sqlite::sqlite3_int64::MAX),
            sqlite::sqlite3_int64::from(-1_i8),
        )
    };
    if code != sqlite::SQLITE_OK {
        return false;
    }
    if settings.page_cache_preallocated {
        return true;
    }
    // SAFETY: PAGECACHE takes a pointer and two ints; null and zeros mean no memory set aside, and
    // none allocated in bulk either.
    let code = unsafe {
        sqlite::sqlite3_config(
            sqlite::SQLITE_CONFIG_PAGECACHE,
            ptr::null_mut::<c_void>(),
            c_int::from(0_u8),
            c_int::from(0_u8),
        )
    };
    code == sqlite::SQLITE_OK
}
