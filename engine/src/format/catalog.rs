//! The parts of a checkpoint: page-map nodes, histories, catalog chunks, what the store has to know
//! besides, and the root. Each is the payload of a checkpoint-part record.
//!
//! *Page-map node*: up to 32 references of 16 bytes. In a leaf they lead to page records (zeros: a
//! page never written), above to nodes (zeros: no page in that range was ever written).
//!
//! *Version*, in several places below:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | version |
//! | 8 | 8 | wall time of its commit in milliseconds |
//! | 16 | 8 | LSN of its commit |
//! | 24 | 4 | incarnation that committed it |
//! | 28 | 4 | pages |
//! | 32 | 1 | binary logarithm of the page size (0: never had a page) |
//! | 33 | 7 | reserved |
//!
//! *Catalog chunk* `n`: the facets with ids from `64 n` to `64 n + 63` that exist, in order of id.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | number of facets |
//! | 4 | 4 | reserved |
//! | 8 | … | facets |
//!
//! A facet in it:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | facet id |
//! | 8 | 40 | its newest version |
//! | 48 | 8 | family: id of the facet that it and all it was forked from descend from; its own if it is no fork |
//! | 56 | 1 | levels of the page map above its leaves |
//! | 57 | 1 | reserved |
//! | 58 | 2 | bytes of the name |
//! | 60 | 4 | reserved |
//! | 64 | 8 | oldest version of its history; what parts have of older ones is no longer kept |
//! | 72 | 8 | bytes that its history keeps |
//! | 80 | 16 | reference of the page map's root node (zeros: no page was ever written) |
//! | 96 | 16 | reference of the index of its history (zeros: none) |
//! | 112 | … | name |
//!
//! *History part*: what commits replaced, oldest commit first.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | number of edits |
//! | 4 | 4 | reserved |
//! | 8 | … | edits: the version that was replaced (40), number of pages (4), reserved (4), then for each page its number (4), reserved (4) and its reference in that version (16; zeros: never written) |
//!
//! An edit of many pages may be cut into several of the same version, one after the other.
//!
//! *Index of a history*: number of parts (4), reserved (4), then for each part, oldest first, its
//! reference (16) and the newest version that it has an edit of (8).
//!
//! *Shared references*: nodes and pages that more than one holder refers to, or one that is not the facet
//! they were written for. Number of nodes (4), number of pages (4), then nodes: reference (16), owner
//! (8), number at its level (4), level (1), reserved (3), holders (4), reserved (4); pages: reference (16),
//! holders (4), reserved (4).
//!
//! *Forwards to a segment*: what the cleaner put there. Number (4), reserved (4), then in order of slot:
//! slot (4), segment (4) and slot (4) where it was first written. It says so of what was live when it was
//! moved; nothing has to lead to it any more.
//!
//! *Settings*: number of quotas (4), number of retentions (4), then quotas: bytes (8), bytes of the name
//! (2), name; and retentions: bytes (8), milliseconds (8), bytes of the name (2), name.
//!
//! *Root*:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | LSN of the last record the checkpoint holds |
//! | 8 | 8 | facet id the next facet gets |
//! | 16 | 4 | segment id the next segment gets, or a later one |
//! | 20 | 4 | number of chunks |
//! | 24 | 4 | number of segments |
//! | 28 | 4 | number of other parts |
//! | 32 | 24 each | chunk number (8), reference (16), in order of chunk number |
//! | … | 40 each | segments in use: number (4), file (4), size in bytes (4), kind as in its header (4), live bytes of pages (8), live bytes of checkpoint parts (8), the LSN that counts as its age (8) |
//! | … | 24 each | other parts: 1 shared references, 2 forwards, 3 settings (4), segment that the forwards lead to (4), reference (16) |
//!
//! Live bytes are those that this checkpoint refers to, its root not included.

