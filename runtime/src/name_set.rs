//! Names in order, so that a subtree of them is found without looking at the others.

use std::collections::BTreeSet;
use std::ops::Bound;

use lapidary_engine::FacetName;

#[derive(Debug, Default)]
pub(crate) struct NameSet(BTreeSet<FacetName>);

impl NameSet {
    pub(crate) fn insert(&mut self, name: &FacetName) {
        if !self.0.contains(name) {
            self.0.insert(name.clone());
        }
    }

    pub(crate) fn remove(&mut self, name: &FacetName) {
        self.0.remove(name);
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// `root`, if it is there, and those below it.
    pub(crate) fn within(&self, root: &FacetName) -> Vec<FacetName> {
        // What is below "a" is together, from "a/" on; but "a-b" comes between "a" and "a/b".
        let below = format!("{root}/");
        let from = (Bound::Included(below.as_str()), Bound::Unbounded);
        let below = self.0.range::<str, _>(from).take_while(|name| name.is_within(root));
        self.0.get(root).into_iter().chain(below).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subtree_is_its_root_and_what_is_below() {
        let names = ["a", "a-b", "a/b", "a/b/c", "a/c", "ab", "b/a"];
        let names = names.map(|name| FacetName::new(name).unwrap());
        let mut set = NameSet::default();
        names.iter().for_each(|name| set.insert(name));
        for root in &names {
            let within: Vec<_> =
                names.iter().filter(|name| name.is_within(root)).cloned().collect();
            assert_eq!(set.within(root), within, "{root}");
        }
        set.remove(&names[0]);
        assert_eq!(set.within(&names[0]), names[2..5]);
        assert!(set.within(&FacetName::new("c").unwrap()).is_empty());
        set.clear();
        assert!(set.within(&names[1]).is_empty());
    }
}
