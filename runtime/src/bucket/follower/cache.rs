//! What a follower has of objects: pieces that were read first are fetched, and kept in local files.
//!
//! It is kept by object, not by segment: an object is written once and never changes, whatever becomes of
//! the segment. A local file goes when nothing leads to its object any more.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use lapidary_engine::{FileName, FileNo, Io};

use super::super::error::Result;
use super::super::fetch::Fetcher;
use super::super::format::object::{ObjectInfo, ObjectKey, PIECE_BYTES};
use super::super::objects::Objects;

/// Pieces that are fetched at once at most when an object is read from one end to the other.
const AHEAD_PIECES_MAX: u64 = 64;

#[derive(Debug)]
pub(super) struct ObjectCache {
    shared: Arc<Shared>,
    objects: Mutex<BTreeMap<ObjectKey, Weak<CachedObject>>>,
}

#[derive(Debug)]
struct Shared {
    fetcher: Fetcher,
    local: Arc<dyn Io>,
    next_file: AtomicU32,
    bytes: AtomicU64,
}

/// An object, and what is here of it.
#[derive(Debug)]
pub(super) struct CachedObject {
    info: ObjectInfo,
    shared: Arc<Shared>,
    present: Mutex<Present>,
    /// Held by whoever fetches, not by who reads what is here.
    fetching: Mutex<Ahead>,
}

#[derive(Debug, Default)]
struct Present {
    /// `None` as long as nothing is.
    file: Option<FileNo>,
    pieces: Vec<bool>,
    bytes: u64,
}

/// Where a reader that goes on from where the last fetch ended would miss something next, and how many
/// pieces were fetched then.
#[derive(Debug)]
struct Ahead {
    next: u64,
    pieces: u64,
}

impl ObjectCache {
    /// With nothing in it. `local` has no files.
    pub(super) fn new(objects: Arc<dyn Objects>, local: Arc<dyn Io>) -> Self {
        let fetcher = Fetcher::new(objects);
        let (next_file, bytes) = (AtomicU32::new(1), AtomicU64::new(0));
        let shared = Arc::new(Shared { fetcher, local, next_file, bytes });
        Self { shared, objects: Mutex::default() }
    }

    /// The object of `info`, for as long as anybody has it.
    pub(super) fn object(&self, info: &ObjectInfo) -> Arc<CachedObject> {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = objects.get(&info.key).and_then(Weak::upgrade) {
            return there;
        }
        let made = Arc::new(CachedObject {
            info: *info,
            shared: Arc::clone(&self.shared),
            present: Mutex::default(),
            fetching: Mutex::new(Ahead { next: u64::MAX, pieces: 1 }),
        });
        objects.insert(info.key, Arc::downgrade(&made));
        made
    }

    /// Forgets objects that nobody has any more.
    pub(super) fn forget_unused(&self) {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.retain(|_, object| object.strong_count() > 0);
    }

    /// Requests that were made, and bytes that they brought.
    pub(super) fn counts(&self) -> (u64, u64) {
        self.shared.fetcher.counts()
    }

    /// Bytes of objects that are here.
    pub(super) fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }
}

impl CachedObject {
    fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills `into` from `at` of the object's data.
    pub(super) fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.bring(at..at + into.len() as u64, false)?;
        let file = self.present().file;
        let file =
            file.ok_or_else(|| io::Error::other("an object that was fetched has no file"))?;
        self.shared.local.open_read_only(FileName::Segment(file))?.read_at(at, into)
    }

    /// Sees to it that the range of its data is here, and no more than that if `exactly`: else
    /// more and more of what follows, while it is read from one end to the other.
    pub(super) fn bring(&self, range: Range<u64>, exactly: bool) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let pieces = range.start / PIECE_BYTES..range.end.div_ceil(PIECE_BYTES);
        if self.present().missing(&pieces).is_none() {
            return Ok(());
        }
        let mut ahead = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let Some(missing) = self.present().missing(&pieces) else { return Ok(()) };
            ahead.pieces = match missing.start == ahead.next {
                true => (2 * ahead.pieces).min(AHEAD_PIECES_MAX),
                false => 1,
            };
            let wanted = match exactly {
                true => missing.end,
                false => missing.end.max(missing.start + ahead.pieces),
            };
            let most = (missing.start + AHEAD_PIECES_MAX).min(self.info.pieces());
            let end = self.present().absent_from(missing.start, wanted.min(most));
            let fetched = self.shared.fetcher.fetch(&self.info, missing.start..end);
            let fetched = fetched.map_err(io::Error::other)?;
            self.keep(&fetched.data, fetched.from, &fetched.pieces)?;
            ahead.next = end;
        }
    }

    /// Writes what was fetched into the local file. Nobody else does meanwhile.
    fn keep(&self, data: &[u8], from: u64, pieces: &Range<u64>) -> io::Result<()> {
        let local = &self.shared.local;
        let known = self.present().file;
        let (number, file) = match known {
            Some(number) => (number, local.open(FileName::Segment(number))?),
            None => {
                let number = FileNo(self.shared.next_file.fetch_add(1, Ordering::Relaxed));
                (number, local.create(FileName::Segment(number))?)
            }
        };
        let written = file.write_at(from, data);
        let mut present = self.present();
        present.file = Some(number);
        written?;
        let added = present.add(pieces, self.info.pieces());
        let bytes = (added * PIECE_BYTES).min(data.len() as u64);
        present.bytes += bytes;
        self.shared.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }
}

