//! Stores in memory and in files, registered under names of their own; connections to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lapidary_engine::{
    Background, Environment, FacetName, FormatParams, Io, MemoryIo, PosixIo, Retention, Store,
    StoreOptions, Tunables,
};
use lapidary_vfs::{Registration, VfsOptions};
use rusqlite::{Connection, OpenFlags};

/// A store and its registration.
pub(crate) struct Fixture {
    io: Arc<dyn Io>,
    options: StoreOptions,
    registration: Option<Arc<Registration>>,
    _directory: Option<tempfile::TempDir>,
}

fn unique_name() -> String {
    static NAMES: AtomicU64 = AtomicU64::new(0);
    format!("test-{}", NAMES.fetch_add(1, Ordering::Relaxed))
}

impl Fixture {
    pub(crate) fn memory() -> Self {
        Self::with(Arc::new(MemoryIo::new()), StoreOptions::create(), None)
    }

    pub(crate) fn posix() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let io = Arc::new(PosixIo::new(&directory.path().join("store")));
        Self::with(io, StoreOptions::create(), Some(directory))
    }

    /// A store in files, of small segments, so that what was written is soon in some that the log has
    /// left; nothing is done in the background.
    pub(crate) fn small_segments() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let io = Arc::new(PosixIo::new(&directory.path().join("store")));
        let format = FormatParams { segment_bytes_min: 64 << 10, segment_bytes_max: 256 << 10 };
        let tunables = Tunables { spill_bytes: 64 << 10, ..Tunables::default() };
        let background = Background::Manual;
        let options = StoreOptions { format, tunables, background, ..StoreOptions::create() };
        Self::with(io, options, Some(directory))
    }

    /// Both kinds of store, for tests that are to hold on each.
    pub(crate) fn each() -> [Self; 2] {
        [Self::memory(), Self::posix()]
    }

    /// A store whose transactions spill early.
    pub(crate) fn spilling() -> Self {
        let tunables = Tunables { spill_bytes: 64 << 10, ..Tunables::default() };
        let options = StoreOptions { tunables, ..StoreOptions::create() };
        Self::with(Arc::new(MemoryIo::new()), options, None)
    }

    /// A store that keeps all versions.
    pub(crate) fn keeping_history() -> Self {
        let age = std::time::Duration::from_secs(24 * 3600);
        let retention = Retention { bytes: u64::MAX, age };
        let tunables = Tunables { retention, spill_bytes: 64 << 10, ..Tunables::default() };
        let options = StoreOptions { tunables, ..StoreOptions::create() };
        Self::with(Arc::new(MemoryIo::new()), options, None)
    }

    pub(crate) fn on(io: Arc<dyn Io>) -> Self {
        Self::with(io, StoreOptions::create(), None)
    }

    fn with(io: Arc<dyn Io>, options: StoreOptions, directory: Option<tempfile::TempDir>) -> Self {
        let mut fixture = Self { io, options, registration: None, _directory: directory };
        fixture.start();
        fixture
    }

    fn start(&mut self) {
        let environment = Environment::with_io(Arc::clone(&self.io));
        let store = Store::open(environment, self.options.clone()).unwrap();
        let options = VfsOptions { scratch_memory_bytes_max: 64 << 10, ..VfsOptions::default() };
        self.registration = Some(Registration::register(&unique_name(), store, options).unwrap());
    }

    pub(crate) fn io(&self) -> &Arc<dyn Io> {
        &self.io
    }

    pub(crate) fn registration(&self) -> &Arc<Registration> {
        self.registration.as_ref().unwrap()
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        self.registration().store()
    }

    pub(crate) fn vfs(&self) -> &str {
        self.registration().name()
    }

    /// Closes the store and opens it again. All connections are closed.
    pub(crate) fn reopen(&mut self) {
        self.store().close().unwrap();
        self.restart();
    }

    /// Lets go of the store as it is, and opens it again.
    pub(crate) fn restart(&mut self) {
        let registration = self.registration.take().unwrap();
        assert_eq!(Arc::strong_count(&registration), 1, "gates are gone");
        drop(registration);
        self.start();
    }

    pub(crate) fn open(&self, facet: &str) -> Connection {
        self.try_open(facet, OpenFlags::default()).unwrap()
    }

    pub(crate) fn try_open(&self, facet: &str, flags: OpenFlags) -> rusqlite::Result<Connection> {
        Connection::open_with_flags_and_vfs(facet, flags, self.vfs())
    }

    pub(crate) fn exists(&self, facet: &str) -> bool {
        self.store().facet_exists(&FacetName::new(facet).unwrap())
    }
}

/// A query that gives one number.
pub(crate) fn number(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// A query that gives one text.
pub(crate) fn text(connection: &Connection, sql: &str) -> String {
    connection.query_row(sql, [], |row| row.get(0)).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

pub(crate) fn check_integrity(connection: &Connection) {
    assert_eq!(text(connection, "PRAGMA integrity_check"), "ok");
}

/// SQLite's extended result code of an error.
pub(crate) fn code(error: &rusqlite::Error) -> i32 {
    match error {
        rusqlite::Error::SqliteFailure(error, _) => error.extended_code,
        other => panic!("not an error of SQLite: {other}"),
    }
}

/// `rows` rows of `bytes` random bytes in a new table `t(a INTEGER PRIMARY KEY, b)`.
pub(crate) fn fill(connection: &Connection, rows: u32, bytes: u32) {
    connection
        .execute_batch(&format!(
            "CREATE TABLE IF NOT EXISTS t(a INTEGER PRIMARY KEY, b BLOB);
             CREATE INDEX IF NOT EXISTS t_b ON t(substr(b, 1, 8));
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
             INSERT INTO t(b) SELECT randomblob({bytes}) FROM n;"
        ))
        .unwrap();
}
