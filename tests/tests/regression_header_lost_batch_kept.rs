//! A crash takes the header of a segment that was just put to use, and leaves a batch that was written with it.
//! The segment's number was then given out again, and if the same file was used, the old batch passed for one
//! of the new segment's.
//!
//! Found by `engine_crash crash_and_recover_cycles`, seed 16586046532413528550.
#![allow(clippy::unwrap_used, reason = "it is a test")]

use lapidary_engine::{FileName, PageNo};
use lapidary_tests::chance::Chance;
use lapidary_tests::driver::{Driver, Progress, Tolerated, name};
use lapidary_tests::failure::Failure;
use lapidary_tests::sim_disk::{Operation, OperationKind, SimDisk, Survival};
use lapidary_tests::world::{Life, World};

fn create(world: &World, disk: &SimDisk) -> Driver {
    let store = world.open(disk, true).unwrap();
    let mut driver = Driver::new(store, world.model(), disk.clone(), Chance::from_seed(1));
    driver.tolerated = Tolerated { io: true, no_space: false };
    driver.create_named(&name("a")).unwrap();
    driver.store.flush().unwrap();
    driver
}

/// Commits `byte` and lets the sync that would make it durable lose its power.
fn commit_and_crash(mut driver: Driver, disk: &SimDisk, byte: u8) -> Life {
    driver.put(&name("a"), PageNo(1), byte).unwrap();
    let begun = disk.operations();
    // The batch is written, and synced after that.
    disk.crash_at(begun + 1);
    assert!(driver.store.flush().is_err());
    assert_eq!(disk.trace().last().unwrap().kind, OperationKind::Sync);
    Life::ended(driver, Progress::Stopped)
}

/// When a segment was put to use last, and its file.
fn begun_last(disk: &SimDisk) -> (u64, FileName) {
    let trace = disk.trace();
    let begins = |step: &Operation| {
        step.kind == OperationKind::Write
            && step.offset == 0
            && step.length < 64 << 10
            && step.file != Some(FileName::Superblock)
    };
    let at = trace.iter().rposition(begins).expect("a segment was put to use");
    (at as u64, trace[at].file.unwrap())
}

/// A tail that one recovery wrote again and the next did not find is gone for good.
#[test]
fn a_batch_of_a_recovery_that_was_cut_off_is_never_replayed() {
    for seed in 0..12 {
        let world = World::new(seed);
        let disk = SimDisk::new(seed);
        let driver = create(&world, &disk);
        // All before the tail is known to be durable, so that no other tail is written again.
        driver.store.checkpoint().unwrap();
        let life = commit_and_crash(driver, &disk, 7);

        // A process that reads the tail writes it to a new segment, but the power is lost at the sync.
        let first = disk.after_kill();
        drop(world.open(&first, false).unwrap());
        let (written, file) = begun_last(&first);
        let first = disk.after_kill();
        first.crash_at(written + 1);
        assert!(world.open(&first, false).is_err());
        // The tail itself is lost, and so is the header of the new segment, but not its batch.
        let second = first.after_crash(Survival::Nothing);
        let kept = first.after_crash(Survival::Everything).contents(file).unwrap();
        second.change(file, |bytes| bytes[4096..].copy_from_slice(&kept[4096..]));

        // The next process opens without the tail, and loses its power in its first flush, ...
        let driver = world.recover(&second, &life, Chance::from_seed(2)).unwrap();
        let life = commit_and_crash(driver, &second, 8);
        assert_eq!(begun_last(&second).1, file, "the test is about a file that is used again");
        // ... which keeps the header this time, and not the batch.
        let third = second.after_crash(Survival::Nothing);
        let kept = second.after_crash(Survival::Everything).contents(file).unwrap();
        third.change(file, |bytes| bytes[..4096].copy_from_slice(&kept[..4096]));
        world
            .recover(&third, &life, Chance::from_seed(3))
            .unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
    }
}

/// Of a segment that the cleaner began, nothing is left that could be taken for what is there next.
#[test]
fn a_segment_of_survivors_without_a_header_is_not_gone_on_with() {
    let clean = |world: &World, disk: &SimDisk, crash_at: Option<u64>| {
        let mut driver = create(world, disk);
        // Two victims, of each of which a little is live.
        for round in 0..3 {
            for page in (1..40).filter(|page| round == 0 || page % 9 != 0) {
                driver.put(&name("a"), PageNo(page), round).unwrap();
                driver.store.flush().unwrap();
            }
        }
        driver.store.checkpoint().unwrap();
        // The log goes on to a segment that the checkpoint does not know, so that the next number is that
        // of the cleaner's.
        for page in 1..20 {
            driver.put(&name("a"), PageNo(page), 5).unwrap();
            driver.store.flush().unwrap();
        }
        let begun = disk.operations();
        if let Some(at) = crash_at {
            disk.crash_at(begun + at);
        }
        let cleaned = driver.store.clean();
        let moved = cleaned.as_ref().map_or(0, |cleaned| cleaned.segments);
        (disk.operations() - begun, moved, Life::ended(driver, Progress::Stopped))
    };
    for seed in 0..6 {
        let world = World::new(seed);
        let (operations, moved, _) = clean(&world, &SimDisk::new(seed), None);
        assert!(moved > 1, "{moved} segments were emptied");
        for at in 0..operations {
            let disk = SimDisk::new(seed);
            let (.., life) = clean(&world, &disk, Some(at));
            for survival in [Survival::Headless, Survival::Everything] {
                let what = format!("seed {seed}, power lost at {at}, {survival:?}");
                check(&world, &disk.after_crash(survival), &life, &what);
            }
            // Of what was written to the segment, only what comes later is kept.
            let kept = disk.after_crash(Survival::Everything);
            let (_, file) = begun_last(&disk);
            for block in 1..9 {
                let what = format!("seed {seed}, power lost at {at}, kept from block {block} on");
                let disk = disk.after_crash(Survival::Nothing);
                let kept = kept.contents(file).unwrap();
                disk.change(file, |bytes| {
                    bytes[4096 * block..].copy_from_slice(&kept[4096 * block..]);
                });
                check(&world, &disk, &life, &what);
            }
        }
    }
}

/// The store opens, goes on, and finds no fault with itself.
fn check(world: &World, disk: &SimDisk, life: &Life, what: &str) {
    let check = || -> Result<(), Failure> {
        let mut driver = world.recover(disk, life, Chance::from_seed(2))?;
        driver.put(&name("a"), PageNo(1), 9)?;
        driver.store.flush()?;
        // Opened again, the store writes to another segment, and all of this one is looked at.
        let life = Life::ended(driver, Progress::Going);
        world.recover(&disk.after_kill(), &life, Chance::from_seed(2))?.verify()?;
        Ok(())
    };
    check().unwrap_or_else(|failure| panic!("{what}: {failure}"));
}
