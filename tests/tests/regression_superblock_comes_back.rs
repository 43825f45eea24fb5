//! A process dies amid replacing the superblock, the next one fails to write over the same slot, and the one
//! after that loses its power while it recovers: whichever slot counts then, all that it needs is there.
#![allow(clippy::unwrap_used, reason = "it is a test")]

use lapidary_engine::FileName;
use lapidary_tests::chance::Chance;
use lapidary_tests::driver::Tolerated;
use lapidary_tests::sim_disk::{Fault, Operation, OperationKind, SimDisk, Survival};
use lapidary_tests::world::{Life, World};

/// Chosen from some hundred: lives that would lose something if recovery settled nothing.
const SEEDS: [u64; 3] = [3, 4, 13];

fn live(seed: u64, disk: &SimDisk) -> Life {
    let chance = Chance::from_seed(seed ^ 0xabcd);
    World::new(seed).first_life(disk, chance, 40, Tolerated::default()).unwrap()
}

fn superblock_writes(trace: &[Operation]) -> Vec<u64> {
    let is_one = |operation: &Operation| {
        operation.kind == OperationKind::Write && operation.file == Some(FileName::Superblock)
    };
    (0..).zip(trace).filter(|(_, operation)| is_one(operation)).map(|(at, _)| at).collect()
}

/// Operations of an opening of what a killed process left.
fn opening(world: &World, disk: &SimDisk) -> Vec<Operation> {
    let disk = disk.after_kill();
    drop(world.open(&disk, false).unwrap());
    disk.trace()
}

#[test]
fn a_superblock_that_comes_back_finds_what_it_needs() {
    let mut deaths = 0;
    for seed in SEEDS {
        let world = World::new(seed);
        let undisturbed = SimDisk::new(seed);
        live(seed, &undisturbed);
        for at in superblock_writes(&undisturbed.trace()) {
            let disk = SimDisk::new(seed);
            disk.crash_at(at);
            let life = live(seed, &disk);
            if !life.created {
                continue;
            }
            for fails in superblock_writes(&opening(&world, &disk)) {
                let second = disk.after_kill();
                second.fail_at(fails, Fault::Io);
                assert!(world.open(&second, false).is_err(), "seed {seed}: a write fails");
                for during in 0..opening(&world, &second).len() as u64 {
                    let third = second.after_kill();
                    third.crash_at(during);
                    drop(world.open(&third, false));
                    for turn in 0..4 {
                        deaths += 1;
                        let after = third.after_crash(Survival::Random(during << 8 | turn));
                        let recovered = world.recover(&after, &life, Chance::from_seed(0));
                        recovered.unwrap_or_else(|failure| {
                            panic!("seed {seed}, {at}, {fails}, {during}, {turn}: {failure}")
                        });
                    }
                }
            }
        }
    }
    assert!(deaths > 1000, "{deaths}");
}
