//! The operating system's files, where the log's hot path, a write and the sync after it, is one
//! submission to io_uring. Everything else is as in [`PosixIo`].
//!
//! The two are linked: the kernel begins the sync when the write has ended, and cancels it if the
//! write failed or was short. [`judge`] says what follows from what the kernel said of both:
//!
//! | write | sync | what follows |
//! |---|---|---|
//! | any | failed | an error of the sync, unless the write failed: nothing after it proves anything |
//! | failed | any | an error of the write |
//! | interrupted, or no memory for it | any | again, a bounded number of times |
//! | nothing of what is left | any | an error of the write: it would go on for ever |
//! | a part | any | the rest, and a sync after it |
//! | everything | cancelled or interrupted | a sync: there was none |
//! | everything | done | durable |

mod ring;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;

use self::ring::{Pair, Refused, Ring, WRITE_BYTES_MAX};
use super::posix::{PosixFile, PosixIo};
use super::{DirectoryState, FileName, Io, IoFile, Mapping, WriteSyncError};
use crate::types::FileNo;

/// How often in a row an operation may end without having done anything.
const IDLE_ROUNDS_MAX: u32 = 1000;

/// A directory of the operating system, whose log is written through io_uring.
///
/// It has one ring, which one flush at a time uses. A child of fork(2) cannot use it.
#[derive(Debug)]
pub struct UringIo {
    posix: PosixIo,
    ring: Arc<Ring>,
}

impl UringIo {
    /// Files below `directory`, which need not exist yet. Tries io_uring out, on a file in memory.
    ///
    /// # Errors
    /// If the kernel is too old for it (5.6 has all that is needed), was told to refuse it
    /// (`kernel.io_uring_disabled`, the system call filters of containers), or is out of resources.
    pub fn new(directory: &Path) -> io::Result<Self> {
        Ok(Self { posix: PosixIo::new(directory), ring: Arc::new(Ring::new()?) })
    }

    fn file(&self, posix: PosixFile) -> Arc<dyn IoFile> {
        Arc::new(UringFile { posix, ring: Arc::clone(&self.ring) })
    }
}

impl Io for UringIo {
    fn describe(&self) -> String {
        self.posix.describe()
    }

    fn backend(&self) -> &'static str {
        "io_uring"
    }

    fn inspect(&self) -> io::Result<DirectoryState> {
        self.posix.inspect()
    }

    fn create_directory(&self) -> io::Result<()> {
        self.posix.create_directory()
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Send + Sync>>> {
        self.posix.lock()
    }

    fn lock_shared(&self) -> io::Result<Option<Box<dyn Send + Sync>>> {
        self.posix.lock_shared()
    }

    fn open(&self, name: FileName) -> io::Result<Arc<dyn IoFile>> {
        Ok(self.file(self.posix.open_file(name)?))
    }

    fn open_read_only(&self, name: FileName) -> io::Result<Arc<dyn IoFile>> {
        self.posix.open_read_only(name)
    }

    fn create(&self, name: FileName) -> io::Result<Arc<dyn IoFile>> {
        Ok(self.file(self.posix.create_file(name)?))
    }

    fn remove(&self, name: FileName) -> io::Result<()> {
        self.posix.remove(name)
    }

    fn list_segments(&self) -> io::Result<Vec<FileNo>> {
        self.posix.list_segments()
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.posix.sync_directory()
    }
}

#[derive(Debug)]
struct UringFile {
    posix: PosixFile,
    ring: Arc<Ring>,
}

