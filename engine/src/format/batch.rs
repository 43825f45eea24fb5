//! A batch: what one flush writes with one write and one sync.
//!
//! A batch starts on a block boundary, is padded with zeros to the next one, and is valid as a
//! whole or not at all: if and only if magic, place (store, segment, offset) and hash
//! are right. It continues a log if its first LSN and previous hash are the ones expected.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `LBAT` |
//! | 4 | 4 | bytes of records after this header, without padding |
//! | 8 | 16 | store id |
//! | 24 | 4 | segment |
//! | 28 | 4 | offset of this header in the segment |
//! | 32 | 4 | incarnation |
//! | 36 | 4 | number of records; their LSNs are consecutive |
//! | 40 | 8 | LSN of the first record |
//! | 48 | 4 | kind of the segment it was written for, as in its header |
//! | 52 | 4 | reserved |
//! | 56 | 8 | durable-through LSN: all up to it was synced before this batch was written |
//! | 64 | 32 | hash of the previous batch |
//! | 96 | 32 | blake3 of bytes 0 to 95 and the records |

use super::segment::SegmentKind;
use super::{BLOCK_BYTES, Hash, Malformed, Reader};
use crate::types::{Incarnation, Lsn, SegmentId, StoreId};

const MAGIC: &[u8; 4] = b"LBAT";
const HASH_AT: usize = 96;
/// Bytes of the header; records follow.
pub(crate) const HEADER_BYTES: usize = 128;

/// Bytes that a batch with `records` bytes of records takes in a segment.
pub(crate) fn padded_bytes(records: usize) -> usize {
    (HEADER_BYTES + records).next_multiple_of(BLOCK_BYTES)
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) store: StoreId,
    pub(crate) segment: SegmentId,
    pub(crate) offset: u32,
    pub(crate) incarnation: Incarnation,
    pub(crate) kind: SegmentKind,
    pub(crate) first_lsn: Lsn,
    pub(crate) record_count: u32,
    pub(crate) durable_through: Lsn,
    pub(crate) previous_hash: Hash,
}

impl BatchHeader {
    /// LSN of the record after the last one.
    pub(crate) fn next_lsn(&self) -> Lsn {
        Lsn(self.first_lsn.0 + u64::from(self.record_count))
    }

    /// Completes `batch`, whose first [`HEADER_BYTES`] are free and whose records follow: fills in
    /// the header, pads, and returns the hash.
    pub(crate) fn seal(&self, batch: &mut Vec<u8>, start: usize) -> Hash {
        let records = super::stored_len(batch.len() - start - HEADER_BYTES);
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&records.to_le_bytes());
        header.extend_from_slice(&self.store.0);
        for value in [self.segment.0, self.offset, self.incarnation.0, self.record_count] {
            header.extend_from_slice(&value.to_le_bytes());
        }
        header.extend_from_slice(&self.first_lsn.0.to_le_bytes());
        header.extend_from_slice(&self.kind.encode().to_le_bytes());
        header.extend_from_slice(&[0; 4]);
        header.extend_from_slice(&self.durable_through.0.to_le_bytes());
        header.extend_from_slice(&self.previous_hash);
        debug_assert_eq!(header.len(), HASH_AT);
        let hash = hash(&header, &batch[start + HEADER_BYTES..]);
        header.extend_from_slice(&hash);
        batch[start..start + HEADER_BYTES].copy_from_slice(&header);
        super::pad(batch, start, BLOCK_BYTES);
        hash
    }
}

fn hash(sealed_header: &[u8], records: &[u8]) -> Hash {
    *blake3::Hasher::new().update(sealed_header).update(records).finalize().as_bytes()
}

/// A header as read, whose hash has not been checked.
#[derive(Debug)]
pub(crate) struct UnverifiedBatch {
    header: BatchHeader,
    sealed: [u8; HASH_AT],
    hash: Hash,
    records: u32,
}

impl UnverifiedBatch {
    /// Reads a header found at `offset` of `segment` (of any, if `None`); `None` if it cannot be a
    /// batch put there, whose records would end at or before `end`.
    pub(crate) fn parse(
        bytes: &[u8],
        store: StoreId,
        segment: Option<SegmentId>,
        offset: u32,
        end: u32,
    ) -> Option<Self> {
        let parse = || -> Result<Self, Malformed> {
            let mut reader = Reader::new(bytes);
            if reader.take(4)? != MAGIC {
                return Err(Malformed("the magic number is wrong"));
            }
            let records = reader.u32()?;
            let header = BatchHeader {
                store: StoreId(reader.array()?),
                segment: SegmentId(reader.counter32()?),
                offset: reader.u32()?,
                incarnation: Incarnation(reader.counter32()?),
                record_count: reader.u32()?,
                first_lsn: Lsn(reader.counter64()?),
                kind: {
                    let kind = SegmentKind::decode(reader.u32()?)?;
                    reader.reserved(4)?;
                    kind
                },
                durable_through: Lsn(reader.counter64()?),
                previous_hash: reader.array()?,
            };
            let hash = reader.array()?;
            let mut sealed = [0; HASH_AT];
            sealed.copy_from_slice(&bytes[..HASH_AT]);
            Ok(Self { header, sealed, hash, records })
        };
        let batch = parse().ok()?;
        let header = &batch.header;
        let here = header.store == store
            && segment.is_none_or(|segment| header.segment == segment)
            && header.offset == offset;
        let fits = batch.records as usize <= (end.saturating_sub(offset)) as usize
            && padded_bytes(batch.records as usize) <= (end.saturating_sub(offset)) as usize;
        let numbered = header.record_count > 0
            && header.first_lsn.0.checked_add(u64::from(header.record_count)).is_some();
        (here && fits && numbered).then_some(batch)
    }

    /// The segment that it says it is in.
    pub(crate) fn segment(&self) -> SegmentId {
        self.header.segment
    }

    /// Bytes of records that follow the header.
    pub(crate) fn record_bytes(&self) -> usize {
        self.records as usize
    }

    /// The header and the batch's hash, if `records` are the bytes the hash was made of.
    pub(crate) fn verify(self, records: &[u8]) -> Option<(BatchHeader, Hash)> {
        (hash(&self.sealed, records) == self.hash).then_some((self.header, self.hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_damage() {
        let header = BatchHeader {
            store: StoreId([1; 16]),
            segment: SegmentId(2),
            offset: 4096,
            incarnation: Incarnation(1),
            kind: SegmentKind::Log,
            first_lsn: Lsn(10),
            record_count: 2,
            durable_through: Lsn(9),
            previous_hash: [5; 32],
        };
        let mut batch = vec![0; HEADER_BYTES];
        batch.extend_from_slice(&[42; 5000]);
        let hash = header.seal(&mut batch, 0);
        assert_eq!(batch.len(), 8192);
        let open = |bytes: &[u8]| {
            let batch =
                UnverifiedBatch::parse(bytes, StoreId([1; 16]), Some(SegmentId(2)), 4096, 1 << 20)?;
            let len = batch.record_bytes();
            batch.verify(bytes.get(HEADER_BYTES..HEADER_BYTES + len)?)
        };
        assert_eq!(open(&batch), Some((header.clone(), hash)));
        assert_eq!(header.next_lsn(), Lsn(12));
        for at in (0..HEADER_BYTES + 5000).step_by(3) {
            let mut damaged = batch.clone();
            damaged[at] ^= 2;
            assert_eq!(open(&damaged), None, "{at}");
        }
        for len in [0, 4, 127, 128, 5127] {
            assert_eq!(open(&batch[..len]), None, "{len}");
        }
    }
}