use super::{Identity, Malformed, Reader, StoredRef, stored_len};
use crate::format::segment::SegmentKind;
use crate::name::FacetName;
use crate::types::{FacetId, FileNo, Incarnation, Lsn, PageNo, PageSize, SegmentId, Version};

/// References in a page-map node.
pub(crate) const NODE_REFS: usize = 32;
/// Facet ids per catalog chunk.
pub(crate) const CHUNK_FACETS: u64 = 64;
/// Bytes of a facet in a chunk, without its name.
pub(crate) const FACET_FIXED_BYTES: usize = 112;
/// Levels above the leaves that a page map can have: 32 to the 7th is more than 2 to the 32nd.
pub(crate) const MAP_LEVELS_MAX: u8 = 6;
/// Bytes of an edit without its pages, and of each page.
pub(crate) const EDIT_FIXED_BYTES: usize = 48;
pub(crate) const EDIT_PAGE_BYTES: usize = 24;
/// Bytes of the head of a history part.
pub(crate) const HISTORY_FIXED_BYTES: usize = 8;
/// Bytes of a part in the index of a history.
pub(crate) const HISTORY_INDEX_BYTES: usize = 24;
/// Bytes of a shared node, a shared page and a forward.
pub(crate) const SHARED_NODE_BYTES: usize = 40;
pub(crate) const SHARED_PAGE_BYTES: usize = 24;
pub(crate) const FORWARD_BYTES: usize = 12;
/// Bytes of a segment and of another part in the root.
pub(crate) const ROOT_SEGMENT_BYTES: usize = 40;
pub(crate) const ROOT_PART_BYTES: usize = 24;

/// Number of a catalog chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ChunkNo(pub(crate) u64);

impl ChunkNo {
    pub(crate) fn of(facet: FacetId) -> Self {
        Self(facet.0 / CHUNK_FACETS)
    }
}

/// What is known of a version besides its pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct VersionMeta {
    pub(crate) version: Version,
    pub(crate) incarnation: Incarnation,
    /// Of its commit; 0 while that is not durable.
    pub(crate) lsn: Lsn,
    pub(crate) wall_ms: u64,
    pub(crate) page_count: u32,
    /// `None` while the facet has never had a page.
    pub(crate) page_size: Option<PageSize>,
}

impl VersionMeta {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for value in [self.version.0, self.wall_ms, self.lsn.0] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        for value in [self.incarnation.0, self.page_count] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out.extend_from_slice(&[self.page_size.map_or(0, PageSize::log2), 0, 0, 0, 0, 0, 0, 0]);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let version = Version(reader.counter64()?);
        let wall_ms = reader.u64()?;
        let lsn = Lsn(reader.counter64()?);
        let incarnation = Incarnation(reader.counter32()?);
        let page_count = reader.u32()?;
        let page_size = PageSize::decode(reader)?;
        reader.reserved(7)?;
        Ok(Self { version, incarnation, lsn, wall_ms, page_count, page_size })
    }

    /// Bytes of its pages, as SQLite counts them.
    pub(crate) fn logical_bytes(&self) -> u64 {
        u64::from(self.page_count) * self.page_size.map_or(0, |size| size.bytes() as u64)
    }
}

impl PageSize {
    /// Reads a page size: its binary logarithm, or 0 for none.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Option<Self>, Malformed> {
        match reader.u8()? {
            0 => Ok(None),
            log2 => Self::from_log2(log2).map(Some).ok_or(Malformed("a page size is wrong")),
        }
    }
}

/// Reads a name of so many bytes.
pub(crate) fn decode_name(reader: &mut Reader<'_>, len: u16) -> Result<FacetName, Malformed> {
    let bytes = reader.take(usize::from(len))?;
    let text = std::str::from_utf8(bytes).map_err(|_| Malformed("a name is not UTF-8"))?;
    FacetName::new(text).map_err(|_| Malformed("a name breaks a rule"))
}

/// Bytes of a name as the format stores their number.
pub(crate) fn name_len(name: &FacetName) -> [u8; 2] {
    u16::try_from(name.as_str().len()).expect("a name has at most 512 bytes").to_le_bytes()
}

