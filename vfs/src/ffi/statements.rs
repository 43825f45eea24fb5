//! Statements that outlived their owners.

use std::ptr;

use rusqlite::Connection;
use rusqlite::ffi as sqlite;

/// Closes `connection`, also if statements of it were forgotten (`std::mem::forget`). SQLite keeps
/// one with statements open. Then they are stopped, an open transaction is rolled back, and locks and
/// snapshots are let go of: nobody waits for the connection any more, but its memory stays. Returns
/// whether nothing was forgotten.
///
/// Forgotten statements are not finalized, since they cannot be told from those that virtual tables
/// have prepared for themselves, and will finalize.
pub fn close_connection(connection: Connection) -> bool {
    let Err((connection, _)) = connection.close() else { return true };
    // SAFETY: the handle is used during this call alone, and not closed by it.
    let handle = unsafe { connection.handle() };
    // What the connection's owner refuses to statements is not meant for those below.
    // SAFETY: `handle` is an open connection that no other thread uses, since it was moved here; no
    // callback is passed.
    unsafe { sqlite::sqlite3_set_authorizer(handle, None, ptr::null_mut()) };
    // SAFETY: as above.
    unsafe { sqlite::sqlite3_progress_handler(handle, 0, None, ptr::null_mut()) };
    let mut statement = ptr::null_mut();
    loop {
        // SAFETY: as above; null asks for the first statement, a statement for the one after it.
        statement = unsafe { sqlite::sqlite3_next_stmt(handle, statement) };
        if statement.is_null() {
            break;
        }
        // SAFETY: a statement of this connection that is not finalized. Its owner, if it is not a
        // virtual table, which can bear it, was forgotten: a `Statement` borrows its connection, which
        // was moved here.
        unsafe { sqlite::sqlite3_reset(statement) };
    }
    let is_over = connection.is_autocommit() || connection.execute_batch("ROLLBACK").is_ok();
    // A lock that was kept by locking_mode=EXCLUSIVE is let go of after the next statement.
    let unlock = "PRAGMA locking_mode=NORMAL; SELECT 1 FROM sqlite_schema LIMIT 1";
    if !is_over || connection.execute_batch(unlock).is_err() {
        tracing::error!("a connection with forgotten statements keeps its locks");
    }
    std::mem::forget(connection);
    false
}
