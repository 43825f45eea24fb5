//! Segments mapped into memory, so that full page images are read where they are.
//!
//! A mapping belongs to the store: all who read the segment share it. Who reads through it *holds* it,
//! by an [`Arc`]. What may not happen is that the file is written, shortened or handed to another
//! process while somebody holds it:
//!
//! 1. Only what is finished is mapped: the whole of a segment that was left for good, and of one that the
//!    cleaner goes on filling the part before that. Nothing is ever written there again under the
//!    segment's number. Nothing of the segment that the log is writing.
//! 2. Its file is used for something else, or removed, only after [`Mappings::remove`] has ended the
//!    mapping, which it does not while somebody holds it. The table of segments is locked from before
//!    that until the segment is in it no more, so that nobody maps it again.
//! 3. A closed store lets no new holds in, and stays locked until the last one is gone
//!    ([`Mappings::close`]).
//!
//! An address in a segment means one thing for ever, so a hold needs no look at what was moved: what
//! was copied elsewhere is still here as well.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustc_hash::FxHashMap;

use super::Segments;
use crate::format::page::{self, UnverifiedPage};
use crate::format::{Identity, StoredRef};
use crate::io::Mapping;
use crate::types::{PageNo, PageSize, SegmentId};

/// Of a segment's bytes for each of which is noted whether the page record that begins there was
/// verified. No two full ones begin within the same.
const VERIFIED_BYTES: usize = 512;
const _: () = assert!(VERIFIED_BYTES <= PageSize::MIN.bytes() + page::HEADER_BYTES);

/// What keeps a store's directory from being opened by another process.
pub(crate) type DirectoryLock = Arc<dyn Send + Sync>;

/// A segment as memory.
pub(crate) struct Mapped {
    segment: SegmentId,
    bytes: Mapping,
    /// Whether this is all that the segment will ever be.
    is_whole: bool,
    /// A bit for each [`VERIFIED_BYTES`]. Bits are only ever set, and say something of bytes that do
    /// not change, so no order has to be kept with anything.
    verified: Box<[AtomicU64]>,
    /// Set when the store was closed while this was held.
    lock: OnceLock<DirectoryLock>,
}

impl fmt::Debug for Mapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapped").field("segment", &self.segment).finish_non_exhaustive()
    }
}

impl Mapped {
    fn new(segment: SegmentId, bytes: Mapping, is_whole: bool) -> Self {
        let words = bytes.len().div_ceil(VERIFIED_BYTES * 64);
        let verified = std::iter::repeat_with(|| AtomicU64::new(0)).take(words).collect();
        Self { segment, bytes, is_whole, verified, lock: OnceLock::new() }
    }

    /// Where the image of the page is that `reference` leads to, which is at `place` in this segment,
    /// with `bytes_past` bytes more, whatever they are. `None` if it is not there in full and intact,
    /// or the segment ends before.
    pub(crate) fn find(
        &self,
        place: Identity,
        reference: StoredRef,
        page: PageNo,
        size: PageSize,
        bytes_past: usize,
    ) -> Option<Range<usize>> {
        debug_assert_eq!(place.segment, self.segment);
        let at = usize::try_from(place.offset()).ok()?;
        let image = at + page::HEADER_BYTES;
        let end = image.checked_add(size.bytes())?.checked_add(bytes_past)?;
        let found = UnverifiedPage::parse(self.bytes.get(at..end)?).ok()?;
        if found.page != page || found.crc != reference.crc || !found.is_full(size) {
            return None;
        }
        let bit = at / VERIFIED_BYTES;
        let (word, bit) = (&self.verified[bit / 64], 1 << (bit % 64));
        if word.load(Ordering::Relaxed) & bit == 0 {
            if !found.is_intact() {
                return None;
            }
            word.fetch_or(bit, Ordering::Relaxed);
        }
        Some(image..end)
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole
    }

    pub(crate) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range]
    }
}

/// Somebody holds the mapping.
#[derive(Debug)]
pub(super) struct IsHeld;

/// The mappings of a store, a bounded number.
#[derive(Debug)]
pub(crate) struct Mappings {
    max: usize,
    table: Mutex<Table>,
    /// Counts what may make a segment that could not be mapped one that can.
    changes: AtomicU64,
    /// Something could not be mapped since as many segments as may be were held.
    is_short: AtomicBool,
}

#[derive(Debug, Default)]
struct Table {
    mapped: FxHashMap<SegmentId, Entry>,
    /// Counts uses, to find the mapping used longest ago.
    clock: u64,
    is_closed: bool,
}

#[derive(Debug)]
struct Entry {
    mapped: Arc<Mapped>,
    used: u64,
}

impl Table {
    fn get(&mut self, segment: SegmentId) -> Option<Arc<Mapped>> {
        let entry = self.mapped.get_mut(&segment)?;
        self.clock += 1;
        entry.used = self.clock;
        Some(Arc::clone(&entry.mapped))
    }

