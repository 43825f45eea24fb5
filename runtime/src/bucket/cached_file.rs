//! A local file that has a part of what the bucket has of it: what is read first is fetched.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use lapidary_engine::{IoFile, SegmentUse};

use super::fetch::{Fetcher, PIECES_MAX, Pieces};
use super::format::manifest::{FileEntry, Part};
use super::format::object::{ObjectInfo, PIECE_BYTES};

/// Pieces that are fetched at once at most when a file is read from one end to the other.
const AHEAD_PIECES_MAX: u64 = 16;

/// What is fetched of a segment file. Handles to the file share it.
#[derive(Debug)]
pub(super) struct Cached {
    fetcher: Arc<Fetcher>,
    parts: Vec<Mutex<CachedPart>>,
    bounds: Vec<Range<u64>>,
    kept_bytes: AtomicU64,
}

#[derive(Debug)]
struct CachedPart {
    /// Where it is in the file.
    offset: u64,
    part: Part,
    object: ObjectInfo,
    first_piece: u64,
    /// Of each piece that has something of the part: whether the local file has that.
    present: Vec<bool>,
    /// Where a reader that goes on from where the last fetch ended would miss something next, and how
    /// much was fetched then.
    next: u64,
    ahead: u64,
}

/// Bytes of a file, and where they are in it.
struct Extent {
    offset: u64,
    bytes: Vec<u8>,
}

/// What is to be done when the disk has no space for what was fetched, so many bytes: whether another
/// try may go better.
pub(super) type MakeRoom<'a> = &'a dyn Fn(u64) -> bool;

/// A read of a file.
struct Reading<'a> {
    file: &'a dyn IoFile,
    make_room: MakeRoom<'a>,
    /// What was fetched and found no room.
    homeless: Vec<Extent>,
}

impl Cached {
    /// Nothing is here yet but the first block. `object` tells of the objects that the parts are in.
    pub(super) fn new(
        fetcher: Arc<Fetcher>,
        entry: &FileEntry,
        object: impl Fn(&Part) -> ObjectInfo,
    ) -> Self {
        let mut bounds = Vec::new();
        let mut parts = Vec::new();
        for (offset, part) in entry.parts.iter() {
            bounds.push(offset..offset + part.bytes);
            let first_piece = part.at / PIECE_BYTES;
            let pieces = (part.at + part.bytes).div_ceil(PIECE_BYTES) - first_piece;
            parts.push(Mutex::new(CachedPart {
                offset,
                part: *part,
                object: object(part),
                first_piece,
                present: vec![false; usize::try_from(pieces).unwrap_or(usize::MAX)],
                next: u64::MAX,
                ahead: 1,
            }));
        }
        Self { fetcher, parts, bounds, kept_bytes: AtomicU64::new(0) }
    }

    /// Fills `bytes` from `offset` of `file`, fetching what that does not have. What was fetched stays in
    /// the file if the disk has room for it.
    pub(super) fn read(
        &self,
        file: &dyn IoFile,
        offset: u64,
        bytes: &mut [u8],
        make_room: MakeRoom<'_>,
    ) -> io::Result<()> {
        let range = offset..offset.saturating_add(bytes.len() as u64);
        let mut reading = Reading { file, make_room, homeless: Vec::new() };
        self.bring(&mut reading, &range)?;
        file.read_at(offset, bytes)?;
        for extent in reading.homeless {
            let end = extent.offset + extent.bytes.len() as u64;
            let (from, to) = (extent.offset.max(range.start), end.min(range.end));
            if from < to {
                let within =
                    |at: u64, start: u64| usize::try_from(at - start).unwrap_or(usize::MAX);
                let source = &extent.bytes[within(from, extent.offset)..within(to, extent.offset)];
                bytes[within(from, range.start)..within(to, range.start)].copy_from_slice(source);
            }
        }
        Ok(())
    }

    /// Fetches that range, as [`read`](Self::read) would.
    pub(super) fn prefetch(
        &self,
        file: &dyn IoFile,
        range: &Range<u64>,
        make_room: MakeRoom<'_>,
    ) -> io::Result<()> {
        self.bring(&mut Reading { file, make_room, homeless: Vec::new() }, range)
    }

