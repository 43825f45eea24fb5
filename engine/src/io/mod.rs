//! Files of a store, behind one thin trait.
//!
//! The engine knows three files: `LOCK`, `SUPERBLOCK` and the numbered segments. Everything it does
//! to them is in [`Io`] and [`IoFile`], so that the operating system, memory and a simulated disk
//! are interchangeable. A fourth, `BUCKET`, belongs to whoever keeps the store elsewhere as well;
//! the engine never opens it.

mod mapping;
mod memory;
mod overlay;
mod posix;
mod uring;

use std::fmt::{self, Debug};
use std::io;
use std::ops::Range;
use std::sync::Arc;

pub use mapping::Mapping;
pub use memory::MemoryIo;
pub use overlay::OverlayIo;
pub use posix::PosixIo;
pub use uring::UringIo;

use crate::types::{FileNo, SegmentId};

/// A file of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileName {
    /// The superblock's two slots.
    Superblock,
    /// A segment.
    Segment(FileNo),
    /// Notes of who keeps the store elsewhere as well. The engine leaves it alone.
    Bucket,
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Superblock => f.write_str("SUPERBLOCK"),
            Self::Segment(id) => write!(f, "segments/{:08}.seg", id.0),
            Self::Bucket => f.write_str("BUCKET"),
        }
    }
}

/// What a store's directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectoryState {
    /// No directory, or one with nothing in it.
    Empty,
    /// A superblock is there.
    Store,
    /// Neither: somebody else's files.
    Foreign,
}

/// A store's directory.
///
/// Durability: a write is durable after a following [`IoFile::sync`] of the same file returned
/// without error; a created file's name after [`Io::sync_directory`] did. After an error of `sync`
/// nothing may be assumed about what was written since the last good one.
pub trait Io: Send + Sync + Debug {
    /// The directory, for messages.
    fn describe(&self) -> String;

    /// What does the work: `posix`, `io_uring`, `memory`, `overlay`, or `custom` for files of others.
    fn backend(&self) -> &'static str {
        "custom"
    }

    /// What is in the directory.
    ///
    /// # Errors
    /// As the operating system has them; `NotADirectory` if the path is a file.
    fn inspect(&self) -> io::Result<DirectoryState>;

    /// Creates the directory and its parts, if they are not there.
    ///
    /// # Errors
    /// As the operating system has them.
    fn create_directory(&self) -> io::Result<()>;

    /// Takes the store's lock; it is held until the guard is dropped or the process ends. `None` if
    /// another holds it.
    ///
    /// # Errors
    /// As the operating system has them.
    fn lock(&self) -> io::Result<Option<Box<dyn Send + Sync>>>;

    /// Takes the store's lock for reading, changing nothing: others may have it for reading too, and
    /// nobody otherwise. `None` if somebody has. Where a store that was never locked cannot be
    /// locked without a change, there is nothing to take. Unless there is a weaker lock, it is
    /// [`lock`](Self::lock).
    ///
    /// # Errors
    /// As the operating system has them.
    fn lock_shared(&self) -> io::Result<Option<Box<dyn Send + Sync>>> {
        self.lock()
    }

    /// Opens a file that exists, for reading and writing.
    ///
    /// # Errors
    /// `NotFound`, or as the operating system has them.
    fn open(&self, name: FileName) -> io::Result<Arc<dyn IoFile>>;

    /// Opens a file that exists, for reading: writing to it may fail. Unless there is a difference,
    /// it is [`open`](Self::open).
    ///
    /// # Errors
    /// As [`open`](Self::open) has them.
    fn open_read_only(&self, name: FileName) -> io::Result<Arc<dyn IoFile>> {
        self.open(name)
    }

    /// Creates a file of no bytes; one that is there is emptied.
    ///
    /// # Errors
    /// As the operating system has them.
    fn create(&self, name: FileName) -> io::Result<Arc<dyn IoFile>>;

    /// Removes a file.
    ///
    /// # Errors
    /// As the operating system has them.
    fn remove(&self, name: FileName) -> io::Result<()>;

    /// The segments there are, in any order.
    ///
    /// # Errors
    /// As the operating system has them.
    fn list_segments(&self) -> io::Result<Vec<FileNo>>;

    /// Makes created and removed names durable.
    ///
    /// # Errors
    /// As the operating system has them.
    fn sync_directory(&self) -> io::Result<()>;

    /// Numbers of segments up to this one mean something to whoever keeps the files, and are not given to new
    /// segments, also if no file and no checkpoint has them.
    fn segments_known_through(&self) -> SegmentId {
        SegmentId(0)
    }

    /// Says that these bytes are about to be read. Where they have to be fetched, that can be done at once
    /// and not one after the other; whoever reads them is told what went wrong with it. Unless there is
    /// something to be won, nothing is done.
    fn will_read(&self, places: &[(FileName, Range<u64>)]) {
        let _ = places;
    }

    /// Whether all blocks of a file are allocated, so that writing into it cannot fail for lack of
    /// space. A segment that is not, and in which nothing is live any more, is removed and not used
    /// again. Files that the engine made are; unless there are others, so is every file.
    fn is_reserved(&self, name: FileName) -> bool {
        let _ = name;
        true
    }
}

