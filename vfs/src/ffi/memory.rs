//! SQLite's allocator, with what each thread takes and gives back counted.

use std::os::raw::{c_int, c_void};
use std::ptr;
use std::sync::OnceLock;

use rusqlite::ffi as sqlite;

use crate::thread_use::add_memory;

type Malloc = unsafe extern "C" fn(c_int) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void);
type Realloc = unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void;
type Size = unsafe extern "C" fn(*mut c_void) -> c_int;

/// The functions that do the work.
struct Own {
    malloc: Malloc,
    free: Free,
    realloc: Realloc,
    size: Size,
}

static OWN: OnceLock<Own> = OnceLock::new();

/// Has SQLite's allocations counted; `false` if SQLite is initialised already, and nothing was changed.
pub(super) fn count_memory() -> bool {
    if OWN.get().is_some() {
        return true;
    }
    // SAFETY: functions, each of which may be missing, and a pointer: all of them null is a value.
    let mut methods: sqlite::sqlite3_mem_methods = unsafe { std::mem::zeroed() };
    // SAFETY: GETMALLOC fills in one structure of methods, which is given. SQLite is not in use by
    // other threads, which the caller of `configure_process` sees to.
    let code = unsafe { sqlite::sqlite3_config(sqlite::SQLITE_CONFIG_GETMALLOC, &raw mut methods) };
    let (Some(malloc), Some(free), Some(realloc), Some(size)) =
        (methods.xMalloc, methods.xFree, methods.xRealloc, methods.xSize)
    else {
        return false;
    };
    if code != sqlite::SQLITE_OK || OWN.set(Own { malloc, free, realloc, size }).is_err() {
        return false;
    }
    methods.xMalloc = Some(counted_malloc);
    methods.xFree = Some(counted_free);
    methods.xRealloc = Some(counted_realloc);
    // SAFETY: MALLOC copies one structure of methods, which is given; as above.
    let code = unsafe { sqlite::sqlite3_config(sqlite::SQLITE_CONFIG_MALLOC, &raw const methods) };
    code == sqlite::SQLITE_OK
}

// The functions below do not panic, so they need no barrier.

unsafe extern "C" fn counted_malloc(bytes: c_int) -> *mut c_void {
    let Some(own) = OWN.get() else { return ptr::null_mut() };
    // SAFETY: the function that SQLite would call, called as SQLite does.
    let memory = unsafe { (own.malloc)(bytes) };
    if !memory.is_null() {
        // SAFETY: memory that was taken just now.
        add_memory(unsafe { (own.size)(memory) }.into());
    }
    memory
}

unsafe extern "C" fn counted_free(memory: *mut c_void) {
    let Some(own) = OWN.get() else { return };
    // SAFETY: SQLite passes memory that came from the functions here, and uses it no more.
    add_memory(-i64::from(unsafe { (own.size)(memory) }));
    // SAFETY: as above.
    unsafe { (own.free)(memory) };
}

unsafe extern "C" fn counted_realloc(memory: *mut c_void, bytes: c_int) -> *mut c_void {
    let Some(own) = OWN.get() else { return ptr::null_mut() };
    // SAFETY: SQLite passes memory that came from the functions here.
    let before = i64::from(unsafe { (own.size)(memory) });
    // SAFETY: as above.
    let grown = unsafe { (own.realloc)(memory, bytes) };
    if !grown.is_null() {
        // SAFETY: memory that was taken just now.
        add_memory(i64::from(unsafe { (own.size)(grown) }) - before);
    }
    grown
}
