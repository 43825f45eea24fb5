//! SQLite's memory for an open file, and what is put there.

use std::os::raw::c_int;
use std::sync::Arc;

use rusqlite::ffi as sqlite;

use super::barrier;
use super::forked::{Generation, OPENED_BEFORE_FORK};
use super::io_methods::Methods;
use crate::error::{self, Failure};
use crate::file::File;

/// What an open file holds of the mount it belongs to.
pub(super) trait Mounted: Send + Sync {
    /// Name of the VFS.
    fn name(&self) -> &str;
}

/// What SQLite takes for a `sqlite3_file`. The same layout for every `F`.
#[repr(C)]
pub(super) struct Slot<F> {
    base: sqlite::sqlite3_file,
    open: *mut OpenFile<F>,
}

/// Bytes that SQLite is to allocate for a file.
pub(super) const SLOT_BYTES: usize = size_of::<Slot<()>>();

/// An open file.
pub(super) struct OpenFile<F> {
    // Dropped before the mount, which may be what keeps the store open.
    pub(super) file: F,
    /// The words of a panic in one of its methods, after which its state cannot be trusted.
    panicked: Option<String>,
    /// Where the connection that uses the file is noted (`SQLITE_FCNTL_PDB`): a field of SQLite's
    /// `BtShared`, which owns the pager, which owns this file. Null until it is told.
    pub(super) connection: *mut *mut sqlite::sqlite3,
    pub(super) mount: Arc<dyn Mounted>,
    /// Of the process that opened it (6).
    generation: Generation,
}

/// Puts an open file into the memory at `slot`.
///
/// # Safety
/// `slot` has room for [`SLOT_BYTES`], is aligned for pointers, and holds no open file.
pub(super) unsafe fn install<F: File>(
    slot: *mut sqlite::sqlite3_file,
    file: F,
    mount: Arc<dyn Mounted>,
) {
    let generation = Generation::current();
    let connection = std::ptr::null_mut();
    let open = OpenFile { file, panicked: None, connection, mount, generation };
    let filled = Slot {
        base: sqlite::sqlite3_file { pMethods: Methods::<F>::TABLE },
        open: Box::into_raw(Box::new(open)),
    };
    // SAFETY: the caller gives room for any Slot, aligned.
    unsafe { slot.cast::<Slot<F>>().write(filled) }
}

/// Calls `body` with the file in `slot`, behind the panic barrier.
///
/// # Safety
/// [`install`] filled `slot` with an `F`, which is not closed; no other call on it runs (2, 3).
pub(super) unsafe fn with_file<F: File>(
    slot: *mut sqlite::sqlite3_file,
    fallback: c_int,
    body: impl FnOnce(&mut OpenFile<F>) -> Result<c_int, Failure>,
) -> c_int {
    // SAFETY: as the caller says.
    let open = unsafe { file_in(slot) };
    if open.generation != Generation::current() {
        return barrier::guard(fallback, || Err(Failure::new(fallback, OPENED_BEFORE_FORK)));
    }
    if let Some(words) = &open.panicked {
        let message = format!("this connection must be closed and opened again; before: {words}");
        return barrier::guard(fallback, || Err(Failure::new(fallback, message)));
    }
    call(open, fallback, body)
}

/// As [`with_file`], also for a file that panicked before, and always with success: for `xUnlock`
/// and `xUnfetch`, which the pager cannot do without.
///
/// # Safety
/// As for [`with_file`].
pub(super) unsafe fn with_file_always<F: File>(
    slot: *mut sqlite::sqlite3_file,
    body: impl FnOnce(&mut OpenFile<F>),
) -> c_int {
    // SAFETY: as the caller says.
    let open = unsafe { file_in(slot) };
    if open.generation == Generation::current() {
        call(open, sqlite::SQLITE_IOERR_UNLOCK, |open| {
            body(open);
            Ok(sqlite::SQLITE_OK)
        });
    }
    sqlite::SQLITE_OK
}

/// # Safety
/// As for [`with_file`], for as long as the result is used.
unsafe fn file_in<'a, F: File>(slot: *mut sqlite::sqlite3_file) -> &'a mut OpenFile<F> {
    // SAFETY: the caller says that this is a filled Slot<F>.
    let open = unsafe { (*slot.cast::<Slot<F>>()).open };
    // SAFETY: from Box::into_raw in `install`, not freed before `close`, used by this call alone.
    unsafe { &mut *open }
}

fn call<F: File>(
    open: &mut OpenFile<F>,
    fallback: c_int,
    body: impl FnOnce(&mut OpenFile<F>) -> Result<c_int, Failure>,
) -> c_int {
    let mut ended = false;
    let code = barrier::guard(fallback, || {
        let result = body(open);
        ended = true;
        result
    });
    if !ended {
        open.panicked = error::peek_last_error().map(|(words, _)| words);
    }
    code
}

/// Closes the file in `slot`.
///
/// # Safety
/// As for [`with_file`]; the file is gone afterwards.
pub(super) unsafe fn close<F: File>(slot: *mut sqlite::sqlite3_file) -> c_int {
    let slot = slot.cast::<Slot<F>>();
    // SAFETY: the caller says that this is a filled Slot<F>.
    let open = unsafe { (*slot).open };
    // SAFETY: as above. SQLite takes a file without methods for a closed one.
    unsafe { (*slot).base.pMethods = std::ptr::null() };
    barrier::guard(sqlite::SQLITE_IOERR_CLOSE, || {
        // SAFETY: from Box::into_raw in `install`; the caller gives it up, so this is the last use.
        let open = unsafe { Box::from_raw(open) };
        if open.generation == Generation::current() {
            drop(open);
        } else {
            // Its end would be one of its parent's transaction, perhaps of its parent's store.
            std::mem::forget(open);
        }
        Ok(sqlite::SQLITE_OK)
    })
}