/// Why [`IoFile::write_and_sync`] failed: the half that did, and what the operating system said.
#[derive(Debug, thiserror::Error)]
pub enum WriteSyncError {
    /// Not everything was written. Nothing may be assumed about what was.
    #[error("write: {0}")]
    Write(#[source] io::Error),
    /// Everything was written, and may or may not be durable.
    #[error("sync: {0}")]
    Sync(#[source] io::Error),
}

impl WriteSyncError {
    /// The operation that failed, `write` or `sync`, and its error.
    #[must_use]
    pub fn into_parts(self) -> (&'static str, io::Error) {
        match self {
            Self::Write(error) => ("write", error),
            Self::Sync(error) => ("sync", error),
        }
    }
}

/// Writes `len` bytes of zeros from the start of a file.
pub(crate) fn fill(file: &(impl IoFile + ?Sized), len: u64) -> io::Result<()> {
    static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
    let mut offset = 0;
    while offset < len {
        let piece = usize::try_from(len - offset).unwrap_or(ZEROS.len()).min(ZEROS.len());
        file.write_at(offset, &ZEROS[..piece])?;
        offset += piece as u64;
    }
    Ok(())
}

/// An open file. Offsets and lengths are in bytes.
#[expect(clippy::len_without_is_empty, reason = "nobody asks a file whether it is empty")]
pub trait IoFile: Send + Sync + Debug {
    /// Bytes in the file.
    ///
    /// # Errors
    /// As the operating system has them.
    fn len(&self) -> io::Result<u64>;

    /// Fills `bytes` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before; or as the operating system has them.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`, lengthening the file as needed.
    ///
    /// # Errors
    /// As the operating system has them; an unknown part may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes the file `len` bytes of zeros, with space allocated for all of them, so that writing
    /// there cannot fail for lack of it. The file is empty before. Unless there is a quicker way,
    /// they are written.
    ///
    /// # Errors
    /// As the operating system has them; `StorageFull` if there is no space.
    fn reserve(&self, len: u64) -> io::Result<()> {
        fill(self, len)
    }

    /// Gives the blocks of `len` bytes from `offset` back to the file system: they read as zeros from now
    /// on, and the file keeps its length. Both are multiples of 4096, but for a range that ends where the
    /// file does. What a crash leaves of it is the caller's care: it is durable after a
    /// [`sync`](Self::sync) only.
    ///
    /// # Errors
    /// `Unsupported` where there is no such thing, which is the default; or as the operating system has
    /// them: an unknown part may have been given back.
    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        let _ = (offset, len);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Makes all writes to this file durable.
    ///
    /// # Errors
    /// As the operating system has them; what was written since the last good sync is then lost or
    /// not, nobody knows, and a second try proves nothing.
    fn sync(&self) -> io::Result<()>;

    /// Writes all of `bytes` at `offset` and then makes all writes to this file durable: what
    /// [`write_at`](Self::write_at) followed by [`sync`](Self::sync) does, and unless there is a
    /// quicker way, just these two.
    ///
    /// # Errors
    /// As the two have them.
    fn write_and_sync(&self, offset: u64, bytes: &[u8]) -> Result<(), WriteSyncError> {
        self.write_at(offset, bytes).map_err(WriteSyncError::Write)?;
        self.sync().map_err(WriteSyncError::Sync)
    }

    /// The first `len` bytes as memory, for reading in place; `None` where there is no such thing,
    /// which is the default.
    ///
    /// # Safety
    /// While the mapping exists nobody changes these bytes or shortens the file.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file is shorter; or as the operating system has them.
    #[expect(unsafe_code, reason = "what becomes of a mapped file is up to the caller")]
    unsafe fn map(&self, len: u64) -> io::Result<Option<Mapping>> {
        let _ = len;
        Ok(None)
    }
}
