//! The parts of a checkpoint: page-map nodes, catalog chunks and the root. Each is the payload of a
//! checkpoint-part record.
//!
//! *Page-map node*: up to 32 references of 16 bytes. In a leaf they lead to page records (zeros: a
//! page never written), above to nodes (zeros: no page in that range was ever written).
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
//! | 8 | 8 | version |
//! | 16 | 8 | wall time of its last commit in milliseconds |
//! | 24 | 4 | pages |
//! | 28 | 1 | binary logarithm of the page size (0: never had a page) |
//! | 29 | 1 | levels of the page map above its leaves |
//! | 30 | 2 | bytes of the name |
//! | 32 | 16 | reference of the page map's root node (zeros: no page was ever written) |
//! | 48 | … | name |
//!
//! *Root*:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | LSN of the last record the checkpoint holds |
//! | 8 | 8 | facet id the next facet gets |
//! | 16 | 4 | number of chunks |
//! | 20 | 4 | number of segments |
//! | 24 | 24 each | chunk number (8), reference (16), in order of chunk number |
//! | … | 32 each | segments: number (4), generation (4), size in bytes (4), 1 if it was ready to be used again, else 0 (4), live bytes of pages (8), live bytes of checkpoint parts, this root not included (8) |

use super::{Malformed, Reader, StoredRef, stored_len};
use crate::name::FacetName;
use crate::types::{FacetId, Generation, Lsn, PageSize, SegmentId, Version};

/// References in a page-map node.
pub(crate) const NODE_REFS: usize = 32;
/// Facet ids per catalog chunk.
pub(crate) const CHUNK_FACETS: u64 = 64;
/// Bytes of a facet in a chunk, without its name.
pub(crate) const FACET_FIXED_BYTES: usize = 48;
/// Levels above the leaves that a page map can have: 32 to the 7th is more than 2 to the 32nd.
pub(crate) const MAP_LEVELS_MAX: u8 = 6;

/// Number of a catalog chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ChunkNo(pub(crate) u64);

impl ChunkNo {
    pub(crate) fn of(facet: FacetId) -> Self {
        Self(facet.0 / CHUNK_FACETS)
    }
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
    pub(crate) version: Version,
    pub(crate) wall_ms: u64,
    pub(crate) page_count: u32,
    pub(crate) page_size: Option<PageSize>,
    pub(crate) map_levels: u8,
    pub(crate) map_root: Option<StoredRef>,
}

/// Encodes a catalog chunk.
pub(crate) fn encode_chunk(entries: &[FacetEntry], out: &mut Vec<u8>) {
    out.extend_from_slice(&stored_len(entries.len()).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for entry in entries {
        for value in [entry.facet.0, entry.version.0, entry.wall_ms] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out.extend_from_slice(&entry.page_count.to_le_bytes());
        out.extend_from_slice(&[entry.page_size.map_or(0, PageSize::log2), entry.map_levels]);
        let name = entry.name.as_str();
        let len = u16::try_from(name.len()).expect("a name has at most 512 bytes");
        out.extend_from_slice(&len.to_le_bytes());
        StoredRef::encode(entry.map_root, out);
        out.extend_from_slice(name.as_bytes());
    }
}

/// Decodes catalog chunk `chunk`.
pub(crate) fn decode_chunk(chunk: ChunkNo, payload: &[u8]) -> Result<Vec<FacetEntry>, Malformed> {
    let mut reader = Reader::new(payload);
    let count = reader.u32()?;
    reader.reserved(4)?;
    let mut entries: Vec<FacetEntry> = Vec::new();
    for _ in 0..count {
        let facet = FacetId(reader.u64()?);
        if ChunkNo::of(facet) != chunk || entries.last().is_some_and(|last| last.facet >= facet) {
            return Err(Malformed("a facet is in the wrong place of the catalog"));
        }
        let version = Version(reader.u64()?);
        let wall_ms = reader.u64()?;
        let page_count = reader.u32()?;
        let page_size = match reader.u8()? {
            0 => None,
            log2 => Some(PageSize::from_log2(log2).ok_or(Malformed("a page size is wrong"))?),
        };
        let map_levels = reader.u8()?;
        if map_levels > MAP_LEVELS_MAX {
            return Err(Malformed("a page map has too many levels"));
        }
        let name_len = usize::from(reader.u16()?);
        let map_root = StoredRef::decode(&mut reader)?;
        let name = std::str::from_utf8(reader.take(name_len)?)
            .ok()
            .and_then(|name| FacetName::new(name).ok())
            .ok_or(Malformed("a facet's name breaks a rule"))?;
        entries.push(FacetEntry {
            facet,
            name,
            version,
            wall_ms,
            page_count,
            page_size,
            map_levels,
            map_root,
        });
    }
    if reader.remaining() == 0 { Ok(entries) } else { Err(Malformed("bytes follow the catalog")) }
}

/// A segment in the checkpoint root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentEntry {
    pub(crate) segment: SegmentId,
    pub(crate) generation: Generation,
    pub(crate) size: u32,
    /// Nothing needs what is in it.
    pub(crate) is_ready: bool,
    pub(crate) live_page_bytes: u64,
    pub(crate) live_part_bytes: u64,
}

