//! A local copy of a store in a bucket: power is lost at every operation of the disk, and what is left is no store
//! or a whole one.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use lapidary::bucket::{self, BucketError, Objects, Pulled};
use lapidary_engine::{Environment, ErrorKind, FileName, Store, StoreOptions};
use lapidary_tests::bucket_world::{BucketWorld, SimHost};
use lapidary_tests::chance::Chance;
use lapidary_tests::driver::{Scale, small_options};
use lapidary_tests::sim_disk::{SimDisk, Survival};
use lapidary_tests::sim_environment::SimEntropy;

const SEED: u64 = 1471;

/// A host that has shipped all it has.
fn shipped() -> (BucketWorld, SimHost) {
    let options = small_options(&mut Chance::from_seed(SEED), Scale::FULL);
    let mut world = BucketWorld::new(SEED, options);
    let machine = world.machine();
    let model = world.model();
    let chance = Chance::from_seed(SEED ^ 0xabcd);
    let mut host = world.take_over(machine, &[&model], true, chance).unwrap();
    for _ in 0..10 {
        host.run(4).unwrap();
        world.clock.advance_ms(500);
        host.ship().unwrap();
    }
    (world, host)
}

fn environment(world: &BucketWorld, disk: &SimDisk) -> Environment {
    Environment {
        io: Arc::new(disk.clone()),
        clock: Arc::new(world.clock.clone()),
        entropy: Arc::new(SimEntropy::new(disk.operations())),
    }
}

fn pull(world: &BucketWorld, disk: &SimDisk) -> Result<Pulled, BucketError> {
    let objects: Arc<dyn Objects> = Arc::new(world.bucket.host());
    bucket::pull(&objects, &environment(world, disk), &mut |_| ())
}

/// The store on `disk`, as a host opens it: not while the file `BUCKET` is there.
fn open(world: &BucketWorld, disk: &SimDisk, what: &str) -> Option<Arc<Store>> {
    let environment = environment(world, disk);
    if environment.io.open_read_only(FileName::Bucket).is_ok() {
        return None;
    }
    let options = StoreOptions { create: false, ..world.options.clone() };
    match Store::open(environment, options) {
        Ok(store) => Some(store),
        Err(error) => {
            assert_ne!(error.kind(), ErrorKind::Corruption, "{what}: {error}");
            None
        }
    }
}

/// The store on `disk` has what `host` had shipped.
#[track_caller]
fn check(host: &SimHost, store: &Store, what: &str) {
    let found = host.shipped.check_recovered(store);
    found.unwrap_or_else(|failure| panic!("{what}: {failure}"));
    let report = store.verify(&mut |_| ()).unwrap();
    assert!(report.is_clean(), "{what}: {:?}", report.findings);
}

#[test]
fn power_lost_at_every_operation_of_a_pull() {
    let (world, host) = shipped();
    let whole = SimDisk::new(SEED);
    let pulled = pull(&world, &whole).unwrap();
    assert_eq!((pulled.lsn, pulled.begun_again), (host.bucket.shipped_lsn(), 0));
    let operations = whole.operations();
    check(&host, &open(&world, &whole, "nothing happened").unwrap(), "nothing happened");
    assert!(operations > 20, "{operations}");
    let mut stores = 0;
    for operation in 0..operations {
        for survival in [Survival::Nothing, Survival::Everything, Survival::Random(operation)] {
            let what = format!("power lost at {operation} of {operations}, {survival:?}");
            let disk = SimDisk::new(SEED ^ operation);
            disk.crash_at(operation);
            assert!(pull(&world, &disk).is_err() && disk.is_stopped(), "{what}");
            // One of them is opened, the other pulled into again.
            let looked_at = disk.after_crash(survival);
            let opened = open(&world, &looked_at, &what);
            let is_store = opened.is_some();
            if let Some(store) = opened {
                check(&host, &store, &what);
            }
            stores += u32::from(is_store);
            let disk = disk.after_crash(survival);
            match pull(&world, &disk) {
                Ok(_) => assert!(!is_store, "{what}: a store was overwritten"),
                Err(error) => {
                    assert!(
                        is_store && matches!(error, BucketError::NotEmpty { .. }),
                        "{what}: {error}"
                    );
                }
            }
            check(&host, &open(&world, &disk, &what).unwrap(), &what);
        }
    }
    assert!(stores > 0, "the last operations leave a store");
}
