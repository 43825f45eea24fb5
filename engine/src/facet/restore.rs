//! Making a version of the past the newest one.

use std::sync::Arc;

use super::{Facet, Snapshot};
use crate::bookmark::Bookmark;
use crate::error::Result;
use crate::types::{Ticket, View};

/// A facet was taken back to a version of the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Names the version it had before: restoring that undoes this.
    pub undo: Bookmark,
    /// Durable when the restore is.
    pub ticket: Ticket,
}

impl Facet {
    /// Commits the content of a version that is kept as the newest version. The versions in between
    /// stay in the history.
    ///
    /// Takes time and log for what was changed since, not for the facet's size.
    ///
    /// # Errors
    /// Nothing is changed: [`Error::BookmarkUnknown`](crate::Error::BookmarkUnknown) if the version
    /// is not kept; [`Error::WriterBusy`](crate::Error::WriterBusy) while there is a writer; as
    /// [`Writer::commit`](crate::Writer::commit).
    pub fn restore(self: &Arc<Self>, bookmark: &Bookmark) -> Result<Restored> {
        let old: Snapshot = self.snapshot_at(bookmark)?;
        let base = self.snapshot(View::Latest)?;
        let undo = base.bookmark();
        let mut writer = self.begin_write(&base)?;
        let ticket = writer.commit_version(&old)?;
        Ok(Restored { undo, ticket })
    }
}
