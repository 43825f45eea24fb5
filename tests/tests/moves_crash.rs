//! Power is lost at either host, or both, while a subtree moves from one store to another: every commit that was
//! acknowledged is there once in the end, and at no moment do both hosts serve the name.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "it is a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::Arc;

use lapidary::{DepartureState, Host, HostConfig, HostError, HostErrorKind};
use lapidary_engine::{Background, Environment, StoreOptions};
use lapidary_tests::chance::Chance;
use lapidary_tests::seeds::SIMULATION;
use lapidary_tests::sim_disk::{SimDisk, Survival};
use lapidary_tests::sim_environment::SimEntropy;
use lapidary_tests::world::World;

const ROOT: &str = "acme";
const NAMES: [&str; 3] = ["acme", "acme/1", "acme/1/x"];

fn open(world: &World, disk: &SimDisk, entropy: u64) -> Result<Host, HostError> {
    let store =
        StoreOptions { create: true, background: Background::Threads, ..world.options.clone() };
    let config = HostConfig::new().cores(NonZeroUsize::MIN).pin_cores(false).store(store);
    let mut environment = Environment::with_io(Arc::new(disk.clone()));
    environment.entropy = Arc::new(SimEntropy::new(entropy));
    Host::open_in(environment, config)
}

/// What was acknowledged, and what was tried.
#[derive(Default)]
struct Known {
    acknowledged: BTreeSet<u64>,
    tried: u64,
}

impl Known {
    /// Inserts a row, which the host serves.
    fn put(&mut self, host: &Host, name: &str) -> Result<(), HostError> {
        let n = self.tried;
        self.tried += 1;
        let sql = format!("CREATE TABLE IF NOT EXISTS t(n); INSERT INTO t VALUES ({n})");
        host.facet(name)?.execute_batch(sql).wait()?;
        self.acknowledged.insert(n);
        Ok(())
    }
}

fn serves(host: &Host) -> bool {
    // What the catalog has: a stopped store answers no calls.
    NAMES.iter().any(|name| host.store().facet_exists(&lapidary::FacetName::new(name).unwrap()))
}

/// Looks at both after an opening.
fn check(source: &Host, destination: &Host, known: &mut Known) -> Result<(), HostError> {
    assert!(!(serves(source) && serves(destination)), "both serve it");
    if serves(source) {
        for name in NAMES {
            known.put(source, name)?;
        }
    } else {
        // It is sealed or gone: no call may create it anew.
        for name in NAMES {
            match known.put(source, name) {
                Err(error) if error.kind() == HostErrorKind::Moved => {}
                Err(error) => return Err(error),
                Ok(()) => panic!("the source serves {name} anew"),
            }
        }
    }
    if serves(destination) {
        known.put(destination, "acme/1")?;
    }
    Ok(())
}

/// Moves, while somebody writes.
fn go_on(
    source: &Host,
    destination: &Host,
    known: &mut Known,
    cancels: bool,
) -> Result<(), HostError> {
    if cancels {
        for departure in source.departures()? {
            if departure.state()? == DepartureState::Sealed {
                departure.cancel()?;
            }
        }
    }
    // What the source knows nothing of was cancelled.
    let ids: BTreeSet<_> = source.departures()?.iter().map(|gone| gone.id()).collect();
    for arrival in destination.arrivals()? {
        if !ids.contains(&arrival.id()) {
            arrival.discard()?;
        }
    }
    let moved = std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            if serves(source) {
                while known.put(source, "acme/1").is_ok() {}
            }
        });
        let moved = source.move_to_store(ROOT, destination, "the destination");
        if moved.is_err() && serves(source) {
            // It would write for ever.
            source.store().stop("the test");
        }
        writing.join().unwrap();
        moved
    });
    moved?;
    assert!(!serves(source), "the source serves what has moved");
    known.put(destination, "acme")
}

/// Every row that a host has in the subtree, and how often.
fn rows(host: &Host) -> BTreeMap<u64, u32> {
    let mut found = BTreeMap::new();
    for info in host.list(Some(ROOT), None, 100).wait().unwrap() {
        let facet = host.facet(info.name.as_str()).unwrap();
        let query = facet.query("SELECT n FROM t", (), |row| row.get::<_, i64>(0));
        for n in query.wait().unwrap() {
            *found.entry(n.cast_unsigned()).or_default() += 1;
        }
    }
    found
}

