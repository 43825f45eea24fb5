//! Whether a database file's rollback journal is open.

use std::os::raw::{c_char, c_int};
use std::ptr;

use rusqlite::ffi as sqlite;

use super::api::db_name;

/// Whether `connection` has a rollback journal open for `file`, in a file or in memory. `None` if
/// it cannot be told, because the connection is being opened or closed.
///
/// # Safety
/// `file` is open; `connection` is null, or what `SQLITE_FCNTL_PDB` gave for `file`. Called from a
/// method of `file`.
pub(super) unsafe fn is_open(
    file: *mut sqlite::sqlite3_file,
    connection: *mut *mut sqlite::sqlite3,
) -> Option<bool> {
    if connection.is_null() {
        return None;
    }
    // SAFETY: a field of the structure that owns `file`, which is open; its mutex is held.
    let connection = unsafe { *connection };
    if connection.is_null() {
        return None;
    }
    for index in 0.. {
        // SAFETY: the connection that calls the file's method is alive, and its mutex is recursive
        // where it has one.
        let schema = unsafe { db_name(connection, index) };
        if schema.is_null() {
            return None;
        }
        // SAFETY: as above; the name is the connection's own.
        let main = unsafe { pointer(connection, schema, sqlite::SQLITE_FCNTL_FILE_POINTER) };
        if main != file {
            continue;
        }
        // SAFETY: as above.
        let journal = unsafe { pointer(connection, schema, sqlite::SQLITE_FCNTL_JOURNAL_POINTER) };
        if journal.is_null() {
            return None;
        }
        // SAFETY: a part of the pager, which is alive as `file` is. No methods: not open.
        return Some(unsafe { !(*journal).pMethods.is_null() });
    }
    None
}

/// Asks for one of the files of a database.
///
/// # Safety
/// `connection` is alive and may be used by this thread; `schema` ends in NUL; `operation` writes
/// one pointer. SQLite answers such an operation itself, without calling the file.
unsafe fn pointer(
    connection: *mut sqlite::sqlite3,
    schema: *const c_char,
    operation: c_int,
) -> *mut sqlite::sqlite3_file {
    let mut found: *mut sqlite::sqlite3_file = ptr::null_mut();
    // SAFETY: as the caller says; `found` is where the one pointer goes.
    unsafe {
        sqlite::sqlite3_file_control(
            connection,
            schema,
            operation,
            ptr::from_mut(&mut found).cast(),
        );
    }
    found
}
