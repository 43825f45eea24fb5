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
//! | 65 | 3 | reserved |
//! | 68 | 4 | incarnation that committed it |
//! | 72 | 24 each | pages by reference: page number (4), 1 if it was spilled by this transaction, 0 if it is of an older version (4), reference (16; zeros: as if never written) |
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
//! | 24 | 8 | facet (create), bytes (quota, retention) |
//! | 32 | 1 | 1 create, 2 delete the subtree, 3 rename the subtree, 4 set and 5 lift a quota of the subtree, 6 set and 7 lift a retention of the subtree |
//! | 33 | 3 | reserved |
//! | 36 | 2 | bytes of the name |
//! | 38 | 2 | bytes of the new name (rename only) |
//! | 40 | 8 | milliseconds (retention), incarnation (create) |
//! | 48 | … | name, new name, padded with zeros to a multiple of 8 |
//!
//! Kind 4, *checkpoint part*: see `catalog.rs`. Means nothing by itself; the superblock leads to it. A
//! reference to one covers the whole record, and its checksum is the one stored in it.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 16 | 4 | crc32c of the rest, without padding |
//! | 20 | 4 | bytes of payload, without padding |
//! | 24 | 1 | 1 page-map node, 2 catalog chunk, 3 history part, 4 root, 5 shared references, 6 forwards, 7 settings, 8 index of a history |
//! | 25 | 1 | level of the node: 0 is a leaf |
//! | 26 | 2 | reserved |
//! | 28 | 4 | number of the node at its level; segment that the forwards lead to |
//! | 32 | 8 | facet the node or the history was written for; number of the chunk |
//! | 40 | … | payload, padded with zeros to a multiple of 8 |
//!
//! Kind 5, *fork*: facets that begin with what others have.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 16 | 8 | wall time in milliseconds since the Unix epoch |
//! | 24 | 4 | number of new facets |
//! | 28 | 4 | reserved |
//! | 32 | … | for each: new facet (8), source (8), the source's newest version (8), version the new facet begins with (40, see `catalog.rs`), number of pages in which that differs from the source's newest (4), bytes of the name (2), reserved (2), those pages: number (4), reserved (4), reference (16; zeros: never written), name, padded with zeros to a multiple of 8 |
//!
//! Kind 6, *survivors*: page records and checkpoint parts that the cleaner moved, byte by byte. Only in
//! segments of survivors.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 16 | 4 | number of survivors |
//! | 20 | 4 | reserved |
//! | 24 | … | for each: segment (4) and slot (4) where it was first written, then what was there |
//!
//! Kind 7, *group*: one transaction of several facets.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 16 | 4 | number of commits, at least 2 |
//! | 20 | 4 | reserved |
//! | 24 | … | commits, each a whole record of kind 1 with the LSN of the group |
//!
//! Kind 8, *images*: pages that were logged as deltas, as a checkpoint has them. Means nothing by itself;
//! the page maps of that checkpoint lead to them.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 16 | 8 | facet |
//! | 24 | 4 | number of page records |
//! | 28 | 4 | reserved |
//! | 32 | 8 | LSN of the checkpoint's cut |
//! | 40 | … | page records |

mod commit;
mod items;

pub(crate) use commit::{
    CommitHeader, CommittedPage, GROUP_BYTES, IMAGES_BYTES, PlacedPage, Referred, commit_bytes_max,
    start_commit, start_group, start_images, start_spill,
};
pub(crate) use items::{ItemKind, items};

use super::catalog::{self, ChunkNo, VersionMeta, decode_name, name_len};
use super::{Identity, Malformed, Reader, SLOT_BYTES, StoredRef, pad, stored_len};
use crate::name::FacetName;
use crate::types::{FacetId, Incarnation, Lsn, PageNo, SegmentId, Version};

const COMMIT: u8 = 1;
const SPILL: u8 = 2;
const CATALOG: u8 = 3;
const PART: u8 = 4;
const FORK: u8 = 5;
const SURVIVORS: u8 = 6;
const GROUP: u8 = 7;
const IMAGES: u8 = 8;

