//! Disks, one of which fails on demand, and short forms of what the tests do all the time.
//!
//! The same tests run on every kind of files: `on_posix.rs` and `on_uring.rs` include the others.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, Once};
use std::time::{Duration, Instant};

use lapidary_engine::{
    Background, DirectoryState, Environment, Facet, FacetName, FileName, FileNo, FormatParams, Io,
    IoFile, MemoryIo, PageNo, PageSize, PosixIo, Result, Store, StoreOptions, Tunables, UringIo,
    View, WriteSyncError,
};
use tempfile::TempDir;

/// How long a test waits for another thread before it fails.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a power loss leaves whole.
const SECTOR_BYTES: usize = 512;
/// A segment's header is its first block, a slot of the superblock is one.
pub(crate) const BLOCK_BYTES: usize = 4096;

/// What all files of a store hold.
pub(crate) type Image = BTreeMap<FileName, Vec<u8>>;

/// A directory on files of the kind that the test's binary is named for, in memory if for none.
/// Clones share it, so that a store can be closed and opened again.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    io: Arc<dyn Io>,
}

thread_local! {
    /// The directories of a test's disks: they are removed when its thread ends.
    static DIRECTORIES: RefCell<Vec<TempDir>> = const { RefCell::new(Vec::new()) };
}

impl Default for Disk {
    fn default() -> Self {
        let files: fn(&TempDir) -> Arc<dyn Io> = match env!("CARGO_CRATE_NAME") {
            "on_posix" => |directory| Arc::new(PosixIo::new(directory.path())),
            "on_uring" => uring_or_note,
            _ => return Self { io: Arc::new(MemoryIo::new()) },
        };
        let directory = tempfile::tempdir().unwrap();
        let io = files(&directory);
        io.create_directory().unwrap();
        DIRECTORIES.with_borrow_mut(|directories| directories.push(directory));
        Self { io }
    }
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn io(&self) -> Arc<dyn Io> {
        Arc::clone(&self.io)
    }
}

/// Where the kernel refuses io_uring, the tests of it run on POSIX files, and say so.
fn uring_or_note(directory: &TempDir) -> Arc<dyn Io> {
    static NOTED: Once = Once::new();
    match UringIo::new(directory.path()) {
        Ok(uring) => Arc::new(uring),
        Err(error) => {
            NOTED.call_once(|| {
                // Past the capture of what tests print: who reads the results has to know.
                let note = format!("\nnote: no io_uring here ({error}): tested on POSIX files\n");
                let _ = io::stderr().write_all(note.as_bytes());
            });
            Arc::new(PosixIo::new(directory.path()))
        }
    }
}

/// A disk that fails on demand. Clones share it, so that a store can be closed and opened again.
///
/// Fault model: space can run out, writes of the superblock can be torn, reads can take as long as
/// the test likes. What a power loss takes is up to the test, which puts another disk together from
/// [images](Self::image).
#[derive(Clone, Debug, Default)]
pub(crate) struct FaultyIo {
    files: Disk,
    faults: Arc<Faults>,
}

#[derive(Debug, Default)]
struct Faults {
    /// Bytes that files can still grow by; `None`: as many as they like.
    free_bytes: Mutex<Option<u64>>,
    superblock_tears: AtomicBool,
    gate: Gate,
}

impl FaultyIo {
    /// A disk that holds `image`.
    pub(crate) fn holding(image: &Image) -> Self {
        let disk = Self::default();
        for (&name, content) in image {
            disk.files.io.create(name).unwrap().write_at(0, content).unwrap();
        }
        disk
    }

    /// What was written, whether or not it was synced: what a process that is killed leaves.
    pub(crate) fn image(&self) -> Image {
        let segments = self.files.io.list_segments().unwrap();
        let names = segments.into_iter().map(FileName::Segment).chain([FileName::Superblock]);
        names
            .map(|name| {
                let file = self.files.io.open(name).unwrap();
                let mut content = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
                file.read_at(0, &mut content).unwrap();
                (name, content)
            })
            .collect()
    }

