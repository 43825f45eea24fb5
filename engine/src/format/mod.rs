//! The bytes on disk. Each kind of byte has one owner among the modules here; nobody else knows an
//! offset. All integers are little-endian. `docs/FORMAT.md` tells the whole as a story and starts
//! with what is assumed of the media.

pub(crate) mod batch;
pub(crate) mod catalog;
pub(crate) mod page;
pub(crate) mod record;
pub(crate) mod segment;
pub(crate) mod superblock;

use crate::types::{PageNo, SegmentId};

/// Newest format version this build reads, and the one it writes. A store of an older one that it
/// reads becomes one of this when it is opened.
pub(crate) const FORMAT_VERSION: u32 = 2;

/// Whether this build reads what is of that version. Version 1 has no delta and no images record.
pub(crate) fn is_readable_version(version: u32) -> bool {
    (1..=FORMAT_VERSION).contains(&version)
}

/// Everything that is written at once starts and ends on a multiple of this, so that no write ever
/// touches a sector (512 bytes or 4 KiB) that holds something already durable.
pub(crate) const BLOCK_BYTES: usize = 4096;

/// The same as the format stores it.
pub(crate) const BLOCK_BYTES_STORED: u32 = 4096;
const _: () = assert!(BLOCK_BYTES_STORED as usize == BLOCK_BYTES);

/// Records, and page images in them, start on a multiple of this.
pub(crate) const SLOT_BYTES: usize = 8;

/// The same as the format stores it.
pub(crate) const SLOT_BYTES_STORED: u32 = 8;
const _: () = assert!(SLOT_BYTES_STORED as usize == SLOT_BYTES);

/// blake3 digest.
pub(crate) type Hash = [u8; 32];

/// Where a record's or page's bytes are, and the checksum they must have.
///
/// The checksum is part of the reference, so that a read that was misdirected, or a segment that
/// was recycled too early, cannot pass for the page that is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StoredRef {
    pub(crate) segment: SegmentId,
    /// Offset in the segment in units of [`SLOT_BYTES`].
    pub(crate) slot: u32,
    /// Bytes, a multiple of [`SLOT_BYTES`], never 0.
    pub(crate) len: u32,
    /// crc32c of what is there, as the owner of the bytes defines it.
    pub(crate) crc: u32,
}

/// Where something was first written. It keeps this name when the cleaner moves it, and no two
/// things ever have the same, since segment ids are not used again. In order of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Identity {
    pub(crate) segment: SegmentId,
    /// Offset in the segment in units of [`SLOT_BYTES`].
    pub(crate) slot: u32,
}

impl Identity {
    /// Before everything that was ever written.
    pub(crate) const FIRST: Self = Self { segment: SegmentId(0), slot: 0 };

    pub(crate) fn offset(self) -> u64 {
        u64::from(self.slot) * SLOT_BYTES as u64
    }
}

impl StoredRef {
    /// Bytes of an encoded reference.
    pub(crate) const BYTES: usize = 16;

    /// Offset in the segment it was first written to, in bytes.
    pub(crate) fn offset(self) -> u64 {
        self.identity().offset()
    }

    pub(crate) fn identity(self) -> Identity {
        Identity { segment: self.segment, slot: self.slot }
    }

    /// Appends the reference; `None` (a page that was never written) is all zeros.
    pub(crate) fn encode(this: Option<Self>, out: &mut Vec<u8>) {
        let Self { segment, slot, len, crc } =
            this.unwrap_or(Self { segment: SegmentId(0), slot: 0, len: 0, crc: 0 });
        for value in [segment.0, slot, len, crc] {
            out.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// Reads what [`encode`](Self::encode) wrote; `Err` if the reference could not be one.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Option<Self>, Malformed> {
        let segment = SegmentId(reader.counter32()?);
        let (slot, len, crc) = (reader.u32()?, reader.u32()?, reader.u32()?);
        if len == 0 {
            return if segment.0 == 0 && slot == 0 && crc == 0 {
                Ok(None)
            } else {
                Err(Malformed("a reference of no length has a place"))
            };
        }
        if !(len as usize).is_multiple_of(SLOT_BYTES) || segment.0 == 0 {
            return Err(Malformed("a reference is misaligned or names segment 0"));
        }
        Ok(Some(Self { segment, slot, len, crc }))
    }
}

/// Untrusted bytes that are not what they should be, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Reads integers from untrusted bytes; running out of them is an error, never a panic.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.bytes.split_at_checked(len).ok_or(Malformed("it ends early"))?;
        self.bytes = tail;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A number that is only ever counted up: one so close to its end that counting on could wrap is damage.
    pub(crate) fn counter32(&mut self) -> Result<u32, Malformed> {
        self.u32().and_then(|number| below_end(number, u32::MAX - (1 << 16)))
    }

    /// As [`counter32`](Self::counter32).
    pub(crate) fn counter64(&mut self) -> Result<u64, Malformed> {
        self.u64().and_then(|number| below_end(number, u64::MAX >> 1))
    }

    /// Reserved bytes, which must be zero so that a later version can give them a meaning.
    pub(crate) fn reserved(&mut self, len: usize) -> Result<(), Malformed> {
        if self.take(len)?.iter().all(|&byte| byte == 0) {
            Ok(())
        } else {
            Err(Malformed("reserved bytes are not zero"))
        }
    }

    pub(crate) fn page_no(&mut self) -> Result<PageNo, Malformed> {
        match self.u32()? {
            0 => Err(Malformed("there is no page 0")),
            page => Ok(PageNo(page)),
        }
    }
}

fn below_end<N: Copy + PartialOrd>(number: N, end: N) -> Result<N, Malformed> {
    if number < end { Ok(number) } else { Err(Malformed("a number is at the end of its range")) }
}

/// Pads `out` with zeros so that what follows starts on a multiple of `align`, counted from
/// `start`.
pub(crate) fn pad(out: &mut Vec<u8>, start: usize, align: usize) {
    let len = (out.len() - start).next_multiple_of(align);
    out.resize(start + len, 0);
}

/// The slot at an offset of a segment, in bytes.
///
/// # Panics
/// If there is none, which the size of segments rules out.
pub(crate) fn slot_at(offset: u64) -> u32 {
    stored_len(usize::try_from(offset / SLOT_BYTES as u64).unwrap_or(usize::MAX))
}

/// A length or count as the format stores it.
///
/// # Panics
/// If it does not fit, which bounds checked earlier (segment size, name length) rule out.
pub(crate) fn stored_len(len: usize) -> u32 {
    u32::try_from(len).expect("lengths are bounded by the segment size before they are stored")
}