fn nothing_is_hidden(host: &Host) {
    assert!(host.departures().unwrap().is_empty() && host.arrivals().unwrap().is_empty());
    for info in host.store().list_facets(None, None, 1_000).unwrap() {
        let name = info.name.as_str();
        assert!(!name.starts_with(".departing") && !name.starts_with(".arriving"), "{name}");
    }
}

/// Which of the two crashes, at which operation from the beginning of the move on.
#[derive(Clone, Copy, Debug)]
struct Plan {
    source: u64,
    destination: u64,
}

/// Returns how many operations either did in the move.
fn live(seed: u64, plan: Plan) -> (u64, u64) {
    let world = World::new(seed);
    let chance = &mut Chance::from_seed(seed ^ plan.source << 20 ^ plan.destination);
    let mut disks = (SimDisk::new(seed), SimDisk::new(seed ^ 0x5eed));
    let mut known = Known::default();
    let mut operations = (0, 0);
    for life in 0..3_u64 {
        let entropy = seed ^ life << 32;
        if life > 0 {
            let (near, far) = (chance.number() % 97, chance.number() % 97);
            if chance.one_in(2) {
                disks.0.crash_at(disks.0.operations() + near);
            }
            if chance.one_in(2) {
                disks.1.crash_at(disks.1.operations() + far);
            }
        }
        let opened = (open(&world, &disks.0, entropy), open(&world, &disks.1, entropy ^ 1));
        if let (Ok(source), Ok(destination)) = &opened {
            if life == 0 {
                for name in NAMES {
                    known.put(source, name).unwrap();
                }
                let begun = (disks.0.operations(), disks.1.operations());
                disks.0.crash_at(begun.0.saturating_add(plan.source));
                disks.1.crash_at(begun.1.saturating_add(plan.destination));
                let _ = go_on(source, destination, &mut known, false);
                operations = (disks.0.operations() - begun.0, disks.1.operations() - begun.1);
            } else {
                // The errors are those of a disk without power.
                let cancels = chance.one_in(3);
                let _ = check(source, destination, &mut known)
                    .and_then(|()| go_on(source, destination, &mut known, cancels));
            }
        }
        disks = [&disks.0, &disks.1]
            .map(|disk| {
                // One that had no crash is killed, or shut down as it should be.
                if chance.one_in(4) {
                    disk.after_kill()
                } else {
                    disk.after_crash(Survival::Random(chance.number()))
                }
            })
            .into();
        drop(opened);
    }
    disks.0.clear_faults();
    disks.1.clear_faults();
    let source = open(&world, &disks.0, seed ^ 77).unwrap();
    let destination = open(&world, &disks.1, seed ^ 78).unwrap();
    check(&source, &destination, &mut known).unwrap();
    go_on(&source, &destination, &mut known, chance.one_in(3)).unwrap();
    assert!(rows(&source).is_empty());
    let found = rows(&destination);
    for n in &known.acknowledged {
        assert_eq!(found.get(n), Some(&1), "row {n} was acknowledged");
    }
    assert!(found.values().all(|count| *count == 1), "{found:?}");
    for name in NAMES {
        let refused = source.facet(name).unwrap().execute("CREATE TABLE u(n)", ()).wait();
        assert_eq!(refused.unwrap_err().kind(), HostErrorKind::Moved);
    }
    nothing_is_hidden(&source);
    nothing_is_hidden(&destination);
    source.shutdown().unwrap();
    destination.shutdown().unwrap();
    operations
}

fn run(seed: u64, plan: Plan) {
    if std::panic::catch_unwind(|| live(seed, plan)).is_err() {
        panic!("{plan:?}; to repeat: {}", SIMULATION.replay(seed, "--test moves_crash"));
    }
}

#[test]
fn a_move_survives_crashes_of_either_host() {
    const NEVER: u64 = u64::MAX;
    for seed in SIMULATION.seeds(2) {
        let whole = live(seed, Plan { source: NEVER, destination: NEVER });
        let step = usize::try_from(seed % 2).unwrap() + 1;
        for source in (0..whole.0).step_by(step) {
            run(seed, Plan { source, destination: NEVER });
        }
        for destination in (0..whole.1).step_by(step) {
            run(seed, Plan { source: NEVER, destination });
        }
        for source in (0..whole.0).step_by(3) {
            let destination = (source * 7 + seed % 5) % whole.1.max(1);
            run(seed, Plan { source, destination });
        }
    }
}
