//! The operating system's files: `pread`, `pwrite`, `fdatasync`, and an advisory lock.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this module is the operating system's side of `Io`"
)]

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{DirectoryState, FileName, Io, IoFile, Mapping};
use crate::types::FileNo;

const LOCK: &str = "LOCK";
const SEGMENTS: &str = "segments";
const BUCKET: &str = "BUCKET";

/// A directory of the operating system.
#[derive(Debug)]
pub struct PosixIo {
    directory: PathBuf,
}

impl PosixIo {
    /// Files below `directory`, which need not exist yet.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    fn path(&self, name: FileName) -> PathBuf {
        self.directory.join(name.to_string())
    }

    pub(super) fn open_file(&self, name: FileName) -> io::Result<PosixFile> {
        let file = OpenOptions::new().read(true).write(true).open(self.path(name))?;
        Ok(PosixFile { file })
    }

    pub(super) fn create_file(&self, name: FileName) -> io::Result<PosixFile> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.path(name))?;
        Ok(PosixFile { file })
    }
}

impl Io for PosixIo {
    fn describe(&self) -> String {
        self.directory.display().to_string()
    }

    fn backend(&self) -> &'static str {
        "posix"
    }

    fn inspect(&self) -> io::Result<DirectoryState> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(DirectoryState::Empty);
            }
            Err(error) => return Err(error),
        };
        // A crash while a store is created leaves the lock file, the directory of segments and
        // perhaps segments, but no superblock: that is still an empty directory.
        let mut state = DirectoryState::Empty;
        for entry in entries {
            let entry = entry?;
            if entry.file_name() == "SUPERBLOCK" {
                return Ok(DirectoryState::Store);
            }
            let name = entry.file_name();
            if name != LOCK && name != SEGMENTS && name != BUCKET {
                state = DirectoryState::Foreign;
            }
        }
        Ok(state)
    }

    fn create_directory(&self) -> io::Result<()> {
        let mut made = vec![self.directory.as_path()];
        made.extend(self.directory.ancestors().skip(1).take_while(|path| !path.exists()));
        fs::create_dir_all(self.directory.join(SEGMENTS))?;
        // A directory is durable when its name in its parent is.
        for parent in made.into_iter().filter_map(Path::parent) {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            File::open(parent)?.sync_all()?;
        }
        Ok(())
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.directory.join(LOCK))?;
        held(file.try_lock(), file)
    }

    fn lock_shared(&self) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let file = match File::open(self.directory.join(LOCK)) {
            Ok(file) => file,
            // Whoever opens a store creates the file first, so nobody has it open.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Some(Box::new(())));
            }
            Err(error) => return Err(error),
        };
        held(file.try_lock_shared(), file)
    }

    fn open(&self, name: FileName) -> io::Result<Arc<dyn IoFile>> {
        Ok(Arc::new(self.open_file(name)?))
    }

    fn open_read_only(&self, name: FileName) -> io::Result<Arc<dyn IoFile>> {
        Ok(Arc::new(PosixFile { file: File::open(self.path(name))? }))
    }

    fn create(&self, name: FileName) -> io::Result<Arc<dyn IoFile>> {
        Ok(Arc::new(self.create_file(name)?))
    }

    fn remove(&self, name: FileName) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn list_segments(&self) -> io::Result<Vec<FileNo>> {
        let mut segments = Vec::new();
        for entry in fs::read_dir(self.directory.join(SEGMENTS))? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".seg"));
            if let Some(id) = number.and_then(|number| number.parse().ok()) {
                segments.push(FileNo(id));
            }
        }
        Ok(segments)
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(self.directory.join(SEGMENTS))?.sync_all()?;
        File::open(&self.directory)?.sync_all()
    }
}

/// What comes of trying to lock `file`.
fn held(tried: Result<(), TryLockError>, file: File) -> io::Result<Option<Box<dyn Send + Sync>>> {
    match tried {
        Ok(()) => Ok(Some(Box::new(file))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[derive(Debug)]
pub(super) struct PosixFile {
    pub(super) file: File,
}

impl AsFd for PosixFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl IoFile for PosixFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        let all = rustix::fs::FallocateFlags::empty();
        match rustix::io::retry_on_intr(|| rustix::fs::fallocate(&self.file, all, 0, len)) {
            Err(rustix::io::Errno::OPNOTSUPP) => super::fill(self, len),
            reserved => reserved.map_err(io::Error::from),
        }
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        use rustix::fs::FallocateFlags;
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::io::retry_on_intr(|| rustix::fs::fallocate(&self.file, hole, offset, len))
            .map_err(io::Error::from)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    #[expect(unsafe_code, reason = "as the trait has it")]
    unsafe fn map(&self, len: u64) -> io::Result<Option<Mapping>> {
        if self.len()? < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // SAFETY: the file is long enough, and the caller says that it stays as it is.
        unsafe { Mapping::new(&self.file, len) }.map(Some)
    }
}
