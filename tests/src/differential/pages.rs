//! The pages of two databases, one beside the other.
//!
//! The same statements on the same SQLite leave the same pages, but for what nobody reads:
//!
//! - The leaves of the list of free pages. SQLite neither journals them nor writes them where it can
//!   do without, so that what they hold depends on when the cache was written out.
//! - Where pages are read in place, all that no structure of the database refers to: what follows
//!   the numbers in a trunk of that list, the end of the last page of an overflow chain, and in a
//!   page of a b-tree whatever is neither header, pointer, cell nor head of a free block. A page
//!   that is put to new use is not read; its buffer has zeros, or what the page held before if that
//!   is still in the cache. What is in the cache depends on what was read in place.

use std::collections::BTreeSet;

use lapidary_vfs::ROOT_HASH_MASK;

use super::tree_page::TreePage;

/// Offset in page 1 of the number of the first trunk of the list of free pages. A trunk holds the
/// number of the next one, how many leaves it has, and their numbers, all in four bytes, big-endian.
const FIRST_TRUNK: usize = 32;
/// Offset of the number of pages.
const PAGES: usize = 28;
/// Offset of the number of bytes at the end of each page that SQLite leaves alone.
const RESERVED_BYTES: usize = 20;
/// Offset of the number of the largest root page, which is 0 without `auto_vacuum`.
const LARGEST_ROOT: usize = 52;

/// How many pages a database has by its own account.
#[must_use]
pub fn pages_of(database: &[u8]) -> usize {
    number_at(database, PAGES)
}

/// What is compared of two databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// Every byte but those of free pages.
    Bytes,
    /// Only what a reader of the database can come to.
    Readable,
}

/// The number of the first page that differs and matters.
#[must_use]
pub fn first_difference(
    one: &[u8],
    two: &[u8],
    page_bytes: usize,
    compared: Compared,
) -> Option<usize> {
    if one.len() != two.len() {
        return Some(one.len().min(two.len()) / page_bytes + 1);
    }
    let (one, two) = (meaning(one, page_bytes, compared), meaning(two, page_bytes, compared));
    let mut pages = one.chunks(page_bytes).zip(two.chunks(page_bytes));
    pages.position(|(one, two)| one != two).map(|index| index + 1)
}

/// A database with zeros for what means nothing, or tells its versions apart.
fn meaning(database: &[u8], page_bytes: usize, compared: Compared) -> Vec<u8> {
    let mut meaning = database.to_vec();
    let free = FreeList::of(database, page_bytes);
    let mut tails = Vec::new();
    for (index, page) in meaning.chunks_mut(page_bytes).enumerate() {
        let number = index + 1;
        if free.leaves.contains(&number) {
            page.fill(0);
        } else if compared == Compared::Readable {
            if free.trunks.contains(&number) {
                let end = 8 + 4 * number_at(page, 4);
                page[end..].fill(0);
            } else if !is_pointer_map(database, page_bytes, number) {
                let usable_bytes = page_bytes - usize::from(database[RESERVED_BYTES]);
                if let Some(tree) = TreePage::of(page, number, usable_bytes) {
                    tree.keep(page);
                    tails.extend(tree.overflows);
                }
            }
        }
        if number == 1 {
            ROOT_HASH_MASK.into_iter().for_each(|range| page[range].fill(0));
        }
    }
    for (first, bytes) in tails {
        clear_tail(&mut meaning, page_bytes, usize::from(database[RESERVED_BYTES]), first, bytes);
    }
    meaning
}

/// Clears what follows the last of `bytes` bytes in the overflow chain that begins at `page`.
fn clear_tail(
    database: &mut [u8],
    page_bytes: usize,
    reserved_bytes: usize,
    mut page: usize,
    mut bytes: usize,
) {
    let room = page_bytes - reserved_bytes - 4;
    while bytes > room && page > 0 && page * page_bytes <= database.len() {
        page = number_at(database, (page - 1) * page_bytes);
        bytes -= room;
    }
    if bytes <= room && page > 0 && page * page_bytes <= database.len() {
        database[(page - 1) * page_bytes + 4 + bytes..page * page_bytes].fill(0);
    }
}

/// Whether it is one of the pages that say, with `auto_vacuum`, where others are pointed at from. The
/// first is page 2; each has five bytes for each page that follows it.
fn is_pointer_map(database: &[u8], page_bytes: usize, number: usize) -> bool {
    let has_any = number_at(database, LARGEST_ROOT) > 0;
    let usable_bytes = page_bytes - usize::from(database[RESERVED_BYTES]);
    has_any && number >= 2 && (number - 2).is_multiple_of(usable_bytes / 5 + 1)
}

fn number_at(bytes: &[u8], offset: usize) -> usize {
    let word = bytes.get(offset..).and_then(|bytes| bytes.first_chunk());
    u32::from_be_bytes(*word.unwrap_or(&[0; 4])) as usize
}

struct FreeList {
    trunks: BTreeSet<usize>,
    leaves: BTreeSet<usize>,
}

impl FreeList {
    fn of(database: &[u8], page_bytes: usize) -> Self {
        let (mut trunks, mut leaves) = (BTreeSet::new(), BTreeSet::new());
        let mut trunk = number_at(database, FIRST_TRUNK);
        while trunk > 0 {
            trunks.insert(trunk);
            let start = (trunk - 1) * page_bytes;
            let count = number_at(database, start + 4);
            leaves.extend((0..count).map(|leaf| number_at(database, start + 8 + 4 * leaf)));
            trunk = number_at(database, start);
        }
        Self { trunks, leaves }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_reads_may_differ_and_nothing_else() {
        const PAGE: usize = 512;
        let mut one = vec![0; 5 * PAGE];
        // Page 3 is a trunk with one leaf, page 4.
        one[FIRST_TRUNK + 3] = 3;
        one[2 * PAGE + 7] = 1;
        one[2 * PAGE + 11] = 4;
        // Page 2 is a leaf of a table, with one cell of 12 bytes.
        one[PAGE..PAGE + 10].copy_from_slice(&[13, 0, 0, 0, 1, 1, 244, 0, 1, 244]);
        one[PAGE + 500] = 10;
        let differing = |at: usize| {
            let mut two = one.clone();
            two[at] ^= 0xff;
            first_difference(&one, &two, PAGE, Compared::Readable)
        };
        assert_eq!(first_difference(&one, &one, PAGE, Compared::Readable), None);
        assert_eq!(differing(3 * PAGE + 9), None);
        assert_eq!(differing(25), None);
        assert_eq!(differing(40), Some(1));
        for byte in [0, 4, 6, 8, 9, 500, 511] {
            assert_eq!(differing(PAGE + byte), Some(2), "{byte}");
        }
        assert_eq!(differing(PAGE + 10), None);
        assert_eq!(differing(PAGE + 499), None);
        assert_eq!(differing(2 * PAGE + 11), Some(3));
        assert_eq!(differing(2 * PAGE + 12), None);
        assert_eq!(differing(4 * PAGE + 100), Some(5));
        assert_eq!(differing(5 * PAGE - 1), Some(5));
        assert_eq!(first_difference(&one, &one[..4 * PAGE], PAGE, Compared::Readable), Some(5));
        // With a pointer map, that is what page 2 is.
        one[LARGEST_ROOT + 3] = 3;
        let mut two = one.clone();
        two[PAGE + 10] = 1;
        assert_eq!(first_difference(&one, &two, PAGE, Compared::Readable), Some(2));
    }
}
