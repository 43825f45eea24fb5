//! What a directory notes about the bucket that its store is kept in: the file `BUCKET`.
//!
//! Two slots of one block. An update writes and syncs the one that does not count, so a torn write
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
//! | 60 | 4004 | reserved |
//! | 4064 | 32 | blake3 of bytes 0 to 4063 |

use lapidary_engine::SegmentId;

use super::super::HolderId;
use super::{Malformed, VERSION, seal, unseal};

const MAGIC: &[u8; 8] = b"LAPIDBKT";
/// Bytes of a slot.
pub(in super::super) const SLOT_BYTES: usize = 4096;
const FIELDS_END: usize = 60;

/// What a slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Note {
    pub(in super::super) sequence: u64,
    pub(in super::super) holder: HolderId,
    pub(in super::super) epoch: u64,
    pub(in super::super) claim: u64,
    pub(in super::super) cached_through: SegmentId,
    pub(in super::super) is_setting_up: bool,
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
        out.extend_from_slice(&self.cached_through.0.to_le_bytes());
        debug_assert_eq!(out.len(), FIELDS_END);
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
        let note = Self {
            is_setting_up,
            sequence: reader.u64()?,
            holder: HolderId(reader.array()?),
            epoch: reader.u64()?,
            claim: reader.u64()?,
            cached_through: SegmentId(reader.u32()?),
        };
        reader.reserved(SLOT_BYTES - 32 - FIELDS_END)?;
        if reader.is_at_end() { Ok(note) } else { Err(Malformed::Damaged("it is too long")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_found() {
        let note = Note {
            sequence: 3,
            holder: HolderId([7; 16]),
            epoch: 4,
            claim: 5,
            cached_through: SegmentId(9),
            is_setting_up: true,
        };
        let slot = note.encode();
        assert_eq!(slot.len(), SLOT_BYTES);
        assert_eq!(Note::decode(&slot), Ok(note));
        for at in 0..slot.len() {
            let mut damaged = slot.clone();
            damaged[at] ^= 1 << (at % 8);
            assert!(matches!(Note::decode(&damaged), Err(Malformed::Damaged(_))), "{at}");
        }
        assert!(Note::decode(&slot[..40]).is_err());
    }

    #[test]
    fn a_later_version_is_told_from_damage() {
        let note = Note {
            sequence: 1,
            holder: HolderId([0; 16]),
            epoch: 1,
            claim: 1,
            cached_through: SegmentId(0),
            is_setting_up: false,
        };
        let mut slot = note.encode();
        slot[8] = 2;
        slot.truncate(SLOT_BYTES - 32);
        seal(&mut slot);
        assert_eq!(Note::decode(&slot), Err(Malformed::TooNew(2)));
    }
}
