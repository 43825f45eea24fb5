//! Quotas and retentions, from the outside.

use std::collections::BTreeMap;

use super::Store;
use crate::config::Retention;
use crate::error::Result;
use crate::format::record::{self, CatalogChange};
use crate::log::Effect;
use crate::name::FacetName;
use crate::segments::Purpose;
use crate::types::Ticket;

/// A quota and what of it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuotaInfo {
    /// Bytes of pages that the facets of the subtree may have together.
    pub limit_bytes: u64,
    /// Bytes that their latest versions have.
    pub used_bytes: u64,
}

/// What was set on a name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitsOf {
    /// The name.
    pub name: FacetName,
    /// Its quota, if it has one.
    pub quota_bytes: Option<u64>,
    /// Its retention, if it has one.
    pub retention: Option<Retention>,
}

impl Store {
    /// Limits the bytes of pages that the facet of that name and all below it may have together, or
    /// lifts that limit. There need not be such a facet yet. A facet is under the quotas of its own
    /// name and of all names above it; what a version has in pages counts, whether or not they are
    /// shared with a fork, and history does not.
    ///
    /// A commit that would exceed a quota is refused with
    /// [`Error::QuotaExceeded`](crate::Error::QuotaExceeded) before anything of it is written. A
    /// facet that has more already can still shrink.
    ///
    /// # Errors
    /// [`Error::NoSpace`](crate::Error::NoSpace); [`Error::Poisoned`](crate::Error::Poisoned) or
    /// [`Error::Closed`](crate::Error::Closed).
    pub fn set_quota(&self, name: &FacetName, bytes: Option<u64>) -> Result<Ticket> {
        let change = CatalogChange::Quota { name: name.clone(), bytes };
        self.set(name, &change)
    }

    /// The quota that was set on a name.
    #[must_use]
    pub fn quota(&self, name: &FacetName) -> Option<QuotaInfo> {
        let catalog = self.shared.catalog();
        let quota = catalog.settings.quota(name)?;
        Some(QuotaInfo { limit_bytes: quota.limit_bytes(), used_bytes: quota.used_bytes() })
    }

    /// Says how much history the facet of that name and those below it keep, unless a name further
    /// down says otherwise; `None`: what the name above says, or
    /// [`Tunables::retention`](crate::Tunables::retention). [`Retention::OFF`]: none. History that
    /// is beyond it is let go with the facet's next commit, or by maintenance.
    ///
    /// # Errors
    /// As [`set_quota`](Self::set_quota).
    pub fn set_retention(&self, name: &FacetName, retention: Option<Retention>) -> Result<Ticket> {
        let limits = retention.map(|retention| (retention.bytes, retention.age_ms()));
        let change = CatalogChange::Retention { name: name.clone(), limits };
        self.set(name, &change)
    }

    /// The retention that was set on a name.
    #[must_use]
    pub fn retention(&self, name: &FacetName) -> Option<Retention> {
        self.shared.catalog().settings.retention(name)
    }

    /// The quotas and retentions that were set on the name and on names below it, in order.
    #[must_use]
    pub fn limits_within(&self, root: &FacetName) -> Vec<LimitsOf> {
        let catalog = self.shared.catalog();
        let mut found = BTreeMap::<FacetName, LimitsOf>::new();
        let of =
            |name: &FacetName| LimitsOf { name: name.clone(), quota_bytes: None, retention: None };
        for quota in catalog.settings.quotas().filter(|quota| quota.name.is_within(root)) {
            let limits = found.entry(quota.name.clone()).or_insert_with(|| of(&quota.name));
            limits.quota_bytes = Some(quota.limit_bytes());
        }
        for (name, retention) in catalog.settings.retentions() {
            if name.is_within(root) {
                let limits = found.entry(name.clone()).or_insert_with(|| of(name));
                limits.retention = Some(retention);
            }
        }
        found.into_values().collect()
    }

    fn set(&self, name: &FacetName, change: &CatalogChange) -> Result<Ticket> {
        let shared = &self.shared;
        let core = &shared.core;
        // All settings are written again, and this is one more.
        let bytes = record::CATALOG_BYTES_MAX;
        let admission = core.log.admit(&core.segments, bytes, bytes as u64, Purpose::Commit)?;
        core.segments.add_others(bytes);
        let mut catalog = shared.catalog_mut();
        let is_new = match change {
            CatalogChange::Quota { name, bytes } => catalog.settings.set_quota(name, *bytes),
            other => {
                catalog.settings.replay(other);
                false
            }
        };
        if is_new && let Some(quota) = catalog.settings.quota(name) {
            catalog.count_cold(quota);
        }
        catalog.apply_limits(name, core);
        core.with_changed(|changed| changed.settings = true);
        Ok(shared.append_change(admission, change, Effect::Touch(Vec::new())))
    }
}
