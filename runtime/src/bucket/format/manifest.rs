//! The manifest: the one object of a store in a bucket that changes, and that says what all others are.
//!
//! It is replaced as a whole, by compare-and-swap, and is valid if and only if magic, version and
//! checksum are right.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `LAPIDMAN` |
//! | 8 | 4 | version |
//! | 12 | 4 | lease in milliseconds; 0: given back |
//! | 16 | 8 | epoch: counts holders |
//! | 24 | 8 | sequence: counts manifests of the epoch |
//! | 32 | 16 | holder: identity of its directory |
//! | 48 | 8 | LSN up to which everything is in the bucket |
//! | 56 | 8 | sequence of the next object of data of this epoch |
//! | 64 | 4 | bytes n of the holder's name |
//! | 68 | 4 | bytes s of the superblock file; 0: no store was created yet |
//! | 72 | n | name of the holder, UTF-8, for messages |
//! | | s | the superblock file |
//! | | 4 | number of objects, and of each: |
//! | | 8 + 8 | epoch, sequence: its name |
//! | | 8 | bytes of its data |
//! | | 4 | number of segment files, in ascending order, and of each: |
//! | | 4 | number of the file |
//! | | 4 | segment: number of its use |
//! | | 8 | bytes of the file |
//! | | 4 + h | its first block without the zeros at the end, and before that how many bytes that is |
//! | | 4 | number of parts, in ascending order, without overlaps, and of each: |
//! | | 8 + 8 | offset in the file, length in bytes |
//! | | 4 | which of the objects, counted from 0 |
//! | | 8 | offset in that object's data |
//! | | 4 | number of points of history, in ascending order, and of each: |
//! | | 8 + 8 | epoch, sequence: the manifest of which there is a copy |
//! | | 8 | sequence of the next object of data when that was written |
//! | | 8 | LSN up to which everything was in the bucket |
//! | | 8 | wall clock, in milliseconds since the Unix epoch |
//! | end - 32 | 32 | blake3 of all before |
//!
//! What no part covers is zeros.

use std::collections::BTreeMap;

use lapidary_engine::{FileNo, Lsn, SegmentId, SegmentUse};

use super::super::HolderId;
use super::super::history::HistoryPoint;
use super::object::{ObjectInfo, ObjectKey};
use super::{Malformed, VERSION, seal, stored, unseal};

const MAGIC: &[u8; 8] = b"LAPIDMAN";
/// The manifest's name in the bucket.
pub(in super::super) const MANIFEST: &str = "manifest";
/// Bytes of a holder's name at most.
pub(in super::super) const NAME_BYTES_MAX: usize = 255;
const SUPERBLOCK_BYTES_MAX: usize = 64 << 10;
const OBJECT_BYTES: usize = 24;
const FILE_BYTES: usize = 24;
const PART_BYTES: usize = 28;
const POINT_BYTES: usize = 40;

/// A part of a segment file, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Part {
    pub(in super::super) bytes: u64,
    pub(in super::super) object: ObjectKey,
    pub(in super::super) at: u64,
}

/// The parts of a file, by their offsets in it. They do not overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Parts(BTreeMap<u64, Part>);

impl Parts {
    /// Puts a part over what is there.
    pub(in super::super) fn put(&mut self, offset: u64, part: Part) {
        let end = offset + part.bytes;
        let touched: Vec<(u64, Part)> = self
            .0
            .range(..end)
            .rev()
            .take_while(|(at, part)| **at + part.bytes > offset)
            .map(|(&at, &part)| (at, part))
            .collect();
        for (at, old) in touched {
            self.0.remove(&at);
            if at < offset {
                self.0.insert(at, Part { bytes: offset - at, ..old });
            }
            let old_end = at + old.bytes;
            if old_end > end {
                let rest = Part { bytes: old_end - end, at: old.at + (end - at), ..old };
                self.0.insert(end, rest);
            }
        }
        self.0.insert(offset, part);
    }

    pub(in super::super) fn iter(&self) -> impl Iterator<Item = (u64, &Part)> {
        self.0.iter().map(|(&offset, part)| (offset, part))
    }

