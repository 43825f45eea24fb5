//! Loading of extensions: left to the operating system's own VFS, whichever VFS a connection uses.

use std::os::raw::{c_char, c_int, c_void};

use rusqlite::ffi as sqlite;

use super::barrier::guard_value;
use super::vfs_methods::put_text;

/// SQLite's VFS for the operating system's files; null in a build that has none.
fn system_vfs() -> *mut sqlite::sqlite3_vfs {
    // SAFETY: a string that ends in NUL.
    unsafe { sqlite::sqlite3_vfs_find(c"unix".as_ptr()) }
}

/// One of the methods of the system's VFS, and that VFS.
fn method<M>(
    which: impl FnOnce(&sqlite::sqlite3_vfs) -> Option<M>,
) -> Option<(*mut sqlite::sqlite3_vfs, M)> {
    let vfs = system_vfs();
    // SAFETY: null, or a static of SQLite's.
    let method = which(unsafe { vfs.as_ref() }?)?;
    Some((vfs, method))
}

pub(super) unsafe extern "C" fn open(
    _vfs: *mut sqlite::sqlite3_vfs,
    name: *const c_char,
) -> *mut c_void {
    guard_value(std::ptr::null_mut(), || match method(|vfs| vfs.xDlOpen) {
        // SAFETY: the name that SQLite has passed, on to another VFS.
        Some((vfs, open)) => unsafe { open(vfs, name) },
        None => std::ptr::null_mut(),
    })
}

pub(super) unsafe extern "C" fn error(
    _vfs: *mut sqlite::sqlite3_vfs,
    out_bytes: c_int,
    out: *mut c_char,
) {
    guard_value((), || match method(|vfs| vfs.xDlError) {
        // SAFETY: the buffer that SQLite has passed, on to another VFS.
        Some((vfs, error)) => unsafe { error(vfs, out_bytes, out) },
        None => {
            let words = "this SQLite has no VFS `unix`, which extensions are loaded through";
            // SAFETY: a buffer of that length (4).
            unsafe { put_text(words, out_bytes, out) };
        }
    });
}

type Symbol = unsafe extern "C" fn(*mut sqlite::sqlite3_vfs, *mut c_void, *const c_char);

pub(super) unsafe extern "C" fn symbol(
    _vfs: *mut sqlite::sqlite3_vfs,
    library: *mut c_void,
    name: *const c_char,
) -> Option<Symbol> {
    guard_value(None, || {
        let (vfs, symbol) = method(|vfs| vfs.xDlSym)?;
        // SAFETY: a library that `open` gave, and the name that SQLite has passed.
        unsafe { symbol(vfs, library, name) }
    })
}

pub(super) unsafe extern "C" fn close(_vfs: *mut sqlite::sqlite3_vfs, library: *mut c_void) {
    guard_value((), || {
        if let Some((vfs, close)) = method(|vfs| vfs.xDlClose) {
            // SAFETY: a library that `open` gave.
            unsafe { close(vfs, library) };
        }
    });
}
