//! A new facet from a SQLite file.
//!
//! The order of the steps matters:
//! 1. The file's committed content is copied and checked (`source`). Nothing of it is in the store yet.
//! 2. Its pages go into a facet with a name that nobody asks for, in one commit.
//! 3. What is durable of it is read back and compared, page by page and, if asked, by counting rows. If the renaming came first, a facet with
//!    another content could be found under the name.
//! 4. It gets its name, in one record of the log. A crash before that leaves a facet under the other
//!    name, which the next [`Host::open`](crate::Host::open) deletes.

use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read as _};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lapidary_engine::{
    Error, Facet, FacetName, PageNo, PageSize, RootHash, RootHasher, Store, View,
};
use lapidary_vfs::{ROOT_HASH_MASK, facet_uri, root_hash_of_file};
use rusqlite::{Connection, OpenFlags};

use super::rows::{Rows, compare, count_rows};
use super::source::{Settled, settle};
use super::{FileContent, FileError, FileProgress, FileStep, Listener, PAGES_PER_REPORT, tell};
use crate::core_thread::Core;
use crate::error::Result;
use crate::facet::FacetHandle;
use crate::schedule::Scope;

/// What SQLite is asked to look at before a file is imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum ImportCheck {
    /// Everything: `PRAGMA integrity_check`.
    #[default]
    Integrity,
    /// All but whether indexes agree with their tables: `PRAGMA quick_check`.
    Quick,
    /// Nothing. A damaged file becomes a damaged database.
    None,
}

/// How a file is imported.
///
/// ```
/// use lapidary::{ImportCheck, ImportOptions};
/// let options = ImportOptions::new().check(ImportCheck::Quick).skip_equal(true);
/// ```
#[derive(Default)]
#[must_use]
pub struct ImportOptions<'a> {
    check: ImportCheck,
    skip_equal: bool,
    count_rows: bool,
    bytes_max: Option<u64>,
    scratch_directory: Option<PathBuf>,
    listener: Listener<'a>,
}

impl fmt::Debug for ImportOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportOptions")
            .field("check", &self.check)
            .field("skip_equal", &self.skip_equal)
            .field("count_rows", &self.count_rows)
            .field("bytes_max", &self.bytes_max)
            .field("scratch_directory", &self.scratch_directory)
            .finish_non_exhaustive()
    }
}

impl<'a> ImportOptions<'a> {
    /// A full check, any size, and a name that is not taken.
    pub fn new() -> Self {
        Self::default()
    }

    /// What SQLite checks. Default: everything.
    pub fn check(mut self, check: ImportCheck) -> Self {
        self.check = check;
        self
    }

    /// Whether a facet of that name with the same root hash is a success, with nothing done, rather
    /// than an error: so a list of files can be gone through again. Default: no.
    pub fn skip_equal(mut self, skip: bool) -> Self {
        self.skip_equal = skip;
        self
    }

    /// Whether SQLite counts the rows of every table, in the file and in the facet, and the import is
    /// refused if one differs. It reads both once more. Default: no; the root hash, which is always
    /// compared, says the same of the pages.
    pub fn count_rows(mut self, count: bool) -> Self {
        self.count_rows = count;
        self
    }

    /// Refuses databases of more bytes than this. Default: no limit of its own; quotas hold.
    pub fn bytes_max(mut self, bytes: u64) -> Self {
        self.bytes_max = Some(bytes);
        self
    }

    /// Directory for a copy of the file while it is imported. Default: the system's for temporary
    /// files.
    pub fn scratch_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.scratch_directory = Some(directory.into());
        self
    }

    /// Who is told how far it has come, now and then.
    pub fn progress(mut self, listener: &'a mut dyn FnMut(FileProgress)) -> Self {
        self.listener = Some(listener);
        self
    }
}

/// What came of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Imported {
    /// What the facet has.
    pub content: FileContent,
    /// Whether it was there already: see [`ImportOptions::skip_equal`].
    pub was_there: bool,
    /// Rows of all tables, if they were counted: see [`ImportOptions::count_rows`]. `None` of what was
    /// there already.
    pub rows: Option<u64>,
}

