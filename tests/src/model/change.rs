//! What can happen to a store, and what it does to the model.

use std::sync::Arc;

use lapidary_engine::{Bookmark, FacetId, FacetName, Incarnation, Retention};

use super::Catalog;
use super::facet::{FacetState, VersionState};
use super::settings::Settings;
use crate::content::Content;

/// A facet that came of a fork.
#[derive(Clone, Debug)]
pub struct Forked {
    /// Its name.
    pub name: FacetName,
    /// Its identity; unknown if the answer never came.
    pub id: Option<FacetId>,
    /// What it begins with.
    pub begins: VersionState,
}

/// Something that happened to the store.
#[derive(Clone, Debug)]
pub enum Change {
    /// A facet was created. The name of its first version is unknown if the answer never came.
    Create(FacetName, Option<Bookmark>),
    /// A facet and everything below it was deleted.
    Delete(FacetName),
    /// A facet and everything below it was renamed.
    Rename(FacetName, FacetName),
    /// Versions were committed as one transaction, each of another facet, in this opening of the
    /// store if that is known.
    Commit(Vec<(FacetName, Arc<Content>, Option<Incarnation>)>),
    /// Facets were forked, all at once.
    Fork(Vec<Forked>),
    /// A quota was set or lifted.
    Quota(FacetName, Option<u64>),
    /// A retention was set or lifted.
    Retention(FacetName, Option<Retention>),
}

/// Everything in a store at a moment.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// The facets.
    pub facets: Catalog,
    /// Quotas and retentions.
    pub settings: Settings,
    /// Changes that led to it.
    pub number: u64,
}

impl Picture {
    /// The facet of that identity.
    #[must_use]
    pub fn by_id(&self, id: FacetId) -> Option<&FacetState> {
        self.facets.values().find(|facet| facet.id == id)
    }

    fn insert(&mut self, name: &FacetName, id: Option<FacetId>, begins: VersionState) {
        let regime = self.settings.regime(name);
        let state = FacetState::new(id.unwrap_or_default(), begins, regime);
        let previous = self.facets.insert(name.clone(), state);
        assert!(previous.is_none(), "the model created {name} twice");
    }
}

impl Change {
    /// Identities that facets got by it.
    pub(super) fn ids(&self) -> Vec<FacetId> {
        match self {
            Self::Create(_, first) => first.iter().map(|first| first.facet).collect(),
            Self::Fork(forked) => forked.iter().filter_map(|forked| forked.id).collect(),
            _ => Vec::new(),
        }
    }

    pub(super) fn apply(&self, picture: &mut Picture) {
        picture.number += 1;
        let number = picture.number;
        match self {
            Self::Create(name, first) => {
                let incarnation = first.map(|first| first.incarnation);
                let begins = VersionState { incarnation, ..VersionState::empty(number) };
                picture.insert(name, first.map(|first| first.facet), begins);
            }
            Self::Fork(forked) => {
                for Forked { name, id, begins } in forked {
                    picture.insert(name, *id, VersionState { number, ..begins.clone() });
                }
            }
            Self::Delete(name) => {
                picture.facets.retain(|other, _| !other.is_within(name));
                picture.settings.remove_within(name);
            }
            Self::Rename(from, to) => {
                let moved: Vec<FacetName> =
                    picture.facets.keys().filter(|name| name.is_within(from)).cloned().collect();
                for old in moved {
                    let new = old.moved(from, to).expect("the model's names are short");
                    let state = picture.facets.remove(&old).expect("it was just listed");
                    let previous = picture.facets.insert(new.expect("it is within"), state);
                    assert!(previous.is_none(), "the model renamed {from} over {to}");
                }
                picture.settings.rename(from, to);
            }
            Self::Commit(commits) => {
                for (name, content, incarnation) in commits {
                    let facet =
                        picture.facets.get_mut(name).expect("the model commits to what exists");
                    facet.commit(VersionState {
                        version: facet.version.next(),
                        incarnation: *incarnation,
                        content: Arc::clone(content),
                        number,
                    });
                }
            }
            Self::Quota(name, bytes) => {
                picture.settings.named.insert(name.clone());
                match bytes {
                    Some(bytes) => picture.settings.quotas.insert(name.clone(), *bytes),
                    None => picture.settings.quotas.remove(name),
                };
            }
            Self::Retention(name, retention) => {
                picture.settings.named.insert(name.clone());
                match retention {
                    Some(retention) => picture.settings.retentions.insert(name.clone(), *retention),
                    None => picture.settings.retentions.remove(name),
                };
            }
        }
        if let Self::Delete(_) | Self::Rename(..) | Self::Retention(..) = self {
            for (name, facet) in &mut picture.facets {
                facet.set_regime(picture.settings.regime(name));
            }
        }
    }

    pub(super) fn summary(&self) -> String {
        match self {
            Self::Create(name, _) => format!("create {name}"),
            Self::Delete(name) => format!("delete {name}"),
            Self::Rename(from, to) => format!("rename {from} to {to}"),
            Self::Commit(commits) => {
                let summary = |(name, content, _): &(FacetName, Arc<Content>, _)| {
                    format!("{} pages to {name}", content.page_count())
                };
                let commits: Vec<String> = commits.iter().map(summary).collect();
                format!("commit {}", commits.join(", "))
            }
            Self::Fork(forked) => {
                let names: Vec<&str> = forked.iter().map(|forked| forked.name.as_str()).collect();
                format!("fork to {}", names.join(", "))
            }
            Self::Quota(name, bytes) => format!("quota of {name}: {bytes:?}"),
            Self::Retention(name, retention) => format!("retention of {name}: {retention:?}"),
        }
    }
}