/// Encodes a page-map node.
pub(crate) fn encode_node(refs: impl Iterator<Item = Option<StoredRef>>, out: &mut Vec<u8>) {
    for reference in refs {
        StoredRef::encode(reference, out);
    }
}

/// Decodes a page-map node.
pub(crate) fn decode_node(payload: &[u8]) -> Result<Vec<Option<StoredRef>>, Malformed> {
    if payload.is_empty()
        || !payload.len().is_multiple_of(StoredRef::BYTES)
        || payload.len() > NODE_REFS * StoredRef::BYTES
    {
        return Err(Malformed("a page-map node has a wrong length"));
    }
    let mut reader = Reader::new(payload);
    (0..payload.len() / StoredRef::BYTES).map(|_| StoredRef::decode(&mut reader)).collect()
}

/// A facet in a catalog chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FacetEntry {
    pub(crate) facet: FacetId,
    pub(crate) name: FacetName,
    pub(crate) meta: VersionMeta,
    pub(crate) family: FacetId,
    pub(crate) map_levels: u8,
    pub(crate) map_root: Option<StoredRef>,
    /// Edits of older versions, which parts may still have, are no longer kept.
    pub(crate) history_from: Version,
    pub(crate) history_bytes: u64,
    pub(crate) history: Option<StoredRef>,
}

/// Encodes a catalog chunk.
pub(crate) fn encode_chunk(entries: &[FacetEntry], out: &mut Vec<u8>) {
    out.extend_from_slice(&stored_len(entries.len()).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for entry in entries {
        out.extend_from_slice(&entry.facet.0.to_le_bytes());
        entry.meta.encode(out);
        out.extend_from_slice(&entry.family.0.to_le_bytes());
        out.extend_from_slice(&[entry.map_levels, 0]);
        out.extend_from_slice(&name_len(&entry.name));
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&entry.history_from.0.to_le_bytes());
        out.extend_from_slice(&entry.history_bytes.to_le_bytes());
        StoredRef::encode(entry.map_root, out);
        StoredRef::encode(entry.history, out);
        out.extend_from_slice(entry.name.as_str().as_bytes());
    }
}

/// Decodes catalog chunk `chunk`.
pub(crate) fn decode_chunk(chunk: ChunkNo, payload: &[u8]) -> Result<Vec<FacetEntry>, Malformed> {
    let mut reader = Reader::new(payload);
    let count = reader.u32()?;
    reader.reserved(4)?;
    let mut entries: Vec<FacetEntry> = Vec::new();
    for _ in 0..count {
        let facet = FacetId(reader.counter64()?);
        if ChunkNo::of(facet) != chunk || entries.last().is_some_and(|last| last.facet >= facet) {
            return Err(Malformed("a facet is in the wrong place of the catalog"));
        }
        let meta = VersionMeta::decode(&mut reader)?;
        let family = FacetId(reader.counter64()?);
        let map_levels = reader.u8()?;
        if map_levels > MAP_LEVELS_MAX {
            return Err(Malformed("a page map has too many levels"));
        }
        reader.reserved(1)?;
        let name_len = reader.u16()?;
        reader.reserved(4)?;
        let history_from = Version(reader.counter64()?);
        let history_bytes = reader.u64()?;
        let map_root = StoredRef::decode(&mut reader)?;
        let history = StoredRef::decode(&mut reader)?;
        let name = decode_name(&mut reader, name_len)?;
        entries.push(FacetEntry {
            facet,
            name,
            meta,
            family,
            map_levels,
            map_root,
            history_from,
            history_bytes,
            history,
        });
    }
    if reader.remaining() == 0 { Ok(entries) } else { Err(Malformed("bytes follow the catalog")) }
}

/// What a commit replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredEdit {
    /// The version that was replaced.
    pub(crate) meta: VersionMeta,
    /// What it had where the next version has something else.
    pub(crate) pages: Vec<(PageNo, Option<StoredRef>)>,
}

