//! The files of a store with changes in them that no checksum gives away: every page, checkpoint part,
//! batch, segment header and superblock slot is sealed again, as `docs/FORMAT.md` says.
//!
//! It is written from the description of the format and shares no code with the engine.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use lapidary_engine::FileName;

use crate::sim_disk::SimDisk;

const BLOCK_BYTES: usize = 4096;
const BATCH_HEADER_BYTES: usize = 128;
const COMMIT: u8 = 1;
const PART: u8 = 4;
/// The parts of a checkpoint refer to each other at most so deep.
const ROUNDS_MAX: usize = 12;

/// The files of a store.
pub(super) struct Image {
    files: BTreeMap<FileName, Vec<u8>>,
}

/// A batch: its file, its place there, and its records.
#[derive(Clone)]
pub(super) struct Batch {
    pub(super) file: FileName,
    at: usize,
    pub(super) records: Range<usize>,
}

/// Something with a checksum of its own that references repeat: where, the place of its checksum, and
/// what that is made of.
struct Checked {
    file: FileName,
    at: usize,
    bytes: usize,
    crc_at: usize,
    crc: u32,
}

impl Image {
    pub(super) fn of(disk: &SimDisk) -> Self {
        let read = |name| (name, disk.contents(name).expect("the file was listed"));
        Self { files: disk.files().into_iter().map(read).collect() }
    }

    /// Puts the files on a disk that has them.
    pub(super) fn put(self, disk: &SimDisk) {
        for (name, bytes) in self.files {
            disk.change(name, |old| *old = bytes);
        }
    }

    pub(super) fn file(&mut self, name: FileName) -> &mut Vec<u8> {
        self.files.get_mut(&name).expect("the file is there")
    }

    /// The batches of all segments, in the order of their first records.
    pub(super) fn batches(&self) -> Vec<Batch> {
        let mut batches = Vec::new();
        for (&file, bytes) in &self.files {
            let mut at = BLOCK_BYTES;
            while file != FileName::Superblock && bytes.get(at..at + 4) == Some(b"LBAT") {
                let start = at + BATCH_HEADER_BYTES;
                let end = start + u32_at(bytes, at + 4) as usize;
                if end > bytes.len() {
                    break;
                }
                batches.push(Batch { file, at, records: start..end });
                at = end.next_multiple_of(BLOCK_BYTES);
            }
        }
        batches.sort_by_key(|batch| u64_at(&self.files[&batch.file], batch.at + 40));
        batches
    }

    /// Where the records of a batch start, as far as their lengths make sense.
    pub(super) fn records(&self, batch: &Batch) -> Vec<usize> {
        let bytes = &self.files[&batch.file];
        let mut starts = Vec::new();
        let mut at = batch.records.start;
        while at + 16 <= batch.records.end {
            starts.push(at);
            let length = u32_at(bytes, at + 4) as usize;
            if length < 16 {
                break;
            }
            at += length;
        }
        starts
    }

    /// Makes every checksum right again. `batches` are those of the image before it was changed.
    pub(super) fn seal(&mut self, batches: &[Batch]) {
        for _ in 0..ROUNDS_MAX {
            let wrong = batches.iter().flat_map(|batch| self.wrong(batch)).collect::<Vec<_>>();
            if wrong.is_empty() {
                break;
            }
            for checked in wrong {
                self.mend(&checked, batches);
            }
        }
        let mut hashes = HashMap::new();
        for batch in batches {
            let bytes = self.files.get_mut(&batch.file).expect("it is the batch's file");
            replace_hash(&mut bytes[batch.at + 64..batch.at + 96], &hashes);
            let mut hasher = blake3::Hasher::new();
            hasher.update(&bytes[batch.at..batch.at + 96]);
            hasher.update(&bytes[batch.records.clone()]);
            let seal = &mut bytes[batch.at + 96..batch.at + 128];
            let old: [u8; 32] = seal.try_into().expect("a hash has 32 bytes");
            seal.copy_from_slice(hasher.finalize().as_bytes());
            hashes.insert(old, *hasher.finalize().as_bytes());
        }
        for (&name, bytes) in &mut self.files {
            if name == FileName::Superblock {
                for slot in bytes.chunks_exact_mut(BLOCK_BYTES) {
                    replace_hash(&mut slot[72..104], &hashes);
                    seal_slot(slot);
                }
            } else if bytes.starts_with(b"LAPIDSEG") {
                replace_hash(&mut bytes[56..88], &hashes);
                let seal = blake3::hash(&bytes[..96]);
                bytes[96..128].copy_from_slice(seal.as_bytes());
            }
        }
    }

