//! Drives a store through operations decided by a [`Chance`], and compares every answer with the
//! reference model.

mod forks;
mod groups;
mod history;
mod names;
mod quotas;
mod transactions;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lapidary_engine::{
    Background, Error, ErrorKind, Facet, FacetId, FacetName, FormatParams, Lsn, Retention, Store,
    StoreOptions, Ticket, Tunables, View,
};

use crate::chance::Chance;
use crate::content::PAGE_SIZES;
use crate::failure::{Failure, wrong};
use crate::model::{Catalog, Change, FacetState, GENEROUS, Model, used_bytes as used_bytes_of};
use crate::sim_disk::SimDisk;
use history::Held;
use transactions::begin;

const NAMES: [&str; 8] = ["a", "a/b", "a/b/c", "b", "b/x", "c", "d/e", "zürich"];
/// A retention under which versions leave all the time.
const MEAGRE: Retention = Retention { bytes: 12 << 10, age: Duration::from_secs(3 * 24 * 3600) };

/// How large things get in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Page sizes that are used.
    pub page_sizes: &'static [usize],
    /// Above this, facets are shrunk and deleted rather than grown.
    pub total_bytes_max: usize,
    /// Above this, no subtree is forked.
    pub facets_max: usize,
    /// Pages that a large transaction changes.
    pub big: (u32, u32),
    /// Every bound of the store that is given in bytes is divided by two to the power of this.
    pub bounds_shift: u32,
}

impl Scale {
    /// Every page size, and transactions larger than the smallest segment.
    pub const FULL: Self = Self {
        page_sizes: &PAGE_SIZES,
        total_bytes_max: 600 << 10,
        facets_max: 24,
        big: (20, 200),
        bounds_shift: 0,
    };

    /// So little in a store that it is recovered and compared in about a millisecond; what happens to it
    /// is the same.
    pub const SMALL: Self = Self {
        page_sizes: PAGE_SIZES.first_chunk::<3>().expect("there are more").as_slice(),
        total_bytes_max: 24 << 10,
        facets_max: 8,
        big: (8, 40),
        bounds_shift: 2,
    };
}

/// Options with small segments and small bounds, so that a short run meets segment switches,
/// recycling, checkpoints and spills.
#[must_use]
pub fn small_options(chance: &mut Chance, scale: Scale) -> StoreOptions {
    let segment_bytes_min = 64 << 10;
    let shift = scale.bounds_shift;
    StoreOptions {
        create: true,
        format: FormatParams {
            segment_bytes_min,
            segment_bytes_max: segment_bytes_min << chance.below(3),
        },
        tunables: Tunables {
            log_buffers: chance.between(1, 3) as usize,
            buffered_bytes_max: chance.pick(&[16 << 10, 256 << 10, 32 << 20]) >> shift,
            spill_bytes: chance.pick(&[2 << 10, 16 << 10, 64 << 10]) >> shift,
            delta_memory_bytes_max: chance.pick(&[0, 8 << 10, 128 << 10, 64 << 20]),
            checkpoint_log_bytes: chance.pick(&[32 << 10, 128 << 10, 1 << 20]) >> shift,
            open_segments_max: chance.between(1, 4) as usize,
            retention: chance.pick(&[Retention::OFF, MEAGRE, GENEROUS, GENEROUS]),
            history_bytes_max: chance.pick(&[u64::MAX, u64::MAX, u64::MAX, 32 << 10]),
            ..Tunables::default()
        },
        background: Background::Manual,
    }
}

/// Which errors the disk was told to cause.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tolerated {
    /// A full disk.
    pub no_space: bool,
    /// I/O errors, which stop the store or refuse an operation.
    pub io: bool,
}

/// Whether a run can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It can.
    Going,
    /// The disk lost its power or the store stopped after an I/O error.
    Stopped,
}

/// How a call ended that may be refused or meet the end of the world.
enum Called<T> {
    Done(T),
    Refused,
    Stopped,
}

