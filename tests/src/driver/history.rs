//! Versions of the past: snapshots that are held, bookmarks that are opened and restored.

use std::sync::Arc;

use lapidary_engine::{Bookmark, Error, ErrorKind, FacetId, FacetName, Snapshot, Version, View};

use super::{Called, Driver, Progress};
use crate::content::Content;
use crate::failure::{Failure, wrong};
use crate::model::{Change, FacetState, Kept, VersionState, open_version};

const HELD_SNAPSHOTS_MAX: usize = 4;

/// A snapshot and what it must go on showing.
pub(super) struct Held {
    snapshot: Snapshot,
    content: Arc<Content>,
    from: String,
}

impl Driver {
    pub(super) fn hold(&mut self) -> Result<Progress, Failure> {
        let Some(name) = self.any_facet() else { return Ok(Progress::Going) };
        let facet = self.handle(&name)?;
        self.model.acknowledge(self.store.durable_lsn());
        let state = &self.model.latest()[&name];
        let (view, content) = if self.chance.one_in(2) {
            (View::Latest, Arc::clone(&state.content))
        } else {
            let durable = self.model.durable_of(state.id);
            (View::Durable, durable.map(|durable| Arc::clone(&durable.content)).unwrap_or_default())
        };
        let snapshot = facet.snapshot(view)?;
        let from = format!("{name}@{} ({view:?})", snapshot.version());
        self.hold_snapshot(snapshot, content, from)?;
        Ok(Progress::Going)
    }

    fn hold_snapshot(
        &mut self,
        snapshot: Snapshot,
        content: Arc<Content>,
        from: String,
    ) -> Result<(), Failure> {
        self.note(format!("hold {from}"));
        content.compare_snapshot(&snapshot).map_err(|difference| difference.within(&from))?;
        if self.held.len() == HELD_SNAPSHOTS_MAX {
            let index = self.chance.index(HELD_SNAPSHOTS_MAX);
            self.held.swap_remove(index);
        }
        self.held.push(Held { snapshot, content, from });
        Ok(())
    }

    /// Held snapshots show what they showed, whatever happened since.
    ///
    /// # Errors
    /// What a snapshot shows else.
    pub fn check_held(&mut self) -> Result<Progress, Failure> {
        for held in &self.held {
            held.content
                .compare_snapshot(&held.snapshot)
                .map_err(|difference| difference.within(format!("held snapshot {}", held.from)))?;
        }
        Ok(Progress::Going)
    }

    /// Some bookmark that was once handed out: mostly of that facet, kept, lost or not yet durable.
    pub(super) fn any_bookmark(&mut self, of: FacetId) -> Option<Bookmark> {
        let foreign = self.chance.one_in(12);
        let known: Vec<Bookmark> = {
            let facets = self.model.latest().values();
            let wanted = facets.filter(|facet| foreign || facet.id == of);
            let lost = self.model.lost().copied().filter(|bookmark| bookmark.facet == of);
            wanted.flat_map(FacetState::bookmarks).chain(lost).collect()
        };
        if known.is_empty() { None } else { Some(self.chance.pick(&known)) }
    }

    /// What a bookmark must come to when it is used on the facet `of`.
    pub(super) fn expected(&mut self, of: FacetId, bookmark: &Bookmark) -> (VersionState, Kept) {
        self.model.acknowledge(self.store.durable_lsn());
        if self.model.durable_of(of).is_none() {
            // Until a facet is durable it shows an empty version, which only it has.
            let is_it = bookmark.facet == of && bookmark.version == Version(0);
            let kept = if is_it { Kept::Maybe } else { Kept::Gone };
            return (VersionState::empty(0), kept);
        }
        let found = self.model.find(bookmark).filter(|_| bookmark.facet == of);
        match found {
            Some((version, kept)) => (version.clone(), kept),
            None => (VersionState::empty(0), Kept::Gone),
        }
    }