/// Encodes a history part.
pub(crate) fn encode_history<'a>(
    edits: impl ExactSizeIterator<Item = (&'a VersionMeta, &'a [(PageNo, Option<StoredRef>)])>,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(&stored_len(edits.len()).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for (meta, pages) in edits {
        meta.encode(out);
        out.extend_from_slice(&stored_len(pages.len()).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for &(page, reference) in pages {
            out.extend_from_slice(&page.0.to_le_bytes());
            out.extend_from_slice(&[0; 4]);
            StoredRef::encode(reference, out);
        }
    }
}

/// Decodes a history part.
pub(crate) fn decode_history(payload: &[u8]) -> Result<Vec<StoredEdit>, Malformed> {
    let mut reader = Reader::new(payload);
    let count = reader.u32()?;
    reader.reserved(4)?;
    let mut edits: Vec<StoredEdit> = Vec::new();
    for _ in 0..count {
        let meta = VersionMeta::decode(&mut reader)?;
        if edits.last().is_some_and(|last| last.meta.version > meta.version) {
            return Err(Malformed("the edits of a history are out of order"));
        }
        let page_count = reader.u32()?;
        reader.reserved(4)?;
        let mut pages = Vec::new();
        for _ in 0..page_count {
            let page = reader.page_no()?;
            reader.reserved(4)?;
            pages.push((page, StoredRef::decode(&mut reader)?));
        }
        edits.push(StoredEdit { meta, pages });
    }
    if reader.remaining() == 0 { Ok(edits) } else { Err(Malformed("bytes follow the history")) }
}

/// Encodes the index of a history: its parts, each with the newest version it has an edit of.
pub(crate) fn encode_history_index(
    parts: impl ExactSizeIterator<Item = (StoredRef, Version)>,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(&stored_len(parts.len()).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for (reference, newest) in parts {
        StoredRef::encode(Some(reference), out);
        out.extend_from_slice(&newest.0.to_le_bytes());
    }
}

/// Decodes the index of a history.
pub(crate) fn decode_history_index(payload: &[u8]) -> Result<Vec<(StoredRef, Version)>, Malformed> {
    let mut reader = Reader::new(payload);
    let count = reader.u32()?;
    reader.reserved(4)?;
    let mut parts: Vec<(StoredRef, Version)> = Vec::new();
    for _ in 0..count {
        let reference =
            StoredRef::decode(&mut reader)?.ok_or(Malformed("a history part has no place"))?;
        let newest = Version(reader.counter64()?);
        if parts.last().is_some_and(|&(_, last)| last > newest) {
            return Err(Malformed("the parts of a history are out of order"));
        }
        parts.push((reference, newest));
    }
    if reader.remaining() == 0 { Ok(parts) } else { Err(Malformed("bytes follow the history")) }
}

/// A page-map node with several holders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SharedNode {
    pub(crate) reference: StoredRef,
    pub(crate) owner: FacetId,
    pub(crate) index: u32,
    pub(crate) level: u8,
    pub(crate) holders: u32,
}

/// A page with several holders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SharedPage {
    pub(crate) reference: StoredRef,
    pub(crate) holders: u32,
}