/// A store under test, its model, and what is held open of it.
pub struct Driver {
    /// The store.
    pub store: Arc<Store>,
    /// What it should hold.
    pub model: Model,
    /// Where the decisions come from.
    pub chance: Chance,
    /// Errors that are no failure of the store.
    pub tolerated: Tolerated,
    scale: Scale,
    disk: SimDisk,
    handles: BTreeMap<FacetId, Arc<Facet>>,
    deleted: Vec<Arc<Facet>>,
    held: Vec<Held>,
    is_amid_transaction: bool,
    log: Vec<String>,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("log", &self.log).finish_non_exhaustive()
    }
}

/// The name as the engine wants it.
#[must_use]
pub fn name(text: &str) -> FacetName {
    FacetName::new(text).expect("the names of the tests are good")
}

impl Driver {
    /// A driver of `store`, which lies on `disk` and holds what `model` says.
    #[must_use]
    pub fn new(store: Arc<Store>, model: Model, disk: SimDisk, chance: Chance) -> Self {
        Self {
            store,
            model,
            chance,
            tolerated: Tolerated::default(),
            scale: Scale::FULL,
            disk,
            handles: BTreeMap::new(),
            deleted: Vec::new(),
            held: Vec::new(),
            is_amid_transaction: false,
            log: Vec::new(),
        }
    }

    /// The same, with things of another size.
    #[must_use]
    pub fn of_scale(mut self, scale: Scale) -> Self {
        self.scale = scale;
        self
    }

