//! Records: what batches are made of.
//!
//! Every record starts on a multiple of 8 with this header, and its length is a multiple of 8:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 1 | kind |
//! | 1 | 3 | reserved |
//! | 4 | 4 | bytes of the record, this header included |
//! | 8 | 8 | LSN |
//!
//! Kind 1, *commit*: one transaction of one facet.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 16 | 8 | facet |
//! | 24 | 8 | version it makes (the one before plus 1) |
//! | 32 | 8 | wall time in milliseconds since the Unix epoch |
//! | 40 | 8 | monotonic time in nanoseconds since the store was opened |
//! | 48 | 4 | pages of the facet after it |
//! | 52 | 4 | pages kept: pages above this number are dropped before the new ones are put in |
//! | 56 | 4 | number of pages by reference |
//! | 60 | 4 | number of pages inline |
//! | 64 | 1 | binary logarithm of the page size (0: the facet never had a page) |
//! | 65 | 7 | reserved |
//! | 72 | 24 each | page number (4), reserved (4), reference (16) of pages spilled earlier |
//! | … | … | page records of the other pages |
//!
//! Kind 2, *spill*: pages of a transaction that has not committed. Means nothing by itself.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 16 | 8 | facet |
//! | 24 | 4 | number of page records |
//! | 28 | 4 | reserved |
//! | 32 | … | page records |
//!
//! Kind 3, *catalog change*:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 16 | 8 | wall time in milliseconds since the Unix epoch |
//! | 24 | 8 | facet (create only) |
//! | 32 | 1 | 1 create, 2 delete the subtree, 3 rename the subtree |
//! | 33 | 3 | reserved |
//! | 36 | 2 | bytes of the name |
//! | 38 | 2 | bytes of the new name (rename only) |
//! | 40 | … | name, new name, padded with zeros to a multiple of 8 |
//!
//! Kind 4, *checkpoint part*: a page-map node, a catalog chunk or a checkpoint root (see
//! `catalog.rs`). Means nothing by itself; the superblock leads to it. A reference to one covers the
//! whole record, and its checksum is the one stored in it.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 16 | 4 | crc32c of the payload |
//! | 20 | 4 | bytes of payload, without padding |
//! | 24 | … | payload, padded with zeros to a multiple of 8 |

use super::page::UnverifiedPage;
use super::{Malformed, Reader, SLOT_BYTES, StoredRef, catalog, pad, stored_len};
use crate::name::FacetName;
use crate::types::{FacetId, Lsn, PageNo, PageSize, Version};

const COMMIT: u8 = 1;
const SPILL: u8 = 2;
const CATALOG: u8 = 3;
const PART: u8 = 4;

/// Bytes of the header of every record.
pub(crate) const HEADER_BYTES: usize = 16;
const COMMIT_FIXED_BYTES: usize = 72;
const SPILLED_BYTES: usize = 24;

/// What a commit says besides its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommitHeader {
    pub(crate) facet: FacetId,
    pub(crate) version: Version,
    pub(crate) wall_ms: u64,
    pub(crate) monotonic_ns: u64,
    pub(crate) page_count: u32,
    pub(crate) pages_kept: u32,
    pub(crate) page_size: Option<PageSize>,
}

/// A change of the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CatalogChange {
    Create { facet: FacetId, name: FacetName },
    Delete { name: FacetName },
    Rename { from: FacetName, to: FacetName },
}

