//! Transactions over several facets.

use std::sync::Arc;

use lapidary_engine::{ErrorKind, FacetName, Writer};

use super::transactions::begin;
use super::{Called, Driver, Progress};
use crate::content::Content;
use crate::failure::{Failure, wrong};
use crate::model::Change;

/// A facet in a transaction over several.
struct Member {
    name: FacetName,
    writer: Writer,
    before: Arc<Content>,
    content: Content,
}

impl Driver {
    /// Commits random changes of up to four facets, all or none. Now and then one of them has none.
    pub(super) fn commit_group(&mut self) -> Result<Progress, Failure> {
        let mut members: Vec<Member> = Vec::new();
        for _ in 0..self.chance.between(2, 4) {
            let Some(name) = self.any_facet() else { return self.create() };
            if members.iter().any(|member| member.name == name) {
                continue;
            }
            let facet = self.handle(&name)?;
            let mut writer = begin(&facet)?;
            let before = Arc::clone(&self.model.latest()[&name].content);
            let mut content = (*before).clone();
            if !self.chance.one_in(6) {
                let big = self.chance.one_in(8);
                match self.stage(&mut writer, &mut content, big)? {
                    Called::Done(()) => {}
                    Called::Stopped => return Ok(Progress::Stopped),
                    Called::Refused => return Ok(Progress::Going),
                }
            }
            members.push(Member { name, writer, before, content });
        }
        let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        self.note(format!("commit together {}", names.join(", ")));
        let is_refused = self.is_group_refused(&members);
        let dirty: Vec<bool> = members.iter().map(|member| member.writer.is_dirty()).collect();
        let buffer = self.chance.index(4);
        let mut writers: Vec<&mut Writer> =
            members.iter_mut().map(|member| &mut member.writer).collect();
        let result = self.store.commit_together(&mut writers, buffer);
        if is_refused {
            let progress = self.expect_kind("going over a quota", ErrorKind::NoSpace, result)?;
            if progress == Progress::Going {
                self.model.check_settings(&self.store)?;
                return self.check_undone(&members);
            }
            return Ok(progress);
        }
        let called = self.called(result)?;
        if let Called::Refused = called {
            return self.check_undone(&members);
        }
        if !dirty.contains(&true) {
            return Ok(match called {
                Called::Stopped => Progress::Stopped,
                _ => Progress::Going,
            });
        }
        let progress = self.changed(&called, |done| {
            let changed = members.iter().zip(&dirty).filter(|(_, dirty)| **dirty);
            Change::Commit(
                changed
                    .map(|(Member { name, writer, content, .. }, _)| {
                        let incarnation = done.map(|_| writer.base().bookmark().incarnation);
                        (name.clone(), Arc::new(content.clone()), incarnation)
                    })
                    .collect(),
            )
        });
        if progress == Progress::Going {
            for Member { name, writer, content, .. } in &members {
                let expected = self.model.latest()[name].version;
                if writer.base().version() != expected || writer.is_dirty() {
                    return wrong(format!(
                        "{name} committed version {expected} together with others, the writer has {}",
                        writer.base().version()
                    ));
                }
                content.compare_snapshot(writer.base())?;
            }
        }
        Ok(progress)
    }

    /// Whether a quota refuses. They are asked in the order of the facets' numbers.
    fn is_group_refused(&self, members: &[Member]) -> bool {
        let mut picture = self.model.latest_picture().clone();
        let mut members: Vec<&Member> =
            members.iter().filter(|member| member.writer.is_dirty()).collect();
        members.sort_by_key(|member| picture.facets[&member.name].id);
        for Member { name, content, before, .. } in members {
            let more = content.size_bytes().saturating_sub(before.size_bytes());
            let wanted = [(name.clone(), more)];
            if picture.settings.in_the_way(&picture.facets, &wanted, |_| false).is_some() {
                return true;
            }
            let state = picture.facets.get_mut(name).expect("members are in the model");
            state.newest.content = Arc::new(content.clone());
        }
        false
    }

    fn check_undone(&mut self, members: &[Member]) -> Result<Progress, Failure> {
        for Member { name, writer, before, .. } in members {
            before.compare_writer(writer)?;
            let facet = self.handle(name)?;
            self.check_unchanged(name, &facet)?;
        }
        Ok(Progress::Going)
    }
}
