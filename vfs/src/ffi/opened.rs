//! Asking a connection which facet one of its databases is.

use std::ffi::CString;
use std::os::raw::{c_int, c_void};
use std::ptr;

use rusqlite::Connection;
use rusqlite::ffi as sqlite;

use super::mount::Mount;
use crate::stores::OpenedFacet;

/// File control that asks a file for the facet it is. Its argument is an `Option<OpenedFacet>`.
/// SQLite's own numbers are below 100 and passed on by those who do not know them.
pub(super) const FCNTL_OPENED_FACET: c_int = 0x4c41_5049;

impl<S> Mount<S> {
    /// The facet that the database `schema` of `connection` is, if it was opened through this mount.
    pub(crate) fn opened_facet(
        &self,
        connection: &Connection,
        schema: &str,
    ) -> Option<OpenedFacet> {
        let schema = CString::new(schema).ok()?;
        // SAFETY: the handle is used during this call alone, and not closed by it.
        let handle = unsafe { connection.handle() };
        let ask = |operation: c_int, argument: *mut c_void| {
            // SAFETY: a connection that is alive, used by this thread; the name ends in NUL; the
            // argument is what the operation takes.
            unsafe { sqlite::sqlite3_file_control(handle, schema.as_ptr(), operation, argument) }
        };
        // Answered by SQLite itself. Another VFS might take our own number for one of its own.
        let mut vfs: *mut sqlite::sqlite3_vfs = ptr::null_mut();
        let code = ask(sqlite::SQLITE_FCNTL_VFS_POINTER, ptr::from_mut(&mut vfs).cast());
        if code != sqlite::SQLITE_OK || !self.is_vfs(vfs) {
            return None;
        }
        let mut found: Option<OpenedFacet> = None;
        ask(FCNTL_OPENED_FACET, ptr::from_mut(&mut found).cast());
        found
    }
}
