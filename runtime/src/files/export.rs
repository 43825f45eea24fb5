//! A file from a version of a facet.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use lapidary_engine::{Bookmark, Facet, PageNo, PageSize, RootHasher, View};
use lapidary_vfs::{ROOT_HASH_MASK, RootHashError, root_hash_of_file};

use super::new_file::NewFile;
use super::{FileContent, FileError, FileProgress, FileStep, Listener, PAGES_PER_REPORT, tell};
use crate::error::Result;
use crate::facet::FacetHandle;

/// How a facet is exported.
///
/// ```
/// let options = lapidary::ExportOptions::new().overwrite(true);
/// ```
#[derive(Default)]
#[must_use]
pub struct ExportOptions<'a> {
    at: Option<Bookmark>,
    overwrite: bool,
    listener: Listener<'a>,
}

impl fmt::Debug for ExportOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExportOptions")
            .field("at", &self.at)
            .field("overwrite", &self.overwrite)
            .finish_non_exhaustive()
    }
}

impl<'a> ExportOptions<'a> {
    /// The newest durable version, to a file that does not exist.
    pub fn new() -> Self {
        Self::default()
    }

    /// The version that a bookmark names, rather than the newest.
    pub fn at(mut self, bookmark: Bookmark) -> Self {
        self.at = Some(bookmark);
        self
    }

    /// Whether a file that exists is replaced. Default: no.
    pub fn overwrite(mut self, overwrite: bool) -> Self {
        self.overwrite = overwrite;
        self
    }

    /// Who is told how far it has come, now and then.
    pub fn progress(mut self, listener: &'a mut dyn FnMut(FileProgress)) -> Self {
        self.listener = Some(listener);
        self
    }
}

impl FacetHandle {
    /// Writes a version of the facet to a SQLite file at `path`, on the calling thread; commits go on
    /// meanwhile and are not in it. The file is written beside its place, synced, read back and compared
    /// with the facet by its root hash, and only then given its name, so that there is never a part of
    /// one. What was never written to becomes a file of no bytes, which is an empty database to SQLite.
    ///
    /// ```
    /// # use lapidary::{ExportOptions, Host, HostConfig, root_hash_of_file};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// # let path = directory.path().join("acme.sqlite");
    /// let facet = host.facet("tenants/acme")?;
    /// facet.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES ('here')").wait()?;
    /// let exported = facet.export(&path, ExportOptions::new())?;
    /// assert_eq!(exported.root_hash, root_hash_of_file(&path)?);
    ///
    /// let file = lapidary::rusqlite::Connection::open(&path)?;
    /// let x: String = file.query_row("SELECT x FROM t", (), |row| row.get(0))?;
    /// assert_eq!(x, "here");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`NotFound`](crate::HostErrorKind::NotFound) if there is no such facet, version or directory;
    /// [`AlreadyExists`](crate::HostErrorKind::AlreadyExists) if there is something at `path`;
    /// [`InvalidInput`](crate::HostErrorKind::InvalidInput) if a `-wal` or `-journal` is beside it that
    /// SQLite would take for a part of it; [`Corruption`](crate::HostErrorKind::Corruption) if a page
    /// is not what was written; [`NoSpace`](crate::HostErrorKind::NoSpace), [`Io`](crate::HostErrorKind::Io).
    pub fn export(
        &self,
        path: impl AsRef<Path>,
        options: ExportOptions<'_>,
    ) -> Result<FileContent> {
        self.with_facet(|facet| write_version(facet, path.as_ref(), options))
    }
}

/// Writes a version of `facet` to `path`, as [`FacetHandle::export`] has it.
pub(crate) fn write_version(
    facet: &Arc<Facet>,
    path: &Path,
    options: ExportOptions<'_>,
) -> Result<FileContent> {
    let ExportOptions { at, overwrite, mut listener } = options;
    let snapshot = match at {
        Some(bookmark) => facet.snapshot_at(&bookmark)?,
        None => facet.snapshot(View::Durable)?,
    };
    let mut file = NewFile::create(path, overwrite)?;
    let page_count = snapshot.page_count();
    let page_size = snapshot.page_size().filter(|_| page_count > 0);
    let mut image = vec![0; page_size.map_or(0, PageSize::bytes)];
    let page_bytes = image.len() as u64;
    let total_bytes = page_bytes * u64::from(page_count);
    let mut hasher = RootHasher::new(page_size.unwrap_or(PageSize::MIN), &ROOT_HASH_MASK);
    for page in 1..=page_count {
        snapshot.read_page(PageNo(page), &mut image)?;
        hasher.page(&image)?;
        file.append(&image)?;
        if page % PAGES_PER_REPORT == 0 {
            tell(&mut listener, FileStep::Writing, page_bytes * u64::from(page), total_bytes);
        }
    }
    let root_hash = hasher.finish();
    let written = file.sync()?;
    tell(&mut listener, FileStep::Comparing, 0, total_bytes);
    let found = root_hash_of_file(&written).map_err(|error| match error {
        RootHashError::Io { source, .. } => FileError::io("read back", path)(source),
        _ => FileError::NotADatabase {
            path: path.to_owned(),
            reason: "the facet was not written by SQLite, so it has no SQLite file",
        },
    })?;
    if found != root_hash {
        let path = file.target().to_owned();
        return Err(FileError::Differs { path, expected: root_hash, found }.into());
    }
    file.finish()?;
    tell(&mut listener, FileStep::Comparing, total_bytes, total_bytes);
    Ok(FileContent { page_size, page_count, root_hash })
}
