//! The rows of `docs/COMMIT_CONTRACT.md`: what the caller of a commit is told, and what a store that
//! is opened afterwards has. One test for each row, named after it.
//!
//! The transaction is the same in all of them: [`PAGES`] pages of facet `a`, all of which were
//! [`OLD`] and are to be [`NEW`]. So a transaction that is half there is seen.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "it is a test")]

mod acknowledged;
mod ended;
mod groups;
mod host;
mod in_flight;
mod refused;
mod sqlite;
mod stopped;
mod table;
mod versions;

use std::collections::BTreeSet;
use std::sync::Arc;

use lapidary_engine::{
    Background, Error, ErrorKind, Facet, FormatParams, PageNo, PageSize, Snapshot, Store,
    StoreOptions, Ticket, Tunables, View, Writer,
};
use lapidary_tests::driver::name;
use lapidary_tests::hooks::HookedDisk;
use lapidary_tests::sim_disk::{Fault, SimDisk, Survival};
use lapidary_tests::sim_environment::environment;

pub(crate) const PAGE: usize = 1024;
pub(crate) const PAGES: u32 = 12;
pub(crate) const OLD: u8 = 1;
pub(crate) const NEW: u8 = 2;
/// For rows that chance has a say in.
pub(crate) const SEEDS: std::ops::Range<u64> = 0..40;

pub(crate) fn options() -> StoreOptions {
    StoreOptions {
        create: true,
        format: FormatParams { segment_bytes_min: 64 << 10, segment_bytes_max: 64 << 10 },
        tunables: Tunables::default(),
        background: Background::Manual,
    }
}

/// Spills after a few pages.
pub(crate) fn spilling() -> StoreOptions {
    let tunables = Tunables { spill_bytes: 4 * PAGE, ..Tunables::default() };
    StoreOptions { tunables, ..options() }
}

/// A store whose facet `a` is durably [`OLD`].
pub(crate) struct Trial {
    pub(crate) disk: HookedDisk,
    pub(crate) store: Arc<Store>,
    pub(crate) facet: Arc<Facet>,
    pub(crate) seed: u64,
}

impl Trial {
    pub(crate) fn new(seed: u64) -> Self {
        Self::with(seed, options())
    }

    pub(crate) fn with(seed: u64, options: StoreOptions) -> Self {
        let disk = HookedDisk::new(SimDisk::new(seed));
        let store = Store::open(environment(Arc::new(disk.clone()), seed), options).unwrap();
        let facet = store.create_facet(&name("a")).unwrap();
        commit(&facet, OLD).unwrap();
        store.flush().unwrap();
        Self { disk, store, facet, seed }
    }

    /// The disk under the hooks.
    pub(crate) fn sim(&self) -> &SimDisk {
        &self.disk.disk
    }

    /// Lets the operation that is `after` operations from now fail.
    pub(crate) fn fail(&self, after: u64, fault: Fault) {
        self.sim().fail_at(self.sim().operations() + after, fault);
    }

    /// What the facet is after the process was killed, and after power losses of several kinds:
    /// all different answers.
    pub(crate) fn after_reopening(&self) -> BTreeSet<u8> {
        let power_losses = [
            Survival::Nothing,
            Survival::Everything,
            Survival::Random(self.seed),
            Survival::Random(!self.seed),
        ];
        let mut disks: Vec<SimDisk> =
            power_losses.into_iter().map(|survival| self.sim().after_crash(survival)).collect();
        disks.push(self.sim().after_kill());
        disks.iter().map(reopened).collect()
    }

    /// Nothing of a refused transaction is anywhere: the log has not moved on, both views show
    /// [`OLD`], and so does the store after any end. Then the same transaction succeeds.
    pub(crate) fn assert_refused_and_going(&self, before: Ticket) {
        assert_eq!(self.store.current_ticket(), before, "nothing was appended");
        assert_eq!(
            (shown(&self.facet, View::Latest), shown(&self.facet, View::Durable)),
            (OLD, OLD)
        );
        self.store.flush().unwrap();
        assert_eq!(self.after_reopening(), [OLD].into());
        self.sim().set_capacity(None);
        let ticket = commit(&self.facet, NEW).unwrap();
        self.store.wait_durable(ticket).unwrap();
        assert_eq!(self.after_reopening(), [NEW].into());
    }

