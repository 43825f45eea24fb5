//! What a facet may use, and how much of its past it keeps.

use std::sync::Arc;

use crate::config::Retention;
use crate::error::{Error, Result};
use crate::name::FacetName;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Bytes of pages that all facets of a subtree may have together.
#[derive(Debug)]
pub(crate) struct Quota {
    pub(crate) name: FacetName,
    limit_bytes: AtomicU64,
    used_bytes: AtomicU64,
}

impl Quota {
    pub(crate) fn new(name: FacetName, limit_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            name,
            limit_bytes: AtomicU64::new(limit_bytes),
            used_bytes: AtomicU64::new(0),
        })
    }

    pub(crate) fn limit_bytes(&self) -> u64 {
        self.limit_bytes.load(Ordering::Acquire)
    }

    pub(crate) fn set_limit(&self, bytes: u64) {
        self.limit_bytes.store(bytes, Ordering::Release);
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Acquire)
    }

    /// Counts bytes that are there, whatever the limit.
    pub(crate) fn add(&self, bytes: u64) {
        self.used_bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Recovery: starts to count anew.
    pub(crate) fn reset(&self) {
        self.used_bytes.store(0, Ordering::Release);
    }

    pub(crate) fn sub(&self, bytes: u64) {
        self.used_bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Counts more bytes, unless they are too many.
    fn try_add(&self, bytes: u64) -> Result<()> {
        let added = self.used_bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
            used.checked_add(bytes).filter(|&used| bytes == 0 || used <= self.limit_bytes())
        });
        added.map(drop).map_err(|used_bytes| Error::QuotaExceeded {
            name: self.name.to_string(),
            limit_bytes: self.limit_bytes(),
            used_bytes,
            needed_bytes: bytes,
        })
    }
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Of the facet's name and all above it.
    pub(crate) quotas: Vec<Arc<Quota>>,
    pub(crate) retention: Retention,
}

impl Limits {
    /// The facet, which has `from` bytes, is to have `to`.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`]; nothing is counted then.
    pub(crate) fn change(&self, from: u64, to: u64) -> Result<()> {
        if let Some(more) = to.checked_sub(from) {
            for (at, quota) in self.quotas.iter().enumerate() {
                if let Err(error) = quota.try_add(more) {
                    self.quotas[..at].iter().for_each(|quota| quota.sub(more));
                    return Err(error);
                }
            }
        } else {
            self.quotas.iter().for_each(|quota| quota.sub(from - to));
        }
        Ok(())
    }

    /// Undoes a [`change`](Self::change) that was made.
    pub(crate) fn take_back(&self, from: u64, to: u64) {
        for quota in &self.quotas {
            quota.add(from.saturating_sub(to));
            quota.sub(to.saturating_sub(from));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_growth_counts_nowhere() {
        let quota = |name: &str, limit| Quota::new(FacetName::new(name).unwrap(), limit);
        let (outer, inner) = (quota("a", 100), quota("a/b", 1000));
        let limits = Limits {
            quotas: vec![Arc::clone(&inner), Arc::clone(&outer)],
            retention: Retention::OFF,
        };
        limits.change(0, 80).unwrap();
        let error = limits.change(80, 101).unwrap_err();
        assert!(error.to_string().contains("100"), "{error}");
        assert_eq!((inner.used_bytes(), outer.used_bytes()), (80, 80));
        limits.change(80, 100).unwrap();
        limits.change(100, 10).unwrap();
        assert_eq!((inner.used_bytes(), outer.used_bytes()), (10, 10));
        // What is too much already may shrink.
        outer.set_limit(5);
        limits.change(10, 8).unwrap();
        limits.change(8, 8).unwrap();
        limits.change(8, 9).unwrap_err();
        // And what did not come to pass is taken back, also if that is too much.
        limits.change(8, 2).unwrap();
        limits.take_back(8, 2);
        assert_eq!((inner.used_bytes(), outer.used_bytes()), (8, 8));
    }
}
