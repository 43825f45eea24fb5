//! The versions of a facet that are kept: bookmarks, lists, snapshots of the past.

use std::sync::Arc;

use super::{Content, Facet, Snapshot, State};
use crate::bookmark::Bookmark;
use crate::error::{Error, Result};
use crate::format::catalog::VersionMeta;
use crate::map::{PageMap, Settled, differing_pages};
use crate::sync::MutexGuard;
use crate::types::{Lsn, PageNo, PageSize};

/// A version that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VersionInfo {
    /// Names it.
    pub bookmark: Bookmark,
    /// When it was committed: milliseconds since the Unix epoch, by the clock of that time.
    pub wall_ms: u64,
    /// Size of its pages; `None` if the facet had never had one.
    pub page_size: Option<PageSize>,
    /// Number of its pages.
    pub page_count: u32,
    /// Bytes that are kept for this version and not for later ones. 0 for the newest.
    pub kept_bytes: u64,
}

impl Facet {
    /// Names the newest durable version.
    ///
    /// # Errors
    /// [`Error::FacetDeleted`]; [`Error::Poisoned`] or [`Error::Closed`].
    pub fn bookmark(&self) -> Result<Bookmark> {
        self.core.log.check_usable()?;
        let state = self.state();
        if state.is_deleted {
            return Err(Error::FacetDeleted { name: state.name.to_string() });
        }
        Ok(self.bookmark_of(&state.durable.meta))
    }

    /// Names the version that was the newest at a moment, in milliseconds since the Unix epoch: the
    /// last one committed at or before it. If the clock was set back meanwhile, the latest such one.
    ///
    /// # Errors
    /// [`Error::BookmarkUnknown`] if that version is not kept; as [`snapshot`](Self::snapshot).
    pub fn bookmark_at(&self, wall_ms: u64) -> Result<Bookmark> {
        self.core.log.check_usable()?;
        let state = self.alive()?;
        let found = newest_first(&state).find(|meta| meta.wall_ms <= wall_ms);
        match found {
            Some(meta) => Ok(self.bookmark_of(meta)),
            None => Err(self.unknown(&state, format!("of {wall_ms} ms after the Unix epoch"))),
        }
    }

    /// The versions that are kept, newest first, from the newest durable one on.
    ///
    /// # Errors
    /// As [`snapshot`](Self::snapshot).
    pub fn versions(&self) -> Result<Vec<VersionInfo>> {
        self.core.log.check_usable()?;
        let state = self.alive()?;
        let newest = std::iter::once((&state.durable.meta, 0));
        let older = state.history.versions().rev().map(|edit| (&edit.meta, edit.bytes()));
        let info = |(meta, kept_bytes): (&VersionMeta, u64)| VersionInfo {
            bookmark: self.bookmark_of(meta),
            wall_ms: meta.wall_ms,
            page_size: meta.page_size,
            page_count: meta.page_count,
            kept_bytes,
        };
        Ok(newest.chain(older).map(info).collect())
    }

    /// Pins a version of the past. Takes time for what was changed since, not for the facet's size.
    ///
    /// # Errors
    /// [`Error::BookmarkUnknown`] if it is not kept; as [`snapshot`](Self::snapshot).
    pub fn snapshot_at(self: &Arc<Self>, bookmark: &Bookmark) -> Result<Snapshot> {
        self.core.log.check_usable()?;
        let mut state = self.alive()?;
        let content = self.content_at(&state, bookmark)?;
        state.pin(&content);
        drop(state);
        Ok(Snapshot::new(Arc::clone(self), content))
    }

    /// Holds all versions of the facet as they are: nothing is committed or let go meanwhile.
    pub(crate) fn hold(&self) -> Result<HeldFacet<'_>> {
        Ok(HeldFacet { facet: self, state: self.alive()? })
    }

    /// LSN of the commit of a version that is kept.
    pub(crate) fn lsn_of(&self, bookmark: &Bookmark) -> Result<Lsn> {
        let state = self.alive()?;
        self.meta_at(&state, bookmark).map(|meta| meta.lsn)
    }

    fn meta_at<'a>(&self, state: &'a State, bookmark: &Bookmark) -> Result<&'a VersionMeta> {
        newest_first(state)
            .find(|meta| self.bookmark_of(meta) == *bookmark)
            .ok_or_else(|| self.unknown(state, bookmark.to_string()))
    }

    /// Fails if a version is not kept any more.
    pub(super) fn check_kept(&self, state: &State, bookmark: &Bookmark) -> Result<()> {
        self.meta_at(state, bookmark).map(drop)
    }

    fn content_at(&self, state: &State, bookmark: &Bookmark) -> Result<Content> {
        let meta = *self.meta_at(state, bookmark)?;
        if meta.version == state.durable.meta.version {
            return Ok(state.durable.clone());
        }
        Ok(Content { meta, map: state.history.map_at(&state.durable.map, meta.version) })
    }

    fn unknown(&self, state: &State, bookmark: String) -> Error {
        let newest = &state.durable.meta;
        Error::BookmarkUnknown {
            facet: state.name.to_string(),
            bookmark,
            oldest: self.bookmark_of(state.history.oldest().unwrap_or(newest)),
            newest: self.bookmark_of(newest),
        }
    }
}

/// See [`Facet::hold`].
pub(crate) struct HeldFacet<'a> {
    facet: &'a Facet,
    state: MutexGuard<'a, State>,
}

impl HeldFacet<'_> {
    pub(crate) fn latest(&self) -> Content {
        self.state.latest.clone()
    }

    /// The durable version, if it is not the latest.
    pub(crate) fn durable_if_older(&self) -> Option<Content> {
        let State { durable, latest, .. } = &*self.state;
        (durable.meta.version != latest.meta.version).then(|| durable.clone())
    }

    pub(crate) fn content_at(&self, bookmark: &Bookmark) -> Result<Content> {
        self.facet.content_at(&self.state, bookmark)
    }

    /// The newest version that was committed at or before `lsn`, if it is kept.
    pub(crate) fn content_as_of(&self, lsn: Lsn) -> Option<Content> {
        let meta = *newest_first(&self.state).find(|meta| meta.lsn <= lsn)?;
        self.content_at(&self.facet.bookmark_of(&meta)).ok()
    }

    /// Where `content` differs from the latest version.
    pub(crate) fn differing(&self, content: &Option<Content>) -> Vec<(PageNo, Settled)> {
        let Some(content) = content else { return Vec::new() };
        let nothing = PageMap::default();
        // Pages of another size have nothing in common.
        let is_same_size = self.state.latest.meta.page_size == content.meta.page_size;
        let from = if is_same_size { &self.state.latest.map } else { &nothing };
        differing_pages(from, &content.map, content.meta.page_count)
    }
}

fn newest_first(state: &State) -> impl Iterator<Item = &VersionMeta> {
    let older = state.history.versions().rev().map(|edit| &edit.meta);
    std::iter::once(&state.durable.meta).chain(older)
}