/// Encodes shared references.
pub(crate) fn encode_shared(nodes: &[SharedNode], pages: &[SharedPage], out: &mut Vec<u8>) {
    out.extend_from_slice(&stored_len(nodes.len()).to_le_bytes());
    out.extend_from_slice(&stored_len(pages.len()).to_le_bytes());
    for node in nodes {
        StoredRef::encode(Some(node.reference), out);
        out.extend_from_slice(&node.owner.0.to_le_bytes());
        out.extend_from_slice(&node.index.to_le_bytes());
        out.extend_from_slice(&[node.level, 0, 0, 0]);
        out.extend_from_slice(&node.holders.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
    }
    for page in pages {
        StoredRef::encode(Some(page.reference), out);
        out.extend_from_slice(&page.holders.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
    }
}

/// Decodes shared references.
pub(crate) fn decode_shared(
    payload: &[u8],
) -> Result<(Vec<SharedNode>, Vec<SharedPage>), Malformed> {
    const NOWHERE: Malformed = Malformed("a shared reference has no place");
    let mut reader = Reader::new(payload);
    let (node_count, page_count) = (reader.u32()?, reader.u32()?);
    let (mut nodes, mut pages) = (Vec::new(), Vec::new());
    let holders = |reader: &mut Reader<'_>| {
        let holders = reader.u32()?;
        reader.reserved(4)?;
        if holders == 0 { Err(Malformed("a shared reference has no holder")) } else { Ok(holders) }
    };
    for _ in 0..node_count {
        let reference = StoredRef::decode(&mut reader)?.ok_or(NOWHERE)?;
        let owner = FacetId(reader.counter64()?);
        let (index, level) = (reader.u32()?, reader.u8()?);
        reader.reserved(3)?;
        nodes.push(SharedNode { reference, owner, index, level, holders: holders(&mut reader)? });
    }
    for _ in 0..page_count {
        let reference = StoredRef::decode(&mut reader)?.ok_or(NOWHERE)?;
        pages.push(SharedPage { reference, holders: holders(&mut reader)? });
    }
    if reader.remaining() == 0 {
        Ok((nodes, pages))
    } else {
        Err(Malformed("bytes follow the shared references"))
    }
}

/// Encodes the forwards to a segment: (slot, where it was first written), in order of slot.
pub(crate) fn encode_forwards(forwards: &[(u32, Identity)], out: &mut Vec<u8>) {
    out.extend_from_slice(&stored_len(forwards.len()).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for &(slot, origin) in forwards {
        for value in [slot, origin.segment.0, origin.slot] {
            out.extend_from_slice(&value.to_le_bytes());
        }
    }
}

/// Decodes the forwards to a segment.
pub(crate) fn decode_forwards(payload: &[u8]) -> Result<Vec<(u32, Identity)>, Malformed> {
    let mut reader = Reader::new(payload);
    let count = reader.u32()?;
    reader.reserved(4)?;
    let mut forwards: Vec<(u32, Identity)> = Vec::new();
    for _ in 0..count {
        let slot = reader.u32()?;
        if forwards.last().is_some_and(|&(last, _)| last >= slot) {
            return Err(Malformed("the forwards are out of order"));
        }
        let segment = SegmentId(reader.counter32()?);
        forwards.push((slot, Identity { segment, slot: reader.u32()? }));
    }
    if reader.remaining() == 0 { Ok(forwards) } else { Err(Malformed("bytes follow the forwards")) }
}

/// Limits that were set on subtrees of names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoredSettings {
    /// Bytes of pages.
    pub(crate) quotas: Vec<(FacetName, u64)>,
    /// Bytes and milliseconds of history.
    pub(crate) retentions: Vec<(FacetName, u64, u64)>,
}

impl StoredSettings {
    /// The settings in several, each small enough for a part.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = Self> {
        const NAMES: usize = 24;
        let quotas = self.quotas.chunks(NAMES);
        let retentions = self.retentions.chunks(NAMES);
        let quotas = quotas.map(|quotas| Self { quotas: quotas.to_vec(), retentions: Vec::new() });
        let retentions = retentions
            .map(|retentions| Self { quotas: Vec::new(), retentions: retentions.to_vec() });
        quotas.chain(retentions)
    }

    /// Bytes that they take at most.
    pub(crate) fn bytes_max(&self) -> usize {
        let each = 18 + crate::name::NAME_BYTES_MAX;
        8 + (self.quotas.len() + self.retentions.len()) * each
    }
}

