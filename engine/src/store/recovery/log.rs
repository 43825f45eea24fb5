//! Following the log from the replay position to its end.

use std::collections::{BTreeMap, BTreeSet};

use super::scan::Found;
use super::segment_path;
use crate::error::{Error, Result};
use crate::format::batch::{self, BatchHeader, UnverifiedBatch};
use crate::format::catalog::SegmentEntry;
use crate::format::segment::{BATCHES_AT, SegmentHeader};
use crate::format::superblock::{LogPosition, Superblock};
use crate::format::{BLOCK_BYTES, BLOCK_BYTES_STORED, Hash};
use crate::segments::Segments;
use crate::types::{Incarnation, Lsn, SegmentId};

/// A batch that stays where it is.
#[derive(Debug)]
pub(super) struct PlacedBatch {
    pub(super) first_lsn: Lsn,
    pub(super) count: u32,
    len: usize,
    /// Segment, and offset of the records.
    pub(super) place: (SegmentId, u64),
}

impl PlacedBatch {
    /// The batch's records.
    pub(super) fn read(&self, segments: &Segments) -> Result<Vec<u8>> {
        let mut records = vec![0; self.len];
        segments.files.read_at(self.place.0, self.place.1, &mut records)?;
        Ok(records)
    }
}

/// The last batch, if it is not known to be durable.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) first_lsn: Lsn,
    pub(super) count: u32,
    pub(super) records: Vec<u8>,
}

/// What following the log found.
#[derive(Debug)]
pub(super) struct LogEnd {
    /// The batches that are known to be durable.
    pub(super) batches: Vec<PlacedBatch>,
    pub(super) tail: Option<Tail>,
    /// Where the tail, or else the next batch, continues the log.
    pub(super) before_tail: LogPosition,
    /// All up to this is durable.
    pub(super) durable_through: Lsn,
    /// Segments the log was followed through.
    pub(super) visited: BTreeSet<SegmentId>,
    pub(super) read_bytes: u64,
}

struct Follower<'a> {
    segments: &'a Segments,
    found: &'a BTreeMap<SegmentId, Found>,
    superblock: &'a Superblock,
    position: LogPosition,
    visited: BTreeSet<SegmentId>,
    read_bytes: u64,
}

/// Follows the log to its end and decides what the end means (R9 to R15).
pub(super) fn find_end(
    segments: &Segments,
    found: &BTreeMap<SegmentId, Found>,
    superblock: &Superblock,
) -> Result<LogEnd> {
    let mut follower = Follower {
        segments,
        found,
        superblock,
        position: superblock.replay,
        visited: BTreeSet::new(),
        read_bytes: 0,
    };
    follower.start()?;
    let mut durable_through = superblock.durable_through;
    let mut batches = Vec::new();
    // The last batch is kept with the position before it, since it may have to be written again.
    let mut last: Option<(LogPosition, PlacedBatch, Vec<u8>)> = None;
    loop {
        let before = follower.position;
        if let Some((header, records)) = follower.next()? {
            durable_through = durable_through.max(header.durable_through);
            let place = (header.segment, u64::from(header.offset) + batch::HEADER_BYTES as u64);
            let placed = PlacedBatch {
                first_lsn: header.first_lsn,
                count: header.record_count,
                len: records.len(),
                place,
            };
            batches.extend(last.replace((before, placed, records)).map(|(_, placed, _)| placed));
        } else {
            break;
        }
    }
    follower.check_end(durable_through)?;
    let end = follower.position;
    let (tail, before_tail) = match last {
        Some((before, placed, records)) if end.lsn.0 - 1 > durable_through.0 => {
            if before.lsn.0 - 1 > durable_through.0 {
                let detail = "the last two batches are not known to be durable, which cannot be";
                return Err(follower.corrupt(detail));
            }
            let tail = Tail { first_lsn: placed.first_lsn, count: placed.count, records };
            (Some(tail), before)
        }
        Some((_, placed, _)) => {
            batches.push(placed);
            (None, end)
        }
        None => (None, end),
    };
    if let Some((segment, _)) = end.segment {
        segments.seal(segment, end.lsn);
    }
    Ok(LogEnd {
        batches,
        tail,
        before_tail,
        durable_through,
        visited: follower.visited,
        read_bytes: follower.read_bytes,
    })
}

