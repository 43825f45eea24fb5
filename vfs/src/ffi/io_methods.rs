//! The methods of a `sqlite3_file`, for each type of file.

use std::ffi::CString;
use std::marker::PhantomData;
use std::os::raw::{c_char, c_int, c_void};
use std::slice;

use rusqlite::ffi as sqlite;

use super::journal;
use super::opened::FCNTL_OPENED_FACET;
use super::slot::{self, OpenFile, with_file, with_file_always};
use super::vfs_methods::text;
use crate::error::{Failure, Operation};
use crate::file::{FETCHED_PAST_BYTES, File, Filled, LockLevel, PragmaAnswer};
use crate::stores::OpenedFacet;

/// The methods table for files of type `F`.
pub(super) struct Methods<F>(PhantomData<F>);

impl<F: File> Methods<F> {
    /// Version 3 has reading in place; version 2 would be shared memory, without which there is no
    /// write-ahead log.
    pub(super) const TABLE: &'static sqlite::sqlite3_io_methods = &sqlite::sqlite3_io_methods {
        iVersion: 3,
        xClose: Some(close::<F>),
        xRead: Some(read::<F>),
        xWrite: Some(write::<F>),
        xTruncate: Some(truncate::<F>),
        xSync: Some(sync::<F>),
        xFileSize: Some(file_size::<F>),
        xLock: Some(lock::<F>),
        xUnlock: Some(unlock::<F>),
        xCheckReservedLock: Some(check_reserved_lock::<F>),
        xFileControl: Some(file_control::<F>),
        xSectorSize: Some(sector_size),
        xDeviceCharacteristics: Some(device_characteristics::<F>),
        xShmMap: None,
        xShmLock: None,
        xShmBarrier: None,
        xShmUnmap: None,
        xFetch: Some(fetch::<F>),
        xUnfetch: Some(unfetch::<F>),
    };
}

/// An offset, a size or a length of SQLite's, which are signed.
fn unsigned<N: TryInto<U>, U>(number: N, operation: Operation) -> Result<U, Failure> {
    number.try_into().map_err(|_| Failure::of(operation, "negative offset or length"))
}

unsafe extern "C" fn close<F: File>(file: *mut sqlite::sqlite3_file) -> c_int {
    // SAFETY: SQLite closes an open file, once (2).
    unsafe { slot::close::<F>(file) }
}

unsafe extern "C" fn read<F: File>(
    file: *mut sqlite::sqlite3_file,
    into: *mut c_void,
    length: c_int,
    offset: sqlite::sqlite3_int64,
) -> c_int {
    let body = |open: &mut OpenFile<F>| {
        let length = unsigned(length, Operation::Read)?;
        // SAFETY: a buffer of that length, of this call alone (4). It is written, never read.
        let into = unsafe { slice::from_raw_parts_mut(into.cast::<u8>(), length) };
        Ok(match open.file.read(unsigned(offset, Operation::Read)?, into)? {
            Filled::Whole => sqlite::SQLITE_OK,
            Filled::Short => sqlite::SQLITE_IOERR_SHORT_READ,
        })
    };
    // SAFETY: SQLite calls the method of an open file, one at a time (2, 3).
    unsafe { with_file(file, sqlite::SQLITE_IOERR_READ, body) }
}

unsafe extern "C" fn write<F: File>(
    file: *mut sqlite::sqlite3_file,
    bytes: *const c_void,
    length: c_int,
    offset: sqlite::sqlite3_int64,
) -> c_int {
    let body = |open: &mut OpenFile<F>| {
        if open.file.wants_journal_check() {
            // SAFETY: `file` is open and this is a method of it; the pointer came with PDB.
            let answer = unsafe { journal::is_open(file, open.connection) };
            if let Some(answer) = answer {
                open.file.journal_is_open(answer)?;
            }
        }
        let length = unsigned(length, Operation::Write)?;
        // SAFETY: bytes of that length (4), which nobody changes during the call.
        let bytes = unsafe { slice::from_raw_parts(bytes.cast::<u8>(), length) };
        open.file.write(unsigned(offset, Operation::Write)?, bytes)?;
        Ok(sqlite::SQLITE_OK)
    };
    // SAFETY: SQLite calls the method of an open file, one at a time (2, 3).
    unsafe { with_file(file, sqlite::SQLITE_IOERR_WRITE, body) }
}

