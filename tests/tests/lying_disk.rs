//! A disk that lies: writes that were lost, cut short or put elsewhere, and bits that turned, at every
//! operation of a workload. What is shown is a version there was, or an error that names the damage; and
//! what is taken back without an error is the last batch at most.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "it is a test")]

use std::collections::BTreeMap;
use std::sync::Arc;

use lapidary_engine::{ErrorKind, Facet, FacetName, PageNo, PageSize, Result, Store, View};
use lapidary_tests::sim_disk::{Fault, SimDisk, Survival};
use lapidary_tests::world::World;

const FACETS: [&str; 3] = ["a", "b", "c"];
const PAGES: u32 = 6;
const ROUNDS: u8 = 14;
const SEED: u64 = 5;

/// What every version of every facet holds: the first byte of each page.
#[derive(Default)]
struct History {
    versions: BTreeMap<(&'static str, u64), Vec<u8>>,
    /// The newest version of each facet that was acknowledged before the last batch.
    surely: BTreeMap<&'static str, u64>,
}

fn name(text: &str) -> FacetName {
    FacetName::new(text).unwrap()
}

fn world() -> World {
    World::new(SEED)
}

/// Compares what the store shows with what was once there; whether anything was said to be damaged.
fn check(store: &Store, history: &History, context: &str) -> bool {
    let mut is_told = false;
    for facet in FACETS {
        let found = store.open_facet(&name(facet)).and_then(|facet| facet.snapshot(View::Durable));
        let snapshot = match found {
            Ok(snapshot) => snapshot,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                assert!(!history.surely.contains_key(facet), "{context}: {facet} is gone: {error}");
                continue;
            }
            Err(error) => {
                told(&error, context);
                is_told = true;
                continue;
            }
        };
        let version = snapshot.version().0;
        let expected = history.versions.get(&(facet, version));
        let expected =
            expected.unwrap_or_else(|| panic!("{context}: {facet} has version {version}"));
        let least = history.surely.get(facet).copied().unwrap_or_default();
        assert!(version >= least, "{context}: {facet} is at {version}, and {least} was durable");
        assert_eq!(snapshot.page_count() as usize, expected.len(), "{context}: {facet}");
        for (page, byte) in (1..).map(PageNo).zip(expected) {
            let mut image = vec![0; snapshot.page_size().unwrap().bytes()];
            match snapshot.read_page(page, &mut image) {
                Ok(()) => assert!(
                    image.iter().all(|found| found == byte),
                    "{context}: page {page} of {facet}, version {version}, is not what was written"
                ),
                Err(error) => {
                    told(&error, context);
                    is_told = true;
                }
            }
        }
    }
    is_told
}

/// Damage that was found is an answer.
fn told(error: &lapidary_engine::Error, context: &str) {
    assert!(
        matches!(error.kind(), ErrorKind::Corruption | ErrorKind::Reopen),
        "{context}: told as {:?}: {error}",
        error.kind()
    );
}

fn commit(facet: &Arc<Facet>, round: u8, pages: &mut Vec<u8>) -> Result<u64> {
    let mut writer = facet.begin_write_latest()?;
    if writer.page_size().is_none() {
        writer.set_page_size(PageSize::from_bytes(1024).unwrap())?;
    }
    for page in (0..PAGES).filter(|page| page % 3 == u32::from(round) % 3 || pages.is_empty()) {
        writer.write_page(PageNo(page + 1), &[round + 1; 1024])?;
    }
    writer.commit(0)?;
    pages.resize(PAGES as usize, round + 1);
    for page in (0..PAGES).filter(|page| page % 3 == u32::from(round) % 3) {
        pages[page as usize] = round + 1;
    }
    Ok(facet.latest_version().0)
}

