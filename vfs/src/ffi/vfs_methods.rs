//! The methods of a `sqlite3_vfs`.

use std::ffi::{CStr, CString};
use std::os::raw::{c_char, c_int};
use std::slice;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::ffi as sqlite;

use super::barrier::{guard, guard_value};
use super::mount::{AppData, Mount};
use super::slot;
use crate::error::{self, Failure, Operation};
use crate::file::{Access, File, FileKind, FileSystem, OpenRequest, Opened};

/// The mount behind a VFS.
///
/// # Safety
/// `vfs` was made for `S` by `mount::leak_vfs` (1).
unsafe fn mount_of<S: FileSystem>(
    vfs: *mut sqlite::sqlite3_vfs,
    operation: Operation,
) -> Result<Arc<Mount<S>>, Failure> {
    // SAFETY: a VFS is never freed (1), and nobody writes this field.
    let app_data = unsafe { (*vfs).pAppData }.cast::<AppData<S>>();
    // SAFETY: never freed (1), never written.
    let app_data = unsafe { &*app_data };
    app_data.mount().ok_or_else(|| {
        Failure::of(operation, "the store behind this VFS is no longer registered with SQLite")
    })
}

/// A string of SQLite's.
///
/// # Safety
/// `text` is null or ends in NUL, and outlives the result (4).
pub(super) unsafe fn text<'a>(
    text: *const c_char,
    operation: Operation,
) -> Result<Option<&'a str>, Failure> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller says so.
    let bytes = unsafe { CStr::from_ptr(text) };
    bytes.to_str().map(Some).map_err(|_| {
        Failure::of(
            operation,
            format!("name {:?} is refused: it is not UTF-8", bytes.to_string_lossy()),
        )
    })
}

/// The value of a URI parameter.
///
/// # Safety
/// `name` is what SQLite gave `xOpen` for a main database, and still good.
unsafe fn uri_parameter(name: *const c_char, key: &str) -> Option<String> {
    let key = CString::new(key).ok()?;
    // SAFETY: the caller says so; SQLite lays the parameters out behind such a name.
    let value = unsafe { sqlite::sqlite3_uri_parameter(name, key.as_ptr()) };
    if value.is_null() {
        return None;
    }
    // SAFETY: a string in the memory behind the name.
    Some(unsafe { CStr::from_ptr(value) }.to_string_lossy().into_owned())
}

/// The names of all URI parameters.
///
/// # Safety
/// As for [`uri_parameter`].
unsafe fn uri_parameter_names(name: *const c_char) -> Vec<String> {
    let name_at = |index| {
        // SAFETY: the caller says so; SQLite answers null beyond the last.
        let key = unsafe { sqlite::sqlite3_uri_key(name, index) };
        if key.is_null() {
            return None;
        }
        // SAFETY: a string in the memory behind the name.
        Some(unsafe { CStr::from_ptr(key) }.to_string_lossy().into_owned())
    };
    (0..).map_while(name_at).collect()
}

pub(super) unsafe extern "C" fn open<S: FileSystem>(
    vfs: *mut sqlite::sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: memory for a file (2). Without methods SQLite does not close what did not open.
    unsafe { (*file).pMethods = std::ptr::null() };
    guard(sqlite::SQLITE_CANTOPEN, || {
        // SAFETY: SQLite passes the VFS that the method belongs to.
        let mount = unsafe { mount_of::<S>(vfs, Operation::Open) }?;
        let kind = FileKind::from_flags(flags);
        let has_parameters = kind == FileKind::MainDatabase && !name.is_null();
        let parameter = |key: &str| {
            if !has_parameters {
                return None;
            }
            // SAFETY: the name of a main database, during xOpen.
            unsafe { uri_parameter(name, key) }
        };
        let parameter_names = || {
            if !has_parameters {
                return Vec::new();
            }
            // SAFETY: the name of a main database, during xOpen.
            unsafe { uri_parameter_names(name) }
        };
        let request = OpenRequest {
            kind,
            access: Access::from_flags(flags),
            // SAFETY: a file name, during the call (4).
            name: unsafe { text(name, Operation::Open) }?,
            parameter: &parameter,
            parameter_names: &parameter_names,
        };
        let mut granted = flags;
        match mount.file_system().open(&request)? {
            Opened::Database(opened) => {
                if opened.is_read_only() {
                    // What SQLite then takes the database for: as a file that may not be written.
                    granted &= !(sqlite::SQLITE_OPEN_READWRITE | sqlite::SQLITE_OPEN_CREATE);
                    granted |= sqlite::SQLITE_OPEN_READONLY;
                }
                // SAFETY: SQLite gives szOsFile bytes, which is SLOT_BYTES, for a file to open (2).
                unsafe { slot::install(file, opened, mount) };
            }
            Opened::Scratch(opened) => {
                // SAFETY: as above.
                unsafe { slot::install(file, opened, mount) };
            }
        }
        if !out_flags.is_null() {
            // SAFETY: a place for the flags (4).
            unsafe { *out_flags = granted };
        }
        Ok(sqlite::SQLITE_OK)
    })
}

