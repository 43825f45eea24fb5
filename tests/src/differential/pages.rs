//! The pages of two databases, one beside the other.
//!
//! The same statements on the same SQLite leave the same pages, but for what nobody reads: the
//! leaves of the list of free pages. SQLite neither journals them nor writes them where it can do
//! without, so that what they hold depends on when the cache was written out.

use std::collections::BTreeSet;

use lapidary_vfs::ROOT_HASH_MASK;

/// Offset in page 1 of the number of the first trunk of the list of free pages. A trunk holds the
/// number of the next one, how many leaves it has, and their numbers, all in four bytes, big-endian.
const FIRST_TRUNK: usize = 32;

/// The number of the first page that differs and matters.
#[must_use]
pub fn first_difference(one: &[u8], two: &[u8], page_bytes: usize) -> Option<usize> {
    if one.len() != two.len() {
        return Some(one.len().min(two.len()) / page_bytes + 1);
    }
    let free = free_leaves(one, page_bytes);
    let pages = one.chunks(page_bytes).zip(two.chunks(page_bytes));
    let differs = |number: usize, one: &[u8], two: &[u8]| match number {
        1 => masked(one) != masked(two),
        _ => one != two && !free.contains(&number),
    };
    (1..)
        .zip(pages)
        .find(|(number, (one, two))| differs(*number, one, two))
        .map(|(number, _)| number)
}

/// Page 1 without what tells the versions of a database apart.
fn masked(page: &[u8]) -> Vec<u8> {
    let mut page = page.to_vec();
    for range in ROOT_HASH_MASK {
        page[range].fill(0);
    }
    page
}

fn number_at(bytes: &[u8], offset: usize) -> usize {
    let word = bytes.get(offset..).and_then(|bytes| bytes.first_chunk());
    u32::from_be_bytes(*word.unwrap_or(&[0; 4])) as usize
}

fn free_leaves(database: &[u8], page_bytes: usize) -> BTreeSet<usize> {
    let mut leaves = BTreeSet::new();
    let mut trunk = number_at(database, FIRST_TRUNK);
    while trunk > 0 {
        let start = (trunk - 1) * page_bytes;
        let count = number_at(database, start + 4);
        leaves.extend((0..count).map(|leaf| number_at(database, start + 8 + 4 * leaf)));
        trunk = number_at(database, start);
    }
    leaves
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_leaves_may_differ_and_nothing_else() {
        const PAGE: usize = 512;
        let mut one = vec![0; 5 * PAGE];
        // Page 3 is a trunk with one leaf, page 4.
        one[FIRST_TRUNK + 3] = 3;
        one[2 * PAGE + 7] = 1;
        one[2 * PAGE + 11] = 4;
        let differing = |at: usize| {
            let mut two = one.clone();
            two[at] ^= 0xff;
            first_difference(&one, &two, PAGE)
        };
        assert_eq!(first_difference(&one, &one, PAGE), None);
        assert_eq!(differing(3 * PAGE + 9), None);
        assert_eq!(differing(25), None);
        assert_eq!(differing(40), Some(1));
        assert_eq!(differing(PAGE), Some(2));
        assert_eq!(differing(2 * PAGE + 100), Some(3));
        assert_eq!(differing(5 * PAGE - 1), Some(5));
        assert_eq!(first_difference(&one, &one[..4 * PAGE], PAGE), Some(5));
    }
}
