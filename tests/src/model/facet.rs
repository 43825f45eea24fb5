//! A facet as the model knows it, with its past.

use std::sync::Arc;

use lapidary_engine::{Bookmark, FacetId, Incarnation, Version};

use super::settings::Regime;
use crate::content::Content;

/// Whether a version of the past is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It must open.
    Surely,
    /// It may; if it does, it must be what it was.
    Maybe,
    /// It must not open.
    Gone,
}

impl Kept {
    /// What is sure when one thing is true of what is durable, another of what is not yet.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        if self == other { self } else { Self::Maybe }
    }
}

/// A version of a facet.
#[derive(Clone, Debug)]
pub struct VersionState {
    /// Its number.
    pub version: Version,
    /// The opening of the store that it is from; unknown if the answer to its commit never came.
    pub incarnation: Option<Incarnation>,
    /// What it holds.
    pub content: Arc<Content>,
    /// Its place in the order of all changes.
    pub number: u64,
}

impl VersionState {
    /// The empty version that a facet is created with.
    #[must_use]
    pub fn empty(number: u64) -> Self {
        Self { version: Version(0), incarnation: None, content: Arc::default(), number }
    }

    /// Its name, if the model knows it.
    #[must_use]
    pub fn bookmark(&self, facet: FacetId) -> Option<Bookmark> {
        let incarnation = self.incarnation.filter(|_| facet != FacetId(0))?;
        Some(Bookmark { incarnation, version: self.version, facet })
    }
}

/// A facet and its past.
#[derive(Clone, Debug)]
pub struct FacetState {
    /// Its identity; 0 if the answer to its creation never came.
    pub id: FacetId,
    /// The newest version.
    pub newest: VersionState,
    /// Versions before it, oldest first. None of another facet that it was forked from.
    pub past: Vec<(VersionState, Kept)>,
    pub(super) regime: Regime,
}

impl std::ops::Deref for FacetState {
    type Target = VersionState;

    fn deref(&self) -> &VersionState {
        &self.newest
    }
}

impl FacetState {
    /// A facet that begins with a version.
    #[must_use]
    pub fn new(id: FacetId, newest: VersionState, regime: Regime) -> Self {
        Self { id, newest, past: Vec::new(), regime }
    }

    /// Names of the versions that the model knows the name of.
    pub fn bookmarks(&self) -> impl Iterator<Item = Bookmark> {
        let past = self.past.iter().map(|(version, _)| version);
        past.chain([&self.newest]).filter_map(|version| version.bookmark(self.id))
    }

    /// A version of that name, and whether it is kept.
    #[must_use]
    pub fn find(&self, bookmark: &Bookmark) -> Option<(&VersionState, Kept)> {
        let is_it = |version: &VersionState| version.bookmark(self.id).as_ref() == Some(bookmark);
        if is_it(&self.newest) {
            return Some((&self.newest, Kept::Surely));
        }
        self.past.iter().find(|(version, _)| is_it(version)).map(|(version, kept)| (version, *kept))
    }

    pub(super) fn commit(&mut self, newest: VersionState) {
        let replaced = std::mem::replace(&mut self.newest, newest);
        let kept = match self.regime {
            Regime::Off => Kept::Gone,
            Regime::Some => Kept::Maybe,
            Regime::All => Kept::Surely,
        };
        self.past.push((replaced, kept));
        if self.regime == Regime::Off {
            // A commit lets go of what is not to be kept.
            self.past.iter_mut().for_each(|(_, kept)| *kept = Kept::Gone);
        }
    }

    /// Another retention goes for the facet. It holds for what is published from now on, so for
    /// commits that are under way it is open which one they meet.
    pub(super) fn set_regime(&mut self, regime: Regime) {
        if std::mem::replace(&mut self.regime, regime) == regime {
            return;
        }
        for (_, kept) in &mut self.past {
            *kept = match (regime, *kept) {
                (Regime::All, Kept::Surely) => Kept::Surely,
                (Regime::Off, Kept::Gone) => Kept::Gone,
                _ => Kept::Maybe,
            };
        }
    }
}
