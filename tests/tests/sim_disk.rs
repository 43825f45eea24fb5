//! The simulated disk keeps to its fault model, and the same seed gives the same run.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "it is a test")]

use std::collections::BTreeSet;
use std::sync::Arc;

use lapidary_engine::{FileName, FileNo, Io, IoFile};
use lapidary_tests::chance::Chance;
use lapidary_tests::sim_disk::{Fault, OperationKind, SECTOR_BYTES, SimDisk, Survival};
use lapidary_tests::world::{Pace, several_lives};

const FILE: FileName = FileName::Segment(FileNo(1));

/// A disk with a file of four durable sectors of ones.
fn disk() -> (SimDisk, Arc<dyn IoFile>) {
    let disk = SimDisk::new(1);
    disk.create_directory().unwrap();
    let file = disk.create(FILE).unwrap();
    file.write_at(0, &[1; 4 * SECTOR_BYTES]).unwrap();
    file.sync().unwrap();
    disk.sync_directory().unwrap();
    (disk, file)
}

fn first_bytes(disk: &SimDisk) -> Vec<u8> {
    let bytes = disk.contents(FILE).unwrap_or_default();
    bytes.chunks(SECTOR_BYTES).map(|sector| sector[0]).collect()
}

#[test]
fn synced_bytes_and_names_survive_everything() {
    let (disk, _) = disk();
    for seed in 0..50 {
        let after = disk.after_crash(Survival::Random(seed));
        assert_eq!(after.contents(FILE).unwrap(), vec![1; 4 * SECTOR_BYTES]);
    }
}

#[test]
fn unsynced_sectors_are_lost_reordered_and_torn() {
    let (disk, file) = disk();
    file.write_at(0, &[2; 4 * SECTOR_BYTES]).unwrap();
    file.write_at(0, &[3; 4 * SECTOR_BYTES]).unwrap();
    let outcomes: BTreeSet<Vec<u8>> =
        (0..400).map(|seed| first_bytes(&disk.after_crash(Survival::Random(seed)))).collect();
    assert!(outcomes.iter().flatten().all(|byte| (1..=3).contains(byte)));
    assert!(outcomes.iter().any(|sectors| sectors[0] < sectors[1]), "the later sector alone");
    assert!(outcomes.iter().any(|sectors| sectors[0] > sectors[1]), "the earlier sector alone");
    assert!(outcomes.iter().any(|sectors| sectors.contains(&2)), "the older of two writes");
    assert_eq!(first_bytes(&disk.after_crash(Survival::Nothing)), [1; 4]);
    assert_eq!(first_bytes(&disk.after_crash(Survival::Everything)), [3; 4]);
}

#[test]
fn lengths_are_lost_too_and_leave_zeros() {
    let (disk, file) = disk();
    file.write_at(4 * SECTOR_BYTES as u64, &[2; 4 * SECTOR_BYTES]).unwrap();
    let outcomes: BTreeSet<Vec<u8>> =
        (0..400).map(|seed| first_bytes(&disk.after_crash(Survival::Random(seed)))).collect();
    assert!(outcomes.contains(&vec![1; 4]));
    assert!(outcomes.contains(&vec![1, 1, 1, 1, 2, 2, 2, 2]));
    assert!(outcomes.iter().any(|sectors| sectors.len() == 8 && sectors[7] == 0));
    assert!(outcomes.iter().any(|sectors| sectors.len() == 6));
}

#[test]
fn names_need_the_directory_synced() {
    let (disk, file) = disk();
    let other = FileName::Segment(FileNo(2));
    let created = disk.create(other).unwrap();
    created.write_at(0, &[7; 10]).unwrap();
    created.sync().unwrap();
    disk.remove(FILE).unwrap();
    drop(file);
    let lost = disk.after_crash(Survival::Nothing);
    assert_eq!(lost.files(), [FILE]);
    let kept = disk.after_crash(Survival::Everything);
    assert_eq!(kept.files(), [other]);
    assert_eq!(kept.contents(other).unwrap(), [7; 10]);
    disk.sync_directory().unwrap();
    assert_eq!(disk.after_crash(Survival::Nothing).files(), [other]);
}

#[test]
fn a_new_directory_can_vanish_with_all_in_it() {
    let disk = SimDisk::new(1);
    assert!(disk.create(FILE).is_err(), "no directory yet");
    disk.create_directory().unwrap();
    disk.create(FILE).unwrap().sync().unwrap();
    assert!(disk.after_crash(Survival::Nothing).files().is_empty());
    assert!(disk.after_crash(Survival::Nothing).list_segments().is_err());
}

