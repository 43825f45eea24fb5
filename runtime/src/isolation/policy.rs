//! What SQL inside a facet may do, as settings.

use std::collections::BTreeSet;
use std::time::Duration;

use rusqlite::limits::Limit;

use super::lists;

/// What SQL inside a facet may do and use.
///
/// Start from a preset, and change what does not fit. [`untrusted`](Self::untrusted) is for SQL that
/// a stranger or a machine wrote; [`tenant`](Self::tenant) for programs of known customers, with
/// migrations and transactions of their own; [`trusted`](Self::trusted), the default of a host, for
/// the embedder's own SQL.
///
/// Given to [`HostConfig::isolation`](crate::HostConfig::isolation) it holds for every facet, to
/// [`Host::set_isolation`](crate::Host::set_isolation) for one and all below it. `docs/ISOLATION.md`
/// has the whole table, and what is not bounded.
///
/// ```
/// use std::time::Duration;
/// use lapidary::Isolation;
///
/// let policy = Isolation::untrusted()
///     .call_time_max(Some(Duration::from_millis(50)))
///     .result_rows_max(Some(1_000))
///     .allow_pragma("user_version");
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Isolation {
    pub(super) rules: Option<Rules>,
    pub(super) limits: Vec<(Limit, i32)>,
    pub(super) call_time_max: Option<Duration>,
    pub(super) call_steps_max: Option<u64>,
    pub(super) result_rows_max: Option<u64>,
    pub(super) result_bytes_max: Option<u64>,
    pub(super) page_cache_kib_max: Option<u32>,
    pub(super) call_memory_max: Option<u64>,
    pub(super) overrun_rest: u32,
    pub(super) calls_waiting_max: Option<usize>,
}

/// What the authorizer goes by.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) pragmas: BTreeSet<String>,
    pub(super) functions: BTreeSet<String>,
    pub(super) modules: BTreeSet<String>,
    pub(super) temp_objects: bool,
    pub(super) transaction_control: bool,
    /// Whether `"text"` may stand for a string.
    pub(super) double_quoted_strings: bool,
}

fn set(lists: &[&[&str]]) -> BTreeSet<String> {
    lists.iter().copied().flatten().map(|&name| name.to_owned()).collect()
}

