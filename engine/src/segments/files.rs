//! Segment files: opening, reading, writing, filling.

use std::sync::{Arc, PoisonError};

use rustc_hash::FxHashMap;

use super::SegmentFile;
use super::forward::Forwards;
use crate::error::{Error, Result};
use crate::format::{BLOCK_BYTES, Identity, Malformed, StoredRef};
use crate::io::{FileName, Io};
use crate::sync::RwLock;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::types::{FileNo, SegmentId};

/// Something that is not what its reference says.
#[derive(Clone, Debug)]
pub(crate) struct Damage {
    /// Where it is.
    pub(crate) place: Identity,
    pub(crate) path: String,
    pub(crate) malformed: Malformed,
}

/// Bytes that are read without a look at the length of their file: more than any page has.
const UNASKED_BYTES_MAX: u32 = 128 << 10;

/// How a segment file gets its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Make {
    /// Written through with zeros: later syncs are as quick as they can be.
    Filled,
    /// Allocated: quick to make, while syncs may also have to write the file system's notes of it.
    Reserved,
}

#[derive(Debug)]
struct Open {
    file: SegmentFile,
    used: AtomicU64,
}

/// The store's segment files, a bounded number of them open, and where in them things are.
#[derive(Debug)]
pub(crate) struct SegmentFiles {
    io: Arc<dyn Io>,
    open: RwLock<FxHashMap<FileNo, Open>>,
    open_max: usize,
    places: RwLock<Places>,
    /// Counts uses, to find the file used longest ago.
    clock: AtomicU64,
    filled_bytes: AtomicU64,
}

/// Which file a segment is in, and what was moved elsewhere.
#[derive(Debug, Default)]
struct Places {
    segments: FxHashMap<SegmentId, FileNo>,
    forwards: Forwards,
}

impl SegmentFiles {
    pub(crate) fn new(io: Arc<dyn Io>, open_max: usize) -> Self {
        Self {
            io,
            open: RwLock::default(),
            open_max: open_max.max(2),
            places: RwLock::default(),
            clock: AtomicU64::new(0),
            filled_bytes: AtomicU64::new(0),
        }
    }

    pub(crate) fn describe(&self) -> String {
        self.io.describe()
    }

    /// Path of a segment's file, for messages.
    pub(crate) fn path(&self, segment: SegmentId) -> String {
        let file = self
            .places
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .segments
            .get(&segment)
            .copied();
        match file {
            Some(file) => self.path_of(file),
            None => format!("{}/segments (segment {segment})", self.describe()),
        }
    }

    pub(crate) fn path_of(&self, file: FileNo) -> String {
        format!("{}/{}", self.describe(), FileName::Segment(file))
    }

    /// See [`Io::is_reserved`].
    pub(crate) fn is_reserved(&self, file: FileNo) -> bool {
        self.io.is_reserved(FileName::Segment(file))
    }

    /// Bytes written to fill segments since the store was opened.
    pub(crate) fn filled_bytes(&self) -> u64 {
        self.filled_bytes.load(Ordering::Relaxed)
    }

    /// `segment` is in `file` from now on.
    pub(crate) fn set_file(&self, segment: SegmentId, file: FileNo) {
        self.places_mut().segments.insert(segment, file);
    }

    /// The segment is no more, and nothing leads to it.
    pub(crate) fn forget(&self, segment: SegmentId) {
        let mut places = self.places_mut();
        places.segments.remove(&segment);
        places.forwards.forget_target(segment);
    }

    fn places_mut(&self) -> crate::sync::RwLockWriteGuard<'_, Places> {
        self.places.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes where things were moved to.
    pub(crate) fn with_forwards<T>(&self, with: impl FnOnce(&mut Forwards) -> T) -> T {
        with(&mut self.places_mut().forwards)
    }

    /// Where something is now.
    pub(crate) fn place(&self, identity: Identity) -> Identity {
        self.places.read().unwrap_or_else(PoisonError::into_inner).forwards.place(identity)
    }

    /// The file that holds a segment; 0 if none does.
    pub(crate) fn number(&self, segment: SegmentId) -> FileNo {
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        places.segments.get(&segment).copied().unwrap_or_default()
    }

    fn file_of(&self, segment: SegmentId) -> Result<FileNo> {
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        places.segments.get(&segment).copied().ok_or_else(|| Error::Io {
            operation: "find",
            path: format!("{}/segments (segment {segment})", self.describe()),
            offset: None,
            source: std::io::Error::new(std::io::ErrorKind::NotFound, "no file holds this segment"),
        })
    }

    /// The open file of a segment.
    pub(crate) fn get(&self, segment: SegmentId) -> Result<SegmentFile> {
        self.get_file(self.file_of(segment)?)
    }

    fn get_file(&self, number: FileNo) -> Result<SegmentFile> {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        if let Some(open) = self.open.read().unwrap_or_else(PoisonError::into_inner).get(&number) {
            open.used.store(now, Ordering::Relaxed);
            return Ok(Arc::clone(&open.file));
        }
        let file = self
            .io
            .open(FileName::Segment(number))
            .map_err(|source| self.error(number, "open", None, source))?;
        self.keep(number, Arc::clone(&file), now);
        Ok(file)
    }

    fn error(
        &self,
        file: FileNo,
        operation: &'static str,
        offset: Option<u64>,
        source: std::io::Error,
    ) -> Error {
        Error::Io { operation, path: self.path_of(file), offset, source }
    }

