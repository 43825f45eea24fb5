//! What came of a statement, as far as the two sides can be compared.

use std::fmt;

use rusqlite::Connection;
use rusqlite::types::ValueRef;

/// A value, exactly: reals by their bits, texts by their bytes.
#[derive(Clone, PartialEq, Eq)]
pub enum Cell {
    /// `NULL`.
    Null,
    /// `INTEGER`.
    Integer(i64),
    /// `REAL`, its bits.
    Real(u64),
    /// `TEXT`, which need not be UTF-8.
    Text(Vec<u8>),
    /// `BLOB`.
    Blob(Vec<u8>),
}

impl Cell {
    fn of(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(number) => Self::Integer(number),
            ValueRef::Real(number) => Self::Real(number.to_bits()),
            ValueRef::Text(bytes) => Self::Text(bytes.to_vec()),
            ValueRef::Blob(bytes) => Self::Blob(bytes.to_vec()),
        }
    }

    /// A form in which no two different values are the same bytes.
    pub fn hash_into(&self, hasher: &mut blake3::Hasher) {
        let (tag, bytes) = match self {
            Self::Null => (0, &[][..]),
            Self::Integer(number) => (1, &number.to_le_bytes()[..]),
            Self::Real(bits) => (2, &bits.to_le_bytes()[..]),
            Self::Text(bytes) => (3, bytes.as_slice()),
            Self::Blob(bytes) => (4, bytes.as_slice()),
        };
        hasher.update(&[tag]).update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    }
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 24;
        let long = |bytes: &[u8]| match bytes.len() {
            ..=SHOWN => String::new(),
            length => format!("… {length} bytes {:08x}", crc(bytes)),
        };
        match self {
            Self::Null => f.write_str("NULL"),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Real(bits) => write!(f, "{:?}", f64::from_bits(*bits)),
            Self::Text(bytes) => {
                let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]);
                write!(f, "{shown:?}{}", long(bytes))
            }
            Self::Blob(bytes) => {
                let shown = &bytes[..bytes.len().min(SHOWN)];
                write!(f, "x'")?;
                shown.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                write!(f, "'{}", long(bytes))
            }
        }
    }
}

/// Tells long values apart in a report.
fn crc(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(*blake3::hash(bytes).as_bytes().first_chunk().expect("32 bytes"))
}

/// An error of SQLite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlError {
    /// Extended result code.
    pub code: i32,
    /// The words.
    pub message: String,
}

impl SqlError {
    /// The code without its extension.
    #[must_use]
    pub fn primary_code(&self) -> i32 {
        self.code & 0xff
    }

    fn of(error: rusqlite::Error) -> Self {
        match error {
            rusqlite::Error::SqliteFailure(error, message) => {
                Self { code: error.extended_code, message: message.unwrap_or_default() }
            }
            rusqlite::Error::SqlInputError { error, msg, .. } => {
                Self { code: error.extended_code, message: msg }
            }
            other => Self { code: -1, message: other.to_string() },
        }
    }
}

/// Rows as far as they came, the error if there was one, and what the connection tells afterwards.
#[derive(Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Rows, in their order.
    pub rows: Vec<Vec<Cell>>,
    /// What ended them.
    pub error: Option<SqlError>,
    /// `sqlite3_changes`, `sqlite3_total_changes`, `sqlite3_last_insert_rowid`.
    pub counters: (u64, u64, i64),
    /// Whether no transaction is open.
    pub autocommit: bool,
}

impl Outcome {
    /// Whether it failed because of somebody else's lock.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.error.as_ref().is_some_and(|error| error.primary_code() == rusqlite::ffi::SQLITE_BUSY)
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 12;
        match &self.error {
            Some(error) => write!(f, "error {}: {}, after ", error.code, error.message)?,
            None => f.write_str("ok, ")?,
        }
        write!(f, "{} rows", self.rows.len())?;
        for row in self.rows.iter().take(SHOWN) {
            write!(f, " {row:?}")?;
        }
        if self.rows.len() > SHOWN {
            f.write_str(" …")?;
        }
        let (changes, total, rowid) = self.counters;
        let autocommit = self.autocommit;
        write!(f, "; changes {changes} of {total}, rowid {rowid}, autocommit {autocommit}")
    }
}

/// Runs one statement to its end.
#[must_use]
pub fn run(connection: &Connection, sql: &str) -> Outcome {
    run_around(connection, sql, usize::MAX, || ())
}

/// Runs one statement to its end, and `inner` when it has given `rows` rows, if it gives so many.
#[must_use]
pub fn run_around(
    connection: &Connection,
    sql: &str,
    rows: usize,
    mut inner: impl FnMut(),
) -> Outcome {
    let mut read = Vec::new();
    let mut each = |row| {
        read.push(row);
        if read.len() == rows {
            inner();
        }
    };
    let error = read_rows(connection, sql, &mut each).map_err(SqlError::of).err();
    Outcome {
        rows: read,
        error,
        counters: (
            connection.changes(),
            connection.total_changes(),
            connection.last_insert_rowid(),
        ),
        autocommit: connection.is_autocommit(),
    }
}

fn read_rows(
    connection: &Connection,
    sql: &str,
    each: &mut impl FnMut(Vec<Cell>),
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(sql)?;
    let columns = statement.column_count();
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next()? {
        let cells = (0..columns).map(|column| row.get_ref(column).map(Cell::of));
        each(cells.collect::<rusqlite::Result<_>>()?);
    }
    Ok(())
}
