//! The call that the thread runs: who speaks, and what it has returned so far.
//!
//! SQLite's hooks run on the thread that runs the statement, so what they ask for is the thread's.

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::mem;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rusqlite::Row;
use rusqlite::types::ValueRef;

use crate::error::{Budget, HostError, Result};

#[derive(Clone, Copy, Default)]
struct Results {
    rows: u64,
    bytes: u64,
    rows_max: u64,
    bytes_max: u64,
}

thread_local! {
    static HOST_SPEAKS: Cell<bool> = const { Cell::new(false) };
    static RESULTS: Cell<Results> =
        const { Cell::new(Results { rows: 0, bytes: 0, rows_max: 0, bytes_max: 0 }) };
}

/// Whether the thread runs a statement of the host's own.
pub(super) fn host_speaks() -> bool {
    HOST_SPEAKS.get()
}

/// Runs `body`, whose statements are the host's own: no name is reserved for them, no list holds,
/// no budget ends them. What its statements set off in the facet's triggers and views is not.
///
/// A statement that is kept prepared has to be one of [`host_sql`]: the facet's SQL can ask for a kept
/// statement by its text, and would find it compiled and past the authorizer.
pub(crate) fn as_host<T>(body: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            HOST_SPEAKS.set(self.0);
        }
    }
    let _restore = Restore(HOST_SPEAKS.replace(true));
    body()
}

/// `sql` with a comment that nobody outside the process can guess, to be kept prepared.
pub(crate) fn host_sql(sql: &str) -> String {
    format!("{sql}/*{}*/", mark())
}

/// What nobody outside the process can guess.
pub(super) fn mark() -> &'static str {
    static MARK: LazyLock<String> = LazyLock::new(|| {
        // Its keys are random, and differ from one to the next.
        let random = || RandomState::new().build_hasher().finish();
        format!("{:016x}{:016x}", random(), random())
    });
    &MARK
}

/// What a call used.
pub(crate) struct Used {
    pub(crate) elapsed: Duration,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    pub(crate) changes_before: u64,
}

/// A call in progress. One may run inside another: a closure on a core that reads another facet.
pub(crate) struct Running {
    outer: Results,
    began: Instant,
    changes_before: u64,
    ended: bool,
}

impl Running {
    pub(super) fn begin((rows_max, bytes_max): (u64, u64), changes_before: u64) -> Self {
        let outer = RESULTS.replace(Results { rows: 0, bytes: 0, rows_max, bytes_max });
        Self { outer, began: Instant::now(), changes_before, ended: false }
    }

    pub(super) fn end(mut self) -> Used {
        let Results { rows, bytes, .. } = RESULTS.replace(mem::take(&mut self.outer));
        self.ended = true;
        Used { elapsed: self.began.elapsed(), rows, bytes, changes_before: self.changes_before }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A closure of a reader panicked.
        if !self.ended {
            RESULTS.set(self.outer);
        }
    }
}

/// Counts a row of the result of the call, and refuses one too many.
pub(crate) fn count_row(row: &Row<'_>) -> Result<()> {
    let mut results = RESULTS.get();
    results.rows += 1;
    for column in 0..row.as_ref().column_count() {
        results.bytes += match row.get_ref(column)? {
            ValueRef::Null => 1,
            ValueRef::Integer(_) | ValueRef::Real(_) => 8,
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len() as u64,
        };
    }
    RESULTS.set(results);
    if results.rows > results.rows_max {
        return Err(HostError::BudgetExceeded {
            facet: None,
            budget: Budget::ResultRows(results.rows_max),
        });
    }
    if results.bytes > results.bytes_max {
        return Err(HostError::BudgetExceeded {
            facet: None,
            budget: Budget::ResultBytes(results.bytes_max),
        });
    }
    Ok(())
}