    /// Ends the mapping of a segment, if there is one. Holds are taken through this table, or through
    /// a hold that was let go of, which fails from the moment on at which the last one is taken apart.
    fn remove(&mut self, segment: SegmentId) -> Result<(), IsHeld> {
        let Some(Entry { mapped, used }) = self.mapped.remove(&segment) else { return Ok(()) };
        Arc::try_unwrap(mapped).map(drop).map_err(|mapped| {
            self.mapped.insert(segment, Entry { mapped, used });
            IsHeld
        })
    }

    /// Ends the mapping used longest ago of those that nobody holds; says whether there was one.
    fn remove_oldest(&mut self) -> bool {
        let idle = self.mapped.iter().filter(|(_, entry)| Arc::strong_count(&entry.mapped) == 1);
        let oldest = idle.min_by_key(|(_, entry)| entry.used).map(|(&segment, _)| segment);
        oldest.is_some_and(|segment| self.remove(segment).is_ok())
    }
}

impl Mappings {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            table: Mutex::default(),
            changes: AtomicU64::new(0),
            is_short: AtomicBool::new(false),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether segments are mapped at all.
    pub(crate) fn is_on(&self) -> bool {
        self.max > 0
    }

    /// Differs from what it was if it is worth another try to map what could not be mapped.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    pub(super) fn note_change(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// Segments were let go of.
    pub(crate) fn note_let_go(&self) {
        if self.is_short.load(Ordering::Relaxed) {
            self.is_short.store(false, Ordering::Relaxed);
            self.note_change();
        }
    }

    /// Ends the mapping of a segment whose file is about to be used for something else. The table of
    /// segments is locked.
    pub(super) fn remove(&self, segment: SegmentId) -> Result<(), IsHeld> {
        self.table().remove(segment)?;
        self.note_change();
        Ok(())
    }

    /// Ends all mappings, each as soon as nobody holds it; until then `lock` stays taken.
    pub(crate) fn close(&self, lock: Option<&DirectoryLock>) {
        let mut table = self.table();
        table.is_closed = true;
        for (_, entry) in table.mapped.drain() {
            if let Some(lock) = lock {
                // It is set once: what is in the table never has one.
                let _ = entry.mapped.lock.set(Arc::clone(lock));
            }
        }
    }
}

/// What of a segment stays as it is.
#[derive(Clone, Copy, Debug)]
struct Finished {
    bytes: u32,
    is_whole: bool,
}

impl Segments {
    /// A segment as memory, as far as it is finished, mapped anew if it has grown and nobody holds it;
    /// `None` if nothing is finished, it is no more, or cannot be mapped.
    pub(crate) fn mapped(&self, segment: SegmentId) -> Option<Arc<Mapped>> {
        if !self.mappings.is_on() {
            return None;
        }
        let known = self.mappings.table().get(segment);
        if known.as_ref().is_some_and(|mapped| mapped.is_whole) {
            return known;
        }
        let finished = self.finished(segment)?;
        if known.as_ref().is_some_and(|mapped| mapped.bytes.len() >= finished.bytes as usize) {
            return known;
        }
        // Held by nobody else, it can be replaced.
        drop(known);
        let mapped = self.map(segment, finished)?;
        // Only now it is certain that the file holds this segment, and did when it was mapped.
        let segments = self.table();
        segments.in_use.get(&segment)?;
        let mut table = self.mappings.table();
        if table.is_closed {
            return None;
        }
        if table.remove(segment).is_ok() {
            if table.mapped.len() >= self.mappings.max && !table.remove_oldest() {
                self.mappings.is_short.store(true, Ordering::Relaxed);
                return None;
            }
            table.mapped.insert(segment, Entry { mapped: Arc::new(mapped), used: 0 });
        }
        table.get(segment)
    }

    fn finished(&self, segment: SegmentId) -> Option<Finished> {
        let table = self.table();
        let entry = table.in_use.get(&segment).filter(|entry| entry.finished_bytes > 0)?;
        Some(Finished { bytes: entry.finished_bytes, is_whole: entry.sealed_at.is_some() })
    }

    #[expect(unsafe_code, reason = "a mapped file is memory that must not change")]
    fn map(&self, segment: SegmentId, finished: Finished) -> Option<Mapped> {
        let file = self.files.get(segment).ok()?;
        // SAFETY: what is finished is not written. If the file is used for something else by now, the
        // mapping is dropped unread, which the caller sees to; after that, see the top of this file.
        let mapping = unsafe { file.map(u64::from(finished.bytes)) };
        match mapping {
            Ok(mapping) => mapping.map(|bytes| Mapped::new(segment, bytes, finished.is_whole)),
            Err(error) => {
                // Reading goes on by calls, which find out what is wrong.
                let path = self.files.path(segment);
                tracing::debug!(%path, %error, "a segment cannot be mapped");
                None
            }
        }
    }
}