unsafe extern "C" fn fetch<F: File>(
    file: *mut sqlite::sqlite3_file,
    offset: sqlite::sqlite3_int64,
    length: c_int,
    found: *mut *mut c_void,
) -> c_int {
    let body = |open: &mut OpenFile<F>| {
        let (offset, length) =
            (unsigned(offset, Operation::Read)?, unsigned(length, Operation::Read)?);
        let bytes = open.file.fetch(offset, length)?;
        debug_assert!(bytes.is_none_or(|bytes| bytes.len() >= length + FETCHED_PAST_BYTES));
        // SQLite does not write there: the pager takes what was fetched for read-only.
        let address = bytes.map_or(std::ptr::null(), <[u8]>::as_ptr).cast_mut();
        // SAFETY: a place for the address (4). What is there stays, by the contract of `File::fetch`.
        unsafe { *found = address.cast() };
        Ok(sqlite::SQLITE_OK)
    };
    // SAFETY: SQLite calls the method of an open file, one at a time (2, 3).
    unsafe { with_file(file, sqlite::SQLITE_IOERR_MMAP, body) }
}

unsafe extern "C" fn unfetch<F: File>(
    file: *mut sqlite::sqlite3_file,
    _offset: sqlite::sqlite3_int64,
    address: *mut c_void,
) -> c_int {
    // Null: what is mapped may be out of date. Here it never is.
    if address.is_null() {
        return sqlite::SQLITE_OK;
    }
    // SAFETY: SQLite calls the method of an open file, one at a time (2, 3).
    unsafe { with_file_always(file, |open: &mut OpenFile<F>| open.file.unfetch()) }
}

unsafe extern "C" fn truncate<F: File>(
    file: *mut sqlite::sqlite3_file,
    size: sqlite::sqlite3_int64,
) -> c_int {
    let body = |open: &mut OpenFile<F>| {
        open.file.truncate(unsigned(size, Operation::Truncate)?)?;
        Ok(sqlite::SQLITE_OK)
    };
    // SAFETY: SQLite calls the method of an open file, one at a time (2, 3).
    unsafe { with_file(file, sqlite::SQLITE_IOERR_TRUNCATE, body) }
}

unsafe extern "C" fn sync<F: File>(file: *mut sqlite::sqlite3_file, _flags: c_int) -> c_int {
    let body = |open: &mut OpenFile<F>| {
        open.file.sync()?;
        Ok(sqlite::SQLITE_OK)
    };
    // SAFETY: SQLite calls the method of an open file, one at a time (2, 3).
    unsafe { with_file(file, sqlite::SQLITE_IOERR_FSYNC, body) }
}

unsafe extern "C" fn file_size<F: File>(
    file: *mut sqlite::sqlite3_file,
    size: *mut sqlite::sqlite3_int64,
) -> c_int {
    let body = |open: &mut OpenFile<F>| {
        let bytes = open.file.size_bytes()?;
        let bytes = bytes
            .try_into()
            .map_err(|_| Failure::of(Operation::Size, "the file is larger than SQLite can say"))?;
        // SAFETY: a place for the size (4).
        unsafe { *size = bytes };
        Ok(sqlite::SQLITE_OK)
    };
    // SAFETY: SQLite calls the method of an open file, one at a time (2, 3).
    unsafe { with_file(file, sqlite::SQLITE_IOERR_FSTAT, body) }
}

unsafe extern "C" fn lock<F: File>(file: *mut sqlite::sqlite3_file, level: c_int) -> c_int {
    let body = |open: &mut OpenFile<F>| {
        let level = LockLevel::from_code(level)
            .ok_or_else(|| Failure::of(Operation::Lock, format!("no lock level {level}")))?;
        open.file.lock(level)?;
        Ok(sqlite::SQLITE_OK)
    };
    // SAFETY: SQLite calls the method of an open file, one at a time (2, 3).
    unsafe { with_file(file, sqlite::SQLITE_IOERR_LOCK, body) }
}