/// Bytes of the header of every record.
pub(crate) const HEADER_BYTES: usize = 16;
const PART_FIXED_BYTES: usize = 24;
const FORK_FIXED_BYTES: usize = 16;
const FORK_ENTRY_BYTES: usize = 72;
/// Bytes of a survivors record before the first survivor, and of each before what was moved.
pub(crate) const SURVIVORS_FIXED_BYTES: usize = HEADER_BYTES + 8;
pub(crate) const SURVIVOR_FIXED_BYTES: usize = 8;

/// A facet that begins with what another has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ForkEntry {
    pub(crate) facet: FacetId,
    pub(crate) name: FacetName,
    pub(crate) source: FacetId,
    /// Newest version of the source at that point of the log.
    pub(crate) source_version: Version,
    /// The version the new facet begins with.
    pub(crate) meta: VersionMeta,
    /// Where that differs from the source's newest version.
    pub(crate) pages: Vec<(PageNo, Option<StoredRef>)>,
}

/// What a checkpoint part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PartKind {
    /// A page-map node: number `index` at its level, in the map of `owner` or a fork of it.
    Node {
        owner: FacetId,
        level: u8,
        index: u32,
    },
    Chunk(ChunkNo),
    History(FacetId),
    HistoryIndex(FacetId),
    Root,
    Shared,
    Forwards(SegmentId),
    Settings,
}

/// A change of the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CatalogChange {
    Create {
        facet: FacetId,
        name: FacetName,
        incarnation: Incarnation,
    },
    Delete {
        name: FacetName,
    },
    Rename {
        from: FacetName,
        to: FacetName,
    },
    /// Bytes of pages that a subtree may have.
    Quota {
        name: FacetName,
        bytes: Option<u64>,
    },
    /// Bytes and milliseconds of history that facets of a subtree keep.
    Retention {
        name: FacetName,
        limits: Option<(u64, u64)>,
    },
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

/// Appends a catalog record.
pub(crate) fn encode_catalog(lsn: Lsn, wall_ms: u64, change: &CatalogChange, out: &mut Vec<u8>) {
    let none = "";
    let (action, value, ms, name, new_name) = match change {
        CatalogChange::Create { facet, name, incarnation } => {
            (1, facet.0, u64::from(incarnation.0), name.as_str(), none)
        }
        CatalogChange::Delete { name } => (2, 0, 0, name.as_str(), none),
        CatalogChange::Rename { from, to } => (3, 0, 0, from.as_str(), to.as_str()),
        CatalogChange::Quota { name, bytes: Some(bytes) } => (4, *bytes, 0, name.as_str(), none),
        CatalogChange::Quota { name, bytes: None } => (5, 0, 0, name.as_str(), none),
        CatalogChange::Retention { name, limits: Some((bytes, ms)) } => {
            (6, *bytes, *ms, name.as_str(), none)
        }
        CatalogChange::Retention { name, limits: None } => (7, 0, 0, name.as_str(), none),
    };
    let start = start(CATALOG, lsn, out);
    out.extend_from_slice(&wall_ms.to_le_bytes());
    out.extend_from_slice(&value.to_le_bytes());
    out.extend_from_slice(&[action, 0, 0, 0]);
    for name in [name, new_name] {
        let len = u16::try_from(name.len()).expect("a name has at most 512 bytes");
        out.extend_from_slice(&len.to_le_bytes());
    }
    out.extend_from_slice(&ms.to_le_bytes());
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(new_name.as_bytes());
    finish(start, out);
}

/// Most bytes a catalog record takes.
pub(crate) const CATALOG_BYTES_MAX: usize = 48 + 2 * crate::name::NAME_BYTES_MAX + SLOT_BYTES;

