//! Root hashes: one number for all that a version of a facet holds, whatever its history.
//!
//! # Definition
//!
//! A public format: whoever has the pages can compute it, without this library. For a version of `n`
//! pages, the root hash is the BLAKE3 hash (32 bytes, unkeyed) of, one after the other
//!
//! | bytes | what |
//! |---|---|
//! | 32 for each page | BLAKE3 hash of the page's image, pages in order; in page 1, masked bytes count as zeros |
//! | 16 | `lapidary root 1\0` |
//! | 4 | bytes in a page, little-endian; 0 if there are no pages |
//! | 4 | number of pages, little-endian |
//!
//! As text it is those 32 bytes in order, as 64 lower-case hexadecimal digits. Every page counts up
//! to the number of pages of the version; one that was never written is one of zeros. What takes
//! part is the content alone: neither the facet's name nor its version, nor where and how pages are
//! stored. An image is 512 bytes or a larger power of two, and what the root is made of is never
//! that long, so no page can be passed off as a root.
//!
//! The mask is the caller's, since the engine knows nothing of what is in a page. It is for bytes
//! that tell of the history and not of the content, such as a change counter; two hashes can be
//! compared if they were made with the same mask. For SQLite databases it is
//! `lapidary_vfs::ROOT_HASH_MASK`.
//!
//! With the hashes of pages in between, it is computed from one page at a time, in memory that does
//! not grow, and two parties whose roots differ can find the pages that do by comparing 32 bytes for
//! each.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use super::Snapshot;
use crate::error::{Error, Result};
use crate::types::{PageNo, PageSize};

/// Ends what a root hash is made of, before the numbers.
const TAG: &[u8; 16] = b"lapidary root 1\0";

/// A hash over the content of a version: equal for equal content, whatever the history. It is
/// defined byte by byte at [`RootHasher`].
///
/// ```
/// # use lapidary_engine::RootHash;
/// let text = "00010203040506070809101112131415161718192021222324252627282930ff";
/// let hash: RootHash = text.parse()?;
/// assert_eq!(hash.as_bytes()[31], 0xff);
/// assert_eq!(hash.to_string(), text);
/// # Ok::<(), lapidary_engine::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootHash([u8; 32]);

impl RootHash {
    /// The hash of these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootHash({self})")
    }
}

impl FromStr for RootHash {
    type Err = Error;

    /// # Errors
    /// [`Error::InvalidInput`] if the text is not 64 lower-case hexadecimal digits.
    fn from_str(text: &str) -> Result<Self> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let parse = || {
            let digits: &[u8; 64] = text.as_bytes().try_into().ok()?;
            let mut bytes = [0; 32];
            for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
                *byte = digit(pair[0])? << 4 | digit(pair[1])?;
            }
            Some(Self(bytes))
        };
        parse().ok_or_else(|| {
            let text: String = text.chars().take(80).collect();
            Error::InvalidInput(format!(
                "{text:?} is no root hash: one has 64 hexadecimal digits in lower case"
            ))
        })
    }
}

/// Computes a [`RootHash`] from page images, one after the other, in constant memory.
///
/// For `n` pages it is the BLAKE3 hash of: the BLAKE3 hash of each page's image in order, where the
/// masked bytes of page 1 count as zeros; the 16 bytes `lapidary root 1\0`; the bytes in a page (0 if
/// there are no pages) and the number of pages, each as 4 bytes, little-endian.
///
/// ```
/// # use lapidary_engine::*;
/// # use std::sync::Arc;
/// # let environment = Environment::with_io(Arc::new(MemoryIo::new()));
/// # let store = Store::open(environment, StoreOptions::create())?;
/// # let facet = store.create_facet(&FacetName::new("a")?)?;
/// let size = PageSize::from_bytes(512).unwrap();
/// let mut writer = facet.begin_write_latest()?;
/// writer.set_page_size(size)?;
/// writer.write_page(PageNo(1), &[7; 512])?;
/// writer.write_page(PageNo(3), &[8; 512])?;
/// writer.commit(0)?;
///
/// let mut hasher = RootHasher::new(size, &[]);
/// for page in [[7; 512], [0; 512], [8; 512]] {
///     hasher.page(&page)?;
/// }
/// assert_eq!(hasher.finish(), facet.snapshot(View::Latest)?.root_hash(&[])?);
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RootHasher {
    page_size: PageSize,
    masked: Box<[Range<usize>]>,
    root: blake3::Hasher,
    page_count: u32,
}

impl RootHasher {
    /// Starts with no pages. Of page 1, the bytes in the ranges `masked` count as zeros; what of them
    /// is beyond the page is nothing.
    #[must_use]
    pub fn new(page_size: PageSize, masked: &[Range<usize>]) -> Self {
        Self { page_size, masked: masked.into(), root: blake3::Hasher::new(), page_count: 0 }
    }

