//! An object of data: pieces of segment files, any of which can be read and checked by itself.
//!
//! It is written once, whole, under a name that no other object ever has, and never changed.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | s | the data in pieces of [`PIECE_BYTES`], the last one perhaps shorter; behind each piece 32 bytes, see below |
//! | s | 24 e | extents, of which the data is one after the other: file (4), segment (4), offset in the file (8), length (8) |
//! | | 4 | number e of extents |
//! | | 4 | bytes of a piece |
//! | | 8 | bytes of the data |
//! | | 8 | epoch |
//! | | 8 | sequence in the epoch |
//! | | 4 | version |
//! | | 4 | reserved |
//! | | 8 | magic `LAPIDOBJ` |
//! | | 32 | blake3 of all from s on |
//!
//! Behind a piece is the blake3 of epoch (8), sequence (8), number of the piece (8) and the piece: so a piece
//! of another object, or another piece of this one, does not pass for it.
//!
//! The list of extents repeats what the manifest says, so that objects can be made sense of without one.

use std::ops::Range;

use lapidary_engine::{FileNo, SegmentId};

use super::{Hash, Malformed, VERSION, stored};

const MAGIC: &[u8; 8] = b"LAPIDOBJ";
/// Data is checked, and so read, in pieces of this many bytes.
pub(in super::super) const PIECE_BYTES: u64 = 64 << 10;
const PIECE_BYTES_STORED: u32 = 64 << 10;
const _: () = assert!(PIECE_BYTES_STORED as u64 == PIECE_BYTES);
const HASH_BYTES: u64 = 32;
/// A piece, and its checksum.
const SLOT_BYTES: usize = (64 << 10) + 32;
const _: () = assert!(SLOT_BYTES as u64 == PIECE_BYTES + HASH_BYTES);

/// Which object: no two have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in super::super) struct ObjectKey {
    pub(in super::super) epoch: u64,
    pub(in super::super) sequence: u64,
}

/// Where objects of data are.
pub(in super::super) const OBJECTS_PREFIX: &str = "objects/";

impl ObjectKey {
    /// The object's name in the bucket.
    pub(in super::super) fn name(self) -> String {
        format!("{OBJECTS_PREFIX}{:016x}-{:016x}", self.epoch, self.sequence)
    }

    /// The key of which this is the name.
    pub(in super::super) fn of_name(name: &str) -> Option<Self> {
        let (epoch, sequence) = name.strip_prefix(OBJECTS_PREFIX)?.split_once('-')?;
        let number = |digits: &str| u64::from_str_radix(digits, 16).ok();
        let key = Self { epoch: number(epoch)?, sequence: number(sequence)? };
        (key.name() == name).then_some(key)
    }
}

/// What the manifest says of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct ObjectInfo {
    pub(in super::super) key: ObjectKey,
    pub(in super::super) data_bytes: u64,
}

impl ObjectInfo {
    /// How many pieces there are.
    pub(in super::super) fn pieces(&self) -> u64 {
        self.data_bytes.div_ceil(PIECE_BYTES)
    }

    /// Where in the object some of its pieces are, with what is behind each.
    pub(in super::super) fn range(&self, pieces: &Range<u64>) -> Range<u64> {
        let at = |piece: u64| piece * (PIECE_BYTES + HASH_BYTES);
        at(pieces.start)..at(pieces.end).min(self.data_bytes + HASH_BYTES * self.pieces())
    }

    /// The data of `pieces`, of which `bytes` is what was read where they are.
    pub(in super::super) fn verify(
        &self,
        pieces: &Range<u64>,
        bytes: &[u8],
    ) -> Result<Vec<u8>, Malformed> {
        let expected = self.range(pieces);
        if bytes.len() as u64 != expected.end - expected.start {
            return Err(Malformed::Damaged("it is shorter than the manifest says"));
        }
        let mut data = Vec::with_capacity(bytes.len());
        for (piece, slot) in pieces.clone().zip(bytes.chunks(SLOT_BYTES)) {
            let end = slot.len().checked_sub(32).ok_or(Malformed::Damaged("it ends early"))?;
            let (content, hash) = slot.split_at(end);
            if hash != piece_hash(self.key, piece, content) {
                return Err(Malformed::Damaged("a piece of it has another checksum"));
            }
            data.extend_from_slice(content);
        }
        Ok(data)
    }
}

