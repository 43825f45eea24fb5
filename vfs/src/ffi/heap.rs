//! SQLite's allocator, which counts for each thread and can be told to refuse.

use std::cell::Cell;
use std::os::raw::{c_int, c_void};
use std::ptr;
use std::sync::OnceLock;

use rusqlite::ffi as sqlite;

use crate::thread_use::{add_memory, thread_heap_bytes};

type Malloc = unsafe extern "C" fn(c_int) -> *mut c_void;
type Realloc = unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void);
type Size = unsafe extern "C" fn(*mut c_void) -> c_int;

/// SQLite's own functions.
struct Own {
    malloc: Malloc,
    realloc: Realloc,
    free: Free,
    size: Size,
}

static OWN: OnceLock<Own> = OnceLock::new();

thread_local! {
    static LIMIT_BYTES: Cell<i64> = const { Cell::new(i64::MAX) };
    static REFUSED: Cell<bool> = const { Cell::new(false) };
}

/// From now on SQLite is refused on this thread what would take [`thread_heap_bytes`] above `bytes`: it
/// fails with `SQLITE_NOMEM`. `i64::MAX` lifts the limit. Returns the one before.
pub fn limit_thread_heap(bytes: i64) -> i64 {
    LIMIT_BYTES.replace(bytes)
}

/// Whether the limit has refused anything on this thread since that was last
/// [replaced](replace_heap_refusal) by `false`.
#[must_use]
pub fn has_heap_refusal() -> bool {
    REFUSED.get()
}

/// Sets what [`has_heap_refusal`] says, and returns what it said.
pub fn replace_heap_refusal(refused: bool) -> bool {
    REFUSED.replace(refused)
}

/// Puts the allocator in front of SQLite's. Before SQLite is first used; `false` if it is too late.
pub(super) fn install() -> bool {
    // SAFETY: functions, each of which may be missing, and a pointer: all of them null is a value.
    let mut methods: sqlite::sqlite3_mem_methods = unsafe { std::mem::zeroed() };
    // SAFETY: the operation fills in one structure of methods, which is given. If SQLite is in use, it is
    // refused.
    let code = unsafe { sqlite::sqlite3_config(sqlite::SQLITE_CONFIG_GETMALLOC, &raw mut methods) };
    if code != sqlite::SQLITE_OK {
        return false;
    }
    let (Some(malloc), Some(realloc)) = (methods.xMalloc, methods.xRealloc) else { return false };
    let (Some(free), Some(size)) = (methods.xFree, methods.xSize) else { return false };
    if OWN.set(Own { malloc, realloc, free, size }).is_err() {
        return false;
    }
    methods.xMalloc = Some(counted_malloc);
    methods.xRealloc = Some(counted_realloc);
    methods.xFree = Some(counted_free);
    // SAFETY: the operation copies one structure of methods, which is given; as above.
    let code = unsafe { sqlite::sqlite3_config(sqlite::SQLITE_CONFIG_MALLOC, &raw const methods) };
    code == sqlite::SQLITE_OK
}

/// Whether `more` bytes are within the limit.
fn admits(more: i64) -> bool {
    let admitted = thread_heap_bytes().saturating_add(more) <= LIMIT_BYTES.get();
    if !admitted {
        REFUSED.set(true);
    }
    admitted
}

unsafe extern "C" fn counted_malloc(bytes: c_int) -> *mut c_void {
    let Some(own) = OWN.get() else { return ptr::null_mut() };
    if !admits(i64::from(bytes)) {
        return ptr::null_mut();
    }
    // SAFETY: SQLite's own function, called as SQLite would.
    let memory = unsafe { (own.malloc)(bytes) };
    if !memory.is_null() {
        // SAFETY: as above, with memory that came from it.
        add_memory(i64::from(unsafe { (own.size)(memory) }));
    }
    memory
}

unsafe extern "C" fn counted_realloc(memory: *mut c_void, bytes: c_int) -> *mut c_void {
    let Some(own) = OWN.get() else { return ptr::null_mut() };
    // SAFETY: SQLite's own function, with memory that came from it: SQLite reallocates nothing else.
    let before = i64::from(unsafe { (own.size)(memory) });
    if !admits(i64::from(bytes) - before) {
        return ptr::null_mut();
    }
    // SAFETY: as above.
    let memory = unsafe { (own.realloc)(memory, bytes) };
    if !memory.is_null() {
        // SAFETY: as above.
        add_memory(i64::from(unsafe { (own.size)(memory) }) - before);
    }
    memory
}

unsafe extern "C" fn counted_free(memory: *mut c_void) {
    let Some(own) = OWN.get() else { return };
    // SAFETY: SQLite's own function, with memory that came from it: SQLite frees nothing else, and not null.
    add_memory(-i64::from(unsafe { (own.size)(memory) }));
    // SAFETY: as above; nobody uses it after this.
    unsafe { (own.free)(memory) };
}