/// Encodes settings.
pub(crate) fn encode_settings(settings: &StoredSettings, out: &mut Vec<u8>) {
    out.extend_from_slice(&stored_len(settings.quotas.len()).to_le_bytes());
    out.extend_from_slice(&stored_len(settings.retentions.len()).to_le_bytes());
    for (name, bytes) in &settings.quotas {
        out.extend_from_slice(&bytes.to_le_bytes());
        out.extend_from_slice(&name_len(name));
        out.extend_from_slice(name.as_str().as_bytes());
    }
    for (name, bytes, age_ms) in &settings.retentions {
        out.extend_from_slice(&bytes.to_le_bytes());
        out.extend_from_slice(&age_ms.to_le_bytes());
        out.extend_from_slice(&name_len(name));
        out.extend_from_slice(name.as_str().as_bytes());
    }
}

/// Decodes settings.
pub(crate) fn decode_settings(payload: &[u8]) -> Result<StoredSettings, Malformed> {
    let mut reader = Reader::new(payload);
    let (quota_count, retention_count) = (reader.u32()?, reader.u32()?);
    let mut settings = StoredSettings::default();
    for _ in 0..quota_count {
        let (bytes, len) = (reader.u64()?, reader.u16()?);
        settings.quotas.push((decode_name(&mut reader, len)?, bytes));
    }
    for _ in 0..retention_count {
        let (bytes, age_ms, len) = (reader.u64()?, reader.u64()?, reader.u16()?);
        settings.retentions.push((decode_name(&mut reader, len)?, bytes, age_ms));
    }
    if reader.remaining() == 0 { Ok(settings) } else { Err(Malformed("bytes follow the settings")) }
}

/// A segment in the checkpoint root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentEntry {
    pub(crate) segment: SegmentId,
    pub(crate) file: FileNo,
    pub(crate) size: u32,
    pub(crate) kind: SegmentKind,
    pub(crate) live_page_bytes: u64,
    pub(crate) live_part_bytes: u64,
    /// LSN from around the time its content was new.
    pub(crate) born: Lsn,
}

/// What a checkpoint has besides facets and segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum OtherPart {
    Shared,
    Forwards(SegmentId),
    Settings,
}

/// A checkpoint root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) lsn: Lsn,
    pub(crate) next_facet: FacetId,
    pub(crate) next_segment: SegmentId,
    pub(crate) chunks: Vec<(ChunkNo, StoredRef)>,
    pub(crate) segments: Vec<SegmentEntry>,
    pub(crate) others: Vec<(OtherPart, StoredRef)>,
}

/// Encodes a checkpoint root.
pub(crate) fn encode_root(root: &Root, out: &mut Vec<u8>) {
    out.extend_from_slice(&root.lsn.0.to_le_bytes());
    out.extend_from_slice(&root.next_facet.0.to_le_bytes());
    let counts = [root.chunks.len(), root.segments.len(), root.others.len()];
    out.extend_from_slice(&root.next_segment.0.to_le_bytes());
    for count in counts {
        out.extend_from_slice(&stored_len(count).to_le_bytes());
    }
    for &(chunk, reference) in &root.chunks {
        out.extend_from_slice(&chunk.0.to_le_bytes());
        StoredRef::encode(Some(reference), out);
    }
    for entry in &root.segments {
        for value in [entry.segment.0, entry.file.0, entry.size, entry.kind.encode()] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        for value in [entry.live_page_bytes, entry.live_part_bytes, entry.born.0] {
            out.extend_from_slice(&value.to_le_bytes());
        }
    }
    for &(part, reference) in &root.others {
        let (kind, segment) = match part {
            OtherPart::Shared => (1u32, 0),
            OtherPart::Forwards(segment) => (2, segment.0),
            OtherPart::Settings => (3, 0),
        };
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&segment.to_le_bytes());
        StoredRef::encode(Some(reference), out);
    }
}

