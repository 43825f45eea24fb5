//! Facets are created, deleted and renamed.

use std::sync::Arc;

use lapidary_engine::{Error, ErrorKind, FacetId, FacetName, View};

use super::{Called, Driver, NAMES, Progress, name, within};
use crate::failure::{Failure, wrong};
use crate::model::Change;

impl Driver {
    pub(super) fn create(&mut self) -> Result<Progress, Failure> {
        let name = name(self.chance.pick(&NAMES));
        if self.model.latest().contains_key(&name) {
            let result = self.store.create_facet(&name);
            return self.expect_kind("creating it again", ErrorKind::AlreadyExists, result);
        }
        self.create_named(&name)
    }

    /// Creates a facet that is not there.
    ///
    /// # Errors
    /// What is not as the model has it.
    pub fn create_named(&mut self, name: &FacetName) -> Result<Progress, Failure> {
        self.note(format!("create {name}"));
        let result = self.store.create_facet(name);
        let called = self.called(result)?;
        let mut first = None;
        if let Called::Done(facet) = &called {
            first = Some(facet.snapshot(View::Latest)?.bookmark());
            let highest = self.model.latest().values().map(|facet| facet.id).max();
            if facet.id() <= self.model.highest_id().max(highest.unwrap_or_default()) {
                return wrong(format!("{name} got identity {} a second time", facet.id()));
            }
            self.handles.insert(facet.id(), Arc::clone(facet));
        }
        Ok(self.changed(&called, |_| Change::Create(name.clone(), first)))
    }

    pub(super) fn delete(&mut self) -> Result<Progress, Failure> {
        let name = name(self.chance.pick(&NAMES));
        let victims: Vec<FacetId> =
            within(self.model.latest(), &name).map(|(_, facet)| facet.id).collect();
        if victims.is_empty() {
            let result = self.store.delete_facet(&name);
            return self.expect_kind("deleting nothing", ErrorKind::NotFound, result);
        }
        self.note(format!("delete {name}"));
        let writer = if self.chance.one_in(4) { self.dirty_writer(victims[0])? } else { None };
        let result = self.store.delete_facet(&name);
        let called = self.called(result)?;
        let progress = self.changed(&called, |_| Change::Delete(name));
        if let Called::Done(_) = called {
            for id in victims {
                self.deleted.extend(self.handles.remove(&id));
            }
            if let Some(mut writer) = writer {
                let result = writer.commit(0);
                self.expect_kind("committing to a deleted facet", ErrorKind::NotFound, result)?;
            }
        }
        Ok(progress)
    }

    pub(super) fn rename(&mut self) -> Result<Progress, Failure> {
        let (from, to) = (name(self.chance.pick(&NAMES)), name(self.chance.pick(&NAMES)));
        if from.is_within(&to) || to.is_within(&from) {
            return Ok(Progress::Going);
        }
        let latest = self.model.latest();
        let moved: Result<Vec<_>, _> = within(latest, &from)
            .map(|(name, facet)| Ok((name.moved(&from, &to)?, facet)))
            .collect();
        let Ok(targets) = moved.map_err(|_: Error| ()) else { return Ok(Progress::Going) };
        let targets: Vec<(FacetName, usize)> = targets
            .into_iter()
            .filter_map(|(name, facet)| Some((name?, facet.content.size_bytes())))
            .collect();
        if targets.is_empty() {
            let result = self.store.rename_facet(&from, &to);
            return self.expect_kind("renaming nothing", ErrorKind::NotFound, result);
        }
        if targets.iter().any(|(name, _)| latest.contains_key(name)) {
            let result = self.store.rename_facet(&from, &to);
            return self.expect_kind("renaming over one", ErrorKind::AlreadyExists, result);
        }
        let quotas = &self.model.latest_picture().settings;
        // What is counted already where it goes to needs no room there.
        let above_both = |quota: &FacetName| from.is_within(quota);
        if let Some(quota) = quotas.in_the_way(latest, &targets, above_both) {
            let result = self.store.rename_facet(&from, &to);
            return self.expect_quota(&quota, result);
        }
        self.note(format!("rename {from} to {to}"));
        let result = self.store.rename_facet(&from, &to);
        let called = self.called(result)?;
        Ok(self.changed(&called, |_| Change::Rename(from, to)))
    }
}
