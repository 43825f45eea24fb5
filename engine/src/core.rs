//! What every part of an open store shares: the outside world, the segments, the log.

use std::sync::{Arc, Mutex, PoisonError};

use crate::config::Tunables;
use crate::env::Environment;
use crate::facet::Facet;
use crate::log::Log;
use crate::segments::Segments;

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) environment: Environment,
    pub(crate) tunables: Tunables,
    pub(crate) segments: Segments,
    pub(crate) log: Log,
    /// Monotonic time at which the store was opened.
    pub(crate) opened_ns: u64,
    pub(crate) changed: Mutex<Changed>,
}

/// Facets whose durable state differs from the last checkpoint's.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    /// New, renamed, or with a new version. May hold facets that were deleted afterwards.
    pub(crate) facets: Vec<Arc<Facet>>,
    pub(crate) deleted: Vec<Arc<Facet>>,
}

impl Core {
    /// Nanoseconds since the store was opened.
    pub(crate) fn monotonic_ns(&self) -> u64 {
        self.environment.clock.monotonic_ns().saturating_sub(self.opened_ns)
    }

    pub(crate) fn with_changed<T>(&self, with: impl FnOnce(&mut Changed) -> T) -> T {
        with(&mut self.changed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