/// Decodes a checkpoint root.
pub(crate) fn decode_root(payload: &[u8]) -> Result<Root, Malformed> {
    let mut reader = Reader::new(payload);
    let lsn = Lsn(reader.counter64()?);
    let next_facet = FacetId(reader.counter64()?);
    let next_segment = SegmentId(reader.counter32()?);
    let (chunk_count, segment_count) = (reader.u32()?, reader.u32()?);
    let other_count = reader.u32()?;
    let mut chunks: Vec<(ChunkNo, StoredRef)> = Vec::new();
    for _ in 0..chunk_count {
        let chunk = ChunkNo(reader.counter64()?);
        if chunks.last().is_some_and(|&(last, _)| last >= chunk) {
            return Err(Malformed("the catalog's chunks are out of order"));
        }
        let reference =
            StoredRef::decode(&mut reader)?.ok_or(Malformed("a catalog chunk has no place"))?;
        chunks.push((chunk, reference));
    }
    let mut segments: Vec<SegmentEntry> = Vec::new();
    for _ in 0..segment_count {
        let segment = SegmentId(reader.counter32()?);
        if segments.last().is_some_and(|last| last.segment >= segment) {
            return Err(Malformed("the segments are out of order"));
        }
        segments.push(SegmentEntry {
            segment,
            file: FileNo(reader.counter32()?),
            size: reader.u32()?,
            kind: SegmentKind::decode(reader.u32()?)?,
            live_page_bytes: live_bytes(&mut reader)?,
            live_part_bytes: live_bytes(&mut reader)?,
            born: Lsn(reader.counter64()?),
        });
    }
    let mut others = Vec::new();
    for _ in 0..other_count {
        let part = match (reader.u32()?, SegmentId(reader.counter32()?)) {
            (1, SegmentId(0)) => OtherPart::Shared,
            (2, segment) => OtherPart::Forwards(segment),
            (3, SegmentId(0)) => OtherPart::Settings,
            _ => return Err(Malformed("a part of the root is of an unknown kind")),
        };
        let reference =
            StoredRef::decode(&mut reader)?.ok_or(Malformed("a part of the root has no place"))?;
        others.push((part, reference));
    }
    if reader.remaining() != 0 {
        return Err(Malformed("bytes follow the root"));
    }
    Ok(Root { lsn, next_facet, next_segment, chunks, segments, others })
}