impl Isolation {
    /// SQLite as it is, with `ATTACH` refused and what the host keeps in the facet read only: no lists, no
    /// budget. For the embedder's own SQL, whose `PRAGMA writable_schema` could still do harm.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, HostErrorKind, Isolation};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// host.set_isolation("agents", Some(Isolation::trusted()))?;
    /// let agent = host.facet("agents/42")?;
    /// let outcome = agent.execute("ATTACH 'other' AS o", ()).wait();
    /// assert_eq!(outcome.unwrap_err().kind(), HostErrorKind::Statement);
    /// agent.execute("CREATE TEMP TABLE t(x)", ()).wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn trusted() -> Self {
        Self {
            rules: None,
            limits: Vec::new(),
            call_time_max: None,
            call_steps_max: None,
            result_rows_max: None,
            result_bytes_max: None,
            page_cache_kib_max: None,
            call_memory_max: None,
            overrun_rest: 0,
            calls_waiting_max: None,
        }
    }

    /// For programs of known customers: allow-lists as in [`untrusted`](Self::untrusted) and some
    /// pragmas more, temporary tables, `BEGIN` and `COMMIT`; wider limits; 5 seconds, 500 million VM
    /// steps, 256 MiB of memory, 1,000,000 rows or 64 MiB of result for a call.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, HostErrorKind, Isolation};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// host.set_isolation("agents", Some(Isolation::tenant()))?;
    /// let agent = host.facet("agents/42")?;
    /// let outcome = agent.execute("PRAGMA writable_schema = on", ()).wait();
    /// assert_eq!(outcome.unwrap_err().kind(), HostErrorKind::NotAllowed);
    /// agent.execute_batch("BEGIN; CREATE TABLE t(x); COMMIT").wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn tenant() -> Self {
        Self {
            rules: Some(Rules {
                pragmas: set(&[lists::PRAGMAS, lists::TENANT_PRAGMAS]),
                functions: set(&[lists::FUNCTIONS]),
                modules: set(&[lists::MODULES]),
                temp_objects: true,
                transaction_control: true,
                double_quoted_strings: true,
            }),
            limits: vec![
                (Limit::SQLITE_LIMIT_LENGTH, 64 << 20),
                (Limit::SQLITE_LIMIT_SQL_LENGTH, 1_000_000),
                (Limit::SQLITE_LIMIT_COLUMN, 1_000),
                (Limit::SQLITE_LIMIT_EXPR_DEPTH, 500),
                (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 100),
                (Limit::SQLITE_LIMIT_VDBE_OP, 250_000),
                (Limit::SQLITE_LIMIT_FUNCTION_ARG, 127),
                (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1_000),
                (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, 32_766),
                (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 100),
                (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
            ],
            call_time_max: Some(Duration::from_secs(5)),
            call_steps_max: Some(500_000_000),
            result_rows_max: Some(1_000_000),
            result_bytes_max: Some(64 << 20),
            page_cache_kib_max: Some(2_000),
            call_memory_max: Some(256 << 20),
            overrun_rest: 0,
            calls_waiting_max: None,
        }
    }

    /// For SQL that a stranger or a machine wrote: allow-lists for pragmas, functions and modules; no
    /// temporary objects, no `BEGIN` or `COMMIT` beside the host's own; narrow limits; a quarter of a
    /// second, 25 million VM steps, 32 MiB of memory, 10,000 rows or 8 MiB of result for a call.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, HostErrorKind, Isolation};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// host.set_isolation("agents", Some(Isolation::untrusted()))?;
    /// let agent = host.facet("agents/42")?;
    /// let outcome = agent.execute_batch("BEGIN; CREATE TABLE t(x); COMMIT").wait();
    /// assert_eq!(outcome.unwrap_err().kind(), HostErrorKind::NotAllowed);
    /// agent.transaction(|tx| Ok(tx.execute("CREATE TABLE t(x)", ())?)).wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn untrusted() -> Self {
        Self {
            rules: Some(Rules {
                pragmas: set(&[lists::PRAGMAS]),
                functions: set(&[lists::FUNCTIONS]),
                modules: set(&[lists::MODULES]),
                temp_objects: false,
                transaction_control: false,
                double_quoted_strings: false,
            }),
            limits: vec![
                (Limit::SQLITE_LIMIT_LENGTH, 4 << 20),
                (Limit::SQLITE_LIMIT_SQL_LENGTH, 100_000),
                (Limit::SQLITE_LIMIT_COLUMN, 100),
                (Limit::SQLITE_LIMIT_EXPR_DEPTH, 100),
                (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 5),
                (Limit::SQLITE_LIMIT_VDBE_OP, 25_000),
                (Limit::SQLITE_LIMIT_FUNCTION_ARG, 127),
                (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 50),
                (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, 100),
                (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 10),
                (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
            ],
            call_time_max: Some(Duration::from_millis(250)),
            call_steps_max: Some(25_000_000),
            result_rows_max: Some(10_000),
            result_bytes_max: Some(8 << 20),
            page_cache_kib_max: Some(1_000),
            call_memory_max: Some(32 << 20),
            overrun_rest: 0,
            calls_waiting_max: None,
        }
    }

    /// Wall time that a call may run on its thread, all its statements together; `None` is no bound.
    /// Looked at after every 1,000 VM steps, so one long step can overrun it.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, HostErrorKind, Isolation};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// host.set_isolation("agents", Some(Isolation::trusted().call_time_max(Some(std::time::Duration::from_millis(20)))))?;
    /// let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
    /// let outcome = host.facet("agents/42")?.query(endless, (), |row| row.get::<_, i64>(0)).wait();
    /// assert_eq!(outcome.unwrap_err().kind(), HostErrorKind::BudgetExceeded);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn call_time_max(mut self, time: Option<Duration>) -> Self {
        self.call_time_max = time;
        self
    }

    /// SQLite's VM steps that a call may take, in thousands rounded up; `None` is no bound. Unlike
    /// time it does not depend on the load of the machine.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, HostErrorKind, Isolation};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// host.set_isolation("agents", Some(Isolation::trusted().call_steps_max(Some(100_000))))?;
    /// let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
    /// let outcome = host.facet("agents/42")?.query(endless, (), |row| row.get::<_, i64>(0)).wait();
    /// assert_eq!(outcome.unwrap_err().kind(), HostErrorKind::BudgetExceeded);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn call_steps_max(mut self, steps: Option<u64>) -> Self {
        self.call_steps_max = steps;
        self
    }

    /// Rows that [`FacetHandle::query`](crate::FacetHandle::query) may return; `None` is no bound.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, HostErrorKind, Isolation};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// host.set_isolation("agents", Some(Isolation::trusted().result_rows_max(Some(100))))?;
    /// let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
    /// let outcome = host.facet("agents/42")?.query(endless, (), |row| row.get::<_, i64>(0)).wait();
    /// assert_eq!(outcome.unwrap_err().kind(), HostErrorKind::BudgetExceeded);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn result_rows_max(mut self, rows: Option<u64>) -> Self {
        self.result_rows_max = rows;
        self
    }

    /// Bytes of values, 8 for a number, that [`FacetHandle::query`](crate::FacetHandle::query) may
    /// return; `None` is no bound.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, HostErrorKind, Isolation};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// host.set_isolation("agents", Some(Isolation::trusted().result_bytes_max(Some(10_000))))?;
    /// let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
    /// let outcome = host.facet("agents/42")?.query(endless, (), |row| row.get::<_, i64>(0)).wait();
    /// assert_eq!(outcome.unwrap_err().kind(), HostErrorKind::BudgetExceeded);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn result_bytes_max(mut self, bytes: Option<u64>) -> Self {
        self.result_bytes_max = bytes;
        self
    }

    /// Pages in KiB that a connection keeps in SQLite's cache; `None` leaves it to
    /// [`HostConfig::page_cache_kib_max`](crate::HostConfig::page_cache_kib_max).
    pub fn page_cache_kib_max(mut self, kib: Option<u32>) -> Self {
        self.page_cache_kib_max = kib;
        self
    }

    /// Bytes by which SQLite's memory may grow while a call runs: values, sorts, temporary tables, programs
    /// and the page cache; `None` is no bound. What would go beyond is refused to SQLite, so the bound is never
    /// exceeded. It does not hold for what a closure itself keeps, nor for the pages that a transaction
    /// has changed and not committed, which the store bounds, nor if
    /// [`Host::process_setup`](crate::Host::process_setup) says that its settings came too late.
    pub fn call_memory_max(mut self, bytes: Option<u64>) -> Self {
        self.call_memory_max = bytes;
        self
    }

    /// After a call on the core was ended by its [time](Self::call_time_max) or its
    /// [steps](Self::call_steps_max), further ones on the facet are refused for so many times the time that
    /// it took, with [`HostError::Resting`](crate::HostError::Resting); 0, the default, is not at all.
    ///
    /// A call holds its core until it ends, so a facet that uses up its budget again and again takes all of
    /// the core from its neighbours. With 200 it gets a part in 200, so that of a hundred calls of the
    /// neighbours fewer than one meets it.
    pub fn overrun_rest(mut self, times: u32) -> Self {
        self.overrun_rest = times;
        self
    }

    /// Calls of a facet that wait for their turn, at least 1; `None` leaves it to
    /// [`HostConfig::facet_calls_max`](crate::HostConfig::facet_calls_max).
    pub fn calls_waiting_max(mut self, calls: Option<usize>) -> Self {
        self.calls_waiting_max = calls.map(|calls| calls.max(1));
        self
    }

    pub(crate) fn calls_waiting(&self) -> Option<usize> {
        self.calls_waiting_max
    }

    /// One of SQLite's own limits, in its unit; see <https://sqlite.org/c3ref/c_limit_attached.html>.
    /// `SQLITE_LIMIT_ATTACHED` stays 0 whatever is set.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, HostErrorKind, Isolation};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// use lapidary::rusqlite::limits::Limit;
    ///
    /// let policy = Isolation::untrusted().limit(Limit::SQLITE_LIMIT_LENGTH, 10_000);
    /// host.set_isolation("agents", Some(policy))?;
    /// let large = host.facet("agents/42")?.query("SELECT zeroblob(20000)", (), |_| Ok(())).wait();
    /// assert_eq!(large.unwrap_err().kind(), HostErrorKind::Statement);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn limit(mut self, limit: Limit, most: i32) -> Self {
        self.limits.retain(|(other, _)| *other as i32 != limit as i32);
        self.limits.push((limit, most));
        self
    }

    /// Lets SQL use the pragma `name` too. Of no effect on [`trusted`](Self::trusted).
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, Isolation};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// let policy = Isolation::untrusted().allow_pragma("user_version");
    /// host.set_isolation("agents", Some(policy))?;
    /// host.facet("agents/42")?.execute("PRAGMA user_version = 7", ()).wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn allow_pragma(self, name: &str) -> Self {
        self.with_rules(|rules| {
            rules.pragmas.insert(name.to_ascii_lowercase());
        })
    }

    /// Lets SQL use the function `name` too, such as one of the embedder's own. Of no effect on
    /// [`trusted`](Self::trusted).
    pub fn allow_function(self, name: &str) -> Self {
        self.with_rules(|rules| {
            rules.functions.insert(name.to_ascii_lowercase());
        })
    }

    /// Lets SQL create virtual tables of the module `name`, and read its table if it has one of its
    /// own. Of no effect on [`trusted`](Self::trusted).
    pub fn allow_module(self, name: &str) -> Self {
        self.with_rules(|rules| {
            rules.modules.insert(name.to_ascii_lowercase());
        })
    }

    /// Whether SQL may create temporary tables, views and triggers. They last as long as the
    /// connection, which the host may close between two calls. Of no effect on
    /// [`trusted`](Self::trusted).
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, Isolation};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// host.set_isolation("agents", Some(Isolation::untrusted().temp_objects(true)))?;
    /// host.facet("agents/42")?.execute("CREATE TEMP TABLE t(x)", ()).wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn temp_objects(self, allowed: bool) -> Self {
        self.with_rules(|rules| rules.temp_objects = allowed)
    }

    /// Whether SQL may hold `BEGIN`, `COMMIT` and `ROLLBACK` of its own. Savepoints are free. Of no
    /// effect on [`trusted`](Self::trusted).
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, Isolation};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// host.set_isolation("agents", Some(Isolation::untrusted().transaction_control(true)))?;
    /// host.facet("agents/42")?.execute_batch("BEGIN; CREATE TABLE t(x); COMMIT").wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn transaction_control(self, allowed: bool) -> Self {
        self.with_rules(|rules| rules.transaction_control = allowed)
    }

    fn with_rules(mut self, change: impl FnOnce(&mut Rules)) -> Self {
        self.rules.as_mut().map(change);
        self
    }
}

impl Default for Isolation {
    fn default() -> Self {
        Self::trusted()
    }
}