/// Appends a fork record.
pub(crate) fn encode_fork(lsn: Lsn, wall_ms: u64, entries: &[ForkEntry], out: &mut Vec<u8>) {
    let start = start(FORK, lsn, out);
    out.extend_from_slice(&wall_ms.to_le_bytes());
    out.extend_from_slice(&stored_len(entries.len()).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for entry in entries {
        for value in [entry.facet.0, entry.source.0, entry.source_version.0] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        entry.meta.encode(out);
        out.extend_from_slice(&stored_len(entry.pages.len()).to_le_bytes());
        out.extend_from_slice(&name_len(&entry.name));
        out.extend_from_slice(&[0; 2]);
        for &(page, reference) in &entry.pages {
            out.extend_from_slice(&page.0.to_le_bytes());
            out.extend_from_slice(&[0; 4]);
            StoredRef::encode(reference, out);
        }
        out.extend_from_slice(entry.name.as_str().as_bytes());
        pad(out, start, SLOT_BYTES);
    }
    finish(start, out);
}

/// Bytes that a fork record of so many facets and pages takes at most.
pub(crate) fn fork_bytes_max(facets: usize, pages: usize) -> usize {
    let entry = FORK_ENTRY_BYTES + crate::name::NAME_BYTES_MAX + SLOT_BYTES;
    HEADER_BYTES + FORK_FIXED_BYTES + facets * entry + pages * commit::REFERRED_BYTES
}

/// Starts a survivors record: `count` of [`push_survivor`] must follow, then [`finish`].
pub(crate) fn start_survivors(lsn: Lsn, count: usize, out: &mut Vec<u8>) -> usize {
    let start = start(SURVIVORS, lsn, out);
    out.extend_from_slice(&stored_len(count).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    start
}

/// Appends a survivor; returns where in `out` what was moved is now.
pub(crate) fn push_survivor(identity: Identity, bytes: &[u8], out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(&identity.segment.0.to_le_bytes());
    out.extend_from_slice(&identity.slot.to_le_bytes());
    let at = out.len();
    out.extend_from_slice(bytes);
    at
}

/// Bytes of a checkpoint part with that payload.
pub(crate) fn part_bytes(payload: usize) -> usize {
    (HEADER_BYTES + PART_FIXED_BYTES + payload).next_multiple_of(SLOT_BYTES)
}

/// Bytes of a full page-map node.
pub(crate) const NODE_BYTES_MAX: u64 =
    (HEADER_BYTES + PART_FIXED_BYTES + catalog::NODE_REFS * StoredRef::BYTES) as u64;

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
pub(crate) fn encode_part(lsn: Lsn, kind: PartKind, payload: &[u8], out: &mut Vec<u8>) -> u32 {
    let (tag, level, number, owner) = match kind {
        PartKind::Node { owner, level, index } => (1, level, index, owner.0),
        PartKind::Chunk(chunk) => (2, 0, 0, chunk.0),
        PartKind::History(facet) => (3, 0, 0, facet.0),
        PartKind::HistoryIndex(facet) => (8, 0, 0, facet.0),
        PartKind::Root => (4, 0, 0, 0),
        PartKind::Shared => (5, 0, 0, 0),
        PartKind::Forwards(segment) => (6, 0, segment.0, 0),
        PartKind::Settings => (7, 0, 0, 0),
    };
    let start = start(PART, lsn, out);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&stored_len(payload.len()).to_le_bytes());
    out.extend_from_slice(&[tag, level, 0, 0]);
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&owner.to_le_bytes());
    out.extend_from_slice(payload);
    let crc = crc32c::crc32c(&out[start + HEADER_BYTES + 4..]);
    out[start + HEADER_BYTES..start + HEADER_BYTES + 4].copy_from_slice(&crc.to_le_bytes());
    finish(start, out);
    crc
}

/// What the checkpoint part that `record` is, is, and its payload, checked against the reference's
/// checksum.
pub(crate) fn decode_part(record: &[u8], crc: u32) -> Result<(PartKind, &[u8]), Malformed> {
    let (header, body) = split(record)?;
    if header.kind != PART {
        return Err(Malformed("it is not a part of a checkpoint"));
    }
    let part = UnverifiedPart::parse(body)?;
    if part.crc != crc {
        return Err(Malformed("another checkpoint part is in its place"));
    }
    part.verify()
}

/// A checkpoint part before its checksum is compared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnverifiedPart<'a> {
    pub(crate) crc: u32,
    sealed: &'a [u8],
}

