//! What SQLite asks of a file system and of a file, as safe traits. The foreign-function module
//! calls them; it knows nothing else of this crate.

use std::os::raw::c_int;

use rusqlite::ffi as sqlite;

use crate::error::Failure;
use crate::stores::OpenedFacet;

/// SQLite's lock levels, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LockLevel {
    None,
    Shared,
    Reserved,
    Pending,
    Exclusive,
}

impl LockLevel {
    pub(crate) fn from_code(code: c_int) -> Option<Self> {
        Some(match code {
            sqlite::SQLITE_LOCK_NONE => Self::None,
            sqlite::SQLITE_LOCK_SHARED => Self::Shared,
            sqlite::SQLITE_LOCK_RESERVED => Self::Reserved,
            sqlite::SQLITE_LOCK_PENDING => Self::Pending,
            sqlite::SQLITE_LOCK_EXCLUSIVE => Self::Exclusive,
            _ => return None,
        })
    }

    pub(crate) fn code(self) -> c_int {
        match self {
            Self::None => sqlite::SQLITE_LOCK_NONE,
            Self::Shared => sqlite::SQLITE_LOCK_SHARED,
            Self::Reserved => sqlite::SQLITE_LOCK_RESERVED,
            Self::Pending => sqlite::SQLITE_LOCK_PENDING,
            Self::Exclusive => sqlite::SQLITE_LOCK_EXCLUSIVE,
        }
    }
}

/// Bytes that must be readable after what was fetched: SQLite reads a little beyond the end of a page
/// that is damaged. Source: `unixFetch` in SQLite's `os_unix.c`.
pub(crate) const FETCHED_PAST_BYTES: usize = 256;

/// How much of a read the file could fill. The rest of the buffer is zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    Whole,
    Short,
}

/// What becomes of a `PRAGMA` that the file was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PragmaAnswer {
    /// SQLite goes on with it.
    PassOn,
    /// It fails with these words.
    Refuse(String),
    /// It gives one row with this text.
    Row(String),
}

/// An open file. Used by one thread at a time; SQLite's own mutexes see to that.
pub(crate) trait File: Send {
    /// Fills `into` from `offset`; bytes past the end are zeros.
    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<Filled, Failure>;

    /// `xFetch`: the `length` bytes from `offset`, in place, and at least [`FETCHED_PAST_BYTES`] more.
    /// They stay where and as they are until [`File::unfetch`] was called as often as this gave
    /// any. `None`: they are to be read.
    fn fetch(&mut self, offset: u64, length: usize) -> Result<Option<&[u8]>, Failure> {
        let _ = (offset, length);
        Ok(None)
    }

    /// `xUnfetch` of something that was fetched.
    fn unfetch(&mut self) {}

    /// `SQLITE_FCNTL_MMAP_SIZE`: only bytes below `limit`, if it is given, are fetched from now on.
    /// Returns the limit before.
    fn mmap_limit(&mut self, limit: Option<u64>) -> u64 {
        let _ = limit;
        0
    }

    /// Writes all of `bytes` at `offset`.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Failure>;

    /// Makes the file `size_bytes` long.
    fn truncate(&mut self, size_bytes: u64) -> Result<(), Failure>;

    /// Bytes in the file.
    fn size_bytes(&mut self) -> Result<u64, Failure>;

