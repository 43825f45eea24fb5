//! The committed content of a SQLite file, whatever state it is in and whoever uses it.
//!
//! SQLite itself reads the file, in one transaction, and copies it page by page into a file of our own:
//! so commits that wait in a `-wal` are in it, and a writer next door cannot tear it. The file is
//! opened by SQLite and by nobody else, since closing it any other way would take away the locks of
//! the process's own connections to it (POSIX advisory locks).
//!
//! A database that SQLite can only read after writing to it (a hot journal to be rolled back, a
//! write-ahead log in a directory that takes no new file) is copied first with what is beside it, and
//! the copy is written to. The file itself is never changed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use lapidary_engine::PageSize;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags, ffi};

use super::new_file::beside;
use super::rows::{Rows, count_rows};
use super::{FileError, FileStep, ImportCheck, Listener, PAGES_PER_REPORT, tell};

/// SQLite's own VFS, in case the store's was made the default.
const FILE_VFS: &str = "unix";
/// How long to wait for a lock that others hold for a moment.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Where the header says which versions may write and read the file, and what they are without WAL.
const FORMAT_VERSIONS: (u64, [u8; 2]) = (18, [1, 1]);
/// Where the header has the schema cookie. SQLite's backup gives the copy one of its own.
const SCHEMA_COOKIE_AT: u64 = 40;

/// A database in rollback-journal format, in a file that nobody else has.
#[derive(Debug)]
pub(super) struct Settled {
    /// The file; of `page_count` pages, and no more.
    pub(super) path: PathBuf,
    pub(super) page_size: Option<PageSize>,
    pub(super) page_count: u32,
}

impl Settled {
    pub(super) fn bytes(&self) -> u64 {
        self.page_size.map_or(0, |size| size.bytes() as u64) * u64::from(self.page_count)
    }

    /// Has SQLite check it; `source` is the file it comes from.
    pub(super) fn check(&self, check: ImportCheck, source: &Path) -> Result<(), FileError> {
        let pragma = match check {
            ImportCheck::Integrity => "PRAGMA integrity_check(1)",
            ImportCheck::Quick => "PRAGMA quick_check(1)",
            ImportCheck::None => return Ok(()),
        };
        let answer = open(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY)
            .and_then(|copy| copy.query_row(pragma, (), |row| row.get::<_, String>(0)))
            .map_err(|error| FileError::sqlite(source, error))?;
        if answer == "ok" {
            return Ok(());
        }
        Err(FileError::Damaged { path: source.to_owned(), detail: answer })
    }

    /// Its rows, table by table.
    pub(super) fn rows(&self, source: &Path) -> Result<Rows, FileError> {
        open(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY)
            .and_then(|copy| count_rows(&copy))
            .map_err(|error| FileError::sqlite(source, error))
    }
}

/// What a database is, as of the transaction that reads it.
struct Shape {
    page_bytes: u64,
    page_count: u32,
    schema_cookie: u32,
}

/// Brings the committed content of the database at `source` into a file in `directory`.
pub(super) fn settle(
    source: &Path,
    directory: &Path,
    bytes_max: Option<u64>,
    listener: &mut Listener<'_>,
) -> Result<Settled, FileError> {
    let found = fs::metadata(source).map_err(FileError::io("open", source))?;
    if !found.is_file() {
        let reason = "it is a directory or a device; give the database file itself";
        return Err(FileError::NotADatabase { path: source.to_owned(), reason });
    }
    // Not a path that SQLite could take for a URI.
    let absolute = std::path::absolute(source).map_err(FileError::io("open", source))?;
    let copy = directory.join("content.sqlite");
    let mut attempt =
        |from: &Path, flags| copy_content(from, flags, &copy, source, bytes_max, listener);
    // Beside an empty file (of one byte at most, to SQLite) it takes what is there for leftovers, and removes it even
    // if it may only read.
    if found.len() > 1 || !has_parts_beside(&absolute) {
        match attempt(&absolute, flags_for(&absolute)) {
            Err(FileError::Sqlite { source: error, .. }) if must_be_written_to(&error) => {}
            outcome => return outcome,
        }
    }
    let movable = copy_files(&absolute, directory, source)?;
    attempt(&movable, OpenFlags::SQLITE_OPEN_READ_WRITE)
}

/// Read-only where there is something beside the file: SQLite then leaves it. Where there is nothing,
/// nothing is to be recovered, and a connection that may write takes away the `-wal` and `-shm` that a
/// database in WAL mode gets by being read.
fn flags_for(source: &Path) -> OpenFlags {
    if has_parts_beside(source) {
        OpenFlags::SQLITE_OPEN_READ_ONLY
    } else {
        OpenFlags::SQLITE_OPEN_READ_WRITE
    }
}

/// Whether a log or a journal lies beside the file.
fn has_parts_beside(source: &Path) -> bool {
    ["-wal", "-journal"].iter().any(|suffix| beside(source, suffix).exists())
}

