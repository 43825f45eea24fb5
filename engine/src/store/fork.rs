//! Forks: facets that begin with what others have, in time and space that do not depend on how much
//! that is.

use std::sync::Arc;

use super::Store;
use crate::bookmark::Bookmark;
use crate::error::{Error, Result};
use crate::facet::{Content, Facet, image_bytes_max};
use crate::format::StoredRef;
use crate::format::record::{self, ForkEntry};
use crate::log::{Effect, ForkEffect};
use crate::map::Settled;
use crate::name::FacetName;
use crate::segments::Purpose;
use crate::types::{Lsn, PageNo, Ticket};

/// Which version of its source a fork begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForkFrom {
    /// The newest, durable or not; the fork is durable when that is.
    Latest,
    /// The newest that is durable.
    Durable,
    /// One of the past. When a subtree is forked, the bookmark is of the facet at its top, and all
    /// others begin with what they were when that version was committed; those that did not exist
    /// then are left out.
    Bookmark(Bookmark),
}

impl Store {
    /// Creates a facet that begins with what `from` has. Pages are shared until either side writes
    /// them; deleting one side keeps the other. Facets below `from` are not forked with it: see
    /// [`fork_subtree`](Self::fork_subtree).
    ///
    /// ```
    /// # use lapidary_engine::*;
    /// # use std::sync::Arc;
    /// # let environment = Environment::with_io(Arc::new(MemoryIo::new()));
    /// # let store = Store::open(environment, StoreOptions::create())?;
    /// store.create_facet(&FacetName::new("template")?)?;
    /// for number in 0..1000 {
    ///     let name = FacetName::new(format!("agents/{number}"))?;
    ///     store.fork_facet(&FacetName::new("template")?, &name, ForkFrom::Latest)?;
    /// }
    /// store.flush()?; // one sync for all of them
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// Nothing is changed: [`Error::FacetNotFound`], [`Error::FacetExists`];
    /// [`Error::BookmarkUnknown`] if that version is not kept; [`Error::QuotaExceeded`] where the new
    /// name is; [`Error::NoSpace`]; [`Error::MapCorrupt`] or [`Error::Io`] if the source cannot be
    /// read; [`Error::Poisoned`] or [`Error::Closed`].
    pub fn fork_facet(
        &self,
        from: &FacetName,
        to: &FacetName,
        version: ForkFrom,
    ) -> Result<(Arc<Facet>, Ticket)> {
        let (mut facets, ticket) = self.fork(from, to, version, false)?;
        Ok((facets.swap_remove(0), ticket))
    }

    /// Forks a facet and all below it, atomically: the forks have the same names below `to` as their
    /// sources have below `from`. Returns them in the order of their names.
    ///
    /// # Errors
    /// As [`fork_facet`](Self::fork_facet); [`Error::InvalidInput`] if `to` is within `from`;
    /// [`Error::InvalidName`] if a new name would break a rule.
    pub fn fork_subtree(
        &self,
        from: &FacetName,
        to: &FacetName,
        version: ForkFrom,
    ) -> Result<(Vec<Arc<Facet>>, Ticket)> {
        if to.is_within(from) {
            return Err(Error::InvalidInput(format!(
                "facet {from}: cannot be forked with all below it to {to}, which is itself or below it"
            )));
        }
        self.fork(from, to, version, true)
    }

