//! What is called of SQLite beyond what the oldest release of rusqlite that this builds with declares.

use std::os::raw::{c_char, c_int};

use rusqlite::ffi as sqlite;

/// Name of the connection's database number `index`, null beyond the last. Since SQLite 3.39.
///
/// # Safety
/// As for `sqlite3_db_name`: a connection that is alive, used by this thread.
#[cfg(not(feature = "loadable_extension"))]
pub(super) unsafe fn db_name(connection: *mut sqlite::sqlite3, index: c_int) -> *const c_char {
    // SAFETY: declared as in `sqlite3.h`; whichever SQLite is linked, it is 3.39 or newer.
    unsafe extern "C" {
        fn sqlite3_db_name(connection: *mut sqlite::sqlite3, index: c_int) -> *const c_char;
    }
    // SAFETY: as the caller says.
    unsafe { sqlite3_db_name(connection, index) }
}

#[cfg(feature = "loadable_extension")]
pub(super) use host::db_name;
#[cfg(feature = "loadable_extension")]
pub use host::use_host_sqlite;

/// The SQLite of the process that loads an extension, reached through its table of functions.
#[cfg(feature = "loadable_extension")]
mod host {
    use std::sync::OnceLock;

    use super::{c_char, c_int, sqlite};
    use crate::error::VfsError;

    /// Oldest SQLite whose table has all that is called: 3.39, of June 2022.
    const VERSION_MIN: c_int = 3_039_000;

    /// Where the table has `db_name`. All its entries are pointers to functions, and none ever moves.
    /// Source: `struct sqlite3_api_routines` in SQLite's `sqlite3ext.h`.
    const DB_NAME_INDEX: usize = 264;

    type DbName = unsafe extern "C" fn(*mut sqlite::sqlite3, c_int) -> *const c_char;

    /// What is called of the host, once it is known: one SQLite in the life of the process.
    static HOST: OnceLock<Host> = OnceLock::new();

    struct Host {
        /// Where its table is.
        table: usize,
        db_name: DbName,
    }

    /// Has this crate, and rusqlite, call SQLite through the table that it passes to the entry point of
    /// an extension. To be called there, before all else; again does no harm.
    ///
    /// # Errors
    /// [`VfsError::HostTooOld`]; [`VfsError::SecondHost`] if the process has several SQLite libraries and
    /// another one called first.
    ///
    /// # Safety
    /// `api` is what SQLite passed to the entry point of an extension.
    pub unsafe fn use_host_sqlite(api: *mut sqlite::sqlite3_api_routines) -> Result<(), VfsError> {
        // SAFETY: a table as old as the entry, as the caller says.
        let version = unsafe { (*api).libversion_number };
        // SAFETY: a function without arguments.
        let version = version.map_or(0, |version| unsafe { version() });
        if version < VERSION_MIN {
            return Err(VfsError::HostTooOld { version, needed: VERSION_MIN });
        }
        // SAFETY: the table of a release that has this entry.
        let db_name = unsafe { api.cast::<Option<DbName>>().add(DB_NAME_INDEX) };
        // SAFETY: as above.
        let db_name = unsafe { *db_name };
        let too_old = || VfsError::HostTooOld { version, needed: sqlite::SQLITE_VERSION_NUMBER };
        let table = api.addr();
        let host = Host { table, db_name: db_name.ok_or_else(too_old)? };
        if HOST.get_or_init(|| host).table != table {
            return Err(VfsError::SecondHost);
        }
        // SAFETY: as the caller says.
        unsafe { sqlite::rusqlite_extension_init2(api) }.map_err(|_| too_old())
    }

    /// As `sqlite3_db_name`.
    ///
    /// # Safety
    /// A connection that is alive, used by this thread.
    pub(in super::super) unsafe fn db_name(
        connection: *mut sqlite::sqlite3,
        index: c_int,
    ) -> *const c_char {
        match HOST.get() {
            // SAFETY: as the caller says.
            Some(host) => unsafe { (host.db_name)(connection, index) },
            None => std::ptr::null(),
        }
    }
}