fn open(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags_and_vfs(path, flags, FILE_VFS)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

/// Whether SQLite could read it if it could write.
fn must_be_written_to(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error().map(|error| error.extended_code),
        Some(
            ffi::SQLITE_READONLY_ROLLBACK
                | ffi::SQLITE_READONLY_RECOVERY
                | ffi::SQLITE_READONLY_CANTINIT
                | ffi::SQLITE_READONLY_DIRECTORY
                | ffi::SQLITE_CANTOPEN
        )
    )
}

/// Copies what SQLite reads at `from` to `to`. Errors name `source`, the user's file.
fn copy_content(
    from: &Path,
    flags: OpenFlags,
    to: &Path,
    source: &Path,
    bytes_max: Option<u64>,
    listener: &mut Listener<'_>,
) -> Result<Settled, FileError> {
    let said = |error| FileError::sqlite(source, error);
    let connection = open(from, flags).map_err(said)?;
    // Until the end of this function the database stays what it is at the first statement.
    let shape = connection.execute_batch("BEGIN").and_then(|()| shape(&connection));
    let shape = shape.map_err(said)?;
    let total_bytes = shape.page_bytes * u64::from(shape.page_count);
    if let Some(bytes_max) = bytes_max.filter(|&bytes_max| total_bytes > bytes_max) {
        let path = source.to_owned();
        return Err(FileError::TooLarge { path, bytes: total_bytes, bytes_max });
    }
    let create = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let failed = |source| FileError::Sqlite { path: to.to_owned(), source };
    let mut target = open(to, create).map_err(failed)?;
    // Nobody needs this file after a crash.
    target.execute_batch("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF").map_err(failed)?;
    if shape.page_count > 0 {
        let backup = Backup::new(&connection, &mut target).map_err(failed)?;
        let pages = i32::try_from(PAGES_PER_REPORT).unwrap_or(i32::MAX);
        loop {
            match backup.step(pages).map_err(said)? {
                StepResult::Done => break,
                StepResult::More => {
                    let left = u64::try_from(backup.progress().remaining).unwrap_or(0);
                    let done = total_bytes.saturating_sub(left * shape.page_bytes);
                    tell(listener, FileStep::Reading, done, total_bytes);
                }
                // Nobody else has either of the two.
                _ => return Err(FileError::Busy { path: source.to_owned() }),
            }
        }
    }
    target.close().map_err(|(_, error)| failed(error))?;
    tell(listener, FileStep::Reading, total_bytes, total_bytes);
    if shape.page_count == 0 {
        return Ok(Settled { path: to.to_owned(), page_size: None, page_count: 0 });
    }
    let patched = patch(to, &shape, total_bytes);
    patched.map_err(FileError::io("write", to))?;
    let page_size = usize::try_from(shape.page_bytes).ok().and_then(PageSize::from_bytes);
    Ok(Settled { path: to.to_owned(), page_size, page_count: shape.page_count })
}

fn shape(connection: &Connection) -> rusqlite::Result<Shape> {
    // The first of these reads the file, and begins the transaction.
    connection.query_row("SELECT count(*) FROM sqlite_schema", (), |_| Ok(()))?;
    let ask = |pragma| connection.query_row(pragma, (), |row| row.get::<_, i64>(0));
    Ok(Shape {
        page_bytes: u64::try_from(ask("PRAGMA page_size")?).unwrap_or(0),
        page_count: u32::try_from(ask("PRAGMA page_count")?).unwrap_or(u32::MAX),
        // A 32-bit number that SQLite shows with a sign.
        schema_cookie: ask("PRAGMA schema_version")?.to_be_bytes()[4..]
            .try_into()
            .map_or(0, u32::from_be_bytes),
    })
}

/// Makes the copy what the source is, but for WAL mode.
fn patch(copy: &Path, shape: &Shape, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(copy)?;
    file.write_all_at(&FORMAT_VERSIONS.1, FORMAT_VERSIONS.0)?;
    file.write_all_at(&shape.schema_cookie.to_be_bytes(), SCHEMA_COOKIE_AT)?;
    // A last page that is never used may not have been written.
    file.set_len(bytes)
}

/// Copies a database and what is beside it as they are; returns where the copy is.
fn copy_files(from: &Path, directory: &Path, source: &Path) -> Result<PathBuf, FileError> {
    let to = directory.join("files.sqlite");
    let parts = ["", "-wal", "-journal"].map(|suffix| (beside(from, suffix), beside(&to, suffix)));
    let before = parts.each_ref().map(|(part, _)| look(part));
    for (part, copy) in &parts {
        match copy_file(part, copy) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            copied => copied.map_err(FileError::io("copy", part))?,
        }
    }
    // There were no locks: if somebody wrote meanwhile, the parts may not belong together.
    if before != parts.each_ref().map(|(part, _)| look(part)) {
        return Err(FileError::Busy { path: source.to_owned() });
    }
    Ok(to)
}

/// As `fs::copy`, but for the permissions: a copy of a file that may not be written may be.
fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    io::copy(&mut File::open(from)?, &mut File::create(to)?).map(drop)
}

fn look(path: &Path) -> Option<(u64, Option<SystemTime>)> {
    fs::metadata(path).ok().map(|found| (found.len(), found.modified().ok()))
}