    fn fork(
        &self,
        from: &FacetName,
        to: &FacetName,
        version: ForkFrom,
        whole_subtree: bool,
    ) -> Result<(Vec<Arc<Facet>>, Ticket)> {
        let shared = &self.shared;
        let core = &shared.core;
        // How much there is to say is known only with the catalog locked, when nothing can be
        // admitted any more.
        let mut facets_max = 1;
        let mut pages_max = 0;
        let mut growth_max = record::chunk_bytes(to.as_str().len());
        core.segments.set_shared();
        let mut logging_images = Vec::new();
        loop {
            let bytes = record::fork_bytes_max(facets_max, pages_max);
            let admission = core.log.admit(&core.segments, bytes, growth_max, Purpose::Commit)?;
            let mut catalog = shared.catalog_mut();
            let names = if whole_subtree {
                catalog.plan_names(from, to)?
            } else if catalog.contains(to) {
                return Err(Error::FacetExists { name: to.to_string() });
            } else {
                catalog.refusals.check(to, None)?;
                vec![(from.clone(), to.clone())]
            };
            let mut sources = Vec::with_capacity(names.len());
            for (source, name) in names {
                let source = catalog
                    .get(&source, core)
                    .ok_or_else(|| Error::FacetNotFound { name: source.to_string() })?;
                sources.push((source, name));
            }
            let as_of = match version {
                ForkFrom::Bookmark(bookmark) if whole_subtree => {
                    let of = sources.iter().find(|(source, _)| source.id() == bookmark.facet);
                    let (of, _) = of.ok_or_else(|| {
                        Error::InvalidInput(format!(
                            "facet {from}: {bookmark} is of no facet below it"
                        ))
                    })?;
                    Some(of.lsn_of(&bookmark)?)
                }
                _ => None,
            };
            // All locked until the record is appended: what a source becomes afterwards has a later
            // place in the log.
            let mut held = Vec::with_capacity(sources.len());
            let mut planned = Vec::with_capacity(sources.len());
            for (source, name) in &sources {
                let state = source.hold()?;
                let begins = match (version, as_of) {
                    (ForkFrom::Latest, _) => Some(None),
                    (ForkFrom::Durable, _) => Some(state.durable_if_older()),
                    (ForkFrom::Bookmark(bookmark), None) => {
                        Some(Some(state.content_at(&bookmark)?))
                    }
                    (ForkFrom::Bookmark(_), Some(lsn)) => state.content_as_of(lsn).map(Some),
                };
                if let Some(content) = begins {
                    planned.push(Planned {
                        name,
                        source,
                        differing: state.differing(&content),
                        content,
                        latest: state.latest(),
                    });
                }
                held.push(state);
            }
            // Pages that have to be named must be stored: so they are after a checkpoint, if no more deltas
            // come in between.
            let unstored: Vec<Arc<Facet>> = planned
                .iter()
                .filter(|planned| planned.is_unstored())
                .map(|planned| Arc::clone(planned.source))
                .collect();
            if !unstored.is_empty() {
                drop(planned);
                drop(held);
                drop(catalog);
                drop(admission);
                logging_images.extend(unstored.iter().map(Facet::log_images));
                shared.checkpoint()?;
                continue;
            }
            let bytes = |planned: &Planned<'_>| planned.begins().meta.logical_bytes();
            let arrivals = planned.iter().map(|planned| (planned.name, bytes(planned)));
            catalog.settings.check_room(arrivals, None)?;
            let pages = planned.iter().map(|planned| planned.differing.len()).sum();
            let growth = planned.iter().map(Planned::growth_max).sum();
            if planned.len() > facets_max || pages > pages_max || growth > growth_max {
                (facets_max, pages_max) = (planned.len(), pages);
                growth_max = growth_max.max(growth);
                continue;
            }
            if planned.is_empty() {
                return Err(Error::InvalidInput(format!(
                    "facet {from}: nothing of it was there then"
                )));
            }

            // If something panics from here on, the catalog has what the log does not.
            let _unwinding = core.log.poison_if_unwinding();
            let mut facets = Vec::with_capacity(planned.len());
            let mut entries = Vec::with_capacity(planned.len());
            let mut effects = Vec::with_capacity(planned.len());
            for Planned { name, source, content, latest, differing } in planned {
                let mut begins = content.as_ref().unwrap_or(&latest).clone();
                begins.meta.lsn = Lsn(0);
                // A crash can take the fork, and another may get its number: what that begins with
                // must not look like this.
                begins.meta.incarnation = core.incarnation;
                let meta = begins.meta;
                let limits = catalog.settings.limits_of(name, &core.tunables);
                limits.quotas.iter().for_each(|quota| quota.add(meta.logical_bytes()));
                let (id, family) = (catalog.next(), source.family());
                let facet =
                    Facet::forked(Arc::clone(core), id, family, name.clone(), begins, limits);
                catalog.insert(name.clone(), Arc::clone(&facet));
                entries.push(ForkEntry {
                    facet: id,
                    name: name.clone(),
                    source: source.id(),
                    source_version: latest.meta.version,
                    meta,
                    pages: differing.iter().map(placed).collect(),
                });
                let source = Arc::clone(source);
                let incarnation = core.incarnation;
                effects.push(ForkEffect {
                    facet: Arc::clone(&facet),
                    source,
                    content,
                    incarnation,
                });
                facets.push(facet);
            }
            let wall_ms = core.environment.clock.wall_ms();
            let ticket = core.log.append(admission, 0, |lsn, out| {
                entries.iter_mut().for_each(|entry| entry.meta.lsn = lsn);
                record::encode_fork(lsn, wall_ms, &entries, out);
                Effect::Fork(effects)
            });
            drop(held);
            for facet in &facets {
                facet.set_created(ticket.lsn());
                facet.set_name_ticket(ticket);
            }
            return Ok((facets, ticket));
        }
    }
}

/// A facet that is about to be forked.
struct Planned<'a> {
    name: &'a FacetName,
    source: &'a Arc<Facet>,
    /// What the fork begins with; `None`: with the source's latest version.
    content: Option<Content>,
    latest: Content,
    /// Where those two differ.
    differing: Vec<(PageNo, Settled)>,
}

/// # Panics
/// If the page is in memory alone.
fn placed((page, settled): &(PageNo, Settled)) -> (PageNo, Option<StoredRef>) {
    match settled {
        Settled::Stored(reference) => (*page, *reference),
        Settled::Unstored(_) => panic!("what a fork names is stored"),
    }
}

impl Planned<'_> {
    fn is_unstored(&self) -> bool {
        self.differing.iter().any(|(_, page)| matches!(page, Settled::Unstored(_)))
    }

    fn begins(&self) -> &Content {
        self.content.as_ref().unwrap_or(&self.latest)
    }

    /// What it adds to the checkpoint that is due, at most.
    fn growth_max(&self) -> u64 {
        let begins = self.begins();
        record::map_bytes_max(begins.meta.page_count)
            + record::chunk_bytes(self.name.as_str().len())
            + begins.map.unstored_pages() * image_bytes_max(begins.meta.page_size)
    }
}