impl Present {
    fn has(&self, piece: u64) -> bool {
        let index = usize::try_from(piece).unwrap_or(usize::MAX);
        self.pieces.get(index).is_some_and(|&present| present)
    }

    /// The first pieces of `range` that are not here, one after the other.
    fn missing(&self, range: &Range<u64>) -> Option<Range<u64>> {
        let start = range.clone().find(|&piece| !self.has(piece))?;
        Some(start..self.absent_from(start, range.end))
    }

    /// The end, `end` at most, of what is not here from `start` on.
    fn absent_from(&self, start: u64, end: u64) -> u64 {
        (start..end).find(|&piece| self.has(piece)).unwrap_or(end)
    }

    /// Says how many were not here.
    fn add(&mut self, pieces: &Range<u64>, of: u64) -> u64 {
        self.pieces.resize(usize::try_from(of).unwrap_or(usize::MAX), false);
        let mut added = 0;
        for piece in pieces.clone() {
            let index = usize::try_from(piece).unwrap_or(usize::MAX);
            if let Some(present) = self.pieces.get_mut(index) {
                added += u64::from(!std::mem::replace(present, true));
            }
        }
        added
    }
}

impl Drop for CachedObject {
    fn drop(&mut self) {
        let present = self.present.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.shared.bytes.fetch_sub(present.bytes, Ordering::Relaxed);
        let Some(file) = present.file else { return };
        if let Err(error) = self.shared.local.remove(FileName::Segment(file)) {
            tracing::debug!(%error, "a file of the cache is left until the next opening");
        }
    }
}

/// What the file `BUCKET` says in a directory that is a follower's cache.
const MARK: &[u8] = b"cache of a follower: lapidary\n";

/// Makes the directory of `local` an empty cache: if it is empty, or was one before.
pub(super) fn claim_directory(local: &dyn Io) -> Result<()> {
    use super::super::error::BucketError;
    use lapidary_engine::DirectoryState;

    let failed = |operation, file| BucketError::local(local, operation, file);
    let refused = |detail: &str| {
        let detail =
            format!("{detail}; choose an empty directory, or one that a follower had before");
        Err(BucketError::Directory { directory: local.describe(), detail })
    };
    match local.inspect().map_err(failed("look into", None))? {
        DirectoryState::Empty => {}
        DirectoryState::Store => return refused("it has a store"),
        DirectoryState::Foreign => return refused("it has other files"),
    }
    let left = local.list_segments().map_err(failed("list", None))?;
    let mark = Some(FileName::Bucket);
    match local.open(FileName::Bucket) {
        Ok(file) => {
            let bytes = file.len().map_err(failed("find the length of", mark))?;
            let mut found = vec![0; MARK.len()];
            if bytes == MARK.len() as u64 {
                file.read_at(0, &mut found).map_err(failed("read", mark))?;
            }
            // It may have been cut short when it was written: then nothing was put there yet.
            if found != MARK && !(left.is_empty() && bytes < MARK.len() as u64) {
                return refused("it belongs to a host that serves a store from a bucket");
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && left.is_empty() => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return refused("it has segments of a store");
        }
        Err(error) => return Err(failed("open", mark)(error)),
    }
    let file = local.create(FileName::Bucket).map_err(failed("create", mark))?;
    let written = file.write_and_sync(0, MARK);
    written.map_err(|error| failed("write", mark)(error.into_parts().1))?;
    local.sync_directory().map_err(failed("sync the directory of", None))?;
    for number in left {
        let name = FileName::Segment(number);
        local.remove(name).map_err(failed("remove", Some(name)))?;
    }
    Ok(())
}
