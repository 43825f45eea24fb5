//! The names of a store, as a tree kept in order.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::facet::Facet;
use crate::name::FacetName;
use crate::types::FacetId;

/// Facets by name and by id. Each facet is in both.
#[derive(Debug)]
pub(crate) struct Catalog {
    by_name: BTreeMap<FacetName, Arc<Facet>>,
    by_id: BTreeMap<FacetId, Arc<Facet>>,
    next: FacetId,
}

impl Catalog {
    pub(crate) fn new(next: FacetId) -> Self {
        Self { by_name: BTreeMap::new(), by_id: BTreeMap::new(), next }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Id that the next facet gets.
    pub(crate) fn next(&self) -> FacetId {
        self.next
    }

    pub(crate) fn get(&self, name: &FacetName) -> Option<&Arc<Facet>> {
        self.by_name.get(name)
    }

    pub(crate) fn by_id(&self, id: FacetId) -> Option<&Arc<Facet>> {
        self.by_id.get(&id)
    }

    /// Facets with ids in `ids`, in order of id.
    pub(crate) fn by_ids(
        &self,
        ids: std::ops::Range<FacetId>,
    ) -> impl Iterator<Item = &Arc<Facet>> {
        self.by_id.range(ids).map(|(_, facet)| facet)
    }

    pub(crate) fn facets(&self) -> impl Iterator<Item = &Arc<Facet>> {
        self.by_id.values()
    }

    /// Puts a facet in; `false` if its name or id is taken.
    pub(crate) fn insert(&mut self, name: FacetName, facet: Arc<Facet>) -> bool {
        if self.by_name.contains_key(&name) || self.by_id.contains_key(&facet.id()) {
            return false;
        }
        self.next = self.next.max(FacetId(facet.id().0 + 1));
        self.by_id.insert(facet.id(), Arc::clone(&facet));
        self.by_name.insert(name, facet);
        true
    }

    /// The facet of that name and those below it, in order of name.
    pub(crate) fn subtree(
        &self,
        root: &FacetName,
    ) -> impl Iterator<Item = (&FacetName, &Arc<Facet>)> {
        // What is below "a" is together, from "a/" on; but "a-b" comes between "a" and "a/b".
        let below = format!("{root}/");
        let from = (Bound::Included(below.as_str()), Bound::Unbounded);
        let below_root =
            self.by_name.range::<str, _>(from).take_while(move |(name, _)| name.is_within(root));
        self.by_name.get_key_value(root).into_iter().chain(below_root.collect::<Vec<_>>())
    }

    /// All facets, in order of name, from `after` (exclusive) on.
    pub(crate) fn after(
        &self,
        after: Option<&FacetName>,
    ) -> impl Iterator<Item = (&FacetName, &Arc<Facet>)> {
        let from = after.map_or(Bound::Unbounded, |name| Bound::Excluded(name.as_str()));
        self.by_name.range::<str, _>((from, Bound::Unbounded))
    }

    /// Takes a subtree out.
    pub(crate) fn remove_subtree(&mut self, root: &FacetName) -> Vec<Arc<Facet>> {
        let names: Vec<FacetName> = self.subtree(root).map(|(name, _)| name.clone()).collect();
        names
            .iter()
            .filter_map(|name| self.by_name.remove(name))
            .inspect(|facet| {
                self.by_id.remove(&facet.id());
            })
            .collect()
    }

    /// The names that a rename of a subtree would give.
    pub(crate) fn plan_rename(
        &self,
        from: &FacetName,
        to: &FacetName,
    ) -> Result<Vec<(FacetName, FacetName)>> {
        if to.is_within(from) {
            return Err(Error::InvalidInput(format!(
                "facet {from}: cannot be renamed to {to}, which is itself or below it"
            )));
        }
        let mut moves = Vec::new();
        for (name, _) in self.subtree(from) {
            let new = name.moved(from, to)?.expect("a subtree is within its root");
            if self.by_name.contains_key(&new) {
                return Err(Error::FacetExists { name: new.to_string() });
            }
            moves.push((name.clone(), new));
        }
        if moves.is_empty() {
            return Err(Error::FacetNotFound { name: from.to_string() });
        }
        Ok(moves)
    }

    /// Carries out what [`plan_rename`](Self::plan_rename) gave; returns the facets concerned.
    pub(crate) fn rename(&mut self, moves: Vec<(FacetName, FacetName)>) -> Vec<Arc<Facet>> {
        let mut renamed = Vec::with_capacity(moves.len());
        for (from, to) in moves {
            if let Some(facet) = self.by_name.remove(&from) {
                facet.set_name(to.clone());
                renamed.push(Arc::clone(&facet));
                self.by_name.insert(to, facet);
            }
        }
        renamed
    }
}
