//! The fields of a SQLite database's first page that this crate looks at.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 16 | `SQLite format 3\0` |
//! | 16 | 2 | page size, big-endian; 1 stands for 65,536 |
//! | 18 | 1 | format to write: 2 is WAL |
//! | 19 | 1 | format to read: 2 is WAL |
//! | 24 | 4 | change counter, big-endian |
//! | 28 | 4 | size in pages, big-endian |
//! | 92 | 4 | change counter for which the size at 28 is valid |
//!
//! Source: <https://www.sqlite.org/fileformat2.html#the_database_header>.

use std::ops::Range;

use lapidary_engine::PageSize;

/// Bytes of the database header.
pub(crate) const HEADER_BYTES: usize = 100;

/// The start of page 1.
pub(crate) type Header = [u8; HEADER_BYTES];

const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const PAGE_SIZE: usize = 16;
const FORMAT_TO_WRITE: usize = 18;
const FORMAT_TO_READ: usize = 19;
const CHANGE_COUNTER: Range<usize> = 24..28;
const SIZE_IN_PAGES: Range<usize> = 28..32;
const VALID_FOR_COUNTER: Range<usize> = 92..96;
const FORMAT_WAL: u8 = 2;

/// Whether the header is one of SQLite's.
pub(crate) fn has_magic(header: &Header) -> bool {
    header.starts_with(MAGIC)
}

/// The page size that the header names, if it is one.
pub(crate) fn page_size(header: &Header) -> Option<PageSize> {
    let field = u16::from_be_bytes([header[PAGE_SIZE], header[PAGE_SIZE + 1]]);
    PageSize::from_bytes(if field == 1 { 1 << 16 } else { usize::from(field) })
}

/// Whether the header asks for a write-ahead log.
pub(crate) fn is_wal(header: &Header) -> bool {
    header[FORMAT_TO_WRITE] == FORMAT_WAL || header[FORMAT_TO_READ] == FORMAT_WAL
}

/// The change counter in a first page, or in the start of one.
pub(crate) fn change_counter(page_one: &[u8]) -> Option<u32> {
    let bytes = page_one.get(CHANGE_COUNTER)?;
    bytes.try_into().ok().map(u32::from_be_bytes)
}

/// The size in pages that the header tells, if that is valid.
pub(crate) fn page_count(header: &Header) -> Option<u32> {
    let bytes = header[SIZE_IN_PAGES].try_into().ok()?;
    let count = u32::from_be_bytes(bytes);
    (count > 0 && header[CHANGE_COUNTER] == header[VALID_FOR_COUNTER]).then_some(count)
}

/// Puts `counter` into `bytes`, which stand at `offset` in the file, wherever they hold a part of
/// the change counter or of its copy. A copy that was another number stays another: SQLite then
/// does not trust the size at 28, which releases before 3.7.0 did not keep up.
pub(crate) fn patch_change_counter(bytes: &mut [u8], offset: u64, counter: u32) {
    if offset >= VALID_FOR_COUNTER.end as u64 {
        return;
    }
    let is_copy = offset > 0 || bytes.get(CHANGE_COUNTER) == bytes.get(VALID_FOR_COUNTER);
    let valid_for = if is_copy { counter } else { !counter };
    for (field, number) in [(CHANGE_COUNTER, counter), (VALID_FOR_COUNTER, valid_for)] {
        for (position, value) in field.zip(number.to_be_bytes()) {
            let place =
                (position as u64).checked_sub(offset).and_then(|at| usize::try_from(at).ok());
            if let Some(byte) = place.and_then(|at| bytes.get_mut(at)) {
                *byte = value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_whole_and_partial_reads() {
        let mut page = [0xee; 512];
        patch_change_counter(&mut page, 0, 0x0102_0304);
        assert_eq!(page[24..28], [1, 2, 3, 4]);
        assert_eq!(page[92..96], [1, 2, 3, 4]);
        assert_eq!(page.iter().filter(|&&byte| byte == 0xee).count(), 504);
        assert_eq!(change_counter(&page), Some(0x0102_0304));
        page[95] ^= 1;
        patch_change_counter(&mut page, 0, 9);
        assert_eq!(change_counter(&page), Some(9));
        assert_ne!(page[92..96], page[24..28]);

        // The pager's check for changes: 16 bytes at 24.
        let mut bytes = [0xee; 16];
        patch_change_counter(&mut bytes, 24, 7);
        assert_eq!(bytes[..4], [0, 0, 0, 7]);
        assert_eq!(bytes[4..], [0xee; 12]);

        let mut cut = [0xee; 2];
        patch_change_counter(&mut cut, 26, 0x0102_0304);
        assert_eq!(cut, [3, 4]);
        let mut beyond = [0xee; 4];
        patch_change_counter(&mut beyond, 96, 7);
        assert_eq!(beyond, [0xee; 4]);
    }

    #[test]
    fn page_sizes() {
        let mut header = [0; HEADER_BYTES];
        assert_eq!(page_size(&header), None);
        for (field, bytes) in [([2, 0], 512), ([16, 0], 4096), ([128, 0], 32768), ([0, 1], 65536)] {
            header[16..18].copy_from_slice(&field);
            assert_eq!(page_size(&header), PageSize::from_bytes(bytes));
        }
        header[16..18].copy_from_slice(&[3, 0]);
        assert_eq!(page_size(&header), None);
    }
}
