//! What a store should hold: a reference model of its catalog and contents, and of which changes
//! have been acknowledged.
//!
//! Changes are kept in the order in which they were made, which is the order of the store's one log.
//! After a crash the store must hold the outcome of some first part of them, and that part must
//! include every change that was acknowledged.

use std::collections::BTreeMap;
use std::sync::Arc;

use lapidary_engine::{FacetId, FacetName, Lsn, Store, Version, View};

use crate::content::{Content, Damage};
use crate::failure::Failure;

/// A facet as the model knows it.
#[derive(Clone, Debug)]
pub struct FacetState {
    /// Its identity.
    pub id: FacetId,
    /// Its version.
    pub version: Version,
    /// What that version holds.
    pub content: Arc<Content>,
}

/// All facets by name.
pub type Catalog = BTreeMap<FacetName, FacetState>;

/// Something that happened to the store.
#[derive(Clone, Debug)]
pub enum Change {
    /// A facet was created. Its identity is unknown if the answer never came.
    Create(FacetName, Option<FacetId>),
    /// A facet and everything below it was deleted.
    Delete(FacetName),
    /// A facet and everything below it was renamed.
    Rename(FacetName, FacetName),
    /// A version was committed.
    Commit(FacetName, Arc<Content>),
}

impl Change {
    fn apply(&self, catalog: &mut Catalog) {
        match self {
            Self::Create(name, id) => {
                let id = id.unwrap_or_default();
                let state = FacetState { id, version: Version(0), content: Arc::default() };
                let previous = catalog.insert(name.clone(), state);
                assert!(previous.is_none(), "the model created {name} twice");
            }
            Self::Delete(name) => catalog.retain(|other, _| !other.is_within(name)),
            Self::Rename(from, to) => {
                let moved: Vec<FacetName> =
                    catalog.keys().filter(|name| name.is_within(from)).cloned().collect();
                for old in moved {
                    let new = old.moved(from, to).expect("the model's names are short");
                    let state = catalog.remove(&old).expect("it was just listed");
                    let previous = catalog.insert(new.expect("it is within"), state);
                    assert!(previous.is_none(), "the model renamed {from} over {to}");
                }
            }
            Self::Commit(name, content) => {
                let facet = catalog.get_mut(name).expect("the model commits to what exists");
                facet.version = facet.version.next();
                facet.content = Arc::clone(content);
            }
        }
    }
}

/// Changes kept one by one; older acknowledged ones are folded into the durable catalog.
const CHANGES_KEPT_MAX: usize = 256;

/// The reference model of a store.
#[derive(Clone, Debug, Default)]
pub struct Model {
    latest: Catalog,
    durable: Catalog,
    /// Changes after `durable`, with the LSN that covers each.
    pending: Vec<(Change, Lsn)>,
    /// Highest identity ever acknowledged; no new facet may have it or one below.
    highest_id: FacetId,
}

impl Model {
    /// The model of a store that holds `catalog`, durably.
    #[must_use]
    pub fn holding(catalog: Catalog, highest_id: FacetId) -> Self {
        Self { latest: catalog.clone(), durable: catalog, pending: Vec::new(), highest_id }
    }

    /// Every facet with all changes made.
    #[must_use]
    pub fn latest(&self) -> &Catalog {
        &self.latest
    }

