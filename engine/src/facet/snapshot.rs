//! Snapshots: pinned versions, and reading pages.

use std::cell::RefCell;
use std::sync::Arc;

use super::{Content, Facet};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::format::page::UnverifiedPage;
use crate::format::{Malformed, StoredRef};
use crate::map::PageRef;
use crate::segments::LiveChanges;
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
        let mut changes = LiveChanges::default();
        let mut freed = false;
        self.facet.state().unpin(self.content.version, |reference| {
            changes.unpin(reference);
            freed = true;
        });
        if freed {
            self.facet.core.segments.apply(&changes);
        }
    }
}

impl Snapshot {
    /// A snapshot of `content`, whose version was pinned by the caller.
    pub(super) fn new(facet: Arc<Facet>, content: Content) -> Self {
        Self { pinned: Arc::new(Pinned { facet, content }) }
    }

    pub(super) fn facet(&self) -> &Arc<Facet> {
        &self.pinned.facet
    }

    pub(super) fn content(&self) -> &Content {
        &self.pinned.content
    }

    /// Number of the version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.content().version
    }

    /// Size of its pages; `None` while the facet has never had one.
    #[must_use]
    pub fn page_size(&self) -> Option<PageSize> {
        self.content().page_size
    }

    /// Number of its pages.
    #[must_use]
    pub fn page_count(&self) -> u32 {
        self.content().page_count
    }

    /// Copies a page to `into`, whose length must be the page size. A page that was never written
    /// reads as zeros.
    ///
    /// # Errors
    /// [`Error::PageCorrupt`] if the stored page is not what was written; [`Error::Io`];
    /// [`Error::InvalidInput`] if there is no such page or `into` has another length.
    pub fn read_page(&self, page: PageNo, into: &mut [u8]) -> Result<()> {
        let content = self.content();
        if page.0 == 0
            || page.0 > content.page_count
            || content.page_size.map(PageSize::bytes) != Some(into.len())
        {
            return Err(Error::InvalidInput(format!(
                "facet {}: page {page} of {} bytes was asked for, but it has {} pages of {} bytes",
                self.facet().name(),
                into.len(),
                content.page_count,
                content.page_size.map_or(0, PageSize::bytes),
            )));
        }
        match content.map.get(page.0 - 1) {
            PageRef::Absent => into.fill(0),
            PageRef::Pending(image) => into.copy_from_slice(image),
            PageRef::Stored(reference) => {
                read_stored(&self.facet().core, *reference, page, into, || {
                    self.facet().name().to_string()
                })?;
            }
        }
        Ok(())
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
    thread_local! {
        static RECORD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    // After a close the files may belong to somebody else.
    core.log.check_open()?;
    RECORD.with_borrow_mut(|record| {
        core.segments.files.read(reference, record)?;
        let checked = UnverifiedPage::parse(record).and_then(|found| {
            if found.page != page || found.crc != reference.crc {
                return Err(Malformed("another page, or another version of it, is in its place"));
            }
            found.unpack(into)
        });
        checked.map_err(|malformed| Error::PageCorrupt {
            facet: facet(),
            page,
            segment: reference.segment,
            offset: reference.offset(),
            detail: malformed.0.to_owned(),
        })
    })
}
