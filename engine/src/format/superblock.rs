//! The superblock: where recovery starts.
//!
//! The file `SUPERBLOCK` has two slots of one block each. Both always say the same (but for their
//! sequence), except in the middle of an update, which writes and syncs one, then the other: so one
//! torn or damaged slot never matters. A slot is valid if and only if its magic and its checksum are
//! right; of two valid ones the higher sequence counts.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `LAPIDSUP` |
//! | 8 | 4 | format version |
//! | 12 | 4 | incarnation |
//! | 16 | 16 | store id |
//! | 32 | 8 | sequence: counts writes of slots |
//! | 40 | 4 | smallest segment size in bytes |
//! | 44 | 4 | largest ordinary segment size in bytes |
//! | 48 | 4 | replay position: segment (0: the log is empty) |
//! | 52 | 4 | replay position: offset in bytes |
//! | 56 | 4 | file that holds the segment of the replay position |
//! | 60 | 4 | file that holds the segment of the checkpoint root |
//! | 64 | 8 | replay position: LSN expected there |
//! | 72 | 32 | replay position: hash of the batch before it |
//! | 104 | 8 | durable-through LSN |
//! | 112 | 16 | reference of the checkpoint root (zeros: none) |
//! | 128 | 3936 | reserved |
//! | 4064 | 32 | blake3 of bytes 0 to 4063 |
//!
//! Magic, version and checksum keep their places in every later version, so that a build can tell a
//! newer store from a damaged one.

use super::{
    BLOCK_BYTES, FORMAT_VERSION, Hash, Identity, Malformed, Reader, SLOT_BYTES_STORED, StoredRef,
};
use crate::config::FormatParams;
use crate::types::{FileNo, Incarnation, Lsn, SegmentId, StoreId};

const MAGIC: &[u8; 8] = b"LAPIDSUP";
const CHECKSUM_AT: usize = BLOCK_BYTES - 32;
/// Offsets of the two slots.
pub(crate) const SLOT_OFFSETS: [u64; 2] = [0, BLOCK_BYTES as u64];
/// Bytes of the file.
pub(crate) const FILE_BYTES: usize = 2 * BLOCK_BYTES;

/// A place in the log between two batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogPosition {
    /// The segment; `None` before the first batch of the store.
    pub(crate) segment: Option<SegmentId>,
    /// Offset of the next batch in bytes.
    pub(crate) offset: u32,
    /// First LSN of the next batch.
    pub(crate) lsn: Lsn,
    /// Hash of the previous batch.
    pub(crate) hash: Hash,
}

impl LogPosition {
    /// Before the first batch.
    pub(crate) const START: Self = Self { segment: None, offset: 0, lsn: Lsn(1), hash: [0; 32] };

    /// The position as the identity of what would be written there.
    pub(crate) fn identity(&self) -> Identity {
        let segment = self.segment.unwrap_or(SegmentId(0));
        Identity { segment, slot: self.offset / SLOT_BYTES_STORED }
    }
}

/// What a slot says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) store: StoreId,
    pub(crate) sequence: u64,
    pub(crate) incarnation: Incarnation,
    pub(crate) format: FormatParams,
    pub(crate) replay: LogPosition,
    /// The files of the segments of the replay position and of the checkpoint root: if their headers
    /// are gone, nothing else says which ones they were.
    pub(crate) replay_file: FileNo,
    pub(crate) root_file: FileNo,
    pub(crate) durable_through: Lsn,
    pub(crate) checkpoint: Option<StoredRef>,
}

/// What is wrong with a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotError {
    /// Intact, but of a later format version.
    TooNew(u32),
    /// Not intact.
    Damaged(&'static str),
}

impl From<Malformed> for SlotError {
    fn from(Malformed(reason): Malformed) -> Self {
        Self::Damaged(reason)
    }
}