fn piece_hash(key: ObjectKey, piece: u64, content: &[u8]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    for number in [key.epoch, key.sequence, piece] {
        hasher.update(&number.to_le_bytes());
    }
    *hasher.update(content).finalize().as_bytes()
}

/// A piece of a segment file in an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Extent {
    pub(in super::super) file: FileNo,
    pub(in super::super) segment: SegmentId,
    pub(in super::super) offset: u64,
    pub(in super::super) bytes: u64,
}

/// An object of `data`, which is that of `extents`, one after the other.
pub(in super::super) fn encode(
    key: ObjectKey,
    extents: &[Extent],
    data: &[u8],
) -> (ObjectInfo, Vec<u8>) {
    let info = ObjectInfo { key, data_bytes: data.len() as u64 };
    debug_assert_eq!(info.data_bytes, extents.iter().map(|extent| extent.bytes).sum::<u64>());
    let mut out = Vec::with_capacity(data.len() + data.len() / 1024 + 4096);
    for (piece, content) in (0..).zip(data.chunks(SLOT_BYTES - 32)) {
        out.extend_from_slice(content);
        out.extend_from_slice(&piece_hash(key, piece, content));
    }
    let end_at = out.len();
    for extent in extents {
        out.extend_from_slice(&extent.file.0.to_le_bytes());
        out.extend_from_slice(&extent.segment.0.to_le_bytes());
        out.extend_from_slice(&extent.offset.to_le_bytes());
        out.extend_from_slice(&extent.bytes.to_le_bytes());
    }
    out.extend_from_slice(&stored(extents.len()).to_le_bytes());
    out.extend_from_slice(&PIECE_BYTES_STORED.to_le_bytes());
    for value in [info.data_bytes, key.epoch, key.sequence] {
        out.extend_from_slice(&value.to_le_bytes());
    }
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(MAGIC);
    let hash = blake3::hash(&out[end_at..]);
    out.extend_from_slice(hash.as_bytes());
    (info, out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_piece_is_checked_by_itself() {
        let key = ObjectKey { epoch: 2, sequence: 0x1f };
        let data: Vec<u8> = (0..150_000_u32).map(|n| (n % 251) as u8).collect();
        let extent =
            |offset, bytes| Extent { file: FileNo(3), segment: SegmentId(4), offset, bytes };
        let (info, object) = encode(key, &[extent(0, 100_000), extent(4 << 20, 50_000)], &data);
        assert_eq!(info.pieces(), 3);
        let at = |at: u64| usize::try_from(at).unwrap();
        for (from, to) in [(0, 1), (1, 2), (2, 3), (0, 3), (1, 3)] {
            let pieces = from..to;
            let range = info.range(&pieces);
            let mut bytes = object[at(range.start)..at(range.end)].to_vec();
            let start = at(from * PIECE_BYTES);
            let end = at(to * PIECE_BYTES).min(data.len());
            assert_eq!(info.verify(&pieces, &bytes).unwrap(), data[start..end]);
            let other = ObjectInfo { key: ObjectKey { epoch: 3, ..key }, ..info };
            assert!(other.verify(&pieces, &bytes).is_err());
            assert!(info.verify(&pieces, &bytes[1..]).is_err());
            for flipped in (0..bytes.len()).step_by(997).chain([bytes.len() - 1]) {
                bytes[flipped] ^= 1;
                assert!(info.verify(&pieces, &bytes).is_err(), "{flipped}");
                bytes[flipped] ^= 1;
            }
        }
        // Each is where it belongs.
        let range = info.range(&(0..1));
        assert!(info.verify(&(1..2), &object[at(range.start)..at(range.end)]).is_err());
        assert!(object.ends_with(
            blake3::hash(&object[at(info.range(&(0..3)).end)..object.len() - 32]).as_bytes()
        ));
    }

    #[test]
    fn names_lead_back_to_keys() {
        let key = ObjectKey { epoch: 7, sequence: u64::MAX };
        assert_eq!(key.name(), "objects/0000000000000007-ffffffffffffffff");
        assert_eq!(ObjectKey::of_name(&key.name()), Some(key));
        for foreign in ["manifest", "objects/7-1", "objects/", "0000000000000007-0000000000000001"]
        {
            assert_eq!(ObjectKey::of_name(foreign), None, "{foreign}");
        }
    }
}