unsafe extern "C" fn unlock<F: File>(file: *mut sqlite::sqlite3_file, level: c_int) -> c_int {
    let body = |open: &mut OpenFile<F>| {
        open.file.unlock(LockLevel::from_code(level).unwrap_or(LockLevel::None));
    };
    // SAFETY: SQLite calls the method of an open file, one at a time (2, 3).
    unsafe { with_file_always(file, body) }
}

unsafe extern "C" fn check_reserved_lock<F: File>(
    file: *mut sqlite::sqlite3_file,
    answer: *mut c_int,
) -> c_int {
    let body = |open: &mut OpenFile<F>| {
        let reserved = open.file.is_reserved();
        // SAFETY: a place for the answer (4).
        unsafe { *answer = c_int::from(reserved) };
        Ok(sqlite::SQLITE_OK)
    };
    // SAFETY: SQLite calls the method of an open file, one at a time (2, 3).
    unsafe { with_file(file, sqlite::SQLITE_IOERR_CHECKRESERVEDLOCK, body) }
}

unsafe extern "C" fn sector_size(_file: *mut sqlite::sqlite3_file) -> c_int {
    // The unit that a power cut may damage. None can be damaged here; this is the smallest that
    // SQLite knows, and never larger than a page.
    512
}

unsafe extern "C" fn device_characteristics<F: File>(file: *mut sqlite::sqlite3_file) -> c_int {
    let mut flags = 0;
    let body = |open: &mut OpenFile<F>| {
        flags = open.file.device_characteristics();
        Ok(sqlite::SQLITE_OK)
    };
    // SAFETY: SQLite calls the method of an open file, one at a time (2, 3).
    unsafe { with_file(file, sqlite::SQLITE_IOERR, body) };
    flags
}

unsafe extern "C" fn file_control<F: File>(
    file: *mut sqlite::sqlite3_file,
    operation: c_int,
    argument: *mut c_void,
) -> c_int {
    let body = |open: &mut OpenFile<F>| {
        match operation {
            sqlite::SQLITE_FCNTL_COMMIT_PHASETWO => open.file.commit()?,
            sqlite::SQLITE_FCNTL_SYNC => {
                // SAFETY: null, or the name of a super-journal (4).
                let name = unsafe { text(argument.cast::<c_char>(), Operation::Sync) }?;
                // SAFETY: this is a method of the open file that the pointer came to.
                let connection = unsafe { connection(open) };
                open.file.before_sync(connection, name)?;
            }
            // SAFETY: the operation's argument is an array of strings (4).
            sqlite::SQLITE_FCNTL_PRAGMA => return unsafe { pragma(open, argument.cast()) },
            sqlite::SQLITE_FCNTL_PDB => {
                open.connection = argument.cast();
                // SAFETY: as above.
                if let Some(connection) = unsafe { connection(open) } {
                    open.file.opened_by(connection);
                }
            }
            sqlite::SQLITE_FCNTL_VFSNAME => {
                // SAFETY: the operation's argument is a place for a string (4).
                unsafe { *argument.cast::<*mut c_char>() = sqlite_string(open.mount.name()) };
            }
            sqlite::SQLITE_FCNTL_LOCKSTATE => {
                // SAFETY: the operation's argument is a place for an int (4).
                unsafe { *argument.cast::<c_int>() = open.file.lock_level().code() };
            }
            sqlite::SQLITE_FCNTL_HAS_MOVED => {
                // SAFETY: the operation's argument is a place for an int (4).
                unsafe { *argument.cast::<c_int>() = c_int::from(open.file.has_moved()) };
            }
            sqlite::SQLITE_FCNTL_MMAP_SIZE => {
                let limit = argument.cast::<sqlite::sqlite3_int64>();
                // SAFETY: the operation's argument is a place with a number (4).
                let new = unsafe { *limit };
                // What is negative asks and sets nothing.
                let old = open.file.mmap_limit(u64::try_from(new).ok());
                // SAFETY: as above.
                unsafe { *limit = old.try_into().unwrap_or(sqlite::sqlite3_int64::MAX) };
            }
            sqlite::SQLITE_FCNTL_POWERSAFE_OVERWRITE => {
                // It always holds: asked, it is on, and it cannot be set.
                // SAFETY: the operation's argument is a place for an int (4).
                unsafe { *argument.cast::<c_int>() = 1 };
            }
            FCNTL_OPENED_FACET => {
                // SAFETY: only `opened.rs` asks this, and passes such a place.
                unsafe { *argument.cast::<Option<OpenedFacet>>() = open.file.opened_facet() };
            }
            // The engine takes space when a page is written; a hint is no reason to.
            sqlite::SQLITE_FCNTL_SIZE_HINT => {}
            _ => return Ok(sqlite::SQLITE_NOTFOUND),
        }
        Ok(sqlite::SQLITE_OK)
    };
    // SAFETY: SQLite calls the method of an open file, one at a time (2, 3).
    unsafe { with_file(file, sqlite::SQLITE_IOERR, body) }
}

