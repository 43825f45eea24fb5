//! Small stores on full disks: whatever was committed, cleaned and deleted before, a commit that finds no room
//! is refused and nothing else is. Deletes work, checkpoints do, and the store never stops.
#![allow(clippy::unwrap_used, reason = "it is a test")]

use std::sync::Arc;
use std::time::Duration;

use lapidary_engine::{
    Background, ErrorKind, Facet, FacetName, ForkFrom, FormatParams, PageNo, PageSize, Retention,
    Store, StoreOptions, Tunables, View,
};
use lapidary_tests::chance::Chance;
use lapidary_tests::driver::name;
use lapidary_tests::failure::{Failure, wrong};
use lapidary_tests::seeds::SIMULATION;
use lapidary_tests::sim_disk::SimDisk;
use lapidary_tests::sim_environment::environment;

const FACETS: u32 = 4;
const PAGE_BYTES: usize = 4096;
const ROUNDS: u32 = 10;
const COMMITS_MAX: u32 = 500;
const SEGMENT_BYTES: u32 = 64 << 10;

struct Disk {
    store: Arc<Store>,
    disk: SimDisk,
    chance: Chance,
}

/// What may be refused for lack of space, whether it was.
fn refused<T>(what: &str, result: lapidary_engine::Result<T>) -> Result<bool, Failure> {
    match result {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == ErrorKind::NoSpace => Ok(true),
        Err(error) => Err(Failure::from(error).within(what)),
    }
}

impl Disk {
    /// A store on a disk that holds so few segments that it is soon full.
    fn new(seed: u64) -> Self {
        let mut chance = Chance::from_seed(seed);
        let disk = SimDisk::new(seed);
        let kept = Retention { bytes: 200 << 10, age: Duration::from_secs(1 << 30) };
        let options = StoreOptions {
            format: FormatParams {
                segment_bytes_min: SEGMENT_BYTES,
                segment_bytes_max: 4 * SEGMENT_BYTES,
            },
            tunables: Tunables {
                checkpoint_log_bytes: chance.pick(&[128 << 10, 512 << 10, 2 << 20]),
                retention: chance.pick(&[Retention::OFF, kept]),
                ..Tunables::default()
            },
            background: Background::Manual,
            ..StoreOptions::create()
        };
        let store = Store::open(environment(Arc::new(disk.clone()), seed), options).unwrap();
        disk.set_capacity(Some(u64::from(chance.between(12, 40) * SEGMENT_BYTES)));
        Self { store, disk, chance }
    }

    /// Some facet, old, new or forked; none if there is no room for a new one.
    fn facet(&mut self) -> Result<Option<Arc<Facet>>, Failure> {
        let (name, other) = (self.name(), self.name());
        if self.store.facet_exists(&name) {
            return Ok(Some(self.store.open_facet(&name)?));
        }
        let is_refused = if self.store.facet_exists(&other) && self.chance.one_in(2) {
            let forked = self.store.fork_facet(&other, &name, ForkFrom::Latest);
            refused("a fork", forked)?
        } else {
            refused("a creation", self.store.create_facet(&name))?
        };
        if is_refused { Ok(None) } else { Ok(Some(self.store.open_facet(&name)?)) }
    }

    fn name(&mut self) -> FacetName {
        name(&format!("facet-{}", self.chance.below(FACETS)))
    }

    /// Commits some pages, of which `growth` in ten are new; whether there was no room.
    fn commit(&mut self, growth: u32) -> Result<bool, Failure> {
        let Some(facet) = self.facet()? else { return Ok(true) };
        let mut writer = facet.begin_write(&facet.snapshot(View::Latest)?)?;
        if writer.page_size().is_none() {
            writer.set_page_size(PageSize::from_bytes(PAGE_BYTES).unwrap())?;
        }
        for _ in 0..self.chance.between(1, 12) {
            let pages = writer.page_count();
            let is_new = pages < 3 || self.chance.below(10) < growth;
            let page = PageNo(1 + if is_new { pages } else { self.chance.below(pages) });
            let mut noise = self.chance.split();
            let words = (0..PAGE_BYTES / 8).flat_map(|_| noise.number().to_le_bytes());
            if refused("staging", writer.write_page(page, &words.collect::<Vec<_>>()))? {
                return Ok(true);
            }
        }
        refused("a commit", writer.commit(0))
    }

    /// What the store's threads would do.
    fn maintain(&mut self, times: u32) -> Result<(), Failure> {
        for _ in 0..times {
            refused("maintenance", self.store.maintain())?;
        }
        Ok(())
    }

    /// Fills the disk; whether that was done.
    fn fill(&mut self) -> Result<bool, Failure> {
        let growth = self.chance.pick(&[0, 1, 3, 8]);
        for _ in 0..COMMITS_MAX {
            if self.commit(growth)? {
                return Ok(true);
            }
            if self.chance.one_in(2) {
                self.store.flush()?;
            }
            let times = self.chance.below(4);
            self.maintain(times)?;
            if self.chance.one_in(12) {
                self.store.clean()?;
            }
        }
        Ok(false)
    }

    /// Fills the disk and makes room, some times over; how often it was full.
    fn live(&mut self) -> Result<u32, Failure> {
        let mut full = 0;
        for _ in 0..ROUNDS {
            full += u32::from(self.fill()?);
            let times = self.chance.below(3);
            self.maintain(times)?;
            if self.chance.one_in(3) {
                self.store.checkpoint().map_err(|error| Failure::from(error).within("full"))?;
            }
            let listed = self.store.list_facets(None, None, FACETS as usize)?;
            let victim = &listed[self.chance.index(listed.len())].name;
            let deleted = self.store.delete_facet(victim);
            deleted.map_err(|error| Failure::from(error).within("a delete"))?;
            self.store.flush()?;
            let taken = self.store.checkpoint();
            taken.map_err(|error| Failure::from(error).within("a checkpoint after a delete"))?;
        }
        let report = self.store.verify(&mut |_| ())?;
        if !report.is_clean() {
            return wrong(format!("{:?}", report.findings));
        }
        Ok(full)
    }
}

#[test]
fn a_full_disk_refuses_commits_and_nothing_else() {
    let mut full = 0;
    for seed in SIMULATION.seeds(40) {
        let mut disk = Disk::new(seed);
        full += disk.live().unwrap_or_else(|failure| {
            panic!(
                "{failure}\n{:?}, {} bytes used\nto repeat: {}",
                disk.store.stat(),
                disk.disk.used_bytes(),
                SIMULATION.replay(seed, "--test small_full_disk")
            )
        });
    }
    assert!(full > 0, "no disk was full");
}
