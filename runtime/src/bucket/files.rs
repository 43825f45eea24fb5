//! The store's files, as the engine sees them: local ones, with the journal listening, and with what the
//! local disk does not have fetched from the bucket.
//!
//! Order of a write: 1. the lease is looked at; 2. the local write, and sync; 3. the journal hears of
//! it; 4. the lease is looked at again, and only then the engine is told. If 3 came before 2, a cut
//! could have something that the local disk does not, and that the engine has not yet waited for where
//! it has to. Without 4 a host that was stopped amid 2, for longer than its lease, would acknowledge
//! what another host knows nothing of.
//!
//! Files are not mapped: what is not here could not be fetched when somebody looks at it.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use lapidary_engine::{DirectoryState, FileName, FileNo, Io, IoFile, SegmentId, WriteSyncError};

use super::error::{BucketError, Result};
use super::journal::Journal;
use super::lease::Lease;
use super::local_disk::{LocalDisk, LocalFile};

pub(super) type LockGuard = Box<dyn Send + Sync>;

/// Creates a directory if need be, and takes its lock.
pub(super) fn lock_directory(local: &dyn Io) -> Result<LockGuard> {
    let failed = |operation| BucketError::local(local, operation, None);
    local.create_directory().map_err(failed("create"))?;
    let lock = local.lock().map_err(failed("lock"))?;
    Ok(lock.ok_or_else(|| lapidary_engine::Error::Locked { path: local.describe() })?)
}

#[derive(Debug)]
pub(super) struct BucketIo {
    pub(super) local: Arc<dyn Io>,
    pub(super) journal: Arc<Journal>,
    pub(super) lease: Arc<Lease>,
    pub(super) disk: Arc<LocalDisk>,
    /// The local lock, taken before the bucket was asked for the store; for the engine to take over.
    pub(super) lock: Taken,
}

/// Something to be taken once.
pub(super) struct Taken(pub(super) Mutex<Option<LockGuard>>);

impl std::fmt::Debug for Taken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Taken")
    }
}

impl BucketIo {
    fn wrap(&self, name: FileName, local: Arc<dyn IoFile>) -> Arc<dyn IoFile> {
        let segment = match name {
            FileName::Segment(number) => self.disk.file(number),
            FileName::Superblock | FileName::Bucket => None,
        };
        let (journal, lease) = (Arc::clone(&self.journal), Arc::clone(&self.lease));
        Arc::new(BucketFile { name, local, segment, disk: Arc::clone(&self.disk), journal, lease })
    }
}

impl Io for BucketIo {
    fn describe(&self) -> String {
        self.local.describe()
    }

    fn backend(&self) -> &'static str {
        self.local.backend()
    }

    fn inspect(&self) -> io::Result<DirectoryState> {
        self.local.inspect()
    }

    fn create_directory(&self) -> io::Result<()> {
        self.local.create_directory()
    }

    fn lock(&self) -> io::Result<Option<LockGuard>> {
        match self.lock.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(lock) => Ok(Some(lock)),
            None => self.local.lock(),
        }
    }

    fn open(&self, name: FileName) -> io::Result<Arc<dyn IoFile>> {
        Ok(self.wrap(name, self.local.open(name)?))
    }

    fn open_read_only(&self, name: FileName) -> io::Result<Arc<dyn IoFile>> {
        self.open(name)
    }

    fn create(&self, name: FileName) -> io::Result<Arc<dyn IoFile>> {
        self.lease.check_io()?;
        let local = self.disk.with_room(0, || self.local.create(name))?;
        match name {
            FileName::Superblock => self.journal.create_superblock(),
            FileName::Segment(number) => {
                self.disk.create(number);
                self.journal.create(number);
            }
            FileName::Bucket => {}
        }
        Ok(self.wrap(name, local))
    }

    fn remove(&self, name: FileName) -> io::Result<()> {
        self.lease.check_io()?;
        self.local.remove(name)?;
        if let FileName::Segment(number) = name {
            self.disk.remove(number);
            self.journal.remove(number);
        }
        Ok(())
    }

    fn list_segments(&self) -> io::Result<Vec<FileNo>> {
        self.local.list_segments()
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.disk.sync_directory()
    }

    fn segments_known_through(&self) -> SegmentId {
        self.disk.noted_through()
    }

    fn will_read(&self, places: &[(FileName, Range<u64>)]) {
        let of_segment = |(name, range): &(FileName, Range<u64>)| match name {
            FileName::Segment(number) => Some((*number, range.clone())),
            FileName::Superblock | FileName::Bucket => None,
        };
        self.disk.prefetch(places.iter().filter_map(of_segment).collect());
    }

    fn is_reserved(&self, name: FileName) -> bool {
        match name {
            FileName::Segment(number) => {
                let is_partial = self.disk.file(number).is_some_and(|file| file.is_partial());
                !is_partial && self.local.is_reserved(name)
            }
            FileName::Superblock | FileName::Bucket => self.local.is_reserved(name),
        }
    }
}

#[derive(Debug)]
struct BucketFile {
    name: FileName,
    local: Arc<dyn IoFile>,
    /// Of a segment: how much of it is here.
    segment: Option<Arc<LocalFile>>,
    disk: Arc<LocalDisk>,
    journal: Arc<Journal>,
    lease: Arc<Lease>,
}

impl BucketFile {
    /// Step 1.
    fn begin(&self, offset: u64, bytes: usize) -> io::Result<()> {
        if let Some(segment) = &self.segment {
            if segment.is_partial() {
                let path = format!("{}/{}", self.disk.describe(), self.name);
                let what = format!("{path}: a segment that the bucket has is not written any more");
                return Err(io::Error::other(what));
            }
            self.disk.grow(segment, offset + bytes as u64);
        }
        match self.name {
            FileName::Segment(_) => {
                self.journal.wait_for_room(bytes, &self.lease).map_err(io::Error::other)
            }
            // It frees space, also here.
            FileName::Superblock | FileName::Bucket => self.lease.check_io(),
        }
    }

    /// Step 3.
    fn tell(&self, offset: u64, bytes: &[u8]) {
        match self.name {
            FileName::Segment(number) => self.journal.write(number, offset, bytes),
            FileName::Superblock => self.journal.write_superblock(offset, bytes),
            FileName::Bucket => {}
        }
    }
}

impl IoFile for BucketFile {
    fn len(&self) -> io::Result<u64> {
        self.local.len()
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        match &self.segment {
            Some(segment) => self.disk.read(segment, &*self.local, offset, bytes),
            None => self.local.read_at(offset, bytes),
        }
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.begin(offset, bytes.len())?;
        self.disk.with_room(bytes.len() as u64, || self.local.write_at(offset, bytes))?;
        self.tell(offset, bytes);
        Ok(())
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        if let Some(segment) = &self.segment {
            self.disk.grow(segment, len);
        }
        self.disk.with_room(len, || self.local.reserve(len))?;
        if let FileName::Segment(number) = self.name {
            self.journal.lengthen(number, len);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.local.sync()?;
        self.lease.check_io()
    }

    fn write_and_sync(&self, offset: u64, bytes: &[u8]) -> Result<(), WriteSyncError> {
        self.begin(offset, bytes.len()).map_err(WriteSyncError::Write)?;
        self.local.write_and_sync(offset, bytes)?;
        self.tell(offset, bytes);
        self.lease.check_io().map_err(WriteSyncError::Sync)
    }
}
