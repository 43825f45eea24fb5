//! The header of a segment, its first block.
//!
//! It is written together with the segment's first batch when the segment is put to use. A header
//! is valid if and only if magic, version, store, number and checksum are right. It fits one
//! 512-byte sector, so it is never torn: a first sector that is neither zeros nor valid is damage.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `LAPIDSEG` |
//! | 8 | 4 | format version |
//! | 12 | 4 | number of the file |
//! | 16 | 16 | store id |
//! | 32 | 4 | segment: number of this use of the file |
//! | 36 | 4 | incarnation that put it to use |
//! | 40 | 4 | size of the file in bytes |
//! | 44 | 4 | what is in it: 0 the log, 1 survivors that the cleaner moved |
//! | 48 | 8 | log: LSN of its first record; survivors: the LSN that counts as their age |
//! | 56 | 32 | log: hash of the batch before its first one; survivors: zeros |
//! | 88 | 8 | reserved |
//! | 96 | 32 | blake3 of bytes 0 to 95 |
//!
//! The rest of the block is zeros. Batches follow from offset 4096.

use super::{BLOCK_BYTES, BLOCK_BYTES_STORED, FORMAT_VERSION, Hash, Malformed, Reader};
use crate::types::{FileNo, Incarnation, Lsn, SegmentId, StoreId};

const MAGIC: &[u8; 8] = b"LAPIDSEG";
const SEALED_BYTES: usize = 96;
const HEADER_BYTES: usize = SEALED_BYTES + 32;

/// Bytes of the header block; batches start here.
pub(crate) const BATCHES_AT: u32 = BLOCK_BYTES_STORED;

/// What a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SegmentKind {
    /// A piece of the log.
    Log,
    /// What the cleaner moved out of other segments; no part of the log.
    Survivors,
}

impl SegmentKind {
    pub(crate) fn encode(self) -> u32 {
        match self {
            Self::Log => 0,
            Self::Survivors => 1,
        }
    }

    pub(crate) fn decode(value: u32) -> Result<Self, Malformed> {
        match value {
            0 => Ok(Self::Log),
            1 => Ok(Self::Survivors),
            _ => Err(Malformed("the kind of the segment is unknown")),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) file: FileNo,
    pub(crate) store: StoreId,
    pub(crate) segment: SegmentId,
    pub(crate) kind: SegmentKind,
    pub(crate) incarnation: Incarnation,
    pub(crate) size: u32,
    pub(crate) first_lsn: Lsn,
    pub(crate) previous_hash: Hash,
}

impl SegmentHeader {
    /// Appends the header block.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&self.file.0.to_le_bytes());
        out.extend_from_slice(&self.store.0);
        for value in [self.segment.0, self.incarnation.0, self.size, self.kind.encode()] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out.extend_from_slice(&self.first_lsn.0.to_le_bytes());
        out.extend_from_slice(&self.previous_hash);
        out.extend_from_slice(&[0; 8]);
        debug_assert_eq!(out.len() - start, SEALED_BYTES);
        let checksum = blake3::hash(&out[start..]);
        out.extend_from_slice(checksum.as_bytes());
        out.resize(start + BLOCK_BYTES, 0);
    }

    /// Checks and reads the header of `file`. `None`: the file was never put to use.
    pub(crate) fn decode(
        block: &[u8],
        file: FileNo,
        store: StoreId,
    ) -> Result<Option<Self>, Malformed> {
        match Self::decode_any(block, file)? {
            Some(header) if header.store != store => {
                Err(Malformed("the header names another store"))
            }
            header => Ok(header),
        }
    }

    /// The same, of whichever store.
    pub(crate) fn decode_any(block: &[u8], file: FileNo) -> Result<Option<Self>, Malformed> {
        let header = block.get(..HEADER_BYTES).ok_or(Malformed("it ends early"))?;
        if header.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let mut reader = Reader::new(header);
        if reader.take(8)? != MAGIC {
            return Err(Malformed("the magic number is wrong"));
        }
        if header[SEALED_BYTES..] != *blake3::hash(&header[..SEALED_BYTES]).as_bytes() {
            return Err(Malformed("the header's checksum is wrong"));
        }
        if !super::is_readable_version(reader.u32()?) {
            return Err(Malformed("it has a later format version than the superblock"));
        }
        if FileNo(reader.counter32()?) != file {
            return Err(Malformed("the header names another file"));
        }
        let store = StoreId(reader.array()?);
        let segment = SegmentId(reader.counter32()?);
        if segment.0 == 0 {
            return Err(Malformed("there is no segment 0"));
        }
        let incarnation = Incarnation(reader.counter32()?);
        let size = reader.u32()?;
        let kind = SegmentKind::decode(reader.u32()?)?;
        let first_lsn = Lsn(reader.counter64()?);
        let previous_hash = reader.array()?;
        reader.reserved(8)?;
        Ok(Some(Self { file, store, segment, kind, incarnation, size, first_lsn, previous_hash }))
    }
}

/// What a segment file is being used for, as its first block says: for whoever looks at the writes of
/// a store from outside and must tell one use of a file from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentUse {
    /// The number of this use.
    pub segment: SegmentId,
    /// Bytes of the file.
    pub size: u32,
    /// Whether it is a piece of the log, and not what the cleaner moved.
    pub is_log: bool,
}

impl SegmentUse {
    /// Bytes of the first block, of which the header is a part.
    pub const BLOCK_BYTES: usize = BLOCK_BYTES;

    /// Reads the first block of `file`; `None` if it is not a whole and valid header.
    ///
    /// ```
    /// use lapidary_engine::{FileNo, SegmentUse};
    ///
    /// assert_eq!(SegmentUse::read(&[0; SegmentUse::BLOCK_BYTES], FileNo(1)), None);
    /// ```
    #[must_use]
    pub fn read(block: &[u8], file: FileNo) -> Option<Self> {
        let header = SegmentHeader::decode_any(block, file).ok()??;
        let is_log = header.kind == SegmentKind::Log;
        Some(Self { segment: header.segment, size: header.size, is_log })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_damage() {
        let header = SegmentHeader {
            file: FileNo(3),
            store: StoreId([9; 16]),
            segment: SegmentId(4),
            kind: SegmentKind::Survivors,
            incarnation: Incarnation(5),
            size: 1 << 20,
            first_lsn: Lsn(77),
            previous_hash: [3; 32],
        };
        let mut block = Vec::new();
        header.encode(&mut block);
        assert_eq!(block.len(), BLOCK_BYTES);
        let decode = |block: &[u8]| SegmentHeader::decode(block, FileNo(3), StoreId([9; 16]));
        let used = SegmentUse { segment: SegmentId(4), size: 1 << 20, is_log: false };
        assert_eq!(SegmentUse::read(&block, FileNo(3)), Some(used));
        assert_eq!(SegmentUse::read(&block, FileNo(4)), None);
        assert_eq!(decode(&block), Ok(Some(header)));
        assert_eq!(decode(&[0; BLOCK_BYTES]), Ok(None));
        for at in 0..HEADER_BYTES {
            let mut damaged = block.clone();
            damaged[at] ^= 0x40;
            assert!(decode(&damaged).is_err(), "{at}");
        }
        assert!(SegmentHeader::decode(&block, FileNo(4), StoreId([9; 16])).is_err());
        assert!(SegmentHeader::decode(&block, FileNo(3), StoreId([8; 16])).is_err());
    }
}
