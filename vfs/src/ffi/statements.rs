//! Statements that outlived their owners.

use rusqlite::Connection;
use rusqlite::ffi as sqlite;

/// Finalizes every statement of `connection` whose owner was forgotten (`std::mem::forget`), and
/// tells how many there were. To be called before a connection is closed: SQLite keeps one with
/// statements open, together with its locks and its snapshot.
///
/// The connection's cache of prepared statements is emptied.
pub fn finalize_forgotten(connection: &mut Connection) -> usize {
    connection.flush_prepared_statement_cache();
    // SAFETY: the handle is used during this call alone, and not closed by it.
    let handle = unsafe { connection.handle() };
    let mut finalized = 0;
    loop {
        // SAFETY: `handle` is an open connection that no other thread uses, as it is borrowed
        // mutably; null asks for its first statement.
        let statement = unsafe { sqlite::sqlite3_next_stmt(handle, std::ptr::null_mut()) };
        if statement.is_null() {
            return finalized;
        }
        // SAFETY: a statement of this connection, not finalized yet. Nobody uses it again: a
        // `Statement` borrows its connection, which is borrowed mutably here, so the owner is gone
        // without having run its destructor; and the cache, the one owner inside, is empty.
        unsafe { sqlite::sqlite3_finalize(statement) };
        finalized += 1;
    }
}
