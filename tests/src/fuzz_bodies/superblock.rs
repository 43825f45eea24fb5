//! Superblocks that are not what they should be, with right and with wrong checksums.

use lapidary_engine::FileName;

use super::records::survive;
use super::recovery::specimen;
use super::sealed::seal_slot;
use crate::chance::Chance;

const SLOT_BYTES: usize = 4096;
/// Where the fields end and what is reserved begins.
const FIELDS_BYTES: u32 = 136;

/// Changes the two slots of a superblock and seals them again, or not, and opens the store: it is
/// refused, or it opens, and then everything can be read or says what is wrong. Never a panic.
///
/// Input: a byte for each slot that says whether it is sealed, then changes of 4 to 11 bytes: the slot,
/// how much, where, with what.
pub fn superblock(input: &[u8]) {
    let disk = specimen().disk.after_kill();
    let mut chance = Chance::from_bytes(input);
    let sealed = [chance.below(4) > 0, chance.below(4) > 0];
    disk.change(FileName::Superblock, |bytes| {
        for _ in 0..32 {
            if chance.is_spent() {
                break;
            }
            let slot = chance.below(2) as usize * SLOT_BYTES;
            let width = chance.pick(&[1, 4, 8, 0, 2]);
            let whole = chance.one_in(8);
            let at =
                slot + chance.below(if whole { SLOT_BYTES as u32 } else { FIELDS_BYTES }) as usize;
            match width {
                // A slot as it is before anything was written there, or the other one.
                0 if whole => bytes[slot..slot + SLOT_BYTES].fill(0),
                0 => bytes.copy_within(SLOT_BYTES - slot..2 * SLOT_BYTES - slot, slot),
                width => {
                    for byte in bytes.iter_mut().skip(at).take(width) {
                        *byte = chance.below(256) as u8;
                    }
                }
            }
        }
        for (slot, sealed) in bytes.chunks_exact_mut(SLOT_BYTES).zip(sealed) {
            if sealed {
                seal_slot(slot);
            }
        }
    });
    survive(&disk);
}
