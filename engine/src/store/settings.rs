//! Quotas and retentions, set on names: each goes for the facet of that name and all below it, whether
//! or not there is one already.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::config::{Retention, Tunables};
use crate::error::{Error, Result};
use crate::facet::{Limits, Quota};
use crate::format::catalog::StoredSettings;
use crate::format::record::CatalogChange;
use crate::name::FacetName;

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Settings {
    quotas: BTreeMap<FacetName, Arc<Quota>>,
    retentions: BTreeMap<FacetName, Retention>,
}

impl Settings {
    /// Recovery: what a checkpoint part says.
    pub(crate) fn restore(&mut self, stored: StoredSettings) {
        let quotas = stored.quotas.into_iter();
        let retentions = stored.retentions.into_iter();
        let retention =
            |bytes, age_ms| Retention { bytes, age: std::time::Duration::from_millis(age_ms) };
        self.quotas.extend(quotas.map(|(name, bytes)| (name.clone(), Quota::new(name, bytes))));
        self.retentions
            .extend(retentions.map(|(name, bytes, age_ms)| (name, retention(bytes, age_ms))));
    }

    /// As a checkpoint stores them.
    pub(crate) fn stored(&self) -> StoredSettings {
        let quota = |(name, quota): (&FacetName, &Arc<Quota>)| (name.clone(), quota.limit_bytes());
        let retention = |(name, retention): (&FacetName, &Retention)| {
            (name.clone(), retention.bytes, retention.age_ms())
        };
        StoredSettings {
            quotas: self.quotas.iter().map(quota).collect(),
            retentions: self.retentions.iter().map(retention).collect(),
        }
    }

    pub(crate) fn quota(&self, name: &FacetName) -> Option<&Arc<Quota>> {
        self.quotas.get(name)
    }

    pub(crate) fn quotas(&self) -> impl Iterator<Item = &Arc<Quota>> {
        self.quotas.values()
    }

    pub(crate) fn retention(&self, name: &FacetName) -> Option<Retention> {
        self.retentions.get(name).copied()
    }

    pub(crate) fn retentions(&self) -> impl Iterator<Item = (&FacetName, Retention)> {
        self.retentions.iter().map(|(name, retention)| (name, *retention))
    }

    /// Sets or lifts a quota; says whether it is a new one.
    pub(crate) fn set_quota(&mut self, name: &FacetName, bytes: Option<u64>) -> bool {
        match (self.quotas.get(name), bytes) {
            (Some(quota), Some(bytes)) => {
                quota.set_limit(bytes);
                false
            }
            (None, Some(bytes)) => {
                self.quotas.insert(name.clone(), Quota::new(name.clone(), bytes));
                true
            }
            (_, None) => {
                self.quotas.remove(name);
                false
            }
        }
    }

    /// Sets or lifts a retention.
    pub(crate) fn set_retention(&mut self, name: &FacetName, retention: Option<Retention>) {
        match retention {
            Some(retention) => drop(self.retentions.insert(name.clone(), retention)),
            None => drop(self.retentions.remove(name)),
        }
    }

    /// Recovery: a change found in the log. `false` if it is none of settings.
    pub(crate) fn replay(&mut self, change: &CatalogChange) -> bool {
        match change {
            CatalogChange::Quota { name, bytes } => {
                self.set_quota(name, *bytes);
                true
            }
            CatalogChange::Retention { name, limits } => {
                let retention = limits.map(|(bytes, age_ms)| Retention {
                    bytes,
                    age: std::time::Duration::from_millis(age_ms),
                });
                self.set_retention(name, retention);
                true
            }
            _ => false,
        }
    }

    /// What goes for the facet of that name.
    pub(crate) fn limits_of(&self, name: &FacetName, tunables: &Tunables) -> Limits {
        if self.quotas.is_empty() && self.retentions.is_empty() {
            return Limits { quotas: Vec::new(), retention: tunables.retention };
        }
        let ancestors = || name.and_above();
        let quotas = ancestors().filter_map(|name| self.quotas.get(name).cloned()).collect();
        let retention = ancestors().find_map(|name| self.retentions.get(name).copied());
        Limits { quotas, retention: retention.unwrap_or(tunables.retention) }
    }

    /// Whether facets of these names may come, each with so many bytes. What comes from below `from`
    /// is counted already where both are.
    pub(crate) fn check_room<'a>(
        &self,
        arrivals: impl Iterator<Item = (&'a FacetName, u64)>,
        from: Option<&FacetName>,
    ) -> Result<()> {
        if self.quotas.is_empty() {
            return Ok(());
        }
        let mut more: BTreeMap<&FacetName, (&Quota, u64)> = BTreeMap::new();
        for (name, bytes) in arrivals {
            for quota in name.and_above().filter_map(|above| self.quotas.get(above)) {
                more.entry(&quota.name).or_insert((quota, 0)).1 += bytes;
            }
        }
        for (name, (quota, needed_bytes)) in more {
            let is_counted = from.is_some_and(|from| from.is_within(name));
            let (used_bytes, limit_bytes) = (quota.used_bytes(), quota.limit_bytes());
            // What needs nothing is let in, as commits that do not grow are.
            if needed_bytes > 0
                && !is_counted
                && used_bytes.saturating_add(needed_bytes) > limit_bytes
            {
                let name = name.to_string();
                return Err(Error::QuotaExceeded { name, limit_bytes, used_bytes, needed_bytes });
            }
        }
        Ok(())
    }

    /// Forgets what was set within a subtree; says whether there was anything.
    pub(crate) fn remove_subtree(&mut self, root: &FacetName) -> bool {
        let quotas = take_subtree(&mut self.quotas, root);
        let retentions = take_subtree(&mut self.retentions, root);
        !quotas.is_empty() || !retentions.is_empty()
    }

    /// Moves what was set within a subtree; says whether there was anything, and which quotas have
    /// to count anew. What would get a name that breaks a rule is of no facet, and is forgotten.
    pub(crate) fn rename(&mut self, from: &FacetName, to: &FacetName) -> (bool, Vec<Arc<Quota>>) {
        let quotas = take_subtree(&mut self.quotas, from);
        let retentions = take_subtree(&mut self.retentions, from);
        let any = !quotas.is_empty() || !retentions.is_empty();
        let moved = |name: &FacetName| name.moved(from, to).ok().flatten();
        let mut new = Vec::new();
        for (name, quota) in quotas {
            if let Some(name) = moved(&name) {
                let quota = Quota::new(name.clone(), quota.limit_bytes());
                new.push(Arc::clone(&quota));
                self.quotas.insert(name, quota);
            }
        }
        for (name, retention) in retentions {
            if let Some(name) = moved(&name) {
                self.retentions.insert(name, retention);
            }
        }
        (any, new)
    }
}

fn take_subtree<T>(map: &mut BTreeMap<FacetName, T>, root: &FacetName) -> Vec<(FacetName, T)> {
    let below = format!("{root}/");
    let from = (Bound::Included(below.as_str()), Bound::Unbounded);
    let below = map.range::<str, _>(from).map(|(name, _)| name);
    let mut names: Vec<FacetName> =
        below.take_while(|name| name.is_within(root)).cloned().collect();
    names.push(root.clone());
    names.into_iter().filter_map(|name| map.remove_entry(&name)).collect()
}
