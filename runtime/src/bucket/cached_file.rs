//! A local file that has a part of what the bucket has of it: what is read first is fetched.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use lapidary_engine::{IoFile, SegmentUse};

use super::fetch::{Fetcher, Pieces};
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
        Self { fetcher, parts, bounds }
    }

    /// Sees to it that `file` has what was written to that range of it.
    pub(super) fn bring(&self, file: &dyn IoFile, range: Range<u64>) -> io::Result<()> {
        if range.is_empty() || range.end <= SegmentUse::BLOCK_BYTES as u64 {
            return Ok(());
        }
        let first = self.bounds.partition_point(|bounds| bounds.end <= range.start);
        for (bounds, part) in self.bounds[first..].iter().zip(&self.parts[first..]) {
            if bounds.start >= range.end {
                break;
            }
            let wanted = bounds.start.max(range.start)..bounds.end.min(range.end);
            part.lock().unwrap_or_else(PoisonError::into_inner).bring(
                &self.fetcher,
                file,
                &wanted,
            )?;
        }
        Ok(())
    }
}

impl CachedPart {
    fn bring(
        &mut self,
        fetcher: &Fetcher,
        file: &dyn IoFile,
        wanted: &Range<u64>,
    ) -> io::Result<()> {
        let piece_of = |at: u64| (self.part.at + (at - self.offset)) / PIECE_BYTES;
        let (first, last) = (piece_of(wanted.start), piece_of(wanted.end - 1));
        let mut piece = first;
        while piece <= last {
            if self.is_present(piece) {
                piece += 1;
                continue;
            }
            let mut end = piece + 1;
            while end <= last && !self.is_present(end) {
                end += 1;
            }
            self.ahead =
                if piece == self.next { (self.ahead * 2).min(AHEAD_PIECES_MAX) } else { 1 };
            let all = self.first_piece + self.present.len() as u64;
            let far = (piece + self.ahead).min(all);
            while end < far && !self.is_present(end) {
                end += 1;
            }
            let fetched = fetcher.fetch(&self.object, piece..end).map_err(io::Error::other)?;
            self.keep(file, &fetched)?;
            self.next = end;
            piece = end;
        }
        Ok(())
    }

    fn index(&self, piece: u64) -> Option<usize> {
        usize::try_from(piece.checked_sub(self.first_piece)?).ok()
    }

    fn is_present(&self, piece: u64) -> bool {
        self.index(piece).and_then(|index| self.present.get(index)).is_some_and(|&present| present)
    }

    /// Writes what belongs to the part into the file.
    fn keep(&mut self, file: &dyn IoFile, fetched: &Pieces) -> io::Result<()> {
        let end = fetched.from + fetched.data.len() as u64;
        let from = fetched.from.max(self.part.at);
        let to = end.min(self.part.at + self.part.bytes);
        let within = |at: u64| usize::try_from(at - fetched.from).unwrap_or(usize::MAX);
        if from < to {
            let at = self.offset + (from - self.part.at);
            file.write_at(at, &fetched.data[within(from)..within(to)])?;
        }
        for piece in fetched.pieces.clone() {
            if let Some(present) = self.index(piece).and_then(|index| self.present.get_mut(index)) {
                *present = true;
            }
        }
        Ok(())
    }
}
