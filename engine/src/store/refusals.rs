//! Names that are refused, since what they name is in another store, or on its way there.
//!
//! They are asked for where a name is not found and where a facet would get one, so they cost nothing to
//! who finds a facet. The store does not keep them: who refuses a name says so again after each opening, before
//! anybody else can ask.

use std::collections::BTreeMap;

use super::Store;
use crate::error::{Error, Result};
use crate::name::FacetName;

/// Why a name and all below it are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Where it goes or went, as its mover says.
    pub destination: String,
    /// Whether it has gone there, for good.
    pub is_gone: bool,
    /// What may be renamed to a refused name nevertheless.
    pub admits: Option<FacetName>,
}

#[derive(Debug, Default)]
pub(super) struct Refusals(BTreeMap<FacetName, Refusal>);

impl Refusals {
    /// Refuses `name`, for what is not at `admits` now.
    pub(super) fn check(&self, name: &FacetName, from: Option<&FacetName>) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let found = name.and_above().find_map(|above| self.0.get(above));
        match found {
            Some(refusal) if refusal.admits.is_none() || refusal.admits.as_ref() != from => {
                Err(Error::FacetMoved {
                    name: name.to_string(),
                    destination: refusal.destination.clone(),
                    is_gone: refusal.is_gone,
                })
            }
            _ => Ok(()),
        }
    }
}

impl Store {
    /// Refuses the name, and all below it, to whoever opens a facet that is not there, creates one, renames to it or
    /// forks to it, until this is called with `None`, or the store is closed. A facet that has such a name
    /// is served as before. Nothing of it is written.
    pub fn refuse_name(&self, name: &FacetName, refusal: Option<Refusal>) {
        let refusals = &mut self.shared.catalog_mut().refusals.0;
        match refusal {
            Some(refusal) => drop(refusals.insert(name.clone(), refusal)),
            None => drop(refusals.remove(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Environment, ForkFrom, MemoryIo, StoreOptions};

    #[test]
    fn a_refused_name_comes_into_being_in_no_way() {
        let environment = Environment::with_io(Arc::new(MemoryIo::new()));
        let store = Store::open(environment, StoreOptions::create()).unwrap();
        let name = |text: &str| FacetName::new(text).unwrap();
        store.create_facet(&name("a")).unwrap();
        store.create_facet(&name("hidden/x")).unwrap();
        let refusal = Refusal {
            destination: "elsewhere".to_owned(),
            is_gone: false,
            admits: Some(name("hidden")),
        };
        store.refuse_name(&name("gone"), Some(refusal));
        let moved = |error: Error| assert!(matches!(error, Error::FacetMoved { .. }), "{error}");
        for refused in ["gone", "gone/x", "gone/x/y"].map(name) {
            moved(store.open_facet(&refused).unwrap_err());
            moved(store.create_facet(&refused).unwrap_err());
            moved(store.open_or_create_facet(&refused).unwrap_err());
            moved(store.rename_facet(&name("a"), &refused).unwrap_err());
            moved(store.fork_facet(&name("a"), &refused, ForkFrom::Latest).unwrap_err());
            moved(store.fork_subtree(&name("a"), &refused, ForkFrom::Latest).unwrap_err());
        }
        store.create_facet(&name("gone-not")).unwrap();
        store.rename_facet(&name("hidden"), &name("gone")).unwrap();
        store.open_facet(&name("gone/x")).unwrap();
        store.refuse_name(&name("gone"), None);
        store.create_facet(&name("gone")).unwrap();
    }
}
