//! The database that is read: in a file, and as a facet with the same pages.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lapidary_benches::failure::{Doing as _, Failure, Result};
use lapidary_engine::{Environment, Store, StoreOptions};
use lapidary_vfs::{Registration, VfsOptions};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};

const VFS_NAME: &str = "lapidary";
const FACET: &str = "messages";
/// Bytes of a message, of which there are as many as the size takes.
pub(crate) const BODY_BYTES: u32 = 200;
/// What a row takes in its page, about.
const ROW_BYTES: u64 = 215;
/// More than any database here: all of it may be mapped.
const MMAP_BYTES: u64 = 1 << 40;

/// Looks at every row.
pub(crate) const READ_ROWS: &str = "SELECT count(*), sum(length(body)), max(ts) FROM message";
/// Visits every page, and looks at next to nothing in it.
pub(crate) const COUNT_ROWS: &str = "SELECT count(*), 0, 0 FROM message";

/// Rows that [`look_up`] finds.
pub(crate) const LOOKUPS: u64 = 200_000;

/// Finds rows by their keys, each far from the one before.
pub(crate) fn look_up(rows: u64) -> String {
    format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {LOOKUPS})
         SELECT count(*), sum(length(body)), 0 FROM n CROSS JOIN message
         ON id = (i * 7919) % {rows} + 1"
    )
}

/// What a query has to answer.
pub(crate) type Answer = (u64, u64, u64);

/// Who reads what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Arm {
    /// A facet, `mmap_size` on: pages in place.
    Lapidary,
    /// A facet, `mmap_size` off: pages copied to SQLite's cache.
    LapidaryRead,
    /// A file, `mmap_size` on.
    SqliteMmap,
    /// A file, `mmap_size` off.
    SqliteRead,
}

impl Arm {
    pub(crate) const ALL: [Self; 4] =
        [Self::SqliteMmap, Self::Lapidary, Self::SqliteRead, Self::LapidaryRead];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Lapidary => "lapidary",
            Self::LapidaryRead => "lapidary, mmap_size=0",
            Self::SqliteMmap => "sqlite, mmap",
            Self::SqliteRead => "sqlite, mmap_size=0",
        }
    }

    fn is_facet(self) -> bool {
        matches!(self, Self::Lapidary | Self::LapidaryRead)
    }

    fn is_mapped(self) -> bool {
        matches!(self, Self::Lapidary | Self::SqliteMmap)
    }
}

/// Where both are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) directory: PathBuf,
}

impl Place {
    fn file(&self) -> PathBuf {
        self.directory.join("stock.sqlite")
    }

    fn open_store(&self) -> Result<Arc<Store>> {
        let directory = self.directory.join("store");
        Store::open(Environment::system(&directory), StoreOptions::create())
            .doing(|| format!("opening the store in {}", directory.display()))
    }

    /// Makes both, of about `mib` MiB; returns what reading every row answers.
    pub(crate) fn make(&self, mib: u32) -> Result<Answer> {
        let doing = || "making the database".to_owned();
        let file = Connection::open(self.file()).doing(doing)?;
        let rows = (u64::from(mib) << 20) / ROW_BYTES;
        file.execute_batch(&format!(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;
             CREATE TABLE message(id INTEGER PRIMARY KEY, body TEXT NOT NULL, ts INTEGER NOT NULL);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
             INSERT INTO message SELECT i, hex(randomblob({})), i * 7 FROM n;",
            BODY_BYTES / 2
        ))
        .doing(doing)?;
        let store = self.open_store()?;
        let registration = register(&store)?;
        let mut facet = self.connect(Arm::LapidaryRead, OpenFlags::SQLITE_OPEN_CREATE)?;
        let doing = || "copying the database to a facet".to_owned();
        let backup = Backup::new(&file, &mut facet).doing(doing)?;
        if backup.step(-1).doing(doing)? != StepResult::Done {
            return Err(Failure::new("a database that nobody else uses is busy"));
        }
        drop(backup);
        drop((facet, registration));
        // What would be going on in the background is not what is measured.
        let doing = || "background work".to_owned();
        store.checkpoint().doing(doing)?;
        while store.maintain().doing(doing)? {}
        store.close().doing(|| "closing the store".to_owned())?;
        let last = rows * 7;
        Ok((rows, rows * u64::from(BODY_BYTES), last))
    }

    /// Opens the store that [`make`](Self::make) has left, for connections.
    pub(crate) fn serve(&self) -> Result<Arc<Registration>> {
        register(&self.open_store()?)
    }

    pub(crate) fn open(&self, arm: Arm) -> Result<Connection> {
        let connection = self.connect(arm, OpenFlags::empty())?;
        let mmap_bytes = if arm.is_mapped() { MMAP_BYTES } else { 0 };
        connection
            .execute_batch(&format!("PRAGMA mmap_size={mmap_bytes}"))
            .doing(|| "setting PRAGMA mmap_size".to_owned())?;
        Ok(connection)
    }

    fn connect(&self, arm: Arm, more: OpenFlags) -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
        let opened = if arm.is_facet() {
            Connection::open_with_flags_and_vfs(Path::new(FACET), flags, VFS_NAME)
        } else {
            Connection::open_with_flags(self.file(), flags)
        };
        opened.doing(|| format!("opening the database of {}", arm.label()))
    }
}

fn register(store: &Arc<Store>) -> Result<Arc<Registration>> {
    Registration::register(VFS_NAME, Arc::clone(store), VfsOptions::default())
        .doing(|| "registering the VFS".to_owned())
}

/// Runs a query that answers three numbers.
pub(crate) fn ask(connection: &Connection, sql: &str) -> Result<Answer> {
    let row = |row: &rusqlite::Row<'_>| -> rusqlite::Result<Answer> {
        let number = |at| row.get::<_, i64>(at).map(|number| number.unsigned_abs());
        Ok((number(0)?, number(1)?, number(2)?))
    };
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.query_row([], row))
        .doing(|| format!("running {sql}"))
}

pub(crate) fn check(arm: Arm, found: Answer, expected: Answer) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let arm = arm.label();
    Err(Failure::new(format!("WRONG CONTENT: {arm} finds {found:?} instead of {expected:?}")))
}
