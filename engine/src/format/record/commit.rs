//! Commits, spills and images: the records that have pages.

use super::{COMMIT, GROUP, HEADER_BYTES, Header, IMAGES, Record, SPILL, split, start};
use crate::format::catalog::VersionMeta;
use crate::format::page::{self, UnverifiedPage};
use crate::format::{Malformed, Reader, StoredRef, stored_len};
use crate::types::{FacetId, Incarnation, Lsn, PageNo, PageSize, Version};

pub(super) const COMMIT_FIXED_BYTES: usize = 72;
pub(super) const REFERRED_BYTES: usize = 24;
/// Bytes of a group record before its commits.
pub(crate) const GROUP_BYTES: usize = HEADER_BYTES + 8;
/// Bytes of an images record before its pages.
pub(crate) const IMAGES_BYTES: usize = HEADER_BYTES + 24;

/// What a commit says besides its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommitHeader {
    pub(crate) facet: FacetId,
    /// The version it makes. Its LSN is the record's.
    pub(crate) meta: VersionMeta,
    pub(crate) monotonic_ns: u64,
    pub(crate) pages_kept: u32,
}

/// A page that a commit has by reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Referred {
    pub(crate) page: PageNo,
    /// `None`: as if it was never written.
    pub(crate) reference: Option<StoredRef>,
    /// It was spilled by this transaction; if not, it is of an older version.
    pub(crate) is_spilled: bool,
}

/// The record of an image, `at` bytes from the start of the records that were decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlacedPage {
    pub(crate) page: PageNo,
    pub(crate) at: usize,
    pub(crate) len: u32,
    pub(crate) crc: u32,
}

/// A page of a commit as recovery sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CommittedPage {
    /// By reference.
    Referred(Referred),
    /// In the commit record, as an image.
    Inline(PlacedPage),
    /// In the commit record, as a delta, whose page record this is.
    Delta { page: PageNo, record: Box<[u8]> },
}

impl CommittedPage {
    pub(crate) fn number(&self) -> PageNo {
        match self {
            Self::Referred(Referred { page, .. })
            | Self::Inline(PlacedPage { page, .. })
            | Self::Delta { page, .. } => *page,
        }
    }
}

/// Starts a commit record: `inline` page records must follow, then [`finish`].
pub(crate) fn start_commit(
    lsn: Lsn,
    header: &CommitHeader,
    referred: &[Referred],
    inline: usize,
    out: &mut Vec<u8>,
) -> usize {
    let start = start(COMMIT, lsn, out);
    let meta = &header.meta;
    for value in [header.facet.0, meta.version.0, meta.wall_ms, header.monotonic_ns] {
        out.extend_from_slice(&value.to_le_bytes());
    }
    let (referred_len, inline) = (stored_len(referred.len()), stored_len(inline));
    for value in [meta.page_count, header.pages_kept, referred_len, inline] {
        out.extend_from_slice(&value.to_le_bytes());
    }
    out.extend_from_slice(&[meta.page_size.map_or(0, PageSize::log2), 0, 0, 0]);
    out.extend_from_slice(&meta.incarnation.0.to_le_bytes());
    debug_assert_eq!(out.len() - start, COMMIT_FIXED_BYTES);
    for page in referred {
        out.extend_from_slice(&page.page.0.to_le_bytes());
        out.extend_from_slice(&u32::from(page.is_spilled).to_le_bytes());
        StoredRef::encode(page.reference, out);
    }
    start
}