    /// Lets files grow by `free_bytes` more, and by what is removed from now on.
    pub(crate) fn leave_free(&self, free_bytes: u64) {
        *self.faults.free_bytes.lock().unwrap() = Some(free_bytes);
    }

    /// Lets files grow as they like again.
    pub(crate) fn leave_all_free(&self) {
        *self.faults.free_bytes.lock().unwrap() = None;
    }

    /// From now on, a write to the superblock fails after its first sector.
    pub(crate) fn tear_superblock(&self) {
        self.faults.superblock_tears.store(true, Ordering::Release);
    }

    /// Holds every read of a segment until what is returned is dropped.
    pub(crate) fn hold_reads(&self) -> HeldReads {
        self.faults.gate.state.lock().unwrap().is_closed = true;
        HeldReads { faults: Arc::clone(&self.faults) }
    }

    fn grow(&self, bytes: u64) -> io::Result<()> {
        if let Some(free) = &mut *self.faults.free_bytes.lock().unwrap() {
            *free = free.checked_sub(bytes).ok_or(io::ErrorKind::StorageFull)?;
        }
        Ok(())
    }

    fn file(&self, name: FileName, file: Arc<dyn IoFile>) -> Arc<dyn IoFile> {
        Arc::new(FaultyFile { disk: self.clone(), name, file })
    }
}

impl Io for FaultyIo {
    fn describe(&self) -> String {
        "(faulty)".to_owned()
    }

    fn inspect(&self) -> io::Result<DirectoryState> {
        self.files.io.inspect()
    }

    fn create_directory(&self) -> io::Result<()> {
        self.files.io.create_directory()
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Send + Sync>>> {
        self.files.io.lock()
    }

    fn open(&self, name: FileName) -> io::Result<Arc<dyn IoFile>> {
        Ok(self.file(name, self.files.io.open(name)?))
    }

    fn create(&self, name: FileName) -> io::Result<Arc<dyn IoFile>> {
        Ok(self.file(name, self.files.io.create(name)?))
    }

    fn remove(&self, name: FileName) -> io::Result<()> {
        let freed = self.files.io.open(name)?.len()?;
        self.files.io.remove(name)?;
        if let Some(free) = &mut *self.faults.free_bytes.lock().unwrap() {
            *free += freed;
        }
        Ok(())
    }

    fn list_segments(&self) -> io::Result<Vec<FileNo>> {
        self.files.io.list_segments()
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.files.io.sync_directory()
    }
}

#[derive(Debug)]
struct FaultyFile {
    disk: FaultyIo,
    name: FileName,
    file: Arc<dyn IoFile>,
}

impl IoFile for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        if self.name != FileName::Superblock {
            self.disk.faults.gate.pass();
        }
        self.file.read_at(offset, bytes)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let is_superblock = self.name == FileName::Superblock;
        if is_superblock && self.disk.faults.superblock_tears.load(Ordering::Acquire) {
            self.file.write_at(offset, &bytes[..SECTOR_BYTES.min(bytes.len())])?;
            return Err(io::Error::other("the power went out"));
        }
        let growth = (offset + bytes.len() as u64).saturating_sub(self.file.len()?);
        self.disk.grow(growth)?;
        self.file.write_at(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    // As the two above, in a way that leaves it to the files below how to do it.
    fn write_and_sync(&self, offset: u64, bytes: &[u8]) -> std::result::Result<(), WriteSyncError> {
        if self.name == FileName::Superblock {
            self.write_at(offset, bytes).map_err(WriteSyncError::Write)?;
            return self.sync().map_err(WriteSyncError::Sync);
        }
        let len = self.file.len().map_err(WriteSyncError::Write)?;
        let growth = (offset + bytes.len() as u64).saturating_sub(len);
        self.disk.grow(growth).map_err(WriteSyncError::Write)?;
        self.file.write_and_sync(offset, bytes)
    }
}

#[derive(Debug, Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    is_closed: bool,
    waiting: u32,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.waiting += 1;
        self.changed.notify_all();
        state = self.changed.wait_while(state, |state| state.is_closed).unwrap();
        state.waiting -= 1;
    }
}