pub(super) unsafe extern "C" fn delete<S: FileSystem>(
    vfs: *mut sqlite::sqlite3_vfs,
    name: *const c_char,
    sync_directory: c_int,
) -> c_int {
    guard(sqlite::SQLITE_IOERR_DELETE, || {
        // SAFETY: SQLite passes the VFS that the method belongs to.
        let mount = unsafe { mount_of::<S>(vfs, Operation::Write) }?;
        // SAFETY: a file name, during the call (4).
        if let Some(name) = unsafe { text(name, Operation::Write) }? {
            mount.file_system().delete(name, sync_directory != 0)?;
        }
        Ok(sqlite::SQLITE_OK)
    })
}

pub(super) unsafe extern "C" fn access<S: FileSystem>(
    vfs: *mut sqlite::sqlite3_vfs,
    name: *const c_char,
    _wanted: c_int,
    answer: *mut c_int,
) -> c_int {
    guard(sqlite::SQLITE_IOERR_ACCESS, || {
        // SAFETY: SQLite passes the VFS that the method belongs to.
        let mount = unsafe { mount_of::<S>(vfs, Operation::Read) }?;
        // SAFETY: a file name, during the call (4).
        let name = unsafe { text(name, Operation::Read) }?;
        let exists = name.is_some_and(|name| mount.file_system().exists(name));
        // SAFETY: a place for the answer (4).
        unsafe { *answer = c_int::from(exists) };
        Ok(sqlite::SQLITE_OK)
    })
}

pub(super) unsafe extern "C" fn full_pathname<S: FileSystem>(
    vfs: *mut sqlite::sqlite3_vfs,
    name: *const c_char,
    out_bytes: c_int,
    out: *mut c_char,
) -> c_int {
    guard(sqlite::SQLITE_CANTOPEN, || {
        // SAFETY: SQLite passes the VFS that the method belongs to.
        let mount = unsafe { mount_of::<S>(vfs, Operation::Open) }?;
        // SAFETY: a file name, during the call (4).
        let name = unsafe { text(name, Operation::Open) }?.unwrap_or_default();
        let full = mount.file_system().full_name(name)?;
        // SAFETY: a buffer of that length (4).
        let fits = unsafe { put_text(&full, out_bytes, out) };
        if fits {
            Ok(sqlite::SQLITE_OK)
        } else {
            Err(Failure::of(Operation::Open, format!("name {full:?} is too long")))
        }
    })
}

/// Puts as much of `text` as there is room for, and a NUL, into `out`; `true` if it was all.
///
/// # Safety
/// `out` has room for `out_bytes` (4).
pub(super) unsafe fn put_text(text: &str, out_bytes: c_int, out: *mut c_char) -> bool {
    let Some(room) = usize::try_from(out_bytes).ok().and_then(|bytes| bytes.checked_sub(1)) else {
        return false;
    };
    if out.is_null() {
        return false;
    }
    let length = text.floor_char_boundary(room);
    // SAFETY: `length` is at most `room`, which is one less than there is.
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), out.cast::<u8>(), length) };
    // SAFETY: the one more that there is.
    let end = unsafe { out.add(length) };
    // SAFETY: within the buffer, as above.
    unsafe { *end = 0 };
    length == text.len()
}

pub(super) unsafe extern "C" fn randomness(
    _vfs: *mut sqlite::sqlite3_vfs,
    out_bytes: c_int,
    out: *mut c_char,
) -> c_int {
    guard_value(0, || {
        let length = usize::try_from(out_bytes).unwrap_or(0);
        if out.is_null() || length == 0 {
            return 0;
        }
        // SAFETY: room for `length` bytes (4), which SQLite has set.
        let bytes = unsafe { slice::from_raw_parts_mut(out.cast::<u8>(), length) };
        if getrandom::fill(bytes).is_ok() { out_bytes } else { 0 }
    })
}

pub(super) unsafe extern "C" fn sleep(_vfs: *mut sqlite::sqlite3_vfs, micros: c_int) -> c_int {
    std::thread::sleep(Duration::from_micros(u64::try_from(micros).unwrap_or(0)));
    micros
}

/// Milliseconds from noon in Greenwich on November 24, 4714 BC, SQLite's day 0, to the Unix epoch.
const UNIX_EPOCH_JULIAN_MS: i64 = 24_405_875 * 8_640_000;

fn julian_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH_JULIAN_MS + i64::try_from(since_epoch.as_millis()).unwrap_or(0)
}

pub(super) unsafe extern "C" fn current_time_ms(
    _vfs: *mut sqlite::sqlite3_vfs,
    out: *mut sqlite::sqlite3_int64,
) -> c_int {
    // SAFETY: a place for the time (4).
    unsafe { *out = julian_ms() };
    sqlite::SQLITE_OK
}

pub(super) unsafe extern "C" fn current_time(
    _vfs: *mut sqlite::sqlite3_vfs,
    out: *mut f64,
) -> c_int {
    // Milliseconds of this era are far below 2^53.
    #[expect(clippy::cast_precision_loss)]
    let days = julian_ms() as f64 / 86_400_000.0;
    // SAFETY: a place for the time (4).
    unsafe { *out = days };
    sqlite::SQLITE_OK
}

pub(super) unsafe extern "C" fn get_last_error(
    _vfs: *mut sqlite::sqlite3_vfs,
    out_bytes: c_int,
    out: *mut c_char,
) -> c_int {
    guard_value(0, || {
        let (words, os_error) = error::peek_last_error().unwrap_or_default();
        // SAFETY: a buffer of that length, or none (4).
        unsafe { put_text(&words, out_bytes, out) };
        os_error
    })
}
