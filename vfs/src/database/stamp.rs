//! The change counter that one handle shows to SQLite.
//!
//! SQLite's pager keeps its page cache from one transaction to the next, and drops it when bytes
//! 24 to 39 of the file differ from `Pager.dbFileVers`: what they were when the pager last read or
//! wrote page 1. So a handle must show the pager
//!
//! - the counter it remembers, if its cache belongs to the version now visible, and
//! - another one, if it does not.
//!
//! The low 32 bits of the facet's version do this in the common case: the pager adds one to what
//! it read when it writes page 1, and the commit adds one to the version. They do not always:
//!
//! - in `locking_mode=EXCLUSIVE` the pager stops counting after its first commit;
//! - page 1 written twice in a transaction counts twice, and the number so reached would later be
//!   that of somebody else's commit: a stale cache would be taken for a fresh one;
//! - a transaction given up without its journal being replayed leaves new pages in the cache.
//!
//! Forks, restores and versions of the past need nothing more. A restore is a commit with a number of
//! its own. A handle belongs to one facet for life, so a fork, whose versions go on from the numbers
//! of its source, is never looked at through a handle that has seen the source. And a handle to a
//! version of the past has no other. (Test: `no_cache_is_ever_stale` in `tests/vfs/history.rs`.)
//!
//! Hence this record of what the pager remembers, and of which version it was. Tests with SQLite
//! itself: `tests/vfs/cache.rs`.

use lapidary_engine::Version;

/// What the pager behind a handle remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct CacheStamp {
    /// The counter in the page 1 that the pager last read or wrote.
    counter: u32,
    /// The version its cache belongs to; `None` if nothing can be said.
    version: Option<Version>,
}

impl CacheStamp {
    /// The counter to show while `version` is visible.
    pub(super) fn visible(self, version: Version) -> u32 {
        if self.version == Some(version) {
            return self.counter;
        }
        // Truncation is meant: the field has 32 bits.
        #[expect(clippy::cast_possible_truncation)]
        let counter = version.0 as u32;
        if counter == self.counter && version.0 != 0 { counter ^ (1 << 31) } else { counter }
    }

    /// The pager read page 1 of `version`, and was shown `counter`.
    pub(super) fn read(&mut self, counter: u32, version: Version) {
        *self = Self { counter, version: Some(version) };
    }

    /// The pager wrote page 1 with `counter`, or read back what it had written.
    pub(super) fn wrote(&mut self, counter: u32) {
        *self = Self { counter, version: None };
    }

    /// The transaction became `to`. `page_one_written`: page 1 was part of it.
    pub(super) fn committed(&mut self, from: Version, to: Version, page_one_written: bool) {
        // Otherwise the pager had page 1 of another version, or none: it does not have `to`'s now.
        if page_one_written || self.version == Some(from) {
            self.version = Some(to);
        }
    }

    /// The transaction, begun with `before`, is given up.
    pub(super) fn discarded(&mut self, before: Self) {
        // A replayed journal ends with page 1 as it was. If it is not, then nothing was replayed,
        // and the pager's cache is full of pages that never were.
        if self.counter == before.counter {
            *self = before;
        } else {
            self.version = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(counter: u32, version: u64) -> CacheStamp {
        CacheStamp { counter, version: Some(Version(version)) }
    }

    #[test]
    fn an_ordinary_commit_keeps_the_cache() {
        let mut stamp = CacheStamp::default();
        assert_eq!(stamp.visible(Version(5)), 5);
        stamp.read(5, Version(5));
        stamp.wrote(6);
        stamp.committed(Version(5), Version(6), true);
        assert_eq!(stamp, read(6, 6));
        assert_eq!(stamp.visible(Version(6)), 6);
        assert_eq!(stamp.visible(Version(7)), 7);
    }

    #[test]
    fn a_first_commit_counts_from_nothing() {
        let mut stamp = CacheStamp::default();
        assert_eq!(stamp.visible(Version(0)), 0);
        stamp.wrote(1);
        stamp.committed(Version(0), Version(1), true);
        assert_eq!(stamp.visible(Version(1)), 1);
    }

    #[test]
    fn counting_twice_never_looks_like_another_commit() {
        let mut stamp = read(5, 5);
        stamp.wrote(6);
        stamp.wrote(7);
        stamp.committed(Version(5), Version(6), true);
        assert_eq!(stamp.visible(Version(6)), 7, "own commit: cache kept");
        assert_ne!(stamp.visible(Version(7)), 7, "another's commit: cache dropped");
    }

    #[test]
    fn exclusive_mode_freezes_the_counter_but_not_the_cache() {
        let mut stamp = read(5, 5);
        stamp.wrote(6);
        stamp.committed(Version(5), Version(6), true);
        for version in 6..20 {
            stamp.committed(Version(version), Version(version + 1), false);
        }
        assert_eq!(stamp.visible(Version(20)), 6);
        assert_eq!(stamp.visible(Version(21)), 21);
    }

    #[test]
    fn a_rollback_keeps_the_cache_if_it_was_replayed() {
        let before = read(5, 5);
        let mut stamp = before;
        stamp.wrote(6);
        stamp.wrote(5);
        stamp.discarded(before);
        assert_eq!(stamp.visible(Version(5)), 5);

        let mut stamp = before;
        stamp.wrote(6);
        stamp.discarded(before);
        assert_ne!(stamp.visible(Version(5)), 6);
        assert_ne!(stamp.visible(Version(6)), 6);
    }

    #[test]
    fn a_lost_cache_is_not_revived_by_a_commit() {
        let mut stamp = CacheStamp { counter: 9, version: None };
        stamp.committed(Version(8), Version(9), false);
        assert_ne!(stamp.visible(Version(9)), 9);
    }
}