    /// The store has stopped: nothing is committed, read or acknowledged any more, though the disk
    /// works again. `lost` was not durable.
    pub(crate) fn assert_stopped(&self, lost: Ticket) {
        self.sim().clear_faults();
        for _ in 0..2 {
            assert_stop(self.store.wait_durable(lost));
            assert_stop(self.store.is_durable(lost));
            assert_stop(self.store.flush());
            assert_stop(self.store.checkpoint());
            assert_stop(self.store.clean());
            assert_stop(self.facet.snapshot(View::Durable));
            assert_stop(self.facet.bookmark());
            assert_stop(self.store.open_facet(&name("a")));
            assert_stop(self.store.create_facet(&name("b")));
            assert_stop(self.store.delete_facet(&name("a")));
        }
        assert_stop(self.store.close());
    }
}

pub(crate) fn assert_stop<T: std::fmt::Debug>(result: Result<T, Error>) {
    let error = result.expect_err("the store has stopped");
    assert!(matches!(error, Error::Poisoned { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Reopen);
}

/// Stages the transaction.
pub(crate) fn stage(facet: &Arc<Facet>, byte: u8) -> Result<Writer, Error> {
    let mut writer = facet.begin_write_latest()?;
    if writer.page_size().is_none() {
        writer.set_page_size(PageSize::from_bytes(PAGE).unwrap())?;
    }
    for page in 1..=PAGES {
        writer.write_page(PageNo(page), &[byte; PAGE])?;
    }
    Ok(writer)
}

pub(crate) fn commit(facet: &Arc<Facet>, byte: u8) -> Result<Ticket, Error> {
    stage(facet, byte)?.commit(0)
}

/// The byte of all pages.
pub(crate) fn content(snapshot: &Snapshot) -> u8 {
    assert_eq!(snapshot.page_count(), PAGES);
    let mut bytes = BTreeSet::new();
    for page in 1..=PAGES {
        let mut content = [0; PAGE];
        snapshot.read_page(PageNo(page), &mut content).unwrap();
        bytes.extend(content);
    }
    assert_eq!(bytes.len(), 1, "half a transaction: {bytes:?}");
    bytes.pop_first().unwrap()
}

pub(crate) fn shown(facet: &Arc<Facet>, view: View) -> u8 {
    content(&facet.snapshot(view).unwrap())
}

pub(crate) fn open(disk: &SimDisk) -> Arc<Store> {
    let options = StoreOptions { create: false, ..options() };
    Store::open(environment(Arc::new(disk.clone()), 99), options).unwrap()
}

/// What facet `a` is when the store is opened again: the same after another loss of power, since
/// what is shown to anybody must stay.
pub(crate) fn reopened(disk: &SimDisk) -> u8 {
    let store = open(disk);
    let found = shown(&store.open_facet(&name("a")).unwrap(), View::Durable);
    // Opening takes no space; verifying may, for the checkpoint that it begins with.
    let disk = disk.after_crash(Survival::Nothing);
    let again = open(&disk);
    disk.set_capacity(None);
    assert_eq!(shown(&again.open_facet(&name("a")).unwrap(), View::Durable), found);
    let report = again.verify(&mut |_| ()).unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
    found
}

/// Both answers were seen: the row is decided by opening the store, and not always the same way.
pub(crate) fn assert_undecided(answers: &BTreeSet<u8>) {
    assert_eq!(*answers, [OLD, NEW].into());
}
/// Fills the disk until a commit is refused for lack of space.
pub(crate) fn fill(trial: &Trial) -> Error {
    trial.sim().set_capacity(Some(trial.sim().used_bytes()));
    let filler = match trial.store.open_or_create_facet(&name("filler")) {
        Ok(filler) => filler,
        Err(error) => return error,
    };
    for byte in 0..200 {
        match commit(&filler, byte) {
            Ok(ticket) => trial.store.wait_durable(ticket).unwrap(),
            Err(error) => return error,
        }
    }
    panic!("the disk never gets full");
}

pub(crate) fn assert_no_space(error: &Error) {
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(error.to_string().contains("nothing of this transaction was written"), "{error}");
}