/// Starts a spill record: `count` page records must follow, then [`finish`].
pub(crate) fn start_spill(lsn: Lsn, facet: FacetId, count: usize, out: &mut Vec<u8>) -> usize {
    let start = start(SPILL, lsn, out);
    out.extend_from_slice(&facet.0.to_le_bytes());
    out.extend_from_slice(&stored_len(count).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    start
}

/// Starts an images record of a checkpoint with that cut: `count` page records must follow, then
/// [`finish`](super::finish).
pub(crate) fn start_images(
    lsn: Lsn,
    facet: FacetId,
    cut: Lsn,
    count: usize,
    out: &mut Vec<u8>,
) -> usize {
    let start = start(IMAGES, lsn, out);
    out.extend_from_slice(&facet.0.to_le_bytes());
    out.extend_from_slice(&stored_len(count).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&cut.0.to_le_bytes());
    start
}

/// Most bytes a commit of that many pages takes.
pub(crate) fn commit_bytes_max(referred: usize, inline: usize, size: PageSize) -> usize {
    COMMIT_FIXED_BYTES + referred * REFERRED_BYTES + inline * page::record_bytes_max(size)
}

/// Starts a group record: `count` commit records of the same LSN must follow, then
/// [`finish`](super::finish).
pub(crate) fn start_group(lsn: Lsn, count: usize, out: &mut Vec<u8>) -> usize {
    let start = start(GROUP, lsn, out);
    out.extend_from_slice(&stored_len(count).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    start
}

/// Decodes the body of a commit record, which is `body_at` bytes from the start of the records.
pub(super) fn decode(lsn: Lsn, body: &[u8], body_at: usize) -> Result<Record, Malformed> {
    let mut reader = Reader::new(body);
    let facet = FacetId(reader.u64()?);
    let version = Version(reader.u64()?);
    let (wall_ms, monotonic_ns) = (reader.u64()?, reader.u64()?);
    let (page_count, pages_kept) = (reader.u32()?, reader.u32()?);
    let (referred, inline) = (reader.u32()?, reader.u32()?);
    let page_size = PageSize::decode(&mut reader)?;
    reader.reserved(3)?;
    let incarnation = Incarnation(reader.u32()?);
    let meta = VersionMeta { version, incarnation, lsn, wall_ms, page_count, page_size };
    let header = CommitHeader { facet, meta, monotonic_ns, pages_kept };
    let in_range = |page: PageNo| {
        if page.0 <= page_count {
            Ok(page)
        } else {
            Err(Malformed("a commit has a page beyond the facet's end"))
        }
    };
    let mut pages = Vec::new();
    for _ in 0..referred {
        let page = in_range(reader.page_no()?)?;
        let is_spilled = match reader.u32()? {
            0 => false,
            1 => true,
            _ => return Err(Malformed("the origin of a page is unknown")),
        };
        let reference = StoredRef::decode(&mut reader)?;
        if is_spilled && reference.is_none() {
            return Err(Malformed("a spilled page has no place"));
        }
        pages.push(CommittedPage::Referred(Referred { page, reference, is_spilled }));
    }
    for _ in 0..inline {
        let at = body_at + (body.len() - reader.remaining());
        let page = UnverifiedPage::parse(&body[body.len() - reader.remaining()..])?;
        if Some(page.size()) != page_size {
            return Err(Malformed("a page has another size than its commit says"));
        }
        let record = reader.take(page.len)?;
        let number = in_range(page.page)?;
        pages.push(if page.is_delta() {
            CommittedPage::Delta { page: number, record: record.into() }
        } else {
            let (len, crc) = (stored_len(page.len), page.crc);
            CommittedPage::Inline(PlacedPage { page: number, at, len, crc })
        });
    }
    if reader.remaining() != 0 {
        return Err(Malformed("bytes follow the last page of a commit"));
    }
    Ok(Record::Commit { header, pages })
}

/// Decodes the body of an images record, which is `body_at` bytes from the start of the records.
pub(super) fn decode_images(body: &[u8], body_at: usize) -> Result<Record, Malformed> {
    let mut reader = Reader::new(body);
    let _facet = reader.u64()?;
    let count = reader.u32()?;
    reader.reserved(4)?;
    let cut = Lsn(reader.counter64()?);
    let mut pages = Vec::new();
    for _ in 0..count {
        let rest_at = body.len() - reader.remaining();
        let page = UnverifiedPage::parse(&body[rest_at..])?;
        if page.is_delta() {
            return Err(Malformed("a delta is among images"));
        }
        reader.take(page.len)?;
        let (len, crc) = (stored_len(page.len), page.crc);
        pages.push(PlacedPage { page: page.page, at: body_at + rest_at, len, crc });
    }
    if reader.remaining() == 0 {
        Ok(Record::Images { cut, pages })
    } else {
        Err(Malformed("bytes follow the last image"))
    }
}

/// Hands each commit of a group, whose record is `at` bytes from the start of the records, to `each`.
pub(super) fn walk_group<'a>(
    group: &Header,
    body: &'a [u8],
    at: usize,
    each: &mut impl FnMut(&Header, &'a [u8], usize) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let mut reader = Reader::new(body);
    let count = reader.u32()?;
    reader.reserved(4)?;
    if count < 2 {
        return Err(Malformed("a group has fewer than two commits"));
    }
    for _ in 0..count {
        let rest_at = body.len() - reader.remaining();
        let (header, commit) = split(&body[rest_at..])?;
        if header.kind != COMMIT || header.lsn != group.lsn {
            return Err(Malformed("a group has something else than its own commits"));
        }
        each(&header, commit, at + HEADER_BYTES + rest_at)?;
        reader.take(header.len)?;
    }
    if reader.remaining() == 0 { Ok(()) } else { Err(Malformed("bytes follow a group")) }
}
