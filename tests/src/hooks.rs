//! A simulated disk that calls the test at a moment of its choice: before the next write or sync of
//! a kind, so that a fault hits that one, or something else happens just then.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use lapidary_engine::{DirectoryState, FileName, FileNo, Io, IoFile};

use crate::sim_disk::SimDisk;

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// A write to a segment, but not one that fills a new one with zeros.
    SegmentWrite,
    /// A sync of a segment.
    SegmentSync,
    /// A write to the superblock.
    SuperblockWrite,
    /// A sync of the superblock.
    SuperblockSync,
    /// A new file.
    Create,
}

type Hook = Box<dyn FnOnce(&HookedDisk) + Send>;

/// A [`SimDisk`] with a hook. Clones share both.
#[derive(Clone)]
pub struct HookedDisk {
    /// The disk.
    pub disk: SimDisk,
    hook: Arc<Mutex<Option<(Moment, Hook)>>>,
}

impl fmt::Debug for HookedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HookedDisk").finish_non_exhaustive()
    }
}

impl HookedDisk {
    /// A disk without a hook.
    #[must_use]
    pub fn new(disk: SimDisk) -> Self {
        Self { disk, hook: Arc::default() }
    }

    /// Calls `hook` right before the next operation of that kind, once.
    pub fn before(&self, moment: Moment, hook: impl FnOnce(&HookedDisk) + Send + 'static) {
        *self.slot() = Some((moment, Box::new(hook)));
    }

    /// Whether the hook still waits for its moment.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.slot().is_some()
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<(Moment, Hook)>> {
        self.hook.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reach(&self, moment: Moment) {
        let hook = self.slot().take_if(|(awaited, _)| *awaited == moment);
        // Not under the lock: what it does may come by here again, or panic.
        if let Some((_, hook)) = hook {
            hook(self);
        }
    }

    fn wrap(&self, name: FileName, file: Arc<dyn IoFile>) -> Arc<dyn IoFile> {
        Arc::new(HookedFile { disk: self.clone(), name, file })
    }
}

impl Io for HookedDisk {
    fn describe(&self) -> String {
        self.disk.describe()
    }

    fn inspect(&self) -> io::Result<DirectoryState> {
        self.disk.inspect()
    }

    fn create_directory(&self) -> io::Result<()> {
        self.disk.create_directory()
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Send + Sync>>> {
        self.disk.lock()
    }

    fn open(&self, name: FileName) -> io::Result<Arc<dyn IoFile>> {
        Ok(self.wrap(name, self.disk.open(name)?))
    }

    fn create(&self, name: FileName) -> io::Result<Arc<dyn IoFile>> {
        self.reach(Moment::Create);
        Ok(self.wrap(name, self.disk.create(name)?))
    }

    fn remove(&self, name: FileName) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn list_segments(&self) -> io::Result<Vec<FileNo>> {
        self.disk.list_segments()
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.disk.sync_directory()
    }
}

#[derive(Debug)]
struct HookedFile {
    disk: HookedDisk,
    name: FileName,
    file: Arc<dyn IoFile>,
}

impl IoFile for HookedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, bytes)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match self.name {
            FileName::Superblock => self.disk.reach(Moment::SuperblockWrite),
            FileName::Segment(_) => self.disk.reach(Moment::SegmentWrite),
            FileName::Bucket => {}
        }
        self.file.write_at(offset, bytes)
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.punch_hole(offset, len)
    }

    // Not by way of `write_at`: filling is not what the hooks are about.
    fn reserve(&self, len: u64) -> io::Result<()> {
        self.file.reserve(len)
    }

    fn sync(&self) -> io::Result<()> {
        match self.name {
            FileName::Superblock => self.disk.reach(Moment::SuperblockSync),
            FileName::Segment(_) => self.disk.reach(Moment::SegmentSync),
            FileName::Bucket => {}
        }
        self.file.sync()
    }
}