/// A checkpoint root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) lsn: Lsn,
    pub(crate) next_facet: FacetId,
    pub(crate) chunks: Vec<(ChunkNo, StoredRef)>,
    pub(crate) segments: Vec<SegmentEntry>,
}

/// Encodes a checkpoint root.
pub(crate) fn encode_root(root: &Root, out: &mut Vec<u8>) {
    out.extend_from_slice(&root.lsn.0.to_le_bytes());
    out.extend_from_slice(&root.next_facet.0.to_le_bytes());
    out.extend_from_slice(&stored_len(root.chunks.len()).to_le_bytes());
    out.extend_from_slice(&stored_len(root.segments.len()).to_le_bytes());
    for &(chunk, reference) in &root.chunks {
        out.extend_from_slice(&chunk.0.to_le_bytes());
        StoredRef::encode(Some(reference), out);
    }
    for entry in &root.segments {
        let is_ready = u32::from(entry.is_ready);
        for value in [entry.segment.0, entry.generation.0, entry.size, is_ready] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out.extend_from_slice(&entry.live_page_bytes.to_le_bytes());
        out.extend_from_slice(&entry.live_part_bytes.to_le_bytes());
    }
}

/// Decodes a checkpoint root.
pub(crate) fn decode_root(payload: &[u8]) -> Result<Root, Malformed> {
    let mut reader = Reader::new(payload);
    let lsn = Lsn(reader.u64()?);
    let next_facet = FacetId(reader.u64()?);
    let (chunk_count, segment_count) = (reader.u32()?, reader.u32()?);
    let mut chunks: Vec<(ChunkNo, StoredRef)> = Vec::new();
    for _ in 0..chunk_count {
        let chunk = ChunkNo(reader.u64()?);
        if chunks.last().is_some_and(|&(last, _)| last >= chunk) {
            return Err(Malformed("the catalog's chunks are out of order"));
        }
        let reference =
            StoredRef::decode(&mut reader)?.ok_or(Malformed("a catalog chunk has no place"))?;
        chunks.push((chunk, reference));
    }
    let mut segments: Vec<SegmentEntry> = Vec::new();
    for _ in 0..segment_count {
        let segment = SegmentId(reader.u32()?);
        if segments.last().is_some_and(|last| last.segment >= segment) {
            return Err(Malformed("the segments are out of order"));
        }
        let (generation, size) = (Generation(reader.u32()?), reader.u32()?);
        let is_ready = match reader.u32()? {
            0 => false,
            1 => true,
            _ => return Err(Malformed("the state of a segment is unknown")),
        };
        let (live_page_bytes, live_part_bytes) = (reader.u64()?, reader.u64()?);
        if is_ready && (live_page_bytes > 0 || live_part_bytes > 0) {
            return Err(Malformed("a segment that is ready has live bytes"));
        }
        segments.push(SegmentEntry {
            segment,
            generation,
            size,
            is_ready,
            live_page_bytes,
            live_part_bytes,
        });
    }
    if reader.remaining() != 0 {
        return Err(Malformed("bytes follow the root"));
    }
    Ok(Root { lsn, next_facet, chunks, segments })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reference(slot: u32) -> StoredRef {
        StoredRef { segment: SegmentId(2), slot, len: 96, crc: slot ^ 5 }
    }

    #[test]
    fn round_trips() {
        let refs = [Some(reference(1)), None, Some(reference(3))];
        let mut node = Vec::new();
        encode_node(refs.into_iter(), &mut node);
        assert_eq!(decode_node(&node), Ok(refs.to_vec()));

        let entry = |id: u64, name: &str| FacetEntry {
            facet: FacetId(id),
            name: FacetName::new(name).unwrap(),
            version: Version(3),
            wall_ms: 4,
            page_count: 5,
            page_size: PageSize::from_bytes(4096),
            map_levels: 1,
            map_root: Some(reference(9)),
        };
        let entries = vec![entry(64, "a"), entry(127, "b/c")];
        let mut chunk = Vec::new();
        encode_chunk(&entries, &mut chunk);
        assert_eq!(decode_chunk(ChunkNo(1), &chunk), Ok(entries));
        assert!(decode_chunk(ChunkNo(0), &chunk).is_err());

        let root = Root {
            lsn: Lsn(8),
            next_facet: FacetId(128),
            chunks: vec![(ChunkNo(0), reference(1)), (ChunkNo(1), reference(2))],
            segments: vec![SegmentEntry {
                segment: SegmentId(1),
                generation: Generation(2),
                size: 1 << 20,
                is_ready: false,
                live_page_bytes: 100,
                live_part_bytes: 50,
            }],
        };
        let mut bytes = Vec::new();
        encode_root(&root, &mut bytes);
        assert_eq!(decode_root(&bytes), Ok(root));
        for len in 0..bytes.len() {
            assert!(decode_root(&bytes[..len]).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode_node(&bytes);
            let _ = decode_chunk(ChunkNo(0), &bytes);
            let _ = decode_root(&bytes);
        }
    }
}