impl FacetHandle {
    /// Creates the facet with the content of the SQLite file at `path`, page by page, on the calling
    /// thread. What is committed in a `-wal` beside it is in the facet, an unfinished transaction in a
    /// `-journal` is not, and neither file is changed. Other programs may be using the database; the
    /// import has it as of one moment. The facet is in rollback-journal mode, whatever the file was in.
    ///
    /// SQLite checks the content first. Then it is written, read back, and compared by its root hash.
    /// The facet is there as a whole or not at all, also after a crash. Meanwhile its pages belong to
    /// one whose name begins with `.importing-`.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, ImportOptions};
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("acme.sqlite");
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// let file = lapidary::rusqlite::Connection::open(&path)?;
    /// file.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)")?;
    ///
    /// let acme = host.facet("tenants/acme")?;
    /// acme.import(&path, ImportOptions::new())?;
    /// assert_eq!(acme.query("SELECT x FROM t", (), |row| row.get::<_, i64>(0)).wait()?, [1]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Nothing is in the store then. [`AlreadyExists`](crate::HostErrorKind::AlreadyExists) if there
    /// is such a facet; [`NotFound`](crate::HostErrorKind::NotFound) if there is no such file;
    /// [`InvalidInput`](crate::HostErrorKind::InvalidInput) if it is no database or too large, or on
    /// a thread of a core; [`Corruption`](crate::HostErrorKind::Corruption) if it is damaged;
    /// [`Retry`](crate::HostErrorKind::Retry) if another program does not stop writing to it;
    /// [`NoSpace`](crate::HostErrorKind::NoSpace) if a quota or a disk has no room, that of the copy
    /// included.
    pub fn import(&self, path: impl AsRef<Path>, options: ImportOptions<'_>) -> Result<Imported> {
        let path = path.as_ref();
        let ImportOptions {
            check,
            skip_equal,
            count_rows,
            bytes_max,
            scratch_directory,
            mut listener,
        } = options;
        let host = &self.target.host;
        host.check_open(Some(&self.name))?;
        self.target.check_wait()?;
        let exists = host.store.facet_exists(&self.name);
        let taken = || Error::FacetExists { name: self.name.to_string() };
        if exists && !skip_equal {
            return Err(taken().into());
        }

        let scratch = scratch_directory.unwrap_or_else(std::env::temp_dir);
        let directory = tempfile::Builder::new().prefix("lapidary-import-").tempdir_in(&scratch);
        let directory = directory.map_err(FileError::io("create a directory in", &scratch))?;
        let settled = settle(path, directory.path(), bytes_max, &mut listener)?;
        if exists {
            let root_hash = root_hash_of_file(&settled.path)
                .map_err(|error| FileError::io("read", path)(std::io::Error::other(error)))?;
            if self.root_hash()? != root_hash {
                return Err(taken().into());
            }
            return Ok(Imported {
                content: content(&settled, root_hash),
                was_there: true,
                rows: None,
            });
        }
        tell(&mut listener, FileStep::Checking, 0, settled.bytes());
        settled.check(check, path)?;
        let expected_rows = if count_rows { Some(settled.rows(path)?) } else { None };

        let staged = Staged::create(&host.store)?;
        let buffer = host.mailboxes.len();
        // The listener is the caller's and may panic. The store takes a change that is made during a
        // panic for one that is half done, so the panic is held up until what was staged is gone.
        let stored = panic::catch_unwind(AssertUnwindSafe(|| -> Result<RootHash> {
            let expected = fill(&staged.facet, &settled, buffer, path, &mut listener)?;
            tell(&mut listener, FileStep::Comparing, 0, settled.bytes());
            host.store.wait_durable(staged.facet.latest_ticket())?;
            let found = staged.facet.snapshot(View::Durable)?.root_hash(&ROOT_HASH_MASK)?;
            if found != expected {
                return Err(FileError::Differs { path: path.to_owned(), expected, found }.into());
            }
            if let Some(expected) = &expected_rows {
                compare(path, expected, &self.rows_of(&staged)?)?;
            }
            tell(&mut listener, FileStep::Comparing, settled.bytes(), settled.bytes());
            Ok(expected)
        }));
        match stored {
            Ok(stored) => {
                let root_hash = stored?;
                self.publish(&staged)?;
                let rows = expected_rows.map(|rows| rows.values().sum());
                Ok(Imported { content: content(&settled, root_hash), was_there: false, rows })
            }
            Err(panic) => {
                drop(staged);
                panic::resume_unwind(panic)
            }
        }
    }

