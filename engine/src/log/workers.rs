//! Who may yet append before the next flush.

use crate::sync::atomic::{AtomicUsize, Ordering};

/// Threads that append and then ask for a flush, and how many of them are at work.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    known: AtomicUsize,
    at_work: AtomicUsize,
}

impl Workers {
    /// One more, at work.
    pub(crate) fn add(&self) {
        self.at_work.fetch_add(1, Ordering::SeqCst);
        self.known.fetch_add(1, Ordering::SeqCst);
    }

    /// One less, which is not at work.
    pub(crate) fn remove(&self) {
        self.known.fetch_sub(1, Ordering::SeqCst);
    }

    pub(crate) fn resume(&self) {
        self.at_work.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn rest(&self) {
        self.at_work.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether all that there are rest: waiting for more to flush is in vain. Not if there are none,
    /// since then nobody says.
    pub(crate) fn all_rest(&self) -> bool {
        self.at_work.load(Ordering::SeqCst) == 0 && self.known.load(Ordering::SeqCst) > 0
    }
}
