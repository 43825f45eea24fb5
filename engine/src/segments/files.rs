//! Segment files: opening, reading, writing, filling.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rustc_hash::FxHashMap;

use super::{SegmentFile, io_error};
use crate::error::Result;
use crate::format::StoredRef;
use crate::io::{FileName, Io};
use crate::types::SegmentId;

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

/// The store's segment files, a bounded number of them open.
#[derive(Debug)]
pub(crate) struct SegmentFiles {
    io: Arc<dyn Io>,
    open: RwLock<FxHashMap<SegmentId, Open>>,
    open_max: usize,
    /// Counts uses, to find the file used longest ago.
    clock: AtomicU64,
    filled_bytes: AtomicU64,
}

impl SegmentFiles {
    pub(crate) fn new(io: Arc<dyn Io>, open_max: usize) -> Self {
        Self {
            io,
            open: RwLock::default(),
            open_max: open_max.max(2),
            clock: AtomicU64::new(0),
            filled_bytes: AtomicU64::new(0),
        }
    }

    pub(crate) fn describe(&self) -> String {
        self.io.describe()
    }

    /// Bytes written to fill segments since the store was opened.
    pub(crate) fn filled_bytes(&self) -> u64 {
        self.filled_bytes.load(Ordering::Relaxed)
    }

    /// The open file of a segment.
    pub(crate) fn get(&self, segment: SegmentId) -> Result<SegmentFile> {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        if let Some(open) = self.open.read().unwrap_or_else(PoisonError::into_inner).get(&segment) {
            open.used.store(now, Ordering::Relaxed);
            return Ok(Arc::clone(&open.file));
        }
        let file = self
            .io
            .open(FileName::Segment(segment))
            .map_err(|source| io_error(self, "open", segment, None, source))?;
        self.keep(segment, Arc::clone(&file), now);
        Ok(file)
    }

    fn keep(&self, segment: SegmentId, file: SegmentFile, now: u64) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= self.open_max {
            let oldest = open
                .iter()
                .min_by_key(|(_, file)| file.used.load(Ordering::Relaxed))
                .map(|(&s, _)| s);
            // Whoever reads the file now has its own handle to it.
            oldest.map(|segment| open.remove(&segment));
        }
        open.insert(segment, Open { file, used: AtomicU64::new(now) });
    }

    /// Reads what `reference` covers.
    pub(crate) fn read(&self, reference: StoredRef, into: &mut Vec<u8>) -> Result<()> {
        into.resize(reference.len as usize, 0);
        self.read_at(reference.segment, reference.offset(), into)
    }

    /// Fills `bytes` from `offset` of a segment.
    pub(crate) fn read_at(&self, segment: SegmentId, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.get(segment)?
            .read_at(offset, bytes)
            .map_err(|source| io_error(self, "read", segment, Some(offset), source))
    }

    /// Creates a segment file of zeros whose blocks are allocated, and syncs it and its name.
    pub(crate) fn make(&self, segment: SegmentId, size: u32, how: Make) -> Result<()> {
        let name = FileName::Segment(segment);
        let error = |operation, offset, source| io_error(self, operation, segment, offset, source);
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
        self.keep(segment, file, now);
        Ok(())
    }

    /// Makes what was written to a segment durable.
    pub(crate) fn sync(&self, segment: SegmentId) -> Result<()> {
        self.get(segment)?.sync().map_err(|source| io_error(self, "sync", segment, None, source))
    }

    /// Removes a segment file.
    pub(crate) fn remove(&self, segment: SegmentId) -> Result<()> {
        self.open.write().unwrap_or_else(PoisonError::into_inner).remove(&segment);
        self.io
            .remove(FileName::Segment(segment))
            .map_err(|source| io_error(self, "remove", segment, None, source))
    }
}
