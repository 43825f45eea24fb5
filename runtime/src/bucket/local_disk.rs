//! The local files of a store in a bucket: how much of each is here, and how room is made.
//!
//! A segment file is *whole*, or *partial*: then the bucket has all of it, and what is not here is fetched
//! when it is read. Files that were set up from the bucket are partial from the start; *eviction* makes
//! others so, and gives blocks of partial ones back. It takes those that were read longest ago.
//!
//! Order of an eviction, and what would break otherwise (ADR 0044):
//! 1. The file is marked: the engine, asked whether it is reserved, hears no from now on, and will not use
//!    it again. 2. The engine is asked whether the segment is in use and not written any more. If 2 came
//!    before 1, the engine could make the file ready in between, and write later where no blocks are.
//! 3. The journal says whether the manifest that *landed* has all of it, and reads nothing from the file
//!    any more. Before that a shipment could send holes. 4. The note says, durably, that the segment may be
//!    here in part. Without it a host that comes back would take holes for what was written. 5. Readers go
//!    by what is fetched, 6. and the blocks are given back. That is never synced: blocks that a power loss
//!    brings back are not looked at, by 4.
//!
//! A crash anywhere leaves a whole file, or one that the note names and the bucket has. The name stays in
//! the note until the directory was synced after the file's removal, as a power loss may bring that back.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, TryLockError, Weak};
use std::time::{Duration, Instant};

use lapidary_engine::{FileName, FileNo, Io, IoFile, SegmentId, SegmentUse, Store};

use super::cached_file::Cached;
use super::error::Result;
use super::fetch::Fetcher;
use super::format::note::{EVICTED_MAX, Note};
use super::journal::{Journal, Landed};
use super::lease::Lease;
use super::notes::NoteFile;

/// Bytes of a partial file that are always here.
const FIRST_BYTES: u64 = SegmentUse::BLOCK_BYTES as u64;
/// When room is made, it is this share of the budget more than was asked for.
const SLACK_SHARE: u64 = 16;
/// Requests that are made at a time for what is about to be read.
const PREFETCH_THREADS: usize = 16;
/// How long a write waits at most for what was written to land, so that room can be made, when the disk is full.
const LANDING_MAX: Duration = Duration::from_secs(5);
/// A file in more parts than this is about to be brought together, which takes the local file.
pub(super) const SEALED_PARTS_MAX: usize = 8;

/// A segment file.
#[derive(Debug)]
pub(super) struct LocalFile {
    content: RwLock<Content>,
    /// Set before `content` is: see the order of an eviction.
    is_partial: AtomicBool,
    /// Bytes of the disk that it takes.
    here_bytes: AtomicU64,
    /// When it was used last, in uses of all files.
    used: AtomicU64,
}

#[derive(Debug)]
enum Content {
    Whole,
    Partial(SegmentId, Cached),
}

impl LocalFile {
    fn new(content: Content, here_bytes: u64) -> Self {
        let is_partial = matches!(content, Content::Partial(..));
        Self {
            content: RwLock::new(content),
            is_partial: AtomicBool::new(is_partial),
            here_bytes: AtomicU64::new(here_bytes),
            used: AtomicU64::new(0),
        }
    }

    pub(super) fn whole(bytes: u64) -> Self {
        Self::new(Content::Whole, bytes)
    }

    pub(super) fn partial(segment: SegmentId, cached: Cached) -> Self {
        Self::new(Content::Partial(segment, cached), FIRST_BYTES)
    }

    pub(super) fn is_partial(&self) -> bool {
        self.is_partial.load(Ordering::SeqCst)
    }

    fn here_bytes(&self) -> u64 {
        self.here_bytes.load(Ordering::Relaxed)
    }
}

/// A file that is to give back its blocks.
struct Victim {
    number: FileNo,
    file: Arc<LocalFile>,
    /// What it becomes, if it is whole.
    becomes: Option<(SegmentId, Cached)>,
}

