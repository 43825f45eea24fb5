//! What every part of an open store shares: the outside world, the segments, the log.

use std::sync::{Arc, PoisonError};

use rustc_hash::FxHashSet;

use crate::config::Tunables;
use crate::env::Environment;
use crate::error::Result;
use crate::facet::Facet;
use crate::format::catalog::ChunkNo;
use crate::format::record::{self, PartKind};
use crate::format::{Malformed, StoredRef};
use crate::log::Log;
use crate::map::ImageMemory;
use crate::name::FacetName;
use crate::segments::{Damage, LiveChanges, Segments};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::types::{FacetId, Incarnation};

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) environment: Environment,
    pub(crate) tunables: Tunables,
    pub(crate) incarnation: Incarnation,
    pub(crate) segments: Segments,
    pub(crate) log: Log,
    pub(crate) history: HistoryBudget,
    /// For images that stay though their records are durable.
    pub(crate) images: Arc<ImageMemory>,
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
    /// Pages that were spilled ahead of commits, and so may be older than the last checkpoint though
    /// it does not count them. They are pinned.
    pub(crate) spilled: Vec<StoredRef>,
    /// Quotas or retentions were set.
    pub(crate) settings: bool,
    /// Catalog chunks that have to be written.
    chunks: FxHashSet<ChunkNo>,
    /// Bytes of parts that a checkpoint of this would write, roughly and rather too many.
    pub(crate) part_bytes: u64,
    /// And of images.
    pub(crate) image_bytes: u64,
}

impl Changed {
    /// Counts the catalog chunk of a facet, as if the others in it had names like its own.
    pub(crate) fn note_chunk(&mut self, facet: FacetId, name: &FacetName) {
        if self.chunks.insert(ChunkNo::of(facet)) {
            self.part_bytes += record::chunk_bytes(name.as_str().len());
        }
    }
}

/// Bytes of history in the whole store.
#[derive(Debug)]
pub(crate) struct HistoryBudget {
    bytes: AtomicU64,
    bytes_max: u64,
}

impl HistoryBudget {
    pub(crate) fn new(bytes: u64, bytes_max: u64) -> Self {
        Self { bytes: AtomicU64::new(bytes), bytes_max }
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn sub(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn is_exceeded(&self) -> bool {
        self.bytes() > self.bytes_max
    }

    /// What a facet that may keep `limit` bytes and has `own` may keep now, so that all together keep
    /// within bounds.
    pub(crate) fn share(&self, limit: u64, own: u64) -> u64 {
        let all = self.bytes();
        if all <= self.bytes_max {
            return limit;
        }
        let share = u128::from(own) * u128::from(self.bytes_max) / u128::from(all);
        limit.min(u64::try_from(share).unwrap_or(u64::MAX))
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
        self.with_changed(|changed| {
            self.segments.set_reserve(changed.part_bytes, changed.image_bytes);
        });
    }

    /// Counts what is live anew. If that cannot be, the store stops.
    pub(crate) fn count(&self, changes: &LiveChanges) -> Result<()> {
        self.segments.apply(changes).map_err(|error| self.log.poison(&error))
    }

    /// Reads a checkpoint part.
    pub(crate) fn read_part<T>(
        &self,
        reference: StoredRef,
        decode: impl Fn(PartKind, &[u8]) -> Result<T, Malformed>,
    ) -> Result<Result<T, Damage>> {
        read_part(&self.segments, reference, decode)
    }
}

/// See [`Core::read_part`].
pub(crate) fn read_part<T>(
    segments: &Segments,
    reference: StoredRef,
    decode: impl Fn(PartKind, &[u8]) -> Result<T, Malformed>,
) -> Result<Result<T, Damage>> {
    let mut bytes = Vec::new();
    segments.files.read_checked(reference, &mut bytes, |bytes| {
        let (kind, payload) = record::decode_part(bytes, reference.crc)?;
        decode(kind, payload)
    })
}
