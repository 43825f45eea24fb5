//! A process dies while the first batch of a fresh segment is written: the page cache shows the
//! segment's header, the disk may not have it. Recovery must not leave the replay position in that
//! segment, since a checkpoint before the next commit would put it into the superblock, and a power
//! loss would then take the header and with it the store.
#![allow(clippy::unwrap_used, reason = "it is a test")]

use lapidary_engine::PageNo;
use lapidary_tests::chance::Chance;
use lapidary_tests::driver::{Driver, Progress, Tolerated, name};
use lapidary_tests::sim_disk::{Fault, SimDisk, Survival};
use lapidary_tests::world::{Life, World};

/// Creates a store and a facet, and flushes, with a misfortune at one operation.
fn first_life(world: &World, disk: &SimDisk) -> Life {
    let Ok(store) = world.open(disk, true) else {
        return Life {
            created: false,
            progress: Progress::Stopped,
            model: world.model(),
            log: String::new(),
        };
    };
    let mut driver = Driver::new(store, world.model(), disk.clone(), Chance::from_seed(1));
    driver.tolerated = Tolerated { io: true, no_space: false };
    let created = driver.create_named(&name("a")).unwrap();
    if created == Progress::Going {
        let _ = driver.store.flush();
    }
    Life::ended(driver, Progress::Stopped)
}

#[test]
fn a_checkpoint_right_after_recovery_survives_a_power_loss() {
    for seed in 0..12 {
        let world = World::new(seed);
        let undisturbed = SimDisk::new(seed);
        drop(first_life(&world, &undisturbed));
        for operation in 0..undisturbed.operations() {
            for is_kill in [true, false] {
                let disk = SimDisk::new(seed);
                if is_kill {
                    disk.crash_at(operation);
                } else {
                    disk.fail_at(operation, Fault::Io);
                }
                let life = first_life(&world, &disk);
                let what = format!("seed {seed}, operation {operation}, kill: {is_kill}");
                let disk = disk.after_kill();
                let mut driver = world
                    .recover(&disk, &life, Chance::from_seed(0))
                    .unwrap_or_else(|failure| panic!("{what}: {failure}"));
                driver.store.checkpoint().unwrap();
                driver.create_named(&name("b")).unwrap();
                driver.put(&name("b"), PageNo(1), 7).unwrap();
                driver.store.flush().unwrap();
                let life = Life::ended(driver, Progress::Going);
                assert_eq!(life.model.unacknowledged(), 0, "{what}");
                let disk = disk.after_crash(Survival::Nothing);
                world
                    .recover(&disk, &life, Chance::from_seed(0))
                    .unwrap_or_else(|failure| panic!("{what}: {failure}"));
            }
        }
    }
}