    /// The pages and parts in a batch whose checksums are wrong.
    fn wrong(&self, batch: &Batch) -> Vec<Checked> {
        let bytes = &self.files[&batch.file];
        let mut wrong = Vec::new();
        for at in self.records(batch) {
            let end = batch.records.end.min(at + u32_at(bytes, at + 4) as usize);
            match bytes[at] {
                PART if at + 40 <= end => {
                    let payload = u32_at(bytes, at + 20) as usize;
                    if at + 40 + payload <= end {
                        let crc = crc32c::crc32c(&bytes[at + 20..at + 40 + payload]);
                        wrong.push(Checked {
                            file: batch.file,
                            at,
                            bytes: end - at,
                            crc_at: at + 16,
                            crc,
                        });
                    }
                }
                COMMIT if at + 72 <= end => {
                    let mut page = at + 72 + (u32_at(bytes, at + 56) as usize).saturating_mul(24);
                    while page.saturating_add(24) <= end {
                        let length = 24 + u32_at(bytes, page + 4) as usize;
                        if page + length > end {
                            break;
                        }
                        let crc = crc32c::crc32c(&bytes[page..page + 20]);
                        let crc = crc32c::crc32c_append(crc, &bytes[page + 24..page + length]);
                        let length = length.next_multiple_of(8);
                        let crc_at = page + 20;
                        wrong.push(Checked {
                            file: batch.file,
                            at: page,
                            bytes: length,
                            crc_at,
                            crc,
                        });
                        page += length;
                    }
                }
                _ => {}
            }
        }
        wrong.retain(|checked| u32_at(bytes, checked.crc_at) != checked.crc);
        wrong
    }

    /// Puts a checksum right, here and in every reference that repeats it.
    fn mend(&mut self, checked: &Checked, batches: &[Batch]) {
        let bytes = self.files.get_mut(&checked.file).expect("it is the batch's file");
        let old = u32_at(bytes, checked.crc_at);
        bytes[checked.crc_at..checked.crc_at + 4].copy_from_slice(&checked.crc.to_le_bytes());
        let segment = u32_at(bytes, 32);
        let mut reference = [0; 16];
        let slot = (checked.at / 8) as u32;
        for (field, value) in [segment, slot, checked.bytes as u32, old].into_iter().enumerate() {
            reference[field * 4..field * 4 + 4].copy_from_slice(&value.to_le_bytes());
        }
        let mend = |bytes: &mut [u8]| {
            // References start on a multiple of 4 wherever they are.
            for at in (0..bytes.len().saturating_sub(15)).step_by(4) {
                if bytes[at..at + 16] == reference {
                    bytes[at + 12..at + 16].copy_from_slice(&checked.crc.to_le_bytes());
                }
            }
        };
        for batch in batches {
            let bytes = self.files.get_mut(&batch.file).expect("it is the batch's file");
            mend(&mut bytes[batch.records.clone()]);
        }
        if let Some(superblock) = self.files.get_mut(&FileName::Superblock) {
            mend(superblock);
        }
    }
}

/// Seals a slot of the superblock.
pub(super) fn seal_slot(slot: &mut [u8]) {
    let seal = blake3::hash(&slot[..BLOCK_BYTES - 32]);
    slot[BLOCK_BYTES - 32..BLOCK_BYTES].copy_from_slice(seal.as_bytes());
}

fn replace_hash(hash: &mut [u8], new: &HashMap<[u8; 32], [u8; 32]>) {
    if let Some(new) = <[u8; 32]>::try_from(&*hash).ok().and_then(|old| new.get(&old)) {
        hash.copy_from_slice(new);
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
