//! The facet's one writer: stages pages, spills them when they are many, commits them.

use std::sync::{Arc, OnceLock};

use rustc_hash::FxHashMap;

use super::commit::{self, Draft};
use super::snapshot::{read_pending, read_stored};
use super::{Content, Facet, Snapshot};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::format::record::{self, Referred};
use crate::format::{StoredRef, page};
use crate::log::{Effect, PageEffect, SpillPlace};
use crate::map::{ImageMemory, PageMap, PendingPage, Settled, differing_pages};
use crate::segments::Purpose;
use crate::types::{Epoch, FacetId, PageNo, PageSize, Ticket, View};

/// A page of the open transaction.
#[derive(Debug)]
enum Staged {
    /// In memory.
    Image(Arc<PendingPage>),
    /// In the log already, ahead of the commit, and pinned there.
    Spilled(StoredRef),
}

/// Writes to a facet, one transaction after the other. While it exists no other writer does;
/// dropping it discards what is staged.
///
/// ```
/// # use lapidary_engine::*;
/// # use std::sync::Arc;
/// # let environment = Environment::with_io(Arc::new(MemoryIo::new()));
/// let store = Store::open(environment, StoreOptions::create())?;
/// let facet = store.create_facet(&FacetName::new("tenants/a")?)?;
/// let mut writer = facet.begin_write(&facet.snapshot(View::Latest)?)?;
/// writer.set_page_size(PageSize::from_bytes(4096).unwrap())?;
/// writer.write_page(PageNo(1), &[7; 4096])?;
/// let ticket = writer.commit(0)?;
/// store.wait_durable(ticket)?;
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct Writer {
    base: Snapshot,
    stage: Stage,
}

/// The open transaction: what differs from the base.
#[derive(Debug, Default)]
struct Stage {
    pages: FxHashMap<u32, Staged>,
    page_size: Option<PageSize>,
    page_count: u32,
    /// Pages of the base that are still part of the transaction's view.
    pages_kept: u32,
    /// Pages that become what they were in an older version.
    restored: Vec<(PageNo, Option<StoredRef>)>,
    /// Bytes of the staged pages that are in memory.
    image_bytes: usize,
    is_dirty: bool,
    /// A page could not be staged, so what is staged is not what was meant.
    is_broken: bool,
}

impl Stage {
    /// Starts over from `base`, keeping the table's memory.
    fn rewind(&mut self, base: &Snapshot) {
        debug_assert!(self.pages.is_empty(), "what was staged is committed or released");
        self.page_size = base.page_size();
        self.page_count = base.page_count();
        self.pages_kept = self.page_count;
        self.restored.clear();
        self.image_bytes = 0;
        self.is_dirty = false;
        self.is_broken = false;
    }

    /// Reads a page in the view of this stage over `base`.
    fn read_page(&self, base: &Snapshot, page: PageNo, into: &mut [u8]) -> Result<()> {
        let name = || base.facet().name().to_string();
        if page.0 == 0
            || page.0 > self.page_count
            || self.page_size.map(PageSize::bytes) != Some(into.len())
        {
            return Err(Error::InvalidInput(format!(
                "facet {}: page {page} of {} bytes was asked for, but it has {} pages of {} bytes",
                name(),
                into.len(),
                self.page_count,
                self.page_size.map_or(0, PageSize::bytes),
            )));
        }
        match self.pages.get(&page.0) {
            Some(Staged::Image(image)) => {
                read_pending(&base.facet().core, image, page, into, name)?;
            }
            Some(Staged::Spilled(reference)) => {
                read_stored(&base.facet().core, *reference, page, into, name)?;
            }
            None if page.0 <= self.pages_kept => base.read_page(page, into)?,
            None => into.fill(0),
        }
        Ok(())
    }
}

impl Writer {
    /// A writer that starts from `base`; the facet's place for a writer was taken by the caller.
    pub(super) fn new(base: Snapshot) -> Self {
        let mut stage = Stage::default();
        stage.rewind(&base);
        Self { base, stage }
    }

    fn facet(&self) -> &Arc<Facet> {
        self.base.facet()
    }

