//! Following the log from the replay position to its end.

use std::collections::BTreeSet;

use super::scan::{Files, entry_of};
use crate::error::{Error, Result};
use crate::format::batch::{self, BatchHeader, UnverifiedBatch};
use crate::format::record::{self, Record};
use crate::format::segment::{BATCHES_AT, SegmentHeader, SegmentKind};
use crate::format::superblock::{LogPosition, Superblock};
use crate::format::{BLOCK_BYTES, BLOCK_BYTES_STORED, Hash};
use crate::segments::Segments;
use crate::types::{FileNo, Incarnation, Lsn, SegmentId, StoreId};

/// The log breaks off where its next piece is not found, which need not be where the damage is.
const OR_GONE: &str = "; if this place is not damaged, the file of a segment is missing, was cut off or lost its header";

/// A batch that stays where it is.
#[derive(Debug)]
pub(super) struct PlacedBatch {
    pub(super) records: Vec<Record>,
    /// Segment, and offset of the records.
    pub(super) place: (SegmentId, u64),
}

/// A place where a batch may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spot {
    pub(crate) store: StoreId,
    pub(crate) file: FileNo,
    /// `None`: any.
    pub(crate) segment: Option<SegmentId>,
    pub(crate) offset: u32,
    /// Size of the segment.
    pub(crate) end: u32,
}

impl Spot {
    /// The batch that is there, if it is valid.
    pub(crate) fn batch(self, segments: &Segments) -> Result<Option<(BatchHeader, Hash, Vec<u8>)>> {
        if self.end - self.offset.min(self.end) < BLOCK_BYTES_STORED {
            return Ok(None);
        }
        let mut block = vec![0; BLOCK_BYTES];
        let files = &segments.files;
        files.read_file_at(self.file, u64::from(self.offset), &mut block)?;
        let Self { store, file, segment, offset, end } = self;
        let parsed = UnverifiedBatch::parse(&block, store, segment, offset, end);
        let Some(unverified) = parsed else { return Ok(None) };
        let len = unverified.record_bytes();
        let mut records = block.split_off(batch::HEADER_BYTES);
        let have = records.len();
        records.resize(len, 0);
        if len > have {
            let at = u64::from(offset) + BLOCK_BYTES as u64;
            files.read_file_at(file, at, &mut records[have..])?;
        }
        Ok(unverified.verify(&records).map(|(header, hash)| (header, hash, records)))
    }
}

/// The last batch, if it is not known to be durable.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) count: u32,
    pub(super) bytes: Vec<u8>,
    pub(super) records: Vec<Record>,
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
    /// Files the log was followed through.
    pub(super) visited: BTreeSet<FileNo>,
    pub(super) read_bytes: u64,
}

struct Follower<'a> {
    segments: &'a Segments,
    files: &'a Files,
    superblock: &'a Superblock,
    position: LogPosition,
    /// The position after the last batch that was read. `position` may be in a segment that was
    /// entered since and in which nothing valid was found: its header may not even be durable, so
    /// nothing may be built on it.
    confirmed: LogPosition,
    visited: BTreeSet<FileNo>,
    read_bytes: u64,
}