    /// The rows of what is staged, as SQLite finds them in the store.
    fn rows_of(&self, staged: &Staged) -> Result<Rows> {
        let vfs = self.target.host.registration.name();
        let uri = format!("{}?vfs={vfs}", facet_uri(&staged.name));
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        let counted = Connection::open_with_flags(uri, flags).and_then(|facet| count_rows(&facet));
        Ok(counted?)
    }

    /// Step 4.
    fn publish(&self, staged: &Staged) -> Result<()> {
        let (from, to) = (staged.facet.name(), self.name.clone());
        let scopes = vec![Scope::subtree(&to)];
        self.target.call_over(scopes, move |core: &mut Core| core.rename(&from, &to)).wait()
    }
}

fn content(settled: &Settled, root_hash: RootHash) -> FileContent {
    FileContent { page_size: settled.page_size, page_count: settled.page_count, root_hash }
}

/// Step 2: commits the pages of `settled`; returns their root hash.
fn fill(
    facet: &Arc<Facet>,
    settled: &Settled,
    log_buffer: usize,
    source: &Path,
    listener: &mut Listener<'_>,
) -> Result<RootHash> {
    let mut hasher = RootHasher::new(settled.page_size.unwrap_or(PageSize::MIN), &ROOT_HASH_MASK);
    let Some(page_size) = settled.page_size else { return Ok(hasher.finish()) };
    let file = File::open(&settled.path).map_err(FileError::io("read", &settled.path))?;
    let mut file = BufReader::with_capacity(1 << 18, file);
    let mut writer = facet.begin_write_latest()?;
    writer.set_page_size(page_size)?;
    let mut image = vec![0; page_size.bytes()];
    for page in 1..=settled.page_count {
        file.read_exact(&mut image).map_err(FileError::io("read", &settled.path))?;
        hasher.page(&image)?;
        writer.write_page(PageNo(page), &image)?;
        if page % PAGES_PER_REPORT == 0 {
            let done = u64::from(page) * image.len() as u64;
            tell(listener, FileStep::Writing, done, settled.bytes());
        }
    }
    writer.commit(log_buffer).map_err(|error| match error {
        // It is the one thing that is wrong with a transaction of whole pages.
        Error::InvalidInput(reason) => {
            Error::InvalidInput(format!("{}: too large to import: {reason}", source.display()))
        }
        error => error,
    })?;
    Ok(hasher.finish())
}

/// A facet that is being imported. Dropped under the name it was created with, it is deleted.
struct Staged {
    store: Arc<Store>,
    facet: Arc<Facet>,
    name: FacetName,
}

impl Staged {
    fn create(store: &Arc<Store>) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = FacetName::new(format!("{}/{number}", root_of(store)))?;
        let facet = store.create_facet(&name)?;
        Ok(Self { store: Arc::clone(store), facet, name })
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.facet.name() == self.name
            && let Err(error) = self.store.delete_facet(&self.name)
        {
            let facet = &self.name;
            tracing::warn!(%facet, %error, "left until the store is next opened by a host");
        }
    }
}

/// The name that facets are below while they are imported. It has the store's own random number, so
/// nobody has facets of their own there.
fn root_of(store: &Store) -> String {
    format!(".importing-{}", store.id())
}

/// Deletes what imports that a crash interrupted have left. There must be none under way.
pub(crate) fn forget_interrupted(store: &Store) -> Result<()> {
    let root = FacetName::new(root_of(store))?;
    if store.list_facets(Some(&root), None, 1)?.is_empty() {
        return Ok(());
    }
    tracing::info!(store = %store.describe(), "what an interrupted import has left is deleted");
    store.wait_durable(store.delete_facet(&root)?)?;
    Ok(())
}
