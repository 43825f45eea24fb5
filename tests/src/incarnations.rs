//! Which openings of a store wrote what is on its disk.
//!
//! Each opening has a number, its *incarnation*, and everything it writes says so. Two with one number would
//! be taken for each other: what the first left behind, where a crash cut it off, would pass for what
//! the second wrote.
//!
//! It is written from `docs/FORMAT.md` and shares no code with the engine.

use std::collections::BTreeMap;

use lapidary_engine::FileName;

use crate::failure::{Failure, wrong};
use crate::sim_disk::SimDisk;

const SLOT_BYTES: usize = 4096;
const SLOT_SEALED_BYTES: usize = SLOT_BYTES - 32;
const SLOT_INCARNATION_AT: usize = 12;
const SEGMENT_AT: usize = 32;
const SEGMENT_INCARNATION_AT: usize = 36;
const HEADER_BYTES: usize = 40;

/// What the superblock and the headers of the segments say.
#[derive(Debug)]
pub(crate) struct Incarnations {
    superblock: u32,
    /// The segment in each file, and its incarnation.
    segments: BTreeMap<FileName, (u32, u32)>,
}

impl Incarnations {
    /// Those on a disk, as reads show it.
    pub(crate) fn on(disk: &SimDisk) -> Self {
        let mut this = Self { superblock: 0, segments: BTreeMap::new() };
        for name in disk.files() {
            if name == FileName::Superblock {
                let bytes = disk.contents(name).unwrap_or_default();
                let slots = bytes.chunks_exact(SLOT_BYTES).filter(|slot| is_sealed(slot));
                let incarnations = slots.filter_map(|slot| u32_at(slot, SLOT_INCARNATION_AT));
                this.superblock = incarnations.max().unwrap_or(0);
                continue;
            }
            let bytes = disk.beginning(name, HEADER_BYTES);
            if bytes.starts_with(b"LAPIDSEG")
                && let Some(segment) = u32_at(&bytes, SEGMENT_AT)
                && let Some(incarnation) = u32_at(&bytes, SEGMENT_INCARNATION_AT)
            {
                this.segments.insert(name, (segment, incarnation));
            }
        }
        this
    }

    /// Checks that what an opening wrote is of an incarnation above all that were there, and that it
    /// says so in the superblock if it succeeded.
    pub(crate) fn check_opening(&self, after: &Self, is_open: bool) -> Result<(), Failure> {
        let there = self.segments.values().map(|(_, incarnation)| *incarnation);
        let highest = there.max().unwrap_or(0).max(self.superblock);
        if is_open && after.superblock <= highest {
            return wrong(format!(
                "it opened as incarnation {}, with traces of {highest}",
                after.superblock
            ));
        }
        for (name, header) in &after.segments {
            let (segment, incarnation) = header;
            if self.segments.get(name) != Some(header) && *incarnation <= highest {
                return wrong(format!(
                    "opening it wrote segment {segment} as incarnation {incarnation}, with traces of \
                     {highest}"
                ));
            }
        }
        Ok(())
    }
}

/// Whether a slot of the superblock is whole: of a torn one nothing is ever taken.
fn is_sealed(slot: &[u8]) -> bool {
    let (sealed, seal) = slot.split_at(SLOT_SEALED_BYTES);
    slot.starts_with(b"LAPIDSUP") && blake3::hash(sealed).as_bytes() == &seal[..32]
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
