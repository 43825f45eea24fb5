//! Cleaning.

use super::Shared;
use crate::error::Result;
use crate::types::FacetId;

/// What a pass of the cleaner did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cleaned {
    /// Segments that nothing live is in any more; the next checkpoint makes them ready.
    pub segments: u64,
    /// Bytes that were moved.
    pub moved_bytes: u64,
}

/// What the cleaner remembers from one pass to the next.
#[derive(Debug, Default)]
pub(super) struct Cleaning {
    pub(super) moved_bytes: u64,
    pub(super) segments: u64,
    trimmed_ns: u64,
    cold: Vec<FacetId>,
}

impl Cleaning {
    pub(super) fn is_trim_due(&mut self, now_ns: u64) -> bool {
        let is_due = now_ns.saturating_sub(self.trimmed_ns) >= 1_000_000_000;
        if is_due {
            self.trimmed_ns = now_ns;
        }
        is_due
    }

    pub(super) fn next_cold(&mut self, all: impl FnOnce() -> Vec<FacetId>) -> Vec<FacetId> {
        if self.cold.is_empty() {
            self.cold = all();
        }
        self.cold.split_off(self.cold.len().saturating_sub(64))
    }
}

impl Shared {
    pub(super) fn clean(&self, _is_starved: bool) -> Result<Cleaned> {
        Ok(Cleaned::default())
    }
}
