//! What every part of an open store shares: the outside world, the segments, the log.

use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashSet;

use crate::config::Tunables;
use crate::env::Environment;
use crate::facet::Facet;
use crate::format::catalog::ChunkNo;
use crate::format::record;
use crate::log::Log;
use crate::name::FacetName;
use crate::segments::Segments;
use crate::types::FacetId;

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
    /// Catalog chunks that have to be written.
    chunks: FxHashSet<ChunkNo>,
    /// Bytes of parts that a checkpoint of this would write, roughly and rather too many.
    pub(crate) part_bytes: u64,
}

impl Changed {
    /// Counts the catalog chunk of a facet, as if the others in it had names like its own.
    pub(crate) fn note_chunk(&mut self, facet: FacetId, name: &FacetName) {
        if self.chunks.insert(ChunkNo::of(facet)) {
            self.part_bytes += record::chunk_bytes(name.as_str().len());
        }
    }
}

impl Core {
    /// Nanoseconds since the store was opened.
    pub(crate) fn monotonic_ns(&self) -> u64 {
        self.environment.clock.monotonic_ns().saturating_sub(self.opened_ns)
    }

    pub(crate) fn with_changed<T>(&self, with: impl FnOnce(&mut Changed) -> T) -> T {
        with(&mut self.changed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has commits leave room for the checkpoint that is due.
    pub(crate) fn publish_reserve(&self) {
        self.with_changed(|changed| self.segments.set_reserve(changed.part_bytes));
    }
}