impl IoFile for UringFile {
    fn len(&self) -> io::Result<u64> {
        self.posix.len()
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.posix.read_at(offset, bytes)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.posix.write_at(offset, bytes)
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        self.posix.reserve(len)
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.posix.punch_hole(offset, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.posix.sync()
    }

    fn write_and_sync(&self, offset: u64, bytes: &[u8]) -> Result<(), WriteSyncError> {
        write_and_sync(&self.posix, offset, bytes, |offset, bytes| {
            self.ring.write_and_sync(self.posix.as_fd(), offset, bytes)
        })
    }

    #[expect(unsafe_code, reason = "as the trait has it")]
    unsafe fn map(&self, len: u64) -> io::Result<Option<Mapping>> {
        // SAFETY: what the caller says of this file it says of that one.
        unsafe { self.posix.map(len) }
    }
}

/// Writes and syncs through `pair`, which runs one linked pair; through `file` where it takes none.
fn write_and_sync(
    file: &dyn IoFile,
    mut offset: u64,
    mut bytes: &[u8],
    mut pair: impl FnMut(u64, &[u8]) -> Result<Pair, Refused>,
) -> Result<(), WriteSyncError> {
    // The kernel's offsets are signed, and -1 says "where the last write ended".
    let end = offset.checked_add(bytes.len() as u64);
    if end.is_none_or(|end| i64::try_from(end).is_err()) {
        return Err(WriteSyncError::Write(io::ErrorKind::FileTooLarge.into()));
    }
    // What is too long for one operation is written first; the sync covers it all the same.
    if let Some(first) = bytes.len().checked_sub(WRITE_BYTES_MAX).filter(|&first| first > 0) {
        file.write_at(offset, &bytes[..first]).map_err(WriteSyncError::Write)?;
        (offset, bytes) = (offset + first as u64, &bytes[first..]);
    }
    let mut idle_rounds = 0;
    loop {
        let done = match pair(offset, bytes) {
            Ok(done) => done,
            Err(Refused::Forked) => {
                let error = "this process is a fork of the one that opened the store";
                return Err(WriteSyncError::Write(io::Error::other(error)));
            }
            Err(Refused::Kernel(error)) => {
                tracing::warn!(%error, "io_uring took no write: it goes through POSIX calls");
                return file.write_and_sync(offset, bytes);
            }
        };
        match judge(bytes.len(), done)? {
            Verdict::Durable => return Ok(()),
            Verdict::Again { written: 0, error } => {
                idle_rounds += 1;
                if idle_rounds >= IDLE_ROUNDS_MAX {
                    return Err(error);
                }
            }
            Verdict::Again { written, .. } => {
                idle_rounds = 0;
                (offset, bytes) = (offset + written as u64, &bytes[written..]);
            }
        }
    }
}

#[derive(Debug)]
enum Verdict {
    /// Everything was written, and a sync that began after that succeeded.
    Durable,
    /// So many bytes more were written; the rest has to be, and a sync after it.
    Again {
        written: usize,
        /// What it comes to if it goes on like this.
        error: WriteSyncError,
    },
}

/// What follows from a pair that was to write `len` bytes; see the [module](self).
fn judge(len: usize, pair: Pair) -> Result<Verdict, WriteSyncError> {
    let errno = |result: i32| (result < 0).then(|| Errno::from_raw_os_error(-result));
    let written = usize::try_from(pair.write).ok();
    let (write, sync) = (errno(pair.write), errno(pair.sync));
    if let Some(error) = write {
        // A sync that failed here has told its error to nobody else, and must not be run again.
        let has_failed = sync.is_some_and(|sync| !is_nothing(sync));
        let write = WriteSyncError::Write(error.into());
        return if is_nothing(error) && !has_failed {
            Ok(Verdict::Again { written: 0, error: write })
        } else {
            Err(write)
        };
    }
    if let Some(error) = sync.filter(|&error| error != Errno::CANCELED && error != Errno::INTR) {
        return Err(WriteSyncError::Sync(error.into()));
    }
    match written {
        Some(written) if written == len => match sync {
            None => Ok(Verdict::Durable),
            Some(error) => {
                Ok(Verdict::Again { written, error: WriteSyncError::Sync(error.into()) })
            }
        },
        Some(written) if (1..len).contains(&written) => {
            let error = WriteSyncError::Write(io::ErrorKind::WriteZero.into());
            Ok(Verdict::Again { written, error })
        }
        _ => Err(WriteSyncError::Write(io::ErrorKind::WriteZero.into())),
    }
}

/// Whether an operation ended before it had any effect, and not for good.
fn is_nothing(error: Errno) -> bool {
    matches!(error, Errno::INTR | Errno::AGAIN | Errno::CANCELED)
}
