//! A database file that appears under its name as a whole or not at all.

use std::fs::{self, File, Permissions};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::FileError;

/// A file on its way: written beside its place, and put there when it is complete and on the disk.
/// Dropped before that, it leaves nothing.
#[derive(Debug)]
pub(super) struct NewFile {
    written: BufWriter<NamedTempFile>,
    target: PathBuf,
    overwrite: bool,
}

impl NewFile {
    /// A file that is to become `target`, in a directory that exists.
    pub(super) fn create(target: &Path, overwrite: bool) -> Result<Self, FileError> {
        check_place(target, overwrite)?;
        let directory = directory_of(target);
        let file = tempfile::Builder::new()
            .prefix(".lapidary-")
            .suffix(".part")
            // As far as the process's umask allows, as of any file that is created.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(directory)
            .map_err(FileError::io("create a file in", directory))?;
        let written = BufWriter::with_capacity(1 << 18, file);
        Ok(Self { written, target: target.to_owned(), overwrite })
    }

    /// Where it will be.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// Appends bytes.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.written.write_all(bytes).map_err(FileError::io("write", &self.target))
    }

    /// Makes it durable under the name it has for now; returns that name.
    pub(super) fn sync(&mut self) -> Result<PathBuf, FileError> {
        let synced =
            self.written.flush().and_then(|()| self.written.get_ref().as_file().sync_all());
        synced.map_err(FileError::io("write", &self.target))?;
        Ok(self.written.get_ref().path().to_owned())
    }

    /// Puts it in its place. To be called after [`sync`](Self::sync): a file that had its name before
    /// its bytes could be empty after a power cut.
    pub(super) fn finish(self) -> Result<(), FileError> {
        let Self { written, target, overwrite } = self;
        let file = written
            .into_inner()
            .map_err(|error| FileError::io("write", &target)(error.into_error()))?;
        // Somebody may have put one there in the meantime.
        check_place(&target, overwrite)?;
        let put = if overwrite { file.persist(&target) } else { file.persist_noclobber(&target) };
        put.map_err(|error| match error.error.kind() {
            std::io::ErrorKind::AlreadyExists => FileError::Exists { path: target.clone() },
            _ => FileError::io("rename a file to", &target)(error.error),
        })?;
        let directory = directory_of(&target);
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(FileError::io("sync", directory))
    }
}

fn directory_of(target: &Path) -> &Path {
    match target.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}

fn check_place(target: &Path, overwrite: bool) -> Result<(), FileError> {
    match fs::symlink_metadata(target) {
        Ok(found) if !overwrite || !found.is_file() => {
            return Err(FileError::Exists { path: target.to_owned() });
        }
        _ => {}
    }
    for suffix in ["-wal", "-journal"] {
        let beside = beside(target, suffix);
        if fs::metadata(&beside).is_ok_and(|found| found.len() > 0) {
            return Err(FileError::Beside { path: target.to_owned(), beside });
        }
    }
    Ok(())
}

/// The path of a database's side file.
pub(super) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(suffix);
    PathBuf::from(path)
}