impl<'a> UnverifiedPart<'a> {
    /// Reads the body of a part's record.
    fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let crc = reader.u32()?;
        let payload = reader.clone().u32()? as usize;
        let sealed = reader.take((PART_FIXED_BYTES - 4).saturating_add(payload))?;
        Ok(Self { crc, sealed })
    }

    /// Compares the checksum; gives what it is, and the payload.
    pub(crate) fn verify(self) -> Result<(PartKind, &'a [u8]), Malformed> {
        if crc32c::crc32c(self.sealed) != self.crc {
            return Err(Malformed("the checksum is wrong"));
        }
        let mut reader = Reader::new(self.sealed);
        let payload = reader.u32()? as usize;
        let (tag, level) = (reader.u8()?, reader.u8()?);
        reader.reserved(2)?;
        let (number, owner) = (reader.u32()?, reader.u64()?);
        let kind = match tag {
            1 if level <= catalog::MAP_LEVELS_MAX => {
                PartKind::Node { owner: FacetId(owner), level, index: number }
            }
            2 => PartKind::Chunk(ChunkNo(owner)),
            3 => PartKind::History(FacetId(owner)),
            4 => PartKind::Root,
            5 => PartKind::Shared,
            6 => PartKind::Forwards(SegmentId(number)),
            7 => PartKind::Settings,
            8 => PartKind::HistoryIndex(FacetId(owner)),
            _ => return Err(Malformed("the kind of a checkpoint part is unknown")),
        };
        Ok((kind, reader.take(payload)?))
    }
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
    let lsn = Lsn(reader.counter64()?);
    if len < HEADER_BYTES || !len.is_multiple_of(SLOT_BYTES) {
        return Err(Malformed("the record's length is wrong"));
    }
    Ok((Header { kind, lsn, len }, reader.take(len - HEADER_BYTES)?))
}

/// A decoded record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Commit {
        header: CommitHeader,
        pages: Vec<CommittedPage>,
    },
    Catalog {
        lsn: Lsn,
        wall_ms: u64,
        change: CatalogChange,
    },
    Fork(Vec<ForkEntry>),
    /// Images that the checkpoint with that cut refers to.
    Images {
        cut: Lsn,
        pages: Vec<PlacedPage>,
    },
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
    let at = walk(records, first_lsn, count, |header, body, at| {
        decoded.push(match header.kind {
            COMMIT => commit::decode(header.lsn, body, at + HEADER_BYTES)?,
            CATALOG => {
                let (wall_ms, change) = decode_catalog(body)?;
                Record::Catalog { lsn: header.lsn, wall_ms, change }
            }
            FORK => Record::Fork(decode_fork(body)?),
            IMAGES => commit::decode_images(body, at + HEADER_BYTES)?,
            SPILL | PART => Record::Other,
            SURVIVORS => return Err(Malformed("survivors are in the log")),
            _ => return Err(Malformed("a record's kind is unknown")),
        });
        Ok(())
    })?;
    if at == records.len() { Ok(decoded) } else { Err(Malformed("bytes follow the last record")) }
}

/// Hands each record to `each`, with its offset, and of a group each of its commits; returns where the
/// last one ends.
fn walk<'a>(
    records: &'a [u8],
    first_lsn: Lsn,
    count: u32,
    mut each: impl FnMut(&Header, &'a [u8], usize) -> Result<(), Malformed>,
) -> Result<usize, Malformed> {
    let mut at = 0;
    for index in 0..u64::from(count) {
        let (header, body) = split(records.get(at..).ok_or(Malformed("it ends early"))?)?;
        if header.lsn.0 != first_lsn.0 + index {
            return Err(Malformed("a record has another LSN than its place says"));
        }
        if header.kind == GROUP {
            commit::walk_group(&header, body, at, &mut each)?;
        } else {
            each(&header, body, at)?;
        }
        at += header.len;
    }
    Ok(at)
}

fn decode_catalog(body: &[u8]) -> Result<(u64, CatalogChange), Malformed> {
    let mut reader = Reader::new(body);
    let wall_ms = reader.u64()?;
    let value = reader.u64()?;
    let action = reader.u8()?;
    reader.reserved(3)?;
    let (len, new_len) = (reader.u16()?, reader.u16()?);
    let ms = reader.u64()?;
    let name = decode_name(&mut reader, len)?;
    let change = match action {
        1 => CatalogChange::Create {
            facet: FacetId(value),
            name,
            incarnation: u32::try_from(ms)
                .map(Incarnation)
                .map_err(|_| Malformed("an incarnation is too high"))?,
        },
        2 => CatalogChange::Delete { name },
        3 => CatalogChange::Rename { from: name, to: decode_name(&mut reader, new_len)? },
        4 => CatalogChange::Quota { name, bytes: Some(value) },
        5 => CatalogChange::Quota { name, bytes: None },
        6 => CatalogChange::Retention { name, limits: Some((value, ms)) },
        7 => CatalogChange::Retention { name, limits: None },
        _ => return Err(Malformed("the catalog change is unknown")),
    };
    Ok((wall_ms, change))
}