    /// Takes the image of the next page.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if it has another length than a page, or is one page more than
    /// there can be; it does not count then.
    pub fn page(&mut self, image: &[u8]) -> Result<()> {
        if image.len() != self.page_size.bytes() {
            return Err(Error::InvalidInput(format!(
                "an image of {} bytes is no page: those have {}",
                image.len(),
                self.page_size.bytes()
            )));
        }
        let Some(page_count) = self.page_count.checked_add(1) else {
            return Err(Error::InvalidInput("there are more pages than can be counted".to_owned()));
        };
        let hash = if self.page_count == 0 && !self.masked.is_empty() {
            let mut masked = image.to_vec();
            for range in &self.masked {
                let range = range.start.min(image.len())..range.end.min(image.len());
                if let Some(bytes) = masked.get_mut(range) {
                    bytes.fill(0);
                }
            }
            blake3::hash(&masked)
        } else {
            blake3::hash(image)
        };
        self.root.update(hash.as_bytes());
        self.page_count = page_count;
        Ok(())
    }

    /// The hash over the pages taken.
    #[must_use]
    pub fn finish(mut self) -> RootHash {
        let page_bytes = if self.page_count == 0 { 0 } else { 1_u32 << self.page_size.log2() };
        self.root.update(TAG).update(&page_bytes.to_le_bytes());
        self.root.update(&self.page_count.to_le_bytes());
        RootHash(*self.root.finalize().as_bytes())
    }
}