/// Address of the connection that uses the file now, if SQLite has told.
///
/// # Safety
/// The file is open, and the call is one of its methods.
unsafe fn connection<F: File>(open: &OpenFile<F>) -> Option<usize> {
    if open.connection.is_null() {
        return None;
    }
    // SAFETY: a field of what owns the file's pager; its mutex is held during methods.
    let connection = unsafe { *open.connection };
    (!connection.is_null()).then_some(connection.addr())
}

/// `SQLITE_FCNTL_PRAGMA`.
///
/// # Safety
/// `strings` are an array of at least three: one to be filled in, a name, a value or null (4).
unsafe fn pragma<F: File>(
    open: &mut OpenFile<F>,
    strings: *mut *mut c_char,
) -> Result<c_int, Failure> {
    // SAFETY: within the array.
    let name = unsafe { strings.add(1) };
    // SAFETY: within the array.
    let name = unsafe { *name };
    // SAFETY: within the array.
    let value = unsafe { strings.add(2) };
    // SAFETY: within the array.
    let value = unsafe { *value };
    // SAFETY: a string, during the call.
    let name = unsafe { text(name, Operation::Open) }.ok().flatten();
    // SAFETY: null or a string, during the call.
    let value = unsafe { text(value, Operation::Open) }.ok().flatten();
    // What is not UTF-8 is no pragma of ours.
    let Some(name) = name else {
        return Ok(sqlite::SQLITE_NOTFOUND);
    };
    let (code, words) = match open.file.pragma(name, value) {
        PragmaAnswer::PassOn => return Ok(sqlite::SQLITE_NOTFOUND),
        PragmaAnswer::Row(words) => (sqlite::SQLITE_OK, words),
        PragmaAnswer::Refuse(words) => (sqlite::SQLITE_ERROR, words),
    };
    let answer = sqlite_string(&words);
    // Without words SQLite would take it for a pragma without a row, or for an error of another kind.
    if answer.is_null() {
        return Err(Failure::new(sqlite::SQLITE_NOMEM, "no memory for the answer to a pragma"));
    }
    // SAFETY: the first of the array is for the answer, which SQLite frees.
    unsafe { *strings = answer };
    if code == sqlite::SQLITE_OK { Ok(code) } else { Err(Failure::new(code, words)) }
}

/// A copy of `text` for SQLite to free; null if there is no memory.
fn sqlite_string(text: &str) -> *mut c_char {
    let Ok(text) = CString::new(text.replace('\0', " ")) else {
        return std::ptr::null_mut();
    };
    let bytes = text.as_bytes_with_nul();
    // SAFETY: memory of any size may be asked for.
    let copy = unsafe { sqlite::sqlite3_malloc64(bytes.len() as u64) }.cast::<c_char>();
    if !copy.is_null() {
        // SAFETY: as many bytes as were asked for.
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), copy, bytes.len()) };
    }
    copy
}