/// Follows the log to its end and decides what the end means (R9 to R15).
pub(super) fn find_end(
    segments: &Segments,
    files: &Files,
    superblock: &Superblock,
    lenient: bool,
) -> Result<LogEnd> {
    let mut follower = Follower {
        segments,
        files,
        superblock,
        position: superblock.replay,
        confirmed: superblock.replay,
        visited: BTreeSet::new(),
        read_bytes: 0,
    };
    follower.start()?;
    let mut durable_through = superblock.durable_through;
    let mut batches = Vec::new();
    // The last batch is kept with the position before it, since it may have to be written again.
    let mut last: Option<(LogPosition, PlacedBatch, u32, Vec<u8>)> = None;
    loop {
        let before = follower.confirmed;
        let Some((header, bytes)) = follower.next()? else { break };
        durable_through = durable_through.max(header.durable_through);
        let count = header.record_count;
        let place = (header.segment, u64::from(header.offset) + batch::HEADER_BYTES as u64);
        // Decoded at once: only where pages are is kept, not the pages.
        let records = record::decode_all(&bytes, header.first_lsn, count).map_err(|malformed| {
            let path = segments.files.path(header.segment);
            let detail = format!("a batch whose checksum is right makes no sense: {}", malformed.0);
            Error::Corrupt { path, offset: place.1, detail }
        })?;
        let placed = PlacedBatch { records, place };
        batches.extend(last.replace((before, placed, count, bytes)).map(|(_, placed, ..)| placed));
    }
    match follower.check_end(durable_through) {
        Err(error) if lenient => tracing::warn!(%error, "the log is taken up to there"),
        checked => checked?,
    }
    let end = follower.confirmed;
    let (tail, before_tail) = match last {
        Some((before, placed, count, bytes)) if end.lsn.0 - 1 > durable_through.0 => {
            if before.lsn.0 - 1 > durable_through.0 && !lenient {
                let detail = "the last two batches are not known to be durable, which cannot be";
                return Err(follower.corrupt(detail));
            }
            (Some(Tail { count, bytes, records: placed.records }), before)
        }
        Some((_, placed, ..)) => {
            batches.push(placed);
            (None, end)
        }
        None => (None, end),
    };
    if let Some(segment) = end.segment {
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
        self.files.header(segment).filter(|header| header.kind == SegmentKind::Log)
    }

    /// The headers of all segments of the log.
    fn headers(&self) -> impl Iterator<Item = &SegmentHeader> {
        self.files.headers().filter(|header| header.kind == SegmentKind::Log)
    }

    /// Checks that the replay position exists.
    fn start(&mut self) -> Result<()> {
        let Some(segment) = self.position.segment else { return Ok(()) };
        match self.header(segment).cloned() {
            Some(header) => {
                self.enter(&header);
                Ok(())
            }
            None => Err(self.corrupt("the log to replay starts here, but the segment is another")),
        }
    }

    /// Goes to a segment. What the checkpoint did not know of it is in use from now on.
    fn enter(&mut self, header: &SegmentHeader) {
        self.segments.restore_if_new(&entry_of(header));
        self.visited.insert(header.file);
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
            let here = self.position.segment.and_then(|segment| self.header(segment));
            let incarnation = here.map_or(Incarnation(0), |header| header.incarnation);
            let unused = self.position.offset == BATCHES_AT;
            let other = self.continuation()?.cloned();
            // R10
            if let Some(other) = other.clone().filter(|other| other.incarnation > incarnation) {
                self.leave_for(&other);
                continue;
            }
            // R9
            if let Some(here) = here.cloned()
                && let Some((header, hash, records)) =
                    self.spot(&here, self.position.offset).batch(self.segments)?
                && header.first_lsn == self.position.lsn
                && header.previous_hash == self.position.hash
                && self.is_current(header.incarnation)
            {
                self.advance(&here, &header, hash, records.len());
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
    fn continuation(&self) -> Result<Option<&SegmentHeader>> {
        let here = self.position.segment;
        let candidates = || {
            self.headers().filter(|header| {
                header.first_lsn == self.position.lsn
                    && header.previous_hash == self.position.hash
                    && Some(header.segment) != here
                    && self.is_current(header.incarnation)
            })
        };
        let latest = candidates().max_by_key(|header| header.incarnation);
        if let Some(latest) = latest
            && candidates().filter(|header| header.incarnation == latest.incarnation).count() > 1
        {
            return Err(self.corrupt("two segments of one incarnation continue the log here"));
        }
        Ok(latest)
    }

    fn leave_for(&mut self, header: &SegmentHeader) {
        self.position.segment = Some(header.segment);
        self.position.offset = BATCHES_AT;
    }

    fn advance(
        &mut self,
        segment: &SegmentHeader,
        header: &BatchHeader,
        hash: Hash,
        record_bytes: usize,
    ) {
        if let Some(before) = self.confirmed.segment
            && before != header.segment
        {
            self.segments.seal(before, self.confirmed.lsn);
        }
        self.enter(segment);
        let len = batch::padded_bytes(record_bytes);
        self.read_bytes += len as u64;
        self.position.offset += crate::format::stored_len(len);
        self.position.lsn = header.next_lsn();
        self.position.hash = hash;
        self.confirmed = self.position;
    }

    fn spot(&self, segment: &SegmentHeader, offset: u32) -> Spot {
        Spot {
            store: segment.store,
            file: segment.file,
            segment: Some(segment.segment),
            offset,
            end: segment.size,
        }
    }

    /// Tells a torn tail from corruption (R12 to R14).
    fn check_end(&self, durable_through: Lsn) -> Result<()> {
        let expected = self.position.lsn;
        // First, since it names the file.
        self.check_headless(expected)?;
        if expected <= durable_through {
            return Err(self.corrupt(format!(
                "no valid batch starts here with LSN {expected}, though all up to LSN \
                 {durable_through} was durable{OR_GONE}"
            )));
        }
        let current = self.superblock.incarnation;
        let later = self
            .headers()
            .find(|header| header.incarnation == current && header.first_lsn > expected);
        if let Some(later) = later {
            return Err(self.corrupt(format!(
                "no valid batch starts here with LSN {expected}, though segment {} goes on with \
                 LSN {}{OR_GONE}",
                later.segment, later.first_lsn
            )));
        }
        let here = self.position.segment.and_then(|segment| self.header(segment));
        let Some(here) = here else { return Ok(()) };
        let mut offset = self.position.offset;
        let mut is_first = true;
        while offset < here.size {
            if let Some((header, _, _)) = self.spot(here, offset).batch(self.segments)?
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

    /// Segments whose header is zeros were never put to use, or were about to be when the crash
    /// came: then they can have one batch, the expected one, that was not acknowledged. Anything
    /// more is corruption (R7, R13).
    fn check_headless(&self, expected: Lsn) -> Result<()> {
        for (&file, found) in &self.files.by_number {
            let Ok(end) = u32::try_from(found.len) else { continue };
            if found.header.is_some() || end < BATCHES_AT + BLOCK_BYTES_STORED {
                continue;
            }
            let mut block = vec![0; BLOCK_BYTES];
            self.segments.files.read_file_at(file, u64::from(BATCHES_AT), &mut block)?;
            if block.iter().all(|&byte| byte == 0) {
                continue;
            }
            let (store, mut offset) = (self.superblock.store, BATCHES_AT);
            while offset < end {
                let spot = Spot { store, file, segment: None, offset, end };
                if let Some((header, _, _)) = spot.batch(self.segments)?
                    && header.kind == SegmentKind::Log
                    && header.incarnation == self.superblock.incarnation
                    && (header.first_lsn > expected || header.durable_through >= expected)
                {
                    return Err(Error::Corrupt {
                        path: self.segments.files.path_of(file),
                        offset: 0,
                        detail: format!(
                            "its header is empty, though a batch with LSN {} follows at offset \
                             {offset}, and LSN {expected} is missing",
                            header.first_lsn
                        ),
                    });
                }
                offset += BLOCK_BYTES_STORED;
            }
        }
        Ok(())
    }

    /// Says in the trace that a torn batch is discarded, if one is there.
    fn note_torn(&self, segment: &SegmentHeader, offset: u32) -> Result<()> {
        let mut block = vec![0; BLOCK_BYTES];
        self.segments.files.read_file_at(segment.file, u64::from(offset), &mut block)?;
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
        let segment = self.position.segment.unwrap_or(SegmentId(0));
        let path = match self.files.header(segment) {
            Some(header) => self.segments.files.path_of(header.file),
            None => self.segments.files.path(segment),
        };
        Error::Corrupt { path, offset: u64::from(self.position.offset), detail: detail.into() }
    }
}