    fn keep(&self, number: FileNo, file: SegmentFile, now: u64) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= self.open_max {
            let oldest = open
                .iter()
                .min_by_key(|(_, file)| file.used.load(Ordering::Relaxed))
                .map(|(&number, _)| number);
            // Whoever reads the file now has its own handle to it.
            oldest.map(|number| open.remove(&number));
        }
        open.insert(number, Open { file, used: AtomicU64::new(now) });
    }

    /// Reads what `reference` leads to, and has it checked by `decode`. What was read while the
    /// cleaner moved it, and its old place was used for something else, is read again.
    pub(crate) fn read_checked<T>(
        &self,
        reference: StoredRef,
        buffer: &mut Vec<u8>,
        mut decode: impl FnMut(&[u8]) -> Result<T, Malformed>,
    ) -> Result<Result<T, Damage>> {
        loop {
            let before = self.place(reference.identity());
            let read = self.check_length(before, reference.len).and_then(|()| {
                buffer.resize(reference.len as usize, 0);
                self.read_at(before.segment, before.offset(), buffer)
            });
            let malformed = match read.map(|()| decode(buffer)) {
                Ok(Ok(value)) => return Ok(Ok(value)),
                Ok(Err(malformed)) => Ok(malformed),
                Err(error) => Err(error),
            };
            if self.place(reference.identity()) == before {
                return malformed.map(|malformed| {
                    Err(Damage { place: before, path: self.path(before.segment), malformed })
                });
            }
        }
    }

    /// Fails, as a read would, if so much cannot be there: before memory is taken for it. What is no
    /// longer than a page may be read without asking.
    fn check_length(&self, place: Identity, bytes: u32) -> Result<()> {
        if bytes <= UNASKED_BYTES_MAX {
            return Ok(());
        }
        let file = self.file_of(place.segment)?;
        let error = |source| self.error(file, "read", Some(place.offset()), source);
        let file_bytes = self.get_file(file)?.len().map_err(error)?;
        let is_there = place.offset() + u64::from(bytes) <= file_bytes;
        if is_there { Ok(()) } else { Err(error(std::io::ErrorKind::UnexpectedEof.into())) }
    }

    /// Fills `bytes` from `offset` of a segment.
    pub(crate) fn read_at(&self, segment: SegmentId, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let file = self.file_of(segment)?;
        self.get_file(file)?
            .read_at(offset, bytes)
            .map_err(|source| self.error(file, "read", Some(offset), source))
    }

    /// Says that all of these are about to be read.
    pub(crate) fn will_read(&self, references: impl Iterator<Item = StoredRef>) {
        let place = |reference: StoredRef| {
            let place = self.place(reference.identity());
            let file = self.file_of(place.segment).ok()?;
            let range = place.offset()..place.offset() + u64::from(reference.len);
            Some((FileName::Segment(file), range))
        };
        self.io.will_read(&references.filter_map(place).collect::<Vec<_>>());
    }

    /// The same of bytes of files.
    pub(crate) fn will_read_files(&self, places: &[(FileName, std::ops::Range<u64>)]) {
        self.io.will_read(places);
    }

    /// Fills `bytes` from `offset` of a file, whatever it holds.
    pub(crate) fn read_file_at(&self, file: FileNo, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.get_file(file)?
            .read_at(offset, bytes)
            .map_err(|source| self.error(file, "read", Some(offset), source))
    }

    /// Creates a segment file of zeros whose blocks are allocated, and syncs it and its name.
    pub(crate) fn make(&self, number: FileNo, size: u32, how: Make) -> Result<()> {
        let name = FileName::Segment(number);
        let error = |operation, offset, source| self.error(number, operation, offset, source);
        let file = self.io.create(name).map_err(|source| error("create", None, source))?;
        let size = u64::from(size);
        match how {
            Make::Filled => {
                crate::io::fill(&*file, size).map_err(|source| error("fill", None, source))?;
                self.filled_bytes.fetch_add(size, Ordering::Relaxed);
            }
            Make::Reserved => {
                file.reserve(size).map_err(|source| error("reserve space for", None, source))?;
            }
        }
        file.sync().map_err(|source| error("sync", None, source))?;
        self.io.sync_directory().map_err(|source| error("sync directory of", None, source))?;
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        self.keep(number, file, now);
        Ok(())
    }

    /// Makes the length of a file durable that has `size` bytes, none of which are needed. After a
    /// failed sync the kernel may take the length for written though the disk does not have it, and then
    /// another sync writes nothing: so the last block is written again.
    pub(crate) fn confirm_length(&self, file: FileNo, size: u32) -> Result<()> {
        let at = u64::from(size) - BLOCK_BYTES as u64;
        let open = self.get_file(file)?;
        open.write_at(at, &[0; BLOCK_BYTES])
            .map_err(|source| self.error(file, "write", Some(at), source))?;
        open.sync().map_err(|source| self.error(file, "sync", None, source))
    }

    /// Removes a segment file.
    pub(crate) fn remove(&self, file: FileNo) -> Result<()> {
        self.open.write().unwrap_or_else(PoisonError::into_inner).remove(&file);
        self.io
            .remove(FileName::Segment(file))
            .map_err(|source| self.error(file, "remove", None, source))
    }
}