    /// Bytes of the file that were fetched and are there, in blocks of the file system.
    pub(super) fn kept_bytes(&self) -> u64 {
        self.kept_bytes.load(Ordering::Relaxed)
    }

    /// Nothing of what was fetched is there any more. Nobody reads the file meanwhile.
    pub(super) fn forget(&self) {
        for part in &self.parts {
            part.lock().unwrap_or_else(PoisonError::into_inner).present.fill(false);
        }
        self.kept_bytes.store(0, Ordering::Relaxed);
    }

    /// Sees to it that the file has what was written to that range of it.
    fn bring(&self, reading: &mut Reading<'_>, range: &Range<u64>) -> io::Result<()> {
        if range.is_empty() || range.end <= SegmentUse::BLOCK_BYTES as u64 {
            return Ok(());
        }
        let first = self.bounds.partition_point(|bounds| bounds.end <= range.start);
        for (bounds, part) in self.bounds[first..].iter().zip(&self.parts[first..]) {
            if bounds.start >= range.end {
                break;
            }
            let wanted = bounds.start.max(range.start)..bounds.end.min(range.end);
            let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
            let kept = part.bring(&self.fetcher, reading, &wanted);
            drop(part);
            self.kept_bytes.fetch_add(kept?, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl CachedPart {
    /// Says how many bytes of the disk this took.
    fn bring(
        &mut self,
        fetcher: &Fetcher,
        reading: &mut Reading<'_>,
        wanted: &Range<u64>,
    ) -> io::Result<u64> {
        let piece_of = |at: u64| (self.part.at + (at - self.offset)) / PIECE_BYTES;
        let (first, last) = (piece_of(wanted.start), piece_of(wanted.end - 1));
        let mut kept = 0;
        let mut piece = first;
        while piece <= last {
            if self.is_present(piece) {
                piece += 1;
                continue;
            }
            let mut end = piece + 1;
            while end <= last && end - piece < PIECES_MAX && !self.is_present(end) {
                end += 1;
            }
            self.ahead =
                if piece == self.next { (self.ahead * 2).min(AHEAD_PIECES_MAX) } else { 1 };
            let all = self.first_piece + self.present.len() as u64;
            let far = (piece + self.ahead).min(all);
            while end < far && !self.is_present(end) {
                end += 1;
            }
            let fetched = fetcher.fetch(&self.object, piece..end).map_err(|error| {
                let may_pass = super::attach::may_pass(&error);
                let kind = if may_pass { io::ErrorKind::TimedOut } else { io::ErrorKind::Other };
                io::Error::new(kind, error)
            })?;
            kept += self.keep(reading, &fetched)?;
            self.next = end;
            piece = end;
        }
        Ok(kept)
    }

    fn index(&self, piece: u64) -> Option<usize> {
        usize::try_from(piece.checked_sub(self.first_piece)?).ok()
    }

    fn is_present(&self, piece: u64) -> bool {
        self.index(piece).and_then(|index| self.present.get(index)).is_some_and(|&present| present)
    }

    /// Writes what belongs to the part into the file, and says how many bytes of the disk that took. If
    /// there is no room, what was fetched is read, and not there.
    fn keep(&mut self, reading: &mut Reading<'_>, fetched: &Pieces) -> io::Result<u64> {
        const BLOCK_BYTES: u64 = SegmentUse::BLOCK_BYTES as u64;
        let mut kept = 0;
        if let Some((offset, bytes)) = fetched.of_part(self.offset, &self.part) {
            let write = || reading.file.write_at(offset, bytes);
            let is_full = |error: &io::Error| error.kind() == io::ErrorKind::StorageFull;
            let written = match write() {
                Err(error) if is_full(&error) && (reading.make_room)(bytes.len() as u64) => write(),
                written => written,
            };
            match written {
                Err(error) if is_full(&error) => {
                    reading.homeless.push(Extent { offset, bytes: bytes.to_vec() });
                    return Ok(0);
                }
                written => written?,
            }
            let end = offset + bytes.len() as u64;
            kept = (end.div_ceil(BLOCK_BYTES) - offset / BLOCK_BYTES) * BLOCK_BYTES;
        }
        for piece in fetched.pieces.clone() {
            if let Some(present) = self.index(piece).and_then(|index| self.present.get_mut(index)) {
                *present = true;
            }
        }
        Ok(kept)
    }
}
