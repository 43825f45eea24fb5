//! A log buffer: encoded records, and what is to happen when they are durable.

use std::sync::{Arc, OnceLock};

use crate::facet::Content;
use crate::facet::Facet;
use crate::format::StoredRef;
use crate::format::catalog::VersionMeta;
use crate::format::record::Referred;
use crate::map::{Node, PendingPage};
use crate::types::{FacetId, Incarnation, Lsn, PageNo, SegmentId};

/// A page in a record: where in the record it is, and the image it was made from.
#[derive(Debug)]
pub(crate) struct PageEffect {
    pub(crate) page: PageNo,
    /// Bytes from the start of the buffer the record is in.
    pub(crate) at: usize,
    pub(crate) len: u32,
    pub(crate) crc: u32,
    /// What is there is no image.
    pub(crate) is_delta: bool,
    pub(crate) image: Arc<PendingPage>,
}

/// A commit to be published.
#[derive(Debug)]
pub(crate) struct CommitEffect {
    pub(crate) facet: Arc<Facet>,
    pub(crate) meta: VersionMeta,
    pub(crate) pages_kept: u32,
    pub(crate) referred: Vec<Referred>,
    pub(crate) pages: Vec<PageEffect>,
}

/// A fork to be published.
#[derive(Debug)]
pub(crate) struct ForkEffect {
    pub(crate) facet: Arc<Facet>,
    pub(crate) source: Arc<Facet>,
    /// What the new facet begins with; `None`: what the source's durable version is by then.
    pub(crate) content: Option<Content>,
    /// Of the fork, whatever its content is from.
    pub(crate) incarnation: Incarnation,
}

/// Where the pages of a spill record went, once they did.
pub(crate) type SpillPlace = Arc<OnceLock<Vec<(PageNo, StoredRef)>>>;

/// Where a checkpoint part goes.
#[derive(Debug)]
pub(crate) enum PartPlace {
    /// A page-map node learns its place, and for which facet it was written.
    Node(Arc<Node>, FacetId),
    /// A chunk or root: the checkpoint waits for it.
    Cell(Arc<OnceLock<StoredRef>>),
}

/// What is to happen when a record is durable.
#[derive(Debug)]
pub(crate) enum Effect {
    /// A version becomes the durable one.
    Commit(CommitEffect),
    /// One transaction of several facets.
    Group(Vec<CommitEffect>),
    /// Pages that were logged as deltas are stored as images.
    Images(Vec<PageEffect>),
    /// Spilled pages have their places, and are pinned.
    Spill { pages: Vec<PageEffect>, place: SpillPlace },
    /// Facets are gone.
    Delete(Vec<Arc<Facet>>),
    /// Facets begin.
    Fork(Vec<ForkEffect>),
    /// A facet begins, empty.
    Create(Arc<Facet>),
    /// Facets have a new name: the next checkpoint has to say so.
    Touch(Vec<Arc<Facet>>),
    /// A checkpoint part has its place: `at`, `len` and `crc` as in [`PageEffect`].
    Part { at: usize, len: u32, crc: u32, place: PartPlace },
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) lsn: Lsn,
    /// The record's bytes in its buffer.
    pub(crate) start: usize,
    pub(crate) len: usize,
    /// What the next checkpoint is more by, at most, once the record is published.
    pub(crate) growth: u64,
    pub(crate) effect: Effect,
}

#[derive(Debug, Default)]
pub(crate) struct Buffer {
    pub(crate) bytes: Vec<u8>,
    pub(crate) entries: Vec<Entry>,
}

impl Buffer {
    /// Appends a record; returns its length.
    pub(crate) fn push(
        &mut self,
        lsn: Lsn,
        growth: u64,
        encode: impl FnOnce(Lsn, &mut Vec<u8>) -> Effect,
    ) -> usize {
        let start = self.bytes.len();
        let effect = encode(lsn, &mut self.bytes);
        let len = self.bytes.len() - start;
        self.entries.push(Entry { lsn, start, len, growth, effect });
        len
    }
}

/// Where a buffer's bytes ended up: turns offsets in the buffer into references.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placement {
    pub(crate) segment: SegmentId,
    /// Offset in the segment of the record, in bytes.
    pub(crate) record_at: u64,
    /// Offset in the buffer of the record.
    pub(crate) start: usize,
}

impl Placement {
    pub(crate) fn of(self, at: usize, len: u32, crc: u32) -> StoredRef {
        let offset = self.record_at + (at - self.start) as u64;
        let slot = u32::try_from(offset / crate::format::SLOT_BYTES as u64)
            .expect("a segment has fewer than 2 to the 32nd slots");
        StoredRef { segment: self.segment, slot, len, crc }
    }

    pub(crate) fn of_page(self, page: &PageEffect) -> StoredRef {
        self.of(page.at, page.len, page.crc)
    }
}