    /// Every facet with all acknowledged changes made.
    #[must_use]
    pub fn durable(&self) -> &Catalog {
        &self.durable
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
            if let Change::Create(_, Some(id)) = &change {
                self.highest_id = self.highest_id.max(*id);
            }
            change.apply(&mut self.durable);
        }
    }

    /// Finds the first part of the changes whose outcome `store` holds, and checks that it includes
    /// all that were acknowledged and that nothing else differs: names, identities, versions,
    /// sizes and every byte of every page, in both views.
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
            candidate.len(),
            match compare_catalog(&candidate, store, damage) {
                Ok(found) => return Ok(Self::holding(found, highest_id)),
                Err(difference) => difference.to_string(),
            }
        );
        for (index, (change, lsn)) in self.pending.iter().enumerate() {
            if let Change::Create(_, Some(id)) = change {
                highest_id = highest_id.max(*id);
            }
            change.apply(&mut candidate);
            match compare_catalog(&candidate, store, damage) {
                Ok(found) => return Ok(Self::holding(found, highest_id)),
                Err(difference) => {
                    nearest.push_str(&format!(
                        "\nwith the unacknowledged changes up to number {index} (LSN {lsn}), {}: \
                         {difference}",
                        summary(change),
                    ));
                }
            }
        }
        Err(format!("the store holds no first part of what was done to it\n{nearest}").into())
    }

    /// Checks that `store` shows all changes to its writers, and the acknowledged ones to others.
    ///
    /// # Errors
    /// What differs.
    pub fn check_live(&self, store: &Store) -> Result<(), Failure> {
        compare_listing(&self.latest, store)?;
        for (name, facet) in &self.latest {
            compare_facet(name, facet, store, View::Latest, Damage::None)?;
            let durable = self.durable.values().find(|durable| durable.id == facet.id);
            let unborn = FacetState { id: facet.id, version: Version(0), content: Arc::default() };
            compare_facet(name, durable.unwrap_or(&unborn), store, View::Durable, Damage::None)?;
        }
        Ok(())
    }
}

fn summary(change: &Change) -> String {
    match change {
        Change::Create(name, _) => format!("create {name}"),
        Change::Delete(name) => format!("delete {name}"),
        Change::Rename(from, to) => format!("rename {from} to {to}"),
        Change::Commit(name, content) => {
            format!("commit {} pages to {name}", content.page_count())
        }
    }
}

/// Compares everything; returns the catalog with identities as the store has them, for those that
/// the model did not know.
fn compare_catalog(expected: &Catalog, store: &Store, damage: Damage) -> Result<Catalog, Failure> {
    compare_listing(expected, store)?;
    let mut found = expected.clone();
    for (name, facet) in &mut found {
        compare_facet(name, facet, store, View::Latest, damage)?;
        compare_facet(name, facet, store, View::Durable, damage)?;
        match store.open_facet(name) {
            Ok(opened) => facet.id = opened.id(),
            Err(error) if damage.explains(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// Compares names, versions and sizes, listing a few at a time.
fn compare_listing(expected: &Catalog, store: &Store) -> Result<(), Failure> {
    const LISTED_AT_ONCE: usize = 3;
    let mut listed = Vec::new();
    loop {
        let after = listed.last().map(|info: &lapidary_engine::FacetInfo| info.name.clone());
        let more = store.list_facets(None, after.as_ref(), LISTED_AT_ONCE)?;
        let is_last = more.len() < LISTED_AT_ONCE;
        listed.extend(more);
        if is_last {
            break;
        }
    }
    let found: Vec<String> = listed.iter().map(|info| line(&info.name, info.version)).collect();
    let wanted: Vec<String> =
        expected.iter().map(|(name, facet)| line(name, facet.version)).collect();
    if found != wanted {
        return Err(format!("it lists {found:?} where {wanted:?} is expected").into());
    }
    for (info, (name, facet)) in listed.iter().zip(expected) {
        if facet.id != FacetId(0) && info.id != facet.id {
            return Err(format!("{name} is facet {} where it was {}", info.id, facet.id).into());
        }
        if info.page_count != facet.content.page_count() {
            return Err(format!(
                "{name} lists {} pages where {} were committed",
                info.page_count,
                facet.content.page_count()
            )
            .into());
        }
    }
    Ok(())
}

fn line(name: &FacetName, version: Version) -> String {
    format!("{name}@{version}")
}

fn compare_facet(
    name: &FacetName,
    expected: &FacetState,
    store: &Store,
    view: View,
    damage: Damage,
) -> Result<(), Failure> {
    let compare = || -> Result<(), Failure> {
        let facet = match store.open_facet(name) {
            Ok(facet) => facet,
            Err(error) if damage.explains(&error) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let snapshot = facet.snapshot(view)?;
        if snapshot.version() != expected.version {
            return Err(format!(
                "version {} where {} is expected",
                snapshot.version(),
                expected.version
            )
            .into());
        }
        expected.content.compare_damaged_snapshot(&snapshot, damage)
    };
    compare().map_err(|difference| difference.within(format!("{name} ({view:?})")))
}
