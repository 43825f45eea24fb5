//! The panic barrier, and the one place where an error turns into a result code.

use std::any::Any;
use std::ffi::CString;
use std::os::raw::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rusqlite::ffi as sqlite;

use crate::error::{self, Failure};

/// Runs `body`, which may fail or panic; `fallback` is the result code of a panic.
pub(super) fn guard(fallback: c_int, body: impl FnOnce() -> Result<c_int, Failure>) -> c_int {
    // Unwind safety: a caller with state of its own notes that `body` did not end (`slot.rs`), and
    // does not use that state again.
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(code)) => return code,
        Ok(Err(failure)) => failure,
        Err(payload) => Failure::new(fallback, panic_words(payload)),
    };
    let code = failure.code;
    // A log's subscriber, or SQLite's log callback, may panic as well.
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| report(&failure))) {
        std::mem::forget(payload);
    }
    code
}

/// As [`guard`], for entry points that return no result code.
pub(super) fn guard_value<T>(fallback: T, body: impl FnOnce() -> T) -> T {
    let mut value = None;
    guard(sqlite::SQLITE_ERROR, || {
        value = Some(body());
        Ok(sqlite::SQLITE_OK)
    });
    value.unwrap_or(fallback)
}

fn panic_words(payload: Box<dyn Any + Send>) -> String {
    let words = payload
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into());
    // Dropping a payload runs foreign code, which could panic in turn.
    std::mem::forget(payload);
    format!("internal error, please report it: {words}")
}

/// Keeps the words, and logs them if they say more than "try again".
fn report(failure: &Failure) {
    error::keep_last_error(failure);
    if failure.is_busy() {
        return;
    }
    tracing::warn!(code = failure.code, message = failure.message, "SQLite gets an error");
    let Ok(message) = CString::new(failure.message.replace('\0', " ")) else {
        return;
    };
    // SAFETY: the format asks for one string, which is given, ends in NUL and outlives the call.
    unsafe { sqlite::sqlite3_log(failure.code, c"%s".as_ptr(), message.as_ptr()) }
}