/// Commits, flushes, checkpoints, cleans and reads, until something says that it is damaged.
fn live(store: &Store, history: &mut History, context: &str) -> Result<()> {
    let mut now: BTreeMap<&'static str, (u64, Vec<u8>)> = BTreeMap::new();
    for facet in FACETS {
        let version = store.create_facet(&name(facet))?.latest_version().0;
        history.versions.insert((facet, version), Vec::new());
        now.insert(facet, (version, Vec::new()));
    }
    store.flush()?;
    let mut before: BTreeMap<&'static str, u64> = BTreeMap::new();
    for round in 0..ROUNDS {
        for facet in FACETS.iter().filter(|facet| round % 2 == 0 || **facet != "c") {
            let handle = store.open_facet(&name(facet))?;
            let (version, pages) = now.get_mut(facet).unwrap();
            *version = commit(&handle, round, pages)?;
            history.versions.insert((facet, *version), pages.clone());
        }
        store.flush()?;
        // What was durable before this batch was written.
        history.surely = std::mem::take(&mut before);
        before = now.iter().map(|(facet, (version, _))| (*facet, *version)).collect();
        check(store, history, context);
        if round % 4 == 2 {
            store.checkpoint()?;
        }
        if round % 6 == 5 {
            store.clean()?;
            store.checkpoint()?;
        }
    }
    Ok(())
}

/// A life on `disk` and what the next process finds after each kind of end: whether anything was said to
/// be damaged.
fn whole_story(disk: &SimDisk, context: &str) -> bool {
    let mut is_told = false;
    let mut history = History::default();
    match world().open(disk, true) {
        Ok(store) => {
            if let Err(error) = live(&store, &mut history, context) {
                told(&error, context);
                is_told = true;
            }
        }
        Err(error) => {
            told(&error, context);
            return true;
        }
    }
    for (end, next) in [
        ("killed", disk.after_kill()),
        ("after a power loss", disk.after_crash(Survival::Nothing)),
        ("after a power loss that spared all", disk.after_crash(Survival::Everything)),
    ] {
        let context = format!("{context}, {end}");
        match world().open(&next, false) {
            Ok(store) => is_told |= check(&store, &history, &context),
            Err(error) => {
                is_told = true;
                let is_refused = matches!(
                    error.kind(),
                    ErrorKind::Corruption | ErrorKind::NotFound | ErrorKind::InvalidInput
                );
                assert!(is_refused, "{context}: refused as {:?}: {error}", error.kind());
            }
        }
    }
    is_told
}

/// Operations and reads of a life in which nothing goes wrong.
fn honest() -> (SimDisk, History) {
    let disk = SimDisk::new(SEED);
    let mut history = History::default();
    let store = world().open(&disk, true).unwrap();
    live(&store, &mut history, "an honest disk").unwrap();
    drop(store);
    (disk, history)
}

#[test]
fn lies_at_every_operation() {
    let operations = honest().0.operations();
    assert!(operations > 60, "{operations} operations are no workload");
    let mut told = 0;
    for fault in [Fault::Lost, Fault::Short, Fault::Misdirected] {
        for operation in 0..operations {
            // A misdirected write goes to a place that the seed chooses.
            let seeds = if fault == Fault::Misdirected { 3 } else { 1 };
            for seed in SEED..SEED + seeds {
                let disk = SimDisk::new(seed);
                disk.fail_at(operation, fault);
                let context = format!("{fault:?} at operation {operation}, seed {seed}");
                told += u64::from(whole_story(&disk, &context));
            }
        }
    }
    assert!(told > 3 * u64::from(ROUNDS), "damage was told of in {told} stories only");
}

#[test]
fn a_wrong_bit_in_every_read() {
    let (disk, history) = honest();
    let reads = disk.reads();
    for read in (0..reads).step_by(1 + reads as usize / 400) {
        let disk = SimDisk::new(SEED);
        disk.rot_read_at(read);
        whole_story(&disk, &format!("a wrong bit in read {read}"));
    }
    // And in those of recovery, after which the disk itself is as it was.
    let opened = disk.after_kill();
    drop(world().open(&opened, false).unwrap());
    for read in 0..opened.reads() {
        let next = disk.after_kill();
        next.rot_read_at(read);
        let context = format!("a wrong bit in read {read} of recovery");
        match world().open(&next, false) {
            Ok(store) => _ = check(&store, &history, &context),
            Err(error) => told(&error, &context),
        }
    }
}

#[test]
fn bits_that_turn_at_rest() {
    let (disk, history) = honest();
    for seed in 0..1500 {
        let next = disk.after_kill();
        let (file, at) = next.rot(seed).unwrap();
        let context = format!("a bit turned at {at} of {file}, seed {seed}");
        match world().open(&next, false) {
            Ok(store) => _ = check(&store, &history, &context),
            Err(error) => told(&error, &context),
        }
    }
}
