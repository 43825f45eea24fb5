//! The segment files there are, and what their headers say.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::corrupt;
use crate::config::FormatParams;
use crate::error::{Error, Result};
use crate::format::BLOCK_BYTES;
use crate::format::StoredRef;
use crate::format::catalog::{Root, SegmentEntry};
use crate::format::segment::SegmentHeader;
use crate::io::{FileName, Io};
use crate::segments::{Ready, Segments};
use crate::types::{Generation, Lsn, SegmentId, StoreId};

/// A segment file.
#[derive(Debug)]
pub(super) struct Found {
    /// Bytes in the file.
    pub(super) len: u64,
    /// `None` if it was never put to use.
    pub(super) header: Option<SegmentHeader>,
}

impl Found {
    /// Whether the file is what a checkpoint's table describes: a segment put to use, in the
    /// generation it names.
    pub(super) fn is_generation_of(&self, entry: &SegmentEntry) -> bool {
        self.header.as_ref().is_some_and(|header| header.generation == entry.generation)
    }

    /// The file as one that can be put to use; `None` if it is not a whole segment.
    pub(super) fn as_ready(&self, format: FormatParams) -> Option<Ready> {
        let size = match &self.header {
            Some(header) => header.size,
            None => u32::try_from(self.len).ok()?,
        };
        let whole = size.is_power_of_two()
            && size >= format.segment_bytes_min
            && u64::from(size) <= self.len;
        let generation = self.header.as_ref().map_or(Generation(0), |header| header.generation);
        whole.then_some(Ready { generation, size })
    }
}

/// Reads the headers of all segments.
pub(super) fn scan(io: &Arc<dyn Io>, store: StoreId) -> Result<BTreeMap<SegmentId, Found>> {
    let failed = |operation, segment: Option<SegmentId>| {
        let path = segment.map_or_else(
            || io.describe(),
            |segment| format!("{}/{}", io.describe(), FileName::Segment(segment)),
        );
        move |source| Error::Io { operation, path, offset: None, source }
    };
    let mut found = BTreeMap::new();
    for segment in io.list_segments().map_err(failed("list", None))? {
        let file = io.open(FileName::Segment(segment)).map_err(failed("open", Some(segment)))?;
        let len = file.len().map_err(failed("find the length of", Some(segment)))?;
        let header = if len < BLOCK_BYTES as u64 {
            None
        } else {
            let mut block = vec![0; BLOCK_BYTES];
            file.read_at(0, &mut block).map_err(failed("read", Some(segment)))?;
            SegmentHeader::decode(&block, segment, store)
                .map_err(|malformed| corrupt(&**io, segment, 0, malformed.0))?
        };
        if let Some(header) = &header
            && u64::from(header.size) > len
        {
            let detail =
                format!("it ends there, but its header says that it has {} bytes", header.size);
            return Err(corrupt(&**io, segment, len, detail));
        }
        found.insert(segment, Found { len, header });
    }
    Ok(found)
}

/// The segments that the checkpoint knows, with what was live in them at its cut, its own root
/// included.
///
/// The root cannot count the record it is in, and was made before that record found its segment: so
/// what it says of that segment may be old, or nothing.
pub(super) fn checkpoint_table(
    found: &BTreeMap<SegmentId, Found>,
    root: Option<&Root>,
    root_part: Option<StoredRef>,
) -> Vec<SegmentEntry> {
    let (Some(root), Some(part)) = (root, root_part) else { return Vec::new() };
    let mut table = root.segments.clone();
    let at = match table.binary_search_by_key(&part.segment, |entry| entry.segment) {
        Ok(at) => at,
        Err(at) => {
            let entry = SegmentEntry {
                segment: part.segment,
                generation: Generation(0),
                size: 0,
                is_ready: false,
                live_page_bytes: 0,
                live_part_bytes: 0,
            };
            table.insert(at, entry);
            at
        }
    };
    let entry = &mut table[at];
    let header = found.get(&part.segment).and_then(|found| found.header.as_ref());
    if !is_needed(entry)
        && let Some(header) = header
    {
        entry.generation = header.generation;
        entry.size = header.size;
    }
    entry.is_ready = false;
    entry.live_part_bytes += u64::from(part.len);
    table
}

fn is_needed(entry: &SegmentEntry) -> bool {
    entry.live_page_bytes > 0 || entry.live_part_bytes > 0
}

/// Restores the segments that the checkpoint needs, with what was live in them at its cut.
pub(super) fn restore_needed(
    segments: &Segments,
    found: &BTreeMap<SegmentId, Found>,
    table: &[SegmentEntry],
) -> Result<()> {
    for entry in table {
        match found.get(&entry.segment) {
            // Ready then, and not put to use since: as good as not known.
            Some(found) if entry.is_ready && found.is_generation_of(entry) => {}
            // Sealed before the log that is replayed; if it is not, the replay corrects that.
            Some(found) if found.is_generation_of(entry) => {
                segments.restore_in_use(entry, Lsn(0));
            }
            _ if !is_needed(entry) => {}
            other => {
                let path =
                    format!("{}/{}", segments.files.describe(), FileName::Segment(entry.segment));
                let detail = match other.and_then(|found| found.header.as_ref()) {
                    Some(header) => format!(
                        "the checkpoint needs its generation {}, but it has {}",
                        entry.generation, header.generation
                    ),
                    None if other.is_some() => "the checkpoint needs it, but it is empty".into(),
                    None => "the checkpoint needs it, but there is no such file".into(),
                };
                return Err(Error::Corrupt { path, offset: 0, detail });
            }
        }
    }
    Ok(())
}