impl Follower<'_> {
    fn header(&self, segment: SegmentId) -> Option<&SegmentHeader> {
        self.found.get(&segment)?.header.as_ref()
    }

    /// Checks that the replay position exists.
    fn start(&mut self) -> Result<()> {
        let Some((segment, generation)) = self.position.segment else { return Ok(()) };
        match self.header(segment) {
            Some(header) if header.generation == generation => {
                let header = header.clone();
                self.enter(&header);
                Ok(())
            }
            _ => Err(self.corrupt("the log to replay starts here, but the segment is another")),
        }
    }

    /// Goes to a segment. What the checkpoint did not know of it is in use from now on.
    fn enter(&mut self, header: &SegmentHeader) {
        let entry = SegmentEntry {
            segment: header.segment,
            generation: header.generation,
            size: header.size,
            live_page_bytes: 0,
            live_part_bytes: 0,
        };
        self.segments.restore_if_new(&entry);
        self.visited.insert(header.segment);
    }

    /// Whether a batch or segment of `incarnation` can hold the LSN expected next: beyond what the
    /// superblock knows to be durable, only this incarnation has written.
    fn is_current(&self, incarnation: Incarnation) -> bool {
        incarnation == self.superblock.incarnation
            || (incarnation < self.superblock.incarnation
                && self.position.lsn <= self.superblock.durable_through)
    }

    /// The next batch that continues the log, if there is one.
    fn next(&mut self) -> Result<Option<(BatchHeader, Vec<u8>)>> {
        loop {
            let here = self.position.segment.and_then(|(segment, _)| self.header(segment));
            let incarnation = here.map_or(Incarnation(0), |header| header.incarnation);
            let unused = self.position.offset == BATCHES_AT;
            let other = self.continuation().cloned();
            // R10
            if let Some(other) = other.clone().filter(|other| other.incarnation > incarnation) {
                self.leave_for(&other);
                continue;
            }
            // R9
            if let Some(here) = here.cloned()
                && let Some((header, hash, records)) = self.batch_at(&here, self.position.offset)?
                && header.first_lsn == self.position.lsn
                && header.previous_hash == self.position.hash
                && self.is_current(header.incarnation)
            {
                self.advance(&header, hash, records.len());
                return Ok(Some((header, records)));
            }
            // R11. A segment in which nothing was read is not left for one of its own time: the
            // log never does that, and so this cannot go round in circles.
            match other.filter(|other| other.incarnation == incarnation && !unused) {
                Some(other) => self.leave_for(&other),
                None => return Ok(None),
            }
        }
    }

    /// Another segment that starts with the expected LSN; of several the latest.
    fn continuation(&self) -> Option<&SegmentHeader> {
        let here = self.position.segment.map(|(segment, _)| segment);
        self.found
            .values()
            .filter_map(|found| found.header.as_ref())
            .filter(|header| {
                header.first_lsn == self.position.lsn
                    && header.previous_hash == self.position.hash
                    && Some(header.segment) != here
                    && self.is_current(header.incarnation)
            })
            .max_by_key(|header| header.incarnation)
    }

    fn leave_for(&mut self, header: &SegmentHeader) {
        if let Some((segment, _)) = self.position.segment {
            self.segments.seal(segment, self.position.lsn);
        }
        self.enter(header);
        self.position.segment = Some((header.segment, header.generation));
        self.position.offset = BATCHES_AT;
    }

    fn advance(&mut self, header: &BatchHeader, hash: Hash, record_bytes: usize) {
        let len = batch::padded_bytes(record_bytes);
        self.read_bytes += len as u64;
        self.position.offset += crate::format::stored_len(len);
        self.position.lsn = header.next_lsn();
        self.position.hash = hash;
    }

    /// The batch at an offset, if a valid one of this segment's generation is there.
    fn batch_at(
        &self,
        segment: &SegmentHeader,
        offset: u32,
    ) -> Result<Option<(BatchHeader, Hash, Vec<u8>)>> {
        if segment.size - offset.min(segment.size) < BLOCK_BYTES_STORED {
            return Ok(None);
        }
        let mut block = vec![0; BLOCK_BYTES];
        let files = &self.segments.files;
        files.read_at(segment.segment, u64::from(offset), &mut block)?;
        let Some(unverified) = UnverifiedBatch::parse(
            &block,
            segment.store,
            segment.segment,
            segment.generation,
            offset,
            segment.size,
        ) else {
            return Ok(None);
        };
        let len = unverified.record_bytes();
        let mut records = block.split_off(batch::HEADER_BYTES);
        let have = records.len();
        records.resize(len, 0);
        if len > have {
            let at = u64::from(offset) + BLOCK_BYTES as u64;
            files.read_at(segment.segment, at, &mut records[have..])?;
        }
        Ok(unverified.verify(&records).map(|(header, hash)| (header, hash, records)))
    }

    /// Tells a torn tail from corruption (R12 to R14).
    fn check_end(&self, durable_through: Lsn) -> Result<()> {
        let expected = self.position.lsn;
        if expected <= durable_through {
            return Err(self.corrupt(format!(
                "no valid batch starts here with LSN {expected}, though all up to LSN \
                 {durable_through} was durable"
            )));
        }
        let current = self.superblock.incarnation;
        let later = self
            .found
            .values()
            .filter_map(|found| found.header.as_ref())
            .find(|header| header.incarnation == current && header.first_lsn > expected);
        if let Some(later) = later {
            return Err(self.corrupt(format!(
                "no valid batch starts here with LSN {expected}, though segment {} goes on with \
                 LSN {}",
                later.segment, later.first_lsn
            )));
        }
        let here = self.position.segment.and_then(|(segment, _)| self.header(segment));
        let Some(here) = here else { return Ok(()) };
        let mut offset = self.position.offset;
        let mut is_first = true;
        while offset < here.size {
            if let Some((header, _, _)) = self.batch_at(here, offset)?
                && header.incarnation == current
                && header.first_lsn >= expected
            {
                return Err(self.corrupt(format!(
                    "no valid batch starts here with LSN {expected}, though one with LSN {} does \
                     at offset {offset}",
                    header.first_lsn
                )));
            }
            if is_first {
                self.note_torn(here, offset)?;
                is_first = false;
            }
            offset += BLOCK_BYTES_STORED;
        }
        Ok(())
    }

    /// Says in the trace that a torn batch is discarded, if one is there.
    fn note_torn(&self, segment: &SegmentHeader, offset: u32) -> Result<()> {
        let mut block = vec![0; BLOCK_BYTES];
        self.segments.files.read_at(segment.segment, u64::from(offset), &mut block)?;
        if block.iter().any(|&byte| byte != 0) {
            tracing::debug!(
                segment = segment.segment.0,
                offset,
                lsn = self.position.lsn.0,
                "the log ends before bytes that are no batch: torn, or of an earlier use"
            );
        }
        Ok(())
    }

    fn corrupt(&self, detail: impl Into<String>) -> Error {
        let segment = self.position.segment.map_or(SegmentId(0), |(segment, _)| segment);
        Error::Corrupt {
            path: segment_path(&self.segments.files, segment),
            offset: u64::from(self.position.offset),
            detail: detail.into(),
        }
    }
}