    /// What was done so far, a line each.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.join("\n")
    }

    /// Runs up to `steps` operations.
    ///
    /// # Errors
    /// The first thing that is not as the model has it.
    pub fn run(&mut self, steps: u32) -> Result<Progress, Failure> {
        for _ in 0..steps {
            if self.chance.is_spent() {
                break;
            }
            if self.step()? == Progress::Stopped {
                return Ok(Progress::Stopped);
            }
        }
        Ok(Progress::Going)
    }

    /// One operation and its checks.
    ///
    /// # Errors
    /// What is not as the model has it.
    pub fn step(&mut self) -> Result<Progress, Failure> {
        let progress = match self.chance.below(146) {
            0..35 => self.commit(false),
            35..39 => self.commit(true),
            39..49 => self.create(),
            49..53 => self.delete(),
            53..58 => self.rename(),
            58..70 => self.flush(),
            70..74 => self.wait(),
            74..78 => self.checkpoint(),
            78..86 => self.maintain(),
            86..90 => self.hold(),
            90..94 => self.check_held(),
            94..96 => self.check_live(),
            96..100 => self.check_refusals(),
            100..108 => self.fork(),
            108..112 => self.fork_subtree(),
            112..119 => self.restore(),
            119..124 => self.check_history(),
            124..128 => self.set_quota(),
            128..132 => self.set_retention(),
            132..138 => self.clean(),
            138..144 => self.commit_group(),
            _ => self.verify(),
        };
        // What was acknowledged stays acknowledged, whatever the operation came to.
        self.model.acknowledge(self.store.durable_lsn());
        match progress {
            // A check that could not read because the world has ended is no failed check.
            Err(Failure::Refused(_, kind))
                if self.disk.is_stopped() || (kind == ErrorKind::Reopen && self.tolerated.io) =>
            {
                Ok(Progress::Stopped)
            }
            progress => progress.map_err(|failure| failure.after(self.log())),
        }
    }

    fn note(&mut self, line: impl Into<String>) {
        self.log.push(format!("{:4} {}", self.disk.operations(), line.into()));
    }

    /// Sorts the result of a call into done, refused for a planned reason, or the end.
    fn called<T>(&mut self, result: Result<T, Error>) -> Result<Called<T>, Failure> {
        let error = match result {
            Ok(value) => return Ok(Called::Done(value)),
            Err(error) => error,
        };
        self.note(format!("  -> {error}"));
        if self.disk.is_stopped() {
            return Ok(Called::Stopped);
        }
        match error.kind() {
            // Whether a quota refuses is known beforehand, so this is for no good reason.
            ErrorKind::NoSpace
                if self.tolerated.no_space && !matches!(error, Error::QuotaExceeded { .. }) =>
            {
                Ok(Called::Refused)
            }
            ErrorKind::Reopen if self.tolerated.io => Ok(Called::Stopped),
            ErrorKind::Io | ErrorKind::Unavailable if self.tolerated.io => Ok(Called::Refused),
            kind => wrong(format!("refused as {kind:?} for no planned reason: {error}")),
        }
    }

    /// Whether a quota refused, as it should with this name of the quota, and with what is used of it.
    fn expect_quota<T>(
        &mut self,
        quota: &FacetName,
        result: Result<T, Error>,
    ) -> Result<Progress, Failure> {
        if let Err(Error::QuotaExceeded { name, limit_bytes, used_bytes, .. }) = &result {
            let picture = self.model.latest_picture();
            let refusing = FacetName::new(name).ok().and_then(|name| {
                let limit = *picture.settings.quotas.get(&name)?;
                Some((limit, used_bytes_of(&picture.facets, &name) as u64))
            });
            if refusing != Some((*limit_bytes, *used_bytes)) {
                return wrong(format!(
                    "the quota of {name}, {limit_bytes} with {used_bytes} used, is said to refuse \
                     where it is {refusing:?}"
                ));
            }
            self.note("  -> refused by a quota");
            self.model.check_settings(&self.store)?;
        } else if let Err(error) = &result
            && error.kind() == ErrorKind::NoSpace
            && !self.tolerated.no_space
        {
            return wrong(format!("the quota of {quota} is in the way, and it says {error}"));
        }
        self.expect_kind("going over a quota", ErrorKind::NoSpace, result)
    }

    /// Records a change, or that nobody knows whether it happened.
    fn changed<T>(
        &mut self,
        called: &Called<T>,
        change: impl FnOnce(Option<&T>) -> Change,
    ) -> Progress {
        match called {
            Called::Done(value) => {
                let covering = self.store.current_ticket().lsn();
                self.model.record(change(Some(value)), covering);
                Progress::Going
            }
            Called::Refused => Progress::Going,
            Called::Stopped => {
                self.model.record_in_doubt(change(None));
                Progress::Stopped
            }
        }
    }

    fn expect_kind<T>(
        &mut self,
        what: &str,
        kind: ErrorKind,
        result: Result<T, Error>,
    ) -> Result<Progress, Failure> {
        match result {
            Err(error) if error.kind() == kind => Ok(Progress::Going),
            Err(error) => match self.called::<T>(Err(error))? {
                Called::Stopped => Ok(Progress::Stopped),
                _ => Ok(Progress::Going),
            },
            Ok(_) => wrong(format!("{what} succeeded where {kind:?} is due")),
        }
    }

    fn flush(&mut self) -> Result<Progress, Failure> {
        self.note("flush");
        let due = self.store.current_ticket();
        let result = self.store.flush();
        self.ended(result, due)
    }

    fn wait(&mut self) -> Result<Progress, Failure> {
        self.note("wait");
        let due = self.store.current_ticket();
        let result = self.store.wait_durable(due);
        self.ended(result, due)
    }

    fn checkpoint(&mut self) -> Result<Progress, Failure> {
        self.note("checkpoint");
        let result = self.store.checkpoint();
        self.ended(result, Ticket::DURABLE)
    }

    fn maintain(&mut self) -> Result<Progress, Failure> {
        self.note("maintain");
        let result = self.store.maintain();
        self.ended(result.map(drop), Ticket::DURABLE)
    }

    fn clean(&mut self) -> Result<Progress, Failure> {
        let result = self.store.clean();
        let moved_bytes = result.as_ref().map_or(0, |cleaned| cleaned.moved_bytes);
        self.note(format!("clean: {moved_bytes} bytes moved"));
        self.ended(result.map(drop), Ticket::DURABLE)
    }

    /// Has the store look at itself: everything can be read, and what it counts as live is what can
    /// be reached.
    ///
    /// # Errors
    /// What it finds.
    pub fn verify(&mut self) -> Result<Progress, Failure> {
        self.note("verify");
        let result = self.store.verify(&mut |_| ());
        if let Ok(report) = &result
            && !report.is_clean()
        {
            return wrong(format!("the store finds fault with itself: {:?}", report.findings));
        }
        self.ended(result.map(drop), Ticket::DURABLE)
    }

    /// After a call that, if it succeeded, made everything up to `due` durable.
    fn ended(&mut self, result: Result<(), Error>, due: Ticket) -> Result<Progress, Failure> {
        match self.called(result)? {
            Called::Done(()) => {
                if self.store.durable_lsn() < due.lsn()
                    || !matches!(self.store.is_durable(due), Ok(true))
                {
                    return wrong(format!("it returned, but LSN {} is not durable", due.lsn()));
                }
                Ok(Progress::Going)
            }
            Called::Refused => Ok(Progress::Going),
            Called::Stopped => Ok(Progress::Stopped),
        }
    }

    fn any_facet(&mut self) -> Option<FacetName> {
        let count = self.model.latest().len();
        if count == 0 {
            return None;
        }
        let index = self.chance.index(count);
        self.model.latest().keys().nth(index).cloned()
    }

    fn handle(&mut self, name: &FacetName) -> Result<Arc<Facet>, Failure> {
        let id = self.model.latest()[name].id;
        if !self.chance.one_in(4)
            && let Some(facet) = self.handles.get(&id)
        {
            return Ok(Arc::clone(facet));
        }
        let facet = self.store.open_facet(name)?;
        if facet.id() != id || facet.name() != *name {
            return wrong(format!("{name}, facet {id}, opens as {} {}", facet.name(), facet.id()));
        }
        self.handles.insert(id, Arc::clone(&facet));
        Ok(facet)
    }

    fn check_live(&mut self) -> Result<Progress, Failure> {
        self.model.acknowledge(self.store.durable_lsn());
        self.model.check_live(&self.store)?;
        Ok(Progress::Going)
    }

    /// A second writer, a writer on an old snapshot, deleted facets.
    fn check_refusals(&mut self) -> Result<Progress, Failure> {
        for facet in std::mem::take(&mut self.deleted) {
            if !facet.is_deleted() {
                return wrong(format!("{} was deleted and does not know it", facet.name()));
            }
        }
        let Some(name) = self.any_facet() else { return Ok(Progress::Going) };
        let facet = self.handle(&name)?;
        let old = facet.snapshot(View::Latest)?;
        let writer = begin(&facet)?;
        if !facet.has_writer() {
            return wrong(format!("{name} has a writer and does not know it"));
        }
        let second = facet.begin_write(&old);
        self.expect_kind("a second writer", ErrorKind::Busy, second)?;
        drop(writer);
        let progress = self.commit_to(&name, false)?;
        if progress == Progress::Going && facet.latest_version() > old.version() {
            let stale = facet.begin_write(&old);
            self.expect_kind("writing on an old snapshot", ErrorKind::Busy, stale)?;
        }
        Ok(progress)
    }

    /// Lets go of everything that keeps the store open, and returns the model.
    #[must_use]
    pub fn into_model(mut self) -> Model {
        self.model.acknowledge(self.store.durable_lsn());
        self.model
    }

    /// Closes the store, which makes everything durable, and returns the model.
    ///
    /// # Errors
    /// If the store refuses for no planned reason.
    pub fn close(mut self) -> Result<Model, Failure> {
        self.held.clear();
        let result = self.store.close();
        let called = self.called(result)?;
        self.model.acknowledge(self.store.durable_lsn());
        if let Called::Done(()) = called {
            self.model.acknowledge(Lsn(u64::MAX));
        }
        Ok(self.model)
    }
}

fn within<'a>(
    catalog: &'a Catalog,
    name: &'a FacetName,
) -> impl Iterator<Item = (&'a FacetName, &'a FacetState)> {
    catalog.iter().filter(|(other, _)| other.is_within(name))
}
