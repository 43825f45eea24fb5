//! Quotas and retentions as the model has them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lapidary_engine::{FacetName, Retention, Store, Tunables};

use super::Catalog;
use crate::failure::{Failure, wrong};

/// A retention under which nothing ever leaves in a test: the model need not guess when history is
/// trimmed.
pub const GENEROUS: Retention =
    Retention { bytes: 1 << 50, age: Duration::from_secs(50 * 365 * 24 * 3600) };

/// What the model knows of the past of a facet under some retention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Regime {
    /// Nothing is kept.
    #[default]
    Off,
    /// Something may be.
    Some,
    /// Everything is.
    All,
}

impl Regime {
    /// What `retention` means in a store whose history is bounded as a whole, or not.
    #[must_use]
    pub fn of(retention: Retention, is_bounded: bool) -> Self {
        match (retention.is_on(), retention == GENEROUS && !is_bounded) {
            (false, _) => Self::Off,
            (true, false) => Self::Some,
            (true, true) => Self::All,
        }
    }
}

/// What was set on names, and what goes where nothing was.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Bytes by name.
    pub quotas: BTreeMap<FacetName, u64>,
    /// Retention by name.
    pub retentions: BTreeMap<FacetName, Retention>,
    /// Names that anything was ever set on.
    pub(super) named: BTreeSet<FacetName>,
    default: Regime,
    is_bounded: bool,
}

impl Settings {
    /// Those of a store that is always opened with `tunables`.
    #[must_use]
    pub fn of(tunables: &Tunables) -> Self {
        let is_bounded = tunables.history_bytes_max != u64::MAX;
        let default = Regime::of(tunables.retention, is_bounded);
        Self { default, is_bounded, ..Self::default() }
    }

    /// What goes for the facet of that name.
    #[must_use]
    pub fn regime(&self, name: &FacetName) -> Regime {
        let set = self.retentions.iter().filter(|(above, _)| name.is_within(above));
        // Of names above each other, the longest is the nearest.
        let nearest = set.max_by_key(|(above, _)| above.as_str().len());
        nearest.map_or(self.default, |(_, retention)| Regime::of(*retention, self.is_bounded))
    }

    /// A quota, if there is one, that stands against so many more bytes in facets of these names; but
    /// none that counts them already.
    #[must_use]
    pub fn in_the_way(
        &self,
        facets: &Catalog,
        more: &[(FacetName, usize)],
        counts_already: impl Fn(&FacetName) -> bool,
    ) -> Option<FacetName> {
        let is_full = |(quota, limit): &(&FacetName, &u64)| {
            let within = more.iter().filter(|(name, _)| name.is_within(quota));
            let more: usize = within.map(|(_, bytes)| bytes).sum();
            let bytes = used_bytes(facets, quota) + more;
            more > 0 && !counts_already(quota) && bytes as u64 > **limit
        };
        self.quotas.iter().find(is_full).map(|(quota, _)| quota.clone())
    }

    pub(super) fn remove_within(&mut self, root: &FacetName) {
        self.quotas.retain(|name, _| !name.is_within(root));
        self.retentions.retain(|name, _| !name.is_within(root));
    }

    pub(super) fn rename(&mut self, from: &FacetName, to: &FacetName) {
        moved(&mut self.quotas, from, to);
        moved(&mut self.retentions, from, to);
        self.named.extend(self.quotas.keys().chain(self.retentions.keys()).cloned());
    }

    /// Compares with what `store` says of each of `names`, which are those that something may be set
    /// on.
    ///
    /// # Errors
    /// What differs.
    pub fn compare<'a>(
        &'a self,
        facets: &'a Catalog,
        names: impl Iterator<Item = &'a FacetName>,
        store: &Store,
    ) -> Result<(), Failure> {
        for name in names {
            let quota = store.quota(name);
            let found = quota.map(|quota| (quota.limit_bytes, quota.used_bytes));
            let wanted =
                self.quotas.get(name).map(|&limit| (limit, used_bytes(facets, name) as u64));
            if found != wanted {
                return wrong(format!(
                    "the quota of {name} and its use are {found:?} where they should be {wanted:?}"
                ));
            }
            let (found, wanted) = (store.retention(name), self.retentions.get(name).copied());
            if found != wanted {
                return wrong(format!(
                    "the retention of {name} is {found:?} where it should be {wanted:?}"
                ));
            }
        }
        Ok(())
    }
}

fn moved<T>(map: &mut BTreeMap<FacetName, T>, from: &FacetName, to: &FacetName) {
    let old: Vec<FacetName> = map.keys().filter(|name| name.is_within(from)).cloned().collect();
    for name in old {
        if let Some(value) = map.remove(&name)
            && let Ok(Some(name)) = name.moved(from, to)
        {
            map.insert(name, value);
        }
    }
}

/// Bytes of pages that the facets of a subtree have together.
#[must_use]
pub fn used_bytes(facets: &Catalog, root: &FacetName) -> usize {
    let within = facets.iter().filter(|(name, _)| name.is_within(root));
    within.map(|(_, facet)| facet.content.size_bytes()).sum()
}
