//! The one place with unsafe code: the entry points, connections as SQLite hands them over, and the
//! virtual table in `list`.
//!
//! No panic gets out of here: each entry point has a barrier. The scalar functions have rusqlite's.

#![expect(unsafe_code, reason = "the C interface; everything else in this crate is safe")]

use std::error::Error;
use std::os::raw::{c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rusqlite::Connection;
use rusqlite::ffi as sqlite;
use rusqlite::functions::Context;

use crate::{functions, setup};

mod list;

pub(crate) use list::register as register_list;

type EntryPoint = unsafe extern "C" fn(
    *mut sqlite::sqlite3,
    *mut *mut c_char,
    *mut sqlite::sqlite3_api_routines,
) -> c_int;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The entry point of the extension. SQLite calls it for each connection that loads it.
///
/// # Safety
/// As SQLite calls it: a connection, a place for an error message, a table of functions.
#[unsafe(no_mangle)]
unsafe extern "C" fn sqlite3_extension_init(
    connection: *mut sqlite::sqlite3,
    message: *mut *mut c_char,
    api: *mut sqlite::sqlite3_api_routines,
) -> c_int {
    let load = || -> Result<()> {
        // SAFETY: this is the entry point, and that the table.
        unsafe { lapidary_vfs::use_host_sqlite(api) }?;
        setup::vfs()?;
        // SAFETY: declared without its arguments, and called with them.
        let entry = unsafe { std::mem::transmute::<EntryPoint, unsafe extern "C" fn()>(opened) };
        // SAFETY: a function of this library, which is never unloaded. SQLite takes it once, however
        // often it is passed.
        let code = unsafe { sqlite::sqlite3_auto_extension(Some(entry)) };
        if code != sqlite::SQLITE_OK {
            return Err(sqlite::Error::new(code).into());
        }
        // SAFETY: the connection that SQLite has passed.
        unsafe { equip(connection) }?;
        Ok(())
    };
    match barrier(load) {
        Ok(()) => sqlite::SQLITE_OK_LOAD_PERMANENTLY,
        Err(error) => {
            // SAFETY: as the caller says.
            unsafe { say(&format!("lapidary: {error}"), message, api) };
            sqlite::SQLITE_ERROR
        }
    }
}

/// Called by SQLite for each connection that is opened once the extension is loaded. It never fails:
/// that would keep the connection from being opened, which may have nothing to do with facets.
unsafe extern "C" fn opened(
    connection: *mut sqlite::sqlite3,
    _message: *mut *mut c_char,
    _api: *mut sqlite::sqlite3_api_routines,
) -> c_int {
    // SAFETY: the connection that SQLite has passed.
    let equipped = barrier(|| unsafe { equip(connection) });
    // Without functions it is still a connection.
    drop(equipped);
    sqlite::SQLITE_OK
}

/// Registers the functions with a connection.
///
/// # Safety
/// `connection` is alive and used by this thread.
unsafe fn equip(connection: *mut sqlite::sqlite3) -> rusqlite::Result<()> {
    // SAFETY: as the caller says.
    unsafe { borrowed(connection, functions::register) }
}

/// Calls `body` with the connection that calls a function.
pub(crate) fn with_connection<T>(
    context: &Context<'_>,
    body: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    // SAFETY: nothing of it outlives this call, which is made by its thread.
    let connection = unsafe { context.get_connection() }?;
    body(&connection)
}

/// Calls `body` with a connection of SQLite's, which is not closed by it.
///
/// # Safety
/// `connection` is alive and used by this thread.
unsafe fn borrowed<T>(
    connection: *mut sqlite::sqlite3,
    body: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    // SAFETY: as the caller says.
    let connection = unsafe { Connection::from_handle(connection) }?;
    body(&connection)
}

/// Runs `body`, and makes an error of a panic.
fn barrier<T, E: From<rusqlite::Error>>(
    body: impl FnOnce() -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        // Dropping a payload runs foreign code, which could panic in turn.
        std::mem::forget(payload);
        Err(functions::failed("internal error, please report it").into())
    })
}

/// Gives `words` to SQLite, which frees them.
///
/// # Safety
/// As for the entry point.
unsafe fn say(words: &str, place: *mut *mut c_char, api: *mut sqlite::sqlite3_api_routines) {
    // By the table itself, since nothing else can be called if that is what was refused.
    // SAFETY: as the caller says; the entry is older than extensions.
    let Some(malloc) = (unsafe { (*api).malloc }) else { return };
    let Ok(length) = c_int::try_from(words.len()) else { return };
    if place.is_null() {
        return;
    }
    // SAFETY: any number of bytes may be asked for.
    let copy = unsafe { malloc(length + 1) }.cast::<u8>();
    if copy.is_null() {
        return;
    }
    // SAFETY: there is room for one byte more.
    unsafe { std::ptr::copy_nonoverlapping(words.as_ptr(), copy, words.len()) };
    // SAFETY: the one byte more.
    let end = unsafe { copy.add(words.len()) };
    // SAFETY: as above.
    unsafe { *end = 0 };
    // SAFETY: a place for the message.
    unsafe { *place = copy.cast() };
}
