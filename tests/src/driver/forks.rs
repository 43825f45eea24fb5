//! Facets and subtrees are forked, from what is newest, durable or past.

use std::sync::Arc;

use lapidary_engine::{Bookmark, Error, ErrorKind, Facet, FacetName, ForkFrom, Ticket, View};

use super::{Called, Driver, NAMES, Progress, name, within};
use crate::failure::{Failure, wrong};
use crate::model::{Change, FacetState, Forked, Kept, VersionState};

/// What a fork may come to.
enum Due {
    Refused(ErrorKind),
    /// If it is done, these are forked, each surely or maybe; and if none surely is, it may be
    /// refused.
    Forked(Vec<(Forked, Kept)>),
}

impl Driver {
    /// Forks one facet.
    pub(super) fn fork(&mut self) -> Result<Progress, Failure> {
        let from = match self.any_facet() {
            Some(name) if !self.chance.one_in(8) => name,
            _ => name(self.chance.pick(&NAMES)),
        };
        let to = name(self.chance.pick(&NAMES));
        if self.is_crowded() {
            return Ok(Progress::Going);
        }
        let from_version = self.fork_from(&from);
        self.note(format!("fork {from} to {to} from {from_version:?}"));
        let result = self.store.fork_facet(&from, &to, from_version);
        let result = result.map(|(facet, ticket)| (vec![facet], ticket));
        // The call may have made something durable first; it is judged by what is durable now.
        let version = self.model.latest().get(&from).cloned().map(|source| {
            let (version, kept) = self.begins_with(&source, from_version);
            vec![(Forked { name: to.clone(), id: None, begins: version }, kept)]
        });
        let due = match version {
            _ if self.model.latest().contains_key(&to) => Due::Refused(ErrorKind::AlreadyExists),
            None => Due::Refused(ErrorKind::NotFound),
            Some(forked) if forked[0].1 == Kept::Gone => Due::Refused(ErrorKind::NotFound),
            Some(forked) => Due::Forked(forked),
        };
        self.forked(due, result)
    }

    /// Forks a facet and all below it.
    pub(super) fn fork_subtree(&mut self) -> Result<Progress, Failure> {
        let (from, to) = (name(self.chance.pick(&NAMES)), name(self.chance.pick(&NAMES)));
        let from_version = self.fork_from(&from);
        let sources: Vec<(FacetName, FacetState)> = within(self.model.latest(), &from)
            .map(|(name, state)| (name.clone(), state.clone()))
            .collect();
        if self.is_crowded() || self.model.latest().len() + sources.len() > self.scale.facets_max {
            return Ok(Progress::Going);
        }
        let mut names = Vec::new();
        for (source, _) in &sources {
            match source.moved(&from, &to) {
                Ok(name) => names.extend(name),
                Err(_) => return Ok(Progress::Going),
            }
        }
        self.note(format!("fork all of {from} to {to} from {from_version:?}"));
        let result = self.store.fork_subtree(&from, &to, from_version);
        // As above.
        let due = if to.is_within(&from) {
            Due::Refused(ErrorKind::InvalidInput)
        } else if names.iter().any(|name| self.model.latest().contains_key(name)) {
            Due::Refused(ErrorKind::AlreadyExists)
        } else if sources.is_empty() {
            Due::Refused(ErrorKind::NotFound)
        } else {
            self.subtree_due(&sources, names, from_version)
        };
        self.forked(due, result)
    }

    fn fork_from(&mut self, source: &FacetName) -> ForkFrom {
        let id = self.model.latest().get(source).map(|facet| facet.id);
        match self.chance.below(4) {
            0 => ForkFrom::Durable,
            1 | 2 => match id.and_then(|id| self.any_bookmark(id)) {
                // What is not durable has no past that others could be compared with.
                Some(bookmark) if self.model.durable_of(bookmark.facet).is_some() => {
                    ForkFrom::Bookmark(bookmark)
                }
                _ => ForkFrom::Latest,
            },
            _ => ForkFrom::Latest,
        }
    }

    /// What a fork of `source` alone begins with.
    fn begins_with(&mut self, source: &FacetState, from: ForkFrom) -> (VersionState, Kept) {
        self.model.acknowledge(self.store.durable_lsn());
        match from {
            ForkFrom::Latest => (source.newest.clone(), Kept::Surely),
            ForkFrom::Durable => {
                let durable = self.model.durable_of(source.id);
                let version = durable.map(|durable| durable.newest.clone());
                (version.unwrap_or_else(|| VersionState::empty(0)), Kept::Surely)
            }
            ForkFrom::Bookmark(bookmark) => self.expected(source.id, &bookmark),
        }
    }

