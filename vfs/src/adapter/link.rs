//! What the handles of one facet, and their journals, know of each other. SQLite opens a journal by
//! name, without saying for which connection; it is the one that holds the facet's writer.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// One database handle among all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct HandleId(u64);

impl HandleId {
    pub(super) fn new() -> Self {
        static HANDLES: AtomicU64 = AtomicU64::new(0);
        Self(HANDLES.fetch_add(1, Ordering::Relaxed))
    }
}

#[derive(Debug, Default)]
pub(super) struct LinkState {
    /// Who holds the facet's writer.
    pub(super) writer: Option<HandleId>,
    /// Who has a journal file open.
    pub(super) journaled: HashSet<HandleId>,
    /// Whether the writer has written pages since its last sync.
    pub(super) unsynced: bool,
}

/// A facet's handles and journals.
#[derive(Debug, Default)]
pub(super) struct Link(Mutex<LinkState>);

impl Link {
    pub(super) fn lock(&self) -> MutexGuard<'_, LinkState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The links of all facets that are open, by name.
#[derive(Debug, Default)]
pub(super) struct Links(Mutex<HashMap<String, Weak<Link>>>);

impl Links {
    /// The link of the facet `name`, made if there is none.
    pub(super) fn of(&self, name: &str) -> Arc<Link> {
        let mut links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = links.get(name).and_then(Weak::upgrade) {
            return link;
        }
        links.retain(|_, link| link.strong_count() > 0);
        let link = Arc::new(Link::default());
        links.insert(name.to_owned(), Arc::downgrade(&link));
        link
    }

    /// The link of the facet `name`, if it is open.
    pub(super) fn find(&self, name: &str) -> Option<Arc<Link>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).and_then(Weak::upgrade)
    }
}
