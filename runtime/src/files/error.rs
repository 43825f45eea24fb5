//! What can go wrong with a file on its way into or out of a store.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use lapidary_engine::RootHash;
use rusqlite::ErrorCode;

use crate::error::HostErrorKind;

/// An error that concerns a SQLite file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The operating system refused an operation.
    #[error("{operation} {} failed: {source}", .path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// It is something else.
    #[error("{}: not a SQLite database: {reason}", .path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: &'static str,
    },
    /// It is a database, and damaged.
    #[error(
        "{}: the database is damaged: {detail}; nothing was imported: mend it with `sqlite3 FILE \
         .recover`, or import it without the check", .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        detail: String,
    },
    /// Others are writing to it.
    #[error(
        "{}: another program is writing to it; nothing was imported: try again", .path.display()
    )]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// SQLite could not read it.
    #[error("{}: SQLite cannot read it: {source}; nothing was imported", .path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// It has more bytes than were allowed.
    #[error(
        "{}: it has {bytes} bytes, more than the {bytes_max} that were allowed; nothing was imported",
        .path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        bytes: u64,
        /// Bytes allowed.
        bytes_max: u64,
    },
    /// There is a file at the place of a new one.
    #[error(
        "{}: exists already and was left as it is; choose another path, or ask for it to be \
         overwritten", .path.display()
    )]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A file that belongs to another database would be taken for part of the new one.
    #[error(
        "{}: was not written, since {} is beside it and SQLite would take that for a part of it; \
         choose another path, or move both away", .path.display(), .beside.display()
    )]
    Beside {
        /// The file that was to be written.
        path: PathBuf,
        /// What is beside it.
        beside: PathBuf,
    },
    /// What was written is not what was read.
    #[error(
        "{}: what was read back has root hash {found} and not {expected}; it was discarded: check the \
         disk and its file system", .path.display()
    )]
    Differs {
        /// The file.
        path: PathBuf,
        /// Root hash of what was read.
        expected: RootHash,
        /// Root hash of what was written.
        found: RootHash,
    },
    /// SQLite finds other rows in the facet than in the file.
    #[error(
        "{}: table {table}: {} in the facet, {} in the file; it was discarded: please report it",
        .path.display(), Counted(*.found), Counted(*.expected)
    )]
    RowsDiffer {
        /// The file.
        path: PathBuf,
        /// The first table that differs.
        table: String,
        /// Rows in the file; `None` if it has no such table.
        expected: Option<u64>,
        /// Rows in the facet.
        found: Option<u64>,
    },
}

/// Rows of a table that may not be there.
struct Counted(Option<u64>);

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(1) => f.write_str("1 row"),
            Some(rows) => write!(f, "{rows} rows"),
            None => f.write_str("is not there"),
        }
    }
}

impl FileError {
    /// What the caller can do.
    #[must_use]
    pub fn kind(&self) -> HostErrorKind {
        match self {
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => HostErrorKind::NotFound,
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => HostErrorKind::NoSpace,
                _ => HostErrorKind::Io,
            },
            Self::NotADatabase { .. } | Self::TooLarge { .. } | Self::Beside { .. } => {
                HostErrorKind::InvalidInput
            }
            Self::Damaged { .. } | Self::Differs { .. } | Self::RowsDiffer { .. } => {
                HostErrorKind::Corruption
            }
            Self::Busy { .. } => HostErrorKind::Retry,
            Self::Sqlite { source, .. } => match source.sqlite_error_code() {
                Some(ErrorCode::DiskFull) => HostErrorKind::NoSpace,
                // It is a database, but not one for this SQLite: a later format, or larger than it can be.
                Some(ErrorCode::Unknown | ErrorCode::TooBig) => HostErrorKind::InvalidInput,
                _ => HostErrorKind::Io,
            },
            Self::Exists { .. } => HostErrorKind::AlreadyExists,
        }
    }

    /// An error of the operating system.
    pub(super) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, path: path.to_owned(), source }
    }

    /// What SQLite said when it was to read a file.
    pub(super) fn sqlite(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => Self::NotADatabase {
                path,
                reason: "its first bytes are not those of one; it is another kind of file, or \
                         encrypted",
            },
            Some(ErrorCode::DatabaseCorrupt) => Self::Damaged { path, detail: source.to_string() },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy { path },
            _ => Self::Sqlite { path, source },
        }
    }
}
