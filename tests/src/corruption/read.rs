//! Reading a facet whole, through SQL.

use std::collections::BTreeMap;
use std::sync::Arc;

use lapidary_engine::Bookmark;
use lapidary_vfs::{Registration, take_last_error};
use rusqlite::{Connection, OpenFlags, ffi};

/// The rows of a facet, by key.
pub(super) type Rows = BTreeMap<i64, Arc<Vec<u8>>>;

/// What is read: a facet, as it is or as it was.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reader {
    /// Name of the facet.
    pub(super) facet: String,
    /// Of the past, and what it had then.
    pub(super) at: Option<Bookmark>,
}

/// What came of reading.
#[derive(Clone, Debug)]
pub(super) enum Read {
    /// The rows, all of them.
    Rows(Rows),
    /// It was refused after these rows.
    Refused(Rows, Refusal),
}

/// An error of SQLite and the words behind it.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) code: i32,
    pub(super) words: String,
}

impl Refusal {
    pub(super) fn of(error: &rusqlite::Error) -> Self {
        let kept = take_last_error().unwrap_or_default();
        let code = error.sqlite_error().map_or(0, |error| error.extended_code);
        Self { code, words: format!("{error}: {kept}") }
    }

    /// Whether damage below SQLite explains it, and it says where.
    pub(super) fn is_of_damage(&self, facet: &str) -> bool {
        let below = matches!(
            self.code,
            ffi::SQLITE_IOERR_DATA
                | ffi::SQLITE_IOERR_CORRUPTFS
                | ffi::SQLITE_IOERR_READ
                | ffi::SQLITE_CANTOPEN
        );
        below
            && self.words.contains("segments/")
            && (self.words.contains("damaged") || self.words.contains("failed"))
            && (self.words.contains(facet)
                || self.words.contains("keep a copy")
                || self.code == ffi::SQLITE_IOERR_READ)
    }

    /// Whether the version of the past is not kept.
    pub(super) fn is_of_the_past(&self) -> bool {
        self.code == ffi::SQLITE_CANTOPEN && self.words.contains("is kept; the oldest is")
    }
}

/// Opens a facet that is there.
pub(super) fn open(registration: &Registration, reader: &Reader) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_URI;
    let mut uri = format!("file:{}?vfs={}", reader.facet, registration.name());
    if let Some(bookmark) = &reader.at {
        uri = format!("{uri}&at={bookmark}");
    }
    Connection::open_with_flags(uri, flags)
}

/// Reads all rows and checks the database's structure. `Err` if it shows what no store should.
pub(super) fn read(
    registration: &Registration,
    reader: &Reader,
    mmap: bool,
) -> Result<Read, String> {
    let mut rows = Rows::new();
    drop(take_last_error());
    match read_into(registration, reader, mmap, &mut rows) {
        Ok(None) => Ok(Read::Rows(rows)),
        // A page that it cannot read is a line of its answer, and what hangs on it may be others.
        Ok(Some(verdict)) if verdict.contains("get page") || verdict.contains("get the page") => {
            let words = format!("{verdict}: {}", take_last_error().unwrap_or_default());
            Ok(Read::Refused(rows, Refusal { code: ffi::SQLITE_IOERR_DATA, words }))
        }
        Ok(Some(verdict)) => Err(format!("integrity_check says {verdict}")),
        Err(error) => Ok(Read::Refused(rows, Refusal::of(&error))),
    }
}

fn read_into(
    registration: &Registration,
    reader: &Reader,
    mmap: bool,
    rows: &mut Rows,
) -> rusqlite::Result<Option<String>> {
    let connection = open(registration, reader)?;
    if mmap {
        connection.pragma_update(None, "mmap_size", 1 << 30)?;
    }
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        return Ok(None);
    }
    let mut statement = connection.prepare("SELECT k, v FROM t ORDER BY k")?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        rows.insert(row.get(0)?, Arc::new(row.get(1)?));
    }
    let mut check = connection.prepare("PRAGMA integrity_check")?;
    let lines =
        check.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
    Ok((lines != ["ok"]).then(|| lines.join("; ")))
}
