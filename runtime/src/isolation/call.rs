//! The call that the thread runs: who speaks, and what it has returned so far.
//!
//! SQLite's hooks run on the thread that runs the statement, so what they ask for is the thread's.

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use lapidary_vfs::ThreadUse;
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
    static MARK: LazyLock<String> = LazyLock::new(|| {
        // Its keys are random, and differ from one to the next.
        let random = || RandomState::new().build_hasher().finish();
        format!("/*{:016x}{:016x}*/", random(), random())
    });
    format!("{sql}{}", *MARK)
}

/// What the thread uses of SQLite from one moment to another. Spans may be one inside another; the outer
/// one goes without what the inner one has.
pub(crate) struct ThreadSpan {
    outer: ThreadUse,
    has_ended: bool,
}

impl ThreadSpan {
    pub(crate) fn begin() -> Self {
        Self { outer: ThreadUse::default().replace(), has_ended: false }
    }

    pub(crate) fn end(mut self) -> ThreadUse {
        self.has_ended = true;
        self.outer.replace()
    }
}

impl Drop for ThreadSpan {
    fn drop(&mut self) {
        if !self.has_ended {
            self.outer.replace();
        }
    }
}

/// What a call used.
pub(crate) struct Used {
    pub(crate) thread: ThreadUse,
    pub(crate) began: Instant,
    pub(crate) elapsed: Duration,
    pub(crate) bytes: u64,
    pub(crate) changes_before: u64,
}

/// A call in progress. One may run inside another: a closure on a core that reads another facet.
pub(crate) struct Running {
    results: OuterResults,
    thread: ThreadSpan,
    began: Instant,
    changes_before: u64,
}

impl Running {
    pub(super) fn begin((rows_max, bytes_max): (u64, u64), changes_before: u64) -> Self {
        let outer = RESULTS.replace(Results { rows: 0, bytes: 0, rows_max, bytes_max });
        let results = OuterResults(outer);
        let (thread, began) = (ThreadSpan::begin(), Instant::now());
        Self { results, thread, began, changes_before }
    }

    pub(super) fn end(self) -> Used {
        let Self { results, thread, began, changes_before } = self;
        let bytes = RESULTS.get().bytes;
        drop(results);
        Used { elapsed: began.elapsed(), thread: thread.end(), began, bytes, changes_before }
    }
}

/// What the call around has returned so far; put back at the end, also if a closure panics.
struct OuterResults(Results);

impl Drop for OuterResults {
    fn drop(&mut self) {
        RESULTS.set(self.0);
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
