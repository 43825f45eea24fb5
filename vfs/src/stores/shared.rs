//! Stores that the process has open: each once, for all that use it.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lapidary_engine::{Environment, Error, FacetName, Store, StoreOptions};

use crate::ffi::{Generation, with_signals_blocked};

/// The stores that are open, or were, by the path that tells them apart.
#[derive(Debug, Default)]
pub(crate) struct SharedStores {
    by_path: Mutex<HashMap<PathBuf, Arc<Entry>>>,
}

/// Opening and closing a store happen with its lock held, so that neither meets the other.
#[derive(Debug, Default)]
struct Entry {
    state: Mutex<EntryState>,
}

#[derive(Debug, Default)]
struct EntryState {
    uses: usize,
    /// `Some` exactly if there are uses.
    store: Option<Arc<Store>>,
}

impl Entry {
    fn state(&self) -> MutexGuard<'_, EntryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A use of a store that the process opened by its path. The last one to be dropped closes it.
#[derive(Debug)]
pub struct OpenStore {
    store: Arc<Store>,
    entry: Arc<Entry>,
    generation: Generation,
}

impl OpenStore {
    /// The store. Nobody may keep it for longer than this use: it is closed then.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }
}

impl Clone for OpenStore {
    fn clone(&self) -> Self {
        self.entry.state().uses += 1;
        Self {
            store: Arc::clone(&self.store),
            entry: Arc::clone(&self.entry),
            generation: self.generation,
        }
    }
}

impl Drop for OpenStore {
    fn drop(&mut self) {
        // The store of a process that this one is a fork of: its to close.
        if self.generation != Generation::current() {
            std::mem::forget((Arc::clone(&self.store), Arc::clone(&self.entry)));
            return;
        }
        let mut state = self.entry.state();
        state.uses -= 1;
        if state.uses > 0 {
            return;
        }
        state.store = None;
        match self.store.close() {
            // Closed is closed: by whoever else, or as after a crash, which loses nothing acknowledged.
            Ok(()) | Err(Error::Closed) => {}
            Err(error) => tracing::warn!(%error, "a store was not closed cleanly"),
        }
    }
}

impl SharedStores {
    /// Whether any store that is open has a facet of that name.
    pub(crate) fn any_has(&self, name: &FacetName) -> bool {
        let entries: Vec<_> = self.by_path().values().cloned().collect();
        entries
            .iter()
            .any(|entry| entry.state().store.as_ref().is_some_and(|store| store.facet_exists(name)))
    }

    fn entry(&self, path: &Path) -> Arc<Entry> {
        let mut by_path = self.by_path();
        if let Some(entry) = by_path.get(path) {
            return Arc::clone(entry);
        }
        // Of those that nobody else has there is no use, and none begins while this map is locked.
        by_path.retain(|_, entry| Arc::strong_count(entry) > 1);
        Arc::clone(by_path.entry(path.to_owned()).or_default())
    }

    fn by_path(&self) -> MutexGuard<'_, HashMap<PathBuf, Arc<Entry>>> {
        self.by_path.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store at `path`, which is opened if the process has not got it open, and created if it is
    /// not there and `create` is set.
    pub(crate) fn open(&self, path: &Path, create: bool) -> Result<OpenStore, Error> {
        let path = identity(path).map_err(|source| Error::Io {
            operation: "find",
            path: path.display().to_string(),
            offset: None,
            source,
        })?;
        let entry = self.entry(&path);
        let mut state = entry.state();
        let store = match &state.store {
            Some(store) => Arc::clone(store),
            None => {
                let options = StoreOptions { create, ..StoreOptions::default() };
                with_signals_blocked(|| Store::open(Environment::system(&path), options))?
            }
        };
        state.store = Some(Arc::clone(&store));
        state.uses += 1;
        drop(state);
        Ok(OpenStore { store, entry, generation: Generation::current() })
    }
}

/// An absolute path without links: what tells stores apart, also one that is not there yet.
fn identity(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    let mut rest = Vec::new();
    let mut there = absolute.as_path();
    loop {
        match (fs::canonicalize(there), there.parent(), there.file_name()) {
            (Ok(found), ..) => {
                return Ok(rest.iter().rev().fold(found, |path, level| path.join(level)));
            }
            (Err(error), Some(parent), Some(level)) if error.kind() == io::ErrorKind::NotFound => {
                rest.push(level);
                there = parent;
            }
            (Err(error), ..) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_open_once_and_closed_with_its_last_use() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/store");
        let stores = SharedStores::default();
        assert!(matches!(stores.open(&path, false), Err(Error::Missing { .. })));

        let one = stores.open(&path, true).unwrap();
        std::os::unix::fs::symlink(&path, directory.path().join("link")).unwrap();
        let two = stores.open(&directory.path().join("./link"), false).unwrap();
        assert!(Arc::ptr_eq(one.store(), two.store()));

        let facet = FacetName::new("a").unwrap();
        one.store().create_facet(&facet).unwrap();
        drop(one);
        let three = two.clone();
        drop(two);
        assert!(three.store().facet_exists(&facet));
        let store = Arc::clone(three.store());
        drop(three);
        assert!(matches!(store.open_facet(&facet), Err(Error::Closed)));
        assert!(stores.open(&path, false).unwrap().store().facet_exists(&facet));
        assert!(stores.open(&directory.path().join("other"), false).is_err());
        assert_eq!(stores.by_path().len(), 1, "what is closed is forgotten");
    }

    #[test]
    fn opening_waits_for_closing() {
        let directory = tempfile::tempdir().unwrap();
        let (stores, path) = (SharedStores::default(), directory.path().join("store"));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        stores.open(&path, true).unwrap();
                    }
                });
            }
        });
    }
}