    pub(in super::super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Bytes from the file's start to the end of its last part.
    pub(in super::super) fn end(&self) -> u64 {
        self.0.last_key_value().map_or(0, |(offset, part)| offset + part.bytes)
    }
}

/// A segment file as the bucket has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct FileEntry {
    pub(in super::super) segment: SegmentId,
    pub(in super::super) bytes: u64,
    /// Its first block, without the zeros at the end.
    pub(in super::super) first_block: Vec<u8>,
    pub(in super::super) parts: Parts,
}

impl FileEntry {
    /// Its first block, whole.
    pub(in super::super) fn block(&self) -> Vec<u8> {
        let mut block = self.first_block.clone();
        block.resize(SegmentUse::BLOCK_BYTES, 0);
        block
    }

    /// Bytes of its parts.
    pub(in super::super) fn part_bytes(&self) -> u64 {
        self.parts.iter().map(|(_, part)| part.bytes).sum()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Manifest {
    pub(in super::super) lease_ms: u32,
    pub(in super::super) epoch: u64,
    pub(in super::super) sequence: u64,
    pub(in super::super) holder: HolderId,
    pub(in super::super) holder_name: String,
    pub(in super::super) shipped: Lsn,
    pub(in super::super) next_object: u64,
    pub(in super::super) superblock: Vec<u8>,
    /// Those that parts refer to.
    pub(in super::super) objects: BTreeMap<ObjectKey, ObjectInfo>,
    pub(in super::super) files: BTreeMap<FileNo, FileEntry>,
    /// Earlier ones of which there are copies, in the order in which they were written.
    pub(in super::super) points: Vec<HistoryPoint>,
}

impl Manifest {
    pub(in super::super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.lease_ms.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.holder.0);
        out.extend_from_slice(&self.shipped.0.to_le_bytes());
        out.extend_from_slice(&self.next_object.to_le_bytes());
        let name = &self.holder_name.as_bytes()[..self.holder_name.len().min(NAME_BYTES_MAX)];
        out.extend_from_slice(&stored(name.len()).to_le_bytes());
        out.extend_from_slice(&stored(self.superblock.len()).to_le_bytes());
        out.extend_from_slice(name);
        out.extend_from_slice(&self.superblock);
        out.extend_from_slice(&stored(self.objects.len()).to_le_bytes());
        let mut numbers = BTreeMap::new();
        for (number, (key, object)) in self.objects.iter().enumerate() {
            numbers.insert(*key, stored(number));
            out.extend_from_slice(&key.epoch.to_le_bytes());
            out.extend_from_slice(&key.sequence.to_le_bytes());
            out.extend_from_slice(&object.data_bytes.to_le_bytes());
        }
        out.extend_from_slice(&stored(self.files.len()).to_le_bytes());
        for (number, file) in &self.files {
            out.extend_from_slice(&number.0.to_le_bytes());
            out.extend_from_slice(&file.segment.0.to_le_bytes());
            out.extend_from_slice(&file.bytes.to_le_bytes());
            out.extend_from_slice(&stored(file.first_block.len()).to_le_bytes());
            out.extend_from_slice(&file.first_block);
            out.extend_from_slice(&stored(file.parts.len()).to_le_bytes());
            for (offset, part) in file.parts.iter() {
                out.extend_from_slice(&offset.to_le_bytes());
                out.extend_from_slice(&part.bytes.to_le_bytes());
                out.extend_from_slice(&numbers[&part.object].to_le_bytes());
                out.extend_from_slice(&part.at.to_le_bytes());
            }
        }
        out.extend_from_slice(&stored(self.points.len()).to_le_bytes());
        for point in &self.points {
            let HistoryPoint { epoch, sequence, next_object, lsn, wall_ms } = *point;
            for field in [epoch, sequence, next_object, lsn.0, wall_ms] {
                out.extend_from_slice(&field.to_le_bytes());
            }
        }
        seal(&mut out);
        out
    }

    pub(in super::super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let damaged = |what| Err(Malformed::Damaged(what));
        let mut reader = unseal(bytes, MAGIC)?;
        let mut manifest = Self {
            lease_ms: reader.u32()?,
            epoch: reader.u64()?,
            sequence: reader.u64()?,
            holder: HolderId(reader.array()?),
            shipped: Lsn(reader.u64()?),
            next_object: reader.u64()?,
            ..Self::default()
        };
        let name = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
        let superblock = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
        if name > NAME_BYTES_MAX || superblock > SUPERBLOCK_BYTES_MAX {
            return damaged("a length is beyond its bound");
        }
        manifest.holder_name = String::from_utf8_lossy(reader.take(name)?).into_owned();
        manifest.superblock = reader.take(superblock)?.to_vec();
        let mut keys = Vec::new();
        for _ in 0..reader.count(OBJECT_BYTES)? {
            let key = ObjectKey { epoch: reader.u64()?, sequence: reader.u64()? };
            let data_bytes = reader.u64()?;
            if data_bytes > 1 << 40 {
                return damaged("an object is longer than any can be");
            }
            let info = ObjectInfo { key, data_bytes };
            if manifest.objects.insert(key, info).is_some() {
                return damaged("an object is named twice");
            }
            keys.push(key);
        }
        for _ in 0..reader.count(FILE_BYTES)? {
            let number = FileNo(reader.u32()?);
            let (segment, bytes) = (SegmentId(reader.u32()?), reader.u64()?);
            let first = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
            if first > SegmentUse::BLOCK_BYTES || bytes > u64::from(u32::MAX) + 1 {
                return damaged("a segment file is longer than any can be");
            }
            let first_block = reader.take(first)?.to_vec();
            let mut file = FileEntry { segment, bytes, first_block, parts: Parts::default() };
            for _ in 0..reader.count(PART_BYTES)? {
                let (offset, len) = (reader.u64()?, reader.u64()?);
                let object = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
                let at = reader.u64()?;
                let Some(&object) = keys.get(object) else {
                    return damaged("a part is in an object that is not named");
                };
                let within = |start: u64, end| {
                    len > 0 && start.checked_add(len).is_some_and(|until| until <= end)
                };
                let data_bytes = manifest.objects[&object].data_bytes;
                if !within(offset, bytes) || !within(at, data_bytes) || offset < file.parts.end() {
                    return damaged("a part lies outside of its file or object, or over another");
                }
                file.parts.put(offset, Part { bytes: len, object, at });
            }
            let after_last = manifest.files.last_key_value().is_none_or(|(last, _)| *last < number);
            if !after_last {
                return damaged("its files are out of order");
            }
            manifest.files.insert(number, file);
        }
        for _ in 0..reader.count(POINT_BYTES)? {
            let point = HistoryPoint {
                epoch: reader.u64()?,
                sequence: reader.u64()?,
                next_object: reader.u64()?,
                lsn: Lsn(reader.u64()?),
                wall_ms: reader.u64()?,
            };
            if manifest.points.last().is_some_and(|last| last.id() >= point.id()) {
                return damaged("its points of history are out of order");
            }
            manifest.points.push(point);
        }
        if reader.is_at_end() { Ok(manifest) } else { damaged("it is longer than it says") }
    }

    /// Bytes of all parts.
    pub(in super::super) fn part_bytes(&self) -> u64 {
        self.files.values().map(FileEntry::part_bytes).sum()
    }

    /// Forgets objects that no part refers to.
    pub(in super::super) fn drop_unused_objects(&mut self) {
        let parts = self.files.values().flat_map(|file| file.parts.iter());
        let used: std::collections::BTreeSet<ObjectKey> =
            parts.map(|(_, part)| part.object).collect();
        self.objects.retain(|key, _| used.contains(key));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(sequence: u64) -> ObjectKey {
        ObjectKey { epoch: 1, sequence }
    }

    fn point(epoch: u64, sequence: u64) -> HistoryPoint {
        HistoryPoint { epoch, sequence, next_object: 9, lsn: Lsn(sequence), wall_ms: 1 << 40 }
    }

    fn sample() -> Manifest {
        let info = |sequence| ObjectInfo { key: key(sequence), data_bytes: 1 << 20 };
        let mut parts = Parts::default();
        parts.put(0, Part { bytes: 8192, object: key(4), at: 0 });
        parts.put(8192, Part { bytes: 4096, object: key(9), at: 100 });
        let file = |segment| FileEntry {
            segment: SegmentId(segment),
            bytes: 1 << 18,
            first_block: vec![5; 128],
            parts: parts.clone(),
        };
        Manifest {
            lease_ms: 10_000,
            epoch: 3,
            sequence: 77,
            holder: HolderId([8; 16]),
            holder_name: "host-a".to_owned(),
            shipped: Lsn(1234),
            next_object: 10,
            superblock: vec![9; 8192],
            objects: [(key(4), info(4)), (key(9), info(9))].into(),
            files: [(FileNo(1), file(7)), (FileNo(2), file(8))].into(),
            points: vec![point(2, 500), point(3, 7)],
        }
    }

    #[test]
    fn round_trip_and_damage() {
        let bytes = sample().encode();
        assert_eq!(Manifest::decode(&bytes), Ok(sample()));
        let empty = Manifest::default();
        assert_eq!(Manifest::decode(&empty.encode()), Ok(empty));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            assert!(matches!(Manifest::decode(&damaged), Err(Malformed::Damaged(_))), "{at}");
        }
        for len in [0, 31, 32, 100, bytes.len() - 1] {
            assert!(Manifest::decode(&bytes[..len]).is_err());
        }
    }

    #[test]
    fn a_later_version_is_told_from_damage() {
        let mut bytes = sample().encode();
        bytes[8] = 2;
        bytes.truncate(bytes.len() - 32);
        seal(&mut bytes);
        assert_eq!(Manifest::decode(&bytes), Err(Malformed::TooNew(2)));
    }

    #[test]
    fn what_is_sealed_and_wrong_is_refused() {
        let refused = |change: fn(&mut Manifest)| {
            let mut manifest = sample();
            change(&mut manifest);
            assert!(matches!(Manifest::decode(&manifest.encode()), Err(Malformed::Damaged(_))));
        };
        refused(|manifest| {
            let file = manifest.files.get_mut(&FileNo(1)).expect("it is there");
            file.parts.put(1 << 18, Part { bytes: 1, object: key(4), at: 0 });
        });
        refused(|manifest| {
            let file = manifest.files.get_mut(&FileNo(1)).expect("it is there");
            file.parts.put(0, Part { bytes: 4096, object: key(4), at: 1 << 20 });
        });
        refused(|manifest| {
            let object = manifest.objects.get_mut(&key(4)).expect("it is there");
            object.data_bytes = u64::MAX;
        });
        refused(|manifest| manifest.points.reverse());
        refused(|manifest| manifest.superblock.resize(SUPERBLOCK_BYTES_MAX + 1, 0));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(mut bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = Manifest::decode(&bytes);
            bytes.splice(0..bytes.len().min(12), sample().encode()[..12].iter().copied());
            seal(&mut bytes);
            let _ = Manifest::decode(&bytes);
        }

        /// The newest part that covers a byte is the one that has it, and says where it is.
        #[test]
        fn parts_lie_over_each_other(puts in prop::collection::vec((0..60_u64, 1..30_u64), 0..20)) {
            let mut parts = Parts::default();
            let mut expected = BTreeMap::new();
            for (sequence, &(offset, bytes)) in puts.iter().enumerate() {
                let object = key(sequence as u64);
                parts.put(offset, Part { bytes, object, at: 1000 });
                expected.extend((0..bytes).map(|n| (offset + n, (object, 1000 + n))));
            }
            let mut found = BTreeMap::new();
            let mut end = 0;
            for (offset, part) in parts.iter() {
                prop_assert!(offset >= end);
                end = offset + part.bytes;
                found.extend((0..part.bytes).map(|n| (offset + n, (part.object, part.at + n))));
            }
            prop_assert_eq!(found, expected);
        }
    }
}