/// Bytes that are live in a segment: so few that those of all segments of a root can be added up.
fn live_bytes(reader: &mut Reader<'_>) -> Result<u64, Malformed> {
    let bytes = reader.u64()?;
    if bytes < 1 << 36 {
        Ok(bytes)
    } else {
        Err(Malformed("more is live in a segment than fits in any"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reference(slot: u32) -> StoredRef {
        StoredRef { segment: SegmentId(2), slot, len: 96, crc: slot ^ 5 }
    }

    fn meta(version: u64) -> VersionMeta {
        VersionMeta {
            version: Version(version),
            incarnation: Incarnation(2),
            lsn: Lsn(77),
            wall_ms: 4,
            page_count: 5,
            page_size: PageSize::from_bytes(4096),
        }
    }

    #[test]
    fn round_trips() {
        let refs = [Some(reference(1)), None, Some(reference(3))];
        let mut node = Vec::new();
        encode_node(refs.into_iter(), &mut node);
        assert_eq!(decode_node(&node), Ok(refs.to_vec()));

        let entry = |id: u64, name: &str, history: Option<StoredRef>| FacetEntry {
            facet: FacetId(id),
            name: FacetName::new(name).unwrap(),
            meta: meta(3),
            family: FacetId(9),
            map_levels: 1,
            map_root: Some(reference(9)),
            history_from: Version(2),
            history_bytes: 77,
            history,
        };
        let entries = vec![entry(64, "a", None), entry(127, "b/c", Some(reference(4)))];
        let mut chunk = Vec::new();
        encode_chunk(&entries, &mut chunk);
        assert_eq!(chunk.len(), 8 + 2 * FACET_FIXED_BYTES + 4);
        assert_eq!(decode_chunk(ChunkNo(1), &chunk), Ok(entries));
        assert!(decode_chunk(ChunkNo(0), &chunk).is_err());

        let root = Root {
            lsn: Lsn(8),
            next_facet: FacetId(128),
            next_segment: SegmentId(12),
            chunks: vec![(ChunkNo(0), reference(1)), (ChunkNo(1), reference(2))],
            segments: vec![SegmentEntry {
                segment: SegmentId(1),
                file: FileNo(2),
                size: 1 << 20,
                kind: SegmentKind::Survivors,
                live_page_bytes: 100,
                live_part_bytes: 50,
                born: Lsn(3),
            }],
            others: vec![
                (OtherPart::Shared, reference(3)),
                (OtherPart::Forwards(SegmentId(1)), reference(4)),
                (OtherPart::Settings, reference(5)),
            ],
        };
        let mut bytes = Vec::new();
        encode_root(&root, &mut bytes);
        assert_eq!(decode_root(&bytes), Ok(root));
        for len in 0..bytes.len() {
            assert!(decode_root(&bytes[..len]).is_err());
        }
        let mut forged = decode_root(&bytes).unwrap();
        forged.segments[0].live_page_bytes = u64::MAX;
        bytes.clear();
        encode_root(&forged, &mut bytes);
        assert!(decode_root(&bytes).is_err());
    }

    #[test]
    fn other_parts_round_trip() {
        let edits = vec![
            StoredEdit { meta: meta(3), pages: vec![(PageNo(1), Some(reference(8)))] },
            StoredEdit { meta: meta(4), pages: vec![(PageNo(2), None)] },
        ];
        let mut bytes = Vec::new();
        let borrowed = edits.iter().map(|edit| (&edit.meta, edit.pages.as_slice()));
        encode_history(borrowed, &mut bytes);
        assert_eq!(bytes.len(), HISTORY_FIXED_BYTES + 2 * (EDIT_FIXED_BYTES + EDIT_PAGE_BYTES));
        assert_eq!(decode_history(&bytes), Ok(edits));

        let parts = vec![(reference(1), Version(3)), (reference(2), Version(3))];
        let mut bytes = Vec::new();
        encode_history_index(parts.iter().copied(), &mut bytes);
        assert_eq!(bytes.len(), 8 + 2 * HISTORY_INDEX_BYTES);
        assert_eq!(decode_history_index(&bytes), Ok(parts));

        let nodes = vec![SharedNode {
            reference: reference(1),
            owner: FacetId(3),
            index: 7,
            level: 1,
            holders: 2,
        }];
        let pages = vec![SharedPage { reference: reference(2), holders: 3 }];
        let mut bytes = Vec::new();
        encode_shared(&nodes, &pages, &mut bytes);
        assert_eq!(bytes.len(), 8 + SHARED_NODE_BYTES + SHARED_PAGE_BYTES);
        assert_eq!(decode_shared(&bytes), Ok((nodes, pages)));

        let forwards = vec![(3, reference(5).identity()), (9, reference(6).identity())];
        let mut bytes = Vec::new();
        encode_forwards(&forwards, &mut bytes);
        assert_eq!(bytes.len(), 8 + 2 * FORWARD_BYTES);
        assert_eq!(decode_forwards(&bytes), Ok(forwards));

        let settings = StoredSettings {
            quotas: vec![(FacetName::new("a").unwrap(), 7)],
            retentions: vec![(FacetName::new("b/c").unwrap(), 8, 9)],
        };
        let mut bytes = Vec::new();
        encode_settings(&settings, &mut bytes);
        assert_eq!(decode_settings(&bytes), Ok(settings));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode_node(&bytes);
            let _ = decode_chunk(ChunkNo(0), &bytes);
            let _ = decode_root(&bytes);
            let _ = decode_history(&bytes);
            let _ = decode_history_index(&bytes);
            let _ = decode_shared(&bytes);
            let _ = decode_forwards(&bytes);
            let _ = decode_settings(&bytes);
        }
    }
}
