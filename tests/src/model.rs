//! What a store should hold: a reference model of its catalog, contents, past and settings, and of
//! which changes have been acknowledged.
//!
//! Changes are kept in the order in which they were made, which is the order of the store's one log.
//! After a crash the store must hold the outcome of some first part of them, and that part must
//! include every change that was acknowledged.
//!
//! | module | holds |
//! |---|---|
//! | `change` | what can happen, and what it does |
//! | `facet` | a facet with the versions that it had, and which of them are kept |
//! | `settings` | quotas and retentions |
//! | `compare` | a store beside a picture of what it should hold |

mod change;
mod compare;
mod facet;
mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lapidary_engine::{Bookmark, Facet, FacetId, FacetName, Lsn, Store, Tunables, View};

pub use change::{Change, Forked, Picture};
pub use compare::open_version;
pub use facet::{FacetState, Kept, VersionState};
pub use settings::{GENEROUS, Regime, Settings, used_bytes};

use crate::content::Damage;
use crate::failure::Failure;

/// All facets by name.
pub type Catalog = BTreeMap<FacetName, FacetState>;

/// Changes kept one by one; older acknowledged ones are folded into the durable picture.
const CHANGES_KEPT_MAX: usize = 256;
/// Lost versions remembered.
const LOST_MAX: usize = 48;

/// The reference model of a store.
#[derive(Clone, Debug, Default)]
pub struct Model {
    latest: Picture,
    durable: Picture,
    /// Changes after `durable`, with the LSN that covers each.
    pending: Vec<(Change, Lsn)>,
    /// Highest identity ever acknowledged; no new facet may have it or one below.
    highest_id: FacetId,
    /// Names of versions that crashes took.
    lost: BTreeSet<Bookmark>,
}

impl Model {
    /// The model of an empty store that is always opened with `tunables`.
    #[must_use]
    pub fn of(tunables: &Tunables) -> Self {
        let picture = Picture { settings: Settings::of(tunables), ..Picture::default() };
        Self { latest: picture.clone(), durable: picture, ..Self::default() }
    }

    /// Every facet with all changes made.
    #[must_use]
    pub fn latest(&self) -> &Catalog {
        &self.latest.facets
    }

    /// Everything with all changes made.
    #[must_use]
    pub fn latest_picture(&self) -> &Picture {
        &self.latest
    }

    /// Every facet with all acknowledged changes made.
    #[must_use]
    pub fn durable(&self) -> &Catalog {
        &self.durable.facets
    }

    /// What is acknowledged of a facet; none if that is not even its creation.
    #[must_use]
    pub fn durable_of(&self, id: FacetId) -> Option<&FacetState> {
        self.durable.by_id(id)
    }