    fn subtree_due(
        &mut self,
        sources: &[(FacetName, FacetState)],
        names: Vec<FacetName>,
        from: ForkFrom,
    ) -> Due {
        let as_of = match from {
            ForkFrom::Bookmark(bookmark) => {
                if !sources.iter().any(|(_, source)| source.id == bookmark.facet) {
                    return Due::Refused(ErrorKind::InvalidInput);
                }
                match self.expected(bookmark.facet, &bookmark) {
                    (_, Kept::Gone) => return Due::Refused(ErrorKind::NotFound),
                    (version, kept) => Some((bookmark, version.number, kept)),
                }
            }
            _ => None,
        };
        let mut forked = Vec::new();
        for ((_, source), name) in sources.iter().zip(names) {
            let begins = match as_of {
                None => Some(self.begins_with(source, from)),
                Some((bookmark, number, kept)) => self.as_of(source, &bookmark, number, kept),
            };
            if let Some((begins, kept)) = begins
                && kept != Kept::Gone
            {
                forked.push((Forked { name, id: None, begins }, kept));
            }
        }
        Due::Forked(forked)
    }

    /// What a facet was when the change of that number was made, if it was there.
    fn as_of(
        &self,
        source: &FacetState,
        bookmark: &Bookmark,
        number: u64,
        kept: Kept,
    ) -> Option<(VersionState, Kept)> {
        let durable = self.model.durable_of(source.id)?;
        if source.id == bookmark.facet {
            let (version, _) = durable.find(bookmark)?;
            return Some((version.clone(), kept));
        }
        let versions = durable.past.iter().map(|(version, _)| version).chain([&durable.newest]);
        let version = versions.rev().find(|version| version.number <= number)?;
        let (_, own) = self.model.find(&version.bookmark(source.id)?)?;
        Some((version.clone(), if kept == Kept::Maybe { Kept::Maybe } else { own }))
    }

    /// Compares the outcome with what is due.
    fn forked(
        &mut self,
        due: Due,
        result: Result<(Vec<Arc<Facet>>, Ticket), Error>,
    ) -> Result<Progress, Failure> {
        let mut due = match due {
            Due::Refused(kind) => return self.expect_kind("such a fork", kind, result),
            Due::Forked(forked) => forked,
        };
        let is_sure = due.iter().all(|(_, kept)| *kept == Kept::Surely) && !due.is_empty();
        if let Ok((facets, _)) = &result {
            for facet in facets {
                if !due.iter().any(|(forked, _)| forked.name == facet.name()) {
                    return wrong(format!("{} came of a fork, and was not there", facet.name()));
                }
            }
            due.retain(|(forked, kept)| {
                *kept == Kept::Surely || facets.iter().any(|facet| facet.name() == forked.name)
            });
            if facets.len() != due.len() {
                return wrong(format!("{} facets came of a fork, not {}", facets.len(), due.len()));
            }
        }
        let arrivals: Vec<(FacetName, usize)> = due
            .iter()
            .map(|(forked, _)| (forked.name.clone(), forked.begins.content.size_bytes()))
            .collect();
        let picture = self.model.latest_picture();
        let quota = picture.settings.in_the_way(&picture.facets, &arrivals, |_| false);
        if let Some(quota) = quota {
            if is_sure {
                return self.expect_quota(&quota, result);
            }
            if matches!(&result, Err(Error::QuotaExceeded { .. })) {
                return Ok(Progress::Going);
            }
        }
        if !is_sure
            && let Err(error) = &result
            && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput)
        {
            return Ok(Progress::Going);
        }
        let called = self.called(result)?;
        let mut forked: Vec<Forked> = due.into_iter().map(|(forked, _)| forked).collect();
        if let Called::Done((facets, _)) = &called {
            for (forked, facet) in forked.iter_mut().zip(facets) {
                self.check_fork(forked, facet)?;
                self.handles.insert(facet.id(), Arc::clone(facet));
            }
        }
        if forked.is_empty() {
            return wrong("a fork of nothing succeeded");
        }
        Ok(self.changed(&called, |_| Change::Fork(forked)))
    }

    fn check_fork(&mut self, forked: &mut Forked, facet: &Arc<Facet>) -> Result<(), Failure> {
        let Forked { name, id, begins } = forked;
        if facet.name() != *name || facet.id() <= self.model.highest_id() {
            return wrong(format!("{name} was forked as {} {}", facet.name(), facet.id()));
        }
        let snapshot = facet.snapshot(View::Latest)?;
        if snapshot.version() != begins.version {
            return wrong(format!(
                "{name} was forked from version {}, and has {}",
                begins.version,
                snapshot.version()
            ));
        }
        begins
            .content
            .compare_snapshot(&snapshot)
            .map_err(|difference| difference.within(format!("{name}, just forked")))?;
        *id = Some(facet.id());
        begins.incarnation = Some(snapshot.bookmark().incarnation);
        Ok(())
    }

    /// Whether there is so much already that forks should wait for deletes.
    fn is_crowded(&self) -> bool {
        self.total_bytes() > 2 * self.scale.total_bytes_max
    }
}
