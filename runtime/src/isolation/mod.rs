//! What SQL inside a facet may do: policies, and how they are kept.

mod authorizer;
pub(crate) mod call;
mod guard;
mod lists;
mod policy;
mod statements;
pub(crate) mod transaction;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use lapidary_engine::FacetName;

pub(crate) use call::{Running, ThreadSpan, count_row};
pub(crate) use guard::Guard;
pub use policy::Isolation;

use crate::error::Result;
use crate::host::{Host, checked};

/// The policies of a host: one for all, and those of subtrees.
#[derive(Debug)]
pub(crate) struct Policies {
    default: Arc<Isolation>,
    named: RwLock<HashMap<String, Arc<Isolation>>>,
    /// Counts the changes, so that connections see that there was one.
    generation: AtomicU64,
}

impl Policies {
    pub(crate) fn new(default: Isolation) -> Self {
        let named = RwLock::default();
        Self { default: Arc::new(default), named, generation: AtomicU64::new(0) }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The policy of `name`, its own or that of the nearest above it, and the generation it is of.
    pub(crate) fn of(&self, name: &FacetName) -> (Arc<Isolation>, u64) {
        let named = self.named.read().unwrap_or_else(PoisonError::into_inner);
        let generation = self.generation();
        let mut path = name.as_str();
        while !named.is_empty() {
            if let Some(policy) = named.get(path) {
                return (Arc::clone(policy), generation);
            }
            match path.rsplit_once('/') {
                Some((above, _)) => path = above,
                None => break,
            }
        }
        (Arc::clone(&self.default), generation)
    }

    fn set(&self, name: &FacetName, policy: Option<Isolation>) {
        let mut named = self.named.write().unwrap_or_else(PoisonError::into_inner);
        match policy {
            Some(policy) => drop(named.insert(name.as_str().to_owned(), Arc::new(policy))),
            None => drop(named.remove(name.as_str())),
        }
        // Within the lock, so that whoever sees the number finds the change.
        self.generation.fetch_add(1, Ordering::Release);
    }
}

impl Host {
    /// Says what SQL may do in the facet `name` and in everything below it, unless a name further
    /// down has its own; `None` takes it back. It holds for calls that begin from now on, also on
    /// connections that are open, and as long as the host does: it is not stored.
    ///
    /// ```
    /// # use lapidary::{Host, HostConfig, HostErrorKind, Isolation};
    /// # let directory = tempfile::tempdir()?;
    /// # let host = Host::open(directory.path().join("store"), HostConfig::new())?;
    /// host.set_isolation("agents", Some(Isolation::untrusted()))?;
    /// let agent = host.facet("agents/42")?;
    /// let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
    ///                SELECT count(*) FROM n";
    /// let error = agent.query(endless, (), |row| row.get::<_, i64>(0)).wait().unwrap_err();
    /// assert_eq!(error.kind(), HostErrorKind::BudgetExceeded);
    /// let error = agent.execute("ATTACH 'other' AS o", ()).wait().unwrap_err();
    /// assert_eq!(error.kind(), HostErrorKind::NotAllowed);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// A name that no facet can have.
    pub fn set_isolation(&self, name: impl AsRef<str>, policy: Option<Isolation>) -> Result<()> {
        self.shared.policies.set(&checked(name.as_ref())?, policy);
        Ok(())
    }
}