/// See [`FaultyIo::hold_reads`].
#[derive(Debug)]
pub(crate) struct HeldReads {
    faults: Arc<Faults>,
}

impl HeldReads {
    /// Waits until a read is held.
    pub(crate) fn wait_for_reader(&self) {
        let gate = &self.faults.gate;
        let state = gate.state.lock().unwrap();
        let waited = gate.changed.wait_timeout_while(state, PATIENCE, |state| state.waiting == 0);
        assert!(!waited.unwrap().1.timed_out(), "nobody reads");
    }
}

impl Drop for HeldReads {
    fn drop(&mut self) {
        self.faults.gate.state.lock().unwrap().is_closed = false;
        self.faults.gate.changed.notify_all();
    }
}

/// Waits until `is_so`.
pub(crate) fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

/// Opens or creates a store of small segments, without threads.
pub(crate) fn try_open(disk: &FaultyIo) -> Result<Arc<Store>> {
    let options = StoreOptions {
        create: true,
        format: FormatParams { segment_bytes_min: 64 << 10, segment_bytes_max: 64 << 10 },
        tunables: Tunables::default(),
        background: Background::Manual,
    };
    Store::open(Environment::with_io(Arc::new(disk.clone())), options)
}

/// As [`try_open`], where nothing may stand in its way.
pub(crate) fn open(disk: &FaultyIo) -> Arc<Store> {
    try_open(disk).unwrap()
}

/// A page that cannot be made smaller, a function of `seed`.
pub(crate) fn noise<const N: usize>(seed: u64) -> [u8; N] {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::array::from_fn(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    })
}

pub(crate) fn name(text: impl AsRef<str>) -> FacetName {
    FacetName::new(text).unwrap()
}

/// Commits one page, all of whose bytes are `byte`.
pub(crate) fn try_write(facet: &Arc<Facet>, byte: u8) -> Result<()> {
    let mut writer = facet.begin_write_latest()?;
    if writer.page_size().is_none() {
        writer.set_page_size(PageSize::from_bytes(4096).unwrap())?;
    }
    writer.write_page(PageNo(1), &[byte; 4096])?;
    writer.commit(0)?;
    Ok(())
}

/// Commits one page and makes it durable: it is acknowledged.
pub(crate) fn write(store: &Store, facet: &Arc<Facet>, byte: u8) {
    try_write(facet, byte).unwrap();
    store.wait_durable(facet.latest_ticket()).unwrap();
}

/// The byte that the page was last durably written with.
pub(crate) fn read(facet: &Arc<Facet>) -> u8 {
    let mut bytes = [0; 4096];
    facet.snapshot(View::Durable).unwrap().read_page(PageNo(1), &mut bytes).unwrap();
    assert!(bytes.iter().all(|&byte| byte == bytes[0]), "pages are written in one piece");
    bytes[0]
}

/// Flips a bit of the only place of all segments where `bytes` are.
pub(crate) fn flip(io: &MemoryIo, bytes: &[u8]) {
    let mut found = 0;
    for number in io.list_segments().unwrap() {
        let file = io.open(FileName::Segment(number)).unwrap();
        let mut content = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_at(0, &mut content).unwrap();
        let places = content.windows(bytes.len()).enumerate().filter(|(_, at)| *at == bytes);
        let places: Vec<usize> = places.map(|(at, _)| at).collect();
        for at in places {
            file.write_at(at as u64, &[content[at] ^ 1]).unwrap();
            found += 1;
        }
    }
    assert_eq!(found, 1, "what is to be damaged is in one place");
}
