//! Rows in which others fail while commits are in flight: checkpoints, the cleaner.

use std::sync::Mutex;

use lapidary_engine::Io;
use lapidary_tests::hooks::Moment;

use super::*;

/// What is admitted leaves room for the checkpoint that is due, but somebody may take it while the store is
/// closed: here the files that were ready, after a rename that changes much of the catalog.
#[test]
fn checkpoint_without_space_after_opening() {
    let trial = Trial::new(1);
    for chunk in 0..30 {
        for number in 0..64 {
            let facet = format!("old/{chunk:0>100}/{number:0>100}");
            trial.store.create_facet(&name(&facet)).unwrap();
        }
        trial.store.checkpoint().unwrap();
    }
    let ticket = commit(&trial.facet, NEW).unwrap();
    trial.store.rename_facet(&name("old"), &name("new")).unwrap();
    trial.store.wait_durable(ticket).unwrap();

    let disk = trial.sim().after_kill();
    for file in disk.files() {
        if disk.contents(file).unwrap()[0] == 0 {
            disk.remove(file).unwrap();
        }
    }
    // Opening takes one, for the end of the log.
    disk.set_capacity(Some(disk.used_bytes() + (300 << 10)));
    let store = open(&disk);
    let facet = store.open_facet(&name("a")).unwrap();
    let disk = HookedDisk::new(disk);
    let trial = Trial { disk, store, facet, seed: 1 };
    trial.sim().set_capacity(Some(trial.sim().used_bytes()));
    for _ in 0..3 {
        let error = trial.store.checkpoint().unwrap_err();
        assert!(matches!(error, Error::NoSpace { .. }), "{error}");
        let error = commit(&trial.facet, 7).unwrap_err();
        assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    }
    assert_eq!(trial.after_reopening(), [NEW].into());
    trial.sim().set_capacity(None);
    let ticket = commit(&trial.facet, 7).unwrap();
    trial.store.checkpoint().unwrap();
    trial.store.wait_durable(ticket).unwrap();
    assert_eq!(trial.after_reopening(), [7].into());
}

#[test]
fn superblock_write_fails_while_commits_are_in_flight() {
    for moment in [Moment::SuperblockWrite, Moment::SuperblockSync] {
        for seed in SEEDS {
            let trial = Trial::new(seed);
            let cut = commit(&trial.facet, 7).unwrap();
            let late: Arc<Mutex<Option<Ticket>>> = Arc::default();
            let (facet, keep) = (Arc::clone(&trial.facet), Arc::clone(&late));
            trial.disk.before(moment, move |hooked| {
                *keep.lock().unwrap() = Some(commit(&facet, NEW).unwrap());
                hooked.disk.fail_at(hooked.disk.operations(), Fault::Io);
            });
            assert_stop(trial.store.checkpoint());
            let late = late.lock().unwrap().expect("the superblock is written");
            // The checkpoint began with a flush: what was appended by then is acknowledged.
            trial.store.wait_durable(cut).unwrap();
            trial.assert_stopped(late);
            assert_eq!(trial.after_reopening(), [7].into());
        }
    }
}

/// A store whose log is mostly garbage, with something live in each segment.
fn cleanable(seed: u64) -> (Trial, Arc<Facet>) {
    let trial = Trial::new(seed);
    let kept = trial.store.create_facet(&name("kept")).unwrap();
    for byte in 0..40 {
        let mut writer = kept.begin_write_latest().unwrap();
        if writer.page_size().is_none() {
            writer.set_page_size(PageSize::from_bytes(PAGE).unwrap()).unwrap();
        }
        writer.write_page(PageNo(u32::from(byte) + 1), &[byte; PAGE]).unwrap();
        writer.commit(0).unwrap();
        commit(&trial.facet, OLD).unwrap();
        trial.store.flush().unwrap();
    }
    trial.store.checkpoint().unwrap();
    // What the cleaner will take is there, so that it need not make it.
    for _ in 0..6 {
        trial.store.maintain().unwrap();
    }
    (trial, kept)
}

fn assert_kept(disk: &SimDisk) {
    let store = open(disk);
    let snapshot = store.open_facet(&name("kept")).unwrap().snapshot(View::Durable).unwrap();
    let mut page = [0; PAGE];
    for byte in 0..40 {
        snapshot.read_page(PageNo(u32::from(byte) + 1), &mut page).unwrap();
        assert_eq!(page, [byte; PAGE]);
    }
}

/// The cleaner fails at `moment`, with a commit appended and not flushed.
fn with_failing_cleaner(moment: Moment) {
    for seed in SEEDS.take(10) {
        let (trial, _kept) = cleanable(seed);
        let ticket = commit(&trial.facet, NEW).unwrap();
        trial.disk.before(moment, |hooked| {
            hooked.disk.fail_at(hooked.disk.operations(), Fault::Io);
        });
        assert_stop(trial.store.clean());
        assert!(!trial.disk.is_armed());
        trial.assert_stopped(ticket);
        assert_eq!(trial.after_reopening(), [OLD].into());
        assert_kept(&trial.sim().after_kill());
        assert_kept(&trial.sim().after_crash(Survival::Random(seed)));
    }
    let (trial, _kept) = cleanable(1);
    assert!(trial.store.clean().unwrap().moved_bytes > 0, "there is something to clean");
}

#[test]
fn cleaner_write_fails() {
    with_failing_cleaner(Moment::SegmentWrite);
}

#[test]
fn cleaner_sync_fails() {
    with_failing_cleaner(Moment::SegmentSync);
}
