//! The segment files there are, and what their headers say.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Spot, corrupt};
use crate::config::FormatParams;
use crate::error::{Error, Result};
use crate::format::BLOCK_BYTES;
use crate::format::StoredRef;
use crate::format::batch::UnverifiedBatch;
use crate::format::catalog::{Root, SegmentEntry};
use crate::format::segment::{BATCHES_AT, SegmentHeader};
use crate::io::{FileName, Io};
use crate::segments::{Ready, Segments};
use crate::types::{FileNo, Incarnation, Lsn, SegmentId, StoreId};

/// A segment file.
#[derive(Debug)]
pub(super) struct Found {
    /// Bytes in the file.
    pub(super) len: u64,
    /// `None` if it was never put to use.
    pub(super) header: Option<SegmentHeader>,
}

impl Found {
    /// The file as one that can be put to use; `None` if it is not a whole segment.
    pub(super) fn as_ready(&self, format: FormatParams) -> Option<Ready> {
        let size = match &self.header {
            Some(header) => header.size,
            None => u32::try_from(self.len).ok()?,
        };
        let whole = size.is_power_of_two()
            && size >= format.segment_bytes_min
            && u64::from(size) <= self.len;
        whole.then_some(Ready { size })
    }
}

/// All segment files.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) by_number: BTreeMap<FileNo, Found>,
    by_segment: BTreeMap<SegmentId, FileNo>,
}

impl Files {
    pub(super) fn headers(&self) -> impl Iterator<Item = &SegmentHeader> {
        self.by_number.values().filter_map(|found| found.header.as_ref())
    }

    /// Segments whose header a crash took, but not the batch that was written with it, and the
    /// incarnations that put them to use. Their numbers must not be given out again (R18).
    ///
    /// The first batch alone is looked at: nothing else is written to a segment before its header is synced. And
    /// not that of segments in `known`, the checkpoint's: no file of those is put to use anew as long as
    /// that is the checkpoint to recover from.
    pub(super) fn headless(
        &self,
        segments: &Segments,
        store: StoreId,
        known: &[SegmentEntry],
    ) -> Result<Vec<(SegmentId, Incarnation)>> {
        const FIRST: std::ops::Range<u64> = BLOCK_BYTES as u64..2 * BLOCK_BYTES as u64;
        let is_known = |file, header: &SegmentHeader| {
            let found = known.binary_search_by_key(&header.segment, |entry| entry.segment);
            found.is_ok_and(|at| known[at].file == file)
        };
        // A file that ends before has no batch.
        let doubtful = || {
            let files = self.by_number.iter().map(|(&file, found)| (file, found));
            files.filter(|(file, found)| {
                let header = found.header.as_ref();
                found.len >= FIRST.end && header.is_none_or(|header| !is_known(*file, header))
            })
        };
        let places = doubtful().map(|(file, _)| (FileName::Segment(file), FIRST));
        segments.files.will_read_files(&places.collect::<Vec<_>>());
        let mut headless = Vec::new();
        let mut block = vec![0; BLOCK_BYTES];
        for (file, found) in doubtful() {
            segments.files.read_file_at(file, FIRST.start, &mut block)?;
            let end = u32::try_from(found.len).unwrap_or(u32::MAX);
            let batch = UnverifiedBatch::parse(&block, store, None, BATCHES_AT, end);
            let of_header = found.header.as_ref().map_or(SegmentId(0), |header| header.segment);
            let Some(segment) = batch.map(|batch| batch.segment()).filter(|&it| it > of_header)
            else {
                continue;
            };
            let spot = Spot { store, file, segment: Some(segment), offset: BATCHES_AT, end };
            if let Some((header, ..)) = spot.batch(segments)? {
                headless.push((segment, header.incarnation));
            }
        }
        Ok(headless)
    }

    /// The header of a segment, if there is a file that holds it.
    pub(super) fn header(&self, segment: SegmentId) -> Option<&SegmentHeader> {
        self.by_number.get(self.by_segment.get(&segment)?)?.header.as_ref()
    }
}

