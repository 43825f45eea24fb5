//! Snapshots: pinned versions, and reading pages.

use std::cell::RefCell;
use std::sync::Arc;

use super::{Content, Facet};
use crate::bookmark::Bookmark;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::format::page::UnverifiedPage;
use crate::format::{Malformed, StoredRef};
use crate::map::{PageRef, PendingPage};
use crate::segments::{Damage, Segments};
use crate::types::{PageNo, PageSize, Version};

/// A pinned version of a facet: what it reads stays the same, whatever is committed. Cloning is
/// O(1); the version is released when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pinned: Arc<Pinned>,
}

#[derive(Debug)]
struct Pinned {
    facet: Arc<Facet>,
    content: Content,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.facet.state().unpin(self.content.meta.version);
    }
}

impl Snapshot {
    /// A snapshot of `content`, whose version was pinned by the caller.
    pub(super) fn new(facet: Arc<Facet>, content: Content) -> Self {
        Self { pinned: Arc::new(Pinned { facet, content }) }
    }

    /// The facet that it is a version of.
    #[must_use]
    pub fn facet(&self) -> &Arc<Facet> {
        &self.pinned.facet
    }

    pub(super) fn content(&self) -> &Content {
        &self.pinned.content
    }

    /// Number of the version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.content().meta.version
    }

    /// Names the version. It may be one that a crash can still take, if the snapshot is of
    /// [`View::Latest`](crate::View::Latest).
    #[must_use]
    pub fn bookmark(&self) -> Bookmark {
        self.facet().bookmark_of(&self.content().meta)
    }

    /// When it was committed: milliseconds since the Unix epoch.
    #[must_use]
    pub fn wall_ms(&self) -> u64 {
        self.content().meta.wall_ms
    }

    /// Size of its pages; `None` while the facet has never had one.
    #[must_use]
    pub fn page_size(&self) -> Option<PageSize> {
        self.content().meta.page_size
    }

    /// Number of its pages.
    #[must_use]
    pub fn page_count(&self) -> u32 {
        self.content().meta.page_count
    }

    /// Copies a page to `into`, whose length must be the page size. A page that was never written
    /// reads as zeros.
    ///
    /// # Errors
    /// [`Error::PageCorrupt`] if the stored page is not what was written; [`Error::Io`];
    /// [`Error::InvalidInput`] if there is no such page or `into` has another length.
    pub fn read_page(&self, page: PageNo, into: &mut [u8]) -> Result<()> {
        let content = self.content();
        let meta = &content.meta;
        if page.0 == 0
            || page.0 > meta.page_count
            || meta.page_size.map(PageSize::bytes) != Some(into.len())
        {
            return Err(Error::InvalidInput(format!(
                "facet {}: page {page} of {} bytes was asked for, but it has {} pages of {} bytes",
                self.facet().name(),
                into.len(),
                meta.page_count,
                meta.page_size.map_or(0, PageSize::bytes),
            )));
        }
        let core = &self.facet().core;
        let name = || self.facet().name().to_string();
        match content.map.get(page.0 - 1) {
            PageRef::Absent => into.fill(0),
            PageRef::Pending(pending) => read_pending(core, pending, page, into, name)?,
            PageRef::Stored(reference) => read_stored(core, *reference, page, into, name)?,
        }
        Ok(())
    }
}

/// Reads a page that was committed a moment ago.
pub(super) fn read_pending(
    core: &Core,
    pending: &PendingPage,
    page: PageNo,
    into: &mut [u8],
    facet: impl FnOnce() -> String,
) -> Result<()> {
    match pending.read(|image| into.copy_from_slice(image)) {
        Ok(()) => Ok(()),
        Err(reference) => read_stored(core, reference, page, into, facet),
    }
}

/// Reads and checks a stored page.
pub(super) fn read_stored(
    core: &Core,
    reference: StoredRef,
    page: PageNo,
    into: &mut [u8],
    facet: impl FnOnce() -> String,
) -> Result<()> {
    // After a close the files may belong to somebody else.
    core.log.check_open()?;
    let read = read_stored_from(&core.segments, reference, page, into)?;
    read.map_err(|Damage { place, path, malformed }| Error::PageCorrupt {
        facet: facet(),
        page,
        path,
        segment: place.segment,
        offset: place.offset(),
        detail: malformed.0.to_owned(),
    })
}

/// Reads and checks a stored page of any facet.
pub(crate) fn read_stored_from(
    segments: &Segments,
    reference: StoredRef,
    page: PageNo,
    into: &mut [u8],
) -> Result<Result<(), Damage>> {
    crate::sync::thread_local! {
        static RECORD: RefCell<Vec<u8>> = RefCell::default();
    }
    RECORD.with(|record| {
        segments.files.read_checked(reference, &mut record.borrow_mut(), |record| {
            let found = UnverifiedPage::parse(record)?;
            if found.page != page || found.crc != reference.crc {
                return Err(Malformed("another page, or another version of it, is in its place"));
            }
            found.unpack(into)
        })
    })
}