#[derive(Debug)]
pub(super) struct LocalDisk {
    io: Arc<dyn Io>,
    journal: Arc<Journal>,
    lease: Arc<Lease>,
    fetcher: Arc<Fetcher>,
    files: Mutex<BTreeMap<FileNo, Arc<LocalFile>>>,
    /// Held during an eviction.
    notes: Mutex<NoteFile>,
    /// Segments whose files were removed: before the directory was last synced, and since.
    gone: Mutex<Gone>,
    bytes_max: u64,
    /// Somebody ships while others wait.
    is_shipped_in_background: bool,
    store: OnceLock<Weak<Store>>,
    uses: AtomicU64,
    evicted_bytes: AtomicU64,
    /// Bytes that were here when there was nothing more to evict.
    stuck_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Gone {
    for_good: BTreeSet<SegmentId>,
    lately: BTreeSet<SegmentId>,
}

/// What a disk starts from.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) io: Arc<dyn Io>,
    pub(super) journal: Arc<Journal>,
    pub(super) lease: Arc<Lease>,
    pub(super) fetcher: Arc<Fetcher>,
    pub(super) files: BTreeMap<FileNo, Arc<LocalFile>>,
    pub(super) notes: NoteFile,
    pub(super) bytes_max: u64,
    pub(super) is_shipped_in_background: bool,
}

impl LocalDisk {
    pub(super) fn new(start: Start) -> Self {
        let Start { io, journal, lease, fetcher, files, notes, .. } = start;
        // What is noted and was not found was removed, perhaps not for good yet.
        let mut lately =
            notes.current().map(|note| note.partial.evicted.clone()).unwrap_or_default();
        for file in files.values() {
            if let Content::Partial(segment, _) =
                &*file.content.read().unwrap_or_else(PoisonError::into_inner)
            {
                lately.remove(segment);
            }
        }
        Self {
            io,
            journal,
            lease,
            fetcher,
            files: Mutex::new(files),
            notes: Mutex::new(notes),
            gone: Mutex::new(Gone { lately, ..Gone::default() }),
            bytes_max: start.bytes_max,
            is_shipped_in_background: start.is_shipped_in_background,
            store: OnceLock::new(),
            uses: AtomicU64::new(0),
            evicted_bytes: AtomicU64::new(0),
            stuck_bytes: AtomicU64::new(0),
        }
    }

    /// The directory, for messages.
    pub(super) fn describe(&self) -> String {
        self.io.describe()
    }

    /// The highest segment that the note names. A new one that had such a number would be taken for one that
    /// the bucket has, at the next start.
    pub(super) fn noted_through(&self) -> SegmentId {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let partial = notes.current().map(|note| &note.partial);
        let evicted = partial.and_then(|partial| partial.evicted.last().copied());
        let through = partial.map(|partial| partial.through);
        through.into_iter().chain(evicted).max().unwrap_or_default()
    }

    /// Before that, nothing that is whole is evicted.
    pub(super) fn serve(&self, store: Weak<Store>) {
        let _ = self.store.set(store);
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<FileNo, Arc<LocalFile>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gone(&self) -> MutexGuard<'_, Gone> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn file(&self, number: FileNo) -> Option<Arc<LocalFile>> {
        self.files().get(&number).cloned()
    }

    /// A segment file was created.
    pub(super) fn create(&self, number: FileNo) -> Arc<LocalFile> {
        let file = Arc::new(LocalFile::whole(0));
        self.touch(&file);
        self.files().insert(number, Arc::clone(&file));
        file
    }

    /// A segment file was removed.
    pub(super) fn remove(&self, number: FileNo) {
        let Some(file) = self.files().remove(&number) else { return };
        if let Content::Partial(segment, _) =
            &*file.content.read().unwrap_or_else(PoisonError::into_inner)
        {
            self.gone().lately.insert(*segment);
        }
    }

    /// Syncs the directory: what was removed before is gone for good then.
    pub(super) fn sync_directory(&self) -> io::Result<()> {
        let removed = self.gone().lately.clone();
        self.io.sync_directory()?;
        let mut gone = self.gone();
        for segment in removed {
            gone.lately.remove(&segment);
            gone.for_good.insert(segment);
        }
        Ok(())
    }

