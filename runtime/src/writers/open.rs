//! The writers that are open, by when they were used last. Those whose pages were given back are the
//! ones that were not used for longest.

use hashlink::LruCache;
use lapidary_engine::FacetName;

use super::Writer;
use crate::name_set::NameSet;

pub(super) struct OpenWriters {
    warm: LruCache<FacetName, Writer>,
    /// Without pages, all of them used before any of `warm`.
    lean: LruCache<FacetName, Writer>,
    /// Those of both.
    names: NameSet,
}

impl Default for OpenWriters {
    fn default() -> Self {
        Self {
            warm: LruCache::new_unbounded(),
            lean: LruCache::new_unbounded(),
            names: NameSet::default(),
        }
    }
}

impl OpenWriters {
    pub(super) fn len(&self) -> usize {
        self.warm.len() + self.lean.len()
    }

    /// The writer of `name`, as the one used last.
    pub(super) fn get_mut(&mut self, name: &FacetName) -> Option<&mut Writer> {
        if let Some(writer) = self.lean.remove(name) {
            self.warm.insert(name.clone(), writer);
        }
        self.warm.get_mut(name)
    }

    /// The writer of `name`, which counts as used when it was.
    pub(super) fn peek_mut(&mut self, name: &FacetName) -> Option<&mut Writer> {
        self.warm.peek_mut(name).or_else(|| self.lean.peek_mut(name))
    }

    /// Puts in a writer, as the one used last.
    pub(super) fn insert(&mut self, name: FacetName, writer: Writer) {
        self.names.insert(&name);
        self.warm.insert(name, writer);
    }

    pub(super) fn remove(&mut self, name: &FacetName) -> Option<Writer> {
        self.names.remove(name);
        self.warm.remove(name).or_else(|| self.lean.remove(name))
    }

    /// Takes out the one that was not used for longest.
    pub(super) fn remove_lru(&mut self) -> Option<(FacetName, Writer)> {
        let removed = self.lean.remove_lru().or_else(|| self.warm.remove_lru())?;
        self.names.remove(&removed.0);
        Some(removed)
    }

    /// The one that was not used for longest of those that have their pages, which it is about to lose.
    pub(super) fn make_lean(&mut self) -> Option<&mut Writer> {
        let (name, writer) = self.warm.remove_lru()?;
        self.lean.insert(name.clone(), writer);
        self.lean.peek_mut(&name)
    }

    /// How many have their pages.
    pub(super) fn warm(&self) -> usize {
        self.warm.len()
    }

    /// The names of those of `root` and of what is below it.
    pub(super) fn names_within(&self, root: &FacetName) -> Vec<FacetName> {
        self.names.within(root)
    }

    pub(super) fn clear(&mut self) {
        self.warm.clear();
        self.lean.clear();
        self.names.clear();
    }
}
