//! SQLite's allocator, made to fail at a chosen allocation of the thread.

#![allow(unsafe_code, reason = "SQLite takes an allocator through its C interface alone")]

use std::cell::Cell;
use std::os::raw::{c_int, c_void};
use std::ptr;
use std::sync::OnceLock;

use rusqlite::ffi as sqlite;

type Malloc = unsafe extern "C" fn(c_int) -> *mut c_void;
type Realloc = unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void;

/// SQLite's own functions.
static OWN: OnceLock<(Malloc, Realloc)> = OnceLock::new();

/// What happens after the allocation that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The next ones succeed.
    Recover,
    /// The next ones fail as well.
    StayOut,
}

#[derive(Clone, Copy)]
struct Plan {
    left: u64,
    then: Then,
    failed: bool,
}

thread_local! {
    static PLAN: Cell<Option<Plan>> = const { Cell::new(None) };
}

/// Gives SQLite the allocator. Before SQLite is first used in the process, and once.
///
/// # Panics
/// If it is too late for that.
pub fn install() {
    let mut methods = sqlite::sqlite3_mem_methods {
        xMalloc: None,
        xFree: None,
        xRealloc: None,
        xSize: None,
        xRoundup: None,
        xInit: None,
        xShutdown: None,
        pAppData: ptr::null_mut(),
    };
    // SAFETY: the operation fills in one structure of methods, which is given. SQLite is not in use.
    let asked =
        unsafe { sqlite::sqlite3_config(sqlite::SQLITE_CONFIG_GETMALLOC, &raw mut methods) };
    assert_eq!(asked, sqlite::SQLITE_OK, "SQLite is in use");
    let own = methods.xMalloc.zip(methods.xRealloc).expect("SQLite has an allocator");
    assert!(OWN.set(own).is_ok(), "installed twice");
    methods.xMalloc = Some(malloc);
    methods.xRealloc = Some(realloc);
    // SAFETY: the operation copies one structure of methods, which is given. SQLite is not in use.
    let set = unsafe { sqlite::sqlite3_config(sqlite::SQLITE_CONFIG_MALLOC, &raw const methods) };
    assert_eq!(set, sqlite::SQLITE_OK, "SQLite is in use");
}

/// From now on the `nth` allocation of this thread fails, counted from 1.
pub fn fail_at(nth: u64, then: Then) {
    PLAN.set(Some(Plan { left: nth, then, failed: false }));
}

/// Nothing fails any more. Whether anything did.
#[must_use]
pub fn stop_failing() -> bool {
    PLAN.take().is_some_and(|plan| plan.failed)
}

fn is_to_fail() -> bool {
    let Some(mut plan) = PLAN.get() else { return false };
    plan.left = plan.left.saturating_sub(1);
    let fails = plan.left == 0 && (plan.then == Then::StayOut || !plan.failed);
    plan.failed |= fails;
    PLAN.set(Some(plan));
    fails
}

unsafe extern "C" fn malloc(bytes: c_int) -> *mut c_void {
    match OWN.get() {
        // SAFETY: SQLite's own function, called as SQLite would.
        Some((malloc, _)) if !is_to_fail() => unsafe { malloc(bytes) },
        _ => ptr::null_mut(),
    }
}

unsafe extern "C" fn realloc(memory: *mut c_void, bytes: c_int) -> *mut c_void {
    match OWN.get() {
        // SAFETY: SQLite's own function, called as SQLite would, with memory that came from it.
        Some((_, realloc)) if !is_to_fail() => unsafe { realloc(memory, bytes) },
        _ => ptr::null_mut(),
    }
}
