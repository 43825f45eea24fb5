//! The sync of a new segment file fails, and the kernel takes its length for written: the next process sees
//! all of the file, the disk has the beginning. Recovery makes such a file ready, and must not put it to use
//! as it is: if its header then reaches the disk before its length, the store no longer opens.
//!
//! Found by `engine_crash random_lives`, seed 7068969382451505203.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "it is a test")]

use lapidary_engine::PageNo;
use lapidary_tests::chance::Chance;
use lapidary_tests::driver::{Driver, Progress, Tolerated, name};
use lapidary_tests::sim_disk::{Operation, OperationKind, SimDisk, Survival};
use lapidary_tests::world::{Life, World};

/// Commits to the facet until `enough`, or until the store stops.
fn commit(driver: &mut Driver, enough: impl Fn(&Driver) -> bool) {
    let mut number = 0;
    while !enough(driver) {
        number += 1;
        let put = driver.put(&name("a"), PageNo(1 + number % 30), 7);
        if put.is_err() || driver.store.flush().is_err() {
            return;
        }
    }
}

#[test]
fn a_length_that_a_failed_sync_lost_is_written_again() {
    let (mut lost, mut used) = (0, 0);
    for seed in 0..40 {
        let world = World::new(seed);
        let run = |disk: &SimDisk| {
            let store = world.open(disk, true).unwrap();
            let mut driver = Driver::new(store, world.model(), disk.clone(), Chance::from_seed(1));
            driver.tolerated = Tolerated { io: true, no_space: false };
            driver.create_named(&name("a")).unwrap();
            driver.store.flush().unwrap();
            let _ = driver.store.maintain();
            Life::ended(driver, Progress::Stopped)
        };
        let undisturbed = SimDisk::new(seed);
        drop(run(&undisturbed));
        // The sync that follows the creation of the last file.
        let trace = undisturbed.trace();
        let created = trace.iter().rposition(|step| step.kind == OperationKind::Create).unwrap();
        let file = trace[created].file.unwrap();
        let sync =
            (created..trace.len()).find(|&at| trace[at].kind == OperationKind::Sync).unwrap();
        let disk = SimDisk::new(seed);
        // Nor can the file be removed.
        disk.fail_from(sync as u64);
        let life = run(&disk);
        let disk = disk.after_kill();
        let seen = disk.contents(file).map_or(0, |bytes| bytes.len());
        let kept = disk.after_crash(Survival::Everything).contents(file).map_or(0, |b| b.len());
        lost += u32::from(kept < seen);

        // The next process comes to use the file, and dies as it writes the header.
        let begun = |disk: &SimDisk| {
            let begins = |step: &Operation| {
                step.kind == OperationKind::Write && step.file == Some(file) && step.offset == 0
            };
            disk.trace().iter().position(begins).map(|at| at as u64)
        };
        let next = |disk: &SimDisk| {
            let Ok(store) = world.open(disk, false) else { return life.clone() };
            let model = life.model.check_recovered(&store).unwrap();
            let mut driver = Driver::new(store, model, disk.clone(), Chance::from_seed(2));
            driver.tolerated = Tolerated { io: true, no_space: false };
            commit(&mut driver, |_| begun(disk).is_some() || disk.operations() > 2000);
            Life::ended(driver, Progress::Stopped)
        };
        let undisturbed = disk.after_kill();
        drop(next(&undisturbed));
        let Some(begun) = begun(&undisturbed) else { continue };
        used += 1;
        let disk = disk.after_kill();
        disk.crash_at(begun);
        let life = next(&disk);
        for survival in [Survival::Everything, Survival::Random(seed), Survival::Random(!seed)] {
            let after = disk.after_crash(survival);
            world
                .recover(&after, &life, Chance::from_seed(3))
                .unwrap_or_else(|failure| panic!("seed {seed}, {survival:?}: {failure}"));
        }
    }
    assert!(lost > 5 && used > 5, "{lost} failed syncs lost a length, {used} files were used");
}