impl Snapshot {
    /// The hash over all that the version holds, which is equal for equal content. Of page 1, the
    /// bytes in the ranges `masked` count as zeros.
    ///
    /// It reads every page, in constant memory, and so checks each against its checksum.
    ///
    /// # Errors
    /// As [`read_page`](Self::read_page).
    pub fn root_hash(&self, masked: &[Range<usize>]) -> Result<RootHash> {
        let page_size = self.page_size().unwrap_or(PageSize::MIN);
        let mut hasher = RootHasher::new(page_size, masked);
        let mut image = vec![0; page_size.bytes()];
        for page in 1..=self.page_count() {
            self.read_page(PageNo(page), &mut image)?;
            hasher.page(&image)?;
        }
        Ok(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::config::{Retention, StoreOptions, Tunables};
    use crate::env::Environment;
    use crate::facet::Facet;
    use crate::io::MemoryIo;
    use crate::name::FacetName;
    use crate::store::{ForkFrom, Store};
    use crate::types::View;

    fn size(bytes: usize) -> PageSize {
        PageSize::from_bytes(bytes).unwrap()
    }

    fn name(name: &str) -> FacetName {
        FacetName::new(name).unwrap()
    }

    /// A store that keeps history and spills early.
    fn store(memory: &MemoryIo) -> Arc<Store> {
        let age = std::time::Duration::from_secs(3600);
        let retention = Retention { bytes: u64::MAX, age };
        let tunables = Tunables { spill_bytes: 16 << 10, retention, ..Tunables::default() };
        let options = StoreOptions { tunables, ..StoreOptions::create() };
        Store::open(Environment::with_io(Arc::new(memory.clone())), options).unwrap()
    }

    /// Commits `images` (page, byte, bytes of it before the zeros) in a facet of `pages` pages.
    fn write(facet: &Arc<Facet>, pages: u32, images: &[(u32, u8, usize)]) {
        let mut writer = facet.begin_write_latest().unwrap();
        writer.set_page_size(size(4096)).unwrap_or_default();
        writer.set_page_count(pages).unwrap();
        for &(page, byte, len) in images {
            let mut image = [0; 4096];
            image[..len].fill(byte);
            writer.write_page(PageNo(page), &image).unwrap();
        }
        writer.commit(0).unwrap();
    }

    fn hash(facet: &Arc<Facet>) -> RootHash {
        facet.snapshot(View::Latest).unwrap().root_hash(&[]).unwrap()
    }

    /// The format, written out once more.
    fn by_hand(pages: &[Vec<u8>]) -> RootHash {
        let mut bytes = Vec::new();
        for page in pages {
            bytes.extend_from_slice(blake3::hash(page).as_bytes());
        }
        bytes.extend_from_slice(b"lapidary root 1\0");
        let page_bytes = pages.first().map_or(0, Vec::len);
        bytes.extend_from_slice(&u32::try_from(page_bytes).unwrap().to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(pages.len()).unwrap().to_le_bytes());
        RootHash(*blake3::hash(&bytes).as_bytes())
    }

    /// Published with the format: these never change.
    #[test]
    fn golden() {
        let empty = RootHasher::new(size(4096), &[]).finish();
        assert_eq!(
            empty.to_string(),
            "fccad22bbc3d811cdc927820e910bffaa38d6e7a8b2e78309e990cf2d63b1bad"
        );
        let mut hasher = RootHasher::new(size(512), &[0..2, 511..600, 700..800]);
        hasher.page(&[1; 512]).unwrap();
        hasher.page(&[2; 512]).unwrap();
        assert_eq!(
            hasher.finish().to_string(),
            "13401e64e7477d00f4f0c4257e3d907f6cd5abaa022c8091122d118050da6c49"
        );
    }

    #[test]
    fn history_and_storage_leave_no_mark() {
        let memory = MemoryIo::new();
        let store = store(&memory);
        let facet = |text: &str| store.create_facet(&name(text)).unwrap();
        let (one, two) = (facet("one"), facet("two"));
        assert_eq!(hash(&one), by_hand(&[]));

        // In one transaction, which spills; page 3 is never written, page 4 mostly zeros.
        let all: Vec<(u32, u8, usize)> =
            (1..=40).filter(|&page| page != 3).map(|page| (page, 9, page as usize)).collect();
        write(&one, 40, &all);
        // In many, with detours: page 3 is written as zeros, and the facet shrinks on the way.
        write(&two, 90, &[(3, 0, 4096), (77, 7, 77)]);
        write(&two, 2, &[]);
        for &image in &all {
            write(&two, 40, &[image]);
        }
        let expected = by_hand(
            &(1..=40)
                .map(|page: u32| {
                    let mut image = vec![0; 4096];
                    image[..page as usize].fill(if page == 3 { 0 } else { 9 });
                    image
                })
                .collect::<Vec<_>>(),
        );
        assert_eq!(hash(&one), expected, "pending images");
        assert_eq!(hash(&two), expected);
        store.flush().unwrap();
        assert_eq!(hash(&one), expected, "stored images");
        let before = one.bookmark().unwrap();

        write(&one, 40, &[(40, 9, 39)]);
        assert_ne!(hash(&one), expected, "one byte is another");
        write(&one, 41, &[(40, 9, 40)]);
        assert_ne!(hash(&one), expected, "a page of zeros more");
        store.flush().unwrap();
        let past = one.snapshot_at(&before).unwrap();
        assert_eq!(past.root_hash(&[]).unwrap(), expected, "the past");
        let (fork, _) =
            store.fork_facet(&name("one"), &name("fork"), ForkFrom::Bookmark(before)).unwrap();
        assert_eq!(hash(&fork), expected, "a fork of the past");
        one.restore(&before).unwrap();
        assert_eq!(hash(&one), expected, "restored");
        let (fork, _) = store.fork_facet(&name("two"), &name("fork2"), ForkFrom::Latest).unwrap();
        assert_eq!(hash(&fork), expected, "a fork");

        drop((one, two, fork, past));
        store.close().unwrap();
        drop(store);
        let store = self::store(&memory);
        for facet in ["one", "two", "fork", "fork2"] {
            assert_eq!(hash(&store.open_facet(&name(facet)).unwrap()), expected, "{facet}");
        }
    }

    #[test]
    fn what_counts() {
        let root = |page_bytes: usize, masked: &[Range<usize>], pages: &[&[u8]]| {
            let mut hasher = RootHasher::new(size(page_bytes), masked);
            pages.iter().for_each(|page| hasher.page(page).unwrap());
            hasher.finish()
        };
        let (one, two) = ([1; 1024], [2; 1024]);
        let whole = root(1024, &[], &[&one, &two]);
        assert_eq!(whole, by_hand(&[one.to_vec(), two.to_vec()]));
        assert_ne!(whole, root(1024, &[], &[&two, &one]), "the order");
        let halves = [&one[..512], &one[512..], &two[..512], &two[512..]];
        assert_ne!(whole, root(512, &[], &halves), "the page size");
        assert_eq!(root(512, &[], &[]), root(65536, &[], &[]), "but not that of no pages");

        let mut changed = one;
        changed[5] = 77;
        assert_ne!(whole, root(1024, &[], &[&changed, &two]));
        let mask = [2..4, 5..6];
        assert_eq!(root(1024, &mask, &[&one, &two]), root(1024, &mask, &[&changed, &two]));
        assert_ne!(
            root(1024, &mask, &[&one, &one]),
            root(1024, &mask, &[&one, &changed]),
            "page 1 alone is masked"
        );
    }

    #[test]
    fn what_is_no_page_is_refused() {
        let mut hasher = RootHasher::new(size(512), &[]);
        hasher.page(&[1; 512]).unwrap();
        let error = hasher.page(&[1; 511]).unwrap_err().to_string();
        assert!(error.contains("511"), "{error}");
        hasher.page(&[]).unwrap_err();
        assert_eq!(hasher.finish(), by_hand(&[vec![1; 512]]));
    }

    proptest! {
        #[test]
        fn as_text(bytes in any::<[u8; 32]>()) {
            let hash = RootHash::from_bytes(bytes);
            prop_assert_eq!(hash.to_string().parse::<RootHash>().unwrap(), hash);
        }

        #[test]
        fn any_text_is_survived(text in "[0-9a-fA-F]{60,68}|.{0,70}") {
            if let Ok(hash) = text.parse::<RootHash>() {
                prop_assert_eq!(hash.to_string(), text);
            }
        }
    }
}