    pub(super) fn core(&self) -> &Core {
        &self.facet().core
    }

    /// Whether its facet is in the store that `core` is of.
    pub(crate) fn is_of(&self, core: &Arc<Core>) -> bool {
        Arc::ptr_eq(&self.facet().core, core)
    }

    /// The version the transaction started from; after a commit, the one committed.
    #[must_use]
    pub fn base(&self) -> &Snapshot {
        &self.base
    }

    /// Whether anything was changed since the writer began, or last committed or discarded.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.stage.is_dirty
    }

    /// Page size in the transaction's view.
    #[must_use]
    pub fn page_size(&self) -> Option<PageSize> {
        self.stage.page_size
    }

    /// Number of pages in the transaction's view.
    #[must_use]
    pub fn page_count(&self) -> u32 {
        self.stage.page_count
    }

    fn invalid(&self, what: impl std::fmt::Display) -> Error {
        Error::InvalidInput(format!("facet {}: {what}", self.facet().name()))
    }

    /// Sets the page size of a facet that has no pages.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if it has pages.
    pub fn set_page_size(&mut self, size: PageSize) -> Result<()> {
        if self.stage.page_count > 0 {
            return Err(self.invalid("its page size can only be set while it has no pages"));
        }
        self.stage.page_size = Some(size);
        Ok(())
    }

    /// Stages a page. One beyond the end lengthens the facet; pages in between read as zeros.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for page 0 or a length that is not the page size. When the staged
    /// pages are spilled: as [`commit`](Self::commit); the transaction can then only be discarded.
    pub fn write_page(&mut self, page: PageNo, bytes: &[u8]) -> Result<()> {
        self.check_whole()?;
        if page.0 == 0 || self.stage.page_size.map(PageSize::bytes) != Some(bytes.len()) {
            return Err(self.invalid(format_args!(
                "page {page} of {} bytes cannot be written where pages have {} bytes",
                bytes.len(),
                self.stage.page_size.map_or(0, PageSize::bytes),
            )));
        }
        self.stage.is_dirty = true;
        self.stage.page_count = self.stage.page_count.max(page.0);
        let memory = &self.base.facet().core.images;
        match self.stage.pages.get_mut(&page.0) {
            // The same page again: nobody else holds the image, so its memory can be reused.
            Some(Staged::Image(image)) => match Arc::get_mut(image) {
                Some(image) => image.replace(bytes),
                None => *image = Arc::new(PendingPage::new(memory, bytes)),
            },
            _ => {
                let image = Staged::Image(Arc::new(PendingPage::new(memory, bytes)));
                let replaced = self.stage.pages.insert(page.0, image);
                self.stage.image_bytes += bytes.len();
                self.release(replaced);
                self.spill_if_many().inspect_err(|_| self.stage.is_broken = true)?;
            }
        }
        Ok(())
    }

    /// Reads a page in the transaction's view: a staged one, else the base's.
    ///
    /// # Errors
    /// As [`Snapshot::read_page`].
    pub fn read_page(&self, page: PageNo, into: &mut [u8]) -> Result<()> {
        self.stage.read_page(&self.base, page, into)
    }

    /// Whether a page is in the transaction's view as it is in the base.
    pub(super) fn is_from_base(&self, page: PageNo) -> bool {
        page.0 <= self.stage.pages_kept && !self.stage.pages.contains_key(&page.0)
    }

    /// Sets the number of pages. Pages cut off are gone: if the facet grows again they are zeros.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if the facet never had a page and `pages` is not 0.
    pub fn set_page_count(&mut self, pages: u32) -> Result<()> {
        if pages > 0 && self.stage.page_size.is_none() {
            return Err(self.invalid("its page size must be set before it can have pages"));
        }
        if pages == self.stage.page_count {
            return Ok(());
        }
        self.stage.is_dirty = true;
        if pages < self.stage.page_count {
            let gone: Vec<u32> =
                self.stage.pages.keys().copied().filter(|&page| page > pages).collect();
            for page in gone {
                let staged = self.stage.pages.remove(&page);
                self.release(staged);
            }
            self.stage.pages_kept = self.stage.pages_kept.min(pages);
        }
        self.stage.page_count = pages;
        Ok(())
    }

    /// Cuts the transaction's whole content, taken as one run of `size_bytes` bytes, into pages of
    /// another size. The last page is filled up with zeros.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if the content is shorter, or too long for pages of that size;
    /// otherwise as [`read_page`](Self::read_page) and [`write_page`](Self::write_page).
    pub fn rechunk(&mut self, size: PageSize, size_bytes: u64) -> Result<()> {
        let old_size =
            self.stage.page_size.ok_or_else(|| self.invalid("it has no pages to cut"))?;
        if size_bytes > u64::from(self.stage.page_count) * old_size.bytes() as u64 {
            return Err(self.invalid("it is shorter than what is to be cut into pages"));
        }
        let page_count = u32::try_from(size_bytes.div_ceil(size.bytes() as u64))
            .map_err(|_| self.invalid("it is too long for pages of that size"))?;

        let old = std::mem::take(&mut self.stage);
        let result = self.stage_cut(&old, old_size, size, size_bytes);
        for staged in old.pages.values() {
            self.unpin_spilled(staged);
        }
        result.inspect_err(|_| self.stage.is_broken = true)?;
        self.stage.page_count = page_count;
        Ok(())
    }

    /// Stages what `old` shows, in pages of `size`.
    fn stage_cut(
        &mut self,
        old: &Stage,
        old_size: PageSize,
        size: PageSize,
        size_bytes: u64,
    ) -> Result<()> {
        self.stage.page_size = Some(size);
        self.stage.is_dirty = true;
        // The base stays as it is while pages are staged, even if staging fails half-way.
        let base = self.base.clone();
        let (mut from, mut to) = (vec![0; old_size.bytes()], Vec::with_capacity(size.bytes()));
        let mut left = size_bytes;
        let mut source = 0;
        let mut target = 0;
        while left > 0 {
            source += 1;
            old.read_page(&base, PageNo(source), &mut from)?;
            let len = usize::try_from(left).unwrap_or(usize::MAX).min(from.len());
            left -= len as u64;
            for piece in from[..len].chunks(size.bytes().min(old_size.bytes())) {
                to.extend_from_slice(piece);
                if to.len() == size.bytes() {
                    target += 1;
                    self.write_page(PageNo(target), &to)?;
                    to.clear();
                }
            }
        }
        if !to.is_empty() {
            to.resize(size.bytes(), 0);
            self.write_page(PageNo(target + 1), &to)?;
        }
        Ok(())
    }

    fn spill_if_many(&mut self) -> Result<()> {
        if self.stage.image_bytes > self.core().tunables.spill_bytes {
            self.spill()
        } else {
            Ok(())
        }
    }

    /// Writes the staged images to the log ahead of the commit and lets go of their memory.
    pub(super) fn spill(&mut self) -> Result<()> {
        let size = self.stage.page_size.expect("staged pages have a size");
        let core = Arc::clone(&self.facet().core);
        let mut images: Vec<StagedImage> = self
            .stage
            .pages
            .iter()
            .filter_map(|(&page, staged)| match staged {
                Staged::Image(image) => Some(StagedImage::new(PageNo(page), image)),
                Staged::Spilled(_) => None,
            })
            .collect();
        images.sort_unstable_by_key(|staged| staged.page);
        let bytes = record::commit_bytes_max(0, images.len(), size);
        let admission = core.log.admit(&core.segments, bytes, 0, Purpose::Commit)?;
        let facet = self.facet().id;
        let place: SpillPlace = Arc::new(OnceLock::new());
        let effect_place = Arc::clone(&place);
        let ticket = core.log.append(admission, 0, |lsn, out| {
            let start = record::start_spill(lsn, facet, images.len(), out);
            let pages = encode_pages(facet, size, images, None, out);
            record::finish(start, out);
            Effect::Spill { pages, place: effect_place }
        });
        core.log.wait_durable(&core.segments, ticket)?;
        for &(page, reference) in place.get().expect("a durable record has a place") {
            self.stage.pages.insert(page.0, Staged::Spilled(reference));
        }
        self.stage.image_bytes = 0;
        Ok(())
    }

    /// Commits what is staged as the next version, appending to log buffer `log_buffer`. The writer
    /// goes on from the new version. With nothing changed it does nothing.
    ///
    /// The commit is visible to [`View::Latest`] at once, and durable when
    /// [`Store::wait_durable`](crate::Store::wait_durable) says so of the ticket.
    ///
    /// # Errors
    /// Nothing is committed and what was staged is discarded: [`Error::NoSpace`],
    /// [`Error::QuotaExceeded`], [`Error::FacetDeleted`], [`Error::Poisoned`], [`Error::Closed`], or
    /// [`Error::InvalidInput`] if the transaction is too large for a segment.
    pub fn commit(&mut self, log_buffer: usize) -> Result<Ticket> {
        if !self.stage.is_dirty {
            return Ok(self.facet().latest_ticket());
        }
        let result = self.append_commit(log_buffer, None);
        if result.is_err() {
            self.discard();
        }
        result
    }

    /// Commits `old`, a version of the past, as the next version.
    pub(super) fn commit_version(&mut self, old: &Snapshot) -> Result<Ticket> {
        let (content, base) = (old.content(), self.base.content());
        let memory = &self.base.facet().core.images;
        let stage = &mut self.stage;
        let nothing = PageMap::default();
        // Pages of another size have nothing in common.
        let is_same_size = content.meta.page_size == base.meta.page_size;
        let from = if is_same_size { &base.map } else { &nothing };
        for (page, settled) in differing_pages(from, &content.map, content.meta.page_count) {
            let reference = match settled {
                Settled::Stored(reference) => reference,
                // In memory alone: it is written again.
                Settled::Unstored(image) => {
                    match image.read(|image| PendingPage::new(memory, image)) {
                        Ok(image) => {
                            stage.image_bytes += content.meta.page_size.map_or(0, PageSize::bytes);
                            stage.pages.insert(page.0, Staged::Image(Arc::new(image)));
                            continue;
                        }
                        Err(reference) => Some(reference),
                    }
                }
            };
            stage.restored.push((page, reference));
        }
        stage.page_size = content.meta.page_size;
        stage.page_count = content.meta.page_count;
        stage.pages_kept = if is_same_size { stage.pages_kept.min(stage.page_count) } else { 0 };
        stage.is_dirty = true;
        let result = self.spill_if_many().and_then(|()| self.append_commit(0, Some(old)));
        if result.is_err() {
            self.discard();
        }
        result
    }

    fn check_whole(&self) -> Result<()> {
        if self.stage.is_broken {
            return Err(self.invalid("a page could not be staged: discard the transaction"));
        }
        Ok(())
    }

    /// What is staged, as a commit has it.
    pub(super) fn draft(&self) -> Result<Draft> {
        self.check_whole()?;
        let mut images = Vec::with_capacity(self.stage.pages.len());
        let old_pages = self.stage.restored.iter();
        let mut referred: Vec<Referred> = old_pages
            .map(|&(page, reference)| Referred { page, reference, is_spilled: false })
            .collect();
        for (&page, staged) in &self.stage.pages {
            let page = PageNo(page);
            match staged {
                Staged::Image(image) => images.push(StagedImage::new(page, image)),
                Staged::Spilled(reference) => {
                    referred.push(Referred { page, reference: Some(*reference), is_spilled: true });
                }
            }
        }
        images.sort_unstable_by_key(|staged| staged.page);
        referred.sort_unstable_by_key(|referred| referred.page);
        Ok(Draft {
            facet: Arc::clone(self.facet()),
            page_size: self.stage.page_size,
            page_count: self.stage.page_count,
            pages_kept: self.stage.pages_kept,
            pages_cut: self.base.page_count().saturating_sub(self.stage.pages_kept),
            images,
            referred,
        })
    }

    /// `old`: the version of the past that is staged, which must still be kept.
    fn append_commit(&mut self, log_buffer: usize, old: Option<&Snapshot>) -> Result<Ticket> {
        let (content, ticket) = commit::append(self.draft()?, log_buffer, old)?;
        self.go_on_from(content);
        Ok(ticket)
    }

    /// What was staged is committed, as `content`, which is pinned.
    pub(super) fn go_on_from(&mut self, content: Content) {
        // Spilled pages stay pinned until a checkpoint has counted them.
        self.stage.pages.clear();
        self.base = Snapshot::new(Arc::clone(self.facet()), content);
        self.stage.rewind(&self.base);
    }

    /// Bytes of staged pages in memory.
    pub(super) fn image_bytes(&self) -> usize {
        self.stage.image_bytes
    }

    /// Forgets what is staged.
    pub fn discard(&mut self) {
        for (_, staged) in std::mem::take(&mut self.stage.pages) {
            self.unpin_spilled(&staged);
        }
        self.stage.rewind(&self.base);
    }

    /// Lets go of a staged page that is no longer part of the transaction.
    fn release(&mut self, staged: Option<Staged>) {
        match staged {
            Some(Staged::Image(_)) => {
                self.stage.image_bytes -= self.stage.page_size.map_or(0, PageSize::bytes);
            }
            Some(spilled) => self.unpin_spilled(&spilled),
            None => {}
        }
    }

    fn unpin_spilled(&self, staged: &Staged) {
        if let Staged::Spilled(reference) = staged {
            self.core().segments.unpin(*reference);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.discard();
        self.facet().state().has_writer = false;
    }
}