    /// `xSync`.
    fn sync(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// Raises the lock to `level`.
    fn lock(&mut self, level: LockLevel) -> Result<(), Failure>;

    /// Lowers the lock to `level` (`Shared` or `None`). Cannot fail.
    fn unlock(&mut self, level: LockLevel);

    /// The lock held.
    fn lock_level(&self) -> LockLevel;

    /// Whether anybody holds `Reserved` or more.
    fn is_reserved(&self) -> bool {
        false
    }

    /// `SQLITE_FCNTL_PDB`: the connection that opens it, as the address of the `sqlite3`.
    fn opened_by(&mut self, connection: usize) {
        let _ = connection;
    }

    /// `SQLITE_FCNTL_SYNC`: the file is about to be synced in a commit of `connection`.
    /// `super_journal` is the super-journal of a transaction over several files.
    fn before_sync(
        &mut self,
        connection: Option<usize>,
        super_journal: Option<&str>,
    ) -> Result<(), Failure> {
        let _ = (connection, super_journal);
        Ok(())
    }

    /// `SQLITE_FCNTL_COMMIT_PHASETWO`: the transaction is complete.
    fn commit(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// `SQLITE_FCNTL_PRAGMA`.
    fn pragma(&mut self, name: &str, value: Option<&str>) -> PragmaAnswer {
        let _ = (name, value);
        PragmaAnswer::PassOn
    }

    /// Whether the next write must be told if its rollback journal is open, with
    /// [`File::journal_is_open`].
    fn wants_journal_check(&self) -> bool {
        false
    }

    /// Answers [`File::wants_journal_check`].
    fn journal_is_open(&mut self, open: bool) -> Result<(), Failure> {
        let _ = open;
        Ok(())
    }

    /// The facet it is, of a store that was opened for its files.
    fn opened_facet(&self) -> Option<OpenedFacet> {
        None
    }

    /// Whether the file lost its name under the handle.
    fn has_moved(&self) -> bool {
        false
    }

    /// Whether it can only be read, however it was asked for.
    fn is_read_only(&self) -> bool {
        false
    }

    /// `SQLITE_IOCAP_…` flags.
    fn device_characteristics(&self) -> c_int;
}

/// What kind of file SQLite opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    MainDatabase,
    MainJournal,
    SuperJournal,
    WriteAheadLog,
    /// Temporary databases, their journals, statement journals, sorter files.
    Temporary,
}

impl FileKind {
    pub(crate) fn from_flags(flags: c_int) -> Self {
        if flags & sqlite::SQLITE_OPEN_MAIN_DB != 0 {
            Self::MainDatabase
        } else if flags & sqlite::SQLITE_OPEN_MAIN_JOURNAL != 0 {
            Self::MainJournal
        } else if flags & sqlite::SQLITE_OPEN_SUPER_JOURNAL != 0 {
            Self::SuperJournal
        } else if flags & sqlite::SQLITE_OPEN_WAL != 0 {
            Self::WriteAheadLog
        } else {
            Self::Temporary
        }
    }
}

/// How a file is to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) write: bool,
    pub(crate) create: bool,
    /// With `create`: fail if it is there.
    pub(crate) exclusive: bool,
}

impl Access {
    pub(crate) fn from_flags(flags: c_int) -> Self {
        Self {
            write: flags & sqlite::SQLITE_OPEN_READWRITE != 0,
            create: flags & sqlite::SQLITE_OPEN_CREATE != 0,
            exclusive: flags & sqlite::SQLITE_OPEN_EXCLUSIVE != 0,
        }
    }
}

/// A request to open a file.
pub(crate) struct OpenRequest<'a> {
    pub(crate) kind: FileKind,
    pub(crate) access: Access,
    /// Absent for temporary files.
    pub(crate) name: Option<&'a str>,
    /// Looks up a URI parameter; `None` where it is not given.
    pub(crate) parameter: &'a dyn Fn(&str) -> Option<String>,
    /// Names of all URI parameters that are given.
    pub(crate) parameter_names: &'a dyn Fn() -> Vec<String>,
}

/// An opened file.
pub(crate) enum Opened<D, S> {
    Database(D),
    Scratch(S),
}

/// A file system.
pub(crate) trait FileSystem: Send + Sync + 'static {
    type Database: File;
    type Scratch: File;

    fn open(
        &self,
        request: &OpenRequest<'_>,
    ) -> Result<Opened<Self::Database, Self::Scratch>, Failure>;

    /// `sync_directory`: it must be gone for good.
    fn delete(&self, name: &str, sync_directory: bool) -> Result<(), Failure>;

    fn exists(&self, name: &str) -> bool;

    /// The canonical form of a database's name.
    fn full_name(&self, name: &str) -> Result<String, Failure>;

    /// Longest canonical name in bytes, any suffix that SQLite appends included.
    fn name_bytes_max(&self) -> usize;
}