fn decode_fork(body: &[u8]) -> Result<Vec<ForkEntry>, Malformed> {
    let mut reader = Reader::new(body);
    let _wall_ms = reader.u64()?;
    let count = reader.u32()?;
    reader.reserved(4)?;
    let mut entries = Vec::new();
    for _ in 0..count {
        let (facet, source) = (FacetId(reader.counter64()?), FacetId(reader.counter64()?));
        let source_version = Version(reader.counter64()?);
        let meta = VersionMeta::decode(&mut reader)?;
        let page_count = reader.u32()?;
        let len = reader.u16()?;
        reader.reserved(2)?;
        let mut pages = Vec::new();
        for _ in 0..page_count {
            let page = reader.page_no()?;
            reader.reserved(4)?;
            pages.push((page, StoredRef::decode(&mut reader)?));
        }
        let name = decode_name(&mut reader, len)?;
        reader.reserved((SLOT_BYTES - usize::from(len) % SLOT_BYTES) % SLOT_BYTES)?;
        entries.push(ForkEntry { facet, name, source, source_version, meta, pages });
    }
    if reader.remaining() == 0 { Ok(entries) } else { Err(Malformed("bytes follow a fork")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::page;
    use crate::types::{PageSize, SegmentId};
    use proptest::prelude::*;

    #[test]
    fn a_batch_of_every_kind() {
        let size = PageSize::MIN;
        let meta = VersionMeta {
            version: Version(2),
            incarnation: Incarnation(6),
            lsn: Lsn(7),
            wall_ms: 3,
            page_count: 9,
            page_size: Some(size),
        };
        let header = CommitHeader { facet: FacetId(5), meta, monotonic_ns: 4, pages_kept: 7 };
        let spilled = StoredRef { segment: SegmentId(1), slot: 512, len: 64, crc: 1 };
        let referred = [
            Referred { page: PageNo(8), reference: Some(spilled), is_spilled: true },
            Referred { page: PageNo(7), reference: None, is_spilled: false },
        ];
        let mut out = Vec::new();
        let start = start_commit(Lsn(7), &header, &referred, 1, &mut out);
        let at = out.len();
        let image = [1; 512];
        let scratch = &mut page::Extents::default();
        let crc = page::encode(FacetId(5), PageNo(9), size, &image, None, scratch, &mut out).crc;
        let len = stored_len(out.len() - at);
        finish(start, &mut out);
        let start = start_spill(Lsn(8), FacetId(5), 0, &mut out);
        finish(start, &mut out);
        let name = |text| FacetName::new(text).unwrap();
        let changes = [
            CatalogChange::Create {
                facet: FacetId(6),
                name: name("a/b"),
                incarnation: Incarnation(3),
            },
            CatalogChange::Delete { name: name("c") },
            CatalogChange::Rename { from: name("a"), to: name("long/name") },
            CatalogChange::Quota { name: name("q"), bytes: Some(5) },
            CatalogChange::Quota { name: name("q"), bytes: None },
            CatalogChange::Retention { name: name("r"), limits: Some((6, 7)) },
            CatalogChange::Retention { name: name("r"), limits: None },
        ];
        for (lsn, change) in (9..).zip(&changes) {
            encode_catalog(Lsn(lsn), 11, change, &mut out);
        }
        let forks = vec![ForkEntry {
            facet: FacetId(9),
            name: name("fork"),
            source: FacetId(5),
            source_version: Version(3),
            meta,
            pages: vec![(PageNo(1), Some(spilled)), (PageNo(2), None)],
        }];
        encode_fork(Lsn(16), 12, &forks, &mut out);
        let part_at = out.len();
        let node = PartKind::Node { owner: FacetId(5), level: 1, index: 3 };
        let part_crc = encode_part(Lsn(17), node, b"payload", &mut out);
        assert_eq!(out.len() - part_at, part_bytes(7));
        assert_eq!(decode_part(&out[part_at..], part_crc), Ok((node, &b"payload"[..])));
        assert!(decode_part(&out[part_at..], part_crc ^ 1).is_err());

        // A group, of which one has a page, as a delta.
        let mut base = image;
        base[77] = 2;
        let start = start_group(Lsn(18), 2, &mut out);
        let mut grouped = Vec::new();
        for (facet, inline) in [(FacetId(5), 0), (FacetId(6), 1)] {
            let meta = VersionMeta { lsn: Lsn(18), ..meta };
            let header = CommitHeader { facet, meta, ..header };
            let commit = start_commit(Lsn(18), &header, &[], inline, &mut out);
            let mut pages = Vec::new();
            if inline > 0 {
                let at = out.len();
                let base = Some(page::Base { image: &base, crc: 3 });
                let encoded = page::encode(facet, PageNo(9), size, &image, base, scratch, &mut out);
                assert!(encoded.is_delta);
                let record = out[at..].into();
                pages.push(CommittedPage::Delta { page: PageNo(9), record });
            }
            finish(commit, &mut out);
            grouped.push(Record::Commit { header, pages });
        }
        finish(start, &mut out);

        let start = start_images(Lsn(19), FacetId(5), Lsn(6), 1, &mut out);
        let at_images = out.len();
        assert_eq!(at_images - start, IMAGES_BYTES);
        page::encode(FacetId(5), PageNo(9), size, &image, None, scratch, &mut out);
        finish(start, &mut out);

        let pages = vec![
            CommittedPage::Referred(referred[0]),
            CommittedPage::Referred(referred[1]),
            CommittedPage::Inline(PlacedPage { page: PageNo(9), at, len, crc }),
        ];
        let mut expected = vec![Record::Commit { header, pages }, Record::Other];
        let catalog = (9..).map(Lsn).zip(changes);
        expected.extend(catalog.map(|(lsn, change)| Record::Catalog { lsn, wall_ms: 11, change }));
        expected.extend([Record::Fork(forks), Record::Other]);
        expected.extend(grouped);
        let placed = PlacedPage { page: PageNo(9), at: at_images, len, crc };
        expected.push(Record::Images { cut: Lsn(6), pages: vec![placed] });
        assert_eq!(decode_all(&out, Lsn(7), 13), Ok(expected));

        let found = items(&out, Lsn(7), 13).unwrap();
        let kinds: Vec<_> = found.iter().map(|item| item.kind).collect();
        let page_kind = ItemKind::Page { facet: FacetId(5), page: PageNo(9) };
        let grouped_kind = ItemKind::Page { facet: FacetId(6), page: PageNo(9) };
        assert_eq!(kinds, [page_kind, ItemKind::Part(node), grouped_kind, page_kind]);
        let mut moved = Vec::new();
        let start = start_survivors(Lsn(0), found.len(), &mut moved);
        for item in &found {
            let identity = Identity { segment: SegmentId(1), slot: 1 };
            let at = push_survivor(identity, item.bytes, &mut moved);
            assert!(at.is_multiple_of(SLOT_BYTES));
        }
        finish(start, &mut moved);
        let moved_items = items(&moved, Lsn(0), 1).unwrap();
        assert_eq!(moved_items.len(), found.len());
        for (before, after) in found.iter().zip(&moved_items) {
            assert_eq!(
                (before.kind, before.bytes, before.crc),
                (after.kind, after.bytes, after.crc)
            );
            assert_eq!(&moved[after.at..after.at + after.bytes.len()], before.bytes);
        }
        assert!(decode_all(&out, Lsn(6), 13).is_err());
        assert!(decode_all(&out, Lsn(7), 12).is_err());
        assert!(decode_all(&out, Lsn(7), 14).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(
            kind in 0u8..10,
            body in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            let mut record = Vec::new();
            let at = start(kind, Lsn(1), &mut record);
            record.extend_from_slice(&body);
            finish(at, &mut record);
            let _ = decode_all(&record, Lsn(1), 1);
            let _ = items(&record, Lsn(1), 1);
            let _ = decode_part(&record, 0);
            let _ = decode_all(&body, Lsn(1), 3);
        }
    }
}