impl Superblock {
    /// The slot's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(BLOCK_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&self.incarnation.0.to_le_bytes());
        out.extend_from_slice(&self.store.0);
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.format.segment_bytes_min.to_le_bytes());
        out.extend_from_slice(&self.format.segment_bytes_max.to_le_bytes());
        let segment = self.replay.segment.unwrap_or(SegmentId(0));
        for value in [segment.0, self.replay.offset, self.replay_file.0, self.root_file.0] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out.extend_from_slice(&self.replay.lsn.0.to_le_bytes());
        out.extend_from_slice(&self.replay.hash);
        out.extend_from_slice(&self.durable_through.0.to_le_bytes());
        StoredRef::encode(self.checkpoint, &mut out);
        debug_assert_eq!(out.len(), 128);
        out.resize(CHECKSUM_AT, 0);
        let checksum = blake3::hash(&out);
        out.extend_from_slice(checksum.as_bytes());
        out
    }

    /// Whether a slot that is not valid can be one that was never written whole: each sector of it
    /// is zeros, or the first one starts as a slot does.
    pub(crate) fn may_be_torn(slot: &[u8]) -> bool {
        let zeros = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0);
        slot.starts_with(MAGIC) || zeros(&slot[..CHECKSUM_AT])
    }

    /// Checks and reads a slot.
    pub(crate) fn decode(slot: &[u8]) -> Result<Self, SlotError> {
        let mut reader = Reader::new(slot);
        if reader.take(8)? != MAGIC {
            return Err(SlotError::Damaged("the magic number is wrong"));
        }
        let sealed = slot.get(..CHECKSUM_AT).ok_or(SlotError::Damaged("it ends early"))?;
        if slot.get(CHECKSUM_AT..) != Some(blake3::hash(sealed).as_bytes().as_slice()) {
            return Err(SlotError::Damaged("the checksum is wrong"));
        }
        let version = reader.u32()?;
        if !super::is_readable_version(version) {
            return Err(SlotError::TooNew(version));
        }
        let incarnation = Incarnation(reader.counter32()?);
        let store = StoreId(reader.array()?);
        let sequence = reader.counter64()?;
        let format =
            FormatParams { segment_bytes_min: reader.u32()?, segment_bytes_max: reader.u32()? };
        let segment = match SegmentId(reader.counter32()?) {
            SegmentId(0) => None,
            named => Some(named),
        };
        let offset = reader.u32()?;
        let (replay_file, root_file) = (FileNo(reader.counter32()?), FileNo(reader.counter32()?));
        let replay =
            LogPosition { segment, offset, lsn: Lsn(reader.counter64()?), hash: reader.array()? };
        let durable_through = Lsn(reader.counter64()?);
        let checkpoint = StoredRef::decode(&mut reader)?;
        reader.reserved(CHECKSUM_AT - 128)?;
        Ok(Self {
            store,
            sequence,
            incarnation,
            format,
            replay,
            replay_file,
            root_file,
            durable_through,
            checkpoint,
        })
    }
}

impl StoreId {
    /// The store whose file `SUPERBLOCK` has these bytes; `None` if neither of its slots is valid. For whoever
    /// keeps a store elsewhere and must tell one from another.
    ///
    /// ```
    /// assert_eq!(lapidary_engine::StoreId::of_superblock(&[0; 8192]), None);
    /// ```
    #[must_use]
    pub fn of_superblock(file: &[u8]) -> Option<Self> {
        let mut slots = file.chunks_exact(BLOCK_BYTES);
        slots.find_map(|slot| Superblock::decode(slot).ok()).map(|slot| slot.store)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Superblock {
        Superblock {
            store: StoreId([7; 16]),
            sequence: 3,
            incarnation: Incarnation(2),
            format: FormatParams::default(),
            replay: LogPosition {
                segment: Some(SegmentId(4)),
                offset: 8192,
                lsn: Lsn(99),
                hash: [1; 32],
            },
            replay_file: FileNo(8),
            root_file: FileNo(9),
            durable_through: Lsn(120),
            checkpoint: Some(StoredRef { segment: SegmentId(4), slot: 600, len: 64, crc: 9 }),
        }
    }

    #[test]
    fn round_trip() {
        let slot = sample().encode();
        assert_eq!(slot.len(), BLOCK_BYTES);
        assert_eq!(Superblock::decode(&slot), Ok(sample()));
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let slot = sample().encode();
        for at in 0..slot.len() {
            let mut damaged = slot.clone();
            damaged[at] ^= 1 << (at % 8);
            assert!(matches!(Superblock::decode(&damaged), Err(SlotError::Damaged(_))), "{at}");
        }
        for len in [0, 7, 8, 4063, 4095] {
            assert!(matches!(Superblock::decode(&slot[..len]), Err(SlotError::Damaged(_))));
        }
    }

    #[test]
    fn newer_version_is_told_from_damage() {
        let mut slot = sample().encode();
        slot[8] = 3;
        let checksum = blake3::hash(&slot[..CHECKSUM_AT]);
        slot[CHECKSUM_AT..].copy_from_slice(checksum.as_bytes());
        assert_eq!(Superblock::decode(&slot), Err(SlotError::TooNew(3)));
    }
}