/// A page about to be appended.
pub(crate) struct StagedImage {
    pub(crate) page: PageNo,
    pub(crate) image: Arc<PendingPage>,
    /// What it was in the version before, if that may be in memory.
    pub(crate) base: Option<Arc<PendingPage>>,
}

impl StagedImage {
    pub(crate) fn new(page: PageNo, image: &Arc<PendingPage>) -> Self {
        Self { page, image: Arc::clone(image), base: None }
    }
}

/// That pages are appended as those of a new version, which later ones can be built on.
#[derive(Clone, Copy)]
pub(crate) struct AsVersion<'a> {
    pub(crate) epoch: Epoch,
    /// For the images of pages that are appended as deltas, or may be later; `None`: neither.
    pub(crate) memory: Option<&'a Arc<ImageMemory>>,
}

/// Appends the page records of `images`, while their log buffer is locked.
pub(crate) fn encode_pages(
    facet: FacetId,
    size: PageSize,
    images: Vec<StagedImage>,
    as_version: Option<AsVersion<'_>>,
    out: &mut Vec<u8>,
) -> Vec<PageEffect> {
    let mut extents = page::Extents::default();
    let encode = |StagedImage { page, image, base }: StagedImage| {
        let at = out.len();
        let mut encode = |image: &[u8], base: Option<page::Base<'_>>| {
            page::encode(facet, page, size, image, base, &mut extents, out)
        };
        let encoded = match as_version {
            Some(AsVersion { epoch, memory }) => {
                let share = memory.and_then(|memory| memory.share(size.bytes(), base.is_some()));
                // What is logged as a delta has to stay in memory.
                let base = base.filter(|_| share.is_some());
                image.log(epoch, share, |image| match &base {
                    Some(base) => base.with_base(epoch, |base| encode(image, base)),
                    None => encode(image, None),
                })
            }
            None => {
                let encoded = image.read(|image| encode(image, None));
                encoded.expect("a page that is not in the log as an image is in memory")
            }
        };
        let len = crate::format::stored_len(out.len() - at);
        PageEffect { page, at, len, crc: encoded.crc, is_delta: encoded.is_delta, image }
    };
    images.into_iter().map(encode).collect()
}

impl Facet {
    /// Pins the latest version and begins to write from it.
    ///
    /// # Errors
    /// As [`snapshot`](Self::snapshot) and [`begin_write`](Self::begin_write).
    pub fn begin_write_latest(self: &Arc<Self>) -> Result<Writer> {
        self.begin_write(&self.snapshot(View::Latest)?)
    }
}