/// Reads the headers of all segment files.
pub(super) fn scan(io: &Arc<dyn Io>, store: StoreId) -> Result<Files> {
    let failed = |operation, file: Option<FileNo>| {
        let path = file.map_or_else(
            || io.describe(),
            |file| format!("{}/{}", io.describe(), FileName::Segment(file)),
        );
        move |source| Error::Io { operation, path, offset: None, source }
    };
    let mut files = Files::default();
    for number in io.list_segments().map_err(failed("list", None))? {
        let file = io.open(FileName::Segment(number)).map_err(failed("open", Some(number)))?;
        let len = file.len().map_err(failed("find the length of", Some(number)))?;
        // A file that was never put to use may be short: then it has zeros, which say that there is no
        // header. One that was in use has a header, however short it is now.
        let mut block = vec![0; BLOCK_BYTES];
        let there = usize::try_from(len).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
        file.read_at(0, &mut block[..there]).map_err(failed("read", Some(number)))?;
        let header = SegmentHeader::decode(&block, number, store)
            .map_err(|malformed| corrupt(&**io, number, 0, malformed.0))?;
        if let Some(header) = &header {
            if u64::from(header.size) > len {
                let detail =
                    format!("it ends there, but its header says that it has {} bytes", header.size);
                return Err(corrupt(&**io, number, len, detail));
            }
            if let Some(other) = files.by_segment.insert(header.segment, number) {
                let detail = format!(
                    "its header says that it is segment {}, as file {other} is",
                    header.segment
                );
                return Err(corrupt(&**io, number, 0, detail));
            }
        }
        files.by_number.insert(number, Found { len, header });
    }
    Ok(files)
}

/// The headers that can be read, of whichever store; what cannot is noted.
pub(in crate::store) fn readable_headers(
    io: &Arc<dyn Io>,
    notes: &mut Vec<String>,
) -> Result<Vec<SegmentHeader>> {
    let listed = io.list_segments().map_err(|source| Error::Io {
        operation: "list",
        path: io.describe(),
        offset: None,
        source,
    })?;
    let mut headers = Vec::new();
    for number in listed {
        let read = || -> std::io::Result<Vec<u8>> {
            let file = io.open(FileName::Segment(number))?;
            let mut block = vec![0; BLOCK_BYTES];
            file.read_at(0, &mut block)?;
            Ok(block)
        };
        let path = format!("{}/{}", io.describe(), FileName::Segment(number));
        match read() {
            Ok(block) => match SegmentHeader::decode_any(&block, number) {
                Ok(header) => headers.extend(header),
                Err(malformed) => notes.push(format!("{path}: {}", malformed.0)),
            },
            Err(error) => notes.push(format!("{path}: {error}")),
        }
    }
    Ok(headers)
}

/// The segments that the checkpoint knows, with what is live in them, its own root included.
///
/// The root cannot count the record it is in, and was made before that record found its segment: so
/// what it says of that segment may be too little, or nothing.
pub(super) fn checkpoint_table(
    files: &Files,
    root: Option<&Root>,
    root_part: Option<StoredRef>,
) -> Vec<SegmentEntry> {
    let (Some(root), Some(part)) = (root, root_part) else { return Vec::new() };
    let mut table = root.segments.clone();
    match table.binary_search_by_key(&part.segment, |entry| entry.segment) {
        Ok(at) => table[at].live_part_bytes += u64::from(part.len),
        Err(at) => {
            if let Some(header) = files.header(part.segment) {
                let mut entry = entry_of(header);
                entry.live_part_bytes = u64::from(part.len);
                table.insert(at, entry);
            }
        }
    }
    table
}

/// A segment in which nothing is live as far as is known.
pub(super) fn entry_of(header: &SegmentHeader) -> SegmentEntry {
    SegmentEntry {
        segment: header.segment,
        file: header.file,
        size: header.size,
        kind: header.kind,
        live_page_bytes: 0,
        live_part_bytes: 0,
        born: header.first_lsn,
    }
}

/// Restores the segments that the checkpoint needs, with what is live in them.
pub(super) fn restore_needed(
    segments: &Segments,
    files: &Files,
    table: &[SegmentEntry],
) -> Result<()> {
    for entry in table {
        match files.header(entry.segment) {
            Some(header) if header.file == entry.file => {
                // Sealed before the log that is replayed; if it is not, the replay corrects that.
                segments.restore_in_use(entry, Lsn(0));
            }
            // Nothing was in it, and it was put to use anew since.
            _ if entry.live_page_bytes == 0 && entry.live_part_bytes == 0 => {}
            _ => {
                let path = segments.files.path_of(entry.file);
                let found = files.by_number.get(&entry.file);
                let detail = match found.map(|found| found.header.as_ref()) {
                    Some(Some(header)) => format!(
                        "the checkpoint needs segment {} of it, but it holds segment {}",
                        entry.segment, header.segment
                    ),
                    Some(None) => "the checkpoint needs it, but it is empty".into(),
                    None => "the checkpoint needs it, but there is no such file".into(),
                };
                return Err(Error::Corrupt { path, offset: 0, detail });
            }
        }
    }
    Ok(())
}
