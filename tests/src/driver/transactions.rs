//! Random transactions, mirrored in the model's contents.

use std::sync::Arc;

use lapidary_engine::{Facet, FacetId, FacetName, PageNo, PageSize, View, Writer};

use super::{Called, Driver, Progress};
use crate::content::{Content, changed_bytes, page_bytes};
use crate::failure::{Failure, wrong};
use crate::model::Change;

impl Driver {
    pub(super) fn dirty_writer(&mut self, id: FacetId) -> Result<Option<Writer>, Failure> {
        let Some((name, state)) = self.model.latest().iter().find(|(_, state)| state.id == id)
        else {
            return Ok(None);
        };
        let (name, Some(size)) = (name.clone(), state.content.page_size) else { return Ok(None) };
        let facet = self.handle(&name)?;
        let mut writer = begin(&facet)?;
        let bytes = vec![0xEE; size.bytes()];
        let result = writer.write_page(PageNo(1), &bytes);
        Ok(match self.called(result)? {
            Called::Done(()) => Some(writer),
            _ => None,
        })
    }

    pub(super) fn commit(&mut self, big: bool) -> Result<Progress, Failure> {
        match self.any_facet() {
            Some(name) => self.commit_to(&name, big),
            None => self.create(),
        }
    }

    /// Commits one page of 1,024 times `byte`, page number `page`.
    ///
    /// # Errors
    /// What is not as the model has it.
    pub fn put(&mut self, name: &FacetName, page: PageNo, byte: u8) -> Result<Progress, Failure> {
        const PAGE_BYTES: usize = 1024;
        let facet = self.handle(name)?;
        let mut writer = begin(&facet)?;
        let mut content = (*self.model.latest()[name].content).clone();
        if content.page_size.is_none() {
            content.page_size = PageSize::from_bytes(PAGE_BYTES);
            writer.set_page_size(content.page_size.expect("it is a page size"))?;
        }
        writer.write_page(page, &[byte; PAGE_BYTES])?;
        content.set_page(page, vec![byte; PAGE_BYTES]);
        let result = writer.commit(0);
        let called = self.called(result)?;
        let incarnation = writer.base().bookmark().incarnation;
        Ok(self.changed(&called, |done| {
            Change::Commit(vec![(name.clone(), Arc::new(content), done.map(|_| incarnation))])
        }))
    }

    /// One or two random transactions on a facet.
    ///
    /// # Errors
    /// What is not as the model has it.
    pub fn commit_to(&mut self, name: &FacetName, big: bool) -> Result<Progress, Failure> {
        let facet = self.handle(name)?;
        let mut writer = begin(&facet)?;
        if writer.base().version() != self.model.latest()[name].version {
            return wrong(format!("{name} is at version {}", writer.base().version()));
        }
        loop {
            let progress = self.transaction(name, &facet, &mut writer, big)?;
            if progress == Progress::Stopped || !self.chance.one_in(5) {
                return Ok(progress);
            }
        }
    }

    fn transaction(
        &mut self,
        name: &FacetName,
        facet: &Arc<Facet>,
        writer: &mut Writer,
        big: bool,
    ) -> Result<Progress, Failure> {
        let before = Arc::clone(&self.model.latest()[name].content);
        let mut content = (*before).clone();
        let called = self.stage(writer, &mut content, big)?;
        match called {
            Called::Done(()) => {}
            Called::Stopped => return Ok(Progress::Stopped),
            Called::Refused => {
                writer.discard();
                return self.check_unchanged(name, facet);
            }
        }
        if self.chance.one_in(6) && self.meanwhile(name)? == Progress::Stopped {
            return Ok(Progress::Stopped);
        }
        if self.chance.one_in(4) {
            content
                .compare_writer(writer)
                .map_err(|difference| difference.within(format!("{name}, inside a transaction")))?;
        }
        if self.chance.one_in(10) {
            self.note(format!("discard {name}"));
            writer.discard();
            before.compare_writer(writer)?;
            return self.check_unchanged(name, facet);
        }
        let dirty = writer.is_dirty();
        let buffer = self.chance.index(4);
        self.note(format!(
            "commit {name}: {} pages of {:?}",
            content.page_count(),
            content.page_size.map_or(0, PageSize::bytes),
        ));
        if dirty && let Some(quota) = self.quota_against(name, &content) {
            let result = writer.commit(buffer);
            let progress = self.expect_quota(&quota, result)?;
            if progress == Progress::Going {
                before.compare_writer(writer)?;
                return self.check_unchanged(name, facet);
            }
            return Ok(progress);
        }
        let result = writer.commit(buffer);
        let called = self.called(result)?;
        if let Called::Done(ticket) = &called
            && dirty
            && *ticket > self.store.current_ticket()
        {
            return wrong(format!("{ticket:?} is beyond {:?}", self.store.current_ticket()));
        }
        if !dirty {
            return Ok(match called {
                Called::Stopped => Progress::Stopped,
                _ => Progress::Going,
            });
        }
        let content = Arc::new(content);
        let incarnation = writer.base().bookmark().incarnation;
        let progress = self.changed(&called, |done| {
            Change::Commit(vec![(name.clone(), Arc::clone(&content), done.map(|_| incarnation))])
        });
        match called {
            Called::Stopped => return Ok(progress),
            Called::Refused => return self.check_unchanged(name, facet),
            Called::Done(_) => {}
        }
        let expected = self.model.latest()[name].version;
        if writer.base().version() != expected || facet.latest_version() != expected {
            return wrong(format!(
                "{name} committed version {expected}, the writer has {}, the facet {}",
                writer.base().version(),
                facet.latest_version()
            ));
        }
        if self.chance.one_in(4) {
            content.compare_snapshot(writer.base())?;
        }
        Ok(progress)
    }

