//! Transactions over several facets.

use super::Store;
use crate::error::{Error, Result};
use crate::facet::{Group, Writer};
use crate::segments::Purpose;
use crate::types::Ticket;

impl Store {
    /// Commits what all of `writers` have staged as one transaction, in one record of the log: after
    /// a crash all of it is there, or nothing. Each facet gets a version of its own, as by
    /// [`Writer::commit`], and readers that pin two facets one after the other may find one before
    /// and the other after it. Writers with nothing staged are left as they are.
    ///
    /// ```
    /// # use lapidary_engine::*;
    /// # use std::sync::Arc;
    /// # let environment = Environment::with_io(Arc::new(MemoryIo::new()));
    /// # let store = Store::open(environment, StoreOptions::create())?;
    /// let mut from = store.create_facet(&FacetName::new("from")?)?.begin_write_latest()?;
    /// let mut to = store.create_facet(&FacetName::new("to")?)?.begin_write_latest()?;
    /// for writer in [&mut from, &mut to] {
    ///     writer.set_page_size(PageSize::from_bytes(512).unwrap())?;
    ///     writer.write_page(PageNo(1), &[7; 512])?;
    /// }
    /// let ticket = store.commit_together(&mut [&mut from, &mut to], 0)?;
    /// store.wait_durable(ticket)?;
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Writer::commit`], and [`Error::InvalidInput`] if a writer is of another store. Nothing is
    /// committed, and what each of them had staged is discarded.
    pub fn commit_together(
        &self,
        writers: &mut [&mut Writer],
        log_buffer: usize,
    ) -> Result<Ticket> {
        let result = self.try_commit_together(writers, log_buffer);
        if result.is_err() {
            writers.iter_mut().for_each(|writer| writer.discard());
        }
        result
    }

    fn try_commit_together(
        &self,
        writers: &mut [&mut Writer],
        log_buffer: usize,
    ) -> Result<Ticket> {
        let core = &self.shared.core;
        if let Some(foreign) = writers.iter().find(|writer| !writer.is_of(core)) {
            return Err(Error::InvalidInput(format!(
                "facet {}: it is in another store, and a transaction is in one",
                foreign.base().facet().name()
            )));
        }
        let tickets = writers.iter().map(|writer| writer.base().facet().latest_ticket());
        let nothing_changed = tickets.max().unwrap_or(Ticket::DURABLE);
        let mut dirty: Vec<_> = writers.iter_mut().filter(|writer| writer.is_dirty()).collect();
        match dirty.as_mut_slice() {
            [] => return Ok(nothing_changed),
            [single] => return single.commit(log_buffer),
            _ => {}
        }
        let group = Group::new(dirty)?;
        let admission = core.log.admit(
            &core.segments,
            group.bytes_max(),
            group.growth_max(),
            Purpose::Commit,
        )?;
        // Forks lock several facets too, in the order of their names, with the catalog locked.
        let _catalog = self.shared.catalog();
        group.append(core, admission, log_buffer)
    }
}
