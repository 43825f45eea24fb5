//! What a directory notes about the bucket that its store is kept in: the file `BUCKET`.
//!
//! Two slots of 64 KiB. An update writes and syncs the one that does not count, so a torn write
//! leaves the other. A slot is valid if and only if magic, version and checksum are right; of two
//! valid ones the higher sequence counts.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `LAPIDBKT` |
//! | 8 | 4 | version |
//! | 12 | 4 | 1 while the directory is being set up from the bucket; 0 when it is whole |
//! | 16 | 8 | sequence of the slot |
//! | 24 | 16 | holder: identity of this directory |
//! | 40 | 8 | epoch that this directory last held |
//! | 48 | 8 | epoch that it was about to take, or the same |
//! | 56 | 4 | segments up to this one came from the bucket, and may be here in part only |
//! | 60 | 4 | number n of segments beyond that one which may be here in part only |
//! | 64 | 4 n | those, in ascending order |
//! | | | zeros |
//! | 65504 | 32 | blake3 of bytes 0 to 65503 |

use std::collections::BTreeSet;

use lapidary_engine::SegmentId;

use super::super::HolderId;
use super::{Malformed, VERSION, seal, stored, unseal};

const MAGIC: &[u8; 8] = b"LAPIDBKT";
/// Bytes of a slot.
pub(in super::super) const SLOT_BYTES: usize = 64 << 10;
const FIELDS_END: usize = 64;
/// Segments that a slot has room for, beside those up to one.
pub(in super::super) const EVICTED_MAX: usize = (SLOT_BYTES - 32 - FIELDS_END) / 4;

/// What a slot says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Note {
    pub(in super::super) sequence: u64,
    pub(in super::super) holder: HolderId,
    pub(in super::super) epoch: u64,
    pub(in super::super) claim: u64,
    pub(in super::super) partial: Partial,
    pub(in super::super) is_setting_up: bool,
}

/// Segments of which a directory may have a part only. The bucket has all of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Partial {
    /// All up to this one.
    pub(in super::super) through: SegmentId,
    /// Others.
    pub(in super::super) evicted: BTreeSet<SegmentId>,
}

impl Partial {
    pub(in super::super) fn contains(&self, segment: SegmentId) -> bool {
        segment <= self.through || self.evicted.contains(&segment)
    }
}

impl Note {
    pub(in super::super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SLOT_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&u32::from(self.is_setting_up).to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.holder.0);
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.claim.to_le_bytes());
        out.extend_from_slice(&self.partial.through.0.to_le_bytes());
        out.extend_from_slice(&stored(self.partial.evicted.len()).to_le_bytes());
        debug_assert_eq!(out.len(), FIELDS_END);
        assert!(self.partial.evicted.len() <= EVICTED_MAX, "whoever adds a segment counts them");
        for segment in &self.partial.evicted {
            out.extend_from_slice(&segment.0.to_le_bytes());
        }
        out.resize(SLOT_BYTES - 32, 0);
        seal(&mut out);
        out
    }

    pub(in super::super) fn decode(slot: &[u8]) -> Result<Self, Malformed> {
        let mut reader = unseal(slot, MAGIC)?;
        let is_setting_up = match reader.u32()? {
            0 => false,
            1 => true,
            _ => return Err(Malformed::Damaged("the state is unknown")),
        };
        let mut note = Self {
            is_setting_up,
            sequence: reader.u64()?,
            holder: HolderId(reader.array()?),
            epoch: reader.u64()?,
            claim: reader.u64()?,
            partial: Partial { through: SegmentId(reader.u32()?), evicted: BTreeSet::new() },
        };
        let count = reader.count(4)?;
        for _ in 0..count {
            let segment = SegmentId(reader.u32()?);
            let after = note.partial.evicted.last().copied().unwrap_or(note.partial.through);
            if segment <= after {
                return Err(Malformed::Damaged("its segments are not in order"));
            }
            note.partial.evicted.insert(segment);
        }
        reader.reserved(SLOT_BYTES - 32 - FIELDS_END - 4 * count)?;
        if reader.is_at_end() { Ok(note) } else { Err(Malformed::Damaged("it is too long")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(evicted: impl IntoIterator<Item = u32>) -> Note {
        Note {
            sequence: 3,
            holder: HolderId([7; 16]),
            epoch: 4,
            claim: 5,
            partial: Partial {
                through: SegmentId(9),
                evicted: evicted.into_iter().map(SegmentId).collect(),
            },
            is_setting_up: true,
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let note = note([10, 12, 4_000_000_000]);
        let slot = note.encode();
        assert_eq!(slot.len(), SLOT_BYTES);
        assert_eq!(Note::decode(&slot), Ok(note));
        for at in
            (0..100).chain((100..SLOT_BYTES - 64).step_by(97)).chain(SLOT_BYTES - 64..SLOT_BYTES)
        {
            let mut damaged = slot.clone();
            damaged[at] ^= 1 << (at % 8);
            assert!(matches!(Note::decode(&damaged), Err(Malformed::Damaged(_))), "{at}");
        }
        assert!(Note::decode(&slot[..40]).is_err());
    }

    #[test]
    fn a_slot_holds_as_many_as_it_says() {
        let first = 10;
        let full = note(first..first + u32::try_from(EVICTED_MAX).unwrap());
        assert_eq!(full.partial.evicted.len(), EVICTED_MAX);
        assert_eq!(Note::decode(&full.encode()), Ok(full));
    }

    #[test]
    fn segments_out_of_order_are_refused() {
        let mut slot = note([10, 12]).encode();
        slot[FIELDS_END..FIELDS_END + 4].copy_from_slice(&13_u32.to_le_bytes());
        slot.truncate(SLOT_BYTES - 32);
        seal(&mut slot);
        assert!(matches!(Note::decode(&slot), Err(Malformed::Damaged(_))));
    }

    #[test]
    fn a_later_version_is_told_from_damage() {
        let mut slot = note([]).encode();
        slot[8] = 2;
        slot.truncate(SLOT_BYTES - 32);
        seal(&mut slot);
        assert_eq!(Note::decode(&slot), Err(Malformed::TooNew(2)));
    }
}