#[test]
fn a_kill_keeps_the_page_cache_and_a_later_power_loss_does_not() {
    let (disk, file) = disk();
    file.write_at(0, &[2; SECTOR_BYTES]).unwrap();
    let killed = disk.after_kill();
    assert_eq!(first_bytes(&killed), [2, 1, 1, 1]);
    assert_eq!(first_bytes(&killed.after_crash(Survival::Nothing)), [1; 4]);
    killed.open(FILE).unwrap().sync().unwrap();
    assert_eq!(first_bytes(&killed.after_crash(Survival::Nothing)), [2, 1, 1, 1]);
}

#[test]
fn a_failed_sync_marks_lost_pages_clean() {
    let mut lost = 0;
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        disk.create_directory().unwrap();
        let file = disk.create(FILE).unwrap();
        disk.sync_directory().unwrap();
        file.write_at(0, &[1; 4 * SECTOR_BYTES]).unwrap();
        file.sync().unwrap();
        file.write_at(0, &[2; 4 * SECTOR_BYTES]).unwrap();
        disk.fail_at(disk.operations(), Fault::Io);
        assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(5));
        file.sync().expect("a second sync pretends that all is well");
        assert_eq!(first_bytes(&disk), [2; 4], "reads go on showing what the disk lacks");
        assert_eq!(first_bytes(&disk.after_kill()), [2; 4]);
        let after = disk.after_crash(Survival::Everything);
        lost += usize::from(first_bytes(&after) != [2; 4]);
        file.write_at(0, &[2; 4 * SECTOR_BYTES]).unwrap();
        file.sync().unwrap();
        assert_eq!(first_bytes(&disk.after_crash(Survival::Nothing)), [2; 4], "written again");
    }
    assert!(lost > 10, "{lost} of 40 failed syncs lost something");
}

#[test]
fn a_full_disk_refuses_growth_only() {
    let (disk, file) = disk();
    disk.set_capacity(Some(4 * SECTOR_BYTES as u64));
    file.write_at(0, &[5; 4 * SECTOR_BYTES]).unwrap();
    let error = file.write_at(4 * SECTOR_BYTES as u64, &[5]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    disk.set_capacity(None);
    disk.fail_at(disk.operations(), Fault::NoSpace);
    file.write_at(0, &[6; 10]).expect("it takes no space");
    disk.fail_at(disk.operations(), Fault::NoSpace);
    assert!(disk.create(FileName::Superblock).is_err());
    assert!(disk.create(FileName::Superblock).is_ok());
}

#[test]
fn power_is_lost_at_the_operation_asked_for() {
    let (disk, file) = disk();
    disk.crash_at(disk.operations() + 1);
    file.write_at(0, &[2; SECTOR_BYTES]).unwrap();
    assert!(!disk.is_stopped());
    assert!(file.write_at(0, &[3; SECTOR_BYTES]).is_err());
    assert!(disk.is_stopped());
    assert!(file.read_at(0, &mut [0; 1]).is_err());
    assert!(file.len().is_err() && disk.inspect().is_err() && file.sync().is_err());
    let writes = |kind| disk.trace().iter().filter(|operation| operation.kind == kind).count();
    assert_eq!((writes(OperationKind::Write), writes(OperationKind::Sync)), (3, 1));
}

#[test]
fn creating_again_empties_and_can_be_lost() {
    let (disk, _) = disk();
    disk.create(FILE).unwrap().write_at(0, &[9; SECTOR_BYTES]).unwrap();
    assert_eq!(first_bytes(&disk), [9]);
    assert_eq!(first_bytes(&disk.after_crash(Survival::Nothing)), [1; 4]);
    assert_eq!(first_bytes(&disk.after_crash(Survival::Everything)), [9]);
}

#[test]
fn one_lock_at_a_time() {
    let (disk, _) = disk();
    let lock = disk.lock().unwrap();
    assert!(lock.is_some() && disk.lock().unwrap().is_none());
    drop(lock);
    assert!(disk.lock().unwrap().is_some());
    assert!(disk.after_kill().lock().unwrap().is_some());
}

#[test]
fn the_same_seed_gives_the_same_run_byte_for_byte() {
    for pace in [Pace::LONG, Pace::SHORT] {
        let run = |seed| several_lives(seed, Chance::from_seed(seed), 4, pace).unwrap();
        for seed in 0..10 {
            assert_eq!(run(seed), run(seed), "seed {seed}");
        }
        assert_ne!(run(1), run(2));
    }
}
