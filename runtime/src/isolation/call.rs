//! The call that the thread runs: who speaks, and what it has returned so far.
//!
//! SQLite's hooks run on the thread that runs the statement, so what they ask for is the thread's.

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use lapidary_vfs::{
    ThreadUse, has_heap_refusal, limit_thread_heap, replace_heap_refusal, thread_heap_bytes,
};
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

/// Whether memory was refused to the call that the thread runs.
pub(super) fn was_refused_memory() -> bool {
    has_heap_refusal()
}

/// Runs `body`, whose statements are the host's own: no name is reserved for them, no list holds,
/// no budget ends them or refuses them memory. What its statements set off in the facet's triggers and views is not.
///
/// A statement that is kept prepared has to be one of [`host_sql`]: the facet's SQL can ask for a kept
/// statement by its text, and would find it compiled and past the authorizer.
pub(crate) fn as_host<T>(body: impl FnOnce() -> T) -> T {
    struct Restore {
        host_speaks: bool,
        heap_limit: i64,
    }
    impl Drop for Restore {
        fn drop(&mut self) {
            HOST_SPEAKS.set(self.host_speaks);
            limit_thread_heap(self.heap_limit);
        }
    }
    let _restore =
        Restore { host_speaks: HOST_SPEAKS.replace(true), heap_limit: limit_thread_heap(i64::MAX) };
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
    outer: Outer,
    thread: ThreadSpan,
    began: Instant,
    changes_before: u64,
}

impl Running {
    pub(super) fn begin(
        (rows_max, bytes_max): (u64, u64),
        memory_max: Option<u64>,
        changes_before: u64,
    ) -> Self {
        let outer = RESULTS.replace(Results { rows: 0, bytes: 0, rows_max, bytes_max });
        let limit = memory_max.map_or(i64::MAX, |most| {
            thread_heap_bytes().saturating_add(i64::try_from(most).unwrap_or(i64::MAX))
        });
        let outer = Outer {
            results: outer,
            refusal: replace_heap_refusal(false),
            heap_limit: limit_thread_heap(limit),
        };
        let (thread, began) = (ThreadSpan::begin(), Instant::now());
        Self { outer, thread, began, changes_before }
    }

    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    pub(super) fn end(self) -> Used {
        let Self { outer, thread, began, changes_before } = self;
        let bytes = RESULTS.get().bytes;
        drop(outer);
        Used { elapsed: began.elapsed(), thread: thread.end(), began, bytes, changes_before }
    }
}

/// What holds for the call around; put back at the end, also if a closure panics.
struct Outer {
    results: Results,
    refusal: bool,
    heap_limit: i64,
}

impl Drop for Outer {
    fn drop(&mut self) {
        limit_thread_heap(self.heap_limit);
        replace_heap_refusal(self.refusal);
        RESULTS.set(self.results);
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