    /// What others do while a transaction on `name` is open: everything that moves bytes or makes room.
    fn meanwhile(&mut self, name: &FacetName) -> Result<Progress, Failure> {
        if std::mem::replace(&mut self.is_amid_transaction, true) {
            return Ok(Progress::Going);
        }
        self.note(format!("amid a transaction on {name}"));
        let mut progress = Progress::Going;
        for _ in 0..self.chance.between(1, 6) {
            progress = match self.chance.below(10) {
                0..4 => match self.any_facet().filter(|other| other != name) {
                    Some(other) => self.commit_to(&other, false)?,
                    None => self.flush()?,
                },
                4 => self.flush()?,
                5 => self.fork()?,
                6 => self.clean()?,
                7 => self.maintain()?,
                _ => self.checkpoint()?,
            };
            if progress == Progress::Stopped {
                break;
            }
        }
        self.is_amid_transaction = false;
        Ok(progress)
    }

    /// After a refusal or a discard, the facet is what it was.
    pub(super) fn check_unchanged(
        &mut self,
        name: &FacetName,
        facet: &Arc<Facet>,
    ) -> Result<Progress, Failure> {
        let snapshot = facet.snapshot(View::Latest)?;
        let state = &self.model.latest()[name];
        if snapshot.version() != state.version {
            return wrong(format!("{name} is at {} after a refusal", snapshot.version()));
        }
        state.content.compare_snapshot(&snapshot)?;
        Ok(Progress::Going)
    }

    /// Stages random changes and applies them to `content`.
    pub(super) fn stage(
        &mut self,
        writer: &mut Writer,
        content: &mut Content,
        big: bool,
    ) -> Result<Called<()>, Failure> {
        if content.pages.is_empty() {
            let size = self.chance.pick(self.scale.page_sizes);
            let size = PageSize::from_bytes(size).expect("the sizes are page sizes");
            let result = writer.set_page_size(size);
            match self.called(result)? {
                Called::Done(()) => content.page_size = Some(size),
                ended => return Ok(ended),
            }
        }
        let total_bytes_max = self.scale.total_bytes_max;
        let (fewest, most) = self.scale.big;
        let crowded = self.total_bytes() > total_bytes_max;
        let actions =
            if big { self.chance.between(fewest, most) } else { self.chance.between(1, 6) };
        for _ in 0..actions {
            let size = content.page_size.expect("it was set above");
            let room = (total_bytes_max / 2 / size.bytes()).saturating_sub(content.pages.len());
            let pages = content.page_count();
            let result = match self.chance.below(20) {
                0 if pages > 0 => {
                    let kept = self.chance.below(pages + 1);
                    content.pages.truncate(kept as usize);
                    writer.set_page_count(kept)
                }
                1 if !crowded && room > 4 => {
                    let grown = pages + self.chance.between(1, 4);
                    content.pages.resize(grown as usize, None);
                    writer.set_page_count(grown)
                }
                2 if pages > 0 && !big && self.chance.one_in(3) => {
                    let size = self.chance.pick(self.scale.page_sizes);
                    let size = PageSize::from_bytes(size).expect("the sizes are page sizes");
                    let bytes = content.size_bytes() / size.bytes() * size.bytes();
                    if bytes == 0 {
                        continue;
                    }
                    content.rechunk(size, bytes);
                    writer.rechunk(size, bytes as u64)
                }
                kind => {
                    let page = if kind < 12 && pages > 0 || crowded || room < 4 {
                        1 + self.chance.below(pages)
                    } else if kind < 19 {
                        pages + 1
                    } else {
                        pages + self.chance.between(2, 4)
                    };
                    let before = content.pages.get(page as usize - 1).cloned().flatten();
                    let bytes = match before.filter(|_| self.chance.one_in(2)) {
                        Some(before) => changed_bytes(&mut self.chance, &before),
                        None => page_bytes(&mut self.chance, size),
                    };
                    let result = writer.write_page(PageNo(page), &bytes);
                    content.set_page(PageNo(page), bytes);
                    if result.is_ok() && !writer.is_dirty() {
                        return wrong("a written page did not make the writer dirty");
                    }
                    result
                }
            };
            match self.called(result)? {
                Called::Done(()) => {}
                ended => return Ok(ended),
            }
        }
        Ok(Called::Done(()))
    }

    pub(super) fn total_bytes(&self) -> usize {
        self.model.latest().values().map(|facet| facet.content.size_bytes()).sum()
    }
}

pub(super) fn begin(facet: &Arc<Facet>) -> Result<Writer, Failure> {
    let snapshot = facet.snapshot(View::Latest)?;
    Ok(facet.begin_write(&snapshot)?)
}