/// Starts a record; [`finish`] completes it.
fn start(kind: u8, lsn: Lsn, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    debug_assert!(start.is_multiple_of(SLOT_BYTES), "records are aligned");
    out.extend_from_slice(&[kind, 0, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&lsn.0.to_le_bytes());
    start
}

/// Pads the record that began at `start` and stores its length.
pub(crate) fn finish(start: usize, out: &mut Vec<u8>) {
    pad(out, start, SLOT_BYTES);
    let len = stored_len(out.len() - start);
    out[start + 4..start + 8].copy_from_slice(&len.to_le_bytes());
}

/// Starts a commit record: `inline` page records must follow, then [`finish`].
pub(crate) fn start_commit(
    lsn: Lsn,
    header: &CommitHeader,
    spilled: &[(PageNo, StoredRef)],
    inline: usize,
    out: &mut Vec<u8>,
) -> usize {
    let start = start(COMMIT, lsn, out);
    for value in [header.facet.0, header.version.0, header.wall_ms, header.monotonic_ns] {
        out.extend_from_slice(&value.to_le_bytes());
    }
    let (spilled_len, inline) = (stored_len(spilled.len()), stored_len(inline));
    for value in [header.page_count, header.pages_kept, spilled_len, inline] {
        out.extend_from_slice(&value.to_le_bytes());
    }
    out.extend_from_slice(&[header.page_size.map_or(0, PageSize::log2), 0, 0, 0, 0, 0, 0, 0]);
    debug_assert_eq!(out.len() - start, COMMIT_FIXED_BYTES);
    for &(page, reference) in spilled {
        out.extend_from_slice(&page.0.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        StoredRef::encode(Some(reference), out);
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

/// Most bytes a commit of that many pages takes.
pub(crate) fn commit_bytes_max(spilled: usize, inline: usize, size: PageSize) -> usize {
    COMMIT_FIXED_BYTES + spilled * SPILLED_BYTES + inline * super::page::record_bytes_max(size)
}

/// Appends a catalog record.
pub(crate) fn encode_catalog(lsn: Lsn, wall_ms: u64, change: &CatalogChange, out: &mut Vec<u8>) {
    let (action, facet, name, new_name) = match change {
        CatalogChange::Create { facet, name } => (1, facet.0, name.as_str(), ""),
        CatalogChange::Delete { name } => (2, 0, name.as_str(), ""),
        CatalogChange::Rename { from, to } => (3, 0, from.as_str(), to.as_str()),
    };
    let start = start(CATALOG, lsn, out);
    out.extend_from_slice(&wall_ms.to_le_bytes());
    out.extend_from_slice(&facet.to_le_bytes());
    out.extend_from_slice(&[action, 0, 0, 0]);
    for name in [name, new_name] {
        let len = u16::try_from(name.len()).expect("a name has at most 512 bytes");
        out.extend_from_slice(&len.to_le_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(new_name.as_bytes());
    finish(start, out);
}

/// Most bytes a catalog record takes.
pub(crate) const CATALOG_BYTES_MAX: usize = 40 + 2 * crate::name::NAME_BYTES_MAX + SLOT_BYTES;

/// Bytes of a checkpoint part with that payload.
pub(crate) fn part_bytes(payload: usize) -> usize {
    (HEADER_BYTES + 8 + payload).next_multiple_of(SLOT_BYTES)
}

/// Bytes of a full page-map node.
pub(crate) const NODE_BYTES_MAX: u64 =
    (HEADER_BYTES + 8 + catalog::NODE_REFS * StoredRef::BYTES) as u64;

/// Bytes that all nodes of the map of a facet of that many pages take at most.
pub(crate) fn map_bytes_max(page_count: u32) -> u64 {
    let leaves = u64::from(page_count) / catalog::NODE_REFS as u64 + 1;
    // The levels above add a thirty-second, and at least one node where there are two leaves.
    (leaves + leaves / 16 + u64::from(leaves > 1)) * NODE_BYTES_MAX
}

/// Bytes of a full catalog chunk whose names have that many bytes.
pub(crate) fn chunk_bytes(name: usize) -> u64 {
    (part_bytes(8) as u64) + catalog::CHUNK_FACETS * (catalog::FACET_FIXED_BYTES + name) as u64
}

/// Appends a checkpoint part; returns its checksum.
pub(crate) fn encode_part(lsn: Lsn, payload: &[u8], out: &mut Vec<u8>) -> u32 {
    let start = start(PART, lsn, out);
    let crc = crc32c::crc32c(payload);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&stored_len(payload.len()).to_le_bytes());
    out.extend_from_slice(payload);
    finish(start, out);
    crc
}

/// The payload of the checkpoint part that `record` is, checked against the reference's checksum.
pub(crate) fn decode_part(record: &[u8], crc: u32) -> Result<&[u8], Malformed> {
    let (header, body) = split(record)?;
    if header.kind != PART {
        return Err(Malformed("it is not a part of a checkpoint"));
    }
    let mut reader = Reader::new(body);
    let stored_crc = reader.u32()?;
    let len = reader.u32()? as usize;
    let payload = reader.take(len)?;
    if stored_crc != crc || crc32c::crc32c(payload) != crc {
        return Err(Malformed("the checksum is wrong"));
    }
    Ok(payload)
}

struct Header {
    kind: u8,
    lsn: Lsn,
    len: usize,
}

/// The record that `bytes` starts with: its header and its body.
fn split(bytes: &[u8]) -> Result<(Header, &[u8]), Malformed> {
    let mut reader = Reader::new(bytes);
    let kind = reader.u8()?;
    reader.reserved(3)?;
    let len = reader.u32()? as usize;
    let lsn = Lsn(reader.u64()?);
    if len < HEADER_BYTES || !len.is_multiple_of(SLOT_BYTES) {
        return Err(Malformed("the record's length is wrong"));
    }
    Ok((Header { kind, lsn, len }, reader.take(len - HEADER_BYTES)?))
}

/// A page of a commit as recovery sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommittedPage {
    /// Spilled before the commit.
    Spilled(StoredRef),
    /// In the commit record, `at` bytes from the start of the records that were decoded.
    Inline { at: usize, len: u32, crc: u32 },
}

/// A decoded record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Commit {
        header: CommitHeader,
        pages: Vec<(PageNo, CommittedPage)>,
    },
    Catalog(CatalogChange),
    /// Nothing for recovery to do.
    Other,
}

/// Decodes the records of a batch whose hash has been verified. The offsets of inline pages count
/// from the start of `records`.
pub(crate) fn decode_all(
    records: &[u8],
    first_lsn: Lsn,
    count: u32,
) -> Result<Vec<Record>, Malformed> {
    let mut decoded = Vec::new();
    let mut at = 0;
    for index in 0..u64::from(count) {
        let (header, body) = split(&records[at..])?;
        if header.lsn.0 != first_lsn.0 + index {
            return Err(Malformed("a record has another LSN than its place says"));
        }
        decoded.push(match header.kind {
            COMMIT => decode_commit(body, at + HEADER_BYTES)?,
            CATALOG => Record::Catalog(decode_catalog(body)?),
            SPILL | PART => Record::Other,
            _ => return Err(Malformed("a record's kind is unknown")),
        });
        at += header.len;
    }
    if at == records.len() { Ok(decoded) } else { Err(Malformed("bytes follow the last record")) }
}

fn decode_commit(body: &[u8], body_at: usize) -> Result<Record, Malformed> {
    let mut reader = Reader::new(body);
    let facet = FacetId(reader.u64()?);
    let version = Version(reader.u64()?);
    let (wall_ms, monotonic_ns) = (reader.u64()?, reader.u64()?);
    let (page_count, pages_kept) = (reader.u32()?, reader.u32()?);
    let (spilled, inline) = (reader.u32()?, reader.u32()?);
    let page_size = match reader.u8()? {
        0 => None,
        log2 => Some(PageSize::from_log2(log2).ok_or(Malformed("the page size is wrong"))?),
    };
    reader.reserved(7)?;
    let header =
        CommitHeader { facet, version, wall_ms, monotonic_ns, page_count, pages_kept, page_size };
    let in_range = |page: PageNo| {
        if page.0 <= page_count {
            Ok(page)
        } else {
            Err(Malformed("a commit has a page beyond the facet's end"))
        }
    };
    let mut pages = Vec::new();
    for _ in 0..spilled {
        let page = in_range(reader.page_no()?)?;
        reader.reserved(4)?;
        let reference =
            StoredRef::decode(&mut reader)?.ok_or(Malformed("a spilled page has no place"))?;
        pages.push((page, CommittedPage::Spilled(reference)));
    }
    for _ in 0..inline {
        let at = body_at + (body.len() - reader.remaining());
        let page = UnverifiedPage::parse(&body[body.len() - reader.remaining()..])?;
        if Some(page.size()) != page_size {
            return Err(Malformed("a page has another size than its commit says"));
        }
        reader.take(page.len)?;
        let place = CommittedPage::Inline { at, len: stored_len(page.len), crc: page.crc };
        pages.push((in_range(page.page)?, place));
    }
    if reader.remaining() != 0 {
        return Err(Malformed("bytes follow the last page of a commit"));
    }
    Ok(Record::Commit { header, pages })
}

fn decode_catalog(body: &[u8]) -> Result<CatalogChange, Malformed> {
    let mut reader = Reader::new(body);
    let _wall_ms = reader.u64()?;
    let facet = FacetId(reader.u64()?);
    let action = reader.u8()?;
    reader.reserved(3)?;
    let (len, new_len) = (reader.u16()?, reader.u16()?);
    let mut name = |len: u16| {
        let bytes = reader.take(usize::from(len))?;
        let text = std::str::from_utf8(bytes).map_err(|_| Malformed("a name is not UTF-8"))?;
        FacetName::new(text).map_err(|_| Malformed("a name breaks a rule"))
    };
    let first = name(len)?;
    match action {
        1 => Ok(CatalogChange::Create { facet, name: first }),
        2 => Ok(CatalogChange::Delete { name: first }),
        3 => Ok(CatalogChange::Rename { from: first, to: name(new_len)? }),
        _ => Err(Malformed("the catalog change is unknown")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::page;
    use crate::types::SegmentId;
    use proptest::prelude::*;

    #[test]
    fn a_batch_of_every_kind() {
        let size = PageSize::MIN;
        let header = CommitHeader {
            facet: FacetId(5),
            version: Version(2),
            wall_ms: 3,
            monotonic_ns: 4,
            page_count: 9,
            pages_kept: 7,
            page_size: Some(size),
        };
        let spilled = StoredRef { segment: SegmentId(1), slot: 512, len: 64, crc: 1 };
        let mut out = Vec::new();
        let start = start_commit(Lsn(7), &header, &[(PageNo(8), spilled)], 1, &mut out);
        let at = out.len();
        let image = [1; 512];
        let crc = page::encode(FacetId(5), PageNo(9), size, &image, &mut Vec::new(), &mut out);
        let len = stored_len(out.len() - at);
        finish(start, &mut out);
        let start = start_spill(Lsn(8), FacetId(5), 0, &mut out);
        finish(start, &mut out);
        let name = |text| FacetName::new(text).unwrap();
        let changes = [
            CatalogChange::Create { facet: FacetId(6), name: name("a/b") },
            CatalogChange::Delete { name: name("c") },
            CatalogChange::Rename { from: name("a"), to: name("long/name") },
        ];
        for (lsn, change) in (9..).zip(&changes) {
            encode_catalog(Lsn(lsn), 11, change, &mut out);
        }
        let part_at = out.len();
        let part_crc = encode_part(Lsn(12), b"payload", &mut out);
        assert_eq!(out.len() - part_at, part_bytes(7));
        assert_eq!(decode_part(&out[part_at..], part_crc), Ok(&b"payload"[..]));
        assert!(decode_part(&out[part_at..], part_crc ^ 1).is_err());

        let pages = vec![
            (PageNo(8), CommittedPage::Spilled(spilled)),
            (PageNo(9), CommittedPage::Inline { at, len, crc }),
        ];
        let [create, delete, rename] = changes.map(Record::Catalog);
        let expected = vec![
            Record::Commit { header, pages },
            Record::Other,
            create,
            delete,
            rename,
            Record::Other,
        ];
        assert_eq!(decode_all(&out, Lsn(7), 6), Ok(expected));
        assert!(decode_all(&out, Lsn(6), 6).is_err());
        assert!(decode_all(&out, Lsn(7), 5).is_err());
        assert!(decode_all(&out, Lsn(7), 7).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(
            kind in 0u8..6,
            body in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            let mut record = Vec::new();
            let at = start(kind, Lsn(1), &mut record);
            record.extend_from_slice(&body);
            finish(at, &mut record);
            let _ = decode_all(&record, Lsn(1), 1);
            let _ = decode_part(&record, 0);
            let _ = decode_all(&body, Lsn(1), 3);
        }
    }
}