    /// The list of versions, and one of them, opened and perhaps held.
    pub(super) fn check_history(&mut self) -> Result<Progress, Failure> {
        let Some(name) = self.any_facet() else { return Ok(Progress::Going) };
        let facet = self.handle(&name)?;
        self.model.acknowledge(self.store.durable_lsn());
        self.model.check_past(&name, &facet)?;
        let Some(bookmark) = self.any_bookmark(facet.id()) else { return Ok(Progress::Going) };
        let (version, kept) = self.expected(facet.id(), &bookmark);
        self.note(format!("look at {name} at {bookmark} ({kept:?})"));
        let opened = open_version(&facet, &bookmark, &version, kept, true)
            .map_err(|difference| difference.within(format!("{name} at {bookmark}")))?;
        if let Some(snapshot) = opened
            && self.chance.one_in(2)
        {
            self.hold_snapshot(snapshot, version.content, format!("{name} at {bookmark}"))?;
        }
        Ok(Progress::Going)
    }

    /// Takes a facet back to some version, and perhaps forward again.
    pub(super) fn restore(&mut self) -> Result<Progress, Failure> {
        let Some(name) = self.any_facet() else { return Ok(Progress::Going) };
        let id = self.model.latest()[&name].id;
        let Some(bookmark) = self.any_bookmark(id) else { return Ok(Progress::Going) };
        let before = self.model.latest()[&name].newest.clone();
        let (progress, undo) = self.restore_to(&name, &bookmark)?;
        let Some(undo) = undo.filter(|_| self.chance.one_in(2)) else { return Ok(progress) };
        // What was the newest can be gone back to once it is durable.
        if self.chance.one_in(2) && self.flush()? == Progress::Stopped {
            return Ok(Progress::Stopped);
        }
        let (progress, undone) = self.restore_to(&name, &undo)?;
        if undone.is_some() {
            let now = &self.model.latest()[&name].content;
            if now.pages != before.content.pages {
                return wrong(format!("{undo} did not undo the restore of {name}"));
            }
        }
        Ok(progress)
    }

    /// Restores, and says how to undo it if that was done.
    fn restore_to(
        &mut self,
        name: &FacetName,
        bookmark: &Bookmark,
    ) -> Result<(Progress, Option<Bookmark>), Failure> {
        let facet = self.handle(name)?;
        let (version, kept) = self.expected(facet.id(), bookmark);
        self.note(format!("restore {name} to {bookmark} ({kept:?})"));
        let base = facet.snapshot(View::Latest)?;
        let result = facet.restore(bookmark);
        // What the call made durable may have pushed the version out of the history.
        let kept = match (kept, self.expected(facet.id(), bookmark).1) {
            (Kept::Gone, _) | (_, Kept::Gone) => Kept::Gone,
            (before, after) => before.and(after),
        };
        if let Some(quota) = self.quota_against(name, &version.content)
            && kept == Kept::Surely
        {
            return Ok((self.expect_quota(&quota, result)?, None));
        }
        match (&result, kept) {
            (Err(Error::BookmarkUnknown { .. }), Kept::Maybe)
            | (Err(Error::QuotaExceeded { .. }), Kept::Maybe) => {
                return Ok((Progress::Going, None));
            }
            (_, Kept::Gone) => {
                let what = "restoring what is not kept";
                return Ok((self.expect_kind(what, ErrorKind::NotFound, result)?, None));
            }
            _ => {}
        }
        let called = self.called(result)?;
        let progress = self.changed(&called, |done| {
            let incarnation = done.and_then(|_| facet.snapshot(View::Latest).ok());
            let incarnation = incarnation.map(|snapshot| snapshot.bookmark().incarnation);
            Change::Commit(vec![(name.clone(), Arc::clone(&version.content), incarnation)])
        });
        let Called::Done(restored) = called else { return Ok((progress, None)) };
        if restored.undo != base.bookmark() {
            return wrong(format!("{} undoes a restore of {}", restored.undo, base.bookmark()));
        }
        let snapshot = facet.snapshot(View::Latest)?;
        if snapshot.version() != self.model.latest()[name].version {
            return wrong(format!("a restore led to version {}", snapshot.version()));
        }
        version
            .content
            .compare_snapshot(&snapshot)
            .map_err(|difference| difference.within(format!("{name}, restored to {bookmark}")))?;
        Ok((progress, Some(restored.undo)))
    }
}