    fn touch(&self, file: &LocalFile) {
        file.used.store(self.uses.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Fills `bytes` from `offset` of a file, whose local part is `local`.
    pub(super) fn read(
        &self,
        file: &LocalFile,
        local: &dyn IoFile,
        offset: u64,
        bytes: &mut [u8],
    ) -> io::Result<()> {
        self.touch(file);
        let content = file.content.read().unwrap_or_else(PoisonError::into_inner);
        let Content::Partial(_, cached) = &*content else { return local.read_at(offset, bytes) };
        let before = cached.kept_bytes();
        let read = cached.read(local, offset, bytes, &|bytes| self.free(bytes) > 0);
        let after = cached.kept_bytes();
        file.here_bytes.fetch_max(FIRST_BYTES + after, Ordering::Relaxed);
        drop(content);
        if after > before {
            self.make_room(0);
        }
        read
    }

    /// Fetches what is about to be read, in several requests at a time, until the budget is used up.
    pub(super) fn prefetch(&self, places: Vec<(FileNo, Range<u64>)>) {
        if !self.is_shipped_in_background {
            // A simulation is to be a function of its seed.
            return;
        }
        let threads = places.len().min(PREFETCH_THREADS);
        let places = Mutex::new(places.into_iter());
        let next = || places.lock().unwrap_or_else(PoisonError::into_inner).next();
        let run = || {
            while let Some((number, range)) = next() {
                let fetched = self.prefetch_one(number, &range);
                if let Err(error) = fetched {
                    tracing::debug!(file = number.0, %error, "not fetched ahead");
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(run);
            }
        });
    }

    fn prefetch_one(&self, number: FileNo, range: &Range<u64>) -> io::Result<()> {
        let Some(file) = self.file(number).filter(|file| file.is_partial()) else { return Ok(()) };
        if self.bytes().saturating_add(range.end - range.start) > self.bytes_max {
            return Ok(());
        }
        let local = self.io.open(FileName::Segment(number))?;
        let content = file.content.read().unwrap_or_else(PoisonError::into_inner);
        let Content::Partial(_, cached) = &*content else { return Ok(()) };
        let fetched = cached.prefetch(&*local, range, &|_| false);
        file.here_bytes.fetch_max(FIRST_BYTES + cached.kept_bytes(), Ordering::Relaxed);
        fetched
    }

    /// A whole file is about to be, or is, so long.
    pub(super) fn grow(&self, file: &LocalFile, bytes: u64) {
        let more = bytes.saturating_sub(file.here_bytes());
        if more > 0 {
            self.touch(file);
            self.make_room(more);
            file.here_bytes.fetch_max(bytes, Ordering::Relaxed);
        }
    }

    /// Does `work`, which takes `bytes` of the disk; again for as long as the disk is full and something can be
    /// evicted, or will be when it has landed.
    pub(super) fn with_room<T>(
        &self,
        bytes: u64,
        work: impl Fn() -> io::Result<T>,
    ) -> io::Result<T> {
        let began = Instant::now();
        loop {
            let error = match work() {
                Err(error) if error.kind() == io::ErrorKind::StorageFull => error,
                done => return done,
            };
            if self.free(bytes) > 0 {
                continue;
            }
            let left = LANDING_MAX.saturating_sub(began.elapsed());
            let landings = self.journal.is_landing_awaited(|segment| self.is_finished(segment));
            let waits = self.is_shipped_in_background && !left.is_zero();
            if !landings.is_some_and(|often| waits && self.journal.wait_for_landing(often, left)) {
                return Err(error);
            }
        }
    }

    /// Bytes of the disk that the segment files take.
    pub(super) fn bytes(&self) -> u64 {
        self.files().values().map(|file| file.here_bytes()).sum()
    }

    /// Bytes that were given back by evictions.
    pub(super) fn evicted_bytes(&self) -> u64 {
        self.evicted_bytes.load(Ordering::Relaxed)
    }

    /// Something has landed: more may be evicted than before.
    pub(super) fn settle(&self) {
        self.stuck_bytes.store(0, Ordering::Relaxed);
        self.make_room(0);
    }

    /// Sees to it that `bytes` more are within the budget, as far as there is anything to evict.
    fn make_room(&self, bytes: u64) {
        if self.bytes_max == u64::MAX {
            return;
        }
        let needed = self.bytes().saturating_add(bytes);
        let stuck = self.stuck_bytes.load(Ordering::Relaxed);
        let slack = self.bytes_max / SLACK_SHARE;
        if needed <= self.bytes_max || (stuck > 0 && needed <= stuck + slack) {
            return;
        }
        let wanted = needed - self.bytes_max + slack;
        let is_stuck = self.free(wanted) + slack < wanted;
        self.stuck_bytes.store(if is_stuck { needed } else { 0 }, Ordering::Relaxed);
    }

    /// Evicts until so many bytes were given back, or nothing is left to evict; says how many were.
    fn free(&self, bytes: u64) -> u64 {
        self.evict(bytes).unwrap_or_else(|error| {
            tracing::warn!(%error, "nothing is evicted from the local disk");
            0
        })
    }

    fn is_finished(&self, segment: SegmentId) -> bool {
        let store = self.store.get().and_then(Weak::upgrade);
        store.is_some_and(|store| store.is_finished(segment))
    }

    fn evict(&self, bytes: u64) -> Result<u64> {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        // What another host took over, it may let go of.
        if self.lease.check().is_err() {
            return Ok(0);
        }
        let Some(mut note) = notes.current().cloned() else { return Ok(0) };
        let forgotten = self.gone().for_good.clone();
        note.partial.evicted.retain(|segment| !forgotten.contains(segment));
        let mut victims = Vec::new();
        let mut freed = 0;
        for (number, file, landed) in self.candidates() {
            if freed >= bytes {
                break;
            }
            let here_bytes = file.here_bytes();
            let becomes = match landed {
                None => None,
                Some(Landed { segment, .. }) => {
                    let Some(cached) = self.mark(&mut note, number, &file, segment) else {
                        continue;
                    };
                    Some((segment, cached))
                }
            };
            victims.push(Victim { number, file, becomes });
            freed += here_bytes.saturating_sub(FIRST_BYTES);
        }
        // 4.
        if victims.iter().any(|victim| victim.becomes.is_some()) {
            if let Err(error) = notes.replace(note) {
                for victim in &victims {
                    if let Some((segment, _)) = &victim.becomes {
                        self.journal.make_whole(victim.number, *segment);
                        victim.file.is_partial.store(false, Ordering::SeqCst);
                    }
                }
                return Err(error);
            }
            self.gone().for_good.retain(|segment| !forgotten.contains(segment));
        }
        let freed = victims.into_iter().map(|victim| self.give_back(victim)).sum();
        self.evicted_bytes.fetch_add(freed, Ordering::Relaxed);
        Ok(freed)
    }

    /// Files that may give something back, those first that can best be done without.
    fn candidates(&self) -> Vec<(FileNo, Arc<LocalFile>, Option<Landed>)> {
        let landed = self.journal.landed_files(SEALED_PARTS_MAX);
        let files = self.files();
        let candidate = |(&number, file): (&FileNo, &Arc<LocalFile>)| {
            let landed = landed.get(&number).copied();
            let has_something = if file.is_partial() {
                landed.is_none() && file.here_bytes() > FIRST_BYTES
            } else {
                landed.is_some()
            };
            has_something.then(|| (number, Arc::clone(file), landed))
        };
        let mut found: Vec<_> = files.iter().filter_map(candidate).collect();
        drop(files);
        found.sort_by_key(|(number, file, landed)| {
            let is_scattered = landed.is_some_and(|landed| landed.is_scattered);
            (is_scattered, file.used.load(Ordering::Relaxed), *number)
        });
        found
    }

    /// Steps 1 to 3; what the file becomes, if it may be evicted.
    fn mark(
        &self,
        note: &mut Note,
        number: FileNo,
        file: &LocalFile,
        segment: SegmentId,
    ) -> Option<Cached> {
        if note.partial.evicted.len() >= EVICTED_MAX {
            return None;
        }
        file.is_partial.store(true, Ordering::SeqCst);
        let is_finished = self.is_finished(segment);
        let found = if is_finished { self.journal.make_partial(number, segment) } else { None };
        let Some((entry, objects)) = found else {
            file.is_partial.store(false, Ordering::SeqCst);
            return None;
        };
        note.partial.evicted.insert(segment);
        Some(Cached::new(Arc::clone(&self.fetcher), &entry, |part| objects[&part.object]))
    }

    /// Steps 5 and 6; says how many bytes that gave back.
    fn give_back(&self, victim: Victim) -> u64 {
        let Victim { number, file, becomes } = victim;
        let mut content = match becomes {
            Some((segment, cached)) => {
                // Who reads a whole file is done soon.
                let mut content = file.content.write().unwrap_or_else(PoisonError::into_inner);
                *content = Content::Partial(segment, cached);
                content
            }
            // Who reads this one may wait for the bucket.
            None => match file.content.try_write() {
                Ok(content) => content,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return 0,
            },
        };
        let Content::Partial(_, cached) = &mut *content else { return 0 };
        cached.forget();
        match punch(&*self.io, number) {
            Ok(()) => {
                let here_bytes = file.here_bytes.swap(FIRST_BYTES, Ordering::Relaxed);
                here_bytes.saturating_sub(FIRST_BYTES)
            }
            // It was removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => {
                let path = format!("{}/{}", self.io.describe(), FileName::Segment(number));
                tracing::warn!(path, %error, "blocks of a segment file cannot be given back");
                0
            }
        }
    }
}

/// Gives back all but the first block of a segment file.
pub(super) fn punch(io: &dyn Io, number: FileNo) -> io::Result<()> {
    let file = io.open(FileName::Segment(number))?;
    let bytes = file.len()?;
    if bytes <= FIRST_BYTES {
        return Ok(());
    }
    file.punch_hole(FIRST_BYTES, bytes - FIRST_BYTES)
}