    /// How many changes are not acknowledged.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.pending.len()
    }

    /// Highest identity of any facet that was surely there.
    #[must_use]
    pub fn highest_id(&self) -> FacetId {
        self.highest_id
    }

    /// Names of versions that crashes took: none of them may ever open.
    pub fn lost(&self) -> impl Iterator<Item = &Bookmark> {
        self.lost.iter()
    }

    /// The version that a bookmark names now, of a facet that is there, and whether it is kept.
    #[must_use]
    pub fn find(&self, bookmark: &Bookmark) -> Option<(&VersionState, Kept)> {
        let latest = self.latest.by_id(bookmark.facet)?;
        compare::expected(latest, self.durable_of(bookmark.facet)?, bookmark)
    }

    /// Records a change that the store accepted; `covering` is the LSN that makes it durable.
    ///
    /// # Panics
    /// If the store's order of LSNs is not the order of its answers.
    pub fn record(&mut self, change: Change, covering: Lsn) {
        let last = self.pending.last().map_or(Lsn(0), |(_, lsn)| *lsn);
        assert!(covering >= last, "{change:?} got LSN {covering} after LSN {last}");
        change.apply(&mut self.latest);
        self.pending.push((change, covering));
        assert!(
            self.pending.len() < 100 * CHANGES_KEPT_MAX,
            "a run must flush now and then, else checking it takes forever"
        );
    }

    /// Records a change whose call failed in a way that leaves open whether it happened.
    pub fn record_in_doubt(&mut self, change: Change) {
        change.apply(&mut self.latest);
        self.pending.push((change, Lsn(u64::MAX)));
    }

    /// Tells the model that everything through `durable` is acknowledged.
    pub fn acknowledge(&mut self, durable: Lsn) {
        let count = self.pending.iter().take_while(|(_, lsn)| *lsn <= durable).count();
        for (change, _) in self.pending.drain(..count) {
            self.highest_id = change.ids().into_iter().fold(self.highest_id, FacetId::max);
            change.apply(&mut self.durable);
        }
    }

    /// Finds the first part of the changes whose outcome `store` holds, and checks that it includes
    /// all that were acknowledged and that nothing else differs: names, identities, versions,
    /// sizes and every byte of every page, in both views; versions of the past; quotas and
    /// retentions. What was lost must not open.
    ///
    /// Returns the model of the store as found.
    ///
    /// # Errors
    /// What differs from the nearest candidate.
    pub fn check_recovered(&self, store: &Store) -> Result<Self, Failure> {
        self.check_damaged(store, Damage::None)
    }

    /// As [`Self::check_recovered`], but what may have been damaged may be refused.
    ///
    /// # Errors
    /// What differs from the nearest candidate.
    pub fn check_damaged(&self, store: &Store, damage: Damage) -> Result<Self, Failure> {
        let mut candidate = self.durable.clone();
        let mut highest_id = self.highest_id;
        let mut nearest = format!(
            "after the {} facets acknowledged: {}",
            candidate.facets.len(),
            match compare::compare_picture(&candidate, &self.latest.settings, store, damage) {
                Ok(found) => return self.found(found, highest_id, store, damage),
                Err(difference) => difference.to_string(),
            }
        );
        for (index, (change, lsn)) in self.pending.iter().enumerate() {
            highest_id = change.ids().into_iter().fold(highest_id, FacetId::max);
            change.apply(&mut candidate);
            match compare::compare_picture(&candidate, &self.latest.settings, store, damage) {
                Ok(found) => return self.found(found, highest_id, store, damage),
                Err(difference) => {
                    nearest.push_str(&format!(
                        "\nwith the unacknowledged changes up to number {index} (LSN {lsn}), {}: \
                         {difference}",
                        change.summary(),
                    ));
                }
            }
        }
        Err(format!("the store holds no first part of what was done to it\n{nearest}").into())
    }

    /// The model of a store that holds what `found` says.
    fn found(
        &self,
        found: Picture,
        highest_id: FacetId,
        store: &Store,
        damage: Damage,
    ) -> Result<Self, Failure> {
        let mut lost = self.lost.clone();
        lost.extend(self.latest.facets.values().flat_map(FacetState::bookmarks));
        // Of deleted facets nothing can be asked, and of others what is known now was not lost.
        let is_known = |bookmark: &Bookmark| {
            found.by_id(bookmark.facet).is_some_and(|facet| facet.find(bookmark).is_some())
        };
        lost.retain(|bookmark| !is_known(bookmark));
        while lost.len() > LOST_MAX {
            lost.pop_first();
        }
        let model =
            Self { latest: found.clone(), durable: found, pending: Vec::new(), highest_id, lost };
        if damage == Damage::None {
            model.check_lost(store)?;
        }
        Ok(model)
    }

    /// Checks that nothing opens that crashes took.
    fn check_lost(&self, store: &Store) -> Result<(), Failure> {
        for bookmark in &self.lost {
            let facet = self.latest.facets.iter().find(|(_, facet)| facet.id == bookmark.facet);
            if let Some((name, _)) = facet {
                compare::refused(&store.open_facet(name)?, bookmark)?;
            }
        }
        Ok(())
    }

    /// Checks that `store` shows all changes to its writers, and the acknowledged ones to others.
    ///
    /// # Errors
    /// What differs.
    pub fn check_live(&self, store: &Store) -> Result<(), Failure> {
        compare::compare_listing(&self.latest.facets, store)?;
        self.check_settings(store)?;
        for (name, facet) in &self.latest.facets {
            compare::compare_facet(name, facet, store, View::Latest, Damage::None)?;
            let unborn = VersionState::empty(0);
            let durable = self.durable_of(facet.id).map_or(&unborn, |durable| &durable.newest);
            compare::compare_facet(name, durable, store, View::Durable, Damage::None)?;
            self.check_past(name, &store.open_facet(name)?)?;
        }
        self.check_lost(store)
    }

    /// Checks quotas, what is used of them, and retentions.
    ///
    /// # Errors
    /// What differs.
    pub fn check_settings(&self, store: &Store) -> Result<(), Failure> {
        let Picture { facets, settings, .. } = &self.latest;
        settings.compare(facets, settings.named.iter(), store)
    }

    /// Checks the versions that a facet keeps.
    ///
    /// # Errors
    /// What differs.
    pub fn check_past(&self, name: &FacetName, facet: &Arc<Facet>) -> Result<(), Failure> {
        let latest = &self.latest.facets[name];
        match self.durable_of(latest.id) {
            Some(durable) => compare::compare_past(name, latest, durable, facet),
            None => Ok(()),
        }
    }
}
