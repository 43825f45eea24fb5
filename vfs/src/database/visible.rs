//! The start of the file as one handle shows it to SQLite: the version's bytes, with the change
//! counter that the pager behind the handle is to see.

use lapidary_engine::{PageSize, Result, Snapshot, Version};

use super::pages;
use super::stamp::CacheStamp;
use crate::file::Filled;
use crate::header::{self, HEADER_BYTES, Header};

/// What a handle keeps about the first page between reads.
#[derive(Debug, Default)]
pub(super) struct VisibleHeader {
    pub(super) stamp: CacheStamp,
    /// The start of the file in some version, so that the pager's look at the change counter, at
    /// the start of every transaction, does not fetch a page.
    cached: Option<(Version, Box<Header>)>,
}

impl VisibleHeader {
    /// Reads from `snapshot`.
    pub(super) fn read(
        &mut self,
        snapshot: &Snapshot,
        offset: u64,
        into: &mut [u8],
    ) -> Result<Filled> {
        let size_bytes = pages::size_bytes(snapshot);
        // A file that ends before its header has none, whatever was kept of the bytes that are not there.
        if offset >= HEADER_BYTES as u64 || size_bytes < HEADER_BYTES as u64 {
            return pages::read(snapshot, size_bytes, offset, into);
        }
        let version = snapshot.version();
        let filled = match self.cached_bytes(version, offset, into.len()) {
            Some(bytes) => {
                into.copy_from_slice(bytes);
                Filled::Whole
            }
            None => {
                let filled = pages::read(snapshot, size_bytes, offset, into)?;
                if let Some(header) = into.first_chunk().filter(|_| offset == 0) {
                    self.keep(version, header);
                }
                filled
            }
        };
        self.show_counter(version, offset, into, filled);
        Ok(filled)
    }

    fn cached_bytes(&self, version: Version, offset: u64, length: usize) -> Option<&[u8]> {
        let (_, bytes) = self.cached.as_ref().filter(|(cached, _)| *cached == version)?;
        let start = usize::try_from(offset).ok()?;
        bytes.get(start..start.checked_add(length)?)
    }

    fn keep(&mut self, version: Version, header: &Header) {
        match &mut self.cached {
            Some((cached, bytes)) => {
                *cached = version;
                bytes.copy_from_slice(header);
            }
            None => self.cached = Some((version, Box::new(*header))),
        }
    }

    /// Puts the counter for `version` into bytes read from its first page.
    pub(super) fn show_counter(
        &mut self,
        version: Version,
        offset: u64,
        into: &mut [u8],
        filled: Filled,
    ) {
        // A file that ends before its header has no counter: SQLite takes zeros for one.
        if offset >= HEADER_BYTES as u64 || filled == Filled::Short {
            return;
        }
        let counter = self.stamp.visible(version);
        header::patch_change_counter(into, offset, counter);
        if is_page_one(offset, into.len()) {
            self.stamp.read(counter, version);
        }
    }

    /// SQLite wrote `bytes` at `offset`, or read back what it had written there.
    pub(super) fn wrote(&mut self, offset: u64, bytes: &[u8]) {
        if is_page_one(offset, bytes.len())
            && let Some(counter) = header::change_counter(bytes)
        {
            self.stamp.wrote(counter);
        }
    }

    /// A transaction turned `from` into `to`, and wrote `header` if it wrote page 1.
    pub(super) fn committed(&mut self, from: Version, to: Version, header: Option<&Header>) {
        self.stamp.committed(from, to, header.is_some());
        match header {
            Some(header) => self.keep(to, header),
            None => {
                if let Some((cached, _)) = &mut self.cached
                    && *cached == from
                {
                    *cached = to;
                }
            }
        }
    }
}

/// Whether SQLite's pager takes this for page 1, and remembers the change counter in it.
fn is_page_one(offset: u64, length: usize) -> bool {
    offset == 0 && length >= PageSize::MIN.bytes()
}
